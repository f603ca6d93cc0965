"""``splitplan train-plan``: how to train a model on the cores of like hosts: stages, replicas, threads, micro-batches."""

from __future__ import annotations

from enum import StrEnum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitplan.cli.options import FigureOption, GapOption, Json, PlanOption, SolverOption, TimeLimitOption, read_system
from splitplan.cli.output import (
    amount,
    check_figure,
    check_folder,
    err,
    out,
    print_json,
    save_figure,
    say,
    seconds,
    table,
    working,
)
from splitplan.cli.solve import certificate
from splitplan.errors import DataError, many, raise_all
from splitplan.executor.environment import cores_here

if TYPE_CHECKING:
    from splitplan.data.system import System
    from splitplan.data.training_profile import TrainingProfile
    from splitplan.formulations.solution import Solution


class Optimizers(StrEnum):
    """What a model can be profiled with from the command line."""

    sgd = auto()
    momentum = auto()
    adam = auto()
    adamw = auto()


PARTS = ("compute_s", "fill_s", "transfer_s", "sync_s", "update_s", "overhead_s")


def train_plan(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PROFILE|MODEL",
            help="A training profile (.json), or a model to measure first: zoo:NAME (classes of random data), or "
            "package.module:factory, where factory() returns (module, loss_fn, (inputs, targets)): the module in train mode, a "
            "mean loss of output and targets, and a batch.",
        ),
    ],
    batch: Annotated[
        int | None, typer.Option(help="Samples of an iteration.", show_default="the profile's largest, the factory's")
    ] = None,
    system: Annotated[
        Path | None,
        typer.Option("--system", metavar="FILE.toml", help="Like hosts with their cores (threads) and links."),
    ] = None,
    cores: Annotated[int | None, typer.Option(help="Of this machine, instead of a system.", show_default="all")] = None,
    size: Annotated[int | None, typer.Option(help="Of a zoo model: height and width of an image.")] = None,
    save_profile: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Of a model: where to write what was measured.")
    ] = None,
    budget_s: Annotated[
        float | None,
        typer.Option(
            help="Of a model: about how many seconds to measure, beyond what the least takes (44 s for a small network).",
            show_default="60",
        ),
    ] = None,
    optimizer: Annotated[
        Optimizers | None,
        typer.Option(
            help="Of a model: what its weights are trained by; its seconds and its state count.",
            show_default="momentum",
        ),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Of a worker, to choose from; may be given several times.", show_default="all measured"
        ),
    ] = None,
    max_stages: Annotated[int | None, typer.Option(help="Most stages.")] = None,
    any_replicas: Annotated[
        bool, typer.Option("--any-replicas", help="Stages may have unlike replicas; such a plan cannot be run here.")
    ] = False,
    no_columns: Annotated[bool, typer.Option("--no-columns", help="Share no linear layer by its columns.")] = False,
    whole_batch: Annotated[
        bool,
        typer.Option(
            "--whole-batch", help="Only plans in which every layer sees the whole batch, as batch norm does alone."
        ),
    ] = False,
    solver: SolverOption = "auto",
    time_limit_s: TimeLimitOption = None,
    gap: GapOption = 0.0,
    output: PlanOption = None,
    figure: FigureOption = None,
    json: Json = False,
) -> None:
    """Find the quickest way to train: how many stages, how many copies of each, how many cores for each worker.

    Says what an iteration is expected to take, at the latest too, and why the other strategies lose.
    """
    from splitplan.formulations.registry import resolve
    from splitplan.formulations.training import HybridTraining

    check_figure(figure)
    for path in (output, save_profile):
        check_folder(path)
    # Before anything is measured.
    raise_all(
        [
            f"{name} is {value}; give a whole number from 1"
            for name, value in (("--batch", batch), ("--max-stages", max_stages))
            if value is not None and value < 1
        ],
        "train-plan",
    )
    if solver != "auto":
        resolve(solver, HybridTraining.kind, {})
    hosts = _hosts(system, cores)
    if not source.endswith(".json") and system is None and cores is not None and cores > (here := cores_here()):
        raise DataError(
            f"is {cores}; this machine has {many(here, 'core')} to measure on, give {here} or less", "--cores"
        )
    if source.endswith(".json"):
        from splitplan.data.training_profile import TrainingProfile

        given = (
            ("--save-profile", save_profile),
            ("--size", size),
            ("--budget-s", budget_s),
            ("--optimizer", optimizer),
        )
        raise_all(
            [f"{name} is for models that are measured; a profile is given" for name, v in given if v is not None],
            source,
        )
        profile = TrainingProfile.read(source)
    else:
        profile = _measured(
            source,
            batch,
            size,
            hosts,
            threads=tuple(threads) if threads else None,
            optimizer=optimizer or Optimizers.momentum,
            budget_s=60.0 if budget_s is None else budget_s,
        )
        if save_profile is not None:
            profile.save(save_profile)
    problem = HybridTraining(
        profile,
        hosts,
        batch if batch is not None else max(profile.samples(t)[1] for t in profile.threads),
        replicas="any" if any_replicas else "same",
        max_stages=max_stages,
        threads=tuple(threads) if threads else None,
        columns=not no_columns,
        whole_batch=whole_batch,
    )
    with working(f"solving: {problem.describe()}"):
        solution = problem.solve(solver, time_limit_s=time_limit_s, gap=gap)
    if output is not None:
        solution.plan.save(output)
    if figure is not None:
        save_figure(solution.plot(), figure)
    if json:
        estimate = solution.estimate
        more = {"strategies": estimate.strategies.to_dict("records"), "notes": list(estimate.notes)}
        print_json(solution.to_dict() | more)
        return
    show(solution)
    for what, path in (("profile", save_profile), ("plan", output), ("figure", figure)):
        if path is not None:
            say(f"{what} written: {path}")


