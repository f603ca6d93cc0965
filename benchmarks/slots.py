"""Slots a second: the same slots by every statement and solver, rebuilt or compiled; and how well they agree."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

import splitplan as sp
from benchmarks.registry import Progress, Study, register
from splitplan.errors import InfeasibleError
from splitplan.policies.slot import SlotPolicy
from splitplan.simulator import rule
from splitplan.simulator.numbers import first_state, loose, rule_of
from splitplan.solvers.slot_enumerate import cheapest


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
    rows.append(
        {
            "contestant": f"simulator's loop ({'numba' if rule.COMPILED else 'Python'})",
            **loop(problem, many, found["enumeration"], smoke),
        }
    )
    took = {row["contestant"]: row["ms"] for row in rows}
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
    gaps = [1 - b / a for a, b in zip(found["enumeration"], found["KKT"], strict=True) if a > 0 and not np.isnan(a)]
    head = {"instance": f"{name} on {device}" + (", deadline" if deadline else ""), "cuts": len(problem.choices.works)}
    return [
        head | row | {"grid_above_any_%": 100 * float(np.mean(gaps)) if row["contestant"] == "KKT" else np.nan}
        for row in rows
    ]


def loop(problem: sp.SlotControl, at: list[sp.SlotState], expected: list[float], smoke: bool) -> dict[str, Any]:
    """The decision as the simulator makes it, over the same states again and again."""
    policy, c = SlotPolicy(problem), problem.choices
    numbers, starts = rule_of(policy), [loose(first_state(policy, state)) for state in at]
    rooms = [loose(np.zeros(count)) for count in (len(c.clock_hz), len(c.levels), len(c.levels))]
    rounds = 1 if smoke else 20
    for s, state, value in zip(starts, at, expected, strict=True):
        k, n, f, j = rule.decide(numbers, s, state.frames, state.rate_bps, *rooms)
        mine = problem.at(state).score(k, n, f, j)["objective"] if n >= 0 else np.nan
        if not np.isclose(mine, value, rtol=1e-9, atol=1e-18, equal_nan=True):
            raise AssertionError(f"the loop finds {mine!r}, enumeration {value!r}")
    begin = time.perf_counter()
    for _ in range(rounds):
        for s, state in zip(starts, at, strict=True):
            rule.decide(numbers, s, state.frames, state.rate_bps, *rooms)
    seconds = (time.perf_counter() - begin) / (rounds * len(at))
    return {"slots": rounds * len(at), "ms": 1e3 * seconds, "slots_per_s": 1 / seconds}


def measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """Every instance."""
    rows: list[dict[str, Any]] = []
    for name, device in (
        (("tiny-branch", "jetson-nano"),) if smoke else (("resnet50", "jetson-tx2"), ("mobilenet_v2", "jetson-nano"))
    ):
        for deadline in (False, True):
            rows += one(name, device, deadline, smoke, progress)
    table = pd.DataFrame(rows)
    return table, (
        "Medians over the same random slots; each contestant's time is all that a user waits for: the state's numbers, the solve, reading the plan, "
        "the audit (not of enumeration and of the simulator's loop, which return numbers). Asserted: MILP, LP and compiled models find enumeration's "
        "objective to 1e-9, CVXPY the KKT's to 1e-6, no model was rebuilt. `grid_above_any_%`: by how much the table's clocks and eight rate levels "
        "cost more than any clock and any rate."
    )


register(
    Study(
        name="slots",
        title="Slots a second",
        aim="compiled in HiGHS ≥ 50x the Pyomo rebuild; CVXPY DPP ≥ 5x its rebuild; KKT ≥ 20x DPP; exact enumeration ≥ 10,000x the rebuild, ≥ 1 million user-slots a second",
        measure=measure,
    )
)
