"""Loops that numba compiles where it is there; without it the same functions run as they stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

try:
    import numba
except ImportError:
    numba = None

COMPILED = numba is not None
"""Whether numba is there."""


def njit(function: F) -> F:
    """The function compiled, so that it lets go of the interpreter; or as it is. What it calls must stand in its own file.

    numba's cache looks at a function's own file only, and would keep what another file had in it before.
    """
    compiled: F = numba.njit(cache=True, nogil=True)(function) if numba is not None else function
    return compiled
