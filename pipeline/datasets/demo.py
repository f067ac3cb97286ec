"""The built-in set as a layout: no files, a picture is what datasets/collage.py composes from (seed, index)."""

from __future__ import annotations

from pipeline.core.data import Data
from pipeline.datasets.source import Picture, Source, Trace

CLASSES: tuple[str, ...] = ("background", "cat", "owl", "fish", "beetle")


def source(data: Data) -> Source:
    settings = data.demo
    drawn = [(settings.seed, index) for index in range(settings.train + settings.val)]
    pictures = [Picture(f"{index:05d}", (seed, index), (seed, index)) for seed, index in drawn]
    names = [picture.id for picture in pictures]
    train, val = names[: settings.train], names[settings.train :]
    return Source(list(CLASSES), pictures, {"train": train, "val": val, "score": train}, "masks")


def trace(data: Data) -> Trace:
    settings = data.demo
    return Trace((settings.train, settings.val, settings.seed), tags_from="masks", count=settings.train + settings.val)
