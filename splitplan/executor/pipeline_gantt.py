"""When a few frames of a pipeline's run were where, and when they would be by the plan's prediction: bars of a Gantt chart.

Knows no torch. Stages and ways write into a frame's times when they began it, by the clock of the machine that they are on:
``began_P`` of a place, ``began_P_to_Q`` of a way. The app brings them to its own clock, as seconds since the frame was submitted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from splitplan.data.pipeline_plan import PipelinePlan, Stage
from splitplan.executor.frames import FrameRecord
from splitplan.executor.legs import Leg

FRAMES = 5
"""How many frames are shown."""
BEGAN = "began_"


@dataclass(frozen=True)
class Bar:
    """What one frame did at one place or on one way.

    Parameters
    ----------
    frame : int
        Counted from the first one shown.
    lane : str
        A place, several that share rows as ``P + Q``, or a way as ``P → Q``.
    what : {"compute", "transfer"}
    label : str
    ready_s, start_s, end_s : float
        From ready to start it waits for what is busy. Of a way, until it has carried the frame, its delay left out.
    """

    frame: int
    lane: str
    what: str
    label: str
    ready_s: float
    start_s: float
    end_s: float


def stage_key(stage: Stage) -> str:
    """What a frame's times, and predictions, call the seconds of a stage."""
    return f"at_{stage.place}_s" if len(stage.places) == 1 else f"stage_{'+'.join(stage.places)}_s"


@dataclass(frozen=True)
class _Step:
    lane: str
    what: str
    label: str
    key: str
    wait: str
    began: str
    delay_s: float
    holds: tuple[str, ...]


def _steps(plan: PipelinePlan, legs: Sequence[Leg]) -> list[_Step]:
    """What a frame passes, in turn."""
    found = []
    for leg, stage in zip(legs, [*plan.stages, None], strict=True):
        if leg.way is not None:
            lane, holds = f"{leg.sender} → {leg.receiver}", leg.way.resources
            holds = holds if plan.overlap else (*holds, leg.sender, leg.receiver)
            key = (f"{leg.name}_s", f"{leg.name}_wait_s", BEGAN + leg.name)
            found.append(_Step(lane, "transfer", "", *key, leg.way.delay_s, holds))
        if stage is not None:
            label = f"{len(stage.layers)} layer{'s' * (len(stage.layers) > 1)}"
            key = (stage_key(stage), f"wait_{stage.place}_s", BEGAN + stage.place)
            found.append(_Step(" + ".join(stage.places), "compute", label, *key, 0.0, stage.places))
    return found


def on_the_apps_clock(
    times: Mapping[str, float], legs: Sequence[Leg], offsets_s: Mapping[str, float], submitted_s: float
) -> dict[str, float]:
    """A frame's times with what began when as seconds since it was submitted; left out where a clock is not known.

    Parameters
    ----------
    times : mapping of str to float
    legs : sequence of Leg
    offsets_s : mapping of str to float
        By place, what its clock is ahead of the app's.
    submitted_s : float
        By the app's clock.
    """
    ahead = {BEGAN + leg.name: offsets_s.get(leg.sender, math.nan) for leg in legs[1:]}
    ahead |= {BEGAN + p: s for p, s in offsets_s.items()}
    ahead[BEGAN + legs[0].name] = 0.0  # sent by the app itself
    found = {k: v for k, v in times.items() if not k.startswith(BEGAN)}
    began = {k: v - ahead.get(k, math.nan) - submitted_s for k, v in times.items() if k.startswith(BEGAN)}
    return found | {k: v for k, v in began.items() if math.isfinite(v)}


def measured_bars(plan: PipelinePlan, legs: Sequence[Leg], frames: Sequence[FrameRecord]) -> tuple[Bar, ...]:
    """Some frames from the middle of the longest stream, from when the first of them was ready; none where times are missing.

    Parameters
    ----------
    plan : PipelinePlan
    legs : sequence of Leg
    frames : sequence of FrameRecord
        That this plan computed.
    """
    steps = _steps(plan, legs)
    needed = [k for s in steps for k in (s.key, s.wait, s.began)]
    streams = defaultdict[int, list[FrameRecord]](list)
    for f in frames:
        if f.stream is not None and all(k in f.times for k in needed):
            streams[f.stream].append(f)
    longest = max(streams, key=lambda k: len(streams[k]), default=-1)
    stream = sorted(streams[longest], key=lambda f: f.frame_id)
    first = max(len(stream) - FRAMES, 0) // 2
    found = []
    for number, f in enumerate(stream[first : first + FRAMES]):
        for s in steps:
            start = f.submitted_s + f.times[s.began]
            ready = start - max(f.times[s.wait], 0.0)
            found.append(Bar(number, s.lane, s.what, s.label, ready, start, start + max(f.times[s.key], 0.0)))
    return _from_zero(found)


def predicted_bars(plan: PipelinePlan, legs: Sequence[Leg]) -> tuple[Bar, ...]:
    """As many frames by the plan's predicted seconds, one coming each period; none where the plan does not say.

    Each step begins as soon as its frame is there and what it keeps busy is free, the older frame first; buffers do not end.
    """
    steps, told = _steps(plan, legs), plan.predicted
    if "period_s" not in told or any(s.key not in told for s in steps):
        return ()
    ready = [k * told["period_s"] for k in range(FRAMES)]
    at, free, found = [0] * FRAMES, dict[str, float](), list[Bar]()
    while under_way := [f for f in range(FRAMES) if at[f] < len(steps)]:
        begin = {f: max([ready[f], *(free.get(r, 0.0) for r in steps[at[f]].holds)]) for f in under_way}
        f = min(begin, key=lambda f: (begin[f], f))
        s = steps[at[f]]
        end = begin[f] + told[s.key]
        found.append(Bar(f, s.lane, s.what, s.label, ready[f], begin[f], end))
        free |= dict.fromkeys(s.holds, end)
        ready[f], at[f] = end + s.delay_s, at[f] + 1
    return _from_zero(found)


def _from_zero(bars: Sequence[Bar]) -> tuple[Bar, ...]:
    start = min((b.start_s for b in bars), default=0.0)
    return tuple(
        Bar(b.frame, b.lane, b.what, b.label, b.ready_s - start, b.start_s - start, b.end_s - start) for b in bars
    )
