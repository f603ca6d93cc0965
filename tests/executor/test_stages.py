"""What stages took beside their profile; what there is of a slotted run that was interrupted; its report's figure."""

# ruff: noqa: F811  fixtures of another module
from __future__ import annotations

import math
import signal
import threading
import time

import numpy as np
import pytest

from splitplan.data.channel import constant
from splitplan.data.profile import Profile
from splitplan.data.scenario import Scenario, periodic
from splitplan.data.system import System
from splitplan.executor.deploy import deploy
from splitplan.executor.frames import FrameRecord
from splitplan.executor.stages import stages_of
from splitplan.models.trace import Traced
from splitplan.policies.slot import SlotPolicy
from splitplan.policies.slot_baselines import device_only
from splitplan.simulator.simulate import simulate

from .test_slots_run import TAU, Script, control, given, slow  # noqa: F401  fixtures

pytestmark = pytest.mark.usefixtures("nothing_left")


def frame(k: int, cut: int, alone: str = "", **times: float) -> FrameRecord:
    return FrameRecord(k, 0.0, 1.0, True, None, alone, times, cut, True)


def test_stages_are_medians_of_frames_that_ran_as_decided(given: Profile, slow: System) -> None:
    c = control(given, slow)
    assert c.cuts is not None
    (both,) = [k for k, (d, _, s) in enumerate(c.choices.works.tolist()) if d > 0 and s > 0][:1]
    times = {"device_s": 0.5, "up_s": 0.1, "up_bytes": 9.0, "server_s": 0.02, "down_s": 0.1, "device_wait_s": 0.2}
    frames = [frame(k, 1, **times, device_work_s=x) for k, x in enumerate((0.1, 0.2, 0.4))]
    frames += [frame(9, 1, alone="the server is away", device_work_s=77.0), frame(10, 1, here_s=5.0)]
    device, server, rest = stages_of(c, (0, both), frames)
    assert [s.stage for s in (device, server, rest)] == ["device", "server", "rest"]
    assert device.cut == both and device.name == c.cuts.names[both] and device.frames == 3
    assert (device.profiled_s, device.measured_s) == (c.choices.works[both, 0], 0.2)
    assert (server.profiled_s, server.measured_s) == (c.choices.works[both, 2], 0.02)
    assert rest.measured_s == pytest.approx(1.0 - 0.92) and rest.ratio is None


def test_a_live_run_tells_its_stages_and_draws_its_report(small: Traced, slow: System, given: Profile) -> None:
    scene = Scenario(periodic(8.0), constant(4e6), slots=60)
    with deploy(small, device_only(control(given, slow)), slow) as app:
        report = app.run(scene)
    run = report.slots
    assert run is not None
    stages = {s.stage: s for s in run.stages}
    assert set(stages) == {"device", "rest"}
    # What is answered behind the last slot has run, and is not answered in the run.
    assert 0 < len(run.answered) <= stages["device"].frames <= len(run.latency_s)
    # At whatever clock it ran: seconds at the top clock, which at a slower one are fewer than those that passed.
    passed = np.median([f.times["device_s"] for f in report.frames if f.arrived])
    assert 0 < stages["device"].measured_s <= passed
    assert "all on the device: device " in str(report)
    figure = report.plot()
    assert len(figure.axes) == 5 and figure.axes[0].get_title(loc="left").startswith("device only")


def test_an_interrupted_run_keeps_its_slots(small: Traced, slow: System, given: Profile) -> None:
    """Every second frame is refused, so that who was refused and who was answered must be told apart by when they came."""
    c = control(given, slow, mode="max-throughput")
    policy = Script(c, lambda s: (0, min(1, s.frames), 3, len(c.rate_levels)))
    scene = Scenario(periodic(100.0), constant(4e6), slots=100_000)  # two a slot

    def interrupt() -> None:
        time.sleep(2.0)
        signal.raise_signal(signal.SIGINT)

    with deploy(small, policy, slow, depth=64) as app:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            app.run(scene)
        run = app.report().slots
    assert run is not None and run.live and 20 <= run.slots < 1_000
    assert len(run.trace) == run.slots and run.scene.slots == run.slots
    assert len(run.arrive_s) == len(run.latency_s) == (run.arrive_s < run.slots * TAU).sum() > 20
    refused = np.isnan(run.latency_s)
    assert 0.3 < refused.mean() < 0.7 and len(run.answered) > 5
    assert any(f"interrupted after {run.slots * TAU:g} of 2000 s" in note for note in run.notes)
    assert run.bound is None or run.certificate is not None
    again = simulate(SlotPolicy(c), run.scene, bound=False)
    np.testing.assert_array_equal(again.arrive_s, run.arrive_s)
    assert math.isfinite(run.power_w) and len(run.slots_to_frame()) == run.slots


def test_a_run_that_is_interrupted_before_its_first_slot_has_none(
    small: Traced,
    slow: System,
    given: Profile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with deploy(small, SlotPolicy(control(given, slow)), slow) as app:
        app.run(Scenario(periodic(10.0), constant(4e6), slots=20))
        assert app.report().slots is not None
        monkeypatch.setattr("splitplan.executor.play_slots.hand_over", stop)
        with pytest.raises(KeyboardInterrupt):
            app.run(Scenario(periodic(10.0), constant(4e6), slots=20))
        assert app.report().slots is None  # not those of the run before
