"""A finished model for other programs: ONNX, or weights as safetensors. For users; not a stage of the workflow.

    python -m pipeline.export results/demo/seed0/.../ce/model.json --to onnx

onnx: model.onnx, one graph that needs nothing but pixels: rgb uint8 [B,h,w,3] → probabilities float32 [B,C,h,w], for
any size and number of photographs. It is run with onnxruntime on photographs (`--photos`, else built-in pictures) and
its label maps are compared with our own, both in float32; below 99.9 % of equal pixels in any nothing is written.
safetensors: model.safetensors with all tensors, and model.config.json with what is needed to build the network.

docs/export.md shows how to use both. Needs the extra `export`: pip install 'tagmask[export]'
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.core import cli, store
from pipeline.core.durable import write_atomic
from pipeline.core.job import InputError
from pipeline.datasets.files import SUFFIXES, printable, see
from pipeline.datasets.pictures import read_photograph, reason
from pipeline.kinds import classes
from pipeline.kinds.pixels import reduced
from pipeline.kinds.weights import unpack

LEAST = 0.999  # share of the pixels of a photograph that both must label alike
CHECKED = 12  # photographs
SIDES = (1.0, 0.8, 0.6)  # of max_side: sizes that they are checked in, by turns
UNKNOWN_SIDE = 512  # pixels, where a model does not say what it was trained on
NARROWEST = 34  # pixels of a shorter side; of what is narrower than 32 our networks see an enlargement


class Checked(NamedTuple):
    """A photograph, the size it was shown in, the share of its pixels labelled alike, and the classes we see there."""

    name: str
    size: tuple[int, int]
    same: float
    shown: frozenset[int]


# ---------------------------------------------------------------------------------------------------------- onnx


def to_onnx(artifact: store.Artifact, out: Path, photos: Path | None) -> None:
    """Write the model as ONNX once it has been compared. Raises InputError where it descends at test time, or the two
    do not agree."""
    onnx = needed("onnx", "onnx")
    runtime = needed("onnxruntime", "onnx")
    from pipeline.networks.door import Descending, open_network
    from pipeline.networks.graph import onnx_bytes

    network = open_network(artifact)
    if isinstance(network, Descending):
        raise InputError(
            f"{artifact.path}: a model of 'dis' goes on from its first answer by descending on each photograph, with "
            "gradients, which no ONNX graph does. Use python -m pipeline.predict; or let `infer` make labels with it, "
            "train `segment` on them, and export that"
        )
    graph = onnx.load_from_string(onnx_bytes(network))
    onnx.helper.set_model_props(graph, about(artifact))
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(network.classes)
    onnx.checker.check_model(graph, full_check=True)
    content = graph.SerializeToString()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = cli.usable_cores()
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found = [compared(network, session, *picture) for picture in shown_sizes(photos, network.max_side)]
    say(found, network.classes)
    worst = min(found, key=lambda one: one.same)
    if worst.same < LEAST:
        raise InputError(
            f"{out} is not written: of {printable(worst.name)} only {worst.same:.3%} of the pixels are labelled as by "
            f"this package, {LEAST:.1%} expected. Where a network is all but undecided, rounding decides: look whether "
            "its masks are of any use, and give other photographs with --photos. Else please report it, with "
            f"{artifact.path}"
        )
    write_atomic(out, content)


def about(artifact: store.Artifact) -> dict[str, str]:
    """What the ONNX file says of itself, each value as JSON."""
    said = {
        "classes": classes.names(artifact),
        "background": classes.background(artifact),
        "max_side": artifact.meta.get("max_side"),
        "model": artifact.digest,
        "method": artifact.manifest["settings"].get("method"),
        "input": "rgb: uint8 [photographs, height, width, 3], RGB, 0 to 255, upright, sides of 32 pixels or more; "
        "reduce photographs whose longer side exceeds max_side to it first, as in training",
        "output": "probabilities: float32 [photographs, class, height, width]; the label is the class of the largest",
    }
    return {key: json.dumps(value, ensure_ascii=False) for key, value in said.items()}


def compared(network: Any, session: Any, name: str, rgb: np.ndarray, small: np.ndarray) -> Checked:
    """One photograph's label map by us and by onnxruntime, at its own size. rgb: uint8 [H,W,3], small: [h,w,3]."""
    import torch

    from pipeline.networks.door import labels_of, predict_labels

    size = rgb.shape[0], rgb.shape[1]
    ours = predict_labels(network, small, size)
    (probabilities,) = session.run(None, {session.get_inputs()[0].name: small[None]})
    theirs = labels_of(torch.from_numpy(probabilities[0]), *size)
    same = float((ours == theirs).mean())
    return Checked(name, (small.shape[0], small.shape[1]), same, frozenset(np.unique(ours).tolist()))


