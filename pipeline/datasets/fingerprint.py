"""Has a data set changed? A cheap digest for each artifact that is made from it, which Snakemake keeps as a parameter.

Names, sizes and times of pictures count, and the contents of lists: a look at 10⁶ files takes seconds. What the files
hold is compared by datasets/inventory.py, which a mere touch makes read them again and change nothing.
This module must not import numpy or torch: Snakemake asks on every dry run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from pipeline.core.data import Data
from pipeline.datasets.corrections import counted
from pipeline.datasets.files import FOREIGN, SUFFIXES, Left, is_pipe, walk
from pipeline.datasets.layouts import LAYOUTS, READERS
from pipeline.datasets.source import Trace

PICTURES = frozenset((*SUFFIXES, *FOREIGN))
WRITTEN = PICTURES | {".json", ".xml", ".txt", ".csv", ".yaml", ".yml", ".zip"}  # by annotation tools


@dataclass(frozen=True)
class Fingerprints:
    """One digest each, of files and settings; count: photographs that are listed, to size jobs by; masked: how many
    masks there are."""

    inventory: str
    photographs: str
    tags: str
    masks: str
    count: int
    masked: int


SCANNED = "TAGMASK_SCAN"  # the environment's, handed on to jobs on other machines


def scanned_once(data: Data, first: bool) -> Fingerprints:
    """The fingerprints of a run. A job's own Snakemake (not first), on a node of a cluster, looks at no photograph: it
    is told what the first one found, since what its commands and inputs are must be the same in both."""
    if first:
        found = fingerprints(data)
        os.environ[SCANNED] = json.dumps(vars(found))
        return found
    told = os.environ.get(SCANNED)
    return Fingerprints(**json.loads(told)) if told else Fingerprints("", "", "", "", 0, 1)


def fingerprints(data: Data) -> Fingerprints:
    """Digests of all that each artifact of a data set is made from: one pass over folders, no file but lists opened.

    photographs: the files and the lists. tags: what says them (tags.csv, annotations, an export, or the masks), the
    classes, the lists. masks: the files or the export, the classes, the lists. inventory: everything. Where the lists
    depend on tags, as with untagged: drop, so do all. Missing, unreadable and dangling files count as such; prepare
    names them.
    """
    trace = LAYOUTS[data.format].trace(data)
    photographs = scan(trace.photographs, PICTURES, trace.wanted)
    masks = scan(trace.masks, PICTURES, trace.wanted)
    annotations = scan(trace.annotations, frozenset([".xml"]), trace.wanted)
    kept = data.classes, data.other, data.background
    names = [data.format, trace.drawn, data.share, texts(trace.lists), photographs.names]
    meaning = [*names, kept, texts(trace.classes)]
    exported, corrected = ([content(path) for path in paths] for paths in (trace.exported, data.corrections))
    said = [trace.tags_from, texts(trace.tags), annotations.files, exported]
    drawn = [masks.files, corrected] if trace.tags_from in ("masks", "export") else None
    tags = digest([*meaning, data.untagged, said, drawn])
    pixels = [data.max_side, *([data.bands] if data.bands else [])]
    rows = [*names, tags if data.untagged == "drop" else None]
    return Fingerprints(
        digest([*rows, meaning, tags, *pixels, photographs.files, masks.files, corrected]),
        digest([*rows, *pixels, photographs.files]),
        tags,
        digest([*rows, meaning, masks.files, exported, corrected]),
        photographs.count if trace.count is None else trace.count,
        masked_in(trace, masks.count) + (counted(data, READERS) if data.corrections else 0),
    )


def content(path: Path) -> object:
    """Of a file or folder that an annotation tool wrote."""
    return scan(path, WRITTEN, None).files if path.is_dir() else texts([path])


def digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def texts(paths: Iterable[Path]) -> list[str]:
    """Digest of each file's content, with its name; of one that is missing, nothing."""
    found = []
    for path in paths:
        if is_pipe(path):
            found.append(f"{path.name} is a pipe")
            continue
        try:
            found.append(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            found.append(f"{path.name} {error.errno}")
    return found


def masked_in(trace: Trace, files: int) -> int:
    """How many photographs have a mask, of this many files of masks."""
    if trace.masked is not None:
        return trace.masked
    return files if trace.photographs else trace.count or 0


@dataclass(frozen=True)
class Scan:
    names: str  # digest of the names
    files: str  # of names, sizes and times
    count: int


def scan(folder: Path | None, suffixes: frozenset[str], wanted: frozenset[str] | None) -> Scan:
    """Look at the files of a folder and its subfolders that have one of these suffixes and, if given, a wanted name.
    Their order, which differs between file systems, does not count: each name's hash is summed, and summed weighted by
    size and time."""
    names = files = count = 0
    if folder is None:
        return Scan("", "", 0)
    try:
        for name, entry in walk(folder, Left()):  # a million times: each microsecond counts
            dot = name.rfind(".")
            if name[dot:].lower() not in suffixes or (
                wanted is not None and normalize("NFC", name[:dot]) not in wanted
            ):
                continue
            try:
                about = entry.stat()
                weight = about.st_mtime_ns << 64 | about.st_size
            except OSError:  # a dangling link
                weight = 0
            raw = name.encode("utf-8", "surrogateescape")
            hashed = int.from_bytes(hashlib.blake2b(raw, digest_size=16).digest(), "big")
            names += hashed
            files += hashed * (weight + 1)
            count += 1
    except OSError:
        return Scan("", "", 0)
    return Scan(f"{names:x}", f"{files:x}", count)
