"""The training loop: it learns, resumes to the byte, draws every row once an epoch, and stops on nonsense."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import planted
import pytest
import torch
import torch.nn.functional as F
from conftest import ENVIRONMENT
from torch import nn

from pipeline.core import loop, train
from pipeline.core.job import InputError
from pipeline.core.steps.models import Segment
from pipeline.kernels.pixel_losses import pixel_loss
from pipeline.networks import imagenet

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Event files go to logs/ of the working directory."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a toy network is slower on more
    yield
    torch.set_num_threads(threads)


def settings(**changes: object) -> Segment:
    return Segment(**{"epochs": 4, "batch": 4, "lr": 0.05, "head_lr": 1.0, **changes})  # type: ignore[arg-type]


def cut(row: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Row r is a noisy point; its target is linear in it."""
    x = np.random.default_rng(row).normal(size=6).astype(np.float32)
    return {"x": x + rng.normal(0, 0.01, 6).astype(np.float32), "y": x[:2] * 3}


def step(net: nn.Module, batch: dict[str, torch.Tensor]) -> train.Losses:
    errors = (net(batch["x"]) - batch["y"]) ** 2
    return {"loss": (errors.sum(), torch.tensor(errors.numel()))}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))


def bytes_of(model: nn.Module) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


def launch(words: list[str]) -> subprocess.Popen[str]:
    """A process group of its own that listens to SIGINT, which a shell's background jobs pass on ignored."""
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


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
        losses = {**step(net, batch), "other": (net(batch["x"]).square().sum(), torch.tensor(8))}
        total, count = losses["loss"]
        seen.append(float(total.detach() / count))
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
        loss = loop.objective(losses)
        gradients.extend(torch.autograd.grad(loss, [net[0].weight, net[4].weight], retain_graph=True))
        return losses

    train.fit(
        model, np.arange(8), cut, noting, planted.job(given, tmp_path / "x.json"), lambda net: list(net[4].parameters())
    )
    moved = [a - b for a, b in zip(model.parameters(), before, strict=True)]
    torch.testing.assert_close(moved[0], -0.05 * gradients[0])
    torch.testing.assert_close(moved[4], -0.5 * gradients[1])
    assert not moved[2].any()


def brightened(row: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs far from 0, as activations of random weights are."""
    sample = cut(row, rng)
    return sample | {"x": sample["x"] + 20}


@pytest.mark.parametrize("forgetting", [0.01, 0.1])
def test_a_short_training_from_nothing_leaves_a_network_that_answers_as_it_was_trained(
    forgetting: float, tmp_path: Path
) -> None:
    """Running statistics of EfficientNet's momentum would be the 0 and 1 they began at for a half."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16, momentum=forgetting), nn.ReLU(), nn.Linear(16, 2))
    train.fit(model, np.arange(32), brightened, step, planted.job(settings(epochs=8, lr=0.003), tmp_path / "x.json"))
    batch = train.to_batch([brightened(row, np.random.default_rng(0)) for row in range(32)])
    with torch.no_grad():
        in_use = loop.objective(step(model, batch))
        as_trained = loop.objective(step(model.train(), batch))
    assert in_use < 2 * as_trained
    assert model[1].momentum == forgetting


def test_settled_statistics_keep_their_momentum(tmp_path: Path) -> None:
    """Those of ImageNet, whose counter stands high; and the counter goes on from training to training."""
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16, momentum=0.01), nn.Linear(16, 2))
    model[1].num_batches_tracked.fill_(imagenet.MANY)
    before = model[1].running_var.clone()
    seen: list[float] = []

    def noting(net: nn.Module, batch: dict[str, torch.Tensor]) -> train.Losses:
        seen.append(net[1].momentum)
        return step(net, batch)

    train.fit(model, np.arange(8), cut, noting, planted.job(settings(epochs=1), tmp_path / "x.json"))
    assert set(seen) == {0.01}
    assert (model[1].running_var > 0.97 * before).all()
    model[1].num_batches_tracked.fill_(190)
    seen.clear()
    train.fit(model, np.arange(8), cut, noting, planted.job(settings(epochs=1), tmp_path / "y.json"))
    assert seen == pytest.approx([10 / 200, 10 / 201])


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
        total, number = step(net, batch)["loss"]
        return {"loss": (total * (float("nan") if next(count) == 5 else 1), number)}

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


# --------------------------------------------------------------------------------------------------- loss terms


