"""Two processes of one thread each that share the rows of a model: started by ``benchmarks.rows``, they compute and time it.

``python -m benchmarks.row_runs TASK`` is the first place; it starts ``… TASK helper``, the second. Whole tensors lie in files
under a folder of shared memory, mapped by both, and flags beside them say who has got how far; over a local socket, rows are
sent and received as bytes. Run in a worker's environment, so that allocator and threads are those of workers.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splitplan.executor.environment import worker_environment
from splitplan.models.partition import Part, make_part, run_parts
from splitplan.models.row_maps import ROW_DIM
from splitplan.models.row_parts import RowPart, make_row_parts
from splitplan.models.rows import RowModel
from splitplan.models.traced import Traced, load_traced

IDLE, STOP = 0, -1


@dataclass(frozen=True)
class Task:
    """What the two processes do.

    Parameters
    ----------
    folder : str
        Of shared memory.
    model : str
        A ``.pt2`` file.
    blocks : list of (int, int, list of int)
        Layers start:stop, and rows of both places; rows on the first alone are the first alone.
    rounds : int
        In each, the blocks are run alone, split, and split with transfers.
    """

    folder: str
    model: str
    blocks: list[tuple[int, int, list[int]]]
    rounds: int

    @property
    def start(self) -> int:
        """The first layer."""
        return self.blocks[0][0]

    @property
    def stop(self) -> int:
        """The layer behind the last."""
        return self.blocks[-1][1]


class Shared:
    """Flags and tensors in files that both processes map."""

    def __init__(self, folder: Path, traced: Traced, task: Task) -> None:
        model = RowModel(traced.graph)
        flags = folder / "flags"
        if not flags.exists():
            np.zeros(64, np.int64).tofile(flags)
        self.flags = np.memmap(flags, np.int64, "r+")
        names = {t.name: t for a, b, _ in task.blocks for t in (*model.enters(a, b), *model.leaves(a, b))}
        self.tensors = {
            name: torch.from_file(
                str(folder / f"t_{name}"), shared=True, size=int(np.prod(t.shape)), dtype=getattr(torch, t.dtype)
            ).reshape(t.shape)
            for name, t in names.items()
        }

    def wait(self, flag: int, value: int) -> None:
        """Spin until a flag has come to a value: both places have a core of their own."""
        flags = self.flags
        while flags[flag] < value:
            pass


GO, DONE = 0, 8  # far apart: each on a cache line of its own


def parts_of(traced: Traced, task: Task, place: int) -> list[RowPart | Part | None]:
    """What one place runs of each block."""
    names = [layer.name for layer in traced.graph.layers]
    found: list[RowPart | Part | None] = []
    for start, stop, rows in task.blocks:
        if not any(rows[1:]):
            found.append(interval(traced, start, stop) if place == 0 else None)
        else:
            found.append(make_row_parts(traced, names[start:stop], rows, ["a", "b"])[place])
    return found


def interval(traced: Traced, start: int, stop: int) -> Part:
    """Layers start:stop in one part."""
    return make_part(traced, [layer.name for layer in traced.graph.layers[start:stop]], "here")


def cut(part: RowPart | Part, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a part takes, from whole tensors."""
    return part.cut(values) if isinstance(part, RowPart) else {s.name: values[s.name] for s in part.inputs}


def put(part: RowPart | Part, made: dict[str, torch.Tensor], into: dict[str, torch.Tensor]) -> None:
    """Write what a part made into whole tensors."""
    for name, value in made.items():
        whole = into[name]
        if isinstance(part, RowPart) and whole.dim() > ROW_DIM + 1:
            first, last = part.gives[name]
            whole = whole.narrow(ROW_DIM, first, last - first + 1)
        whole.copy_(value)


# -- the second place -----------------------------------------------------------------------------------


