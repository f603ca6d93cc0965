"""What each operator of an exported program does to rows, and how to run it on some of them.

A rule says, for one node, which rows of its arguments some of its rows need, and writes the node's code for a range of rows:
the halo is real data, and only what lies outside the tensor is padding. An operator without a rule is a barrier, never a guess.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import fx

from splitplan.models.exported import Dim, Exported, simplify, tensors_in
from splitplan.models.rows import ROW_DIM, RowMap, RowOperator, Table, Whole, Window, required_rows

aten = torch.ops.aten


class Emitter(Protocol):
    """Writes the code of a part that makes some rows of some layers; see `splitplan.models.row_parts`."""

    def rows(
        self, argument: fx.Node, first: int, last: int, above: int = 0, below: int = 0, fill: float = 0.0
    ) -> fx.Node:
        """Rows ``first … last`` of a value, with rows of padding around them."""

    def there(self, argument: fx.Node) -> tuple[int, int]:
        """The first and the last row that the part has of a value."""

    def item(self, source: fx.Node, index: int, first: int, last: int) -> fx.Node:
        """Rows ``first … last`` of one of several values that a node makes together."""

    def call(self, target: Any, arguments: Mapping[str, Any]) -> fx.Node:
        """A call of an operator by the names of its schema; nodes of the program in it are looked up."""

    def constant(self, value: torch.Tensor) -> fx.Node:
        """A tensor that belongs to the part."""


@dataclass(frozen=True)
class Rule:
    """What a node does to rows.

    Parameters
    ----------
    reads : dict of Node to RowMap
        Each tensor argument that has rows of its own or is read whole; weights without rows are left out.
    emit : callable
        (emitter, first, last) → the fx node that makes rows ``first … last`` of the value.
    """

    reads: dict[fx.Node, RowMap]
    emit: Callable[[Emitter, int, int], fx.Node]


@dataclass(frozen=True)
class Barrier:
    """A node whose rows cannot be made apart from each other, or are not known to be."""

    why: str


Maker: TypeAlias = "Callable[[Call], Rule | Barrier]"


@dataclass(frozen=True)
class Call:
    """A node of the program, its arguments by name, and the shapes around it."""

    exported: Exported
    node: fx.Node
    arguments: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, exported: Exported, node: fx.Node) -> Call:
        """With defaults filled in."""
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        given = {a.name: a.default_value for a in schema if a.has_default_value()}
        given |= {a.name: v for a, v in zip(schema, node.args, strict=False)} | dict(node.kwargs)
        return cls(exported, node, given)

    def shape(self, node: fx.Node | None = None) -> tuple[Dim, ...]:
        """Sizes of a node's (first) tensor, numbers or expressions."""
        return shape_of(node or self.node)

    @property
    def height(self) -> int:
        """Rows of the value."""
        return rows_of_node(self.node)

    def tensors(self) -> list[fx.Node]:
        """The tensor arguments, each once."""
        return [
            a
            for a in self.node.all_input_nodes
            if any(True for _ in tensors_in(a.meta.get("val"))) or a in self.exported.weights
        ]

    def source(self, value: fx.Node) -> dict[str, Any]:
        """The first argument, whether its name is ``self`` or ``input``, set to another node."""
        schema = self.node.target._schema.arguments  # type: ignore[union-attr]
        return {schema[0].name: value}


def shape_of(node: fx.Node) -> tuple[Dim, ...]:
    """Sizes of a node's (first) tensor; () where it has none."""
    first = next(tensors_in(node.meta.get("val")), None)
    return () if first is None else tuple(simplify(d) for d in first.shape)


def rows_of_node(node: fx.Node) -> int:
    """Rows of a node's value; 1 where it has none, or none that are a fixed number."""
    shape = shape_of(node)
    rows = shape[ROW_DIM] if len(shape) > ROW_DIM + 1 else 1
    return rows if isinstance(rows, int) else 1


