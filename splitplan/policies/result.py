"""What came of a policy over a scenario, simulated or live: one class for the simulator's runs and the executor's."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.data.names import clock_name, level_name, shares
from splitplan.data.scenario import Scenario
from splitplan.formulations.plausible import weight_doubts
from splitplan.formulations.solution import Solution
from splitplan.formulations.stationary import RESOURCES, StationaryBound
from splitplan.models.files import save_table
from splitplan.policies.slot import DecidesSlots
from splitplan.policies.stages import Stage, stage_lines
from splitplan.policies.told import OF_PROFILE, Limit, called, limits_of, why_frames_refused

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ROW = ("device_s", "uplink_bits", "server_s", "energy_j", "cut", "clock", "level", "admitted")
"""Of a trace, a slot: the work that was left when it began, and what was done in it."""

MANY_LEFT = 0.05
"""Share of frames that are not answered by the end above which a run says so aloud."""

FEW_LEFT = 10
"""As many frames may be on their way when any run ends."""

SUMS = (
    "energy_j",
    "busy_s",
    "sending_s",
    "admitted",
    "refused",
    "own_latency_s",
    "utility",
    "device_s",
    "uplink_bits",
    "server_s",
)
"""Added up over the slots."""


def undone_of(admitted: float, refused: float, unanswered: float, may_refuse: bool) -> tuple[int, int]:
    """Frames that were not answered, and those that were to be: all that were admitted, and those refused where all must be admitted."""
    lost = 0 if may_refuse else round(refused)
    return round(unanswered) + lost, round(admitted) + lost


def carried(undone: int, due: int) -> bool:
    """Whether so few frames were not answered that the others' numbers are of the whole load; with any load, some were."""
    return undone <= max(FEW_LEFT, MANY_LEFT * due) and not (due and undone == due)


def not_carried(undone: int, due: int, refused: int = 0) -> str:
    """As people read it; ``refused`` of them had to be served, and were not admitted."""
    told = f", {refused} of them refused" if refused else ""
    return f"does not carry the load: {undone} of {due} frames were not answered{told}"


