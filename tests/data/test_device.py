"""Device: every defect at once, clocks, power, the analytic model, copies with changes."""

from __future__ import annotations

import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import splitplan as sp
from splitplan.errors import DataError

CLOCKED = sp.Device(
    "board", clock_hz=(1e8, 2e8, 4e8), active_power_w=(2.0, 3.0, 5.0), idle_power_w=1.0, latency_a=2e7, latency_b=0.01
)


def test_all_defects_at_once() -> None:
    with pytest.raises(DataError) as caught:
        sp.Device(
            "bad", kind="tpu", threads=0, slowdown=0.5, idle_power_w=-1.0, memory_bytes=0.0, clock_hz=(1e9, math.nan)
        )
    problems = caught.value.problems
    assert caught.value.where == "device 'bad'"
    for word in (
        "kind is 'tpu'",
        "threads is 0",
        "slowdown is 0.5",
        "idle_power_w is -1.0",
        "memory_bytes is 0.0",
        "clock_hz[1] is nan",
    ):
        assert any(word in p for p in problems), f"{word} is not named"
    assert len(problems) == 6
    assert all("give" in p for p in problems)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clock_hz": (2e9, 1e9)}, "not ascending"),
        ({"clock_hz": (1e9, 1e9)}, "not ascending"),
        ({"clock_hz": (1e9, 2e9), "active_power_w": (3.0,)}, "1 values of active_power_w for 2 clocks"),
        ({"active_power_w": (3.0, 4.0)}, "2 values of active_power_w for 0 clocks"),
        ({"latency_a": 0.0}, "both 0"),
        ({"threads": True}, "threads is True"),
        ({"slowdown": math.inf}, "slowdown is inf"),
        ({"slowdown": "four"}, "give a number"),
        ({"active_power_w": (math.nan,)}, r"active_power_w\[0\] is nan"),
        ({"idle_power_w": "low"}, "idle_power_w is 'low'"),
    ],
)
def test_each_defect(fields: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        sp.Device("bad", **fields)


def test_clock_must_be_one_of_the_table() -> None:
    assert CLOCKED.check_clock(None) == 4e8
    assert CLOCKED.check_clock(2e8) == 2e8
    with pytest.raises(DataError, match=r"no clock of 3e\+08 Hz; it has 100 MHz, 200 MHz, 400 MHz"):
        CLOCKED.check_clock(3e8)
    with pytest.raises(DataError, match=r"none: its clock cannot be chosen"):
        sp.Device("fixed").check_clock(1e9)


def test_time_follows_the_clock() -> None:
    assert CLOCKED.time_scale(None) == 1.0
    assert CLOCKED.time_scale(1e8) == pytest.approx((2e7 / 1e8 + 0.01) / (2e7 / 4e8 + 0.01))
    assert sp.Device("fixed").time_scale(None) == 1.0


def test_power_by_clock_and_its_absence() -> None:
    assert [CLOCKED.power_w(f) for f in CLOCKED.clock_hz] == [2.0, 3.0, 5.0]
    assert CLOCKED.power_w(None) == 5.0
    assert sp.device("this-cpu", active_power_w=3.0).power_w(None) == 3.0
    with pytest.raises(DataError, match=r"no active_power_w and no idle_power_w.*give them"):
        sp.device("this-cpu").power_w(None)
    with pytest.raises(DataError, match=r"no idle_power_w.*give them"):
        _ = sp.device("this-cpu").idle_w


def test_roofline_by_hand() -> None:
    d = sp.Device("r", peak_flops=1e9, bandwidth_bytes_s=1e6, efficiency=0.5, overhead_s=1e-3, slowdown=2.0)
    seconds = d.modelled_seconds(np.array([1e9, 0.0]), np.array([1e3, 1e6]))
    assert seconds == pytest.approx([2 * (1e-3 + 2.0), 2 * (1e-3 + 1.0)])


def test_roofline_names_what_is_missing() -> None:
    with pytest.raises(DataError, match=r"cannot be measured here and has no peak_flops, efficiency"):
        sp.Device("r", bandwidth_bytes_s=1e9).modelled_seconds(np.ones(1), np.ones(1))


def test_but_changes_and_refuses() -> None:
    assert CLOCKED.but(threads=2).threads == 2
    with pytest.raises(DataError, match=r"unknown field 'thread'; known: name, kind"):
        CLOCKED.but(thread=2)


def test_says_what_is_emulated() -> None:
    assert sp.device("this-cpu", slowdown=4).emulated == "compute slowed 4x by a duty cycle"
    assert sp.device("this-cpu").emulated == ""


def test_pickles() -> None:
    assert pickle.loads(pickle.dumps(CLOCKED)) == CLOCKED


@given(st.lists(st.floats(1e6, 5e9), min_size=1, max_size=12, unique=True), st.floats(0, 1e9), st.floats(1e-6, 1))
def test_a_faster_clock_is_never_slower(clocks: list[float], a: float, b: float) -> None:
    d = sp.Device("d", clock_hz=tuple(sorted(clocks)), latency_a=a, latency_b=b)
    scales = [d.time_scale(f) for f in d.clock_hz]
    assert scales[-1] == 1.0
    assert all(x >= y for x, y in pairwise(scales))
