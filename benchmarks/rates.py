"""Best plan against every baseline over 1–100 Mbit/s: where an interior cut wins, and by how much. Sums over measured layer times."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

import splitplan as sp
from benchmarks.decide import ZOO
from benchmarks.registry import Progress, Study, register
from splitplan.errors import DataError
from splitplan.policies.baselines import DADS, QDMP, Baseline, DeviceOnly, Neurosurgeon, Scan, ServerOnly, at_rate

SLOWDOWN = 8.0
JPEG_BYTES_PER_PIXEL = 0.25
"""A photograph at quality 85 to 90 takes some 2 bits a pixel."""


def settings(traced: sp.Traced) -> list[dict[str, Any]]:
    """Raw input or a JPEG of it, full precision or int8 on the wire."""
    pixels = sum(int(np.prod(t.shape[-2:])) for t in traced.graph.tensors if t.producer == "input")
    jpeg = round(JPEG_BYTES_PER_PIXEL * pixels)
    return [
        {"input": what, "wire": wire, "input_bytes": size}
        for what, size in (("raw", None), (f"JPEG, {jpeg / 1e3:.0f} kB", float(jpeg)))
        for wire in ("fp32", "int8")
    ]


def compare(problem: sp.SplitPoint, rates: np.ndarray) -> dict[str, Any]:
    """The best plan and the baselines at every rate."""
    table = sp.split_table(problem)
    rules: list[Baseline] = [
        DeviceOnly(),
        ServerOnly(),
        Neurosurgeon(),
        DADS("light"),
        DADS("heavy"),
        QDMP(),
        Scan(table),
    ]
    best = np.array([table.cost(float(r)) for r in rates])
    interior = np.array([0 < len(table.plan(table.decide(float(r))).server_layers) < len(table.layers) for r in rates])
    row: dict[str, Any] = {"cuts": len(table)}
    reached: dict[str, np.ndarray] = {}
    for rule in rules:
        reached[name := rule.name] = np.array([_latency(rule, at_rate(problem, float(r))) for r in rates])
        if (reached[name] < best * (1 - 1e-9)).any():
            raise AssertionError(f"{name} is better than the best plan")
    ends = np.minimum(reached["device only"], reached["server only"])
    row["interior_%"] = 100 * interior.mean()
    row["x best end"] = float(np.max(ends / best))
    row["at_mbps"] = float(rates[int(np.argmax(ends / best))] / 1e6)
    for name, values in reached.items():
        row[f"x {name}"] = float(np.exp(np.mean(np.log(values / best))))
        if name in ("device only", "server only"):
            row[f"most x {name}"] = float(np.max(values / best))
    # Frames a second of a stream: the cut of least period against what the two ends reach.
    heavy = sp.split_table(replace(problem, objective="period"))
    period = np.array([heavy.cost(float(r)) for r in rates])
    fps = {
        name: np.array([_period(rule, at_rate(problem, float(r))) for r in rates]) / period
        for name, rule in (("device only", DeviceOnly()), ("server only", ServerOnly()), ("DADS heavy", DADS("heavy")))
    }
    row["most x frames/s of the best end"] = float(np.max(np.minimum(fps["device only"], fps["server only"])))
    row |= {f"most x frames/s of {name}": float(np.max(v)) for name, v in fps.items()}
    energy = sp.split_table(replace(problem, objective="energy"))
    joule = np.array([energy.cost(float(r)) for r in rates])
    at_ends = [
        np.array([_of(rule, at_rate(problem, float(r)), "energy_j") for r in rates])
        for rule in (DeviceOnly(), ServerOnly())
    ]
    row["most x energy of the best end"] = float(np.max(np.minimum(*at_ends) / joule))
    return row


def _of(rule: Baseline, problem: sp.SplitPoint, what: str) -> float:
    try:
        return float(problem.evaluate(rule.plan(problem))[what])
    except DataError as e:
        raise AssertionError(f"{rule.name}: {e}") from e


def _latency(rule: Baseline, problem: sp.SplitPoint) -> float:
    return _of(rule, problem, "latency_s")


def _period(rule: Baseline, problem: sp.SplitPoint) -> float:
    return _of(rule, problem, "period_s")


def measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """Every model in every setting."""
    rates = np.geomspace(1e6, 100e6, 3 if smoke else 41)
    rows = []
    for name in ("tiny-branch",) if smoke else ZOO:
        progress(f"rates: profiling {name}")
        traced = sp.trace(sp.zoo(name), sp.zoo_example(name), name=name)
        device = sp.device("this-cpu", slowdown=SLOWDOWN, active_power_w=(5.0,), idle_power_w=1.5)
        system = sp.System(
            device=device, server=sp.device("this-cpu"), link=sp.link("lte-2021", rate_bps=20e6, rtt_s=0.03)
        )
        profile = sp.profile(traced, system, budget_s=0.2 if smoke else 10.0)
        for setting in settings(traced):
            progress(f"rates: {name}, {setting['input']}, {setting['wire']}")
            problem = sp.SplitPoint(profile, system, wire=setting["wire"], input_bytes=setting["input_bytes"])
            row = {"model": name, "input": setting["input"], "wire": setting["wire"]}
            rows.append(row | compare(problem, rates))
    table = pd.DataFrame(rows)
    never = table[table["interior_%"] == 0]
    always = sorted(set(never["model"]) - set(table["model"][table["interior_%"] > 0]))
    top = table.loc[table["x best end"].idxmax()]
    note = (
        f"Device: this machine slowed {SLOWDOWN:g}x; server: this machine; {len(rates)} rates from 1 to 100 Mbit/s, evenly in their logarithm, rtt 30 ms. "
        f"No interior cut is best at any rate in {len(never)} of {len(table)} settings"
        + (f"; in none of a model's settings for {', '.join(always)}" if always else "")
        + f". Against the better of the two ends, which is the fair comparison, the most is {top['x best end']:.2f}x ({top['model']}, {top['input']}, "
        f"{top['wire']}, at {top['at_mbps']:.3g} Mbit/s), median over settings {table['x best end'].median():.2f}x; against one end alone up to "
        f"{table['most x device only'].max():.1f}x (device only) and {table['most x server only'].max():.1f}x (server only). "
        f"Frames a second: up to {table['most x frames/s of the best end'].max():.2f}x the better end, {table['most x frames/s of device only'].max():.1f}x device "
        f"only, {table['most x frames/s of server only'].max():.1f}x server only. Energy (modelled, 5 W computing, 1.5 W waiting): up to "
        f"{table['most x energy of the best end'].max():.2f}x less than the better end. CIC's own headlines are 2.6x latency and 3.3x throughput, "
        "against baselines and inputs of its own, which its abstract does not state.\n\n"
        "`x NAME`: geometric mean over rates of NAME's latency over the best plan's; `most`: the largest. `x best end`: the largest ratio of the "
        "better of device only and server only; `interior_%`: share of rates at which a cut inside is best. All of them are sums over one "
        "measured profile; `adaptive` is about what the executor makes of them. DADS heavy minimizes the period, not the latency; QDMP and DADS light find the same cuts."
    )
    return table, note


register(
    Study(
        name="rates",
        title="Best plan and baselines over 1–100 Mbit/s",
        aim="beside CIC's headline figures (2.6x latency, 3.3x throughput): where an interior cut wins and where it never does",
        measure=measure,
    )
)
