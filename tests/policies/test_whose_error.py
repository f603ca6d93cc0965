"""An error names what the user called, not what that calls in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import splitplan as sp
from splitplan.errors import DataError
from splitplan.policies import slot_baselines
from tests.simulator.test_simulate import carried

CONTROL, SCENE = carried(2, 0.3, 5.0)
GIVEN: Any = (CONTROL.profile, CONTROL.system)
OTHER: Any = 3

CASES: list[tuple[Callable[[], object], str]] = [
    (lambda: sp.SlotControl(*GIVEN, wire=OTHER), "SlotControl for 'random': wire is 3"),
    (lambda: sp.SlotControl(*GIVEN, pin_device=("no",)), "SlotControl for 'random': pin_device: the graph has no layer"),
    (lambda: sp.SlotControl(*GIVEN, input_bytes=-1, V=-1), "SlotControl for 'random': 2 problems"),
    (lambda: sp.SlotControl(*GIVEN, cuts=OTHER), "SlotControl for 'random': cuts is a int; give what splitplan.cut_set"),
    (lambda: slot_baselines.device_only(GIVEN[0]), "slot_baselines: control is a Profile"),
    (lambda: slot_baselines.greedy_latency(GIVEN[0]), "slot_baselines: control is a Profile"),
    (lambda: sp.simulate_many(sp.SlotPolicy(CONTROL), SCENE), "simulate_many: scenes is a Scenario; give a list"),  # type: ignore[arg-type]
    (lambda: sp.simulate_many(sp.SlotPolicy(CONTROL), [OTHER]), "simulate_many: scenes has a int; give a splitplan.Scenario each"),
    (lambda: SCENE.channel.scaled(-1), "Channel.scaled: factor is -1"),
    (lambda: SCENE.channel.between(3, 1), "Channel.between: 3 to 1 s"),
    (lambda: sp.SlotState(frames=-1), "SlotState: frames is -1"),
    (lambda: sp.SlotPlan(0, OTHER, 0.5, -1), "SlotPlan: rate_bps is -1"),
    (lambda: sp.Thermal(1, 1, 50, 20), "Thermal: limit_c = 20"),
    (lambda: CONTROL.plan_for(99, 0, 0, 0), "SlotControl.plan_for: cut is 99"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "begins"), CASES, ids=[text for _, text in CASES])
def test_whose_error(call: Callable[[], object], begins: str) -> None:
    with pytest.raises(DataError) as told:
        call()
    assert str(told.value).startswith(begins)
