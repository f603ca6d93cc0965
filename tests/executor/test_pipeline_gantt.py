"""Bars of a pipeline's Gantt chart: measured ones stand where the frames were, predicted ones keep the plan's pace, and both draw."""

from __future__ import annotations

import io
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitplan.data.pipeline_plan import RowBlock, Stage
from splitplan.data.profile import Profile
from splitplan.executor.deploy import deploy
from splitplan.executor.frames import FrameRecord
from splitplan.executor.legs import legs_of
from splitplan.executor.pipeline_gantt import BEGAN, FRAMES, measured_bars, on_the_apps_clock, predicted_bars, stage_key
from splitplan.executor.pipeline_report import guessed, make_report
from splitplan.models.trace import Traced

from .conftest import frames
from .pipelines import joined, pipeline

pytestmark = pytest.mark.usefixtures("nothing_left")


def told(**seconds: float) -> dict[str, float]:
    period_s = max(seconds.values())
    return {"period_s": period_s, "latency_s": sum(seconds.values()), **{f"{k}_s": v for k, v in seconds.items()}}


@given(*[st.floats(1e-3, 1.0)] * 3, st.booleans())
def test_predicted_frames_follow_each_other_by_the_period(
    small: Traced, at_a: float, a_to_b: float, at_b: float, overlap: bool
) -> None:
    numbers = told(at_a=at_a, a_to_b=a_to_b, at_b=at_b)
    if not overlap:
        numbers["period_s"] = max(at_a + a_to_b, a_to_b + at_b)
    plan = pipeline(small, [2], ("a", "b"), overlap=overlap, predicted=numbers)
    bars = predicted_bars(plan, legs_of(small.graph, plan, joined("ab", rtt_s=0.01)))
    assert len(bars) == 3 * FRAMES and min(b.start_s for b in bars) == 0
    seconds = {"a": at_a, "a → b": a_to_b, "b": at_b}
    assert all(b.end_s - b.start_s == pytest.approx(seconds[b.lane]) and b.start_s >= b.ready_s - 1e-12 for b in bars)
    for lane in seconds:
        mine = sorted((b for b in bars if b.lane == lane), key=lambda b: b.start_s)
        assert [b.frame for b in mine] == list(range(FRAMES))
        assert all(y.start_s >= x.end_s - 1e-12 for x, y in itertools.pairwise(mine))
    ends = [b.end_s for b in bars if b.lane == "b"]
    if overlap:  # what comes by the period never waits
        gaps = [b - a for a, b in itertools.pairwise(sorted(ends))]
        assert gaps == pytest.approx([numbers["period_s"]] * (FRAMES - 1))


def test_without_predictions_there_are_none(small: Traced) -> None:
    plan = pipeline(small, [2], ("a", "b"), predicted=told(at_a=1.0, at_b=1.0))
    assert predicted_bars(plan, legs_of(small.graph, plan, joined("ab"))) == ()


def test_times_of_other_clocks_come_to_the_apps(small: Traced) -> None:
    plan = pipeline(small, [2], ("a", "b"), source="b", sink="a")
    legs = legs_of(small.graph, plan, joined("ab"))
    times = {
        "at_a_s": 1.0,
        "began_b_to_a": 10.5,
        "began_a": 111.0,
        "began_a_to_b": 112.0,
        "began_b": 0.0,
        "began_b_to_z": 1.0,
    }
    found = on_the_apps_clock(times, legs, {"a": 100.0, "b": math.nan}, 10.0)
    assert found == {"at_a_s": 1.0, "began_b_to_a": 0.5, "began_a": 1.0, "began_a_to_b": 2.0}


