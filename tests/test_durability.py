"""Rows on disk that survive kills and losses of power: tried at every single point where something reaches the disk."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import content

from pipeline.core import cli, durable, integrity, rows, store

COUNT = 150  # three shards, the last one not full
SHAPES: dict = {"map": ((4, 4), np.uint8), "boxes": ((None, 4), np.int32), "scores": ((None,), np.float16)}
DERIVED: dict = {"sum": ((), np.int64)}
HEADER = store.Header("hypotheses", "test", {"a": 1}, "code", parents={"photographs": "1"})
KEYS: list[bytes | None] = [None if i % 50 == 7 else b"%016d" % (i + 1) for i in range(COUNT)]


def row_of(i: int) -> store.Row:
    """Row i; some have no boxes; their sizes make both flat arrays end inside a chunk."""
    count = (i * 7) % 5 if i % 11 else 0
    boxes = np.arange(count * 4, dtype=np.int32).reshape(count, 4) + 1000 * (i + 1)
    return {"map": np.full((4, 4), i % 251 + 1, np.uint8), "boxes": boxes, "scores": np.full(2 * count, i / 8)}


def derive(i: int, row: store.Row) -> store.Row:
    return {"sum": row["boxes"].sum()}


def write(path: Path, wrong: bool = False) -> list[int]:
    """Write the artifact as its stage would; returns the rows computed. wrong: with other values, to be noticed."""
    asked: list[int] = []

    def compute(indices: list[int]) -> Iterator[store.Row]:
        for i in indices:
            asked.append(i)
            yield {name: value + wrong for name, value in row_of(i).items()}

    if not store.finished(path, HEADER):
        fill = {"map": 255}
        store.write_rows(path, HEADER, SHAPES, KEYS, compute, {"x": 1}, derive=derive, derived=DERIVED, fill=fill)
    return asked


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(autouse=True)
def small_and_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat arrays of several chunks; and no waiting for the disk, only the order of what reaches it is looked at."""
    monkeypatch.setattr(rows, "FLAT_BYTES", 2000)
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def straight(tmp_path: Path) -> Path:
    path = tmp_path / "straight" / "x.json"
    assert len(write(path)) == COUNT - 3
    return path


def assert_same(path: Path, straight: Path) -> None:
    assert content(path) == content(straight)
    assert integrity.verify(path) == []
    assert not store.part_of(path).exists()
    left = [name for name in names(path.parent) if Path(name).name.startswith(".")]
    assert left == [], "something hidden was left behind"


class Hook:
    """Stands in for os.fsync, by which alone files reach the disk; calls `before(number, path)`."""

    def __init__(self, before: Callable[[int, Path], None]):
        self.number, self.before, self.lock = 0, before, threading.Lock()

    def __call__(self, handle: int) -> None:
        with self.lock:
            self.before(self.number, Path(os.readlink(f"/proc/self/fd/{handle}")))
            self.number += 1


def syncs(monkeypatch: pytest.MonkeyPatch, path: Path, before: Callable[[int, Path], None]) -> int:
    """Write the artifact under a hook; returns how often something was synced."""
    hook = Hook(before)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", hook)
        write(path)
    return hook.number


# ------------------------------------------------------------------------------------------------------- kills


def killed(path: Path, at: int | None = None, step: str = "") -> int:
    """Write in a process that gets SIGKILL at the at-th sync, or before a named step; its exit code."""

    def work() -> None:
        def die(number: int, _: Path) -> None:
            if number == at:
                os.kill(os.getpid(), signal.SIGKILL)

        os.fsync = Hook(die)
        if step:
            module, _, function = step.partition(".")
            setattr(
                {"store": store, "durable": durable, "shutil": shutil}[module],
                function,
                lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL),
            )
        write(path)
        os._exit(0)  # not pytest's own exit

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode or 0


