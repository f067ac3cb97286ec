"""The pictures of the built-in set, composed from photographs inside scikit-image, with exact masks and tags.

Four creatures of collage lie on grass, gravel, brick, sand or wood. Each has a small telling head, cut from a
photograph (a cat's face, cups of coffee, a retina, the Hubble deep field), and a large body whose texture and
hue only lean towards its class. So a network trained on tags finds the heads, and has to look at bodies once
they are erased. Cushions (bodies without a head), leaves, pebbles, paper and coins are clutter.

Reads:  only what the scikit-image wheel holds, so it works offline. A picture depends on (seed, index) alone.
Writes: images/, masks/, tags.csv, splits/, classes.txt: a plain folder like any user's own. 20 ms a picture.
Legend: H W picture, h w window around one thing; u v its own axes (ahead, down), in units of its scale.
Shapes are signed distances, negative inside, so that edges are anti-aliased; abs() draws one on both sides.
"""

from __future__ import annotations

import math
from colorsys import hsv_to_rgb
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage import data

from pipeline.datasets.demo import CLASSES
from pipeline.kinds.pixels import VOID

Floats = NDArray[np.floating]
Rng = np.random.Generator
Colour = tuple[float, float, float]
Point = tuple[float, float]

PALETTE = [0, 0, 0, 224, 138, 60, 142, 110, 190, 52, 152, 200, 206, 66, 98] + [0] * 750 + [255, 255, 255]

# What makes the set hard. Smaller heads leave more for erasing to find. The further bodies stray from the hue
# (in turns of the colour wheel) and texture of their class, the less they are used while heads can be seen.
HEAD, HUE_SPREAD, OWN_TEXTURE = 0.88, 0.15, 0.65
BODY_HUE = {"cat": 0.08, "owl": 0.78, "fish": 0.55, "beetle": 0.96}
BODY_TEXTURE = {"cat": ("grass", 4), "owl": ("brick", 5), "fish": ("gravel", 3), "beetle": ("moon", 3)}
# Each ground keeps its own two tones, dark and light: colour follows texture, for colorization to learn.
GROUND: dict[str, tuple[Colour, Colour]] = {
    "grass": ((0.13, 0.23, 0.08), (0.60, 0.68, 0.34)),
    "gravel": ((0.27, 0.26, 0.27), (0.72, 0.70, 0.66)),
    "brick": ((0.36, 0.20, 0.16), (0.78, 0.70, 0.62)),
    "moon": ((0.60, 0.50, 0.36), (0.86, 0.79, 0.64)),
    "coffee": ((0.25, 0.11, 0.05), (0.78, 0.52, 0.34)),
}


