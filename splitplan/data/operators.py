"""A graph of operators with their times on an accelerator and on a CPU, and where a plan puts each. Plain data.

Unlike a `LayerGraph` it need not run: operator graphs come from others' profilers (`data/import_*`), have parts that reach no
output, and may hold the backward pass.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from splitplan.data.plan import check_numbers, check_texts
from splitplan.data.stored import Stored
from splitplan.errors import DataError, FingerprintError, did_you_mean, listed, raise_all
from splitplan.models.graph import number_problem
from splitplan.models.order import find_cycle, topological

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Operator:
    """One indivisible piece of work.

    Parameters
    ----------
    name : str
        Unique in the graph.
    accelerator_s, cpu_s : float or None
        Seconds on an accelerator, on a CPU; None where it cannot run there.
    output_s : float
        Seconds to move its output between an accelerator and the host's memory. Paid once by each accelerator that the output
        leaves or enters, however many operators read it there.
    memory_bytes : float
        What it takes of an accelerator's memory.
    colour : str
        Operators of one colour run on one device; empty: free.
    backward : bool
        Whether it belongs to the backward pass.
    label : str
        What its source calls it, for people.
    """

    name: str
    accelerator_s: float | None
    cpu_s: float | None = None
    output_s: float = 0.0
    memory_bytes: float = 0.0
    colour: str = ""
    backward: bool = False
    label: str = ""


@dataclass(frozen=True, eq=False)
class OperatorGraph(Stored):
    """Operators and who reads whose output, checked when it is made.

    Parameters
    ----------
    name : str
    operators : sequence of Operator
    edges : sequence of (str, str)
        (producer, consumer), each once.
    accelerators, cpus : int or None
        How many its source says that there are; what `OperatorPlacement` takes unless told otherwise.
    accelerator_bytes : float or None
        Memory of one accelerator by its source; None: unlimited, or not said.

    Raises
    ------
    DataError
        With every defect at once: repeated or unknown names, cycles, backward operators that feed forward ones, operators that
        run nowhere, numbers that are negative or not finite.
    """

    name: str
    operators: tuple[Operator, ...]
    edges: tuple[tuple[str, str], ...]
    accelerators: int | None = None
    cpus: int | None = None
    accelerator_bytes: float | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "operators", tuple(self.operators))
        set_(self, "edges", tuple(tuple(e) for e in self.edges))
        where = f"operator graph {self.name!r}"
        raise_all(_operator_problems(self) + _edge_problems(self), where)
        raise_all(_flow_problems(self), where)

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each operator."""
        return {o.name: i for i, o in enumerate(self.operators)}

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """Positions of the operators that read each one's output."""
        found: list[list[int]] = [[] for _ in self.operators]
        for a, b in self.edges:
            found[self.index[a]].append(self.index[b])
        return tuple(map(tuple, found))

    @cached_property
    def fingerprint(self) -> str:
        """Of all its numbers: a plan belongs to one graph."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.operators)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OperatorGraph):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        there = sum(o.accelerator_s or 0.0 for o in self.operators)
        backward = sum(o.backward for o in self.operators)
        return (
            f"OperatorGraph({self.name!r}: {len(self)} operators"
            + (f", {backward} of them backward" if backward else "")
            + f", {len(self.edges)} edges, {there:.6g} s on one accelerator)"
        )

    __str__ = __repr__

    def to_frame(self) -> pd.DataFrame:
        """One row an operator."""
        import pandas as pd

        rows = [{f: getattr(o, f) for f in Operator.__slots__} for o in self.operators]
        return pd.DataFrame(rows, columns=list(Operator.__slots__))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "operator graph") -> Self:
        """The inverse of `to_dict`."""
        body = cls.unstamped(data, where)
        try:
            body["operators"] = tuple(Operator(**o) for o in body["operators"])
            body["edges"] = tuple((a, b) for a, b in body["edges"])
            return cls(**body)
        except (KeyError, TypeError, ValueError) as e:
            if isinstance(e, DataError):
                raise DataError(e.problems, where) from e
            raise DataError(f"a field is missing, unknown or of the wrong type: {e}", where) from e


def accelerator(number: int) -> str:
    """The name of an accelerator in plans, from 0."""
    return f"acc{number}"


def cpu(number: int) -> str:
    """The name of a CPU in plans, from 0."""
    return f"cpu{number}"


@dataclass(frozen=True)
class OperatorPlan(Stored):
    """Where each operator runs.

    Parameters
    ----------
    model, fingerprint : str
        The graph's; a plan belongs to one graph.
    devices : tuple of str
        ``acc0, acc1, …, cpu0, …``; in a contiguous plan in the order in which a frame visits them.
    placement : dict of str to str
        Operator → device.
    contiguous : bool
        Whether forward data flow along ``devices`` only.
    predicted : dict of str to float
        What the problem that made it says of it (``acc0_s``, …).
    """

    model: str
    fingerprint: str
    devices: tuple[str, ...]
    placement: dict[str, str]
    contiguous: bool = False
    predicted: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = check_texts(model=self.model, fingerprint=self.fingerprint)
        if isinstance(self.devices, str) or not isinstance(self.devices, Iterable):
            problems.append(f"devices is {self.devices!r}; give a list of names")
        if not isinstance(self.placement, Mapping):
            problems.append(f"placement is {self.placement!r}; give a mapping of operators to devices")
        problems += check_numbers(None, self.predicted)
        if not isinstance(self.contiguous, bool):
            problems.append(f"contiguous is {self.contiguous!r}; give True or False")
        raise_all(problems, f"plan for {self.model!r}")
        object.__setattr__(self, "devices", tuple(self.devices))
        object.__setattr__(self, "placement", dict(self.placement))
        problems += [
            f"operator {v!r} is on {d!r}, which is none of the devices ({', '.join(self.devices)}){did_you_mean(d, self.devices)}"
            for v, d in self.placement.items()
            if d not in self.devices
        ]
        problems += [f"devices names {d!r} {n} times" for d, n in Counter(self.devices).items() if n > 1]
        raise_all(problems, f"plan for {self.model!r}")

    def check(self, graph: OperatorGraph) -> None:
        """Raise unless it places every operator of this graph and no other.

        Raises
        ------
        FingerprintError
            It was made for another graph.
        DataError
            Operators are missing, or unknown.
        """
        where = f"plan for {self.model!r}"
        if self.fingerprint != graph.fingerprint:
            raise FingerprintError(
                f"{where} was made for fingerprint {self.fingerprint[:12]}, but graph {graph.name!r} has {graph.fingerprint[:12]}: "
                "operators, edges or numbers differ. Solve again for this graph"
            )
        missing = [o.name for o in graph.operators if o.name not in self.placement]
        unknown = sorted(set(self.placement) - set(graph.index))
        problems = [f"operators are not placed: {listed(missing)}"] * bool(missing)
        problems += [f"operator {name!r} is not in the graph{did_you_mean(name, graph.index)}" for name in unknown]
        raise_all(problems, where)

    def operators_on(self, device: str) -> tuple[str, ...]:
        """The operators of a device, in the graph's order."""
        return tuple(v for v, d in self.placement.items() if d == device)

    def describe(self) -> str:
        """The placement in one line, for people."""
        counts = Counter(self.placement.values())
        return ", ".join(f"{d} {counts[d]}" for d in self.devices if counts[d])

    def __str__(self) -> str:
        return f"{self.model}: operators on {self.describe()}"

    def to_frame(self) -> pd.DataFrame:
        """One row an operator, with its device."""
        import pandas as pd

        return pd.DataFrame(list(self.placement.items()), columns=["operator", "device"])


