"""Stages as commands that can be disturbed: forked from a process that has imported what they use, and watched.

A try takes a second that way, where a fresh interpreter takes two to begin. Blocks of 64 photographs are of 4 here, and
training saves after every iteration instead of every two minutes: more moments to be hit at.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import hashlib
import importlib
import json
import os
import pkgutil
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 300  # seconds a command may take before it counts as hanging
BLOCK = 4  # rows of a shard


class Stage(NamedTuple):
    """One command. inputs: role → the stage that makes it."""

    module: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    flags: tuple[str, ...] = ()


def stage(module: str, settings: dict[str, Any] | None = None, see: str = "", **inputs: str) -> Stage:
    return Stage(module, settings or {}, {role: role for role in see.split()} | inputs)


DATA = {"name": "tiny", "format": "demo", "max_side": 96, "demo": {"train": 12, "val": 4}}
OTHER = {**DATA, "demo": {"train": 11, "val": 5}}
TINY = {"batch": 4, "crop": 64, "epochs": 1, "lr": 0.001, "head_lr": 1.0}
NET = {**TINY, "width": 16}
ONCE = {"scales": [1.0], "flip": False}
ERASE = {**TINY, "stop_recall": 0.0, "stop_loss": 9.0}
SEE, KNOW = "photographs", "photographs tags"
STAGES = {
    "photographs": Stage("prepare", DATA, {}, ("--make", "photographs")),
    "tags": Stage("prepare", DATA, {SEE: SEE}, ("--make", "tags")),
    "masks-of-data": Stage("prepare", DATA, {SEE: SEE}, ("--make", "masks")),
    "imagenet": stage("init", {"method": "imagenet"}),
    "random": stage("init", {"method": "random"}),
    "proxy": stage("proxy", {**TINY, "border": 4, "pixels": 32}, SEE),
    "saliency": stage("saliency", {}, SEE),
    "hypotheses": stage("hypotheses", {"clusters": 5, "regions": [300]}, SEE),
    "classify": stage("classify", TINY, KNOW, weights="random"),
    "cam": stage("cam", ONCE, KNOW, classifier="classify"),
    "excitation": stage("excitation", ONCE, KNOW, classifier="classify"),
    "erase": stage("erase", ERASE, KNOW, seeds="cam", weights="random"),
    "mine": stage("mine", {**ONCE, "recognised": 0, "stop_mined": 0}, SEE, seeds="cam", classifier="erase"),
    "hcp": stage(
        "hcp", {**TINY, "hypothesis_epochs": 1, "per_image": 4}, KNOW, hypotheses="hypotheses", weights="random"
    ),
    "vote": stage("vote", {}, KNOW, hypotheses="hypotheses", classifier="hcp"),
    "crf": stage("crf", {"iterations": 2}, SEE, seeds="mine", saliency="saliency"),
    "masks": stage("masks", {}, KNOW, masks="masks-of-data"),
    "merge": stage("merge", {}, SEE, true="masks", pseudo="crf"),
    "patches": stage("patches", {"sides": [16, 48], "size": 32, "draws": 2}, SEE, labels="masks"),
    "triplet": stage("triplet", {"batch": 4, "epochs": 1, "pool": 1}, SEE, patches="patches", weights="random"),
    "contrast": stage("contrast", {**NET, "batch": 2}, SEE, labels="masks", weights="random"),
    "segment": stage("segment", NET, SEE, labels="masks", weights="random"),
    "psl": stage("psl", {**NET, "prohibit_after": 0.5}, KNOW, labels="masks", weights="random"),
    "dis": stage("dis", TINY, KNOW, labels="masks", weights="random"),
    "infer": stage("infer", {"steps": 1}, KNOW, model="dis"),
    "relabel": stage("relabel", {"flip": False, "rescue": 0.001}, KNOW, model="segment"),
    "simple": stage("simple", {"tags": 9, "area": [0, 1], "border": 1}, KNOW, saliency="saliency"),
    "soften": stage("soften", {}, SEE, seeds="cam"),
    "harden": stage("harden", {}, SEE, soft="soften"),
    "evaluate": stage("evaluate", {}, SEE, masks="masks-of-data", of="segment"),
}
TRAINS = {"proxy", "classify", "erase", "hcp", "triplet", "contrast", "segment", "psl", "dis"}


def manifest(folder: Path) -> Path:
    return folder / "x.json"


@dataclass
class World:
    """Every stage's artifact, undisturbed, made when it is asked for; each in a folder of its own."""

    base: Path
    data: dict[str, Any]
    made: dict[str, Made] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Made:
        if name not in self.made:
            for source in STAGES[name].inputs.values():
                self[source]
            folder = self.base / name
            (folder / "out").mkdir(parents=True)
            began = time.monotonic()
            run = Run(self.words(name, folder / "out"), folder, Arm(folder / "out"))
            if run.wait():
                raise SystemExit(f"{name}, undisturbed: exit {run.status}\n{run.said()}")
            about = json.loads((folder / "end.json").read_text())
            seconds = time.monotonic() - began
            self.made[name] = Made(folder / "out", listing(folder / "out"), seconds, about["count"], about["memory"])
        return self.made[name]

    def words(self, name: str, out: Path, inputs: dict[str, Path] | None = None) -> list[str]:
        """The stage's command. inputs: folders by role, instead of our own."""
        about = STAGES[name]
        folders = {role: self.base / source / "out" for role, source in about.inputs.items()} | (inputs or {})
        words = [f"pipeline.{about.module}", *about.flags]
        words += [word for role, folder in folders.items() for word in (f"--{role}", str(manifest(folder)))]
        settings = self.data if about.module == "prepare" else about.settings
        words += ["--settings", json.dumps(settings), "--out", str(manifest(out))]
        if about.module != "prepare":
            words += ["--precision", "f32", "--device", "cpu", "--threads", "1" if name in TRAINS else "2"]
        return words


