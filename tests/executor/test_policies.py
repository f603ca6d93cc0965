"""A policy that runs: the cut changes between frames and none is lost, swapped or wrong; a channel is followed, dead seconds and all."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from splitplan.data.channel import Channel
from splitplan.data.plan import SplitPlan
from splitplan.data.profile import Profile
from splitplan.data.scenario import Arrivals, Scenario, periodic, poisson
from splitplan.data.system import System
from splitplan.errors import DataError, ExecutorError, FingerprintError, RefusedError
from splitplan.executor.deploy import deploy
from splitplan.formulations.split import SplitPoint
from splitplan.models.trace import Traced, trace
from splitplan.policies.adaptive import AdaptivePolicy
from splitplan.policies.base import Moment, Seen
from splitplan.solvers.envelope import split_table

from .conftest import EXAMPLE, Small, cut, frames, same
from .test_deploy import expected

pytestmark = pytest.mark.usefixtures("nothing_left")


@dataclass
class Turns:
    """A policy that draws lots, and keeps what it was told."""

    plans: tuple[SplitPlan, ...]
    name: str = "turns"
    fails_in: str = ""
    refuses: bool = False
    told: list[Seen] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)

    def decide(self, now: Moment) -> int | None:
        if self.fails_in == "decide":
            raise ValueError("no idea")
        self.chosen.append(random.Random(len(self.chosen)).randrange(len(self.plans)))
        return None if self.refuses and len(self.chosen) % 3 == 2 else self.chosen[-1]

    def observe(self, seen: Seen) -> None:
        if self.fails_in == "observe":
            raise ValueError("no idea")
        self.told.append(seen)

    def restart(self) -> None:
        self.told.clear()


def every_cut(traced: Traced, **options: object) -> tuple[SplitPlan, ...]:
    return tuple(cut(traced, k, **options) for k in range(len(traced.graph.layers) + 1))


def slow(pair: System, rate_bps: float, delay_s: float = 0.01) -> System:
    return System(
        device=pair.device,
        server=pair.server,
        link=pair.link.but(rate_bps=rate_bps, delay_up_s=delay_s, delay_down_s=delay_s),
    )


def test_the_cut_changes_between_frames_and_every_answer_is_right_and_in_its_place(small: Traced, pair: System) -> None:
    policy, inputs = Turns(every_cut(small)), frames(60)
    with deploy(small, policy, pair) as app:
        results = list(app.stream(inputs, depth=6))
        report = app.report()
    assert all(same(got, expected(small, x)) for got, x in zip(results, inputs, strict=True))
    assert [f.cut for f in sorted(report.frames, key=lambda f: f.frame_id)] == policy.chosen
    assert len(set(policy.chosen)) == len(policy.plans) and report.counts["finished_locally"] == 0
    assert report.cuts_to_frame()["frames"].sum() == 60 and len(policy.told) == 60
    assert report.rows[0].predicted is None and "turns" in report.title
    for seen in policy.told:
        assert (seen.up_s is not None) == (seen.up_bytes > 0) == bool(policy.plans[seen.cut].server_layers)
    raw = sum(seen.up_bytes for seen in policy.told if seen.cut == 0)
    assert report.counts["raw_bytes_sent"] == raw > 0
    assert report.counts["activation_bytes_sent"] == sum(s.up_bytes for s in policy.told) - raw > 0
    assert len(report.to_dict()["plans"]) == len(policy.plans)


def test_all_cuts_share_one_link(small: Traced, pair: System) -> None:
    plans = (cut(small, 0), cut(small, 1))
    sizes = [sum(t.size_bytes for t in small.graph.boundary(p.server_layers)) for p in plans]
    system = slow(pair, 8 * sum(sizes) / 0.1)  # one frame by each cut: a tenth of a second
    with deploy(small, Turns(plans), system, check=False) as app:
        list(app.stream([EXAMPLE] * 20, depth=8))
        report = app.report()
    sent = sum(sizes[f.cut] for f in report.frames[:-1])
    # As two links they would be through in half of it.
    assert report.frames[-1].done_s - report.frames[0].submitted_s >= 0.99 * 8 * sent / system.link.rate_up_bps


@pytest.mark.parametrize("where", ["decide", "observe"])
def test_a_policy_that_fails_is_told_at_once_and_named(small: Traced, pair: System, where: str) -> None:
    with deploy(small, Turns(every_cut(small), fails_in=where), pair) as app:
        if where == "decide":
            with pytest.raises(ExecutorError, match=r"policy 'turns' failed in decide\(\): ValueError\('no idea'\)"):
                app(EXAMPLE)
        else:
            assert same(app(EXAMPLE), expected(small, EXAMPLE))  # it was accepted, so it is answered
            with pytest.raises(ExecutorError, match=r"policy 'turns' failed in observe\(\): ValueError\('no idea'\)"):
                app(EXAMPLE)


def test_what_plans_of_one_policy_must_have_in_common(small: Traced, pair: System) -> None:
    other = trace(Small(seed=1).eval(), EXAMPLE, name="other")
    with pytest.raises(FingerprintError):
        deploy(small, Turns((cut(small, 1), cut(other, 1))), pair)
    with pytest.raises(DataError, match="plan 1 has wire 'int8', the first 'fp32'"):
        deploy(small, Turns((cut(small, 1), cut(small, 2, wire="int8"))), pair)
    with pytest.raises(DataError, match="has no plans"):
        deploy(small, Turns(()), pair)


def test_a_stream_goes_on_behind_a_frame_that_is_refused(small: Traced, pair: System) -> None:
    policy, inputs = Turns(every_cut(small), refuses=True), frames(14)
    with deploy(small, policy, pair, check=False) as app:
        results = list(app.stream(inputs, depth=4))
        assert app.report().counts["frames"] == 9
    assert [k for k, got in enumerate(results) if isinstance(got, RefusedError)] == [1, 4, 7, 10, 13]
    assert "policy 'turns' refused the frame" in str(results[1])
    answered = [(got, x) for got, x in zip(results, inputs, strict=True) if not isinstance(got, RefusedError)]
    assert all(same(got, expected(small, x)) for got, x in answered)


def test_as_many_cuts_as_a_pareto_set_has_are_kept_ready(small: Traced, pair: System) -> None:
    inputs = frames(12)
    policy = Turns(every_cut(small) * 40)
    with deploy(small, policy, pair, check=False) as app:
        results = list(app.stream(inputs))
    assert len(policy.plans) > 200 and max(policy.chosen) > 100
    assert all(same(got, expected(small, x)) for got, x in zip(results, inputs, strict=True))


def test_more_cuts_than_are_kept_ready_are_told_before_anything_starts(small: Traced, pair: System) -> None:
    with pytest.raises(DataError, match="policy 'turns': has 1,032 plans; both ends keep the parts of up to 1,024"):
        deploy(small, Turns((cut(small, 1),) * 1032), pair)


def test_a_scenario_over_a_channel_with_dead_seconds_completes_every_frame(small: Traced, pair: System) -> None:
    bits = 8 * 2 * 3 * 16 * 16 * 4.0
    channel = Channel(np.array([0, 1, 2, 3.0]), np.array([bits / 0.02, 0.0, bits / 0.1]), "holes")
    scene = Scenario(periodic(8), channel, 3.0)
    plan = cut(
        small, 0, predicted={"up_s": 0.01, "latency_s": 0.1, "period_s": 0.1, "device_s": 0.01, "server_s": 0.01}
    )
    with deploy(small, Turns((plan,)), slow(pair, 1e9)) as app:
        report = app.run(scene)
    # The prediction is at the link's rate, and so nothing to hold this run against; what a server takes is.
    rows = {r.quantity: r for r in report.rows}
    assert all(rows[q].ratio is None and "followed channel" in rows[q].how for q in ("up", "latency", "throughput"))
    assert rows["server"].ratio is not None
    assert report.counts["frames"] == 24 and report.counts["finished_locally"] == 0
    assert all(f.arrived for f in report.frames)
    by_arrival = sorted(report.frames, key=lambda f: f.frame_id)
    begin = by_arrival[0].submitted_s
    assert [f.submitted_s - begin for f in by_arrival] == pytest.approx([k / 8 for k in range(24)], abs=1e-6)
    # What arrives in the dead second leaves after it; what arrives before it is through before it.
    assert all(f.done_s - begin >= 2.0 for f in by_arrival[9:16])
    assert all(0.02 <= f.times["up_s"] for f in by_arrival)
    assert "followed channel 'holes'" in str(report) and {r.quantity for r in report.rows} >= {"response", "throughput"}


def test_frames_run_out_of_no_inputs_and_begin_again(small: Traced, pair: System) -> None:
    scene = Scenario(Arrivals("recorded", times_s=(0.0, 0.05, 0.1)), Channel(np.array([0, 1.0]), np.array([1e9])), 1.0)
    with deploy(small, Turns(every_cut(small)), pair) as app:
        assert app.run(scene, frames(2)).counts["frames"] == 3
        with pytest.raises(DataError, match="inputs is empty"):
            app.run(scene, [])
        with pytest.raises(DataError, match="expected"):
            app.run(scene, [torch.zeros(1, 4, 16, 16)])
        with pytest.raises(DataError, match=r"give a splitplan\.Scenario"):
            app.run(scene.channel)  # type: ignore[arg-type]
        with pytest.raises(DataError, match="no frame arrives within"):
            app.run(Scenario(poisson(1e-9), scene.channel, 1.0))


def test_a_real_link_follows_no_channel(small: Traced, pair: System) -> None:
    scene = Scenario(periodic(5), Channel(np.array([0, 1.0]), np.array([1e9])), 1.0)
    with deploy(small, Turns(every_cut(small)), pair, emulate=False) as app:
        with pytest.raises(DataError, match="the link is real here"):
            app.run(scene)
        assert same(app(EXAMPLE), expected(small, EXAMPLE))


def test_workers_killed_under_a_policy_lose_no_frame(small: Traced, pair: System) -> None:
    policy, inputs = Turns(every_cut(small)), frames(80)
    with deploy(small, policy, pair, heartbeat_s=0.2) as app:
        results = []
        for k, result in enumerate(app.stream(inputs, depth=4)):
            results.append(result)
            if k in (20, 45):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(app.pids["server" if k == 20 else "device"], signal.SIGKILL)
        report = app.report()
    assert all(same(got, expected(small, x)) for got, x in zip(results, inputs, strict=True))
    assert len(report.frames) == 80 and report.counts["restarts_server"] + report.counts["restarts_device"] >= 1
    for f, seen in zip(report.frames, policy.told, strict=True):
        assert seen.lost == (bool(f.alone) and bool(policy.plans[f.cut].server_layers))


def test_the_adaptive_policy_follows_the_link(small: Traced, pair: System) -> None:
    graph = small.graph
    layers = [x.name for x in graph.layers]
    # The device is slow: all at the server on a good link, all here on a bad one.
    profile = Profile.given(graph, {"device": dict.fromkeys(layers, 0.2), "server": dict.fromkeys(layers, 1e-4)})
    system = slow(pair, 1e8, 0.001)
    table = split_table(SplitPoint(profile, system))
    assert table.sends.tolist()[0] is False and table.sends[-1]
    good, bad = 40 * table.breaks_bps[-1], table.breaks_bps[-1] / 4
    channel = Channel(np.array([0, 2.0, 4.0, 8.0]), np.array([good, bad, good]), "step")
    policy = AdaptivePolicy(table, tau_s=0.2, probe_s=0.5)
    with deploy(small, policy, system, depth=32) as app:
        report = app.run(Scenario(periodic(10), channel, 7.0))
    assert report.counts["frames"] == 70 and report.counts["finished_locally"] == 0
    ordered = sorted(report.frames, key=lambda f: f.frame_id)
    begin, last = ordered[0].submitted_s, len(table) - 1

    def share(cut: int, after_s: float, before_s: float) -> float:
        cuts = [f.cut for f in ordered if after_s <= f.submitted_s - begin < before_s]
        return cuts.count(cut) / len(cuts)

    assert share(last, 0.5, 1.9) >= 0.9
    # One frame hangs on the bad link; those behind it are not sent the same way once it has had its time.
    assert share(last, 3.2, 3.9) <= 0.2
    assert share(last, 5.5, 7.0) >= 0.9
