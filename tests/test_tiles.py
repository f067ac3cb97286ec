"""Large pictures in tiles: the whole picture's labels where the network looks no farther than they overlap, in memory
that does not grow with the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from colours import colour_segmenter
from PIL import Image
from test_export import NAMES, noise, segmenter
from test_predict import CLASSES, PALETTE, call, mask_of, stripes

from pipeline.core import store
from pipeline.core.job import InputError
from pipeline.kinds.pixels import resize_nearest
from pipeline.networks import tiles
from pipeline.networks.door import SegmenterNetwork, open_network
from pipeline.networks.segmenter import Segmenter


def opened(net: Segmenter, flip: bool = False) -> SegmenterNetwork:
    return SegmenterNetwork(net.eval(), NAMES, 0, 64, "cpu", "f32", (1.0,), flip)


@pytest.mark.parametrize(
    ("name", "stride", "head", "size"),
    [
        ("resnet18", 16, "largefov", (1300, 90)),
        ("efficientnet_lite0", 16, "largefov", (64, 1500)),
        ("resnet18", 32, "hypercolumn", (70, 1900)),
    ],
)
def test_tiles_answer_as_one_pass_where_they_overlap_as_far_as_the_network_looks(
    name: str, stride: int, head: str, size: tuple[int, int]
) -> None:
    network = opened(segmenter(name, stride, head))
    seen = tiles.reach(network)
    assert seen is not None and 256 <= seen <= 640
    how = tiles.tiling(network, 2 * seen + 128, seen)
    assert how.exact and how.tile < max(size) and how.overlap == seen
    rgb = noise(1, *size)[0]
    whole = network.probabilities(rgb[None])[0]
    assert len(np.unique(whole.argmax(0))) > 1
    np.testing.assert_array_equal(rows(network, how, rgb), whole.argmax(0).numpy())
    less = tiles.tiling(network, 384, 0)
    assert not less.exact and (rows(network, less, rgb) != whole.argmax(0).numpy()).mean() > 1e-4, "seams can be seen"


def rows(network: SegmenterNetwork, how: tiles.Tiling, rgb: np.ndarray) -> np.ndarray:
    size = rgb.shape[0], rgb.shape[1]
    return np.concatenate(list(tiles.label_rows(network, how, size, tiles.part_of(rgb))))


def test_the_reach_is_how_far_a_pixel_is_seen() -> None:
    """Against the gradient of a single pixel's scores, which vanishes where nothing depends on it."""
    network = opened(segmenter("resnet18", 16, "largefov"))
    seen = tiles.reach(network)
    x = torch.rand(1, 3, 32, 2048).mul(255).requires_grad_()
    for module in network.model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
    network.model(x)[0, :, 16, 1000].sum().backward()
    assert x.grad is not None and seen is not None
    felt = x.grad[0].abs().sum((0, 1)).nonzero().flatten()
    farthest = int(max(1000 - felt[0], felt[-1] - 1000))
    assert seen - 2 * tiles.UNIT < farthest <= seen


@pytest.mark.parametrize("flip", [False, True])
def test_what_looks_at_everything_has_no_reach(flip: bool) -> None:
    network = opened(segmenter("resnet18", 16, "largefov" if flip else "deeplabv3+"), flip)
    assert tiles.reach(network) is None
    how = tiles.tiling(network)
    assert (how.tile, how.overlap, how.exact) == (1536, 128, False)
    assert str(how) == (
        "tiles of 1536 px that overlap by 128 (1.4 times the work), near their seams not quite as in one pass"
    )


def test_parts_cover_every_pixel_once_and_begin_at_cells() -> None:
    for tile, overlap in ((256, 0), (384, 128), (1536, 384)):
        how = tiles.Tiling(tile, overlap, True)
        for length in (*range(1, 300, 7), 255, 256, 257, 384, 385, 1536, 1537, 5000):
            parts = list(tiles._parts(length, how))
            assert [first for _, _, first, _ in parts] == [0, *(last for *_, last in parts[:-1])]
            assert parts[-1][3] == length
            for begin, end, first, last in parts:
                assert begin % tiles.UNIT == 0 and 0 < end - begin <= tile and begin <= first < last <= end
                assert begin == 0 or first - begin >= overlap
                assert end == length or end - last >= overlap
                assert end - begin > tile - tiles.UNIT or length < tile


def test_tiles_that_keep_nothing_are_refused() -> None:
    network = opened(segmenter("resnet18", 16, "deeplabv3+"))
    with pytest.raises(InputError, match=r"--tile 512: nothing is left .* overlap of 256 .* more than 512 expected"):
        tiles.tiling(network, 500, 200)


# -------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It knows its classes by colour."""
    path = tmp_path_factory.mktemp("model") / "model.json"
    return planted.model(path, colour_segmenter(PALETTE), CLASSES, max_side=96).path


def test_predict_uses_tiles_where_they_are_asked_for_and_else_for_large_pictures(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = np.concatenate([stripes(64, 1, 0, 2, 3)] * 10, axis=1)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert call(model, tmp_path / "wide.png", "--out", tmp_path / "whole", "--max-side", 0) == 0
    assert "tiles" not in capsys.readouterr().out
    tiled = ("--max-side", 0, "--tile", 896, "--no-overlays")
    assert call(model, tmp_path / "wide.png", "--out", tmp_path / "tiled", *tiled) == 0
    said = capsys.readouterr().out
    assert said.startswith("large pictures: tiles of 896 px that overlap by 128 (2.0 times the work), near their seams")
    np.testing.assert_array_equal(mask_of(tmp_path / "tiled" / "wide.png"), mask_of(tmp_path / "whole" / "wide.png"))
    assert call(model, tmp_path / "wide.png", "--out", tmp_path / "tiled", "--max-side", 0, "--tile", 1024) == 2
    assert "made with another tile" in capsys.readouterr().err
    assert call(model, tmp_path / "wide.png", "--out", tmp_path / "reduced", "--tile", 200) == 0
    assert "tiles" not in capsys.readouterr().out, "what is reduced to 96 pixels needs none"


def test_a_large_picture_is_tiled_unless_told(model: Path) -> None:
    assert [tiles.large(size, None) for size in ((2048, 2048), (2048, 2049), (100, 50_000))] == [False, True, True]
    assert not tiles.large((2048, 4096), 0) and not tiles.large((2048, 4096), None, crf=True)
    assert tiles.large((100, 300), 256) and not tiles.large((200, 256), 256)


def test_tags_hold_in_every_tile(model: Path) -> None:
    network = open_network(store.Artifact(model))
    rgb = np.concatenate([stripes(64, 1, 0, 2, 3)] * 10, axis=1)
    found = tiles.label_maps(network, 512, 128, False)(rgb[None], [(32, 640)], np.array([[True, False, True, True]]))[0]
    expected = resize_nearest(
        network.probabilities(rgb[None], np.array([[True, False, True, True]]))[0].argmax(0).numpy(), 32, 640
    )
    assert (found == expected).mean() > 0.99 and set(np.unique(found)) == {0, 2, 3}
