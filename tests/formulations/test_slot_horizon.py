"""SlotHorizon: its MILP is brute force over the equations; with one slot and matching prices it is SlotControl; the audit walks by itself."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

import splitplan as sp
from benchmarks.instances import Seeded
from benchmarks.slot_instances import slot_control, slot_state
from splitplan.errors import AuditError, DataError, SolverError, UnknownNameError
from splitplan.formulations.base import conclude
from splitplan.formulations.slot_horizon import HorizonPlan, SlotHorizon
from splitplan.formulations.solution import Found, Status, Termination
from splitplan.simulator.numbers import rule_of
from splitplan.simulator.rule import radio_w
from splitplan.solvers.audit_slot_horizon import audit_slot_horizon
from splitplan.solvers.highs import Highs
from splitplan.solvers.slot_enumerate import cheapest

NOTHING = {"power_budget_w": None, "latency_limit_s": None, "throughput_min_hz": None, "thermal": None}
NOTHING |= {"cut_change_j": 0.0, "clock_change_j": 0.0}  # type: ignore[dict-item]


def stated(seed: int, layers: int = 3, **options: object) -> sp.SlotControl:
    """A random control without what a window does not state; two rate levels, so that brute force comes to an end."""
    made = slot_control(Seeded(seed), layers)
    return replace(made, cuts=None, **(NOTHING | {"rate_levels": (0.5, 1.0)} | options))  # type: ignore[arg-type]


def window(seed: int, slots: int, **options: object) -> SlotHorizon:
    choose, control = Seeded(1000 + seed), stated(seed, **options)
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 3, slots)
    rates = np.where(rng.random(slots) < 0.2, 0.0, 1e7 * rng.lognormal(0, 1, slots))
    prices = {"device": rng.exponential(3.0), "uplink": rng.exponential(1e-6), "server": rng.exponential(0.1)}
    return SlotHorizon(
        control.at(slot_state(choose, control)), frames, rates, prices, wait_weight=rng.choice([0.0, 1.0])
    )


def brute_force(p: SlotHorizon) -> float:
    """The least of (3) over all choices of all slots, by a walk through (1) and (2) with sums of its own."""
    control, c, tau = p.control, p.control.choices, p.control.slot_s
    r, w = rule_of(sp.SlotPolicy(control)), control.weights
    nominal = control.system.link.rate_up_bps

    def best(t: int, left: tuple[float, float, float]) -> float:
        if t == p.slots:
            return control.V * sum(p.prices[n] * q for n, q in zip(("device", "uplink", "server"), left, strict=True))
        channel, least = float(p.rate_bps[t]), math.inf
        all_ = int(p.frames[t])
        for refuse in (False, True):  # frames are refused only where nothing serves them
            counts = range(all_ + 1) if control.admits else ((0,) if refuse else (all_,))
            for f, j, n in itertools.product(range(len(c.clock_hz)), range(len(c.levels)), counts):
                rate = c.levels[j] * channel
                watts = radio_w(r, rate, channel)
                if control.power_cap_w is not None and c.power_w[f] + watts > control.power_cap_w * (1 + 1e-9):
                    continue
                computed, sent = min(tau * c.speed[f], left[0]), min(tau * rate, left[1])
                spent = c.active_w[f] * (computed / c.speed[f] if f else 0.0) + watts * (sent / rate if rate else 0.0)
                kept = (left[0] - computed, left[1] - sent, left[2] - min(tau, left[2]))
                for k in range(len(c.works) if n else 1):
                    own = c.works[k, 2] + c.fixed_s[k]
                    own += (c.works[k, 0] / c.speed[f] if f else math.inf) if c.works[k, 0] else 0.0
                    own += (c.works[k, 1] / rate if rate else math.inf) if c.works[k, 1] else 0.0
                    if n and control.deadline_s is not None and own > control.deadline_s * (1 + 1e-9):
                        continue
                    if n and control.timed and not math.isfinite(own):
                        continue
                    then = tuple(q + n * float(a) for q, a in zip(kept, c.works[k], strict=True))
                    cost = w["energy"] * (spent + n * c.receive_j[k])
                    cost += w["latency"] * n * own if n and w["latency"] else 0.0
                    cost += w["throughput"] * math.log((1 + all_) / (1 + n)) if w["throughput"] else 0.0
                    waits = p.wait_weight * tau * (then[0] + then[1] / nominal + then[2])
                    least = min(least, control.V * cost + waits + best(t + 1, then))  # type: ignore[arg-type]
            if least < math.inf or control.admits:
                break
        return least

    s = control.state
    return best(0, (s.device_s, s.uplink_bits, s.server_s))


@pytest.mark.parametrize("seed", range(40))
def test_the_milp_is_brute_force(seed: int) -> None:
    p = window(seed, 2)
    solution = p.solve("highs")
    assert solution.status == Status.OPTIMAL
    assert solution.objective == pytest.approx(brute_force(p), rel=1e-6, abs=1e-6 * p.smallest)
    assert not p.violations(solution.plan)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mode", ["min-energy", {"energy": 1.0, "throughput": 0.5}])
def test_three_slots(seed: int, mode: object) -> None:
    p = window(200 + seed, 3, layers=2, rate_levels=(1.0,), mode=mode, deadline_s=None)
    assert p.solve().objective == pytest.approx(brute_force(p), rel=1e-6, abs=1e-6 * p.smallest)


@pytest.mark.parametrize("seed", range(30))
def test_one_slot_is_the_slots_own_problem(seed: int) -> None:
    """Without waiting, and with V π = Q/u², the objectives differ by what no choice changes: Σ (Q/u)² − Q · (the most that can be done)/u²."""
    choose = Seeded(seed)
    control = stated(seed, layers=5, V=0.5, persistence=0.0, place_holders=False)
    state = replace(slot_state(choose, control), device_wait_s=0.0, uplink_wait_bits=0.0, last_cut=None)
    slot = control.at(state)
    units = np.array([1.0, control.units["uplink"], 1.0])
    left = np.array([state.device_s, state.uplink_bits, state.server_s])
    prices = dict(zip(("device", "uplink", "server"), (left / units**2 / control.V).tolist(), strict=True))
    p = SlotHorizon(slot, np.array([state.frames]), np.array([state.rate_bps]), prices, wait_weight=0.0)
    best = cheapest(slot) or cheapest(control.at(replace(state, frames=0)))
    assert best is not None
    done = np.array([slot.costs.computed_s.max(), slot.costs.sent_bits.max(), min(control.slot_s, state.server_s)])
    constant = float((left * (left - done) / units**2).sum())
    assert p.solve().objective == pytest.approx(best[1] + constant, rel=1e-6, abs=1e-6 * p.smallest)


@pytest.mark.parametrize("seed", range(10))
def test_the_formulations_sums_are_the_audits(seed: int) -> None:
    p = window(seed, 4)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        choices = []
        for slot in p.each:
            k, f, j = (int(rng.integers(n)) for n in slot.allowed.shape)
            choices.append(slot.plan_for(k, slot.counts[-1], f, j))
        plan = HorizonPlan(tuple(choices))
        audit = audit_slot_horizon(p, plan, {})
        assert bool(audit.violations) == bool(p.violations(plan))
        if not audit.violations and math.isfinite(audit.objective):
            assert p.evaluate(plan)["objective"] == pytest.approx(audit.objective, rel=1e-9, abs=1e-12)
        assert HorizonPlan.from_dict(plan.to_dict()) == plan


def test_the_audit_rejects_what_was_changed() -> None:
    p = window(3, 3)
    solution = p.solve()
    solver = Highs()
    lie = Found(solution.plan, Termination.CONVERGED, bound=0.0, objective=solution.objective * 1.1 + 1.0)
    with pytest.raises(AuditError, match="the audit"):
        conclude(p, solver, lie, 0.0)
    short = Found(HorizonPlan(solution.plan.slots[:2]), Termination.CONVERGED, bound=0.0)
    with pytest.raises(AuditError, match="of 2 slots"):
        conclude(p, solver, short, 0.0)
    more = replace(solution.plan.slots[0], frames=99)
    with pytest.raises(AuditError, match="slot 0: 99 frames"):
        conclude(p, solver, Found(HorizonPlan((more, *solution.plan.slots[1:])), Termination.CONVERGED, bound=0.0), 0.0)


def test_its_relaxation_is_no_solver() -> None:
    p = window(1, 2)
    assert p.solvers == ("highs",)
    with pytest.raises(UnknownNameError, match="highs-lp"):
        p.solve("highs-lp")
    with pytest.raises(SolverError, match="no slot parameters"):
        p.compile("highs")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"frames": [1.5, 0.0]}, "whole numbers"),
        ({"rate_bps": [1.0]}, "frames are of 2 slots, rate_bps of 1"),
        ({"rate_bps": [np.nan, 1.0]}, "rate_bps must be finite"),
        ({"prices": {"device": 1.0}}, "give a price of each of device, uplink, server"),
        ({"prices": {"device": -1.0, "uplink": 0.0, "server": 0.0}}, r"prices\['device'\] is -1"),
        ({"wait_weight": -1.0}, "wait_weight is -1"),
    ],
)
def test_bad_input_is_said(options: dict[str, object], says: str) -> None:
    plain: dict[str, object] = {"frames": [1, 0], "rate_bps": [1e6, 1e6]}
    plain["prices"] = {"device": 1.0, "uplink": 1e-6, "server": 0.0}
    with pytest.raises(DataError, match=says):
        SlotHorizon(stated(1), **(plain | options))  # type: ignore[arg-type]


def test_what_a_window_does_not_state_is_refused() -> None:
    control = replace(stated(1), thermal=sp.Thermal(5.0, 2.0, 25.0, 60.0), clock_change_j=1.0)
    with pytest.raises(DataError, match="thermal, clock_change_j: a window of slots does not state that"):
        SlotHorizon(control, [0], [1e6], {"device": 1.0, "uplink": 0.0, "server": 0.0})  # type: ignore[arg-type]
