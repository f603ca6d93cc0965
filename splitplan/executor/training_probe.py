"""Before training: what crosses between stages, which weights its outputs depend on, and what a loss must be to be trained in parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from splitplan.data.training_plan import TrainingPlan
from splitplan.errors import DataError, listed
from splitplan.executor.training_data import Batch, tensors
from splitplan.executor.training_theirs import loss_of, theirs

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
    unreached : set of str
        Weights on which no output of the stage depends: they have no gradient, whatever the loss, and replicas would wait for it.
    """

    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    unreached: frozenset[str]


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
    if last:
        _check_loss(tm.unflatten(made), share.of(first.y, 0), loss_fn, place)
    reached = _reached(tensors(made))
    unreached = frozenset(n for n, p in module.named_parameters() if p.requires_grad and id(p) not in reached)
    return Probed(inputs, outputs, unreached)


def _check_loss(output: Any, target: Any, loss_fn: Callable[..., Any], place: Place) -> None:
    when = " on the first batch"
    whole = loss_of(loss_fn, output, target, when)
    parts, samples = place.share.batch // place.share.samples, place.share.samples

    def of(given: Any) -> float:
        return float(loss_fn(*given))

    with torch.no_grad():
        value = float(whole)
        if samples == 1:  # the same one twice: a mean of the two is that of the one
            samples = 2
            output, target = (
                pytree.tree_map_only(torch.Tensor, lambda t: torch.cat([t, t]), v) for v in (output, target)
            )
            value = theirs("loss_fn", of, (output, target), when=when)
        half = samples // 2
        few, rest = (
            theirs("loss_fn", of, _cut((output, target), at), when=when) for at in (slice(half), slice(half, None))
        )
    mean = (half * few + (samples - half) * rest) / samples
    if abs(value - mean) > _TOLERANCE * max(abs(few), abs(rest), 1e-6):
        raise DataError(
            f"is no mean over samples: of {samples} samples it is {value:.6g}, and of their halves {few:.6g} and {rest:.6g}. "
            f"A batch is taken in {parts} parts, whose losses are averaged; give a loss with reduction='mean'",
            "loss_fn",
        )


def _cut(value: Any, at: slice) -> Any:
    return pytree.tree_map_only(torch.Tensor, lambda t: t[at], value)


def check_weights(
    lost: torch.Tensor, made: Iterable[torch.Tensor], own: Collection[int], model: nn.Module, loss_fn: Callable[..., Any]
) -> None:  # fmt: skip
    """Raise where a loss depends on parameters otherwise than by the outputs, and the worker that computes it does not train them.

    Parameters
    ----------
    lost : Tensor
    made : iterable of Tensor
        The outputs.
    own : collection of int
        By ``id``, the parameters whose gradients that worker has.
    model : nn.Module
        The whole model, and so the names.
    loss_fn : callable
    """
    leaves = _reached([lost], until=made)
    strange = [p for i, p in leaves.items() if isinstance(p, nn.Parameter) and i not in own]
    if not strange:
        return
    names = {id(p): n for n, p in model.named_parameters()}
    if isinstance(loss_fn, nn.Module):
        names = {id(p): f"loss_fn.{n}" for n, p in loss_fn.named_parameters()} | names
    told = listed(names.get(id(p), f"one of shape {tuple(p.shape)}") for p in strange)
    raise DataError(
        f"depends on parameters otherwise than by the model's output, and would not train them by this plan: {told}. Give the optimizer "
        "weight_decay for a penalty on weights, and put parameters that are to be trained into the model, whose output may be the loss",
        "loss_fn",
    )


def _reached(ends: Iterable[torch.Tensor], until: Iterable[torch.Tensor] = ()) -> dict[int, torch.Tensor]:
    """Which leaves gradients of these tensors reach, by ``id``, not going on from those of ``until``."""
    seen: set[Any] = {t.grad_fn for t in until if t.grad_fn is not None}
    nodes: list[Any] = [t.grad_fn for t in ends if t.grad_fn is not None and t.grad_fn not in seen]
    seen.update(nodes)
    found = {}
    while nodes:
        node = nodes.pop()
        if (leaf := getattr(node, "variable", None)) is not None:
            found[id(leaf)] = leaf
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                nodes.append(below)
    return found
