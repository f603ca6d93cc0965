"""How much work waits for the sake of energy: what is said of a V, against runs."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

import splitplan as sp
from benchmarks.instances import Seeded, graph
from splitplan.data.channel import constant
from splitplan.formulations.plausible import waits_s
from splitplan.policies.result import Result
from splitplan.policies.slot_baselines import device_only

CLOCKS, WATTS, IDLE_W, HEAD_S = (3e8, 6e8, 13e8), (1.8, 3.2, 8.1), 1.3, 0.05


@pytest.fixture(scope="module")
def control() -> sp.SlotControl:
    """All work is the device's, on an idle channel; its clocks cost 2.2, 4.1 and 6.8 J a second of work."""
    layers = graph(Seeded(2), 5)
    rows = [
        (x.name, place, hz, HEAD_S / len(layers.layers) * CLOCKS[-1] / hz if hz == hz else 1e-4, 0.0, 1, "given")
        for x in layers.layers
        for place, hz in (*(("device", hz) for hz in CLOCKS), ("server", float("nan")))
    ]
    columns = ("layer", "place", "clock_hz", "time_s", "spread_s", "samples", "method")
    device = sp.Device("d", clock_hz=CLOCKS, active_power_w=WATTS, idle_power_w=IDLE_W)
    system = sp.System(device=device, server=sp.Device("s"), link=sp.link("lte-2021"))
    return sp.SlotControl(sp.Profile(layers, pd.DataFrame(rows, columns=list(columns))), system, slot_s=0.1)


def run(control: sp.SlotControl, v: float, use: float) -> Result:
    scene = sp.Scenario(sp.poisson(use / HEAD_S), constant(2e7), slots=8_000, seed=3)
    return sp.simulate(device_only(replace(control, V=v)), scene, bound=False)


@pytest.mark.parametrize(("use", "which"), [(0.3, 0), (0.35, 0), (0.7, 1)])
def test_so_much_work_waits_under_load_and_frames_that_over_the_use(
    control: sp.SlotControl, use: float, which: int
) -> None:
    """Loads between two clocks' speeds, 0.23, 0.46 and 1; the last step is the dearest."""
    for v in (0.3, 1.0):
        said, found = waits_s(replace(control, V=v))[which], run(control, v, use)
        assert said is not None
        # The bound of the dearest has no place-holder taken off.
        said -= v * control.choices.least_j if which else 0.0
        assert found.sums["device_s"] / found.slots == pytest.approx(said, rel=0.15)
        assert found.mean_latency_s == pytest.approx(said / use, rel=0.2)


def test_nothing_waits_where_the_cheapest_clock_carries_the_load(control: sp.SlotControl) -> None:
    few = [run(control, v, 0.05).mean_latency_s for v in (0.1, 1.0, 10.0)]
    assert few[0] == few[1] == few[2] < 0.3
