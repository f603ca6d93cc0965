"""Sizes, FLOPs and memory of an exported program at a given batch, on fake tensors: nothing is computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode, UnsupportedFakeTensorException
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from splitplan.errors import TraceError
from splitplan.models.exported import Exported, place, tensors_in


@dataclass(frozen=True, eq=False)
class Facts:
    """What one run on fake tensors showed.

    Parameters
    ----------
    values : dict
        Fake value of every input, weight and live node.
    work_flops : dict
        By live node; multiply-adds count two.
    """

    values: dict[fx.Node, Any]
    work_flops: dict[fx.Node, float]

    def size_bytes(self, node: fx.Node) -> float:
        """Bytes of a node's tensor as it crosses: every element once, expanded views written out."""
        return float(sum(t.numel() * t.element_size() for t in tensors_in(self.values[node])))

    def storages(self, node: fx.Node) -> dict[int, int]:
        """Bytes of each piece of memory that a node's value lies in; views share one."""
        return {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors_in(self.values[node])}


def run_fake(exported: Exported, symbols: Mapping[str, int]) -> Facts:
    """Run the program on fake tensors with the given sizes.

    Raises
    ------
    TraceError
        When a node cannot run at these sizes: the program is not good for them.
    """
    mode = FakeTensorMode()
    values: dict[fx.Node, Any] = {node: mode.from_tensor(exported.tensors[n]) for node, n in exported.weights.items()}
    work: dict[fx.Node, float] = {}
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    with mode, torch.no_grad():
        for node in exported.program.graph.nodes:
            if node.op == "placeholder" and node not in values:
                values[node] = _fake_input(exported, node, symbols)
            elif node.op == "get_attr":
                values[node] = getattr(exported.program.graph_module, node.target)
    with mode, torch.no_grad(), counter:
        before = 0
        for node in exported.live:
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            try:
                values[node] = cast(Callable[..., Any], node.target)(*args, **kwargs)
            except (RuntimeError, ValueError, TypeError, UnsupportedFakeTensorException) as e:
                sizes = ", ".join(f"{k}={v}" for k, v in symbols.items()) or "the traced sizes"
                raise TraceError(
                    f"node {node.name!r} ({node.target}{place(node)}) does not run at {sizes}: {str(e).splitlines()[0]}"
                ) from e
            total = counter.get_total_flops()
            work[node] = float(total - before)
            before = total
    return Facts(values, work)


def _fake_input(exported: Exported, node: fx.Node, symbols: Mapping[str, int]) -> Any:
    val = node.meta.get("val")
    if not isinstance(val, torch.Tensor):
        return val
    shape = [exported.value(d, symbols) for d in exported.shape(node)]
    order = sorted(range(val.dim()), key=lambda d: (-_hint(val.stride(d)), d))
    fake = torch.empty([shape[d] for d in order], dtype=val.dtype, device=val.device)
    return fake.permute([order.index(d) for d in range(val.dim())])


def _hint(stride: Any) -> int:
    return int(stride.node.hint) if isinstance(stride, torch.SymInt) else int(stride)


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _recurrent_flops(steps: Sequence[int], w_input: Sequence[int], w_hidden: Sequence[int], *_: Any, **__: Any) -> int:
    """One layer and direction of a recurrent network: two products a step and row."""
    return 2 * steps[0] * steps[1] * (math.prod(w_input) + math.prod(w_hidden))


# The fused kernels of the CPU have no formula in torch and would count as nothing.
_FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten.mkldnn_rnn_layer: _recurrent_flops,
}


def memory_of_layers(
    exported: Exported, facts: Facts, schedule: Sequence[Sequence[fx.Node]], returned: Sequence[fx.Node]
) -> list[float]:
    """Greatest sum of bytes alive while each group of nodes runs, weights left out.

    Counted by storage, so that a view costs nothing; the caller's inputs live until their last reader has
    run, the outputs until the end; a node's arguments are alive while it runs.

    Parameters
    ----------
    schedule : sequence of sequence of Node
        The groups in the order in which they run, each with its nodes in order.
    returned : sequence of Node
        Nodes whose value the model returns.
    """
    weights = {key for node in exported.weights for key in facts.storages(node)}
    size: dict[int, int] = {}
    last: dict[int, int] = {}
    order = [node for group in schedule for node in group]

    def touch(node: fx.Node, when: int) -> None:
        for key, nbytes in facts.storages(node).items():
            if key not in weights:
                size[key] = max(nbytes, size.get(key, 0))
                last[key] = when

    for node in exported.inputs.values():
        touch(node, -1)
    alive = set(size)
    for when, node in enumerate(order):
        for argument in node.all_input_nodes:
            touch(argument, when)
        touch(node, when)
    for node in returned:
        touch(node, len(order))
    ends: dict[int, list[int]] = {}
    for key, when in last.items():
        ends.setdefault(when, []).append(key)
    alive -= set(ends.get(-1, ()))
    now = sum(size[key] for key in alive)
    peaks: list[float] = []
    when = 0
    for group in schedule:
        peak = now
        for node in group:
            for key in facts.storages(node):
                if key in size and key not in alive:
                    alive.add(key)
                    now += size[key]
            peak = max(peak, now)
            for key in ends.get(when, ()):
                if key in alive:
                    alive.remove(key)
                    now -= size[key]
            when += 1
        peaks.append(float(peak))
    return peaks
