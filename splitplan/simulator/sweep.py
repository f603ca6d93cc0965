"""One control at many weights V: the trade-off between what it costs and how long frames wait, with the certified optimum beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.data.scenario import Scenario
from splitplan.errors import DataError, raise_all
from splitplan.formulations.in_time import check_limits
from splitplan.formulations.slot import SlotControl
from splitplan.formulations.solution import Solution
from splitplan.formulations.stationary import RESOURCES
from splitplan.models.files import save_table
from splitplan.models.graph import number_problem
from splitplan.policies.bounds import Bounds
from splitplan.policies.result import FEW_LEFT, MANY_LEFT, Result, carried, undone_of
from splitplan.policies.slot import DecidesSlots, SlotPolicy
from splitplan.policies.told import Limit, limits_of, why_frames_refused
from splitplan.policies.widths import fitted
from splitplan.simulator.kept import Kept
from splitplan.simulator.simulate import policy_problems, simulate

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS = (
    "V", "seed", "power_w", "frames_hz", "admitted", "refused", "unanswered", "late_share", "mean_latency_s", "p50_latency_s", "p95_latency_s",
    "p99_latency_s", "own_latency_s", "penalty", "certificate", "device_s", "uplink_bits", "server_s", *(f"left_{name}" for name in RESOURCES),
    "slots",
)  # fmt: skip
"""Of a run: the weight and the seed; means over its slots; what was left at its end. ``late_share`` is of the frames that were later than the
deadline, waiting included, ``own_latency_s`` without waiting: NaN where there is none."""

KEPT = (*COLUMNS, "above_bound_w")
"""Of a run that is kept in a folder."""

MORE = ("above_bound_w", "carried", "held")
"""A curve's table has these too: power above the least for the same work; whether nearly all frames were answered, see
`splitplan.policies.result.carried`; whether all limits on means held."""

SHOWN = {
    "V": "V", "seed": "seed", "power_w": "power_w", "frames_hz": "frames_hz", "refused": "refused", "unanswered": "unanswered", "carried": "carried",
    "held": "held", "late_share": "late_%", "mean_latency_s": "mean_s", "p50_latency_s": "p50_s", "p95_latency_s": "p95_s", "p99_latency_s": "p99_s",
    "certificate": "certificate",
}  # fmt: skip
"""Columns that are printed, and what they are called there."""


@dataclass(frozen=True, eq=False)
class Curve:
    """The runs of a sweep.

    Parameters
    ----------
    table : DataFrame
        One row a run, see `COLUMNS` and `MORE`.
    bound : Solution
        Of the `StationaryBound` of the first policy's own control, over the scenario.
    name : str
        The policy's.
    case : str
        What was swept: model, places, link, channel, limits.
    notes : tuple of str
        At which V the load is not carried, or a limit on a mean does not hold, and why; nothing where all is well.
    limited : bool
        Whether there are limits on means.
    """

    table: pd.DataFrame
    bound: Solution
    name: str = "joint"
    case: str = ""
    notes: tuple[str, ...] = ()
    limited: bool = False

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.table

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as ``.parquet`` or ``.csv``, whole or not at all; another suffix is an error."""
        save_table(self.table, path)

    def plot(self) -> Figure:
        """Power against mean latency, and against V, with what no policy can be below: of each run that carries the load; others are hollow."""
        from splitplan.plots.slots import plot_curve

        table = self.table.assign(least_power_w=self.table["power_w"] - self.table["above_bound_w"])
        return plot_curve(table, title=f"{self.name}: {self.case}" if self.case else self.name)

    def __str__(self) -> str:
        absent = {"seed"} if self.table["seed"].nunique() == 1 else set()
        absent |= {"late_share"} if self.table["late_share"].isna().all() else set()
        absent |= set() if self.limited else {"held"}
        said = {True: "yes", False: "NO"}
        whole = self.table.astype({"refused": int, "unanswered": int, "seed": int}).assign(
            late_share=100 * self.table["late_share"]
        )
        shown = whole[[c for c in SHOWN if c not in absent]].rename(columns=SHOWN)
        shown = shown.replace({"carried": said, "held": said})
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
        Where each run's row is kept as soon as it is there; what is there already, of the same policy and scenario, is not run again.
    policy : callable
        Control → policy: one whose knobs are fixed, say. Made once for each V; its runs are held against the bound of its own control, as in
        `simulate`. With a ``folder``, one of a class of yours is known by its ``name``, which must tell its settings apart.
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
    values = [float(v) for v in values]
    made = {v: policy(replace(control, V=v)) for v in values}
    raise_all(sorted({p for who in made.values() for p in policy_problems(who)}), "sweep")
    # A bound knows nothing of V: one for each seed, solved when a run of it is there; the first says at once when no policy can carry the load.
    bounds, slots = Bounds(), scene.slotted(control.slot_s)
    for who in made.values():
        check_limits(who.control, slots.rate_bps)
    first = made[values[0]]
    _, bound = bounds.of(first.control, scene)
    runs = [(v, seed) for seed in (seeds if seeds is not None else [scene.seed]) for v in values]
    kept = Kept(folder, KEPT, scene, physical, control.deadline_s)
    rows: dict[tuple[float, int], dict[str, float]] = {}
    todo = []
    for run in runs:
        if (row := kept.read(made[run[0]], *run)) is not None:
            rows[run] = row
        else:
            todo.append(run)
    if progress is not None:
        progress(len(rows), len(runs))
    for run, row in _rows(made, scene, todo, physical, control.deadline_s, jobs, backend):
        v, seed = run
        problem, solution = bounds.of(made[v].control, replace(scene, seed=seed))
        left, admitted = [row[f"left_{name}"] for name in RESOURCES], row["admitted"] / row["slots"]
        energy_j = row["power_w"] * problem.control.slot_s
        row["certificate"] = problem.certificate(row["penalty"], left, solution, admitted, energy_j)
        row["above_bound_w"] = bounds.above_w(problem, solution, row["power_w"], left, admitted, row["certificate"])
        kept.write(made[v], v, seed, row)
        rows[run] = row
        if progress is not None:
            progress(len(rows), len(runs))
    import pandas as pd

    table = pd.DataFrame([rows[run] for run in runs], columns=list(KEPT))
    limits = []
    for v, seed in runs:
        there = made[v].control
        budget = there.power_budget_w is not None
        joule = float(bounds.of(there, replace(scene, seed=seed))[1].duals["power"]) if budget else 0.0
        limits.append(_limits(made[v], rows[v, seed], joule))
    table["carried"] = [
        carried(*undone_of(row["admitted"], row["refused"], row["unanswered"], made[row["V"]].control.admits))
        for row in (rows[run] for run in runs)
    ]
    table["held"] = [all(x.held for x in some) for some in limits]
    notes = (*_not_carried(table, made, scene), *_not_held(table, limits))
    return Curve(table, bound, first.name, case_of(control, scene), notes, any(limits))


