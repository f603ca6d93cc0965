"""Predicted against measured: end-to-end latency and pipelined throughput of real splits over an emulated link.

The profile is taken first, in processes of its own, and never rescaled by the runs that it predicts.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import splitplan as sp
from benchmarks.registry import Study, register

MODELS = ("resnet50", "mobilenet_v2", "googlenet", "bert")
RATES = (20e6, 50e6, 100e6)


@dataclass(frozen=True)
class Setting:
    """What is run.

    Parameters
    ----------
    models : tuple of str
        Names of the zoo.
    rates_bps : tuple of float
    cuts : int
        Cuts of each model.
    slowdown : float
    frames : int
        Measured frames of each configuration, after ``warm`` that are not.
    stream : int
        Frames of a pipelined stream; 0: none.
    budget_s : float
        Of the profiler.
    """

    models: tuple[str, ...] = MODELS
    rates_bps: tuple[float, ...] = RATES
    cuts: int = 5
    slowdown: float = 4.0
    frames: int = 7
    warm: int = 2
    stream: int = 24
    budget_s: float = 20.0


SMOKE = Setting(models=("tiny-branch",), rates_bps=(50e6,), cuts=1, frames=2, warm=1, stream=4, budget_s=0.2)


def system(rate_bps: float, slowdown: float) -> sp.System:
    """A device slowed by a duty cycle, a server, and a shaped link with 10 ms of round trip."""
    return sp.System(
        device=sp.device("this-cpu", slowdown=slowdown),
        server=sp.device("this-cpu"),
        link=sp.link("loopback", rate_bps=rate_bps, rtt_s=0.01),
    )


def spread_cuts(problem: sp.SplitPoint, count: int) -> list[sp.SplitPlan]:
    """Prefix cuts near the quantiles of device time 1/(count+1), …, of those the one that sends least."""
    table = problem.cut_table()
    share = table["device_s"].to_numpy() / table["device_s"].iloc[-1]
    layers = len(problem.profile.graph)
    found: list[int] = []
    for k in range(1, count + 1):
        near = [i for i in range(1, layers) if abs(share[i] - k / (count + 1)) <= 0.5 / (count + 1) and i not in found]
        near = near or [i for i in range(1, layers) if i not in found]
        found.append(min(near, key=lambda i: table["up_bytes"].iloc[i]))
    return [problem.plan_for(np.arange(layers) >= i) for i in sorted(found)]


def run(setting: Setting, progress: Callable[[str], None] = lambda _: None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Latency of every configuration, and throughput of the middle cut at every rate.

    Returns
    -------
    latency, throughput : DataFrame
    """
    latency: list[dict[str, Any]] = []
    throughput: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        traces = {}
        for name in setting.models:
            progress(f"profiling {name}")
            traced = sp.trace(sp.zoo(name), sp.zoo_example(name), name=name)
            traced.save(Path(folder) / f"{name}.pt2")
            sp.profile(traced, system(1e9, setting.slowdown), budget_s=setting.budget_s).save(
                Path(folder) / f"{name}.csv"
            )
            del traced
        for name in setting.models:
            traces[name] = sp.load_traced(Path(folder) / f"{name}.pt2")
            profile = sp.Profile.read(Path(folder) / f"{name}.csv")
            for rate in setting.rates_bps:
                problem = sp.SplitPoint(profile, system(rate, setting.slowdown))
                plans = spread_cuts(problem, setting.cuts)
                for number, plan in enumerate(plans):
                    progress(f"{name}, {rate / 1e6:g} Mbit/s, cut {number + 1} of {len(plans)}")
                    middle = number == len(plans) // 2
                    one, many = run_one(traces[name], problem, plan, setting, stream=middle)
                    about = {"model": name, "rate_mbps": rate / 1e6, "after": plan.device_layers[-1]}
                    latency.append(about | one)
                    throughput += [about | many] if many else []
            del traces[name]
    return pd.DataFrame(latency), pd.DataFrame(throughput)


