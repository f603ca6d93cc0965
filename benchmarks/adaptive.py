"""The table's policy on the executor, over channels: against the best fixed cut and the two ends, measured."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

import splitplan as sp
from benchmarks.registry import Progress, Study, register

SLOWDOWN, COHERENCE_S = 8.0, 5.0
MODELS = (("alexnet", "fp32", None), ("mobilenet_v2", "int8", None), ("efficientnet_b0", "int8", None))
"""Model, precision on the wire, input bytes; chosen because an interior cut is best for a part of the channels' time."""


def channels(duration_s: float) -> list[sp.Channel]:
    """Two uplinks of the mean of published drive tests, made up with their 5th percentile; the coherence time is an assumption.

    So short a piece of a random channel has not the mean that it was drawn from: it is scaled to it.
    """
    return [
        sp.markov_channel(mean, p5, COHERENCE_S, duration_s=duration_s, seed=seed).scaled(mean_bps=mean)
        for mean, p5, seed in ((13.4e6, 2.5e6, 3), (6.0e6, 1.2e6, 4))
    ]


def best_fixed(table: sp.SplitTable, channel: sp.Channel) -> int:
    """The best one cut for a channel that is known beforehand, which nobody can: of least mean latency, or of most frames in its first half.

    By prediction: of a latency's table the mean over the time, of a period's the integral of 1 / period over the half that is streamed.
    """
    rates, seconds = channel.rates_bps, np.diff(channel.times_s)
    alive = rates > 0
    if "period" in table.objective:
        seconds = np.clip(channel.duration_s / 2 - channel.times_s[:-1], 0.0, seconds)
        return int(np.argmax([(seconds[alive] / table.cost(rates[alive], k)).sum() for k in range(len(table))]))
    return int(np.argmin([(table.cost(rates[alive], k) * seconds[alive]).sum() for k in range(len(table))]))


def policies(problem: sp.SplitPoint, table: sp.SplitTable, channel: sp.Channel) -> dict[str, sp.Policy]:
    """The contestants, for what the table is of."""
    fixed = best_fixed(table, channel)
    return {
        "adaptive": sp.AdaptivePolicy(table),
        "best fixed cut": sp.Fixed(table.plan(fixed)),
        "device only": sp.Fixed(sp.DeviceOnly().plan(problem)),
        "server only": sp.Fixed(sp.ServerOnly().plan(problem)),
    }


def interior_share(table: sp.SplitTable, channel: sp.Channel) -> float:
    """Part of the time in which a cut inside is best."""
    inside = np.array([0 < len(table.plan(k).server_layers) < len(table.layers) for k in range(len(table))])
    chosen = table.decide(np.maximum(channel.rates_bps, 1e-9))
    return float((inside[chosen] * np.diff(channel.times_s)).sum() / channel.duration_s)


def answered(app: sp.App) -> None:
    """Raise when a frame was finished without the server."""
    if lost := app.report().counts["finished_locally"]:
        raise RuntimeError(f"{lost:g} frames were finished without the server")


def respond(
    traced: sp.Traced, policy: sp.Policy, system: sp.System, channel: sp.Channel, rate_hz: float, duration_s: float
) -> dict[str, Any]:
    """Frames that arrive over the channel."""
    with sp.deploy(traced, policy, system, check=False, depth=8) as app:
        report = app.run(sp.Scenario(sp.periodic(rate_hz), channel, duration_s))
        answered(app)
    response = [f.latency_s for f in report.frames]
    return {
        "median_ms": 1e3 * float(np.median(response)),
        "p95_ms": 1e3 * float(np.quantile(response, 0.95)),
        "mean_ms": 1e3 * float(np.mean(response)),
        "frames": len(response),
        "cuts_used": " ".join(str(k) for k in sorted({f.cut for f in report.frames})),
    }


def stream(
    traced: sp.Traced, policy: sp.Policy, system: sp.System, channel: sp.Channel, duration_s: float
) -> dict[str, Any]:
    """A stream that never waits, over the channel, until all are answered."""
    args, kwargs = traced.example_call()
    item = (*args, *kwargs.values())
    with sp.deploy(traced, policy, system, check=False, depth=8) as app:
        app.follow(channel)
        begin = time.monotonic()
        endless = iter(lambda: item if time.monotonic() < begin + duration_s else None, None)
        count = sum(1 for _ in app.stream(endless, depth=4))
        took_s = time.monotonic() - begin
        answered(app)
    return {"frames_per_s": count / took_s}


