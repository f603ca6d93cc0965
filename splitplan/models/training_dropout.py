"""Dropout whose masks depend on the step and the sample alone, so that every way to share a batch trains alike."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from splitplan.errors import DataError


@dataclass(frozen=True, slots=True)
class Dropout:
    """One dropout of a model.

    Parameters
    ----------
    number : int
        Its place among the dropouts of the whole model, in execution order.
    chance : float
        With which it drops.
    channels : bool
        Whether it drops whole channels (the model's ``Dropout2d`` and its like).
    axis : int or None
        The dimension along which samples lie, each with as many neighbouring rows; None where none does (a dropout of weights,
        of positions): then one mask serves the whole step.
    """

    number: int
    chance: float
    channels: bool = False
    axis: int | None = 0


@dataclass(slots=True)
class Draws:
    """Where a run of a model stands: what the masks depend on besides the dropout itself.

    Parameters
    ----------
    dropouts : tuple of Dropout
        The model's, in order.
    samples : int
        In one call.
    seed, step : int
    first_sample : int
        The number, in the batch of the step, of the first sample of the next call.
    stride : int
        By how much it moves on with each call.
    """

    dropouts: tuple[Dropout, ...]
    samples: int
    seed: int = 0
    step: int = 0
    first_sample: int = 0
    stride: int = 0
    _generator: torch.Generator = field(default_factory=torch.Generator)

    def noise(self, number: int, like: torch.Tensor) -> torch.Tensor:
        """What a dropout multiplies its input by: 0 where it is dropped, 1 / (1 − chance) elsewhere.

        Each sample's numbers come from a generator of its own, seeded by seed, step, dropout and sample; from torch's generator
        for CPUs whatever the device, so that they are the same on all.
        """
        dropout = self.dropouts[number]
        shape = [n if i < 2 or not dropout.channels else 1 for i, n in enumerate(like.shape)]
        if dropout.axis is None:
            drawn = torch.empty(shape)
            self._draw(drawn, dropout, "all")
        else:
            rows = shape.pop(dropout.axis)
            mine = torch.empty([self.samples, rows // self.samples, *shape])
            for i in range(self.samples):
                self._draw(mine[i], dropout, self.first_sample + i)
            drawn = mine.reshape(rows, *shape).movedim(0, dropout.axis)
        kept = (drawn >= dropout.chance).to(like.device).to(like.dtype)
        return kept.div_(1 - dropout.chance) if dropout.chance < 1 else kept

    def _draw(self, into: torch.Tensor, dropout: Dropout, sample: int | str) -> None:
        text = f"{self.seed} {self.step} {dropout.number} {sample}"
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
        into.uniform_(generator=self._generator.manual_seed(seed))


def drop(draws: Draws, number: int, x: torch.Tensor) -> torch.Tensor:
    """A dropout's output."""
    return x * draws.noise(number, x)


def drop_(draws: Draws, number: int, x: torch.Tensor) -> torch.Tensor:
    """A dropout in place, as torch's own."""
    return x.mul_(draws.noise(number, x))


class SameDropout(TorchFunctionMode):
    """While it is on, the model's own dropouts draw the masks that its stages draw. One forward pass after the other.

    Parameters
    ----------
    draws : Draws
    """

    def __init__(self, draws: Draws) -> None:
        super().__init__()
        self.draws = draws
        self.next = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is F.multi_head_attention_forward:
            return self._within_attention(func, args, given)
        if func in _OWN:
            return self._drop(func in _IN_PLACE, **dict(zip(_OWN[func], args, strict=False)) | given)
        return func(*args, **given)

    def _drop(
        self,
        in_place: bool,
        input: torch.Tensor,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
        train: bool = True,
    ) -> torch.Tensor:
        if not (training and train) or p == 0:
            return input
        if not self.draws.dropouts:
            raise DataError("the model drops something, but dropped nothing when it was traced; trace it again")
        number = self.next
        self.next = (number + 1) % len(self.draws.dropouts)
        return (drop_ if in_place or inplace else drop)(self.draws, number, input)

    def _within_attention(self, attention: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        """Attention written in Python, within which torch has switched this mode off."""
        own = F.dropout
        F.dropout = functools.partial(self._drop, False)
        try:
            return attention(*args, **given)
        finally:
            F.dropout = own


_FUNCTIONAL = ("input", "p", "training", "inplace")
_IN_PLACE = {torch.dropout_, torch.feature_dropout_}
_OWN: dict[Callable[..., Any], tuple[str, ...]] = dict.fromkeys(
    (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), _FUNCTIONAL
) | dict.fromkeys(
    (torch.dropout, torch.dropout_, torch.feature_dropout, torch.feature_dropout_), ("input", "p", "train")
)
"""The ways by which a model in torch comes to dropout, and the names of their arguments."""
