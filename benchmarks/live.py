"""Slotted policies on the executor against the simulation of the same frames over the same channel, from a profile that was taken earlier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

import splitplan as sp
from benchmarks.registry import Progress, Study, register
from splitplan.policies.slot_baselines import all_or_nothing, greedy_latency
from splitplan.policies.stages import Stage, stage_lines
from splitplan.solvers.columns import capacity

MODEL, SLOWDOWN, SLOT_S, LOAD = "alexnet", 8.0, 0.1, 0.3
"""At half of what the best policy can carry all-or-nothing is near its own limit, where a service time that is 5 % longer doubles a latency."""

V = 0.01
"""s²/J."""


def bed(smoke: bool) -> tuple[sp.Traced, sp.System]:
    """A model, and this machine as a device with the clocks and powers of a Jetson TX2."""
    name = "tiny-branch" if smoke else MODEL
    traced = sp.trace(sp.zoo(name), sp.zoo_example(name), name=name)
    tx2 = sp.device("jetson-tx2")
    same = ("clock_hz", "active_power_w", "idle_power_w", "latency_a", "latency_b")
    device = sp.device("this-cpu", slowdown=SLOWDOWN, **{n: getattr(tx2, n) for n in same})
    link = sp.link("lte-2021", rate_bps=13.4e6, rtt_s=0.03)
    return traced, sp.System(device=device, server=sp.device("this-cpu"), link=link)


def contestants(control: sp.SlotControl) -> list[sp.SlotPolicy]:
    """Three policies that turn the knobs in different ways."""
    return [sp.SlotPolicy(control), all_or_nothing(control), greedy_latency(control)]


def numbers(result: Any) -> dict[str, float]:
    """What is compared."""
    return {
        "mean_latency_s": result.mean_latency_s,
        "p95_latency_s": result.latency(0.95),
        "frames_hz": result.throughput_hz,
        "power_w": result.power_w,
    }


def as_measured(profile: sp.Profile, stages: Sequence[Stage]) -> tuple[sp.Profile, float]:
    """The profile with each place's seconds as much longer as they were, and the seconds of a frame that no profile has; means over the frames."""
    table = profile.table.copy()
    for place in ("device", "server"):
        mine = [s for s in stages if s.stage == place]
        profiled = sum(s.frames * s.profiled_s for s in mine)
        if profiled > 0:
            ratio = sum(s.frames * s.measured_s for s in mine) / profiled
            table.loc[table["place"] == place, "time_s"] *= ratio
    rest = [s for s in stages if s.stage == "rest"]
    rest_s = sum(s.frames * s.measured_s for s in rest) / max(1, sum(s.frames for s in rest))
    return sp.Profile(profile.graph, table, profile.origins), rest_s


def seconds(profile: sp.Profile, place: str) -> float:
    """Of all layers there, at the top clock."""
    mine = profile.table[profile.table["place"] == place]
    top = mine["clock_hz"].isna() | (mine["clock_hz"] == mine["clock_hz"].max())
    return float(mine.loc[top, "time_s"].sum())


def measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """Every policy live, then simulated."""
    duration_s = 1.0 if smoke else 300.0
    traced, system = bed(smoke)
    progress("live: profiling")
    profile = sp.profile(traced, system, budget_s=0.2 if smoke else 20.0)
    control = sp.SlotControl(profile, system, slot_s=SLOT_S, V=V)
    channel = sp.markov_channel(13.4e6, 2.5e6, 5.0, duration_s=duration_s, seed=3)
    one = sp.Scenario(sp.poisson(1.0), channel, duration_s, seed=7)
    share, binding = capacity(sp.StationaryBound(control, one))
    scene = replace(one, arrivals=sp.poisson(min(LOAD * share, 10.0)))
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    stages: list[str] = []
    for which, policy in enumerate(contestants(control)[: 1 if smoke else None]):
        progress(f"live: {policy.name}")
        with sp.deploy(traced, policy, system, check=False) as app:
            report = app.run(scene)
        live, simulated = report.slots, sp.simulate(policy, scene)
        assert live is not None
        mine, other = numbers(live), numbers(simulated)
        truer, rest_s = as_measured(profile, live.stages)
        again = sp.simulate(contestants(replace(control, profile=truer, cuts=None))[which], scene)
        rows.append(
            {"policy": policy.name, "frames": len(live.latency_s), "unanswered": int(np.isinf(live.latency_s).sum())}
            | {f"live_{k}": v for k, v in mine.items()}
            | {f"x {k}": v / other[k] for k, v in mine.items()}
            | {"x latency, measured seconds": mine["mean_latency_s"] / (again.mean_latency_s + rest_s)}
            | {"slots_missed": int(report.counts["slots_missed"]), "certificate_j": live.certificate}
        )
        stages += [f"{policy.name}, {line}" for line in stage_lines(live.stages)]
        notes.append(f"{policy.name} {mine['mean_latency_s'] / other['mean_latency_s'] - 1:+.1%}")
    progress("live: profiling again")
    after = sp.profile(traced, system, budget_s=0.2 if smoke else 20.0)
    drift = ", ".join(f"{seconds(after, p) / seconds(profile, p):.2f}x on the {p}" for p in ("device", "server"))
    table = pd.DataFrame(rows)
    worst = {k: float((table[f"x {k}"] - 1).abs().max()) for k in ("mean_latency_s", "frames_hz", "power_w")}
    note = (
        f"Live against simulated: mean latency {', '.join(notes)} (worst {worst['mean_latency_s']:.1%}), frames a second within {worst['frames_hz']:.1%}, "
        f"modelled power within {worst['power_w']:.1%}.\n\n"
        f"Device: this machine slowed {SLOWDOWN:g}x by a duty cycle, with the clocks, powers and speeds of a Jetson TX2 (catalogue), the clock emulated; server: "
        f"this machine; {channel} (made up, seeded), the emulated uplink follows it; slots of {SLOT_S:g} s, V {V:g}, Poisson arrivals of "
        f"{scene.arrivals.rate_hz:.3g}/s ({scene.arrivals.rate_hz / share:.0%} of what can be carried; {', '.join(binding)} binds), {duration_s:g} s a policy. The profile was "
        f"taken before; taken again after the last run, with nothing else on the machine, its seconds were {drift}. The simulation has the same arrivals and channel, and knows of a slot's frames when it begins; live they are decided as they arrive. `x latency, measured seconds`: "
        "against a simulation in which device and server take as long as they did in this run, on average, and a frame's messages and processes what they took: what the simulator itself leaves out. "
        "Stages, measured beside profiled:\n\n" + "\n".join(f"- {line}" for line in stages)
    )
    return table, note


register(
    Study(
        name="live",
        title="Slotted policies on the real model against their simulation",
        aim="live mean latency and throughput within 10 % of the simulation over 5 minutes, for three policies",
        measure=measure,
    )
)
