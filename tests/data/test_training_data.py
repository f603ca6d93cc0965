"""Training plans and profiles: what they say, how they are stored, every defect named."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import nct

from splitplan.data.tolerance import tolerance_bound
from splitplan.data.training_plan import TrainingPlan, TrainingStage
from splitplan.data.training_profile import TrainingProfile
from splitplan.data.training_tables import COLLECTIVES, TIMES, UPDATES
from splitplan.errors import DataError
from splitplan.models.training_layer import TrainingLayer


def plan(**changes: Any) -> TrainingPlan:
    facts: dict[str, Any] = {
        "model": "m", "fingerprint": "f", "batch": 8, "micro_batches": 2, "schedule": "1f1b", "threads": 1,
        "stages": (TrainingStage(("a", "b"), 2, ("b",)), TrainingStage(("c",), 2)), "predicted": {"iteration_s": 1.0},
    }  # fmt: skip
    return TrainingPlan(**facts | changes)


def test_a_plan_says_what_it_is_and_comes_back_as_it_was(tmp_path: Path) -> None:
    p = plan()
    p.save(tmp_path / "plan.json")
    assert TrainingPlan.read(tmp_path / "plan.json") == p
    assert (p.workers, p.cores, p.cuts, p.ends(), p.strategy) == (4, 4, (2,), [(0, 2), (2, 3)], "pipeline and hybrid")
    assert (
        str(p)
        == "pipeline and hybrid: a … b (2) × 2, 1 by columns | c × 2; 4 workers, 1 thread each; 2 × 4 samples, 1f1b"
    )
    one = plan(stages=(TrainingStage(("a",)),), schedule="none", micro_batches=1)
    assert one.strategy == "one core"
    assert replace(one, threads=4).strategy == "threads"
    assert replace(one, stages=(TrainingStage(("a",), 4),)).strategy == "data parallel"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"batch": True}, "batch is True"),
        ({"micro_batches": 3}, "8 samples are not divisible by 3 micro-batches × 2 replicas"),
        ({"schedule": "zig-zag"}, "schedule is 'zig-zag'"),
        ({"schedule": "none"}, "schedule 'none' for 2 stages; give 'gpipe' or '1f1b'"),
        ({"stages": ()}, "has no stages"),
        ({"stages": 3}, "stages is 3"),
        ({"stages": (TrainingStage(("a",)), TrainingStage(("a",)))}, "layer 'a' is in 2 stages"),
        ({"stages": ({"layers": ["a"], "cut": 1},)}, "a field is missing or unknown"),
        ({"stages": ("a",)}, "a stage is 'a'"),
        ({"predicted": {"iteration_s": float("nan")}}, "iteration_s"),
        ({"model": 3}, "model is 3"),
        ({"threads": 1.5}, "threads is 1.5"),
    ],
)
def test_defects_of_a_plan(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem.replace("(", r"\(")):
        plan(**changes)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((("a",), 0), "replicas is 0"),
        (((), 1), "layers is empty"),
        (("ab", 1), "layers is 'ab'"),
        (((1,), 1), "layers names 1"),
        ((("a",), 2, ("b",)), "column-parallel layer 'b' is none of its layers"),
        ((("a",), 1, ("a",)), "columns are shared by one replica"),
    ],
)
def test_defects_of_a_stage(arguments: tuple[Any, ...], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        TrainingStage(*arguments)


def profile(**changes: Any) -> TrainingProfile:
    layers = (TrainingLayer("a", 100.0, 10.0), TrainingLayer("b", 200.0, 20.0, 8, 4.0, 4.0))
    times = [
        (v, s, t, w, k * s * (1.5 if w == 2 else 1.0) / t, 2 * k * s / t)
        for v, k in (("a", 1.0), ("b", 3.0))
        for s in (2, 4)
        for t, w in ((1, 1), (1, 2), (2, 1))
    ]
    updates = [(v, t, w, 0.5 / t) for v in ("a", "b") for t, w in ((1, 1), (1, 2), (2, 1))]
    collectives = [("all_reduce", 2, 100.0, 1.0), ("all_reduce", 2, 300.0, 2.0), ("send", 2, 100.0, 0.5)]
    facts: dict[str, Any] = {
        "model": "m", "fingerprint": "f", "layers": layers, "crossing_bytes": (7.0,),
        "times": pd.DataFrame(times, columns=list(TIMES)),
        "updates": pd.DataFrame(updates, columns=list(UPDATES[:4])),
        "collectives": pd.DataFrame(collectives, columns=list(COLLECTIVES)),
        "ratios": [(1, 1, "rounds", x) for x in (1.0, 0.9, 1.3, 1.1)],
    }  # fmt: skip
    return TrainingProfile(**facts | changes)


def test_what_a_profile_says_between_what_was_measured() -> None:
    p = profile()
    assert p.threads == (1, 2)
    assert p.samples(1) == (2, 4)
    assert p.seconds(2, 1, 1).tolist() == [[2.0, 6.0], [4.0, 12.0]]
    assert p.seconds(3, 1, 1).tolist() == [[3.0, 9.0], [6.0, 18.0]]
    assert p.seconds(4, 1, 2).tolist() == [[6.0, 18.0], [8.0, 24.0]]
    assert p.seconds(4, 1, 9).tolist() == p.seconds(4, 1, 2).tolist(), "no larger crowd was measured"
    assert p.update_s(2, 1).tolist() == [0.25, 0.25] and p.add_s(2, 1).tolist() == [0.0, 0.0]
    more = profile(updates=p.updates.assign(add_s=[0.1 * k for k in range(6)]))
    assert more.add_s(1, 1).tolist() == pytest.approx([0.0, 0.3]) and more.update_s(2, 1).tolist() == [0.25, 0.25]
    assert p.collective_s("all_reduce", 2, 200.0) == 1.5
    assert p.collective_s("all_reduce", 2, 500.0) == 3.0, "the last line goes on"
    assert p.collective_s("all_reduce", 2, 50.0) == 1.0, "no less than the smallest"
    assert p.collective_s("all_reduce", 4, 200.0) == 2.0, "3/4 instead of 1/2 of the bytes pass each worker"
    assert p.collective_s("all_reduce", 1, 200.0) == p.collective_s("send", 2, 0.0) == 0.0
    noisy = [("all_reduce", 2, 1.0, 0.5), ("all_reduce", 2, 2.0, 0.4), ("all_reduce", 2, 4.0, 0.8)]
    line = profile(collectives=noisy)
    assert [line.collective_s("all_reduce", 2, x) for x in (1.0, 2.0, 3.0, 4.0)] == pytest.approx([0.5, 0.5, 0.65, 0.8])
    assert line.steepest("all_reduce", 2) == pytest.approx((0.5, 0.15))
    assert line.best_rate("all_reduce", 2) == pytest.approx(0.15), "beyond the last size"
    with pytest.raises(DataError, match="5 samples with 1 threads; it was measured from 2 to 4"):
        p.seconds(5, 1, 1)
    with pytest.raises(DataError, match="no times of 3 threads; it has 1, 2"):
        p.seconds(2, 3, 1)
    with pytest.raises(DataError, match="no times of all_gather"):
        p.collective_s("all_gather", 2, 10.0)
    assert p.to_frame()["forward_s"].tolist() == [8.0, 12.0, 4.0, 16.0, 24.0, 8.0]
    assert "2 layers" in str(p) and "<table" in p._repr_html_()


def test_a_tolerance_bound() -> None:
    """With n for the 2n / π that a median is worth it is the textbooks' factor: 7.042, 3.981 and 2.355 for 4 and 10 values."""
    for n, quantile, factor in ((4, 0.99, 7.042), (10, 0.99, 3.981), (10, 0.90, 2.355), (20, 0.95, 2.396)):
        z = NormalDist().inv_cdf(quantile)
        assert nct.ppf(0.95, n - 1, z * n**0.5) / n**0.5 == pytest.approx(factor, rel=2e-4), "of this scipy"
        values = np.random.default_rng(n).normal(0, 0.02, n)
        root = (2 / math.pi * n) ** 0.5
        wanted = nct.ppf(0.95, n - 1, z * root) / root * values.std(ddof=1)
        assert tolerance_bound([[values]], quantile) == pytest.approx(max(wanted, values.max()))
        assert tolerance_bound([[values], [values + 7.0]], quantile) < wanted + 7.1, "each group has its own mean"
    assert tolerance_bound([[np.array([0.2])]], 0.99) == 0.2, "one says nothing of the spread"
    assert tolerance_bound([[np.array([0.1, 0.3, -0.1])]], 1.0) == 0.3, "of all there is only what was seen"
    many = np.array([*[0.0] * 500, *[3.0] * 20])
    assert tolerance_bound([[many]], 0.99) == 3.0, "no less than the values' own quantile, however they are spread"


