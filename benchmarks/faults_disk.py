"""What a disk may hold after a loss of power, rebuilt from a recording of all changes (benchmarks/faults.c).

The model, which is as unkind as ext4, XFS and btrfs can be, and unkinder than each:
- What was written to a file and not synced is there, is not there, is there in part, or is zeros of the right length.
- Names that were made, changed or removed in a folder and not synced with it: the first few of them count, the others
  do not, in each folder by itself. A rename is one change; from one folder to another it leaves both names at worst.
- What was synced before the cut is there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

HEAD = struct.Struct("=cqqII")


class Change(NamedTuple):
    """One operation, as faults.c writes it."""

    what: str
    inode: int
    offset: int
    path: str
    rest: bytes


@dataclass(eq=False)
class File:
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, bytes), or (length, None)

    def change(self, offset: int, data: bytes | None) -> None:
        apply(self.data, offset, data)
        self.pending.append((offset, data))

    def sync(self) -> None:
        self.synced, self.pending = bytes(self.data), []


@dataclass(eq=False)
class Folder:
    entries: dict[str, Any] = field(default_factory=dict)
    synced: dict[str, Any] = field(default_factory=dict)
    pending: list[tuple[dict[str, Any], object]] = field(default_factory=list)  # (name → node or None, partner)

    def change(self, names: dict[str, Any], partner: object = None) -> None:
        put(self.entries, names)
        self.pending.append((names, partner))

    def sync(self) -> None:
        self.synced, self.pending = dict(self.entries), []


def apply(data: bytearray, offset: int, new: bytes | None) -> None:
    """Write at an offset, or with None cut or stretch to it."""
    if new is None:
        del data[offset:]
        data.extend(bytes(offset - len(data)))
    else:
        data.extend(bytes(max(0, offset - len(data))))
        data[offset : offset + len(new)] = new


def put(entries: dict[str, Any], names: dict[str, Any]) -> None:
    for name, node in names.items():
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


def recorded(log: Path) -> list[Change]:
    raw, at, found = log.read_bytes(), 0, []
    while at < len(raw):
        what, inode, offset, path, rest = HEAD.unpack_from(raw, at)
        at += HEAD.size
        words = raw[at : at + path].decode(errors="surrogateescape")
        found.append(Change(what.decode(), inode, offset, words, raw[at + path : at + path + rest]))
        at += path + rest
    return found


class Disk:
    """A folder as it was when the recording began, and then change by change."""

    def __init__(self, root: Path):
        """root: what lies there now is on the disk."""
        self.root, self.files = str(root), dict[int, File]()
        self.top = self._scan(root)

    def _scan(self, path: Path) -> Folder:
        folder = Folder()
        for entry in path.iterdir():
            if entry.is_dir():
                folder.entries[entry.name] = self._scan(entry)
            else:
                file = File(bytearray(entry.read_bytes()))
                file.sync()
                folder.entries[entry.name] = self.files[entry.stat().st_ino] = file
        folder.sync()
        return folder

    def _place(self, path: str) -> tuple[Folder, str]:
        *above, name = path.removeprefix(self.root).strip("/").split("/")
        folder = self.top
        for part in above:
            folder = folder.entries[part]
        return folder, name

    def play(self, change: Change) -> None:
        match change.what:
            case "C" | "T":
                folder, name = self._place(change.path)
                if name not in folder.entries:
                    folder.change({name: File()})
                file = self.files[change.inode] = folder.entries[name]
                if change.what == "T" and file.data:
                    file.change(0, None)
            case "W":
                self.files[change.inode].change(change.offset, change.rest)
            case "L":
                self.files[change.inode].change(change.offset, None)
            case "S":
                if change.path.rstrip("/") == self.root:
                    return self.top.sync()
                folder, name = self._place(change.path)
                node = folder.entries.get(name)
                (node if isinstance(node, Folder) else self.files[change.inode]).sync()
            case "M":
                folder, name = self._place(change.path)
                folder.change({name: Folder()})
            case "U":
                folder, name = self._place(change.path)
                folder.change({name: None})
            case "R":
                (source, name), (target, new) = self._place(change.path), self._place(change.rest.decode())
                node = source.entries[name]
                if source is target:
                    source.change({name: None, new: node})
                else:
                    made: dict[str, Any] = {new: node}
                    target.change(made)
                    source.change({name: None}, partner=made)

    def now(self) -> dict[str, bytes]:
        """Every file, by its path: what a process sees."""
        return dict(self._walk(self.top, ""))

    def _walk(self, folder: Folder, above: str) -> Iterator[tuple[str, bytes]]:
        for name, node in folder.entries.items():
            if isinstance(node, Folder):
                yield from self._walk(node, f"{above}{name}/")
            else:
                yield above + name, bytes(node.data)

    def after_power_loss(self, target: Path, random: Random) -> None:
        """Lay what may be there, drawn anew, into this folder."""
        kind = random.choice(("worst", "first few", "first few", "first few"))
        kept: dict[Folder, int] = {}
        alive: set[int] = set()
        folders = [self.top, *self._folders(self.top)]
        for folder in folders:
            kept[folder] = 0 if kind == "worst" else random.randint(0, len(folder.pending))
            alive |= {id(names) for names, _ in folder.pending[: kept[folder]]}
        self._lay(self.top, target, kept, alive, kind, random)

    def _folders(self, folder: Folder) -> Iterator[Folder]:
        nodes = [*folder.entries.values(), *folder.synced.values()]
        nodes += [node for names, _ in folder.pending for node in names.values()]
        for node in {id(node): node for node in nodes if isinstance(node, Folder)}.values():
            yield node
            yield from self._folders(node)

    def _lay(
        self, folder: Folder, path: Path, kept: dict[Folder, int], alive: set[int], kind: str, random: Random
    ) -> None:
        path.mkdir(parents=True, exist_ok=True)
        entries = dict(folder.synced)
        for names, partner in folder.pending[: kept[folder]]:
            if partner is None or id(partner) in alive:
                put(entries, names)
        for name, node in entries.items():
            if isinstance(node, Folder):
                self._lay(node, path / name, kept, alive, kind, random)
            else:
                (path / name).write_bytes(left(node, kind, random))


def left(file: File, kind: str, random: Random) -> bytes:
    """What a file may hold: all that was synced, and of the rest whatever comes."""
    if not file.pending:
        return file.synced
    data = bytearray(file.synced)
    choice = 0 if kind == "worst" else random.randint(0, 3)
    if choice == 1:
        return bytes(file.data)
    if choice == 2:
        for offset, new in file.pending[: random.randint(0, len(file.pending))]:
            apply(data, offset, new)
    if choice == 3:  # the length is there, the blocks are not
        for offset, new in file.pending:
            apply(data, offset, None if new is None else bytes(len(new)))
    return bytes(data)
