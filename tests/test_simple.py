"""Simple images: which are chosen, what each filter removes, and what their saliency becomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import planted
import pytest
import yaml
from conftest import ROOT

from pipeline import simple
from pipeline.core import recipe, store
from pipeline.core.config import parse
from pipeline.core.job import InputError
from pipeline.core.steps.labels import Simple

SIZES = [(30, 48), (48, 48), (40, 40), (41, 33), (48, 30), (48, 48), (48, 48), (30, 48)]


def thing(h: int, w: int, share: float, ground: int = 0) -> np.ndarray:
    """A salient square thing in the middle that takes this share of the picture, before even ground."""
    out = np.full((h, w), ground, np.uint8)
    y, x = (round(side * (1 - np.sqrt(share)) / 2) for side in (h, w))
    out[y : h - y, x : w - x] = 200
    return out


def world(folder: Path, background: int | None = 0) -> dict[str, store.Artifact]:
    """Eight pictures, the last of split val; which of them are simple stands beside each."""
    maps = [
        thing(*SIZES[0], 0.25),  # simple
        thing(*SIZES[1], 0.25),  # two tags
        thing(*SIZES[2], 0.02),  # a speck
        thing(*SIZES[3], 0.85),  # nearly everything
        thing(*SIZES[4], 0.25, ground=40),  # busy ground: 0.16 along the border
        np.zeros(SIZES[5], np.uint8),  # nothing is salient
        thing(*SIZES[6], 0.4, ground=10),  # simple
        thing(*SIZES[7], 0.25),  # of split val
    ]
    table = np.zeros((8, 4), bool)
    table[np.arange(8), [1, 1, 1, 2, 2, 1, 2, 1]] = True
    table[1, 3] = True
    pictures = [np.zeros((*size, 3), np.uint8) for size in SIZES]
    given = planted.dataset(folder, pictures, table, background=background, train=range(7))
    given["saliency"] = planted.saliency(folder / "saliency.json", maps, 48)
    return given


def chosen(given: dict[str, store.Artifact], out: Path, **settings: object) -> store.Artifact:
    simple.run(planted.job(Simple(**settings), out, given))  # type: ignore[arg-type]
    return store.Artifact(out, "soft")


@pytest.mark.parametrize(
    ("settings", "rows", "removed"),
    [
        ({}, [0, 6], {"tags": 1, "area": 3, "border": 1}),
        ({"tags": 2}, [0, 1, 6], {"tags": 0, "area": 3, "border": 1}),
        ({"area": (0.001, 0.7)}, [0, 2, 6], {"tags": 1, "area": 2, "border": 1}),
        ({"area": (0.05, 0.9), "border": 1}, [0, 3, 4, 6], {"tags": 1, "area": 2, "border": 0}),
        ({"area": (0, 1), "border": 1}, [0, 2, 3, 4, 5, 6], {"tags": 1, "area": 0, "border": 0}),
        ({"border": 0.01}, [0], {"tags": 1, "area": 3, "border": 2}),
    ],
)
def test_the_simple_are_chosen_and_each_filter_says_what_it_removed(
    settings: dict, rows: list[int], removed: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = chosen(world(tmp_path), tmp_path / "s.json", **settings)
    assert made.read("covered").nonzero()[0].tolist() == rows
    assert made.meta["removed"] == removed
    assert made.meta["train"] == 7 == len(rows) + sum(removed.values())
    said = capsys.readouterr().out
    text = ", ".join(f"{name} {number}" for name, number in removed.items())
    assert f"{len(rows)} of 7 training images are simple; removed by {text}\n" in said


def test_classes_are_counted_and_those_without_a_simple_image_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = chosen(world(tmp_path), tmp_path / "s.json")
    assert made.meta["simple"] == {"class1": 1, "class2": 1, "class3": 0}
    said = capsys.readouterr().out
    assert "simple images: class1 1, class2 1, class3 0\n" in said
    assert "warning: no simple image of 'class3', which 1 training images are tagged with\n" in said
    assert said.count("warning") == 1


@pytest.mark.parametrize("grid", [1, 4, 5])
def test_saliency_becomes_the_tags_probability_cell_by_cell(grid: int, tmp_path: Path) -> None:
    given = world(tmp_path)
    made = chosen(given, tmp_path / "s.json", grid=grid)
    assert made.meta["grid"] == grid and made.meta["background"] == 0
    probabilities, maps = made.read("probabilities"), given["saliency"].read("saliency")
    for i, tag in ((0, 1), (6, 2)):
        h, w = SIZES[i]
        assert made.read("slots")[i].tolist() == [0, tag]
        found, saliency = probabilities[i], maps[i]
        for y, x in np.ndindex(-(-h // grid), -(-w // grid)):
            cell = [
                int(saliency[a, b]) / 255
                for a in range(y * grid, min((y + 1) * grid, h))
                for b in range(x * grid, min((x + 1) * grid, w))
            ]
            share = sum(cell) / len(cell)
            assert found[:, y, x].tolist() == pytest.approx([1 - share, share], abs=5e-4)
        assert not found[:, -(-h // grid) :].any() and not found[:, :, -(-w // grid) :].any()
    assert (made.read("slots")[1:6] == 255).all() and not probabilities[1:6].any()


def test_two_tags_share_what_is_salient(tmp_path: Path) -> None:
    made = chosen(world(tmp_path), tmp_path / "s.json", tags=2)
    assert made.read("slots")[1].tolist() == [0, 1, 3] and made.read("slots")[0].tolist() == [0, 1, 255]
    share = 200 / 255
    np.testing.assert_allclose(made["probabilities"][1, :, 6, 6], [1 - share, share / 2, share / 2], atol=5e-4)


def test_statistics_of_a_map_against_slow_references() -> None:
    rng = np.random.default_rng(0)
    for h, w in ((20, 60), (57, 33), (1, 9), (3, 3)):
        saliency = rng.integers(0, 256, (h, w), dtype=np.uint8)
        high, wide = max(1, round(simple.BORDER * h)), max(1, round(simple.BORDER * w))
        border = [
            int(saliency[y, x]) for y, x in np.ndindex(h, w) if y < high or x < wide or y >= h - high or x >= w - wide
        ]
        assert simple.border_saliency(saliency) == pytest.approx(np.mean(border) / 255)
        # Otsu's threshold is where the two sides differ most between them.
        between = []
        for level in range(255):
            low, above = saliency[saliency <= level], saliency[saliency > level]
            between.append(low.size * above.size * (low.mean() - above.mean()) ** 2 if low.size and above.size else 0)
        assert simple.salient_area(saliency) == pytest.approx((saliency > np.argmax(between)).mean())
    assert simple.salient_area(np.full((9, 9), 7, np.uint8)) == 0
    assert simple.border_saliency(np.full((9, 9), 255, np.uint8)) == 1


def test_only_what_changed_is_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tag less makes one image more a simple one; the others are taken over."""
    given, out = world(tmp_path), tmp_path / "s.json"
    before = chosen(given, out)
    first = before["probabilities"][0].copy()
    table = given["tags"].read("tags")
    table[1, 3] = False
    given["tags"] = planted.tags(tmp_path / "fewer.json", table)
    capsys.readouterr()
    after = chosen(given, out)
    assert after.read("covered").nonzero()[0].tolist() == [0, 1, 6]
    np.testing.assert_array_equal(after["probabilities"][0], first)
    # The planted tags' rows have digests of what they hold, so only the row that changed is another.
    assert "s.json: 1 of 3 images computed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"border": 0.0}, "removed by tags 1, area 3, border 3. Loosen 'area', now (0.05, 0.7), in"),
        ({"area": (0.9, 0.9)}, "removed by tags 1, area 6, border 0. Loosen 'area', now (0.9, 0.9), in"),
        ({"border": 0.0, "area": (0, 1)}, "removed by tags 1, area 0, border 6. Loosen 'border', now 0.0, in"),
    ],
)
def test_none_left_says_what_to_loosen(settings: dict, wanted: str, tmp_path: Path) -> None:
    given = world(tmp_path)
    with pytest.raises(InputError) as caught:
        chosen(given, tmp_path / "s.json", **settings)
    assert str(caught.value).startswith(f"{given['saliency'].path}: no image of 7 is simple enough")
    assert wanted in str(caught.value)
    assert not (tmp_path / "s.json").exists()