def test_sigkill_at_any_sync_then_the_same_command_gives_the_same_bytes(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = syncs(monkeypatch, tmp_path / "count" / "x.json", lambda *_: None)
    assert count > 60
    for at in range(0, count, 5):
        path = tmp_path / str(at) / "x.json"
        assert killed(path, at) == -signal.SIGKILL
        write(path)
        assert_same(path, straight)
        shutil.rmtree(path.parent)
    assert killed(tmp_path / "last" / "x.json", count) == 0


@pytest.mark.parametrize("step", ["store.log", "store._commit", "store._put_table", "store._tidy", "shutil.rmtree"])
def test_sigkill_between_shard_journal_manifest_and_tidying(step: str, straight: Path, tmp_path: Path) -> None:
    path = tmp_path / "x" / "x.json"
    assert killed(path, step=step) == -signal.SIGKILL
    asked = write(path)
    assert_same(path, straight)
    if step != "store.log" and step != "shutil.rmtree":
        assert asked == [], "finished shards were computed again"


def test_a_kill_after_the_manifest_leaves_nothing_once_the_command_ran_again(straight: Path, tmp_path: Path) -> None:
    path = tmp_path / "x" / "x.json"
    assert killed(path, step="store._tidy") == -signal.SIGKILL
    assert path.exists() and store.part_of(path).exists()
    assert store.finished(path, HEADER)
    assert_same(path, straight)


def test_two_kills_and_the_line_that_the_first_cut_short(straight: Path, tmp_path: Path) -> None:
    path = tmp_path / "x" / "x.json"
    assert killed(path, step="store._commit") == -signal.SIGKILL
    journal = store.part_of(path) / "shards.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:1]) + lines[1][:40])
    assert killed(path, step="store._commit") == -signal.SIGKILL
    assert [len(line) for line in journal.read_text().splitlines(keepends=True)] == [len(line) for line in lines]
    assert write(path) == []
    assert_same(path, straight)


# ---------------------------------------------------------------------------------------------- loss of power


class Disk:
    """What a loss of power would leave at worst: contents and names as of their last sync, all later ones gone.

    A folder's names are those it had at its own sync.
    """

    def __init__(self, root: Path):
        self.root = root
        self.data: dict[int, bytes] = {}  # inode → content
        self.folders: dict[int, dict[str, int]] = {}  # inode → name → inode
        self.kinds: dict[int, bool] = {root.stat().st_ino: True}

    def sync(self, path: Path) -> None:
        inode = path.stat().st_ino
        if path.is_dir():
            self.folders[inode] = {entry.name: entry.inode() for entry in os.scandir(path)}
            self.kinds |= {entry.inode(): entry.is_dir() for entry in os.scandir(path)}
        else:
            self.data[inode] = path.read_bytes()

    def tree(self, inode: int | None = None) -> dict:
        """What is on the disk: name → content. A file that has a name and was never synced is empty."""
        entries = self.folders.get(inode or self.root.stat().st_ino, {}).items()
        return {name: self.tree(child) if self.kinds[child] else self.data.get(child, b"") for name, child in entries}

    def holds(self, path: Path) -> bool:
        """Whether a file's present content and all names that lead to it are on the disk."""
        inode = self.root.stat().st_ino
        for part in path.relative_to(self.root).parts:
            inode = self.folders.get(inode, {}).get(part, -1)
        return self.data.get(inode) == path.read_bytes()


def lay(folder: Path, tree: dict) -> None:
    folder.mkdir(parents=True)
    for name, entry in tree.items():
        if isinstance(entry, dict):
            lay(folder / name, entry)
        else:
            (folder / name).write_bytes(entry)


def test_nothing_is_vouched_for_before_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "run"
    root.mkdir()
    disk, path = Disk(root), root / "deep" / "er" / "x.json"
    zarr_store, journal = store.store_of(path), store.part_of(path) / "shards.jsonl"
    seen = {"shards": 0, "manifest": False}

    def unsynced() -> list[str]:
        files = [file for file in zarr_store.rglob("*") if file.is_file() and not file.name.startswith(".")]
        return [str(file.relative_to(zarr_store)) for file in files if not disk.holds(file)]

    def check(_: int, about: Path) -> None:
        named = len(journal.read_text().splitlines()) if journal.is_file() else 0
        if named > seen["shards"]:  # a line was written, and is about to be synced
            seen["shards"] = named
            assert unsynced() == []
            assert (zarr_store / "map" / "c" / str(named - 1) / "0" / "0").is_file()
        if about.name.startswith(".zarr.json.") and '"manifest"' in about.read_text():
            assert unsynced() == []
            assert {"digest", "key", "boxes_offsets"} <= {entry.name for entry in zarr_store.iterdir()}
        if path.exists() and not seen["manifest"]:
            seen["manifest"] = True
            assert unsynced() == []
        disk.sync(about)

    syncs(monkeypatch, path, check)
    assert seen == {"shards": 3, "manifest": True}
    assert disk.holds(path)


def test_power_lost_at_every_sync_then_the_same_command_gives_the_same_bytes(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    root.mkdir()
    disk, states, asked = Disk(root), [], []

    def lose(_: int, about: Path) -> None:
        disk.sync(about)
        if not states or disk.tree() != states[-1]:
            states.append(disk.tree())

    syncs(monkeypatch, root / "x.json", lose)
    assert len(states) > 30
    for number, state in enumerate(states):
        path = tmp_path / str(number) / "x.json"
        lay(path.parent, state)
        if path.exists():
            assert integrity.verify(path) == [], "a manifest without its data"
        asked.append(len(write(path)))
        assert_same(path, straight)
    assert asked == sorted(asked, reverse=True), "what was finished got lost"
    shards = [sum(key is not None for key in KEYS[start:]) for start in (0, 64, 128, 192)]
    assert sorted(set(asked), reverse=True) == shards, "a finished shard is not lost once its line is written"


DAMAGE = {
    "deleted": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    ("victim", "again"),
    [
        ("map/c/0/0/0", range(COUNT)),
        ("map/c/1/0/0", range(64, COUNT)),
        ("boxes/c/1/0", range(64, COUNT)),
        ("scores/c/0", range(COUNT)),
        ("sum/c/2", range(128, COUNT)),
    ],
)
def test_a_journalled_shard_is_believed_only_if_its_rows_are_there(
    damage: str, victim: str, again: range, straight: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x" / "x.json"
    assert killed(path, step="store._commit") == -signal.SIGKILL
    DAMAGE[damage](store.store_of(path) / victim)
    assert write(path) == [i for i in again if KEYS[i]]
    assert_same(path, straight)


def test_without_ragged_arrays_only_the_damaged_shard_is_computed_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def compute(indices: list[int]) -> Iterator[store.Row]:
        for i in indices:
            asked.append(i)
            yield {"map": row_of(i)["map"]}

    def made(path: Path, stop: bool) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if stop:
                patch.setattr(store, "_commit", lambda *_: 1 / 0)
            store.write_rows(path, HEADER, {"map": SHAPES["map"]}, KEYS, compute)

    one, other = tmp_path / "1" / "x.json", tmp_path / "2" / "x.json"
    made(one, stop=False)
    with pytest.raises(ZeroDivisionError):
        made(other, stop=True)
    (store.store_of(other) / "map/c/1/0/0").unlink()
    asked.clear()
    made(other, stop=False)
    assert asked == [i for i in range(64, 128) if KEYS[i]]
    assert_same(other, one)


def test_a_begun_store_of_another_layout_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert killed(path, step="store._commit") == -signal.SIGKILL
    fewer: list[bytes | None] = KEYS[:100]
    store.write_rows(path, HEADER, SHAPES, fewer, lambda indices: map(row_of, indices), derive=derive, derived=DERIVED)
    assert len(store.Artifact(path).read("digest")) == 100
    assert integrity.verify(path) == []


# ------------------------------------------------------------------------------------------------ single files


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "b.txt"
    durable.write_atomic(path, "größe")
    assert path.read_text() == "größe"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            durable.write_atomic(path, b"other")
    assert path.read_text() == "größe"
    assert names(tmp_path) == ["a", "a/b.txt"]


def test_a_file_system_that_cannot_sync_folders_is_borne(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    write(tmp_path / "x.json")
    assert integrity.verify(tmp_path / "x.json") == []


def test_a_broken_disk_is_not_borne(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        durable.write_atomic(tmp_path / "x", "x")


def test_a_full_disk_is_told_by_the_name_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it made something else fail. The system names no file where a write or a sync fails."""

    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def work() -> None:
        try:
            durable.write_atomic(tmp_path / "x", "x")
        except OSError as error:
            raise RuntimeError("writing failed") from error

    monkeypatch.setattr(os, "fsync", fail)
    told: list[str] = []
    monkeypatch.setattr(cli, "_complain", lambda *words: told.extend(words))
    with pytest.raises(SystemExit):
        cli.guarded(work)
    said = f"error: {tmp_path / 'x'}: No space left on device; free space on that disk, then run again: "
    assert told == [f"{said}what is finished is kept"]


def test_a_new_run_takes_the_manifest_away_before_the_store(tmp_path: Path, straight: Path) -> None:
    """A manifest beside a store that is being written would pass for complete."""

    def fail(indices: list[int]) -> Iterator[store.Row]:
        assert not straight.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write_rows(straight, store.Header("x", "x", {}, "c"), SHAPES, [b"x" * 16], fail)
    assert not straight.exists()
