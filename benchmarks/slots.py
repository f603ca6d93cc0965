"""Slots a second: the same slots by every statement and solver, rebuilt or compiled; how well they agree; and whole simulations."""

from __future__ import annotations

import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

import splitplan as sp
from benchmarks.registry import Progress, Study, register
from splitplan.errors import InfeasibleError
from splitplan.formulations import slot_program
from splitplan.policies.slot import SlotPolicy
from splitplan.simulator import rule
from splitplan.simulator.numbers import first_state, rooms_for, rule_of
from splitplan.solvers import slot_convex
from splitplan.solvers.columns import capacity
from splitplan.solvers.convex import Convex
from splitplan.solvers.slot_enumerate import cheapest
from splitplan.solvers.slot_kkt import Regimes

REBUILT, LP, BATCH = "Pyomo rebuilt, HiGHS MILP", "compiled, HiGHS LP", "enumeration, compiled, in a batch"

ALONE = ("one cut and regimes: CVXPY rebuilt", "one cut and regimes: CVXPY DPP", "one cut and regimes: KKT")
"""The convex program that the slot's continuous statement is made of, by itself."""

AIMS = (
    ("compiled in HiGHS", REBUILT, LP, 50.0),
    ("CVXPY DPP", ALONE[0], ALONE[1], 5.0),
    ("KKT", ALONE[1], ALONE[2], 20.0),
    ("CVXPY DPP, all cuts and regimes", "CVXPY rebuilt", "CVXPY DPP", 5.0),
    ("KKT, all cuts and regimes", "CVXPY DPP", "KKT", 20.0),
    ("exact enumeration", REBUILT, BATCH, 10_000.0),
)
"""What, over which contestant, which, and how many times as quick it should be."""

USER_SLOTS = 1e6
"""A second, in a batch."""


def control(name: str, device: str, deadline: bool) -> sp.SlotControl:
    """A model between a board and a server, over LTE; with a deadline the three knobs are tied to each other."""
    traced = sp.trace(sp.zoo(name), sp.zoo_example(name), name=name)
    link = sp.link("lte-2021", rate_bps=13e6, rtt_s=0.03)
    air = link.needs_radio
    link = link.but(radio=sp.Radio(air.up_w_per_bps, air.down_w_per_bps, air.base_w, bandwidth_hz=5e6))
    system = sp.System(device=sp.device(device), server=sp.device("jetson-agx-xavier"), link=link)
    profile = sp.Profile.modelled(traced.graph, system)
    whole = float(profile.seconds("device").sum())
    return sp.SlotControl(profile, system, V=0.05, deadline_s=3 * whole if deadline else None)


def states(problem: sp.SlotControl, count: int) -> list[sp.SlotState]:
    """Random states: some frames of work in each queue, a log-normal channel."""
    rng = np.random.default_rng(0)
    device, bits, server = np.maximum(problem.choices.works.max(axis=0), 1e-9)
    return [
        sp.SlotState(
            device_s=float(device * rng.exponential(3)),
            uplink_bits=float(bits * rng.exponential(3)),
            server_s=float(server * rng.exponential(3)),
            frames=int(rng.poisson(1.0)),
            rate_bps=float(13e6 * rng.lognormal(-0.3, 0.7)),
        )
        for _ in range(count)
    ]


def timed(once: Callable[[sp.SlotState], float], at: list[sp.SlotState]) -> tuple[float, list[float]]:
    """Median seconds of a slot, the first left out, and each slot's objective (NaN: nothing is allowed)."""
    taken, values = [], []
    for state in at:
        begin = time.perf_counter()
        try:
            value = once(state)
        except InfeasibleError:
            value = np.nan
        taken.append(time.perf_counter() - begin)
        values.append(value)
    return statistics.median(taken[1:] or taken), values