def test_the_bound_holds_as_often_as_it_says() -> None:
    """Seen from the median of its own group; the few values' own quantile would do so about half of the time."""
    draws, z = np.random.default_rng(0), NormalDist().inv_cdf(0.99)
    for shape in ((1, 8), (4, 6), (3, 4)):
        held, seen = [], []
        for _ in range(400):
            x = draws.normal(0, 1, shape)
            over = [[row - np.median(row)] for row in x]
            held.append(np.median(x[0]) + tolerance_bound(over, 0.99) >= z)
            seen.append(np.median(x[0]) + np.max(over) >= z)
        assert 0.92 < np.mean(held) <= 0.99 and np.mean(seen) < 0.8, shape


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("alike", [(3, 2), (3, 1), (1, 1)], ids=["kinds", "crowds", "machine"])
def test_the_bound_holds_after_a_new_start(shift: float, alike: tuple[int, int]) -> None:
    """Starts shift what they measure: each kind by itself, a crowd's kinds alike, or all of the machine's; as many as the profiler has."""
    draws, z = np.random.default_rng(0), NormalDist().inv_cdf(0.99)
    held, once = [], []
    for _ in range(400):
        crowds = draws.normal(0, 1, (3, 2, 3, 5)) + draws.normal(0, shift, (*alike, 3, 1))
        typical = np.median(np.median(crowds, axis=-1), axis=-1)
        own, *others = crowds - typical[..., None, None]
        wanted = z * math.hypot(1, shift) - typical[0, 0]
        held.append(tolerance_bound(own, 0.99, others) >= wanted)
        once.append(tolerance_bound([own[0, :1] - np.median(own[0, 0])], 0.99) >= wanted)
    least = {(1.0, (1, 1)): 0.9, (3.0, (3, 1)): 0.92, (3.0, (1, 1)): 0.73}.get((shift, alike), 0.95)
    assert np.mean(held) >= least
    assert shift < 3 or np.mean(once) < 0.7, "of one start there is nothing to tell"


