"""Rasters with a place on Earth: GeoTIFFs are read in windows, their label maps written row by row, and vectorised.

`scene.tif` → `scene.tif` in the folder of results: uint8, class ids with VOC's colours, 255 where the raster has no
data; tiled, compressed, with the raster's coordinate system and transform, and how it was made (tag TAGMASK, JSON).
From it, where asked for, `scene.geojson`: a polygon for each connected region of a class but the background, in WGS84
longitude and latitude as RFC 7946 wants it. A TIFF without georeference works, too; its polygons are in pixels, x to
the right and y down from the upper left corner, which is said.

Memory holds some rows; of the polygons all, which is as much as their outlines are long. Needs the extra `geo`.
Legend: H x W the raster in pixels, C classes.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.core import durable
from pipeline.core.job import InputError
from pipeline.core.metrics import VOID
from pipeline.core.show import palette

FORMATS = ("geotiff", "geojson")
BLOCK = 512  # pixels of a side of a tile of the file; rows are written in multiples of it
CACHE = 128  # MB that GDAL may keep of what it has read
TAG = "TAGMASK"
DIGITS = 8  # of longitude and latitude: a millimetre
STEP = 256  # pixels: longer edges get points between, for what is straight on one map is bent on another
Read = Callable[[int, int, int, int], np.ndarray | None]  # top, bottom, left, right → uint8 [h,w,3], or no data
Rows = Callable[[tuple[int, int], Read], Iterator[np.ndarray]]


class Raster(NamedTuple):
    """A TIFF and the files made from it."""

    path: Path
    labels: Path
    polygons: Path


def rasterio() -> Any:
    """The package. Raises InputError where it is not installed."""
    try:
        import rasterio.features
        import rasterio.warp
    except ModuleNotFoundError as error:
        if error.name != "rasterio":
            raise
        raise InputError(
            "--to geotiff and geojson need rasterio, which is not installed: pip install 'tagmask[geo]'"
        ) from None
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio


def write_all(
    rasters: Sequence[Raster],
    to: Sequence[str],
    rows: Rows,
    record: dict[str, Any],
    names: Sequence[str],
    background: int | None,
    overwrite: bool,
    say: Callable[[str], None],
) -> dict[Path, str]:
    """Predict rasters and write what is asked for. Returns those that failed, with the reason. say: for progress.

    rows: size (H, W) and a function that reads a part → the label map in bands of rows. record: how, into the file; a
    file that is there and says the same is taken as it is. Raises InputError when one says something else, or nothing.
    """
    package, failed = rasterio(), dict[Path, str]()
    known = {raster.labels: said_by(package, raster.labels) for raster in rasters if raster.labels.exists()}
    others = [path for path, said in known.items() if said != record]
    if others and not overwrite:
        raise InputError(
            f"{others[0]} is there already, and was not made by this model in this way; choose another --out, or "
            "--overwrite it"
        )
    for number, raster in enumerate(rasters, 1):
        try:
            with package.Env(GDAL_CACHEMAX=CACHE * 2**20), package.open(raster.path, driver="GTiff") as source:
                where = f"{number}/{len(rasters)}  {raster.path.name}, {source.width}×{source.height}"
                if overwrite or raster.labels not in known:
                    raster.polygons.unlink(missing_ok=True)
                    write_labels(package, source, raster.labels, rows, record)
                    say(f"{where}  {raster.labels}")
                elif "geojson" not in to or raster.polygons.exists():
                    say(f"{where}  is done already; --overwrite makes it anew")
            if "geojson" in to and not raster.polygons.exists():
                say(f"{where}  {raster.polygons}: {write_polygons(package, raster, names, background)}")
        except Exception as error:  # one bad file must not cost the others; all are named at the end
            expected = isinstance(error, package.errors.RasterioError | ValueError)
            failed[raster.path] = " ".join(f"{'' if expected else type(error).__name__ + ': '}{error}".split())
    return failed


def said_by(package: Any, path: Path) -> Any:
    """The record in a label map; None where it has none."""
    try:
        with package.open(path, driver="GTiff") as file:
            return json.loads(file.tags().get(TAG, "null"))
    except (package.errors.RasterioError, ValueError):
        return None


# ------------------------------------------------------------------------------------------------------ label maps


def write_labels(package: Any, source: Any, out: Path, rows: Rows, record: dict[str, Any]) -> None:
    """The label map of an open raster, as a GeoTIFF."""
    bands, size = colours(source), (source.height, source.width)
    kept = {"crs": source.crs, "transform": source.transform} if georeferenced(source) else {}
    profile = {"driver": "GTiff", "height": size[0], "width": size[1], "count": 1, "dtype": "uint8", "nodata": VOID}
    profile |= {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate"}
    profile |= {"photometric": "palette", "BIGTIFF": "IF_SAFER", **kept}

    full = all(package.enums.MaskFlags.all_valid in flags for flags in source.mask_flag_enums)

    def read(top: int, bottom: int, left: int, right: int) -> np.ndarray | None:
        window = ((top, bottom), (left, right))
        if not full and not source.dataset_mask(window=window).any():
            return None
        return np.ascontiguousarray(np.moveaxis(source.read(bands, window=window), 0, 2))

    with replaced(out) as temporary, package.open(temporary, "w", **profile) as file:
        file.write_colormap(1, dict(enumerate(map(tuple, palette().tolist()))))
        file.update_tags(**{TAG: json.dumps(record)})
        top = 0
        for band in blocks(rows(size, read)):
            window = ((top, top + len(band)), (0, size[1]))
            if not full:
                band = np.where(source.dataset_mask(window=window) == 0, np.uint8(VOID), band)
            file.write(band, 1, window=window)
            top += len(band)


def blocks(bands: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Bands of rows, cut anew: of BLOCK rows, the last of what is left. So no tile of the file is written twice."""
    held = next(bands)
    for band in bands:
        held = np.concatenate([held, band])
        while len(held) > BLOCK:
            yield held[:BLOCK]
            held = held[BLOCK:]
    for top in range(0, len(held), BLOCK):
        yield held[top : top + BLOCK]


