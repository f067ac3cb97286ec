"""The page of a run: any recipe, with and without true masks, complete in itself, no number that was not measured."""

from __future__ import annotations

import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import report
from pipeline.core import charts, embedding, gallery, ladder, metrics, show, store
from pipeline.core.config import METHODS, Evaluate
from pipeline.core.data import VOID
from pipeline.core.models import Backbone, Segmenter, backbone, pack

N, S, GRID = 12, 64, 4
CLASSES = ["background", "cat", "dog"]


# ------------------------------------------------------------------------------------------------ a tiny run


class Run:
    """Writes artifacts of a run as the stages would, and remembers them in the recipe's order."""

    def __init__(self, folder: Path, masks: bool = True):
        self.folder, self.stages = folder, []
        rng = np.random.default_rng(0)
        self.rgb = rng.integers(0, 255, (N, S, S, 3), np.uint8)
        self.size = np.tile(np.array([56, 64], np.int32), (N, 1))
        self.mask = np.full((N, S, S), VOID, np.uint8)
        self.tags = np.zeros((N, 2), bool)
        for i in range(N):
            self.tags[i, i % 2] = True
            self.mask[i, :56] = 0
            self.mask[i, 10:40, 10:40] = 1 + i % 2
        rows = {"rgb": self.rgb, "size": self.size, "full_size": self.size, "mask": self.mask, "tags": self.tags}
        rows["has_mask"] = np.full(N, masks)
        if not masks:
            rows["mask"] = np.full_like(self.mask, VOID)
        tables = {"id": store.encode_text([f"photo<{i}>" for i in range(N)]), "split_train": np.arange(8)}
        tables |= {"split_val": np.arange(8, N), "split_score": np.arange(8)}
        meta = {"classes": CLASSES, "format": "folder", "tags_from": "csv", "counts": {}}
        header = store.Header("images", "prepare", {"name": "tiny"}, "c0de")
        self.images = self.folder / "images.json"
        self._rows(self.images, header, rows, meta, tables)

    def _rows(self, path: Path, header: store.Header, rows: dict, meta: dict, tables: dict | None = None) -> None:
        store.write_rows(
            path,
            header,
            {name: (value.shape[1:], value.dtype) for name, value in rows.items()},
            [(i + 1).to_bytes(store.DIGEST, "big") for i in range(N)],
            lambda indices: ({name: value[i] for name, value in rows.items()} for i in indices),
            meta,
            tables=tables,
        )

    def add(self, step: str, method: str, arrays: dict, meta: dict, rows: bool = False, **settings: object) -> None:
        kind = METHODS[method].makes
        path = self.folder / f"{len(self.stages)}-{step}" / f"{kind}.json"
        values = METHODS[method].model_validate({"method": method, **settings})
        parents = {}
        for wanted in (kind.removesuffix("?") for kind in METHODS[method].takes):
            before = [entry for entry in self.stages if entry["kind"] == wanted]
            if before:
                parents[wanted] = store.Artifact(before[-1]["manifest"]).digest
        header = store.Header(kind, METHODS[method].stage, values.model_dump(mode="json"), "c0de", 0, "f32", parents)
        if rows:
            self._rows(path, header, arrays, meta)
        else:
            store.write_table(path, header, arrays, meta)
        entry = {"step": step, "method": method, "folder": step, "kind": kind, "manifest": str(path)}
        self.stages.append(entry | {"metrics": None, "benchmark": None})

    def score(self, matrices: np.ndarray, split: str, levels: list) -> None:
        path = Path(self.stages[-1]["manifest"]).with_suffix(".metrics.json")
        meta = {"classes": CLASSES, "of": self.stages[-1]["kind"], "splits": [split], "images": {split: 8}}
        header = store.Header("metrics", "evaluate", {}, "c0de")
        store.write_table(path, header, {"confusion": matrices[None]}, {**meta, "thresholds": levels})
        self.stages[-1]["metrics"] = str(path)

    def matrix(self, quality: float) -> np.ndarray:
        """Confusion matrix of labels that are right with this chance; a tenth is unlabelled."""
        out = np.zeros((3, 4), np.int64)
        for k in range(3):
            out[k] = 1000 * (1 - quality) / 3
            out[k, k] += int(1000 * quality)
            out[k, 3] = 100
        return out

    def weights(self, step: str, method: str, seed: int, **settings: object) -> None:
        torch.manual_seed(seed)
        arrays, index = pack(backbone("resnet18").state_dict())
        curve = {"curve_loss": np.linspace(1, 0.5, 4, dtype=np.float32)} if method != "random" else {}
        self.add(step, method, {**arrays, **curve}, {"index": index, "backbone": "resnet18", "gray": False}, **settings)

    def model(self) -> None:
        torch.manual_seed(0)
        arrays, index = pack(Segmenter(backbone("resnet18", 32), "deeplabv3+", 3, 16, 32).state_dict())
        meta = {"index": index, "backbone": "resnet18", "gray": False, "stride": 32, "head": "deeplabv3+"}
        meta |= {"width": 16, "classes": CLASSES, "max_side": S}
        self.add("ce", "segment", {**arrays, "curve_loss": np.array([1, 0.5], np.float32)}, meta)
        self.score(self.matrix(0.6)[None], "val", [None])

    def seeds(self, step: str, rounds: list[dict], stop: str = "") -> None:
        side = S // GRID
        scores = np.random.default_rng(1).random((N, 4, side, side)).astype(np.float16)
        first = np.zeros((N, 4, side, side), np.uint8)
        first[:, 0, 2:9, 2:9] = len(rounds) if len(rounds) > 1 else 0
        classes = np.full((N, 4), VOID, np.uint8)
        classes[:, 0] = 1 + np.arange(N) % 2
        method = "cam" if len(rounds) == 1 else "erase"
        rows = {"scores": scores, "classes": classes, "first": first}
        self.add(step, method, rows, {"grid": GRID, "classes": CLASSES, "rounds": rounds}, rows=True)
        levels: list = [0.25, 0.5, 0.75]
        matrices = [self.matrix(0.3), self.matrix(0.2), self.matrix(0.1)]
        if len(rounds) > 1:
            levels, matrices = [*levels, "mined"], [*matrices, self.matrix(0.5)]
        self.score(np.stack(matrices), "score", levels)

    def labels(self, step: str, method: str, covered: int = 8, **settings: object) -> None:
        rows = {"labels": self.mask, "covered": np.arange(N) < covered}
        self.add(step, method, rows, {"classes": CLASSES}, rows=True, **settings)
        self.score(self.matrix(0.7)[None], "score", [None])

    def page(self, **options: object) -> str:
        out = self.folder / "report" / "page.html"
        evaluate = Evaluate(**options)
        report.run("card", 0, self.images, json.dumps(self.stages), evaluate, 3, out)
        return out.read_text()


