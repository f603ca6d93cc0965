"""The process that called `splitplan.train`: starts torchrun, reads what the workers write, shows it, and ends them when it must."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from splitplan.errors import SplitplanError, TrainingError, many
from splitplan.executor.environment import worker_environment
from splitplan.executor.training_job import LOG, Task, first_failure, read_done, refused, worker_file

Progress = Callable[[str, float], None]
"""Told what is going on and which part of training is done, 0 to 1 (0 where its length is not known)."""
Line = dict[str, Any]

FRESH_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Without it torchrun keeps one store for all restarts, and workers that are started again find addresses of those before them: they
cannot connect, or wait for ever (pytorch issue 135712; seen here at one restart in ten)."""
WARMING = 3
"""Iterations after a start that take longer than those to come: of AlexNet, 224 px, batch 128 on two cores 2.3 to 2.7 s, then 1.7 to 1.9 s."""
_POLL_S = 0.1
_STOP_S = 10.0


class Records:
    """What workers have written so far: lines of starts, steps and checkpoints.

    Parameters
    ----------
    folder : Path
    workers, replicas : int
        In all, and of the first stage.
    run : str
        Lines of other runs in the same folder are passed over.
    """

    def __init__(self, folder: Path, workers: int, replicas: int, run: str) -> None:
        self.replicas = replicas
        self.steps: list[dict[int, Line]] = [{} for _ in range(workers)]
        """By worker, the line of each step; of one that was done again after a restart, the last."""
        self.starts: list[list[Line]] = [[] for _ in range(workers)]
        self.saved: dict[int, float] = {}
        """Seconds that each checkpoint took."""
        self.ends: list[str] = []
        """How a worker ended, each time that one was lost, where the launcher said it."""
        self._all = False
        self._run, self._mine = run, [False] * workers
        self._files = [worker_file(folder, k) for k in range(workers)]
        self._at, self._rest = [0] * workers, [b""] * workers

    def read(self, of_all_runs: bool = False) -> int:
        """Take in what is new; how many lines that is."""
        self._all = of_all_runs
        return sum(self._take(k, line) for k in range(len(self._files)) for line in self._lines(k))

    def _lines(self, k: int) -> Iterator[bytes]:
        if not self._files[k].exists():
            return
        with self._files[k].open("rb") as file:
            file.seek(self._at[k])
            data = file.read()
        self._at[k] += len(data)
        *whole, self._rest[k] = (self._rest[k] + data).split(b"\n")
        yield from whole

    def _take(self, k: int, text: bytes) -> int:
        try:
            line: Line = json.loads(text)
        except ValueError:  # a worker was killed while it wrote
            return 0
        if "run" in line:
            self._mine[k] = self._all or line["run"] == self._run
        if not self._mine[k]:
            return 0
        if "run" in line:
            self.starts[k].append(line)
            for step in [x for x in self.steps[k] if x > line["from_step"]]:
                del self.steps[k][step]  # lost with the workers that made them
        elif "saved" in line:
            self.saved[line["saved"]] = max(line["checkpoint_s"], self.saved.get(line["saved"], 0.0))
        else:
            self.steps[k][line["step"]] = line
        return 1

    def whole(self) -> list[int]:
        """Steps that every worker has done, in order."""
        return sorted(set.intersection(*map(set, self.steps)))

    @property
    def near(self) -> list[int]:
        """Workers on the first one's host: the clocks of others cannot be compared with theirs."""
        hosts = [s[-1]["host"] if s else None for s in self.starts]
        return [k for k, host in enumerate(hosts) if host == hosts[0]]

    @property
    def restarts(self) -> int:
        """How often workers were started again."""
        return max(len(s) for s in self.starts) - 1 if any(self.starts) else 0


