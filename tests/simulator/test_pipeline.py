"""A pipeline's simulation: its formula's period, a recursion of our own, what may never get worse, what it is told wrongly."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import splitplan as sp
from benchmarks.instances import RANGES, Choices, Ranges, chance
from splitplan.data.pipeline_plan import PipelinePlan, Stage
from splitplan.data.profile import COLUMNS
from splitplan.errors import DataError, FingerprintError
from splitplan.formulations.pipeline import PipelinePlacement
from splitplan.models.graph import INPUT
from splitplan.policies.pipeline_result import PipelineResult, beside
from splitplan.simulator.pipeline import seconds_of, simulate_pipeline
from splitplan.simulator.pipeline_line import Line, line_of
from splitplan.simulator.pipeline_times import Turns, by_events, by_frames, by_servers, start_times
from tests.generators import Drawn

Drawing = tuple[PipelinePlan, sp.Profile, sp.System]
ENDLESS: Any = {"buffers": None, "jitter": 0.0}


def chain(sizes: list[float]) -> sp.LayerGraph:
    """x → l0 → l1 → …; sizes of x, t0, t1, …"""
    names = ["x", *(f"t{k}" for k in range(len(sizes) - 1))]
    tensors = tuple(
        sp.Tensor(t, f"l{k - 1}" if k else INPUT, (f"l{k}",) if k + 1 < len(sizes) else (), size, (1, 1), is_output=k + 1 == len(sizes))
        for k, (t, size) in enumerate(zip(names, sizes, strict=True))
    )  # fmt: skip
    layers = tuple(sp.Layer(f"l{k}") for k in range(len(sizes) - 1))
    return sp.LayerGraph("chain", layers, tensors, fingerprint="c" * 64)


def profiled(graph: sp.LayerGraph, seconds: dict[str, list[float]], spread: float = 0.0) -> sp.Profile:
    """``spread``: interquartile range over seconds, of every layer."""
    rows = [
        (layer.name, place, math.nan, s, spread * s, 5, "measured")
        for place, times in seconds.items()
        for layer, s in zip(graph.layers, times, strict=True)
    ]
    return sp.Profile(graph, pd.DataFrame(rows, columns=list(COLUMNS)))


def staged(graph: sp.LayerGraph, lengths: list[int], places: str, **facts: Any) -> PipelinePlan:
    names, at, stages = [x.name for x in graph.layers], 0, []
    for n, p in zip(lengths, places, strict=False):
        stages.append(Stage(tuple(names[at : at + n]), (p,)))
        at += n
    return PipelinePlan(graph.name, graph.fingerprint, tuple(stages), **facts)


def linked(places: str, rate_bps: float = 1e7, rtt_s: float = 2e-3, medium: str = "pairs") -> sp.System:
    link = sp.link("ethernet-1g").but(rate_bps=rate_bps, rtt_s=rtt_s, header_bytes=0.0, overhead=1.0)
    devices = {p: sp.device("this-cpu") for p in places}
    if medium == "pairs":
        return sp.System(links={(a, b): link for k, a in enumerate(places) for b in places[k + 1 :]}, **devices)
    return (
        sp.System(star=dict.fromkeys(places, link), **devices)
        if medium == "star"
        else sp.System(shared=link, **devices)
    )


def drawn(choose: Choices, ranges: Ranges, medium: str, ends: bool, spread: bool = False) -> Drawing:
    layers, count = choose.whole(1, 6), choose.whole(1, 4)
    graph = chain([ranges.size(choose) for _ in range(layers + 1)])
    places = "abcd"[:count]
    seconds = {p: [ranges.time(choose) for _ in range(layers)] for p in "abcde"}
    stages = min(count, layers)
    cuts = sorted({1 + choose.whole(0, layers - 1) for _ in range(stages - 1)} - {layers})
    lengths = np.diff([0, *cuts, layers]).tolist()
    link = sp.link("ethernet-1g").but(rtt_s=1e-3 * choose.whole(0, 3), header_bytes=64.0 * choose.whole(0, 1))

    def some() -> sp.Link:
        low, high = ranges.rate_bps
        return link.but(
            rate_up_bps=low * (high / low) ** choose.unit(), rate_down_bps=low * (high / low) ** choose.unit()
        )

    devices = {p: sp.device("this-cpu") for p in "abcde"}
    if medium == "pairs":
        joined: dict[str, Any] = {"links": {(a, b): some() for a in "abcde" for b in "abcde" if a < b}}
    else:
        joined = {"star": {p: some() for p in "abcde"}} if medium == "star" else {"shared": some()}
    facts: dict[str, Any] = {"overlap": chance(choose, 0.5)}
    if ends:  # e runs no stage: what it sends and gets meets nothing else
        facts |= {
            "source": "e" if chance(choose, 0.5) else None,
            "sink": "e" if chance(choose, 0.5) and medium == "pairs" else None,
        }
        if not facts["overlap"] and facts["source"]:  # doing one thing at a time, e would be busy twice a frame
            facts["sink"] = None
    plan = staged(graph, lengths, places, **facts)
    return plan, profiled(graph, seconds, 0.05 * choose.whole(1, 8) if spread else 0.0), sp.System(**joined, **devices)


@st.composite
def tandems(draw: st.DrawFn, ends: bool = True, spread: bool = False) -> Drawing:
    """Plans in which every resource has one task a frame."""
    choose = Drawn(draw)
    kind = list(RANGES.values())[choose.whole(0, 2)]
    return drawn(choose, kind, ("pairs", "star")[choose.whole(0, 1)], ends, spread)


@st.composite
def plans(draw: st.DrawFn, medium: str | None = None, spread: bool = False) -> Drawing:
    """Any plan."""
    choose = Drawn(draw)
    kind = list(RANGES.values())[choose.whole(0, 2)]
    plan, profile, system = drawn(
        choose, kind, medium or ("pairs", "star", "shared")[choose.whole(0, 2)], False, spread
    )
    ends = [None, *"abcde"]
    return replace(plan, source=ends[choose.whole(0, 5)], sink=ends[choose.whole(0, 5)]), profile, system


def evaluated(drawing: Drawing) -> dict[str, float]:
    plan, profile, system = drawing
    facts: Any = {name: getattr(plan, name) for name in ("overlap", "wire", "source", "sink")}
    return PipelinePlacement(profile, system, **facts).evaluate(plan)


def lined(drawing: Drawing, buffers: int | None = None, depth: int | None = None) -> Line:
    return line_of(*drawing, room=lambda _: buffers, depth=depth)


# -- what is exact -----------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(tandems())
def test_the_period_is_the_formulas_and_the_first_frames_latency_the_sum_of_its_parts(drawing: Drawing) -> None:
    terms = evaluated(drawing)
    result = simulate_pipeline(*drawing, frames=40, **ENDLESS)
    assert result.period_s == pytest.approx(terms["objective"], rel=1e-9, abs=1e-15 * terms["latency_s"] * 40)
    assert np.diff(result.done_s) == pytest.approx(terms["objective"], rel=1e-9, abs=1e-12 * terms["latency_s"])
    assert result.latency_s[0] == pytest.approx(terms["latency_s"], rel=1e-9)
    assert result.own_s == pytest.approx(terms["latency_s"], rel=1e-9)
    told = result.quantities()
    for name, value in terms.items():
        if name.startswith("at_") or "_to_" in name:
            assert told[name] == pytest.approx(value, rel=1e-9, abs=1e-12 * terms["latency_s"])
    load = max(result.busy_s.values()) / 40
    assert load == pytest.approx(terms["objective"], rel=1e-9)


@settings(max_examples=100)
@given(plans(), st.integers(1, 3))
def test_no_plan_is_quicker_than_its_formula(drawing: Drawing, buffers: int) -> None:
    terms, frames = evaluated(drawing), 60
    for room, turns in ((buffers, "first"), (None, "oldest")):
        result = simulate_pipeline(*drawing, frames=frames, buffers=room, turns=turns, jitter=0.0)  # type: ignore[arg-type]
        slack = 1e-9 * terms["latency_s"]
        assert result.done_s[-1] >= frames * terms["objective"] * (1 - 1e-9) - slack
        assert result.latency_s.min() >= terms["latency_s"] * (1 - 1e-9)
        assert (result.start_s >= result.ready_s - slack * frames).all()
        assert result.waiting_s.min() >= -slack * frames
        no_overlap(result, slack * frames)


@settings(max_examples=100)
@given(plans(), st.sampled_from([None, 1, 2]), st.sampled_from(["first", "oldest"]), st.integers(1, 40))
def test_no_pace_is_told_that_cannot_be_kept_up(
    drawing: Drawing, buffers: int | None, turns: Turns, frames: int
) -> None:
    least = evaluated(drawing)["objective"]
    result = simulate_pipeline(*drawing, frames=frames, buffers=buffers, turns=turns, jitter=0.0)
    if frames < 2:
        assert math.isnan(result.period_s) and math.isnan(result.throughput_hz)
        return
    assert result.period_s >= least * (1 - 1e-9)
    assert least == 0 or result.throughput_hz * least <= 1 + 1e-9


def test_a_flooded_medium_does_not_end_in_a_pace_of_its_own() -> None:
    """Inputs of 1 s are all sent before what crosses, of 3 s: then a frame is answered every 3 s, and 4 s is what it takes."""
    graph = chain([1.0, 3.0, 1.0])
    plan = staged(graph, [1, 1], "ab", source="s")
    drawing = plan, profiled(graph, {p: [0.1, 0.1] for p in "abs"}), linked("sab", 8.0, 0.0, "shared")
    assert evaluated(drawing)["objective"] == pytest.approx(4.0)
    flooded = simulate_pipeline(*drawing, frames=100, **ENDLESS)
    assert np.diff(flooded.done_s)[60:] == pytest.approx(3.0)
    assert flooded.period_s == pytest.approx(4.0) and flooded.throughput_hz == pytest.approx(1 / 4.0)
    assert flooded.quantities()["period_s"] == flooded.period_s


@settings(max_examples=60)
@given(plans(medium="shared"))
def test_on_a_medium_the_period_comes_to_the_formulas(drawing: Drawing) -> None:
    drawing = (replace(drawing[0], overlap=True, source=None, sink=None), *drawing[1:])
    terms, frames = evaluated(drawing), 200
    result = simulate_pipeline(*drawing, frames=frames, turns="oldest", **ENDLESS)
    # What a frame takes alone, a few times over, is all that filling and draining can cost.
    assert result.done_s[-1] <= frames * terms["objective"] * (1 + 1e-9) + 4 * terms["latency_s"]


def no_overlap(result: PipelineResult, slack: float) -> None:
    for r in result.busy_s:
        who = [k for k, t in enumerate(result.tasks) if r in t.holds]
        start, end = result.start_s[:, who].ravel(), result.end_s[:, who].ravel()
        some = end > start + slack  # what takes no time is in nobody's way, whichever side of a rounding it is on
        start, end = start[some], end[some]
        order = np.lexsort((end, start))
        assert (start[order][1:] >= end[order][:-1] - slack).all(), r


# -- recursions of our own ---------------------------------------------------------------------------------


def tandem(
    drawing: Drawing, frames: int, buffers: int | None, arrive: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Begin of computing and answer of each frame, of stages joined by pairs: the textbook's blocking line, written from the rules."""
    plan, profile, system = drawing
    room = 10**9 if buffers is None else buffers
    at = {layer.name: i for i, layer in enumerate(profile.graph.layers)}
    compute = [sum(profile.seconds(s.place)[at[v]] for v in s.layers) for s in plan.stages]
    ways = [system.way(a.place, b.place) for a, b in zip(plan.stages, plan.stages[1:], strict=False)]
    sizes = {t.producer: t.size_bytes for t in profile.graph.tensors}
    send = [w.busy_s(sizes[s.layers[-1]]) for w, s in zip(ways, plan.stages, strict=False) if w is not None]
    delay = [w.delay_s for w in ways if w is not None]
    window = [room + (min(math.ceil(d / max(t, 1e-4)), 64) if d else 0) for t, d in zip(send, delay, strict=True)]
    n, never = len(compute), -math.inf
    begin, sent, got = (
        np.full((frames, n), never) for _ in range(3)
    )  # got: the receiver has it from its begin of receiving on
    for f in range(frames):
        for k in range(n):
            before = lambda table, stage, lag, f=f: table[f - lag, stage] if f >= lag else never  # noqa: E731
            if k == 0:
                there = 0.0 if arrive is None else arrive[f]
            else:
                start = begin[f, k - 1] + compute[k - 1]
                if plan.overlap:
                    start = max(start, before(sent, k - 1, 1), before(begin, k, window[k - 1]))
                elif buffers is not None:  # the frame before has arrived where it goes from here
                    start = max(
                        start, before(got, k + 1, 1) + send[k] if k + 1 < n else before(begin, k, 1) + compute[k]
                    )
                sent[f, k - 1] = start + send[k - 1]
                there = sent[f, k - 1] + delay[k - 1]
            last = before(begin, k, 1) + compute[k]  # until when the place is at the frame before
            if k + 1 < n and plan.overlap:
                last = max(
                    last, before(begin, k + 1, room + window[k])
                )  # those that it has computed and that nobody has begun
            elif k + 1 < n:
                last = before(sent, k, 1)
            if k and not plan.overlap:
                got[f, k] = max(there - send[k - 1], last)
                there, last = got[f, k] + send[k - 1], never
            begin[f, k] = max(there, last)
    return begin, begin[:, -1] + compute[-1]


