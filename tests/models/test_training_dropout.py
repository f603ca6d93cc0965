"""Dropout in training: masks that depend on the step and the sample alone, and are sound as masks."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from splitplan.errors import DataError
from splitplan.models.training import TrainingModel, training_model
from splitplan.models.training_dropout import Draws, Dropout


class Drops(nn.Module):
    """Dropouts of every kind that is taken: of features, of channels, in place, of weights, behind the samples' dimension, switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.channels, self.in_place = nn.Dropout2d(0.4), nn.Dropout(0.5, inplace=True)
        self.line, self.head = nn.Linear(16, 8), nn.Linear(8, 3)
        self.off = nn.Dropout(0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.channels(self.conv(x))
        y = self.in_place(y.flatten(2) * 1)
        turned = F.dropout(y.transpose(0, 1), 0.3, True).transpose(0, 1)
        merged = F.dropout(turned.reshape(-1, 16), 0.2, True).view(-1, 4, 16)
        z = F.linear(merged.sum(1), F.dropout(self.line.weight, 0.5, True), self.line.bias)
        out: torch.Tensor = self.head(self.off(torch.relu(z)))
        return out


def _model() -> TrainingModel:
    torch.manual_seed(0)
    return training_model(Drops().train(), torch.randn(2, 2, 4, 4))


def _run(
    tm: TrainingModel, cuts: list[int], samples: int, x: torch.Tensor, step: int = 3, seed: int = 1
) -> torch.Tensor:
    """Outputs of a batch, in parts of so many samples through stages cut there."""
    stages = [tm.stage(a, b, samples) for a, b in pairwise([0, *cuts, len(tm.layers)])]
    found = []
    for k, part in enumerate(x.split(samples)):
        values: tuple[torch.Tensor, ...] = (part,)
        for stage in stages:
            stage.seed = seed
            made = stage.at(step, k * samples)(*values)
            values = made if isinstance(made, tuple) else (made,)
        found.append(values[0].detach())
    return torch.cat(found)


def test_masks_depend_on_neither_the_split_nor_the_share() -> None:
    tm = _model()
    assert tm.exact
    assert [(d.channels, d.axis) for d in tm.dropouts] == [(True, 0), (False, 0), (False, 1), (False, 0), (False, None)]
    x = torch.randn(6, 2, 4, 4)
    whole = _run(tm, [], 6, x)
    for cuts in ([], [1], [2], [1, 2]):
        for samples in (1, 2, 3, 6):
            # Products of other sizes round otherwise; another mask is far off.
            torch.testing.assert_close(_run(tm, cuts, samples, x), whole, rtol=1e-5, atol=1e-6)
    for other in (_run(tm, [], 6, x, step=4), _run(tm, [], 6, x, seed=2)):
        assert (other - whole).abs().max() > 0.1


def test_the_stride_moves_on_to_the_next_micro_batch() -> None:
    tm = _model()
    x = torch.randn(8, 2, 4, 4)
    whole = _run(tm, [], 8, x, step=0)
    (stage,) = [tm.stage(0, len(tm.layers), 2)]
    stage.seed = 1
    # the second of two replicas that share micro-batches of four
    stage.at(0, 2, stride=4)
    found = torch.cat([stage(x[2:4]), stage(x[6:8])])
    torch.testing.assert_close(found, whole[[2, 3, 6, 7]], rtol=1e-5, atol=1e-6)


def test_the_model_itself_can_draw_the_same() -> None:
    tm = _model()
    x = torch.randn(4, 2, 4, 4)
    stage = tm.stage(0, len(tm.layers), 4)
    stage.seed = 5
    for step in range(2):
        with tm.same_dropout(4, seed=5, step=step, first_sample=8):
            assert torch.equal(tm.model(x), stage.at(step, 8)(x))
    assert not torch.equal(tm.model(x), stage.at(1, 8)(x))


def test_masks_drop_by_chance_and_keep_the_mean() -> None:
    draws = Draws((Dropout(0, 0.3), Dropout(1, 0.3), Dropout(2, 1.0), Dropout(3, 0.3, channels=True)), 64, seed=3)
    ones = torch.ones(64, 2000)
    noise = draws.noise(0, ones)
    assert set(noise.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()} or noise.unique().numel() == 2
    # 128,000 draws: five standard deviations are 0.0064
    assert abs((noise == 0).double().mean().item() - 0.3) < 0.0064
    kept = (noise != 0).double() - 0.7
    correlations = (kept @ kept.t() / 2000 / 0.21).fill_diagonal_(0)
    assert correlations.abs().max() < 0.15, "samples draw masks of their own"
    other = (draws.noise(1, ones) != 0).double() - 0.7
    assert ((kept * other).mean() / 0.21).abs() < 0.02
    assert not draws.noise(2, ones).any()
    channels = draws.noise(3, torch.ones(64, 10, 5, 5, dtype=torch.float64))
    assert channels.shape == (64, 10, 1, 1)
    assert channels.dtype == torch.float64


def test_a_dropout_that_is_off_draws_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0), nn.Linear(3, 3), nn.Dropout(0.5).eval())
    tm = training_model(model, torch.randn(2, 3))
    assert tm.dropouts == ()
    x = torch.randn(2, 3)
    assert torch.equal(tm.stage(0, 2, 2)(x), model(x))
    model[3].train()
    with pytest.raises(DataError, match="dropped nothing when it was traced"), tm.same_dropout(2):
        model(x)


def test_torch_own_generator_is_left_alone() -> None:
    tm = _model()
    stage = tm.stage(0, len(tm.layers), 2)
    before = torch.get_rng_state()
    stage(torch.ones(2, 2, 4, 4))
    _model_again = training_model(tm.model, torch.ones(2, 2, 4, 4))
    assert torch.equal(torch.get_rng_state(), before)
