"""The training loop: it learns, resumes to the byte, draws every row once an epoch, and stops on nonsense."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from conftest import ENVIRONMENT
from torch import nn

from pipeline.core import train
from pipeline.core.config import Segment

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Event files go to logs/ of the working directory."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)  # a toy network is slower on more


def settings(**changes: object) -> Segment:
    return Segment(**{"epochs": 4, "batch": 4, "lr": 0.05, "head_lr": 1.0, **changes})  # type: ignore[arg-type]


def cut(row: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Row r is a noisy point; its target is linear in it."""
    x = np.random.default_rng(row).normal(size=6).astype(np.float32)
    return {"x": x + rng.normal(0, 0.01, 6).astype(np.float32), "y": x[:2] * 3}


def step(net: nn.Module, batch: dict[str, torch.Tensor]) -> train.Losses:
    return {"loss": ((net(batch["x"]) - batch["y"]) ** 2).mean()}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))


def bytes_of(model: nn.Module) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


# ----------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize(("optimizer", "faster"), [("sgd", 1.0), ("adamw", 4.0)])
def test_the_loss_falls(optimizer: str, faster: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 2)
    job = planted.job(settings(epochs=8, optimizer=optimizer, head_lr=faster), tmp_path / "x.json")
    curves = train.fit(model, np.arange(32), cut, step, job, heads=lambda net: list(net.parameters()))
    assert list(curves) == ["curve_loss"]
    assert curves["curve_loss"].dtype == np.float32
    assert curves["curve_loss"].shape == (8,)
    assert curves["curve_loss"][-1] < 0.3 * curves["curve_loss"][0]
    assert not model.training


def test_curves_are_means_per_epoch_also_of_a_part_of_one(tmp_path: Path) -> None:
    """2.5 epochs of four iterations: three points, the last from two iterations."""
    seen: list[float] = []

    def noting(net: nn.Module, batch: dict[str, torch.Tensor]) -> train.Losses:
        losses = {**step(net, batch), "other": (net(batch["x"]) ** 2).mean()}
        seen.append(float(losses["loss"].detach()))
        return losses

    curves = train.fit(network(), np.arange(18), cut, noting, planted.job(settings(epochs=2.5), tmp_path / "x.json"))
    assert set(curves) == {"curve_loss", "curve_other"}
    assert len(seen) == 10
    expected = [np.mean(seen[:4]), np.mean(seen[4:8]), np.mean(seen[8:])]
    np.testing.assert_allclose(curves["curve_loss"], expected, rtol=1e-5)


def test_fewer_rows_than_a_batch(tmp_path: Path) -> None:
    sizes = []

    def noting(net: nn.Module, batch: dict[str, torch.Tensor]) -> train.Losses:
        sizes.append(len(batch["x"]))
        return step(net, batch)

    curves = train.fit(network(), np.arange(3), cut, noting, planted.job(settings(batch=8), tmp_path / "x.json"))
    assert sizes == [3] * 4
    assert curves["curve_loss"].shape == (4,)
    assert train.fit(network(), np.arange(9), cut, noting, planted.job(settings(epochs=0.01), tmp_path / "y.json"))


def test_heads_learn_faster_and_frozen_layers_not_at_all(tmp_path: Path) -> None:
    model = network()
    model[1].requires_grad_(False)
    before = [value.clone() for value in model.parameters()]
    given = settings(epochs=0.01, head_lr=10.0, momentum=0.0, weight_decay=0.0)
    gradients: list[torch.Tensor] = []

    def noting(net: nn.Module, batch: dict[str, torch.Tensor]) -> train.Losses:
        losses = step(net, batch)
        gradients.extend(torch.autograd.grad(losses["loss"], [net[0].weight, net[4].weight], retain_graph=True))
        return losses

    train.fit(
        model, np.arange(8), cut, noting, planted.job(given, tmp_path / "x.json"), lambda net: list(net[4].parameters())
    )
    moved = [a - b for a, b in zip(model.parameters(), before, strict=True)]
    torch.testing.assert_close(moved[0], -0.05 * gradients[0])
    torch.testing.assert_close(moved[4], -0.5 * gradients[1])
    assert not moved[2].any()


