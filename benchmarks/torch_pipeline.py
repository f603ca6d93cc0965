"""The same two stages by the executor and by ``torch.distributed.pipelining`` under torchrun: frames a second, both over one process."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import splitplan as sp
from benchmarks.pipelines_live import refuse_broken
from benchmarks.registry import Progress, Study, register
from benchmarks.rows import network
from splitplan.executor.environment import worker_environment
from splitplan.formulations.pipeline import PipelinePlacement

SCHEDULES = {"torch, GPipe": "ScheduleGPipe", "torch, 1F1B": "Schedule1F1B"}


@dataclass(frozen=True)
class Setting:
    """What is run.

    Parameters
    ----------
    models : tuple of str
        Names of the zoo.
    frames : int
        Of each measured stream: torch's schedules take them as so many micro-batches of one step.
    rounds : int
        In which all ways of running take their turn, each in fresh processes.
    schedules : tuple of str
        Of torch's, by their names here.
    together : bool
        Torch's schedules one after the other in the same processes: fewer starts, for a smoke run.
    """

    models: tuple[str, ...] = ("resnet50", "googlenet", "mobilenet_v2")
    frames: int = 32
    rounds: int = 3
    budget_s: float = 10.0
    schedules: tuple[str, ...] = tuple(SCHEDULES)
    together: bool = False


SMOKE = Setting(models=("tiny-branch",), frames=4, rounds=1, budget_s=0.2, together=True)


def ours(traced: sp.Traced, plan: sp.PipelinePlan, setting: Setting) -> float:
    """Frames a second of a stream, after one that warms up; nothing is emulated."""
    inputs = tuple(traced.example_inputs().values())
    with sp.deploy(traced, plan, network(), emulate=False) as app:
        for _ in app.stream([inputs] * setting.frames):
            pass
        start = time.perf_counter()
        for _ in app.stream([inputs] * setting.frames):
            pass
        taken_s = time.perf_counter() - start
        report = app.report()
    refuse_broken(report)
    return setting.frames / taken_s


def theirs(folder: Path, name: str, schedules: Sequence[str], setting: Setting) -> dict[str, dict[str, float]]:
    """What ``benchmarks.torch_pipeline_run`` measures in processes of its own, by schedule: ``fps``, and ``gap`` to the unsplit model's outputs."""
    task = {"model": str(folder / f"{name}.pt2"), "plan": str(folder / f"{name}.json"), "schedules": list(schedules), "frames": setting.frames}  # fmt: skip
    processes = 1 if "alone" in schedules else 2
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launch, "-m", "benchmarks.torch_pipeline_run", json.dumps(task)]
    done = subprocess.run(command, env=worker_environment(1), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(setting: Setting, progress: Progress) -> pd.DataFrame:
    """A row for each model and way of running."""
    rows = []
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        for name in setting.models:
            progress(f"torch-pipeline: profiling {name}")
            traced = sp.trace(sp.zoo(name), sp.zoo_example(name), name=name)
            traced.save(folder / f"{name}.pt2")
            profile = sp.profile(traced, network(), budget_s=setting.budget_s, rows=False)
            problem = PipelinePlacement(profile, network(), source="a")
            # Both places take part whatever it brings: what is compared is how two stages are run.
            middle = range(1, len(traced.graph))
            plan = problem.plan_for((0, 1), (min(middle, key=lambda i: problem.period((0, 1), (i,))),))
            plan.save(folder / f"{name}.json")
            found: dict[str, list[float]] = {}
            gap: dict[str, float] = {}
            for turn in range(setting.rounds):
                progress(f"torch-pipeline: {name}, round {turn + 1}")
                alone = theirs(folder, name, ["alone"], setting)["alone"]
                found.setdefault("one process", []).append(alone["fps"])
                found.setdefault("splitplan", []).append(ours(traced, plan, setting))
                for ways in [setting.schedules] if setting.together else [(way,) for way in setting.schedules]:
                    measured = theirs(folder, name, [SCHEDULES[way] for way in ways], setting)
                    for way in ways:
                        found.setdefault(way, []).append(measured[SCHEDULES[way]]["fps"])
                        gap[way] = max(gap.get(way, 0.0), measured[SCHEDULES[way]]["gap"])
            for way, fps in found.items():
                ratios = [x / y for x, y in zip(fps, found["one process"], strict=True)]
                rows.append(
                    {
                        "model": name,
                        "stages": " | ".join(str(len(s.layers)) for s in plan.stages),
                        "run by": way,
                        "fps": statistics.median(fps),
                        "x one process": statistics.median(ratios),
                        "least x": min(ratios),
                        "most x": max(ratios),
                        "splitplan x": statistics.median(y / x for x, y in zip(fps, found["splitplan"], strict=True)),
                        "predicted_x": profile.seconds("a").sum() * plan.predicted["throughput_hz"]
                        if way == "splitplan"
                        else None,
                        "gap": gap.get(way, 0.0),
                    }
                )
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> str:
    """What the table shows, in a few sentences."""
    torchs = table[table["run by"].isin(SCHEDULES)]
    best = torchs.groupby("model", sort=False)["splitplan x"].min()
    return (
        "Two stages, the same cut for all, each a process of one thread; frames a second of a stream of frames of one sample (to torch's schedules: micro-batches of one step), median of the rounds. "
        "one process: all layers by one. x one process: median, least and most of the ratios round by round; splitplan x: splitplan's frames a second over this way's, likewise. splitplan's frames come from and go back to a "
        "third process, the caller's, over the wire that also reaches other machines and outlives a stage; torch's stages hold the inputs and keep the outputs. predicted_x: of the plan, from the profile. "
        f"gap: greatest difference of torch's outputs from the unsplit model's. Over the better of torch's schedules, splitplan is {', '.join(f'{x:.2f}x ({m})' for m, x in best.items())}."
    )


def _measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    table = run(SMOKE if smoke else Setting(), progress)
    return table, summary(table)


register(
    Study(
        name="torch-pipeline",
        title="The same stages by the executor and by torch.distributed.pipelining",
        aim="show whether torch's own pipelines earn a place beside the executor: faster on chains by more than the runs differ",
        measure=_measure,
    )
)
