"""What holds for any input: settings, recipes, tables of tags and masks, whatever hypothesis thinks of."""

from __future__ import annotations

import csv
import re
import tempfile
import unicodedata
from contextlib import suppress
from copy import deepcopy
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pipeline.core.config import Config, ConfigError, parse
from pipeline.core.data import Data
from pipeline.core.recipe import Node, recipe_nodes, resolve, role
from pipeline.core.steps import METHODS
from pipeline.core.steps.base import DATA
from pipeline.datasets.classes import keep_classes
from pipeline.datasets.files import SUFFIXES, unusable
from pipeline.datasets.look import look_at_mask
from pipeline.datasets.source import Picture
from pipeline.datasets.tables import read_tags

DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates() | st.binary(max_size=3)
)
WORDS = [*Config.model_fields, *Data.model_fields, *METHODS, "method", "epochs", "lr", "root", "scales", "file"]
KEYS = st.sampled_from(WORDS) | st.text(max_size=5) | st.integers() | st.booleans() | st.none()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=9
)


def places(block: Any, key: tuple = ()) -> list[tuple]:
    """The path to every value of a nested block."""
    items = block.items() if isinstance(block, dict) else enumerate(block) if isinstance(block, list) else ()
    return [path for name, value in items for path in [(*key, name), *places(value, (*key, name))]]


def read(raw: dict) -> None:
    """What Snakemake does with a configuration before it plans: nothing but ConfigError may come of it."""
    with suppress(ConfigError):
        config = parse(raw, {"config.yaml": raw})
        for name in config.run:
            recipe_nodes(config, name, config.seeds[0])


@examples(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_configuration_is_read_or_refused(raw: dict) -> None:
    read(raw)


@examples(max_examples=150, deadline=None)
@given(st.sampled_from(places(DEFAULT)), VALUES, KEYS)
def test_any_value_in_any_place_is_read_or_refused(place: tuple, value: Any, key: Any) -> None:
    """A value replaced, and an entry added beside it."""
    raw = deepcopy(DEFAULT)
    block = raw
    for part in place[:-1]:
        block = block[part]
    block[place[-1]] = value
    if isinstance(block, dict):
        block[key] = value
    read(raw)


@examples(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*METHODS, *DEFAULT["steps"], "nothing"]), min_size=1, max_size=8))
def test_a_recipe_is_a_plan_or_an_error_that_names_the_step(steps: list[str]) -> None:
    nodes, refused = list[Node](), ""
    try:
        nodes = resolve(parse(DEFAULT), steps, 0)
    except ConfigError as error:
        refused = str(error)
    if refused:
        found = re.search(r"step (\d+)", refused)
        assert found and steps[int(found[1]) - 1] in refused
        return
    assert [node.name for node in nodes] == steps
    for place, node in enumerate(nodes):
        earlier = [id(other) for other in nodes[:place]]
        assert node.settings is not None
        for title, source in node.inputs.items():
            wanted = role(node.settings.takes[title])
            assert wanted.accepts(source.kind, source.method)
            assert source.kind in DATA or id(source) in earlier, f"{node.name} takes what is made after it"
        needed = {title for title, text in node.settings.takes.items() if not role(text).optional}
        assert needed <= node.inputs.keys()


LETTERS = st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"))
NAMES = (
    st.text(LETTERS, min_size=1, max_size=8)
    .map(lambda name: unicodedata.normalize("NFC", name).strip())
    .filter(lambda name: name and not unusable(name) and not name.lower().endswith(SUFFIXES))
)
TAGS = (
    st.text(LETTERS, min_size=1, max_size=6)
    .map(lambda tag: re.sub(r"[\s,;]", "", unicodedata.normalize("NFC", tag)))
    .filter(lambda tag: len(tag.split()) == 1)
)


@examples(max_examples=150, deadline=None)
@given(
    st.dictionaries(NAMES, st.lists(TAGS, max_size=3, unique=True).map(tuple), min_size=1, max_size=5),
    st.sampled_from(",;\t"),
    st.sampled_from(" ,;"),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_csv_writes_comes_back_as_tags(
    tags: dict[str, tuple[str, ...]], column: str, between: str, quoting: Any, encoding: str, end: str
) -> None:
    text = StringIO()
    writer = csv.writer(text, delimiter=column, quoting=quoting, lineterminator=end)
    writer.writerow(["image", "tags"])
    writer.writerows([name, between.join(words)] for name, words in tags.items())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tags.csv")
        path.write_bytes(text.getvalue().encode(encoding))
        problems: list[str] = []
        assert read_tags(path, problems) == tags
        assert problems == []


MASKS = st.sampled_from([np.uint8, np.uint16]).flatmap(
    lambda kind: arrays(kind, st.tuples(st.integers(1, 6), st.integers(1, 6)))
)
SMALL = st.integers(2, 4).flatmap(lambda top: arrays(np.uint8, (4, 5), elements=st.integers(0, top)))


@examples(max_examples=150, deadline=None)
@given(MASKS | SMALL, st.integers(2, 255), st.sampled_from("LP"))
def test_a_mask_comes_back_or_an_error_names_the_value(mask: np.ndarray, count: int, form: str) -> None:
    """uint8 as gray or palette, uint16 as gray; of so many classes."""
    problems, file, picture = list[str](), BytesIO(), Image.fromarray(mask)
    classes = keep_classes([f"c{i}" for i in range(count)], Data(), problems)
    if form == "P" and mask.dtype == np.uint8:
        picture.putpalette(list(range(256)) * 3)
    picture.save(file, "PNG")
    place = Picture("a", Path("a.jpg"), Path("a.png"))
    values, found = look_at_mask(place, file.getvalue(), (mask.shape[0], mask.shape[1]), classes)
    present = {int(value) for value in np.unique(mask)}
    unknown = present - {*range(count), 255}
    assert problems == []
    assert values == {value for value in present if value <= 255}
    if not unknown:
        assert found == []
        assert classes.values[sorted(values)].tolist() == sorted(values)
        return
    assert len(found) == 1 and found[0].startswith("a.png: values ")
    assert any(re.search(rf"\b{value}\b", found[0].partition(" can be used")[0]) for value in unknown)
