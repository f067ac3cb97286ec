"""Which photographs to label next, so that an hour of correcting goes where it helps. For users; outside the workflow.

    python -m pipeline.suggest results/mine/seed0/.../ce/model.json photos/images --labelled photos/masks --out next/

Three things speak for a photograph:

    uncertainty    entropy of the network's class probabilities at a pixel, mean over its pixels, as a share of log C
    disagreement   between what is known to be there (--tags, else what the tag classifier of the model's own recipe
                   says) and what the masks show: the largest difference over the classes, from 0 to 1
    distance       of its features to the nearest photograph that is labelled or was suggested before it: the mean of
                   the backbone's last map, cosine distance

The next one suggested is that with the largest (uncertainty + disagreement, each as its rank among all, from 0 to 1)
times its distance; a greedy choice as of a core-set (Sener and Savarese, ICLR 2018, section 4.2), weighted by what can
be learnt. The weights are ours. Writes next/suggest.csv, their masks as they are now next/<photo>.png, a contact sheet
next/sheet.jpg, and what an annotation tool opens (--to label-studio cvat coco; docs/formats.md), to be corrected there.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.annotations import export
from pipeline.annotations.labelled import About
from pipeline.core import cli, show, store
from pipeline.core.durable import write_atomic
from pipeline.core.job import InputError
from pipeline.datasets.files import MASKS, identity, printable, see
from pipeline.datasets.photos import Photo, class_ids, find_photos
from pipeline.datasets.pictures import read_photograph, reason
from pipeline.datasets.possible import possible_classes
from pipeline.datasets.tables import read_list
from pipeline.kinds import classes
from pipeline.kinds.pixels import reduced

if TYPE_CHECKING:
    from pipeline.networks.classifier import Classifier
    from pipeline.networks.door import Network

LIST = "suggest.csv"
RECORD = "predict.json"  # which value of the masks is which class, as `predict` says it
SHOWN = 0.005  # share of the pixels whose mean probability tells whether a class is in a mask: the surest of them
TILE, ACROSS = 240, 6  # of the contact sheet: pixels, and photographs in a row


@dataclass(frozen=True)
class Seen:
    """What a network and a classifier think of a photograph. feature: float32 [D], of length 1."""

    photo: Photo
    uncertainty: float
    disagreement: float
    feature: np.ndarray


# ---------------------------------------------------------------------------------------------------------- choice


def ranks(values: Sequence[float]) -> np.ndarray:
    """Each value's place among all, float64 [N]: 0 the smallest, 1 the largest; equal ones share theirs."""
    array = np.asarray(values, np.float64)
    order = np.searchsorted(np.sort(array), array, "left") + np.searchsorted(np.sort(array), array, "right")
    return (order - 1) / 2 / max(len(array) - 1, 1)


def choose(worth: np.ndarray, features: np.ndarray, known: np.ndarray, count: int) -> tuple[list[int], list[float]]:
    """Indices of the suggested, best first, and the distance of each from what was there before it.

    worth: float [N], at least 0. features: float [N,D] of length 1; known: float [K,D], of what is labelled already.
    """
    nearest = 1 - (features @ known.T).max(1) if len(known) else np.ones(len(features))
    free, chosen, distances = np.ones(len(features), bool), list[int](), list[float]()
    for _ in range(min(count, len(features))):
        value = np.where(free, worth * np.maximum(nearest, 0), -1)
        best = int(value.argmax())
        chosen.append(best)
        distances.append(float(max(nearest[best], 0)))
        free[best] = False
        nearest = np.minimum(nearest, 1 - features @ features[best])
    return chosen, distances


def entropy(probabilities: np.ndarray) -> float:
    """float32 [C,h,w] → mean over the pixels, 0 (sure everywhere) to 1 (every class as likely)."""
    logs = np.log(np.maximum(probabilities, 1e-12))
    return float(-(probabilities * logs).sum(0).mean() / np.log(len(probabilities)))


def in_mask(probabilities: np.ndarray) -> np.ndarray:
    """How sure the masks are that a class is there, float [C]: its mean probability where it is largest."""
    flat = probabilities.reshape(len(probabilities), -1)
    most = max(1, round(SHOWN * flat.shape[1]))
    return np.partition(flat, -most, axis=1)[:, -most:].mean(1)


# ---------------------------------------------------------------------------------------------------------- looking


def classifier_of(model: Path) -> Path | None:
    """The tag classifier nearest above a model in its recipe; None where it learnt from no tags."""
    return next(
        (folder / "classifier.json" for folder in model.parents if (folder / "classifier.json").is_file()), None
    )


