"""Hostile and broken input through the real commands: each is handled, or refused with a message, and never executed.

    python -m benchmarks.bad_input [GROUP ...] [--only TEXT] [--anew | --failed] [--keep FOLDER]

Writes docs/results/bad_input.json, a row per case, and docs/results/bad_input.md from it. Each case draws its own input
(case.py says what every command is held to); commands run in processes forked from one that has imported libraries and
our modules, but no command (tests/warm.py), so seconds are those of the command without the start of Python. A run
that was stopped goes on: cases whose row is of this commit are left, unless --anew. Exit code 1 if a case fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from textwrap import shorten
from typing import Any

from benchmarks.bad_input import (
    artifacts,
    configuration,
    drawings,
    maskfiles,
    masks,
    names,
    photographs,
    predicting,
    tables,
    weights,
)
from benchmarks.bad_input.case import ROOT, Case, row, run

RESULTS = ROOT / "docs" / "results" / "bad_input.json"
GROUPS: dict[str, list[Case]] = {
    "photographs": photographs.CASES,
    "names and links": names.CASES,
    "tables": tables.CASES,
    "masks": masks.CASES,
    "mask files": maskfiles.CASES,
    "drawings": drawings.CASES,
    "configuration": configuration.CASES,
    "predict": predicting.CASES,
    "weights": weights.CASES,
    "artifacts": artifacts.CASES,
}
HEAD = """# Hostile and broken input

    python -m benchmarks.bad_input

Each case draws its input, and a real command meets it (the JSON beside this page has the first lines that it said). It
must handle it, or refuse it with file, found, expected and remedy: within seconds, exit code 2 (Snakemake: 1), no
traceback, nothing written, nothing of the input executed. `partly`: single files are bad, `predict` names them with
exit code 1 and does the rest. `either`: damage may not show. Seconds are of CPU (the machine had other work), of a
command forked from a process that has imported its libraries.
"""


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def commit() -> str:
    """Of the checkout; with a + where files that count are changed."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "pipeline", "benchmarks", "workflow", "Snakefile", "config.yaml")
    return git("rev-parse", "--short", "HEAD") + "+" * bool(changed)


def page(rows: list[dict[str, Any]]) -> str:
    """The results as they are read."""

    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

    failed = [one for one in rows if one["faults"]]
    handled = sum(one["outcome"] == "handled" for one in rows)
    refused = sum(one["outcome"] == "refused" for one in rows)
    longest = max(rows, key=lambda one: one["cpu_seconds"])
    lines = [
        HEAD,
        f"{len(rows)} cases: {handled} handled, {refused} refused, {len(failed)} failed. The longest, "
        f"{longest['case']}, took {longest['cpu_seconds']:.1f} s of CPU.",
    ]
    for group in dict.fromkeys(one["group"] for one in rows):
        lines += ["", f"## {group.capitalize()}", ""]
        lines += ["| case | expected | outcome | message | s |", "|---|---|---|---|---|"]
        for one in (one for one in rows if one["group"] == group):
            outcome = f"**failed**: {'; '.join(one['faults'])}" if one["faults"] else one["outcome"]
            told = [line.strip() for line in one["message"] if ": " in line] or [""]
            short = shorten(told[min(1, len(told) - 1)], 160, placeholder=" …")
            said = f"`{short}`".replace("|", "¦") if one["outcome"] == "refused" else ""
            cells = cell(one["case"]), one["expected"].split(" /")[0], cell(outcome), said, f"{one['cpu_seconds']:.1f}"
            lines.append("| " + " | ".join(cells) + " |")
    about = dict.fromkeys(f"{one['machine']}, commit {one['commit']}" for one in rows)
    return "\n".join([*lines, "", f"Machine: {'; '.join(about)}.", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)} (all)")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--anew", action="store_true", help="run cases again that have a row of this commit")
    parser.add_argument("--failed", action="store_true", help="only cases that failed, or have no row of any commit")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--keep", type=Path, help="leave the cases' folders here, to look at")
    args = parser.parse_args()
    if unknown := set(args.groups) - GROUPS.keys():
        parser.error(f"no group is called {', '.join(unknown)}; groups: {', '.join(GROUPS)}")
    os.environ["PYTHONPATH"] = str(ROOT)
    rows = {one["case"]: one for one in (json.loads(args.json.read_text()) if args.json.is_file() else [])}
    now, bad = {"machine": machine(), "commit": commit()}, 0
    for group, cases in GROUPS.items():
        for case in cases:
            before = rows.get(case.name, {"commit": "", "faults": ["never run"]})
            known = not before["faults"] if args.failed else before["commit"] == now["commit"] and not args.anew
            if (args.groups and group not in args.groups) or args.only not in case.name or known:
                continue
            place = Path(args.keep or tempfile.mkdtemp(prefix="bad_input")) / f"{group} {cases.index(case)}"
            found = run(case, place)
            rows[case.name] = {**row(group, case, found, place), **now}
            bad += bool(found.faults)
            print(
                f"{found.outcome:8} {found.seconds:5.1f} s {found.cpu:4.1f} CPU  {case.name}",
                *found.faults,
                sep="\n    ",
                flush=True,
            )
            if not args.keep:
                shutil.rmtree(place.parent)
            order = [case.name for cases in GROUPS.values() for case in cases]
            ordered = [rows[name] for name in order if name in rows]
            args.json.write_text("[\n" + ",\n".join(map(json.dumps, ordered)) + "\n]\n")
            args.json.with_suffix(".md").write_text(page(ordered))
    print(f"{bad} failed")
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
