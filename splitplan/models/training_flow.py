"""What runs when a model trains: which operators belong together, what each reads after others have written, what is kept for backward."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import fx
from torch._subclasses import FakeTensorMode

from splitplan.errors import TraceError
from splitplan.models.exported import place, tensors_in
from splitplan.models.training_dropout import Draws, Dropout, drop, drop_
from splitplan.models.training_program import DROPOUTS, Program, aten, dropout_chance, writes_statistics, written


@dataclass(eq=False)
class Facts:
    """What one forward pass has shown of each node.

    Attributes
    ----------
    needs_grad : set of Node
        Single floating tensors through which gradients flow.
    storages : dict of Node to set of int
        The memory that a node's tensors lie in, numbered.
    size_bytes : dict of Node to float
    saved_bytes : dict of Node to float
        Kept for the backward pass since this node, weights left out and each memory counted once.
    """

    needs_grad: set[fx.Node] = field(default_factory=set)
    storages: dict[fx.Node, frozenset[int]] = field(default_factory=dict)
    size_bytes: dict[fx.Node, float] = field(default_factory=dict)
    saved_bytes: dict[fx.Node, float] = field(default_factory=lambda: defaultdict(float))


def watch(program: Program, values: Iterable[torch.Tensor], dropouts: Mapping[fx.Node, Dropout], samples: int) -> Facts:
    """Run a model forward once, node by node, on tensors without memory: nothing is computed and nothing written.

    Parameters
    ----------
    values : iterable of Tensor
        The inputs, in flat order.
    dropouts : mapping of Node to Dropout
        Those that drop.
    """
    facts, fake = Facts(), FakeTensorMode()
    env: dict[fx.Node, Any] = dict(zip(program.inputs, map(fake.from_tensor, values), strict=True))
    env |= {node: fake.from_tensor(weight.tensor) for node, weight in program.weights.items()}
    counted = {t.untyped_storage()._cdata for n in program.weights for t in tensors_in(env[n])}
    alive: list[torch.Tensor] = []
    running: list[fx.Node] = []
    draws = Draws(tuple(dropouts.values()), samples)

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in counted:
            counted.add(storage._cdata)
            alive.append(tensor)  # or its memory, and with it its number, would be used again
            facts.saved_bytes[running[-1]] += storage.nbytes()
        return tensor

    with fake, torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        for node in program.nodes:
            running.append(node)
            if node.op == "get_attr":
                env[node] = program.submodule(node)
            elif node.op == "call_function":
                args: Any = fx.map_arg(node.args, env.__getitem__)
                kwargs = fx.map_arg(dict(node.kwargs), env.__getitem__)
                if node in dropouts:
                    env[node] = dropping(node)(draws, dropouts[node].number, args[0])
                else:
                    env[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            value = env[node]
            facts.storages[node] = frozenset(t.untyped_storage()._cdata for t in tensors_in(value))
            facts.size_bytes[node] = float(sum(t.numel() * t.element_size() for t in tensors_in(value)))
            if isinstance(value, torch.Tensor) and value.requires_grad:
                facts.needs_grad.add(node)
    return facts


def dropping(node: fx.Node) -> Callable[[Draws, int, torch.Tensor], torch.Tensor]:
    """What runs in place of a dropout."""
    return drop_ if written(node) else drop


def find_dropouts(program: Program, other: Program | None, samples: int, more: int) -> dict[fx.Node, Dropout]:
    """The dropouts that drop, each with the dimension along which its samples lie: the one that grows with them.

    Parameters
    ----------
    program, other : Program
        Of ``samples`` and of ``more`` samples; the other is None where there is no dropout.
    """
    found: dict[fx.Node, Dropout] = {}
    if other is None:
        return found
    for (node, number), twin in zip(program.dropouts.items(), other.dropouts, strict=True):
        here, there = node.args[0].meta["val"].shape, twin.args[0].meta["val"].shape  # type: ignore[union-attr]
        axes = [d for d, (a, b) in enumerate(zip(here, there, strict=True)) if a * more == b * samples]
        if here != there and not axes:
            raise TraceError(
                f"node {node.name!r} ({node.target}{place(node)}) drops out of a tensor whose shape, {tuple(here)} for {samples} samples and "
                f"{tuple(there)} for {more}, has no dimension that grows with the samples; drop out before the reshape"
            )
        axis = axes[0] if axes else None
        channels = DROPOUTS[node.target]  # type: ignore[index]
        if channels and axis not in (0, 1):
            raise TraceError(
                f"node {node.name!r} ({node.target}{place(node)}) drops channels of a tensor without samples in front; give it (N, C, …)"
            )
        found[node] = Dropout(number, dropout_chance(node), channels, axis)
    return found


@dataclass(frozen=True, eq=False)
class Flow:
    """The operators of a program that count, and what each needs before it.

    Parameters
    ----------
    program : Program
    facts : Facts
    """

    program: Program
    facts: Facts

    @cached_property
    def position(self) -> dict[fx.Node, int]:
        """Place of each node in execution order."""
        return {n: i for i, n in enumerate(self.order)}

    @cached_property
    def order(self) -> tuple[fx.Node, ...]:
        """The nodes as they run.

        Copies into buffers, which the exporter puts behind all else, run as soon as they can: behind the last that reads the buffer,
        so that no other layer has to hold it.
        """
        nodes = list(self.program.nodes)
        place = {n: i for i, n in enumerate(nodes)}
        key: dict[fx.Node, tuple[int, int]] = {n: (i, 0) for n, i in place.items()}
        last = len(nodes)
        while last and nodes[last - 1].target is aten.copy_.default and not nodes[last - 1].users:
            last -= 1
            into, source = nodes[last].args[:2]
            if isinstance(into, fx.Node) and into in self.program.weights:
                readers = [u for u in into.users if u is not nodes[last]]
                behind = [place[n] for n in (*readers, into, source) if isinstance(n, fx.Node)]
                key[nodes[last]] = (max(behind), place[nodes[last]])
        return tuple(sorted(nodes, key=key.__getitem__))

    # -- memory that is written ----------------------------------------------------------------------

    @cached_property
    def _writers(self) -> dict[int, list[fx.Node]]:
        """The nodes that write into each memory, in order."""
        found: dict[int, list[fx.Node]] = defaultdict(list)
        for node in self.order:
            for argument in written(node):
                for storage in self.facts.storages[argument]:
                    found[storage].append(node)
        return found

    @cached_property
    def state(self) -> frozenset[int]:
        """Memory of weights."""
        return frozenset(s for n in self.program.weights for s in self.facts.storages[n])

    @cached_property
    def chains(self) -> frozenset[int]:
        """Memory that is written in place, under no second name until the last write: a relu_, an add_, one after the other.

        Who reads later reads what the last of them returned, so that any of them may be made out-of-place.
        """
        found = set()
        for storage, writers in self._writers.items():
            until = self.position[writers[-1]]
            names = [n for n in self._members[storage] if self.position[n] <= until]
            if storage not in self.state and self._is_chain(names):
                found.add(storage)
        return frozenset(found)

    def _is_chain(self, names: Sequence[fx.Node]) -> bool:
        for node, writer in pairwise(names):
            later = any(self.position.get(u, -1) > self.position[writer] for u in node.users)
            if written(writer) != (node,) or later or node in self.program.results:
                return False
        return len(self.facts.storages[names[0]]) == 1

    @cached_property
    def _members(self) -> dict[int, list[fx.Node]]:
        """The nodes whose value lies in each memory, in order."""
        found: dict[int, list[fx.Node]] = defaultdict(list)
        for node in self.order:
            for storage in self.facts.storages[node]:
                found[storage].append(node)
        return found

    def forbidden_writes(self) -> Iterator[str]:
        """What writes into an input or a parameter, under whatever name."""
        for storage, writers in self._writers.items():
            for holder in self._members[storage]:
                weight = self.program.weights.get(holder)
                if weight is None and holder not in self.program.inputs:
                    continue
                where = f"node {writers[0].name!r} ({writers[0].target}{place(writers[0])}) writes into"
                if weight is None:
                    yield f"{where} the input {holder.name!r}; clone it first"
                elif weight.is_parameter:
                    yield f"{where} the parameter {weight.name!r}; leave that to the optimizer"

    def spans(self) -> Iterator[tuple[fx.Node, ...]]:
        """Nodes that share memory under several names while it is written: they must run in one place."""
        for storage, writers in self._writers.items():
            if storage not in self.chains and storage not in self.state:
                until = self.position[writers[-1]]
                yield tuple(n for n in self._members[storage] if self.position[n] <= until) + tuple(writers)

    def needs(self, reader: fx.Node) -> tuple[fx.Node, ...]:
        """What must have run before a node: what it reads, and what has written into that memory under another name."""
        return self._with_writers(reader.all_input_nodes, self.position[reader])

    def _with_writers(self, read: Iterable[fx.Node], until: int) -> tuple[fx.Node, ...]:
        found = dict.fromkeys(read)
        for node in tuple(found):
            for storage in self.facts.storages.get(node, ()):
                if storage in self._writers and storage not in self.chains:
                    found |= dict.fromkeys(w for w in self._writers[storage] if self.position[w] < until)
        return tuple(found)

    # -- what runs -----------------------------------------------------------------------------------

    @cached_property
    def results(self) -> tuple[fx.Node, ...]:
        """The tensors that the model returns, each once, in its own order."""
        return tuple(dict.fromkeys(r for r in self.program.results if isinstance(r, fx.Node)))

    @cached_property
    def live(self) -> tuple[fx.Node, ...]:
        """The nodes that compute a result or write into a buffer, in order."""
        waiting = list(self._with_writers(self.results, len(self.order)))
        waiting += [w for storage in self.state for w in self._writers.get(storage, ())]
        waiting += [n for n in self.program.calls if writes_statistics(n)]
        found: set[fx.Node] = set()
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += self.needs(node)
        return tuple(n for n in self.order if n in found and n.op == "call_function")

    @cached_property
    def pinned(self) -> frozenset[fx.Node]:
        """Live nodes that run once, in one layer: they depend on the data, or on what the model writes into its buffers.

        The others are repeated where they are needed.
        """
        found = set(self.program.inputs)
        live = self.live
        while True:
            size = len(found)
            for node in live:
                into_state = any(self.facts.storages[a] & self.state for a in written(node))
                if into_state or writes_statistics(node) or any(n in found for n in self.needs(node)):
                    found.add(node)
            for storage, writers in self._writers.items():
                if any(w in found for w in writers):
                    found |= {n for n in self._members[storage] if n.op == "call_function"}
            if len(found) == size:
                return frozenset(found & set(live))

    def free_before(self, nodes: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
        """The nodes, not pinned, that must run before these, in order; and these themselves where they are such."""
        found: set[fx.Node] = set()
        waiting = [n for node in nodes for n in ((node,) if node not in self.pinned else self.needs(node))]
        while waiting:
            node = waiting.pop()
            if node.op == "call_function" and node not in self.pinned and node not in found:
                found.add(node)
                waiting += self.needs(node)
        return tuple(sorted(found, key=self.position.__getitem__))

    def weights_of(self, nodes: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
        """The placeholders of the weights that these nodes need, themselves or through what they repeat."""
        own = tuple(nodes)
        read = (a for n in (*own, *self.free_before(own)) for a in (n, *n.all_input_nodes))
        return tuple(dict.fromkeys(a for a in read if a in self.program.weights))

    def written_state(self) -> frozenset[int]:
        """Memory of weights that the model itself writes into."""
        found = {s for s in self.state if self._writers.get(s)}
        for node in self.live:
            if writes_statistics(node):
                found |= {s for a in node.args[3:5] if isinstance(a, fx.Node) for s in self.facts.storages[a]}
        return frozenset(found)

    def steering_state(self) -> frozenset[int]:
        """What of that changes what the model returns: not the running statistics of a normalisation that takes those of its batch."""
        own, seen, waiting = self.written_state(), set(), list(self.results)
        found: set[int] = set()
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            found |= self.facts.storages[node] & own
            kept = node.args[3:5] if writes_statistics(node) else ()
            waiting += self._with_writers([a for a in node.all_input_nodes if a not in kept], self.position[node])
        return frozenset(found)
