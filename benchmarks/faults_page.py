"""docs/results/faults.md, true of whatever the rows of faults.json say."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
MEANING = {
    "SIGKILL": "to all processes of the stage, before a change to its files (halfway through, if it is a write) or "
    "after a time",
    "SIGTERM": "to the stage alone, likewise",
    "SIGINT": "to all processes of the stage, as Ctrl-C sends it, likewise",
    "power-loss": "the stage's changes to its files are recorded (`faults.c`, before libc), cut at a random one; the "
    "disk is laid as it may be then: what was not synced is there, not there, there in part, or zeros "
    "(`faults_disk.py`)",
    "disk-full": "the artifact's folder is a tmpfs with room for a part of what the stage writes; then it has room",
    "read-only": "the artifact's folder is laid over itself, read-only, while the stage works; then writable again",
    "out-of-memory": "half: no address space beyond a random size (RLIMIT_AS, not a cgroup); half: one of the stage's "
    "processes gets SIGKILL, as from the kernel's killer",
    "damaged-input": "a bit flipped in a file of an input's store, or its end cut off: the stage refuses, or has not "
    "read it; `verify` names it, and its advice repairs",
    "damaged-artifact": "the same in the stage's own finished artifact",
    "swapped": "the manifest of one run beside the store of another: of an input, or the stage's own",
    "clock": "the clock of the wall jumps back by up to ten years, while the stage works or after a kill (`faults.c`)",
    "two-at-once": "the same command twice, the second a random time after the first",
    "snakemake-killed": "SIGKILL to Snakemake and all its jobs; its lock stays",
    "snakemake-alone": "SIGKILL to Snakemake; its jobs live on while the same command is given again",
    "two-snakemakes": "the same Snakemake command twice, the second a random time after the first",
    "snakemake-clock": "Snakemake and its jobs killed; what was made has time stamps of up to a year ahead",
    "snakemake-verify": "a bit flipped in a finished run; what `snakemake verify` prints is done, line by line",
}
TITLES = "tries | lost | false_complete | identical | refused"
TEXT = """\
# Faults

    python -m benchmarks.faults run && python -m benchmarks.faults table

{tries:,} tries: {faults} kinds of fault, {stages} stages. {verdict}

A try: a fresh folder, in every second try with a finished artifact of other inputs in it; the stage's command on 16
small pictures, in blocks of 4 rows, a training saved after each iteration; the fault, at a random moment; the same
command again. *Lost*: what was finished (a row in the journal, a saved training) was computed anew, or the command
could not go on. *False complete*: a manifest, or a store that holds one, beside bytes that are not those of a finished
artifact; or a result made from a damaged input. *Identical*: every file of the artifact's folder, hidden ones too, is
that of an undisturbed run. *Refused*: not done, and a message said what to do. Where that was done and gave the same
bytes (`verify`, `snakemake --unlock`), it counts as identical.
"""


def counts(rows: list[Row]) -> tuple[int, ...]:
    """Tries, lost, false complete, identical, refused."""
    done = sum(bool(row.get("identical")) for row in rows)
    return (len(rows), *(sum(key in row for row in rows) for key in ("lost", "false")), done,
            sum("refused" in row for row in rows))  # fmt: skip


def grouped(rows: list[Row], *keys: str) -> dict[tuple[str, ...], list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def failed(row: Row) -> bool:
    return "lost" in row or "false" in row or not (row.get("identical") or "refused" in row)


def page(found: dict[str, list[Row]]) -> str:
    """found: `runs` and `tries` of faults.json."""
    rows = found["tries"]
    wrong = [row for row in rows if failed(row)]
    verdict = (
        f"**In {len(wrong)} of them work was lost, something passed for complete, or the bytes differ: see below.**"
        if wrong
        else "After each the same command gave every byte of an undisturbed run, or refused and said what to do; "
        "nothing was lost, and nothing passed for complete that was not."
    )
    sizes = {"tries": len(rows), "faults": len(grouped(rows, "fault")), "stages": len(grouped(rows, "stage"))}
    text = [
        TEXT.format(**sizes, verdict=verdict),
        f"| fault | what happens | {TITLES} |",
        "|---|---|---|---|---|---|---|",
    ]
    for (fault,), some in grouped(rows, "fault").items():
        text.append(f"| {fault} | {MEANING[fault]} | " + " | ".join(map(str, counts(some))) + " |")
    said = [row["plain"] for row in rows if "plain" in row and row.get("ended") not in (0, [0, 0])]
    if said:
        text += ["", f"Of {len(said)} stages that a full or read-only disk, damaged input or a second process stopped, "
                 f"{sum(said)} said so in a message with a remedy; the others ended in a traceback."]  # fmt: skip
    if wrong:
        text += ["", "What went wrong:", ""]
    for row in wrong:
        why = next((row[key] for key in ("lost", "false", "differs") if key in row), "not identical")
        why = " ".join(str(why).split())[-200:].replace("`", "'")
        text.append(f"- {row['fault']}, {row['stage']}, try {row['try']}: `{why}`")
    text += ["", f"| fault | stage | {TITLES} |", "|---|---|---|---|---|---|---|"]
    for (fault, name), some in grouped(rows, "fault", "stage").items():
        text.append(f"| {fault} | {name} | " + " | ".join(map(str, counts(some))) + " |")
    for word, key in (("Machine", "machine"), ("Commit", "commit"), ("Command", "command")):
        text += ["", f"{word}: {'; '.join(dict.fromkeys(run[key] for run in found['runs']))}"]
    return "\n".join(text) + "\n"
