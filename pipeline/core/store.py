"""Artifacts on disk: a Zarr store `x.zarr` and, written last, its manifest `x.json`.

The manifest is what Snakemake sees. Its bytes depend only on content and provenance that matters (settings, seed,
code, parents), so an upstream rerun with the same result reruns nothing below. Time, host and versions go into the
store.

Two forms share one contract:
- *rows*: one row per image (`write_rows`). A row has a `key` (what it was made from) and a `digest` (what it holds).
  Finished shards survive a kill; rows whose key is unchanged are taken over from the previous store.
- *tables*: a few whole arrays (`write_table`): weights, patches, metrics.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

SHARD = 64  # images per file
DIGEST = 16  # bytes
CODEC = ZstdCodec(level=1, checksum=True)
COLUMN_BYTES = 2**22  # tables of numbers per image up to this size are read whole


class ArtifactError(RuntimeError):
    """An artifact that is missing, damaged, or not what was asked for. The message names the file and the remedy."""


@dataclass(frozen=True)
class Header:
    """What an artifact is and what it is made from. `parents` maps role → content digest."""

    kind: str
    stage: str
    settings: dict[str, Any]
    code: str
    seed: int | None = None
    precision: str | None = None
    parents: dict[str, str] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Equal fingerprints mean equal results."""
        return sha(canonical(self.__dict__))

    def base(self, *whole: str) -> str:
        """Fingerprint without the parents that count image by image, i.e. only with those in `whole`."""
        parents = {role: self.parents[role] for role in sorted(whole)}
        return sha(canonical({**self.__dict__, "parents": parents}))


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


# ------------------------------------------------------------------------------------------------------ reading


class Artifact:
    """A finished artifact, opened by its manifest. Stores are opened on first use, so it may cross a fork."""

    def __init__(self, path: str | Path, kind: str | None = None):
        self.path = Path(path)
        try:
            self.manifest: dict[str, Any] = json.loads(self.path.read_text())
        except FileNotFoundError:
            raise ArtifactError(f"{self.path}: no such artifact; run `snakemake --cores all {self.path}`") from None
        except ValueError:
            raise ArtifactError(f"{self.path}: not a manifest (JSON expected)") from None
        if kind and self.kind != kind:
            raise ArtifactError(f"{self.path}: this is {self.kind}, {kind} expected")
        if not store_of(self.path).is_dir():
            raise ArtifactError(f"{store_of(self.path)}: the manifest is there, the store is not; delete {self.path}")

    @property
    def kind(self) -> str:
        return self.manifest["kind"]

    @property
    def digest(self) -> str:
        """Digest of the content alone: what a child's fingerprint sees."""
        return self.manifest["digest"]

    @property
    def meta(self) -> dict[str, Any]:
        return self.manifest["meta"]

    @cached_property
    def group(self) -> zarr.Group:
        return zarr.open_group(store_of(self.path), mode="r")

    def __getitem__(self, name: str) -> Any:
        """The zarr array, or for a column of the table (sizes, tags) its values: zarr takes a millisecond per access.

        Any: zarr's element type is a union that no reader of known arrays can use.
        """
        array = self._arrays.get(name)
        if array is None:
            found: Any = self.group[name]
            array = self._arrays[name] = found[...] if found.ndim <= 2 and found.nbytes <= COLUMN_BYTES else found
        return array

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        return {}

    def read(self, name: str) -> np.ndarray:
        """A copy of a whole array. Only for arrays that do not grow with pixels."""
        return np.array(self[name][...])

    def __contains__(self, name: str) -> bool:
        return name in self.manifest["arrays"]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "manifest": self.manifest}


def store_of(manifest: Path) -> Path:
    return manifest.with_suffix(".zarr")


def part_of(manifest: Path) -> Path:
    """Scratch folder of an unfinished artifact: checkpoints, journal, the store it replaces."""
    return manifest.with_suffix(".part")


def encode_text(items: Sequence[str]) -> np.ndarray:
    """Strings → uint8 [N,L], UTF-8, zero padded (Zarr v3 has no settled string type)."""
    raw = [item.encode() for item in items]
    out = np.zeros((len(raw), max(map(len, raw), default=1) or 1), np.uint8)
    for row, text in zip(out, raw, strict=True):
        row[: len(text)] = np.frombuffer(text, np.uint8)
    return out


def decode_text(array: np.ndarray) -> list[str]:
    return [bytes(row).rstrip(b"\0").decode() for row in array]


# ------------------------------------------------------------------------------------------------------ writing


