"""A pipeline's plan: its stages in order, who runs which layers and which rows. Plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from splitplan.data.plan import Wire, check_numbers, check_placed, check_texts
from splitplan.data.stored import Stored
from splitplan.errors import DataError, raise_all
from splitplan.models.graph import LayerGraph

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RowBlock:
    """A run of layers that several places compute by rows, without exchanging anything inside.

    Parameters
    ----------
    layers : tuple of str
        In execution order.
    rows : tuple of int
        How many output rows of the block's last layer each place of the stage makes, in the stage's order of places. All on the
        first place, ``(rows, 0, …)``: the others wait.
    """

    layers: tuple[str, ...]
    rows: tuple[int, ...]

    def __post_init__(self) -> None:
        problems = _names("layers", self, "layer names")
        if isinstance(self.rows, (str, bytes)) or not isinstance(self.rows, Iterable):
            problems.append(f"rows is {self.rows!r}; give a whole number for each place")
        else:
            object.__setattr__(self, "rows", tuple(self.rows))
            problems += [
                f"rows has {r!r}; give whole numbers from 0"
                for r in self.rows
                if isinstance(r, bool) or not isinstance(r, int) or r < 0
            ]
            if not problems and not any(self.rows):
                problems.append("rows are all 0; some place must make the block's output")
        raise_all(problems, "block of rows")


@dataclass(frozen=True)
class Stage:
    """A run of layers and who computes it.

    Parameters
    ----------
    layers : tuple of str
        In execution order.
    places : tuple of str
        One, or several that share rows; the first one gathers and scatters.
    blocks : tuple of RowBlock
        For several places: the stage's layers, run after run; between two blocks the rows are gathered and scattered anew. Empty
        for one place.
    """

    layers: tuple[str, ...]
    places: tuple[str, ...]
    blocks: tuple[RowBlock, ...] = ()

    def __post_init__(self) -> None:
        problems = _names("layers", self, "layer names") + _names("places", self, "place names")
        if isinstance(self.blocks, (str, Mapping)) or not isinstance(self.blocks, Iterable):
            problems.append(f"blocks is {self.blocks!r}; give a list of blocks of rows")
        raise_all(problems, "stage")
        made = tuple(_made(RowBlock, b, "block of rows") for b in self.blocks)
        object.__setattr__(self, "blocks", made)
        problems = [f"place {p!r} is named {k} times" for p, k in Counter(self.places).items() if k > 1]
        problems += [f"layer {v!r} is named {k} times" for v, k in Counter(self.layers).items() if k > 1]
        if len(self.places) == 1 and made:
            problems.append(f"{self.places[0]!r} is alone and has blocks of rows; leave them out")
        if len(self.places) > 1:
            if tuple(v for b in made for v in b.layers) != self.layers:
                problems.append("its blocks of rows do not make up its layers, run after run")
            problems += [
                f"a block has rows for {len(b.rows)} places, the stage has {len(self.places)}"
                for b in made
                if len(b.rows) != len(self.places)
            ]
        raise_all(problems, f"stage at {', '.join(map(str, self.places))}")

    @property
    def place(self) -> str:
        """The place that receives the stage's input and sends its output."""
        return self.places[0]


