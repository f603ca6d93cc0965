"""Places that share rows: a frame that fails half way, messages that a place does not take, and two apps on the same workers."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.errors import ExecutorError, WireError
from splitplan.executor.deploy import deploy
from splitplan.executor.environment import worker_environment
from splitplan.executor.medium import StageSender
from splitplan.executor.roles import error_parts
from splitplan.executor.row_work import Mate, ShareRole, perfect_rows
from splitplan.executor.service import Service
from splitplan.executor.session import Clock
from splitplan.executor.split import Compute
from splitplan.executor.stage import StageWork
from splitplan.executor.wire import Message, decode, encode
from splitplan.models.trace import Traced, trace
from splitplan.models.zoo import zoo, zoo_example

from .pipelines import expected, joined
from .test_pipeline_rows import close, inputs, shared


@pytest.fixture(scope="module")
def cnn() -> Traced:
    torch.set_num_threads(1)
    return trace(zoo("tiny-cnn"), zoo_example("tiny-cnn", batch=2), granularity="operator", name="cnn")


class Host:
    """A worker that takes its time for the rows of others."""

    def __init__(self, after_s: float = 0.05) -> None:
        self.compute, self.replies, self._after_s = Compute(), [], after_s  # type: ignore[var-annotated]

    def share(self, job: Callable[[], None]) -> None:
        threading.Timer(self._after_s, job).start()

    def submit(self, order: int, job: Callable[[], None]) -> None:
        self.share(job)

    def reply(self, given: Any) -> None:
        self.replies.append(heard(given))


def heard(parts: Any) -> Message:
    return decode([bytes(p) for p in parts])


class Near:
    """A session with a mate in this process."""

    def __init__(self, mate: Mate, role: ShareRole) -> None:
        self.clock = Clock()
        self.clock.shared = True
        self._mate, self._role = mate, role

    def send(self, parts: Any) -> None:
        try:
            self._role.frame(heard(parts), time.monotonic(), lambda p: self._mate._heard(heard(p)))
        except ExecutorError as e:
            self._mate._heard(heard(error_parts(e, "p", heard(parts).body["frame_id"])))

    def close(self) -> None:
        """Nothing."""


def share_role(traced: Traced, plan: PipelinePlan, member: int, host: Host) -> ShareRole:
    return ShareRole(host, traced, plan, {"stage": 0, "member": member, "plan_id": "p", "way": None, "slots": []}, None)


def test_a_frame_that_fails_half_way_leaves_the_next_one_alone(cnn: Traced) -> None:
    plan = shared(cnn, ("a", "b", "c"), [], "d", wire="fp16")
    work = StageWork(cnn, plan, 0, Compute())
    for k, place in enumerate("bc", 1):
        mate = Mate(place, "a", "fp16", 0.0, StageSender(None, "test"), lambda why: None)
        mate._session = Near(mate, share_role(cnn, plan, k, Host()))  # type: ignore[assignment]
        work.mates.append(mate)
    (good,) = cnn.flatten(inputs(1)[0]).values()
    bad = good.clone()
    bad[..., -1, :] = 1e6  # does not fit c's message, and b has been asked by then
    (name,) = cnn.flatten(good)
    for number, x in enumerate((bad, good, bad, bad, good)):
        symbols = cnn.symbols({name: x})
        if x is bad:
            with pytest.raises(WireError, match="do not fit"):
                work.run({name: x}, symbols, ("p", number))
        else:
            made, _ = work.run({name: x}, symbols, ("p", number))
            alike = perfect_rows(work._blocks, {name: x}, symbols, "fp16", Compute())
            assert all(torch.equal(made[n], alike[n]) for n in work.crossing)


def test_a_place_refuses_what_is_for_another_role(cnn: Traced) -> None:
    host = Host(0.0)
    role = share_role(cnn, shared(cnn, ("a", "b"), [], "c"), 1, host)
    service = SimpleNamespace(stages={"p": role})
    told = {"plan_id": "p", "frame_id": 3, "symbols": {}, "check": False, "times": {}, "sent_s": None}
    wrong = heard(encode("onward", told))
    Service._onward(service, host, wrong, 0.0)  # type: ignore[arg-type]
    (answer,) = host.replies
    assert answer.kind == "error" and answer.body["frame_id"] == 3 and "takes a share" in answer.body["message"]
    role.close()


@pytest.fixture
def alone(cnn: Traced, tmp_path: Path) -> Iterator[list[str]]:
    """The addresses of three workers that run on their own."""
    cnn.save(tmp_path / "cnn.pt2")
    command = [sys.executable, "-m", "splitplan", "worker", "--model", str(tmp_path / "cnn.pt2")]
    with ExitStack() as stack:
        made = []
        for _ in range(3):
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, env=worker_environment(1)
            )
            stack.enter_context(process)
            stack.callback(process.terminate)
            made.append(process)
        lines = [p.stdout.readline().decode() for p in made if p.stdout is not None]
        yield [line.split('"address": "')[1].split('"')[0] for line in lines]


@pytest.mark.usefixtures("nothing_left")
def test_two_apps_whose_stages_cross_on_the_same_workers(cnn: Traced, alone: list[str]) -> None:
    """Each worker is the first place of one stage and the mate of the other's: they wait for each other all the time."""
    hosts = dict(zip("abc", alone, strict=True))
    given = inputs(40)
    wanted = [expected(cnn, x) for x in given]
    right: list[bool] = []
    with warnings.catch_warnings(), ExitStack() as stack:
        apps = [
            stack.enter_context(
                deploy(cnn, shared(cnn, places, [], "c"), joined("abc"), hosts=hosts, frame_timeout_s=5.0)
            )
            for places in (("a", "b"), ("b", "a"))
        ]

        def use(app: Any) -> None:
            results = list(app.stream(given))
            right.append(all(close(got, want) for got, want in zip(results, wanted, strict=True)))

        threads = [threading.Thread(target=use, args=(app,)) for app in apps]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        reports = [app.report() for app in apps]
    assert right == [True, True] and [r.counts["replans"] for r in reports] == [0, 0]