@settings(max_examples=150)
@given(tandems(ends=False), st.sampled_from([None, 1, 2, 3]), st.booleans())
def test_a_tandem_is_what_the_textbooks_recursion_says(drawing: Drawing, buffers: int | None, poisson: bool) -> None:
    period = evaluated(drawing)["objective"]
    assume(period > 0)
    arrivals = sp.poisson(0.9 / period) if poisson else None
    result = simulate_pipeline(*drawing, frames=30, buffers=buffers, jitter=0.0, arrivals=arrivals, seed=3)
    begin, done = tandem(drawing, 30, buffers, result.arrive_s if poisson else None)
    computing = [k for k, t in enumerate(result.tasks) if t.what == "compute"]
    slack = 1e-12 * float(done[-1])
    assert result.start_s[:, computing] == pytest.approx(begin, rel=1e-9, abs=slack)
    assert result.done_s == pytest.approx(done, rel=1e-9, abs=slack)


@settings(max_examples=120)
@given(plans(spread=True), st.sampled_from([None, 1, 2]), st.sampled_from([None, 1, 4]), st.integers(0, 5))
def test_the_three_ways_agree_where_they_apply(
    drawing: Drawing, buffers: int | None, depth: int | None, seed: int
) -> None:
    line, frames = lined(drawing, buffers, depth), 25
    period = max(evaluated(drawing)["objective"], 1e-9)
    arrive = sp.poisson(1 / period).times(40 * period, seed) if seed else np.zeros(frames)
    assume(len(arrive) >= 1)
    seconds = seconds_of(line, len(arrive), 1.0, seed)
    by, events = by_events(line, arrive, seconds)
    assert events <= len(arrive) * (2 * len(line.tasks) + 1)
    slack = 1e-11 * float((by + seconds).max())
    if line.fixed:
        assert by_frames(line, arrive, seconds) == pytest.approx(by, rel=1e-9, abs=slack)
    else:
        with pytest.raises(ValueError, match="not fixed"):
            by_frames(line, arrive, seconds)
    if line.runs is not None:
        assert by_servers(line, arrive, seconds) == pytest.approx(by, rel=1e-9, abs=slack)
    else:
        with pytest.raises(ValueError, match="no row of servers"):
            by_servers(line, arrive, seconds)
    assert start_times(line, arrive, seconds) == pytest.approx(by, rel=1e-9, abs=slack)


