"""A relay's table over one link's rate is a fresh solve at every rate; it saves, checks, refuses; and needs numpy alone to decide."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import splitplan as sp
from benchmarks import instances
from benchmarks.instances import Seeded
from splitplan.errors import DataError, FingerprintError, SolverError
from tests.formulations.relay_brute_force import least
from tests.generators import relay_problems


def at(p: sp.RelaySplit, link: tuple[str, str], rate: float) -> sp.RelaySplit:
    """The same problem at another rate of one link."""
    links = {**p.system.links, link: replace(p.system.links[link], rate_up_bps=rate)}
    return replace(p, system=sp.System(links=links, **p.system.places))


def pairs(p: sp.RelaySplit) -> list[tuple[str, str]]:
    return list(zip(p.path[:-1], p.path[1:], strict=True))


@settings(max_examples=60)
@given(relay_problems(places=3, most=4), st.lists(st.floats(0, 12), min_size=1, max_size=4), st.booleans())
def test_at_every_rate_the_table_is_brute_force(p: sp.RelaySplit, exponents: list[float], last: bool) -> None:
    link = pairs(p)[-1 if last else 0]
    table = sp.relay_table(p, link)
    for rate in 10.0 ** np.array(exponents):
        there = at(p, link, float(rate))
        expected = least(there)
        assert table.cost(float(rate)) == pytest.approx(expected, rel=1e-9, abs=2 * there.smallest)
        plan = table.plan(table.decide(float(rate)), float(rate))
        assert not there.violations(plan)
        terms = there.evaluate(plan)
        assert terms["objective"] == pytest.approx(table.cost(float(rate)), rel=1e-9, abs=1e-15)
        for name, value in plan.predicted.items():
            assert value == pytest.approx(terms[name], rel=1e-9, abs=1e-15), name


@settings(max_examples=40)
@given(relay_problems(places=4, most=12), st.lists(st.floats(0, 12), min_size=1, max_size=4), st.integers(0, 2))
def test_and_a_fresh_solve_where_brute_force_is_too_slow(p: sp.RelaySplit, exponents: list[float], k: int) -> None:
    link = pairs(p)[k]
    table = sp.relay_table(p, link)
    for rate in 10.0 ** np.array(exponents):
        there = at(p, link, float(rate))
        assert table.cost(float(rate)) == pytest.approx(there.solve().objective, rel=1e-9, abs=2 * there.smallest)


@pytest.fixture(scope="module")
def problem() -> sp.RelaySplit:
    p = instances.relay_problem(Seeded(1), 40, 3, reach=6)
    return replace(p, pins={}, result="device", objective="latency")


@pytest.fixture(scope="module")
def table(problem: sp.RelaySplit) -> sp.RelayTable:
    found = sp.relay_table(problem, ("edge", "cloud"))
    assert len(found) >= 3
    return found


def test_beside_every_breakpoint(problem: sp.RelaySplit, table: sp.RelayTable) -> None:
    for rate in np.concatenate([table.breaks_bps * f for f in (1 - 1e-6, 1.0, 1 + 1e-6)]):
        fresh = at(problem, table.link, float(rate)).solve()
        assert table.cost(float(rate)) == pytest.approx(fresh.objective, rel=1e-9)
    chosen = table.decide(table.breaks_bps)
    assert list(chosen) == list(range(len(table) - 1))
    frame = table.to_frame()
    assert (np.diff(frame["edge_to_cloud_bytes"]) > 0).all()
    assert frame["from_bps"].iloc[0] == 0 and frame["to_bps"].iloc[-1] == np.inf
    assert (frame[["device_layers", "edge_layers", "cloud_layers"]].sum(axis=1) == 40).all()
    assert table.about["minimum_cuts"] <= 4 * len(table)


def test_a_dead_link(problem: sp.RelaySplit, table: sp.RelayTable) -> None:
    assert table.decide(0.0) == 0 and not table.plan(0).layers_at("cloud")
    assert table.plan(0, 0.0).predicted["edge_to_cloud_s"] == 0.0
    sends = sp.relay_table(replace(problem, result="cloud"), table.link)
    with pytest.raises(DataError, match="dead link"):
        sends.decide(0)
    with pytest.raises(DataError, match="cut 99 of a table"):
        table.plan(99)


def test_saved_and_read_it_is_the_same(table: sp.RelayTable, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    table.save(path)
    back = sp.RelayTable.read(path)
    assert back.to_dict() == table.to_dict() and str(back) == str(table)
    assert "over the rate edge → cloud: least latency" in str(back)
    assert repr(back) == f"RelayTable('random', edge → cloud: {len(table)} cuts)"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(schema=99), "schema 99"),
        (lambda d: d.update(kind="splitplan.SplitTable"), "not a 'splitplan.RelayTable'"),
        (lambda d: d.pop("links"), "links"),
        (lambda d: d["links"][1].pop("rate_down_bps"), r"links\[1\]: rate_down_bps"),
        (lambda d: d["links"][0].update(rate_up_bps=-1.0), r"links\[0\]: rate_up_bps is -1"),
        (lambda d: d["links"].pop(), "do not fit the path"),
        (lambda d: d.update(link=["device", "cloud"]), "do not fit the path"),
        (lambda d: d["breaks_bps"].reverse(), "does not ascend"),
        (lambda d: d["breaks_bps"].append(1e15), "breaks_bps has shape"),
        (lambda d: d["cuts"][0]["at"][0].append([5, 9999]), "9999"),
        (lambda d: d["cuts"][0].update(at=[]), "at no place of the path"),
        (lambda d: d["cuts"][0]["totals"].__setitem__(0, -1.0), "negative"),
        (lambda d: d.update(cuts=[]), "shape|holds no cut"),
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d.pop("wire"), "wire is missing"),
        (lambda d: d["breaks_bps"].__setitem__(0, d["breaks_bps"][0] * 0.5), "not where the cuts cost the same"),
        (lambda d: d.update(objective=None), "no mapping of names to numbers"),
        (lambda d: d.update(fingerprint=0), "are no names"),
        (lambda d: d["cuts"][0]["totals"].__setitem__(0, 10**400), "wrong type"),
    ],
)
def test_a_damaged_file(table: sp.RelayTable, tmp_path: Path, change: object, says: str) -> None:
    data = json.loads(table.to_json())
    change(data)  # type: ignore[operator]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=says) as e:
        sp.RelayTable.read(path)
    assert str(path) in str(e.value)


def test_a_table_of_something_else(table: sp.RelayTable, problem: sp.RelaySplit) -> None:
    graph, system = problem.profile.graph, problem.system
    table.check(graph, system)
    table.check(graph, at(problem, table.link, 1.0).system)
    with pytest.raises(FingerprintError, match="relay table of 'random' was made for"):
        table.check(replace(graph, fingerprint="other"))
    with pytest.raises(DataError, match="device → edge with rate_up_bps"):
        table.check(system=at(problem, ("device", "edge"), 1.0).system)
    with pytest.raises(DataError) as e:
        table.check(system=sp.System(device=sp.Device("x"), edge=sp.Device("edge"), links={}))
    assert [p.split(":")[0] for p in e.value.problems] == [
        f"its times are of {system.places['device'].name} as device, the system has x there",
        "its times are of cloud as cloud, the system has no device there",
        "the system has no link device → edge",
        "the system has no link edge → cloud",
    ]


def test_what_cannot_be_a_table(problem: sp.RelaySplit) -> None:
    with pytest.raises(DataError, match="give a splitplan.RelaySplit"):
        sp.relay_table("resnet50", ("edge", "cloud"))  # type: ignore[arg-type]
    with pytest.raises(
        DataError,
        match="link 'device → cloud' is not on the path; give a pair of places.*links: device → edge, edge → cloud",
    ):
        sp.relay_table(problem, ("device", "cloud"))
    with pytest.raises(DataError, match="link 'edge' is not on the path"):
        sp.relay_table(problem, "edge")  # type: ignore[arg-type]
    direct = instances.relay_problem(Seeded(5), 6, direct=True)
    with pytest.raises(SolverError, match="a table needs cuts: direct links"):
        sp.relay_table(direct, ("edge", "cloud"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads sys.modules of a fresh process")
def test_it_loads_and_decides_with_numpy_alone(table: sp.RelayTable, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    table.save(path)
    code = f"""
import sys
from splitplan.data.relay_table import RelayTable
t = RelayTable.read({str(path)!r})
assert t.decide(1e7) == {table.decide(1e7)}
assert t.plan(0).placement
heavy = {{"torch", "scipy", "pandas", "networkx", "cvxpy", "pyomo", "highspy", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
