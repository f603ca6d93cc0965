"""Profiling training: the table is whole and adds up to whole steps, errors are told, and no process is left."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

import splitplan as sp
from splitplan.data.training_profile import TrainingProfile
from splitplan.data.training_tables import KINDS
from splitplan.errors import DataError, ExecutorError
from splitplan.executor.training_measure import LEAST_WHOLE, MeasureTask, Runs, _rounds
from splitplan.executor.training_profiler import LEAST, _beside, _halves, _powers, profile_training
from splitplan.executor.training_whole import whole_plans
from splitplan.formulations.training import HybridTraining
from splitplan.models.training import training_model
from splitplan.models.training_layer import TrainingLayer

BATCH = 4
LOSS = nn.functional.cross_entropy


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def batch(samples: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(samples, 6, generator=generator), torch.randint(3, (samples,), generator=generator)


def machine(cores: int = 1, **more: Any) -> sp.System:
    return sp.System(here=sp.Device("here", local=True, threads=cores, **more))


def quick(model: Any = None, loss_fn: Any = LOSS, cores: int = 1, **more: Any) -> TrainingProfile:
    """One crowd: a worker for each core."""
    options = {
        "samples": (BATCH,),
        "threads": (1,),
        "budget_s": 0.01,
        "least": 2,
        "starts": 1,
        "progress": False,
    } | more
    return profile_training(net() if model is None else model, loss_fn, batch(), machine(cores), **options)


needs_two = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


# -- what comes back --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    return net()


@pytest.fixture(scope="module")
def told() -> list[tuple[str, float]]:
    return []


@pytest.fixture(scope="module")
def profile(model: nn.Sequential, told: list[tuple[str, float]]) -> TrainingProfile:
    def progress(what: str, share: float) -> None:
        told.append((what, share))

    return profile_training(
        model, LOSS, batch(), machine(2), samples=(2, BATCH), threads=(1,), budget_s=0.1, name="mlp", progress=progress
    )


@needs_two
def test_the_table_is_whole(profile: TrainingProfile, model: nn.Sequential) -> None:
    names = [x.name for x in profile.layers]
    assert len(names) == 3 and profile.model == "mlp"
    rows = profile.times.set_index(["layer", "samples", "threads", "workers"])
    assert set(rows.index) == {(v, s, 1, w) for v in names for s in (2, BATCH) for w in (1, 2)}
    assert (rows[["forward_s", "backward_s"]] > 0).all(axis=None)
    assert set(map(tuple, profile.updates[["layer", "threads", "workers"]].to_numpy())) == {(v, 1, w) for v in names for w in (1, 2)}  # fmt: skip
    assert set(profile.collectives["what"]) == set(KINDS) and (profile.collectives["time_s"] > 0).all()
    assert profile.state_factor == 1.0, "momentum: as much again as the weights"
    assert sum(x.parameter_bytes for x in profile.layers) == 4 * sum(p.numel() for p in model.parameters())
    assert [x.columns for x in profile.layers] == [8, 8, 3]
    assert profile.origin.threads == 2 and profile.origin.device == "here"
    paid = profile.in_step.set_index("what")
    assert (
        set(paid.index) == {"all_reduce", "columns"}
        and (paid["workers"] == 2).all()
        and (paid["iteration_s"] > 0).all()
    )
    assert len(profile.ratios) >= (3 * 3 + 1) * LEAST_WHOLE and 0.5 < float(profile.ratios["ratio"].median()) < 2


@needs_two
def test_what_was_given_is_as_it_was(profile: TrainingProfile, model: nn.Sequential) -> None:
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), net().state_dict().values(), strict=True))
    assert model.training and all(p.grad is None for p in model.parameters())
    assert profile.fingerprint == training_model(model, batch()[0]).fingerprint


@needs_two
def test_progress_is_told_by_crowd(profile: TrainingProfile, told: list[tuple[str, float]]) -> None:
    assert list(dict.fromkeys(w for w, _ in told)) == [
        f"{crowd}, start {n} of 3" for n in (1, 2, 3) for crowd in ("1 worker of 1 thread", "2 workers of 1 thread")
    ], "all crowds in turn"
    for what in dict.fromkeys(w for w, _ in told):
        shares = [s for w, s in told if w == what]
        assert shares[0] == 0.0 and shares[-1] == 1.0 and shares == sorted(shares)


@needs_two
def test_it_is_kept_and_planned_with(profile: TrainingProfile, tmp_path: Path) -> None:
    profile.save(tmp_path / "p.json")
    again = TrainingProfile.read(tmp_path / "p.json")
    assert again.to_dict() == profile.to_dict()
    p = HybridTraining(again, machine(2), BATCH)
    found = p.solve()
    plain = p.plain()["one core"].predicted
    whole = profile.to_frame().query("samples == @BATCH and workers == 1").iloc[0]
    assert plain["iteration_s"] == pytest.approx(
        whole["forward_s"] + whole["backward_s"] + whole["update_s"] + profile.micro_s + profile.step_s
    )
    took = profile.ratios.query("what == 'alone' and threads == 1")
    assert (
        len(took) >= 3 * LEAST_WHOLE and set(took["start"]) == {1, 2, 3} and 0 <= profile.micro_s < plain["iteration_s"]
    )
    assert found.objective <= plain["iteration_s"]
    # The plans that were run are told as they were.
    for what, plan in whole_plans("mlp", again.fingerprint, again.layers, 1, 2, (2, BATCH)).items():
        paid = again.in_step.set_index("what").loc[what]
        told = p.evaluate(plan)["iteration_s"]
        assert (
            told == pytest.approx(paid["iteration_s"]) if paid["factor"] > LEAST[what] else told >= paid["iteration_s"]
        ), what
    assert {c.stages for c in p.configs()} == {1, 2}


# -- what is measured adds up -----------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Timed(Runs):
    """Runs whose seconds are made up: in parts they seem to take three times as long as whole."""

    def __init__(self, samples: int, layers: list[tuple[int, int]]) -> None:
        self.samples, self.runs, self.count = samples, layers, 0

    class tm:
        layers = (None,) * 4

    def whole(self) -> tuple[float, float, float]:
        self.count += 1
        slow = 1 + (self.count % 5 == 4)  # every fifth step takes twice as long
        return 1.0 * slow * self.samples, 2.0 * slow * self.samples, 0.5 * slow

    def parts(self) -> np.ndarray:
        each = np.array([[1.0, 3.0], [2.0, 4.0], [0.5, 1.5]])
        return each * np.array([[self.samples], [self.samples], [1.0]])


def test_layers_add_up_to_whole_steps(alone: None) -> None:
    """Runs of layers between cuts keep their proportions, and share evenly what no cut can tell apart."""
    runs = [Timed(s, [(0, 1), (1, 4)]) for s in (2, 4)]
    task = MeasureTask(1, 1, (2, 4), 1e-9, 0.0, 10, "cpu", None, ())
    out = io.StringIO()
    found = _rounds(runs, 0, task, 2, out)  # type: ignore[arg-type]
    for s in (2, 4):
        forward, backward = (np.array(x) for x in found["times"][s])
        assert forward.sum() + backward.sum() == pytest.approx(3.0 * s)
        assert np.allclose(forward, 0.3 * s * np.array([1, 1, 1, 1])), "1 and 3 of 10 parts of 3 s a sample"
        assert np.allclose(backward, 0.3 * s * np.array([2, 4 / 3, 4 / 3, 4 / 3]))
    assert np.allclose(found["updates"], 0.25 * 0.5 * np.array([1, 1, 1, 1]))
    assert {s: sorted(set(x)) for s, x in found["steps"].items()} == {2: [6.5, 13.0], 4: [12.5, 25.0]}
    assert found["rounds"] == 10
    lines = [json.loads(x) for x in out.getvalue().splitlines()]
    assert lines == [{"done": k + 1, "of": 12} for k in range(10)]


def test_layers_are_scaled_by_what_their_own_crowd_s_iterations_take() -> None:
    """Only one worker's first start was disturbed: its layers are put right, and the layers of two are not made quicker by it."""

    def group(times: float, **whole: list[list[float]]) -> dict[str, Any]:
        return {"times": {"4": ([times], [2 * times])}, "updates": [0.5 * times], "add_s": 0.0, "whole": whole}

    alone = [[4.2] * 4, [3.85] * 4, [3.85] * 4]
    found = {(1, 1): group(1.2, alone=alone), (1, 2): group(1.0, all_reduce=[[4.0], [5.0], [4.0]]), (2, 1): group(1.0)}
    micro_s, longer = _beside(found, 0.0)
    assert micro_s == 0.0
    assert longer == pytest.approx({(1, 1): 3.85 / 4.2, (1, 2): 1.0, (2, 1): 1.0})
    found[1, 1]["whole"]["alone"] = [[1.1 * 4.2] * 4, [1.1 * 4.2] * 4, [1.1 * 4.2] * 4]
    assert _beside(found, 0.0)[1] == pytest.approx({(1, 1): 1.1, (1, 2): 1.1, (2, 1): 1.0})
    found[1, 2]["whole"]["all_reduce"] = [[5.0], [4.0], [4.0]]
    assert _beside(found, 0.0)[1][1, 2] == pytest.approx(1.1 * 0.8)