def _hosts(system: Path | None, cores: int | None) -> System:
    from splitplan.data.device import Device
    from splitplan.data.system import System

    if system is not None:
        if cores is not None:
            raise DataError("is given beside --system, whose devices say their threads", "--cores")
        return read_system(system)
    return System(here=Device("this machine", local=True, threads=cores_here() if cores is None else cores))


def _measured(
    spec: str, batch: int | None, size: int | None, hosts: System, *, threads: tuple[int, ...] | None, optimizer: Optimizers,
    budget_s: float,
) -> TrainingProfile:  # fmt: skip
    from splitplan.executor.training_profiler import OPTIMIZERS, profile_training
    from splitplan.models.load import call_factory
    from splitplan.models.zoo import zoo_training

    with working(f"making {spec}"):
        if spec.startswith("zoo:"):
            model, loss_fn, example = zoo_training(
                spec.removeprefix("zoo:"), batch=32 if batch is None else batch, size=size
            )
        else:
            if size is not None:
                raise DataError("is for models of the zoo; a factory makes its own batch", "--size")
            made = call_factory(spec)
            if not isinstance(made, tuple) or len(made) != 3:
                raise DataError(
                    f"returned something else than (module, loss_fn, (inputs, targets)): a {type(made).__name__}",
                    f"model {spec!r}",
                )
            model, loss_fn, example = made
    say(f"measuring {spec}: about {budget_s:g} s, and what starting and the least iterations take")
    return profile_training(
        model,
        loss_fn,
        example,
        hosts,
        optimizer=OPTIMIZERS[optimizer],
        threads=threads,
        budget_s=budget_s,
        name=spec.rpartition(":")[2],
        progress=None if err().is_terminal else lambda what, part: None if part else say(f"{what} …"),
    )


def show(solution: Solution) -> None:
    """The plan, what it takes, and the other strategies."""
    estimate = solution.estimate
    plan = estimate.plan
    out().print(solution.problem, markup=False, style="bold")
    rows = [
        (str(k), str(len(s.layers)), s.layers[0], s.layers[-1], str(s.replicas), str(len(s.columns) or ""))
        for k, s in enumerate(plan.stages)
    ]
    columns = ("stage", "layers", "from", "to", "replicas", "by columns")
    out().print(table("", columns, rows, numeric=("layers", "replicas", "by columns")))
    latest = estimate.latest
    if estimate.latest_s is not None:
        latest = f"latest {seconds(estimate.latest_s)} (holds {estimate.share})"
    order = "" if plan.schedule == "none" else f", {plan.schedule}"
    out().print(
        f"{plan.strategy}: {many(plan.workers, 'worker')} of {many(plan.threads, 'thread')}; {many(plan.micro_batches, 'micro-batch')} of "
        f"{plan.batch // plan.micro_batches} samples{order}",
        markup=False,
    )
    out().print(
        f"An iteration takes {seconds(estimate.expected_s)}; {latest}; "
        f"{amount(solution.terms['memory_bytes'], 'B')} of memory for the largest worker",
        markup=False,
    )
    frame = estimate.strategies
    shown = [p for p in PARTS if (frame[p] > 0).any()]
    rows = [
        (r["strategy"], str(r["micro_batches"]), seconds(r["iteration_s"]), *(seconds(r[p]) for p in shown), r["why"])
        for r in frame.to_dict("records")
    ]
    names = ("strategy", "micro-batches", "iteration", *(p.removesuffix("_s") for p in shown), "why")
    out().print(table("", names, rows, numeric=names[1:-1]))
    for note in estimate.notes:
        out().print(f"Note: {note.replace('whole_batch=True', '--whole-batch')}", markup=False)
    out().print(table("", ("certificate", ""), certificate(solution)))
