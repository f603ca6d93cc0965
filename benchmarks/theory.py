"""The theorem, held against runs: V times the gap stays below B on independent slots; gap and backlog against V, with fitted exponents."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

import splitplan as sp
from benchmarks.registry import Progress, Study, register
from benchmarks.slots import control
from splitplan.formulations.solution import Solution

WEIGHTS = tuple(float(v) for v in np.geomspace(1e-3, 100.0, 16))


def independent(problem: sp.SlotControl, slots: int, load: float, seed: int) -> sp.Scenario:
    """Slots that know nothing of each other: rates drawn one by one from a Markov channel's, frames Poisson at a part of the capacity."""
    from splitplan.solvers.columns import capacity

    tau = problem.slot_s
    rates = sp.markov_channel(13.4e6, 2.5e6, 5.0, duration_s=600.0, seed=1).mean_rate(tau, int(600 / tau))
    drawn = np.random.default_rng(seed).choice(rates, slots)
    channel = sp.Channel(tau * np.arange(slots + 1), drawn, "independent slots")
    trial = sp.Scenario(sp.poisson(1.0 / tau), channel, slots=slots, seed=seed)
    share, _ = capacity(sp.StationaryBound(problem, trial))
    return sp.Scenario(sp.poisson(load * share / tau), channel, slots=slots, seed=seed)


def constant(problem: sp.SlotControl, scene: sp.Scenario) -> float:
    """B, s²: Σ over queues of ½E[a²] + 3/2 b², in seconds; a what arrives in a slot by the greatest cut, b the most that is done.

    The drift of a queue is at most Q(a − b) + ½(a² + b²). A policy that offers b where less is left does less, by at most b, while Q < b: that
    adds b² once more.
    """
    c, tau, u = problem.choices, problem.slot_s, problem.units["uplink"]
    slots = scene.slotted(tau)
    frames = float((slots.frames.astype(float) ** 2).mean())
    arrives = c.works.max(axis=0) / np.array([1.0, u, 1.0])
    sent = (tau * slots.rate_bps * c.levels[-1] / u) ** 2
    done = np.array([(tau * c.speed.max()) ** 2, float(sent.mean()), tau**2])
    return float((0.5 * frames * arrives**2 + 1.5 * done).sum())


def start(problem: sp.SlotControl, scene: sp.Scenario, bound: Solution, v: float) -> sp.SlotState:
    """Queues at V·π, less what place-holders stand for: where the rule settles."""
    best = sp.SlotState(rate_bps=float(scene.slotted(problem.slot_s).rate_bps.max()))
    d, held = bound.duals, replace(problem, V=v).place_held(best)
    return sp.SlotState(
        device_s=max(0.0, v * d["device"] - held[0]),
        uplink_bits=max(0.0, v * d["uplink"] - held[1]) * problem.units["uplink"] ** 2,
        server_s=v * d["server"],
    )


def one(
    name: str, device: str, held: bool, slots: int, weights: tuple[float, ...], progress: Progress
) -> list[dict[str, Any]]:
    """Gap, certificate and backlog at every V."""
    problem = replace(control(name, device, deadline=False), persistence=0.0, place_holders=held)
    scene = independent(problem, slots, 0.6, seed=3)
    bound = sp.StationaryBound(problem, scene).solve()
    assert bound.bound is not None
    most = constant(problem, scene)
    rows = []
    for v in weights:
        progress(f"theory: {name}, V = {v:g}")
        policy = sp.SlotPolicy(replace(problem, V=v))
        result = sp.simulate(policy, scene, physical=False, start=start(problem, scene, bound, v), trace=False)
        u = problem.units["uplink"]
        left = np.array(result.left)
        debt = sum(bound.duals[n] * q for n, q in zip(("device", "uplink", "server"), left, strict=True)) / slots
        backlog = (result.sums["device_s"] + result.sums["uplink_bits"] / u + result.sums["server_s"]) / slots
        gap = float(result.certificate or 0.0)
        row: dict[str, Any] = {
            "instance": f"{name} on {device}",
            "rule": "place-holders" if held else "textbook",
            "V": v,
            "power_w": result.power_w,
            "gap_%": 100 * gap / bound.bound,
        }
        row |= {
            "V·gap": v * gap,
            "B": most,
            "V·gap/B": v * gap / most,
            "debt_%": 100 * abs(debt) / bound.bound,
            "backlog_s": backlog,
        }
        rows.append(row)
    return rows


def exponent(v: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope of ln y against ln v by least squares, and its standard error."""
    some = y > 0
    x, z = np.log(v[some]), np.log(y[some])
    if len(x) < 3:
        return np.nan, np.nan
    (slope, _), cov = np.polyfit(x, z, 1, cov=True)
    return float(slope), float(np.sqrt(cov[0, 0]))


def measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """Both instances."""
    instances = (
        (("tiny-branch", "jetson-nano"),) if smoke else (("resnet50", "jetson-tx2"), ("mobilenet_v2", "jetson-nano"))
    )
    rows: list[dict[str, Any]] = []
    fits = []
    for (name, device), held in itertools.product(instances, (False, True)):
        mine = one(name, device, held, 2_000 if smoke else 200_000, WEIGHTS[:3] if smoke else WEIGHTS, progress)
        v = np.array([r["V"] for r in mine])
        if not smoke and mine[-1]["gap_%"] > 0.5 * mine[len(mine) // 2]["gap_%"]:
            raise AssertionError(f"{name}: the gap does not fall with V, whatever B is")
        gap, gap_error = exponent(v, np.array([r["gap_%"] for r in mine]))
        backlog, backlog_error = exponent(v, np.array([r["backlog_s"] for r in mine]))
        fits.append(
            f"{name}, {mine[0]['rule']}: gap ∝ V^({gap:.2f} ± {gap_error:.2f}), backlog ∝ V^({backlog:.2f} ± {backlog_error:.2f})"
        )
        rows += mine
    table = pd.DataFrame(rows)
    if (table["V·gap/B"] > 1).any():
        raise AssertionError("V·gap is above B: the theorem, or the code, is wrong")
    return table, (
        f"Fitted: {'; '.join(fits)}. V·gap is at most {table['V·gap/B'].max():.3g} of B; the debt of work left at the end is at most {table['debt_%'].max():.2g} % of p*.\n\n"
        "The theory's queues (`physical=False`), slots drawn one by one, Poisson frames at 60 % of the capacity, started at V·π (less the place-holders); the gap is the certificate: mean energy less "
        "what no policy can be below on this path. B from second moments (`benchmarks/theory.py:constant`). On a channel whose slots depend on each other B/V is not guaranteed."
    )


register(
    Study(
        name="theory",
        title="The gap against V",
        aim="V·gap ≤ B at every V over three decades (here five), fitted exponents of gap and backlog with their error, the debt term ≤ 1 % of p*",
        measure=measure,
    )
)