def shown_sizes(photos: Path | None, max_side: int | None) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Photographs, and each as both networks get it: in three sizes by turns, every other one with odd sides."""
    for number, (name, rgb) in enumerate(built_in() if photos is None else photographs(photos)):
        side = (max_side or UNKNOWN_SIDE) * SIDES[number % len(SIDES)]
        small = reduced(rgb, round(max(side, NARROWEST * max(rgb.shape[:2]) / min(rgb.shape[:2]))))
        if number % 2 == 0:
            small = np.ascontiguousarray(small[: (small.shape[0] - 1) | 1, : (small.shape[1] - 1) | 1])
        yield name, rgb, small


def built_in() -> Iterator[tuple[str, np.ndarray]]:
    """Pictures of the built-in data set, all of different sizes."""
    from pipeline.datasets.collage import compose

    for index in range(CHECKED):
        yield f"built-in picture {index}", compose(0, index)[0]


def photographs(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """At most CHECKED of the photographs below a folder, evenly among all."""
    if not folder.is_dir():
        raise InputError(f"--photos {folder}: no such folder")
    found = list(see(folder).found.values())
    if not found:
        raise InputError(f"--photos {folder}: no photographs found ({', '.join(SUFFIXES)} expected)")
    for at in sorted(set(np.linspace(0, len(found) - 1, CHECKED).round().astype(int).tolist())):
        try:
            rgb = read_photograph(found[at])
        except Exception as error:
            raise InputError(printable(f"--photos: {found[at]} {reason(error)}")) from error
        if min(rgb.shape[:2]) < NARROWEST:
            raise InputError(printable(f"--photos: {found[at]} has a side below {NARROWEST} pixels; take it out"))
        yield str(found[at]), rgb


def say(found: list[Checked], names: list[str]) -> None:
    """How far both agree, and what that is worth."""
    worst = min(found, key=lambda one: one.same)
    mean = sum(one.same for one in found) / len(found)
    sizes = sorted({one.size for one in found})
    least, most = (f"{size[1]}×{size[0]}" for size in (sizes[0], sizes[-1]))
    print(
        f"compared with onnxruntime on {len(found)} photographs in {len(sizes)} sizes, {least} to {most}, in float32:"
    )
    print(printable(f"{mean:.4%} of the pixels are labelled alike; worst: {worst.same:.4%} ({worst.name})"))
    seen = frozenset[int]().union(*(one.shown for one in found))
    if len(seen) == 1:
        only = printable(names[next(iter(seen))])
        print(f"but the network shows nothing but '{only}' there, so this proves little; give --photos that show more")


# --------------------------------------------------------------------------------------------------- safetensors


def to_safetensors(artifact: store.Artifact, out: Path) -> None:
    """Write all tensors of a model and, beside them, what builds the network."""
    save = needed("safetensors.numpy", "safetensors").save
    if artifact.kind != "model":
        raise store.ArtifactError(f"{artifact.path}: this is {artifact.kind}, a model is expected")
    said = config(artifact)
    content = save(unpack(artifact), {"config": json.dumps(said)})
    write_atomic(config_file(out), json.dumps(said, indent=1) + "\n")
    write_atomic(out, content)
    print(f"{len(artifact.meta['index'])} tensors; what builds their network is in {config_file(out)}")


def config(artifact: store.Artifact) -> dict[str, Any]:
    """All that the manifest says of the network, and the colours it takes pixels of 0 to 255 by: (rgb - mean) / std."""
    from pipeline.networks.backbones import trained_backbone

    trunk = trained_backbone(artifact)
    said = {key: value for key, value in artifact.meta.items() if key != "index"}
    colours = {key: getattr(trunk, key).double().flatten().round(decimals=3).tolist() for key in ("mean", "std")}
    method = artifact.manifest["settings"].get("method")
    return {"format": "tagmask 1", "method": method, "model": artifact.digest, **said, **colours}


def config_file(out: Path) -> Path:
    return out.with_suffix(".config.json")


# ------------------------------------------------------------------------------------------------------- command


def needed(module: str, to: str) -> Any:
    """A module of the extra `export`. Raises InputError when it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0]
        if error.name != name:
            raise
        raise InputError(f"--to {to} needs {name}, which is not installed: pip install 'tagmask[export]'") from None


def run(args: argparse.Namespace) -> None:
    artifact = store.Artifact(args.model, "model")
    out: Path = args.out or Path(args.model.with_suffix(f".{args.to}").name)
    written = [out, config_file(out)] if args.to == "safetensors" else [out]
    for path in written:
        if path.exists() and (path.is_dir() or not args.overwrite):
            raise InputError(f"{path} is there already; name another --out, or --overwrite it")
        if path.resolve() == args.model.resolve():
            raise InputError(f"--out {out}: {path} is the model's own manifest; name another file")
    if args.to == "onnx":
        cli.limit_threads(cli.usable_cores())
        to_onnx(artifact, out, args.photos)
    else:
        to_safetensors(artifact, out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB", flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="manifest of a model, model.json")
    parser.add_argument("--to", choices=("onnx", "safetensors"), required=True)
    parser.add_argument("--out", type=Path, help="file to write; default: model.onnx or model.safetensors, here")
    parser.add_argument("--photos", type=Path, help="onnx: folder of photographs to compare both on")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    args = parser.parse_args(argv)
    if args.photos and args.to != "onnx":
        parser.error("--photos: only ONNX is compared on photographs")
    cli.guarded(lambda: run(args))


if __name__ == "__main__":
    main()
