"""A split table as plain data: decides, saves, refuses; and needs numpy alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import splitplan as sp
from benchmarks.instances import Seeded, graph, profile
from splitplan.data.split_table import SplitTable
from splitplan.errors import DataError, FingerprintError
from splitplan.solvers.envelope import split_table


@pytest.fixture(scope="module")
def problem() -> sp.SplitPoint:
    choose = Seeded(5)
    g = graph(choose, 30)
    system = sp.System(
        device=sp.Device("d", slowdown=2.0),
        server=sp.Device("s"),
        link=sp.Link("x", rate_up_bps=1e7, rate_down_bps=1e8, rtt_s=0.01),
    )
    return sp.SplitPoint(profile(choose, g), system)


@pytest.fixture(scope="module")
def table(problem: sp.SplitPoint) -> SplitTable:
    found = split_table(problem)
    assert len(found) >= 3
    return found


def test_one_rate_and_many(table: SplitTable) -> None:
    rates = np.geomspace(1e3, 1e12, 500)
    many = table.decide(rates)
    assert many.shape == rates.shape and [table.decide(float(r)) for r in rates] == many.tolist()
    assert table.decide(5) == table.decide(5.0) and isinstance(table.decide(5), int)
    assert table.decide(np.inf) == len(table) - 1
    assert set(many.tolist()) == set(range(len(table)))
    best = np.array([table.cost(rates, k) for k in range(len(table))]).min(axis=0)
    np.testing.assert_allclose(table.cost(rates), best, rtol=1e-12)


def test_a_dead_link_is_the_device_alone(table: SplitTable, problem: sp.SplitPoint) -> None:
    assert table.decide(0) == 0 and table.decide(0.0) == 0 and not table.plan(0).server_layers
    assert table.cost(0.0) == pytest.approx(problem.evaluate(table.plan(0))["latency_s"])
    sends = split_table(replace(problem, pin_server=[problem.profile.graph.layers[-1].name]))
    with pytest.raises(DataError, match="dead link"):
        sends.decide(0.0)
    with pytest.raises(DataError, match="dead link"):
        sends.decide(np.array([1e6, 0.0]))


@pytest.mark.parametrize("rate", [-1.0, float("nan"), -np.inf, np.array([1.0, float("nan")]), "fast", None])
def test_what_is_no_rate(table: SplitTable, rate: object) -> None:
    with pytest.raises(DataError, match="rate_bps"):
        table.decide(rate)


def test_predicted_as_the_problem_does(table: SplitTable, problem: sp.SplitPoint) -> None:
    for i in range(len(table)):
        plan = table.plan(i, 1e7)
        expected = problem.evaluate(plan)
        for name, value in plan.predicted.items():
            assert value == pytest.approx(expected[name], rel=1e-9), name
        assert {"latency_s", "period_s", "up_s"} <= plan.predicted.keys()
    with pytest.raises(DataError, match="cut 99"):
        table.plan(99)


def test_saved_and_read_it_is_the_same(table: SplitTable, tmp_path: Path) -> None:
    path = tmp_path / "x.split.json"
    table.save(path)
    back = SplitTable.read(path)
    assert back.to_dict() == table.to_dict() and str(back) == str(table)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(schema=99), "schema 99"),
        (lambda d: d.update(kind="x"), "not a 'splitplan.SplitTable'"),
        (lambda d: d.pop("breaks_bps"), "breaks_bps"),
        (lambda d: d["breaks_bps"].reverse(), "does not ascend"),
        (lambda d: d["breaks_bps"].append(1e15), "breaks_bps has shape"),
        (lambda d: d["cuts"][0]["device"].append([5, 9999]), "9999"),
        (lambda d: d["cuts"][0].update(totals=[1, 2]), "unknown or of the wrong type|shape"),
        (lambda d: d["cuts"].clear(), "holds no cut"),
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d.pop("wire"), "wire is missing"),
        (lambda d: d["breaks_bps"].__setitem__(0, d["breaks_bps"][0] * 0.5), "not where the cuts cost the same"),
        (lambda d: d.update(objective=None), "no mapping of names to numbers"),
        (lambda d: d.update(fingerprint=0), "are no names"),
        (lambda d: d["cuts"][0]["totals"].__setitem__(0, 10**400), "wrong type"),
        (lambda d: d["cuts"][0]["totals"].__setitem__(0, -1.0), "negative"),
        (lambda d: d["cuts"][0]["device"][0].__setitem__(1, d["cuts"][0]["device"][0][1] - 1), "its digest"),
        (lambda d: d["about"].update(gap=0.5), "its digest"),
        (lambda d: d.pop("digest"), "its digest"),
    ],
)
def test_a_damaged_file(table: SplitTable, tmp_path: Path, change: object, says: str) -> None:
    data = json.loads(json.dumps(table.to_dict()))
    change(data)  # type: ignore[operator]
    path = tmp_path / "x.split.json"
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=says) as e:
        SplitTable.read(path)
    assert str(path) in str(e.value)


def test_a_table_of_something_else(table: SplitTable, problem: sp.SplitPoint) -> None:
    table.check(problem.profile.graph, problem.system)
    other = graph(Seeded(6), 30)
    with pytest.raises(FingerprintError, match="Build the table again"):
        table.check(replace(other, fingerprint="other"))
    system = sp.System(device=sp.Device("e"), server=problem.system.server, link=problem.system.link)
    with pytest.raises(DataError, match="times are of d slowed 2x as device, the system has e"):
        table.check(system=system)
    slower = replace(problem.system.link, rtt_s=1.0, rate_up_bps=1.0)
    with pytest.raises(DataError, match="up_delay_s"):
        table.check(system=sp.System(device=problem.system.device, server=problem.system.server, link=slower))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_loads_and_decides_with_numpy_alone(table: SplitTable, tmp_path: Path) -> None:
    path = tmp_path / "x.split.json"
    table.save(path)
    code = f"""
