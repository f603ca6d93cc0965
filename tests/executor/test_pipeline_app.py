"""The user's end of a pipeline, without workers: each accepted frame is answered whatever goes wrong, and closing ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.system import System
from splitplan.errors import ExecutorError
from splitplan.executor.pipeline_app import PipelineApp, _Entry
from splitplan.executor.pipeline_settings import PipelineSettings
from splitplan.executor.session import Clock
from splitplan.executor.split import run_whole
from splitplan.executor.wire import Message
from splitplan.models.trace import Traced

from .conftest import EXAMPLE, same
from .pipelines import expected, joined, pipeline

ABC = ("a", "b", "c")


@pytest.fixture
def app(small: Traced) -> Iterator[PipelineApp]:
    """One of which no worker was started; its policy thinks for a minute, unless the test ends before."""
    over = threading.Event()

    def long(left: System) -> PipelinePlan:
        over.wait(60)
        raise RuntimeError("no idea")

    made = PipelineApp(
        small,
        pipeline(small, [1, 3], ABC),
        joined(ABC, rate_bps=1e8),
        profile=None,
        settings=PipelineSettings(),
        replan=long,
    )
    made._crew.plan_id = "p"
    made._crew.numbers["p"] = 0
    yield made
    over.set()
    made.close(wait=False)


def accepted(app: PipelineApp, frame_id: int, check: bool = False) -> Future[Any]:
    """A frame that is under way."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    app._slots.acquire()
    app._pending[frame_id] = _Entry(future, app.traced.flatten(EXAMPLE), 0.0, False, None, check)
    return future


def result(traced: Traced, frame_id: int, **changes: Any) -> Message:
    body = {"plan_id": "p", "frame_id": frame_id, "times": {"sent_s": 1.0}, "alone": "", "compared": None} | changes
    return Message("result", body, run_whole(traced, traced.flatten(EXAMPLE)))


def test_a_result_that_comes_while_sessions_change_is_an_answer(small: Traced, app: PipelineApp) -> None:
    sessions: dict[str, Any] = app._crew.sessions

    class Clock:
        @property
        def offset_s(self) -> float:
            sessions.pop("b", None)  # as the keeper does, in its own thread
            return 0.0

    sessions |= {p: SimpleNamespace(clock=Clock(), close=lambda: None) for p in ABC}
    future = accepted(app, 7)
    app._message(result(small, 7))
    assert same(future.result(0), expected(small, EXAMPLE))


@pytest.mark.parametrize("check", [False, True])
def test_whatever_goes_wrong_with_a_result_is_the_frames_answer(small: Traced, app: PipelineApp, check: bool) -> None:
    future = accepted(app, 7, check)
    app._message(result(small, 7, plan_id="never heard of", times=None))
    with pytest.raises((KeyError, TypeError)):
        future.result(0)
    assert not app._pending


def test_a_way_that_breaks_while_the_arrangement_is_made_is_heard_of(
    app: PipelineApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew, told = app._crew, []
    for place in ABC:
        crew.sessions[place] = SimpleNamespace(  # type: ignore[assignment]
            lost=None, send=lambda parts: None, clock=Clock(), close=lambda: None
        )
        crew._addresses[place] = "ipc://nowhere"

    def be_stage(place: str, body: dict[str, Any], patience_s: float) -> str:
        told.append(body["plan_id"])
        if len(told) == 2:  # the last stage stands, and the second one loses its way to it
            app._message(Message("cut", {"plan_id": body["plan_id"], "why": "the connection broke"}, {}))
        return ""

    monkeypatch.setattr(crew, "_man", lambda places: None)
    monkeypatch.setattr(crew, "_be_stage", be_stage)
    app._checks = False
    app._adopt(crew.start())
    assert app._trouble() == "the connection broke"
    app._leave()
    app._adopt(crew.start())  # what is told of an arrangement that is over is not about this one
    app._message(Message("cut", {"plan_id": told[0], "why": "the connection broke"}, {}))
    assert app._trouble() == ""


def test_a_close_does_not_wait_for_the_policy(app: PipelineApp) -> None:
    future = accepted(app, 7)
    app._crew.gone["b"] = "killed"
    app._keeper.start()
    end = time.monotonic() + 20
    while not any(t.name == "splitplan policy" for t in threading.enumerate()) and time.monotonic() < end:
        time.sleep(0.01)
    begin = time.monotonic()
    app.close(wait=False)
    assert time.monotonic() - begin < 10
    with pytest.raises(ExecutorError, match="closed before this frame was answered"):
        future.result(0)