def whole_chain(folder: Path) -> Run:
    """Two rounds of erasing, the second of which stopped, and a third that only passed on."""
    run = Run(folder)
    run.weights("random", "random", 0)
    run.seeds("cam", [{"loss": 0.5}])
    run.seeds("ae", [{"loss": 0.5}, {"loss": 0.6, "recall": 0.9, "mined": 0.2, "stop": ""}])
    stopped = [{"loss": 0.5}, {"loss": 0.6, "recall": 0.9, "mined": 0.2}, {"loss": 2.1, "recall": 0.4, "stop": "over"}]
    run.seeds("ae", stopped)
    run.seeds("ae", stopped)
    run.add("saliency", "saliency", {"saliency": run.rgb[..., 0]}, {}, rows=True)
    run.labels("crf", "crf")
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 30, (40, 2))
    bank = {
        "image": np.repeat(np.arange(8), 5),
        "draw": np.zeros(40, np.int32),
        "class": rng.integers(0, 3, 40, np.uint8),
    }
    bank["box"] = np.concatenate([corner, corner + 24], 1).astype(np.int32)
    run.add("patches", "patches", bank, {"classes": CLASSES, "size": 32})
    run.weights("triplet", "triplet", 1, pool=2)
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
def page(chain: Run) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "sklearn.manifold", None)  # importing it may take longer than all else
        return chain.page()


# -------------------------------------------------------------------------------------------------- the page


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    outline = Outline(page)
    assert not outline.open
    assert all(address.startswith(("data:", "#")) for address in outline.addresses)
    assert {address[1:] for address in outline.addresses if address.startswith("#")} <= set(outline.ids)
    assert "<script" not in page
    assert "http" not in page
    assert len(page) < 8e6


