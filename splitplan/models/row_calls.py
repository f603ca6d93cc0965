"""What rules about rows are made of: a node of the program as a call, what it does to rows, and who writes its code.

A rule says, for one node, which rows of its arguments some of its rows need, and writes the node's code for a range of rows:
the halo is real data, and only what lies outside the tensor is padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import fx

from splitplan.models.exported import Dim, Exported, simplify, tensors_in
from splitplan.models.row_maps import ROW_DIM, RowMap, Window, required_rows


class Emitter(Protocol):
    """Writes the code of a part that makes some rows of some layers; see `splitplan.models.row_parts`."""

    def rows(
        self, argument: fx.Node, first: int, last: int, above: int = 0, below: int = 0, fill: float = 0.0
    ) -> fx.Node:
        """Rows ``first … last`` of a value, with rows of padding around them."""

    def there(self, argument: fx.Node) -> tuple[int, int]:
        """The first and the last row that the part has of a value."""

    def item(self, source: fx.Node, index: int, first: int, last: int) -> fx.Node:
        """Rows ``first … last`` of one of several values that a node makes together."""

    def call(self, target: Any, arguments: Mapping[str, Any]) -> fx.Node:
        """A call of an operator by the names of its schema; nodes of the program in it are looked up."""

    def constant(self, value: torch.Tensor) -> fx.Node:
        """A tensor that belongs to the part."""


@dataclass(frozen=True)
class Rule:
    """What a node does to rows.

    Parameters
    ----------
    reads : dict of Node to RowMap
        Each tensor argument that has rows of its own or is read whole; weights without rows are left out.
    emit : callable
        (emitter, first, last) → the fx node that makes rows ``first … last`` of the value.
    """

    reads: dict[fx.Node, RowMap]
    emit: Callable[[Emitter, int, int], fx.Node]


@dataclass(frozen=True)
class Barrier:
    """A node whose rows cannot be made apart from each other, or are not known to be."""

    why: str


Maker: TypeAlias = "Callable[[Call], Rule | Barrier]"


@dataclass(frozen=True)
class Call:
    """A node of the program, its arguments by name, and the shapes around it."""

    exported: Exported
    node: fx.Node
    arguments: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, exported: Exported, node: fx.Node) -> Call:
        """With defaults filled in."""
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        given = {a.name: a.default_value for a in schema if a.has_default_value()}
        given |= {a.name: v for a, v in zip(schema, node.args, strict=False)} | dict(node.kwargs)
        return cls(exported, node, given)

    def shape(self, node: fx.Node | None = None) -> tuple[Dim, ...]:
        """Sizes of a node's (first) tensor, numbers or expressions."""
        return shape_of(node or self.node)

    @property
    def height(self) -> int:
        """Rows of the value."""
        return rows_of_node(self.node)

    def tensors(self) -> list[fx.Node]:
        """The tensor arguments, each once."""
        return [
            a
            for a in self.node.all_input_nodes
            if any(True for _ in tensors_in(a.meta.get("val"))) or a in self.exported.weights
        ]

    def source(self, value: fx.Node) -> dict[str, Any]:
        """The first argument, whether its name is ``self`` or ``input``, set to another node."""
        schema = self.node.target._schema.arguments  # type: ignore[union-attr]
        return {schema[0].name: value}


def shape_of(node: fx.Node) -> tuple[Dim, ...]:
    """Sizes of a node's (first) tensor; () where it has none."""
    first = next(tensors_in(node.meta.get("val")), None)
    return () if first is None else tuple(simplify(d) for d in first.shape)


def rows_of_node(node: fx.Node) -> int:
    """Rows of a node's value; 1 where it has none, or none that are a fixed number."""
    shape = shape_of(node)
    rows = shape[ROW_DIM] if len(shape) > ROW_DIM + 1 else 1
    return rows if isinstance(rows, int) else 1


def called(node: fx.Node) -> str:
    """The operator's name, for people."""
    return (
        str(node.target)
        if not callable(node.target) or isinstance(node.target, torch._ops.OpOverload)
        else str(getattr(node.target, "__name__", node.target))
    )


def numbers(value: Any, count: int) -> list[int]:
    """An argument that is one number for all spatial dimensions or one for each."""
    found = [value] if isinstance(value, int) else list(value)
    return found * count if len(found) == 1 else found


def same(call: Call, reads: dict[fx.Node, RowMap]) -> Rule:
    """Row o from row o by the same operator with the same arguments."""

    def emit(e: Emitter, first: int, last: int) -> fx.Node:
        cut = {
            a: e.rows(a, first, last) if isinstance(how, Window) else e.rows(a, 0, rows_of_node(a) - 1)
            for a, how in reads.items()
        }
        return e.call(call.node.target, fx.map_arg(call.arguments, lambda a: cut.get(a, a)))

    return Rule(reads, emit)


def dim_of(dim: int, rank: int) -> int:
    """A dimension counted from the first one."""
    return dim + rank if dim < 0 else dim


def window(e: Emitter, call: Call, source: fx.Node, how: RowMap, first: int, last: int, fill: float = 0.0) -> fx.Node:
    """The rows of the argument that rows ``first … last`` of the value need, what was clipped returned as padding."""
    need = required_rows(how, first, last, rows_of_node(source))
    start = int(need.last) + 1 if need.spare else int(need.first)
    return e.rows(source, start, int(need.last), int(need.above), int(need.below), fill)
