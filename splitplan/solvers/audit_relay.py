"""The audit of a relay's plan: its cost by sums of its own, hop by hop, never through a model or its coefficients."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from splitplan.errors import DataError, FingerprintError
from splitplan.formulations.solution import Audit
from splitplan.models.graph import INPUT
from splitplan.solvers.audit import bytes_on_wire, seconds_by_layer

if TYPE_CHECKING:
    from splitplan.data.relay_plan import RelayPlan
    from splitplan.formulations.relay import RelaySplit
    from splitplan.models.graph import Tensor

NAME = "solvers.audit_relay.audit_relay"


def audit_relay(problem: RelaySplit, plan: RelayPlan, duals: dict[str, Any]) -> Audit:
    """Re-add a plan's cost, layer by layer and hop by hop, and look for what it breaks.

    Parameters
    ----------
    problem : RelaySplit
    plan : RelayPlan
    duals : dict
        Not used: a relay's bound is the solver's.
    """
    graph, system, path = problem.profile.graph, problem.system, problem.path
    try:
        plan.check(graph)
    except (DataError, FingerprintError) as e:
        return Audit(NAME, math.nan, {}, (str(e),))
    if plan.path != path:
        return Audit(NAME, math.nan, {}, (f"path is {plan.path!r}, the problem says {path!r}",))
    at = plan.placement
    broken = [
        f"pins[{place!r}]: {v!r} is at {at[v]}"
        for place, layers in problem.pins.items()
        for v in layers
        if at[v] != place
    ]
    clock = system.places[path[0]].check_clock(problem.clock_hz)
    for name, given, stated in (
        ("wire", plan.wire, problem.wire),
        ("result", plan.result, problem.result),
        ("clock", plan.clock_hz, clock),
    ):
        if given != stated:
            broken.append(f"{name} is {given!r}, the problem says {stated!r}")

    born = {t.name: bytes_on_wire(t.size_bytes, t.dtype, problem.wire) for t in graph.inputs}
    loads: dict[tuple[str, str], list[float]] = defaultdict(list)
    for t in graph.tensors:
        for a, b in plan.routes.get(t.name, ()) if plan.routes is not None else _by_relay(t, plan):
            back = path.index(a) > path.index(b)
            neighbours = abs(path.index(a) - path.index(b)) == 1
            if ((b, a) if back else (a, b)) not in system.links or not (neighbours or problem.direct):
                broken.append(f"tensor {t.name!r} goes {a} → {b}, and the problem has no such link")
                continue
            size = bytes_on_wire(t.size_bytes, t.dtype, problem.wire)
            if t.name in born and a == path[0] and problem.input_bytes is not None:
                whole = math.fsum(born.values())
                size = problem.input_bytes * (size / whole if whole else 1 / len(born))
            loads[a, b].append(size)

    compute = {place: _compute(problem, plan, place, clock if place == path[0] else None) for place in path}
    busy, delay, radio = list[float](), list[float](), list[float]()
    for (a, b), payload in loads.items():
        back = path.index(a) > path.index(b)
        link = system.links[(b, a) if back else (a, b)]
        rate = link.rate_down_bps if back else link.rate_up_bps
        seconds = 8 * (math.fsum(payload) * link.overhead + link.header_bytes) / rate
        busy.append(seconds)
        delay.append(link.down_delay_s if back else link.up_delay_s)
        if "energy" in problem.weights and path[0] in (a, b):
            power = link.needs_radio
            radio.append(((power.down_w_per_bps if back else power.up_w_per_bps) * rate + power.base_w) * seconds)

    terms = {"latency_s": math.fsum([*compute.values(), *busy, *delay])}
    if "energy" in problem.weights:
        device = system.places[path[0]]
        elsewhere = math.fsum([*(s for p, s in compute.items() if p != path[0]), *busy, *delay])
        terms["energy_j"] = math.fsum([device.power_w(clock) * compute[path[0]], device.idle_w * elsewhere, *radio])
    keys = {"latency": "latency_s", "energy": "energy_j"}
    objective = math.fsum(weight * terms[keys[what]] for what, weight in problem.weights.items())
    return Audit(NAME, objective, terms, tuple(broken))


def _compute(problem: RelaySplit, plan: RelayPlan, place: str, clock_hz: float | None) -> float:
    """Seconds of the layers at a place."""
    times = seconds_by_layer(problem.profile, place, clock_hz)
    return math.fsum(times[v] for v, p in plan.placement.items() if p == place)


def _by_relay(tensor: Tensor, plan: RelayPlan) -> list[tuple[str, str]]:
    """The hops of a tensor that goes from neighbour to neighbour: to the farthest place that needs it, or back to the result's."""
    path = plan.path
    start = 0 if tensor.producer == INPUT else path.index(plan.placement[tensor.producer])
    far = max([start, *(path.index(plan.placement[c]) for c in tensor.consumers)])
    near = start
    if tensor.is_output and plan.result in path:
        far, near = max(far, path.index(plan.result)), min(start, path.index(plan.result))
    forward = [(path[i], path[i + 1]) for i in range(start, far)]
    return forward + [(path[i], path[i - 1]) for i in range(start, near, -1)]
