"""A slotted policy on the real model: cut, clock and rate turned while frames run; nothing lost, nothing stranded, everything accounted for."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from splitplan.data.channel import Channel, constant
from splitplan.data.link import Radio
from splitplan.data.profile import Profile
from splitplan.data.scenario import Arrivals, Scenario, periodic, poisson
from splitplan.data.slot import SlotPlan, SlotState
from splitplan.data.system import System
from splitplan.errors import DataError, ExecutorError, InfeasibleError, RefusedError
from splitplan.executor import slots
from splitplan.executor.deploy import deploy
from splitplan.executor.slots import LEASE_S
from splitplan.executor.spent import Spent
from splitplan.formulations.costs import sending_w
from splitplan.formulations.slot import SlotControl
from splitplan.models.trace import Traced
from splitplan.policies.slot import SlotPolicy
from splitplan.simulator.simulate import simulate

from .conftest import EXAMPLE, same
from .fakes import GPU_HZ, devfreq_tree, numbers
from .test_deploy import expected

pytestmark = pytest.mark.usefixtures("nothing_left")

CLOCKS, WATTS = (1e8, 2e8, 4e8), (1.0, 2.5, 6.0)
TAU = 0.02


@pytest.fixture(scope="module")
def slow(pair: System) -> System:
    """A device of three clocks that takes milliseconds a layer, and a link of 4 Mbit/s."""
    device = pair.device.but(clock_hz=CLOCKS, active_power_w=WATTS, idle_power_w=0.5, slowdown=20.0)
    link = pair.link.but(rate_bps=4e6, delay_up_s=0.002, delay_down_s=0.002, radio=Radio(1e-7, 1e-7, 0.2))
    return System(device=device, server=pair.server, link=replace(link, name="air"))


@pytest.fixture(scope="module")
def given(small: Traced, slow: System) -> Profile:
    """Times that are stated, about what it takes."""
    layers = [x.name for x in small.graph.layers]
    rows = [
        {
            "layer": layer,
            "place": place,
            "clock_hz": hz,
            "time_s": 0.002 * scale,
            "spread_s": 0.0,
            "samples": 1,
            "method": "given",
        }
        for layer in layers
        for place, hz, scale in [
            *(("device", hz, slow.device.time_scale(hz)) for hz in CLOCKS),
            ("server", float("nan"), 0.05),
        ]
    ]
    return Profile(small.graph, pd.DataFrame(rows))


def unclocked(small: Traced) -> Profile:
    """Of a device whose clock is not ours to choose."""
    columns = {"clock_hz": float("nan"), "time_s": 0.002, "spread_s": 0.0, "samples": 1, "method": "given"}
    return Profile(
        small.graph,
        pd.DataFrame(
            [{"layer": x.name, "place": p, **columns} for x in small.graph.layers for p in ("device", "server")]
        ),
    )


def control(given: Profile, slow: System, **options: Any) -> SlotControl:
    return SlotControl(given, slow, **{"slot_s": TAU, "V": 1e-4, **options})


@dataclass
class Script:
    """A policy of one's own: what `choice` says, written down."""

    control: SlotControl
    choice: Any
    name: str = "script"
    states: list[SlotState] = field(default_factory=list)

    def choose(self, state: SlotState) -> SlotPlan:
        self.states.append(state)
        return self.control.at(state).plan_for(*self.choice(state))


def test_the_policy_that_is_simulated_runs_the_model(small: Traced, slow: System, given: Profile) -> None:
    policy = SlotPolicy(control(given, slow))
    scene = Scenario(poisson(15.0), constant(4e6), slots=100, seed=3)
    with deploy(small, policy, slow) as app:
        report = app.run(scene)
        assert same(app(EXAMPLE), expected(small, EXAMPLE))  # after the scene the knobs are free
        run = report.slots
    assert run is not None and run.live and run.kind == "live"
    frames = len(scene.arrive_s(TAU))
    simulated = simulate(policy, scene)
    assert len(run.latency_s) == len(simulated.latency_s) == frames
    np.testing.assert_array_equal(run.arrive_s, simulated.arrive_s)
    assert np.isfinite(run.latency_s).mean() >= 0.5  # but for those at the very end, and on a busy machine some before
    assert report.counts["frames"] == frames
    assert len(run.trace) == run.slots == 100
    assert run.trace[:, 7].sum() == run.sums["admitted"] == frames
    assert run.trace[:, 3].sum() == pytest.approx(run.sums["energy_j"])
    idle_j = 0.5 * TAU * 100
    assert idle_j < run.sums["energy_j"] < idle_j + 6.0 * 100 * TAU + 1.0
    assert run.sums["busy_s"] > 0
    assert {"slots", "slots_missed"} <= report.counts.keys()
    assert "emulated by a duty cycle" in str(report) and "live" in str(report)
    assert run.certificate is not None and run.certificate > -1e-9


