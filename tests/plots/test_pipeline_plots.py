"""Figures of pipelines: they draw at any size and hold what the schedule says; the schedule is one."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from benchmarks.pipeline_instances import chain_problem, small_ones
from splitplan.errors import DataError, InfeasibleError
from splitplan.formulations.pipeline_schedule import schedule
from splitplan.plots.pipeline import plot_convergence, plot_pipeline


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
