"""The emulated link's arithmetic, and the thread that keeps its order."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from splitplan.data.channel import Channel
from splitplan.executor.shaper import ShapedSender, Shaper


def test_a_message_holds_the_link_for_its_bits_and_arrives_after_the_delay() -> None:
    link = Shaper(rate_bps=8e6, delay_s=0.25, overhead=1.5, header_bytes=1e5)
    booking = link.book(1e6, now_s=10.0)
    assert booking.start_s == 10.0
    assert booking.free_s == 10.0 + 8 * (1.5e6 + 1e5) / 8e6
    assert booking.arrive_s == booking.free_s + 0.25


def test_messages_follow_each_other_and_the_delay_occupies_nothing() -> None:
    link = Shaper(rate_bps=8.0, delay_s=100.0)
    first, second = link.book(2, 0.0), link.book(3, 1.0)
    assert (first.start_s, first.free_s, first.arrive_s) == (0.0, 2.0, 102.0)
    assert (second.start_s, second.free_s, second.arrive_s) == (2.0, 5.0, 105.0)


def test_an_idle_link_saves_nothing_up() -> None:
    link = Shaper(rate_bps=8.0)
    link.book(1, 0.0)
    assert link.book(1, 50.0).start_s == 50.0
    assert link.book(1, 50.0).start_s == 51.0


def test_an_empty_message_takes_the_delay_only() -> None:
    assert Shaper(rate_bps=1.0, delay_s=2.0).book(0, 5.0).arrive_s == 7.0


def deliver_many(shaper: Shaper | None) -> list[int]:
    got: list[int] = []
    done = threading.Event()

    def make(i: int) -> Callable[[float], Callable[[], None]]:
        def deliver() -> None:
            got.append(i)
            if i == 19:
                done.set()

        return lambda start_s: deliver

    def failed(error: Exception) -> None:
        raise error

    sender = ShapedSender(shaper, "test")
    for i in range(20):
        sender.send(10, make(i), failed)
    assert done.wait(30)
    sender.close()
    return got


def test_the_sender_keeps_the_order() -> None:
    assert deliver_many(None) == list(range(20))
    assert deliver_many(Shaper(rate_bps=1e6, delay_s=0.001)) == list(range(20))


def test_a_closed_sender_drops_what_was_not_delivered_and_does_not_wait_for_it() -> None:
    got: list[float] = []
    sender = ShapedSender(Shaper(rate_bps=1.0), "test")
    sender.send(1e9, lambda start_s: lambda: got.append(start_s), lambda e: None)
    sender.close()
    assert got == []


@pytest.mark.parametrize("shaper", [None, Shaper(rate_bps=1e6)])
def test_a_delivery_that_fails_is_told_and_those_behind_it_go_on(shaper: Shaper | None) -> None:
    told: list[str] = []
    done = threading.Event()

    def explode() -> None:
        raise RuntimeError("cable")

    sender = ShapedSender(shaper, "test")
    sender.send(10, lambda start_s: explode, lambda e: told.append(str(e)))
    sender.send(10, lambda start_s: done.set, lambda e: None)
    assert done.wait(10)
    sender.close()
    assert told == ["cable"]


def test_a_link_that_follows_a_channel_carries_what_the_channel_does() -> None:
    shaper = Shaper(1e6, delay_s=0.5)
    assert shaper.book(125_000, 0.0).free_s == 1.0
    shaper.follow(Channel(np.array([0, 1.0, 2.0, 3.0]), np.array([1e6, 0.0, 2e6])), 10.0)
    assert shaper.book(125_000 / 2, 9.0).free_s == pytest.approx(9.5)  # before it begins: the rate that was
    first = shaper.book(125_000 * 1.5, 10.0)  # 1 s of 1 Mbit/s, a dead second, a quarter at 2 Mbit/s
    assert (first.start_s, first.free_s, first.arrive_s) == pytest.approx((10.0, 12.25, 12.75))
    assert shaper.book(125_000, 10.5).free_s == pytest.approx(12.75)
    assert shaper.book(125_000, 12.75).free_s == pytest.approx(13.5)  # it begins again
