"""A device and its uplink as a controller elsewhere sees them: both knobs at once, and how far the work is. Knows no torch."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from typing import Any

from splitplan.errors import ExecutorError
from splitplan.executor.governor import Governor
from splitplan.executor.knobs import Duty
from splitplan.executor.meter import Meter
from splitplan.executor.pacer import PacedSender

CLOCKS = ("emulated", "governor", "free")
"""How a device gets a clock: by a duty cycle, by a governor of the hardware, or not: then it is only on or off."""


class Governed:
    """The two knobs of a session, and its progress.

    Parameters
    ----------
    clock : {"emulated", "governor", "free"}
    uplink : PacedSender
    governor : Governor or None
        The hardware's; needed for ``"governor"``.
    meter : Meter or None
    """

    def __init__(self, clock: str, uplink: PacedSender, governor: Governor | None, meter: Meter | None) -> None:
        if clock == "governor" and governor is None:
            raise ExecutorError(
                "this worker has no governor, so the clock cannot be set; start it with --governor devfreq, cpufreq or nvml:0"
            )
        self.duty, self._uplink, self._meter = Duty(emulated=clock == "emulated"), uplink, meter
        self._governor = governor if clock == "governor" else None
        self._clock_hz, self._until_s = 0.0, math.inf
        self._setting = threading.Lock()
        self._received, self._alone_s = -1, 0.0
        self._here: list[int] = []
        self._list = threading.Lock()

    def take(self, frame_id: int, head: bool) -> None:
        """A frame has come; with a head it waits for the device."""
        with self._list:
            self._received = max(self._received, frame_id)
            if head:
                self._here.append(frame_id)

    def end(self, frame_id: int) -> None:
        """The device is through with a frame, and has handed it on."""
        with self._list:
            if frame_id in self._here:
                self._here.remove(frame_id)

    def alone(self, seconds: float) -> None:
        """The device has computed for so long what a server should have, whatever its knob says."""
        self._alone_s += seconds

    def set(self, body: Mapping[str, float]) -> None:
        """Turn both knobs, see the message ``knobs``."""
        if self._governor is not None:
            with self._setting:
                if body["clock_hz"] > 0 and body["clock_hz"] != self._clock_hz:
                    self._clock_hz = 0.0  # if it fails, the hardware's own clock is back
                    self._governor.set(body["clock_hz"])
                    self._clock_hz = body["clock_hz"]
                self._until_s = time.monotonic() + body["lease_s"]
            self.tend()
        self.duty.set(body["speed"], body["lease_s"])
        self._uplink.set(body["share"] if self._uplink.shaped else body["rate_bps"], body["lease_s"])

    def tend(self) -> None:
        """Put the hardware's own clock back when the lease is over; to be called again and again."""
        with self._setting:
            if self._governor is not None and self._clock_hz > 0 and time.monotonic() >= self._until_s:
                self._governor.restore()
                self._clock_hz = 0.0

    def progress(self) -> dict[str, Any]:
        """The message ``progress``."""
        served_s, busy_s, free_busy_s = self.duty.read()
        with (
            self._list
        ):  # before the uplink is asked: what is handed on meanwhile is then in both lists, and in none never
            received, here = self._received, list(self._here)
        uplink, left_bits, sending_s, free_sending_s = self._uplink.read()
        return {
            "received": received,
            "device": here,
            "served_s": served_s,
            "uplink": uplink,
            "left_bits": left_bits,
            "busy_s": busy_s,
            "free_busy_s": free_busy_s,
            "sending_s": sending_s,
            "free_sending_s": free_sending_s,
            "alone_s": self._alone_s,
            "joules": None if self._meter is None else self._meter.joules(),
        }

    def release(self) -> None:
        """Let go: the top clock, all of the link, and the hardware's own clock back."""
        self.duty.release()
        self._uplink.release()
        if self._governor is not None:
            with self._setting:
                self._clock_hz = 0.0
                self._governor.restore()
