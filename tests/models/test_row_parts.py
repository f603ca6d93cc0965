"""Row parts of real modules: put together they are the unsplit block, whatever the operators and the shares."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import splitplan as sp
from splitplan.errors import BoundaryError, DataError
from splitplan.models.partition import make_parts, run_parts
from splitplan.models.row_parts import join_rows, make_row_parts
from splitplan.models.rows import RowModel
from splitplan.models.trace import Traced, trace
from tests.models import models as M

TOLERANCE = 1e-5
"""Of the output's scale; kernels choose their blocking by the height, so the last bits may differ."""


def values_of(traced: Traced, values: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Every tensor of the graph, made by the unsplit model, and the symbols."""
    symbols = traced.symbols(values)
    placement = {layer.name: f"p{i:04d}" for i, layer in enumerate(traced.graph.layers)}
    return run_parts(make_parts(traced, placement), values, symbols), symbols


def split(
    traced: Traced, start: int, stop: int, rows: Sequence[int], known: dict[str, torch.Tensor], symbols: dict[str, int]
) -> dict[str, torch.Tensor]:
    layers = [layer.name for layer in traced.graph.layers[start:stop]]
    parts = make_row_parts(traced, layers, rows, [f"d{k}" for k in range(len(rows))])
    with torch.inference_mode():
        made = [part(part.cut(known), symbols) if part else {} for part in parts]
    return join_rows(parts, made)


def gap(found: dict[str, torch.Tensor], known: dict[str, torch.Tensor]) -> float:
    """Greatest difference over all outputs, relative to each one's scale; shapes must agree."""
    worst = 0.0
    for name, value in found.items():
        expected = known[name]
        assert value.shape == expected.shape
        assert value.dtype == expected.dtype
        if not value.dtype.is_floating_point:
            assert torch.equal(value, expected)
            continue
        same = (value == expected) | (value.isnan() & expected.isnan())
        off = (value - expected).abs().masked_fill(same, 0).max().item()
        worst = max(worst, off / max(expected.abs().max().item(), 1e-30))
    return worst


def equal_shares(height: int, count: int) -> list[int]:
    return [height // count + (k < height % count) for k in range(count)]


# -- operator by operator -------------------------------------------------------------------------------


class Of(nn.Module):
    """A function of a few convolved tensors as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.first = nn.Conv2d(3, 4, 1)
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3) / 6)
        self.two = nn.Parameter(torch.randn(4, 6, 3, 4) / 6)
        self.tall = nn.Parameter(torch.randn(1, 4, 11, 1))
        self.norm = nn.BatchNorm2d(4)
        self.norm.running_mean, self.norm.running_var = torch.randn(4), torch.rand(4) + 0.5

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, torch.tanh(self.first(x)))


EXACT: dict[str, Callable[[Of, torch.Tensor], Any]] = {
    "relu": lambda m, x: F.relu(x),
    "several of a kind": lambda m, x: F.hardswish(F.gelu(torch.clamp(x, -0.5, 0.5)) * torch.sigmoid(x)),
    "weight of every row": lambda m, x: x * m.tall,
    "where": lambda m, x: torch.where(x > 0, x, m.tall),
    "to another dtype": lambda m, x: x.to(torch.float64),
    "prelu": lambda m, x: F.prelu(x, m.weight[:, 0, 0, 0]),
    "batch norm": lambda m, x: m.norm(x),
    "dropout": lambda m, x: F.dropout(x, 0.5, training=False) + 1,
    "conv": lambda m, x: F.conv2d(x, m.weight, padding=1),
    "conv, no padding": lambda m, x: F.conv2d(x, m.weight),
    "conv, stride": lambda m, x: F.conv2d(x, m.weight, stride=2, padding=1),
    "conv, stride over rows": lambda m, x: F.conv2d(x, m.weight[:, :, :1, :1], stride=3),
    "conv, dilated": lambda m, x: F.conv2d(x, m.weight, padding=2, dilation=2),
    "conv, one pair of numbers each": lambda m, x: F.conv2d(x, m.weight, stride=(2, 1), padding=(0, 1), dilation=(1, 2)),
    "conv, grouped": lambda m, x: F.conv2d(x, m.weight[:, :2], padding=1, groups=2),
    "conv, depthwise": lambda m, x: F.conv2d(x, m.weight[:, :1], padding=1, groups=4),
    "conv, same": lambda m, x: F.conv2d(x, m.weight, padding="same", dilation=(3, 1)),
    "conv, same, even kernel": lambda m, x: F.conv2d(x, m.weight[:, :, :2, :], padding="same"),
    "conv, valid": lambda m, x: F.conv2d(x, m.weight, padding="valid"),
    "conv, more padding than kernel": lambda m, x: F.conv2d(x, m.weight, padding=5),
    "transposed conv": lambda m, x: F.conv_transpose2d(x, m.weight, stride=2, padding=1, output_padding=1),
    "transposed conv, stride over rows": lambda m, x: F.conv_transpose2d(x, m.weight[:, :, :2, :2], m.tall[0, :, 0, 0], stride=3),
    "transposed conv, dilated": lambda m, x: F.conv_transpose2d(x, m.weight, stride=2, padding=2, dilation=2),
    "transposed conv, gaps": lambda m, x: F.conv_transpose2d(x, m.weight[:, :, :1, :1], stride=4, output_padding=2),
    "transposed conv, other kernel": lambda m, x: F.conv_transpose2d(x, m.two, stride=(1, 2), padding=(0, 1)),
    "max pool": lambda m, x: F.max_pool2d(x, 3, 2, 1),
    "max pool, ceil": lambda m, x: F.max_pool2d(x, 2, 2, ceil_mode=True),
    "max pool, dilated": lambda m, x: F.max_pool2d(x, 2, 1, 1, dilation=2),
    "max pool, all negative": lambda m, x: F.max_pool2d(x - 5, 3, 2, 1),
    "avg pool": lambda m, x: F.avg_pool2d(x, 3, 1, 1),
    "avg pool, ceil": lambda m, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "avg pool, padding not counted": lambda m, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg pool, ceil, padding not counted": lambda m, x: F.avg_pool2d(x, (2, 3), (3, 2), (1, 1), True, False),
    "avg pool, divisor": lambda m, x: F.avg_pool2d(x, 3, 2, 1, divisor_override=2),
    "adaptive pool to a fraction": lambda m, x: F.adaptive_avg_pool2d(F.conv2d(x, m.weight[:, :, :2]), (5, 3)),
    "concat": lambda m, x: torch.cat([x, F.conv2d(x, m.weight, padding=1), x * 2], 1),
    "concat, columns": lambda m, x: torch.cat([x, x * 2], 3),
    "split": lambda m, x: (lambda a, b: a * b)(*x.chunk(2, 1)),
    "split, unequal": lambda m, x: (lambda a, b: F.conv2d(a, m.weight[:3, :1], padding=1) + b)(*x.split([1, 3], 1)),
    "slices": lambda m, x: x[:, ::2, 2:-1:3, 1:],
    "slice from the end": lambda m, x: x[:, :, -7:],
    "softmax over channels": lambda m, x: F.softmax(x, 1) + F.log_softmax(x, 3),
    "mean over channels": lambda m, x: x * x.mean(1, keepdim=True) + x.amax(3, keepdim=True),
    "layer norm over columns": lambda m, x: F.layer_norm(x, x.shape[3:]),
    "pad": lambda m, x: F.pad(x, (1, 2, 3, 1), value=0.5),
    "pad, many rows": lambda m, x: F.relu(F.conv2d(F.pad(x, (0, 0, 6, 6), value=2.0), m.weight)),
    "pad, cut": lambda m, x: F.pad(x, (0, 0, -2, -1)),
    "pad, columns": lambda m, x: F.pad(x, (1, 2)),
    "pad, reflected": lambda m, x: F.pad(x, (2, 1, 3, 2), mode="reflect"),
    "pad, repeated": lambda m, x: F.pad(x, (2, 1, 3, 2), mode="replicate"),
    "pad, columns reflected": lambda m, x: F.pad(x, (2, 1, 0, 0), mode="reflect"),
    "nearest": lambda m, x: F.interpolate(x, scale_factor=2),
    "nearest, odd size": lambda m, x: F.interpolate(x, size=(17, 5)),
    "nearest exact": lambda m, x: F.interpolate(x, size=(17, 5), mode="nearest-exact"),
    "nearest, smaller": lambda m, x: F.interpolate(x, size=(4, 20)),
    "pixel shuffle": lambda m, x: F.pixel_shuffle(x, 2),
    "shared operand": lambda m, x: F.conv2d(x, m.weight, padding=1) + F.conv2d(x, m.weight, padding=2, dilation=2) + x,
}  # fmt: skip
CLOSE: dict[str, Callable[[Of, torch.Tensor], Any]] = {
    "bilinear": lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear, corners": lambda m, x: F.interpolate(x, size=(17, 7), mode="bilinear", align_corners=True),
    "bilinear, smaller": lambda m, x: F.interpolate(x, size=(5, 20), mode="bilinear"),
    "bilinear, antialias": lambda m, x: F.interpolate(x, size=(5, 7), mode="bilinear", antialias=True),
    "bicubic": lambda m, x: F.interpolate(x, size=(17, 7), mode="bicubic"),
}
BARRIERS: dict[str, tuple[Callable[[Of, torch.Tensor], Any], str]] = {
    "global pool": (lambda m, x: F.adaptive_avg_pool2d(x, 1), "pools 11 rows to 1"),
    "adaptive pool": (lambda m, x: F.adaptive_avg_pool2d(x, 4), "pools 11 rows to 4"),
    "adaptive max pool": (lambda m, x: F.adaptive_max_pool2d(x, 4), "adaptive"),
    "mean": (lambda m, x: x.mean((2, 3), keepdim=True), "along the rows"),
    "softmax over rows": (lambda m, x: F.softmax(x, 2), "along the rows"),
    "concat over rows": (lambda m, x: torch.cat([x, x], 2), "along the rows"),
    "layer norm": (lambda m, x: F.layer_norm(x, x.shape[1:]), "normalises over all rows"),
    "group norm": (lambda m, x: F.group_norm(x, 2), "over all rows"),
    "instance norm": (lambda m, x: F.instance_norm(x), "all rows|train mode|dimensions|change of shape"),
    "matmul": (lambda m, x: x.transpose(2, 3) @ x, "change of shape"),
    "attention": (lambda m, x: F.scaled_dot_product_attention(x, x, x), "mixes all rows"),
    "linear": (lambda m, x: F.linear(x, torch.ones(2, x.shape[3])), "linear"),
    "flatten": (lambda m, x: x.flatten(2), "no rows|change of shape"),
    "reshape": (lambda m, x: x.reshape(x.shape[0], 2, 2, 11, -1)[:, :, 0], "change of shape"),
    "flip": (lambda m, x: x.flip(2), "not known to keep rows apart"),
    "roll": (lambda m, x: torch.roll(x, 1, 2), "not known|change of shape|along the rows|index"),
    "weight of every row, three dimensions": (lambda m, x: x * m.tall[0], "broadcasts"),
    "cumsum": (lambda m, x: x.cumsum(2), "not known to keep rows apart"),
    "indices of a pool": (lambda m, x: F.max_pool2d(x, 2, return_indices=True)[1] * 2, "positions"),
    "same, uneven columns": (
        lambda m, x: F.conv2d(x, m.weight[:, :, :, :2], padding="same"),
        "one side more|not known",
    ),
}


def traced_of(function: Callable[..., Any]) -> Traced:
    torch.manual_seed(0)
    return trace(Of(function).eval(), torch.randn(2, 3, 11, 9), granularity="operator", name="one")


@pytest.mark.parametrize("case", [*EXACT, *CLOSE])
def test_every_operator_by_any_shares(case: str) -> None:
    traced = traced_of(EXACT.get(case) or CLOSE[case])
    model, n = RowModel(traced.graph), len(traced.graph)
    assert not model.barriers
    known, symbols = values_of(traced, traced.flatten(torch.randn(3, 3, 11, 9)))
    height = model.height(n)
    for start in {0, n - 1}:
        for rows in (
            equal_shares(height, 2),
            equal_shares(height, 3),
            [1, height - 2, 1],
            [0, height],
            [height - 1, 0, 1],
        ):
            if min(rows) < 0:
                continue
            found = split(traced, start, n, rows, known, symbols)
            assert set(found) == {t.name for t in model.leaves(start, n)}
            off = gap(found, known)
            assert off <= TOLERANCE
    single = split(traced, 0, n, [1] * height, known, symbols)
    assert gap(single, known) <= TOLERANCE


@pytest.mark.parametrize("case", BARRIERS)
def test_what_mixes_rows_is_a_barrier(case: str) -> None:
    function, why = BARRIERS[case]
    model = RowModel(traced_of(function).graph)
    assert model.barriers
    reasons = " ".join(model.barriers.values())
    assert any(part in reasons for part in why.split("|")), reasons
    with pytest.raises(DataError, match="cannot be split by rows"):
        model.block(0, len(model.graph), (model.height(len(model.graph)),))


def test_an_unknown_operator_is_a_barrier() -> None:
    library = torch.library.Library("splitplan_rows_test", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
    model = RowModel(traced_of(lambda m, x: torch.ops.splitplan_rows_test.twice(x)).graph)
    assert list(model.barriers.values()) == ["twice: splitplan_rows_test.twice.default is not known to keep rows apart"]


def test_squeeze_and_excite_splits_around_its_pool() -> None:
    """The pool is the barrier; scaling by what came of it is not, and what it scales by is handed over whole."""

    def squeeze(m: Of, x: torch.Tensor) -> torch.Tensor:
        scale = torch.sigmoid(F.conv2d(F.adaptive_avg_pool2d(x, 1), m.weight[:, :, :1, :1]))
        return F.conv2d(x * scale, m.weight, padding=1)

    traced = traced_of(squeeze)
    model = RowModel(traced.graph)
    (pool,) = model.barriers
    known, symbols = values_of(traced, traced.flatten(torch.randn(1, 3, 11, 9)))
    n = len(traced.graph)
    assert gap(split(traced, pool + 1, n, [5, 6], known, symbols), known) <= TOLERANCE
    part, _ = make_row_parts(traced, [x.name for x in traced.graph.layers[pool + 1 : n]], [5, 6], "ab")
    assert part is not None
    assert sorted(part.takes.values()) == [(0, 0), (0, 5)]


def test_volumes_are_split_along_their_depth() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1),
        nn.BatchNorm3d(4),
        nn.ReLU(),
        nn.MaxPool3d(2, padding=1),
        nn.ConvTranspose3d(4, 2, 3, stride=2),
    )
    traced = trace(model.eval(), torch.randn(1, 2, 9, 6, 5))
    known, symbols = values_of(traced, traced.flatten(torch.randn(2, 2, 9, 6, 5)))
    height = RowModel(traced.graph).height(len(traced.graph))
    assert gap(split(traced, 0, len(traced.graph), equal_shares(height, 3), known, symbols), known) <= TOLERANCE


def test_channels_last_models() -> None:
    traced = trace(M.seeded(M.ChannelsLast()), torch.randn(2, 3, 9, 9), granularity="operator")
    model = RowModel(traced.graph)
    known, symbols = values_of(traced, traced.flatten(torch.randn(2, 3, 9, 9)))
    stop = min(model.barriers)
    assert stop >= 3
    assert gap(split(traced, 0, stop, [5, 4], known, symbols), known) <= TOLERANCE


# -- random networks ------------------------------------------------------------------------------------


class Drawn(nn.Module):
    """A network drawn by hypothesis: steps over a list of tensors, the last of which it returns."""

    def __init__(self, steps: Sequence[tuple[str, int, tuple[int, ...]]]) -> None:
        super().__init__()
        self.steps = list(steps)
        self.convs = nn.ModuleDict()
        for i, (kind, _, args) in enumerate(self.steps):
            if kind == "conv":
                k, s, p, d, g = args
                self.convs[str(i)] = nn.Conv2d(4, 4, k, s, p, d, groups=g)
            elif kind == "transposed":
                k, s, p, d, g = args
                self.convs[str(i)] = nn.ConvTranspose2d(4, 4, k, s, p, min(s - 1, 1), dilation=d, groups=g)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = [x]
        for i, (kind, source, args) in enumerate(self.steps):
            y = made[source]
            if kind in ("conv", "transposed"):
                y = torch.relu(self.convs[str(i)](y))
            elif kind == "max":
                y = F.max_pool2d(y, args[0], args[1], min(args[2], args[0] // 2), ceil_mode=bool(args[3] - 1))
            elif kind == "avg":
                y = F.avg_pool2d(y, args[0], args[1], min(args[2], args[0] // 2), bool(args[3] - 1), bool(args[4] - 1))
            elif kind == "resize":
                y = F.interpolate(y, scale_factor=2, mode="bilinear" if args[0] > 1 else "nearest")
            elif kind == "join":
                other = (
                    next(t for t in reversed(made[:-1]) if t.shape == y.shape)
                    if any(t.shape == y.shape for t in made[:-1])
                    else y
                )
                y = torch.cat([y[:, :2], other[:, 2:]], 1) if args[0] > 1 else y + other
            made.append(y)
        return made[-1]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["conv", "conv", "transposed", "max", "avg", "resize", "join", "join"]),
        st.integers(0, 1),
        st.tuples(
            st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(1, 2), st.sampled_from([1, 2, 4])
        ),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40)
@given(STEPS, st.integers(6, 14), st.data())
def test_random_networks_by_random_shares(
    steps: list[tuple[str, int, tuple[int, ...]]], size: int, data: st.DataObject
) -> None:
    torch.manual_seed(1)
    chained = [(kind, i if back == 0 or i == 0 else i - 1, args) for i, (kind, back, args) in enumerate(steps)]
    network = Drawn(chained).eval()
    x = torch.randn(1, 4, size, size)
    try:
        with torch.no_grad():
            out = network(x)
    except RuntimeError:  # a window larger than what it is moved over: no network
        return
    if out.numel() == 0 or out.shape[2] > 100:
        return
    traced = trace(network, x, granularity="operator", dynamic_batch=False)
    model, n = RowModel(traced.graph), len(traced.graph)
    assert not model.barriers
    known, symbols = values_of(traced, dict(traced.flatten(x).items()))
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n))
    height = model.height(stop)
    bars = sorted(data.draw(st.lists(st.integers(0, height), min_size=0, max_size=4)))
    rows = [b - a for a, b in zip([0, *bars], [*bars, height], strict=True)]
    found = split(traced, start, stop, rows, known, symbols)
    assert set(found) == {t.name for t in model.leaves(start, stop)}
    assert gap(found, known) <= TOLERANCE


# -- the zoo --------------------------------------------------------------------------------------------


def check_zoo(name: str) -> dict[str, Any]:
    """Every run of layers between barriers, equal shares for 2 and 3 places and one layer at a time for 2."""
    traced = trace(sp.zoo(name), sp.zoo_example(name), name=name)
    model = RowModel(traced.graph)
    known, symbols = values_of(traced, traced.flatten(sp.zoo_example(name, seed=3)))
    ends = [-1, *sorted(model.barriers), len(traced.graph)]
    runs = [(a + 1, b) for a, b in itertools.pairwise(ends) if b > a + 1]
    worst, exact, blocks = 0.0, 0, 0
    for start, stop in runs:
        singles = [(v, v + 1, 2) for v in range(start, stop)]
        for a, b, count in [(start, stop, 2), (start, stop, 3), *singles]:
            off = gap(split(traced, a, b, equal_shares(model.height(b), count), known, symbols), known)
            worst, exact, blocks = max(worst, off), exact + (off == 0), blocks + 1
    return {"worst": worst, "exact": exact, "blocks": blocks, "layers": sum(b - a for a, b in runs)}


@pytest.mark.parametrize("name", ["tiny-cnn", "tiny-branch"])
def test_tiny_zoo(name: str) -> None:
    found = check_zoo(name)
    assert found["layers"] >= 4
    assert found["worst"] == 0


CNNS = (
    "alexnet",
    "vgg16",
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "googlenet",
    "inception_v3",
    "efficientnet_b0",
    "densenet121",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", CNNS)
def test_whole_zoo(name: str) -> None:
    found = check_zoo(name)
    assert found["layers"] >= 8
    assert found["worst"] <= TOLERANCE
    # Nearly all kernels give the same bits for fewer rows.
    assert found["exact"] >= 0.8 * found["blocks"]


def test_transformers_are_barriers_throughout() -> None:
    traced = trace(sp.zoo("tiny-transformer"), sp.zoo_example("tiny-transformer"))
    assert len(RowModel(traced.graph).barriers) == len(traced.graph)


# -- the parts themselves -------------------------------------------------------------------------------


def test_a_part_takes_its_rows_and_no_others() -> None:
    traced = trace(sp.zoo("tiny-cnn"), sp.zoo_example("tiny-cnn"))
    layers = [x.name for x in traced.graph.layers[:4]]
    top, none, bottom = make_row_parts(traced, layers, [5, 0, 3], ["a", "b", "c"])
    assert none is None
    assert top is not None and bottom is not None
    (x,) = top.takes
    assert (top.takes[x], bottom.takes[x]) == ((0, 22), (17, 31))
    assert [s.shape for s in top.inputs] == [("batch", 3, 23, 32)]
    values = traced.flatten(sp.zoo_example("tiny-cnn"))
    with pytest.raises(BoundaryError, match=r"this part takes float32 of shape \(1, 3, 23, 32\)"):
        top(values, traced.symbols(values))
    # Rows that it does not take change nothing.
    _known, symbols = values_of(traced, values)
    other = values[x].clone()
    other[:, :, 23:] = float("nan")
    (a,), (b,) = top(top.cut({x: other}), symbols).values(), top(top.cut(values), symbols).values()
    assert torch.equal(a, b)
    assert "a" in repr(top) and "[0…22]" in repr(top)
    moved = top.to("meta")
    assert moved.device.type == "meta" and moved.takes == top.takes
    assert top.to("cpu") is top


def test_the_comparison_can_fail() -> None:
    """Zeros instead of the neighbour's rows are told from the unsplit model."""
    traced = trace(sp.zoo("tiny-cnn"), sp.zoo_example("tiny-cnn"))
    layers = [x.name for x in traced.graph.layers[:4]]
    known, symbols = values_of(traced, traced.flatten(sp.zoo_example("tiny-cnn")))
    top, bottom = make_row_parts(traced, layers, [4, 4], ["a", "b"])
    assert top is not None and bottom is not None
    cut = top.cut(known)
    (x,) = cut
    cut[x][:, :, 18:] = 0
    found = join_rows((top, bottom), [top(cut, symbols), bottom(bottom.cut(known), symbols)])
    assert gap(found, known) > 1e-3


@pytest.mark.parametrize(
    ("layers", "rows", "places", "message"),
    [
        (slice(0, 4), [4, 3], "ab", "add up to 7; its last layer makes 8"),
        (slice(0, 4), [4, 4], "abc", "2 shares of rows for 3 places"),
        (slice(0, 5), [1, 0], "ab", "mean"),
        (slice(0, 4, 2), [4, 4], "ab", "no run of the model's execution order"),
        (slice(0, 0), [4, 4], "ab", "no run of the model's execution order"),
    ],
)
def test_blocks_that_are_none(layers: slice, rows: list[int], places: str, message: str) -> None:
    traced = trace(sp.zoo("tiny-cnn"), sp.zoo_example("tiny-cnn"))
    with pytest.raises(DataError, match=message):
        make_row_parts(traced, [x.name for x in traced.graph.layers[layers]], rows, list(places))
    with pytest.raises(DataError, match="no layer of it"):
        make_row_parts(traced, ["nothing"], rows, list(places))
