"""A slotted policy's mistakes on the executor are told as in the simulator; a device that is not here, with the cure. Nothing is started."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import splitplan as sp
from splitplan.errors import DataError
from splitplan.executor.slots import SlotDriver
from splitplan.executor.split import check_torch_device
from splitplan.policies.base import Moment
from tests.simulator.test_simulate import carried


@dataclass
class Says:
    """What it is told to say."""

    control: sp.SlotControl
    plan: Any
    name: str = "says"

    def choose(self, state: sp.SlotState) -> sp.SlotPlan:
        made: sp.SlotPlan = self.plan(self.control.at(state), state)
        return made


CASES = [
    (lambda c, s: c.plan_for(99, s.frames, 0, 0), "cut is 99; give 0 to"),
    (lambda c, s: replace(c.plan_for(0, s.frames, 0, 0), clock_hz=7.0), r"clock_hz is 7.0; the device has off \(0.0\)"),
    (lambda c, s: replace(c.plan_for(0, s.frames, 0, 0), rate_bps=7.0), r"rate_bps is 7.0; in this slot the uplink"),
    (lambda c, s: replace(c.plan_for(0, s.frames, 0, 0), frames=9), "9 frames are admitted"),
    (lambda c, s: {"cut": 0}, "got a dict; give a splitplan.SlotPlan"),
]


@pytest.mark.parametrize(("plan", "says"), CASES)
def test_when_a_frame_arrives(plan: Any, says: str) -> None:
    driver = SlotDriver(Says(carried(2, 0.3, 10.0)[0], plan))
    with pytest.raises(DataError, match=rf"policy 'says', slot 0: .*{says}"):
        driver.decide(Moment(0.0))


@pytest.mark.parametrize(("plan", "says"), CASES)
def test_when_a_slot_begins(plan: Any, says: str) -> None:
    """The clockwork's own thread stops, and whoever hands the next frame over is told."""
    driver = SlotDriver(Says(carried(2, 0.3, 10.0)[0], plan))
    away = SimpleNamespace(session=None, clock="emulated", followed=None, emulate=True)
    driver.start(away, threading.Lock(), list)  # type: ignore[arg-type]
    try:
        driver._thread.join(20)
        assert not driver._thread.is_alive()
        for _ in range(2):
            with pytest.raises(DataError, match=rf"policy 'says', slot \d+: .*{says}"):
                driver.decide(Moment(0.0))
    finally:
        driver.close()


def test_a_device_that_is_not_here_is_told_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        DataError, match=r"device 'jetson-tx2': .*sp\.device\('this-cpu', slowdown=…\).*clock_hz"
    ) as told:
        check_torch_device("cuda", sp.device("jetson-tx2"))
    assert "docs/slots.md" in str(told.value)
    with pytest.raises(DataError, match="use cpu"):
        check_torch_device("cuda", sp.device("this-cuda"))
    check_torch_device("cpu", sp.device("this-cpu"))
