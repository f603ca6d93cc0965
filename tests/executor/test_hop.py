"""Queues between stages are bounded and keep their order; links that several senders share carry one message at a time."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.errors import BoundaryError, ExecutorError
from splitplan.executor.hop import Hop
from splitplan.executor.legs import BUFFERS, contended, crossing, ends_of, legs_of
from splitplan.executor.medium import Medium, StageSender, TurnShaper
from splitplan.executor.session import Clock
from splitplan.executor.shaper import Shaper
from splitplan.executor.split import Compute, run_whole
from splitplan.executor.stage import WHOLE, StageRole, StageWork
from splitplan.executor.wire import Message, decode, encode, pack_all
from splitplan.models.trace import Traced

from .conftest import EXAMPLE
from .pipelines import joined, pipeline

ABC = ("a", "b", "c")


def parts(number: int) -> list[Any]:
    return [number.to_bytes(4, "little")]


def number(of: list[Any]) -> int:
    return int.from_bytes(bytes(of[0]), "little")


def wait_for(what: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.002)
    return what()


class Ends:
    """Where a hop delivers to."""

    def __init__(self, shaper: Shaper | None, window: int, acknowledged: bool = True) -> None:
        self.came: list[int] = []
        self.broken: list[str] = []
        self.stirred = 0
        self.hop = Hop(
            lambda p: self.came.append(number(p)),
            shaper,
            window,
            acknowledged=acknowledged,
            stir=self.stir,
            broke=self.broken.append,
            name="test",
        )

    def stir(self) -> None:
        self.stirred += 1


@pytest.mark.parametrize("shaper", [None, Shaper(1e9)])
def test_no_more_is_sent_than_there_is_room_for(shaper: Shaper | None) -> None:
    ends = Ends(shaper, window=3)
    for k in range(8):
        ends.hop.put(10.0, lambda _, k=k: parts(k))  # type: ignore[misc]
    assert wait_for(lambda: ends.came == [0, 1, 2]) and ends.hop.full and not ends.hop.idle
    time.sleep(0.05)
    assert ends.came == [0, 1, 2]
    ends.hop.room()
    assert wait_for(lambda: ends.came == [0, 1, 2, 3])
    for _ in range(4):
        ends.hop.room()
    assert wait_for(lambda: ends.came == list(range(8)) and ends.hop.idle) and not ends.hop.full
    ends.hop.close()
    assert not ends.broken


@pytest.mark.parametrize("shaper", [None, Shaper(1e9, 0.001)])
def test_what_needs_no_acknowledgement_leaves_its_room_at_once(shaper: Shaper | None) -> None:
    ends = Ends(shaper, window=1, acknowledged=False)
    for k in range(50):
        ends.hop.put(10.0, lambda _, k=k: parts(k))  # type: ignore[misc]
    assert wait_for(lambda: ends.came == list(range(50)))
    ends.hop.close()


def test_many_threads_do_not_change_the_order() -> None:
    ends = Ends(None, window=1)
    done = threading.Event()

    def acknowledge() -> None:
        while not done.is_set():
            with threading.Lock():
                if len(ends.came) > acknowledged[0]:
                    acknowledged[0] += 1
                    ends.hop.room()

    acknowledged = [0]
    thread = threading.Thread(target=acknowledge)
    thread.start()
    for k in range(2000):
        ends.hop.put(1.0, lambda _, k=k: parts(k))  # type: ignore[misc]
    assert wait_for(lambda: len(ends.came) == 2000, 30)
    done.set()
    thread.join()
    assert ends.came == list(range(2000))


def test_what_cannot_be_made_or_delivered_is_told() -> None:
    ends = Ends(None, window=5)

    def fails(_: float) -> list[Any]:
        raise ExecutorError("too large")

    ends.hop.put(1.0, fails)
    assert ends.broken == ["too large"]

    def torn(_: Any) -> None:
        raise OSError("no way")

    hop = Hop(torn, Shaper(1e9), 2, acknowledged=True, stir=lambda: None, broke=ends.broken.append, name="torn")
    hop.put(1.0, lambda _: parts(1))
    assert wait_for(lambda: len(ends.broken) == 2) and ends.broken[1] == "OSError: no way"
    hop.close()


def test_two_senders_take_turns_on_one_medium(tmp_path: Path) -> None:
    """Each as from a process of its own: what they book never overlaps on a slot that both use."""
    path = tmp_path / "medium"
    Medium.create(path, 3)
    booked: dict[int, list[tuple[float, float]]] = {0: [], 1: [], 2: []}
    lock = threading.Lock()

    def sender(seed: int, slots: tuple[int, ...]) -> None:
        draw, medium = random.Random(seed), Medium(path)
        shaper = TurnShaper(1e6, 0.01, 1.0, 0.0, medium=medium, slots=slots)
        for _ in range(200):
            booking = shaper.book(draw.randint(1, 500), time.monotonic())
            assert booking.arrive_s == pytest.approx(booking.free_s + 0.01)
            with lock:
                for k in slots:
                    booked[k].append((booking.start_s, booking.free_s))
        medium.close()

    threads = [threading.Thread(target=sender, args=(k, s)) for k, s in enumerate([(0, 1), (1, 2), (2, 0)])]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for spans in booked.values():
        assert len(spans) == 400
        spans.sort()
        assert all(b >= a - 1e-9 for (_, a), (b, _) in itertools.pairwise(spans))


def test_a_stage_sender_tells_when_a_message_has_the_link(tmp_path: Path) -> None:
    Medium.create(tmp_path / "m", 1)
    one, other = Medium(tmp_path / "m"), Medium(tmp_path / "m")
    starts: list[float] = []
    sender = StageSender(TurnShaper(8e3, 0.0, 1.0, 0.0, medium=one, slots=(0,)), "splitplan test")
    begin = time.monotonic()
    other.book((0,), begin, 0.2)  # somebody else has it
    came = threading.Event()

    def make(start_s: float) -> Callable[[], None]:
        starts.append(start_s)
        return came.set

    sender.send(100.0, make, lambda e: None)
    assert came.wait(5) and time.monotonic() - begin >= 0.29
    assert starts[0] == pytest.approx(begin + 0.2, abs=1e-6)
    sender.close()
    one.close()
    other.close()


# -- a stage, with a worker that is not there -------------------------------------------------------------


class Host:
    """A worker's compute thread, run by hand."""

    def __init__(self) -> None:
        self.compute, self.jobs, self.replies = Compute(), [], []  # type: ignore[var-annotated]

    def submit(self, order: int, job: Callable[[], None]) -> None:
        self.jobs.append(job)

    def reply(self, given: Any) -> None:
        self.replies.append(decode([bytes(p) for p in given]))

    def work(self) -> int:
        """Compute what there is; how many jobs that were."""
        done = 0
        while self.jobs:
            self.jobs.pop(0)()
            done += 1
        return done