def row_operators(
    exported: Exported, layers: Mapping[str, Sequence[fx.Node]], work: Mapping[fx.Node, float]
) -> tuple[RowOperator, ...]:
    """What every node of every layer does to rows, in execution order.

    Parameters
    ----------
    layers : mapping of str to sequence of Node
    work : mapping of Node to float
        Each node's part of its layer's seconds, in any unit.
    """
    found = []
    for layer, nodes in layers.items():
        for node in nodes:
            rule = rule_of(exported, node) if node in exported.data else Barrier(f"{node.name} depends on no data")
            reads: tuple[tuple[str, RowMap], ...] = ()
            if isinstance(rule, Rule):
                reads = tuple((a.name, how) for a, how in rule.reads.items() if a in exported.data)
            why = rule.why if isinstance(rule, Barrier) else ""
            found.append(RowOperator(node.name, layer, rows_of_node(node), reads, work[node], why))
    return tuple(found)


def rule_of(exported: Exported, node: fx.Node) -> Rule | Barrier:
    """What a node does to rows."""
    shape = shape_of(node)
    if len(shape) <= ROW_DIM + 1:
        return Barrier(f"{_called(node)} makes a tensor of {len(shape)} dimensions, which has no rows")
    if not isinstance(shape[ROW_DIM], int):
        return Barrier(f"{_called(node)} makes rows whose number is not fixed")
    if node.target is operator.getitem:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        if node.args[1] != 0 and getattr(source.target, "overloadpacket", None) in _FIRST_ONLY:
            return Barrier(f"output {node.args[1]} of {_called(source)} counts positions in the whole tensor")
        index = node.args[1]
        assert isinstance(index, int)
        return Rule({source: Window()}, lambda e, first, last: e.item(source, index, first, last))
    if not isinstance(node.target, torch._ops.OpOverload):
        return Barrier(f"{_called(node)} is not known to keep rows apart")
    call = Call.of(exported, node)
    maker = _RULES.get(node.target.overloadpacket)
    if maker is None and torch.Tag.pointwise in node.target.tags:
        maker = pointwise
    if maker is None:
        return Barrier(_MIXES.get(node.target.overloadpacket, f"{_called(node)} is not known to keep rows apart"))
    return maker(call)


def _called(node: fx.Node) -> str:
    return (
        str(node.target)
        if not callable(node.target) or isinstance(node.target, torch._ops.OpOverload)
        else str(getattr(node.target, "__name__", node.target))
    )


# -- one row from one row ------------------------------------------------------------------------------


def pointwise(call: Call) -> Rule | Barrier:
    """Row o from row o of each argument; what is broadcast over rows is read whole."""
    rank = len(call.shape())
    reads: dict[fx.Node, RowMap] = {}
    for argument in call.tensors():
        shape = call.shape(argument)
        at = ROW_DIM - (rank - len(shape))
        if at == ROW_DIM and shape[at] == call.height:
            reads[argument] = Window()
        elif at < 0 or shape[at] == 1:
            reads[argument] = Whole()
        else:
            return Barrier(f"{_called(call.node)} broadcasts a tensor of {len(shape)} dimensions over rows")
    return _same(call, reads)


def _same(call: Call, reads: dict[fx.Node, RowMap]) -> Rule:
    """Row o from row o by the same operator with the same arguments."""

    def emit(e: Emitter, first: int, last: int) -> fx.Node:
        cut = {
            a: e.rows(a, first, last) if isinstance(how, Window) else e.rows(a, 0, rows_of_node(a) - 1)
            for a, how in reads.items()
        }
        return e.call(call.node.target, fx.map_arg(call.arguments, lambda a: cut.get(a, a)))

    return Rule(reads, emit)


def _all_rows(call: Call) -> Rule:
    """The same operator, every tensor argument with the rows of the value."""
    return _same(call, {a: Window() for a in call.tensors()})


def _dim(dim: int, rank: int) -> int:
    return dim + rank if dim < 0 else dim