@dataclass(frozen=True)
class OperatorSchedule(Stored):
    """Where and when each operator of one sample runs.

    Parameters
    ----------
    model, fingerprint : str
        The graph's; a schedule belongs to one graph.
    devices : tuple of str
        ``acc0, acc1, …, cpu0, …``, or the places of a system.
    placement : dict of str to str
        Operator → device.
    begin_s : dict of str to float
        Operator → seconds at which it begins.
    predicted : dict of str to float
        What the problem that made it says of it (``latency_s``).
    """

    model: str
    fingerprint: str
    devices: tuple[str, ...]
    placement: dict[str, str]
    begin_s: dict[str, float]
    predicted: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plan = self.as_plan()
        object.__setattr__(self, "devices", plan.devices)
        object.__setattr__(self, "placement", plan.placement)
        where = f"schedule for {self.model!r}"
        if not isinstance(self.begin_s, Mapping):
            raise DataError(f"begin_s is {self.begin_s!r}; give a mapping of operators to seconds", where)
        object.__setattr__(self, "begin_s", dict(self.begin_s))
        problems = [bad for v, s in self.begin_s.items() if (bad := number_problem(f"begin_s[{v!r}]", s))]
        differ = set(self.begin_s) ^ set(self.placement)
        problems += [f"operators have a device or a begin, not both: {listed(sorted(differ))}"] * bool(differ)
        raise_all(problems, where)

    def as_plan(self) -> OperatorPlan:
        """The placement alone."""
        return OperatorPlan(self.model, self.fingerprint, self.devices, self.placement, False, self.predicted)

    def check(self, graph: OperatorGraph) -> None:
        """Raise unless it places every operator of this graph and no other; see `OperatorPlan.check`."""
        self.as_plan().check(graph)

    def operators_on(self, device: str) -> tuple[str, ...]:
        """The operators of a device, in the graph's order."""
        return tuple(v for v, d in self.placement.items() if d == device)

    def __str__(self) -> str:
        return str(self.as_plan())

    def to_frame(self) -> pd.DataFrame:
        """One row an operator, in the order in which they begin."""
        import pandas as pd

        rows = [(v, self.placement[v], s) for v, s in sorted(self.begin_s.items(), key=lambda item: item[1])]
        return pd.DataFrame(rows, columns=["operator", "device", "begin_s"])


