"""``splitplan demo``: the main job from end to end on this machine, with a table and a figure at the end."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitplan.cli.output import make_folder, out, save_figure, say, seconds, table, working
from splitplan.errors import ExecutorError

if TYPE_CHECKING:
    from splitplan.data.profile import Profile
    from splitplan.data.system import System
    from splitplan.executor.report import Report
    from splitplan.formulations.split import SplitPoint
    from splitplan.models.traced import Traced

TINY = "zoo:tiny-cnn"
BEST = "best plan"


@dataclass(frozen=True)
class Sizes:
    """How much the demo does."""

    frames: int
    stream: int
    budget_s: float


FULL = Sizes(frames=20, stream=30, budget_s=10.0)
SMOKE = Sizes(frames=3, stream=4, budget_s=0.3)


def demo(
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write what it makes.")] = Path("demo"),
    model: Annotated[
        str | None, typer.Option(help="Another model.", show_default="zoo:resnet50 if torchvision is there")
    ] = None,
    rate_mbps: Annotated[float, typer.Option(min=0.001, help="Rate of the emulated link, both ways.")] = 20.0,
    slowdown: Annotated[
        float, typer.Option(min=1.0, help="How many times slower the device is than this machine.")
    ] = 4.0,
) -> None:
    """Trace, profile, solve, run and report: a slowed device, an LTE link and a server, all emulated on this machine."""
    smoke = bool(os.environ.get("SMOKE_TEST"))
    sizes = SMOKE if smoke else FULL
    folder = make_folder(folder)
    model = model or choose_model(smoke)

    say("1  a device, a server and the link between them")
    system = make_system(rate_mbps * 1e6, slowdown)
    system.save(folder / "system.toml")
    out().print(str(system), markup=False)

    with working(f"2  tracing {model}"):
        from splitplan.models.load import load_model

        traced = load_model(model)
    out().print(repr(traced.graph), markup=False)

    say("3  profiling each layer, in a worker's own process")
    profile = measure(traced, system, sizes, folder)

    say("4  the best cut, and how good it is")
    problem = solve(profile, system, folder)

    say("5  running it in two processes, and the two one-sided plans for comparison: same model, same link, same costs")
    reports = run_plans(traced, problem, sizes, folder)
    finish(traced, problem, reports, folder)


def choose_model(smoke: bool) -> str:
    """A real network where torchvision is there, else one that needs torch only; said aloud."""
    if smoke:
        say(f"SMOKE_TEST is set: {TINY}, few frames; the times mean nothing")
        return TINY
    if importlib.util.find_spec("torchvision") is None:
        say(f"torchvision is not installed, so this is {TINY}, a toy; for ResNet-50: pip install 'splitplan[zoo]'")
        return TINY
    return "zoo:resnet50"


def make_system(rate_bps: float, slowdown: float) -> System:
    """A slowed copy of this machine as the device, the machine itself as the server, an LTE link between them."""
    from splitplan.data.catalog import device, link
    from splitplan.data.system import System

    assumed = "this machine, slowed; 5 W busy and 1.5 W idle are assumed, of the size of a phone's"
    return System(
        device=device("this-cpu", slowdown=slowdown, active_power_w=5.0, idle_power_w=1.5, source=assumed),
        server=device("this-cpu"),
        link=link("lte-2021", rate_bps=rate_bps, rtt_s=0.03),
    )


def measure(traced: Traced, system: System, sizes: Sizes, folder: Path) -> Profile:
    """The profile, saved and shown in short."""
    from splitplan.executor.profiler import profile

    found = profile(traced, system, budget_s=sizes.budget_s)
    found.save(folder / "profile.csv")
    rows = [
        (r["place"], seconds(r["total_s"]), r["method"], f"{r['slowdown']:g}x")
        for r in found.summary().to_dict("records")
    ]
    out().print(table("", ("place", "all layers", "how", "slowed"), rows, numeric=("all layers", "slowed")))
    return found


def solve(profile: Profile, system: System, folder: Path) -> SplitPoint:
    """The problem; its solution is saved, shown and drawn."""
    from splitplan.cli.solve import show_solution
    from splitplan.formulations.split import SplitPoint
    from splitplan.models.files import write_whole
    from splitplan.plots.graph import plot_graph

    problem = SplitPoint(profile, system, objective="latency")
    solution = problem.solve()
    solution.plan.save(folder / "plan.json")
    write_whole(folder / "solution.json", solution.to_json())
    save_figure(solution.plot(), folder / "cuts.png")
    save_figure(plot_graph(profile.graph, solution.plan.server_layers), folder / "graph.png")
    show_solution(solution)
    return problem


def run_plans(traced: Traced, problem: SplitPoint, sizes: Sizes, folder: Path) -> dict[str, Report]:
    """Reports of the best plan and of the one-sided ones, by name."""
    import numpy as np

    from splitplan.cli.run import feed, show_report
    from splitplan.data.plan import SplitPlan
    from splitplan.executor.deploy import deploy
    from splitplan.models.files import write_whole

    layers = len(traced.graph)
    plans = {
        "device only": problem.plan_for(np.zeros(layers, bool)),
        "server only": problem.plan_for(np.ones(layers, bool)),
        BEST: SplitPlan.read(folder / "plan.json"),
    }
    if not (plans[BEST].device_layers and plans[BEST].server_layers) and layers > 1:
        ends = traced.graph.layers
        both = replace(problem, pin_device=(ends[0].name,), pin_server=(ends[-1].name,)).solve().plan
        say(f"   the best plan leaves one side empty, so the best that uses both runs too: {both.describe()}")
        plans["best with both"] = both
    reports = {}
    for name, plan in plans.items():
        with working(f"   {name}"), deploy(traced, plan, problem.system, profile=problem.profile) as app:
            feed(app, traced, sizes.frames, 1)
            if name == BEST:
                feed(app, traced, sizes.stream, 8)
            reports[name] = app.report()
    best = reports[BEST]
    show_report(best)
    write_whole(folder / "report.json", json.dumps(best.to_dict(), indent=1))
    return reports


def finish(traced: Traced, problem: SplitPoint, reports: dict[str, Report], folder: Path) -> None:
    """The table and the figure that the demo ends with."""
    import pandas as pd

    from splitplan.plots.report import plot_plans, plot_report

    latencies = {name: _latency(report) for name, report in reports.items()}
    frame = pd.DataFrame([{"plan": name, **latency} for name, latency in latencies.items()])
    link = problem.system.link
    title = f"{traced.name}, device {problem.system.device.slowdown:g}x slower, {link.rate_up_bps / 1e6:g} Mbit/s, {link.rtt_s * 1e3:g} ms"
    save_figure(plot_plans(frame, title=title), folder / "demo.png")
    save_figure(plot_report(reports[BEST].to_frame(), title=f"{title}: the best plan"), folder / "report.png")
    measured = {name: latency["measured_s"] for name, latency in latencies.items()}
    least = min(measured["device only"], measured["server only"])
    rows = [
        (
            name,
            seconds(x["predicted_s"]),
            seconds(x["measured_s"]),
            seconds(x["p95_s"]),
            f"{x['measured_s'] / x['predicted_s'] - 1:+.1%}",
            f"{x['measured_s'] / least:.2f}",
        )
        for name, x in latencies.items()
    ]
    columns = ("plan", "predicted", "measured", "p95", "error", "of the better baseline")
    out().print()
    out().print(table(f"Latency: {title}", columns, rows, numeric=columns[1:]))
    out().print(
        f"Measured on {platform.machine()} with {os.cpu_count()} cores; device and link are emulated, energy is modelled. "
        f"Figure: {folder / 'demo.png'}; beside it the system, profile, plan, reports and more figures.",
        markup=False,
    )


def _latency(report: Report) -> dict[str, float]:
    (row,) = (r for r in report.rows if r.quantity == "latency")
    if row.predicted is None or row.measured is None or row.p95 is None:
        raise ExecutorError(f"no frame of this plan was answered: {report.title}")
    return {"predicted_s": row.predicted, "measured_s": row.measured, "p95_s": row.p95}