def test_every_part_of_the_whole_chain_is_there(page: str) -> None:
    wanted = {"protocol", "ladder", "classes", "stages", "erasing", "predictions"}
    wanted |= {"patches", "embedding", "curves", "settings", "cost"}
    assert wanted <= set(Outline(page).ids)
    assert not re.search(r"\bnan\b", " ".join(Outline(page).words).lower())


def test_names_from_outside_are_escaped(page: str) -> None:
    assert "photo&lt;" in page
    assert "photo<" not in page


def test_numbers_are_those_of_the_confusion_matrix(chain: Run, page: str) -> None:
    assert f"{100 * metrics.miou(chain.matrix(0.6)):.1f} %" in page
    assert f"{100 * metrics.miou(chain.matrix(0.7), 'ignore'):.1f}" in page


def test_time_and_memory_come_from_the_benchmark(page: str) -> None:
    assert "2:06 min" in page
    assert "2.05 GB" in page
    assert "not measured" in page


def test_a_round_after_the_stop_is_said_to_pass_on(page: str) -> None:
    assert "stopped: over" in page
    assert "passed the seeds on unchanged" in page


def test_without_true_masks_nothing_is_claimed(tmp_path: Path) -> None:
    run = Run(tmp_path, masks=False)
    run.seeds("cam", [{"loss": 0.5}])
    run.labels("crf", "crf")
    for entry in run.stages:
        scored = store.Artifact(entry["metrics"])
        run.score(np.zeros(scored["confusion"].shape[1:], np.int64), "score", scored.meta["thresholds"])
        entry["metrics"] = run.stages[-1]["metrics"]
    page = run.page()
    assert "No scores" in page
    assert not re.search(r"\bnan\b", " ".join(Outline(page).words).lower())


