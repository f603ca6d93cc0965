"""An OperatorPlacement as arrays over groups: operators of one colour are one group, tensors with the same ends are one tensor.

A tensor is paid by every accelerator that holds some but not all of its ends (its producer and its readers): one that has the
producer sends it out, one that has only readers takes it in. So neither the direction nor the producer matters, and the tensors are
the weighted edges of a hypergraph.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from splitplan.data.operators import OperatorGraph


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of operators that stay together, and the tensors between them.

    Parameters
    ----------
    of : array of int, shape (operators,)
        The group of each operator.
    accelerator_s, cpu_s : array, shape (groups,)
        Seconds there; infinite where it cannot run.
    memory_bytes : array, shape (groups,)
    ends : tuple of tuple of int
        The groups at each tensor's ends, ascending, at least two.
    cost_s : array, shape (tensors,)
        Seconds that each accelerator with some but not all of the ends pays; positive.
    order : tuple of (int, int)
        Pairs (first, then): what a contiguous plan keeps in order; acyclic unless groups must be merged (`contiguous`).
    """

    of: np.ndarray
    accelerator_s: np.ndarray
    cpu_s: np.ndarray
    memory_bytes: np.ndarray
    ends: tuple[tuple[int, ...], ...]
    cost_s: np.ndarray
    order: tuple[tuple[int, int], ...]

    @classmethod
    def of_graph(cls, graph: OperatorGraph, *, apart: bool = False) -> Groups:
        """One group a colour; operators without a colour, or all when ``apart``, are groups of their own."""
        colours: dict[str, int] = {}
        keys = colour_of(graph) if not apart else [str(v) for v in range(len(graph))]
        of = np.array([colours.setdefault(key, len(colours)) for key in keys], int)
        n = len(colours)

        def total(values: Iterable[float | None]) -> np.ndarray:
            return np.bincount(of, np.array([np.inf if x is None else x for x in values]), n)

        ops = graph.operators
        pairs = ((int(of[v]), int(of[w])) for v, w in ordered(graph))
        order = dict.fromkeys((g, h) for g, h in pairs if g != h)
        costs: dict[tuple[int, ...], float] = {}
        for v, readers in enumerate(graph.consumers):
            ends = tuple(sorted({int(of[v]), *(int(of[w]) for w in readers)}))
            if len(ends) > 1 and ops[v].output_s > 0:
                costs[ends] = costs.get(ends, 0.0) + ops[v].output_s
        return cls(
            of,
            total(o.accelerator_s for o in ops),
            total(o.cpu_s for o in ops),
            total(o.memory_bytes for o in ops),
            tuple(costs),
            np.array(list(costs.values()), float),
            tuple(order),
        )

    def __len__(self) -> int:
        return len(self.accelerator_s)

    @cached_property
    def contiguous(self) -> Groups:
        """The same with groups merged that no contiguous plan can part: those on a cycle of `order`. In a topological order."""
        n = len(self)
        pairs = np.array(self.order, int).reshape(-1, 2)
        arcs = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
        _, component = connected_components(arcs, directed=True, connection="strong")
        merged = self.merged(component)
        return merged.merged(np.argsort(depth_first(len(merged), merged.order)))

    def merged(self, to: np.ndarray) -> Groups:
        """The groups that are ``to[g]`` for each group g, numbered from 0."""
        n = int(to.max()) + 1

        def total(values: np.ndarray) -> np.ndarray:
            return np.bincount(to, values, n)

        order = dict.fromkeys((int(to[a]), int(to[b])) for a, b in self.order if to[a] != to[b])
        costs: dict[tuple[int, ...], float] = {}
        for ends, cost in zip(self.ends, self.cost_s.tolist(), strict=True):
            those = tuple(sorted({int(to[g]) for g in ends}))
            if len(those) > 1:
                costs[those] = costs.get(those, 0.0) + cost
        return Groups(
            to[self.of],
            total(self.accelerator_s),
            total(self.cpu_s),
            total(self.memory_bytes),
            tuple(costs),
            np.array(list(costs.values()), float),
            tuple(order),
        )

    @cached_property
    def incidence(self) -> csr_array:
        """Which tensors have an end in which group, as a sparse 0/1 matrix, shape (tensors, groups)."""
        rows = np.repeat(np.arange(len(self.ends)), [len(e) for e in self.ends])
        columns = np.array([g for e in self.ends for g in e], int)
        return csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(self.ends), len(self)))

    @cached_property
    def sizes(self) -> np.ndarray:
        """How many ends each tensor has, shape (tensors,)."""
        return np.array([len(e) for e in self.ends], int)

    def loads(self, device: np.ndarray, accelerators: int, cpus: int) -> np.ndarray:
        """Seconds of each device, accelerators first, shape (accelerators + cpus,).

        Parameters
        ----------
        device : array of int, shape (groups,)
            Number of each group's device.
        """
        count, n = accelerators + cpus, len(self)
        on = csr_array((np.ones(n), (np.arange(n), device)), shape=(n, count))
        seconds = np.where(device < accelerators, self.accelerator_s, self.cpu_s)
        found = np.bincount(device, seconds, count)
        if len(self.ends):
            there = (self.incidence @ on).toarray()
            paid = (there > 0) & (there < self.sizes[:, None])
            found[:accelerators] += self.cost_s @ paid[:, :accelerators]
        return found

    def bytes_on(self, device: np.ndarray, accelerators: int, cpus: int) -> np.ndarray:
        """Memory taken on each device, shape (accelerators + cpus,)."""
        return np.bincount(device, self.memory_bytes, accelerators + cpus)


def colour_of(graph: OperatorGraph) -> list[str]:
    """A colour for each operator; those without one get one of their own."""
    return [f"colour {o.colour}" if o.colour else f"operator {v}" for v, o in enumerate(graph.operators)]


def ordered(graph: OperatorGraph) -> list[tuple[int, int]]:
    """The pairs (first, then) of operators that a contiguous plan keeps in order: `OperatorPlacement` (8)."""
    ops, colours = graph.operators, colour_of(graph)
    forward = {colour for o, colour in zip(ops, colours, strict=True) if not o.backward}
    found = []
    for v, readers in enumerate(graph.consumers):
        for w in readers:
            if not ops[w].backward:
                found.append((v, w))  # what feeds a forward operator is one
            elif ops[v].backward and not {colours[v], colours[w]} <= forward:
                found.append((w, v))
    return found


def depth_first(n: int, order: Iterable[tuple[int, int]], key: np.ndarray | None = None) -> np.ndarray:
    """A topological order that finishes a branch before it begins the next; ``key`` breaks ties, smallest first.

    Parameters
    ----------
    n : int
    order : iterable of (int, int)
        Acyclic.
    key : array, shape (n,), optional

    Returns
    -------
    array of int, shape (n,)
        The nodes in that order.
    """
    after: list[list[int]] = [[] for _ in range(n)]
    waits = [0] * n
    for a, b in order:
        after[a].append(b)
        waits[b] += 1
    rank = list(range(n)) if key is None else key.tolist()
    ready = sorted((v for v in range(n) if waits[v] == 0), key=lambda v: rank[v], reverse=True)
    found: list[int] = []
    while ready:
        v = ready.pop()
        found.append(v)
        freed = []
        for w in after[v]:
            waits[w] -= 1
            if waits[w] == 0:
                freed.append(w)
        ready += sorted(freed, key=lambda w: rank[w], reverse=True)
    return np.array(found, int)
