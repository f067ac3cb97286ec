"""Faults of Snakemake itself, on a recipe of six jobs, with real processes: nothing is warm here."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benchmarks.faults_runs import DATA, NET, ROOT, digest

SHIPPED = ("Snakefile", "config.yaml", "workflow", "pipeline", "configs", "envs")
LONGEST = 900  # seconds
NUMBERS = itertools.count()
OWN = {
    "data": DATA,
    "steps": {"segment": {"method": "segment", **NET}},
    "recipes": {"faults": ["masks", "random", "segment"]},
    "run": ["faults"],
    "compute": {"device": "cpu", "precision": "f32"},
}


class Started(NamedTuple):
    process: subprocess.Popen[bytes]
    said: Path


class Workflow:
    """A copy of the repository, and what an undisturbed run makes in it."""

    def __init__(self, base: Path):
        self.base, self.files, self.seconds = base, dict[str, str](), 0.0

    def folder(self, name: str, finished: bool = False) -> Path:
        """A fresh copy to run in. finished: with the results of an undisturbed run."""
        where = self.base / name
        where.mkdir(parents=True)
        for part in SHIPPED:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, where / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, where / part)
        (where / "own.yaml").write_text(json.dumps(OWN))
        if finished:
            for part in ("results", ".snakemake"):
                shutil.copytree(self.base / "straight" / part, where / part)
        return where

    def begin(self) -> None:
        if not self.files:
            from pipeline.core import recipe
            from pipeline.core.config import parse

            node = recipe.recipe_nodes(parse(OWN), "faults", 0)[-1]
            self.target = f"results/{DATA['name']}/{node.file}"
            where, began = self.folder("straight"), time.monotonic()
            status, said = finish(self.start(where))
            if status:
                raise SystemExit(f"Snakemake, undisturbed: exit {status}\n{said[-3000:]}")
            self.seconds, self.files = time.monotonic() - began, results(where)

    def start(self, where: Path, *words: str) -> Started:
        flags = words or ("--cores", "1", "--configfile", "own.yaml", "--", self.target)
        python = str(Path(sys.executable).parent)
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        environment |= {"PATH": f"{python}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(where)}
        command = [sys.executable, "-m", "snakemake", "--nocolor", *flags]
        said = where / f"said{next(NUMBERS)}"
        with said.open("w") as file:
            process = subprocess.Popen(
                command, cwd=where, env=environment, start_new_session=True, stdout=file, stderr=file
            )
        return Started(process, said)

    def attempt(self, fault: str, random: Random) -> dict[str, Any]:
        self.begin()
        about: dict[str, Any] = {}
        where = self.folder("try", finished=fault == "snakemake-verify")
        try:
            WORKFLOW_FAULTS[fault](self, where, random, about)
        finally:
            shutil.rmtree(where)
        return about

    def interrupted(self, where: Path, random: Random, about: dict[str, Any], alone: bool = False) -> None:
        """Begin, and SIGKILL at a random moment."""
        about["after_s"] = round(random.uniform(0, self.seconds), 2)
        process = self.start(where).process
        with suppress(subprocess.TimeoutExpired):
            process.wait(about["after_s"])
        if alone:
            process.kill()
        else:
            for member in session(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)
        about["ended"] = process.wait()
        if not alone:
            self.look(where, about)

    def look(self, where: Path, about: dict[str, Any]) -> None:
        for path in (where / "results").rglob("*.json"):
            name = str(path.relative_to(where))
            if path.name != "zarr.json" and ".part/" not in name and not path.name.startswith("."):
                found, store = results(where), {name}
                store |= {other for other in self.files if other.startswith(name.removesuffix(".json") + ".zarr/")}
                if any(found.get(other) != self.files.get(other) for other in store):
                    about["false"] = f"{name} is there and not what it should be"

    def again(self, where: Path, about: dict[str, Any]) -> None:
        """The same command; what it says is to be done is done, as often as it says so."""
        command: tuple[str, ...] = ()
        for _ in range(4):
            status, said = finish(self.start(where, *command))
            if not status:
                break
            if "--unlock" in said:
                about["remedy"] = "--unlock"
                finish(self.start(where, "--unlock", "--configfile", "own.yaml"))
            elif "--rerun-incomplete" in said:  # which may find the lock
                about["remedy"] = "--rerun-incomplete"
                command = ("--rerun-incomplete", "--cores", "1", "--configfile", "own.yaml", "--", self.target)
        else:
            about["lost"] = said[-300:]
            return
        found = results(where)
        about["identical"] = found == self.files
        if not about["identical"]:
            names = sorted(name for name in found.keys() | self.files.keys() if found.get(name) != self.files.get(name))
            about["differs"] = ", ".join(names[:5])


def session(leader: int) -> list[int]:
    """Every process of a session: Snakemake, its shells, their stages."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader:
                    found.append(int(entry.name))
    return found


