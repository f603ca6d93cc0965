"""The layer graph: a network as layers and the tensors between them. Plain values; knows no torch.

A layer is an operator or a fused run of operators. A tensor has one producer and any number of
consumers, so that "it crosses once" can be said of it whoever reads it on the far side.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.errors import DataError, raise_all
from splitplan.models.files import check_schema, read_json, write_whole
from splitplan.models.order import find_cycle, topological
from splitplan.models.row_maps import RowOperator, read_operators
from splitplan.models.rows import row_problems

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd
    from matplotlib.figure import Figure
    from scipy.sparse import csr_array

INPUT = "input"
"""The producer of the model's inputs. A reserved name, never a layer: it stays where the data is born."""

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value that one layer (or the model's input) makes and others read.

    Parameters
    ----------
    name : str
        Unique in the graph; the name under which it crosses a boundary.
    producer : str
        A layer's name, or `INPUT`.
    consumers : tuple of str
        The layers that read it, each once. May be empty only for an output of the model.
    size_bytes : float
        At the dtype and batch of the trace.
    shape : tuple of int
        At the batch of the trace; empty for a scalar.
    dtype : str
        As ``"float32"``; tells what a narrower wire precision may be applied to.
    is_output : bool
        Whether the model returns it.
    """

    name: str
    producer: str
    consumers: tuple[str, ...]
    size_bytes: float
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    is_output: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One indivisible piece of the network.

    Parameters
    ----------
    name : str
        Unique in the graph.
    kind : str
        What it computes, as ``"conv2d"`` or, fused, ``"conv2d+batch_norm+relu"``.
    work_flops : float
        Multiply-adds counted as two; 0 for layers that only move data.
    parameters : tuple of str
        Names of the parameters and buffers that it reads; two layers may share one.
    memory_bytes : float
        Activations alive while it runs, its own outputs included, when the whole graph runs in order.
    module : str
        Dotted name of the module that it comes from.
    nodes : tuple of str
        Names of the exported program's nodes that it is made of, in order.
    """

    name: str
    kind: str = ""
    work_flops: float = 0.0
    parameters: tuple[str, ...] = ()
    memory_bytes: float = 0.0
    module: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """A network as a directed acyclic graph of layers, checked when it is made.

    Layers are kept in topological order: the given order where it is one, else the nearest to it.

    Parameters
    ----------
    name : str
    layers : sequence of Layer
    tensors : sequence of Tensor
    parameter_bytes : mapping of str to float
        Size of each parameter or buffer; shared ones are counted once.
    fingerprint : str
        Of the model's structure and weights; empty for a graph that has no model behind it.
    batch : int
        The batch size at which sizes and FLOPs were counted.
    rows : sequence of RowOperator
        What each operator does to rows, in execution order; empty where nobody knows. See `splitplan.models.rows`.

    Raises
    ------
    DataError
        With every defect at once: unknown or repeated names, cycles, layers that the input does not
        reach or that no output needs, numbers that are negative or not finite.
    """

    name: str
    layers: tuple[Layer, ...]
    tensors: tuple[Tensor, ...]
    parameter_bytes: dict[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    batch: int = 1
    rows: tuple[RowOperator, ...] = ()

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "layers", tuple(self.layers))
        set_(self, "tensors", tuple(self.tensors))
        set_(self, "parameter_bytes", dict(self.parameter_bytes))
        set_(self, "rows", tuple(self.rows))
        raise_all(_name_problems(self) or _number_problems(self), f"layer graph {self.name!r}")
        set_(self, "layers", _in_order(self))
        raise_all(_reach_problems(self) or row_problems(self), f"layer graph {self.name!r}")

    # -- looking at it ---------------------------------------------------------------------------

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each layer in topological order."""
        return {layer.name: i for i, layer in enumerate(self.layers)}

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Pairs (producer, consumer) of layer positions, each once, without the input."""
        at = self.index
        return tuple(
            dict.fromkeys((at[t.producer], at[c]) for t in self.tensors if t.producer != INPUT for c in t.consumers)
        )

    @cached_property
    def producers(self) -> np.ndarray:
        """Position of each tensor's producer, −1 for the input; shape (tensors,)."""
        return np.array([-1 if t.producer == INPUT else self.index[t.producer] for t in self.tensors])

    @cached_property
    def readers(self) -> csr_array:
        """Which layers read each tensor, as a sparse 0/1 matrix, shape (tensors, layers)."""
        from scipy.sparse import csr_array

        columns = [self.index[c] for t in self.tensors for c in t.consumers]
        starts = np.cumsum([0, *(len(t.consumers) for t in self.tensors)])
        return csr_array((np.ones(len(columns)), columns, starts), shape=(len(self.tensors), len(self.layers)))

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the model is given."""
        return tuple(t for t in self.tensors if t.producer == INPUT)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What the model returns."""
        return tuple(t for t in self.tensors if t.is_output)

    def __len__(self) -> int:
        return len(self.layers)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LayerGraph):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = object.__hash__

    def networkx(self) -> nx.DiGraph[str]:
        """A networkx DiGraph over layer names, `INPUT` included; an edge carries its ``tensors`` and ``size_bytes``."""
        import networkx as nx

        g: nx.DiGraph[str] = nx.DiGraph(name=self.name)
        g.add_node(INPUT)
        for layer in self.layers:
            g.add_node(layer.name, layer=layer)
        for t in self.tensors:
            for c in t.consumers:
                if not g.has_edge(t.producer, c):
                    g.add_edge(t.producer, c, tensors=[], size_bytes=0.0)
                g.edges[t.producer, c]["tensors"].append(t.name)
                g.edges[t.producer, c]["size_bytes"] += t.size_bytes
        return g

    def is_monotone(self, server: Collection[str]) -> bool:
        """Whether nothing on the server feeds a layer on the device: data crosses one way only."""
        far = set(server)
        return all(c in far for t in self.tensors if t.producer in far for c in t.consumers)

    def boundary(self, server: Collection[str]) -> tuple[Tensor, ...]:
        """The tensors that cross from device to server when the layers in ``server`` run there."""
        far = set(server)
        return tuple(t for t in self.tensors if t.producer not in far and any(c in far for c in t.consumers))

    def prefix(self, count: int) -> tuple[str, ...]:
        """Names of the first ``count`` layers in topological order: the head of a prefix cut."""
        return tuple(layer.name for layer in self.layers[:count])

    def bytes_of_parameters(self, layers: Iterable[str]) -> float:
        """Bytes of the parameters that these layers read, shared ones once."""
        names = {p for name in layers for p in self.layers[self.index[name]].parameters}
        return math.fsum(self.parameter_bytes[p] for p in names)

    def to_frame(self) -> pd.DataFrame:
        """One row a layer: kind, FLOPs, bytes out, parameter bytes, memory, who feeds it."""
        from splitplan.models.table import to_frame

        return to_frame(self)

    def __str__(self) -> str:
        from splitplan.models.table import to_text

        return f"{self!r}\n{to_text(self.to_frame())}"

    def __repr__(self) -> str:
        work = math.fsum(layer.work_flops for layer in self.layers)
        size = math.fsum(self.parameter_bytes.values())
        return (
            f"LayerGraph({self.name!r}: {len(self.layers)} layers, {len(self.tensors)} tensors, "
            f"{work / 1e9:.2f} GFLOP, {size / 1e6:.1f} MB parameters, batch {self.batch})"
        )

    def _repr_html_(self) -> str:
        from splitplan.models.table import to_html

        return f"<p><code>{escape(repr(self))}</code></p>{to_html(self.to_frame())}"

    def plot(self, server: Collection[str] = ()) -> Figure:
        """Draw the graph, with the layers in ``server`` on the far side of the cut."""
        from splitplan.plots.graph import plot_graph

        return plot_graph(self, server)

    # -- on disk ---------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, with the schema's version."""
        return {
            "schema": SCHEMA,
            "kind": "splitplan.LayerGraph",
            "name": self.name,
            "fingerprint": self.fingerprint,
            "batch": self.batch,
            "layers": [asdict(layer) for layer in self.layers],
            "tensors": [asdict(t) for t in self.tensors],
            "parameter_bytes": self.parameter_bytes,
        } | ({"rows": [o.to_list() for o in self.rows]} if self.rows else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "layer graph") -> LayerGraph:
        """The inverse of `to_dict`; a field that is missing or unknown is an error that names it."""
        check_schema(data, "splitplan.LayerGraph", SCHEMA, where)
        try:
            return cls(
                name=data["name"],
                layers=tuple(
                    Layer(**{**d, "parameters": tuple(d["parameters"]), "nodes": tuple(d["nodes"])})
                    for d in data["layers"]
                ),
                tensors=tuple(
                    Tensor(**{**d, "consumers": tuple(d["consumers"]), "shape": tuple(d["shape"])})
                    for d in data["tensors"]
                ),
                parameter_bytes=data["parameter_bytes"],
                fingerprint=data["fingerprint"],
                batch=data["batch"],
                rows=read_operators(data.get("rows", ())),
            )
        except (KeyError, TypeError, AttributeError) as e:
            raise DataError(f"a field is missing, unknown or of the wrong type: {e}", where) from e

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, whole or not at all."""
        write_whole(path, json.dumps(self.to_dict()))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> LayerGraph:
        """Read what `save` wrote."""
        return cls.from_dict(read_json(path), str(path))


# -- validation ----------------------------------------------------------------------------------


def _name_problems(graph: LayerGraph) -> list[str]:
    problems: list[str] = []
    layers = [layer.name for layer in graph.layers]
    known = set(layers)
    if not layers:
        problems.append("has no layers; give at least one")
    if INPUT in known:
        problems.append(f"layer {INPUT!r}: the name is reserved for the model's input; rename the layer")
    for what, names in (("layer", layers), ("tensor", [t.name for t in graph.tensors])):
        seen: set[str] = set()
        for name in names:
            if name in seen:
                problems.append(f"{what} {name!r} appears more than once; names must be unique")
            seen.add(name)
    for t in graph.tensors:
        if t.producer != INPUT and t.producer not in known:
            problems.append(f"tensor {t.name!r}: its producer {t.producer!r} is no layer")
        problems += [f"tensor {t.name!r}: its consumer {c!r} is no layer" for c in t.consumers if c not in known]
        if len(set(t.consumers)) < len(t.consumers):
            problems.append(f"tensor {t.name!r} lists a consumer twice; name each once")
        if not t.consumers and not t.is_output:
            problems.append(f"tensor {t.name!r} has no consumer and is no output; leave it out")
    for layer in graph.layers:
        problems += [
            f"layer {layer.name!r}: parameter {p!r} has no size in parameter_bytes"
            for p in layer.parameters
            if p not in graph.parameter_bytes
        ]
    if graph.tensors and not any(t.producer == INPUT for t in graph.tensors):
        problems.append(f"no tensor comes from {INPUT!r}; say what the model is given")
    if not any(t.is_output for t in graph.tensors):
        problems.append("no tensor is marked is_output; say what the model returns")
    return problems


def _number_problems(graph: LayerGraph) -> list[str]:
    numbers = [(f"layer {x.name!r}: work_flops", x.work_flops) for x in graph.layers]
    numbers += [(f"layer {x.name!r}: memory_bytes", x.memory_bytes) for x in graph.layers]
    numbers += [(f"tensor {t.name!r}: size_bytes", t.size_bytes) for t in graph.tensors]
    numbers += [(f"parameter {k!r}: bytes", v) for k, v in graph.parameter_bytes.items()]
    return [bad for where, value in numbers if (bad := number_problem(where, value))]


def number_problem(where: str, value: object, *, positive: bool = False) -> str | None:
    """What is wrong with a number that must be finite and not negative (or positive), or None."""
    if isinstance(value, (bool, str, bytes)):
        return f"{where} is {value!r}; give a number"
    try:
        number = float(value)  # type: ignore[arg-type]  # numpy scalars and the like
    except OverflowError:
        return f"{where} is a number of more than 308 digits; give a smaller one"
    except (TypeError, ValueError):
        return f"{where} is {value!r}; give a number"
    shown = value if isinstance(value, (int, float)) else number
    if not math.isfinite(number):
        return f"{where} is {shown}; give a finite number"
    if number < 0 or (positive and number == 0):
        return f"{where} is {shown}; give a {'positive' if positive else 'non-negative'} number"
    return None


def _in_order(graph: LayerGraph) -> tuple[Layer, ...]:
    """Layers in topological order, ties by the given order; a cycle is an error that names its layers."""
    at = {layer.name: i for i, layer in enumerate(graph.layers)}
    after: list[list[int]] = [[] for _ in graph.layers]
    for t in graph.tensors:
        if t.producer != INPUT:
            after[at[t.producer]] += [at[c] for c in t.consumers]
    order = topological(after)
    if len(order) < len(graph.layers):
        names = [graph.layers[i].name for i in find_cycle(after, set(range(len(after))) - set(order))]
        raise DataError(f"has a cycle: {' → '.join(names)}; a network must be acyclic", f"layer graph {graph.name!r}")
    return tuple(graph.layers[i] for i in order)


def _reach_problems(graph: LayerGraph) -> list[str]:
    forward: set[str] = {INPUT}
    reads: dict[str, set[str]] = {layer.name: set() for layer in graph.layers}
    for t in graph.tensors:
        for c in t.consumers:
            reads[c].add(t.producer)
    for layer in graph.layers:
        if reads[layer.name] & forward:
            forward.add(layer.name)
    needed = {t.producer for t in graph.tensors if t.is_output}
    for layer in reversed(graph.layers):
        if layer.name in needed:
            needed |= reads[layer.name]
    problems = [
        f"layer {x.name!r} cannot be reached from the input; connect or remove it"
        for x in graph.layers
        if x.name not in forward
    ]
    problems += [
        f"layer {x.name!r} feeds no output; connect or remove it" for x in graph.layers if x.name not in needed
    ]
    return problems
