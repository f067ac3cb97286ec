"""All recipes of a run side by side: the numbers of planted metrics, the same pictures for all, nothing made up."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from html import unescape
from pathlib import Path

import numpy as np
import planted
import pytest
import test_report
from test_report import FIRST, Door, Outline

from pipeline.core import metrics, store
from pipeline.core.config import Evaluate
from pipeline.core.steps.models import Segment
from pipeline.report import facts, index, ladder, page, render, runs
from pipeline.report.dataset import Dataset

SEGMENT = Segment(crop=64)


def opened(entries: list[dict]) -> list[ladder.Stage]:
    return ladder.read_stages(json.dumps(entries))


class Run(test_report.Run):
    """One recipe and seed of a house."""

    def __init__(self, folder: Path, first: test_report.Run):
        self.folder, self.stages, self.data = folder, [], dict(first.data)
        self.about, self.rgb, self.mask = first.about, first.rgb, first.mask

    def network(self, quality: float | None, step: str = "ce") -> None:
        """A model that no test computes with (see Door), scored on val unless quality is None."""
        nothing, about = {"float32": np.zeros(1, np.float32)}, {"classes": self.about["names"], "background": 0}
        self.add(step, "segment", planted.table_artifact, "model", nothing, about)
        if quality is not None:
            self.score([self.matrix(quality)], "val", [None])

    def cost(self, seconds: float, memory: float) -> None:
        table = self.folder / f"{len(self.stages)}.tsv"
        table.write_text(f"s\tmax_rss\tcpu_time\n{seconds}\t{memory}\t-\n")
        self.stages[-1]["benchmark"] = str(table)


class House:
    """Recipes and seeds of one data set; their pages are empty files."""

    def __init__(self, folder: Path, first: test_report.Run):
        self.first, self.data = first, dict(first.data)
        self.folder = folder / "report"
        self.folder.mkdir()
        self.listings: list[Path] = []

    def start(self) -> Run:
        return Run(self.folder.parent / f"run{len(self.listings)}", self.first)

    def add(self, recipe: str, seed: int, run: Run) -> None:
        place = self.folder / f"{len(self.listings)}.html"
        place.write_text("<!doctype html>")
        listing = {"recipe": recipe, "seed": seed, "page": place.name, "stages": run.stages}
        self.listings.append(place.with_suffix(".listing.json"))
        self.listings[-1].write_text(json.dumps(listing))

    def simple(
        self, recipe: str, qualities: Sequence[float | None], labels: float | None = 0.7, masks: int = 8
    ) -> None:
        """A recipe of true masks, of so many of the 8 photographs, and a network; a seed per quality."""
        for seed, quality in enumerate(qualities):
            run = self.start()
            run.labels("masks", "masks", masks, fraction=masks / 8)
            if labels is None:
                run.stages[-1]["metrics"] = None
            else:
                run.score([run.matrix(labels)], "score", [None])
            run.network(quality)
            self.add(recipe, seed, run)

    def index(self, **options: object) -> str:
        out = self.folder / "index.html"
        found = runs.read_runs(self.listings)
        index.run(Dataset(**self.data), found, Evaluate(**options), 3, out, "cpu", "f32")
        return out.read_text()


@pytest.fixture(autouse=True)
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    """Networks answer with the mask of a cat."""
    answer = np.zeros((56, 64), np.uint8)
    answer[10:40, 10:40] = 1
    found = Door(answer)
    monkeypatch.setitem(sys.modules, "pipeline.networks.door", found)
    return found


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> test_report.Run:
    """The data set of most tests."""
    return test_report.Run(tmp_path_factory.mktemp("first") / "tiny")


@pytest.fixture
def house(tmp_path: Path, first: test_report.Run) -> House:
    return House(tmp_path, first)


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def table(made: str, number: int = 0) -> dict[str, dict[str, tuple[str, str | None]]]:
    """A sortable table: recipe → title of a column → what its cell says, what it is sorted by."""
    found = made.split('sortable">')[number + 1].split("</table>")[0]
    heads = found.split('<button type="button">')[1:]
    titles = [text_of(re.split("<small>|</button>", head)[0]) for head in heads]
    rows = {}
    for row in re.findall(r"<tr><th scope=\"row\".*?</tr>", found, re.S):
        cells = re.findall(r"<t[hd][^>]*?(?: data-v=\"([^\"]*)\")?(?: style=\"[^\"]*\")?>(.*?)</t[hd]>", row, re.S)
        assert len(cells) == len(titles)
        rows[text_of(cells[0][1])] = {
            title: (text_of(said), key or None) for title, (key, said) in zip(titles, cells, strict=True)
        }
    return rows


def miou(run: Run, *qualities: float) -> list[float]:
    return [100 * metrics.miou(run.matrix(quality)) for quality in qualities]


def shows_no_nan(made: str) -> bool:
    return not re.search(r"\bnan\b", " ".join(Outline(made).words).lower().split("for (const table")[0])


# ------------------------------------------------------------------------------------------------------- numbers


def test_means_and_spreads_are_those_of_the_seeds(house: House) -> None:
    house.simple("card", [0.5, 0.6, 0.75])
    house.simple("supervised", [0.8, 0.9])
    rows, run = table(house.index()), house.start()
    for recipe, qualities in (("card", (0.5, 0.6, 0.75)), ("supervised", (0.8, 0.9))):
        values = miou(run, *qualities)
        mean = sum(values) / len(values)
        sd = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
        said, key = rows[recipe]["network"]
        assert said == f"{mean:.1f} ± {sd:.1f}"
        assert float(key) == pytest.approx(mean / 100)
        share = mean / (sum(miou(run, 0.8, 0.9)) / 2)
        assert rows[recipe]["share"][0] == f"{100 * share:.1f}"
        assert float(rows[recipe]["share"][1]) == pytest.approx(share)
        covered = metrics.coverage(run.matrix(0.7))
        assert rows[recipe]["labels"][0] == f"{miou(run, 0.7)[0]:.1f} ± 0.0 masks, {covered:.0%}"
    assert rows["supervised"]["share"][0] == "100.0"


def test_a_seed_without_a_score_is_left_out_and_said(house: House) -> None:
    house.simple("card", [0.5, None, 0.6])
    assert table(house.index())["card"]["network"][0].endswith("2 of 3 seeds")


def test_without_supervised_the_share_is_left_out_and_said(house: House) -> None:
    house.simple("card", [0.5])
    house.simple("other", [0.6])
    made = house.index()
    assert "share" not in table(made)["card"]
    assert "--config run='[card, other, supervised]'" in unescape(made)
    assert table(made)["card"]["network"][0] == f"{miou(house.start(), 0.5)[0]:.1f}"  # one seed has no spread


def test_seeds_and_labels_are_scored_as_the_single_page_says(house: House) -> None:
    run = house.start()
    run.classifier("classify", "classify")
    run.seeds("cam", "cam", [FIRST])
    run.labels("crf", "crf")
    run.network(0.6)
    house.add("tags", 0, run)
    row, stages = table(house.index())["tags"], opened(run.stages)
    scores = [score for stage in stages for score in ladder.scores_of(stage)]
    said = page.quality(scores, stages)
    assert said is not None
    assert row["labels"][0] == f"{100 * said.miou:.1f} crf, {said.coverage:.0%}"
    claimed, best = miou(run, 0.5, 0.3)
    assert row["seeds"][0] == f"{claimed:.1f} cam"
    assert row["best seeds"][0] == f"{best:.1f} > 0.25"


def test_labels_of_some_photographs_say_of_how_many(house: House) -> None:
    """A score on simple images stands beside scores on all."""
    for recipe, images in (("stc-initial", 5), ("tags", 8)):
        run = house.start()
        run.soft("simple", "simple")
        run.score([run.matrix(0.8)], "score", [None], images)
        run.network(0.3)
        house.add(recipe, 0, run)
    rows = table(house.index())
    assert rows["stc-initial"]["labels"][0].endswith("simple, 91% of 5 of 8 photographs")
    assert rows["tags"]["labels"][0].endswith("simple, 91%")


def test_labels_of_a_recipe_are_those_that_its_last_network_learns_from(house: House) -> None:
    run = house.start()
    run.labels("masks", "masks")
    run.score([run.matrix(0.4)], "score", [None])
    run.network(0.3)
    run.labels("relabel", "relabel")
    run.score([run.matrix(0.8)], "score", [None])
    run.network(0.6)
    house.add("relabelled", 0, run)
    row = table(house.index())["relabelled"]
    assert row["network"][0] == f"{miou(run, 0.6)[0]:.1f}"
    assert row["labels"][0].startswith(f"{miou(run, 0.8)[0]:.1f} relabel")


def test_time_is_the_sum_of_jobs_and_memory_the_largest(house: House) -> None:
    for seed, seconds in enumerate((100, 200)):
        run = house.start()
        run.labels("masks", "masks")
        run.cost(seconds, 900)
        run.network(0.5)
        run.cost(30.5, 2048 + seed)
        house.add("masks", seed, run)
    run = house.start()
    run.labels("masks", "masks")
    run.cost(7, 800)
    run.network(0.5)
    house.add("half", 0, run)
    house.simple("none", [0.5])
    rows = table(house.index())
    assert rows["masks"]["time"] == ("3:00 min", "180.5")
    assert rows["masks"]["memory"] == ("2.05 GB", "2049.0")
    assert rows["half"]["time"] == ("7.0 s 1 job not measured", "7.0")
    assert rows["none"]["time"] == ("– not measured", None)
    single = facts.costs(opened(run.stages))
    assert render.duration(single["total"]) == "7.0 s"


def test_a_shared_job_counts_in_every_recipe_and_once_in_all(house: House) -> None:
    run = house.start()
    run.labels("masks", "masks")
    run.cost(50, 900)
    begun = list(run.stages)
    run.network(0.5)
    house.add("one", 0, run)
    other = house.start()
    other.stages = begun
    other.network(0.6, "bigger")
    house.add("two", 0, other)
    made = house.index()
    assert {row["time"][0].split(" s")[0] for row in table(made).values()} == {"50"}
    assert "3 jobs, each counted once, 50 s together (2 not measured)" in text_of(made)


def test_networks_over_the_number_of_masks_are_lines_of_recipes_named_alike(house: House) -> None:
    house.simple("ce-12.5-long", [0.3, 0.4], masks=1)
    house.simple("ce-50-long", [0.6], masks=4)
    house.simple("ce-50", [0.5], masks=4)  # alone
    house.simple("few-50", [0.5], masks=2)  # a name that says something else
    house.simple("few-25", [0.5], masks=2)
    house.simple("supervised", [0.9])
    drawn, names = runs.mask_curves(runs.read_runs(house.listings))
    assert names == ["ce-long"]
    for count, qualities in ((1, (0.3, 0.4)), (4, (0.6,))):
        mean = sum(miou(house.start(), *qualities)) / len(qualities)
        assert f"<title>ce-long, photographs with masks {count}: {mean:.4g} %</title>" in drawn
    assert "ce-long" in text_of(house.index()).split("photographs whose masks")[0]


def test_without_two_shares_of_masks_there_is_no_such_curve(house: House) -> None:
    house.simple("ce-50", [0.5], masks=4)
    house.simple("supervised", [0.9])
    assert runs.mask_curves(runs.read_runs(house.listings)) == ("", [])
    assert 'id="few"' not in house.index()


def test_classes_are_means_over_the_seeds(house: House) -> None:
    house.simple("card", [0.5, 0.7])
    for number, quality in ((1, (0.5, 0.7)), (2, (0.7,))):  # networks, labels
        row = table(house.index(), number)["card"]
        wanted = np.mean([metrics.per_class_iou(house.start().matrix(q)) for q in quality], 0)
        assert [row[name][0] for name in test_report.CLASSES] == [f"{100 * value:.1f}" for value in wanted]
        assert row["mIoU"][0] == f"{100 * wanted.mean():.1f}"


def test_a_class_without_true_pixels_is_blank(house: House) -> None:
    run = house.start()
    run.labels("masks", "masks")
    run.network(0.5)
    matrix = run.matrix(0.5)
    matrix[2] = 0
    run.score([matrix], "val", [None])
    house.add("card", 0, run)
    made = house.index()
    assert table(made, 1)["card"]["dog"] == ("", None)
    assert shows_no_nan(made)


# -------------------------------------------------------------------------------------------- what there is not


def test_without_true_masks_nothing_is_claimed(tmp_path: Path) -> None:
    house = House(tmp_path, test_report.Run(tmp_path / "tiny", masks=False))
    house.simple("card", [None, None], labels=None)
    house.simple("supervised", [None], labels=None)
    made = house.index()
    row = table(made)["card"]
    assert "No scores: the data set has no true masks" in made
    assert row["network"] == row["labels"] == ("– no true masks", None)
    assert row["seeds"] == ("– makes none", None)
    assert "share" not in row
    assert "--config run=" not in made  # supervised could not run either
    assert made.count('sortable">') == 1 and 'id="chart"' not in made
    assert shows_no_nan(made) and "this image:" not in made
    assert made.count("<use ") > 10


def test_a_val_split_without_masks_is_said(house: House) -> None:
    kept = [mask if i < 8 else None for i, mask in enumerate(house.first.mask)]
    house.data["masks"] = planted.masks(house.folder.parent / "some.json", kept, 3, **house.first.about)
    run = house.start()
    run.labels("masks", "masks")
    run.network(0.5)
    run.score([np.zeros((3, 4), np.int64)], "val", [None])
    house.add("card", 0, run)
    made = house.index()
    assert "No scores of the final networks: no image of split val has a true mask." in made
    row = table(made)["card"]
    assert row["network"] == ("– no true masks", None)
    assert row["labels"][1] is not None
    assert shows_no_nan(made)


def test_a_recipe_that_ends_before_a_network_says_so(house: House) -> None:
    run = house.start()
    run.labels("masks", "masks")
    house.add("labels", 0, run)
    house.simple("supervised", [0.5])
    row = table(house.index())["labels"]
    assert row["network"] == ("– makes none", None)
    assert row["share"] == ("–", None)


def test_kinds_that_nobody_draws_or_scores_are_passed_over(house: House) -> None:
    run = house.start()
    entry = {"step": "new", "method": "new", "folder": "new", "kind": "novel", "inputs": {}}
    made = planted.table_artifact(run.folder / "n.json", "novel", {"x": np.zeros(3)}, {})
    run.stages.append({**entry, "manifest": str(made.path), "metrics": None, "benchmark": None})
    run.score([run.matrix(quality) for quality in (0.1, 0.9, 0.2)], "elsewhere", [None, "other", 0.5])
    run.labels("masks", "masks")
    run.network(0.6)
    house.add("card", 0, run)
    found = house.index()
    assert table(found)["card"]["network"][0] == f"{miou(run, 0.6)[0]:.1f}"
    assert "new → masks → ce" in unescape(found)


# ---------------------------------------------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[House, str]:
    """Two recipes that begin alike, one of few masks, with names as awkward as can be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_report, "CLASSES", ["background", "cat & <dog>", "dog"])
        folder = tmp_path_factory.mktemp("house")
        house = House(folder, test_report.Run(folder / "tiny"))
        patch.setitem(sys.modules, "pipeline.networks.door", Door(house.first.mask[9]))
        run = house.start()
        run.classifier("classify", "classify")
        run.seeds("cam", "cam", [FIRST])
        run.labels("crf", "crf")
        begun = list(run.stages)
        run.network(0.5)
        house.add("a<b>&", 0, run)
        house.add("a<b>&", 1, run)
        other = house.start()
        other.stages = begun
        other.network(0.6, "wider")
        house.add("other", 0, other)
        few = house.start()
        few.labels("few", "masks", covered=1, fraction=0.1)
        few.network(0.4)
        house.add("few", 0, few)
        return house, house.index()


