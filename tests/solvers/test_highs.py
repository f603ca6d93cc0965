"""HiGHS: every status, limits with and without an incumbent, a canary for wrong optima, slots against fresh solves."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import highspy
import numpy as np
import pyomo.environ as pyo
import pytest
from packaging.version import Version
from scipy.sparse import csr_array

import splitplan as sp
from benchmarks import instances
from benchmarks.instances import Seeded
from splitplan.errors import InfeasibleError, NoSolutionError, SolverError
from splitplan.formulations.base import conclude
from splitplan.formulations.solution import Termination
from splitplan.solvers import clock
from splitplan.solvers.arrays import Affine, Arrays, to_arrays
from splitplan.solvers.highs import Highs, HighsLP, found
from splitplan.solvers.highs_run import (
    TERMINATIONS,
    BranchAndBound,
    Engine,
    Outcome,
    dual_bound,
    solve_arrays,
    together,
    version,
)
from splitplan.solvers.pipeline_highs import PipelineMILP
from splitplan.solvers.placement_milp import PlacementMilp

STATUSES = [s for name, s in highspy.HighsModelStatus.__members__.items() if name != "kMax" and name != "kMin"]


def test_version_is_one_that_is_known_to_be_right() -> None:
    assert Version(version().removeprefix("HiGHS ")) >= Version("1.15.1")


def test_every_status_is_in_the_table() -> None:
    assert set(STATUSES) <= set(TERMINATIONS)
    by_name = {s.name: t for s, t in TERMINATIONS.items()}
    assert by_name["kOptimal"] == "converged"
    assert {n for n, t in by_name.items() if t == "proven infeasible"} == {"kInfeasible"}
    assert {n for n, t in by_name.items() if t == "time limit"} == {"kTimeLimit"}
    assert {n for n, t in by_name.items() if t == "interrupted"} == {"kInterrupt", "kHighsInterrupt"}


@pytest.fixture
def small(diamond_profile: sp.Profile, system: sp.System) -> sp.SplitPoint:
    return sp.SplitPoint(diamond_profile, system, deadline_s=1.0)


@pytest.mark.parametrize("status", STATUSES, ids=lambda s: s.name)
@pytest.mark.parametrize("in_hand", [True, False])
def test_what_a_user_gets_for_every_status(
    small: sp.SplitPoint, monkeypatch: pytest.MonkeyPatch, status: Any, in_hand: bool
) -> None:
    """HiGHS's status is replaced; with or without a feasible point in hand."""
    solver = Highs()
    engine = solver.engine(to_arrays(small.build()), 0.0, False)
    engine.highs.run()
    info = engine.highs.getInfo()
    feasible = highspy.SolutionStatus.kSolutionStatusFeasible if in_hand else highspy.SolutionStatus.kSolutionStatusNone
    fields = ("objective_function_value", "mip_dual_bound", "mip_node_count", "mip_gap", "simplex_iteration_count")
    copied = SimpleNamespace(**{n: getattr(info, n) for n in fields}, primal_solution_status=feasible)
    fake = SimpleNamespace(
        getInfo=lambda: copied,
        getModelStatus=lambda: status,
        getSolution=engine.highs.getSolution,
        modelStatusToString=engine.highs.modelStatusToString,
    )
    monkeypatch.setattr(engine, "highs", fake)
    outcome = engine._outcome(None, 0.0)
    assert outcome.termination is TERMINATIONS[status]
    assert (outcome.values is not None) == in_hand
    if in_hand:
        solution = conclude(small, solver, found(small, outcome, 0.0, 0.0), 0.0)
        assert solution.objective == pytest.approx(small.solve("ideals").objective)
        assert solution.termination == TERMINATIONS[status]
        return
    with pytest.raises((NoSolutionError, InfeasibleError)) as caught:
        conclude(small, solver, found(small, outcome, 0.0, 0.0), 0.0)
    says_none_exists = TERMINATIONS[status] in (Termination.INFEASIBLE, Termination.INFEASIBLE_OR_UNBOUNDED)
    assert isinstance(caught.value, InfeasibleError) == says_none_exists


def test_a_time_limit_before_any_plan() -> None:
    with pytest.raises(
        NoSolutionError, match=r"the time limit was over .*before the model was stated.*Give it more time"
    ):
        instances.partition(50).solve("highs", time_limit_s=0)