def finish(started: Started) -> tuple[int, str]:
    """Exit status and what it said."""
    return started.process.wait(LONGEST), started.said.read_text(errors="replace")


def results(where: Path) -> dict[str, str]:
    """Path → digest of every file of an artifact."""
    files = (path for path in sorted((where / "results").rglob("*")) if path.is_file())
    return {str(path.relative_to(where)): digest(path) for path in files if path.name != "inventory.npz"}


# -------------------------------------------------------------------------------------------------------- faults


def killed(workflow: Workflow, where: Path, random: Random, about: dict[str, Any]) -> None:
    workflow.interrupted(where, random, about)
    workflow.again(where, about)


def alone(workflow: Workflow, where: Path, random: Random, about: dict[str, Any]) -> None:
    workflow.interrupted(where, random, about, alone=True)
    workflow.again(where, about)
    workflow.look(where, about)


def two(workflow: Workflow, where: Path, random: Random, about: dict[str, Any]) -> None:
    about["after_s"] = round(random.uniform(0, workflow.seconds), 2)
    first = workflow.start(where).process
    with suppress(subprocess.TimeoutExpired):
        first.wait(about["after_s"])
    second = workflow.start(where).process
    about["ended"] = [first.wait(LONGEST), second.wait(LONGEST)]
    workflow.look(where, about)
    workflow.again(where, about)


def clock(workflow: Workflow, where: Path, random: Random, about: dict[str, Any]) -> None:
    workflow.interrupted(where, random, about)
    ahead = about["ahead_s"] = random.randint(60, 365 * 86400)
    for path in [*(where / "results").rglob("*"), *(where / ".snakemake").rglob("*")]:
        stat = path.stat()
        os.utime(path, (stat.st_atime + ahead, stat.st_mtime + ahead))
    workflow.again(where, about)


def verified(workflow: Workflow, where: Path, random: Random, about: dict[str, Any]) -> None:
    chunks = [
        path for path in sorted(where.rglob("results/**/*.zarr/**/*")) if path.is_file() and path.name != "zarr.json"
    ]
    file = random.choice([path for path in chunks if path.stat().st_size])
    raw = bytearray(file.read_bytes())
    raw[random.randrange(len(raw))] ^= 1 << random.randrange(8)
    file.write_bytes(raw)
    about["damage"] = str(file.relative_to(where))
    status, said = finish(workflow.start(where, "--cores", "1", "verify", "--configfile", "own.yaml"))
    advice = re.search(r"^  rm -r (.+)$", said, re.M), re.search(r"^  snakemake (.+)$", said, re.M)
    if not status or not all(advice):
        about["false"] = f"verify: exit {status}, {said[-200:]}"
        return
    for path in shlex.split(advice[0][1]):  # type: ignore[index]
        found = where / path
        shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)
    words = shlex.split(advice[1][1])  # type: ignore[index]
    finish(workflow.start(where, *words[:2], "--configfile", "own.yaml", "--", *words[2:]))
    workflow.again(where, about)


WORKFLOW_FAULTS: dict[str, Callable[[Workflow, Path, Random, dict[str, Any]], None]] = {
    "snakemake-killed": killed,
    "snakemake-alone": alone,
    "two-snakemakes": two,
    "snakemake-clock": clock,
    "snakemake-verify": verified,
}
