"""The bound's figure: parts of the power add up to the plan's, loads are of what a resource can do, what binds stands out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import splitplan as sp
from splitplan.data.channel import constant
from splitplan.errors import DataError
from splitplan.formulations.stationary import ANY_PRICE, sends_so
from splitplan.plots.stationary import plot_bound
from tests.policies.test_result import control

from .test_plots import drawn, texts

SCENE = sp.Scenario(sp.poisson(8.0), constant(1e7), slots=300, seed=1)


@pytest.mark.parametrize("options", [{}, {"mode": "min-latency"}, {"power_budget_w": 4.5}])
def test_parts_are_the_plans(options: dict[str, object]) -> None:
    problem = sp.StationaryBound(control(**options), SCENE)
    solution = problem.solve()
    powers, loads = problem.powers(solution.plan), problem.loads(solution.plan, solution.duals)
    assert powers["power_w"].sum() == pytest.approx(solution.terms["power_w"], rel=1e-9)
    busy = np.array(solution.plan.cut_frames) @ problem.control.choices.works[:, 0]
    assert loads["used"][0] == pytest.approx(busy / 0.1) and (loads["used"] <= 1 + 1e-6).all()
    assert list(loads["resource"]) == ["device", "uplink", "server", "power"][: 4 if "power_budget_w" in options else 3]
    figure = solution.plot()
    drawn(figure)
    left, right = figure.axes
    np.testing.assert_allclose([bar.get_width() for bar in left.patches], powers["power_w"])
    np.testing.assert_allclose([bar.get_width() for bar in right.patches], 100 * loads["used"])
    shown = texts(figure)
    assert f"{loads['used'][0]:.0%} used\nmore is worth" in shown and "idle" in shown
    assert "at the most frames that any policy carries, the limit is made by: " in shown
    assert f"any policy carries at most {solution.plan.capacity_hz:.4g}" in shown.replace("\n", " ")
    assert ("J/bit" in loads["unit"].tolist()) == (solution.unit == "J a slot")


def test_what_binds_at_the_most_frames_is_no_mark_of_this_load() -> None:
    """A device that is nearly idle now may be the limit of what could be carried: said in words, apart from its bar."""
    problem = sp.StationaryBound(control(), SCENE)
    solution = problem.solve()
    loads = problem.loads(solution.plan, solution.duals).assign(
        used=[0.05, 0.2, 0.0], binding=[0.7, 0.3, 0.0], price=[0.0, 2e-7, 0.0]
    )
    figure = plot_bound(problem.powers(solution.plan), loads)
    drawn(figure)
    right = figure.axes[1]
    assert len({bar.get_facecolor() for bar in right.patches}) == 1
    assert [t.get_text() for t in right.texts] == [
        "5% used\nmore is worth nothing",
        "20% used\nmore is worth 2e-07 J/bit",
        "0% used\nmore is worth nothing",
    ]
    full = right.transData.transform((100, 0))[0]
    assert all(full < t.get_window_extent().x0 for t in right.texts), "beside the bars, however full"
    told = "Not at this load, but at the most frames that any policy carries, the limit is made by: device (70%), uplink (30%)"
    assert told in texts(figure)
    assert "the limit is made by" not in texts(plot_bound(problem.powers(solution.plan), loads.assign(binding=0.0)))


def test_texts_stay_within_the_figure() -> None:
    long = replace(
        SCENE, channel=replace(SCENE.channel, name="a channel of a rather long name, as those from files are")
    )
    figure = sp.StationaryBound(control(), long).solve().plot()
    drawn(figure)
    unsolved = sp.StationaryBound(control(), long).plot()  # it is solved for its figure
    drawn(unsolved)
    assert texts(unsolved) == texts(figure)
    for ax in figure.axes:
        assert all(t.get_window_extent().x1 <= figure.bbox.x1 for t in (*ax.texts, ax.xaxis.label))


def test_without_rows() -> None:
    solution = sp.StationaryBound(control(), SCENE)
    plan = solution.solve()
    with pytest.raises(DataError, match="has no rows"):
        plot_bound(solution.powers(plan.plan).iloc[:0], solution.loads(plan.plan, plan.duals))


def test_what_the_uplink_sends_has_its_rate() -> None:
    channel = sp.markov_channel(1e7, 2e6, 5.0, duration_s=60.0)
    solution = sp.StationaryBound(control(), sp.Scenario(sp.poisson(8.0), channel, slots=600, seed=1)).solve()
    plan = solution.plan
    mean = sum(share * bps for (share, _), bps in zip(plan.radio, plan.radio_bps, strict=True))
    assert mean > 0 and mean * 0.1 == pytest.approx(solution.terms["uplink_done_bits"])
    (some,) = [bps for (_, price), bps in zip(plan.radio, plan.radio_bps, strict=True) if 0 < bps < channel.mean_bps]
    assert f" J, {some / 1e6:.3g} Mbit/s on average (" in str(plan) and "J/bit" not in str(plan)
    assert sends_so(ANY_PRICE, 1.25e7) == "all that it can carry, 12.5 Mbit/s on average"
    assert (
        sends_so(0.0, None) == sends_so(1e-9, 0.0) == "silent"
        and sends_so(1e-9, None) == "when a bit costs at most 1e-09 J"
    )
