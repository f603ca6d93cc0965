"""Reads PipeDream's profiles (SOSP 2019): a text line for each layer, with forward and backward time, activation and parameters."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from splitplan.data.operators import Operator, OperatorGraph
from splitplan.data.profile import Profile
from splitplan.errors import DataError, raise_all
from splitplan.models.graph import INPUT, Layer, LayerGraph, Tensor, number_problem
from splitplan.models.order import find_cycle, topological

MS = 1e-3
"""Seconds of a file's unit of time."""

FIELDS = ("forward_compute_time", "backward_compute_time", "activation_size", "parameter_size")
BOTH_WAYS = 2.0
"""A tensor crosses forward as an activation and backward as its gradient."""


@dataclass(frozen=True)
class PipedreamLayer:
    """A line of a profile.

    Parameters
    ----------
    name : str
        As ``node7``.
    text : str
        The layer as PyTorch prints it.
    forward_s, backward_s : float
        Seconds for one minibatch.
    activation_bytes, parameter_bytes : float
        Of the output (the sum over its tensors), of the weights.
    """

    name: str
    text: str
    forward_s: float
    backward_s: float
    activation_bytes: float
    parameter_bytes: float


@dataclass(frozen=True, eq=False)
class PipedreamGraph:
    """A profile as PipeDream's optimizer sees it.

    Parameters
    ----------
    name : str
    layers : tuple of PipedreamLayer
        In topological order.
    edges : tuple of (str, str)
    """

    name: str
    layers: tuple[PipedreamLayer, ...]
    edges: tuple[tuple[str, str], ...]

    @cached_property
    def trained(self) -> PipedreamGraph:
        """Without what the published optimizer leaves out: input nodes, which run nowhere, and ``__getitem__`` nodes that nobody reads."""
        fed, feeds = {b for _, b in self.edges}, {a for a, _ in self.edges}
        gone = {x.name for x in self.layers if x.name not in fed and x.text.startswith("Input")}
        gone |= {x.name for x in self.layers if x.name not in feeds and x.text.startswith("__getitem__")}
        if len(gone) == len(self.layers):
            return self
        kept = tuple(x for x in self.layers if x.name not in gone)
        return PipedreamGraph(self.name, kept, tuple((a, b) for a, b in self.edges if not {a, b} & gone))

    def operators(self, rate_bps: float) -> OperatorGraph:
        """As an operator graph on accelerators without CPUs: forward and backward of a layer are one operator.

        Parameters
        ----------
        rate_bps : float
            Of each accelerator's link to the host; an output crosses as activation and as gradient.
        """
        return OperatorGraph(
            self.name,
            tuple(
                Operator(
                    x.name,
                    x.forward_s + x.backward_s,
                    output_s=8 * BOTH_WAYS * x.activation_bytes / rate_bps,
                    memory_bytes=x.parameter_bytes,
                    label=x.text,
                )
                for x in self.layers
            ),
            self.edges,
            cpus=0,
        )

    @cached_property
    def layer_graph(self) -> LayerGraph:
        """As a layer graph: outputs with the size of the activation; what nothing feeds reads the input, what feeds nothing is an output."""
        fed = {b for _, b in self.edges}
        readers: dict[str, list[str]] = {x.name: [] for x in self.layers}
        for a, b in self.edges:
            readers[a].append(b)
        first = tuple(x.name for x in self.layers if x.name not in fed)
        tensors = [Tensor("model input", INPUT, first, 0.0)]
        tensors += [
            Tensor(f"{x.name} out", x.name, tuple(readers[x.name]), x.activation_bytes, is_output=not readers[x.name])
            for x in self.layers
        ]
        layers = tuple(Layer(x.name, x.text.partition("(")[0], parameters=(x.name,)) for x in self.layers)
        return LayerGraph(self.name, layers, tuple(tensors), {x.name: x.parameter_bytes for x in self.layers})

    def profile(self, places: Iterable[str]) -> Profile:
        """Seconds of one minibatch, forward and backward, the same at each place."""
        seconds = {x.name: x.forward_s + x.backward_s for x in self.layers}
        return Profile.given(self.layer_graph, dict.fromkeys(places, seconds))

    @cached_property
    def seconds(self) -> np.ndarray:
        """Forward and backward of each layer, shape (layers,)."""
        return np.array([x.forward_s + x.backward_s for x in self.layers])


