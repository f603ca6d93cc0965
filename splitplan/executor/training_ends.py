"""The ends of a stage of a model with several outputs: a loss may leave some of them out, now and then.

In a plain loop weights that the loss of a step does not reach have no gradient, and an optimizer leaves them as they are; by a gradient
of zeros momentum and weight decay would move them. So "no gradient" goes from stage to stage too: as a tensor of a bit pattern that
no arithmetic makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.autograd import Function

_ONES = 255
"""Every byte of it: a NaN in all floating types, and not the one that processors make."""


def absent(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """What is sent where there is no gradient."""
    made = torch.empty(shape, dtype=dtype, device=device)
    made.view(-1).view(torch.uint8).fill_(_ONES)
    return made


def is_absent(gradient: torch.Tensor) -> bool:
    """Whether that was sent."""
    return bool((gradient.reshape(-1)[:1].view(torch.uint8) == _ONES).all())


class _Enter(Function):
    @staticmethod
    def forward(ctx: Any, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.like = [(v.shape, v.dtype, v.device) for v in values]
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        return tuple(absent(*like) if g is None else g for like, g in zip(ctx.like, gradients, strict=True))


class _Leave(Function):
    @staticmethod
    def forward(ctx: Any, zeros: bool, copy: bool, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(zeros)
        ctx.zeros = zeros
        return tuple(v.clone() for v in values) if copy else values

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        without = [g is None or is_absent(g) for g in gradients]
        kept = [
            (torch.zeros_like(g) if ctx.zeros and g is not None else None) if no else g
            for g, no in zip(gradients, without, strict=True)
        ]
        return (None, None, *kept)


def enter(values: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Values from the stage before: a gradient comes back for each that needs one, an absent one if it has none."""
    return _through(_Enter, list(values))


def leave(values: Iterable[torch.Tensor], zeros: bool, copy: bool) -> list[torch.Tensor]:
    """What a stage has made: backward goes through all of it, whichever of these have a gradient.

    Parameters
    ----------
    values : iterable of Tensor
    zeros : bool
        Take an absent gradient for zeros.
    copy : bool
        Give tensors into which a loss may write.
    """
    return _through(_Leave, list(values), zeros, copy)


def _through(function: type[Function], values: list[torch.Tensor], *options: bool) -> list[torch.Tensor]:
    at = [i for i, v in enumerate(values) if v.requires_grad]
    if at:
        for i, value in zip(at, function.apply(*options, *(values[i] for i in at)), strict=True):  # type: ignore[no-untyped-call]
            values[i] = value
    return values