def colours(source: Any) -> list[int]:
    """Numbers of the bands that are red, green and blue: those that say so, else the first three; of one band, it alone
    three times. Raises ValueError, with the remedy, where pixels are not of 8 bits or are numbers of a palette."""
    said = [colour.name for colour in source.colorinterp]
    if set(source.dtypes) != {"uint8"}:
        found = ", ".join(sorted(set(source.dtypes)))
        raise ValueError(
            f"has {found} pixels, uint8 expected; scale it as the photographs of the training were: "
            "gdal_translate -ot Byte -scale LOW HIGH 0 255 IN OUT"
        )
    if "palette" in said:
        raise ValueError(
            "has pixels that are numbers of colours; make colours of them: gdal_translate -expand rgb IN OUT"
        )
    if {"red", "green", "blue"} <= set(said):
        return [said.index(colour) + 1 for colour in ("red", "green", "blue")]
    shown = [number for number, colour in enumerate(said, 1) if colour != "alpha"]
    return shown[:3] if len(shown) >= 3 else shown[:1] * 3


def georeferenced(source: Any) -> bool:
    return source.crs is not None and not source.transform.is_identity


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A place to write a file to that gets its name once the block is through; after an error all is as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.remove_temporaries(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    durable.sync_folder(path.parent)


# -------------------------------------------------------------------------------------------------------- polygons


def write_polygons(package: Any, raster: Raster, names: Sequence[str], background: int | None) -> str:
    """The GeoJSON of a label map that is written; returns how many polygons in which coordinates."""
    with package.open(raster.labels) as file:
        placed = georeferenced(file)
        count = 0
        with replaced(raster.polygons) as temporary, temporary.open("w") as out:
            out.write('{"type": "FeatureCollection", "model": ' + json.dumps(json.loads(file.tags()[TAG])["model"]))
            out.write("" if placed else ', "coordinates": "pixels, x right and y down from the upper left corner"')
            out.write(', "features": [')
            for number, shape in polygons(package, file):
                if number in (background, VOID) or number >= len(names):
                    continue
                if placed:
                    shape = on_earth(package, shape, file.crs, STEP * max(map(abs, file.res)))
                about = {"class": names[number], "id": number}
                feature = {"type": "Feature", "properties": about, "geometry": shape}
                out.write(("\n" if count == 0 else ",\n") + json.dumps(feature))
                count += 1
            out.write("\n]}\n")
    where = "in WGS84" if placed else "in pixels, for the raster has no georeference"
    return f"{count} polygons {where}"


def polygons(package: Any, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Regions of one value that share edges, in the coordinates of the raster: the value and a GeoJSON polygon."""
    for shape, value in package.features.shapes(package.band(file, 1), connectivity=4, transform=file.transform):
        yield int(value), shape


def on_earth(package: Any, shape: dict[str, Any], crs: Any, step: float) -> dict[str, Any]:
    """A polygon in longitude and latitude, its outer ring counterclockwise and holes clockwise. step: the longest edge
    that stays without points between, in units of its coordinates."""
    dense = {
        "type": "Polygon",
        "coordinates": [divided(np.asarray(ring), step).tolist() for ring in shape["coordinates"]],
    }
    found: dict[str, Any] = package.warp.transform_geom(crs, "EPSG:4326", dense, precision=DIGITS)
    several = found["coordinates"] if found["type"] == "MultiPolygon" else [found["coordinates"]]
    wound = [[turned(ring, hole=number > 0) for number, ring in enumerate(rings)] for rings in several]
    return {"type": found["type"], "coordinates": wound if found["type"] == "MultiPolygon" else wound[0]}


def divided(ring: np.ndarray, step: float) -> np.ndarray:
    """A closed ring [n,2] with points on edges longer than `step`."""
    parts = np.maximum(1, np.ceil(np.abs(np.diff(ring, axis=0)).max(1) / step)).astype(int)
    at = np.concatenate([[0], np.cumsum(parts)])
    return np.stack([np.interp(np.arange(at[-1] + 1), at, ring[:, k]) for k in (0, 1)], 1)


def turned(ring: list[Any], hole: bool) -> list[Any]:
    """A closed ring, counterclockwise where it is no hole."""
    x, y = np.asarray(ring, float).T[:2] - np.asarray(ring[0], float)[:2, None]
    counterclockwise = (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0
    return ring if counterclockwise != hole else ring[::-1]
