"""Tags: bool [N,C], which classes are said to be in each photograph. The column is the class id; the background's, if
there is a background, is always False."""

from __future__ import annotations

import numpy as np

from pipeline.core.store import Artifact
from pipeline.kinds.pixels import VOID


def tags(artifact: Artifact) -> np.ndarray:
    """bool [N,C]."""
    return artifact.read("tags")


def slots(artifact: Artifact) -> np.ndarray:
    """uint8 [N,K]: class ids of each photograph's tags, rising, then VOID. K is at least 4, so that it rarely grows."""
    table = tags(artifact)
    count = table.sum(1)
    out = np.full((len(table), max(4, int(count.max(initial=0)))), VOID, np.uint8)
    rows, ids = np.nonzero(table)
    out[rows, np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)] = ids
    return out


def balanced_draw(table: np.ndarray, candidates: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of the candidate rows, chosen so that classes occur evenly: int64, rising. table: bool [N,C].

    The class that so far occurs least often picks next, at random among the photographs that show it. Each class goes
    once along a shuffled queue of its photographs, so the draw takes O(N·C).
    """
    if count >= len(candidates):
        return np.sort(candidates)
    order = rng.permutation(candidates)
    shown = table[order]
    queues = [np.flatnonzero(column).tolist() for column in shown.T]
    tags_at = np.split(np.nonzero(shown)[1], np.cumsum(shown.sum(1))[:-1])
    nexts, taken = [0] * len(queues), np.zeros(len(order), bool)
    seen = np.append(np.where(shown.any(0), 0.0, np.inf), np.inf)  # inf: none of its photographs is left
    chosen: list[int] = []
    while len(chosen) < count:
        rarest = int(seen.argmin())
        if seen[rarest] == np.inf:  # only photographs without a tag are left
            chosen += np.flatnonzero(~taken)[: count - len(chosen)].tolist()
            break
        queue, at = queues[rarest], nexts[rarest]
        while at < len(queue) and taken[queue[at]]:
            at += 1
        nexts[rarest] = at
        if at == len(queue):
            seen[rarest] = np.inf
            continue
        taken[queue[at]] = True
        chosen.append(queue[at])
        seen[tags_at[queue[at]]] += 1
    return np.sort(order[np.asarray(chosen, np.int64)])
