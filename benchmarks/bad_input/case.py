"""A case: a function that writes hostile input into a folder, the command that is to meet it, and what is expected.

A command that meets bad input either handles it or refuses it: with a message that names what was found, what was
expected and what to do, within seconds, exit code 2 (Snakemake: 1), no traceback, nothing written, and nothing that the
input brought along executed. `run` holds a command to that; what a single case expects beyond it stands in its `says`
and in the check of its command.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[0:0] = [str(ROOT), str(ROOT / "tests")]

import warm  # noqa: E402

HANDLED, PARTLY, REFUSED, EITHER = "handled", "partly", "refused", "either"
THEIRS = "refused by Snakemake"  # by its command line, before any code of ours runs: how it says so is its own
CANARY = "canary"  # a file of this name is what executed input leaves
LONGEST = 6000  # characters of a message that a person would read
KEPT = 8  # lines of a message in the results
STOPS = 120  # seconds until a command that hangs is killed
CONFIGURATION = (ROOT / "config.yaml").read_text()


class Command(NamedTuple):
    """`python -m module words…`, run in the case's folder. wished: patterns of the files it may write; scratch: those
    that it may leave where it refuses. check: looks at what it said and left, gives what is wrong, '' for nothing."""

    module: str
    words: list[str]
    wished: tuple[str, ...] = ()
    check: Callable[[str], str] = lambda said: ""
    scratch: tuple[str, ...] = ()


class Case(NamedTuple):
    """expected: `handled` (exit 0), `partly` (exit 1: the rest is done and the bad file named), `refused`, THEIRS, or
    `either` where damage may or may not show. says: patterns that the output must hold, whatever the outcome. seconds:
    of CPU, which other work on the machine does not change."""

    name: str
    build: Callable[[Path], Command]
    expected: str = REFUSED
    says: tuple[str, ...] = ()
    seconds: float = 10.0


@dataclass
class Result:
    outcome: str
    said: str
    seconds: float
    cpu: float
    written: list[str]
    faults: list[str] = field(default_factory=list)
    words: str = ""


# ------------------------------------------------------------------------------------------------------ commands


def prepare(
    folder: Path,
    root: str = "photos",
    make: str = "photographs",
    check: Callable[[Path], str] | None = None,
    **data: Any,
) -> Command:
    """Make an artifact of the folder `root` (as voc=…: of a devkit; export=…, format=…: of an export). check: is given
    its manifest."""
    given = {block: data.pop(block) for block in ("voc", "export") if block in data}
    layout = given or {"folder": {"root": root, **data.pop("folder", {})}}
    settings = {"name": "x", "max_side": 96, **layout, **data}
    words = ["--make", make, "--settings", json.dumps(settings), "--out", f"out/{make}.json"]
    looked = (lambda said: check(folder / f"out/{make}.json")) if check else (lambda said: "")
    return Command("pipeline.prepare", words, ("out", "out/*"), looked)


def predict(
    folder: Path,
    *words: str,
    photos: str = "photos",
    model: str = "model.json",
    check: Callable[[Path], str] | None = None,
) -> Command:
    """Masks for the folder `photos`, by default without overlays. check: is given the folder of masks."""
    given = [model, photos, "--out", "masks", "--device", "cpu", "--threads", "1", *words]
    if "--overlays" not in words:
        given.append("--no-overlays")
    looked = (lambda said: check(folder / "masks")) if check else (lambda said: "")
    return Command("pipeline.predict", given, ("masks", "masks/*"), looked)


def plan(folder: Path, text: str | bytes | None, *targets: str) -> Command:
    """A dry run of Snakemake with config.yaml and this one (None: there is no such file)."""
    (folder / "config.yaml").write_text(CONFIGURATION)
    if text is not None:
        (folder / "mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    words = ["--nocolor", "-n", "-s", str(ROOT / "Snakefile"), "--configfile", "mine.yaml", "--", *targets]
    return Command("snakemake", words)


def verify(folder: Path, root: str = "results") -> Command:
    return Command("pipeline.artifacts", ["verify", root])


def stage(name: str, *words: str) -> Command:
    """A stage reads rows while it works: damage in one is found when it has begun, and what it began is never taken
    for finished, as there is no manifest."""
    begun = ("out", "out/made.part*", "out/made.zarr*")
    given = [*words, "--out", "out/made.json", "--threads", "1"]
    return Command(f"pipeline.{name}", given, ("out", "out/*"), scratch=begun if name != "init" else ())


# ------------------------------------------------------------------------------------------------------- running


def run(case: Case, folder: Path) -> Result:
    """Run a case in a folder of its own and hold it to what is expected."""
    folder.mkdir(parents=True)
    command = case.build(folder)
    before = state(folder)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    given = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PATH": path, "TAGMASK_PROGRESS": "0"}
    started = time.monotonic()
    server = warm.server_of(ROOT)
    status, said, spent = warm.measured(command.module, command.words, folder, given, seconds=STOPS, server=server)
    seconds = time.monotonic() - started
    after = state(folder)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    outcome = {0: "handled", 1: "partly", 2: "refused"}.get(status, f"ended with status {status}")
    if command.module == "snakemake" and status == 1:
        outcome = "refused"
    wished = command.wished if outcome in (HANDLED, PARTLY) else command.scratch
    written = [name for name in changed if not any(fnmatch.fnmatch(name, pattern) for pattern in wished)]
    shown = f"python -m {command.module}" if command.module != "snakemake" else "snakemake"
    found = Result(
        outcome, said, round(seconds, 2), round(spent, 2), written, words=" ".join([shown, *command.words[:2]])
    )
    found.faults = [*faults(case, found), *filter(None, [command.check(said) if outcome != REFUSED else ""])]
    return found


def state(folder: Path) -> dict[str, Any]:
    """Every file below a folder with what tells whether it has changed; not what Snakemake keeps for itself."""
    found = {}
    for at, folders, files in os.walk(folder):
        below = os.path.relpath(at, folder)
        if below == ".":
            folders[:] = [name for name in folders if name != ".snakemake"]
        for name in [*folders, *files]:
            about = os.lstat(os.path.join(at, name))
            told = (about.st_size, about.st_mtime_ns) if name in files else ()
            found[os.path.normpath(os.path.join(below, name))] = (about.st_mode, *told)
    return found


def faults(case: Case, found: Result) -> list[str]:
    """What no command may do, and what this one was expected to do and did not."""
    wrong = []
    if case.expected == THEIRS:
        case, found = case._replace(expected=REFUSED, says=()), replace(found, said="")
    if found.outcome != case.expected and not (case.expected == EITHER and found.outcome in (HANDLED, REFUSED)):
        wrong.append(f"{found.outcome}, {case.expected} expected")
    if "Traceback (most recent call last)" in found.said:
        wrong.append("a traceback")
    if re.search(r"\w+Warning: ", found.said):
        wrong.append("a warning of Python")
    if seen := re.search(r"[^\n\t\r\x20-\x7e\xa0-\U0010ffff]", found.said):
        wrong.append(f"the character {seen[0]!r} reaches the terminal")
    if found.outcome == REFUSED and len(found.said) > LONGEST:
        wrong.append(f"{len(found.said):,} characters said")
    if any(Path(name).name.startswith(CANARY) for name in found.written):
        wrong.append("the input was executed")
    if found.written:
        wrong.append(f"written: {', '.join(found.written[:5])}")
    if found.cpu > case.seconds:
        wrong.append(f"{found.cpu:.1f} s of CPU, {case.seconds:.0f} expected")
    wrong += [f"does not say /{text}/" for text in case.says if not re.search(text, found.said)]
    return wrong


def row(group: str, case: Case, found: Result, folder: Path) -> dict[str, Any]:
    """A line of the results: nothing in it depends on where the case ran."""
    lines = [line.rstrip() for line in found.said.replace(str(folder), case.name).splitlines() if line.strip()]
    where = "\n".join(lines).replace(str(ROOT), ".").splitlines()
    told = [line[:300].encode("unicode_escape").decode() if not line.isprintable() else line[:300] for line in where]
    start = next((n for n, line in enumerate(told) if "error" in line.lower() or "could not be done" in line), 0)
    return {
        "case": case.name,
        "group": group,
        "command": found.words.replace(str(folder), case.name),
        "expected": case.expected + "".join(f" /{text}/" for text in case.says),
        "outcome": HANDLED if found.outcome == PARTLY else found.outcome,
        "message": told[start : start + KEPT],
        "seconds": found.seconds,
        "cpu_seconds": found.cpu,
        "written": found.written,
        "faults": found.faults,
    }


def named(cases: Iterable[Case]) -> dict[str, Case]:
    return {case.name: case for case in cases}
