"""Images over processes: in order, with their errors, and with torch used before the fork."""

from __future__ import annotations

import os

import pytest
import torch

from pipeline.core.processes import over_processes


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
