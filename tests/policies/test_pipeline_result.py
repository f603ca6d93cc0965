"""Formula beside run: what a live report says was busy, and what its stages of several places took, by the predictions' names."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
import pytest

import splitplan as sp
from splitplan.executor.pipeline_busy import Busy
from splitplan.policies.pipeline_result import beside


@dataclass(frozen=True)
class Report:
    """As the executor's."""

    seconds: dict[str, float]
    busy: tuple[Busy, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"quantity": list(self.seconds), "measured": list(self.seconds.values())})


BUSY = (
    Busy("a", 0.02, 0.03, 0.4),
    Busy("a→b", 0.01, 0.012, 0.2),
    Busy("medium", 0.02, 0.04, 0.5),
    Busy("b + c", 0.04, 0.05, 0.7),
    Busy("d", 0.1, None, None),
)
REPORT = Report({"throughput": 20.0, "at a": 0.011, "a → b": 0.012, "stage b + c": 0.05}, BUSY)


def test_what_a_run_kept_busy_stands_beside_what_was_predicted_of_it() -> None:
    formula = {"busy_a_s": 0.02, "busy_medium_s": 0.02, "busy_d_s": 0.1}
    found = beside(formula, measured=REPORT).set_index("quantity")
    assert found.loc[["busy_a", "busy_medium"], "measured"].tolist() == [0.03, 0.04]
    assert found.loc[["busy_a", "busy_medium"], "measured_to_formula"].tolist() == pytest.approx([1.5, 2.0])
    assert math.isnan(found.loc["busy_d", "measured"]), "nothing was measured of it"


def test_rows_within_a_stage_stand_beside_their_own_prediction() -> None:
    report = Report({"b → a": 0.5, "rows b → a": 0.25})
    found = beside({"b_to_a_s": 1.0, "rows_b_to_a_s": 1.0}, measured=report).set_index("quantity")
    assert found["measured"].to_dict() == {"b_to_a": 0.5, "rows_b_to_a": 0.25}


def test_a_stage_of_several_places_stands_beside_its_prediction_and_counts_once() -> None:
    found = beside({"stage_b+c_s": 0.04, "at_a_s": 0.01, "a_to_b_s": 0.012}, measured=REPORT).set_index("quantity")
    assert found["measured"].tolist() == [0.05, 0.011, 0.012] and found.loc["stage_b+c", "unit"] == "s"
    both = beside({}, {"busy_b_s": 0.04, "busy_b + c_s": 0.04, "busy_a→b_s": 0.01}, REPORT).set_index("quantity")
    assert both["measured"].to_dict() == {"busy_a→b": 0.012}


def test_the_simulations_names_are_the_reports() -> None:
    graph = sp.LayerGraph(
        "two",
        (sp.Layer("l0"), sp.Layer("l1")),
        (
            sp.Tensor("x", "input", ("l0",), 1e4, (1, 1)),
            sp.Tensor("y", "l0", ("l1",), 1e4, (1, 1)),
            sp.Tensor("z", "l1", (), 1e4, (1, 1), is_output=True),
        ),
        fingerprint="c" * 64,
    )
    profile = sp.Profile.given(graph, {"a": {"l0": 0.01, "l1": 0.01}, "b": {"l0": 0.02, "l1": 0.02}})
    system = sp.System(links={("a", "b"): sp.link("ethernet-1g")}, a=sp.device("this-cpu"), b=sp.device("this-cpu"))
    plan = sp.PipelinePlacement(profile, system).plan_for((0, 1), (1,))
    simulated = sp.simulate_pipeline(plan, profile, system, frames=20)
    found = beside(plan.predicted, simulated, REPORT).set_index("quantity")
    assert found.loc["busy_a", "simulated"] == pytest.approx(0.01) and found.loc["busy_a", "measured"] == 0.03
    assert found.loc["busy_a→b", ["simulated", "measured"]].notna().all()
