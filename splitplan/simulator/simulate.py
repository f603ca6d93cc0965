"""A policy over a scenario: `simulate` runs it, `Result` says what came of it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.data.scenario import Scenario
from splitplan.data.slot import SlotState
from splitplan.errors import raise_all
from splitplan.formulations.solution import Solution
from splitplan.formulations.stationary import RESOURCES, StationaryBound
from splitplan.policies.slot import SlotPolicy
from splitplan.simulator import kernel, rule
from splitplan.simulator.numbers import first_state, loose, rule_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

CHUNK = 100_000
"""Slots between two calls of ``progress``."""

MOST_TRACED = 1_000_000
"""Slots up to which a trace is kept unless asked otherwise: 64 bytes each."""


@dataclass(frozen=True, eq=False)
class Result:
    """What came of a policy over a scenario.

    Parameters
    ----------
    policy : SlotPolicy
    scene : Scenario
    physical : bool
        Whether work went from device to radio to server, or entered all three queues at once.
    sums : dict of str to float
        Over all slots, see `splitplan.simulator.kernel.SUMS`.
    left : tuple of float
        Work left at the end: seconds of the device, bits, seconds of the server.
    arrive_s, latency_s : array, shape (frames,)
        Of each frame; NaN: refused; inf: not answered by the end. Without a tandem there are no latencies.
    trace : array, shape (slots, 8)
        See `splitplan.simulator.kernel.ROW`; no rows when it was not kept.
    bound : Solution or None
        Of the `StationaryBound` of the same control and scenario.
    """

    policy: SlotPolicy
    scene: Scenario
    physical: bool
    sums: dict[str, float]
    slots: int
    left: tuple[float, float, float]
    arrive_s: np.ndarray
    latency_s: np.ndarray
    trace: np.ndarray
    bound: Solution | None = None
    _stationary: StationaryBound | None = field(default=None, repr=False)

    # -- numbers -----------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Simulated time."""
        return self.slots * self.policy.control.slot_s

    @cached_property
    def answered(self) -> np.ndarray:
        """Latencies of the frames that were answered."""
        return np.asarray(self.latency_s[np.isfinite(self.latency_s)])

    def latency(self, quantile: float = 0.5) -> float:
        """A quantile of the answered frames' latency; NaN when there are none."""
        return float(np.quantile(self.answered, quantile)) if len(self.answered) else math.nan

    @property
    def mean_latency_s(self) -> float:
        """Of the answered frames."""
        return float(self.answered.mean()) if len(self.answered) else math.nan

    @property
    def power_w(self) -> float:
        """Mean power of the device and its radio."""
        return self.sums["energy_j"] / self.seconds

    @property
    def throughput_hz(self) -> float:
        """Frames answered a second; without a tandem, admitted."""
        return (len(self.answered) if self.physical else self.sums["admitted"]) / self.seconds

    @property
    def penalty(self) -> float:
        """What V weighs, a slot."""
        w = self.policy.control.weights
        return (
            w["energy"] * self.sums["energy_j"]
            + w["latency"] * self.sums["own_latency_s"]
            - w["throughput"] * self.sums["utility"]
        ) / self.slots

    @property
    def certificate(self) -> float | None:
        """How far the mean penalty is above what no policy can be below on this path, a slot; None without a bound."""
        if self.bound is None or self._stationary is None:
            return None
        return self._stationary.certificate(self.penalty, self.left, self.bound)

    # -- seeing ------------------------------------------------------------------------------------------

    def to_frame(self) -> pd.DataFrame:
        """Two columns, ``what`` and ``value``."""
        import pandas as pd

        n = self.slots
        rows: list[tuple[str, Any]] = [
            ("policy", self.policy.name),
            ("slots", n),
            ("power_w", self.power_w),
            ("frames_hz", self.throughput_hz),
            ("admitted", self.sums["admitted"]),
            ("refused", self.sums["refused"]),
            ("mean_latency_s", self.mean_latency_s),
            *((f"p{q}_latency_s", self.latency(q / 100)) for q in (50, 95, 99)),
            *((f"mean_{name}", self.sums[name] / n) for name in ("device_s", "uplink_bits", "server_s")),
            *((f"left_{name}", value) for name, value in zip(RESOURCES, self.left, strict=True)),
        ]
        if self.bound is not None:
            rows += [("bound", self.bound.bound), ("certificate", self.certificate)]
        return pd.DataFrame(rows, columns=["what", "value"])

    def frames_to_frame(self) -> pd.DataFrame:
        """One row a frame: ``arrive_s, latency_s``; NaN: refused; inf: not answered by the end."""
        import pandas as pd

        return pd.DataFrame({"arrive_s": self.arrive_s, "latency_s": self.latency_s})

    def slots_to_frame(self) -> pd.DataFrame:
        """One row a slot, as far as a trace was kept."""
        import pandas as pd

        found = pd.DataFrame(self.trace, columns=list(kernel.ROW))
        found.insert(0, "time_s", np.arange(len(found)) * self.policy.control.slot_s)
        return found

    def plot(self) -> Figure:
        """The run over time: channel, work left, choices, latencies; as far as a trace was kept."""
        from splitplan.plots.slots import plot_slots

        control = self.policy.control
        rates = self.scene.slotted(control.slot_s).rate_bps
        return plot_slots(
            self.slots_to_frame(),
            self.frames_to_frame(),
            rates_bps=rates,
            slot_s=control.slot_s,
            title=f"{self.policy.name}, V {control.V:g}",
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the slots (or, without a trace, the frames) as parquet."""
        frame = self.slots_to_frame() if len(self.trace) else self.frames_to_frame()
        frame.to_parquet(path)

    def __str__(self) -> str:
        lines = [
            f"{self.policy.name}, V {self.policy.control.V:g}: {self.slots} slots of {self.policy.control.slot_s:g} s, {self.scene.channel.name}",
            f"  power       {self.power_w:.6g} W",
            f"  frames      {self.throughput_hz:.4g}/s {'answered' if self.physical else 'admitted'}, {self.sums['refused']:.0f} refused",
        ]
        if self.physical:
            waiting = int(np.isposinf(self.latency_s).sum())
            lines.append(
                f"  latency     mean {self.mean_latency_s:.4g} s, p50 {self.latency():.4g}, p95 {self.latency(0.95):.4g}, "
                f"p99 {self.latency(0.99):.4g} ({waiting} not answered by the end)"
            )
        means = [self.sums[name] / self.slots for name in ("device_s", "uplink_bits", "server_s")]
        lines.append(
            f"  work left   on average {means[0]:.4g} s, {means[1]:.4g} bits, {means[2]:.4g} s; at the end {self.left[0]:.4g} s, {self.left[1]:.4g} bits, {self.left[2]:.4g} s"
        )
        if self.bound is not None and self.certificate is not None:
            lines.append(
                f"  certificate {self.certificate:.4g} above what no policy can be below ({self.bound.bound:.6g} {self.bound.unit}, work left at the end allowed for): "
                f"{self.certificate / abs(self.bound.bound or 1.0):.2%}"
            )
        return "\n".join(lines)


def simulate(
    policy: SlotPolicy,
    scene: Scenario,
    *,
    physical: bool = True,
    bound: bool = True,
    trace: bool | None = None,
    start: SlotState | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Run a policy over a scenario.

    Parameters
    ----------
    policy : SlotPolicy
    scene : Scenario
    physical : bool
        Work goes from device to radio to server, frame by frame, to the moment. False: the theory's queues, equations (2) of
        `SlotControl`; quicker, and what its theorems are about.
    bound : bool
        Whether to solve the `StationaryBound` too. It also says before the run when no policy can carry the load.
    trace : bool, optional
        Whether to keep every slot; up to a million slots unless given.
    start : SlotState, optional
        Where the theory's queues begin; empty unless given.
    progress : callable, optional
        Told slots done and all of them.

    Raises
    ------
    InfeasibleError
        No policy can carry the load; with ``bound=False`` the queues grow instead.
    DataError
        An argument is something else; or the channel ends before the scenario.
    """
    problems = []
    if not isinstance(policy, SlotPolicy):
        problems.append(f"policy is a {type(policy).__name__}; give a splitplan.SlotPolicy")
    if not isinstance(scene, Scenario):
        problems.append(f"scene is a {type(scene).__name__}; give a splitplan.Scenario")
    if start is not None and physical:
        problems.append("start is for the theory's queues: give physical=False with it")
    raise_all(problems, "simulate")
    control = policy.control
    slots = scene.slotted(control.slot_s)
    stationary = StationaryBound(control, scene, slots) if bound else None
    solution = stationary.solve() if stationary is not None else None
    frames, rates, arrive = slots.frames, slots.rate_bps, slots.arrive_s
    count = len(arrive) if physical else 0
    keep = trace if trace is not None else len(frames) <= MOST_TRACED
    rows = np.zeros((len(frames) if keep else 0, len(kernel.ROW)))
    c, numbers = control.choices, rule_of(policy)
    state, line, clock = loose(first_state(policy, start)), loose(np.zeros(4, np.int64)), loose(np.zeros(3))
    cut, work, done = loose(np.zeros(count, np.int64)), loose(np.zeros(count)), loose(np.zeros(count))
    latency, sums, times = loose(np.full(count, np.inf)), loose(np.zeros(len(kernel.SUMS))), loose(arrive)
    rooms = tuple(loose(np.zeros(n)) for n in (len(c.clock_hz), len(c.levels), len(c.levels), 3, 3))
    for first in range(0, len(frames), CHUNK):
        some = slice(first, first + CHUNK)
        kernel.run(
            numbers, state, loose(frames[some]), loose(rates[some]), physical, times, line, cut, work, done, clock, latency, sums, rows[some], rooms
        )  # fmt: skip
        if progress is not None:
            progress(min(first + CHUNK, len(frames)), len(frames))
    begun = np.zeros(3) if start is None else np.array([start.device_s, start.uplink_bits, start.server_s])
    left = np.array([state[rule.DEVICE], state[rule.UPLINK], state[rule.SERVER]]) - begun
    return Result(
        policy,
        scene,
        physical,
        dict(zip(kernel.SUMS, map(float, sums), strict=True)),
        len(frames),
        (float(left[0]), float(left[1]), float(left[2])),
        arrive,
        np.asarray(latency),
        rows,
        solution,
        stationary,
    )
