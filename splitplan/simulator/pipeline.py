"""A pipeline's plan, frame by frame: stages at places, transfers over links, bounded buffers, times that vary as the profile's did."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import get_args

import numpy as np

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.profile import Profile
from splitplan.data.scenario import Arrivals
from splitplan.data.system import System
from splitplan.errors import did_you_mean, raise_all
from splitplan.models.graph import number_problem
from splitplan.policies.pipeline_result import PipelineResult
from splitplan.simulator.pipeline_line import Line, line_of
from splitplan.simulator.pipeline_times import Turns, start_times

QUARTILES = 1.3489795003921634
"""Interquartile range of the normal distribution over its standard deviation."""


def simulate_pipeline(
    plan: PipelinePlan,
    profile: Profile,
    system: System,
    *,
    frames: int = 1000,
    arrivals: Arrivals | None = None,
    buffers: int | Mapping[str, int] | None = 2,
    depth: int | None = None,
    turns: Turns = "first",
    jitter: float = 1.0,
    seed: int = 0,
) -> PipelineResult:
    r"""Run frames through a pipeline.

    A place computes one frame at a time, in the order of frames, and a way's resources (``system.way(a, b).resources``) carry one
    transfer at a time; nothing is held back for a frame that is not there yet. A transfer asks for its way when the receiver's inbox has
    room: for ``buffers`` frames, and for as many more as a long way holds (delay over sending time). A place begins nothing while
    ``buffers`` frames that it has computed wait to ask. So does the executor, with ``buffers=2``.

    When the plan's communication is not overlapped, a place takes a frame from its receiving to its sending before it takes the next, and
    receives bits as they come, for as long as sending takes. With bounded buffers a frame is sent to it once its last one has arrived at
    the next place, so that delays are part of the period; how many buffers makes no difference. A stage of several places takes one frame
    at a time: block by block its rows are handed out, computed and handed back, the first place computing meanwhile.

    Seconds of computing are lognormal, drawn for each frame and stage: their mean is the profile's seconds whatever ``jitter`` is, so
    that throughput is lost to variation alone, never to a shifted mean. Their standard deviation is ``jitter`` times that of the
    normal distribution with the profile's spread (its interquartile range). Layers of a stage are slow and quick together, frames
    and stages independent:

        seconds = t exp(σ z − σ²/2),  z standard normal,  σ² = ln(1 + (jitter · spread / (1.349 t))²),  t, spread summed over layers

    A profile's seconds are of typical frames: where a machine is much slower now and then, frames take longer in the mean than that.

    Links carry at their stated rates.

    Without jitter, with frames always there and ``buffers=None`` the period is what `PipelinePlacement` states wherever every resource
    has one task a frame. Where transfers share a resource, as on a medium, it is no less, and may be longer: frames that are far behind
    take their turns too with ``turns="first"``, and what is sent for them is lost to the oldest, unless buffers are bounded; and a
    quicker place can cost throughput in rare cases, as in any such schedule. Answers may then come faster than that for a while, once
    work for them has been done: the period and throughput of the result are never those of a pace that some resource cannot keep up.

    Where three places or more share rows over a star or a shared medium, it may be less than what is stated: `RowCosts` lets all rows
    be handed out before any of these places computes, and all be computed before any is handed back, and a run does not wait for that.

    Parameters
    ----------
    plan : PipelinePlan
    profile : Profile
        With seconds for every place of the plan.
    system : System
    frames : int
    arrivals : Arrivals, optional
        `splitplan.periodic`, `splitplan.poisson`, …; unless given there is always a frame, taken as soon as there is room. Of recorded
        ones no more than there are.
    buffers : int, mapping of str to int, or None
        Frames; by place, places left out have any room. None: any number.
    depth : int, optional
        The most frames under way at a time, as an app's ``depth``; any number unless given.
    turns : {"first", "oldest"}
        Of several transfers that ask for one resource, whose turn it is: who asked first, as in a queue, or the oldest frame's.
    jitter : float
        How many times the profile's spread; 0: every frame takes the profile's seconds.
    seed : int
        Of arrivals and jitter: the same seed, the same run.

    Returns
    -------
    PipelineResult

    Raises
    ------
    DataError
        An argument that cannot be right; a plan of another graph, of places that the system or the profile has not, over ways that do
        not exist, or with rows that cannot be shared so.
    """
    raise_all(_wrong(plan, profile, system, frames, arrivals, depth, turns, jitter, seed), "simulate_pipeline")
    plan.check(profile.graph)
    raise_all([*_places(plan, profile, system), *_buffer_problems(buffers, system)], "simulate_pipeline")
    line = line_of(plan, profile, system, room=lambda place: _room(buffers, place), depth=depth)
    arrive = np.zeros(frames) if arrivals is None else _arrive(arrivals, frames, seed)
    seconds = seconds_of(line, len(arrive), jitter, seed)
    start = start_times(line, arrive, seconds, turns)
    about = (
        "always a frame there" if arrivals is None else _named(arrivals),
        "any buffers" if buffers is None else f"buffers {buffers}",
        *((f"depth {depth}",) if depth is not None else ()),
        f"jitter {jitter:g}" if jitter and line.spread_s.any() else "no jitter",
        f"seed {seed}",
    )
    taken = start[:, 0].copy() if arrivals is None else arrive
    return PipelineResult(plan, line.tasks, taken, start, start + seconds, about)


def seconds_of(line: Line, frames: int, jitter: float, seed: int) -> np.ndarray:
    """Seconds of each frame's tasks, shape (frames, tasks), of the mean that the line says; each task has a stream of random numbers of its own."""
    found = np.tile(line.seconds, (frames, 1))
    for k, (mean, spread) in enumerate(zip(line.seconds.tolist(), line.spread_s.tolist(), strict=True)):
        if jitter * spread > 0 and mean > 0:
            variance = math.log1p((jitter * spread / (QUARTILES * mean)) ** 2)
            z = np.random.default_rng((seed, k + 1)).standard_normal(frames)
            found[:, k] *= np.exp(math.sqrt(variance) * z - variance / 2)
    return found


