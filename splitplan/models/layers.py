"""From an exported program to a layer graph at the wanted granularity."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import fx

from splitplan.errors import TraceError, UnknownNameError
from splitplan.models.exported import Exported, is_scalar, module_of, names
from splitplan.models.graph import INPUT, Layer, LayerGraph, Tensor
from splitplan.models.measure import Facts, memory_of_layers
from splitplan.models.merge import SOURCE, Value, join_blocks, join_cheap
from splitplan.models.row_rules import row_operators

Granularity: TypeAlias = Literal["operator", "layer", "block"]

aten = torch.ops.aten

_CHEAP = {
    aten._to_copy, aten.clone, aten.contiguous, aten.cat, aten.stack, aten.copy, aten.slice_scatter, aten.select_scatter, aten.lift_fresh_copy, aten.reshape,
    aten._unsafe_view, aten.fill, aten.masked_fill, aten.softmax, aten._softmax, aten.log_softmax, aten._log_softmax,
    aten.mean, aten.sum, aten.amax, aten.amin, aten.var, aten.var_mean, aten.std, aten.prod, aten.any, aten.all,
    aten._native_batch_norm_legit_no_training, aten.batch_norm, aten.native_layer_norm, aten.layer_norm,
    aten.native_group_norm, aten.group_norm, aten.instance_norm, aten.rms_norm, aten._fused_rms_norm,
}  # fmt: skip
"""Memory-bound operators besides the element-wise ones and the views, which carry a mark of their own."""

_KINDS = {
    "_native_batch_norm_legit_no_training": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "scaled_dot_product_attention": "attention",
    "_to_copy": "to",
}


def check_granularity(granularity: str) -> None:
    """Refuse an unknown granularity; lists the known ones."""
    if granularity not in get_args(Granularity):
        raise UnknownNameError("granularity", granularity, get_args(Granularity))


def free_before(exported: Exported, nodes: Iterable[fx.Node], done: set[fx.Node]) -> list[fx.Node]:
    """Nodes that depend on no data and must run before ``nodes``, in order; added to ``done``, numbers left out."""
    found: list[fx.Node] = []
    waiting = [a for n in nodes for a in (n, *n.all_input_nodes)]
    while waiting:
        node = waiting.pop()
        if node in done or node in exported.data or node.op != "call_function" or is_scalar(node.meta.get("val")):
            continue
        done.add(node)
        found.append(node)
        waiting += node.all_input_nodes
    return sorted(found, key=exported.position.__getitem__)


def build_graph(
    exported: Exported, facts: Facts, granularity: str, name: str, fingerprint: str, batch: int
) -> LayerGraph:
    """The layer graph of a program, with sizes and FLOPs as in ``facts``."""
    check_granularity(granularity)
    operators = _operators(exported)
    if not operators:
        raise TraceError(f"no output of {name!r} depends on the numbers in its inputs; there is nothing to split")
    returned = dict.fromkeys(n for n in exported.results if isinstance(n, fx.Node) and not is_scalar(n.meta.get("val")))
    groups = _group(exported, facts, operators, set(returned), granularity)
    owner = {n: i for i, group in enumerate(groups) for n in group}

    # What the model returns without reading any data is made by the layer that runs last.
    idle = [n for n in returned if n not in exported.data]
    for node in idle:
        owner[node] = len(groups) - 1

    modules = [module_of(group[0]) if granularity != "block" else _common_module(group) for group in groups]
    layer_names = _layer_names(modules, [group[0].name for group in groups])
    tensors = []
    for node in (*exported.inputs.values(), *(n for group in groups for n in group), *idle):
        value = facts.values[node]
        readers = dict.fromkeys(owner[u] for u in node.users if u in owner and owner[u] != owner.get(node))
        if not (readers or node in returned):
            continue
        if not isinstance(value, torch.Tensor):
            raise TraceError(
                f"node {node.name!r} ({node.target}) hands a {type(value).__name__}, not a tensor, from one layer to "
                "another; return tensors from that step"
            )
        tensors.append(
            Tensor(
                name=node.name,
                producer=layer_names[owner[node]] if node in owner else INPUT,
                consumers=() if node in idle else tuple(layer_names[i] for i in sorted(readers)),
                size_bytes=facts.size_bytes(node),
                shape=tuple(value.shape),
                dtype=str(value.dtype).removeprefix("torch."),
                is_output=node in returned,
            )
        )

    done: set[fx.Node] = set()
    wanted = [[*group, *(idle if i == len(groups) - 1 else [])] for i, group in enumerate(groups)]
    schedule = [[*free_before(exported, nodes, done), *group] for nodes, group in zip(wanted, groups, strict=True)]
    peaks = memory_of_layers(exported, facts, schedule, list(returned))
    layers = []
    for i, group in enumerate(groups):
        needed = [*free_before(exported, wanted[i], set()), *wanted[i]]
        read = dict.fromkeys(
            exported.weights[a] for n in needed for a in (n, *n.all_input_nodes) if a in exported.weights
        )
        layers.append(
            Layer(
                name=layer_names[i],
                kind=_kind(group),
                work_flops=math.fsum(facts.work_flops[n] for n in group),
                parameters=tuple(read),
                memory_bytes=peaks[i],
                module=modules[i],
                nodes=names(group),
            )
        )
    rows = row_operators(
        exported,
        {
            name: [*group, *(idle if i == len(groups) - 1 else [])]
            for i, (name, group) in enumerate(zip(layer_names, groups, strict=True))
        },
        _row_work(groups, facts, idle),
    )
    used = dict.fromkeys(p for layer in layers for p in layer.parameters)
    sizes = {p: float(t.numel() * t.element_size()) for p in used for t in [exported.tensors[p]]}
    return LayerGraph(name, tuple(layers), tuple(tensors), sizes, fingerprint, batch, rows)


def _row_work(groups: Sequence[Sequence[fx.Node]], facts: Facts, idle: Sequence[fx.Node]) -> dict[fx.Node, float]:
    """Each node's part of its layer: FLOPs, or the bytes it makes in a layer that computes none."""
    found = dict.fromkeys(idle, 0.0)
    for group in groups:
        computes = any(facts.work_flops[n] for n in group)
        found |= {n: facts.work_flops[n] if computes else facts.size_bytes(n) for n in group}
    return found


