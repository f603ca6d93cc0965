"""Figures: they hold what the table says, at any size, without pyplot's state; bad tables are errors with a cure."""

from __future__ import annotations

import io
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import splitplan as sp
from splitplan.errors import DataError
from splitplan.plots.cuts import plot_cuts
from splitplan.plots.graph import plot_graph
from splitplan.plots.layout import lanes, ranks
from splitplan.plots.report import plot_plans, plot_report


def chain(count: int, skip: int = 3) -> sp.LayerGraph:
    """A chain with a shortcut over every ``skip`` layers, as residual networks have."""
    names = [f"layer{1 + 4 * i // count}.{i}.conv" for i in range(count)]
    tensors = [sp.Tensor("x", "input", (names[0],), 6e5)]
    for i, name in enumerate(names):
        readers = names[i + 1 : i + 2] + (names[i + skip : i + skip + 1] if i % skip == 0 else [])
        tensors.append(sp.Tensor(f"t{i}", name, tuple(dict.fromkeys(readers)), 8e5 / (1 + i), is_output=i == count - 1))
    return sp.LayerGraph(
        "net", tuple(sp.Layer(n, "conv2d", 1e6 * (i + 1), module=n) for i, n in enumerate(names)), tuple(tensors)
    )


def drawn(figure: Figure) -> bytes:
    """The figure as PNG; drawing runs the layout, so that what cannot be drawn fails."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")
    return buffer.getvalue()


def texts(figure: Figure) -> str:
    from matplotlib.text import Text

    return "\n".join(t.get_text() for t in figure.findobj(Text))


def cuts(count: int) -> pd.DataFrame:
    k = np.arange(count + 1)
    table = pd.DataFrame(
        {
            "after": ["(input)", *(f"layer{i}" for i in range(count))],
            "device_s": 0.3 * k / count,
            "up_s": 0.25 * np.exp(-4 * k / count),
            "server_s": 0.08 * (1 - k / count),
            "down_s": 0.01 * (k < count),
        }
    )
    table["latency_s"] = table[["device_s", "up_s", "server_s", "down_s"]].sum(axis=1)
    return table


def test_plots_leave_pyplot_alone() -> None:
    code = (
        "import sys, splitplan.plots.graph as g, splitplan.plots.cuts, splitplan.plots.report\n"
        "from splitplan.plots.style import new_figure\nnew_figure(2, 2).savefig('/dev/null', format='png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_notebook_shows_the_figure(diamond: sp.LayerGraph) -> None:
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(plot_graph(diamond))
    assert data["image/png"].startswith(b"\x89PNG")


# -- graph ------------------------------------------------------------------------------------------


def test_small_graph_names_every_layer_and_the_bytes_that_cross(diamond: sp.LayerGraph) -> None:
    figure = diamond.plot({"c", "d"})
    drawn(figure)
    shown = texts(figure)
    for word in (
        "input",
        "conv2d",
        "relu",
        "2 kB",
        "800 B",
        "device: 2 layers",
        "server: 2 layers",
        "crosses the link",
    ):
        assert word in shown


def test_graph_without_a_cut_speaks_of_no_server(diamond: sp.LayerGraph) -> None:
    figure = plot_graph(diamond)
    drawn(figure)
    assert "server" not in texts(figure)


@pytest.mark.parametrize("count", [1, 24, 25, 200, 500])
def test_any_size_can_be_drawn(count: int) -> None:
    graph = chain(count)
    half = {x.name for x in graph.layers[count // 2 :]}
    figure = plot_graph(graph, half)
    drawn(figure)
    width, height = figure.get_size_inches()
    assert width <= 12
    assert height <= 15


def test_large_graph_shows_the_bytes_of_the_cut() -> None:
    graph = chain(120)
    far = [x.name for x in graph.layers[60:]]
    crossing = sum(t.size_bytes for t in graph.boundary(far))
    shown = texts(plot_graph(graph, far))
    assert f"cut after {graph.layers[59].name}: {crossing / 1e3:.3g} kB" in shown
    below = plot_graph(graph, far).axes[1]
    (label,) = (t for t in below.texts if "cut after" in t.get_text())
    curve = max(below.lines[0].get_ydata())
    bottom = label.get_window_extent().transformed(below.transData.inverted()).y0
    assert bottom > curve  # nothing is drawn over it
    assert "layer4" in shown


def test_unknown_layer_in_the_cut(diamond: sp.LayerGraph) -> None:
    with pytest.raises(DataError, match=r"layer 'z' is not in the graph"):
        plot_graph(diamond, {"z"})
    with pytest.raises(DataError, match=r"server is a SplitPlan; .*plan\.server_layers"):
        plot_graph(diamond, sp.SplitPlan.for_cut(diamond, {"d"}))  # type: ignore[arg-type]


@given(
    st.integers(2, 14).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))))
    )
)
@settings(max_examples=200)
def test_layout_puts_no_two_layers_in_one_place_and_no_edge_through_one(
    drawn_dag: tuple[int, set[tuple[int, int]]],
) -> None:
    count, pairs = drawn_dag
    edges = sorted({(min(p), max(p)) for p in pairs if p[0] != p[1]})
    rank = ranks(count, edges)
    assert all(rank[a] < rank[b] for a, b in edges)
    lane, ways = lanes(rank, edges)
    assert len(set(zip(rank, lane, strict=True))) == count
    for r in set(rank):
        passing = [way[r - rank[a] - 1] for (a, b), way in ways.items() if rank[a] < r < rank[b]]
        row = sorted([*(lane[i] for i in range(count) if rank[i] == r), *passing])
        assert all(b - a >= 1 for a, b in pairwise(row))


# -- cuts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 8, 60, 400])
def test_cuts_mark_the_least_latency(count: int) -> None:
    table = cuts(count)
    figure = plot_cuts(table, title="net")
    drawn(figure)
    assert f"least latency: {table['latency_s'].min() * 1e3:.3g} ms" in texts(figure)
    assert len(figure.axes[0].patches) == 4 * (count + 1)
    assert len(figure.axes) == 1


def test_cuts_with_energy_and_a_plan_that_is_a_prefix() -> None:
    table = cuts(10).assign(energy_j=np.linspace(2.0, 1.0, 11), is_plan=False)
    table.loc[4, "is_plan"] = True
    extra = table.iloc[[4]].assign(after="(plan)")
    figure = plot_cuts(pd.concat([table, extra], ignore_index=True))
    drawn(figure)
    assert "least energy: 1 J" in texts(figure)
    assert "the plan (no prefix)" not in texts(figure)
    assert len(figure.axes[0].patches) == 4 * 11


def test_a_plan_that_is_no_prefix_stands_apart() -> None:
    table = cuts(10).assign(is_plan=False)
    extra = table.iloc[[4]].assign(after="(plan)", is_plan=True, device_s=0.05)
    figure = plot_cuts(pd.concat([table, extra], ignore_index=True))
    drawn(figure)
    assert "the plan (no prefix)" in texts(figure)
    assert len(figure.axes[0].patches) == 4 * 12


def test_the_formulations_table_fits(diamond_profile: sp.Profile, system: sp.System) -> None:
    solution = sp.SplitPoint(diamond_profile, system).solve()
    figure = solution.plot()
    drawn(figure)
    assert "device energy" in texts(figure)


def hatched(figure: Figure) -> list[tuple[float, float]]:
    """From where to where each panel's first axes is hatched."""
    spans = [p for p in figure.axes[0].patches if p.get_hatch()]
    return [(p.get_x(), p.get_x() + p.get_width()) for p in spans]


