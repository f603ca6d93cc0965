"""Batches for workers: the same in each of them, epoch after epoch, and the part of each that a worker takes."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from splitplan.errors import DataError, TrainingError


def check_data(data: object) -> list[str]:
    """Why something cannot be trained on: it would be used up after an epoch, or is nothing to iterate over."""
    if isinstance(data, Iterator):
        return [
            f"data is a {type(data).__name__}, which is used up after one pass; give a list, a DataLoader, or a function from an epoch's number to its batches"
        ]
    if not callable(data) and not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        return [f"data is a {type(data).__name__}; give batches (x, y): a list, a DataLoader or a function"]
    if getattr(data, "persistent_workers", False):
        return [_PERSISTENT]
    return []


_PERSISTENT = (
    "data is a loader with persistent_workers=True, whose processes go on drawing random numbers from epoch to epoch, so that a resumed "
    "training would see other batches; give persistent_workers=False"
)


def _generators(loader: Any) -> list[torch.Generator]:
    """Those that a DataLoader carries, itself and in its samplers."""
    sampler = getattr(loader, "batch_sampler", None)
    holders = (loader, getattr(loader, "sampler", None), sampler, getattr(sampler, "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return [g for g in found if isinstance(g, torch.Generator)]


class _Draws:
    """A state of torch's, Python's and NumPy's random numbers that only the data loader draws from."""

    def __init__(self, seed: int) -> None:
        outside = self._now()
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  # loaders of users draw from it
        self._inside = self._now()
        self._set(outside)

    @staticmethod
    def _now() -> tuple[Any, Any, Any]:
        return torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002

    @staticmethod
    def _set(state: tuple[Any, Any, Any]) -> None:
        torch.set_rng_state(state[0])
        random.setstate(state[1])
        np.random.set_state(state[2])  # noqa: NPY002

    def __enter__(self) -> None:
        self._outside = self._now()
        self._set(self._inside)

    def __exit__(self, *_: object) -> None:
        self._inside = self._now()
        self._set(self._outside)


@dataclass(frozen=True)
class Batch:
    """One batch, and where it stands.

    Parameters
    ----------
    epoch, position : int
        From 0.
    x, y
        Tensors, or tuples, lists and dicts of them, with the batch in dimension 0.
    """

    epoch: int
    position: int
    x: Any
    y: Any

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return tensors(self.x)[0].device

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        x, y = pytree.tree_map_only(torch.Tensor, lambda t: t.to(device), (self.x, self.y))
        return Batch(self.epoch, self.position, x, y)


class Batches:
    """The batches of one epoch after another.

    Before each epoch the random numbers that the loader draws (torch's, Python's, NumPy's, and of generators that a DataLoader carries)
    begin at ``seed + epoch``, and nothing else draws from them: so all workers see the same batches, and a resumed run those that it
    would have seen. What a function makes for an epoch carries what the function has given it.

    Parameters
    ----------
    data : iterable, or callable from an epoch's number to one
    batch : int
        Samples that each batch must have.
    seed : int
    """

    def __init__(self, data: Any, batch: int, seed: int) -> None:
        self._data, self._batch, self._seed = data, batch, seed
        self._begun: tuple[int, Batch, Iterator[Batch]] | None = None

    def first(self, number: int) -> Batch:
        """The first batch of an epoch; going through that epoch next goes on from there, so that no loader is begun twice."""
        batches = self._through(number)
        first = next(batches)
        self._begun = number, first, batches
        return first

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """Batches of an epoch, without the first few.

        Raises
        ------
        TrainingError
            The loader failed.
        DataError
            A batch of another size, or an epoch without any.
        """
        begun, self._begun = self._begun, None
        if begun is not None and begun[0] == number:
            yield from islice(chain((begun[1],), begun[2]), skip, None)
        else:
            yield from islice(self._through(number), skip, None)

    def _through(self, number: int) -> Iterator[Batch]:
        draws = _Draws(self._seed + number)
        position, items = 0, None
        while True:
            try:
                with draws:
                    if items is None:
                        items = self._begin(number)
                    item = next(items)
            except StopIteration:
                break
            except DataError:
                raise
            except Exception as e:
                raise TrainingError(
                    f"the data loader failed at epoch {number}, batch {position}: {type(e).__name__}: {e}"
                ) from e
            yield self._checked(number, position, item)
            position += 1
        if position == 0:
            raise DataError("gives no batches", f"data, epoch {number}")

    def _begin(self, number: int) -> Iterator[Any]:
        if not callable(self._data):
            for generator in _generators(self._data):
                generator.manual_seed(self._seed + number)
            return iter(self._data)
        made = self._data(number)
        if getattr(made, "persistent_workers", False):
            raise DataError(_PERSISTENT, f"data, epoch {number}")
        return iter(made)

    def _checked(self, epoch: int, position: int, item: Any) -> Batch:
        where = f"data, epoch {epoch}, batch {position}"
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(f"is a {type(item).__name__}; give pairs (x, y) of inputs and targets", where)
        problems = []
        for name, value in zip("xy", item, strict=True):
            sizes = {int(t.shape[0]) if t.ndim else 0 for t in tensors(value)}
            if not sizes:
                problems.append(f"{name} holds no tensor")
            elif sizes != {self._batch}:
                found = ", ".join(map(str, sorted(sizes)))
                problems.append(f"{name} has {found} samples, the plan's batch has {self._batch}")
        if problems:
            problems[-1] += "; give batches of that size: DataLoader(…, drop_last=True) leaves out a smaller last one"
            raise DataError(problems, where)
        return Batch(epoch, position, *item)


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of a structure."""
    return [t for t in pytree.tree_leaves(value) if isinstance(t, torch.Tensor)]


def checksum(batch: Batch) -> int:
    """The same for the same batch, bit by bit."""
    found = 0
    for t in tensors((batch.x, batch.y)):
        found = zlib.crc32(t.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data, found)
    return found


@dataclass(frozen=True)
class Share:
    """What a worker takes of a batch: of each micro-batch its own samples, in order.

    Parameters
    ----------
    batch, micro_batches, replicas, replica : int
    """

    batch: int
    micro_batches: int
    replicas: int = 1
    replica: int = 0

    @property
    def samples(self) -> int:
        """Of each micro-batch."""
        return self.batch // (self.micro_batches * self.replicas)

    def first(self, micro: int) -> int:
        """Position in the batch of the first of its samples."""
        return micro * (self.batch // self.micro_batches) + self.replica * self.samples

    def of(self, value: Any, micro: int) -> Any:
        """Its samples of a micro-batch, of a structure of tensors."""
        first = self.first(micro)
        return pytree.tree_map_only(torch.Tensor, lambda t: t[first : first + self.samples], value)

    def whole(self, value: torch.Tensor) -> torch.Tensor:
        """Its samples of all micro-batches, one after another."""
        if self.replicas == 1:
            return value
        return torch.cat([self.of(value, j) for j in range(self.micro_batches)])
