"""The user's time limit over the phases of a solve: none is begun when the time is over."""

from __future__ import annotations

import time

from splitplan.errors import NoSolutionError


class Clock:
    """Counts from when it is made.

    Parameters
    ----------
    limit_s : float or None
        None: no limit.
    """

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s, self.start = limit_s, time.perf_counter()

    @property
    def passed_s(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self.start

    @property
    def left_s(self) -> float | None:
        """Seconds left, at least 0; None without a limit."""
        return None if self.limit_s is None else max(0.0, self.limit_s - self.passed_s)

    def before(self, phase: str) -> None:
        """Raise `NoSolutionError` when the time is over before a phase, named in a few words."""
        if self.left_s == 0:
            raise NoSolutionError(
                f"the time limit was over {self.passed_s:.3g} s after this solver had begun, before {phase}: there is no plan yet. "
                "Give it more time (time_limit_s)"
            )