def test_a_node_limit_gives_the_incumbent_and_its_gap() -> None:
    p = instances.partition(50)
    solution = p.solve("highs", node_limit=10)
    assert (solution.status, solution.termination) == ("feasible", "node or iteration limit")
    assert solution.gap is not None and 0 < solution.gap < 0.01
    assert solution.bound is not None
    assert sum(p.profile.seconds("device")) / 2 * (1 - 1e-9) <= solution.objective
    again = p.solve("highs", node_limit=10)
    assert (again.objective, again.bound) == (solution.objective, solution.bound), "a node limit is deterministic"
    # The gap that was asked for decides what counts as optimal.
    assert p.solve("highs", gap=0.01).status == "optimal"
    with pytest.raises(NoSolutionError, match="node or iteration limit"):
        p.solve(Highs(node_limit=0))


@pytest.mark.statistical  # a limit of 1 s, kept to 3 s on a busy machine
def test_a_time_limit_gives_the_incumbent_also_through_auto() -> None:
    solution = instances.partition(50).solve(time_limit_s=1.0)
    assert (solution.solver, solution.status, solution.termination) == ("highs", "feasible", "time limit")
    assert solution.gap is not None and solution.gap > 0
    assert solution.build_s + solution.solve_s < 3


def test_all_runs_of_a_solve_share_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A MIP is solved twice, and an engine runs more than once: none of the runs has more than what the others left."""
    arrays, now, handed = knapsack(0, None)[0], [0.0], list[float]()

    def four_seconds(self: Engine, time_limit_s: float) -> None:
        handed.append(self.highs.getOptionValue("time_limit")[1] - (0 if self.integer else self.highs.getRunTime()))
        self.highs.run()
        now[0] += 4.0

    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Engine, "_run_watched", four_seconds)
    mip = Engine(arrays)
    for _ in range(3):
        assert mip.run(10.0).termination is Termination.CONVERGED
    assert handed == [10.0, 6.0] * 3
    assert mip.run(3.0).termination is Termination.CONVERGED
    assert handed[6:] == [3.0, 0.0]
    handed.clear()
    lp = Engine(arrays, relax=True)
    for _ in range(3):
        assert lp.run(10.0).termination is Termination.CONVERGED
    assert handed == pytest.approx([10.0] * 3, abs=1e-9)


@pytest.mark.parametrize("relax", [False, True])
def test_canary_for_what_highs_counts_as_run_time(relax: bool) -> None:
    """Of an LP all runs of the object, of a MIP this one: what `Engine` hands it as time limit."""
    engine = Engine(knapsack(0, None)[0], relax=relax)
    for _ in range(50):
        engine.highs.clearSolver()
        engine.highs.run()
    engine.highs.clearSolver()
    engine.option("time_limit", engine.highs.getRunTime() / 2)
    engine.highs.run()
    expected = highspy.HighsModelStatus.kTimeLimit if relax else highspy.HighsModelStatus.kOptimal
    assert engine.highs.getModelStatus() == expected


def test_highs_is_cancelled_when_it_does_not_look_at_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    set_ = Engine.option
    monkeypatch.setattr(
        Engine, "option", lambda self, name, value: None if name == "time_limit" else set_(self, name, value)
    )
    p = instances.partition(50)  # which HiGHS does not solve in hours
    outcome = Engine(to_arrays(p.build())).run(0.5)
    assert outcome.termination is Termination.TIME_LIMIT
    assert outcome.bound is not None and outcome.objective is not None
    assert 0 < outcome.bound <= outcome.objective


def test_an_engine_that_was_cancelled_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its options, its model and the rows of `forbid`."""
    set_ = Engine.option
    with monkeypatch.context() as deaf:
        deaf.setattr(
            Engine, "option", lambda self, name, value: None if name == "time_limit" else set_(self, name, value)
        )
        p = instances.partition(50)
        engine = Engine(to_arrays(p.build()))
        first = engine.run(0.3)
        assert engine.cancelled is first.termination is Termination.TIME_LIMIT
    assert first.values is not None
    engine.option("mip_max_nodes", 5)
    engine.forbid(first.values)
    for interruptible in (True, False):
        again = engine.run(60.0, interruptible)
        assert again.termination is Termination.NODE_LIMIT
        assert again.values is not None and again.bound is not None
        chosen = [j for j, whole in zip(engine.columns, engine.loaded.whole, strict=True) if whole]
        assert any(round(again.values[j]) != round(first.values[j]) for j in chosen), "the forbidden plan came back"
    assert engine.highs.getOptionValue("mip_abs_gap")[1] == 0.0
    engine.allow_all()
    assert engine.highs.getNumRow() == len(engine.loaded.rows)


