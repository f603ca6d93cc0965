"""Policies that decide a slot: drift plus penalty over all three knobs, or over those that are not fixed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from splitplan.data.plan import SplitPlan
from splitplan.data.slot import SlotPlan, SlotState
from splitplan.errors import DataError, InfeasibleError, raise_all
from splitplan.formulations.slot import SlotControl
from splitplan.policies.base import Moment, Seen


@dataclass(frozen=True, eq=False)
class SlotPolicy:
    """The rule of a `SlotControl`, slot by slot; knobs may be fixed.

    Parameters
    ----------
    control : SlotControl
    cuts, clocks, levels : sequence of int, optional
        Numbers of those that may be chosen, into the control's choices; all unless given. Clock 0 is off, level 0 is silent.
    name : str
    """

    control: SlotControl
    cuts: Sequence[int] | None = None
    clocks: Sequence[int] | None = None
    levels: Sequence[int] | None = None
    name: str = "joint"
    _now: list[int] = field(default_factory=lambda: [0], init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.control, SlotControl):
            raise DataError(f"control is a {type(self.control).__name__}; give a splitplan.SlotControl", "SlotPolicy")
        c, problems = self.control.choices, []
        for what, count in (("cuts", len(c.works)), ("clocks", len(c.clock_hz)), ("levels", len(c.levels))):
            given = getattr(self, what)
            chosen = tuple(range(count)) if given is None else tuple(given)
            if not chosen or not all(isinstance(i, (int, np.integer)) and 0 <= i < count for i in chosen):
                problems.append(f"{what} is {given!r}; give numbers from 0 to {count - 1}, at least one")
            object.__setattr__(self, what, chosen)
        raise_all(problems, f"policy {self.name!r}")

    def choose(self, state: SlotState) -> SlotPlan:
        """What is done in a slot; where no choice meets the limits with the frames that arrive, they are refused.

        Parameters
        ----------
        state : SlotState
        """
        from splitplan.solvers.slot_enumerate import cheapest

        problem = self.control.at(state)
        best = cheapest(problem, self.cuts, self.clocks, self.levels)
        if best is None:
            from dataclasses import replace

            problem = self.control.at(replace(state, frames=0))
            best = cheapest(problem, self.cuts, self.clocks, self.levels)
        if best is None:
            raise InfeasibleError("no clock and rate are within the power limits, not even off and silent", ())
        return problem.plan_for(*best[0])

    # -- for the executor ------------------------------------------------------------------------------

    @property
    def plans(self) -> tuple[SplitPlan, ...]:
        """One for each cut."""
        cuts = self.control.cuts
        assert cuts is not None and self.cuts is not None
        return tuple(cuts.plan(k) for k in self.cuts)

    def decide(self, now: Moment) -> int:
        """The cut of the slot, as a number into `plans`."""
        return self._now[0]

    def observe(self, seen: Seen) -> None:
        """Learns nothing from single frames."""

    def restart(self) -> None:
        """Back to the first cut."""
        self._now[0] = 0


def numbers(policy: SlotPolicy) -> dict[str, Any]:
    """A policy as the simulator's loop takes it: `splitplan.simulator.kernel.Rule`'s fields."""
    control = policy.control
    c, w, u, link = control.choices, control.weights, control.units, control.system.link
    heat = control.thermal
    tau = control.slot_s
    return {
        "tau": tau,
        "v_energy": control.V * w["energy"],
        "v_late": control.V * w["latency"],
        "v_utility": control.V * w["throughput"],
        "unit_bits": u["uplink"],
        "unit_joules": u["energy"],
        "unit_frames": u["frames"],
        "grow_s": control.persistence,
        "grow_bits": control.persistence * link.rate_up_bps,
        "budget_j": math.inf if control.power_budget_w is None else tau * control.power_budget_w,
        "latency_limit_s": math.inf if control.latency_limit_s is None else control.latency_limit_s,
        "least_frames": tau * (control.throughput_min_hz or 0.0),
        "deadline_s": math.inf if control.deadline_s is None else control.deadline_s,
        "cap_w": math.inf if control.power_cap_w is None else control.power_cap_w,
        "admits": control.admits,
        "timed": control.timed,
        "cut_change_j": control.cut_change_j,
        "clock_change_j": control.clock_change_j,
        "heat_k_per_w": heat.resistance_k_per_w if heat else 1.0,
        "heat_kept": math.exp(-tau / (heat.resistance_k_per_w * heat.capacity_j_per_k)) if heat else 0.0,
        "ambient_c": heat.ambient_c if heat else 0.0,
        "limit_c": heat.limit_c if heat else math.inf,
        "radio_w_per_bps": c.radio.up_w_per_bps,
        "radio_base_w": c.radio.base_w,
        "radio_band_hz": c.radio.bandwidth_hz or 0.0,
        "head_s": c.works[:, 0],
        "bits": c.works[:, 1],
        "server_s": c.works[:, 2],
        "fixed_s": c.fixed_s,
        "receive_j": c.receive_j,
        "speed": c.speed,
        "power_w": c.power_w,
        "share": c.levels,
        "cuts": np.array(policy.cuts),
        "clocks": np.array(policy.clocks),
        "levels": np.array(policy.levels),
    }
