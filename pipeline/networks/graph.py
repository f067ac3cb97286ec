"""A network as one ONNX graph for other programs: photographs in, probabilities out, whatever their size and number.

All that the door does is part of it: mean colour up to multiples of the stride, normalisation, softmax, and the gate of
`psl`. torch's tracing exporter writes it: numbers that the network computes in Python from the size of a tensor become
constants, so those must not depend on the size. Three do:

- `SameConv2d` and `PlacedMaxPool2d` work out their padding. Photographs are multiples of 32 pixels before they come
  there, and of such sizes the padding is always the same: `settle` writes it down.
- The hypercolumn enlarges maps by the next power of two. From 2 x 2 cells on it is always the same, which TRACED is
  large enough to see; a single cell stays what it is, however far it is enlarged.
- `Prohibitive` cuts cells off by a division that rounds up, of which the exporter makes one that rounds down.

torch's newer exporter (`dynamo=True`, torch 2.14) cannot follow the second, and takes 35 seconds where this takes 1.3.

Legend: B photographs of one size, C classes, F of them foreground, h x w a photograph in pixels.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks.door import Network, ProhibitiveNetwork, SegmenterNetwork
from pipeline.networks.padding import PlacedMaxPool2d, SameConv2d, padding
from pipeline.networks.prohibitive import Prohibitive
from pipeline.networks.segmenter import Segmenter
from pipeline.networks.trunk import STRIDE

INPUT, OUTPUT = "rgb", "probabilities"
OPSET = 18  # onnxruntime 1.14 and later, of February 2023
TRACED = (2, 5 * STRIDE - 10, 6 * STRIDE - 3, 3)  # what the exporter is shown


class Graph(nn.Module):
    """Photographs uint8 [B,h,w,3], RGB, of sides of 32 pixels or more → float32 [B,C,h,w], whose sum over C is 1."""

    def __init__(self, model: nn.Module, answer: Callable[[Tensor], Tensor]):
        super().__init__()
        self.model, self.answer = model, answer

    def forward(self, rgb: Tensor) -> Tensor:
        return self.answer(rgb.permute(0, 3, 1, 2).float())


def graph_of(network: Network) -> Graph:
    """An opened network as a graph, with a copy of its weights. Raises TypeError for one that is no function of the
    photograph alone."""
    if isinstance(network, SegmenterNetwork):
        segmenter: Segmenter = copy.deepcopy(network.model)
        settle(segmenter)
        return Graph(segmenter, lambda x: segmenter(x).softmax(1)).eval()
    if isinstance(network, ProhibitiveNetwork):
        model: Prohibitive = copy.deepcopy(network.model)
        settle(model)
        gate, has_background = network.gate, network.background is not None
        return Graph(model, lambda x: prohibitive(model, gate, has_background, x)).eval()
    raise TypeError(f"{type(network).__name__} cannot be written as a graph")


def prohibitive(model: Prohibitive, gate: float, has_background: bool, x: Tensor) -> Tensor:
    """What `ProhibitiveNetwork.probabilities` says of photographs float32 [B,3,h,w] in one size, not mirrored."""
    height, width = x.shape[2:]
    whole = model.segmenter.trunk.whole(x)
    features = model.segmenter.trunk(whole)
    logits = F.interpolate(model.segmenter.head(features), whole.shape[2:], mode="bilinear", align_corners=False)
    scores = logits[..., :height, :width].softmax(1)
    cell = model.segmenter.stride
    seen = features[-1][..., : (height + cell - 1) // cell, : (width + cell - 1) // cell]
    sure = model.branch(seen).sigmoid()
    passed = (sure >= gate).float()
    ids = torch.arange(len(model.foreground))
    if not has_background:
        passed = torch.maximum(passed, (ids == sure.argmax(1, keepdim=True)).float())
    # Of a class without a tag, the last column: always possible.
    column = [model.foreground.index(k) if k in model.foreground else len(ids) for k in range(scores.shape[1])]
    possible = torch.cat([passed, torch.ones_like(passed[:, :1])], 1)[:, torch.tensor(column), None, None]
    scores = scores * possible
    total = scores.sum(1, keepdim=True)
    return torch.where(total > 0, scores / total, possible / possible.sum(1, keepdim=True))


def settle(model: nn.Module) -> None:
    """Fix the padding of layers that work it out from what they get, in place: that of multiples of the stride."""
    like = torch.empty(1, 1, STRIDE, STRIDE)
    for layer in model.modules():
        if isinstance(layer, SameConv2d):
            pads = padding(like, layer.kernel_size, layer.stride, layer.dilation, layer.start)
            layer.forward = _padded(_convolution(layer), pads)  # type: ignore[assignment,method-assign]
        elif isinstance(layer, PlacedMaxPool2d):
            pads = padding(like, (3, 3), (2, 2), (1, 1), 0)
            layer.forward = _padded(lambda x: F.max_pool2d(x, 3, 2), pads)  # type: ignore[assignment,method-assign]


def _convolution(layer: nn.Conv2d) -> Callable[[Tensor], Tensor]:
    return lambda x: F.conv2d(x, layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups)


def _padded(layer: Callable[[Tensor], Tensor], pads: list[int]) -> Callable[[Tensor], Tensor]:
    return lambda x: layer(F.pad(x, pads))


def onnx_bytes(network: Network) -> bytes:
    """The graph of an opened network as an ONNX model. Input `rgb`, output `probabilities`, as `Graph` has them."""
    graph = graph_of(network)
    axes = {INPUT: {0: "photographs", 1: "height", 2: "width"}, OUTPUT: {0: "photographs", 2: "height", 3: "width"}}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings(action="ignore"):
        file = Path(folder, "graph.onnx")
        torch.onnx.export(
            graph,
            (torch.zeros(TRACED, dtype=torch.uint8),),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes=axes,
        )  # it warns of the constants that are meant
        return file.read_bytes()
