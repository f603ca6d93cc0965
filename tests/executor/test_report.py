"""What a report says of frames that the device finished alone, and of a server that came back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from splitplan.data.system import System
from splitplan.executor.conditions import Remark
from splitplan.executor.frames import FrameRecord
from splitplan.executor.mismatch import back_again
from splitplan.executor.report import Report, Row, make_rows
from splitplan.models.trace import Traced

from .conftest import cut


def record(i: int, alone: str = "", connection: float = 1.0) -> FrameRecord:
    """A frame each second: 0.5 s through the server, 3 s without."""
    times = {"device_s": 0.1, "up_s": 0.1, "server_s": 0.1, "down_s": 0.1, "server_connection": connection}
    if alone:
        times = {"device_s": 0.1}
    return FrameRecord(i, float(i), i + (3.0 if alone else 0.5), True, 0, alone, times)


def rows(small: Traced, pair: System, frames: list[FrameRecord], **remarks: Remark) -> dict[str, Row]:
    plan = cut(small, 2, predicted={"latency_s": 0.5, "period_s": 1.0})
    return {r.quantity: r for r in make_rows((plan,), pair, frames, remarks)}


def test_frames_that_the_device_finished_alone_are_told_where_they_count(small: Traced, pair: System) -> None:
    frames = [record(i, "the server is away" if 3 <= i < 5 else "") for i in range(10)]
    found = rows(small, pair, frames)
    assert found["latency"].n == 8 and found["latency"].ratio == 1
    alone = found["alone"]
    assert (alone.n, alone.measured, alone.p95, alone.predicted, alone.ratio) == (2, 3.0, 3.0, None, None)
    through = found["throughput"]
    assert through.n == 10 and through.measured is not None and through.ratio is None
    assert "not comparable: 2 of its frames were finished without the server" in through.how
    # What is known of the run besides does not make it comparable again.
    assert rows(small, pair, frames, throughput=Remark("the real link", False))["throughput"].ratio is None


def test_where_every_frame_crossed_nothing_is_said_of_it(small: Traced, pair: System) -> None:
    found = rows(small, pair, [record(i) for i in range(10)])
    assert "alone" not in found and found["throughput"].ratio == pytest.approx(1)
    assert back_again([record(i) for i in range(10)]) == []


def test_a_server_that_came_back_is_told() -> None:
    lost = [record(i, "the server is away" if 3 <= i < 7 else "", 1.0 if i < 7 else 2.0) for i in range(10)]
    (note,) = back_again(lost[::-1])
    assert note == (
        "the server was back 4.5 s after its last answer before, from frame 7 on; 4 between were finished without it"
    )


def test_a_report_draws_itself_and_says_what_measured_is(small: Traced, pair: System) -> None:
    plan = cut(small, 2, predicted={"latency_s": 0.5, "period_s": 1.0})
    report = Report((plan,), tuple(make_rows((plan,), pair, [record(i) for i in range(4)], {})), {}, ())
    assert len(report.plot().axes) == 2  # seconds, and frames a second
    assert "measured: median of n frames" in str(report) and "median of n frames" in report._repr_html_()


def test_latency_with_waiting_is_not_compared_with_that_of_a_frame_alone(small: Traced, pair: System) -> None:
    waiting = [replace(record(i), single=False) for i in range(4)]
    latency = rows(small, pair, waiting)["latency"]
    assert (latency.measured, latency.predicted, latency.ratio) == (0.5, 0.5, None) and "not comparable" in latency.how
    assert rows(small, pair, [*waiting, record(4)])["latency"].ratio == 1
