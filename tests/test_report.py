"""The page of a run: any recipe, with and without true masks, complete in itself, no number that was not measured."""

from __future__ import annotations

import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import planted
import pytest
import torch

from pipeline.core import metrics, store
from pipeline.core.config import Evaluate
from pipeline.core.steps import METHODS
from pipeline.kinds.pixels import VOID
from pipeline.networks.backbones import backbone
from pipeline.networks.classifier import Classifier
from pipeline.networks.segmenter import Segmenter
from pipeline.report import embedding, ladder, page
from pipeline.report.dataset import Dataset

N, S, GRID = 12, 64, 4
CLASSES = ["background", "cat", "dog"]
SIZED = {"proxy": {"crop": 64, "border": 4}, "patches": {"sides": (8, 32), "size": 32}, "segment": {"crop": 64}}


# ------------------------------------------------------------------------------------------------ a tiny run


class Run:
    """Plants the artifacts of a run as the stages would make them, and remembers them in the recipe's order."""

    def __init__(self, folder: Path, masks: bool = True, background: int | None = 0):
        self.folder, self.stages = folder, []
        self.about = {"background": background, "names": CLASSES}
        rng = np.random.default_rng(0)
        self.rgb = list(rng.integers(0, 255, (N, 56, S, 3), np.uint8))
        table, self.mask = np.zeros((N, 3), bool), []
        for i in range(N):
            table[i, 1 + i % 2] = True
            mask = np.zeros((56, S), np.uint8)
            mask[10:40, 10:40] = 1 + i % 2
            self.mask.append(mask)
        names = [f"photo<{i}>" for i in range(N)]
        self.data = planted.dataset(
            folder, self.rgb, table, self.mask if masks else None, **self.about, train=range(8), ids=names
        )

    def add(self, step: str, method: str, make: object, *arguments: object, **options: object) -> store.Artifact:
        """Plant what `make` makes as this step's, with its inputs by role as the recipe would choose them."""
        settings = METHODS[method].model_validate({"method": method, **SIZED.get(method, {}), **options.pop("set", {})})
        path = self.folder / f"{len(self.stages)}-{step}" / f"{settings.makes}.json"
        inputs = {}
        for role, kind in settings.takes.items():
            kinds, _, maker = kind.removesuffix("?").partition("@")
            fitting = (e for e in reversed(self.stages) if e["kind"] in kinds.split("|"))
            found = next((e["manifest"] for e in fitting if maker in ("", e["method"])), None)
            found = str(self.data[kinds].path) if kinds in self.data else found
            inputs |= {role: found} if found else {}
        parents = {role: store.Artifact(manifest) for role, manifest in inputs.items()}
        artifact = make(path, *arguments, header=planted.header(settings, parents), **options)
        entry = {"step": step, "method": method, "folder": step, "kind": settings.makes, "manifest": str(path)}
        self.stages.append(entry | {"inputs": inputs, "metrics": None, "benchmark": None})
        return artifact

    def score(self, matrices: list[np.ndarray], split: str, levels: list, images: int = 8) -> None:
        entry = self.stages[-1]
        path = Path(entry["manifest"]).with_suffix(".metrics.json")
        planted.metrics(path, np.stack(matrices), entry["kind"], split, levels, images=images, **self.about)
        entry["metrics"] = str(path)

    def matrix(self, quality: float) -> np.ndarray:
        """Confusion matrix of labels that are right with this chance; a tenth is unlabelled."""
        out = np.zeros((3, 4), np.int64)
        for k in range(3):
            out[k] = 1000 * (1 - quality) / 3
            out[k, k] += int(1000 * quality)
            out[k, 3] = 100
        return out

    def weights(self, step: str, method: str, seed: int, **options: object) -> None:
        torch.manual_seed(seed)
        curve = np.linspace(1, 0.5, 4) if method != "random" else None
        self.add(step, method, planted.weights, backbone("resnet18"), curve=curve, set=options)

    def classifier(self, step: str, method: str, meta: dict | None = None) -> None:
        """Those of rounds of erasing hold no parameters: the page opens the first one only."""
        if method == "classify":
            torch.manual_seed(0)
            net = Classifier(backbone("resnet18", 16), (1, 2))
            given = {"curve": np.array([1, 0.5]), "set": {"crop": 64}}
            self.add(step, method, planted.classifier, net, self.data["tags"], **given)
            return
        arrays = {"curve_loss": np.array([1, 0.5], np.float32)}
        self.add(
            step, method, planted.table_artifact, "classifier", arrays, {"stride": 16, **(meta or {})}, set={"crop": 64}
        )

    def model(self) -> None:
        torch.manual_seed(0)
        net = Segmenter(backbone("resnet18", 32), "deeplabv3+", 3, 16, 32)
        names, background = self.about["names"], self.about["background"]
        self.add("ce", "segment", planted.model, net, names, background, curve=np.array([1, 0.5]))
        self.score([self.matrix(0.6)], "val", [None])

    def seeds(self, step: str, method: str, rounds: list[dict], stored: int | None = None) -> None:
        """Seeds of these rounds; `stored` of them claimed something: the square of round r lies r cells further."""
        side, stored = S // GRID, len(rounds) if stored is None else stored
        scores = np.random.default_rng(1).random((N, 4, side, side))
        claimed = np.zeros((N, 4, side, side), np.uint8)
        for number in range(stored, 0, -1):
            claimed[:, 0, 2 : 4 + 2 * number, 2 : 4 + 2 * number] = number
            claimed[:, 0, 2 : 2 + 2 * number, 2 : 2 + 2 * number] = 0
        classes = np.full((N, 4), VOID, np.uint8)
        classes[:, 0] = 1 + np.arange(N) % 2
        self.add(step, method, planted.seeds, scores, classes, claimed, GRID, rounds, **self.about)
        levels: list = [0.25, 0.5, 0.75, "claimed"]
        self.score([self.matrix(quality) for quality in (0.3, 0.2, 0.1, 0.5)], "score", levels)

    def labels(self, step: str, method: str, covered: int = 8, **options: object) -> None:
        maps = [mask if i < covered else None for i, mask in enumerate(self.mask)]
        self.add(step, method, planted.labels, maps, S, 3, **self.about, set=options)
        self.score([self.matrix(0.7)], "score", [None])

    def soft(self, step: str, method: str) -> None:
        maps, slots = np.full((N, 2, S // GRID, S // GRID), 0.5), np.zeros((N, 2))
        slots[:, 1] = 1 + np.arange(N) % 2
        self.add(step, method, planted.soft, maps, slots, GRID, 3, np.arange(N) < 8, **self.about)
        self.score([self.matrix(0.65)], "score", [None])

    def dataset(self) -> Dataset:
        return Dataset(**self.data)

    def page(self, **options: object) -> str:
        out = self.folder / "report" / "page.html"
        stages = ladder.read_stages(json.dumps(self.stages))
        page.run("card", 0, self.dataset(), stages, Evaluate(**options), 3, out)
        return out.read_text()


FIRST = {"loss": 0.5, "epochs": 4.0}
SECOND = {"loss": 0.6, "epochs": 4.0, "recall": 0.9, "mined": 0.2, "stop": ""}
THIRD = {"loss": 2.1, "epochs": 4.0, "recall": 0.4, "stop": "over"}


def whole_chain(folder: Path) -> Run:
    """Two rounds of erasing, the second of which stopped, and a third that only passed on."""
    run = Run(folder)
    run.weights("random", "random", 0)
    run.classifier("classify", "classify")
    run.seeds("cam", "cam", [FIRST])
    run.classifier("erase", "erase", {"round": 2, "entry": SECOND})
    run.seeds("mine", "mine", [FIRST, SECOND])
    run.classifier("erase", "erase", {"round": 3, "entry": THIRD})
    run.seeds("mine", "mine", [FIRST, SECOND, THIRD], stored=2)
    run.classifier("erase", "erase", {"round": 4, "passed": True})
    run.seeds("mine", "mine", [FIRST, SECOND, THIRD], stored=2)
    run.add("saliency", "saliency", planted.saliency, [rgb[..., 0] for rgb in run.rgb], S)
    run.labels("crf", "crf")
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 30, (40, 2))
    box, ids = np.concatenate([corner, corner + 24], 1), rng.integers(0, 3, 40)
    run.add("patches", "patches", planted.patches, np.repeat(np.arange(8), 5), box, ids, 32, 3, **run.about)
    run.weights("triplet", "triplet", 1, pool=1)
    run.model()
    table = run.folder / "ce.tsv"
    table.write_text("s\th:m:s\tmax_rss\tmax_vms\tcpu_time\n125.5\t0:02:05\t2048\t-\t-\n")
    run.stages[-1]["benchmark"] = str(table)
    return run


class Outline(HTMLParser):
    """Collects what tests ask about: addresses, ids, and whether every element is closed."""

    VOID_TAGS = frozenset(("meta", "img", "br", "link", "rect", "circle", "path", "line"))

    def __init__(self, text: str):
        super().__init__()
        self.addresses, self.ids, self.open, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = dict(attrs)
        self.addresses += [found[name] for name in ("src", "href") if name in found]
        self.ids += [found["id"]] if "id" in found else []
        if tag not in self.VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID_TAGS:
            while self.open and self.open[-1] in ("li", "p", "tr", "td", "th", "dt", "dd") and self.open[-1] != tag:
                self.open.pop()
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return whole_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def made(chain: Run) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            embedding, "flatten", lambda vectors: (vectors[:, :2], "flattened")
        )  # t-SNE takes longer than all
        return chain.page()


