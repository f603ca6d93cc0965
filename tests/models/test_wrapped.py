"""Models whose own names are those of a GraphModule: users see their names, and what runs is their model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from splitplan.errors import TraceError
from splitplan.models.partition import make_parts, run_parts
from splitplan.models.trace import from_program, load_traced, trace

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


class Named(nn.Module):
    """The same computation, whatever its second step is called."""

    def __init__(self, name: str, kind: str = "module") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.chosen, self.kind = nn.Linear(4, 4), name, kind
        value = torch.arange(4.0)
        if kind == "module":
            self.add_module(name, nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
        elif kind == "parameter":
            self.register_parameter(name, nn.Parameter(value))
        elif kind == "buffer":
            self.register_buffer(name, value)
        else:
            setattr(self, name, value)

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> torch.Tensor:
        step, first = getattr(self, self.chosen), torch.relu(self.first(x)) * scale
        return torch.relu(step(first) if self.kind == "module" else first * step)


CALL = {"x": X, "scale": torch.ones(1)}


@pytest.mark.parametrize("name", ["meta", "graph", "code", "recompile", "_guards_fn"])
def test_a_submodule_of_any_name(name: str, tmp_path: Path) -> None:
    model = Named(name).eval()
    before = dict(vars(model))
    traced = trace(model, CALL)
    assert vars(model) == before
    names = [x.name for x in traced.graph.layers]
    assert names[0] == "first" and names[-2:] == [f"{name}.0", f"{name}.1"]
    assert {f"{name}.0.weight", "first.bias"} <= set(traced.graph.parameter_bytes) and traced.name == "Named"
    usual = trace(Named("second").eval(), CALL)
    assert traced.fingerprint == usual.fingerprint
    assert traced.flatten(X, scale=torch.ones(1)).keys() == usual.flatten(X, scale=torch.ones(1)).keys()
    traced.save(tmp_path / "m.pt2")
    read = load_traced(tmp_path / "m.pt2")
    assert read.graph == traced.graph and read.at("operator").graph == traced.at("operator").graph
    values = read.flatten(**CALL)
    for cut in range(5):
        placement = {x.name: "device" if i < cut else "server" for i, x in enumerate(read.graph.layers)}
        known = run_parts(make_parts(read, placement), values, read.symbols(values))
        assert torch.equal(read.unflatten(known), model(**CALL))


@pytest.mark.parametrize("kind", ["parameter", "buffer", "plain"])
def test_a_tensor_of_such_a_name(kind: str) -> None:
    model = Named("code", kind).eval()
    traced = trace(model, CALL, granularity="operator")
    assert "code" in traced.graph.parameter_bytes
    assert torch.equal(traced.module()(**CALL), model(**CALL))


def test_a_program_of_ones_own_with_such_a_name() -> None:
    program = torch.export.export(Named("meta").eval(), (), CALL)
    with pytest.raises(TraceError, match=r"'meta'.*splitplan\.trace"):
        from_program(program)
