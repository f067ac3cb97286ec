"""Masks for users' own photographs: the network's answer at their size, nothing overwritten or mixed, no file lost to
a bad neighbour."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import planted
import pytest
import tifffile
import torch
from colours import PALETTE, colour_segmenter, constant_segmenter, stripes
from conftest import ROOT, command
from PIL import Image

from pipeline import predict
from pipeline.core import store
from pipeline.datasets import files, look, pictures
from pipeline.kinds.pixels import resize_nearest
from pipeline.networks.door import open_network

CLASSES = ["background", "cat", "dog", "cow"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It knows its classes by colour; trained at photographs of 96 pixels."""
    path = tmp_path_factory.mktemp("model") / "model.json"
    return planted.model(path, colour_segmenter(PALETTE), CLASSES, max_side=96).path


@pytest.fixture(scope="module")
def undecided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of every pixel: cow, else the first class, else dog, else cat. Its data set has no background."""
    path = tmp_path_factory.mktemp("undecided") / "model.json"
    return planted.model(path, constant_segmenter([0.3, 0.05, 0.25, 0.4]), CLASSES, background=None).path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photographs; PNG, as JPEG would change their colours a little."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, rgb in (
        ("a.png", stripes(64, 1, 0, 2)),
        ("b.PNG", stripes(32, 3)),
        ("more/a.png", stripes(64, 2, 2)),
    ):
        Image.fromarray(rgb).save(folder / name, format="PNG")
    return folder


def call(*arguments: object) -> int:
    try:
        predict.main([str(item) for item in ("--device", "cpu", "--precision", "f32", "--threads", 1, *arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def mask_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "P"
        return np.asarray(picture)


def striped(height: int, *classes: int, width: int = 32) -> list[list[int]]:
    return [np.repeat(classes, width).tolist()] * height


# ----------------------------------------------------------------------------------------------------- values


def test_masks_are_the_networks_answer(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    assert call(model, photos, "--out", out) == 0
    assert mask_of(out / "a.png").tolist() == striped(64, 1, 0, 2)
    assert mask_of(out / "b.png").tolist() == striped(32, 3)
    assert mask_of(out / "more" / "a.png").tolist() == striped(64, 2, 2)
    with Image.open(out / "overlays" / "more" / "a.jpg") as picture:
        assert picture.size == (64, 64)
    record = json.loads((out / "predict.json").read_text())
    assert record["classes"] == CLASSES and record["model"] == store.Artifact(model).digest


def test_masks_are_the_argmax_of_a_network_at_any_size(model: Path, tmp_path: Path) -> None:
    """A picture of noise, no multiple of the stride: argmax of the probabilities, written out."""
    rgb = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8).repeat(8, 0).repeat(10, 1)[:50, :83]
    Image.fromarray(rgb).save(tmp_path / "noise.png")
    assert call(model, tmp_path / "noise.png", "--out", tmp_path / "out", "--flip", "--scales", 1, 0.75) == 0
    network = open_network(store.Artifact(model), scales=(1.0, 0.75), flip=True)
    with torch.no_grad():
        expected = network.probabilities(rgb[None])[0].argmax(0).numpy()
    found = mask_of(tmp_path / "out" / "noise.png")
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) > 1


def test_large_photographs_are_reduced_to_the_size_of_training_and_their_masks_are_not(
    model: Path, tmp_path: Path
) -> None:
    """Ten times as large as the network's stripes; as they are, it would see each for itself, and be right as well."""
    large = resize_nearest(stripes(64, 1, 0, 2), 640, 960)
    large[:, 300:330] = PALETTE[3]  # a tenth of a stripe: gone at the size of training
    Image.fromarray(large).save(tmp_path / "large.png")
    assert call(model, tmp_path / "large.png", "--out", tmp_path / "out", "--no-overlays") == 0
    assert not (tmp_path / "out" / "overlays").exists()
    found = mask_of(tmp_path / "out" / "large.png")
    assert found.shape == (640, 960)
    assert (found == np.array(striped(640, 1, 0, 2, width=320))).mean() > 0.98 and not (found == 3).any()
    assert call(model, tmp_path / "large.png", "--out", tmp_path / "whole", "--max-side", 0) == 0
    assert (mask_of(tmp_path / "whole" / "large.png") == 3).any()


