"""A device: its clocks, the power it draws at each, how its speed follows the clock, its memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from splitplan.errors import DataError, did_you_mean, raise_all
from splitplan.models.graph import number_problem

THIS = "this-cpu"
"""Catalogue name of the machine that runs splitplan; only such devices can be measured."""
GIVEN = "; given by the user: "
"""In a source: whose the numbers named after it are."""


@dataclass(frozen=True)
class Device:
    """What is known of one device.

    Parameters
    ----------
    name : str
    kind : {"cpu", "cuda"}
        Which torch device runs the layers there.
    local : bool
        Whether it is (an emulation of) the machine that runs splitplan, so that it can be measured.
    slowdown : float
        Duty-cycle factor of an emulated device: it computes for t and rests for (slowdown − 1)·t.
    threads : int
        Intra-op threads of a worker on it.
    clock_hz : tuple of float
        Selectable clocks, ascending; empty when the clock is not ours to choose.
    active_power_w : tuple of float
        Measured power of the device while it computes, at each clock (one value when there are no clocks).
    idle_power_w : float or None
        Power while it waits.
    latency_a, latency_b : float
        Seconds of a reference job at clock f are ``latency_a / f + latency_b``, f in Hz; only the ratio of two clocks is used.
    memory_bytes : float or None
    peak_flops, bandwidth_bytes_s, efficiency, overhead_s : float or None
        The analytic model of a device that cannot be measured: a layer takes
        ``overhead_s + max(work / (efficiency · peak_flops), bytes / bandwidth_bytes_s)`` at the top clock.
    source : str
        Where the numbers come from.
    """

    name: str
    kind: str = "cpu"
    local: bool = False
    slowdown: float = 1.0
    threads: int = 1
    clock_hz: tuple[float, ...] = ()
    active_power_w: tuple[float, ...] = ()
    idle_power_w: float | None = None
    latency_a: float = 1.0
    latency_b: float = 0.0
    memory_bytes: float | None = None
    peak_flops: float | None = None
    bandwidth_bytes_s: float | None = None
    efficiency: float | None = None
    overhead_s: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("clock_hz", "active_power_w"):
            value = getattr(self, name)
            value = (value,) if isinstance(value, (int, float)) else value
            object.__setattr__(self, name, tuple(value))
        raise_all(self._problems(), f"device {self.name!r}")

    def _problems(self) -> list[str]:
        found: list[str | None] = []
        if self.kind not in ("cpu", "cuda"):
            found.append(f"kind is {self.kind!r}; give 'cpu' or 'cuda'")
        if isinstance(self.threads, bool) or not isinstance(self.threads, int) or self.threads < 1:
            found.append(f"threads is {self.threads!r}; give a whole number from 1")
        bad = number_problem("slowdown", self.slowdown, positive=True)
        if bad or self.slowdown < 1:
            found.append(
                bad or f"slowdown is {self.slowdown}; an emulated device cannot be faster than its host: give 1 or more"
            )
        for name in ("idle_power_w", "memory_bytes", "peak_flops", "bandwidth_bytes_s", "efficiency"):
            value = getattr(self, name)
            if value is not None:
                found.append(number_problem(name, value, positive=name != "idle_power_w"))
        found += [number_problem(n, getattr(self, n)) for n in ("latency_a", "latency_b", "overhead_s")]
        found += [number_problem(f"clock_hz[{i}]", f, positive=True) for i, f in enumerate(self.clock_hz)]
        found += [number_problem(f"active_power_w[{i}]", p) for i, p in enumerate(self.active_power_w)]
        problems = [p for p in found if p]
        if problems:
            return problems
        if any(b <= a for a, b in zip(self.clock_hz, self.clock_hz[1:], strict=False)):
            problems.append("clock_hz is not ascending or repeats a clock; sort it and name each clock once")
        if self.active_power_w and len(self.active_power_w) != max(1, len(self.clock_hz)):
            problems.append(
                f"{len(self.active_power_w)} values of active_power_w for {len(self.clock_hz)} clocks; give one for each"
            )
        if self.latency_a + self.latency_b == 0:
            problems.append("latency_a and latency_b are both 0; give at least one")
        return problems

    @property
    def top_clock_hz(self) -> float | None:
        """The highest clock, or None when the clock is not ours to choose."""
        return self.clock_hz[-1] if self.clock_hz else None

    def check_clock(self, clock_hz: float | None) -> float | None:
        """The clock meant by ``clock_hz`` (None: the top one); a clock that the device has not is an error."""
        if clock_hz is None:
            return self.top_clock_hz
        if clock_hz not in self.clock_hz:
            table = ", ".join(f"{f / 1e6:g} MHz" for f in self.clock_hz) or "none: its clock cannot be chosen"
            raise DataError(f"has no clock of {clock_hz:g} Hz; it has {table}", f"device {self.name!r}")
        return clock_hz

    def time_scale(self, clock_hz: float | None) -> float:
        """Seconds at this clock over seconds at the top clock: (a/f + b) / (a/f_max + b)."""
        clock = self.check_clock(clock_hz)
        top = self.top_clock_hz
        if clock is None or top is None:
            return 1.0
        return (self.latency_a / clock + self.latency_b) / (self.latency_a / top + self.latency_b)

    def power_w(self, clock_hz: float | None) -> float:
        """Measured power while computing at this clock (None: the top one)."""
        clock = self.check_clock(clock_hz)
        if not self.active_power_w:
            raise self._no_power()
        return float(self.active_power_w[-1 if clock is None else self.clock_hz.index(clock)])

    @property
    def idle_w(self) -> float:
        """Power while waiting; missing is an error, never a silent zero."""
        if self.idle_power_w is None:
            raise self._no_power()
        return self.idle_power_w

    def _no_power(self) -> DataError:
        """All that is missing for energy, in one error."""
        clocks = len(self.clock_hz)
        active = "[…]" if clocks else "…"
        missing = [] if self.active_power_w else [("active_power_w", active)]
        missing += [] if self.idle_power_w is not None else [("idle_power_w", "…")]
        what = "watts" + (
            f", active_power_w a list of one for each of the {clocks} clocks"
            if clocks and not self.active_power_w
            else ""
        )
        return DataError(
            f"has {' and '.join(f'no {n}' for n, _ in missing)}, so energy cannot be modelled; "
            f"give {'them' if len(missing) > 1 else 'it'} ({what}): device.but({', '.join(f'{n}={v}' for n, v in missing)}), "
            f"or in the system's TOML under [places.device]: {'; '.join(f'{n} = {v}' for n, v in missing)}",
            f"device {self.name!r}",
        )

    def modelled_seconds(self, work_flops: np.ndarray, moved_bytes: np.ndarray) -> np.ndarray:
        """Analytic seconds of layers at the top clock, shape (layers,): a roofline with a stated efficiency."""
        missing = [n for n in ("peak_flops", "bandwidth_bytes_s", "efficiency") if getattr(self, n) is None]
        if missing:
            raise DataError(
                f"cannot be measured here and has no {', '.join(missing)} to model it by; "
                f"give them: splitplan.device({self.name!r}, {', '.join(f'{n}=…' for n in missing)})",
                f"device {self.name!r}",
            )
        assert self.peak_flops and self.bandwidth_bytes_s and self.efficiency  # told apart above
        compute = work_flops / (self.efficiency * self.peak_flops)
        return self.slowdown * (self.overhead_s + np.maximum(compute, moved_bytes / self.bandwidth_bytes_s))

    def but(self, /, **changes: Any) -> Device:
        """A copy with some fields changed, and its source saying so; an unknown field is an error that lists the known ones."""
        check_fields(type(self), changes, f"device {self.name!r}")
        return replace(self, **{"source": source_with(self, changes), **changes})

    @property
    def emulated(self) -> str:
        """What of it is emulation, in words; empty when nothing is."""
        return f"compute slowed {self.slowdown:g}x by a duty cycle" if self.slowdown > 1 else ""


def check_fields(cls: type, given: dict[str, Any], where: str, also: tuple[str, ...] = ()) -> None:
    """Refuse field names that neither the dataclass ``cls`` nor ``also`` has."""
    raise_all(unknown_fields([*(f.name for f in fields(cls)), *also], given), where)


def unknown_fields(known: list[str], given: Iterable[str]) -> list[str]:
    """A sentence for each name that is not known, with the closest of those that are."""
    return [f"unknown field {k!r}; known: {', '.join(known)}{did_you_mean(k, known)}" for k in given if k not in known]


def source_with(old: Any, changes: dict[str, Any]) -> str:
    """The source of a device or link some of whose numbers were replaced: what it was, and which are the user's.

    How it is run (name, kind, local, slowdown, threads) is no number that has a source.
    """
    own = {"name", "kind", "local", "slowdown", "threads", "source"}
    source: str = old.source
    before, mark, named = source.partition(GIVEN)
    replaced = named.split(", ") if mark else []
    replaced += [k for k, v in changes.items() if k not in own and k not in replaced and v != getattr(old, k)]
    return f"{before}{GIVEN}{', '.join(replaced)}" if source and replaced else source
