"""Plans that run: split equals whole, whatever the cut, the wire and the order; and what is refused before it runs."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from splitplan.data.link import Radio
from splitplan.data.plan import SplitPlan
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.errors import DataError, ExecutorError, FingerprintError, HandshakeError
from splitplan.executor.deploy import deploy
from splitplan.executor.session import Session
from splitplan.executor.spawn import WorkerProcess
from splitplan.executor.split import run_whole
from splitplan.formulations.split import SplitPoint
from splitplan.models.trace import Traced, trace

from .conftest import EXAMPLE, Small, cut, frames, same

pytestmark = pytest.mark.usefixtures("nothing_left")


def expected(traced: Traced, x: torch.Tensor) -> dict[str, torch.Tensor]:
    values = traced.flatten(x)
    return traced.unflatten(run_whole(traced, values), traced.symbols(values))


def test_a_stream_over_a_cut_in_the_middle(small: Traced, pair: System) -> None:
    inputs = frames(24)
    with deploy(small, cut(small, 2), pair) as app:
        assert set(app.pids) == {"device", "server"}
        results = list(app.stream(inputs, depth=4))
        assert all(same(got, expected(small, x)) for got, x in zip(results, inputs, strict=True))
        alone = app(inputs[0])
        assert same(alone, expected(small, inputs[0]))
        report = app.report()
    assert report.counts["frames"] == 25 and report.counts["finished_locally"] == 0
    assert report.counts["largest_output_difference"] == 0.0
    rows = {r.quantity: r for r in report.rows}
    assert rows["device"].n == rows["server"].n == rows["up"].n == rows["down"].n == 25
    # The last frame was alone for certain; a streamed one is too when the machine answered before the next was handed over.
    assert report.frames[-1].single and rows["latency"].n == sum(f.single for f in report.frames)
    assert rows["throughput"].n == 24
    assert rows["energy"].measured is None and "not modelled" in rows["energy"].how
    assert all(f.times["up_s"] >= 0 and f.times["down_s"] >= 0 for f in report.frames)
    assert "bit-equal" in str(report) and "never run on cuda" in str(report) and "emulated link" in str(report)
    assert list(report.to_frame()["quantity"]) == list(rows)
    assert len(report.frames_to_frame()) == 25
    assert json.loads(json.dumps(report.to_dict()))["counts"]["frames"] == 25
    assert "<table" in report._repr_html_()


@pytest.mark.parametrize("head", [0, 99])
def test_all_on_one_side(small: Traced, pair: System, head: int) -> None:
    plan = cut(small, head)
    x = frames(1)[0]
    with deploy(small, plan, pair) as app:
        assert set(app.pids) == ({"device", "server"} if plan.server_layers else {"device"})
        assert same(app(x), expected(small, x))
        report = app.report()
    rows = {r.quantity: r for r in report.rows}
    assert (rows["up"].measured is not None) == bool(plan.server_layers)


@pytest.mark.parametrize(("precision", "close"), [("fp16", 2e-3), ("int8", 5e-2)])
def test_a_narrow_wire_is_applied_and_its_cost_is_told(
    small: Traced, pair: System, precision: str, close: float
) -> None:
    plan = cut(small, 1, wire=precision)
    with deploy(small, plan, pair) as app:
        got, whole = app(EXAMPLE), expected(small, EXAMPLE)
        report = app.report()
    scale = max(float(v.abs().max()) for v in whole.values())
    gap = max(float((got[k] - whole[k]).abs().max()) for k in whole)
    assert 0 < gap <= close * scale
    assert report.counts["largest_output_difference"] == pytest.approx(gap)
    crossing = sum(t.size_bytes for t in small.graph.boundary(plan.server_layers))
    assert report.frames[0].times["up_bytes"] == crossing / {"fp16": 2, "int8": 4}[precision]


def test_values_that_do_not_fit_the_wire_are_finished_on_the_device(small: Traced, pair: System) -> None:
    x = EXAMPLE * 1e7
    with deploy(small, cut(small, 1, wire="fp16"), pair) as app:
        assert same(app(x), expected(small, x))
        report = app.report()
    assert report.counts["finished_locally"] == 1 and "do not fit float16" in str(report)


@pytest.mark.parametrize("result", ["server", "anywhere"])
def test_a_result_that_belongs_elsewhere_is_still_handed_over(small: Traced, pair: System, result: str) -> None:
    with deploy(small, cut(small, 2, result=result), pair) as app:
        assert same(app(EXAMPLE), expected(small, EXAMPLE))
        assert "belongs elsewhere" in str(app.report())


def test_the_emulated_link_takes_its_time_and_energy_is_modelled(small: Traced, pair: System) -> None:
    radio = Radio(up_w_per_bps=1e-7, down_w_per_bps=1e-7, base_w=0.5)
    link = pair.link.but(rate_bps=2e6, delay_up_s=0.05, delay_down_s=0.03, radio=radio)
    device = pair.device.but(slowdown=3.0, active_power_w=(2.0,), idle_power_w=1.0)
    system = System(device=device, server=pair.server, link=link)
    plan = cut(small, 1, predicted={"up_s": 1.0, "latency_s": 1.0})
    with deploy(small, plan, system) as app:
        app(EXAMPLE)
        report = app.report()
    times = report.frames[0].times
    # These bounds are the emulation's own floor: a machine that is busy can only exceed them.
    assert times["up_s"] >= 8 * times["up_bytes"] / 2e6 + 0.05 - 1e-3
    assert times["down_s"] >= 0.03 - 1e-3
    rows = {r.quantity: r for r in report.rows}
    assert rows["energy"].measured is not None and rows["energy"].measured > 0
    assert "radio and waiting at the link's stated rates" in rows["energy"].how
    assert rows["up"].ratio == rows["up"].measured
    assert "slowed 3x" in str(report)


def test_what_is_predicted_of_another_run_is_told(small: Traced, pair: System) -> None:
    system = System(device=pair.device.but(slowdown=3.0), server=pair.server, link=pair.link)
    size = sum(t.size_bytes for t in small.graph.boundary(cut(small, 2).server_layers))
    sent = size * pair.link.overhead + pair.link.header_bytes

    def notes(up_bytes: float, emulate: bool) -> str:
        told = {"up_bytes": up_bytes, "memory_bytes": 5.0, "device_s": 1.0, "server_s": 1.0, "latency_s": 1.0}
        plan = cut(small, 2, predicted=told)
        with deploy(small, plan, system, emulate=emulate, check=False) as app:
            app(EXAMPLE)
            report = app.report()
        rows = {r.quantity: r for r in report.rows}
        assert all(r.measured is not None and r.predicted == 1.0 for q, r in rows.items() if f"{q}_s" in told)
        assert [q for q in ("device", "server", "latency") if rows[q].ratio] == (
            ["device", "server", "latency"] if emulate else ["server"]
        )
        assert emulate or "not comparable: the device's slowdown of 3x was not emulated" in rows["latency"].how
        return str(report)

    true, other = notes(sent, True), notes(100.0, False)
    assert "input_bytes" in other and "input_bytes" not in true
    assert "3x was not emulated" in other and "not emulated" not in true
    assert "held the whole model" in other


def test_submit_copies_and_checks_its_input(small: Traced, pair: System) -> None:
    with deploy(small, cut(small, 2), pair) as app:
        x = EXAMPLE.clone()
        future = app.submit(x)
        x.zero_()
        assert same(future.result(60), expected(small, EXAMPLE))
        with pytest.raises(DataError, match="expected float32"):
            app.submit(torch.zeros(1, 4, 16, 16))
        with pytest.raises(DataError):
            app.submit("picture")
        assert not future.cancel()
    with pytest.raises(ExecutorError, match="closed; deploy"):
        app(EXAMPLE)
    app.close()


def test_frames_under_way_at_close_are_answered(small: Traced, pair: System) -> None:
    with deploy(small, cut(small, 2), pair) as app:
        futures = [app.submit(EXAMPLE) for _ in range(5)]
    assert all(same(f.result(0), expected(small, EXAMPLE)) for f in futures)


def test_leaving_by_an_exception_does_not_wait(small: Traced, pair: System) -> None:
    slow = System(device=pair.device, server=pair.server, link=pair.link.but(rate_bps=1e3))
    made = []

    def interrupted() -> None:
        with deploy(small, cut(small, 2), slow, check=False) as app:
            made.append(app.submit(EXAMPLE))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ExecutorError, match="closed before"):
        made[0].result(0)


def test_a_frame_whose_hand_over_was_interrupted_is_not_waited_for(
    small: Traced, pair: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, send = threading.current_thread(), Session.send

    def stop(self: Session, *args: Any) -> None:
        if threading.current_thread() is here:
            raise KeyboardInterrupt
        send(self, *args)

    with deploy(small, cut(small, 2), pair, depth=1) as app:
        with monkeypatch.context() as patch:
            patch.setattr(Session, "send", stop)
            with pytest.raises(KeyboardInterrupt):
                app.submit(EXAMPLE)
        assert same(app(EXAMPLE), expected(small, EXAMPLE))  # its place in the queue is free again
        closing = threading.Thread(target=app.close, daemon=True)
        closing.start()
        closing.join(60)
        assert not closing.is_alive()


def test_what_cannot_run_is_refused_first(small: Traced, pair: System) -> None:
    other = trace(Small(seed=1).eval(), EXAMPLE, name="small")
    with pytest.raises(FingerprintError):
        deploy(small, cut(other, 2), pair)
    plan = cut(small, 2)
    lost = SplitPlan(plan.model, plan.fingerprint, plan.device_layers[1:], plan.server_layers)
    with pytest.raises(DataError, match="not placed"):
        deploy(small, lost, pair)
    with pytest.raises(DataError, match="no place 'cloud'"):
        deploy(small, plan, pair, hosts={"cloud": "tcp://127.0.0.1:1"})
    with pytest.raises(DataError) as caught:
        deploy(small, plan, pair, hosts={"server": "somewhere"}, depth=0, heartbeat_s=0)
    assert len(caught.value.problems) == 3
    with pytest.raises(DataError, match="has no link"):
        deploy(small, plan, System(device=pair.device))
    with pytest.raises(HandshakeError, match="no such key"):
        deploy(small, plan, pair, keys="/nonexistent/keys")


def test_arguments_that_are_something_else_are_told_with_the_cure(
    small: Traced, pair: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkerProcess, "spawn", lambda _: pytest.fail("a worker was started"))
    times = {p: {x.name: 0.1 for x in small.graph.layers} for p in ("device", "server")}
    profile = Profile.given(small.graph, times)
    with pytest.raises(DataError, match=r"^deploy: the model is a Small; give what splitplan\.trace"):
        deploy(Small().eval(), cut(small, 2), pair)
    with pytest.raises(DataError, match=r"^deploy: the plan is a Solution; .*solution\.plan$"):
        deploy(small, SplitPoint(profile, pair).solve(), pair)
    with pytest.raises(DataError) as caught:
        deploy(small, "plan.json", "system.toml", profile="profile.csv", hosts=["server=tcp://a:1"])
    assert len(caught.value.problems) == 4
    other = trace(Small(seed=1).eval(), EXAMPLE, name="other")
    with pytest.raises(FingerprintError, match="the profile is of 'other'"):
        deploy(small, cut(small, 2), pair, profile=Profile.given(other.graph, times))


def test_a_model_that_fails_on_an_input_fails_that_frame_only(pair: System) -> None:
    class Picky(torch.nn.Module):
        def forward(self, x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
            return torch.relu(torch.relu(x).index_select(1, i))

    x, good, bad = torch.arange(6.0).reshape(2, 3), torch.tensor([0, 2]), torch.tensor([0, 9])
    traced = trace(Picky().eval(), (x, good), dynamic_batch=False)
    for head in (0, len(traced.graph.layers)):
        with deploy(traced, cut(traced, head), pair) as app:
            with pytest.raises(ExecutorError, match="ndex"):
                app(x, bad)
            assert torch.equal(app(x, good), x[:, good])


def test_a_host_that_is_not_there_is_told_before_anything_is_started(
    small: Traced, pair: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spawn(worker: WorkerProcess) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(WorkerProcess, "spawn", spawn)
    begin = time.monotonic()
    with pytest.raises(
        ExecutorError, match=r"^the server worker at tcp://127\.0\.0\.1:9: nothing listens there"
    ) as caught:
        deploy(small, cut(small, 2), pair, hosts={"server": "tcp://127.0.0.1:9"})
    assert (
        time.monotonic() - begin < 4 and str(caught.value).count("127.0.0.1:9") == 2
    )  # what it is, and how to start it


def test_a_host_that_is_no_worker_is_told_as_that(small: Traced, pair: System) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(30)

        def hang_up() -> None:
            for _ in range(3):  # the knock, and the session's two connections
                with contextlib.suppress(OSError):
                    door.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(ExecutorError, match="no splitplan worker"):
            deploy(small, cut(small, 2), pair, hosts={"server": f"tcp://127.0.0.1:{door.getsockname()[1]}"})
    thread.join(40)


def test_what_it_waits_for_is_told(small: Traced, pair: System) -> None:
    told: list[str] = []
    with deploy(small, cut(small, 2), pair, progress=told.append):
        pass
    assert told == [
        "starting the device and the server worker",
        "handing the plan to the workers",
        "checking the example",
    ]


def test_the_overhead_is_what_the_parts_leave_of_the_latency(small: Traced, pair: System) -> None:
    with deploy(small, cut(small, 2, predicted={"latency_s": 1.0}), pair, check=False) as app:
        for x in frames(5):
            app(x)
        report = app.report()
    rows = {r.quantity: r for r in report.rows}
    left = [f.latency_s - sum(f.times[f"{p}_s"] for p in ("device", "up", "server", "down")) for f in report.frames]
    assert rows["overhead"].measured == pytest.approx(statistics.median(left)) and rows["overhead"].measured > 0
    assert rows["overhead"].predicted == 0 and rows["overhead"].ratio is None
    assert "app.stream(items)" in rows["throughput"].how and "--depth" in rows["throughput"].how


def test_from_a_cell_without_a_main_guard(tmp_path: Path) -> None:
    script = """
import torch, splitplan as sp
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
x = torch.ones(1, 4)
traced = sp.trace(model, x)
names = [l.name for l in traced.graph.layers]
plan = sp.SplitPlan.for_cut(traced.graph, names[1:])
system = sp.System(device=sp.device("this-cpu"), server=sp.device("this-cpu"), link=sp.link("loopback"))
app = sp.deploy(traced, plan, system)
print(torch.equal(app(x), model(x)), app.pids["device"], app.pids["server"])
"""
    # No close and no `with`: the interpreter's end must take the workers along.
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout.startswith("True "), done.stderr
    assert "Traceback" not in done.stderr
    from .conftest import gone

    assert all(gone(int(pid)) for pid in done.stdout.split()[1:])
