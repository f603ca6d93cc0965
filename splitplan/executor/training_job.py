"""A training job in a folder: what its workers are to do, what they say of it, and how they stop. Knows no torch.

Settings are plain JSON. The model, the data and the user's functions are pickled (cloudpickle, so that those of a notebook can be
given too): a worker unpickles what the process that started it has written into a folder that is nobody else's, and never what comes
from a peer.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from splitplan.data.training_plan import TrainingPlan
from splitplan.errors import DataError, FingerprintError, SplitplanError, TraceError, TrainingError
from splitplan.models.files import read_json, write_whole

TASK, THINGS, DONE, ASK, LOG = "task.json", "things.pkl", "done.json", "checkpoint-please", "workers.log"


@dataclass(frozen=True)
class Task:
    """How to train: plain data.

    Parameters
    ----------
    plan : TrainingPlan
    run : str
        Name of this run; a folder can hold several, one after another.
    epochs, steps : int or None
        After which of these it is done; at least one is given. Both count from the very beginning, a resumed run's too.
    checkpoint_every, keep : int
        Iterations between two checkpoints, and how many of them are kept.
    seed : int
    resume : str or None
        Checkpoint to begin from as long as the folder has none of its own.
    pin : bool
        Whether each worker is bound to its cores.
    device : {"cpu", "cuda"}
        Where workers compute; each has a GPU of its own.
    order : tuple of int
        In which workers take the cores that there are, by position; empty: one after another.
    paths : tuple of str
        Where Python looks for modules.
    """

    plan: TrainingPlan
    run: str
    epochs: int | None = 1
    steps: int | None = None
    checkpoint_every: int = 50
    keep: int = 2
    seed: int = 0
    resume: str | None = None
    pin: bool = True
    device: str = "cpu"
    order: tuple[int, ...] = ()
    paths: tuple[str, ...] = ()

    def save(self, folder: Path) -> None:
        """Write it into a job's folder."""
        write_whole(folder / TASK, json.dumps(asdict(self) | {"plan": self.plan.to_dict()}, indent=1))

    @classmethod
    def read(cls, folder: Path) -> Task:
        """Read what `save` wrote."""
        body = read_json(folder / TASK)
        plan = TrainingPlan.from_dict(body.pop("plan"), str(folder / TASK))
        return cls(plan, **body | {k: tuple(body[k]) for k in ("order", "paths")})


@dataclass(frozen=True)
class Things:
    """What only pickle can carry.

    Parameters
    ----------
    model : torch.nn.Module or Traced
    data : iterable, or callable from an epoch's number to one
    optimizer : callable
    loss_fn : callable
    scheduler : callable or None
    """

    model: Any
    data: Any
    optimizer: Callable[..., Any]
    loss_fn: Callable[..., Any]
    scheduler: Callable[..., Any] | None = None

    def save(self, folder: Path) -> None:
        """Write them into a job's folder.

        Raises
        ------
        DataError
            One cannot be pickled; says which.
        """
        import cloudpickle

        with (folder / THINGS).open("wb") as file:
            pickle.dump("torchvision" in sys.modules, file)
            try:
                cloudpickle.dump(vars(self), file)
            except (TypeError, AttributeError, pickle.PicklingError, RuntimeError) as e:
                raise DataError(
                    f"cannot be handed to worker processes: {e}. Give objects that can be pickled (open files, locks and generators cannot)",
                    f"train: {self._culprit()}",
                ) from e

    def _culprit(self) -> str:
        import cloudpickle

        for name, value in vars(self).items():
            try:
                cloudpickle.dumps(value)
            except (TypeError, AttributeError, pickle.PicklingError, RuntimeError):
                return name
        return ", ".join(vars(self))

    @classmethod
    def read(cls, folder: Path) -> Things:
        """Read what `save` wrote: a file of our own parent's, trusted like its code."""
        with (folder / THINGS).open("rb") as file:
            if pickle.load(file):
                from splitplan.models.zoo import _declare_torchvision_operators

                _declare_torchvision_operators()  # a model of torchvision's is unpickled by importing it
            return cls(**pickle.load(file))


