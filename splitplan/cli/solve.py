"""``splitplan solve``: the best cut, with its certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitplan.cli.output import (
    Json,
    SystemOption,
    amount,
    check_figure,
    out,
    print_json,
    save_figure,
    say,
    seconds,
    table,
)
from splitplan.errors import DataError

if TYPE_CHECKING:
    from splitplan.formulations.solution import Solution


def solve(
    profile: Annotated[Path, typer.Argument(metavar="PROFILE", help="What `splitplan profile -o` wrote.")],
    system: SystemOption,
    objective: Annotated[
        str, typer.Option(help="latency, energy, period, memory; or weights, as latency=1,energy=0.5.")
    ] = "latency",
    deadline_s: Annotated[float | None, typer.Option(help="Longest latency.")] = None,
    energy_budget_j: Annotated[float | None, typer.Option(help="Most energy of the device for a frame.")] = None,
    period_limit_s: Annotated[float | None, typer.Option(help="Longest time between two frames.")] = None,
    memory_bytes: Annotated[float | None, typer.Option(help="Most memory of the device.")] = None,
    upload_bytes: Annotated[float | None, typer.Option(help="Most bytes that a frame may send.")] = None,
    pin_device: Annotated[list[str] | None, typer.Option(metavar="LAYER", help="Must stay. May be repeated.")] = None,
    pin_server: Annotated[list[str] | None, typer.Option(metavar="LAYER", help="Must go. May be repeated.")] = None,
    wire: Annotated[str, typer.Option(help="Precision on the link: fp32, fp16, int8.")] = "fp32",
    result: Annotated[str, typer.Option(help="Where the result must be: device, server, anywhere.")] = "device",
    input_bytes: Annotated[float | None, typer.Option(help="Bytes of the raw input on the wire.")] = None,
    clock_hz: Annotated[float | None, typer.Option(help="The device's clock.", show_default="its top clock")] = None,
    solver: Annotated[str, typer.Option(help="A solver's name; auto climbs the ladder.")] = "auto",
    time_limit_s: Annotated[float | None, typer.Option(help="Seconds after which the best in hand comes back.")] = None,
    gap: Annotated[float, typer.Option(help="Relative gap at which the solver may stop.")] = 0.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.json", help="Where to write the plan.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to draw cost against cut: .png, .pdf, .svg.")
    ] = None,
    json: Json = False,
) -> None:
    """Find the best cut of a profiled model between two places, and prove how good it is."""
    from splitplan.data.profile import Profile
    from splitplan.data.system import System
    from splitplan.formulations.split import SplitPoint

    check_figure(figure)
    times = Profile.read(profile)
    problem = SplitPoint(
        times,
        System.read(system),
        objective=read_objective(objective),
        deadline_s=deadline_s,
        energy_budget_j=energy_budget_j,
        period_limit_s=period_limit_s,
        device_memory_bytes=memory_bytes,
        upload_limit_bytes=upload_bytes,
        pin_device=tuple(pin_device or ()),
        pin_server=tuple(pin_server or ()),
        wire=wire,  # type: ignore[arg-type]  # checked by SplitPoint, with a message that lists what may be given
        result=result,  # type: ignore[arg-type]
        input_bytes=input_bytes,
        clock_hz=clock_hz,
    )
    for warning in times.warnings:
        say(f"warning: {warning}")
    solution = problem.solve(solver, time_limit_s=time_limit_s, gap=gap)
    if output is not None:
        solution.plan.save(output)
    if figure is not None:
        save_figure(solution.plot(), figure)
    if json:
        print_json(solution.to_dict())
        return
    show_solution(solution)
    for path in (output, figure):
        if path is not None:
            say(f"written: {path}")


def read_objective(text: str) -> str | dict[str, float]:
    """``latency``, or ``latency=1,energy=0.5`` as weights."""
    if "=" not in text:
        return text
    weights: dict[str, float] = {}
    problems = []
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            weights[name.strip()] = float(value)
        except ValueError:
            problems.append(f"{part!r} is no weight; give name=number, as latency=1,energy=0.5")
    if problems:
        raise DataError(problems, "--objective")
    return weights


def show_solution(solution: Solution) -> None:
    """Plan, certificate, costs and rungs."""
    gap = "no bound" if solution.gap is None else f"{solution.gap:.2g}"
    bound = "none" if solution.bound is None else f"{solution.bound:.6g} {solution.unit}"
    rows: list[tuple[str, str]] = [
        ("plan", str(solution.plan)),
        ("objective", f"{solution.objective:.6g} {solution.unit}"),
        ("why", solution.why),
        ("bound", f"{bound} (gap {gap})"),
        ("bound by", solution.bound_by),
        ("status", f"{solution.status}; stopped: {solution.termination}"),
        ("solver", f"{solution.solver} {solution.solver_version}".strip()),
        ("time", f"build {seconds(solution.build_s)}, solve {seconds(solution.solve_s)}"),
        ("audited by", f"{solution.audit.by}: {solution.audit.objective:.6g} {solution.unit}"),
        *((f"rung {r.solver}", f"{'used' if r.used else 'passed over'}: {r.reason}") for r in solution.rungs),
        *((name, show_term(name, value)) for name, value in solution.terms.items()),
    ]
    out().print(table(solution.problem, ("", ""), [(name, value) for name, value in rows if value]))


def show_term(name: str, value: Any) -> str:
    """A cost by the unit that its name ends in."""
    if name.endswith("_s"):
        return seconds(value)
    if name.endswith("_bytes"):
        return amount(value, "B")
    return f"{value:.4g} J" if name.endswith("_j") else f"{value:.4g}"
