"""Which photographs to label next: unsure ones before sure ones, those whose tags and masks disagree, and no twins."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import planted
import pytest
from colours import PALETTE, colour_segmenter, plain
from PIL import Image

from pipeline import suggest

CLASSES = ["background", "cat", "dog", "cow"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.json"
    return planted.model(path, colour_segmenter(PALETTE), CLASSES, max_side=96).path


def photograph(folder: Path, name: str, *colours: tuple[int, int, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([plain(64, 32, colour) for colour in colours], axis=1)).save(folder / f"{name}.png")


def suggested(*arguments: object) -> list[dict[str, str]]:
    words = [str(item) for item in ("--device", "cpu", "--precision", "f32", "--threads", 1, *arguments)]
    suggest.main(words)
    with open(Path(str(arguments[arguments.index("--out") + 1])) / "suggest.csv", newline="") as file:
        return list(csv.DictReader(file))


def between(a: tuple[int, int, int], b: tuple[int, int, int]) -> tuple[int, int, int]:
    return tuple((x + y) // 2 for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def test_an_unsure_photograph_comes_first_and_its_twin_last(model: Path, tmp_path: Path) -> None:
    folder, odd = tmp_path / "photos", between(PALETTE[1], PALETTE[2])
    for name in ("odd", "twin"):
        photograph(folder, name, odd, odd)
    photograph(folder, "cat", PALETTE[1], PALETTE[0])
    photograph(folder, "cow", PALETTE[3], PALETTE[0])
    rows = suggested(model, folder, "--count", 9, "--out", tmp_path / "next", "--to", "label-studio")
    tasks = json.loads((tmp_path / "next/label-studio.json").read_text())
    assert len(tasks) == 4 and all(task["predictions"][0]["result"] for task in tasks)
    assert rows[0]["image"] in ("odd", "twin") and rows[-1]["image"] in ("odd", "twin")
    assert [int(row["place"]) for row in rows] == [1, 2, 3, 4]
    assert float(rows[0]["uncertainty"]) > max(
        float(row["uncertainty"]) for row in rows if row["image"] in ("cat", "cow")
    )
    assert {path.stem for path in (tmp_path / "next").glob("*.png")} == {"odd", "twin", "cat", "cow"}
    with Image.open(tmp_path / "next/sheet.jpg") as sheet:
        assert sheet.size == (4 * suggest.TILE + 3 * 4, suggest.TILE)


def test_tags_that_the_masks_do_not_show_speak_for_a_photograph(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    photograph(folder, "right", PALETTE[1], PALETTE[0])
    photograph(folder, "wrong", PALETTE[1], PALETTE[0])  # as unsure, and as far from all
    (tmp_path / "tags.csv").write_text("image,tags\nright,cat\nwrong,cow\n")
    rows = suggested(model, folder, "--tags", tmp_path / "tags.csv", "--count", 1, "--out", tmp_path / "next")
    assert [row["image"] for row in rows] == ["wrong"] and float(rows[0]["disagreement"]) > 0.9


def test_what_is_labelled_is_left_out_and_what_looks_like_it_comes_later(model: Path, tmp_path: Path) -> None:
    folder, odd = tmp_path / "photos", between(PALETTE[1], PALETTE[2])
    for name in ("labelled", "like"):
        photograph(folder, name, odd, odd)
    photograph(folder, "other", PALETTE[3], between(PALETTE[3], PALETTE[0]))
    photograph(tmp_path / "masks", "labelled", (0, 0, 0))
    rows = suggested(model, folder, "--labelled", tmp_path / "masks", "--out", tmp_path / "next")
    assert [row["image"] for row in rows] == ["other", "like"]
    (tmp_path / "list.txt").write_text("labelled\nlike\nother\n")
    for wrong, said in ((tmp_path / "list.txt", "nothing is left"), (folder / "more.txt", "no such list")):
        with pytest.raises(SystemExit) as stopped:
            suggested(model, folder, "--labelled", wrong, "--out", tmp_path / "again")
        assert stopped.value.code == 2, said


def test_masks_that_may_have_been_corrected_are_not_replaced(model: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "next"
    photograph(folder, "cat", PALETTE[1], PALETTE[0])
    photograph(folder, "cow", PALETTE[3], PALETTE[0])
    suggested(model, folder, "--count", 1, "--out", out)
    edited = next(out.glob("*.png"))
    edited.write_bytes(b"edited")
    with pytest.raises(SystemExit) as stopped:
        suggested(model, folder, "--count", 1, "--out", out)
    assert stopped.value.code == 2 and edited.read_bytes() == b"edited"
    assert len(suggested(model, folder, "--count", 2, "--out", out, "--overwrite")) == 2
    assert edited.read_bytes() != b"edited"
    rows = suggested(model, folder, "--count", 1, "--out", out, "--overwrite")
    assert [path.stem for path in out.glob("*.png")] == [rows[0]["image"]], "no mask of an earlier suggestion"
    (out / suggest.LIST).unlink()
    with pytest.raises(SystemExit) as stopped:  # as if `predict` had written there
        suggested(model, folder, "--count", 1, "--out", out, "--overwrite")
    assert stopped.value.code == 2


def test_choice_against_a_slow_reference() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(30, 5))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    known, worth = features[:4], random.random(26)
    found, distances = suggest.choose(worth, features[4:], known, 10)
    covered, wanted = [*known], list[int]()
    for _ in range(10):
        values = [
            -1 if i in wanted else worth[i] * max(0, min(1 - one @ features[4 + i] for one in covered))
            for i in range(26)
        ]
        wanted.append(int(np.argmax(values)))
        covered.append(features[4 + wanted[-1]])
    assert found == wanted and all(0 <= far <= 2 for far in distances)
    assert suggest.choose(worth, features[4:], known[:0], 99)[0][0] == int(worth.argmax())


def test_entropy_and_ranks() -> None:
    assert suggest.entropy(np.full((4, 3, 3), 0.25, np.float32)) == pytest.approx(1)
    assert suggest.entropy(np.eye(4, dtype=np.float32)[:, :, None]) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(suggest.ranks([3.0, 1.0, 3.0]), [0.75, 0, 0.75])
    assert suggest.ranks([5.0]).tolist() == [0]
