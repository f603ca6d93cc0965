"""The client's end of a connection to one worker: handshake, requests, liveness, and how the two clocks stand to each other.

Frames and pings go over two connections, so that a long frame on a slow link does not look like a dead peer. A session
that is lost stays lost; its owner makes another.
"""

from __future__ import annotations

import hashlib
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import zmq
from zmq.utils.monitor import parse_monitor_message

from splitplan.errors import (
    BoundaryError,
    DataError,
    ExecutorError,
    FingerprintError,
    HandshakeError,
    SplitplanError,
    WireError,
)
from splitplan.executor.keys import Keys
from splitplan.executor.loop import Loop, prepare
from splitplan.executor.wire import Message, decode, encode

MISSED = 3
"""A peer that has not been heard of for so many heartbeats is gone."""

UNKNOWN_PLAN = "UnknownPlan"
"""What a worker calls the error of a frame whose plan it was never told: it was started anew in the meantime."""

_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
)
_BROKE_OFF = (
    "the handshake broke off: what listens there has died in it, is no splitplan worker or a tunnel that leads nowhere"
)
_TELLS = ("result", "sending", "taken", "cut", "made")
"""Kinds of messages that answer no request."""

_ERRORS: dict[str, type[SplitplanError]] = {
    c.__name__: c for c in (BoundaryError, DataError, ExecutorError, FingerprintError, HandshakeError, WireError)
}


def versions() -> dict[str, str]:
    """What each end tells the other of itself."""
    try:
        own = version("splitplan")
    except PackageNotFoundError:  # run from its source tree
        own = "source"
    return {"splitplan": own, "torch": torch.__version__}


def clock_name() -> str:
    """Equal in two processes exactly when their monotonic clocks are one; unique where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return f"unknown {time.monotonic_ns()}"
    return hashlib.sha256(boot).hexdigest()[:32]


def error_of(body: Mapping[str, Any], who: str) -> SplitplanError:
    """The exception that an error message stands for."""
    return _ERRORS.get(body["what"], ExecutorError)(f"{who}: {body['message']}")


class SilentError(ExecutorError):
    """A peer has not answered in time: it may be slow, stopped, or gone without this being known yet."""


class Clock:
    """How far the peer's monotonic clock is ahead of ours, from pings: the one with the least round trip tells most."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=64)
        self.shared = False

    def add(self, sent_s: float, there_s: float, now_s: float) -> None:
        """One ping: when it left, when it was there (peer's clock), when it was back."""
        self._samples.append((now_s - sent_s, there_s - (sent_s + now_s) / 2))

    @property
    def offset_s(self) -> float:
        """Peer's clock minus ours; 0 when they are one clock, NaN before the first ping."""
        return 0.0 if self.shared else min(self._samples, default=(0.0, math.nan))[1]

    @property
    def uncertainty_s(self) -> float:
        """Half the least round trip: the offset is certain to within this."""
        return 0.0 if self.shared else min(self._samples, default=(math.nan, 0.0))[0] / 2


