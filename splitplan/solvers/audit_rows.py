"""The audit of stages whose rows are shared: halos, shares and transfers re-added from what each operator reads, row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from splitplan.models.graph import INPUT
from splitplan.models.row_maps import RowMap, Window
from splitplan.solvers.audit import bytes_on_wire

if TYPE_CHECKING:
    from splitplan.data.pipeline_plan import RowBlock, Stage
    from splitplan.formulations.pipeline import PipelinePlacement

Way = tuple[float, float, float, float, tuple[str, ...]]
"""Rate, overhead, header, delay, resources."""
Rows = tuple[int, int]
"""First and last row."""


@dataclass
class StageSums:
    """What the audit finds out about one stage.

    Parameters
    ----------
    seconds : float
    over : dict of str to list of float
        Seconds of rows by resource.
    held : dict of str to float
        Bytes that each place but the first holds.
    broken : list of str
    """

    seconds: float = 0.0
    over: dict[str, list[float]] = field(default_factory=dict)
    held: dict[str, float] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


class RowAudit:
    """The raw numbers of rows, read from the graph's operators and the profile.

    Parameters
    ----------
    problem : PipelinePlacement
    seconds : dict of str to dict of str to float
        Of each layer at each place.
    ways : dict of (str, str) to tuple
        Between places; pairs that nothing joins are left out.
    """

    def __init__(
        self,
        problem: PipelinePlacement,
        seconds: Mapping[str, Mapping[str, float]],
        ways: Mapping[tuple[str, str], Way],
    ) -> None:
        self.problem, self.graph, self.seconds, self.ways = problem, problem.profile.graph, seconds, ways
        self.names = [x.name for x in self.graph.layers]
        self.position = {name: v for v, name in enumerate(self.names)}
        self.of_layer = {name: [o for o in self.graph.rows if o.layer == name] for name in self.names}
        self.mixes = {o.layer for o in self.graph.rows if o.barrier} | {v for v, o in self.of_layer.items() if not o}
        self.height = {t.name: t.shape[2] if len(t.shape) > 3 else 1 for t in self.graph.tensors}
        self.height |= {o.name: o.rows for o in self.graph.rows}
        self.beside = {p: problem.profile.block_s(p) for p in seconds}
        self.fixed = {p: dict(zip(self.names, problem.profile.fixed_s(p).tolist(), strict=True)) for p in seconds}

    # -- a stage -------------------------------------------------------------------------------------------

    def stage(self, stage: Stage, start: int) -> StageSums:
        """The sums of a stage of several places that begins at a position."""
        found = StageSums()
        if len(stage.places) > self.problem.max_group:
            found.broken.append(f"{len(stage.places)} places share rows, {self.problem.max_group} may")
        computed: dict[str, set[str]] = {p: set() for p in stage.places[1:]}
        at = start
        for block in stage.blocks:
            stop = at + len(block.layers)
            self._block(block, at, stop, stage.places, found)
            for place, rows in zip(stage.places[1:], block.rows[1:], strict=True):
                computed[place] |= set(block.layers) if rows else set()
            at = stop
        for place, names in computed.items():
            layers = [self.graph.layers[self.position[v]] for v in names]
            parameters = {p for x in layers for p in x.parameters}
            working = max((x.memory_bytes for x in layers), default=0.0)
            found.held[place] = math.fsum([*(self.graph.parameter_bytes[p] for p in parameters), working])
        return found

    def _block(self, block: RowBlock, start: int, stop: int, places: Sequence[str], found: StageSums) -> None:
        inside = set(block.layers)
        last = [o.name for o in self.of_layer[block.layers[-1]]]
        leaving = self._leaving(start, stop)
        lead = max((t for t in leaving if t in last), key=last.index)
        if sum(block.rows) != self.height[lead]:
            found.broken.append(f"{sum(block.rows)} rows of {lead!r} are shared out, it has {self.height[lead]}")
            return
        if not any(block.rows[1:]):
            found.seconds += math.fsum(self.seconds[places[0]][v] for v in block.layers)
            return
        if mixed := sorted(inside & self.mixes):
            found.broken.append(f"rows of {', '.join(mixed)} cannot be made apart from each other")
            return
        ends, first = [], 0
        sent: list[tuple[float, float, float]] = []  # out, computing and delays, back
        mine = 0.0
        for place, rows in zip(places, block.rows, strict=True):
            span = (first, first + rows - 1)
            first += rows
            ends.append(span)
            if not rows:
                continue
            shares, taken = self._needs(start, stop, span, lead, leaving)
            seconds = self.beside[place] + math.fsum(
                s * self.seconds[place][v] + (1 - min(s, 1.0)) * min(self.fixed[place][v], self.seconds[place][v])
                for v, s in shares.items()
                if s > 0
            )
            if place == places[0]:
                mine = seconds
                continue
            there, back = self.ways.get((places[0], place)), self.ways.get((place, places[0]))
            if there is None or back is None:
                found.broken.append(f"rows are shared, and nothing leads from {places[0]} to {place} and back")
                continue
            given = {t: self._owned(t, span, lead) for t in leaving}
            out, home = self._moved(there, taken, found), self._moved(back, given, found)
            sent.append((out, there[3] + seconds + back[3], home))
        if places[0] in self.problem.system.star or self.problem.system.shared is not None:
            # One way up, one way down, or one medium: all that is handed out, all that comes back.
            all_out, all_home = math.fsum(x[0] for x in sent), math.fsum(x[2] for x in sent)
            far = [all_out + own + all_home for _, own, _ in sent]
        else:
            far = [out + own + home for out, own, home in sent]
        found.seconds += max([mine, *far])

    def _moved(self, way: Way, rows: Mapping[str, Rows], found: StageSums) -> float:
        rate, overhead, header, _, resources = way
        tensors = {t.name: t for t in self.graph.tensors}
        carried = math.fsum(
            (b - a + 1) * bytes_on_wire(tensors[t].size_bytes, tensors[t].dtype, self.problem.wire) / self.height[t]
            for t, (a, b) in rows.items()
            if b >= a
        )
        seconds = 8 * (carried * overhead + header) / rate
        for r in resources:
            found.over.setdefault(r, []).append(seconds)
        return seconds

    def _leaving(self, start: int, stop: int) -> list[str]:
        """Tensors that the layers make and that are read behind them, or returned."""
        return [
            t.name
            for t in self.graph.tensors
            if t.producer != INPUT
            and start <= self.position[t.producer] < stop
            and (t.is_output or any(self.position[c] >= stop for c in t.consumers))
        ]

    def _owned(self, tensor: str, span: Rows, lead: str) -> Rows:
        """The rows of a tensor that go with rows of the lead: cut where the lead is, in proportion, rounded down."""
        mine, whole = self.height[tensor], self.height[lead]
        return span[0] * mine // whole, (span[1] + 1) * mine // whole - 1

    def _needs(
        self, start: int, stop: int, span: Rows, lead: str, leaving: Sequence[str]
    ) -> tuple[dict[str, float], dict[str, Rows]]:
        """Part of each layer that must be computed for some rows of the lead, and the rows of what comes in."""
        need: dict[str, Rows] = {}
        for t in leaving:
            first, last = self._owned(t, span, lead)
            if last >= first:
                need[t] = (first, last)
        shares: dict[str, float] = {}
        for v in reversed(self.names[start:stop]):
            weights = self._weights(v)
            parts = []
            for o in reversed(self.of_layer[v]):
                if o.name not in need:
                    continue
                first, last = need.pop(o.name)
                parts.append(weights[o.name] * ((last - first + 1) / o.rows))
                for value, how in o.reads:
                    a, b = _read(how, first, last, self.height[value])
                    had = need.get(value, (a, b))
                    need[value] = (min(a, had[0]), max(b, had[1]))
            shares[v] = math.fsum(parts)
        return shares, need

    def _weights(self, layer: str) -> dict[str, float]:
        """By operator, its part of the layer's seconds; a layer without work is shared equally by them."""
        operators = self.of_layer[layer]
        whole = math.fsum(o.work for o in operators)
        return {o.name: o.work / whole if whole > 0 else 1.0 / len(operators) for o in operators}

    # -- the bounds ----------------------------------------------------------------------------------------

    def least_shares(self) -> list[float]:
        """Part of each layer that is computed at least, over all places: its rows that are read at last, one by one."""
        wanted: dict[str, set[int]] = {name: set() for name in self.height}
        for t in self.graph.tensors:
            if t.is_output or self.mixes & set(t.consumers):
                wanted[t.name] = set(range(self.height[t.name]))
        found = [1.0] * len(self.names)
        for v in reversed(range(len(self.names))):
            name = self.names[v]
            if name in self.mixes:
                continue
            for o in reversed(self.of_layer[name]):
                for value, how in o.reads:
                    rows = self.height[value]
                    for row in wanted[o.name]:
                        wanted[value] |= _touched(how, row, rows)
            weights = self._weights(name)
            found[v] = math.fsum(weights[o.name] * len(wanted[o.name]) / o.rows for o in self.of_layer[name])
        return found

    def bound(self, weights: Sequence[float] | None, able: np.ndarray, slack: float) -> float | None:
        """(17), or (18) with weights by place; None when these are none.

        Parameters
        ----------
        weights : sequence of float or None
        able : array of bool, shape (places, layers)
            Whether a place holds a layer in a stage of its own.
        slack : float
            Relative, of memory.
        """
        p = self.problem
        places = list(p.system.places)
        least = self.least_shares()
        times = np.array([[self.seconds[e][v] for v in self.names] for e in places])
        for e, place in enumerate(places):
            room = p.system.places[place].memory_bytes
            for v, layer in enumerate(self.graph.layers):
                if layer.name in self.mixes:
                    held = bool(able[e, v])
                else:
                    need = math.fsum(
                        [*(self.graph.parameter_bytes[q] for q in set(layer.parameters)), layer.memory_bytes]
                    )
                    held = room is None or need <= room * (1 + slack)
                if not held:
                    times[e, v] = np.inf
        most = min(p.max_group, len(places))
        if weights is None:
            found = 0.0
            for v, name in enumerate(self.names):
                quick = sorted(times[:, v].tolist())
                if name in self.mixes:
                    found = max(found, quick[0])
                elif quick[0] > 0 and least[v]:
                    found = max(found, least[v] / math.fsum(1 / x for x in quick[:most]))
            return found
        if min(weights) < 0:
            return None
        heaviest = sorted(weights, reverse=True)[: p.most_stages * most]
        worth = [
            m * min(w * x if math.isfinite(x) else math.inf for w, x in zip(weights, column, strict=True)) if m else 0.0
            for m, column in zip(least, times.T.tolist(), strict=True)
        ]
        return math.fsum(worth) / math.fsum(heaviest) if math.fsum(heaviest) > 0 else None


def _read(how: RowMap, first: int, last: int, rows: int) -> Rows:
    """The rows that are read, between 0 and the last; the nearest one when all of them are padding."""
    a, b = (int(x) for x in how.reach(first, last, rows))
    low, high = max(a, 0), min(b, rows - 1)
    if low <= high:
        return low, high
    nearest = min(max(a, 0), rows - 1)
    return nearest, nearest


def _touched(how: RowMap, row: int, rows: int) -> set[int]:
    """The rows that one row of the output truly reads."""
    if isinstance(how, Window) and not how.transposed:
        reached = {row * how.stride - how.padding + how.dilation * k for k in range(how.kernel)}
        return {x for x in reached if 0 <= x < rows}
    a, b = (int(x) for x in how.reach(row, row, rows))
    return set(range(max(a, 0), min(b, rows - 1) + 1))
