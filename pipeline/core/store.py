"""Artifacts on disk: a Zarr store `x.zarr` and, written last, its manifest `x.json`.

The manifest is what Snakemake sees. Its bytes depend only on content and provenance that matters (settings, seed,
code, parents), so an upstream rerun with the same result reruns nothing below. Time, host and versions go into the
store.

Two forms share one contract:
- *rows*: one row per image (`write_rows`), fixed or ragged (`rows.py` has the layout). A row has a `key` (what its
  stored arrays were made from) and a `digest` (what all its arrays hold). Finished shards survive a kill; rows whose
  key is unchanged are taken over from the previous store. *Derived* arrays are computed anew in every run.
- *tables*: a few whole arrays (`write_table`): weights, patches, metrics.

What is written reaches the disk in this order: files of a shard, its journal line; then tables, the store's attributes
(which hold the manifest's text), the manifest. Each is synced before the next, so none vouches for what a loss of power
took; a resumed run re-reads what the journal names. What a killed run leaves lies in `x.part` and is gone once the same
command has ended.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pipeline.core import durable, trust
from pipeline.core.durable import write_atomic
from pipeline.core.progress import Progress
from pipeline.core.rows import CODEC, DIGEST, SHARD, Previous, Row, Rows, Shapes, believed, is_ragged, log, whole
from pipeline.core.trust import ANEW, OLDER, ArtifactError

__all__ = ["DIGEST", "SHARD", "Artifact", "ArtifactError", "Header", "Row", "write_atomic", "write_rows", "write_table"]

COLUMN_BYTES = 2**22  # tables of numbers per image up to this size are read whole
MEANING = ("grid", "classes", "background")  # entries of meta without which a row cannot be read


@dataclass(frozen=True)
class Header:
    """What an artifact is and what it is made from. `parents` maps role → content digest.

    choices: names that choose code (a head, a kind of model). For the code digest of those who read the artifact; what
    follows from them is in `code` and `settings` already, so they are no part of the fingerprint.
    """

    kind: str
    stage: str
    settings: dict[str, Any]
    code: str
    seed: int | None = None
    precision: str | None = None
    parents: dict[str, str] = field(default_factory=dict)
    choices: list[str] = field(default_factory=list)

    def fingerprint(self) -> str:
        """Equal fingerprints mean equal results."""
        return sha(canonical({name: value for name, value in self.__dict__.items() if name != "choices"}))

    def base(self, *whole: str) -> str:
        """Fingerprint without the parents that count image by image, i.e. only with those in `whole`."""
        return replace(self, parents={role: self.parents[role] for role in whole}).fingerprint()

    def without(self, *settings: str) -> Header:
        """The same without some settings."""
        return replace(self, settings={name: value for name, value in self.settings.items() if name not in settings})


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


# ------------------------------------------------------------------------------------------------------ reading


class Artifact:
    """A finished artifact, opened by its manifest. Stores are opened on first use, so it may cross a fork."""

    def __init__(self, path: str | Path, kind: str | None = None):
        """kind: what is expected, several as "labels|soft". Raises ArtifactError."""
        self.path = Path(path)
        try:
            text = self.path.read_text()
            self.manifest: dict[str, Any] = json.loads(text)
        except FileNotFoundError:
            raise ArtifactError(f"{self.path}: no such artifact; run `snakemake --cores all {self.path}`") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{self.path}: not a manifest, JSON expected ({error}); {trust.MEANT}") from None
        if not trust.is_manifest(self.manifest):
            raise ArtifactError(f"{self.path}: not an artifact's manifest; {trust.MEANT}")
        if kind and self.kind not in kind.split("|"):
            wanted = f"{self.path}: this is {self.kind}, {kind.replace('|', ' or ')} expected"
            raise ArtifactError(f"{wanted}; it was {OLDER}" if self.older else wanted)
        if not store_of(self.path).is_dir():
            remedy = f"copy it beside the manifest, or, if it is lost, delete {self.path} and make it again"
            raise ArtifactError(f"{store_of(self.path)}: the manifest is there, the store is not; {remedy}")
        if not self.older and attributes_of(store_of(self.path)).get("manifest") != text:
            raise ArtifactError(f"{self.path}: the manifest is not the one its store was finished with; {ANEW}")

    @property
    def older(self) -> bool:
        """Whether a version of the pipeline made it that knew less of an artifact than this one."""
        return any(about.name not in self.manifest for about in fields(Header))

    @property
    def kind(self) -> str:
        return self.manifest["kind"]

    @property
    def digest(self) -> str:
        """Digest of the content alone: what a child's fingerprint sees."""
        return self.manifest["digest"]

    @property
    def meta(self) -> dict[str, Any]:
        return trust.Meta(self.path, self.manifest["meta"])

    @cached_property
    def group(self) -> zarr.Group:
        with trust.reading(self.path, "the store"):  # of our form alone: the one before could hold pickled objects
            return zarr.open_group(store_of(self.path), mode="r", zarr_format=3)

    def __getitem__(self, name: str) -> Any:
        """The zarr array, or for a column of the table (sizes, tags) its values: zarr takes a millisecond per access.

        Any: zarr's element type is a union that no reader of known arrays can use.
        """
        array = self._arrays.get(name)
        if array is None:
            try:
                if name != Path(name).name:  # a path out of the store
                    raise KeyError(name)
                with trust.reading(self.path, f"the array '{name}'"):
                    found: Any = self.group[name]
                    small = found.ndim <= 2 and found.nbytes <= COLUMN_BYTES
                    array = found[...] if small else trust.Guarded(found, self.path, name)
            except KeyError:
                about = f"it was {OLDER}" if self.older else f"it is damaged, {ANEW}"
                raise ArtifactError(f"{self.path}: {self.kind} without the array '{name}'; {about}") from None
            said, is_now = self.manifest["arrays"].get(name), [list(array.shape), str(array.dtype)]
            if said and (not isinstance(said, dict) or is_now != [said.get("shape"), said.get("dtype")]):
                raise ArtifactError(f"{self.path}: {name} is {is_now}, the manifest says {said}; {ANEW}")
            self._arrays[name] = array
        return array

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        return {}

    def read(self, name: str) -> np.ndarray:
        """A copy of a whole array. Only for arrays that do not grow with pixels."""
        return np.array(self[name][...])

    def row(self, name: str, i: int) -> np.ndarray:
        """A copy of row i of a row array, fixed or ragged."""
        ends = self._offsets.get(name)
        if ends is None:
            return np.array(self[name][i])
        i = range(len(ends) - 1)[i]
        return np.array(self[name][int(ends[i]) : int(ends[i + 1])])

    @cached_property
    def _offsets(self) -> dict[str, np.ndarray]:
        arrays = self.manifest["arrays"].items()
        return {name: whole(self.group, about["offsets"]) for name, about in arrays if "offsets" in about}

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
    _tidy(out)
    return True


