"""RelaySplit: where to cut a network along a chain of places, as device, edge and cloud. States the problem; solves nothing."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitplan.data.plan import Wire
from splitplan.data.profile import Profile
from splitplan.data.relay_plan import RelayPlan
from splitplan.data.system import System
from splitplan.errors import DataError, listed, raise_all
from splitplan.formulations.base import Formulation
from splitplan.formulations.relay_checks import problems
from splitplan.formulations.relay_costs import Arc, RelayCosts
from splitplan.formulations.scaled import Scaled
from splitplan.formulations.solution import Alternative

if TYPE_CHECKING:
    import pyomo.environ as pyo

UNITS = {"latency": "s", "energy": "J"}
SAMPLED = 17
"""Most cuts between each two places that are priced to find a good plan."""


@dataclass(frozen=True, eq=False)
class RelaySplit(Scaled, Formulation):
    r"""Cut a network, given as a DAG of layers v and tensors t, along a path of places 0, 1, …, K.

    Variables: x_{v,i} ∈ {0,1}, 1 when layer v runs beyond place i, so that v is at place j when x_{v,j−1} − x_{v,j} = 1
    (x_{v,−1} = 1, x_{v,K} = 0); y_{a,t}, 1 when tensor t goes forward over link a; z_{a,t}, 1 when output t comes back over it;
    u_a, w_a, 1 when a message goes forward, comes back over it. Link a = (i, j) leads over the boundaries i, …, j − 1; on a relay
    all links are of neighbours, and "a over i" is the link (i, i+1). The model's inputs are at place 0: x_{input,i} = 0. The
    result must end at place r, or anywhere. prod(t) is t's producer, cons(t) its consumers.

    Minimize Σ_o weight_o · o over the objectives o ∈ {latency, energy} subject to

    (1) x_{v,i} ≥ x_{v,i+1}: who is beyond a place is beyond those before it.
    (2) x_{w,i} ≥ x_{v,i} for every tensor from v to w: data moves forward only.
    (3) Σ_{a over i} y_{a,t} ≥ x_{w,i} − x_{prod(t),i} for every consumer w of t: a tensor crosses once, however many read it;
        Σ_{a over i} y_{a,t} ≥ 1 − x_{prod(t),i} for outputs and i < r.
    (4) Σ_{a over i} z_{a,t} ≥ x_{prod(t),i} for outputs and i ≥ r.
    (5) Σ_{a over i} u_a ≥ x_{v,i} for every layer v, ≥ 1 for i < r; Σ_{a over i} w_a ≥ x_{prod(t),i} for outputs and i ≥ r.
    (6) with direct links: has_{t,j} = [prod(t) at j] + Σ_{a into j} y_{a,t}; y_{a,t} ≤ has_{t,i} and
        z_{a,t} ≤ has_{t,j} + Σ_{b back into j} z_{b,t} for a = (i, j); has_{t,j} ≥ [w at j] for every consumer w;
        has_{t,r} + Σ_{b back into r} z_{b,t} ≥ 1 for outputs; u_a ≥ y_{a,t}; w_a ≥ z_{a,t}; y and z whole.
    (7) latency = Σ_v Σ_j s_{v,j} [v at j] + Σ_a (λ_a Σ_t β_{a,t} y_{a,t} + μ_a Σ_t γ_{a,t} z_{a,t} + ρ_a u_a + σ_a w_a)      [s]
    (8) energy = P_idle·latency + (P(f) − P_idle) Σ_v s_{v,0} [v at 0] + P_up·(seconds sending) + P_dn·(seconds receiving),
        of the device at place 0 and the radios of its own links                                                              [J]
    (9) v at place j for v in pins[j].

    s seconds of a layer at a place; β_{a,t}, γ_{a,t} bits on the wire at the stated precision, framing included; λ, μ = 1/rate
    up, down; ρ, σ one-way delays, the header's time included. Frames wait for nothing: places and links take their turns, and a
    place sends a tensor on when it has all of it. With two places this is `SplitPoint`.

    Without direct links, each term is a cost on one label or on one pair of neighbouring labels in their order: a minimum cut
    over labels (Ishikawa, PAMI 2003), and the LP relaxation is integral. A direct link that undercuts the relay breaks that.

    Parameters
    ----------
    profile : Profile
        With times for every place of the path.
    system : System
        With a link from each place of the path to the next, "up" being forward.
    path : sequence of str
        The places, from where the input is; at least two.
    objective : str or mapping
        ``"latency"``, ``"energy"`` (of the first place's device), or weights, as ``{"latency": 1, "energy": 0.5}``.
    wire : {"fp32", "fp16", "int8"}
        Precision in which floating-point tensors cross.
    result : str, optional
        Where the result must end up: a place of the path (the first unless given), or ``"anywhere"``.
    pins : mapping of str to collection of str
        Place → layers that must run there.
    direct : bool
        Whether tensors may take the system's links between places of the path that are no neighbours.
    input_bytes : float, optional
        Size of the raw input on the wire, when it is not what the graph says.
    clock_hz : float, optional
        The first place's device's clock, one of its table; the top one unless given.
    """

    profile: Profile
    system: System
    path: tuple[str, ...] = ("device", "edge", "cloud")
    objective: str | Mapping[str, float] = "latency"
    wire: Wire = "fp32"
    result: str = ""
    pins: Mapping[str, Collection[str]] = field(default_factory=dict)
    direct: bool = False
    input_bytes: float | None = None
    clock_hz: float | None = None
    costs: RelayCosts = field(init=False, repr=False)

    kind: ClassVar[str] = "relay-split"

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        if not isinstance(self.profile, Profile) or not isinstance(self.system, System):
            raise DataError(
                "give RelaySplit(profile, system, …): a splitplan.Profile and a splitplan.System", "RelaySplit"
            )
        where = f"RelaySplit for {self.profile.graph.name!r}"
        if isinstance(self.path, str) or not isinstance(self.path, Collection):
            raise DataError(f"path is {self.path!r}; give the places' names in their order", where)
        set_(self, "path", tuple(self.path))
        if not self.result and self.path:
            set_(self, "result", self.path[0])
        if isinstance(self.pins, Mapping):
            pins = {k: (v,) if isinstance(v, str) else v for k, v in self.pins.items()}
            set_(self, "pins", {k: tuple(v) if isinstance(v, Collection) else v for k, v in pins.items()})
        raise_all(problems(self), where)
        clock = self.system.places[self.path[0]].check_clock(self.clock_hz)
        data = (self.profile, self.system, self.path, self.wire, self.result, self.input_bytes)
        set_(self, "costs", RelayCosts(*data, clock, self.direct))

    # -- what it is, for solvers ---------------------------------------------------------------------

    @cached_property
    def ranges(self) -> tuple[list[int], list[int]]:
        """Least and most label of each layer by the pins (9) and their consequences by (2)."""
        graph = self.profile.graph
        least, most = [0] * len(graph), [len(self.path) - 1] * len(graph)
        for j, place in enumerate(self.path):
            for name in self.pins.get(place, ()):
                k = graph.index[name]
                least[k], most[k] = max(least[k], j), min(most[k], j)
        for v, w in sorted(graph.edges):  # by position: one pass carries a bound through the graph
            least[w] = max(least[w], least[v])
        for v, w in sorted(graph.edges, reverse=True):
            most[v] = min(most[v], most[w])
        return least, most

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each objective; zeros left out."""
        given = {self.objective: 1.0} if isinstance(self.objective, str) else self.objective
        return {k: float(v) for k, v in given.items() if v}

    @property
    def limits(self) -> dict[str, tuple[str, float]]:
        """None: a relay has no ε-constraints."""
        return {}

    @cached_property
    def price(self) -> np.ndarray:
        """The objective as weights of the totals (`RelayCosts.totals`)."""
        return self.price_by_lambda(None)[0]

    def price_by_lambda(self, arc: int | None) -> tuple[np.ndarray, np.ndarray]:
        """The objective at every uplink rate of one arc: weights fixed + λ · rising of the totals, λ = 1 / rate."""
        parts = [(weight, self.costs.by_lambda(name, arc)) for name, weight in self.weights.items()]
        return np.sum([w * p[0] for w, p in parts], axis=0), np.sum([w * p[1] for w, p in parts], axis=0)

    @property
    def detours(self) -> tuple[Arc, ...]:
        """The direct links, as positions on the path; none on a relay."""
        return self.costs.arcs[len(self.path) - 1 :]

    @property
    def no_cut(self) -> str | None:
        """Why the problem is no cut over labels, nor its LP relaxation integral; None when both hold."""
        names = ", ".join(f"{self.path[i]} → {self.path[j]}" for i, j in self.detours)
        return f"direct links ({names}): which way a tensor takes is not told by labels alone" if names else None

    @cached_property
    def sampled(self) -> tuple[float, float, float | None]:
        """Of plans with one cut, between any two places: the least positive objective, the largest, the least."""
        n, (least, most) = len(self.profile.graph), self.ranges
        far = np.arange(n) >= np.unique(np.linspace(0, n, SAMPLED).round())[:, None]
        pairs = itertools.combinations(range(len(self.path)), 2)
        labels = np.clip(np.concatenate([np.where(far, j, i) for i, j in pairs]), least, most)
        costs = self.score(labels)["objective"]
        return float(costs[costs > 0].min(initial=costs.max())), float(costs.max()), float(costs.min())

    # -- plain arithmetic ----------------------------------------------------------------------------

    def score(
        self, labels: np.ndarray, sent: np.ndarray | None = None, back: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Costs of many placements at once, without the model.

        Parameters
        ----------
        labels : array of int, shape (placements, layers)
            Position of each layer's place on the path.
        sent, back : array of bool, shape (placements, arcs, tensors), optional
            What moves over which link; from neighbour to neighbour unless given.

        Returns
        -------
        dict of str to array, shape (placements,)
            ``objective, latency_s``; ``at_P_s``, ``P_to_Q_s`` (both ways; its delay included) and ``P_to_Q_bytes`` (header
            included) for places and links; ``energy_j`` when asked of.
        """
        c = self.costs
        moved = c.moves(labels) if sent is None or back is None else (sent, back)
        totals = c.totals(labels, *moved)
        places, arcs = c.parts(totals)
        out = {"objective": totals @ self.price, "latency_s": totals @ c.by_lambda("latency")[0]}
        if "energy" in self.weights:
            out["energy_j"] = totals @ c.by_lambda("energy")[0]
        out |= {f"at_{place}_s": places[:, j] for j, place in enumerate(self.path)}
        for a, ((i, j), costs) in enumerate(zip(c.arcs, c.links, strict=True)):
            there, home = f"{self.path[i]}_to_{self.path[j]}", f"{self.path[j]}_to_{self.path[i]}"
            up, down, ups, downs = arcs[:, a].T
            weights = costs.latency
            out[f"{there}_s"] = weights.up_bits * up + weights.up_messages * ups
            out[f"{there}_bytes"] = up / 8 + costs.link.header_bytes * ups
            out[f"{home}_s"] = weights.down_bits * down + weights.down_messages * downs
        return out

    def evaluate(self, plan: RelayPlan) -> dict[str, float]:
        """Costs of a plan by plain arithmetic: ``objective`` and its parts, see `score`."""
        plan.check(self.profile.graph)
        labels = self.labels_of(plan)
        moved = () if plan.routes is None else (x[None] for x in self._moves_of(plan))
        return {k: float(v[0]) for k, v in self.score(labels[None], *moved).items()}

    def violations(self, plan: RelayPlan) -> list[str]:
        """What a plan breaks: (6), (9), in the user's words."""
        plan.check(self.profile.graph)
        broken = [
            f"pins[{place!r}]: {v!r} is at {plan.placement[v]}"
            for place, layers in self.pins.items()
            for v in layers
            if plan.placement[v] != place
        ]
        if plan.path != self.path:
            return [*broken, f"path is {' → '.join(plan.path)}, the problem's is {' → '.join(self.path)}"]
        return broken + [
            f"tensor {t!r} goes {a} → {b}, and the problem has no such link"
            for t, hops in (plan.routes or {}).items()
            for a, b in hops
            if self._arc(a, b) not in self.costs.arcs
        ]

    def _arc(self, a: str, b: str) -> Arc:
        i, j = sorted((self.path.index(a), self.path.index(b)))
        return i, j

    def labels_of(self, plan: RelayPlan) -> np.ndarray:
        """A plan's places as positions on the path, shape (layers,)."""
        return np.array([self.path.index(plan.placement[layer.name]) for layer in self.profile.graph.layers])

    def _moves_of(self, plan: RelayPlan) -> tuple[np.ndarray, np.ndarray]:
        """A plan's routes as `RelayCosts.moves` says them, for one placement."""
        tensors = {t.name: k for k, t in enumerate(self.profile.graph.tensors)}
        sent, back = (np.zeros((len(self.costs.arcs), len(tensors)), bool) for _ in range(2))
        for name, hops in (plan.routes or {}).items():
            for a, b in hops:
                forward = self.path.index(a) < self.path.index(b)
                (sent if forward else back)[self.costs.arcs.index(self._arc(a, b)), tensors[name]] = True
        return sent, back

    def plan_for(self, labels: np.ndarray, sent: np.ndarray | None = None, back: np.ndarray | None = None) -> RelayPlan:
        """The plan of a placement, shape (layers,), with what this problem predicts of it; see `score` for what moves."""
        moved = () if sent is None or back is None else (sent, back)
        terms = self.score(labels[None], *(x[None] for x in moved))
        return RelayPlan.for_labels(
            self.profile.graph,
            self.path,
            labels,
            wire=self.wire,
            result=self.result,
            clock_hz=self.costs.clock_hz,
            routes=self._routes(*moved) if moved else None,
            predicted={k: float(v[0]) for k, v in terms.items() if k != "objective"},
        )

    def _routes(self, sent: np.ndarray, back: np.ndarray) -> dict[str, tuple[tuple[str, str], ...]]:
        hops = [(self.path[i], self.path[j]) for i, j in self.costs.arcs]
        found = {
            t.name: tuple(hops[a] for a in np.flatnonzero(sent[:, k]))
            + tuple(hops[a][::-1] for a in np.flatnonzero(back[:, k]))
            for k, t in enumerate(self.profile.graph.tensors)
        }
        return {name: ways for name, ways in found.items() if ways}

    # -- the declarative model -----------------------------------------------------------------------

    def build(self) -> pyo.ConcreteModel:
        """The MILP as a Pyomo model, its objective scaled by `scale`."""
        from splitplan.formulations import relay_model

        return relay_model.build(self)

    def read(self, values: Mapping[str, float]) -> RelayPlan:
        """The plan in a solver's values of the model's variables, by name."""
        from splitplan.formulations import relay_model

        return self.plan_for(*relay_model.read(self, values))

    # -- for people ----------------------------------------------------------------------------------

    def alternatives(self, plan: RelayPlan) -> tuple[Alternative, ...]:
        """What the plan was chosen over: everything at one place."""
        found, way = [], ", from neighbour to neighbour" if self.detours else ""
        for j, place in enumerate(self.path):
            other = self.plan_for(np.full(len(self.profile.graph), j))
            value, why = self.evaluate(other)["objective"], "; ".join(self.violations(other))
            found.append(Alternative(f"all at {place}{way}", value, why, is_plan=other.placement == plan.placement))
        return tuple(found)

    def describe(self) -> str:
        """The problem in a line."""
        what = " + ".join(k if w == 1 else f"{w:g}·{k}" for k, w in self.weights.items())
        rates = [f"{k.link.rate_up_bps / 1e6:g}" for k in self.costs.links]
        facts = [
            " → ".join(self.path),
            f"{', '.join(rates)} Mbit/s up",
            f"wire {self.wire}",
            f"result at {self.result}",
        ]
        facts += [f"direct {self.path[i]} → {self.path[j]}" for i, j in self.detours]
        facts += [f"input {self.input_bytes:g} bytes"] if self.input_bytes is not None else []
        facts += [f"pins[{place!r}] {listed(layers, 3)}" for place, layers in self.pins.items() if layers]
        return f"RelaySplit: least {what} of {self.profile.graph.name!r} ({'; '.join(facts)})"

    @property
    def unit(self) -> str:
        """s, J, or weighted."""
        (what, weight), *more = self.weights.items()
        return UNITS[what] if weight == 1 and not more else "weighted"
