"""Figures of pipelines: they draw at any size and hold what the schedule says; the schedule is one."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from benchmarks.pipeline_instances import chain_problem, small_ones
from splitplan.errors import DataError, InfeasibleError
from splitplan.formulations.pipeline_schedule import schedule
from splitplan.plots.pipeline import FRAMES, LEAST_POINTS, plot_convergence, plot_pipeline
from splitplan.plots.style import WIDTH


def drawn(figure: Figure) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_a_solution_draws_its_stages_and_its_search() -> None:
    p = chain_problem(1, 20, 4)
    for solver, axes in (("pipeline-dp", 1), ("particle-swarm", 2)):
        figure = p.solve(solver).plot()
        assert len(figure.axes) == axes
        drawn(figure)
        texts = [t.get_text() for t in figure.axes[0].get_yticklabels()]
        assert any("→" in t for t in texts)
        assert "a frame every" in figure.get_suptitle()


def test_the_schedule_keeps_to_what_is_busy_and_settles_at_the_period() -> None:
    for p in small_ones(40, layers=5, places=4, seed=5):
        try:
            solution = p.solve("pipeline-dp")
        except InfeasibleError:
            continue
        table = schedule(p, solution.plan, frames=30)
        assert (table["start_s"] >= table["ready_s"] - 1e-12).all()
        for _, lane in table.groupby("lane"):
            rows = lane.sort_values("start_s")
            assert (rows["start_s"].to_numpy()[1:] >= rows["end_s"].to_numpy()[:-1] - 1e-9).all()
        ends = table.groupby("frame")["end_s"].max().to_numpy()
        assert (np.diff(ends) >= -1e-12).all()
        # No frame leaves before its share of the bottleneck is done; one alone takes the latency (without the last delay), while among
        # others even the first may wait: a place that began the next frame's transfer finishes it.
        assert ends[-1] >= 30 * solution.objective * (1 - 1e-9)
        alone = schedule(p, solution.plan, frames=1)["end_s"].max()
        assert alone <= p.evaluate(solution.plan)["latency_s"] * (1 + 1e-9)
        if p.overlap and p.system.medium == "pairs":
            assert (ends[-1] - ends[0]) / 29 == pytest.approx(solution.objective, rel=1e-9, abs=1e-15)


DPI = 400


def steps(*tasks: tuple[int, str, float, float]) -> pd.DataFrame:
    """Transfers: frame, lane, start and end."""
    rows = [(frame, lane, "transfer", "", start, start, end) for frame, lane, start, end in tasks]
    return pd.DataFrame(rows, columns=["frame", "lane", "what", "label", "ready_s", "start_s", "end_s"])


def pixels(figure: Figure, frame: int) -> np.ndarray:
    """Which pixels have a frame's colour, but for its mixtures at edges, array of bool."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    buffer.seek(0)
    image = np.rint(255 * imread(buffer)[..., :3]).astype(int)
    wanted = [round(255 * c) for c in to_rgb(FRAMES[frame])]
    return np.asarray((np.abs(image - wanted) <= 2).all(axis=-1))


def columns(figure: Figure, frame: int) -> int:
    return int(pixels(figure, frame).any(axis=0).sum())


@pytest.mark.parametrize("start", [0.0, 5.0])
@pytest.mark.parametrize("short_s", [1e-9, 1e-3, 0.01])
def test_a_bar_that_is_too_short_is_still_seen(start: float, short_s: float) -> None:
    figure = plot_pipeline(steps((0, "a → b", start, start + short_s), (1, "b → c", 2.0, 10.0)))
    seen, least = columns(figure, 0), LEAST_POINTS / 72 * DPI
    assert 0.6 * least <= seen <= 1.5 * least + 1
    drawn(figure)


def test_short_bars_hide_neither_each_other_nor_long_ones() -> None:
    """Between two long bars, without a gap; and three short ones one behind the other in another lane."""
    between = steps((0, "a", 0.0, 0.2), (1, "a", 0.2, 0.201), (2, "a", 0.201, 0.401), (3, "b", 0.0, 10.0))
    figure = plot_pipeline(between)
    seen = [columns(figure, k) for k in range(3)]
    least = LEAST_POINTS / 72 * DPI
    assert seen[1] >= 0.6 * least and min(seen[0], seen[2]) >= least, "long ones are some 7 points wide"
    behind = steps(*((k, "a", 0.02 * k, 0.02 * k + 0.001) for k in range(3)), (3, "b", 0.0, 10.0))
    # 0.02 s are 0.7 points: less than the least width, so that each has as much as is left between its neighbours.
    behind.loc[:2, ["ready_s", "start_s", "end_s"]] += 5.0
    figure = plot_pipeline(behind)
    assert all(columns(figure, k) >= 2 for k in range(3))


@pytest.mark.parametrize("start", [0.0, 5.0])
def test_two_short_bars_one_behind_the_other(start: float) -> None:
    """Where the axis begins too: the first one is not moved onto the second."""
    figure = plot_pipeline(
        steps((0, "a", start, start + 1e-3), (1, "a", start + 1e-3, start + 2e-3), (2, "b", 0.0, 10.0))
    )
    least = LEAST_POINTS / 72 * DPI
    assert all(columns(figure, k) >= 0.3 * least for k in range(2)), "each has its outer half"


@pytest.mark.parametrize("start", [0.0, 5.0])
def test_a_bar_that_is_just_long_enough_is_seen_between_two_short_ones(start: float) -> None:
    least_s = LEAST_POINTS / 72 / (0.8 * WIDTH) * 10.0
    long = (start + 1e-3, start + 1e-3 + 1.01 * least_s)
    figure = plot_pipeline(
        steps((0, "a", start, long[0]), (1, "a", *long), (2, "a", long[1], long[1] + 1e-3), (3, "b", 0.0, 10.0))
    )
    assert all(columns(figure, k) >= 0.2 * LEAST_POINTS / 72 * DPI for k in range(3))


def test_short_bars_of_unlike_widths_never_overlap() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        ends = np.cumsum(rng.choice([1e-4, 0.01, 0.03, 1.0], 12))
        tasks = [(k, "a", float(s), float(e)) for k, (s, e) in enumerate(pairwise(ends))]
        figure = plot_pipeline(steps(*tasks, (0, "b", 0.0, 100.0)))
        bars = [p for p in figure.axes[0].patches if isinstance(p, Rectangle) and p.get_zorder() == 1.5]
        spans = sorted((p.get_x(), p.get_x() + p.get_width()) for p in bars)
        assert len(spans) == sum(e - s < 0.1 for _, _, s, e in tasks)
        assert all(b <= c + 1e-12 for (_, b), (c, _) in pairwise(spans))


def test_long_bars_stay_where_they_are() -> None:
    figure = plot_pipeline(steps((0, "a", 0.0, 4.0), (1, "a", 4.0, 8.0), (2, "b", 3.0, 3.0005)))
    bars = [(p.get_x(), p.get_width()) for p in figure.axes[0].patches if p.get_width() > 1]  # type: ignore[attr-defined]
    assert bars == [(0.0, 4.0), (4.0, 4.0)]


def test_bad_tables() -> None:
    with pytest.raises(DataError, match="has no column 'frame'"):
        plot_pipeline(pd.DataFrame({"lane": ["a"]}))
    with pytest.raises(DataError, match="has no column"):
        plot_convergence(pd.DataFrame({"iteration": [1]}))
    drawn(
        plot_convergence(
            pd.DataFrame({"iteration": [0, 1], "best_s": [np.inf, 2.0], "median_s": [3.0, 2.0], "bound_s": 1.0})
        )
    )
