"""One leg of a pipeline at its sender's end: what waits for it, what is under way, and how much room the receiver has.

Nothing here is without bound: `BUFFERS` frames wait to be sent, then the stage before computes no more; ``window`` frames are
under way or wait at the receiver, each of which the receiver acknowledges when it takes it on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from splitplan.errors import SplitplanError
from splitplan.executor.legs import BUFFERS
from splitplan.executor.medium import StageSender
from splitplan.executor.roles import Parts
from splitplan.executor.shaper import Shaper

Made = Callable[[float], Parts]
"""Given when the message enters the link (`time.monotonic`), its parts."""


@dataclass(frozen=True)
class _Waiting:
    size_bytes: float
    make: Made


class Hop:
    """Sends frames in the order in which they were put.

    Parameters
    ----------
    deliver : callable
        Given a message's parts when it has arrived.
    shaper : Shaper or None
        Of the emulated link; None: a real one.
    window : int
    acknowledged : bool
        Whether the receiver tells, by `room`, that it has taken a frame on; else one that is delivered leaves its room at once.
    stir : callable
        Told when `full` may have become false, or a frame was delivered.
    broke : callable
        Told why a frame could not be sent.
    name : str
        For the thread.
    """

    def __init__(
        self,
        deliver: Callable[[Parts], None],
        shaper: Shaper | None,
        window: int,
        *,
        acknowledged: bool,
        stir: Callable[[], None],
        broke: Callable[[str], None],
        name: str,
    ) -> None:
        self._deliver, self._acknowledged, self._stir, self._broke = deliver, acknowledged, stir, broke
        self._sender = StageSender(shaper, f"splitplan {name}")
        self._lock = threading.RLock()
        self._outbox: deque[_Waiting] = deque()
        self._room, self._sending, self._pushing, self._closed = window, 0, False, False

    @property
    def full(self) -> bool:
        """Whether as many frames wait as may."""
        with self._lock:
            return len(self._outbox) >= BUFFERS

    @property
    def idle(self) -> bool:
        """Whether all that was put has been delivered."""
        with self._lock:
            return not self._outbox and not self._sending

    def put(self, size_bytes: float, make: Made) -> None:
        """Hand over a frame, whether it is full or not: whoever computes frames asks before."""
        with self._lock:
            self._outbox.append(_Waiting(size_bytes, make))
        self._push()

    def room(self) -> None:
        """The receiver has taken a frame on."""
        with self._lock:
            self._room += 1
        self._push()

    def close(self) -> None:
        """Stop; what has not been delivered is dropped."""
        with self._lock:
            self._closed = True
            self._outbox.clear()
        self._sender.close()

    def _push(self) -> None:
        # The lock is held while frames are handed on, so that two threads cannot change their order.
        with self._lock:
            if self._pushing:  # from a delivery below: the loop there goes on
                return
            self._pushing = True
            try:
                while self._outbox and self._room > 0 and not self._closed:
                    self._hand_on(self._outbox.popleft())
            finally:
                self._pushing = False
        self._stir()

    def _hand_on(self, item: _Waiting) -> None:
        self._room -= 1
        self._sending += 1

        def make(start_s: float) -> Callable[[], None]:
            parts = item.make(start_s)
            return lambda: self._arrive(parts)

        try:
            self._sender.send(item.size_bytes, make, self._failed)
        except Exception as e:  # noqa: BLE001  `make` failed: nothing was sent
            self._failed(e)

    def _arrive(self, parts: Parts) -> None:
        self._deliver(parts)
        with self._lock:
            self._sending -= 1
            self._room += not self._acknowledged
        self._push()

    def _failed(self, error: Exception) -> None:
        self._broke(str(error) if isinstance(error, SplitplanError) else f"{type(error).__name__}: {error}")