@dataclass(frozen=True, eq=False)
class Result:
    """What came of a policy over a scenario: `splitplan.simulate` makes it, and so does a live run.

    Parameters
    ----------
    policy : DecidesSlots
    scene : Scenario
    physical : bool
        Whether work went from device to radio to server, or entered all three queues at once.
    sums : dict of str to float
        Over all slots, see `SUMS`.
    left : tuple of float
        Work left at the end: seconds of the device, bits, seconds of the server.
    arrive_s, latency_s : array, shape (frames,)
        Of each frame; NaN: refused; inf: not answered by the end. Without a tandem there are no latencies.
    trace : array, shape (slots, 8)
        See `ROW`; no rows when it was not kept.
    bound : Solution or None
        Of the `StationaryBound` of the same control and scenario.
    stationary : StationaryBound or None
        That problem itself.
    live : bool
        Whether the frames ran through the real model; its energy is the control's equation (3) all the same.
    notes : tuple of str
        What a reader should know of how it was decided; printed.
    stages : tuple of Stage
        Of a live run: what the profile promised of each cut that was used, beside what it took.
    """

    policy: DecidesSlots
    scene: Scenario
    physical: bool
    sums: dict[str, float]
    slots: int
    left: tuple[float, float, float]
    arrive_s: np.ndarray
    latency_s: np.ndarray
    trace: np.ndarray
    bound: Solution | None = None
    stationary: StationaryBound | None = field(default=None, repr=False)
    live: bool = False
    notes: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = field(default=(), repr=False)

    @property
    def kind(self) -> str:
        """``"live"`` or ``"simulated"``."""
        return "live" if self.live else "simulated"

    # -- numbers -----------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Time that the slots are of."""
        return self.slots * self.policy.control.slot_s

    @cached_property
    def answered(self) -> np.ndarray:
        """Latencies of the frames that were answered."""
        return np.asarray(self.latency_s[np.isfinite(self.latency_s)])

    def latency(self, quantile: float = 0.5) -> float:
        """A quantile of the answered frames' latency; NaN when there are none."""
        return float(np.quantile(self.answered, quantile)) if len(self.answered) else math.nan

    @property
    def unanswered(self) -> int:
        """Frames that were admitted and not answered by the end."""
        return int(np.isposinf(self.latency_s).sum())

    @property
    def undone(self) -> tuple[int, int]:
        """Frames that were not answered by the end, and those that were to be: refused ones count, unless the control may choose to refuse."""
        return undone_of(self.sums["admitted"], self.sums["refused"], self.unanswered, self.policy.control.admits)

    @property
    def carried(self) -> bool:
        """Whether nearly all frames were answered; power and latencies of a run that left many are of less work than was asked."""
        return carried(*self.undone)

    @property
    def late(self) -> float | None:
        """Share of the admitted frames whose latency, waiting included, is above the deadline; None without a deadline or latencies.

        The deadline itself is of a frame's own seconds, (4) and (9) of `SlotControl`: no slot knows how long a frame will wait.
        """
        return self.later_than(self.policy.control.deadline_s)

    def later_than(self, deadline_s: float | None) -> float | None:
        """`late` by a deadline that need not be the control's own."""
        admitted = self.latency_s[~np.isnan(self.latency_s)]
        if deadline_s is None or not self.physical or not len(admitted):
            return None
        return float((admitted > deadline_s).mean())

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
        if self.bound is None or self.stationary is None:
            return None
        means = self.sums["admitted"] / self.slots, self.sums["energy_j"] / self.slots
        return self.stationary.certificate(self.penalty, self.left, self.bound, *means)

    @property
    def own_latency_s(self) -> float:
        """Mean of (4) of `SlotControl` of the admitted frames, waiting left out; NaN where it plays no part, or none was admitted."""
        admitted = self.sums["admitted"]
        return self.sums["own_latency_s"] / admitted if admitted and self.policy.control.timed else math.nan

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits on means that the control has, the run's means, and whether they held."""
        return limits_of(
            self.policy,
            power_w=self.power_w,
            own_latency_s=self.own_latency_s,
            admitted_hz=self.sums["admitted"] / self.seconds,
            arriving_hz=len(self.arrive_s) / self.seconds,
            seconds=self.seconds,
            joule=float(self.bound.duals["power"]) if self.bound is not None else 0.0,
        )

    @property
    def capacity_hz(self) -> float | None:
        """The most frames a second that any policy carries over this channel; None without a bound. What binds: ``bound.plan.binding``."""
        return None if self.bound is None else self.bound.plan.capacity_hz

    @property
    def doubts(self) -> list[str]:
        """What a reader should know of the numbers themselves; printed as notes."""
        grown = self.physical and self.unanswered > max(FEW_LEFT, MANY_LEFT * self.sums["admitted"])
        found = weight_doubts(self.policy.control, self.seconds, grown)
        if grown:
            found.append(
                f"{self.unanswered / self.sums['admitted']:.0%} of the admitted frames were not answered by the end: either the run is too short for this V, "
                "or the queues grow without end (the bound knows of no deadline, cap, heat or fixed knob). Latencies are of answered frames only"
            )
        if (told := self._refusals()) is not None:
            found.append(told)
        if self.live and self.certificate is not None:
            below = (
                "the certificate is negative: what was done took less than the profile says; "
                if self.certificate < 0
                else ""
            )
            found.append(below + OF_PROFILE)
        return found

    def _refusals(self) -> str | None:
        """What to know of frames that were refused though all were to be served, or of all of them; None where few were."""
        refused, policy = round(self.sums["refused"]), self.policy
        arrived = refused + round(self.sums["admitted"])
        many = refused > MANY_LEFT * arrived and not policy.control.admits
        none = refused == arrived and policy.control.deadline_s is not None
        if not refused or not (many or none):
            return None
        which = "EVERY frame was" if refused == arrived else f"{refused} of {arrived} frames were"
        return f"{which} refused: {why_frames_refused(policy, self.scene.channel.mean_bps)}"

    @cached_property
    def chosen(self) -> dict[str, str]:
        """How often which cut, clock and rate were chosen, by name; of a trace. Frames by cut, slots by clock and by rate."""
        if not len(self.trace):
            return {}
        c, rows = self.policy.control.choices, dict(zip(ROW, self.trace.T, strict=True))
        assert self.policy.control.cuts is not None
        return {
            "frames": shares(
                self.policy.control.cuts.names,
                np.bincount(rows["cut"].astype(int), rows["admitted"], len(c.works)).tolist(),
            ),
            "device": shares(
                map(clock_name, c.clock_hz.tolist()),
                np.bincount(rows["clock"].astype(int), None, len(c.clock_hz)).tolist(),
            ),
            "uplink": shares(
                map(level_name, c.levels.tolist()), np.bincount(rows["level"].astype(int), None, len(c.levels)).tolist()
            ),
        }

    # -- seeing ------------------------------------------------------------------------------------------

    def to_frame(self) -> pd.DataFrame:
        """Two columns, ``what`` and ``value``."""
        import pandas as pd

        n = self.slots
        rows: list[tuple[str, Any]] = [
            ("policy", self.policy.name),
            ("run", self.kind),
            ("slots", n),
            ("power_w", self.power_w),
            ("frames_hz", self.throughput_hz),
            ("admitted", self.sums["admitted"]),
            ("refused", self.sums["refused"]),
            ("unanswered", self.unanswered),
            *((("late_share", self.late),) if self.late is not None else ()),
            *(
                row
                for x in self.limits
                for row in ((x.name, x.limit), (f"{x.name}_mean", x.mean), (f"{x.name}_held", x.held))
            ),
            ("mean_latency_s", self.mean_latency_s),
            *((f"p{q}_latency_s", self.latency(q / 100)) for q in (50, 95, 99)),
            *((f"mean_{name}", self.sums[name] / n) for name in ("device_s", "uplink_bits", "server_s")),
            *((f"left_{name}", value) for name, value in zip(RESOURCES, self.left, strict=True)),
        ]
        if self.bound is not None:
            rows += [("bound", self.bound.bound), ("certificate", self.certificate), ("capacity_hz", self.capacity_hz)]
        return pd.DataFrame(rows, columns=["what", "value"])

    def frames_to_frame(self) -> pd.DataFrame:
        """One row a frame: ``arrive_s, latency_s``; NaN: refused; inf: not answered by the end. No rows where there is no tandem."""
        import pandas as pd

        return pd.DataFrame({"arrive_s": self.arrive_s[: len(self.latency_s)], "latency_s": self.latency_s})

    def slots_to_frame(self) -> pd.DataFrame:
        """One row a slot, as far as a trace was kept: `ROW`, and ``time_s, frames, channel_bps, clock_hz, rate_bps, rate_share, cut_name``.

        ``cut``, ``clock``, ``level`` are numbers into the control's choices (clock 0 is off, level 0 silent), ``cut_name``, ``clock_hz``,
        ``rate_bps`` and ``rate_share`` (of what the uplink can carry) what they stand for; ``frames`` those that arrived.
        """
        import pandas as pd

        found, control = pd.DataFrame(self.trace, columns=list(ROW)), self.policy.control
        found = found.astype(dict.fromkeys(("cut", "clock", "level", "admitted"), int))
        slots, n = self.scene.slotted(control.slot_s), len(found)
        found.insert(0, "time_s", np.arange(n) * control.slot_s)
        found["frames"], found["channel_bps"] = slots.frames[:n], slots.rate_bps[:n]
        found["clock_hz"] = control.choices.clock_hz[found["clock"]]
        found["rate_share"] = control.choices.levels[found["level"]]
        found["rate_bps"] = found["rate_share"] * found["channel_bps"]
        assert control.cuts is not None
        found["cut_name"] = pd.Categorical.from_codes(found["cut"].to_numpy(), pd.Index(control.cuts.names))
        return found

    def stages_to_frame(self) -> pd.DataFrame:
        """One row a cut that was used and stage, of a live run: ``cut, name, stage, profiled_s, measured_s, p95_s, frames, ratio``."""
        import pandas as pd

        columns = [*(f.name for f in fields(Stage)), "ratio"]
        return pd.DataFrame([[getattr(s, name) for name in columns] for s in self.stages], columns=columns)

    def plot(self) -> Figure:
        """The run over time: channel, work left, choices, latencies; as far as a trace was kept."""
        from splitplan.plots.slots import plot_slots

        control = self.policy.control
        return plot_slots(
            self.slots_to_frame(),
            self.frames_to_frame(),
            slot_s=control.slot_s,
            title=called(self.policy),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the slots (or, without a trace, the frames) as ``.parquet`` or ``.csv``, whole or not at all; another suffix is an error."""
        save_table(self.slots_to_frame() if len(self.trace) else self.frames_to_frame(), path)

    def _certified(self, certificate: float, bound: Solution) -> str:
        """The certificate as people read it, with what it allows for."""
        control = self.policy.control
        watts = f" ({certificate / control.slot_s:.4g} W)" if bound.unit == "J a slot" else ""
        allowed = ["work left at the end"]
        broken = {x.name for x in self.limits if not x.held}
        allowed += (
            ["frames refused"] if "throughput_min_hz" in broken or (self.sums["refused"] and not control.admits) else []
        )
        allowed += ["power beyond the budget"] if "power_budget_w" in broken else []
        lost = 0 if control.admits else round(self.sums["refused"])
        work = f" that admits as few frames ({lost} that were to be served were refused)" if lost else ""
        less = "" if self.carried else "; it is of the work that was done, and the load is not carried"
        return (
            f"{certificate:.4g} {bound.unit}{watts} above what no policy can be below{work} ({bound.bound:.6g}; {', '.join(allowed)} allowed for): "
            f"{certificate / abs(bound.bound or 1.0):.2%}{less}"
        )

    def __str__(self) -> str:
        lines = [
            f"{called(self.policy)}: {self.slots} slots of {self.policy.control.slot_s:g} s, {self.scene.channel.name}, {self.kind}",
            f"  power       {self.power_w:.6g} W",
            f"  frames      {self.throughput_hz:.4g}/s {'answered' if self.physical else 'admitted'}, {self.sums['refused']:.0f} refused",
        ]
        if self.physical:
            lines.append(
                f"  latency     mean {self.mean_latency_s:.4g} s, p50 {self.latency():.4g}, p95 {self.latency(0.95):.4g}, "
                f"p99 {self.latency(0.99):.4g} ({self.unanswered} not answered by the end)"
            )
            if self.late is not None:
                lines.append(
                    f"  late        {self.late:.2%} of the admitted frames took longer than deadline_s = {self.policy.control.deadline_s:g}, waiting "
                    "included; the deadline is of a frame's own seconds"
                )
        means = [self.sums[name] / self.slots for name in ("device_s", "uplink_bits", "server_s")]
        lines.append(
            f"  work left   on average {means[0]:.4g} s, {means[1]:.4g} bits, {means[2]:.4g} s; at the end {self.left[0]:.4g} s, {self.left[1]:.4g} bits, {self.left[2]:.4g} s"
        )
        lines += [f"  limit       {limit}" for limit in self.limits]
        if self.bound is not None and self.certificate is not None:
            lines.append(f"  certificate {self._certified(self.certificate, self.bound)}")
        if self.capacity_hz is not None:
            lines.append(
                f"  load        {len(self.arrive_s) / self.seconds:.4g} frames/s arrive, any policy carries at most {self.capacity_hz:.4g}"
            )
        if self.chosen:
            lines.append("  chosen      " + "; ".join(f"{what}: {text}" for what, text in self.chosen.items()))
        lines += [f"  stages      {line}" for line in stage_lines(self.stages)]
        return "\n".join([*lines, *(f"  note        {note}" for note in (*self.doubts, *self.notes))])