@dataclass(frozen=True)
class PipelinePlan(Stored):
    """Which place computes which run of layers, in the order in which a frame passes them.

    Places that no stage names are not used. What lives across a cut goes from stage to stage, also what only a later one reads.

    Parameters
    ----------
    model, fingerprint : str
        The graph's name and fingerprint; a plan runs on that model only.
    stages : tuple of Stage
        Together all layers in execution order.
    wire : {"fp32", "fp16", "int8"}
        Precision in which floating-point tensors cross.
    overlap : bool
        Whether a place computes a frame while it receives the next one and sends the last one.
    source, sink : str or None
        Where the inputs are and where the results must go; None: at the first stage, wherever they are made.
    max_stages : int or None
        Most stages that it might have when it was made; None: any number. Another plan in its place keeps to it.
    max_group : int
        Most places that might share rows in a stage when it was made; 1: none.
    predicted : dict of str to float
        What the problem that made it says of it (``period_s``, ``throughput_hz``, ``latency_s``, ``at_P_s``, ``P_to_Q_s``, …).
    """

    model: str
    fingerprint: str
    stages: tuple[Stage, ...]
    wire: Wire = "fp32"
    overlap: bool = True
    source: str | None = None
    sink: str | None = None
    max_stages: int | None = None
    max_group: int = 1
    predicted: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = check_texts(model=self.model, fingerprint=self.fingerprint)
        if isinstance(self.stages, (str, Mapping)) or not isinstance(self.stages, Iterable):
            problems.append(f"stages is {self.stages!r}; give a list of stages")
        problems += check_numbers(None, self.predicted)
        if self.wire not in get_args(Wire):
            problems.append(f"wire is {self.wire!r}; give one of {', '.join(get_args(Wire))}")
        if not isinstance(self.overlap, bool):
            problems.append(f"overlap is {self.overlap!r}; give True or False")
        problems += [
            f"{name} is {value!r}; give a place's name or None"
            for name in ("source", "sink")
            if not isinstance(value := getattr(self, name), str | None)
        ]
        problems += [
            f"{name} is {value!r}; give a whole number from 1{also}"
            for name, also in (("max_stages", ", or None"), ("max_group", ""))
            if (value := getattr(self, name)) is not None or not also
            if isinstance(value, bool) or not isinstance(value, int) or value < 1
        ]
        raise_all(problems, self._where)
        object.__setattr__(self, "stages", tuple(_made(Stage, s, "stage") for s in self.stages))
        problems += ["has no stages; give at least one"] * (not self.stages)
        for what in ("layers", "places"):
            count = Counter(x for s in self.stages for x in getattr(s, what))
            problems += [f"{what[:-1]} {x!r} is in more than one stage" for x, k in count.items() if k > 1]
        raise_all(problems, self._where)

    @property
    def _where(self) -> str:
        return f"pipeline plan for {self.model!r}"

    def check(self, graph: LayerGraph) -> None:
        """Raise unless the plan is one for this graph: same model, all layers, the stages in execution order.

        Raises
        ------
        FingerprintError
            It was made for another model.
        DataError
            With everything else.
        """
        placed = self.placement
        problems = check_placed(graph, self.fingerprint, placed, self._where)
        if not problems and list(placed) != [layer.name for layer in graph.layers]:
            at = graph.index
            v, w = next((a, b) for a, b in zip(placed, list(placed)[1:], strict=False) if at[b] != at[a] + 1)
            problems.append(
                f"{w!r} comes after {v!r}, which is not the execution order; a stage is a run of layers in that order"
            )
        raise_all(problems, self._where)

    @property
    def placement(self) -> dict[str, str]:
        """Layer → the place of its stage (the first of several), in the order of the stages."""
        return {v: s.place for s in self.stages for v in s.layers}

    @property
    def places(self) -> tuple[str, ...]:
        """The places that are used, in the order of the stages."""
        return tuple(p for s in self.stages for p in s.places)

    def describe(self) -> str:
        """The stages in one line, for people."""
        parts = []
        for s in self.stages:
            run = repr(s.layers[0]) if len(s.layers) == 1 else f"{s.layers[0]!r} to {s.layers[-1]!r}"
            parts.append(f"{' + '.join(s.places)}: {len(s.layers)} layers, {run}")
        return " → ".join(parts)

    @property
    def label(self) -> str:
        """The stages in a few words, for a figure's legend."""
        return ", ".join(f"{'+'.join(s.places)} {len(s.layers)}" for s in self.stages)

    def __str__(self) -> str:
        facts = [f"wire {self.wire}", "communication overlapped" if self.overlap else "communication added"]
        facts += [f"{name} {value}" for name in ("source", "sink") if (value := getattr(self, name)) is not None]
        return f"{self.model}: {self.describe()} ({', '.join(facts)})"

    def to_frame(self) -> pd.DataFrame:
        """One row a stage: its places, how many layers, the first and the last of them."""
        import pandas as pd

        rows = [
            (k, " + ".join(s.places), len(s.layers), s.layers[0], s.layers[-1], len(s.blocks))
            for k, s in enumerate(self.stages)
        ]
        return pd.DataFrame(rows, columns=["stage", "places", "layers", "first", "last", "row_blocks"])


def _names(what: str, value: Any, kind: str) -> list[str]:
    """Turn a field into a tuple of names; what is wrong with it."""
    given = getattr(value, what)
    if isinstance(given, str) or not isinstance(given, Iterable) or not all(isinstance(x, str) for x in given):
        return [f"{what} is {given!r}; give {kind}"]
    object.__setattr__(value, what, tuple(given))
    return [] if getattr(value, what) else [f"has no {what}"]


def _made(cls: type, value: Any, what: str) -> Any:
    """A value of a class, made from a mapping of its fields when it comes from a file."""
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise DataError(f"is {value!r}; give a splitplan.{cls.__name__}", what)
    try:
        return cls(**value)
    except TypeError as e:
        raise DataError(f"a field is missing, unknown or of the wrong type: {e}", what) from e