@cache
def photograph(name: str, factor: int) -> Floats:
    """A picture of the scikit-image wheel, `factor` times smaller by averaging: [h,w,3] in 0..1."""
    rgb = np.atleast_3d(np.asarray(getattr(data, name)(), np.float32))[..., :3] / 255
    h, w = (side // factor for side in rgb.shape[:2])
    small = rgb[: h * factor, : w * factor].reshape(h, factor, w, factor, -1).mean((1, 3))
    return np.broadcast_to(small, (h, w, 3))


@cache
def texture(name: str, factor: int) -> Floats:
    """The grey tones of a photograph, stretched to 0..1 and mirrored until any picture fits in: [h,w]."""
    tone = photograph(name, factor).mean(2)
    if name == "coffee":  # only this corner is bare wood, and the light falls off across it
        tone = tone[270 // factor : 370 // factor, : 76 // factor]
        tone = tone - ndimage.gaussian_filter(tone, 12 / factor)
    low, high = np.percentile(tone, (2, 98))
    tone = np.clip((tone - low) / (high - low), 0, 1)
    while min(tone.shape) < 352:
        tone = np.pad(tone, ((0, tone.shape[0]), (0, tone.shape[1])), mode="symmetric")
    return np.asarray(tone, np.float32)


def tinted(name: str, factor: int, dark: Colour, light: Colour, shape: tuple[int, ...], rng: Rng) -> Floats:
    """A random window of a texture as shades between two colours: [h,w,3]. Interpolation would blur it."""
    tone, (h, w) = texture(name, factor), shape
    y, x = rng.integers(0, tone.shape[0] - h + 1), rng.integers(0, tone.shape[1] - w + 1)
    tone = tone[y : y + h, x : x + w][:: rng.choice((-1, 1)), :: rng.choice((-1, 1)), None]
    return np.asarray(dark, np.float32) * (1 - tone) + np.asarray(light, np.float32) * tone


def look_up(name: str, factor: int, row: Floats, col: Floats) -> Floats:
    """A photograph at positions [h,w] (full-size pixels), bilinear, mirrored beyond its rim: [h,w,3]."""
    photo, at = photograph(name, factor), (row / factor - 0.5, col / factor - 0.5)
    return np.dstack([ndimage.map_coordinates(photo[..., c], at, order=1, mode="mirror") for c in range(3)])


def ellipse(u: Floats, v: Floats, ru: float, rv: float) -> Floats:
    """Distance to an ellipse at the origin, exact to first order at its rim: [h,w]."""
    near = np.hypot(u / ru, v / rv)
    return np.asarray(near * (near - 1) / (np.hypot(u / ru**2, v / rv**2) + 1e-6))


def capsule(u: Floats, v: Floats, a: Point, b: Point, r: float) -> Floats:
    """Distance to the line from a to b, 2 r thick: [h,w]."""
    du, dv = b[0] - a[0], b[1] - a[1]
    along = np.clip(((u - a[0]) * du + (v - a[1]) * dv) / (du * du + dv * dv), 0, 1)
    return np.asarray(np.hypot(u - a[0] - along * du, v - a[1] - along * dv) - r)


def convex(u: Floats, v: Floats, *corners: Point) -> Floats:
    """Distance to a convex polygon with corners clockwise on the screen: [h,w]. Too small beyond corners."""
    edges = zip(corners, corners[1:] + corners[:1], strict=True)
    sides = [((u - a) * (d - b) - (v - b) * (c - a)) / math.hypot(c - a, d - b) for (a, b), (c, d) in edges]
    return np.asarray(np.max(sides, axis=0))


class Thing:
    """One thing to be laid on the picture: its window, its axes [h,w], and its parts in painting order. Its origin
    is at `place` (y, x); it is turned by `tilt` and, by chance, flipped left to right."""

    def __init__(self, rng: Rng, shape: tuple[int, int], place: Point, scale: float, tilt: float) -> None:
        reach = 1.5 * scale + 6
        window = tuple(slice(max(int(c - reach), 0), int(c + reach) + 1) for c in place)
        y, x = np.indices(shape, np.float32)[:, *window]
        y, x = (y - place[0]) / scale, (x - place[1]) / scale
        cos, sin, flip = math.cos(tilt), math.sin(tilt), int(rng.choice((-1, 1)))
        self.rng, self.scale, self.window = rng, scale, window
        self.u, self.v = (x * cos + y * sin) * flip, y * cos - x * sin
        self.parts: list[tuple[Floats, Floats]] = []

    def add(self, distance: Floats, rgb: Floats | Colour, roundness: float = 0.3) -> None:
        """Add a part; it darkens within `roundness` of its rim, as a bulging thing does."""
        inside = np.clip(-distance / roundness, 0, 1)
        bulge = 0.60 + 0.44 * np.sqrt(1 - (1 - inside) ** 2) - 0.10 * self.v
        self.parts.append((distance * self.scale, np.asarray(rgb, np.float32) * bulge[..., None]))

    def cloth(self, kind: str) -> Floats:
        """The stuff of a body, leaning towards its class in texture and hue: [h,w,3]."""
        woven = kind if self.rng.random() < OWN_TEXTURE else str(self.rng.choice(CLASSES[1:]))
        hue = BODY_HUE[kind] + self.rng.normal(0, HUE_SPREAD)
        saturation, value = self.rng.uniform(0.35, 0.75), self.rng.uniform(0.65, 1.0)
        dark, light = (hsv_to_rgb(hue % 1, saturation + s, value * v) for s, v in ((0.1, 0.55), (-0.15, 1.0)))
        return tinted(*BODY_TEXTURE[woven], dark, light, self.u.shape, self.rng)


def cat(t: Thing) -> None:
    """Four short legs and a raised tail; the head is a photographed face in a ruff."""
    fur, u, v = t.cloth("cat"), t.u, t.v
    for foot in (-0.72, -0.42, 0.12, 0.38):
        t.add(capsule(u, v, (foot * 0.9, 0.3), (foot, 0.78), 0.13), fur, 0.12)
    t.add(capsule(u, v, (-0.8, 0.0), (-1.12, -0.5), 0.11), fur, 0.12)
    t.add(ellipse(u + 0.18, v - 0.10, 0.88, 0.50), fur)
    hu, hv = (u - 0.60) / HEAD, (v + 0.32) / HEAD
    t.add(convex(np.abs(hu), hv, (0.06, -0.28), (0.36, -0.62), (0.40, -0.12)) * HEAD, (0.80, 0.52, 0.40), 0.2)
    t.add(ellipse(hu, hv - 0.12, 0.54, 0.36) * HEAD, (0.98, 0.95, 0.92), 0.1)
    t.add(ellipse(hu, hv, 0.44, 0.42) * HEAD, look_up("chelsea", 8, 165 + hv * 345, 225 + hu * 345), 0.1)


def owl(t: Thing) -> None:
    """Upright, with folded wings; the eyes are two cups of coffee."""
    plumage, u, v = t.cloth("owl"), t.u, t.v
    t.add(capsule(np.abs(u), v, (0.2, 0.9), (0.26, 1.06), 0.09), (0.85, 0.62, 0.22), 0.1)
    t.add(ellipse(u, v - 0.22, 0.60, 0.84), plumage)
    t.add(ellipse(np.abs(u) - 0.44, v - 0.28, 0.2, 0.58), plumage * 0.8, 0.15)
    hu, hv = np.abs(u) / HEAD, (v + 0.52) / HEAD
    t.add(convex(hu, hv, (0.12, -0.26), (0.44, -0.52), (0.44, -0.05)) * HEAD, (0.36, 0.25, 0.17), 0.1)
    t.add(ellipse(hu, hv, 0.48, 0.36) * HEAD, (0.42, 0.29, 0.20), 0.2)
    eu, ev, eye = hu - 0.22, hv + 0.02, np.hypot(hu - 0.22, hv + 0.02)
    t.add((eye - 0.22) * HEAD, (0.98, 0.95, 0.88), 0.05)
    t.add((eye - 0.15) * HEAD, look_up("coffee", 8, 120 + ev * 240, 320 + eu * 240), 0.04)
    t.add((eye - 0.07) * HEAD, (0.06, 0.04, 0.03), 0.02)
    t.add(convex(hu, hv, (-0.09, 0.08), (0.09, 0.08), (0.0, 0.30)) * HEAD, (0.95, 0.72, 0.20), 0.1)


def fish(t: Thing) -> None:
    """Tail and fins; the face is a retina."""
    scales, u, v = t.cloth("fish"), t.u, t.v
    t.add(convex(u, v, (-0.62, 0.0), (-1.24, 0.46), (-1.24, -0.46)), scales * 0.8, 0.15)
    t.add(convex(u, v, (-0.45, -0.25), (-0.30, -0.72), (0.30, -0.35)), scales * 0.8, 0.15)
    t.add(ellipse(u + 0.06, v, 0.92, 0.52), scales)
    t.add(ellipse(u + 0.06, v - 0.14, 0.24, 0.12), scales * 0.75, 0.1)
    hu, hv = (u - 0.58) / HEAD, v / HEAD
    t.add((np.hypot(hu, hv) - 0.41) * HEAD, look_up("retina", 32, 705 + hv * 1600, 705 - hu * 1600), 0.15)
    t.add((np.hypot(hu - 0.08, hv + 0.1) - 0.16) * HEAD, (0.97, 0.95, 0.80), 0.1)
    t.add((np.hypot(hu - 0.10, hv + 0.1) - 0.09) * HEAD, (0.05, 0.05, 0.07), 0.05)


def beetle(t: Thing) -> None:
    """A domed shell on six legs; the head is cut from the deep field."""
    shell, u, v = t.cloth("beetle"), t.u, t.v
    for knee in (-0.55, -0.1, 0.35):
        t.add(capsule(u, np.abs(v), (knee, 0.3), (knee * 1.15, 0.72), 0.075), (0.16, 0.13, 0.14), 0.08)
    t.add(ellipse(u + 0.12, v, 0.84, 0.60), shell)
    t.add(capsule(u, v, (-0.95, 0.0), (0.5, 0.0), 0.02), shell * 0.45, 0.01)
    hu, hv = (u - 0.70) / HEAD, np.abs(v) / HEAD
    stars = look_up("hubble_deep_field", 4, 440 + v * 160, 480 + u * 160) * 1.6
    t.add(capsule(hu, hv, (0.17, 0.1), (0.54, 0.36), 0.045) * HEAD, (0.10, 0.10, 0.20), 0.1)
    t.add(ellipse(hu, hv, 0.34, 0.42) * HEAD, stars + np.array((0.05, 0.06, 0.16)), 0.08)
    t.add((np.hypot(hu - 0.16, hv - 0.2) - 0.09) * HEAD, (0.98, 0.85, 0.25), 0.05)


def litter(t: Thing) -> None:
    """A leaf, a pebble, a scrap of print, or one of four coins in silver, copper or gold."""
    u, v, rng, kind = t.u, t.v, t.rng, t.rng.integers(4)
    if kind == 0:
        hue = rng.uniform(0.06, 0.28)  # autumnal to fresh
        dark, light = hsv_to_rgb(hue, 0.7, 0.35), hsv_to_rgb(hue, 0.6, 0.75)
        t.add(np.hypot(u, np.abs(v) + 1.0) - 1.45, tinted("grass", 2, dark, light, u.shape, rng), 0.2)
        t.add(capsule(u, v, (-1.3, 0), (0.9, 0), 0.05), dark, 0.02)
    elif kind == 1:
        grey = rng.uniform(0.5, 0.9)
        stone = tinted("moon", 2, (grey * 0.6,) * 3, (grey, grey, grey * 0.95), u.shape, rng)
        t.add(ellipse(u, v, 1.1, rng.uniform(0.6, 0.9)), stone, 0.5)
    elif kind == 2:
        print_ = tinted("page", 2, (0.25, 0.22, 0.20), (0.95, 0.92, 0.84), u.shape, rng)
        t.add(np.maximum(np.abs(u) - 1.4, np.abs(v) - 0.9), print_, 0.15)
    else:
        y, x, r = ((51, 155, 25), (119, 271, 25), (193, 212, 23), (263, 244, 23))[rng.integers(4)]
        metal = ((1.14, 1.14, 1.2), (1.2, 0.86, 0.66), (1.2, 1.06, 0.6))[rng.integers(3)]
        t.add(np.hypot(u, v) - 0.9, look_up("coins", 2, y + v * r, x + u * r) * np.array(metal), 0.1)


def cushion(t: Thing) -> None:
    """A body without a head, of any class: why a body alone proves little."""
    t.add(ellipse(t.u, t.v, 1.15, t.rng.uniform(0.7, 1.0)), t.cloth(str(t.rng.choice(CLASSES[1:]))), 0.4)


# With the largest tilt at which each still looks at ease, in radians.
CREATURES = {"cat": (cat, 0.4), "owl": (owl, 0.4), "fish": (fish, 0.8), "beetle": (beetle, 3.1)}


def lay(rgb: Floats, thing: Thing) -> NDArray[np.bool_]:
    """Paint a thing and its shadow onto the picture [H,W,3]; returns what it covers: bool [h,w]."""
    here, outline = rgb[thing.window], np.min([distance for distance, _ in thing.parts], axis=0)
    # The sun stands at the upper left: the shadow is the outline, moved by 3 px and with a soft rim.
    shade = np.pad(outline, ((3, 0), (3, 0)), mode="edge")[:-3, :-3]
    here *= 1 - 0.5 * np.clip(0.5 - shade / 6, 0, 1)[..., None]
    for distance, colour in thing.parts:
        here += np.clip(0.5 - distance, 0, 1)[..., None] * (colour - here)
    return np.asarray(outline < 0)


def ground(h: int, w: int, rng: Rng) -> Floats:
    """One kind of ground, or two that meet along a wavy line, unevenly lit: [h,w,3]."""
    y, x = np.mgrid[:h, :w].astype(np.float32)
    names = [str(name) for name in rng.permutation(list(GROUND))[:2]]
    first, second = (tinted(n, int(rng.choice((1, 2))), *GROUND[n], (h, w), rng) for n in names)
    turn, phase, edge = rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi), rng.choice((-200, -25, 25))
    line = (x - w / 2) * math.cos(turn) + (y - h / 2) * math.sin(turn) + 5 * np.sin((x + y) / 14 + phase)
    blend = np.clip(line + float(edge), 0, 1)[..., None]  # at -200 the second ground stays out of the picture
    light = 1 + 0.18 * math.cos(phase) * (x / w - 0.5) + 0.18 * math.sin(phase) * (y / h - 0.5)
    return np.asarray((first + blend * (second - first)) * light[..., None], np.float32)


def places(h: int, w: int, rng: Rng) -> list[tuple[Point, float]]:
    """Places (y, x) and scales of one to three creatures, none of which hides another.

    Half of them may be cut by the picture's edge, which saliency takes for a sign of background.
    """
    found: list[tuple[Point, float]] = []
    count = int(rng.choice((1, 2, 3), p=(0.4, 0.45, 0.15)))
    for _ in range(40 * count):
        scale = math.sqrt(h * w) * rng.uniform(0.34, 0.45) / (1, 1.35, 1.65)[count - 1]
        inset = scale * rng.choice((0.85, 0.2))
        y, x = (rng.uniform(min(inset, side / 2), max(side - inset, side / 2)) for side in (h, w))
        if all(math.hypot(y - b, x - a) > 0.8 * (scale + other) for (b, a), other in found):
            found.append(((y, x), scale))
    return found[:count]


def compose(seed: int, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[str]]:
    """One picture: rgb u8 [H,W,3], mask u8 [H,W] (255 = void), sorted names of what is in it."""
    rng = np.random.default_rng((seed, index))
    sides = int(rng.integers(88, 113)), int(rng.integers(112, 161))
    h, w = sides if rng.random() < 0.6 else sides[::-1]
    rgb, mask = ground(h, w, rng), np.zeros((h, w), np.uint8)
    for _ in range(rng.integers(2, 7)):
        draw, scale = (litter, 8.5) if rng.random() < 0.65 else (cushion, 20.0)
        at, scale = (rng.uniform(0, h), rng.uniform(0, w)), scale * rng.uniform(0.75, 1.3)
        thing = Thing(rng, (h, w), at, scale, rng.uniform(-math.pi, math.pi))
        draw(thing)
        lay(rgb, thing)
    for k, (at, scale) in enumerate(places(h, w, rng)):
        # The first creature goes by turns: every class occurs about as often in any run of pictures.
        label = 1 + (index if k == 0 else int(rng.integers(4))) % (len(CLASSES) - 1)
        draw, tilt = CREATURES[CLASSES[label]]
        thing = Thing(rng, (h, w), at, scale, rng.uniform(-tilt, tilt))
        draw(thing)
        covered, part = lay(rgb, thing), mask[thing.window]
        # Two pixels of void along the outline, as in Pascal VOC; feelers are all outline.
        part[ndimage.binary_dilation(covered)] = VOID
        part[ndimage.binary_erosion(covered, border_value=1)] = label
    tags = sorted(CLASSES[label] for label in np.unique(mask) if 0 < label < VOID)
    return np.round(np.clip(rgb + rng.normal(0, 0.015, rgb.shape), 0, 1) * 255).astype(np.uint8), mask, tags


def write(root: Path, train: int, val: int, seed: int) -> None:
    """Compose `train` + `val` pictures into a plain folder at `root`."""
    names, table = [f"{index:05d}" for index in range(train + val)], "image,tags\n"
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        rgb, mask, tags = compose(seed, index)
        Image.fromarray(rgb).save(root / "images" / f"{name}.png")
        indexed = Image.fromarray(mask).convert("P")
        indexed.putpalette(PALETTE)
        indexed.save(root / "masks" / f"{name}.png")
        table += f"{name},{' '.join(tags)}\n"
    (root / "tags.csv").write_text(table)
    for split, part in (("train", names[:train]), ("val", names[train:])):
        (root / "splits" / f"{split}.txt").write_text("".join(f"{name}\n" for name in part))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
