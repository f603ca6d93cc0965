"""A golden LP file for every constraint of the MILPs.

What the model says is compared as text, names and coefficients. After a change that is meant, write the files anew and read
the difference: ``UPDATE_GOLDEN=1 python -m pytest tests/formulations/test_lp_files.py``, then ``git diff tests/formulations/golden``.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

import splitplan as sp
from splitplan.errors import DataError, SolverError
from splitplan.formulations import relay_model, slot_horizon_model, slot_model, split_model, stationary_model
from splitplan.formulations.slot_horizon import SlotHorizon
from tests.formulations.lp_files import least_of_file

GOLDEN = Path(__file__).parent / "golden"


def tiny() -> tuple[sp.Profile, sp.System]:
    """Two layers and a skip; shared parameters, two outputs, one of which is also consumed; whole numbers to read."""
    graph = sp.LayerGraph(
        "tiny",
        (
            sp.Layer("a", parameters=("p",), memory_bytes=200.0),
            sp.Layer("b", parameters=("p", "q"), memory_bytes=100.0),
        ),
        (
            sp.Tensor("x", "input", ("a", "b"), 1000.0),
            sp.Tensor("t", "a", ("b",), 500.0, is_output=True),
            sp.Tensor("y", "b", (), 10.0, is_output=True),
        ),
        {"p": 4000.0, "q": 2000.0},
    )
    profile = sp.Profile.given(graph, {"device": {"a": 0.4, "b": 0.2}, "server": {"a": 0.1, "b": 0.05}})
    link = sp.Link("l", 8e4, 1.6e5, rtt_s=0.02, header_bytes=100.0, radio=sp.Radio(1e-5, 5e-6, 0.5))
    device = sp.Device("d", active_power_w=3.0, idle_power_w=1.0)
    return profile, sp.System(device=device, server=sp.Device("s"), link=link)


EVERY_LIMIT = {
    "deadline_s": 1.0,
    "energy_budget_j": 2.0,
    "period_limit_s": 0.5,
    "device_memory_bytes": 8000.0,
    "upload_limit_bytes": 900.0,
}
SPLITS = {
    "latency": {},
    "energy_at_the_server": {"objective": "energy", "result": "server"},
    "period_anywhere": {"objective": "period", "result": "anywhere"},
    "memory_pinned": {"objective": "memory", "pin_device": ("a",)},
    "everything": {"objective": {"latency": 1.0, "energy": 0.5, "period": 2.0, "memory": 1e-4}, "wire": "fp16", "input_bytes": 300.0, **EVERY_LIMIT},
}  # fmt: skip


RELAYS = {
    "relay": {},
    "relay_energy_at_the_edge": {"objective": {"latency": 1.0, "energy": 0.5}, "result": "edge", "pins": {"edge": ("a",)}},
    "relay_direct": {"direct": True, "wire": "fp16", "input_bytes": 300.0},
    "relay_direct_at_the_cloud": {"direct": True, "objective": "energy", "result": "cloud"},
    "relay_direct_at_the_edge": {"direct": True, "result": "edge"},
}  # fmt: skip


def tiny_relay() -> tuple[sp.Profile, sp.System]:
    """The same two layers at three places; every link has other numbers."""
    profile, two = tiny()
    times = {"device": {"a": 0.4, "b": 0.2}, "edge": {"a": 0.2, "b": 0.1}, "cloud": {"a": 0.05, "b": 0.04}}
    links = {
        ("device", "edge"): two.link,
        ("edge", "cloud"): sp.Link("m", 4e4, 8e4, rtt_s=0.04, header_bytes=50.0),
        ("device", "cloud"): sp.Link("n", 2e4, 4e4, rtt_s=0.002, radio=sp.Radio(2e-5, 1e-5, 1.0)),
    }
    places = {"device": two.device, "edge": sp.Device("e"), "cloud": sp.Device("c")}
    return sp.Profile.given(profile.graph, times), sp.System(links=links, **places)


SLOTS = {
    "slot": {"cut_change_j": 0.1, "clock_change_j": 0.2},
    "slot_deadline": {"deadline_s": 1.2, "mode": {"energy": 1.0, "latency": 0.5}},
    "slot_power_cap": {"power_cap_w": 3.0, "mode": "max-throughput", "most_frames": 2},
    "slot_both": {"deadline_s": 1.2, "power_cap_w": 3.0},
}  # fmt: skip


def tiny_slot(**options: object) -> sp.SlotControl:
    """The two layers on a device of two clocks, in a slot in which all queues have something."""
    profile, system = tiny()
    device = sp.Device("d", clock_hz=(1.0, 2.0), active_power_w=(2.0, 5.0), idle_power_w=1.0)
    rows = profile.table.assign(clock_hz=lambda t: t["clock_hz"].mask(t["place"] == "device", 2.0))
    slower = rows[rows["place"] == "device"].assign(clock_hz=1.0, time_s=lambda t: 2 * t["time_s"])
    table = pd.concat([rows, slower], ignore_index=True)
    system = sp.System(device=device, server=system.server, link=system.link)
    state = sp.SlotState(0.3, 4e4, 0.1, frames=2, rate_bps=8e4, last_cut=0, last_clock_hz=1.0)
    given = {"slot_s": 0.5, "V": 0.1, "rate_levels": (0.5, 1.0), "state": state, **options}
    return sp.SlotControl(sp.Profile(profile.graph, table), system, **given)  # type: ignore[arg-type]


def tiny_bound(**options: object) -> sp.StationaryBound:
    """Four slots of two rates."""
    channel = sp.Channel(np.array([0.0, 1.0, 2.0]), np.array([8e4, 4e4]), "two rates")
    return sp.StationaryBound(tiny_slot(**options), sp.Scenario(sp.periodic(1.0), channel, slots=4))


def tiny_horizon(**options: object) -> SlotHorizon:
    """Two slots ahead."""
    control = tiny_slot(**options)
    prices = {"device": 0.5, "uplink": 1e-6, "server": 0.1}
    return SlotHorizon(control, np.array([1, 0]), np.array([8e4, 4e4]), prices, wait_weight=0.2)


CONTROLLED: dict[str, Callable[[], Any]] = {
    **{name: partial(lambda o: tiny_slot(**o), options) for name, options in SLOTS.items()},
    "stationary": tiny_bound,
    "stationary_limits": partial(tiny_bound, mode="max-throughput", throughput_min_hz=0.5, power_budget_w=3.0),
    "horizon": tiny_horizon,
}

CASES: dict[str, Callable[[], Any]] = {
    **{name: partial(lambda o: sp.SplitPoint(*tiny(), **o), options) for name, options in SPLITS.items()},
    **{name: partial(lambda o: sp.RelaySplit(*tiny_relay(), **o), options) for name, options in RELAYS.items()},
    **CONTROLLED,
}


def normalised(text: str) -> str:
    """Numbers to 12 digits, comments and blank lines left out."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("\\")]
    return "\n".join(re.sub(r"[+-]?\d+\.\d+(e[+-]?\d+)?", lambda m: f"{float(m[0]):+.12g}", x) for x in lines) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, tmp_path: Path) -> None:
    problem = CASES[name]()
    path = tmp_path / "model.lp"
    problem.write_lp(path)
    text, golden = normalised(path.read_text(encoding="utf-8")), GOLDEN / f"{name}.lp"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), f"the model changed; if that is meant, see {__doc__}"