def _arrive(arrivals: Arrivals, frames: int, seed: int) -> np.ndarray:
    """When the first frames arrive."""
    if arrivals.kind == "recorded":
        return np.array(arrivals.times_s[:frames], float)
    duration = (frames + 6 * math.sqrt(frames) + 10) / arrivals.rate_hz
    while len(times := arrivals.times(duration, seed)) < frames:
        duration *= 2
    return times[:frames]


def _room(buffers: int | Mapping[str, int] | None, place: str) -> int | None:
    return buffers.get(place) if isinstance(buffers, Mapping) else buffers


def _named(arrivals: Arrivals) -> str:
    return arrivals.kind if arrivals.kind == "recorded" else f"{arrivals.kind}, {arrivals.rate_hz:g} frames/s"


# -- what can be wrong -----------------------------------------------------------------------------------


def _wrong(
    plan: object, profile: object, system: object, frames: object, arrivals: object, depth: object, turns: object, jitter: object, seed: object
) -> list[str]:  # fmt: skip
    given = (("plan", plan, PipelinePlan), ("profile", profile, Profile), ("system", system, System))
    found = [f"{n} is a {type(v).__name__}; give a splitplan.{c.__name__}" for n, v, c in given if not isinstance(v, c)]
    found += _whole("frames", frames)
    found += _whole("depth", depth, "; or None for any number") if depth is not None else []
    if arrivals is not None and not isinstance(arrivals, Arrivals):
        found.append(f"arrivals is {arrivals!r}; give splitplan.periodic(rate_hz), splitplan.poisson(rate_hz), or None")
    if turns not in get_args(Turns):
        found.append(f"turns is {turns!r}; give one of {', '.join(get_args(Turns))}")
    found += [bad] if (bad := number_problem("jitter", jitter)) else []
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        found.append(f"seed is {seed!r}; give a whole number from 0")
    return found


def _whole(name: str, value: object, also: str = "") -> list[str]:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        return [f"{name} is {value!r}; give a whole number from 1{also}"]
    return []


def _buffer_problems(buffers: object, system: System) -> list[str]:
    if buffers is None:
        return []
    if not isinstance(buffers, Mapping):
        return _whole("buffers", buffers, ", by place if need be; or None for any number")
    found = [
        f"buffers: the system has no place {p!r}{did_you_mean(p, system.places)}"
        for p in buffers
        if p not in system.places
    ]
    return found + [x for p, n in buffers.items() for x in _whole(f"buffers[{p!r}]", n)]


def _places(plan: PipelinePlan, profile: Profile, system: System) -> list[str]:
    named = dict.fromkeys([*plan.places, *(p for p in (plan.source, plan.sink) if p is not None)])
    found = [f"the plan names place {p!r}, which the system has not" for p in named if p not in system.places]
    return found + [f"the profile has no times for place {p!r}" for p in plan.places if p not in profile.places]
