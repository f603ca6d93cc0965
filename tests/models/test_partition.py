"""Parts: split equals unsplit to the last bit, whatever the cut; boundaries are checked; layers are timed."""

from __future__ import annotations

import random
import time
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import splitplan as sp
from benchmarks.cuts import BUILD, SIZES, check_zoo, difference, random_monotone
from splitplan.errors import BoundaryError, DataError
from splitplan.models.instrument import instrument
from splitplan.models.partition import lay_out, make_parts, run_parts, segments, validate, whole
from splitplan.models.trace import Traced, load_traced, trace
from tests.models import models as M

CASES: dict[str, tuple[nn.Module, Any]] = {
    "view mutation": (M.seeded(M.ViewMutation()), torch.randn(2, 3, 9, 9)),
    "dict, chunk, topk, sizes, ties": (M.seeded(M.Many()), torch.randn(2, 3, 8, 8)),
    "shared convolution": (M.seeded(M.SharedConv()), torch.randn(2, 4, 8, 8)),
    "two inputs": (M.seeded(M.TwoInputs()), (torch.randint(16, (2, 5)), torch.randn(2))),
    "returns what depends on no data": (M.seeded(M.Returns()), torch.randn(2, 6)),
    "channels last": (M.seeded(M.ChannelsLast()), torch.randn(2, 3, 9, 9)),
    "channels-last input": (M.seeded(M.SharedConv()), torch.randn(2, 4, 8, 8).to(memory_format=torch.channels_last)),
    "strided views": (M.seeded(M.Strided()), torch.randn(2, 7, 12)),
    "lstm": (M.seeded(nn.LSTM(6, 5, num_layers=2, batch_first=True)), torch.randn(2, 4, 6)),
    "bfloat16": (M.seeded(M.SharedConv()).bfloat16(), torch.randn(2, 4, 8, 8).bfloat16()),
}


def unsplit(traced: Traced, *args: Any) -> tuple[dict[str, torch.Tensor], dict[str, int], dict[str, torch.Tensor]]:
    values = traced.flatten(*args)
    symbols = traced.symbols(values)
    return values, symbols, run_parts([whole(traced)], values, symbols)


def again(example: Any, batch: int) -> tuple[Any, ...]:
    """Other numbers of the same kind, at another batch."""
    tensors = example if isinstance(example, tuple) else (example,)
    made = []
    for t in tensors:
        shape = (batch, *t.shape[1:])
        made.append(torch.randn(shape).to(t.dtype) if t.is_floating_point() else torch.randint(16, shape))
    return tuple(made)


@cache
def traced_case(case: str) -> Traced:
    return trace(*CASES[case], granularity="operator")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("granularity", ["operator", "layer", "block"])
@pytest.mark.parametrize("case", CASES)
def test_split_is_unsplit(case: str, granularity: str, batch: int) -> None:
    model, example = CASES[case]
    traced = traced_case(case).at(granularity)
    args = again(example, batch)
    values, symbols, expected = unsplit(traced, *args)
    with torch.no_grad():
        eager = model(
            *(a.clone(memory_format=torch.channels_last) if case == "channels-last input" else a.clone() for a in args)
        )
    ours = torch.utils._pytree.tree_leaves(traced.unflatten(expected, symbols))
    theirs = torch.utils._pytree.tree_leaves(eager)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    first = expected[traced.graph.outputs[-1].name] if case == "dict, chunk, topk, sizes, ties" else theirs[0]
    assert first.float().std() > 0
    layers = [layer.name for layer in traced.graph.layers]
    for k in range(len(layers) + 1):
        assert difference(traced, frozenset(layers[k:]), values, symbols, expected) == ""
    for server in random_monotone(traced.graph, 10, seed=1):
        assert difference(traced, server, values, symbols, expected) == ""
    draw = random.Random(0)
    for _ in range(10):
        placement = {name: draw.choice("abcd") for name in layers}
        found = run_parts(make_parts(traced, placement), values, symbols)
        assert all(torch.equal(found[t.name], expected[t.name]) for t in traced.graph.outputs)


def test_the_comparison_can_fail() -> None:
    """A split with one weight changed is told from the unsplit model."""
    traced = trace(sp.zoo("tiny-branch"), sp.zoo_example("tiny-branch"))
    values, symbols, expected = unsplit(traced, sp.zoo_example("tiny-branch", seed=3))
    layers = [layer.name for layer in traced.graph.layers]
    head, tail = make_parts(traced, {name: "device" if i < 4 else "server" for i, name in enumerate(layers)})
    with torch.no_grad():
        tail.module.w_head__weight = nn.Parameter(tail.module.get_parameter("w_head__weight") + 1e-6)
    found = run_parts([head, tail], values, symbols)
    assert not torch.equal(found[traced.graph.outputs[0].name], expected[traced.graph.outputs[0].name])


