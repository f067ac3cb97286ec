"""A short fault campaign (benchmarks/faults.py): every fault of a stage once, nothing lost, nothing false."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, ROOT

from benchmarks.faults_kinds import FAULTS, MOUNTS
from benchmarks.faults_page import counts, failed, page

STAGES = ["saliency"]
NEVER = {"runs": [{"commit": "c", "machine": "m", "command": "x"}], "tries": []}


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_whatever_happens_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    faults = [name for name in FAULTS if os.geteuid() == 0 or name not in MOUNTS]
    words = ["run", "--faults", *faults, "--stages", *STAGES, "--tries", "1", "--json", str(tmp_path / "faults.json")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", *words, "--work", str(tmp_path)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    if "cannot be mounted" in done.stdout + done.stderr:  # root, but of a container
        pytest.skip("file systems cannot be mounted here")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "faults.json").read_text())
    assert [row for row in found["tries"] if failed(row)] == []
    seen = {(row["fault"], row["stage"]) for row in found["tries"]}
    assert seen == {(fault, stage) for fault in faults for stage in STAGES}
    assert any(row.get("ended") == -9 for row in found["tries"] if row["fault"] == "SIGKILL")
    assert len(page(found).splitlines()) > 2 * len(faults)


def test_what_is_lost_or_false_is_counted_and_listed() -> None:
    row = {"fault": "SIGKILL", "stage": "cam", "try": 0}
    rows = [{**row, "identical": True}, {**row, "lost": "all of it"}, {**row, "refused": "x"}, {**row, "false": "y"}]
    assert counts(rows) == (4, 1, 1, 1, 1)
    assert [failed(each) for each in rows] == [False, True, False, True]
    text = page({**NEVER, "tries": rows})
    assert "| SIGKILL | cam | 4 | 1 | 1 | 1 | 1 |" in text
    assert "In 2 of them" in text and "- SIGKILL, cam, try 0: `all of it`" in text
    assert "nothing was lost" in page({**NEVER, "tries": rows[:1]})
