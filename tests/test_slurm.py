"""Real Slurm jobs with the shipped profile, on throwaway one-node clusters: one without accounting, one with."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, ROOT
from test_repo import DEFAULT, merged, read
from test_workflow import checkout

from pipeline.core import recipe
from pipeline.core.config import parse

START = ROOT / "tests" / "slurm" / "start_slurm.sh"
PROGRAMS = {"none": ["slurmctld", "slurmd", "sbatch"]}
PROGRAMS["slurmdbd"] = [*PROGRAMS["none"], "slurmdbd", "mariadbd", "munged"]
PACKAGES = "slurmctld slurmd slurm-client, and for accounting slurmdbd mariadb-server munge"
pytestmark = pytest.mark.slurm


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module", params=["none", "slurmdbd"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands and Snakemake find the cluster."""
    missing = [name for name in PROGRAMS[request.param] if not shutil.which(name)]
    if missing:
        pytest.skip(f"not here: {', '.join(missing)}. apt-get install {PACKAGES}")
    if os.geteuid():
        pytest.skip("the throwaway Slurm needs root")
    folder = tmp_path_factory.mktemp("slurm")
    ports = {f"TOY_{name}_PORT": str(free_port()) for name in ("CTLD", "SLURMD", "DBD", "DB")}
    ours = {"TOY_ACCT": request.param, "TOY_AUTH": "munge" if request.param == "slurmdbd" else "none", **ports}
    started = subprocess.run(
        ["bash", str(START), "start", str(folder)], env={**os.environ, **ours}, capture_output=True, text=True
    )
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        path = os.pathsep.join((str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
        kept = {k: v for k, v in ENVIRONMENT.items() if not k.startswith(("SLURM_", "SBATCH_", "TAGMASK_"))}
        yield {**kept, "PATH": path, "SLURM_CONF": str(folder / "slurm.conf"), "ACCOUNTING": request.param}
    finally:
        subprocess.run(["bash", str(START), "stop", str(folder)], check=False, capture_output=True)


def snakemake(*args: str) -> list[str]:
    """With the profile as shipped, but looking sooner after its jobs."""
    words = [sys.executable, "-m", "snakemake", "--nocolor", "--latency-wait", "5"]
    return [*words, "--slurm-init-seconds-before-status-checks", "3", *args]


def jobs(environment: dict[str, str], fields: str) -> list[str]:
    """One line for each job that the cluster knows."""
    asked = subprocess.run(["squeue", "-t", "all", "-h", "-o", fields], env=environment, capture_output=True, text=True)
    return asked.stdout.split("\n")[:-1]


def test_the_profile_runs_the_chain(cluster: dict[str, str], tmp_path: Path) -> None:
    """Photographs, tags and random weights; with accounting, as nearly every cluster has it, also a classifier."""
    (tmp_path / "a clone").mkdir()
    where = checkout(tmp_path / "a clone")
    targets = ["results/tiny/photographs.json", "results/tiny/tags.json", "results/tiny/seed0/random/weights.json"]
    if cluster["ACCOUNTING"] == "slurmdbd":
        targets = ["results/tiny/seed0/random/classify/classifier.json"]
    words = snakemake("--profile", "slurm", "--configfile", str(ROOT / "tests" / "tiny.yaml"), "--set-threads")
    words += [f"{rule}=2" for rule in ("random", "classify")]
    environment = {**cluster, "PYTHONPATH": str(where)}
    done = subprocess.run(
        [*words, "--", *targets], cwd=where, env=environment, capture_output=True, text=True, timeout=600
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    assert all((where / target).is_file() for target in targets)
    ran = [line for line in jobs(cluster, "%P %T %l %Z") if line.endswith(str(where))]
    assert len(ran) == said.count("SLURM jobid") >= 3
    assert [line.split()[:3] for line in ran].count(["cpu", "COMPLETED", "10:00"]) == 3, ran
    assert any(line.startswith("gpu COMPLETED 10:00") for line in ran) == (len(ran) == 4), ran
    again = subprocess.run([*words, "-n", "--", *targets], cwd=where, env=environment, capture_output=True, text=True)
    assert "Nothing to be done" in again.stdout + again.stderr, "what a job recorded must be what the main process sees"


def test_each_system_trains_its_network_on_the_cluster(cluster: dict[str, str], tmp_path: Path) -> None:
    """Erasing's labels are there; what only AE-PSL, STC, HCP and excitation have are jobs, up to the last network."""
    if cluster["ACCOUNTING"] == "none":
        pytest.skip("once is enough, on the cluster with accounting")
    where = checkout(tmp_path)
    configured = ["--configfile", str(ROOT / "tests" / "tiny.yaml"), "--config"]
    environment = {**cluster, "PYTHONPATH": str(where)}

    def run(*args: str) -> str:
        done = subprocess.run(args, cwd=where, env=environment, capture_output=True, text=True, timeout=900)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said[-6000:]
        return said

    run(*snakemake("--cores", "2", *configured, "run=[ae-psl]", "--until", "crf"))
    made = set(where.rglob("*.json"))
    config = parse(merged(DEFAULT, read(ROOT / "tests" / "tiny.yaml")))
    names = ("ae-psl", "stc", "hcp-hard", "excitation")
    networks = [f"results/tiny/{recipe.recipe_nodes(config, name, 0)[-1].file}" for name in names]
    said = run(*snakemake("--profile", "slurm", *configured, f"run=[{','.join(names)}]", "--", *networks))
    fresh = [path.stem for path in set(where.rglob("*.json")) - made]
    assert fresh.count("model") == 6, "STC has three, the others one each"
    assert {"hypotheses", "classifier", "seeds", "soft", "labels"} <= set(fresh), fresh
    ran = [line.split()[0] for line in jobs(cluster, "%T %Z") if line.endswith(str(where))]
    assert ran == ["COMPLETED"] * said.count("SLURM jobid"), ran
    assert len(ran) == 16


# A small workflow with what the rules take from pipeline/core/cluster.py, and names that a shell would act on.
SNAKEFILE = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from pipeline.core import cluster
SITE = cluster.Site.of(workflow)
SEEN = "main" if workflow.is_main_process else "job"
ROOT = config["root"]
rule all:
    input: f"{{ROOT}}/0/cpu.txt", f"{{ROOT}}/1/gpu.txt", *config.get("more", [])
for name, gpu in (("cpu", False), ("gpu", True)):
    rule:
        name: name
        output: f"{{ROOT}}/{{{{folder}}}}/{{name}}.txt"
        log: f"logs/{{ROOT}}/{{{{folder}}}}/{{name}}.log"
        benchmark: f"logs/benchmark/{{ROOT}}/{{{{folder}}}}/{{name}}.tsv"
        params: seen=SEEN
        resources: **SITE.request(gpu), mem_mb=500, runtime=10
        shell: "echo {{params.seen}} ${{{{CUDA_VISIBLE_DEVICES:-none}}}} > {{output:q}} 2> {{log:q}}"
rule long:
    output: "long.txt"
    resources: mem_mb=500, runtime=10, slurm_partition="brief"
    shell: "touch {{output:q}}"
onstart:
    cluster.watch(workflow, logger.warning)
"""
NASTY = "my $(touch SHELL1) & `touch SHELL2` it's;x"


def small(where: Path, uncomment: str = "") -> list[str]:
    """A workflow and a copy of the shipped profile, one of whose commented lines can be put in force."""
    (where / "Snakefile").write_text(SNAKEFILE)
    (where / "odd $(touch SHELL3).yaml").write_text(f'root: "{NASTY}"\n')
    profile = (ROOT / "workflow" / "profiles" / "slurm" / "config.yaml").read_text()
    if uncomment:
        assert f"  # - {uncomment}" in profile
        profile = profile.replace(f"  # - {uncomment}", f"  - {uncomment}")
    (where / "site").mkdir()
    (where / "site" / "config.yaml").write_text(profile)
    return snakemake("--profile", "site", "--configfile", "odd $(touch SHELL3).yaml")


def test_partitions_cards_and_names_that_a_shell_would_act_on(cluster: dict[str, str], tmp_path: Path) -> None:
    """With --gpus on one cluster, with --gres on the other."""
    where = tmp_path / "here $(touch SHELL4)"
    where.mkdir()
    words = small(where, "gpu_gres=gpu:1" if cluster["ACCOUNTING"] == "slurmdbd" else "")
    done = subprocess.run(words, cwd=where, env=cluster, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (where / NASTY / "0" / "cpu.txt").read_text() == "job none\n"
    assert (where / NASTY / "1" / "gpu.txt").read_text() == "job 0\n", "one card, and scanning is for the main process"
    assert (where / "logs" / "benchmark" / NASTY / "1" / "gpu.tsv").is_file()
    assert not list(where.rglob("SHELL?")), "a name reached a shell unquoted"
    ran = sorted(line.split("|")[0] for line in jobs(cluster, "%P %T|%Z") if line.endswith(str(where)))
    assert ran == ["cpu COMPLETED", "gpu COMPLETED"]
    again = subprocess.run([*words, "-n"], cwd=where, env=cluster, capture_output=True, text=True)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_a_job_that_will_never_start_is_named_on_the_terminal(cluster: dict[str, str], tmp_path: Path) -> None:
    words = [*small(tmp_path), "--config", "root=results", "more=['long.txt']"]
    environment = {**cluster, "TAGMASK_QUEUE_CHECK": "1"}
    process = subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "PartitionTimeLimit" in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert "(long) will not start as things are: it asks for more time than the partition gives" in said[-1], said
    assert "10:00 and 500M in partition brief" in said[-1]
    assert process.returncode == 1
    deadline = time.monotonic() + 60
    while any("PENDING" in line for line in jobs(cluster, "%T")) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not any("PENDING" in line for line in jobs(cluster, "%T")), "Ctrl-C takes jobs out of the queue"