def test_the_bound_of_little_is_a_number() -> None:
    one, x = np.array([0.1]), np.array([0.0, 0.01, -0.01])
    assert tolerance_bound([[one, -one]], 0.99) > 1, "two starts of one value each"
    assert tolerance_bound([[x - x, x - x]], 0.99) == 0.0
    assert tolerance_bound([[x - x]], 0.99, [[[x, x + 0.1]]]) > 0.1, "other crowds' starts differ"
    assert tolerance_bound([[x, x]], 0.99) < tolerance_bound([[x]], 0.99), "no shift: one start more tells more"
    assert tolerance_bound([[x, x, x]], 0.99, [[[x, x + 0.1]]]) > tolerance_bound([[x, x, x]], 0.99)


def test_the_latest_ratio_is_of_the_plan_s_own_crowd() -> None:
    calm, busy = (0.99, 1.0, 1.01), (0.9, 1.0, 1.2)
    rows = [(1, 1, "rounds", x) for x in calm] + [(1, 4, "copies", x) for x in busy] + [(2, 1, "alone", 1.0)]
    p = profile(ratios=rows)
    few, more = (math.exp(tolerance_bound([[np.log(x)]], 0.99)) for x in (calm, busy))
    assert [p.ratio(0.99, 1, w) for w in (1, 2, 3, 9)] == pytest.approx([few, few, more, more])
    assert p.ratio(0.99, 2, 1) == p.ratio(0.99, 4, 1) == 1.0
    assert sorted(p.ratios_of(1, 4)) == pytest.approx([0.9, 1.0, 1.2])
    again = profile(
        ratios=[(1, 1, "alone", x, k) for k, d in enumerate((0.9, 1.0, 1.1), 1) for x in (0.99 * d, d, 1.01 * d)]
    )
    assert again.ratio(0.99, 1, 1) > 2 > 1.2 > p.ratio(0.99, 1, 1), "starts that differ"
    assert again.start_spread == pytest.approx(np.std(np.log([0.9, 1.0, 1.1]), ddof=1), rel=1e-3)
    assert p.start_spread is None and profile(ratios=()).start_spread is None, "nothing was started twice"
    other = [(1, 1, "alone", x, 1) for x in calm] + [
        tuple(r) for r in again.ratios.assign(workers=2).itertuples(index=False)
    ]
    assert profile(ratios=other).ratio(0.99, 1, 1) > 1.4, "what starts of another crowd differ by counts too"
    assert profile(ratios=()).ratio(0.99, 1, 1) is None and profile(ratios=()).ratios_of(1, 1).tolist() == [1.0]