def _limits(policy: DecidesSlots, row: dict[str, float], joule: float) -> tuple[Limit, ...]:
    """The limits on means of a run."""
    seconds = row["slots"] * policy.control.slot_s
    return limits_of(
        policy,
        power_w=row["power_w"],
        own_latency_s=row["own_latency_s"],
        admitted_hz=row["admitted"] / seconds,
        arriving_hz=(row["admitted"] + row["refused"]) / seconds,
        seconds=seconds,
        joule=joule,
    )


def _not_carried(table: pd.DataFrame, made: Mapping[float, DecidesSlots], scene: Scenario) -> list[str]:
    """At which V the load is not carried, and why."""
    bad = table[~table["carried"]]
    if bad.empty:
        return []
    policies = [made[v] for v in dict.fromkeys(bad["V"])]
    weights = ", ".join(f"{v:g}" for v in dict.fromkeys(bad["V"]))
    frames, undone, refused = (float(bad[name].sum()) for name in ("admitted", "unanswered", "refused"))
    told = f"V = {weights}: the load is not carried: of {frames + refused:.0f} frames of these runs {undone:.0f} were not answered by the end, {refused:.0f} refused"
    found = [f"{told}. Their power and latencies are of less work"]
    if (bad["unanswered"] > np.maximum(FEW_LEFT, MANY_LEFT * bad["admitted"])).any():
        found.append("frames that were not answered: the runs are too short for these V, or queues grow without end")
    forced = [who for who in policies if not who.control.admits]
    if refused and forced:
        whys = dict.fromkeys(why_frames_refused(who, scene.channel.mean_bps) for who in forced)
        found += [f"frames that were refused: {why}" for why in whys]
    return found