def test_noise_is_not_divided_by_next_to_nothing() -> None:
    """Parts that cost nearly what the batch does: 3 % more of T1 must not become half of the iteration."""
    times = {"16": ([0.3], [0.6]), "1": ([0.28], [0.56])}
    whole = {"alone": [[0.95 * 1.03]], "parts": [[16 * 0.86 + 0.1]]}
    found = {(1, 1): {"times": times, "updates": [0.05], "add_s": 0.0, "whole": whole}}
    micro_s, longer = _beside(found, 0.0)
    assert micro_s < 0.05 and longer[1, 1] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("slow", [0.9, 1.0, 1.2])
def test_what_is_beside_the_layers_is_found_whatever_layers_take(slow: float) -> None:
    """Small parts are dearer, gradients are added up, and in iterations layers take so many times as long as in the rounds."""
    times = {"16": ([1.0], [2.0]), "1": ([0.08], [0.16])}
    update, add, micro, step = 0.1, 0.01, 0.05, 0.002

    def iteration(parts: int) -> float:
        forward, backward = times[str(16 // parts)]
        each = slow * (forward[0] + backward[0]) + micro
        return parts * each + (parts - 1) * add + slow * update + step

    whole = {"alone": [[iteration(1)], [2 * iteration(1)]], "parts": [[iteration(16)]]}
    micro_s, longer = _beside({(1, 1): {"times": times, "updates": [update], "add_s": add, "whole": whole}}, step)
    assert micro_s == pytest.approx(micro)
    assert longer[1, 1] == pytest.approx(slow * 1.5), "the other start took twice as long"


def test_parts_are_the_model_s_own_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run by run of layers, each gradient computed from the next run's, is one backward pass."""
    model = net()
    x, y = batch()
    made: list[list[torch.Tensor]] = []

    class Kept(Runs):
        def _clear(self) -> None:
            made.append([p.grad.clone() for p in self._whole.parameters() if p.grad is not None])
            super()._clear()

    run = Kept(training_model(model, x), LOSS, lambda p: torch.optim.SGD(p, lr=0.0), x, y, BATCH, torch.device("cpu"))
    assert all(s > 0 for s in run.whole())
    seconds = run.parts()
    assert seconds.shape == (3, 3) and (seconds > 0).all()
    expected, got = made
    assert len(expected) == 6
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    assert run.state_factor == 0.0
    assert run.by_layer(seconds) == pytest.approx(seconds)


def test_the_plans_that_are_run_whole() -> None:
    layers = (TrainingLayer("a", 8.0), TrainingLayer("b", 8.0, columns=3), TrainingLayer("c", 8.0, columns=2))
    assert [(k, p.batch, p.workers) for k, p in whole_plans("m", "f", layers, 4, 1, (3, 9)).items()] == [
        ("alone", 9, 1),
        ("parts", 9, 1),
    ]
    three = whole_plans("m", "f", layers, 2, 3, (3, 11))
    assert [(k, p.batch, p.threads, p.stages[0].columns) for k, p in three.items()] == [
        ("all_reduce", 9, 2, ()),
        ("columns", 9, 2, ("b",)),
    ]
    assert list(whole_plans("m", "f", layers, 1, 5, (1, 16))) == ["all_reduce"], "nothing has five columns"
    assert whole_plans("m", "f", layers, 1, 4, (4, 15)) == {}, (
        "a worker would have three samples of 12, fewer than were measured"
    )
    assert whole_plans("m", "f", (TrainingLayer("a"),), 1, 2, (1, 4)) == {}, "no weights, no columns"


def test_sizes_that_are_measured_by_default() -> None:
    assert _halves(128) == (8, 16, 32, 64, 128)
    assert _halves(12) == (3, 6, 12) and _halves(4) == (2, 4) and _halves(2) == (2,) and _halves(1) == (1,)
    assert [_powers(n) for n in (1, 2, 3, 4, 6, 8)] == [(1,), (1, 2), (1, 2, 3), (1, 2, 4), (1, 2, 4, 6), (1, 2, 4, 8)]


# -- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (torch.zeros(4, 6), "the batch is a Tensor; give (inputs, targets)"),
        ((torch.zeros(4, 6),), "the batch is a tuple; give (inputs, targets)"),
        ((torch.zeros(4, 6), torch.zeros(3)), "its tensors have [3, 4] samples along dimension 0"),
        (("x", "y"), "its tensors have no samples along dimension 0"),
    ],
)
def test_no_batch(given: Any, text: str) -> None:
    with pytest.raises(DataError) as e:
        profile_training(net(), LOSS, given, machine())
    assert text in str(e.value)


