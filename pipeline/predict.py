"""Masks for your own photographs from a finished model. For users; not a stage of the workflow.

    python -m pipeline.predict results/demo/seed0/.../ce/model.json photos/ --out masks/

Writes masks/<photo>.png (mode P, pixel = class id, at the photograph's own size, upright as its EXIF says),
masks/overlays/<photo>.jpg to look at, and masks/predict.json with the class names and how the masks were made. With
--to, also what annotation tools read (docs/formats.md), written at the end from the masks that lie there.
With --to geotiff or geojson: label maps and polygons of rasters of any size (docs/rasters.md).
Subfolders are kept, also behind links; hidden files are left alone. A photo whose mask is there is skipped; a picture
that cannot be read, or has a format that is not, is named at the end (exit code 1), the others are done. Photographs
are never written to.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.annotations import export, geo
from pipeline.annotations.labelled import About
from pipeline.core import cli, show, store
from pipeline.core.durable import write_atomic
from pipeline.core.job import InputError
from pipeline.core.processes import in_batches
from pipeline.datasets import rasters
from pipeline.datasets.files import printable
from pipeline.datasets.photos import Photo, class_ids, find_photos
from pipeline.datasets.pictures import read_photograph, reason
from pipeline.datasets.possible import possible_classes
from pipeline.datasets.summary import LINES, grouped
from pipeline.kinds import classes
from pipeline.kinds.pixels import reduced

RECORD = "predict.json"
MOST = 8  # photographs in a batch: twice as many are held, at their own size


@dataclass(frozen=True)
class Opened:
    """A photograph as read, uint8 [H,W,3], as the network gets it, uint8 [h,w,3], and which classes are possible, bool
    [C] (None: all)."""

    photo: Photo
    rgb: np.ndarray
    small: np.ndarray
    possible: np.ndarray | None


def network_of(args: argparse.Namespace, artifact: store.Artifact) -> Any:
    device, precision = cli.pick_compute(args.device, args.precision)
    from pipeline.networks.door import open_network

    cli.limit_threads(args.threads)
    return open_network(artifact, device, precision, args.scales, args.flip, args.steps)


def rows_of(args: argparse.Namespace, artifact: store.Artifact) -> geo.Rows:
    from pipeline.networks.tiles import rows

    return rows(network_of(args, artifact), args.tile, args.overlap)


def masks_of(
    args: argparse.Namespace, artifact: store.Artifact
) -> Callable[[Iterable[Opened]], Iterator[tuple[Opened, np.ndarray | Exception]]]:
    """The function photographs → each with its label map, uint8 [H,W], or with what went wrong."""
    network = network_of(args, artifact)
    from pipeline.networks.pictures import batch_size
    from pipeline.networks.tiles import label_maps

    label = label_maps(network, args.tile, args.overlap, args.crf)
    # Of photographs as they are, whatever their size, one at a time.
    together = min(MOST, batch_size(network.device, args.max_side, args.scales, args.flip)) if args.max_side else 1

    def answer(batch: list[Opened]) -> list[tuple[Opened, np.ndarray | Exception]]:
        try:
            rgb = np.stack([one.small for one in batch])
            known = [one.possible for one in batch if one.possible is not None]
            sizes = [(one.rgb.shape[0], one.rgb.shape[1]) for one in batch]
            found = label(rgb, sizes, np.stack(known) if known else None)
            return list(zip(batch, found, strict=True))
        except Exception as error:  # one must not cost the others
            return [(batch[0], error)] if len(batch) == 1 else [answer([one])[0] for one in batch]

    def alike(one: Opened) -> tuple[tuple[int, ...], bool]:
        return one.small.shape, one.possible is None

    return lambda photos: in_batches(answer, photos, alike, together, ahead=2 * together)


def check_record(args: argparse.Namespace, record: dict[str, Any], photos: Sequence[Photo]) -> None:
    """Refuse to mix masks of two models, of two settings or of two lists of tags in one folder.

    With --overwrite those of the photographs given are made anew; masks of others would then stand under a record that
    is not theirs, so they are refused all the same.
    """
    path = args.out / RECORD
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_text())
    except (RecursionError, ValueError):
        before = {}
    before = before if isinstance(before, dict) else {}
    differing = [key for key, value in record.items() if before.get(key) != value]
    if differing and not args.overwrite:
        raise InputError(
            f"{path}: the masks there were made with another {', '.join(differing)}; "
            "choose another --out, or --overwrite to make all of them anew"
        )
    others = sorted(set(args.out.rglob("*.png")) - {photo.mask for photo in photos})
    if differing and others:
        raise InputError(
            f"{path}: {len(others)} masks there are of other photographs ({others[0]}, …) and were made with another "
            f"{', '.join(differing)}; choose another --out, or delete them"
        )


def run(args: argparse.Namespace) -> dict[Path, str]:
    """Write masks and overlays. Returns the files that failed and why."""
    artifact = store.Artifact(args.model, "model")
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out}: this is a file; name a folder, it is made where there is none")
    if set(args.to) & set(geo.FORMATS):
        return rasters.write(args, artifact, lambda: rows_of(args, artifact))
    names, background = classes.names(artifact), classes.background(artifact)
    photos, refused = find_photos(args.photos, args.out)
    tags = possible_classes(args.tags, names, background) if args.tags else {}
    if args.max_side is None:
        args.max_side = artifact.meta.get("max_side", 0)
    record = {"classes": names, "model": artifact.digest, "scales": args.scales, "flip": args.flip, "crf": args.crf}
    record |= {"max_side": args.max_side, "tags": args.tags and hashlib.sha256(args.tags.read_bytes()).hexdigest()[:32]}
    record |= {"steps": args.steps, "bands": args.bands}
    record |= {key: getattr(args, key) for key in ("tile", "overlap") if getattr(args, key) is not None}
    check_record(args, record, photos)
    about = About(names, background, artifact.digest, args.photos, args.image_url)
    export.check(args.to, args.out, about, ours=(args.out / RECORD).is_file())
    todo = [
        photo
        for photo in photos
        if args.overwrite or not photo.mask.is_file() or (args.overlays and not photo.overlay.is_file())
    ]
    if len(todo) < len(photos):
        print(f"{len(photos) - len(todo)} of {len(photos)} photos have their mask already; --overwrite makes them anew")
    untagged = sum(photo.name not in tags and Path(photo.name).name not in tags for photo in todo) if tags else 0
    if untagged:
        print(f"{untagged} photos are not in {args.tags}: there the network alone decides")
    masks, failed = masks_of(args, artifact), dict(refused)
    if args.overwrite:  # now, not one by one: a run that is stopped must not leave masks of two models behind
        for photo in todo:
            photo.mask.unlink(missing_ok=True)
            photo.overlay.unlink(missing_ok=True)
        if (args.out / RECORD).is_file():
            export.discard(args.out)
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out / RECORD, json.dumps(record, indent=1) + "\n")

    def opened() -> Iterator[Opened]:
        for photo in todo:
            try:
                rgb = read_photograph(photo.path, args.bands)
                small = reduced(rgb, args.max_side) if args.max_side else rgb
            except Exception as error:
                failed[photo.path] = reason(error)
                continue
            yield Opened(photo, rgb, small, tags.get(photo.name, tags.get(Path(photo.name).name)))

    numbers, started = {photo.name: number for number, photo in enumerate(todo, 1)}, time.monotonic()
    for one, labels in masks(opened()):
        photo = one.photo
        try:
            if isinstance(labels, Exception):
                raise labels
            if args.overlays:
                write_atomic(photo.overlay, show.jpeg(show.overlay(one.rgb, labels, background=background)))
            write_atomic(photo.mask, show.palette_png(labels))
            found = ", ".join(names[k] for k in np.unique(labels) if k != background) or "background only"
            took = f"{time.monotonic() - started:.1f} s"
            print(printable(f"{numbers[photo.name]}/{len(todo)}  {photo.name}  {found}  {took}"), flush=True)
        except Exception as error:  # one bad file must not cost the others; all are named at the end
            failed[photo.path] = f"{type(error).__name__}: {error}"
        started = time.monotonic()
    masked = [export.Masked(photo.path, photo.file, photo.mask) for photo in photos]
    said, unusable = export.assemble(args.to, args.out, masked, about, class_ids)
    for line in said:
        print(printable(line), flush=True)
    return failed | unusable


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="manifest of a model, model.json")
    parser.add_argument("photos", type=Path, nargs="+", help="folders (searched with subfolders) or files")
    parser.add_argument("--out", type=Path, required=True, help="folder for masks, overlays/ and predict.json")
    kinds = ["masks", *export.WRITERS, *geo.FORMATS]
    about = f"what to write beside the masks; {', '.join(geo.FORMATS)}: of rasters, in their place"
    parser.add_argument("--to", nargs="+", choices=kinds, default=["masks"], help=about)
    parser.add_argument("--image-url", help="label-studio: where it finds the photographs; default: its local files")
    parser.add_argument("--tags", type=Path, help="CSV with columns image,tags: only these classes are possible")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0], help="relative sizes to average over")
    parser.add_argument("--flip", action="store_true", help="average with the mirror image")
    parser.add_argument("--crf", action="store_true", help="refine with a dense CRF (slow on large pictures)")
    parser.add_argument("--steps", type=int, help="of a model of `dis`: steps of its descent; default: its own number")
    parser.add_argument("--overlays", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--max-side", type=int, help="reduce larger photographs first; default: as in training; 0: never"
    )
    parser.add_argument("--bands", type=int, nargs=3, help="of many, red, green, blue, from 1: data.bands of training")
    parser.add_argument("--tile", type=int, help="pixels: larger pictures in tiles; default: those above 4 MP; 0: none")
    parser.add_argument("--overlap", type=int, help="of tiles, pixels; default: as far as the network looks, if it may")
    parser.add_argument("--overwrite", action="store_true", help="make masks anew that are there already")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--precision", choices=("auto", "bf16", "f32"), default="auto")
    parser.add_argument("--threads", type=cli.threads, default=cli.usable_cores())
    args = parser.parse_args(argv)
    if any(not 0 < scale <= 8 for scale in args.scales):
        parser.error(f"--scales {args.scales}: numbers above 0, at most 8, expected")
    if args.steps is not None and args.steps < 0:
        parser.error(f"--steps {args.steps}: 0 or more expected")
    if args.image_url is not None and "label-studio" not in args.to:
        parser.error(f"--image-url {args.image_url}: --to label-studio expected, no other format holds addresses")
    for name in ("max_side", "tile", "overlap"):
        if (getattr(args, name) or 0) < 0:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: 0 or more expected")
    if args.crf and args.tile:
        parser.error(f"--tile {args.tile}: the CRF sees a picture whole; leave one of both out")
    failed: dict[Path, str] = {}
    cli.guarded(lambda: failed.update(run(args)))
    if failed:
        print(f"\n{len(failed)} file(s) could not be done:")
        root = args.photos[0].parent if len(args.photos) == 1 else None
        for line in grouped([printable(f"{path}: {reason}") for path, reason in failed.items()], LINES, root):
            print(f"  {line}")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