def test_forbidden_cuts_are_hatched_and_the_best_is_among_the_allowed(
    diamond_profile: sp.Profile, system: sp.System
) -> None:
    near = sp.System(device=system.device, server=system.server, link=system.link.but(rtt_s=0.003))
    p = sp.SplitPoint(diamond_profile, near, pin_device=["a"], deadline_s=0.0125)
    solution = p.solve()
    table = p.cut_table(solution.plan)
    figure = solution.plot()
    drawn(figure)
    # Before a: the pin; after c and d: the deadline.
    assert [bool(t) for t in table["forbidden"][:5]] == [True, False, False, True, True]
    assert hatched(figure) == [(-0.5, 0.5), (2.5, 4.5)]
    shown = texts(figure)
    least = table["latency_s"][:5][table["forbidden"][:5] == ""].min()
    assert least > table["latency_s"].min(), "a forbidden cut would be better: else this shows nothing"
    assert f"least allowed latency: {least * 1e3:.3g} ms" in shown
    assert "least allowed energy: " in shown
    assert "forbidden by pins or limits" in shown
    assert f"the plan: {solution.terms['latency_s'] * 1e3:.3g} ms" in shown
    assert [ax.get_ylabel() for ax in figure.axes] == ["latency (ms)", "device energy (J)"]
    assert figure.axes[-1].get_xlabel().startswith("cut after layer")


