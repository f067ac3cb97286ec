"""The verdict: each planted failure is named, with its class; a healthy run draws no warning. No true mask is read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import planted
import pytest
import torch
from test_report import Door, Outline

from pipeline.core.steps import METHODS
from pipeline.kinds import photographs
from pipeline.kinds.pixels import VOID
from pipeline.networks.backbones import backbone
from pipeline.networks.classifier import Classifier, load_classifier, tag_scores
from pipeline.report import ending, evidence, index, ladder, page, verdict
from pipeline.report.dataset import Dataset
from pipeline.report.listing import Finding, Listing, Verdict, percent

NAMES = ["background", "cat", "dog", "fox", "cow"]
CAT, DOG, FOX, COW = 1, 2, 3, 4
TRAIN, VAL, SIDE = 32, 32, 20
N = TRAIN + VAL
TAGS, CLEAN = [("classify", "classifier"), ("cam", "seeds"), ("crf", "labels")], [("masks", "labels")]


def truth() -> np.ndarray:
    """Which classes are in each photograph, bool [N,C]: one or two of four, in all combinations."""
    table = np.zeros((N, len(NAMES)), bool)
    for i in range(N):
        table[i, [1 + i % 4, 1 + i // 4 % 4]] = True
    return table


def drawn(row: np.ndarray) -> np.ndarray:
    """A label map [SIDE,SIDE] of these classes: a band of rows each, below some background."""
    out = np.zeros((SIDE, SIDE), np.uint8)
    for k in np.flatnonzero(row):
        out[4 * k : 4 * k + 3, 2:] = k
    return out


Answer = Callable[[int], np.ndarray]


class Case:
    """A finished run: data set, labels, and a network that answers with planted label maps."""

    def __init__(self, folder: Path, tags: np.ndarray | None = None, recipe: list[tuple[str, str]] = TAGS):
        self.folder, self.there = folder, truth()
        self.tags = self.there if tags is None else tags
        rgb = list(np.random.default_rng(0).integers(0, 255, (N, SIDE, SIDE, 3), np.uint8))
        self.data = planted.dataset(folder, rgb, self.tags, names=NAMES, train=range(TRAIN))
        self.entries: list[dict] = []
        self.labels = [drawn(row) if i < TRAIN else None for i, row in enumerate(self.there)]
        self.recipe = recipe

    def stages(self) -> list[ladder.Stage]:
        last = ""
        for step, kind in [*self.recipe, ("ce", "model")]:
            method = {"ce": "segment"}.get(step, step)
            path, inputs = self.folder / step / f"{kind}.json", {}
            sized = {"crop": 64} if kind in ("model", "classifier") else {}
            header = planted.header(METHODS[method].model_validate({"method": method, **sized}))
            if kind == "labels":
                planted.labels(path, self.labels, SIDE, len(NAMES), names=NAMES, header=header)
            elif kind == "classifier":
                torch.manual_seed(0)
                net = Classifier(backbone("resnet18", 16), (1, 2, 3, 4))
                planted.classifier(path, net, self.data["tags"], header=header)
            else:  # of these nothing is read
                meta = {"classes": NAMES, "background": 0}
                planted.table_artifact(path, kind, {"float32": np.zeros(1, np.float32)}, meta, header)
            if kind == "model":
                inputs = {"labels": last}
            last = str(path) if kind == "labels" else last
            entry = {"step": step, "method": method, "folder": step, "kind": kind, "manifest": str(path)}
            self.entries.append({**entry, "inputs": inputs})
        return ladder.read_stages(json.dumps(self.entries))

    def evidence(self, answer: Answer | None = None) -> evidence.Evidence:
        """answer: photograph → label map; without one, the truth. The classifier, which is not trained, is left out."""
        found = evidence.gather(Dataset(**self.data), self.stages(), answer or (lambda i: drawn(self.there[i])))
        return replace(found, sure=None)

    def judge(self, answer: Answer | None = None) -> Verdict:
        return verdict.judge(self.evidence(answer))


def kinds(found: Verdict) -> list[str]:
    return [finding.kind for finding in found.findings]


def only(found: Verdict, kind: str) -> Finding:
    assert kinds(found) == [kind]
    return found.findings[0]


# -------------------------------------------------------------------------------------------- planted failures


@pytest.mark.parametrize("recipe", [CLEAN, TAGS], ids=["masks", "tags"])
def test_a_healthy_run_draws_no_warning(tmp_path: Path, recipe: list[tuple[str, str]]) -> None:
    found = Case(tmp_path, recipe=recipe).judge()
    assert not found.findings and not found.unjudged
    assert found.summary == (
        "Nothing suspicious. On 32 val photographs the network finds 100 % of the tagged classes, "
        "and shows 0 % of the classes that are not tagged."
    )


def test_an_honest_but_poor_run_draws_none(tmp_path: Path) -> None:
    """It misses a third of what is there, and sees a fifth of what is not."""
    case, rng = Case(tmp_path), np.random.default_rng(0)
    flip = rng.random((N, len(NAMES)))
    seen = np.where(case.there, flip > 1 / 3, flip > 0.8) & (np.arange(len(NAMES)) > 0)
    assert kinds(case.judge(lambda i: drawn(seen[i]))) == []


@pytest.mark.parametrize("recipe", [CLEAN, TAGS], ids=["masks", "tags"])
def test_collapse_to_background(tmp_path: Path, recipe: list[tuple[str, str]]) -> None:
    found = only(
        Case(tmp_path, recipe=recipe).judge(lambda i: np.zeros((SIDE, SIDE), np.uint8)), "collapse to background"
    )
    assert "background on 100 % of the pixels of 32 val photographs" in found.found
    assert "no object in 100 % of the tagged photographs" in found.found
    share = np.mean([(drawn(row) == 0).mean() for row in truth()[:TRAIN]])
    assert f"its labels ({recipe[-1][0]}) on {100 * share:.0f} %" in found.found
    assert ("crf.background" in found.next) == (recipe is TAGS)


def test_collapse_to_background_though_a_speck_is_left(tmp_path: Path) -> None:
    case = Case(tmp_path)

    def speck(i: int) -> np.ndarray:
        out = np.zeros((SIDE, SIDE), np.uint8)
        out[0, 0] = np.flatnonzero(case.there[i])[0]
        return out

    assert kinds(case.judge(speck)) == ["collapse to background"]


def test_small_objects_are_no_collapse(tmp_path: Path) -> None:
    """Almost all background, in labels and predictions alike: defects are like that."""
    case = Case(tmp_path, recipe=CLEAN)

    def small(i: int) -> np.ndarray:
        out = np.zeros((SIDE, SIDE), np.uint8)
        found = np.flatnonzero(case.there[i])
        out[0, : len(found)] = found
        return out

    case.labels = [small(i) if i < TRAIN else None for i in range(N)]
    assert kinds(case.judge(small)) == []


@pytest.mark.parametrize("recipe", [CLEAN, TAGS], ids=["masks", "tags"])
def test_one_class_everywhere(tmp_path: Path, recipe: list[tuple[str, str]]) -> None:
    case = Case(tmp_path, recipe=recipe)
    found = only(case.judge(lambda i: np.where(drawn(case.there[i]) > 0, DOG, 0)), "collapse to one class")
    assert found.classes == ("dog",)
    assert "100 % of all that is an object" in found.found


def test_a_class_shown_beside_those_that_are_there(tmp_path: Path) -> None:
    case = Case(tmp_path)
    seen = case.there.copy()
    seen[:, COW] = True
    found = only(case.judge(lambda i: drawn(seen[i])), "class everywhere")
    assert found.classes == ("cow",) and "cow (in 100 %)" in found.found


def test_tags_that_never_differ(tmp_path: Path) -> None:
    every = np.zeros((N, len(NAMES)), bool)
    every[:, 1:] = True
    found = only(Case(tmp_path / "tags", every).judge(lambda i: drawn(every[i])), "tags never differ")
    assert found.classes == tuple(NAMES[1:])
    assert "two of them have 100 % of their tags in common" in found.found
    assert "masks" in found.next
    assert kinds(Case(tmp_path / "masks", every, CLEAN).judge(lambda i: drawn(every[i]))) == []  # learns from none


def test_classes_that_always_occur_together(tmp_path: Path) -> None:
    table = truth()
    table[:, DOG] = table[:, CAT]
    table[0, DOG] = False
    case = Case(tmp_path, table)
    case.there, case.labels = table, [drawn(row) if i < TRAIN else None for i, row in enumerate(table)]
    assert only(case.judge(), "classes always together").classes == ("cat", "dog")


def test_a_tag_of_every_photograph(tmp_path: Path) -> None:
    table = truth()
    table[:, COW] = True
    case = Case(tmp_path, table)
    case.there, case.labels = table, [drawn(row) if i < TRAIN else None for i, row in enumerate(table)]
    assert only(case.judge(), "tag of every photograph").classes == ("cow",)


def test_a_mislabelled_class_by_the_network(tmp_path: Path) -> None:
    """Tags of foxes stand at other photographs: the network finds foxes, but not there."""
    table = truth()
    table[:, FOX] = ~table[:, FOX]
    found = Case(tmp_path, table, CLEAN).judge()
    wrong = next(finding for finding in found.findings if finding.kind == "tags look wrong")
    assert wrong.classes == ("fox",)
    assert "fox (0 % and 100 %)" in wrong.found
    assert set(kinds(found)) == {"tags look wrong", "labels lose a class", "class everywhere"}
    assert all(finding.classes == ("fox",) for finding in found.findings)


def scored(case: Case, right: list[int]) -> evidence.Sure:
    """A classifier that ranks these classes perfectly, and the others by dice."""
    tags = case.tags[TRAIN:, 1:]
    scores = np.random.default_rng(1).random(tags.shape)
    columns = [k - 1 for k in right]
    scores[:, columns] += 2 * tags[:, columns]
    return evidence.Sure("classify", scores, tags)


def test_a_mislabelled_class_by_the_classifier(tmp_path: Path) -> None:
    case = Case(tmp_path)
    found = verdict.judge(replace(case.evidence(), sure=scored(case, [CAT, FOX, COW])))
    wrong = only(found, "tags look wrong")
    assert wrong.classes == ("dog",) and "others at 1.00" in wrong.found
    assert not verdict.judge(replace(case.evidence(), sure=scored(case, [CAT, DOG, FOX, COW]))).findings


def test_a_classifier_that_guesses(tmp_path: Path) -> None:
    case = Case(tmp_path)
    assert kinds(verdict.judge(replace(case.evidence(), sure=scored(case, [])))) == ["classifier guesses"]


def test_a_network_that_guesses(tmp_path: Path) -> None:
    case = Case(tmp_path)
    assert kinds(case.judge(lambda i: drawn(case.there[(7 * i + 3) % N]))) == ["network guesses"]


def test_a_class_that_is_never_predicted(tmp_path: Path) -> None:
    case = Case(tmp_path, recipe=CLEAN)
    blind = case.there.copy()
    blind[:, FOX] = False
    found = only(case.judge(lambda i: drawn(blind[i])), "never predicted")
    assert found.classes == ("fox",)
    count = case.tags[TRAIN:, FOX].sum()
    assert f"fox (found in 0 of the {count} tagged)" in found.found


def test_labels_that_lose_a_class(tmp_path: Path) -> None:
    case = Case(tmp_path)
    lost = case.there.copy()
    lost[:, FOX] = False
    case.labels = [drawn(row) if i < TRAIN else None for i, row in enumerate(lost)]
    assert only(case.judge(), "labels lose a class").classes == ("fox",)


# ------------------------------------------------------------------------------------- what cannot be judged


def test_what_could_not_be_judged_is_said(tmp_path: Path) -> None:
    table = truth()
    table[TRAIN:] = False
    found = Case(tmp_path / "untagged", table).judge()
    assert not found.findings
    assert "no tags, nothing can be compared" in found.summary
    assert found.unjudged == (
        "No photograph of split val has a tag: whether the network finds what is there was not judged.",
    )
    assert not found.judged
    rare = truth()
    rare[TRAIN + 1 :, FOX] = False
    found = Case(tmp_path / "rare", rare).judge()
    assert any("fox" in text and "fewer than 5" in text for text in found.unjudged)
    case = Case(tmp_path / "alone")
    case.data["photographs"] = planted.photographs(tmp_path / "all.json", [np.zeros((SIDE, SIDE, 3), np.uint8)] * N)
    found = case.judge()
    assert found.unjudged[0].startswith("Split val is empty")
    assert found.summary == "No network was judged."


def test_without_a_network_labels_and_tags_are_judged(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.labels = [np.zeros((SIDE, SIDE), np.uint8) if i < TRAIN else None for i in range(N)]
    stages = case.stages()[:-1]
    found = verdict.judge(replace(evidence.gather(Dataset(**case.data), stages, None), sure=None))
    assert only(found, "labels lose a class").classes == tuple(NAMES[1:])
    assert found.unjudged == ("The recipe ends before a network: only its tags and labels were judged.",)


def test_no_more_photographs_are_looked_at_than_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MOST", 10)
    asked: list[int] = []
    case = Case(tmp_path)

    def answer(i: int) -> np.ndarray:
        asked.append(i)
        return drawn(case.there[i])

    found = case.judge(answer)
    assert len(asked) == len(set(asked)) == 10 and min(asked) >= TRAIN
    assert "On 10 of 32 val photographs" in found.summary


def test_a_data_set_without_background(tmp_path: Path) -> None:
    """Class 0 is a class like others, and there is no background to collapse to."""
    base = Case(tmp_path / "with", recipe=CLEAN).evidence()
    found = replace(base, background=None)
    assert not verdict.judge(found).findings
    assert list(found.foreground) == [0, 1, 2, 3, 4]


# ------------------------------------------------------------------------------------------------- the numbers


def test_shares_are_those_of_the_label_maps(tmp_path: Path) -> None:
    case = Case(tmp_path, recipe=CLEAN)
    half = drawn(case.there[0])
    half[:10] = VOID
    case.labels = [half, *([None] * (N - 1))]
    found = case.evidence()
    assert found.labels is not None and found.network is not None
    assert found.labels.pixels[-1] == 0.5
    expected = [(half == k).mean() for k in range(len(NAMES))]
    assert found.labels.pixels[:-1] == pytest.approx(expected)
    means = np.mean([[(drawn(row) == k).mean() for k in range(len(NAMES))] for row in case.there[TRAIN:]], 0)
    assert found.network.pixels[:-1] == pytest.approx(means)
    assert (found.network.there[:, 1:] == case.there[TRAIN:, 1:]).all()


def test_soft_labels_count_as_their_most_probable_class(tmp_path: Path) -> None:
    case, grid = Case(tmp_path), 4
    maps = np.zeros((N, 2, SIDE // grid, SIDE // grid))
    maps[:, 0], maps[:, 1, :2] = 0.4, 0.6  # two of five rows of cells are cats
    maps[:, :, -1] = 0  # one is open
    slots = np.tile([0, CAT], (N, 1))
    path = tmp_path / "soft.json"
    planted.soft(path, maps, slots, grid, len(NAMES), np.arange(N) < 3, names=NAMES)
    entry = {"step": "simple", "method": "simple", "folder": "x", "kind": "soft", "manifest": str(path)}
    (stage,) = ladder.read_stages(json.dumps([entry]))
    found = evidence.taught_by(Dataset(**case.data), stage, case.tags)
    assert found is not None and found.of == 3
    assert found.pixels.tolist() == pytest.approx([0.4, 0.4, 0, 0, 0, 0.2])


def test_the_classifier_is_the_first_one_and_looks_at_val(tmp_path: Path) -> None:
    case = Case(tmp_path)
    stages = case.stages()
    found = evidence.gather(Dataset(**case.data), stages, lambda i: drawn(case.there[i])).sure
    assert found is not None and found.name == "classify"
    model, pictures = load_classifier(stages[0].artifact), case.data["photographs"]
    rgb = np.stack([photographs.image(pictures, i) for i in range(TRAIN, N)])
    expected = tag_scores(model, rgb, device="cpu", precision="f32").numpy()
    assert found.scores == pytest.approx(expected, abs=1e-4)
    assert (found.tags == case.tags[TRAIN:, 1:]).all()


def test_the_ranking_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    scores, tagged = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in scores[tagged] for b in scores[~tagged]]
    assert evidence.ranked(scores, tagged) == pytest.approx(np.mean(pairs))
    assert np.isnan(evidence.ranked(scores, np.ones(40, bool)))


def test_likeness_of_tags_is_the_mean_over_pairs() -> None:
    table = np.random.default_rng(0).random((12, 5)) < 0.3
    table[0] = table[1] = False  # two photographs that show nothing are alike
    index = []
    for i in range(12):
        for j in range(i):
            either = (table[i] | table[j]).sum()
            index.append((table[i] & table[j]).sum() / either if either else 1)
    assert evidence.alike(table) == pytest.approx(np.mean(index))


def test_groups_are_chains_of_pairs() -> None:
    table = np.zeros((20, 6), bool)
    table[:, 1:4] = np.arange(20)[:, None] < 10
    table[0, 1] = table[9, 3] = False
    table[:, 4] = np.arange(20) >= 12
    table[:2, 5] = True  # too few to say anything
    assert evidence.together(table, range(1, 6), 0.9, 5) == [[1, 2, 3]]
    assert evidence.together(table, range(1, 6), 0.95, 5) == []


def test_a_share_is_never_rounded_to_nothing_or_to_all() -> None:
    assert [percent(x) for x in (0, 0.001, 0.5, 0.999, 1)] == ["0 %", "under 1 %", "50 %", "over 99 %", "100 %"]


# ---------------------------------------------------------------------------- page, index, end of the run


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of two recipes of one data set, as the rules make them: one collapsed, one not; and the index."""
    folder = tmp_path_factory.mktemp("told")
    case = Case(folder / "data", recipe=CLEAN)
    case.stages()
    given = [word for kind, made in case.data.items() for word in (f"--{kind}", str(made.path))]
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for recipe, answer in (("useless", np.zeros((SIDE, SIDE), np.uint8)), ("fine", None)):
            door = Door(answer)
            if answer is None:  # by the photograph that it is shown
                pictures = {planted_key(case, i): drawn(case.there[i]) for i in range(N)}
                door.predict_labels = lambda net, rgb, *rest, by=pictures, **more: by[rgb.tobytes()]  # type: ignore[method-assign]
            patch.setitem(sys.modules, "pipeline.networks.door", door)
            out = folder / "report" / f"{recipe}-seed0.html"
            listing = out.with_suffix(".listing.json")
            stages = ["--stages", json.dumps(case.entries), "--listing", str(listing), "--out", str(out)]
            page.main(["--recipe", recipe, "--seed", "0", *given, *stages, "--threads", "1", "--show", "2"])
            found[recipe] = out
        out = folder / "report" / "index.html"
        listings = [str(found[recipe].with_suffix(".listing.json")) for recipe in ("useless", "fine")]
        index.main([*given, "--threads", "1", "--show", "2", "--out", str(out), "--listings", *listings])
        found["index"] = out
    return found


