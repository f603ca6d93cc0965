"""Stages (interval, group) of a pipeline as its solvers want them: their least seconds, their rows' transfers, what memory forbids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import perm
from typing import TYPE_CHECKING

import numpy as np

from splitplan.data.pipeline_plan import PipelinePlan, RowBlock
from splitplan.formulations.base import ROUNDING
from splitplan.solvers.pipeline_states import OutOfTime
from splitplan.solvers.row_stage import RowStages

if TYPE_CHECKING:
    from splitplan.formulations.pipeline import PipelinePlacement
    from splitplan.formulations.pipeline_groups import Group

MOST_LABELS = 40
"""Ways to make the first layers of a stage that are kept where the memory of its other places binds."""
MOST_RESTRICTED = 12
"""Layers for which stages are found whose blocks that memory holds; in longer networks the first place then makes the stage alone."""
Chosen = tuple["Group", int, int]
"""A stage: its group, and the positions between which its layers are."""


@dataclass(frozen=True, eq=False)
class Column:
    """The stages of one group; arrays of shape (n + 1, n + 1), ∞ where there is none.

    Parameters
    ----------
    group : tuple of int
    least_s : array
        T, (5) of `RowCosts` minimized, where the first place's memory holds the layers: no stage takes less.
    seconds : array
        The same with blocks that the others' memory holds.
    up_s, down_s : array
        Of these blocks: seconds for which rows keep busy what leads from the first place and to it.
    """

    group: Group
    least_s: np.ndarray
    seconds: np.ndarray
    up_s: np.ndarray
    down_s: np.ndarray


class Columns:
    """The stages of a problem's groups, each group worked out when it is asked for.

    Parameters
    ----------
    problem : PipelinePlacement
        With rows.
    most_cuts : int or None
        Heights above this are shared in multiples, and then nothing is exact.

    Attributes
    ----------
    all_shares : bool
        Whether all whole-number shares are weighed, so that `Column.least_s` are what they are.
    exact : bool
        Whether `Column.seconds` are, too.
    """

    def __init__(self, problem: PipelinePlacement, most_cuts: int | None = None) -> None:
        self.problem, self.costs, self.groups = problem, problem.costs, problem.groups
        self.stages = RowStages(self.groups.rows, most_cuts)
        self._columns: dict[Group, Column] = {}
        self._restricted: dict[tuple[Group, int, int], tuple[RowBlock, ...]] = {}
        self._known_bytes: dict[int, float] = {}
        self.exact = self.all_shares = all(
            self.groups.rows.model.height(j) < len(self.stages.cuts(j)) for j in range(1, self.costs.layers + 1)
        )

    def of(self, group: Group) -> Column:
        """The stages of a group."""
        if group not in self._columns:
            self._columns[group] = self._single(group[0]) if len(group) == 1 else self._shared(group)
        return self._columns[group]

    def _single(self, e: int) -> Column:
        seconds = np.where(self._held(e), self.costs.span(e), np.inf)
        nothing = np.zeros_like(seconds)
        return Column((e,), seconds, seconds, nothing, nothing)

    def _held(self, e: int) -> np.ndarray:
        return np.asarray(self.costs.memory <= self.costs.limits[e] * (1 + ROUNDING))

    def _shared(self, group: Group) -> Column:
        names = self.groups.names(group)
        least = np.where(self._held(group[0]), self.stages.seconds(names), np.inf)
        seconds = least
        limits = self.costs.limits[list(group[1:])]
        beyond = (self._mates_bytes > limits.min() * (1 + ROUNDING)) & np.isfinite(least)
        if beyond.any() and (beyond := beyond & ~self._held_by_mates(group)).any():
            seconds = least.copy()
            if self.costs.layers <= MOST_RESTRICTED:
                for i in np.flatnonzero(beyond.any(axis=1)).tolist():
                    self._restrict(group, i, np.flatnonzero(beyond[i]), seconds)
            else:
                self.exact = False
                for i, j in np.argwhere(beyond).tolist():
                    self._leave(group, i, j, seconds)
        up, down = np.zeros_like(seconds), np.zeros_like(seconds)
        if self.problem.system.medium != "pairs" or self._ends & set(group[1:]):
            self._loads(group, seconds, up, down)
        return Column(group, least, seconds, up, down)

    def _held_by_mates(self, group: Group) -> np.ndarray:
        """Where the memory of the other places holds what the quickest blocks give them, array of bool, shape (n + 1, n + 1)."""
        names, n = self.groups.names(group), self.costs.layers
        before, shares = self.stages.last_blocks(names), self.stages.blocks(names)[1]
        limits = self.costs.limits[list(group[1:])] * (1 + ROUNDING)
        computed: dict[
            tuple[int, int], tuple[int, ...]
        ] = {}  # by other place the layers that it computes, as the bits of a number
        found = np.ones((n + 1, n + 1), bool)
        for i in range(n):
            computed[i, i] = (0,) * len(limits)
            for j in range(i + 1, n + 1):
                a = int(before[i, j])
                rows, run = shares.get((a, j), (0,) * len(group)), (1 << j) - (1 << a)
                computed[i, j] = tuple(c | run if r else c for c, r in zip(computed[i, a], rows[1:], strict=True))
                found[i, j] = all(self._bytes(c) <= m for c, m in zip(computed[i, j], limits, strict=True))
        return found

    def _bytes(self, computed: int) -> float:
        if computed not in self._known_bytes:
            self._known_bytes[computed] = self.groups.bytes_of(
                [v for v in range(self.costs.layers) if computed >> v & 1]
            )
        return self._known_bytes[computed]

    def _leave(self, group: Group, start: int, stop: int, seconds: np.ndarray) -> None:
        """The first place alone."""
        seconds[start, stop] = float(self.costs.seconds[group[0], start:stop].sum())
        names = tuple(x.name for x in self.problem.profile.graph.layers[start:stop])
        rows = (self.groups.rows.model.height(stop), *(0,) * (len(group) - 1))
        self._restricted[group, start, stop] = (RowBlock(names, rows),)

    @cached_property
    def _ends(self) -> set[int]:
        p = self.problem
        return {self.costs.index[x] for x in (p.source, p.sink) if x is not None}

    @cached_property
    def _mates_bytes(self) -> np.ndarray:
        """Most bytes that another place than the first can hold of a stage [i, j)."""
        n, can = self.costs.layers, self.groups.shareable
        out = np.zeros((n + 1, n + 1))
        for i in range(n):
            for j in range(i + 1, n + 1):
                out[i, j] = self.groups.bytes_of([v for v in range(i, j) if can[v]])
        return out

    # -- blocks ------------------------------------------------------------------------------------------

    def blocks(self, group: Group, start: int, stop: int) -> tuple[RowBlock, ...]:
        """The blocks of a stage of several places."""
        self.of(group)
        if (group, start, stop) in self._restricted:
            return self._restricted[group, start, stop]
        return self.stages.stage(start, stop, self.groups.names(group)).blocks

    def plan(self, chosen: Sequence[Chosen]) -> PipelinePlan:
        """The plan of these stages, in turn."""
        shared = {k: (g, self.blocks(g, i, j)) for k, (g, i, j) in enumerate(chosen) if len(g) > 1}
        return self.problem.plan_for([g[0] for g, _, _ in chosen], [i for _, i, _ in chosen[1:]], shared)

    def _loads(self, group: Group, seconds: np.ndarray, up: np.ndarray, down: np.ndarray) -> None:
        """Seconds of rows on the way out and back, where the seconds are finite."""
        names, n = self.groups.names(group), self.costs.layers
        before = self.stages.last_blocks(names)
        of = {key: self._carried(group, *key, rows) for key, rows in self.stages.blocks(names)[1].items()}
        for i in range(n):
            for j in range(i + 1, n + 1):
                a = int(before[i, j])
                out, back = of.get((a, j), (0.0, 0.0))
                up[i, j], down[i, j] = up[i, a] + out, down[i, a] + back
        for i, j in [(i, j) for g, i, j in self._restricted if g == group and np.isfinite(seconds[i, j])]:
            parts = self.groups.rows.stage(i, j, self._restricted[group, i, j], names)
            up[i, j] = sum(sum(p.getting_s) for p in parts)
            down[i, j] = sum(sum(p.returning_s) for p in parts)

    def _carried(self, group: Group, start: int, stop: int, rows: tuple[int, ...]) -> tuple[float, float]:
        """Seconds of a block's rows on the way out and back."""
        table, cuts = self.stages.tables(stop)[stop - 1 - start], self.stages.cuts(stop)
        ends = np.searchsorted(cuts, np.cumsum(rows))
        up = down = 0.0
        for k, e in enumerate(group[1:], 1):
            if rows[k]:
                at = int(ends[k - 1]), int(ends[k])
                up += self.costs.ways[group[0], e].busy_s(float(table.bytes_in[at]))
                down += self.costs.ways[e, group[0]].busy_s(float(table.bytes_out[at]))
        return up, down

    def _restrict(self, group: Group, start: int, stops: np.ndarray, seconds: np.ndarray) -> None:
        """Seconds of the stages from a position whose other places' memory binds, by labels (seconds, what each of them holds).

        Of two labels at a position one is left out when the other is no slower and leaves no place with more of what it counts:
        bytes of parameters, working set, and the same parameters among those that several layers read.
        """
        limits = self.costs.limits[list(group[1:])] * (1 + ROUNDING)
        names = [x.name for x in self.problem.profile.graph.layers]
        labels: dict[int, list[_Label]] = {start: [_Label(0.0, ((),) * (len(group) - 1), ())]}
        rows = self.groups.rows
        height = rows.model.height
        subsets = [s for size in range(1, len(group)) for s in combinations(range(1, len(group)), size)]
        for j in range(start + 1, int(stops.max(initial=start)) + 1):
            found = []
            for a in range(start, j):
                before = labels.get(a, [])
                if a == j - 1:
                    alone = float(self.costs.seconds[group[0], a])
                    block = RowBlock((names[a],), (height(j), *(0,) * (len(group) - 1)))
                    found += [_Label(x.seconds + alone, x.computed, (*x.blocks, block)) for x in before]
                for s in subsets if before else ():
                    value, shares = self.stages.blocks(self.groups.names((group[0], *(group[k] for k in s))))
                    if (a, j) not in shares:
                        continue
                    own = shares[a, j]
                    given = [own[0], *(0,) * (len(group) - 1)]
                    for k, r in zip(s, own[1:], strict=True):
                        given[k] = r
                    block = RowBlock(tuple(names[a:j]), tuple(given))
                    for x in before:
                        computed = tuple((*c, *range(a, j)) if given[k + 1] else c for k, c in enumerate(x.computed))
                        if all(self.groups.bytes_of(c) <= m for c, m in zip(computed, limits, strict=True)):
                            found.append(_Label(x.seconds + float(value[a, j]), computed, (*x.blocks, block)))
            labels[j] = self._kept(found)
            if j in stops:
                best = min(labels[j], key=lambda x: x.seconds)
                seconds[start, j] = best.seconds
                self._restricted[group, start, j] = best.blocks

    def _kept(self, found: list[_Label]) -> list[_Label]:
        kept: list[tuple[_Label, list[tuple[float, float, frozenset[str]]]]] = []
        for x in sorted(found, key=lambda x: x.seconds):
            held = [self._holds(c) for c in x.computed]
            if not any(
                all(a[0] <= b[0] and a[1] <= b[1] and a[2] == b[2] for a, b in zip(other, held, strict=True))
                for _, other in kept
            ):
                kept.append((x, held))
        if len(kept) > MOST_LABELS:
            self.exact = False
            # The last one, which holds least, stays: it is the first place alone when nothing else fits.
            kept = [*kept[: MOST_LABELS - 1], kept[-1]]
        return [x for x, _ in kept]

    def _holds(self, computed: Iterable[int]) -> tuple[float, float, frozenset[str]]:
        """Bytes of parameters, largest working set, and which of the parameters that several layers read."""
        layers = [self.problem.profile.graph.layers[v] for v in computed]
        size = self.problem.profile.graph.bytes_of_parameters([x.name for x in layers])
        tied = frozenset(p for x in layers for p in x.parameters if p in self._tied)
        return size, max((x.memory_bytes for x in layers), default=0.0), tied

    @cached_property
    def _tied(self) -> set[str]:
        seen, found = set[str](), set[str]()
        for x in self.problem.profile.graph.layers:
            found |= seen & set(x.parameters)
            seen |= set(x.parameters)
        return found


