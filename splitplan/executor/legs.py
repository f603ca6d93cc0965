"""The legs of a pipeline's way: what goes from one stage to the next, over which way of the system, and what it may fill.

Knows no torch. Leg 0 leads into the first stage, leg k from stage k to stage k + 1 (counted from 1), the last one out of the last.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate, pairwise

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.plan import Wire, wire_bytes
from splitplan.data.system import System
from splitplan.data.way import Way
from splitplan.errors import did_you_mean, raise_all
from splitplan.models.graph import INPUT, LayerGraph, Tensor

BUFFERS = 2
"""Frames that may wait at either end of a leg, besides those that are under way on it."""

_MOST_UNDER_WAY = 64
_LEAST_S = 1e-4


@dataclass(frozen=True)
class Leg:
    """What goes from one place to the next.

    Parameters
    ----------
    sender, receiver : str
        Places; empty where nobody's place is said: inputs begin at the first stage, results are wanted nowhere.
    way : Way or None
        None: nothing is sent over a link of the system.
    crossing : tuple of str
        Tensors that go over the way: made before, read after.
    beside : tuple of str
        Results that go along to be handed over, which no later stage reads and no place wants: they cost the way nothing.
    wire : {"fp32", "fp16", "int8"} or None
        In which the crossing ones go; None: as they are, because no link is between.
    size_bytes : float
        Of the crossing ones at the wire's precision, for the batch that was traced.
    window : int
        Frames that may be under way or wait at the receiver. A long way holds more of them, or its delay would set the pace; where
        communication is added to computing, one: a place receives the next frame when it has sent on the last.
    """

    sender: str
    receiver: str
    way: Way | None
    crossing: tuple[str, ...]
    beside: tuple[str, ...]
    wire: Wire | None
    size_bytes: float
    window: int

    @property
    def name(self) -> str:
        """As predictions call it: ``a_to_b``."""
        return f"{self.sender}_to_{self.receiver}"


def ends_of(plan: PipelinePlan) -> tuple[str, ...]:
    """The places that a frame passes: where it begins, the head of each stage, where the results go."""
    heads = [stage.place for stage in plan.stages]
    return (plan.source or heads[0], *heads, plan.sink or heads[-1])


def crossing(graph: LayerGraph, plan: PipelinePlan, number: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The tensors that a leg carries: those that cross, and those that go along beside."""
    at = [0, *accumulate(len(s.layers) for s in plan.stages)][number]
    there = [t for t in graph.tensors if t.producer == INPUT or graph.index[t.producer] < at]
    wanted = {t.name for t in graph.outputs}
    later = {t.name for t in there if any(graph.index[c] >= at for c in t.consumers)}
    if plan.sink is not None:
        later |= wanted
    go = tuple(t for t in there if t.name in later)
    return go, tuple(t for t in there if t.name in wanted - later)


def legs_of(graph: LayerGraph, plan: PipelinePlan, system: System) -> tuple[Leg, ...]:
    """The legs of a plan on a system, one more than it has stages.

    Raises
    ------
    FingerprintError
        The plan is for another model.
    DataError
        The plan, or a place or way that it needs and the system has not; all of it at once.
    """
    plan.check(graph)
    where = f"pipeline plan for {plan.model!r}"
    named = [("place", p) for p in plan.places]
    named += [(name, p) for name in ("source", "sink") if (p := getattr(plan, name)) is not None]
    raise_all(
        [
            f"names {what} {p!r}, which the system has not; it has {', '.join(system.places)}{did_you_mean(p, system.places)}"
            for what, p in named
            if p not in system.places
        ],
        where,
    )
    ends = ends_of(plan)
    found = tuple(_leg(graph, plan, system, k, a, b) for k, (a, b) in enumerate(pairwise(ends)))
    raise_all(
        [
            f"hands over from {leg.sender} to {leg.receiver}, and nothing leads there; give the system a link between them"
            for leg in found
            if leg.sender != leg.receiver and leg.way is None
        ],
        where,
    )
    return found


def _leg(graph: LayerGraph, plan: PipelinePlan, system: System, number: int, a: str, b: str) -> Leg:
    go, beside = crossing(graph, plan, number)
    way = system.way(a, b) if a != b else None
    size = float(sum(wire_bytes(t.size_bytes, t.dtype, plan.wire) for t in go))
    window = BUFFERS
    if not plan.overlap:
        window = 1
    elif way is not None and way.delay_s > 0:
        window += min(math.ceil(way.delay_s / max(way.busy_s(size), _LEAST_S)), _MOST_UNDER_WAY)
    names, others = tuple(t.name for t in go), tuple(t.name for t in beside)
    return Leg(a, b, way, names, others, plan.wire if way is not None else None, size, window)


@dataclass(frozen=True)
class MateWays:
    """How the first place of a stage and another one that shares its rows reach each other.

    Parameters
    ----------
    stage : int
    head, place : str
        The first place of the stage, and the other one.
    there, back : Way
    messages : int
        Blocks of a frame of which the other place makes rows: so many messages go each way.
    """

    stage: int
    head: str
    place: str
    there: Way
    back: Way
    messages: int

    @property
    def both(self) -> tuple[tuple[str, str, Way], ...]:
        """Each way: its sender, its receiver, itself."""
        return (self.head, self.place, self.there), (self.place, self.head, self.back)


def rows_name(sender: str, receiver: str) -> str:
    """What predictions and a frame's times call the rows that go between two places of a stage: ``rows_a_to_b``."""
    return f"rows_{sender}_to_{receiver}"


def mates_of(plan: PipelinePlan, system: System) -> tuple[MateWays, ...]:
    """The places that share rows with the first one of their stage.

    Raises
    ------
    DataError
        Nothing leads there, or back.
    """
    found, problems = [], []
    for number, stage in enumerate(plan.stages):
        for k, place in enumerate(stage.places[1:], 1):
            there, back = system.way(stage.place, place), system.way(place, stage.place)
            if there is None or back is None:
                problems.append(
                    f"shares rows of {stage.place} with {place}, and nothing leads there and back; give the system a link"
                )
            else:
                messages = sum(b.rows[k] > 0 for b in stage.blocks)
                found.append(MateWays(number, stage.place, place, there, back, messages))
    raise_all(problems, f"pipeline plan for {plan.model!r}")
    return tuple(found)


def contended(legs: tuple[Leg, ...], mates: tuple[MateWays, ...] = ()) -> tuple[str, ...]:
    """The resources that several ways keep busy, so that their senders must agree on when."""
    ways = [leg.way for leg in legs if leg.way is not None] + [w for m in mates for w in (m.there, m.back)]
    counts = Counter(r for way in ways for r in way.resources)
    return tuple(r for r, k in counts.items() if k > 1)


def enough_depth(legs: tuple[Leg, ...]) -> int:
    """Frames to have under way so that no stage waits for the next one: two a stage, and what is on the ways."""
    return max(8, 2 * (len(legs) - 1) + sum(max(leg.window - BUFFERS, 0) + 1 for leg in legs))
