"""Compression of a split, independent of the link: fewer nodes, the same optimum at every rate.

The rules are for additive objectives (latency, energy, their weighted sums). `period` and the three-weight table may use the
blocks alone: moving a layer to the server can raise the server's stage, or the server's weight.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from splitplan.solvers.cutgraph import INPUT, CutGraph

SLACK = 1 - 1e-12
"""Bits are compared with the rounding of their sums in mind: a rule is applied when it holds with this to spare, or exactly."""


@dataclass(frozen=True, eq=False)
class Compressed:
    """A smaller graph, and which node each layer went into.

    Parameters
    ----------
    graph : CutGraph
    label : array of int, shape (layers,)
    layers, nodes : int
        Before and after.
    blocks, dominated : int
        Blocks of more than one node between articulation nodes, and how many of them no optimal cut lies in.
    """

    graph: CutGraph
    label: np.ndarray
    layers: int
    nodes: int
    blocks: int
    dominated: int


def articulations(graph: CutGraph) -> np.ndarray:
    """Nodes v such that every tensor made before v (or given) is last read at v or before: no edge jumps over v.

    A closed beginning that holds v holds all before v, if these feed v; and they do, since what a node before v makes
    is wanted no later than at v and outputs count as wanted at the end. So each cut is either right after an articulation node,
    or inside one block between two neighbours: the optimum is the least over blocks, whatever the objective.

    Proof that all before v feed v: every layer leads to an output (`LayerGraph` sees to that), so each x < v has a way on. Outputs
    count as wanted at the end, so x makes none, but is read by some y, x < y ≤ v; and y feeds v or is v, by induction from v down.

    Returns
    -------
    array of int
        Positions, ascending; without the end.
    """
    n = len(graph)
    reach = np.full(n + 1, -1)  # reach[i + 1]: furthest position at which something made at i is wanted
    np.maximum.at(reach, graph.producer + 1, np.where(graph.output, n, graph.wanted))
    furthest = np.maximum.accumulate(reach)[:-1]  # over all made before v
    return np.flatnonzero(furthest <= np.arange(n))


def compress(graph: CutGraph) -> Compressed:
    """Merge what an optimal cut need never part, until nothing changes.

    Parameters
    ----------
    graph : CutGraph
        Of an additive objective.

    Returns
    -------
    Compressed
    """
    layers = len(graph)
    graph, label = merge_series(graph)
    starts = [-1, *articulations(graph).tolist()]
    wide = [(u, w) for u, w in itertools.pairwise(starts) if w > u + 1]
    gone = [(u, w) for u, w in wide if dominated(graph, u, w)]
    if gone:
        parts = np.arange(len(graph))
        for u, w in gone:
            parts[u + 1 : w] = w
        parts = np.unique(parts, return_inverse=True)[1]
        graph, label = graph.contract(parts), parts[label]
        graph, again = merge_series(graph)
        label = again[label]
    return Compressed(graph, label, layers, len(graph), len(wide), len(gone))


def merge_series(graph: CutGraph) -> tuple[CutGraph, np.ndarray]:
    """Merge each node v into its only reader w where a cut between them never pays; repeated until none is left.

    Rule: v's tensors are read by w alone and are no outputs; v may go to the server (no pin) and costs no more there; what v
    reads holds no more bits than what it makes.

    Proof: take a cut with v on the device and w on the server, at any rate. Move v to the server: v's tensors cross no more,
    of those that v reads at most all cross in addition, so bits do not grow, and neither does their cost, whatever a bit costs;
    v's own cost does not grow; w was on the server, so there was a message before; v makes no output, so nothing more returns.
    What feeds v stays on the device: the cut is closed still. So some optimal cut keeps v and w together.
    Merging is safe for the order: w is v's only successor, so no other way leads from v to w.

    Returns
    -------
    CutGraph, array of int
        The smaller graph, and the new node of each old one.
    """
    n = len(graph)
    owner = np.arange(n)

    def find(v: int) -> int:
        while owner[v] != v:
            owner[v] = owner[owner[v]]
            v = int(owner[v])
        return v

    device, server = graph.device.copy(), graph.server.copy()
    stay = graph.stay.copy()
    reads = [set(r) for r in graph.read]
    makes = [set(m) for m in graph.made]
    readers = [set(r.tolist()) for r in graph.readers]
    waiting, queued = list(range(n)), np.ones(n, bool)
    while waiting:
        v = waiting.pop()
        queued[v] = False
        if owner[v] != v or stay[v] or not makes[v] or any(graph.output[t] for t in makes[v]):
            continue
        near = {find(w) for t in makes[v] for w in readers[t]}
        if len(near) != 1 or server[v] > device[v]:
            continue
        bits_in, bits_out = (sum(graph.bits[t] for t in ts) for ts in (reads[v], makes[v]))
        if bits_in > bits_out * SLACK and bits_in != bits_out:
            continue
        w = near.pop()
        owner[v] = w
        device[w] += device[v]
        server[w] += server[v]
        reads[w] = (reads[w] - makes[v]) | reads[v]
        # w has grown: it may merge now, and so may those that feed it and now have one reader.
        again = {w, *(find(int(p)) for t in reads[w] if (p := graph.producer[t]) != INPUT)}
        for x in again:
            if not queued[x]:
                queued[x] = True
                waiting.append(x)
    roots = np.array([find(v) for v in range(n)])
    # A merged node stands where its last member stood: all that feeds its members is before.
    label = np.unique(roots, return_inverse=True)[1]
    return graph.contract(label), label


def dominated(graph: CutGraph, entry: int, end: int) -> bool:
    """Whether no cut strictly inside the block between two articulation nodes can beat the cut right after the entry.

    Rule: no node inside is pinned to the device or costs more on the server, and every cut inside the block (the end on the
    server, something inside on the device) sends at least the bits that the entry makes.

    Proof: take a cut inside. Move all inside to the server: their own cost does not grow, the entry's tensors cross instead of
    at least as many bits, there was a message before, and outputs are not made inside (they would jump over the end). So the
    cut right after the entry is as good, at any rate.

    Parameters
    ----------
    entry : int
        Position of the articulation node before the block, −1 for the model's inputs.
    end : int
        Position of the one after it.
    """
    inside = np.arange(entry + 1, end)
    if graph.stay[inside].any() or (graph.server[inside] > graph.device[inside]).any():
        return False
    first = float(graph.bits[graph.producer == entry].sum())
    _, least = block(graph, entry, end, bits_alone=True).cut(1.0, 0.0)
    return least >= first * SLACK


def block(graph: CutGraph, entry: int, end: int | None, *, bits_alone: bool = False) -> CutGraph:
    """A block of its own: the nodes after ``entry``, up to ``end``, which is on the server. What the entry makes is its input.

    Parameters
    ----------
    entry : int
        An articulation node; −1 for the model's inputs.
    end : int or None
        An articulation node; None for what is after the last one.
    bits_alone : bool
        Let its cuts cost bits and nothing else.
    """
    stop = len(graph) if end is None else end + 1
    nodes = slice(entry + 1, stop)
    made_before = len(graph) if end is None else end
    chosen = np.flatnonzero((graph.producer >= entry) & (graph.producer < made_before))
    m = stop - entry - 1
    free = np.zeros(m) if bits_alone else None
    go = np.zeros(m, bool) if bits_alone else graph.go[nodes].copy()
    if end is not None:
        go[-1] = True
    return CutGraph(
        device=graph.device[nodes] if free is None else free,
        server=graph.server[nodes] if free is None else free,
        stay=np.zeros(m, bool) if bits_alone else graph.stay[nodes],
        go=go,
        producer=np.where(graph.producer[chosen] == entry, INPUT, graph.producer[chosen] - entry - 1),
        readers=tuple(graph.readers[t] - entry - 1 for t in chosen),
        bits=graph.bits[chosen],
        output=graph.output[chosen],
        bit=np.array([1.0, 0.0]) if bits_alone else graph.bit,
        up_message=np.zeros(2) if bits_alone else graph.up_message,
        down_message=0.0 if bits_alone else graph.down_message,
        result_at_server=graph.result_at_server,
    )
