"""Every refusal of a model, an example or a stage that cannot be trained in parts, with its cure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from splitplan.errors import BoundaryError, DataError, TraceError
from splitplan.models.tiny import TinyCNN, TinyMLP
from splitplan.models.training import TrainingModel, training_model

X = torch.ones(4, 3)


class Does(nn.Module):
    """A linear layer, and whatever is to be refused."""

    def __init__(self, what: Callable[[Does, torch.Tensor], Any]) -> None:
        super().__init__()
        self.line = nn.Linear(3, 3)
        self.register_buffer("state", torch.zeros(3))
        self.count = 0
        self.what = what

    def forward(self, x: torch.Tensor) -> Any:
        return self.what(self, x)


def _renormalised(m: Does, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        m.line.weight.clamp_(-1, 1)
    return m.line(x)


def _written_apart(m: Does, x: torch.Tensor) -> torch.Tensor:
    y = m.line(x)
    with torch.no_grad():
        m.state.add_(y.mean(0))
    return y


def _counts(m: Does, x: torch.Tensor) -> torch.Tensor:
    m.count += 1
    return m.line(x) * m.count


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        return 2 * g


def _attends(m: Does, x: torch.Tensor) -> torch.Tensor:
    y = m.line(x)[:, None, :, None]
    return F.scaled_dot_product_attention(y, y, y, dropout_p=0.5)


REFUSED: dict[str, tuple[Callable[[Does, torch.Tensor], Any], str]] = {
    "noise": (lambda m, x: m.line(x) + torch.randn_like(x), r"randn_like.*draws random numbers.*use dropout, or give the noise as an input"),
    "alpha": (lambda m, x: F.alpha_dropout(m.line(x), 0.5, True), r"alpha_dropout.*draws random numbers"),
    "attention": (_attends, r"scaled_dot_product_attention.*dropout_p to 0.*nn.Dropout behind the attention"),
    "input": (lambda m, x: m.line(x.mul_(2)), r"writes into the input 'x'; clone it first"),
    "parameter": (_renormalised, r"writes or draws in a stretch of its own; take it out of no_grad"),
    "parameter, detached": (lambda m, x: (m.line.weight.detach().mul_(0.5).sum() + m.line(x)), r"writes into the parameter 'line.weight'"),
    "buffer under no_grad": (_written_apart, r"writes or draws in a stretch of its own"),
    "counter": (_counts, r"trained in parts, 'Does' computes something else: (output 0|the gradient)"),
    "own backward": (lambda m, x: _Double.apply(m.line(x)), r"trained in parts, 'Does' computes something else: the gradient of 'line.weight'"),
    "branch by data": (lambda m, x: m.line(x) if x.sum() > 0 else x, r"with 2 samples: the model decides by the data"),
    "number": (lambda m, x: m.line(x) * x.max().item(), r"makes a number out of the data|decides by the data"),
    "detached": (lambda m, x: m.line(x).detach(), r"no output of 'Does' has a gradient.*return the output before that"),
    "no input": (lambda m, x: m.line.weight * 2, r"no output of 'Does' depends on its inputs"),
    "backward": (lambda m, x: (m.line(x) * m.state, m.state.add_(1))[0], r"the model itself fails in the backward pass: one of the variables"),
    "wrong": (lambda m, x: m.line(x[:, :2]), r"the model itself, before any tracing, fails on 2 samples of the example \(float32 of shape \(2, 3\)\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_trained_in_parts(name: str) -> None:
    what, message = REFUSED[name]
    torch.manual_seed(0)
    model = Does(what)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(TraceError, match=f"(?s){message}"):
        training_model(model, X)
    if name != "wrong":
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_is_no_model() -> None:
    line = nn.Linear(3, 3)
    for given, message in (
        (nn.Linear, r"the class Linear was given; training needs a module of it: Linear\(…\)"),
        (len, r"a builtin_function_or_method was given; training needs an nn.Module"),
        (nn.LazyLinear(3), r"parameter 'weight' has no shape yet; call the model once"),
        (line.requires_grad_(False), r"no parameter of 'Linear' requires a gradient; call requires_grad_\(True\)"),
    ):
        with pytest.raises(TraceError, match=message):
            training_model(given, X)  # type: ignore[arg-type]


def test_examples_that_are_none() -> None:
    model = nn.Linear(3, 3)
    for example, message in (
        ("x", r"the example is a str; give a tensor, a tuple of tensors or a dict of them"),
        ((), r"the example holds no tensor"),
        ((X, 3, None), r"(?s)2 problems.*holds a int; give tensors only.*holds a NoneType"),
        (X[:1], r"the example has 1 samples; give two or more"),
        (torch.tensor(3.0), r"shapes \(\); give all of them the samples in dimension 0"),
        ((X, X[:2]), r"shapes \(4, 3\), \(2, 3\); give all of them the samples in dimension 0"),
    ):
        with pytest.raises(DataError, match=message):
            training_model(model, example)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def mlp() -> TrainingModel:
    return training_model(TinyMLP(), torch.randn(2, 32))


def test_stages_that_are_none(mlp: TrainingModel) -> None:
    for call, message in (
        (lambda: mlp.stage(2, 2, 3), r"no layer is between positions 2 and 2"),
        (lambda: mlp.stage(2, 1, 3), r"positions 2 to 1 are no stretch of 3 layers"),
        (lambda: mlp.stage(0, 4, 0), r"(?s)2 problems.*samples is 0; give a whole number from 1.*positions 0 to 4 are no stretch"),
        (lambda: mlp.stage(0, 1, True), r"samples is True"),
        (lambda: mlp.stage(0, 1, 2, ("layers.2",)), r"column-parallel layer 'layers.2' is none of its layers"),
        (lambda: mlp.crossing(4, 2), r"positions 4 to 4 are no stretch"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            call()
    cnn = training_model(TinyCNN(), torch.randn(2, 3, 8, 8), verify=False)
    with pytest.raises(DataError, match=r"layer 'features.4' has no columns to share"):
        cnn.stage(0, 3, 2, ("features.4",))


def test_stages_say_what_they_take(mlp: TrainingModel) -> None:
    stage = mlp.stage(0, 2, 3)
    with pytest.raises(BoundaryError, match=r"the stage takes 1 tensors; 2 were given"):
        stage(torch.ones(3, 32), torch.ones(3, 32))
    with pytest.raises(
        BoundaryError,
        match=r"value 0 of the stage is torch.float32 of shape \(4, 32\); it was made for .* of shape \(3, 32\)",
    ):
        stage(torch.ones(4, 32))
    with pytest.raises(BoundaryError, match=r"torch.float64"):
        stage(torch.ones(3, 32, dtype=torch.float64))
    with pytest.raises(DataError, match=r"(?s)2 problems.*step is -1.*first_sample is 0.5"):
        stage.at(-1, 0.5)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"seed is 'a'; give a whole number"):
        stage.seed = "a"  # type: ignore[assignment]
    assert stage.seed == 0


def test_inputs_and_outputs_that_do_not_fit(mlp: TrainingModel) -> None:
    for x, message in (
        (torch.ones(2, 31), r"float32 of shape \(31,\) a sample; the model was traced with float32 of shape \(32,\)"),
        (torch.ones(2, 32).double(), r"float64 of shape \(32,\)"),
        ((torch.ones(2, 32),) * 2, r"the nesting is"),
        ("text", r"is a str; a tensor is expected"),
        ({"x": torch.ones(2, 32)}, r"argument 'x' is not one of the example's"),
    ):
        with pytest.raises(DataError, match=message):
            mlp.inputs(x)
    with pytest.raises(DataError, match=r"2 outputs were given; the model returns 1 tensors"):
        mlp.unflatten((X, X))
    two = training_model(nn.Bilinear(3, 3, 2), (X, X))
    with pytest.raises(DataError, match=r"the tensors have 2 and 4 samples"):
        two.inputs((X, X[:2]))


def test_numbers_of_samples_that_the_model_does_not_take() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> Any:
            y = self.line(x)
            return torch.relu(y) if x.shape[0] == 5 else y.tanh()

    tm = training_model(Asks(), X)
    assert tm.stage(0, 1, 4)
    with pytest.raises(
        TraceError, match=r"computes something else with 5 samples than with 2: its code asks for the size of the batch"
    ):
        tm.stage(0, 1, 5)

    class Returns(Asks):
        def forward(self, x: torch.Tensor) -> Any:
            return self.line(x), x.shape[0]

    with pytest.raises(TraceError, match=r"or returns it"):
        training_model(Returns(), X).stage(0, 1, 3)

    norm = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    tm = training_model(norm, X)
    with pytest.raises(TraceError, match=r"fails on 1 samples of the example.*Expected more than 1 value per channel"):
        tm.stage(0, 1, 1)


def test_dropout_where_no_sample_can_be_told() -> None:
    class Odd(Does):
        pass

    def channels(m: Does, x: torch.Tensor) -> torch.Tensor:
        return m.line(F.dropout2d(x.t()[None, None] * m.line.weight.sum(), 0.5, True)[0, 0].t())

    with pytest.raises(TraceError, match=r"drops channels of a tensor without samples in front; give it \(N, C, …\)"):
        training_model(Odd(channels), X)

    def squared(m: Does, x: torch.Tensor) -> torch.Tensor:
        y = m.line(x)
        return F.dropout((y @ y.t()).flatten(), 0.5, True)

    with pytest.raises(TraceError, match=r"has no dimension that grows with the samples; drop out before the reshape"):
        training_model(Odd(squared), X)


def test_a_name_that_a_stage_has_taken() -> None:
    class Taken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seed = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.seed(x)
            return out

    with pytest.raises(
        TraceError, match=r"calls something of its own 'seed', which is taken on a stage of training; rename it"
    ):
        training_model(Taken(), X)


def test_what_cannot_be_cut_says_why() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = (nn.Linear(3, 3) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.one(x)
            kept = y.argmax(1)
            out: torch.Tensor = self.three(self.two(y)) + kept[:, None] + x
            return out

    tm = training_model(Reads(), X)
    assert tm.uncuttable == (1, 2)
    assert re.fullmatch(r"'x' crosses, through which no gradient flows", tm.why_uncuttable[1])