def one(name: str, device: str, deadline: bool, smoke: bool, progress: Progress) -> list[dict[str, Any]]:
    """All contestants on the same slots."""
    problem = control(name, device, deadline)
    free = sp.SlotContinuous(problem)
    many = states(problem, 3 if smoke else 300)
    few = many[: 2 if smoke else 30]
    lp, milp, dpp = problem.compile("highs-lp"), problem.compile("highs"), free.compile("cvxpy")

    def slot(state: sp.SlotState) -> dict[str, Any]:
        return {n: getattr(state, n) for n in problem.slot_parameters}

    contestants: dict[str, tuple[Callable[[sp.SlotState], float], list[sp.SlotState]]] = {
        "Pyomo rebuilt, HiGHS MILP": (lambda s: problem.at(s).solve("highs").objective, few),
        "Pyomo rebuilt, HiGHS LP": (lambda s: problem.at(s).solve("highs-lp").objective, few),
        "compiled, HiGHS MILP": (lambda s: milp.step(**slot(s)).objective, few),
        "compiled, HiGHS LP": (lambda s: lp.step(**slot(s)).objective, many),
        "enumeration": (lambda s: (cheapest(problem.at(s)) or (None, np.nan))[1], many),
        "CVXPY rebuilt": (lambda s: free.of(problem.at(s)).solve("cvxpy").objective, few),
        "CVXPY DPP": (lambda s: dpp.step(**slot(s)).objective, few),
        "KKT": (lambda s: free.of(problem.at(s)).solve("slot-kkt").objective, many),
    }
    rows, found = [], {}
    for who, (once, at) in contestants.items():
        progress(f"slots: {name}, {who}")
        seconds, found[who] = timed(once, at)
        rows.append({"contestant": who, "slots": len(at), "ms": 1e3 * seconds, "slots_per_s": 1 / seconds})
    rows += alone(free, few, progress)
    progress(f"slots: {name}, {BATCH}")
    rows.append({"contestant": BATCH, **batch(problem, many, found["enumeration"], smoke)})
    took = {row["contestant"]: row["ms"] for row in rows}
    for who, compiled in (("compiled, HiGHS LP", lp), ("compiled, HiGHS MILP", milp)):
        inside = statistics.median(
            compiled.step(**slot(s)).solve_s for s in few if not np.isnan(found["enumeration"][many.index(s)])
        )
        next(row for row in rows if row["contestant"] == who)["in HiGHS ms"] = 1e3 * inside
    for row in rows:
        for label, who in (("rebuilt MILP", "Pyomo rebuilt, HiGHS MILP"), ("CVXPY rebuilt",) * 2, ("CVXPY DPP",) * 2):
            row[f"x {label}"] = took[who] / row["ms"]
    for who, against, most in (
        ("Pyomo rebuilt, HiGHS MILP", "enumeration", 1e-9),
        ("Pyomo rebuilt, HiGHS LP", "enumeration", 1e-9),
        ("compiled, HiGHS MILP", "enumeration", 1e-9),
        ("compiled, HiGHS LP", "enumeration", 1e-9),
        ("CVXPY DPP", "KKT", 1e-6),
    ):
        for a, b in zip(found[who], found[against], strict=False):
            if not np.isclose(a, b, rtol=most, atol=most * 1e-9, equal_nan=True):
                raise AssertionError(f"{name}: {who} finds {a!r}, {against} {b!r}")
    if lp.rebuilds or milp.rebuilds or dpp.rebuilds:
        raise AssertionError("a compiled model was rebuilt")
    rows += simulations(problem, smoke, progress)
    gaps = [1 - b / a for a, b in zip(found["enumeration"], found["KKT"], strict=True) if a > 0 and not np.isnan(a)]
    head = {"instance": f"{name} on {device}" + (", deadline" if deadline else ""), "cuts": len(problem.choices.works)}
    return [
        head | row | {"grid_above_any_%": 100 * float(np.mean(gaps)) if row["contestant"] == "KKT" else np.nan}
        for row in rows
    ]


