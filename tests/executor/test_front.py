"""What every app does with frames and with its end, whatever it runs: no workers here."""

from __future__ import annotations

import atexit
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from splitplan.data.system import System
from splitplan.errors import DataError, ExecutorError
from splitplan.executor.app import App
from splitplan.executor.crew import Settings
from splitplan.executor.deploy import deploy
from splitplan.executor.pipeline_app import PipelineApp
from splitplan.executor.pipeline_settings import PipelineSettings
from splitplan.executor.spawn import WorkerProcess
from splitplan.models.trace import Traced
from splitplan.policies.base import Fixed

from .conftest import EXAMPLE, cut, gone, same
from .pipelines import expected, joined, pipeline

AnyApp = App | PipelineApp


@pytest.fixture(params=["device and server", "pipeline"])
def app(small: Traced, pair: System, request: pytest.FixtureRequest) -> Iterator[AnyApp]:
    """One of which no worker was started."""
    made: AnyApp
    if request.param == "pipeline":
        plan, system = pipeline(small, [1, 3], ("a", "b", "c")), joined(("a", "b", "c"), rate_bps=1e8)
        settings = PipelineSettings(depth=2)
        made = PipelineApp(small, plan, system, profile=None, settings=settings, replan=lambda left: plan)
    else:
        made = App(small, Fixed(cut(small, 2)), pair, profile=None, settings=Settings(depth=2))
    yield made
    made.close(wait=False)


@pytest.mark.parametrize("depth", [-1, 0, "3", 2.5, True])
def test_a_stream_of_a_depth_that_is_none_is_refused(app: AnyApp, depth: Any) -> None:
    with pytest.raises(DataError, match=f"depth is {depth!r}; give a whole number"):
        app.stream([EXAMPLE], depth=depth)


def test_what_an_error_leaves_unclosed_is_closed_by_the_next_call(app: AnyApp, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    really = app._crew.close

    def close() -> None:
        calls.append("close")
        if len(calls) == 1:
            raise RuntimeError("no")
        really()

    monkeypatch.setattr(app._crew, "close", close)
    monkeypatch.setattr(atexit, "unregister", lambda f: calls.append("unregister"))
    with pytest.raises(RuntimeError, match="no"):
        app.close(wait=False)
    assert calls == ["close"]
    app._at_exit()
    app.close()
    assert calls == ["close", "close", "unregister"]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("kind", ["device and server", "pipeline"])
@pytest.mark.parametrize("how", ["interrupt", "error"])
def test_a_close_that_stopped_half_way_is_finished(
    small: Traced, pair: System, monkeypatch: pytest.MonkeyPatch, kind: str, how: str
) -> None:
    """The likeliest interrupt: while the workers end."""
    if kind == "pipeline":
        app: AnyApp = deploy(small, pipeline(small, [2], ("a", "b")), joined(("a", "b")), check=False)
    else:
        app = deploy(small, cut(small, 2), pair, check=False)
    pids, stopped, stop = list(app.pids.values()), [0], WorkerProcess.stop

    def first_not(worker: WorkerProcess) -> None:
        stopped[0] += 1
        if stopped[0] == 1 and how == "error":
            raise RuntimeError("no")
        if stopped[0] == 1:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.3)
        stop(worker)

    monkeypatch.setattr(WorkerProcess, "stop", first_not)
    with pytest.raises(KeyboardInterrupt if how == "interrupt" else RuntimeError):
        app.close()
    app.close()
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)
    with pytest.raises(ExecutorError, match="the app is closed"):
        app.submit(EXAMPLE)


def test_a_frames_own_callback_may_close_the_app(app: AnyApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs in the thread that has to answer the next frame."""

    def fails() -> str:
        raise RuntimeError("no more processes")

    monkeypatch.setattr(app, "_mend", fails)
    first, second = app.submit(EXAMPLE), app.submit(EXAMPLE)
    first.add_done_callback(lambda _: app.close())
    app._keeper.start()
    app._stir.set()
    assert first.result(20) is not None
    with pytest.raises(ExecutorError, match="closed before this frame was answered"):
        second.result(20)


def test_a_frame_whose_hand_over_was_interrupted_is_not_waited_for(
    app: AnyApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(frame_id: int, entry: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "_send", interrupted)
    for _ in range(3):  # more than may be under way: each gives its room back
        with pytest.raises(KeyboardInterrupt):
            app.submit(EXAMPLE)
    assert not app._pending
    app.close()


def test_a_frame_that_waits_for_room_is_refused_when_the_app_closes(app: AnyApp) -> None:
    waiting = [app.submit(EXAMPLE) for _ in range(2)]
    refused: list[Exception] = []

    def one_more() -> None:
        try:
            app.submit(EXAMPLE)
        except ExecutorError as e:
            refused.append(e)

    thread = threading.Thread(target=one_more)
    thread.start()
    app.close(wait=False)
    thread.join(20)
    assert "the app is closed" in str(*refused)
    for future in waiting:
        with pytest.raises(ExecutorError, match="closed before this frame was answered"):
            future.result(0)


def test_this_process_computes_when_mending_fails(app: AnyApp, small: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> str:
        raise RuntimeError("no more processes")

    monkeypatch.setattr(app, "_mend", fails)
    future = app.submit(EXAMPLE)
    app._keeper.start()
    app._stir.set()
    assert same(future.result(20), expected(small, EXAMPLE))
    assert any("RuntimeError: no more processes" in text for text in app.report().notes)
    assert app.submit(EXAMPLE).result(20) is not None
