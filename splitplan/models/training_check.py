"""One step of a model beside one step of its layers, each a stage of its own: outputs, gradients, buffers. And whether it mixes samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from splitplan.errors import TraceError
from splitplan.models.traced import first_line

if TYPE_CHECKING:
    from splitplan.models.training import TrainingModel
    from splitplan.models.training_stage import StageModule

Gradients: TypeAlias = "dict[torch.Tensor, torch.Tensor | None]"

_SAMPLES = 2


def check(tm: TrainingModel) -> None:
    """Compare, and say in ``tm.exact`` whether all was equal to the last bit.

    Raises
    ------
    TraceError
        When something differs by more than rounding. The model's buffers are then as they were.
    """
    values = tm.example(_SAMPLES)
    kept = {name: b.detach().clone() for name, b in tm.model.named_buffers()}
    outputs, gradients, buffers = _whole(tm, values)
    again = _forward(tm, values)[0]
    try:
        positions = [i for i in range(len(tm.layers) + 1) if i not in tm.uncuttable]
        stages = [tm.stage(a, b, _SAMPLES) for a, b in pairwise(positions)]
        outputs_, gradients_ = run_chain(stages, values, cotangents(outputs))
        buffers_ = {name: b.detach().clone() for name, b in tm.model.named_buffers()}
    finally:
        with torch.no_grad():
            for name, b in tm.model.named_buffers():
                b.copy_(kept[name])
    pairs: list[tuple[str, Any, Any]] = [
        (f"output {i}", a, b) for i, (a, b) in enumerate(zip(outputs, outputs_, strict=True))
    ]
    pairs += [
        (f"the gradient of {n!r}", gradients[p], gradients_.get(p))
        for n, p in tm.model.named_parameters()
        if p in gradients
    ]
    pairs += [(f"buffer {n!r}", b, buffers_[n]) for n, b in buffers.items()]
    pairs += [(f"output {i} of a second call", a, b) for i, (a, b) in enumerate(zip(outputs, again, strict=True))]
    gaps = [(what, _difference(a, b), _tolerance(a)) for what, a, b in pairs]
    wrong = [(what, gap) for what, gap, allowed in gaps if gap > allowed]
    if wrong:
        raise TraceError(
            f"trained in parts, {tm.name!r} computes something else: {wrong[0][0]} differs by {wrong[0][1]:.2g}, relative to its greatest "
            f"value, as do {len(wrong) - 1} others of {len(gaps)}. Its code keeps a state beside its buffers, draws random numbers, "
            "or reads a value after it has written into it; take that out of forward."
        )
    tm.exact = all(gap == 0 for _, gap, _ in gaps)
    # Buffers that forward writes and reads mix samples too, from one to the next: who has such a model is told of these.
    tm.mixes = not tm.written_buffers(steering=True) and _mixes(tm, values)


class _WithoutBatchNorm(TorchFunctionMode):
    """While it is on, batch norms give what they are given: each sample is then treated by itself, if nothing else mixes them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in (F.batch_norm, torch.batch_norm):
            value: torch.Tensor = args[0] if args else given["input"]
            return value.clone()  # what is behind may work in place
        return func(*args, **given)


def _mixes(tm: TrainingModel, values: Sequence[torch.Tensor]) -> bool:
    """Whether, batch norm left out, what comes of the first sample depends on the second; outputs without samples are passed over."""
    alike = [torch.cat([v[:1], v[:1]]) for v in values]
    with torch.no_grad(), _WithoutBatchNorm():
        both, twice = (_forward(tm, x)[0] for x in (values, alike))
    pairs = [(a[:1], b[:1]) for a, b in zip(both, twice, strict=True) if a.dim() and len(a) == _SAMPLES]
    return any(_difference(a, b) > _tolerance(a) for a, b in pairs)