class Following:
    """A session with the next stage, which keeps what it is sent."""

    def __init__(self, sent: list[Any]) -> None:
        self.clock, self.send = Clock(), sent.append

    def close(self) -> None:
        """Nothing."""


def body(traced: Traced, plan: PipelinePlan, **changes: Any) -> dict[str, Any]:
    return {
        "plan_id": "p",
        "narrow": [False] * (len(plan.stages) + 1),
        "way": None,
        "slots": [],
        "mates": [],
        "window": 2,
        "room": 2,
        **changes,
    }


def onward(traced: Traced, values: dict[str, torch.Tensor], frame_id: int, check: bool = False) -> Message:
    told = {"plan_id": "p", "frame_id": frame_id, "symbols": traced.symbols(traced.flatten(EXAMPLE)), "check": check}
    message = encode("onward", {**told, "times": {}, "sent_s": None}, pack_all(values))
    return decode([bytes(p) for p in message])


def test_a_stage_computes_no_more_than_can_go_on(small: Traced) -> None:
    plan = pipeline(small, [2], ("a", "b"))
    host, sent, taken = Host(), [], []  # type: ignore[var-annotated]
    role = StageRole(host, StageWork(small, plan, 0, host.compute), body(small, plan, room=100), None)
    role._session = Following(sent)  # type: ignore[assignment]
    for k in range(20):
        role.frame(onward(small, small.flatten(EXAMPLE), k), time.monotonic(), taken.append)
    host.work()
    # Two are at the next stage, which has taken none on; two wait here to be sent; the rest has not been begun.
    assert len(sent) == 2 and len(taken) == 2 + BUFFERS
    role._hop.room()
    host.work()
    assert len(sent) == 3 and len(taken) == 3 + BUFFERS
    for _ in range(30):
        role._hop.room()
        host.work()
    assert [decode([bytes(x) for x in p]).body["frame_id"] for p in sent] == list(range(20)) and len(taken) == 20
    role.close()


