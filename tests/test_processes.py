"""Images over processes: in order, with their errors, and with torch used before the fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline.core import cli, processes
from pipeline.core.processes import over_processes, usable_cores


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_processes_keep_the_order(processes: int, count: int) -> None:
    offset = 10
    assert list(over_processes(lambda i: (i, i * i + offset), range(count), processes)) == [
        (i, i * i + offset) for i in range(count)
    ]


def test_processes_are_used_and_their_errors_arrive() -> None:
    assert os.getpid() not in set(over_processes(lambda i: os.getpid(), range(4), 2))

    def fails(i: int) -> float:
        return 1 / (i - 2)

    with pytest.raises(ZeroDivisionError):
        list(over_processes(fails, range(4), 2))


def test_processes_can_use_torch_after_the_parent_has() -> None:
    """A thread pool does not survive a fork: a child that asked for it would wait forever."""
    torch.set_num_threads(2)
    a = torch.rand(400, 400)
    a @ a

    def work(i: int) -> tuple[int, float]:
        return torch.get_num_threads(), float(
            torch.nn.functional.interpolate(a[None, None], scale_factor=4.0).sum() > i
        )

    assert list(over_processes(work, range(3), 2)) == [(1, 1.0)] * 3


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),  # of the group above
        ("0::/../outside\n", {"cpu.max": "50000 100000"}, 1),
        ("3:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "400000", "cpu/x/cpu.cfs_period_us": "100000"}, 4),
        ("3:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, 8),
        ("0::/\n", {}, 8),
    ],
)
def test_usable_cores_are_those_of_the_control_group(
    groups: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": files[name] for name in files}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == expected
    monkeypatch.setattr(processes, "_quotas", lambda system: iter([2.0]))
    monkeypatch.setattr(cli, "usable_cores", lambda: usable_cores(tmp_path))
    assert [cli.threads(text) for text in ("0", "1", "8")] == [1, 1, 2], "no more threads than cores"


def test_processes_end_with_the_one_that_began_them(tmp_path: Path) -> None:
    """Else they would wait for work for ever, and hold memory."""
    program = f"""
import os, time
from pathlib import Path
from pipeline.core.processes import over_processes
def work(i):
    here = Path({str(tmp_path)!r})
    (here / str(os.getpid())).touch()
    while i or len(list(here.iterdir())) < 2:  # the first waits for the second, then for work
        time.sleep(0.05)
list(over_processes(work, range(2), 2))
"""
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        for _ in range(600):
            if len(children := list(tmp_path.iterdir())) == 2:
                break
            time.sleep(0.05)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert len(children) == 2
    for _ in range(100):
        if not any(alive(int(child.name)) for child in children):
            break
        time.sleep(0.05)
    assert not any(alive(int(child.name)) for child in children)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
