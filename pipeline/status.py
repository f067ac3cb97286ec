"""How far a run is: every artifact, score and report of the recipes asked for, from the files that the stages write.

    python -m pipeline.status [--configfile FILE ...] [--config KEY=VALUE ...] [--watch [SECONDS]]

Called in the folder that `snakemake` is called in, with the same configuration, beside a run or after one, on this
machine or on another that sees the same disk. It reads manifests, logs and `x.part/progress.json` (docs/artifacts.md)
and writes nothing. A state is one of

    done      the manifest is there, and made from its inputs as they are now
    outdated  an input has other content than what this was made from: the next run makes it anew
    running   its stage says how far it is; where, if on another machine or in a Slurm job
    starting  begun, nothing said yet
    failed    the last line of its log
    stopped   begun and gone without an end: Ctrl-C, a time limit, or killed
    waiting   not begun

The time left is the sum over what is running and waiting, shared out over the stages at work; what was never run here
is named instead. No torch. Cost: one small file read for each artifact.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

from pipeline.core import cli, progress, recipe
from pipeline.core.config import Config, ConfigError, own_file, parse
from pipeline.datasets.fingerprint import fingerprints

LOCKS = Path(".snakemake/locks")
FAILED = re.compile(r"(error|[\w.]*(Error|Exception)):")  # how a stage's last line begins
SILENT = 120.0  # seconds after which a stage on another machine that says nothing is taken for gone
ORDER = ("failed", "stopped", "running", "starting", "outdated", "waiting", "done")


@dataclass(frozen=True)
class Task:
    """One file to be made. like: what takes about as long (its step, or what is scored). inputs: role → manifest."""

    name: str
    file: Path
    log: Path
    benchmark: Path
    like: str
    inputs: dict[str, Path] = field(default_factory=dict, compare=False, hash=False)


@dataclass(frozen=True)
class State:
    """said: the rest of its line. left: seconds, where the stage knows."""

    word: str
    said: str = ""
    left: float | None = None


def configured(files: Sequence[str], pairs: Sequence[str]) -> Config:
    """config.yaml (`own_file`) with `files` and KEY=VALUE over it, as Snakemake merges them. Raises ConfigError."""
    merged: dict[str, Any] = {}
    read: dict[str, Any] = {}
    for file in (str(own_file()), *files):
        try:
            read[file] = load_configfile(file)
        except Exception as error:  # Snakemake's WorkflowError, or the system's
            raise ConfigError(f"{file}: {error}") from None
        update_config(merged, read[file])
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--config {pair}: KEY=VALUE expected")
        update_config(merged, {key: yaml.safe_load(value)})
    return parse(merged, read)


def tasks(config: Config) -> list[Task]:
    """All that `snakemake` makes with this configuration, inputs first; named as in its logs (workflow/rules/)."""
    root, masked = config.results / config.data.name, bool(fingerprints(config.data).masked)
    found: dict[str, Task] = {}
    pages = []
    for name in config.run:
        for seed in config.seeds:
            made = [task for node in recipe.recipe_nodes(config, name, seed) for task in _of(node, root, masked)]
            found |= {task.name: task for task in made}
            page = f"report/{name}-seed{seed}"
            pages.append(_task(root, page, page, "page", {task.name: task.file for task in made}, ".html"))
    listed = {task.name: task.file for task in (*found.values(), *pages)}
    parts = [_task(root, part, part, part) for part in recipe.PARTS]
    return [*parts, *found.values(), *pages, _task(root, "report/index", "report/index", "index", listed, ".html")]


def _of(node: recipe.Node, root: Path, masked: bool) -> Iterator[Task]:
    """What a step makes, and its scores; nothing for the data set's own parts."""
    if not node.settings:
        return
    inputs = {role: root / source.file for role, source in node.inputs.items()}
    yield _task(root, f"{node.folder}/{node.kind}", f"{node.folder}/{node.method}", node.name, inputs)
    if node.scored and masked:
        name = f"{node.folder}/{node.kind}.metrics"
        yield _task(root, name, name, f"scores of {node.kind}", {"of": root / node.file})


def _task(
    root: Path, name: str, log: str, like: str, inputs: dict[str, Path] | None = None, suffix: str = ".json"
) -> Task:
    logs = Path("logs", root, f"{log}.log")
    benchmark = Path("logs/benchmark", root, f"{log}.tsv")
    return Task(name, root / f"{name}{suffix}", logs, benchmark, like, inputs or {})


def state(task: Task, running: bool) -> State:
    """running: whether a Snakemake holds this folder's lock."""
    about = progress.read(task.file.with_suffix(".part"))
    if about and alive(about):
        return State("running", _work(about), about["seconds_left"])
    if task.file.exists():
        return _finished(task)
    if not task.log.exists():
        return State("waiting")
    last = last_line(task.log)
    if "stopped by Ctrl-C" in last:
        return State("stopped", "by Ctrl-C; the next run goes on from there")
    if about:
        return State("stopped", f"killed, or out of time: {_work(about | {'seconds_left': None})}")
    if running and task.log.stat().st_mtime >= _locked_since() - 1:
        return State("failed", last) if FAILED.match(last) else State("starting")
    return State("failed", last) if last else State("stopped", "before it said anything")


