"""The way into a model and out of it: arguments to named tensors, and named tensors to the model's own outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from splitplan.errors import DataError, raise_all
from splitplan.models.exported import Exported, expression, is_scalar


@dataclass(frozen=True, eq=False)
class Call:
    """How an exported model is called. Every message speaks of the model by ``name``."""

    exported: Exported
    name: str

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `Traced.flatten`."""
        leaves = self._leaves(args, kwargs)
        problems: list[str] = []
        values: dict[str, torch.Tensor] = {}
        for (name, fixed), leaf in zip(self.exported.flat_inputs, leaves, strict=True):
            if fixed is not None:
                if type(leaf) is not type(fixed.value) or leaf != fixed.value:
                    problems.append(
                        f"{name!r} is {_short(leaf)}; the model was traced with {fixed.value!r} fixed: trace again"
                    )
            elif not isinstance(leaf, torch.Tensor):
                problems.append(f"{name!r} is {_short(leaf)}; a tensor is expected")
            else:
                values[name] = leaf
                problems += self._misfit(name, leaf)
        if not problems:
            try:
                self.symbols(values)
            except DataError as e:
                problems += e.problems
        raise_all(problems, f"input of {self.name!r}")
        return {name: value.detach().contiguous() for name, value in values.items()}

    def _leaves(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        positional, by_keyword = self._argument_names
        where = f"input of {self.name!r}"
        expected = f"expected {', '.join((*positional, *by_keyword)) or 'no argument'}"
        if not by_keyword and not kwargs and len(args) != len(positional):
            raise DataError(f"{len(args)} arguments were given; {expected}", where)
        order = self._forward_names or positional
        if len(args) > len(order):
            raise DataError(f"{len(args)} arguments were given by position; {expected}", where)
        given = dict(zip(order, args, strict=False))
        problems = [f"argument {k!r} is given twice" for k in kwargs if k in given]
        given |= kwargs
        wanted = (*positional, *by_keyword)
        problems += [f"argument {k!r} is missing; {expected}" for k in wanted if k not in given]
        problems += [f"argument {k!r} is not one that was traced; {expected}" for k in given if k not in wanted]
        raise_all(problems, where)
        call = (tuple(given[k] for k in positional), {k: given[k] for k in by_keyword})
        leaves, spec = pytree.tree_flatten(call)
        if spec != self._in_spec:
            raise DataError(f"the nesting of the arguments is {_plain(spec)}; expected {_plain(self._in_spec)}", where)
        return leaves

    def nest(self, values: Mapping[str, torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inverse of `flatten`: arguments by position and by keyword, as in the example of the trace."""
        leaves = [values[name] if fixed is None else fixed.value for name, fixed in self.exported.flat_inputs]
        args, kwargs = pytree.tree_unflatten(leaves, self._in_spec)
        return args, kwargs

    # torch makes a new class each time it is asked for a call spec.
    @cached_property
    def _in_spec(self) -> pytree.TreeSpec:
        spec: pytree.TreeSpec = self.exported.program.call_spec.in_spec
        return spec

    @cached_property
    def _out_spec(self) -> pytree.TreeSpec:
        spec: pytree.TreeSpec = self.exported.program.call_spec.out_spec
        return spec

    @cached_property
    def _forward_names(self) -> tuple[str, ...]:
        """Names of ``forward``'s arguments in the order of the example."""
        return tuple(self.exported.program.module_call_graph[0].signature.forward_arg_names or ())

    @cached_property
    def _argument_names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        args, kwargs = self._in_spec.children()
        count = args.num_children
        known = self._forward_names[:count]
        return known + tuple(f"argument {i}" for i in range(len(known), count)), tuple(kwargs.context)

    def _misfit(self, name: str, tensor: torch.Tensor) -> list[str]:
        node = self.exported.inputs[name]
        dims = self.exported.shape(node)
        dtype = node.meta["val"].dtype
        fits = tensor.dim() == len(dims) and all(
            not isinstance(d, int) or d == s for d, s in zip(dims, tensor.shape, strict=False)
        )
        if fits and tensor.dtype == dtype:
            return []
        wanted = f"{_dtype(dtype)} of shape {self._shape_text(dims)}"
        return [f"{name!r} is {_dtype(tensor.dtype)} of shape {self._shape_text(tensor.shape)}; expected {wanted}"]

    def _shape_text(self, shape: Any) -> str:
        return f"({', '.join(str(self.exported.text(d)) for d in shape)})"

    def symbols(self, values: Mapping[str, torch.Tensor]) -> dict[str, int]:
        """See `Traced.symbols`."""
        exported = self.exported
        dims = [(name, i, d) for name, node in exported.inputs.items() for i, d in enumerate(exported.shape(node))]
        found: dict[str, int] = {}
        first: dict[str, str] = {}
        problems: list[str] = []
        for text, symbol in exported.symbols.items():
            for name, i, d in dims:
                if d == symbol and name in values:
                    size = int(values[name].shape[i])
                    if found.setdefault(text, size) != size:
                        problems.append(
                            f"{name!r} has {text} {size}, but {first[text]!r} has {found[text]}; give one {text}"
                        )
                    first.setdefault(text, name)
            low, high = exported.range_of(symbol)
            if text not in found:
                problems.append(f"no input gives {text}")
            elif found[text] < low or (high is not None and found[text] > high):
                problems.append(
                    f"{first[text]!r} has {text} {found[text]}; the model was exported for {low} to {high or 'any'}"
                )
        if not problems:
            for name, i, d in dims:
                known = isinstance(d, int) or d.is_Symbol
                if not known and name in values and exported.value(d, found) != values[name].shape[i]:
                    problems.append(
                        f"{name!r} has {values[name].shape[i]} in dimension {i}; expected {exported.text(d)} = "
                        f"{exported.value(d, found)}"
                    )
        raise_all(problems, f"input of {self.name!r}")
        return found

    def unflatten(self, outputs: Mapping[str, torch.Tensor], symbols: Mapping[str, int] | None = None) -> Any:
        """See `Traced.unflatten`."""
        missing = [r.name for r in self._returned if r.name not in outputs]
        raise_all([f"output {name!r} is missing" for name in missing], f"outputs of {self.name!r}")
        leaves = []
        for result in self.exported.results:
            if not isinstance(result, fx.Node):
                leaves.append(result)
            elif is_scalar(result.meta.get("val")):
                expr = expression(result.meta["val"])
                if symbols is None and getattr(expr, "free_symbols", None):
                    raise DataError(
                        f"the model returns the size {self.exported.text(expr)}; give `symbols` too", self.name
                    )
                leaves.append(self.exported.value(expr, symbols or {}))
            else:
                leaves.append(outputs[result.name])
        return pytree.tree_unflatten(leaves, self._out_spec)

    @cached_property
    def _returned(self) -> tuple[fx.Node, ...]:
        """The tensors among the results, each once."""
        nodes = (r for r in self.exported.results if isinstance(r, fx.Node))
        return tuple(dict.fromkeys(n for n in nodes if not is_scalar(n.meta.get("val"))))


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def _plain(spec: pytree.TreeSpec) -> str:
    return " ".join(str(spec).split())
