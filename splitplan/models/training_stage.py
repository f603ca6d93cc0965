"""A stage of a model in training: some of its layers as a module, on the model's own parameters and buffers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from splitplan.errors import BoundaryError, TraceError, raise_all
from splitplan.models.partition import lay_out
from splitplan.models.training_cuts import Cuts, out_of_place
from splitplan.models.training_dropout import Draws, Dropout, drop
from splitplan.models.training_flow import dropping
from splitplan.models.training_program import Program, Weight, aten, written


@dataclass(frozen=True, eq=False)
class _Code:
    """What a stage runs: generated code, and what it is called with behind the stage's inputs."""

    module: fx.GraphModule
    takes: tuple[tuple[torch.Size, torch.dtype], ...]
    weights: tuple[Weight, ...]
    linears: tuple[str, ...]
    draws: Draws


class StageModule(nn.Module):
    """Some layers of a model, to be trained. Made by `TrainingModel.stage`.

    Its parameters and buffers are the model's own objects under the model's own names, and only those that its layers use: what an
    optimizer does to them, or a running statistic that it updates, has happened to the model. Whether dropout and normalisation
    train is as it was when the model was traced; ``train()`` and ``eval()`` change nothing.

    Takes positional tensors, each of ``samples`` samples, and returns a tuple of tensors, or one tensor where it is one.
    """

    def __init__(self, code: _Code, column_modules: Mapping[str, str]) -> None:
        super().__init__()
        taken = (set(dir(type(self))) | {"_code", "_column_modules"}) - set(dir(nn.Module()))
        tops = {w.name.partition(".")[0] for w in code.weights}
        if clash := sorted(tops & taken):
            raise TraceError(
                f"the model calls something of its own {', '.join(map(repr, clash))}, which is taken on a stage of training; rename it"
            )
        for weight in code.weights:
            _hold(self, weight, column_modules.values())
        self._code, self._column_modules = code, dict(column_modules)

    def forward(self, *values: torch.Tensor) -> Any:
        """Run the layers.

        Raises
        ------
        BoundaryError
            For another number of tensors, or another shape or dtype, than the stage was made for.
        """
        code = self._code
        if len(values) != len(code.takes):
            raise BoundaryError(f"the stage takes {len(code.takes)} tensors; {len(values)} were given")
        for i, (value, (shape, dtype)) in enumerate(zip(values, code.takes, strict=True)):
            if value.shape != shape or value.dtype is not dtype:
                raise BoundaryError(
                    f"value {i} of the stage is {value.dtype} of shape {tuple(value.shape)}; it was made for {dtype} of shape {tuple(shape)}"
                )
        held = [_find(self, weight.name) for weight in code.weights]
        made = code.module(*values, *held, *map(self.get_submodule, code.linears), code.draws)
        code.draws.first_sample += code.draws.stride
        return made[0] if len(made) == 1 else made

    @property
    def seed(self) -> int:
        """Of the masks of dropout; 0 unless set."""
        return self._code.draws.seed

    @seed.setter
    def seed(self, value: int) -> None:
        raise_all([f"seed is {value!r}; give a whole number"] if not _whole(value) else [], "stage")
        self._code.draws.seed = int(value)

    @property
    def column_modules(self) -> dict[str, str]:
        """Of each layer whose columns are shared, the name of the `torch.nn.Linear` in this module, for ``parallelize_module``."""
        return dict(self._column_modules)

    def at(self, step: int, first_sample: int = 0, stride: int = 0) -> StageModule:
        """Say what comes next: the masks of dropout depend on it.

        Parameters
        ----------
        step : int
            Of the optimizer.
        first_sample : int
            The number of the first sample of the next call in the batch of the step.
        stride : int
            By how much that number grows with each call, as from one micro-batch to the next.

        Returns
        -------
        StageModule
            Itself.
        """
        given = {"step": step, "first_sample": first_sample, "stride": stride}
        raise_all(
            [f"{k} is {v!r}; give a whole number from 0" for k, v in given.items() if not _whole(v) or v < 0], "stage"
        )
        draws = self._code.draws
        draws.step, draws.first_sample, draws.stride = int(step), int(first_sample), int(stride)
        return self


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _hold(root: nn.Module, weight: Weight, linears: Collection[str]) -> None:
    """Register a weight under its own name."""
    *path, leaf = weight.name.split(".")
    at, prefix = root, []
    for part in path:
        prefix.append(part)
        if part not in at._modules:
            at.add_module(part, nn.Module())
        inner = at._modules[part]
        assert inner is not None
        at = inner
    if ".".join(prefix) in linears:
        _hold_linear(root, prefix, weight)
    elif isinstance(weight.tensor, nn.Parameter):
        at.register_parameter(leaf, weight.tensor)
    else:
        at.register_buffer(leaf, weight.tensor, persistent=weight.persistent)


def _hold_linear(root: nn.Module, path: Sequence[str], weight: Weight) -> None:
    """Register the weight or the bias of a linear layer in a module that can be made column-parallel."""
    parent = root.get_submodule(".".join(path[:-1]))
    module = parent._modules[path[-1]]
    tensor = weight.tensor
    if not isinstance(module, nn.Linear):
        module = nn.Linear(1, 1, bias=False, device="meta")
        parent._modules[path[-1]] = module
    assert isinstance(tensor, nn.Parameter)
    module.register_parameter(weight.name.rpartition(".")[2], tensor)
    if tensor.dim() == 2:
        module.out_features, module.in_features = tensor.shape


