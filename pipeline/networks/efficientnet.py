"""EfficientNet-Lite (Tan & Le 2019; Lite: without squeeze-and-excite, ReLU6), as its released weights expect it."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.networks.padding import SameConv2d, undo_strides
from pipeline.networks.trunk import Backbone

LITE = ((127.0,) * 3, (128.0,) * 3)  # EfficientNet-Lite was trained on (x - 127) / 128


class MBConv(nn.Module):
    """Inverted residual without squeeze-and-excite, ReLU6 (EfficientNet-Lite's variant of Tan & Le 2019)."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, expand: int):
        super().__init__()
        wide = cin * expand
        self.residual = stride == 1 and cin == cout
        expansion = [] if expand == 1 else _conv(cin, wide, 1)
        depthwise = _conv(wide, wide, kernel, stride, groups=wide)
        self.body = nn.Sequential(*expansion, *depthwise, *_conv(wide, cout, 1)[:2])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def _conv(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        SameConv2d(cin, cout, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(cout, eps=1e-3, momentum=0.01),
        nn.ReLU6(inplace=True),
    ]


def efficientnet_lite0(stride: int, padding: str) -> Backbone:
    def blocks(cin: int, cout: int, kernel: int, stride: int, count: int, expand: int = 6) -> list[nn.Module]:
        return [MBConv(cin if k == 0 else cout, cout, kernel, stride if k == 0 else 1, expand) for k in range(count)]

    stages = [
        nn.Sequential(*_conv(3, 32, 3, 2), *blocks(32, 16, 3, 1, 1, expand=1)),
        nn.Sequential(*blocks(16, 24, 3, 2, 2)),
        nn.Sequential(*blocks(24, 40, 5, 2, 2)),
        nn.Sequential(*blocks(40, 80, 3, 2, 3), *blocks(80, 112, 5, 1, 3)),
        nn.Sequential(*blocks(112, 192, 5, 2, 4), *blocks(192, 320, 3, 1, 1), *_conv(320, 1280, 1)),
    ]
    net = Backbone("efficientnet_lite0", stages, (16, 24, 40, 112, 1280), LITE, padding)
    return undo_strides(net, stride)
