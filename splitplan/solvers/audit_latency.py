"""The audit of an operator schedule: every begin against every input and every neighbour on its device, by sums of its own."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from splitplan.errors import DataError, FingerprintError
from splitplan.formulations.solution import Audit
from splitplan.models.graph import INPUT
from splitplan.solvers.audit import SLACK, bytes_on_wire, seconds_by_layer
from splitplan.solvers.audit_placement import audit_placement

if TYPE_CHECKING:
    from splitplan.data.link import Link
    from splitplan.data.operators import OperatorSchedule
    from splitplan.data.system import System
    from splitplan.formulations.latency_costs import PlacedLayers
    from splitplan.formulations.operator_latency import OperatorLatency

NAME = "solvers.audit_latency.audit_latency"


def audit_latency(problem: OperatorLatency, plan: OperatorSchedule, duals: dict[str, Any]) -> Audit:
    """Re-add when each operator is done and what it hands on, and look for what the schedule breaks.

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
    facts = _Operators(problem) if problem.layers is None else _Layers(problem.layers)
    broken = facts.broken(plan)
    if broken:
        return Audit(NAME, math.nan, {}, tuple(broken))
    begin, at = plan.begin_s, plan.placement
    end = {v: begin[v] + facts.seconds(v, d) for v, d in at.items()}
    last = max(end.values())
    slack = 1e-9 * max(last, 1e-9)
    for (a, b), moving in facts.moving(at).items():
        if moving is None:
            broken.append(f"nothing leads from {at[a]} to {at[b]}, and {b!r} reads what {a!r} makes")
        elif begin[b] + slack < end[a] + moving:
            broken.append(f"{b!r} begins at {begin[b]:g} s, before what {a!r} makes is there")
    for d in plan.devices:
        busy = sorted((begin[v], end[v], v) for v in at if at[v] == d)
        until, whose = 0.0, ""
        for start, stop, v in busy:
            if start + slack < until:
                broken.append(f"{d} has {whose!r} and {v!r} at once")
            if stop >= until:
                until, whose = stop, v
    return Audit(NAME, last, {"latency_s": last}, tuple(broken))


class _Operators:
    """The raw numbers of an operator graph on accelerators and CPUs."""

    def __init__(self, problem: OperatorLatency) -> None:
        self.problem = problem
        self.by_name = {o.name: o for o in problem.graph.operators}

    def broken(self, plan: OperatorSchedule) -> list[str]:
        """Where operators may not be."""
        return list(audit_placement(self.problem.place, plan.as_plan(), {}).violations)

    def seconds(self, name: str, device: str) -> float:
        """Of an operator on a device."""
        o = self.by_name[name]
        found = o.cpu_s if device.startswith("cpu") else o.accelerator_s
        return math.nan if found is None else found

    def moving(self, at: dict[str, str]) -> dict[tuple[str, str], float | None]:
        """Seconds of each edge: a hop for each accelerator that the output leaves or enters."""
        return {
            (a, b): 0.0 if at[a] == at[b] else self.by_name[a].output_s * sum(d.startswith("acc") for d in (at[a], at[b]))
            for a, b in self.problem.graph.edges
        }  # fmt: skip


class _Layers:
    """The raw numbers of a profile and a system, read anew."""

    def __init__(self, layers: PlacedLayers) -> None:
        self.layers, self.net, self.system = layers, layers.profile.graph, layers.system
        self.times = {p: seconds_by_layer(layers.profile, p, None) for p in self.system.places}

    def broken(self, plan: OperatorSchedule) -> list[str]:
        """Places that are not there, ends that are elsewhere, memory that is not there."""
        if set(plan.devices) != set(self.system.places):
            return [f"the plan is for {', '.join(plan.devices)}, the system has {', '.join(self.system.places)}"]
        ends = ((INPUT, "source", self.layers.source), (self.layers.results, "sink", self.layers.sink))
        found = [
            f"{name!r} is at {plan.placement[name]}, and the {what} is {place}"
            for name, what, place in ends
            if name is not None and place is not None and plan.placement[name] != place
        ]
        for place, device in self.system.places.items():
            here = [layer for layer in self.net.layers if plan.placement[layer.name] == place]
            parameters = {p for layer in here for p in layer.parameters}
            working = max((layer.memory_bytes for layer in here), default=0.0)
            taken = math.fsum([*(self.net.parameter_bytes[p] for p in parameters), working])
            if device.memory_bytes is not None and taken > device.memory_bytes * (1 + SLACK):
                found.append(f"memory of {place}: {taken:.6g} of {device.memory_bytes:.6g} bytes")
        return found

    def seconds(self, name: str, place: str) -> float:
        """Of a layer at a place; of input and results none."""
        return self.times[place].get(name, 0.0)

    def moving(self, at: dict[str, str]) -> dict[tuple[str, str], float | None]:
        """Seconds of each edge: one message of all tensors that the one reads of the other; None where nothing leads."""
        size: dict[tuple[str, str], list[float]] = defaultdict(list)
        for t in self.net.tensors:
            readers = [*t.consumers]
            if t.is_output and self.layers.results is not None:
                readers.append(self.layers.results)
            for reader in readers:
                size[t.producer, reader].append(bytes_on_wire(t.size_bytes, t.dtype, self.layers.wire))
        found: dict[tuple[str, str], float | None] = {}
        for (a, b), sizes in size.items():
            way = None if at[a] == at[b] else _way(self.system, at[a], at[b])
            if at[a] == at[b]:
                found[a, b] = 0.0
            elif way is None:
                found[a, b] = None
            else:
                rate, overhead, header, delay = way
                found[a, b] = 8 * (math.fsum(sizes) * overhead + header) / rate + delay
        return found


def _way(s: System, a: str, b: str) -> tuple[float, float, float, float] | None:
    """Rate, overhead, header and delay from a to b; None where nothing leads."""

    def up(k: Link) -> tuple[float, float, float, float]:
        return k.rate_up_bps, k.overhead, k.header_bytes, k.rtt_s / 2 if k.delay_up_s is None else k.delay_up_s

    def down(k: Link) -> tuple[float, float, float, float]:
        return k.rate_down_bps, k.overhead, k.header_bytes, k.rtt_s / 2 if k.delay_down_s is None else k.delay_down_s

    if s.shared is not None:
        return up(s.shared)
    if s.star:
        if a not in s.star or b not in s.star:
            return None
        first, second = up(s.star[a]), down(s.star[b])
        return min(first[0], second[0]), max(first[1], second[1]), max(first[2], second[2]), first[3] + second[3]
    if (a, b) in s.links:
        return up(s.links[a, b])
    return down(s.links[b, a]) if (b, a) in s.links else None
