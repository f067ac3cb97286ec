"""`python -m pipeline.status`: the state of all that a run makes, read from what real stages left."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm
import yaml
from conftest import ROOT, demo_settings, prepare, stage

from pipeline import status
from pipeline.core import progress
from pipeline.core.progress import Progress
from pipeline.status import State

NODE = "seed0/masks/random/ce/model"
OWN = {
    "data": demo_settings(),
    "steps": {"random": {"method": "random"}, "ce": {"method": "segment", "epochs": 1}},
    "recipes": {"short": ["masks", "random", "ce"]},
    "run": ["short"],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "config.yaml", tmp_path)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(OWN))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def states() -> dict[str, State]:
    running = any(status.LOCKS.glob("*"))
    return {task.name: status.state(task, running) for task in status.tasks(status.configured(["own.yaml"], []))}


def said(*words: str, fails: bool = False) -> str:
    code, text = warm.run(
        "pipeline.status", ["--configfile", "own.yaml", *words], Path.cwd(), server=warm.server_of(ROOT)
    )
    assert (code != 0) == fails, text
    return text


def write_log(text: str) -> None:
    log = Path("logs/results/tiny/seed0/masks/random/ce/segment.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text)


def test_what_was_made_is_done_and_what_rests_on_other_content_is_outdated(here: Path) -> None:
    assert {now.word for now in states().values()} == {"waiting"}
    made = prepare(here / "results/tiny", demo_settings())
    labels = here / "results/tiny/seed0/masks/labels.json"
    labels.parent.mkdir(parents=True)
    stage("masks", labels, {"method": "masks"}, **made)
    assert [name for name, now in states().items() if now.word == "done"] == [
        "photographs", "tags", "masks", "seed0/masks/labels",
    ]  # fmt: skip
    prepare(here / "results/tiny", demo_settings(train=13))
    assert states()["seed0/masks/labels"].word == "outdated"
    assert "changed since: photographs, " in states()["seed0/masks/labels"].said
    text = said()
    assert "results/tiny: 1 outdated, " in text and ", 3 done" in text
    assert "never run here" not in text and "time left: not known yet" in text


def test_a_stage_at_work_is_shown_with_its_rate_and_its_place(here: Path) -> None:
    folder = Path(f"results/tiny/{NODE}.part")
    moments = iter([0.0, 0.0, 10.0]).__next__
    at = Progress(folder, 100, "iterations", clock=moments)
    at.at(20, epoch="epoch 1/5", loss=0.5, images_per_second=8.0)
    assert states()[NODE] == State("running", "epoch 1/5  loss 0.5  8 img/s  0:40 left", 40)
    file = folder / progress.FILE
    about = json.loads(file.read_text())
    file.write_text(json.dumps(about | {"host": "node7", "job": "4711"}))
    assert states()[NODE].said.endswith("left  (Slurm job 4711 on node7)")
    file.write_text(json.dumps(about | {"host": "node7", "updated": "2020-01-01T00:00:00"}))
    write_log("epoch 1/5\n")
    assert states()[NODE].word == "stopped"
    assert "running" not in said() and f"stopped   {NODE}" in said()


def test_what_was_killed_failed_or_stopped_says_so(here: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folder = Path(f"results/tiny/{NODE}.part")
    Progress(folder, 100, "iterations").at(0)
    file = folder / progress.FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pid": gone.pid, "host": platform.node()}))
    write_log("epoch 1/5\n")
    assert states()[NODE] == State("stopped", "killed, or out of time: 0/100 iterations")
    file.unlink()
    failed = stage("segment", Path(f"results/tiny/{NODE}.json").resolve(), {"epochs": "many"}, fails=True)
    write_log(failed)
    assert states()[NODE].word == "failed" and states()[NODE].said == failed.strip().splitlines()[-1].strip()
    write_log("error: stopped by Ctrl-C; what is finished is kept, run again to go on\n")
    assert states()[NODE].word == "stopped"
    write_log("")
    status.LOCKS.mkdir(parents=True)
    (status.LOCKS / "0.input.lock").touch()
    time.sleep(0.01)
    write_log("")
    assert states()[NODE].word == "starting"
    write_log("Traceback …\nRuntimeError: no such thing\n")
    assert states()[NODE] == State("failed", "RuntimeError: no such thing")


def test_the_time_left_follows_from_what_the_same_step_took_before(here: Path) -> None:
    Path("own.yaml").write_text(yaml.safe_dump(OWN | {"seeds": [0, 1, 2]}))
    first, *others = [task for task in status.tasks(status.configured(["own.yaml"], [])) if task.like == "ce"]
    first.benchmark.parent.mkdir(parents=True)
    first.benchmark.write_text("s\th:m:s\n90.5\t0:01:30\n")
    found = {first: State("done"), others[0]: State("running", left=30.5), others[1]: State("waiting")}
    assert status.left(found) == (121, [])
    assert status.left(found | {others[1]: State("running", left=29.5)}) == (30, [])
    assert [status.duration(seconds) for seconds in (40, 720, 11100)] == ["40 s", "12 min", "3 h 05 min"]


def test_a_configuration_that_cannot_be_used_is_named(here: Path) -> None:
    assert "config.yaml, own.yaml" not in said("--config", "run=[short]")
    text = said("--config", "run=[shirt]", fails=True)
    assert "no recipe is called 'shirt'" in text and "Traceback" not in text
    assert "none.yaml" in said("--configfile", "none.yaml", fails=True)
    Path("config.yaml").unlink()
    assert "10 waiting" in said(), "with the checkout's"
