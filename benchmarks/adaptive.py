"""The table's policy on the executor, over channels: against the best fixed cut and the two ends, measured."""

from __future__ import annotations

import time
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
    """The cut of least mean predicted latency over the channel, known beforehand, which nobody can."""
    rates, seconds = channel.rates_bps, np.diff(channel.times_s)
    alive = rates > 0
    costs = [float((table.cost(rates[alive], k) * seconds[alive]).sum()) for k in range(len(table))]
    return int(np.argmin(costs))


def policies(problem: sp.SplitPoint, table: sp.SplitTable, channel: sp.Channel) -> dict[str, sp.Policy]:
    """The contestants."""
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


def one(
    traced: sp.Traced,
    problem: sp.SplitPoint,
    policy: sp.Policy,
    channel: sp.Channel,
    rate_hz: float,
    duration_s: float,
) -> dict[str, Any]:
    """Frames that arrive over the channel; then a stream that never waits, for half as long over the same channel."""
    args, kwargs = traced.example_call()
    item = (*args, *kwargs.values())
    with sp.deploy(traced, policy, problem.system, check=False, depth=8) as app:
        alone = app.run(sp.Scenario(sp.periodic(rate_hz), channel, duration_s))
        response = [f.latency_s for f in alone.frames]
        policy.restart()
        app.follow(channel)
        begin = time.monotonic()
        endless = iter(lambda: item if time.monotonic() < begin + duration_s / 2 else None, None)
        count = sum(1 for _ in app.stream(endless, depth=4))
        took_s = time.monotonic() - begin
        lost = app.report().counts["finished_locally"]
    if lost:
        raise RuntimeError(f"{lost:g} frames were finished without the server")
    return {
        "median_ms": 1e3 * float(np.median(response)),
        "p95_ms": 1e3 * float(np.quantile(response, 0.95)),
        "mean_ms": 1e3 * float(np.mean(response)),
        "frames_per_s": count / took_s,
        "cuts_used": len({f.cut for f in alone.frames}),
        "frames": len(response),
    }


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
        table = sp.split_table(problem)
        # Half of what device only could do, so that nobody is measured by the queue that he makes.
        rate_hz = 10.0 if smoke else 0.5 / float(profile.seconds("device").sum())
        for channel in channels(duration_s)[: 1 if smoke else 2]:
            contest: dict[str, dict[str, Any]] = {}
            order = list(policies(problem, table, channel).items())
            turn = len(rows) // len(order) % len(order)  # nobody is always the first
            for policy_name, policy in order[turn:] + order[:turn]:
                progress(f"adaptive: {name}, {channel.name}, {policy_name}")
                contest[policy_name] = one(traced, problem, policy, channel, rate_hz, duration_s)
            for policy_name in dict(order):
                row = contest[policy_name]
                ratios = {f"x {k}": row[k] / contest["adaptive"][k] for k in ("median_ms", "p95_ms", "mean_ms")}
                ratios["x frames_per_s"] = contest["adaptive"]["frames_per_s"] / row["frames_per_s"]
                share = 100 * interior_share(table, channel)
                rows.append(
                    {"model": name, "wire": wire, "channel": channel.name, "interior_%": share, "policy": policy_name}
                    | row
                    | ratios
                )
    table_ = pd.DataFrame(rows)
    fixed = table_[table_["policy"] == "best fixed cut"]
    ends = table_[table_["policy"].isin(("device only", "server only"))].groupby(["model", "channel"])
    note = (
        f"Against the best fixed cut, which knows the channel beforehand: mean latency {fixed['x mean_ms'].min():.2f}x to {fixed['x mean_ms'].max():.2f}x, p95 "
        f"{fixed['x p95_ms'].min():.2f}x to {fixed['x p95_ms'].max():.2f}x, frames a second {fixed['x frames_per_s'].min():.2f}x to {fixed['x frames_per_s'].max():.2f}x; against the better end: mean "
        f"latency {ends['x mean_ms'].min().min():.2f}x to {ends['x mean_ms'].min().max():.2f}x (above 1: adaptive is better).\n\n"
        f"Device: this machine slowed {SLOWDOWN:g}x by a duty cycle; server: this machine; the uplink follows a made-up channel "
        f"({duration_s:g} s, seeded, coherence time {COHERENCE_S:g} s: an assumption) of the mean of published drive tests: "
        f"{'; '.join(str(c) for c in channels(duration_s))}. The policy knows nothing of it but what transfers took. Latency: frames at half of what "
        "device only could do, from arrival to answer, so that waiting counts for those that cannot keep up. Frames a second: a stream "
        "that never waits, four under way, over the first half of the same channel, until all are answered. One run each, in turning order."
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
