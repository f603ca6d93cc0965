"""Workers that die or hang while frames are under way: each frame is answered, once, and right."""

from __future__ import annotations

import os
import signal
from typing import Literal

import pytest
import torch

from benchmarks.kill import kill_run
from splitplan.data.system import System
from splitplan.executor.deploy import deploy
from splitplan.executor.split import run_whole
from splitplan.models.trace import Traced

from .conftest import cut, frames, same

pytestmark = pytest.mark.usefixtures("nothing_left")


def expected(traced: Traced, x: torch.Tensor) -> dict[str, torch.Tensor]:
    values = traced.flatten(x)
    return traced.unflatten(run_whole(traced, values), traced.symbols(values))


@pytest.mark.parametrize(("victim", "kills"), [("server", 4), ("device", 2)])
def test_kills_in_a_stream(victim: Literal["device", "server"], kills: int) -> None:
    counts = kill_run(kills, victim=victim, seed=1)
    assert counts.kills == counts.restarts == kills
    assert (counts.lost, counts.twice, counts.wrong) == (0, 0, 0)
    assert counts.by_server > 0
    assert counts.finished_locally > 0 or victim == "device"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_hundred_kills() -> None:
    counts = kill_run(100)
    assert (counts.kills, counts.lost, counts.twice, counts.wrong) == (100, 0, 0, 0)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"frame_timeout_s": 1.0, "heartbeat_s": 30.0}, "deadline"), ({"heartbeat_s": 0.3}, "heartbeats")],
)
def test_a_server_that_hangs(small: Traced, pair: System, options: dict[str, float], says: str) -> None:
    inputs = frames(6)
    with deploy(small, cut(small, 2), pair, **options) as app:
        assert same(app(inputs[0]), expected(small, inputs[0]))
        os.kill(app.pids["server"], signal.SIGSTOP)
        try:
            futures = [app.submit(x) for x in inputs[:4]]
            assert all(same(f.result(60), expected(small, x)) for f, x in zip(futures, inputs, strict=False))
            report = app.report()
        finally:
            os.kill(app.pids["server"], signal.SIGCONT)
        assert report.counts["finished_locally"] == 4 and says in str(report)
        # It answers again, late answers are dropped, and the split is used again.
        for _ in range(600):
            assert same(app(inputs[5]), expected(small, inputs[5]))
            if not app.report().frames[-1].alone:
                break
        assert not app.report().frames[-1].alone
        assert app.report().counts["surplus_answers_dropped"] == 0


def test_a_server_that_cannot_be_started_again(small: Traced, pair: System) -> None:
    inputs = frames(4)
    with deploy(small, cut(small, 2), pair, max_restarts=0) as app:
        os.kill(app.pids["server"], signal.SIGKILL)
        assert all(same(app(x), expected(small, x)) for x in inputs)
        report = app.report()
    assert report.counts["finished_locally"] >= 3 and report.counts["restarts_server"] == 0


def test_a_device_worker_that_cannot_be_started_again(small: Traced, pair: System) -> None:
    inputs = frames(6)
    with deploy(small, cut(small, 2), pair, max_restarts=0) as app:
        os.kill(app.pids["device"], signal.SIGKILL)
        results = list(app.stream(inputs))
        report = app.report()
        assert "in this process" in repr(app)
    assert all(same(got, expected(small, x)) for got, x in zip(results, inputs, strict=True))
    assert "gone for good" in str(report) and report.counts["finished_locally"] >= 1


def test_a_device_worker_that_hangs(small: Traced, pair: System) -> None:
    inputs = frames(3)
    with deploy(small, cut(small, 2), pair, heartbeat_s=0.3) as app:
        first = app.pids["device"]
        os.kill(first, signal.SIGSTOP)
        futures = [app.submit(x) for x in inputs]
        assert all(same(f.result(120), expected(small, x)) for f, x in zip(futures, inputs, strict=True))
        assert app.pids["device"] != first
