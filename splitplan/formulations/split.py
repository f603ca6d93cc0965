"""SplitPoint: where to cut a network between a device and a server. States the problem; solves nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from splitplan.data.plan import ResultAt, SplitPlan, Wire
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.errors import DataError, SolverError, listed, raise_all
from splitplan.formulations import split_cuts
from splitplan.formulations.base import TOLERANCE, Formulation
from splitplan.formulations.costs import Linear, SplitCosts
from splitplan.formulations.scaled import Scaled
from splitplan.formulations.solution import Alternative
from splitplan.formulations.split_checks import problems

if TYPE_CHECKING:
    import pandas as pd
    import pyomo.environ as pyo
    from matplotlib.figure import Figure

UNITS = {"latency": "s", "energy": "J", "period": "s", "memory": "bytes", "upload": "bytes"}
KEYS = {
    "latency": "latency_s",
    "energy": "energy_j",
    "period": "period_s",
    "memory": "memory_bytes",
    "upload": "up_bytes",
}
SAMPLED = 33
"""Most cuts that are priced to find that good plan."""


@dataclass(frozen=True, eq=False)
class SplitPoint(Scaled, Formulation):
    r"""Cut a network, given as a DAG of layers v and tensors t, between a device and a server.

    Variables: x_v ∈ {0,1}, 1 when layer v runs on the server; y_t ∈ [0,1], 1 when tensor t crosses; u, w ∈ [0,1], 1 when a
    message goes up, down; M bytes, the head's working set; g_p, 1 when the device holds parameter p; T seconds, the period.
    The model's inputs are on the device: x_input = 0. prod(t) is t's producer, cons(t) its consumers.

    Minimize Σ_o weight_o · o over the objectives o ∈ {latency, energy, period, memory, upload} subject to

    (1) x_w ≥ x_v for every tensor from v to w: data crosses one way only.
    (2) y_t ≥ x_w − x_prod(t) for every consumer w of t: a tensor crosses once, however many read it;
        y_t ≥ 1 − x_prod(t) for outputs when the result belongs on the server.
    (3) u ≥ x_v for every layer v; u = 1 when the result belongs on the server. w ≥ x_prod(t) for outputs t that return.
    (4) latency = Σ a_v (1−x_v) + Σ b_v x_v + λ_up Σ β_t y_t + λ_dn Σ γ_t x_prod(t) + ρ_up u + ρ_dn w          [s]
    (5) energy = P_idle·latency + (P(f) − P_idle) Σ a_v (1−x_v) + P_up·(uplink seconds) + P_dn·(downlink seconds)  [J]
    (6) T ≥ device seconds, uplink seconds, server seconds, downlink seconds: the period of a stream of frames      [s]
    (7) M ≥ memory_v (1−x_v);  g_p ≥ 1 − x_v for v that reads p;  memory = Σ size_p g_p + M + Σ size_t y_t           [bytes]
    (8) latency ≤ deadline_s, energy ≤ energy_budget_j, T ≤ period_limit_s, memory ≤ device_memory_bytes,
        upload = (Σ β_t y_t + header u)/8 ≤ upload_limit_bytes, as given.                                             [bytes]
    (9) x_v = 0 for v in pin_device, x_v = 1 for v in pin_server.

    β_t, γ_t are bits on the wire at the stated precision, framing included; λ = 1/rate; a message's header occupies the link as
    its bits do; ρ one-way delays. Frames wait for nothing in (4): device, link and server take their turns. (7) is an upper
    bound of what the head holds: parameters, its largest working set, and what waits to be sent.

    The model is the split of DADS (Hu et al., INFOCOM 2019) and of QDMP (Zhang et al.), with side constraints.
    Weighted sums of latency and energy without (8) are a minimum cut, and the LP relaxation is integral.

    Parameters
    ----------
    profile : Profile
    system : System
        Of two places, ``device`` and ``server``.
    objective : str or mapping
        ``"latency"``, ``"energy"`` (of the device), ``"period"``, ``"memory"`` (of the device), ``"upload"`` (bytes sent), or weights, as ``{"latency": 1, "energy": 0.5}``.
    deadline_s, energy_budget_j, period_limit_s, device_memory_bytes, upload_limit_bytes : float, optional
    pin_device, pin_server : collection of str
        Layers that must stay, must go. What feeds a pinned-device layer stays too; what a pinned-server layer feeds goes too.
    result : {"device", "server", "anywhere"}
        Where the result must end up.
    wire : {"fp32", "fp16", "int8"}
        Precision in which floating-point tensors cross.
    input_bytes : float, optional
        Size of the raw input on the wire, when it is not what the graph says.
    clock_hz : float, optional
        The device's clock, one of its table; the top one unless given.
    """

    profile: Profile
    system: System
    objective: str | Mapping[str, float] = "latency"
    deadline_s: float | None = None
    energy_budget_j: float | None = None
    period_limit_s: float | None = None
    device_memory_bytes: float | None = None
    upload_limit_bytes: float | None = None
    pin_device: Collection[str] = ()
    pin_server: Collection[str] = ()
    result: ResultAt = "device"
    wire: Wire = "fp32"
    input_bytes: float | None = None
    clock_hz: float | None = None
    costs: SplitCosts = field(init=False, repr=False)

    kind: ClassVar[str] = "split-point"

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        if not isinstance(self.profile, Profile) or not isinstance(self.system, System):
            raise DataError(
                "give SplitPoint(profile, system, …): a splitplan.Profile and a splitplan.System", "SplitPoint"
            )
        for name in ("pin_device", "pin_server"):
            value = getattr(self, name)
            if not isinstance(value, Collection):
                raise DataError(f"{name} is {value!r}; give layer names", "SplitPoint")
            set_(self, name, (value,) if isinstance(value, str) else tuple(value))
        raise_all(problems(self), f"SplitPoint for {self.profile.graph.name!r}")
        set_(
            self,
            "costs",
            SplitCosts(
                self.profile,
                self.system,
                self.wire,
                self.result,
                self.input_bytes,
                self.system.device.check_clock(self.clock_hz),
            ),
        )

    @cached_property
    def _pins(self) -> tuple[set[int], set[int]]:
        """Layers that must stay and that must go, the pins' consequences by (1) included."""
        graph = self.profile.graph
        stay = {graph.index[v] for v in self.pin_device}
        go = {graph.index[v] for v in self.pin_server}
        for v, w in sorted(graph.edges, reverse=True):
            if w in stay:
                stay.add(v)
        for v, w in sorted(graph.edges):  # by position: one pass carries a mark through the graph
            if v in go:
                go.add(w)
        return stay, go

    # -- what it is, for solvers ---------------------------------------------------------------------

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each objective; zeros left out."""
        given = {self.objective: 1.0} if isinstance(self.objective, str) else self.objective
        return {k: float(v) for k, v in given.items() if v}

    @property
    def limits(self) -> dict[str, tuple[str, float]]:
        """The ε-constraints that are given: the user's name → (measure, limit)."""
        pairs = {
            "deadline_s": "latency",
            "energy_budget_j": "energy",
            "period_limit_s": "period",
            "device_memory_bytes": "memory",
            "upload_limit_bytes": "upload",
        }
        return {
            name: (what, float(getattr(self, name))) for name, what in pairs.items() if getattr(self, name) is not None
        }

    @property
    def measures(self) -> set[str]:
        """Everything that the objective or a limit speaks of."""
        return set(self.weights) | {what for what, _ in self.limits.values()}

    @property
    def linear_objective(self) -> Linear | None:
        """The objective as weights of the totals, or None when it holds the period or the memory, which are maxima."""
        if {"period", "memory"} & set(self.weights):
            return None
        parts: list[Linear] = [w * getattr(self.costs, name) for name, w in self.weights.items()]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    @property
    def linear_by_lambda(self) -> tuple[Linear, Linear]:
        """The linear objective at every uplink rate: (fixed, rising), fixed + λ · rising with λ = 1 / rate."""
        fixed = rising = Linear()
        for name, weight in self.weights.items():
            one, two = self.costs.by_lambda(name)
            fixed, rising = fixed + weight * one, rising + weight * two
        return fixed, rising

    @property
    def pinned(self) -> tuple[frozenset[int], frozenset[int]]:
        """Positions of the layers that must stay and that must go, the consequences of (1) included."""
        return frozenset(self._pins[0]), frozenset(self._pins[1])

    @cached_property
    def sampled(self) -> tuple[float, float, float | None]:
        """Of some prefix cuts: the least positive objective (within the limits if any is), the largest, the least within."""
        n, (stay, go) = len(self.profile.graph), self._pins
        x = np.arange(n) >= np.unique(np.linspace(0, n, SAMPLED).round())[:, None]
        x[:, sorted(stay)], x[:, sorted(go)] = False, True
        costs = self.score(x)
        within = np.ones(len(x), bool)
        for what, limit in self.limits.values():
            within &= costs[KEYS[what]] <= limit
        least, most = 0.0, float(costs["objective"].max())
        for choice in (~within, within):
            if np.any(positive := costs["objective"][choice & (costs["objective"] > 0)]):
                least = float(positive.min())
        return least, most, float(costs["objective"][within].min()) if within.any() else None

    # -- plain arithmetic ----------------------------------------------------------------------------

    def score(self, on_server: np.ndarray) -> dict[str, np.ndarray]:
        """Costs of many placements at once, without the model.

        Parameters
        ----------
        on_server : array of bool, shape (placements, layers)

        Returns
        -------
        dict of str to array, shape (placements,)
            ``objective, latency_s, device_s, up_s, server_s, down_s, period_s, memory_bytes``, ``up_delay_s`` (part of
            ``up_s``), ``up_bytes`` (on the wire, header included) and, when asked of, ``energy_j``.
        """
        c, x = self.costs, np.asarray(on_server, bool)
        totals = c.totals(x)
        stages = {name: np.asarray(cost.of(totals)) for name, cost in c.stages.items()}
        out = {
            "latency_s": np.asarray(c.latency.of(totals)),
            "device_s": stages["device"],
            "up_s": stages["uplink"] + self.system.link.up_delay_s * totals.up_messages,
            "server_s": stages["server"],
            "down_s": stages["downlink"] + self.system.link.down_delay_s * totals.down_messages,
            "period_s": np.max(list(stages.values()), axis=0),
            "up_delay_s": self.system.link.up_delay_s * totals.up_messages,
            "up_bytes": totals.up_bits / 8 + self.system.link.header_bytes * totals.up_messages,
            "memory_bytes": self._memory(x),
        }
        if "energy" in self.measures or self._has_power:
            out["energy_j"] = np.asarray(c.energy.of(totals))
        out["objective"] = sum(w * out[KEYS[name]] for name, w in self.weights.items()) + np.zeros(len(x))
        return out

    @property
    def _has_power(self) -> bool:
        device = self.system.device
        return bool(device.active_power_w) and device.idle_power_w is not None and self.system.link.radio is not None

    def _memory(self, x: np.ndarray) -> np.ndarray:
        """Equation (7) for each placement."""
        graph, held = self.profile.graph, np.zeros(len(x))
        readers: dict[str, list[int]] = {}
        for v, layer in enumerate(graph.layers):
            for p in layer.parameters:
                readers.setdefault(p, []).append(v)
        for p, who in readers.items():
            held += graph.parameter_bytes[p] * (~x[:, who]).any(axis=1)
        held += np.max(~x * np.array([layer.memory_bytes for layer in graph.layers]), axis=1)
        sent, _ = self.costs.crossings(x)
        waiting: np.ndarray = held + sent @ np.array([t.size_bytes for t in graph.tensors])
        return waiting

    def evaluate(self, plan: SplitPlan) -> dict[str, float]:
        """Costs of a plan by plain arithmetic: ``objective`` and its parts, see `score`."""
        return {k: float(v[0]) for k, v in self.score(self.placement_of(plan)[None, :]).items()}

    def violations(self, plan: SplitPlan) -> list[str]:
        """What a plan breaks: (1), (8), (9), in the user's words."""
        x = self.placement_of(plan)
        graph = self.profile.graph
        names = [layer.name for layer in graph.layers]
        broken = [
            f"{names[v]!r} on the server feeds {names[w]!r} on the device" for v, w in graph.edges if x[v] and not x[w]
        ]
        broken += [f"pin_device: {v!r} is on the server" for v in self.pin_device if x[graph.index[v]]]
        broken += [f"pin_server: {v!r} is on the device" for v in self.pin_server if not x[graph.index[v]]]
        terms = self.evaluate(plan)
        for name, (what, limit) in self.limits.items():
            if terms[KEYS[what]] > limit * (1 + TOLERANCE):
                broken.append(f"{name}={limit:g}: {what} is {terms[KEYS[what]]:.6g} {UNITS[what]}")
        return broken

    def placement_of(self, plan: SplitPlan) -> np.ndarray:
        """A plan as an array of bool, True on the server, shape (layers,)."""
        plan.check(self.profile.graph)
        far = set(plan.server_layers)
        return np.array([layer.name in far for layer in self.profile.graph.layers])

    def plan_for(self, on_server: np.ndarray) -> SplitPlan:
        """The plan of a placement, shape (layers,), with what this problem predicts of it."""
        x = np.asarray(on_server, bool)
        predicted = {k: float(v[0]) for k, v in self.score(x[None, :]).items() if k != "objective"}
        names = [layer.name for layer in self.profile.graph.layers]
        return SplitPlan.for_cut(
            self.profile.graph,
            {n for n, far in zip(names, x, strict=True) if far},
            wire=self.wire,
            result=self.result,
            clock_hz=self.costs.clock_hz,
            predicted=predicted,
        )

    # -- the declarative model -----------------------------------------------------------------------

    def build(self) -> pyo.ConcreteModel:
        """The MILP as a Pyomo model; objective scaled by `scale`, limits by their own size."""
        from splitplan.formulations import split_model

        return split_model.build(self)

    def lp_notes(self) -> list[str]:
        """The problem, the units, and the layer, tensor or message of each variable."""
        from splitplan.formulations import split_model

        return [self.describe(), *split_model.notes(self)]

    def describe(self) -> str:
        """The problem in a line."""
        what = (
            self.objective
            if isinstance(self.objective, str)
            else " + ".join(f"{w:g}·{k}" for k, w in self.weights.items())
        )
        link = self.system.link
        facts = [f"{link.rate_up_bps / 1e6:g} Mbit/s up", f"wire {self.wire}", f"result at {self.result}"]
        facts += [f"input {self.input_bytes:g} bytes"] if self.input_bytes is not None else []
        facts += [f"{name} ≤ {limit:g}" for name, (_, limit) in self.limits.items()]
        pins = (("pin_device", self.pin_device), ("pin_server", self.pin_server))
        facts += [f"{name} {listed(layers, 3)}" for name, layers in pins if layers]
        return f"SplitPoint: least {what} of {self.profile.graph.name!r} ({', '.join(facts)})"

    @property
    def unit(self) -> str:
        """s, J, bytes, or weighted."""
        (what, weight), *more = self.weights.items()
        return UNITS[what] if weight == 1 and not more else "weighted"

    def figure(self, solution: Any) -> Figure:
        """Cost against cut over the graph's prefix cuts, the plan's marked."""
        from splitplan.plots.cuts import plot_cuts

        return plot_cuts(self.cut_table(solution.plan))

    def cut_table(self, plan: SplitPlan | None = None) -> pd.DataFrame:
        """A row for every cut after a topological prefix (and one for ``plan``): costs by part, and why it is forbidden."""
        return split_cuts.cut_table(self, plan)

    def alternatives(self, plan: SplitPlan) -> tuple[Alternative, ...]:
        """What the plan was chosen over: all on the device, all on the server, the best prefix cut between."""
        return split_cuts.alternatives(self, plan)

    def read(self, values: Mapping[str, float]) -> SplitPlan:
        """The plan in a solver's values of the model's variables, by name."""
        return self.plan_for(self.placement_in(values))

    def placement_in(self, values: Mapping[str, float]) -> np.ndarray:
        """The placement in a solver's values of the model's variables, by name, shape (layers,); what is pinned has none."""
        n, (_, go) = len(self.profile.graph), self._pins
        return np.array([values.get(f"x[{v}]", float(v in go)) > 0.5 for v in range(n)])

    # -- slots ---------------------------------------------------------------------------------------

    @property
    def slot_parameters(self) -> tuple[str, ...]:
        """The link's rates and delays."""
        return ("rate_up_bps", "rate_down_bps", "delay_up_s", "delay_down_s")

    def with_slot(self, **slot: float) -> SplitPoint:
        """The same problem at other rates or delays of the link."""
        unknown = sorted(set(slot) - set(self.slot_parameters))
        if unknown:
            raise SolverError(f"unknown slot parameters {', '.join(unknown)}; known: {', '.join(self.slot_parameters)}")
        links = self.system.links | {("device", "server"): self.system.link.but(**slot)}
        moved = replace(self, system=System(link=None, links=links, star=None, shared=None, **self.system.places))
        # The scale is a choice of units: kept, so that coefficients are affine in the slot's coordinates.
        moved.__dict__.update(scale=self.scale, smallest=self.smallest)
        return moved

    def slot_point(self) -> dict[str, float]:
        """The coordinates in which every coefficient of the model is affine: λ = 1/rate, and the delays."""
        link = self.system.link
        return {
            "rate_up_bps": 1.0 / link.rate_up_bps,
            "rate_down_bps": 1.0 / link.rate_down_bps,
            "delay_up_s": link.up_delay_s,
            "delay_down_s": link.down_delay_s,
        }