# -- what may never get worse ------------------------------------------------------------------------------


@settings(max_examples=100)
@given(tandems(spread=True), st.sampled_from([None, 1, 2]), st.integers(0, 9), st.floats(0.05, 1.0))
def test_a_quicker_place_and_more_room_never_answer_later(
    drawing: Drawing, buffers: int | None, which: int, speed: float
) -> None:
    plan, profile, system = drawing
    place = plan.places[which % len(plan.places)]
    table = profile.table.copy()
    table.loc[table["place"] == place, ["time_s", "spread_s"]] *= speed
    quick = sp.Profile(profile.graph, table)
    done = simulate_pipeline(plan, profile, system, frames=40, buffers=buffers, seed=which).done_s
    slack = 1e-11 * float(done[-1])
    assert (simulate_pipeline(plan, quick, system, frames=40, buffers=buffers, seed=which).done_s <= done + slack).all()
    more = simulate_pipeline(
        plan, profile, system, frames=40, buffers=None if buffers is None else buffers + 1, seed=which
    )
    assert (more.done_s <= done + slack).all()
    deep = [
        simulate_pipeline(plan, profile, system, frames=40, buffers=buffers, depth=d, seed=which).done_s
        for d in (1, 2, 5)
    ]
    for few, many in zip([*deep, done], [*deep[1:], done], strict=False):
        assert (many <= few + slack).all()