def test_masks_are_upright_and_photographs_are_read_by_one_function(model: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned
    upright = stripes(64, 1, 0, 2)
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.rot90(upright)).save(tmp_path / "photos" / "turned.png", exif=exif)
    assert call(model, tmp_path / "photos", "--out", tmp_path / "out") == 0
    assert mask_of(tmp_path / "out" / "turned.png").tolist() == striped(64, 1, 0, 2)
    stored = look.photograph((tmp_path / "photos" / "turned.png").read_bytes())  # what `prepare` keeps
    np.testing.assert_array_equal(stored, upright)
    assert predict.read_photograph is pictures.read_photograph


def test_tags_limit_the_classes(
    model: Path, undecided: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = tmp_path / "tags.csv", tmp_path / "out"
    table.write_text("image,tags\na.png,dog\nb,cat\n")
    assert call(model, photos, "--out", out, "--tags", table) == 0
    assert mask_of(out / "a.png").tolist() == striped(64, 0, 0, 2), "no cat: red is nearer to black than to green"
    assert not (mask_of(out / "b.png") == 3).any(), "no cow"
    assert mask_of(out / "more" / "a.png").tolist() == striped(64, 2, 2), "a name without its folder counts as well"
    capsys.readouterr()
    table.write_text("image,tags\na.png,cat dog\nmore/a,dog cat\nb,cat\n")
    assert call(undecided, photos, "--out", tmp_path / "none", "--tags", table) == 0
    assert "background only" not in capsys.readouterr().out
    assert (mask_of(tmp_path / "none" / "a.png") == 2).all(), "without a background the tags are all there is"
    assert (mask_of(tmp_path / "none" / "b.png") == 1).all()
    table.write_text("image,tags\na,cat\n")
    assert call(undecided, photos, "--out", tmp_path / "rest", "--tags", table) == 0
    assert f"1 photos are not in {table}: there the network alone decides" in capsys.readouterr().out
    assert (mask_of(tmp_path / "rest" / "b.png") == 3).all()


def test_tags_that_the_model_does_not_know(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "tags.csv"
    table.write_text("image,tags\na,dog unicorn\n")
    assert call(model, photos, "--out", tmp_path / "out", "--tags", table) == 0
    assert "does not know unicorn" in capsys.readouterr().out
    assert mask_of(tmp_path / "out" / "a.png").tolist() == striped(64, 0, 0, 2)
    for text, words in (("image,tags\na,unicorn\n", "unicorn"), ("thing;tags\n", "`image,tags` expected")):
        table.write_text(text)
        assert call(model, photos, "--out", tmp_path / "other", "--tags", table) == 2
        assert words in capsys.readouterr().err
    assert call(model, photos, "--out", tmp_path / "other", "--tags", tmp_path / "none.csv") == 2
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_the_crf_runs(undecided: Path, photos: Path, tmp_path: Path) -> None:
    assert call(undecided, photos / "a.png", "--out", tmp_path / "out", "--crf", "--max-side", 40) == 0
    assert (mask_of(tmp_path / "out" / "a.png") == 3).all(), "nothing speaks against the likeliest class"


# -------------------------------------------------------------------------------- nothing lost, nothing mixed


def test_a_broken_file_is_named_and_the_others_are_done(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(stripes(64, 1)).save(photos / "cut.jpg")
    (photos / "broken.jpg").write_bytes((photos / "cut.jpg").read_bytes()[:300])
    (photos / "cut.jpg").unlink()
    (photos / "text.png").write_text("no picture")
    (photos / "._a.png").write_text("what some systems leave beside a file")
    (photos / "scan.gif").write_text("a format that is not read")
    tifffile.imwrite(photos / "deep.tif", np.zeros((40, 40, 6), np.uint16), planarconfig="contig")
    assert call(model, photos, "--out", tmp_path / "out") == 1
    said = capsys.readouterr().out
    last = said.split("4 file(s) could not be done")[1]
    assert all(name in last for name in ("broken.jpg", "text.png", "deep.tif"))
    assert (
        "scan.gif: .gif found, .jpg, .jpeg, .png, .webp, .bmp, .tif, .tiff, .heic, .heif expected; convert it to .jpg"
        in last
    )
    assert "1 hidden files and folders left out (._a.png)" in said
    assert {path.name for path in (tmp_path / "out").rglob("*.png")} == {"a.png", "b.png"}


def test_a_folder_is_seen_as_prepare_sees_it(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Links to folders are followed, but not in circles; hidden folders are none; what is no picture is named."""
    (photos / ".thumbnails").mkdir()
    Image.fromarray(stripes(64, 1)).save(photos / ".thumbnails" / "t.png")
    (photos / "notes.txt").write_text("no picture, and none meant")
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(stripes(64, 3)).save(tmp_path / "elsewhere" / "c.png")
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    os.rename(photos / "b.PNG", os.fsencode(photos) + b"/caf\xe9.png")
    out, problems, notes = tmp_path / "out", list[str](), list[str]()
    assert call(model, photos, "--out", out, "--no-overlays") == 0
    said = capsys.readouterr().out
    found = {os.fsencode(path.relative_to(out)) for path in out.rglob("*.png")}
    assert found == {b"a.png", b"caf\xe9.png", b"more/a.png", b"linked/c.png"}
    assert mask_of(out / "linked" / "c.png").tolist() == striped(64, 3)
    assert "caf\\udce9" in said and said.isascii()
    assert set(files.listing(photos, problems, notes)) == {"a", "more/a", "linked/c"}
    assert len(notes) == 2 and all(note in said for note in notes)
    assert len(problems) == 1 and "a name that is not UTF-8" in problems[0]
    (photos / "linked" / "back").symlink_to(photos)
    assert call(model, photos, "--out", out, "--no-overlays") == 1
    assert "linked/back: a link to a folder that it lies in; remove it" in capsys.readouterr().out


def test_what_is_there_is_skipped_unless_told(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call(model, photos, "--out", out) == 0
    (out / "a.png").write_bytes(b"mine")
    (out / "b.png").unlink()
    assert call(model, photos, "--out", out) == 0
    assert (out / "a.png").read_bytes() == b"mine"
    assert (out / "b.png").is_file()
    assert call(model, photos, "--out", out, "--overwrite") == 0
    assert mask_of(out / "a.png").tolist() == striped(64, 1, 0, 2)


def test_an_overwrite_that_is_stopped_leaves_no_old_mask(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert call(model, photos, "--out", out) == 0

    def stop(path: Path) -> np.ndarray:
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "read_photograph", stop)
    assert call(model, photos, "--out", out, "--overwrite") == 1, "Ctrl-C"
    assert not list(out.rglob("*.png"))


def test_masks_of_two_kinds_do_not_mix(
    model: Path, undecided: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call(model, photos, "--out", out) == 0
    assert call(model, photos, "--out", out, "--flip") == 2
    assert "another flip" in capsys.readouterr().err
    assert call(undecided, photos, "--out", out) == 2
    assert "another model" in capsys.readouterr().err
    assert call(undecided, photos, "--out", out, "--overwrite", "--max-side", 96) == 0
    assert (mask_of(out / "a.png") == 3).all()


def test_overwriting_some_leaves_no_others_under_a_record_that_is_not_theirs(
    model: Path, undecided: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    Image.fromarray(stripes(64, 3)).save(other / "c.png")
    assert call(model, photos, "--out", out) == 0
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    assert call(undecided, other, "--out", out, "--overwrite") == 2
    assert "3 masks there are of other photographs" in capsys.readouterr().err
    assert call(undecided, photos / "a.png", "--out", out, "--overwrite") == 2, "a part of them is not all of them"
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    assert call(model, other, "--out", out) == 0, "more photographs, the same way, are welcome"
    assert len(list(out.rglob("*.png"))) == 4


@pytest.mark.parametrize("place", [".", "more/.."])
def test_photographs_are_never_overwritten(model: Path, photos: Path, place: str) -> None:
    before = (photos / "a.png").read_bytes()
    assert call(model, photos, "--out", photos / place, "--overwrite") == 2
    assert (photos / "a.png").read_bytes() == before


def test_masks_below_the_photographs_are_not_taken_for_photographs(model: Path, photos: Path) -> None:
    for _ in range(2):
        assert call(model, photos, "--out", photos / "masks") == 0
    assert len(list((photos / "masks").rglob("*.png"))) == 3


# -------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "a.jpg").write_bytes((folder / "b.PNG").read_bytes()), "share the mask"),
        (lambda folder: [path.unlink() for path in folder.rglob("*.*")], "no photographs"),
    ],
)
def test_what_cannot_work_is_said_first(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change, words: str
) -> None:
    change(photos)
    assert call(model, photos, "--out", tmp_path / "out") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_no_model_is_a_message(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tags = planted.tags(tmp_path / "tags.json", np.zeros((1, 2)))
    later = planted.table_artifact(
        tmp_path / "later.json",
        "model",
        {"x": np.zeros(1)},
        {"classes": CLASSES, "background": 0},
        store.Header("model", "hologram", {"method": "hologram"}, "test"),
    )
    (tmp_path / "text.json").write_text("no JSON")
    for path, words in (
        (model.parent, "not a manifest"),
        (store.store_of(model), "not a manifest"),
        (tmp_path / "none.json", "no such artifact"),
        (tmp_path / "text.json", "not a manifest"),
        (tags.path, "this is tags, model expected"),
        (later.path, "made by method 'hologram'; models of segment, psl, dis can be opened"),
    ):
        assert call(path, photos, "--out", tmp_path / "out") == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and words in said and str(path) in said
    assert call(model, tmp_path / "nowhere", "--out", tmp_path / "out") == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_folder_of_masks_is_a_folder_and_its_record_a_record(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    assert call(model, photos, "--out", out) == 2
    assert f"--out {out}: this is a file; name a folder" in capsys.readouterr().err
    assert out.read_text() == "mine"
    for record in ("[1]", "{", "[" * 100_000):
        (tmp_path / "more").mkdir(exist_ok=True)
        (tmp_path / "more" / predict.RECORD).write_text(record)
        assert call(model, photos, "--out", tmp_path / "more") == 2
        assert "the masks there were made with another classes, model" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["quantum", "cuda:x", "cpu:0", ""])
def test_a_device_that_is_none(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    assert call(model, photos, "--out", tmp_path / "out", "--device", device) == 2
    assert f"--device {device}: auto, cpu, cuda or cuda:<number> expected" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_many_bad_files_of_one_kind_are_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos/day1").mkdir(parents=True)
    for i in range(60):
        (tmp_path / f"photos/{'day1/' * (i % 2)}p{i:02d}.jpg").write_bytes(b"")
    assert call(model, tmp_path / "photos", "--out", tmp_path / "out") == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == "60 file(s) could not be done:"
    assert "is empty; copy it again [and 59 more: " in said[-1]


def test_a_name_may_be_as_long_as_the_disk_allows(model: Path, tmp_path: Path) -> None:
    """250 bytes: what is written beside it until it is whole has a name that fits, too."""
    (tmp_path / "photos").mkdir()
    Image.fromarray(stripes(32, 1)).save(tmp_path / "photos" / f"{'n' * 246}.png")
    assert call(model, tmp_path / "photos", "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / f"{'n' * 246}.png").is_file()


def test_as_a_command_of_its_own(undecided: Path, photos: Path, tmp_path: Path) -> None:
    words = command("predict", undecided, photos / "a.png", "--out", tmp_path / "out", "--device", "cpu")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1/1  a  cow" in done.stdout
    assert (mask_of(tmp_path / "out" / "a.png") == 3).all()