def looked_at(
    photos: Iterable[Photo],
    network: Network,
    classifier: Classifier | None,
    tags: dict[str, np.ndarray],
    max_side: int,
    bands: Sequence[int] | None,
    precision: str,
    failed: dict[Path, str],
) -> Iterator[Seen]:
    """Each photograph that can be read, once; the others go to `failed`."""
    import torch

    from pipeline.networks.classifier import tag_scores
    from pipeline.networks.pictures import to_tensor

    model = network.model  # type: ignore[attr-defined]  # all doors have one, on a backbone
    trunk = getattr(model, "trunk", None) or model.segmenter.trunk
    for photo in photos:
        try:
            rgb = read_photograph(photo.path, bands)
        except Exception as error:
            failed[photo.path] = reason(error)
            continue
        small = reduced(rgb, max_side) if max_side else rgb
        found = network.probabilities(small[None])[0].float().cpu().numpy()
        with torch.no_grad():
            x = to_tensor(small[None]).to(network.device)
            feature = trunk(trunk.whole(x))[-1].float().mean((2, 3))[0].cpu().numpy()
        said = tags.get(photo.name, tags.get(Path(photo.name).name))
        apart = 0.0
        if said is not None:
            objects = np.arange(len(found)) != (-1 if network.background is None else network.background)
            apart = float(np.abs(said[objects] - in_mask(found)[objects]).max())
        elif classifier is not None:
            ids = list(classifier.foreground)
            sure = tag_scores(classifier, small[None], device=network.device, precision=precision).sigmoid()
            apart = float(np.abs(sure[0].cpu().numpy() - in_mask(found)[ids]).max())
        yield Seen(photo, entropy(found), apart, feature / max(float(np.linalg.norm(feature)), 1e-12))


def labelled_names(path: Path | None) -> set[str]:
    """Photographs that are labelled: a folder of masks, or a list of names. Raises InputError."""
    if path is None:
        return set()
    if path.is_dir():
        if found := set(see(path, MASKS).found):
            return found
        raise InputError(f"--labelled {path}: no masks in this folder ({', '.join(MASKS)}); name theirs, or a list")
    problems = list[str]()
    names = read_list(path, problems)
    if problems:
        raise InputError("\n  ".join(["--labelled:", *problems]))
    return {identity(name) for name in names}


def suggested_before(out: Path, overwrite: bool) -> list[Path]:
    """What an earlier call left in a folder, to be removed: its list, and its masks, which may have been corrected and
    then go with `overwrite` alone. Raises InputError without it, and where masks are none of ours."""
    if (out / LIST).is_file() and overwrite:
        with (out / LIST).open(newline="") as file:
            return [out / LIST, *(out / f"{row['image']}.png" for row in csv.DictReader(file))]
    if (out / LIST).exists():
        raise InputError(
            f"{out / LIST}: there already, and its masks may have been corrected; choose another --out, or --overwrite"
        )
    if (out / RECORD).exists():
        raise InputError(f"{out}: holds masks of `predict`; choose another --out")
    return []


def run(args: argparse.Namespace) -> dict[Path, str]:
    """Choose, write the list and the sheet. Returns the photographs that could not be used, and why."""
    device, precision = cli.pick_compute(args.device, args.precision)
    from pipeline.networks.classifier import load_classifier
    from pipeline.networks.door import open_network
    from pipeline.networks.states import for_inference

    cli.limit_threads(args.threads)
    artifact = store.Artifact(args.model, "model")
    network = open_network(artifact, device, precision)
    names, background = classes.names(artifact), classes.background(artifact)
    photos, failed = find_photos(args.photos, args.out)
    earlier = suggested_before(args.out, args.overwrite)
    about = About(names, background, artifact.digest, args.photos)
    export.check(args.to, args.out, about, ours=(args.out / RECORD).is_file())
    labelled = labelled_names(args.labelled)
    if labelled and labelled.isdisjoint(photo.name for photo in photos):
        raise InputError(f"--labelled {args.labelled}: names none of these photographs; it names {sorted(labelled)[0]}")
    where = args.classifier or (None if args.tags else classifier_of(args.model))
    classifier = None
    if where is not None:
        made = store.Artifact(where, "classifier")
        if classes.names(made) != names:
            raise InputError(f"{where}: of other classes than {args.model}; name the right one with --classifier")
        classifier = for_inference(load_classifier(made), device)
    tags = possible_classes(args.tags, names, background) if args.tags else {}
    said = f"--tags {args.tags}" if args.tags else f"{where}" if where else "nothing: no --tags, no classifier"
    print(f"compared with the masks: {said}", flush=True)
    max_side = artifact.meta.get("max_side") or 0
    seen = []
    for one in looked_at(photos, network, classifier, tags, max_side, args.bands, precision, failed):
        seen.append(one)
        if len(seen) % 100 == 0:
            print(f"{len(seen)} of {len(photos)} photographs looked at", flush=True)
    free = [one for one in seen if one.photo.name not in labelled]
    if not free:
        raise InputError(f"{len(seen)} photographs and all of them labelled; nothing is left to suggest")
    worth = ranks([one.uncertainty for one in free]) + ranks([one.disagreement for one in free])
    known = np.array([one.feature for one in seen if one.photo.name in labelled])
    order, distances = choose(worth, np.array([one.feature for one in free]), known, args.count)
    chosen = [free[i] for i in order]
    args.out.mkdir(parents=True, exist_ok=True)
    for file in earlier:
        file.unlink(missing_ok=True)
    write_list(args.out, chosen, worth[order], distances)
    tiles = [masked(network, one.photo, max_side, args.bands, background) for one in chosen]
    write_atomic(args.out / RECORD, json.dumps({"classes": names, "model": artifact.digest}, indent=1) + "\n")
    write_atomic(args.out / "sheet.jpg", show.jpeg(contact_sheet(tiles)))
    given = [export.Masked(one.photo.path, one.photo.file, one.photo.mask, 1 - one.uncertainty) for one in chosen]
    lines, unwritten = export.assemble(args.to, args.out, given, about, class_ids)
    for line in lines:
        print(printable(line))
    print(f"\n{len(order)} of {len(free)} unlabelled photographs suggested: {args.out / LIST}, sheet.jpg")
    return failed | unwritten


