"""What waits to be sent when its server is lost, or while nothing may be sent: dropped and computed here, or waited for; never sent twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zmq

from splitplan.executor.codec import pack
from splitplan.executor.pacer import Pace, PacedSender
from splitplan.executor.relay import Relay
from splitplan.executor.roles import DeviceRole
from splitplan.executor.session import Clock, Session, clock_name, versions
from splitplan.executor.shaper import ShapedSender, Shaper
from splitplan.executor.split import Compute, Split
from splitplan.executor.wire import Message, Packed, decode, encode
from splitplan.models.trace import Traced

from .conftest import EXAMPLE, cut


class Line:
    """A session that keeps what was sent on it."""

    def __init__(self) -> None:
        self.lost: str | None = None
        self.clock, self.sent, self.came = Clock(), [], threading.Condition()

    def send(self, parts: Any) -> None:
        with self.came:
            self.sent.append(decode(parts).body["frame_id"])
            self.came.notify_all()

    def wait_for(self, frame_id: int) -> bool:
        with self.came:
            return self.came.wait_for(lambda: frame_id in self.sent, 30)


class Bench:
    """A device role, with its sender and its relay, and nobody beyond."""

    governed = None

    def __init__(self, traced: Traced, sender: Any, frame_timeout_s: float = 60.0) -> None:
        self.compute, self.replies, self.told = Compute(), [], threading.Condition()
        self.up = sender
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.relay = Relay(
            self.context, "ipc:///nowhere", None, token="t", fingerprint="f", granularity="layer", heartbeat_s=1, on_lost=sender.clear
        )  # fmt: skip
        body = {"frame_timeout_s": frame_timeout_s, "up": None, "clock": None, "tells": False}
        self.role = DeviceRole(self, Split(traced, cut(traced, 2)), "p", body, self.relay)  # type: ignore[arg-type]
        self.line = self.connect()

    def submit(self, order: int, job: Callable[[], None]) -> None:
        job()

    def reply(self, parts: Any) -> None:
        with self.told:
            self.replies.append(decode(parts).body)
            self.told.notify_all()

    def sender(self, way: str, link: Any, clock: str | None = None) -> Any:
        return self.up

    def connect(self) -> Line:
        self.line = Line()
        self.relay._session = self.line  # type: ignore[assignment]
        return self.line

    def lose(self) -> None:
        """As the relay's thread does it."""
        self.line.lost = "gone"
        self.relay._serve(self.line)  # type: ignore[arg-type]

    def frame(self, number: int) -> None:
        body = {"plan_id": "p", "frame_id": number, "symbols": {}, "check": False}
        self.role.frame(Message("frame", body, {"x": EXAMPLE}), time.monotonic())

    def answered(self, count: int) -> bool:
        with self.told:
            return self.told.wait_for(lambda: len(self.replies) >= count, 30)

    def close(self) -> None:
        self.line.lost = "closed"
        self.relay.close()
        self.up.close()
        self.context.destroy(linger=0)