def test_where_everything_has_several_tags_more_tags_are_advised(tmp_path: Path) -> None:
    given = world(tmp_path)
    given["tags"] = planted.tags(tmp_path / "all.json", np.array([[0, 1, 1, 1]] * 8))
    with pytest.raises(InputError, match=r"removed by tags 7, area 0, border 0\. Loosen 'tags', now 1, in"):
        chosen(given, tmp_path / "s.json")


def test_without_a_background_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of these classes is the background"):
        chosen(world(tmp_path, background=None), tmp_path / "s.json")


def test_the_recipe_of_the_page_runs_on_voc() -> None:
    """docs/methods/stc.md gives the paper's schedule as a block to paste; it must parse and resolve."""
    from test_repo import DEFAULT, VOC, merged, read

    text = (ROOT / "docs" / "methods" / "stc.md").read_text()
    own = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    config = parse(merged(merged(DEFAULT, read(VOC)), own))
    nodes = recipe.recipe_nodes(config, config.run[0], 0)
    networks = [node.settings for node in nodes if node.kind == "model"]
    assert len(networks) == 3
    assert all((net.epochs, net.batch, net.crop, net.lr, net.head_lr) == (15, 8, 321, 1e-3, 10) for net in networks)
    assert all(net.head == "largefov" and net.stride == 8 for net in networks)
