"""The table's policy on the executor, over channels: against the best fixed cut and the two ends, measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

import splitplan as sp
from benchmarks.registry import Progress, Study, register

SLOWDOWN = 8.0
MODELS = (("alexnet", "fp32", None), ("mobilenet_v2", "int8", None), ("efficientnet_b0", "int8", None))
"""Model, precision on the wire, input bytes; chosen because an interior cut is best for a part of the channels' time."""


def channels(duration_s: float) -> list[sp.Channel]:
    """Two uplinks by their published statistics (mean, 5th percentile of drive tests); the coherence time is an assumption."""
    return [
        sp.markov_channel(13.4e6, 2.5e6, 8.0, duration_s=duration_s, seed=3),
        sp.markov_channel(6.0e6, 1.2e6, 8.0, duration_s=duration_s, seed=4),
    ]


def best_fixed(table: sp.SplitTable, channel: sp.Channel) -> int:
    """The cut of least mean cost over the channel, known beforehand: what nobody can know, and the strongest fixed opponent."""
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
    traced: sp.Traced, problem: sp.SplitPoint, policy: sp.Policy, channel: sp.Channel, rate_hz: float, duration_s: float
) -> dict[str, Any]:
    """Frames one by one over the channel, and then a stream that never waits."""
    with sp.deploy(traced, policy, problem.system, check=False, depth=4) as app:
        alone = app.run(sp.Scenario(sp.periodic(rate_hz), channel, duration_s))
        response = [f.latency_s for f in alone.frames if f.arrived]
        before = len(alone.frames)
        stream = app.run(
            sp.Scenario(sp.Arrivals("recorded", times_s=(0.0,) * round(duration_s * rate_hz)), channel, duration_s)
        )
        done = sorted(f.done_s for f in stream.frames[before:])
        begin = min(f.submitted_s for f in stream.frames[before:])
    if stream.counts["finished_locally"]:
        raise RuntimeError(f"{stream.counts['finished_locally']:g} frames were finished without the server")
    used = {f.cut for f in alone.frames}
    return {
        "median_ms": 1e3 * float(np.median(response)),
        "p95_ms": 1e3 * float(np.quantile(response, 0.95)),
        "mean_ms": 1e3 * float(np.mean(response)),
        "frames_per_s": len(done) / (done[-1] - begin),
        "cuts_used": len(used),
        "frames": len(response),
    }


def measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """Every model, channel and policy, the policies one after the other over the same channel."""
    duration_s = 1.0 if smoke else 40.0
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
            for policy_name, policy in policies(problem, table, channel).items():
                progress(f"adaptive: {name}, {channel.name}, {policy_name}")
                contest[policy_name] = one(traced, problem, policy, channel, rate_hz, duration_s)
            for policy_name, row in contest.items():
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
        f"({duration_s:g} s, seeded) with the mean and the 5th percentile of published drive tests and a coherence time of 8 s, which is an assumption; the policy "
        "knows nothing of it but what transfers took. Latency: frames at a rate that device only keeps up with, from arrival to answer. Frames a second: as many "
        "frames, all there at once, four under way."
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
