"""What is set from outside while a device works, slot by slot: a `Knob`, and the device's clock as a `Duty`. Knows no torch.

A knob is set for a while (its lease). When whoever sets it is gone, it frees itself: no frame waits for a controller that died.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Now = Callable[[], float]

_LONG_S = 3600.0  # more than any lease; and no wait that is longer than a thread may wait


@dataclass
class Knob:
    """A number that is set from outside, and is ``free`` again when nobody has set it for its lease.

    Parameters
    ----------
    free : float
    value : float
    until_s : float
        End of the lease, on the caller's clock.
    """

    free: float = 1.0
    value: float = math.nan
    until_s: float = -math.inf

    def set(self, value: float, until_s: float) -> None:
        """From now on be ``value``, until then."""
        self.value, self.until_s = value, until_s

    def release(self) -> None:
        """Be free from now on."""
        self.until_s = -math.inf

    def at(self, now_s: float) -> float:
        """The number that holds at a moment since it was last set."""
        return self.value if now_s < self.until_s else self.free

    def pieces(self, start_s: float, end_s: float) -> Iterator[tuple[float, float, float]]:
        """What held between two moments since it was last set: (from, to, value), in order."""
        change = min(max(self.until_s, start_s), end_s)
        if change > start_s:
            yield start_s, change, self.value
        if end_s > change:
            yield change, end_s, self.free


class Duty:
    """A device whose speed is set from outside: 1 at the top clock, less at a slower one, 0 when it is off.

    A job of w seconds at the top clock begins when the device is on, and ends when the speed has added up to w. Emulated, the
    computation itself takes what it takes, and the rest is waited for; so a job is stopped and resumed by the slot. With a real
    clock (``emulated=False``) the hardware is slow by itself, and a job that has begun is not stopped.

    Parameters
    ----------
    emulated : bool
    now : callable
        A clock that never goes back, seconds.

    Attributes
    ----------
    last_s : float
        Seconds at the top clock that the job before was served; 0 before there was one.
    """

    def __init__(self, emulated: bool = True, now: Now = time.monotonic) -> None:
        self.emulated = emulated
        self._now, self._speed = now, Knob()
        self._stir = threading.Condition()
        self._since = now()
        self._working = False
        self._served_s = self._busy_s = self._free_s = self.last_s = 0.0

    def set(self, speed: float, lease_s: float) -> None:
        """From now on have this speed, for so long unless it is set again."""
        with self._stir:
            now = self._advance()
            self._speed.set(speed, now + lease_s)
            self._stir.notify_all()

    def release(self) -> None:
        """Be at the top clock from now on."""
        with self._stir:
            self._advance()
            self._speed.release()
            self._stir.notify_all()

    def begin(self) -> None:
        """Wait until the device is on, and begin a job."""
        with self._stir:
            while self._speed.at(now := self._advance()) <= 0:
                self._stir.wait(self._speed.until_s - now)
            self._working, self._served_s = True, 0.0

    def finish(self, work_s: float) -> None:
        """End the job: emulated, when the speed has added up to ``work_s`` since it began."""
        with self._stir:
            now = self._advance()
            while self.emulated and (left := work_s - self._served_s) > 1e-9:
                speed, lease = self._speed.at(now), self._speed.until_s - now
                wait = left / speed if speed > 0 else _LONG_S
                self._stir.wait(min(wait, lease if lease > 0 else _LONG_S, _LONG_S))
                now = self._advance()
            self._working, self.last_s = False, self._served_s

    def read(self) -> tuple[float, float, float]:
        """Seconds at the top clock that the present job has been served (0 without one); seconds busy since the beginning, and those of them
        in which nobody held the knob.
        """
        with self._stir:
            self._advance()
            return self._served_s if self._working else 0.0, self._busy_s, self._free_s

    def _advance(self) -> float:
        """Account for what has passed; returns now."""
        now = self._now()
        if self._working:
            for start, end, speed in self._speed.pieces(self._since, now):
                self._served_s += speed * (end - start)
                busy_s = end - start if speed > 0 or not self.emulated else 0.0
                self._busy_s += busy_s
                self._free_s += busy_s if start >= self._speed.until_s else 0.0
        self._since = now
        return now
