"""The uplink of a device whose sending rate is a knob: message after message, at a share of the link that changes by the slot.

`Pace` is arithmetic on times that are given to it; `PacedSender` is the thread that waits and sends.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from splitplan.data.channel import Channel
from splitplan.executor.knobs import Knob
from splitplan.executor.shaper import Failed, Make, ShapedSender, Shaper, attempt

_LONG_S = 3600.0  # more than any lease; and no wait that is longer than a thread may wait


class Pace:
    """A serial link of which only a share may be used.

    A message of b bits that begins at t is through when the share, times what the link can carry, has added up to b since t.

    Parameters
    ----------
    link : Shaper
    free : float
        The share when nobody sets it.
    """

    def __init__(self, link: Shaper, free: float = 1.0) -> None:
        self.link, self._share = link, Knob(free)
        self.left_bits, self.sending_s, self.free_s, self.silent_s = 0.0, 0.0, 0.0, 0.0
        self._since = self._set_s = self._through_s = self._heard_s = -math.inf

    def set(self, share: float, now_s: float, lease_s: float) -> None:
        """From now on take this share, for so long unless it is set again."""
        self.advance(now_s)
        self._share.set(share, now_s + lease_s)
        self._set_s = now_s

    def follow(self, channel: Channel, begin_s: float, now_s: float) -> None:
        """Have the link follow a channel, also for what is under way."""
        self.advance(now_s)
        self.link.follow(channel, begin_s)

    def may_begin(self, now_s: float) -> bool:
        """Whether a message may begin."""
        return self._share.at(now_s) > 0

    def begin(self, bits: float, ready_s: float, now_s: float) -> float:
        """Begin a message that has been ready since then; returns when it began.

        To the moment, since a thread that wakes late must not slow the link: when the one before was through. But of the share before it
        was last set nothing is known any more, and one that was 0 freed itself when its lease ended.
        """
        freed = self._share.until_s if self._share.value <= 0 and now_s >= self._share.until_s else -math.inf
        self._since = min(now_s, max(ready_s, self._through_s, self._set_s, freed))
        self.left_bits = bits
        began = self._since
        self.advance(now_s)
        return began

    def advance(self, now_s: float) -> None:
        """Account for what has passed; notes to the moment when the message under way was through."""
        for start, end, share in self._share.pieces(self._heard_s, now_s):
            self.silent_s += end - start if share <= 0 else 0.0
        self._heard_s = now_s
        for start, end, share in self._share.pieces(self._since, now_s) if self.left_bits > 0 else ():
            if share <= 0:
                continue
            through = self.link.finish_s(start, self.left_bits / share)
            sending_s = min(through, end) - start
            self.sending_s += sending_s
            self.free_s += sending_s if start >= self._share.until_s else 0.0
            if through <= end:
                self.left_bits, self._through_s = 0.0, through
                break
            # What is left is never rounded to nothing: only the line above says that a message is through.
            self.left_bits -= min(share * self.link.carried_bits(start, end), self.left_bits * (1 - 1e-12))
        self._since = now_s

    def drop(self, now_s: float) -> None:
        """Give up the message under way."""
        self.advance(now_s)
        self.left_bits = 0.0

    def wait_s(self, now_s: float) -> float:
        """How long nothing happens from now on, unless the share is set."""
        share, lease_s = self._share.at(now_s), self._share.until_s - now_s
        sends = share > 0 and self.left_bits > 0
        through_s = self.link.finish_s(now_s, self.left_bits / share) - now_s if sends else math.inf
        return min(through_s, lease_s) if lease_s > 0 else through_s


@dataclass
class _Message:
    bits: float
    make: Make
    failed: Failed
    ready_s: float
    label: int


class PacedSender:
    """Sends like `ShapedSender`, but takes only a share of the link, which is set from outside; silent at 0.

    Over an emulated link a message is delivered when it is through, and the link's delay later. Over a real one the share is a
    rate in bit/s, a token bucket whose bucket holds one message: a message goes at once, and the next waits until the rate has earned it.

    Parameters
    ----------
    shaper : Shaper or None
        Of the emulated link; None: a real one.
    name : str
        The thread's.
    """

    def __init__(self, shaper: Shaper | None, name: str) -> None:
        self._emulated = shaper is not None
        self._pace = Pace(shaper) if shaper is not None else Pace(Shaper(1.0), free=math.inf)
        delay_s = shaper.delay_s if shaper is not None else 0.0
        self._way = ShapedSender(Shaper(math.inf, delay_s) if delay_s > 0 else None, f"{name} delay")
        self._stir = threading.Condition()
        self._queue: deque[_Message] = deque()
        self._under_way: int | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # -- as of any sender ------------------------------------------------------------------------

    def send(self, size_bytes: float, make: Make, failed: Failed, label: int = -1) -> None:
        """Hand over a message, see `ShapedSender.send`; ``make`` is called when it begins, and ``label`` is what `read` calls it."""
        with self._stir:
            self._queue.append(_Message(self._pace.link.bits(size_bytes), make, failed, time.monotonic(), label))
            self._stir.notify_all()

    @property
    def shaped(self) -> bool:
        """Whether a link is emulated."""
        return self._emulated

    def follow(self, channel: Channel, begin_s: float) -> None:
        """Have the emulated link follow a channel, see `Pace.follow`; a real link follows nothing."""
        if self._emulated:
            with self._stir:
                self._pace.follow(channel, begin_s, time.monotonic())
                self._stir.notify_all()

    @property
    def silent_s(self) -> float:
        """Seconds so far in which the knob let nothing be sent."""
        with self._stir:
            self._pace.advance(time.monotonic())
            return self._pace.silent_s

    def clear(self) -> None:
        """Drop what has not been sent: whoever it was for is gone. What is through already is delivered: nobody can take that back."""
        with self._stir:
            self._queue.clear()
            self._pace.drop(time.monotonic())
            self._stir.notify_all()

    def close(self) -> None:
        """Stop; what has not been delivered is dropped."""
        with self._stir:
            self._closed = True
            self._stir.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._way.close()

    # -- the knob --------------------------------------------------------------------------------

    def set(self, share: float, lease_s: float) -> None:
        """From now on take this share of an emulated link, or these bit/s of a real one, for so long unless it is set again."""
        with self._stir:
            self._pace.set(share, time.monotonic(), lease_s)
            self._stir.notify_all()

    def release(self) -> None:
        """Take all of the link from now on."""
        self.set(1.0, 0.0)

    def read(self) -> tuple[list[int], float, float, float]:
        """Labels of the messages that are not through, in order; bits left of the one under way (0: it has not begun); seconds spent sending, and
        those of them in which nobody held the knob.
        """
        with self._stir:
            self._pace.advance(time.monotonic())
            here = [self._under_way] if self._under_way is not None and self._pace.left_bits > 0 else []
            return here + [m.label for m in self._queue], self._pace.left_bits, self._pace.sending_s, self._pace.free_s

    # -- in its own thread -----------------------------------------------------------------------

    def _run(self) -> None:
        while (begun := self._begin()) is not None:
            message, start_s = begun
            try:
                deliver = self._made(message, start_s)
                if deliver is None:
                    continue
                if not self._emulated:
                    attempt(deliver, message.failed)
            except Exception:  # noqa: BLE001  not even the failure could be told: loudly here, and the messages behind go on
                traceback.print_exc()
                continue
            if not self._wait_through():
                return
            if self._emulated:
                self._way.send(0.0, lambda _, deliver=deliver: deliver, message.failed)  # type: ignore[misc]

    def _made(self, message: _Message, start_s: float) -> Callable[[], None] | None:
        """What delivers a message; None when it cannot be made or nobody wants it any more: then it takes nothing of the link."""
        deliver, error = None, None
        try:
            deliver = message.make(start_s)
        except Exception as e:  # noqa: BLE001  whoever sent it knows what becomes of it
            error = e
        if deliver is None:
            with self._stir:
                self._pace.drop(time.monotonic())
        if error is not None:
            message.failed(error)
        return deliver

    def _begin(self) -> tuple[_Message, float] | None:
        """The next message and when it began, once it may; None when closed."""
        with self._stir:
            while not self._closed:
                now = time.monotonic()
                if self._queue and self._pace.may_begin(now):
                    message = self._queue.popleft()
                    self._under_way = message.label
                    return message, self._pace.begin(message.bits, message.ready_s, now)
                self._stir.wait(min(self._pace.wait_s(now), _LONG_S) if self._queue else None)
            return None

    def _wait_through(self) -> bool:
        """Wait until the message under way is through; False when closed."""
        with self._stir:
            while not self._closed:
                now = time.monotonic()
                self._pace.advance(now)
                if self._pace.left_bits <= 0:
                    self._under_way = None
                    return True
                self._stir.wait(min(self._pace.wait_s(now), _LONG_S))
            return False
