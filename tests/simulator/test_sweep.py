"""Sweeps: the same rows however they are run; what was run is not run again; energy falls and work left grows with V."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import splitplan as sp
from splitplan.data.channel import constant
from splitplan.errors import DataError, InfeasibleError
from splitplan.policies.slot_baselines import greedy_latency, server_only
from splitplan.simulator import sweep as module
from tests.plots.test_plots import drawn, texts
from tests.policies import test_result as own
from tests.simulator.test_simulate import carried

WEIGHTS = [1e-4, 1e-2, 1.0]


@pytest.fixture(scope="module")
def case() -> tuple[sp.SlotControl, sp.Scenario]:
    return carried(3, 0.5, 200.0)


def test_energy_falls_and_work_left_grows_with_v(case: tuple[sp.SlotControl, sp.Scenario]) -> None:
    """By the textbook's rule; place-holders wait for nobody, so less is left, and energy falls all the same."""
    control, scene = case
    left = {}
    for held in (False, True):
        table = sp.sweep(replace(control, place_holders=held), scene, WEIGHTS, physical=False).to_frame()
        assert (np.diff(table["power_w"]) <= 1e-9).all()
        assert (table["certificate"] >= -1e-7).all()
        left[held] = table["device_s"] + table["uplink_bits"] / control.units["uplink"] + table["server_s"]
    assert left[False].iloc[-1] > left[False].iloc[0]
    assert (left[True] < left[False])[1:].all()  # at the least V there is next to nothing to hold


def test_the_rows_are_the_same_however_they_are_run(case: tuple[sp.SlotControl, sp.Scenario]) -> None:
    one = sp.sweep(*case, WEIGHTS, seeds=[1, 2])
    two = sp.sweep(*case, WEIGHTS, seeds=[1, 2], jobs=2)
    pd.testing.assert_frame_equal(one.to_frame(), two.to_frame())
    assert list(one.to_frame()["seed"]) == [1, 1, 1, 2, 2, 2]


def test_what_was_run_is_not_run_again(
    case: tuple[sp.SlotControl, sp.Scenario], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control, scenario = case
    count, real = [0], module.one

    def counted(*args: object, **kwargs: object) -> dict[str, float]:
        count[0] += 1
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "one", counted)

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sp.sweep(control, scenario, WEIGHTS, folder=tmp_path, progress=stop)
    assert count[0] == 2
    whole = sp.sweep(control, scenario, WEIGHTS, folder=tmp_path)
    assert count[0] == 3
    pd.testing.assert_frame_equal(whole.to_frame(), sp.sweep(control, scenario, WEIGHTS).to_frame())
    sp.sweep(replace(control, slot_s=0.05 if control.slot_s != 0.05 else 0.06), scenario, WEIGHTS[:1], folder=tmp_path)
    assert count[0] == 7, "another control found the first one's runs"
    for path in tmp_path.glob("*.json"):
        path.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="delete it, and it is run again"):
        sp.sweep(control, scenario, WEIGHTS, folder=tmp_path)


def test_what_another_control_left_is_not_taken_and_what_is_the_same_run_is(tmp_path: Path) -> None:
    """With V = 0 at first nothing tells a control with place-holders from one without, and V itself is what is swept."""
    control, scene = carried(3, 0.8, 60.0)

    def power(folder: Path | None, **options: object) -> float:
        base = replace(control, **options)  # type: ignore[arg-type]
        return float(sp.sweep(base, scene, [1.0], folder=folder).to_frame()["power_w"][0])

    here = [power(tmp_path, V=0.0, place_holders=held) for held in (True, False)]
    assert here == [power(None, V=0.0, place_holders=held) for held in (True, False)] and here[0] != here[1]
    assert len(list(tmp_path.glob("*.json"))) == 2
    power(tmp_path, V=0.01)
    power(tmp_path, V=3.0, most_frames=5)
    assert len(list(tmp_path.glob("*.json"))) == 2, "the base control's V is in the name"
    power(tmp_path, persistence=0.5)
    assert len(list(tmp_path.glob("*.json"))) == 3
    next(tmp_path.glob("*.json")).write_text('{"V": 1.0}', encoding="utf-8")
    with pytest.raises(DataError, match="is not a run's row; delete it"):
        [power(tmp_path, **o) for o in ({}, {"place_holders": False}, {"persistence": 0.5})]


@pytest.fixture(scope="module")
def still() -> sp.Scenario:
    return sp.Scenario(sp.poisson(3.0), constant(1e7), slots=500, seed=1)


