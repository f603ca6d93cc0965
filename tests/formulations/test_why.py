"""Why this cut and no other: the plain alternatives, what pins and limits forbid, and whether a profile is of this system."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

import splitplan as sp
from splitplan.errors import DataError, InfeasibleError
from tests.generators import split_problems


@settings(max_examples=60)
@given(split_problems(least=1, most=8))
def test_alternatives_are_what_evaluate_and_violations_say(p: sp.SplitPoint) -> None:
    try:
        solution = p.solve()
    except InfeasibleError:
        return
    names = [layer.name for layer in p.profile.graph.layers]
    plans = [
        sp.SplitPlan.for_cut(p.profile.graph, tuple(names[k:]), wire=p.wire, result=p.result)
        for k in range(len(names) + 1)
    ]
    device, server, *between = solution.alternatives
    for plain, plan in ((device, plans[-1]), (server, plans[0])):
        assert plain.objective == pytest.approx(p.evaluate(plan)["objective"], rel=1e-12)
        assert bool(plain.forbidden) == bool(p.violations(plan))
        assert plain.is_plan == (set(plan.server_layers) == set(solution.plan.server_layers))
        assert plain.forbidden or plain.objective >= solution.objective * (1 - 1e-9)
    assert len(between) == (len(names) > 1)
    if between:
        allowed = [p.evaluate(q)["objective"] for q in plans[1:-1] if not p.violations(q)]
        assert bool(between[0].forbidden) == (not allowed)
        if allowed:
            assert between[0].objective == pytest.approx(min(allowed), rel=1e-12)
    assert f"  why         all on the device: {device.objective:.6g} {solution.unit}" in str(solution)
    assert len([line for line in str(solution).splitlines() if line.startswith("  why ")]) == 1


def test_the_line_says_value_reason_and_which_is_the_plan(diamond_profile: sp.Profile, system: sp.System) -> None:
    solution = sp.SplitPoint(diamond_profile, system, pin_device=["a"], pin_server=["d"], deadline_s=1.0).solve()
    device, server, between = solution.why.split("; ")
    assert device == "all on the device: 0.013 s (forbidden: pin_server 'd')"
    assert server.startswith("all on the server: ")
    assert server.endswith(" (forbidden: pin_device 'a')")
    assert between.startswith("best of 3 prefix cuts between, after ")
    assert between.endswith(" (the plan)")
    assert solution.why.replace("'", "&#x27;") in solution._repr_html_()
    assert solution.to_dict()["alternatives"][0] == {
        "name": "all on the device",
        "objective": pytest.approx(0.013),
        "forbidden": "pin_server 'd'",
        "is_plan": False,
    }


def test_every_limit_and_many_pins_are_named(diamond_profile: sp.Profile, system: sp.System) -> None:
    p = sp.SplitPoint(diamond_profile, system, pin_server="d", deadline_s=1.0, device_memory_bytes=2e5)
    assert p.alternatives(p.solve().plan)[0].forbidden == (
        "pin_server 'd'; device_memory_bytes=200000, memory is 303000 bytes"
    )
    p = sp.SplitPoint(diamond_profile, system, pin_device=["a", "b", "c", "d"])
    assert p.solve().alternatives[1].forbidden == "pin_device 'a', 'b', 'c' and 1 more"
    assert "pin_device 'a', 'b', 'c' and 1 more" in p.describe()


def test_an_allocation_has_no_such_line() -> None:
    solution = sp.RateAllocation((sp.User("a", 1e5, 0.01),), 1e7).solve()
    assert solution.alternatives == ()
    assert "why" not in str(solution)
    assert "bound by    recomputed by solvers.audit.audit_allocation from the multipliers" in str(solution)


def test_the_table_says_which_cuts_are_forbidden(diamond_profile: sp.Profile, system: sp.System) -> None:
    p = sp.SplitPoint(diamond_profile, system, pin_device=["b"], deadline_s=0.035)
    table = p.cut_table()
    late = table["latency_s"] > 0.035
    assert late.any()
    assert not late.all()
    assert list(table["forbidden"].str.contains("pin_device 'b'")) == [True, True, False, False, False]
    assert list(table["forbidden"].str.contains("deadline_s=0.035, latency is ")) == list(late)


# -- what cannot be stated --------------------------------------------------------------------------


def test_an_unknown_layer_gets_the_closest_names(diamond_profile: sp.Profile, system: sp.System) -> None:
    table = diamond_profile.to_frame()
    graph = diamond_profile.graph
    names = {"a": "stage1.conv1", "b": "stage1.relu", "c": "stage2.conv1", "d": "add"}
    renamed = sp.LayerGraph(
        "net",
        tuple(replace(x, name=names[x.name]) for x in graph.layers),
        tuple(
            replace(t, producer=names.get(t.producer, t.producer), consumers=tuple(names[c] for c in t.consumers))
            for t in graph.tensors
        ),
        graph.parameter_bytes,
    )
    profile = sp.Profile(renamed, table.assign(layer=table["layer"].map(names)))
    with pytest.raises(DataError) as caught:
        sp.SplitPoint(profile, system, pin_device=["stage1.conv"], pin_server=["stage2", "zzz"])
    assert caught.value.problems == (
        "pin_device: the graph has no layer 'stage1.conv'; did you mean 'stage1.conv1', 'stage2.conv1', 'stage1.relu'?",
        "pin_server: the graph has no layer 'stage2'; did you mean 'stage2.conv1'?",
        "pin_server: the graph has no layer 'zzz'; profile.graph.layers names them",
    )
    with pytest.raises(DataError, match=r"unknown objective 'latencies'; known: .*; did you mean 'latency'\?"):
        sp.SplitPoint(profile, system, "latencies")


def test_energy_without_power_names_what_to_fill_in_once(diamond_profile: sp.Profile, system: sp.System) -> None:
    bare = sp.System(device=sp.device("this-cpu"), server=sp.device("this-cpu"), link=sp.Link("wire", 1e6, 1e6, 0.0))
    with pytest.raises(DataError) as caught:
        sp.SplitPoint(diamond_profile, bare, "energy")
    device, link = caught.value.problems
    for text in ("no active_power_w and no idle_power_w", "[places.device]", "active_power_w = ", "idle_power_w = "):
        assert text in device
    for text in ("[[links]]", "radio = { up_w_per_bps = ", "down_w_per_bps = ", "base_w = "):
        assert text in link
    half = sp.System(device=sp.device("this-cpu", active_power_w=3.0), server=bare.server, link=system.link)
    with pytest.raises(DataError, match=r"has no idle_power_w, so") as caught:
        sp.SplitPoint(diamond_profile, half, "energy")
    assert "active_power_w" not in str(caught.value)


def test_threads_of_profile_and_system_are_compared(diamond: sp.LayerGraph, system: sp.System) -> None:
    names = [x.name for x in diamond.layers]
    rows = [(n, place, np.nan, 0.01, 0.0, 5, "measured") for place in ("device", "server") for n in names]
    table = pd.DataFrame(rows, columns=["layer", "place", "clock_hz", "time_s", "spread_s", "samples", "method"])
    origins = {"device": sp.Origin("this-cpu", 4.0, 1), "server": sp.Origin("this-cpu", 1.0, 2)}
    profile = sp.Profile(diamond, table, origins)
    with pytest.raises(DataError) as caught:
        sp.SplitPoint(profile, system)
    assert caught.value.problems == (
        "place 'server': the profile was made on 'this-cpu' slowed 1x with 2 threads, the system has 'this-cpu' slowed 1x "
        "with 1 thread; profile this system, or solve for the profile's",
    )
    two = sp.System(device=system.device, server=system.server.but(threads=2), link=system.link)
    assert sp.SplitPoint(profile, two).solve().status == "optimal"
    # What is modelled does not depend on threads.
    modelled = sp.Profile(diamond, table.assign(method="modelled"), origins)
    assert sp.SplitPoint(modelled, system).solve().status == "optimal"
