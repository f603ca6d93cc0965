"""SlotHorizon: the next T slots of a SlotControl together, frames and rates known beforehand. States the problem; solves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from splitplan.data.slot import SlotPlan, SlotState
from splitplan.data.stored import Stored
from splitplan.errors import DataError, raise_all
from splitplan.formulations.base import Formulation
from splitplan.formulations.scaled import Scaled
from splitplan.formulations.slot import SlotControl
from splitplan.formulations.stationary import RESOURCES
from splitplan.models.graph import number_problem

if TYPE_CHECKING:
    import pandas as pd
    import pyomo.environ as pyo

BEYOND = ("power_budget_w", "latency_limit_s", "throughput_min_hz", "thermal")
"""What a control may limit and a window does not state: it reaches beyond the window."""


@dataclass(frozen=True)
class HorizonPlan(Stored):
    """What is done in each slot of a window.

    Parameters
    ----------
    slots : tuple of SlotPlan
        The first is the one to apply.
    """

    slots: tuple[SlotPlan, ...]

    def __post_init__(self) -> None:
        made = tuple(p if isinstance(p, SlotPlan) else SlotPlan(**p) for p in self.slots)
        object.__setattr__(self, "slots", made)

    def __str__(self) -> str:
        return f"{len(self.slots)} slots, first: {self.slots[0]}"


@dataclass(frozen=True, eq=False)
class SlotHorizon(Scaled, Formulation):
    r"""Choose cut k_t, clock f_t, level j_t and admitted frames n_t of T slots whose frames A_t and rates R_t are known.

    What is known beforehand is what nobody knows: this is a reference to hold policies against. Q(0) is the control's state; symbols and
    units are those of `SlotControl`, w(k) = (c_k, β_k, s_k), u = (1, u_N, 1), π the prices of work that is left over.

    (1) b_D(t) = min(τ g(f_t), Q_D(t)), b_N(t) = min(τ φ_jt R_t, Q_N(t)), b_S(t) = min(τ, Q_S(t))
    (2) Q(t+1) = Q(t) − b(t) + n_t w(k_t)
    (3) minimize Σ_t V [w_E (E_t − P_idle τ) + w_L n_t L_t + w_U ln((1+A_t)/(1+n_t))] + ω τ Σ_{t=1..T} Σ_i Q_i(t)/u_i + V Σ_i π_i Q_i(T),
        E_t and L_t as (3) and (4) of `SlotControl`                                                   [s²]
    (4) in each slot (8) to (10) of `SlotControl`; frames that no choice serves within them are refused, as its policies do

    ω weighs waiting: at 1, a second of work that waits a second costs 1 s², what 1/V joules cost. V π_i Q_i(T) is what the work that is left will
    cost: π_i are the prices of the `StationaryBound` of the scenario. With T = 1, ω = 0 and V π = Q/u² this is `SlotControl`'s own objective,
    but for a constant (and persistence, which there is none of here: waiting costs instead).

    As a MILP, in the order of `slot_horizon_model`: work at a clock or a level b_tf, b_tj of its own, so that energy is linear, and

    (5) b_tf ≤ min(τ g(f), M_t) z_tf,  b_tj ≤ min(τ φ_j R_t, M_t) y_tj,  Σ_f b_tf ≤ Q_D(t),  Σ_j b_tj ≤ Q_N(t),  b_S ≤ τ, Q_S(t)
    (6) no less: e_t ∈ {0,1},  Q_D(t) − Σ_f b_tf ≤ M_t (1 − e_t),  Σ_f (min(τ g(f), M_t) z_tf − b_tf) ≤ τ g_max e_t, likewise of the uplink

    with M_t the most that can be left then. The server's work has no price of its own, so (1) holds for it at an optimum without (6).

    Parameters
    ----------
    control : SlotControl
        Its state is where the window begins; there are no place-holders. Limits on means, a thermal limit and costs of changes are refused: they reach beyond a window.
    frames : array of int, shape (T,)
        A_t.
    rate_bps : array, shape (T,)
        R_t.
    prices : dict of str to float
        π of ``device, uplink, server``: penalty a second, a bit, a second of work that is left.
    wait_weight : float
        ω.
    """

    control: SlotControl
    frames: np.ndarray
    rate_bps: np.ndarray
    prices: Mapping[str, float]
    wait_weight: float = 1.0

    kind: ClassVar[str] = "slot-horizon"
    proof_tolerance: ClassVar[float] = 1e-6
    """Work is a continuous column: rows are kept to HiGHS's tolerances, not to rounding."""

    def __post_init__(self) -> None:
        if not isinstance(self.control, SlotControl):
            raise DataError(f"control is a {type(self.control).__name__}; give a splitplan.SlotControl", "SlotHorizon")
        problems = unstated(self.control)
        for name in ("frames", "rate_bps"):
            try:
                values = np.asarray(getattr(self, name), float).reshape(-1)
            except (TypeError, ValueError):
                problems.append(f"{name} is {getattr(self, name)!r}; give numbers")
                continue
            if not len(values) or not np.isfinite(values).all() or (values < 0).any():
                problems.append(f"{name} must be finite, not negative, and at least one")
            object.__setattr__(self, name, values)
        if not problems and len(self.frames) != len(self.rate_bps):
            problems.append(f"frames are of {len(self.frames)} slots, rate_bps of {len(self.rate_bps)}")
        if not problems and (self.frames != self.frames.astype(int)).any():
            problems.append("frames must be whole numbers")
        problems += price_problems(self.prices)
        problems += [p for p in (number_problem("wait_weight", self.wait_weight),) if p]
        raise_all(problems, "SlotHorizon")
        object.__setattr__(self, "frames", self.frames.astype(int))
        object.__setattr__(self, "control", self.control.at(self.control.state, place_holders=False))

    # -- what it is, for solvers -----------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """T."""
        return len(self.frames)

    @cached_property
    def each(self) -> tuple[SlotControl, ...]:
        """The slots' own problems with nothing left over: their choices, limits, and what admitted frames cost; (4)."""
        found = []
        for frames, rate in zip(self.frames.tolist(), self.rate_bps.tolist(), strict=True):
            slot = self.control.at(SlotState(frames=frames, rate_bps=rate))
            if frames and not slot.admits and not slot.allowed.any():
                slot = self.control.at(SlotState(rate_bps=rate))
            found.append(slot)
        return tuple(found)

    @cached_property
    def units(self) -> np.ndarray:
        """u: what counts as a second of each resource."""
        return np.array([1.0, self.control.units["uplink"], 1.0])

    @cached_property
    def begins(self) -> np.ndarray:
        """Q(0), shape (3,)."""
        s = self.control.state
        return np.array([s.device_s, s.uplink_bits, s.server_s])

    @cached_property
    def most(self) -> np.ndarray:
        """M_t, shape (T, 3): what is left before slot t if nothing is ever done and every frame takes the largest cut."""
        added = self.frames[:-1, None] * self.control.choices.works.max(axis=0)
        return np.asarray(self.begins + np.vstack([np.zeros(3), np.cumsum(added, axis=0)]))

    @cached_property
    def waiting(self) -> np.ndarray:
        """What a unit of work that is left at the end of each slot costs, shape (T, 3): of waiting, and at the window's end by π."""
        found = np.tile(self.wait_weight * self.control.slot_s / self.units, (self.slots, 1))
        found[-1] += self.control.V * np.array([float(self.prices[name]) for name in RESOURCES])
        return found

    @cached_property
    def sampled(self) -> tuple[float, float, float | None]:
        """What waits if nothing is ever done, by the cut that is best then: it says how large costs are."""
        works = self.control.choices.works
        came = np.cumsum(self.frames)[:, None, None] * works[None]  # (T, K, 3)
        cost = float(((self.begins + came) * self.waiting[:, None, :]).sum(axis=(0, 2)).min())
        return cost, cost, None

    # -- plain arithmetic ------------------------------------------------------------------------------

    def evaluate(self, plan: HorizonPlan) -> dict[str, float]:
        """Costs of a plan by plain arithmetic: ``objective``, its parts, and the work that is left at the end."""
        v, w, tau = self.control.V, self.control.weights, self.control.slot_s
        left, penalty, waits, energy = self.begins, 0.0, 0.0, 0.0
        for t, (slot, done) in enumerate(zip(self.each, plan.slots, strict=True)):
            problem = self._at(t, left)
            _, n, _, _ = choice = problem.numbers_of(done)
            terms = problem.score(*choice)
            energy += terms["energy_j"]
            penalty += w["energy"] * (terms["energy_j"] - float(self.control.choices.power_w[0]) * tau)
            penalty += w["latency"] * n * terms["own_latency_s"] if n and w["latency"] else 0.0
            penalty += w["throughput"] * float(np.log1p(slot.state.frames) - np.log1p(n))
            left = self._after(left, done, terms)
            waits += float(self.waiting[t] @ left)
        found = {"objective": v * penalty + waits, "energy_j": energy, "waiting": waits}
        return found | {f"left_{name}": float(q) for name, q in zip(RESOURCES, left, strict=True)}

    def _at(self, t: int, left: np.ndarray) -> SlotControl:
        """Slot t's problem with work left."""
        slot = self.each[t].state
        return self.control.at(
            SlotState(
                device_s=float(left[0]),
                uplink_bits=float(left[1]),
                server_s=float(left[2]),
                frames=slot.frames,
                rate_bps=slot.rate_bps,
            )
        )

    def _after(self, left: np.ndarray, done: SlotPlan, terms: Mapping[str, float]) -> np.ndarray:
        """(2)."""
        worked = np.array([terms["computed_s"], terms["sent_bits"], terms["served_s"]])
        return np.asarray(np.maximum(left - worked, 0.0) + done.frames * self.control.choices.works[done.cut])

    def violations(self, plan: HorizonPlan) -> list[str]:
        """What a plan breaks, slot by slot: (8) to (10) of `SlotControl`."""
        if len(plan.slots) != self.slots:
            return [f"the plan is of {len(plan.slots)} slots, the window of {self.slots}"]
        return [f"slot {t}: {v}" for t, p in enumerate(plan.slots) for v in self.each[t].violations(p)]

    # -- the declarative model -------------------------------------------------------------------------

    def build(self) -> pyo.ConcreteModel:
        """The MILP as a Pyomo model."""
        from splitplan.formulations import slot_horizon_model

        return slot_horizon_model.build(self)

    def read(self, values: Mapping[str, float]) -> HorizonPlan:
        """The plan in a solver's values of the model's variables, by name; work is reckoned from its choices by (1) and (2)."""
        from splitplan.formulations import slot_horizon_model

        left, plans = self.begins, []
        for t, choice in enumerate(slot_horizon_model.chosen(self, values)):
            problem = self._at(t, left)
            plans.append(problem.plan_for(*choice))
            left = self._after(left, plans[-1], problem.score(*choice))
        return HorizonPlan(tuple(plans))

    def describe(self) -> str:
        """The problem in a line."""
        s = self.control.state
        return (
            f"SlotHorizon: {self.slots} slots of {self.control.slot_s:g} s, V {self.control.V:g}, {self.control.profile.graph.name!r} "
            f"({self.frames.sum()} frames arrive; left: {s.device_s:.4g} s, {s.uplink_bits:.4g} bits, {s.server_s:.4g} s)"
        )

    @property
    def unit(self) -> str:
        """As of a slot."""
        return "s²"

    def to_frame(self) -> pd.DataFrame:
        """The window: one row a slot."""
        import pandas as pd

        return pd.DataFrame({"frames": self.frames, "rate_bps": self.rate_bps})


def unstated(control: SlotControl) -> list[str]:
    """What a control asks for and a window does not state."""
    found = [name for name in BEYOND if getattr(control, name) is not None]
    found += [name for name in ("cut_change_j", "clock_change_j") if getattr(control, name)]
    return [f"{', '.join(found)}: a window of slots does not state that; leave it out of the control"] if found else []


def price_problems(prices: Any) -> list[str]:
    """What is wrong with prices of work."""
    if not isinstance(prices, Mapping) or not set(RESOURCES) <= set(prices):
        return [f"prices is {prices!r}; give a price of each of {', '.join(RESOURCES)}, as StationaryBound's duals"]
    return [p for name in RESOURCES if (p := number_problem(f"prices[{name!r}]", prices[name]))]