def alive(about: dict[str, Any]) -> bool:
    """Whether the stage that wrote this still runs: a process of this machine, or one of another that spoke lately."""
    if about["host"] != platform.node():
        written = time.mktime(time.strptime(about["updated"], "%Y-%m-%dT%H:%M:%S"))
        return time.time() - written < SILENT
    try:
        os.kill(about["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def _work(about: dict[str, Any]) -> str:
    where = f"Slurm job {about['job']} on {about['host']}" if about["job"] else about["host"]
    here = "" if where == platform.node() else f"  ({where})"
    return progress.line("", about).strip() + here


def _finished(task: Task) -> State:
    stamp = task.file.stat().st_mtime
    made = time.strftime("%d %b %H:%M", time.localtime(stamp))
    if task.file.suffix == ".json":
        parents = _read(task.file).get("parents", {})
        now = {role: _read(source).get("digest") for role, source in task.inputs.items()}
        changed = [role for role, digest in now.items() if digest and digest != parents.get(role, digest)]
    else:
        changed = [name for name, file in task.inputs.items() if file.exists() and file.stat().st_mtime > stamp]
    if changed:
        return State("outdated", f"made {made}; changed since: {', '.join(changed[:6])}")
    return State("done", made)


def _read(manifest: Path) -> dict[str, Any]:
    """Nothing of what is not there, or is no manifest."""
    try:
        found = json.loads(manifest.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def last_line(log: Path) -> str:
    """The last one that says something; '' of an empty log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")


def _locked_since() -> float:
    """When the run that holds the lock began; infinity without one."""
    return min((file.stat().st_mtime for file in LOCKS.glob("*") if file.is_file()), default=float("inf"))


def left(found: dict[Task, State]) -> tuple[float, list[str]]:
    """Seconds of all that is running or not begun, over as many jobs at once as run now; and of what nothing is known.

    A stage that says nothing takes as long as its like took here before.
    """
    took: dict[str, list[float]] = {}
    for task, now in found.items():
        if now.word == "done" and (seconds := _seconds(task.benchmark)) is not None:
            took.setdefault(task.like, []).append(seconds)
    total, unknown = 0.0, []
    for task, now in found.items():
        if now.word == "done":
            continue
        if now.left is not None:
            total += now.left
        elif task.like in took:
            total += sum(took[task.like]) / len(took[task.like])
        else:
            unknown.append(task.like)
    at_once = max(1, sum(now.word == "running" for now in found.values()))
    return total / at_once, list(dict.fromkeys(unknown))


def _seconds(benchmark: Path) -> float | None:
    try:
        return float(benchmark.read_text().splitlines()[1].split("\t")[0])
    except (OSError, IndexError, ValueError):
        return None


def duration(seconds: float) -> str:
    """'40 s', '12 min', '3 h 05 min'."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def lines(found: dict[Task, State], root: Path) -> Iterable[str]:
    """What is shown: a line for each state and how often, the time left, a line for each task in the recipes' order."""
    count = Counter(now.word for now in found.values())
    yield f"{root}: " + ", ".join(f"{count[word]} {word}" for word in ORDER if count[word])
    if count["done"] < len(found):
        seconds, unknown = left(found)
        known = f"about {duration(seconds)} left" if seconds else "time left: not known yet"
        yield known + (f", and what these take, never run here: {', '.join(unknown)}" if unknown and seconds else "")
    yield ""
    for task, now in found.items():
        yield f"{now.word:<9} {task.name}" + (f"\n{'':10}{now.said}" if now.said and now.word != "done" else "")


def look(listed: Sequence[Task], root: Path) -> tuple[str, bool]:
    """The text, and whether everything is done."""
    running = any(file.is_file() for file in LOCKS.glob("*"))
    found = {task: state(task, running) for task in listed}
    return "\n".join(lines(found, root)), all(now.word == "done" for now in found.values())


def show(args: argparse.Namespace) -> None:
    config = configured(args.configfile, args.config)
    listed, root = tasks(config), config.results / config.data.name
    while True:
        text, done = look(listed, root)
        if args.watch and sys.stdout.isatty():
            print("\033[2J\033[H", end="")
        print(text, flush=True)
        if not args.watch or done:
            return
        time.sleep(args.watch)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.status", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configfile", nargs="+", default=[], metavar="FILE", help="as given to snakemake")
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="as given to snakemake")
    parser.add_argument("--watch", nargs="?", type=float, const=5.0, metavar="SECONDS", help="again and again")
    args = parser.parse_args(argv)
    cli.guarded(lambda: show(args))


if __name__ == "__main__":
    main()
