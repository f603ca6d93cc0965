"""SlotContinuous: CVXPY and the KKT conditions agree, below the grid, and the grid comes down to them as it gets finer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import splitplan as sp
from benchmarks.instances import Seeded
from benchmarks.slot_instances import slot_control, slot_state
from benchmarks.slots import control as board
from splitplan.data.profile import COLUMNS
from splitplan.errors import DataError, InfeasibleError, SolverError
from splitplan.formulations import slot_program
from splitplan.formulations.slot_continuous import Curve
from splitplan.solvers import slot_convex
from splitplan.solvers.convex import Convex


@pytest.mark.parametrize("seed", range(30))
def test_cvxpy_and_kkt_agree_and_are_below_the_grid(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = Seeded(seed)
    control = slot_control(choose, 3, continuous=True)
    problem = sp.SlotContinuous(control)
    compiled, built, real = problem.compile("cvxpy"), [], slot_program.build
    monkeypatch.setattr(slot_program, "build", lambda p, *regimes: built.append(regimes) or real(p, *regimes))
    for _ in range(3):
        state = slot_state(choose, control)
        here = problem.of(control.at(state))
        try:
            kkt = here.solve("slot-kkt")
        except InfeasibleError:
            with pytest.raises(InfeasibleError):
                control.at(state).solve("enumerate")
            continue
        slot = {name: getattr(state, name) for name in control.slot_parameters}
        convex = compiled.step(**slot)
        unit = (
            1e-6 * here.control.scale**-1 * 1e4
        )  # a millionth of the largest cost: the cone solver's tolerance is absolute
        assert convex.objective == pytest.approx(kkt.objective, rel=1e-6, abs=unit)
        assert compiled.rebuilds == 0 and len(built) == len(set(built))  # a program for each pair of regimes, once
        try:
            grid = control.at(state).solve("enumerate").objective
        except InfeasibleError:
            continue
        assert kkt.objective <= grid * (1 + 1e-9) + 1e-12


def refined(control: sp.SlotControl, times: int) -> sp.SlotControl:
    """The same with more clocks, on the curve below the table, and more rate levels: each grid is part of those that are a multiple of it.

    Without place-holders: what a second or a bit takes at least is another number on another grid.
    """
    curve, c = sp.SlotContinuous(control).curve, control.choices
    speeds = np.unique(np.r_[np.linspace(curve.low, curve.high, 4 * times + 1), c.speed[1:]])
    top = control.profile.seconds("device")
    clocks = np.interp(speeds, c.speed[1:], c.clock_hz[1:])
    device = replace(
        control.system.device,
        clock_hz=tuple(clocks.tolist()),
        active_power_w=tuple(np.asarray(curve.at(speeds)).tolist()),
    )
    rows = [
        (layer.name, "device", f, t / g, 0.0, 1, "given")
        for layer, t in zip(control.profile.graph.layers, top, strict=True)
        for f, g in zip(clocks, speeds, strict=True)
    ]
    rows += [
        (layer.name, "server", np.nan, t, 0.0, 1, "given")
        for layer, t in zip(control.profile.graph.layers, control.profile.seconds("server"), strict=True)
    ]
    profile = sp.Profile(control.profile.graph, pd.DataFrame(rows, columns=list(COLUMNS)), control.profile.origins)
    system = sp.System(device=device, server=control.system.server, link=control.system.link)
    levels = tuple((np.arange(1, 8 * times + 1) / (8 * times)).tolist())
    return replace(control, profile=profile, system=system, rate_levels=levels, cuts=None, place_holders=False)


def test_the_grid_comes_down_to_it() -> None:
    shrunk = 0
    for seed in range(90):
        choose = Seeded(200 + seed)
        control = slot_control(choose, 3, limits=False, continuous=True)
        if len(control.choices.clock_hz) < 3 or control.V == 0:
            continue
        control = replace(control, place_holders=False)
        state = replace(slot_state(choose, control), last_clock_hz=None, last_cut=None)
        try:
            least = sp.SlotContinuous(control.at(state)).solve("slot-kkt").objective
            gaps = [refined(control, times).at(state).solve("enumerate").objective - least for times in (1, 4, 16)]
        except InfeasibleError:
            continue
        scale = max(least, 1e-12)
        assert min(gaps) >= -1e-9 * scale
        assert gaps[2] <= gaps[0] * (1 + 1e-9) + 1e-9 * scale
        if gaps[0] > 1e-6 * scale:
            assert gaps[2] < 0.5 * gaps[0]
            shrunk += 1
    assert shrunk >= 2


def test_the_curve_is_convex_below_the_table_and_through_its_corners() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        speed = np.sort(rng.uniform(0.1, 1.0, rng.integers(1, 9)))
        power = rng.uniform(1.0, 9.0, len(speed))
        curve = Curve.below(speed, power)
        at = np.linspace(speed[0], speed[-1], 50)
        values = np.asarray(curve.at(at))
        assert (np.asarray(curve.at(speed)) <= power + 1e-9).all()
        assert (np.diff(values) >= -1e-9).all() and (np.diff(values, 2) >= -1e-9).all()
        # The largest such function: at each speed the least power of a mixture of two clocks that is as fast, see the audit.
        for g, v in zip(at, values, strict=True):
            mixtures = [
                p + (q - p) * np.clip((g - a) / (b - a) if b > a else 0.0, 0, 1)
                for a, p in zip(speed, power, strict=True)
                for b, q in zip(speed, power, strict=True)
                if b >= a and b >= g - 1e-12
            ]
            assert v == pytest.approx(min(mixtures), abs=1e-9)


def test_costs_of_changes_are_refused() -> None:
    control = replace(slot_control(Seeded(1), 3, limits=False), clock_change_j=1.0)
    with pytest.raises(DataError, match="clock_change_j"):
        sp.SlotContinuous(control)


@pytest.mark.parametrize("solver", ["slot-kkt", "cvxpy"])
def test_a_radio_that_cannot_be_is_refused_before_its_numbers_overflow(solver: str) -> None:
    given = slot_control(Seeded(1), 3, limits=False)
    link = given.system.link.but(radio=sp.Radio(1e-7, 0.0, 0.5, bandwidth_hz=1e3))
    system = sp.System(device=given.system.device, server=given.system.server, link=link)
    control = sp.SlotControl(given.profile, system, V=0.1)
    for rate, fine in ((2.9e5, True), (3.1e5, False)):
        problem = sp.SlotContinuous(control.at(sp.SlotState(uplink_bits=1e4, device_s=0.1, frames=1, rate_bps=rate)))
        if fine:
            assert problem.solve(solver).objective <= problem.control.solve("enumerate").objective * (1 + 1e-6) + 1e-9
        else:
            with pytest.raises(DataError, match="310 bit/s per hertz"):
                problem.solve(solver)


def test_clarabel_tries_shorter_steps_before_it_gives_up() -> None:
    """Numbers of a slot on which its own step length ends in an error of numbers at every tolerance (Clarabel 0.11.1)."""
    problem = sp.SlotContinuous(board("tiny-branch", "jetson-tx2", deadline=False))
    programs = slot_convex.Programs(Convex(), problem)
    program = programs.program("busy", "busy")
    hard = {
        "c": 0.0, "b": 0.0, "late_c": 0.0, "late_b": 0.0, "a": 1.1810176110441135, "rho": 1.7074774019233374, "g_most": 1.0,
        "joule_s": 122.39245430948297, "service_s": 2078.021777612905, "m_least": 0.0009474496846864502, "m_most": 0.9474496846864502,
        "radio_joule_s": 122.39245430948297, "radio_joule_s_a": 144.5476439984114, "radio_service_s": 10554.650195814262,
    }  # fmt: skip
    for parameter in program.parameters():
        parameter.value = hard[parameter.name()]
    assert programs.attempt(program) == "optimal"
    assert program.value == pytest.approx(-10089.5194, abs=1e-3)


def test_what_clarabel_gives_up_is_not_answered_with_the_slot_before(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = sp.SlotContinuous(board("tiny-branch", "jetson-tx2", deadline=False))
    programs = slot_convex.Programs(Convex(), problem)
    state = sp.SlotState(device_s=3.0, uplink_bits=1e7, frames=0, rate_bps=1e7)
    assert programs.solve(problem.of(problem.control.at(state)), 0, 0, "busy", "busy") is not None
    monkeypatch.setattr(programs, "_run", lambda *_: "failed")
    other = problem.of(problem.control.at(replace(state, rate_bps=5e6)))
    with pytest.raises(SolverError, match="failed"):
        programs.solve(other, 0, 0, "busy", "busy")
    before = programs.inaccurate
    answers = iter(["optimal_inaccurate", "infeasible"])
    monkeypatch.setattr(programs, "_run", lambda *_: next(answers))
    assert programs.solve(other, 0, 0, "busy", "busy") is None and programs.inaccurate == before + 1