def test_all_prefixes_forbidden_and_none(diamond_profile: sp.Profile, system: sp.System) -> None:
    solution = sp.SplitPoint(diamond_profile, system, pin_device=["c"], pin_server=["b"]).solve()
    figure = solution.plot()
    drawn(figure)
    assert hatched(figure) == [(-0.5, 4.5)]
    assert "least" not in texts(figure)
    assert "the plan (no prefix)" in texts(figure)
    assert "the plan: " in texts(figure)
    free = sp.SplitPoint(diamond_profile, system).solve().plot()
    assert hatched(free) == []
    assert "forbidden" not in texts(free)


def test_cuts_need_their_columns() -> None:
    with pytest.raises(DataError) as caught:
        plot_cuts(cuts(3).drop(columns=["up_s", "latency_s"]))
    assert len(caught.value.problems) == 2
    with pytest.raises(DataError, match=r"no rows"):
        plot_cuts(cuts(3).iloc[:0])


# -- report -----------------------------------------------------------------------------------------

REPORT = pd.DataFrame(
    {
        "quantity": ["latency", "device", "up", "throughput", "energy"],
        "unit": ["s", "s", "s", "1/s", "J"],
        "predicted": pd.array([0.2, 0.1, None, 10.0, 0.5], dtype="Float64"),
        "measured": pd.array([0.21, 0.1, None, 9.0, None], dtype="Float64"),
        "p95": pd.array([0.25, None, None, None, None], dtype="Float64"),
    }
)


def test_report_has_a_panel_for_each_unit() -> None:
    figure = plot_report(REPORT, title="net")
    drawn(figure)
    shown = texts(figure)
    assert [ax.get_ylabel() for ax in figure.axes] == ["ms", "1/s", "J"]
    assert "+5%" in shown
    assert "-10%" in shown
    assert "\nup\n" not in shown


def test_pairs_that_do_not_compare_get_no_percentage() -> None:
    table = REPORT.assign(ratio=[None] * len(REPORT))
    assert "%" not in "".join(t for t in texts(plot_report(table)).split() if t[0] in "+-")


def test_without_any_prediction_the_measured_stands_alone() -> None:
    figure = plot_report(REPORT.assign(predicted=pd.array([None] * len(REPORT), dtype="Float64")))
    drawn(figure)
    assert "predicted" not in texts(figure) and "measured" in texts(figure)
    bars = [p for ax in figure.axes for p in ax.patches]
    assert len(bars) == 3 and all(b.get_x() + b.get_width() / 2 == round(b.get_x() + b.get_width() / 2) for b in bars)


def test_report_without_anything() -> None:
    with pytest.raises(DataError, match=r"neither a prediction nor a measurement"):
        plot_report(REPORT.assign(predicted=None, measured=None))
    with pytest.raises(DataError, match=r"no column 'unit'"):
        plot_report(REPORT.drop(columns="unit"))


def test_plans_beside_each_other() -> None:
    table = pd.DataFrame({"plan": ["device only", "split"], "predicted_s": [0.3, 0.2], "measured_s": [0.33, 0.19]})
    figure = plot_plans(table, title="net")
    drawn(figure)
    shown = texts(figure)
    assert "+10%" in shown
    assert "-5%" in shown
    bars = [p.get_height() for p in figure.axes[0].patches]
    assert bars == pytest.approx([300, 200, 330, 190])


# -- shares ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 60])
def test_shares_are_drawn_as_the_plan_gives_them(count: int) -> None:
    users = [
        sp.User(f"u{i}", 1e5 * (i % 5), 0.01, 0.02, 0.01, deadline_s=(None, 2.0 * count, 100.0)[i % 3])
        for i in range(count)
    ]
    p = sp.RateAllocation(users, 1e7, 1.0)
    solution = p.solve()
    figure = solution.plot()
    drawn(figure)
    top, below = figure.axes
    bars = [c for c in top.containers if len(c) == count]
    heights = np.sum([[b.get_height() for b in c] for c in bars], axis=0)
    np.testing.assert_allclose(heights, 1e3 * solution.plan.latency_s, rtol=1e-9)
    for container, shares in zip(below.containers, (solution.plan.rate_bps / 1e7, solution.plan.speed), strict=True):
        np.testing.assert_allclose([b.get_height() for b in container], 100 * shares, atol=1e-9)
    text = texts(figure)
    assert ("deadline beyond" in text) == (count > 2)
    assert "latency (ms)" in text
    assert "share of all (%)" in text


def test_a_table_of_shares_that_cannot_be_drawn() -> None:
    from splitplan.plots.allocation import plot_allocation

    with pytest.raises(DataError, match="has no column 'user'"):
        plot_allocation(pd.DataFrame({"device_s": [1.0]}))
    nothing = sp.RateAllocation([sp.User("a", 0, 0)], 1.0).solve().plot()
    drawn(nothing)