def alone(free: sp.SlotContinuous, at: list[sp.SlotState], progress: Progress) -> list[dict[str, Any]]:
    """One convex program a slot, of the cheapest cut, the first of its regimes with device and radio on: made anew, patched, and in closed form."""
    programs, solver = slot_convex.Programs(Convex(), free), Convex()
    taken: dict[str, list[float]] = {who: [] for who in ALONE}
    for state in at:
        problem = free.of(free.control.at(state))
        cut, n = int(problem.costs.cut.argmin()), int(state.frames)
        on = [r for r in slot_convex.REGIMES if "off" not in r and slot_program.values(problem, cut, n, *r) is not None]
        if not on:
            continue
        points = []
        for who, once in zip(
            ALONE,
            (
                lambda: slot_convex.Programs(solver, problem).solve(problem, cut, n, *on[0]),  # noqa: B023
                lambda: programs.solve(problem, cut, n, *on[0]),  # noqa: B023
                lambda: Regimes(problem, cut, n, *on[0]).solve(),  # noqa: B023
            ),
            strict=True,
        ):
            progress(f"slots: {who}")
            begin = time.perf_counter()
            point = once()
            taken[who].append(time.perf_counter() - begin)
            points.append(np.nan if point is None else problem.score(cut, n, *point)["objective"])
        if not np.allclose(points, points[-1], rtol=1e-6, equal_nan=True):
            raise AssertionError(f"one program, three answers: {points}")
    return [
        {
            "contestant": who,
            "slots": len(s),
            "ms": 1e3 * statistics.median(s[1:] or s),
            "slots_per_s": 1 / statistics.median(s[1:] or s),
        }
        for who, s in taken.items()
        if s
    ]


def batch(problem: sp.SlotControl, at: list[sp.SlotState], expected: list[float], smoke: bool) -> dict[str, Any]:
    """The decision as the simulator makes it, exact over every choice, for many states in one call."""
    policy = SlotPolicy(problem)
    numbers, rooms = rule_of(policy), rooms_for(policy)
    whole = at * (1 if smoke else 200)
    states, found = np.array([first_state(policy, state) for state in whole]), np.zeros((len(whole), 4), np.int64)
    frames, rates = np.array([state.frames for state in whole]), np.array([state.rate_bps for state in whole])
    decide_all: Any = rule.numba.njit(_decide_all) if rule.COMPILED else _decide_all
    decide_all(numbers, states[: len(at)], frames[: len(at)], rates[: len(at)], rooms, found)
    for (k, n, f, j), state, value in zip(found.tolist(), at, expected, strict=False):
        mine = problem.at(state).score(k, n, f, j)["objective"] if n >= 0 else np.nan
        if not np.isclose(mine, value, rtol=1e-9, atol=1e-18, equal_nan=True):
            raise AssertionError(f"the batch finds {mine!r}, enumeration {value!r}")
    begin = time.perf_counter()
    decide_all(numbers, states, frames, rates, rooms, found)
    return {"slots": len(whole)} | _rate(time.perf_counter() - begin, len(whole))


def _decide_all(numbers: Any, states: Any, frames: Any, rates: Any, rooms: Any, found: Any) -> None:
    for i in range(len(frames)):
        k, n, f, j = rule.decide(numbers, states[i], frames[i], rates[i], rooms)
        found[i, 0], found[i, 1], found[i, 2], found[i, 3] = k, n, f, j


def _rate(seconds: float, slots: int) -> dict[str, float]:
    return {"ms": 1e3 * seconds / slots, "slots_per_s": slots / seconds}


