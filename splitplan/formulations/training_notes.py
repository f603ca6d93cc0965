"""What a person must know of a training plan beside its seconds: another training than plain, crowds that were not measured, a restless machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from splitplan.errors import many

if TYPE_CHECKING:
    from splitplan.data.training_plan import TrainingPlan
    from splitplan.formulations.training import HybridTraining

RESTLESS = 1.5
"""A latest time that is more than so many times the expected one."""
NEAR = 2.0
"""Times what fresh starts vary by, within which two ways are not told apart: alike ones come out further apart in one of ten to twenty profiles (simulated)."""
QUICK = 1.2
"""Times as quick as its cores together could be, from which on a plan is not believed."""
BACKWARDS = 1.2
"""A micro-batch that takes more than so many times as long as a larger one."""


def notes(problem: HybridTraining, plan: TrainingPlan, others: Sequence[TrainingPlan] = ()) -> tuple[str, ...]:
    """A sentence each; none when there is nothing to say. The others are the best plans of other strategies."""
    return (
        *_restless(problem, plan, others),
        *_too_quick(problem, plan),
        *_free(problem, plan),
        *_normalised(problem, plan),
        *_near(problem, plan, others),
        *_larger(problem, plan),
        *_crowd(problem, plan),
        *_exchanges(problem, plan),
    )


def near(
    problem: HybridTraining, plan: TrainingPlan, others: Sequence[TrainingPlan]
) -> list[tuple[float, TrainingPlan]]:
    """The others that the profile cannot tell from a plan, and by what part of its time they are predicted to take longer."""
    spread, own_s = problem.profile.start_spread, problem.evaluate(plan)["iteration_s"]
    if spread is None or not own_s:
        return []
    more = [(problem.evaluate(x)["iteration_s"] / own_s - 1, x) for x in others]
    return sorted((pair for pair in more if abs(math.log1p(pair[0])) <= NEAR * spread), key=lambda pair: pair[0])


def named(strategy: str, micro_batches: int) -> str:
    """A plan's strategy, with its micro-batches where there are several."""
    return strategy if micro_batches == 1 else f"{strategy}, {many(micro_batches, 'micro-batch')}"


def _too_quick(problem: HybridTraining, plan: TrainingPlan) -> list[str]:
    """A plan that is quicker than one core by more than it has cores: the measurements contradict each other."""
    alone = problem.plain().get("one core")
    if alone is None:
        return []
    times = alone.predicted["iteration_s"] / max(problem.evaluate(plan)["iteration_s"], 1e-300)
    speeds = (problem.speeds or (1.0,) * plan.cores)[: plan.cores]
    if times <= QUICK * sum(speeds) / speeds[0]:
        return []
    text = (
        f"predicted to be {times:.3g} times as quick as one core, on {many(plan.cores, 'core')}: the machine was busier while one core was "
        "measured than later, or smaller parts suit its caches much better; profile again when it is quiet before you believe the plan"
    )
    return [text]


def _copied(problem: HybridTraining, plan: TrainingPlan) -> set[int]:
    """The numbers of replicas that add up gradients."""
    weights = {x.name for x in problem.profile.layers if x.parameter_bytes}
    return {s.replicas for s in plan.stages if s.replicas > 1 and weights & set(s.layers) - set(s.columns)}


def _free(problem: HybridTraining, plan: TrainingPlan) -> list[str]:
    """A plan that adds gradients up at no cost."""
    if all(problem.profile.factor("all_reduce", r) > 0 for r in _copied(problem, plan)):
        return []
    text = (
        "adding gradients up is priced at nothing: iterations of copies took no longer than their layers alone, which happens where it is done "
        "beside the backward pass, and where the machine was busier while layers were measured"
    )
    return [text]


