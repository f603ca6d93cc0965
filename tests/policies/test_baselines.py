"""The baselines choose what they say, on the same costs; none beats the exact optimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import splitplan as sp
from benchmarks import instances
from benchmarks.instances import Seeded
from splitplan.errors import DataError, SolverError
from splitplan.policies.baselines import DADS, QDMP, DeviceOnly, Neurosurgeon, Scan, ServerOnly, at_rate
from splitplan.solvers.envelope import split_table
from splitplan.solvers.ideals import Ideals


def problem(seed: int, most: int = 10) -> sp.SplitPoint:
    choose = Seeded(seed)
    return instances.split_problem(
        choose, choose.whole(1, most), instances.REAL, objectives=("latency",), limits=False, pins=False
    )


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.floats(4, 10))
def test_exact_rules_find_the_optimum_and_the_others_are_no_better(seed: int, exponent: float) -> None:
    p = at_rate(problem(seed), 10.0**exponent)
    best = p.score(Ideals(cap=10**6).placements(p))["objective"].min()

    def cost(plan: sp.SplitPlan) -> float:
        return p.evaluate(plan)["objective"]

    for exact in (DADS("light"), QDMP(), Scan(split_table(p))):
        assert cost(exact.plan(p)) == pytest.approx(best, rel=1e-9), exact.name
    for other in (DeviceOnly(), ServerOnly(), Neurosurgeon(), DADS("heavy")):
        assert cost(other.plan(p)) >= best * (1 - 1e-9), other.name


def test_device_and_server_only() -> None:
    p = problem(3)
    assert not DeviceOnly().plan(p).server_layers and not ServerOnly().plan(p).device_layers


def test_a_pin_that_a_baseline_breaks_is_told() -> None:
    from dataclasses import replace

    p = problem(4)
    pinned = replace(p, pin_device=[p.profile.graph.layers[0].name])
    with pytest.raises(DataError, match="server only chooses a cut that breaks pin_device"):
        ServerOnly().plan(pinned)


def test_neurosurgeon_is_exact_on_a_chain_whose_layers_are_as_their_size_says() -> None:
    layers = tuple(sp.Layer(f"c{k}", kind="conv", work_flops=float(w)) for k, w in enumerate([1e9, 2e9, 4e9, 3e9]))
    sizes = [1e6, 8e5, 4e5, 2e5]
    tensors = [sp.Tensor("x", "input", ("c0",), sizes[0])]
    tensors += [sp.Tensor(f"t{k}", f"c{k}", (f"c{k + 1}",), sizes[k + 1]) for k in range(3)]
    graph = sp.LayerGraph("chain", layers, (*tensors, sp.Tensor("y", "c3", (), 4.0, is_output=True)))
    times = {
        "device": {w.name: w.work_flops / 1e10 for w in layers},
        "server": {w.name: w.work_flops / 1e11 for w in layers},
    }
    system = sp.System(
        device=sp.Device("d"), server=sp.Device("s"), link=sp.Link("x", rate_up_bps=1e7, rate_down_bps=1e8, rtt_s=0.0)
    )
    p = sp.SplitPoint(sp.Profile.given(graph, times), system)
    np.testing.assert_allclose(Neurosurgeon.predicted_s(p, "device"), list(times["device"].values()), rtol=1e-6)
    for rate in np.geomspace(1e5, 1e9, 9):
        here = at_rate(p, float(rate))
        assert here.evaluate(Neurosurgeon().plan(here))["objective"] == pytest.approx(here.solve("min-cut").objective)


def test_each_says_what_it_cannot_see() -> None:
    for cls in (DeviceOnly, ServerOnly, Neurosurgeon, DADS, QDMP, Scan):
        assert cls.cannot_see


def test_qdmp_adds_up_latencies() -> None:
    from dataclasses import replace

    with pytest.raises(SolverError, match="latency and energy"):
        QDMP().plan(replace(problem(1), objective="period"))
