"""Pipelines on real processes: throughput and latency predicted by formula and simulation beside measured ones, and plain plans beside ours.

The profile is taken first, in processes of its own, and never rescaled by the runs that it predicts. The devices are this machine
slowed by duty cycles that add up to a part of its cores, so that no stage waits for another one's core: `crowded` refuses otherwise.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import splitplan as sp
from benchmarks.registry import Progress, Study, register
from splitplan.executor.legs import enough_depth, legs_of
from splitplan.executor.pipeline_report import PipelineReport
from splitplan.formulations.pipeline import PipelinePlacement
from splitplan.formulations.pipeline_naive import plans

MODELS = ("resnet50", "googlenet", "mobilenet_v2")
PLACES = {"camera": (8.0, 2e9), "board": (5.0, 1e9), "box": (4.0, 8e9), "phone": (6.0, 4e9)}
"""Slowdown and bytes of memory of each: the quickest has not the most of it, and the one with the inputs is the slowest."""
RATES = (100e6, 1e9)
OURS = "placed"
NAIVE = ("equal layers", "layers in proportion to memory", "FLOPs in proportion to speed")
MOST_OF_CORES = 0.5
"""Of the cores that there are, what all places may compute together if none of them ever waits; the rest is for app, sockets and packing."""


@dataclass(frozen=True)
class Setting:
    """What is run.

    Parameters
    ----------
    models : tuple of str
        Names of the zoo.
    counts : tuple of int
        Of places, the first ones of `PLACES`.
    rates_bps : tuple of float
        Of each place's link to the switch.
    frames : int
        Measured alone, after ``warm`` that are not.
    stream : int
        Frames of the stream whose pace is measured.
    simulated : int
        Frames of the simulation.
    budget_s : float
        Of the profiler.
    plain : tuple of str
        Of the plans that need no solver, those that run.
    """

    models: tuple[str, ...] = MODELS
    counts: tuple[int, ...] = (2, 3, 4)
    rates_bps: tuple[float, ...] = RATES
    frames: int = 7
    warm: int = 2
    stream: int = 48
    simulated: int = 500
    budget_s: float = 20.0
    plain: tuple[str, ...] = NAIVE


SMOKE = Setting(
    models=("tiny-branch",), counts=(2,), rates_bps=(1e9,), frames=2, warm=1, stream=12, simulated=20, budget_s=0.2, plain=NAIVE[:1]
)  # fmt: skip


def system(count: int, rate_bps: float) -> sp.System:
    """The first places, each slowed and with its memory, around a switch."""
    link = sp.link("ethernet-1g", rate_bps=rate_bps)
    named = list(PLACES.items())[:count]
    devices = {p: sp.device("this-cpu", slowdown=slow, memory_bytes=room) for p, (slow, room) in named}
    return sp.System(star=dict.fromkeys(devices, link), **devices)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy_at_most(count: int) -> float:
    """Cores that the first places keep busy when none of them ever waits: a place slowed s times computes 1/s of its time."""
    return sum(1 / slow for slow, _ in list(PLACES.values())[:count])


def crowded(setting: Setting) -> str:
    """Why the places do not fit this machine's cores; empty when they do."""
    most, room = busy_at_most(max(setting.counts)), MOST_OF_CORES * cores()
    if most <= room:
        return ""
    return f"the places compute up to {most:.2f} cores together, and only {room:g} of {cores()} may be theirs"


def profiled(setting: Setting, folder: Path, progress: Progress) -> None:
    """Trace and profile every model, and keep both in files: all profiles are older than all runs."""
    for name in setting.models:
        progress(f"pipelines-live: profiling {name}")
        traced = sp.trace(sp.zoo(name), sp.zoo_example(name), name=name)
        traced.save(folder / f"{name}.pt2")
        everywhere = system(max(setting.counts), RATES[0])
        sp.profile(traced, everywhere, budget_s=setting.budget_s, rows=False).save(folder / f"{name}.csv")


