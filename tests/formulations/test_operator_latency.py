"""OperatorLatency: brute force = MILP, list schedules never below it, bounds that hold, an audit that tells what was changed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import splitplan as sp
from splitplan.data.operators import Operator, OperatorGraph, OperatorSchedule
from splitplan.errors import DataError, InfeasibleError, NoSolutionError, SplitplanError
from splitplan.formulations.operator_latency import OperatorLatency
from splitplan.formulations.solution import Status
from splitplan.solvers.audit_latency import audit_latency
from splitplan.solvers.latency_list import LatencyList
from splitplan.solvers.latency_milp import LatencyMilp
from tests.formulations.placement_brute_force import random_placement


def random_latency(seed: int, most: int = 4) -> OperatorLatency | None:
    """An instance with few operators, from those of placements; None when the dice made none."""
    place = random_placement(seed)
    if place is None or len(place.graph) > most:
        return None
    return OperatorLatency(place.graph, place.accelerators, place.cpus, place.memory_bytes)


def sequences(graph: OperatorGraph) -> Iterator[tuple[str, ...]]:
    """All topological orders."""
    for order in itertools.permutations([o.name for o in graph.operators]):
        if all(order.index(a) < order.index(b) for a, b in graph.edges):
            yield order


def least(p: OperatorLatency) -> float:
    """The least latency by trying every device and every sequence; infinite when there is none."""
    ops, best = p.graph.operators, math.inf
    orders = list(sequences(p.graph))
    for at in itertools.product(range(len(p.devices)), repeat=len(ops)):
        on = {o.name: d for o, d in zip(ops, at, strict=True)}
        seconds = {o.name: o.accelerator_s if on[o.name] < p.accelerators else o.cpu_s for o in ops}
        homes: dict[str, set[int]] = {}
        for o in ops:
            homes.setdefault(o.colour or f"alone {o.name}", set()).add(on[o.name])
        memory = [sum(o.memory_bytes for o in ops if on[o.name] == d) for d in range(p.accelerators)]
        if None in seconds.values() or any(len(ds) > 1 for ds in homes.values()):
            continue
        if p.memory_bytes is not None and any(m > p.memory_bytes for m in memory):
            continue
        output = {o.name: o.output_s for o in ops}
        for order in orders:
            free, done = [0.0] * len(p.devices), dict[str, float]()
            for v in order:
                begin = free[on[v]]
                for a, b in p.graph.edges:
                    if b == v:
                        hops = 0 if on[a] == on[v] else (on[a] < p.accelerators) + (on[v] < p.accelerators)
                        begin = max(begin, done[a] + hops * output[a])
                done[v] = free[on[v]] = begin + (seconds[v] or 0.0)
            best = min(best, max(done.values()))
    return best


@pytest.mark.parametrize("block", range(5))
def test_brute_force_and_milp(block: int) -> None:
    seen = 0
    for seed in range(200 * block, 200 * block + 60):
        if (p := random_latency(seed)) is None:
            continue
        seen += 1
        expected = least(p)
        if math.isinf(expected):
            with pytest.raises(SplitplanError):
                p.solve(LatencyMilp(pairs=10_000))
            continue
        near = 1e-6 * max(expected, 1e-6)
        found = p.solve(LatencyMilp(pairs=10_000))
        assert found.objective == pytest.approx(expected, abs=near), seed
        assert found.status == sp.Status.OPTIMAL, seed
        assert p.bound <= expected + near
        try:
            listed = p.solve("latency-list")
        except NoSolutionError:
            assert p.memory_bytes is not None  # a list schedule may not find its way through memory
            continue
        assert listed.objective >= expected - near
        assert listed.bound is not None and listed.bound <= expected + near
        assert not p.violations(listed.plan)
    assert seen >= 15


CHAIN = OperatorGraph(
    "two branches",
    (
        Operator("a", 1.0, 4.0, 0.5),
        Operator("b", 2.0, 4.0, 0.25),
        Operator("c", 2.0, 2.0, 0.25),
        Operator("d", 1.0, 4.0),
    ),
    (("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")),
)


def test_by_hand() -> None:
    """One accelerator: 6 s in a row; with a CPU c runs there: a, move 0.5, c 2, move 0.25, d."""
    assert OperatorLatency(CHAIN, 1, 0).solve().objective == pytest.approx(6.0)
    p = OperatorLatency(CHAIN, 1, 1)
    solution = p.solve()
    assert solution.objective == pytest.approx(1 + 0.5 + 2 + 0.25 + 1)
    assert solution.plan.placement["c"] == "cpu0" and solution.status == sp.Status.OPTIMAL
    assert p.evaluate(solution.plan)["acc0_s"] == pytest.approx(4.0)
    assert "two branches" in solution.problem and [r.solver for r in solution.rungs] == ["latency-milp"]
    assert any(a.name == "all on acc0" and a.objective == pytest.approx(6.0) for a in p.alternatives(solution.plan))


def dear_chain(seed: int, length: int = 40) -> OperatorGraph:
    """A chain whose every other operator is quicker on a CPU by more than it takes to get there, and by less than there and back."""
    rng = np.random.default_rng(seed)
    ops = []
    for k in range(length):
        slow, move = rng.uniform(2.5, 3.5), rng.uniform(1.2, 1.4)
        quick, far = (slow, 1.0) if k % 2 else (1.0, 8.0)
        ops.append(Operator(f"o{k}", quick, far, move, memory_bytes=1.0))
    return OperatorGraph("dear", tuple(ops), tuple((f"o{k}", f"o{k + 1}") for k in range(length - 1)))


@pytest.mark.parametrize("seed", range(5))
def test_dear_transfers_never_make_it_worse_than_one_device(seed: int) -> None:
    graph = dear_chain(seed)
    on = {
        "acc": sum(o.accelerator_s or 0.0 for o in graph.operators),
        "cpu": sum(o.cpu_s or 0.0 for o in graph.operators),
    }
    p = OperatorLatency(graph, 2, 1, memory_bytes=100.0)
    assert p.solve(LatencyList(rounds=1)).objective > 1.05 * on["acc"]  # each operator where it is done first
    assert p.solve(LatencyList(rounds=3)).objective <= on["acc"] * (1 + 1e-9) < on["cpu"]
    assert p.solve("latency-list", time_limit_s=1e-6).objective <= on["acc"] * (1 + 1e-9)
    small = OperatorLatency(graph, 2, 1, memory_bytes=3.0)  # no accelerator has room for all
    assert small.solve(LatencyList(rounds=3)).objective <= on["cpu"] * (1 + 1e-9)
    assert not small.violations(small.solve(LatencyList(rounds=3)).plan)


def test_the_audit_rejects_what_was_changed() -> None:
    p = OperatorLatency(CHAIN, 1, 1)
    plan = p.solve().plan

    def changed(**begin: float) -> OperatorSchedule:
        return replace(plan, begin_s={**plan.begin_s, **begin})

    assert not audit_latency(p, plan, {}).violations
    early = audit_latency(p, changed(d=3.5), {}).violations
    assert any("before what 'c' makes is there" in x for x in early)
    assert any("has 'a' and 'b' at once" in x for x in audit_latency(p, changed(b=0.5), {}).violations)
    assert audit_latency(p, changed(d=9.0), {}).objective == pytest.approx(10.0)
    moved = replace(plan, placement={**plan.placement, "c": "acc0"})
    assert any("at once" in x for x in audit_latency(p, moved, {}).violations)
    assert p.violations(changed(d=3.5)) and p.violations(moved)


def test_a_schedule_on_disk(tmp_path: Path) -> None:
    plan = OperatorLatency(CHAIN, 1, 1).solve().plan
    plan.save(tmp_path / "schedule.json")
    assert OperatorSchedule.read(tmp_path / "schedule.json") == plan
    with pytest.raises(DataError, match="a device or a begin, not both"):
        replace(plan, begin_s={"a": 0.0})


def test_nothing_fits() -> None:
    heavy = OperatorGraph(
        "heavy", tuple(replace(o, cpu_s=None, memory_bytes=3.0) for o in CHAIN.operators), CHAIN.edges
    )
    with pytest.raises(SplitplanError, match="4 operators|memory|bytes"):
        OperatorLatency(heavy, 1, 0, 5.0).solve()


def test_times_that_mean_not_there_and_memory_that_is_not() -> None:
    ops = [Operator(f"v{i}", a, b, 0.5, 6.0) for i, (a, b) in enumerate([(2.0, 1e25), (9.0, 5.0), (1e25, 6.0)])]
    net = OperatorGraph("net", tuple(ops), (("v0", "v1"), ("v1", "v2")))
    found = OperatorLatency(net, 2, 1).solve()
    assert found.objective == pytest.approx(2.0 + 0.5 + 5.0 + 6.0)
    assert found.status is Status.OPTIMAL
    both = OperatorLatency(net, 2, 1).plan_for(np.array([2, 2, 2]), np.array([0.0, 1e25, 1e25]))
    assert OperatorLatency(net, 2, 1).evaluate(both)["objective"] >= 1e25
    many = OperatorGraph("many", tuple(Operator(f"v{i}", 1.0, None, 0.0, 6.0) for i in range(40)), ())
    with pytest.raises(InfeasibleError, match="the 40 operators keep 240"):
        OperatorLatency(many, 2, 0, 100.0).solve("latency-list", time_limit_s=0.5)


def test_no_memory_at_all_in_a_file(tmp_path: Path) -> None:
    ops = tuple(Operator(f"v{i}", 1.0, 2.0, 0.1, float(i % 3)) for i in range(5))
    OperatorLatency(OperatorGraph("none", ops, ()), 2, 1, 0).write_lp(tmp_path / "none.lp")
    text = (tmp_path / "none.lp").read_text(encoding="utf-8")
    assert "nan" not in text
    assert "inf" not in text.split("bounds")[0]