class Session:
    """A connection to a worker.

    Parameters
    ----------
    context : zmq.Context
    address : str
    keys : Keys or None
        Encrypts, when given; the worker must have keys too.
    name : str
        What to call the worker in errors.
    token : str
        Names the session at the worker; a new session of the same token replaces the old one there.
    heartbeat_s : float
    on_message : callable
        Called in the session's thread with every result, every error that names a frame, and what a stage of a pipeline tells.
    on_lost : callable
        Called once, in the session's thread, with the reason, if the worker is gone.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        keys: Keys | None,
        *,
        name: str,
        token: str,
        heartbeat_s: float,
        on_message: Callable[[Message], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self.address, self.name, self.token, self.clock = address, name, token, Clock()
        self.welcome: dict[str, Any] = {}
        self.lost: str | None = None
        self._refused: SplitplanError | None = None
        self._on_message, self._on_lost, self._heartbeat_s = on_message, on_lost, heartbeat_s
        self._keys = None if address.startswith("ipc://") else keys
        self._answers: queue.SimpleQueue[Message | SplitplanError] = queue.SimpleQueue()
        self._request, self._late = threading.Lock(), 0
        self._open, self._heard, self._missed = False, True, 0
        self._loop = Loop(f"splitplan {name}", self._crashed)
        self._data, self._control = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
        self._monitor: zmq.Socket[bytes] | None = None
        try:
            for socket in (self._data, self._control):
                prepare(socket, address)
                if self._keys:
                    socket.curve_publickey, socket.curve_secretkey = self._keys.public, self._keys.secret
                    socket.curve_serverkey = self._keys.of(address)
            self._monitor = self._data.get_monitor_socket(zmq.EVENT_DISCONNECTED | sum(_FAILED))
            self._monitor.linger = 0
            for socket in (self._data, self._control):
                socket.connect(address)
        except (zmq.ZMQError, SplitplanError) as e:
            self._close_sockets()
            if isinstance(e, SplitplanError):
                raise
            raise ExecutorError(f"{name} at {address!r}: {e}; an address is tcp://host:port or ipc://path") from e
        # The monitor first: what it says of a connection explains what the connection does not say.
        self._events = self._loop.watch(self._monitor, self._read_monitor)
        self._frames = self._loop.watch(self._data, self._read_data)
        self._pings = self._loop.watch(self._control, self._read_control)
        self._loop.every(heartbeat_s, self._beat)
        self._loop.start()

    # -- use, from any thread --------------------------------------------------------------------

    def greet(self, timeout_s: float, fingerprint: str, granularity: str) -> dict[str, Any]:
        """Shake hands with a worker that must have a certain model; returns what it says of itself."""
        about = self.open(timeout_s)
        if about["fingerprint"] != fingerprint:
            raise HandshakeError(
                f"{self.name} at {self.address} has a model of fingerprint {about['fingerprint'][:12]}, not of {fingerprint[:12]}: "
                "structure, weights or granularity differ; give it the same model"
            )
        if about["granularity"] != granularity:
            raise HandshakeError(
                f"{self.name} at {self.address} has {about['granularity']} granularity, this model {granularity}; "
                f"start it with --granularity {granularity}"
            )
        return about

    def open(self, timeout_s: float) -> dict[str, Any]:
        """Shake hands; returns what the worker says of itself."""
        hello = self.request("hello", {"session": self.token, **versions()}, timeout_s, "welcome")
        self.welcome = hello.body
        self.clock.shared = hello.body["clock"] == clock_name()
        self._open = True
        self._ping()
        return self.welcome

    def request(self, kind: str, body: Mapping[str, Any], timeout_s: float, answer: str) -> Message:
        """Send and wait for the answer; an error from the worker, and its absence, are raised."""
        with self._request:
            while not self._answers.empty():
                self._answers.get()
                self._late = max(0, self._late - 1)
            if self._refused:  # it may have come before the question, and says more than that the connection is lost
                raise self._refused
            if self.lost:
                raise ExecutorError(f"{self.name} at {self.address}: {self.lost}")
            self.send(encode(kind, body))
            try:
                got = self._answer(answer, time.monotonic() + timeout_s)
            except queue.Empty:
                self._late += 1
                raise SilentError(
                    f"{self.name} at {self.address} has not answered within {timeout_s:g} s; is a worker running there, and reachable?"
                ) from None
        if isinstance(got, SplitplanError):
            raise got
        if got.kind != answer:
            raise WireError(f"{self.name} answered {kind} with {got.kind}")
        return got

    def _answer(self, kind: str, end_s: float) -> Message | SplitplanError:
        """The next answer; one to a question that was given up is dropped where its kind tells it apart."""
        while True:
            got = self._answers.get(timeout=max(0.0, end_s - time.monotonic()))
            if isinstance(got, SplitplanError) or got.kind == kind or not self._late:
                return got
            self._late -= 1

    def send(self, parts: list[bytes | memoryview]) -> None:
        """Send a message; dropped when the session is lost, of which `on_lost` has told."""
        if self.lost is None:
            self._frames.send(parts)

    def close(self) -> None:
        """Say goodbye and close; from any thread but the session's own. May be called again, as after an interrupt."""
        if self._data.closed and self._control.closed:
            return
        if self.lost is None:
            self._pings.send(encode("bye", {"session": self.token}))
        self._loop.stop()
        for channel in (self._frames, self._pings, self._events):
            channel.close()
        self._close_sockets()

    # -- in the session's thread -----------------------------------------------------------------

    def _read_data(self) -> None:
        while self.lost is None:
            try:
                parts = self._frames.receive()
                if parts is None:
                    return
                message = decode(parts)
            except WireError as e:
                self._lose(f"it sent what is no message: {e}")
                return
            self._heard = True
            if message.kind == "error" and message.body["what"] == UNKNOWN_PLAN:
                self._lose("it does not know this session's plan any more")
            elif message.kind in _TELLS or (message.kind == "error" and message.body["frame_id"] is not None):
                self._on_message(message)
            else:
                self._answers.put(error_of(message.body, self.name) if message.kind == "error" else message)

    def _read_control(self) -> None:
        while (parts := self._pings.receive()) is not None:
            try:
                message = decode(parts)
            except WireError as e:
                self._lose(f"it sent what is no message: {e}")
                return
            if message.kind == "pong":
                self._heard = True
                self.clock.add(message.body["sent_s"], message.body["here_s"], time.monotonic())
                if self._open and not message.body["known"]:
                    self._lose("it was started anew")

    def _read_monitor(self) -> None:
        while (parts := self._events.receive()) is not None:
            self._take_event(parse_monitor_message([bytes(p) for p in parts])["event"])

    def _take_event(self, event: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and self._keys is None:
            self._lose(f"{_BROKE_OFF}, or wants keys and none were given")
        elif event in _FAILED:
            self._refused = HandshakeError(f"{self.name} at {self.address}: {self._why_failed(event)}")
            self._answers.put(self._refused)
        elif event == zmq.EVENT_DISCONNECTED:
            self._lose("the connection broke" if self._open else _BROKE_OFF)

    def _why_failed(self, event: int) -> str:
        if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL or self._keys is None:
            return "one end uses keys and the other does not: give both (or neither) a keys directory"
        own = self._keys.directory / "public.key"
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return (
                f"it does not know this machine's key: copy {own} to peers/NAME.key in the worker's directory of keys"
            )
        source, belongs = self._keys.source(self.address), self._keys.file_of(self.address)
        taken = f"{source}, taken because {belongs} is missing" if source != belongs else f"{source}"
        return (
            f"the encrypted handshake failed: the worker has another key than {taken} (or it uses none); "
            f"copy its public.key to {belongs}"
        )

    def _beat(self) -> None:
        if not self._open or self.lost:
            return
        # Counted in beats, not in seconds: a process that was itself suspended must not blame its peer.
        self._missed = 0 if self._heard else self._missed + 1
        self._heard = False
        if self._missed >= MISSED:
            self._lose(f"nothing heard of it for {MISSED} heartbeats of {self._heartbeat_s:g} s")
        else:
            self._ping()

    def _ping(self) -> None:
        self._pings.send(encode("ping", {"session": self.token, "sent_s": time.monotonic()}))

    def _lose(self, reason: str) -> None:
        if self.lost is None:
            self.lost = reason
            self._answers.put(ExecutorError(f"{self.name} at {self.address}: {reason}"))
            if self._open:
                self._on_lost(reason)
            for channel in (self._frames, self._pings):
                channel.drop(self.address)

    def _crashed(self, error: BaseException) -> None:
        self._lose(f"the session failed: {type(error).__name__}: {error}")

    def _close_sockets(self) -> None:
        if not self._data.closed:
            self._data.disable_monitor()
        for socket in (self._data, self._control, self._monitor):
            if socket is not None:
                socket.close()
