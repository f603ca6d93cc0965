"""Random slotted controls and states of them, each from a seed; from the same choices as `instances`."""

from __future__ import annotations

from typing import Any

import splitplan as sp
from benchmarks.instances import REAL, Choices, chance, graph, log_between, one_of, profile


def slot_control(choose: Choices, layers: int, *, limits: bool = True, continuous: bool = False) -> sp.SlotControl:
    """A random SlotControl over a chain or DAG; limits are set so that some bind. ``continuous``: without costs of changes."""
    clocks = one_of(choose, ((), (1e8, 3e8, 5e8, 8e8), (2e8, 6e8, 9e8)))
    powers = tuple(1.0 + 8.0 * choose.unit() for _ in clocks or (0,))
    powers = powers if chance(choose, 0.2) else tuple(sorted(powers))  # measured tables are not always in order
    radio = sp.Radio(log_between(choose, 1e-8, 1e-6), 2e-8, choose.unit(), one_of(choose, (None, None, 1e6, 5e6)))
    link = sp.Link("air", log_between(choose, 1e6, 5e7), 2e7, 0.02 * choose.unit(), header_bytes=100.0, radio=radio)
    device = sp.Device("d", clock_hz=clocks, active_power_w=powers, idle_power_w=choose.unit())
    g = graph(choose, layers)
    p = profile(choose, g, REAL, clocks)
    whole = float(p.seconds("device").sum())
    options: dict[str, Any] = {
        "V": one_of(choose, (0.0, 1e-4, 1e-2, 1.0, 100.0)),
        "mode": one_of(choose, ("min-energy", "min-energy", "min-latency", {"energy": 1.0, "latency": 0.3})),
        "result": one_of(choose, ("device", "server", "anywhere")),
    }
    if limits:
        some = {
            "deadline_s": (whole + 0.05) * one_of(choose, (0.3, 1.0, 3.0)),
            "power_cap_w": device.idle_w + max(powers) * one_of(choose, (0.3, 0.8, 1.2)),
            "thermal": sp.Thermal(5.0, 2.0, 25.0, 25.0 + 40.0 * choose.unit() + 1.0),
            "power_budget_w": device.idle_w + 1.0,
            "latency_limit_s": whole + 0.01,
            "throughput_min_hz": 5.0,
        }
        options |= {name: value for name, value in some.items() if chance(choose, 0.3)}
    if not continuous and chance(choose, 0.3):
        options |= {"cut_change_j": choose.unit(), "clock_change_j": choose.unit()}
    s = sp.System(device=device, server=sp.Device("s"), link=link)
    return sp.SlotControl(p, s, slot_s=one_of(choose, (0.02, 0.1, 1.0)), most_frames=3, **options)


def slot_state(choose: Choices, control: sp.SlotControl) -> sp.SlotState:
    """A random state of it; some queues are empty, some slots are dead."""

    def some(scale: float) -> float:
        return 0.0 if chance(choose, 0.25) else scale * log_between(choose, 1e-2, 1e1)

    clocks = control.choices.clock_hz.tolist()
    return sp.SlotState(
        device_s=some(0.1),
        uplink_bits=some(1e6),
        server_s=some(0.05),
        frames=choose.whole(0, 3),
        rate_bps=some(1e7),
        energy_debt_j=some(1.0),
        latency_debt_s=some(0.1),
        frame_debt=some(1.0),
        device_wait_s=some(0.01),
        uplink_wait_bits=some(1e4),
        least_bit_j=None if chance(choose, 0.5) else float(control.choices.bit_j(1e7 * log_between(choose, 1e-2, 1e2))),
        temperature_c=25.0 + 40.0 * choose.unit(),
        last_cut=one_of(choose, (None, choose.whole(0, len(control.choices.works) - 1))),
        last_clock_hz=one_of(choose, (None, *clocks)),
    )
