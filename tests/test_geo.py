"""Rasters: label maps that lie where the raster lies, polygons in their place on Earth, memory that does not grow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
import rasterio
import rasterio.shutil
from colours import colour_segmenter
from conftest import ENVIRONMENT, ROOT
from rasterio import features, warp
from rasterio.transform import Affine, from_origin
from test_export import Missing
from test_predict import CLASSES, PALETTE, call

from pipeline.annotations import geo
from pipeline.core import store
from pipeline.core.show import palette

UTM = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_400_000, 0.5, 0.5)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It knows its classes by colour."""
    path = tmp_path_factory.mktemp("model") / "model.json"
    return planted.model(path, colour_segmenter(PALETTE), CLASSES, max_side=96).path


def scene(height: int = 384, width: int = 448) -> np.ndarray:
    """A cat with a hole, and a cow: blocks of 32 pixels, class ids [H,W]."""
    labels = np.zeros((height, width), np.uint8)
    labels[32:224, 64:288], labels[96:160, 128:224], labels[256:352, 320:416] = 1, 0, 3
    return labels


def save(path: Path, rgb: np.ndarray, **profile: Any) -> Path:
    """uint8 [H,W,C] as a TIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    h, w, count = rgb.shape
    profile = {"driver": "GTiff", "height": h, "width": w, "count": count, "dtype": rgb.dtype, **profile}
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.moveaxis(rgb, 2, 0))
    return path


def coloured(labels: np.ndarray) -> np.ndarray:
    return np.array(PALETTE, np.uint8)[labels]


def test_a_geotiff_becomes_a_label_map_that_lies_where_it_lies(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in" / "east" / "scene.tif", coloured(scene()), **UTM)
    (tmp_path / "in" / "notes.txt").write_text("no raster")
    tiles = ("--tile", 384, "--overlap", 128)
    assert call(model, tmp_path / "in", "--out", tmp_path / "out", "--to", "geotiff", *tiles) == 0
    said = capsys.readouterr().out
    assert "1 .txt files left out" in said and "photographs of at most 96 px" in said and "tiles of 384 px" in said
    with rasterio.open(tmp_path / "out" / "east" / "scene.tif") as file:
        found = file.read(1)
        assert (file.crs, file.transform, file.dtypes) == (rasterio.CRS.from_epsg(32632), UTM["transform"], ("uint8",))
        assert file.nodata == 255 and file.compression.name == "deflate"
        assert file.block_shapes == [(512, 512)]
        assert [file.colormap(1)[k][:3] for k in range(4)] == [tuple(colour) for colour in palette(4).tolist()]
        about = json.loads(file.tags()[geo.TAG])
    assert about["model"] == store.Artifact(model).digest and about["classes"] == CLASSES
    assert found.shape == (384, 448) and (found == scene()).mean() > 0.97
    assert not list((tmp_path / "out").rglob("*.geojson")) and not list((tmp_path / "out").rglob(".*"))


def test_polygons_are_the_label_map_in_longitude_and_latitude(model: Path, tmp_path: Path) -> None:
    """Brought back to UTM and drawn there, they give the label map; rings wind as RFC 7946 wants."""
    path = save(tmp_path / "scene.tif", coloured(scene()), **UTM)
    assert call(model, path, "--out", tmp_path / "out", "--to", "geojson") == 0
    found = json.loads((tmp_path / "out" / "scene.geojson").read_text())
    with rasterio.open(tmp_path / "out" / "scene.tif") as file:
        labels = file.read(1)
    shapes = []
    for feature in found["features"]:
        about = feature["properties"]
        assert CLASSES[about["id"]] == about["class"] != "background"
        (outer, *holes) = feature["geometry"]["coordinates"]
        x, y = np.array(outer).T
        assert x.min() >= 9 and x.max() < 9.01 and y.min() > 48.74 and y.max() < 48.76, "where 500 km east of UTM 32 is"
        assert outer[0] == outer[-1] and area(outer) > 0 and all(area(hole) < 0 for hole in holes)
        shapes.append((warp.transform_geom("EPSG:4326", "EPSG:32632", feature["geometry"]), about["id"]))
    assert {number for _, number in shapes} == {1, 3}
    assert any(len(feature["geometry"]["coordinates"]) == 2 for feature in found["features"]), "the cat has a hole"
    drawn = features.rasterize(shapes, labels.shape, transform=UTM["transform"])
    np.testing.assert_array_equal(drawn, labels)


def area(ring: list[list[float]]) -> float:
    """Signed, positive counterclockwise."""
    x, y = (np.array(ring) - ring[0]).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())


def test_long_edges_bend_with_the_map() -> None:
    """40 km of a parallel of UTM: the straight line between its reprojected ends lies metres aside."""
    ring = [(300_000.0, 6_500_000.0), (340_000.0, 6_500_000.0), (340_000.0, 6_510_000.0), (300_000.0, 6_500_000.0)]
    found = geo.on_earth(geo.rasterio(), {"type": "Polygon", "coordinates": [ring]}, "EPSG:32632", 128.0)
    back = warp.transform_geom("EPSG:4326", "EPSG:32632", found)["coordinates"][0]
    bottom = [(x, y) for x, y in back if abs(y - 6_500_000) < 1]
    assert len(bottom) >= 40_000 / 128 and max(abs(y - 6_500_000) for _, y in bottom) < 0.01
    _, latitude = np.array(found["coordinates"][0]).T
    assert latitude[: len(bottom)].max() - np.interp(0.5, [0, 1], latitude[[0, len(bottom) - 1]]) > 1e-5


def test_a_tiff_without_georeference_has_polygons_in_pixels(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "plain.tiff", coloured(scene()))
    assert call(model, path, "--out", tmp_path / "out", "--to", "geotiff", "geojson") == 0
    assert "2 polygons in pixels, for the raster has no georeference" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "plain.geojson").read_text())
    assert found["coordinates"] == "pixels, x right and y down from the upper left corner"
    with rasterio.open(tmp_path / "out" / "plain.tif") as file:
        assert file.crs is None
        labels = file.read(1)
    shapes = [(feature["geometry"], feature["properties"]["id"]) for feature in found["features"]]
    np.testing.assert_array_equal(features.rasterize(shapes, labels.shape, transform=Affine.identity()), labels)


def test_bands_and_pixels_without_data(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Colours by what bands say they are; no data is 255 and no polygon; other pixels are named with the remedy."""
    rgb, folder = coloured(scene()), tmp_path / "in"
    save(folder / "bgr.tif", rgb[..., ::-1], photometric="minisblack")
    with rasterio.open(folder / "bgr.tif", "r+") as file:
        file.colorinterp = [rasterio.enums.ColorInterp[name] for name in ("blue", "green", "red")]
    part = np.maximum(rgb, 1)
    part[:, 384:] = 0
    part[:32] = 0
    save(folder / "part.tif", part, nodata=0)
    save(folder / "gray.tif", rgb[..., :1])
    save(folder / "deep.tif", rgb.astype(np.uint16) * 256)
    (folder / "broken.tif").write_bytes((folder / "gray.tif").read_bytes()[:200])
    assert call(model, folder, "--out", tmp_path / "out", "--to", "geojson", "--tile", 384, "--overlap", 0) == 1
    said = capsys.readouterr().out
    assert "deep.tif: has uint16 pixels, uint8 expected; scale it" in said and "broken.tif: " in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{name}.{kind}" for name in ("bgr", "part", "gray") for kind in ("tif", "geojson")
    }
    with rasterio.open(tmp_path / "out" / "bgr.tif") as file:
        assert (file.read(1) == scene()).mean() > 0.97
    with rasterio.open(tmp_path / "out" / "part.tif") as file:
        found = file.read(1)
    assert (found[:32] == 255).all() and (found[:, 384:] == 255).all() and not (found[32:, :384] == 255).any()
    assert (found[32:, :384] == scene()[32:, :384]).mean() > 0.95
    assert 255 not in [
        f["properties"]["id"] for f in json.loads((tmp_path / "out/part.geojson").read_text())["features"]
    ]


