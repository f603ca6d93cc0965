"""What can be wrong with the data of an OperatorPlacement, all of it at once, in the user's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from splitplan.errors import listed
from splitplan.models.graph import number_problem

if TYPE_CHECKING:
    from splitplan.data.operators import OperatorGraph
    from splitplan.formulations.placement import OperatorPlacement


def count_problem(name: str, value: object) -> str | None:
    """What is wrong with a number of devices, or None."""
    if value is None:
        return f"the graph does not say how many {name} there are; give {name}=…"
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return f"{name} is {value!r}; give a whole number from 0"
    return None


def problems(p: OperatorPlacement) -> list[str]:
    """Everything that is wrong with a problem's data; empty when it can be stated."""
    found = [bad for name in ("accelerators", "cpus") if (bad := count_problem(name, getattr(p, name)))]
    if p.memory_bytes is not None and (bad := number_problem("memory_bytes", p.memory_bytes)):
        found.append(bad)
    if not isinstance(p.contiguous, bool):
        found.append(f"contiguous is {p.contiguous!r}; give True or False")
    if not found and p.accelerators + p.cpus == 0:
        found.append("there are no devices; give accelerators or cpus")
    if not np.isfinite(all_s(p.graph)):
        found.append("the seconds of all operators and outputs together are beyond 1e308; give smaller ones")
    return found or homeless(p)


def all_s(graph: OperatorGraph) -> float:
    """Seconds of all operators, on accelerators and on CPUs, and of moving every output twice to each reader: infinite if too large."""
    own = sum((o.accelerator_s or 0.0) + (o.cpu_s or 0.0) for o in graph.operators)
    return float(own + moving_s(graph))


def moving_s(graph: OperatorGraph) -> float:
    """Seconds to move every output twice to each reader: more than any plan moves, more than any sample waits for moves."""
    return float(sum(2 * o.output_s * len(r) for o, r in zip(graph.operators, graph.consumers, strict=True)))


def homeless(p: OperatorPlacement) -> list[str]:
    """Groups that can run nowhere: no device of their kind, or more memory than one accelerator has."""
    groups = p.groups.contiguous if p.contiguous else p.groups
    room = np.inf if p.memory_bytes is None else p.memory_bytes
    on_cpu = np.isfinite(groups.cpu_s) & (p.cpus > 0)
    on_accelerator = np.isfinite(groups.accelerator_s) & (p.accelerators > 0)
    fits = groups.memory_bytes <= room
    found = []
    for g in np.flatnonzero(~on_cpu & ~(on_accelerator & fits)).tolist():
        names = [o.name for o, of in zip(p.graph.operators, groups.of.tolist(), strict=True) if of == g]
        together = " together" if len(names) > 1 else ""
        if on_accelerator[g]:
            over = groups.memory_bytes[g] - room
            found.append(
                f"operators {listed(names, 3)} take {groups.memory_bytes[g]:g} bytes{together}, {over:g} more than an accelerator has "
                f"({room:g}), and there is no CPU for them"
            )
        else:
            found.append(
                f"operators {listed(names, 3)} can run{together} on none of {p.accelerators} accelerators and {p.cpus} CPUs: "
                "give them a time on a device that there is"
            )
    return found
