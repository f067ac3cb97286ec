"""Reading the small texts of a data set: lists, class names, tables of tags.

Bad data raises nothing here: every finding becomes a line in `problems` (file: what; what to do). No numpy, no torch.
"""

from __future__ import annotations

import codecs
import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from pipeline.datasets.files import identity, is_pipe, some

MARKS = (  # byte order marks; UTF-32's begins as UTF-16's does
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
IMAGE = r"(?:image|photo|photograph|file)(?:[ _-]?(?:name|id|path))?|path|name"  # how a column of them is called
TAG = r"tag|label|class|category"  # one a row; several in the plural
HEADER = re.compile(rf'"?(?:{IMAGE})"?\s*([,;\t])\s*"?(?:({TAG})|tags|labels|classes|categories)"?', re.IGNORECASE)
COLUMNS = re.compile(rf'"?(?:{IMAGE})"?\s*([,;\t]).+', re.IGNORECASE)
TICKED, UNTICKED = {"1", "1.0", "x", "y", "yes", "true"}, {"", "0", "0.0", "n", "no", "false"}


def read_text(path: Path, problems: list[str]) -> str:
    """A text in UTF-8, or in what its byte order mark says (Excel and PowerShell write UTF-16), its characters composed
    (NFC). Of a text that is neither the rest is read as Western European, so that one cause stays one finding."""
    if is_pipe(path):
        problems.append(f"{path}: neither a file nor a folder, but a pipe or a device; put a text file there")
        return ""
    try:
        raw = path.read_bytes()
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror}); check what it is and its permissions")
        return ""
    mark, encoding = next(((mark, name) for mark, name in MARKS if raw.startswith(mark)), (b"", "utf-8"))
    raw = raw[len(mark) :]
    try:
        if encoding == "utf-8" and b"\0" in raw:
            problems.append(f"{path}: holds NUL bytes, as UTF-16 without its mark does; save it as UTF-8")
            return ""
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        byte = f"byte {raw[error.start]:#04x} in line {line}"
        problems.append(f"{path}: is not {encoding.upper()} ({byte}); save it as UTF-8")
        text = raw.decode("cp1252" if encoding == "utf-8" else encoding, "replace")
    return unicodedata.normalize("NFC", text)


def lines_of(path: Path, problems: list[str]) -> list[str]:
    """Lines without blanks at their ends."""
    return [line.strip() for line in read_text(path, problems).splitlines()]


def read_list(path: Path, problems: list[str]) -> list[str]:
    """One picture per line."""
    if not path.exists():
        others = ", ".join(sorted(other.stem for other in path.parent.glob("*.txt"))) or "none"
        problems.append(f"{path}: no such list; lists there: {others}")
        return []
    unread = list[str]()
    counts = Counter(identity(line) for line in lines_of(path, unread) if line)
    problems += unread
    problems += [f"{path}: '{name}' is listed {n} times; keep one" for name, n in counts.items() if n > 1]
    if not counts and not unread:
        problems.append(f"{path}: empty; one image name per line expected")
    return list(counts)


def names_in(path: Path) -> list[str]:
    """The pictures a list names, as often as it does; none where it cannot be read."""
    return [identity(line) for line in lines_of(path, []) if line]


def unfound(where: object, names: Iterable[str], photographs: Mapping[str, object], remedy: str) -> list[str]:
    """Findings: names in a list or table that no photograph has. Where many are wrong for one reason, it is one."""
    ends: dict[str, list[str]] = {}
    for name in photographs:
        ends.setdefault(name.rpartition("/")[2], []).append(name)
    alike = {name.casefold(): name for name in photographs}
    folders, cases, rest = dict[str, str](), dict[str, str](), list[str]()
    for name in names:
        meant = identity(name.replace("\\", "/"))
        if like := ends.get(meant.rpartition("/")[2]):
            folders[name] = next((right for right in like if f"/{meant}".endswith(f"/{right}")), like[0])
        elif name.casefold() in alike:
            cases[name] = alike[name.casefold()]
        else:
            rest.append(name)
    found = []
    for group, cause in ((folders, "with other folders than they lie in"), (cases, "in other capitals")):
        if group:
            pairs = some([f"{right} for '{name}'" for name, right in group.items()])
            found.append(f"{where}: names {len(group)} photographs {cause}; write {pairs}")
    return [*found, *(f"{where}: '{name}' has no photograph; {remedy}" for name in rest)]


def read_classes(path: Path, problems: list[str]) -> list[str]:
    """One class per line; the line number, from 0, is the mask value."""
    unread = list[str]()
    names = [" ".join(name.split()) for name in read_text(path, unread).strip().splitlines()]
    problems += unread
    for name, n in Counter(names).items():
        if not name or n > 1:
            problems.append(
                f"{path}: {f'{name!r} stands on {n} lines' if name else 'a line is empty'}; one class per line expected"
            )
        elif re.search("[,;]", name):
            problems.append(f"{path}: '{name}' holds a comma or semicolon, which separate tags; one class per line")
    for one, other in same_but_for_case(names):
        problems.append(f"{path}: '{one}' and '{other}' differ in capitals alone; keep one, or name them apart")
    if not 2 <= len(names) <= 255 and not unread:
        problems.append(f"{path}: {len(names)} classes; 2 to 255 expected, the background, if there is one, first")
    return names


