"""Knobs by themselves: leases, the emulated clock, the paced uplink; against sums of their own."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitplan.data.channel import Channel
from splitplan.executor.governed import Governed
from splitplan.executor.knobs import Duty, Knob
from splitplan.executor.pacer import Pace, PacedSender
from splitplan.executor.shaper import Shaper

STEPS = st.lists(
    st.tuples(st.floats(0.01, 2.0), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0.0, 3.0)),
    min_size=1,
    max_size=12,
)
"""(seconds until the next set, value, lease)."""


def held(steps: list[tuple[float, float, float]], free: float = 1.0) -> list[tuple[float, float, float]]:
    """What the knob is over time, by definition: (from, to, value)."""
    found, at = [], 0.0
    for length, value, lease in steps:
        found.append((at, at + min(length, lease), value))
        found.append((at + min(length, lease), at + length, free))
        at += length
    return found


class Watch:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(STEPS)
def test_a_device_is_served_what_its_speed_adds_up_to(steps: list[tuple[float, float, float]]) -> None:
    watch = Watch()
    duty = Duty(now=watch)
    duty.begin()
    for length, value, lease in steps:
        duty.set(value, lease)
        watch.now += length
    served, busy, free = duty.read()
    assert served == pytest.approx(sum(v * (b - a) for a, b, v in held(steps)), abs=1e-9)
    assert busy == pytest.approx(sum(b - a for a, b, v in held(steps) if v > 0), abs=1e-9)
    assert free == pytest.approx(sum(b - a for a, b, _ in held(steps)[1::2]), abs=1e-9)
    duty.finish(0.0)
    assert duty.read() == (0.0, pytest.approx(busy), pytest.approx(free)) and duty.last_s == pytest.approx(served)


def test_a_knob_is_free_before_it_is_set_and_after_its_lease() -> None:
    knob = Knob(free=1.0)
    assert knob.at(0.0) == 1.0
    knob.set(0.2, 5.0)
    assert (knob.at(4.9), knob.at(5.0)) == (0.2, 1.0)
    assert list(knob.pieces(4.0, 6.0)) == [(4.0, 5.0, 0.2), (5.0, 6.0, 1.0)]
    knob.release()
    assert list(knob.pieces(4.0, 6.0)) == [(4.0, 6.0, 1.0)]


@pytest.mark.parametrize("emulated", [True, False])
def test_a_device_that_is_off_begins_nothing_until_it_is_on(emulated: bool) -> None:
    duty, begun = Duty(emulated), threading.Event()
    duty.set(0.0, 60.0)

    def job() -> None:
        duty.begin()
        begun.set()
        duty.finish(0.0)

    thread = threading.Thread(target=job)
    thread.start()
    assert not begun.wait(0.1)
    duty.set(1.0, 60.0)
    assert begun.wait(10.0)
    thread.join(10.0)


def test_nobody_waits_for_a_controller_that_died() -> None:
    duty = Duty()
    duty.set(0.0, 0.05)  # and nobody ever turns it again
    duty.begin()
    duty.finish(0.01)


def test_an_emulated_job_lasts_as_long_as_the_clock_is_slow() -> None:
    duty = Duty()
    duty.set(0.25, 60.0)
    start = time.monotonic()
    duty.begin()
    duty.finish(0.05)
    assert time.monotonic() - start >= 0.05 / 0.25 - 1e-6  # what it must have taken, not how fast this machine is
    real = Duty(emulated=False)
    real.set(0.25, 60.0)
    real.begin()
    real.finish(1e9)  # the hardware is slow by itself: nothing is waited for


CHANNEL = Channel(np.array([0.0, 1.0, 1.5, 4.0]), np.array([8.0, 0.0, 2.0]))


@settings(max_examples=200)
@given(STEPS, st.lists(st.floats(0.0, 12.0), min_size=1, max_size=6), st.booleans())
def test_messages_are_through_when_the_share_of_the_link_adds_up(
    steps: list[tuple[float, float, float]], sizes: list[float], follows: bool
) -> None:
    """The pace, woken often, against an integral over a fine grid."""
    pace = Pace(Shaper(4.0))
    if follows:
        pace.follow(CHANNEL, 0.0, 0.0)
    at, waiting, sent, under_way = 0.0, list(sizes), 0.0, 0.0
    busy = False
    for length, value, lease in steps:
        pace.set(value, at, lease)
        end = at + length
        while True:
            pace.advance(at)
            if busy and pace.left_bits <= 0:
                sent, busy = sent + under_way, False
            elif not busy and waiting and pace.may_begin(at):
                under_way, busy = waiting.pop(0), True
                pace.begin(under_way, 0.0, at)
            elif (step := min(max(pace.wait_s(at), 1e-9), end - at)) > 0:
                at += step
            else:
                break
        at = end
    grid = np.arange(0.0, at, 1e-3)
    share = np.zeros(len(grid))
    for a, b, v in held(steps):
        share[(grid >= a) & (grid < b)] = v
    rate = np.asarray(CHANNEL.rate(grid)) if follows else np.full(len(grid), 4.0)
    carried = float((share * rate).sum() * 1e-3)
    sent += under_way - pace.left_bits if busy else 0.0
    assert sent <= carried + 0.1 + 0.02 * len(steps)
    if busy or waiting:  # there was always something to send
        assert sent >= carried - 0.1 - 0.02 * len(steps)
    assert pace.sending_s <= at + 1e-9


def test_seconds_of_sending_that_nobody_held_the_knob_for_are_told_apart() -> None:
    pace = Pace(Shaper(8.0))
    pace.begin(80.0, 0.0, 0.0)
    pace.set(0.5, 2.0, 4.0)  # 16 bits are through; 16 more until 6, then 48 at all of the link
    pace.advance(9.0)
    assert (pace.sending_s, pace.free_s) == (9.0, 2.0 + 3.0)
    pace.advance(50.0)
    assert (pace.left_bits, pace.sending_s, pace.free_s) == (0.0, 12.0, 2.0 + 6.0)


def test_a_sender_that_was_silenced_sends_when_it_may_and_in_order() -> None:
    sender, got = PacedSender(Shaper(1e6, delay_s=0.001), "test"), []
    over = threading.Event()

    def deliver(number: int) -> None:
        got.append(number)
        if len(got) == 5:
            over.set()

    try:
        sender.set(0.0, 60.0)
        for k in range(5):
            sender.send(10.0, lambda _, k=k: lambda: deliver(k), lambda e: None, k)
        assert not over.wait(0.1) and got == []
        assert sender.read()[0] == [0, 1, 2, 3, 4]
        sender.set(0.5, 60.0)
        assert over.wait(10.0)
        assert got == [0, 1, 2, 3, 4] and sender.read()[0] == []
    finally:
        sender.close()


def test_a_real_link_takes_a_message_at_once_and_the_next_when_it_is_earned() -> None:
    sender, times = PacedSender(None, "test"), []
    over = threading.Event()

    def make(_: float) -> object:
        def deliver() -> None:
            times.append(time.monotonic())
            if len(times) == 3:
                over.set()

        return deliver

    try:
        sender.set(8e3, 60.0)  # bit/s: a message of 100 bytes earns 0.1 s
        for _ in range(3):
            sender.send(100.0, make, lambda e: None)  # type: ignore[arg-type]
        assert over.wait(30.0)
        assert times[2] - times[0] >= 0.2 - 0.02
    finally:
        sender.close()


def test_one_message_that_fails_does_not_hold_up_the_next() -> None:
    sender, failed, done = PacedSender(Shaper(1e9), "test"), [], threading.Event()

    def bad(_: float) -> object:
        raise ValueError("no")

    try:
        sender.send(1.0, bad, failed.append)  # type: ignore[arg-type]
        sender.send(1.0, lambda _: done.set, failed.append)
        assert done.wait(10.0)
        assert [type(e) for e in failed] == [ValueError]
    finally:
        sender.close()


def test_a_failure_that_cannot_be_told_does_not_hold_up_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    sender, done = PacedSender(Shaper(1e9), "test"), threading.Event()

    def bad(_: object) -> None:
        raise ValueError("no")

    try:
        sender.send(1.0, bad, bad)  # type: ignore[arg-type]
        sender.send(1.0, lambda _: done.set, bad)
        assert done.wait(10.0)
    finally:
        sender.close()
    assert "ValueError: no" in capsys.readouterr().err


class Dial:
    """A governor that says what was done to it."""

    def __init__(self) -> None:
        self.told: list[float | str] = []

    def set(self, clock_hz: float) -> None:
        self.told.append(clock_hz)

    def restore(self) -> None:
        self.told.append("back")


def test_hardware_has_its_own_clock_again_when_the_lease_is_over() -> None:
    dial, uplink = Dial(), PacedSender(None, "test")
    try:
        governed = Governed("governor", uplink, dial, None)  # type: ignore[arg-type]
        body = {"speed": 0.5, "clock_hz": 1e8, "share": 1.0, "rate_bps": 1e6, "lease_s": 60.0}
        governed.tend()
        governed.set(body)
        governed.set({**body, "speed": 0.0, "clock_hz": 0.0})  # off: the clock stays as it is
        governed.tend()
        assert dial.told == [1e8]
        governed.set({**body, "lease_s": 0.05})
        time.sleep(0.1)  # nobody turns it any more
        governed.tend()
        governed.tend()
        assert dial.told == [1e8, "back"]
        governed.set(body)
        governed.set({**body, "lease_s": 0.0})  # the last slot is over
        assert dial.told == [1e8, "back", 1e8, "back"]
    finally:
        uplink.close()