def _not_held(table: pd.DataFrame, limits: Sequence[tuple[Limit, ...]]) -> list[str]:
    """At which V a limit on a mean does not hold, one sentence a limit; what is said of the run that is furthest beyond it."""
    broken: dict[str, list[tuple[float, Limit]]] = {}
    for v, some in zip(table["V"], limits, strict=True):
        for limit in some:
            if not limit.held:
                broken.setdefault(limit.name, []).append((v, limit))
    found = []
    for pairs in broken.values():
        v, worst = max(pairs, key=lambda pair: abs(pair[1].mean - pair[1].limit))
        weights = ", ".join(f"{v:g}" for v in dict.fromkeys(v for v, _ in pairs))
        found.append(f"V = {weights}: {worst}" + (f" (of V = {v:g}, the furthest)" if len(pairs) > 1 else ""))
    return found


def _rows(
    made: Mapping[float, DecidesSlots],
    scene: Scenario,
    runs: Sequence[tuple[float, int]],
    physical: bool,
    deadline_s: float | None,
    jobs: int,
    backend: str | None,
) -> Any:
    """(run, row) of each run, as they are done."""
    if jobs == 1 and backend is None:
        for v, seed in runs:
            yield (v, seed), one(made[v], scene, v, seed, physical, deadline_s)
        return
    from joblib import Parallel, delayed, parallel_config

    tasks = (delayed(_tagged)(made[v], scene, v, seed, physical, deadline_s) for v, seed in runs)
    settings = {} if backend is None else {"backend": backend}
    with parallel_config(n_jobs=jobs, **settings):
        yield from Parallel(return_as="generator_unordered")(tasks)


def _tagged(
    policy: DecidesSlots, scene: Scenario, v: float, seed: int, physical: bool, deadline_s: float | None
) -> tuple[tuple[float, int], dict[str, float]]:
    return (v, seed), one(policy, scene, v, seed, physical, deadline_s)


def one(
    policy: DecidesSlots, scene: Scenario, v: float, seed: int, physical: bool, deadline_s: float | None
) -> dict[str, float]:
    """The row of one run, late by a given deadline; its certificate is for whoever has the bound."""
    result = simulate(policy, replace(scene, seed=seed), physical=physical, trace=False, bound=False)
    return row_of(result, v, seed, deadline_s)


def row_of(result: Result, v: float, seed: int, deadline_s: float | None = None) -> dict[str, float]:
    """A run's row, see `COLUMNS`, late by its control's deadline unless another is given; without its certificate."""
    n = result.slots
    late = result.late if deadline_s is None else result.later_than(deadline_s)
    found: dict[str, float] = {"V": v, "seed": seed, "power_w": result.power_w, "frames_hz": result.throughput_hz}
    found |= {"admitted": result.sums["admitted"], "refused": result.sums["refused"], "unanswered": result.unanswered}
    found |= {"late_share": np.nan if late is None else late, "mean_latency_s": result.mean_latency_s}
    found |= {f"p{q}_latency_s": result.latency(q / 100) for q in (50, 95, 99)}
    found |= {"own_latency_s": result.own_latency_s, "penalty": result.penalty}
    found |= {name: result.sums[name] / n for name in ("device_s", "uplink_bits", "server_s")}
    found |= {f"left_{name}": left for name, left in zip(RESOURCES, result.left, strict=True)}
    return found | {"slots": n}
