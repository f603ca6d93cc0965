"""Cost coefficients of a pipeline: seconds of runs of layers, what lives across each cut, seconds of transfers, memory.

The formulation, its MILP and the solvers read them here; the audit in ``solvers/`` adds up on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from splitplan.data.plan import Wire, wire_bytes
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.data.way import Way
from splitplan.models.graph import INPUT


@dataclass(frozen=True, eq=False)
class PipelineCosts:
    """What stages cost at the places of a system. n layers, positions 0…n between them, m places in the system's order.

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

    @property
    def layers(self) -> int:
        """n."""
        return len(self.profile.graph)

    @cached_property
    def places(self) -> tuple[str, ...]:
        """The places, in the system's order."""
        return tuple(self.system.places)

    @cached_property
    def index(self) -> dict[str, int]:
        """Number of each place."""
        return {p: k for k, p in enumerate(self.places)}

    @cached_property
    def seconds(self) -> np.ndarray:
        """Seconds of each layer at each place, shape (m, n)."""
        return np.array([self.profile.seconds(p) for p in self.places])

    def span(self, place: int) -> np.ndarray:
        """Seconds of the layers [i, j) at a place, shape (n + 1, n + 1); ∞ where j ≤ i. Each is summed from its own first layer."""
        n = self.layers
        out = np.full((n + 1, n + 1), np.inf)
        rows, columns = np.triu_indices(n)
        out[rows, columns + 1] = np.cumsum(np.triu(np.broadcast_to(self.seconds[place], (n, n))), axis=1)[rows, columns]
        return out

    # -- what crosses ------------------------------------------------------------------------------------

    @cached_property
    def live(self) -> np.ndarray:
        """Which tensors live across each position, array of bool, shape (n + 1, tensors).

        Made before it and read after it; results, when there is a sink, until the end. At 0 the model's inputs; at n the results
        when there is a sink, else nothing.
        """
        graph, n = self.profile.graph, self.layers
        made = np.array([-1 if t.producer == INPUT else graph.index[t.producer] for t in graph.tensors])
        last = np.array([max((graph.index[c] for c in t.consumers), default=-1) for t in graph.tensors])
        if self.sink is not None:
            last[[t.is_output for t in graph.tensors]] = n
        at = np.arange(n + 1)[:, None]
        return np.asarray((made < at) & (last >= at))

    @cached_property
    def payload_bytes(self) -> np.ndarray:
        """Bytes that cross each position, at the wire's precision and without framing, shape (n + 1,)."""
        sizes = [wire_bytes(t.size_bytes, t.dtype, self.wire) for t in self.profile.graph.tensors]
        return np.asarray(self.live @ np.array(sizes, float))

    @cached_property
    def held_bytes(self) -> np.ndarray:
        """Bytes of the same tensors in memory, shape (n + 1,)."""
        return np.asarray(self.live @ np.array([t.size_bytes for t in self.profile.graph.tensors], float))

    @cached_property
    def ways(self) -> dict[tuple[int, int], Way]:
        """The ways from place to place, by their numbers; pairs that nothing joins are left out."""
        found = {}
        for d, a in enumerate(self.places):
            for e, b in enumerate(self.places):
                if d != e and (way := self.system.way(a, b)) is not None:
                    found[d, e] = way
        return found

    @cached_property
    def transfer(self) -> np.ndarray:
        """τ: seconds for which the transfer from place to place at each position keeps its ways busy, shape (m, m, n + 1); ∞ without a way."""
        m = len(self.places)
        out = np.full((m, m, self.layers + 1), np.inf)
        for (d, e), way in self.ways.items():
            out[d, e] = 8.0 * (self.payload_bytes * way.overhead + way.header_bytes) / way.rate_bps
        return out

    def moves(self, order: tuple[int, ...], cuts: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """The transfers (from, to, position) of stages at these places, cut at these inner positions."""
        found = list(zip(order, order[1:], cuts, strict=False))
        if self.source is not None and (s := self.index[self.source]) != order[0]:
            found.insert(0, (s, order[0], 0))
        if self.sink is not None and (t := self.index[self.sink]) != order[-1]:
            found.append((order[-1], t, self.layers))
        return found

    # -- memory ------------------------------------------------------------------------------------------

    @cached_property
    def memory(self) -> np.ndarray:
        """Bytes that a place holds for the layers [i, j), shape (n + 1, n + 1); ∞ where j ≤ i.

        Parameters, shared ones once; the largest working set; what is received for the next frame and what of the last waits to
        be sent.
        """
        graph, n = self.profile.graph, self.layers
        readers: dict[str, list[int]] = {}
        for v, layer in enumerate(graph.layers):
            for p in layer.parameters:
                readers.setdefault(p, []).append(v)
        first = np.zeros((n, n))  # [i, v]: bytes of the parameters whose first reader from i on is v
        for p, who in readers.items():
            for before, v in zip([-1, *who], who, strict=False):
                first[before + 1 : v + 1, v] += graph.parameter_bytes[p]
        working = np.triu(np.broadcast_to([layer.memory_bytes for layer in graph.layers], (n, n)))
        held = np.cumsum(first, axis=1) + np.maximum.accumulate(working, axis=1)
        out = np.full((n + 1, n + 1), np.inf)
        rows, columns = np.triu_indices(n)
        out[rows, columns + 1] = held[rows, columns] + self.held_bytes[rows] + self.held_bytes[columns + 1]
        return out

    @cached_property
    def limits(self) -> np.ndarray:
        """Bytes that each place has, shape (m,); ∞ where nobody said."""
        given = [d.memory_bytes for d in self.system.places.values()]
        return np.array([np.inf if x is None else x for x in given], float)