def contestants(problem: PipelinePlacement) -> Iterator[tuple[str, sp.PipelinePlan]]:
    """Our plan, then those that need no solver."""
    yield OURS, problem.solve().plan
    plain = plans(problem)
    for name in NAIVE:
        if broken := problem.violations(plain[name]):
            raise RuntimeError(f"{name}: {'; '.join(broken)}")
        yield name, plain[name]


def run(setting: Setting, progress: Progress) -> tuple[pd.DataFrame, dict[str, float]]:
    """Every model, number of places, rate and plan; and the noise of each model's profile."""
    rows: list[dict[str, Any]] = []
    noise: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        profiled(setting, folder, progress)
        for model in setting.models:
            traced, profile = sp.load_traced(folder / f"{model}.pt2"), sp.Profile.read(folder / f"{model}.csv")
            noise[model] = max(profile.noise.values())
            for count in setting.counts:
                for rate in setting.rates_bps:
                    problem = PipelinePlacement(profile, system(count, rate), source="camera")
                    about = {"model": model, "places": count, "rate_mbps": rate / 1e6}
                    progress(f"pipelines-live: {model}, {count} places, {rate / 1e6:g} Mbit/s")
                    rows += [about | row for row in compared(traced, problem, setting)]
    return pd.DataFrame(rows), noise


def compared(traced: sp.Traced, problem: PipelinePlacement, setting: Setting) -> list[dict[str, Any]]:
    """All plans of one problem, one after another; plans that are the same run once."""
    rows: list[dict[str, Any]] = []
    seen: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, plan in contestants(problem):
        if name not in (OURS, *setting.plain):
            continue
        if plan.stages not in seen:
            seen[plan.stages] = one(traced, problem, plan, setting)
        rows.append({"plan": name, **seen[plan.stages]})
    for row in rows:
        row["placed x, predicted"] = rows[0]["predicted_fps"] / row["predicted_fps"]
        row["placed x, measured"] = rows[0]["measured_fps"] / row["measured_fps"]
    return rows


def one(traced: sp.Traced, problem: PipelinePlacement, plan: sp.PipelinePlan, setting: Setting) -> dict[str, Any]:
    """One plan by formula, by simulation and on processes: frames alone, then a stream."""
    network = problem.system
    depth = enough_depth(legs_of(traced.graph, plan, network))
    simulated = sp.simulate_pipeline(plan, problem.profile, network, frames=setting.simulated, depth=depth)
    inputs = tuple(traced.example_inputs().values())
    with sp.deploy(traced, plan, network, profile=problem.profile) as app:
        for _ in range(setting.warm):
            app(*inputs)
        for _ in range(setting.frames):
            app(*inputs)
        latencies = [f.latency_s for f in app.report().frames[setting.warm :]]
        for _ in app.stream([inputs] * setting.stream):
            pass
        report = app.report()
    refuse_broken(report)
    table = sp.beside(plan.predicted, simulated, report).set_index("quantity")
    fps = table.loc["throughput"]
    latency_s = statistics.median(latencies)
    streamed = [f.times for f in report.frames if f.stream is not None]
    at_s = [statistics.mean(t[f"at_{p}_s"] for t in streamed) for p in plan.places]
    # What the formula says of the seconds that the places took in this very stream; ways are emulated by it.
    own_fps = 1 / max(*at_s, *(s for what, s in plan.predicted.items() if what.startswith("busy_")), 0.0)
    computed = {p: table.loc[f"at_{p}", "measured"] / network.places[p].slowdown for p in plan.places}
    return {
        "stages": " | ".join(f"{s.place} {len(s.layers)}" for s in plan.stages),
        "binds": problem.facts(plan, {})["bottleneck"],
        "predicted_fps": fps["formula"],
        "simulated_fps": fps["simulated"],
        "measured_fps": fps["measured"],
        "error_%": 100 * (fps["measured"] / fps["formula"] - 1),
        "own_error_%": 100 * (fps["measured"] / own_fps - 1),
        "simulated_error_%": 100 * (fps["measured"] / fps["simulated"] - 1),
        "predicted_ms": 1e3 * plan.predicted["latency_s"],
        "measured_ms": 1e3 * latency_s,
        "latency_error_%": 100 * (latency_s / plan.predicted["latency_s"] - 1),
        "cores": sum(computed.values()) * fps["measured"],
    }