# -------------------------------------------------------------------------------------------------- the page


def test_the_page_needs_nothing_but_itself(made: str) -> None:
    outline = Outline(made)
    assert not outline.open
    assert all(address.startswith(("data:", "#")) for address in outline.addresses)
    assert {address[1:] for address in outline.addresses if address.startswith("#")} <= set(outline.ids)
    assert "<script" not in made
    assert "http" not in re.sub(r"data:[^\"]+", "", made)
    assert len(made) < 8e6


def test_every_part_of_the_whole_chain_is_there(made: str) -> None:
    wanted = {"protocol", "ladder", "classes", "stages", "erasing", "predictions"}
    wanted |= {"patches", "embedding", "curves", "settings", "cost"}
    assert wanted <= set(Outline(made).ids)
    assert not re.search(r"\bnan\b", " ".join(Outline(made).words).lower())


def test_names_from_outside_are_escaped(made: str) -> None:
    assert "photo&lt;" in made
    assert "photo<" not in made


def test_numbers_are_those_of_the_confusion_matrix(chain: Run, made: str) -> None:
    assert f"{100 * metrics.miou(chain.matrix(0.6)):.1f} %" in made
    assert f"{100 * metrics.miou(chain.matrix(0.7), 'ignore'):.1f}" in made


def test_time_and_memory_come_from_the_benchmark(made: str) -> None:
    assert "2:06 min" in made
    assert "2.05 GB" in made
    assert "not measured" in made