def rows_by_function(model: ModuleType) -> dict[str, set[str]]:
    """Constraint function of a model's file → names of the Pyomo constraints that it makes."""
    tree = ast.parse(Path(str(model.__file__)).read_text(encoding="utf-8"))
    return {
        f.name: {
            target.attr
            for node in ast.walk(f)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
            for target in node.targets
            if isinstance(target, ast.Attribute) and "Constraint" in ast.unparse(node.value.func)
        }
        for f in tree.body
        if isinstance(f, ast.FunctionDef) and f.name.startswith("constraint_")
    }


CONSTRAINTS = {
    split_model: ("one_way", "crossing", "messages", "period", "memory", "limits"),
    relay_model: ("places_in_order", "forward", "crossing", "return", "messages", "routes", "charges"),
    slot_model: ("one_each", "pairs", "deadline", "deadline_covers", "power", "power_covers"),
    stationary_model: ("work", "shares", "frames"),
    slot_horizon_model: ("left", "no_more_work", "no_less_work"),
}
FILES = {
    split_model: tuple(SPLITS),
    relay_model: tuple(RELAYS),
    slot_model: tuple(SLOTS),
    stationary_model: ("stationary", "stationary_limits"),
    slot_horizon_model: ("horizon",),
}


@pytest.mark.parametrize("model", CONSTRAINTS, ids=lambda m: m.__name__.rpartition(".")[2])
def test_every_constraint_leaves_a_row_in_some_golden_file(model: ModuleType) -> None:
    text = "".join((GOLDEN / f"{name}.lp").read_text(encoding="utf-8") for name in FILES[model])
    rows = rows_by_function(model)
    assert set(rows) == {f"constraint_{n}" for n in CONSTRAINTS[model]}
    for function, names in rows.items():
        assert names, f"{function} makes no constraint"
        for name in names:
            assert re.search(rf"^c_\w_{name}[(_]", text, re.MULTILINE), f"{function}: {name} is in no golden file"