def write_table(
    out: Path, header: Header, arrays: Mapping[str, np.ndarray], meta: dict[str, Any] | None = None, axes: str = ""
) -> None:
    """Write whole arrays and the manifest."""
    durable.unlink(out)  # or it would vouch for a store that is not there
    durable.discard(store_of(out))
    group = _create(out, {"fingerprint": header.fingerprint()})
    described = {name: _put_table(group, name, array, 2**22) for name, array in arrays.items()}
    _commit(out, group, header, described, meta or {}, axes)


def row_keys(
    header: Header,
    parents: Mapping[str, Artifact],
    *extra: Any,
    without: Sequence[str] = (),
    roles: Iterable[str] | None = None,
) -> list[bytes]:
    """What each image's row is made from: settings, code, whole parents, `extra`, and its own rows of row parents.

    Of a row parent counts also what its meta says of the meaning of a row. without: settings that do not count, since
    only derived arrays follow from them. roles: the parents that count (all).
    """
    chosen = parents if roles is None else {role: parents[role] for role in roles}
    rows = {role: chosen[role] for role in sorted(chosen) if "digest" in chosen[role]}
    if not rows:
        raise ValueError("no parent has one row per image")
    base = header.without(*without).base(*(role for role in chosen if role not in rows))
    meaning = {role: {name: row.meta[name] for name in MEANING if name in row.meta} for role, row in rows.items()}
    common = canonical([base, meaning, extra])
    digests = [row.read("digest") for row in rows.values()]
    if len({len(table) for table in digests}) > 1:
        found = ", ".join(f"{row.path} has {len(table)}" for row, table in zip(rows.values(), digests, strict=True))
        raise ArtifactError(
            f"rows of different data sets: {found}. Run snakemake to make them from the same photographs"
        )
    return [
        hashlib.blake2b(common + b"".join(map(bytes, row)), digest_size=DIGEST).digest()
        for row in zip(*digests, strict=True)
    ]


