"""What a pipeline's run was like: predicted beside measured, who was busy for how long, and who set the pace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.errors import listed
from splitplan.executor.frames import FrameRecord, longest_silence, longest_stream
from splitplan.executor.legs import Leg, mates_of, rows_name
from splitplan.executor.pipeline_busy import Busy, bottleneck_text, busiest, busy_of, longest_of
from splitplan.executor.pipeline_gantt import BEGAN, Bar, measured_bars, predicted_bars, stage_key
from splitplan.executor.report import Row, row_of, rows_to_frame, rows_to_html, rows_to_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


_STEADY = 10
"""Answers while the pipeline was full that make its pace known."""


@dataclass(frozen=True)
class PipelineReport:
    """Predicted beside measured, of the plan by which most frames were computed.

    Parameters
    ----------
    plans : tuple of PipelinePlan
        That ran, one after another: more than one when places were lost.
    number : int
        Of the one that rows and ``busy`` are of.
    rows : tuple of Row
        ``throughput``; ``latency`` of frames that were alone in the system, ``response`` of streamed ones, waiting included; of each
        place ``at P``, of each way ``P → Q`` from when a frame has it to when it is through, its delay left out; of each way between the
        first place of a stage and another one that shares its rows ``rows P → Q``, all blocks added up; ``overhead``.
    busy : tuple of Busy
        In the order in which a frame passes.
    counts : dict of str to float
        Frames answered, arrangements anew, frames handed over again, percentiles of the response in seconds … When something was lost,
        ``replanning_s``, for how long plans were arranged anew, all together, and ``longest_without_answer_s``, the longest time for
        which answered frames had waited without any being answered.
    notes : tuple of str
        What was emulated, what ran where, what went wrong.
    frames : tuple of FrameRecord
        ``cut`` is the number of the plan that answered it, ``alone`` why none did.
    bars, predicted_bars : tuple of Bar
        When a few frames from the middle of the longest stream were where; and when as many would be by the prediction, one coming
        each period. Empty where times or predictions are missing.
    """

    plans: tuple[PipelinePlan, ...]
    number: int
    rows: tuple[Row, ...]
    busy: tuple[Busy, ...]
    counts: dict[str, float]
    notes: tuple[str, ...]
    frames: tuple[FrameRecord, ...] = field(repr=False, default=())
    bars: tuple[Bar, ...] = field(repr=False, default=())
    predicted_bars: tuple[Bar, ...] = field(repr=False, default=())

    @property
    def plan(self) -> PipelinePlan:
        """The one that the rows are of."""
        return self.plans[self.number]

    @property
    def bottleneck(self) -> str:
        """Whose utilisation was largest while frames were streamed; before that, who was busy longest for a frame; empty if nobody was."""
        return busiest(self.busy)

    @property
    def predicted_bottleneck(self) -> str:
        """Whom a frame keeps busy longest by the prediction; empty where one is missing."""
        return longest_of(self.busy)

    def to_frame(self) -> pd.DataFrame:
        """One row a quantity: ``quantity, unit, predicted, measured, p95, ratio, n, how``."""
        return rows_to_frame(self.rows)

    def busy_to_frame(self) -> pd.DataFrame:
        """One row a place or link: ``what, predicted_s, measured_s, utilisation, bottleneck, predicted_bottleneck``."""
        import pandas as pd

        told = {"bottleneck": self.bottleneck, "predicted_bottleneck": self.predicted_bottleneck}
        return pd.DataFrame({**vars(b), **{k: b.what == v for k, v in told.items()}} for b in self.busy)

    def plans_to_frame(self) -> pd.DataFrame:
        """One row a plan that ran: ``number, plan, frames, replayed``."""
        import pandas as pd

        return pd.DataFrame(
            {
                "number": k,
                "plan": plan.describe(),
                "frames": len(mine := [f for f in self.frames if f.cut == k and not f.alone]),
                "replayed": sum("replays" in f.times for f in mine),
            }
            for k, plan in enumerate(self.plans)
        )

    def frames_to_frame(self) -> pd.DataFrame:
        """One row a frame, with all its times."""
        import pandas as pd

        return pd.DataFrame(
            {
                "frame_id": r.frame_id,
                "plan": r.cut,
                "submitted_s": r.submitted_s,
                "latency_s": r.latency_s,
                "single": r.single,
                "stream": r.stream,
                "alone": r.alone,
                **r.times,
            }
            for r in self.frames
        )

    def bars_to_frame(self) -> pd.DataFrame:
        """One row a bar of a Gantt chart: ``how`` (``predicted`` or ``measured``), ``frame, lane, what, label, ready_s, start_s, end_s``."""
        import pandas as pd

        named = (("predicted", self.predicted_bars), ("measured", self.bars))
        columns = ["how", *(f.name for f in fields(Bar))]
        return pd.DataFrame([{"how": how, **vars(b)} for how, bars in named for b in bars], columns=columns)

    def plot(self) -> Figure:
        """Draw predicted beside measured, one panel a unit; and below, once frames were streamed, where a few of them were when."""
        from splitplan.plots.report import plot_report

        return plot_report(
            self.to_frame(),
            title=f"{self.plan.model}: {self.plan.label}",
            bars=self.bars_to_frame() if self.bars else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as for JSON; frames are left out (`frames_to_frame` has them)."""
        return {
            "kind": "splitplan.PipelineReport",
            "plans": [plan.to_dict() for plan in self.plans],
            "number": self.number,
            "rows": [{**vars(r), "ratio": r.ratio} for r in self.rows],
            "busy": [vars(b) for b in self.busy],
            "bottleneck": self.bottleneck,
            "predicted_bottleneck": self.predicted_bottleneck,
            "counts": dict(self.counts),
            "notes": list(self.notes),
        }

    def _remarks(self) -> list[str]:
        used = [f"{b.what} {b.utilisation:.0%}" for b in self.busy if b.utilisation is not None]
        told = [f"busy while frames were streamed: {', '.join(used)}"] if used else []
        told += bottleneck_text(self.busy)
        if len(self.plans) > 1:
            told += [
                f"plan {k}, {plan.describe()}: {sum(f.cut == k and not f.alone for f in self.frames)} frames"
                for k, plan in enumerate(self.plans)
            ]
        return told + [f"{k}: {v:g}" for k, v in self.counts.items()]

    def __str__(self) -> str:
        lines = [str(self.plan), *rows_to_text(self.rows), *self._remarks()]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        return rows_to_html(str(self.plan), self.rows, [*self._remarks(), *self.notes])