def test_no_golden_file_without_a_case() -> None:
    assert {p.stem for p in GOLDEN.glob("*.lp")} == set(CASES)


def test_the_files_mean_what_the_problem_means(tmp_path: Path) -> None:
    """HiGHS reads the file itself and finds the same optimum."""
    for name, make in CASES.items():
        problem = make()
        problem.write_lp(tmp_path / f"{name}.lp")
        value = least_of_file(tmp_path / f"{name}.lp") / getattr(problem, "scale", 1.0)
        exact = "ideals" if name in SPLITS else "enumerate" if name in SLOTS else "auto"
        near = 5e-6 if name == "stationary_limits" else 1e-6  # the file's logarithm is cut by tangents
        assert value == pytest.approx(problem.solve(exact).objective, rel=near)


def test_the_file_says_what_its_variables_are(tmp_path: Path) -> None:
    problem = sp.SplitPoint(*tiny(), **SPLITS["everything"], pin_device=("a",))
    problem.write_lp(tmp_path / "m.lp")
    text = (tmp_path / "m.lp").read_text(encoding="utf-8")
    notes = [line.removeprefix("\\ ") for line in text.splitlines() if line.startswith("\\ ")]
    assert " ".join(notes).startswith(problem.describe().replace("≤", "<=").replace("·", " "))
    assert text.isascii()
    assert max(map(len, notes)) <= 200
    assert f"The objective is in weighted times {problem.scale!r}." in " ".join(notes)
    assert f"T is the period in units of {split_model.period_unit(problem)!r} s." in notes
    assert "x(0): layer 'a', pinned to the device" in notes
    assert "x(1): layer 'b'" in notes
    assert "y(1): tensor 't' of 'a'" in notes
    named = re.findall(r"^([xy]\(\d+\)):", "\n".join(notes), re.MULTILINE)
    rows = text[text.index("s.t.") :]
    assert len(named) == 5
    assert [n for n in named if f" {n}\n" not in rows] == []


def test_a_file_that_cannot_be_written_is_the_user_s_error(tmp_path: Path) -> None:
    problem = sp.SplitPoint(*tiny())
    with pytest.raises(DataError, match="cannot be written: No such file or directory. Nothing was changed there"):
        problem.write_lp(tmp_path / "nowhere" / "m.lp")
    assert not list(tmp_path.iterdir())


def test_only_lp_and_only_milps(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must end in \.lp"):
        sp.SplitPoint(*tiny()).write_lp(tmp_path / "model.mps")
    allocation = sp.RateAllocation((sp.User("a", 1.0, 1.0),), 1e6)
    with pytest.raises(SolverError, match="is no MILP"):
        allocation.write_lp(tmp_path / "model.lp")
