"""What is read from Slurm's commands and from the profile; tests/test_slurm.py runs them for real."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.core.cluster import FIELDS, Site, Waiting, status_command, waiting

HERE = "/home/me/my project"


def run(**defaults: Any) -> Any:
    raw = {name: SimpleNamespace(raw=value) for name, value in defaults.items()}
    return SimpleNamespace(resource_settings=SimpleNamespace(default_resources=raw or None))


def test_without_a_cluster_a_gpu_rule_asks_for_a_gpu() -> None:
    site = Site.of(run())
    assert site.request(True) == {"gpu": 1}
    assert site.request(False) == {"gpu": 0}
    assert site.max_runtime is None


def test_a_site_names_its_partition_once_and_its_gres() -> None:
    site = Site.of(run(slurm_partition="cpu", gpu_partition="gpu", max_runtime=120, tmpdir=None))
    assert site.request(True) == {"gpu": 1, "slurm_partition": "gpu"}
    assert site.request(False) == {"gpu": 0}, "the profile's slurm_partition must stay in force"
    assert site.max_runtime == 120
    named = Site.of(run(gpu_partition="'volta'", gpu_gres="gpu:v100:1"))
    assert named.request(True) == {"gpu": 0, "gres": "gpu:v100:1", "slurm_partition": "volta"}, "never both forms"


def listed(reason: str, comment: str = "rule_proxy_wildcards_seed0_colorize", folder: str = HERE) -> str:
    return f"12|{reason}|gpu|1-00:00:00|8G|gres:gpu:1|{folder}|{comment}"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("PartitionTimeLimit", "max_runtime in the profile"),
        ("QOSMaxWallDurationPerJobLimit", "max_runtime in the profile"),
        ("AssocMaxWallDurationPerJobLimit", "max_runtime in the profile"),
        ("PartitionNodeLimit", "name another partition"),
        ("PartitionConfig", "name another partition"),
        ("BadConstraints", "name another partition"),
        ("ReqNodeNotAvail, Reserved for maintenance", "name another partition"),
        ("PartitionDown", "name another partition"),
        ("QOSMaxGRESPerJob", "name another QOS"),
        ("AssocMaxCpuPerJobLimit", "ask for less"),
        ("MaxMemPerLimit", "ask for less"),
        ("QOSMinGRES", "name another QOS"),
        ("AssocGrpCPUMinutesLimit", "slurm_account in the profile"),
        ("InvalidAccount", "slurm_account in the profile"),
        ("AccountNotAllowed", "slurm_account in the profile"),
        ("InvalidQOS", "name another QOS"),
        ("JobHeldAdmin", "scontrol release 12"),
        ("launch_failed_requeued_held", "scontrol release 12"),
    ],
)
def test_a_reason_that_does_not_pass_is_named_with_what_to_change(reason: str, expected: str) -> None:
    (job,) = waiting(listed(reason), HERE)
    said = job.complaint()
    assert said is not None
    assert expected in said
    assert f"({reason})" in said
    for part in ("Slurm job 12", "proxy seed0_colorize", "1-00:00:00", "8G", "gres:gpu:1", "partition gpu"):
        assert part in said


@pytest.mark.parametrize(
    "reason",
    [
        *("Resources", "Priority", "None", "Dependency", "BeginTime", "Licenses", "Cleaning", "Reservation"),
        *("AssocMaxJobsLimit", "QOSMaxJobsPerUserLimit", "QOSMaxCpuPerUserLimit", "AssocGrpCpuLimit", "QOSGrpGRES"),
    ],
)
def test_a_reason_that_passes_when_other_jobs_end_is_not_named(reason: str) -> None:
    (job,) = waiting(listed(reason), HERE)
    assert job.complaint() is None


def test_only_jobs_of_this_run_are_looked_at() -> None:
    lines = [listed("BadConstraints", folder="/home/me/other"), listed("BadConstraints", comment="mine"), "", "what?"]
    lines.append(listed("BadConstraints", folder=f"{HERE}/deeper"))
    assert list(waiting("\n".join(lines), HERE)) == []
    odd = "/a|b"
    (job,) = waiting(listed("BadConstraints", "rule_x_wildcards_a|b", odd), odd)
    assert job == Waiting("12", "BadConstraints", "gpu", "1-00:00:00", "8G", "gres:gpu:1", "rule_x_wildcards_a|b")
    assert job.what == "x a|b"
    assert len(FIELDS.split("|")) == 8


def config(accounting: str, age: int) -> str:
    return f"AccountingStorageType   = {accounting}\nMinJobAge               = {age} sec\nOther = (null)\n"


@pytest.mark.parametrize(
    ("accounting", "age", "asked", "expected", "warns"),
    [
        ("accounting_storage/none", 300, "sacct", "squeue", False),
        ("accounting_storage/none", 300, "squeue", "squeue", False),
        ("accounting_storage/none", 60, "squeue", "squeue", True),
        ("accounting_storage/slurmdbd", 300, "squeue", "squeue", False),
        ("accounting_storage/slurmdbd", 300, "sacct", "sacct", False),
        ("accounting_storage/slurmdbd", 100, "squeue", "sacct", False),
        ("(null)", 300, "sacct", "squeue", False),
    ],
)
def test_how_the_state_of_jobs_is_asked_for(accounting: str, age: int, asked: str, expected: str, warns: bool) -> None:
    command, warning = status_command(config(accounting, age), asked)
    assert command == expected
    assert bool(warning) == warns
    assert f"{age} s" in warning if warns else True


def test_a_slurm_that_does_not_answer_changes_nothing() -> None:
    assert status_command("", "sacct") == ("sacct", "")