def test_the_objective_is_the_sum_of_sum_over_count() -> None:
    x = torch.tensor([1.0, 2.0, 5.0], requires_grad=True)
    losses = {"a": (x.sum(), torch.tensor(4)), "b": (x.square().sum(), torch.tensor(0.5)), "c": (x[0], torch.tensor(1))}
    assert float(loop.objective(losses).detach()) == 8 / 4 + 30 / 0.5 + 1
    loop.objective(losses).backward()
    assert x.grad is not None and x.grad.tolist() == [0.25 + 4 + 1, 0.25 + 8, 0.25 + 20]


def test_a_term_that_counted_nothing_adds_nothing_to_loss_and_gradient() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    # The second sum is what a careless mean over nothing would be.
    losses = {
        "some": (x.sum(), torch.tensor(2)),
        "none": ((x * 0).sum(), torch.tensor(0)),
        "nonsense": (x[:0].mean(), torch.tensor(0)),
        "tiny": (x.sum() * 1e-30, torch.tensor(0.0)),
    }
    terms = loop.quotients(losses)
    assert {name: float(term.detach()) for name, term in terms.items()} == {
        "some": 1.5,
        "none": 0,
        "nonsense": 0,
        "tiny": 0,
    }
    loop.objective({name: losses[name] for name in ("some", "none", "tiny")}).backward()
    assert x.grad is not None and x.grad.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("shape", [(7, 5), (3, 5, 11), (2, 5, 9, 13)])
def test_sum_over_count_has_the_bits_of_the_mean(shape: tuple[int, ...]) -> None:
    """So that no result changed with the contract (CPU): cross-entropy, soft margin, a plain mean."""
    torch.manual_seed(0)
    scores = torch.randn(shape) * 3
    answer = torch.randint(0, 5, (shape[0], *shape[2:]))
    tags = (torch.rand(shape) < 0.3).float()
    cases: list[tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor], int]] = [
        (
            lambda x: F.cross_entropy(x, answer),
            lambda x: F.cross_entropy(x, answer, reduction="sum"),
            answer.numel(),
        ),
        (lambda x: (x * tags).mean(), lambda x: (x * tags).sum(), scores.numel()),
    ]
    if len(shape) == 2:
        margin = F.multilabel_soft_margin_loss
        cases.append((lambda x: margin(x, tags), lambda x: margin(x, tags, reduction="none").sum(), len(tags)))
    for mean, total, count in cases:
        one, other = (scores.clone().requires_grad_() for _ in range(2))
        expected = mean(one)
        found = loop.objective({"loss": (total(other), torch.tensor(count))})
        expected.backward()
        found.backward()
        assert torch.equal(found, expected)
        assert one.grad is not None and other.grad is not None and torch.equal(other.grad, one.grad)


SPLIT = """
import sys
import torch
sys.path.insert(0, {tests!r})
import test_train
from pipeline.core import loop

folder, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method="file://" + folder + "/meet", rank=rank, world_size=2)
net = torch.nn.parallel.DistributedDataParallel(test_train.pixel_network())
rows = slice(0, 4) if rank == 0 else slice(4, 5)
losses = test_train.pixel_losses(net, *(part[rows] for part in test_train.pixel_batch()))
terms = loop.quotients(losses)
loop.objective(losses).backward()
found = {{"terms": [float(term.detach()) for term in terms.values()], "gradients": [p.grad for p in net.parameters()]}}
torch.save(found, folder + "/" + str(rank))
torch.distributed.destroy_process_group()
"""


def pixel_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1)).double()


