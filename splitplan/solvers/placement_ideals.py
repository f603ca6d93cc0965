"""Order ideals of a graph of groups: the sets of groups that a pipeline may have passed at some point, and their sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from splitplan.formulations.placement_costs import Groups
from splitplan.solvers.ideals import unpacked


class TooMany(Exception):
    """There are more ideals than may be listed."""


def all_ideals(n: int, order: Iterable[tuple[int, int]], cap: int) -> list[int]:
    """Each order ideal once, as a bit mask over 0 … n−1, which is a topological order.

    A member is added behind the last one only, so that no ideal is met twice; what may be added is kept as a mask.

    Raises
    ------
    TooMany
        There are more than ``cap``.
    """
    needs, after = [0] * n, [list[int]() for _ in range(n)]
    for a, b in order:
        needs[b] |= 1 << a
        after[a].append(b)
    found, pending = list[int](), [(0, sum(1 << v for v in range(n) if not needs[v]))]
    while pending:
        head, ready = pending.pop()
        found.append(head)
        if len(found) > cap:
            raise TooMany(f"more than {cap} order ideals")
        while ready:
            low = ready & -ready
            ready ^= low
            larger, more = head | low, ready
            for w in after[low.bit_length() - 1]:
                if needs[w] & ~larger == 0:
                    more |= 1 << w
            pending.append((larger, more))
    return found


class Ideals:
    """A family of order ideals, smallest first, with the sums that tell what lies between any two.

    Parameters
    ----------
    groups : Groups
        In a topological order.
    masks : sequence of int
        Must hold the empty and the full ideal.

    Attributes
    ----------
    work_s : array, shape (ideals,)
        Least seconds of the groups in each, wherever they run; ascending. A set comes behind all its subsets.
    """

    def __init__(self, groups: Groups, masks: Sequence[int]) -> None:
        self.groups = groups
        n = len(groups)
        seconds = np.minimum(groups.accelerator_s, groups.cpu_s)
        inside = ~unpacked(masks, n)
        # Whole numbers, since sums of floats in another order could put a set before its subset.
        unit = float(seconds.max(initial=0.0)) / 2**40 or 1.0
        whole = np.round(seconds / unit).astype(np.int64)
        rank = np.lexsort((inside.sum(axis=1), inside @ whole))
        self.inside = np.ascontiguousarray(inside[rank].T)
        """Whether group g is in ideal i, shape (groups, ideals)."""
        self.work_s = (inside @ whole)[rank] * unit
        self.size = self.inside.sum(axis=0)
        octets = np.packbits(self.inside, axis=0, bitorder="little")
        padded = np.zeros((-(-len(octets) // 8) * 8, len(masks)), np.uint8)
        padded[: len(octets)] = octets
        self.words = np.ascontiguousarray(padded.reshape(-1, 8, len(masks)).transpose(0, 2, 1)).view(np.uint64)[..., 0]
        """The same as bits, 64 groups a word, shape (words, ideals)."""

    def __len__(self) -> int:
        return len(self.work_s)

    def summed(self, values: np.ndarray) -> np.ndarray:
        """Σ of a value over the groups of each ideal, shape (ideals,)."""
        found: np.ndarray = values @ self.inside
        return found

    @cached_property
    def crossing(self) -> tuple[np.ndarray, ...]:
        """For each ideal the tensors that have ends inside and outside."""
        across = np.zeros((len(self.groups.ends), len(self)), bool)
        for t, ends in enumerate(self.groups.ends):
            across[t] = self.inside[list(ends)].any(axis=0) & ~self.inside[list(ends)].all(axis=0)
        return tuple(np.flatnonzero(column) for column in across.T)

    @cached_property
    def across_s(self) -> np.ndarray:
        """Σ of the costs of the tensors that cross each ideal, shape (ideals,)."""
        return np.array([self.groups.cost_s[t].sum() for t in self.crossing])

    def above(self, i: int, reach_s: float) -> np.ndarray:
        """The ideals that hold ideal i and at most ``reach_s`` seconds of work more, i left out."""
        end = int(np.searchsorted(self.work_s, self.work_s[i] + reach_s, side="right"))
        fits = np.ones(end - i - 1, bool)
        for word in self.words:
            if word[i]:
                fits &= (word[i + 1 : end] & word[i]) == word[i]
        return i + 1 + np.flatnonzero(fits)

    def moved_s(self, i: int, larger: np.ndarray) -> np.ndarray:
        """Seconds that an accelerator with what ``larger`` ideals hold beyond ideal i moves tensors, shape (larger,).

        A tensor with ends in i is moved when the set has one of the others, and it crosses the larger ideal unless that has all of
        the others; so the costs across the two ideals count, those of each such tensor twice too often, and once for either.
        """
        found: np.ndarray = self.across_s[larger] - self.across_s[i]
        once: dict[int, float] = {}
        for t in self.crossing[i].tolist():
            cost = float(self.groups.cost_s[t])
            rest = [g for g in self.groups.ends[t] if not self.inside[g, i]]
            if len(rest) == 1:
                once[rest[0]] = once.get(rest[0], 0.0) + 2 * cost
            else:
                there = self.inside[np.ix_(rest, larger)]
                found = found + cost * (there.any(axis=0).astype(float) + there.all(axis=0))
        for g, cost in once.items():
            found = found + cost * self.inside[g, larger]
        return found
