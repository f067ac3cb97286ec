"""One graphics card for each job of a workstation: `snakemake --cores 64` must not put eight trainings on one card.

Two parts. The Snakefile limits how many GPU jobs run at once to the number of cards (`limit`), and every command that
computes on a card takes one that no other command holds (`claim`), before it imports torch. A card is held through a
lock on a file, which the kernel gives back when the process ends, however it ends. On a Slurm cluster the scheduler
hands out cards, and a job's locks are its own.

Of the cards in CUDA_VISIBLE_DEVICES, else of all that the driver knows. TAGMASK_CARDS=n says how many there are (0:
share them, take none), for machines where they cannot be counted.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NUMBER = "TAGMASK_CARDS"
HELD = "TAGMASK_CARD"  # set once a card is held: a command's own worker processes use the same one
_locks: list[int] = []  # open for as long as the process lives


def visible() -> list[str]:
    """The cards this process may use, named as CUDA_VISIBLE_DEVICES names them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    number = os.environ.get(NUMBER, "")
    if listed is None:
        return [str(index) for index in range(int(number) if number.isdigit() else _known_to_the_driver())]
    names = [name.strip() for name in listed.split(",")]
    end = next((at for at, name in enumerate(names) if name in ("", "-1")), len(names))  # CUDA stops there, too
    return names[: min(end, int(number))] if number.isdigit() else names[:end]


def _known_to_the_driver() -> int:
    if shutil.which("nvidia-smi"):
        try:
            asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            asked = None
        if asked is not None and asked.returncode == 0:
            return sum(line.startswith("GPU ") for line in asked.stdout.splitlines())
    return len(glob.glob("/dev/nvidia[0-9]*"))


def count() -> int:
    """How many graphics cards this process may use."""
    return len(visible())


def limit(workflow: Any) -> None:
    """At most as many jobs with `gpu=1` at once on this machine as it has cards; `--resources gpu=N` goes before.

    Called while the Snakefile is read. Jobs that are sent to a cluster do not count: the resource is 'local'.
    Without a card nothing is limited: such jobs then compute on the CPU, and --cores limits them.
    """
    if workflow.is_main_process and "gpu" not in workflow.global_resources and (cards := count()):
        workflow.global_resources["gpu"] = cards
        workflow.resource_scopes.setdefault("gpu", "local")


def claim(device: str, say: Callable[[str], None] = print, every: float = 60.0) -> str | None:
    """Hold a card of this machine until the process ends; the name of the card, or None where there is none to hold.

    device: 'auto' and 'cuda' take any free card and set CUDA_VISIBLE_DEVICES to it, so it must not be too late for
    torch; 'cuda:1' takes that one. Waits while others hold them all, and says so once in `every` seconds.
    """
    if device == "cpu" or HELD in os.environ:
        return os.environ.get(HELD) if device != "cpu" else None
    if "SLURM_JOB_ID" in os.environ and "CUDA_VISIBLE_DEVICES" not in os.environ:
        return None  # a job that was given none
    names = visible()
    chosen = re.fullmatch(r"cuda:(\d+)", device)
    if chosen:
        names = names[int(chosen[1]) : int(chosen[1]) + 1]
    if not names:
        return None
    folder = _folder()
    told = -every
    waited = 0.0
    while not (card := _take(folder, names)):
        if waited - told >= every:
            who = "this graphics card is" if len(names) == 1 else f"all {len(names)} graphics cards are"
            say(f"waiting: {who} taken by other jobs of yours ({NUMBER}=0 shares them instead)")
            told = waited
        time.sleep(0.5)
        waited += 0.5
    os.environ[HELD] = card
    if not chosen:
        os.environ["CUDA_VISIBLE_DEVICES"] = card
    return card


def _take(folder: Path, names: list[str]) -> str | None:
    """The first of these cards that nobody holds, now held by this process."""
    for name in names:
        file = os.open(folder / re.sub(r"[^\w.-]", "_", name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        _locks.append(file)
        return name
    return None


def _folder() -> Path:
    """Where the locks lie: of this user and, as Slurm numbers the cards of every job from 0, of this Slurm job."""
    name = f"tagmask-cards-{os.getuid()}"
    if job := os.environ.get("SLURM_JOB_ID"):
        name += f"-{job}"
    folder = Path(tempfile.gettempdir(), name)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
