"""Every stage, disturbed at random moments by all that can go wrong, and run again: is anything lost, or false?

    python -m benchmarks.faults run [--faults kill power …] [--stages cam …] [--tries 10] [--minutes 60]
    python -m benchmarks.faults table

`run` makes every artifact undisturbed on 16 small pictures, then goes through tries: a fresh folder (in every second
try with a finished artifact of other inputs in it), the stage's own command, the fault, a look at what stands there,
the same command again, and a comparison of every byte. It needs Linux, gcc, and for mounts to be root. Each try's row
goes to docs/results/faults.json at once; stopped at any moment, the same command goes on. `table` writes
docs/results/faults.md from it. The moments of a try follow from --seed, fault, stage and number.

Stages are forked from a process that has imported all libraries, so a try takes a second. Blocks of 64 photographs are
of 4 here, and training saves after every iteration instead of every two minutes: more moments to be hit at.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import importlib
import json
import os
import pkgutil
import platform
import re
import resource
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.disk import Disk, recorded  # noqa: E402

RESULTS = ROOT / "docs" / "results"
LONGEST = 300  # seconds a command may take before it counts as hanging
BLOCK = 4  # rows of a shard
Row = dict[str, Any]

# ------------------------------------------------------------------------------------------------------- stages


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
            importlib.import_module("atexit")._run_exitfuncs()
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


# -------------------------------------------------------------------------------------------------------- a try


@dataclass
class Try:
    """A fresh folder for one stage and one fault."""

    name: str
    random: Random
    folder: Path
    here: World
    other: World
    old: bool  # an artifact of other inputs stands there before
    about: Row = field(default_factory=dict)  # what was drawn

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def made(self) -> Made:
        return self.here[self.name]

    def wanted(self) -> list[dict[str, str]]:
        return [self.made.files] + ([self.other[self.name].files] if self.old else [])

    def lay(self) -> None:
        self.made, self.wanted()  # so that none is made in the middle of the try
        if self.old:
            shutil.copytree(self.other[self.name].folder, self.out, dirs_exist_ok=True)
        else:
            self.out.mkdir(exist_ok=True)

    def start(self, arm: Arm | None = None, inputs: dict[str, Path] | None = None, address_space: int = 0) -> Run:
        words = self.here.words(self.name, self.out, inputs)
        return Run(words, self.folder, arm or Arm(self.out), address_space)

    def moment(self) -> float:
        """Seconds after the start."""
        self.about["after_s"] = round(self.random.uniform(0, self.made.seconds), 3)
        return self.about["after_s"]

    def operation(self) -> int:
        self.about["operation"] = self.random.randint(1, max(1, self.made.operations))
        return self.about["operation"]

    def look(self) -> None:
        """What stands there must be whole, or not claim to be."""
        self.about["stood"] = claims(self.out)
        if claims(self.out) and not is_whole(self.out, *self.wanted()):
            self.about["false"] = "what is not finished claims to be"

    def again(self, inputs: dict[str, Path] | None = None) -> None:
        """The same command; every byte compared."""
        begun = Begun.of(self.out)
        run = self.start(inputs=inputs)
        if run.wait():
            self.refused(run)
            return
        self.about["identical"] = listing(self.out) == self.made.files
        if not self.about["identical"]:
            self.about["differs"] = differing(listing(self.out), self.made.files)
            if claims(self.out) and not is_whole(self.out, self.made.files):
                self.about["false"] = "after the same command"
        elif why := lost(begun, run.said()):
            self.about["lost"] = why

    def refused(self, run: Run) -> None:
        """The command would not go on: with a plain message that says what to do, or the work is lost."""
        said = run.said()
        message = next((line for line in said.splitlines() if line.startswith("error: ")), "")
        if message and "Traceback" not in said and REMEDY.search(said):
            self.about["refused"] = said[said.index("error: ") :][:300]
        else:
            self.about["lost"] = f"exit {run.status}: {said[-300:]}"


REMEDY = re.compile(r"\brun\b|\bdelete\b|\bremove\b|\bwait\b|\bfree\b|\brm -r\b|compute them anew")


def differing(found: dict[str, str], wanted: dict[str, str]) -> str:
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


# -------------------------------------------------------------------------------------------------------- faults


def signalled(number: signal.Signals) -> Callable[[Try], None]:
    """At a random operation on files, or after a random time."""

    def fault(this: Try) -> None:
        this.lay()
        if this.random.random() < 0.6:
            run = this.start(Arm(this.out, at=this.operation(), signal=number))
        else:
            after = this.moment()
            run = this.start()
            end = time.monotonic() + after
            while time.monotonic() < end and not run.ended():
                time.sleep(0.001)
            if run.status is None:
                with suppress(ProcessLookupError):
                    os.kill(run.pid, number) if number == signal.SIGTERM else os.killpg(run.pid, number)
        this.about["ended"] = run.wait()
        this.look()
        this.again()

    return fault


def power(this: Try) -> None:
    """Recorded once, cut as often as one likes: a try lays another disk."""
    this.lay()
    disk = Disk(this.out)
    log = this.folder / "log"
    run = this.start(Arm(this.out, log=log))
    if run.wait():
        this.about["lost"] = f"undisturbed, and yet: {run.said()[-300:]}"
        return
    changes = recorded(log)
    cut = this.random.randint(0, len(changes))
    for change in changes[:cut]:
        disk.play(change)
    shutil.rmtree(this.out)
    disk.after_power_loss(this.out, this.random)
    for change in changes[cut:]:
        disk.play(change)
    seen = {name: hashlib.sha256(data).hexdigest() for name, data in disk.now().items()}
    if seen.keys() != this.made.files.keys():
        raise RuntimeError(f"{this.name}: the recording misses changes: {differing(seen, this.made.files)}")
    this.about |= {"operation": cut, "of": len(changes)}
    this.look()
    this.again()


def full(this: Try) -> None:
    """The artifact's folder is a file system of its own, with room for a part of what the stage writes."""
    size = room(this.made.folder)
    with mounted(this.out):
        this.lay()
        share = round(this.random.uniform(0, 3 if this.name in TRAINS else 1), 3)  # a training saves itself, too
        this.about["share"] = share
        mount(this.out, f"size={room(this.out) + int(share * size) + 4096}", REMOUNT)
        run = this.start()
        this.about["ended"] = run.wait()
        this.about["plain"] = run.status == 0 or plain(run.said())
        this.look()
        mount(this.out, "size=1g", REMOUNT)
        this.again()