def test_nothing_is_stranded_when_arrivals_stop(small: Traced, slow: System, given: Profile) -> None:
    """The weight is so high that queues alone would keep the device off; persistence ends that."""
    policy = SlotPolicy(control(given, slow, V=0.01, persistence=0.5))
    scene = Scenario(Arrivals("recorded", times_s=(0.0, 0.03)), constant(4e6), slots=150)
    with deploy(small, policy, slow) as app:
        run = app.run(scene).slots
    assert run is not None
    assert np.isfinite(run.latency_s).all()
    assert (run.trace[:5, 5] == 0).any(), "it was not off for a while: the weight is too low to show anything"


def test_a_device_that_is_off_and_a_radio_that_is_silent_do_nothing(
    small: Traced, slow: System, given: Profile
) -> None:
    c = control(given, slow)
    assert c.cuts is not None
    one = int(np.argmax((c.choices.works[:, 0] > 0) & (c.choices.works[:, 1] > 0)))
    quiet_s, begin = 0.6, time.monotonic()

    def choice(state: SlotState) -> tuple[int, int, int, int]:
        on = time.monotonic() - begin > quiet_s
        return one, int(state.frames), 3 if on else 0, len(c.choices.levels) - 1 if on else 0

    with deploy(small, Script(c, choice), slow, check=False) as app:
        begin = time.monotonic()
        time.sleep(3 * TAU)
        future = app.submit(EXAMPLE)
        assert same(future.result(), expected(small, EXAMPLE))
        assert time.monotonic() - begin > quiet_s


def test_a_frame_for_the_server_does_not_wait_for_the_device(small: Traced, slow: System, given: Profile) -> None:
    """The device is off and has a frame; one that goes up as it came is answered meanwhile."""
    c = control(given, slow)
    here, there = int(np.argmin(c.choices.works[:, 1])), int(np.argmin(c.choices.works[:, 0]))
    assert c.choices.works[there, 0] == 0
    told: list[int] = []
    on = threading.Event()

    def choice(state: SlotState) -> tuple[int, int, int, int]:
        told.append(int(state.frames))
        cut = here if sum(told) == 1 else there
        return cut, int(state.frames), 3 if on.is_set() else 0, 8

    with deploy(small, Script(c, choice), slow, check=False) as app:
        time.sleep(3 * TAU)
        first = app.submit(EXAMPLE)
        time.sleep(3 * TAU)
        second = app.submit(EXAMPLE)
        assert same(second.result(timeout=30), expected(small, EXAMPLE))
        assert not first.done()
        on.set()
        assert same(first.result(timeout=30), expected(small, EXAMPLE))


def test_what_the_policy_sees_is_what_is_left(small: Traced, slow: System, given: Profile) -> None:
    c = control(given, slow)
    heads = c.choices.works[:, 0]
    here = int(np.argmax(heads))
    script = Script(c, lambda state: (here, int(state.frames), 1, 8))
    scene = Scenario(Arrivals("recorded", times_s=(0.005, 0.006, 0.007)), constant(4e6), slots=60)
    with deploy(small, script, slow) as app:
        run = app.run(scene).slots
    assert run is not None
    work = run.trace[:, 0]
    assert work.max() <= 3 * heads[here] + 1e-12
    assert work.max() >= 2 * heads[here] - 1e-12  # three frames within a slot, one of which may be half done
    assert work[-1] == 0.0
    down = work[np.argmax(work) :]
    assert (np.diff(down) <= 1e-12).all()


def test_a_device_worker_that_dies_costs_no_frame(small: Traced, slow: System, given: Profile) -> None:
    policy = SlotPolicy(control(given, slow))
    scene = Scenario(periodic(10.0), constant(4e6), slots=200)
    with deploy(small, policy, slow) as app:
        killer = threading.Timer(1.0, lambda: os.kill(app.pids["device"], signal.SIGKILL))
        killer.start()
        report = app.run(scene)
        killer.join()
        assert same(app(EXAMPLE), expected(small, EXAMPLE))
    assert report.counts["frames"] == len(scene.arrive_s(TAU))
    assert report.counts["restarts_device"] >= 1
    assert report.counts["slots_missed"] > 0
    assert report.slots is not None and len(report.slots.trace) == 200


