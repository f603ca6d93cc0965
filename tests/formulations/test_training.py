"""HybridTraining: costs by hand, what there is to choose from, bad data told at once, plans that break something, words and figures."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import splitplan as sp
from benchmarks.training_instances import chain, hosts_of, small_ones
from splitplan.data.training_plan import Schedule, TrainingPlan, TrainingStage
from splitplan.data.training_profile import TrainingProfile
from splitplan.data.training_tables import COLLECTIVES, TIMES, UPDATES
from splitplan.errors import DataError, FingerprintError, InfeasibleError
from splitplan.formulations.training import HybridTraining
from splitplan.formulations.training_costs import Config
from splitplan.formulations.training_estimate import PARTS, gantt
from splitplan.formulations.training_notes import named, notes
from splitplan.models.training_layer import TrainingLayer
from splitplan.solvers.audit_training import audit_training

LAYERS = (
    TrainingLayer("a", 100.0, 10.0),
    TrainingLayer("b", 200.0, 20.0, 8, 4.0, 6.0),
    TrainingLayer("c", 40.0, 5.0),
)
WORK = {"a": 1.0, "b": 3.0, "c": 2.0}
UPDATE = {"a": 0.5, "b": 1.0, "c": 0.25}
STEP, MICRO = 0.125, 0.2


def profile(threads: tuple[int, ...] = (1, 2), samples: tuple[int, ...] = (1, 8), **changes: Any) -> TrainingProfile:
    """Whole numbers. Forward takes 1, 3 and 2 s a sample, backward twice that; in a crowd of two forward takes half as long again."""
    crowds = [(t, w) for t, w in ((1, 1), (1, 2), (2, 1)) if t in threads]
    times = [
        (v, s, t, w, k * s * (1.5 if w == 2 else 1.0) / t, 2 * k * s / t)
        for v, k in WORK.items()
        for s in samples
        for t, w in crowds
    ]
    updates = [(v, t, w, u / t) for v, u in UPDATE.items() for t, w in crowds]
    collectives = [
        ("all_reduce", 2, 100.0, 1.0), ("all_reduce", 2, 300.0, 2.0), ("all_gather", 2, 1.0, 0.25), ("all_gather", 2, 1e3, 0.25),
        ("reduce_scatter", 2, 1.0, 0.5), ("reduce_scatter", 2, 1e3, 0.5), ("send", 2, 10.0, 0.1), ("send", 2, 110.0, 1.1),
    ]  # fmt: skip
    facts: dict[str, Any] = {
        "model": "net", "fingerprint": "f", "layers": LAYERS, "crossing_bytes": (7.0, 3.0),
        "times": pd.DataFrame(times, columns=list(TIMES)),
        "updates": pd.DataFrame(updates, columns=list(UPDATES[:4])),
        "collectives": pd.DataFrame(collectives, columns=list(COLLECTIVES)),
        "state_factor": 1.0, "micro_s": MICRO, "step_s": STEP, "ratios": [(1, w, "rounds", x) for w in (1, 2) for x in (1.0, 0.9, 1.3 * w, 1.1)],
    }  # fmt: skip
    return TrainingProfile(**facts | changes)


def problem(hosts: int = 1, cores: int = 2, memory: float | None = None, rate_bps: float = 80.0, **more: Any) -> HybridTraining:  # fmt: skip
    own = {k: more.pop(k) for k in list(more) if k in ("samples", *TrainingProfile.__dataclass_fields__)}
    return HybridTraining(profile(**own), hosts_of(hosts, cores, memory, rate_bps), more.pop("batch", 8), **more)


def made(
    p: HybridTraining, cuts: tuple[int, ...], replicas: tuple[int, ...], micro: int, how: Schedule, threads: int = 1,
    columns: tuple[tuple[int, ...], ...] = (),
) -> TrainingPlan:  # fmt: skip
    config = Config(threads, len(replicas), sum(replicas), micro, how, tuple(sorted(set(replicas))))
    plan = p.plan_for(config, cuts, replicas, columns)
    assert p.violations(plan) == []
    return plan


# -- costs by hand ----------------------------------------------------------------------------------------


def test_one_core() -> None:
    p = problem()
    terms = p.evaluate(made(p, (), (1,), 1, "none"))
    compute = (48 + 0.1) + (96 + 0.1)
    assert terms == pytest.approx({
        "objective": compute + 1.75 + STEP, "iteration_s": compute + 1.75 + STEP, "latest_s": p.profile.ratio(0.99, 1, 1) * (compute + 1.75 + STEP),
        "compute_s": compute, "fill_s": 0.0, "transfer_s": 0.0, "sync_s": 0.0, "update_s": 1.75, "overhead_s": STEP,
        "memory_bytes": 340 * 3 + 35 * 8,
    })  # fmt: skip
    four = p.evaluate(made(p, (), (1,), 4, "none"))
    assert four["iteration_s"] == pytest.approx(144 + 4 * MICRO + 1.75 + STEP), "each micro-batch has its own overhead"
    assert four["memory_bytes"] == 340 * 3 + 35 * 2, "and one at a time is kept"


def test_threads() -> None:
    p = problem()
    terms = p.evaluate(made(p, (), (1,), 1, "none", threads=2))
    assert terms["iteration_s"] == pytest.approx((24 + 0.1) + (48 + 0.1) + 0.875 + STEP)


def test_data_parallel() -> None:
    p = problem()
    terms = p.evaluate(made(p, (), (2,), 1, "none"))
    # Two compute at once: forward takes half as long again. 340 bytes: 2 s for 300 and 0.005 s for each byte more.
    assert terms["compute_s"] == pytest.approx((6 * 4 * 1.5 + 0.1) + (12 * 4 + 0.1))
    assert (terms["sync_s"], terms["update_s"]) == (pytest.approx(2.2), pytest.approx(1.75))
    assert terms["memory_bytes"] == 340 * 3 + 35 * 4


def test_columns() -> None:
    p = problem()
    terms = p.evaluate(made(p, (), (2,), 1, "none", columns=((1,),)))
    forward = 3 * 4 * 1.5 + 3 * 8 * 1.5 / 2 + 0.25 + 0.25 + 0.1
    backward = 6 * 4 + 6 * 8 / 2 + 0.25 + 0.5 + 0.1
    assert terms["compute_s"] == pytest.approx(forward + backward)
    assert terms["sync_s"] == pytest.approx(1.2), "140 bytes are left to add up"
    assert terms["update_s"] == pytest.approx(0.75 + 1.0 / 2)
    assert terms["memory_bytes"] == (140 + 100) * 3 + 35 * 4 + 4 * 8 / 2, "the inputs of the other half too"


@pytest.mark.parametrize("how", ["gpipe", "1f1b"])
def test_a_pipeline(how: Schedule) -> None:
    p = problem()
    terms = p.evaluate(made(p, (1,), (1, 1), 2, how))
    f0, f1, b0, b1, link = 4 * 1.5 + 0.1, 5 * 4 * 1.5 + 0.1, 8 + 0.1, 40 + 0.1, 0.28
    # The second stage never waits once it has begun; the first one ends when the last gradient has come back.
    end = f0 + link + 2 * (f1 + b1) + link + b0
    assert terms["iteration_s"] == pytest.approx(end + 0.5 + STEP)
    assert terms["compute_s"] == pytest.approx(2 * (f0 + f1 + b0 + b1) / 2)
    assert terms["transfer_s"] == pytest.approx(2 * link)
    assert terms["fill_s"] == pytest.approx(end - 2 * link - terms["compute_s"])
    assert (terms["sync_s"], terms["update_s"]) == (0.0, pytest.approx(0.5)), "the first stage is done last"
    held = 2 if how == "gpipe" else 1
    assert terms["memory_bytes"] == 240 * 3 + 25 * 4 * held + 7 * 8, (
        "buffers for what comes from the first stage, of the whole batch"
    )


def test_schedules_differ_in_what_a_stage_holds_and_in_when_it_is_done() -> None:
    p = problem(cores=2, samples=(1, 2, 8))
    both = {how: p.evaluate(made(p, (2,), (1, 1), 8, how)) for how in ("gpipe", "1f1b")}
    assert both["gpipe"]["memory_bytes"] == 300 * 3 + 30 * 8 + 3 * 8, "and buffers for gradients"
    assert both["1f1b"]["memory_bytes"] == 300 * 3 + 30 * 2 + 3 * 8
    # Of eight: forward 6.1 and 3.1 s, backward 8.1 and 4.1; a link 0.1 s (the least that was measured).
    assert both["gpipe"]["iteration_s"] == pytest.approx(8 * 6.1 + 0.1 + 3.1 + 4.1 + 0.1 + 8 * 8.1 + 1.5 + STEP)
    # The first stage waits only for its first gradient: 3.1 + 4.1 s and two transfers after its first piece, when its second takes 6.1 s.
    assert both["1f1b"]["iteration_s"] == pytest.approx(8 * (6.1 + 8.1) + (7.2 + 0.2 - 6.1) + 1.5 + STEP)


def test_parts_add_up_to_the_iteration() -> None:
    seen = 0
    for p in [problem(), *small_ones(8, layers=4, cores=4, seed=30)]:
        for c in p.configs():
            if c.stages > len(p.positions) + 1 or len(set(c.replicas)) > 1:
                continue
            plan = p.plan_for(c, p.positions[: c.stages - 1], c.replicas[:1] * c.stages)
            terms = p.evaluate(plan)
            assert sum(terms[k] for k in PARTS) == pytest.approx(terms["iteration_s"], rel=1e-12)
            assert all(terms[k] >= -1e-12 for k in PARTS), (c, terms)
            assert plan.predicted == {k: v for k, v in terms.items() if k != "objective"}
            seen += 1
    assert seen > 100


def test_slow_cores_slow_what_they_compute() -> None:
    p = problem().with_speeds([1.0, 0.5])
    assert p.speeds == (1.0, 0.5)
    assert p.evaluate(made(p, (), (1,), 1, "none"))["iteration_s"] == pytest.approx(144.2 + 1.75 + STEP)
    two = p.evaluate(made(p, (), (2,), 1, "none"))
    assert two["iteration_s"] == pytest.approx(2 * 84.2 + 2.2 + 2 * 1.75 + STEP), "what is sent takes as long as it did"
    threads = p.evaluate(made(p, (), (1,), 1, "none", threads=2))
    assert threads["iteration_s"] == pytest.approx(2 * (72.2 + 0.875) + STEP), "the slower of its cores"
    piped = p.evaluate(made(p, (1,), (1, 1), 2, "gpipe"))
    end = 6.1 + 0.28 + 2 * 2 * (30.1 + 40.1) + 0.28 + 8.1
    assert piped["iteration_s"] == pytest.approx(end + 0.5 + STEP)
    assert p.with_speeds(()).solve().objective == pytest.approx(problem().solve().objective)


def test_between_hosts_the_link_is_waited_for() -> None:
    """10 bytes a second, half a millisecond on the way."""
    p = problem(hosts=2, cores=1)
    both = p.evaluate(made(p, (), (2,), 1, "none"))
    # Each is alone on its host; every byte passes each of two workers once.
    assert both["compute_s"] == pytest.approx(72.2)
    assert both["sync_s"] == pytest.approx(34.0005)
    columns = p.evaluate(made(p, (), (2,), 1, "none", columns=((1,),)))
    # 32 bytes in and 48 out, half of which pass each worker; and the same of gradients.
    assert columns["compute_s"] == pytest.approx(72.2 + 2 * (1.6 + 2.4 + 2 * 0.0005))
    assert columns["sync_s"] == pytest.approx(14.0005)
    piped = p.evaluate(made(p, (1,), (1, 1), 1, "gpipe"))
    assert piped["transfer_s"] == pytest.approx(2 * 5.6005)
    quick = problem(hosts=2, cores=1, rate_bps=1e9)
    assert quick.evaluate(made(quick, (), (2,), 1, "none"))["sync_s"] == pytest.approx(2.2), (
        "not less than was measured"
    )


def test_memory_is_shared_by_the_workers_of_a_host() -> None:
    p = problem(memory=2319.0)
    plan = made(p, (), (1,), 1, "none")
    c = Config(1, 1, 2, 1, "none", (2,))
    (said,) = p.violations(p.plan_for(c, (), (2,)))
    assert said == "memory of stage 0: 1160 of 1159.5 bytes a worker"
    assert plan.predicted["memory_bytes"] == 1300


def test_the_latest_time_is_a_quantile_of_what_was_measured() -> None:
    p = problem()
    plan = made(p, (1,), (1, 1), 2, "1f1b")
    for quantile in (0.99, 0.75, 0.5):
        terms = replace(p, latest_quantile=quantile).evaluate(plan)
        assert terms["latest_s"] == pytest.approx(p.profile.ratio(quantile, 1, 2) * terms["iteration_s"]), quantile
    assert "latest_s" not in problem(ratios=()).evaluate(plan)
    # A machine that is slower in everything by that factor ends then.
    slower = problem(threads=(1,), state_factor=1.0).with_speeds((1 / 1.3, 1 / 1.3))
    assert slower.evaluate(plan)["iteration_s"] <= p.evaluate(plan)["latest_s"]


def test_a_plan_of_another_model_is_not_evaluated() -> None:
    p = problem()
    plan = made(p, (1,), (1, 1), 2, "1f1b")
    with pytest.raises(FingerprintError, match="net"):
        p.evaluate(replace(plan, fingerprint="other"))
    with pytest.raises(DataError, match="not the profile's layers"):
        p.evaluate(replace(plan, stages=(TrainingStage(("a", "c")), TrainingStage(("b",)))))
    with pytest.raises(DataError, match="the plan is for batches of 4, the problem says 8"):
        p.evaluate(replace(plan, batch=4))


# -- what there is to choose from -------------------------------------------------------------------------


def configs(**options: Any) -> set[tuple[Any, ...]]:
    return {(c.threads, c.stages, c.workers, c.micro_batches, c.schedule, c.replicas) for c in problem(**options).configs()}  # fmt: skip


def test_every_configuration() -> None:
    single = {(1, 1, 1, m, "none", (1,)) for m in (1, 2, 4, 8)} | {(2, 1, 1, m, "none", (1,)) for m in (1, 2, 4, 8)}
    copies = {(1, 1, 2, m, "none", (2,)) for m in (1, 2, 4)}  # a micro-batch of one sample cannot be shared
    pipelines = {(1, 2, 2, m, how, (1,)) for m in (1, 2, 4, 8) for how in ("gpipe", "1f1b") if how == "gpipe" or m > 1}
    assert configs() == single | copies | pipelines
    assert configs(threads=(2,)) == {c for c in single if c[0] == 2}
    assert configs(micro_batches=[2]) == {c for c in single | copies | pipelines if c[3] == 2}
    assert configs(micro_batches=2, threads=1) == configs(micro_batches=(2,), threads=(1,)), "one is a list of one"
    assert configs(max_stages=1) == single | copies
    assert configs(schedules=["1f1b"]) == {c for c in pipelines if c[4] == "1f1b"}
    assert configs(uncuttable=(1, 2)) == single | copies
    assert configs(samples=(2, 8)) == {c for c in single | copies | pipelines if 8 // c[3] // c[5][0] >= 2}
    whole = configs(whole_batch=True)
    assert whole == {c for c in single | pipelines if c[3] == 1}


def test_unlike_replicas() -> None:
    found = {c[1:3] + c[5:] for c in configs(cores=4, replicas="any", threads=(1,), micro_batches=(1,), schedules=("gpipe", "none"))}  # fmt: skip
    assert found == {
        (1, 1, (1,)), (1, 2, (2,)), (1, 4, (4,)),
        (2, 2, (1,)), (2, 3, (1, 2)), (2, 4, (1, 2)), (3, 3, (1,)), (3, 4, (1, 2)),
    }  # fmt: skip
    same = {c[1:3] + c[5:] for c in configs(cores=4, threads=(1,), micro_batches=(1,), schedules=("gpipe", "none"))}
    assert same == {(1, 1, (1,)), (1, 2, (2,)), (1, 4, (4,)), (2, 2, (1,)), (2, 4, (2,)), (3, 3, (1,))}


def test_no_worker_is_on_two_hosts() -> None:
    p = problem(hosts=2, cores=3)
    assert max(c.workers for c in p.configs() if c.threads == 2) == 2, "one on each"
    assert max(c.workers for c in p.configs() if c.threads == 1) == 6


def test_columns_that_may_be_shared() -> None:
    c = Config(1, 1, 2, 1, "none", (2,))
    assert problem().choices(c, 2) == (1,)
    assert problem(columns=False).choices(c, 2) == ()
    assert problem().choices(replace(c, workers=1, replicas=(1,)), 1) == ()
    four = problem(cores=4)
    assert four.choices(replace(c, workers=4, replicas=(4,)), 4) == (1,), "8 columns"
    few = problem(cores=4, layers=(LAYERS[0], replace(LAYERS[1], columns=3), LAYERS[2]))
    assert few.choices(replace(c, workers=4, replicas=(4,)), 4) == ()
    # All samples of a micro-batch meet the shared columns, so that many must have been measured.
    small = problem(samples=(1, 4), micro_batches=(1, 2))
    assert small.choices(c, 2) == () and small.choices(replace(c, micro_batches=2), 2) == (1,)


# -- bad data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch": 0}, "batch is 0; give a whole number from 1"),
        ({"batch": 8.0}, "batch is 8.0; give a whole number from 1"),
        ({"batch": True}, "batch is True"),
        ({"batch": None}, "batch is None"),
        ({"max_stages": 0}, "max_stages is 0"),
        ({"max_stages": 4}, "max_stages=4: the model has 3 layers, and a stage needs one"),
        ({"micro_batches": (2, 0)}, "micro_batches is 0"),
        ({"micro_batches": ()}, "micro_batches is empty; give at least one, or None"),
        ({"micro_batches": "2"}, "micro_batches is '2'; give a whole number from 1"),
        ({"micro_batches": (2, 3, 5)}, "micro_batches=5: 8 samples are not divisible by it"),
        ({"threads": (1, True)}, "threads is True"),
        ({"threads": ()}, "threads is empty"),
        ({"threads": (3,)}, "threads=3: a host has 2 cores"),
        ({"threads": (2,), "cores": 4, "profile_threads": (1,)}, "threads=2: the profile was taken with 1; profile again"),
        ({"replicas": "some"}, "replicas is 'some'; give 'same' or 'any'"),
        ({"schedules": ()}, "schedules is empty; give at least one"),
        ({"schedules": ("gpipe", "zigzag")}, "schedule 'zigzag' is none of none, gpipe, 1f1b"),
        ({"schedules": "gpipe"}, "schedules is 'gpipe'; give a list of none, gpipe, 1f1b"),
        ({"schedules": None}, "schedules is None; give a list of none, gpipe, 1f1b"),
        ({"columns": 1}, "columns is 1; give True or False"),
        ({"whole_batch": "no"}, "whole_batch is 'no'; give True or False"),
        ({"latest_quantile": 0.4}, "latest_quantile is 0.4; give a share of iterations from 0.5 to below 1"),
        ({"latest_quantile": 1.0}, "latest_quantile is 1.0"),
        ({"latest_quantile": 1.5}, "latest_quantile is 1.5"),
        ({"latest_quantile": "most"}, "latest_quantile is 'most'"),
        ({"latest_quantile": float("nan")}, "latest_quantile is nan"),
        ({"speeds": (1.0,)}, "1 speeds for 2 cores; give one for each"),
        ({"speeds": (1.0, 0.0)}, "speeds[1] is 0.0; give a positive number"),
        ({"speeds": 0.5}, "speeds is 0.5; give one number for each core"),
    ],
)  # fmt: skip
def test_bad_options(options: dict[str, Any], text: str) -> None:
    options = dict(options)
    threads = options.pop("profile_threads", (1, 2))
    system = hosts_of(1, options.pop("cores", 2), None, 1e9)
    with pytest.raises(DataError) as e:
        HybridTraining(profile(threads), system, options.pop("batch", 8), **options)
    assert any(text in x for x in e.value.problems), e.value.problems


def test_all_defects_at_once() -> None:
    with pytest.raises(DataError) as e:
        problem(micro_batches=(3,), threads=(3,), max_stages=9, speeds=(1.0,))
    assert len(e.value.problems) == 4


def test_other_things_than_a_profile_and_a_system() -> None:
    with pytest.raises(DataError, match="the profile is a str; give what splitplan.profile_training returns"):
        HybridTraining("alexnet.json", hosts_of(1, 2, None, 1e9), 8)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the system is a int; give a splitplan.System of like hosts"):
        HybridTraining(profile(), 2, 8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"threads": 4}, "host 'h1' is unlike 'h0' (threads 4 and 2); training plans are for like hosts"),
        ({"slowdown": 2.0}, "(slowdown 2.0 and 1.0)"),
        ({"memory_bytes": 1e9}, "(memory_bytes 1000000000.0 and None)"),
        ({"kind": "cuda"}, "(kind 'cuda' and 'cpu')"),
    ],
)
def test_unlike_hosts(changes: dict[str, Any], text: str) -> None:
    two = hosts_of(2, 2, None, 1e9)
    devices = {"h0": two.places["h0"], "h1": replace(two.places["h1"], **changes)}
    with pytest.raises(DataError, match=re.escape(text)):
        HybridTraining(profile(), sp.System(links=dict(two.links), **devices), 8)


def test_hosts_that_nothing_joins() -> None:
    three = hosts_of(3, 1, None, 1e9)
    apart = sp.System(links={k: v for k, v in three.links.items() if k != ("h0", "h2")}, **three.places)
    with pytest.raises(DataError, match="nothing joins hosts 'h0' and 'h2'; give links=, star= or shared="):
        HybridTraining(profile(), apart, 8)


def test_a_layer_that_fits_nowhere() -> None:
    with pytest.raises(DataError) as e:
        problem(memory=299.0, columns=False)
    assert list(e.value.problems) == [
        "layer 'a' alone needs 0.0003 MB for weights, gradients and the optimizer's state, 1e-06 MB more than a host's 0.000299 MB; "
        "use hosts with more memory, or an optimizer with less state",
        "layer 'b' alone needs 0.0006 MB for weights, gradients and the optimizer's state, 0.000301 MB more than a host's 0.000299 MB; "
        "use hosts with more memory, or an optimizer with less state",
    ]
    with pytest.raises(DataError) as e:
        problem(memory=299.0)
    assert len(e.value.problems) == 2, "its columns shared by two, b needs 300"
    assert problem(memory=301.0), "columns may be shared; whether a plan fits is the solver's to say"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch": 32, "micro_batches": (1,)}, "no way to share 32 samples out: micro_batches=(1,), threads=None"),
        ({"batch": 7, "samples": (2, 4)}, "1 threads: 2–4 samples; 2 threads: 2–4 samples. Profile with batch=7, or allow more"),
        ({"schedules": ("gpipe",), "uncuttable": (1, 2)}, "schedules=('gpipe',), 2 cores"),
        ({"schedules": ("1f1b",), "threads": (2,)}, "threads=(2,), schedules=('1f1b',), 2 cores"),
        ({"batch": 32, "whole_batch": True}, "no way to share 32 samples out"),
    ],
)  # fmt: skip
def test_no_configuration(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        problem(**options)


# -- plans that break something ---------------------------------------------------------------------------


def plan_of(*stages: TrainingStage, **changes: Any) -> TrainingPlan:
    facts: dict[str, Any] = {"model": "net", "fingerprint": "f", "batch": 8, "micro_batches": 2, "schedule": "1f1b"}
    return TrainingPlan(**facts | {"stages": stages} | changes)


HALVES = TrainingStage(("a",)), TrainingStage(("b", "c"))


@pytest.mark.parametrize(
    ("options", "plan", "text"),
    [
        ({}, plan_of(*HALVES, fingerprint="g", model="other"), "was made for model 'other', the profile is of 'net'"),
        ({}, plan_of(TrainingStage(("a", "c")), TrainingStage(("b",))), "has stages that are not the profile's layers in their order"),
        ({}, plan_of(*HALVES, batch=4), "is for batches of 4, the problem says 8"),
        ({"uncuttable": (1,)}, plan_of(*HALVES), "cut before 'b', where the model cannot be cut"),
        ({"max_stages": 1}, plan_of(*HALVES), "is none of the configurations"),
        ({"micro_batches": (1,)}, plan_of(*HALVES), "is none of the configurations"),
        ({"schedules": ("none", "gpipe")}, plan_of(*HALVES), "is none of the configurations"),
        ({"whole_batch": True}, plan_of(*HALVES), "is none of the configurations"),
        ({}, plan_of(*HALVES, threads=2), "is none of the configurations"),
        ({}, plan_of(*HALVES, threads=3), "is none of the configurations"),
        ({"cores": 4}, plan_of(*(replace(s, replicas=k + 1) for k, s in enumerate(HALVES))), "is none of the configurations"),
        ({}, plan_of(TrainingStage(("a", "b", "c"), 2, ("c",)), schedule="none"), "stage 0: the columns of 'c' cannot be shared by 2"),
        ({"columns": False}, plan_of(TrainingStage(("a", "b", "c"), 2, ("b",)), schedule="none"), "the columns of 'b' cannot be shared by 2"),
        ({"memory": 1500.0}, plan_of(*HALVES), "memory of stage 1: 876 of 750 bytes a worker"),
    ],
)  # fmt: skip
def test_what_a_plan_breaks(options: dict[str, Any], plan: TrainingPlan, text: str) -> None:
    (said,) = problem(**options).violations(plan)
    assert text in said


def test_unlike_replicas_are_allowed_where_they_are_asked_for() -> None:
    plan = plan_of(TrainingStage(("a", "b"), 2), TrainingStage(("c",)))
    assert problem(cores=4, replicas="any").violations(plan) == []


@pytest.mark.parametrize("solver", ["training-dp", "training-milp"])
def test_why_nothing_fits(solver: str) -> None:
    p = problem(memory=650.0)
    with pytest.raises(InfeasibleError) as e:
        p.solve(solver)
    (said,) = e.value.conflicts
    assert re.match(
        r"memory: of \d workers? in \d stages? with \d micro-batch(es)?, the one of '\w' … 'c' needs ", said
    )
    need, more, limit = (float(x) for x in re.findall(r"needs (\S+) bytes, (\S+) more than its share (\S+) of a host", said)[0])  # fmt: skip
    assert need == pytest.approx(limit + more) and more > 0 and limit in (325.0, 650.0)
    assert "smaller micro-batches" in said and "an optimizer with less state" in said
    assert problem(memory=10 * 650.0).solve(solver).plan


@pytest.mark.parametrize("schedules", [("gpipe",), ("1f1b",), ("gpipe", "1f1b")])
def test_short_iterations_without_plans_of_one_stage_are_solved_as_exactly(schedules: tuple[Schedule, ...]) -> None:
    """Tolerances of solvers and of the audit are those of a good plan, not of seconds."""
    times = profile().times.assign(
        forward_s=lambda t: 1e-6 * t["forward_s"], backward_s=lambda t: 1e-6 * t["backward_s"]
    )
    p = problem(cores=4, times=times, micro_s=0.0, step_s=0.0, schedules=schedules)
    collectives = p.profile.collectives.assign(time_s=lambda t: 1e-6 * t["time_s"])
    updates = p.profile.updates.assign(update_s=lambda t: 1e-6 * t["update_s"])
    p = replace(p, profile=replace(p.profile, collectives=collectives, updates=updates))
    found = p.solve("training-dp")
    assert found.objective < 1e-4 and p.smallest < 1e-7
    assert p.solve("training-milp").objective == pytest.approx(found.objective, rel=1e-7, abs=0.0)


# -- for people -------------------------------------------------------------------------------------------


def test_it_says_what_it_is() -> None:
    assert (
        problem().describe() == "HybridTraining: least iteration time of 'net' (3 layers; batch 8; 1 host of 2 cores)"
    )
    text = str(problem(hosts=2, replicas="any", max_stages=2, whole_batch=True, speeds=(1.0, 1.0, 0.5, 1 / 3)))
    assert text.endswith(
        "(3 layers; batch 8; 2 hosts of 2 cores; at most 2 stages; any replicas; the whole batch at once; "
        "cores' speeds 1, 1, 0.5, 0.333)"
    )
    assert problem().unit == "s"
    assert {"training-dp", "training-milp"} == set(problem().solvers)


def test_plain_plans_are_those_that_need_no_search() -> None:
    p = problem()
    plain = p.plain()
    assert {k: (x.threads, x.workers, x.micro_batches) for k, x in plain.items()} == {
        "one core": (1, 1, 1), "threads": (2, 1, 1), "data parallel": (1, 2, 1)
    }  # fmt: skip
    tight = problem(memory=1300.0)
    assert set(tight.plain()) == {"one core", "threads"}, "two workers have too little memory"
    found = p.solve()
    told = {a.name: a for a in found.alternatives}
    assert set(told) == {named(k, x.micro_batches) for k, x in plain.items()}
    assert told["one core"].objective == pytest.approx(146.075)
    assert [a.is_plan for a in told.values()].count(True) == (found.plan.strategy in plain)


def test_the_estimate() -> None:
    p = problem(threads=(1,))
    found = p.solve()
    e = found.estimate
    assert e.plan == found.plan
    assert (e.expected_s, e.latest_s, e.quantile) == (pytest.approx(found.objective), pytest.approx(p.profile.ratio(0.99, 1, found.plan.workers) * found.objective), 0.99)  # fmt: skip
    frame = e.to_frame()
    assert frame.loc[0, "strategy"] == found.plan.strategy and frame.loc[0, "why"] == "the plan"
    assert list(frame["iteration_s"][1:]) == sorted(frame["iteration_s"][1:])
    assert frame["strategy"].is_unique and {"one core", "data parallel"} <= set(frame["strategy"])
    (one,) = frame[frame["strategy"] == "one core"].to_dict("records")
    more = one["iteration_s"] / found.objective - 1
    assert one["why"] == f"{more:+.1%}: it computes {one['compute_s'] - frame.loc[0, 'compute_s']:.4g} s longer"
    assert np.allclose(frame[list(PARTS)].sum(axis=1), frame["iteration_s"])
    assert list(e.curve["stages"]) == [1, 2] and e.curve["iteration_s"].min() == pytest.approx(found.objective)
    text = str(e)
    assert "expected" in text and "holds 99%" in text and "one core" in text and "best by number of stages: 1: " in text
    assert "<table" in e._repr_html_()
    milp = p.solve("training-milp").estimate
    assert milp.curve is None and "best by number" not in str(milp)
    assert set(milp.strategies["strategy"]) >= set(p.plain())


@pytest.mark.parametrize("how", ["gpipe", "1f1b"])
def test_the_gantt_chart_is_the_iteration(how: Schedule) -> None:
    p = problem(cores=4)
    plan = made(p, (2,), (2, 2), 2, how, columns=((1,), ()))
    table = gantt(p, plan)
    assert list(dict.fromkeys(table["lane"])) == ["stage 0 × 2", "0 → 1", "stage 1 × 2", "1 → 0"]
    assert table["end_s"].max() == pytest.approx(plan.predicted["iteration_s"] - STEP)
    counts = table["what"].value_counts().to_dict()
    assert counts == {"forward": 4, "backward": 4, "transfer": 4, "sync": 2, "update": 2}
    for _, lane in table.groupby("lane"):
        rows = lane.sort_values("start_s")
        assert (rows["start_s"].to_numpy()[1:] >= rows["end_s"].to_numpy()[:-1] - 1e-12).all()
    assert set(table[table["what"].isin(["sync", "update"])]["micro"]) == {-1}
    one = gantt(p, made(p, (), (1,), 1, "none"))
    assert one[["lane", "what"]].to_numpy().tolist() == [["stage 0", x] for x in ("forward", "backward", "update")]


def test_a_link_that_takes_no_time_has_no_lane() -> None:
    p = problem(crossing_bytes=(0.0, 0.0))
    assert set(gantt(p, made(p, (1,), (1, 1), 2, "gpipe"))["lane"]) == {"stage 0", "stage 1"}


def test_the_figure() -> None:
    found = chain(12, 4, seed=2).solve()
    figure = found.plot()
    assert len(figure.axes) == 2
    title = figure.get_suptitle()
    assert title == f"chain: {found.plan.strategy}, {found.objective:.4g} s an iteration"
    single = replace(problem(), max_stages=1).solve().plot()
    assert len(single.axes) == 1, "no curve of one point"


def test_more_speed_never_hurts_and_the_plan_may_change() -> None:
    p = problem(threads=(1,))
    even = p.with_speeds((1.0, 1.0)).solve()
    assert even.objective == pytest.approx(p.solve().objective)
    crippled = p.with_speeds((1.0, 0.05)).solve()
    assert crippled.plan.strategy == "one core"
    assert crippled.objective > even.objective


def test_replicas_that_send_to_another_host_share_the_link() -> None:
    """Two hosts of two cores: two stages of two replicas send all samples over it, stages of one replica on one host none."""
    p = problem(hosts=2, cores=2, threads=(1,))
    way = p.system.way(*p.system.places)
    assert way is not None
    far = made(p, (1,), (2, 2), 1, "gpipe")
    times = p.costs.times_of(far, p.costs.stages_of(far))
    assert times.to_next[0] == pytest.approx(way.delay_s + way.busy_s(p.batch * 7.0))
    near = made(p, (1,), (1, 1), 1, "gpipe")
    assert p.costs.times_of(near, p.costs.stages_of(near)).to_next[0] < way.busy_s(p.batch * 7.0)
    for plan in (far, near):
        assert audit_training(p, plan, {}).objective == pytest.approx(p.evaluate(plan)["iteration_s"])


@given(st.integers(0, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_what_crosses_between_hosts_is_counted_sample_by_sample(first: int, before: int, after: int, each: int) -> None:
    p = problem(threads=(1,))
    costs = p.costs
    config = replace(p.configs()[0], threads=1)
    costs.cores_per_host = each
    samples = math.lcm(before, after)
    far = Counter(
        pair for k in range(samples)
        if len(set(pair := ((first + k // (samples // before)) // each, (first + before + k // (samples // after)) // each))) == 2
    )  # fmt: skip
    assert costs.crosses(config, first, before, after) == pytest.approx(max(far.values(), default=0) / samples)


# -- what must be known beside the seconds ----------------------------------------------------------------


SURE: dict[str, Any] = {"ratios": (), "in_step": [("all_reduce", 2, 1.0, 1.0), ("columns", 2, 1.0, 1.0)]}


def test_exchanges_that_were_measured_alone_are_told() -> None:
    p, known = problem(ratios=()), problem(**SURE)
    alone, copies, shared = (made(p, (), (r,), 1, "none", columns=c) for r, c in ((1, ()), (2, ()), (2, ((1,),))))
    assert notes(p, alone) == notes(known, alone) == notes(known, copies) == notes(known, shared) == ()
    (text,) = notes(p, copies)
    assert text.startswith("what adding gradients up over copies takes was measured alone, not in iterations")
    (text,) = notes(p, shared)
    assert "adding gradients up over copies and sharing layers by columns" in text


def test_ways_that_the_profile_cannot_tell_apart_are_told() -> None:
    """Starts differ by 3.6 %; the copies take 7 % longer, and then 8 %."""
    ratios = [(1, 1, "alone", x, k) for k, x in enumerate((0.975, 1.025), 1)]
    p = problem(**SURE | {"ratios": ratios})
    assert p.profile.start_spread == pytest.approx(np.log(1.025 / 0.975) / np.sqrt(2))
    one, copies = made(p, (), (1,), 1, "none"), made(p, (), (2,), 2, "none")
    took = p.evaluate(copies)["iteration_s"]
    for more, near in ((1.073, True), (1.083, False)):
        factor = took / p.evaluate(one)["iteration_s"] / more
        times = p.profile.times.assign(**{k: p.profile.times[k] * np.where((p.profile.times["threads"] == 1) & (p.profile.times["workers"] == 1), factor, 1) for k in ("forward_s", "backward_s")})  # fmt: skip
        updates = p.profile.updates.assign(update_s=p.profile.updates["update_s"] * np.where(p.profile.updates["workers"] == 1, factor, 1))  # fmt: skip
        q = replace(p, profile=replace(p.profile, times=times, updates=updates, step_s=0.0, micro_s=0.0))
        apart = q.evaluate(copies)["iteration_s"] / q.evaluate(one)["iteration_s"] - 1
        found = [x for x in notes(q, one, [copies]) if "may be as fast" in x]
        assert (abs(np.log1p(apart)) <= 2 * p.profile.start_spread) == bool(found) == near, apart
        if near:
            assert found[0].startswith(f"data parallel, 2 micro-batches ({apart:+.1%}) may be as fast: fresh starts")
            assert "varied by 3.5%" in found[0] and "less than about 7% apart" in found[0]
    assert notes(problem(**SURE), one, [copies]) == (), "nothing was measured"
    (text,) = notes(problem(**SURE | {"ratios": [(1, 1, "alone", x, 1) for x in (0.99, 1.0, 1.01)]}), one, [copies])
    assert text.startswith("nothing was started twice")
    wide = problem(**SURE | {"ratios": [(1, 1, "alone", x, k) for k, x in enumerate((0.1, 2.0), 1)]})
    told = wide.solve().estimate
    assert any("note: " in line and "may be as fast" in line for line in str(told).splitlines())
    assert told.near[0] == told.plan
    assert len(told.near) > 1
    assert sorted(x.strategy for x in told.near[1:]) == sorted(
        x for x in told.strategies["strategy"][1:] if f"{x}, " in str(told.notes) or f"{x} (" in str(told.notes)
    )
    assert problem(**SURE).solve().estimate.near == (problem(**SURE).solve().plan,)


def test_latest_times_of_other_ways_that_say_nothing_are_told() -> None:
    def varied(by: float) -> HybridTraining:
        alone = [(1, 1, "alone", 1 + 0.01 * k, n) for n in (1, 2, 3) for k in range(-4, 5)]
        together = [(1, 2, "all_reduce", by**k, n) for n in (1, 2, 3) for k in range(-4, 5)]
        return problem(**SURE | {"ratios": alone + together})

    calm, wild = varied(1.01), varied(1.3)
    one, copies = (made(calm, (), (r,), 1, "none") for r in (1, 2))
    assert not any("latest" in x for x in notes(calm, one, [copies]))
    told = wild.profile.ratio(wild.latest_quantile, 1, 2)
    assert told is not None
    (text,) = (x for x in notes(wild, one, [copies]) if "latest" in x)
    assert text.endswith(f"(over the expected one: data parallel {told:.2g} times)")
    (text,) = (x for x in notes(wild, copies, [one]) if "latest" in x)
    assert text.startswith(f"measured steps varied so much that the latest time is {told:.2g} times the expected one")


def test_a_profile_that_contradicts_itself_is_told() -> None:
    p = problem(**SURE | {"in_step": [("all_reduce", 2, 1.0, 0.0), ("columns", 2, 1.0, 1.0)]})
    alone, copies = made(p, (), (1,), 1, "none"), made(p, (), (2,), 1, "none")
    (text,) = notes(p, copies)
    assert text.startswith("adding gradients up is priced at nothing") and notes(p, alone) == ()
    times = p.profile.times
    busy = times.assign(**{k: times[k] * np.where((times["threads"] == 1) & (times["workers"] == 1), 3, 1) for k in ("forward_s", "backward_s")})  # fmt: skip
    q = problem(times=busy, **SURE)
    (text,) = notes(q, made(q, (), (2,), 1, "none"))
    assert "times as quick as one core, on 2 cores: the machine was busier while one core was measured" in text
    for speeds, told in (((2.0, 2.0), True), ((0.5, 0.5), True), ((0.1, 1.0), False)):
        r = q.with_speeds(speeds)
        assert bool(notes(r, made(r, (), (2,), 1, "none"))) == told, speeds


def test_a_batch_above_those_measured_is_told() -> None:
    p = problem(batch=16, **SURE)
    (text,) = notes(p, made(p, (), (1,), 2, "none"))
    assert text.startswith("the profile was taken with at most 8 samples at once, the batch has 16")


def test_batch_norm_that_sees_less_than_the_batch_is_told() -> None:
    p = problem(**SURE)
    layers = (p.profile.layers[0], replace(p.profile.layers[1], over_samples=True), p.profile.layers[2])
    p = replace(p, profile=replace(p.profile, layers=layers))
    whole, parts = made(p, (), (1,), 1, "none"), made(p, (1,), (1, 1), 2, "1f1b")
    assert notes(p, whole) == ()
    (text,) = notes(p, parts)
    assert text.startswith("batch norm (in 1 layer) sees 4 samples at a time, not the batch's 8")
    (shared,) = notes(p, made(p, (), (2,), 2, "none"))
    assert "sees 2 samples" in shared
    assert all(notes(p, x.plan) == () for x in [replace(p, whole_batch=True).solve()])
    assert f"note: {text}" in str(replace(p, schedules=("1f1b",), micro_batches=(2,)).solve().estimate)


def test_crowds_that_were_not_measured_are_told() -> None:
    p = problem(cores=4, **SURE)
    assert notes(p, made(p, (), (2,), 1, "none")) == ()
    (text,) = notes(p, made(p, (), (4,), 1, "none"))
    assert text.startswith("the profile knows no 4 workers of 1 thread at once on a host, at most 2")


def test_a_profile_of_a_busy_machine_is_told() -> None:
    p = problem(ratios=[(1, 1, "rounds", x) for x in (0.5, 1.0, 1.6)])
    (text,) = notes(p, made(p, (), (1,), 1, "none"))
    assert "times the expected one: the machine was busy" in text
    times = p.profile.times.copy()
    few = (times["samples"] == times["samples"].min()) & (times["workers"] == 2)
    times.loc[few, ["forward_s", "backward_s"]] *= 100
    odd = problem(times=times, **SURE)
    (text,) = notes(odd, made(odd, (), (1,), 1, "none"))
    assert text.startswith("with 2 workers of 1 thread ") and "times as long as" in text


def test_two_plans_have_no_one_name() -> None:
    """A data parallel plan in several micro-batches is another one than that in one."""
    p = problem()
    plan = made(p, (), (2,), 2, "none")
    assert [a.name for a in p.alternatives(plan)] == ["data parallel, at once", "threads", "one core"]
    assert named(plan.strategy, plan.micro_batches) == "data parallel, 2 micro-batches"
    assert {a.name: a.is_plan for a in p.alternatives(made(p, (), (2,), 1, "none"))} == {
        "threads": False,
        "one core": False,
        "data parallel": True,
    }