def make_report(
    plans: Sequence[PipelinePlan],
    legs: Sequence[tuple[Leg, ...]],
    system: System,
    frames: tuple[FrameRecord, ...],
    counts: Mapping[str, float],
    notes: tuple[str, ...],
    *,
    abouts: Mapping[str, Mapping[str, Any]],
    emulate: bool,
) -> PipelineReport:
    """The report of a run.

    Parameters
    ----------
    plans : sequence of PipelinePlan
        That ran.
    legs : sequence of tuple of Leg
        Of each of them.
    system : System
    frames : tuple of FrameRecord
    counts : mapping of str to float
    notes : tuple of str
    abouts : mapping of str to dict
        What the workers say of themselves, by place.
    emulate : bool
        Whether the ways were emulated; real ones are not the system's.
    """
    whole = [f for f in frames if not f.alone]
    number = max(range(len(plans)), key=lambda k: sum(f.cut == k for f in whole))
    plan, mine = plans[number], [f for f in whole if f.cut == number]
    unlike, mates = _unlike(plan, system, abouts), mates_of(plan, system)
    rows = [_throughput(plan, mine), _latency(plan, mine)]
    streamed = [f.latency_s for f in frames if f.stream is not None]
    rows.append(row_of("response", "s", None, streamed, "of streamed frames, waiting included"))
    for key, name in _pieces(plan, legs[number]):
        row = row_of(name, "s", plan.predicted.get(key), [f.times[key] for f in mine if key in f.times], "")
        if key.startswith("at_"):
            if (place := name.removeprefix("at ")) in unlike:
                row = _remarked(row, f"not comparable: {unlike[place]}")
        elif not emulate and "_to_" in key:
            row = _remarked(row, "the real way with its delay; predicted is of the system's")
        rows.append(row)
    if unlike:
        rows[:2] = [_remarked(r, "not comparable: " + "; ".join(unlike.values())) for r in rows[:2]]
    rows.append(_overhead(plan, mine))
    found = dict(counts) | ({"longest_without_answer_s": longest_silence(frames)} if "replanning_s" in counts else {})
    found |= {f"response_p{q}_s": float(np.quantile(streamed, q / 100)) for q in (50, 95, 99) if streamed}
    return PipelineReport(
        tuple(plans), number, tuple(rows), busy_of(plan, legs[number], mates, mine, emulate), found, notes, frames,
        measured_bars(plan, legs[number], mine), predicted_bars(plan, legs[number]),
    )  # fmt: skip


def _remarked(row: Row, text: str) -> Row:
    if row.measured is None:
        return row
    return replace(row, how="; ".join(filter(None, (row.how, text))), comparable=False)


