"""The task controller on lines that workers might have written: who is slow, whether another plan pays, what the report and the live table say."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.training_instances import chain
from splitplan.data.catalog import device
from splitplan.data.system import System
from splitplan.data.training_plan import TrainingPlan
from splitplan.data.training_profile import TrainingProfile
from splitplan.data.training_tables import KINDS
from splitplan.errors import DataError, TrainingError
from splitplan.executor.training_control import SLOW, Change, Control, Cores, replan_of
from splitplan.executor.training_job import ASK, Task, held, refuse, refused, worker_file
from splitplan.executor.training_report import make_report
from splitplan.executor.training_theirs import theirs
from splitplan.executor.training_watch import Records, headline, table, with_checkpoint
from splitplan.formulations.training import HybridTraining
from tests.executor.test_training import BATCH, model_of, net, plan_of


def hybrid() -> HybridTraining:
    """A problem of the small network on two cores, with seconds that are made up."""
    layers = model_of(net()).layers
    names = [x.name for x in layers]
    times = [
        (v, samples, 1, workers, 0.01 * samples * (k + 1), 0.02 * samples * (k + 1))
        for k, v in enumerate(names) for samples in (1, 8) for workers in (1, 2)
    ]  # fmt: skip
    profile = TrainingProfile(
        "net", model_of(net()).fingerprint, layers, (100.0,) * (len(layers) - 1),
        times=times, updates=[(v, 1, w, 0.001) for v in names for w in (1, 2)],
        collectives=[(what, 2, 1e4, 1e-4) for what in KINDS],
    )  # fmt: skip
    return HybridTraining(profile, System(here=device("this-cpu", threads=2)), BATCH)


def plans(problem: HybridTraining) -> list[TrainingPlan]:
    """One core, two copies, and two stages cut in the middle, in two micro-batches."""
    half = problem.costs.layers // 2
    found = {}
    for config in problem.configs():
        if config.micro_batches == config.stages and config.schedule != "gpipe":
            cuts = (half,) * (config.stages - 1)
            found[config.stages, config.workers] = problem.plan_for(config, cuts, config.replicas * config.stages)
    return list(found.values())


def stage_seconds(problem: HybridTraining, plan: TrainingPlan) -> list[float]:
    return [plan.micro_batches * (s.forward_s + s.backward_s) for s in problem.costs.stages_of(plan)]


def write(
    folder: Path, seconds: list[list[float]], run: str = "r", replicas: int = 1, iteration_s: float = 4.0
) -> Records:
    """Lines of workers that computed for so long in each step."""
    for k, mine in enumerate(seconds):
        lines: list[dict[str, Any]] = [{"run": run, "pid": 1, "host": "a", "from_step": 0, "cores": [k], "restarts": 0}]
        for step, s in enumerate(mine, 1):
            times = {"forward_s": s / 3, "backward_s": 2 * s / 3, "sync_s": 0.0, "update_s": 0.01, "agree_s": 0.0}
            lines.append({"step": step, "epoch": 0, "loss": 1.0, "start": 10.0 * step, "end": 10.0 * step + iteration_s, "events": [], **times})  # fmt: skip
        worker_file(folder, k).write_text("".join(json.dumps(x) + "\n" for x in lines), encoding="utf-8")
    records = Records(folder, len(seconds), replicas, "r")
    records.read()
    return records


def test_a_worker_is_slow_compared_with_what_was_planned_for_it(tmp_path: Path) -> None:
    problem = hybrid()
    (plan,) = (x for x in plans(problem) if len(x.stages) == 2)
    first, second = stage_seconds(problem, plan)
    assert second > SLOW * first  # else the test would tell nothing

    def told(seconds: list[list[float]], problem: HybridTraining | None) -> list[str]:
        control = Control(plan, tmp_path, Cores.of(plan, problem), problem)
        control(write(tmp_path, seconds))
        return control.notes

    assert told([[first] * 8, [second] * 8], problem) == []
    (note,) = told([[first] * 8, [1.5 * second] * 8], problem)
    assert "worker 1 computed 1.50 times as long as the others" in note
    assert 'no other plan was looked for (no problem=, or on_slow="tell")' in note
    begun = Control(plan, tmp_path, Cores.of(plan, None))  # nothing predicted: as in the first iterations
    begun(write(tmp_path, [[1.0] * 6, [3.0] * 6]))
    assert begun.notes == []
    begun(write(tmp_path, [[2.0 if k > 8 else 1.0 for k in range(16)], [3.0] * 16]))
    assert "after step 16 worker 0 computed 2.00 times" in begun.notes[0]
    for step, factor in ((17, 1.0), (23, 3.0)):  # as planned again, and slower than before
        begun(write(tmp_path, [[factor] * step, [3.0] * step]))
    (note,) = begun.notes
    assert (
        note.startswith("after step 16 worker 0 computed up to 3.00 times as long as the others")
        and "(and 1 time more after that)" in note
    )


def test_cores_are_put_in_order_of_their_speed() -> None:
    plan = plan_of(net(), replicas=2)
    cores = Cores.of(plan, None)
    assert cores == Cores((0, 1), (1.0, 1.0))
    slower = cores.slowed([2.0, 1.0], 1)
    assert slower == Cores((1, 0), (1.0, 0.5))
    assert slower.slowed([1.0, 4.0], 1) == Cores((1, 0), (1.0, 0.125))
    spare = Cores((0, 1, 2), (1.0,) * 3).slowed([1.0, 2.0], 1)
    assert spare == Cores((0, 2, 1), (1.0, 1.0, 0.5))
    assert Cores((0, 1, 2, 3), (1.0,) * 4).slowed([1.0, 4.0], 2) == Cores((0, 1, 2, 3), (1.0, 1.0, 0.25, 0.25))


@pytest.mark.parametrize(("steps", "kept"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (9, 6)])
def test_iterations_that_warm_up_do_not_count_where_there_are_others(tmp_path: Path, steps: int, kept: int) -> None:
    plan = plan_of(net())
    seconds = [9.0] * min(3, steps - 1) + [1.0] * max(1, steps - 3)
    rows = make_report([(plan, write(tmp_path, [seconds], replicas=1))], []).to_frame().set_index("quantity")
    assert rows.loc["iteration", "n"] == kept
    assert rows.loc["compute", "measured"] == pytest.approx(1.0)


def test_a_problem_is_solved_again_with_the_speeds(tmp_path: Path) -> None:
    problem = hybrid()
    (plan,) = (x for x in plans(problem) if x.workers == 2 and len(x.stages) == 1)
    each = stage_seconds(problem, plan)[0]
    control = Control(plan, tmp_path, Cores.of(plan, problem), problem, replan_of(problem))
    records = write(tmp_path, [[8 * each] * 8, [each] * 8], replicas=2)
    control(records)
    assert control.next is not None, control.notes
    other, cores = control.next.plan, control.next.cores
    assert other.workers == 1
    assert cores == Cores((1, 0), (1.0, 0.125))
    assert other.predicted["iteration_s"] == pytest.approx(problem.evaluate(other)["iteration_s"])
    report = make_report([(plan, records)], control.notes, [problem])
    pieces = report.pieces_to_frame()
    assert set(pieces["how"]) == {"predicted", "measured"}
    assert pieces.loc[pieces["how"] == "predicted", "end_s"].max() == pytest.approx(plan.predicted["iteration_s"])
    assert len(report.plot().axes) == 2
    rows = report.to_frame().set_index("quantity")
    assert rows.loc["iteration", "predicted"] == plan.predicted["iteration_s"]
    assert rows.loc["compute", "measured"] == pytest.approx(4.5 * each)
    assert "latest" not in rows.index, "the profile knows nothing of how much iterations vary"
    told = replace(plan, predicted={**plan.predicted, "latest_s": 1.1 * plan.predicted["iteration_s"]})
    rows = make_report([(told, records)], [], [problem]).to_frame().set_index("quantity")
    assert rows.loc["latest", "how"].startswith("0 of 5 iterations ended within"), "three of eight warm up"


def test_the_same_plan_with_cores_swapped_is_no_other_plan(tmp_path: Path) -> None:
    """Two copies, one on a slower core: which is which changes nothing, however much longer both take than predicted."""
    problem = hybrid()
    (plan,) = (x for x in plans(problem) if x.workers == 2 and len(x.stages) == 1)
    each = stage_seconds(problem, plan)[0]

    def replan(speeds: tuple[float, ...]) -> TrainingPlan:
        return TrainingPlan.from_dict(plan.to_dict() | {"predicted": problem.with_speeds(speeds).evaluate(plan)})

    control = Control(plan, tmp_path, Cores.of(plan, problem), problem, replan)
    control(write(tmp_path, [[1000 * 1.5 * each] * 8, [1000 * each] * 8], replicas=2))
    assert control.next is None
    (note,) = control.notes
    assert "not changed" in note


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"iteration_s": 3.9}, "is predicted at 3.9 s an iteration, this one at 4 s: not changed"),
        ({}, "does not say how long"),
        ("other batch", "another batch or model"),
        ("none", "no other plan was found: nothing fits"),
        ({"iteration_s": 2.0}, "planned anew, 2 s an iteration predicted instead of 4 s on such cores"),
    ],
)
def test_another_plan_is_taken_when_it_gains(tmp_path: Path, answer: Any, text: str) -> None:
    plan = plan_of(net(), replicas=2)

    def replan(speeds: tuple[float, ...]) -> TrainingPlan:
        if answer == "none":
            raise DataError("nothing fits")
        change = {"batch": 16} if answer == "other batch" else {"predicted": answer}
        return TrainingPlan.from_dict(plan.to_dict() | change)

    control = Control(plan, tmp_path, Cores.of(plan, None), None, replan)
    records = write(tmp_path, [[1.0] * 8, [2.0] * 8])
    control(records)
    control(records)
    assert len(control.notes) == 1
    assert text in control.notes[0]
    assert (tmp_path / ASK).exists() == (control.next is not None) == ("planned anew" in text)


@pytest.mark.parametrize(("total", "taken"), [(None, True), (11, False), (12, False), (13, True)])
def test_another_plan_saves_more_than_starting_its_workers_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int | None, taken: bool
) -> None:
    """Iterations take 4 s and would take 2 s, workers took 8 s to start, and 8 steps are done."""
    plan, now = plan_of(net(), replicas=2), [100.0]
    monkeypatch.setattr("splitplan.executor.training_control.time.monotonic", lambda: now[0])

    def replan(speeds: tuple[float, ...]) -> TrainingPlan:
        return TrainingPlan.from_dict(plan.to_dict() | {"predicted": {"iteration_s": 2.0}})

    control = Control(plan, tmp_path, Cores.of(plan, None), None, replan, total)
    now[0] = 108.0
    records = write(tmp_path, [[1.0] * 8, [2.0] * 8])
    control(records)
    now[0] = 1000.0  # it is when the first lines were seen that counts
    assert (control.next is not None) == (tmp_path / ASK).exists() == taken
    (note,) = control.notes
    assert (
        "planned anew"
        if taken
        else f"2 s in each of the {(total or 0) - 8} iterations that were left, no more in all than the 8 s"
    ) in note


@pytest.mark.parametrize(
    ("after", "said", "back"),
    [
        (3.7, [], False),
        (3.9, ["took 4 s by the plan before: that change did not pay, this plan is kept"], False),
        (4.2, ["took 4 s by the plan before: that change did not pay, training goes back"], True),
    ],
)
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_change_that_saves_nothing_is_the_last_one(
    tmp_path: Path, after: float, said: list[str], back: bool, replicas: int
) -> None:
    """An iteration took 4 s by the plan before; now it takes so long, and another worker seems slow."""
    before, plan = plan_of(net(), stages=2), plan_of(net(), replicas=replicas)
    asked: list[tuple[float, ...]] = []

    def replan(speeds: tuple[float, ...]) -> TrainingPlan:
        asked.append(speeds)
        return TrainingPlan.from_dict(plan.to_dict() | {"predicted": {"iteration_s": 0.1}})

    cores = Cores.of(before, None)
    change = Change(plan, cores.slowed([2.0, 1.0], 1), before, cores, 4.0)
    records = write(tmp_path, [[1.0] * 8, [2.0] * 8][:replicas], replicas=replicas, iteration_s=after)
    control = Control(plan, tmp_path, change.cores, None, replan, 100, change)
    control(records)
    assert bool(said) == control.settled and len(asked) == (replicas > 1 and not said)
    assert [x for x in said if x not in control.notes[0]] == []
    assert (control.next is not None) == (tmp_path / ASK).exists() == (back or (replicas > 1 and not said))
    if back:
        assert control.next is not None and (control.next.plan, control.next.cores) == (before, cores)
        again = Control(before, tmp_path, cores, None, replan, 100, control.next, settled=True)
        again(write(tmp_path, [[1.0] * 8, [1.0] * 8]))
        again(write(tmp_path, [[1.0] * 16, [1.0] * 8 + [2.0] * 8]))
        assert again.next is None and not asked
        (note,) = again.notes
        assert note.endswith("no other plan was looked for, since the last change did not pay")


def test_a_profile_that_is_wrong_of_layers_does_not_have_plans_change_for_ever(tmp_path: Path) -> None:
    """All cores are alike, and half of the layers take twice as long as profiled: a slow core would stay, these move with their stage."""
    told = chain(12, 2, seed=1)
    times = told.profile.times
    dear = {x.name for x in told.profile.layers[:6]}
    longer = times.assign(
        **{k: times[k] * np.where(times["layer"].isin(dear), 2, 1) for k in ("forward_s", "backward_s")}
    )
    problem = replace(told, schedules=("gpipe", "1f1b"))
    truth = replace(problem, profile=replace(told.profile, times=longer))
    plan, cores, change, settled = problem.solve().plan, Cores.of(problem.solve().plan, problem), None, False
    took = []
    for run in range(10):
        stages = stage_seconds(truth, plan)
        took.append(truth.evaluate(plan)["iteration_s"])
        folder = tmp_path / str(run)
        folder.mkdir()
        control = Control(plan, folder, cores, problem, replan_of(problem), 10_000, change, settled)
        control(write(folder, [[s] * 8 for s in stages], iteration_s=took[-1]))
        if control.next is None:
            break
        change, settled = control.next, control.settled
        plan, cores = change.plan, change.cores
    assert 2 <= len(took) <= 4, took
    assert took[-1] <= took[0] * (1 + 1e-12), "what did not pay was taken back"


def test_what_is_slow_time_and_again_is_asked_about_once(tmp_path: Path) -> None:
    plan, asked = plan_of(net(), replicas=2), []

    def replan(speeds: tuple[float, ...]) -> TrainingPlan:
        asked.append(speeds)
        raise DataError("nothing fits")

    control = Control(plan, tmp_path, Cores.of(plan, None), None, replan)
    for step, factor in ((8, 2.0), (14, 1.0), (20, 2.2), (26, 1.0), (32, 4.0)):
        control(write(tmp_path, [[1.0] * step, [factor] * step]))
    assert len(asked) == 2, "when it was slow, and when it was much slower"
    (note,) = control.notes
    assert note.startswith("after step 8 worker 1 computed up to 4.00 times as long") and "(and 2 times more" in note


def test_lines_of_other_runs_and_broken_ones_are_passed_over(tmp_path: Path) -> None:
    records = write(tmp_path, [[1.0] * 3], run="another")
    assert records.whole() == []
    with worker_file(tmp_path, 0).open("a", encoding="utf-8") as file:
        file.write(
            '{"step": 4, "lo\n\n{"run": "r", "pid": 1, "from_step": 3, "cores": [0, 1], "restarts": 0}\n{"step": 4'
        )
    assert records.read() == 1
    assert records.starts[0][0]["cores"] == [0, 1]


def test_the_live_table_says_what_each_worker_does(tmp_path: Path) -> None:
    from rich.console import Console

    plan = plan_of(net(), stages=2, micro=2)
    records = Records(tmp_path, 2, 1, "r")
    assert headline(records, 10) == ("starting workers", 0.0)
    records = write(tmp_path, [[1.0] * 4, [2.0] * 3])
    assert headline(records, 10) == ("step 3 of 10, loss 1, 4 s an iteration", 0.3)

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(Task(plan, "r"), records, 10))
    lines = console.export_text().splitlines()
    assert lines[2].split()[:2] == ["0", "0"]
    assert "333.3 ms" in lines[2]
    assert "50%" in lines[3]


def test_a_folder_that_cannot_be_locked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(DataError, match=r"cannot be locked \(No locks available\), .* give a folder on a disk of this machine"), held(tmp_path):  # fmt: skip
        pytest.fail("it was taken all the same")


def test_a_slow_worker_that_becomes_slower_is_asked_about_again(tmp_path: Path) -> None:
    problem = hybrid()
    (plan,) = (x for x in plans(problem) if len(x.stages) == 1 and x.workers == 2)
    planned = stage_seconds(problem, plan)[0]
    asked: list[float] = []

    def replan(speeds: tuple[float, ...]) -> TrainingPlan:
        asked.append(round(speeds[-1], 2))
        return replan_of(problem)(speeds)

    control = Control(plan, tmp_path, Cores.of(plan, problem), problem, replan)
    factors = [1.0] * 8 + [1.4] * 6 + [6.0] * 30
    for n in range(6, len(factors)):
        control(write(tmp_path, [[planned] * n, [planned * x for x in factors[:n]]], replicas=2))
        if control.next is not None:
            break
    assert asked == [round(1 / 1.4, 2), round(1 / 6, 2)]
    assert control.next is not None and control.next.plan.strategy == "one core"
    assert "up to 6.00 times as long" in control.notes[0] and "(and 1 time more after that)" in control.notes[0]


def test_steps_that_were_lost_with_their_workers_are_none(tmp_path: Path) -> None:
    """Workers are lost at step 20 and begin again after step 5; one is slow from then on."""
    problem = hybrid()
    (plan,) = (x for x in plans(problem) if len(x.stages) == 1 and x.workers == 2)
    planned = stage_seconds(problem, plan)[0]
    control = Control(plan, tmp_path, Cores.of(plan, problem), problem, replan_of(problem))
    records = write(tmp_path, [[planned] * 20] * 2, replicas=2)
    control(records)
    for k in range(2):
        lines = worker_file(tmp_path, k).read_text(encoding="utf-8").splitlines()
        again = json.dumps(json.loads(lines[0]) | {"from_step": 5, "restarts": 1})
        slowed = [json.loads(x) for x in lines[6:16]]
        for line in slowed if k else ():
            line["forward_s"] *= 6
            line["backward_s"] *= 6
        with worker_file(tmp_path, k).open("a", encoding="utf-8") as file:
            file.write("\n" + "".join(x + "\n" for x in [again, *map(json.dumps, slowed[:2])]))
        if k == 1:
            records.read()
            assert records.whole() == [1, 2, 3, 4, 5, 6, 7]
            assert headline(records, 100)[0].startswith("step 7 of 100") and headline(records, 100)[0].endswith(
                "started again 1 time"
            )
    for k in range(2):
        with worker_file(tmp_path, k).open("a", encoding="utf-8") as file:
            for step in range(8, 16):
                times = {
                    x: planned * part * (6 if k else 1) for x, part in (("forward_s", 1 / 3), ("backward_s", 2 / 3))
                }
                start = {"start": 10.0 * step, "end": 10.0 * step + 4, "events": []}
                file.write(json.dumps({"step": step, "epoch": 0, "loss": 1.0, "sync_s": 0.0, "update_s": 0.01, "agree_s": 0.0} | times | start) + "\n")  # fmt: skip
    records.read()
    control(records)
    assert "after step 15 worker 1 computed 6.00 times as long" in control.notes[0]
    assert control.next is not None


def test_iterations_far_longer_than_predicted_are_told(tmp_path: Path) -> None:
    plan = plan_of(net())
    for predicted, told in ((4.0, False), (2.7, False), (2.5, True)):
        records = write(tmp_path, [[1.0] * 8])  # iterations of 4 s
        made = make_report([(replace(plan, predicted={"iteration_s": predicted}), records)], ())
        assert (
            any(x.startswith(f"iterations took {4 / predicted:.3g} times as long as predicted") for x in made.notes)
            == told
        )


def test_a_loader_that_died_is_not_the_loss_s_failure() -> None:
    """Torch raises that wherever a process is when a loader's own process has died."""

    def dies() -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    with pytest.raises(RuntimeError, match="DataLoader worker") as found:
        theirs("loss_fn", dies)
    assert not isinstance(found.value, TrainingError)
    with pytest.raises(TrainingError, match="loss_fn failed at step 3: ZeroDivisionError") as wrong:
        theirs("loss_fn", lambda: 1 / 0, when=" at step 3")
    assert "in theirs" not in wrong.value.__notes__[0] and "in <lambda>" in wrong.value.__notes__[0]


def test_a_failure_says_which_checkpoint_is_there(tmp_path: Path) -> None:
    refuse(tmp_path, 0, TrainingError("loss_fn failed at step 3"), "its traceback")
    error = refused(tmp_path)
    assert error is not None and with_checkpoint(error, tmp_path) is error, "nothing was written yet"
    (tmp_path / "step-000002").mkdir()
    (tmp_path / "step-000002" / "training.json").touch()
    told = with_checkpoint(error, tmp_path)
    assert str(told).startswith("loss_fn failed at step 3. The last checkpoint is ") and "step-000002; resume=" in str(
        told
    )
    assert "its traceback" in told.__notes__[0]
    data = DataError("no mean", "loss_fn")
    assert with_checkpoint(data, tmp_path) is data