@pytest.fixture
def bench(small: Traced) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(sender: Any, **options: float) -> Bench:
        made.append(Bench(small, sender, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def silent() -> PacedSender:
    sender = PacedSender(Shaper(1e9), "test")
    sender.set(0.0, 600.0)
    return sender


@pytest.mark.parametrize(
    "sender", [silent, lambda: ShapedSender(Shaper(1e9, delay_s=0.5), "test")], ids=["silent", "under way"]
)
def test_what_waits_for_a_server_that_is_lost_is_not_sent_to_the_next(
    bench: Callable[..., Bench], sender: Callable[[], Any]
) -> None:
    b = bench(sender())
    b.frame(3)
    first = b.line
    b.lose()
    second = b.connect()
    assert [(r["frame_id"], r["alone"]) for r in b.replies] == [(3, "gone")]
    b.frame(4)
    if isinstance(b.up, PacedSender):
        assert b.up.read()[0] == [4]
        b.up.release()
    assert second.wait_for(4)
    assert (first.sent, second.sent) == ([], [4])
    assert len(b.replies) == 1  # nobody answers the second, and the first was answered once


@pytest.mark.parametrize("make", [PacedSender, ShapedSender])
def test_the_link_is_free_when_what_was_on_it_is_dropped(make: Callable[..., Any]) -> None:
    """A thousand seconds of messages, the first of them under way."""
    sender, got, done = make(Shaper(8e3), "test"), [], threading.Event()
    try:
        for k in range(2):
            sender.send(5e5, lambda _, k=k: lambda: got.append(k), lambda e: None, k)
        sender.clear()
        sender.send(1.0, lambda _: done.set, lambda e: None, 2)
        assert done.wait(30)
    finally:
        sender.close()
    assert got in ([], [0])  # one that was through already is for its maker to drop


@pytest.mark.parametrize("make", [PacedSender, ShapedSender])
@pytest.mark.parametrize("shaper", [None, Shaper(8e3)])
def test_what_nobody_wants_takes_nothing_of_the_link(make: Callable[..., Any], shaper: Shaper | None) -> None:
    sender, done = make(shaper, "test"), threading.Event()
    if shaper is None and make is PacedSender:
        sender.set(8e3, 600.0)
    try:
        sender.send(1e6, lambda _: None, lambda e: None)
        sender.send(1.0, lambda _: done.set, lambda e: None)
        assert done.wait(30)
    finally:
        sender.close()


def test_a_frame_that_waits_because_nothing_may_be_sent_is_waited_for(bench: Callable[..., Bench]) -> None:
    """Ten times as long as a server may take; when it may be sent, a server that says nothing has its time, and no more."""
    b = bench(silent(), frame_timeout_s=0.05)
    keeper = threading.Thread(target=b.relay._serve, args=(b.line,))
    keeper.start()
    try:
        b.frame(3)
        time.sleep(0.5)
        assert b.replies == [] and b.line.sent == []
        b.up.release()
        assert b.line.wait_for(3)
        b.up.set(0.0, 600.0)  # silence is no excuse any more: it was sent
        assert b.answered(1)
    finally:
        b.line.lost = "closed"
        keeper.join()
    assert [r["alone"] for r in b.replies] == ["the server let the frame's deadline pass"]


def test_silence_is_counted_to_the_moment_the_knob_is_free() -> None:
    pace = Pace(Shaper(8.0))
    pace.advance(5.0)
    assert pace.silent_s == 0.0
    pace.set(0.0, 5.0, 10.0)
    pace.advance(7.0)
    assert pace.silent_s == 2.0
    pace.set(0.5, 8.0, 10.0)
    pace.set(0.0, 20.0, 10.0)  # 8 to 18: half the link, then all of it
    pace.advance(50.0)
    assert pace.silent_s == 3.0 + 10.0


# -- the connection itself -----------------------------------------------------------------------------


def welcome() -> dict[str, Any]:
    about = {"fingerprint": "f", "model": "m", "granularity": "layer", "clock": clock_name(), "torch_device": "cpu"}
    return {**about, **versions(), "threads": 1, "slowdown": 1.0, "governor": "", "clocks_hz": [], "meter": ""}


@pytest.mark.parametrize("kind", ["ipc", "tcp"])
def test_what_zeromq_has_not_sent_when_the_peer_is_lost_is_not_sent_to_the_next(kind: str, nothing_left: Path) -> None:
    """A worker that takes nothing dies; another listens at the same address before the session is closed."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    lost = threading.Event()

    def listen(address: str) -> zmq.Socket[bytes]:
        router = context.socket(zmq.ROUTER)
        router.linger, router.rcvhwm, router.rcvtimeo = 0, 1, 30_000
        router.bind(address)
        return router

    router = listen(f"ipc://{nothing_left}/s.sock" if kind == "ipc" else "tcp://127.0.0.1:0")
    address = router.get_string(zmq.LAST_ENDPOINT)
    session = Session(
        context, address, None, name="the worker", token="t", heartbeat_s=60.0, on_message=lambda m: None, on_lost=lambda _: lost.set()
    )  # fmt: skip
    try:
        opener = threading.Thread(target=session.open, args=(30.0,))
        opener.start()
        identity = router.recv_multipart()[0]
        router.send_multipart([identity, *encode("welcome", welcome())])
        opener.join()
        head, data = pack("x", torch.zeros(1 << 18))
        parts = encode("frame", {"plan_id": "p", "frame_id": 1, "symbols": {}, "check": False}, Packed([head], [data]))
        for _ in range(64):  # far more than the peer and the kernel take
            session.send(parts)
        router.close()
        assert lost.wait(30)
        router = listen(address)
        assert not router.poll(1500), router.recv_multipart()[1][:200]
    finally:
        session.close()
        context.destroy(linger=0)
