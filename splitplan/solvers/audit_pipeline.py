"""The audit of a pipeline's plan: its period by sums of its own, stage by stage and tensor by tensor, and its bound from the multipliers."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.errors import DataError, FingerprintError
from splitplan.formulations.solution import Audit
from splitplan.models.graph import INPUT
from splitplan.solvers.audit import SLACK, bytes_on_wire, seconds_by_layer
from splitplan.solvers.audit_rows import RowAudit

if TYPE_CHECKING:
    from splitplan.data.link import Link
    from splitplan.data.pipeline_plan import PipelinePlan
    from splitplan.formulations.pipeline import PipelinePlacement

NAME = "solvers.audit_pipeline.audit_pipeline"


def audit_pipeline(problem: PipelinePlacement, plan: PipelinePlan, duals: dict[str, Any]) -> Audit:
    """Re-add a pipeline's period and memory and look for what it breaks; recompute the bound that multipliers prove.

    Parameters
    ----------
    problem : PipelinePlacement
    plan : PipelinePlan
    duals : dict
        ``"bound"``: what proves a lower bound, by its ``kind`` (weights by place, in the system's order): ``layer``, equation (9);
        ``fractions`` with ``weights``, (10); ``walk`` with ``period``, ``weights``, ``stage``, ``second``, (11). Without it the
        bound is the solver's. With rows ``layer`` is (17), ``fractions`` (18), and there are no walks.
    """
    graph, system = problem.profile.graph, problem.system
    try:
        plan.check(graph)
    except (DataError, FingerprintError) as e:
        return Audit(NAME, math.nan, {}, (str(e),))
    broken = [
        f"{name} is {getattr(plan, name)!r}, the problem says {getattr(problem, name)!r}"
        for name in ("wire", "overlap", "source", "sink")
        if getattr(plan, name) != getattr(problem, name)
    ]
    broken += [f"the system has no place {p!r}" for p in plan.places if p not in system.places]
    broken += [
        f"the stage of {', '.join(s.places)} shares rows; the problem does not"
        for s in plan.stages
        if len(s.places) > 1 and not problem.rows
    ]
    if problem.max_stages is not None and len(plan.stages) > problem.max_stages:
        broken.append(f"{len(plan.stages)} stages, at most {problem.max_stages} are allowed")
    if broken:
        return Audit(NAME, math.nan, {}, tuple(broken))

    facts = _Facts(problem)
    busy, over, computing, waiting = (
        defaultdict[str, list[float]](list),
        defaultdict[str, list[float]](list),
        [0.0],
        [0.0],
    )
    start, handed = 0, list[tuple[str, str, int]]()
    for k, stage in enumerate(plan.stages):
        end = start + len(stage.layers)
        if len(stage.places) > 1:
            sums = facts.rows.stage(stage, start)
            broken += sums.broken
            seconds, mates = sums.seconds, sums.held
            for r, more in sums.over.items():
                over[r] += more
        else:
            seconds, mates = math.fsum(facts.seconds[stage.place][v] for v in stage.layers), {}
        for place in stage.places:
            busy[place].append(seconds)
        computing.append(seconds)
        for place, held in {stage.place: facts.held(start, end), **mates}.items():
            room = system.places[place].memory_bytes
            if room is not None and held > room * (1 + SLACK):
                broken.append(f"memory of {place}: {held:.6g} of {room:.6g} bytes")
        if k + 1 < len(plan.stages):
            handed.append((stage.place, plan.stages[k + 1].place, end))
        start = end
    if problem.source is not None and problem.source != plan.stages[0].place:
        handed.append((problem.source, plan.stages[0].place, 0))
    if problem.sink is not None and problem.sink != plan.stages[-1].place:
        handed.append((plan.stages[-1].place, problem.sink, len(graph)))
    for a, b, at in handed:
        way = facts.way(a, b)
        if way is None:
            broken.append(f"nothing leads from {a} to {b}")
            continue
        rate, overhead, header, delay, resources = way
        seconds = 8 * (math.fsum(facts.crossing(at)) * overhead + header) / rate
        for r in resources:
            over[r].append(seconds)
        if not problem.overlap:
            busy[a].append(seconds)
            busy[b].append(seconds)
        waiting += [seconds, delay]
    period = max(math.fsum(x) for x in [*busy.values(), *over.values()])
    terms = {"period_s": period, "latency_s": math.fsum([*computing, *waiting])}
    return Audit(NAME, period, terms, tuple(broken), bound=facts.bound(duals.get("bound")))


class _Facts:
    """The raw numbers, read from the profile, the graph and the system."""

    def __init__(self, problem: PipelinePlacement) -> None:
        self.problem, self.graph, self.system = problem, problem.profile.graph, problem.system
        self.places = list(self.system.places)
        self.names = [layer.name for layer in self.graph.layers]
        self.seconds = {p: seconds_by_layer(problem.profile, p, None) for p in self.places}

    @cached_property
    def rows(self) -> RowAudit:
        """Stages of several places."""
        pairs = [(a, b) for a in self.places for b in self.places if a != b]
        return RowAudit(self.problem, self.seconds, {x: way for x in pairs if (way := self.way(*x)) is not None})

    def alive(self, at: int) -> list[int]:
        """Tensors that were made before a position and are read after it, or are results on their way to the sink."""
        position = {name: i for i, name in enumerate(self.names)}
        found = []
        for k, t in enumerate(self.graph.tensors):
            made = t.producer == INPUT or position[t.producer] < at
            wanted = any(position[c] >= at for c in t.consumers) or (t.is_output and self.problem.sink is not None)
            if made and wanted:
                found.append(k)
        return found

    def crossing(self, at: int) -> list[float]:
        """Their bytes on the wire."""
        tensors = self.graph.tensors
        return [bytes_on_wire(tensors[k].size_bytes, tensors[k].dtype, self.problem.wire) for k in self.alive(at)]

    def buffer(self, at: int) -> float:
        """Their bytes in memory."""
        return math.fsum(self.graph.tensors[k].size_bytes for k in self.alive(at))

    def held(self, start: int, end: int) -> float:
        """Bytes of a stage: parameters once each, the largest working set, what comes and what goes."""
        layers = self.graph.layers[start:end]
        parameters = {p for layer in layers for p in layer.parameters}
        working = max(layer.memory_bytes for layer in layers)
        sizes = [self.graph.parameter_bytes[p] for p in parameters]
        return math.fsum([*sizes, working, self.buffer(start), self.buffer(end)])

    def way(self, a: str, b: str) -> tuple[float, float, float, float, tuple[str, ...]] | None:
        """Rate, overhead, header, delay and resources of the way from a to b."""
        s = self.system
        if s.shared is not None:
            k = s.shared
            return k.rate_up_bps, k.overhead, k.header_bytes, _delay(k, up=True), ("medium",)
        if s.star:
            if a not in s.star or b not in s.star:
                return None
            up, down = s.star[a], s.star[b]
            return (
                min(up.rate_up_bps, down.rate_down_bps),
                max(up.overhead, down.overhead),
                max(up.header_bytes, down.header_bytes),
                _delay(up, up=True) + _delay(down, up=False),
                (f"{a} up", f"{b} down"),
            )
        for (x, y), k in s.links.items():
            if (x, y) == (a, b):
                return k.rate_up_bps, k.overhead, k.header_bytes, _delay(k, up=True), (f"{a} to {b}",)
            if (x, y) == (b, a):
                return k.rate_down_bps, k.overhead, k.header_bytes, _delay(k, up=False), (f"{a} to {b}",)
        return None

    # -- the bound ---------------------------------------------------------------------------------------

    def bound(self, proof: dict[str, Any] | None) -> float | None:
        """What the multipliers prove; None without any."""
        if proof is None:
            return None
        self.rooms = [x.memory_bytes for x in self.system.places.values()]
        self.fits = self._fits()
        if self.problem.rows:
            given = None if proof["kind"] == "layer" else proof["weights"]
            return None if proof["kind"] == "walk" else self.rows.bound(given, self._able(), SLACK)
        if proof["kind"] == "walk":
            return self._by_walk(proof)
        times = np.array([[self.seconds[p][v] for v in self.names] for p in self.places])
        times[~self._able()] = np.inf
        if proof["kind"] == "layer":
            return float(times.min(axis=0).max())
        weights = np.array(proof["weights"], float)
        if (weights < 0).any():
            return None
        most = math.fsum(sorted(weights.tolist(), reverse=True)[: self.problem.most_stages])
        worth = np.where(np.isinf(times), np.inf, weights[:, None] * np.where(np.isinf(times), 0.0, times))
        return math.fsum(worth.min(axis=0).tolist()) / most if most > 0 else None

    def _fits(self) -> np.ndarray:
        """Whether the memory of a place holds the layers [i, j), array of bool, shape (places, n + 1, n + 1)."""
        n = len(self.names)
        fits = np.zeros((len(self.places), n + 1, n + 1), bool)
        rooms = np.array([math.inf if r is None else r * (1 + SLACK) for r in self.rooms])
        if np.isinf(rooms).all():
            return np.broadcast_to(np.arange(n + 1)[:, None] < np.arange(n + 1), fits.shape)
        buffers = [self.buffer(i) for i in range(n + 1)]
        for i in range(n):
            parameters, total, working = set[str](), 0.0, 0.0
            for j in range(i + 1, n + 1):
                layer = self.graph.layers[j - 1]
                total += sum(self.graph.parameter_bytes[p] for p in set(layer.parameters) - parameters)
                parameters |= set(layer.parameters)
                working = max(working, layer.memory_bytes)
                fits[:, i, j] = total + working + buffers[i] + buffers[j] <= rooms
        return fits

    def _able(self) -> np.ndarray:
        """Whether a place holds a layer in any run, shape (places, n)."""
        n = len(self.names)
        out = np.zeros((len(self.places), n), bool)
        for v in range(n):
            out[:, v] = self.fits[:, : v + 1, v + 1 :].any(axis=(1, 2))
        return out

    def _by_walk(self, proof: dict[str, Any]) -> float | None:
        """The period that is excluded because every walk of such stages and transfers costs more than its budget; None if one does not."""
        period, stage, second = (float(proof[k]) for k in ("period", "stage", "second"))
        weights = np.array(proof["weights"], float)
        n, m, shared = len(self.names), len(self.places), self.system.shared is not None
        if min(weights.min(), stage, second) < 0 or (second and not shared):
            return None
        limit = period * (1 + 1e-12)
        payload = [math.fsum(self.crossing(i)) for i in range(n + 1)]
        tau = np.full((m, m, n + 1), np.inf)
        for d, a in enumerate(self.places):
            for e, b in enumerate(self.places):
                if a != b and (way := self.way(a, b)) is not None:
                    tau[d, e] = [8 * (x * way[1] + way[2]) / way[0] for x in payload]
        enter, leave = np.zeros(m), np.zeros(m)
        if self.problem.source is not None:
            s = self.places.index(self.problem.source)
            enter = np.where(np.arange(m) == s, 0.0, tau[s, :, 0])
        if self.problem.sink is not None:
            t = self.places.index(self.problem.sink)
            leave = np.where(np.arange(m) == t, 0.0, tau[:, t, n])
        into, out = tau.min(axis=0), tau.min(axis=1)
        into[:, 0], out[:, n] = enter, leave
        times = np.array([[self.seconds[p][v] for v in self.names] for p in self.places])
        after = np.full((m, n + 1), np.inf)
        after[:, n] = np.where(leave <= limit, second * np.where(np.isinf(leave), 0.0, leave), np.inf)
        for i in range(n - 1, -1, -1):
            begun = np.full(m, np.inf)
            for e in range(m):
                busy = np.cumsum(times[e, i:])
                if not self.problem.overlap:
                    busy = busy + into[e, i] + out[e, i + 1 :]
                ends = np.flatnonzero((busy <= limit) & self.fits[e, i, i + 1 :])
                if len(ends):
                    begun[e] = weights[e] + stage + after[e, ends + i + 1].min()
            if i == 0:
                moved = np.where(np.isinf(enter), 0.0, enter)
                least = float(np.where(enter <= limit, second * moved + begun, np.inf).min())
                break
            for d in range(m):
                hop = tau[d, :, i]
                after[d, i] = np.where(hop <= limit, second * np.where(np.isinf(hop), 0.0, hop) + begun, np.inf).min()
        budget = math.fsum(weights.tolist()) + stage * self.problem.most_stages + second * period
        return period if least > budget * (1 + SLACK / 2) else None


def _delay(k: Link, *, up: bool) -> float:
    given = k.delay_up_s if up else k.delay_down_s
    return k.rtt_s / 2 if given is None else given