def test_a_model_in_eval_mode() -> None:
    with pytest.raises(
        DataError, match=r"the model is in eval mode, in which it is not trained: call model.train\(\) first"
    ):
        profile_training(net().eval(), LOSS, batch(), machine())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"samples": (2, 5)}, "samples has 5; give whole numbers from 1 to the batch's 4"),
        ({"samples": (0,)}, "samples has 0"),
        ({"samples": (2.0,)}, "samples has 2.0"),
        ({"samples": ()}, "samples is (); give whole numbers from 1 to the batch's 4"),
        ({"samples": 4}, "samples is 4; give whole numbers"),
        ({"threads": (2,)}, "threads has 2; give whole numbers from 1 to the 1 cores of a host"),
        ({"threads": (True,)}, "threads has True"),
        ({"threads": []}, "threads is []"),
        ({"budget_s": 0.0}, "budget_s is 0.0; give a positive number"),
        ({"budget_s": float("nan")}, "budget_s is nan"),
        ({"least": 0}, "least is 0; give a whole number from 1"),
    ],
)
def test_bad_numbers(options: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError) as e:
        profile_training(net(), LOSS, batch(), machine(), **options)
    assert any(text in x for x in e.value.problems), e.value.problems


def test_systems_that_cannot_be_measured() -> None:
    with pytest.raises(DataError, match="the system is a int; give a splitplan.System"):
        profile_training(net(), LOSS, batch(), 2)  # type: ignore[arg-type]
    two = {"here": sp.Device("here", local=True), "there": sp.Device("there")}
    system = sp.System(links={("here", "there"): sp.Link("lan", 1e9, 1e9, rtt_s=1e-3)}, **two)
    with pytest.raises(DataError, match=r"host 'there' is not this machine \(local=False\)"):
        profile_training(net(), LOSS, batch(), system)
    here = len(os.sched_getaffinity(0))
    with pytest.raises(DataError, match=f"threads={here + 1}, this machine has {here} cores for us; give threads={here} or less"):  # fmt: skip
        profile_training(net(), LOSS, batch(), machine(here + 1))


