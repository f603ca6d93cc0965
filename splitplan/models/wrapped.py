"""Models whose own names are those of `torch.fx.GraphModule`, as a submodule called ``meta`` or ``graph``.

An exported program is turned back into a GraphModule, on which such a name is taken. The model is exported one level down, and the
name of that level is cut off wherever a name is read: users see their own names, and nothing of their model is changed.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from splitplan.errors import TraceError

_LEVEL = "_splitplan_wrapped"


class _Wrapped(nn.Module):
    """Holds a model, and is called as that model is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.add_module(_LEVEL, model)
        self.training = model.training

        @functools.wraps(model.forward)  # the exporter reads the names of the arguments off it
        def forward(*args: Any, **kwargs: Any) -> Any:
            return model(*args, **kwargs)

        self.forward = forward


def exportable(model: nn.Module) -> nn.Module:
    """The model, or, where one of its own names is taken on a GraphModule, a module that holds it."""
    own = {name for name, value in vars(model).items() if isinstance(value, torch.Tensor)}
    own |= {*dict(model.named_children()), *model._parameters, *model._buffers}
    return _Wrapped(model) if own & _taken() else model


def refuse_taken(program: ExportedProgram) -> None:
    """Raise on a program, exported elsewhere, that torch itself cannot turn back into a module."""
    held = {str(name).partition(".")[0] for name in (*program.state_dict, *program.constants)}
    if names := sorted(held & _taken()):
        raise TraceError(
            f"the model calls something of its own {', '.join(map(repr, names))}, which is taken on a torch.fx.GraphModule: torch "
            "cannot run such an exported program. Give the module itself to splitplan.trace, which can, or rename it"
        )


def own_name(path: str) -> str:
    """A dotted name of the exported program as the model has it."""
    return "" if path == _LEVEL else path.removeprefix(f"{_LEVEL}.")


@functools.cache
def _taken() -> frozenset[str]:
    blank = dir(fx.GraphModule(nn.Module(), fx.Graph()))
    # The last is what the exporter itself puts there.
    return frozenset(blank) - frozenset(dir(nn.Module())) | {"_guards_fn"}