def test_the_page_needs_nothing_but_itself(made: tuple[House, str]) -> None:
    house, text = made
    outline = Outline(text)
    assert not outline.open
    assert len(outline.ids) == len(set(outline.ids))
    inside = {address[1:] for address in outline.addresses if address.startswith("#")}
    assert inside <= set(outline.ids)
    assert "http" not in re.sub(r"data:[^\"]+", "", text)
    pages = {address for address in outline.addresses if not address.startswith("#")}
    assert pages == {f"{number}.html" for number in range(4)}
    assert all((house.folder / address).is_file() for address in pages)


def test_names_from_outside_are_escaped(made: tuple[House, str]) -> None:
    text = made[1]
    assert "a&lt;b&gt;&amp;" in text and "a<b>" not in text
    assert "cat &amp; &lt;dog&gt;" in text and "<dog>" not in text
    assert "photo&lt;" in text and not re.search(r"photo<\d", text)


def test_every_column_can_be_sorted(made: tuple[House, str]) -> None:
    for part in made[1].split('sortable">')[1:]:
        head, body = part.split("</table>")[0].split("</thead>")
        heads = head.split("<th ")[1:]
        assert all('aria-sort="none"' in one and '<button type="button">' in one for one in heads)
        assert {re.search('data-first="(.*?)"', one).group(1) for one in heads} <= {"ascending", "descending"}
        for row in body.split("<tr>")[1:]:
            keys = re.findall(r"data-v=\"([^\"]*)\"", row)
            assert all(float(key) >= 0 for key in keys[1:])
            assert len(re.findall(r"<td", row)) == len(heads) - 1