def pixel_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Five images, labelled to very different shares, one of them not at all."""
    torch.manual_seed(1)
    images, labels = torch.randn(5, 3, 8, 8, dtype=torch.float64), torch.randint(0, 4, (5, 8, 8))
    labels[torch.rand(5, 8, 8) > torch.tensor([0.9, 0.0, 0.2, 0.5, 0.05])[:, None, None]] = 255
    return images, labels.to(torch.uint8)


def pixel_losses(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> train.Losses:
    """Per pixel, per image, a decay, a term of the last image alone, and one of none."""
    logits = net(images)
    last = (labels != 255).sum((1, 2)) < 10
    return {
        "pixels": pixel_loss(logits, labels),
        "images": (logits.square().mean((1, 2, 3)).sum(), torch.tensor(len(images))),
        "decay": (sum((p.square().sum() for p in net.parameters()), torch.zeros(())), torch.tensor(1)),
        "seldom": ((logits.exp().sum((1, 2, 3)) * last).sum(), last.sum()),
        "never": (logits.sum() * 0, torch.tensor(0)),
    }


def test_a_batch_split_unevenly_over_two_processes_has_the_gradient_of_the_whole(tmp_path: Path) -> None:
    words = [sys.executable, "-c", SPLIT.format(tests=str(TESTS)), str(tmp_path)]
    processes = [launch([*words, str(rank)]) for rank in (0, 1)]
    for process in processes:
        said, _ = process.communicate()
        assert process.returncode == 0, said
    net = pixel_network()
    losses = pixel_losses(net, *pixel_batch())
    assert [int(count) for _, count in losses.values()][1:] == [5, 1, 2, 0]
    loop.objective(losses).backward()
    first, second = (torch.load(tmp_path / str(rank)) for rank in (0, 1))
    for parameter, one, two in zip(net.parameters(), first["gradients"], second["gradients"], strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(two, parameter.grad, rtol=1e-12, atol=1e-14)
    expected = [float(term.detach()) for term in loop.quotients(losses).values()]
    assert np.mean([first["terms"], second["terms"]], 0) == pytest.approx(expected, rel=1e-12)
    assert first["terms"][0] != pytest.approx(expected[0], rel=0.01), "the processes' own parts differ"


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
import os, signal, sys
from pathlib import Path
import numpy as np, torch
sys.path.insert(0, {tests!r})
import planted, test_train
from pipeline.core import train

torch.set_num_threads(1)
folder, workers, steps = Path(sys.argv[1]), int(sys.argv[2]), 0

def step(net, batch):
    global steps
    steps += 1
    if steps == 6:
        os.killpg(0, signal.Signals[sys.argv[4]])
    return test_train.step(net, batch)

job = planted.job(test_train.settings(optimizer=sys.argv[3]), folder / "x.json", workers=workers)
train.fit(test_train.network(), np.arange(18), test_train.cut, step, job)
"""