def write_rows(
    out: Path,
    header: Header,
    arrays: Shapes,
    keys: Sequence[bytes | None],
    compute: Callable[[list[int]], Iterable[Row]],
    meta: Callable[[zarr.Group], dict[str, Any]] | dict[str, Any] | None = None,
    axes: str = "",
    tables: Mapping[str, np.ndarray] | None = None,
    *,
    derive: Callable[[int, Row], Row] | None = None,
    derived: Shapes | None = None,
    fill: Mapping[str, Any] | None = None,
) -> None:
    """Write one row per image, shard by shard, and the manifest.

    arrays: name → (shape of one row, dtype); a shape (None, ...) is ragged, row i then has n_i entries. keys: one per
    image; None leaves the row at `fill` (name → value, default 0; ragged: no entry), an image not covered.
    compute(indices) yields the rows of these images in order; it is called once per shard with those still missing.
    derive(i, row) computes the arrays of `derived` from the stored ones of a row with a key, in every run and for rows
    taken over too, so keys need not say what it depends on. It must not change the row.
    meta may look at the finished group. tables: small whole arrays stored beside the rows (class list, splits).
    Memory: a few shards. A killed run continues after its last finished shard.
    """
    shapes = {**arrays, **(derived or {})}
    for name in fill or {}:
        if name not in shapes or is_ragged(shapes[name][0]):
            raise ValueError(f"fill of '{name}', which is no array with rows of a fixed shape")
    rows, journal = _begin_rows(out, header, shapes, fill or {}, len(keys))
    done = believed(journal, rows, len(keys))
    described = attributes_of(_previous(out)).get("manifest")
    old = Previous(_previous(out), json.loads(described)["arrays"], arrays) if described else None
    computed, covered = 0, [key is not None for key in keys]
    progress = Progress(part_of(out), sum(covered), "photographs")
    for shard, start in enumerate(range(0, len(keys), SHARD)):
        wanted = sum(covered[start : start + SHARD])
        if shard in done:
            progress.skip(wanted)
            continue
        block = rows.empty(min(SHARD, len(keys) - start))
        mine = keys[start : start + SHARD]
        new = rows.fill_block(block, start, mine, old, lambda indices: progress.count(compute(indices)))
        progress.skip(wanted - new)
        computed += new
        if derive:
            rows.derive(block, start, mine, arrays, derive)
        done[shard] = rows.digests(block)
        log(journal, shard, done[shard], rows.write(start, block))
    print(f"{out.name}: {computed} of {sum(covered)} images computed", flush=True)
    whole_arrays = {
        **rows.finish(),
        "digest": _column(done[shard] for shard in sorted(done)),
        "key": _column(key or bytes(DIGEST) for key in keys),
        **(tables or {}),
    }
    about = rows.describe(len(keys)) | {name: _put_table(rows.group, name, a) for name, a in whole_arrays.items()}
    del about["key"]  # says what rows were made from, not what they hold
    _commit(out, rows.group, header, about, meta(rows.group) if callable(meta) else meta or {}, axes)


def _previous(out: Path) -> Path:
    """Where the finished store waits that is being replaced, for its rows."""
    return part_of(out) / "previous.zarr"


def _begin_rows(out: Path, header: Header, shapes: Shapes, fill: Mapping[str, Any], count: int) -> tuple[Rows, Path]:
    """Open the store to continue, or start it over and set a finished predecessor aside for its rows."""
    store, journal = store_of(out), part_of(out) / "shards.jsonl"
    attributes = attributes_of(store)
    if attributes.get("fingerprint") == header.fingerprint() and "manifest" not in attributes and journal.is_file():
        durable.settle(store)
        group = zarr.open_group(durable.DurableStore(store), mode="r+")
        if all(name in group for name in shapes) and (rows := Rows.begun(group, shapes, fill)).fits(count):
            return rows, journal
    durable.unlink(out)  # or it would vouch for a store that is not there
    if "manifest" in attributes:
        durable.discard(_previous(out))
        durable.rename(store, _previous(out))
    durable.discard(store)
    write_atomic(journal, "")
    rows = Rows.create(_create(out), shapes, fill, count)
    rows.group.attrs["fingerprint"] = header.fingerprint()  # last: marks the layout as complete
    return rows, journal


def _column(items: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(items), np.uint8).reshape(-1, DIGEST)


def _create(out: Path, attributes: dict[str, Any] | None = None) -> zarr.Group:
    durable.make_folder(store_of(out))  # Zarr makes it too, and does not sync it
    return zarr.create_group(durable.DurableStore(store_of(out)), attributes=attributes)


def _put_table(group: zarr.Group, name: str, array: np.ndarray, chunk_bytes: int | None = None) -> dict[str, Any]:
    """Store a whole array; returns its description. chunk_bytes: about how much of it is a chunk (all)."""
    array = np.ascontiguousarray(array)
    length = min(len(array), chunk_bytes // max(1, array[:1].nbytes)) if chunk_bytes else len(array)
    group.create_array(
        name,
        data=array,
        chunks=(max(1, length), *array.shape[1:]),
        compressors=CODEC,
        config={"write_empty_chunks": True},
        overwrite=True,
    )
    return {"shape": list(array.shape), "dtype": str(array.dtype), "digest": sha(array.tobytes())}


def _commit(
    out: Path, group: zarr.Group, header: Header, arrays: dict[str, Any], meta: dict[str, Any], axes: str
) -> None:
    # Descriptions of meta and arrays are the content; rows are in there through the `digest` table.
    content = sha(canonical({"arrays": arrays, "meta": meta}))
    about = {**header.__dict__, "choices": sorted(header.choices)}
    text = json.dumps(
        {**about, "axes": axes, "meta": meta, "arrays": arrays, "digest": content},
        indent=1,
        sort_keys=True,
        default=str,
    )
    made = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "host": platform.node(),
        "versions": {name: version(name) for name in ("numpy", "zarr", "torch")},
    }
    group.update_attributes({"made": made, "manifest": text + "\n"})
    write_atomic(out, text + "\n")
    _tidy(out)


def _tidy(out: Path) -> None:
    """Remove what unfinished runs of a finished artifact left."""
    shutil.rmtree(part_of(out), ignore_errors=True)
    shutil.rmtree(durable.doomed(store_of(out)), ignore_errors=True)
    durable.remove_temporaries(out)


def attributes_of(store: Path) -> dict[str, Any]:
    try:
        return json.loads((store / "zarr.json").read_text()).get("attributes", {})
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