# -- measuring processes that fail ------------------------------------------------------------------------


def test_a_loss_that_fails_is_told_with_its_traceback(nothing_left: Path) -> None:
    def wrong(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        raise ValueError("the classes are in another file")

    with pytest.raises(ExecutorError) as e:
        quick(loss_fn=wrong)
    first, *rest = str(e.value).splitlines()
    assert first == (
        "measuring training with 1 worker of 1 thread, start 1 of 1: loss_fn failed on the first 4 samples: "
        "ValueError: the classes are in another file"
    )
    assert rest[0].startswith("Traceback")
    assert "in wrong" in rest[1]  # and nothing of ours before it


@pytest.mark.parametrize(
    ("optimizer", "text"),
    [
        (lambda p: torch.optim.SGD(p, lr=-1.0), "optimizer failed: ValueError: Invalid learning rate: -1.0"),
        (lambda p: None, "optimizer gave a NoneType; give a function from weights to a torch.optim.Optimizer"),
    ],
)
def test_an_optimizer_that_is_none_or_fails_is_told(optimizer: Any, text: str, nothing_left: Path) -> None:
    with pytest.raises(ExecutorError, match=f"start 1 of 1: {text}"):
        quick(optimizer=optimizer)


def test_a_loss_of_each_sample_is_told(nothing_left: Path) -> None:
    with pytest.raises(ExecutorError, match=r"loss_fn gave \(4,\); give the mean loss over the samples"):
        quick(loss_fn=nn.CrossEntropyLoss(reduction="none"))


def test_what_the_model_refuses_is_told_without_one(nothing_left: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) if float(x.sum()) > 0 else self.a(-x)

    with pytest.raises(ExecutorError, match="measuring training with 1 worker of 1 thread, start 1 of 1: ") as e:
        quick(Odd())
    assert "Traceback" not in str(e.value)


def test_a_loss_that_is_no_number_is_told_at_once(nothing_left: Path) -> None:
    x, y = batch()
    x[-1] = float("nan")
    with pytest.raises(
        ExecutorError, match="the loss of the first 4 samples is nan; look at the inputs, the targets and the weights"
    ):
        profile_training(net(), LOSS, (x, y), machine(), samples=(2, 4), threads=(1,), starts=1, progress=False)


def test_what_a_loss_prints_is_not_mixed_up_with_results(nothing_left: Path) -> None:
    def chatty(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        print("loss of", len(y), flush=True)
        os.write(1, b"and by the system's own call\n")
        return LOSS(out, y)

    assert len(quick(loss_fn=chatty).layers) == 3


def test_a_process_that_ends_without_a_result(nothing_left: Path) -> None:
    def leaves(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        sys.exit(0)

    with pytest.raises(ExecutorError, match="ended with code 0 and no result"):
        quick(loss_fn=leaves)


@needs_two
def test_a_killed_process_ends_the_others(nothing_left: Path) -> None:
    """The second of two workers, while the first one waits for it."""

    def loss_fn(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if dist.is_initialized() and dist.get_world_size() == 2 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return LOSS(out, y)

    with pytest.raises(ExecutorError, match="of 2 workers of 1 thread, start 1 of 1 ended with code -9"):
        quick(loss_fn=loss_fn, cores=2)


@needs_two
def test_a_process_that_is_lost_before_all_have_met_ends_the_others(nothing_left: Path) -> None:
    """The first one would wait for it for half an hour."""

    class Lost(nn.Sequential):
        def __setstate__(self, state: Any) -> None:
            super().__setstate__(state)
            if sys.argv[-1] == "1":
                os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ExecutorError, match="of 2 workers of 1 thread, start 1 of 1 ended with code -9"):
        quick(Lost(*net()), cores=2)


def test_an_interrupt_leaves_nothing(nothing_left: Path) -> None:
    def progress(what: str, share: float) -> None:
        if share > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick(progress=progress, budget_s=30.0)
