"""StationaryBound: what the best of all policies needs, on average, over one scenario. States the LP; solves nothing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from splitplan.data.names import clock_name, shares
from splitplan.data.scenario import Scenario, Slotted
from splitplan.data.stored import Stored
from splitplan.errors import InfeasibleError, SolverError, raise_all
from splitplan.formulations.base import Formulation
from splitplan.formulations.costs import sending_w
from splitplan.formulations.plausible import unit_doubts
from splitplan.formulations.slot import SlotControl

if TYPE_CHECKING:
    import pandas as pd
    import pyomo.environ as pyo
    from matplotlib.figure import Figure

    from splitplan.formulations.solution import Solution

RESOURCES = ("device", "uplink", "server")
UNITS = ("s", "bits", "s")
"""Of their work."""

MOST_STATES = 5_000
"""Most distinct rates of the LP that is written out; the solver by columns takes any number."""

ANY_PRICE = 1e30
"""J/bit: a price of bits at which every slot sends all that it can."""

LOOSE = 1e-7
"""Relative tolerance of a mixture's rows: that of LP solvers."""


@dataclass(frozen=True)
class StationaryPlan(Stored):
    """A policy that looks at nothing but the slot's rate, and throws dice.

    Parameters
    ----------
    cut_frames : tuple of float
        Frames a slot by each cut.
    clock_share : tuple of float
        Share of the time at each clock, off first.
    radio : tuple of (float, float)
        (share, price in J/bit): so often a slot sends at the level that makes watts − price · bit/s least.
    cuts : tuple of str
        What the cuts are called.
    clock_hz : tuple of float
        The clocks, off first.
    capacity_hz : float or None
        The most frames a second that any policy carries.
    binding : dict of str to float
        What binds at that load (``device, uplink, server, power``), as parts that add up to 1.
    radio_bps : tuple of float
        What it sends on average while it follows each price of ``radio``.
    """

    cut_frames: tuple[float, ...]
    clock_share: tuple[float, ...]
    radio: tuple[tuple[float, float], ...]
    cuts: tuple[str, ...] = ()
    clock_hz: tuple[float, ...] = ()
    capacity_hz: float | None = None
    binding: dict[str, float] = field(default_factory=dict)
    radio_bps: tuple[float, ...] = ()

    def __str__(self) -> str:
        cuts = self.cuts or tuple(f"cut {k}" for k in range(len(self.cut_frames)))
        clocks = tuple(map(clock_name, self.clock_hz)) or tuple(f"clock {f}" for f in range(len(self.clock_share)))
        off = max(0.0, 1.0 - sum(self.clock_share))
        sends = map(sends_so, (p for _, p in self.radio), self.radio_bps or (None,) * len(self.radio))
        told = [
            f"frames: {shares(cuts, self.cut_frames)}",
            f"device: {shares((*clocks, 'off'), (*self.clock_share, off))}",
            f"uplink: {shares(sends, (s for s, _ in self.radio))}",
        ]
        return "; ".join(told)


def sends_so(price: float, rate_bps: float | None) -> str:
    """How a radio sends that takes bits up to a price (J/bit), for people; with the mean rate that comes of it, where that is known."""
    if not price or rate_bps == 0:
        return "silent"
    mean = "" if rate_bps is None else f", {rate_bps / 1e6:.3g} Mbit/s on average"
    which = "all that it can carry" if price >= ANY_PRICE else f"when a bit costs at most {price:.3g} J"
    return which + mean


