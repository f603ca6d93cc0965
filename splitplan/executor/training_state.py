"""Checkpoints in torch.distributed.checkpoint: weights and optimizer state by the model's own names, so that any plan loads what another saved.

A checkpoint is a folder ``step-000050``. It is written as ``step-000050.part`` and renamed when all workers have written theirs; so
one that has its name is whole. Loading unpickles: a folder with checkpoints is trusted like code.
"""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from splitplan.errors import DataError, TrainingError, listed, raise_all
from splitplan.executor.training_words import all_texts
from splitplan.models.files import read_json

FACTS, SCHEDULER = "training.json", "scheduler.pt"
_STATE, _SETTING = "optimizer.state.", "optimizer.param_groups."
_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


@dataclass(frozen=True)
class Facts:
    """Where training stood.

    Parameters
    ----------
    step : int
        Iterations done.
    epoch, position : int
        Of the next batch.
    seed, batch : int
    fingerprint : str
        Of the model.
    first : int, optional
        Checksum of the epoch's first batch, where it has begun.
    """

    step: int
    epoch: int
    position: int
    seed: int
    batch: int
    fingerprint: str
    first: int | None = None

    def check_first(self, checksum: int, where: str) -> None:
        """Raise unless the epoch begins with the batch with which it began before."""
        if self.first not in (None, checksum):
            raise DataError(
                f"epoch {self.epoch} began with another batch when this checkpoint was written: the loader does not give the same batches "
                "again, or the data were changed. Let it draw from torch's, Python's or NumPy's own random numbers, which are seeded before "
                "each epoch, or from the epoch's number, in a function from it to the batches; or begin anew in another folder",
                where,
            )

    def check(self, other: Facts, where: str) -> None:
        """Raise unless training can go on from here as ``other`` is set up."""
        problems = [
            "was written of another model (its fingerprint is another one)"
            if name == "fingerprint"
            else f"was written with {name} {getattr(self, name)!r}, and now it is {getattr(other, name)!r}"
            for name in ("seed", "batch", "fingerprint")
            if getattr(self, name) != getattr(other, name)
        ]
        if problems:
            problems[-1] += "; give the same, or another folder"
        raise_all(problems, where)


class State:
    """All that a worker must keep.

    Parameters
    ----------
    module : nn.Module
        Its stage.
    optimizers, schedulers : sequence
        Of its weights; none where it has none.
    replicas : ProcessGroup
        The workers of its stage.
    """

    def __init__(
        self, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], schedulers: Sequence[Any], replicas: dist.ProcessGroup
    ) -> None:  # fmt: skip
        self._module, self._optimizers, self._schedulers, self._replicas = (
            module,
            tuple(optimizers),
            tuple(schedulers),
            replicas,
        )
        mine = torch.tensor([dist.get_rank() if self._schedulers else dist.get_world_size()])
        dist.all_reduce(mine, op=dist.ReduceOp.MIN)
        self._writes_scheduler = int(mine) == dist.get_rank()

    def _all(self) -> dict[str, Any]:
        """All by name; weights whose state an optimizer has not begun have one that torch makes up, to be loaded into."""
        if not self._module.state_dict():
            return {}  # a stage without weights; torch takes that for a mistake
        found: dict[str, Any] = {f"model.{k}": v for k, v in get_model_state_dict(self._module).items()}
        if self._optimizers:
            state = get_optimizer_state_dict(self._module, list(self._optimizers), options=_FLAT)
            found |= {f"optimizer.{k}": v for k, v in state.items()}
        return found

    def _begun(self) -> dict[str, Any]:
        """All by name, without what torch makes up, in the optimizers too: theirs begins with a weight's first gradient."""
        begun = {name for _, group in self._groups() for name, p, o in group if p in o.state}
        found = self._all()
        made_up = [(name, p, o) for _, group in self._groups() for name, p, o in group if name not in begun]
        for name, p, o in made_up:
            o.state.pop(p, None)
            found = {k: v for k, v in found.items() if not k.startswith(f"{_STATE}{name}.")}
        return found

    def _groups(self) -> Iterator[tuple[dict[str, Any], list[tuple[str, torch.Tensor, torch.optim.Optimizer]]]]:
        """Each group of an optimizer's, with its weights' names."""
        names = {p: n for n, p in self._module.named_parameters()}
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                yield group, [(names[p], p, optimizer) for p in group["params"]]

    def save(self, folder: Path, facts: Facts, keep: int) -> Path:
        """Write a checkpoint, all workers together, and remove those that are older than the newest few.

        Raises
        ------
        TrainingError
            Weights that are no numbers, or a disk that is full: what was kept before stays.
        """
        target = folder / f"step-{facts.step:06d}"
        part = target.with_name(target.name + ".part")
        self._check_finite(folder, facts.step)
        for buffer in self._module.buffers():  # each replica has seen other samples
            dist.broadcast(buffer, group=self._replicas, group_src=0)
        if dist.get_rank() == 0 and part.exists():
            shutil.rmtree(part)
        dist.barrier()
        problem = ""
        try:
            save(self._begun(), checkpoint_id=part)
            if self._writes_scheduler:
                torch.save(self._schedulers[0].state_dict(), part / SCHEDULER)
            if dist.get_rank() == 0:
                (part / FACTS).write_text(json.dumps(asdict(facts)), encoding="utf-8")
        except CheckpointException as e:
            problem = "; ".join(f"worker {k}: {error}" for k, (error, _) in e.failures.items())
        except OSError as e:
            problem = f"worker {dist.get_rank()}: {e}"
        self._agree(part, problem, folder)
        if dist.get_rank() == 0:
            if target.exists():  # written before a restart that went back behind it
                shutil.rmtree(target)
            part.rename(target)
            for old in checkpoints(folder)[:-keep]:
                shutil.rmtree(old)
        dist.barrier()
        return target

    def _agree(self, part: Path, problem: str, folder: Path) -> None:
        told = all_texts(problem)
        if not (problems := [t for t in told if t]):
            return
        if dist.get_rank() == 0:
            shutil.rmtree(part, ignore_errors=True)
        raise TrainingError(f"the checkpoint {part} could not be written: {problems[0]}. {last_one(folder)}")

    def _check_finite(self, folder: Path, step: int) -> None:
        weights = [p.to_local() if isinstance(p, DTensor) else p for p in self._module.parameters()]
        good = torch.tensor([float(all(bool(torch.isfinite(w).all()) for w in weights))])
        dist.all_reduce(good, op=dist.ReduceOp.MIN)
        if not good:
            raise TrainingError(
                f"after step {step} weights are NaN or infinite, and were not saved. {last_one(folder)}"
            )

    def load(self, path: Path, now: Facts) -> Facts:
        """Go on from a checkpoint, whatever plan wrote it.

        Raises
        ------
        DataError
            It is of another model, seed or batch, or damaged.
        """
        facts = read_facts(path)
        facts.check(now, str(path))
        if self._schedulers and not (path / SCHEDULER).exists():
            raise DataError("was written without a learning rate scheduler; leave out scheduler=", str(path))
        state, has = self._all(), _names(path)
        without = self._without_state(has)
        settings = self._settings_of_others(state, has)
        asked = {k: v for k, v in state.items() if k not in settings and not k.startswith(without)}
        missing = sorted(asked.keys() - has)
        if missing:
            raise DataError(
                f"has no {listed(missing)}; it was written with another model or optimizer; give those, or another folder",
                str(path),
            )
        with _reading(path):
            load(asked, checkpoint_id=path, no_dist=True)
        state |= asked
        state |= {k: state[other] for k, other in settings.items()}
        of = _by_kind(state)
        if of["model"]:
            set_model_state_dict(self._module, of["model"])
        if self._optimizers:
            set_optimizer_state_dict(
                self._module, list(self._optimizers), optim_state_dict=of["optimizer"], options=_FLAT
            )
        for _, group in self._groups():
            for name, p, optimizer in group:
                if f"{_STATE}{name}.".startswith(without):
                    optimizer.state.pop(p, None)
        for scheduler in self._schedulers:
            with _reading(path):
                kept = torch.load(path / SCHEDULER, weights_only=False)
            scheduler.load_state_dict(kept)
        return facts

    def _without_state(self, has: Collection[str]) -> tuple[str, ...]:
        """Beginnings of names: of weights that had no gradient before the checkpoint, so that their state had not begun.

        A checkpoint that holds no state at all is another optimizer's.
        """
        if not any(k.startswith(_STATE) for k in has):
            return ()
        starts = [f"{_STATE}{name}." for _, group in self._groups() for name, _, _ in group]
        return tuple(start for start in starts if not any(k.startswith(start) for k in has))

    def _settings_of_others(self, state: Mapping[str, Any], has: Collection[str]) -> dict[str, str]:
        """Settings of weights that were not with the optimizer, each with that of another weight of its group to take instead."""
        found: dict[str, str] = {}
        for _, group in self._groups():
            starts = [f"{_SETTING}{name}." for name, _, _ in group]
            known = [start for start in starts if any(k.startswith(start) for k in has)]
            for start in starts:
                if start not in known:
                    mine = [k for k in state if k.startswith(start)]
                    found |= {k: (known[0] + k.removeprefix(start) if known else k) for k in mine}
        return found


