"""Artifacts that lie: manifests and stores with other shapes, digests, kinds and paths than they have."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.bad_input.case import CANARY, HANDLED, Case, Command, stage, verify
from benchmarks.bad_input.drawn import flipped, model, photo, rewritten, write

COUNT = 4
HUGE = 10**9


@cache
def files() -> dict[str, bytes]:
    """Photographs as an artifact and a model: made once, written by each case."""
    import tempfile

    import planted

    with tempfile.TemporaryDirectory() as place:
        planted.photographs(Path(place, "photographs.json"), [photo(i) for i in range(COUNT)], train=[0, 1])
        model(Path(place, "net"))
        found = (path for path in Path(place).rglob("*") if path.is_file())
        return {path.relative_to(place).as_posix(): path.read_bytes() for path in found}


def written(at: Path) -> Path:
    for name, content in files().items():
        write(at / "results" / name, content)
    return at / "results"


def damaged(change: Callable[[Path], object]) -> Callable[[Path], Command]:
    """`verify` of artifacts of which something is changed."""

    def build(at: Path) -> Command:
        change(written(at))
        return verify(at)

    return build


def manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Command]:
    return damaged(lambda root: rewritten(root / "photographs.json", change))


def forged(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A manifest that lies, whose digests and whose store's copy of it fit the lie, as an attacker would write it."""

    def forge(root: Path) -> None:
        from pipeline.core import store

        path = root / "photographs.json"
        content = json.loads(path.read_text())
        change(content)
        content["digest"] = store.sha(store.canonical({"arrays": content["arrays"], "meta": content["meta"]}))
        text = json.dumps(content)
        path.write_text(text)
        rewritten(store.store_of(path) / "zarr.json", lambda about: about["attributes"].update(manifest=text))

    return forge


def huge(root: Path) -> None:
    """Shape in manifest and store: a photograph of 10⁹ × 10⁹ pixels."""
    forged(lambda found: found["arrays"]["rgb"].update(shape=[COUNT, HUGE, HUGE, 3]))(root)
    rewritten(root / "photographs.zarr/rgb/zarr.json", lambda about: about.update(shape=[COUNT, HUGE, HUGE, 3]))


def many_rows(root: Path) -> None:
    """10¹² photographs, as manifest and store say."""
    for name, shape in (("rgb", [10**12, 96, 96, 3]), ("size", [10**12, 2])):
        forged(lambda found, name=name, shape=shape: found["arrays"][name].update(shape=shape))(root)
        rewritten(root / f"photographs.zarr/{name}/zarr.json", lambda about, shape=shape: about.update(shape=shape))


def chunk(root: Path) -> Path:
    """The file that holds the photographs."""
    return next(path for path in sorted((root / "photographs.zarr/rgb/c").rglob("*")) if path.is_file())


