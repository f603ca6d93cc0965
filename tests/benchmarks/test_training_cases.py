"""Every case of the training benchmark can be made: its smoke run has a case of its own."""

from __future__ import annotations

import pytest

from benchmarks.training import FULL, Case


@pytest.mark.parametrize("case", FULL.cases, ids=lambda c: f"{c.name}, {c.batch}")
def test_a_case_is_made(case: Case) -> None:
    model, loss_fn, x, y = case.make(2)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert float(loss_fn(model(x), y).detach()) > 0