def test_measured_frames_are_from_the_middle_of_the_longest_stream(small: Traced) -> None:
    plan = pipeline(small, [2], ("a", "b"))
    legs = legs_of(small.graph, plan, joined("ab"))

    def record(k: int, stream: int | None, **more: float) -> FrameRecord:
        times = {
            "at_a_s": 0.5,
            "wait_a_s": 0.25,
            "began_a": 0.25,
            "a_to_b_s": 0.1,
            "a_to_b_wait_s": 0.0,
            "began_a_to_b": 0.75,
        }
        times |= {"at_b_s": 0.2, "wait_b_s": 0.0, "began_b": 0.9} | more
        return FrameRecord(k, float(k), k + 2.0, False, stream, "", {k: v for k, v in times.items() if v >= 0})

    records = (
        [record(k, None) for k in range(3)]
        + [record(k, 1) for k in range(20, 33)]
        + [record(k, 0) for k in range(5, 9)]
    )
    bars = measured_bars(plan, legs, records)
    assert len(bars) == 3 * FRAMES and {b.frame for b in bars} == set(range(FRAMES))
    assert [(b.lane, b.what) for b in bars[:3]] == [("a", "compute"), ("a → b", "transfer"), ("b", "compute")]
    assert [b.start_s for b in bars if b.lane == "a"] == [0.0, 1.0, 2.0, 3.0, 4.0] and bars[0].ready_s == -0.25
    assert bars[1].start_s == pytest.approx(0.5) and bars[1].end_s == pytest.approx(0.6) and bars[2].label == "3 layers"
    assert measured_bars(plan, legs, [record(k, 0, began_b=-1.0) for k in range(9)]) == ()
    report = make_report([plan], [legs], joined("ab"), tuple(records), {}, (), abouts={}, emulate=True)
    assert report.bars == bars and report.predicted_bars == ()
    assert set(report.bars_to_frame()["how"]) == {"measured"} and len(report.plot().subfigs) == 2


def test_a_run_has_bars_and_draws_them_beside_the_predicted(small: Traced) -> None:
    system = joined("abc", rate_bps=2e7, rtt_s=0.004)
    numbers = told(at_a=1e-3, a_to_b=1e-3, at_b=1e-3, b_to_c=1e-3, at_c=1e-3, c_to_a=1e-3)
    plan = pipeline(small, [1, 3], ("a", "b", "c"), sink="a", predicted=numbers)
    with deploy(small, plan, system) as app:
        assert app.report().bars == () and not app.report().plot().subfigs
        for _ in app.stream(frames(20)):
            pass
        report = app.report()
    table = report.bars_to_frame()
    assert table.groupby("how").size().to_dict() == {"predicted": 6 * FRAMES, "measured": 6 * FRAMES}
    seen = table[table["how"] == "measured"]
    for _, frame in seen.groupby("frame"):
        # What comes next begins when what was before has ended, on one machine's clock; a way's delay lies between.
        start, end = frame["start_s"].to_numpy(), frame["end_s"].to_numpy()
        assert (start[1:] >= end[:-1] - 1e-4).all() and (start[2::2] >= end[1:-1:2] + 0.0019).all()
    for _, lane in seen[seen["what"] == "compute"].groupby("lane"):
        rows = lane.sort_values("start_s")
        assert (rows["start_s"].to_numpy()[1:] >= rows["end_s"].to_numpy()[:-1] - 1e-4).all()
    assert all(f.times[BEGAN + "a"] >= 0 for f in report.frames)
    figure = report.plot()
    titles = [ax.get_title(loc="left") for ax in figure.subfigs[1].axes]
    assert titles == ["predicted", "measured"]
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_rows_that_were_predicted_too_good_are_said(small: Traced) -> None:
    names = [x.name for x in small.graph.layers]
    stage = Stage(tuple(names), ("a", "b"), (RowBlock(tuple(names), (1, 1)),))
    assert stage_key(stage) == "stage_a+b_s" and stage_key(Stage(("l",), ("a",))) == "at_a_s"
    profile = Profile.given(small.graph, {p: dict.fromkeys(names, 1.0) for p in "ab"})
    assert guessed(pipeline(small, [2], ("a", "b")), profile) == []  # no place shares rows
