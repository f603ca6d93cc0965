"""A pipeline's plan as what the simulator runs: tasks with their seconds, what they keep busy, and the slots that bound its buffers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from splitplan.data.pipeline_plan import PipelinePlan, Stage
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.data.way import Way
from splitplan.errors import DataError
from splitplan.formulations.pipeline_costs import PipelineCosts
from splitplan.formulations.row_costs import RowCosts
from splitplan.policies.pipeline_result import Task

MOST_UNDER_WAY = 64
LEAST_S = 1e-4
"""Frames that are counted as under way at most, and of how many seconds at least each: as the executor reckons."""


@dataclass(frozen=True)
class Slot:
    """Room for so many frames between two tasks: frame f begins ``taken`` when frame f − room has left ``freed``.

    Parameters
    ----------
    room : int
    taken, freed : int
        Tasks by their numbers.
    at_end : bool
        Whether a frame leaves when ``freed`` ends; else when it begins.
    """

    room: int
    taken: int
    freed: int
    at_end: bool = True


@dataclass(frozen=True, eq=False)
class Line:
    """What every frame goes through.

    Parameters
    ----------
    tasks : tuple of Task
        Each after those that it waits for; the last one answers the frame. Frames pass every task in their order.
    seconds, spread_s : array, shape (tasks,)
        Typical seconds and their interquartile range.
    slots : tuple of Slot
    """

    tasks: tuple[Task, ...]
    seconds: np.ndarray
    spread_s: np.ndarray
    slots: tuple[Slot, ...]

    @cached_property
    def users(self) -> dict[str, list[int]]:
        """The tasks that hold each resource."""
        found = defaultdict[str, list[int]](list)
        for k, task in enumerate(self.tasks):
            for r in task.holds:
                found[r].append(k)
        return dict(found)

    @cached_property
    def fixed(self) -> bool:
        """Whether nothing is ever to be decided: one task after the other, and no two of them that may ask for the same at a time.

        Tasks of one resource inside a slot for one frame never do.
        """
        if any(t.after != ((k - 1,) if k else ()) for k, t in enumerate(self.tasks)):
            return False
        alone = [(s.taken, s.freed) for s in self.slots if s.room == 1 and s.at_end]
        return all(len(who) == 1 or any(a <= who[0] and who[-1] <= b for a, b in alone) for who in self.users.values())

    @cached_property
    def runs(self) -> tuple[slice, ...] | None:
        """The tasks as servers of one frame at a time without limits between them, if that is what they are; else None."""
        if not self.fixed or any(s.room > 1 or not s.at_end for s in self.slots):
            return None
        slots = sorted((s.taken, s.freed) for s in self.slots)
        found, at = [], 0
        for a, b in [*slots, (len(self.tasks), -1)]:
            if a < at or any(t.delay_s or t.flows for t in self.tasks[a:b]):
                return None
            found += [slice(k, k + 1) for k in range(at, a)] + [slice(a, b + 1)] * (b >= a)
            at = b + 1
        return tuple(found)


def line_of(
    plan: PipelinePlan,
    profile: Profile,
    system: System,
    *,
    room: Callable[[str], int | None],
    depth: int | None = None,
) -> Line:
    """What a plan's frames go through, with what it takes.

    Parameters
    ----------
    plan : PipelinePlan
        Of this profile's graph, at places of this system.
    profile : Profile
    system : System
    room : callable
        Frames that a place's inbox and its outbox have room for each, those on a long way left out; None: any number.
    depth : int, optional
        The most frames under way at a time.

    Raises
    ------
    DataError
        Nothing leads from one stage to the next; or a stage's rows cannot be shared so.
    """
    return _Making(plan, profile, system, room).line(depth)


@dataclass(frozen=True)
class _Passed:
    """A stage that is made: its place, the transfer into it, its first and last task."""

    place: str
    into: tuple[int, int] | None
    entry: int
    exits: int


class _Making:
    """A line in the making."""

    def __init__(self, plan: PipelinePlan, profile: Profile, system: System, room: Callable[[str], int | None]) -> None:
        self.plan, self.profile, self.system, self.room = plan, profile, system, room
        self.costs = PipelineCosts(profile, system, plan.wire, plan.source, plan.sink)
        self.tasks: list[Task] = []
        self.seconds: list[float] = []
        self.spreads: list[float] = []
        self.slots: list[Slot] = []

    def line(self, depth: int | None) -> Line:
        """All stages, in turn."""
        at, here = 0, self.plan.source
        before: _Passed | None = None
        for number, stage in enumerate(self.plan.stages):
            into = self._move(here, stage.place, at, number) if here is not None else None
            entry = len(self.tasks)
            exits = self._stage(stage, number, at)
            at, here = at + len(stage.layers), stage.place
            self._hop(before, into, stage.place, entry)
            before = _Passed(stage.place, into, entry, exits)
        assert before is not None
        out = (
            self._move(before.place, self.plan.sink, at, len(self.plan.stages)) if self.plan.sink is not None else None
        )
        self._hop(before, out, self.plan.sink, None)
        if depth is not None:
            answered = self._add(Task(self.plan.sink or before.place, "sync", len(self.plan.stages) - 1))
            self.slots.append(Slot(depth, 0, answered))
        return Line(tuple(self.tasks), np.array(self.seconds), np.array(self.spreads), tuple(self.slots))

    def _hop(self, before: _Passed | None, into: tuple[int, int] | None, place: str | None, entry: int | None) -> None:
        """The slots between two stages; the first or the second may be missing at the ends.

        Parameters
        ----------
        before : _Passed or None
            The stage before.
        into : (int, int) or None
            First and last task of the transfer.
        place : str or None
            That gets it.
        entry : int or None
            With which the stage behind begins.
        """
        if not self.plan.overlap:
            if before is not None:
                self._added(before, into)
            return
        if before is not None and before.exits > before.entry:
            self.slots.append(Slot(1, before.entry, before.exits))
        outbox = self.room(before.place) if before is not None else None
        if entry is None:  # results are gone once they are sent
            if before is not None and into is not None and outbox is not None:
                self.slots.append(Slot(2 * outbox, before.entry, into[0]))
        elif into is not None and place is not None and (inbox := self.room(place)) is not None:
            inbox += under_way(self.tasks[into[0]].delay_s, self.seconds[into[0]])
            self.slots.append(Slot(inbox, into[0], entry, at_end=False))
            if before is not None and outbox is not None:
                self.slots.append(Slot(outbox + inbox, before.entry, entry, at_end=False))

    def _added(self, at: _Passed, out: tuple[int, int] | None) -> None:
        """The slots of a place that does one thing at a time: from receiving a frame until it is sent; until it is there, where room is bounded."""
        self.slots.append(Slot(1, at.into[1] if at.into else at.entry, out[0] if out else at.exits))
        if at.into is not None and self.room(at.place) is not None:
            self.slots.append(Slot(1, at.into[0], out[1] if out else at.exits))

    def _add(self, task: Task, seconds: float = 0.0, spread_s: float = 0.0) -> int:
        """One more task, after the last one unless it says after which."""
        if not task.after and self.tasks:
            task = Task(**{**vars(task), "after": (len(self.tasks) - 1,)})
        self.tasks.append(task)
        self.seconds.append(seconds)
        self.spreads.append(spread_s)
        return len(self.tasks) - 1

    def _way(self, a: str, b: str) -> Way:
        way = self.system.way(a, b)
        if way is None:
            raise DataError(
                f"nothing leads from {a!r} to {b!r}; give a link between them", f"pipeline plan for {self.plan.model!r}"
            )
        return way

    def _move(self, a: str, b: str, at: int, stage: int) -> tuple[int, int] | None:
        """What crosses at a position goes from place to place: its first and last task; None when it is there already."""
        if a == b:
            return None
        way = self._way(a, b)
        seconds = way.busy_s(float(self.costs.payload_bytes[at]))
        lane = f"{a} → {b}"
        if self.plan.overlap:
            k = self._add(Task(lane, "transfer", stage, holds=way.resources, delay_s=way.delay_s), seconds)
            return k, k
        holds = (*way.resources, a)
        first = self._add(Task(lane, "transfer", stage, holds=holds, delay_s=way.delay_s, flows=True), seconds)
        return first, self._add(Task(b, "receive", stage, holds=(b,)), seconds)

    def _stage(self, stage: Stage, number: int, at: int) -> int:
        """The tasks of a stage; its last one."""
        if stage.blocks:
            return self._rows(stage, number, at)
        layers = slice(at, at + len(stage.layers))
        seconds, spread = (float(x(stage.place)[layers].sum()) for x in (self.profile.seconds, self.profile.spread))
        return self._add(Task(stage.place, "compute", number, _label(stage), holds=(stage.place,)), seconds, spread)

    # -- rows --------------------------------------------------------------------------------------------

    @cached_property
    def _row_costs(self) -> tuple[RowCosts, RowCosts]:
        """Seconds of blocks; and the spread of their computing, as if it were seconds."""
        places = dict.fromkeys(p for s in self.plan.stages for p in s.places)
        costs = RowCosts.of(self.profile, self.system, self.plan.wire, places)
        spread = {p: self.profile.spread(p) for p in places}
        # A layer's seconds vary by the same part of them however many of its rows are computed.
        part = {p: costs.fixed(p) / np.where(costs.seconds[p] > 0, costs.seconds[p], 1.0) for p in places}
        return costs, replace(costs, seconds=spread, fixed_s={p: part[p] * spread[p] for p in places}, block_s={})

    def _rows(self, stage: Stage, number: int, at: int) -> int:
        """Block by block: rows are handed out, computed side by side, and handed back."""
        costs, spreads = self._row_costs
        first = stage.place
        begin = self._add(Task(first, "sync", number))
        for block in stage.blocks:
            stop = at + len(block.layers)
            of, spread = (x.block(at, stop, block.rows, stage.places) for x in (costs, spreads))
            ends = []
            for k, place in enumerate(stage.places):
                if not block.rows[k]:
                    continue
                computed = Task(place, "compute", number, f"{block.rows[k]} rows", (place,), (begin,))
                numbers = of.computing_s[k], spread.computing_s[k]
                if place == first:
                    ends.append(self._add(computed, *numbers))
                    continue
                there, back = self._way(first, place), self._way(place, first)
                self._add(
                    Task(
                        f"{first} → {place}",
                        "transfer",
                        number,
                        "",
                        there.resources,
                        (begin,),
                        there.delay_s,
                        rows=True,
                    ),
                    of.getting_s[k],
                )
                self._add(Task(**{**vars(computed), "after": (len(self.tasks) - 1,)}), *numbers)
                ends.append(
                    self._add(
                        Task(
                            f"{place} → {first}",
                            "transfer",
                            number,
                            holds=back.resources,
                            delay_s=back.delay_s,
                            rows=True,
                        ),
                        of.returning_s[k],
                    )
                )
            begin = self._add(Task(first, "sync", number, after=tuple(ends)))
            at = stop
        return begin


def under_way(delay_s: float, busy_s: float) -> int:
    """Frames that a way holds between its ends: so many more an inbox has room for, or the delay would set the pace."""
    return min(math.ceil(delay_s / max(busy_s, LEAST_S)), MOST_UNDER_WAY) if delay_s > 0 else 0


def _label(stage: Stage) -> str:
    return f"{len(stage.layers)} layers" if len(stage.layers) > 1 else "1 layer"