def test_a_stage_refuses_more_than_its_room_and_what_it_does_not_take(small: Traced) -> None:
    plan = pipeline(small, [2], ("a", "b"))
    host = Host()
    role = StageRole(host, StageWork(small, plan, 1, host.compute), body(small, plan), None)
    frame = onward(small, small.flatten(EXAMPLE), 1)
    role.frame(frame, 0.0, lambda _: None)
    for _ in range(2):
        role.frame(frame, 0.0, lambda _: None)  # the first of three has left the queue for the compute thread
    with pytest.raises(ExecutorError, match="2 frames wait at 'b' already"):
        role.frame(frame, 0.0, lambda _: None)
    host.work()
    assert [m.body["what"] for m in host.replies] == [BoundaryError.__name__] * 3
    role.close()
    assert host.work() == 0


def test_a_check_compares_with_the_whole_model(small: Traced) -> None:
    plan = pipeline(small, [2], ("a", "b"), wire="fp16", sink="c")
    host = Host()
    values = small.flatten(EXAMPLE)
    first = StageWork(small, plan, 0, host.compute)
    made, _ = first.run(values, small.symbols(values), ("p", 0))
    role = StageRole(host, StageWork(small, plan, 1, host.compute), body(small, plan, narrow=[False, True, True]), None)
    came = {n: made[n].half().float() for n in (*first.crossing, *first.beside)}
    role.frame(onward(small, came | {WHOLE + k: v for k, v in values.items()}, 1, check=True), 0.0, lambda _: None)
    host.work()
    (result,) = host.replies
    compared = result.body["compared"]
    assert compared["crossing_equal"] == 1.0 and 0 < compared["whole_relative"] < 1e-2 and not compared["whole_equal"]
    for name, value in run_whole(small, values).items():
        assert torch.allclose(result.tensors[name], value, atol=1e-2)
    role.close()


def test_legs(small: Traced) -> None:
    system = joined(ABC, rate_bps=8e6, rtt_s=0.04)
    plan = pipeline(small, [1, 3], ABC, source="b")
    legs = legs_of(small.graph, plan, system)
    assert ends_of(plan) == ("b", "a", "b", "c", "c") and [leg.way is None for leg in legs] == [
        False,
        False,
        False,
        True,
    ]
    assert [t.name for t in crossing(small.graph, plan, 0)[0]] == [t.name for t in small.graph.inputs]
    assert not legs[3].crossing and set(legs[3].beside) == {t.name for t in small.graph.outputs}
    assert all(leg.window > BUFFERS for leg in legs[:3]) and legs[3].window == BUFFERS
    added = legs_of(small.graph, pipeline(small, [1, 3], ABC, overlap=False), system)
    assert [leg.window for leg in added] == [1, 1, 1, 1]
    assert contended(legs) == ()
