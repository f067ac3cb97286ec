"""Every stage, disturbed at random moments by all that can go wrong, and run again: is anything lost, or false?

    python -m benchmarks.faults run [--faults SIGKILL power-loss …] [--stages cam …] [--tries 10] [--minutes 60]
    python -m benchmarks.faults table

`run` makes every artifact undisturbed on 16 small pictures, then goes through tries: a fresh folder (in every second
try with a finished artifact of other inputs in it), the stage's own command, the fault, a look at what stands there,
the same command again, and a comparison of every byte. Faults of Snakemake itself (stage `snakemake`) are tried on a
small recipe, as processes of their own. It needs Linux and gcc, and for file systems that are full or read-only to be
root. Each try's row goes to docs/results/faults.json at once, with the number of the run that made it; stopped at any
moment, the same command goes on. `table` writes docs/results/faults.md from it. The moments of a try follow from
--seed, fault, stage and number.

faults_runs.py: the stages, and how they are run · faults_kinds.py: the faults, and how a try is judged ·
faults_workflow.py: those of Snakemake · faults_disk.py: what a disk holds after a loss of power · faults.c: the library
that sees changes to files · faults_page.py: the page.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.faults_kinds import FAULTS, MOUNTS, Row, Try, own_mounts  # noqa: E402
from benchmarks.faults_page import page  # noqa: E402
from benchmarks.faults_runs import DATA, OTHER, STAGES, Hangs, World, load_library, preload  # noqa: E402
from benchmarks.faults_workflow import WORKFLOW_FAULTS, Workflow  # noqa: E402

RESULTS = ROOT / "docs" / "results"
SNAKEMAKE = "snakemake"  # stands for a stage


def plan(faults: list[str], stages: list[str], tries: int) -> list[tuple[int, str, str]]:
    """(number, fault, stage) of every try, the first of each before the second of any."""
    return [
        (number, fault, name)
        for number in range(tries)
        for fault in faults
        for name in ([SNAKEMAKE] if fault in WORKFLOW_FAULTS else stages)
        if (fault in WORKFLOW_FAULTS) == (name == SNAKEMAKE)
        and (name in stages)
        and not (fault == "damaged-input" and not STAGES[name].inputs)
    ]


def attempt(fault: str, name: str, number: int, seed: int, worlds: tuple[World, World], workflow: Workflow) -> Row:
    random = Random(f"{seed} {fault} {name} {number}")
    base = {"fault": fault, "stage": name, "try": number, "seed": seed}
    if name == SNAKEMAKE:
        began = time.monotonic()
        about = workflow.attempt(fault, random)
        return {**base, **about, "s": round(time.monotonic() - began, 2)}
    sources = [worlds[0][source] for source in STAGES[name].inputs.values()]
    worlds[0][name]  # undisturbed, before the clock runs
    folder = Path(tempfile.mkdtemp(prefix="try", dir=worlds[0].base.parent))
    this = Try(name, random, folder, *worlds, old=number % 2 == 1)
    before, began = [stamps(source.folder) for source in sources], time.monotonic()
    try:
        FAULTS[fault](this)
    except Hangs as error:
        this.about["lost"] = str(error)
    if before != [stamps(source.folder) for source in sources]:
        this.about["lost"] = "an input was changed"
    shutil.rmtree(folder, ignore_errors=True)
    return {**base, "old": this.old, **this.about, "s": round(time.monotonic() - began, 2)}


def stamps(folder: Path) -> list[tuple[str, int, int]]:
    return [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))]


def run(args: argparse.Namespace) -> None:
    if MOUNTS & set(args.faults):
        own_mounts()
    if stages := [name for name in args.stages if name != SNAKEMAKE]:
        preload(stages)
    found = json.loads(args.json.read_text()) if args.json.is_file() else {"runs": [], "tries": []}
    rows, done = found["tries"], {(row["try"], row["fault"], row["stage"]) for row in found["tries"]}
    command = shlex.join(["python", "-m", "benchmarks.faults", *sys.argv[1:]])
    made_by = {"commit": commit(), "machine": machine(), "command": command}
    found["runs"] += [] if made_by in found["runs"] else [made_by]
    number_of_run = found["runs"].index(made_by)
    end = time.monotonic() + 60 * args.minutes
    base = Path(tempfile.mkdtemp(prefix="faults", dir=args.work)).resolve()  # no finalizer: stages would run it, too
    try:
        worlds, workflow = (World(base / "here", DATA), World(base / "other", OTHER)), Workflow(base / "workflow")
        for number, fault, name in plan(args.faults, args.stages, args.tries):
            if (number, fault, name) in done:
                continue
            if time.monotonic() > end:
                return print("out of time; the same command goes on")
            rows.append(attempt(fault, name, number, args.seed, worlds, workflow) | {"run": number_of_run})
            save(found, args.json)
            print(one_line(rows[-1]), flush=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def save(found: dict[str, list[Row]], file: Path) -> None:
    parts = [f'"{name}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]" for name, rows in found.items()]
    temporary = file.with_suffix(".new")
    temporary.write_text("{" + ",\n".join(parts) + "}\n")
    temporary.replace(file)


def one_line(row: Row) -> str:
    result = "identical" if row.get("identical") else "refused" if "refused" in row else "NOT IDENTICAL"
    notes = [f"{key}: {row[key]}" for key in ("lost", "false", "differs", "refused", "remedy") if key in row]
    return "  ".join([row["fault"], row["stage"], str(row["try"]), result, f"{row['s']} s", *notes])


def commit() -> str:
    said = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return said.stdout.strip()


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    cores = len(os.sched_getaffinity(0))
    return f"{name}, {cores} cores, Linux {platform.release()}, Python {platform.python_version()}"


def main() -> None:
    faults, stages = [*FAULTS, *WORKFLOW_FAULTS], [*STAGES, SNAKEMAKE]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--faults", nargs="*", choices=faults, default=faults)
    parser.add_argument("--stages", nargs="*", choices=stages, default=stages)
    parser.add_argument("--tries", type=int, default=10, help="of each fault in each stage")
    parser.add_argument("--minutes", type=float, default=600, help="begin no try after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=None, help="folder for what is made (that for temporary files)")
    parser.add_argument("--json", type=Path, default=RESULTS / "faults.json")
    args = parser.parse_args()
    if args.action == "table":
        args.json.with_suffix(".md").write_text(page(json.loads(args.json.read_text())))
        return
    load_library(sys.argv[1:])
    run(args)


if __name__ == "__main__":
    main()