def test_bf16_trains_too(tmp_path: Path) -> None:
    kinds = set()

    def noting(net: nn.Module, batch: dict[str, torch.Tensor]) -> train.Losses:
        kinds.add(net[0](batch["x"]).dtype)
        return step(net, batch)

    job = planted.job(settings(epochs=6), tmp_path / "x.json", precision="bf16")
    model = network()
    curves = train.fit(model, np.arange(16), cut, noting, job)
    assert kinds == {torch.bfloat16}
    assert curves["curve_loss"][-1] < curves["curve_loss"][0]
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_do(tmp_path: Path) -> None:
    count = iter(range(100))

    def bad(net: nn.Module, batch: dict[str, torch.Tensor]) -> train.Losses:
        return {"loss": step(net, batch)["loss"] * (float("nan") if next(count) == 5 else 1)}

    job = planted.job(settings(lr=0.25), tmp_path / "x.json")
    with pytest.raises(
        FloatingPointError,
        match=r"x\.json: loss is nan at iteration 6 of 16; lower lr \(now 0.25\) or use --precision f32",
    ):
        train.fit(network(), np.arange(16), cut, bad, job)


def test_schedules() -> None:
    def rates(at: list[float], **changes: object) -> list[float]:
        return [train.rate(settings(**changes), t) for t in at]

    assert rates([0, 0.5, 0.9], schedule="poly") == pytest.approx([1, 0.5**0.9, 0.1**0.9])
    assert rates([0, 0.5, 1], schedule="cosine") == pytest.approx([1, 0.5, 0])
    assert rates([0, 0.49, 0.5, 0.74, 0.75, 0.99], schedule="step", milestones=(0.5, 0.75)) == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert rates([0, 0.3, 1], schedule="constant") == [1, 1, 1]
    assert rates([0, 0.05, 0.1, 0.2], schedule="constant", warmup=0.1) == pytest.approx([0.01, 0.5, 1, 1])


# ------------------------------------------------------------------------------------------- what is drawn when