@settings(max_examples=40)
@given(plans(medium="shared"), st.floats(0.05, 1.0))
def test_on_a_medium_without_limits_a_quicker_place_does_not_lengthen_the_period(
    drawing: Drawing, speed: float
) -> None:
    plan, profile, system = drawing
    plan = replace(plan, overlap=True, source=None, sink=None)
    table = profile.table.copy()
    table.loc[table["place"] == plan.places[0], "time_s"] *= speed
    frames = 150
    slow, quick = (
        simulate_pipeline(plan, p, system, frames=frames, **ENDLESS)
        for p in (profile, sp.Profile(profile.graph, table))
    )
    assert quick.done_s[-1] <= slow.done_s[-1] + 5 * float(slow.own_s[0])


def test_one_frame_at_a_time_waits_for_nothing() -> None:
    drawing = three()
    result = simulate_pipeline(*drawing, frames=20, depth=1, jitter=0.0)
    assert result.period_s == pytest.approx(evaluated(drawing)["latency_s"])
    assert result.waiting_s == pytest.approx(0.0, abs=1e-12)


# -- by hand -----------------------------------------------------------------------------------------------


def three(spread: float = 0.0, medium: str = "pairs", **facts: Any) -> Drawing:
    """Three stages of 10, 30 and 20 ms; 12.5 kB take 10 ms, a way's delay is 1 ms."""
    graph = chain([12500.0] * 4)
    seconds = {p: [0.01, 0.03, 0.02] for p in "abc"}
    return staged(graph, [1, 1, 1], "abc", **facts), profiled(graph, seconds, spread), linked("abc", medium=medium)