def test_frames_may_be_refused(small: Traced, slow: System, given: Profile) -> None:
    """Every frame is refused, said so, and none is lost."""
    policy = Script(control(given, slow, mode="max-throughput"), lambda s: (0, 0, 3, 8))
    scene = Scenario(periodic(20.0), constant(4e6), slots=30)
    with deploy(small, policy, slow) as app:
        report = app.run(scene)
        with pytest.raises(ExecutorError, match="refused the frame"):
            app(EXAMPLE)
    run = report.slots
    assert run is not None and np.isnan(run.latency_s).all()
    assert run.sums["refused"] == len(run.latency_s) and run.sums["admitted"] == 0


def test_a_policy_that_fails_says_so_and_loses_nothing(small: Traced, slow: System, given: Profile) -> None:
    c, calls = control(given, slow), []

    def choice(state: SlotState) -> tuple[int, int, int, int]:
        calls.append(state)
        if len(calls) > 10:
            raise ValueError("no idea")
        return 0, int(state.frames), 3, 8

    def until_it_fails(app: Any) -> None:
        for _ in range(200):
            assert same(app(EXAMPLE), expected(small, EXAMPLE))

    with deploy(small, Script(c, choice), slow) as app, pytest.raises(ExecutorError, match="no idea"):
        until_it_fails(app)


def test_dead_seconds_of_a_channel_end_no_frame(small: Traced, slow: System, given: Profile) -> None:
    channel = Channel(np.array([0.0, 0.5, 1.0, 3.0]), np.array([4e6, 0.0, 4e6]), "dead in between")
    policy = SlotPolicy(control(given, slow, V=0.0))
    scene = Scenario(periodic(10.0), channel, slots=100)
    with deploy(small, policy, slow) as app:
        run = app.run(scene).slots
    # The last ones may be under way when the scene ends, on a busy machine.
    assert run is not None and len(run.latency_s) == 20 and np.isfinite(run.latency_s[:15]).all()


def test_a_deploy_that_runs_for_days_keeps_its_last_rows_and_all_its_sums(
    small: Traced, slow: System, given: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "KEPT", 20)
    c = control(given, slow)
    with deploy(small, SlotPolicy(c), slow, check=False) as app:
        driver = app._driver
        assert driver is not None
        while driver.over < 50:
            app(EXAMPLE)
        assert len(driver.rows) == len(driver.trace) == 20
        assert app.report().counts["slots"] >= 50
        with driver._stir:
            assert driver.sums["energy_j"] >= 0.5 * TAU * driver.over
        run = app.run(Scenario(periodic(10.0), constant(4e6), slots=50)).slots  # of a scenario all are kept
    assert run is not None and len(run.trace) == 50


@pytest.mark.parametrize("admits", [True, False])
def test_a_frame_that_is_handed_over_behind_the_last_slot_is_of_the_last_slot(
    small: Traced, slow: System, given: Profile, monkeypatch: pytest.MonkeyPatch, admits: bool
) -> None:
    """It arrived within it: whoever is late is the process, and what the slots add up to are the scenario's frames."""
    c = control(given, slow, mode="min-energy" if admits else "max-throughput")  # only the latter may refuse
    script = Script(c, lambda state: (0, int(state.frames) if admits else 0, 3, 8))
    scene = Scenario(Arrivals("recorded", times_s=(0.1, 0.590, 0.595)), constant(4e6), slots=30)
    with deploy(small, script, slow, check=False) as app:
        submit, handed = app._submit, []

        def late(*args: Any, arrived_s: float) -> Any:
            assert app._driver is not None
            while handed and app._driver._running:
                time.sleep(TAU)
            handed.append(arrived_s)
            return submit(*args, arrived_s=arrived_s)

        monkeypatch.setattr(app, "_submit", late)
        run = app.run(scene).slots
        assert app._driver is not None
        sums = dict(app._driver.sums)
        monkeypatch.undo()
        with contextlib.suppress(RefusedError):
            app(EXAMPLE)
        assert app._driver.sums == sums  # no frame of the scenario's
    assert run is not None and len(run.latency_s) == 3
    assert (
        run.sums["admitted"]
        == run.trace[:, 7].sum()
        == np.isfinite(run.latency_s).sum() + np.isinf(run.latency_s).sum()
    )
    assert run.sums["admitted"] == (3 if admits else 0) and run.sums["refused"] == 3 - run.sums["admitted"]
    assert run.trace[:, 3].sum() == pytest.approx(run.sums["energy_j"], rel=1e-12)
    assert run.sums["utility"] == pytest.approx(np.log1p(run.trace[:, 7]).sum())


