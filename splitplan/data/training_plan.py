"""A training plan: which workers train which layers, on how many cores, on which micro-batches. Plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, get_args

from splitplan.data.plan import check_numbers, check_texts
from splitplan.data.stored import Stored
from splitplan.errors import DataError, raise_all

Schedule = Literal["none", "gpipe", "1f1b"]
"""In which order a stage takes its micro-batches: ``gpipe`` all forward, then all backward; ``1f1b`` one backward after each forward
once the pipeline is full; ``none`` for a single stage, which takes each micro-batch forward and backward, one after the other."""


@dataclass(frozen=True)
class TrainingStage:
    """A run of layers and the workers that train it.

    Parameters
    ----------
    layers : tuple of str
        In execution order.
    replicas : int
        Workers that share each micro-batch, sample by sample, and add up their gradients.
    columns : tuple of str
        Linear layers whose output columns the replicas share instead: each holds a part of the weights, and sees every sample.
    """

    layers: tuple[str, ...]
    replicas: int = 1
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = _names("layers", self) + _names("columns", self, may_be_empty=True)
        if bad := _whole("replicas", self.replicas):
            problems.append(bad)
        if not problems:
            problems += [
                f"column-parallel layer {v!r} is none of its layers" for v in self.columns if v not in self.layers
            ]
            if self.columns and self.replicas == 1:
                problems.append("columns are shared by one replica; give two replicas or more, or no columns")
        raise_all(problems, "training stage")


@dataclass(frozen=True)
class TrainingPlan(Stored):
    """How a network is trained: stages in order, replicas, cores, micro-batches.

    Workers are numbered stage by stage, and within a stage replica by replica; each computes with ``threads`` cores of its own.

    Parameters
    ----------
    model, fingerprint : str
        Of the profile's model; a plan trains that model only.
    batch : int
        Samples of an iteration.
    stages : tuple of TrainingStage
    micro_batches : int
        Parts of the batch, one after the other; each has ``batch / micro_batches`` samples.
    schedule : {"none", "gpipe", "1f1b"}
    threads : int
        Cores of each worker.
    predicted : dict of str to float
        What the problem that made it says of it (``iteration_s``, ``latest_s``, ``compute_s``, …).
    """

    model: str
    fingerprint: str
    batch: int
    stages: tuple[TrainingStage, ...]
    micro_batches: int = 1
    schedule: Schedule = "none"
    threads: int = 1
    predicted: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = check_texts(model=self.model, fingerprint=self.fingerprint)
        problems += check_numbers(None, self.predicted)
        problems += [
            bad for name in ("batch", "micro_batches", "threads") if (bad := _whole(name, getattr(self, name)))
        ]
        if self.schedule not in get_args(Schedule):
            problems.append(f"schedule is {self.schedule!r}; give one of {', '.join(get_args(Schedule))}")
        if isinstance(self.stages, (str, Mapping)) or not isinstance(self.stages, Iterable):
            problems.append(f"stages is {self.stages!r}; give a list of stages")
        raise_all(problems, "training plan")
        stages = tuple(s if isinstance(s, TrainingStage) else _stage(s) for s in self.stages)
        object.__setattr__(self, "stages", stages)
        if not stages:
            problems.append("has no stages")
        named = Counter(v for s in stages for v in s.layers)
        problems += [f"layer {v!r} is in {k} stages" for v, k in named.items() if k > 1]
        if stages and (len(stages) == 1) != (self.schedule == "none"):
            problems.append(
                f"schedule {self.schedule!r} for {len(stages)} stage{'s' * (len(stages) > 1)}; "
                + ("give 'none'" if len(stages) == 1 else "give 'gpipe' or '1f1b'")
            )
        problems += [
            f"stage {k}: {self.batch} samples are not divisible by {self.micro_batches} micro-batches × {s.replicas} replicas"
            for k, s in enumerate(stages)
            if self.batch % (self.micro_batches * s.replicas)
        ]
        raise_all(problems, "training plan")

    @property
    def workers(self) -> int:
        """How many processes train."""
        return sum(s.replicas for s in self.stages)

    @property
    def cores(self) -> int:
        """How many cores they use."""
        return self.workers * self.threads

    @property
    def strategy(self) -> str:
        """What kind of plan it is, in a few words."""
        replicas = max(s.replicas for s in self.stages)
        names = []
        if len(self.stages) > 1:
            names.append("pipeline")
        if replicas > 1:
            names.append("hybrid" if any(s.columns for s in self.stages) else "data parallel")
        if not names:
            return "one core" if self.threads == 1 else "threads"
        return " and ".join(names)

    @property
    def cuts(self) -> tuple[int, ...]:
        """How many layers are before each cut."""
        ends = [0]
        for s in self.stages:
            ends.append(ends[-1] + len(s.layers))
        return tuple(ends[1:-1])

    def ends(self) -> list[tuple[int, int]]:
        """First and last position of each stage."""
        return list(pairwise((0, *self.cuts, sum(len(s.layers) for s in self.stages))))

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)} each"
        parts = []
        for s in self.stages:
            text = s.layers[0] if len(s.layers) == 1 else f"{s.layers[0]} … {s.layers[-1]} ({len(s.layers)})"
            if s.replicas > 1:
                text += f" × {s.replicas}"
            if s.columns:
                text += f", {len(s.columns)} by columns"
            parts.append(text)
        micro = f"{self.micro_batches} × {self.batch // self.micro_batches} samples"
        order = "" if self.schedule == "none" else f", {self.schedule}"
        return f"{self.strategy}: {' | '.join(parts)}; {self.workers} worker{'s' * (self.workers > 1)}, {threads}; {micro}{order}"


def _stage(value: object) -> TrainingStage:
    if not isinstance(value, Mapping):
        raise DataError(f"a stage is {value!r}; give a TrainingStage", "training plan")
    try:
        return TrainingStage(**value)
    except TypeError as e:
        raise DataError(f"a field is missing or unknown: {e}", "training stage") from e


def _whole(name: str, value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        return f"{name} is {value!r}; give a whole number from 1"
    return None


def _names(what: str, stage: Any, may_be_empty: bool = False) -> list[str]:
    value = getattr(stage, what)
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [f"{what} is {value!r}; give a list of layer names"]
    object.__setattr__(stage, what, tuple(value))
    problems = [f"{what} names {v!r}; give text" for v in getattr(stage, what) if not isinstance(v, str)]
    if not may_be_empty and not getattr(stage, what):
        problems.append(f"{what} is empty; give at least one layer")
    return problems
