"""Before training: what crosses between stages, which weights get gradients, and whether the loss is a mean over samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from splitplan.data.training_plan import TrainingPlan
from splitplan.errors import DataError, TrainingError
from splitplan.executor.training_data import Batch, tensors

if TYPE_CHECKING:
    from splitplan.executor.training_steps import Place

_TOLERANCE = 1e-4
"""Relative: what a mean over halves may differ from the mean in single precision."""


@dataclass(frozen=True)
class Probed:
    """What was found.

    Parameters
    ----------
    inputs, outputs : tuple of Tensor
        Of this worker's stage, without storage: what torch's pipelines want to know beforehand. Their own way to find it out would run
        the stage on memory as it comes, and batch norms would count it.
    unused : set of str
        Weights that get no gradient; other replicas would wait for it.
    """

    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    unused: frozenset[str]


def probe(
    module: nn.Module, tm: Any, plan: TrainingPlan, place: Place, loss_fn: Callable[..., Any], first: Batch
) -> Probed:
    """Run this worker's stage once, on noise where it has no inputs of its own; buffers stay as they were.

    Parameters
    ----------
    module : StageModule
        This worker's.
    tm : TrainingModel
    plan : TrainingPlan
    place : Place
    loss_fn : callable
    first : Batch

    Raises
    ------
    TrainingError
        ``loss_fn`` failed.
    DataError
        It is no mean over samples.
    """
    share, last = place.share, place.stage == len(plan.stages) - 1
    inputs, outputs = (
        tuple(t.requires_grad_(bool(at)) for t in tm.crossing(at, share.samples)) for at in plan.ends()[place.stage]
    )
    if share.batch == share.samples:  # nothing is shared, so there is nothing to find out
        return Probed(inputs, outputs, frozenset())
    kept = {n: b.detach().clone() for n, b in module.named_buffers()}
    module.at(0, share.first(0))  # type: ignore[operator]
    noise = torch.Generator().manual_seed(0)
    given = (
        tuple(share.of(t, 0) for t in tm.inputs(first.x))
        if place.stage == 0
        else tuple(
            torch.randn(t.shape, generator=noise, dtype=t.dtype).to(first.device).requires_grad_() for t in inputs
        )
    )
    made = module(*given)
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(kept[name])
    ends: Any = made
    if last:
        ends = _checked_loss(tm.unflatten(made), share.of(first.y, 0), loss_fn, place)
    reached = _reached(tensors(ends))
    unused = frozenset(n for n, p in module.named_parameters() if p.requires_grad and id(p) not in reached)
    return Probed(inputs, outputs, unused)


def _checked_loss(output: Any, target: Any, loss_fn: Callable[..., Any], place: Place) -> torch.Tensor:
    try:
        whole = loss_fn(output, target)
        if not isinstance(whole, torch.Tensor):
            raise DataError(f"gives a {type(whole).__name__}; give the mean loss over the samples, a tensor of one number", "loss_fn")  # fmt: skip
        parts = place.share.batch // place.share.samples
        if parts > 1 and place.share.samples > 1:
            half = place.share.samples // 2
            with torch.no_grad():
                few, rest = (float(loss_fn(*_cut((output, target), at))) for at in (slice(half), slice(half, None)))
            share = half / place.share.samples
            mean = share * few + (1 - share) * rest
            if abs(float(whole.detach()) - mean) > _TOLERANCE * max(abs(few), abs(rest), 1e-6):
                raise DataError(
                    f"is no mean over samples: of {place.share.samples} samples it is {float(whole.detach()):.6g}, and of their halves "
                    f"{few:.6g} and {rest:.6g}. A batch is taken in {parts} parts, whose losses are averaged; give a loss with reduction='mean'",
                    "loss_fn",
                )
    except DataError:
        raise
    except Exception as e:
        raise TrainingError(f"loss_fn failed on the first batch: {type(e).__name__}: {e}") from e
    return whole


def _cut(value: Any, at: slice) -> Any:
    return pytree.tree_map_only(torch.Tensor, lambda t: t[at], value)


def _reached(ends: Iterable[torch.Tensor]) -> set[int]:
    """Which leaves gradients of these tensors reach, by ``id``."""
    nodes: list[Any] = [t.grad_fn for t in ends if t.grad_fn is not None]
    seen, found = set(nodes), set()
    while nodes:
        node = nodes.pop()
        if (leaf := getattr(node, "variable", None)) is not None:
            found.add(id(leaf))
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                nodes.append(below)
    return found
