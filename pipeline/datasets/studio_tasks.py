"""Label Studio's files → tasks: their number, what their photograph may be called, and the results that count.

JSON has tasks with annotations; JSON-MIN, and CSV and TSV with JSON in their cells, a row for each annotation, in which
a control's results stand in a short form (label-studio-sdk, converter/exports/csv2.py).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.core.config import shown
from pipeline.datasets.files import FOREIGN, SUFFIXES, some
from pipeline.datasets.marked import UPLOADED, Exported
from pipeline.datasets.rings import number
from pipeline.datasets.tables import read_text
from pipeline.datasets.written import Unreadable, content_of, json_of

TABLES = (".csv", ".tsv")
ABOUT = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "history"}
KINDS = ("polygon", "brush", "bitmask", "ellipse", "rectangle", "keypoint", "")
LABELS = tuple(f"{kind}labels" for kind in KINDS)  # keys of values, and types of results
FEW = 4  # tasks: of fewer, every column of words counts
Results = list[dict[str, Any]]


def tasks(path: Path, found: Exported) -> Iterator[tuple[str, tuple[str, ...], Results | None]]:
    """Number, names of the photograph and results of each task; None where nobody has annotated it."""
    entries = table(path, found.problems) if path.suffix.lower() in TABLES else json_of(path)
    if isinstance(entries, dict):
        entries = [entries]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries) or not entries:
        raise Unreadable("no export of Label Studio: a list of tasks expected; export it as JSON")
    if all("data" not in entry for entry in entries):
        if not any(ABOUT & entry.keys() - {"id"} for entry in entries):
            raise Unreadable("no export of Label Studio: tasks of `data`, `annotations` expected; export it as JSON")
        entries = gathered(path, entries, found)
    predicted, several = 0, 0
    for entry in entries:
        task, data = shown(entry.get("id")), entry.get("data")
        names = names_of(data if isinstance(data, dict) else {}, entry.get("file_upload"))
        if not names:
            found.problems.append(f"{path}: task {task} has no photograph in its data ({shown(data)}); export it again")
            continue
        annotations = entry.get("annotations", entry.get("completions"))
        if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
            found.problems.append(f"{path}: task {task} has no list `annotations`; export it again")
            continue
        valid = [one for one in annotations if not one.get("was_cancelled")]
        several += len(valid) > 1
        predicted += not valid and bool(entry.get("predictions"))
        results = chosen(valid).get("result") if valid else None
        if valid and not (isinstance(results, list) and all(isinstance(one, dict) for one in results)):
            found.problems.append(f"{path}: task {task} has an annotation without a list `result`; export it again")
            continue
        yield task, names, results
    if several:
        found.notes.append(f"{path}: {several} tasks have several annotations; the ground truth, or the latest, counts")
    if predicted:
        found.notes.append(f"{path}: {predicted} tasks have predictions alone, which are no annotations")


def chosen(annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """The annotation that counts: times are ISO 8601, of which the later is the greater text."""

    def rank(one: dict[str, Any]) -> tuple[bool, str]:
        return bool(one.get("ground_truth")), str(one.get("updated_at") or one.get("created_at") or "")

    return max(reversed(annotations), key=rank)


def names_of(data: Mapping[str, Any], uploaded: object) -> tuple[str, ...]:
    """What the photograph of a task may be called; none where it has none."""
    first = [data[key] for key in ("image", "img") if key in data]
    for value in [*first, *data.values(), uploaded]:
        if is_picture(value):
            return candidates(value)
    return ()


def is_picture(value: object) -> bool:
    return isinstance(value, str) and len(value) < 10000 and place_of(value).lower().endswith(SUFFIXES + FOREIGN)


def place_of(address: str) -> str:
    """Path of a photograph, as the tool was given it, from the address that it notes."""
    try:
        parts = urlsplit(address)
        local = parse_qs(parts.query).get("d") if parts.path.endswith("local-files/") else None
    except ValueError:  # of no form that addresses have
        return address
    if local:
        return local[0]
    return unquote(parts.path) if parts.scheme or parts.query or address.startswith("/data/") else unquote(address)


def candidates(address: str) -> tuple[str, ...]:
    """The name, and without what an upload puts before it; and as it is noted, where that is no address."""
    place = place_of(address)
    plain = [] if "://" in address or address.startswith("/data/") else [address]
    return tuple(dict.fromkeys([place, UPLOADED.sub("", place), *plain]))


# ------------------------------------------------------------------------------------------- JSON-MIN and tables


def table(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """Rows of a table as JSON-MIN has them. Cells that hold JSON are read. A table with tabs may be called .csv."""
    content_of(path)  # names what is no file
    lines = read_text(path, problems).splitlines(keepends=True)
    separator = "\t" if lines and "\t" in lines[0] else ","
    before = csv.field_size_limit(2**31 - 1)  # run lengths are long
    try:
        rows = list(csv.DictReader(lines, delimiter=separator, strict=True))
    except csv.Error as error:
        raise Unreadable(f"is no table that is read here ({error}); export it again") from None
    finally:
        csv.field_size_limit(before)
    return [{key: cell(value) for key, value in row.items() if key is not None and value} for row in rows]


def cell(text: str) -> Any:
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except (RecursionError, ValueError):
            pass  # words that begin so
    return text


def gathered(path: Path, rows: list[dict[str, Any]], found: Exported) -> list[dict[str, Any]]:
    """Rows of JSON-MIN, one per annotation → tasks."""
    controls = columns(path, rows, found.notes)
    merged: dict[str, dict[str, Any]] = {}
    mixed = sum(sum(isinstance(row.get(key), list) and structured(row[key]) for key in controls) > 1 for row in rows)
    if mixed:
        found.warnings.append(
            f"{path}: {mixed} rows have regions of several controls, and not which lies on which; where they overlap, "
            "export as JSON"
        )
    for row in rows:
        data = {key: value for key, value in row.items() if key not in ABOUT and key not in controls}
        results = [result for key in controls if key in row for result in results_of(row[key])]
        key = json.dumps([row.get("id"), data], sort_keys=True)
        task = merged.setdefault(key, {"id": row.get("id"), "data": data, "annotations": []})
        task["annotations"].append({"result": results, "updated_at": row.get("updated_at")})
    return list(merged.values())


def columns(path: Path, rows: list[dict[str, Any]], notes: list[str]) -> list[str]:
    """The columns that controls have written, not the task's own."""
    controls, other, own = list[str](), list[str](), [json.dumps(row.get("id", row), sort_keys=True) for row in rows]
    for key in dict.fromkeys(key for row in rows for key in row if key not in ABOUT):
        values = [row[key] for row in rows if key in row]
        if any(is_picture(value) for value in values):
            continue
        told = any(structured(value) for value in values)
        words = {task: row[key] for task, row in zip(own, rows, strict=True) if is_word(row.get(key))}
        kinds, few = len({*words.values()}), len({*own}) < FEW
        returns = few or (kinds < len(words) and (kinds > 1 or len(words) < len({*own})))
        (controls if told or (returns and all(map(is_word, values))) else other).append(key)
    notes.append(f"{path}: columns read as labels: {some(controls) or 'none'}; not read: {some(other) or 'none'}")
    return controls


def is_word(value: object) -> bool:
    return isinstance(value, str) and number(value) is None and "://" not in value


def structured(value: object) -> bool:
    """Choices or regions, as no task's own data has them."""
    parts = value if isinstance(value, list) else [value]
    return any(isinstance(part, dict) and bool({"choices", *LABELS} & part.keys()) for part in parts)


def results_of(value: Any) -> Iterator[dict[str, Any]]:
    """What a control wrote, in its short form → results as JSON has them."""
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, str):
            yield {"type": "choices", "value": {"choices": [part]}}
        elif isinstance(part, dict):
            kind = next((key for key in ("choices", *LABELS) if key in part), "other")
            about = {key: part[key] for key in part if key.startswith(("original_", "image_"))}
            yield {**about, "type": kind, "value": part}
