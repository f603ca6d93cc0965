"""How to run a plan, whatever its kind: where the workers are and how long to wait for them; what of that cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from splitplan.executor.reach import host_problems

MAX_DEPTH = 512
"""So many frames at most are under way in an app."""


@dataclass(frozen=True)
class RunSettings:
    """How to run a plan; the fields are `deploy`'s arguments of the same names."""

    hosts: dict[str, str] = field(default_factory=dict)
    keys: str | Path | None = None
    emulate: bool | None = None
    depth: int | None = None
    heartbeat_s: float = 1.0
    frame_timeout_s: float | None = None
    start_timeout_s: float = 120.0

    @property
    def emulated(self) -> bool:
        """Whether links and slower devices are emulated."""
        return self.emulate if self.emulate is not None else not self.hosts

    def problems(self, places: Sequence[str]) -> list[str]:
        """What of it cannot be, for workers at these places."""
        found = host_problems(self.hosts, self.keys is not None, places) + depth_problems(self.depth)
        for name in ("heartbeat_s", "frame_timeout_s", "start_timeout_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1e6:
                found.append(f"{name} is {value!r}; give a positive number of seconds")
        return found


def depth_problems(depth: object) -> list[str]:
    """What is wrong with a number of frames that may be under way; None leaves the choice to who is asked."""
    if depth is None or (isinstance(depth, int) and not isinstance(depth, bool) and 1 <= depth <= MAX_DEPTH):
        return []
    return [f"depth is {depth!r}; give a whole number from 1 to {MAX_DEPTH}"]
