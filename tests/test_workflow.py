"""Snakemake for real: dry runs, the tiny chain, and exactly which jobs an edit brings back."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ENVIRONMENT, ROOT

pytestmark = pytest.mark.workflow
SHIPPED = ("Snakefile", "config.yaml", "workflow", "pipeline", "configs", "envs", "slurm")
CHAIN = {"prepare", "proxy", "classify", "cam", "erase", "saliency", "crf", "patches", "triplet", "segment"}


def command(*args: str, tiny: bool = True) -> list[str]:
    config = ["--configfile", str(ROOT / "tests" / "tiny.yaml"), "--"] if tiny else ["--"]
    split = args.index("--") if "--" in args else len(args)
    return [sys.executable, "-m", "snakemake", "--nocolor", *args[:split], *config, *args[split + 1 :]]


def environment(where: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**ENVIRONMENT, "PATH": path, "PYTHONPATH": str(where)}


def snakemake(where: Path, *args: str, fails: bool = False, tiny: bool = True) -> str:
    done = subprocess.run(command(*args, tiny=tiny), cwd=where, env=environment(where), capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, said[-6000:]
    return said


def jobs(said: str) -> dict[str, int]:
    """Rule → count, from the statistics of a dry run."""
    found = (
        re.findall(r"^(\w+)\s+(\d+)$", said.split("Job stats:")[1].split("total")[0], re.M)
        if "Job stats:" in said
        else []
    )
    return {name: int(count) for name, count in found if name != "all"}


def checkout(where: Path) -> Path:
    """A copy of what a clone has, so that files can be edited."""
    for name in SHIPPED:
        source, target = ROOT / name, where / name
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        elif source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return where


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny chain, run once by `snakemake --cores 2`."""
    where = checkout(tmp_path_factory.mktemp("clone"))
    snakemake(where, "--cores", "2")
    return where


def test_a_dry_run_shows_the_whole_chain(tmp_path: Path) -> None:
    found = jobs(snakemake(checkout(tmp_path), "-n", tiny=False))
    assert set(found) == CHAIN | {"evaluate", "page"}
    assert found["erase"] == 2
    assert found["evaluate"] == 5  # cam, ae, ae, crf, ce


