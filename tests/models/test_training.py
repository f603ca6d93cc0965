"""Training in parts: gradients, buffers and weights equal the model's own to the last bit, however it is cut."""

from __future__ import annotations

import copy
import gc
import math
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import splitplan as sp
from splitplan.errors import DataError
from splitplan.models.tiny import TinyBranch, TinyCNN, TinyMLP, TinyTransformer
from splitplan.models.training import TrainingModel, training_model
from splitplan.models.training_check import _difference, _tolerance
from splitplan.models.training_stage import StageModule


class InPlace(nn.Module):
    """Works in place on what earlier layers have made and sent on: a sum of branches, an activation, a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.three, self.four = (
            nn.Conv2d(3 if k == 0 else 6, 6, 3, padding=1) for k in range(5)
        )
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem = self.stem(x)
        y = self.one(stem)
        y.add_(self.two(stem)).relu_()
        w = self.three(y)
        v = self.four(y)
        F.dropout(w, 0.3, True, inplace=True)
        w += v
        F.relu(w, inplace=True)
        out: torch.Tensor = self.head(w.mean((2, 3)))
        return out


class ThroughViews(nn.Module):
    """Writes through views of what is read later: its own tensors, and one of zeros that it fills."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.one(x)
        half = y[:, :4]
        filled = torch.zeros(x.shape[0], 8)
        filled[:, 2:6] = half * 3
        z = self.two(y * 2)
        half.mul_(2)
        y.add_(1)
        z[:, 0] = 0.5
        out: torch.Tensor = self.three(torch.tanh(y) + z + filled)
        return out + half.mean() + filled.mean()


class Heads(nn.Module):
    """A dict of boxes and classes, one of them early, beside a constant; the second head reads frozen weights too."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.deep = nn.Linear(5, 8), nn.Linear(8, 8)
        self.boxes, self.classes = nn.Linear(8, 4), nn.Linear(8, 3)
        self.frozen = nn.Linear(8, 8)
        self.frozen.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        y = torch.relu(self.trunk(x))
        early = self.classes(y)
        deep = torch.relu(self.deep(y)) + self.frozen(y)
        return {"classes": early, "boxes": (self.boxes(deep), 3), "none": None, "again": early}


class Tied(nn.Module):
    """Reads a vocabulary's weights at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        self.last = nn.Linear(11, 2)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.head(torch.relu(self.mix(self.embed(ids)))))
        return out


class Attends(nn.Module):
    """Attention that drops its weights, with a mask made on the way and positions of its own, dropped too."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 2)
        self.start = nn.Linear(5, 8)
        self.positions = nn.Parameter(torch.randn(1, 6, 8) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.start(x) + F.dropout(self.positions, 0.4, self.training)
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu_(1)
        y = self.norm(y + self.attention(y, y, y, attn_mask=mask)[0])
        out: torch.Tensor = self.head(y.mean(1))
        return out


class Statistics(nn.Module):
    """Keeps statistics of its own, assigned and in place, and reads one of them elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.one(x))
        self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        z = torch.relu(self.two(y - self.mean))
        self.calls.add_(1)
        out: torch.Tensor = self.three(z)
        return out


class Layouts(nn.Module):
    """Hands on tensors that are not row-major: channels last, transposed, sliced, expanded."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.turn, self.head = nn.Linear(16, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.two(torch.relu(self.one(x.to(memory_format=torch.channels_last))))
        z = self.turn(y.flatten(2)[:, ::2].transpose(1, 2)[:, :, :1].expand(-1, -1, 16))
        out: torch.Tensor = self.head(z.transpose(1, 2).transpose(1, 2)[:, ::3]).sum(1)
        return out


class Mixed(nn.Module):
    """Computes a stretch in bfloat16, and normalises its weights as it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.memory, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = torch.relu(self.one(x))
        out: torch.Tensor = self.head(self.memory(torch.relu(self.two(y.float())))[0][:, -1])
        return out


