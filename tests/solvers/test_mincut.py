"""The minimum cut by refined integer flows: against networkx on integers, and by its own certificate on floats."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import splitplan as sp
from splitplan.errors import NotApplicable, SolverError
from splitplan.solvers.mincut import MOST_ROUNDS, Cut, flow_bound, minimum_cut

Network = tuple[np.ndarray, np.ndarray, np.ndarray, int, int]


def network(seed: int, low: float, high: float, *, whole: bool = False, infinite: float = 0.0) -> Network:
    """Source 0, sink 1; every other node is fed by the source and feeds the sink, by finite arcs: a finite cut exists."""
    rng = np.random.default_rng(seed)
    nodes = int(rng.integers(3, 25))
    inner = np.arange(2, nodes)
    count = int(rng.integers(1, 4 * nodes))
    tail = np.r_[np.zeros(len(inner), int), inner, rng.integers(2, nodes, count)]
    head = np.r_[inner, np.ones(len(inner), int), rng.integers(2, nodes, count)]
    keep = tail != head
    tail, head = tail[keep], head[keep]
    capacity = low * (high / low) ** rng.random(len(tail))
    if whole:
        capacity = np.floor(capacity)
    capacity[(np.arange(len(tail)) >= 2 * len(inner)) & (rng.random(len(tail)) < infinite)] = np.inf
    return tail.astype(np.int32), head.astype(np.int32), capacity, 0, 1


def check(cut: Cut, net: Network) -> None:
    """The cut separates, its value is what crosses, the flow proves it to rounding."""
    tail, head, capacity, source, sink = net
    assert cut.source_side[source]
    assert not cut.source_side[sink]
    crossing = capacity[cut.source_side[tail] & ~cut.source_side[head]]
    assert cut.value == pytest.approx(crossing.sum(), rel=1e-12)
    assert cut.flow <= cut.value
    assert cut.value - cut.flow <= 1e-9 * cut.value
    assert 1 <= cut.rounds <= MOST_ROUNDS


def by_networkx(net: Network) -> int:
    g = nx.DiGraph()
    for t, h, c in zip(*(a.tolist() for a in net[:3]), strict=True):
        if g.has_edge(t, h):
            g[t][h]["capacity"] += int(c)
        else:
            g.add_edge(t, h, capacity=int(c))
    return nx.minimum_cut_value(g, net[3], net[4])


@pytest.mark.parametrize("high", [3.0, 1e3, 1e8])
def test_whole_capacities_against_networkx(high: float) -> None:
    for seed in range(150):
        net = network(seed, 1.0, high, whole=True)
        cut = minimum_cut(*net)
        check(cut, net)
        assert cut.value == by_networkx(net)


@pytest.mark.parametrize(("low", "high"), [(1e-12, 1e12), (1e-12, 1e-9), (1e9, 1e12), (1e-3, 1e3)])
@pytest.mark.parametrize("infinite", [0.0, 0.4])
def test_any_capacities_carry_their_proof(low: float, high: float, infinite: float) -> None:
    for seed in range(150):
        net = network(1000 + seed, low, high, infinite=infinite)
        check(minimum_cut(*net), net)


def test_against_exact_rationals() -> None:
    """Floats are rationals: networkx with whole numbers of 2^-60, the true optimum of what was given."""
    for seed in range(60):
        net = network(seed, 1e-6, 1e3)
        exact = (net[0], net[1], np.array([int(c * 2**60) for c in net[2]], object), 0, 1)
        assert minimum_cut(*net).value == pytest.approx(by_networkx(exact) / 2**60, rel=1e-9)


@settings(max_examples=100)
@given(st.lists(st.sampled_from([0.0, 1e-12, 0.1, 0.3, 1.0, 1e12, np.inf]), min_size=4, max_size=4))
def test_two_paths(c: list[float]) -> None:
    tail, head = np.array([0, 2, 0, 3], np.int32), np.array([2, 1, 3, 1], np.int32)
    truth = min(c[0], c[1]) + min(c[2], c[3])
    if np.isinf(truth):
        with pytest.raises(SolverError, match="no finite cut"):
            minimum_cut(tail, head, np.array(c), 0, 1)
        return
    cut = minimum_cut(tail, head, np.array(c), 0, 1)
    assert cut.value == pytest.approx(truth, rel=1e-12)
    assert cut.flow <= cut.value


@pytest.mark.parametrize("beside", [[], [5.0], [5.0, 1e12]])
def test_no_finite_cut_is_an_error(beside: list[float]) -> None:
    tail = np.array([0, 2] + [0] * len(beside), np.int32)
    head = np.array([2, 1] + [1] * len(beside), np.int32)
    with pytest.raises(SolverError, match="no finite cut"):
        minimum_cut(tail, head, np.array([np.inf, np.inf, *beside]), 0, 1)


def test_both_directions_saturated() -> None:
    """A residual of twice the largest scaled capacity must not run over the integers."""
    tail = np.array([0, 2, 3, 3, 2], np.int32)
    head = np.array([2, 3, 2, 1, 1], np.int32)
    cut = minimum_cut(tail, head, np.array([1.0, np.inf, np.inf, 1.0, 1e-9]), 0, 1)
    assert cut.value == pytest.approx(1.0)


def test_long_chain_of_infinite_arcs() -> None:
    n = 2000
    tail, head = np.arange(n, dtype=np.int32), np.arange(1, n + 1, dtype=np.int32)
    capacity = np.full(n, np.inf)
    capacity[1234] = 0.125
    assert minimum_cut(tail, head, capacity, 0, n).value == 0.125


def test_steps_aside_with_the_reason(diamond_profile: sp.Profile, system: sp.System) -> None:
    for options, reason in (
        ({"deadline_s": 1.0}, "deadline_s: with a limit the problem is a knapsack, not a cut"),
        ({"objective": "period"}, "the period is a maximum of stages"),
        ({"objective": "memory"}, "maximum"),
    ):
        with pytest.raises(NotApplicable, match=reason):
            sp.SplitPoint(diamond_profile, system, **options).solve("min-cut")


def test_a_bound_is_what_the_flow_proves_and_no_more() -> None:
    """s → a → t with capacities 3 and 2: each defect of a flow is taken off what it proves."""
    tail, head, capacity = np.array([0, 1]), np.array([1, 2]), np.array([3.0, 2.0])

    def proven(*carried: float) -> float:
        return flow_bound(tail, head, np.array(carried), capacity, 0, 2)

    assert proven(2.0, 2.0) == 2.0
    assert proven(1.5, 1.5) == 1.5
    assert proven(3.0, 2.0) == 2.0, "what is lost at a proves nothing"
    assert proven(2.5, 2.5) == 2.0, "nor does what is over a capacity"
    assert proven(-1.0, 2.0) <= 0.0


@pytest.mark.parametrize("seed", range(30))
def test_a_spoiled_flow_never_proves_too_much(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = network(2000 + seed, 1e-3, 1e3)
    least = minimum_cut(*net).value
    for _ in range(20):
        carried = rng.uniform(-1, 1, len(net[0])) * net[2] * rng.choice([1e-6, 0.5, 1.0, 3.0])
        assert flow_bound(net[0], net[1], carried, net[2], net[3], net[4]) <= least * (1 + 1e-12)


def test_the_solution_says_whose_the_bound_is(diamond_profile: sp.Profile, system: sp.System) -> None:
    p = sp.SplitPoint(diamond_profile, system)
    says = {name: p.solve(name).bound_by for name in ("min-cut", "ideals", "highs-lp", "highs")}
    assert says == {
        "min-cut": "recomputed from the flow (its balance at every node and every capacity checked)",
        "ideals": "every one of the 6 heads was priced",
        "highs-lp": "recomputed from the LP's multipliers (weak duality)",
        "highs": "HiGHS's own claim (branch and bound)",
    }
    solution = p.solve("highs")
    assert "  bound by    HiGHS's own claim (branch and bound)\n" in str(solution)
    assert solution.to_dict()["bound_by"] == says["highs"]