def _find(root: nn.Module, name: str) -> torch.Tensor:
    """A weight as it is now: who wraps the stage may have put another in its place."""
    *path, leaf = name.split(".")
    at: nn.Module | None = root
    for part in path:
        assert at is not None
        at = at._modules[part]
    assert at is not None
    found = at._parameters[leaf] if leaf in at._parameters else at._buffers[leaf]
    assert found is not None
    return found


def _apply(module: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return module(x)


# -- building --------------------------------------------------------------------------------------------


def build_stage(
    cuts: Cuts,
    program: Program,
    dropouts: Mapping[fx.Node, Dropout],
    first: int,
    last: int,
    samples: int,
    columns: Sequence[str] = (),
) -> StageModule:
    """Layers ``first`` to ``last`` − 1 as a module.

    Parameters
    ----------
    cuts : Cuts
    program : Program
        Of ``samples`` samples, with the same operators as that of the cuts.
    dropouts : mapping of Node to Dropout
        By nodes of the cuts' program.
    columns : sequence of str
        Linear layers that become modules of their own.
    """
    flow = cuts.flow
    # Facts are known of the nodes that the model was seen with; sizes stand in those of this many samples.
    twin = dict(zip(flow.program.nodes, program.nodes, strict=True))
    takes, gives = cuts.crossing(first), cuts.crossing(last)
    own = [n for group in cuts.groups[first:last] for n in group]
    ends = [v for v in gives if v.op == "call_function" and v not in flow.pinned] if last == len(cuts.groups) else []
    nodes = sorted({*own, *flow.free_before([*own, *ends])}, key=flow.position.__getitem__)

    linears: dict[fx.Node, str] = {}
    column_modules: dict[str, str] = {}
    for name in columns:
        node = cuts.column_linear(cuts.groups[cuts.names.index(name)])
        assert node is not None
        linears[node] = flow.program.weights[node.args[1]].name.rpartition(".")[0]  # type: ignore[index]
        column_modules[name] = linears[node]
    read = [a for n in nodes for a in n.all_input_nodes] + list(gives)
    weights = tuple(dict.fromkeys(a for a in read if a in flow.program.weights))

    graph, root = fx.Graph(), nn.Module()
    entering = {v: graph.placeholder(f"value_{i}") for i, v in enumerate(takes)}
    env: dict[fx.Node, fx.Node] = dict(entering)
    env |= {w: graph.placeholder(f"weight_{i}") for i, w in enumerate(weights)}
    modules = {n: graph.placeholder(f"linear_{i}") for i, n in enumerate(linears)}
    draws = graph.placeholder("draws")
    if first:
        for value in takes:
            strides = _layout(twin[value])
            if strides is not None:
                env[value] = graph.call_function(lay_out, (env[value], strides))

    for node in nodes:
        written_as = twin[node]
        back = dict(zip(written_as.all_input_nodes, node.all_input_nodes, strict=True))

        def look(argument: fx.Node, back: dict[fx.Node, fx.Node] = back) -> fx.Node:
            node = back[argument]
            if node not in env:
                assert node.op == "get_attr"
                root.add_module(node.name, program.submodule(argument))
                env[node] = graph.get_attr(node.name)
            return env[node]

        args: Any = fx.map_arg(written_as.args, look)
        kwargs: Any = fx.map_arg(dict(written_as.kwargs), look)
        # What another stage has made stays as it is there: it may be a leaf, or be sent elsewhere too.
        foreign = any(a in entering for a in written(node))
        if node in dropouts:
            does = drop if foreign else dropping(node)
            env[node] = graph.call_function(does, (draws, dropouts[node].number, args[0]))
        elif node in linears:
            env[node] = graph.call_function(_apply, (modules[node], args[0]))
        else:
            target = out_of_place(node) if foreign else node.target
            assert callable(target)
            env[node] = graph.call_function(target, args, kwargs)
    made = []
    for value in gives:
        if last == len(cuts.groups):
            made.append(env[value])
        elif value in entering:
            # Handed on as a value of its own: gradients of all who read it later are one by the time they come back here.
            made.append(graph.call_function(aten.alias.default, (entering[value],)))
        else:
            made.append(graph.call_method("contiguous", (env[value],)))
    graph.output(tuple(made))
    module = fx.GraphModule(root, graph, class_name="Stage")
    shapes = tuple((twin[v].meta["val"].shape, twin[v].meta["val"].dtype) for v in takes)
    held = tuple(flow.program.weights[w] for w in weights)
    return StageModule(
        _Code(module, shapes, held, tuple(linears.values()), Draws(tuple(dropouts.values()), samples)), column_modules
    )


def _layout(node: fx.Node) -> tuple[int, ...] | None:
    """How a tensor lies in memory in the uncut model; None where it is row-major, as what is sent."""
    value = node.meta["val"]
    return None if value.is_contiguous() else tuple(value.stride())