@pytest.mark.parametrize("name", sp.zoo_names(tiny=True))
def test_tiny_zoo(name: str) -> None:
    (row,) = check_zoo([name], 15).to_dict("records")
    assert row["wrong"] == 0, row["first_wrong"]
    assert row["equals_eager"]
    assert row["output_std"] > 0.05
    assert row["moved_std"] > 0.02
    assert row["operator_prefixes"] >= row["layer_prefixes"] > 3


@pytest.mark.slow
@pytest.mark.parametrize("name", sp.zoo_names(tiny=False))
def test_whole_zoo(name: str) -> None:
    (row,) = check_zoo([name], 200).to_dict("records")
    assert row["wrong"] == 0, row["first_wrong"]
    assert row["equals_eager"]
    assert row["output_std"] > 0.05
    assert row["moved_std"] > 0.02
    assert row["operator_prefixes"] > 20


def test_sizes_are_stated_for_every_full_model() -> None:
    assert set(SIZES) == set(sp.zoo_names(tiny=False))
    assert set(BUILD) <= set(SIZES)


# -- how a model is cut ------------------------------------------------------------------------------


def test_a_device_to_server_cut_has_one_head_and_one_tail() -> None:
    traced = trace(sp.zoo("tiny-branch"), sp.zoo_example("tiny-branch"), granularity="operator")
    for server in random_monotone(traced.graph, 30, seed=5):
        device = {layer.name for layer in traced.graph.layers} - server
        parts = make_parts(traced, {layer.name: "s" if layer.name in server else "d" for layer in traced.graph.layers})
        assert [set(p.layers) for p in parts] == [x for x in (device, set(server)) if x]


def test_segments_wait_for_nothing_that_runs_later() -> None:
    traced = trace(sp.zoo("tiny-branch"), sp.zoo_example("tiny-branch"), granularity="operator")
    draw = random.Random(3)
    for _ in range(50):
        placement = {layer.name: draw.choice("abc") for layer in traced.graph.layers}
        found = segments(traced.graph, placement)
        assert sorted(n for s in found for n in s) == sorted(placement)
        at = {n: i for i, s in enumerate(found) for n in s}
        assert all(len({placement[n] for n in s}) == 1 for s in found)
        for t in traced.graph.tensors:
            assert all(t.producer == "input" or at[t.producer] <= at[c] for c in t.consumers)
        assert all(placement[a[0]] != placement[b[0]] for a, b in pairwise(found))


def test_a_part_carries_its_own_weights_only() -> None:
    traced = trace(sp.zoo("tiny-cnn"), sp.zoo_example("tiny-cnn"))
    layers = [layer.name for layer in traced.graph.layers]
    head, tail = make_parts(traced, {name: "d" if i < 3 else "s" for i, name in enumerate(layers)})
    assert head.weight_bytes + tail.weight_bytes == sum(traced.graph.parameter_bytes.values())
    assert head.weight_bytes == traced.graph.bytes_of_parameters(layers[:3])
    weight = traced.program.state_dict["features.0.weight"]
    assert head.module.get_parameter("w_features__0__weight").data_ptr() == weight.data_ptr()
    assert {n.split("__")[0] for n, _ in tail.module.named_parameters()} == {"w_features", "w_head"}


def test_a_tied_weight_stays_one_in_a_part() -> None:
    traced = trace(M.seeded(M.SharedConv()), torch.randn(1, 4, 8, 8))
    assert whole(traced).weight_bytes == 4 * (4 * 4 * 9 + 4)


def test_placements_are_checked() -> None:
    traced = trace(sp.zoo("tiny-mlp"), sp.zoo_example("tiny-mlp"))
    with pytest.raises(DataError) as caught:
        make_parts(traced, {"layers.0": "d", "nothing": "s"})
    assert len(caught.value.problems) == 3
    assert "'nothing' is no layer of it (granularity 'layer')" in str(caught.value)


def test_parts_of_a_loaded_model(tmp_path: Path) -> None:
    traced = trace(M.seeded(M.Strided()), torch.randn(2, 7, 12), granularity="operator")
    x = torch.randn(3, 7, 12)
    values, symbols, expected = unsplit(traced, x)
    traced.save(tmp_path / "m.pt2")
    loaded = load_traced(tmp_path / "m.pt2")
    layers = [layer.name for layer in loaded.graph.layers]
    for k in range(len(layers) + 1):
        assert difference(loaded, frozenset(layers[k:]), values, symbols, expected) == ""


def test_moving_a_part_leaves_the_model_alone() -> None:
    traced = trace(sp.zoo("tiny-cnn"), sp.zoo_example("tiny-cnn"))
    part = whole(traced)
    assert part.to("cpu") is part
    with pytest.raises(DataError, match="no device"):
        part.to("nonsense")
    moved = part.to("meta")
    assert {w.device.type for w in (*moved.module.parameters(), *moved.module.buffers())} == {"meta"}
    assert {w.device.type for w in (*part.module.parameters(), *part.module.buffers())} == {"cpu"}
    values = {k: v.to("meta") for k, v in traced.flatten(sp.zoo_example("tiny-cnn")).items()}
    (out,) = moved(values, traced.symbols(values)).values()
    assert out.device.type == "meta"
    with pytest.raises(BoundaryError, match="is on cpu; this part runs on meta"):
        moved(traced.flatten(sp.zoo_example("tiny-cnn")), {"batch": 1})


