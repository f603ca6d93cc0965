"""The audit of an operator schedule: every begin against every input and every neighbour on its device, by sums of its own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from splitplan.errors import DataError, FingerprintError
from splitplan.formulations.solution import Audit
from splitplan.solvers.audit_placement import audit_placement

if TYPE_CHECKING:
    from splitplan.data.operators import OperatorSchedule
    from splitplan.formulations.operator_latency import OperatorLatency

NAME = "solvers.audit_latency.audit_latency"


def audit_latency(problem: OperatorLatency, plan: OperatorSchedule, duals: dict[str, Any]) -> Audit:
    """Re-add when each operator is done, and look for what the schedule breaks.

    Parameters
    ----------
    problem : OperatorLatency
    plan : OperatorSchedule
    duals : dict
        Not used: the bound is the solver's.
    """
    try:
        plan.check(problem.graph)
    except (DataError, FingerprintError) as e:
        return Audit(NAME, math.nan, {}, (str(e),))
    broken = list(audit_placement(problem.place, plan.as_plan(), {}).violations)
    if broken:
        return Audit(NAME, math.nan, {}, tuple(broken))
    by_name = {o.name: o for o in problem.graph.operators}
    begin, at = plan.begin_s, plan.placement
    end = {}
    for name, o in by_name.items():
        seconds = o.cpu_s if at[name].startswith("cpu") else o.accelerator_s
        end[name] = begin[name] + (math.nan if seconds is None else seconds)
    last = max(end.values())
    slack = 1e-9 * max(last, 1e-9)
    for a, b in problem.graph.edges:
        hops = 0 if at[a] == at[b] else sum(d.startswith("acc") for d in (at[a], at[b]))
        if begin[b] + slack < end[a] + hops * by_name[a].output_s:
            broken.append(f"{b!r} begins at {begin[b]:g} s, before what {a!r} makes is there")
    for d in problem.devices:
        busy = sorted((begin[v], end[v], v) for v in by_name if at[v] == d)
        until, whose = 0.0, ""
        for start, stop, v in busy:
            if start + slack < until:
                broken.append(f"{d} has {whose!r} and {v!r} at once")
            if stop >= until:
                until, whose = stop, v
    return Audit(NAME, last, {"latency_s": last}, tuple(broken))
