"""A plan: what to do, as plain data that can be printed, saved, sent and checked elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from splitplan.data.stored import Stored
from splitplan.errors import DataError, FingerprintError, did_you_mean, raise_all
from splitplan.models.graph import LayerGraph, number_problem

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Wire = Literal["fp32", "fp16", "int8"]
"""Precision in which floating-point tensors cross the link."""

ResultAt = Literal["device", "server", "anywhere"]
"""Where the model's result must end up."""


def wire_bytes(size_bytes: float, dtype: str, wire: Wire) -> float:
    """Bytes of a tensor on the wire: floating-point tensors wider than ``wire`` are narrowed, others cross as they are."""
    width = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}.get(dtype)
    target = {"fp32": 4, "fp16": 2, "int8": 1}[wire]
    return size_bytes if width is None or width <= target else size_bytes * target / width


# -- what every plan is checked for ----------------------------------------------------------------------


def check_texts(**values: object) -> list[str]:
    """Which of the values are no text."""
    return [f"{name} is {value!r}; give text" for name, value in values.items() if not isinstance(value, str)]


def check_numbers(clock_hz: object, predicted: object) -> list[str]:
    """What is wrong with a plan's clock and with what is predicted of it."""
    bad = None if clock_hz is None else number_problem("clock_hz", clock_hz, positive=True)
    problems = [bad] if bad else []
    if not isinstance(predicted, Mapping):
        return [*problems, f"predicted is {predicted!r}; give a mapping of names to numbers"]
    return problems + [bad for k, v in predicted.items() if (bad := number_problem(f"predicted[{k!r}]", v))]


def check_placed(graph: LayerGraph, fingerprint: str, placed: Collection[str], where: str) -> list[str]:
    """Which layers of the graph are not placed, and which placed ones it has not.

    Raises
    ------
    FingerprintError
        The plan was made for another model.
    """
    if fingerprint != graph.fingerprint:
        raise FingerprintError(
            f"{where} was made for fingerprint {fingerprint[:12] or '(none)'}, but the model {graph.name!r} has "
            f"{graph.fingerprint[:12] or '(none)'}: the structure, the weights, or which inputs are given by position and which by "
            "keyword differ. Solve again for this model"
        )
    problems = [f"layer {x.name!r} is not placed" for x in graph.layers if x.name not in placed]
    unknown = sorted(set(placed) - set(graph.index))
    return problems + [f"layer {name!r} is not in the graph{did_you_mean(name, graph.index)}" for name in unknown]


