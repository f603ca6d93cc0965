"""A plan for a chain of places: where each layer runs and, where there is a choice, which way each tensor takes. Plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

from splitplan.data.plan import Wire, check_numbers, check_placed, check_texts
from splitplan.data.stored import Stored
from splitplan.errors import did_you_mean, raise_all
from splitplan.models.graph import INPUT, LayerGraph, Tensor

if TYPE_CHECKING:
    import pandas as pd

ANYWHERE = "anywhere"
"""A result's place when any will do; no place of a path may have this name."""

Hop = tuple[str, str]
"""A tensor's way over one link: the place that it leaves, the place that it reaches."""


@dataclass(frozen=True)
class RelayPlan(Stored):
    """Which layers run at which place of a path along which data moves forward.

    Parameters
    ----------
    model, fingerprint : str
        The graph's name and fingerprint; a plan runs on that model only.
    path : tuple of str
        The places, from where the input is.
    placement : mapping of str to str
        Layer → place, in topological order.
    wire : {"fp32", "fp16", "int8"}
    result : str
        Where the result must end up: a place of the path, or ``"anywhere"``.
    clock_hz : float or None
        The clock of the first place's device; None: its top clock, or not ours to choose.
    routes : mapping of str to tuple of (str, str), or None
        Tensor → its hops, forward ones and those of a result on its way back; tensors that stay where they are made are left
        out. None: every tensor goes from neighbour to neighbour.
    predicted : dict of str to float
        What the problem that made it says of it (``latency_s``, ``at_edge_s``, ``device_to_edge_s``, …).
    """

    model: str
    fingerprint: str
    path: tuple[str, ...]
    placement: dict[str, str]
    wire: Wire = "fp32"
    result: str = ANYWHERE
    clock_hz: float | None = None
    routes: dict[str, tuple[Hop, ...]] | None = None
    predicted: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = check_texts(model=self.model, fingerprint=self.fingerprint)
        if isinstance(self.path, str) or not isinstance(self.path, Iterable):
            problems.append(f"path is {self.path!r}; give a list of places")
        if not isinstance(self.placement, Mapping):
            problems.append(f"placement is {self.placement!r}; give a mapping of layers to places")
        problems += check_numbers(self.clock_hz, self.predicted)
        if self.wire not in get_args(Wire):
            problems.append(f"wire is {self.wire!r}; give one of {', '.join(get_args(Wire))}")
        raise_all(problems, self._where)
        set_ = object.__setattr__
        set_(self, "path", tuple(self.path))
        set_(self, "placement", dict(self.placement))
        raise_all(self._place_problems(), self._where)
        if self.routes is not None:
            raise_all(self._route_problems(), self._where)
            set_(self, "routes", {t: tuple((a, b) for a, b in hops) for t, hops in self.routes.items()})

    @property
    def _where(self) -> str:
        return f"plan for {self.model!r}"

    def _place_problems(self) -> list[str]:
        problems = [f"path: {p!r} is no text; give places' names" for p in self.path if not isinstance(p, str)]
        if problems:
            return problems
        if len(set(self.path)) < max(2, len(self.path)):
            problems.append(f"path is {', '.join(self.path)}; give at least two places, each once")
        known = ", ".join(self.path)
        problems += [
            f"layer {v!r} is at {p!r}, which is not on the path ({known}){did_you_mean(p, self.path)}"
            for v, p in self.placement.items()
            if p not in self.path
        ]
        if self.result not in (*self.path, ANYWHERE):
            problems.append(f"result is {self.result!r}; give one of {known}, {ANYWHERE}")
        return problems

    def _route_problems(self) -> list[str]:
        if not isinstance(self.routes, Mapping):
            return [f"routes is {self.routes!r}; give a mapping of tensors to hops, or None"]
        problems = []
        for tensor, given in self.routes.items():
            hops = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
            for hop in hops:
                places = tuple(hop) if isinstance(hop, Iterable) and not isinstance(hop, str) else ()
                if len(places) != 2 or not set(places) <= set(self.path) or places[0] == places[1]:
                    problems.append(f"routes[{tensor!r}]: {hop!r} is no hop; give two different places of the path")
            problems += [
                f"routes[{tensor!r}]: {hop!r} is named more than once; a tensor crosses a link once"
                for hop, count in Counter(map(repr, hops)).items()
                if count > 1
            ]
        return problems

    def check(self, graph: LayerGraph) -> None:
        """Raise unless the plan is one for this graph: same model, every layer placed, data going forward and arriving.

        Raises
        ------
        FingerprintError
            It was made for another model.
        DataError
            With everything else.
        """
        problems = check_placed(graph, self.fingerprint, self.placement, self._where)
        if not problems:
            at = self.places
            problems += [
                f"{v!r} at {self.placement[v]} feeds {w!r} at {self.placement[w]}: data may move forward only"
                for v, w in ((graph.layers[i].name, graph.layers[k].name) for i, k in graph.edges)
                if at[v] > at[w]
            ]
        known = {t.name for t in graph.tensors}
        problems += [
            f"routes: tensor {name!r} is not in the graph{did_you_mean(name, known)}"
            for name in self.routes or ()
            if name not in known
        ]
        if not problems and self.routes is not None:
            problems = [problem for t in graph.tensors for problem in self._lost(t)]
        raise_all(problems, self._where)

    def _lost(self, tensor: Tensor) -> list[str]:
        """Places that must have a tensor and that its hops do not bring it to; hops that leave from where it never is."""
        at = {p: k for k, p in enumerate(self.path)}
        born = self.path[0] if tensor.producer == INPUT else self.placement[tensor.producer]
        hops = [(at[a], at[b]) for a, b in (self.routes or {}).get(tensor.name, ())]
        ahead, stray = {at[born]}, list[tuple[int, int]]()
        for i, j in sorted(h for h in hops if h[0] < h[1]):
            stray += [] if i in ahead else [(i, j)]
            ahead.add(j)
        ends = set(ahead)
        for i, j in sorted((h for h in hops if h[0] > h[1]), reverse=True):
            stray += [] if i in ends and tensor.is_output else [(i, j)]
            ends.add(j)
        where = f"tensor {tensor.name!r}"
        problems = [f"{where} leaves {self.path[i]} for {self.path[j]}, but never comes there" for i, j in stray]
        readers = sorted({self.placement[c] for c in tensor.consumers}, key=at.__getitem__)
        problems += [f"{where} is read at {p} and not brought there" for p in readers if at[p] not in ahead]
        if tensor.is_output and self.result != ANYWHERE and at[self.result] not in ends:
            problems.append(f"{where} is a result for {self.result} and not brought there")
        return problems

    @cached_property
    def places(self) -> dict[str, int]:
        """Layer → its place's position on the path."""
        at = {p: k for k, p in enumerate(self.path)}
        return {v: at[p] for v, p in self.placement.items()}

    def layers_at(self, place: str) -> tuple[str, ...]:
        """The layers that run at a place, in topological order."""
        return tuple(v for v, p in self.placement.items() if p == place)

    def describe(self) -> str:
        """The placement in one line, for people."""
        counts = Counter(self.placement.values())
        used = [p for p in self.path if counts[p]]
        if len(used) == 1:
            return f"all {len(self.placement)} layers at {used[0]}"
        parts = [f"{counts[p]} layers at {p} from {self.layers_at(p)[0]!r}" for p in used]
        return "; ".join(parts)

    @property
    def label(self) -> str:
        """The placement in a few words, for a figure's legend."""
        counts = Counter(self.placement.values())
        used = [p for p in self.path if counts[p]]
        return f"{used[0]} only" if len(used) == 1 else ", ".join(f"{p} {counts[p]}" for p in used)

    def __str__(self) -> str:
        facts = [" → ".join(self.path), f"wire {self.wire}", f"result at {self.result}"]
        facts += [f"{self.path[0]}'s clock {self.clock_hz / 1e6:g} MHz"] if self.clock_hz else []
        at = {p: k for k, p in enumerate(self.path)}
        over = sorted({h for hops in (self.routes or {}).values() for h in hops if abs(at[h[0]] - at[h[1]]) > 1})
        facts += [f"direct {', '.join(f'{a} → {b}' for a, b in over)}"] if over else []
        return f"{self.model}: {self.describe()} ({', '.join(facts)})"

    def to_frame(self) -> pd.DataFrame:
        """One row a layer, with its place."""
        import pandas as pd

        return pd.DataFrame(list(self.placement.items()), columns=["layer", "place"])

    @classmethod
    def for_labels(cls, graph: LayerGraph, path: tuple[str, ...], labels: Iterable[int], **options: Any) -> RelayPlan:
        """The plan that runs layer v of the graph at ``path[labels[v]]``."""
        names = (layer.name for layer in graph.layers)
        placement = {name: path[int(k)] for name, k in zip(names, labels, strict=True)}
        return cls(graph.name, graph.fingerprint, path, placement, **options)
