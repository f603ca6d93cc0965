"""A plan made ready to run in one process: the head's and the tail's parts, what crosses between them, and who computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import torch
from torch.utils import _pytree as pytree

from splitplan.data.device import Device
from splitplan.data.plan import SplitPlan
from splitplan.errors import BoundaryError, DataError
from splitplan.executor.codec import round_trip
from splitplan.executor.knobs import Duty
from splitplan.models.partition import Part, make_parts, whole
from splitplan.models.trace import Traced

Values = dict[str, torch.Tensor]


def check_torch_device(torch_device: str, device: Device | None = None) -> None:
    """Raise unless this torch can compute there; with the cure for a device that is none of this machine."""
    if not torch_device.startswith("cuda") or torch.cuda.is_available():
        return
    if device is None or device.local:
        raise DataError(
            f"torch device {torch_device!r}: this torch sees no CUDA device; use cpu, or install a CUDA build of torch"
        )
    raise DataError(
        "it computes on CUDA, and this torch sees no CUDA device. To run on it, start a worker there and name it in hosts (--hosts). To emulate it on "
        "this machine, put sp.device('this-cpu', slowdown=…) into the system (in TOML: from = \"this-cpu\"), with the clock_hz, active_power_w, "
        f"idle_power_w, latency_a and latency_b of {device.name!r}, and make profile and plan or policy for that system (docs/slots.md, On the executor)",
        f"device {device.name!r}",
    )


def not_here(places: Mapping[str, Device]) -> dict[str, str]:
    """The places, of those whose workers are to be started here, that this torch cannot compute as; why, and the cure."""
    if torch.cuda.is_available():
        return {}
    return {
        place: f"place {place!r} is {device.name!r}, which computes on torch device {device.kind!r}, and this torch sees no CUDA device. "
        f'To run the plan with it, start a worker there and name it: hosts={{{place!r}: "tcp://host:5555"}} '
        f"(--hosts {place}=tcp://host:5555). To emulate it on this machine, give the place sp.device('this-cpu', slowdown=…) in the "
        'system (in TOML: from = "this-cpu" and slowdown), and make profile and plan for that system'
        + ("; or install a CUDA build of torch" if device.local else "")
        for place, device in places.items()
        if device.kind.startswith("cuda")
    }


class Compute:
    """Runs parts on one torch device, one run at a time, slowed by a duty cycle when a slower device is emulated.

    Parameters
    ----------
    torch_device : {"cpu", "cuda"}
    slowdown : float
        After t seconds of computing it rests for (slowdown − 1)·t.
    """

    def __init__(self, torch_device: str = "cpu", slowdown: float = 1.0) -> None:
        check_torch_device(torch_device)
        self.torch_device, self.slowdown = torch_device, slowdown
        self._cuda = torch_device.startswith("cuda")
        self._turn = threading.Lock()

    def run(
        self,
        parts: Sequence[Part],
        values: Mapping[str, torch.Tensor],
        symbols: Mapping[str, int],
        duty: Duty | None = None,
    ) -> tuple[Values, float]:
        """All values after the parts have run, on the CPU, and the seconds that it took, rest included.

        With a ``duty`` they are a job of it, as long as they take at the device's slowdown; it has begun already.
        """
        with self._turn:
            return self._run(parts, values, symbols, duty)

    def _run(
        self,
        parts: Sequence[Part],
        values: Mapping[str, torch.Tensor],
        symbols: Mapping[str, int],
        duty: Duty | None,
    ) -> tuple[Values, float]:
        known = dict(values)
        begin = time.monotonic()
        with torch.inference_mode():
            for part in parts:
                given = {spec.name: known[spec.name] for spec in part.inputs}
                known.update(part(self._to_device(given), symbols))
            if self._cuda:
                known = {k: v.cpu() for k, v in known.items()}  # waits for the kernels as well
        worked = time.monotonic() - begin
        if duty is not None:
            duty.finish(self.slowdown * worked)
        elif self.slowdown > 1 and parts:
            time.sleep((self.slowdown - 1) * worked)
        return known, time.monotonic() - begin

    def _to_device(self, values: Values) -> Values:
        if not self._cuda:
            return values
        return {
            k: v if v.is_cuda else v.pin_memory().to(self.torch_device, non_blocking=True) for k, v in values.items()
        }


class Split:
    """The parts of a plan.

    Parameters
    ----------
    traced : Traced
    plan : SplitPlan
        Checked against the model.
    torch_device : str
        Where the parts' weights lie.
    """

    def __init__(self, traced: Traced, plan: SplitPlan, torch_device: str = "cpu") -> None:
        plan.check(traced.graph)
        self.traced, self.plan = traced, plan
        placement = dict.fromkeys(plan.device_layers, "device") | dict.fromkeys(plan.server_layers, "server")
        parts = make_parts(traced, placement)
        if torch_device != "cpu":
            parts = tuple(part.to(torch_device) for part in parts)
        self.head = [part for part in parts if part.place == "device"]
        self.tail = [part for part in parts if part.place == "server"]
        far = set(plan.server_layers)
        outputs = traced.graph.outputs
        self.outputs = tuple(t.name for t in outputs)
        self.back = tuple(t.name for t in outputs if t.producer in far)
        stays = tuple(t.name for t in outputs if t.producer not in far) if plan.result == "server" else ()
        self.crossing = tuple(dict.fromkeys([*(t.name for t in traced.graph.boundary(far)), *stays]))
        self.offloads = bool(self.tail or stays)

    def take(self, tensors: Mapping[str, torch.Tensor]) -> Values:
        """The tensors that crossed, if they are exactly those that this plan sends up."""
        if set(tensors) != set(self.crossing):
            raise BoundaryError(
                f"tensors {sorted(set(tensors) ^ set(self.crossing))} are missing or not expected; "
                f"this plan sends up {', '.join(self.crossing)}"
            )
        return dict(tensors)

    def narrowed(self, compute: Compute, inputs: Values, symbols: Mapping[str, int]) -> Values:
        """The outputs as they would be after a perfect crossing: split here, tensors through the wire's precision."""
        wire = self.plan.wire
        values, _ = compute.run(self.head, inputs, symbols)
        crossed = {name: round_trip(values[name], wire) for name in self.crossing}
        far, _ = compute.run(self.tail, crossed, symbols)
        return {n: round_trip(far[n], wire) if n in self.back else values[n] for n in self.outputs}