def along(names: Sequence[str] = ("dim",)) -> Maker:
    """An operator along one or several dimensions that are not the rows."""

    def make(call: Call) -> Rule | Barrier:
        source = call.tensors()[0]
        rank = len(call.shape(source))
        given = [call.arguments.get(n) for n in names]
        dims: list[Any] = [d for g in given for d in (g if isinstance(g, (list, tuple)) else [g])]
        if any(rows_of_node(a) != call.height for a in call.tensors()):
            return Barrier(f"{_called(call.node)} works along the rows, or broadcasts over them")
        if not dims or any(d is None or _dim(d, rank) == ROW_DIM for d in dims):
            return Barrier(f"{_called(call.node)} works along the rows")
        if len(call.shape()) != rank and any(_dim(d, rank) < ROW_DIM for d in dims):
            return Barrier(f"{_called(call.node)} moves the rows to another dimension")
        return _all_rows(call)

    return make


def _norm_of_trailing(call: Call) -> Rule | Barrier:
    rank = len(call.shape(call.arguments["input"]))
    if len(call.arguments["normalized_shape"]) >= rank - ROW_DIM:
        return Barrier(f"{_called(call.node)} normalises over all rows")
    return _same(call, {call.arguments["input"]: Window()})


def _batch_norm(call: Call) -> Rule | Barrier:
    if call.arguments.get("training"):
        return Barrier(f"{_called(call.node)} in train mode takes its mean over all rows")
    return _same(call, {call.arguments["input"]: Window()})


def _dropout(call: Call) -> Rule | Barrier:
    return _same(call, {call.tensors()[0]: Window()})


# -- windows -------------------------------------------------------------------------------------------


def _numbers(value: Any, count: int) -> list[int]:
    """An argument that is one number for all spatial dimensions or one for each."""
    found = [value] if isinstance(value, int) else list(value)
    return found * count if len(found) == 1 else found


