"""Artifacts: resume, reuse by row, digests, verification."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import content

from pipeline.core import integrity, store

SHAPE = {"map": ((6, 6), np.uint8), "flag": ((), np.bool_)}


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


def test_text_survives() -> None:
    names = ["2007_000032", "größe", "", "x"]
    assert store.decode_text(store.encode_text(names)) == names