def test_runs_are_held_against_the_bound_of_their_own_control(still: sp.Scenario) -> None:
    """Greedy latency weighs seconds, whatever the control that it is made of weighs."""
    curve = sp.sweep(own.control(), still, [0.01, 0.1], seeds=[1, 2], policy=greedy_latency)
    table = curve.to_frame()
    assert curve.bound.unit == "penalty a slot" and (table["certificate"] >= -1e-9).all()
    for row in table.to_dict("records"):
        there = replace(still, seed=int(row["seed"]))
        alone = sp.simulate(greedy_latency(own.control(V=row["V"])), there)
        joint = sp.simulate(sp.SlotPolicy(own.control()), there)
        assert row["certificate"] == pytest.approx(alone.certificate, abs=1e-12)
        beside = sp.compare({"greedy": alone, "joint": joint}).to_frame()
        assert row["above_bound_w"] == pytest.approx(beside["above_bound_w"][0]) and row["above_bound_w"] > 0.05


@pytest.mark.parametrize("options", [{"mode": "min-latency"}, {"power_budget_w": 2.4}, {"mode": {"energy": 3.0}}])
def test_the_line_in_its_figure_is_of_power_and_below_the_runs(still: sp.Scenario, options: dict[str, Any]) -> None:
    curve = sp.sweep(own.control(**options), still, [1e-3, 1e-1])
    table = curve.to_frame()
    assert (table["above_bound_w"] > -1e-9).all()
    plain = sp.simulate(sp.SlotPolicy(own.control()), still)
    assert plain.bound is not None and plain.bound.bound is not None
    least = table["power_w"] - table["above_bound_w"]
    np.testing.assert_allclose(least, plain.bound.bound / 0.1, rtol=0.02)  # but for what was left at the end
    (line, *_) = [x for x in curve.plot().axes[0].lines if "no policy is below" in str(x.get_label())]
    assert sorted(line.get_ydata()) == sorted(least)


def test_a_policy_of_ones_own_that_is_none_is_named(still: sp.Scenario) -> None:
    with pytest.raises(DataError, match="^sweep: policy is a int; give a splitplan.SlotPolicy"):
        sp.sweep(own.control(), still, [1.0], policy=lambda control: 3)  # type: ignore[arg-type,return-value]


def test_late_frames_and_why_frames_were_refused_are_told(still: sp.Scenario) -> None:
    hard = own.control(deadline_s=0.12)
    moving = sp.Channel(np.array([0.0, 28.0, 30.0]), np.array([1e3, 1e9]))
    curve = sp.sweep(hard, replace(still, slots=300, channel=moving), [0.01, 1.0], policy=server_only)
    told = " ".join(curve.notes)
    assert not curve.to_frame()["carried"].any() and "deadline_s = 0.12 in their slots" in told
    assert "refused" in told and "too short" not in told
    some = sp.sweep(hard, replace(still, arrivals=sp.poisson(9.0)), [0.01])
    alone = sp.simulate(sp.SlotPolicy(replace(hard, V=0.01)), replace(still, arrivals=sp.poisson(9.0)))
    assert some.to_frame()["late_share"][0] == alone.late and alone.late
    assert "late_%" in str(some) and "late_%" not in str(sp.sweep(own.control(), still, [0.01]))
    blind = sp.sweep(hard, still, [0.01], policy=greedy_latency)
    assert np.isfinite(blind.to_frame()["late_share"][0])  # its control has no deadline; the one that was swept has


def test_limits_on_means_are_told_and_whether_they_held(still: sp.Scenario) -> None:
    tight = own.control(mode="max-throughput", power_budget_w=1.6)
    curve = sp.sweep(tight, replace(still, arrivals=sp.poisson(8.0), slots=20_000), [1e-4, 10.0, 100.0])
    table = curve.to_frame()
    assert list(table["held"]) == [True, False, False] and str(curve).count(" NO ") >= 2
    (note,) = [text for text in curve.notes if "power_budget_w" in text]
    worst = table["power_w"].max()
    assert note.startswith(f"V = 10, 100: power_budget_w 1.6: {worst:.4g} W, NOT held") and "smaller V" in note
    free = sp.sweep(own.control(), still, [0.01])
    assert free.to_frame()["held"].all() and "held" not in str(free).splitlines()[1]