def test_what_is_there_is_taken_as_it_is_and_never_mixed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = save(tmp_path / "scene.tif", coloured(scene()), **UTM), tmp_path / "out"
    assert call(model, path, "--out", out, "--to", "geotiff") == 0
    before = (out / "scene.tif").read_bytes()
    assert call(model, path, "--out", out, "--to", "geotiff") == 0
    assert "is done already" in capsys.readouterr().out
    assert call(model, path, "--out", out, "--to", "geotiff", "geojson") == 0, "polygons follow from what is there"
    assert (out / "scene.tif").read_bytes() == before and (out / "scene.geojson").is_file()
    assert call(model, path, "--out", out, "--to", "geotiff", "--flip") == 2
    assert "scene.tif is there already, and was not made by this model in this way" in capsys.readouterr().err
    assert call(model, path, "--out", out, "--to", "geotiff", "--flip", "--overwrite") == 0
    assert not (out / "scene.geojson").exists(), "it was drawn from other labels"
    assert call(model, path, "--out", tmp_path, "--to", "geotiff", "--overwrite") == 2
    assert "is one of the rasters" in capsys.readouterr().err
    assert path.stat().st_size > 100_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "geotiff", "masks"), "geotiff and geojson are written of rasters, masks of photographs"),
        (("--to", "geotiff", "--crf"), "--crf is for photographs"),
        (("--to", "geojson", "--max-side", "100"), "--max-side is for photographs: they are predicted at their own"),
        (("--to", "geojson", "--tile", "384", "--overlap", "200"), "nothing is left of a tile"),
    ],
)
def test_what_rasters_cannot_have_is_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    path = save(tmp_path / "scene.tif", coloured(scene()))
    assert call(model, path, "--out", tmp_path / "out", *words) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_rasters_that_are_none(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    assert call(model, tmp_path / "in", "--out", tmp_path / "out", "--to", "geotiff") == 2
    assert "no rasters found (.tif, .tiff expected)" in capsys.readouterr().err
    for name in ("a.tif", "a.tiff"):
        save(tmp_path / "in" / name, coloured(scene()))
    assert call(model, tmp_path / "in", "--out", tmp_path / "out", "--to", "geotiff") == 2
    assert "would share the result a.tif" in capsys.readouterr().err


def test_without_rasterio_the_remedy_is_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "rasterio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing("rasterio"), *sys.meta_path])
    assert call(model, tmp_path, "--out", tmp_path / "out", "--to", "geotiff") == 2
    assert "need rasterio, which is not installed: pip install 'tagmask[geo]'" in capsys.readouterr().err


def test_a_file_that_only_looks_like_a_tiff_is_not_followed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GDAL reads what a VRT names, whatever the suffix: files of others, addresses on the network."""
    source = save(tmp_path / "a" / "scene.tif", coloured(scene()))
    rasterio.shutil.copy(source, tmp_path / "a" / "link.vrt", driver="VRT")
    (tmp_path / "in").mkdir()
    (tmp_path / "a" / "link.vrt").rename(tmp_path / "in" / "link.tif")
    assert call(model, tmp_path / "in", "--out", tmp_path / "out", "--to", "geotiff") == 1
    assert "link.tif" in capsys.readouterr().out and not list((tmp_path / "out").rglob("*.tif"))


def test_rows_are_written_in_blocks() -> None:
    rows = np.arange(1900, dtype=np.int32)[:, None]
    for heights in ((1900,), (100,) * 19, (700, 1, 511, 688), (512, 512, 512, 364)):
        parts = np.split(rows, np.cumsum(heights)[:-1])
        found = list(geo.blocks(iter(parts)))
        assert [len(part) for part in found] == [512, 512, 512, 364]
        np.testing.assert_array_equal(np.concatenate(found), rows)


PEAK = """
import resource, sys
from pipeline import predict
model, small, large, *words = sys.argv[1:]
for path in (small, large):
    predict.main([model, path, *words])
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_raster(model: Path, tmp_path: Path) -> None:
    """Six megapixels after a quarter of one: scores of all would be 96 MB, and there are several copies of them."""
    paths = [tmp_path / "small.tif", tmp_path / "large.tif"]
    for path, (height, width) in zip(paths, ((512, 512), (2000, 3000)), strict=True):
        many = np.tile(scene(), (-(-height // 384), -(-width // 448)))
        save(path, coloured(many[:height, :width]), **UTM, tiled=True)
    words = ["--to", "geotiff", "--tile", "512", "--overlap", "0", "--device", "cpu", "--precision", "f32"]
    words = [str(model), *map(str, paths), "--out", str(tmp_path / "out"), "--threads", "1", *words]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *words], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    small, large = (int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak"))
    assert large - small < 80, (small, large)
    with rasterio.open(tmp_path / "out" / "large.tif") as file:
        assert file.shape == (2000, 3000)