# -- validation ------------------------------------------------------------------------------------------


def _operator_problems(graph: OperatorGraph) -> list[str]:
    problems = [] if graph.operators else ["has no operators; give at least one"]
    if wrong := [o for o in graph.operators if not isinstance(o, Operator)]:
        return [f"{wrong[0]!r} is no splitplan.Operator"]
    repeated = Counter(o.name for o in graph.operators)
    problems += [f"operator {name!r} appears {n} times; names must be unique" for name, n in repeated.items() if n > 1]
    for o in graph.operators:
        for what in ("accelerator_s", "cpu_s", "output_s", "memory_bytes"):
            value = getattr(o, what)
            if value is None and what in ("accelerator_s", "cpu_s"):
                continue
            if bad := number_problem(f"operator {o.name!r}: {what}", value):
                problems.append(bad)
        if o.accelerator_s is None and o.cpu_s is None:
            problems.append(f"operator {o.name!r} runs neither on an accelerator nor on a CPU; give it a time on one")
        problems += [f"operator {o.name!r}: {p}" for p in check_texts(colour=o.colour, label=o.label)]
        if not isinstance(o.backward, bool):
            problems.append(f"operator {o.name!r}: backward is {o.backward!r}; give True or False")
    for what in ("accelerators", "cpus"):
        count = getattr(graph, what)
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
            problems.append(f"{what} is {count!r}; give a whole number from 0")
    if graph.accelerator_bytes is not None and (bad := number_problem("accelerator_bytes", graph.accelerator_bytes)):
        problems.append(bad)
    return problems


def _edge_problems(graph: OperatorGraph) -> list[str]:
    known = {o.name for o in graph.operators if isinstance(o, Operator)}
    if wrong := [e for e in graph.edges if len(e) != 2]:
        return [f"edge {wrong[0]!r} is no pair of names"]
    problems = [
        f"edge {a!r} → {b!r}: there is no operator {end!r}{did_you_mean(end, known) if len(known) < 5000 else ''}"
        for a, b in graph.edges
        for end in dict.fromkeys((a, b))
        if end not in known
    ]
    problems += [f"edge {a!r} → {b!r} is listed {n} times" for (a, b), n in Counter(graph.edges).items() if n > 1]
    return problems


def _flow_problems(graph: OperatorGraph) -> list[str]:
    back = [o.backward for o in graph.operators]
    problems = [
        f"edge {graph.operators[a].name!r} → {graph.operators[b].name!r}: a backward operator feeds a forward one; mark both right"
        for a, readers in enumerate(graph.consumers)
        for b in readers
        if back[a] and not back[b]
    ]
    order = topological(graph.consumers)
    if len(order) < len(graph):
        cycle = find_cycle(graph.consumers, set(range(len(graph))) - set(order))
        names = [graph.operators[i].name for i in cycle]
        shown = names if len(names) <= 12 else [*names[:6], "…", *names[-5:]]
        problems.append(f"has a cycle: {' → '.join(shown)}; operators must be acyclic")
    return problems