def test_a_dry_run_of_100_recipes_takes_seconds(tmp_path: Path) -> None:
    where = checkout(tmp_path)
    rounds = {f"r{i}": ["colorize", "classify", f"cam{i}", "ae", "ae", "saliency", "crf", "ce"] for i in range(100)}
    overlay = {
        "recipes": rounds,
        "run": list(rounds),
        "steps": {f"cam{i}": {"method": "cam", "grid": 1 + i} for i in range(100)},
    }
    (where / "many.yaml").write_text(yaml.safe_dump(overlay))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    snakemake(where, "-n", "--quiet", "all", "--configfile", "many.yaml", tiny=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime - before.ru_utime
    assert spent < 12, f"{spent:.1f} s of CPU time"  # 4.7 s when written, for 1,105 jobs that share little


def test_report_and_every_artifact_are_there(done: Path) -> None:
    page = done / "results/tiny/report/card-seed0.html"
    text = page.read_text()
    assert len(text) > 50_000
    assert not re.search(r'(src|href)="https?://', text), "the page must not need a network"
    said = snakemake(done, "--cores", "1", "--", "verify")
    assert "are as their manifests say" in said


def test_nothing_to_do_after_a_run_and_after_a_touch(done: Path) -> None:
    assert jobs(snakemake(done, "-n")) == {}
    for path in (done / "pipeline" / "erase.py", *done.glob("results/tiny/seed0/**/seeds.json")):
        path.touch()
    assert jobs(snakemake(done, "-n")) == {}


def edited(where: Path, file: str, before: str, after: str) -> dict[str, int]:
    """What a dry run would do after an edit, which is then undone."""
    path = where / file
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    try:
        return jobs(snakemake(where, "-n"))
    finally:
        path.write_text(text)


def test_a_comment_reruns_nothing(done: Path) -> None:
    assert edited(done, "pipeline/erase.py", "def mine(", "# why\ndef mine(") == {}


def test_a_line_of_erase_reruns_erasing_and_what_follows(done: Path) -> None:
    found = edited(done, "pipeline/erase.py", "if top <= 0:", "if top < 0:")
    assert set(found) == {"erase", "crf", "patches", "triplet", "segment", "evaluate", "page"}
    assert found["erase"] == 2


def test_a_setting_reruns_its_step_and_what_follows(done: Path) -> None:
    found = edited(done, "config.yaml", "background: 0.08            #", "background: 0.05            #")
    assert set(found) == {"crf", "patches", "triplet", "segment", "evaluate", "page"}


def test_an_upstream_rerun_with_the_same_result_reruns_nothing_below(done: Path) -> None:
    target = done / "results/tiny/seed0/colorize/classify/classifier.json"
    before = target.read_bytes()
    shutil.rmtree(target.with_suffix(".zarr"))
    snakemake(done, "--cores", "2", "--force", "--", str(target.relative_to(done)))
    assert "epoch 1/" in (done / "logs" / target.relative_to(done).parent / "classify.log").read_text()
    assert target.read_bytes() == before
    assert jobs(snakemake(done, "-n")) == {}


def test_one_stage_alone_and_a_path_no_recipe_names(done: Path) -> None:
    target = "results/tiny/seed0/colorize/classify/cam/crf/labels.json"
    found = jobs(snakemake(done, "-n", "--", target))
    assert found == {"crf": 1}


def test_a_wrong_path_and_a_wrong_recipe_are_explained(done: Path, tmp_path: Path) -> None:
    said = snakemake(done, "-n", "--", "results/tiny/seed0/colorize/cam/seeds.json", fails=True)
    assert "needs classifier" in said
    overlay = tmp_path / "bad.yaml"
    overlay.write_text("recipes: {broken: [colorize, cam]}\nrun: [broken]\n")
    said = snakemake(done, "-n", "--configfile", str(overlay), fails=True, tiny=False)
    assert "recipe 'broken', step 2 'cam'" in said
    assert "Traceback" not in said


def test_a_flipped_byte_is_found(done: Path, tmp_path: Path) -> None:
    where = tmp_path / "copy"
    shutil.copytree(done, where, symlinks=True)
    chunk = max(
        (where / "results/tiny/seed0").glob("**/labels.zarr/labels/c/**/*"),
        key=lambda p: p.stat().st_size * p.is_file(),
    )
    data = bytearray(chunk.read_bytes())
    data[len(data) // 3] ^= 1
    chunk.write_bytes(data)
    said = snakemake(where, "--cores", "1", "--", "verify", fails=True)
    assert "labels.json" in said


def test_clean_leaves_no_store_behind_and_nothing_else_undone(done: Path, tmp_path: Path) -> None:
    where = tmp_path / "copy"
    shutil.copytree(done, where, symlinks=True)
    root = where / "results" / "tiny"
    foreign = [root / "notes" / "annotations.json", root / "other.zarr" / "x", root / "my.part" / "x"]
    for file in foreign:
        file.parent.mkdir(parents=True)
        file.write_text('{"mine": 1}')
    left = [root / "seed0" / "gone.part" / "shards.jsonl", root / "seed0" / "gone.zarr" / "zarr.json"]
    left.append(root / ".images.zarr.discarded" / "zarr.json")
    for file in left:
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    (root / "empty").mkdir()
    snakemake(where, "--cores", "1", "--", "clean")
    assert {path for path in root.rglob("*") if path.is_file()} == set(foreign)
    assert (root / "empty").is_dir() and not (root / "seed0").exists()


def test_the_report_of_snakemake_holds_the_pages(done: Path) -> None:
    snakemake(done, "--cores", "1", "--report", "report.zip")
    page = (done / "results/tiny/report/card-seed0.html").read_bytes()
    with zipfile.ZipFile(done / "report.zip") as report:
        assert any(report.read(entry) == page for entry in report.infolist() if entry.file_size == len(page))


def test_after_a_kill_of_snakemake_the_same_command_goes_on(done: Path, tmp_path: Path) -> None:
    where = tmp_path / "copy"
    shutil.copytree(done, where, symlinks=True, ignore=shutil.ignore_patterns(".snakemake"))
    saliency = where / "results/tiny/saliency/saliency.json"
    before = saliency.read_bytes()
    saliency.unlink()
    shutil.rmtree(saliency.with_suffix(".zarr"))
    process = subprocess.Popen(
        command("--cores", "2"), cwd=where, env=environment(where), start_new_session=True, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not saliency.with_suffix(".zarr").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not saliency.exists()
    assert "unlock" in snakemake(where, "--cores", "2", fails=True)
    snakemake(where, "--unlock")
    snakemake(where, "--cores", "2")
    assert saliency.read_bytes() == before


def test_a_bad_data_set_is_explained_on_the_terminal(done: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("data: {name: mine, format: folder, folder: {root: nowhere}}\n")
    said = snakemake(done, "--cores", "1", "--configfile", str(overlay), fails=True, tiny=False)
    assert "nowhere/images: no such folder; put the photographs there" in said