def read_only(this: Try) -> None:
    """Remounted while the stage is at work."""
    with mounted(this.out):
        this.lay()
        after = this.moment()
        run = this.start()
        end, done = time.monotonic() + after, False
        while not done and not run.ended():
            time.sleep(0.001)
            if time.monotonic() >= end:
                with suppress(BlockingIOError):  # a file is being written
                    mount(this.out, "", REMOUNT | READ_ONLY)
                    done = True
        this.about["ended"] = run.status if run.status is not None else run.wait()
        this.about["plain"] = run.status == 0 or plain(run.said())
        this.look()
        mount(this.out, "", REMOUNT)
        this.again()


def out_of_memory(this: Try) -> None:
    """Memory is refused from some size on (RLIMIT_AS); or, as the kernel does it, one of the stage's processes gets
    SIGKILL, whichever is hit."""
    this.lay()
    if this.random.random() < 0.5:
        this.about["share"] = round(this.random.uniform(0.02, 1), 3)
        run = this.start(address_space=max(1, int(this.about["share"] * this.made.memory)))
    else:
        after = this.moment()
        run = this.start()
        end = time.monotonic() + after
        while time.monotonic() < end and not run.ended():
            time.sleep(0.001)
        if run.status is None and (found := group(run.pid)):
            with suppress(ProcessLookupError):
                os.kill(this.random.choice(found), signal.SIGKILL)
    this.about["ended"] = run.status if run.status is not None else run.wait()
    this.look()
    this.again()


def damaged_input(this: Try) -> None:
    """Of one input, in a copy of it. What a stage does not read may be damaged; what it reads may not."""
    this.lay()
    role, source, folder = borrowed(this)
    what = damage(folder, this.random)
    this.about["damage"] = f"{role}: {what}"
    refused_or_right(this, {role: folder})
    found = verify(this, folder)
    if found:
        follow(found)
        made = Run(this.here.words(source, folder), this.folder, Arm(folder))
        if made.wait() or listing(folder) != this.here[source].files:
            this.about["lost"] = f"the advice of verify does not repair: {made.said()[-200:]}"
            return
    elif "zarr.json" not in what:
        this.about["false"] = "verify finds nothing"
    else:  # metadata that change no value, such as a level of compression
        shutil.rmtree(folder)
        shutil.copytree(this.here[source].folder, folder)
    this.again({role: folder})