def finished(out: Path, header: Header) -> bool:
    """True when a complete store of this fingerprint is there already; its manifest is then restored.

    Snakemake deletes the manifest before it runs a job, never the store.
    """
    attributes = attributes_of(store_of(out))
    if attributes.get("fingerprint") != header.fingerprint() or "manifest" not in attributes:
        return False
    write_atomic(out, attributes["manifest"])
    return True


def write_table(
    out: Path, header: Header, arrays: Mapping[str, np.ndarray], meta: dict[str, Any] | None = None, axes: str = ""
) -> None:
    """Write whole arrays and the manifest."""
    store = store_of(out)
    _discard(store)
    group = zarr.create_group(store, attributes={"fingerprint": header.fingerprint()})
    described = {}
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        chunks = (max(1, min(len(array), 2**22 // max(1, array[:1].nbytes))), *array.shape[1:]) if array.ndim else None
        group.create_array(
            name, data=array, chunks=chunks or "auto", compressors=CODEC, config={"write_empty_chunks": True}
        )
        described[name] = _describe(array.shape, array.dtype, sha(array.tobytes()))
    _commit(out, group, header, described, meta or {}, axes)


def row_keys(header: Header, parents: Mapping[str, Artifact], *extra: Any) -> list[bytes]:
    """What each image's row is made from: settings, code, whole parents, `extra`, and its own rows of row parents."""
    whole = [role for role, parent in parents.items() if "digest" not in parent]
    common = f"{header.base(*whole)} {canonical(extra)!r}".encode()
    rows = [parent.read("digest") for role, parent in sorted(parents.items()) if "digest" in parent]
    if not rows:
        raise ValueError("no parent has one row per image")
    return [
        hashlib.blake2b(common + b"".join(map(bytes, row)), digest_size=DIGEST).digest()
        for row in zip(*rows, strict=True)
    ]


Row = dict[str, np.ndarray]


def write_rows(
    out: Path,
    header: Header,
    arrays: Mapping[str, tuple[tuple[int, ...], Any]],
    keys: Sequence[bytes | None],
    compute: Callable[[list[int]], Iterable[Row]],
    meta: Callable[[zarr.Group], dict[str, Any]] | dict[str, Any] | None = None,
    axes: str = "",
    tables: Mapping[str, np.ndarray] | None = None,
    fill: Mapping[str, Any] | None = None,
) -> None:
    """Write one row per image, shard by shard, and the manifest.

    arrays: name → (shape of one row, dtype). keys: one per image; None leaves the row at `fill`, or zero (an image not
    covered).
    compute(indices) yields the rows of these images in order; it is called once per shard with those still missing.
    meta may look at the finished group. tables: small whole arrays stored beside the rows (class list, splits).
    Memory: one shard. A killed run continues after its last finished shard.
    """
    group, journal, old = _begin_rows(out, header, arrays, len(keys))
    done = {entry["shard"]: bytes.fromhex(entry["digests"]) for entry in _read_journal(journal)}
    reuse = {} if old is None else {bytes(key): i for i, key in enumerate(_whole(old, "key")) if key.any()}
    computed = 0
    for shard, start in enumerate(range(0, len(keys), SHARD)):
        if shard in done:
            continue
        indices = range(start, min(start + SHARD, len(keys)))
        block = {
            name: np.full((len(indices), *shape), (fill or {}).get(name, 0), dtype)
            for name, (shape, dtype) in arrays.items()
        }
        missing = []
        for i in indices:
            key = keys[i]
            if key is not None and key in reuse and old is not None:
                for name in arrays:
                    block[name][i - start] = old[name][reuse[key]]  # type: ignore[index]
            elif key is not None:
                missing.append(i)
        rows = iter(compute(missing)) if missing else iter(())
        for i in missing:
            for name, value in next(rows).items():
                block[name][i - start] = value
        computed += len(missing)
        digests = b"".join(row_digest(block, i) for i in range(len(indices)))
        for name, value in block.items():
            group[name][start : start + len(indices)] = value  # type: ignore[index]
        done[shard] = digests
        with journal.open("a") as file:
            file.write(json.dumps({"shard": shard, "digests": digests.hex()}) + "\n")
    digest = np.frombuffer(b"".join(done[shard] for shard in sorted(done)), np.uint8).reshape(-1, DIGEST)
    key_rows = np.stack([np.frombuffer(key or bytes(DIGEST), np.uint8) for key in keys])
    described = {name: _describe((len(keys), *shape), np.dtype(dtype), None) for name, (shape, dtype) in arrays.items()}
    for name, table in {"digest": digest, "key": key_rows, **(tables or {})}.items():
        if name in group:
            del group[name]
        group.create_array(
            name,
            data=np.ascontiguousarray(table),
            chunks=table.shape,
            compressors=CODEC,
            config={"write_empty_chunks": True},
        )
        described[name] = _describe(table.shape, table.dtype, sha(np.ascontiguousarray(table).tobytes()))
    del described["key"]  # says what rows were made from, not what they hold
    print(f"{out.name}: {computed} of {sum(key is not None for key in keys)} images computed", flush=True)
    _commit(out, group, header, described, meta(group) if callable(meta) else meta or {}, axes)


def reusable_keys(out: Path) -> set[bytes]:
    """Keys of the rows that a rerun of this artifact could take over."""
    for store in (store_of(out), part_of(out) / "previous.zarr"):
        if "manifest" in attributes_of(store):
            return set(map(bytes, _whole(zarr.open_group(store, mode="r"), "key")))
    return set()


def _whole(group: zarr.Group, name: str) -> np.ndarray:
    return np.asarray(group[name][...])  # type: ignore[index]


def _begin_rows(
    out: Path, header: Header, arrays: Mapping[str, tuple[tuple[int, ...], Any]], count: int
) -> tuple[zarr.Group, Path, zarr.Group | None]:
    """Open the store to continue, or start it over and set a finished predecessor aside for its rows."""
    store, part = store_of(out), part_of(out)
    journal, previous = part / "shards.jsonl", part / "previous.zarr"
    part.mkdir(parents=True, exist_ok=True)
    attributes = attributes_of(store)
    if attributes.get("fingerprint") == header.fingerprint() and "manifest" not in attributes and journal.is_file():
        group = zarr.open_group(store, mode="r+")
    else:
        if "manifest" in attributes:
            _discard(previous)
            store.rename(previous)
        _discard(store)
        journal.unlink(missing_ok=True)
        group = zarr.create_group(store)
        for name, (shape, dtype) in arrays.items():
            group.create_array(
                name,
                shape=(count, *shape),
                dtype=dtype,
                chunks=(1, *shape),
                shards=(SHARD, *shape),
                compressors=CODEC,
                config={"write_empty_chunks": True},
            )
        journal.touch()
        group.attrs["fingerprint"] = header.fingerprint()  # last: marks the layout as complete
    old = zarr.open_group(previous, mode="r") if previous.is_dir() else None
    shapes_fit = old is not None and all(
        name in old and old[name].shape[1:] == shape and old[name].dtype == np.dtype(dtype)  # type: ignore[union-attr]
        for name, (shape, dtype) in arrays.items()
    )
    return group, journal, old if shapes_fit else None


def _read_journal(journal: Path) -> Iterator[dict[str, Any]]:
    for line in journal.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # the line a kill cut short
            return


def row_digest(block: Mapping[str, np.ndarray], i: int) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST)
    for name in sorted(block):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(block[name][i]).data)
    return digest.digest()


def _describe(shape: tuple[int, ...], dtype: Any, digest: str | None) -> dict[str, Any]:
    described: dict[str, Any] = {"shape": list(shape), "dtype": str(np.dtype(dtype))}
    return described | ({"digest": digest} if digest else {})


def _commit(
    out: Path, group: zarr.Group, header: Header, arrays: dict[str, Any], meta: dict[str, Any], axes: str
) -> None:
    # Descriptions of meta and arrays are the content; rows are in there through the `digest` table.
    content = sha(canonical({"arrays": arrays, "meta": meta}))
    manifest = {**header.__dict__, "axes": axes, "meta": meta, "arrays": arrays, "digest": content}
    text = json.dumps(manifest, indent=1, sort_keys=True, default=str) + "\n"
    group.attrs["made"] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "host": platform.node(),
        "versions": {name: version(name) for name in ("numpy", "zarr", "torch")},
    }
    group.attrs["manifest"] = text
    write_atomic(out, text)
    shutil.rmtree(part_of(out), ignore_errors=True)


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that it is either whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def attributes_of(store: Path) -> dict[str, Any]:
    try:
        return json.loads((store / "zarr.json").read_text()).get("attributes", {})
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


def _discard(path: Path) -> None:
    if path.is_dir():
        # Rename first: a kill during the removal must not leave half a store under its real name.
        doomed = path.with_name(f".{path.name}.discarded")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed)
