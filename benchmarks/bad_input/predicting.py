"""`predict`: photographs, models and tables as users hand them over, or as somebody sends them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bad_input.case import HANDLED, PARTLY, Case, Command, predict
from benchmarks.bad_input.drawn import encoded, model, photo, png, rewritten, save, turned, write

SUFFIXES = ("ppm", "jp2", "gif")


def photos(at: Path, count: int = 3) -> Path:
    model(at)
    for i in range(count):
        save(at / f"photos/p{i}.png", photo(i))
    return at / "photos"


def masks(*names: str) -> Callable[[Path], str]:
    """These masks are there, and no others."""

    def check(folder: Path) -> str:
        found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
        return "" if found == sorted(names) else f"masks: {found}"

    return check


GOOD = ("p0.png", "p1.png", "p2.png")


def among_good(name: str, content: Callable[[], bytes], *more: str) -> Callable[[Path], Command]:
    """One photograph of this content among three good ones, which have their masks all the same."""

    def build(at: Path) -> Command:
        write(photos(at) / name, content())
        return predict(at, check=masks(*GOOD, *more))

    return build


def empty(at: Path) -> Command:
    model(at)
    (at / "photos").mkdir()
    return predict(at)


def all_broken(at: Path) -> Command:
    model(at)
    for i in range(300):
        write(at / f"photos/p{i:03d}.png", encoded(photo())[:900])
    return predict(at)


def foreign(at: Path) -> Command:
    for suffix in SUFFIXES:
        write(photos(at) / f"x{suffix}.{suffix}", encoded(photo(), {"jp2": "JPEG2000"}.get(suffix, suffix.upper())))
    write(at / "photos/IMG.HEIC", b"\0\0\0\x18ftypheic")
    return predict(at, check=masks(*GOOD))


def turned_in_all_ways(at: Path) -> Command:
    photos(at, 0)
    for i in range(1, 9):
        write(at / f"photos/o{i}.jpg", turned(photo(0, 64, 96), i))

    def check(folder: Path) -> str:
        from PIL import Image

        sizes = [Image.open(folder / f"o{i}.png").size for i in range(1, 9)]
        return "" if sizes == [(96, 64)] * 4 + [(64, 96)] * 4 else f"masks of {sizes}"

    return predict(at, check=check)


def changed(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], Command]:
    """A model whose manifest, and the copy of it in its store, say something else."""

    def build(at: Path) -> Command:
        photos(at)
        rewritten(at / "model.json", change)
        text = (at / "model.json").read_text()
        rewritten(at / "model.zarr/zarr.json", lambda about: about["attributes"].update(manifest=text))
        return predict(at)

    return build


def manifest(content: str | bytes) -> Callable[[Path], Command]:
    def build(at: Path) -> Command:
        photos(at)
        write(at / "model.json", content)
        return predict(at)

    return build


def without(*names: str) -> Callable[[Path], Command]:
    """A model that lost a part of itself."""

    def build(at: Path) -> Command:
        photos(at)
        for name in names:
            path = at / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return predict(at)

    return build


def with_tags(content: str | bytes) -> Callable[[Path], Command]:
    def build(at: Path) -> Command:
        photos(at)
        write(at / "tags.csv", content)
        return predict(at, "--tags", "tags.csv")

    return build


def with_words(*words: str) -> Callable[[Path], Command]:
    def build(at: Path) -> Command:
        photos(at)
        return predict(at, *words)

    return build


def given(*folders: str) -> Callable[[Path], Command]:
    """Other folders than `photos`."""

    def build(at: Path) -> Command:
        photos(at)
        command = predict(at)
        return command._replace(words=[command.words[0], *folders, *command.words[2:]])

    return build


def out_is_a_file(at: Path) -> Command:
    photos(at)
    write(at / "masks", "here already")
    return predict(at)


def out_is_the_folder(at: Path) -> Command:
    photos(at)
    command = predict(at)
    return command._replace(words=[word if word != "masks" else "photos" for word in command.words])


def record(content: str) -> Callable[[Path], Command]:
    """A folder of masks whose record is damaged."""

    def build(at: Path) -> Command:
        photos(at)
        write(at / "masks/predict.json", content)
        save(at / "masks/other.png", np.zeros((4, 4), np.uint8))
        return predict(at)

    return build


def entry(number: int, **say: Any) -> Callable[[dict[str, Any]], None]:
    return lambda found: found["meta"]["index"][number].update(say)


def said(**say: Any) -> Callable[[dict[str, Any]], None]:
    return lambda found: found["meta"].update(say)


def unsaid(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda found: found["meta"].pop(key)


MODEL = r"model\.json: "
CASES = [
    Case("predict: an empty folder", empty, says=("photos: no photographs found",)),
    Case("predict: no such folder", given("nowhere"), says=("nowhere: no such file or folder",)),
    Case(
        "predict: one cut short among good ones",
        among_good("z.png", lambda: encoded(photo())[:900]),
        PARTLY,
        says=(r"1 file\(s\) could not be done", r"z\.png: .*truncated.*replace it"),
    ),
    Case(
        "predict: one empty among good ones",
        among_good("z.jpg", lambda: b""),
        PARTLY,
        says=(r"z\.jpg: is empty; copy",),
    ),
    Case(
        "predict: a bomb among good ones",
        among_good("z.png", lambda: png(14000, 14000)),
        PARTLY,
        says=(r"z\.png: has 196000000 pixels.*make it smaller",),
    ),
    Case("predict: 1 × 1 pixels", among_good("z.png", lambda: encoded(photo(0, 1, 1)), "z.png"), HANDLED),
    Case("predict: 1 × 20,000 pixels", among_good("z.png", lambda: encoded(photo(0, 20000, 1)), "z.png"), HANDLED),
    Case("predict: 300 broken ones are one problem", all_broken, PARTLY, says=("300 file", "more")),
    Case("predict: other formats", foreign, PARTLY, says=(r"4 file\(s\)", r"IMG\.HEIC: .*convert")),
    Case("predict: turned in all ways", turned_in_all_ways, HANDLED),
    Case("predict: orientation 9", among_good("z.jpg", lambda: turned(photo(0, 64, 96), 9), "z.png"), HANDLED),
    Case("predict: a folder twice", given("photos", "photos"), says=("would share the mask p0.png|given twice",)),
    Case("predict: masks into the photographs", out_is_the_folder, says=("is one of the photographs; choose another",)),
    Case("predict: masks into a file", out_is_a_file, says=("masks: .*folder",)),
    Case("predict: a record that is none", record("{"), says=(r"predict\.json: ",)),
    Case("predict: a record that is a list", record("[1]"), says=(r"predict\.json: ",)),
    Case("predict: scales that are none", with_words("--scales", "nan"), says=("numbers above 0",)),
    Case("predict: max-side of −5", with_words("--max-side", "-5"), says=("max-side",)),
    Case("predict: a device that is none", with_words("--device", "quantum"), says=("--device quantum",)),
    Case("predict: a GPU that is none", with_words("--device", "cuda:99"), says=("--device cuda:99",)),
    Case("predict: 0 threads", with_words("--threads", "0"), HANDLED),
    Case(
        "predict: tags in Latin-1",
        with_tags("image,tags\np0,ant\ncafé,bee\n".encode("latin-1")),
        says=("is not UTF-8",),
    ),
    Case("predict: tags in UTF-16", with_tags("image,tags\np0,ant\n".encode("utf-16")), HANDLED),
    Case("predict: a table of noise", with_tags(np.random.default_rng(0).bytes(999)), says=(r"tags\.csv: ",)),
    Case("predict: 10⁵ lines without a tag", with_tags("image,tags\n" + "p0\n" * 10**5), says=("p0", "more")),
    Case(
        "predict: tags that it does not know",
        with_tags("image,tags\np0,zebra\n"),
        says=("does not know zebra. It knows",),
    ),
    Case("model: no manifest", without("model.json"), says=(f"{MODEL}no such artifact",)),
    Case(
        "model: no store",
        without("model.zarr"),
        says=(r"model\.zarr: the manifest is there, the store is not; copy it",),
    ),
    Case(
        "model: an empty store",
        without("model.zarr/float32", "model.zarr/int64", "model.zarr/zarr.json"),
        says=("model",),
    ),
    Case("model: a store without its weights", without("model.zarr/float32"), says=(f"{MODEL}.*float32",)),
    Case("model: an empty manifest", manifest(""), says=(f"{MODEL}not a manifest, JSON expected",)),
    Case("model: noise", manifest(np.random.default_rng(0).bytes(999)), says=(f"{MODEL}not a manifest",)),
    Case("model: JSON of 10⁵ levels", manifest("[" * 10**5), says=(f"{MODEL}not a manifest",)),
    Case("model: other JSON", manifest('{"a": 1}'), says=(f"{MODEL}not an artifact's manifest",)),
    Case(
        "model: parts of another type",
        manifest('{"kind": "model", "digest": 1, "arrays": [], "meta": []}'),
        says=(MODEL,),
    ),
    Case(
        "model: another kind",
        changed(lambda m: m.update(kind="seeds")),
        says=(f"{MODEL}this is seeds, model expected",),
    ),
    Case(
        "model: an unknown method",
        changed(lambda m: m["settings"].update(method="../x")),
        says=(f"{MODEL}made by method",),
    ),
    Case("model: no settings", changed(lambda m: m.pop("settings")), says=(MODEL,)),
    *[
        Case(f"model: nothing said of {key}", changed(unsaid(key)), says=(f"{MODEL}.*{key}",))
        for key in ("classes", "head", "backbone", "width", "stride", "index")
    ],
    Case("model: a head that is none", changed(said(head="../../x")), says=(f"{MODEL}.*head",)),
    Case("model: a backbone that is none", changed(said(backbone="os.system")), says=(f"{MODEL}.*backbone",)),
    Case("model: a width of 10⁹", changed(said(width=10**9)), says=(f"{MODEL}.*width|{MODEL}.*fit",)),
    Case("model: a width of −1", changed(said(width=-1)), says=(MODEL,)),
    Case(
        "model: a class more than it was trained for",
        changed(said(classes=["background", "ant", "bee", "cow", "x"])),
        says=(f"{MODEL}its weights do not fit",),
    ),
    Case("model: classes that are no names", changed(said(classes=[1, None, {}, []])), says=(f"{MODEL}.*classes",)),
    Case(
        "model: names of classes with escapes",
        changed(said(classes=["background", "\x1b[31mant", "b\nee", "cow"])),
        HANDLED,
    ),
    Case("model: a shape that lies", changed(entry(0, shape=[10, 10])), says=(f"{MODEL}",)),
    Case(
        "model: a shape of 10¹⁵",
        changed(entry(0, shape=[10**5, 10**5, 10**5])),
        says=(f"{MODEL}.*numbers in the store",),
    ),
    Case("model: a shape below 0", changed(entry(0, shape=[-64, -3, 7, 7])), says=(MODEL,)),
    Case("model: an offset below 0", changed(entry(0, offset=-5)), says=(MODEL,)),
    Case("model: an array outside the store", changed(entry(0, dtype="../../photos")), says=(MODEL,)),
    Case("model: an index of words", changed(said(index=["a", "b"])), says=(MODEL,)),
]
