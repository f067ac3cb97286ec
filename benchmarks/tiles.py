"""Memory and seams of large pictures: a GeoTIFF of 20,000 x 20,000 pixels, and tiles against one pass.

    python -m benchmarks.tiles [--side 20000] [--models model.json ...]

The raster is made on the spot (three bands, deflate, UTM): pictures of the built-in set, eight times enlarged, in a
swath from corner to corner, as of a flight; the rest has no data, and tiles of it cost nothing. The network is
EfficientNet-Lite0 under LargeFOV at stride 32 with random weights, whose scores are shifted until every class is shown.
`pipeline.predict --to geotiff geojson` runs as a process of its own; its peak of resident memory is what the system
says (ru_maxrss). Then, on one picture of 2,048 x 1,408, labels of tiles against those of one pass, for the heads with
random weights and for models that are given (--models), whose picture is not enlarged.
Writes docs/results/tiles.json and prints the table of docs/rasters.md. Ten minutes or so on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin

from benchmarks.onnx import commit, random_model
from benchmarks.speed import machine
from pipeline.core import store
from pipeline.datasets.collage import compose
from pipeline.kinds.pixels import resize_nearest
from pipeline.networks import tiles
from pipeline.networks.door import open_network

JSON = Path(__file__).resolve().parents[1] / "docs" / "results" / "tiles.json"
PATCH, ENLARGED = 2048, 8
SEAMS = 1408, 2048  # height, width


def patch(height: int, width: int, enlarged: int) -> np.ndarray:
    """Built-in pictures side by side, uint8 [height,width,3]."""
    h, w = (-(-side // enlarged) for side in (height, width))
    out = np.zeros((h, w, 3), np.uint8)
    cells = [(top, left) for top in range(0, h, 88) for left in range(0, w, 88)]
    for number, (top, left) in enumerate(cells):
        part = compose(1, number)[0][: h - top, : w - left]
        out[top : top + part.shape[0], left : left + part.shape[1]] = part
    return resize_nearest(out, height, width)


def write_raster(path: Path, side: int) -> None:
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    profile |= {"transform": from_origin(500_000, 5_400_000, 0.2, 0.2), "tiled": True, "compress": "deflate"}
    rgb = np.maximum(np.moveaxis(patch(PATCH, PATCH, ENLARGED), 2, 0), 1)
    with rasterio.open(path, "w", interleave="pixel", nodata=0, SPARSE_OK=True, **profile) as file:
        for at in range(0, side, PATCH):
            part = rgb[:, : side - at, : side - at]
            file.write(part, window=((at, at + part.shape[1]), (at, at + part.shape[2])))


def memory(side: int, folder: Path) -> dict[str, Any]:
    """Peak memory and time of `predict` over a raster of side x side."""
    model = random_model(folder / "model.json", "efficientnet_lite0", "largefov", stride=32, width=16)
    scene, out = folder / "scene.tif", folder / "out"
    write_raster(scene, side)
    words = [sys.executable, "-m", "pipeline.predict", str(model), str(scene), "--out", str(out), "--device", "cpu"]
    words += ["--to", "geotiff", "geojson", "--overlap", "128", "--precision", "f32"]
    started = time.perf_counter()
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(done.stdout)
    return {
        "what": "peak memory",
        "size": f"{side} x {side}",
        "share_with_data": round(sum(min(PATCH, side - at) ** 2 for at in range(0, side, PATCH)) / side**2, 3),
        "network": "efficientnet_lite0, largefov, stride 32",
        "tiles": re.findall("tiles of .* overlap by [0-9]+", done.stdout)[0],
        "megabytes": round(peak),
        "seconds": round(seconds),
        "raster_megabytes": round(scene.stat().st_size / 1e6, 1),
        "labels_megabytes": round((out / "scene.tif").stat().st_size / 1e6, 1),
        "polygons": sum(line.startswith('{"type": "Feature"') for line in (out / "scene.geojson").open()),
        "bar": 4096,
        "met": peak < 4096,
        **where(),
    }


def seams(path: Path, weights: str, tile: int | None, overlap: int | None) -> dict[str, Any]:
    """Labels of tiles against those of one pass."""
    artifact = store.Artifact(path, "model")
    network = open_network(artifact)
    rgb = patch(*SEAMS, 1 if weights == "trained" else ENLARGED)
    how = tiles.tiling(network, tile, overlap)
    whole = network.probabilities(rgb[None])[0].argmax(0).numpy()
    found = np.concatenate(list(tiles.label_rows(network, how, SEAMS, tiles.part_of(rgb))))
    return {
        "what": "seams",
        "size": f"{SEAMS[1]} x {SEAMS[0]}",
        "network": f"{artifact.meta['backbone']}, {artifact.meta['head']}, stride {artifact.meta['stride']}",
        "weights": weights,
        "method": artifact.manifest["settings"]["method"],
        "reach": tiles.reach(network),
        "tile": how.tile,
        "overlap": how.overlap,
        "cost": round(how.cost, 2),
        "exact": how.exact,
        "differing_pixels": int((found != whole).sum()),
        "agreement": round(float((found == whole).mean()), 6),
        "classes_shown": len(np.unique(whole)),
        **where(),
    }


def where() -> dict[str, str]:
    return {"commit": commit(), "machine": f"{machine()}, rasterio {rasterio.__version__}"}


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| network | looks as far as | tiles, overlap | work | pixels that differ of 2.9 million |",
        "|---|---|---|---|---|",
    ]
    for one in rows:
        if one["what"] == "seams":
            reach = "everything" if one["reach"] is None else f"{one['reach']} px"
            lines.append(
                f"| {one['network']} ({one['weights']}) | {reach} | {one['tile']}, {one['overlap']} | "
                f"{one['cost']:.1f} | {one['differing_pixels']:,} ({one['agreement']:.3%} alike) |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--models", type=Path, nargs="*", default=[])
    parser.add_argument("--only", choices=("memory", "seams"), help="the other's rows are kept")
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows = json.loads(JSON.read_text()) if JSON.exists() else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.only != "seams":
            rows = [one for one in rows if one["what"] == "seams"]
            rows.insert(0, memory(args.side, folder))
        if args.only != "memory":
            rows = [one for one in rows if one["what"] != "seams"]
            for head, tile, overlap in (
                ("largefov", 1280, 384),
                ("largefov", 1280, 128),
                ("hypercolumn", 1280, 384),
                ("deeplabv3+", 1280, 128),
                ("deeplabv3+", 1280, 384),
            ):
                path = folder / f"{head}.json"
                if not path.exists():
                    random_model(path, "resnet18", head, width=64)
                rows.append(seams(path, "random", tile, overlap))
                print(rows[-1], flush=True)
            rows += [seams(path, "trained", 1280, overlap) for path in args.models for overlap in (128, 384)]
    JSON.write_text("[\n" + ",\n".join(json.dumps(one) for one in rows) + "\n]\n")
    print(table(rows))


if __name__ == "__main__":
    main()
