"""What fails between the model and the wire: the frame gets its reason, and nobody dies or waits for ever."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import zmq
from torch import nn

from splitplan.data.system import System
from splitplan.errors import ExecutorError, WireError
from splitplan.executor import front
from splitplan.executor import relay as relay_module
from splitplan.executor.deploy import deploy
from splitplan.executor.relay import Relay, Waiting
from splitplan.executor.roles import _Frame
from splitplan.executor.session import Clock
from splitplan.executor.wire import Message
from splitplan.models.trace import Traced, trace

from .conftest import EXAMPLE, cut


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x * 1e6) * 2


class Thrice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3


def test_an_example_that_does_not_fit_the_wire_is_told_as_that(pair: System) -> None:
    traced = trace(Scaled().eval(), torch.ones(2, 3), granularity="operator")
    with pytest.raises(ExecutorError, match="do not fit float16; use a wider wire"):
        deploy(traced, cut(traced, 1, wire="fp16"), pair, max_restarts=0)


def test_float64_comes_back_as_the_model_made_it(pair: System) -> None:
    x = torch.tensor([[1 / 3, 2e38, 1e300, -1e-300]], dtype=torch.float64)
    traced = trace(Thrice().eval(), torch.ones(1, 4, dtype=torch.float64))
    with deploy(traced, cut(traced, 99), pair, max_restarts=0) as app:
        got = app(x)
        report = app.report()
    assert got.dtype == torch.float64 and torch.equal(got, x * 3)
    assert report.counts["finished_locally"] == 0 and "bit-equal" in str(report)


def test_float64_is_still_narrowed_on_the_link(pair: System) -> None:
    x = torch.rand(1, 4, dtype=torch.float64)
    traced = trace(Thrice().eval(), x)
    with deploy(traced, cut(traced, 0), pair) as app:
        got = app(x)
        times = app.report().frames[0].times
    assert times["up_bytes"] == times["down_bytes"] == 4 * 4
    assert torch.equal(got, (x.float().double() * 3).float().double())


def test_inputs_that_cannot_cross_hold_no_slot(small: Traced, pair: System, monkeypatch: pytest.MonkeyPatch) -> None:
    pack_all, closed = front.pack_all, threading.Event()

    def refuse(*args: Any) -> None:
        raise WireError("cannot cross")

    with deploy(small, cut(small, 99), pair, depth=1) as app:
        monkeypatch.setattr(front, "pack_all", refuse)
        with pytest.raises(WireError, match="cannot cross"):
            app.submit(EXAMPLE)
        assert not app._pending
        monkeypatch.setattr(front, "pack_all", pack_all)
        assert set(app(EXAMPLE)) == {"scores", "features"}  # the only slot is free
        threading.Thread(target=lambda: (app.close(), closed.set()), daemon=True).start()
        assert closed.wait(30)


def test_an_answer_that_cannot_be_put_together_fails_its_frame(
    small: Traced, pair: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("no such structure")

    with deploy(small, cut(small, 99), pair, check=False) as app:
        monkeypatch.setattr(app.traced, "unflatten", fail)
        with pytest.raises(RuntimeError, match="no such structure"):
            app.submit(EXAMPLE).result(60)


@pytest.fixture
def relay() -> Iterator[Relay]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield Relay(
        context, "ipc:///nowhere", None, token="t", fingerprint="f", granularity="layer", heartbeat_s=1, on_lost=lambda: None
    )  # fmt: skip
    context.destroy(linger=0)


def test_whatever_goes_wrong_with_the_servers_answer_the_frame_is_finished_here(relay: Relay) -> None:
    finished: list[str] = []

    def answered(message: Message, now_s: float) -> None:
        raise RuntimeError("broken")

    relay._waiting[3] = Waiting(3, math.inf, answered, finished.append)
    relay._message(Message("result", {"frame_id": 3}))
    assert finished == ["the server's answer cannot be used: RuntimeError: broken"]


def test_a_server_that_is_lost_in_the_handshake_is_not_hammered(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []

    class Broken:
        def __init__(self, *args: Any, on_lost: Callable[[str], None], **more: Any) -> None:
            tries.append(time.monotonic())
            self.on_lost = on_lost

        def open(self, timeout_s: float) -> None:
            self.on_lost("gone")
            raise ExecutorError("gone")

        def close(self) -> None: ...

    monkeypatch.setattr(relay_module, "Session", Broken)
    assert not relay.add_plan("p", {}, 1.0)
    time.sleep(0.5)
    relay.close()
    relay._thread.join(10)
    assert not relay._thread.is_alive()
    assert 2 <= len(tries) <= 5  # pauses of 0.05, 0.1, 0.2, 0.4 s


@pytest.mark.parametrize("known", [False, True])
def test_times_that_need_the_servers_clock_are_left_out_until_it_is_known(known: bool) -> None:
    class Role:
        back = ()

        def __init__(self) -> None:
            self.answered: list[str] = []

        def clock(self) -> Clock:
            clock = Clock()
            if known:
                clock.add(0.0, 5.0, 0.0)
            return clock

        def crossed_bytes(self, tensors: dict[str, torch.Tensor]) -> float:
            return 8.0

        def reply(self, frame: _Frame, values: Any, alone: str) -> None:
            self.answered.append(alone)

    role: Any = Role()
    frame = _Frame(role, 1, False, {}, {}, {}, 0.0)
    times = {"arrived_s": 6.0, "wait_s": 0.0, "compute_s": 1.0, "done_s": 7.0, "sent_s": 7.0}
    frame.came_back(Message("result", {"times": times}), 3.0)
    assert role.answered == [""] and all(math.isfinite(v) for v in frame.times.values())
    assert ({"up_s", "down_s"} <= frame.times.keys()) == known
    assert frame.times["server_s"] == 1.0
