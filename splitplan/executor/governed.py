"""A device and its uplink as a controller elsewhere sees them: both knobs at once, and how far the work is. Knows no torch."""

from __future__ import annotations

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
        self._clock_hz = 0.0
        self._done = -1

    def end(self, frame_id: int) -> None:
        """The device is through with a frame."""
        self._done = max(self._done, frame_id)

    def set(self, body: Mapping[str, float]) -> None:
        """Turn both knobs, see the message ``knobs``."""
        if self._governor is not None and body["clock_hz"] > 0 and body["clock_hz"] != self._clock_hz:
            self._clock_hz = 0.0  # if it fails, the hardware's own clock is back
            self._governor.set(body["clock_hz"])
            self._clock_hz = body["clock_hz"]
        self.duty.set(body["speed"], body["lease_s"])
        self._uplink.set(body["share"] if self._uplink.shaped else body["rate_bps"], body["lease_s"])

    def progress(self) -> dict[str, Any]:
        """The message ``progress``."""
        served_s, busy_s = self.duty.read()
        uplink_done, left_bits, sending_s = self._uplink.read()
        return {
            "device_done": self._done,
            "served_s": served_s,
            "uplink_done": uplink_done,
            "left_bits": left_bits,
            "busy_s": busy_s,
            "sending_s": sending_s,
            "joules": None if self._meter is None else self._meter.joules(),
        }

    def release(self) -> None:
        """Let go: the top clock, all of the link, and the hardware's own clock back."""
        self.duty.release()
        self._uplink.release()
        self._clock_hz = 0.0
        if self._governor is not None:
            self._governor.restore()