def helper(task: Task) -> None:
    """Serve frames: flag GO counts the blocks that may begin, DONE those that are done; the kind of frame stands beside."""
    traced, folder = load_traced(task.model), Path(task.folder)
    shared, parts = Shared(folder, traced, task), parts_of(traced, task, 1)
    symbols = traced.symbols(traced.example_inputs()) if traced.exported.symbols else {}
    given = [cut(p, shared.tensors) if p is not None else {} for p in parts]
    before = [interval(traced, 0, task.start)] if task.start else []
    known, alone = run_parts(before, traced.example_inputs(), symbols), interval(traced, task.start, task.stop)
    wire = socket.socket(socket.AF_UNIX)
    wire.connect(str(folder / "wire"))
    shared.flags[DONE] = 1
    while True:
        kind = wire.recv(1)  # sleeps until the next frame
        if kind in (b"", b"q"):
            return
        if kind == b"w":  # the same layers as the first place, at the same time
            wire.sendall(b"r")
            alone(known, symbols)
            alone(known, symbols)  # longer than the first place takes, so that it is never without company
            wire.sendall(b"d")
            continue
        base = int(shared.flags[GO])
        wire.sendall(b"r")
        for k, part in enumerate(parts):
            if part is None:
                continue
            if kind == b"s":
                values = {s.name: receive(wire, s.concrete(symbols), s.torch_dtype) for s in part.inputs}
                send(wire, part(values, symbols), [s.name for s in part.outputs])
                continue
            shared.wait(GO, base + k + 1)
            if kind == b"c":
                part(given[k], symbols)
            else:
                put(part, part(cut(part, shared.tensors), symbols), shared.tensors)
            shared.flags[DONE] = base + k + 1


def send(wire: socket.socket, values: dict[str, torch.Tensor], names: list[str]) -> None:
    """Tensors as bytes, in order."""
    for name in names:
        wire.sendall(memoryview(values[name].numpy()).cast("B"))  # type: ignore[arg-type]