def worker_file(folder: Path, rank: int) -> Path:
    """Where a worker writes a line of JSON for each start and each step."""
    return folder / f"worker-{rank}.jsonl"


# -- why workers stopped -----------------------------------------------------------------------------


def refuse(folder: Path, rank: int, error: SplitplanError, trace: str) -> None:
    """Write why it is of no use to start this worker again."""
    problems = list(error.problems) if isinstance(error, DataError) else [str(error)]
    where = error.where if isinstance(error, DataError) else None
    body = {"type": type(error).__name__, "problems": problems, "where": where, "traceback": trace}
    write_whole(folder / f"refused-{rank}.json", json.dumps(body, indent=1))


def refused(folder: Path) -> SplitplanError | None:
    """The error for which workers stopped, that of the lowest rank; None when there was none."""
    files = sorted(folder.glob("refused-*.json"), key=lambda f: int(f.stem.split("-")[1]))
    if not files:
        return None
    body: Mapping[str, Any] = read_json(files[0])
    error: SplitplanError
    if body["type"] == DataError.__name__:
        error = DataError(body["problems"], body["where"])
    else:
        kinds = {kind.__name__: kind for kind in (TraceError, FingerprintError)}
        error = kinds.get(body["type"], TrainingError)(*body["problems"])
    if body["traceback"]:
        error.add_note(f"In worker {files[0].stem.split('-')[1]}:\n{body['traceback']}")
    return error


def failed(folder: Path, rank: int, step: int, error: Exception, trace: str) -> bool:
    """Write that a worker failed, for a reason that starting again may mend; whether it did in the same way at the same step before."""
    file = folder / f"failed-{rank}.json"
    before = read_json(file) if file.exists() else {}
    text = f"{type(error).__name__}: {error}"
    body = {"step": step, "text": text, "traceback": trace, "at": time.time()}
    write_whole(file, json.dumps(body, indent=1))
    # That another worker was lost is no failure of this one's.
    lost = any(x in text for x in ("Connection", "connection", "Gloo", "gloo", "NCCL"))
    return not lost and (before.get("step"), before.get("text")) == (step, text)


def first_failure(folder: Path) -> str:
    """The traceback of the worker that failed first, of those that failed last; empty when none has written one."""
    found = [(body["at"], f.stem, body["traceback"]) for f in folder.glob("failed-*.json") for body in [read_json(f)]]
    if not found:
        return ""
    _, name, trace = min(found)
    return f"worker {name.split('-')[1]}: {trace}"


def clear(folder: Path) -> None:
    """Forget how an earlier run ended."""
    for file in [folder / DONE, folder / ASK, *folder.glob("refused-*.json"), *folder.glob("failed-*.json")]:
        file.unlink(missing_ok=True)


def write_done(folder: Path, step: int, asked: bool) -> None:
    """Say that training is done, or has stopped at a checkpoint because it was asked to."""
    write_whole(folder / DONE, json.dumps({"step": step, "asked": asked}))


def read_done(folder: Path) -> dict[str, Any] | None:
    """What `write_done` wrote, or None."""
    return read_json(folder / DONE) if (folder / DONE).exists() else None


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder, made for its owner only when it is not there."""
    path = Path(folder).absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise DataError(f"cannot be made: {e.strerror}; give another folder", f"train: folder {str(path)!r}") from e
    return path


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Have a folder to oneself, as long as this process lives at the most.

    Raises
    ------
    DataError
        Another training of this machine has it.
    """
    where = f"train: folder {str(folder)!r}"
    try:
        file = os.open(folder / LOG, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as e:
        raise DataError(f"cannot be written to: {e.strerror}; give another folder", where) from e
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"another training is under way in it (fuser -v {folder / LOG} names its processes); wait for it, or give another folder",
                where,
            ) from None
        except OSError as e:
            raise DataError(
                f"cannot be locked ({e.strerror}), so that two trainings might write into it; give a folder on a disk of this machine",
                where,
            ) from e
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a process that was forked meanwhile has the file too
    finally:
        os.close(file)