def test_without_true_masks_nothing_is_claimed(tmp_path: Path) -> None:
    run = Run(tmp_path, masks=False)
    run.classifier("classify", "classify")
    run.seeds("cam", "cam", [FIRST])
    run.labels("crf", "crf")
    for entry in run.stages:
        entry["metrics"] = None  # evaluate does not run where there is nothing to compare with
    made = run.page()
    assert "No scores: the data set has no true masks" in made
    assert "this image" not in made
    assert {"stages"} <= set(Outline(made).ids)
    assert not re.search(r"\bnan\b", " ".join(Outline(made).words).lower())


def test_scores_of_no_pixel_are_blank(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.labels("masks", "masks")
    run.score([np.zeros((3, 4), np.int64)], "score", [None])
    made = run.page()
    assert "No scores: the scored images have no true masks" in made
    assert not re.search(r"\bnan\b", " ".join(Outline(made).words).lower())


def test_with_masks_of_val_alone_nothing_is_said_of_masks_that_are_not_there(tmp_path: Path) -> None:
    run = Run(tmp_path)
    some = [mask if i >= 8 else None for i, mask in enumerate(run.mask)]
    run.data["masks"] = planted.masks(tmp_path / "val.json", some, 3, **run.about)
    run.classifier("classify", "classify")
    run.seeds("cam", "cam", [FIRST])
    run.score([np.zeros((3, 4), np.int64)] * 4, "score", [0.25, 0.5, 0.75, "claimed"])
    run.labels("crf", "crf")
    run.score([np.zeros((3, 4), np.int64)], "score", [None])
    run.model()
    made = run.page()
    shown = " ".join(Outline(made).words)
    assert "best single" not in shown and not re.search(r"\bnan\b", shown.lower())
    assert "No scores of cam, crf: no image of split score that it could be compared on has a true mask." in shown
    assert "Only networks could be measured" in shown
    assert f"{100 * metrics.miou(run.matrix(0.6)):.1f} %" in made
    train, val = shown.split("The same images at every stage")[1].split("never trained on")
    assert "true masks" not in train and "This image" not in train
    assert "this image:" in val and "Errors:" in val


def test_soft_labels_are_a_rung_of_the_ladder_and_what_the_network_learns_from(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.weights("random", "random", 0)
    run.soft("simple", "simple")
    run.model()
    made = run.page()
    shown = re.sub(r"<[^>]*>", " ", made)
    assert re.search(rf"simple: {100 * metrics.miou(run.matrix(0.65)):.1f} % mIoU on split score", made)
    assert f"most probable class · {metrics.coverage(run.matrix(0.65)):.0%}" in shown
    assert "labels it learns from" in shown and "stage simple" in shown


def test_a_supervised_run_has_no_seeds_and_still_a_page(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.labels("masks", "masks", covered=3, fraction=0.3)
    run.weights("random", "random", 0)
    run.model()
    made = run.page(flip=True)
    ids = set(Outline(made).ids)
    assert {"ladder", "stages", "predictions", "curves"} <= ids
    assert not ids & {"erasing", "patches", "embedding"}


def test_the_command_takes_what_the_rule_gives_it(chain: Run, tmp_path: Path) -> None:
    stages = tmp_path / "stages.json"
    stages.write_text(json.dumps([entry for entry in chain.stages if entry["step"] in ("random", "saliency")]))
    out = tmp_path / "x.html"
    given = [word for kind in ("photographs", "tags", "masks") for word in (f"--{kind}", str(chain.data[kind].path))]
    options = ["--evaluate", Evaluate().model_dump_json(), "--show", "2", "--device", "auto", "--precision", "auto"]
    page.main(
        ["--recipe", "x", "--seed", "3", *given, "--stages", str(stages), *options, "--threads", "1", "--out", str(out)]
    )
    assert "<h1>x</h1>" in out.read_text()
    assert out.read_text().count('class="strip"') == 2


def test_bad_input_is_said_in_one_line(chain: Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    given = [word for kind in ("photographs", "tags", "masks") for word in (f"--{kind}", str(chain.data[kind].path))]
    arguments = ["--recipe", "x", *given, "--out", str(tmp_path / "x.html"), "--stages"]
    for stages, extra, words in (
        ("missing.json", [], "--stages"),
        ("[1, 2", [], "--stages"),
        ('[{"step": "x"}]', [], "0.manifest"),
        ("[]", ["--evaluate", '{"typo": 1}'], "typo"),
        ("[]", ["--evaluate", "{"], "--evaluate"),
        ("[]", ["--tags", given[1]], "this is photographs, tags expected"),
        (json.dumps([{**chain.stages[0], "manifest": "no.json"}]), [], "no.json"),
    ):
        with pytest.raises(SystemExit) as stop:
            page.main([*arguments, stages, *extra])
        assert stop.value.code == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


# ---------------------------------------------------------------------------------------- what was scored is shown


class Door(ModuleType):
    """Stands in for pipeline.networks.door: its network answers with a planted label map, and remembers how it was
    asked."""

    def __init__(self, answer: np.ndarray):
        super().__init__("pipeline.networks.door")
        self.answer, self.opened, self.asked = answer, [], []

    def open_network(self, artifact: store.Artifact, *options: object) -> str:
        self.opened.append((artifact.path, *options))
        return "network"

    def predict_labels(
        self, network: str, rgb: np.ndarray, size: tuple, possible: object = None, crf: bool = False
    ) -> np.ndarray:
        self.asked.append((network, rgb.shape, size, possible, crf))
        return self.answer


def test_models_are_shown_as_they_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    full = [np.kron(mask, np.ones((2, 2), np.uint8)) for mask in run.mask]
    run.data["masks"] = planted.masks(tmp_path / "full.json", full, 3, **run.about)
    run.labels("masks", "masks")
    run.weights("random", "random", 0)
    run.model()
    door = Door(full[9])
    monkeypatch.setitem(sys.modules, "pipeline.networks.door", door)
    made = run.page(scales=[1.0, 2.0], flip=True, crf=True)
    assert door.opened == [(Path(run.stages[-1]["manifest"]), "cpu", "f32", (1.0, 2.0), True)]
    verdict = ("network", (56, 64, 3), (56, 64), None, False)
    assert set(door.asked) == {("network", (56, 64, 3), (112, 128), None, True), verdict}
    shown = made.split('id="predictions"')[1]
    notes = re.findall(r"this image: (\d+) %", shown)
    # Rows 8 to 11 are val; of the three shown, those of the answer's class are right, the others miss their object.
    right, wrong = (
        metrics.miou(metrics.confusion(full[9], full[9], 3)),
        metrics.miou(metrics.confusion(full[8], full[9], 3)),
    )
    assert right == 1
    assert sorted(set(notes)) == sorted({f"{100 * right:.0f}", f"{100 * wrong:.0f}"})


def test_a_model_without_masks_is_shown_at_the_photographs_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, masks=False)
    run.model()
    door = Door(run.mask[0])
    monkeypatch.setitem(sys.modules, "pipeline.networks.door", door)
    run.page()
    assert {size for _, _, size, _, _ in door.asked} == {(56, 64)}


# ------------------------------------------------------------------------------------------------- scores, roles


def test_seeds_are_shown_as_what_they_claim_and_at_the_best_threshold(chain: Run) -> None:
    stages = ladder.read_stages(json.dumps(chain.stages))
    for stage in (stage for stage in stages if stage.kind == "seeds"):
        assert [(s.look, s.what.split(",")[0]) for s in ladder.scores_of(stage)] == [
            ("main", "claimed region"),
            ("best", "scores > 0.25"),
        ]


def test_parents_are_found_by_role(chain: Run) -> None:
    stages = ladder.read_stages(json.dumps(chain.stages))
    named = {stage.name: stage for stage in stages}

    def parent(name: str, role: str) -> str | None:
        found = named[name].parent(role, stages)
        return found.name if found else None

    # mine 3 passed on, so it and mine 2 have one content; roles tell them apart.
    assert named["mine 2"].artifact.digest == named["mine 3"].artifact.digest
    assert [parent(f"mine {k}", "seeds") for k in (1, 2, 3)] == ["cam", "mine 1", "mine 2"]
    assert [parent(f"mine {k}", "classifier") for k in (1, 2, 3)] == ["erase 1", "erase 2", "erase 3"]
    assert parent("crf", "seeds") == "mine 3"
    assert parent("crf", "tags") is None
    assert parent("ce", "weights") == "triplet"
    shown = dict(page.facts.settings_of(named["mine 2"], stages)["inputs"])
    assert shown == {"photographs": "data set", "seeds": "mine 1", "classifier": "erase 2"}


def test_rounds_are_those_of_the_mining_steps(chain: Run, made: str) -> None:
    found = page.facts.erasing_rounds(ladder.read_stages(json.dumps(chain.stages)))
    assert [chain["name"] for chain in found] == ["mine 3"]
    rows = found[0]["rows"]
    assert [row["steps"] for row in rows] == [["cam"], *([f"erase {k}", f"mine {k}"] for k in (1, 2, 3))]
    assert [row["round"] for row in rows] == [1, 2, 3, None]
    assert [row.get("recall") for row in rows] == [None, 0.9, 0.4, None]
    assert "stopped: over" in made
    assert "passed the seeds on unchanged" in made


def test_the_labels_named_are_those_that_the_model_learns_from(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.labels("few", "masks")
    run.weights("random", "random", 0)
    run.model()
    run.labels("relabel", "relabel")
    stages = ladder.read_stages(json.dumps(run.stages))
    scores = [score for stage in stages for score in ladder.scores_of(stage)]
    found = page.quality(scores, stages)
    assert found is not None
    assert found.stage.name == "few"
    without = [stage for stage in stages if stage.kind != "model"]
    assert page.quality(scores, without).stage.name == "relabel"  # type: ignore[union-attr]


def test_a_step_that_occurs_often_is_numbered(chain: Run) -> None:
    names = [stage.name for stage in ladder.read_stages(json.dumps(chain.stages))]
    assert names[:5] == ["random", "classify", "cam", "erase 1", "mine 1"]
    assert names[-5:] == ["saliency", "crf", "patches", "triplet", "ce"]


@pytest.mark.parametrize("text", ["", "s\tmax_rss\n", "s\tmax_rss\n-\tNA\n"])
def test_a_benchmark_without_numbers_gives_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.tsv"
    path.write_text(text)
    found = ladder.read_benchmark(path)
    assert found is None or math.isnan(found["seconds"])


# ------------------------------------------------------------------------------------------------- the background


def test_without_a_background_class_0_is_a_class(tmp_path: Path) -> None:
    run = Run(tmp_path, background=None)
    run.labels("masks", "masks")
    run.weights("random", "random", 0)
    run.model()
    made = run.page()
    assert f"{100 * metrics.miou(run.matrix(0.7), background=None):.1f}" in made
    assert metrics.miou(run.matrix(0.7), background=None) != metrics.miou(run.matrix(0.7))
    assert "unlabelled pixels counted as missed" in made
    assert "as background" not in made
    counts = {entry["name"]: entry["train"] for entry in page.facts.class_legend(run.dataset())}
    assert counts == {"background": 0, "cat": 4, "dog": 4}
