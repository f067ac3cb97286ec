"""What is particular to a Slurm cluster: which partition a job goes to, and which waiting job will never start.

The site's names stand in workflow/profiles/slurm/config.yaml, all under `default-resources`, where Snakemake keeps
them for every rule; `Site` reads those that are ours. Nothing here runs inside a job.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

CHECK = 60  # seconds between two looks at the queue
# Snakemake's longest pause between two looks at its jobs is 180 s. A job that ends and is forgotten in between would
# be waited for without end.
FORGETS = 240


@dataclass(frozen=True)
class Site:
    """What the profile says about the cluster. All of it may be missing, as without a cluster."""

    gpu_partition: str | None = None
    gpu_gres: str | None = None
    max_runtime: int | None = None  # minutes

    @classmethod
    def of(cls, workflow: Any) -> Site:
        """From the default resources of a run, which are read before its rules are."""
        given: Mapping[str, Any] = workflow.resource_settings.default_resources or {}
        texts = {name: str(getattr(given[name], "raw", given[name])).strip("\"' ") for name in given}
        longest = texts.get("max_runtime", "")
        return cls(
            texts.get("gpu_partition") or None,
            texts.get("gpu_gres") or None,
            int(longest) if longest.isdigit() else None,
        )

    def request(self, gpu: bool) -> dict[str, int | str]:
        """The resources of a rule that say whether it computes on a GPU."""
        if not gpu:
            return {"gpu": 0}
        asked: dict[str, int | str] = {"gpu": 0, "gres": self.gpu_gres} if self.gpu_gres else {"gpu": 1}
        return asked | ({"slurm_partition": self.gpu_partition} if self.gpu_partition else {})


# ------------------------------------------------------------------------------------- jobs that wait for nothing

# Reasons that squeue gives and that do not go away while the job stays as it is. Others, such as Resources, Priority
# or limits on what a user's jobs use together, pass when other jobs end.
HOPELESS: tuple[tuple[str, str], ...] = (
    (r"PartitionTimeLimit", "it asks for more time than the partition gives"),
    (r".*MaxWallDurationPerJob.*|(Association|QOS)TimeLimit", "it asks for more time than your account or QOS gives"),
    (r"PartitionNodeLimit|PartitionConfig", "it asks for more than the partition's nodes have"),
    (r"BadConstraints|ReqNodeNotAvail.*", "no node that is up has what it asks for, or those that do are reserved"),
    (r"PartitionDown|PartitionInactive", "the partition is closed"),
    (r"(QOS|Assoc|Max).*PerJob.*|MaxMemPerLimit|QOSMaxCpuPerNode.*", "it asks for more than one job may have"),
    (r"QOSMin.*", "it asks for less than a job must have"),
    (r"(QOS|Assoc)Grp.*(Minutes|Wall).*", "the budget of your account or QOS is used up"),
    (r"InvalidAccount|AccountNotAllowed|AccountingPolicy", "your account may not be used here"),
    (r"InvalidQOS|QOSNotAllowed", "your QOS may not be used here"),
    (r"JobHeld.*|.*held.*", "it is held"),
    (r"DependencyNeverSatisfied", "it waits for a job that failed"),
)
CHANGE: tuple[tuple[str, str], ...] = (
    (r".*(TimeLimit|WallDuration).*", "ask for less (max_runtime in the profile) or name a partition that gives more"),
    (r".*(Account|Grp).*", "name another account (slurm_account in the profile)"),
    (r".*QOS.*", "name another QOS (slurm-qos in the profile)"),
    (r".*[hH]eld.*", "ask why it is held, or let it go (scontrol release {job})"),
    (r".*", "name another partition or ask for less (set-resources in the profile)"),
)


@dataclass(frozen=True)
class Waiting:
    """A job in the queue: what squeue prints, in FIELDS' order."""

    job: str
    reason: str
    partition: str
    time: str
    memory: str
    gres: str
    comment: str

    @property
    def what(self) -> str:
        """The rule and its wildcards, from the comment that Snakemake gives its jobs."""
        rule, _, wildcards = self.comment.removeprefix("rule_").partition("_wildcards_")
        return f"{rule} {wildcards}".strip()

    def complaint(self) -> str | None:
        """What to tell the user; None where waiting may help."""
        why = _first(HOPELESS, self.reason)
        if why is None:
            return None
        asks = f"{self.time} and {self.memory}" + (f" and {self.gres}" if self.gres not in ("", "N/A") else "")
        change = (_first(CHANGE, self.reason) or "").format(job=self.job)
        return (
            f"Slurm job {self.job} ({self.what}) will not start as things are: {why} ({self.reason}). "
            f"It asks for {asks} in partition {self.partition}. "
            f"Cancel it (scancel {self.job}, or Ctrl-C here for all) and {change}."
        )