def _normalised(problem: HybridTraining, plan: TrainingPlan) -> list[str]:
    over = {x.name for x in problem.profile.layers if x.over_samples}
    seen = [plan.batch // plan.micro_batches // s.replicas for s in plan.stages if over & set(s.layers)]
    if not seen or min(seen) == plan.batch:
        return []
    text = (
        f"batch norm (in {many(len(over), 'layer')}) sees {min(seen)} samples at a time, not the batch's {plan.batch}: another "
        "training than a plain loop's; whole_batch=True leaves plans in which it sees them all"
    )
    return [text]


def _near(problem: HybridTraining, plan: TrainingPlan, others: Sequence[TrainingPlan]) -> list[str]:
    """Other ways of which this profile cannot say whether they are slower."""
    spread, found = problem.profile.start_spread, near(problem, plan, others)
    if spread is None and others and len(problem.profile.ratios):
        return [
            "nothing was started twice, so that it is not known how far apart ways must be to be told apart; profile with starts=3"
        ]
    if not found or spread is None:
        return []
    names = [f"{named(x.strategy, x.micro_batches)} ({more:+.1%})" for more, x in found]
    text = (
        f"{' and '.join(names)} may be as fast: fresh starts of the same work varied by {spread:.1%} (standard deviation) while this was "
        f"measured, and ways that are less than about {NEAR * spread:.0%} apart cannot be told from such a profile; to know, give "
        "solution.estimate.near to compare_training"
    )
    return [text]


def _larger(problem: HybridTraining, plan: TrainingPlan) -> list[str]:
    most = max(problem.profile.samples(t)[1] for t in problem.profile.threads)
    if plan.batch <= most:
        return []
    text = (
        f"the profile was taken with at most {most} samples at once, the batch has {plan.batch}: only plans that take it in micro-batches "
        f"or copies of {most} samples and less were looked at; profile with batch={plan.batch} to have the others too"
    )
    return [text]


def _crowd(problem: HybridTraining, plan: TrainingPlan) -> list[str]:
    rows = problem.profile.times
    largest = int(rows[rows["threads"] == plan.threads]["workers"].max())
    crowd = problem.costs.crowd(problem.costs.config_of(plan))
    if crowd <= largest:
        return []
    text = (
        f"the profile knows no {crowd} workers of {many(plan.threads, 'thread')} at once on a host, at most {largest}: what they do to each other beyond "
        "that is not in these seconds; profile on a machine with as many cores"
    )
    return [text]


def _exchanges(problem: HybridTraining, plan: TrainingPlan) -> list[str]:
    known = set(problem.profile.in_step["what"])
    used = {
        "all_reduce": bool(_copied(problem, plan)),
        "columns": any(s.columns for s in plan.stages),
    }
    missing = [what for what, is_used in used.items() if is_used and what not in known]
    if not missing:
        return []
    words = {"all_reduce": "adding gradients up over copies", "columns": "sharing layers by columns"}
    text = (
        f"what {' and '.join(words[m] for m in missing)} takes was measured alone, not in iterations in which workers also compute: it may "
        "take less, or several times as long"
    )
    return [text]


def _times(problem: HybridTraining, plan: TrainingPlan) -> float:
    """How many times the expected time the latest one is; 1 where that is not known."""
    crowd = problem.costs.crowd(problem.costs.config_of(plan))
    return problem.profile.ratio(problem.latest_quantile, plan.threads, crowd) or 1.0


def _restless(problem: HybridTraining, plan: TrainingPlan, others: Sequence[TrainingPlan]) -> list[str]:
    found = []
    if (times := _times(problem, plan)) > RESTLESS:
        found.append(
            f"measured steps varied so much that the latest time is {times:.2g} times the expected one: the machine was busy, or measured for "
            "too short a time; profile again when it is quiet before you believe the plan"
        )
    if wide := [
        (named(x.strategy, x.micro_batches), _times(problem, x))
        for x in others
        if _times(problem, x) > max(times, RESTLESS)
    ]:
        told = ", ".join(f"{name} {more:.2g} times" for name, more in wide)
        found.append(
            f"steps of other ways varied by more than the plan's, and their latest times say no more than that (over the expected one: {told})"
        )
    by: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for row in problem.profile.to_frame().to_dict("records"):
        key = int(row["threads"]), int(row["workers"])
        by.setdefault(key, []).append((int(row["samples"]), row["forward_s"] + row["backward_s"]))
    for (threads, crowd), measured in by.items():
        pairs = pairwise(sorted(measured))
        wrong = [(x / y, few, more) for (few, x), (more, y) in pairs if x > BACKWARDS * y]
        if wrong:
            times, few, more = max(wrong)
            found.append(
                f"with {many(crowd, 'worker')} of {many(threads, 'thread')} {few} samples took {times:.1f} times as long as {more}: something "
                "else ran while that was measured; profile again when the machine is quiet"
            )
    return found
