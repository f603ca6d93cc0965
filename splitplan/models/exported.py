"""What an exported program holds, read for splitting: inputs, weights, sizes, and who depends on the data.

Every other module of this room asks here and never looks into a graph signature itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import sympy  # type: ignore[import-untyped]
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from splitplan.errors import TraceError
from splitplan.models.wrapped import own_name

Scalar: TypeAlias = int | float | bool
Dim: TypeAlias = "int | sympy.Expr"


def is_scalar(value: object) -> bool:
    """Whether a node's value is a number (symbolic or not): it is recomputed where needed and never crosses."""
    return isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool))


def expression(value: Any) -> Any:
    """The sympy expression behind a symbolic number; a plain number is its own expression."""
    return value.node.expr if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)) else value


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """The tensors of a node's value: one, or those of a tuple or list."""
    return (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor))


@dataclass(frozen=True, eq=False)
class Exported:
    """A functional exported program, checked to be one that can be split.

    Parameters
    ----------
    program : ExportedProgram
        Functional: no node writes into a tensor.

    Raises
    ------
    TraceError
        When the model changes its own state or its inputs, draws random numbers, or has sizes or
        numbers that depend on the data: such a model cannot be cut in two and stay the same.
    """

    program: ExportedProgram
    _shapes: dict[fx.Node, tuple[Dim, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._refuse_mutation()
        self._refuse_other_inputs()
        self._refuse_random()
        self._refuse_data_dependence()

    # -- nodes -----------------------------------------------------------------------------------

    @cached_property
    def results(self) -> tuple[Any, ...]:
        """What the graph returns, flat: nodes and constants, in the model's own order."""
        (output,) = (n for n in self.program.graph.nodes if n.op == "output")
        return tuple(output.args[0])

    @cached_property
    def live(self) -> tuple[fx.Node, ...]:
        """The call_function nodes that an output needs, in execution order; assertions and dead nodes are left out."""
        needed = {n for n in self.results if isinstance(n, fx.Node)}
        for node in reversed(self.program.graph.nodes):
            if node in needed:
                needed.update(node.all_input_nodes)
        return tuple(n for n in self.program.graph.nodes if n in needed and n.op == "call_function")

    @cached_property
    def position(self) -> dict[fx.Node, int]:
        """Place of each live node in execution order."""
        return {node: i for i, node in enumerate(self.live)}

    @cached_property
    def by_name(self) -> dict[str, fx.Node]:
        """Every node of the program."""
        return {n.name: n for n in self.program.graph.nodes}

    @cached_property
    def inputs(self) -> dict[str, fx.Node]:
        """The placeholders of the tensors that the caller gives, used or not, in flat order."""
        return {n: self.by_name[n] for n, fixed in self.flat_inputs if fixed is None}

    @cached_property
    def flat_inputs(self) -> tuple[tuple[str, ConstantArgument | None], ...]:
        """Name and, where the exporter fixed it, the constant, of every flat input."""
        return tuple(
            (spec.arg.name, spec.arg if isinstance(spec.arg, ConstantArgument) else None)
            for spec in self.program.graph_signature.input_specs
            if spec.kind is InputKind.USER_INPUT
        )

    @cached_property
    def weights(self) -> dict[fx.Node, str]:
        """Name of the parameter, buffer or constant that a placeholder stands for; tied ones have one name."""
        return {node: name for node, (name, _) in self._weights.items()}

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Each weight once, by name: the model's own tensors."""
        return dict(self._weights.values())

    @cached_property
    def _weights(self) -> dict[fx.Node, tuple[str, torch.Tensor]]:
        first: dict[tuple[Any, ...], str] = {}
        found: dict[fx.Node, tuple[str, torch.Tensor]] = {}
        for spec in self.program.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                continue
            target = str(spec.target)
            held = self.program.state_dict if target in self.program.state_dict else self.program.constants
            tensor = held[target]
            at = tensor.untyped_storage().data_ptr()
            # Same memory seen the same way is one weight; empty tensors all lie at address 0 and are kept apart.
            key = (at, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype) if at else (target,)
            found[self.by_name[spec.arg.name]] = (first.setdefault(key, own_name(target)), tensor)
        return found

    @cached_property
    def data(self) -> frozenset[fx.Node]:
        """Nodes whose value depends on the numbers in an input, not on its shape alone."""
        found = set(self.inputs.values())
        for node in self.live:
            if not is_scalar(node.meta.get("val")) and any(a in found for a in node.all_input_nodes):
                found.add(node)
        return frozenset(found)

    # -- symbols ---------------------------------------------------------------------------------

    @cached_property
    def symbols(self) -> dict[str, sympy.Symbol]:
        """The sizes that may differ from call to call: ``batch`` for the leading one, ``<input>_<dim>`` for others."""
        named: dict[sympy.Symbol, str] = {}
        for name, node in self.inputs.items():
            for i, dim in enumerate(self.shape(node)):
                if isinstance(dim, sympy.Symbol) and dim not in named:
                    named[dim] = "batch" if i == 0 and "batch" not in named.values() else f"{name}_{i}"
        return {text: symbol for symbol, text in named.items()}

    def shape(self, node: fx.Node) -> tuple[Dim, ...]:
        """The sizes of a node's tensor, numbers or expressions."""
        if node not in self._shapes:
            self._shapes[node] = tuple(simplify(d) for d in node.meta["val"].shape)
        return self._shapes[node]

    def strides(self, node: fx.Node) -> tuple[Dim, ...]:
        """How a node's tensor lies in memory, in elements, numbers or expressions."""
        return tuple(simplify(d) for d in node.meta["val"].stride())

    def text(self, dim: Dim) -> int | str:
        """A size as users read it: a number, or an expression of `symbols`."""
        if isinstance(dim, int):
            return dim
        return str(dim.xreplace({s: sympy.Symbol(n, integer=True) for n, s in self.symbols.items()}))

    def value(self, expr: Any, symbols: Mapping[str, int]) -> Any:
        """A size or number for given symbols."""
        if isinstance(expr, (int, float)):
            return expr
        known = {s: sympy.Integer(symbols[n]) for n, s in self.symbols.items() if n in symbols}
        done = expr.xreplace(known)
        if isinstance(done, (bool, sympy.logic.boolalg.BooleanAtom)):
            return bool(done)
        return int(done) if done.is_integer else float(done)

    def range_of(self, symbol: sympy.Symbol) -> tuple[int, int | None]:
        """The least and greatest value that the exporter vouches for."""
        bounds = self.program.range_constraints.get(symbol)
        if bounds is None:
            return 1, None
        upper = int(bounds.upper) if bounds.upper.is_finite and bounds.upper.is_Integer else None
        return max(1, int(bounds.lower)), upper

    # -- what cannot be split ----------------------------------------------------------------------

    def _refuse_mutation(self) -> None:
        problems: list[str] = []
        for spec in self.program.graph_signature.output_specs:
            if spec.kind is OutputKind.USER_INPUT_MUTATION:
                problems.append(f"writes into its input {spec.target!r}; clone the input first")
            elif spec.kind is not OutputKind.USER_OUTPUT:
                problems.append(
                    f"changes its own state {own_name(str(spec.target))!r} while it runs; compute it without writing to it"
                )
        if problems:
            raise TraceError(
                "the model " + "; it ".join(problems) + ". Parts on two machines would not share that change."
            )

    def _refuse_other_inputs(self) -> None:
        for spec in self.program.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                if not isinstance(spec.arg, (TensorArgument, ConstantArgument)):
                    raise TraceError(
                        f"input {spec.arg.name!r} is a symbolic number; only tensors and constants can be given. "
                        "Export the model with that number fixed."
                    )
            elif spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                raise TraceError(
                    f"the model holds {own_name(str(spec.target))!r}, a {spec.kind.name.lower()}; only parameters, buffers and "
                    "constant tensors can be moved between machines. Replace it by plain tensors."
                )

    def _refuse_random(self) -> None:
        for node in self.live:
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) and not _draws_nothing(node):
                raise TraceError(
                    f"node {node.name!r} ({node.target}{place(node)}) draws random numbers, so no two runs agree. "
                    "Switch it off in eval mode, or give the noise as an input."
                )

    def _refuse_data_dependence(self) -> None:
        known = set(self.symbols.values())
        for node in (*self.inputs.values(), *self.live):
            val = node.meta.get("val")
            numbers = [val] if is_scalar(val) else [d for t in tensors_in(val) for d in t.shape]
            for number in numbers:
                strange: set[Any] = getattr(expression(number), "free_symbols", set()) - known
                if not strange:
                    continue
                if node.op == "placeholder":
                    raise TraceError(
                        f"a size of input {node.name!r} is {expression(number)}, which no single input dimension gives; "
                        "export with plain dynamic dimensions or fixed sizes."
                    )
                raise TraceError(
                    f"node {node.name!r} ({node.target}{place(node)}) makes a size or a number that depends on the "
                    "data (item(), nonzero, boolean indexing …): it is not known before the model runs. Keep it a "
                    "tensor of fixed shape (where, topk, padding), or leave that step out of the traced model."
                )


def simplify(dim: Any) -> Dim:
    """A size as an int where it is one, else as a sympy expression."""
    expr = expression(dim)
    return expr if isinstance(expr, int) else int(expr) if expr.is_Integer else expr


def module_of(node: fx.Node) -> str:
    """Dotted name of the innermost module that a node comes from; empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [path for path, _ in stack.values() if not path.startswith("_empty_nn_module_stack")]
    return own_name(str(names[-1])) if names else ""


def place(node: fx.Node) -> str:
    """`` in <module>`` for messages, or nothing."""
    return f" in {module}" if (module := module_of(node)) else ""


def _draws_nothing(node: fx.Node) -> bool:
    """Dropout and attention carry the tag of random operators even when their probability is 0."""
    arguments = {a.name: v for a, v in zip(node.target._schema.arguments, node.args, strict=False)} | dict(node.kwargs)  # type: ignore[union-attr]
    defaults = {a.name: a.default_value for a in node.target._schema.arguments if a.has_default_value()}  # type: ignore[union-attr]
    given = defaults | arguments
    if given.get("train") is False or given.get("training") is False:
        return True
    chance = given.get("dropout_p", given.get("p", given.get("dropout")))
    return chance is not None and chance == 0


def names(nodes: Iterable[fx.Node]) -> tuple[str, ...]:
    """The names of nodes, in order."""
    return tuple(n.name for n in nodes)
