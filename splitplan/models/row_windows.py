"""How rows go through windows: convolutions, plain and transposed, and pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from splitplan.models.exported import tensors_in
from splitplan.models.row_calls import Barrier, Call, Emitter, Rule, called, numbers, rows_of_node, window
from splitplan.models.row_maps import ROW_DIM, Window, required_rows

aten = torch.ops.aten


def convolution(call: Call) -> Rule | Barrier:
    """Any convolution, plain or transposed."""
    a = call.arguments
    source, spatial = a["input"], len(call.shape()) - ROW_DIM
    if a.get("transposed") or "transpose" in str(call.node.target):
        return _transposed(call)
    stride, dilation = numbers(a["stride"], spatial), numbers(a["dilation"], spatial)
    kernel = [int(d) for d in call.shape(a["weight"])[2:]]
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if isinstance(a["padding"], str):
        before = [t // 2 if a["padding"] == "same" else 0 for t in total]
        after = [t - b if a["padding"] == "same" else 0 for t, b in zip(total, before, strict=True)]
    else:
        before = after = numbers(a["padding"], spatial)
    if before[1:] != after[1:]:
        return Barrier(f"{called(call.node)} pads one side more than the other")
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


def _transposed(call: Call) -> Rule | Barrier:
    a = call.arguments
    source, spatial = a["input"], len(call.shape()) - ROW_DIM
    stride, dilation, padding = (numbers(a[n], spatial) for n in ("stride", "dilation", "padding"))
    extra = numbers(a["output_padding"], spatial)
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
    kernel = numbers(a["kernel_size"], spatial)
    stride = numbers(a["stride"], spatial) if a["stride"] else kernel
    padding = numbers(a["padding"], spatial)
    dilation = numbers(a.get("dilation", 1), spatial)
    changed = {"kernel_size": kernel, "stride": stride, "padding": [0, *padding[1:]]}
    return source, Window(kernel[0], stride[0], padding[0], dilation[0]), changed


def max_pool(call: Call) -> Rule | Barrier:
    """Padded by what is never the greatest."""
    source, how, changed = _pool(call)
    dtype = next(tensors_in(source.meta["val"])).dtype
    lowest = float("-inf") if dtype.is_floating_point else torch.iinfo(dtype).min

    def emit(e: Emitter, first: int, last: int) -> fx.Node:
        x = window(e, call, source, how, first, last, lowest)
        return e.call(call.node.target, call.arguments | changed | call.source(x))

    return Rule({source: how}, emit)


def average_pool(call: Call) -> Rule | Barrier:
    """Sums over what is there, divided as at the tensor's own border."""
    source, how, changed = _pool(call)
    a, rows = call.arguments, rows_of_node(source)

    def divisor(o: int) -> int:
        """Rows that the average of output row o is taken over: those of padding too or not, never those beyond it."""
        start = o * how.stride - how.padding
        stop = min(start + how.kernel, rows + how.padding)
        return stop - start if a["count_include_pad"] else min(stop, rows) - max(start, 0)

    def emit(e: Emitter, first: int, last: int) -> fx.Node:
        x = window(e, call, source, how, first, last)
        made = e.call(call.node.target, call.arguments | changed | call.source(x))
        factors = [how.kernel / divisor(o) for o in range(first, last + 1)]
        if a["divisor_override"] or all(f == 1 for f in factors):
            return made
        dtype = next(tensors_in(call.node.meta["val"])).dtype
        factor = torch.tensor(factors, dtype=dtype).reshape(-1, *[1] * (len(call.shape()) - ROW_DIM - 1))
        return e.call(aten.mul.Tensor, {"self": made, "other": e.constant(factor)})

    return Rule({source: how}, emit)


def adaptive_pool(call: Call) -> Rule | Barrier:
    """Averages over windows of one size; otherwise a barrier."""
    source = call.tensors()[0]
    rows, made = rows_of_node(source), call.height
    size = call.arguments["output_size"]
    if made == 1 or rows % made:
        return Barrier(f"{called(call.node)} pools {rows} rows to {made}")
    each = rows // made
    how = Window(each, each)

    def emit(e: Emitter, first: int, last: int) -> fx.Node:
        x = window(e, call, source, how, first, last)
        wanted = [last - first + 1, *numbers(size, len(call.shape()) - ROW_DIM)[1:]]
        return e.call(call.node.target, call.arguments | {"output_size": wanted} | call.source(x))

    return Rule({source: how}, emit)
