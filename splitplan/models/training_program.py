"""A model in training as a list of operators: exported at a fixed number of samples, as its own code runs them, in place where it does."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from splitplan.errors import TraceError, raise_all
from splitplan.models.exported import is_scalar, place
from splitplan.models.traced import first_line, quiet
from splitplan.models.wrapped import exportable, own_name

aten = torch.ops.aten

Args: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any]]"

DROPOUTS = {
    aten.dropout.default: False, aten.dropout_.default: False, aten.feature_dropout.default: True, aten.feature_dropout_.default: True,
}  # fmt: skip
"""The operators of dropout, and whether whole channels are dropped."""

_REGIONS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")
"""Stretches of the model that torch's exporter keeps in graphs of their own: under no_grad, enable_grad or autocast."""


_STATISTICS: dict[Any, int] = {aten.batch_norm.default: 5, aten.instance_norm.default: 5}
"""Operators that write the running statistics they are given as arguments 3 and 4, though their schema does not say so, and where
the argument stands that switches it on."""


def over_samples(node: fx.Node) -> bool:
    """Whether it is a batch norm that normalises over the samples that are there."""
    return node.target is aten.batch_norm.default and node.args[5] is True


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter, buffer or constant of the model.

    Parameters
    ----------
    name : str
        As in the model's ``state_dict``; the first of several.
    tensor : Tensor
        The model's own object.
    persistent : bool
        Whether it is in the ``state_dict``.
    """

    name: str
    tensor: torch.Tensor
    persistent: bool = True

    @property
    def is_parameter(self) -> bool:
        """Whether it is a parameter, trained or frozen."""
        return isinstance(self.tensor, nn.Parameter)

    @property
    def trained(self) -> bool:
        """Whether an optimizer changes it."""
        return self.is_parameter and self.tensor.requires_grad


@dataclass(frozen=True, eq=False)
class Program:
    """What a model computes in one forward pass of so many samples. Not functional: normalisation writes its statistics.

    Parameters
    ----------
    program : ExportedProgram
    held : mapping of str to Tensor
        The model's own parameters and buffers, by every name that they have.

    Raises
    ------
    TraceError
        When the model draws random numbers other than by dropout, asks the data for a number, has graphs of its own in which it
        writes, or takes or holds what is no tensor.
    """

    program: ExportedProgram
    held: Mapping[str, torch.Tensor]

    def __post_init__(self) -> None:
        self._refuse_signature()
        refuse(p for node in self.nodes for p in self._problems(node))

    @cached_property
    def nodes(self) -> tuple[fx.Node, ...]:
        """Every node but the output, in execution order."""
        return tuple(n for n in self.program.graph.nodes if n.op != "output")

    @cached_property
    def calls(self) -> tuple[fx.Node, ...]:
        """The nodes that compute, dead ones included."""
        return tuple(n for n in self.nodes if n.op == "call_function")

    @cached_property
    def inputs(self) -> tuple[fx.Node, ...]:
        """The tensors that the caller gives, in flat order."""
        specs = self.program.graph_signature.input_specs
        given = {s.arg.name for s in specs if s.kind is InputKind.USER_INPUT}
        return tuple(n for n in self.nodes if n.op == "placeholder" and n.name in given)

    @cached_property
    def weights(self) -> dict[fx.Node, Weight]:
        """What the model holds, by the placeholder that stands for it."""
        found = {}
        first: dict[int, str] = {}
        for name, held in self.held.items():
            first.setdefault(id(held), name)
        by_name = {n.name: n for n in self.nodes}
        for spec in self.program.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                continue
            target, name = str(spec.target), own_name(str(spec.target))
            tensor = self.held.get(name)
            if tensor is None:
                tensor = (self.program.state_dict if target in self.program.state_dict else self.program.constants).get(
                    target
                )
            assert isinstance(tensor, torch.Tensor)
            lasting = spec.kind is not InputKind.CONSTANT_TENSOR and spec.persistent is not False
            found[by_name[spec.arg.name]] = Weight(first.get(id(tensor), name), tensor, lasting)
        return found

    @cached_property
    def results(self) -> tuple[Any, ...]:
        """What the graph returns, flat: nodes and constants, in the model's own order."""
        (output,) = (n for n in self.program.graph.nodes if n.op == "output")
        return tuple(output.args[0])

    @cached_property
    def dropouts(self) -> dict[fx.Node, int]:
        """The dropouts that drop something, numbered as they run."""
        found = [n for n in self.calls if n.target in DROPOUTS and dropout_chance(n)]
        return {node: i for i, node in enumerate(found)}

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """The leaves of a call in flat order.

        Raises
        ------
        DataError
            For another nesting of the arguments than the example's.
        """
        spec = self.program.call_spec.in_spec
        names = list(spec.children()[1].context)
        problems = [f"argument {k!r} is missing" for k in names if k not in kwargs]
        problems += [f"argument {k!r} is not one of the example's" for k in kwargs if k not in names]
        raise_all(problems, "input")
        leaves, found = pytree.tree_flatten((tuple(args), {k: kwargs[k] for k in names}))
        if found != spec:
            problems = [
                f"the nesting is {' '.join(str(found).split())}; the example's is {' '.join(str(spec).split())}"
            ]
        raise_all(problems, "input")
        return leaves

    def submodule(self, node: fx.Node) -> nn.Module:
        """The graph of a stretch of its own that a ``get_attr`` node stands for."""
        found = getattr(self.program.graph_module, str(node.target))
        assert isinstance(found, nn.Module)
        return found

    def written_as(self, node: fx.Node) -> str:
        """An operator with its arguments as a line of text, the same in every process."""
        number = {n: i for i, n in enumerate(self.nodes)}

        def text(value: Any) -> str:
            if isinstance(value, fx.Node):
                if value in self.weights:
                    return f"weight {self.weights[value].name}"
                return self.submodule(value).code if value.op == "get_attr" else f"node{number[value]}"  # type: ignore[return-value]
            if isinstance(value, (list, tuple)):
                return f"[{', '.join(map(text, value))}]"
            if isinstance(value, dict):
                return f"{{{', '.join(f'{k}: {text(v)}' for k, v in sorted(value.items()))}}}"
            return f"{type(value).__name__} {value!r}"

        return f"{target_name(node)}({text(node.args)}, {text(dict(node.kwargs))})"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over operators, names, shapes and dtypes of weights, inputs and results, as hex; never over the values of weights."""
        whole = hashlib.sha256(b"splitplan training fingerprint 1\n")

        def tensor(t: torch.Tensor) -> str:
            return f"{t.dtype} {tuple(t.shape)} {t.requires_grad}"

        lines = [f"input {tensor(n.meta['val'])}" for n in self.inputs]
        lines += [f"weight {w.name} {tensor(w.tensor)} {w.is_parameter}" for w in self.weights.values()]
        lines += [self.written_as(n) for n in self.calls]
        number = {n: i for i, n in enumerate(self.nodes)}
        lines.append(f"returns {[number[r] if isinstance(r, fx.Node) else repr(r) for r in self.results]}")
        lines += [
            pytree.treespec_dumps(s) for s in (self.program.call_spec.in_spec, self.program.call_spec.out_spec) if s
        ]
        whole.update("\n".join(lines).encode())
        return whole.hexdigest()

    # -- what cannot be trained in parts -------------------------------------------------------------

    def _refuse_signature(self) -> None:
        problems = []
        for spec in self.program.graph_signature.input_specs:
            taken = (TensorArgument, ConstantArgument) if spec.kind is InputKind.USER_INPUT else TensorArgument
            if not isinstance(spec.arg, taken):
                problems.append(
                    f"holds or takes {spec.arg.name!r}, a {type(spec.arg).__name__.lower()}; replace it by a tensor"
                )
        problems += [
            f"writes into {out.target!r}, and was made functional; give the model itself"
            for out in self.program.graph_signature.output_specs
            if out.kind is not OutputKind.USER_OUTPUT
        ]
        if problems:
            raise TraceError("the model " + "; it ".join(problems) + ".")

    def _problems(self, node: fx.Node) -> Iterator[str]:
        """What of a node no part could do alike."""
        if node.op == "get_attr":
            inside = self.submodule(node)
            assert isinstance(inside, fx.GraphModule)
            for n in inside.graph.nodes:
                if n.op == "call_function" and (written(n) or draws(n) or writes_statistics(n)):
                    yield f"node {n.name!r} ({n.target}{place(n)}) writes or draws in a stretch of its own; take it out of no_grad or autocast"
            return
        if node.op != "call_function":
            return
        if isinstance(node.target, torch._ops.HigherOrderOperator) and target_name(node) not in _REGIONS:
            yield f"node {node.name!r}{place(node)} is {target_name(node)}, which has graphs of its own; write it as plain operators"
        if is_scalar(node.meta.get("val")):
            yield f"node {node.name!r} ({node.target}{place(node)}) makes a number out of the data; keep it a tensor"
        if node.target not in DROPOUTS and draws(node):
            cure = "use dropout, or give the noise as an input"
            if node.target is aten.scaled_dot_product_attention.default:
                cure = "set its dropout_p to 0 (.dropout of an nn.MultiheadAttention) and put an nn.Dropout behind the attention"
            yield f"node {node.name!r} ({node.target}{place(node)}) draws random numbers, so no two ways to share a batch train alike; {cure}"


def refuse(problems: Iterable[str]) -> None:
    """Raise one `TraceError` for what keeps a model from being trained in parts, if anything does."""
    found = list(dict.fromkeys(problems))
    if found:
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        raise TraceError(f"the model cannot be trained in parts: {'; '.join(found[:3])}{more}.")


def dropout_chance(node: fx.Node) -> float:
    """The probability with which a dropout drops; 0 for one that is switched off."""
    given = arguments(node)
    return float(given["p"]) if given["train"] else 0.0


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operator by name, defaults included."""
    schema = node.target._schema  # type: ignore[union-attr]
    given = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    given |= {a.name: v for a, v in zip(schema.arguments, node.args, strict=False)}
    return given | dict(node.kwargs)