def damaged_artifact(this: Try) -> None:
    """Found by verify, whose advice repairs."""
    this.old = False
    shutil.copytree(this.made.folder, this.out)
    what = this.about["damage"] = damage(this.out, this.random)
    found = verify(this, this.out)
    if found:
        follow(found)
    elif "zarr.json" not in what:
        this.about["false"] = "verify finds nothing"
    else:
        shutil.rmtree(this.out)
        this.out.mkdir()
    this.again()


def swapped(this: Try) -> None:
    """The manifest of one run beside the store of another: of an input, or of the stage's own artifact."""
    this.lay()
    roles = [role for role, source in STAGES[this.name].inputs.items() if differ(this, source)]
    if roles and this.random.random() < 0.7:
        role, source, folder = borrowed(this, roles)
        shutil.copy(manifest(this.other[source].folder), manifest(folder))
        this.about["damage"] = f"{role}: manifest of another run"
        refused_or_right(this, {role: folder}, must=True)
        if not verify(this, folder):
            this.about["false"] = "verify finds nothing"
        shutil.copy(manifest(this.here[source].folder), manifest(folder))
        this.again({role: folder})
        return
    one, other = this.made.folder, this.other[this.name].folder
    if this.random.random() < 0.5:
        one, other = other, one
    shutil.rmtree(this.out)
    this.out.mkdir()
    shutil.copy(manifest(one), manifest(this.out))
    shutil.copytree(other / "x.zarr", this.out / "x.zarr")
    this.about["damage"] = "its own"
    if differ(this, this.name) and not verify(this, this.out):
        this.about["false"] = "verify finds nothing"
    this.again()


def clock(this: Try) -> None:
    """The clock of the wall jumps back by up to ten years: while the stage works, or before it goes on after a kill."""
    this.lay()
    back = this.about["back_s"] = this.random.randint(1, 10 * 365 * 86400)
    if this.random.random() < 0.5:
        run = this.start(Arm(this.out, at=this.operation(), back=back))
    else:
        this.start(Arm(this.out, at=this.operation(), signal=signal.SIGKILL)).wait()
        this.look()
        run = this.start(Arm(this.out, at=1, back=back))
    this.about["ended"] = run.wait()
    if run.status:
        this.about["lost"] = f"exit {run.status}: {run.said()[-300:]}"
    this.look()
    this.again()


def two(this: Try) -> None:
    """The same command twice, the second a random time after the first."""
    this.lay()
    after = this.moment()
    first = this.start()
    second_folder = this.folder / "second"
    second_folder.mkdir()
    end = time.monotonic() + after
    while time.monotonic() < end and not first.ended():
        time.sleep(0.001)
    second = Run(this.here.words(this.name, this.out), second_folder, Arm(this.out))
    this.about["ended"] = [first.status if first.status is not None else first.wait(), second.wait()]
    failed = [run for run in (first, second) if run.status]
    this.about["plain"] = all(plain(run.said()) for run in failed)
    if len(failed) == 2:
        this.about["lost"] = f"neither ended well: {failed[0].said()[-200:]}"
    this.look()
    this.again()


# What the faults are made of.


def room(folder: Path) -> int:
    """Bytes that the files below take on a file system of pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def plain(said: str) -> bool:
    """Whether a failure was told in a message, with what to do, instead of a traceback."""
    return "error: " in said and "Traceback" not in said and bool(REMEDY.search(said))


def group(leader: int) -> list[int]:
    """The processes of a group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == leader:
                    found.append(int(entry.name))
    return sorted(found)


def borrowed(this: Try, roles: list[str] | None = None) -> tuple[str, str, Path]:
    """A copy of one input: role, the stage that made it, folder."""
    role = this.random.choice(sorted(roles or STAGES[this.name].inputs))
    source = STAGES[this.name].inputs[role]
    folder = this.folder / "input"
    shutil.copytree(this.here[source].folder, folder)
    return role, source, folder


