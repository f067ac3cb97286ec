"""The one training loop. A method passes a step function (model, batch) → loss terms; there is nothing to inherit.

It does precision (bf16 autocast), channels_last, schedules, checkpoints, resume, TensorBoard files and plain log lines,
and stops on a loss that is not finite. Every iteration's randomness follows from (seed, iteration), so a run that was
killed and resumed gives the bytes of an undisturbed one (CPU, same number of threads).
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.core.cli import Job
from pipeline.core.config import CropTraining, Training
from pipeline.core.data import Cut, Sample

Losses = dict[str, torch.Tensor]
CHECKPOINT_SECONDS = float(os.environ.get("CHECKPOINT_SECONDS", 120))


class Interrupted(SystemExit):
    """SIGTERM arrived and the checkpoint is saved: run the same command again to go on."""


@dataclass(frozen=True)
class _Plan(torch.utils.data.Dataset[Sample]):
    """The samples of the iterations still to do, in order."""

    cut: Cut
    rows: np.ndarray
    seed: int
    batch: int
    first: int  # iteration
    last: int

    @property
    def per_epoch(self) -> int:
        return max(1, len(self.rows) // self.batch)

    def __len__(self) -> int:
        return (self.last - self.first) * min(self.batch, len(self.rows))

    def __getitem__(self, number: int) -> Sample:
        size = min(self.batch, len(self.rows))
        iteration, slot = self.first + number // size, number % size
        epoch, within = divmod(iteration, self.per_epoch)
        order = _order(len(self.rows), self.seed, epoch)
        position = int(order[within * size + slot])
        return self.cut(int(self.rows[position]), np.random.default_rng((self.seed, 1, epoch, position)))


_last_order: tuple[tuple[int, int, int], np.ndarray] | None = None


def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    global _last_order  # a permutation per epoch, asked for once per sample
    if _last_order is None or _last_order[0] != (count, seed, epoch):
        _last_order = (count, seed, epoch), np.random.default_rng((seed, 0, epoch)).permutation(count)
    return _last_order[1]


def fit(
    model: nn.Module,
    rows: np.ndarray,
    cut: Cut,
    step: Callable[[nn.Module, dict[str, torch.Tensor]], Losses],
    job: Job,
    heads: Callable[[nn.Module], list[nn.Parameter]] | None = None,
    collate: Callable[[list[Sample]], dict[str, torch.Tensor]] | None = None,
) -> dict[str, np.ndarray]:
    """Train a model in place on samples `cut(row, rng)` of these rows.

    step returns loss terms; their sum is minimised. heads names the parameters that learn `head_lr` times faster.
    Returns the curves: {"curve_<term>": float32 [epochs]}, means per epoch.
    Raises FloatingPointError when a loss is not finite, Interrupted after SIGTERM.
    """
    settings: Training = job.settings
    model.to(job.device).to(memory_format=torch.channels_last).train()
    per_epoch = max(1, len(rows) // settings.batch)
    total = max(1, round(settings.epochs * per_epoch))
    optimizer = _optimizer(model, settings, heads(model) if heads else [])
    checkpoint = job.part / "checkpoint.pt"
    state = _resume(checkpoint, model, optimizer, job)
    plan = _Plan(cut, rows, job.seed, settings.batch, state["iteration"], total)
    loader = torch.utils.data.DataLoader(
        plan,
        min(settings.batch, len(rows)),
        num_workers=job.workers,
        collate_fn=collate or to_batch,
        worker_init_fn=_spare_worker,
        multiprocessing_context="fork" if job.workers else None,  # a cut is a closure and cannot be pickled
    )
    sums, curves = state["sums"], state["curves"]
    board = _Board(job)
    started = saved = time.monotonic()
    with _sigterm() as stop:
        for iteration, batch in enumerate(loader, state["iteration"]):
            torch.manual_seed(job.seed * 1_000_003 + iteration)
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * rate(settings, iteration / total)
            terms = _advance(model, optimizer, step, batch, job)
            for name, value in terms.items():
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"{job.out}: {name} is {value} at iteration {iteration + 1} of {total}; lower lr "
                        f"(now {settings.lr}) or use --precision f32"
                    )
                sums[name] = sums.get(name, 0.0) + value
            done = iteration + 1
            if done % per_epoch == 0 or done == total:
                count = (done - 1) % per_epoch + 1
                for name, value in sums.items():
                    curves.setdefault(name, []).append(value / count)
                board.epoch(len(curves[name]), {key: value / count for key, value in sums.items()})
                speed = (done - plan.first) * settings.batch / (time.monotonic() - started)
                line = "  ".join(f"{key} {value / count:.4f}" for key, value in sums.items())
                print(
                    f"epoch {math.ceil(done / per_epoch)}/{math.ceil(settings.epochs)}  {line}  {speed:.1f} img/s",
                    flush=True,
                )
                sums = {}
            if stop.asked or (done < total and time.monotonic() - saved > CHECKPOINT_SECONDS):
                _save(checkpoint, model, optimizer, job, {"iteration": done, "sums": sums, "curves": curves})
                saved = time.monotonic()
            if stop.asked:
                board.close()
                raise Interrupted(
                    f"{job.out}: stopped by SIGTERM after iteration {done} of {total}; run again to go on"
                )
    board.close()
    if plan.first < total:  # a kill between training and the end of the stage must not cost the training
        _save(checkpoint, model, optimizer, job, {"iteration": total, "sums": {}, "curves": curves})
    model.eval()
    return {f"curve_{name}": np.asarray(values, np.float32) for name, values in curves.items()}


def _advance(model: nn.Module, optimizer: Any, step: Any, batch: dict[str, torch.Tensor], job: Job) -> dict[str, float]:
    batch = {name: value.to(job.device, non_blocking=True) for name, value in batch.items()}
    with autocast(job.device, job.precision):
        losses = step(model, batch)
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    return {name: float(value.detach()) for name, value in losses.items()}


def autocast(device: str, precision: str) -> torch.autocast:
    """bf16 autocast, or nothing for f32."""
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=precision == "bf16")


def to_batch(samples: list[Sample]) -> dict[str, torch.Tensor]:
    """Samples → tensors; images become channels_last."""
    batch = {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}
    return {
        name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
        for name, value in batch.items()
    }


def rate(settings: Training, t: float) -> float:
    """Factor on the learning rate at share t of the training."""
    if t < settings.warmup:
        return max(t / settings.warmup, 0.01)
    match settings.schedule:
        case "poly":
            return (1 - t) ** 0.9
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * t))
        case "step":
            return 0.1 ** sum(t >= milestone for milestone in settings.milestones)
    return 1.0


def _optimizer(model: nn.Module, settings: Training, heads: list[nn.Parameter]) -> torch.optim.Optimizer:
    new = {id(parameter) for parameter in heads}
    slow = [p for p in model.parameters() if p.requires_grad and id(p) not in new]
    fast = [p for p in heads if p.requires_grad]
    faster = settings.head_lr if isinstance(settings, CropTraining) else 1.0
    groups = [{"params": slow, "base": settings.lr}, {"params": fast, "base": settings.lr * faster}]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.AdamW(groups, settings.lr, weight_decay=settings.weight_decay)


def _save(path: Path, model: nn.Module, optimizer: Any, job: Job, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "fingerprint": job.header.fingerprint(),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        **state,
    }
    temporary = path.with_suffix(".new")
    torch.save(content, temporary)
    temporary.replace(path)


def _resume(path: Path, model: nn.Module, optimizer: Any, job: Job) -> dict[str, Any]:
    fresh: dict[str, Any] = {"iteration": 0, "sums": {}, "curves": {}}
    if not path.is_file():
        return fresh
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content.pop("fingerprint") != job.header.fingerprint():
        return fresh
    model.load_state_dict(content.pop("model"))
    optimizer.load_state_dict(content.pop("optimizer"))
    print(f"going on after iteration {content['iteration']}", flush=True)
    return content


def _spare_worker(number: int) -> None:
    """A cluster signals every process of a job: loaders that died of it would take the run down before it has saved."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Stop:
    asked = False


@contextmanager
def _sigterm() -> Iterator[_Stop]:
    """Turn SIGTERM (a cluster's time limit) into a request to save and leave."""
    stop = _Stop()

    def ask(signum: int, frame: FrameType | None) -> None:
        stop.asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


class _Board:
    """TensorBoard events under logs/tensorboard/, beside the results folder's other logs; optional."""

    def __init__(self, job: Job):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print("tensorboard is not installed: no event files", file=sys.stderr)
            self.writer = None
            return
        self.writer = SummaryWriter(
            str(Path("logs/tensorboard", *job.out.with_suffix("").parts[job.out.is_absolute() :]))
        )

    def epoch(self, number: int, values: dict[str, float]) -> None:
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, number)

    def close(self) -> None:
        if self.writer:
            self.writer.close()
