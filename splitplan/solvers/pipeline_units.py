"""A pipeline's data as its solvers want it: like places are one type with a count, what memory forbids takes for ever."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from splitplan.formulations.base import ROUNDING

if TYPE_CHECKING:
    from splitplan.formulations.pipeline import PipelinePlacement
    from splitplan.formulations.pipeline_costs import PipelineCosts


@dataclass(frozen=True, eq=False)
class Units:
    """Types of places; k of them, n layers.

    Parameters
    ----------
    members : tuple of tuple of int
        The places of each type, by number: swapping two of them changes nothing.
    seconds : array, shape (k, n)
        Of each layer at a type; ∞ where no run with it fits into the memory.
    span : array, shape (k, n + 1, n + 1)
        Seconds for which the layers [i, j) keep a type busy, sending and receiving aside; ∞ where j ≤ i or the memory does not
        hold them.
    hop : array, shape (k, k, n + 1)
        Seconds of the transfer at each inner position between two places of these types; ∞ where nothing leads.
    enter, leave : array, shape (k,)
        Seconds in which the inputs come from the source, the results go to the sink; 0 where they are already or nobody asked,
        ∞ where no first, no last stage may be.
    most_stages : int
    overlap, shared : bool
    floor : float
        Seconds below which no period of these plans can be, whatever their stages.
    """

    members: tuple[tuple[int, ...], ...]
    seconds: np.ndarray
    span: np.ndarray
    hop: np.ndarray
    enter: np.ndarray
    leave: np.ndarray
    most_stages: int
    overlap: bool
    shared: bool
    floor: float = 0.0

    @property
    def layers(self) -> int:
        """n."""
        return int(self.span.shape[1]) - 1

    @cached_property
    def count(self) -> np.ndarray:
        """Places of each type, shape (k,)."""
        return np.array([len(x) for x in self.members])

    @cached_property
    def whole(self) -> np.ndarray:
        """Seconds for which a stage [i, j) keeps its place busy at least, shape (k, n + 1, n + 1).

        With communication added: also the quickest ways in and out. On a shared medium all ways are equally quick, so that this
        is exact.
        """
        if self.overlap:
            return self.span
        into, out = self.hop.min(axis=0), self.hop.min(axis=1)
        into[:, 0], out[:, -1] = self.enter, self.leave
        return np.asarray(self.span + into[:, :, None] + out[:, None, :])

    @cached_property
    def step(self) -> np.ndarray:
        """On a shared medium: seconds of a transfer at each inner position, whoever sends, shape (n + 1,)."""
        return np.asarray(self.hop.min(axis=(0, 1)))

    def in_order(self, types: np.ndarray, places: np.ndarray) -> Units:
        """The same places, each a type of its own, in an order.

        Parameters
        ----------
        types, places : array of int, shape (places,)
            Of each place in the order: its type here, its number.
        """
        return replace(
            self,
            members=tuple((int(e),) for e in places),
            seconds=self.seconds[types],
            span=self.span[types],
            hop=self.hop[np.ix_(types, types)],
            enter=self.enter[types],
            leave=self.leave[types],
        )

    def places(self, types: list[int]) -> tuple[int, ...]:
        """Places for stages of these types, each place once."""
        used = [0] * len(self.members)
        found = []
        for t in types:
            found.append(self.members[t][used[t]])
            used[t] += 1
        return tuple(found)


def units_of(problem: PipelinePlacement) -> Units:
    """The types of a problem's places.

    What a source or sink that has another stage than the first, the last carries beside it (the inputs, the results) depends on
    who has the first and the last, and is left out here: see `root` and `branches`.
    """
    c = problem.costs
    members = types_of(problem)
    head = [x[0] for x in members]
    n = c.layers
    span = np.array([np.where(c.memory <= c.limits[e] * (1 + ROUNDING), c.span(e), np.inf) for e in head])
    hop = c.transfer[np.ix_(head, head)]
    for t, who in enumerate(members):
        if len(who) > 1:
            hop[t, t] = c.transfer[who[0], who[1]]
    hop[:, :, [0, n]] = np.inf  # no stage is empty
    enter = leave = np.zeros(len(head))
    if problem.source is not None:
        s = c.index[problem.source]
        enter = np.array([0.0 if e == s else c.transfer[s, e, 0] for e in head])
    if problem.sink is not None:
        t = c.index[problem.sink]
        leave = np.array([0.0 if e == t else c.transfer[e, t, n] for e in head])
    # A run [i, j) holds v when i ≤ v < j: some run that fits does when the furthest j over all i ≤ v is beyond v.
    reach = np.where(np.isfinite(span), np.arange(n + 1), 0).max(axis=2)
    able = np.maximum.accumulate(reach, axis=1)[:, :-1] > np.arange(n)
    seconds = np.where(able, c.seconds[head], np.inf)
    shared = problem.system.medium == "shared"
    return Units(members, seconds, span, hop, enter, leave, problem.most_stages, problem.overlap, shared)


def types_of(problem: PipelinePlacement) -> tuple[tuple[int, ...], ...]:
    """Places that can be swapped without changing anything, together; source and sink are alone."""
    c = problem.costs
    ends = {c.index[p] for p in (problem.source, problem.sink) if p is not None}
    found: list[list[int]] = []
    for e in range(len(c.places)):
        same = next((x for x in found if e not in ends and x[0] not in ends and _alike(c, x[0], e)), None)
        if same is None:
            found.append([e])
        else:
            same.append(e)
    return tuple(tuple(x) for x in found)


def _alike(c: PipelineCosts, a: int, b: int) -> bool:
    if c.limits[a] != c.limits[b] or not np.array_equal(c.seconds[a], c.seconds[b]):
        return False
    rest = [x for x in range(len(c.places)) if x not in (a, b)]
    tau = c.transfer
    return (
        np.array_equal(tau[a, b], tau[b, a])
        and np.array_equal(tau[a, rest], tau[b, rest])
        and np.array_equal(tau[rest, a], tau[rest, b])
    )


# -- a source or sink that has a stage in the middle -----------------------------------------------------


def _type(problem: PipelinePlacement, units: Units, place: str | None) -> int | None:
    if place is None:
        return None
    e = problem.costs.index[place]
    return next(t for t, who in enumerate(units.members) if e in who)


def root(problem: PipelinePlacement, units: Units) -> Units:
    """Units that no plan is busier than: a source's or sink's other stage with the least that it may carry beside it.

    Exact unless `branches` has any.
    """
    if problem.overlap:
        return units
    span = units.span.copy()
    s, t = _type(problem, units, problem.source), _type(problem, units, problem.sink)
    others = np.arange(len(units.members))
    if s is not None and np.isfinite(beside := units.enter[others != s].min(initial=np.inf)):
        span[s, 1:] += beside
    if t is not None and np.isfinite(beside := units.leave[others != t].min(initial=np.inf)):
        span[t, :, :-1] += beside
    return replace(units, span=span)


def branches(problem: PipelinePlacement, units: Units) -> Iterator[Units]:
    """For types of the first and of the last stage: units by which their plans cost exactly what they do; none when `root` is exact.

    On a shared medium everything is carried over the same way, but by whom does not matter. With links of their own and
    overlapped communication one thing only meets another: inputs and results, where the sink has the first stage and the source
    the last.
    """
    s, t = _type(problem, units, problem.source), _type(problem, units, problem.sink)
    star = problem.system.medium == "star"
    if units.shared or (s is None and t is None):
        return
    if problem.overlap and not star:
        if s is not None and t is not None and s != t:
            yield from _crossed(units, s, t)
        return
    types = range(len(units.members))
    for f in types if s is not None else (None,):
        for g in types if t is not None else (None,):
            enter, leave, hop, span = units.enter.copy(), units.leave.copy(), units.hop.copy(), units.span.copy()
            floor = 0.0
            if f is not None:
                enter[np.arange(len(enter)) != f] = np.inf
            if g is not None:
                leave[np.arange(len(leave)) != g] = np.inf
            inputs = 0.0 if f is None or f == s else float(units.enter[f])
            results = 0.0 if g is None or g == t else float(units.leave[g])
            if not np.isfinite(inputs + results):
                continue
            if problem.overlap:
                if s is not None and inputs:
                    hop[s] += inputs
                    leave[s] += inputs if s != t else 0.0
                if t is not None and results:
                    hop[:, t] += results
                    enter[t] += results if s != t else 0.0
                if inputs and results and s != t:  # up from the source and down to the sink are two ways
                    hop[s, t] -= min(inputs, results)
            else:
                if s is not None:
                    span[s] += inputs
                if t is not None:
                    span[t] += results
                floor = inputs + results if s == t else 0.0
            yield replace(units, enter=enter, leave=leave, hop=hop, span=span, floor=floor)


def _crossed(units: Units, s: int, t: int) -> Iterator[Units]:
    """The sink first and the source last, so that inputs and results go over one way; another one first; another one last."""
    both = units.enter[t] + units.leave[s]
    others = np.arange(len(units.members))
    yield replace(units, enter=np.where(others == t, both, np.inf), leave=np.where(others == s, both, np.inf))
    yield replace(units, enter=np.where(others == t, np.inf, units.enter))
    yield replace(units, leave=np.where(others == s, np.inf, units.leave))
