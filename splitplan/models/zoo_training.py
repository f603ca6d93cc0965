"""A model of the zoo as something to train: with a loss and a batch of random inputs and classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from splitplan.errors import DataError
from splitplan.models.zoo import zoo, zoo_example


def zoo_training(
    name: str, batch: int, size: int | None = None
) -> tuple[nn.Module, Callable[..., Any], tuple[torch.Tensor, torch.Tensor]]:
    """A network that classifies, in train mode; cross entropy; random inputs and classes.

    Parameters
    ----------
    name : str
        As for `splitplan.zoo`.
    batch : int
    size : int, optional
        As for `splitplan.zoo_example`.

    Raises
    ------
    DataError
        The network makes no scores of classes.
    """
    model = zoo(name)
    x = zoo_example(name, batch=batch, size=size)
    with torch.no_grad():
        made = model(x[:1])
    if not isinstance(made, torch.Tensor) or made.dim() != 2:
        raise DataError("makes no scores of classes; give a factory with a loss of its own", f"model 'zoo:{name}'")
    classes = torch.randint(made.shape[1], (batch,), generator=torch.Generator().manual_seed(0))
    return model.train().requires_grad_(True), nn.functional.cross_entropy, (x, classes)
