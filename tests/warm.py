"""Stage commands in processes that are warm already: forked from a server that has imported torch and used none of it.

A fresh interpreter takes two to three seconds to import torch, and the tests run some hundred stages.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path

import torch  # noqa: F401
import torchvision  # noqa: F401
import zarr  # noqa: F401

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["warm"])


def run(module: str, words: list[str], cwd: Path, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """`python -m module words…` in this folder: exit status and what it printed."""
    with tempfile.NamedTemporaryFile(suffix=".txt") as said:
        process = _CONTEXT.Process(target=_child, args=(module, words, str(cwd), environment or {}, said.name))
        process.start()
        process.join()
        return int(process.exitcode or 0), Path(said.name).read_text()


def _child(module: str, words: list[str], cwd: str, environment: dict[str, str], said: str) -> None:
    out = os.open(said, os.O_WRONLY)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)
    os.chdir(cwd)
    os.environ.update(environment)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
