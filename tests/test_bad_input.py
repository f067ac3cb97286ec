"""Hostile and broken input: the quick ones of benchmarks/bad_input, and that its judge can fail a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks.bad_input import __main__ as campaign
from benchmarks.bad_input.case import HANDLED, REFUSED, Case, Command, Result, faults, run
from benchmarks.bad_input.drawn import folder

CASES = {case.name: (group, case) for group, cases in campaign.GROUPS.items() for case in cases}
QUICK = (
    "JPEG cut in half",
    "PostScript called .jpg is not run",
    "EXIF, all orientations, with masks (JPEG)",
    "EXIF orientation 9",
    "a pipe in place of a photograph",
    "names: shell characters",
    "names: blanks at the ends",
    "folders 300 deep",
    "pipes in place of tables and lists",
    "table: rows that disagree",
    "annotation: entities that multiply",
    "mask: a JPEG called .png",
    "cvat: entities that multiply",
    "yolo: code of Python is not run",
    "predict: 250 bytes",
    "predict: a bomb among good ones",
    "model: a head that is none",
    "model: JSON of 10⁵ levels",
    "model: an array outside the store",
    "weights: a pickle that brings code",
    "verify: forged, 10¹² rows",
    "a stage: a store of pickled objects",
)


@pytest.mark.parametrize("name", QUICK)
def test_is_handled_or_refused(name: str, tmp_path: Path) -> None:
    found = run(CASES[name][1], tmp_path / "case")
    assert found.faults == [], found.said[-3000:]


def test_the_judge_sees_what_no_command_may_do(tmp_path: Path) -> None:
    """Else nothing in the table of results would mean anything."""
    case = Case("x", lambda at: Command("pipeline.prepare", []), REFUSED, says=("remedy",))
    sound = Result(REFUSED, "error: x; remedy", 1.0, 1.0, [])
    assert faults(case, sound) == []
    for found, fault in (
        (Result(HANDLED, "remedy", 1, 1, []), "handled, refused expected"),
        (Result("ended with status -14", "remedy", 1, 1, []), "ended with status -14, refused expected"),
        (Result(REFUSED, "remedy\nTraceback (most recent call last):\n", 1, 1, []), "a traceback"),
        (Result(REFUSED, "remedy \x1b[31m", 1, 1, []), "the character '\\x1b' reaches the terminal"),
        (Result(REFUSED, "remedy UserWarning: x", 1, 1, []), "a warning of Python"),
        (Result(REFUSED, "remedy" * 2000, 1, 1, []), "12,000 characters said"),
        (Result(REFUSED, "remedy", 11, 11, []), "11.0 s of CPU, 10 expected"),
        (Result(REFUSED, "error", 1, 1, []), "does not say /remedy/"),
    ):
        assert faults(case, found) == [fault]
    assert faults(case, Result(REFUSED, "remedy", 1, 1, ["out/canary"]))[0] == "the input was executed"


def test_what_a_command_leaves_is_seen(tmp_path: Path) -> None:
    """`prepare` of a sound folder writes; for a case that forbids it, that is a fault."""

    def build(at: Path) -> Command:
        folder(at / "photos")
        settings = {"name": "x", "max_side": 96, "folder": {"root": "photos"}}
        words = ["--make", "photographs", "--settings", json.dumps(settings), "--out", "out/photographs.json"]
        return Command("pipeline.prepare", words, check=lambda said: "looked")

    found = run(Case("x", build, HANDLED), tmp_path / "case")
    assert "out/photographs.json" in found.written
    assert [fault.split(":")[0] for fault in found.faults] == ["written", "looked"]


def test_the_page_is_of_these_cases_and_none_failed() -> None:
    assert len(CASES) == sum(map(len, campaign.GROUPS.values())) >= 100, "a name stands for two cases"
    rows = json.loads(campaign.RESULTS.read_text())
    assert [(row["case"], row["group"]) for row in rows] == [(name, group) for name, (group, _) in CASES.items()], (
        "run: python -m benchmarks.bad_input"
    )
    assert [row["case"] for row in rows if row["faults"]] == []
    page = campaign.RESULTS.with_suffix(".md").read_text()
    assert page == campaign.page(rows)
    assert str(ROOT) not in page
