"""The layers of a model in training, and where between them it can be cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import fx

from splitplan.models.exported import module_of
from splitplan.models.training_flow import Flow
from splitplan.models.training_layer import TrainingLayer
from splitplan.models.training_program import aten, over_samples, target_name, written

_HEAVY = {
    aten.linear, aten.matmul, aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.einsum, aten.bilinear, aten.scaled_dot_product_attention,
    aten.conv1d, aten.conv2d, aten.conv3d, aten.convolution, aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d,
    aten.embedding, aten.embedding_bag, aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu,
}  # fmt: skip
"""Operators that begin a layer whatever they read."""


@dataclass(frozen=True, eq=False)
class Cuts:
    """A flow as layers, each a run of consecutive operators, so that between two there is one position to cut.

    A layer begins with an operator that reads parameters or multiplies matrices; what follows joins it: activations, pooling,
    dropout, sums, and a normalisation of what the layer has just made and nobody else reads.

    Parameters
    ----------
    flow : Flow
    samples : int
        Of the pass that the flow was seen in.
    """

    flow: Flow
    samples: int

    @cached_property
    def groups(self) -> tuple[tuple[fx.Node, ...], ...]:
        """The pinned nodes of each layer, in order."""
        flow = self.flow
        found: list[list[fx.Node]] = []
        waiting: list[fx.Node] = []
        begun = False
        for node in flow.live:
            if node not in flow.pinned:
                continue
            if not any(a in flow.pinned or a in flow.program.inputs for a in node.all_input_nodes):
                waiting.append(node)  # reads nothing that came before: it belongs with what comes next
                continue
            core = self._is_core(node, found[-1] if found else [])
            if not found or (core and begun):
                found.append([])
                begun = False
            found[-1] += [*waiting, node]
            waiting = []
            begun |= core
        if waiting:
            found = found or [[]]
            found[-1] += waiting
        return tuple(map(tuple, found))

    def _is_core(self, node: fx.Node, before: list[fx.Node]) -> bool:
        if getattr(node.target, "overloadpacket", None) in _HEAVY:
            return True
        flow = self.flow
        if not any(flow.program.weights[w].is_parameter for w in flow.weights_of([node])):
            return False
        read = [a for a in node.all_input_nodes if a in flow.pinned or a in flow.program.inputs]
        return not all(a in before and self.readers.get(a) == {node} for a in read)

    @cached_property
    def readers(self) -> dict[fx.Node, set[fx.Node | None]]:
        """The pinned nodes that read each value, None for the caller."""
        flow = self.flow
        found: dict[fx.Node, set[fx.Node | None]] = {}
        for node in flow.live:
            if node in flow.pinned:
                for read in node.all_input_nodes:
                    found.setdefault(read, set()).add(node)
        for result in flow.results:
            found.setdefault(result, set()).add(None)
        return found

    @cached_property
    def layer_of(self) -> dict[fx.Node, int]:
        """The layer of each pinned node."""
        return {n: i for i, group in enumerate(self.groups) for n in group}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What people call the layers: the module's dotted name, with what it computes where a module makes several, or none."""
        plain, kinds = [], []
        before: list[fx.Node] = []
        for group in self.groups:
            first = next((n for n in group if self._is_core(n, before)), group[0])
            before = list(group)
            plain.append(module_of(first) or self._owner(first))
            kinds.append(target_name(first).partition(".")[0].rpartition("::")[2].strip("_"))
        times = Counter(plain)
        found: list[str] = []
        for module, kind in zip(plain, kinds, strict=True):
            name = module if module and times[module] == 1 else f"{module}:{kind}" if module else kind
            unique, k = name, 1
            while unique in found or (unique != module and unique in plain):
                k += 1
                unique = f"{name}_{k}"
            found.append(unique)
        return tuple(found)

    def _owner(self, node: fx.Node) -> str:
        """The module that holds a node's first weight."""
        weights = self.flow.program.weights
        return next((weights[a].name.rpartition(".")[0] for a in node.all_input_nodes if a in weights), "")

    # -- cuts ----------------------------------------------------------------------------------------

    def crossing(self, position: int) -> tuple[fx.Node, ...]:
        """The values that cross a position, in order: 0 is before the first layer, behind the last are the model's results."""
        if position == 0:
            return self.flow.program.inputs
        if position == len(self.groups):
            return self.flow.results
        return self._crossing[position]

    @cached_property
    def _crossing(self) -> dict[int, tuple[fx.Node, ...]]:
        flow, n = self.flow, len(self.groups)
        found: dict[int, list[fx.Node]] = {i: [] for i in range(1, n)}
        for value in (*flow.program.inputs, *(v for v in flow.order if v in self.layer_of)):
            at = self.layer_of.get(value, -1)
            last = max((n if r is None else self.layer_of[r] for r in self.readers.get(value, ())), default=at)
            for i in range(max(at + 1, 1), min(last, n - 1) + 1):
                found[i].append(value)
        return {i: tuple(values) for i, values in found.items()}

    @cached_property
    def crossing_bytes(self) -> tuple[float, ...]:
        """Bytes for a sample at positions 1 … n − 1."""
        size = self.flow.facts.size_bytes
        return tuple(sum(size[v] for v in values) / self.samples for values in self._crossing.values())

    @cached_property
    def uncuttable(self) -> dict[int, str]:
        """The positions at which the model cannot be cut, and why."""
        flow = self.flow
        found: dict[int, str] = {}
        for i, values in self._crossing.items():
            if not values:
                found[i] = "nothing crosses"
            for value in values:
                if value not in flow.facts.needs_grad:
                    found.setdefault(i, f"{value.name!r} crosses, through which no gradient flows")
        for what, first, last in self._together():
            for i in range(first + 1, last + 1):
                found.setdefault(i, what)
        return dict(sorted(found.items()))

    def _together(self) -> Iterable[tuple[str, int, int]]:
        """What must be in one place: why, and from which layer to which."""
        flow, weights = self.flow, self.flow.program.weights
        changing = flow.written_state()
        users: dict[int, set[int]] = {}
        called: dict[int, str] = {}
        for i, nodes in enumerate(self._computed):
            for holder in flow.weights_of(nodes):
                for storage in flow.facts.storages[holder]:
                    if weights[holder].trained or storage in changing:
                        users.setdefault(storage, set()).add(i)
                        called.setdefault(storage, weights[holder].name)
        for storage, layers in users.items():
            yield f"both sides use {called[storage]!r}", min(layers), max(layers)
        for nodes in flow.spans():
            at = [self.layer_of[n] for n in nodes if n in self.layer_of]
            if any(n in flow.program.inputs for n in nodes):
                at.append(0)
            if at:
                yield f"{nodes[0].name!r} is written under several names", min(at), max(at)
        for node in self.layer_of:
            into = written(node)
            if into and into[0] not in weights and out_of_place(node) is None:
                made = self.layer_of.get(into[0])
                if made is not None:
                    yield f"{node.name!r} works in place only", made, self.layer_of[node]

    @cached_property
    def _computed(self) -> tuple[tuple[fx.Node, ...], ...]:
        """The nodes of each layer, with what the last returns without any data."""
        groups = list(self.groups)
        groups[-1] = (
            *groups[-1],
            *(r for r in self.flow.results if r not in self.flow.pinned and r.op == "call_function"),
        )
        return tuple(groups)

    # -- layers --------------------------------------------------------------------------------------

    @cached_property
    def layers(self) -> tuple[TrainingLayer, ...]:
        """What of each layer does not depend on the machine."""
        flow, facts = self.flow, self.flow.facts
        weights = flow.program.weights
        counted: set[int] = set()
        found = []
        for name, nodes in zip(self.names, self._computed, strict=True):
            size = 0.0
            for holder in flow.weights_of(nodes):
                if weights[holder].trained and id(weights[holder].tensor) not in counted:
                    counted.add(id(weights[holder].tensor))
                    size += facts.size_bytes[holder]
            saved = sum(facts.saved_bytes.get(n, 0.0) for n in (*nodes, *flow.free_before(nodes))) / self.samples
            line = self.column_linear(nodes)
            ends = (line.args[0], line) if line is not None else ()
            read, made = (facts.size_bytes[n] / self.samples for n in ends) if ends else (0.0, 0.0)  # type: ignore[index]
            columns = int(weights[line.args[1]].tensor.shape[0]) if line is not None else 0  # type: ignore[index]
            found.append(TrainingLayer(name, size, saved, columns, read, made, any(map(over_samples, nodes))))
        return tuple(found)

    def column_linear(self, nodes: Iterable[fx.Node]) -> fx.Node | None:
        """The linear operator of a layer whose columns workers may share.

        Its weights are those of a module, of two features or more, trained, and read by nothing else.
        """
        weights = self.flow.program.weights
        for node in nodes:
            if node.target is not aten.linear.default or node.kwargs:
                continue
            own = [a for a in node.args[1:] if isinstance(a, fx.Node)]
            if not own or any(
                a not in weights or not weights[a].trained or self._used[id(weights[a].tensor)] > 1 for a in own
            ):
                continue
            prefix = weights[own[0]].name.removesuffix("weight")
            if (
                not prefix.endswith(".")
                or [weights[a].name for a in own] != [prefix + "weight", prefix + "bias"][: len(own)]
            ):
                continue
            weight = weights[own[0]].tensor
            if weight.dim() == 2 and weight.shape[0] >= 2:
                return node
        return None

    @cached_property
    def _used(self) -> Counter[int]:
        """How many live nodes read each weight."""
        flow = self.flow
        read = (flow.program.weights[a] for n in flow.live for a in n.all_input_nodes if a in flow.program.weights)
        return Counter(id(w.tensor) for w in read)


def out_of_place(node: fx.Node) -> torch._ops.OpOverload | None:
    """The operator that computes the same without writing; None where there is none."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    name = target._schema.name.rpartition("::")[2]
    packet = getattr(getattr(torch.ops, target.namespace), name.removesuffix("_"), None) if name.endswith("_") else None
    found = getattr(packet, target._overloadname, None)
    return found if isinstance(found, torch._ops.OpOverload) else None
