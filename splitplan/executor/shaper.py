"""The emulated link: one message after another at the link's rate, each then under way for the link's delay.

`Shaper` is arithmetic on times that are given to it; `ShapedSender` is the thread that waits and sends.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from splitplan.data.channel import Channel

Failed = Callable[[Exception], None]
Make = Callable[[float], Callable[[], None] | None]

_LONG_S = 3600.0  # no wait is longer than a thread may wait


@dataclass(frozen=True)
class Booking:
    """Seconds, on the caller's clock, at which a message enters the link, frees it, and arrives."""

    start_s: float
    free_s: float
    arrive_s: float


class Shaper:
    """An exact serial link, that is a token bucket whose bucket holds one message.

    A message of n bytes occupies the link for ``8·(n·overhead + header_bytes)/rate_bps`` seconds after the one before it and
    arrives ``delay_s`` later; meanwhile the next may start.

    Parameters
    ----------
    rate_bps : float
    delay_s : float
        One way.
    overhead : float
        Bytes on the medium for each byte of payload.
    header_bytes : float
        Bytes of one message beside its payload.
    """

    def __init__(self, rate_bps: float, delay_s: float = 0.0, overhead: float = 1.0, header_bytes: float = 0.0) -> None:
        self.rate_bps, self.delay_s, self.overhead, self.header_bytes = rate_bps, delay_s, overhead, header_bytes
        self._free_s = float("-inf")
        self._channel: Channel | None = None
        self._begin_s = 0.0

    def follow(self, channel: Channel, begin_s: float) -> None:
        """From now on have the channel's rate, whose time 0 is ``begin_s``; for messages booked from now on."""
        self._channel, self._begin_s = channel, begin_s

    def finish_s(self, start_s: float, bits: float) -> float:
        """When so many bits are through the link that begin at a time and have it to themselves."""
        if self._channel is None or start_s < self._begin_s:
            return start_s + bits / self.rate_bps
        return self._begin_s + self._channel.finish(start_s - self._begin_s, bits)

    def carried_bits(self, start_s: float, end_s: float) -> float:
        """Bits that the link can carry between two times."""
        if self._channel is None or start_s < self._begin_s:
            return self.rate_bps * (end_s - start_s)
        return float(self._channel.bits(end_s - self._begin_s) - self._channel.bits(start_s - self._begin_s))

    def bits(self, size_bytes: float) -> float:
        """Bits on the link of a message of so many bytes."""
        return 8 * (size_bytes * self.overhead + self.header_bytes)

    def occupies_s(self, size_bytes: float) -> float:
        """Seconds for which a message of so many bytes holds the link at its own rate."""
        return self.bits(size_bytes) / self.rate_bps

    def start_s(self, now_s: float) -> float:
        """When a message that is put on the link at ``now_s`` enters it."""
        return max(now_s, self._free_s)

    def clear(self) -> None:
        """Forget what was booked: the link is free."""
        self._free_s = float("-inf")

    def book(self, size_bytes: float, now_s: float) -> Booking:
        """Put a message on the link at ``now_s``, behind all that were booked before."""
        start = self.start_s(now_s)
        self._free_s = self.finish_s(start, self.bits(size_bytes))
        return Booking(start, self._free_s, self._free_s + self.delay_s)


class ShapedSender:
    """A thread that delivers messages when the link would have: in order, each at its booked arrival.

    Parameters
    ----------
    shaper : Shaper or None
        None: no emulation; messages go at once, from the caller's thread.
    name : str
        The thread's.
    """

    def __init__(self, shaper: Shaper | None, name: str) -> None:
        self._shaper = shaper
        self._stir = threading.Condition()
        self._queue: deque[tuple[float, Callable[[], None], Failed]] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        if shaper is not None:
            self._thread.start()

    def send(self, size_bytes: float, make: Make, failed: Failed, label: int = -1) -> None:
        """Hand over a message.

        Parameters
        ----------
        size_bytes : float
        make : callable
            Given the second, on `time.monotonic`, at which the message enters the link, returns what delivers it, or None
            if nobody wants it any more. What it raises itself is the caller's.
        failed : callable
            Told what the delivery raised; later messages are delivered nevertheless.
        label : int
            What the message is called; of use where a sender can be asked how far it is.
        """
        if self._shaper is None:
            if (deliver := make(time.monotonic())) is not None:
                attempt(deliver, failed)
            return
        with self._stir:  # two threads must not book in one order and queue in the other
            now = time.monotonic()
            if (deliver := make(self._shaper.start_s(now))) is not None:
                self._queue.append((self._shaper.book(size_bytes, now).arrive_s, deliver, failed))
                self._stir.notify_all()

    @property
    def shaped(self) -> bool:
        """Whether a link is emulated."""
        return self._shaper is not None

    def follow(self, channel: Channel, begin_s: float) -> None:
        """Have the emulated link follow a channel, see `Shaper.follow`; without emulation nothing follows anything."""
        if self._shaper is not None:
            with self._stir:
                self._shaper.follow(channel, begin_s)

    @property
    def silent_s(self) -> float:
        """Seconds so far in which nothing was sent on purpose: never."""
        return 0.0

    def clear(self) -> None:
        """Drop what has not been delivered, and free the link: whoever it was for is gone."""
        if self._shaper is not None:
            with self._stir:
                self._shaper.clear()
                self._queue.clear()
                self._stir.notify_all()

    def close(self) -> None:
        """Stop; what has not been delivered is dropped."""
        with self._stir:
            self._closed = True
            self._stir.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _next(self) -> tuple[Callable[[], None], Failed] | None:
        """What is to be delivered, once it has arrived; None when closed."""
        with self._stir:
            while not self._closed:
                wait_s = self._queue[0][0] - time.monotonic() if self._queue else None
                if wait_s is not None and wait_s <= 0:
                    return self._queue.popleft()[1:]
                self._stir.wait(None if wait_s is None else min(wait_s, _LONG_S))
            return None

    def _run(self) -> None:
        while (item := self._next()) is not None:
            deliver, failed = item
            try:
                attempt(deliver, failed)
            except Exception:  # noqa: BLE001  not even the failure could be told: loudly here, and the messages behind go on
                traceback.print_exc()


def attempt(deliver: Callable[[], None], failed: Failed) -> None:
    """Deliver a message; whoever sent it is told what that raised."""
    try:
        deliver()
    except Exception as e:  # noqa: BLE001  whoever sent it knows what becomes of it
        failed(e)