def against(table: pd.DataFrame) -> str:
    """From least to most, over models and channels: the ratios to the best fixed cut, and to the better of the ends where those were run."""

    def spans(rows: pd.DataFrame) -> str:
        names = {"x median_ms": "median latency", "x mean_ms": "mean", "x p95_ms": "p95", "x frames_per_s": "frames a second"}  # fmt: skip
        better = rows.groupby(["model", "channel"])[list(names)].min()  # against whom adaptive does less well
        return ", ".join(f"{name} {better[k].min():.2f}x to {better[k].max():.2f}x" for k, name in names.items())

    text = "Against the best fixed cut, which knows the channel beforehand: " + spans(
        table[table["policy"] == "best fixed cut"]
    )
    ends = table[table["policy"].isin(("device only", "server only"))]
    text += f"; against the better end: {spans(ends)}" if len(ends) else ""
    return f"{text} (above 1: adaptive is better)."


def measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """Every model, channel and policy, the policies one after the other over the same channel."""
    duration_s = 1.0 if smoke else 30.0
    rows: list[dict[str, Any]] = []
    for name, wire, input_bytes in (("tiny-branch", "fp32", None),) if smoke else MODELS:
        traced = sp.trace(sp.zoo(name), sp.zoo_example(name), name=name)
        device = sp.device("this-cpu", slowdown=SLOWDOWN)
        system = sp.System(
            device=device, server=sp.device("this-cpu"), link=sp.link("lte-2021", rate_bps=20e6, rtt_s=0.03)
        )
        progress(f"adaptive: profiling {name}")
        profile = sp.profile(traced, system, budget_s=0.2 if smoke else 15.0)
        problem = sp.SplitPoint(profile, system, wire=wire, input_bytes=input_bytes)  # type: ignore[arg-type]
        heavy = replace(problem, objective="period")
        table, flow = sp.split_table(problem), sp.split_table(heavy)
        # Half of what device only could do, so that nobody is measured by the queue that he makes.
        rate_hz = 10.0 if smoke else 0.5 / float(profile.seconds("device").sum())
        for channel in channels(duration_s)[: 1 if smoke else 2]:
            contest: dict[str, dict[str, Any]] = {}
            alone, streamed = policies(problem, table, channel), policies(heavy, flow, channel)
            order = list(alone)[: 2 if smoke else None]
            turn = len(rows) // len(order) % len(order)  # nobody is always the first
            for who in order[turn:] + order[:turn]:
                progress(f"adaptive: {name}, {channel.name}, {who}")
                contest[who] = respond(traced, alone[who], system, channel, rate_hz, duration_s)
                contest[who] |= stream(traced, streamed[who], system, channel, duration_s / 2)
            for who in order:
                row = contest[who]
                ratios = {f"x {k}": row[k] / contest["adaptive"][k] for k in ("median_ms", "p95_ms", "mean_ms")}
                ratios["x frames_per_s"] = contest["adaptive"]["frames_per_s"] / row["frames_per_s"]
                share = 100 * interior_share(table, channel)
                rows.append(
                    {"model": name, "wire": wire, "channel": channel.name, "interior_%": share, "policy": who}
                    | row
                    | ratios
                )
    table_ = pd.DataFrame(rows)
    note = (
        f"{against(table_)}\n\n"
        f"Device: this machine slowed {SLOWDOWN:g}x by a duty cycle; server: this machine; the uplink follows a made-up channel "
        f"({duration_s:g} s, seeded, coherence time {COHERENCE_S:g} s: an assumption) of the mean of published drive tests: "
        f"{'; '.join(str(c) for c in channels(duration_s))}. The policy knows nothing of it but what transfers took. Latency: frames at half of what "
        "device only could do, from arrival to answer, so that waiting counts for those that cannot keep up; policy and best fixed cut by the table of "
        "latency. Frames a second: a stream that never waits, four under way, over the first half of the same channel, until all are answered; "
        "policy and best fixed cut by the table of the period. One run each, in turning order: a difference of some per cent is the machine's."
    )
    return table_, note


register(
    Study(
        name="adaptive",
        title="The cut re-decided for every frame, on the executor",
        aim="adaptive against the best fixed cut and device or server only: median, p95, frames/s, where an interior cut is best for part of the time",
        measure=measure,
    )
)