@pytest.mark.parametrize("stopped", [Termination.INTERRUPTED, Termination.TIME_LIMIT])
@pytest.mark.parametrize("status", STATUSES, ids=lambda s: s.name)
def test_a_cancel_renames_nothing_that_was_settled(
    monkeypatch: pytest.MonkeyPatch, status: Any, stopped: Termination
) -> None:
    engine = Engine(knapsack(0, None)[0])
    engine.highs.run()
    real = engine.highs
    fake = SimpleNamespace(
        getInfo=real.getInfo,
        getModelStatus=lambda: status,
        getSolution=real.getSolution,
        modelStatusToString=real.modelStatusToString,
    )
    monkeypatch.setattr(engine, "highs", fake)
    own = {"converged", "proven infeasible", "infeasible or unbounded", "unbounded"}
    expected = TERMINATIONS[status] if TERMINATIONS[status] in own else stopped
    assert engine._outcome(stopped, 0.0).termination is expected


# -- what two runs say together -----------------------------------------------------------------------------


def answer(termination: str, objective: float | None, bound: float | None) -> Outcome:
    values = None if objective is None else {"x0": objective}
    return Outcome(Termination(termination), values, objective, bound, termination, "HiGHS's word")


STOPS = ("time limit", "interrupted", "node or iteration limit", "solver error")


@pytest.mark.parametrize(
    ("first", "again", "expected"),
    [
        # Both came to an end: the better plan, the lower bound.
        (("converged", -63, -63), ("converged", -68, -68), ("converged", -68, -68)),
        (("converged", -68, -68), ("converged", -63, -63), ("converged", -68, -68)),
        (("proven infeasible", None, None), ("converged", -68, -68), ("converged", -68, -68)),
        (("proven infeasible", None, None), ("proven infeasible", None, None), ("proven infeasible", None, None)),
        # The second was stopped with a better plan: the first's claim is refuted.
        *((("converged", -63, -63), (why, -68, -71), (why, -68, -71)) for why in STOPS),
        (("converged", -63, -63), ("time limit", -68, None), ("time limit", -68, None)),
        (("converged", -63, None), ("time limit", -68, -71), ("time limit", -68, -71)),
        # That there is no plan is not said before the second says so.
        *((("proven infeasible", None, None), (why, -68, -71), (why, -68, -71)) for why in STOPS),
        *((("proven infeasible", None, None), (why, None, None), (why, None, None)) for why in STOPS),
        (("infeasible or unbounded", None, None), ("time limit", None, -71), ("time limit", None, -71)),
    ],
)
def test_a_claim_that_the_second_run_refutes_or_confirms(first: Any, again: Any, expected: Any) -> None:
    one, two = answer(*first), answer(*again)
    got = together(one, two)
    assert (got.termination, got.objective, got.bound) == expected
    assert got.values == (None if got.objective is None else {"x0": got.objective})
    assert "not confirmed" not in got.bound_by
    stopped = again[0] in STOPS
    assert ("not confirmed" in got.log) == stopped
    if stopped and first[1] is None:
        assert first[0] in got.log, "what the first claimed is told"


@pytest.mark.parametrize(
    ("first", "again", "expected"),
    [
        (("converged", -68, -68), ("time limit", None, None), ("converged", -68, -68)),
        (("converged", -68, -68), ("time limit", -63, -71), ("converged", -68, -68)),
        (("converged", -68, -68), ("time limit", -68, -71), ("converged", -68, -68)),
        # Within the gap that was asked for the first's bound holds for a better plan too.
        (("converged", -63, -66), ("time limit", -65, -71), ("converged", -65, -66)),
        (("converged", -68, -68), ("time limit", -68 - 1e-9, -71), ("converged", -68 - 1e-9, -68 - 1e-9)),
        (("converged", -68, None), ("time limit", -63, -71), ("converged", -68, None)),
    ],
)
def test_a_claim_that_the_second_run_did_not_confirm_says_so(first: Any, again: Any, expected: Any) -> None:
    got = together(answer(*first), answer(*again))
    assert (got.termination, got.objective, got.bound) == expected
    assert got.bound_by == "HiGHS's word, not confirmed: the time was over"
    assert "not confirmed: the time was over" in got.log