@dataclass(frozen=True)
class SplitPlan(Stored):
    """Which layers run on the device and which on the server.

    Parameters
    ----------
    model, fingerprint : str
        The graph's name and fingerprint; a plan runs on that model only.
    device_layers, server_layers : tuple of str
        Head and tail, in topological order.
    wire : {"fp32", "fp16", "int8"}
        Of all that crosses: what goes up, and what the server made of the result when it comes back.
    result : {"device", "server", "anywhere"}
        Where the result must end up.
    clock_hz : float or None
        The device's clock; None: its top clock, or not ours to choose.
    predicted : dict of str to float
        What the problem that made it says of it (``latency_s``, ``device_s``, ``up_s``, …).
    """

    model: str
    fingerprint: str
    device_layers: tuple[str, ...]
    server_layers: tuple[str, ...]
    wire: Wire = "fp32"
    result: ResultAt = "device"
    clock_hz: float | None = None
    predicted: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = check_texts(model=self.model, fingerprint=self.fingerprint)
        for side in ("device_layers", "server_layers"):
            names = getattr(self, side)
            if isinstance(names, str) or not isinstance(names, Iterable) or not all(isinstance(x, str) for x in names):
                problems.append(f"{side} is {names!r}; give a list of layer names")
            else:
                object.__setattr__(self, side, tuple(names))
        problems += check_numbers(self.clock_hz, self.predicted)
        raise_all(problems, f"plan for {self.model!r}")
        if self.wire not in get_args(Wire):
            problems.append(f"wire is {self.wire!r}; give one of {', '.join(get_args(Wire))}")
        if self.result not in get_args(ResultAt):
            problems.append(f"result is {self.result!r}; give one of {', '.join(get_args(ResultAt))}")
        both = set(self.device_layers) & set(self.server_layers)
        problems += [f"layer {name!r} is on both sides; put it on one" for name in sorted(both)]
        problems += [
            f"layer {name!r} is named more than once in {side}; name it once"
            for side in ("device_layers", "server_layers")
            for name, count in Counter(getattr(self, side)).items()
            if count > 1
        ]
        raise_all(problems, f"plan for {self.model!r}")

    @classmethod
    def for_cut(
        cls, graph: LayerGraph, server: set[str] | frozenset[str] | tuple[str, ...], **options: Any
    ) -> SplitPlan:
        """The plan that runs ``server`` on the server and everything else on the device."""
        _check_graph(graph)
        if isinstance(server, str):
            raise DataError(f"the server's layers are the text {server!r}; give a list of layer names", "plan")
        far = set(server)
        unknown = far - set(graph.index)
        raise_all(
            [f"layer {name!r} is not in the graph{did_you_mean(name, graph.index)}" for name in sorted(unknown)],
            f"plan for {graph.name!r}",
        )
        names = [layer.name for layer in graph.layers]
        return cls(
            graph.name,
            graph.fingerprint,
            tuple(n for n in names if n not in far),
            tuple(n for n in names if n in far),
            **options,
        )

    @classmethod
    def from_mask(
        cls, model: str, fingerprint: str, layers: tuple[str, ...], on_server: np.ndarray, **options: Any
    ) -> SplitPlan:
        """The plan of a placement, array of bool, shape (layers,); the layers in topological order."""
        near = tuple(name for name, far in zip(layers, on_server, strict=True) if not far)
        return cls(
            model, fingerprint, near, tuple(n for n, far in zip(layers, on_server, strict=True) if far), **options
        )

    def check(self, graph: LayerGraph) -> None:
        """Raise unless the plan is one for this graph: same model, every layer placed once, data crossing one way."""
        _check_graph(graph)
        where = f"plan for {self.model!r}"
        problems = check_placed(graph, self.fingerprint, {*self.device_layers, *self.server_layers}, where)
        if not problems and not graph.is_monotone(self.server_layers):
            problems.append("a layer on the server feeds one on the device; data may cross one way only")
        raise_all(problems, where)

    @property
    def offloads(self) -> bool:
        """Whether any layer runs on the server."""
        return bool(self.server_layers)

    def describe(self) -> str:
        """The cut in one line, for people."""
        if not self.server_layers:
            return f"all {len(self.device_layers)} layers on the device"
        if not self.device_layers:
            return f"all {len(self.server_layers)} layers on the server"
        return (
            f"{len(self.device_layers)} layers on the device, up to {self.device_layers[-1]!r}; "
            f"{len(self.server_layers)} on the server, from {self.server_layers[0]!r}"
        )

    @property
    def label(self) -> str:
        """The cut in a few words, for a figure's legend."""
        if not self.server_layers or not self.device_layers:
            return "device only" if not self.server_layers else "server only"
        count = len(self.device_layers) + len(self.server_layers)
        return f"{len(self.device_layers)} of {count}, to {self.device_layers[-1]}"

    def __str__(self) -> str:
        facts = [f"wire {self.wire}", f"result at {self.result}"]
        facts += [f"device clock {self.clock_hz / 1e6:g} MHz"] if self.clock_hz else []
        return f"{self.model}: {self.describe()} ({', '.join(facts)})"

    def to_frame(self) -> pd.DataFrame:
        """One row a layer, with its place."""
        import pandas as pd

        rows = [(name, "device") for name in self.device_layers] + [(name, "server") for name in self.server_layers]
        return pd.DataFrame(rows, columns=["layer", "place"])


def _check_graph(graph: object) -> None:
    if not isinstance(graph, LayerGraph):
        raise DataError(f"got a {type(graph).__name__} where a LayerGraph belongs; give traced.graph", "plan")
