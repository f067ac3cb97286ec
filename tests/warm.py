"""Stage commands in processes that are warm already: forked from a server that has imported torch and used none of it.

A fresh interpreter takes two to three seconds to import torch or Snakemake, and the tests run hundreds of commands.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path

import snakemake.cli  # noqa: F401
import torch  # noqa: F401
import torchvision  # noqa: F401
import zarr  # noqa: F401

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["warm"])


def run(
    module: str, words: list[str], cwd: Path, environment: dict[str, str] | None = None, die_after: str = ""
) -> tuple[int, str]:
    """`python -m module words…` in this folder: exit status and what it printed.

    die_after: a function, 'module:name' or 'module:Class.name'. Once it has returned for the first time the command and
    all its processes get SIGKILL, so that every run dies at the same place (exit status -9).
    """
    with tempfile.NamedTemporaryFile(suffix=".txt") as said:
        process = _CONTEXT.Process(
            target=_child, args=(module, words, str(cwd), environment or {}, said.name, die_after)
        )
        process.start()
        process.join()
        return int(process.exitcode or 0), Path(said.name).read_text()


def _child(module: str, words: list[str], cwd: str, environment: dict[str, str], said: str, die_after: str) -> None:
    out = os.open(said, os.O_WRONLY)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.update(environment)
    sys.argv = [module, *words]
    if die_after:
        _arm(die_after)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _arm(target: str) -> None:
    os.setsid()  # a process group of its own: the server is in ours
    module, _, path = target.partition(":")
    owner = importlib.import_module(module)
    *classes, name = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    function = getattr(owner, name)

    def last(*args: object, **options: object) -> None:
        function(*args, **options)
        os.killpg(0, signal.SIGKILL)

    setattr(owner, name, last)
