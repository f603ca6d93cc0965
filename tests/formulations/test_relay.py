"""RelaySplit: bad data is told at once; plans on disk; the audit rejects what was changed; what the reader is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import splitplan as sp
from benchmarks import instances
from splitplan.errors import AuditError, DataError, FingerprintError
from splitplan.formulations import relay_model
from splitplan.formulations.solution import Termination
from splitplan.solvers.audit_relay import audit_relay
from splitplan.solvers.ishikawa import LabelNetwork
from tests.generators import relay_problems
from tests.solvers.test_audit import Fake, Found

PATH = ("device", "edge", "cloud")


@pytest.fixture
def chain(diamond_profile: sp.Profile) -> sp.Profile:
    """Times that make the diamond run at all three places over the links of `three`."""
    graph = diamond_profile.graph
    times = {"device": (0.1, 1.0, 6.0, 20.0), "edge": (0.1, 0.1, 0.5, 15.0), "cloud": (0.2, 0.05, 0.3, 0.02)}
    return sp.Profile.given(graph, {p: dict(zip("abcd", (1e-3 * s for s in t), strict=True)) for p, t in times.items()})


@pytest.fixture
def three() -> sp.System:
    radio = sp.Radio(1e-8, 1e-8, 0.5)
    links = {
        ("device", "edge"): sp.Link("wifi", 50e6, 50e6, rtt_s=0.001, header_bytes=40.0, radio=radio),
        ("edge", "cloud"): sp.Link("fibre", 5e6, 200e6, rtt_s=0.0005),
        ("device", "cloud"): sp.Link("lte", 5e6, 20e6, rtt_s=0.001, radio=radio),
    }
    phone = sp.Device("phone", active_power_w=3.0, idle_power_w=1.0)
    return sp.System(device=phone, edge=sp.Device("box"), cloud=sp.Device("rack"), links=links)


@pytest.fixture
def problem(chain: sp.Profile, three: sp.System) -> sp.RelaySplit:
    return sp.RelaySplit(chain, three, pins={"device": "a"}, objective={"latency": 1.0, "energy": 0.5})


# -- bad data ---------------------------------------------------------------------------------------------


def problems_of(*args: Any, **options: Any) -> tuple[str, ...]:
    with pytest.raises(DataError) as e:
        sp.RelaySplit(*args, **options)
    assert "RelaySplit" in str(e.value)
    return e.value.problems


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({"path": ("device",)}, ["path has 1 place; give at least two"]),
        ({"path": ()}, ["path has 0 places"]),
        ({"path": "device"}, ["path is 'device'; give the places' names in their order"]),
        ({"path": ("device", 3)}, ["path is ('device', 3); give places' names"]),
        ({"path": ("device", "edge", "edge")}, ["path names 'edge' more than once"]),
        (
            {"path": ("device", "edge", "clout")},
            ["the system has no place 'clout'; it has device, edge, cloud; did you mean 'cloud'?", "the profile has no times for place 'clout'"],
        ),
        (
            {"path": ("device", "cloud", "edge")},
            ["path needs a link cloud → edge, and the system has it the other way round: give links={('cloud', 'edge'): …}, up being forward"],
        ),
        ({"objective": "period"}, ["unknown objective 'period'; known: latency, energy"]),
        ({"objective": {"latency": -1.0}}, ["weight of 'latency' is -1.0"]),
        ({"objective": {}}, ["all weights of the objective are 0"]),
        ({"objective": 3}, ["objective is 3; give one of latency, energy, or weights"]),
        ({"wire": "fp8"}, ["wire is 'fp8'; give one of fp32, fp16, int8"]),
        ({"result": "server"}, ["result is 'server'; give one of device, edge, cloud, anywhere"]),
        ({"pins": {"server": ("a",)}}, ["pins: 'server' is not on the path (device, edge, cloud)"]),
        ({"pins": {"edge": ("z",)}}, ["pins['edge']: the graph has no layer 'z'"]),
        ({"pins": {"edge": 3}}, ["pins['edge'] is 3; give layer names"]),
        ({"pins": ("a",)}, ["pins is ('a',); give a mapping of places to layers"]),
        ({"pins": {"cloud": "a", "edge": "d"}}, ["the pins contradict each other at 'a', 'b', 'c', 'd'"]),
        ({"pins": {"cloud": "b", "edge": "b"}}, ["the pins contradict each other at 'b'"]),
        ({"direct": 1}, ["direct is 1; give True or False"]),
        ({"input_bytes": -1.0}, ["input_bytes is -1.0"]),
        ({"clock_hz": 7e8}, ["has no clock of 7e+08 Hz"]),
        (
            {"path": ("device", "moon"), "wire": "fp8", "objective": "speed", "pins": {"edge": ("z",)}},
            ["no place 'moon'", "no times for place 'moon'", "unknown objective 'speed'", "wire is 'fp8'", "pins: 'edge'", "no layer 'z'"],
        ),
    ],
)  # fmt: skip
def test_one_clear_error(chain: sp.Profile, three: sp.System, options: dict[str, Any], texts: list[str]) -> None:
    found = problems_of(chain, three, **options)
    assert len(found) == len(texts), found
    assert all(text in problem for text, problem in zip(texts, found, strict=True)), found


def test_what_profile_and_system_lack(chain: sp.Profile, three: sp.System, diamond_profile: sp.Profile) -> None:
    assert problems_of(diamond_profile, three) == tuple(
        f"the profile has no times for place {p!r}; it has device, server" for p in ("edge", "cloud")
    )
    bare = sp.System(device=sp.Device("d"), edge=sp.Device("e"), cloud=sp.Device("c"), links={})
    found = problems_of(chain, bare, objective="energy")
    assert [p.partition(",")[0] for p in found] == [
        "path needs a link device → edge",
        "path needs a link edge → cloud",
        "device 'd': has no active_power_w and no idle_power_w",
    ]
    links = {k: replace(v, radio=None) for k, v in three.links.items()}
    silent = sp.System(links=links, **three.places)
    assert [p[:11] for p in problems_of(chain, silent, objective="energy")] == ["link 'wifi'"]
    assert len(problems_of(chain, silent, objective="energy", direct=True)) == 2
    sp.RelaySplit(chain, silent)  # latency needs no radio
    nan = chain.to_frame().assign(time_s=lambda f: f["time_s"].where(f["layer"] != "b"))
    with pytest.raises(DataError, match="time_s") as e:
        sp.Profile(chain.graph, nan, chain.origins)
    assert len(e.value.problems) == 3
    for wrong in ((chain, "x"), ("x", three)):
        with pytest.raises(DataError, match=r"give RelaySplit\(profile, system, …\)"):
            sp.RelaySplit(*wrong)


def test_a_profile_of_other_devices(chain: sp.Profile, three: sp.System) -> None:
    other = sp.Profile(chain.graph, chain.table, {**chain.origins, "edge": sp.Origin("raspberry")})
    (found,) = problems_of(other, three)
    assert found.startswith("place 'edge': the profile was made on 'raspberry' slowed 1x, the system has 'box'")


# -- what comes back --------------------------------------------------------------------------------------


def test_all_three_places(chain: sp.Profile, three: sp.System) -> None:
    found = sp.RelaySplit(chain, three).solve()
    assert found.plan.placement == {"a": "device", "b": "edge", "c": "edge", "d": "cloud"}
    assert found.plan.layers_at("cloud") == ("d",)
    assert found.status == "optimal" and found.gap <= 1e-9
    assert [a.name for a in found.alternatives] == ["all at device", "all at edge", "all at cloud"]
    assert "2 layers at edge from 'b'; 1 layers at cloud from 'd'" in str(found)
    assert {"at_device_s", "device_to_edge_s", "edge_to_device_s", "edge_to_cloud_bytes"} <= found.terms.keys()
    assert found.terms["latency_s"] == pytest.approx(
        sum(v for k, v in found.terms.items() if k.endswith("_s") and k != "latency_s")
    )
    assert found.plan.to_frame()["place"].tolist() == ["device", "edge", "edge", "cloud"]
    json.loads(found.to_json())
    assert "RelaySplit: least latency of 'diamond' (device → edge → cloud; 50, 5 Mbit/s up" in str(found)


def test_a_direct_link_is_taken_where_it_pays(chain: sp.Profile, three: sp.System) -> None:
    quick = {**three.links, ("device", "cloud"): replace(three.links["device", "cloud"], rate_up_bps=1e9, rtt_s=0.0)}
    p = sp.RelaySplit(chain, sp.System(links=quick, **three.places), direct=True)
    found = p.solve()
    assert found.plan.routes == {"ta": (("device", "cloud"),), "y": (("cloud", "device"),)}
    assert set(found.plan.placement.values()) == {"device", "cloud"}
    assert "direct cloud → device, device → cloud" in str(found.plan)
    assert found.objective < replace(p, direct=False).solve().objective
    assert found.alternatives[0].name == "all at device, from neighbour to neighbour"


def test_a_plan_on_disk(problem: sp.RelaySplit, tmp_path: Path) -> None:
    for plan in (problem.solve().plan, replace(problem, direct=True).solve().plan):
        plan.save(tmp_path / "plan.json")
        back = sp.RelayPlan.read(tmp_path / "plan.json")
        assert back == plan and back.routes == plan.routes
        back.check(problem.profile.graph)
    with pytest.raises(DataError, match="is a 'splitplan.RelayPlan', not a 'splitplan.SplitPlan'"):
        sp.SplitPlan.read(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": 2}, "schema 2"),
        ({"path": ["device"]}, "at least two places, each once"),
        ({"path": "device"}, "path is 'device'"),
        ({"path": ["device", 3]}, "3 is no text"),
        ({"placement": {"a": "moon"}}, "layer 'a' is at 'moon', which is not on the path"),
        ({"placement": ["a"]}, "placement is"),
        ({"result": "moon"}, "result is 'moon'"),
        ({"wire": "fp8"}, "wire is 'fp8'"),
        ({"clock_hz": -1}, "clock_hz is -1"),
        ({"predicted": {"latency_s": "x"}}, "latency_s"),
        ({"routes": ["x"]}, "routes is"),
        ({"routes": {"x": [["device"]]}}, "is no hop"),
        ({"routes": {"x": "device"}}, "is no hop"),
        ({"routes": {"x": [["device", "edge"], ["device", "edge"]]}}, "named more than once"),
        ({"model": 3}, "model is 3"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_damaged_plan(problem: sp.RelaySplit, change: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        sp.RelayPlan.from_dict({**problem.solve().plan.to_dict(), **change})


def test_a_plan_is_checked_against_its_graph(problem: sp.RelaySplit) -> None:
    graph, plan = problem.profile.graph, problem.solve().plan
    plan.check(graph)
    with pytest.raises(FingerprintError, match="Solve again"):
        plan.check(replace(graph, fingerprint="0"))
    with pytest.raises(DataError, match="'a' at cloud feeds 'b' at edge: data may move forward only"):
        replace(plan, placement={"a": "cloud", "b": "edge", "c": "cloud", "d": "cloud"}).check(graph)
    with pytest.raises(DataError) as e:
        replace(plan, placement={"a": "cloud", "e": "cloud"}).check(graph)
    assert len(e.value.problems) == 4


# -- the audit --------------------------------------------------------------------------------------------


def hands_back(plan: sp.RelayPlan, termination: Termination = Termination.FINISHED, **more: Any) -> Fake:
    fake = type("FakeRelay", (Fake,), {"solves": ("relay-split",)})
    return fake(lambda p: Found(plan, termination, **more))


def put(plan: sp.RelayPlan, **places: str) -> sp.RelayPlan:
    return replace(plan, placement={**plan.placement, **places})


MUTATIONS: dict[str, tuple[Callable[[sp.RelayPlan], sp.RelayPlan], str]] = {
    "a pinned layer moved": (lambda p: put(p, a="edge", b="cloud", c="cloud", d="cloud"), r"pins\['device'\]: 'a' is at edge"),
    "data moving back": (lambda p: put(p, c="cloud", d="edge"), "data may move forward only"),
    "a layer lost": (lambda p: replace(p, placement={"a": "device", "b": "edge", "c": "edge"}), "'d' is not placed"),
    "a layer made up": (lambda p: put(p, e="cloud"), "'e' is not in the graph"),
    "another path": (lambda p: replace(p, path=("device", "hub", "edge", "cloud")), "path is"),
    "another wire": (lambda p: replace(p, wire="fp16"), "wire is 'fp16', the problem says 'fp32'"),
    "another result": (lambda p: replace(p, result="cloud"), "result is 'cloud', the problem says 'device'"),
    "another clock": (lambda p: replace(p, clock_hz=1e9), "clock is 1000000000.0, the problem says None"),
    "another model": (lambda p: replace(p, fingerprint="0" * 64), "made for fingerprint 000000000000"),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutated_plan_is_rejected(problem: sp.RelaySplit, mutation: str) -> None:
    change, message = MUTATIONS[mutation]
    plan = problem.solve().plan
    with pytest.raises(AuditError, match=message):
        problem.solve(hands_back(change(plan)))


ROUTES: dict[str, tuple[dict[str, Any], str]] = {
    "nothing sent": ({}, "tensor 'ta' is read at cloud and not brought there"),
    "no way back": ({"ta": [("device", "cloud")]}, "'y' is a result for device and not brought there"),
    "from nowhere": (
        {"ta": [("edge", "cloud")], "y": [("cloud", "device")]}, "'ta' leaves edge for cloud, but never comes there"
    ),
    "what is no result comes back": (
        {"ta": [("device", "cloud")], "tb": [("cloud", "device")], "y": [("cloud", "device")]}, "'tb' leaves cloud for device"
    ),
    "no such tensor": ({"tx": [("device", "cloud")]}, "tensor 'tx' is not in the graph"),
}  # fmt: skip


@pytest.mark.parametrize("mutation", ROUTES)
def test_mutated_routes_are_rejected(problem: sp.RelaySplit, mutation: str) -> None:
    routes, message = ROUTES[mutation]
    direct = replace(problem, direct=True)
    plan = put(direct.solve().plan, b="cloud", c="cloud", d="cloud")
    with pytest.raises(AuditError, match=message):
        direct.solve(hands_back(replace(plan, routes=routes)))


def test_links_that_the_problem_has_not(problem: sp.RelaySplit) -> None:
    plan = put(problem.solve().plan, b="cloud", c="cloud", d="cloud")
    direct = replace(plan, routes={"ta": (("device", "cloud"),), "y": (("cloud", "device"),)})
    text = "tensor 'ta' goes device → cloud, and the problem has no such link"
    assert text in audit_relay(problem, direct, {}).violations
    assert text in problem.violations(direct)
    assert not replace(problem, direct=True).violations(direct)
    # On a relay routes may be spelled out.
    spelled = replace(
        plan, routes={"ta": (("device", "edge"), ("edge", "cloud")), "y": (("cloud", "edge"), ("edge", "device"))}
    )
    assert not audit_relay(problem, spelled, {}).violations
    assert problem.evaluate(spelled) == problem.evaluate(plan)


@settings(max_examples=80)
@given(relay_problems(places=3, least=2, most=7), st.randoms(use_true_random=False))
def test_any_other_plan_with_the_optimum_s_claims_is_rejected(p: sp.RelaySplit, random: Any) -> None:
    best = p.solve()
    names = [layer.name for layer in p.profile.graph.layers]
    other = replace(best.plan, placement={v: random.choice(p.path) for v in names})
    at = {v: p.path.index(q) for v, q in other.placement.items()}
    valid = all(at[names[v]] <= at[names[w]] for v, w in p.profile.graph.edges)
    valid = valid and all(other.placement[v] == place for place, vs in p.pins.items() for v in vs)
    if valid and p.evaluate(other)["objective"] <= best.objective * (1 + 1e-4) + p.smallest:
        return
    with pytest.raises(AuditError):
        p.solve(hands_back(other, Termination.CONVERGED, objective=best.objective, bound=best.bound))


@settings(max_examples=60)
@given(relay_problems(places=4, most=8, direct=True), st.data())
def test_the_audit_adds_up_as_the_formulation_does(p: sp.RelaySplit, data: st.DataObject) -> None:
    least, most = p.ranges
    cut = sorted(data.draw(st.integers(0, len(least))) for _ in p.path[1:])
    labels = np.clip(np.searchsorted(cut, np.arange(len(least)), side="right"), least, most)
    plan = p.plan_for(labels)
    audit = audit_relay(p, plan, {})
    assert not audit.violations
    assert audit.objective == pytest.approx(p.evaluate(plan)["objective"], rel=1e-9)


# -- what could go unnoticed ------------------------------------------------------------------------------


def test_useless_moves_are_left_out(chain: sp.Profile, three: sp.System) -> None:
    """Moves that cost nothing may stand in a solver's values; the plan has only those that bring something."""
    free = {k: replace(v, header_bytes=0.0, rtt_s=0.0) for k, v in three.links.items()}
    p = sp.RelaySplit(
        chain, sp.System(links=free, **three.places), direct=True, pins={"cloud": ("b", "c", "d"), "device": "a"}
    )
    values = {f"y[{a},{k}]": 1.0 for a in range(3) for k in range(5)} | {f"z[{a},4]": 1.0 for a in range(3)}
    plan = p.plan_for(*relay_model.read(p, values))
    plan.check(p.profile.graph)
    assert {t: len(hops) for t, hops in plan.routes.items()}.keys() == {"ta", "y"}
    for hops in plan.routes.values():
        assert len(hops) in (1, 2)


def test_two_places_have_the_network_of_the_minimum_cut() -> None:
    p = instances.relay_problem(instances.Seeded(2), 12, 2)
    n, t = len(p.profile.graph), len(p.profile.graph.tensors)
    network = LabelNetwork.of(p)
    assert max(network.tail.max(), network.head.max()) < n + t + 4


def test_frames_need_pandas_only(problem: sp.RelaySplit) -> None:
    assert isinstance(problem.solve().to_frame(), pd.DataFrame)