def run_whole(traced: Traced, inputs: Mapping[str, torch.Tensor], torch_device: str = "cpu") -> Values:
    """The unsplit model's outputs by name, on the CPU."""
    if torch_device != "cpu":
        symbols = traced.symbols(inputs)
        values, _ = Compute(torch_device).run([whole(traced).to(torch_device)], inputs, symbols)
        return {t.name: values[t.name] for t in traced.graph.outputs}
    exported, spec = traced.exported, traced.program.call_spec.in_spec
    assert spec is not None  # every program that torch exports or loads has one
    leaves = [inputs[name] if fixed is None else fixed.value for name, fixed in exported.flat_inputs]
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    with torch.inference_mode():
        found = pytree.tree_leaves(traced.module()(*args, **kwargs))
    names = [getattr(result, "name", None) for result in exported.results]
    return {n: leaf for n, leaf in zip(names, found, strict=True) if n and isinstance(leaf, torch.Tensor)}


def difference(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """How far two results are apart: largest absolute difference, the same over the largest magnitude, and bit equality.

    A result that is not a number on one side only is infinitely far.
    """
    largest, scale, equal = 0.0, 0.0, True
    for name, a in one.items():
        b = other[name]
        equal = equal and a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())
        if a.numel() == 0:
            continue
        wide = torch.complex128 if a.is_complex() else torch.float64
        gap = (a.to(wide) - b.to(wide)).abs().nan_to_num(nan=float("inf"), posinf=float("inf"))
        gap[(a == b) | (a.isnan() & b.isnan())] = 0.0
        largest = max(largest, float(gap.max()))
        scale = max(scale, float(a.to(wide).abs().nan_to_num(0.0, 0.0, 0.0).max()))
    return {
        "absolute": min(largest, 1e18),
        "relative": min(largest / scale if scale else largest, 1e18),
        "equal": float(equal),
    }