class Frozen(nn.Module):
    """Layers that are not trained, under no_grad, before those that are; a pre-activation norm; channels dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.old, self.one = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.norm, self.two = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.drop, self.head = nn.Dropout2d(0.5), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = self.old(x).relu()
        y = self.one(y)
        y = y + self.two(self.drop(torch.relu(self.norm(y))))
        out: torch.Tensor = self.head(y.mean((2, 3)))
        return out


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build().train()


def _zoo(name: str) -> nn.Module:
    sp.zoo("alexnet")  # lets torchvision be imported beside a torch without CUDA
    import torchvision

    model: nn.Module = getattr(torchvision.models, name)(num_classes=10)
    if name == "vgg11_bn":  # its own head has 120 million weights
        head = [nn.Linear(25088, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 32), nn.ReLU(True), nn.Dropout()]
        model.classifier = nn.Sequential(*head, nn.Linear(32, 10))
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "cnn": (TinyCNN, (3, 16, 16)),
    "mlp": (TinyMLP, (32,)),
    "branch": (TinyBranch, (3, 16, 16)),
    "transformer": (lambda: nn.Sequential(nn.Linear(6, 32), TinyTransformer()), (5, 6)),
    "in-place": (InPlace, (3, 8, 8)),
    "views": (ThroughViews, (6,)),
    "heads": (Heads, (5,)),
    "attention": (Attends, (6, 5)),
    "statistics": (Statistics, (6,)),
    "layouts": (Layouts, (3, 8, 8)),
    "mixed": (Mixed, (4, 6)),
    "frozen": (Frozen, (3, 8, 8)),
    "alexnet": (lambda: _zoo("alexnet"), (3, 64, 64)),
    "vgg11_bn": (lambda: _zoo("vgg11_bn"), (3, 32, 32)),
    "resnet18": (lambda: _zoo("resnet18"), (3, 64, 64)),
}


def positions(tm: TrainingModel, rng: random.Random) -> list[int]:
    """Random places to cut among those where it can be."""
    can = [i for i in range(1, len(tm.layers)) if i not in tm.uncuttable]
    return [0, *sorted(rng.sample(can, rng.randint(0, len(can)))), len(tm.layers)]


def cut(tm: TrainingModel, at: Sequence[int], samples: int, **columns: Sequence[str]) -> list[StageModule]:
    return [tm.stage(a, b, samples) for a, b in pairwise(at)]


def loss_of(output: Any, k: int) -> torch.Tensor:
    """A loss that reaches every output."""
    leaves = torch.utils._pytree.tree_leaves(output)
    return sum(
        (y * torch.linspace(-1, 2 + k, y.numel()).view(y.shape)).mean() for y in leaves if isinstance(y, torch.Tensor)
    )  # type: ignore[return-value]


def step_in_parts(tm: TrainingModel, stages: Sequence[StageModule], x: Any, k: int) -> Any:
    """Forward and backward of one micro-batch through stages that share nothing, as on several machines."""
    entering: list[list[torch.Tensor]] = []
    leaving: list[list[torch.Tensor]] = []
    values: Sequence[torch.Tensor] = tm.inputs(x)
    for i, stage in enumerate(stages):
        entering.append([v.detach().clone().requires_grad_(i > 0) for v in values])
        made = stage(*entering[-1])
        leaving.append([made] if isinstance(made, torch.Tensor) else list(made))
        values = leaving[-1]
    output = tm.unflatten(values)
    loss_of(output, k).backward()  # type: ignore[no-untyped-call]
    for i in range(len(stages) - 1, 0, -1):
        gradients = [v.grad for v in entering[i]]
        assert all(v.is_contiguous() for v in leaving[i - 1]), "what is sent must be row-major"
        torch.autograd.backward(leaving[i - 1], gradients)
    return output


def same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return (a is None) == (b is None) and (a is None or b is None or torch.equal(a, b))


@pytest.mark.parametrize("name", MODELS)
def test_trained_in_parts_equals_trained_whole(name: str) -> None:
    build, shape = MODELS[name]
    plain = _seeded(build)
    model = copy.deepcopy(plain)
    parameters = dict(plain.named_parameters())
    state = copy.deepcopy(model.state_dict())
    tm = training_model(model, torch.randn(3, *shape))
    assert tm.exact is True
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()), "looking at it changes nothing"
    assert all(p.grad is None for p in model.parameters())
    big = name in ("alexnet", "vgg11_bn", "resnet18")
    rng = random.Random(name)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (plain, model)]
    for step in range(2 if big else 5):
        at = positions(tm, rng) if step else [i for i in range(len(tm.layers) + 1) if i not in tm.uncuttable]
        micro = 2 if big else 3
        stages = cut(tm, at, micro)
        for stage in stages:
            stage.seed = 7
            stage.at(step, 0, micro)
        for optimizer in optimizers:
            optimizer.zero_grad()
        for k in range(2):
            x = torch.randn(micro, *shape)
            with tm.same_dropout(micro, seed=7, step=step, first_sample=k * micro):
                expected = plain(x.clone())
            loss_of(expected, k).backward()  # type: ignore[no-untyped-call]
            found = step_in_parts(tm, stages, x, k)
            assert torch.utils._pytree.tree_structure(found) == torch.utils._pytree.tree_structure(expected)
            assert tm.flatten(found)
            for a, b in zip(tm.flatten(expected), tm.flatten(found), strict=True):
                assert torch.equal(a, b)
        for p, own in model.named_parameters():
            assert same(own.grad, parameters[p].grad), (at, p)
        for (b, own), theirs in zip(model.named_buffers(), plain.buffers(), strict=True):
            assert torch.equal(own, theirs), (at, b)
        for optimizer in optimizers:
            optimizer.step()
    for p, own in model.named_parameters():
        assert torch.equal(own, parameters[p])
    del plain, model, tm, stages
    gc.collect()


def test_what_crosses_says_where_gradients_come_back() -> None:
    tm = training_model(_seeded(Frozen), torch.randn(2, 3, 8, 8))
    assert tm.uncuttable == (1,)
    assert [[v.requires_grad for v in tm.crossing(i, 2)] for i in (0, 2, len(tm.layers))] == [[False], [True], [True]]


class Penalty(nn.Module):
    """Returns what depends on its first layer's weights alone beside its output."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(self.one(x)) * self.scale.clone()
        self.scale.mul_(0.5)
        return self.three(self.two(y)), self.two.weight.square().mean()


