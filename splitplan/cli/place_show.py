"""What ``splitplan place`` prints: the stages of a pipeline or the loads of devices, what else there was, the certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from splitplan.cli.output import amount, out, seconds, table
from splitplan.cli.solve import certificate, show_term

if TYPE_CHECKING:
    from splitplan.data.pipeline_plan import PipelinePlan, Stage
    from splitplan.formulations.operator_latency import OperatorLatency
    from splitplan.formulations.pipeline import PipelinePlacement
    from splitplan.formulations.placement import OperatorPlacement
    from splitplan.formulations.solution import Solution

MOST_BLOCKS = 4
"""Blocks of rows that a stage's line names; the plan's file has all."""


def show_pipeline(problem: PipelinePlacement, solution: Solution) -> None:
    """Who computes which layers and which rows, for how long, and what it hands over."""
    whose = ("", "place", "layers", "from", "to", "rows")
    columns = (*whose, "computes", "stage", "of the period", "hands over", "in", "to place", "binds")
    numeric = ("layers", "computes", "stage", "of the period", "hands over", "in")
    out().print(solution.problem, markup=False, style="bold")
    out().print(table("", columns, stage_rows(problem, solution), numeric=numeric))
    hz, latency_s = (solution.terms.get(name) for name in ("throughput_hz", "latency_s"))
    shown = [] if hz is None else [f"{hz:.6g} frames a second"]
    shown += [f"a frame that waits for nothing takes {seconds(latency_s)}"]
    out().print(f"A frame every {seconds(solution.objective)}: {'; '.join(shown)}", markup=False)
    show_rest(solution)


def stage_rows(problem: PipelinePlacement, solution: Solution) -> list[tuple[str, ...]]:
    """A line for each place of each stage, and one for the source when inputs come from elsewhere."""
    plan: PipelinePlan = solution.plan
    terms, period = solution.terms, solution.objective
    heads = [s.place for s in plan.stages]
    nexts: list[str | None] = [*heads[1:], plan.sink if plan.sink != heads[-1] else None]
    found: list[tuple[str, ...]] = []
    if plan.source is not None and plan.source != heads[0]:
        found.append(("", plan.source, "–", "", "", "", "", "", *handed(problem, solution, plan.source, heads[0], 0)))
    done = 0
    for number, (stage, after) in enumerate(zip(plan.stages, nexts, strict=True), 1):
        done += len(stage.layers)
        for k, place in enumerate(stage.places):
            *sent, binds = handed(problem, solution, place, after if k == 0 else None, done)
            line = ["", place, "", "", "", shares(stage, k), seconds(terms.get(f"at_{place}_s")), "", ""]
            if k == 0:
                whole = terms.get(stage_term(stage))
                line[0], line[2:5] = str(number), [str(len(stage.layers)), stage.layers[0], stage.layers[-1]]
                line[7:] = [seconds(whole), "" if whole is None or not period else f"{whole / period:.0%}"]
            marks = ", ".join(filter(None, (computing(solution, stage, place, k == 0), binds)))
            found.append((*line, *sent, marks))
    return found


def handed(
    problem: PipelinePlacement, solution: Solution, a: str, b: str | None, position: int
) -> tuple[str, str, str, str]:
    """Bytes that go from a to b at a position, their seconds, b, and what of that binds; nothing without b."""
    if b is None:
        return "", "", "", ""
    name, way = f"{a}_to_{b}_s", problem.system.way(a, b)
    held = [r for r in way.resources if binding(solution, f"busy_{r}_s")] if way is not None else []
    found = held or (["the way"] if binding(solution, name) else [])
    return (
        amount(float(problem.costs.payload_bytes[position]), "B"),
        seconds(solution.terms.get(name)),
        b,
        " and ".join(found),
    )


def computing(solution: Solution, stage: Stage, place: str, first: bool) -> str:
    """Whether a stage, or its place's turns of computing, sending and receiving, set the pace; said at its first place."""
    if first and binding(solution, stage_term(stage)):
        return "computing" if len(stage.places) == 1 else "the stage"
    return "all its turns" if binding(solution, f"busy_{place}_s") else ""


def stage_term(stage: Stage) -> str:
    """The term that has the seconds of a stage."""
    return f"at_{stage.place}_s" if len(stage.places) == 1 else f"stage_{'+'.join(stage.places)}_s"


def binding(solution: Solution, name: str) -> bool:
    """Whether a cost is the period."""
    return solution.terms.get(name, 0.0) >= solution.objective * (1 - 1e-9) > 0


def shares(stage: Stage, k: int) -> str:
    """Rows of a stage's place, block by block."""
    if not stage.blocks:
        return "all"
    counts = [f"{b.rows[k]} of {sum(b.rows)}" for b in stage.blocks]
    return ", ".join(counts[:MOST_BLOCKS]) + (f", … {len(counts)} blocks" if len(counts) > MOST_BLOCKS else "")


def show_operators(problem: OperatorPlacement | OperatorLatency, solution: Solution) -> None:
    """How many operators each device has, how long it works, what they hold."""
    plan, graph = solution.plan, problem.graph
    if problem.kind == "operator-latency":
        held = problem.held_bytes(plan)  # type: ignore[union-attr]  # of that kind
    else:
        held = {d: sum(o.memory_bytes for o in graph.operators if plan.placement[o.name] == d) for d in plan.devices}
    rows = []
    for device in plan.devices:
        mine, busy = plan.operators_on(device), solution.terms.get(f"{device}_s")
        share = "" if busy is None or not solution.objective else f"{busy / solution.objective:.0%}"
        rows.append((device, str(len(mine)), seconds(busy), share, amount(held[device], "B")))
    out().print(
        table(
            solution.problem,
            ("device", "operators", "busy", "of the longest", "memory"),
            rows,
            numeric=("operators", "busy", "of the longest", "memory"),
        )
    )
    show_rest(solution)


def show_rest(solution: Solution) -> None:
    """What it was chosen over, and the certificate."""
    times = [
        (
            a.name,
            show_term("_s", a.objective),
            f"{a.objective / solution.objective:.3g}x" if solution.objective else "–",
            a.forbidden or ("the plan" if a.is_plan else ""),
        )
        for a in solution.alternatives
    ]
    if times:
        out().print(table("\nwithout optimizing", ("", "", "of the plan's", ""), times, numeric=("of the plan's",)))
    out().print(table("\ncertificate", ("", ""), [row for row in certificate(solution) if row[0] != "why" and row[1]]))