def refuse_broken(report: PipelineReport) -> None:
    """Frames that another plan, or the app itself, computed are no measurement of this one."""
    if len(report.plans) > 1 or any(f.alone for f in report.frames):
        raise RuntimeError(f"the pipeline broke while it was measured: {'; '.join(report.notes)}")


def summary(table: pd.DataFrame, noise: dict[str, float]) -> str:
    """What was asked for, in a few sentences."""
    ours, plain = table[table["plan"] == OURS], table[table["plan"] != OURS]
    computing = ours["binds"].str.startswith("at_")

    def off(rows: pd.DataFrame, what: str = "error_%") -> str:
        error = rows[what].abs()
        if error.empty:
            return "(none)"
        worst = rows.loc[error.idxmax()]
        where = f"{worst['model']} on {worst['places']} places at {worst['rate_mbps']:g} Mbit/s"
        return f"{error.median():.1f} %, worst {worst[what]:+.1f} % ({where}; {len(rows)} runs)"

    gains = "; ".join(
        f"{name} {mine['placed x, measured'].median():.2f}x measured ({mine['placed x, predicted'].median():.2f}x predicted), "
        f"{mine['placed x, measured'].min():.2f}x to {mine['placed x, measured'].max():.2f}x"
        for name, mine in plain.groupby("plan", sort=False)
    )
    slowed = ", ".join(f"{p} {s:g}x and {room / 1e9:g} GB" for p, (s, room) in PLACES.items())
    most = table["places"].max()
    longer = 100 * (((1 + ours["own_error_%"] / 100) / (1 + ours["error_%"] / 100)) - 1)
    return (
        f"Throughput of the placed plans, measured over predicted: median |error| {off(ours)}. Over simulated: {off(ours, 'simulated_error_%')}. Where "
        f"computing binds: {off(ours[computing])}; where a link does: {off(ours[~computing])}. Plain plans: {off(plain)}. Latency of frames that are "
        f"alone, placed plans: {off(ours, 'latency_error_%')}; plain plans: {off(plain, 'latency_error_%')}.\n\n"
        f"own_error_%: over the formula by the seconds that the places took in the stream itself, instead of the profile's. Placed plans: median |error| {off(ours, 'own_error_%')}; plain "
        f"plans: {off(plain, 'own_error_%')}. So much is the formula's; the rest is that the slowest place took other seconds than it had been profiled for, in placed plans {longer.median():+.1f} % in the median, {longer.min():+.1f} to {longer.max():+.1f} %: "
        "a plan that balances its stages by the profile is as slow as the one that was profiled too low.\n\n"
        f"The placed plan's throughput over a plain plan's, both in one run: {gains}.\n\n"
        f"Places in the system's order, as plain plans take them: this machine slowed by duty cycles, {slowed}; inputs are at the camera. Each has a link of the stated rate to a "
        f"switch, emulated by the formula that predicts it: where a link binds, the prediction cannot fail by much. With s times slowed places the shares 1/s add up to "
        f"{busy_at_most(most):.2f} of {cores()} cores when none ever waits; `cores` is what they computed of it, by measured seconds (most {table['cores'].max():.2f}). "
        "Speeds of plain plans are the profile's. simulated: with the app's depth, buffers of 2 and the profile's spread. placed x: the placed plan's frames a second over this plan's. "
        f"The profile was taken before all runs; its noise: {', '.join(f'{m} {100 * x:.0f} %' for m, x in noise.items())}."
    )


def measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """All of it; where the cores are too few, nothing but that."""
    setting = SMOKE if smoke else Setting()
    if reason := crowded(setting):
        return pd.DataFrame([{"not measured": reason}]), f"Not measured here: {reason}."
    table, noise = run(setting, progress)
    return table, summary(table, noise)


register(
    Study(
        name="pipelines-live",
        title="Pipelines on real processes: predicted against measured, and against plain plans",
        aim="median error of throughput ≤ 8 % over 3 models × 2–4 emulated unlike devices × 2 link rates, from a profile taken earlier",
        measure=measure,
    )
)
