"""The audit: a plan's cost by sums of its own, from the raw profile and system, never through a model or its coefficients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from splitplan.errors import DataError, FingerprintError
from splitplan.formulations.solution import Audit

if TYPE_CHECKING:
    from splitplan.data.plan import SplitPlan
    from splitplan.data.profile import Profile
    from splitplan.data.users import AllocationPlan
    from splitplan.formulations.allocation import RateAllocation
    from splitplan.formulations.split import SplitPoint

SLACK = 1e-9
"""Relative slack of a limit, for the rounding of sums in another order."""

ROUNDED = 2e-15
"""Relative error of a term of the dual value, some nine roundings of 2⁻⁵³; where terms cancel, it is all that counts."""


def audit_split(problem: SplitPoint, plan: SplitPlan, duals: dict[str, Any]) -> Audit:
    """Re-add a split's cost, layer by layer and tensor by tensor, and look for what it breaks.

    Parameters
    ----------
    problem : SplitPoint
    plan : SplitPlan
    duals : dict
        Not used: a split's bound is the solver's.
    """
    graph, system, link = problem.profile.graph, problem.system, problem.system.link
    broken: list[str] = []
    try:
        plan.check(graph)
    except (DataError, FingerprintError) as e:
        return Audit("solvers.audit.audit_split", math.nan, {}, (str(e),))
    far = set(plan.server_layers)
    broken += [f"pin_device: {v!r} is on the server" for v in problem.pin_device if v in far]
    broken += [f"pin_server: {v!r} is on the device" for v in problem.pin_server if v not in far]
    for name in ("wire", "result"):
        if getattr(plan, name) != getattr(problem, name):
            broken.append(f"{name} is {getattr(plan, name)!r}, the problem says {getattr(problem, name)!r}")
    clock = problem.system.device.check_clock(problem.clock_hz)
    if plan.clock_hz != clock:
        broken.append(f"clock is {plan.clock_hz}, the problem says {clock}")

    device_times, server_times = (
        seconds_by_layer(problem.profile, place, at) for place, at in (("device", clock), ("server", None))
    )
    device_s = math.fsum(device_times[v] for v in plan.device_layers)
    server_s = math.fsum(server_times[v] for v in plan.server_layers)

    sent = [t for t in graph.tensors if t.producer not in far and any(c in far for c in t.consumers)]
    if problem.result == "server":
        sent += [t for t in graph.outputs if t.producer not in far and t not in sent]
    back = [t for t in graph.outputs if t.producer in far] if problem.result == "device" else []
    payload = {t.name: bytes_on_wire(t.size_bytes, t.dtype, problem.wire) for t in sent}
    if problem.input_bytes is not None:
        born = {t.name: bytes_on_wire(t.size_bytes, t.dtype, problem.wire) for t in graph.inputs}
        whole = math.fsum(born.values())
        for name in born.keys() & payload.keys():
            payload[name] = problem.input_bytes * (born[name] / whole if whole else 1 / len(born))
    up_payload = math.fsum(payload.values())
    down_payload = math.fsum(bytes_on_wire(t.size_bytes, t.dtype, problem.wire) for t in back)
    up_busy = 8 * (up_payload * link.overhead + (link.header_bytes if sent else 0)) / link.rate_up_bps
    down_busy = 8 * (down_payload * link.overhead + (link.header_bytes if back else 0)) / link.rate_down_bps
    delay = (link.up_delay_s if sent else 0) + (link.down_delay_s if back else 0)

    terms = {
        "latency_s": math.fsum([device_s, up_busy, server_s, down_busy, delay]),
        "period_s": max(device_s, up_busy, server_s, down_busy),
        "memory_bytes": _memory(problem, plan, {t.name for t in sent}),
        "up_bytes": up_payload * link.overhead + (link.header_bytes if sent else 0),
    }
    if "energy" in problem.measures:
        device, radio = system.device, link.needs_radio
        terms["energy_j"] = math.fsum(
            [
                device.power_w(clock) * device_s,
                device.idle_w * math.fsum([up_busy, server_s, down_busy, delay]),
                (radio.up_w_per_bps * link.rate_up_bps + radio.base_w) * up_busy,
                (radio.down_w_per_bps * link.rate_down_bps + radio.base_w) * down_busy,
            ]
        )
    term = {
        "latency": "latency_s",
        "energy": "energy_j",
        "period": "period_s",
        "memory": "memory_bytes",
        "upload": "up_bytes",
    }
    objective = math.fsum(weight * terms[term[what]] for what, weight in problem.weights.items())
    for name, (what, limit) in problem.limits.items():
        if not terms[term[what]] <= limit * (1 + SLACK):
            broken.append(f"{name}={limit:g}: {what} is {terms[term[what]]:.6g}")
    return Audit("solvers.audit.audit_split", objective, terms, tuple(broken))


def seconds_by_layer(profile: Profile, place: str, clock_hz: float | None) -> dict[str, float]:
    """Seconds by layer, straight from the profile's rows; the highest clock when none is named."""
    rows = [(layer, clock, seconds) for layer, at, clock, seconds in profile.records if at == place]
    if clock_hz is None:
        clock_hz = max((clock for _, clock, _ in rows if not math.isnan(clock)), default=None)
    return {
        layer: seconds
        for layer, clock, seconds in rows
        if clock == clock_hz or (clock_hz is None and math.isnan(clock))
    }


def bytes_on_wire(size_bytes: float, dtype: str, wire: str) -> float:
    """A tensor's bytes at the wire's precision: floats are narrowed, never widened."""
    wide = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
    narrow = {"fp32": 4, "fp16": 2, "int8": 1}
    return size_bytes * min(1.0, narrow[wire] / wide[dtype]) if dtype in wide else size_bytes