def _by_kind(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {"model": {}, "optimizer": {}}
    for name, value in state.items():
        kind, key = name.split(".", 1)
        found[kind][key] = value
    return found


def _names(path: Path) -> set[str]:
    with _reading(path):
        return set(FileSystemReader(path).read_metadata().state_dict_metadata)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """A checkpoint's files: what is wrong with them is said of it, with what to do. Torch's warning that one process reads is left out: each reads its own part."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            yield
    except (CheckpointException, pickle.UnpicklingError, EOFError, OSError, RuntimeError, ValueError) as e:
        first = next((x[0] for x in e.failures.values()), e) if isinstance(e, CheckpointException) else e
        kept = [x.name for x in checkpoints(path.parent) if x.name != path.name]
        then = f"training goes on from {kept[-1]}" if kept else "training begins anew"
        raise DataError(
            f"cannot be read ({type(first).__name__}: {first}); is it damaged? When it is moved away {then}", str(path)
        ) from e


def read_facts(path: Path) -> Facts:
    """Where training stood at a checkpoint."""
    try:
        return Facts(**read_json(path / FACTS))
    except TypeError as e:
        raise DataError(f"{FACTS} is of another version: {e}", str(path)) from e


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a folder, oldest first."""
    found = [p for p in folder.glob("step-*") if p.suffix != ".part" and (p / FACTS).exists()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def last_one(folder: Path) -> str:
    """For a message: what is kept."""
    kept = checkpoints(folder)
    if not kept:
        return f"No checkpoint was written to {folder} yet"
    return f"The last checkpoint is {kept[-1]}; resume='auto' with this folder goes on from it"


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """Weights and buffers of a module, or of a trace, by name: the model's own, not copies."""
    return dict(model.state_dict() if isinstance(model, nn.Module) else model.program.state_dict)


def load_weights(model: Any, path: Path) -> None:
    """Write a checkpoint's weights into the model, in place; what was in no stage stays."""
    names = _names(path)
    state = {f"model.{k}": v.detach() for k, v in weights_of(model).items() if f"model.{k}" in names}
    if not state:
        raise DataError("has none of the model's weights", str(path))
    with _reading(path):
        load(state, checkpoint_id=path, no_dist=True)