def run_one(
    traced: sp.Traced, problem: sp.SplitPoint, plan: sp.SplitPlan, setting: Setting, *, stream: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One plan: frames one by one, then, if asked, a stream."""
    inputs = list(traced.example_inputs().values())
    with sp.deploy(traced, plan, problem.system) as app:
        for _ in range(setting.warm):
            app(*inputs)
        before = len(app.report().frames)
        for _ in range(setting.frames):
            app(*inputs)
        frames = app.report().frames[before:]
        refuse_alone(frames)
        measured = statistics.median(f.latency_s for f in frames)
        predicted = plan.predicted
        row: dict[str, Any] = {
            "predicted_ms": 1e3 * predicted["latency_s"],
            "measured_ms": 1e3 * measured,
            "error_%": 100 * (measured / predicted["latency_s"] - 1),
        }
        for piece in ("device_s", "up_s", "server_s", "down_s"):
            spent = statistics.median(f.times[piece] for f in frames)
            row[f"{piece[:-2]}_error_ms"] = 1e3 * (spent - predicted[piece])
        computed = statistics.median(f.times["device_s"] + f.times["server_s"] for f in frames)
        row["compute_error_%"] = 100 * (computed / (predicted["device_s"] + predicted["server_s"]) - 1)
        row["link_share_%"] = 100 * (predicted["up_s"] + predicted["down_s"]) / predicted["latency_s"]
        if not (stream and setting.stream):
            return row, {}
        before = len(app.report().frames)
        for _ in app.stream([tuple(inputs)] * setting.stream, depth=4):
            pass
        refuse_alone(app.report().frames[before:])
        done = sorted(f.done_s for f in app.report().frames[before:])
        # From the third answer to the last: the pipeline is full then.
        period = (done[-1] - done[2]) / (len(done) - 3)
        ideal = 1 / predicted["period_s"]
        return row, {"predicted_fps": ideal, "measured_fps": 1 / period, "share_%": 100 / period / ideal}


def refuse_alone(frames: Sequence[Any]) -> None:
    """A frame that the device finished alone is no measurement of a split."""
    if alone := [f.alone for f in frames if f.alone]:
        raise RuntimeError(f"{len(alone)} of {len(frames)} frames were finished without the server: {alone[0]}")


def summary(latency: pd.DataFrame, throughput: pd.DataFrame) -> str:
    """What was asked for, in two sentences."""
    error = latency["error_%"].abs()
    worst = latency.loc[error.idxmax()]
    text = (
        f"End-to-end latency: median |error| {error.median():.1f} % over {len(latency)} configurations, "
        f"90th percentile {error.quantile(0.9):.1f} %, worst {worst['error_%']:+.1f} % "
        f"({worst['model']} at {worst['rate_mbps']:g} Mbit/s after {worst['after']}). "
        f"Of that, compute alone: median |error| {latency['compute_error_%'].abs().median():.1f} %, worst "
        f"{latency['compute_error_%'].abs().max():.1f} %; the link, a median {latency['link_share_%'].median():.0f} % of the latency, is "
        "emulated by the formula that predicts it, and the device's rests (3/4 of its time) are multiples of what it computed. "
        "`testbed` has the kernel's shaping and quota instead."
    )
    if len(throughput):
        share = throughput["share_%"]
        low = throughput.loc[share.idxmin()]
        text += (
            f" Pipelined throughput: median {share.median():.1f} % of 1/period over {len(throughput)} configurations, "
            f"least {share.min():.1f} % ({low['model']} at {low['rate_mbps']:g} Mbit/s), {(share < 92).sum()} below 92 %; the period comes from times after a rest, "
            "so that a stage that never waits may beat it: a share above 100 % is an error of the prediction too."
        )
    return text


def _measure(smoke: bool, progress: Callable[[str], None]) -> tuple[pd.DataFrame, str]:
    latency, throughput = run(SMOKE if smoke else Setting(), progress)
    return pd.concat([latency, throughput.assign(kind="stream")] if len(throughput) else [latency]), summary(
        latency, throughput
    )


register(
    Study(
        name="predict",
        title="Predicted against measured, real splits, emulated link and device",
        aim="median error of end-to-end latency ≤ 8 %, pipelined throughput ≥ 92 % of 1/period; device slowed 4x",
        measure=_measure,
    )
)
