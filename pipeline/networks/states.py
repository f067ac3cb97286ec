"""State dicts between networks and artifacts, and networks made ready for inference."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.core.store import Artifact, ArtifactError
from pipeline.kinds import weights


def packed(state: Mapping[str, Tensor]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """A state dict as the arrays and the index of an artifact."""
    return weights.pack({name: tensor.detach().cpu().contiguous().numpy() for name, tensor in state.items()})


def state_of(artifact: Artifact) -> dict[str, Tensor]:
    """The state dict that `packed` stored."""
    return {name: torch.from_numpy(array) for name, array in weights.unpack(artifact).items()}


def fill(module: nn.Module, state: Mapping[str, Tensor], artifact: Artifact) -> None:
    """Load a state dict from an artifact, all of it. Raises ArtifactError when names or shapes differ."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise ArtifactError(
            f"{artifact.path}: its weights do not fit the network its manifest names: {reason}; "
            "it is damaged, delete it with its store and make it again"
        ) from None


Model = TypeVar("Model", bound=nn.Module)


def for_inference(model: Model, device: str) -> Model:
    """The same network on this device, in eval mode and with each BatchNorm folded into the convolution before it.

    Changes the model given. The results differ by rounding alone. Subclasses of BatchNorm stay: some bring an
    activation of their own, which folding would drop.
    """
    for module in list(model.eval().modules()):
        children = list(module.named_children())
        for (first, conv), (second, norm) in pairwise(children):  # in these networks one follows the other
            if isinstance(conv, nn.Conv2d) and type(norm) is nn.BatchNorm2d:
                setattr(module, first, fuse_conv_bn_eval(conv, norm))
                setattr(module, second, nn.Identity())
    return model.to(device)
