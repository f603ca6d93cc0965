"""A run of any length is drawn readably: each slot, or means with bands; from 0 up; cuts by name."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from splitplan.plots.slots import MOST_CUTS, plot_curve, plot_slots
from splitplan.plots.style import logarithmic, new_figure, tidy

from .test_plots import drawn, texts


def run(count: int, cuts: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng, i = np.random.default_rng(0), np.arange(count)
    slots = pd.DataFrame(
        {
            "time_s": 0.1 * i,
            "device_s": rng.exponential(0.2, count),
            "uplink_bits": rng.exponential(1e6, count),
            "server_s": np.zeros(count),
            "cut": i % cuts,
            "cut_name": pd.Categorical.from_codes(i % cuts, [f"after layer{k}" for k in range(cuts)]),
            "admitted": rng.poisson(0.3, count),
            "clock_hz": np.where(i % 3, 0.0, 5e8),
            "rate_bps": np.where(i % 2, 0.0, 1e7),
            "channel_bps": np.full(count, 1e7),
        }
    )
    arrive = np.sort(rng.uniform(0, 0.1 * count, count // 3))
    latency = rng.lognormal(0, 1, len(arrive))
    latency[::17] = np.inf
    return slots, pd.DataFrame({"arrive_s": arrive, "latency_s": latency})


@pytest.mark.parametrize("count", [1, 50, 1_000, 2_000, 200_000])
def test_any_length(count: int) -> None:
    slots, frames = run(count)
    figure = plot_slots(slots, frames, slot_s=0.1, title="net")
    drawn(figure)
    top, work, _, clocks, late = figure.axes
    for ax in (top, work, clocks):
        assert ax.get_ylim()[0] == 0  # no work is less than none
    assert work.get_xlim() == (0, pytest.approx(0.1 * count))
    marks = sum(len(line.get_xdata()) for ax in figure.axes for line in ax.lines)
    steps = max(len(p.get_data().values) for ax in figure.axes for p in ax.patches)
    assert marks <= 6_000 and steps <= 1_000, "more than a page can show"
    assert ("bands from least to most" in texts(figure)) == (count > 1_000)
    if count >= 50:
        assert "after layer2" in texts(figure)
    assert ("5 to 95 %" in texts(figure)) == (len(frames) > 5_000) and bool(late.lines or late.patches) == (
        len(frames) > 1
    )


def test_bins_hold_the_means_and_the_extremes() -> None:
    slots, frames = run(20_003)
    work = plot_slots(slots, frames, slot_s=0.1).axes[1]
    line, band = work.patches[:2]  # of the device
    values, edges, _ = line.get_data()
    wide = round((edges[1] - edges[0]) / 0.1)
    assert values[0] == pytest.approx(slots["device_s"][:wide].mean())
    assert band.get_data().values.max() == slots["device_s"].max()
    assert np.min(band.get_data().baseline) == slots["device_s"].min()
    last = len(slots) - round(edges[-2] / 0.1)
    assert values[-1] == pytest.approx(slots["device_s"].iloc[-last:].mean())


@pytest.mark.parametrize("count", [500, 5_000])
def test_rare_cuts_are_drawn_as_one(count: int) -> None:
    slots, frames = run(count, cuts=20)
    figure = plot_slots(slots, frames, slot_s=0.1)
    drawn(figure)
    assert f"{20 - MOST_CUTS} others" in texts(figure)


def test_without_names_cuts_have_numbers_and_a_run_may_have_no_frames() -> None:
    slots, frames = run(300)
    figure = plot_slots(slots.drop(columns="cut_name").assign(admitted=1), frames.iloc[:0], slot_s=0.1)
    drawn(figure)
    assert "cut 2" in texts(figure)
    for count in (300, 3_000):
        drawn(plot_slots(run(count)[0].assign(admitted=0, device_s=0.0, uplink_bits=0.0), frames.iloc[:0], slot_s=0.1))


def curve(latencies: list[float], **columns: object) -> pd.DataFrame:
    """A row a weight."""
    powers = np.linspace(3.0, 2.0, len(latencies))
    weights = 10.0 ** np.arange(len(latencies))
    return pd.DataFrame({"V": weights, "power_w": powers, "mean_latency_s": latencies} | columns)


def extents(ax: Axes) -> list[Bbox]:
    """Where the names of points are, without lines that lead to them."""
    return [Text.get_window_extent(t) for t in ax.texts]


def apart(boxes: list[Bbox]) -> bool:
    return not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.parametrize(
    "latencies",
    [[0.1, 0.2, 0.5, 1.0, 3.0], [0.1] * 6, [0.100, 0.101, 0.102, 0.103, 30.0], [0.2], [0.21, 0.22, 0.23, 0.24]],
)
def test_points_have_their_weights_and_no_two_texts_touch(latencies: list[float]) -> None:
    figure = plot_curve(curve(latencies, least_power_w=1.9))
    drawn(figure)
    late, weight = figure.axes
    assert apart(extents(late))
    spread = len({round(np.log(x), 1) for x in latencies})
    assert len(late.texts) >= min(spread, 2) and all(t.get_text().startswith("V ") for t in late.texts)
    if spread == len(latencies):
        assert [t.get_text() for t in late.texts] == [f"V {10.0**i:g}" for i in range(len(latencies))]
    for ax in (late, weight):
        labels = [t for t in ax.get_xticklabels() if t.get_text()]
        assert apart([t.get_window_extent() for t in labels])
        assert ax.get_xlabel().endswith(")") and late.get_ylabel() == "mean power (W)"


def test_points_close_to_each_other_have_their_weights_apart() -> None:
    table = curve([0.1, 0.11, 0.12, 0.13, 0.14, 3.0]).assign(power_w=[2.0, 2.01, 2.02, 2.01, 2.0, 3.0])
    figure = plot_curve(table)
    drawn(figure)
    names = figure.axes[0].texts
    assert len(names) >= 4 and apart(extents(figure.axes[0]))


@pytest.mark.parametrize("seeds", [1, 5])
def test_names_of_eleven_weights_touch_no_mark_and_no_line(seeds: int) -> None:
    """The bound, points of other seeds, the line through the means: none of them strikes a name through."""
    rng, latencies = np.random.default_rng(0), [0.173, 0.171, 0.138, 0.122, 0.293, 0.477, 0.489, 0.49, 0.49, 0.49, 0.49]
    powers = [2.166, 2.160, 2.123, 2.089, 2.045, 2.0305, 2.029, 2.029, 2.029, 2.029, 2.029]
    one = pd.DataFrame({"V": [1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100], "power_w": powers})
    noise = (
        [(rng.normal(0, 0.004, 11), rng.lognormal(0, 0.04, 11)) for _ in range(seeds)] if seeds > 1 else [(0.0, 1.0)]
    )
    table = pd.concat(
        [one.assign(power_w=one["power_w"] + p, mean_latency_s=q * np.array(latencies)) for p, q in noise]
    )
    figure = plot_curve(table.assign(least_power_w=2.029))
    drawn(figure)
    late = figure.axes[0]
    named = ",".join(t.get_text().removeprefix("V ") for t in late.texts).replace(" ", "").split(",")
    assert set(named) >= {"0.001", "0.003", "0.01", "0.03", "0.1"} and len(named) >= 9 and apart(extents(late))
    for box in extents(late):
        for line in late.lines:
            path = line.get_transform().transform_path(line.get_path())
            assert line.get_linestyle() == "None" or not path.intersects_bbox(box, filled=False), (
                "a line through a name"
            )
            assert not any(box.contains(*at) for at in np.asarray(path.vertices)), "a point on a name"


def test_where_no_bound_is_drawn_it_is_said() -> None:
    assert "no bound is drawn: the least power for these runs' work is not known" in texts(
        plot_curve(curve([0.1, 1.0]))
    )
    none = curve([0.1, 1.0], least_power_w=np.nan, carried=False)
    assert "no bound is drawn: no run carries the load" in texts(plot_curve(none))
    assert "no bound is drawn" not in texts(plot_curve(curve([0.1, 1.0], least_power_w=1.9)))


def test_a_run_without_a_latency_is_drawn_over_v_alone() -> None:
    figure = plot_curve(curve([np.nan, np.nan], carried=[False, False], least_power_w=[np.nan, np.nan]))
    drawn(figure)
    (weight,) = figure.axes
    assert "V (" in weight.get_xlabel() and "no policy is below" not in texts(figure)


@pytest.mark.parametrize("width", [0.7, 1.3, 2.2, 7.0])
@pytest.mark.parametrize(
    "ends", [(0.02, 30.0), (0.21, 0.4), (1.0, 1.02), (1e-6, 1e6), (0.3, 1.9), (100.0, 900.0), (0.06, 0.5)]
)
@pytest.mark.parametrize("which", ["x", "y"])
def test_numbers_of_a_logarithmic_axis_do_not_touch_and_are_there(
    width: float, ends: tuple[float, float], which: str
) -> None:
    figure = new_figure(*((width, 2.0) if which == "x" else (2.0, width)))
    ax = figure.add_subplot()
    ax.plot(*((ends, (1, 2)) if which == "x" else ((1, 2), ends)))
    logarithmic(ax, which)  # type: ignore[arg-type]
    tidy(ax)
    drawn(figure)
    axis = ax.xaxis if which == "x" else ax.yaxis
    labels = [t for t in axis.get_ticklabels() if t.get_text()]
    assert apart([t.get_window_extent() for t in labels])
    assert len(labels) >= (2 if width > 1 else 1)
    low, high = axis.get_view_interval()
    assert all(low <= float(t.get_text().replace(",", "")) <= high for t in labels)