@dataclass(frozen=True, eq=False)
class StationaryBound(Formulation):
    r"""The least mean penalty of any policy that carries a scenario's frames, with its slots' rates R_t and frames A_t.

    Variables, means a slot: y_k frames by cut k; z_f share of the time at clock f; x_tj share of slot t's time at level j.

    (1) minimize w_E E + w_L Σ_k y_k L_k − w_U U,  E = P_idle τ + τ Σ_f (P(f) − P_idle) z_f + (τ/T) Σ_tj P_radio(φ_j R_t) x_tj + Σ_k y_k e_k
    (2) Σ_k y_k c_k ≤ τ Σ_f g(f) z_f                                price π_D   [J/s]
    (3) Σ_k y_k β_k ≤ (τ/T) Σ_tj φ_j R_t x_tj                        price π_N   [J/bit]
    (4) Σ_k y_k s_k ≤ τ                                              price π_S   [J/s]
    (5) Σ_f z_f ≤ 1, Σ_j x_tj ≤ 1
    (6) Σ_k y_k = (1/T) Σ_t A_t; where frames may be refused, at most that and at least τ n_min
    (7) E ≤ τ P_avg;  U ≤ (1/T) Σ_t ln(1 + A_t), U ≤ ln(1 + Σ_k y_k): what ln(1 + n) can be on average, by concavity

    Any policy on this path, one that knows the future too, has means that meet (2) to (4) up to what is left over: work admitted less work
    done is Q_i(T) − Q_i(0). So with the prices π of (2) to (4) and π_E of the budget in (7), by weak duality (Neely 2010, ch. 4, on the
    path's own frequencies),

        mean penalty ≥ p* − Σ_i π_i (Q_i(T) − Q_i(0)) / T − π_F (frames that (6) asks − frames admitted)⁺ − π_E (E − τ P_avg)⁺

    of which `certificate` is the difference of the two sides. π_F is what a frame costs at these prices; its term is 0 but where a run
    refused frames that it was to carry. The last term is 0 but where a run spent more than its budget. It would be a bound without the ⁺ as
    well, and a higher one for a run that spends less; but then a run that saves what it need not is held against others that do, and no
    longer against the best that the budget allows. What couples clock, rate and cut within a slot (a deadline, the power cap, the
    thermal limit, changes) and the limit on the mean own latency are left out, and L_k is at the top clock and the best slot's full
    rate. So the bound holds with them as well, and may be further away. There is no quantization: every slot has its own rate.

    Parameters
    ----------
    control : SlotControl
    scene : Scenario
    slotted : Slotted, optional
        The scenario's slots, where they are known already.
    """

    control: SlotControl
    scene: Scenario
    slotted: Slotted | None = field(default=None, repr=False)

    kind: ClassVar[str] = "stationary-bound"

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not isinstance(self.control, SlotControl):
            problems.append(f"control is a {type(self.control).__name__}; give a splitplan.SlotControl")
        if not isinstance(self.scene, Scenario):
            problems.append(f"scene is a {type(self.scene).__name__}; give a splitplan.Scenario")
        raise_all(problems, "StationaryBound")
        for text in unit_doubts(self.control, self.scene):
            warnings.warn(text, stacklevel=3)
        if self.slotted is None:
            object.__setattr__(self, "slotted", self.scene.slotted(self.control.slot_s))

    # -- what it is, for solvers -----------------------------------------------------------------------

    @property
    def frames(self) -> np.ndarray:
        """A_t, shape (slots,)."""
        assert self.slotted is not None
        return self.slotted.frames

    @property
    def rate_bps(self) -> np.ndarray:
        """R_t, shape (slots,)."""
        assert self.slotted is not None
        return self.slotted.rate_bps

    @property
    def slots(self) -> int:
        """T."""
        return len(self.frames)

    @cached_property
    def arriving(self) -> float:
        """Frames a slot."""
        return float(self.frames.mean())

    @cached_property
    def states(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct rates, and the share of the slots at each."""
        rates, counts = np.unique(self.rate_bps, return_counts=True)
        return rates, counts / self.slots

    @cached_property
    def frame_penalty(self) -> np.ndarray:
        """w_L L_k: what V weighs of a frame of each cut beside energy, shape (K,)."""
        c, late = self.control.choices, self.control.weights["latency"]
        best = float(self.rate_bps.max()) * c.levels[-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            tail = np.where(c.works[:, 1] > 0, c.works[:, 1] / best, 0.0)
        return (
            np.asarray(late * (c.works[:, 0] / c.speed.max() + tail + c.works[:, 2] + c.fixed_s))
            if late
            else np.zeros(len(c.works))
        )

    @cached_property
    def most_utility(self) -> float:
        """(1/T) Σ_t ln(1 + A_t)."""
        return float(np.log1p(self.frames).mean())

    @property
    def least_frames(self) -> float:
        """Frames that must be admitted, a slot."""
        return self.control.slot_s * (self.control.throughput_min_hz or 0.0) if self.control.admits else self.arriving

    @property
    def too_few(self) -> str | None:
        """That fewer frames arrive than (6) asks, as people read it; None where enough do."""
        if self.least_frames <= self.arriving * (1 + LOOSE):
            return None
        return (
            f"throughput_min_hz={self.control.throughput_min_hz:g}: only {self.arriving / self.control.slot_s:.4g} frames/s arrive, so no policy can "
            "admit as many; give a lower limit"
        )

    def radio(self, price: float) -> tuple[float, float]:
        """Mean bits and joules of a slot whose radio takes the level of least watts − price · bit/s."""
        rates, share = self.states
        c, tau = self.control.choices, self.control.slot_s
        sent = rates[:, None] * c.levels
        watts = sending_w(c.radio, sent, rates[:, None])
        rows = np.arange(len(rates))
        best = np.argmin(watts - price * sent if price < ANY_PRICE else -sent, axis=1)
        return tau * float(share @ sent[rows, best]), tau * float(share @ watts[rows, best])

    # -- plain arithmetic ------------------------------------------------------------------------------

    def evaluate(self, plan: StationaryPlan) -> dict[str, float]:
        """Means of a policy by plain arithmetic: ``objective`` (a slot), power, frames, and what is left of each resource."""
        c, tau, w = self.control.choices, self.control.slot_s, self.control.weights
        y, z = np.array(plan.cut_frames), np.array(plan.clock_share)
        sends = np.array([self.radio(price) for _, price in plan.radio]).reshape(-1, 2)
        bits, radio_j = np.array([share for share, _ in plan.radio]) @ sends
        energy = tau * c.power_w[0] + tau * float(c.active_w @ z) + radio_j + float(c.receive_j @ y)
        asked, served = y @ c.works, np.array([tau * float(c.speed @ z), bits, tau])
        utility = min(self.most_utility, float(np.log1p(y.sum())))
        objective = w["energy"] * energy + float(self.frame_penalty @ y) - w["throughput"] * utility
        return {
            "objective": float(objective),
            "energy_j": float(energy),
            "power_w": float(energy) / tau,
            "frames_hz": float(y.sum()) / tau,
            **{f"{name}_used_{UNITS[i]}": float(asked[i]) for i, name in enumerate(RESOURCES)},
            **{f"{name}_done_{UNITS[i]}": float(served[i]) for i, name in enumerate(RESOURCES)},
        }

    def violations(self, plan: StationaryPlan) -> list[str]:
        """What a policy breaks."""
        broken = []
        shares = [s for s, _ in plan.radio]
        for what, values, total in (("clock_share", plan.clock_share, 1.0), ("radio", shares, 1.0)):
            if min(values) < -LOOSE or sum(values) > total + LOOSE:
                broken.append(f"{what}: shares add up to {sum(values)!r}")
        terms = self.evaluate(plan)
        broken += [
            f"{name}: {terms[f'{name}_used_{unit}']:.9g} {unit} are asked a slot, {terms[f'{name}_done_{unit}']:.9g} are done"
            for name, unit in zip(RESOURCES, UNITS, strict=True)
            if terms[f"{name}_used_{unit}"] > terms[f"{name}_done_{unit}"] * (1 + LOOSE) + 1e-12
        ]
        frames = sum(plan.cut_frames)
        if not self.least_frames * (1 - LOOSE) <= frames <= self.arriving * (1 + LOOSE):
            broken.append(
                f"{frames:.6g} frames a slot are admitted; {self.least_frames:.6g} to {self.arriving:.6g} may be"
            )
        budget = self.control.power_budget_w
        if budget is not None and terms["power_w"] > budget * (1 + LOOSE):
            broken.append(f"power_budget_w={budget:g}: {terms['power_w']:.6g} W")
        return broken

    def frame_price(self, duals: Any) -> float:
        """What a frame more costs at given prices: the least over the cuts of its works, its result's energy and its own penalty."""
        c, price = self.control.choices, np.array([max(0.0, float(duals[name])) for name in RESOURCES])
        joule = self.control.weights["energy"] + max(0.0, float(duals.get("power", 0.0)))
        return float((c.works @ price + joule * c.receive_j + self.frame_penalty).min())

    def certificate(self, mean_penalty: float, left: Any, solution: Any, admitted: float, energy_j: float) -> float:
        """How far a run's mean penalty is above what no policy can be below: never negative, but for rounding.

        A run that admitted fewer frames than (6) asks is held against the bound for those that it did admit: the Lagrangian is linear in
        the frames, at `frame_price` each. One that spent more than the budget of (7) is held against the bound for what it spent.

        Parameters
        ----------
        mean_penalty : float
            A slot, of the run.
        left : sequence of float
            Q_i(T) − Q_i(0) of device, uplink and server: seconds, bits, seconds.
        solution : Solution
            Of this problem.
        admitted : float
            Frames a slot that were admitted.
        energy_j : float
            Joules a slot that were spent.
        """
        debt = sum(solution.duals[name] * float(q) for name, q in zip(RESOURCES, left, strict=True))
        short = max(0.0, self.least_frames - admitted) * self.frame_price(solution.duals)
        budget = self.control.power_budget_w
        over = 0.0 if budget is None else max(0.0, energy_j - self.control.slot_s * budget)
        spent = over * max(0.0, float(solution.duals["power"]))
        return float(mean_penalty - (solution.bound - debt / self.slots - short - spent))

    # -- the declarative model -------------------------------------------------------------------------

    def build(self) -> pyo.ConcreteModel:
        """The LP over the distinct rates, as a Pyomo model."""
        from splitplan.formulations import stationary_model

        if self.too_few is not None:
            raise InfeasibleError(self.too_few, (self.too_few,))
        if len(self.states[0]) > MOST_STATES:
            raise SolverError(
                f"the channel has {len(self.states[0])} distinct rates, too many to write out (at most {MOST_STATES}); "
                "solver 'columns' takes them all"
            )
        return stationary_model.build(self)

    def describe(self) -> str:
        """The problem in a line."""
        w = self.control.weights
        what = " + ".join(k if v == 1 else f"{v:g}·{k}" for k, v in w.items() if v)
        return (
            f"StationaryBound: {what} of {self.control.profile.graph.name!r} over {self.slots} slots of {self.control.slot_s:g} s "
            f"({self.arriving / self.control.slot_s:.4g} frames/s, {self.scene.channel.name})"
        )

    def facts(self, plan: StationaryPlan, duals: Mapping[str, Any]) -> dict[str, str]:
        """The prices of the resources, and the most that any policy carries."""
        found = {}
        if self.unit == "J a slot":
            units = dict(zip(RESOURCES, ("J/s", "J/bit", "J/s"), strict=True))
            found["prices"] = ", ".join(f"{name} {duals[name]:.4g} {unit}" for name, unit in units.items())
        if plan.capacity_hz is not None:
            hz, names = (
                self.arriving / self.control.slot_s,
                ", ".join(f"{k} ({p:.0%})" for k, p in plan.binding.items()),
            )
            found["capacity"] = (
                f"any policy carries at most {plan.capacity_hz:.4g} frames/s, {plan.capacity_hz / hz:.4g} times this load; "
                f"what binds then, by its part in the limit: {names}"
            )
        return found

    def figure(self, solution: Solution) -> Figure:
        """Where the power goes; how much of what each resource can do is used, its price, and what binds at the most that any policy carries."""
        from splitplan.plots.stationary import plot_bound

        plan: StationaryPlan = solution.plan
        most = "" if plan.capacity_hz is None else f"; any policy carries at most {plan.capacity_hz:.4g}"
        hz = sum(plan.cut_frames) / self.control.slot_s
        title = f"{self.control.profile.graph.name} over {self.scene.channel.name}: {hz:.4g} frames/s{most}"
        return plot_bound(self.powers(plan), self.loads(plan, solution.duals), title=title)

    def plot(self) -> Figure:
        """The figure of its solution, see `figure`; solves it."""
        return self.solve().plot()

    def powers(self, plan: StationaryPlan) -> pd.DataFrame:
        """Mean watts by what is decided, one row each: ``what, power_w``; they add up to the plan's power."""
        import pandas as pd

        c, tau = self.control.choices, self.control.slot_s
        names = plan.clock_hz or tuple(c.clock_hz.tolist())
        rows = [("idle", c.power_w[0])]
        rows += [
            (f"computing at {clock_name(hz)}, {z:.1%} of the time", c.active_w[f] * z)
            for f, (hz, z) in enumerate(zip(names, plan.clock_share, strict=True))
            if c.active_w[f] * z > 0
        ]
        rows += [("sending", sum(share * self.radio(price)[1] for share, price in plan.radio) / tau)]
        rows += [("receiving results", float(c.receive_j @ np.array(plan.cut_frames)) / tau)]
        return pd.DataFrame([(what, float(watts)) for what, watts in rows], columns=["what", "power_w"])

    def loads(self, plan: StationaryPlan, duals: Mapping[str, Any]) -> pd.DataFrame:
        """One row a resource: ``resource, used`` (part of what it can do), ``price, unit, binding`` (its part in the limit on the load)."""
        import pandas as pd

        tau, terms = self.control.slot_s, self.evaluate(plan)
        most = (tau * float(self.control.choices.speed.max()), self.radio(ANY_PRICE)[0], tau)
        units = ("J/s", "J/bit", "J/s") if self.unit == "J a slot" else ("a s", "a bit", "a s")
        rows = [
            (
                name,
                terms[f"{name}_used_{of}"] / full if full else 0.0,
                float(duals[name]),
                unit,
                plan.binding.get(name, 0.0),
            )
            for name, of, full, unit in zip(RESOURCES, UNITS, most, units, strict=True)
        ]
        if (budget := self.control.power_budget_w) is not None:
            used = terms["power_w"] / budget
            rows.append(("power", used, float(duals.get("power", 0.0)), "a J", plan.binding.get("power", 0.0)))
        return pd.DataFrame(rows, columns=["resource", "used", "price", "unit", "binding"])

    @property
    def unit(self) -> str:
        """Joules a slot, or what V weighs."""
        return (
            "J a slot" if {k: v for k, v in self.control.weights.items() if v} == {"energy": 1.0} else "penalty a slot"
        )

    def to_frame(self) -> pd.DataFrame:
        """The states: one row a distinct rate, with its share of the slots."""
        import pandas as pd

        rates, share = self.states
        return pd.DataFrame({"rate_bps": rates, "share": share})