def luminance(colour: np.ndarray) -> float:
    """Relative luminance of sRGB 0..1 (WCAG 2)."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_numbers_on_the_heat_can_be_read_in_light_and_in_dark() -> None:
    """Whatever the value, WCAG's 4.5 to 1."""
    light, dark = (render.TEMPLATES / "style.css.j2").read_text().split("prefers-color-scheme: dark")
    for part in (light, dark):
        found = dict(re.findall(r"--(\w+): #?([0-9a-f]+)", part))
        digits = {
            name: text if len(text) == 6 else "".join(2 * letter for letter in text) for name, text in found.items()
        }
        ink, card, green = (np.array(list(bytes.fromhex(digits[name]))) / 255 for name in ("ink", "card", "s4"))
        for value in np.linspace(0, 1, 11):
            share = value * int(found["heat"]) / 100
            bright = sorted(luminance(colour) for colour in (ink, card * (1 - share) + green * share))
            assert (bright[1] + 0.05) / (bright[0] + 0.05) >= 4.5


def test_recipes_are_shown_on_the_same_photographs(made: tuple[House, str]) -> None:
    text = made[1]
    for title in ("Predictions of every recipe", "Labels of every recipe"):
        wall = text.split(f'aria-label="{title}"')[1].split("</table>")[0]
        rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", wall, re.S)
        assert [text_of(row.split("<small>")[0].split("</th>")[0]) for row in rows] == [
            "photo", "true mask", "a<b>&", "other", "few",
        ]  # fmt: skip
        counts = [row.count("<use ") for row in rows]
        assert counts == [3, 3, 3, 3, 3 if "Predictions" in title else 0]
    assert "labels 1 training images, none of these" in text


