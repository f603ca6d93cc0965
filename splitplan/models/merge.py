"""Granularity: which operators make one layer. Pure graph rules; knows no torch.

Three granularities, each a partition of the operators whose quotient is acyclic:

- ``operator``: every operator is a layer.
- ``layer``: cheap operators (element-wise, views, casts, concatenations, reductions, normalisations)
  are joined to what feeds them, by the two rules of `join_cheap`.
- ``block``: on top of ``layer``, whatever lies between two articulation layers is one layer, see `join_blocks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SOURCE = -1
"""The producer of the model's inputs."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor among operators: who makes it (or `SOURCE`), who reads it, its size, whether it is an output."""

    producer: int
    readers: frozenset[int]
    size_bytes: float
    is_output: bool = False


def join_cheap(cheap: Sequence[bool], values: Sequence[Value]) -> list[list[int]]:
    """Join cheap operators into runs.

    Operators are taken in topological order. A cheap operator ``b`` joins in two cases:

    *Series.* All that ``b`` reads comes from one run, nothing else reads that run and none of it is an
    output, and what ``b`` reads is not smaller than what ``b`` makes: ``b`` joins the run (convolution +
    normalisation + activation).

    *Diamond.* Let ``d`` be the immediate dominator of ``b`` (the nearest run that every path from the
    inputs to ``b`` passes). If all runs strictly between ``d`` and ``b`` are cheap and only read by each
    other and by ``b``, and some path from ``d`` to ``b`` has no tensor smaller than what ``b`` makes (or
    ``b`` reads ``d`` itself), they become one run with ``b`` (a written-out GELU, a root-mean-square norm).
    The rule for series then applies to the new run.

    Acyclic: every run has one entrance, its first operator or the one run that feeds all of it, from
    which all its operators descend. So an edge into a run starts at, or passes, a point that reaches the
    whole run, and a cycle of runs would be a cycle of operators.

    What is lost: the cuts inside a run. Each is replaced by one that sends no more bytes: in a series the
    cut behind the run (the device runs the rest of it too); in a diamond the same, unless something on
    the server reads ``d`` anyway, when the cut before the run serves. An optimum therefore loses at most the
    device's seconds (energy, memory) on the cheap operators of the one run that it would have cut; none
    at all where the server gains nothing on them.

    Parameters
    ----------
    cheap : sequence of bool
        By operator, in topological order.
    values : sequence of Value

    Returns
    -------
    list of list of int
        The runs, each in order, sorted by their first operator, which is a topological order.
    """
    runs = _Runs(cheap, values)
    for operator in range(len(cheap)):
        runs.add(operator)
        if cheap[operator]:
            runs.close_diamond(operator)
            runs.close_series(operator)
    return runs.partition()


