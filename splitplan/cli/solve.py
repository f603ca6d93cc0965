"""``splitplan solve``: the best cut, with its certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitplan.cli.options import (
    ClockOption,
    FigureOption,
    GapOption,
    InputBytes,
    Json,
    PinDevice,
    PinServer,
    PlanOption,
    ProfileArgument,
    ResultOption,
    SolverOption,
    SystemOption,
    TimeLimitOption,
    WireOption,
    read_split,
)
from splitplan.cli.output import amount, check_figure, out, print_json, save_figure, say, seconds, table

if TYPE_CHECKING:
    from splitplan.formulations.solution import Solution


def solve(
    profile: ProfileArgument,
    system: SystemOption,
    objective: Annotated[
        str, typer.Option(help="latency, energy, period, memory; or weights, as latency=1,energy=0.5.")
    ] = "latency",
    deadline_s: Annotated[float | None, typer.Option(help="Longest latency.")] = None,
    energy_budget_j: Annotated[float | None, typer.Option(help="Most energy of the device for a frame.")] = None,
    period_limit_s: Annotated[float | None, typer.Option(help="Longest time between two frames.")] = None,
    memory_bytes: Annotated[float | None, typer.Option(help="Most memory of the device.")] = None,
    upload_bytes: Annotated[float | None, typer.Option(help="Most bytes that a frame may send.")] = None,
    pin_device: PinDevice = None,
    pin_server: PinServer = None,
    wire: WireOption = "fp32",
    result: ResultOption = "device",
    input_bytes: InputBytes = None,
    clock_hz: ClockOption = None,
    solver: SolverOption = "auto",
    time_limit_s: TimeLimitOption = None,
    gap: GapOption = 0.0,
    output: PlanOption = None,
    figure: FigureOption = None,
    json: Json = False,
) -> None:
    """Find the best cut of a profiled model between two places, and prove how good it is."""
    check_figure(figure)
    problem = read_split(
        profile,
        system,
        objective,
        pin_device,
        pin_server,
        deadline_s=deadline_s,
        energy_budget_j=energy_budget_j,
        period_limit_s=period_limit_s,
        device_memory_bytes=memory_bytes,
        upload_limit_bytes=upload_bytes,
        wire=wire,
        result=result,
        input_bytes=input_bytes,
        clock_hz=clock_hz,
    )
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


def show_solution(solution: Solution) -> None:
    """Plan, certificate, costs and rungs."""
    rows = [("plan", str(solution.plan)), *certificate(solution)]
    rows += [(name, show_term(name, value)) for name, value in solution.terms.items()]
    out().print(table(solution.problem, ("", ""), [(name, value) for name, value in rows if value]))


def certificate(solution: Solution) -> list[tuple[str, str]]:
    """How good a plan is and whose word that is, a line each; lines may be empty."""
    gap = "no bound" if solution.gap is None else f"{solution.gap:.2g}"
    bound = "none" if solution.bound is None else f"{solution.bound:.6g} {solution.unit}"
    return [
        ("objective", f"{solution.objective:.6g} {solution.unit}"),
        ("why", solution.why),
        ("bound", f"{bound} (gap {gap})"),
        ("bound by", solution.bound_by),
        *solution.facts.items(),
        ("status", f"{solution.status}; stopped: {solution.termination}"),
        ("solver", f"{solution.solver} {solution.solver_version}".strip()),
        ("time", f"build {seconds(solution.build_s)}, solve {seconds(solution.solve_s)}"),
        ("audited by", f"{solution.audit.by}: {solution.audit.objective:.6g} {solution.unit}"),
        *((f"rung {r.solver}", f"{'used' if r.used else 'passed over'}: {r.reason}") for r in solution.rungs),
    ]


def show_term(name: str, value: Any) -> str:
    """A cost by the unit that its name ends in."""
    if name.endswith("_s"):
        return seconds(value)
    if name.endswith("_bytes"):
        return amount(value, "B")
    return f"{value:.4g} J" if name.endswith("_j") else f"{value:.4g}"
