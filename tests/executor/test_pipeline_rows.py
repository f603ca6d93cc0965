"""Stages whose places share rows, on real processes: the unsplit model's results, whoever of them dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import pytest
import torch

from splitplan.data.catalog import device, link
from splitplan.data.pipeline_plan import PipelinePlan, RowBlock, Stage
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.errors import DataError
from splitplan.executor.deploy import deploy
from splitplan.executor.frames import FrameRecord
from splitplan.executor.legs import legs_of
from splitplan.executor.pipeline_report import guessed, make_report
from splitplan.models.rows import RowModel
from splitplan.models.trace import Traced, trace
from splitplan.models.zoo import zoo, zoo_example
from splitplan.policies.pipeline_result import beside

from .pipelines import expected, joined

pytestmark = pytest.mark.usefixtures("nothing_left")

ABC = ("a", "b", "c")


@pytest.fixture(scope="module")
def cnn() -> Traced:
    torch.set_num_threads(1)
    return trace(zoo("tiny-cnn"), zoo_example("tiny-cnn", batch=2), granularity="operator", name="cnn")


def shared(traced: Traced, places: Sequence[str], cuts: Sequence[int], rest: str, **options: object) -> PipelinePlan:
    """Blocks that begin at these layers, the last one alone at the first place, all shared about equally; what is left elsewhere."""
    model = RowModel(traced.graph)
    names = [layer.name for layer in traced.graph.layers]
    stop = min(model.barriers, default=len(names))
    blocks = []
    for start, end in zip([0, *cuts], [*cuts, stop], strict=True):
        height, count = model.height(end), len(places)
        rows = [height // count] * count
        rows[0] += height - sum(rows)
        if end == stop and cuts:
            rows = [height, *[0] * (count - 1)]
        blocks.append(RowBlock(tuple(names[start:end]), tuple(rows)))
    stages = (Stage(tuple(names[:stop]), tuple(places), tuple(blocks)), Stage(tuple(names[stop:]), (rest,)))
    return PipelinePlan(traced.graph.name, traced.graph.fingerprint, stages, **options)  # type: ignore[arg-type]


def close(a: torch.Tensor, b: torch.Tensor, within: float = 1e-5) -> bool:
    return float((a - b).abs().max()) <= within * float(b.abs().max())


def inputs(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    size = zoo_example("tiny-cnn").shape[1:]
    return [torch.randn(1 + k % 3, *size, generator=generator) for k in range(count)]


@pytest.mark.parametrize(("places", "wire"), [(("a", "b"), "fp32"), (("a", "b", "c"), "fp16")])
def test_shared_rows_give_the_models_results(cnn: Traced, places: tuple[str, ...], wire: str) -> None:
    predicted = {"period_s": 1.0, f"stage_{'+'.join(places)}_s": 1.0, "a_to_d_s": 0.1, "at_d_s": 0.5}
    predicted |= {"rows_a_to_b_s": 0.2, "rows_b_to_a_s": 0.3}
    plan = shared(cnn, places, [3, 6], "d", wire=wire, predicted=predicted)
    given = inputs(8)
    with deploy(cnn, plan, joined(("a", "b", "c", "d"), rate_bps=2e8, rtt_s=0.001)) as app:
        assert set(app.pids) == {*places, "d"}
        results = list(app.stream(given))
        assert close(app(given[0]), expected(cnn, given[0]), 1e-5 if wire == "fp32" else 1e-2)
        report = app.report()
    for got, x in zip(results, given, strict=True):
        assert got.shape == expected(cnn, x).shape and close(got, expected(cnn, x), 1e-5 if wire == "fp32" else 1e-2)
    rows = {r.quantity: r for r in report.rows}
    assert rows[f"stage {' + '.join(places)}"].n == 9 and rows[f"stage {' + '.join(places)}"].predicted == 1.0
    assert report.busy[0].what == " + ".join(places) and report.busy[0].predicted_s == 1.0 and report.busy[0].measured_s
    lanes = report.bars_to_frame().groupby("how")["lane"].unique()
    assert list(lanes["predicted"]) == list(lanes["measured"]) == [" + ".join(places), "a → d", "d"]
    for mate in places[1:]:
        assert rows[f"at {mate}"].n == rows[f"rows a → {mate}"].n == rows[f"rows {mate} → a"].n == 9
    assert (rows["rows a → b"].predicted, rows["rows b → a"].predicted) == (0.2, 0.3)
    assert beside(plan.predicted, measured=report).set_index("quantity")["measured_to_formula"].notna()["rows_b_to_a"]
    way = joined(("a", "b"), rate_bps=2e8).way("a", "b")
    assert way is not None
    for f in (
        report.frames
    ):  # two blocks are shared: what their rows are given a way for is no more than they took from end to end
        carried = way.busy_s(f.times["rows_a_to_b_bytes"]) + way.busy_s(0.0)
        assert 0 < carried <= f.times["rows_a_to_b_s"] * (1 + 1e-6)
        assert f.times["rows_b_to_a_bytes"] > 0
    assert report.counts["largest_output_difference_relative"] <= (1e-5 if wire == "fp32" else 1e-2)


@pytest.mark.parametrize("overlap", [True, False])
def test_whom_a_frame_keeps_busy(cnn: Traced, overlap: bool) -> None:
    seconds = {"stage_a+b_s": 0.5, "a_to_c_s": 0.25, "at_c_s": 0.125}
    plan = shared(cnn, ("a", "b"), [3], "c", overlap=overlap, predicted=seconds)
    way = joined(ABC).way("a", "c")
    assert way is not None
    # From end to end it took longer than its bytes had the way.
    size_bytes = (0.25 * way.rate_bps / 8 - way.header_bytes) / way.overhead
    frame = FrameRecord(0, 0.0, 1.0, True, None, "", seconds | {"a_to_c_s": 0.375, "a_to_c_bytes": size_bytes})
    report = make_report(
        (plan,), [legs_of(cnn.graph, plan, joined(ABC))], joined(ABC), (frame,), {}, (), abouts={}, emulate=True
    )
    together = {"a + b": 0.5, "a→c": 0.25, "c": 0.125}
    each = {"a": 0.75, "b": 0.5, "a→c": 0.25, "c": 0.375}
    wanted = together if overlap else each
    assert {b.what: b.predicted_s for b in report.busy} == wanted
    assert {b.what: b.measured_s for b in report.busy} == pytest.approx(wanted)


def test_rows_are_told_apart_from_inputs_on_the_same_way(cnn: Traced) -> None:
    """Inputs begin at b, which then makes rows for a: both go from b to a, and each has a row of its own."""
    seconds = {"b_to_a_s": 0.5, "rows_a_to_b_s": 0.0625, "rows_b_to_a_s": 0.125, "stage_a+b_s": 1.0, "a_to_c_s": 0.25}
    seconds |= {"at_a_s": 0.75, "at_b_s": 0.375, "at_c_s": 0.25}
    plan, system = shared(cnn, ("a", "b"), [3, 6], "c", source="b", predicted=seconds), joined(ABC)
    way = system.way("b", "a")
    assert way is not None

    def size_bytes(busy_s: float, messages: int) -> float:
        return (busy_s * way.rate_bps / 8 - messages * way.header_bytes) / way.overhead

    took = {k: 2 * v for k, v in seconds.items()}
    sizes = {"b_to_a_bytes": size_bytes(1.0, 1), "rows_b_to_a_bytes": size_bytes(0.25, 2)}
    frame = FrameRecord(0, 0.0, 3.75, True, None, "", took | sizes | {"rows_a_to_b_bytes": size_bytes(0.125, 2)})
    report = make_report((plan,), [legs_of(cnn.graph, plan, system)], system, (frame,), {}, (), abouts={}, emulate=True)
    rows = {r.quantity: r for r in report.rows}
    for name, key in (("b → a", "b_to_a_s"), ("rows a → b", "rows_a_to_b_s"), ("rows b → a", "rows_b_to_a_s")):
        assert (rows[name].predicted, rows[name].measured) == (seconds[key], 2 * seconds[key])
    # The inputs' way counts beside the stage, in whose seconds the rows' ways are.
    assert rows["overhead"].measured == pytest.approx(3.75 - 2 * (0.5 + 1.0 + 0.25 + 0.25))
    busy = {b.what: b for b in report.busy}
    assert busy["b→a"].predicted_s == pytest.approx(0.625) and busy["b→a"].measured_s == pytest.approx(1.25)
    assert "a→b" not in busy, "nothing else uses it: it is part of the stage"


@pytest.mark.parametrize("emulate", [True, False])
def test_a_way_is_not_busy_while_threads_wake_up(cnn: Traced, emulate: bool) -> None:
    """Ten frames, one a second, whose bytes have the way for 0.9 s of it, and which are 1.25 s from end to end."""
    plan = shared(cnn, ("a", "b"), [3], "c")
    way = joined(ABC).way("a", "c")
    assert way is not None
    times = {
        "stage_a+b_s": 0.5,
        "a_to_c_s": 1.25,
        "at_c_s": 0.125,
        "a_to_c_bytes": (0.9 * way.rate_bps / 8 - way.header_bytes) / way.overhead,
    }
    streamed = [FrameRecord(k, float(k), k + 2.0, False, 0, "", dict(times)) for k in range(10)]
    other = FrameRecord(10, 20.0, 30.0, True, None, "", {**times, "at_c_s": 5.0})
    report = make_report(
        (plan,), [legs_of(cnn.graph, plan, joined(ABC))], joined(ABC), (*streamed, other), {}, (), abouts={},
        emulate=emulate,
    )  # fmt: skip
    used = {b.what: b.utilisation for b in report.busy}
    assert used["a + b"] == pytest.approx(10 * 0.5 / 11) and used["c"] == pytest.approx(10 * 0.125 / 11)
    assert used["a→c"] == (pytest.approx(10 * 0.9 / 11) if emulate else None)
    assert {b.what: b.measured_s for b in report.busy}["a→c"] == pytest.approx(0.9 if emulate else 1.25)


def test_rows_predicted_without_what_fewer_rows_do_not_save_are_said(cnn: Traced) -> None:
    plan, names = shared(cnn, ("a", "b"), [3, 6], "d"), [x.name for x in cnn.graph.layers]
    seconds = {p: dict.fromkeys(names, 1.0) for p in "abd"}
    (said,) = guessed(plan, Profile.given(cnn.graph, seconds))
    assert "not known at 'a', 'b':" in said and "rows=True" in said
    (said,) = guessed(plan, Profile.given(cnn.graph, seconds, {"b": {names[0]: 0.1}}))
    assert "not known at 'a':" in said


def test_shared_rows_on_a_shared_medium(cnn: Traced) -> None:
    medium = link("loopback").but(rate_bps=5e7, rtt_s=0.001)
    system = System(shared=medium, **{p: device("this-cpu") for p in "abd"})  # type: ignore[arg-type]
    given = inputs(5)
    with deploy(cnn, shared(cnn, ("a", "b"), [4], "d", source="d", sink="d"), system) as app:
        assert all(close(got, expected(cnn, x)) for got, x in zip(app.stream(given), given, strict=True))
        report = app.report()
    way, names = system.way("a", "b"), ("d_to_a", "rows_a_to_b", "rows_b_to_a", "a_to_d")
    assert way is not None
    frame = report.frames[-1].times
    assert all(frame[f"{name}_bytes"] > 0 for name in names)
    (busy,) = (b for b in report.busy if b.what == "medium")
    # Rows are on the medium too; and it carries one transfer at a time.
    most = max(sum(way.busy_s(f.times[f"{name}_bytes"]) for name in names) for f in report.frames)
    assert busy.measured_s is not None and busy.utilisation is not None
    assert sum(way.busy_s(frame[f"{name}_bytes"]) for name in ("d_to_a", "a_to_d")) < busy.measured_s <= most * 1.01
    assert busy.utilisation <= 1 + 1e-9


@pytest.mark.parametrize("victim", ["a", "b"])
def test_a_place_that_shares_rows_is_killed(cnn: Traced, victim: str) -> None:
    given = inputs(30)
    with deploy(cnn, shared(cnn, ("a", "b"), [3], "c"), joined(ABC, rate_bps=1e8, rtt_s=0.002)) as app:

        def source() -> object:
            for k, x in enumerate(given):
                if k == 12:
                    os.kill(app.pids[victim], signal.SIGKILL)
                yield x

        results = list(app.stream(source()))  # type: ignore[arg-type]
        report = app.report()
    assert all(close(got, expected(cnn, x)) for got, x in zip(results, given, strict=True))
    assert f"{victim} is gone" in str(report) and report.counts["frames"] == 30 and len(report.plans) == 2


def test_a_place_that_shares_rows_and_hangs(cnn: Traced) -> None:
    given = inputs(10)
    with deploy(cnn, shared(cnn, ("a", "b"), [3], "c"), joined(ABC), heartbeat_s=0.3) as app:
        list(app.stream(given[:3]))
        os.kill(app.pids["b"], signal.SIGSTOP)
        assert all(close(got, expected(cnn, x)) for got, x in zip(app.stream(given), given, strict=True))
        assert "b" not in app.plan.places


def test_rows_that_cannot_be_shared(cnn: Traced) -> None:
    few = System(links={("a", "d"): link("loopback")}, **{p: device("this-cpu") for p in "abd"})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"shares rows of a with b, and nothing leads there"):
        deploy(cnn, shared(cnn, ("a", "b"), [3], "d"), few)
