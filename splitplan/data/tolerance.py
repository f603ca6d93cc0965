"""How far up a share of what may come lies, from the few values that were measured: a one-sided tolerance bound."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import nct, norm

CONFIDENCE = 0.95
"""In so many of 100 samples the bound is high enough."""


def tolerance_bound(groups: Sequence[np.ndarray], quantile: float) -> float:
    """What that share of all values is at most, seen from a group's median.

    Values are taken as normal, each group with its own mean and all with the same spread s, which is estimated with n − G degrees of
    freedom (n values in G groups). A median of k values tells of the mean as much as 2k / π values averaged; so with that for n the bound is
    t'(confidence; n − G, z √(2k / π)) / √(2k / π) · s, t' the noncentral t distribution's quantile and z the normal one's (Hahn and Meeker,
    Statistical Intervals, 1991), and at least the quantile of the values themselves. The fewer they are, the higher it is.

    Parameters
    ----------
    groups : sequence of ndarray
        Values over their group's median.
    quantile : float
        From 0 to 1; of 1 there is only what was seen.
    """
    values = np.concatenate(groups)
    seen = float(np.quantile(values, quantile, method="higher"))
    free = len(values) - len(groups)
    rest = math.fsum(float(((x - x.mean()) ** 2).sum()) for x in groups)
    if rest == 0 or quantile >= 1:
        return seen
    root = math.sqrt(2 / math.pi * len(values) / len(groups))
    return max(seen, float(nct.ppf(CONFIDENCE, free, float(norm.ppf(quantile)) * root)) / root * math.sqrt(rest / free))