def planted_key(case: Case, i: int) -> bytes:
    return photographs.image(case.data["photographs"], i).tobytes()


def words(path: Path) -> str:
    return " ".join(" ".join(Outline(path.read_text()).words).split())


def test_the_verdict_stands_at_the_top_of_the_page(told: dict[str, Path]) -> None:
    top = words(told["useless"]).split("Protocol")[1]  # the first is the link to it
    assert "Collapse to background. The network (ce) says background on 100 % of the pixels" in top
    assert "Next: Try more masks ( few.fraction , where" in top and "ImageNet's weights to begin with" in top
    fine = words(told["fine"])
    assert "Nothing suspicious." in fine and "Next:" not in fine and not re.search(r"\bnan\b", fine.lower())


def test_the_listing_has_it_and_the_index_names_each_recipe(told: dict[str, Path]) -> None:
    listing = ladder.read_listing(told["useless"].with_suffix(".listing.json"))
    assert listing.verdict is not None and kinds(listing.verdict) == ["collapse to background"]
    shown = words(told["index"])
    assert shown.index("useless: collapse to background.") < shown.index("Means over the seeds")  # below the table
    assert "Nothing suspicious, judged without true masks: fine." in shown


def test_the_end_of_a_run_names_report_model_and_warnings(told: dict[str, Path]) -> None:
    listings = [str(told[recipe].with_suffix(".listing.json")) for recipe in ("useless", "fine")]
    found = ending.lines(str(told["index"]), listings)
    text = "\n".join(found)
    model = ladder.read_listing(Path(listings[0])).stages[-1].manifest
    assert found[0] == f"Report: {told['index']}"
    assert f"Model:  {model}" in found
    assert f"  python -m pipeline.predict {model} \\\n    PHOTOS --out MASKS" in text
    assert "Warning: useless\n  - Collapse to background. The network" in text
    assert "Nothing suspicious: fine" in text
    assert all(len(line) <= 80 for line in text.splitlines() if str(told["index"].parent.parent) not in line)


