"""The environment of a worker process: one place, so that what is profiled is what later runs.

Thread counts and the allocator must be set before the process starts, so they are environment variables and not calls.
Knows no torch.
"""

from __future__ import annotations

import atexit
import os
import platform
import sys
from pathlib import Path
from typing import NoReturn

MARK = "SPLITPLAN_WORKER_ENVIRONMENT"
"""Set in a process that was started with `worker_environment`; its value is the thread count."""

_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
# Without these glibc hands every large activation back to the kernel and faults it in again at the next frame.
_GLIBC = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}


def cores_here() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_environment(threads: int) -> dict[str, str]:
    """The whole environment for a worker subprocess that computes with so many threads.

    This process's own environment, with thread counts, allocator settings and, where splitplan is not installed but
    run from its source tree, that tree on ``PYTHONPATH``.
    """
    env = dict(os.environ)
    env.update(dict.fromkeys(_THREADS, str(threads)))
    if platform.libc_ver()[0] == "glibc":
        env.update(_GLIBC)
    root = Path(__file__).resolve().parents[2]
    if not {"site-packages", "dist-packages"} & set(root.parts):
        env["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [env.get("PYTHONPATH")])])
    env["PYTHONUNBUFFERED"] = "1"
    env[MARK] = str(threads)
    return env


def ensure_worker_environment(threads: int) -> None:
    """Start this process over with the worker's environment, unless it has it already.

    For a worker that was started by hand: the allocator reads its settings once, before Python runs.
    """
    if os.environ.get(MARK) == str(threads):
        return
    arguments = sys.orig_argv[1:]
    os.execve(sys.executable, [sys.executable, *arguments], worker_environment(threads))


def leave(code: int) -> NoReturn:
    """End this process once what is registered for its end was done, without tearing Python down.

    Threads of torch's process groups may abort a process while it is torn down, destroyed or not (pytorch issue 190489), after all was
    done well.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
