"""Published and obvious rules, as policies on the same costs: what ours is compared with. Each says what it cannot see.

Those named after systems are renditions of the idea that their abstracts state, not of their code: Neurosurgeon (Kang et al., ASPLOS 2017),
DADS (Hu et al., INFOCOM 2019), QDMP (Zhang et al., ICPP 2020).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal, Protocol

import numpy as np

from splitplan.data.plan import SplitPlan
from splitplan.data.split_table import SplitTable
from splitplan.errors import DataError, SolverError, raise_all
from splitplan.formulations.costs import SplitTotals
from splitplan.formulations.split import SplitPoint
from splitplan.solvers.compress import articulations, block
from splitplan.solvers.cutgraph import cut_graph
from splitplan.solvers.hull import hull_cuts


class Baseline(Protocol):
    """A rule that cuts a problem, at the rate of its link."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    @property
    def cannot_see(self) -> str:
        """What it is blind to."""
        ...

    def plan(self, problem: SplitPoint) -> SplitPlan:
        """The cut that the rule chooses, with what the problem's own costs say of it."""
        ...


def at_rate(problem: SplitPoint, rate_up_bps: float) -> SplitPoint:
    """The same problem over a link of another uplink rate."""
    system = problem.system
    return replace(problem, system=system.with_link(replace(system.link, rate_up_bps=rate_up_bps)))


def _checked(problem: SplitPoint, far: np.ndarray, name: str) -> SplitPlan:
    plan = problem.plan_for(far)
    if broken := problem.violations(plan):
        raise DataError([f"{name} chooses a cut that breaks {b}" for b in broken], name)
    return plan


@dataclass(frozen=True)
class DeviceOnly:
    """Everything on the device."""

    name: ClassVar[str] = "device only"
    cannot_see: ClassVar[str] = "the server"

    def plan(self, problem: SplitPoint) -> SplitPlan:
        """Every layer on the device."""
        return _checked(problem, np.zeros(len(problem.profile.graph), bool), self.name)


@dataclass(frozen=True)
class ServerOnly:
    """Everything on the server, the raw input sent."""

    name: ClassVar[str] = "server only"
    cannot_see: ClassVar[str] = "the device, and how long the input is on the link"

    def plan(self, problem: SplitPoint) -> SplitPlan:
        """Every layer on the server."""
        return _checked(problem, np.ones(len(problem.profile.graph), bool), self.name)


@dataclass(frozen=True)
class Neurosurgeon:
    """The best cut of a chain: after some layer in topological order, layer times predicted by regression.

    For each kind of layer, seconds ≈ c₀ + c₁ flops + c₂ bytes written, least squares with non-negative coefficients over the profile's layers
    of that kind; the link as it is.
    """

    name: ClassVar[str] = "Neurosurgeon"
    cannot_see: ClassVar[str] = (
        "cuts across branches other than after a prefix, and what makes one layer of a kind slower than its size says"
    )

    def plan(self, problem: SplitPoint) -> SplitPlan:
        """The best prefix at the predicted times."""
        n = len(problem.profile.graph)
        x = np.arange(n) >= np.arange(n + 1)[:, None]
        stay, go = problem.pinned
        x = x[~x[:, sorted(stay)].any(axis=1) & x[:, sorted(go)].all(axis=1)]
        if not len(x):
            raise DataError("the pins allow no prefix", self.name)
        guessed = problem.costs.totals(x)
        device, server = (self.predicted_s(problem, place) for place in ("device", "server"))
        guess = replace(guessed, device_s=~x @ device, server_s=x @ server)
        return _checked(problem, x[int(np.argmin(self._price(problem, guess)))], self.name)

    @staticmethod
    def _price(problem: SplitPoint, totals: SplitTotals) -> np.ndarray:
        costs, value = problem.costs, 0.0
        for what, weight in problem.weights.items():
            if what == "memory":
                raise SolverError("Neurosurgeon weighs latency, energy and period; not memory")
            parts = list(costs.stages.values()) if what == "period" else [getattr(costs, what)]
            value = value + weight * np.max([np.asarray(p.of(totals)) for p in parts], axis=0)
        return np.asarray(value)

    @staticmethod
    def predicted_s(problem: SplitPoint, place: str) -> np.ndarray:
        """Seconds of each layer by the regression, shape (layers,)."""
        from scipy.optimize import nnls

        graph = problem.profile.graph
        seconds = problem.costs.device_s if place == "device" else problem.costs.server_s
        written = np.zeros(len(graph))
        for t, p in zip(graph.tensors, graph.producers, strict=True):
            if p >= 0:
                written[p] += t.size_bytes
        features = np.column_stack([np.ones(len(graph)), [layer.work_flops for layer in graph.layers], written])
        kinds = np.array([layer.kind for layer in graph.layers])
        out = np.zeros(len(graph))
        for kind in np.unique(kinds):
            of = kinds == kind
            size = np.maximum(np.abs(features[of]).max(axis=0), 1e-300)
            factor, _ = nnls(features[of] / size, seconds[of])
            out[of] = features[of] / size @ factor
        return out


