"""SplitPoint as a minimum cut: exact for weighted sums without side constraints.

The flow is scipy's, on scaled 32-bit integers; precision comes from refinement (`minimum_cut`), not from floats.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import scipy
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from splitplan.errors import SolverError
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Termination
from splitplan.models.graph import INPUT

if TYPE_CHECKING:
    from splitplan.formulations.split import SplitPoint

LARGEST = 2**30 - 1
"""Scaled capacities stay at most this, so that a residual capacity (at most twice that) fits scipy's int32."""

MOST_ROUNDS = 8
"""Two or three reach double precision; a bound on the loop, not a limit that is met."""


@dataclass(frozen=True)
class MinCut:
    """Minimum cut by maximum flow.

    Network (source side: device, sink side: server): s→v carries b_v, v→t carries a_v; w→v is infinite for each edge v→w
    (data crosses one way); a tensor with bits β gets a node k with v→k of its cost and k→w infinite for each consumer w, so
    that it is paid once; the message's fixed cost is a node that goes to the server with the first layer. "Infinite" is more
    than a feasible cut costs, and every capacity is clipped to it, which changes no minimum cut.
    """

    name: ClassVar[str] = "min-cut"
    solves: ClassVar[tuple[str, ...]] = ("split-point",)
    rung: ClassVar[Ladder] = Ladder.MIN_CUT
    exact: ClassVar[bool] = True

    def why_not(self, problem: SplitPoint) -> str | None:
        """Limits are knapsacks, and the period is a maximum: neither is a cut."""
        if problem.limits:
            return f"{', '.join(problem.limits)}: with a limit the problem is a knapsack, not a cut"
        if problem.linear_objective is None:
            return "the period is a maximum of stages, not a sum over a cut"
        return None

    def solve(self, problem: SplitPoint, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """Build the network and cut it; always finishes (milliseconds at hundreds of layers), so limits are not needed."""
        start = time.perf_counter()
        network = split_network(problem)
        built = time.perf_counter()
        cut = minimum_cut(*network)
        solved = time.perf_counter()
        on_server = ~cut.source_side[: len(problem.profile.graph)]
        return cut.found(problem.plan_for(on_server), problem.scale, built - start, solved - built)


@dataclass(frozen=True)
class Cut:
    """A minimum cut and the flow that proves it.

    Parameters
    ----------
    source_side : array of bool, shape (nodes,)
    value : float
        Cost of the cut, summed in floats from the given capacities.
    flow : float
        What the flow proves (`flow_bound`): a lower bound on every cut.
    rounds : int
        Flows computed.
    """

    source_side: np.ndarray
    value: float
    flow: float
    rounds: int

    def found(self, plan: Any, scale: float, build_s: float, solve_s: float) -> Found:
        """What a solver returns for the plan that this cut stands for, of costs that were multiplied by ``scale``."""
        return Found(
            plan=plan,
            termination=Termination.CONVERGED,
            bound=self.flow / scale,
            objective=self.value / scale,
            bound_by="recomputed from the flow (its balance at every node and every capacity checked)",
            solver_version=f"scipy {scipy.__version__}",
            build_s=build_s,
            solve_s=solve_s,
            log=f"{self.rounds} flows, {len(self.source_side)} nodes, flow {self.flow!r}, cut {self.value!r}",
        )


def split_network(problem: SplitPoint) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """The network of `MinCut`: tails, heads, capacities (inf allowed), source, sink. Layers are nodes 0 … n−1.

    Costs are scaled by ``problem.scale``.
    """
    graph, c = problem.profile.graph, problem.costs
    n, k = len(graph), len(graph.tensors)
    linear = problem.linear_objective
    assert linear is not None  # why_not
    device, server, up, down, ups, downs = (problem.scale * w for w in linear.weights)
    source, sink, up_message, down_message = n + k, n + k + 1, n + k + 2, n + k + 3
    stay, go = problem.pinned
    arcs: list[tuple[int, int, float]] = []
    for v in range(n):
        arcs.append((source, v, np.inf if v in stay else server * c.server_s[v]))
        arcs.append((v, sink, np.inf if v in go else device * c.device_s[v]))
        arcs.append((up_message, v, np.inf))
    arcs += [(w, v, np.inf) for v, w in graph.edges]
    arcs.append((source, up_message, ups))
    arcs.append((source, down_message, downs))
    for i, t in enumerate(graph.tensors):
        producer = source if t.producer == INPUT else graph.index[t.producer]
        arcs.append((producer, n + i, up * c.up_bits[i]))
        arcs += [(n + i, graph.index[w], np.inf) for w in t.consumers]
        if t.is_output and problem.result == "server":
            arcs += [(n + i, sink, np.inf), (up_message, sink, np.inf)]
        if t.is_output and problem.result == "device" and producer != source:
            arcs.append((source, producer, down * c.down_bits[i]))
            arcs.append((down_message, producer, np.inf))
    tail, head, capacity = (np.array(column) for column in zip(*arcs, strict=True))
    return tail.astype(np.int32), head.astype(np.int32), capacity.astype(float), source, sink


def minimum_cut(tail: np.ndarray, head: np.ndarray, capacity: np.ndarray, source: int, sink: int) -> Cut:
    """Minimum cut with float capacities through integer flows, refined until flow and cut agree to rounding.

    Each round scales the residual capacities, clipped to what may still flow (cut − flow), to 30 bits, rounds them down and
    augments by an integer flow; what may still flow shrinks about 10⁹ / arcs fold a round. The flow stays feasible, so its
    value is a lower bound; cuts are valued in floats from the given capacities.

    Parameters
    ----------
    tail, head : array of int, shape (arcs,)
    capacity : array of float, shape (arcs,)
        Non-negative; inf for arcs that no cut may hold.
    source, sink : int

    Returns
    -------
    Cut
    """
    nodes = int(max(tail.max(), head.max(), source, sink)) + 1
    # Twice any finite cut is as good as infinite, and stays apart from every finite sum when both are rounded to integers.
    ceiling = 2.0 * capacity[np.isfinite(capacity)].sum() or 1.0
    # Every arc with its reverse, zeros kept: scipy then returns the flow in this very structure.
    network = coo_array(
        (np.r_[np.minimum(capacity, ceiling), np.zeros(len(capacity))], (np.r_[tail, head], np.r_[head, tail])),
        shape=(nodes, nodes),
    ).tocsr()
    network.sort_indices()
    rows = np.repeat(np.arange(nodes), np.diff(network.indptr))
    residual, carried = network.data.copy(), np.zeros(network.nnz)
    flow, best_value, best_side, rounds = 0.0, np.inf, np.zeros(nodes, bool), 0
    left = ceiling
    while rounds < MOST_ROUNDS:
        rounds += 1
        scale = LARGEST / left
        whole = np.floor(np.minimum(residual, left) * scale).astype(np.int32)
        result = maximum_flow(csr_array((whole, network.indices, network.indptr), shape=network.shape), source, sink)
        if result.flow.nnz != network.nnz:
            raise SolverError(
                "scipy returned the flow in another structure than the network's; please report this with scipy's version"
            )
        carried += result.flow.data / scale
        residual = np.maximum(residual - result.flow.data / scale, 0.0)
        flow += float(result.flow_value / scale)
        open_ = whole > result.flow.data
        adjacency = csr_array(
            (np.ones(open_.sum(), np.int8), (rows[open_], network.indices[open_])), shape=network.shape
        )
        side = np.zeros(nodes, bool)
        side[breadth_first_order(adjacency, source, return_predecessors=False)] = True
        value = float(np.sort(capacity[side[tail] & ~side[head]]).sum())
        gained = result.flow_value > 0 or value < best_value
        if value < best_value:
            best_value, best_side = value, side
        elif not np.isfinite(best_value):
            break  # the flow filled an infinite arc
        left = max(best_value - flow, 0.0)
        if not gained or left <= 1e-15 * best_value:
            break
    if not np.isfinite(best_value):
        raise SolverError("the network has no finite cut: a chain of infinite arcs leads from source to sink")
    proven = flow_bound(rows, network.indices, carried, network.data, source, sink)
    return Cut(best_side, best_value, min(proven, best_value), rounds)


def flow_bound(
    tail: np.ndarray, head: np.ndarray, carried: np.ndarray, capacity: np.ndarray, source: int, sink: int
) -> float:
    """What a flow proves of every cut, whatever produced it: what leaves the source, less all in which it is no flow.

    Summed over the source's side S of a cut, what leaves its nodes on balance crosses the cut, so
    capacity(S) ≥ (out − in)(source) − Σ_v |(out − in)(v)| − Σ_arcs max(0, carried − capacity), v any node but source and sink.

    Parameters
    ----------
    tail, head : array of int, shape (arcs,)
    carried : array of float, shape (arcs,)
        Of an arc and its reverse only what is positive counts.
    capacity : array of float, shape (arcs,)
    source, sink : int
    """
    along = np.maximum(carried, 0.0)
    nodes = int(max(tail.max(), head.max(), source, sink)) + 1
    balance = np.bincount(tail, along, nodes) - np.bincount(head, along, nodes)
    value = float(balance[source])
    balance[[source, sink]] = 0.0
    return value - float(np.abs(balance).sum()) - float(np.maximum(along - capacity, 0.0).sum())
