"""Stages that die or hang, and ways that break, while frames are under way: each frame is answered, once, and right."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.system import System
from splitplan.executor.deploy import deploy
from splitplan.executor.environment import worker_environment
from splitplan.executor.pipeline_app import PipelineApp
from splitplan.executor.pipeline_crew import PipelineCrew
from splitplan.models.trace import Traced
from splitplan.policies.replan import without

from .conftest import EXAMPLE, frames, same
from .pipelines import Line, expected, joined, pipeline

pytestmark = pytest.mark.usefixtures("nothing_left")

ABC = ("a", "b", "c")


def stream_and(app: PipelineApp, traced: Traced, count: int, at: dict[int, object]) -> None:
    """Stream frames that differ, call what is due before some of them, and look at every result."""
    inputs = frames(count)

    def source() -> Iterator[object]:
        for k, x in enumerate(inputs):
            if (due := at.get(k)) is not None:
                due()  # type: ignore[operator]
            yield x

    results = list(app.stream(source()))
    assert len(results) == count
    assert all(same(got, expected(traced, x)) for got, x in zip(results, inputs, strict=True))
    ids = [f.frame_id for f in app.report().frames]
    assert len(ids) == len(set(ids)) == count


def killer(app: PipelineApp, place: str, how: int = signal.SIGKILL) -> object:
    return lambda: os.kill(app.pids[place], how)


@pytest.mark.parametrize("victim", ABC)
def test_a_stage_is_killed_in_a_stream(small: Traced, victim: str) -> None:
    # A way on which a frame takes milliseconds, so that the kill meets frames everywhere.
    system = joined(ABC, rate_bps=20e6, rtt_s=0.004)
    with deploy(small, pipeline(small, [1, 3], ABC), system) as app:
        stream_and(app, small, 60, {25: killer(app, victim)})
        report = app.report()
        assert victim not in app.pids and victim not in app.plan.places
    assert len(report.plans) == 2 and report.counts["replans"] == 1 and report.counts["frames_replayed"] >= 1
    assert f"{victim} is gone" in str(report) and "re-planned on" in str(report)
    lasted_s = max(f.done_s for f in report.frames) - min(f.submitted_s for f in report.frames)
    assert all(0 < report.counts[k] < lasted_s for k in ("replanning_s", "longest_without_answer_s"))
    assert not any(f.alone for f in report.frames)
    assert {f.cut for f in report.frames} == {0, 1} and sum("replays" in f.times for f in report.frames) >= 1
    assert report.counts["largest_output_difference"] == 0


def test_all_are_killed_one_after_another_and_the_policy_is_asked(small: Traced) -> None:
    system = joined(("a", "b", "c", "spare"), rate_bps=20e6, rtt_s=0.004)
    asked: list[System] = []

    def replan(left: System) -> PipelinePlan:
        asked.append(left)
        places = list(left.places)
        if len(places) == 2:
            raise RuntimeError("no idea")
        return pipeline(small, [2] * (len(places) > 1), places[:2])

    with deploy(small, pipeline(small, [1, 3], ABC), system, replan=replan) as app:
        stream_and(app, small, 30, {10: killer(app, "b")})
        assert app.plan.places == ("a", "c") and set(asked[0].places) == {"a", "c", "spare"}
        inputs = frames(6)
        os.kill(app.pids["a"], signal.SIGKILL)
        assert all(same(got, expected(small, x)) for got, x in zip(app.stream(inputs), inputs, strict=True))
        assert app.plan.places == ("c",) and "no idea" in str(app.report())
        os.kill(app.pids["c"], signal.SIGKILL)
        assert all(same(got, expected(small, x)) for got, x in zip(app.stream(inputs), inputs, strict=True))
        assert app.plan.places == ("spare",) and set(app.pids) == {"spare"}
        os.kill(app.pids["spare"], signal.SIGKILL)
        assert all(same(got, expected(small, x)) for got, x in zip(app.stream(inputs), inputs, strict=True))
        report = app.report()
        assert "in this process" in repr(app)
    assert [list(s.places) for s in asked] == [["a", "c", "spare"], ["c", "spare"], ["spare"]]
    assert report.frames[-1].alone and report.counts["frames"] == 48


def test_a_stage_that_hangs(small: Traced) -> None:
    with deploy(small, pipeline(small, [1, 3], ABC), joined(ABC), heartbeat_s=0.3) as app:
        stuck = app.pids["b"]
        stream_and(app, small, 20, {8: killer(app, "b", signal.SIGSTOP)})
        report = app.report()
        assert app.plan.places == ("a",)
        os.kill(stuck, signal.SIGCONT)  # what it answers now is for nobody
        stream_and_more = frames(3)
        assert all(
            same(g, expected(small, x)) for g, x in zip(app.stream(stream_and_more), stream_and_more, strict=True)
        )
    assert "b is gone" in str(report) and "heartbeats" in str(report)


def test_a_stage_that_takes_for_ever_is_left_out(small: Traced) -> None:
    system = joined(ABC)
    slow = System(links=system.links, **{**system.places, "b": system.places["b"].but(slowdown=50_000.0)})
    with deploy(small, pipeline(small, [1, 3], ABC), slow, frame_timeout_s=1.0, check=False) as app:
        assert same(app(EXAMPLE), expected(small, EXAMPLE))
        report = app.report()
    assert "frame_timeout_s" in str(report) and "b is gone" in str(report)


@pytest.fixture
def alone(small: Traced, tmp_path: Path) -> Iterator[str]:
    """The address of a worker that runs on its own."""
    small.save(tmp_path / "small.pt2")
    command = [sys.executable, "-m", "splitplan", "worker", "--model", str(tmp_path / "small.pt2")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, env=worker_environment(1)) as worker:
        assert worker.stdout is not None
        ready = worker.stdout.readline().decode()
        yield ready.split('"address": "')[1].split('"')[0]
        worker.terminate()


def test_a_way_breaks(small: Traced, alone: str) -> None:
    """The app still reaches both ends, but the first stage does not reach the second: planned without that link."""
    asked: list[System] = []

    def replan(left: System) -> PipelinePlan:
        asked.append(left)
        return pipeline(small, [3], ("a", "c"))

    line = Line(alone)
    try:
        with deploy(
            small, pipeline(small, [1, 3], ABC), joined(ABC), hosts={"b": line.address}, emulate=True, replan=replan
        ) as app:
            assert line.connections == 5  # a knock, the app's two, the first stage's two
            stream_and(app, small, 30, {12: lambda: line.cut(first=3)})
            report = app.report()
    finally:
        line.close()
    (left,) = asked
    assert set(left.places) == set(ABC) and left.way("a", "b") is None and left.way("b", "c") is not None
    assert "nothing leads from a to b" in str(report) and app.plan.places == ("a", "c")


def test_a_connection_that_comes_back_is_used_again(small: Traced, alone: str) -> None:
    line = Line(alone)
    try:
        with deploy(small, pipeline(small, [2], ("a", "b")), joined(ABC), hosts={"b": line.address}) as app:
            stream_and(app, small, 30, {12: lambda: line.cut(refuse=False)})
            report = app.report()
    finally:
        line.close()
    assert app.plan.places == ("a", "b") and len(report.plans) == 1 and report.counts["replans"] >= 1


def test_a_connection_that_breaks_while_another_loss_is_mended(
    small: Traced, alone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stage may tell of the break before the app's own connections do."""
    line, look, broke = Line(alone), PipelineCrew._look, []

    def look_and_break(crew: PipelineCrew) -> None:
        look(crew)
        if not broke:
            session = crew.sessions["b"]
            broke.append(session)
            line.cut(refuse=False)
            while session.lost is None:
                time.sleep(0.005)

    monkeypatch.setattr(PipelineCrew, "_look", look_and_break)
    try:
        with deploy(small, pipeline(small, [2], ("a", "b")), joined(ABC), hosts={"b": line.address}) as app:
            stream_and(app, small, 30, {12: lambda: line.cut(first=3, refuse=False)})
            report = app.report()
    finally:
        line.close()
    assert broke and app.plan.places == ("a", "b") and len(report.plans) == 1 and "is gone" not in str(report)


