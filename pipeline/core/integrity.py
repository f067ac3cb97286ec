"""Telling artifacts from other files, and whether they still are what they were when they were finished."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np

from pipeline.core import rows, store, trust

SCRATCH = {
    *("checkpoint.pt", "checkpoint.new", "shards.jsonl", "previous.zarr", ".previous.zarr.discarded"),
    *("progress.json", "progress.new", "lock"),
}


def is_store(path: Path) -> bool:
    """Whether this folder is an artifact's store, finished or begun."""
    return "fingerprint" in store.attributes_of(path)


def is_scratch(path: Path) -> bool:
    """Whether this folder holds nothing but what an unfinished artifact leaves, one of several trainings too."""
    return all(
        entry.name in SCRATCH
        or entry.name.startswith(".shards.jsonl.")
        or (entry.suffix == ".part" and entry.is_dir() and is_scratch(entry))
        for entry in path.iterdir()
    )


def is_manifest(path: Path) -> bool:
    """Whether this file is an artifact's manifest, not another JSON file."""
    try:
        return {"kind", "digest", "arrays"} <= json.loads(path.read_text()).keys()
    except (AttributeError, RecursionError, UnicodeDecodeError, ValueError):
        return False


def verify(path: Path) -> list[str]:
    """Re-read an artifact, manifest and store. Returns what is wrong, one line each; empty when all is well."""
    try:
        artifact = store.Artifact(path)
        problems = [f"{path}: {problem}" for problem in _manifest_damage(artifact)]
        return problems or [f"{path}: {problem}" for problem in _content_damage(artifact)]
    except store.ArtifactError as error:
        return [str(error)]
    except Exception as error:  # damaged bytes may fail anywhere: in the manifest's keys, in zarr, in the codecs
        return [f"{path}: cannot be read ({type(error).__name__}: {error})"]


def remedy(damaged: Sequence[Path], missing: Sequence[Path] = ()) -> str:
    """The commands that make these manifests anew."""
    files = shlex.join(text for path in damaged for text in (str(path), str(store.store_of(path))))
    wanted = shlex.join(map(str, [*damaged, *missing]))
    remove = f"  rm -r {files}\n" if damaged else ""
    return f"To compute them anew, with --configfile as before:\n{remove}  snakemake --cores all {wanted}"


@contextmanager
def blaming(inputs: Sequence[Path]) -> Iterator[None]:
    """Where reading fails, these artifacts are verified: the damaged ones are what a user can mend.

    Raises ArtifactError naming them.
    """
    try:
        yield
    except trust.Unreadable as error:  # what else fails is not worth reading it all
        found = {path: problems for path in inputs if (problems := verify(path))}
        if not found:
            raise
        lines = [line for problems in found.values() for line in problems]
        raise store.ArtifactError("\n".join([*lines, remedy(list(found))])) from error


def _manifest_damage(artifact: store.Artifact) -> Iterator[str]:
    manifest, attributes = artifact.manifest, store.attributes_of(store.store_of(artifact.path))
    # Artifacts of before lack fields; those have a default and are no part of the fingerprint.
    made_of = {about.name: manifest[about.name] for about in fields(store.Header) if about.name in manifest}
    if attributes.get("manifest") != artifact.path.read_text():
        yield "the manifest is not the one its store was finished with"
    elif manifest["digest"] != store.sha(store.canonical({"arrays": manifest["arrays"], "meta": manifest["meta"]})):
        yield "the manifest differs from its own digest"
    elif attributes["fingerprint"] != store.Header(**made_of).fingerprint():
        yield "the manifest's settings, code or parents are not those its store was made with"


def _content_damage(artifact: store.Artifact) -> Iterator[str]:
    found = False
    for name, about in artifact.manifest["arrays"].items():
        array, problem = artifact[name], None
        if list(array.shape) != about["shape"] or str(array.dtype) != about["dtype"]:
            problem = f"{name} is {array.dtype} {array.shape}, the manifest says {about}"
        elif "digest" in about and store.sha(np.ascontiguousarray(array[...]).tobytes()) != about["digest"]:
            problem = f"{name} differs from the manifest"
        if problem:
            found = True
            yield problem
    if not found:
        yield from _row_damage(artifact)


def _row_damage(artifact: store.Artifact) -> Iterator[str]:
    shapes = rows.shapes_of(artifact.manifest["arrays"])
    if not shapes:
        return
    artifact.read("key")  # not in the manifest; its chunk has a checksum
    digests = artifact.read("digest")
    lengths = {name: about["shape"][0] for name, about in artifact.manifest["arrays"].items() if name in shapes}
    for name in (name for name, (shape, _) in shapes.items() if not rows.is_ragged(shape)):
        if lengths[name] != len(digests):
            yield f"{name} has {lengths[name]} rows, {len(digests)} have a digest"
            return
    damaged: dict[str, list[int]] = {}  # a damaged file is that of many rows
    for i, digest in enumerate(digests):
        try:
            if rows.row_digest({name: artifact.row(name, i) for name in shapes}, shapes) != bytes(digest):
                damaged.setdefault("differs from its digest", []).append(i)
        except Exception as error:
            damaged.setdefault(f"cannot be read ({error.__cause__ or error})", []).append(i)
    for problem, found in damaged.items():
        shown = ", ".join([*map(str, found[:5]), *["…"] * (len(found) > 5)])
        yield f"row {shown}{f' ({len(found)} rows)' if len(found) > 1 else ''} {problem}"
