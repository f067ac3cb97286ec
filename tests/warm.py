"""Commands in processes that are warm already: forked from a server that has imported libraries and used none of them.

A fresh interpreter takes two seconds of CPU to import torch, one for Snakemake, and the tests run hundreds of commands.
`run` is for tests. `stand_in` is a `python` for the PATH of a Snakemake: what its rules run is forked as well. The
server starts with the first command and ends with the tests. `server_of` gives another, forked from it, that has read
our own code as well: half a second less for each command, where that code does not change.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
from functools import cache

TYPE_CHECKING = False  # the stand-in has no time for `typing`
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SELF = os.path.abspath(__file__)
# What takes long to import, of all that our commands use.
LIBRARIES = (
    "pydantic.main",
    "scipy.ndimage",
    "scipy.sparse.csgraph",
    "scipy.sparse.linalg",
    "scipy.spatial.distance",
    "skimage.color",
    "skimage.morphology",
    "skimage.segmentation",
    "sklearn.manifold",
    "snakemake.cli",
    "torch.utils.tensorboard",
    "torchvision",
    "zarr",
)
# Below pipeline/*/: commands, and what wants numba.
NOT_OURS = ("__init__", "__main__", "index", "reference", "barrier")


def run(
    module: str,
    words: list[str],
    cwd: object,
    environment: dict[str, str] | None = None,
    die_after: str = "",
    server: str = "",
) -> tuple[int, str]:
    """`python -m module words…` in this folder: exit status (minus the signal that ended it) and what it printed.

    environment: beside that of the tests. die_after: a function, 'module:name' or 'module:Class.name'. Once it has
    returned for the first time the command and all its processes get SIGKILL, so that every run dies at the same place.
    server: of `server_of`.
    """
    return measured(module, words, cwd, environment, die_after, server=server)[:2]


def measured(
    module: str,
    words: list[str],
    cwd: object,
    environment: dict[str, str] | None = None,
    die_after: str = "",
    seconds: int = 0,
    server: str = "",
) -> tuple[int, str, float]:
    """`run`, and the seconds of CPU that the command took. seconds: after which SIGALRM ends it, 0 for never."""
    import tempfile

    request: dict = {"module": module, "words": list(map(str, words)), "cwd": str(cwd), "die_after": die_after}
    request["seconds"] = seconds
    request["environment"] = {**os.environ, **(environment or {})}
    with tempfile.TemporaryFile("w+b") as said, open(os.devnull) as nothing:
        status, spent = _ask(server or _server(), request, [nothing.fileno(), said.fileno(), said.fileno()])
        said.seek(0)
        return status, said.read().decode(errors="replace"), spent


def stand_in(folder: object, server: str = "") -> str:
    """Put a `python` into this folder that hands `python -m …` to the server; returns the folder."""
    os.makedirs(str(folder), exist_ok=True)
    path = os.path.join(str(folder), "python")
    with open(path, "w") as file:
        file.write(f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {os.path.dirname(SELF)!r})\n")
        file.write(f"import warm\nwarm.command({(server or _server())!r})\n")
    os.chmod(path, 0o755)
    return str(folder)


def command(server: str) -> None:
    """What the stand-in does: hand on its words, folder, environment and open files, and end as the command ended."""
    flag, module, *words = sys.argv[1:]
    if flag != "-m":
        raise SystemExit(f"python {flag}: only python -m is served here")
    request = {"module": module, "words": words, "cwd": os.getcwd(), "environment": dict(os.environ)}
    status, _ = _ask(server, request, [0, 1, 2, *map(int, filter(None, [os.environ.get("TAGMASK_TERMINAL")]))])
    sys.exit(status if status >= 0 else 128 - status)


def _ask(server: str, request: dict, files: list[int]) -> tuple[int, float]:
    """Exit status and seconds of CPU."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(server)
        socket.send_fds(line, [b"."], files)
        line.sendall(json.dumps(request).encode())
        line.shutdown(socket.SHUT_WR)
        status, spent = (line.recv(64) or b"1 0").split()
        return int(status), float(spent)


