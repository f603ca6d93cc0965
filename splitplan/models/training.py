"""From a model to layers that can be trained apart: stages of a pipeline, replicas, shared columns, all on the model's own weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from splitplan.errors import DataError, TraceError, raise_all
from splitplan.models.trace import _shapes, _undisturbed, _why
from splitplan.models.traced import Traced, first_line, quiet
from splitplan.models.training_check import check
from splitplan.models.training_cuts import Cuts
from splitplan.models.training_dropout import Draws, Dropout, SameDropout
from splitplan.models.training_flow import Flow, find_dropouts, watch
from splitplan.models.training_layer import TrainingLayer
from splitplan.models.training_program import Args, Program, Weight, export, refuse, take_rows
from splitplan.models.training_stage import StageModule, build_stage

_SEEN, _MORE = 2, 4
"""Samples of the pass in which the model is looked at, and, where it has dropout, of a second export."""


def training_model(
    model: nn.Module | Traced,
    example: torch.Tensor | Sequence[Any] | Mapping[str, Any],
    name: str | None = None,
    *,
    verify: bool = True,
) -> TrainingModel:
    """Read the layers of a model that is to be trained, and where it can be cut.

    The model is exported with `torch.export` as its modes are: dropout drops and normalisation takes the statistics of what it sees
    where ``.training`` is set, module by module. Nothing is copied: stages hold the model's own parameters and buffers.

    What training in parts means for the model:

    - *Dropout* draws other masks than torch would: each sample's depend on the seed, the step, the dropout and the sample's number in
      the batch, and on nothing else, so that every way to share a batch among stages, replicas and micro-batches trains alike.
    - *Batch normalisation* has torch's semantics on what it sees at once: a replica's part of a micro-batch. Other micro-batches or
      replicas give other statistics, as with `torch.nn.parallel.DistributedDataParallel`.
    - *Everything else* must treat samples one by one for shares of a batch to train as the whole; a loss within the model cannot.

    Parameters
    ----------
    model : Module or Traced
        A `Traced` is trained as it computes: without dropout, normalisation by its running statistics.
    example : Tensor, tuple or mapping
        What ``forward`` takes: its argument, or its arguments by position or keyword; tensors with the samples in dimension 0, two or
        more. The first two are looked at.
    name : str, optional
        The class name if not given.
    verify : bool
        Whether to compare one step of the model with one of its layers, each a stage of its own, on the two samples: outputs,
        gradients, buffers. Workers that train what was seen to be right may leave it out.

    Raises
    ------
    TraceError
        When the model fails on the example or cannot be exported, draws random numbers other than by dropout, writes into its inputs
        or parameters, has nothing to train, or computes something else in parts.
    DataError
        When the example is none.
    """
    args, kwargs = _call(example)
    if isinstance(model, Traced):
        name, model = name or model.name, model.module()
    _check_model(model)
    with _undisturbed(model), quiet(), torch.enable_grad():
        made = TrainingModel(model, name or type(model).__name__, (args, kwargs))
        if verify:
            check(made)
    return made


class TrainingModel:
    """A model as layers that can be trained apart. Made by `training_model`.

    Attributes
    ----------
    name : str
    fingerprint : str
        Hex; of the operators, and of names, shapes and dtypes of weights: their values change.
    model : Module
        Trained when its stages are.
    layers : tuple of TrainingLayer
        In execution order.
    crossing_bytes : tuple of float
        For a sample, what crosses at positions 1 … n − 1 of n layers.
    uncuttable : tuple of int
        Positions at which no stage may end: weights are used on both sides, or something crosses that takes no gradient.
    why_uncuttable : dict of int to str
    exact : bool or None
        Whether a step in parts was seen to equal the model's own to the last bit, or but for rounding; None where it was not compared.
    mixes : bool
        Whether what comes of a sample was seen to depend on the others beside it, otherwise than by batch norm.
    """

    def __init__(self, model: nn.Module, name: str, call: Args) -> None:
        self.model, self.name = model, name
        self.exact: bool | None = None
        self.mixes = False
        self._call = call
        self._programs: dict[int, Program] = {}
        program = self._programs[_SEEN] = self._export(_SEEN)
        other = self._export(_MORE) if program.dropouts else None
        if other is not None:
            self._programs[_MORE] = self._same(program, other, _MORE)
        self._dropouts = find_dropouts(program, other, _SEEN, _MORE)
        flow = Flow(program, watch(program, self.example(_SEEN), self._dropouts, _SEEN))
        self._check_flow(flow)
        self._cuts = Cuts(flow, _SEEN)
        self.fingerprint = program.fingerprint
        self.layers: tuple[TrainingLayer, ...] = self._cuts.layers
        self.crossing_bytes: tuple[float, ...] = self._cuts.crossing_bytes
        self.why_uncuttable: dict[int, str] = self._cuts.uncuttable
        self.uncuttable: tuple[int, ...] = tuple(self.why_uncuttable)

    def _check_flow(self, flow: Flow) -> None:
        refuse(flow.forbidden_writes())
        if not any(n in flow.program.inputs or n in flow.pinned for n in flow.results):
            raise TraceError(f"no output of {self.name!r} depends on its inputs; there is nothing to train")
        if not any(w.trained for w in flow.program.weights.values()):
            raise TraceError(
                f"no parameter of {self.name!r} requires a gradient; call requires_grad_(True) on those to be trained"
            )
        if not any(n in flow.facts.needs_grad for n in flow.results):
            raise TraceError(
                f"no output of {self.name!r} has a gradient: it is detached, computed under no_grad, or no number; return the output before that"
            )

    # -- in and out ----------------------------------------------------------------------------------

    def inputs(self, x: Any) -> tuple[torch.Tensor, ...]:
        """The tensors that the first stage takes, from what a data loader gives for ``forward``: a tensor, a tuple or list, a mapping.

        Raises
        ------
        DataError
            For other arguments than the example's, or another dtype or shape of a sample.
        """
        program = self._programs[_SEEN]
        leaves = program.flatten(*_arguments(x))
        problems = []
        for node, leaf in zip(program.inputs, leaves, strict=True):
            wanted = node.meta["val"]
            if not isinstance(leaf, torch.Tensor):
                problems.append(f"{node.name!r} is a {type(leaf).__name__}; a tensor is expected")
            elif leaf.dtype != wanted.dtype or leaf.dim() != wanted.dim() or leaf.shape[1:] != wanted.shape[1:]:
                problems.append(
                    f"{node.name!r} is {_text(leaf.dtype, leaf.shape[1:])} a sample; the model was traced with {_text(wanted.dtype, wanted.shape[1:])}"
                )
        sizes = {len(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.dim()}
        if not problems and len(sizes) > 1:
            problems.append(f"the tensors have {' and '.join(map(str, sorted(sizes)))} samples; give as many of each")
        raise_all(problems, f"input of {self.name!r}")
        return tuple(leaves)

    def unflatten(self, outputs: torch.Tensor | Sequence[torch.Tensor]) -> Any:
        """What the model's forward returns, from what the last stage does."""
        given = (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)
        flow = self._cuts.flow
        if len(given) != len(flow.results):
            raise DataError(
                f"{len(given)} outputs were given; the model returns {len(flow.results)} tensors",
                f"outputs of {self.name!r}",
            )
        value = dict(zip(flow.results, given, strict=True))
        leaves = [value[r] if isinstance(r, fx.Node) else r for r in flow.program.results]
        return pytree.tree_unflatten(leaves, self._out_spec)

    def flatten(self, returned: Any) -> list[torch.Tensor]:
        """What the last stage returns, from what the model's forward does: the inverse of `unflatten`."""
        flow = self._cuts.flow
        leaves = pytree.tree_leaves(returned)
        found = {r: leaf for r, leaf in zip(flow.program.results, leaves, strict=True) if isinstance(r, fx.Node)}
        return [found[n] for n in flow.results]

    def call(self, values: Sequence[torch.Tensor]) -> Args:
        """The arguments of the model's forward by position and by keyword, from what the first stage takes."""
        made: Args = pytree.tree_unflatten(list(values), self._cuts.flow.program.program.call_spec.in_spec)
        return made

    @cached_property
    def _out_spec(self) -> pytree.TreeSpec:
        spec: pytree.TreeSpec = self._cuts.flow.program.program.call_spec.out_spec
        return spec

    def example(self, samples: int) -> tuple[torch.Tensor, ...]:
        """Inputs of the first stage: the example's samples, repeated where it has fewer."""
        args, kwargs = self._call
        leaves = self._programs[_SEEN].flatten(args, kwargs)
        return tuple(take_rows(leaf, samples).detach() for leaf in leaves)

    def crossing(self, position: int, samples: int) -> tuple[torch.Tensor, ...]:
        """What crosses a position, as tensors without memory (device ``meta``) that require a gradient where one comes back, in order.

        Position 0 is what the first stage takes, and behind the last layer what the last one returns.
        """
        self._refuse(self._range_problems(position, position, samples))
        program = self._at(samples)
        twin = dict(zip(self._cuts.flow.program.nodes, program.nodes, strict=True))
        values = [(twin[v].meta["val"], v in self._cuts.flow.facts.needs_grad) for v in self._cuts.crossing(position)]
        return tuple(torch.empty(v.shape, dtype=v.dtype, device="meta", requires_grad=need) for v, need in values)

    # -- stages --------------------------------------------------------------------------------------

    def stage(self, first: int, last: int, samples: int, columns: Sequence[str] = ()) -> StageModule:
        """Layers ``first`` to ``last`` − 1 as a module on the model's own parameters and buffers.

        It takes what crosses position ``first`` and returns what crosses ``last``, see `crossing`. Each call makes a new module, on
        the same parameters.

        Parameters
        ----------
        first, last : int
            Positions: 0 is before the first layer.
        samples : int
            Of what it will be given at once. The model is exported anew for each number, once.
        columns : sequence of str
            Linear layers that become a `torch.nn.Linear` under its own name, so that their columns can be shared, see
            `StageModule.column_modules`.

        Raises
        ------
        DataError
            With every defect at once: positions that are none, or that cannot be cut; unknown layers, or such that are not linear.
        TraceError
            When the model cannot run with so many samples, or computes something else then.
        """
        problems = self._range_problems(first, last, samples)
        if first == last:
            problems.append(f"no layer is between positions {first} and {last}; give a stage one or more")
        names = [layer.name for layer in self.layers]
        for name in columns:
            if name not in names[first:last]:
                problems.append(f"column-parallel layer {name!r} is none of its layers")
            elif not self.layers[names.index(name)].columns:
                problems.append(f"layer {name!r} has no columns to share; give linear layers with weights of their own")
        self._refuse(problems)
        return build_stage(self._cuts, self._at(samples), self._dropouts, first, last, samples, tuple(columns))

    def _range_problems(self, first: int, last: int, samples: int) -> list[str]:
        n = len(self.layers)
        problems = []
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            problems.append(f"samples is {samples!r}; give a whole number from 1")
        if not 0 <= first <= last <= n:
            problems.append(f"positions {first} to {last} are no stretch of {n} layers; give 0 ≤ first < last ≤ {n}")
        problems += [
            f"position {i} cannot be cut: {why}" for i, why in self.why_uncuttable.items() if i in (first, last)
        ]
        return problems

    def _refuse(self, problems: Sequence[str]) -> None:
        raise_all(problems, f"stage of {self.name!r}")

    def same_dropout(self, samples: int, *, seed: int = 0, step: int = 0, first_sample: int = 0) -> SameDropout:
        """A context in which the model itself drops what its stages would, for comparing: one forward pass of so many samples."""
        return SameDropout(Draws(self.dropouts, samples, seed, step, first_sample))

    @property
    def dropouts(self) -> tuple[Dropout, ...]:
        """The dropouts that drop something, in execution order."""
        return tuple(self._dropouts.values())

    def written_buffers(self, steering: bool = False) -> tuple[Weight, ...]:
        """The buffers, and other tensors that it holds, into which the model's forward writes.

        Parameters
        ----------
        steering : bool
            Only those that change what it returns. Running statistics do not, where batch norm takes those of its batch.
        """
        flow = self._cuts.flow
        memory = flow.steering_state() if steering else flow.written_state()
        return tuple(w for n, w in flow.program.weights.items() if flow.facts.storages[n] & memory)

    # -- programs ------------------------------------------------------------------------------------

    def _at(self, samples: int) -> Program:
        """The program of so many samples: the same operators, other sizes."""
        if samples not in self._programs:
            with _undisturbed(self.model), quiet(), torch.enable_grad():
                self._programs[samples] = self._same(self._programs[_SEEN], self._export(samples), samples)
        return self._programs[samples]

    def _export(self, samples: int) -> Program:
        def explain(error: Exception) -> str:
            self._run_eagerly(samples)
            return _why(error, False)

        return export(self.model, self._call, samples, explain)

    def _run_eagerly(self, samples: int) -> None:
        """Tell the model's own failure as that."""
        args, kwargs = pytree.tree_map(lambda leaf: take_rows(leaf, samples).clone(), self._call)
        buffers = {name: b.clone() for name, b in self.model.named_buffers()}
        try:
            torch.func.functional_call(self.model, buffers, args, kwargs)
        except Exception as e:  # a model's own code may raise anything
            raise TraceError(
                f"the model itself, before any tracing, fails on {samples} samples of the example ({_shapes(args, kwargs)}): "
                f"{type(e).__name__}: {first_line(e).rstrip('.')}. Give what its forward takes, and as many samples as it runs on."
            ) from e

    def _same(self, program: Program, other: Program, samples: int) -> Program:
        def written(p: Program) -> list[tuple[str, str, list[int]]]:
            number = {n: i for i, n in enumerate(p.nodes)}
            return [(n.op, str(n.target), [number[a] for a in n.all_input_nodes]) for n in p.nodes]

        constants = [[r for r in p.results if not isinstance(r, fx.Node)] for p in (program, other)]
        if written(program) != written(other) or constants[0] != constants[1]:
            raise TraceError(
                f"{self.name!r} computes something else with {samples} samples than with {_SEEN}: its code asks for the size of the batch, or "
                "returns it. Take that out of forward, or give micro-batches of another size."
            )
        return other

    def __repr__(self) -> str:
        size = sum(layer.parameter_bytes for layer in self.layers) / 1e6
        return f"TrainingModel({self.name!r}: {len(self.layers)} layers, {size:.4g} MB of weights, fingerprint {self.fingerprint[:12]})"


