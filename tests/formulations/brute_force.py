"""SplitPoint by its docstring alone: every subset of layers, plain Python, none of the package's arithmetic.

Written from the equations (1) to (9) of ``SplitPoint`` and the docstrings of ``Link``, ``Radio`` and ``SplitPlan``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import splitplan as sp

WIDTH = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
WIRE = {"fp32": 4, "fp16": 2, "int8": 1}
MEASURE_OF = {
    "deadline_s": "latency",
    "energy_budget_j": "energy",
    "period_limit_s": "period",
    "device_memory_bytes": "memory",
    "upload_limit_bytes": "upload",
}
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Priced:
    """A placement that (1) and (9) allow, and its measures."""

    server: frozenset[str]
    latency: float
    energy: float
    period: float
    memory: float
    upload: float


def on_the_wire(t: sp.Tensor, wire: str) -> float:
    """Floating-point tensors are narrowed to the wire's precision, never widened; others cross as they are."""
    if t.dtype in WIDTH and WIDTH[t.dtype] > WIRE[wire]:
        return t.size_bytes * WIRE[wire] / WIDTH[t.dtype]
    return t.size_bytes


def times(p: sp.SplitPoint, place: str) -> dict[str, float]:
    """Layer → seconds; the device at the problem's clock, or its top one."""
    table = p.profile.table
    rows = [r for r in table.to_dict("records") if r["place"] == place]
    clocks = sorted({r["clock_hz"] for r in rows if r["clock_hz"] == r["clock_hz"]})
    if not clocks:
        return {r["layer"]: r["time_s"] for r in rows}
    clock = p.clock_hz if place == "device" and p.clock_hz is not None else clocks[-1]
    return {r["layer"]: r["time_s"] for r in rows if r["clock_hz"] == clock}


def every_placement(p: sp.SplitPoint) -> Iterator[Priced]:
    """All 2^n subsets, those priced that (1) and (9) allow."""
    graph, link, device = p.profile.graph, p.system.link, p.system.device
    names = [layer.name for layer in graph.layers]
    bit = {name: 1 << i for i, name in enumerate(names)}
    arcs = {(bit[t.producer], bit[c]) for t in graph.tensors if t.producer != "input" for c in t.consumers}
    must_go, must_stay = sum({bit[v] for v in p.pin_server}), sum({bit[v] for v in p.pin_device})
    a, b = times(p, "device"), times(p, "server")

    clock = p.clock_hz if p.clock_hz is not None else (device.clock_hz[-1] if device.clock_hz else None)
    active_w = device.active_power_w[device.clock_hz.index(clock)] if clock is not None else device.active_power_w[0]
    up_w = link.radio.up_w_per_bps * link.rate_up_bps + link.radio.base_w
    down_w = link.radio.down_w_per_bps * link.rate_down_bps + link.radio.base_w
    up_delay = link.rtt_s / 2 if link.delay_up_s is None else link.delay_up_s
    down_delay = link.rtt_s / 2 if link.delay_down_s is None else link.delay_down_s

    payload = {t.name: on_the_wire(t, p.wire) for t in graph.tensors}
    if p.input_bytes is not None:
        born = [t.name for t in graph.tensors if t.producer == "input"]
        whole = math.fsum(payload[n] for n in born)
        shares = {n: payload[n] / whole if whole else 1 / len(born) for n in born}
        payload |= {n: p.input_bytes * share for n, share in shares.items()}
    result = {t.name: on_the_wire(t, p.wire) for t in graph.tensors if t.is_output}

    for mask in range(1 << len(names)):
        if mask & must_stay or must_go & ~mask:
            continue
        if any(mask & v and not mask & w for v, w in arcs):
            continue
        head = [n for n in names if not mask & bit[n]]
        far = {n for n in names if mask & bit[n]}
        crossing = [
            t
            for t in graph.tensors
            if t.producer not in far and (any(c in far for c in t.consumers) or (t.is_output and p.result == "server"))
        ]
        returning = [t for t in graph.tensors if t.is_output and t.producer in far and p.result == "device"]
        up_bits = 8 * (
            link.overhead * math.fsum(payload[t.name] for t in crossing) + link.header_bytes * bool(crossing)
        )
        down_bits = 8 * (
            link.overhead * math.fsum(result[t.name] for t in returning) + link.header_bytes * bool(returning)
        )
        device_s, server_s = math.fsum(a[n] for n in head), math.fsum(b[n] for n in far)
        up_s, down_s = up_bits / link.rate_up_bps, down_bits / link.rate_down_bps
        latency = math.fsum([device_s, server_s, up_s, down_s, up_delay * bool(crossing), down_delay * bool(returning)])
        # (5) with its two terms in device_s put together, so that nothing cancels.
        waiting = math.fsum([server_s, up_s, down_s, up_delay * bool(crossing), down_delay * bool(returning)])
        energy = math.fsum([device.idle_power_w * waiting, active_w * device_s, up_w * up_s, down_w * down_s])
        held = {q for layer in graph.layers if layer.name not in far for q in layer.parameters}
        working = max((layer.memory_bytes for layer in graph.layers if layer.name not in far), default=0.0)
        memory = math.fsum([*(graph.parameter_bytes[q] for q in held), working, *(t.size_bytes for t in crossing)])
        yield Priced(frozenset(far), latency, energy, max(device_s, up_s, server_s, down_s), memory, up_bits / 8)


def objective(p: sp.SplitPoint, x: Priced) -> float:
    """The weighted sum."""
    weights = {p.objective: 1.0} if isinstance(p.objective, str) else p.objective
    return math.fsum(w * getattr(x, k) for k, w in weights.items())


def limits(p: sp.SplitPoint) -> dict[str, float]:
    """(8), as given."""
    return {k: getattr(p, k) for k in MEASURE_OF if getattr(p, k) is not None}


def within(p: sp.SplitPoint, x: Priced, names: list[str] | None = None, tolerance: float = TOLERANCE) -> bool:
    """Whether a placement meets the limits (or those named)."""
    return all(
        getattr(x, MEASURE_OF[k]) <= limit * (1 + tolerance)
        for k, limit in limits(p).items()
        if names is None or k in names
    )


def least(p: sp.SplitPoint, placements: list[Priced] | None = None, tolerance: float = TOLERANCE) -> float | None:
    """The optimum, or None when no placement meets the limits."""
    allowed = [
        objective(p, x)
        for x in (every_placement(p) if placements is None else placements)
        if within(p, x, tolerance=tolerance)
    ]
    return min(allowed) if allowed else None