class OneView(nn.Module):
    """Writes through a view of what its first layer makes, behind the second."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.one(x)
        half = y[:, :3]
        z = self.two(y * 2)
        half.mul_(2)
        out: torch.Tensor = self.three(torch.tanh(y) + z)
        return out


class InPlaceOnly(nn.Module):
    """Does to what an earlier layer has made what torch has no operator out of place for."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem = self.stem(x)
        y = self.one(stem)
        z = self.two(stem)
        out: torch.Tensor = self.head(y.fill_diagonal_(0.5) + z)
        return out


@pytest.mark.parametrize("mixed", [False, True])
def test_a_model_that_mixes_samples_is_told(mixed: bool) -> None:
    """Batch norm and dropout do not count."""

    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm, self.two = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = nn.functional.dropout(self.norm(self.one(x)), 0.5, self.training)
            out = self.two(y - y.mean(0) if mixed else y)
            return out, out.mean()

    model = _seeded(Mixing)
    kept = {n: b.clone() for n, b in model.named_buffers()}
    assert training_model(model, torch.randn(2, 6)).mixes == mixed
    assert all(torch.equal(b, kept[n]) for n, b in model.named_buffers())


class Standardised(nn.Module):
    """Batch norm of a weight, and in-place operators behind batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.norm = nn.Parameter(torch.randn(4, 6)), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = nn.functional.batch_norm(self.w.reshape(1, 4, 6), None, None, training=True).reshape(4, 6).mul_(0.5)
        return nn.functional.relu(self.norm(x @ w.T), inplace=True)


def test_looking_whether_samples_are_mixed_changes_nothing() -> None:
    model = _seeded(Standardised)
    kept = {n: v.clone() for n, v in model.state_dict().items()}
    assert not training_model(model, torch.randn(2, 6)).mixes
    assert all(torch.equal(v, kept[n]) for n, v in model.state_dict().items())


def test_what_several_layers_share_is_not_cut() -> None:
    statistics = training_model(_seeded(Statistics), torch.randn(2, 6))
    assert [x.name for x in statistics.layers] == ["one", "two", "three"]
    assert statistics.uncuttable == (), "each buffer is written and read in one layer"
    penalty = training_model(_seeded(Penalty), torch.randn(2, 6))
    assert penalty.exact
    assert penalty.why_uncuttable == {1: "both sides use 'scale'", 2: "both sides use 'two.weight'"}
    views = training_model(_seeded(OneView), torch.randn(2, 6))
    # Behind the last write its names are only read.
    assert views.why_uncuttable == {1: "'linear' is written under several names"}
    only = training_model(_seeded(InPlaceOnly), torch.randn(2, 6))
    assert only.exact
    assert only.why_uncuttable == {2: "'fill_diagonal_' works in place only"}


def test_rounding_is_told_from_another_computation() -> None:
    a = torch.tensor([1.0, -4.0, float("nan"), float("inf")])
    assert _difference(a, a.clone()) == 0
    assert (
        0
        < _difference(a, a + torch.tensor([1e-6, 0, 0, 0]))
        < _tolerance(a)
        < _difference(a, a + torch.tensor([0.01, 0, 0, 0]))
    )
    assert _difference(a, torch.zeros(4)) == math.inf
    assert _difference(a, a[:3]) == _difference(a, a.double()) == _difference(None, a) == math.inf
    assert _difference(None, None) == _difference(None, torch.zeros(3)) == 0
    assert _tolerance(torch.tensor(3)) == 0
    assert _difference(torch.tensor(3), torch.tensor(4)) == math.inf


def test_tied_weights_stay_in_one_stage() -> None:
    model = _seeded(Tied)
    ids = torch.arange(12).reshape(4, 3) % 11
    tm = training_model(model, ids)
    assert [x.name for x in tm.layers] == ["embed", "mix", "head", "last"]
    assert tm.uncuttable == (1, 2)
    assert "embed.weight" in tm.why_uncuttable[1]
    # counted once, where it is read first
    assert [x.parameter_bytes for x in tm.layers] == [4.0 * 88, 4.0 * 72, 0.0, 4.0 * 24]
    assert [x.columns for x in tm.layers] == [0, 8, 0, 2]
    plain = copy.deepcopy(model)
    loss_of(plain(ids), 0).backward()  # type: ignore[no-untyped-call]
    stages = cut(tm, [0, 3, 4], 4)
    step_in_parts(tm, stages, ids, 0)
    for (_, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert same(a.grad, b.grad)
    assert plain.embed.weight.grad is not None
    with pytest.raises(DataError, match=r"position 2 cannot be cut: both sides use 'embed.weight'"):
        tm.stage(0, 2, 4)


def test_layers_are_runs_of_operators_with_their_sizes() -> None:
    model = _seeded(lambda: _zoo("resnet18"))
    tm = training_model(model, torch.randn(2, 3, 64, 64), verify=False)
    assert tm.exact is None
    names = [x.name for x in tm.layers]
    assert names[:4] == ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1"]
    assert names[-1] == "fc" and len(names) == 21
    assert sum(x.parameter_bytes for x in tm.layers) == sum(4 * p.numel() for p in model.parameters())
    # behind the first layer its pooled output: once, though the block and its shortcut read it
    assert tm.crossing_bytes[0] == 4 * 64 * 16 * 16
    assert tm.crossing_bytes[1] == 2 * tm.crossing_bytes[0]
    assert tm.layers[-1].columns == 10
    assert (tm.layers[-1].input_bytes, tm.layers[-1].output_bytes) == (4 * 512, 40)
    # What its operators keep: the image, what normalisation reads, the activation, and where the pooling found its maxima; and a mean
    # and a deviation of 64 channels, shared by two samples. The pooled image is kept by the layer that reads it.
    by_hand = 4 * 3 * 64 * 64 + 2 * 4 * 64 * 32 * 32 + 8 * 64 * 16 * 16 + 4 * 64
    assert tm.layers[0].saved_bytes == by_hand


def test_names_are_unique_and_tell_what_a_module_computes() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(4, 4)
            self.weight = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.line(torch.relu(self.line(x)))
            out: torch.Tensor = (y @ self.weight) @ y.t()
            return out.sum(1)

    tm = training_model(_seeded(Twice), torch.randn(2, 4))
    assert [x.name for x in tm.layers] == ["line:linear", "line:linear_2", "matmul", "matmul_2"]
    assert tm.uncuttable == (1,)
    assert [x.columns for x in tm.layers] == [0, 0, 0, 0]


def test_a_stage_holds_the_models_own_weights_under_their_names() -> None:
    model = _seeded(TinyCNN)
    tm = training_model(model, torch.randn(2, 3, 16, 16))
    stage = tm.stage(1, 3, 5)
    assert sorted(stage.state_dict()) == sorted(
        f"features.{i}.{k}"
        for i in (4, 5, 8, 9)
        for k in (
            ("weight", "bias")
            if i in (4, 8)
            else ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        )
    )
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, held in (*stage.named_parameters(), *stage.named_buffers()):
        assert held is own[name]
    assert tm.stage(1, 3, 5).get_parameter("features.4.weight") is stage.get_parameter("features.4.weight")
    assert [tuple(v.shape) for v in tm.crossing(1, 5)] == [(5, 8, 8, 8)]
    assert tm.crossing(1, 5)[0].device.type == "meta"
    assert stage(torch.randn(5, 8, 8, 8)).shape == tm.crossing(3, 5)[0].shape == (5, 16)
    assert tm.model is model


def test_the_fingerprint_is_of_the_structure_alone() -> None:
    model = _seeded(TinyCNN)
    tm = training_model(model, torch.randn(2, 3, 16, 16), verify=False)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    model(torch.randn(4, 3, 16, 16))
    assert training_model(model, torch.randn(7, 3, 16, 16), verify=False).fingerprint == tm.fingerprint
    others = [
        training_model(model, torch.randn(2, 3, 18, 18), verify=False),
        training_model(_seeded(lambda: TinyCNN(8, 11)), torch.randn(2, 3, 16, 16), verify=False),
        training_model(model.eval(), torch.randn(2, 3, 16, 16), verify=False),
    ]
    assert len({x.fingerprint for x in others} | {tm.fingerprint}) == 4


def test_modes_are_respected_as_they_are() -> None:
    model = _seeded(TinyCNN)
    model.features[1].eval()
    before = {k: b.clone() for k, b in model.named_buffers()}
    tm = training_model(model, torch.randn(2, 3, 16, 16))
    (stage,) = cut(tm, [0, 4], 3)
    stage.eval()
    stage(torch.randn(3, 3, 16, 16))
    changed = {k for k, b in model.named_buffers() if not torch.equal(b, before[k])}
    assert changed == {
        f"features.{i}.{k}" for i in (5, 9) for k in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_inputs_by_keyword_and_several() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.one(x) * scale[:, None]
            return self.two(torch.relu(y)), y

    model = _seeded(Two)
    x, scale = torch.randn(4, 3), torch.rand(4)
    for example in ((x, scale), [x, scale], {"x": x, "scale": scale}):
        tm = training_model(model, example)
        assert tm.exact
        assert tm.uncuttable == ()
        given = {"scale": scale, "x": x} if isinstance(example, dict) else [x, scale]
        values = tm.inputs(given)
        assert [v is w for v, w in zip(values, (x, scale), strict=True)] == [True, True]
        stages = cut(tm, [0, 1, 2], 4)
        middle = stages[0](*values)
        found = tm.unflatten(stages[1](*(middle if isinstance(middle, tuple) else (middle,))))
        for a, b in zip(found, model(x, scale), strict=True):
            assert torch.equal(a, b)


def test_columns_are_shared_through_a_linear_module() -> None:
    model = _seeded(TinyMLP)
    tm = training_model(model, torch.randn(2, 32))
    plain = tm.stage(0, 3, 4)
    stage = tm.stage(0, 3, 4, ("layers.2", "layers.0"))
    assert stage.column_modules == {"layers.2": "layers.2", "layers.0": "layers.0"}
    module = stage.get_submodule("layers.2")
    assert isinstance(module, nn.Linear)
    assert module.weight is model.layers[2].weight and module.bias is model.layers[2].bias
    assert (module.in_features, module.out_features) == (64, 64)
    assert not isinstance(stage.get_submodule("layers.4"), nn.Linear)
    assert list(stage.state_dict()) == list(plain.state_dict()) == list(model.state_dict())
    seen: list[torch.Size] = []
    module.register_forward_hook(lambda m, x, y: seen.append(y.shape))
    x = torch.randn(4, 32)
    assert torch.equal(stage(x), plain(x)) and torch.equal(stage(x), model(x))
    assert seen == [(4, 64), (4, 64)]


def test_a_traced_model_is_trained_as_it_computes() -> None:
    model = sp.zoo("tiny-transformer").requires_grad_(True)
    traced = sp.trace(model, sp.zoo_example("tiny-transformer", batch=2))
    tm = training_model(traced, sp.zoo_example("tiny-transformer", batch=2), name="mine")
    assert tm.exact and tm.name == "mine"
    assert {"blocks.0.qkv", "head"} <= {x.name for x in tm.layers}
    stage = tm.stage(0, len(tm.layers), 3)
    x = sp.zoo_example("tiny-transformer", batch=3)
    x = x[0] if isinstance(x, tuple) else x
    assert torch.equal(stage(x), traced.module()(x))
    assert {n for n, _ in stage.named_parameters()} == {n for n, _ in model.named_parameters()}


def test_names_that_torch_has_taken() -> None:
    class Taken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.meta, self.graph = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.graph(torch.relu(self.meta(x)))
            return out

    model = _seeded(Taken)
    tm = training_model(model, torch.randn(2, 3))
    assert [x.name for x in tm.layers] == ["meta", "graph"]
    assert tm.stage(0, 1, 2).get_parameter("meta.weight") is model.get_parameter("meta.weight")