def simulations(problem: sp.SlotControl, smoke: bool, progress: Progress) -> list[dict[str, Any]]:
    """One user for a million slots, and a thousand users for ten thousand, frame by frame: everything that `simulate` and `simulate_many` do."""
    one, users, each = (2_000, 4, 500) if smoke else (1_000_000, 1_000, 10_000)
    policy, tau = SlotPolicy(problem), problem.slot_s
    channel = sp.markov_channel(13.4e6, 2.5e6, 5.0, duration_s=each * tau, seed=1)
    trial = sp.Scenario(sp.poisson(1.0 / tau), channel, slots=each)
    share, _ = capacity(sp.StationaryBound(problem, trial))
    scene = replace(trial, arrivals=sp.poisson(0.6 * share / tau), repeat=True)
    long, many = replace(scene, slots=one), [replace(scene, seed=i) for i in range(users)]
    jobs = os.cpu_count() or 1 if rule.COMPILED else 1

    def least(count: int) -> None:
        sp.simulate_many(policy, many[:count], jobs=jobs)

    least(1)  # what is compiled once
    rows = []
    for who, slots, run, again in (
        (f"simulate, 1 user, {one:,} slots", one, lambda: sp.simulate(policy, long, trace=False), None),
        (f"simulate_many, {users:,} users, {each:,} slots", users * each, lambda: least(users), lambda: least(max(1, users // 20))),
    ):  # fmt: skip
        progress(f"slots: {who}")
        begin = time.perf_counter()
        run()
        seconds = time.perf_counter() - begin
        tracemalloc.start()
        (again or run)()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        rows.append({"contestant": who, "slots": slots, "s": seconds, "peak_MB": most / 1e6} | _rate(seconds, slots))
    return rows


def ratios(rows: list[dict[str, Any]]) -> str:
    """What was asked for and what was found, instance by instance, as a list."""
    lines = []
    for instance in dict.fromkeys(row["instance"] for row in rows):
        ms = {row["contestant"]: row["ms"] for row in rows if row["instance"] == instance}
        said = [
            f"{what} {ms[over] / ms[who]:.4g} times as quick as {over} (aim {aim:,.0f}: {'met' if ms[over] / ms[who] >= aim else 'not met'})"
            for what, over, who, aim in AIMS
            if over in ms
        ]
        a_second = 1e3 / ms[BATCH]
        said.append(
            f"{a_second:,.0f} user-slots a second in a batch (aim {USER_SLOTS:,.0f}: {'met' if a_second >= USER_SLOTS else 'not met'})"
        )
        said += [
            f"{row['contestant']}: {row['s']:.3g} s (aim 60: {'met' if row['s'] < 60 else 'not met'})"
            for row in rows
            if row["instance"] == instance and "s" in row and row["s"] == row["s"]
        ]
        lines.append(f"- {instance}: {'; '.join(said)}")
    return "\n".join(lines)


def measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """Every instance."""
    rows: list[dict[str, Any]] = []
    for name, device in (
        (("tiny-branch", "jetson-nano"),) if smoke else (("resnet50", "jetson-tx2"), ("mobilenet_v2", "jetson-nano"))
    ):
        for deadline in (False, True):
            rows += one(name, device, deadline, smoke, progress)
    table = pd.DataFrame(rows)
    return table, ratios(rows) + "\n\n" + (
        "Medians over the same random slots; each contestant's time is all that a user waits for: the state's numbers, the solve, reading the plan, "
        "the audit (not of enumeration, which returns numbers). Asserted: MILP, LP, compiled models and the batch find enumeration's "
        "objective to 1e-9, CVXPY the KKT's to 1e-6, no model was rebuilt. `grid_above_any_%`: by how much the table's clocks and eight rate levels "
        "cost more than any clock and any rate. `simulate` and `simulate_many` draw arrivals and channel, run frame by frame through physical queues, and solve the "
        "bound; Poisson frames at 60 % of the capacity; all cores where numba is there. `peak_MB`: memory that they allocate at once (of `simulate_many` with a twentieth "
        "of the users: it does not depend on their number)."
    )


register(
    Study(
        name="slots",
        title="Slots a second",
        aim="compiled in HiGHS ≥ 50x the Pyomo rebuild; CVXPY DPP ≥ 5x its rebuild; KKT ≥ 20x DPP; exact enumeration ≥ 10,000x the rebuild, ≥ 1 million user-slots a second; 1,000,000 slots of one user, and 1,000 users × 10,000 slots, in under a minute each, memory bounded",
        measure=measure,
    )
)
