"""The tiny chain as real Slurm jobs, on a throwaway one-node cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, ROOT
from test_workflow import checkout

START = ROOT / "tests" / "slurm" / "start_slurm.sh"
pytestmark = pytest.mark.slurm


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    missing = [name for name in ("slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    if missing:
        pytest.skip(f"no Slurm here ({', '.join(missing)} not found): apt-get install slurmctld slurmd slurm-client")
    if os.geteuid():
        pytest.skip("the throwaway Slurm needs root")
    folder = tmp_path / "slurm"
    subprocess.run(["bash", str(START), "start", str(folder)], check=True, capture_output=True)
    python = str(Path(sys.executable).parent)
    environment = {**ENVIRONMENT, "PATH": f"{folder}/bin{os.pathsep}{python}{os.pathsep}{os.environ['PATH']}"}
    environment["SLURM_CONF"] = str(folder / "slurm.conf")
    yield environment
    subprocess.run(["bash", str(START), "stop", str(folder)], check=False, capture_output=True)


def test_the_profile_runs_jobs_on_slurm(cluster: dict[str, str], tmp_path: Path) -> None:
    """From photographs to class activation maps: CPU and GPU partitions, threads, memory and logs as the rules ask."""
    (tmp_path / "clone").mkdir()
    where = checkout(tmp_path / "clone")
    target = "results/tiny/seed0/random/classify/cam/seeds.json"
    words = [sys.executable, "-m", "snakemake", "--nocolor", "--profile", "slurm"]
    words += ["--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "5"]
    words += ["--configfile", str(ROOT / "tests" / "tiny.yaml"), "--set-threads"]
    words += [f"{rule}=2" for rule in ("random", "classify", "cam")]
    words += ["--", target]
    cluster["PYTHONPATH"] = str(where)
    dry = subprocess.run([*words[:-2], "-n", "--", target], cwd=where, env=cluster, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stdout + dry.stderr
    done = subprocess.run(words, cwd=where, env=cluster, capture_output=True, text=True, timeout=600)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    assert (where / target).is_file()
    assert said.count("SLURM jobid") >= 4, "prepare, random, classify and cam should each be a Slurm job"
    accounts = subprocess.run(["squeue", "-t", "all", "-h", "-o", "%P %T"], env=cluster, capture_output=True, text=True)
    lines = accounts.stdout.split("\n")
    assert "gpu COMPLETED" in lines
    assert "cpu COMPLETED" in lines