def test_by_hand() -> None:
    free = simulate_pipeline(*three(), frames=50, **ENDLESS)
    assert free.period_s == pytest.approx(0.03) and free.latency_s[0] == pytest.approx(0.082)
    assert free.throughput_hz == pytest.approx(1 / 0.03)
    table = free.resources_to_frame().set_index("resource")
    assert list(table.index) == ["a", "a→b", "b", "b→c", "c"]
    assert table["busy_s"].tolist() == pytest.approx([0.01, 0.01, 0.03, 0.01, 0.02])
    assert table.loc["b", "utilisation"] == pytest.approx(50 * 0.03 / (49 * 0.03 + 0.082))
    waits = free.tasks_to_frame().set_index("lane")["mean_wait_s"]
    assert waits["b"] > 0.3 and waits.drop("b").max() == pytest.approx(0.0, abs=1e-9)
    # With room for one frame the first place stands still: it is never far ahead.
    tight = simulate_pipeline(*three(), frames=50, buffers=1, jitter=0.0)
    assert tight.period_s == pytest.approx(0.03)
    assert tight.latency_s.max() < 0.25 < free.start_s[-1, 2] - free.start_s[-1, 0]
    added = simulate_pipeline(*three(overlap=False), frames=50, **ENDLESS)
    assert added.period_s == pytest.approx(0.05) and added.latency_s[0] == pytest.approx(0.082)
    assert [t.what for t in added.tasks] == [
        "compute",
        "transfer",
        "receive",
        "compute",
        "transfer",
        "receive",
        "compute",
    ]
    tight = simulate_pipeline(*three(overlap=False), frames=50, buffers=1, jitter=0.0)
    assert tight.period_s == pytest.approx(
        0.052
    )  # b waits for its next frame also while that, and its last one, are under way
    medium = simulate_pipeline(*three(medium="shared", source="a", sink="a"), frames=200, turns="oldest", **ENDLESS)
    assert medium.period_s == pytest.approx(0.03, rel=0.02) and set(medium.busy_s) == {"a", "b", "c", "medium"}


def test_a_long_delay_does_not_set_the_pace() -> None:
    """An inbox has room for what is under way as well."""
    graph = chain([12500.0] * 3)
    drawing = staged(graph, [1, 1], "ab"), profiled(graph, {p: [0.01, 0.01] for p in "ab"}), linked("ab", rtt_s=0.1)
    for buffers in (1, 2, None, {"a": 1}, {"b": 1}):
        assert simulate_pipeline(*drawing, frames=60, buffers=buffers, jitter=0.0).period_s == pytest.approx(0.01)
    assert simulate_pipeline(*drawing, frames=65, buffers=2, jitter=0.0, depth=4).period_s == pytest.approx(0.02)


