"""Training plans from solver to user: the audit accepts every solution and rejects what was changed; the solvers' options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

import splitplan as sp
from benchmarks.training_instances import chain, small_ones
from splitplan.data.training_plan import TrainingPlan, TrainingStage
from splitplan.data.training_profile import TrainingProfile
from splitplan.data.training_tables import KINDS
from splitplan.errors import (
    AuditError,
    DataError,
    InfeasibleError,
    NoSolutionError,
    NotApplicable,
    SolverError,
    UnknownNameError,
)
from splitplan.formulations.solution import Status
from splitplan.formulations.training import HybridTraining
from splitplan.formulations.training_schedule import least_1f1b_s
from splitplan.models.training_layer import TrainingLayer
from splitplan.solvers.audit_training import audit_training
from splitplan.solvers.clock import Clock
from splitplan.solvers.training_dp import TrainingDP
from splitplan.solvers.training_labels import Choice, Effort, Labels
from splitplan.solvers.training_least import weights_1f1b
from splitplan.solvers.training_milp import TrainingMILP
from tests.formulations.test_training import problem
from tests.formulations.training_brute_force import every
from tests.solvers.test_audit import Fake, Found, Termination


def hands_back(plan: Any, termination: Termination = Termination.FINISHED, **more: Any) -> Fake:
    fake = Fake(lambda p: Found(plan, termination, **more))
    object.__setattr__(fake, "solves", ("hybrid-training",))
    return fake


# -- the audit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", range(6))
def test_audit_and_formulation_agree_on_every_plan(block: int) -> None:
    seen = 0
    for p in small_ones(12, layers=3, cores=3, seed=70_000 + 1000 * block):
        for plan in every(p):
            audit = audit_training(p, plan, {})
            assert audit.violations == ()
            assert audit.objective == pytest.approx(plan.predicted["iteration_s"], rel=1e-11)
            assert p.violations(plan) == []
            seen += 1
    assert seen > 50


@pytest.mark.parametrize("block", range(4))
def test_what_one_rejects_the_other_rejects(block: int) -> None:
    """Plans of a freer problem, judged by one with limits."""
    rejected = 0
    for p in small_ones(10, layers=3, cores=3, seed=80_000 + 1000 * block):
        freer = {"replicas": "any", "columns": True, "whole_batch": False, "max_stages": None}
        roomy = {k: replace(d, memory_bytes=None) for k, d in p.system.places.items()}
        free = replace(p, system=sp.System(links=dict(p.system.links), **roomy), **freer)
        limits: list[dict[str, Any]] = [
            {}, {"max_stages": 1}, {"threads": (1,)}, {"micro_batches": (1,)}, {"schedules": ("none", "gpipe")}, {"columns": False}
        ]  # fmt: skip
        for limit in limits:
            try:
                strict = replace(p, **limit)
            except DataError:
                continue
            for plan in list(every(free))[::5]:
                audit = audit_training(strict, plan, {})
                assert bool(audit.violations) == bool(strict.violations(plan)), (strict, plan)
                rejected += bool(audit.violations)
    assert rejected > 50


HALVES = TrainingStage(("a",)), TrainingStage(("b", "c"))
WHOLE = ("a", "b", "c")
SINGLE = {"schedule": "none", "micro_batches": 1}

CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "another model": ({"fingerprint": "g"}, "made for another model or batch"),
    "another batch": ({"batch": 4}, "made for another model or batch"),
    "a layer lost": ({"stages": (TrainingStage(("a",)), TrainingStage(("b",)))}, "not the profile's layers"),
    "layers in another order": ({"stages": (TrainingStage(("b",)), TrainingStage(("a", "c")))}, "not the profile's layers"),
    "a cut where there is none": ({"stages": (TrainingStage(("a", "b")), TrainingStage(("c",)))}, "cut at position 2, where the model cannot be cut"),
    "more workers than cores": ({"stages": tuple(replace(s, replicas=2) for s in HALVES)}, "4 workers of 1 threads on 1 hosts of 2 cores"),
    "unlike replicas": ({"stages": (replace(HALVES[0], replicas=2), HALVES[1])}, "unlike replicas"),
    "more threads than cores": ({"threads": 4}, "2 workers of 4 threads on 1 hosts of 2 cores"),
    "threads of both workers": ({"threads": 2}, "2 workers of 2 threads on 1 hosts of 2 cores"),
    "smaller than measured": ({"micro_batches": 8}, "1 samples at a time, measured were 2 to 8"),
    "threads that were not measured": ({"threads": 3}, "threads=3: measured with 1, 2"),
    "columns of another layer": ({"stages": (TrainingStage(WHOLE, 2, ("c",)),), **SINGLE}, "'c' has no 2 columns"),
    "too little memory": ({"stages": (TrainingStage(WHOLE, 2),), **SINGLE}, "stage 0: 1160 bytes, a worker has 1000"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_mutated_plan_is_rejected(change: str) -> None:
    changes, message = CHANGES[change]
    cores = 6 if "not measured" in change else 2
    p = problem(uncuttable=(2,), samples=(2, 8), cores=cores, memory=2000.0 if change == "too little memory" else None)
    plan = TrainingPlan("net", "f", 8, HALVES, 2, "gpipe")
    assert audit_training(p, plan, {}).violations == ()
    mutated = replace(plan, **changes)
    with pytest.raises(AuditError, match=message):
        p.solve(hands_back(mutated))
    assert p.violations(mutated)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"max_stages": 1}, "max_stages=1: it has 2"),
        ({"micro_batches": (1, 4)}, r"micro_batches=\(1, 4\): it has 2"),
        ({"threads": (2,)}, r"threads=\(2,\): it has 1"),
        ({"schedules": ("none", "1f1b")}, "schedules=.*: it has 'gpipe'"),
        ({"whole_batch": True}, "whole_batch: it splits the batch"),
    ],
)
def test_a_limit_is_kept(limit: dict[str, Any], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        problem(**limit).solve(hands_back(TrainingPlan("net", "f", 8, HALVES, 2, "gpipe")))


def test_columns_that_are_not_allowed() -> None:
    plan = TrainingPlan("net", "f", 8, (TrainingStage(WHOLE, 2, ("b",)),))
    with pytest.raises(AuditError, match="columns=False: it shares columns"):
        problem(columns=False).solve(hands_back(plan))
    # All samples of a micro-batch meet a shared layer: so many must have been measured.
    with pytest.raises(AuditError, match="8 samples at a time, measured were 1 to 4"):
        problem(samples=(1, 4)).solve(hands_back(plan))


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"objective": 0.9}, "fake says the plan costs"),
        ({"objective": 1.001}, "fake says the plan costs"),
        ({"bound": 1.001}, "claims a bound"),
    ],
)
def test_tampered_numbers_are_rejected(claim: dict[str, float], message: str) -> None:
    p = problem()
    best = p.solve()
    lie = {k: v * best.objective for k, v in claim.items()}
    with pytest.raises(AuditError, match=message):
        p.solve(hands_back(best.plan, Termination.CONVERGED, **lie))


SCALED: tuple[tuple[str, str, Any], ...] = (
    ("times", "forward_s", None),
    ("times", "backward_s", None),
    ("updates", "update_s", None),
    ("updates", "add_s", None),
    ("collectives", "time_s", "all_reduce"),
    ("collectives", "time_s", "all_gather"),
    ("collectives", "time_s", "reduce_scatter"),
    ("collectives", "time_s", "send"),
    ("in_step", "factor", "all_reduce"),
    ("in_step", "factor", "columns"),
)


@pytest.mark.parametrize(("table", "column", "what"), SCALED)
def test_costs_are_added_up_anew(table: str, column: str, what: str | None) -> None:
    """A formulation whose coefficients are of another profile than the audit reads is found out, whichever number it is."""
    p = problem(cores=4, in_step=[("all_reduce", 2, 1.0, 1.3), ("columns", 4, 1.0, 1.1)])
    p = replace(p, profile=replace(p.profile, updates=p.profile.updates.assign(add_s=0.25)))
    plan = TrainingPlan("net", "f", 8, (TrainingStage(("a", "b"), 2, ("b",)), TrainingStage(("c",), 2)), 2, "1f1b")
    rows: pd.DataFrame = getattr(p.profile, table).copy()
    rows.loc[rows["what"] == what if what else rows.index, column] *= 1.01
    tampered: TrainingProfile = replace(p.profile, **{table: rows})
    wrong = replace(p)
    wrong.__dict__["costs"] = replace(p, profile=tampered).costs
    assert p.solve(hands_back(plan)).plan == plan
    with pytest.raises(AuditError, match="its formulation says the plan costs"):
        wrong.solve(hands_back(plan))


@pytest.mark.parametrize("name", ["micro_s", "step_s"])
def test_what_is_beside_the_layers_counts(name: str) -> None:
    p = problem()
    wrong = replace(p)
    wrong.__dict__["costs"] = replace(p, profile=replace(p.profile, micro_s=0.3)).costs
    more = replace(p, profile=replace(p.profile, **{name: 10 * getattr(p.profile, name)}))
    plan = p.solve().plan
    assert audit_training(more, plan, {}).objective > audit_training(p, plan, {}).objective
    with pytest.raises(AuditError, match="its formulation says"):
        wrong.solve(hands_back(plan))


def test_speeds_are_added_up_anew() -> None:
    wrong = problem(speeds=(1.0, 0.7))
    wrong.__dict__["costs"] = problem().costs
    with pytest.raises(AuditError, match="its formulation says"):
        wrong.solve(hands_back(TrainingPlan("net", "f", 8, (TrainingStage(WHOLE, 2),))))


# -- the dynamic program ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"nodes": 0}, {"labels": 0}, {"curve_gap": -0.1}, {"curve_gap": 1.0}, {"curve_gap": float("nan")}]
)
def test_bad_options_of_the_dynamic_program(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(SolverError, match=f"{name}={options[name]}"):
        TrainingDP(**options)
    with pytest.raises(SolverError, match=name):
        problem().solve("training-dp", **options)


def test_unknown_options_and_solvers() -> None:
    with pytest.raises(SolverError, match="tries"):
        problem().solve("training-dp", tries=3)
    with pytest.raises(UnknownNameError, match="known: auto, training-dp, training-milp"):
        problem().solve("ideals")


def test_who_found_it_and_whose_the_bound_is() -> None:
    found = problem().solve()
    assert (found.solver, found.status, found.gap) == ("training-dp", Status.OPTIMAL, 0.0)
    assert found.bound_by == "dominance and bounds of the dynamic program"
    assert found.audit is not None and found.audit.by == "solvers.audit_training.audit_training"
    other = problem().solve("training-milp")
    assert (other.solver, other.status) == ("training-milp", Status.OPTIMAL)
    assert other.objective == pytest.approx(found.objective, rel=1e-9)
    assert found.to_dict()["plan"]["kind"] == "splitplan.TrainingPlan"
    found.to_json()


@pytest.mark.parametrize("seed", range(8))
def test_few_nodes_leave_a_true_bound(seed: int) -> None:
    for p in small_ones(6, layers=5, cores=4, seed=95_000 + 100 * seed):
        p = replace(p, schedules=("none", "1f1b"))
        try:
            whole = p.solve("training-dp", nodes=100_000)
        except InfeasibleError:
            continue
        few = p.solve("training-dp", nodes=1)
        assert few.bound is not None and whole.status is Status.OPTIMAL
        assert few.bound <= whole.objective * (1 + 1e-9) <= few.objective * (1 + 2e-9)
        assert few.status is Status.OPTIMAL or few.termination is Termination.NODE_LIMIT


def test_no_time_at_all_still_gives_a_plan_of_one_stage() -> None:
    p = chain(40, 4, seed=5)
    found = p.solve("training-dp", time_limit_s=0.0)
    assert len(found.plan.stages) == 1
    assert found.bound is not None and found.bound <= p.solve().objective * (1 + 1e-9)


def linear(count: int, **more: Any) -> HybridTraining:
    """So many linear layers: the more weights one has, the longer it takes shared. No way to share them is worse than another in everything."""
    layers = tuple(
        TrainingLayer(f"v{k}", 100.0 + 2.0**k, 20.0, 8, 4.0, 2.0**k) for k in range(count)
    )  # fmt: skip
    times = [(x.name, s, 1, w, 1e-3 * s, 2e-3 * s) for x in layers for s in (1, 8) for w in (1, 2)]
    updates = [(x.name, 1, w, 1e-3) for x in layers for w in (1, 2)]
    exchanges = [(what, 2, size, 1e-6 * size) for what in KINDS for size in (1.0, 1e6)]
    return problem(
        layers=layers, times=times, updates=updates, collectives=exchanges, crossing_bytes=(1.0,) * (count - 1),
        state_factor=0.0, uncuttable=tuple(range(1, count)), threads=(1,), micro_batches=(1,), **more
    )  # fmt: skip


def test_memory_that_only_all_columns_shared_can_meet() -> None:
    """There are more ways to share than the search keeps, and the one that fits is among the slowest."""
    apart = {"hosts": 2, "cores": 1, "rate_bps": 1e9}
    p = linear(10, **apart)
    whole = sum(x.parameter_bytes for x in p.profile.layers)
    # Two workers, each with half of all weights and gradients, and what it keeps for the backward pass.
    kept = sum(20.0 * 4 + 4.0 * 8 / 2 for _ in p.profile.layers)
    tight = linear(10, memory=(whole + kept) * 1.0001, **apart)
    found = tight.solve("training-dp")
    assert len(found.plan.stages[0].columns) == 10
    assert found.bound is not None and found.bound <= found.objective
    with pytest.raises(InfeasibleError):
        linear(10, memory=(whole + kept) * 0.999, **apart).solve("training-dp")


def test_labels_that_are_spent_before_there_is_a_plan_prove_nothing() -> None:
    """Only eight micro-batches by 1F1B fit, which look least promising, and only with the first layer alone."""
    layers = tuple(TrainingLayer(f"v{k}", 10.0 * (k > 0), 600.0 * (k == 0)) for k in range(12))
    times = [(x.name, s, 1, 1, float(s), 2.0 * s) for x in layers for s in (1, 8)]
    updates = [(x.name, 1, 1, 0.0) for x in layers]
    p = problem(
        hosts=2, cores=1, memory=1210.0, layers=layers, times=times, updates=updates, crossing_bytes=(1.0,) * 11,
        state_factor=0.0, micro_s=100.0, schedules=("gpipe", "1f1b"),
    )  # fmt: skip
    found = p.solve("training-dp")
    assert (found.plan.cuts, found.plan.micro_batches, found.plan.schedule) == ((1,), 8, "1f1b")
    assert found.status is Status.OPTIMAL
    with pytest.raises(NoSolutionError, match="stopped .node or iteration limit. before it had any plan"):
        p.solve("training-dp", labels=1)


def test_a_cut_list_of_ways_leaves_a_true_bound() -> None:
    for count in (7, 8, 9):
        p = linear(count, memory=None)
        exact = min(
            p.evaluate(p.plan_for(c, (), c.replicas, (tuple(v for v in range(count) if n >> v & 1),)))["objective"]
            for c in p.configs()
            if c.stages == 1
            for n in range(2**count if c.replicas == (2,) else 1)
        )
        found = p.solve("training-dp")
        assert found.bound is not None
        assert found.bound <= exact * (1 + 1e-12) <= found.objective * (1 + 2e-12)
        assert (found.status is Status.OPTIMAL) <= (found.objective <= exact * (1 + 1e-9))


@pytest.mark.parametrize("seed", range(6))
def test_bounds_of_1f1b_hold_for_every_plan(seed: int) -> None:
    """Of whole plans, and of configurations by a stage's share of the work."""
    seen = 0
    for p in small_ones(8, layers=4, cores=4, seed=97_000 + 100 * seed):
        for c in p.configs():
            if c.schedule != "1f1b":
                continue
            labels = Labels(p, c, Effort(Clock(None), 10**9))
            for plan in every(replace(p, schedules=("1f1b",), micro_batches=(c.micro_batches,), max_stages=c.stages)):
                if (len(plan.stages), plan.workers, plan.threads) != (c.stages, c.workers, c.threads):
                    continue
                stages = p.costs.stages_of(plan)
                times = p.costs.times_of(plan, stages)
                bare = plan.predicted["iteration_s"] - p.profile.step_s
                assert labels.bound <= bare * (1 + 1e-12)
                assert least_1f1b_s(times, c.micro_batches) <= bare * (1 + 1e-12)
                work = [x.forward_s + x.backward_s for x in stages]
                weights = weights_1f1b(c.micro_batches, c.stages)
                assert sum(work) + max(a * w for a, w in zip(weights, work, strict=True)) <= bare * (1 + 1e-12)
                index = {x.name: k for k, x in enumerate(p.profile.layers)}
                columns = tuple(tuple(index[v] for v in s.columns) for s in plan.stages)
                choice = Choice(0.0, plan.cuts, tuple(s.replicas for s in plan.stages), columns)
                assert labels.seconds_of(choice) == pytest.approx(bare, rel=1e-12)
                seen += 1
    assert seen > 20