def _memory(problem: SplitPoint, plan: SplitPlan, sent: set[str]) -> float:
    """Bytes that the head holds: its parameters once each, its largest working set, what waits to be sent."""
    graph = problem.profile.graph
    head = [graph.layers[graph.index[v]] for v in plan.device_layers]
    parameters = {p for layer in head for p in layer.parameters}
    waiting = {t.name: t.size_bytes for t in graph.tensors if t.name in sent}
    working = max((layer.memory_bytes for layer in head), default=0.0)
    return math.fsum([*(graph.parameter_bytes[p] for p in parameters), working, *waiting.values()])


def audit_allocation(problem: RateAllocation, plan: AllocationPlan, duals: dict[str, Any]) -> Audit:
    """Re-add an allocation's cost, user by user; recompute the bound from the multipliers by weak duality.

    Parameters
    ----------
    problem : RateAllocation
    plan : AllocationPlan
    duals : dict
        Multipliers, as the formulation names them; empty: no bound is recomputed.
    """
    broken: list[str] = []
    cost = []
    for i, user in enumerate(problem.users):
        rate, speed = float(plan.rate_bps[i]), float(plan.speed[i])
        for what, share, amount in (("rate", rate, user.upload_bytes), ("speed", speed, user.server_work)):
            if not math.isfinite(share) or share < 0 or (amount > 0 and share <= 0):
                broken.append(f"user {user.name!r}: {what} is {share!r}")
        if broken:
            continue
        seconds = user.device_s + user.fixed_s
        seconds += 8 * user.upload_bytes / rate if user.upload_bytes else 0.0
        seconds += user.server_work / speed if user.server_work else 0.0
        cost.append(user.weight * seconds)
        limits = (
            ("deadline_s", seconds, user.deadline_s),
            ("rate_cap_bps", rate, user.rate_cap_bps),
            ("speed_cap", speed, user.speed_cap),
        )
        for name, value, limit in limits:
            if limit is not None and value > limit * (1 + problem.feasibility_tolerance):
                broken.append(f"user {user.name!r}: {name}={limit:g}, it gets {value:.9g}")
    for name, used, total in (
        ("uplink_bps", math.fsum(map(float, plan.rate_bps)), problem.uplink_bps),
        ("server_speed", math.fsum(map(float, plan.speed)), problem.server_speed),
    ):
        if not used <= total * (1 + problem.feasibility_tolerance):
            broken.append(f"{name}={total:g}: {used:.9g} is given out")
    if broken:
        return Audit("solvers.audit.audit_allocation", math.nan, {"objective": math.nan}, tuple(broken))
    total = math.fsum(cost)
    bound, excused = (_dual_value(problem, duals), _excused(problem, plan, duals)) if duals else (None, 0.0)
    return Audit("solvers.audit.audit_allocation", total, {"objective": total}, (), bound, excused)


def _dual_value(problem: RateAllocation, duals: dict[str, Any]) -> float:
    """The Lagrangian's minimum at given multipliers: a lower bound for any of them that are not negative.

    With price ν of a bit/s, η of a unit of speed and δ_i ≥ 0 of a user's deadline, the best response of user i in R is
    √((w+δ)·8d/ν) clipped to its cap, likewise in κ. What the rounding of the terms may add is taken off.
    """
    rate_price, speed_price = max(0.0, float(duals["rate_price"])), max(0.0, float(duals["speed_price"]))
    value = [-rate_price * problem.uplink_bps, -speed_price * problem.server_speed]
    for user, deadline_price in zip(problem.users, duals["deadline_price"], strict=True):
        extra = max(0.0, float(deadline_price)) if user.deadline_s is not None else 0.0
        weight = user.weight + extra
        value += [weight * (user.device_s + user.fixed_s), -extra * (user.deadline_s or 0.0)]
        for amount, price, cap, total in (
            (8 * user.upload_bytes, rate_price, user.rate_cap_bps, problem.uplink_bps),
            (user.server_work, speed_price, user.speed_cap, problem.server_speed),
        ):
            if amount:
                most = min(cap if cap is not None else math.inf, total)
                best = min(most, math.sqrt(weight * amount / price)) if price > 0 else most
                value += [weight * amount / best, price * best]
    return math.fsum(value) - ROUNDED * math.fsum(map(abs, value))


def _excused(problem: RateAllocation, plan: AllocationPlan, duals: dict[str, Any]) -> float:
    """What a plan may cost less than a true bound for being over its limits by rounding: each overrun times its multiplier.

    For the Lagrangian is at least its minimum at any shares within the caps. A share over its cap by a factor 1 + e serves at most
    e times the user's priced seconds at the cap sooner than the cap would.
    """
    over = [
        max(0.0, float(duals[name])) * max(0.0, math.fsum(map(float, shares)) - total)
        for name, shares, total in (
            ("rate_price", plan.rate_bps, problem.uplink_bps),
            ("speed_price", plan.speed, problem.server_speed),
        )
    ]
    for i, user in enumerate(problem.users):
        extra = max(0.0, float(duals["deadline_price"][i])) if user.deadline_s is not None else 0.0
        seconds = user.device_s + user.fixed_s
        for amount, share, cap in (
            (8 * user.upload_bytes, float(plan.rate_bps[i]), user.rate_cap_bps),
            (user.server_work, float(plan.speed[i]), user.speed_cap),
        ):
            seconds += amount / share if amount else 0.0
            if amount and cap is not None:
                over.append((user.weight + extra) * amount / cap * max(0.0, share / cap - 1.0))
        if user.deadline_s is not None:
            over.append(extra * max(0.0, seconds - user.deadline_s))
    return math.fsum(over)
