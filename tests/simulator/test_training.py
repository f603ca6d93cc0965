"""Training iterations: the schedules' formulas against events, pieces in hand-computed orders, many iterations."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.training_instances import chain, small_ones
from splitplan.errors import DataError, InfeasibleError
from splitplan.formulations.training_schedule import (
    StageTimes,
    events,
    finish_s,
    in_flight,
    iteration_s,
    least_1f1b_s,
    order_of,
)
from splitplan.simulator.training import simulate_iteration, simulate_training

COUNT = 1000


def drawn(rng: random.Random) -> tuple[StageTimes, int]:
    p, m = rng.randint(1, 6), rng.randint(1, 10)

    def row(n: int, most: float = 1.0) -> tuple[float, ...]:
        return tuple(most * rng.random() ** 3 * (rng.random() > 0.1) for _ in range(n))

    return StageTimes(row(p), row(p), row(p - 1, 0.5), row(p - 1, 0.5), row(p, 0.5)), m


def schedules(times: StageTimes) -> tuple[str, ...]:
    return ("none",) if times.stages == 1 else ("gpipe", "1f1b")


def test_closed_form_recurrence_and_simulation_agree() -> None:
    rng = random.Random(0)
    for _ in range(COUNT):
        times, m = drawn(rng)
        for how in schedules(times):
            told = iteration_s(times, m, how)
            assert simulate_iteration(times, m, how) == pytest.approx(told, abs=1e-9), (times, m, how)
            by_events = [
                max(e.end_s for e in events(times, m, how) if e.stage == s and e.what == "backward")
                for s in range(times.stages)
            ]
            assert finish_s(times, m, how) == pytest.approx(by_events, abs=1e-9), "of every stage"
        if times.stages > 1:
            assert least_1f1b_s(times, m) <= iteration_s(times, m, "1f1b") + 1e-9, (times, m)


def test_events_keep_to_the_rules() -> None:
    rng = random.Random(1)
    for _ in range(60):
        times, m = drawn(rng)
        for how in schedules(times):
            all_events = events(times, m, how)
            end = {(e.stage, e.what, e.micro): e for e in all_events}
            for s in range(times.stages):
                mine = sorted(
                    (e for e in all_events if e.stage == s and e.what in ("forward", "backward")),
                    key=lambda e: e.start_s,
                )
                assert all(b.start_s >= a.end_s - 1e-12 for a, b in pairwise(mine)), "one piece at a time"
                assert sorted((e.what, e.micro) for e in mine) == sorted(
                    (w, k) for w in ("forward", "backward") for k in range(m)
                )
                under_way, most = 0, 0
                for what, _ in order_of(s, times.stages, m, how):
                    under_way += 1 if what == "forward" else -1
                    most = max(most, under_way)
                assert most == in_flight(s, times.stages, m, how)
                for k in range(m):
                    if s:
                        assert end[s, "forward", k].start_s >= end[s, "to next", k].end_s - 1e-12
                    if s < times.stages - 1:
                        assert end[s, "backward", k].start_s >= end[s, "from next", k].end_s - 1e-12
                    assert end[s, "backward", k].start_s >= end[s, "forward", k].end_s - 1e-12


def test_two_stages_by_hand() -> None:
    times = StageTimes((10.0, 1.0), (10.0, 1.0), (0.0,), (0.0,), (0.0, 0.0))
    # A slow first stage works all the time: 4 · 20. The formula Σ (F + B) + 3 max (F + B) would say 82.
    assert iteration_s(times, 4, "1f1b") == 80.0
    assert iteration_s(times, 4, "gpipe") == (10 + 1) + 3 * 10 + (10 + 1) + 3 * 10
    assert least_1f1b_s(times, 4) == 80.0
    linked = StageTimes((1.0, 1.0), (2.0, 2.0), (5.0,), (5.0,), (0.5, 7.0))
    # Forward: 1 + 5 + 1 and twice 5 more; back 2 at the last stage, 5, 2 and twice 5 more.
    assert finish_s(linked, 3, "gpipe") == (7 + 10 + 9 + 10, 7 + 10 + 2 + 4)
    assert iteration_s(linked, 3, "gpipe") == max(36 + 0.5, 23 + 7)


def test_what_the_page_says_of_1f1b() -> None:
    """docs/formulations.md: Σ (F + B) + (m − 1) max (F + B) is neither a lower nor an upper bound, and when it is exact."""

    def often_said(times: StageTimes, m: int) -> float:
        own = [f + b for f, b in zip(times.forward, times.backward, strict=True)]
        return sum(own) + sum(times.to_next) + sum(times.from_next) + (m - 1) * max(own)

    slow_first = StageTimes((10.0, 1.0), (10.0, 1.0), (0.0,), (0.0,), (0.0, 0.0))
    assert (iteration_s(slow_first, 4, "1f1b"), often_said(slow_first, 4)) == (80.0, 82.0)
    alike = StageTimes((1.0,) * 3, (1.0,) * 3, (2.0,) * 2, (2.0,) * 2, (0.0,) * 3)
    assert (iteration_s(alike, 6, "1f1b"), often_said(alike, 6)) == (36.0, 24.0)
    rng = random.Random(2)
    for _ in range(200):
        p, m = rng.randint(2, 5), rng.randint(1, 8)
        rows = [(*(rng.random() for _ in range(p - 1)), 1.0) for _ in range(2)]
        times = StageTimes(rows[0], rows[1], (0.0,) * (p - 1), (0.0,) * (p - 1), (0.0,) * p)
        assert iteration_s(times, m, "1f1b") == pytest.approx(often_said(times, m)), "the last stage is the slowest"


def test_many_iterations_are_drawn_from_the_profiles_ratios() -> None:
    p = chain(6, 2, seed=1)
    plan = p.solve().plan
    assert simulate_training(p, plan, iterations=5)["seconds"].to_numpy() == pytest.approx(
        plan.predicted["iteration_s"]
    )
    for p in small_ones(4, layers=4, cores=3, seed=77):
        try:
            plan = p.solve().plan
        except InfeasibleError:
            continue
        seconds = simulate_training(p, plan, iterations=60, seed=3)["seconds"].to_numpy()
        expected = plan.predicted["iteration_s"]
        assert sorted({round(x, 6) for x in (seconds / expected).tolist()}) == [0.9, 1.0, 1.1]
        assert np.quantile(seconds, 0.99) <= plan.predicted["latest_s"] * (1 + 1e-9)
    with pytest.raises(DataError, match="iterations"):
        simulate_training(p, plan, iterations=0)