def is_pipedream(text: str) -> bool:
    """Whether a text looks like one of these profiles."""
    return re.search(rf"^\S+ -- .* -- {FIELDS[0]}=", text, re.MULTILINE) is not None


def read_pipedream(path: str | os.PathLike[str]) -> PipedreamGraph:
    r"""Read a profile; every defect of the file is reported at once.

    ``NODE -- TEXT -- forward_compute_time=MS, backward_compute_time=MS, activation_size=BYTES, parameter_size=BYTES``, with
    ``[A; B]`` for the activations of a layer with several outputs (added up here) and an optional `` -- stage_id=K`` (not read);
    then ``\tNODE -- NODE`` for each edge. Times become seconds; bytes stay.

    Raises
    ------
    DataError
        With every defect.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as e:
        raise DataError(f"cannot be read: {e.strerror}", str(path)) from e
    except UnicodeDecodeError as e:
        raise DataError(f"is no text ({e})", str(path)) from e
    return from_pipedream(text, Path(path).stem, str(path))


def from_pipedream(text: str, name: str, where: str) -> PipedreamGraph:
    """The same of a text that was read already."""
    problems: list[str] = []
    layers: dict[str, PipedreamLayer] = {}
    edges: dict[tuple[str, str], int] = {}
    for k, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        parts = line.strip().split(" -- ")
        if line[0] in "\t ":
            if len(parts) != 2:
                problems.append(f"line {k}: an edge is 'NODE -- NODE'; this is {line.strip()[:80]!r}")
            elif (parts[0], parts[1]) in edges:
                problems.append(
                    f"line {k}: edge {parts[0]} -- {parts[1]} stands in line {edges[parts[0], parts[1]]} already"
                )
            else:
                edges[parts[0], parts[1]] = k
        elif layer := _layer(parts, k, problems):
            if layer.name in layers:
                problems.append(f"line {k}: node {layer.name!r} appears more than once")
            layers[layer.name] = layer
    problems += [
        f"line {k}: edge {a} -- {b}: there is no node {end!r}"
        for (a, b), k in edges.items()
        for end in dict.fromkeys((a, b))
        if end not in layers
    ]
    if not layers and not problems:
        problems.append("holds no nodes; a line is 'NODE -- TEXT -- forward_compute_time=…, …'")
    raise_all(problems, where)
    names = list(layers)
    at = {x: i for i, x in enumerate(names)}
    after: list[list[int]] = [[] for _ in names]
    for a, b in edges:
        after[at[a]].append(at[b])
    order = topological(after)
    if len(order) < len(names):
        cycle = [names[i] for i in find_cycle(after, set(range(len(names))) - set(order))]
        raise DataError(f"has a cycle: {' → '.join(cycle)}; a network must be acyclic", where)
    return PipedreamGraph(name, tuple(layers[names[i]] for i in order), tuple(edges))


def _layer(parts: list[str], k: int, problems: list[str]) -> PipedreamLayer | None:
    if len(parts) < 3:
        problems.append(f"line {k}: a node is 'NODE -- TEXT -- {FIELDS[0]}=…, …'; this is {' -- '.join(parts)[:80]!r}")
        return None
    fields = dict(re.findall(r"(\w+)=(\[[^\]]*\]|[^,\s]+)", parts[-1] if "=" in parts[-1] else ""))
    if "stage_id" in fields and len(parts) > 3:
        fields |= dict(re.findall(r"(\w+)=(\[[^\]]*\]|[^,\s]+)", parts[-2]))
        parts = parts[:-1]
    found: list[float] = []
    for field in FIELDS:
        if field not in fields:
            problems.append(f"line {k}: node {parts[0]!r} has no {field}")
            continue
        given = fields[field].strip("[]").split(";")
        try:
            value = sum(float(x) for x in given)
        except ValueError:
            problems.append(f"line {k}: node {parts[0]!r}: {field} is {fields[field]!r}; give a number")
            continue
        if bad := number_problem(f"line {k}: node {parts[0]!r}: {field}", value):
            problems.append(bad)
        found.append(value)
    if len(found) < len(FIELDS):
        return None
    return PipedreamLayer(parts[0], " -- ".join(parts[1:-1]), found[0] * MS, found[1] * MS, found[2], found[3])