def _convolution(call: Call) -> Rule | Barrier:
    a = call.arguments
    source, spatial = a["input"], len(call.shape()) - ROW_DIM
    if a.get("transposed") or "transpose" in str(call.node.target):
        return _transposed(call)
    stride, dilation = _numbers(a["stride"], spatial), _numbers(a["dilation"], spatial)
    kernel = [int(d) for d in call.shape(a["weight"])[2:]]
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if isinstance(a["padding"], str):
        before = [t // 2 if a["padding"] == "same" else 0 for t in total]
        after = [t - b if a["padding"] == "same" else 0 for t, b in zip(total, before, strict=True)]
    else:
        before = after = _numbers(a["padding"], spatial)
    if before[1:] != after[1:]:
        return Barrier(f"{_called(call.node)} pads one side more than the other")
    how = Window(kernel[0], stride[0], before[0], dilation[0])
    plain = {1: aten.conv1d, 2: aten.conv2d, 3: aten.conv3d}[spatial].default
    target = plain if isinstance(a["padding"], str) else call.node.target

    rows = rows_of_node(source)

    def emit(e: Emitter, first: int, last: int) -> fx.Node:
        need = required_rows(how, first, last, rows)
        end, below = int(need.last), int(need.below)
        # A stride that skips rows leaves some below the last window. Kernels are chosen by whether they are there, so they
        # stay where the part has them and are zeros elsewhere: nothing reads them.
        skipped = min(stride[0] - total[0] - 1, rows - 1 - end)
        if skipped > 0 and not need.spare and not below:
            more = max(0, min(skipped, e.there(source)[1] - end))
            end, below = end + more, skipped - more
        start = end + 1 if need.spare else int(need.first)
        x = e.rows(source, start, end, int(need.above), below)
        return e.call(target, call.arguments | {"input": x, "padding": [0, *before[1:]]})

    return Rule({source: how}, emit)


def _window(e: Emitter, call: Call, source: fx.Node, how: RowMap, first: int, last: int, fill: float = 0.0) -> fx.Node:
    """The rows of the argument that rows ``first … last`` of the value need, what was clipped returned as padding."""
    need = required_rows(how, first, last, rows_of_node(source))
    start = int(need.last) + 1 if need.spare else int(need.first)
    return e.rows(source, start, int(need.last), int(need.above), int(need.below), fill)


def _transposed(call: Call) -> Rule | Barrier:
    a = call.arguments
    source, spatial = a["input"], len(call.shape()) - ROW_DIM
    stride, dilation, padding = (_numbers(a[n], spatial) for n in ("stride", "dilation", "padding"))
    extra = _numbers(a["output_padding"], spatial)
    kernel = int(call.shape(a["weight"])[2])
    how = Window(kernel, stride[0], padding[0], dilation[0], transposed=True)
    span, rows = dilation[0] * (kernel - 1), rows_of_node(source)

    def emit(e: Emitter, first: int, last: int) -> fx.Node:
        low, high = how.reach(first, last, rows)
        # Rows that reach none of these, but without which the ones that do would not cover them: zeros.
        start = min(low, (first + padding[0]) // stride[0])
        stop = max(high, start)
        if stop * stride[0] - padding[0] + span < last:
            stop += 1
        real = max(low, 0), min(high, rows - 1)
        if real[0] > real[1]:
            real = e.there(source)[0], e.there(source)[0] - 1
            above, below = stop - start + 1, 0
        else:
            above, below = real[0] - start, stop - real[1]
        x = e.rows(source, *real, above, below)
        made = e.call(
            call.node.target,
            call.arguments | {"input": x, "padding": [0, *padding[1:]], "output_padding": [0, *extra[1:]]},
        )
        skip, count = first - (start * stride[0] - padding[0]), last - first + 1
        if skip == 0 and (stop - start) * stride[0] + span + 1 == count:
            return made
        return e.call(aten.slice.Tensor, {"self": made, "dim": ROW_DIM, "start": skip, "end": skip + count, "step": 1})

    return Rule({source: how}, emit)


def _pool(call: Call) -> tuple[fx.Node, Window, dict[str, Any]]:
    """The input, the window along the rows, and the arguments with one number a dimension and no padding of rows."""
    a = call.arguments
    source = call.tensors()[0]
    spatial = len(call.shape()) - ROW_DIM
    kernel = _numbers(a["kernel_size"], spatial)
    stride = _numbers(a["stride"], spatial) if a["stride"] else kernel
    padding = _numbers(a["padding"], spatial)
    dilation = _numbers(a.get("dilation", 1), spatial)
    changed = {"kernel_size": kernel, "stride": stride, "padding": [0, *padding[1:]]}
    return source, Window(kernel[0], stride[0], padding[0], dilation[0]), changed


def _max_pool(call: Call) -> Rule | Barrier:
    source, how, changed = _pool(call)
    dtype = next(tensors_in(source.meta["val"])).dtype
    lowest = float("-inf") if dtype.is_floating_point else torch.iinfo(dtype).min

    def emit(e: Emitter, first: int, last: int) -> fx.Node:
        x = _window(e, call, source, how, first, last, lowest)
        return e.call(call.node.target, call.arguments | changed | call.source(x))

    return Rule({source: how}, emit)


def _average_pool(call: Call) -> Rule | Barrier:
    source, how, changed = _pool(call)
    a, rows = call.arguments, rows_of_node(source)

    def divisor(o: int) -> int:
        """Rows that the average of output row o is taken over: those of padding too or not, never those beyond it."""
        start = o * how.stride - how.padding
        stop = min(start + how.kernel, rows + how.padding)
        return stop - start if a["count_include_pad"] else min(stop, rows) - max(start, 0)

    def emit(e: Emitter, first: int, last: int) -> fx.Node:
        x = _window(e, call, source, how, first, last)
        made = e.call(call.node.target, call.arguments | changed | call.source(x))
        factors = [how.kernel / divisor(o) for o in range(first, last + 1)]
        if a["divisor_override"] or all(f == 1 for f in factors):
            return made
        dtype = next(tensors_in(call.node.meta["val"])).dtype
        factor = torch.tensor(factors, dtype=dtype).reshape(-1, *[1] * (len(call.shape()) - ROW_DIM - 1))
        return e.call(aten.mul.Tensor, {"self": made, "other": e.constant(factor)})

    return Rule({source: how}, emit)


def _adaptive_pool(call: Call) -> Rule | Barrier:
    source = call.tensors()[0]
    rows, made = rows_of_node(source), call.height
    size = call.arguments["output_size"]
    if made == 1 or rows % made:
        return Barrier(f"{_called(call.node)} pools {rows} rows to {made}")
    each = rows // made
    how = Window(each, each)

    def emit(e: Emitter, first: int, last: int) -> fx.Node:
        x = _window(e, call, source, how, first, last)
        wanted = [last - first + 1, *_numbers(size, len(call.shape()) - ROW_DIM)[1:]]
        return e.call(call.node.target, call.arguments | {"output_size": wanted} | call.source(x))

    return Rule({source: how}, emit)


# -- cutting and padding -------------------------------------------------------------------------------


def _slice(call: Call) -> Rule | Barrier:
    a, source = call.arguments, call.arguments["self"]
    if _dim(a["dim"], len(call.shape())) != ROW_DIM:
        return _same(call, {source: Window()})
    start, step = a["start"] or 0, a["step"]
    if not isinstance(start, int) or not isinstance(step, int):
        return Barrier(f"{_called(call.node)} starts at a row that is not fixed")
    rows = rows_of_node(source)
    how = Window(1, step, -min(max(start + rows if start < 0 else start, 0), rows))

    def emit(e: Emitter, first: int, last: int) -> fx.Node:
        x = _window(e, call, source, how, first, last)
        if step == 1:
            return x
        return e.call(call.node.target, call.arguments | {"self": x, "start": 0, "end": (last - first) * step + 1})

    return Rule({source: how}, emit)


def _pad(call: Call) -> Rule | Barrier:
    a, source, rank = call.arguments, call.arguments["self"], len(call.shape())
    sizes = list(a["pad"] if "pad" in a else a["padding"])
    at = 2 * (rank - 1 - ROW_DIM)
    sizes += [0] * (at + 2 - len(sizes))
    if not all(isinstance(n, int) for n in sizes):
        return Barrier(f"{_called(call.node)} pads by a number that is not fixed")
    top, bottom = sizes[at : at + 2]
    plain = [*sizes[:at], 0, 0, *sizes[at + 2 :]]
    mode = a.get("mode", "constant")
    name = "pad" if "pad" in a else "padding"
    if mode == "constant" and call.node.target.overloadpacket in (aten.constant_pad_nd, aten.pad):  # type: ignore[union-attr]
        fill = float(a["value"] or 0.0)
        how: RowMap = Window(padding=top)

        def emit(e: Emitter, first: int, last: int) -> fx.Node:
            x = _window(e, call, source, how, first, last, fill)
            return e.call(call.node.target, call.arguments | {"self": x, name: plain}) if any(plain) else x

        return Rule({source: how}, emit)
    if top == bottom == 0:
        return _same(call, {source: Window()})
    rows = rows_of_node(source)
    ramp = torch.arange(rows, dtype=torch.float64).reshape(1, 1, rows, *[1] * (rank - ROW_DIM - 1))
    only = [*[0] * at, top, bottom, *[0] * (len(plain) - at - 2)]
    args = {**a, "self": ramp, name: only}
    index = [int(v) for v in call.node.target(**args).flatten()]  # type: ignore[operator]
    return _gathered(
        call,
        source,
        [index],
        None,
        lambda e, x: e.call(call.node.target, call.arguments | {"self": x, name: plain}) if any(plain) else x,
    )


# -- resizing ------------------------------------------------------------------------------------------


def _resize(call: Call) -> Rule | Barrier:
    a, source = call.arguments, call.tensors()[0]
    rows, sizes = rows_of_node(source), list(call.shape()[ROW_DIM:])
    spatial = len(sizes)
    if not all(isinstance(d, int) for d in (*sizes, *call.shape(source)[ROW_DIM:])):
        return Barrier(f"{_called(call.node)} makes a size that is not fixed")
    packet = call.node.target.overloadpacket  # type: ignore[union-attr]
    first_name = packet.default._schema.arguments[0].name
    names = [x.name for x in packet.default._schema.arguments if x.name.startswith("scales")]
    scales = list(a["scale_factors"]) if a.get("scale_factors") is not None else [a.get(n) for n in names]
    more = {"align_corners": a["align_corners"]} if "align_corners" in a else {}

    def run(x: Any, size: list[int], factors: list[float | None]) -> dict[str, Any]:
        return {first_name: x, "output_size": size, **more, **dict(zip(names, factors, strict=True))}

    # Rows are a linear map of rows, whatever the columns are: its matrix is what comes of unit vectors. Of two columns each: with one
    # the kernels that filter (antialias) of torch 2.13 mix up rows.
    wide = [2] * (spatial - 1)
    unit = (
        torch.eye(rows, dtype=torch.float32).reshape(rows, 1, rows, *[1] * (spatial - 1)).expand(rows, 1, rows, *wide)
    )
    factors = [scales[0], *[None] * (spatial - 1)] if scales else []
    made = packet.default(**run(unit.contiguous(), [call.height, *wide], factors))
    matrix = made[:, 0].flatten(2)[..., 0]  # (rows, made)
    taps = [matrix[:, o].nonzero().flatten().tolist() for o in range(call.height)]
    most = max(map(len, taps))
    index = [[t[min(i, len(t) - 1)] for t in taps] for i in range(most)]
    weight = [[float(matrix[t[i], o]) if i < len(t) else 0.0 for o, t in enumerate(taps)] for i in range(most)]

    def columns(e: Emitter, x: fx.Node, count: int) -> fx.Node:
        return e.call(packet.default, run(x, [count, *sizes[1:]], [None, *scales[1:]] if scales else []))

    return _gathered(call, source, index, None if all(w == 1 for row in weight for w in row) else weight, None, columns)


def _gathered(
    call: Call,
    source: fx.Node,
    index: Sequence[Sequence[int]],
    weight: Sequence[Sequence[float]] | None,
    behind: Callable[[Emitter, fx.Node], fx.Node] | None,
    before: Callable[[Emitter, fx.Node, int], fx.Node] | None = None,
) -> Rule:
    """Row o is a weighted sum of rows ``index[t][o]`` of the input; what happens to the columns comes before or behind."""
    how = Table(
        tuple(min(column) for column in zip(*index, strict=True)),
        tuple(max(column) for column in zip(*index, strict=True)),
    )

    def emit(e: Emitter, first: int, last: int) -> fx.Node:
        low, high = (int(x) for x in how.reach(first, last, rows_of_node(source)))
        x = e.rows(source, low, high)
        if before:
            x = before(e, x, high - low + 1)
        total: fx.Node | None = None
        dtype = next(tensors_in(call.node.meta["val"])).dtype
        for t, rows in enumerate(index):
            at = e.constant(torch.tensor([i - low for i in rows[first : last + 1]]))
            term = e.call(aten.index_select.default, {"self": x, "dim": ROW_DIM, "index": at})
            if weight is not None:
                w = torch.tensor(weight[t][first : last + 1], dtype=dtype)
                w = w.reshape(-1, *[1] * (len(call.shape()) - ROW_DIM - 1))
                term = e.call(aten.mul.Tensor, {"self": term, "other": e.constant(w)})
            total = term if total is None else e.call(aten.add.Tensor, {"self": total, "other": term})
        assert total is not None
        return behind(e, total) if behind else total

    return Rule({source: how}, emit)


def _pixel_shuffle(call: Call) -> Rule | Barrier:
    source, factor = call.arguments["self"], call.arguments["upscale_factor"]
    if len(call.shape()) != ROW_DIM + 2:
        return Barrier(f"{_called(call.node)} of {len(call.shape())} dimensions")
    at = [o // factor for o in range(call.height)]
    how = Table(tuple(at), tuple(at))

    def emit(e: Emitter, first: int, last: int) -> fx.Node:
        low, high = first // factor, last // factor
        made = e.call(call.node.target, call.arguments | {"self": e.rows(source, low, high)})
        skip, count = first - low * factor, last - first + 1
        if count == (high - low + 1) * factor:
            return made
        return e.call(aten.slice.Tensor, {"self": made, "dim": ROW_DIM, "start": skip, "end": skip + count, "step": 1})

    return Rule({source: how}, emit)


_FIRST_ONLY = {aten.max_pool2d_with_indices, aten.max_pool3d_with_indices}

_RULES: dict[Any, Maker] = {
    **dict.fromkeys((aten.conv2d, aten.conv3d, aten.convolution, aten.conv_transpose2d, aten.conv_transpose3d), _convolution),
    **dict.fromkeys((aten.max_pool2d, aten.max_pool3d, aten.max_pool2d_with_indices, aten.max_pool3d_with_indices), _max_pool),
    **dict.fromkeys((aten.avg_pool2d, aten.avg_pool3d), _average_pool),
    **dict.fromkeys((aten.adaptive_avg_pool2d, aten._adaptive_avg_pool2d), _adaptive_pool),
    **dict.fromkeys((aten.batch_norm, aten.native_batch_norm), _batch_norm),
    aten._native_batch_norm_legit_no_training: _batch_norm,
    **dict.fromkeys((aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.feature_alpha_dropout), _dropout),
    **dict.fromkeys((aten.clone, aten.contiguous, aten._to_copy, aten.lift_fresh_copy, aten.alias, aten.detach, aten.prelu, aten._prelu_kernel, aten.hardswish, aten.log_sigmoid), pointwise),
    **dict.fromkeys((aten.cat, aten.softmax, aten._softmax, aten.log_softmax, aten._log_softmax, aten.split, aten.chunk, aten.split_with_sizes), along()),
    **dict.fromkeys((aten.mean, aten.sum, aten.amax, aten.amin), along()),
    **dict.fromkeys((aten.layer_norm, aten.native_layer_norm), _norm_of_trailing),
    aten.slice: _slice,
    **dict.fromkeys((aten.constant_pad_nd, aten.pad, aten.reflection_pad2d, aten.reflection_pad3d, aten.replication_pad2d, aten.replication_pad3d), _pad),
    **dict.fromkeys((aten.upsample_nearest2d, aten._upsample_nearest_exact2d, aten.upsample_bilinear2d, aten.upsample_bicubic2d, aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa, aten.upsample_nearest3d, aten.upsample_trilinear3d), _resize),
    aten.pixel_shuffle: _pixel_shuffle,
}  # fmt: skip

_MIXES: dict[Any, str] = {
    **dict.fromkeys((aten.scaled_dot_product_attention, aten.matmul, aten.bmm, aten.mm, aten.einsum), "a product mixes all rows"),
    **dict.fromkeys((aten.linear, aten.addmm), "a linear layer is not known to keep rows apart"),
    **dict.fromkeys((aten.group_norm, aten.native_group_norm, aten.instance_norm), "the normalisation takes its mean over all rows"),
    **dict.fromkeys((aten.view, aten.reshape, aten._unsafe_view, aten.flatten, aten.permute, aten.transpose), "a change of shape moves the rows"),
    **dict.fromkeys((aten.adaptive_max_pool2d, aten.adaptive_avg_pool3d), "adaptive pooling mixes all rows"),
}  # fmt: skip