def of_seed(recipe: str, seed: int, findings: int, folder: Path) -> str:
    entry = {"step": "ce", "method": "segment", "folder": "ce", "kind": "model"}
    wrong = [Finding(kind=f"kind {k}", found="f " * 60, means="m", next="n " * 60) for k in range(findings)]
    stages = [{**entry, "manifest": f"results/my photos/{recipe}/seed{seed}/ce/model.json"}]
    judged = Verdict(summary="s", findings=tuple(wrong))
    listing = Listing.model_validate({"recipe": recipe, "seed": seed, "page": "p", "stages": stages, "verdict": judged})
    path = folder / f"{recipe}-{seed}.listing.json"
    path.write_text(listing.model_dump_json())
    return str(path)


def test_the_end_of_many_recipes_is_short(tmp_path: Path) -> None:
    listings = [of_seed(f"r{k}", seed, 5, tmp_path) for k in range(10) for seed in (0, 1)]
    found = "\n".join(ending.lines("report.html", listings)).splitlines()
    assert sum(line.startswith("Model:") for line in found) == ending.MODELS
    assert "        and 14 more: the report names them" in found
    assert sum(line.startswith("Warning: r") for line in found) == ending.RECIPES
    assert "Warning: 4 more recipes, see the report" in found
    assert "  - and 2 more: see its page" in found
    assert any("(seeds 0, 1)" in line for line in found)
    assert max(map(len, found)) <= 80


