"""From what a solver hands back to a Solution: the audit confirms it, or the user never sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import splitplan as sp
from splitplan.errors import AuditError, InfeasibleError, NoSolutionError
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Termination
from tests.generators import split_problems


@dataclass(frozen=True)
class Fake:
    """Hands back whatever a test wants."""

    make: Callable[[Any], Found] = field(default=lambda p: Found(None, Termination.ERROR))
    name: ClassVar[str] = "fake"
    solves: ClassVar[tuple[str, ...]] = ("split-point", "rate-allocation")
    rung: ClassVar[Ladder] = Ladder.HEURISTIC
    exact: ClassVar[bool] = False

    def why_not(self, problem: Any) -> str | None:
        return None

    def solve(self, problem: Any, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        return self.make(problem)


def hands_back(plan: Any, termination: Termination = Termination.FINISHED, **more: Any) -> Fake:
    return Fake(lambda p: Found(plan, termination, **more))


@pytest.fixture
def problem(diamond_profile: sp.Profile, system: sp.System) -> sp.SplitPoint:
    return sp.SplitPoint(diamond_profile, system, pin_device=("a",), device_memory_bytes=1.2e5, objective="energy")


def test_an_honest_heuristic(problem: sp.SplitPoint) -> None:
    best = problem.solve()
    found = problem.solve(hands_back(best.plan))
    assert (found.status, found.gap, found.bound, found.termination) == ("feasible", None, None, "finished")
    assert "no bound" in str(found)
    assert found.objective == best.objective
    found.to_json()
    found._repr_html_()


def test_a_heuristic_with_a_bound(problem: sp.SplitPoint) -> None:
    best = problem.solve()
    loose = problem.solve(hands_back(best.plan, bound=best.objective / 2))
    assert loose.status == "feasible"
    assert loose.gap == pytest.approx(0.5)
    tight = problem.solve(hands_back(best.plan, bound=best.objective))
    assert (tight.status, tight.gap) == ("optimal", 0.0)
    within = problem.solve(hands_back(best.plan, bound=best.objective * 0.97), gap=0.05)
    assert within.status == "optimal"


def moved(plan: sp.SplitPlan, name: str) -> sp.SplitPlan:
    far = set(plan.server_layers) ^ {name}
    order = "abcd"
    return replace(
        plan,
        device_layers=tuple(v for v in order if v not in far),
        server_layers=tuple(v for v in order if v in far),
    )


MUTATIONS: dict[str, tuple[Callable[[sp.SplitPlan], sp.SplitPlan], str]] = {
    "a pinned layer moved": (lambda p: moved(p, "a"), r"pin_device: 'a' is on the server"),
    "data crossing back": (
        lambda p: replace(p, device_layers=("a", "d"), server_layers=("b", "c")), "one way only"
    ),
    "a layer lost": (lambda p: replace(p, device_layers=("a",), server_layers=("b", "c")), "'d' is not placed"),
    "a layer made up": (
        lambda p: replace(p, device_layers=("a",), server_layers=("b", "c", "d", "e")), "'e' is not in the graph"
    ),
    "another wire": (lambda p: replace(p, wire="fp16"), "wire is 'fp16', the problem says 'fp32'"),
    "another place": (lambda p: replace(p, result="server"), "result is 'server', the problem says 'device'"),
    "another clock": (lambda p: replace(p, clock_hz=1e9), "clock is 1000000000.0, the problem says None"),
    "another model": (lambda p: replace(p, fingerprint="0" * 64), "made for fingerprint 000000000000"),
    "over its memory": (
        lambda p: replace(p, device_layers=("a", "b", "c", "d"), server_layers=()), "device_memory_bytes=120000"
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutated_plan_is_rejected(problem: sp.SplitPoint, mutation: str) -> None:
    change, message = MUTATIONS[mutation]
    plan = problem.solve().plan
    with pytest.raises(AuditError, match=message):
        problem.solve(hands_back(change(plan)))


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"objective": 0.5}, "fake says the plan costs"),
        ({"objective": 1.001}, "fake says the plan costs"),
        ({"objective": float("nan")}, "fake says the plan costs nan"),
        ({"bound": 1.001}, "claims a bound"),
    ],
)
def test_tampered_numbers_are_rejected(problem: sp.SplitPoint, claim: dict[str, float], message: str) -> None:
    best = problem.solve()
    with pytest.raises(AuditError, match=message):
        problem.solve(hands_back(best.plan, Termination.CONVERGED, **{k: v * best.objective for k, v in claim.items()}))


def test_a_claim_is_compared_when_it_is_of_a_proven_optimum(problem: sp.SplitPoint) -> None:
    best = problem.solve()
    slack = hands_back(best.plan, Termination.CONVERGED, objective=1.2 * best.objective, bound=0.7 * best.objective)
    at_a_gap = problem.solve(slack, gap=0.5)
    assert (at_a_gap.objective, at_a_gap.status) == (best.objective, "optimal")
    assert at_a_gap.gap == pytest.approx(0.3)
    with pytest.raises(AuditError, match="fake says the plan costs"):
        problem.solve(slack)


@pytest.mark.parametrize("termination", list(Termination))
def test_no_plan(problem: sp.SplitPoint, termination: Termination) -> None:
    infeasible = termination in (Termination.INFEASIBLE, Termination.INFEASIBLE_OR_UNBOUNDED)
    with pytest.raises(InfeasibleError if infeasible else NoSolutionError) as caught:
        problem.solve(hands_back(None, termination, conflicts=("deadline_s=1: too early",) if infeasible else ()))
    assert ("deadline_s=1: too early" if infeasible else str(termination)) in str(caught.value)


@pytest.mark.parametrize("termination", [t for t in Termination if t not in ("unbounded",)])
def test_a_plan_in_hand_whatever_the_termination_says(problem: sp.SplitPoint, termination: Termination) -> None:
    best = problem.solve()
    found = problem.solve(hands_back(best.plan, termination))
    assert (found.status, found.termination, found.objective) == ("feasible", termination, best.objective)


@settings(max_examples=60)
@given(split_problems(least=2, most=8, limits=False), st.randoms(use_true_random=False))
def test_any_other_cut_with_the_optimum_s_claims_is_rejected(p: sp.SplitPoint, random: Any) -> None:
    best = p.solve()
    names = [layer.name for layer in p.profile.graph.layers]
    far = {n for n in names if random.random() < 0.5}
    other = sp.SplitPlan(
        best.plan.model,
        best.plan.fingerprint,
        tuple(n for n in names if n not in far),
        tuple(n for n in names if n in far),
        wire=p.wire,
        result=p.result,
        clock_hz=best.plan.clock_hz,
    )
    valid = p.profile.graph.is_monotone(far) and not far & set(p.pin_device) and far >= set(p.pin_server)
    if valid and p.evaluate(other)["objective"] <= best.objective * (1 + 1e-4) + p.smallest:
        return
    with pytest.raises(AuditError):
        p.solve(hands_back(other, Termination.CONVERGED, objective=best.objective, bound=best.bound))


# -- allocations ----------------------------------------------------------------------------------------


@pytest.fixture
def shared() -> sp.RateAllocation:
    users = (
        sp.User("a", 1e5, 0.01, deadline_s=1.0),
        sp.User("b", 2e5, 0.02, rate_cap_bps=5e6),
        sp.User("c", 0.0, 0.03, speed_cap=0.5),
    )
    return sp.RateAllocation(users, 1e7, 1.0)


@pytest.mark.parametrize(
    ("rate", "speed", "message"),
    [
        ([9e6, 2e6, 0.0], [0.3, 0.3, 0.3], "uplink_bps=1e.07: 11000000 is given out"),
        ([5e6, 4e6, 0.0], [0.5, 0.4, 0.3], "server_speed=1: 1.2 is given out"),
        ([4e6, 6e6, 0.0], [0.3, 0.3, 0.3], "user 'b': rate_cap_bps"),
        ([4e6, 5e6, 0.0], [0.2, 0.2, 0.6], "user 'c': speed_cap"),
        ([8e5, 5e6, 0.0], [0.3, 0.3, 0.3], "user 'a': deadline_s"),
        ([0.0, 5e6, 0.0], [0.3, 0.3, 0.3], "user 'a': rate is 0.0"),
        ([4e6, -1.0, 0.0], [0.3, 0.3, 0.3], "user 'b': rate is -1.0"),
        ([4e6, 5e6, 0.0], [0.3, np.nan, 0.3], "user 'b': speed is nan"),
    ],
)
def test_a_mutated_allocation_is_rejected(
    shared: sp.RateAllocation, rate: list[float], speed: list[float], message: str
) -> None:
    plan = replace(shared.solve().plan, rate_bps=np.array(rate), speed=np.array(speed))
    with pytest.raises(AuditError, match=message):
        shared.solve(hands_back(plan))


def test_tampered_multipliers_prove_less_never_more(shared: sp.RateAllocation) -> None:
    best = shared.solve()
    for factor in (0.0, 0.5, 0.9, 1.1, 3.0, 1e6):
        duals = {k: np.asarray(v) * factor + factor * 1e-9 for k, v in best.duals.items()}
        found = shared.solve(hands_back(best.plan, Termination.CONVERGED, bound=best.objective, duals=duals))
        # The solver's own claim of a bound is not believed where the audit can compute it.
        assert found.bound is not None and found.bound <= best.objective
        assert found.status == ("optimal" if found.gap <= 1e-6 else "feasible")
    assert found.status == "feasible"
