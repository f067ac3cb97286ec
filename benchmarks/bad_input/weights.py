"""Foreign files of weights, which `init` opens: pickles that bring code, other networks', damaged, none at all."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bad_input.case import CANARY, HANDLED, Case, Command, stage
from benchmarks.bad_input.drawn import write

FILE = r"weights\.pth: "


class Payload:
    """Unpickled without care, it touches a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {CANARY}",)


@cache
def sound() -> dict[str, Any]:
    """Weights that torchvision's resnet18 would have, small numbers of a fixed draw."""
    import torch
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return dict(resnet18(weights=None).state_dict())


def init(backbone: str = "resnet18") -> Command:
    settings = {"method": "imagenet", "backbone": backbone, "file": "weights.pth"}
    return stage("init", "--settings", json.dumps(settings))


def file(content: Callable[[], bytes]) -> Callable[[Path], Command]:
    def build(at: Path) -> Command:
        write(at / "weights.pth", content())
        return init()

    return build


def saved(value: Callable[[], Any], **options: Any) -> Callable[[Path], Command]:
    """What torch.save makes of this."""

    def content() -> bytes:
        import torch

        kept = io.BytesIO()
        torch.save(value(), kept, **options)
        return kept.getvalue()

    return file(content)


def but(**changes: Any) -> Callable[[], dict[str, Any]]:
    """Sound weights with changes; None leaves a name out."""

    def value() -> dict[str, Any]:
        state = {**sound(), **{name.replace("__", "."): change for name, change in changes.items()}}
        return {name: tensor for name, tensor in state.items() if tensor is not None}

    return value


def is_folder(at: Path) -> Command:
    (at / "weights.pth").mkdir()
    return init()


def is_pipe(at: Path) -> Command:
    os.mkfifo(at / "weights.pth")
    return init()


def zip_bomb() -> bytes:
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**28))
    return kept.getvalue()


def out_of_the_archive() -> bytes:
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w") as archive:
        archive.writestr(f"../../{CANARY}", b"x")
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return kept.getvalue()


def tensors() -> dict[str, Any]:
    """Changes that are tensors, made when they are asked for."""
    import torch

    return {
        "shape": torch.zeros(8, 3, 7, 7),
        "nan": torch.full((64, 3, 7, 7), torch.nan),
        "complex": torch.zeros(64, 3, 7, 7, dtype=torch.complex64),
        "sparse": torch.zeros(64, 3, 7, 7).to_sparse(),
        "scalar": torch.tensor(0.0),
        "half": torch.zeros(64, 3, 7, 7, dtype=torch.float16),
        "meta": torch.zeros(64, 3, 7, 7, device="meta"),
    }


def first(kind: str) -> Callable[[Path], Command]:
    """Sound weights but for the first layer's."""
    return saved(lambda: but(conv1__weight=tensors()[kind])())


TORCH = "not a file of tensors written by torch.save"
CASES = [
    Case("weights: sound ones", saved(but()), HANDLED),
    Case("weights: a pickle that brings code", file(lambda: pickle.dumps(Payload())), says=(f"{FILE}{TORCH}",)),
    Case(
        "weights: code inside what torch.save makes",
        saved(lambda: {"conv1.weight": Payload()}),
        says=(f"{FILE}{TORCH}",),
    ),
    Case(
        "weights: the same, of an old torch",
        saved(lambda: [Payload()], _use_new_zipfile_serialization=False),
        says=(f"{FILE}{TORCH}",),
    ),
    Case(
        "weights: code in protocol 0",
        file(lambda: f"cos\nsystem\n(S'touch {CANARY}'\ntR.".encode()),
        says=(f"{FILE}{TORCH}",),
    ),
    Case("weights: code beside sound weights", saved(but(extra=Payload())), says=(f"{FILE}{TORCH}",)),
    Case("weights: empty", file(lambda: b""), says=(FILE,)),
    Case("weights: noise", file(lambda: np.random.default_rng(0).bytes(9999)), says=(f"{FILE}{TORCH}",)),
    Case("weights: a page of HTML", file(lambda: b"<html>404</html>"), says=(f"{FILE}{TORCH}",)),
    Case(
        "weights: numpy's",
        file(lambda: (lambda f: (np.savez(f, a=np.zeros(3)), f.getvalue())[1])(io.BytesIO())),
        says=(f"{FILE}{TORCH}",),
    ),
    Case("weights: a zip that unpacks to 256 MB", file(zip_bomb), says=(f"{FILE}{TORCH}",)),
    Case("weights: a zip with a path out of it", file(out_of_the_archive), says=(FILE,)),
    Case("weights: a folder", is_folder, says=(f"{FILE}no such weights file",)),
    Case("weights: a pipe", is_pipe, says=(f"{FILE}no such weights file",)),
    Case("weights: none", lambda at: init(), says=(f"{FILE}no such weights file",)),
    Case("weights: a list", saved(lambda: [1, 2]), says=(f"{FILE}a state dict .* is expected",)),
    Case(
        "weights: inside another dict",
        saved(lambda: {"state_dict": sound(), "epoch": 3}),
        says=(r"state_dict\(\). alone",),
    ),
    Case("weights: keys that are no names", saved(lambda: {1: next(iter(sound().values()))}), says=(FILE,)),
    Case(
        "weights: another network's",
        saved(lambda: {"features.0.weight": sound()["conv1.weight"]}),
        says=(f"{FILE}not the weights of resnet18",),
    ),
    Case("weights: a name missing", saved(but(conv1__weight=None)), says=("conv1.weight is missing",)),
    Case(
        "weights: of another shape",
        first("shape"),
        says=(r"conv1\.weight has shape \[8, 3, 7, 7\]; .*\[64, 3, 7, 7\]",),
    ),
    Case("weights: a single number", first("scalar"), says=(r"conv1\.weight has shape \[\]",)),
    Case("weights: not a number", first("nan"), says=(r"conv1\.weight.*nan|not finite|numbers",)),
    Case("weights: complex", first("complex"), says=(r"conv1\.weight.*complex64",)),
    Case("weights: sparse", first("sparse"), says=(r"conv1\.weight.*sparse",)),
    Case("weights: half precision", first("half"), HANDLED),
    Case("weights: without their numbers (meta)", first("meta"), says=(FILE,)),
]
