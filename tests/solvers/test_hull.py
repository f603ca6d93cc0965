"""Cut sets hold the best cut for all weights, and all that deadlines need; the period's front is the whole front."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import splitplan as sp
from splitplan.errors import DataError, SolverError
from splitplan.solvers.front import TooMany, bits_and_busy, pareto, period_front
from splitplan.solvers.hull import cut_set, works_of
from splitplan.solvers.ideals import Ideals

from .test_envelope import free


@settings(max_examples=50)
@given(st.integers(0, 10**6))
@example(1769)  # works over nine powers of ten: a cut is lost that is 1.4e-8 of the cost better
def test_for_all_weights_the_best_cut_is_in_the_set(seed: int) -> None:
    p = free(seed, 11, "latency")
    works = works_of(p, Ideals(cap=10**6).placements(p))
    rng, size = np.random.default_rng(seed), np.maximum(works.max(axis=0), 1e-300)
    weights = rng.dirichlet(np.full(3, 0.4), 200) / size
    weights[:3] = np.eye(3) / size  # the corners: one alone counts
    least = (works @ weights.T).min(axis=0)
    hull, all_of_them = cut_set(p), cut_set(p, keep="pareto")
    # Qhull's corners are in double precision: of works that span many powers of ten it can lose one, and so a cut that is next to nothing better.
    span = max(float(c[c > 0].max() / c[c > 0].min()) if (c > 0).any() else 1.0 for c in works.T)
    for found, slack in ((hull, 1e-9 if span <= 1e6 else 1e-6), (all_of_them, 1e-12)):
        mine = (found.works @ weights.T).min(axis=0)
        assert (mine <= least * (1 + slack) + 1e-10).all()
        chosen = found.decide(weights)
        np.testing.assert_array_equal((found.works @ weights.T)[chosen, np.arange(200)], mine)
    assert len(hull) <= len(all_of_them)


@settings(max_examples=50)
@given(st.integers(0, 10**6))
@example(2462)  # seconds over twelve powers of ten: what two sums differ by is less than a rounding of the largest
def test_the_pareto_set_is_what_nothing_dominates(seed: int) -> None:
    p = free(seed, 9, "latency")
    works = np.unique(works_of(p, Ideals(cap=10**6).placements(p)), axis=0)
    beaten = ((works[:, None] >= works).all(axis=2) & (works[:, None] > works).any(axis=2)).any(axis=1)
    found = np.unique(cut_set(p, keep="pareto").works, axis=0)
    # What rounding alone tells apart may be there or not: each of mine is as good as one of theirs, and the other way round.
    room = 1e-12 + 2e-12 * works.max(axis=0)
    for mine, theirs in ((found, works[~beaten]), (works[~beaten], found)):
        assert all((theirs <= w * (1 + 1e-9) + room).all(axis=1).any() for w in mine)


@settings(max_examples=50)
@given(st.integers(0, 10**6))
@example(455)  # two cuts whose busiest end differs by a rounding
def test_the_periods_front_is_the_whole_front(seed: int) -> None:
    p = free(seed, 11, "latency")
    all_cuts = bits_and_busy(p, Ideals(cap=10**6).placements(p))
    found, _ = period_front(p, 10**6)
    mine, whole = bits_and_busy(p, found), all_cuts[pareto(all_cuts)]
    # What rounding alone tells apart may be there or not: each of mine is as good as one of theirs, and the other way round.
    for some, others in ((mine, whole), (whole, mine)):
        assert all((others <= point * (1 + 1e-9) + 1e-12).all(axis=1).any() for point in some)


def test_too_many_cuts_are_an_error_that_counts() -> None:
    wide = next(p for seed in range(100) if len(period_front(p := free(seed, 14, "latency"), 10**6)[0]) > 4)
    with pytest.raises(TooMany, match="more than 1 cuts between"):
        period_front(wide, 1)


def test_a_set_is_plain_data_and_refuses_what_is_no_weight() -> None:
    found = cut_set(free(3, 8, "latency"))
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.works, found.works)
    assert found.decide(np.ones((4, 5, 3))).shape == (4, 5) and isinstance(found.decide([1, 1, 1]), int)
    for bad, says in (([1.0, 2.0], "shape"), ([1.0, -1.0, 0.0], "negative"), ([np.nan, 1, 1], "non-finite")):
        with pytest.raises(DataError, match=says):
            found.decide(bad)
    with pytest.raises(DataError, match="of a set of"):
        found.plan(len(found))
    with pytest.raises(SolverError, match="'hull' or 'pareto'"):
        cut_set(free(3), keep="all")
    assert list(found.to_frame().columns) and len(found.to_frame()) == len(found)


def test_a_message_of_nothing_has_its_delay() -> None:
    """Works and results of 0 on both sides: only the message tells the quick cut from the slow one."""
    tensors = (sp.Tensor("x", "input", ("a",), 0.0), sp.Tensor("o", "a", (), 4.0, is_output=True))
    graph = sp.LayerGraph("small", (sp.Layer("a"),), tensors)
    profile = sp.Profile.given(graph, {"device": {"a": 0.01}, "server": {"a": 0.0}})
    system = sp.System(device=sp.Device("d"), server=sp.Device("s"), link=sp.Link("w", 1e7, 1e7, 0.1))
    p = sp.SplitPoint(profile, system, result="anywhere", deadline_s=0.05)
    assert sorted(cut_set(p, keep="pareto").on_server[:, 0].tolist()) == [False, True]


def test_no_cut_is_kept_that_another_undercuts_beyond_rounding() -> None:
    for seed in range(0, 120, 3):
        found = cut_set(free(seed, 11, "latency"), keep="pareto")
        key = np.column_stack([found.works, found.result_bits])
        room = 1e-9 * key.max(axis=0, initial=0.0)
        for i, row in enumerate(key):
            others = np.delete(key, i, axis=0)
            assert not ((others <= row).all(axis=1) & (others < row - room).any(axis=1)).any()
