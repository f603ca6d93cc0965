"""Tracing: what the layer graph says, calling, fingerprints, files, and every refusal with its cure."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import splitplan as sp
from splitplan.errors import DataError, FingerprintError, TraceError, UnknownNameError
from splitplan.models.graph import INPUT
from splitplan.models.load import load_model
from splitplan.models.partition import run_parts, whole
from splitplan.models.trace import Traced, from_program, load_traced, trace
from tests.models import models as M

GRANULARITIES = ("operator", "layer", "block")


@cache
def tiny(name: str = "tiny-branch", batch: int = 1, **options: Any) -> Traced:
    return trace(sp.zoo(name), sp.zoo_example(name, batch=batch), name=name, **options)


# -- the graph ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", sp.zoo_names(tiny=True)[-4:])
def test_each_node_is_in_one_layer(name: str, granularity: str) -> None:
    traced = tiny(name, granularity=granularity)
    nodes = [n for layer in traced.graph.layers for n in layer.nodes]
    assert len(nodes) == len(set(nodes))
    assert set(nodes) == {n.name for n in traced.exported.live if n in traced.exported.data}
    at = {n: i for i, layer in enumerate(traced.graph.layers) for n in layer.nodes}
    for node in traced.exported.live:
        for argument in node.all_input_nodes:
            if node.name in at and argument.name in at:
                assert at[argument.name] <= at[node.name]


def test_tensors_are_exactly_what_crosses() -> None:
    traced = tiny("tiny-transformer", granularity="operator")
    by_name = {t.name: t for t in traced.graph.tensors}
    at = {n: layer.name for layer in traced.graph.layers for n in layer.nodes}
    for node in (*traced.exported.inputs.values(), *traced.exported.live):
        readers = {at[u.name] for u in node.users if u.name in at} - {at.get(node.name)}
        if node in traced.exported.data and readers:
            assert set(by_name.pop(node.name).consumers) == readers
    assert [t.is_output for t in by_name.values()] == [True]


def test_granularities_nest_and_keep_the_work() -> None:
    graphs = {g: tiny("tiny-cnn", granularity=g).graph for g in GRANULARITIES}
    assert len(graphs["operator"]) == 13
    assert [x.kind for x in graphs["layer"].layers] == [
        "conv2d+batch_norm+relu", "max_pool2d", "conv2d+batch_norm+relu", "max_pool2d", "conv2d+batch_norm+relu+mean", "linear",
    ]  # fmt: skip
    assert [x.kind for x in tiny("tiny-branch", granularity="block").graph.layers][1].startswith("5×conv2d")
    work = {g: math.fsum(x.work_flops for x in graph.layers) for g, graph in graphs.items()}
    # 2 · out pixels · out channels · in channels · kernel, by hand
    by_hand = 2 * (1024 * 8 * 3 * 9 + 256 * 16 * 8 * 9 + 64 * 16 * 16 * 9 + 16 * 10)
    assert set(work.values()) == {float(by_hand)}
    assert len({graph.fingerprint for graph in graphs.values()}) == 1


def test_residual_blocks_become_one_layer_by_block() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.a, self.b, self.last = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(x))
            out: torch.Tensor = self.last(torch.relu(x + self.b(torch.relu(self.a(x)))))
            return out

    graph = trace(M.seeded(Residual()), torch.randn(1, 4, 8, 8), granularity="block").graph
    assert [x.kind for x in graph.layers] == ["conv2d+relu", "2×conv2d+2×relu+add", "conv2d"]
    assert graph.layers[1].module == ""
    assert len(graph.tensors) == 4


def test_attention_is_counted_on_the_cpu() -> None:
    class Attention(nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(q, q, q)

    graph = trace(Attention().eval(), torch.randn(2, 4, 16, 8)).graph
    assert graph.layers[0].work_flops == 2 * 2 * (2 * 4 * 16 * 16 * 8)


def test_a_recurrent_network_is_counted_on_the_cpu() -> None:
    graph = trace(nn.LSTM(6, 5, num_layers=2, batch_first=True).eval(), torch.randn(2, 4, 6)).graph
    assert math.fsum(x.work_flops for x in graph.layers) == 2 * 2 * 4 * (4 * 5 * (6 + 5) + 4 * 5 * (5 + 5))


def test_a_written_out_activation_is_one_layer_with_its_linear() -> None:
    class Gelu(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line, self.out = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.line(x)
            z: torch.Tensor = self.out(0.5 * y * (1 + torch.tanh(0.8 * (y + 0.04 * y**3))))
            return z

    assert len(trace(M.seeded(Gelu()), torch.randn(2, 8)).graph) == 2


def test_nothing_is_joined_across_a_small_tensor() -> None:
    class Widen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            small = x @ x.transpose(1, 2)
            return (small.double() + 1).expand(3, -1, -1, -1).exp()

    kinds = [x.kind for x in trace(Widen().eval(), torch.randn(2, 3, 50)).graph.layers]
    # A cut in front of the cast sends half of what one behind it sends: it must stay possible.
    assert "matmul" in kinds
    assert not any("matmul" in k and "to" in k.split("+") for k in kinds)


def test_memory_follows_what_is_alive() -> None:
    class Skip(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = torch.sort(x)[0]
            b = torch.cumsum(a, 1)
            c = torch.cumsum(b, 1)
            return torch.cumsum(c, 1) + a

    graph = trace(Skip().eval(), torch.randn(1, 1000), granularity="operator").graph
    # sort: input, values, indices (int64); then a lives on until the add; inputs of a node are alive while it runs.
    assert [x.memory_bytes for x in graph.layers] == [16000.0, 8000.0, 12000.0, 12000.0, 12000.0]


def test_modules_are_named() -> None:
    graph = tiny("tiny-branch").graph
    assert [x.module for x in graph.layers][:3] == ["stem", "one.0", "three.0"]


def test_sizes_are_those_of_the_examples_batch() -> None:
    one, four = tiny(batch=1).graph, tiny(batch=4).graph
    assert (one.batch, four.batch) == (1, 4)
    for a, b in zip(one.tensors, four.tensors, strict=True):
        assert b.size_bytes == 4 * a.size_bytes
        assert b.shape == (4, *a.shape[1:])
    assert [4 * x.work_flops for x in one.layers] == [x.work_flops for x in four.layers]
    assert one.parameter_bytes == four.parameter_bytes
    assert one.fingerprint == four.fingerprint


def test_tied_weights_are_one_parameter() -> None:
    traced = trace(M.seeded(M.Many()), torch.randn(2, 3, 8, 8), granularity="operator")
    linear = [x for x in traced.graph.layers if x.kind == "linear"]
    shared = set(linear[0].parameters) & set(linear[1].parameters)
    assert len(shared) == 1
    assert len(traced.graph.parameter_bytes) == 10
    assert "three" not in str(traced.graph.tensors)


def test_a_shared_convolution_is_three_layers_and_one_parameter() -> None:
    graph = trace(M.seeded(M.SharedConv()), torch.randn(1, 4, 8, 8)).graph
    convolutions = [x for x in graph.layers if "conv" in x.kind]
    assert len(convolutions) == 3
    assert len({x.parameters for x in convolutions}) == 1
    assert graph.bytes_of_parameters(x.name for x in convolutions) == 4 * (4 * 4 * 9 + 4)


def test_numbers_and_data_free_nodes_are_in_no_layer() -> None:
    traced = trace(M.seeded(M.Many()), torch.randn(2, 3, 8, 8), granularity="operator")
    kinds = {x.kind for x in traced.graph.layers}
    assert not kinds & {"arange", "sym_size", "to", "unsqueeze"}
    assert all(t.producer == INPUT or t.dtype in ("float32", "int64") for t in traced.graph.tensors)
    assert "linear" in kinds


# -- calling -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("example_batch", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_is_free(example_batch: int, batch: int) -> None:
    model = M.seeded(M.Many())
    traced = trace(model, torch.randn(example_batch, 3, 8, 8))
    x = torch.randn(batch, 3, 8, 8)
    values = traced.flatten(x)
    assert traced.symbols(values) == {"batch": batch}
    found, expected = traced.module()(x), model(x)
    assert found.keys() == expected.keys()
    for k, v in expected.items():
        assert torch.equal(found[k], v) if isinstance(v, torch.Tensor) else found[k] == v
    assert expected["a"].detach().std() > 0


def test_two_inputs_by_keyword_or_position() -> None:
    model = M.seeded(M.TwoInputs())
    ids, weight = torch.randint(16, (2, 5)), torch.randn(2)
    traced = trace(model, {"ids": ids, "weight": weight, "power": 2})
    assert [t.name for t in traced.graph.inputs] == ["ids", "weight"]
    by_keyword = traced.flatten(weight=weight, ids=ids, power=2)
    by_position = traced.flatten(ids, weight, 2)
    assert by_keyword.keys() == by_position.keys() == {"ids", "weight"}
    assert all(torch.equal(by_keyword[k], by_position[k]) for k in by_keyword)
    with pytest.raises(DataError, match=r"'power' is 3; the model was traced with 2 fixed"):
        traced.flatten(ids, weight, 3)
    with pytest.raises(DataError, match=r"'weight' has batch 1, but 'ids' has 2"):
        traced.flatten(ids, weight[:1], 2)
    with pytest.raises(DataError) as caught:
        traced.flatten(ids, mask=weight)
    assert len(caught.value.problems) == 3
    assert "argument 'mask' is not one that was traced" in str(caught.value)


def test_every_wrong_input_is_named() -> None:
    traced = trace(M.seeded(M.TwoInputs()), (torch.randint(16, (2, 5)), torch.randn(2)))
    with pytest.raises(DataError) as caught:
        traced.flatten(torch.zeros(2, 6, dtype=torch.int64), torch.zeros(2, dtype=torch.float64))
    first, second = caught.value.problems
    assert "'ids' is int64 of shape (2, 6); expected int64 of shape (batch, 5)" in first
    assert "'weight' is float64 of shape (2); expected float32 of shape (batch)" in second
    with pytest.raises(DataError, match="1 arguments were given; expected ids, weight"):
        traced.flatten(torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(DataError, match="a tensor is expected"):
        traced.flatten(torch.zeros(2, 5, dtype=torch.int64), 1.0)
    with pytest.raises(DataError, match="nesting"):
        traced.flatten(torch.zeros(2, 5, dtype=torch.int64), [1.0, 2.0])
    with pytest.raises(DataError, match="batch 0; the model was exported for 1 to"):
        traced.flatten(torch.zeros(0, 5, dtype=torch.int64), torch.zeros(0))


def test_nested_inputs() -> None:
    class Nested(nn.Module):
        def forward(self, pair: tuple[torch.Tensor, dict[str, torch.Tensor]]) -> torch.Tensor:
            return pair[0] + pair[1]["b"].exp()

    traced = trace(Nested().eval(), ((torch.randn(2, 3), {"b": torch.randn(2, 3)}),))
    assert len(traced.graph.inputs) == 2
    with pytest.raises(DataError, match="nesting"):
        traced.flatten((torch.randn(2, 3), {"c": torch.randn(2, 3)}))


def test_a_fixed_batch_stays_fixed() -> None:
    model = M.Halves().eval()
    traced = trace(model, torch.randn(4, 6), dynamic_batch=False)
    assert traced.symbols(traced.flatten(torch.randn(4, 6))) == {}
    with pytest.raises(DataError, match=r"shape \(2, 6\); expected float32 of shape \(4, 6\)"):
        traced.flatten(torch.randn(2, 6))
    with pytest.raises(DataError, match="fixed batch 4"):
        traced.example_inputs(2)
    assert "fixed batch 4" in repr(traced)


def test_outputs_go_back_into_the_models_structure() -> None:
    model = M.seeded(M.Returns())
    traced = trace(model, torch.randn(2, 6))
    x = torch.randn(3, 6)
    values = traced.flatten(x)
    with pytest.raises(DataError, match="3 problems"):
        traced.unflatten({})
    outputs = run_parts([whole(traced)], values, traced.symbols(values))
    assert len(traced.graph.outputs) == 3
    line, size, table, places = traced.unflatten(outputs, traced.symbols(values))
    assert size == 3
    assert torch.equal(line, model(x)[0])
    assert torch.equal(table, torch.arange(3.0))
    assert torch.equal(places, torch.arange(3))
    with pytest.raises(DataError, match="returns the size batch; give `symbols`"):
        traced.unflatten(outputs)


def test_example_inputs_repeat_the_example() -> None:
    x = torch.randn(2, 3, 32, 32)
    traced = trace(sp.zoo("tiny-cnn"), x)
    (value,) = traced.example_inputs(5).values()
    assert torch.equal(value, x[[0, 1, 0, 1, 0]])
    (one,) = trace(sp.zoo("tiny-cnn"), x[:1]).example_inputs().values()
    assert torch.equal(one, x[:1])
    with pytest.raises(DataError, match="at least 1"):
        traced.example_inputs(0)


def test_the_example_as_a_call_of_the_model() -> None:
    class Both(nn.Module):
        def forward(self, *, x: torch.Tensor, pair: tuple[torch.Tensor, float]) -> torch.Tensor:
            return x + pair[0] * pair[1]

    x, y = torch.randn(1, 3), torch.randn(1, 3)
    traced = trace(Both().eval(), {"x": x, "pair": (y, 2.0)})
    args, kwargs = traced.example_call()
    assert args == ()
    assert torch.equal(Both()(**kwargs), x + 2 * y)
    assert torch.equal(traced.example_call(3)[1]["x"], x.repeat(3, 1))
    args, kwargs = tiny("tiny-cnn").example_call()
    assert kwargs == {}
    assert torch.equal(args[0], sp.zoo_example("tiny-cnn"))


def test_the_model_is_left_as_it_was() -> None:
    class Caches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last: torch.Tensor | None = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.last = x
            return x.sin()

    model = Caches().eval()
    trace(model, torch.randn(2, 3))
    assert model.last is None
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(True)
    attention = nn.TransformerEncoderLayer(16, 2, batch_first=True).eval()
    traced = trace(attention, torch.randn(2, 5, 16))
    assert torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    x = torch.randn(3, 5, 16)
    with torch.no_grad():
        assert torch.equal(traced.module()(x), attention(x))
    torch.backends.mha.set_fastpath_enabled(fast)


# -- fingerprints and files ----------------------------------------------------------------------------

SCRIPT = """
import torch, splitplan as sp
{threads}
traced = sp.trace(sp.zoo("{name}"), sp.zoo_example("{name}", batch={batch}), granularity="operator", name="other")
print(traced.fingerprint)
"""


@pytest.mark.parametrize("name", ["tiny-cnn", "tiny-transformer"])
def test_another_process_gets_the_same_fingerprint(name: str) -> None:
    code = SCRIPT.format(name=name, threads="torch.set_num_threads(2)", batch=3)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2"},
    )
    assert done.stdout.strip() == tiny(name).fingerprint


def test_one_weight_changes_the_fingerprint() -> None:
    model = sp.zoo("tiny-cnn")
    example = sp.zoo_example("tiny-cnn")
    before = trace(model, example).fingerprint
    assert trace(model, example).fingerprint == before
    with torch.no_grad():
        model.get_parameter("features.4.weight")[3, 2, 1, 0] += 1e-7
    after = trace(model, example).fingerprint
    assert after != before
    assert trace(sp.zoo("tiny-cnn", seed=1), example).fingerprint not in (before, after)


def test_another_structure_has_another_fingerprint() -> None:
    found = set()
    for activation in (nn.ReLU(), nn.Sigmoid(), nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)):
        found.add(trace(nn.Sequential(nn.Flatten(), activation).eval(), torch.randn(2, 3)).fingerprint)
    assert len(found) == 4


def test_save_and_load(tmp_path: Path) -> None:
    traced = trace(M.seeded(M.Many()), torch.randn(1, 3, 8, 8), name="many")
    path = tmp_path / "many.pt2"
    traced.save(path)
    assert list(tmp_path.iterdir()) == [path]
    again = load_traced(path)
    assert again.graph == traced.graph
    assert again.fingerprint == traced.fingerprint
    assert (again.name, again.granularity) == ("many", "layer")
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(again.module()(x)["a"], traced.module()(x)["a"])
    assert torch.equal(again.flatten(x)["x"], x)
    assert torch.equal(*(t.example_inputs()["x"] for t in (traced, again)))
    assert load_traced(path, granularity="operator").graph == traced.at("operator").graph
    assert load_traced(path, name="other").name == "other"
    code = f"import splitplan as sp; print(sp.load_traced({str(path)!r}).fingerprint)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == traced.fingerprint


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    traced = tiny("tiny-mlp")
    path = tmp_path / "m.pt2"
    traced.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"m\.pt2: is no \.pt2 file, or is cut short"):
        load_traced(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="cut short"):
        load_traced(path)
    with pytest.raises(DataError, match="cannot be read"):
        load_traced(tmp_path / "none.pt2")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("something/else", "x")
    with pytest.raises(DataError, match="torch cannot load it"):
        load_traced(path)


def test_altered_weights_are_noticed(tmp_path: Path) -> None:
    traced = tiny("tiny-mlp")
    path = tmp_path / "m.pt2"
    traced.save(path)
    changed = tmp_path / "changed.pt2"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(changed, "w") as target:
        done = 0
        for entry in source.infolist():
            data = source.read(entry)
            if "/weights/" in entry.filename and len(data) == 4 * 64 * 64:
                data, done = bytes(4) + data[4:], done + 1
            target.writestr(entry, data)
    assert done == 1
    with pytest.raises(FingerprintError, match="altered"):
        load_traced(changed)


def test_saving_is_whole_or_not_at_all(tmp_path: Path) -> None:
    traced = tiny("tiny-mlp")
    with pytest.raises(DataError, match=r"ends in \.pt2"):
        traced.save(tmp_path / "m.bin")
    with pytest.raises(DataError, match="Nothing was changed"):
        traced.save(tmp_path / "no" / "m.pt2")
    (tmp_path / "m.pt2").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        traced.save(tmp_path / "m.pt2")
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt2"]


def test_somebody_elses_pt2(tmp_path: Path) -> None:
    model = sp.zoo("tiny-cnn")
    batch = torch.export.Dim("n", min=2, max=64)
    program = torch.export.export(model, (sp.zoo_example("tiny-cnn", batch=4),), dynamic_shapes=({0: batch},))
    path = tmp_path / "theirs.pt2"
    torch.export.save(program, path)
    traced = load_traced(path)
    assert (traced.name, traced.graph.batch, len(traced.graph)) == ("theirs", 4, 6)
    assert traced.fingerprint == from_program(program).fingerprint
    with pytest.raises(DataError, match="batch 1; the model was exported for 2 to 64"):
        traced.flatten(torch.randn(1, 3, 32, 32))


def test_pickling_says_what_to_do_instead() -> None:
    with pytest.raises(DataError, match=r"\.save\(path\)"):
        pickle.dumps(tiny("tiny-mlp"))


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (M.Branchy(), (r"decides by the data", r"torch\.where")),
        (M.Halves(), ("does not run at every batch", r"dynamic_batch=False")),
        (M.OneIsSpecial(), ("at batch 1", "branches on the batch size", "dynamic_batch=False")),
        (M.Counter(), ("changes its own state 'calls'", "without writing")),
        (M.PythonCounter(), ("keeps a counter", "out of forward")),
        (M.WritesInput(), ("writes into its input 'x'", "clone")),
        (M.Noisy(), ("draws random numbers", "eval mode")),
        (nn.Dropout(0.5).train(), ("in train mode: the model", r"model\.eval\(\)")),
        (M.Picks(), ("depends on the data", "fixed shape")),
        (M.Asks(), ("depends on the data", "fixed shape")),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_models_that_cannot_be_cut(model: nn.Module, says: tuple[str, ...]) -> None:
    if not isinstance(model, nn.Dropout):
        model.eval()
    with pytest.raises(TraceError) as caught:
        trace(model, torch.rand(4, 6))
    for text in says:
        assert text.replace("\\", "") in str(caught.value)


def test_a_refusal_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TraceError):
        trace(M.Branchy().eval(), torch.rand(4, 6))
    assert capfd.readouterr() == ("", "")


def test_a_child_in_train_mode_is_named() -> None:
    model = sp.zoo("tiny-cnn")
    model.get_submodule("features.1").train()
    with pytest.raises(TraceError, match=r"in train mode: features\.1\. Call model\.eval"):
        trace(model, sp.zoo_example("tiny-cnn"))


def test_an_output_without_data_is_refused() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones(x.shape[0])

    with pytest.raises(TraceError, match="nothing to split"):
        trace(Constant().eval(), torch.randn(2, 3))


@pytest.mark.parametrize(
    ("example", "says"),
    [
        ([torch.zeros(1)], "goes in a tuple"),
        ("x", "give a tensor"),
        ({}, "no tensor"),
        (torch.zeros(0, 6), "batch is 0"),
        ((), "no tensor"),
    ],
)
def test_bad_examples(example: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        trace(nn.Flatten().eval(), example)


def test_no_module_and_unknown_granularity() -> None:
    with pytest.raises(TraceError, match="a function was given"):
        trace(lambda x: x, torch.zeros(1))  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="traced already"):
        trace(tiny("tiny-mlp"), torch.zeros(1))  # type: ignore[arg-type]
    with pytest.raises(TraceError, match=r"the class ReLU was given; .* ReLU\(…\)\.eval\(\)"):
        trace(nn.ReLU, torch.zeros(1))  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="operator, layer, block"):
        tiny(granularity="atom")
    with pytest.raises(TraceError, match="batch dimension"):
        trace(nn.ReLU().eval(), torch.tensor(1.0))


@pytest.mark.parametrize(
    ("model", "example", "says"),
    [
        (nn.Linear(3, 4), torch.zeros(2, 5), r"\(float32 of shape \(2, 5\)\): RuntimeError: mat1 and mat2"),
        (nn.Linear(3, 4), torch.zeros(2, 3).double(), r"\(float64 of shape \(2, 3\)\): RuntimeError: "),
        (nn.Linear(3, 4), {"y": torch.zeros(2, 3)}, r"\(y: float32 of shape \(2, 3\)\): TypeError: .*'y'"),
        (nn.Linear(3, 4), (torch.zeros(2, 3), 5), r"\(float32 of shape \(2, 3\), a int\): TypeError"),
        # Only real data shows this one, after an export that went well.
        (nn.Embedding(4, 3), torch.tensor([[7]]), r"\(int64 of shape \(1, 1\)\): IndexError: index out of range"),
    ],
)
def test_a_model_that_fails_by_itself_is_not_blamed_for_its_export(model: nn.Module, example: Any, says: str) -> None:
    with pytest.raises(TraceError, match=rf"^the model itself.* fails on this example {says}.*must work\.$") as caught:
        trace(model.eval(), example)
    assert "\n" not in str(caught.value)


def test_a_model_that_cannot_be_exported_is_told_from_one_that_fails() -> None:
    class Opaque(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x * float(x.detach().numpy().sum())

    model = Opaque().eval()
    with pytest.raises(TraceError, match=r"^torch\.export failed"):
        trace(model, torch.ones(2, 3))
    assert model.calls == 0
    with pytest.raises(TraceError, match="TorchScript"):
        trace(torch.jit.trace(nn.ReLU().eval(), torch.ones(2, 3)), torch.ones(2, 3))


def test_a_model_that_fails_on_one_row_is_told_to_fix_the_batch() -> None:
    class Spread(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not torch.compiler.is_compiling() and len(x) < 2:
                raise ValueError("a spread needs two rows")
            return x - x.mean(0)

    with pytest.raises(
        TraceError, match=r"fails on the example at batch 1 .*: a spread needs two rows\. Trace with dyn"
    ):
        trace(Spread().eval(), torch.ones(4, 3))


# -- load_model --------------------------------------------------------------------------------------

FACTORIES = """
import torch
from torch import nn

def both(): return nn.Linear(3, 2).eval(), torch.zeros(2, 3)
def alone(): return nn.Linear(3, 2).eval()
def three(): return 1, 2, 3
number = 3
"""


def test_models_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    assert load_model("my_models:both").name == "Linear"
    assert load_model("my_models:alone", example=torch.zeros(2, 3)).graph.batch == 2
    assert load_model("zoo:tiny-mlp", granularity="operator", batch=3).graph.batch == 3
    path = tmp_path / "m.pt2"
    tiny("tiny-mlp").save(path)
    assert load_model(str(path)).name == "tiny-mlp"
    for spec, says in {
        "my_models:alone": "no example",
        "my_models:three": "returned 3 values",
        "my_models:number": "'number' is a int",
        "no_such_module:f": "PYTHONPATH",
        "resnet": "FILE.pt2, zoo:NAME or package.module:factory",
        ":x": "is no model",
    }.items():
        with pytest.raises(DataError, match=says.replace(".", r"\.")):
            load_model(spec)
    with pytest.raises(UnknownNameError, match=r"known: .*both"):
        load_model("my_models:bith")
    with pytest.raises(UnknownNameError, match="tiny-mlp"):
        load_model("zoo:nothing")
