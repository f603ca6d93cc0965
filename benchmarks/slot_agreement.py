"""Every statement of a slot against the others, on random slots; every run's certificate, on random scenes: counts and worst differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

import splitplan as sp
from benchmarks.instances import Seeded
from benchmarks.registry import Progress, Study, register
from benchmarks.slot_instances import slot_control, slot_state
from splitplan.errors import InfeasibleError, NotApplicable
from splitplan.policies.slot_baselines import all_or_nothing, device_only, greedy_latency, server_only

STATES = 20
"""Of each control: so many slots of one compiled model."""


def slots(count: int, **options: Any) -> Iterator[tuple[sp.SlotControl, list[sp.SlotState]]]:
    """Random controls, and states of each."""
    for seed in range(max(1, count // STATES)):
        choose = Seeded(7_000 + seed)
        control = slot_control(choose, 5, **options)
        yield control, [slot_state(choose, control) for _ in range(min(STATES, count))]


def apart(a: float, b: float, unit: float) -> float:
    """How far two costs are from each other, relative to the cost, and to a millionth of the slot's largest where it is next to nothing."""
    return abs(a - b) / max(abs(a), abs(b), unit)


def least(solve: Callable[[], sp.Solution]) -> float | None:
    """The least cost; None when nothing is allowed."""
    try:
        found = solve().objective
    except InfeasibleError:
        return None
    assert found is not None
    return found


def compiled(count: int, name: str, progress: Progress) -> dict[str, Any]:
    """A compiled model, patched slot after slot, against enumeration."""
    worst, seen, infeasible, rebuilds = 0.0, 0, 0, 0
    for control, states in slots(count):
        progress(f"slot-agreement: {name}, {seen} slots")
        try:
            model = control.compile(name)
            model.step(**{k: getattr(states[0], k) for k in control.slot_parameters})
        except NotApplicable:
            continue
        except InfeasibleError:
            pass
        for state in states:
            slot = {k: getattr(state, k) for k in control.slot_parameters}
            problem = control.at(state)
            exact, found = least(lambda p=problem: p.solve("enumerate")), least(lambda s=slot, m=model: m.step(**s))  # type: ignore[misc]
            seen += 1
            if exact is None or found is None:
                if (exact is None) != (found is None):
                    raise AssertionError(f"{name} and enumeration disagree on whether anything is allowed in {state}")
                infeasible += 1
                continue
            worst = max(worst, apart(exact, found, problem.smallest))
        rebuilds += model.rebuilds
    return row(f"enumeration = {name}, compiled", seen, infeasible, worst, f"{rebuilds} rebuilds")


def fresh(count: int, progress: Progress) -> dict[str, Any]:
    """The MILP built anew, against enumeration."""
    worst, seen, infeasible = 0.0, 0, 0
    for control, states in slots(count):
        progress(f"slot-agreement: MILP, {seen} slots")
        for state in states:
            problem = control.at(state)
            exact, found = least(lambda p=problem: p.solve("enumerate")), least(lambda p=problem: p.solve("highs"))  # type: ignore[misc]
            seen += 1
            if exact is None or found is None:
                if (exact is None) != (found is None):
                    raise AssertionError(f"the MILP and enumeration disagree on whether anything is allowed in {state}")
                infeasible += 1
                continue
            worst = max(worst, apart(exact, found, problem.smallest))
    return row("enumeration = MILP (Pyomo, HiGHS)", seen, infeasible, worst, "")


def continuous(count: int, progress: Progress) -> list[dict[str, Any]]:
    """CVXPY against the KKT conditions, and both below the grid."""
    worst, seen, infeasible, rebuilds, above = 0.0, 0, 0, 0, 0.0
    for control, states in slots(count, continuous=True):
        progress(f"slot-agreement: continuous, {seen} slots")
        problem = sp.SlotContinuous(control)
        model = problem.compile("cvxpy")
        for state in states:
            here = problem.of(control.at(state))
            kkt = least(lambda h=here: h.solve("slot-kkt"))  # type: ignore[misc]
            seen += 1
            if kkt is None:
                infeasible += 1
                continue
            slot = {k: getattr(state, k) for k in control.slot_parameters}
            convex = model.step(**slot).objective
            assert convex is not None
            # A cone solver's tolerance is absolute: relative to the largest cost of the slot's choices.
            worst = max(worst, apart(convex, kkt, 1e4 / here.control.scale))
            grid = least(lambda c=control, s=state: c.at(s).solve("enumerate"))  # type: ignore[misc]
            if grid is not None:
                above = max(above, (kkt - grid) / max(abs(grid), here.control.smallest))
        rebuilds += model.rebuilds
    return [
        row("CVXPY (DPP) = KKT", seen, infeasible, worst, f"{rebuilds} rebuilds"),
        row("KKT ≤ enumeration on the grid", seen, infeasible, max(above, 0.0), "how far above, at most"),
    ]


