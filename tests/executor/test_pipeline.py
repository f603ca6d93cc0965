"""A pipeline on real processes computes what the unsplit model does, whatever the stages, the wire and the medium."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from splitplan.data.catalog import device, link
from splitplan.data.pipeline_plan import PipelinePlan, Stage
from splitplan.data.system import System
from splitplan.errors import DataError, FingerprintError, SplitplanError
from splitplan.executor.deploy import deploy
from splitplan.executor.legs import legs_of
from splitplan.executor.pipeline_app import PipelineApp
from splitplan.models.trace import Traced, trace
from splitplan.models.zoo import zoo, zoo_example

from .conftest import EXAMPLE, Small, cut, frames, gone, same
from .pipelines import BOTH, Both, expected, joined, pipeline

pytestmark = pytest.mark.usefixtures("nothing_left")

ABCD = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def both() -> Traced:
    return trace(Both().eval(), BOTH, name="both")


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_stages_compute_what_the_model_does(small: Traced, count: int) -> None:
    layers = len(small.graph.layers)
    cuts = [round(layers * k / count) for k in range(1, count)]
    inputs = frames(9)
    with deploy(small, pipeline(small, cuts, ABCD[:count]), joined(ABCD)) as app:
        assert isinstance(app, PipelineApp) and len(app.pids) == count
        assert same(app(inputs[0]), expected(small, inputs[0]))
        results = list(app.stream(inputs))
        futures = [app.submit(x) for x in inputs]
        assert all(same(f.result(60), expected(small, x)) for f, x in zip(futures, inputs, strict=True))
        report = app.report()
    assert all(same(got, expected(small, x)) for got, x in zip(results, inputs, strict=True))
    assert report.counts["frames"] == 19 and report.counts["surplus_answers_dropped"] == 0
    assert report.counts["largest_output_difference"] == 0 and "bit-equal" in str(report)
    rows = {r.quantity: r for r in report.rows}
    assert rows["throughput"].measured and rows["throughput"].n == 9
    assert all(rows[f"at {p}"].n == 19 for p in ABCD[:count])
    assert all(rows[f"{a} → {b}"].n == 19 for a, b in itertools.pairwise(ABCD[:count]))
    assert rows["overhead"].n >= 1 and 0 <= rows["overhead"].measured < rows["latency"].measured  # type: ignore[operator]
    assert report.bottleneck in {b.what for b in report.busy}
    assert len(report.frames_to_frame()) == 19 and len(report.busy_to_frame()) == 2 * count - 1
    assert report.plans_to_frame()["frames"].tolist() == [19]


@pytest.mark.parametrize(("wire", "close"), [("fp32", 0.0), ("fp16", 5e-3), ("int8", 0.2)])
def test_several_inputs_and_results_from_source_to_sink(both: Traced, wire: str, close: float) -> None:
    plan = pipeline(both, [1, 3], ("b", "c", "a"), wire=wire, source="a", sink="d")
    with deploy(both, plan, joined(ABCD, rate_bps=1e8, rtt_s=0.002)) as app:
        for k in range(3):
            given = (BOTH[0] + k, BOTH[1] - k, (BOTH[2] + k) % 10)
            got, wanted = app(*given), expected(both, *given)
            assert got.keys() == wanted.keys()
            for name, value in wanted.items():
                assert torch.equal(got[name], value) if not close else torch.allclose(got[name], value, atol=close)
        report = app.report()
    assert {"a → b", "b → c", "c → a", "a → d"} <= {r.quantity for r in report.rows}
    assert all(f.times["a_to_b_bytes"] > f.times["a_to_d_bytes"] > 0 for f in report.frames)
    # From the model's inputs to its results each way takes 1 ms of delay.
    assert all(f.latency_s > 0.004 for f in report.frames)


def test_results_that_go_nowhere_cost_the_ways_nothing(both: Traced) -> None:
    with deploy(both, pipeline(both, [2, 4], ("a", "b", "c")), joined(ABCD, rate_bps=1e8)) as app:
        assert same(app(*BOTH), expected(both, *BOTH))
        (frame,) = app.report().frames
    read_later = {"b_to_c": 3 * 16 * 4 * 2}
    assert "results go nowhere" in str(app.report())
    assert frame.times["b_to_c_bytes"] <= sum(read_later.values()) + 3 * 8 + 3 * 16 * 4


@pytest.mark.parametrize("medium", ["star", "shared"])
def test_a_hub_and_a_shared_medium_carry_one_at_a_time(small: Traced, medium: str) -> None:
    slow = link("loopback").but(rate_bps=6e6, rtt_s=0.002)
    how = {"star": dict.fromkeys(ABCD, slow)} if medium == "star" else {"shared": slow}
    system = System(**how, **{p: device("this-cpu") for p in ABCD})  # type: ignore[arg-type]
    inputs = [EXAMPLE] * 50
    plan = pipeline(small, [1, 3], ("a", "b", "c"), source="a", sink="a")
    with deploy(small, plan, system) as app:
        results = list(app.stream(inputs))
        report = app.report()
    assert all(same(got, expected(small, EXAMPLE)) for got in results)
    busy = {b.what: b for b in report.busy}
    assert {"medium"} <= set(busy) if medium == "shared" else {"a up", "b down", "b up", "c down", "c up"} <= set(busy)
    rate, times = report.rows[0].measured, report.frames[-1].times
    carried: dict[str, float] = {}
    for leg in legs_of(small.graph, plan, system):
        if leg.way is not None:
            seconds = leg.way.busy_s(times[f"{leg.name}_bytes"])
            assert times[f"{leg.name}_s"] >= 0.99 * seconds
            for what in leg.way.resources:
                carried[what] = carried.get(what, 0.0) + seconds
    # What carries one at a time cannot be busy for more than all its time.
    assert all(b.utilisation is not None and b.utilisation <= 1 + 1e-9 for b in report.busy)
    assert rate is not None and rate * max(carried.values()) <= 1.02
    if medium == "shared":
        assert rate * carried["medium"] > 0.7  # in a full pipeline it is busy for nearly all its time


def test_a_place_that_does_one_thing_at_a_time(small: Traced) -> None:
    system = joined(ABCD[:3], rate_bps=4e6, rtt_s=0.0)
    inputs = [EXAMPLE] * 10
    periods = {}
    for overlap in (True, False):
        plan = pipeline(small, [1, 3], ABCD[:3], overlap=overlap)
        with deploy(small, plan, system) as app:
            assert all(same(got, expected(small, EXAMPLE)) for got in app.stream(inputs))
            report = app.report()
        periods[overlap] = 1 / report.rows[0].measured  # type: ignore[operator]
        # Of its bytes, not of its measured seconds: those are longer by how late threads wake up.
        held: dict[str, float] = {}
        for leg in legs_of(small.graph, plan, system):
            if leg.way is not None:
                seconds = leg.way.busy_s(report.frames[-1].times[f"{leg.name}_bytes"])
                for what in leg.way.resources if overlap else (leg.sender, leg.receiver):
                    held[what] = held.get(what, 0.0) + seconds
        assert periods[overlap] >= 0.98 * max(held.values())
        assert {b.what for b in report.busy} >= set(held)
    assert periods[False] > 1.5 * periods[True]


@pytest.mark.parametrize("name", ["tiny-branch", "tiny-transformer"])
def test_zoo_models(name: str) -> None:
    example = zoo_example(name, batch=2)
    given = example if isinstance(example, tuple) else (example,)
    traced = trace(zoo(name), example, granularity="operator", name=name)
    layers = len(traced.graph.layers)
    with deploy(traced, pipeline(traced, [layers // 3, 2 * layers // 3], ABCD[:3]), joined(ABCD[:3])) as app:
        got, wanted = app(*given), expected(traced, *given)
    assert (
        torch.equal(got, wanted) if isinstance(got, torch.Tensor) else all(torch.equal(got[k], wanted[k]) for k in got)
    )


def test_a_frame_that_the_model_refuses_is_an_error_and_the_next_is_not(small: Traced) -> None:
    class Picky(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(4, 8)
            self.out = torch.nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.out(torch.relu(self.table(x)))
            return y

    traced = trace(Picky().eval(), torch.tensor([1, 2]), granularity="operator", name="picky")
    with deploy(traced, pipeline(traced, [2], ("a", "b")), joined(("a", "b"))) as app:
        bad, good = app.submit(torch.tensor([9, 9])), app.submit(torch.tensor([3, 0]))
        with pytest.raises(SplitplanError, match="index out of range"):
            bad.result(60)
        assert torch.equal(good.result(60), expected(traced, torch.tensor([3, 0])))


def test_a_shut_app_refuses(small: Traced) -> None:
    app = deploy(small, pipeline(small, [2], ("a", "b")), joined(("a", "b")), check=False)
    pids = list(app.pids.values())
    waiting = app.submit(EXAMPLE)
    app.close()
    assert same(waiting.result(0), expected(small, EXAMPLE))
    assert all(gone(pid) for pid in pids) and "closed" in repr(app)
    with pytest.raises(SplitplanError, match="closed"):
        app(EXAMPLE)


# -- what cannot be, before anything is started ---------------------------------------------------------


def test_bad_input_is_one_clear_error(small: Traced, monkeypatch: pytest.MonkeyPatch, pair: System) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", never)
    names = [layer.name for layer in small.graph.layers]
    system, plan = joined(ABCD), pipeline(small, [2], ("a", "b"))

    def refused(
        error: type[Exception], match: str, plan: object = plan, on: object = system, **options: object
    ) -> None:
        with pytest.raises(error, match=match):
            deploy(small, plan, on, **options)  # type: ignore[call-overload]

    other = trace(Small(seed=7).eval(), EXAMPLE, name="small")
    refused(FingerprintError, "for another model|fingerprint", pipeline(other, [2], ("a", "b")))
    refused(DataError, r"place 'z', which the system has not.*a, b, c, d", pipeline(small, [2], ("a", "z")))
    refused(DataError, r"source 'q'", pipeline(small, [2], ("a", "b"), source="q"))
    few = System(links={("a", "b"): link("loopback")}, **{p: device("this-cpu") for p in "abc"})  # type: ignore[arg-type]
    refused(DataError, r"from b to c.*nothing leads there", pipeline(small, [1, 3], ("a", "b", "c")), few)
    short = PipelinePlan("small", small.graph.fingerprint, (Stage(tuple(names[:3]), ("a",)),))
    refused(DataError, re.escape(f"layer {names[3]!r} is not placed"), short)
    odd = PipelinePlan(
        "small", small.graph.fingerprint, (Stage(tuple(names[2:]), ("a",)), Stage(tuple(names[:2]), ("b",)))
    )
    refused(DataError, "execution order", odd)
    refused(DataError, "hosts: there is no place 'x'", hosts={"x": "tcp://127.0.0.1:1"})
    refused(DataError, "depth is 0", depth=0)
    refused(DataError, "governor='emulated' is not for a pipeline", governor="emulated")
    refused(DataError, "max_restarts=3 is not for a pipeline", max_restarts=3)
    refused(DataError, "replan is a str", replan="later")
    refused(DataError, "replan is for a PipelinePlan", cut(small, 2), pair, replan=lambda system: None)
    far = {"a": "tcp://127.0.0.1:1"}
    star = System(star=dict.fromkeys(ABCD, link("loopback")), **{p: device("this-cpu") for p in ABCD})  # type: ignore[arg-type]
    back = pipeline(small, [2], ("b", "a"), source="a", sink="c")
    refused(DataError, "'a up' is shared by several senders", back, star, hosts=far, emulate=True)


# -- leaving nothing behind ----------------------------------------------------------------------------

SCRIPT = """
import splitplan as sp
from splitplan.data.pipeline_plan import PipelinePlan, Stage
traced = sp.load_traced({file!r})
names = [l.name for l in traced.graph.layers]
stages = (Stage(tuple(names[:1]), ("a",)), Stage(tuple(names[1:3]), ("b",)), Stage(tuple(names[3:]), ("c",)))
plan = PipelinePlan(traced.graph.name, traced.graph.fingerprint, stages)
here, way = sp.device("this-cpu"), sp.link("loopback")
x = tuple(traced.example_inputs().values())
def forever():
    while True:
        yield x
try:
    with sp.deploy(traced, plan, sp.System(a=here, b=here, c=here, shared=way)) as app:
        print(*app.pids.values(), flush=True)
        for _ in app.stream(forever()):
            pass
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_a_kill_leave_no_process(small: Traced, tmp_path: Path, how: int) -> None:
    small.save(tmp_path / "small.pt2")
    app = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(file=str(tmp_path / "small.pt2"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ.copy(),
        start_new_session=True,
    )
    assert app.stdout is not None
    pids = [int(p) for p in app.stdout.readline().split()]
    assert len(pids) == 3
    threading.Event().wait(0.3)
    os.killpg(app.pid, how)  # as a terminal does
    out, error = app.communicate(timeout=60)
    if how == signal.SIGINT:
        assert out == b"interrupted\n" and b"Traceback" not in error
    assert all(gone(pid) for pid in pids)