@pytest.mark.parametrize(
    ("optimizer", "workers", "name"), [("sgd", 0, "SIGTERM"), ("adamw", 2, "SIGTERM"), ("adamw", 2, "SIGINT")]
)
def test_a_stop_saves_and_the_rerun_ends_with_the_same_bytes(
    optimizer: str, workers: int, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the second epoch, in the middle of it. The signal reaches the whole process group, as from a terminal or a
    cluster: the loaders must not take the run down."""
    process = launch([sys.executable, "-c", RUN.format(tests=str(TESTS)), str(tmp_path), str(workers), optimizer, name])
    said, _ = process.communicate()
    assert process.returncode == 1, said
    assert said.count(f"{name}: stopping after this iteration") == 1, "the loop alone says so, not its loaders"
    assert f"stopped by {name} after iteration 6 of 16; run again to go on" in said
    assert "Traceback" not in said
    steps: list[int] = []

    def counting(net: nn.Module, batch: dict[str, torch.Tensor]) -> train.Losses:
        steps.append(1)
        return step(net, batch)

    made = []
    for out in ("x.json", "straight.json"):
        model = network()
        job = planted.job(settings(optimizer=optimizer), tmp_path / out, workers=workers)
        made.append((train.fit(model, np.arange(18), cut, counting, job)["curve_loss"].tolist(), bytes_of(model)))
        if out == "x.json":
            assert "going on after iteration 6" in capsys.readouterr().out
            assert len(steps) == 10
    assert made[0] == made[1]


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


def test_signals_do_what_they_did_before_once_training_is_over(tmp_path: Path) -> None:
    before = [signal.getsignal(name) for name in loop.STOP]
    train.fit(network(), np.arange(8), cut, step, planted.job(settings(epochs=1), tmp_path / "x.json"))
    assert [signal.getsignal(name) for name in loop.STOP] == before


def test_a_damaged_checkpoint_is_said_and_not_taken_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job, straight = planted.job(settings(epochs=1), tmp_path / "x.json"), network()
    train.fit(straight, np.arange(12), cut, step, job)
    file = job.part / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:-500])
    model = network()
    train.fit(model, np.arange(12), cut, step, job)
    assert f"{file}: cannot be read" in capsys.readouterr().err
    assert bytes_of(model) == bytes_of(straight)


def test_no_more_loaders_than_usable_cores_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    loop._warn.cache_clear()
    seen: set[int] = set()

    def telling(row: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {**cut(row, rng), "process": np.array(os.getpid())}

    def noting(net: nn.Module, batch: dict[str, torch.Tensor]) -> train.Losses:
        seen.update(batch["process"].tolist())
        return step(net, batch)

    for name in ("a", "b"):
        job = planted.job(settings(epochs=1), tmp_path / f"{name}.json", workers=3)
        train.fit(network(), np.arange(12), telling, noting, job)
    assert len(seen) == 2 and os.getpid() not in seen, "one loader a training"
    assert capsys.readouterr().err.count("workers: 3 asked for, 1 started") == 1
    assert [loop.loader_workers(asked) for asked in (0, 1, 2)] == [0, 1, 1]


def test_loaders_that_hand_on_nothing_are_given_up_and_a_stop_does_not_wait_for_them(tmp_path: Path) -> None:
    def stuck() -> torch.utils.data.DataLoader:
        class Sleeping(torch.utils.data.Dataset[int]):
            def __len__(self) -> int:
                return 4

            def __getitem__(self, number: int) -> int:
                if number:
                    time.sleep(600)
                return number

        given: Any = {"num_workers": 1, "timeout": 0.1, "multiprocessing_context": "fork"}
        return torch.utils.data.DataLoader(Sleeping(), 1, worker_init_fn=loop.ignore_stop_signals, **given)

    coming = loop.batches(stuck(), loop.Stop(), longest=1)
    assert next(coming).tolist() == [0]
    with pytest.raises(InputError, match=r"no photographs came .* for 1 s; enlarge /dev/shm .* compute.workers: 0"):
        next(coming)
    asked = loop.Stop()
    coming = loop.batches(stuck(), asked)
    assert next(coming).tolist() == [0]
    asked.asked = "SIGTERM"
    assert list(coming) == []


def test_without_room_in_shared_memory_no_loader_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loop._warn.cache_clear()
    room = {free: namedtuple("Usage", "free")(free) for free in (0, 2**30)}
    seen: dict[int, set[int]] = {free: set() for free in room}
    for free in room:

        def noting(row: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
            return {**cut(row, rng), "process": np.array(os.getpid())}

        def telling(net: nn.Module, batch: dict[str, torch.Tensor], free: int = free) -> train.Losses:
            seen[free].update(batch["process"].tolist())
            return step(net, batch)

        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: room[free])
        train.fit(network(), np.arange(12), noting, telling, planted.job(settings(epochs=1), tmp_path / "x", workers=1))
        shutil.rmtree(planted.job(settings(), tmp_path / "x").part)
    assert seen[0] == {os.getpid()} and os.getpid() not in seen[2**30]
    assert capsys.readouterr().err.count("/dev/shm: 0 MB free, 1 loader(s) need 1 MB") == 1


# ----------------------------------------------------------------------------- the parts, in a loop of another shape

LOOP = """
import os, signal, sys
from pathlib import Path
import torch
from torch import nn
from pipeline.core.loop import Checkpoint, Curves, Interrupted, objective, stop_signals

torch.manual_seed(0)
folder, total = Path(sys.argv[1]), 12
nets = {"painter": nn.Linear(4, 3), "critic": nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))}
optimizers = {name: torch.optim.Adam(net.parameters(), 0.01) for name, net in nets.items()}
parts = nets | {f"{name}'s optimizer": optimizer for name, optimizer in optimizers.items()}
checkpoint = Checkpoint(folder / "checkpoint.pt", "painter and critic")
state = checkpoint.load(parts) or {"done": 0, "curves": None}
curves = Curves(folder / "board", state["curves"])
print("from", state["done"])
with stop_signals() as stop:
    for done in range(state["done"] + 1, total + 1):
        torch.manual_seed(done)
        true, painted = torch.randn(8, 3) + 2, nets["painter"](torch.randn(8, 4))
        for name in ("critic", "painter") if done % 3 else ("critic",):
            scores = nets["critic"](painted) if name == "painter" else nets["critic"](true) - nets["critic"](painted)
            loss = objective({name: (-scores.sum(), torch.tensor(8))})
            optimizers[name].zero_grad()
            loss.backward(retain_graph=name == "critic")
            optimizers[name].step()
            curves.add({name: float(loss.detach())})
        if done % 4 == 0:
            curves.end_epoch(f"epoch {done // 4}/3")
        if sys.argv[2:] and done == 6:
            os.kill(os.getpid(), signal.Signals[sys.argv[2]])
        if stop.asked:
            checkpoint.save(parts, {"done": done, "curves": curves.state()})
            raise Interrupted(f"stopped by {stop.asked} after iteration {done} of {total}; run again to go on")
