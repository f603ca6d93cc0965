"""The user's own functions, called such that what they do wrong is said of them: in training and while it is profiled."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from splitplan.errors import TrainingError

if TYPE_CHECKING:
    import torch


def loss_of(loss_fn: Callable[..., Any], made: Any, target: Any, when: str) -> torch.Tensor:
    """The loss of a model's output; ``when`` says in an error of which samples.

    Raises
    ------
    TrainingError
        It failed, or gave something else than a number that depends on the output.
    """
    import torch

    lost = theirs("loss_fn", loss_fn, made, target, when=when)
    if not isinstance(lost, torch.Tensor) or lost.numel() != 1 or not lost.requires_grad:
        shape = tuple(lost.shape) if isinstance(lost, torch.Tensor) else type(lost).__name__
        raise TrainingError(
            f"loss_fn gave {shape}; give the mean loss over the samples, one number that depends on the output"
        )
    return lost


def optimizer_of(make: Callable[..., Any], weights: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of some weights.

    Raises
    ------
    TrainingError
        It could not be made, or is none.
    """
    import torch

    made = theirs("optimizer", make, weights)
    if not isinstance(made, torch.optim.Optimizer):
        raise TrainingError(
            f"optimizer gave a {type(made).__name__}; give a function from weights to a torch.optim.Optimizer"
        )
    return made


def scheduler_of(make: Callable[..., Any], optimizer: torch.optim.Optimizer) -> Any:
    """The learning rate scheduler of an optimizer.

    Raises
    ------
    TrainingError
        It could not be made, or is none.
    """
    made = theirs("scheduler", make, optimizer)
    if missing := [x for x in ("step", "state_dict", "load_state_dict") if not callable(getattr(made, x, None))]:
        what = type(made).__name__
        raise TrainingError(
            f"scheduler gave a {what}, which has no {missing[0]}; give a function from an optimizer to a scheduler of torch's"
        )
    return made


def theirs(name: str, function: Callable[..., Any], *given: Any, when: str = "") -> Any:
    """What a function of the user's gives; an error of its own is one of training's, with where it was raised."""
    try:
        return function(*given)
    except Exception as e:
        if "DataLoader worker" in str(e):
            raise  # torch raises this wherever a process is when a loader's own process has died
        error = TrainingError(f"{name} failed{when}: {type(e).__name__}: {e}")
        own = traceback.TracebackException.from_exception(e)
        del own.stack[0]  # this function
        error.add_note("".join(own.format()).rstrip())
        raise error from e