def test_buffers_bound_how_far_ahead_the_first_place_is() -> None:
    graph = chain([12500.0] * 3)
    drawing = staged(graph, [1, 1], "ab"), profiled(graph, {"a": [0.001] * 2, "b": [0.1] * 2}), linked("ab")
    for buffers, room in ((1, 3), (2, 5), ({"a": 2, "b": 1}, 4)):  # outbox, inbox, and one frame that the way holds
        start = simulate_pipeline(*drawing, frames=60, buffers=buffers, jitter=0.0).start_s
        assert max((start[:, 0] < t - 1e-9).sum() - n for n, t in enumerate(start[:40, 2])) == room
    for buffers in ({"b": 1}, {}, None):  # any room in a's outbox at least
        start = simulate_pipeline(*drawing, frames=60, buffers=buffers, jitter=0.0).start_s
        assert (start[:, 0] < start[1, 2]).sum() == 60


def test_whose_turn_it_is() -> None:
    """A medium that a first stage floods: those who asked first hold the oldest frame up; with the oldest first it is not lost to them."""
    graph = chain([12500.0] * 4)
    drawing = (
        staged(graph, [1, 1, 1], "abc"),
        profiled(graph, {p: [0.005] * 3 for p in "abc"}),
        linked("abc", medium="shared"),
    )
    first, oldest = (simulate_pipeline(*drawing, frames=400, turns=t, **ENDLESS) for t in ("first", "oldest"))  # type: ignore[arg-type]
    assert oldest.period_s == pytest.approx(0.02) and oldest.done_s[199] < 0.75 * first.done_s[199]
    bounded = simulate_pipeline(*drawing, frames=400, jitter=0.0)
    assert bounded.period_s == pytest.approx(0.02, rel=0.01)


def test_arrivals() -> None:
    slow = simulate_pipeline(*three(), frames=100, arrivals=sp.periodic(10.0), jitter=0.0)
    assert slow.period_s == pytest.approx(0.1) and slow.latency_s == pytest.approx(0.082)
    assert slow.throughput_hz == pytest.approx(10.0)
    fast = simulate_pipeline(*three(), frames=100, arrivals=sp.periodic(50.0), **ENDLESS)
    assert fast.period_s == pytest.approx(0.03)
    assert fast.latency_s[-1] == pytest.approx(0.082 + 99 * 0.01)  # the queue grows by 10 ms a frame
    recorded = simulate_pipeline(
        *three(), frames=100, arrivals=sp.Arrivals("recorded", times_s=(0.0, 0.0, 5.0)), jitter=0.0
    )
    assert recorded.frames == 3 and recorded.latency_s == pytest.approx([0.082, 0.112, 0.082])
    bursts = simulate_pipeline(*three(), frames=500, arrivals=sp.bursty(5.0, 30.0, 1.0), jitter=0.0)
    assert bursts.frames == 500 and bursts.latency(0.99) > bursts.latency(0.1)


def test_poisson_waits_as_long_as_pollaczek_and_khinchin_say() -> None:
    """M/D/1 at one place: mean wait ρ s / (2 (1 − ρ)); over 100,000 frames within 5 %."""
    graph = chain([1.0, 1.0])
    drawing = staged(graph, [1], "a"), profiled(graph, {"a": [0.01]}), linked("a")
    result = simulate_pipeline(*drawing, frames=100_000, arrivals=sp.poisson(70.0), seed=1)
    assert result.waiting_s.mean() == pytest.approx(0.7 * 0.01 / (2 * 0.3), rel=0.05)


# -- jitter ------------------------------------------------------------------------------------------------


