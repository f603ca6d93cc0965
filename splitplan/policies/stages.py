"""Seconds that a profile promises of a cut's stages beside those that a live run took: why a run departs from its simulation. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One stage of the frames that ran by one cut.

    Parameters
    ----------
    cut : int
        Its number in the control's set.
    name : str
        What the cut is called.
    stage : {"device", "server", "rest"}
        ``rest``: a frame's latency less its stages, transfers and waits: messages, copies, processes. No profile has it.
    profiled_s : float
        Of the device: at the top clock.
    measured_s, p95_s : float
        Median and 95th percentile; of the device at the top clock too.
    frames : int
    """

    cut: int
    name: str
    stage: str
    profiled_s: float
    measured_s: float
    p95_s: float
    frames: int

    @property
    def ratio(self) -> float | None:
        """Measured over profiled; None where nothing was profiled."""
        return self.measured_s / self.profiled_s if self.profiled_s else None


def stage_lines(stages: Sequence[Stage]) -> list[str]:
    """One line a cut, for people."""
    lines = []
    for number in dict.fromkeys(s.cut for s in stages):
        mine = [s for s in stages if s.cut == number]
        told = ", ".join(
            f"{s.stage} {s.measured_s * 1e3:.3g} ms"
            + (f" (profiled {s.profiled_s * 1e3:.3g}, {s.ratio:.2f}x)" if s.ratio is not None else " (in no profile)")
            for s in mine
        )
        top = ", the device's at its top clock" if mine[0].stage == "device" else ""
        lines.append(f"{mine[0].name}: {told}; medians of {mine[0].frames} frames{top}")
    return lines
