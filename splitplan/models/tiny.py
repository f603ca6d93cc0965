"""Four small networks that need torch alone: a chain, a perceptron, branches with a residual, a transformer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


class TinyCNN(nn.Module):
    """A chain: convolutions with normalisation, pooling, a linear head."""

    def __init__(self, channels: int = 8, classes: int = 10) -> None:
        super().__init__()
        wide = 2 * channels
        self.features = nn.Sequential(
            *(nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(channels, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(wide, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU()),
        )
        self.head = nn.Linear(wide, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        y: torch.Tensor = self.head(self.features(x).mean((2, 3)))
        return y


class TinyMLP(nn.Module):
    """A chain of linear layers."""

    def __init__(self, features: int = 32, width: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        y: torch.Tensor = self.layers(x)
        return y


class TinyBranch(nn.Module):
    """Branches that join, twice, around a residual: the smallest graph on which every kind of cut exists."""

    def __init__(self, channels: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.one = nn.ModuleList([nn.Conv2d(channels, channels, 1), nn.Conv2d(2 * channels, channels, 1)])
        self.three = nn.ModuleList(
            [nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(2 * channels, channels, 3, padding=1)]
        )
        self.skip = nn.Conv2d(channels, 2 * channels, 1)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.head = nn.Linear(2 * channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        start = F.relu(self.stem(x))
        y = start
        for one, three in zip(self.one, self.three, strict=True):
            y = torch.cat([F.relu(one(y)), F.relu(three(y))], 1)
        y = F.relu(self.norm(y + self.skip(start)))
        out: torch.Tensor = self.head(F.max_pool2d(y, 2).mean((2, 3)))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        split = (x.shape[0], x.shape[1], self.heads, -1)
        q, k, v = (t.view(split).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + self.out(mixed)
        y: torch.Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y


class TinyTransformer(nn.Module):
    """Two pre-norm encoder blocks over a sequence of features, averaged into a linear head."""

    def __init__(self, width: int = 32, heads: int = 4, blocks: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        y: torch.Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return y


TINY: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "tiny-cnn": (TinyCNN, (3, 32, 32)),
    "tiny-mlp": (TinyMLP, (32,)),
    "tiny-branch": (TinyBranch, (3, 32, 32)),
    "tiny-transformer": (TinyTransformer, (12, 32)),
}
"""Builder and the shape of one input."""