def written(node: fx.Node) -> tuple[fx.Node, ...]:
    """The arguments that an operator says it writes into."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return ()
    given = arguments(node)
    into = [
        given.get(a.name) for a in node.target._schema.arguments if a.alias_info is not None and a.alias_info.is_write
    ]
    return tuple(leaf for leaf in pytree.tree_leaves(into) if isinstance(leaf, fx.Node))


def draws(node: fx.Node) -> bool:
    """Whether an operator draws random numbers as it is called; those that may carry a mark even when they do not."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    given = arguments(node)
    if given.get("train") is False or given.get("training") is False:
        return False
    chance = given.get("dropout_p", given.get("p", given.get("dropout")))
    return chance is None or chance != 0


def writes_statistics(node: fx.Node) -> bool:
    """Whether a normalisation updates running statistics."""
    at = _STATISTICS.get(node.target)
    return at is not None and bool(node.args[at]) and any(isinstance(a, fx.Node) for a in node.args[3:5])


def target_name(node: fx.Node) -> str:
    """An operator's name; never a repr, which may hold an address."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return f"{target._schema.name}.{target._overloadname}"
    if isinstance(target, torch._ops.HigherOrderOperator):
        return str(target._name)
    return str(getattr(target, "__name__", type(target).__name__))


def take_rows(leaf: torch.Tensor, wanted: int) -> torch.Tensor:
    """So many samples of a tensor, repeated where it has fewer, in its memory format."""
    if wanted <= len(leaf):
        return leaf[:wanted]
    kept = leaf[torch.arange(wanted, device=leaf.device) % len(leaf)]
    channels_last = leaf.dim() == 4 and leaf.is_contiguous(memory_format=torch.channels_last)
    return kept.contiguous(memory_format=torch.channels_last) if channels_last and not leaf.is_contiguous() else kept


def export(model: nn.Module, call: Args, samples: int, explain: Callable[[Exception], str]) -> Program:
    """Export a model at so many samples of a call, as its modes (train or eval) are."""
    args, kwargs = pytree.tree_map(lambda leaf: take_rows(leaf, samples), call)
    said = io.StringIO()
    try:
        # When it fails, the exporter prints the graph it had.
        with quiet(), torch.enable_grad(), redirect_stderr(said):
            program = torch.export.export(exportable(model), args, kwargs, strict=False)
    except Exception as e:  # whatever a model's own code raises while it is traced comes out here
        raise TraceError(f"with {samples} samples: {explain(e) or first_line(e)}") from e
    held = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    return Program(program, held)
