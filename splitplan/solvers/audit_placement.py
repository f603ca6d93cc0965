"""The audit of an operator placement: its loads by sums of its own, edge by edge, never through groups or a model."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from splitplan.errors import DataError, FingerprintError
from splitplan.formulations.solution import Audit

if TYPE_CHECKING:
    from splitplan.data.operators import OperatorPlan
    from splitplan.formulations.placement import OperatorPlacement

NAME = "solvers.audit_placement.audit_placement"


def audit_placement(problem: OperatorPlacement, plan: OperatorPlan, duals: dict[str, Any]) -> Audit:
    """Re-add what each device computes and moves, edge by edge, and look for what the plan breaks.

    Parameters
    ----------
    problem : OperatorPlacement
    plan : OperatorPlan
    duals : dict
        Not used: the bound is the solver's.
    """
    graph, at = problem.graph, plan.placement
    try:
        plan.check(graph)
    except (DataError, FingerprintError) as e:
        return Audit(NAME, math.nan, {}, (str(e),))
    known = {*(f"acc{i}" for i in range(problem.accelerators)), *(f"cpu{i}" for i in range(problem.cpus))}
    if set(plan.devices) != known:
        return Audit(
            NAME,
            math.nan,
            {},
            (f"the plan is for {', '.join(plan.devices)}, the problem has {', '.join(sorted(known))}",),
        )
    broken: list[str] = []
    parts: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, list[float]] = defaultdict(list)
    by_name = {o.name: o for o in graph.operators}
    for o in graph.operators:
        seconds = o.cpu_s if at[o.name].startswith("cpu") else o.accelerator_s
        if seconds is None:
            broken.append(f"{o.name!r} cannot run on {at[o.name]}")
            continue
        parts[at[o.name]].append(seconds)
        memory[at[o.name]].append(o.memory_bytes)
    sends: dict[str, set[str]] = defaultdict(set)
    for a, b in graph.edges:
        if at[a] != at[b]:
            sends[a] |= {at[a], at[b]}
    for a, devices in sends.items():
        for d in devices:
            if d.startswith("acc"):
                parts[d].append(by_name[a].output_s)
    room = math.inf if problem.memory_bytes is None else problem.memory_bytes
    broken += [
        f"{d} takes {math.fsum(sizes):g} bytes of {room:g}"
        for d, sizes in memory.items()
        if d.startswith("acc") and math.fsum(sizes) > room * (1 + 1e-9)
    ]
    home: dict[str, str] = {}
    for o in graph.operators:
        if o.colour and home.setdefault(o.colour, at[o.name]) != at[o.name]:
            broken.append(f"colour {o.colour!r} is on {home[o.colour]} and on {at[o.name]}")
    if problem.contiguous:
        broken += _flows_back(problem, plan)
    loads = {f"{d}_s": math.fsum(parts[d]) for d in sorted(known)}
    return Audit(NAME, max(loads.values()), loads, tuple(broken))


def _flows_back(problem: OperatorPlacement, plan: OperatorPlan) -> list[str]:
    """Edges against the row of devices."""
    graph, position = problem.graph, {d: i for i, d in enumerate(plan.devices)}
    by_name = {o.name: o for o in graph.operators}
    with_forward = {o.colour for o in graph.operators if o.colour and not o.backward}
    found = []
    for a, b in graph.edges:
        here, there = position[plan.placement[a]], position[plan.placement[b]]
        tail, head = by_name[a], by_name[b]
        if not tail.backward and not head.backward and there < here:
            found.append(f"{a!r} on {plan.placement[a]} feeds {b!r} on {plan.placement[b]}, which comes before")
        alone = tail.colour not in with_forward or head.colour not in with_forward
        if tail.backward and head.backward and alone and here < there:
            found.append(f"backward {a!r} on {plan.placement[a]} feeds {b!r} on {plan.placement[b]}, which comes after")
    return found
