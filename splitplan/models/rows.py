"""Rows of a layer graph: what a layer or a block of layers needs, computes and hands on for some of its output rows. Knows no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.errors import DataError, listed
from splitplan.models.row_maps import ROW_DIM, Needed, RowMap, RowOperator, Window, required_rows

if TYPE_CHECKING:
    from splitplan.models.graph import LayerGraph, Tensor


@dataclass(frozen=True, eq=False)
class Swept:
    """What the layers ``start:stop`` need so that one place makes given rows of what they hand on; see `RowModel.sweep`.

    Shapes are those of the rows asked for.

    Parameters
    ----------
    start, stop : int
        Positions in the graph's order, as a slice.
    share : array
        Of layer ``start`` alone: part of its work, halos included.
    enters : dict of str to Needed
        Rows of each tensor that is read in ``start:stop`` and made before.
    """

    start: int
    stop: int
    share: Any
    enters: Mapping[str, Needed]


@dataclass(frozen=True, eq=False)
class RowModel:
    """A layer graph whose operators' rows are known, asked block by block. A block is a slice of the execution order.

    Rows of a block are those of its *lead*: the last tensor of its last layer that leaves the block. Any other tensor that
    leaves it, of H′ rows where the lead has H, is cut where the lead is: row c of the lead's at ⌊c H′/H⌋.

    Parameters
    ----------
    graph : LayerGraph
        With ``rows``.

    Raises
    ------
    DataError
        When the graph knows of no rows.
    """

    graph: LayerGraph

    def __post_init__(self) -> None:
        if not self.graph.rows:
            raise DataError(
                "does not know its operators' rows; trace the model with this version of splitplan, or give LayerGraph(rows=…)",
                f"layer graph {self.graph.name!r}",
            )

    # -- what is there ---------------------------------------------------------------------------

    @cached_property
    def operators(self) -> tuple[tuple[RowOperator, ...], ...]:
        """The operators of each layer, by position of the layer, in execution order."""
        found: list[list[RowOperator]] = [[] for _ in self.graph.layers]
        for operator in self.graph.rows:
            found[self.graph.index[operator.layer]].append(operator)
        return tuple(map(tuple, found))

    @cached_property
    def parts(self) -> dict[str, float]:
        """What part of its layer's seconds each operator takes: its part of their work; equal parts where none has any."""
        found: dict[str, float] = {}
        for operators in self.operators:
            total = sum(o.work for o in operators)
            found |= {o.name: o.work / total if total else 1 / len(operators) for o in operators}
        return found

    @cached_property
    def rows(self) -> dict[str, int]:
        """Rows of every value: 1 where it has none."""
        found = {t.name: rows_of(t) for t in self.graph.inputs}
        return found | {o.name: o.rows for o in self.graph.rows}

    @cached_property
    def barriers(self) -> dict[int, str]:
        """Why a layer's rows cannot be made apart from each other, by its position."""
        return {
            at: f"{self.graph.layers[at].name}: {o.barrier}"
            for at, operators in enumerate(self.operators)
            for o in reversed(operators)
            if o.barrier
        }

    @cached_property
    def _made(self) -> dict[str, int]:
        """Position of the layer that makes a tensor; −1 for the model's inputs."""
        return {t.name: self.graph.index.get(t.producer, -1) for t in self.graph.tensors}

    def leaves(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """The tensors that layers ``start:stop`` make and that are read behind them or returned."""
        at = self.graph.index
        return tuple(
            t
            for t in self.graph.tensors
            if start <= self._made[t.name] < stop and (t.is_output or any(at[c] >= stop for c in t.consumers))
        )

    def enters(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """The tensors that layers ``start:stop`` read and that are made before them, or given."""
        at = self.graph.index
        return tuple(
            t
            for t in self.graph.tensors
            if self._made[t.name] < start and any(start <= at[c] < stop for c in t.consumers)
        )

    def lead(self, stop: int) -> str:
        """The tensor whose rows are counted in a block that ends before layer ``stop``."""
        last = [t.name for t in self.leaves(stop - 1, stop)]
        return max(last, key=[o.name for o in self.operators[stop - 1]].index)

    def height(self, stop: int) -> int:
        """Rows of the lead: how many there are to share."""
        return self.rows[self.lead(stop)]

    def why_not(self, start: int, stop: int) -> str:
        """Why layers ``start:stop`` cannot be one block of rows; empty when they can."""
        if not 0 <= start < stop <= len(self.graph):
            return f"{start}:{stop} is no slice of {len(self.graph)} layers"
        return next((self.barriers[at] for at in range(start, stop) if at in self.barriers), "")

    # -- what is needed --------------------------------------------------------------------------

    def owned(self, tensor: str, stop: int, first: Any, last: Any) -> tuple[Any, Any]:
        """The rows of a tensor that leaves the block which go with rows ``first … last`` of its lead."""
        rows, height = self.rows[tensor], self.height(stop)
        return first * rows // height, (last + 1) * rows // height - 1

    def sweep(self, stop: int, first: Any, last: Any, start: int = 0) -> Iterator[Swept]:
        """The needs of the blocks that end before layer ``stop``: the last layer alone, the last two, … back to ``start``.

        Ends at a barrier.

        Parameters
        ----------
        first, last : int or integer array
            Rows of the lead that one place makes; none where ``last < first``.
        """
        need: dict[str, Needed] = {}
        leaving = {t.name for t in self.leaves(start, stop)}
        for at in range(stop - 1, start - 1, -1):
            if at in self.barriers:
                return
            share: Any = 0.0
            for operator in reversed(self.operators[at]):
                if operator.name in leaving:
                    low, high = self.owned(operator.name, stop, first, last)
                    _widen(need, operator.name, required_rows(Window(), low, high, operator.rows))
                made = need.pop(operator.name, None)
                if made is None:
                    continue
                if part := self.parts[operator.name]:
                    share = share + part * (made.count / operator.rows)
                for value, how in operator.reads:
                    _widen(need, value, required_rows(how, made.first, made.last, self.rows[value]))
            yield Swept(at, stop, share, dict(need))

    def ranges(self, start: int, stop: int, first: int, last: int) -> dict[str, tuple[int, int]]:
        """The rows of every value of the block, those that enter it included, that one place makes or is given.

        Raises
        ------
        DataError
            When the block cannot be split by rows.
        """
        self._refuse(start, stop)
        need: dict[str, Needed] = {}
        found: dict[str, tuple[int, int]] = {}
        for t in self.leaves(start, stop):
            low, high = self.owned(t.name, stop, first, last)
            _widen(need, t.name, required_rows(Window(), low, high, self.rows[t.name]))
        for at in range(stop - 1, start - 1, -1):
            for operator in reversed(self.operators[at]):
                if operator.name in need:
                    made = need[operator.name]
                    for value, how in operator.reads:
                        _widen(need, value, required_rows(how, made.first, made.last, self.rows[value]))
        for name, rows in need.items():
            found[name] = (int(rows.first), int(rows.last))
        return found

    def _refuse(self, start: int, stop: int) -> None:
        if reason := self.why_not(start, stop):
            raise DataError(f"cannot be split by rows: {reason}", f"layers {start}:{stop} of {self.graph.name!r}")

    @cached_property
    def least_shares(self) -> np.ndarray:
        """Part of each layer's work that is done at least, over all places, however blocks and rows are cut, shape (layers,).

        Below 1 where rows are made that nobody reads, as above a window whose stride skips some: places that share rows need
        not make those between them. Counted over the rows that are touched, one by one, from the model's end on.
        """
        touched = {name: np.zeros(rows, bool) for name, rows in self.rows.items()}
        at = self.graph.index
        for t in self.graph.tensors:
            if t.is_output or any(at[c] in self.barriers for c in t.consumers):
                touched[t.name][:] = True
        found = np.ones(len(self.graph))
        for v in reversed(range(len(self.graph))):
            if v in self.barriers:
                continue
            for o in reversed(self.operators[v]):
                for value, how in o.reads:
                    _touch(touched[value], how, np.flatnonzero(touched[o.name]))
            found[v] = sum(self.parts[o.name] * touched[o.name].mean() for o in self.operators[v])
        return found

    # -- what a split costs ----------------------------------------------------------------------

    def block(self, start: int, stop: int, rows: Sequence[int]) -> tuple[PlaceNeed, ...]:
        """What each place computes, gets and hands on when they share the rows of a block.

        Parameters
        ----------
        start, stop : int
        rows : sequence of int
            How many rows of the lead each place makes, from the top.

        Raises
        ------
        DataError
            When the block cannot be split, or the rows are not those of the lead.
        """
        self._refuse(start, stop)
        check_shares(rows, self.height(stop), f"block of layers {start}:{stop} of {self.graph.name!r}")
        found, first = [], 0
        for count in rows:
            last = first + count - 1
            swept = list(self.sweep(stop, first, last, start))
            takes = {t: (int(n.first), int(n.last)) for t, n in swept[-1].enters.items() if n.count}
            owned = {t.name: self.owned(t.name, stop, first, last) for t in self.leaves(start, stop)}
            gives = {t: (a, b) for t, (a, b) in owned.items() if b >= a}
            found.append(PlaceNeed(first, last, tuple(float(s.share) for s in reversed(swept)), takes, gives))
            first = last + 1
        return tuple(found)


@dataclass(frozen=True, slots=True)
class PlaceNeed:
    """One place's part of a block that is shared by rows.

    Parameters
    ----------
    first, last : int
        Rows of the block's lead that it makes; none when ``last < first``.
    shares : tuple of float
        By layer of the block: the part of its work that is done here. Over all places they sum to 1 or, with halos, to more.
    takes, gives : dict of str to (int, int)
        First and last row that it needs of each tensor that enters, and that it makes of each that leaves.
    """

    first: int
    last: int
    shares: tuple[float, ...]
    takes: Mapping[str, tuple[int, int]]
    gives: Mapping[str, tuple[int, int]]


def in_rows(graph: LayerGraph) -> np.ndarray:
    """Which layers can be shared by rows: those of more than one row that are no barriers, shape (layers,); none where no rows are known."""
    barriers = {o.layer for o in graph.rows if o.barrier}
    several = {o.layer for o in graph.rows if o.rows > 1}
    return np.array([x.name in several - barriers for x in graph.layers], bool)


def row_problems(graph: LayerGraph) -> list[str]:
    """What is wrong with a graph's ``rows``: operators of unknown layers, values nobody makes, tensors and layers without one."""
    if not graph.rows:
        return []
    problems = []
    known = {t.name: rows_of(t) for t in graph.inputs}
    after = -1
    for o in graph.rows:
        where = f"row operator {o.name!r}"
        if o.layer not in graph.index:
            problems.append(f"{where}: {o.layer!r} is no layer")
            continue
        if graph.index[o.layer] < after:
            problems.append(f"{where}: stands behind operators of later layers; give them in execution order")
        after = max(after, graph.index[o.layer])
        if o.rows < 1 or not 0 <= o.work < np.inf:
            problems.append(
                f"{where}: has {o.rows} rows and work {o.work}; rows are 1 or more, work is a number from 0"
            )
        problems += [f"{where}: reads {v!r}, which nobody makes before it" for v, _ in o.reads if v not in known]
        known[o.name] = o.rows
    made = {o.layer for o in graph.rows}
    problems += [
        f"layer {x.name!r}: has no row operator; give one, or a barrier" for x in graph.layers if x.name not in made
    ]
    for t in graph.tensors:
        if t.name not in known:
            problems.append(f"tensor {t.name!r}: no row operator makes it")
        elif known[t.name] != rows_of(t) and not any(o.name == t.name and o.barrier for o in graph.rows):
            problems.append(f"tensor {t.name!r}: has {rows_of(t)} rows, but {known[t.name]} by its operator")
    return problems


def rows_of(tensor: Tensor) -> int:
    """Rows of a tensor of the graph; 1 where it has none."""
    return tensor.shape[ROW_DIM] if len(tensor.shape) > ROW_DIM + 1 else 1


def check_shares(rows: Sequence[int], height: int, where: str) -> None:
    """Refuse shares that are no whole numbers from 0 on or do not add up to the rows that there are."""
    if not rows or any(isinstance(n, bool) or n != int(n) or n < 0 for n in rows):
        raise DataError(f"rows are {listed(rows)}; give each place a whole number, 0 for none", where)
    if sum(rows) != height:
        raise DataError(
            f"rows add up to {sum(rows)}; its last layer makes {height}: share out all of them, once", where
        )


def _touch(touched: np.ndarray, how: RowMap, made: np.ndarray) -> None:
    """Mark the input rows that the given output rows touch."""
    rows = len(touched)
    if isinstance(how, Window) and not how.transposed:
        reached = made[:, None] * how.stride - how.padding + how.dilation * np.arange(how.kernel)
    else:
        reached = np.arange(rows)[None, :] + np.zeros((len(made), 1), int)
        low, high = how.reach(made, made, rows)
        inside = (reached >= np.asarray(low)[:, None]) & (reached <= np.asarray(high)[:, None])
        reached = reached[inside]
    touched[reached[(reached >= 0) & (reached < rows)]] = True


def _widen(need: dict[str, Needed], name: str, more: Needed) -> None:
    """Extend the range that is needed of a value to the hull with another; padding belongs to a reader and is left out."""
    had = need.get(name)
    if had is not None:
        more = Needed(np.minimum(had.first, more.first), np.maximum(had.last, more.last))
    need[name] = more
