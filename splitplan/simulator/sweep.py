"""One control at many weights V: the trade-off between what it costs and how long frames wait, with the certified optimum beside it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.data.scenario import Scenario
from splitplan.errors import DataError, raise_all
from splitplan.formulations.in_time import check_deadline
from splitplan.formulations.slot import SlotControl
from splitplan.formulations.solution import Solution
from splitplan.formulations.stationary import RESOURCES, StationaryBound
from splitplan.models.files import save_table, write_whole
from splitplan.models.graph import number_problem
from splitplan.policies.result import Result, carried, undone_of
from splitplan.policies.slot import DecidesSlots, SlotPolicy, follows_the_rule
from splitplan.policies.widths import fitted
from splitplan.simulator.numbers import rule_of
from splitplan.simulator.simulate import simulate

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS = (
    "V", "seed", "power_w", "frames_hz", "admitted", "refused", "unanswered", "mean_latency_s", "p50_latency_s", "p95_latency_s", "p99_latency_s",
    "penalty", "certificate", "device_s", "uplink_bits", "server_s", *(f"left_{name}" for name in RESOURCES), "slots",
)  # fmt: skip
"""Of a curve, a run: the weight and the seed; means over its slots; what was left at its end. A curve's table has one more, ``carried``:
whether nearly all its frames were answered, see `splitplan.policies.result.carried`."""

SHOWN = {
    "V": "V", "seed": "seed", "power_w": "power_w", "frames_hz": "frames_hz", "refused": "refused", "unanswered": "unanswered", "carried": "carried",
    "mean_latency_s": "mean_s", "p50_latency_s": "p50_s", "p95_latency_s": "p95_s", "p99_latency_s": "p99_s", "certificate": "certificate",
}  # fmt: skip
"""Columns that are printed, and what they are called there."""


@dataclass(frozen=True, eq=False)
class Curve:
    """The runs of a sweep.

    Parameters
    ----------
    table : DataFrame
        One row a run, see `COLUMNS`.
    bound : Solution
        Of the first scenario's `StationaryBound`.
    name : str
        The policy's.
    slot_s : float
    case : str
        What was swept: model, places, link, channel, limits.
    """

    table: pd.DataFrame
    bound: Solution
    name: str = "joint"
    slot_s: float = 1.0
    case: str = ""

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.table

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as ``.parquet`` or ``.csv``, whole or not at all; another suffix is an error."""
        save_table(self.table, path)

    @property
    def notes(self) -> list[str]:
        """At which V the load is not carried; nothing where it is at all."""
        bad = self.table[~self.table["carried"].astype(bool)]
        if bad.empty:
            return []
        weights = ", ".join(f"{v:g}" for v in dict.fromkeys(bad["V"]))
        frames, undone, refused = (float(bad[name].sum()) for name in ("admitted", "unanswered", "refused"))
        text = (
            f"V = {weights}: the load is not carried: of {frames + refused:.0f} frames of these runs {undone:.0f} were not answered by the end, "
            f"{refused:.0f} refused. Their power and latencies are of less work; the runs are too short for these V, or queues grow without end"
        )
        return [text]

    def plot(self) -> Figure:
        """Power against mean latency, and against V, with what no policy can be below: of each run that carries the load; others are hollow."""
        from splitplan.plots.slots import plot_curve

        table = self.table
        if self.bound.unit == "J a slot":
            table = table.assign(least_power_w=table["power_w"] - table["certificate"] / self.slot_s)
        return plot_curve(table, title=f"{self.name}: {self.case}" if self.case else self.name)

    def __str__(self) -> str:
        shown = self.table[list(SHOWN)].rename(columns=SHOWN).replace({"carried": {True: "yes", False: "NO"}})
        shown = shown.astype({"refused": int, "unanswered": int, "seed": int})
        if shown["seed"].nunique() == 1:
            shown = shown.drop(columns="seed")
        head = f"{self.name}: {self.case}" if self.case else self.name
        return "\n".join([head, fitted(shown), *(f"note: {text}" for text in self.notes), str(self.bound)])


def case_of(control: SlotControl, scene: Scenario) -> str:
    """What is swept, for people: model, places, link, channel, limits."""
    system = control.system
    limits = (
        "deadline_s", "power_cap_w", "power_budget_w", "latency_limit_s", "throughput_min_hz"
    )  # fmt: skip
    told = [
        f"{control.profile.graph.name}, {system.device.name} to {system.server.name} over {system.link.name}",
        *([scene.channel.name] if scene.channel.name else []),
        *(f"{name} {value:g}" for name in limits if (value := getattr(control, name)) is not None),
    ]
    return ", ".join(told)


