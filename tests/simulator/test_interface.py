"""One interface: whatever has control, name and choose runs on the same queues as the compiled rule; what it may not do is said."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

import splitplan as sp
from splitplan.errors import DataError
from splitplan.formulations.slot import SlotControl
from splitplan.policies.result import ROW
from splitplan.policies.slot import Ahead, DecidesSlots, follows_the_rule
from tests.simulator.test_simulate import carried


@dataclass(frozen=True, eq=False)
class Wrapped:
    """The rule, asked slot by slot."""

    inside: sp.SlotPolicy
    name: str = "wrapped"

    @property
    def control(self) -> SlotControl:
        return self.inside.control

    def choose(self, state: sp.SlotState) -> sp.SlotPlan:
        return self.inside.choose(state)


class Loud(sp.SlotPolicy):
    """A SlotPolicy that decides otherwise than the compiled loop."""

    def choose(self, state: sp.SlotState) -> sp.SlotPlan:
        return replace(super().choose(state), rate_bps=0.0)


@pytest.mark.parametrize("physical", [True, False])
@pytest.mark.parametrize(
    ("seed", "options"),
    [
        (2, {"V": 1e-3}),
        (4, {"V": 1e-2, "cut_change_j": 0.3, "clock_change_j": 0.2}),
        (7, {"V": 1e-4, "power_budget_w": 6.0, "throughput_min_hz": 1.0, "latency_limit_s": 0.5}),
        (9, {"V": 1e-3, "thermal": sp.Thermal(5.0, 2.0, 25.0, 60.0), "mode": "min-latency"}),
    ],
)
def test_a_wrapped_rule_has_the_compiled_runs_numbers(seed: int, options: dict[str, object], physical: bool) -> None:
    control, scene = carried(seed, 0.5, 60.0)
    policy = sp.SlotPolicy(replace(control, cuts=None, **options))  # type: ignore[arg-type]
    assert (
        follows_the_rule(policy) and not follows_the_rule(Wrapped(policy)) and isinstance(Wrapped(policy), DecidesSlots)
    )
    told: list[tuple[int, int]] = []
    mine = sp.simulate(policy, scene, physical=physical, bound=False)
    there = sp.simulate(Wrapped(policy), scene, physical=physical, bound=False, progress=lambda *at: told.append(at))
    assert there.sums == mine.sums and there.left == mine.left
    assert np.array_equal(there.latency_s, mine.latency_s, equal_nan=True)
    same = [i for i, name in enumerate(ROW) if name != "cut"]
    assert np.array_equal(there.trace[:, same], mine.trace[:, same])
    some = mine.trace[:, -1] > 0  # where nothing is admitted, a cut means nothing
    assert np.array_equal(there.trace[some, 4], mine.trace[some, 4])
    assert told[-1] == (mine.slots, mine.slots) and len(told) > 1
    assert "wrapped" in str(there) and "simulated" in str(there)


def test_an_overridden_rule_is_asked() -> None:
    control, scene = carried(2, 0.3, 20.0)
    assert not follows_the_rule(Loud(control))
    assert sp.simulate(Loud(control), scene, bound=False).sums["sending_s"] == 0.0


class Seer:
    """Notes what it is told."""

    name, sees = "seer", 3

    def __init__(self, control: SlotControl) -> None:
        self.control, self.rule = control, sp.SlotPolicy(control)
        self.told: list[Ahead] = []
        self.states: list[sp.SlotState] = []

    @property
    def notes(self) -> list[str]:
        return [f"{len(self.told)} slots were seen"]

    def choose(self, state: sp.SlotState, ahead: Ahead | None = None) -> sp.SlotPlan:
        assert ahead is not None
        self.told.append(ahead)
        self.states.append(state)
        return self.rule.choose(state)


def test_who_sees_ahead_is_told() -> None:
    control, scene = carried(5, 0.4, 20.0)
    slots, seer = scene.slotted(control.slot_s), Seer(control)
    result = sp.simulate(seer, scene, physical=False)
    assert len(seer.told) == len(slots.frames)
    for t, (ahead, state) in enumerate(zip(seer.told, seer.states, strict=True)):
        assert np.array_equal(ahead.frames, slots.frames[t : t + 4])
        assert np.array_equal(ahead.rate_bps, slots.rate_bps[t : t + 4])
        assert (state.frames, state.rate_bps) == (slots.frames[t], slots.rate_bps[t])
        assert (state.device_s, state.uplink_bits, state.server_s) == tuple(result.trace[t, :3])
    assert result.notes == (f"{len(seer.told)} slots were seen",) and "slots were seen" in str(result)


class Says:
    """Always the same plan."""

    name = "says"

    def __init__(self, control: SlotControl, **plan: object) -> None:
        self.control, self.plan = control, plan

    def choose(self, state: sp.SlotState) -> sp.SlotPlan:
        plain: dict[str, object] = {"cut": 0, "frames": 0, "clock_hz": 0.0, "rate_bps": 0.0}
        return sp.SlotPlan(**(plain | self.plan))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"cut": 999}, r"policy 'says', slot 0: .*cut is 999; give 0 to \d+: 0 \w+"),
        ({"clock_hz": 7.0}, r"slot 0: .*clock_hz is 7.0; the device has off \(0.0\), .*on \(1.0\)|MHz \("),
        (
            {"rate_bps": 1.0},
            r"slot 0: .*rate_bps is 1.0; in this slot .* may be sent at 0.0 \(silent\), .*\(12.5 % of the uplink\)",
        ),
        ({"frames": 99}, r"slot 0: .*99 frames are admitted, \d arrive; give 0 to \d"),
        ({"cut": 999, "clock_hz": 7.0, "frames": 99}, r"slot 0: 3 problems"),
    ],
)
def test_what_is_not_a_choice_is_said(plan: dict[str, object], says: str) -> None:
    control, scene = carried(2, 0.3, 10.0)
    with pytest.raises(DataError, match=says):
        sp.simulate(Says(control, **plan), scene, bound=False)


@dataclass
class Counts:
    """Writes numbers down, as the docs show it."""

    control: SlotControl
    numbers: dict[str, object]
    name: str = "counts"

    def choose(self, state: sp.SlotState) -> sp.SlotPlan:
        plain: dict[str, object] = {"cut": 0, "frames": state.frames, "clock": 1, "level": 8}
        return self.control.at(state).plan_for(**(plain | self.numbers))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"cut": 99}, r"cut is 99; give 0 to \d+: 0 \w+"),
        ({"cut": -1}, "cut is -1; give 0 to"),
        ({"clock": 99}, r"clock is 99; give 0 to \d+: 0 off, 1 "),
        ({"level": 9}, r"level is 9; give 0 to 8: 0 silent, 1 12.5 % of the uplink"),
        ({"level": 0.5}, "level is 0.5; give 0 to 8"),
        (
            {"frames": 99},
            r"frames is 99; (?P<n>\d) arrive in this slot, and this control admits all of them: give (?P=n); only one with throughput_min_hz or mode='max-throughput'",
        ),
        ({"cut": 99, "clock": 99, "level": 99, "frames": 99}, "4 problems"),
    ],
)
def test_numbers_that_are_none_are_said(numbers: dict[str, object], says: str) -> None:
    control, scene = carried(2, 0.3, 10.0)
    with pytest.raises(DataError, match=rf"^policy 'counts', slot 0: (.|\n)*{says}"):
        sp.simulate(Counts(control, numbers), scene, bound=False)


def test_who_may_refuse_admits_some() -> None:
    control, scene = carried(2, 0.3, 20.0)
    free = replace(control, mode="max-throughput", cuts=None)
    result = sp.simulate(Counts(free, {"frames": 0}), scene, bound=False)
    assert result.sums["refused"] == len(result.arrive_s) > 0
    with pytest.raises(DataError, match=r"frames is 99; (\d) arrive in this slot, give 0 to \1"):
        sp.simulate(Counts(free, {"frames": 99}), scene, bound=False)


def test_a_policy_keeps_to_its_own_cuts() -> None:
    control, scene = carried(2, 0.3, 10.0)
    policy = Counts(control, {})
    policy.cuts = [1]  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="cut is 0; the policy's own cuts are 1"):
        sp.simulate(policy, scene, bound=False)


def test_a_limit_holds_for_every_policy() -> None:
    control, scene = carried(2, 0.3, 10.0)
    top = float(control.choices.power_w.max())
    capped = replace(control, power_cap_w=(top + control.system.device.idle_w) / 2)
    clock = float(control.choices.clock_hz[int(np.argmax(control.choices.power_w))])
    with pytest.raises(DataError, match=r"slot 0: power_cap_w"):
        sp.simulate(Says(capped, clock_hz=clock), scene, bound=False)


def test_a_policy_is_an_object_with_the_interface() -> None:
    control, scene = carried(2, 0.3, 10.0)
    with pytest.raises(DataError, match="policy is a str; give a splitplan.SlotPolicy, or an object with"):
        sp.simulate("joint", scene)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="policy is a type"):
        sp.simulate(Wrapped, scene)  # type: ignore[arg-type]

    class Wrong(Says):
        def choose(self, state: sp.SlotState) -> sp.SlotPlan:
            return "off"  # type: ignore[return-value]

    with pytest.raises(DataError, match=r"slot 0: .*got a str; give a splitplan.SlotPlan"):
        sp.simulate(Wrong(control), scene, bound=False)


def test_a_sweep_takes_it_and_keeps_its_runs_apart(tmp_path: object) -> None:
    control, scene = carried(3, 0.4, 20.0)
    joint = sp.sweep(control, scene, [1e-3], folder=tmp_path)  # type: ignore[arg-type]
    other = sp.sweep(control, scene, [1e-3], folder=tmp_path, policy=lambda c: Wrapped(sp.SlotPolicy(c)))  # type: ignore[arg-type]
    assert other.name == "wrapped"
    assert other.to_frame().equals(joint.to_frame())
    from pathlib import Path

    assert len(list(Path(str(tmp_path)).glob("*.json"))) == 2