class Made(NamedTuple):
    """An undisturbed artifact. files: of its folder, by path, what `listing` gives. operations: changes to files."""

    folder: Path
    files: dict[str, str]
    seconds: float
    operations: int
    memory: int  # bytes of address space that the stage took beyond what it began with


# ------------------------------------------------------------------------------------------- commands in processes


class Arm(NamedTuple):
    """What the library of faults.c does in the process; see there."""

    root: Path
    log: Path | None = None
    at: int = 0
    signal: int = 0
    back: int = 0


class Run:
    """A command in a process forked from this one, in a group of its own; what it prints goes to a file `said`."""

    def __init__(self, words: list[str], folder: Path, arm: Arm, address_space: int = 0):
        """folder: where it runs. address_space: bytes it may take beyond what it has (0: no limit)."""
        self.folder, self.status = folder, None
        with suppress(FileNotFoundError):
            (folder / "said").unlink()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            self._become(words, arm, address_space)
        with suppress(OSError):  # the child does it, too: whoever comes first
            os.setpgid(self.pid, self.pid)

    def _become(self, words: list[str], arm: Arm, address_space: int) -> None:
        status = 1
        try:
            os.setpgid(0, 0)
            os.chdir(self.folder)
            for number, file in enumerate((os.devnull, "said", "said")):
                flags = os.O_RDONLY if not number else os.O_WRONLY | os.O_CREAT | os.O_APPEND
                os.dup2(os.open(file, flags, 0o644), number)
            sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            signal.signal(signal.SIGINT, signal.default_int_handler)
            log = os.open(arm.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if arm.log else -1
            sys.argv = words
            began = address_space_now("VmSize")
            if address_space:
                resource.setrlimit(resource.RLIMIT_AS, (began + address_space,) * 2)
            SHIM.faults_arm(os.fsencode(arm.root), log, arm.at, int(arm.signal), arm.back)
            try:
                runpy.run_module(words[0], run_name="__main__", alter_sys=True)
                status = 0
            except SystemExit as left:
                status = left.code if isinstance(left.code, int) else int(left.code is not None)
                if left.code is not None and not isinstance(left.code, int):
                    print(left.code, file=sys.stderr)
            except BaseException:
                traceback.print_exc()
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            about = {"count": SHIM.faults_count(), "memory": address_space_now("VmPeak") - began}
            (self.folder / "end.json").write_text(json.dumps(about))
        finally:
            os._exit(status)

    def wait(self, seconds: float = LONGEST) -> int:
        """Its exit status, minus the signal that ended it. One that hangs is killed: its status is None."""
        end = time.monotonic() + seconds
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise Hangs(f"no end after {seconds:.0f} s: {self.said()[-300:]}")
            else:
                time.sleep(0.002)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # what it left behind
        return self.status

    def ended(self) -> bool:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.status = os.waitstatus_to_exitcode(status)
        return bool(pid)

    def said(self) -> str:
        file = self.folder / "said"
        return file.read_text(errors="replace") if file.exists() else ""


class Hangs(RuntimeError):
    pass


def address_space_now(what: str) -> int:
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(what))


# ------------------------------------------------------------------------------------------------ looking at folders


