"""The layout of rows in a Zarr group: blocks of `SHARD` rows, their digests, and the journal that vouches for them.

A *fixed* array holds [N, ...], a chunk a row, a shard (one file) a block. A *ragged* one, declared with the shape
(None, ...), holds the rows [n_i, ...] end to end in a flat array of whole chunks of about 1 MiB; row i lies between
entries i and i + 1 of `<name>_offsets`, int64 [N+1], which is written when all rows are there.

The journal has one line a finished block: {"shard", "digests": of its rows, "lengths": name → n_i}. It is appended
after the block is on the disk. A flat array grows by whole chunks and may be longer than the journal says: what lies
behind counts for nothing and is overwritten.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from pipeline.core.durable import append, write_atomic

SHARD = 64  # rows per file
DIGEST = 16  # bytes
CODEC = ZstdCodec(level=1, checksum=True)
FLAT_BYTES = 2**20  # of a chunk of a ragged array
PART_BYTES = 2**25  # of a ragged array that is written at once

Row = dict[str, np.ndarray]
Shape = tuple[int | None, ...]
Shapes = Mapping[str, tuple[Shape, Any]]  # name → (shape of one row, dtype); first entry None: ragged
Block = dict[str, Any]  # rows on their way: an array [n, ...], ragged a list of n arrays


def is_ragged(shape: Shape) -> bool:
    return bool(shape) and shape[0] is None


def offsets_of(name: str) -> str:
    return f"{name}_offsets"


def shapes_of(described: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[Shape, Any]]:
    """The shapes of the rows that a manifest's `arrays` describe; tables, which have a digest, left out."""
    return {
        name: ((None,) * ("offsets" in about) + tuple(about["shape"][1:]), about["dtype"])
        for name, about in described.items()
        if "digest" not in about
    }


def row_digest(row: Row, shapes: Shapes) -> bytes:
    """What a row holds. row: all its arrays as stored."""
    digest = hashlib.blake2b(digest_size=DIGEST)
    for name in sorted(row):
        value = np.ascontiguousarray(row[name])
        digest.update(name.encode())
        if is_ragged(shapes[name][0]):
            digest.update(len(value).to_bytes(8, "little"))
        if value.size:
            digest.update(value.data)
    return digest.digest()