@cache
def _server() -> str:
    import atexit
    import shutil
    import subprocess
    import tempfile

    folder = tempfile.mkdtemp(prefix="warm")
    path = os.path.join(folder, "socket")
    process = subprocess.Popen([sys.executable, SELF, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n", "the server of warm processes did not start"
    atexit.register(shutil.rmtree, folder)
    atexit.register(process.kill)
    return path


@cache
def server_of(folder: object) -> str:
    """A server that has imported the `pipeline` of this folder, all but its commands, and knows its code digests."""
    path = f"{_server()}{len(os.listdir(os.path.dirname(_server())))}"
    with open(os.devnull) as nothing:
        status, _ = _ask(_server(), {"serve": path, "folder": str(folder)}, [nothing.fileno()])
    assert status == 0, f"the server of warm processes that has read {folder}/pipeline did not start"
    return path


# ---------------------------------------------------------------------------------------------------------- server


def serve(path: str, modules: Iterable[str], ready: Callable[[], object]) -> None:
    """Import these and fork from here on, until who began it is gone. ready: called when commands can come."""
    import gc
    import importlib
    from pathlib import Path

    for module in modules:
        importlib.import_module(module)
    if digest := sys.modules.get("pipeline.core.digest"):
        for file in sorted(Path(digest.__file__ or "").parents[1].glob("[!_]*.py")):
            digest.code_digest(file.stem)
    gc.collect()
    gc.freeze()  # what was imported is no command's garbage
    tests = os.getppid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        listening.settimeout(5)
        ready()
        while os.getppid() == tests:
            try:
                line, _ = listening.accept()
            except TimeoutError:
                continue
            if os.fork() == 0:
                listening.close()
                return _keep(line)
            line.close()


def ours(folder: str) -> list[str]:
    """The modules of the `pipeline` in this folder that are no commands."""
    from pathlib import Path

    files = [file.relative_to(folder) for file in sorted(Path(folder, "pipeline").glob("*/**/*.py"))]
    return [".".join(file.with_suffix("").parts) for file in files if file.stem not in NOT_OURS]


def _keep(line: socket.socket) -> None:
    """Fork the command, wait for it, tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    line.settimeout(None)
    _, files, _, _ = socket.recv_fds(line, 1, 4)  # the fourth is the terminal's, where the others go to a log
    with line.makefile() as text:
        request = json.load(text)
    if "serve" in request:
        sys.path[0] = request["folder"]
        return serve(request["serve"], ours(request["folder"]), lambda: (line.send(b"0 0"), line.close()))
    child = os.fork()
    if child == 0:
        line.close()
        for number, file in enumerate([fcntl.fcntl(file, fcntl.F_DUPFD, 10) for file in files]):
            os.dup2(file, number)
            os.close(file)
        return _become(**request)
    _, ended, spent = os.wait4(child, 0)
    line.send(f"{os.waitstatus_to_exitcode(ended)} {spent.ru_utime + spent.ru_stime:.3f}".encode())
    os._exit(0)


def _become(
    module: str, words: list[str], cwd: str, environment: dict[str, str], die_after: str = "", seconds: int = 0
) -> None:
    import runpy
    import traceback

    signal.alarm(seconds)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0:1] = [cwd, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [module, *words]
    if train := sys.modules.get("pipeline.core.train"):  # it has read the server's
        train.CHECKPOINT_SECONDS = float(environment.get("CHECKPOINT_SECONDS", train.CHECKPOINT_SECONDS))
    if die_after:
        _arm(die_after)
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
        if left.code is not None and not isinstance(left.code, int):
            print(left.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    _end(status)


def _end(status: int) -> None:
    """As the interpreter ends, but for taking apart thousands of modules, which costs a second."""
    import atexit
    import threading

    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _arm(target: str) -> None:
    import importlib

    os.setsid()  # a group of its own: the server and other commands are in ours
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


if __name__ == "__main__":
    serve(sys.argv[1], LIBRARIES, lambda: print("ready", flush=True))