def test_its_figure_holds_the_bound(case: tuple[sp.SlotControl, sp.Scenario], tmp_path: Path) -> None:
    curve = sp.sweep(*case, WEIGHTS)
    figure = curve.plot()
    assert drawn(figure) and "no policy is below" in texts(figure)
    curve.save(tmp_path / "c.csv")
    assert len(pd.read_csv(tmp_path / "c.csv")) == 3
    assert "no policy" not in str(curve) and "StationaryBound" in str(curve)


def test_what_is_given_is_looked_at(case: tuple[sp.SlotControl, sp.Scenario]) -> None:
    with pytest.raises(DataError, match=r"V\[1\] is -1"):
        sp.sweep(*case, [1.0, -1.0])
    with pytest.raises(DataError, match="V is empty"):
        sp.sweep(*case, [])
    with pytest.raises(DataError, match="jobs is 0"):
        sp.sweep(*case, [1.0], jobs=0)
    control, scenario = carried(3, 4.0, 50.0)
    with pytest.raises(InfeasibleError, match="no policy can carry"):
        sp.sweep(control, scenario, [1.0])


@pytest.fixture(scope="module")
def swept() -> module.Curve:
    """One V serves at once; one waits for half the run's time, one for more than all of it, so that no frame is answered."""
    control, scene = carried(3, 0.5, 100.0, place_holders=False, persistence=0.0)
    return sp.sweep(control, scene, [1e-4, 10.0, 1e6])


def test_a_weight_that_does_not_carry_the_load_is_told(swept: module.Curve) -> None:
    table = swept.to_frame()
    assert list(table["carried"]) == [True, False, False]
    assert (table["unanswered"] > 0.05 * table["admitted"])[1:].all()
    assert np.isfinite(table["mean_latency_s"][1]) and np.isnan(table["mean_latency_s"][2])
    note, why = swept.notes
    assert note.startswith("V = 10, 1e+06: the load is not carried")
    assert "queues grow without end" in why and "refused" not in why
    assert f"{table['unanswered'][1:].sum()} were not answered" in note
    assert f"note: {note}" in str(swept) and str(swept).count(" NO ") == 2


def test_in_the_figure_it_is_hollow_and_no_line_goes_through_it(swept: module.Curve) -> None:
    figure = swept.plot()
    assert drawn(figure) and "does not carry the load" in texts(figure)
    powers = swept.to_frame()["power_w"].tolist()
    for ax, hollow in zip(figure.axes, (powers[1:2], powers[1:]), strict=True):
        (points,) = [x for x in ax.lines if x.get_markerfacecolor() == "white"]
        assert list(points.get_ydata()) == hollow
        assert all(len(x.get_xdata()) == 1 for x in ax.lines if x is not points)


def test_a_curve_that_carries_the_load_says_nothing_of_that(case: tuple[sp.SlotControl, sp.Scenario]) -> None:
    curve = sp.sweep(*case, WEIGHTS)
    assert curve.to_frame()["carried"].all() and curve.notes == ()
    assert "not carried" not in str(curve) and "not carry" not in texts(curve.plot())


def test_it_says_what_was_swept_and_is_printed_within_120_columns(case: tuple[sp.SlotControl, sp.Scenario]) -> None:
    control, scene = case
    curve = sp.sweep(replace(control, deadline_s=1e3, cuts=None), scene, WEIGHTS, seeds=[1, 2])
    rows = str(curve).splitlines()[:8]
    assert "seed" in rows[1] and max(map(len, rows[1:])) <= 120
    s = control.system
    names = (
        control.profile.graph.name,
        s.device.name,
        s.server.name,
        s.link.name,
        scene.channel.name,
        "deadline_s 1000",
        "joint",
    )
    shown = texts(curve.plot()).replace("\n", " ")
    for name in names:
        assert name in rows[0] and name in shown


def test_what_is_no_control_and_no_scene_is_named_as_the_sweeps(case: tuple[sp.SlotControl, sp.Scenario]) -> None:
    control, scene = case
    with pytest.raises(DataError) as caught:
        sp.sweep(sp.SlotPolicy(control), control, [1.0])  # type: ignore[arg-type]
    assert str(caught.value).startswith("sweep: ") and len(caught.value.problems) == 2
    assert "control is a SlotPolicy; give a splitplan.SlotControl" in str(caught.value)
    assert "StationaryBound" not in str(caught.value)
    with pytest.raises(DataError, match="scene is a int"):
        sp.sweep(control, 3, [1.0])  # type: ignore[arg-type]
    assert scene.slots is None
