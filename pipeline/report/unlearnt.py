"""What a network did not learn, by what it says of photographs of val and by their tags: the verdict's second half.

It collapsed to the background or to one class; it guesses; or single classes fail while others do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.report.evidence import FEW, Evidence, known, objects, rates, share_of
from pipeline.report.listing import Finding, few, percent

# The network. Half of the photographs that have a tag without one object is no accident …
EMPTY = 0.5
THIN = 0.2  # … nor is a fifth of the object pixels that its labels have: networks smooth, they do not shrink so far
SWAPPED = 0.5  # of the photographs with other tags show the one class, and none of their own
TOP = 0.9  # of all object pixels are one class's, that has
LEADING = 0.6  # or less of the labels' object pixels
SELDOM = 0.1  # of its photographs: a class found no more often counts as never predicted
EVERYWHERE = 0.8  # of the photographs without its tag show a class: tags may be incomplete, but not that much
# How much more often a class is seen where it is tagged than where it is not: 0 guessing, 1 perfect.
GUESSING, TOLD = 0.1, 0.4  # TOLD, KNOWN: of the other classes, before one of them is blamed
BLIND, KNOWN = 0.6, 0.75  # likewise, of a classifier's ranking: 0.5 guessing, 1 perfect (five tags: ± 0.1)
MASKS = "paint masks of some 40 photographs and run `masks`, or `tags-few` beside the tags"


def of_collapse(e: Evidence) -> list[Finding]:
    """The network says one thing, whatever it sees: the background, or one class."""
    seen, ids = e.network, e.foreground
    if seen is None or not len(ids):
        return []
    here, there, tags = objects(e, seen), seen.there[:, ids], seen.tags[:, ids]
    taught = objects(e, e.labels) if e.labels else None
    tagged = np.asarray(tags.any(1))
    empty = share_of(np.asarray(~there.any(1)), tagged) if tagged.sum() >= FEW else math.nan
    thin = taught is not None and here.sum() < THIN * taught.sum()
    if e.background is not None and (empty >= EMPTY or thin):
        compared = f"; its labels ({e.labels.name}) on {percent(1 - taught.sum())}" if e.labels else ""  # type: ignore[union-attr]
        none = f", and no object in {percent(empty)} of the tagged photographs" if empty > 0 else ""
        return [
            Finding(
                kind="collapse to background",
                found=f"The network ({seen.name}) says background on {percent(seen.pixels[e.background])} of the "
                f"pixels of {len(there)} val photographs{none}{compared}.",
                means="It has learnt to say background whatever it sees.",
                next=more(e),
            )
        ]
    if not here.sum():
        return []
    top = int(here.argmax())
    other, much = tagged & ~tags[:, top], here[top] / here.sum()
    swapped = share_of(there[:, top] & ~(there & tags).any(1), other) if other.sum() >= FEW else math.nan
    leads = taught is not None and (
        (much >= TOP and taught[top] <= LEADING * taught.sum()) or (here[top] >= TOP and taught[top] <= LEADING)
    )
    if swapped >= SWAPPED or (math.isnan(swapped) and leads):
        name = e.classes[ids[top]]
        instead = f", also instead of their own in {percent(swapped)} of those tagged otherwise" if swapped > 0 else ""
        return [
            Finding(
                kind="collapse to one class",
                found=f"The network ({seen.name}) says {name} on {percent(here[top])} of the pixels of {len(there)} "
                f"val photographs, {percent(much)} of all that is an object to it{instead}.",
                means="It has learnt one class for all that is an object.",
                next=more(e),
                classes=(name,),
            )
        ]
    return []


def claim_more(e: Evidence) -> str:
    """How the labels of this recipe get more object; it begins a sentence."""
    known = (("cam", "cam.threshold"), ("crf", "crf.background"), ("simple", "relabel-all.foreground"))
    lower = [f"`{setting}`" for method, setting in known if method in e.methods]
    return f"Lower {' and '.join(lower)}, so that labels have more object" if lower else "Look at the labels first"


def more(e: Evidence) -> str:
    """What to try where a network did not learn."""
    weights = "" if "imagenet" in e.methods else "ImageNet's weights to begin with (a recipe with `imagenet`), "
    if e.by_tags:
        begin = weights and f"take {weights}"
        return f"{claim_more(e)}; train longer (epochs of the last step), {begin}or {MASKS}."
    data = "more masks (`few.fraction`, where a step takes a share), " if "masks" in e.methods else ""
    longer = "longer training (of the last step, as `steps: {ce: {epochs: 60}}`)"
    return f"Try {data}{longer}, {weights}or a lower `lr`."


def blind(e: Evidence) -> list[int]:
    """Classes that the tag classifier does not recognise, while it does the others."""
    sure = known(e)
    return [k for k, value in sure.items() if value <= BLIND and middle(sure, k) >= KNOWN]


def of_classifier(e: Evidence) -> Iterator[Finding]:
    """The tag classifier recognises nothing, or some classes only."""
    sure, wrong = known(e), blind(e)
    half = float(np.median(list(sure.values()))) if sure else math.nan
    if half <= BLIND and e.sure:
        yield Finding(
            kind="classifier guesses",
            found=f"The tag classifier ({e.sure.name}) ranks val photographs by a class hardly better than chance: "
            f"{half:.2f} in the middle of {len(sure)} classes (0.5 is guessing, 1 perfect).",
            means="The maps that the labels come from are noise.",
            next="Compare the tags with some photographs; train the classifier longer (`classify.epochs`); "
            f"else {MASKS}.",
        )
    elif wrong:
        shown = [f"{e.classes[k]} ({sure[k]:.2f})" for k in wrong]
        rest = float(np.median([value for k, value in sure.items() if k not in wrong]))
        found = f"The tag classifier does not recognise {few(shown)} on val, and ranks the others at {rest:.2f}"
        yield suspicious(e, wrong, f"{found} (0.5 is guessing, 1 perfect).")


def of_network(e: Evidence) -> Iterator[Finding]:
    """It guesses, or single classes fail."""
    seen, pairs = e.network, rates(e)
    if seen is None:
        return
    told = {k: hit - alarm for k, (hit, alarm) in pairs.items()}
    if told and np.median(list(told.values())) <= GUESSING:
        hit, alarm = (float(np.median([pair[place] for pair in pairs.values()])) for place in (0, 1))
        yield Finding(
            kind="network guesses",
            found=f"The network ({seen.name}) does not tell the classes apart: it shows one in {percent(hit)} of the "
            f"val photographs tagged with it, and in {percent(alarm)} of the others.",
            means="Its masks say nothing of the picture.",
            next=more(e),
        )
        return
    sure = known(e)  # of these the classifier has spoken
    wrong = [
        k
        for k, (hit, alarm) in pairs.items()
        if k not in sure and alarm > 0 and told[k] <= GUESSING and hit < EMPTY and middle(told, k) >= TOLD
    ]
    if wrong:
        shown = [f"{e.classes[k]} ({percent(pairs[k][0])} and {percent(pairs[k][1])})" for k in wrong]
        found = f"The network sees {few(shown)} no more often where it is tagged than where it is not"
        yield suspicious(e, wrong, f"{found}, and finds the others.")
    hits = {int(k): int((seen.there[:, k] & seen.tags[:, k]).sum()) for k in e.foreground}
    counts = {k: int(seen.tags[:, k].sum()) for k in hits}
    spoken = {*wrong, *blind(e)}
    never = [
        k
        for k, count in counts.items()
        if count >= FEW and k not in spoken and hits[k] < SELDOM * count and seen.there[:, k].mean() < SELDOM
    ]
    if never:
        shown = [f"{e.classes[k]} (found in {hits[k]} of the {counts[k]} tagged)" for k in never]
        yield Finding(
            kind="never predicted",
            found=f"The network ({seen.name}) never, or hardly ever, predicts {few(shown)} of the val photographs.",
            means="Too few or too small in its labels, or their tags are wrong.",
            next=f"Compare their tags with some photographs; add photographs of them; else {MASKS}."
            if e.by_tags
            else "Add photographs of them, with masks; compare their masks with the photographs; train longer.",
            classes=e.named(never),
        )
    always = [k for k, (_, alarm) in pairs.items() if alarm >= EVERYWHERE]
    if always:
        shown = [f"{e.classes[k]} (in {percent(pairs[k][1])})" for k in always]
        yield Finding(
            kind="class everywhere",
            found=f"The network ({seen.name}) shows {few(shown)} of the val photographs that are not tagged with it.",
            means="It says so whatever it sees, or the tag is missing in most photographs that show it.",
            next="Compare its tags with some photographs: each must have all tags of what it shows.",
            classes=e.named(always),
        )


def middle(values: dict[int, float], but: int) -> float:
    """Median of the other classes; -inf where there is none, so that nothing is concluded from one class alone."""
    others = [value for k, value in values.items() if k != but]
    return float(np.median(others)) if others else -math.inf


def suspicious(e: Evidence, ids: Sequence[int], found: str) -> Finding:
    return Finding(
        kind="tags look wrong",
        found=found,
        means="Where others are recognised, the tags are the likely fault: mixed up, or missing in many photographs.",
        next="Look at some photographs that have the tag, and some that should; correct tags.csv and run again.",
        classes=e.named(ids),
    )