def listing(folder: Path) -> dict[str, str]:
    """Path → digest of every file below; of a store's attributes all but when and where it was made."""
    return {str(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def digest(path: Path) -> str:
    raw = path.read_bytes()
    if path.name == "zarr.json" and path.parent.suffix == ".zarr":
        with suppress(ValueError):
            about = json.loads(raw)
            about["attributes"].pop("made", None)
            raw = json.dumps(about).encode()
    return hashlib.blake2b(raw, digest_size=12).hexdigest()


def claims(folder: Path) -> bool:
    """Whether what lies here would pass for a finished artifact: to a reader, or to the same command."""
    return manifest(folder).exists() or "manifest" in attributes(folder)


def attributes(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "x.zarr" / "zarr.json").read_text())["attributes"]
    except (OSError, ValueError, KeyError):
        return {}


def is_whole(folder: Path, *wanted: dict[str, str]) -> bool:
    """Whether it is one of these artifacts. Its manifest may be missing: the same command puts it back."""
    found = {name: about for name, about in listing(folder).items() if name == "x.json" or name.startswith("x.zarr/")}
    for want in wanted:
        artifact = {name: about for name, about in want.items() if name == "x.json" or name.startswith("x.zarr/")}
        if found == artifact or ({**found, "x.json": artifact["x.json"]} == artifact and "x.json" not in found):
            return True
    return False


class Begun(NamedTuple):
    """What an unfinished artifact has: rows that its journal names, and whether a training was saved."""

    rows: int
    saved: bool

    @classmethod
    def of(cls, folder: Path) -> Begun:
        journal, blocks = folder / "x.part" / "shards.jsonl", 0
        if journal.is_file() and (folder / "x.zarr").is_dir() and "manifest" not in attributes(folder):
            for line in journal.read_text(errors="replace").splitlines():
                try:
                    json.loads(line)
                except ValueError:
                    break
                blocks += 1
        return cls(blocks * BLOCK, any((folder / "x.part").rglob("checkpoint.pt")) and not attributes(folder))


def lost(begun: Begun, said: str) -> str:
    """What the same command computed although it was there: '' is nothing."""
    if "complete already" in said:
        return ""
    found = re.search(r"(\d+) of (\d+) images computed", said)
    if found and int(found[1]) > max(0, int(found[2]) - begun.rows):
        return f"{found[0]} although the journal named {begun.rows}"
    if begun.saved and "going on after iteration" not in said:
        return "the training began anew although it was saved"
    return ""


# -------------------------------------------------------------------------------------------------------- beginning

SHIM: Any = None


def load_library(words: list[str]) -> None:
    """Begin this process anew with faults.c in front of libc, if it is not there yet."""
    global SHIM
    if "FAULTS_LIBRARY" not in os.environ:
        library = Path(tempfile.mkdtemp(prefix="faults"), "faults.so")
        source = ROOT / "benchmarks" / "faults.c"
        subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        environment = {"LD_PRELOAD": str(library), "FAULTS_LIBRARY": str(library), "OMP_NUM_THREADS": "1"}
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.faults", *words], {**os.environ, **environment})
    library = Path(os.environ.pop("FAULTS_LIBRARY"))
    SHIM = ctypes.CDLL(str(library))
    os.environ.pop("LD_PRELOAD")  # in this process it is; others need it not
    shutil.rmtree(library.parent)
    SHIM.faults_count.restype = ctypes.c_long
    SHIM.faults_arm.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_long]
    SHIM.faults_arm.restype = None


def needed(name: str) -> set[str]:
    """The stage and all that its inputs rest on."""
    return {name}.union(*(needed(source) for source in STAGES[name].inputs.values()))


def preload(stages: list[str]) -> None:
    """Import what stages import, use none of it, and make blocks and pauses small."""
    os.environ["CHECKPOINT_SECONDS"] = "0"
    chosen = set().union(*map(needed, stages))
    networks = any(name in TRAINS or STAGES[name].module == "init" for name in chosen)  # two seconds of torch
    libraries = ["scipy.ndimage", "scipy.sparse.csgraph", "scipy.sparse.linalg", "scipy.spatial.distance", "zarr"]
    libraries += ["skimage.color", "skimage.morphology", "skimage.segmentation._slic", *["torchvision"] * networks]
    import pipeline

    libraries += [
        about.name
        for about in pkgutil.walk_packages(pipeline.__path__, "pipeline.")
        if about.name.startswith(("pipeline.core.", "pipeline.kinds.", "pipeline.datasets."))
        or (networks and about.name.startswith(("pipeline.networks.", "pipeline.kernels.")))
    ]
    for library in libraries:
        if networks or library not in ("pipeline.core.loop", "pipeline.core.train"):
            with suppress(ModuleNotFoundError):  # numba
                importlib.import_module(library)
    from pipeline.core import cli, rows, store
    from pipeline.datasets import collage

    rows.SHARD = store.SHARD = BLOCK
    rows.FLAT_BYTES = 20_000
    for about in (STAGES[name] for name in chosen):  # remembered: the digest of a stage's code, the pictures
        cli.code_digest(about.module, [value for value in about.settings.values() if isinstance(value, str)])
    for index in range(sum(DATA["demo"].values())):
        collage.compose(0, index)
    gc.collect()
    gc.freeze()