@pytest.mark.parametrize("why", ["interrupted", "node or iteration limit", "proven infeasible"])
def test_why_it_is_not_confirmed(why: str) -> None:
    got = together(answer("converged", -68, -68), answer(why, None, None))
    assert got.bound_by == f"HiGHS's word, not confirmed: the second run ended by: {why}"


def only_once(monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """Every second run of a solve finds its time over."""
    real, made = Engine._run, list[Outcome]()

    def run(self: Engine, time_limit_s: float | None, interruptible: bool) -> Outcome:
        made.append(real(self, 0.0 if len(made) % 2 else time_limit_s, interruptible))
        return made[-1]

    monkeypatch.setattr(Engine, "_run", run)
    return made


def test_a_user_is_told_that_an_optimum_is_not_confirmed(small: sp.SplitPoint, monkeypatch: pytest.MonkeyPatch) -> None:
    made = only_once(monkeypatch)
    solution = small.solve("highs", time_limit_s=60.0)
    assert [o.termination for o in made[-2:]] == ["converged", "time limit"]
    assert solution.objective == pytest.approx(small.solve("ideals").objective)
    assert "not confirmed: the time was over" in solution.bound_by and solution.bound_by in str(solution)


def test_infeasible_is_not_said_unconfirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    a = knapsack(0, None)[0]
    none = replace(a, row_upper=np.full(len(a.rows), -1.0))
    assert solve_arrays(none, time_limit_s=60.0).termination is Termination.INFEASIBLE
    real, runs = Engine._run, [0]

    def run(self: Engine, time_limit_s: float | None, interruptible: bool) -> Outcome:
        runs[0] += 1  # HiGHS sees that there is no plan without any time, so the second's answer is set
        return real(self, time_limit_s, interruptible) if runs == [1] else answer("time limit", None, None)

    monkeypatch.setattr(Engine, "_run", run)
    outcome = solve_arrays(none, time_limit_s=60.0)
    assert runs == [2]
    assert (outcome.termination, outcome.values) == (Termination.TIME_LIMIT, None)
    assert outcome.log.endswith("not confirmed: the time was over (proven infeasible, by the first)")


def test_a_run_that_was_cancelled_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C that came just before the first run's end ends the solve."""
    runs = [0]

    def at_its_end(self: Engine, time_limit_s: float) -> Termination:
        runs[0] += 1
        self.highs.run()
        return Termination.INTERRUPTED

    monkeypatch.setattr(Engine, "_run_watched", at_its_end)
    a, best = knapsack(0, None)
    outcome = Engine(a).run()
    assert runs == [1]
    assert (outcome.termination, outcome.objective) == (Termination.CONVERGED, pytest.approx(best))
    assert outcome.bound_by.endswith("not confirmed: the second run ended by: interrupted")
    none = Engine(replace(a, row_upper=np.full(len(a.rows), -1.0))).run()
    assert (none.termination, none.values) == (Termination.INTERRUPTED, None)


@pytest.mark.parametrize("solver", [Highs, PipelineMILP, PlacementMilp])
@pytest.mark.parametrize("options", [{"threads": 0}, {"node_limit": -1}])
def test_options_that_cannot_be(solver: type[BranchAndBound], options: dict[str, int]) -> None:
    with pytest.raises(SolverError, match="give threads from 1, node_limit from 0"):
        solver(**options)


def test_an_option_that_highs_does_not_know_is_an_error(small: sp.SplitPoint) -> None:
    engine = Engine(to_arrays(small.build()))
    for name, value in (("mip_rel_gapp", 0.0), ("mip_rel_gap", -1.0), ("presolve", 3.5)):
        with pytest.raises(SolverError, match=f"HiGHS refused option {name}"):
            engine.option(name, value)


def test_numbers_that_highs_cannot_hold() -> None:
    a = Arrays(
        np.array([1.0]), 0.0, csr_array(np.array([[1e20]])), np.array([0.0]), np.array([1.0]), np.array([0.0]), np.array([1.0]),
        np.array([True]), ("x",), ("r",),
    )  # fmt: skip
    with pytest.raises(SolverError, match=r"larger than 1e15.*Check the units"):
        Engine(a)


# -- canary: MIPs whose optimum is known ------------------------------------------------------------------


def knapsack(seed: int, big_m: float | None) -> tuple[Arrays, float]:
    """A random MIP of 9 binaries with side constraints (and a switch by big-M), and its optimum by enumeration."""
    rng = np.random.default_rng(seed)
    n, rows = 9, 4
    cost = rng.integers(-20, 5, n).astype(float)
    matrix = rng.integers(0, 12, (rows, n)).astype(float)
    room = np.floor(matrix.sum(1) * rng.uniform(0.2, 0.6, rows))
    use = 3.0  # price of opening the first resource: Σ … ≤ M·z
    best = math.inf
    for x in itertools.product((0.0, 1.0), repeat=n):
        point = np.array(x)
        if np.all(matrix @ point <= room):
            best = min(best, cost @ point + (use if big_m and matrix[0] @ point > 0 else 0.0))
    if big_m:
        matrix = np.c_[matrix, np.zeros(rows)]
        matrix = np.r_[matrix, [np.r_[matrix[0, :n], -big_m]]]
        cost, room = np.r_[cost, use], np.r_[room, 0.0]
    m, columns = matrix.shape
    a = Arrays(
        cost, 0.0, csr_array(matrix), np.full(m, -np.inf), room, np.zeros(columns), np.ones(columns), np.ones(columns, bool),
        tuple(f"x{j}" for j in range(columns)), tuple(f"r{i}" for i in range(m)),
    )  # fmt: skip
    return a, best


@pytest.mark.parametrize("big_m", [None, "tight"])
def test_canary_for_wrong_optima(big_m: str | None) -> None:
    for seed in range(60):
        a, best = knapsack(seed, 120.0 if big_m else None)
        outcome = solve_arrays(a)
        assert outcome.termination is Termination.CONVERGED
        assert outcome.objective == pytest.approx(best, abs=1e-6), f"seed {seed}: HiGHS's optimum is wrong"
        assert outcome.bound is not None and outcome.bound <= best + 1e-6


def test_no_big_m_in_our_own_models() -> None:
    """Coefficients of the MILP stay where HiGHS's absolute tolerances mean something, for plausible data."""
    for seed in range(60):
        choose = Seeded(seed)
        p = instances.split_problem(choose, choose.whole(2, 14))
        a = to_arrays(p.build())
        size = np.abs(a.matrix.data[a.matrix.data != 0])
        assert size.max() <= 1e8, p.describe()


# -- weak duality -------------------------------------------------------------------------------------------


def test_a_bound_from_any_multipliers() -> None:
    for seed in range(40):
        choose = Seeded(seed)
        p = instances.split_problem(choose, 8, objectives=instances.LINEAR_OBJECTIVES, limits=False)
        a = to_arrays(p.build())
        outcome = solve_arrays(a, relax=True)
        assert outcome.objective is not None and outcome.bound is not None
        assert outcome.bound == pytest.approx(outcome.objective, rel=1e-9, abs=1e-6)
        rng = np.random.default_rng(seed)
        for factor in (0.1, 1.0, 100.0):
            bound = dual_bound(a, rng.normal(size=len(a.rows)) * factor)
            assert bound is not None and bound <= outcome.objective + 1e-6


# -- slots -----------------------------------------------------------------------------------------------


def slots(p: sp.SplitPoint, count: int, seed: int) -> list[dict[str, float]]:
    """Rates that fade by up to a thousand, delays up to 50 ms; sometimes only one of them is given."""
    rng = np.random.default_rng(seed)
    link, made = p.system.link, []
    for i in range(count):
        slot = {
            "rate_up_bps": link.rate_up_bps * 10 ** rng.uniform(-2, 1),
            "rate_down_bps": link.rate_down_bps * 10 ** rng.uniform(-2, 1),
            "delay_up_s": rng.uniform(0, 0.05),
            "delay_down_s": rng.uniform(0, 0.05),
        }
        made.append(dict(list(slot.items())[: i % 4 + 1]))
    return made


def same_as_fresh(p: sp.SplitPoint, solver: str, count: int, seed: int) -> tuple[float, int]:
    compiled = p.compile(solver)
    worst, refused = 0.0, 0
    for slot in slots(p, count, seed):
        try:
            fresh = p.with_slot(**slot).solve("ideals").objective
        except InfeasibleError:
            with pytest.raises(InfeasibleError):
                compiled.step(**slot)
            refused += 1
            continue
        step = compiled.step(**slot)
        assert step.status == "optimal", str(step)
        assert step.objective == pytest.approx(fresh, rel=1e-9, abs=0)
        worst = max(worst, abs(step.objective - fresh) / fresh if fresh else 0.0)
    assert compiled.rebuilds == 0
    return worst, refused


@pytest.mark.parametrize("seed", range(6))
def test_steps_equal_fresh_solves_lp(seed: int) -> None:
    p = instances.split_problem(Seeded(seed), 12, objectives=instances.LINEAR_OBJECTIVES, limits=False)
    same_as_fresh(p, "highs-lp", 40, seed)
    same_as_fresh(p, "highs", 10, seed)


def test_steps_equal_fresh_solves_with_limits_that_move() -> None:
    """A deadline and an energy budget: their rows' coefficients change with the rates, so do periods."""
    refused = 0
    for seed in range(8):
        p = instances.split_problem(Seeded(seed), 10, limits=False)
        middle = p.plan_for(np.arange(10) >= 5) if not p.pin_device + p.pin_server else p.solve().plan
        terms = p.evaluate(middle)
        p = replace(p, deadline_s=terms["latency_s"] * 1.2, period_limit_s=terms["period_s"] * 1.5)
        if "energy" in p.measures and terms["energy_j"]:
            p = replace(p, energy_budget_j=terms["energy_j"] * 1.3)
        refused += same_as_fresh(p, "highs", 15, seed)[1]
    assert refused > 0, "some slots should be infeasible"


@pytest.mark.slow
def test_many_steps(capsys: pytest.CaptureFixture[str]) -> None:
    worst = 0.0
    for seed in range(40):
        choose = Seeded(500 + seed)
        layers = choose.whole(5, 40)
        p = instances.split_problem(
            choose, layers, objectives=instances.LINEAR_OBJECTIVES, limits=False, reach=2, dense=0.1
        )
        if p.solvers and _few_heads(p):
            worst = max(worst, same_as_fresh(p, "highs-lp", 100, seed)[0])
    with capsys.disabled():
        print(f"\nsteps against fresh solves: worst relative difference {worst:.2g}")


def _few_heads(p: sp.SplitPoint) -> bool:
    try:
        p.solve("ideals")
    except SolverError:
        return False
    return True


def test_an_unknown_slot_parameter(small: sp.SplitPoint) -> None:
    for call in (small.with_slot, small.compile("highs").step):
        with pytest.raises(SolverError, match="unknown slot parameters rate_bps; known: rate_up_bps, rate_down_bps"):
            call(rate_bps=1e6)


def test_what_cannot_be_compiled(small: sp.SplitPoint) -> None:
    with pytest.raises(SolverError, match=r"'ideals' cannot be compiled for split-point; these can: highs-lp, highs"):
        small.compile("ideals")
    with pytest.raises(SolverError, match="deadline_s: with a limit"):
        small.compile("highs-lp")


@dataclass(frozen=True, eq=False)
class Bent(sp.SplitPoint):
    """Not affine in the slot's coordinates: the square of a rate's reciprocal stands in the objective."""

    def build(self) -> Any:
        m = super().build()
        m.cost.set_value(m.cost.expr + (1e7 / self.system.link.rate_up_bps) ** 2 * m.u)
        return m


@dataclass(frozen=True, eq=False)
class Changing(sp.SplitPoint):
    """Rows come and go with the slot."""

    def build(self) -> Any:
        m = super().build()
        if self.system.link.rate_up_bps > 30e6:
            m.more = pyo.Constraint(expr=m.u <= 1 - 0.5 * m.x[0])
        return m


def test_affine_refuses_what_is_not(diamond_profile: sp.Profile, system: sp.System) -> None:
    with pytest.raises(SolverError, match="not affine in the slot's coordinates"):
        Affine(Bent(diamond_profile, system))
    with pytest.raises(SolverError, match="rows or columns change with the slot"):
        Affine(Changing(diamond_profile, system))


def test_affine_is_exact_at_its_samples(small: sp.SplitPoint) -> None:
    affine = Affine(small)
    moved = small.with_slot(rate_up_bps=3e5, delay_up_s=0.07)
    direct, patched = to_arrays(moved.build()), affine.at(moved.slot_point())
    np.testing.assert_allclose(direct.matrix.todense(), patched.matrix.todense(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(direct.cost, patched.cost, rtol=1e-9)
    assert HighsLP.relax and not Highs.relax