@dataclass(frozen=True)
class _Label:
    """A way to make the first layers of a stage: its seconds, the layers that each other place has computed, its blocks."""

    seconds: float
    computed: tuple[tuple[int, ...], ...]
    blocks: tuple[RowBlock, ...]


def all_columns(columns: Columns, groups: Sequence[Group], left: Callable[[], bool]) -> list[Column]:
    """Every group's, unless the time is over.

    Raises
    ------
    OutOfTime
    """
    found = []
    for g in groups:
        if not left():
            raise OutOfTime
        found.append(columns.of(g))
    return found


def elements(problem: PipelinePlacement, most_cuts: int | None = None) -> int:
    """Pairs (first row, end of rows) over all blocks, of heights up to ``most_cuts``: times groups, the work of `Columns`."""
    model, n = problem.groups.rows.model, problem.costs.layers
    found, start = 0, 0
    for stop in range(1, n + 1):
        if stop - 1 in model.barriers:
            start = stop
        height = model.height(stop)
        cuts = height if most_cuts is None else min(height, most_cuts)
        found += (stop - start) * (cuts + 1) ** 2
    return found


def effort(problem: PipelinePlacement, group: Group) -> int:
    """How much work a group is, as often as one of two: a single medium's or hub's transfers one after the other are looked through."""
    return 1 if len(group) == 2 or problem.system.medium == "pairs" else 15


def work(problem: PipelinePlacement) -> int:
    """`elements` of all groups, each as often as its `effort`."""
    m, of = len(problem.costs.places), problem.groups
    return elements(problem) * sum(perm(m, s) * effort(problem, tuple(range(s))) for s in range(2, of.largest + 1))