import sys
from splitplan.data.split_table import SplitTable
t = SplitTable.read({str(path)!r})
assert t.decide(1e7) == {table.decide(1e7)}
assert t.plan(0).device_layers
heavy = {{"torch", "scipy", "pandas", "networkx", "cvxpy", "pyomo", "highspy", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))  # ru_maxrss would hold the parent's
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 60e6


def test_a_file_that_a_tool_saved_anew_is_the_same(table: SplitTable, tmp_path: Path) -> None:
    """Other tools write 30.0 as 30, in another order, with a mark at the beginning."""

    def short(value: object) -> object:
        if isinstance(value, dict):
            return {k: short(v) for k, v in reversed(value.items())}
        if isinstance(value, list):
            return [short(v) for v in value]
        return int(value) if isinstance(value, float) and value == int(value) else value

    path = tmp_path / "x.split.json"
    path.write_text(json.dumps(short(table.to_dict()), indent=2), encoding="utf-8-sig")
    assert SplitTable.read(path).to_dict() == json.loads(json.dumps(table.to_dict()))


def test_numbers_of_numpy_are_saved(problem: sp.SplitPoint, tmp_path: Path) -> None:
    link = replace(problem.system.link, header_bytes=np.float32(200), rtt_s=np.float64(0.01))
    odd = replace(problem, system=problem.system.with_link(link), input_bytes=np.int64(5000))  # type: ignore[arg-type]
    made = sp.split_table(odd)
    made.save(tmp_path / "x.json")
    assert SplitTable.read(tmp_path / "x.json").input_bytes == 5000


def test_costs_look_at_rates_and_cuts(table: SplitTable) -> None:
    for rate, cut in ((-1.0, 0), (float("nan"), 0), (1e6, -1), (1e6, 99), (1e6, 0.5)):
        with pytest.raises(DataError):
            table.cost(rate, cut)
    with pytest.raises(DataError, match="cut -1 of a table"):
        table.plan(-1)
