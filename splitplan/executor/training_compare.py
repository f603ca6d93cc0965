"""Plans trained in turn, each in fresh processes: which is the fastest, where a profile cannot tell."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from splitplan.data.training_plan import TrainingPlan
from splitplan.errors import DataError, SplitplanError, listed, many, raise_all
from splitplan.executor.profiler import bar
from splitplan.executor.training import import_paths, launch, under_torchrun
from splitplan.executor.training_checks import check
from splitplan.executor.training_job import Task, Things
from splitplan.executor.training_watch import WARMING, Progress, iteration_s
from splitplan.formulations.training_notes import named

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS = ("plan", "start", "step", "iteration_s")
NEVER = 10**9
"""Iterations between two checkpoints."""


@dataclass(frozen=True, eq=False)
class TrainingComparison:
    """What iterations took by each of several plans, which were started in turn.

    Parameters
    ----------
    plans : tuple of TrainingPlan
    iterations : DataFrame
        A row an iteration: ``plan`` (its number), ``start`` (from 0), ``step``, ``iteration_s``; those that warm up are not there.
    """

    plans: tuple[TrainingPlan, ...]
    iterations: pd.DataFrame = field(repr=False)

    def starts_s(self) -> pd.DataFrame:
        """Median iteration of each start, in seconds: a row a start, a column a plan's number."""
        return self.iterations.groupby(["start", "plan"])["iteration_s"].median().unstack("plan")

    @property
    def measured_s(self) -> list[float]:
        """Of each plan, the median of its starts' medians."""
        return [float(x) for x in self.starts_s().median()]

    @property
    def names(self) -> list[str]:
        """What each plan is called in tables and figures."""
        found = [named(p.strategy, p.micro_batches) for p in self.plans]
        return [f"{name} (plan {k + 1})" if found.count(name) > 1 else name for k, name in enumerate(found)]

    @property
    def fastest(self) -> TrainingPlan:
        """The plan whose iterations took least."""
        return self.plans[self._first]

    @property
    def _first(self) -> int:
        seconds = self.measured_s
        return seconds.index(min(seconds))

    def to_frame(self) -> pd.DataFrame:
        """A row a plan, the fastest first.

        ``name, predicted_s, measured_s``, ``by_start_s`` (the medians of its starts), ``error_%`` (predicted over measured),
        ``slower_%`` than the fastest, ``slower_in`` (how many of the starts, against the fastest's in the same round),
        ``latest_s, within_latest`` (iterations that ended within it), ``plan``.
        """
        import pandas as pd

        by, seconds = self.starts_s(), self.measured_s
        rows = []
        for k, plan in enumerate(self.plans):
            took = self.iterations.loc[self.iterations["plan"] == k, "iteration_s"]
            told, latest = plan.predicted.get("iteration_s"), plan.predicted.get("latest_s")
            rows.append(
                {
                    "name": self.names[k],
                    "predicted_s": told,
                    "measured_s": seconds[k],
                    "by_start_s": ", ".join(f"{x:.3g}" for x in by[k]),
                    "error_%": None if told is None else 100 * (told / seconds[k] - 1),
                    "slower_%": 100 * (seconds[k] / min(seconds) - 1),
                    "slower_in": f"{int((by[k] > by[self._first]).sum())} of {len(by)}",
                    "latest_s": latest,
                    "within_latest": None if latest is None else f"{int((took <= latest).sum())} of {len(took)}",
                    "plan": str(plan),
                }
            )
        return pd.DataFrame(rows).sort_values("measured_s", ignore_index=True)

    @property
    def _sure(self) -> str:
        """How far the fastest can be told from the others."""
        by = self.starts_s()
        if len(self.plans) == 1:
            return ""
        near = [name for k, name in enumerate(self.names) if k != self._first and not (by[k] > by[self._first]).all()]
        if near:
            return f"{' and '.join(near)} may be as fast, not being slower in every start"
        every = "the only start" if len(by) == 1 else f"each of {len(by)} starts"
        return f"the fastest is that in {every}; of two equally fast plans one is in {2.0 ** (1 - len(by)):.3g} of such comparisons"

    def __str__(self) -> str:
        import pandas as pd

        rows = self.to_frame().to_dict("records")
        wide = max(len(r["name"]) for r in rows)
        starts = self.iterations["start"].nunique()
        each = len(self.iterations) // (starts * len(self.plans))
        head = (
            f"{self.plans[0].model}, batch {self.plans[0].batch}: {many(starts, 'start')} of each plan in turn, "
            f"{many(each, 'iteration')} each after {WARMING} that warm up"
        )
        lines = [head]
        for r in rows:
            told = "" if pd.isna(r["predicted_s"]) else f"; predicted {r['predicted_s']:.4g} s ({r['error_%']:+.1f} %)"
            more = f", {r['slower_%']:+.1f} %" if r["slower_%"] else ""
            lines.append(f"  {r['name']:<{wide}}  {r['measured_s']:.4g} s{more} (by start {r['by_start_s']}){told}")
        return "\n".join(lines + [f"  note: {x}" for x in [self._sure] if x])

    def _repr_html_(self) -> str:
        note = f"<p>{escape(self._sure)}</p>" if self._sure else ""
        return self.to_frame().to_html(index=False, float_format="{:.4g}".format) + note

    def plot(self) -> Figure:
        """Draw each plan's starts, and what was predicted of it."""
        import pandas as pd

        from splitplan.plots.training import plot_comparison

        by, seconds = self.starts_s(), self.measured_s
        order = sorted(range(len(self.plans)), key=seconds.__getitem__)
        rows = [
            (self.names[k], start_s, seconds[k], self.plans[k].predicted.get("iteration_s"))
            for k in order
            for start_s in by[k]
        ]
        table = pd.DataFrame(rows, columns=["name", "start_s", "measured_s", "predicted_s"])
        return plot_comparison(table, title=f"{self.plans[0].model}, batch {self.plans[0].batch}")


