"""Contrastive excitation backprop (c-MWP): a class's share of a score, brought down through the network as probability.

Zhang et al., ECCV 2016 ("Top-down neural attention by excitation backprop"), sections 3.2 and 3.3. A unit hands its
probability to the units below it that excite it, each in proportion to activation times positive weight:

    P(a_j) = sum_i P(a_i) · a_j w⁺_ji / z_i      with z_i = sum_j a_j w⁺_ji

or, for a whole layer whose output would be z = f⁺(x):  P_in = x · Jᵀ (P_out / z),  J the Jacobian of f⁺ at x. This is
the rule of a convolution (J: the transposed convolution with W⁺), of average pooling (shares in proportion to
activation) and of maximum pooling (all to the largest) alike. ReLU, ReLU6 and dropout pass it on unchanged. Biases
excite nothing: BatchNorm is folded into the convolution before (`for_inference`) and its shift dropped.

A residual sum is one more layer of weights 1: it shares between its branches in proportion to their positive parts
(ours; the authors' code hands everything to the branch that computes. The paper's networks have no such sums, its rule
says this, and the maps are better for it: docs/methods/excitation.md has figures).

Mass is conserved but in units that are active by their bias alone (z = 0), where it is lost; how much is reported. In
VGG16 and ResNets there are next to none. A depthwise convolution sees one channel, so in EfficientNet-Lite0 there are
many: three quarters and more are lost on the way down. Its linear bottlenecks are signed, while the rule speaks of
activations >= 0; ours: the positive part is seen.

Legend: B photographs of one size, M pairs of a photograph and a class asked for in it, `owner` the photograph of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.train import autocast
from pipeline.networks.classifier import Classifier
from pipeline.networks.efficientnet import MBConv
from pipeline.networks.padding import SameConv2d, offset, padding
from pipeline.networks.pictures import resized, to_tensor
from pipeline.networks.trunk import SMALLEST

PASSED = nn.ReLU | nn.ReLU6 | nn.Dropout | nn.Dropout2d | nn.Identity
LAYERS = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d


# ------------------------------------------------------------------------------------------------- one layer down


def positive(layer: nn.Module) -> nn.Module:
    """f⁺ of a layer: a convolution with the positive ones of its weights and no bias; a pooling is its own."""
    if not isinstance(layer, nn.Conv2d):
        return layer
    twin = copy(layer)  # shares everything but its parameters
    twin._parameters = {"weight": nn.Parameter(layer.weight.detach().clamp(min=0), requires_grad=False), "bias": None}
    return twin


def down(layer: nn.Module, x: Tensor, mass: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Mass [M,C',h',w'] at the output of f⁺ → at its input x [B,C,h,w]: [M,C,h,w], and the share kept of it, [M].

    Only the positive part of x is seen. Mass may be negative, as a difference; what counts is the sum of |mass|.
    """
    x = x.to(mass.dtype).clamp(min=0)
    z = layer(x)
    inverse = torch.where(z > torch.finfo(z.dtype).tiny, 1 / z, 0)
    x, z, inverse = (of(t, owner) for t in (x, z, inverse))
    s = mass * inverse
    return x * transposed(layer, x, s), share(size(s * z), size(mass), empty=1)


def transposed(layer: nn.Module, x: Tensor, s: Tensor) -> Tensor:
    """Jᵀ s: the Jacobian of f⁺ at x [M,C,h,w] (or [1,C,h,w]), transposed, times s [M,C',h',w']."""
    if not isinstance(layer, nn.Conv2d):
        return torch.func.vjp(layer, x.expand(len(s), -1, -1, -1))[1](s)[0]
    (left, _, top, _), (height, width) = _pads(layer, x), x.shape[2:]
    if not layer.groups == layer.in_channels == layer.out_channels:
        y = F.conv_transpose2d(s, layer.weight, None, layer.stride, 0, 0, layer.groups, layer.dilation)
        return F.pad(y, [-left, width + left - y.shape[3], -top, height + top - y.shape[2]])
    # Depthwise: a convolution with the turned kernel is the same, and on a CPU several times faster.
    s = spread(s, layer.stride)
    below, beside = ((k - 1) * d for k, d in zip(layer.kernel_size, layer.dilation, strict=True))
    s = F.pad(s, [beside - left, width + left - s.shape[3], below - top, height + top - s.shape[2]])
    return F.conv2d(s, layer.weight.flip(2, 3), None, 1, 0, layer.dilation, layer.groups)