def test_jitter_has_the_profiles_seconds_as_its_mean_and_its_spread() -> None:
    drawing = three(spread=0.2)
    result = simulate_pipeline(*drawing, frames=40_000, buffers=None, seed=5)
    seconds = (result.end_s - result.start_s)[:, [0, 2, 4]]
    low, high = np.quantile(seconds, (0.25, 0.75), axis=0)
    assert seconds.mean(axis=0) == pytest.approx([0.01, 0.03, 0.02], rel=0.003)
    assert high - low == pytest.approx([0.002, 0.006, 0.004], rel=0.04)
    assert np.corrcoef(seconds.T)[0, 1] == pytest.approx(0.0, abs=0.02)
    assert (result.end_s - result.start_s)[:, 1] == pytest.approx(0.01)  # links do as they say
    again = simulate_pipeline(*drawing, frames=40_000, buffers=None, seed=5)
    assert (again.end_s == result.end_s).all()
    assert not (simulate_pipeline(*drawing, frames=40_000, buffers=None, seed=6).end_s == result.end_s).all()
    none = simulate_pipeline(*drawing, frames=10, buffers=None, jitter=0.0)
    assert (none.end_s - none.start_s)[:, [0, 2, 4]] == pytest.approx(np.tile([0.01, 0.03, 0.02], (10, 1)))


@pytest.mark.parametrize("jitter", [0.5, 1.0, 3.0, 10.0])
def test_however_noisy_the_profile_the_mean_stays(jitter: float) -> None:
    """A spread of 52 %: means within four standard errors of the profile's seconds, standard deviations as the docstring says."""
    line, frames = lined(three(spread=0.52)), 400_000
    own = line.spread_s > 0
    assert own.sum() == 3
    seconds = seconds_of(line, frames, jitter, 7)[:, own]
    means, sigmas = line.seconds[own], jitter * line.spread_s[own] / 1.349
    assert (np.abs(seconds.mean(axis=0) - means) <= 4 * sigmas / math.sqrt(frames)).all()
    if jitter <= 3:  # beyond, a few frames make most of it
        assert seconds.std(axis=0) == pytest.approx(sigmas, rel=0.1)


def test_with_any_buffers_jitter_costs_no_throughput() -> None:
    """The slowest place is never idle: a frame's mean seconds there are the period."""
    result = simulate_pipeline(*three(spread=0.52), frames=100_000, buffers=None, jitter=5.0, seed=3)
    assert result.period_s == pytest.approx(0.03, rel=0.05)


def test_jitter_costs_throughput_and_buffers_win_some_of_it_back() -> None:
    graph = chain([100.0] * 5)
    drawing = staged(graph, [1, 1, 1, 1], "abcd"), profiled(graph, {p: [0.01] * 4 for p in "abcd"}, 0.4), linked("abcd")
    periods = [simulate_pipeline(*drawing, frames=20_000, buffers=b, seed=2).period_s for b in (1, 2, 8, None)]
    assert periods[0] > periods[1] > periods[2] > periods[3] > 0.01
    calm = [simulate_pipeline(*drawing, frames=20_000, jitter=j, seed=2).period_s for j in (0.0, 0.5, 1.0)]
    assert calm[0] == pytest.approx(0.01, rel=0.2) and calm[0] < calm[1] < calm[2]


# -- seeing ------------------------------------------------------------------------------------------------


def test_tables_print_and_figure(tmp_path: Path) -> None:
    result = simulate_pipeline(*three(spread=0.1), frames=30, depth=4)
    events = result.events_to_frame()
    assert len(events) == 30 * 5 and not events["what"].eq("sync").any()
    assert (events["end_s"] >= events["start_s"]).all() and (events["start_s"] >= events["ready_s"] - 1e-12).all()
    assert len(result.events_to_frame(28, 10)) == 10
    frames = result.frames_to_frame()
    assert frames["latency_s"].to_numpy() == pytest.approx((frames["own_s"] + frames["waiting_s"]).to_numpy())
    summary = result.to_frame().set_index("what")["value"]
    assert summary["run"] == "simulated" and 0 < summary["utilisation b"] <= 1
    text = str(result)
    for part in (
        "30 frames, simulated",
        "always a frame there",
        "buffers 2",
        "depth 4",
        "jitter 1",
        "seed 0",
        "a: 1 layers",
        "utilisation",
    ):
        assert part in text
    for events_too in (False, True):
        result.save(tmp_path / "run.csv", events=events_too)
        assert len(pd.read_csv(tmp_path / "run.csv")) == (150 if events_too else 30)
    figure = result.plot(first=10, frames=4)
    assert "chain, simulated" in figure.get_suptitle()
    low, high = figure.axes[0].get_xlim()
    assert -0.02 * high < low <= 0  # room for a short bar that begins at 0 and is drawn about its middle
    with pytest.raises(DataError, match="there are 30 frames"):
        result.plot(first=30)


