"""Rasters to predict: TIFFs of any size, with or without a place on Earth. What is made of them: annotations/geo.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.annotations import geo
from pipeline.core import store
from pipeline.core.job import InputError
from pipeline.datasets.files import printable, see
from pipeline.kinds import classes

SUFFIXES = (".tif", ".tiff")


def write(args: argparse.Namespace, artifact: store.Artifact, rows: Callable[[], geo.Rows]) -> dict[Path, str]:
    """Of `pipeline.predict --to geotiff | geojson`: predict, and write what is asked for. Returns the files that failed
    and why. rows: opens the network."""
    refuse_options(args)
    geo.rasterio()
    names, background = classes.names(artifact), classes.background(artifact)
    found = find(args.photos, args.out)
    side = artifact.meta.get("max_side")
    learnt = f"; the model learnt from photographs of at most {side} px, objects as large there are what it knows"
    print(f"{len(found)} raster(s), at their own resolution{learnt if side else ''}", flush=True)
    record = {"classes": names, "model": artifact.digest, "scales": args.scales, "flip": args.flip}
    record |= {"steps": args.steps, "tile": args.tile, "overlap": args.overlap}
    return geo.write_all(found, args.to, rows(), record, names, background, args.overwrite, say)


def say(line: str) -> None:
    print(printable(line), flush=True)


def refuse_options(args: argparse.Namespace) -> None:
    """Raise InputError for what rasters cannot have."""
    if others := [name for name in args.to if name not in geo.FORMATS]:
        raise InputError(
            f"--to {' '.join(args.to)}: {' and '.join(geo.FORMATS)} are written of rasters, {', '.join(others)} of "
            "photographs; run one after the other"
        )
    for option, given, instead in (
        ("--crf", args.crf, "it sees a whole picture at once; leave it out"),
        ("--tags", args.tags, "a raster is not tagged as a photograph is; leave it out"),
        ("--max-side", args.max_side, "they are predicted at their own resolution; reduce them first (gdalwarp -tr)"),
    ):
        if given:
            raise InputError(f"--to {' '.join(args.to)}: {option} is for photographs: {instead}")


def find(sources: Sequence[Path], out: Path) -> list[geo.Raster]:
    """The TIFFs among these files and below these folders, without what lies in `out`. What else lies there is printed.

    Raises InputError when there are none, when two would share a result, or a result would replace one of them.
    """
    found: dict[str, geo.Raster] = {}
    for source in sources:
        if not source.exists():
            raise InputError(f"{source}: no such file or folder")
        if source.is_dir():
            seen = see(source, SUFFIXES, out)
            for note in seen.notes(source):
                print(note, flush=True)
            named = [(path.relative_to(source).with_suffix("").as_posix(), path) for path in seen.found.values()]
        else:
            named = [(source.stem, source)] if source.suffix.lower() in SUFFIXES else []
        for name, path in named:
            if name in found:
                raise InputError(
                    printable(f"{path} and {found[name].path} would share the result {name}.tif; rename one")
                )
            found[name] = geo.Raster(path, out / f"{name}.tif", out / f"{name}.geojson")
    if not found:
        where = ", ".join(map(str, sources))
        raise InputError(printable(f"{where}: no rasters found ({', '.join(SUFFIXES)} expected)"))
    originals = {raster.path.resolve() for raster in found.values()}
    for raster in found.values():
        if raster.labels.resolve() in originals:
            raise InputError(printable(f"--out {out}: {raster.labels} is one of the rasters; choose another folder"))
    return list(found.values())
