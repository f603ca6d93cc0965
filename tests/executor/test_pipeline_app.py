"""The user's end of a pipeline, without workers: each accepted frame is answered whatever goes wrong, and closing ends."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from splitplan.executor.pipeline_app import PipelineApp, _Entry
from splitplan.executor.pipeline_crew import PipelineSettings
from splitplan.executor.split import run_whole
from splitplan.executor.wire import Message
from splitplan.models.trace import Traced

from .conftest import EXAMPLE, same
from .pipelines import expected, joined, pipeline

ABC = ("a", "b", "c")


@pytest.fixture
def app(small: Traced) -> Iterator[PipelineApp]:
    """One of which no worker was started."""

    def never(_: object) -> Any:
        raise AssertionError("the policy was asked")

    made = PipelineApp(
        small,
        pipeline(small, [1, 3], ABC),
        joined(ABC, rate_bps=1e8),
        profile=None,
        settings=PipelineSettings(),
        replan=never,
    )
    made._crew.plan_id = "p"
    made._crew.numbers["p"] = 0
    yield made
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