def _check_model(model: object) -> None:
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise TraceError(f"the class {model.__name__} was given; training needs a module of it: {model.__name__}(…)")
    if not isinstance(model, nn.Module):
        raise TraceError(f"a {type(model).__name__} was given; training needs an nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError("a TorchScript module cannot be exported; give the nn.Module that it was made from")
    lazy = [n for n, p in model.named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)]
    if lazy:
        raise TraceError(f"parameter {lazy[0]!r} has no shape yet; call the model once on an example first")


def _arguments(x: Any) -> Args:
    if isinstance(x, Mapping):
        return (), dict(x)
    return (tuple(x) if isinstance(x, (tuple, list)) else (x,)), {}


def _call(example: Any) -> Args:
    """The example as a call, checked."""
    if not isinstance(example, (torch.Tensor, tuple, list, Mapping)):
        raise DataError(
            f"the example is a {type(example).__name__}; give a tensor, a tuple of tensors or a dict of them"
        )
    args, kwargs = _arguments(example)
    leaves = pytree.tree_leaves((args, kwargs))
    problems = [
        f"the example holds a {type(v).__name__}; give tensors only" for v in leaves if not isinstance(v, torch.Tensor)
    ]
    if not leaves:
        problems.append("the example holds no tensor; give the model's inputs")
    sizes = [tuple(v.shape) for v in leaves if isinstance(v, torch.Tensor)]
    if not problems and (not all(sizes) or len({s[0] for s in sizes}) > 1):
        problems.append(
            f"the example's tensors have shapes {', '.join(map(str, sizes))}; give all of them the samples in dimension 0"
        )
    elif not problems and sizes[0][0] < 2:
        problems.append(f"the example has {sizes[0][0]} samples; give two or more")
    raise_all(problems, "example")
    return args, kwargs


def _text(dtype: torch.dtype, shape: Sequence[int]) -> str:
    return f"{str(dtype).removeprefix('torch.')} of shape {tuple(shape)}"
