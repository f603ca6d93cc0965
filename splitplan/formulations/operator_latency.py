"""OperatorLatency: when and where each operator of a network runs so that one sample is done soonest. States; solves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitplan.data.operators import OperatorGraph, OperatorSchedule
from splitplan.errors import DataError
from splitplan.formulations.base import TOLERANCE, Formulation
from splitplan.formulations.placement import OperatorPlacement, shared
from splitplan.formulations.placement_costs import Groups
from splitplan.formulations.scaled import Scaled
from splitplan.formulations.solution import Alternative
from splitplan.models.order import topological

if TYPE_CHECKING:
    import pyomo.environ as pyo

LEVELS = 24
"""Most times at which the bound cuts off what comes before and after."""


@dataclass(frozen=True, eq=False)
class OperatorLatency(Scaled, Formulation):
    r"""Schedule the operators v of one sample on K accelerators and L CPUs, each of which runs one at a time.

    Variables: x_{g,d} ∈ {0,1}, 1 when group g (the operators of one colour) runs on device d; s_v ≥ 0, seconds at which v begins;
    m_{vw,d} ∈ [0,1], 1 when just one of v and w is on accelerator d; o_{vw} ∈ {0,1}, 1 when v comes before w. T seconds, the latency.
    p_v = Σ_d p_{v,d} x_{g(v),d} are v's seconds where it runs, c_v those to move its output between an accelerator and the host.

    Minimize T subject to

    (1) Σ_d x_{g,d} = 1; x_{g,d} = 0 where g cannot run.
    (2) Σ_g s_g x_{g,d} ≤ M on every accelerator, s_g being memory here.
    (3) m_{vw,d} ≥ ±(x_{g(v),d} − x_{g(w),d}) for every edge v → w: an output leaves an accelerator and enters one, each for c_v.
    (4) s_w ≥ s_v + p_v + c_v Σ_{accelerators d} m_{vw,d} for every edge v → w.                                              [s]
    (5) s_w ≥ s_v + p_v − H (3 − o_{vw} − x_{g(v),d} − x_{g(w),d}), s_v ≥ s_w + p_w − H (2 + o_{vw} − x_{g(v),d} − x_{g(w),d}) for
        every device d and every two operators of which neither needs the other: one at a time. H: a known schedule's latency. [s]
    (6) T ≥ s_v + p_v.                                                                                                      [s]

    Devices compute while they move (unlike in `OperatorPlacement` (5), where a frame's transfers delay the next frame's work).
    Two kinds of devices are unlike; more kinds would only change p_{v,d}. NP-hard already for two CPUs and no edges.

    Lower bounds: the longest path of least seconds; and for any h, t: h + t + what operators that begin no sooner than h and are
    followed by t take when shared out evenly over all devices.

    Parameters
    ----------
    graph : OperatorGraph
    accelerators, cpus : int, optional
        What the graph says unless given.
    memory_bytes : float, optional
        Of an accelerator; what the graph says unless given.
    """

    graph: OperatorGraph
    accelerators: int = None  # type: ignore[assignment]  # None is replaced by the graph's word
    cpus: int = None  # type: ignore[assignment]
    memory_bytes: float | None = None
    place: OperatorPlacement = field(init=False, repr=False)

    kind: ClassVar[str] = "operator-latency"

    def __post_init__(self) -> None:
        if not isinstance(self.graph, OperatorGraph):
            raise DataError("give OperatorLatency(graph, …) a splitplan.OperatorGraph", "OperatorLatency")
        set_ = object.__setattr__
        try:
            place = OperatorPlacement(self.graph, self.accelerators, False, self.cpus, self.memory_bytes)
        except DataError as e:
            raise DataError(e.problems, f"OperatorLatency for {self.graph.name!r}") from e
        set_(self, "place", place)
        for name in ("accelerators", "cpus", "memory_bytes"):
            set_(self, name, getattr(place, name))

    # -- what it is, for solvers ---------------------------------------------------------------------

    @property
    def groups(self) -> Groups:
        """The operators that run on one device together."""
        return self.place.groups

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of the devices, accelerators first."""
        return self.place.devices

    @cached_property
    def seconds(self) -> np.ndarray:
        """Of each operator on an accelerator, on a CPU; infinite where it or one of its colour cannot run. Shape (operators, 2)."""
        ops = self.graph.operators
        own = np.array([[o.accelerator_s, o.cpu_s] for o in ops], float)  # None becomes NaN
        found: np.ndarray = np.where(self.place.can[self.groups.of], own, np.inf)
        return found

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The operators in a topological order."""
        return tuple(topological(self.graph.consumers))

    @cached_property
    def before(self) -> tuple[tuple[int, ...], ...]:
        """For each operator those whose output it reads."""
        found: list[list[int]] = [[] for _ in self.graph.operators]
        for v, readers in enumerate(self.graph.consumers):
            for w in readers:
                found[w].append(v)
        return tuple(map(tuple, found))

    @cached_property
    def heads(self) -> np.ndarray:
        """Least seconds that pass before each operator begins, shape (operators,)."""
        least, found = self.seconds.min(axis=1), np.zeros(len(self.graph))
        for v in self.order:
            found[v] = max((found[u] + least[u] for u in self.before[v]), default=0.0)
        return found

    @cached_property
    def tails(self) -> np.ndarray:
        """Least seconds from when each operator is done until all is, shape (operators,)."""
        least, found = self.seconds.min(axis=1), np.zeros(len(self.graph))
        for v in reversed(self.order):
            found[v] = max((found[w] + least[w] for w in self.graph.consumers[v]), default=0.0)
        return found

    @cached_property
    def bound(self) -> float:
        """The larger of the class's lower bounds; the second one for some h and t."""
        best = float((self.heads + self.seconds.min(axis=1) + self.tails).max())
        for h in _levels(self.heads):
            for t in _levels(self.tails):
                those = (self.heads >= h) & (self.tails >= t)
                if those.any():
                    a, b = self.seconds[those].T
                    best = max(best, h + t + shared(a, b, self.accelerators, self.cpus))
        return best * (1 - 1e-12)

    @cached_property
    def sampled(self) -> tuple[float, float, float | None]:
        """The bound, and all operators one after the other; no schedule is known."""
        most = float(self.seconds.min(axis=1).sum())
        return self.bound or most, most, None

    # -- plain arithmetic ----------------------------------------------------------------------------

    def begun(self, device: np.ndarray, sequence: np.ndarray) -> np.ndarray:
        """When operators begin that are taken in a topological sequence, each as soon as its inputs are there and its device is free.

        Parameters
        ----------
        device : array of int, shape (operators,)
        sequence : array of int, shape (operators,)
        """
        kind = (device >= self.accelerators).astype(int)
        own = self.seconds[np.arange(len(device)), kind].tolist()
        free, begun, done = [0.0] * len(self.devices), [0.0] * len(device), [0.0] * len(device)
        at, output = device.tolist(), [o.output_s for o in self.graph.operators]
        for v in sequence.tolist():
            ready = free[at[v]]
            for u in self.before[v]:
                there = done[u]
                if at[u] != at[v]:
                    there += output[u] * ((at[u] < self.accelerators) + (at[v] < self.accelerators))
                ready = max(ready, there)
            begun[v], done[v] = ready, ready + own[v]
            free[at[v]] = done[v]
        return np.array(begun)

    def plan_for(self, device: np.ndarray, begin_s: np.ndarray) -> OperatorSchedule:
        """The schedule that runs operator v on ``devices[device[v]]`` from ``begin_s[v]`` on."""
        names = [o.name for o in self.graph.operators]
        kind = (device >= self.accelerators).astype(int)
        end = float((begin_s + self.seconds[np.arange(len(names)), kind]).max())
        return OperatorSchedule(
            self.graph.name,
            self.graph.fingerprint,
            self.devices,
            {v: self.devices[d] for v, d in zip(names, device.tolist(), strict=True)},
            {v: float(s) for v, s in zip(names, begin_s, strict=True)},
            {"latency_s": end},
        )

    def evaluate(self, plan: OperatorSchedule) -> dict[str, float]:
        """``objective`` (6), and the seconds that each device computes, ``acc0_s``, …"""
        plan.check(self.graph)
        busy = dict.fromkeys(self.devices, 0.0)
        end = 0.0
        for o in self.graph.operators:
            seconds = self._seconds_of(o.name, plan)
            busy[plan.placement[o.name]] += seconds
            end = max(end, plan.begin_s[o.name] + seconds)
        return {"objective": end} | {f"{d}_s": s for d, s in busy.items()}

    def _seconds_of(self, name: str, plan: OperatorSchedule) -> float:
        d = plan.placement[name]
        if d not in self.devices:
            raise DataError(f"operator {name!r} is on {d!r}, which the problem has not", "plan")
        return float(self.seconds[self.graph.index[name], int(d.startswith("cpu"))])

    def violations(self, plan: OperatorSchedule) -> list[str]:
        """What a schedule breaks: (1) to (5), in the user's words."""
        broken = self.place.violations(plan.as_plan())
        slack = TOLERANCE * max(self.evaluate(plan)["objective"], self.smallest)
        end = {v: s + self._seconds_of(v, plan) for v, s in plan.begin_s.items()}
        cost = {o.name: o.output_s for o in self.graph.operators}
        for a, b in self.graph.edges:
            here, there = plan.placement[a], plan.placement[b]
            moves = (here.startswith("acc") + there.startswith("acc")) if here != there else 0
            if plan.begin_s[b] < end[a] + moves * cost[a] - slack:
                broken.append(f"{b!r} begins before the output of {a!r} is there")
        for d in self.devices:
            last, until = "", 0.0
            for v in sorted(plan.operators_on(d), key=lambda v: (plan.begin_s[v], end[v])):
                if plan.begin_s[v] < until - slack:
                    broken.append(f"{d} runs {last!r} and {v!r} at once")
                if end[v] >= until:
                    last, until = v, end[v]
        return broken

    # -- the declarative model -----------------------------------------------------------------------

    def build(self) -> pyo.ConcreteModel:
        """The MILP as a Pyomo model, its objective scaled by `scale`."""
        from splitplan.formulations import operator_latency_model

        return operator_latency_model.build(self)

    def read(self, values: Mapping[str, float]) -> OperatorSchedule:
        """The schedule in a solver's values of the model's variables, by name; times anew, from the order alone."""
        from splitplan.formulations import operator_latency_model

        device, sequence = operator_latency_model.read(self, values)
        return self.plan_for(device, self.begun(device, sequence))

    # -- for people ----------------------------------------------------------------------------------

    def alternatives(self, plan: OperatorSchedule) -> tuple[Alternative, ...]:
        """What the schedule was chosen over: everything on one device."""
        found = []
        for d in dict.fromkeys([0, self.accelerators] if self.accelerators and self.cpus else [0]):
            device = np.full(len(self.graph), d)
            if not np.isfinite(self.seconds[:, int(d >= self.accelerators)]).all():
                continue
            other = self.plan_for(device, self.begun(device, np.array(self.order)))
            why = "; ".join(self.violations(other))
            found.append(Alternative(f"all on {self.devices[d]}", self.evaluate(other)["objective"], why, other.placement == plan.placement))  # fmt: skip
        return tuple(found)

    def describe(self) -> str:
        """The problem in a line."""
        facts = [f"{self.accelerators} accelerators", f"{self.cpus} CPUs"]
        facts += [f"{self.memory_bytes / 1e9:g} GB each"] if self.memory_bytes is not None else []
        return f"OperatorLatency: least latency of one sample of {self.graph.name!r} ({', '.join(facts)})"

    @property
    def unit(self) -> str:
        """Seconds."""
        return "s"


def _levels(times: np.ndarray) -> list[float]:
    """Some of the different times, the least and the largest among them."""
    found = np.unique(times)
    some: list[float] = found[np.unique(np.linspace(0, len(found) - 1, LEVELS).round().astype(int))].tolist()
    return some