def test_exchanges_take_as_long_as_within_iterations() -> None:
    alone = profile()
    rows = [("all_reduce", 2, 9.0, 1.5), ("all_reduce", 8, 9.0, 2.0), ("columns", 4, 9.0, 1.25)]
    p = profile(in_step=rows)
    assert [p.factor("all_reduce", w) for w in (2, 4, 5, 6, 16)] == [1.5, 1.5, 1.5, 2.0, 2.0], (
        "the nearest; of two, the smaller"
    )
    assert (p.factor("columns", 2), alone.factor("columns", 2), alone.factor("all_reduce", 2)) == (1.25, 1.0, 1.0)
    for w, factor in ((2, 1.5), (8, 2.0)):
        for size in (50.0, 200.0, 500.0):
            assert p.collective_s("all_reduce", w, size) == pytest.approx(
                factor * alone.collective_s("all_reduce", w, size)
            )
        assert p.steepest("all_reduce", w) == pytest.approx(tuple(factor * x for x in alone.steepest("all_reduce", w)))
        assert p.best_rate("all_reduce", w) == pytest.approx(factor * alone.best_rate("all_reduce", w))
    assert p.collective_s("send", 2, 70.0) == alone.collective_s("send", 2, 70.0)
    other = p.with_factor("all_reduce", 8, 3.0)
    assert [other.factor("all_reduce", w) for w in (2, 8)] == [1.5, 3.0] and p.factor("all_reduce", 8) == 2.0


def test_a_profile_comes_back_as_it_was(tmp_path: Path) -> None:
    p = profile(uncuttable=(1,), micro_s=1e-3, step_s=2e-3, state_factor=2.0, in_step=[("columns", 2, 9.0, 1.25)])
    p.save(tmp_path / "profile.json")
    again = TrainingProfile.read(tmp_path / "profile.json")
    assert again.to_dict() == p.to_dict()
    assert again.layers == p.layers and again.origin == p.origin


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"layers": ()}, "has no layers"),
        ({"crossing_bytes": ()}, "0 crossing_bytes for 2 layers"),
        ({"crossing_bytes": (float("nan"),)}, r"crossing_bytes\[0\]"),
        ({"uncuttable": (2,)}, "uncuttable position 2 is none of 1 … 1"),
        ({"ratios": [(1, 1, "rounds", 1.0, 0)]}, r"ratios.iloc\[0\].start is 0; give a whole number from 1"),
        ({"ratios": [(1, 1, "rounds", 0.0)]}, r"ratios.iloc\[0\].ratio is 0.0; give a positive number"),
        ({"micro_s": -1.0}, "micro_s"),
        ({"times": []}, "has no times"),
        ({"times": [("a", 1, 1, 1, 0.1, 0.1)]}, "times has no row of layer 'b' at"),
        ({"times": [("c", 1, 1, 1, 0.1, 0.1)]}, "times names layer 'c'"),
        ({"times": [("a", 1, 1, 1, float("nan"), 0.1), ("b", 1, 1, 1, 0.1, 0.1)]}, r"times.iloc\[0\].forward_s is nan"),
        ({"times": [("a", 1, 1, 1, 0.1, 0.1)] * 2}, r"times.iloc\[1\] is there twice"),
        (
            {"times": [(v, 1.5, 1, 1, 0.1, 0.1) for v in "ab"]},
            r"times.iloc\[0\].samples is 1.5; give a whole number from 1",
        ),
        (
            {"times": [(v, 1, "two", 1, 0.1, 0.1) for v in "ab"]},
            r"times.iloc\[1\].threads is 'two'; give a whole number",
        ),
        ({"updates": [(v, 1, 0, 0.1) for v in "ab"]}, r"updates.iloc\[0\].workers is 0; give a whole number from 1"),
        ({"collectives": [("send", 2, 0.0, 1.0)]}, r"collectives.iloc\[0\].size_bytes is 0.0; give a positive number"),
        ({"updates": []}, "updates has no rows for"),
        ({"in_step": [("columns", 2, 1.0, -1.0)]}, r"in_step.iloc\[0\].factor is -1.0; give a number from 0"),
        ({"in_step": [("columns", 2, 1.0, 1.0)] * 2}, r"in_step.iloc\[1\] is there twice"),
        ({"in_step": [("send", 2, 1.0, 1.0)]}, "in_step names 'send', which is none of all_reduce, columns"),
        ({"collectives": [("gossip", 2, 1.0, 1.0)]}, "collective 'gossip' is none of"),
        ({"collectives": pd.DataFrame({"what": []})}, "has no column 'workers'"),
    ],
)
def test_defects_of_a_profile(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        profile(**changes)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"schema": 1, "kind": "splitplan.TrainingProfile", "model": "m"}')
    with pytest.raises(DataError, match="missing"):
        TrainingProfile.read(tmp_path / "p.json")