def test_slots_before_a_late_first_look_are_slots(small: Traced, slow: System, given: Profile) -> None:
    with deploy(small, SlotPolicy(control(given, slow)), slow, check=False) as app:
        driver, begun = app._driver, [False]
        assert driver is not None
        pending = driver._pending

        def slowly() -> list[tuple[int, int]]:
            if driver._slot < 0 and driver._scene is not None and not begun[0]:
                begun[0] = True
                time.sleep(0.5)
            return pending()

        driver._pending = slowly
        run = app.run(Scenario(Arrivals("recorded", times_s=(0.01, 0.3)), constant(4e6), slots=20)).slots
    assert begun[0] and run is not None and len(run.trace) == 20
    assert run.sums["admitted"] == run.trace[:, 7].sum() == 2
    assert run.sums["energy_j"] >= 0.5 * TAU * 20


# -- what was done is paid for -------------------------------------------------------------------------


def test_every_busy_second_is_paid_for_at_the_clock_it_had(small: Traced, slow: System, given: Profile) -> None:
    """On and off by turns while work is left: what is done between looking and turning is still done at the top clock."""
    c, ticks = control(given, slow), [0]
    here = int(np.argmax(c.choices.works[:, 0]))
    assert c.choices.works[here, 1] == 0

    def choice(state: SlotState) -> tuple[int, int, int, int]:
        ticks[0] += state.frames == 0
        return here, int(state.frames), 3 * (ticks[0] % 2), 8

    with deploy(small, Script(c, choice), slow, check=False) as app:
        run = app.run(Scenario(periodic(12.0), constant(4e6), slots=150)).slots
    assert run is not None and run.sums["busy_s"] > 0
    idle_w, top_w = 0.5, 6.0
    above_idle_j = run.sums["energy_j"] - idle_w * run.seconds
    assert above_idle_j == pytest.approx((top_w - idle_w) * run.sums["busy_s"], rel=1e-6)


def test_frames_that_the_server_did_not_do_are_paid_for(small: Traced, slow: System, given: Profile) -> None:
    c = control(given, slow)
    there = int(np.argmin(c.choices.works[:, 0]))
    assert c.choices.works[there, 0] == 0
    policy = SlotPolicy(c, cuts=[there])
    with deploy(small, policy, slow, max_restarts=0) as app:
        os.kill(app.pids["server"], signal.SIGKILL)
        report = app.run(Scenario(periodic(10.0), constant(4e6), slots=100))
    run = report.slots
    here_s = sum(f.times.get("finish_here_s", 0.0) for f in report.frames)
    assert run is not None and here_s > 0
    assert run.sums["energy_j"] - 0.5 * run.seconds >= 0.8 * (6.0 - 0.5) * here_s
    assert "finished without the server" in str(run)


def test_what_a_device_does_when_its_lease_is_over_is_paid_for_at_the_top_clock(
    small: Traced, slow: System, given: Profile
) -> None:
    """The policy sleeps for longer than its knobs hold: a device that it had slow, and then off, does its frames at the top clock meanwhile."""
    c, ticks, frames, after = control(given, slow), [0], [0], [0]
    here = int(np.argmax(c.choices.works[:, 0]))
    assert c.choices.works[here, 1] == 0

    def choice(state: SlotState) -> tuple[int, int, int, int]:
        ticks[0] += state.frames == 0
        frames[0] += state.frames > 0
        after[0] += frames[0] == 3 and state.frames == 0  # not those before the scene, of which there may be many
        if after[0] == 10 and state.frames == 0:
            time.sleep(LEASE_S + 1.5)
        return here, int(state.frames), 1 if ticks[0] < 5 else 0, 8

    scene = Scenario(Arrivals("recorded", times_s=(0.3, 0.35, 0.4)), constant(4e6), slots=250)
    with deploy(small, Script(c, choice), slow, check=False) as app:
        run = app.run(scene).slots
    assert run is not None and run.sums["busy_s"] > 0
    above_idle_j = run.sums["energy_j"] - 0.5 * run.seconds
    assert above_idle_j == pytest.approx((6.0 - 0.5) * run.sums["busy_s"], rel=1e-6)


