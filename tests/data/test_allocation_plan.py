"""AllocationPlan: there and back through a file, damaged files, and what each user is predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import splitplan as sp
from splitplan.errors import DataError


@pytest.fixture
def problem() -> sp.RateAllocation:
    return sp.RateAllocation((sp.User("a", 1e5, 0.01, device_s=0.1), sp.User("b", 2e5, 0.0, deadline_s=2.0)), 1e7, 1.0)


@pytest.mark.parametrize("solver", ["kkt", "cvxpy"])
def test_there_and_back(problem: sp.RateAllocation, solver: str, tmp_path: Path) -> None:
    plan = problem.solve(solver).plan
    plan.save(tmp_path / "shares.json")
    back = sp.AllocationPlan.read(tmp_path / "shares.json")
    assert back.names == plan.names
    for column in ("rate_bps", "speed", "latency_s"):
        assert np.array_equal(getattr(back, column), getattr(plan, column))
    assert problem.evaluate(back) == problem.evaluate(plan)
    assert json.loads((tmp_path / "shares.json").read_text(encoding="utf-8"))["schema"] == 1


def test_each_user_s_latency_is_in_the_table(problem: sp.RateAllocation) -> None:
    plan = problem.solve().plan
    frame = plan.to_frame().set_index("user")
    assert list(frame.columns) == ["rate_bps", "speed", "latency_s"]
    a, b = frame.loc["a"], frame.loc["b"]
    assert a["latency_s"] == pytest.approx(0.1 + 8e5 / a["rate_bps"] + 0.01 / a["speed"])
    assert b["latency_s"] == pytest.approx(16e5 / b["rate_bps"])
    bare = sp.AllocationPlan(plan.names, plan.rate_bps, plan.speed)
    assert list(bare.to_frame().columns) == ["user", "rate_bps", "speed"]
    assert sp.AllocationPlan.from_dict(bare.to_dict()).latency_s is None


GOOD = {"schema": 1, "kind": "splitplan.AllocationPlan", "names": ["a"], "rate_bps": [1.0], "speed": [0.5]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "splitplan.SplitPlan"}, "is a 'splitplan.SplitPlan', not a 'splitplan.AllocationPlan'"),
        ({"schema": 2}, "has schema 2; this splitplan reads 1"),
        ({"rate_bps": [1.0, 2.0]}, "rate_bps has 2 values for 1 names"),
        ({"rate_bps": [float("nan")]}, r"rate_bps\[0\] is nan; give a finite number"),
        ({"speed": ["fast"]}, r"speed\[0\] is 'fast'; give a number"),
        ({"speed": [-1.0]}, r"speed\[0\] is -1.0; give a non-negative number"),
        ({"latency_s": [1.0, 1.0]}, "latency_s has 2 values"),
        ({"names": "a"}, "names is 'a'; give a list"),
        ({"names": [3]}, r"names\[0\] is 3; give text"),
        ({"speed": None}, "speed is None; give a list"),
        ({"rates": [1.0]}, "unknown field 'rates'; known: .*; did you mean 'rate_bps'"),
    ],
)
def test_defects_of_a_file(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert sp.AllocationPlan.from_dict(GOOD).names == ("a",)
    path = tmp_path / "shares.json"
    path.write_text(json.dumps(GOOD | changes), encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        sp.AllocationPlan.read(path)
    assert caught.value.where == str(path)


def test_a_missing_field() -> None:
    with pytest.raises(DataError) as caught:
        sp.AllocationPlan.from_dict({k: v for k, v in GOOD.items() if k not in ("names", "speed")})
    assert caught.value.problems == ("needs names", "needs speed")
