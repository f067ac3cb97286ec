"""The verdict on a finished run, for which no mask is needed: what is useless about it, why, and what to try next.

It compares what the network says of photographs of val with their tags, its labels with theirs, and looks at what the
training tags can teach at all. Its thresholds are ours: wide enough for a poor but honest run to pass. What it cannot
judge it says. The numbers are in evidence.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pipeline.report.evidence import FEW, Evidence, alike, known, rates, share_of, together
from pipeline.report.listing import Finding, Verdict, few, percent
from pipeline.report.unlearnt import MASKS, claim_more, of_classifier, of_collapse, of_network

# Tags. Two photographs of VOC share a tenth of their tags, of a street or a fashion set that cannot be learnt from 0.8.
ALIKE = 0.8
TOGETHER = 0.9  # of the photographs with either class have both: in 100 photographs 10 or fewer tell them apart
CONSTANT = 0.95  # of the photographs have the tag: a classifier that always says yes is right too often to learn more
# Labels. A tag that is true should leave a pixel; the CRF may drop some, but not two of three.
LOST = 0.3


def judge(e: Evidence) -> Verdict:
    """All that is to be said. Where the network has collapsed, nothing follows from its single classes."""
    found = [*(of_collapse(e) or of_network(e)), *of_tags(e), *of_labels(e), *of_classifier(e)]
    enough = e.network is not None and bool(e.network.tags.any(1).sum() >= FEW)
    told = summary(e, "Nothing suspicious. " if enough and not found else "")
    return Verdict(summary=told, judged=enough, findings=tuple(found), unjudged=tuple(unjudged(e)))


# --------------------------------------------------------------------------------------------------------- tags


def of_tags(e: Evidence) -> Iterator[Finding]:
    """What no classifier could learn from the training tags."""
    ids, count = e.foreground, len(e.train)
    if not e.by_tags or count < FEW or not e.train.any():
        return
    constant = [k for k in ids if e.train[:, k].mean() >= CONSTANT]
    advice = (
        f"Add photographs that show one class without the others, or leave classes out (data.classes). Else {MASKS}."
    )
    index = alike(e.train)
    if index >= ALIKE:
        every = f"; {few(e.named(constant))} in {percent(CONSTANT)} of them or more" if constant else ""
        yield Finding(
            kind="tags never differ",
            found=f"The tags of the {count} training photographs hardly differ: two of them have "
            f"{percent(index)} of their tags in common{every}.",
            means="Nothing tells the classifier which part of a picture is which class, so its maps are no guide.",
            next=advice,
            classes=e.named(constant),
        )
        return
    groups = together(e.train, ids, TOGETHER, FEW)
    if groups:
        members = [k for group in groups for k in group]
        yield Finding(
            kind="classes always together",
            found="In the training tags these classes (nearly) always occur together: "
            + "; ".join(few(e.named(group)) for group in groups[:4])
            + (f"; and {len(groups) - 4} more groups" if len(groups) > 4 else "")
            + ".",
            means="Tags cannot tell them apart: the network gives one the other's place.",
            next=advice,
            classes=e.named(members),
        )
    alone = [k for k in constant if not any(k in group for group in groups)]
    if alone:
        yield Finding(
            kind="tag of every photograph",
            found=f"{few(e.named(alone))}: a tag of {percent(e.train[:, alone].mean())} of the training photographs.",
            means="The classifier never sees a picture without it, and need not look for it.",
            next=f"Add photographs without it. Else {MASKS}.",
            classes=e.named(alone),
        )


# ------------------------------------------------------------------------------------------------------- labels


def of_labels(e: Evidence) -> Iterator[Finding]:
    """Tags that the labels do not show."""
    seen = e.labels
    if seen is None:
        return
    lost = [
        k for k in e.foreground if seen.tags[:, k].sum() >= FEW and share_of(seen.there[:, k], seen.tags[:, k]) < LOST
    ]
    if not lost:
        return
    shown = [f"{e.classes[k]} ({(seen.there[:, k] & seen.tags[:, k]).sum()} of {seen.tags[:, k].sum()})" for k in lost]
    true = seen.method == "masks"
    yield Finding(
        kind="labels lose a class",
        found=f"The labels ({seen.name}) show few of the photographs' tags: {few(shown)} of the photographs tagged.",
        means="Masks and tags contradict each other." if true else "The network is taught that these are background.",
        next="Open some of these photographs with their masks: one of the two is wrong."
        if true
        else f"{claim_more(e)}; run `erasing`; else {MASKS}.",
        classes=e.named(lost),
    )


# ------------------------------------------------------------------------------------------------- what it says


def summary(e: Evidence, head: str) -> str:
    """What the run does, in one sentence, after this head."""
    seen, ids = e.network, e.foreground
    if seen is None:
        return "No network was judged."
    of = f" of {seen.of}" if seen.of > len(seen.there) else ""
    there, tags = seen.there[:, ids], seen.tags[:, ids]
    if not tags.any():
        return f"On {len(there)}{of} val photographs, which have no tags, nothing can be compared."
    hit, alarm = share_of(there, tags), share_of(there, ~tags)
    false = "" if math.isnan(alarm) else f", and shows {percent(alarm)} of the classes that are not tagged"
    return f"{head}On {len(there)}{of} val photographs the network finds {percent(hit)} of the tagged classes{false}."


def unjudged(e: Evidence) -> Iterator[str]:
    """What was not looked at, or is too little to say anything."""
    count, tagged = e.val
    if e.network is None and not count:
        yield "Split val is empty: what the network says of photographs that it has not seen was not judged."
    elif e.network is None:
        yield "The recipe ends before a network: only its tags and labels were judged."
    elif not tagged:
        yield "No photograph of split val has a tag: whether the network finds what is there was not judged."
    elif tagged < FEW:
        yield f"{tagged} photographs of split val have tags: at least {FEW} are needed to judge by."
    else:
        rare = [k for k in e.foreground if e.network.tags[:, k].sum() < FEW]
        if rare:
            yield f"Tagged in fewer than {FEW} of the val photographs looked at, so not judged: {few(e.named(rare))}."
    if e.by_tags and e.train.any(1).sum() < FEW:
        yield f"{e.train.any(1).sum()} training photographs have tags: too few to judge them."


def table(e: Evidence) -> list[dict[str, Any]]:
    """Every class in numbers; None where there is none."""
    pairs, sure = rates(e), known(e)
    rows: list[dict[str, Any]] = []
    for k, name in enumerate(e.classes):
        tagged = int(e.network.tags[:, k].sum()) if e.network is not None and k != e.background else None
        hit, alarm = pairs.get(k, (None, None))
        if hit is None and e.network is not None and tagged:
            hit = share_of(e.network.there[:, k], e.network.tags[:, k])
        rows.append(
            {
                "name": name,
                "labels": e.labels.pixels[k] if e.labels else None,
                "network": e.network.pixels[k] if e.network else None,
                "tagged": tagged,
                "hit": hit,
                "alarm": alarm,
                "sure": sure.get(k),
            }
        )
    return rows
