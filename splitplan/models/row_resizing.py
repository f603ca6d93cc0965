"""How rows go through what takes, adds or mixes rows by a table: slicing, padding, resizing, pixel shuffling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from splitplan.models.exported import tensors_in
from splitplan.models.row_calls import Barrier, Call, Emitter, Rule, called, dim_of, rows_of_node, same, window
from splitplan.models.row_maps import ROW_DIM, RowMap, Table, Window

aten = torch.ops.aten


def take(call: Call) -> Rule | Barrier:
    """Some rows, each so many-th, by ``slice``."""
    a, source = call.arguments, call.arguments["self"]
    if dim_of(a["dim"], len(call.shape())) != ROW_DIM:
        return same(call, {source: Window()})
    start, step = a["start"] or 0, a["step"]
    if not isinstance(start, int) or not isinstance(step, int):
        return Barrier(f"{called(call.node)} starts at a row that is not fixed")
    rows = rows_of_node(source)
    how = Window(1, step, -min(max(start + rows if start < 0 else start, 0), rows))

    def emit(e: Emitter, first: int, last: int) -> fx.Node:
        x = window(e, call, source, how, first, last)
        if step == 1:
            return x
        return e.call(call.node.target, call.arguments | {"self": x, "start": 0, "end": (last - first) * step + 1})

    return Rule({source: how}, emit)


def pad(call: Call) -> Rule | Barrier:
    """Rows around them: of a constant, or of rows of the tensor itself."""
    a, source, rank = call.arguments, call.arguments["self"], len(call.shape())
    sizes = list(a["pad"] if "pad" in a else a["padding"])
    at = 2 * (rank - 1 - ROW_DIM)
    sizes += [0] * (at + 2 - len(sizes))
    if not all(isinstance(n, int) for n in sizes):
        return Barrier(f"{called(call.node)} pads by a number that is not fixed")
    top, bottom = sizes[at : at + 2]
    plain = [*sizes[:at], 0, 0, *sizes[at + 2 :]]
    mode = a.get("mode", "constant")
    name = "pad" if "pad" in a else "padding"
    if mode == "constant" and call.node.target.overloadpacket in (aten.constant_pad_nd, aten.pad):  # type: ignore[union-attr]
        fill = float(a["value"] or 0.0)
        how: RowMap = Window(padding=top)

        def emit(e: Emitter, first: int, last: int) -> fx.Node:
            x = window(e, call, source, how, first, last, fill)
            return e.call(call.node.target, call.arguments | {"self": x, name: plain}) if any(plain) else x

        return Rule({source: how}, emit)
    if top == bottom == 0:
        return same(call, {source: Window()})
    rows = rows_of_node(source)
    ramp = torch.arange(rows, dtype=torch.float64).reshape(1, 1, rows, *[1] * (rank - ROW_DIM - 1))
    only = [*[0] * at, top, bottom, *[0] * (len(plain) - at - 2)]
    args = {**a, "self": ramp, name: only}
    index = [int(v) for v in call.node.target(**args).flatten()]  # type: ignore[operator]
    return gathered(
        call,
        source,
        [index],
        None,
        lambda e, x: e.call(call.node.target, call.arguments | {"self": x, name: plain}) if any(plain) else x,
    )


def resize(call: Call) -> Rule | Barrier:
    """More or fewer rows, each a weighted sum of some."""
    a, source = call.arguments, call.tensors()[0]
    rows, sizes = rows_of_node(source), list(call.shape()[ROW_DIM:])
    spatial = len(sizes)
    if not all(isinstance(d, int) for d in (*sizes, *call.shape(source)[ROW_DIM:])):
        return Barrier(f"{called(call.node)} makes a size that is not fixed")
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

    return gathered(call, source, index, None if all(w == 1 for row in weight for w in row) else weight, None, columns)


def gathered(
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


def pixel_shuffle(call: Call) -> Rule | Barrier:
    """Several rows from the channels of one."""
    source, factor = call.arguments["self"], call.arguments["upscale_factor"]
    if len(call.shape()) != ROW_DIM + 2:
        return Barrier(f"{called(call.node)} of {len(call.shape())} dimensions")
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