def test_hosts_turn_emulation_off_and_say_so(small: Traced, alone: str) -> None:
    system = joined(ABC, name="lte", rate_bps=1e6, slowdown={"a": 3.0})
    plan, hosts = pipeline(small, [2], ("a", "b")), {"b": alone}
    with pytest.warns(UserWarning, match="not emulated") as caught:
        app = deploy(small, plan, system, hosts=hosts)
    with app:
        app(EXAMPLE)
    said = [str(w.message) for w in caught]
    assert len(said) == 2 and "'lte'" in said[0] and "a's slowdown of 3x" in said[1]
    assert all(w.filename == __file__ for w in caught)  # where the user's own line is
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with deploy(small, plan, system, hosts=hosts, emulate=True) as app:
            app(EXAMPLE)


def test_systems_that_are_left() -> None:
    system = joined(ABC)
    left = without(system, {"b"})
    assert left is not None and set(left.places) == {"a", "c"} and set(left.links) == {("a", "c")}
    assert without(system, set(ABC)) is None
    cut = without(system, set(), {("b", "a")})
    assert cut is not None and cut.way("a", "b") is None and cut.way("b", "c") is not None


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(12))
def test_kills_at_random_moments(small: Traced, seed: int) -> None:
    draw = random.Random(seed)
    places = ("a", "b", "c", "d")
    victims = draw.sample(places, draw.randint(1, 4))
    system = joined(places, rate_bps=30e6, rtt_s=0.003)
    with deploy(small, pipeline(small, [1, 2, 4], places), system) as app:

        def later() -> None:
            for victim in victims:
                time.sleep(draw.uniform(0.0, 1.5))
                if (pid := app.pids.get(victim)) is not None:
                    os.kill(pid, draw.choice([signal.SIGKILL, signal.SIGSTOP]))

        thread = threading.Thread(target=later)
        thread.start()
        stream_and(app, small, 600, {})
        thread.join()
