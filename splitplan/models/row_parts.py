"""Parts that make some rows of a block of layers: cut from the real model's exported program, run with halos.

The places of a block share the rows of what it makes. Each is handed the input rows that its own rows need, halos included,
computes them without hearing from another, and hands on its rows; put together they are the unsplit block's. At the border
between two places the rows outside are the neighbour's real data; only at the tensor's own border is there padding.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import fx, nn

from splitplan.errors import DataError, listed
from splitplan.models.assemble import hold, numbers_read, steps
from splitplan.models.exported import Exported
from splitplan.models.partition import Part, ValueSpec, _device
from splitplan.models.row_calls import Rule, rows_of_node, shape_of
from splitplan.models.row_maps import ROW_DIM, required_rows
from splitplan.models.row_rules import rule_of
from splitplan.models.rows import RowModel, check_shares
from splitplan.models.traced import Traced

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class RowPart(Part):
    """One place's rows of a block. Called as any part: with the rows that it takes, by the names of the tensors they are of.

    Attributes
    ----------
    takes, gives : dict of str to (int, int)
        First and last row of each tensor that it is handed, and that it makes. A tensor without rows is handed whole: (0, 0).
    """

    takes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    gives: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def cut(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What it takes, from whole tensors: row-major copies of the rows (the tensor itself where all are taken)."""
        return {name: cut_rows(values[name], *rows) for name, rows in self.takes.items()}

    def to(self, device: str | torch.device) -> RowPart:
        """The same part on another device, with its own weights copied there; this one stays where it is."""
        target = _device(device)
        if target == self.device:
            return self
        return _row_part(self.traced, self.place, self.layers, self.takes, self.gives, target)

    def __repr__(self) -> str:
        ours = ", ".join(f"{n}[{a}…{b}]" for n, (a, b) in self.gives.items())
        needs = ", ".join(f"{n}[{a}…{b}]" for n, (a, b) in self.takes.items())
        return f"RowPart({self.place!r} on {self.device}: {self.layers[0]} … {self.layers[-1]}; {needs} → {ours})"