def test_nodes_that_make_tensors_follow_the_device() -> None:
    traced = trace(M.seeded(M.Many()), torch.randn(2, 3, 8, 8))
    moved = whole(traced).to("meta")
    values = {"x": torch.empty(3, 3, 8, 8, device="meta")}
    assert {v.device.type for v in moved(values, {"batch": 3}).values()} == {"meta"}


# -- boundaries --------------------------------------------------------------------------------------


def test_boundaries_are_checked() -> None:
    traced = trace(sp.zoo("tiny-cnn"), sp.zoo_example("tiny-cnn"))
    part = whole(traced)
    x = sp.zoo_example("tiny-cnn", batch=2)
    (spec,) = part.inputs
    assert (spec.name, spec.dtype, spec.shape) == ("x", "float32", ("batch", 3, 32, 32))
    assert spec.concrete({"batch": 2}) == (2, 3, 32, 32)
    for value, says in [
        (x.double(), r"float64 of shape \(2, 3, 32, 32\); this part takes float32"),
        (x[:1], r"shape \(1, 3, 32, 32\); this part takes float32 of shape \(2, 3, 32, 32\)"),
        (x.transpose(2, 3), r"is not row-major .* call \.contiguous\(\)"),
        ([1.0], "is a list; a tensor is expected"),
    ]:
        with pytest.raises(BoundaryError, match=says):
            part({"x": value}, {"batch": 2})  # type: ignore[dict-item]
        with pytest.raises(BoundaryError, match=says):
            validate(spec, value, {"batch": 2})
    with pytest.raises(BoundaryError, match="'x' is missing; the part on 'device' takes x"):
        part({}, {"batch": 2})
    with pytest.raises(BoundaryError, match="symbol 'batch' is missing"):
        part({"x": x}, {})
    validate(spec, x, {"batch": 2})


def test_outputs_are_row_major() -> None:
    traced = trace(M.seeded(M.ChannelsLast()), torch.randn(2, 3, 9, 9), granularity="operator")
    layers = [layer.name for layer in traced.graph.layers]
    for k in range(1, len(layers)):
        head, _ = make_parts(traced, {name: "d" if i < k else "s" for i, name in enumerate(layers)})
        with torch.inference_mode():
            assert all(v.is_contiguous() for v in head(traced.flatten(torch.randn(3, 3, 9, 9)), {"batch": 3}).values())


@pytest.mark.parametrize(
    "make",
    [
        lambda t: t.transpose(0, 2),
        lambda t: t[:, ::2],
        lambda t: t[:1].expand(5, -1, -1),
        lambda t: t[..., :1].expand(-1, -1, 3).transpose(0, 1),
        lambda t: t.unfold(2, 3, 1),
    ],
)
def test_layouts_are_given_back(make: Any) -> None:
    view = make(torch.randn(4, 6, 8))
    laid = lay_out(view.contiguous(), view.stride())
    assert torch.equal(laid, view)
    assert laid.stride() == view.stride()


def test_checking_costs_microseconds() -> None:
    traced = trace(sp.zoo("tiny-cnn"), sp.zoo_example("tiny-cnn"))
    part, values = whole(traced), traced.flatten(sp.zoo_example("tiny-cnn"))
    part.arguments(values, {"batch": 1})
    best = min(_seconds(lambda: part.arguments(values, {"batch": 1})) for _ in range(200))
    assert best < 100e-6  # some 3 µs on a quiet core


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


# -- timing ------------------------------------------------------------------------------------------


def test_layers_are_timed() -> None:
    class Uneven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large = nn.Linear(8, 1024), nn.Linear(1024, 1024)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.large(self.small(x + torch.arange(8)))
            return y

    traced = trace(M.seeded(Uneven()), torch.randn(64, 8), granularity="operator")
    timed = instrument(whole(traced))
    values = traced.flatten(torch.randn(64, 8))
    with torch.inference_mode():
        expected = whole(traced)(values, {"batch": 64})
        runs = []
        for _ in range(20):
            start = time.perf_counter()
            found, seconds = timed(values, {"batch": 64})
            runs.append((time.perf_counter() - start, seconds))
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    assert list(seconds) == [layer.name for layer in traced.graph.layers] == ["add", "small", "large"]
    assert all(s > 0 for _, run in runs for s in run.values())
    assert all(sum(run.values()) <= whole_s for whole_s, run in runs)
    fastest = {name: min(run[name] for _, run in runs) for name in seconds}
    assert fastest["large"] > fastest["small"]
    assert (
        timed.module.get_parameter("w_large__weight").data_ptr() == traced.program.state_dict["large.weight"].data_ptr()
    )
