"""Rows shared by two processes: predicted against measured gain on every CNN of the zoo, and against other ways of sharing."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import splitplan as sp
from benchmarks.pipelines_live import refuse_broken
from benchmarks.registry import Study, register
from benchmarks.results import markdown
from benchmarks.row_runs import Task
from splitplan.data.pipeline_plan import RowBlock
from splitplan.data.way import Way
from splitplan.executor.environment import worker_environment
from splitplan.formulations.row_costs import RowCosts
from splitplan.models.rows import RowModel
from splitplan.solvers.row_stage import RowStages

CNNS = (
    "alexnet",
    "vgg16",
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "googlenet",
    "inception_v3",
    "efficientnet_b0",
    "densenet121",
)
EARLY = {"vgg16": ("convolutions", None), "resnet50": ("early stages", "layer2.3.conv3")}
"""A part of a model that has an aim of its own: up to its first barrier, or up to and with the layer of this module."""


@dataclass(frozen=True)
class Setting:
    """What is run.

    Parameters
    ----------
    models : tuple of str
    rounds : int
        Of each plan, in which every way of running takes its turn.
    budget_s : float
        Of the profiler.
    """

    models: tuple[str, ...] = CNNS
    rounds: int = 15
    budget_s: float = 15.0


SMOKE = Setting(models=("tiny-branch",), rounds=2, budget_s=0.2)


@dataclass(frozen=True, eq=False)
class Known:
    """What is measured of a model before any plan is made: its profile."""

    name: str
    path: Path
    model: RowModel
    profile: sp.Profile

    @property
    def seconds(self) -> np.ndarray:
        """Of each layer, at full height."""
        return self.profile.seconds("a")

    def costs(self, ways: dict[tuple[str, str], Way], speeds: Sequence[float] = (1.0, 1.0)) -> RowCosts:
        """Places of these speeds."""
        places = dict(zip("abcdef"[: len(speeds)], speeds, strict=True))
        seconds, fixed = (
            {p: x("a") / s for p, s in places.items()} for x in (self.profile.seconds, self.profile.fixed_s)
        )
        beside = {p: self.profile.block_s("a") / s for p, s in places.items()}
        return RowCosts(self.model, seconds, ways, fixed_s=fixed, block_s=beside)


def network() -> sp.System:
    """Two workers of one thread each on this machine, nothing slowed."""
    here = sp.device("this-cpu")
    return sp.System(a=here, b=here, links={("a", "b"): sp.link("loopback", rate_bps=1e9)})


def know(name: str, folder: Path, setting: Setting) -> Known:
    """Trace and profile. The profile is taken without rests, as the runs that it predicts are made: one after another."""
    traced = sp.trace(sp.zoo(name), sp.zoo_example(name), name=name)
    path = folder / f"{name}.pt2"
    traced.save(path)
    profile = sp.profile(traced, network(), budget_s=setting.budget_s, rest_s=0.0, rows=True)
    return Known(name, path, RowModel(traced.graph), profile)


def ask(what: dict[str, Any]) -> Any:
    """Run ``benchmarks.row_runs`` in a worker's environment; its one line."""
    command = [sys.executable, "-m", "benchmarks.row_runs", json.dumps(what)]
    done = subprocess.run(command, env=worker_environment(1), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder in memory where the system has one."""
    root = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=root if root.is_dir() else None) as folder:
        yield Path(folder)


def copying() -> Way:
    """The way through shared memory: as fast as rows are copied here, and about what a flag takes to be seen."""
    import time

    source = np.zeros(1 << 21, np.float32)
    into = np.empty_like(source)
    taken = []
    for _ in range(9):
        start = time.perf_counter()
        np.copyto(into, source)
        taken.append(time.perf_counter() - start)
    return Way(8 * source.nbytes / statistics.median(taken), 5e-6, 1.0, 0.0, ("a→b",))


MESSAGES = {e: Way(1e10, 3e-4, 1.0, 0.0, ("→".join(e),)) for e in (("a", "b"), ("b", "a"))}
"""About what a message of the executor takes from worker to worker in one machine, packed and unpacked: see docs/results/overhead.md."""
FREE = {e: Way(1e15, 0.0, 1.0, 0.0, ("→".join(e),)) for e in (("a", "b"), ("b", "a"))}


def parts(known: Known) -> list[tuple[str, int, int]]:
    """What is split of a model: all of it, and the part with an aim of its own."""
    n = len(known.model.graph)
    found = [("whole", 0, n)]
    if known.name in EARLY:
        what, module = EARLY[known.name]
        names = [layer.module for layer in known.model.graph.layers]
        stop = min(known.model.barriers) if module is None else 1 + max(i for i, m in enumerate(names) if m == module)
        found.append((what, 0, stop))
    return found


def run_plan(known: Known, start: int, blocks: Sequence[RowBlock], setting: Setting) -> dict[str, Any]:
    """Run the blocks by two processes: gains by the way of running, medians of the ratios round by round."""
    spans, at = [], start
    for b in blocks:
        spans.append((at, at + len(b.layers), list(b.rows)))
        at += len(b.layers)
    with shared_folder() as folder:
        found = ask(asdict(Task(str(folder), str(known.path), spans, setting.rounds)))
    alone, beside = found["seconds"].pop("alone"), found["seconds"].pop("beside")
    gains = {
        way: statistics.median(a / s for a, s in zip(alone, taken, strict=True))
        for way, taken in found["seconds"].items()
    }
    company = statistics.median(b / a for a, b in zip(alone, beside, strict=True))
    return {
        "alone_ms": 1e3 * statistics.median(alone),
        "company": company,
        "gains": gains,
        "gap": max(found["gap"].values()),
    }


def executed(known: Known, setting: Setting) -> dict[str, float]:
    """The whole model by the executor, its blocks and shares those that are best for messages: gain predicted and measured."""
    costs, n = known.costs(MESSAGES), len(known.model.graph)
    stage = RowStages(costs).stage(0, n, ("a", "b"))
    if not any(r for b in stage.blocks for r in b.rows[1:]):
        return {"executor_predicted_x": 1.0}
    found = by_executor(known, stage.blocks, setting)
    return {"executor_predicted_x": known.seconds.sum() / stage.seconds, "executor_x": found}


def by_executor(known: Known, blocks: Sequence[RowBlock], setting: Setting) -> float:
    """Frames one by one through the executor's own workers: seconds of a stage of one place over those of one of both."""
    traced, graph = sp.load_traced(known.path), known.model.graph
    layers, inputs = tuple(x.name for x in graph.layers), tuple(traced.example_inputs().values())
    stages = sp.Stage(layers, ("a",)), sp.Stage(layers, ("a", "b"), tuple(blocks))
    plans = [sp.PipelinePlan(graph.name, graph.fingerprint, (stage,)) for stage in stages]
    with ExitStack() as open_:
        apps = [open_.enter_context(sp.deploy(traced, plan, network(), emulate=False)) for plan in plans]
        for _ in range(setting.rounds + 2):
            for app in apps:  # by turns: a machine whose speed drifts treats both alike
                app(*inputs)
        reports = [app.report() for app in apps]
    for report in reports:
        refuse_broken(report)
    alone, both = ([f.latency_s for f in report.frames[2:]] for report in reports)
    return statistics.median(a / b for a, b in zip(alone, both, strict=True))


def run(setting: Setting, progress: Callable[[str], None] = lambda _: None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Gains measured and predicted; and what other ways of sharing would take on the same costs."""
    gains, others = [], []
    copied = copying()
    ways = {e: Way(copied.rate_bps, copied.delay_s, 1.0, 0.0, w.resources) for e, w in FREE.items()}
    with tempfile.TemporaryDirectory() as folder:
        for name in setting.models:
            progress(f"profiling {name}")
            known = know(name, Path(folder), setting)
            for what, start, stop in parts(known):
                progress(f"running {name}, {what}")
                costs = known.costs(ways)
                stage = RowStages(costs).stage(start, stop, ("a", "b"))
                seconds = known.seconds[start:stop].sum()
                free = known.costs(FREE).stage(start, stop, stage.blocks, ("a", "b"))
                found = run_plan(known, start, stage.blocks, setting)
                shared = sum(sum(r > 0 for r in b.rows) > 1 for b in stage.blocks)
                predicted = seconds / stage.seconds
                gains.append(
                    {
                        "model": name,
                        "layers": what,
                        "shared_blocks": shared,
                        "blocks": len(stage.blocks),
                        "alone_ms": found["alone_ms"],
                        "fixed_%": 100 * known.profile.fixed_s("a")[start:stop].sum() / seconds,
                        "noise_%": 100 * known.profile.noise["a"],
                        "predicted_x": predicted,
                        "measured_x": found["gains"]["shared memory"],
                        "error_%": 100 * (predicted / found["gains"]["shared memory"] - 1),
                        "company_x": found["company"],
                        "in company, error_%": 100
                        * (predicted / found["company"] / found["gains"]["shared memory"] - 1),
                        "compute_predicted_x": seconds / sum(b.seconds for b in free),
                        "compute_x": found["gains"]["compute"],
                        "socket_x": found["gains"]["socket"],
                        **(executed(known, setting) if what == "whole" else {}),
                        "gap": found["gap"],
                    }
                )
            others += against(known)
            known.path.unlink()
    return pd.DataFrame(gains), pd.DataFrame(others)


# -- other ways of sharing ------------------------------------------------------------------------------


def against(known: Known) -> list[dict[str, Any]]:
    """Seconds of the layers up to the first barrier, on the same costs: ours, and what others would do with them."""
    stop = min(known.model.barriers, default=len(known.model.graph))
    found = []
    for speeds, rate in (
        ((1.0, 1.0), 1e9),
        ((1.0, 0.5), 1e9),
        ((1.0, 1.0), 10e9),
        ((1.0, 0.5), 10e9),
        ((1.0, 0.5, 0.5), 10e9),
    ):
        places = tuple("abc"[: len(speeds)])
        ways = {
            (a, b): Way(rate, 1e-4, 1.046, 64.0, (f"{a}→{b}",))
            for a in places
            for b in places
            if a != b and "a" in (a, b)
        }
        costs = known.costs(ways, speeds)
        alone = float(costs.seconds["a"][:stop].sum())
        row: dict[str, Any] = {
            "model": known.name,
            "speeds": ", ".join(f"{s:g}" for s in speeds),
            "rate_gbps": rate / 1e9,
        }
        row["alone_ms"] = 1e3 * alone
        stages = RowStages(costs)
        row["ours_ms"] = 1e3 * stages.stage(0, stop, places).seconds
        row["bound_ms"] = 1e3 * stages.bound(0, stop, places)
        row |= {f"{how}_ms": 1e3 * seconds for how, seconds in others_seconds(costs, stop, places, speeds).items()}
        found.append(row)
    return found


def others_seconds(costs: RowCosts, stop: int, places: tuple[str, ...], speeds: Sequence[float]) -> dict[str, float]:
    """Equal shares and shares by speed; one fused block as in DeepThings, or layer by layer as in MoDNN and CoEdge."""
    found = {}
    for sharing, weights in (("equal", [1.0] * len(places)), ("by speed", list(speeds))):
        whole = costs.block(0, stop, shares(costs.model.height(stop), weights), places).seconds
        found[f"fused, {sharing}"] = whole
        found[f"by layer, {sharing}"] = sum(
            costs.block(v, v + 1, shares(costs.model.height(v + 1), weights), places).seconds for v in range(stop)
        )
    return found


def shares(height: int, weights: Sequence[float]) -> list[int]:
    """Whole rows in proportion."""
    ends = np.round(height * np.cumsum(weights) / sum(weights)).astype(int)
    return [int(n) for n in np.diff(ends, prepend=0)]


def summary(gains: pd.DataFrame) -> str:
    """What was asked for, in a few sentences."""
    error, together = gains["error_%"].abs(), gains["in company, error_%"].abs()
    text = (
        "Two processes of one thread each; measured_x: gain over one process with rows copied out of and into shared memory, "
        "compute_x with the rows already there, socket_x with rows as bytes over a local socket; medians of the ratios round by round. "
        "predicted_x: from the profile taken before (seconds of each layer, and of those what fewer rows do not save) and the speed "
        "of copying. fixed_%: of the layers' seconds, what fewer rows do not save; noise_%: the profile's, see Profile.noise. "
        f"|predicted/measured − 1|: median {error.median():.1f} %, worst {error.max():.1f} %. company_x: how much longer the unsplit model takes while the other "
        "process computes it too, for itself; two machines do not do this to each other. The prediction divided by it: "
        f"median {together.median():.1f} %, worst {together.max():.1f} % off. executor_x: frames alone through the executor's own workers, a stage of both "
        f"places over one of one, with blocks and shares that are best for a link of {MESSAGES['a', 'b'].rate_bps / 1e9:g} Gbit/s and {1e3 * MESSAGES['a', 'b'].delay_s:g} ms, about what its messages take here. "
        f"Greatest difference of an output from the unsplit model's: {gains['gap'].max():.2g} of its scale."
    )
    for name, (what, _) in EARLY.items():
        row = gains[(gains["model"] == name) & (gains["layers"] == what)]
        if len(row):
            r = row.iloc[0]
            text += f" {name}, {what}: {r['compute_x']:.2f}x computing, {r['measured_x']:.2f}x with shared memory, {r['socket_x']:.2f}x over a socket."
    return text


def _measure(smoke: bool, progress: Callable[[str], None]) -> tuple[pd.DataFrame, str]:
    gains, others = run(SMOKE if smoke else Setting(), progress)
    return gains, summary(gains) + "\n\nOn the same costs, other ways of sharing:\n\n" + markdown(others)


register(
    Study(
        name="rows",
        title="Rows of a model shared by two processes",
        aim="VGG16's convolutions ≥ 1.8x, ResNet-50's early stages ≥ 1.3x over one; predicted gain within 10 % of the measured; never behind equal shares or layer-by-layer tiling on the same costs",
        measure=_measure,
    )
)