curves.close()
result = {f"{name}'s curve": curves.arrays()[f"curve_{name}"].tolist() for name in nets}
torch.save(result | {name: net.state_dict() for name, net in nets.items()}, folder / "result")
"""


def events(board: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of the TensorBoard files, without what a later run has hidden."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(board))
    read.Reload()
    return [(event.step, event.value) for event in read.Scalars(name)]


def test_a_loop_with_two_optimizers_stops_and_goes_on_with_the_same_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = {name: tmp_path / name for name in ("SIGINT", "SIGTERM")}
    processes = {name: launch([sys.executable, "-c", LOOP, str(stopped[name]), name]) for name in stopped}
    for name, process in processes.items():
        said, _ = process.communicate()
        assert process.returncode == 1, said
        assert f"stopped by {name} after iteration 6 of 12; run again to go on" in said and "Traceback" not in said

    def whole(folder: Path) -> str:
        """The same program here, to its end."""
        monkeypatch.setattr(sys, "argv", ["loop", str(folder)])
        exec(LOOP, {})
        return capsys.readouterr().out

    straight = tmp_path / "straight"
    assert "from 0\n" in whole(straight)
    for folder in stopped.values():
        assert not (folder / "result").exists()
        assert "from 6\n" in whole(folder)
        assert (folder / "result").read_bytes() == (straight / "result").read_bytes()
        for term in ("critic", "painter"):
            assert events(folder / "board", term) == events(straight / "board", term)
    steps, values = zip(*events(straight / "board", "critic"), strict=True)
    assert steps == (1, 2, 3)
    np.testing.assert_allclose(values, torch.load(straight / "result")["critic's curve"])


def test_a_second_ctrl_c_kills_a_loop_that_does_not_look(tmp_path: Path) -> None:
    program = "import time\nfrom pipeline.core.loop import stop_signals\nwith stop_signals() as stop:\n"
    program += "    while True:\n        time.sleep(0.05)\n        print(stop.asked or 'ready', flush=True)\n"
    process = launch([sys.executable, "-c", program])
    assert process.stdout is not None

    def until(word: str) -> str:
        said = ""
        for line in process.stdout:  # type: ignore[union-attr]
            said += line
            if word in line:
                break
        return said

    until("ready")
    process.terminate()
    until("SIGTERM: stopping after this iteration")
    process.terminate()
    process.send_signal(signal.SIGINT)
    assert "SIGINT: stopping after this iteration; again: at once, unsaved" in until("SIGINT: ")
    until("SIGTERM")
    assert process.poll() is None, "a first Ctrl-C only asks, also after SIGTERM"
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == -signal.SIGINT


def test_signals_ignored_from_the_start_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with loop.stop_signals() as stop:
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
            assert stop.asked == ""
            signal.raise_signal(signal.SIGTERM)
            assert stop.asked == "SIGTERM"
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_checkpoint_is_on_the_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's bytes, then its name, then the folder that holds the name."""
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def noting_sync(handle: int) -> None:
        done.append("sync " + Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        sync(handle)

    def noting_replace(path: Path, target: Path) -> Path:
        done.append(f"{path.name} becomes {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    loop.Checkpoint(tmp_path / "part" / "checkpoint.pt", "a").save({"net": network()}, {"done": 3})
    assert done == ["sync checkpoint.new", "checkpoint.new becomes checkpoint.pt", "sync part"]


def test_a_save_that_fails_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, model = loop.Checkpoint(tmp_path / "checkpoint.pt", "a"), network()
    checkpoint.save({"net": model}, {"done": 3, "note": "kept"})

    def full(content: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save({"net": network(1)}, {"done": 4})
    other = network(2)
    assert checkpoint.load({"net": other}) == {"done": 3, "note": "kept"}
    assert bytes_of(other) == bytes_of(model)
    assert loop.Checkpoint(checkpoint.path, "b").load({"net": other}) is None
    with pytest.raises(ValueError, match=r"checkpoint.pt: holds \['net'\], \['critic', 'net'\] expected"):
        checkpoint.load({"net": other, "critic": model})


def test_curves_count_a_value_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    curves = loop.Curves()
    curves.add({"a": 1.0, "b": 8.0})
    curves.add({"a": 2.0})
    curves.end_epoch("epoch 1/3", "5 img/s")
    curves.add({"a": 5.0})
    curves = loop.Curves(state=curves.state())
    curves.add({"a": 6.0})
    curves.end_epoch("epoch 2/3")
    curves.add({"b": 3.0})
    curves.end_epoch("epoch 3/3")
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1/3  a 1.5000  b 8.0000  5 img/s",
        "epoch 2/3  a 5.5000",
        "epoch 3/3  b 3.0000",
    ]
    np.testing.assert_array_equal(curves.arrays()["curve_a"], np.array([1.5, 5.5, np.nan], np.float32))
    np.testing.assert_array_equal(curves.arrays()["curve_b"], np.array([8, np.nan, 3], np.float32))
