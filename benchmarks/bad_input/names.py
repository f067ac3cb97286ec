"""Names of photographs that no shell, table or file system expects; links and folders that lead elsewhere."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.bad_input.case import CANARY, HANDLED, PARTLY, Case, Command, predict, prepare
from benchmarks.bad_input.drawn import encoded, folder, model, photo, save, write
from pipeline.core import store

SHELL = [
    *(f"$(touch {CANARY})", f"`touch {CANARY}`", f"a;touch {CANARY}", f"a&touch {CANARY}", f"a|touch {CANARY}"),
    *("it's", "a*b?[c]", "{wildcard}", "%s%n", "$HOME", "~", "back\\slash", "#hash", "a=b", "<i>tag<i>", "!x", "@file"),
]
UNICODE = ["füße", "naïve café", "日本語", "עברית", "emoji 🦊", "zero\u200bwidth", "right\u202eleft", "ﬁ ligature"]
LONG = "n" * 246  # with .png 250 bytes
QUOTED = ['say "cheese"', '"', "'quoted'", "a,b", "a;b"]


def named(names: Sequence[str]) -> Callable[[Path], Command]:
    """A data set of photographs of these names, and nothing else wrong; each is found again under its name."""

    def build(at: Path) -> Command:
        folder(at / "photos", names=[*names, "plain1", "plain2"], listed=False)

        def check(manifest: Path) -> str:
            found = set(store.decode_text(store.Artifact(manifest).read("id")))
            gone = {unicodedata.normalize("NFC", name) for name in names} - found
            return f"not found again: {gone}" if gone else ""

        return prepare(at, check=check)

    return build


def answered(names: Sequence[str], *words: str) -> Callable[[Path], Command]:
    """Photographs of these names meet `predict`: each has its mask."""

    def build(at: Path) -> Command:
        model(at)
        for i, name in enumerate(names):
            save(at / "photos" / f"{name}.png", photo(i))

        def check(masks: Path) -> str:
            gone = [name for name in names if not (masks / f"{unicodedata.normalize('NFC', name)}.png").is_file()]
            return f"no mask of {gone}" if gone else ""

        return predict(at, *words, check=check)

    return build


def both_forms(at: Path) -> Command:
    """é as one letter in the table, as e with an accent on the disk (macOS), for half of them the other way round."""
    names = ["é1", "é2", "é3", "é4"]
    root = folder(at / "photos", names=names, listed=False)
    for name in names[:2]:
        os.rename(root / f"images/{name}.png", root / "images" / unicodedata.normalize("NFD", f"{name}.png"))
    table = (root / "tags.csv").read_text()
    write(root / "tags.csv", table.replace("é3", unicodedata.normalize("NFD", "é3")))
    return prepare(at)


def twins(at: Path) -> Command:
    """The two forms of é as two photographs."""
    root = folder(at / "photos", names=["é", "b", "c"], listed=False)
    save(root / "images" / unicodedata.normalize("NFD", "é.png"), photo(5))
    return prepare(at)


def one_name(raw: bytes) -> Callable[[Path], Command]:
    """One photograph whose file is called so, which no table can say."""

    def build(at: Path) -> Command:
        root = folder(at / "photos")
        with open(os.fsencode(root / "images") + b"/" + raw, "wb") as file:
            file.write(encoded(photo()))
        return prepare(at)

    return build


def predict_name(raw: bytes) -> Callable[[Path], Command]:
    def build(at: Path) -> Command:
        model(at)
        save(at / "photos/good.png", photo())
        with open(os.fsencode(at / "photos") + b"/" + raw, "wb") as file:
            file.write(encoded(photo()))
        return predict(at, "--overlays")

    return build


def linked(make: Callable[[Path], None]) -> Callable[[Path], Command]:
    """A sound data set beside which something is linked."""

    def build(at: Path) -> Command:
        root = folder(at / "photos", listed=False)
        make(root)
        return prepare(at)

    return build


def out_of_the_folder(root: Path) -> None:
    save(root.parent / "elsewhere/far.png", photo(11))
    save(root.parent / "elsewhere/more/deep.png", photo(12))
    os.symlink(root.parent / "elsewhere/far.png", root / "images/near.png")
    os.symlink(root.parent / "elsewhere/more", root / "images/linked")
    with (root / "tags.csv").open("a") as file:
        file.write("near,bee\nlinked/deep,cow\n")


def circles(root: Path) -> None:
    os.symlink(root / "images", root / "images/again")
    (root / "images/one").mkdir()
    (root / "images/two").mkdir()
    os.symlink(root / "images/two", root / "images/one/two")
    os.symlink(root / "images/one", root / "images/two/one")


def dangling(root: Path) -> None:
    for i in range(5):
        (root / f"images/a0{i}.png").unlink()
        os.symlink(root / f"annex/{i}.png", root / f"images/a0{i}.png")


def to_itself(root: Path) -> None:
    (root / "images/a00.png").unlink()
    os.symlink("a00.png", root / "images/a00.png")


def endless(root: Path) -> None:
    (root / "images/a00.png").unlink()
    os.symlink("/dev/zero", root / "images/a00.png")


def deep(at: Path) -> Command:
    """300 folders, one in the other."""
    root = folder(at / "photos")
    here = os.open(root / "images", os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    return prepare(at)


def hidden(at: Path) -> Command:
    """A folder from a Mac."""
    model(at)
    save(at / "photos/a.png", photo())
    write(at / "photos/._a.png", b"\0\5\26\7\0\2\0\0Mac OS X        ")
    save(at / "photos/.thumbnails/t.png", photo(1))
    return predict(at)


def predict_pipe(at: Path) -> Command:
    model(at)
    save(at / "photos/a.png", photo())
    os.mkfifo(at / "photos/pipe.png")
    return predict(at)


def predict_circles(at: Path) -> Command:
    model(at)
    save(at / "photos/images/a.png", photo())
    circles(at / "photos")
    return predict(at)


def tables_are_pipes(at: Path) -> Command:
    root = folder(at / "photos")
    for name in ("classes.txt", "tags.csv", "splits/val.txt"):
        (root / name).unlink()
        os.mkfifo(root / name)
    return prepare(at)


CASES = [
    Case("names: Unicode", named(UNICODE), HANDLED),
    Case("names: é in both forms, table and disk apart", both_forms, HANDLED),
    Case("names: é in both forms, two files", twins, says=("is also the name of .*rename one",)),
    Case("names: shell characters", named(SHELL), HANDLED),
    Case("names: quotes and separators", named(QUOTED), HANDLED),
    Case("names: leading dash and spaces inside", named(["-rf", "--out", "two words", "a  b"]), HANDLED),
    Case("names: 250 bytes", named([LONG, "é" * 123]), HANDLED),
    Case("names: a line break", one_name(b"a\nb.png"), says=(r"a\\nb\.png: a name that holds a line break.*rename",)),
    Case("names: an escape of the terminal", one_name(b"\x1b[31mred.png"), says=(r"\\x1b\[31mred", "rename it")),
    Case(
        "names: bytes that are no UTF-8", one_name(b"caf\xe9.png"), says=(r"caf\\udce9\.png: .*not UTF-8; rename it",)
    ),
    Case("names: blanks at the ends", one_name(b" a .png"), says=(r"images/ a \.png: .*rename it",)),
    Case("links out of the folder", linked(out_of_the_folder), HANDLED),
    Case("links in circles", linked(circles), says=("again: a link to a folder that it lies in; remove it",)),
    Case("links to nothing", linked(dangling), says=(r"images/a0\d\.png: cannot be read.*mend the link", "and 4 more")),
    Case("a link to itself", linked(to_itself), says=(r"images/a00\.png: .*mend the link",)),
    Case("a link to a device without end", linked(endless), says=(r"images/a00\.png: .*remove",)),
    Case("folders 300 deep", deep, says=("photos/images/d/", "deep")),
    Case("pipes in place of tables and lists", tables_are_pipes, says=(r"classes\.txt", r"tags\.csv", r"val\.txt")),
    Case("predict: Unicode", answered(UNICODE), HANDLED),
    Case("predict: shell characters, quotes", answered([*SHELL, *QUOTED]), HANDLED),
    Case("predict: leading dash", answered(["-rf", "--out"]), HANDLED),
    Case("predict: 250 bytes", answered([LONG], "--overlays"), HANDLED),
    Case("predict: a line break", predict_name(b"a\nb.png"), HANDLED, says=(r"a\\nb",)),
    Case("predict: bytes that are no UTF-8", predict_name(b"caf\xe9.png"), HANDLED, says=("caf.udce9",)),
    Case("predict: hidden files", hidden, HANDLED, says=("2 hidden files and folders left out",)),
    Case("predict: a pipe", predict_pipe, PARTLY, says=(r"pipe\.png: .*remove it",)),
    Case("predict: links in circles", predict_circles, PARTLY, says=("again: a link to a folder that it lies in",)),
]
