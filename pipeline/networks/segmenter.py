"""The segmentation network: backbone and head, made from weights and opened from artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.store import Artifact
from pipeline.networks.backbones import HEAD, backbone_meta, trained_backbone
from pipeline.networks.heads import HEADS, Head
from pipeline.networks.states import fill, state_of
from pipeline.networks.trunk import Backbone


class Segmenter(nn.Module):
    """Backbone and head; `forward` gives logits [B,C,H,W] at the input's size."""

    head: Head

    def __init__(self, trunk: Backbone, head: str, classes: int, width: int, stride: int):
        super().__init__()
        self.trunk, self.kind, self.width, self.stride = trunk, head, width, stride
        self.head = HEADS[head](trunk, classes, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = self.trunk.whole(x)
        logits = self.head(self.trunk(x))
        full = F.interpolate(logits.float(), x.shape[2:], mode="bilinear", align_corners=False)
        return full[..., :height, :width]


def segmenter_meta(model: Segmenter, classes: Sequence[str], background: int | None, max_side: int) -> dict[str, Any]:
    """What `load_segmenter` and the door need to know, beside the index. max_side: of the photographs trained on."""
    return {
        **backbone_meta(model.trunk),
        "stride": model.stride,
        "padding": model.trunk.padding,
        "head": model.kind,
        "width": model.width,
        "classes": list(classes),
        "background": background,
        "max_side": max_side,
    }


def load_segmenter(artifact: Artifact) -> Segmenter:
    """The network of a `model` artifact, in eval mode."""
    meta = artifact.meta
    model = Segmenter(trained_backbone(artifact), meta["head"], len(meta["classes"]), meta["width"], meta["stride"])
    fill(model, state_of(artifact), artifact)
    return model.eval()


class Taken(NamedTuple):
    """What a network begins with. said: a sentence on what was taken over, and what not and why. new: names of the
    head's tensors that were not."""

    said: str
    new: frozenset[str]

    def fresh(self, head: nn.Module) -> list[nn.Parameter]:
        """The head's parameters that begin anew: what learns `head_lr` times faster."""
        return [parameter for name, parameter in head.named_parameters() if name in self.new]


def take_over(model: Segmenter, weights: Artifact, classes: Sequence[str] | None = None) -> Taken:
    """Start a network from a `weights` artifact: the backbone, and of a decoder beside it all that fits.

    A head's tensors fit where the head is of the same kind and the tensor has the same name and shape; its class
    scores only where both speak of the same classes (`classes`: the model's).
    Raises ArtifactError when the backbone does not fit.
    """
    state = state_of(weights)
    bare = {name: value for name, value in state.items() if not name.startswith(HEAD)}
    fill(model.trunk, bare, weights)
    said = f"taken over from {weights.path}: the backbone, {model.trunk.name}"
    offered = {name.removeprefix(HEAD): value for name, value in state.items() if name.startswith(HEAD)}
    own = model.head.state_dict()
    if not offered:
        return Taken(f"{said}; it brings no head", frozenset(own))
    if weights.meta.get("head") != model.kind:
        other = f"{said}; not its head, which is {weights.meta.get('head')} where this is {model.kind}"
        return Taken(other, frozenset(own))
    refused: dict[str, str] = {}
    for name, value in offered.items():
        if name not in own:
            refused[name] = "unknown here"
        elif own[name].shape != value.shape:
            refused[name] = f"{list(value.shape)} there, {list(own[name].shape)} here"
        elif name.startswith("score.") and classes is not None and weights.meta.get("classes") != list(classes):
            refused[name] = "of other classes"
        else:
            own[name] = value
    model.head.load_state_dict(own)
    said += f"; {len(offered) - len(refused)} of {len(own)} tensors of the head, {model.kind}"
    if weights.meta.get("stride") not in (None, model.stride):
        said += f" (trained at stride {weights.meta['stride']})"
    reasons = ", ".join(f"{name} ({why})" for name, why in refused.items())
    missing = [name for name in own if name not in offered]
    said += f"; not {reasons}" if refused else ""
    said += f"; new: {', '.join(missing)}" if missing else ""
    return Taken(said, frozenset(name for name in own if name not in offered or name in refused))