def command(task: Task, folder: Path, restarts: int) -> list[str]:
    """What starts the workers."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(task.plan.workers)]
    launcher += ["--max-restarts", str(restarts), "--monitor-interval", "0.1", "--shutdown-timeout", "5"]
    return [sys.executable, *launcher, "-m", "splitplan.executor.training_worker", str(folder)]


def watch(
    task: Task,
    folder: Path,
    *,
    restarts: int,
    total: int | None,
    progress: bool | Progress | None,
    on_news: Callable[[Records], None] | None = None,
) -> tuple[Records, bool]:
    """Run the job to its end; what was recorded, and whether it stopped because it was asked to.

    Parameters
    ----------
    task : Task
    folder : Path
    restarts : int
        How often torchrun may start the workers again.
    total : int or None
        Steps in all, where known.
    progress : bool, callable or None
    on_news : callable, optional
        Told of the records when there is something new.

    Raises
    ------
    TrainingError
        Workers ended otherwise than they should.
    SplitplanError
        What a worker refused with.
    """
    records = Records(folder, task.plan.workers, task.plan.stages[0].replicas, task.run)
    with (folder / LOG).open("ab") as log:
        before = log.tell()
        process = subprocess.Popen(
            command(task, folder, restarts),
            stdin=subprocess.PIPE,  # never written to: the workers end when it does
            stdout=log,
            stderr=log,
            env=worker_environment(task.plan.threads) | FRESH_STORE,
            start_new_session=True,  # the terminal's Ctrl-C is ours alone
        )
    try:
        with show(task, total, progress) as tell:
            while process.poll() is None:
                if records.read():
                    tell(records)
                    if on_news is not None:
                        on_news(records)
                time.sleep(_POLL_S)
            if records.read():
                tell(records)
    except KeyboardInterrupt as e:
        from splitplan.executor.training_state import last_one

        e.add_note(f"Training was interrupted, and its workers end. {last_one(folder)}.")
        raise
    finally:
        stop(process)
    records.ends = _ends(folder, before)
    if (error := refused(folder)) is not None:
        raise with_checkpoint(error, folder)
    done = read_done(folder)
    if process.returncode or done is None:
        from splitplan.executor.training_state import last_one

        killed = [x for x in records.ends[-1:] if not x.endswith("code 1")]  # 1: an exception, which is told below
        raise TrainingError(
            f"{''.join(f'{x}; ' for x in killed)}the workers ended with code {process.returncode}{_after(restarts)}. {last_one(folder)}. "
            f"They said:\n{_last_words(folder)}"
        )
    return records, bool(done["asked"])


def _ends(folder: Path, before: int) -> list[str]:
    """How a worker ended each time that some were lost, as the launcher wrote it after so much of its log.

    It is the one whose end it dated first; one that ended for the loss of another within its poll of 0.1 s may be named for that one.
    """
    with (folder / LOG).open("rb") as log:
        log.seek(before)
        found = re.findall(rb"failed \(exitcode: (-?\d+)\) local_rank: (\d+)", log.read())
    return [f"worker {int(rank)} {_how(int(code))}" for code, rank in found]


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was ended by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")


def with_checkpoint(error: SplitplanError, folder: Path) -> SplitplanError:
    """What a worker refused with; of a training that had begun, with what it left."""
    from splitplan.executor.training_state import checkpoints, last_one

    if not isinstance(error, TrainingError) or "checkpoint" in str(error) or not checkpoints(folder):
        return error
    more = TrainingError(f"{error}. {last_one(folder)}")
    for note in getattr(error, "__notes__", ()):
        more.add_note(note)
    return more


def _after(restarts: int) -> str:
    return f" after {restarts} restart{'s' * (restarts > 1)}" if restarts else ""


def stop(process: subprocess.Popen[bytes]) -> None:
    """See that the launcher and its workers end: workers do when their standard input does."""
    assert process.stdin is not None
    process.stdin.close()
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_words(folder: Path) -> str:
    if trace := first_failure(folder):
        return trace.strip()
    return (folder / LOG).read_text(encoding="utf-8", errors="replace")[-3000:].strip() or "(nothing)"


# -- showing it --------------------------------------------------------------------------------------


@contextmanager
def show(task: Task, total: int | None, progress: bool | Progress | None) -> Iterator[Callable[[Records], None]]:
    """What to tell of news: the user's callable, a live table, or nobody."""
    if callable(progress):
        yield lambda records: progress(*headline(records, total))
        return
    if not (sys.stderr.isatty() if progress is None else progress):
        yield lambda records: None
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), transient=True, refresh_per_second=4) as live:
        yield lambda records: live.update(table(task, records, total))


def headline(records: Records, total: int | None) -> tuple[str, float]:
    """A line, and the part that is done."""
    if not (steps := records.whole()):
        return "starting workers", 0.0
    last = steps[-1]
    of = f" of {total}" if total else ""
    text = f"step {last}{of}, loss {records.steps[0][last]['loss']:.4g}, {typical_s(records):.3g} s an iteration"
    if records.restarts:
        text += f", started again {many(records.restarts, 'time')}"
    return text, min(last / total, 1.0) if total else 0.0


def iteration_s(records: Records, step: int) -> float:
    """From when the first stage began a step to when the last worker had ended it.

    Other stages wait for the first one: one that is ready for the next step earlier has not begun it.
    """
    return float(max(records.steps[k][step]["end"] for k in records.near) - begun_s(records, step))


def begun_s(records: Records, step: int) -> float:
    """When the first stage began a step."""
    return float(min(records.steps[k][step]["start"] for k in records.near if k < records.replicas))


def typical_s(records: Records, most: int = 20) -> float:
    """Median of the last iterations."""
    return median(iteration_s(records, k) for k in records.whole()[-most:])


def busy_s(line: Line) -> float:
    """For how long a worker computed in a step, without waiting for others."""
    return float(line["forward_s"] + line["backward_s"] + line["update_s"])


def table(task: Task, records: Records, total: int | None) -> Any:
    """What each worker does, for a terminal."""
    from rich.table import Table

    made = Table(title=headline(records, total)[0], title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in ("worker", "cores", "layers"):
        made.add_column(name)
    for name in ("step", "forward", "backward", "sync", "update", "busy"):
        made.add_column(name, justify="right")
    replicas = task.plan.stages[0].replicas
    for k, steps in enumerate(records.steps):
        stage = task.plan.stages[k // replicas]
        start = records.starts[k][-1] if records.starts[k] else None
        cores = ",".join(map(str, start["cores"])) if start else ""
        layers = stage.layers[0] if len(stage.layers) == 1 else f"{stage.layers[0]} … {stage.layers[-1]}"
        if not steps:
            made.add_row(str(k), cores, layers, "starting")
            continue
        line = steps[max(steps)]
        share = busy_s(line) / max(line["end"] - line["start"], 1e-9)
        times = [f"{1e3 * line[x]:.1f} ms" for x in ("forward_s", "backward_s", "sync_s", "update_s")]
        made.add_row(str(k), cores, layers, str(line["step"]), *times, f"{share:.0%}")
    return made
