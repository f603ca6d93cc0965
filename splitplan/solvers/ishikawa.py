"""RelaySplit as one minimum cut over labels (Ishikawa, PAMI 25, 2003): exact without direct links, for any number of places."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found
from splitplan.models.graph import INPUT
from splitplan.solvers.mincut import Cut, minimum_cut

if TYPE_CHECKING:
    from splitplan.formulations.relay import RelaySplit

NEVER = -1
"""The column of an arc that no cut may hold."""


@dataclass(frozen=True)
class Ishikawa:
    """Minimum cut by maximum flow over a node for each layer and each boundary between places.

    Network (sink side: beyond): node (v, i) for x_{v,i}, (v, −1) the sink, (v, K) the source. (v, j)→(v, j−1) carries layer v's
    seconds at place j, (v, i)→(v, i+1) is infinite (1), so that exactly one of the former is cut; (w, i)→(v, i) is infinite for
    each edge v→w (2). A tensor has a node k for each boundary with (prod, i)→k of its cost and k→(w, i) infinite for each
    consumer, so that it is paid once (3); a message's fixed cost is a node likewise (5); results come back by
    source→(prod, i) (4). With two places this is the network of `MinCut`.
    """

    name: ClassVar[str] = "ishikawa"
    solves: ClassVar[tuple[str, ...]] = ("relay-split",)
    rung: ClassVar[Ladder] = Ladder.MIN_CUT
    exact: ClassVar[bool] = True

    def why_not(self, problem: RelaySplit) -> str | None:
        """With direct links the cost of two layers is not submodular in their labels."""
        return problem.no_cut

    def solve(self, problem: RelaySplit, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """Build the network and cut it; always finishes (milliseconds at hundreds of layers), so limits are not needed."""
        start = time.perf_counter()
        network = LabelNetwork.of(problem)
        built = time.perf_counter()
        labels, cut = network.cut(problem.scale * problem.price)
        solved = time.perf_counter()
        return cut.found(problem.plan_for(labels), problem.scale, built - start, solved - built)


@dataclass(frozen=True, eq=False)
class LabelNetwork:
    """The network of `Ishikawa` for any weights of the totals: an arc's capacity is ``weights[column] · amount``.

    Parameters
    ----------
    layers, boundaries : int
        Layer v beyond place i is node ``v · boundaries + i``.
    tail, head : array of int, shape (arcs,)
    column : array of int, shape (arcs,)
        Of the totals (`RelayCosts`), or `NEVER`.
    amount : array of float, shape (arcs,)
    """

    layers: int
    boundaries: int
    tail: np.ndarray
    head: np.ndarray
    column: np.ndarray
    amount: np.ndarray

    @classmethod
    def of(cls, problem: RelaySplit) -> LabelNetwork:
        """The network of a problem without direct links."""
        graph, c = problem.profile.graph, problem.costs
        n, count = len(graph), len(problem.path) - 1
        least, most = problem.ranges
        source, sink, tensors = n * count, n * count + 1, n * count + 2
        messages = tensors + len(graph.tensors) * count
        arcs: list[tuple[int, int, int, float]] = []

        def node(v: int, i: int) -> int:
            return sink if i < 0 else source if i == count else v * count + i

        for v in range(n):
            for j in range(count + 1):
                allowed = least[v] <= j <= most[v]
                arcs.append((node(v, j), node(v, j - 1), j if allowed else NEVER, c.seconds[j, v]))
            arcs += [(node(v, i), node(v, i + 1), NEVER, 0.0) for i in range(count - 1)]
        for i in range(count):
            up, down, ups, downs = range(count + 1 + 4 * i, count + 5 + 4 * i)
            forth, home = messages + 2 * i, messages + 2 * i + 1
            result = c.result_beside(i)
            arcs += [(source, forth, ups, 1.0), (source, home, downs, 1.0)]
            arcs += [(forth, node(v, i), NEVER, 0.0) for v in range(n)]
            arcs += [(node(w, i), node(v, i), NEVER, 0.0) for v, w in graph.edges]
            arcs += [(forth, sink, NEVER, 0.0)] * (result == "server")
            for k, t in enumerate(graph.tensors):
                maker = source if t.producer == INPUT else node(graph.index[t.producer], i)
                crossing = tensors + k * count + i
                arcs.append((maker, crossing, up, c.up_bits[i, k]))
                arcs += [(crossing, node(graph.index[w], i), NEVER, 0.0) for w in t.consumers]
                if t.is_output and result == "server":
                    arcs.append((crossing, sink, NEVER, 0.0))
                elif t.is_output and result == "device" and maker != source:
                    arcs += [(source, maker, down, c.down_bits[i, k]), (home, maker, NEVER, 0.0)]
        tail, head, column, amount = (np.array(x) for x in zip(*arcs, strict=True))
        return cls(n, count, tail.astype(np.int32), head.astype(np.int32), column, amount.astype(float))

    def cut(self, weights: np.ndarray) -> tuple[np.ndarray, Cut]:
        """The labels of a minimum cut at these weights, shape (layers,), and the cut with its proof."""
        capacity = np.where(self.column == NEVER, np.inf, weights[self.column] * self.amount)
        inner = self.layers * self.boundaries
        found = minimum_cut(self.tail, self.head, capacity, inner, inner + 1)
        beyond = ~found.source_side[:inner].reshape(self.layers, self.boundaries)
        return beyond.sum(axis=1), found