# -- the MILP ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"threads": 0}, {"node_limit": -1}])
def test_bad_options_of_the_milp(options: dict[str, Any]) -> None:
    with pytest.raises(SolverError, match="give threads from 1, node_limit from 0"):
        TrainingMILP(**options)


def test_what_is_too_large_for_the_milp() -> None:
    with pytest.raises(NotApplicable, match="more than 20000 stages as they may be"):
        chain(80, 8, seed=1).solve("training-milp")
    # Ways to share columns are counted, not made: there are 2³⁰, and memory holds none of them.
    with pytest.raises(NotApplicable, match="more than 20000 stages as they may be"):
        linear(30, memory=6e8).solve("training-milp")
    with pytest.raises(InfeasibleError, match="more memory or hosts"):
        linear(30, memory=6e8).solve("training-dp")


def test_the_milp_within_a_time_limit() -> None:
    p = problem(cores=4)
    with pytest.raises((NoSolutionError, SolverError)):
        p.solve("training-milp", time_limit_s=0.0)


def test_a_plan_is_read_from_a_solver_s_values() -> None:
    p = problem(cores=4, replicas="any")
    model = p.build()
    found = p.solve("training-milp").plan
    index = {x.name: k for k, x in enumerate(p.profile.layers)}
    first, before, chosen = 0, 0, []
    config = p.costs.config_of(found)
    for k, s in enumerate(found.stages):
        (n,) = [
            n
            for n, x in enumerate(model.stages)
            if (x.k, x.i, x.j, x.first, x.before, x.replicas)
            == (k, index[s.layers[0]], index[s.layers[-1]] + 1, first, before, s.replicas)
            and x.columns == tuple(index[v] for v in s.columns)
            and (
                model.configs[x.config].micro_batches,
                model.configs[x.config].schedule,
                model.configs[x.config].threads,
            )
            == (config.micro_batches, config.schedule, config.threads)
            and model.configs[x.config].workers == config.workers
        ]
        chosen.append(n)
        first, before = first + s.replicas, s.replicas
    values = {f"z[{n}]": float(n in chosen) for n in range(len(model.stages))}
    assert p.read(values) == found