def drawn(count: int, batch: int, epochs: int, first: int = 0) -> list[int]:
    plan = train._Plan(
        lambda row, rng: {"row": np.array(row)},
        np.arange(count) + 100,
        0,
        batch,
        first,
        epochs * max(1, count // batch),
    )
    return [int(plan[k]["row"]) for k in range(len(plan))]


@pytest.mark.parametrize(("count", "batch"), [(12, 4), (13, 4), (3, 8), (5, 1)])
def test_an_epoch_draws_each_row_once(count: int, batch: int) -> None:
    size = max(1, count // batch) * min(batch, count)
    numbers = drawn(count, batch, 3)
    assert len(numbers) == 3 * size
    epochs = [numbers[k * size : (k + 1) * size] for k in range(3)]
    for epoch in epochs:
        assert len(set(epoch)) == size
        assert set(epoch) <= set(range(100, 100 + count))
    assert epochs[0] != epochs[1] or size == 1
    assert drawn(count, batch, 3, first=1) == numbers[min(batch, count) :], "a resumed plan goes on where it stopped"


def test_a_row_is_cut_differently_in_every_epoch() -> None:
    plan = train._Plan(lambda row, rng: {"row": np.array(row), "draw": rng.random(1)}, np.arange(4), 0, 2, 0, 6)
    samples = [plan[k] for k in range(len(plan))]
    assert len({float(sample["draw"][0]) for sample in samples}) == 12
    other = train._Plan(plan.cut, plan.rows, 1, 2, 0, 6)
    assert [int(other[k]["row"]) for k in range(12)] != [int(sample["row"]) for sample in samples]


def test_loader_processes_change_nothing(tmp_path: Path) -> None:
    made = []
    for workers in (0, 2):
        model = network()
        train.fit(
            model,
            np.arange(14),
            cut,
            step,
            planted.job(settings(epochs=2), tmp_path / f"{workers}.json", workers=workers),
        )
        made.append(bytes_of(model))
    assert made[0] == made[1]


def test_the_seed_changes_the_run(tmp_path: Path) -> None:
    made = set()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        model = network()
        train.fit(
            model, np.arange(14), cut, step, planted.job(settings(epochs=1), tmp_path / f"{name}.json", seed=seed)
        )
        made.add(bytes_of(model))
    assert len(made) == 2


# ------------------------------------------------------------------------------------------------------ resuming

RUN = """
import sys, time
from pathlib import Path
import numpy as np, torch
sys.path.insert(0, {tests!r})
import planted, test_train
from pipeline.core import train

torch.set_num_threads(1)
folder, pause, workers = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])

def step(net, batch):
    time.sleep(pause)
    print("step", flush=True)
    return test_train.step(net, batch)

model = test_train.network()
job = planted.job(test_train.settings(optimizer=sys.argv[4]), folder / "x.json", workers=workers)
curves = train.fit(model, np.arange(18), test_train.cut, step, job)
(folder / "weights").write_bytes(test_train.bytes_of(model))
np.save(folder / "curve.npy", curves["curve_loss"])
"""


@pytest.mark.parametrize(("optimizer", "workers"), [("sgd", 0), ("adamw", 2)])
def test_sigterm_saves_and_the_rerun_ends_with_the_same_bytes(optimizer: str, workers: int, tmp_path: Path) -> None:
    """Signals reach the whole process group, as from a cluster: the loaders must not take the run down."""
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    straight.mkdir()
    stopped.mkdir()

    def begin(folder: Path, pause: float) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", RUN.format(tests=str(TESTS)), str(folder), str(pause), str(workers), optimizer]
        return subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT, start_new_session=True
        )

    other = begin(straight, 0)
    process = begin(stopped, 0.1)
    assert process.stdout is not None
    steps = 0
    for line in process.stdout:  # in the second epoch, in the middle of it
        steps += line == "step\n"
        if steps == 6:
            os.killpg(process.pid, signal.SIGTERM)
            break
    rest = process.stdout.read()
    assert process.wait() == 1, rest
    assert "stopped by SIGTERM after iteration" in rest
    assert "run again to go on" in rest
    assert not (stopped / "weights").exists()
    again, _ = begin(stopped, 0).communicate()
    assert "going on after iteration" in again
    assert again.count("step") <= 10
    out, _ = other.communicate()
    assert other.returncode == 0, out
    assert (stopped / "weights").read_bytes() == (straight / "weights").read_bytes()
    np.testing.assert_array_equal(np.load(stopped / "curve.npy"), np.load(straight / "curve.npy"))


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    """A kill between the training and the end of the stage: the checkpoint has everything."""
    job = planted.job(settings(epochs=2), tmp_path / "x.json")
    model = network()
    curves = train.fit(model, np.arange(12), cut, step, job)

    def never(net: nn.Module, batch: dict[str, torch.Tensor]) -> train.Losses:
        raise AssertionError("trained again")

    again = network(5)
    np.testing.assert_array_equal(train.fit(again, np.arange(12), cut, never, job)["curve_loss"], curves["curve_loss"])
    assert bytes_of(again) == bytes_of(model)
    assert not again.training


def test_a_checkpoint_of_other_settings_is_not_taken_up(tmp_path: Path) -> None:
    train.fit(network(), np.arange(12), cut, step, planted.job(settings(epochs=1), tmp_path / "x.json"))
    model, fresh = network(), network()
    train.fit(model, np.arange(12), cut, step, planted.job(settings(epochs=2), tmp_path / "x.json"))
    train.fit(fresh, np.arange(12), cut, step, planted.job(settings(epochs=2), tmp_path / "y.json"))
    assert bytes_of(model) == bytes_of(fresh)


def test_checkpoints_are_saved_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    job = planted.job(settings(epochs=2), tmp_path / "x.json")
    straight = network()
    train.fit(straight, np.arange(12), cut, step, planted.job(settings(epochs=2), tmp_path / "y.json"))
    count = iter(range(100))

    def killed(net: nn.Module, batch: dict[str, torch.Tensor]) -> train.Losses:
        if next(count) == 4:
            raise KeyboardInterrupt
        time.sleep(0.001)
        return step(net, batch)

    with pytest.raises(KeyboardInterrupt):
        train.fit(network(), np.arange(12), cut, killed, job)
    steps: list[int] = []

    def counting(net: nn.Module, batch: dict[str, torch.Tensor]) -> train.Losses:
        steps.append(1)
        return step(net, batch)

    model = network(3)
    train.fit(model, np.arange(12), cut, counting, job)
    assert len(steps) == 2
    assert bytes_of(model) == bytes_of(straight)


def test_sigterm_does_what_it_did_before_once_training_is_over(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    train.fit(network(), np.arange(8), cut, step, planted.job(settings(epochs=1), tmp_path / "x.json"))
    assert signal.getsignal(signal.SIGTERM) == before
