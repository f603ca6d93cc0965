"""Row maps: which input rows an operator needs for some of its output rows. Knows no torch and no graph.

Rows are dimension 2 of a tensor [batch, channels, height, …]. All of it is whole-number arithmetic on ranges
``first … last`` (both included, empty when ``last < first``), and works on single numbers and on integer arrays alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

ROW_DIM = 2
"""The dimension that rows are counted along; tensors of fewer than four dimensions have no rows."""


@dataclass(frozen=True, slots=True)
class Window:
    """Each output row reads a window of input rows: convolution, pooling, padding by a constant, slicing.

    Output row o reads input rows oσ − π + δt, t = 0 … κ−1; the transposed one adds input row i to output rows
    iσ − π + δt. The plain ``Window()`` is the identity: row o reads row o.

    Parameters
    ----------
    kernel, stride, padding, dilation : int
        κ, σ, π (above; negative when rows are cut off) and δ along the rows.
    transposed : bool
    """

    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    transposed: bool = False

    def reach(self, first: Any, last: Any, rows: int) -> tuple[Any, Any]:
        """Input rows that output rows ``first … last`` touch, not clipped to the ``rows`` that there are."""
        span = self.dilation * (self.kernel - 1)
        if self.transposed:
            return -((span - self.padding - first) // self.stride), (last + self.padding) // self.stride
        return first * self.stride - self.padding, last * self.stride - self.padding + span


@dataclass(frozen=True, slots=True)
class Table:
    """Output row o reads input rows ``first[o] … last[o]``: resizing, and padding by rows of the tensor itself.

    Both never fall as o grows (made so here, outwards), so that a range of rows reads from its first's first to its last's last.
    """

    first: tuple[int, ...]
    last: tuple[int, ...]

    def __post_init__(self) -> None:
        first = np.minimum.accumulate(np.asarray(self.first)[::-1])[::-1]
        object.__setattr__(self, "first", tuple(first.tolist()))
        object.__setattr__(self, "last", tuple(np.maximum.accumulate(np.asarray(self.last)).tolist()))

    def reach(self, first: Any, last: Any, rows: int) -> tuple[Any, Any]:
        """As `Window.reach`; outside its own output rows the nearest one's."""
        most = len(self.first) - 1
        return np.asarray(self.first)[np.clip(first, 0, most)], np.asarray(self.last)[np.clip(last, 0, most)]


@dataclass(frozen=True, slots=True)
class Whole:
    """Every output row reads all of it: what is broadcast over rows."""

    def reach(self, first: Any, last: Any, rows: int) -> tuple[Any, Any]:
        """All rows."""
        return 0 * first, 0 * last + rows - 1


RowMap: TypeAlias = Window | Table | Whole


@dataclass(frozen=True, slots=True)
class Needed:
    """Input rows that some output rows need: real rows, and how many rows of padding stand above and below them.

    ``last < first`` when no row is asked for. Where rows are asked for and nothing but padding is read, ``spare`` is true and
    the nearest real row stands for it: nothing is computed from that row, but the rest of its shape is.
    """

    first: Any
    last: Any
    above: Any = 0
    below: Any = 0
    spare: Any = False

    @property
    def count(self) -> Any:
        """How many real rows."""
        return np.maximum(self.last - self.first + 1, 0)


def required_rows(how: RowMap, first: Any, last: Any, rows: int) -> Needed:
    """The input rows that output rows ``first … last`` need, of the ``rows`` that the input has; what was clipped is padding.

    Parameters
    ----------
    how : Window, Table or Whole
    first, last : int or integer array
        Of the output; none when ``last < first``.
    rows : int
        Of the input.

    Returns
    -------
    Needed
        An empty range is always ``rows … −1``, so that the hull of two ranges is the least first and the greatest last.
    """
    low, high = how.reach(first, last, rows)
    some = np.asarray(last) >= first
    low, high = np.where(some, low, rows), np.where(some, high, -1)
    above = np.where(some, np.maximum(np.minimum(high, -1) - low + 1, 0), 0)
    below = np.where(some, np.maximum(high - np.maximum(low, rows) + 1, 0), 0)
    start, end = np.maximum(low, 0), np.minimum(high, rows - 1)
    spare = some & (start > end)
    nearest = np.clip(low, 0, rows - 1)
    return Needed(np.where(spare, nearest, start), np.where(spare, nearest, end), above, below, spare)


@dataclass(frozen=True, slots=True)
class RowOperator:
    """What one operator of a layer does to rows.

    Parameters
    ----------
    name : str
        Of the value that it makes; a tensor's name in the graph where it leaves its layer.
    layer : str
    rows : int
        Of its value; 1 where the value has no rows, and is only ever needed whole.
    reads : tuple of (str, Window | Table | Whole)
        The values that depend on the input's data, and which of their rows. A value may be read twice.
    work : float
        Its part of its layer's seconds, in any unit: FLOPs, or bytes made where the layer computes none. Where those of a layer are
        all 0 its operators take equal parts.
    barrier : str
        Why its rows cannot be made apart from each other; empty when they can.
    """

    name: str
    layer: str
    rows: int
    reads: tuple[tuple[str, RowMap], ...]
    work: float
    barrier: str = ""

    def to_list(self) -> list[Any]:
        """Plain values, for JSON."""
        reads = [[value, *_written(how)] for value, how in self.reads]
        return [self.name, self.layer, self.rows, reads, self.work, self.barrier]

    @classmethod
    def from_list(cls, data: Sequence[Any]) -> RowOperator:
        """The inverse of `to_list`."""
        name, layer, rows, reads, work, barrier = data
        return cls(name, layer, rows, tuple((r[0], _read(r[1:])) for r in reads), work, barrier)


def read_operators(data: Sequence[Sequence[Any]]) -> tuple[RowOperator, ...]:
    """The inverse of `RowOperator.to_list`, one by one; what is damaged is a TypeError that says which."""
    found = []
    for i, one in enumerate(data):
        try:
            found.append(RowOperator.from_list(one))
        except (ValueError, IndexError, KeyError, TypeError) as e:
            raise TypeError(f"rows[{i}]: {e}") from e
    return tuple(found)


_WINDOW, _TRANSPOSED, _TABLE, _WHOLE = "window", "transposed", "table", "whole"


def _written(how: RowMap) -> list[Any]:
    if isinstance(how, Window):
        kind = _TRANSPOSED if how.transposed else _WINDOW
        return [kind, how.kernel, how.stride, how.padding, how.dilation]
    if isinstance(how, Table):
        return [_TABLE, list(how.first), list(how.last)]
    return [_WHOLE]


def _read(data: Sequence[Any]) -> RowMap:
    kind, *numbers = data
    if kind in (_WINDOW, _TRANSPOSED):
        kernel, stride, padding, dilation = numbers
        return Window(kernel, stride, padding, dilation, transposed=kind == _TRANSPOSED)
    if kind == _TABLE:
        return Table(tuple(numbers[0]), tuple(numbers[1]))
    if kind == _WHOLE:
        return Whole()
    raise ValueError(f"{kind!r} is no kind of row map")
