"""What a pipeline does when a place is gone: another plan for those that are left.

Any callable that takes a `System` and gives a `PipelinePlan` for it will do; `Replan` is the one that is used unless another is given.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Protocol

from splitplan.data.device import Device
from splitplan.data.pipeline_plan import PipelinePlan, Stage
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.formulations.pipeline import PipelinePlacement


class Replans(Protocol):
    """Gives a plan for a system."""

    def __call__(self, system: System) -> PipelinePlan:
        """A plan on the places, and over the links, that are left."""
        ...


@dataclass(frozen=True)
class Replan:
    """With a profile, the plan of least period on who is left; without one nothing is known of them, and the first computes all.

    Parameters
    ----------
    plan : PipelinePlan
        That ran so far: the new one is for the same model, wire, source and sink, has no more than ``plan.max_stages`` stages, and
        no more than ``plan.max_group`` places (or as many as share rows in the plan) share the rows of one.
    profile : Profile, optional
    time_limit_s : float
        Frames wait meanwhile: after so many seconds the best plan in hand is taken.
    """

    plan: PipelinePlan
    profile: Profile | None = None
    time_limit_s: float = 20.0

    def __call__(self, system: System) -> PipelinePlan:
        """A plan on the places, and over the links, that are left."""
        plan = self.plan
        if self.profile is None:
            return all_at_one(plan, system)
        source, sink = (p if p in system.places else None for p in (plan.source, plan.sink))
        largest = max(plan.max_group, *(len(s.places) for s in plan.stages))
        problem = PipelinePlacement(
            self.profile,
            system,
            overlap=plan.overlap,
            rows=largest > 1 and bool(self.profile.graph.rows),
            max_stages=plan.max_stages,
            wire=plan.wire,
            source=source,
            sink=sink,
            max_group=largest,
        )
        found: PipelinePlan = problem.solve(time_limit_s=self.time_limit_s).plan
        return found


NO_ROOM_BYTES = 1.0
"""The memory of a place that computes nothing."""


def ends_only(system: System, places: Collection[str]) -> System | None:
    """A system in which some places have no memory to compute in: frames may come from there, and results go there.

    None when no other place is left.
    """
    if set(system.places) <= set(places):
        return None
    return _over(system, {p: d.but(memory_bytes=NO_ROOM_BYTES) if p in places else d for p, d in system.places.items()})


def all_at_one(plan: PipelinePlan, system: System) -> PipelinePlan:
    """All layers at the first place of a system that the plan's source reaches and that reaches its sink.

    A source or a sink that is gone, or that nothing leads to any more, is nowhere: inputs are then where they are read, results
    where they are made.
    """

    def served(place: str) -> tuple[bool, bool]:
        reached = plan.source in system.places and (plan.source == place or system.way(plan.source, place) is not None)
        reaches = plan.sink in system.places and (plan.sink == place or system.way(place, plan.sink) is not None)
        return reached, reaches

    able = [p for p, d in system.places.items() if d.memory_bytes != NO_ROOM_BYTES] or list(system.places)
    place = max(able, key=lambda p: sum(served(p)))  # the first of those that serve most
    reached, reaches = served(place)
    return replace(
        plan,
        stages=(Stage(tuple(plan.placement), (place,)),),
        source=plan.source if reached else None,
        sink=plan.sink if reaches else None,
        predicted={},
    )


def without(system: System, gone: Collection[str], cut: Collection[tuple[str, str]] = ()) -> System | None:
    """A system less some places, and less some links of pairs; None when no place is left.

    Parameters
    ----------
    gone : collection of str
    cut : collection of (str, str)
        Pairs between which nothing leads any more, in either order.
    """
    places = {p: d for p, d in system.places.items() if p not in gone}
    if not places:
        return None
    return _over(system, places, cut)


def _over(system: System, places: dict[str, Device], cut: Collection[tuple[str, str]] = ()) -> System:
    """Some of a system's places, over its medium."""
    if system.shared is not None:
        return System(link=None, links=None, star=None, shared=system.shared, **places)
    if system.star:
        star = {p: k for p, k in system.star.items() if p in places}
        return System(link=None, links=None, star=star, shared=None, **places)
    lost = {frozenset(pair) for pair in cut}
    links = {pair: k for pair, k in system.links.items() if set(pair) <= set(places) and frozenset(pair) not in lost}
    return System(link=None, links=links, star=None, shared=None, **places)
