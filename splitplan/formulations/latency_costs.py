"""The numbers of an OperatorLatency: seconds of operators on devices, seconds to move what they make, bytes that devices hold.

Made from an operator graph (accelerators that are alike, and CPUs) or from a profile and a system (unlike places, links of their
own). The formulation, its MILP and the solvers read them here; the audit in ``solvers/`` adds up on its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from splitplan.data.operators import Operator, OperatorGraph
from splitplan.data.plan import Wire, wire_bytes
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.formulations.base import ROUNDING
from splitplan.formulations.pipeline_costs import PipelineCosts
from splitplan.models.graph import INPUT

if TYPE_CHECKING:
    from splitplan.formulations.placement import OperatorPlacement


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Operators 0…n−1 on devices 0…m−1.

    Parameters
    ----------
    devices : tuple of str
    kinds : tuple of int
        The first device of each kind; devices from one of them to the next are alike.
    seconds : array, shape (n, m)
        p_{v,d}; infinite where v, or one that must be with it, cannot run.
    payload : dict of (int, int) to float
        Edge (v, w) → how much w reads of v: bytes on the wire, or seconds of one hop between an accelerator and the host.
    fixed_s, each_s : array, shape (m, m)
        Seconds to move anything from d to e, and more for each unit of payload. ``fixed_s`` is infinite where nothing leads.
    usual_s : (float, float)
        The same two for a move between some two devices.
    own_bytes, working_bytes : array, shape (n,)
        What v keeps on its device for good; what it takes while it runs.
    common : tuple of (float, tuple of int)
        Bytes that several operators keep together, once on each device that has any of them.
    room : array, shape (m,)
        Bytes that each device has; infinite where nobody said.
    """

    devices: tuple[str, ...]
    kinds: tuple[int, ...]
    seconds: np.ndarray
    payload: dict[tuple[int, int], float]
    fixed_s: np.ndarray
    each_s: np.ndarray
    usual_s: tuple[float, float]
    own_bytes: np.ndarray
    working_bytes: np.ndarray
    common: tuple[tuple[float, tuple[int, ...]], ...]
    room: np.ndarray

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """How many devices there are of each kind."""
        return tuple(np.diff([*self.kinds, len(self.devices)]).tolist())

    def moving(self, v: int, w: int) -> np.ndarray:
        """c_{vw,de}: seconds from the end of v on d until w may begin on e, shape (m, m)."""
        found: np.ndarray = self.fixed_s + self.payload[v, w] * self.each_s
        return found

    def held(self, operators: Iterable[int]) -> float:
        """Bytes that a device with these operators needs: what they keep, and the largest working set."""
        those = set(operators)
        if not those:
            return 0.0
        index = sorted(those)
        common = sum(size for size, who in self.common if not those.isdisjoint(who))
        return float(self.own_bytes[index].sum() + common + self.working_bytes[index].max())

    @classmethod
    def of_placement(cls, place: OperatorPlacement) -> LatencyTable:
        """Of an operator graph on accelerators and CPUs: a move is one hop for each accelerator that it leaves or enters."""
        graph, k, m = place.graph, place.accelerators, len(place.devices)
        own = np.array([[o.accelerator_s, o.cpu_s] for o in graph.operators], float)  # None becomes NaN
        own = np.where(place.able(place.groups)[place.groups.of], own, np.inf)
        accelerator = np.arange(m) < k
        hops = accelerator[:, None].astype(float) + accelerator
        np.fill_diagonal(hops, 0.0)
        return cls(
            place.devices,
            tuple(sorted({0, k} & set(range(m)))),
            own[:, np.where(accelerator, 0, 1)],
            {(v, w): o.output_s for v, o in enumerate(graph.operators) for w in graph.consumers[v]},
            np.zeros((m, m)),
            hops,
            (0.0, 1.0),
            np.array([o.memory_bytes for o in graph.operators], float),
            np.zeros(len(graph)),
            (),
            np.where(accelerator, place.room, np.inf),
        )