def compare_training(
    model: Any,
    plans: Iterable[TrainingPlan],
    data: Any,
    *,
    optimizer: Callable[..., Any],
    loss_fn: Callable[..., Any],
    iterations: int = 7,
    starts: int = 3,
    seed: int = 0,
    pin: bool = True,
    device: Literal["cpu", "cuda"] = "cpu",
    progress: bool | Progress | None = None,
) -> TrainingComparison:
    """Train some iterations by each of several plans, in turn, and see which is the fastest.

    A profile tells plans apart no better than fresh starts of the same work vary by; `solution.estimate.near` has those that it does
    not. Each start is that of new processes, as `splitplan.train` makes them, with the same weights and batches; every other round
    goes through the plans backwards, so that a machine that becomes slower does so for all of them.

    Parameters
    ----------
    model : torch.nn.Module or Traced
        In train mode; it is not changed, and nothing of the trainings is kept.
    plans : iterable of TrainingPlan
        Of this model and of one batch.
    data : iterable, or callable from an epoch's number to one
        Batches, as for `splitplan.train`; gone through as often as needed.
    optimizer, loss_fn : callable
        As for `splitplan.train`.
    iterations : int
        Of each start, after the three that warm up.
    starts : int
        Of each plan.
    seed, pin, device
        As for `splitplan.train`.
    progress : bool or callable, optional
        Show a progress bar; by default when standard error is a terminal. A callable is told a text that names the start, and the part of it that is done, instead.

    Returns
    -------
    TrainingComparison

    Raises
    ------
    DataError
        No plans, plans of several batches, what `splitplan.train` refuses; says of which plan.
    TrainingError
        A training failed, as `splitplan.train` says it; a lost worker is not started again.
    """
    plans = _checked(plans, iterations, starts)
    things = Things(model, data, optimizer, loss_fn)
    tasks = []
    for k, plan in enumerate(plans):
        task = Task(
            plan,
            "",
            None,
            WARMING + iterations,
            seed=seed,
            pin=pin,
            device=device,
            checkpoint_every=NEVER,
            paths=import_paths(),
        )
        try:
            check(task, things, None, "auto", restarts=0, problem=None, on_slow="tell", launched=False)
        except DataError as e:
            raise DataError(list(e.problems), f"compare_training: plan {k + 1}, {plan.strategy}") from e
        tasks.append(task)
    rows: list[tuple[int, int, int, float]] = []
    with bar(progress) as tell:
        for n in range(starts):
            for k in range(len(tasks)) if n % 2 == 0 else reversed(range(len(tasks))):
                name = f"{tasks[k].plan.strategy}, start {n + 1} of {starts}"
                tell(name, 0.0)
                try:
                    rows += [(k, n, *step) for step in _once(tasks[k], things, partial(_share, tell, name))]
                except SplitplanError as e:
                    e.add_note(f"That was plan {k + 1}, {name}: {plans[k]}")
                    raise
    import pandas as pd

    return TrainingComparison(plans, pd.DataFrame(rows, columns=list(COLUMNS)))


def _checked(plans: Any, iterations: Any, starts: Any) -> tuple[TrainingPlan, ...]:
    problems = [
        f"{name} is {value!r}; give a whole number from 1"
        for name, value in (("iterations", iterations), ("starts", starts))
        if isinstance(value, bool) or not isinstance(value, int) or value < 1
    ]
    if under_torchrun():
        problems.append("it starts workers of its own; call it outside torchrun")
    found = tuple(plans) if isinstance(plans, Iterable) and not isinstance(plans, str) else ()
    wrong = [type(x).__name__ for x in found if not isinstance(x, TrainingPlan)]
    if wrong or not found:
        given = f"plans has a {wrong[0]}" if wrong else f"plans is a {type(plans).__name__} without any"
        problems.append(f"{given}; give TrainingPlans, as solution.estimate.near")
    elif len(batches := sorted({x.batch for x in found})) > 1:
        problems.append(
            f"the plans are of batches of {' and '.join(map(str, batches))} samples; give plans of one batch"
        )
    elif len({x.fingerprint for x in found}) > 1:
        models = listed(sorted({x.model for x in found}))
        problems.append(f"the plans are of several models ({models}); give plans of one")
    raise_all(problems, "compare_training")
    return found


def _share(tell: Progress, name: str, _: str, share: float) -> None:
    tell(name, share)


def _once(task: Task, things: Things, progress: Progress) -> list[tuple[int, float]]:
    """Steps and their seconds in fresh processes, without those that warm up."""
    with tempfile.TemporaryDirectory(prefix="splitplan-train-") as folder:
        ((_, records),), *_ = launch(replace(task, run=uuid.uuid4().hex), things, Path(folder), progress=progress)
        return [(k, iteration_s(records, k)) for k in records.whole() if k > WARMING]
