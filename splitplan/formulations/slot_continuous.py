"""SlotContinuous: the slot of `SlotControl` with any clock and any rate. States the convex programs; solves nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from splitplan.data.slot import SlotPlan
from splitplan.errors import DataError, raise_all
from splitplan.formulations.base import TOLERANCE, Formulation
from splitplan.formulations.costs import sending_w
from splitplan.formulations.slot import SlotControl
from splitplan.formulations.slot_costs import SlotCosts

if TYPE_CHECKING:
    import cvxpy as cp

Regime = Literal["off", "busy", "finish"]
"""Of the device, and of the radio: off; on throughout the slot; on until nothing is left."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Power against speed: the largest non-decreasing convex function below the table, P̂(g) = max_i α_i + β_i g, β_i ≥ 0.

    Parameters
    ----------
    low, high : float
        Speeds of the slowest and the fastest clock.
    offset, slope : array, shape (pieces,)
        Watts, and watts for each unit of speed, ascending.
    breaks : array, shape (pieces + 1,)
        Speeds between which each piece is the largest.
    """

    low: float
    high: float
    offset: np.ndarray
    slope: np.ndarray
    breaks: np.ndarray

    @classmethod
    def below(cls, speed: np.ndarray, power_w: np.ndarray) -> Curve:
        """The curve below a table of clocks, shape (F,); off left out."""
        order = np.lexsort((power_w, speed))
        g, p = speed[order], power_w[order]
        least = int(np.argmin(p))  # slower clocks that draw more are never better: flat to the left of it
        corners: list[int] = []
        for i in range(least, len(g)):
            while len(corners) >= 2 and _turns_down(g, p, corners[-2], corners[-1], i):
                corners.pop()
            if not corners or g[i] > g[corners[-1]]:
                corners.append(i)
        x, y = g[corners], p[corners]
        slope = np.diff(y) / np.diff(x)
        offset = y[:-1] - slope * x[:-1]
        low, high = float(g[0]), float(g[-1])
        if x[0] > low or not len(slope):
            slope, offset = np.r_[0.0, slope], np.r_[y[0], offset]
            x = np.r_[low, x] if x[0] > low else np.r_[low, high]
        return cls(low, high, offset, slope, x)

    def at(self, speed: Any) -> Any:
        """Watts at a speed, or at each of an array of speeds."""
        found = np.max(self.offset + self.slope * np.asarray(speed, float)[..., None], axis=-1)
        return found if np.ndim(speed) else float(found)


def _turns_down(g: np.ndarray, p: np.ndarray, a: int, b: int, c: int) -> bool:
    """Whether b lies on or above the line from a to c."""
    return bool((p[b] - p[a]) * (g[c] - g[a]) >= (p[c] - p[a]) * (g[b] - g[a]))


@dataclass(frozen=True, eq=False)
class SlotContinuous(Formulation):
    r"""The slot of `SlotControl` where the device's speed g and the rate μ may be any number between their least and their most.

    The power is P̂(g), the largest convex function below the device's table, and the radio's own curve. For a given cut, number of
    frames, and regime of device and radio it is convex:

    (1) busy, τ g ≤ Q_D: the device computes throughout. In g: p_E τ (P̂(g) − P_idle) + r (b_top − τ g) + n ℓ c/g
    (2) finish, τ g ≥ Q_D: it computes until nothing is left. In h = 1/g: p_E Q_D (h P̂(1/h) − P_idle h) + r (b_top − Q_D) + n ℓ c h,
        where h P̂(1/h) = max_i α_i h + β_i
    (3) likewise the radio, in μ and in ν = 1/μ, with P_radio affine or Shannon's: ν 2^{1/(W ν)} is an exponential cone
    (4) c h + β ν + s + d ≤ deadline,  P̂(g) + P_radio(μ) ≤ cap

    with p_E the price of a joule, r that of service, ℓ that of a second of a frame's own latency. The optimum over cuts, frames and the nine pairs of
    regimes is a lower bound of `SlotControl` with the same cuts, and its limit as tables and levels get finer along P̂.

    Parameters
    ----------
    control : SlotControl
    """

    control: SlotControl

    kind: ClassVar[str] = "slot-continuous"
    proof_tolerance: ClassVar[float] = 1e-6
    """Relative: that of cone solvers."""

    def __post_init__(self) -> None:
        if not isinstance(self.control, SlotControl):
            raise DataError(
                f"control is a {type(self.control).__name__}; give a splitplan.SlotControl", "SlotContinuous"
            )
        changes = [n for n in ("cut_change_j", "clock_change_j") if getattr(self.control, n)]
        raise_all(
            [f"{n} is given, and with any clock there is no clock that stays: leave it 0" for n in changes],
            "SlotContinuous",
        )

    # -- what it is, for solvers -----------------------------------------------------------------------

    @cached_property
    def curve(self) -> Curve:
        """The device's power against its speed."""
        c = self.control.choices
        return Curve.below(c.speed[1:], c.power_w[1:])

    @property
    def costs(self) -> SlotCosts:
        """Prices and works of the state."""
        return self.control.costs

    @cached_property
    def served(self) -> tuple[float, float]:
        """Most work of the device and most bits of the radio that can be done in the slot."""
        c, s = self.control, self.control.state
        top = min(c.slot_s * self.curve.high, s.device_s)
        return top, min(c.slot_s * s.rate_bps * c.rate_levels[-1], s.uplink_bits)

    @property
    def top_rate(self) -> float:
        """The largest rate, bit/s."""
        return self.control.state.rate_bps * self.control.rate_levels[-1]

    @property
    def least_rate(self) -> float:
        """The smallest rate that is not silence, bit/s: that of the lowest level, and at most a thousandth of what the uplink carries."""
        return self.control.state.rate_bps * min(1e-3, self.control.rate_levels[0])

    @property
    def most_speed(self) -> float:
        """The fastest speed that the thermal limit allows; 0 when none."""
        limit, curve = self.control.most_power_w, self.curve
        if curve.at(curve.high) <= limit:
            return curve.high
        if curve.at(curve.low) > limit:
            return 0.0
        within = (limit - curve.offset[curve.slope > 0]) / curve.slope[curve.slope > 0]
        return float(within.min())

    def head(self, speed: float) -> dict[str, float]:
        """What the device does and costs at a speed (0: off): ``computed_s, busy_s, power_w, cost``, lateness left out."""
        c, s, p = self.control, self.control.state, self.costs.prices
        done = min(c.slot_s * speed, s.device_s)
        busy = done / speed if speed else 0.0
        power = self.curve.at(speed) if speed else float(c.choices.power_w[0])
        cost = p.energy * (power - c.choices.power_w[0]) * busy + p.device_served * (self.served[0] - done)
        return {"computed_s": done, "busy_s": busy, "power_w": float(power), "cost": float(cost)}

    def tail(self, rate_bps: float) -> dict[str, float]:
        """What the radio does and costs at a rate (0: silent): ``sent_bits, sending_s, power_w, cost``, lateness left out."""
        c, s, p = self.control, self.control.state, self.costs.prices
        done = min(c.slot_s * rate_bps, s.uplink_bits)
        sending = done / rate_bps if rate_bps else 0.0
        power = float(sending_w(c.choices.radio, rate_bps, s.rate_bps))
        cost = p.energy * power * sending + p.uplink_served * (self.served[1] - done)
        return {"sent_bits": done, "sending_s": sending, "power_w": power, "cost": float(cost)}

    def own_s(self, cut: int, speed: float, rate_bps: float) -> float:
        """(4) of `SlotControl`: a frame's own seconds."""
        seconds, bits, _ = self.control.choices.works[cut]
        found = float(self.costs.own_s[cut])
        found += (seconds / speed if speed else np.inf) if seconds else 0.0
        return found + ((bits / rate_bps if rate_bps else np.inf) if bits else 0.0)

    # -- plain arithmetic ------------------------------------------------------------------------------

    def score(self, cut: int, frames: int, speed: float, rate_bps: float) -> dict[str, float]:
        """Costs by plain arithmetic: ``objective`` and its parts."""
        control, late = self.control, self.costs.prices.lateness
        head, tail = self.head(speed), self.tail(rate_bps)
        own = self.own_s(cut, speed, rate_bps) if frames else 0.0
        c = control.choices
        energy = c.power_w[0] * control.slot_s + (head["power_w"] - c.power_w[0]) * head["busy_s"]
        energy += tail["power_w"] * tail["sending_s"] + frames * c.receive_j[cut]
        objective = head["cost"] + tail["cost"] + control.refused[frames] + frames * float(self.costs.cut[cut])
        if frames and late > 0:
            objective += frames * late * (own - float(self.costs.own_s[cut]))
        return {
            "objective": float(objective),
            "energy_j": float(energy),
            "device_busy_s": head["busy_s"],
            "sending_s": tail["sending_s"],
            "computed_s": head["computed_s"],
            "sent_bits": tail["sent_bits"],
            "own_latency_s": own,
        }

    def speed_of(self, clock_hz: float) -> float:
        """Speed at a clock: that of the table, between two clocks linear."""
        c = self.control.choices
        return float(np.interp(clock_hz, c.clock_hz[1:], c.speed[1:])) if clock_hz else 0.0

    def clock_of(self, speed: float) -> float:
        """The inverse of `speed_of`."""
        c = self.control.choices
        return float(np.interp(speed, c.speed[1:], c.clock_hz[1:])) if speed else 0.0

    def evaluate(self, plan: SlotPlan) -> dict[str, float]:
        """Costs of a plan by plain arithmetic."""
        return self.score(plan.cut, plan.frames, self.speed_of(plan.clock_hz), plan.rate_bps)

    def plan_for(self, cut: int, frames: int, speed: float, rate_bps: float) -> SlotPlan:
        """The plan of a choice, with what this problem predicts of it."""
        terms = self.score(cut, frames, speed, rate_bps)
        predicted = {k: v for k, v in terms.items() if k != "objective" and np.isfinite(v)}
        return SlotPlan(cut, frames, self.clock_of(speed), rate_bps, predicted)

    def violations(self, plan: SlotPlan) -> list[str]:
        """What a plan breaks, in the user's words."""
        control, speed, broken = self.control, self.speed_of(plan.clock_hz), []
        slack = 1 + max(TOLERANCE, self.proof_tolerance)
        c = control.choices
        if plan.clock_hz and not c.clock_hz[1] / slack <= plan.clock_hz <= c.clock_hz[-1] * slack:
            broken.append(f"clock {plan.clock_hz:g} Hz is outside the table")
        if plan.rate_bps > self.top_rate * slack:
            broken.append(f"rate {plan.rate_bps:g} bit/s, the uplink carries {self.top_rate:g}")
        if plan.frames not in control.counts:
            broken.append(f"{plan.frames} frames are admitted of {control.state.frames}")
        own = self.own_s(plan.cut, speed, plan.rate_bps)
        if plan.frames and control.deadline_s is not None and own > control.deadline_s * slack:
            broken.append(f"deadline_s={control.deadline_s:g}: a frame takes {own:.9g} s")
        drawn = self.head(speed)["power_w"] + self.tail(plan.rate_bps)["power_w"]
        if control.power_cap_w is not None and drawn > control.power_cap_w * slack:
            broken.append(f"power_cap_w={control.power_cap_w:g}: {drawn:.9g} W are drawn")
        if speed and self.head(speed)["power_w"] > control.most_power_w * slack:
            broken.append(f"thermal limit: {self.head(speed)['power_w']:.6g} W, at most {control.most_power_w:.6g} W")
        return broken

    # -- the declarative model -------------------------------------------------------------------------

    def build(self, device: Regime = "busy", radio: Regime = "busy") -> cp.Problem:
        """The convex program of one pair of regimes, with the cut and the state as its parameters (DPP)."""
        from splitplan.formulations import slot_program

        return slot_program.build(self, device, radio)

    def describe(self) -> str:
        """The problem in a line."""
        return self.control.describe().replace("SlotControl", "SlotContinuous", 1)

    @property
    def unit(self) -> str:
        """As in `SlotControl`."""
        return self.control.unit

    @property
    def smallest(self) -> float:
        """As in `SlotControl`."""
        return self.control.smallest

    @property
    def slot_parameters(self) -> tuple[str, ...]:
        """The fields of `SlotState`."""
        return self.control.slot_parameters

    def with_slot(self, **slot: float) -> SlotContinuous:
        """The same problem in another state."""
        return self.of(self.control.with_slot(**slot))

    def of(self, control: SlotControl) -> SlotContinuous:
        """The same with another state's control; the curve is kept."""
        made = object.__new__(SlotContinuous)
        made.__dict__.update(control=control)
        if "curve" in self.__dict__:
            made.__dict__["curve"] = self.curve
        return made
