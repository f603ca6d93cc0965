"""The device worker's way to the server: keeps the connection, and answers for every frame that went up.

A frame that goes up is noted with the tensors that its tail needs. Whoever takes the note away answers the frame: the
server's result, or the device itself when the server is gone, refuses it, or lets its deadline pass. So each frame is
answered once, and what comes late finds no note and is dropped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import zmq

from splitplan.errors import FingerprintError, HandshakeError, SplitplanError
from splitplan.executor.keys import Keys
from splitplan.executor.session import Session
from splitplan.executor.wire import Message

_TICK_S = 0.02
_RETRY_S = (0.05, 2.0)
_OPEN_S = 5.0


@dataclass
class Waiting:
    """A frame that goes up: what is needed to finish it here, and what to call when it comes back or does not.

    ``silent_s`` tells for how long, so far, nothing was sent on purpose: while the frame waits for its turn that is not
    the server's fault, and its deadline moves by as much.
    """

    frame_id: int
    deadline_s: float
    answered: Callable[[Message, float], None]
    finish_here: Callable[[str], None]
    silent_s: Callable[[], float] = float

    def __post_init__(self) -> None:
        self._silent_s, self._sent = self.silent_s(), False

    def sent(self) -> None:
        """It is on its way: silence is no reason any more."""
        self.deadline_s += self.silent_s() - self._silent_s
        self._sent = True

    def late(self, now_s: float) -> bool:
        """Whether it should have been answered."""
        return now_s > self.deadline_s + (0.0 if self._sent else self.silent_s() - self._silent_s)


class Relay:
    """Connects to the server, and again whenever it was lost.

    Parameters
    ----------
    context : zmq.Context
    address : str
    keys : Keys or None
    token : str
    fingerprint, granularity : str
        Of this end's model; a server with another one is not used.
    heartbeat_s : float
    on_lost : callable
        Told, in the relay's thread, that the server is lost: nothing that waits to be sent is for anybody any more.

    Attributes
    ----------
    connections : int
        How often the server was reached.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        keys: Keys | None,
        *,
        token: str,
        fingerprint: str,
        granularity: str,
        heartbeat_s: float,
        on_lost: Callable[[], None],
    ) -> None:
        self.address = address
        self.reason = "the server has not answered yet"
        self.refused: SplitplanError | None = None
        self.connections = 0
        self._context, self._keys, self._token, self._heartbeat_s = context, keys, token, heartbeat_s
        self._fingerprint, self._granularity, self._on_lost = fingerprint, granularity, on_lost
        self._lock = threading.Lock()
        self._plans: dict[str, dict[str, Any]] = {}
        self._waiting: dict[int, Waiting] = {}
        self._session: Session | None = None
        self._tried, self._stir, self._closed = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="splitplan relay", daemon=True)

    @property
    def session(self) -> Session | None:
        """The connection, while there is one."""
        return self._session

    def add_plan(self, plan_id: str, body: Mapping[str, Any], patience_s: float) -> bool:
        """Tell the server of a plan, now and after every reconnection; returns whether it knows it now.

        Raises
        ------
        HandshakeError, FingerprintError
            When the server does not fit; a server that is away is no error.
        """
        with self._lock:
            self._plans[plan_id] = dict(body)
            session = self._session
        if session is None:
            if not self._thread.is_alive():
                self._thread.start()
            self._tried.wait(patience_s)
        else:
            session.request("configure", body, patience_s, "configured")
        if self.refused is not None:
            raise self.refused
        return self._session is not None

    def send(self, waiting: Waiting) -> bool:
        """Note a frame that is about to go up; False when the server is away, and then nothing was noted."""
        with self._lock:
            session = self._session
            if session is None or session.lost is not None:
                return False
            self._waiting[waiting.frame_id] = waiting
        return True

    def holds(self, frame_id: int) -> bool:
        """Whether a frame is noted still: nobody has answered it or was handed it back."""
        with self._lock:
            return frame_id in self._waiting

    def deliver(self, frame_id: int, parts: list[bytes | memoryview]) -> None:
        """Send a noted frame; dropped when it was handed back meanwhile, perhaps because that server is gone."""
        session = self._session
        with self._lock:
            waiting = self._waiting.get(frame_id)
        if session is not None and waiting is not None:
            waiting.sent()
            session.send(parts)

    def take(self, frame_id: int) -> Waiting | None:
        """Take a frame's note away, and with it the duty to answer it."""
        with self._lock:
            return self._waiting.pop(frame_id, None)

    def close(self) -> None:
        """Give up the connection; returns at once."""
        self._closed.set()
        self._stir.set()

    # -- in the relay's own thread ---------------------------------------------------------------

    def _run(self) -> None:
        pause_s = _RETRY_S[0]
        while not self._closed.is_set():
            session = None
            try:
                session = Session(
                    self._context, self.address, self._keys, name="the server", token=self._token,
                    heartbeat_s=self._heartbeat_s, on_message=self._message, on_lost=lambda _: self._stir.set(),
                )  # fmt: skip
                self._connect(session)
            except SplitplanError as e:
                self.reason = str(e)
                self.refused = e if isinstance(e, (HandshakeError, FingerprintError)) else None
                self._tried.set()
                if session is not None:
                    session.close()
                self._closed.wait(pause_s)  # not `_stir`: the very loss that led here has set it
                pause_s = min(2 * pause_s, _RETRY_S[1])
                continue
            pause_s = _RETRY_S[0]
            self._serve(session)
            session.close()

    def _connect(self, session: Session) -> None:
        about = session.open(_OPEN_S)
        theirs = about["fingerprint"]
        if theirs != self._fingerprint:
            raise HandshakeError(
                f"the server at {self.address} has a model of fingerprint {theirs[:12]}, the device one of {self._fingerprint[:12]}: "
                "structure or weights differ; give both workers the same model"
            )
        if about["granularity"] != self._granularity:
            raise HandshakeError(
                f"the server at {self.address} has {about['granularity']} granularity, the device {self._granularity}; "
                "start both workers with the same --granularity"
            )
        told: set[str] = set()
        while True:
            with self._lock:
                missing = {k: v for k, v in self._plans.items() if k not in told}
                if not missing:
                    self._session = session
                    self.connections += 1
                    break
            for plan_id, body in missing.items():
                session.request("configure", body, 60.0, "configured")
                told.add(plan_id)
        self.refused = None
        self._stir.clear()
        self._tried.set()

    def _serve(self, session: Session) -> None:
        while not self._closed.is_set() and session.lost is None:
            self._stir.wait(_TICK_S)
            now = time.monotonic()
            with self._lock:
                noted = list(self._waiting.values())
            for frame in noted:
                if frame.late(now) and self.take(frame.frame_id) is not None:
                    frame.finish_here("the server let the frame's deadline pass")
        self.reason = session.lost or "closed"
        with self._lock:
            self._session = None
            left = list(self._waiting.values())
            self._waiting.clear()
        self._stir.clear()
        self._on_lost()
        for waiting in left:
            waiting.finish_here(self.reason)

    # -- in the session's thread -----------------------------------------------------------------

    def _message(self, message: Message) -> None:
        arrived = time.monotonic()
        waiting = self.take(message.body["frame_id"])
        if waiting is None:
            return
        if message.kind == "error":
            waiting.finish_here(f"the server could not: {message.body['message'][:800]}")
            return
        try:
            waiting.answered(message, arrived)
        except Exception as e:  # noqa: BLE001  the note was taken away: nobody else can answer the frame
            text = str(e) if isinstance(e, SplitplanError) else f"{type(e).__name__}: {e}"
            waiting.finish_here(f"the server's answer cannot be used: {text}")
