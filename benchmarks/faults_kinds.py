"""What goes wrong, and how it is judged: each fault is a function of a `Try`.

A try is lost if the work that was there is computed anew or the command cannot go on; false if something passes for
complete that is not; identical if after the same command every file is that of an undisturbed run; refused if the
command says plainly what to do instead.
"""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.faults_disk import Disk, recorded
from benchmarks.faults_runs import (
    STAGES,
    TRAINS,
    Arm,
    Begun,
    Made,
    Run,
    World,
    claims,
    is_whole,
    listing,
    lost,
    manifest,
)

Row = dict[str, Any]


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


def differing(found: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


# -------------------------------------------------------------------------------------------------------- faults


def begun(this: Try) -> Run:
    """The stage, a random time after its start, or ended before."""
    after = this.moment()
    run = this.start()
    end = time.monotonic() + after
    while time.monotonic() < end and not run.ended():
        time.sleep(0.001)
    return run


def signalled(number: signal.Signals) -> Callable[[Try], None]:
    """At a random operation on files, or after a random time."""

    def fault(this: Try) -> None:
        this.lay()
        if this.random.random() < 0.6:
            run = this.start(Arm(this.out, at=this.operation(), signal=number))
        else:
            run = begun(this)
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
    changes, seen = recorded(log), contents(this.out)
    shutil.rmtree(this.out)
    cut = this.random.randint(0, len(changes))
    for change in changes[:cut]:
        disk.play(change)
    disk.after_power_loss(this.out, this.random)
    for change in changes[cut:]:
        disk.play(change)
    if disk.now() != seen:
        raise RuntimeError(f"{this.name}: the recording misses changes: {differing(disk.now(), seen)}")
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
                read_only_over(this.out)
                done = True
        this.about["ended"] = run.status if run.status is not None else run.wait()
        this.about["plain"] = run.status == 0 or plain(run.said())
        this.look()
        if done:
            LIBC.umount2(os.fsencode(this.out), DETACH)
        this.again()


def out_of_memory(this: Try) -> None:
    """Memory is refused from some size on (RLIMIT_AS); or, as the kernel does it, one of the stage's processes gets
    SIGKILL, whichever is hit."""
    this.lay()
    if this.random.random() < 0.5:
        this.about["share"] = round(this.random.uniform(0.02, 1), 3)
        run = this.start(address_space=max(1, int(this.about["share"] * this.made.memory)))
    else:
        run = begun(this)
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


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


BIND, REMOUNT, READ_ONLY, PRIVATE, DETACH = 4096, 32, 1, 0x4000 | 0x40000, 2
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(folder: Path, options: str, flags: int = 0) -> None:
    if LIBC.mount(b"none", os.fsencode(folder), b"tmpfs", flags, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(folder))


def read_only_over(folder: Path) -> None:
    """The same folder laid over itself, read-only: what is opened from now on cannot be written. (A file system that
    has a file open for writing, the lock of a stage at work, cannot be made read-only as a whole.)"""
    here = os.fsencode(folder)
    for flags in (BIND, BIND | REMOUNT | READ_ONLY):
        if LIBC.mount(here, here, None, flags, None):
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
