"""Which labels of a training plan are kept: those that no other is as good as in everything, or nearly, and what that may lose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from splitplan.solvers.training_labels import Level

EVEN = 1e-12
"""Two values this near, relatively, are the same: sums in another order."""


@dataclass(frozen=True)
class Sieve:
    """How many labels of a level may be kept without any loss, and what may be lost at first when there are more.

    A label that is left out is one that another, which is kept, is at most a little worse than in every cost; whatever stages come before
    both, the plan then takes little longer. So over all levels no more is lost than the sum of what each has lost: the plan that is
    found takes at most so much longer than the least one (as the schemes for constrained paths do: Warburton, Operations Research 35,
    1987).

    Parameters
    ----------
    most : int, optional
        Without, as many as there are; never fewer than one for each cut, workers and replicas.
    first : float
        Relative to the plan's seconds, over all levels; doubled until no more than so many are left.
    """

    most: int | None = None
    first: float = 1e-4

    def kept(self, level: Level, costs: np.ndarray, room: np.ndarray, unit: float) -> tuple[np.ndarray, float]:
        """Labels that are kept, in their order, and the seconds that may be lost thereby.

        Parameters
        ----------
        level : Level
        costs : ndarray
            To compare them by, shape (costs, labels).
        room : ndarray
            By how much each of the costs may be larger for a second's loss.
        unit : float
            Seconds that `first` is relative to.
        """
        order = np.lexsort((costs.sum(axis=0), level.value, level.replicas, level.used, level.cut))
        keys = np.stack([level.cut, level.used, level.replicas])[:, order]
        ends = [*(np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1).tolist(), len(order)]
        values = np.ascontiguousarray(costs[:, order].T)
        loss = 0.0
        # One for each key is kept whatever may be lost.
        most = None if self.most is None else max(self.most, len(ends))
        while True:
            found = _sieved(values, ends, loss * room, most)
            if found is not None:
                return np.sort(order[found]), loss
            # Where layers take no time the unit is 0, and links or tails say what a second is worth.
            loss = 2 * loss or self.first * (unit or float(values.max()))


def _sieved(values: np.ndarray, ends: list[int], more: np.ndarray, most: int | None) -> list[int] | None:
    """Of each run that ends so, those that none kept before is as good as with so much more; None when they are too many."""
    found: list[int] = []
    begin = 0
    for end in ends:
        left = np.arange(begin, end)
        while len(left):
            first = int(left[0])
            found.append(first)
            if most is not None and len(found) > most:
                return None
            if len(left) == 1:
                break
            left = left[1:]
            # As good in everything, to the last digits of a sum.
            beaten = (values[first] <= values[left] * (1 + EVEN) + more).all(axis=1)
            left = left[~beaten]
        begin = end
    return found
