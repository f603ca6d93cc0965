"""What one slot of a controlled system is: its state when it begins, and what is decided for it. Plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from splitplan.data.plan import check_numbers
from splitplan.data.stored import Stored
from splitplan.errors import raise_all
from splitplan.models.graph import number_problem

ON = 1.0
"""Stands for the clock, in Hz, of a device whose clock is not ours to choose, while it computes."""


@dataclass(frozen=True)
class SlotState:
    """What is known when a slot begins.

    Parameters
    ----------
    device_s, uplink_bits, server_s : float
        Q_D, Q_N, Q_S: work left of the frames that were admitted, seconds of the device at its top clock, bits to send, seconds of the
        server. Where frames really go through one after the other, the last two are those of `splitplan.formulations.slot_next.queued`.
    frames : int
        Frames that arrive in this slot.
    rate_bps : float
        What the uplink can carry in this slot; 0 is a dead link.
    energy_debt_j, latency_debt_s, frame_debt : float
        Virtual queues of the limits on mean power, mean latency, mean throughput.
    device_wait_s, uplink_wait_bits : float
        Virtual queues of ε-persistence: they grow while work is left, and are served with it.
    least_bit_j : float or None
        The least joules that a bit took in the slots before; None: no bit could go in any.
    temperature_c : float or None
        None: the ambient temperature.
    last_cut, last_clock_hz : int, float or None
        What the slot before chose, where changes cost something; 0 Hz is off.
    """

    device_s: float = 0.0
    uplink_bits: float = 0.0
    server_s: float = 0.0
    frames: int = 0
    rate_bps: float = 0.0
    energy_debt_j: float = 0.0
    latency_debt_s: float = 0.0
    frame_debt: float = 0.0
    device_wait_s: float = 0.0
    uplink_wait_bits: float = 0.0
    least_bit_j: float | None = None
    temperature_c: float | None = None
    last_cut: int | None = None
    last_clock_hz: float | None = None

    def __post_init__(self) -> None:
        free = ("least_bit_j", "temperature_c", "last_cut", "last_clock_hz")
        problems = [
            p for f in fields(self) if f.name not in free if (p := number_problem(f.name, getattr(self, f.name)))
        ]
        if not problems and self.frames != int(self.frames):
            problems.append(f"frames is {self.frames!r}; give a whole number")
        if self.least_bit_j is not None and (p := number_problem("least_bit_j", self.least_bit_j)):
            problems.append(p)
        if self.temperature_c is not None and not math.isfinite(self.temperature_c):
            problems.append(f"temperature_c is {self.temperature_c}; give a finite number")
        raise_all(problems, "SlotState")


@dataclass(frozen=True)
class SlotPlan(Stored):
    """What is done in a slot.

    Parameters
    ----------
    cut : int
        Number of the cut, in the problem's set, by which frames that arrive in this slot run.
    frames : int
        How many of them are admitted; the others are refused.
    clock_hz : float
        The device's clock; 0: it computes nothing; `ON`: it computes at a clock that is not ours to choose.
    rate_bps : float
        Rate at which it sends; 0: it sends nothing.
    predicted : dict of str to float
        What the problem that made it says of it (``energy_j``, ``device_busy_s``, …).
    """

    cut: int
    frames: int
    clock_hz: float
    rate_bps: float
    predicted: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = [p for n in ("cut", "frames", "clock_hz", "rate_bps") if (p := number_problem(n, getattr(self, n)))]
        problems += check_numbers(None, self.predicted)
        problems += [
            f"{n} is {getattr(self, n)!r}; give a whole number"
            for n in ("cut", "frames")
            if not problems and getattr(self, n) != int(getattr(self, n))
        ]
        raise_all(problems, "SlotPlan")

    def __str__(self) -> str:
        clock = {0.0: "off", ON: "on"}.get(self.clock_hz, f"{self.clock_hz / 1e6:.6g} MHz")
        rate = f"{self.rate_bps / 1e6:.4g} Mbit/s" if self.rate_bps else "silent"
        return f"cut {self.cut}, {self.frames} frames admitted, clock {clock}, uplink {rate}"


@dataclass(frozen=True)
class Thermal:
    """A first-order model of a device's temperature: C dT/dt = P − (T − T_ambient) / R.

    Parameters
    ----------
    resistance_k_per_w : float
        R: kelvin above ambient for each watt, in the long run.
    capacity_j_per_k : float
        C; R·C is the time constant in seconds.
    ambient_c : float
    limit_c : float
        The temperature that no slot may end above.
    """

    resistance_k_per_w: float
    capacity_j_per_k: float
    ambient_c: float
    limit_c: float

    def __post_init__(self) -> None:
        problems = [
            p
            for n in ("resistance_k_per_w", "capacity_j_per_k")
            if (p := number_problem(n, getattr(self, n), positive=True))
        ]
        problems += [
            f"{name} is {getattr(self, name)}; give a finite number"
            for name in ("ambient_c", "limit_c")
            if not math.isfinite(getattr(self, name))
        ]
        if not problems and self.limit_c <= self.ambient_c:
            problems.append(
                f"limit_c = {self.limit_c:g} is not above ambient_c = {self.ambient_c:g}: nothing could ever run"
            )
        raise_all(problems, "Thermal")

    def after(self, temperature_c: float, power_w: float, seconds: float) -> float:
        """The temperature after constant power, by the exact solution of the equation."""
        final = self.ambient_c + self.resistance_k_per_w * power_w
        return final + (temperature_c - final) * math.exp(-seconds / (self.resistance_k_per_w * self.capacity_j_per_k))

    def most_power_w(self, temperature_c: float, seconds: float) -> float:
        """The constant power after which the limit is just met; may be negative when it is too hot already."""
        kept = math.exp(-seconds / (self.resistance_k_per_w * self.capacity_j_per_k))
        final = (self.limit_c - temperature_c * kept) / (1.0 - kept)
        return (final - self.ambient_c) / self.resistance_k_per_w
