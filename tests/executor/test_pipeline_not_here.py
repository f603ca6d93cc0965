"""Places whose torch device this machine has not: refused with the cure before anything starts, and never re-planned on."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import pytest
import torch

from splitplan.data.catalog import device
from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.system import System
from splitplan.errors import DataError
from splitplan.executor.deploy import deploy
from splitplan.executor.pipeline_app import PipelineApp
from splitplan.executor.pipeline_settings import PipelineSettings
from splitplan.models.trace import Traced
from splitplan.policies.replan import all_at_one

from .conftest import frames, same
from .pipelines import expected, joined, pipeline

pytestmark = pytest.mark.usefixtures("nothing_left")

BOARDS = {"board": "jetson-tx2", "card": "this-cuda"}


@pytest.fixture(autouse=True)
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def system_of(places: Sequence[str]) -> System:
    """Those of `BOARDS` on CUDA, the others here."""
    system = joined(places, rate_bps=20e6, rtt_s=0.004)
    devices = system.places | {p: device(name) for p, name in BOARDS.items() if p in places}
    return System(links=system.links, **devices)


def test_a_place_that_this_machine_cannot_be_is_refused_with_the_cure(small: Traced) -> None:
    plan = pipeline(small, [1, 3], ("a", "board", "card"))
    with pytest.raises(DataError) as told:
        deploy(small, plan, system_of(("a", "board", "card")))
    board, card = told.value.problems
    for text, place, name in ((board, "board", "jetson-tx2"), (card, "card", "this-cuda")):
        assert text.startswith(f"place '{place}' is '{name}', which computes on torch device 'cuda'")
        for cure in (
            f"start a worker there and name it: hosts={{'{place}': \"tcp://host:5555\"}}",
            f"--hosts {place}=tcp://host:5555",
            "sp.device('this-cpu', slowdown=…)",
            'from = "this-cpu"',
        ):
            assert cure in text
    assert "CUDA build" in card and "CUDA build" not in board, "a board elsewhere is not had by another torch here"


def test_what_is_named_in_hosts_or_not_in_the_plan_is_not_refused(
    small: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(plan: PipelinePlan, **hosts: str) -> None:
        places, settings = ("a", "b", "board"), PipelineSettings(hosts=hosts)
        app = PipelineApp(
            small, plan, system_of(places), profile=None, settings=settings, replan=lambda s: all_at_one(plan, s)
        )
        app.close(wait=False)

    uses = pipeline(small, [1], ("a", "board"))
    made(uses, board="ipc:///nowhere")
    made(pipeline(small, [1], ("a", "b")))
    with pytest.raises(DataError, match="place 'board'"):
        made(uses, a="ipc:///nowhere")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    made(uses)


def test_it_is_left_out_when_another_place_is_lost(small: Traced) -> None:
    """It would be the first that `all_at_one` takes."""
    asked: list[tuple[str, ...]] = []

    def replan(left: System) -> PipelinePlan:
        asked.append(tuple(left.places))
        raise RuntimeError("no idea")

    inputs = frames(6)
    with deploy(small, pipeline(small, [2], ("a", "b")), system_of(("board", "a", "b")), replan=replan) as app:
        os.kill(app.pids["b"], signal.SIGKILL)
        assert all(same(got, expected(small, x)) for got, x in zip(app.stream(inputs), inputs, strict=True))
        assert app.plan.places == ("a",) and asked == [("a",)]
        report = str(app.report())
    assert "board was left out of re-planning: its torch device is not here" in report
    assert "computed by the whole model in this process" not in report


def test_a_source_on_it_stays_the_source(small: Traced) -> None:
    """The app stands for it; nothing is computed there, whoever is lost."""
    places = ("board", "a", "b")  # the board first: `all_at_one` would take it
    plan = pipeline(small, [2], ("a", "b"), source="board", sink="board")
    system = system_of(places)
    with deploy(small, plan, system) as app:
        asked: list[System] = []

        def policy(left: System) -> PipelinePlan:
            asked.append(left)
            return all_at_one(plan, left)

        app._crew._replan = policy
        x, *_ = frames(1)
        assert same(app(x), expected(small, x))
        app._crew._broken = (app._crew.plan_id, "a way broke")  # nobody is gone: the plan stands as it is
        app._stir.set()
        assert same(app(x), expected(small, x))
        assert app.plan == plan
        assert not asked
        os.kill(app.pids["b"], signal.SIGKILL)
        while not asked:
            assert same(app(x), expected(small, x))
        assert same(app(x), expected(small, x))
        assert app.plan.places == ("a",)
        assert app.plan.source == app.plan.sink == "board"
    assert tuple(asked[0].places) == ("board", "a")