class Rows:
    """The row arrays of an open group. offsets: where the known rows of each ragged array begin, and the last ends."""

    def __init__(self, group: zarr.Group, shapes: Shapes, fill: Mapping[str, Any], offsets: Mapping[str, Any]):
        self.group, self.shapes, self.fill = group, shapes, fill
        self.arrays: dict[str, Any] = {name: group[name] for name in shapes}
        self.offsets = dict(offsets)

    # ------------------------------------------------------------------------------------------- opening

    @classmethod
    def create(cls, group: zarr.Group, shapes: Shapes, fill: Mapping[str, Any], count: int) -> Rows:
        for name, (shape, dtype) in shapes.items():
            if is_ragged(shape):
                item = np.dtype(dtype).itemsize * math.prod(side or 1 for side in shape[1:])
                layout: dict[str, Any] = {"shape": (0, *shape[1:])}
                layout["chunks"] = (max(1, FLAT_BYTES // max(1, item)), *shape[1:])
            else:
                layout = {"shape": (count, *shape), "chunks": (1, *shape), "shards": (SHARD, *shape)}
                layout |= {"fill_value": fill[name]} if name in fill else {}
            group.create_array(name, dtype=dtype, compressors=CODEC, config={"write_empty_chunks": True}, **layout)
        return cls.begun(group, shapes, fill)

    @classmethod
    def begun(cls, group: zarr.Group, shapes: Shapes, fill: Mapping[str, Any]) -> Rows:
        """An unfinished group; what its ragged arrays hold is for the journal to say."""
        return cls(group, shapes, fill, {name: [0] for name, (shape, _) in shapes.items() if is_ragged(shape)})

    @classmethod
    def complete(cls, group: zarr.Group, shapes: Shapes) -> Rows:
        ragged = [name for name, (shape, _) in shapes.items() if is_ragged(shape)]
        return cls(group, shapes, {}, {name: whole(group, offsets_of(name)) for name in ragged})

    def fits(self, count: int) -> bool:
        """Whether the group was laid out for these shapes and this number of rows."""
        for name, (shape, dtype) in self.shapes.items():
            array, ragged = self.arrays[name], is_ragged(shape)
            expected = shape[1:] if ragged else (count, *shape)
            if array.dtype != np.dtype(dtype) or array.shape[ragged:] != expected:
                return False
        return True

    # ------------------------------------------------------------------------------------------- blocks

    def empty(self, count: int) -> Block:
        """A block of rows that nothing is known of."""
        return {
            name: [np.zeros((0, *shape[1:]), dtype) for _ in range(count)]
            if is_ragged(shape)
            else np.full((count, *shape), self.fill.get(name, 0), dtype)
            for name, (shape, dtype) in self.shapes.items()
        }

    def put(self, block: Block, j: int, row: Mapping[str, Any]) -> None:
        """Set row j of a block, cast to the stored types."""
        for name, value in row.items():
            shape, dtype = self.shapes[name]
            if is_ragged(shape):
                value = np.asarray(value)
                if value.shape[1:] != shape[1:] or not value.ndim:
                    raise ValueError(f"{name}: a row of shape {value.shape}, {shape} expected")
                value = value.astype(dtype)
            block[name][j] = value

    def fill_block(
        self,
        block: Block,
        start: int,
        keys: Sequence[bytes | None],
        old: Previous | None,
        compute: Callable[[list[int]], Iterable[Row]],
    ) -> int:
        """Take over or compute the stored arrays of the rows with a key; returns how many were computed."""
        missing = []
        for i, key in enumerate(keys, start):
            if key is not None and old and (row := old.take(key)):
                self.put(block, i - start, row)
            elif key is not None:
                missing.append(i)
        if missing:
            for i, row in zip(missing, compute(missing), strict=True):
                self.put(block, i - start, row)
        return len(missing)

    def derive(
        self,
        block: Block,
        start: int,
        keys: Sequence[bytes | None],
        stored: Iterable[str],
        derive: Callable[[int, Row], Row],
    ) -> None:
        """Compute the derived arrays of the rows with a key from their stored arrays."""
        for i, key in enumerate(keys, start):
            if key is not None:
                row = {name: np.asarray(block[name][i - start]).view() for name in stored}
                for value in row.values():
                    value.flags.writeable = False  # a change would be stored, and made again when the row is reused
                self.put(block, i - start, derive(i, row))

    def digests(self, block: Block) -> bytes:
        count = len(next(iter(block.values())))
        return b"".join(
            row_digest({name: value[j] for name, value in block.items()}, self.shapes) for j in range(count)
        )

    def read(self, start: int, stop: int) -> Block:
        """The rows start..stop. A ragged one is a view into what was read."""
        block: Block = {}
        for name, array in self.arrays.items():
            if name in self.offsets:
                ends = np.asarray(self.offsets[name][start : stop + 1])
                flat = array[int(ends[0]) : int(ends[-1])]
                block[name] = [flat[a:b] for a, b in zip(ends[:-1] - ends[0], ends[1:] - ends[0], strict=True)]
            else:
                block[name] = array[start:stop]
        return block

    def write(self, start: int, block: Block) -> dict[str, list[int]]:
        """Write a block, ragged arrays behind the rows known so far; returns the lengths of the ragged rows."""
        lengths = {}
        for name, value in block.items():
            if name in self.offsets:
                lengths[name] = [len(row) for row in value]
                place, first = self.offsets[name][-1], 0
                for end in _parts(value):  # one after the other: rows may be large
                    flat = np.concatenate(value[first:end])
                    _write_flat(self.arrays[name], place, flat)
                    place, first = place + len(flat), end
            else:
                _file(self.arrays[name], start // SHARD).unlink(missing_ok=True)  # Zarr would read it, damaged or not
                self.arrays[name][start : start + len(value)] = value
        self.extend(lengths)
        return lengths

    def extend(self, lengths: Mapping[str, Sequence[int]]) -> None:
        for name, ends in self.offsets.items():
            ends.extend((ends[-1] + np.cumsum(lengths[name], dtype=np.int64)).tolist())

    def cut(self) -> None:
        """Overwrite or drop whatever ragged arrays hold behind the rows known so far."""
        for name, ends in self.offsets.items():
            array = self.arrays[name]
            _write_flat(array, ends[-1], np.zeros((0, *array.shape[1:]), array.dtype))

    def finish(self) -> dict[str, np.ndarray]:
        """Give ragged arrays their true lengths; returns the tables of offsets."""
        for name, ends in self.offsets.items():
            _resize(self.arrays[name], ends[-1])
        return {offsets_of(name): np.asarray(ends, np.int64) for name, ends in self.offsets.items()}

    def describe(self, count: int) -> dict[str, dict[str, Any]]:
        """The manifest's entries. What they hold is in the table `digest`, row by row."""
        described = {}
        for name, (shape, dtype) in self.shapes.items():
            described[name] = {"shape": [count, *shape], "dtype": str(np.dtype(dtype))}
            if name in self.offsets:
                described[name] |= {"shape": list(self.arrays[name].shape), "offsets": offsets_of(name)}
        return described


def whole(group: zarr.Group, name: str) -> np.ndarray:
    found: Any = group[name]
    return np.asarray(found[...])


def _file(array: Any, shard: int) -> Path:
    return Path(array.store.root, array.path, array.metadata.encode_chunk_key((shard,) + (0,) * (array.ndim - 1)))


def _parts(rows: Sequence[np.ndarray]) -> Iterator[int]:
    """Where to cut these rows into parts of few chunks: the ends of each."""
    size = 0
    for end, row in enumerate(rows, 1):
        size += row.nbytes
        if size >= PART_BYTES or end == len(rows):
            yield end
            size = 0


def _write_flat(array: Any, start: int, data: np.ndarray) -> None:
    """Write data at `start`, in whole chunks: equal rows give equal bytes, whatever an earlier try left behind."""
    size = array.chunks[0]
    first, end = start - start % size, -(-(start + len(data)) // size) * size
    _resize(array, end)
    if end > first:
        chunks = np.zeros((end - first, *array.shape[1:]), array.dtype)
        chunks[: start - first] = array[first:start]
        chunks[start - first :][: len(data)] = data
        array[first:end] = chunks


def _resize(array: Any, length: int) -> None:
    if length != array.shape[0]:
        array.resize((length, *array.shape[1:]))


# ------------------------------------------------------------------------------------------------------ journal


def log(journal: Path, shard: int, digests: bytes, lengths: Mapping[str, list[int]]) -> None:
    append(journal, json.dumps({"shard": shard, "digests": digests.hex(), "lengths": lengths}))


def believed(journal: Path, rows: Rows, count: int) -> dict[int, bytes]:
    """Shard → digests of its rows, for the shards whose rows, read again, are what the journal says.

    Zarr reads a missing file as zeros, so a line alone proves nothing. Ragged arrays are cut to what is believed: from
    the first shard that is not on, all are computed again. The journal is rewritten without the lines that failed.
    """
    done: dict[int, bytes] = {}
    kept = []
    for line, entry in _lines(journal):
        start = entry["shard"] * SHARD
        if rows.offsets and entry["shard"] != len(done):
            break
        before = {name: len(ends) for name, ends in rows.offsets.items()}
        rows.extend(entry["lengths"])
        digests = bytes.fromhex(entry["digests"])
        if _holds(rows, start, min(start + SHARD, count), digests):
            done[entry["shard"]] = digests
            kept.append(line + "\n")
        else:
            for name, length in before.items():
                del rows.offsets[name][length:]
    write_atomic(journal, "".join(kept))
    rows.cut()
    return done


def _holds(rows: Rows, start: int, stop: int, digests: bytes) -> bool:
    try:
        return rows.digests(rows.read(start, stop)) == digests
    except Exception:  # damaged bytes may fail anywhere in zarr and its codecs
        return False


def _lines(journal: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in journal.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # the line a kill cut short
            return
        yield line, entry


# ------------------------------------------------------------------------------------------------------ reuse


class Previous:
    """The finished store that is being replaced: its rows by key. Only arrays of the given shapes are asked of it.

    None of its rows is of use when these arrays are missing or of another shape.
    """

    def __init__(self, store: Path, described: Mapping[str, Any], shapes: Shapes):
        self.names = list(shapes)
        self.index: dict[bytes, int] = {}
        self.start = self.ahead = 0  # of the rows that `block` holds
        try:
            self.rows = Rows.complete(zarr.open_group(store, mode="r"), shapes_of(described))
            theirs = {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in self.rows.shapes.items()}
            if all(theirs.get(name) == (shape, np.dtype(dtype)) for name, (shape, dtype) in shapes.items()):
                self.digests = whole(self.rows.group, "digest")
                keys = whole(self.rows.group, "key")
                self.index = {bytes(key): i for i, key in enumerate(keys) if key.any()}
        except Exception:  # a damaged predecessor is worth nothing; it must not stop its successor
            self.index = {}

    def take(self, key: bytes) -> Row | None:
        """The row made from this key, or None where there is none or it is no longer what it was."""
        i = self.index.get(key)
        if i is None:
            return None
        try:
            row = self._read(i)
            if row_digest(row, self.rows.shapes) == bytes(self.digests[i]):
                return {name: row[name] for name in self.names}
        except Exception:  # damaged bytes may fail anywhere in zarr and its codecs
            pass
        return None

    def _read(self, i: int) -> Row:
        """Rows asked for one after the other are read a file at a time, others singly: a row costs zarr as much."""
        at = i - self.start
        if not 0 <= at < self.ahead:
            ahead = min(SHARD - i % SHARD, len(self.digests) - i) if at == self.ahead else 1
            self.block = self.rows.read(i, i + ahead)
            self.start, self.ahead, at = i, ahead, 0
        return {name: value[at] for name, value in self.block.items()}
