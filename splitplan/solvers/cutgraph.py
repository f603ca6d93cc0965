"""A split as numbers alone: nodes with two costs, tensors with bits. What compression shrinks and a flow cuts, for every rate at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from splitplan.formulations.costs import Linear
from splitplan.solvers.mincut import minimum_cut

if TYPE_CHECKING:
    from splitplan.formulations.split import SplitPoint

INPUT = -1
"""The producer of tensors that are born on the device."""


@dataclass(frozen=True, eq=False)
class CutGraph:
    """Nodes in topological order; a cut keeps a closed beginning of them on the device.

    A cut costs Σ device + Σ server + Σ bits of tensors that cross · (bit[0] + λ bit[1]), and a message's cost when any node is
    on the server. λ = 1 / uplink rate.

    Parameters
    ----------
    device, server : array of float, shape (nodes,)
        A node's cost on either side; what a node's results cost on the way back is in ``server``.
    stay, go : array of bool, shape (nodes,)
        Pinned, consequences included.
    producer : array of int, shape (tensors,)
        `INPUT` or a node.
    readers : tuple of array of int, one a tensor
        Nodes that read it, ascending.
    bits : array of float, shape (tensors,)
    output : array of bool, shape (tensors,)
        Whether it is an output of the model.
    bit, up_message : array of float, shape (2,)
        Cost of a bit and of a message on the way up: fixed, and for each unit of λ.
    down_message : float
    result_at_server : bool
    """

    device: np.ndarray
    server: np.ndarray
    stay: np.ndarray
    go: np.ndarray
    producer: np.ndarray
    readers: tuple[np.ndarray, ...]
    bits: np.ndarray
    output: np.ndarray
    bit: np.ndarray
    up_message: np.ndarray
    down_message: float
    result_at_server: bool

    def __len__(self) -> int:
        return len(self.device)

    @cached_property
    def wanted(self) -> np.ndarray:
        """Position of the last node that reads each tensor; the end for outputs that belong on the server. Shape (tensors,)."""
        read = [int(r[-1]) if len(r) else int(p) for r, p in zip(self.readers, self.producer, strict=True)]
        return np.where(self.output, len(self), read) if self.result_at_server else np.array(read, int)

    def lines_after(self, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Costs A + λ B of the cuts right after given positions (−1: all on the server), as arrays A and B."""
        ends = np.asarray(ends, int)
        n = len(self)
        crosses = np.zeros(n + 2)  # changes of the bits that cross, by position + 1
        np.add.at(crosses, self.producer + 1, self.bits)
        np.add.at(crosses, self.wanted + 1, -self.bits)
        bits = np.maximum(np.cumsum(crosses)[ends + 1], 0.0)
        device = np.r_[0.0, np.cumsum(self.device)][ends + 1]
        server = np.r_[np.cumsum(self.server[::-1])[::-1], 0.0][ends + 1]
        far = ends < n - 1
        sends = far | self.result_at_server
        fixed = device + server + self.bit[0] * bits + self.up_message[0] * sends + self.down_message * far
        return fixed, self.bit[1] * bits + self.up_message[1] * sends

    def line(self, far: np.ndarray) -> tuple[float, float]:
        """Cost A + λ B of one cut, given by the nodes on the server, as (A, B)."""
        made_far = far[self.producer] & (self.producer != INPUT)
        wanted = np.array([far[r].any() for r in self.readers], bool) | (self.output & self.result_at_server)
        bits = float(self.bits[wanted & ~made_far].sum())
        sends = bool(far.any()) or self.result_at_server
        returns = bool((made_far & self.output).any())
        fixed = self.device[~far].sum() + self.server[far].sum() + self.bit[0] * bits
        fixed += self.up_message[0] * sends + self.down_message * returns
        return float(fixed), float(self.bit[1] * bits + self.up_message[1] * sends)

    @cached_property
    def read(self) -> tuple[list[int], ...]:
        """Tensors that each node reads."""
        found: tuple[list[int], ...] = tuple([] for _ in range(len(self)))
        for t, readers in enumerate(self.readers):
            for v in readers:
                found[v].append(t)
        return found

    @cached_property
    def made(self) -> tuple[list[int], ...]:
        """Tensors that each node makes."""
        found: tuple[list[int], ...] = tuple([] for _ in range(len(self)))
        for t, v in enumerate(self.producer):
            if v != INPUT:
                found[v].append(t)
        return found

    def contract(self, label: np.ndarray) -> CutGraph:
        """Nodes of one label become one. Labels 0 … m−1, so numbered that the result is in topological order."""
        m = int(label.max()) + 1
        producer = np.where(self.producer == INPUT, INPUT, label[self.producer])
        readers = [np.unique(label[r[label[r] != p]]) for r, p in zip(self.readers, producer, strict=True)]
        crosses = np.array([len(r) > 0 for r in readers], bool) | self.output
        return CutGraph(
            device=np.bincount(label, self.device, m),
            server=np.bincount(label, self.server, m),
            stay=np.bincount(label, self.stay, m) > 0,
            go=np.bincount(label, self.go, m) > 0,
            producer=producer[crosses],
            readers=tuple(r for r, c in zip(readers, crosses, strict=True) if c),
            bits=self.bits[crosses],
            output=self.output[crosses],
            bit=self.bit,
            up_message=self.up_message,
            down_message=self.down_message,
            result_at_server=self.result_at_server,
        )

    @cached_property
    def arcs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
        """The flow network: tails, heads, capacities (fixed, for each λ), shape (arcs, 2); source, sink. See `MinCut`."""
        n, k = len(self), len(self.bits)
        source, sink, up, down = n + k, n + k + 1, n + k + 2, n + k + 3
        never = np.inf
        arcs: list[tuple[int, int, float, float]] = [
            (source, up, *self.up_message),
            (source, down, self.down_message, 0.0),
        ]
        for v in range(n):
            arcs.append((source, v, never if self.stay[v] else self.server[v], 0.0))
            arcs.append((v, sink, never if self.go[v] else self.device[v], 0.0))
            arcs.append((up, v, never, 0.0))
        for t, (p, readers, bits, out) in enumerate(
            zip(self.producer, self.readers, self.bits, self.output, strict=True)
        ):
            maker = source if p == INPUT else int(p)
            arcs.append((maker, n + t, self.bit[0] * bits, self.bit[1] * bits))
            arcs += [(n + t, int(w), never, 0.0) for w in readers]
            if p != INPUT:
                arcs += [(int(w), int(p), never, 0.0) for w in readers]
            if out and self.result_at_server:
                arcs += [(n + t, sink, never, 0.0), (up, sink, never, 0.0)]
            elif out and p != INPUT:
                arcs.append((down, int(p), never, 0.0))
        table = np.array(arcs)
        return table[:, 0].astype(np.int32), table[:, 1].astype(np.int32), table[:, 2:], source, sink

    def cut(self, fixed: float, per_lambda: float) -> tuple[np.ndarray, float]:
        """The nodes on the server in a minimum cut at λ = per_lambda / fixed, in homogeneous weights, and its cost."""
        tail, head, capacity, source, sink = self.arcs
        with np.errstate(invalid="ignore"):
            weighed = np.where(np.isinf(capacity[:, 0]), np.inf, fixed * capacity[:, 0] + per_lambda * capacity[:, 1])
        found = minimum_cut(tail, head, weighed, source, sink)
        return ~found.source_side[: len(self)], found.value


def cut_graph(problem: SplitPoint, fixed: Linear, per_lambda: Linear) -> CutGraph:
    """The numbers of a problem whose objective is ``fixed + λ per_lambda``, λ = 1 / uplink rate."""
    graph, c = problem.profile.graph, problem.costs
    n = len(graph)
    stay, go = (np.isin(np.arange(n), sorted(p)) for p in problem.pinned)
    server = fixed.server_s * c.server_s
    producer = graph.producers
    for t, p in enumerate(producer):
        if p >= 0:
            server[p] += fixed.down_bits * c.down_bits[t]
    readers = tuple(np.array(sorted(graph.index[w] for w in t.consumers), int) for t in graph.tensors)
    returns = problem.result == "device"
    return CutGraph(
        device=fixed.device_s * c.device_s,
        server=server,
        stay=stay,
        go=go,
        producer=np.array(producer, int),
        readers=readers,
        bits=c.up_bits,
        output=np.array([t.is_output for t in graph.tensors]),
        bit=np.array([fixed.up_bits, per_lambda.up_bits]),
        up_message=np.array([fixed.up_messages, per_lambda.up_messages]),
        down_message=fixed.down_messages if returns else 0.0,
        result_at_server=problem.result == "server",
    )
