"""Artifacts: resume, reuse by row, digests, verification."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import planted
import pytest
import zarr
from conftest import content

from pipeline.core import integrity, rows, store

SHAPE = {"map": ((6, 6), np.uint8), "flag": ((), np.bool_)}


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk; test_durability.py looks at what is synced when."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def header(**parents: str) -> store.Header:
    return store.Header("saliency", "saliency", {"a": 1}, "code", parents=parents or {"images": "1"})


def keys(count: int) -> list[bytes | None]:
    return [bytes([1 + i // 256, i % 256]) * 8 for i in range(count)]


class Compute:
    """Row i is filled from its key's number; remembers what it was asked for, dies before image `fatal`."""

    def __init__(self, fatal: int | None = None, offset: int = 0):
        self.asked: list[int] = []
        self.fatal, self.offset = fatal, offset

    def __call__(self, rows: list[int]):
        for i in rows:
            if i == self.fatal:
                raise KeyboardInterrupt
            self.asked.append(i)
            yield {"map": np.full((6, 6), (i + self.offset) % 251, np.uint8), "flag": np.True_}


def write(path: Path, compute: Compute, count: int = 150, head: store.Header | None = None, ks=None) -> None:
    store.write_rows(path, head or header(), SHAPE, ks or keys(count), compute)


def test_an_interrupted_run_continues_and_gives_the_same_bytes(tmp_path: Path) -> None:
    straight, broken = tmp_path / "a" / "x.json", tmp_path / "b" / "x.json"
    write(straight, Compute())
    with pytest.raises(KeyboardInterrupt):
        write(broken, Compute(fatal=100))
    assert not broken.exists()
    second = Compute()
    write(broken, second)
    assert min(second.asked) == store.SHARD, "the finished shard was computed again"
    assert content(straight) == content(broken)
    assert not store.part_of(broken).exists()


def test_a_changed_fingerprint_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(KeyboardInterrupt):
        write(path, Compute(fatal=100))
    other = store.Header("saliency", "saliency", {"a": 2}, "code", parents={"images": "1"})
    compute = Compute(offset=7)
    write(path, compute, head=other, ks=[key[::-1] for key in keys(150)])
    assert len(compute.asked) == 150


