"""OperatorLatency: when and where each operator of a network runs so that one sample is done soonest. States; solves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitplan.data.operators import OperatorGraph, OperatorSchedule
from splitplan.data.plan import Wire
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.errors import DataError, raise_all
from splitplan.formulations import latency_bounds
from splitplan.formulations.base import ROUNDING, TOLERANCE, Formulation
from splitplan.formulations.latency_costs import LatencyTable, PlacedLayers
from splitplan.formulations.pipeline import PipelinePlacement
from splitplan.formulations.placement import OperatorPlacement
from splitplan.formulations.placement_costs import Groups
from splitplan.formulations.scaled import Scaled
from splitplan.formulations.solution import Alternative
from splitplan.models.graph import INPUT
from splitplan.models.order import topological

if TYPE_CHECKING:
    import pyomo.environ as pyo


@dataclass(frozen=True, eq=False)
class OperatorLatency(Scaled, Formulation):
    r"""Schedule the operators v of one sample on devices d, each of which runs one at a time, so that all is done soonest.

    ``OperatorLatency(graph, …)``: an operator graph on alike accelerators and CPUs. ``OperatorLatency.of_profile(profile, system)``:
    every layer of a profiled model on the unlike places of a system.

    Data: p_{v,d} seconds of v on d, ∞ where it cannot run. c_{vw,de} seconds to move what w reads of v from d to e: 0 when d = e;
    c_v for each accelerator that it leaves or enters; over a system's ways 8 (bytes·overhead + header) / rate + delay, ∞ where no way
    leads. What w reads of v goes as one message, straight from place to place. b_v bytes that v keeps on its device, b_q those that
    the operators of a set q keep there together (parameters that layers share), w_v those while it runs; M_d the device's.

    Variables: x_{g,d} ∈ {0,1}, 1 when group g (the operators of one colour) runs on device d; s_v ≥ 0, seconds at which v begins;
    y_{vw,de} ∈ [0,1], 1 when v is on d and w on e, for every edge v → w; o_{vw} ∈ {0,1}, 1 when v comes before w; z_{q,d} ∈ [0,1],
    1 when d has some of q; W_d, bytes of d's largest working set. T seconds, the latency.
    p_v = Σ_d p_{v,d} x_{g(v),d} are v's seconds where it runs.

    Minimize T subject to

    (1) Σ_d x_{g,d} = 1; x_{g,d} = 0 where g cannot run.
    (2) Σ_v b_v x_{g(v),d} + Σ_q b_q z_{q,d} + W_d ≤ M_d; z_{q,d} ≥ x_{g(v),d} for v in q; W_d ≥ w_v x_{g(v),d}.               [B]
    (3) Σ_e y_{vw,de} = x_{g(v),d}, Σ_d y_{vw,de} = x_{g(w),e} for every edge v → w; y_{vw,de} = 0 where c_{vw,de} = ∞.
    (4) s_w ≥ s_v + p_v + Σ_{d,e} c_{vw,de} y_{vw,de} for every edge v → w.                                                  [s]
    (5) s_w ≥ s_v + p_v − H (3 − o_{vw} − x_{g(v),d} − x_{g(w),d}), s_v ≥ s_w + p_w − H (2 + o_{vw} − x_{g(v),d} − x_{g(w),d}) for
        every device d and every two operators of which neither needs the other: one at a time. H: a known schedule's latency. [s]
    (6) T ≥ s_v + p_v.                                                                                                      [s]
    (7) What (1) to (6) imply, for the solver's sake: s_v ≥ Σ_d h_{v,d} x_{g(v),d}, T ≥ s_v + p_v + Σ_d t_{v,d} x_{g(v),d},
        T ≥ Σ_v p_{v,d} x_{g(v),d} on every device. h, t: least seconds before v begins on d, and after it ends there.         [s]

    Of a profile: the model's input is an operator of no seconds at ``source`` (anywhere, but at one place, unless given), the results
    are one at ``sink`` (none unless given: results stay where they are made), so that the way there and the way back count. Memory is
    each parameter once on each place that has a layer that reads it, and the largest ``memory_bytes`` of the place's layers: what is
    alive when the network runs in the graph's order. Places that take turns otherwise may need more.

    Not modelled: moves do not wait for one another, so the latency is that of links that are free when they are wanted; `evaluate` says
    for how long each is busy. Devices compute while they move (unlike in `OperatorPlacement` (5), where a frame's transfers delay the
    next frame's work). Nothing is relayed through a third place. NP-hard already for two CPUs and no edges.

    Lower bounds (`latency_bounds`): the longest path, each operator where the way through it is shortest, moves included; and for any
    h, t: h + t + what operators that begin no sooner than h and are followed by t take when shared out over all devices
    fractionally, which for unlike devices is an LP (any λ ≥ 0 with Σ_d λ_d = 1 proves Σ_v min_d λ_d p_{v,d}).

    Parameters
    ----------
    graph : OperatorGraph
    accelerators, cpus : int, optional
        What the graph says unless given.
    memory_bytes : float, optional
        Of an accelerator; what the graph says unless given.
    layers : PlacedLayers, optional
        What `of_profile` makes; then there are places, no accelerators and CPUs.
    """

    graph: OperatorGraph
    accelerators: int = None  # type: ignore[assignment]  # None is replaced by the graph's word
    cpus: int = None  # type: ignore[assignment]
    memory_bytes: float | None = None
    layers: PlacedLayers | None = None
    table: LatencyTable = field(init=False, repr=False)

    kind: ClassVar[str] = "operator-latency"

    def __post_init__(self) -> None:
        if not isinstance(self.graph, OperatorGraph):
            raise DataError(
                "give OperatorLatency(graph, …) a splitplan.OperatorGraph, or a profile to OperatorLatency.of_profile(profile, system)",
                "OperatorLatency",
            )
        set_ = object.__setattr__
        if self.layers is not None:
            set_(self, "table", self.layers.table)
            return
        place = self.place
        for name in ("accelerators", "cpus", "memory_bytes"):
            set_(self, name, getattr(place, name))
        set_(self, "table", LatencyTable.of_placement(place))

    @classmethod
    def of_profile(
        cls,
        profile: Profile,
        system: System,
        wire: Wire = "fp32",
        source: str | None = None,
        sink: str | None = None,
    ) -> OperatorLatency:
        """One sample of a profiled model on the places of a system, layer by layer.

        Parameters
        ----------
        profile : Profile
            With times for every place of the system.
        system : System
            Joined by pairs, a star or a shared medium.
        wire : {"fp32", "fp16", "int8"}
            Precision in which floating-point tensors cross.
        source, sink : str, optional
            Where the input is, where results must go; free unless given.

        Raises
        ------
        DataError
            With everything that is wrong at once: missing times, other devices than were profiled, unknown places, places that
            nothing joins with the others.
        """
        if not isinstance(profile, Profile) or not isinstance(system, System):
            raise DataError(
                "give OperatorLatency.of_profile(profile, system, …): a splitplan.Profile and a splitplan.System",
                "OperatorLatency",
            )
        try:
            PipelinePlacement(profile, system, wire=wire, source=source, sink=sink)  # which asks the same of its data
        except DataError as e:
            raise DataError(e.problems, f"OperatorLatency for {profile.graph.name!r}") from e
        layers = PlacedLayers(profile, system, wire, source, sink)
        return cls(layers.graph, layers=layers)

    # -- what it is, for solvers ---------------------------------------------------------------------

    @cached_property
    def place(self) -> OperatorPlacement:
        """The placement of the same operator graph, for its devices and groups; not of a profile."""
        try:
            return OperatorPlacement(self.graph, self.accelerators, False, self.cpus, self.memory_bytes)
        except DataError as e:
            raise DataError(e.problems, f"OperatorLatency for {self.graph.name!r}") from e

    @cached_property
    def seconds(self) -> np.ndarray:
        """p, infinite also where no optimal schedule has an operator: what solvers look at. Shape (operators, devices)."""
        if self.layers is not None:
            return self.table.seconds
        place = self.place
        kinds = (np.arange(len(self.devices)) >= place.accelerators).astype(int)
        found: np.ndarray = np.where(place.can[place.groups.of][:, kinds], self.table.seconds, np.inf)
        return found

    @cached_property
    def groups(self) -> Groups:
        """The operators that run on one device together."""
        return Groups.of_graph(self.graph)

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of the devices: accelerators first, or the places in the system's order."""
        return self.table.devices

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
        """h: least seconds before each operator begins on each device, shape (operators, devices)."""
        return latency_bounds.heads(self)

    @cached_property
    def tails(self) -> np.ndarray:
        """t: least seconds from when each operator is done on each device until all is, shape (operators, devices)."""
        return latency_bounds.tails(self)

    @cached_property
    def can(self) -> np.ndarray:
        """Whether each group can run on each device and all ways there and on be had, shape (groups, devices)."""
        found = np.ones((len(self.groups), len(self.devices)), bool)
        np.logical_and.at(found, self.groups.of, np.isfinite(self.heads + self.seconds + self.tails))
        return found

    @cached_property
    def bound(self) -> float:
        """The larger of the class's lower bounds; the second one for some h and t. Infinite when some operator can run nowhere, or
        the devices have too little memory together.
        """
        kept, room = self.limited_bytes
        return np.inf if kept > room * (1 + ROUNDING) or not self.can.any(axis=1).all() else latency_bounds.bound(self)

    @cached_property
    def limited_bytes(self) -> tuple[float, float]:
        """What the operators keep that only devices with a limit on memory can run, and what these devices have."""
        t, limited = self.table, np.isfinite(self.table.room)
        those = ~self.can[self.groups.of][:, ~limited].any(axis=1)
        kept = t.own_bytes[those].sum() + sum(size for size, who in t.common if those[list(who)].any())
        return float(kept), float(t.room[limited].sum())

    @cached_property
    def sampled(self) -> tuple[float, float, float | None]:
        """The bound, and all operators one after the other; no schedule is known."""
        least = self.seconds.min(axis=1)
        most = float(least[np.isfinite(least)].sum())
        return (self.bound if np.isfinite(self.bound) else 0.0) or most, most, None

    # -- plain arithmetic ----------------------------------------------------------------------------

    def begun(self, device: np.ndarray, sequence: np.ndarray) -> np.ndarray:
        """When operators begin that are taken in a topological sequence, each as soon as its inputs are there and its device is free.

        Parameters
        ----------
        device : array of int, shape (operators,)
        sequence : array of int, shape (operators,)
        """
        t = self.table
        own = t.seconds[np.arange(len(device)), device].tolist()
        fixed, each = t.fixed_s.tolist(), t.each_s.tolist()
        free, begun, done = [0.0] * len(self.devices), [0.0] * len(device), [0.0] * len(device)
        at = device.tolist()
        for v in sequence.tolist():
            e = at[v]
            ready = free[e]
            for u in self.before[v]:
                ready = max(ready, done[u] + (fixed[at[u]][e] + t.payload[u, v] * each[at[u]][e]))
            begun[v], done[v] = ready, ready + own[v]
            free[e] = done[v]
        return np.array(begun)

    def plan_for(self, device: np.ndarray, begin_s: np.ndarray) -> OperatorSchedule:
        """The schedule that runs operator v on ``devices[device[v]]`` from ``begin_s[v]`` on."""
        names = [o.name for o in self.graph.operators]
        end = float((begin_s + self.table.seconds[np.arange(len(names)), device]).max())
        return OperatorSchedule(
            self.graph.name,
            self.graph.fingerprint,
            self.devices,
            {v: self.devices[d] for v, d in zip(names, device.tolist(), strict=True)},
            {v: float(s) for v, s in zip(names, begin_s, strict=True)},
            {"latency_s": end},
        )

    def evaluate(self, plan: OperatorSchedule) -> dict[str, float]:
        """``objective`` (6); the seconds that each device computes, ``acc0_s``, …; of a profile those that ways are busy, ``busy_X_s``."""
        device, begin = self.times_of(plan)
        seconds = self.table.seconds[np.arange(len(device)), device]
        busy = np.bincount(device, seconds, len(self.devices)).tolist()
        terms = {"objective": float((begin + seconds).max())} | {f"{d}_s": s for d, s in zip(self.devices, busy, strict=True)}  # fmt: skip
        over = {} if self.layers is None else self.layers.busy_s(plan.placement)
        return terms | {f"busy_{r}_s": s for r, s in over.items()}

    def times_of(self, plan: OperatorSchedule) -> tuple[np.ndarray, np.ndarray]:
        """The number of each operator's device and when it begins, each of shape (operators,)."""
        plan.check(self.graph)
        at = {d: k for k, d in enumerate(self.devices)}
        problems = [
            f"operator {v!r} is on {d!r}, which the problem has not" for v, d in plan.placement.items() if d not in at
        ]
        raise_all(problems, "plan")
        names = [o.name for o in self.graph.operators]
        return np.array([at[plan.placement[v]] for v in names]), np.array([plan.begin_s[v] for v in names], float)

    def held_bytes(self, plan: OperatorSchedule) -> dict[str, float]:
        """Bytes that a schedule takes of each device's memory, as (2) counts them."""
        device, _ = self.times_of(plan)
        return {name: self.table.held(np.flatnonzero(device == d).tolist()) for d, name in enumerate(self.devices)}

    def violations(self, plan: OperatorSchedule) -> list[str]:
        """What a schedule breaks: (1) to (5), in the user's words."""
        t, ops = self.table, self.graph.operators
        device, begin = self.times_of(plan)
        end = begin + t.seconds[np.arange(len(ops)), device]
        at = plan.placement
        broken = [f"operator {ops[v].name!r} is on {at[ops[v].name]}, where it cannot run" for v in np.flatnonzero(np.isinf(end))]  # fmt: skip
        homes: dict[str, dict[str, None]] = {}
        for o in ops:
            homes.setdefault(o.colour, {})[at[o.name]] = None
        broken += [f"colour {c!r} is on {' and '.join(ds)}" for c, ds in homes.items() if c and len(ds) > 1]
        broken += [
            f"memory of {d}: {taken:.6g} of {room:.6g} bytes"
            for (d, taken), room in zip(self.held_bytes(plan).items(), t.room.tolist(), strict=True)
            if taken > room * (1 + TOLERANCE)
        ]
        slack = TOLERANCE * max(float(end[np.isfinite(end)].max(initial=0.0)), self.smallest)
        for v, w in t.payload:
            there = end[v] + t.moving(v, w)[device[v], device[w]]
            if np.isinf(t.fixed_s[device[v], device[w]]):
                broken.append(f"nothing leads from {self.devices[device[v]]} to {self.devices[device[w]]}, where {ops[w].name!r} reads what {ops[v].name!r} makes")  # fmt: skip
            elif begin[w] < there - slack:
                broken.append(f"{ops[w].name!r} begins before the output of {ops[v].name!r} is there")
        for d, name in enumerate(self.devices):
            last, until = -1, 0.0
            for v in sorted(np.flatnonzero(device == d).tolist(), key=lambda v: (begin[v], end[v])):
                if begin[v] < until - slack:
                    broken.append(f"{name} runs {ops[last].name!r} and {ops[v].name!r} at once")
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

    def lp_notes(self) -> list[str]:
        """The problem, then units and names."""
        groups: dict[int, list[str]] = {}
        for o, g in zip(self.graph.operators, self.groups.of.tolist(), strict=True):
            groups.setdefault(g, []).append(o.name)
        return [
            self.describe(),
            f"T and s are in units of {1 / self.scale!r} s; bytes are in parts of each device's memory.",
            f"Devices: {', '.join(f'{d}: {name}' for d, name in enumerate(self.devices))}.",
            f"s(v): when operator v begins. Operators: {', '.join(f'{v}: {o.name}' for v, o in enumerate(self.graph.operators))}.",
            "x(g_d): group g runs on device d. "
            + ("Groups are operators." if len(groups) == len(self.graph) else f"Groups: {', '.join(f'{g}: ' + '+'.join(groups[g]) for g in sorted(groups))}."),
            "y(v_w_d_e): operator v is on device d, and w, which reads it, on e. o(v_w): v comes before w.",
        ]  # fmt: skip

    # -- for people ----------------------------------------------------------------------------------

    def alternatives(self, plan: OperatorSchedule) -> tuple[Alternative, ...]:
        """What the schedule was chosen over: everything on one device, one of each kind; the input and results where they must be."""
        found = []
        for d in self.table.kinds:
            able = np.isfinite(self.table.seconds)
            ends = np.array([o.name in self._ends for o in self.graph.operators])
            device = np.where(ends & ~able[:, d], able.argmax(axis=1), d)
            if not able[np.arange(len(device)), device].all():
                continue
            begun = self.begun(device, np.array(self.order))
            if not np.isfinite(begun).all():
                continue
            other = self.plan_for(device, begun)
            why = "; ".join(self.violations(other))
            found.append(Alternative(f"all on {self.devices[d]}", self.evaluate(other)["objective"], why, other.placement == plan.placement))  # fmt: skip
        return tuple(found)

    @property
    def _ends(self) -> tuple[str, ...]:
        """Operators that are no work: a model's input, its results."""
        return () if self.layers is None else (INPUT, *([self.layers.results] if self.layers.results else []))

    def describe(self) -> str:
        """The problem in a line."""
        if self.layers is None:
            facts = [f"{self.accelerators} accelerators", f"{self.cpus} CPUs"]
            facts += [f"{self.memory_bytes / 1e9:g} GB each"] if self.memory_bytes is not None else []
        else:
            medium = {"pairs": "links by pair", "star": "links by a hub", "shared": "one shared medium"}
            x = self.layers
            facts = [f"{len(x.profile.graph)} layers", f"{len(self.devices)} places", medium[x.system.medium], f"wire {x.wire}"]  # fmt: skip
            facts += [f"{name} {value}" for name in ("source", "sink") if (value := getattr(x, name)) is not None]
        return f"OperatorLatency: least latency of one sample of {self.graph.name!r} ({', '.join(facts)})"

    @property
    def unit(self) -> str:
        """Seconds."""
        return "s"
