"""A layer of a network in training: what of it does not depend on the machine. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from splitplan.errors import raise_all
from splitplan.models.graph import number_problem


@dataclass(frozen=True)
class TrainingLayer:
    """What of a layer does not depend on the machine. Sizes are for one sample.

    Parameters
    ----------
    name : str
    parameter_bytes : float
        Of the weights that are trained.
    saved_bytes : float
        Kept from the forward pass for the backward pass.
    columns : int
        Output features of a linear layer, whose columns workers may share; 0 for any other layer.
    input_bytes, output_bytes : float
        What a linear layer reads and makes; 0 for any other.
    over_samples : bool
        Whether it normalises over the samples that a worker sees at once, as batch norm does in train mode.
    """

    name: str
    parameter_bytes: float = 0.0
    saved_bytes: float = 0.0
    columns: int = 0
    input_bytes: float = 0.0
    output_bytes: float = 0.0
    over_samples: bool = False

    def __post_init__(self) -> None:
        numbers = ("parameter_bytes", "saved_bytes", "columns", "input_bytes", "output_bytes")
        raise_all([p for n in numbers if (p := number_problem(n, getattr(self, n)))], f"training layer {self.name!r}")