def test_the_command_names_a_model_without_warnings_and_is_quoted(tmp_path: Path) -> None:
    listings = [of_seed("bad", 0, 1, tmp_path), of_seed("good", 0, 0, tmp_path)]
    text = "\n".join(ending.lines("report.html", listings))
    assert "python -m pipeline.predict 'results/my photos/good/seed0/ce/model.json' \\" in text


def snakemake(**changed: object) -> SimpleNamespace:
    """What is looked at of Snakemake's workflow."""
    chosen = {"targets": set(), "target_jobs": set(), "until": set(), "omit_from": set(), **changed}
    return SimpleNamespace(dag_settings=SimpleNamespace(**chosen))


@pytest.mark.parametrize(
    ("chosen", "speaks"),
    [
        ({}, True),
        ({"targets": {"all"}}, True),
        ({"targets": {"verify"}}, False),
        ({"targets": {"results/demo/photographs.json"}}, False),
        ({"target_jobs": {"x"}}, False),
        ({"until": {"cam"}}, False),
    ],
)
def test_only_a_run_of_everything_is_told(chosen: dict, speaks: bool) -> None:
    said: list[str] = []
    ending.tell(snakemake(**chosen), "report.html", [], said.append, said.append)
    assert bool(said) is speaks


def test_the_end_never_fails_a_run(tmp_path: Path) -> None:
    broken = tmp_path / "broken.listing.json"
    broken.write_text("{")
    said: list[str] = []
    ending.tell(snakemake(), "report.html", [str(broken), str(tmp_path / "missing.json")], said.append, said.append)
    assert said == ["\nReport: report.html\n"]
    ending.tell(SimpleNamespace(), "report.html", [], said.append, said.append)
    assert "the report is report.html" in said[-1]