def test_each_second_is_paid_for_by_who_held_the_knob(given: Profile, slow: System) -> None:
    c = control(given, slow)
    spent, line, other = Spent(c), object(), object()
    counts = dict.fromkeys(("busy_s", "free_busy_s", "sending_s", "free_sending_s", "alone_s"), 0.0)

    def take(session: object, **more: float) -> tuple[float, float, float]:
        counts.update(more)
        spent.take(session, dict(counts), 4e6, True)  # type: ignore[arg-type]
        return spent.settle()

    full_w = float(sending_w(c.choices.radio, 4e6, 4e6))
    # Before anything is turned: at the top clock and all of the link.
    assert take(line, busy_s=1.0, free_busy_s=1.0, sending_s=2.0, free_sending_s=2.0) == pytest.approx(
        (5.5 + 2 * full_w, 1.0, 2.0)
    )
    spent.watts = (0.5, 0.1)
    assert take(line, busy_s=4.0, sending_s=3.0) == pytest.approx((3 * 0.5 + 0.1, 3.0, 1.0))
    assert take(line, busy_s=9.0, free_busy_s=3.0, sending_s=6.0, free_sending_s=4.0, alone_s=1.0) == pytest.approx(
        (3 * 0.5 + 2 * 5.5 + 0.1 + 2 * full_w + 5.5, 6.0, 3.0)
    )
    assert take(line) == (0.0, 0.0, 0.0)
    assert take(other) == pytest.approx((9 * 5.5 + 6 * full_w + 5.5, 10.0, 6.0))


# -- when something stops ------------------------------------------------------------------------------


def test_a_device_worker_that_hangs_for_a_while_is_not_a_policy_that_failed(
    small: Traced, slow: System, given: Profile
) -> None:
    """Longer than it is waited for, about as long as it takes to be lost."""
    policy = SlotPolicy(control(given, slow))
    with deploy(small, policy, slow) as app:
        pid = app.pids["device"]
        timers = [threading.Timer(at, os.kill, (pid, n)) for at, n in ((0.7, signal.SIGSTOP), (4.1, signal.SIGCONT))]
        for timer in timers:
            timer.start()
        report = app.run(Scenario(periodic(5.0), constant(4e6), slots=300))
        for timer in timers:
            timer.join()
        assert same(app(EXAMPLE), expected(small, EXAMPLE))
    assert report.slots is not None and report.counts["slots_missed"] > 0
    assert report.counts["frames"] == len(report.slots.latency_s)


def test_a_policy_that_fails_behind_the_last_frame_gives_no_result(small: Traced, slow: System, given: Profile) -> None:
    c, after = control(given, slow), [-1]

    def choice(state: SlotState) -> tuple[int, int, int, int]:
        after[0] += after[0] >= 0 or state.frames > 0
        if after[0] > 20:
            raise ValueError("no idea")
        return 0, int(state.frames), 3, 8

    scene = Scenario(Arrivals("recorded", times_s=(0.1,)), constant(4e6), slots=100)
    with deploy(small, Script(c, choice), slow, check=False) as app, pytest.raises(ExecutorError, match="no idea"):
        app.run(scene)


def test_after_the_last_slot_frames_are_taken_as_if_alone(small: Traced, slow: System, given: Profile) -> None:
    """Nobody looks at queues any more: what was left then, and how many came since, must not refuse them."""
    policy = SlotPolicy(control(given, slow, mode="max-throughput", V=1e-3))
    with deploy(small, policy, slow, check=False) as app:
        app.run(Scenario(periodic(30.0), constant(4e6), slots=30))
        for _ in range(30):
            app(EXAMPLE)


# -- the clock of hardware -----------------------------------------------------------------------------


def governed_control(small: Traced, slow: System, clocks: tuple[float, ...]) -> SlotControl:
    """A device with other clocks, times in proportion."""
    device = slow.device.but(clock_hz=clocks, active_power_w=tuple(1.0 + k for k in range(len(clocks))))
    system = System(device=device, server=slow.server, link=slow.link)
    given_at = [("device", hz, device.time_scale(hz)) for hz in clocks] + [("server", float("nan"), 0.05)]
    rows = [
        {
            "layer": x.name,
            "place": p,
            "clock_hz": hz,
            "time_s": 0.002 * k,
            "spread_s": 0.0,
            "samples": 1,
            "method": "given",
        }
        for x in small.graph.layers
        for p, hz, k in given_at
    ]
    return SlotControl(Profile(small.graph, pd.DataFrame(rows)), system, slot_s=TAU, V=1e-4)


