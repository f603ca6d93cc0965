"""Results beside each other: the numbers are theirs, the bound is of energy, and only what is on one scenario is compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import splitplan as sp
from splitplan.data.channel import constant
from splitplan.errors import DataError
from splitplan.plots.compare import plot_comparison
from splitplan.policies.result import Result
from splitplan.policies.slot_baselines import device_only, greedy_latency
from tests.plots.test_plots import drawn, texts

from .test_result import control

SCENE = sp.Scenario(sp.poisson(3.0), constant(1e7), slots=300, seed=1)


@pytest.fixture(scope="module")
def results() -> list[Result]:
    c = control()
    policies = [sp.SlotPolicy(c), sp.SlotPolicy(replace(c, V=0.1)), device_only(c), greedy_latency(c)]
    return [sp.simulate(p, SCENE) for p in policies]


def test_each_result_has_its_row(results: list[Result]) -> None:
    found = sp.compare(results)
    table = found.to_frame()
    assert list(table["run"]) == ["joint, V 0.01", "joint, V 0.1", "device only", "greedy latency"]
    for row, result in zip(table.to_dict("records"), results, strict=True):
        assert (row["power_w"], row["p95_latency_s"]) == (result.power_w, result.latency(0.95))
        assert row["frames_hz"] == result.throughput_hz and row["mean_latency_s"] == result.mean_latency_s
        assert row["certificate"] == result.certificate
    assert "joint, V 0.1" in str(found) and "above_%" in str(found) and "<table" in found._repr_html_()


def test_how_far_above_the_least_power_also_of_one_that_weighs_latency(results: list[Result]) -> None:
    table = sp.compare(results).to_frame()
    joint, greedy = results[0], results[3]
    assert joint.certificate is not None and greedy.bound is not None and greedy.bound.unit != "J a slot"
    assert table["above_bound_w"][0] == pytest.approx(joint.certificate / 0.1)
    assert joint.stationary is not None
    energy = joint.stationary.certificate(
        greedy.sums["energy_j"] / 300, greedy.left, joint.bound, greedy.sums["admitted"] / 300, greedy.power_w * 0.1
    )
    assert table["above_bound_w"][3] == pytest.approx(energy / 0.1, rel=1e-6)
    least = table["power_w"] - table["above_bound_w"]
    np.testing.assert_allclose(table["above_bound"], table["above_bound_w"] / least)


def test_what_has_no_bound_says_nothing_of_it(results: list[Result]) -> None:
    table = sp.compare([sp.simulate(results[0].policy, SCENE, bound=False)]).to_frame()
    assert table["above_bound_w"].isna().all() and table["certificate"].isna().all()


def test_names_of_ones_own_and_names_that_would_be_alike(results: list[Result]) -> None:
    assert list(sp.compare({"mine": results[0], "its": results[2]}).to_frame()["run"]) == ["mine", "its"]
    live = replace(results[0], live=True)
    assert list(sp.compare([results[0], live, live]).to_frame()["run"]) == [
        "joint, simulated",
        "joint, live (2)",
        "joint, live (3)",
    ]


def test_only_results_on_one_scenario(results: list[Result]) -> None:
    def other(**changes: object) -> Result:
        return replace(results[0], scene=replace(SCENE, **changes))  # type: ignore[arg-type]

    same = other(channel=constant(1e7))  # another object, the same numbers
    assert len(sp.compare([results[0], same]).to_frame()) == 2
    with pytest.raises(DataError) as caught:
        sp.compare(
            {
                "a": results[0],
                "b": other(seed=2),
                "c": other(channel=constant(2e7)),
                "d": replace(results[0], slots=100),
            }
        )
    assert len(caught.value.problems) == 3
    for word in (
        "'b' is not on the scenario of 'a': other frames",
        "'c'",
        "the channel is another",
        "it lasts 10 s, not 30",
    ):
        assert word in str(caught.value)


def test_what_is_no_result(results: list[Result]) -> None:
    with pytest.raises(DataError, match=r"compare\(\[one, other\]\)"):
        sp.compare(results[0])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"item 1 is a SlotPolicy; give results, as splitplan\.simulate"):
        sp.compare([results[0], results[0].policy])  # type: ignore[list-item]
    with pytest.raises(DataError, match="no results"):
        sp.compare([])


def test_it_is_saved_and_drawn(results: list[Result], tmp_path: Path) -> None:
    found = sp.compare(results)
    found.save(tmp_path / "c.csv")
    found.save(tmp_path / "c.parquet")
    assert list(pd.read_csv(tmp_path / "c.csv")["run"]) == list(pd.read_parquet(tmp_path / "c.parquet")["run"])
    figure = found.plot()
    drawn(figure)
    power, late, rate = figure.axes
    assert [bar.get_width() for bar in power.patches] == list(found.to_frame()["power_w"])
    (marks,) = power.lines
    np.testing.assert_allclose(marks.get_xdata(), found.to_frame()["power_w"] - found.to_frame()["above_bound_w"])
    assert "greedy latency" in texts(figure) and late.get_xscale() == "log" and rate.get_xlim()[0] == 0


def test_theory_without_latencies_is_drawn(results: list[Result]) -> None:
    figure = sp.compare([sp.simulate(results[0].policy, SCENE, physical=False, bound=False)]).plot()
    drawn(figure)
    assert "no policy is below" not in texts(figure) and "p50 to p95" not in texts(figure)


@pytest.fixture(scope="module")
def overloaded() -> list[Result]:
    """More frames than the device alone carries, fewer than device and server together."""
    scene = replace(SCENE, arrivals=sp.poisson(12.0))
    return [sp.simulate(p, scene) for p in (sp.SlotPolicy(control()), device_only(control()))]


def test_who_does_not_carry_the_load_is_no_contender(overloaded: list[Result]) -> None:
    joint, alone = overloaded
    assert joint.carried and not alone.carried and alone.certificate is not None and alone.certificate > 0
    found = sp.compare(overloaded)
    table = found.to_frame()
    assert list(table["carried"]) == [True, False]
    assert (table["undone"][1], table["due"][1]) == (alone.unanswered, len(alone.arrive_s))
    assert (
        np.isfinite(table["above_bound_w"][0]) and np.isnan([table["above_bound_w"][1], table["above_bound"][1]]).all()
    )
    assert table["certificate"][1] == alone.certificate  # what it owes is allowed for
    says = (
        f"'device only' does not carry the load: {alone.unanswered} of {len(alone.arrive_s)} frames were not answered"
    )
    assert says in str(found) and says.replace("'", "&#x27;") in found._repr_html_() and len(found.notes) == 2


def test_who_does_not_carry_the_load_is_pale_and_has_no_bound(overloaded: list[Result]) -> None:
    figure = sp.compare(overloaded).plot()
    drawn(figure)
    power, late, _ = figure.axes
    (marks,) = power.lines
    assert list(marks.get_ydata()) == [0]
    table = sp.compare(overloaded).to_frame().assign(above_bound_w=0.1)
    assert list(plot_comparison(table).axes[0].lines[0].get_ydata()) == [0]  # nor where a table has a bound for it
    alone = overloaded[1]
    shown = texts(figure)
    assert "does not carry the load" in shown and f"{alone.unanswered} of {len(alone.arrive_s)} frames" in shown
    assert [bar.get_alpha() for bar in power.patches] == [0.75, 0.2]
    hollow = [x for x in late.lines if x.get_marker() == "o" and x.get_markerfacecolor() == "none"]
    assert len(hollow) == 1 and list(hollow[0].get_ydata()) == [1]


def test_all_that_carry_it_say_nothing_of_that(results: list[Result]) -> None:
    found = sp.compare(results)
    assert found.notes == [] and "does not carry" not in str(found) + texts(found.plot())


def test_it_is_printed_within_120_columns(results: list[Result], overloaded: list[Result]) -> None:
    for given in (
        results,
        overloaded,
        {f"a policy with settings that are told at length, number {i:060}": r for i, r in enumerate(results)},
    ):
        lines = str(sp.compare(given)).splitlines()
        rows = [line for line in lines if not line.startswith("note: ")]
        assert len(rows) == 2 + len(given) and max(map(len, rows)) <= 120