def same_but_for_case(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs (name, an earlier one) that mean the same to a person: they differ in capitals alone."""
    first: dict[str, str] = {}
    pairs = [(name, first.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)) for name in names]
    return [(name, earlier) for name, earlier in pairs if name != earlier]


def read_tags(
    path: Path, problems: list[str], known: Iterable[str] = (), nothing: str = ""
) -> dict[str, tuple[str, ...]]:
    """tags.csv, in one of three shapes, told apart by its first line. Image names come out without their suffix;
    folders in them stay. Columns are separated by what stands behind the first: a comma, semicolon or tab.

        image,tags        a line per image: a,"cat dog"
        image,tag         a line per image and tag: a,cat then a,dog
        image,cat,dog     a column per tag, of 1 and 0, x and nothing, yes and no: a,1,1

    known: names of classes, of which those with spaces are recognised among the tags (see `split_tags`). nothing: the
    tag of an image whose columns all say no.
    """
    if not path.exists():
        problems.append(f"{path}: no such file; write a header `image,tags` and a line `photo1,cat dog` per image")
        return {}
    unread = list[str]()
    lines = read_text(path, unread).splitlines()  # with blanks at their ends: a tab may be all that stands for no tag
    problems += unread
    header = HEADER.fullmatch(lines[0].strip()) if lines else None
    if header is None:
        if lines and (columns := COLUMNS.fullmatch(lines[0].strip())) and is_ticked(lines, columns[1]):
            return read_columns(path, lines, columns[1], problems, nothing)
        if lines or not unread:
            remedy = "write a line `photo1,cat dog` per image"
            problems.append(f"{path}: {other_header(lines)}`image,tags` expected; {remedy}")
        return {}
    tags: dict[str, tuple[str, ...]] = {}
    phrases = frozenset(name for name in known if " " in name)
    for number, line in enumerate(lines[1:], 2):
        if len(line) > csv.field_size_limit():
            problems.append(
                f"{path}: line {number}: {len(line)} characters, at most {csv.field_size_limit()} are read; "
                "one image and its tags per line expected"
            )
            continue
        try:
            row = next(csv.reader([line], delimiter=header[1], skipinitialspace=True, strict=True), None)
        except csv.Error as error:
            problems.append(f'{path}: line {number}: {error}; close its quotes, `name,"tag tag"` expected')
            continue
        if not row or not line.strip():
            continue
        name = identity(row[0].strip())
        if name in tags and header[2] and len(row) > 1:
            tags[name] = tuple(dict.fromkeys([*tags[name], *split_tags(",".join(row[1:]), phrases)]))
        elif name in tags:
            problems.append(f"{path}: line {number}: '{name}' has a line already; keep one")
        elif len(row) < 2:
            problems.append(f"{path}: line {number}: one column; `name,tag tag` expected")
        tags.setdefault(name, split_tags(",".join(row[1:]), phrases))
    return tags


def other_header(lines: list[str]) -> str:
    return f"the first line is '{lines[0] if lines else ''}'; "


def is_ticked(lines: list[str], gap: str) -> bool:
    """Whether most cells behind the first of each line say yes or no."""
    cells = [cell.strip('" ').casefold() for line in lines[1:] for cell in line.split(gap)[1:]]
    return bool(cells) and sum(cell in TICKED | UNTICKED for cell in cells) > len(cells) / 2


def read_columns(
    path: Path, lines: list[str], gap: str, problems: list[str], nothing: str
) -> dict[str, tuple[str, ...]]:
    """A table with a column per tag, as `read_tags`."""
    tags: dict[str, tuple[str, ...]] = {}
    titles = list[str]()
    for number, line in enumerate(lines, 1):
        try:
            row = next(csv.reader([line], delimiter=gap, skipinitialspace=True, strict=True), [])
        except csv.Error as error:
            problems.append(f"{path}: line {number}: {error}; close its quotes")
            continue
        if not titles:
            titles = [" ".join(title.split()) for title in row[1:]]
            if bad := [title or "''" for n, title in enumerate(titles) if not title or title in titles[:n]]:
                problems.append(f"{path}: columns {some(bad)} have no name or that of another; name each once")
                return {}
            continue
        if not line.strip():
            continue
        name, cells = identity(row[0].strip()), [cell.strip().casefold() for cell in row[1:]]
        odd = [f"'{cell}'" for cell in cells if cell not in TICKED | UNTICKED]
        if name in tags:
            problems.append(f"{path}: line {number}: '{name}' has a line already; keep one")
        elif len(cells) != len(titles):
            problems.append(f"{path}: line {number}: {len(cells)} cells for {len(titles)} columns; correct it")
        elif odd:
            problems.append(
                f"{path}: line {number}: {some(odd)} found, 1 or 0 expected in a column per tag; correct it"
            )
        ticked = tuple(title for title, cell in zip(titles, cells, strict=False) if cell in TICKED)
        tags.setdefault(name, ticked or ((nothing,) if nothing and len(cells) == len(titles) and not odd else ()))
    return tags


def split_tags(text: str, phrases: Collection[str] = ()) -> tuple[str, ...]:
    """Tags are separated by spaces, commas and semicolons; `phrases`, classes of several words, stay together."""
    longest = max((phrase.count(" ") + 1 for phrase in phrases), default=1)
    found: dict[str, None] = {}
    for piece in re.split("[,;]", text):
        words = piece.split()
        while words:
            sizes = range(min(longest, len(words)), 1, -1)
            size = next((n for n in sizes if " ".join(words[:n]) in phrases), 1)
            found[" ".join(words[:size])] = None
            del words[:size]
    return tuple(found)
