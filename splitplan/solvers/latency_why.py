"""Why an OperatorLatency has no schedule: operators that no device holds, memory, ways that are not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from splitplan.errors import listed
from splitplan.plots.style import amount

if TYPE_CHECKING:
    from splitplan.formulations.operator_latency import OperatorLatency


def why_none(problem: OperatorLatency) -> tuple[str, ...]:
    """What stands in the way: operators that are too large or cannot be reached, if there are any; else all that limits."""
    t, ops = problem.table, problem.graph.operators
    nowhere = np.isinf(t.seconds).all(axis=1)
    need = np.array([t.held([v]) for v in range(len(ops))])
    over = np.where(nowhere, need - t.room.max(), 0.0)
    largest = problem.devices[int(t.room.argmax())]
    lines = [
        f"memory: operator {ops[v].name!r} needs {amount(float(need[v]), 'B')}, and the most that any device has is "
        f"{amount(float(t.room.max()), 'B')} at {largest}: {amount(float(over[v]), 'B')} short"
        for v in np.argsort(-over, kind="stable")[:3].tolist()
        if over[v] > 0
    ]
    missing = [
        f"{a} to {b}"
        for d, a in enumerate(problem.devices)
        for e, b in enumerate(problem.devices)
        if np.isinf(t.fixed_s[d, e])
    ]
    apart = np.flatnonzero(~problem.can[problem.groups.of].any(axis=1) & ~nowhere).tolist()
    if apart and missing and not lines:
        name = ops[apart[0]].name
        lines.append(f"links: on no device can {name!r} have all that it reads and hand on what it makes, as nothing leads from {listed(missing, 4)}")  # fmt: skip
    if lines:
        return tuple(lines)
    if np.isfinite(t.room).any():
        kept, room = problem.limited_bytes
        who = f"{len(ops)} operators" if np.isfinite(t.room).all() else "operators that no other device can run"
        lines.append(
            f"memory: the {who} keep {amount(kept, 'B')} together, beside the largest working set of each device, and "
            f"the devices have {amount(room, 'B')}; give more of it, or more devices"
        )
    if missing:
        lines.append(f"links: nothing leads from {listed(missing, 4)}; give a link")
    return tuple(lines)
