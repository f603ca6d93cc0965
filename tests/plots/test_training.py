"""Figures of training: what is drawn is what the table says, at any size."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from splitplan.errors import DataError
from splitplan.plots.training import COLOURS, draw_both, plot_training

COLUMNS = ["lane", "what", "micro", "start_s", "end_s"]


def table(*rows: tuple[str, str, int, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS)


ITERATION = table(
    ("stage 0", "forward", 0, 0.0, 1.0),
    ("stage 0", "forward", 1, 1.0, 2.0),
    ("0 → 1", "transfer", 0, 1.0, 1.5),
    ("stage 1", "forward", 0, 1.5, 3.5),
    ("stage 1", "backward", 0, 3.5, 7.0),
    ("stage 1", "sync", -1, 7.0, 8.0),
    ("stage 1", "update", -1, 8.0, 8.25),
)


def drawn(figure: Figure) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_each_piece_is_a_bar_in_its_lane() -> None:
    figure = plot_training(ITERATION, title="an iteration")
    (ax,) = figure.axes
    bars = [(p.get_y() + p.get_height() / 2, p.get_x(), p.get_width(), p.get_facecolor()) for p in ax.patches]  # type: ignore[attr-defined]
    lanes = {"stage 0": 0, "0 → 1": 1, "stage 1": 2}
    for (lane, what, _, start, end), (y, x, width, colour) in zip(ITERATION.to_numpy(), bars, strict=True):
        assert (y, x, width) == pytest.approx((lanes[lane], start, end - start))
        assert colour == to_rgba(COLOURS[what])
    assert [t.get_text() for t in ax.get_yticklabels()] == list(lanes)
    low, high = ax.get_ylim()
    assert low > high, "the first stage is at the top"
    assert ax.get_xlim() == pytest.approx((0, 8.25 * 1.01))
    assert [t.get_text() for t in ax.texts] == ["0", "1", "0", "0", "0"], "what is of no micro-batch has no number"
    legend = ax.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["forward", "transfer", "backward", "sync", "update"]
    assert figure.get_suptitle() == "an iteration"
    drawn(figure)


def test_many_micro_batches_have_no_numbers() -> None:
    rows = table(*(("stage 0", "forward", k, float(k), k + 1.0) for k in range(40)))
    (ax,) = plot_training(rows).axes
    assert len(ax.patches) == 40 and not ax.texts
    assert ax.get_xlabel() == "seconds"


def test_a_number_that_does_not_fit_is_left_out() -> None:
    (ax,) = plot_training(table(("stage 0", "forward", 0, 0.0, 0.01), ("stage 0", "backward", 1, 1.0, 9.0))).axes
    assert [t.get_text() for t in ax.texts] == ["1"]


def test_the_curve_shows_the_best_number_of_stages() -> None:
    curve = pd.DataFrame({"stages": [1, 2, 4], "iteration_s": [3.0, 1.5, 2.0], "plan": ["a", "b", "c"]})
    figure = plot_training(ITERATION, curve=curve)
    _, ax = figure.axes
    (line,) = ax.lines
    assert line.get_xydata().tolist() == [[1.0, 3.0], [2.0, 1.5], [4.0, 2.0]]  # type: ignore[union-attr]
    every, best = ax.collections
    assert len(every.get_offsets()) == 3  # type: ignore[arg-type]
    assert best.get_offsets().tolist() == [[2.0, 1.5]]  # type: ignore[union-attr]
    assert [int(x) for x in ax.get_xticks()] == [1, 2, 4] and ax.get_ylim()[0] == 0
    drawn(figure)
    assert len(plot_training(ITERATION, curve=curve.head(1)).axes) == 1, "one point is no curve"


def test_two_iterations_have_the_same_seconds() -> None:
    figure = Figure()
    both = pd.concat(
        [ITERATION.assign(how="predicted"), ITERATION.assign(how="measured", end_s=ITERATION["end_s"] * 1.2)]
    )
    draw_both(figure, both)
    above, below = figure.axes
    assert above.get_xlim() == below.get_xlim() == pytest.approx((0, 8.25 * 1.2 * 1.01))
    assert (above.get_title("left"), below.get_title("left")) == ("predicted", "measured")
    assert above.get_legend() is not None and below.get_legend() is None
    assert above.get_xlabel() == "" and below.get_xlabel() != ""
    drawn(figure)


@pytest.mark.parametrize("lanes", [1, 2, 16])
def test_any_number_of_stages(lanes: int) -> None:
    rows = table(*((f"stage {k} × 2", "forward", 0, float(k), k + 1.0) for k in range(lanes)))
    small, large = plot_training(rows.head(1)), plot_training(rows)
    assert large.get_size_inches()[1] >= small.get_size_inches()[1]
    drawn(large)


def test_pieces_that_take_no_time_are_drawn() -> None:
    drawn(plot_training(table(("stage 0", "forward", 0, 0.0, 0.0), ("stage 0", "backward", 0, 0.0, 0.0))))


def test_bad_tables() -> None:
    with pytest.raises(DataError, match="has no column 'lane'"):
        plot_training(pd.DataFrame({"what": ["forward"]}))
    with pytest.raises(DataError, match="has no column 'how'"):
        draw_both(Figure(), ITERATION)
    with pytest.raises(DataError, match="has no column 'iteration_s'"):
        plot_training(ITERATION, curve=pd.DataFrame({"stages": [1, 2]}))
    with pytest.raises(DataError, match="'sleeps' is none of forward, backward, sync, update, transfer, other"):
        plot_training(table(("stage 0", "sleeps", 0, 0.0, 1.0)))
    with pytest.raises(DataError, match="has no rows"):
        plot_training(ITERATION.head(0))
