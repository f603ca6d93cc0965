"""Training under torchrun, in one start for two ranks and one for four: data parallel, by columns, both pipelines, and each other's checkpoints.

The same file is the script that torchrun runs: ``python -m tests.executor.test_training_ranks FOLDER`` writes what it found, and the
tests read it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from splitplan.errors import SplitplanError
from splitplan.executor.environment import worker_environment
from tests.executor.test_training import Net, momentum, net, pairs, plain, plan_of, run
from tests.executor.test_training_heads import decaying, first_only, heads, heads_plan, kinds, loop, sometimes

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-6
"""Of weights after six steps, where sums have another order."""


class TwoHeads(nn.Module):
    """A loss may leave out a head: its weights get no gradient, on no rank."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.used, self.unused = nn.Linear(192, 16), nn.Linear(16, 4), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.body(x.flatten(1)))
        return {"used": self.used(x), "unused": self.unused(x)}


def gap(a: nn.Module, b: nn.Module) -> float:
    """Largest difference of weights and buffers."""
    other = b.state_dict()
    return max(float((v.double() - other[k].double()).abs().max()) for k, v in a.state_dict().items())


def cases(world: int) -> dict[str, Callable[[Path], Any]]:
    def against(model: Net, other: Net, parts: int = 1, dropping: bool = False, **shape: Any) -> Callable[[Path], Any]:
        def case(folder: Path) -> dict[str, Any]:
            trainer = run(model, plan_of(model, **shape), pairs(), folder)
            plain(other, pairs(), momentum, shape.get("micro", 1), parts, dropping)
            events = [(b.lane, b.what, b.micro) for b in trainer.report.pieces]
            return {"gap": gap(model, other), "events": events, "losses": trainer.losses["loss"].tolist()}

        return case

    def of_heads(parts: int, **shape: Any) -> Callable[[Path], Any]:
        def case(folder: Path) -> dict[str, float]:
            found = 0.0
            for loss_fn in (sometimes, first_only):
                model, other = heads(), heads()
                plan = heads_plan(**shape)
                for k, steps in enumerate((2, 7)):  # gone on from a checkpoint
                    run(
                        model,
                        plan,
                        kinds(),
                        folder / loss_fn.__name__ / "run",
                        optimizer=decaying,
                        loss_fn=loss_fn,
                        steps=steps,
                    )
                    assert k or not torch.equal(model.body.weight, other.body.weight)
                loop(other, kinds(), decaying, loss_fn, parts)
                found = max(found, gap(model, other))
            return {"gap": found}

        return case

    if world == 4:
        both = {"stages": 2, "replicas": 2, "micro": 2, "columns": ("wide", "head")}
        return {
            "two by two": against(net(norm=False), net(norm=False), stages=2, replicas=2, micro=2),
            "two by two by columns": against(net(norm=False), net(norm=False), **both),
            "heads, two by two": of_heads(4, stages=2, replicas=2, micro=2),
        }
    columns = ("wide", "head")

    def each_others_checkpoints(folder: Path) -> dict[str, float]:
        adam = {"optimizer": lambda p: torch.optim.AdamW(p, lr=0.01), "epochs": None}
        shapes = (
            {"stages": 2, "micro": 2},
            {"replicas": 2, "columns": columns},
            {"stages": 2, "micro": 4, "gpipe": True},
        )
        for k, shape in enumerate((*shapes, {"replicas": 2}), 1):
            model = net(norm=False, p=0.5)
            run(model, plan_of(model, **shape), pairs(), folder, steps=2 * k, **adam)
        other = net(norm=False, p=0.5)
        plain(other, [pairs()[k % 6] for k in range(8)], adam["optimizer"], 1, 1, True)
        return {"gap": gap(model, other)}

    def two_heads(folder: Path) -> dict[str, float]:
        torch.manual_seed(0)
        model, other = TwoHeads(), TwoHeads()
        other.load_state_dict(model.state_dict())
        data = pairs()

        def loss_fn(out: dict[str, torch.Tensor], y: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(out["used"], y)

        run(model, plan_of(model, replicas=2), data, folder, loss_fn=loss_fn)
        made = momentum(other.parameters())
        for x, y in data:
            loss_fn(other(x), y).backward()
            made.step()
            made.zero_grad()
        return {"gap": gap(model, other), "untouched": float(model.unused.weight.grad is None)}

    def heads_by_columns(folder: Path) -> dict[str, float]:
        """What a loss leaves out then has a gradient of zeros: plain descent does not tell it from none."""
        model, other = heads(), heads()
        plan = heads_plan(replicas=2, micro=2, columns=("before", "second"))

        def plain_descent(p: Any) -> torch.optim.Optimizer:
            return torch.optim.SGD(p, lr=0.05)

        run(model, plan, kinds(), folder, optimizer=plain_descent, loss_fn=sometimes)
        loop(other, kinds(), plain_descent, sometimes, 4)
        return {"gap": gap(model, other)}

    def other_batches(folder: Path) -> str:
        torch.manual_seed(0)
        data = pairs()
        if os.environ["RANK"] == "1":
            data = data[::-1]
        try:
            run(net(), plan_of(net(), replicas=2), data, folder)
        except SplitplanError as e:
            return f"{type(e).__name__}: {e}"
        return "nothing"

    def other_weights(folder: Path) -> dict[str, float]:
        model = net(norm=False)
        if os.environ["RANK"] == "1":
            with torch.no_grad():
                model.head.bias.add_(1.0)
        other = net(norm=False)
        run(model, plan_of(model, stages=2, micro=2), pairs(), folder)
        plain(other, pairs(), momentum, 2)
        return {"gap": gap(model, other)}

    return {
        "1f1b": against(net(), net(), stages=2, micro=4),
        "gpipe": against(net(), net(), stages=2, micro=4, gpipe=True),
        "1f1b, dropout": against(net(p=0.5), net(p=0.5), dropping=True, stages=2, micro=2),
        "copies": against(net(norm=False), net(norm=False), replicas=2),
        "copies, dropout, micro-batches": against(net(norm=False, p=0.5), net(norm=False, p=0.5), 2, True, replicas=2, micro=2),
        "columns": against(net(norm=False), net(norm=False), replicas=2, columns=columns),
        "columns, dropout, micro-batches": against(
            net(norm=False, p=0.5), net(norm=False, p=0.5), 1, True, replicas=2, micro=2, columns=columns
        ),
        "each other's checkpoints": each_others_checkpoints,
        "two heads": two_heads,
        "other weights": other_weights,
        "heads, pipeline": of_heads(2, stages=2, micro=2),
        "heads, copies": of_heads(2, replicas=2),
        "heads, copies, micro-batches": of_heads(4, replicas=2, micro=2),
        "heads, columns": heads_by_columns,
        "other batches": other_batches,
    }  # fmt: skip


def main(folder: Path) -> None:
    """Each case in turn, on this rank."""
    found = {name: case(folder / f"{k}") for k, (name, case) in enumerate(cases(int(os.environ["WORLD_SIZE"])).items())}
    (folder / f"found-{os.environ['RANK']}.json").write_text(json.dumps(found), encoding="utf-8")


def started(folder: Path, world: int) -> list[dict[str, Any]]:
    """What each rank found."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    environment = worker_environment(1) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *launch, "-m", "tests.executor.test_training_ranks", str(folder)],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    return [json.loads((folder / f"found-{k}.json").read_text(encoding="utf-8")) for k in range(world)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return started(tmp_path_factory.mktemp("two"), 2)


@pytest.mark.parametrize("name", ["1f1b", "gpipe", "1f1b, dropout", "other weights", "heads, pipeline"])
def test_a_pipeline_trains_as_one_process_bit_by_bit(two: list[dict[str, Any]], name: str) -> None:
    assert [found[name]["gap"] for found in two] == [0.0, 0.0]


@pytest.mark.parametrize(
    "name",
    [
        "copies", "copies, dropout, micro-batches", "columns", "columns, dropout, micro-batches", "each other's checkpoints", "two heads",
        "heads, copies", "heads, copies, micro-batches", "heads, columns",
    ],
)  # fmt: skip
def test_copies_and_columns_train_as_one_process_within_rounding(two: list[dict[str, Any]], name: str) -> None:
    gaps = [found[name]["gap"] for found in two]
    assert max(gaps) < TOLERANCE
    assert gaps[0] == gaps[1]


def test_every_rank_knows_what_every_worker_did(two: list[dict[str, Any]]) -> None:
    assert two[0]["1f1b"]["events"] == two[1]["1f1b"]["events"]
    lanes = {lane: [(w, k) for at, w, k in two[0]["1f1b"]["events"] if at == lane] for lane in ("worker 0", "worker 1")}
    assert [x for x in lanes["worker 0"] if x[0] != "update"] == [
        ("forward", 0), ("forward", 1), ("backward", 0), ("forward", 2), ("backward", 1), ("forward", 3), ("backward", 2), ("backward", 3),
    ]  # fmt: skip
    assert lanes["worker 1"][:4] == [("forward", 0), ("loss", 0), ("backward", 0), ("forward", 1)]
    gpipe = [(w, k) for at, w, k in two[0]["gpipe"]["events"] if at == "worker 0" and w == "forward"]
    assert gpipe == [("forward", k) for k in range(4)]
    assert ["worker 0", "sync", -1] in two[0]["copies"]["events"]
    assert two[0]["copies"]["losses"] == two[1]["copies"]["losses"]


def test_workers_that_are_given_other_batches_say_so(two: list[dict[str, Any]]) -> None:
    assert all(
        "DataError: data, epoch 0: gives worker 1 another first batch" in found["other batches"] for found in two
    )


def test_stages_of_copies(tmp_path: Path) -> None:
    for found in started(tmp_path, 4):
        assert {name: found[name]["gap"] < TOLERANCE for name in found} == dict.fromkeys(found, True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
