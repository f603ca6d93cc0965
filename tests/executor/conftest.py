"""Models that are small enough to start workers for, and checks that nothing is left behind."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from splitplan.data.catalog import device, link
from splitplan.data.plan import SplitPlan
from splitplan.data.system import System
from splitplan.models.trace import Traced, trace


class Small(nn.Module):
    """Convolutions with a branch, and an output structure of its own."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 10)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        a = torch.relu(self.a(x))
        both = torch.relu(self.b(a)) + self.c(a)
        pooled = both.mean((2, 3))
        return {"scores": self.head(pooled), "features": pooled}


EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def small() -> Traced:
    torch.set_num_threads(1)
    return trace(Small().eval(), EXAMPLE, name="small")


@pytest.fixture(scope="session")
def pair() -> System:
    """Two places here, with a link that costs next to nothing."""
    return System(device=device("this-cpu"), server=device("this-cpu"), link=link("loopback"))


def cut(traced: Traced, head: int, **options: object) -> SplitPlan:
    """The plan that keeps so many layers on the device."""
    return SplitPlan.for_cut(traced.graph, tuple(x.name for x in traced.graph.layers[head:]), **options)


def frames(count: int) -> list[torch.Tensor]:
    """Inputs that differ, of batches that differ."""
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(1 + i % 3, 3, 16, 16, generator=generator) for i in range(count)]


def same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return got.keys() == expected.keys() and all(torch.equal(got[k], expected[k]) for k in got)


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No process, directory or thread that a test's apps have made outlives it. The directory in which they make theirs."""
    tmp_path_factory.getbasetemp()  # made now: within ours it would be removed with it, and other tests need it
    own = psutil.Process()
    at = Path(tempfile.mkdtemp(prefix="sp-"))  # pytest's own would be too long a path for a socket
    monkeypatch.setattr(tempfile, "tempdir", str(at))
    monkeypatch.setenv("TMPDIR", str(at))
    yield at
    end = time.monotonic() + 20
    while True:
        processes = own.children(recursive=True)
        made = list(at.glob("splitplan-*"))
        threads = [t.name for t in threading.enumerate() if t.name.startswith("splitplan")]
        if not processes and not made and not threads:
            break
        assert time.monotonic() < end, (processes, made, threads)
        time.sleep(0.05)
    shutil.rmtree(at)


def gone(pid: int, within_s: float = 20) -> bool:
    """Whether a process has ended, within so long."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False
