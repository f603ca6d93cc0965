"""What a training plan is expected to take: by parts, at the latest, and beside the best plans of the other strategies. Tables for people."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from splitplan.data.training_plan import TrainingPlan
from splitplan.formulations.training_notes import named, near, notes
from splitplan.formulations.training_schedule import Event, events

if TYPE_CHECKING:
    from splitplan.formulations.solution import Solution
    from splitplan.formulations.training import HybridTraining

PARTS = ("compute_s", "fill_s", "transfer_s", "sync_s", "update_s", "overhead_s")
MANY = 10
"""From so many times as long a strategy's time is said as a multiple, not in per cent."""
WHY = {
    "compute_s": "computes",
    "fill_s": "waits for other stages",
    "transfer_s": "transfers",
    "sync_s": "adds gradients up",
    "update_s": "updates weights",
    "overhead_s": "is busy beside the layers",
}


@dataclass(frozen=True)
class TrainingEstimate:
    """Expected and latest iteration time of a plan, and of the best of every other strategy.

    Parameters
    ----------
    plan : TrainingPlan
    expected_s : float
    latest_s : float or None
        None where the profile does not know how much iterations vary.
    quantile : float
        Share of iterations that the latest time should hold.
    strategies : DataFrame
        A row a strategy, the plan's first: ``strategy, iteration_s, latest_s``, the parts (`PARTS`), ``workers, threads, stages,
        micro_batches, schedule, why``.
    curve : DataFrame or None
        The best plan for every number of stages: ``stages, iteration_s, plan``; None when the solver made none.
    notes : tuple of str
        What one must know of the plan beside its seconds: what it changes in the training, what was not measured.
    near : tuple of TrainingPlan
        The plan, and those of the other strategies that the profile cannot tell from it: for `splitplan.compare_training`.
    """

    plan: TrainingPlan
    expected_s: float
    latest_s: float | None
    quantile: float
    strategies: pd.DataFrame
    curve: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()
    near: tuple[TrainingPlan, ...] = ()

    @property
    def share(self) -> str:
        """Of iterations that it is to hold for, in per cent."""
        return f"{100 * self.quantile:.6g}%"

    @property
    def latest(self) -> str:
        """The latest time in words."""
        if self.latest_s is not None:
            return f"latest {self.latest_s:.4g} s (holds {self.share})"
        return "how much it varies was not measured"

    def to_frame(self) -> pd.DataFrame:
        """The table of strategies."""
        return self.strategies

    def __str__(self) -> str:
        own = self.strategies.iloc[0]
        lines = [
            str(self.plan),
            f"  expected  {self.expected_s:.4g} s an iteration; {self.latest}",
            "  of which  " + ", ".join(f"{k.removesuffix('_s')} {own[k]:.4g}" for k in PARTS if own[k] > 0),
        ]
        others = self.strategies.iloc[1:].to_dict("records")
        lines += [
            f"  {named(row['strategy'], row['micro_batches']):<36} {row['iteration_s']:.4g} s: {row['why']}"
            for row in others
        ]
        if self.curve is not None:
            by = ", ".join(f"{row.stages}: {row.iteration_s:.4g} s" for row in self.curve.itertuples())
            lines.append(f"  best by number of stages: {by}")
        lines += [f"  note: {x}" for x in self.notes]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{escape(x)}</p>" for x in self.notes)
        return f"<p>{escape(str(self.plan))}</p>" + self.strategies.to_html(index=False) + said


def estimate(problem: HybridTraining, solution: Solution) -> TrainingEstimate:
    """See `TrainingEstimate`; the other strategies are those that the solver met, and those that need no search."""
    plan: TrainingPlan = solution.plan
    others: dict[str, TrainingPlan] = dict(problem.plain())
    for found in solution.duals.get("strategies", ()):
        best = TrainingPlan.from_dict(found)
        if best.strategy not in others or _seconds(problem, best) < _seconds(problem, others[best.strategy]):
            others[best.strategy] = best
    others.pop(plan.strategy, None)
    mine = problem.evaluate(plan)
    rows = [_row(problem, plan, mine, mine)]
    rows += sorted(
        (_row(problem, x, problem.evaluate(x), mine) for x in others.values()), key=lambda r: r["iteration_s"]
    )
    curve = solution.duals.get("curve")
    return TrainingEstimate(
        plan,
        mine["iteration_s"],
        mine.get("latest_s"),
        problem.latest_quantile,
        pd.DataFrame(rows),
        None if curve is None else pd.DataFrame(curve),
        notes(problem, plan, list(others.values())),
        (plan, *(x for _, x in near(problem, plan, list(others.values())))),
    )


def _seconds(problem: HybridTraining, plan: TrainingPlan) -> float:
    return problem.evaluate(plan)["iteration_s"]


def _row(
    problem: HybridTraining, plan: TrainingPlan, terms: dict[str, float], best: dict[str, float]
) -> dict[str, Any]:
    worse = {k: terms[k] - best[k] for k in PARTS}
    most = max(worse, key=lambda k: worse[k])
    more = terms["iteration_s"] / best["iteration_s"] - 1 if best["iteration_s"] else 0.0
    by = f"{more:+.1%}" if more < MANY - 1 else f"{1 + more:.3g} times as long"
    why = (
        "the plan"
        if terms is best
        else f"{by}: it {WHY[most]} {worse[most]:.4g} s longer"
        if more > 0
        else f"{more:+.1%}"
    )
    return {
        "strategy": plan.strategy,
        **{k: terms.get(k) for k in ("iteration_s", "latest_s", *PARTS)},
        "workers": plan.workers,
        "threads": plan.threads,
        "stages": len(plan.stages),
        "micro_batches": plan.micro_batches,
        "schedule": plan.schedule,
        "why": why,
    }


def gantt(problem: HybridTraining, plan: TrainingPlan) -> pd.DataFrame:
    """One iteration as a table: ``lane, what, micro, start_s, end_s``; a lane a stage, and one for each way of a link that takes time."""
    stages = problem.costs.stages_of(plan)
    times = problem.costs.times_of(plan, stages)
    rows: list[dict[str, Any]] = []
    for e in events(times, plan.micro_batches, plan.schedule):
        if e.end_s > e.start_s or e.what in ("forward", "backward"):
            rows += _pieces(e, stages, plan)
    return pd.DataFrame(rows, columns=["lane", "what", "micro", "start_s", "end_s"])


def _pieces(e: Event, stages: Any, plan: TrainingPlan) -> list[dict[str, Any]]:
    s = e.stage
    copies = plan.stages[s].replicas
    lane = f"stage {s}" + (f" × {copies}" if copies > 1 else "")
    if e.what in ("to next", "from next"):
        a, b = (s - 1, s) if e.what == "to next" else (s + 1, s)
        return [{"lane": f"{a} → {b}", "what": "transfer", "micro": e.micro, "start_s": e.start_s, "end_s": e.end_s}]
    if e.what != "tail":
        return [{"lane": lane, "what": e.what, "micro": e.micro, "start_s": e.start_s, "end_s": e.end_s}]
    middle = e.start_s + stages[s].sync_s
    return [
        {"lane": lane, "what": what, "micro": -1, "start_s": a, "end_s": b}
        for what, a, b in (("sync", e.start_s, middle), ("update", middle, e.end_s))
        if b > a
    ]