def _layer_names(modules: Sequence[str], nodes: Sequence[str]) -> list[str]:
    """What people call the layers: the module's dotted name, with the node's where a module makes several, or none."""
    times = Counter(modules)
    found = []
    for module, node in zip(modules, nodes, strict=True):
        plain = module if module and times[module] == 1 else f"{module}:{node}" if module else node
        clash = plain == INPUT or (not module and node in times)
        found.append(f":{node}" if clash else plain)
    return found


def _operators(exported: Exported) -> list[list[fx.Node]]:
    """Each operator that works on data, with the getitems that unpack it."""
    found: dict[fx.Node, list[fx.Node]] = {}
    root: dict[fx.Node, fx.Node] = {}
    for node in exported.live:
        if node not in exported.data:
            continue
        if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
            root[node] = root[node.args[0]]
            found[root[node]].append(node)
        else:
            root[node] = node
            found[node] = [node]
    return list(found.values())


def _group(
    exported: Exported, facts: Facts, operators: Sequence[Sequence[fx.Node]], returned: set[fx.Node], granularity: str
) -> list[list[fx.Node]]:
    if granularity == "operator":
        return [list(nodes) for nodes in operators]
    owner = {n: i for i, nodes in enumerate(operators) for n in nodes}
    values = [
        Value(
            producer=owner.get(node, SOURCE),
            readers=frozenset(owner[u] for u in node.users if u in owner and owner[u] != owner.get(node)),
            size_bytes=facts.size_bytes(node),
            is_output=node in returned,
        )
        for node in (*exported.inputs.values(), *owner)
    ]
    values = [v for v in values if v.readers or v.is_output]
    runs = join_cheap([_is_cheap(nodes[0], facts) for nodes in operators], values)
    if granularity == "block":
        runs = join_blocks(runs, values)
    return [[n for i in run for n in operators[i]] for run in runs]


def _is_cheap(node: fx.Node, facts: Facts) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or facts.work_flops[node] > 0:
        return False
    return torch.Tag.pointwise in target.tags or target.is_view or target.overloadpacket in _CHEAP


def _kind(group: Sequence[fx.Node]) -> str:
    kinds = []
    for node in group:
        if node.target is operator.getitem:
            continue
        if isinstance(node.target, torch._ops.OpOverload):
            kind = node.target._schema.name.rpartition("::")[2]
        else:
            kind = getattr(node.target, "__name__", str(node.target))
        kinds.append(_KINDS.get(kind, kind.lstrip("_")))
    if len(kinds) <= 4:
        return "+".join(kinds)
    return "+".join(k if n == 1 else f"{n}×{k}" for k, n in Counter(kinds).items())


def _common_module(group: Sequence[fx.Node]) -> str:
    """The innermost module that holds every operator of a block."""
    common: list[str] = []
    for parts in zip(*(module_of(n).split(".") for n in group), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)
