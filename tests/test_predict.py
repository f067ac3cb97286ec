"""Masks for users' own photographs: right size, right classes, nothing overwritten, no file lost to a bad neighbour."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pipeline import predict
from pipeline.core import inference, store
from pipeline.core.config import Segment
from pipeline.core.models import Segmenter, backbone, pack

CLASSES = ["background", "cat", "dog", "cow"]


@pytest.fixture(scope="module")
def network() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(backbone("resnet18", 32), "deeplabv3+", len(CLASSES), 16, 32).eval()


@pytest.fixture(scope="module")
def model(network: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(network, tmp_path_factory.mktemp("model") / "model.json")


def write_model(network: Segmenter, path: Path) -> Path:
    arrays, index = pack(network.state_dict())
    meta = {"index": index, "backbone": "resnet18", "gray": False, "stride": 32, "head": "deeplabv3+", "width": 16}
    header = store.Header("model", "segment", Segment().model_dump(mode="json"), "c0de", 0, "f32")
    store.write_table(path, header, arrays, {**meta, "classes": CLASSES, "max_side": 64})
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, size in (("a.jpg", (90, 60)), ("b.PNG", (40, 50)), ("more/a.jpeg", (64, 64))):
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), np.uint8)).save(folder / name)
    return folder


def call(*arguments: object) -> int:
    try:
        predict.main([str(item) for item in (*arguments, "--device", "cpu", "--precision", "f32", "--threads", 1)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def mask_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "P"
        return np.asarray(picture)


def test_masks_have_the_photographs_sizes(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    assert call(model, photos, "--out", out) == 0
    assert mask_of(out / "a.png").shape == (60, 90)
    assert mask_of(out / "b.png").shape == (50, 40)
    assert mask_of(out / "more" / "a.png").max() < len(CLASSES)
    with Image.open(out / "overlays" / "more" / "a.jpg") as picture:
        assert picture.size == (64, 64)
    assert json.loads((out / "predict.json").read_text())["classes"] == CLASSES


def test_masks_are_upright(model: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned
    rgb = np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(rgb).save(tmp_path / "photos" / "turned.png", exif=exif)
    Image.fromarray(np.rot90(rgb, -1)).save(tmp_path / "photos" / "upright.png")
    assert call(model, tmp_path / "photos", "--out", tmp_path / "out", "--no-overlays") == 0
    assert (mask_of(tmp_path / "out" / "turned.png") == mask_of(tmp_path / "out" / "upright.png")).all()
    assert not (tmp_path / "out" / "overlays").exists()


def test_a_broken_file_is_named_and_the_others_are_done(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    (photos / "text.png").write_text("no picture")
    Image.fromarray(np.zeros((40, 40), np.uint16)).save(photos / "deep.png")
    assert call(model, photos, "--out", tmp_path / "out") == 1
    last = capsys.readouterr().out.split("3 file(s) could not be done")[1]
    assert all(name in last for name in ("broken.jpg", "text.png", "deep.png"))
    assert {path.name for path in (tmp_path / "out").rglob("*.png")} == {"a.png", "b.png"}


def test_what_is_there_is_skipped_unless_told(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call(model, photos, "--out", out) == 0
    (out / "a.png").write_bytes(b"mine")
    (out / "b.png").unlink()
    assert call(model, photos, "--out", out) == 0
    assert (out / "a.png").read_bytes() == b"mine"
    assert (out / "b.png").is_file()
    assert call(model, photos, "--out", out, "--overwrite") == 0
    assert mask_of(out / "a.png").shape == (60, 90)


def test_an_overwrite_that_is_stopped_leaves_no_old_mask(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert call(model, photos, "--out", out) == 0

    def stop(path: Path) -> np.ndarray:
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "read_photo", stop)
    with pytest.raises(KeyboardInterrupt):
        call(model, photos, "--out", out, "--overwrite")
    assert not list(out.rglob("*.png"))


def test_masks_of_two_kinds_do_not_mix(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert call(model, photos, "--out", tmp_path / "out") == 0
    assert call(model, photos, "--out", tmp_path / "out", "--flip") == 2
    assert "another flip" in capsys.readouterr().err


@pytest.mark.parametrize("place", [".", "more/.."])
def test_photographs_are_never_overwritten(model: Path, photos: Path, place: str) -> None:
    before = (photos / "b.PNG").read_bytes()
    (photos / "c.png").write_bytes(before)
    assert call(model, photos, "--out", photos / place, "--overwrite") == 2
    assert (photos / "c.png").read_bytes() == before


def test_masks_below_the_photographs_are_not_taken_for_photographs(model: Path, photos: Path) -> None:
    for _ in range(2):
        assert call(model, photos, "--out", photos / "masks") == 0
    assert len(list((photos / "masks").rglob("*.png"))) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "a.png").write_bytes((folder / "b.PNG").read_bytes()), "share the mask"),
        (lambda folder: [path.unlink() for path in folder.rglob("*.*")], "no photographs"),
    ],
)
def test_what_cannot_work_is_said_first(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture, change, words: str
) -> None:
    change(photos)
    assert call(model, photos, "--out", tmp_path / "out") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tags_limit_the_classes(model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = tmp_path / "tags.csv"
    table.write_text("image,tags\na.jpg,dog\nb,cat cow\n")
    assert call(model, photos, "--out", tmp_path / "out", "--tags", table) == 0
    assert set(np.unique(mask_of(tmp_path / "out" / "a.png"))) <= {0, 2}
    assert set(np.unique(mask_of(tmp_path / "out" / "b.png"))) <= {0, 1, 3}
    table.write_text("image,tags\na,dog unicorn\n")
    assert call(model, photos, "--out", tmp_path / "out", "--tags", table, "--overwrite") == 0
    assert "unicorn" in capsys.readouterr().out
    assert set(np.unique(mask_of(tmp_path / "out" / "a.png"))) <= {0, 2}
    table.write_text("image,tags\na,unicorn\n")
    assert call(model, photos, "--out", tmp_path / "other", "--tags", table) == 2
    assert "unicorn" in capsys.readouterr().err
    table.write_text("file;tags\n")
    assert call(model, photos, "--out", tmp_path / "other", "--tags", table) == 2


@pytest.mark.parametrize("side", [0, 40])
def test_crf_scales_and_mirror_images_run(model: Path, photos: Path, tmp_path: Path, side: int) -> None:
    options = ["--crf", "--flip", "--scales", 0.5, 1, "--max-side", side]
    assert call(model, photos / "a.jpg", "--out", tmp_path / "out", *options) == 0
    assert mask_of(tmp_path / "out" / "a.png").shape == (60, 90)


# ------------------------------------------------------------------------------------------------- inference


def test_probabilities_are_the_mean_over_scales_and_mirror_images(network: Segmenter) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8)
    found = inference.probabilities(network, rgb, scales=(1.0, 0.75), flip=True)
    assert found.shape == (4, 48, 80)
    assert found.dtype == np.float32
    expected = np.zeros((4, 48, 80))
    for size in ((48, 80), (36, 60)):
        from pipeline.core.data import resize_image, to_tensor

        x = to_tensor(resize_image(rgb, *size))[None]
        with torch.no_grad():
            for y in (network(x), network(x.flip(3)).flip(3)):
                expected += F.interpolate(y.softmax(1), (48, 80), mode="bilinear")[0].numpy() / 4
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(61, 97), (30, 40), (10, 13), (1, 200)])
def test_labels_read_in_bands_are_those_read_at_once(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).random((5, 30, 40)).astype(np.float32)
    monkeypatch.setattr(inference, "BAND_BYTES", 4 * 5 * size[1] * 7)
    expected = F.interpolate(torch.from_numpy(scores)[None], size, mode="bilinear")[0].argmax(0).numpy()
    assert (inference.label_map(scores, *size) == expected).mean() > 0.999


def test_reduced_keeps_small_photographs() -> None:
    rgb = np.zeros((30, 90, 3), np.uint8)
    assert inference.reduced(rgb, None) is rgb
    assert inference.reduced(rgb, 90) is rgb
    assert inference.reduced(rgb, 45).shape == (15, 45, 3)
    assert inference.reduced(np.zeros((1, 900, 3), np.uint8), 10).shape == (1, 10, 3)
