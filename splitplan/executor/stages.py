"""What the stages of a live run's frames took beside what their profile says, cut by cut."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from splitplan.executor.frames import FrameRecord
from splitplan.formulations.slot import SlotControl
from splitplan.policies.stages import Stage

PARTS = ("device", "up", "server", "down")


def stages_of(control: SlotControl, numbers: Sequence[int], frames: Sequence[FrameRecord]) -> tuple[Stage, ...]:
    """The stages of frames that ran as they were decided.

    Parameters
    ----------
    control : SlotControl
    numbers : sequence of int
        Of each plan that frames may have run by: its cut, in the control's set.
    frames : sequence of FrameRecord
    """
    assert control.cuts is not None
    found: list[Stage] = []
    for plan, cut in enumerate(numbers):
        mine = [f for f in frames if f.cut == plan and not f.alone and "here_s" not in f.times]
        device_s, _, server_s = control.choices.works[cut].tolist()
        measured = {
            "device": (device_s, [f.times["device_work_s"] for f in mine if "device_work_s" in f.times]),
            "server": (server_s, [f.times["server_s"] for f in mine if "server_s" in f.times]),
            "rest": (0.0, [_rest_s(f) for f in mine if ("up_bytes" in f.times) == ("up_s" in f.times)]),
        }
        for stage, (profiled_s, values) in measured.items():
            if values and (profiled_s > 0 or stage == "rest"):
                typical, late = float(np.median(values)), float(np.quantile(values, 0.95))
                found.append(Stage(cut, control.cuts.names[cut], stage, profiled_s, typical, late, len(values)))
    return tuple(found)


def _rest_s(frame: FrameRecord) -> float:
    """A frame's latency less its parts and the waits for them."""
    names = [f"{part}_{what}" for part in PARTS for what in ("s", "wait_s")]
    return frame.latency_s - math.fsum(frame.times.get(name, 0.0) for name in names)