def flip(root: Path) -> None:
    path = chunk(root)
    write(path, flipped(path.read_bytes(), path.stat().st_size // 2))


def cut(root: Path) -> None:
    path = chunk(root)
    write(path, path.read_bytes()[: path.stat().st_size // 2])


def old_form(root: Path) -> None:
    """A store of Zarr's version 2, whose numbers are pickled objects."""
    import pickle

    from benchmarks.bad_input.weights import Payload

    place = root / "photographs.zarr"
    shutil.rmtree(place)
    write(place / ".zgroup", json.dumps({"zarr_format": 2}))
    about = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "compressor": None, "fill_value": None}
    for name in ("rgb", "size", "id", "key", "digest"):
        text = json.dumps({**about, "order": "C", "filters": [{"id": "pickle", "protocol": 5}]})
        write(place / name / ".zarray", text)
        write(place / name / "0", pickle.dumps(Payload()))


def codec(root: Path) -> None:
    rewritten(
        root / "photographs.zarr/size/zarr.json",
        lambda about: about.update(codecs=[{"name": "os.system", "configuration": {"command": f"touch {CANARY}"}}]),
    )


def outside(root: Path) -> None:
    """An array whose name leads out of the store."""
    write(root / "secret/zarr.json", (root / "photographs.zarr/size/zarr.json").read_bytes())
    forged(lambda found: found["arrays"].update({"../secret": {"shape": [COUNT, 2], "dtype": "int32"}}))(root)


def of_another(root: Path) -> None:
    """The manifest of one artifact beside the store of another."""
    (root / "photographs.json").write_bytes((root / "net/model.json").read_bytes())


def is_link(root: Path) -> None:
    """A store that links to itself."""
    shutil.rmtree(root / "photographs.zarr")
    os.symlink("photographs.zarr", root / "photographs.zarr")


def masks(at: Path) -> Command:
    return Command("pipeline.artifacts", ["verify", "nowhere"])


def on(change: Callable[[Path], object]) -> Callable[[Path], Command]:
    """A stage is given photographs that lie."""

    def build(at: Path) -> Command:
        change(written(at))
        return stage("saliency", "--photographs", "results/photographs.json")

    return build


def of_manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Command]:
    return on(lambda root: rewritten(root / "photographs.json", change))


REPAIR = r"1 of 2 artifacts are damaged.*To compute them anew"
FOUND = r"photographs\.json: "
CASES = [
    Case(
        "verify: sound artifacts", damaged(lambda root: None), HANDLED, says=("2 artifacts are as their manifests say",)
    ),
    Case("verify: no such folder", masks, says=("nowhere: no artifact found",)),
    Case("verify: a chunk with a bit flipped", damaged(flip), says=(FOUND, REPAIR)),
    Case("verify: a chunk cut short", damaged(cut), says=(FOUND, REPAIR)),
    Case("verify: a chunk gone", damaged(lambda root: chunk(root).unlink()), says=(FOUND, REPAIR)),
    Case(
        "verify: a manifest of noise",
        damaged(lambda root: write(root / "photographs.json", bytes(range(256)))),
        says=(FOUND, REPAIR),
    ),
    Case(
        "verify: a manifest cut short",
        damaged(lambda root: write(root / "photographs.json", '{"kind": "pho')),
        says=(FOUND, REPAIR),
    ),
    Case(
        "verify: a manifest of 10⁵ levels",
        damaged(lambda root: write(root / "photographs.json", "[" * 10**5)),
        says=(FOUND, REPAIR),
    ),
    Case(
        "verify: other JSON of 10⁵ levels beside",
        damaged(lambda root: write(root / "notes.json", "[" * 10**5)),
        HANDLED,
    ),
    Case("verify: another kind", manifest(lambda found: found.update(kind="masks")), says=(FOUND, REPAIR)),
    Case(
        "verify: another shape",
        manifest(lambda found: found["arrays"]["rgb"].update(shape=[9, 9, 9, 3])),
        says=(FOUND, REPAIR),
    ),
    Case("verify: another digest", manifest(lambda found: found.update(digest="0" * 32)), says=(FOUND, REPAIR)),
    Case("verify: arrays that are no table", manifest(lambda found: found.update(arrays=[1, 2])), says=(FOUND, REPAIR)),
    Case("verify: forged, a shape of 10¹⁸", damaged(huge), says=(FOUND, REPAIR)),
    Case("verify: forged, 10¹² rows", damaged(many_rows), says=(FOUND, REPAIR)),
    Case("verify: forged, an array outside the store", damaged(outside), says=(FOUND, REPAIR)),
    Case(
        "verify: forged, another dtype",
        damaged(forged(lambda found: found["arrays"]["size"].update(dtype="object"))),
        says=(FOUND, REPAIR),
    ),
    Case("verify: a store of pickled objects is not opened", damaged(old_form), says=(FOUND, REPAIR)),
    Case("verify: a codec that names a program", damaged(codec), says=(FOUND, REPAIR)),
    Case("verify: a manifest beside another's store", damaged(of_another), says=(FOUND, REPAIR)),
    Case(
        "verify: a store that links to itself",
        damaged(is_link),
        says=(r"photographs\.zarr: .*the store is not", REPAIR),
    ),
    Case("a stage: sound photographs", on(lambda root: None), HANDLED),
    Case("a stage: a shape of 10¹⁸", on(huge), says=(FOUND,)),
    Case("a stage: 10¹² rows", on(many_rows), HANDLED),
    Case("a stage: a chunk cut short", on(cut), says=(FOUND,)),
    Case("a stage: a store of pickled objects", on(old_form), says=(FOUND,)),
    Case("a stage: a codec that names a program", on(codec), says=(FOUND,)),
    Case(
        "a stage: an array that is gone", on(lambda root: shutil.rmtree(root / "photographs.zarr/size")), says=(FOUND,)
    ),
    Case(
        "a stage: another kind", of_manifest(lambda found: found.update(kind="masks")), says=("photographs expected",)
    ),
    Case("a stage: arrays that are no table", of_manifest(lambda found: found.update(arrays=[1])), says=(FOUND,)),
    Case("a stage: a manifest beside another's store", on(of_another), says=(FOUND,)),
]
