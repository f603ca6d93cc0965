"""Models by name: factories that cannot be called, that fail, and what their model is then called."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitplan.data.plan import SplitPlan
from splitplan.errors import DataError, FingerprintError
from splitplan.models.load import load_model

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        return torch.relu(x * 2)

def factory(): return Net().eval(), torch.ones(2, 3)
def by_keyword(): return Net().eval(), {"x": torch.ones(2, 3)}
def needs(size): return Net().eval(), torch.ones(2, size)
def fails(): return deeper()
def deeper(): raise OSError("no such weights")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "net_for_load.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "broken_for_load.py").write_text("import torch\n1 / 0\n", encoding="utf-8")
    return "net_for_load"


def test_a_factory_that_needs_an_argument(module: str) -> None:
    with pytest.raises(
        DataError, match=r"^model 'net_for_load:needs': cannot be called without arguments \(.*'size'\)"
    ):
        load_model(f"{module}:needs")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("net_for_load:fails", ["the factory failed", "in deeper", "OSError: no such weights"]),
        ("broken_for_load:make", ["importing 'broken_for_load' failed", "1 / 0", "ZeroDivisionError"]),
    ],
)
def test_the_users_own_traceback_and_no_more(module: str, spec: str, says: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        load_model(spec)
    text = str(caught.value)
    assert all(s in text for s in says)
    assert "load.py" not in text.replace("_for_load.py", "") and "importlib" not in text


def test_named_after_its_class_and_told_apart_by_how_it_is_called(module: str) -> None:
    told: list[str] = []
    traced, other = load_model(f"{module}:factory", progress=told.append), load_model(f"{module}:by_keyword")
    assert told == ["exporting", "making it functional", "counting sizes and work", "comparing with the model"]
    assert traced.name == other.name == "Net"
    with pytest.raises(FingerprintError, match="which inputs are given by position and which by keyword"):
        SplitPlan.for_cut(other.graph, ()).check(traced.graph)
