"""What each operator of an exported program does to rows: the table of rules. An operator without a rule is a barrier, never a guess."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from splitplan.models.exported import Exported
from splitplan.models.row_calls import Barrier, Call, Maker, Rule, called, dim_of, rows_of_node, same, shape_of
from splitplan.models.row_maps import ROW_DIM, RowMap, RowOperator, Whole, Window
from splitplan.models.row_resizing import pad, pixel_shuffle, resize, take
from splitplan.models.row_windows import adaptive_pool, average_pool, convolution, max_pool

aten = torch.ops.aten


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
        return Barrier(f"{called(node)} makes a tensor of {len(shape)} dimensions, which has no rows")
    if not isinstance(shape[ROW_DIM], int):
        return Barrier(f"{called(node)} makes rows whose number is not fixed")
    if node.target is operator.getitem:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        if node.args[1] != 0 and getattr(source.target, "overloadpacket", None) in _FIRST_ONLY:
            return Barrier(f"output {node.args[1]} of {called(source)} counts positions in the whole tensor")
        index = node.args[1]
        assert isinstance(index, int)
        return Rule({source: Window()}, lambda e, first, last: e.item(source, index, first, last))
    if not isinstance(node.target, torch._ops.OpOverload):
        return Barrier(f"{called(node)} is not known to keep rows apart")
    call = Call.of(exported, node)
    maker = _RULES.get(node.target.overloadpacket)
    if maker is None and torch.Tag.pointwise in node.target.tags:
        maker = pointwise
    if maker is None:
        return Barrier(_MIXES.get(node.target.overloadpacket, f"{called(node)} is not known to keep rows apart"))
    return maker(call)


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
            return Barrier(f"{called(call.node)} broadcasts a tensor of {len(shape)} dimensions over rows")
    return same(call, reads)


def along(names: Sequence[str] = ("dim",)) -> Maker:
    """An operator along one or several dimensions that are not the rows."""

    def make(call: Call) -> Rule | Barrier:
        source = call.tensors()[0]
        rank = len(call.shape(source))
        given = [call.arguments.get(n) for n in names]
        dims: list[Any] = [d for g in given for d in (g if isinstance(g, (list, tuple)) else [g])]
        if any(rows_of_node(a) != call.height for a in call.tensors()):
            return Barrier(f"{called(call.node)} works along the rows, or broadcasts over them")
        if not dims or any(d is None or dim_of(d, rank) == ROW_DIM for d in dims):
            return Barrier(f"{called(call.node)} works along the rows")
        if len(call.shape()) != rank and any(dim_of(d, rank) < ROW_DIM for d in dims):
            return Barrier(f"{called(call.node)} moves the rows to another dimension")
        return same(call, {a: Window() for a in call.tensors()})

    return make


def _norm_of_trailing(call: Call) -> Rule | Barrier:
    rank = len(call.shape(call.arguments["input"]))
    if len(call.arguments["normalized_shape"]) >= rank - ROW_DIM:
        return Barrier(f"{called(call.node)} normalises over all rows")
    return same(call, {call.arguments["input"]: Window()})


def _batch_norm(call: Call) -> Rule | Barrier:
    if call.arguments.get("training"):
        return Barrier(f"{called(call.node)} in train mode takes its mean over all rows")
    return same(call, {call.arguments["input"]: Window()})


def _dropout(call: Call) -> Rule | Barrier:
    return same(call, {call.tensors()[0]: Window()})


_FIRST_ONLY = {aten.max_pool2d_with_indices, aten.max_pool3d_with_indices}

_RULES: dict[Any, Maker] = {
    **dict.fromkeys((aten.conv2d, aten.conv3d, aten.convolution, aten.conv_transpose2d, aten.conv_transpose3d), convolution),
    **dict.fromkeys((aten.max_pool2d, aten.max_pool3d, aten.max_pool2d_with_indices, aten.max_pool3d_with_indices), max_pool),
    **dict.fromkeys((aten.avg_pool2d, aten.avg_pool3d), average_pool),
    **dict.fromkeys((aten.adaptive_avg_pool2d, aten._adaptive_avg_pool2d), adaptive_pool),
    **dict.fromkeys((aten.batch_norm, aten.native_batch_norm), _batch_norm),
    aten._native_batch_norm_legit_no_training: _batch_norm,
    **dict.fromkeys((aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.feature_alpha_dropout), _dropout),
    **dict.fromkeys((aten.clone, aten.contiguous, aten._to_copy, aten.lift_fresh_copy, aten.alias, aten.detach, aten.prelu, aten._prelu_kernel, aten.hardswish, aten.log_sigmoid), pointwise),
    **dict.fromkeys((aten.cat, aten.softmax, aten._softmax, aten.log_softmax, aten._log_softmax, aten.split, aten.chunk, aten.split_with_sizes), along()),
    **dict.fromkeys((aten.mean, aten.sum, aten.amax, aten.amin), along()),
    **dict.fromkeys((aten.layer_norm, aten.native_layer_norm), _norm_of_trailing),
    aten.slice: take,
    **dict.fromkeys((aten.constant_pad_nd, aten.pad, aten.reflection_pad2d, aten.reflection_pad3d, aten.replication_pad2d, aten.replication_pad3d), pad),
    **dict.fromkeys((aten.upsample_nearest2d, aten._upsample_nearest_exact2d, aten.upsample_bilinear2d, aten.upsample_bicubic2d, aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa, aten.upsample_nearest3d, aten.upsample_trilinear3d), resize),
    aten.pixel_shuffle: pixel_shuffle,
}  # fmt: skip

_MIXES: dict[Any, str] = {
    **dict.fromkeys((aten.scaled_dot_product_attention, aten.matmul, aten.bmm, aten.mm, aten.einsum), "a product mixes all rows"),
    **dict.fromkeys((aten.linear, aten.addmm), "a linear layer is not known to keep rows apart"),
    **dict.fromkeys((aten.group_norm, aten.native_group_norm, aten.instance_norm), "the normalisation takes its mean over all rows"),
    **dict.fromkeys((aten.view, aten.reshape, aten._unsafe_view, aten.flatten, aten.permute, aten.transpose), "a change of shape moves the rows"),
    **dict.fromkeys((aten.adaptive_max_pool2d, aten.adaptive_avg_pool3d), "adaptive pooling mixes all rows"),
}  # fmt: skip
