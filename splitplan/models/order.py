"""Topological order of numbered nodes, and a cycle where there is none."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence


def topological(after: Sequence[Sequence[int]]) -> list[int]:
    """The nodes, each behind all that it follows, ties by number; those on or behind a cycle are left out.

    Parameters
    ----------
    after : sequence of sequence of int
        For each node the nodes that follow it.
    """
    waits = [0] * len(after)
    for followers in after:
        for j in followers:
            waits[j] += 1
    ready = [i for i, w in enumerate(waits) if w == 0]
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j in after[i]:
            waits[j] -= 1
            if waits[j] == 0:
                heapq.heappush(ready, j)
    return order


def find_cycle(after: Sequence[Sequence[int]], stuck: Collection[int]) -> list[int]:
    """A cycle among nodes that `topological` left out, its first node again at the end: walked backwards until one comes round."""
    before = {j: i for i in stuck for j in after[i] if j in stuck}
    at, seen = next(iter(before)), []
    while at not in seen:
        seen.append(at)
        at = before[at]
    cycle = seen[seen.index(at) :]
    return [cycle[0], *reversed(cycle)]
