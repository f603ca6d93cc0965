"""What all governors say of clocks and of rights."""

from __future__ import annotations

import math
import os
import pwd
from collections.abc import Callable, Sequence

from splitplan.errors import DataError, GovernorError

EMULATE = "or have the clock emulated, by a duty cycle, which needs no rights"


def mhz(clock_hz: float) -> str:
    """A clock as text."""
    return f"{clock_hz / 1e6:g} MHz"


def one_of(clock_hz: float, clocks_hz: Sequence[float], between: bool = False) -> float:
    """The clock of the table that is meant; where all ``between`` the first and the last may be set, the clock itself.

    Raises
    ------
    DataError
        There is no such clock.
    """
    if between and clocks_hz[0] <= clock_hz <= clocks_hz[-1]:
        return clock_hz
    for clock in clocks_hz:
        if math.isclose(clock, clock_hz, rel_tol=1e-6):
            return clock
    which = f"any from {' to '.join(map(mhz, clocks_hz))}" if between else f"one of {', '.join(map(mhz, clocks_hz))}"
    raise DataError(f"the clock cannot be {mhz(clock_hz)}; give {which}")


def not_allowed(call: str, why: object, cure: str) -> GovernorError:
    """What to tell one who may not set clocks."""
    user = os.geteuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = "without a name"
    return GovernorError(
        f"{call}: {why}. User {name} ({user}) may not: run as root of the machine itself (root of a container often may not), "
        f"{cure}{EMULATE}"
    )


def undone(error: Exception, restore: Callable[[], None]) -> GovernorError:
    """The error of a clock that was not taken, once all is restored as far as it can be."""
    try:
        restore()
    except GovernorError as e:
        return GovernorError(f"{error}. Nor could what was there before be put back: {e}")
    return GovernorError(f"{error}. What was there before was put back")
