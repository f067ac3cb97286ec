"""Label Studio's run lengths of brush regions: the alpha of an RGBA picture, packed bit by bit.

The stream (thi.ng's rle-pack; label-studio-sdk reads it in converter/brush.py), high bits first: 32 bits, the number of
values; 5, the bits of a value less one; four times 4, the bits of a count by size class, less one. Then tokens: 1 bit,
whether one value repeats; 2, the size class; the count less one; and the value, or as many values. Values are R, G, B,
A of every pixel, row by row. We write as the SDK does, all four channels alike, 255 inside and 0 outside; we read what
the browser writes, too, where R, G, B are a colour and a region is one long row of literal values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WORD = 8  # bits of a value
SIZES = (3, 4, 8, 16)  # bits of a count, by size class
LONGEST = 1 << 16  # values of a token
CHANNELS = 4
HEADER = 53  # bits
FEW, MANY = 1 << 8, 1 << 16  # bytes looked at in one go, at least and at most


def encode(inside: np.ndarray) -> np.ndarray:
    """bool [H,W] → the stream, uint8 [bytes]. ValueError where the number of values does not fit into 32 bits."""
    flat = np.ravel(inside)
    if flat.size * CHANNELS >= 1 << 32:
        raise ValueError(f"{flat.size} pixels found, at most {(1 << 30) - 1} expected; cut the picture in parts")
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    lengths = np.diff(ends, prepend=0) * CHANNELS
    pieces = -(-lengths // LONGEST)
    counts = np.full(pieces.sum(), LONGEST)
    counts[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * LONGEST
    values = np.repeat(np.where(flat[ends - 1], 255, 0), pieces)
    size_class = np.searchsorted(1 << np.array(SIZES), counts)
    bits = np.array(SIZES)[size_class]
    tokens = (4 + size_class << bits | counts - 1) << WORD | values
    return _packed(
        np.concatenate([[flat.size * CHANNELS, WORD - 1, *(size - 1 for size in SIZES)], tokens]),
        np.concatenate([[32, 5, 4, 4, 4, 4], 3 + bits + WORD]),
    )


def _packed(numbers: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Numbers below 2³², int64 [n], in so many bits each, one after the other, as bytes. At least one bit is left over,
    as where the SDK writes."""
    ends = np.cumsum(widths)
    first, shift = np.divmod(ends - widths, 8)
    aligned = numbers << 40 - widths - shift  # a number touches five bytes at most
    out = np.zeros(int(ends[-1]) // 8 + 5, np.uint8)
    for lane in range(5):  # no two share a bit, so adding is setting
        np.add.at(out, first + lane, (aligned >> 32 - 8 * lane & 255).astype(np.uint8))
    return out[: int(ends[-1]) // 8 + 1]


def decode(stream: Sequence[int] | np.ndarray, height: int, width: int) -> np.ndarray:
    """The stream, numbers of 0 to 255 → alpha, uint8 [height,width]. ValueError where it is none of such a picture."""
    data = np.asarray(stream)
    if data.ndim != 1 or data.dtype.kind not in "iu" or ((data < 0) | (data > 255)).any():
        raise ValueError("a list of numbers from 0 to 255 expected; export it again")
    data = np.append(data.astype(np.uint8), np.zeros(8, np.uint8))  # so that there is something to look at at the end
    head = int.from_bytes(data[:7].tobytes(), "big") >> 3
    total, word = head >> 21, (head >> 16 & 31) + 1
    sizes = np.array([(head >> place & 15) + 1 for place in (12, 8, 4, 0)], np.uint32)
    if word != WORD or total != height * width * CHANNELS:
        raise ValueError(
            f"{total} values of {word} bits found, {height * width * CHANNELS} of {WORD} expected (four channels of "
            f"{width}×{height} pixels); export it again"
        )
    out, at, bit, last, window = np.empty(total, np.uint8), 0, HEADER, 8 * (len(data) - 8), FEW
    while at < total:
        if bit >= last:
            raise ValueError(f"ends after {at} of {total} values; export it again")
        begin = bit // 8
        repeats, counts, values, first, after = _tokens(data, begin, window, sizes)
        follow, taken, place = after.tolist(), list[int](), bit - 8 * begin
        while place < len(follow):
            taken.append(place)
            place = follow[place]
        bit = 8 * begin + place
        window = min(2 * window, MANY) if place < len(follow) + 64 else FEW  # few, after a leap over literal values
        ends = at + np.cumsum(counts[taken], dtype=np.int64)
        here = np.array(taken)[ends - counts[taken] < total]  # what follows the last value is padding
        ends = ends[: len(here)]
        if ends[-1] > total:
            raise ValueError(f"{ends[-1]} values found, {total} expected; export it again")
        out[at : ends[-1]] = np.repeat(values[here], counts[here])
        literal = here[~repeats[here]]
        goal = np.repeat(ends[~repeats[here]] - counts[literal], counts[literal])
        step = np.arange(len(goal)) - np.repeat(np.cumsum(counts[literal]) - counts[literal], counts[literal])
        byte, shift = np.divmod(8 * begin + np.repeat(first[literal], counts[literal]) + WORD * step, 8)
        if len(byte) and byte.max() > len(data) - 8:
            raise ValueError(f"ends before {total} values; export it again")
        out[goal + step] = (data[byte].astype(np.uint16) << 8 | data[byte + 1]) >> 8 - shift & 255
        at = int(ends[-1])
    return out.reshape(height, width, CHANNELS)[..., CHANNELS - 1]


def _tokens(data: np.ndarray, begin: int, count: int, sizes: np.ndarray) -> tuple[np.ndarray, ...]:
    """The token that begins at each bit of data[begin:begin+count], if one does, [bits] each: whether its value
    repeats; how often, or how many there are; its first value; the bits where its values and the next token begin."""
    count = min(count, len(data) - 8 - begin)
    five = np.zeros(count, np.int64)
    for lane in range(5):
        five = five << 8 | data[begin + lane : begin + lane + count]
    look = (five[:, None] >> np.arange(8, 0, -1)).ravel().astype(np.uint32)  # 32 bits from each
    repeats, size = look >> 31 == 1, sizes[look >> 29 & 3]
    counts = (((look & 0x1FFFFFFF) >> 29 - size) + 1).astype(np.int32)
    values = (look >> 29 - WORD - size).astype(np.uint8)
    first = np.arange(8 * count, dtype=np.int32) + 3 + size.astype(np.int32)
    return repeats, counts, values, first, first + WORD * np.where(repeats, 1, counts)