def receive(wire: socket.socket, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """One tensor."""
    value = torch.empty(shape, dtype=dtype)
    view = memoryview(value.numpy()).cast("B")  # type: ignore[arg-type]
    got = 0
    while got < len(view):
        n = wire.recv_into(view[got:])
        if n == 0:
            raise ConnectionError("the other place has ended")
        got += n
    return value


# -- the first place ------------------------------------------------------------------------------------


class First:
    """The first place, with everything that it runs."""

    def __init__(self, task: Task) -> None:
        self.task, self.traced = task, load_traced(task.model)
        self.symbols = self.traced.symbols(self.traced.example_inputs()) if self.traced.exported.symbols else {}
        before = [interval(self.traced, 0, task.start)] if task.start else []
        self.known = run_parts(before, self.traced.example_inputs(), self.symbols)
        self.alone = interval(self.traced, task.start, task.stop)
        self.parts = parts_of(self.traced, task, 0)
        folder = Path(task.folder)
        self.shared = Shared(folder, self.traced, task)
        known = dict(self.known)
        for start, stop, _ in task.blocks:  # whole tensors between all blocks, as an unsplit run makes them
            known.update(run_parts([interval(self.traced, start, stop)], known, self.symbols))
        for name, whole in self.shared.tensors.items():
            whole.copy_(known[name])
        self.expected = known
        self.given = [cut(p, known) if p is not None else {} for p in self.parts]
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(folder / "wire"))
        listening.listen()
        command = [sys.executable, "-m", "benchmarks.row_runs", json.dumps(asdict(task)), "helper"]
        self.process = subprocess.Popen(command, env=worker_environment(1))
        self.wire, _ = listening.accept()
        self.shared.wait(DONE, 1)
        self.shared.flags[GO] = 1
        self.others = parts_of(self.traced, task, 1)

    def run_alone(self) -> float:
        """The blocks' layers in one part, by this process."""
        start = time.perf_counter()
        self.alone(self.known, self.symbols)
        return time.perf_counter() - start

    def run_beside(self) -> float:
        """The same while the other process computes the same for itself: what they do to each other in one machine."""
        self.wire.sendall(b"w")
        assert self.wire.recv(1) == b"r"
        taken = self.run_alone()
        assert self.wire.recv(1) == b"d"
        return taken

    def _begin(self, kind: bytes) -> int:
        base = int(self.shared.flags[GO])
        self.wire.sendall(kind)
        assert self.wire.recv(1) == b"r"
        return base

    def _finish(self, base: int) -> None:
        self.shared.flags[DONE] = self.shared.flags[GO] = base + len(self.parts) + 1

    def run_split(self, *, transfers: bool) -> float:
        """The blocks by both; with transfers, rows are copied out of and into shared memory, else they are there already."""
        shared, base = self.shared, self._begin(b"t" if transfers else b"c")
        start = time.perf_counter()
        for k, part in enumerate(self.parts):
            if self.others[k] is not None:
                shared.flags[GO] = base + k + 1
            if part is not None:
                if transfers:
                    put(part, part(cut(part, shared.tensors), self.symbols), shared.tensors)
                else:
                    part(self.given[k], self.symbols)
            if self.others[k] is not None:
                shared.wait(DONE, base + k + 1)
        taken = time.perf_counter() - start
        self._finish(base)
        return taken

    def run_socket(self) -> float:
        """The blocks by both, rows sent and received as bytes over a local socket; a thread receives while this place computes."""
        values = dict(self.known)
        base = self._begin(b"s")
        start = time.perf_counter()
        for k, part in enumerate(self.parts):
            other, got = self.others[k], dict[str, torch.Tensor]()
            if other is not None:
                send(self.wire, other.cut(values), [s.name for s in other.inputs])  # type: ignore[union-attr]
                thread = threading.Thread(target=self._receive, args=(other, got))
                thread.start()
            whole: dict[str, torch.Tensor] = {}
            made = part(cut(part, values), self.symbols) if part is not None else {}
            if other is None:
                values.update(made)
                continue
            thread.join()
            for p, m in ((part, made), (other, got)):
                for name in m:
                    if name not in whole:
                        whole[name] = torch.empty_like(self.expected[name])
                if p is not None:
                    put(p, m, whole)
            values.update(whole)
        taken = time.perf_counter() - start
        self._finish(base)
        self.received = values
        return taken

    def _receive(self, other: Part, into: dict[str, torch.Tensor]) -> None:
        for s in other.outputs:
            into[s.name] = receive(self.wire, s.concrete(self.symbols), s.torch_dtype)

    def gap(self, values: dict[str, torch.Tensor]) -> float:
        """Greatest difference of the last block's outputs from the unsplit run's, relative to their scale."""
        start, stop, _ = self.task.blocks[-1]
        worst = 0.0
        for t in RowModel(self.traced.graph).leaves(start, stop):
            expected = self.expected[t.name]
            off = (values[t.name] - expected).abs().max() / expected.abs().max()
            worst = max(worst, float(off))
        return worst

    def close(self) -> None:
        """End the other process."""
        self.wire.sendall(b"q")
        self.process.wait(30)


def main(argv: list[str]) -> int:
    """The first place, or with ``helper`` the second; one JSON line with seconds of each round."""
    torch.set_num_threads(1)
    given: dict[str, Any] = json.loads(argv[0])
    with torch.inference_mode():
        task = Task(**given)
        if argv[1:] == ["helper"]:
            helper(task)
            return 0
        result = measured(First(task))
    print(json.dumps(result))
    return 0


def measured(first: First) -> dict[str, Any]:
    """Rounds in which each way of running takes its turn; the first ones warm up."""
    ways: dict[str, Callable[[], float]] = {
        "alone": first.run_alone,
        "beside": first.run_beside,
        "compute": lambda: first.run_split(transfers=False),
        "shared memory": lambda: first.run_split(transfers=True),
        "socket": first.run_socket,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(first.task.rounds + 2):
        for name, once in ways.items():
            taken = once()
            if turn > 1:
                seconds[name].append(taken)
    for start, stop, _ in first.task.blocks:
        for t in RowModel(first.traced.graph).leaves(start, stop):
            first.shared.tensors[t.name].fill_(float("nan"))  # a run that leaves rows out must be seen
    first.run_split(transfers=True)
    first.run_socket()
    gaps = {"shared memory": first.gap(first.shared.tensors), "socket": first.gap(first.received)}
    first.close()
    return {"seconds": seconds, "gap": gaps}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
