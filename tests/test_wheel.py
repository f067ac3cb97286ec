"""What users run without a checkout works from a built wheel, outside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import planted
import pytest
from colours import PALETTE, colour_segmenter, plain
from conftest import ROOT
from PIL import Image


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder a wheel of this checkout is installed to."""
    where = tmp_path_factory.mktemp("wheel")
    (where / "source").mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, where / "source")
    shutil.copytree(ROOT / "pipeline", where / "source/pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", where, where / "source"]
    subprocess.run(list(map(str, build)), check=True, capture_output=True)
    wheel = next(where.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", str(where / "site"), str(wheel)], check=True)
    return where / "site"


def test_start_predict_suggest_and_export(installed: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos/images"
    photos.mkdir(parents=True)
    for number in range(6):
        Image.fromarray(plain(64, 64 + 8 * number, PALETTE[1 + number % 2])).save(photos / f"p{number}.png")
    lines = "".join(f"p{number},{['cat', 'dog'][number % 2]}\n" for number in range(6))
    (tmp_path / "photos/tags.csv").write_text(f"image,tags\n{lines}")
    segmenter = colour_segmenter(PALETTE[:3])
    model = planted.model(tmp_path / "model.json", segmenter, ["background", "cat", "dog"], max_side=64).path
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    fixed = ["--device", "cpu", "--precision", "f32", "--threads", "1"]
    for command in (
        ["start", "photos"],
        ["predict", model, "photos/images", "--out", "masks", "--to", "coco", *fixed],
        ["suggest", model, "photos/images", "--out", "next", "--count", "2", *fixed],
        ["export", "--help"],
    ):
        words = [sys.executable, "-m", f"pipeline.{command[0]}", *map(str, command[1:])]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    where = [sys.executable, "-c", "import pipeline; print(pipeline.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(installed)), "not the checkout"
    assert all((tmp_path / name).is_file() for name in ("mine.yaml", "masks/coco.json", "next/suggest.csv"))