def spread(s: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The cells `stride` apart, zeros between them."""
    if stride == (1, 1):
        return s
    out = s.new_zeros(*s.shape[:2], *((n - 1) * step + 1 for n, step in zip(s.shape[2:], stride, strict=True)))
    out[:, :, :: stride[0], :: stride[1]] = s
    return out


def _pads(layer: nn.Conv2d, x: Tensor) -> list[int]:
    """[left, right, top, bottom]."""
    if isinstance(layer, SameConv2d):
        return padding(x, layer.kernel_size, layer.stride, layer.dilation, layer.start)
    assert isinstance(layer.padding, tuple)  # numbers, in every network of ours
    down, right = layer.padding
    return [right, right, down, down]


def of(x: Tensor, owner: Tensor) -> Tensor:
    """What each pair's photograph has, [M,…]; of a single photograph [1,…], which fits all."""
    return x if len(x) == 1 else x[owner]


def size(mass: Tensor) -> Tensor:
    """Sum of |mass| of each pair, [M]."""
    return torch.linalg.vector_norm(mass, 1, dim=(1, 2, 3))


def share(part: Tensor, whole: Tensor, empty: float = 0) -> Tensor:
    """part / whole, `empty` where there is nothing to share."""
    return torch.where(whole > 0, part / whole, empty)


# ------------------------------------------------------------------------------------------------ through networks


def top(last: Tensor, weights: Tensor, owner: Tensor, contrast: bool) -> Tensor:
    """Mass at the last feature map [B,C,h,w] for each pair, [M,C,h,w]; weights: of the pairs' classes, [M,C].

    Global average pooling after the linear layer is one linear layer over channels and positions. contrast: minus the
    mass of the dual class, whose weights are -W; each sums to 1 (section 3.3).
    """
    last = of(last.to(weights.dtype).clamp(min=0), owner)

    def winners(w: Tensor) -> Tensor:
        excited = last * w.clamp(min=0)[:, :, None, None]
        return share(excited, excited.sum((1, 2, 3), keepdim=True))

    return winners(weights) - winners(-weights) if contrast else winners(weights)


class Seen(NamedTuple):
    """What a pass through a network has shown of its modules: the input and the output of each."""

    inputs: dict[nn.Module, Tensor]
    outputs: dict[nn.Module, Tensor]


def seen(stages: Iterable[nn.Module], run: Callable[[], Tensor]) -> tuple[Tensor, Seen]:
    """What `run` returns, and what it has shown of all modules of these stages."""
    found = Seen({}, {})

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.inputs[module], found.outputs[module] = inputs[0], output

    hooks = [module.register_forward_hook(note) for stage in stages for module in stage.modules()]
    try:
        return run(), found
    finally:
        for hook in hooks:
            hook.remove()


def descend(modules: Sequence[nn.Module], mass: Tensor, owner: Tensor, shown: Seen) -> tuple[Tensor, Tensor]:
    """Mass [M,C',h',w'] at the output of the last of these modules → at the input of the first, [M,C,h,w], and the
    share of it that was kept on the way, [M].

    Raises ValueError for a module that no rule is known for.
    """
    kept = mass.new_ones(len(mass))
    for module in reversed(modules):
        if isinstance(module, PASSED):
            continue
        if isinstance(module, LAYERS):
            mass, part = down(positive(module), shown.inputs[module], mass, owner)
        else:
            mass, part = through_branches(module, mass, owner, shown)
        kept = kept * part
    return mass, kept


def through_branches(module: nn.Module, mass: Tensor, owner: Tensor, shown: Seen) -> tuple[Tensor, Tensor]:
    """`descend` for a module that holds others: one after another, or in two branches that are added.

    A sum is a layer of weights 1: its branches share mass in proportion to their positive parts.
    """
    body, *others = branches(module)
    if not others:
        return descend(body, mass, owner, shown)
    shortcut = others[0]
    skipped = (shown.outputs[shortcut[-1]] if shortcut else shown.inputs[module]).to(mass.dtype)
    # ReLU may follow the sum, in place: where it took something away there is no mass.
    computed = (shown.outputs[module] - skipped).clamp(min=0)
    skipped = skipped.clamp(min=0)
    second = mass * of(share(skipped, skipped + computed), owner)
    first = mass - second
    computing, skipping = size(first), size(second)
    first, kept = descend(body, first, owner, shown)
    second, also = descend(shortcut, second, owner, shown)
    return first + second, share(kept * computing + also * skipping, computing + skipping, empty=1)


def branches(module: nn.Module) -> list[list[nn.Module]]:
    """The modules in a module: what computes, and what its output is added to, if anything is; []: the input itself."""
    match module:
        case nn.Sequential():
            return [list(module)]
        case MBConv():
            return [list(module.body), []] if module.residual else [list(module.body)]
        case nn.Module(downsample=None | nn.Sequential() as shortcut):  # torchvision's residual blocks
            body = [child for name, child in module.named_children() if name != "downsample"]
            return [body, [] if shortcut is None else list(shortcut)]
    raise ValueError(
        f"{type(module).__name__} found on the way down; convolutions, poolings, residual blocks, ReLU and dropout "
        "expected (BatchNorm is folded by for_inference)"
    )


def masses(
    model: Classifier, x: Tensor, columns: Tensor, owner: Tensor, *, at: int, contrast: bool, precision: str
) -> tuple[Tensor, Tensor]:
    """Mass of each pair at level `at` of the trunk (1 to 5), summed over channels, [M,h,w]; the share lost, [M].

    x: [B,3,H,W] on the network's device; columns: the score column of each pair, [M]. The pass runs in `precision`,
    the way down in the weights' own. With contrast too, what is lost is a share of what arrives at each layer.
    """
    stages = list(model.trunk.stages[at:])
    with autocast(str(x.device), precision):
        last, shown = seen(stages, lambda: model.trunk(x)[-1])
    mass = top(last, model.score.weight[columns, :, 0, 0], owner, contrast)
    mass, kept = descend(stages, mass, owner, shown)
    return mass.sum(1), (1 - kept).clamp(min=0)


@torch.no_grad()
def excitation(
    model: Classifier,
    rgb: np.ndarray,
    classes: Sequence[Sequence[int] | np.ndarray],
    *,
    at: int,
    contrast: bool,
    grid: int,
    scales: Sequence[float],
    flip: bool,
    device: str,
    precision: str,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Excitation maps of each photograph's class ids, and the share of their mass that was lost: a pair a photograph,
    float32 [T, ceil(h/grid), ceil(w/grid)] in [0,1] and float32 [T] for T classes.

    rgb: uint8 [B,h,w,3]. model: made ready by `for_inference`. Maps are made and placed like class activation maps
    (`activation`): all scales and their mirror images are summed and divided by each class's maximum. A view's mass is
    spread over its cells, so that each view counts the same (ours; the paper has one).
    """
    height, width = rgb.shape[1:3]
    owner = torch.tensor([i for i, ids in enumerate(classes) for _ in ids], device=device, dtype=torch.long)
    columns = torch.tensor([c for ids in classes for c in model.columns(ids)], device=device, dtype=torch.long)
    total = torch.zeros(len(owner), height, width, device=device)
    lost = torch.zeros(len(owner), device=device)
    photographs, off = to_tensor(rgb).to(device), offset(model.trunk, at)
    for scale in scales if len(owner) else ():
        h, w = (max(SMALLEST, round(side * scale)) for side in (height, width))
        x = resized(photographs, h, w)
        for mirrored in (False, True) if flip else (False,):
            view = model.trunk.whole(x.flip(3) if mirrored else x)
            maps, gone = masses(model, view, columns, owner, at=at, contrast=contrast, precision=precision)
            density = (maps.clamp(min=0) * maps[0].numel())[None]
            # Cells → the padded pixels they were made from → the photograph's pixels: no step shifts the map.
            placed = F.interpolate(density, view.shape[2:], mode="bilinear", align_corners=False)
            placed = F.pad(placed, (0, off, 0, off), mode="replicate")[..., off : off + h, off : off + w]
            placed = placed.flip(3) if mirrored else placed
            total += F.interpolate(placed, (height, width), mode="bilinear", align_corners=False)[0]
            lost += gone / (len(scales) * (1 + flip))
    total = F.avg_pool2d(total[:, None], grid, ceil_mode=True, count_include_pad=False)[:, 0]
    total = share(total, total.amax((1, 2), keepdim=True))
    counts = [len(ids) for ids in classes]
    return list(zip(*(np.split(t.cpu().numpy(), np.cumsum(counts)[:-1]) for t in (total, lost)), strict=True))
