"""A Pyomo model as arrays: compiled once, and, where its coefficients are affine in slot parameters, patched after that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import coo_array, csr_array

from splitplan.errors import SolverError

if TYPE_CHECKING:
    import pyomo.environ as pyo

    from splitplan.formulations.split import SplitPoint


@dataclass(frozen=True, eq=False)
class Arrays:
    """min cost·z + offset subject to row_lower ≤ A z ≤ row_upper, lower ≤ z ≤ upper, z_j whole where ``whole``.

    Parameters
    ----------
    cost, lower, upper : array, shape (columns,)
    offset : float
    matrix : csr_array, shape (rows, columns)
    row_lower, row_upper : array, shape (rows,)
    whole : array of bool, shape (columns,)
    columns, rows : tuple of str
        Names, as Pyomo gives them.
    """

    cost: np.ndarray
    offset: float
    matrix: csr_array
    row_lower: np.ndarray
    row_upper: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    whole: np.ndarray
    columns: tuple[str, ...]
    rows: tuple[str, ...]


def to_arrays(model: pyo.ConcreteModel) -> Arrays:
    """Compile a linear Pyomo model with one minimization objective, by Pyomo's own standard-form compiler."""
    from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

    form: Any = LinearStandardFormCompiler().write(model, mixed_form=True)
    if len(form.objectives) != 1 or form.objectives[0].sense != 1:
        raise SolverError(f"model {model.name!r} must have exactly one objective, to minimize")
    kind = np.array([row.bound_type for row in form.rows], int)  # 1: ≤, −1: ≥, 0: =
    rhs = np.asarray(form.rhs, float)
    bounds = [v.bounds for v in form.columns]
    return Arrays(
        cost=np.asarray(form.c.todense(), float).reshape(-1),
        offset=float(form.c_offset[0]),
        matrix=csr_array(form.A),
        row_lower=np.where(kind == 1, -np.inf, rhs),
        row_upper=np.where(kind == -1, np.inf, rhs),
        lower=np.array([-np.inf if lo is None else lo for lo, _ in bounds], float),
        upper=np.array([np.inf if up is None else up for _, up in bounds], float),
        whole=np.array([v.is_integer() or v.is_binary() for v in form.columns], bool),
        columns=tuple(v.name for v in form.columns),
        rows=tuple(f"{row.constraint.name}:{row.bound_type}" for row in form.rows),
    )


class Affine:
    """Arrays whose numbers are affine in a slot's coordinates: sampled once at a base and one step along each, patched after.

    The Pyomo model stays the only statement of the mathematics; nobody writes the coefficients a second time.

    Parameters
    ----------
    problem : SplitPoint
        Any formulation with ``with_slot``, ``slot_point`` and ``slot_parameters``.

    Raises
    ------
    SolverError
        The model is not affine in its slot coordinates (checked at a further point).
    """

    def __init__(self, problem: SplitPoint) -> None:
        self.names = problem.slot_parameters
        self.base = problem.slot_point()
        current = {name: getattr(problem.system.link, name) for name in self.names}
        samples = [problem]
        for name in self.names:
            # Twice a rate, or some milliseconds more of a delay: any other value would do.
            value = self.base[name] + 0.01 if name.startswith("delay") else 2.0 * current[name]
            samples.append(problem.with_slot(**{name: value}))
        compiled = [to_arrays(p.build()) for p in samples]
        if any(a.columns != compiled[0].columns or a.rows != compiled[0].rows for a in compiled):
            raise SolverError(
                "the model's rows or columns change with the slot, so it cannot be compiled; please report this"
            )
        self.first = compiled[0]
        structure = self._union([a.matrix for a in compiled])
        self.indptr, self.indices = structure.indptr, structure.indices
        stacked = [self._numbers(a, structure) for a in compiled]
        self.constant = stacked[0]
        steps = [p.slot_point()[n] - self.base[n] for n, p in zip(self.names, samples[1:], strict=True)]
        self.slope = np.array([(s - stacked[0]) / d for s, d in zip(stacked[1:], steps, strict=True)])
        self._check(problem, structure)

    @staticmethod
    def _union(matrices: list[csr_array]) -> csr_array:
        parts = [m.tocoo() for m in matrices]
        rows, columns = np.concatenate([p.coords[0] for p in parts]), np.concatenate([p.coords[1] for p in parts])
        union = coo_array(
            (np.zeros(len(rows)), (rows, columns)), shape=matrices[0].shape
        ).tocsr()  # keeps explicit zeros
        union.sort_indices()
        return union

    @staticmethod
    def _numbers(a: Arrays, structure: csr_array) -> np.ndarray:
        """Cost, offset, right-hand sides and matrix entries in one row; infinite sides as 0 (they never change)."""
        c = a.matrix.tocoo()
        parts = [(np.r_[c.data, np.zeros(structure.nnz)])]
        s = structure.tocoo()
        full = coo_array(
            (parts[0], (np.r_[c.coords[0], s.coords[0]], np.r_[c.coords[1], s.coords[1]])), shape=structure.shape
        ).tocsr()
        full.sort_indices()
        finite = [np.where(np.isfinite(side), side, 0.0) for side in (a.row_lower, a.row_upper)]
        return np.concatenate([a.cost, [a.offset], *finite, full.data])

    def at(self, point: dict[str, float]) -> Arrays:
        """The arrays at a slot's coordinates."""
        step = np.array([point[n] - self.base[n] for n in self.names])
        numbers = self.constant + step @ self.slope
        n, m, first = len(self.first.cost), len(self.first.rows), self.first
        cost, offset, low, high, data = np.split(numbers, [n, n + 1, n + 1 + m, n + 1 + 2 * m])
        return Arrays(
            cost=cost,
            offset=float(offset[0]),
            matrix=csr_array((data, self.indices, self.indptr), shape=first.matrix.shape),
            row_lower=np.where(np.isfinite(first.row_lower), low, first.row_lower),
            row_upper=np.where(np.isfinite(first.row_upper), high, first.row_upper),
            lower=first.lower,
            upper=first.upper,
            whole=first.whole,
            columns=first.columns,
            rows=first.rows,
        )

    def _check(self, problem: SplitPoint, structure: csr_array) -> None:
        link = problem.system.link
        probe = problem.with_slot(
            rate_up_bps=0.7 * link.rate_up_bps,
            rate_down_bps=1.3 * link.rate_down_bps,
            delay_up_s=link.up_delay_s + 0.003,
        )
        direct = self._numbers(to_arrays(probe.build()), structure)
        patched = self.constant + np.array([probe.slot_point()[n] - self.base[n] for n in self.names]) @ self.slope
        if not np.allclose(direct, patched, rtol=1e-9, atol=1e-9):
            raise SolverError("the model's coefficients are not affine in the slot's coordinates; please report this")
