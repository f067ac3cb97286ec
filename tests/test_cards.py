"""One card for each GPU job of a machine: locks that die with their process, and Snakemake's limit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, ROOT

from pipeline.core import cards

HOLD = """
import os, sys
from pipeline.core import cards
card = cards.claim(sys.argv[1], say=lambda text: print(text, flush=True))
print(card, os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """An environment with two cards and locks of its own."""
    kept = {k: v for k, v in ENVIRONMENT.items() if not k.startswith(("SLURM_", "CUDA_", "TAGMASK_"))}
    return {**kept, "TAGMASK_CARDS": "2", "TMPDIR": str(tmp_path)}


def holder(environment: dict[str, str], device: str = "auto") -> tuple[subprocess.Popen[str], str]:
    """A process that claims a card and then waits, and the first line it said."""
    words = [sys.executable, "-c", HOLD, device]
    process = subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def let_go(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.communicate()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TAGMASK_CARDS": "3"}, ["0", "1", "2"]),
        ({"TAGMASK_CARDS": "0"}, []),
        ({"CUDA_VISIBLE_DEVICES": "2, GPU-ab"}, ["2", "GPU-ab"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,2"}, ["1"]),
        ({"CUDA_VISIBLE_DEVICES": "4,5,6", "TAGMASK_CARDS": "2"}, ["4", "5"]),
    ],
)
def test_visible(environment: dict[str, str], expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "TAGMASK_CARDS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cards.visible() == expected
    assert cards.count() == len(expected)


def test_the_driver_is_asked_for_whole_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho '  MIG 1g Device 0: (UUID: M)'\necho 'GPU 1: A'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name in ("CUDA_VISIBLE_DEVICES", "TAGMASK_CARDS"):
        monkeypatch.delenv(name, raising=False)
    assert cards.visible() == ["0", "1"]


def test_each_job_gets_a_card_of_its_own_and_a_third_waits(machine: dict[str, str]) -> None:
    first, one = holder(machine)
    second, two = holder(machine)
    assert {one, two} == {"0 0", "1 1"}
    third, said = holder(machine, "cuda")
    assert "all 2 graphics cards are taken" in said
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert third.stdout is not None
    assert third.stdout.readline().strip() == one
    let_go(first, second, third)


def test_a_card_that_was_named_is_that_one(machine: dict[str, str]) -> None:
    first, said = holder(machine, "cuda:1")
    assert said == "1 None"
    second, said = holder(machine)
    assert said == "0 0"
    third, said = holder(machine, "cuda:1")
    assert "this graphics card is taken" in said
    third.kill()
    let_go(first, second, third)


def test_cards_listed_for_this_process_are_the_only_ones(machine: dict[str, str]) -> None:
    first, said = holder({**machine, "CUDA_VISIBLE_DEVICES": "5,GPU/x"})
    second, other = holder({**machine, "CUDA_VISIBLE_DEVICES": "5,GPU/x"})
    assert (said, other) == ("5 5", "GPU/x GPU/x")
    let_go(first, second)


@pytest.mark.parametrize("extra", [{"TAGMASK_CARDS": "0"}, {"SLURM_JOB_ID": "7"}])
def test_nothing_is_held_where_there_is_no_card_to_hold(machine: dict[str, str], extra: dict[str, str]) -> None:
    process, said = holder({**machine, **extra})
    assert said == "None None"
    let_go(process)


def test_slurm_numbers_every_jobs_cards_from_zero(machine: dict[str, str]) -> None:
    job = {**machine, "CUDA_VISIBLE_DEVICES": "0"}
    first, said = holder({**job, "SLURM_JOB_ID": "7"})
    second, other = holder({**job, "SLURM_JOB_ID": "8"})
    assert (said, other) == ("0 0", "0 0")
    let_go(first, second)


def test_a_cpu_job_and_a_worker_of_a_job_claim_nothing(machine: dict[str, str]) -> None:
    process, said = holder(machine, "cpu")
    assert said == "None None"
    worker, other = holder({**machine, "TAGMASK_CARD": "1", "CUDA_VISIBLE_DEVICES": "1"})
    assert other == "1 1"
    third, free = holder({**machine, "CUDA_VISIBLE_DEVICES": "1"})
    assert free == "1 1"
    let_go(process, worker, third)


# ---------------------------------------------------------------------------------------------- Snakemake's limit

SNAKEFILE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pipeline.core import cards
cards.limit(workflow)
rule all:
    input: expand("out/{{i}}", i=range(5)),
rule work:
    output: "out/{{i}}"
    resources: gpu=1
    shell: "echo + >> log; sleep 0.3; echo - >> log; touch {{output}}"
"""


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("number", "args", "most"),
    [("2", (), 2), ("2", ("--jobs", "9"), 2), ("2", ("--resources", "gpu=3"), 3), ("0", (), None)],
)
def test_as_many_gpu_jobs_at_once_as_cards(
    machine: dict[str, str], tmp_path: Path, number: str, args: tuple[str, ...], most: int | None
) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    words = [sys.executable, "-m", "snakemake", "--nocolor", "--cores", "64", *args]
    done = subprocess.run(words, cwd=tmp_path, env={**machine, "TAGMASK_CARDS": number}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    provided = re.search(r"Provided resources: .*gpu\D+(\d+)", done.stdout + done.stderr)
    assert (provided and int(provided[1])) == most
    signs = re.findall(r"[+-]", (tmp_path / "log").read_text())
    assert len(signs) == 10
    running = [signs[:end].count("+") - signs[:end].count("-") for end in range(len(signs))]
    assert max(running) <= (most or 5)
