"""The dynamic program of training plans: its bounds against every plan, what it may lose against what it says, long networks."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from benchmarks.training_instances import chain, small_ones
from splitplan.data.training_plan import Schedule
from splitplan.errors import InfeasibleError
from splitplan.formulations.solution import Status
from splitplan.formulations.training import HybridTraining
from splitplan.formulations.training_costs import Config
from splitplan.formulations.training_schedule import busy_1f1b, events, last_forward_1f1b
from splitplan.solvers import training_dp
from splitplan.solvers.clock import Clock
from splitplan.solvers.training_labels import Effort, Labels
from splitplan.solvers.training_sieve import Sieve
from tests.formulations.training_brute_force import curve, every
from tests.simulator.test_training import drawn

SLACK = 1 + 1e-12


def by_config(p: HybridTraining) -> list[tuple[Config, float]]:
    """Every configuration of several stages and its least seconds without overhead, by all its plans."""
    found: dict[tuple[object, ...], float] = defaultdict(lambda: math.inf)
    for plan in every(p):
        key = plan.threads, len(plan.stages), plan.workers, plan.micro_batches, plan.schedule
        found[key] = min(found[key], plan.predicted["iteration_s"] - p.profile.step_s)
    return [
        (c, found[c.threads, c.stages, c.workers, c.micro_batches, c.schedule]) for c in p.configs() if c.stages > 1
    ]


def labels_of(p: HybridTraining, c: Config, upper: float = math.inf) -> Labels:
    return Labels(p, c, Effort(Clock(None), 10**9), upper)


@pytest.mark.parametrize("seed", range(6))
def test_bounds_and_labels_hold_for_every_plan(seed: int) -> None:
    """Also when only plans that take less than something are of interest, and where nothing fits into memory."""
    seen = 0
    for p in small_ones(10, layers=5, cores=4, seed=71_000 + 100 * seed):
        for c, least in by_config(p):
            labels = labels_of(p, c)
            assert labels.least.bound <= least * SLACK
            assert labels.bound <= least * SLACK
            found = labels.best(math.inf)
            if math.isinf(least):
                assert found is None
                continue
            assert found is not None and labels.loss == 0.0
            if c.schedule == "gpipe":
                assert found.seconds == pytest.approx(least, rel=1e-11)
            assert found.seconds <= least * SLACK <= labels.seconds_of(found) * SLACK**2
            for upper in (least * 1.3, least * (1 + 1e-9), least * 0.9):
                near = labels_of(p, c, upper)
                assert min(near.bound, upper) <= least * SLACK
                again = near.best(upper)
                assert (again is None) <= (found.seconds >= upper * (1 - 1e-11))
                assert again is None or again.seconds == pytest.approx(found.seconds, rel=1e-11)
            seen += 1
    assert seen > 30


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_what_may_be_lost_is_what_is_said(schedule: Schedule) -> None:
    """Few labels are kept where there would be many: none that all labels find takes less than what is found by more than that."""
    lost = off = 0
    for seed in range(6):
        p = replace(chain(20, 4, seed, 0.2, scaling=0.3, weights=1.6e8), micro_batches=(8, 32), schedules=(schedule,))
        for c in p.configs():
            labels = labels_of(p, c)
            whole = labels.best(math.inf)
            assert whole is not None and labels.loss == 0.0
            for upper in (2 * whole.seconds, whole.seconds * (1 + 1e-6)):
                near = labels_of(p, c, upper)
                found = near.best(upper, sieve=Sieve(3, first=1e-3))
                low = (upper if found is None else found.seconds) - near.loss
                assert low <= whole.seconds * SLACK
                if found is not None:
                    assert found.seconds >= whole.seconds * (1 - 1e-12)
                    off += found.seconds > whole.seconds * (1 + 1e-9)
                lost += near.loss > 0
    assert lost > 20, "labels were left out"
    assert off > 0, "and missed"


@pytest.mark.parametrize("seed", range(4))
def test_few_labels_leave_a_true_bound(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_dp, "MOST", 1)
    for p in small_ones(10, layers=6, cores=3, seed=73_000 + 100 * seed):
        expected = curve(p)
        if not expected:
            with pytest.raises(InfeasibleError):
                p.solve("training-dp")
            continue
        found = p.solve("training-dp")
        least = min(expected.values())
        assert found.bound is not None
        assert found.bound <= least * (1 + 1e-9) <= found.objective * (1 + 2e-9)
        assert found.status is not Status.OPTIMAL or found.objective <= least * (1 + 1e-6)


def test_a_sieve_keeps_one_for_each_key() -> None:
    p = chain(30, 4, seed=1, scaling=0.3, weights=1.6e8)
    (c,) = [x for x in p.configs() if (x.threads, x.stages, x.workers, x.micro_batches, x.schedule) == (1, 4, 4, 16, "gpipe")]  # fmt: skip
    labels = labels_of(p, c)
    level = labels._before(labels._start(), 1, math.inf, counted=False)
    assert level is not None
    several = labels._before(level, 2, math.inf, counted=False)
    assert several is not None and len(several) > len(np.unique(several.cut))
    room = np.ones(5)
    kept, loss = Sieve(1).kept(several, several.costs, room, 1.0)
    assert loss > 0
    assert sorted(several.cut[kept]) == sorted(np.unique(several.cut))
    for label in range(len(several)):
        better = several.costs[:, kept] <= several.costs[:, [label]] * SLACK + loss
        assert (better.all(axis=0) & (several.cut[kept] == several.cut[label])).any()
    assert Sieve().kept(several, several.costs, room, 1.0)[1] == 0.0


def test_rings_and_last_pieces_are_never_longer_than_the_recurrence() -> None:
    rng = random.Random(5)
    for _ in range(300):
        times, m = drawn(rng)
        p = times.stages
        all_events = events(times, m, "1f1b")
        end = {(e.stage, e.what, e.micro): e.end_s for e in all_events}
        begin = {s: min(e.start_s for e in all_events if (e.stage, e.what) == (s, "forward")) for s in range(p)}
        for s, u in product(range(p), range(p)):
            if u <= s:
                continue
            links = [*times.to_next[s:], *times.from_next[s:]]
            trip = sum((*times.forward[s + 1 :], *times.backward[s + 1 :], *links))
            ring = sum(
                (*times.forward[s : u + 1], *times.backward[s : u + 1], *times.to_next[s:u], *times.from_next[s:u])
            )
            w = min(m, p - s)
            own = times.forward[s], times.backward[s]
            busy = float(busy_1f1b(m, w, *own, trip, [(min(m, p - u), ring)]))
            assert begin[s] + busy <= end[s, "backward", m - 1] + 1e-9
            assert begin[s] + float(last_forward_1f1b(m, w, *own, trip)) <= end[s, "forward", m - 1] + 1e-9


@pytest.mark.parametrize("seed", range(2))
def test_long_chains_on_which_pipelines_win_are_settled(seed: int) -> None:
    p = chain(100, 8, seed, scaling=0.3, weights=1.6e8)
    found = p.solve()
    assert found.plan.strategy == "pipeline"
    assert found.status is Status.OPTIMAL and found.gap == pytest.approx(0.0, abs=1e-9)
    only = replace(p, schedules=("1f1b",)).solve()
    assert only.gap is not None and only.gap <= 0.005
    assert (only.bound is not None and only.bound >= found.objective * (1 - 1e-9)) or only.objective > found.objective