def damage(folder: Path, random: Random) -> str:
    """Flip a bit, or cut the end off, of one file of a store: mostly of a chunk."""
    files = sorted(path for path in (folder / "x.zarr").rglob("*") if path.is_file() and path.stat().st_size)
    chunks = [path for path in files if path.name != "zarr.json"]
    file = random.choice(chunks if chunks and random.random() < 0.85 else files)
    raw = bytearray(file.read_bytes())
    if random.random() < 0.5:
        at = random.randrange(len(raw))
        raw[at] ^= 1 << random.randrange(8)
        what = f"bit of byte {at} of {len(raw)} flipped"
    else:
        del raw[random.randrange(len(raw)) :]
        what = f"cut to {len(raw)} bytes"
    file.write_bytes(raw)
    return f"{file.relative_to(folder)}, {what}"


def differ(this: Try, source: str) -> bool:
    return manifest(this.here[source].folder).read_bytes() != manifest(this.other[source].folder).read_bytes()


def refused_or_right(this: Try, inputs: dict[str, Path], must: bool = False) -> None:
    """A stage with such an input says so, with a remedy, and claims nothing; or, if it may, gives what it should."""
    run = this.start(inputs=inputs)
    this.about["ended"] = run.wait()
    if run.status:
        this.about["plain"] = plain(run.said())
        this.look()
    elif must or not is_whole(this.out, this.made.files):
        this.about["false"] = "made from an input that is damaged"


def verify(this: Try, folder: Path) -> str:
    """What `verify` says of this folder, if it finds anything."""
    run = Run(["pipeline.artifacts", "verify", str(folder)], this.folder, Arm(this.out))
    return run.said() if run.wait() else ""


def follow(said: str) -> None:
    """Remove what `verify` says is to be removed."""
    line = next((line for line in said.splitlines() if line.startswith("  rm -r ")), "")
    for path in map(Path, shlex.split(line)[2:]):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


REMOUNT, READ_ONLY, PRIVATE, DETACH = 32, 1, 0x4000 | 0x40000, 2
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(folder: Path, options: str, flags: int = 0) -> None:
    if LIBC.mount(b"none", os.fsencode(folder), b"tmpfs", flags, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(folder))


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A file system of its own in this folder; seen by this process and its children alone."""
    folder.mkdir()
    mount(folder, "size=1g")
    try:
        yield
    finally:
        LIBC.umount2(os.fsencode(folder), DETACH)


def own_mounts() -> None:
    """What is mounted from here on is nobody else's. Raises SystemExit where that is not allowed."""
    if LIBC.unshare(0x20000) or LIBC.mount(b"none", b"/", None, PRIVATE, None):
        raise SystemExit("file systems cannot be mounted here (root is needed): leave out the faults that need it")


FAULTS: dict[str, Callable[[Try], None]] = {
    "SIGKILL": signalled(signal.SIGKILL),
    "SIGTERM": signalled(signal.SIGTERM),
    "SIGINT": signalled(signal.SIGINT),
    "power-loss": power,
    "disk-full": full,
    "read-only": read_only,
    "out-of-memory": out_of_memory,
    "damaged-input": damaged_input,
    "damaged-artifact": damaged_artifact,
    "swapped": swapped,
    "clock": clock,
    "two-at-once": two,
}
MOUNTS = {"disk-full", "read-only"}


# ------------------------------------------------------------------------------------------------------ campaign


def attempt(fault: str, name: str, number: int, seed: int, worlds: tuple[World, World], base: Path) -> Row:
    random = Random(f"{seed} {fault} {name} {number}")
    folder = Path(tempfile.mkdtemp(prefix="try", dir=base))
    this = Try(name, random, folder, *worlds, old=number % 2 == 1)
    before = {source: stamps(worlds[0][source].folder) for source in STAGES[name].inputs.values()}
    began = time.monotonic()
    try:
        FAULTS[fault](this)
    except Hangs as error:
        this.about["lost"] = str(error)
    if before != {source: stamps(worlds[0][source].folder) for source in before}:
        this.about["lost"] = "an input was changed"
    seconds = round(time.monotonic() - began, 2)
    shutil.rmtree(folder, ignore_errors=True)
    return {"fault": fault, "stage": name, "try": number, "seed": seed, "old": this.old, **this.about, "s": seconds}