def test_a_supervised_run_has_no_seeds_and_still_a_page(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.labels("masks", "masks", covered=3, fraction=0.3)
    run.weights("random", "random", 0)
    run.model()
    page = run.page(flip=True)
    ids = set(Outline(page).ids)
    assert {"ladder", "stages", "predictions", "curves"} <= ids
    assert not ids & {"erasing", "patches", "embedding"}


def test_bad_input_is_said_in_one_line(chain: Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--recipe", "x", "--images", str(chain.images), "--out", str(tmp_path / "x.html"), "--stages"]
    for stages, extra, words in (
        ("missing.json", [], "--stages"),
        ("[]", ["--evaluate", '{"typo": 1}'], "typo"),
        (json.dumps([{**chain.stages[0], "manifest": "no.json"}]), [], "no.json"),
    ):
        with pytest.raises(SystemExit) as stop:
            report.main([*arguments, stages, *extra])
        assert stop.value.code == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


# ---------------------------------------------------------------------------------------------------- scores


def test_seeds_are_shown_at_the_threshold_that_is_used_and_at_the_best(chain: Run) -> None:
    stages = ladder.read_stages(json.dumps(chain.stages))
    cam, ae = stages[1], stages[2]
    assert ladder.used_threshold(cam, stages) == (0.5, "ae 1")
    assert [(s.look, s.what.split(",")[0]) for s in ladder.scores_of(cam, stages)] == [
        ("main", "scores > 0.5"),
        ("best", "scores > 0.25"),
    ]
    assert [(s.look, s.what.split(",")[0]) for s in ladder.scores_of(ae, stages)] == [
        ("main", "mined region"),
        ("best", "scores > 0.25"),
    ]


def test_a_step_that_occurs_often_is_numbered(chain: Run) -> None:
    names = [stage.name for stage in ladder.read_stages(json.dumps(chain.stages))]
    assert names == ["random", "cam", "ae 1", "ae 2", "ae 3", "saliency", "crf", "patches", "triplet", "ce"]


@pytest.mark.parametrize("text", ["", "s\tmax_rss\n", "s\tmax_rss\n-\tNA\n"])
def test_a_benchmark_without_numbers_gives_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.tsv"
    path.write_text(text)
    found = ladder.read_benchmark(str(path))
    assert found is None or math.isnan(found["seconds"])


# ------------------------------------------------------------------------------------------------- embedding


def test_silhouette_follows_its_definition() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    classes = np.array([0] * 8 + [1] * 11 + [2])
    expected = []
    for i in range(20):
        distance = np.linalg.norm(vectors - vectors[i], axis=1)
        own = (classes == classes[i]) & (np.arange(20) != i)
        if not own.any():
            expected.append(0.0)
            continue
        a = distance[own].mean()
        b = min(distance[classes == k].mean() for k in range(3) if k != classes[i])
        expected.append((b - a) / max(a, b))
    assert embedding.silhouette(vectors, classes) == pytest.approx(np.mean(expected), abs=1e-6)


def test_a_neighbour_from_the_same_image_does_not_count() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    classes = np.array([0, 0, 1, 1])
    assert embedding.neighbour_accuracy(vectors, classes, np.array([0, 1, 2, 3])) == 1
    assert embedding.neighbour_accuracy(vectors, classes, np.array([0, 0, 1, 1])) == 0
    assert math.isnan(embedding.neighbour_accuracy(vectors, classes, np.zeros(4, int)))


def test_patches_are_chosen_evenly_and_always_the_same(chain: Run) -> None:
    bank = store.Artifact(next(e["manifest"] for e in chain.stages if e["kind"] == "patches"))
    rows = embedding.choose_patches(bank, 12)
    assert rows.tolist() == embedding.choose_patches(bank, 12).tolist()
    assert np.ptp(np.bincount(bank.read("class")[rows])) == 0


def test_flatten_separates_what_is_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    vectors = np.eye(2, 6, dtype=np.float32)[[0, 1, 0, 1]] + np.random.default_rng(0).normal(0, 0.01, (4, 6))
    points, method = embedding.flatten(vectors)
    assert method == "PCA"
    assert points.shape == (4, 2)
    assert (points[::2, 0] > 0).all() != (points[1::2, 0] > 0).all()


def test_features_have_length_one() -> None:
    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x[:, :, ::8, ::8].float()]

    patches = np.random.default_rng(0).integers(1, 255, (5, 32, 32, 3), np.uint8)
    net: Backbone = Constant()  # type: ignore[assignment]
    vectors = embedding.features(net, patches, 2, "cpu", "f32")
    assert vectors.shape == (5, 12)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


# -------------------------------------------------------------------------------------------------- pictures


def test_palette_is_vocs() -> None:
    colours = show.palette(256)
    assert colours[[0, 1, 2, 3, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]
    assert len(np.unique(colours, axis=0)) == 256


def test_palette_png_keeps_every_value(tmp_path: Path) -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    path = tmp_path / "x.png"
    path.write_bytes(show.palette_png(labels))
    with Image.open(path) as picture:
        assert picture.mode == "P"
        assert (np.asarray(picture) == labels).all()


def test_overlay_tints_objects_and_leaves_other_sizes_to_it() -> None:
    rgb = np.full((40, 60, 3), 100, np.uint8)
    labels = np.zeros((20, 30), np.uint8)
    labels[5:15, 5:15] = 1
    drawn = show.overlay(rgb, labels)
    assert drawn.shape == rgb.shape
    assert drawn[20, 20, 0] > drawn[20, 20, 1] + 40
    assert np.ptp(drawn[2, 2]) == 0


def test_edges_lie_on_both_sides() -> None:
    labels = np.zeros((4, 6), np.uint8)
    labels[:, 3:] = 1
    assert show.edges(labels).any(0).tolist() == [False, False, True, True, False, False]
    assert show.edges(labels, 2).sum() == 16


def test_shown_images_are_spread_over_the_classes() -> None:
    tags = np.zeros((30, 3), bool)
    tags[:26, 0] = True
    tags[26:28, 1] = True
    tags[28:, 2] = True
    rows = gallery.spread(tags, np.arange(30), 6)
    assert rows == gallery.spread(tags, np.arange(30), 6)
    assert tags[rows].sum(0).tolist() == [2, 2, 2]
    assert gallery.spread(tags, np.arange(2), 6) == [0, 1]


# ---------------------------------------------------------------------------------------------------- charts


def test_charts_are_empty_without_values() -> None:
    assert charts.ladder([], {}) == ""
    assert charts.lines([charts.Line("x", [1, 2], [math.nan, math.nan])], "t") == ""


@pytest.mark.parametrize("values", [[0.0, 0.0], [0.5], [-1.0, 2.0], [1e6, math.nan, 3.0]])
def test_lines_stay_on_the_canvas(values: list[float]) -> None:
    drawn = charts.lines([charts.Line("loss", list(range(len(values))), values)], "epoch", width=340, height=190)
    for circle in drawn.split("<circle")[1:]:
        x, y = (float(circle.split(f'{name}="')[1].split('"')[0]) for name in ("cx", "cy"))
        assert 0 <= x <= 340
        assert 0 <= y <= 190
