"""What the solvers of OperatorPlacement are made of: merging, ideals, annealing, packing, coarsening."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import placement_instances as instances
from splitplan.data.operators import Operator, OperatorGraph
from splitplan.formulations.placement import OperatorPlacement, shared
from splitplan.formulations.placement_costs import Groups
from splitplan.solvers.clock import Clock
from splitplan.solvers.ideals import closed_sets
from splitplan.solvers.placement_anneal import Tables
from splitplan.solvers.placement_chain import spared
from splitplan.solvers.placement_coarse import coarser
from splitplan.solvers.placement_cutoff import whole_tensors
from splitplan.solvers.placement_ideals import Ideals, TooMany, all_ideals
from splitplan.solvers.placement_local import Search
from splitplan.solvers.placement_milp import improved
from splitplan.solvers.placement_packing import knapsack, packing_bound
from splitplan.solvers.placement_pipeline import beside, order_within, prefixes
from splitplan.solvers.placement_reduce import reduced
from tests.formulations.placement_brute_force import least, random_placement

PROBLEMS = [p for seed in range(150) if (p := random_placement(3000 + seed))]


@pytest.mark.parametrize("k", range(0, len(PROBLEMS), 3))
def test_merging_keeps_the_optimum(k: int) -> None:
    problem = replace(PROBLEMS[k], contiguous=False)
    groups, to = reduced(problem)
    devices = range(problem.accelerators + problem.cpus)
    best = np.inf
    for at in itertools.product(devices, repeat=len(groups)):
        plan = problem.plan_for(np.array(at)[to])
        if not problem.violations(plan):
            best = min(best, problem.evaluate(plan)["objective"])
    assert best == pytest.approx(least(problem))


def test_ideals_are_all_closed_sets_once() -> None:
    draw = np.random.default_rng(0)
    for _ in range(30):
        n = int(draw.integers(1, 9))
        order = [(a, b) for a, b in itertools.combinations(range(n), 2) if draw.random() < 0.4]
        found = all_ideals(n, order, 10**6)
        assert len(found) == len(set(found))
        assert set(found) == set(closed_sets(n, order))
        with pytest.raises(TooMany):
            all_ideals(n, order, len(found) - 1)


@pytest.mark.parametrize("seed", range(6))
def test_times_between_ideals(seed: int) -> None:
    graph = instances.random_wide(seed, 14)
    problem = OperatorPlacement(graph, 1, True, cpus=1)
    groups, _ = reduced(problem)
    ideals = Ideals(groups, all_ideals(len(groups), groups.order, 10**5))
    work = ideals.summed(groups.accelerator_s)
    draw = np.random.default_rng(seed)
    for i in draw.choice(len(ideals) - 1, min(20, len(ideals) - 1), replace=False).tolist():
        above = ideals.above(i, np.inf)
        inside = ideals.inside[:, i]
        assert set(above.tolist()) == {
            j for j in range(len(ideals)) if j != i and (ideals.inside[:, j] >= inside).all()
        }
        moved = ideals.moved_s(i, above)
        for j, seconds in list(zip(above.tolist(), moved.tolist(), strict=True))[:20]:
            # Accelerator 0 has what lies between, a CPU the rest.
            device = np.where(ideals.inside[:, j] & ~inside, 0, 1)
            assert work[j] - work[i] + seconds == pytest.approx(groups.loads(device, 1, 1)[0])


@pytest.mark.parametrize("seed", range(8))
def test_annealing_keeps_its_books(seed: int) -> None:
    problem = OperatorPlacement(instances.random_wide(seed, 40), 3, cpus=1, memory_bytes=2e9)
    tables = Tables(problem.parts, 3, 1, problem.room)
    start = np.random.default_rng(seed).integers(0, 4, len(problem.parts))
    before = start.copy()
    device, value = tables.anneal(start, 0.02, 3000, 0.1, 0.001, 4, seed)
    assert (start == before).all()
    assert value == pytest.approx(problem.parts.loads(device, 3, 1).max(), rel=1e-9)
    assert (problem.parts.bytes_on(device, 3, 1)[:3] <= problem.room * (1 + 1e-9)).all()
    again, same = tables.anneal(start, 0.02, 3000, 0.1, 0.001, 4, seed)
    assert same == value
    assert (again == device).all()


def test_packing_by_hand() -> None:
    """25 pieces of about 1 for 6 devices: one gets 5, whatever the mean says."""
    ops = tuple(Operator(f"v{i}", 1.0 + 1e-3 * i, 100.0) for i in range(25))
    problem = OperatorPlacement(OperatorGraph("pieces", ops, ()), 6, cpus=1)
    assert problem.bound < 4.3
    assert packing_bound(problem, 5.2, 20.0) == pytest.approx(5.01, rel=2e-3)


@pytest.mark.parametrize("k", range(0, len(PROBLEMS), 4))
def test_the_packing_bound_is_one(k: int) -> None:
    problem = PROBLEMS[k]
    best = least(problem)
    if np.isfinite(best) and not problem.contiguous:
        assert packing_bound(problem, 1.3 * best + 1e-6, 5.0) <= best * (1 + 1e-9) + 1e-12


def test_knapsack() -> None:
    draw = np.random.default_rng(1)
    for _ in range(20):
        price, weight = draw.integers(0, 9, 8).astype(float), draw.integers(1, 9, 8)
        value, chosen = knapsack(price, weight, 15)
        sets = itertools.product((0, 1), repeat=8)
        assert value == max(float(price @ s) for s in map(np.array, sets) if weight @ s <= 15)
        assert float(price @ chosen) == value
        assert weight @ chosen <= 15


def test_work_shared_out_is_a_linear_program() -> None:
    from scipy.optimize import linprog

    draw = np.random.default_rng(2)
    for _ in range(40):
        n, k, m = 6, int(draw.integers(1, 4)), int(draw.integers(0, 3))
        a = np.where(draw.random(n) < 0.15, np.inf, draw.random(n) * draw.integers(0, 2, n))
        b = np.where(np.isfinite(a) & (draw.random(n) < 0.15), np.inf, draw.random(n) * 5)
        if m == 0:
            a = np.where(np.isfinite(a), a, 1.0)
        # columns: share of each on accelerators, on CPUs, T
        bounds = [(0, 0 if np.isinf(x) else 1) for x in a] + [(0, 0 if np.isinf(x) or m == 0 else 1) for x in b] + [(0, None)]  # fmt: skip
        rows = [
            np.r_[np.where(np.isinf(a), 0, a), np.zeros(n), -k],
            np.r_[np.zeros(n), np.where(np.isinf(b), 0, b), -max(m, 1)],
        ]
        same = np.hstack([np.eye(n), np.eye(n), np.zeros((n, 1))])
        found = linprog(np.r_[np.zeros(2 * n), 1.0], rows, [0, 0], same, np.ones(n), bounds)
        assert shared(a, b, k, m) == pytest.approx(found.fun, abs=1e-9)
        assert spared(a, b, 0.7) <= np.where(np.isfinite(a), a, 0).sum() + 1e-12


@pytest.mark.parametrize("k", range(0, len(PROBLEMS), 2))
def test_what_a_known_plan_forbids_is_in_no_better_one(k: int) -> None:
    problem = PROBLEMS[k]
    if problem.contiguous or not np.isfinite(best := least(problem)):
        return
    for known in (best, 1.1 * best + 0.1):
        to, whole = whole_tensors(problem, known)
        merged = problem.over(problem.parts.merged(to))
        found = improved(merged, None, None, 10.0)
        if known > best:
            assert found.value == pytest.approx(best, rel=1e-6, abs=1e-9)
        assert all(t < len(merged.parts.ends) for t in whole)


def test_coarser_groups_are_fewer_and_stay_on_their_device() -> None:
    problem = OperatorPlacement(instances.bert(0, 3))
    draw = np.random.default_rng(0)
    device = draw.integers(0, 3, len(problem.parts))
    to = coarser(problem.parts, 12, 1.0, draw, device)
    assert len(np.unique(to)) < 0.6 * len(problem.parts)
    for g in np.unique(to):
        assert len(set(device[to == g].tolist())) == 1


def test_orders_and_neighbours_are_ideals() -> None:
    problem = OperatorPlacement(instances.random_wide(3, 30), contiguous=True)
    groups, _ = reduced(problem)
    draw = np.random.default_rng(0)
    for kind in ("any", "depth", "frontier"):
        order = order_within(groups, np.zeros(len(groups), int), draw, kind)
        place = np.argsort(order)
        assert all(place[a] < place[b] for a, b in groups.order)
    cuts = prefixes(order)
    for mask in beside(groups, [cuts[0], cuts[10], cuts[20], cuts[-1]], draw, 200):
        assert all(mask >> a & 1 or not mask >> b & 1 for a, b in groups.order)


def test_device_by_device_never_worsens() -> None:
    problem = OperatorPlacement(instances.bert(1, 4), cpus=0)
    search = Search(problem, 0)
    search.offer(search.even())
    before = search.value
    search.by_parts(Clock(6.0), lambda: False)
    assert search.value < before
    assert search.value == pytest.approx(problem.parts.loads(search.best, problem.accelerators, 0).max())


def test_groups_of_one_colour_are_summed() -> None:
    graph = OperatorGraph("g", (Operator("a", 1.0, 2.0, 0.5, 3.0, "x"), Operator("b", None, 4.0, 0.25, 5.0, "x"), Operator("c", 7.0, 8.0)), (("a", "b"), ("a", "c"), ("b", "c")))  # fmt: skip
    groups = Groups.of_graph(graph)
    assert groups.accelerator_s.tolist() == [np.inf, 7.0]
    assert groups.cpu_s.tolist() == [6.0, 8.0]
    assert groups.memory_bytes.tolist() == [8.0, 0.0]
    assert groups.ends == ((0, 1),)
    assert groups.cost_s.tolist() == [0.75]
