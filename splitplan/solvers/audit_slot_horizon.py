"""The audit of a window of slots: its queues walked through and its cost added up by sums of its own, never through a model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from splitplan.data.slot import SlotState
from splitplan.formulations.solution import Audit
from splitplan.solvers.audit_slot import audit_slot, works_of

if TYPE_CHECKING:
    from splitplan.formulations.slot_horizon import HorizonPlan, SlotHorizon


def audit_slot_horizon(problem: SlotHorizon, plan: HorizonPlan, duals: dict[str, Any]) -> Audit:
    """Walk the queues slot by slot, each slot looked at by `audit_slot`; add up penalty, waiting and what is left over.

    Parameters
    ----------
    problem : SlotHorizon
    plan : HorizonPlan
    duals : dict
        Not used: the bound is the solver's.
    """
    by, control = "solvers.audit_slot_horizon.audit_slot_horizon", problem.control
    if len(plan.slots) != len(problem.frames):
        return Audit(by, math.nan, {}, (f"the plan is of {len(plan.slots)} slots",))
    tau, v, w = control.slot_s, control.V, control.weights
    nominal, idle_j = control.system.link.rate_up_bps, control.system.device.idle_w * tau
    left = [control.state.device_s, control.state.uplink_bits, control.state.server_s]
    broken: list[str] = []
    terms: list[float] = []
    for t, done in enumerate(plan.slots):
        arrive = int(problem.frames[t])
        # A slot whose frames nothing serves within the limits refuses all of them, or none.
        allowed = 0 if not done.frames and not problem.each[t].state.frames else arrive
        state = SlotState(
            device_s=left[0], uplink_bits=left[1], server_s=left[2], frames=allowed, rate_bps=float(problem.rate_bps[t])
        )
        slot = audit_slot(control.at(state), done, {})
        broken += [f"slot {t}: {what}" for what in slot.violations]
        if slot.violations:
            return Audit(by, math.nan, {}, tuple(broken))
        speed, work = works_of(control, done)
        worked = [min(tau * speed, left[0]), min(tau * done.rate_bps, left[1]), min(tau, left[2])]
        came = [done.frames * work[name] for name in ("device_s", "up_bits", "server_s")]
        left = [max(0.0, q - b) + a for q, b, a in zip(left, worked, came, strict=True)]
        terms.append(v * w["energy"] * (slot.terms["energy_j"] - idle_j))
        if done.frames and w["latency"]:
            terms.append(v * w["latency"] * done.frames * slot.terms["own_latency_s"])
        if w["throughput"]:
            terms.append(v * w["throughput"] * math.log((1 + allowed) / (1 + done.frames)))
        terms += [problem.wait_weight * tau * q for q in (left[0], left[1] / nominal, left[2])]
    terms += [v * float(problem.prices[name]) * q for name, q in zip(("device", "uplink", "server"), left, strict=True)]
    return Audit(by, math.fsum(terms), {"left_device_s": left[0]}, tuple(broken))