def _first(table: tuple[tuple[str, str], ...], reason: str) -> str | None:
    return next((text for pattern, text in table if re.fullmatch(pattern, reason)), None)


FIELDS = "%i|%r|%P|%l|%m|%b|%Z|%k"


def waiting(listed: str, folder: str) -> Iterator[Waiting]:
    """The pending jobs of the run in this folder, from what squeue printed with FIELDS."""
    for line in listed.splitlines():
        parts = line.split("|")
        if len(parts) >= 8 and "|".join(parts[6:]).startswith(f"{folder}|rule_"):
            fields = [*parts[:6], "|".join(parts[6:])[len(folder) + 1 :]]
            yield Waiting(*fields)


def watch(workflow: Any, say: Callable[[str], None]) -> None:
    """Called once when jobs are about to start: names, while they run, every job that will never start.

    Also sees to it that Snakemake asks for the state of its jobs in a way that is answered. Does nothing without Slurm.
    """
    if getattr(workflow.executor_plugin, "name", "") != "slurm":
        return
    asked = _printed(["scontrol", "show", "config"])
    command, warning = status_command(asked, workflow.executor_settings.status_command)
    workflow.executor_settings.status_command = command
    if warning:
        say(warning)
    threading.Thread(target=_watch, args=(str(workflow.workdir_init), say), daemon=True).start()


def _watch(folder: str, say: Callable[[str], None]) -> None:
    told: set[tuple[str, str]] = set()
    every = float(os.environ.get("TAGMASK_QUEUE_CHECK", CHECK))
    while True:
        time.sleep(every)
        command = ["squeue", "--noheader", "--user", str(os.getuid()), "--states", "PENDING", "--format", FIELDS]
        for job in waiting(_printed(command), folder):
            complaint = job.complaint()
            if complaint and (job.job, job.reason) not in told:
                told.add((job.job, job.reason))
                say(complaint)


def status_command(config: str, asked: str | None) -> tuple[str | None, str]:
    """How to ask for the state of jobs, and a warning: from `scontrol show config` and what was asked for.

    sacct never answers without an accounting database. squeue answers everywhere, for as long as Slurm remembers a job
    that ended (MinJobAge); Slurm's own value is 300 s, a few large clusters have less, and a database.
    """
    found = dict(re.findall(r"^(\w+)\s*=\s*(\S+)", config, re.M))
    if not found:
        return asked, ""
    age = int(found["MinJobAge"]) if found.get("MinJobAge", "").isdigit() else FORGETS
    if found.get("AccountingStorageType", "").endswith("/slurmdbd"):
        return ("sacct" if 0 < age < FORGETS else asked), ""
    if 0 < age < FORGETS:
        return "squeue", (
            f"This Slurm keeps no accounts and forgets a job {age} s after it ended (MinJobAge), sooner than Snakemake "
            "asks again: a job may be waited for without end. Ask for MinJobAge=300 in slurm.conf."
        )
    return "squeue", ""


def _printed(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
