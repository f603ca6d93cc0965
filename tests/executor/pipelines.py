"""Pipelines to test with: plans by cuts, systems of any number of places, a model of several inputs and outputs, a line that can be cut."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from splitplan.data.catalog import device, link
from splitplan.data.pipeline_plan import PipelinePlan, Stage
from splitplan.data.system import System
from splitplan.executor.split import run_whole
from splitplan.models.trace import Traced


def pipeline(traced: Traced, cuts: Sequence[int], places: Sequence[str], **options: Any) -> PipelinePlan:
    """The plan that is cut before these layers, by number."""
    names = [layer.name for layer in traced.graph.layers]
    ends = [0, *cuts, len(names)]
    stages = tuple(Stage(tuple(names[i:j]), (p,)) for (i, j), p in zip(itertools.pairwise(ends), places, strict=True))
    return PipelinePlan(traced.graph.name, traced.graph.fingerprint, stages, **options)


def joined(places: Sequence[str], *, slowdown: dict[str, float] | None = None, **changes: Any) -> System:
    """These places here, each pair by a link of its own."""
    by = slowdown or {}
    devices = {p: device("this-cpu").but(slowdown=by.get(p, 1.0)) for p in places}
    one = link("loopback").but(**changes)
    return System(links=dict.fromkeys(itertools.combinations(places, 2), one), **devices)


def expected(traced: Traced, *args: Any) -> Any:
    """What the whole model makes of inputs."""
    values = traced.flatten(*args)
    return traced.unflatten(run_whole(traced, values), traced.symbols(values))


class Both(nn.Module):
    """Two inputs, one of which is read late; two results, one of which is made early; an integer input."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.table = nn.Embedding(10, 16)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.4)

    def forward(self, x: torch.Tensor, late: torch.Tensor, token: torch.Tensor) -> dict[str, torch.Tensor]:
        early = torch.relu(self.a(x))
        y = torch.tanh(self.b(early)) + late
        return {"early": early, "out": self.c(y + self.table(token))}


BOTH = (
    torch.randn(3, 8, generator=torch.Generator().manual_seed(1)),
    torch.randn(3, 16, generator=torch.Generator().manual_seed(2)),
    torch.tensor([1, 5, 9]),
)


class Line:
    """A TCP way to a worker, all connections of which can be cut, and further ones refused."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("tcp://").rsplit(":", 1)
        self._target = (host, int(port))
        self._door = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._door.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._shut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._door.accept()
            except OSError:
                return
            if self._shut:
                near.close()
                continue
            far = socket.create_connection(self._target)
            self._pairs.append((near, far))
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(a, b), daemon=True).start()

    @staticmethod
    def _copy(a: socket.socket, b: socket.socket) -> None:
        try:
            while data := a.recv(1 << 16):
                b.sendall(data)
        except OSError:
            pass
        for end in (a, b):
            end.close()

    @property
    def connections(self) -> int:
        """How many were made."""
        return len(self._pairs)

    def cut(self, first: int = 0, *, refuse: bool = True) -> None:
        """Break the connections from this one on; unless told otherwise, let nobody in any more."""
        self._shut = refuse
        for pair in self._pairs[first:]:
            for end in pair:
                with contextlib.suppress(OSError):  # it was closed by its own ends
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all."""
        self._door.close()
        for pair in self._pairs:
            for end in pair:
                end.close()