def back_within(place: Path, before: list[int], seconds: float = 10.0) -> bool:
    """Whether the limits are as they were, soon."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(ValueError):  # read while it is written
            if numbers(place, "min_freq", "max_freq") == before:
                return True
        time.sleep(0.02)
    return False


def test_a_governor_is_turned_by_the_slot_and_puts_back_what_was_there(
    small: Traced, slow: System, tmp_path: Path
) -> None:
    """Files in place of a kernel; the worker is killed once, and the clock comes back each time."""
    place = devfreq_tree(tmp_path, now=False)
    before = numbers(place, "min_freq", "max_freq")
    c = governed_control(small, slow, tuple(map(float, GPU_HZ)))
    pinned = []
    script = Script(c, lambda state: (0, int(state.frames), 1 + len(pinned) % 3, 8))
    scene = Scenario(periodic(10.0), constant(4e6), slots=150)
    with deploy(small, script, c.system, governor=f"devfreq:{place}") as app:
        killer = threading.Timer(1.5, lambda: os.kill(app.pids["device"], signal.SIGKILL))
        killer.start()
        watcher = threading.Event()

        def watch() -> None:
            while not watcher.wait(0.01):
                with contextlib.suppress(ValueError):  # read while it is written
                    pinned.append(numbers(place, "min_freq", "max_freq"))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            report = app.run(scene)
        finally:
            watcher.set()
            thread.join()
            killer.join()
        assert report.counts["frames"] == len(scene.arrive_s(TAU)) and report.counts["restarts_device"] >= 1
        assert "a frame that has begun is not stopped" in str(report) and str(place) in str(report)
        assert back_within(place, before)  # after the last slot, not only when the app is closed
    held = {low for low, high in pinned if low == high}
    assert held >= set(GPU_HZ[:3])
    assert numbers(place, "min_freq", "max_freq") == before


def test_clocks_that_the_hardware_has_not_are_said_before_anything_runs(
    small: Traced, slow: System, tmp_path: Path
) -> None:
    place = devfreq_tree(tmp_path, now=False)
    c = governed_control(small, slow, (1e8, 2e8))
    with pytest.raises(DataError, match="MHz"):
        deploy(small, SlotPolicy(c), c.system, governor=f"devfreq:{place}")


# -- what cannot be right -----------------------------------------------------------------------------


def test_arguments_that_cannot_be_right(small: Traced, slow: System, given: Profile, pair: System) -> None:
    c = control(given, slow)
    policy = SlotPolicy(c)
    with pytest.raises(DataError, match="splitplan.SlotPolicy"):
        deploy(small, c, slow)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="another device and link"):
        deploy(small, policy, pair)
    with pytest.raises(DataError, match="governor='emulated'"):
        deploy(small, policy, slow, emulate=False)
    with pytest.raises(DataError, match="for a slotted policy"):
        deploy(small, c.cuts.plan(0), slow, governor="cpufreq")  # type: ignore[union-attr]
    fixed = System(device=pair.device.but(active_power_w=(2.0,), idle_power_w=0.5), server=slow.server, link=slow.link)
    with pytest.raises(DataError, match="the system's device has none"):
        deploy(small, SlotPolicy(control(unclocked(small), fixed)), fixed, governor="cpufreq")
    ahead = Script(c, lambda state: (0, 0, 0, 0))
    ahead.sees = 3  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="nobody knows"):
        deploy(small, ahead, slow)


def test_a_load_that_nobody_can_carry_is_said_before_the_run(small: Traced, slow: System, given: Profile) -> None:
    policy = SlotPolicy(control(given, slow))
    scene = Scenario(periodic(5000.0), constant(1e3), slots=100_000)
    with deploy(small, policy, slow) as app, pytest.raises(InfeasibleError):
        app.run(scene)


def test_a_governor_that_is_not_there_is_said(small: Traced, slow: System, given: Profile) -> None:
    with pytest.raises(ExecutorError, match="devfreq"):
        deploy(small, SlotPolicy(control(given, slow)), slow, governor="devfreq:/nowhere", start_timeout_s=60)
