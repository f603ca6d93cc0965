"""The audit of a stationary bound: its policy's means slot by slot, and the dual function of its prices, both on the raw channel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.formulations.solution import Audit
from splitplan.formulations.stationary import ANY_PRICE, RESOURCES

if TYPE_CHECKING:
    from splitplan.formulations.stationary import StationaryBound, StationaryPlan

ROUNDED = 1e-12
"""Relative error of a sum of many terms; taken off the dual value."""


def audit_stationary(problem: StationaryBound, plan: StationaryPlan, duals: dict[str, Any]) -> Audit:
    """Re-add a policy's means over all slots; recompute the bound from the prices by weak duality.

    Parameters
    ----------
    problem : StationaryBound
    plan : StationaryPlan
    duals : dict
        Prices of device, uplink, server and of the mean power; empty: no bound is recomputed.
    """
    control, by = problem.control, "solvers.audit_stationary.audit_stationary"
    c, tau, w = control.choices, control.slot_s, control.weights
    broken = problem.violations(plan)
    bits = radio_j = 0.0
    sent = np.outer(np.r_[0.0, control.rate_levels], problem.rate_bps)
    watts = _watts(problem, sent, problem.rate_bps)
    for share, price in plan.radio:
        best = np.argmin(watts - price * sent if price < ANY_PRICE else -sent, axis=0)
        bits += share * tau * float(np.take_along_axis(sent, best[None], 0).mean())
        radio_j += share * tau * float(np.take_along_axis(watts, best[None], 0).mean())
    frames = math.fsum(plan.cut_frames)
    energy = math.fsum(
        [
            tau * float(c.power_w[0]),
            *(tau * z * float(p - c.power_w[0]) for z, p in zip(plan.clock_share, c.power_w, strict=True)),
            radio_j,
            *(y * float(e) for y, e in zip(plan.cut_frames, c.receive_j, strict=True)),
        ]
    )
    late = math.fsum(y * float(p) for y, p in zip(plan.cut_frames, problem.frame_penalty, strict=True))
    utility = min(float(np.log1p(problem.frames).mean()), math.log1p(frames))
    objective = w["energy"] * energy + late - w["throughput"] * utility
    asked = [math.fsum(y * float(c.works[k, i]) for k, y in enumerate(plan.cut_frames)) for i in range(3)]
    done = [tau * math.fsum(z * float(g) for z, g in zip(plan.clock_share, c.speed, strict=True)), bits, tau]
    broken += [
        f"resource {i}: {a:.9g} is asked a slot, {b:.9g} is done"
        for i, (a, b) in enumerate(zip(asked, done, strict=True))
        if a > b * (1 + 1e-6) + 1e-12
    ]
    bound = dual_value(problem, duals) if duals else None
    # Rows are kept to the LP's tolerance: what the policy is over them by, times their prices, it may be below the bound.
    excused = 1e-6 * sum(abs(float(duals[n])) * b for n, b in zip(RESOURCES, done, strict=True)) if duals else 0.0
    return Audit(by, objective, {"energy_j": energy}, tuple(broken), bound, excused + 1e-9 * abs(objective))


def dual_value(problem: StationaryBound, duals: dict[str, Any]) -> float:
    """The Lagrangian's minimum at given prices: a lower bound for any that are not negative.

    At a price of each work the best cut, clock and, slot by slot, level are found apart. What rounding may add is taken off.
    """
    control = problem.control
    c, tau, w = control.choices, control.slot_s, control.weights
    price = np.array([max(0.0, float(duals[n])) for n in RESOURCES])
    over = max(0.0, float(duals.get("power", 0.0)))
    joule = w["energy"] + over
    each = c.works @ price + joule * c.receive_j + problem.frame_penalty
    clock = tau * min(0.0, float((joule * c.active_w - price[0] * c.speed).min()))
    rates = problem.rate_bps
    radio = np.zeros(len(rates))
    for phi in control.rate_levels:
        watts = _watts(problem, phi * rates, rates)
        np.minimum(radio, joule * watts - price[1] * phi * rates, out=radio)
    terms = [joule * tau * float(c.power_w[0]), clock, tau * float(radio.mean()), -tau * float(price[2])]
    if control.power_budget_w is not None:
        terms.append(-over * tau * control.power_budget_w)
    terms.append(_frames(problem, float(each.min())))
    return math.fsum(terms) - ROUNDED * math.fsum(map(abs, terms))


def _frames(problem: StationaryBound, each: float) -> float:
    """The least of each·n − w_U·min(ln(1 + n), its mean's bound) over the frames n that may be admitted."""
    weight, n = problem.control.weights["throughput"], problem.arriving
    if not problem.control.admits:
        return each * n - weight * min(math.log1p(n), problem.most_utility)
    ends = [problem.least_frames, n, math.expm1(problem.most_utility)]
    ends += [weight / each - 1] if each > 0 else []
    inside = [min(max(x, problem.least_frames), n) for x in ends]
    return min(each * x - weight * min(math.log1p(x), problem.most_utility) for x in inside)


def _watts(problem: StationaryBound, rate: Any, channel: Any) -> Any:
    """Watts of the radio by its docstring's formula; 0 where it is silent."""
    radio = problem.control.choices.radio
    rate, channel = np.asarray(rate, float), np.asarray(channel, float)
    if radio.bandwidth_hz is None:
        drawn = radio.up_w_per_bps * rate
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (np.exp2(rate / radio.bandwidth_hz) - 1) / (np.exp2(channel / radio.bandwidth_hz) - 1)
        drawn = radio.up_w_per_bps * channel * np.where(channel > 0, share, 0.0)
    found = np.where(rate > 0, drawn + radio.base_w, 0.0)
    return found if found.ndim else float(found)