def test_a_picture_is_there_once_however_often_it_is_shown(made: tuple[House, str]) -> None:
    text = made[1]
    images = re.findall(r"<image id=\"(\w+)\" width=\"(\d+)\" height=\"(\d+)\" href=\"([^\"]+)\"", text)
    uses = re.findall(r"<use href=\"#(\w+)\"/>", text)
    assert {image[0] for image in images} == set(uses)
    assert len({image[3] for image in images}) == len(images)
    assert len(uses) > 2 * len(images)
    steps = [text.split(f'id="recipe-{number}"')[1].split("</details>")[0] for number in (1, 2)]
    train, val = ([re.findall(r"#(p\d+)", part) for part in step.split('<div class="strip">')[1:]] for step in steps)
    assert train[:3] == val[:3] and len(train[0]) == 5  # photograph, cam, its region, crf, true mask


def test_the_same_run_gives_the_same_bytes(made: tuple[House, str], monkeypatch: pytest.MonkeyPatch) -> None:
    house, text = made
    monkeypatch.setitem(sys.modules, "pipeline.networks.door", Door(house.first.mask[9]))
    assert house.index() == text


def test_networks_are_shown_as_they_are_scored_and_opened_once(house: House, door: Door) -> None:
    house.simple("card", [0.5, 0.6])
    run = house.start()
    run.stages = json.loads(house.listings[0].read_text())["stages"]
    run.labels("relabel", "relabel")
    run.network(0.7)
    house.add("relabelled", 0, run)
    made = house.index(scales=[1.0, 2.0], flip=True, crf=True)
    first = [Path(stage["manifest"]) for stage in run.stages if stage["kind"] == "model"]
    assert {path for path, *_ in door.opened} == set(first)  # of the first seed alone
    assert {tuple(options) for _, *options in door.opened} == {("cpu", "f32", (1.0, 2.0), True)}
    assert {asked[-1] for asked in door.asked} == {True}
    wall = made.split('aria-label="Predictions of every recipe"')[1].split("</table>")[0]
    shown = set(re.findall(r"<small>(\d+) %", wall))
    cat, dog = house.first.mask[8], house.first.mask[9]
    truths = [metrics.miou(metrics.confusion(truth, door.answer, 3)) for truth in (cat, dog)]
    assert shown == {f"{100 * value:.0f}" for value in truths}