def test_added_images_are_the_only_ones_computed(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write(path, Compute(), count=50)
    more, compute = keys(55), Compute()
    shuffled = more[50:] + more[:50]  # the new ones come first: rows move
    write(path, compute, head=header(images="2"), ks=shuffled)
    assert compute.asked == [0, 1, 2, 3, 4]
    artifact = store.Artifact(path)
    assert [int(artifact["map"][i, 0, 0]) for i in (5, 54)] == [0, 49]
    assert integrity.verify(path) == []


def test_a_kill_while_rows_are_taken_over_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write(path, Compute(), count=100)
    with pytest.raises(KeyboardInterrupt):
        write(path, Compute(fatal=100), head=header(images="2"), ks=keys(105))
    compute = Compute()
    write(path, compute, head=header(images="2"), ks=keys(105))
    assert compute.asked == [100, 101, 102, 103, 104]


def test_uncovered_images_stay_empty(tmp_path: Path) -> None:
    path, ks = tmp_path / "x.json", keys(10)
    ks[3] = None
    compute = Compute()
    write(path, compute, ks=ks)
    artifact = store.Artifact(path)
    assert 3 not in compute.asked
    assert not artifact["flag"][3]
    assert not artifact["map"][3].any()


def test_uncovered_images_hold_the_fill(tmp_path: Path) -> None:
    path, ks = tmp_path / "x.json", keys(70)
    ks[3] = ks[69] = None
    store.write_rows(path, header(), SHAPE, ks, lambda asked: ({"flag": np.True_} for _ in asked), fill={"map": 255})
    artifact = store.Artifact(path)
    assert (artifact.read("map") == 255).all(), "what compute leaves out holds the fill too"
    assert [bool(flag) for flag in artifact.read("flag")] == [i not in (3, 69) for i in range(70)]
    assert integrity.verify(path) == []
    with pytest.raises(ValueError, match="fill of 'mop'"):
        store.write_rows(tmp_path / "y.json", header(), SHAPE, ks, Compute(), fill={"mop": 1})


# ------------------------------------------------------------------------------------------------------ ragged

RAGGED: dict = {"boxes": ((None, 4), np.int32), "scores": ((None,), np.float16), "count": ((), np.int64)}


def ragged_row(i: int) -> store.Row:
    count = [0, 3, 0, 1, 40][i % 5]
    boxes = np.arange(count * 4).reshape(count, 4) + i
    return {"boxes": boxes, "scores": np.arange(2 * count) / 4 + i, "count": np.array(count)}


def write_ragged(path: Path, ks: list, head: store.Header | None = None, asked: list | None = None) -> None:
    def compute(indices: list[int]) -> Iterator[store.Row]:
        for i in indices:
            (asked if asked is not None else []).append(i)
            yield ragged_row(int.from_bytes(ks[i][:2], "big") - 256)

    store.write_rows(path, head or header(), RAGGED, ks, compute)


@pytest.mark.parametrize("chunk", [64, 1000, 2**20])
def test_ragged_rows_come_back_as_they_were(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "FLAT_BYTES", chunk)
    path, ks = tmp_path / "x.json", keys(150)
    ks[64] = None
    write_ragged(path, ks)
    artifact = store.Artifact(path)
    for i in range(150):
        expected = ragged_row(0 if i == 64 else i)  # row 0 has no box, as a row without key
        for name in ("boxes", "scores"):
            made = artifact.row(name, i)
            np.testing.assert_array_equal(made, expected[name])
            assert (made.dtype, made.shape) == (RAGGED[name][1], expected[name].shape)
        assert artifact.row("count", i) == expected["count"]
    np.testing.assert_array_equal(artifact.row("boxes", -1), ragged_row(149)["boxes"])
    with pytest.raises(IndexError):
        artifact.row("boxes", 150)
    ends = artifact.read("boxes_offsets")
    assert (ends.dtype, ends.shape, ends[0], ends[-1]) == (np.int64, (151,), 0, len(artifact.read("boxes")))
    assert artifact.group["boxes"].chunks[0] == max(1, chunk // 16)  # type: ignore[union-attr]
    assert integrity.verify(path) == []


def test_ragged_rows_are_taken_over_in_any_order(tmp_path: Path) -> None:
    path, ks, asked = tmp_path / "x.json", keys(155), []
    write_ragged(path, ks[:150])
    order = np.random.default_rng(0).permutation(155)
    shuffled = [ks[i] for i in order]
    write_ragged(path, shuffled, header(images="2"), asked)
    assert [order[i] for i in asked] == [i for i in order if i >= 150]
    artifact = store.Artifact(path)
    for i, j in enumerate(order):
        np.testing.assert_array_equal(artifact.row("boxes", i), ragged_row(j)["boxes"])
    straight = tmp_path / "straight.json"
    write_ragged(straight, shuffled, header(images="2"))
    assert content(path) == {key.replace("straight", "x"): value for key, value in content(straight).items()}


def test_an_artifact_without_a_single_box(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_ragged(path, [keys(1)[0], None, keys(3)[2]])  # rows 0 and 2 have none
    artifact = store.Artifact(path)
    assert artifact.read("boxes").shape == (0, 4)
    assert [artifact.row("boxes", i).shape for i in range(3)] == [(0, 4)] * 3
    assert integrity.verify(path) == []


def test_where_one_ragged_row_ends_is_part_of_its_digest(tmp_path: Path) -> None:
    made = []
    for name, lengths in (("a", (1, 2)), ("b", (2, 1))):
        rest = iter(range(9))
        written = [{"x": np.array([next(rest) for _ in range(length)])} for length in lengths]
        path = tmp_path / f"{name}.json"
        store.write_rows(
            path, header(), {"x": ((None,), np.int32)}, keys(2), lambda asked, w=written: [w[i] for i in asked]
        )
        made.append(store.Artifact(path))
    np.testing.assert_array_equal(made[0].read("x"), made[1].read("x"))
    assert (made[0].read("digest") != made[1].read("digest")).any(1).all()
    assert made[0].digest != made[1].digest


@pytest.mark.parametrize("value", [np.zeros((2, 3)), np.zeros(4), np.zeros(())])
def test_a_ragged_row_of_the_wrong_shape_is_refused(value: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boxes: a row of shape"):
        store.write_rows(
            tmp_path / "x.json", header(), {"boxes": ((None, 4), int)}, keys(1), lambda _: [{"boxes": value}]
        )


def test_verify_finds_a_moved_box(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_ragged(path, keys(10))
    store.zarr.open_group(store.store_of(path), mode="r+")["boxes"][2, 1] += 1  # type: ignore[index, operator]
    assert integrity.verify(path) == [f"{path}: row 1 differs from its digest"]


# ----------------------------------------------------------------------------------------------------- derived


def write_derived(path: Path, threshold: int, count: int = 150, **options: object) -> tuple[Compute, list[int]]:
    """`claimed` follows from `map` and a threshold that is no part of the keys."""
    compute, asked, ks = Compute(), [], keys(count)
    ks[5] = None

    def derive(i: int, row: store.Row) -> store.Row:
        asked.append(i)
        assert sorted(row) == ["flag", "map"]
        assert row["map"].dtype == np.uint8
        return {"claimed": row["map"] > threshold, "where": np.flatnonzero(row["map"][0] > threshold)}

    derived: dict = {"claimed": ((6, 6), np.bool_), "where": ((None,), np.int32)}
    head = store.Header("seeds", "cam", {"threshold": threshold}, "code", parents={"images": "1"})
    store.write_rows(path, head, SHAPE, ks, compute, derive=derive, derived=derived, **options)  # type: ignore[arg-type]
    return compute, asked


def test_a_changed_threshold_derives_anew_and_computes_nothing(tmp_path: Path) -> None:
    path, straight = tmp_path / "x.json", tmp_path / "straight" / "x.json"
    covered = [i for i in range(150) if i != 5]
    compute, asked = write_derived(path, threshold=100)
    assert (compute.asked, asked) == (covered, covered)
    before = store.Artifact(path)
    digests = before.read("digest")
    compute, asked = write_derived(path, threshold=120)
    assert (compute.asked, asked) == ([], covered)
    artifact = store.Artifact(path)
    assert [bool(artifact["claimed"][i].all()) for i in range(150)] == [i > 120 for i in range(150)]
    assert len(artifact.row("where", 130)) == 6 and len(artifact.row("where", 5)) == 0
    differs = (artifact.read("digest") != digests).any(1)
    assert np.flatnonzero(differs).tolist() == list(range(101, 121)), "digests follow what the derived arrays hold"
    write_derived(straight, threshold=120)
    assert content(path) == content(straight)
    assert integrity.verify(path) == []


def test_rows_are_taken_over_from_a_store_without_the_derived_arrays(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    ks = keys(150)
    store.write_rows(path, header(), SHAPE, ks, Compute())
    compute, asked = write_derived(path, threshold=9)
    assert compute.asked == []
    assert len(asked) == 149
    plain = Compute()  # and back again
    store.write_rows(path, header(), SHAPE, ks, plain)
    assert plain.asked == [5]
    assert "claimed" not in store.Artifact(path)


def test_derive_must_not_change_the_row(tmp_path: Path) -> None:
    def spoil(_: int, row: store.Row) -> store.Row:
        row["map"] += 1
        return {}

    with pytest.raises(ValueError, match="read-only"):
        store.write_rows(tmp_path / "x.json", header(), SHAPE, keys(3), Compute(), derive=spoil, derived={})


@pytest.mark.parametrize("victim", ["map/c/1/0/0", "claimed/c/1/0/0", "digest/c/0/0"])
def test_rows_of_a_damaged_predecessor_are_computed_again(victim: str, tmp_path: Path) -> None:
    path, straight = tmp_path / "x.json", tmp_path / "straight" / "x.json"
    write_derived(path, threshold=1)
    (store.store_of(path) / victim).unlink()
    compute, _ = write_derived(path, threshold=9)
    assert compute.asked == [i for i in range(150) if i != 5 and (victim[0] == "d" or 64 <= i < 128)]
    write_derived(straight, threshold=9)
    assert content(path) == content(straight)


# -------------------------------------------------------------------------------------------------------- keys


def parent(path: Path, count: int = 3, shift: int = 0, **meta: object) -> store.Artifact:
    ks: list[bytes | None] = [b"%016d" % (100 * shift + i + 1) for i in range(count)]
    store.write_rows(path, header(), SHAPE, ks, Compute(offset=shift), meta)
    return store.Artifact(path)


def test_keys_follow_from_the_rows_and_what_they_mean(tmp_path: Path) -> None:
    table = tmp_path / "weights.json"
    store.write_table(table, header(), {"w": np.arange(3)})
    photographs = parent(tmp_path / "p.json")
    made_of = {"weights": store.Artifact(table), "photographs": photographs}

    def keys_of(head: store.Header | None = None, *extra: object, tags: dict | None = None, **options: object) -> list:
        parents = {**made_of, "tags": parent(tmp_path / "t.json", **(tags or {}))}
        digests = {role: artifact.digest for role, artifact in parents.items()}
        base = head or store.Header("seeds", "cam", {"grid": 4, "threshold": 1}, "code")
        return store.row_keys(replace(base, parents=digests), parents, *extra, **options)  # type: ignore[arg-type]

    first = keys_of()
    assert len(set(first)) == 3 and first == keys_of()
    assert first == keys_of(tags={"counts": [1, 2]}), "statistics change no row"
    for meaning in ({"classes": ["cat"]}, {"background": None}, {"background": 0}, {"grid": 8}):
        assert not set(first) & set(keys_of(tags=meaning)), meaning
    assert not set(first) & set(keys_of(None, "more"))
    assert not set(first) & set(keys_of(tags={"shift": 1}))
    other = store.Header("seeds", "cam", {"grid": 4, "threshold": 2}, "code")
    assert not set(first) & set(keys_of(other))
    assert keys_of(without=("threshold",)) == keys_of(other, without=("threshold",))
    some = keys_of(roles=("photographs",))
    assert some == keys_of(tags={"shift": 1}, roles=("photographs",))
    assert some != keys_of(roles=("photographs", "weights")) != first


def test_rows_of_different_data_sets_are_refused(tmp_path: Path) -> None:
    parents = {"photographs": parent(tmp_path / "p.json"), "tags": parent(tmp_path / "t.json", count=4)}
    with pytest.raises(store.ArtifactError, match=r"p\.json has 3, .*t\.json has 4"):
        store.row_keys(store.Header("x", "x", {}, "c"), parents)
    with pytest.raises(ValueError, match="no parent has one row"):
        store.row_keys(store.Header("x", "x", {}, "c"), {})


def test_the_manifest_comes_back_without_computing(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write(path, Compute())
    before = path.read_bytes()
    path.unlink()  # what Snakemake does before it runs a job again
    assert store.finished(path, header())
    assert path.read_bytes() == before
    assert not store.finished(path, header(images="other"))


def test_equal_content_gives_equal_digests_whatever_it_was_made_from(tmp_path: Path) -> None:
    one, other = tmp_path / "1.json", tmp_path / "2.json"
    write(one, Compute())
    write(other, Compute(), head=header(images="2"), ks=[key[::-1] for key in keys(150)])
    assert store.Artifact(one).digest == store.Artifact(other).digest
    third = tmp_path / "3.json"
    write(third, Compute(offset=1))
    assert store.Artifact(third).digest != store.Artifact(one).digest


@pytest.mark.parametrize("table", [False, True])
def test_verify_finds_a_flipped_byte_in_every_file(tmp_path: Path, table: bool) -> None:
    path = tmp_path / "x.json"
    if table:
        store.write_table(path, header(), {"float32": np.arange(1000, dtype=np.float32)}, {"name": "cat"})
    else:
        write(path, Compute(), count=20)
    assert integrity.verify(path) == []
    chunks = [file for file in store.store_of(path).rglob("c/*") if file.is_file()]
    chunks += [file for file in store.store_of(path).rglob("c/**/0") if file.is_file()]
    flips = [(path, at) for at in range(0, path.stat().st_size, 7)]
    flips += [(chunk, chunk.stat().st_size // 2) for chunk in set(chunks)]
    assert len(flips) > (len(path.read_text()) // 7) + (0 if table else 3)
    for file, at in flips:
        data = file.read_bytes()
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert integrity.verify(path), f"{file} byte {at}"
        file.write_bytes(data)
    assert integrity.verify(path) == []


def test_verify_finds_settings_that_are_not_those_of_the_store(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write(path, Compute(), count=3)
    attributes = store.store_of(path) / "zarr.json"
    attributes.write_text(attributes.read_text().replace('\\"a\\": 1', '\\"a\\": 2'))
    path.write_text(path.read_text().replace('"a": 1', '"a": 2'))
    assert "settings" in integrity.verify(path)[0]


def test_opening_the_wrong_thing_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(store.ArtifactError, match="no such artifact"):
        store.Artifact(path)
    write(path, Compute(), count=3)
    with pytest.raises(store.ArtifactError, match="this is saliency, labels expected"):
        store.Artifact(path, "labels")


def test_one_of_several_kinds_may_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write(path, Compute(), count=3)
    assert store.Artifact(path, "labels|saliency").kind == "saliency"
    with pytest.raises(store.ArtifactError, match="this is saliency, labels or soft expected"):
        store.Artifact(path, "labels|soft")
    with pytest.raises(store.ArtifactError, match="saliency without the array 'mop'"):
        store.Artifact(path)["mop"]


def test_choices_are_in_the_manifest_and_not_in_the_fingerprint(tmp_path: Path) -> None:
    plain, chosen = header(), replace(header(), choices=["hourglass", "aspp"])
    assert plain.fingerprint() == chosen.fingerprint()
    assert plain.base() == chosen.base()
    path = tmp_path / "x.json"
    write(path, Compute(), count=3, head=chosen)
    assert store.Artifact(path).manifest["choices"] == ["aspp", "hourglass"]
    assert integrity.verify(path) == []


def make_older(path: Path) -> None:
    """The manifest as a version before `choices` wrote it."""
    manifest = json.loads(path.read_text())
    del manifest["choices"]
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    path.write_text(text)
    group = store.store_of(path) / "zarr.json"
    about = json.loads(group.read_text())
    about["attributes"]["manifest"] = text
    group.write_text(json.dumps(about))


def test_an_artifact_of_before_is_named_and_a_way_out_given(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write(path, Compute(), count=3)
    make_older(path)
    assert store.Artifact(path, "saliency").row("flag", 0), "of the right kind it still opens"
    assert integrity.verify(path) == []
    path.write_text(path.read_text().replace('"kind": "saliency"', '"kind": "images"'))
    with pytest.raises(
        store.ArtifactError, match=r"x.json: this is images, photographs expected; .*older.*snakemake clean"
    ):
        store.Artifact(path, "photographs")
    with pytest.raises(store.ArtifactError, match=r"images without the array 'size'; .*older"):
        store.Artifact(path, "images")["size"]


@pytest.mark.parametrize("text", ["[1]", "{}", '{"kind": "seeds"}', "null", "{", "\0"])
def test_a_file_that_is_no_manifest_is_not_opened(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(store.ArtifactError, match=r"x\.json: not a"):
        store.Artifact(path)
    assert integrity.verify(path)


@pytest.mark.parametrize(
    ("part", "lie"), [("meta", []), ("arrays", [1]), ("kind", 5), ("digest", None), ("settings", "x"), ("meta", "deep")]
)
def test_a_manifest_of_other_types_is_not_opened(part: str, lie: object, tmp_path: Path) -> None:
    path = planted.rows_artifact(tmp_path / "x.json", "tags", {"tags": np.zeros((2, 2), bool)}, {}).path
    content = json.loads(path.read_text()) | {part: lie}
    path.write_text("[" * 100_000 if lie == "deep" else json.dumps(content))
    with pytest.raises(store.ArtifactError, match=r"not a manifest|not an artifact's manifest"):
        store.Artifact(path)
    assert len(integrity.verify(path)) == 1


def test_what_a_manifest_does_not_say_is_named(tmp_path: Path) -> None:
    found = planted.rows_artifact(tmp_path / "x.json", "tags", {"tags": np.zeros((2, 2), bool)}, {"a": 1})
    assert found.meta["a"] == 1 and found.meta.get("b", 2) == 2 and "b" not in found.meta
    with pytest.raises(store.ArtifactError, match=r"x\.json: its manifest says nothing of 'b'"):
        found.meta["b"]


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "a/b", "..", ""])
def test_an_array_outside_the_store_is_none_of_its(name: str, tmp_path: Path) -> None:
    found = planted.rows_artifact(tmp_path / "x.json", "tags", {"tags": np.zeros((2, 2), bool)}, {})
    planted.rows_artifact(tmp_path / "elsewhere.json", "tags", {"tags": np.zeros((2, 2), bool)}, {})
    with pytest.raises(store.ArtifactError, match=r"tags without the array|the array .* cannot be read"):
        found[name]


def test_stores_of_the_form_that_could_hold_pickles_are_not_opened(tmp_path: Path) -> None:
    found = planted.rows_artifact(tmp_path / "x.json", "tags", {"tags": np.zeros((2, 2), bool)}, {})
    shutil.rmtree(store.store_of(found.path))
    zarr.create_group(store.store_of(found.path), zarr_format=2).create_array("tags", data=np.zeros((2, 2), bool))
    with pytest.raises(store.ArtifactError, match=r"x\.json: the manifest is not the one its store was finished with"):
        store.Artifact(found.path)
    with pytest.raises(store.ArtifactError, match=r"x\.json: the store cannot be read .*delete it with its store"):
        found["tags"]


def test_a_claim_that_no_memory_holds_is_a_message(tmp_path: Path) -> None:
    """Manifest and store agree on 10^18 numbers."""
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    path = planted.rows_artifact(tmp_path / "x.json", "photographs", {"rgb": pixels}, {}).path
    about = store.store_of(path) / "rgb" / "zarr.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"shape": [2, 10**9, 10**9, 3]}))
    content = json.loads(path.read_text())
    content["arrays"]["rgb"]["shape"] = [2, 10**9, 10**9, 3]
    planted.forge(path, content)
    with pytest.raises(store.ArtifactError, match="the array 'rgb' cannot be read"):
        store.Artifact(path).row("rgb", 0)


def test_more_rows_than_have_a_digest_are_found(tmp_path: Path) -> None:
    path = planted.rows_artifact(tmp_path / "x.json", "photographs", {"rgb": np.zeros((2, 8, 8, 3), np.uint8)}, {}).path
    about = store.store_of(path) / "rgb" / "zarr.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"shape": [10**12, 8, 8, 3]}))
    manifest = json.loads(path.read_text())
    manifest["arrays"]["rgb"]["shape"] = [10**12, 8, 8, 3]
    manifest["digest"] = store.sha(store.canonical({"arrays": manifest["arrays"], "meta": manifest["meta"]}))
    planted.forge(path, manifest)
    assert integrity.verify(path) == [f"{path}: rgb has 1000000000000 rows, 2 have a digest"]


def test_text_survives() -> None:
    names = ["2007_000032", "größe", "", "x"]
    assert store.decode_text(store.encode_text(names)) == names


def test_a_manifest_beside_the_store_of_another_run_is_not_opened(tmp_path: Path) -> None:
    one, other = tmp_path / "one" / "x.json", tmp_path / "other" / "x.json"
    write(one, Compute(), count=3)
    write(other, Compute(), count=4)
    one.write_bytes(other.read_bytes())
    with pytest.raises(store.ArtifactError, match=r"x\.json: the manifest is not the one its store.*delete it"):
        store.Artifact(one)
    assert integrity.verify(one)


def test_an_array_of_another_shape_than_the_manifest_says_is_not_read(tmp_path: Path) -> None:
    """A bit that flips in a store's own description could otherwise be a shorter array."""
    path = tmp_path / "x.json"
    write(path, Compute(), count=3)
    about = store.store_of(path) / "flag" / "zarr.json"
    text = json.loads(about.read_text())
    text["shape"] = [2]
    about.write_text(json.dumps(text))
    with pytest.raises(store.ArtifactError, match=r"x\.json: flag is \[\[2\], 'bool'\], the manifest says.*delete"):
        store.Artifact(path)["flag"]