class _Runs:
    def __init__(self, cheap: Sequence[bool], values: Sequence[Value]) -> None:
        self.cheap = list(cheap)
        self.values = values
        self.run = list(range(len(cheap)))
        self.members = {i: [i] for i in range(len(cheap))}
        self.dominator = {SOURCE: SOURCE}
        self.depth = {SOURCE: 0}
        self.reads: list[list[Value]] = [[] for _ in cheap]
        self.makes: list[list[Value]] = [[] for _ in cheap]
        for value in values:
            if value.producer != SOURCE:
                self.makes[value.producer].append(value)
            for reader in value.readers:
                self.reads[reader].append(value)

    def of(self, operator: int) -> int:
        return operator if operator == SOURCE else self.run[operator]

    def add(self, operator: int) -> None:
        feeding = {self.of(v.producer) for v in self.reads[operator]} or {SOURCE}
        nearest = feeding.pop()
        for other in feeding:
            nearest = self._common(nearest, other)
        self.dominator[operator] = nearest
        self.depth[operator] = self.depth[nearest] + 1

    def _common(self, a: int, b: int) -> int:
        while a != b:
            if self.depth[a] < self.depth[b]:
                a, b = b, a
            a = self.dominator[a]
        return a

    def entering(self, run: int) -> list[Value]:
        """Values that a run reads from others."""
        found = {id(v): v for m in self.members[run] for v in self.reads[m] if self.of(v.producer) != run}
        return list(found.values())

    def leaving(self, run: int) -> list[Value]:
        """Values of a run that others read or that the model returns."""
        made = (v for m in self.members[run] for v in self.makes[m])
        return [v for v in made if v.is_output or any(self.run[r] != run for r in v.readers)]

    def join(self, runs: Sequence[int], into: int) -> None:
        members = sorted({m for r in runs for m in self.members.pop(r)} | set(self.members.pop(into, ())))
        self.members[into] = members
        for m in members:
            self.run[m] = into
        self.cheap[into] = all(self.cheap[r] for r in (*runs, into))

    def close_series(self, operator: int) -> None:
        run = self.run[operator]
        entering = self.entering(run)
        feeding = {self.of(v.producer) for v in entering}
        if len(feeding) != 1 or SOURCE in feeding:
            return
        (before,) = feeding
        leaving = self.leaving(before)
        if any(v.is_output or any(self.run[r] != run for r in v.readers if self.run[r] != before) for v in leaving):
            return
        if sum(v.size_bytes for v in leaving) < sum(v.size_bytes for v in self.leaving(run)):
            return
        self.join([run], before)

    def close_diamond(self, operator: int) -> None:
        entrance = self.dominator[operator]
        feeding = {self.of(v.producer) for v in self.reads[operator]}
        if entrance == SOURCE or feeding == {entrance}:
            return
        between: set[int] = set()
        waiting = feeding - {entrance}
        while waiting:
            run = waiting.pop()
            if not self.cheap[run]:
                return
            between.add(run)
            waiting |= {self.of(v.producer) for v in self.entering(run)} - between - {entrance}
        inside = between | {operator}
        for run in between:
            if any(v.is_output or any(self.run[r] not in inside for r in v.readers) for v in self.leaving(run)):
                return
        if self._a_wide_path(entrance, sorted(between), operator):
            self.join(sorted(between), operator)

    def _a_wide_path(self, entrance: int, between: Sequence[int], last: int) -> bool:
        narrow = sum(v.size_bytes for v in self.leaving(last))
        wide = {entrance}
        for run in between:
            fed = any(self.of(v.producer) in wide for v in self.entering(run))
            if fed and all(v.size_bytes >= narrow for v in self.leaving(run)):
                wide.add(run)
        return any(self.of(v.producer) in wide for v in self.reads[last])

    def partition(self) -> list[list[int]]:
        return sorted(self.members.values())


def join_blocks(runs: Sequence[Sequence[int]], values: Sequence[Value]) -> list[list[int]]:
    """Join whatever lies between two articulation runs.

    A run is an articulation when everything behind it hears from everything before it through its
    outputs alone: at its place in the order, it is the only producer of tensors still to be read. A block
    ends with an articulation. Blocks are intervals of a topological order, so their graph is acyclic.

    What is lost: all cuts inside a block. A residual block or an inception module becomes one layer; a
    chain stays as it was. A model with a tensor that is read throughout (an attention mask given as an
    input, a skip over the whole network) has few articulations, down to one block for all of it.
    """
    position = {m: i for i, run in enumerate(runs) for m in run}
    last_read = [-1] * len(runs)
    inputs_until = -1
    for value in values:
        until = max((position[r] for r in value.readers), default=-1)
        if value.producer == SOURCE:
            inputs_until = max(inputs_until, until)
        else:
            last_read[position[value.producer]] = max(last_read[position[value.producer]], until)
    blocks: list[list[int]] = [[]]
    open_until = inputs_until
    for i, run in enumerate(runs):
        blocks[-1].extend(run)
        # Nothing made before run i, nor any input, is read behind it.
        if open_until <= i and i < len(runs) - 1:
            blocks.append([])
        open_until = max(open_until, last_read[i])
    return [sorted(block) for block in blocks]