def sweep(
    control: SlotControl,
    scene: Scenario,
    V: Sequence[float],
    *,
    seeds: Sequence[int] | None = None,
    physical: bool = True,
    jobs: int = 1,
    backend: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    policy: Callable[[SlotControl], DecidesSlots] = SlotPolicy,
    progress: Callable[[int, int], None] | None = None,
) -> Curve:
    """Run a control at many weights, and with many seeds of the arrivals.

    Parameters
    ----------
    control : SlotControl
    scene : Scenario
    V : sequence of float
    seeds : sequence of int, optional
        The scenario's own unless given.
    physical : bool
        As in `simulate`.
    jobs : int
        Runs at once, on this machine's cores or a backend's workers.
    backend : str, optional
        Of joblib: ``"dask"`` with a client, ``"ray"`` registered, or another; processes of this machine unless given.
    folder : path, optional
        Where each run's row is kept as soon as it is there; what is there already, of the same control and scenario, is not run again.
    policy : callable
        Control → policy: one whose knobs are fixed, say. With a ``folder``, one of a class of yours is known by its ``name``, which must tell
        its settings apart.
    progress : callable, optional
        Told runs done and all of them.

    Raises
    ------
    InfeasibleError
        No policy can carry the load; or nothing meets the deadline at any of the channel's rates.
    """
    raise_all(
        [
            f"{what} is a {type(given).__name__}; give a splitplan.{kind.__name__}{hint}"
            for what, given, kind, hint in (
                ("control", control, SlotControl, ": what decides is made of it, see policy"),
                ("scene", scene, Scenario, ""),
            )
            if not isinstance(given, kind)
        ],
        "sweep",
    )
    if not isinstance(V, Iterable) or not (seeds is None or isinstance(seeds, Iterable)):
        raise DataError(f"V is {V!r}, seeds are {seeds!r}; give sequences, as V=[0.01, 0.1], seeds=range(3)", "sweep")
    if not callable(policy):
        raise DataError(
            f"policy is a {type(policy).__name__}; give what makes one of a control, as policy=SlotPolicy or policy=lambda control: device_only(control)",
            "sweep",
        )
    values = list(V)
    problems = [p for i, v in enumerate(values) if (p := number_problem(f"V[{i}]", v))]
    if not values:
        problems.append("V is empty; give at least one weight")
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs == 0:
        problems.append(f"jobs is {jobs!r}; give a whole number from 1, or -1 for all cores")
    raise_all(problems, "sweep")
    first = StationaryBound(control, scene)
    check_deadline(control, first.rate_bps)
    bound = first.solve()  # says at once when no policy can carry the load
    # A bound knows nothing of V: one for each seed, solved when a run of it is there.
    bounds = {scene.seed: (first, bound)}
    runs = [(v, seed) for seed in (seeds if seeds is not None else [scene.seed]) for v in values]
    kept = Kept(folder, control, scene, physical, policy)
    rows: dict[tuple[float, int], dict[str, float]] = {}
    todo = []
    for run in runs:
        if (row := kept.read(*run)) is not None:
            rows[run] = row
        else:
            todo.append(run)
    if progress is not None:
        progress(len(rows), len(runs))
    for run, row in _rows(control, scene, todo, physical, policy, jobs, backend):
        v, seed = run
        if seed not in bounds:
            there = StationaryBound(control, replace(scene, seed=seed))
            bounds[seed] = there, there.solve()
        stationary, solution = bounds[seed]
        row["certificate"] = stationary.certificate(
            row["penalty"], [row[f"left_{name}"] for name in RESOURCES], solution, row["admitted"] / row["slots"]
        )
        kept.write(v, seed, row)
        rows[run] = row
        if progress is not None:
            progress(len(rows), len(runs))
    import pandas as pd

    table = pd.DataFrame([rows[run] for run in runs], columns=list(COLUMNS))
    table["carried"] = [
        carried(*undone_of(row["admitted"], row["refused"], row["unanswered"], control.admits))
        for row in (rows[run] for run in runs)
    ]
    return Curve(table, bound, policy(control).name, control.slot_s, case_of(control, scene))


