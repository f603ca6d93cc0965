"""What a pipeline's report says of frames that are known: who set the pace, what may be compared, how long nobody was answered."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from splitplan.cli import run_pipeline
from splitplan.data.system import System
from splitplan.executor.frames import FrameRecord, longest_silence
from splitplan.executor.legs import legs_of
from splitplan.executor.pipeline_report import PipelineReport, make_report
from splitplan.models.trace import Traced
from splitplan.policies.pipeline_result import beside

from .pipelines import joined, pipeline

SECONDS = {"at_a_s": 0.5, "a_to_b_s": 0.375, "at_b_s": 0.625, "b_to_c_s": 0.375, "at_c_s": 0.25}


def on_a_medium() -> System:
    system = joined(("a", "b", "c"))
    return System(shared=next(iter(system.links.values())), **system.places)


def frame(number: int, times: dict[str, float], **facts: Any) -> FrameRecord:
    """One a second, two seconds under way, of a stream unless said otherwise."""
    told: dict[str, Any] = {
        "single": False,
        "stream": 0,
        "alone": "",
        "submitted_s": float(number),
        "done_s": number + 2.0,
    }
    told |= facts
    return FrameRecord(number, told.pop("submitted_s"), told.pop("done_s"), times=times, **told)


def report_of(
    traced: Traced,
    frames: Sequence[FrameRecord],
    *,
    system: System | None = None,
    predicted: dict[str, float] | None = None,
    emulate: bool = True,
    counts: dict[str, float] | None = None,
) -> PipelineReport:
    system = on_a_medium() if system is None else system
    plan = pipeline(traced, [1, 3], ("a", "b", "c"), predicted=predicted or {})
    legs = [legs_of(traced.graph, plan, system)]
    return make_report((plan,), legs, system, tuple(frames), counts or {}, (), abouts={}, emulate=emulate)


def carried(system: System, **seconds: float) -> dict[str, float]:
    """Times of a frame whose bytes have the ways for so long."""
    found = dict(seconds)
    for name, busy_s in seconds.items():
        if "_to_" in name:
            way = system.way(*name.removesuffix("_s").split("_to_"))
            assert way is not None
            found[f"{name.removesuffix('_s')}_bytes"] = (busy_s * way.rate_bps / 8 - way.header_bytes) / way.overhead
    return found


def test_a_medium_that_carries_two_transfers_sets_the_pace_though_a_stage_takes_longer(small: Traced) -> None:
    times = carried(on_a_medium(), **SECONDS)
    report = report_of(small, [frame(k, times) for k in range(20)], predicted=SECONDS | {"at_b_s": 0.875})
    assert (report.bottleneck, report.predicted_bottleneck) == ("medium", "b")
    used = {b.what: b.utilisation for b in report.busy}
    assert used["medium"] == pytest.approx(20 * 0.75 / 21)
    assert "bottleneck: medium (busy for 71% of the stream); predicted: b" in str(report)
    told = report.to_dict()
    assert (told["bottleneck"], told["predicted_bottleneck"]) == ("medium", "b")
    table = report.busy_to_frame().set_index("what")
    assert table.index[table["bottleneck"]].tolist() == ["medium"]
    assert table.index[table["predicted_bottleneck"]].tolist() == ["b"]


def test_what_is_seldom_long_counts_by_its_utilisation_not_by_its_median(small: Traced) -> None:
    usual, long = (carried(on_a_medium(), **SECONDS | {"at_a_s": s}) for s in (0.25, 2.0))
    report = report_of(small, [frame(k, long if k % 3 == 0 else usual) for k in range(20)])
    assert max(report.busy, key=lambda b: b.measured_s or 0).what == "medium"
    assert report.bottleneck == "a" and report.predicted_bottleneck == "", "nothing was predicted"


def test_one_bottleneck_is_said_once(small: Traced) -> None:
    times = carried(on_a_medium(), **SECONDS)
    report = report_of(small, [frame(k, times) for k in range(20)], predicted=SECONDS | {"at_c_s": 0.75})
    # c is predicted to be busy for as long as the medium: the one that was is meant.
    assert report.bottleneck == report.predicted_bottleneck == "medium" and "predicted: " not in str(report)


def test_who_set_the_pace_before_anything_was_streamed_and_over_real_ways(small: Traced) -> None:
    times = carried(on_a_medium(), **SECONDS)
    alone = report_of(small, [frame(0, times, single=True, stream=None)])
    assert "bottleneck: medium (busy longest for a frame)" in str(alone)
    real = report_of(small, [frame(k, times) for k in range(20)], emulate=False)
    assert real.bottleneck == "b", "for how long a real medium was busy is not known"
    assert "bottleneck: b (busy for 60% of the stream; of medium it is not known)" in str(real)
    assert "bottleneck" not in str(report_of(small, [frame(0, {})]))


def test_the_command_marks_both_bottlenecks(small: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    times, shown = carried(on_a_medium(), **SECONDS), io.StringIO()
    monkeypatch.setattr(run_pipeline, "out", lambda: Console(file=shown, width=200))
    report = report_of(small, [frame(k, times) for k in range(20)], predicted=SECONDS | {"at_b_s": 0.875})
    run_pipeline.show_pipeline_report(report)
    lines = shown.getvalue().splitlines()
    assert [line.split()[0] for line in lines if line.rstrip().endswith("sets the pace")] == ["medium"]
    assert [line.split()[0] for line in lines if line.rstrip().endswith("was predicted to set it")] == ["b"]


def test_latency_with_waiting_is_not_compared_with_that_of_a_frame_alone(small: Traced) -> None:
    predicted = SECONDS | {"latency_s": 0.5, "period_s": 1.0}
    streamed = [frame(k, dict(SECONDS)) for k in range(20)]
    report = report_of(small, streamed, predicted=predicted)
    row = next(r for r in report.rows if r.quantity == "latency")
    assert (row.measured, row.predicted, row.ratio) == (2.0, 0.5, None)
    assert "with waiting" in row.how and "not comparable" in row.how
    (line,) = [x for x in str(report).splitlines() if x.startswith("latency")]
    assert "500.00 ms" in line and "2000.00 ms" in line and "4.000" not in line
    drawn = [t.get_text() for ax in report.plot().axes for t in ax.texts]
    assert "+300%" not in drawn
    found = beside(predicted, {"latency_s": 0.5}, report).set_index("quantity").loc["latency"]
    assert found["measured"] == 2.0 and found["simulated_to_formula"] == 1.0
    assert found[["measured_to_formula", "measured_to_simulated"]].isna().all()
    # One that was alone is enough: then only such frames count, and they can be compared.
    alone = frame(20, dict(SECONDS), single=True, stream=None, done_s=20.75)
    row = next(r for r in report_of(small, [*streamed, alone], predicted=predicted).rows if r.quantity == "latency")
    assert (row.measured, row.ratio, row.how, row.n) == (0.75, 1.5, "", 1)
    nothing = next(r for r in report_of(small, [], predicted=predicted).rows if r.quantity == "latency")
    assert nothing.measured is None and nothing.comparable


def test_for_how_long_nobody_was_answered_is_told_when_a_stage_was_lost(small: Traced) -> None:
    # An answer a second from 2 s on; those of frames 5 to 7 come at 12 s; the stream ends at 13 s, and 40 s later one comes alone.
    streamed = [frame(k, {}, done_s=12.0 if 5 <= k < 8 else 13.0 if k >= 8 else k + 2.0) for k in range(10)]
    late = frame(10, {}, submitted_s=53.0, done_s=54.0, single=True, stream=None)
    counts = {"replans": 1.0, "replanning_s": 2.5}
    report = report_of(small, [late, *streamed[::-1]], counts=counts)
    assert report.counts["longest_without_answer_s"] == 6.0 and report.counts["replanning_s"] == 2.5
    assert "replanning_s: 2.5" in str(report) and "longest_without_answer_s: 6" in str(report)
    assert "longest_without_answer_s" not in report_of(small, streamed, counts={"replans": 0.0}).counts
    assert report_of(small, [], counts=counts).counts["longest_without_answer_s"] == 0.0


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), min_size=1, max_size=8))
def test_the_longest_time_without_an_answer_is_that_of_looking_each_second(spans: list[tuple[int, int]]) -> None:
    frames = [frame(k, {}, submitted_s=float(a), done_s=float(a + b)) for k, (a, b) in enumerate(spans)]
    longest, run = 0.0, 0.0
    for t in range(45):  # from t to t + 1 nothing begins or ends
        waiting = any(f.submitted_s <= t < f.done_s for f in frames)
        run = run + 1.0 if waiting and not any(f.done_s == t for f in frames) else float(waiting)
        longest = max(longest, run)
    assert longest_silence(frames) == longest