def test_one_frame_has_no_period() -> None:
    result = simulate_pipeline(*three(), frames=1)
    assert math.isnan(result.period_s) and math.isnan(result.throughput_hz) and "1 frames" in str(result)


@dataclass(frozen=True)
class Report:
    """As the executor's."""

    table: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        return self.table


def test_formula_beside_simulation_beside_run() -> None:
    drawing = three()
    formula = evaluated(drawing)
    simulated = simulate_pipeline(*drawing, frames=200, **ENDLESS)
    run = replace(simulated, live=True, end_s=1.1 * simulated.end_s, start_s=1.1 * simulated.start_s)
    table = beside(formula, simulated, run).set_index("quantity")
    assert {"period", "throughput", "latency", "at_a", "a_to_b", "response"} <= set(
        table.index
    ) and "objective" not in table.index
    assert table.loc["period", "simulated_to_formula"] == pytest.approx(1.0)
    assert table.loc["period", "measured_to_formula"] == pytest.approx(1.1)
    assert table.loc["throughput", "measured_to_simulated"] == pytest.approx(1 / 1.1)
    assert table.loc["throughput", "unit"] == "1/s" and table.loc["at_b", "formula"] == pytest.approx(0.03)
    assert math.isnan(table.loc["response", "formula"])
    report = Report(
        pd.DataFrame({"quantity": ["throughput", "at a", "a → b", "overhead"], "measured": [25.0, 0.011, 0.012, None]})
    )
    live = beside(formula, simulated, report).set_index("quantity")["measured"]
    assert live["period"] == pytest.approx(0.04) and live["at_a"] == 0.011 and live["a_to_b"] == 0.012
    alone = beside({"period_s": 0.03, "at_a_s": 0.0}, measured={"period_s": 0.033, "at_a_s": 1.0})
    assert alone["measured_to_formula"].tolist()[0] == pytest.approx(1.1) and math.isnan(
        alone["measured_to_formula"].tolist()[1]
    )
    assert alone["simulated"].isna().all() and run.kind == "live" and "live" in str(run)


# -- what is wrong -----------------------------------------------------------------------------------------


def test_bad_arguments_are_told_all_at_once() -> None:
    plan, profile, system = three()
    with pytest.raises(DataError) as told:
        simulate_pipeline("p", profile, system, frames=0, arrivals=3, depth=1.5, turns="last", jitter=-1, seed=-2)  # type: ignore[arg-type]
    assert len(told.value.problems) == 7
    for buffers, text in (
        (0, "buffers is 0"),
        (True, "buffers is True"),
        ({"z": 1}, "no place 'z'"),
        ({"a": 0}, r"buffers\['a'\] is 0"),
    ):
        with pytest.raises(DataError, match=text):
            simulate_pipeline(plan, profile, system, buffers=buffers)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="names place 'c', which the system has not"):
        simulate_pipeline(plan, profile, linked("ab"))
    with pytest.raises(DataError, match="no times for place 'c'"):
        simulate_pipeline(plan, profiled(profile.graph, {p: [0.1] * 3 for p in "ab"}), system)
    apart = sp.System(links={("a", "b"): sp.link("ethernet-1g")}, **system.places)
    with pytest.raises(DataError, match="nothing leads from 'b' to 'c'"):
        simulate_pipeline(plan, profile, apart)
    with pytest.raises(FingerprintError):
        simulate_pipeline(replace(plan, fingerprint="d" * 64), profile, system)


# -- how much it takes -------------------------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize(("buffers", "limit_s"), [(None, 2.0), (1, 12.0)])
def test_a_hundred_thousand_frames_through_ten_stages(buffers: int | None, limit_s: float) -> None:
    """0.2 s and 3 s on the machine it was written on; a busy one has four times and more."""
    graph, places = chain([12500.0] * 11), "abcdefghij"
    seconds = {p: [0.001 * (1 + k % 4) for k in range(10)] for p in places}
    drawing = staged(graph, [1] * 10, places), profiled(graph, seconds, 0.1), linked(places, 1e9)
    begin = time.process_time()
    result = simulate_pipeline(*drawing, frames=100_000, buffers=buffers)
    assert result.throughput_hz > 0 and result.start_s.shape == (100_000, 19)
    assert time.process_time() - begin < limit_s