@dataclass(frozen=True)
class DADS:
    """A minimum cut anew for each rate.

    Parameters
    ----------
    load : {"light", "heavy"}
        ``light``: least latency. ``heavy``: least period of a stream, among cuts that are minimum for some weights of device, link and server.
    """

    load: Literal["light", "heavy"] = "light"

    def __post_init__(self) -> None:
        if self.load not in ("light", "heavy"):
            raise DataError(f"load is {self.load!r}; give 'light' or 'heavy'", "DADS")

    @property
    def name(self) -> str:
        """DADS, and for which load."""
        return f"DADS {self.load}"

    @property
    def cannot_see(self) -> str:
        """By load."""
        if self.load == "light":
            return "limits, and that frames follow each other"
        return "limits, latency, and cuts that are best for the period but for no weighted sum"

    def plan(self, problem: SplitPoint) -> SplitPlan:
        """The cut for the load; the problem's own objective is not asked."""
        if self.load == "light":
            latency = replace(
                problem,
                objective="latency",
                deadline_s=None,
                energy_budget_j=None,
                period_limit_s=None,
                device_memory_bytes=None,
            )
            return _same(problem, latency.solve("min-cut").plan, self.name)
        far = hull_cuts(problem)
        return _checked(problem, far[int(np.argmin(problem.score(far)["period_s"]))], self.name)


@dataclass(frozen=True)
class QDMP:
    """Blocks between articulation nodes first, then a small minimum cut in each."""

    name: ClassVar[str] = "QDMP"
    cannot_see: ClassVar[str] = (
        "nothing that the minimum cut sees: the same cut, found on smaller graphs; anew for each rate"
    )

    def plan(self, problem: SplitPoint) -> SplitPlan:
        """The best of all blocks, for a linear objective."""
        if problem.linear_objective is None:
            raise SolverError("QDMP adds up latencies; give an objective of latency and energy")
        fixed, rising = problem.linear_by_lambda
        graph, lam = cut_graph(problem, fixed, rising), 1.0 / problem.system.link.rate_up_bps
        n, positions, joints = len(graph), np.arange(len(graph)), articulations(graph)
        found = [positions > e for e in np.unique([-1, *joints, n - 1])]
        for entry, end in zip([-1, *joints.tolist()], [*joints.tolist(), None], strict=True):
            stop = n if end is None else end
            if stop - entry > 1 and not graph.stay[stop:].any():
                part = block(graph, entry, end)
                far = positions > entry
                far[entry + 1 : entry + 1 + len(part)] = part.cut(1.0, lam)[0]
                found.append(far)
        x = np.array(found)
        allowed = ~(x & graph.stay).any(axis=1) & ~(~x & graph.go).any(axis=1)
        if not allowed.any():
            raise DataError("the pins allow no cut", self.name)
        x = x[allowed]
        return _checked(problem, x[int(np.argmin(problem.score(x)["objective"]))], self.name)


@dataclass(frozen=True)
class Scan:
    """All cuts of a table priced at the rate, one after the other."""

    table: SplitTable

    name: ClassVar[str] = "scan of precomputed cuts"
    cannot_see: ClassVar[str] = "nothing that the table holds; it only takes longer"

    @cached_property
    def _cuts(self) -> np.ndarray:
        return np.arange(len(self.table))

    def plan(self, problem: SplitPoint) -> SplitPlan:
        """The cheapest of the table's cuts."""
        self.table.check(problem.profile.graph, problem.system)
        raise_all(
            [
                f"the table is for {name} = {mine!r}, the problem for {theirs!r}: build it again"
                for name in ("objective", "wire", "result", "input_bytes", "clock_hz")
                if (mine := getattr(self.table, name)) != (theirs := self._asked(problem, name))
            ],
            self.name,
        )
        costs = self.table.cost(problem.system.link.rate_up_bps, self._cuts)
        return _same(problem, self.table.plan(int(np.argmin(costs))), self.name)

    @staticmethod
    def _asked(problem: SplitPoint, name: str) -> object:
        return {"objective": problem.weights, "clock_hz": problem.costs.clock_hz}.get(name, getattr(problem, name))


def _same(problem: SplitPoint, plan: SplitPlan, name: str) -> SplitPlan:
    far = set(plan.server_layers)
    return _checked(problem, np.array([layer.name in far for layer in problem.profile.graph.layers]), name)
