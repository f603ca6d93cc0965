"""The zoo: it builds without a network, alike everywhere, with outputs that mean something."""

from __future__ import annotations

import importlib.util
import random
from typing import Any

import pytest
import torch
from torch import nn

import splitplan as sp
from splitplan.errors import DataError, MissingPackageError, UnknownNameError
from splitplan.models import zoo as module

CHEAP = (*sp.zoo_names(tiny=True), "resnet18", "mobilenet_v2")


@pytest.mark.parametrize("name", CHEAP)
def test_outputs_say_something(name: str) -> None:
    model = sp.zoo(name)
    assert not any(m.training for m in model.modules())
    with torch.no_grad():
        one, other = (model(sp.zoo_example(name, batch=2, seed=s)) for s in (0, 1))
    assert one.shape[0] == 2
    assert torch.isfinite(one).all()
    assert one.std() > 0.05
    # By the largest difference: a head of two classes has too few numbers for a spread.
    assert (one - other).abs().max() > 0.02
    assert (one[0] - one[1]).abs().max() > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in sp.zoo_names(tiny=False) if n not in CHEAP])
def test_outputs_of_the_large_ones_say_something(name: str) -> None:
    test_outputs_say_something(name)


@pytest.mark.parametrize("name", ["tiny-cnn", "tiny-transformer", "gpt2-tiny", "llama-tiny", "mobilenet_v2"])
def test_a_seed_is_a_model(name: str) -> None:
    first, again, other = (sp.zoo(name, seed=s).state_dict() for s in (0, 0, 1))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_threads_do_not_change_the_weights() -> None:
    one = sp.zoo("mobilenet_v2").state_dict()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two = sp.zoo("mobilenet_v2").state_dict()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_nobodys_random_stream_moves() -> None:
    torch.manual_seed(5)
    random.seed(5)
    expected = torch.rand(3), random.random()
    torch.manual_seed(5)
    random.seed(5)
    sp.zoo("tiny-cnn")
    sp.zoo("gpt2-tiny")
    sp.zoo_example("tiny-cnn")
    assert torch.equal(torch.rand(3), expected[0])
    assert random.random() == expected[1]


def test_tied_weights_stay_tied() -> None:
    model = sp.zoo("gpt2-tiny").get_submodule("model")
    assert model.get_parameter("lm_head.weight") is model.get_parameter("transformer.wte.weight")


def test_examples() -> None:
    assert sp.zoo_example("resnet50", batch=2).shape == (2, 3, 224, 224)
    assert sp.zoo_example("resnet50", size=64).shape == (1, 3, 64, 64)
    tokens = sp.zoo_example("gpt2-tiny", size=9)
    assert (tokens.shape, tokens.dtype) == ((1, 9), torch.int64)
    assert int(tokens.max()) < 512
    assert torch.equal(sp.zoo_example("tiny-mlp", seed=3), sp.zoo_example("tiny-mlp", seed=3))
    assert not torch.equal(sp.zoo_example("tiny-mlp", seed=3), sp.zoo_example("tiny-mlp", seed=4))
    with pytest.raises(DataError, match="at least 1"):
        sp.zoo_example("tiny-mlp", batch=0)
    with pytest.raises(DataError, match="leave out size"):
        sp.zoo_example("tiny-mlp", size=3)


def test_options_reach_the_builder() -> None:
    assert sp.zoo("tiny-mlp", width=128).get_parameter("layers.0.weight").shape == (128, 32)
    assert isinstance(sp.zoo("resnet18", num_classes=7).get_submodule("fc"), nn.Linear)


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(UnknownNameError, match="resnet50"):
        sp.zoo("resnet")
    with pytest.raises(UnknownNameError, match="tiny-cnn"):
        sp.zoo_example("resnet")
    with pytest.raises(UnknownNameError, match="did you mean 'resnet50'"):
        sp.zoo("resnet51")
    with pytest.raises(UnknownNameError, match="known: alexnet") as caught:
        sp.zoo("yolo")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("resnet18", "torchvision", "zoo"), ("bert-tiny", "transformers", "transformers")]
)
def test_a_missing_extra_is_named(name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def without(wanted: str, *args: Any) -> Any:
        return None if wanted == package else real(wanted, *args)

    monkeypatch.setattr(module.importlib.util, "find_spec", without)
    with pytest.raises(MissingPackageError, match=rf"pip install 'splitplan\[{extra}\]'"):
        sp.zoo(name)