def _rows(
    control: SlotControl,
    scene: Scenario,
    runs: Sequence[tuple[float, int]],
    physical: bool,
    policy: Callable[[SlotControl], DecidesSlots],
    jobs: int,
    backend: str | None,
) -> Any:
    """(run, row) of each run, as they are done."""
    if jobs == 1 and backend is None:
        for run in runs:
            yield run, one(control, scene, *run, physical, policy)
        return
    from joblib import Parallel, delayed, parallel_config

    tasks = (delayed(_tagged)(control, scene, *run, physical, policy) for run in runs)
    settings = {} if backend is None else {"backend": backend}
    with parallel_config(n_jobs=jobs, **settings):
        yield from Parallel(return_as="generator_unordered")(tasks)


def _tagged(
    control: SlotControl,
    scene: Scenario,
    v: float,
    seed: int,
    physical: bool,
    policy: Callable[[SlotControl], DecidesSlots],
) -> tuple[tuple[float, int], dict[str, float]]:
    return (v, seed), one(control, scene, v, seed, physical, policy)


def one(
    control: SlotControl,
    scene: Scenario,
    v: float,
    seed: int,
    physical: bool,
    policy: Callable[[SlotControl], DecidesSlots] = SlotPolicy,
) -> dict[str, float]:
    """The row of one run; its certificate is for whoever has the bound."""
    result = simulate(
        policy(replace(control, V=v)), replace(scene, seed=seed), physical=physical, trace=False, bound=False
    )
    return row_of(result, v, seed)


def row_of(result: Result, v: float, seed: int) -> dict[str, float]:
    """A run's row, see `COLUMNS`; without its certificate."""
    n = result.slots
    found: dict[str, float] = {"V": v, "seed": seed, "power_w": result.power_w, "frames_hz": result.throughput_hz}
    found |= {"admitted": result.sums["admitted"], "refused": result.sums["refused"], "unanswered": result.unanswered}
    found |= {"mean_latency_s": result.mean_latency_s}
    found |= {f"p{q}_latency_s": result.latency(q / 100) for q in (50, 95, 99)}
    found |= {"penalty": result.penalty}
    found |= {name: result.sums[name] / n for name in ("device_s", "uplink_bits", "server_s")}
    found |= {f"left_{name}": left for name, left in zip(RESOURCES, result.left, strict=True)}
    return found | {"slots": n}


class Kept:
    """Rows on disk, one file a run; named by what was run, so that another control or scenario never finds them."""

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        control: SlotControl,
        scene: Scenario,
        physical: bool,
        policy: Callable[[SlotControl], DecidesSlots],
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise DataError(f"cannot be made: {e}", str(folder)) from e
        made = policy(control)
        numbers = rule_of(made if isinstance(made, SlotPolicy) else SlotPolicy(control))
        told = {k: np.asarray(v).tolist() for k, v in numbers._asdict().items() if not k.startswith("v_")}
        if not follows_the_rule(made):
            told["policy"] = f"{type(made).__module__}.{type(made).__qualname__}: {made.name}"
        slots = scene.slotted(control.slot_s)
        told |= {
            "queues": 2,  # of the simulator; a run of other queues is another run
            "weights": control.weights,
            "physical": physical,
            "arrivals": repr(scene.arrivals),
            "seconds": scene.seconds(control.slot_s),
        }
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        digest.update(slots.rate_bps.tobytes())
        self.name = digest.hexdigest()[:16]

    def path(self, v: float, seed: int) -> Path:
        """The file of a run."""
        assert self.folder is not None
        return self.folder / f"{self.name}-V{v!r}-seed{seed}.json"

    def read(self, v: float, seed: int) -> dict[str, float] | None:
        """A run's row, if it is there and whole."""
        if self.folder is None or not (path := self.path(v, seed)).exists():
            return None
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise DataError(f"cannot be read: {e}; delete it, and it is run again", str(path)) from e
        if not isinstance(row, dict) or set(row) != set(COLUMNS):
            raise DataError("is not a run's row; delete it, and it is run again", str(path))
        return {k: x if x is not None else np.nan for k, x in row.items()}

    def write(self, v: float, seed: int, row: dict[str, float]) -> None:
        """Keep a run's row, whole or not at all."""
        if self.folder is not None:
            write_whole(self.path(v, seed), json.dumps({k: None if np.isnan(x) else x for k, x in row.items()}))