@dataclass(frozen=True, eq=False)
class PlacedLayers:
    """The layers of a profile as operators on the places of a system, with the input and, at the sink, the results.

    Operator 0 is the model's input, which takes no time, at ``source``; then the layers, in their graph's order; then, when there
    is a sink, the results, which take no time either, there.

    Parameters
    ----------
    profile : Profile
    system : System
    wire : {"fp32", "fp16", "int8"}
    source, sink : str or None
    """

    profile: Profile
    system: System
    wire: Wire
    source: str | None
    sink: str | None

    @cached_property
    def costs(self) -> PipelineCosts:
        """Seconds of layers, ways and memory of the places."""
        return PipelineCosts(self.profile, self.system, self.wire, self.source, self.sink)

    @cached_property
    def results(self) -> str | None:
        """What the operator at the sink is called: ``output``, with a prime for each layer that is called so."""
        name = "output"
        while name in self.profile.graph.index:
            name += "'"
        return None if self.sink is None else name

    @cached_property
    def moved(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """Edge → numbers of the tensors that it stands for: all that the one reads of the other go as one message."""
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        for k, t in enumerate(self.profile.graph.tensors):
            for reader in (*t.consumers, *([self.results] if self.results is not None and t.is_output else [])):
                found[t.producer, reader].append(k)
        return {edge: tuple(those) for edge, those in found.items()}

    @cached_property
    def graph(self) -> OperatorGraph:
        """The operators, as a schedule is checked against them.

        An operator's seconds are those where it takes least, its memory what it takes alone. The input's label holds the model's
        fingerprint, so that graphs of models with other weights have other fingerprints.
        """
        net, least = self.profile.graph, self.costs.seconds.min(axis=0).tolist()
        ops = [Operator(INPUT, 0.0, label=f"model {net.fingerprint}".rstrip())]
        for layer, seconds in zip(net.layers, least, strict=True):
            size = net.bytes_of_parameters([layer.name]) + layer.memory_bytes
            ops.append(Operator(layer.name, seconds, memory_bytes=size, label=layer.kind))
        if self.results is not None:
            ops.append(Operator(self.results, 0.0, label=f"results at {self.sink}"))
        return OperatorGraph(net.name, tuple(ops), tuple(self.moved))

    @cached_property
    def table(self) -> LatencyTable:
        """The numbers. A layer cannot run where its parameters and working set alone are too much."""
        c, net, m = self.costs, self.profile.graph, len(self.costs.places)
        ends = 1 if self.results is None else 2
        n = len(net) + ends
        readers: dict[str, list[int]] = defaultdict(list)
        for v, layer in enumerate(net.layers, 1):
            for p in dict.fromkeys(layer.parameters):
                readers[p].append(v)
        own, common = np.zeros(n), list[tuple[float, tuple[int, ...]]]()
        need = np.array([0.0, *(x.memory_bytes for x in net.layers), *([0.0] * (ends - 1))])
        working = need.copy()
        for p, who in readers.items():
            need[who] += net.parameter_bytes[p]
            if len(who) == 1:
                own[who] += net.parameter_bytes[p]
            else:
                common.append((net.parameter_bytes[p], tuple(who)))
        seconds = np.zeros((n, m))
        seconds[1 : len(net) + 1] = c.seconds.T
        seconds[need[:, None] > c.limits * (1 + ROUNDING)] = np.inf
        for v, place in ((0, self.source), (n - 1, self.sink)):
            if place is not None:
                seconds[v, np.arange(m) != c.index[place]] = np.inf
        fixed, each = np.full((m, m), np.inf), np.zeros((m, m))
        np.fill_diagonal(fixed, 0.0)
        for pair, way in c.ways.items():
            fixed[pair] = 8.0 * way.header_bytes / way.rate_bps + way.delay_s
            each[pair] = 8.0 * way.overhead / way.rate_bps
        ways = list(c.ways)
        usual = [float(np.mean([x[pair] for pair in ways])) if ways else 0.0 for x in (fixed, each)]
        at = self.graph.index
        payload = {(at[a], at[b]): self.payload_bytes(those) for (a, b), those in self.moved.items()}
        return LatencyTable(
            c.places, tuple(range(m)), seconds, payload, fixed, each, (usual[0], usual[1]), own, working, tuple(common), c.limits
        )  # fmt: skip

    def payload_bytes(self, tensors: Iterable[int]) -> float:
        """Bytes of these tensors on the wire, without framing."""
        those = [self.profile.graph.tensors[k] for k in tensors]
        return float(sum(wire_bytes(t.size_bytes, t.dtype, self.wire) for t in those))

    def busy_s(self, placement: Mapping[str, str]) -> dict[str, float]:
        """Seconds for which each way's resource is busy; where several layers of a place read the same, it goes there once."""
        messages = {(placement[a], placement[b], a, those) for (a, b), those in self.moved.items()}
        found: dict[str, float] = defaultdict(float)
        for a, b, _, those in sorted(messages):
            way = None if a == b else self.system.way(a, b)
            for r in () if way is None else way.resources:
                found[r] += way.busy_s(self.payload_bytes(those)) if way is not None else 0.0
        return dict(sorted(found.items()))