def _unlike(plan: PipelinePlan, system: System, abouts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Places whose workers compute otherwise than the system says, and how."""
    found = {}
    for place in plan.places:
        if (about := abouts.get(place)) is None:
            continue
        device = system.places[place]
        if about["slowdown"] != device.slowdown:
            found[place] = (
                f"{place} is slowed {device.slowdown:g}x in the system, its worker was {about['slowdown']:g}x"
            )
        elif about["threads"] != device.threads:
            found[place] = f"{place} has {device.threads} thread(s) in the system, its worker had {about['threads']}"
    return found


def _pieces(plan: PipelinePlan, legs: Sequence[Leg]) -> list[tuple[str, str]]:
    """What a frame passes, in order: the key of its times, and the name of its row."""
    found = []
    for leg, stage in zip(legs, [*plan.stages, None], strict=True):
        if leg.way is not None:
            found.append((f"{leg.name}_s", f"{leg.sender} → {leg.receiver}"))
        if stage is None:
            continue
        first, *mates = stage.places
        found.append((f"at_{first}_s", f"at {first}"))
        for mate in mates:
            found += [
                (f"{rows_name(first, mate)}_s", f"rows {first} → {mate}"),
                (f"at_{mate}_s", f"at {mate}"),
                (f"{rows_name(mate, first)}_s", f"rows {mate} → {first}"),
            ]
        if mates:
            found.append((stage_key(stage), f"stage {' + '.join(stage.places)}"))
    return found


def _latency(plan: PipelinePlan, frames: Sequence[FrameRecord]) -> Row:
    single = [f.latency_s for f in frames if f.single]
    waited = bool(frames) and not single
    how = "with waiting: several frames were under way; not comparable: predicted is of one that is alone, as app(x) sends it"
    values = single or [f.latency_s for f in frames]
    row = row_of("latency", "s", plan.predicted.get("latency_s"), values, how if waited else "")
    return replace(row, comparable=not waited)


def _throughput(plan: PipelinePlan, frames: Sequence[FrameRecord]) -> Row:
    period_s = plan.predicted.get("period_s")
    predicted = 1 / period_s if period_s else None
    of = longest_stream(frames)
    done = sorted(f.done_s for f in of)
    if len(done) < 3:
        how = "fewer than 3 frames were streamed; app.stream(items) measures it"
        return Row("throughput", "1/s", predicted, None, None, 0, how)
    # Frames that are under way at the first answer have been worked on before it, and as many must be at the last.
    last = max(f.submitted_s for f in of)
    full = [t for t in done if t <= last]
    how = "of the longest stream, first answer to last frame handed over: as many were under way"
    if len(full) < _STEADY:
        full, how = done, "first to last answer of the longest stream, which was too short to tell a steady pace"
    return Row("throughput", "1/s", predicted, (len(full) - 1) / (full[-1] - full[0]), None, len(full), how)


def _overhead(plan: PipelinePlan, frames: Sequence[FrameRecord]) -> Row:
    predicted = 0.0 if "latency_s" in plan.predicted else None
    inside = {"clock_uncertainty_s"}  # what a stage of rows takes is one number: its places overlap
    for places in [s.places for s in plan.stages if len(s.places) > 1]:
        inside |= {f"at_{p}_s" for p in places}
        inside |= {f"{rows_name(a, b)}_s" for p in places[1:] for a, b in ((places[0], p), (p, places[0]))}
    values = [
        f.latency_s
        - math.fsum(v for k, v in f.times.items() if k.endswith("_s") and k not in inside and not k.startswith(BEGAN))
        for f in frames
        if f.single
    ]
    how = "latency less computing, ways and waits: delays, headers, copies, processes"
    return row_of("overhead", "s", predicted, values, how if values else "no frame was alone in the system")


def guessed(plan: PipelinePlan, profile: Profile) -> list[str]:
    """What the report says of places that share rows, and whose profile does not know what fewer rows do not save."""
    sharing = {p for s in plan.stages for b in s.blocks if any(b.rows[1:]) for p in s.places}
    if not (unknown := [p for p in profile.rows_guessed if p in sharing]):
        return []
    return [
        f"what fewer rows do not save is not known at {listed(unknown)}: predicted as if all did; profile with rows=True"
    ]


def facts(
    plan: PipelinePlan,
    legs: Sequence[Leg],
    system: System,
    abouts: Mapping[str, Mapping[str, Any]],
    hosts: Mapping[str, str],
    emulate: bool,
) -> list[str]:
    """What the report says of workers and emulation."""
    found = []
    for leg in legs:
        if (way := leg.way) is None:
            continue
        if emulate:
            found.append(
                f"emulated way {leg.sender} → {leg.receiver}: {way.rate_bps / 1e6:g} Mbit/s, delay {way.delay_s * 1e3:g} ms, over "
                f"{' and '.join(way.resources)}; messages also crossed the real way below it"
            )
        else:
            found.append(f"the way {leg.sender} → {leg.receiver} was not emulated: the real one was measured")
    if emulate and not plan.overlap and any(leg.way is not None and leg.way.delay_s > 0 for leg in legs):
        found.append(
            "communication is added: a place waits for its next frame also while that is under its way's delay"
        )
    if plan.sink is None and any(leg.beside for leg in legs):
        found.append("results go nowhere by the plan; they were handed over beside the ways")
    for place, about in abouts.items():
        slowed = f", emulated: slowed {about['slowdown']:g}x by a duty cycle" if about["slowdown"] > 1 else ""
        found.append(
            f"{place}: torch {about['torch']} on {about['torch_device']}, {about['threads']} thread(s){slowed}"
        )
    found += [
        f"{text}: predicted and measured are of different things" for text in _unlike(plan, system, abouts).values()
    ]
    found += [f"{place}: a worker at {at} that was running already" for place, at in hosts.items() if place in abouts]
    if not any(a["torch_device"].startswith("cuda") for a in abouts.values()):
        found.append("never run on cuda" + (" by the workers started here" if hosts else ""))
    return found
