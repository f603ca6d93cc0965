"""Small models that each hold one trap of tracing or cutting."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode with weights from a seed."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval()


class ViewMutation(nn.Module):
    """Writes through a view of a tensor that is read again later."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.conv(x))
        v = y[:, :4]
        v.mul_(2)
        y.add_(1)
        out: torch.Tensor = self.last(y)
        return out + v.mean()


class Many(nn.Module):
    """Several outputs in a dict: chunk, topk, a number, None, an input handed through, sizes used as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.register_buffer("scale", torch.arange(1.0, 5.0))

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        y = torch.relu(self.norm(self.conv(x)))
        places = torch.arange(y.shape[0]).float()[:, None]
        z = y.mean((2, 3)).view(y.shape[0], -1) + places
        a, b = self.one(z).chunk(2, 1)
        best, index = torch.topk(self.two(z), 2)
        return {
            "a": a * self.scale,
            "b": b * y.shape[0],
            "best": best,
            "index": index,
            "three": 3,
            "none": None,
            "x": x,
        }


class SharedConv(nn.Module):
    """One convolution, used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.relu(self.conv(x))
        second = torch.relu(self.conv(first))
        out: torch.Tensor = self.conv(second) + first
        return out


class TwoInputs(nn.Module):
    """Two inputs by keyword, one of them integer, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(16, 8), nn.Linear(8, 8)

    def forward(self, ids: torch.Tensor, weight: torch.Tensor, power: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.mix(self.embed(ids)) * weight[:, None, None] ** power
        return x.sum(1), x.amax(1)


class Returns(nn.Module):
    """Returns a size, a buffer and positions beside what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 4)
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int, torch.Tensor, torch.Tensor]:
        return self.line(x), x.shape[0], self.table, torch.arange(x.shape[0])


class ChannelsLast(nn.Module):
    """Runs its convolutions channels-last, so that what crosses is not row-major."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.one(x.to(memory_format=torch.channels_last)))
        out: torch.Tensor = self.two(y)
        return out[:, ::2].expand(2, -1, -1, -1, -1).sum(0)


class Strided(nn.Module):
    """Hands on slices, expanded and transposed views."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.inner(x))
        last = y[:, -1:, :]
        wide = last.expand(-1, 3, -1)
        turned = y.transpose(1, 2)[:, ::3, ::2]
        out: torch.Tensor = self.head(wide).sum(1) + self.head(last)[:, 0]
        return out * turned.mean((1, 2))[:, None]


class Branchy(nn.Module):
    """Decides by the data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x * 2


class Halves(nn.Module):
    """Runs at even batches only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, -1) * 2


class OneIsSpecial(nn.Module):
    """Branches on the batch in Python: the exporter takes one branch and says nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[0] == 1 else x * 3


class Counter(nn.Module):
    """Changes a buffer while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        out: torch.Tensor = x * self.calls
        return out


class PythonCounter(nn.Module):
    """Changes an attribute while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


class WritesInput(nn.Module):
    """Works in place on what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2) + 1


class Noisy(nn.Module):
    """Draws random numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


class Picks(nn.Module):
    """Makes a size that depends on the data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[x > 0]


class Asks(nn.Module):
    """Reads a number out of the data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.max().item()