def refined(count: int, progress: Progress) -> dict[str, Any]:
    """How much dearer the grid is than any clock and rate, as it gets finer."""
    from tests.formulations.test_slot_continuous import refined as finer

    times, gaps = (1, 2, 4, 8, 16), []
    for seed in range(count):
        progress(f"slot-agreement: refining, {seed + 1} of {count}")
        choose = Seeded(9_000 + seed)
        control = replace(slot_control(choose, 3, limits=False, continuous=True), place_holders=False)
        if len(control.choices.clock_hz) < 3 or control.V == 0:
            continue
        state = slot_state(choose, control)
        low = least(lambda c=control, s=state: sp.SlotContinuous(c.at(s)).solve("slot-kkt"))  # type: ignore[misc]
        if low is None or low <= 1e-9:
            continue
        grid = [least(lambda c=control, s=state, t=t: finer(c, t).at(s).solve("enumerate")) for t in times]  # type: ignore[misc]
        gaps.append([(g if g is not None else np.inf) / low - 1 for g in grid])
    some = np.array([g for g in gaps if g[0] > 1e-6])
    if (np.diff(some, axis=1) > 1e-9).any():
        raise AssertionError("a finer grid, which holds the coarser one, is dearer")
    means = some.mean(axis=0) if len(some) else np.zeros(len(times))
    text = ", ".join(f"{t}x: {m:.2g}" for t, m in zip(times, means, strict=True))
    return row("the grid comes down, mean gap by refinement", len(some), 0, float(means[-1]), text)


def certified(count: int, progress: Progress) -> dict[str, Any]:
    """Runs of several policies on random scenes, short and long, against the bound."""
    from tests.simulator.test_simulate import carried

    worst, runs, beyond, seed = np.inf, 0, 0, 0
    while runs < 2 * count:
        progress(f"slot-agreement: run {runs + 1} of {2 * count}")
        for seconds in (3.0, 100.0):
            control, scene = carried(1_000 + seed, (0.3, 0.6, 0.9)[seed % 3], seconds, V=(0.0, 1e-3, 1.0)[seed % 3])
            who = (sp.SlotPolicy, device_only, server_only, all_or_nothing, greedy_latency)[seed % 5]
            try:
                result = sp.simulate(who(control), scene, physical=bool(seed % 2))
            except InfeasibleError:  # the draw of a short scene can be more than its channel carries
                beyond += 1
                continue
            assert result.certificate is not None and result.bound is not None
            worst, runs = min(worst, result.certificate / abs(result.bound.bound or 1.0)), runs + 1
        seed += 1
    return row(
        "certificate ≥ 0: least, relative to the bound", runs, beyond, float(worst), f"{seed} scenes, short and long"
    )


def row(what: str, seen: int, infeasible: int, worst: float, note: str) -> dict[str, Any]:
    """A line of the table."""
    return {"what": what, "slots or runs": seen, "nothing allowed": infeasible, "worst": worst, "note": note}


def measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """Everything."""
    count = 20 if smoke else 1_000
    rows = [
        fresh(20 if smoke else 300, progress),
        compiled(count, "highs", progress),
        compiled(count, "highs-lp", progress),
        *continuous(count, progress),
        refined(6 if smoke else 1_000, progress),
        certified(3 if smoke else 200, progress),
    ]
    return pd.DataFrame(rows), (
        "Random chains and DAGs of 5 layers, devices with 0 to 4 clocks, affine and Shannon radios, dead slots and empty queues, limits that bind in some "
        "(deadline, power cap, thermal, budgets, refusals). Worst: relative difference of costs, or what the line says. Where nothing is allowed all statements say so. "
        "HiGHS's LP is left out where its relaxation is refused (a deadline and a cap together)."
    )


register(
    Study(
        name="slot-agreement",
        title="The statements of a slot agree",
        aim="enumeration = MILP to 1e-9, CVXPY = KKT to 1e-6, KKT ≤ grid and the grid comes down to it, 0 rebuilds, on ≥ 1,000 slots; certificate ≥ 0 on ≥ 200 scenes",
        measure=measure,
    )
)
