"""Dividing an uplink and a server: closed form, CVXPY built anew, CVXPY compiled (DPP)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache

import numpy as np

import splitplan as sp
from benchmarks.registry import Contestant, Spec, register


@cache
def problem(users: int) -> sp.RateAllocation:
    """Users with random cuts, a fifth of them with a cap on their rate."""
    rng = np.random.default_rng(users)
    return sp.RateAllocation(
        [
            sp.User(
                f"user {i}",
                upload_bytes=float(rng.uniform(1e4, 1e6)),
                server_work=float(rng.uniform(1e-3, 0.1)),
                device_s=float(rng.uniform(0, 0.2)),
                weight=float(rng.uniform(0.5, 2)),
                rate_cap_bps=2e6 if rng.random() < 0.2 else None,
            )
            for i in range(users)
        ],
        uplink_bps=1e6 * users,
        server_speed=0.2 * users,
    )


def contestants(users: int) -> Mapping[str, Contestant]:
    """Each solves through the public contract, audit included, and must find the same objective to 1e-6."""
    p = problem(users)
    expected = p.solve("kkt").objective
    compiled = p.compile("cvxpy")
    factors = iter(np.resize(np.geomspace(0.9, 1.1, 7), 1000))

    def once(solver: str) -> Contestant:
        def run() -> dict[str, float]:
            start = time.perf_counter()
            solution = p.solve(solver)
            total = time.perf_counter() - start
            if abs(solution.objective - expected) > 1e-6 * expected:
                raise AssertionError(f"{solver}: {solution.objective!r}, the closed form says {expected!r}")
            rest = max(0.0, total - solution.build_s - solution.solve_s)
            return {"build": solution.build_s, "solve": solution.solve_s, "audit": rest}

        return run

    def step() -> dict[str, float]:
        start = time.perf_counter()
        compiled.step(uplink_bps=p.uplink_bps * float(next(factors)))
        return {"solve": time.perf_counter() - start}

    return {"kkt": once("kkt"), "cvxpy": once("cvxpy"), "cvxpy compiled, one step": step}


register(
    Spec(
        name="allocate",
        title="Rates and server shares of many users",
        aim="CVXPY = closed form to 1e-6; 1,000 users ≤ 1 s",
        sizes=(10, 100, 1000),
        smoke=(5,),
        contestants=contestants,
        baseline="cvxpy",
    )
)
