"""Stages of a pipeline whose layers several places share by rows: who may be a group, what its stage takes, what its members hold.

The formulation, its MILP and the solvers read it here; the audit in ``solvers/`` adds up on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import permutations
from math import perm

import numpy as np

from splitplan.data.pipeline_plan import PipelinePlan, RowBlock
from splitplan.formulations.base import TOLERANCE
from splitplan.formulations.pipeline_costs import PipelineCosts
from splitplan.formulations.row_costs import RowCosts
from splitplan.models.rows import RowModel

Group = tuple[int, ...]
"""Places by number, in order; the first one has the stage's input and output."""


@dataclass(frozen=True)
class SharedStage:
    """What a frame takes at a stage of several places.

    Parameters
    ----------
    group : tuple of int
    seconds : float
        From input to output at its first place; each place of the group is busy for so long. ∞ where no way leads.
    computing_s : tuple of float
        By place of the group.
    busy_s : dict of str to float
        By resource, for the rows that are handed out and back.
    rows_s : dict of (int, int) to float
        By way, from place to place of the group, what its rows keep it busy for; the same seconds, over all blocks.
    """

    group: Group
    seconds: float
    computing_s: tuple[float, ...]
    busy_s: Mapping[str, float] = field(default_factory=dict)
    rows_s: Mapping[tuple[int, int], float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class GroupCosts:
    """What groups cost, by the places' numbers.

    Parameters
    ----------
    costs : PipelineCosts
    most : int
        Places of a group.
    """

    costs: PipelineCosts
    most: int

    @cached_property
    def rows(self) -> RowCosts:
        """Seconds of blocks of rows, by the places' names."""
        c = self.costs
        seconds = {p: c.seconds[e] for e, p in enumerate(c.places)}
        ways = {(c.places[d], c.places[e]): way for (d, e), way in c.ways.items()}
        fixed = {p: c.profile.fixed_s(p) for p in c.places}
        beside = {p: c.profile.block_s(p) for p in c.places}
        return RowCosts(RowModel(c.profile.graph), seconds, ways, c.wire, fixed, beside)

    @cached_property
    def largest(self) -> int:
        """Places that a group can have."""
        return min(self.most, len(self.costs.places))

    @cached_property
    def count(self) -> int:
        """How many groups of two places and more there are at most: Σ_s m!/(m − s)!."""
        return sum(perm(len(self.costs.places), s) for s in range(2, self.largest + 1))

    def joined(self, head: int, mate: int) -> bool:
        """Whether rows can go from one place to the other and back."""
        return (head, mate) in self.costs.ways and (mate, head) in self.costs.ways

    def groups(self) -> Iterator[Group]:
        """All groups of two places and more whose first one reaches the others and is reached; small ones first."""
        for size in range(2, self.largest + 1):
            for g in permutations(range(len(self.costs.places)), size):
                if all(self.joined(g[0], e) for e in g[1:]):
                    yield g

    @cached_property
    def members(self) -> list[Group]:
        """The places of every group, single ones first: the numbering of the MILP. For few places."""
        return [*((e,) for e in range(len(self.costs.places))), *self.groups()]

    def names(self, group: Group) -> tuple[str, ...]:
        """The places of a group."""
        return tuple(self.costs.places[e] for e in group)

    def stage(self, group: Group, start: int, stop: int, blocks: Sequence[RowBlock]) -> SharedStage:
        """What a stage of layers ``start:stop`` takes.

        Raises
        ------
        DataError
            When rows on other places meet a layer that mixes all rows, or do not add up.
        """
        parts = self.rows.stage(start, stop, blocks, self.names(group))
        busy: dict[str, float] = {}
        for part in parts:
            for r, s in part.busy_s.items():
                busy[r] = busy.get(r, 0.0) + s
        computing = tuple(sum(x) for x in zip(*(p.computing_s for p in parts), strict=True))
        rows: dict[tuple[int, int], float] = {}
        for k, e in enumerate(group[1:], 1):
            if any(b.rows[k] for b in blocks):
                rows[group[0], e] = sum(p.getting_s[k] for p in parts)
                rows[e, group[0]] = sum(p.returning_s[k] for p in parts)
        return SharedStage(group, sum(p.seconds for p in parts), computing, busy, rows)

    def shared(self, plan: PipelinePlan) -> dict[int, SharedStage]:
        """The stages of several places of a plan, by their numbers."""
        found, start = {}, 0
        for k, stage in enumerate(plan.stages):
            stop = start + len(stage.layers)
            if len(stage.places) > 1:
                group = tuple(self.costs.index[p] for p in stage.places)
                found[k] = self.stage(group, start, stop, stage.blocks)
            start = stop
        return found

    # -- memory ------------------------------------------------------------------------------------------

    def mate_bytes(self, start: int, blocks: Sequence[RowBlock], mate: int) -> float:
        """Bytes that another place than the first of a group holds: parameters of the layers that it computes, the largest working set.

        Working sets are those at full height, which is on the safe side.

        Parameters
        ----------
        start : int
            Where the stage begins.
        blocks : sequence of RowBlock
        mate : int
            Its number in the group, from 1.
        """
        computed: list[int] = []
        at = start
        for b in blocks:
            computed += range(at, at + len(b.layers)) if b.rows[mate] else ()
            at += len(b.layers)
        return self.bytes_of(computed)

    def bytes_of(self, computed: Sequence[int]) -> float:
        """Bytes of the parameters of these layers, shared ones once, and of their largest working set."""
        graph = self.costs.profile.graph
        layers = [graph.layers[v] for v in computed]
        return graph.bytes_of_parameters([x.name for x in layers]) + max((x.memory_bytes for x in layers), default=0.0)

    def broken(self, plan: PipelinePlan) -> list[str]:
        """What the stages of several places of a plan break, in the user's words."""
        c, found, start = self.costs, [], 0
        for stage in plan.stages:
            names, stop = stage.places, start + len(stage.layers)
            if len(names) > 1:
                group = tuple(c.index[p] for p in names)
                where = f"the stage of {', '.join(names)}"
                if len(group) > self.most:
                    found.append(f"max_group={self.most}: {where} has {len(group)} places")
                for k, e in enumerate(group[1:], 1):
                    works = any(b.rows[k] for b in stage.blocks)
                    for a, b in ((group[0], e), (e, group[0])) if works else ():
                        if (a, b) not in c.ways:
                            found.append(f"nothing leads from {c.places[a]} to {c.places[b]}, which share rows")
                    held = self.mate_bytes(start, stage.blocks, k)
                    if held > c.limits[e] * (1 + TOLERANCE):
                        found.append(f"memory of {c.places[e]}: {held:.6g} of {c.limits[e]:.6g} bytes")
            start = stop
        return found

    # -- which resources rows and hops compete for ---------------------------------------------------------

    @cached_property
    def contested(self) -> frozenset[str]:
        """The resources that rows may keep busy beside what else a frame moves; on all others (7) implies (8)."""
        c = self.costs
        used = [r for way in c.ways.values() for r in way.resources]
        if c.system.medium != "pairs":
            return frozenset(used)
        return frozenset(
            r
            for (a, b), way in c.ways.items()
            if c.source == c.places[a] or c.sink == c.places[b]
            for r in way.resources
        )

    @cached_property
    def shareable(self) -> np.ndarray:
        """Whether the rows of each layer can be made apart from each other, array of bool, shape (layers,)."""
        found = np.ones(self.costs.layers, bool)
        found[list(self.rows.model.barriers)] = False
        return found