def cotangents(outputs: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    """A gradient for each output, the same at every call; None for those that take none."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(y.shape, generator=generator).to(y.device, y.dtype) if y.requires_grad else None for y in outputs
    ]


def _forward(tm: TrainingModel, values: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Outputs and buffers of the model itself, whose own buffers stay as they are."""
    buffers = {name: b.detach().clone() for name, b in tm.model.named_buffers()}
    args, kwargs = tm.call(tuple(v.clone() for v in values))
    with tm.same_dropout(_SAMPLES):
        return tm.flatten(functional_call(tm.model, buffers, args, kwargs)), buffers


def _whole(
    tm: TrainingModel, values: Sequence[torch.Tensor]
) -> tuple[list[torch.Tensor], Gradients, dict[str, torch.Tensor]]:
    """Outputs, gradients and buffers of the model itself."""
    outputs, buffers = _forward(tm, values)
    parameters = [p for p in tm.model.parameters() if p.requires_grad]
    ends = [(y, g) for y, g in zip(outputs, cotangents(outputs), strict=True) if g is not None]
    try:
        found = torch.autograd.grad([y for y, _ in ends], parameters, [g for _, g in ends], allow_unused=True)
    except RuntimeError as e:
        raise TraceError(
            f"the model itself fails in the backward pass: {first_line(e).rstrip('.')}. A loss on its outputs must be able to call backward()."
        ) from e
    return outputs, dict(zip(parameters, found, strict=True)), buffers


def run_chain(
    stages: Iterable[StageModule], values: Sequence[torch.Tensor], given: Sequence[torch.Tensor | None]
) -> tuple[list[torch.Tensor], Gradients]:
    """One step of stages in a chain, cut off from each other as on several machines.

    Parameters
    ----------
    values : sequence of Tensor
        Inputs of the first stage.
    given : sequence of Tensor or None
        Gradients of the last one's outputs.

    Returns
    -------
    outputs : list of Tensor
    gradients : dict of Parameter to Tensor or None
    """
    passes: list[tuple[StageModule, list[torch.Tensor], list[torch.Tensor]]] = []
    entering = [v.detach() for v in values]
    for k, stage in enumerate(stages):
        if k:
            entering = [v.detach().requires_grad_() for v in passes[-1][2]]
        made = stage(*entering)
        passes.append((stage, entering, [made] if isinstance(made, torch.Tensor) else list(made)))
    outputs = passes[-1][2]
    gradients: Gradients = {}
    coming = list(given)
    for stage, entering, made in reversed(passes):
        parameters = [p for p in stage.parameters() if p.requires_grad]
        wanted = [*(v for v in entering if v.requires_grad), *parameters]
        ends = [(y, g) for y, g in zip(made, coming, strict=True) if g is not None and y.requires_grad]
        found = (
            torch.autograd.grad([y for y, _ in ends], wanted, [g for _, g in ends], allow_unused=True)
            if ends and wanted
            else [None] * len(wanted)
        )
        coming = list(found[: len(wanted) - len(parameters)])
        gradients |= dict(zip(parameters, found[len(wanted) - len(parameters) :], strict=True))
    return outputs, gradients


def _tolerance(value: Any) -> float:
    """Half the digits of its dtype: rounding grows through a deep network, another computation is far off."""
    floating = isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())
    return math.sqrt(torch.finfo(value.dtype).eps) if floating else 0.0


def _difference(a: Any, b: Any) -> float:
    """Greatest difference relative to the first one's greatest magnitude; no gradient is one of zeros."""
    if a is None or b is None:
        other = b if a is None else a
        return 0.0 if other is None or not other.any() else math.inf
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    a, b = a.detach(), b.detach()
    same = (a == b) | (a.isnan() & b.isnan())
    if same.all():
        return 0.0
    if not (a.is_floating_point() or a.is_complex()):
        return math.inf
    gap = (a - b).abs().masked_fill(same, 0).max().item()
    scale = a.nan_to_num(0, 0, 0).abs().max().item()
    return math.inf if math.isnan(gap) else float(gap / max(scale, 1e-30))
