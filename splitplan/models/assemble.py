"""The code of a part: the nodes of some layers, with what they need, as a module of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

from splitplan.models.exported import Exported, is_scalar
from splitplan.models.layers import free_before
from splitplan.models.traced import Traced


def steps(traced: Traced, layers: Sequence[str], outputs: Sequence[str]) -> list[tuple[str, list[fx.Node]]]:
    """The nodes that run, layer by layer: each layer's own after those that depend on no data and that it needs first."""
    exported, graph = traced.exported, traced.graph
    done: set[fx.Node] = set()
    found = []
    returned: dict[str, list[fx.Node]] = {}
    makers = {t.name: t.producer for t in graph.tensors}
    for output in outputs:
        node = exported.by_name[output]
        if node not in exported.data:
            returned.setdefault(makers[output], []).append(node)
    for name in layers:
        own = [exported.by_name[n] for n in graph.layers[graph.index[name]].nodes]
        found.append((name, [*free_before(exported, [*own, *returned.get(name, ())], done), *own]))
    return found


def numbers_read(traced: Traced, layers: Sequence[str], outputs: Sequence[str]) -> tuple[fx.Node, ...]:
    """The symbolic numbers that the nodes of a part read; plain ones are written into its code."""
    read = (a for _, nodes in steps(traced, layers, outputs) for n in nodes for a in n.all_input_nodes)
    return tuple(dict.fromkeys(a for a in read if is_scalar(a.meta.get("val"))))


def assemble(
    traced: Traced,
    layers: Sequence[str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    numbers: Sequence[fx.Node],
    device: torch.device,
    stamp: Callable[[], Any] | None = None,
) -> fx.GraphModule:
    """Generate the code of a part that runs ``layers``: a module from its inputs and numbers, in order, to its outputs.

    Parameters
    ----------
    inputs, outputs : sequence of str
        Names of tensors; outputs come row-major.
    numbers : sequence of Node
        As from `numbers_read`.
    device : torch.device
        Where the weights go; on the device of the traced model they are that model's own memory.
    stamp : callable, optional
        Called before the first layer and behind each; what it returns follows the outputs.
    """
    exported = traced.exported
    root, graph = nn.Module(), fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for name in inputs:
        env[exported.by_name[name]] = graph.placeholder(name)
    for node in numbers:
        env[node] = graph.placeholder(node.name)

    def look(node: fx.Node) -> fx.Node:
        if node not in env:
            env[node] = graph.get_attr(hold(root, exported, node, device))
        return env[node]

    stamps = [graph.call_function(stamp)] if stamp else []
    for _, nodes in steps(traced, layers, outputs):
        for node in nodes:
            for argument in node.all_input_nodes:
                look(argument)
            env[node] = graph.node_copy(node, look)
            if "device" in node.kwargs:
                env[node].update_kwarg("device", device)
        if stamp:
            stamps.append(graph.call_function(stamp))
    made = [graph.call_method("contiguous", (look(exported.by_name[name]),)) for name in outputs]
    graph.output((*made, *stamps))
    return fx.GraphModule(root, graph, class_name="Part")


def hold(root: nn.Module, exported: Exported, node: fx.Node, device: torch.device) -> str:
    """Make a weight, or the graph of a higher-order operator, an attribute of the part; its name."""
    if node in exported.weights:
        name = exported.weights[node]
        attribute = "w_" + name.replace(".", "__")
        if not hasattr(root, attribute):
            tensor = exported.tensors[name]
            moved = tensor.detach().to(device)
            if isinstance(tensor, nn.Parameter):
                # Products choose their algorithm by this flag too, even where no gradient is taken.
                root.register_parameter(attribute, nn.Parameter(moved, requires_grad=tensor.requires_grad))
            else:
                root.register_buffer(attribute, moved)
        return attribute
    if node.op != "get_attr":
        raise AssertionError(f"node {node.name} is neither made in this part nor handed to it")
    attribute = f"graph_{node.name}"
    if not hasattr(root, attribute):
        root.add_module(attribute, getattr(exported.program.graph_module, str(node.target)))
    return attribute
