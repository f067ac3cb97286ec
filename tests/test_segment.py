"""Training on label maps, hard and soft: what is learned is what they say, and nothing where they say nothing."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import planted
import pytest
from colours import colour_trunk, plain

from pipeline import contrast, dis, psl, segment
from pipeline.core import store
from pipeline.core.job import InputError
from pipeline.core.steps.labels import Masks
from pipeline.core.steps.models import Dis, Psl, Segment
from pipeline.core.steps.weights import Contrast
from pipeline.kinds.labels import taught
from pipeline.networks.backbones import backbone
from pipeline.networks.door import open_network, predict_labels
from pipeline.networks.segmenter import Segmenter, segmenter_meta
from pipeline.networks.states import packed

COLOURS = [(20, 20, 20), (220, 40, 40), (40, 60, 220)]
SETTINGS = Segment(
    head="largefov",
    stride=32,
    width=32,
    crop=64,
    scale=(1.0, 1.0),
    jitter=0,
    batch=6,
    epochs=40,
    lr=1e-5,  # the backbone knows colours already
    head_lr=2000.0,
    optimizer="adamw",
    weight_decay=0,
    schedule="cosine",
)


def pictures() -> list[np.ndarray]:
    """Two of each colour, and one of split val."""
    return [plain(64, 64, COLOURS[k % 3]) for k in range(6)] + [plain(64, 64, (0, 255, 0))]


def world(folder: Path) -> dict[str, store.Artifact]:
    return {
        "photographs": planted.photographs(folder / "p.json", pictures(), train=range(6)),
        "weights": planted.weights(folder / "w.json", colour_trunk()),
    }


def learned(given: dict[str, store.Artifact], out: Path, settings: Segment = SETTINGS) -> np.ndarray:
    """Probabilities [3,C] of the three colours once trained."""
    segment.run(planted.job(settings, out, given))
    network = open_network(store.Artifact(out, "model"))
    return np.stack([network.probabilities(rgb[None])[0].mean((1, 2)).numpy() for rgb in pictures()[:3]])


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # TensorBoard's files


def test_hard_labels_are_learned_and_void_says_nothing(tmp_path: Path) -> None:
    """Colour k is class k on the left half of its pictures; the right half is void. One picture is not covered."""
    given = world(tmp_path)
    maps = [np.where(np.arange(64) < 32, k % 3, 255)[None].repeat(64, 0).astype(np.uint8) for k in range(6)]
    given["labels"] = planted.labels(tmp_path / "l.json", [*maps, None], 64, 4, background=None)
    found = learned(given, tmp_path / "m.json")
    assert found.argmax(1).tolist() == [0, 1, 2]
    assert found.max(1).min() > 0.8
    made = store.Artifact(tmp_path / "m.json", "model")
    assert made.meta["classes"] == planted.class_names(4, None)
    assert (made.meta["background"], made.meta["max_side"]) == (None, 64)
    curve = made.read("curve_loss")
    assert len(curve) == SETTINGS.epochs and curve[-1] < 0.5 < curve[0]
    rgb = np.concatenate([plain(64, 32, COLOURS[k]) for k in (2, 0, 1)], 1)
    labels = predict_labels(open_network(made), rgb, (64, 96))
    assert [int(np.median(labels[:, 32 * k + 8 : 32 * k + 24])) for k in range(3)] == [2, 0, 1]


def test_soft_labels_are_learned_as_probabilities(tmp_path: Path) -> None:
    """Dark is class 0; red is class 1 or 3, three to one; blue class 3 or 0, evenly."""
    given = world(tmp_path)
    said = [{0: 1.0}, {1: 0.75, 3: 0.25}, {3: 0.5, 0: 0.5}]
    slots, maps = np.full((7, 3), 255), np.zeros((7, 3, 8, 8))
    for i in range(6):
        for k, (number, share) in enumerate(said[i % 3].items()):
            slots[i, k], maps[i, k] = number, share
    covered = np.arange(7) < 6
    given["labels"] = planted.soft(tmp_path / "s.json", maps, slots, 8, 4, covered=covered)
    found = learned(given, tmp_path / "m.json")
    expected = np.array([[said[c].get(k, 0.0) for k in range(4)] for c in range(3)])
    assert abs(found - expected).max() < 0.15
    curve = store.Artifact(tmp_path / "m.json").read("curve_loss")
    entropy = -np.sum(expected * np.log(np.where(expected > 0, expected, 1)), 1).mean()
    assert entropy < curve[-1] < entropy + 0.25 < curve[0], "what the labels leave open stays"


def test_labels_that_cover_nothing_are_a_message(tmp_path: Path) -> None:
    given = world(tmp_path)
    given["labels"] = planted.labels(tmp_path / "l.json", [None] * 7, 64, 3)
    with pytest.raises(InputError, match="these labels cover no image"):
        segment.run(planted.job(SETTINGS, tmp_path / "m.json", given))


@pytest.mark.parametrize("stage", [segment, contrast, psl, dis], ids=lambda stage: stage.__name__)
def test_labels_that_are_void_throughout_are_a_message(stage: ModuleType, tmp_path: Path) -> None:
    """They would train at loss 0 without a word."""
    given = {**world(tmp_path), "tags": planted.tags(tmp_path / "t.json", np.zeros((7, 3)))}
    settings: Any = {segment: Segment, contrast: Contrast, psl: Psl, dis: Dis}[stage](epochs=1, batch=2, crop=64)
    header = planted.header(Masks())
    given["labels"] = planted.labels(tmp_path / "l.json", [*[np.full((64, 64), 255)] * 6, None], 64, 3, header=header)
    said = r"l.json: 0 of 6 photographs have a labelled pixel \(all are 255, void\); write class numbers into the masks"
    with pytest.raises(InputError, match=said):
        stage.run(planted.job(settings, tmp_path / "m.json", given))


def test_soft_labels_without_any_probability_are_a_message(tmp_path: Path) -> None:
    given = world(tmp_path)
    nothing, slots = np.zeros((7, 3, 8, 8)), np.tile(np.arange(3), (7, 1))
    given["labels"] = planted.soft(tmp_path / "s.json", nothing, slots, 8, 3)
    with pytest.raises(InputError, match=r"s.json: 0 of 7 .* \(no class has any probability\); loosen the settings"):
        segment.run(planted.job(SETTINGS, tmp_path / "m.json", given))
    nothing[6, 2, 7, 7] = 0.1
    assert taught(planted.soft(tmp_path / "t.json", nothing, slots, 8, 3)).tolist() == list(range(7))


def test_a_decoder_that_comes_with_the_weights_is_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = world(tmp_path)
    source = Segmenter(backbone("resnet18", 32), "largefov", 4, 32, 32)
    names = planted.class_names(4)
    state = {**source.trunk.state_dict(), **{f"head.{name}": value for name, value in source.head.state_dict().items()}}
    arrays, index = packed(state)
    meta = {**segmenter_meta(source, names, 0, 64), "index": index}
    given["weights"] = planted.table_artifact(tmp_path / "w.json", "weights", arrays, meta)
    given["labels"] = planted.labels(tmp_path / "l.json", [np.zeros((64, 64)), *[None] * 6], 64, 4)
    begun: list[Segmenter] = []
    monkeypatch.setattr(segment.train, "fit", lambda model, *rest, **more: begun.append(model) or {})  # type: ignore[func-returns-value]
    segment.run(planted.job(SETTINGS, tmp_path / "m.json", given))
    for name, value in source.state_dict().items():
        assert (begun[0].state_dict()[name] == value).all()
    assert f"taken over from {tmp_path / 'w.json'}: the backbone, resnet18; 14 of 14 tensors" in capsys.readouterr().out
