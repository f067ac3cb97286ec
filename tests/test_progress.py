"""The file that says how far a stage is, and what is said of it on the terminal."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ENVIRONMENT, command, demo_settings, prepare, words

from pipeline.core import progress, store
from pipeline.core.cli import guarded
from pipeline.core.integrity import is_scratch
from pipeline.core.lock import alone
from pipeline.core.loop import Interrupted
from pipeline.core.progress import Progress


def clock(*moments: float):
    """A clock that shows these seconds, one after the other."""
    return iter(moments).__next__


def test_the_file_says_what_is_done_of_how_much_how_fast_and_how_long_it_will_take(tmp_path: Path) -> None:
    folder = tmp_path / "model.part"
    at = Progress(folder, 100, "iterations", done=20, clock=clock(0.0, 0.0, 10.0))
    at.at(40, epoch="epoch 2/5", loss=0.5)
    said = progress.read(folder)
    assert said is not None
    assert {"done": 40, "of": 100, "unit": "iterations", "rate": 2.0, "seconds_left": 30}.items() <= said.items()
    assert {"epoch": "epoch 2/5", "loss": 0.5, "host": platform.node(), "pid": os.getpid()}.items() <= said.items()
    assert said["artifact"] == str(tmp_path / "model.json") and said["started"] <= said["updated"] <= progress.now()
    assert is_scratch(folder), "`clean` knows the file"


def test_it_is_written_once_a_second_at_most_and_at_the_end(tmp_path: Path) -> None:
    at = Progress(tmp_path, 3, "photographs", clock=clock(0.0, 0.0, 0.5, 1.5, 1.6))
    seen = []
    for done in (1, 2, 3):
        at.at(done)
        seen.append(json.loads((tmp_path / progress.FILE).read_text())["done"])
    assert seen == [0, 2, 3]


def test_what_was_done_before_does_not_count_as_speed(tmp_path: Path) -> None:
    at = Progress(tmp_path, 100, "photographs", clock=clock(0.0, 0.0, 2.0, 4.0, 6.0))
    at.skip(90)
    assert list(at.count("ab")) == ["a", "b"]
    said = progress.read(tmp_path)
    assert said is not None and (said["done"], said["rate"], said["seconds_left"]) == (92, round(2 / 6, 3), 24)


def test_of_several_trainings_of_one_stage_the_last_one_speaks(tmp_path: Path) -> None:
    Progress(tmp_path / "a.part" / "images.part", 4, "iterations", 4)
    time.sleep(0.02)
    Progress(tmp_path / "a.part" / "hypotheses.part", 7, "iterations", 1)
    said = progress.read(tmp_path / "a.part")
    assert said is not None and said["of"] == 7
    assert is_scratch(tmp_path / "a.part")


@pytest.mark.parametrize("text", ["", "{", "[1"])
def test_a_file_that_cannot_be_read_says_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / progress.FILE).write_text(text)
    assert progress.read(tmp_path) is None


ABOUT = {"done": 5, "of": 20, "unit": "photographs", "rate": 2.0, "seconds_left": 7}
TRAINING = {**ABOUT, "unit": "iterations", "epoch": "epoch 3/12", "loss": 0.31234, "images_per_second": 41.27}


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        (ABOUT, "seed0/cam/seeds  5/20 photographs  2 img/s  0:07 left"),
        ({**ABOUT, "seconds_left": None, "rate": 0.0}, "seed0/cam/seeds  5/20 photographs"),
        (TRAINING, "seed0/cam/seeds  epoch 3/12  loss 0.312  41.3 img/s  0:07 left"),
        ({**TRAINING, "seconds_left": 7384}, "seed0/cam/seeds  epoch 3/12  loss 0.312  41.3 img/s  2:03:04 left"),
    ],
)
def test_a_line_says_it_shortly(about: dict, expected: str) -> None:
    assert progress.line("seed0/cam/seeds", about) == expected


def test_a_line_fits_a_terminal_and_keeps_the_end_of_a_long_name() -> None:
    said = progress.line("seed0/imagenet/classify/cam/erase/mine/erase/mine/saliency/crf/ce/model", TRAINING)
    assert len(said) <= 80 and said.startswith("…") and "/crf/ce/model  epoch 3/12" in said


def test_the_watch_tells_of_stages_at_work_and_not_of_what_earlier_runs_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAGMASK_PROGRESS", "0.05")
    folders = {name: tmp_path / f"{name}.part" for name in ("old", "new", "never")}
    Progress(folders["old"], 9, "photographs", 3)
    said: list[str] = []
    progress.watch(folders, said.append)
    time.sleep(0.2)
    Progress(folders["new"], 9, "photographs", 4)
    deadline = time.monotonic() + 20
    while not said and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    assert said == ["new  4/9 photographs"], "once: nothing has changed since"


@pytest.mark.parametrize(
    ("end", "found"),
    [
        ("pass", []),
        ("raise ValueError", []),
        ("os.kill(os.getpid(), 9)", ["killed, for want of memory perhaps: a  3/9 photographs"]),
    ],
)
def test_only_what_was_killed_is_named_as_killed(end: str, found: list[str], tmp_path: Path) -> None:
    began, folder = progress.now(), tmp_path / "a.part"
    code = "import os, pathlib, sys\nfrom pipeline.core.progress import Progress\n"
    code += f"Progress(pathlib.Path(sys.argv[1]), 9, 'photographs', 3)\n{end}\n"
    subprocess.run([sys.executable, "-c", code, str(folder)], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    assert list(progress.died({"a": folder}, began)) == found
    assert list(progress.died({"a": folder}, "9999")) == [], "it was before this run"


def test_rows_are_counted_as_they_come(tmp_path: Path) -> None:
    """While row 5 of 7 is computed, the file speaks of what came before; in the end it is gone."""
    out, seen = tmp_path / "made.json", []

    def compute(rows: list[int]):
        for i in rows:
            if i == 5:
                seen.append(progress.read(store.part_of(out)))
            yield {"value": np.full(2, i, np.uint8)}

    keys = [bytes([i]) * store.DIGEST for i in range(7)]
    store.write_rows(
        out, store.Header("seeds", "cam", {}, "c"), {"value": ((2,), np.uint8)}, [None, *keys[1:]], compute
    )
    (said,) = seen
    assert said is not None and (said["of"], said["unit"]) == (6, "photographs")
    assert not store.part_of(out).exists()


def test_a_stage_that_fails_says_so_on_the_terminal_and_in_its_log(tmp_path: Path) -> None:
    """As a rule runs it: output to a log, the terminal as another file."""
    given = command("saliency", *words("saliency", tmp_path / "made.json", photographs=tmp_path / "none.json"))
    log = tmp_path / "log"
    for how in ("TAGMASK_TERMINAL=3", "env"):
        done = subprocess.run(
            ["bash", "-c", f'{how} "$@" 3>&2 > "{log}" 2>&1', "bash", *given],
            cwd=tmp_path,
            env={key: value for key, value in ENVIRONMENT.items() if key != "TAGMASK_TERMINAL"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert "none.json: " in log.read_text()
        assert ("none.json: " in done.stderr) == (how != "env"), "where nobody named a terminal, the log alone"


def test_a_training_that_saved_and_stopped_says_so_on_the_terminal_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise Interrupted("a.json: stopped by SIGTERM after iteration 6 of 12; run again to go on")

    reading, writing = os.pipe()
    monkeypatch.setenv("TAGMASK_TERMINAL", str(writing))
    with pytest.raises(SystemExit) as end:
        guarded(work)
    os.close(writing)
    with os.fdopen(reading) as terminal:
        assert "a.json: stopped by SIGTERM after iteration 6 of 12" in terminal.read()
    assert end.value.code == 1 and "run again to go on" in capsys.readouterr().err


def test_ctrl_c_ends_a_stage_over_photographs_at_once_and_without_a_traceback(tmp_path: Path) -> None:
    made, out = prepare(tmp_path, demo_settings(150, 2)), tmp_path / "saliency.json"
    process = subprocess.Popen(
        command("saliency", *words("saliency", out, photographs=made["photographs"])),
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (progress.read(store.part_of(out)) or {"done": 0})["done"] and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1 and not out.exists()
    assert "error: stopped by Ctrl-C; what is finished is kept" in said and "Traceback" not in said


def test_one_process_makes_an_artifact_and_sigterm_is_told_from_want_of_memory(tmp_path: Path) -> None:
    began, made, out = progress.now(), prepare(tmp_path, demo_settings(150, 2)), tmp_path / "saliency.json"
    given = command("saliency", *words("saliency", out, photographs=made["photographs"]))
    first = subprocess.Popen(given, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    while not (progress.read(store.part_of(out)) or {"done": 0})["done"] and time.monotonic() < deadline:
        time.sleep(0.01)
    second = subprocess.run(given, env=ENVIRONMENT, capture_output=True, text=True)
    assert second.returncode == 2 and first.poll() is None
    assert f"{out}: another process is making it (process {first.pid} on " in second.stderr
    first.terminate()
    said = first.communicate(timeout=120)[1]
    assert first.returncode == -signal.SIGTERM and not out.exists()
    assert "stopped by SIGTERM (a time limit, kill); what is finished is kept" in said and "Traceback" not in said
    (line,) = progress.died({"a": store.part_of(out)}, began)
    assert line.startswith("stopped by SIGTERM: a  ")
    assert is_scratch(store.part_of(out))


def test_a_lock_leaves_nothing_behind_and_another_artifact_is_free(tmp_path: Path) -> None:
    out = tmp_path / "new" / "made.json"
    with alone(out), alone(tmp_path / "other.json"):
        assert is_scratch(store.part_of(out)) and (store.part_of(out) / "lock").exists()
    assert list(tmp_path.iterdir()) == []
    with alone(out):
        (store.part_of(out) / "checkpoint.pt").touch()
    assert [path.name for path in store.part_of(out).iterdir()] == ["checkpoint.pt"]