def test_one_recipe_and_one_seed_have_an_index_too(house: House) -> None:
    house.simple("card", [0.5])
    made = house.index()
    assert "One recipe, seed 0: 2 jobs" in text_of(made)
    assert list(table(made)) == ["card"]
    assert {"recipes", "chart", "classes", "predictions", "labels", "steps"} <= set(Outline(made).ids)


def test_the_command_takes_what_pages_write(house: House, capsys: pytest.CaptureFixture) -> None:
    run = house.start()
    run.labels("masks", "masks")
    given = [word for kind, made in house.data.items() for word in (f"--{kind}", str(made.path))]
    out, listing = house.folder / "card-seed3.html", house.folder / "card-seed3.listing.json"
    stages = ["--stages", json.dumps(run.stages), "--listing", str(listing), "--out", str(out)]
    page.main(["--recipe", "card", "--seed", "3", *given, *stages, "--threads", "1"])
    told = [*given, "--show", "2", "--threads", "1", "--out", str(house.folder / "index.html"), "--listings"]
    index.main([*told, str(listing)])
    made = (house.folder / "index.html").read_text()
    assert 'href="card-seed3.html"' in made and list(table(made)) == ["card"]
    (house.folder / "index.html").unlink()
    broken, missing = (house.folder / f"{name}.json" for name in ("broken", "missing"))
    broken.write_text('{"recipe": 1')
    for path, words in ((missing, "run snakemake again"), (broken, "broken.json")):
        with pytest.raises(SystemExit) as stop:
            index.main([*told, str(listing), str(path)])
        assert stop.value.code == 2
        assert words in capsys.readouterr().err
    assert not (house.folder / "index.html").exists()


def test_an_artifact_that_is_gone_is_named(house: House) -> None:
    house.simple("card", [0.5])
    entry = json.loads(house.listings[0].read_text())["stages"][0]
    Path(entry["manifest"]).unlink()
    with pytest.raises(store.ArtifactError, match=re.escape(entry["manifest"])):
        runs.read_runs(house.listings)