def test_the_end_imports_nothing_heavy() -> None:
    program = (
        "import sys; from pipeline.report import ending\n"
        "heavy = {'torch', 'zarr', 'numpy', 'PIL', 'scipy', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_was_not_judged_is_not_called_fine(tmp_path: Path) -> None:
    few = truth()
    few[TRAIN + 4 :] = False
    found = Case(tmp_path, few).judge()
    assert not found.judged and not found.findings and "Nothing suspicious" not in found.summary
    assert found.unjudged == ("4 photographs of split val have tags: at least 5 are needed to judge by.",)
    listing = of_seed("r", 0, 0, tmp_path)
    told = json.loads(Path(listing).read_text())
    told["verdict"]["judged"] = False
    Path(listing).write_text(json.dumps(told))
    assert ending.lines("report.html", [listing])[-1] == "Too little on val to judge by: r"


def test_renumbered_classes_are_said(tmp_path: Path) -> None:
    """By data.classes: fox was 3 in the data set's masks and is 1 here."""
    table = np.zeros((6, 2), bool)
    table[:, 1] = True
    pictures = [np.zeros((SIDE, SIDE, 3), np.uint8)] * 6
    maps = [np.ones((SIDE, SIDE), np.uint8)] * 6
    data = planted.dataset(tmp_path, pictures, table, maps, names=["background", "fox"], train=range(4))
    values = np.full(256, -1, np.int16)
    values[[0, 3, VOID]] = 0, 1, VOID
    assert page.facts.renumbered(Dataset(**data)) == []  # nothing is known
    np.savez(tmp_path / "inventory.npz", values=values)
    assert page.facts.renumbered(Dataset(**data)) == [("fox", 3)]
    page.run("x", 0, Dataset(**data), [], page.Evaluate(), 2, tmp_path / "x.html")
    assert "data.classes numbers the classes anew" in words(tmp_path / "x.html")
    assert "fox is 3" in words(tmp_path / "x.html")
    values[[1, 3]] = 1, -1
    np.savez(tmp_path / "inventory.npz", values=values)
    assert page.facts.renumbered(Dataset(**data)) == []
