"""Sweeps: the same rows however they are run; what was run is not run again; energy falls and work left grows with V."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import splitplan as sp
from splitplan.errors import DataError, InfeasibleError
from splitplan.simulator import sweep as module
from tests.plots.test_plots import drawn, texts
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