def stamps(folder: Path) -> list[tuple[str, int, int]]:
    return [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))]


def run(args: argparse.Namespace) -> None:
    if MOUNTS & set(args.faults):
        own_mounts()
    preload()
    rows: list[Row] = json.loads(args.json.read_text()) if args.json.is_file() else []
    done = {(row["fault"], row["stage"], row["try"]) for row in rows}
    made_by = {"commit": commit(), "machine": machine(), "command": shlex.join(["python", "-m", *COMMAND])}
    end = time.monotonic() + 60 * args.minutes
    base = Path(tempfile.mkdtemp(prefix="faults", dir=args.work)).resolve()  # no finalizer: stages would run it, too
    try:
        worlds = World(base / "here", DATA), World(base / "other", OTHER)
        for number in range(args.tries):
            for fault in args.faults:
                for name in args.stages:
                    if (fault, name, number) in done or (fault == "damaged-input" and not STAGES[name].inputs):
                        continue
                    if time.monotonic() > end:
                        print("out of time; the same command goes on")
                        return
                    rows.append(attempt(fault, name, number, args.seed, worlds, base) | made_by)
                    save(rows, args.json)
                    print(one_line(rows[-1]), flush=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def preload() -> None:
    """Import what stages import, use none of it, and make blocks and pauses small."""
    os.environ["CHECKPOINT_SECONDS"] = "0"
    for library in ("scipy.ndimage", "scipy.sparse.csgraph", "scipy.sparse.linalg", "scipy.spatial.distance"):
        importlib.import_module(library)
    for library in ("skimage.color", "skimage.morphology", "skimage.segmentation", "torchvision", "zarr"):
        importlib.import_module(library)
    import pipeline

    for about in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
        if about.name.count(".") > 1 and not about.name.endswith("__main__") and ".report." not in about.name:
            with suppress(ModuleNotFoundError):  # numba
                importlib.import_module(about.name)
    from pipeline.core import rows, store

    rows.SHARD = store.SHARD = BLOCK
    rows.FLAT_BYTES = 20_000
    gc.collect()
    gc.freeze()


def save(rows: list[Row], file: Path) -> None:
    temporary = file.with_suffix(".new")
    temporary.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    temporary.replace(file)


def one_line(row: Row) -> str:
    result = "identical" if row.get("identical") else "refused" if "refused" in row else "NOT IDENTICAL"
    notes = [f"{key}: {row[key]}" for key in ("lost", "false", "differs", "refused") if key in row]
    return "  ".join([row["fault"], row["stage"], str(row["try"]), result, f"{row['s']} s", *notes])


def commit() -> str:
    said = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return said.stdout.strip()


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, Linux {platform.release()}, Python {platform.python_version()}"


COMMAND: list[str] = []
SHIM: Any = None


def load_library(words: list[str]) -> None:
    """Begin this process anew with faults.c in front of libc, if it is not there yet."""
    global SHIM
    if "FAULTS_LIBRARY" not in os.environ:
        with tempfile.TemporaryDirectory(prefix="faults") as folder:
            library = Path(folder, "faults.so")
            source = ROOT / "benchmarks" / "faults.c"
            subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
            environment = {"LD_PRELOAD": str(library), "FAULTS_LIBRARY": str(library), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "benchmarks.faults", *words]
            raise SystemExit(subprocess.run(command, env={**os.environ, **environment}).returncode)
    SHIM = ctypes.CDLL(os.environ["FAULTS_LIBRARY"])
    SHIM.faults_count.restype = ctypes.c_long
    SHIM.faults_arm.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_long]
    SHIM.faults_arm.restype = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--faults", nargs="*", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--stages", nargs="*", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--tries", type=int, default=10, help="of each fault in each stage")
    parser.add_argument("--minutes", type=float, default=600, help="begin no try after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=None, help="folder for what is made (that for temporary files)")
    parser.add_argument("--json", type=Path, default=RESULTS / "faults.json")
    args = parser.parse_args()
    COMMAND[:] = ["benchmarks.faults", *sys.argv[1:]]
    load_library(sys.argv[1:])
    run(args)


if __name__ == "__main__":
    main()
