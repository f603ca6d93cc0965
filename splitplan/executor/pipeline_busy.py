"""Whom a frame of a pipeline keeps busy for how long, and whom most: by measurement, and by prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.way import Way
from splitplan.executor.frames import FrameRecord, longest_stream
from splitplan.executor.legs import Leg, MateWays, contended, rows_name
from splitplan.executor.pipeline_gantt import stage_key

_ALIKE = 1e-9
"""Predictions that differ by no more than this part are equal: none of them is the longest one."""


@dataclass(frozen=True)
class Busy:
    """A place, or what carries transfers, and the seconds for which one frame keeps it busy.

    Parameters
    ----------
    what : str
        A place's name; ``a→b`` of a pair, ``a up`` or ``b down`` of a star, ``medium`` of a shared one.
    predicted_s, measured_s : float or None
        The measured ones are medians, of what passes there added up. What an emulated way carries keeps it busy for as long as its
        bytes were given the way, which is shorter than from end to end: a thread that wakes up late keeps no way busy. Of a real way
        it is from end to end, its delay too.
    utilisation : float or None
        Of the time from when the longest stream's first frame was handed over to its last answer, what its frames kept it busy. None
        where a real way counts: for how long that was busy is not known.
    """

    what: str
    predicted_s: float | None
    measured_s: float | None
    utilisation: float | None


def busy_of(
    plan: PipelinePlan, legs: Sequence[Leg], mates: Sequence[MateWays], frames: Sequence[FrameRecord], emulate: bool
) -> tuple[Busy, ...]:
    """Whom a frame keeps busy for how long; a place also by what it sends and receives, when communication is added.

    Rows count where they share what carries them with anything else of a frame; elsewhere they are part of their stage.
    """
    keys: dict[str, list[str]] = {}
    ways: dict[str, tuple[Way, int]] = {}
    shared = contended(tuple(legs), tuple(mates))
    for leg, stage in zip(legs, [*plan.stages, None], strict=True):
        if leg.way is not None:
            ways[f"{leg.name}_s"] = leg.way, 1
            for what in leg.way.resources:
                keys.setdefault(what, []).append(f"{leg.name}_s")
            for end in () if plan.overlap else (leg.sender, leg.receiver):
                keys.setdefault(end, []).append(f"{leg.name}_s")
        if stage is not None:
            # A place that sends and receives by turns is busy with more than its stage: of several, each for itself.
            for what in (" + ".join(stage.places),) if plan.overlap else stage.places:
                keys.setdefault(what, []).append(stage_key(stage))
    for mate in mates:
        for a, b, way in mate.both if mate.messages else ():
            ways[key := f"{rows_name(a, b)}_s"] = way, mate.messages
            for what in (r for r in way.resources if r in shared):
                keys.setdefault(what, []).append(key)

    def carried(frame: FrameRecord, name: str) -> float:
        (way, messages), size = ways[name], frame.times.get(f"{name.removesuffix('_s')}_bytes", math.nan)
        return way.busy_s(size) + (messages - 1) * way.busy_s(0.0)

    def seconds(frame: FrameRecord, names: Sequence[str]) -> float | None:
        took = [carried(frame, n) if emulate and n in ways else frame.times.get(n, math.nan) for n in names]
        return None if any(map(math.isnan, took)) else math.fsum(took)

    streamed = longest_stream(frames)
    lasted_s = max((f.done_s for f in streamed), default=0.0) - min((f.submitted_s for f in streamed), default=0.0)
    found = []
    for what, names in keys.items():
        told = [plan.predicted[n] for n in names if n in plan.predicted]
        seen = [x for f in frames if (x := seconds(f, names)) is not None]
        kept = [x for f in streamed if (x := seconds(f, names)) is not None]
        real = not emulate and any(n in ways for n in names)
        found.append(
            Busy(
                what,
                math.fsum(told) if len(told) == len(names) else None,
                float(np.median(seen)) if seen else None,
                math.fsum(kept) / lasted_s if kept and lasted_s > 0 and not real else None,
            )
        )
    return tuple(found)


def busiest(busy: Sequence[Busy]) -> str:
    """The bottleneck by measurement: whose utilisation was largest, where any is known; else who was busy longest for a frame.

    A stage that takes longer for a frame is not busier than a medium that carries several transfers of it, and what is seldom long is
    busier than its median says.
    """
    if used := [b for b in busy if b.utilisation is not None]:
        return max(used, key=lambda b: b.utilisation or 0.0).what
    known = [b for b in busy if b.measured_s is not None]
    return max(known, key=lambda b: b.measured_s or 0.0).what if known else ""


def longest_of(busy: Sequence[Busy]) -> str:
    """The bottleneck by prediction: whom a frame keeps busy longest; of several alike the measured one if it is among them, else the first."""
    if not busy or any(b.predicted_s is None for b in busy):
        return ""
    most = max(b.predicted_s or 0.0 for b in busy)
    alike = [b.what for b in busy if (b.predicted_s or 0.0) >= most * (1 - _ALIKE)]
    return measured if (measured := busiest(busy)) in alike else alike[0]


def bottleneck_text(busy: Sequence[Busy]) -> list[str]:
    """The bottlenecks in words; both where they differ."""
    measured, predicted = busiest(busy), longest_of(busy)
    if not measured:
        return [f"bottleneck, predicted: {predicted}"] if predicted else []
    by = {b.what: b for b in busy}
    used = by[measured].utilisation
    how = "busy longest for a frame" if used is None else f"busy for {used:.0%} of the stream"
    unknown = [b.what for b in busy if b.utilisation is None and used is not None]
    how += f"; of {', '.join(unknown)} it is not known" if unknown else ""
    told = f"bottleneck: {measured} ({how})"
    return [told if predicted in ("", measured) else f"{told}; predicted: {predicted}"]