# ---------------------------------------------------------------------------------------------------------- results


def write_list(out: Path, chosen: Sequence[Seen], worth: np.ndarray, distances: Sequence[float]) -> None:
    """suggest.csv: photographs in order, and why: worth (of both ranks) times distance was the largest left."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["place", "image", "worth", "distance", "uncertainty", "disagreement"])
    for place, (one, value, far) in enumerate(zip(chosen, worth, distances, strict=True), 1):
        numbers = (value, far, one.uncertainty, one.disagreement)
        rows.writerow([place, one.photo.name, *(f"{number:.4f}" for number in numbers)])
    write_atomic(out / LIST, text.getvalue())


def masked(
    network: Network, photo: Photo, max_side: int, bands: Sequence[int] | None, background: int | None
) -> np.ndarray:
    """Write a photograph's mask. Returns it over the photograph, uint8 [TILE,TILE,3], white around it."""
    from pipeline.networks.door import predict_labels

    rgb = read_photograph(photo.path, bands)
    labels = predict_labels(network, reduced(rgb, max_side) if max_side else rgb, (rgb.shape[0], rgb.shape[1]))
    write_atomic(photo.mask, show.palette_png(labels))
    small = reduced(show.overlay(rgb, labels, background=background), TILE)
    tile = np.full((TILE, TILE, 3), 255, np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small
    return tile


def contact_sheet(tiles: list[np.ndarray]) -> np.ndarray:
    """Tiles in order, in rows of ACROSS: uint8 [H,W,3]."""
    across = min(ACROSS, len(tiles))
    tiles = tiles + [np.full((TILE, TILE, 3), 255, np.uint8)] * (-len(tiles) % across)
    return np.concatenate([show.sheet(tiles[i : i + across]) for i in range(0, len(tiles), across)])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.suggest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="manifest of a model, model.json")
    parser.add_argument("photos", type=Path, nargs="+", help="folders (searched with subfolders) or files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the list, the sheet and the masks")
    parser.add_argument("--to", nargs="+", choices=[*export.WRITERS], default=[], help="what annotation tools open")
    parser.add_argument("--count", type=int, default=20, help="how many to suggest")
    parser.add_argument("--labelled", type=Path, help="folder of masks, or list of names, that need no more labels")
    parser.add_argument("--tags", type=Path, help="CSV with columns image,tags: what is known to be there")
    parser.add_argument("--classifier", type=Path, help="manifest of a tag classifier; default: that of the recipe")
    parser.add_argument(
        "--bands", type=int, nargs=3, help="of many, red, green and blue, from 1: data.bands of training"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what was suggested there, and its masks")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--precision", choices=("auto", "bf16", "f32"), default="auto")
    parser.add_argument("--threads", type=cli.threads, default=cli.usable_cores())
    args = parser.parse_args(argv)
    if args.count < 1:
        parser.error(f"--count {args.count}: 1 or more expected")
    failed: dict[Path, str] = {}
    cli.guarded(lambda: failed.update(run(args)))
    if failed:
        print(f"\n{len(failed)} file(s) could not be used:")
        for path, why in failed.items():
            print(f"  {printable(f'{path}: {why}')}")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