def cut_rows(value: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Rows ``first … last`` of a tensor, row-major."""
    if value.dim() <= ROW_DIM + 1 or (first == 0 and last == value.shape[ROW_DIM] - 1):
        return value
    return value.narrow(ROW_DIM, first, last - first + 1).contiguous()


def join_rows(parts: Sequence[RowPart | None], made: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The whole tensors that a block makes, from what its parts made, in the order of the places.

    Parameters
    ----------
    parts : sequence of RowPart or None
        As from `make_row_parts`.
    made : sequence of dict
        What each part returned; anything for a place without one.
    """
    pieces: dict[str, list[torch.Tensor]] = {}
    for part, values in zip(parts, made, strict=True):
        if part is not None:
            for name in part.gives:
                pieces.setdefault(name, []).append(values[name])
    return {name: found[0] if len(found) == 1 else torch.cat(found, ROW_DIM) for name, found in pieces.items()}


def make_row_parts(
    traced: Traced, layers: Sequence[str], rows: Sequence[int], places: Sequence[str]
) -> tuple[RowPart | None, ...]:
    """Cut a block of layers into one part a place, each for its share of the rows.

    Parameters
    ----------
    layers : sequence of str
        A run of the graph's execution order, without a barrier.
    rows : sequence of int
        How many rows of the last layer's output each place makes, from the top; 0 for none.
    places : sequence of str

    Returns
    -------
    tuple of RowPart or None
        None for a place that makes no rows. On the device of the traced weights.

    Raises
    ------
    DataError
        When the layers are no such run, a layer among them mixes all rows, or the shares do not add up.
    """
    model, start, stop, where = _block(traced, layers)
    if len(rows) != len(places):
        raise DataError(f"has {len(rows)} shares of rows for {len(places)} places; give each place one", where)
    check_shares(rows, model.height(stop), where)
    found: list[RowPart | None] = []
    first = 0
    for place, count in zip(places, rows, strict=True):
        found.append(_rows(traced, model, start, stop, place, first, first + count - 1) if count else None)
        first += count
    return tuple(found)


def top_rows(traced: Traced, layers: Sequence[str], count: int) -> RowPart:
    """The part that makes so many rows of a block, from the top; see `make_row_parts`."""
    model, start, stop, where = _block(traced, layers)
    check_shares([count, model.height(stop) - count], model.height(stop), where)
    return _rows(traced, model, start, stop, "here", 0, count - 1)


def _block(traced: Traced, layers: Sequence[str]) -> tuple[RowModel, int, int, str]:
    """The model's rows, the block's start and stop in execution order, and what to call it."""
    graph = traced.graph
    where = f"block of {graph.name!r}"
    if unknown := [name for name in layers if name not in graph.index]:
        raise DataError(f"{listed(unknown)}: no layer of it (granularity {traced.granularity!r})", where)
    at = [graph.index[name] for name in layers]
    if not at or any(b != a + 1 for a, b in pairwise(at)):
        raise DataError(
            "its layers are no run of the model's execution order; give them as they follow each other", where
        )
    model = RowModel(graph)
    start, stop = at[0], at[-1] + 1
    if reason := model.why_not(start, stop):
        raise DataError(f"cannot be split by rows: {reason}", where)
    return model, start, stop, where


def _rows(traced: Traced, model: RowModel, start: int, stop: int, place: str, first: int, last: int) -> RowPart:
    """The part for rows ``first … last`` of a block's lead, on the device of the traced weights."""
    need = model.ranges(start, stop, first, last)
    takes = {t.name: need[t.name] for t in model.enters(start, stop) if _some(need.get(t.name))}
    owned = {t.name: model.owned(t.name, stop, first, last) for t in model.leaves(start, stop)}
    gives = {name: (int(a), int(b)) for name, (a, b) in owned.items() if b >= a}
    device = next((t.device for t in traced.exported.tensors.values()), torch.device("cpu"))
    layers = tuple(x.name for x in traced.graph.layers[start:stop])
    return _row_part(traced, place, layers, takes, gives, device)


def stamped_rows(part: RowPart, stamp: Callable[[], Any]) -> fx.GraphModule:
    """The part's code with a reading of ``stamp`` before its first and behind each layer, returned behind its outputs.

    What cuts and pads rows stands with the layer that needs it.
    """
    return _Code(part.traced, part.layers, part.takes, part.gives, part.numbers, part.device, stamp).module()


def _some(rows: tuple[int, int] | None) -> bool:
    return rows is not None and rows[0] <= rows[1]


def _row_part(
    traced: Traced,
    place: str,
    layers: tuple[str, ...],
    takes: Mapping[str, tuple[int, int]],
    gives: Mapping[str, tuple[int, int]],
    device: torch.device,
) -> RowPart:
    numbers = numbers_read(traced, layers, tuple(gives))
    return RowPart(
        place,
        layers,
        tuple(_spec(traced, name, rows) for name, rows in takes.items()),
        tuple(_spec(traced, name, rows) for name, rows in gives.items()),
        _Code(traced, layers, takes, gives, numbers, device).module(),
        device,
        traced,
        numbers,
        takes=dict(takes),
        gives=dict(gives),
    )


def _spec(traced: Traced, name: str, rows: tuple[int, int]) -> ValueSpec:
    exported = traced.exported
    node = exported.by_name[name]
    tensor = next(t for t in traced.graph.tensors if t.name == name)
    dims, strides = list(exported.shape(node)), list(exported.strides(node))
    if len(dims) > ROW_DIM + 1:
        whole, count, step = dims[ROW_DIM], rows[1] - rows[0] + 1, strides[ROW_DIM]
        dims[ROW_DIM] = count
        # Of a dense layout: what lies outside the rows comes closer by as much as there are fewer of them.
        block = whole * step
        strides = [_fewer(s, block, count * step) if i != ROW_DIM else s for i, s in enumerate(strides)]
    shape = tuple(map(exported.text, dims))
    return ValueSpec(name, tensor.dtype, shape, tensor.is_output, tuple(dims), tuple(strides), exported)


def _fewer(stride: Any, block: Any, smaller: Any) -> Any:
    """The stride of another dimension when a block of rows shrinks: kept inside a row, scaled outside."""
    ratio = sympy.nsimplify(sympy.sympify(stride) / sympy.sympify(block))
    if ratio.is_Integer or not ratio.is_number:
        scaled = sympy.simplify(ratio * smaller)
        return int(scaled) if scaled.is_Integer else scaled
    return stride


class _Code:
    """Writes the module of a row part, node by node; the `Emitter` that the rules write with."""

    def __init__(
        self,
        traced: Traced,
        layers: Sequence[str],
        takes: Mapping[str, tuple[int, int]],
        gives: Mapping[str, tuple[int, int]],
        numbers: Sequence[fx.Node],
        device: torch.device,
        stamp: Callable[[], Any] | None = None,
    ) -> None:
        self.exported: Exported = traced.exported
        self.device = device
        self.root, self.graph = nn.Module(), fx.Graph()
        self.takes, self.gives = takes, gives
        self.made: dict[fx.Node, tuple[fx.Node, int, int]] = {}
        self.free: dict[fx.Node, fx.Node] = {}
        self.cuts: dict[tuple[Any, ...], fx.Node] = {}
        for name, (first, last) in takes.items():
            self.made[self.exported.by_name[name]] = self.graph.placeholder(name), first, last
        for node in numbers:
            self.free[node] = self.graph.placeholder(node.name)
        groups = steps(traced, layers, tuple(gives))
        nodes = [node for _, group in groups for node in group]
        self.rules: dict[fx.Node, Rule] = {}
        for node in nodes:
            if node in self.exported.data:
                rule = rule_of(self.exported, node)
                assert isinstance(rule, Rule), rule
                self.rules[node] = rule
        self.need = self._needs(nodes)
        self.stamps = [self.graph.call_function(stamp)] if stamp else []
        for _, group in groups:
            for node in group:
                if node not in self.exported.data:
                    self._copy(node)
                elif node in self.need:
                    first, last = self.need[node]
                    self.made[node] = self.rules[node].emit(self, first, last), first, last
            if stamp:
                self.stamps.append(self.graph.call_function(stamp))

    def _needs(self, nodes: Sequence[fx.Node]) -> dict[fx.Node, tuple[int, int]]:
        """The rows of each node of the block; by the same rules as `RowModel.ranges`, which was asked for what is taken."""
        need = {self.exported.by_name[n]: rows for n, rows in self.gives.items()}
        for node in reversed(nodes):
            if node not in self.rules or node not in need:
                continue
            for argument, how in self.rules[node].reads.items():
                if argument in self.exported.data:
                    more = required_rows(how, *need[node], rows_of_node(argument))
                    had = need.get(argument, (int(more.first), int(more.last)))
                    need[argument] = min(had[0], int(more.first)), max(had[1], int(more.last))
        return need

    def _copy(self, node: fx.Node) -> None:
        for argument in node.all_input_nodes:
            self._look(argument)
        self.free[node] = self.graph.node_copy(node, self._look)
        if "device" in node.kwargs:
            self.free[node].update_kwarg("device", self.device)

    def _look(self, node: fx.Node) -> fx.Node:
        """A number, a weight, or what depends on no data."""
        if node not in self.free:
            self.free[node] = self.graph.get_attr(hold(self.root, self.exported, node, self.device))
        return self.free[node]

    def module(self) -> fx.GraphModule:
        """The finished module: outputs in the order of ``gives``, row-major."""
        made = [
            self.graph.call_method("contiguous", (self.rows(self.exported.by_name[name], *rows),))
            for name, rows in self.gives.items()
        ]
        self.graph.output((*made, *self.stamps))
        return fx.GraphModule(self.root, self.graph, class_name="RowPart")

    # -- what the rules write with -----------------------------------------------------------------

    def rows(
        self, argument: fx.Node, first: int, last: int, above: int = 0, below: int = 0, fill: float = 0.0
    ) -> fx.Node:
        """Rows ``first … last`` of a value, with rows of padding around them."""
        if argument in self.exported.data:
            value, low, high = self.made[argument]
        else:
            value, low, high = self._look(argument), 0, rows_of_node(argument) - 1
        return self._cut(value, (low, high), (first, last), (above, below), fill, len(shape_of(argument)))

    def there(self, argument: fx.Node) -> tuple[int, int]:
        """The first and the last row that the part has of a value."""
        return self.made[argument][1:] if argument in self.exported.data else (0, rows_of_node(argument) - 1)

    def item(self, source: fx.Node, index: int, first: int, last: int) -> fx.Node:
        """Rows ``first … last`` of one of several values that a node makes together."""
        value, low, high = self.made[source]
        one = self.graph.call_function(operator.getitem, (value, index))
        return self._cut(one, (low, high), (first, last), (0, 0), 0.0, len(shape_of(source)))

    def _cut(
        self,
        value: fx.Node,
        there: tuple[int, int],
        wanted: tuple[int, int],
        padding: tuple[int, int],
        fill: float,
        rank: int,
    ) -> fx.Node:
        key = (value, wanted, padding, fill)
        if key not in self.cuts:
            if wanted != there:
                start = wanted[0] - there[0]
                value = self.graph.call_function(
                    aten.slice.Tensor, (value, ROW_DIM, start, start + wanted[1] - wanted[0] + 1)
                )
            if any(padding):
                pad = [*[0] * (2 * (rank - 1 - ROW_DIM)), *padding]
                value = self.graph.call_function(aten.constant_pad_nd.default, (value, pad, fill))
            self.cuts[key] = value
        return self.cuts[key]

    def call(self, target: Any, arguments: Mapping[str, Any]) -> fx.Node:
        """A call of an operator by the names of its schema; nodes of the program in it are looked up."""
        ours = self.graph

        def look(node: fx.Node) -> fx.Node:
            return node if node.graph is ours else self._look(node)

        schema = target._schema.arguments
        args = [arguments[a.name] for a in schema if not a.kwarg_only and a.name in arguments]
        kwargs = {a.name: arguments[a.name] for a in schema if a.kwarg_only and arguments.get(a.name) is not None}
        if "device" in kwargs:
            kwargs["device"] = self.device
        return ours.call_function(target, fx.map_arg(tuple(args), look), fx.map_arg(kwargs, look))

    def constant(self, value: torch.Tensor) -> fx.Node:
        """A tensor that belongs to the part."""
        name = f"rows_{sum(1 for _ in self.root.buffers(recurse=False))}_{len(self.cuts)}"
        while hasattr(self.root, name):
            name += "_"
        self.root.register_buffer(name, value.to(self.device))
        return self.graph.get_attr(name)
