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

    Values are taken as normal, those of a kind about its own mean; a start shifts all its values, normally too. With J starts (the most of
    a kind) of K values (the harmonic mean), let m_b be the mean square of starts' means about their kind's, the larger one of this crowd's
    and of all crowds', and m_w that of the own values within starts. A value after a new start then varies by s² = max(m_b + (1 − 1/K) m_w,
    m_w), and what is typical by π/2 m_b / J, as a median of k varies as a mean of 2k/π. The bound is t'(confidence; f, z √n) s / √n with n =
    (2J/π) min(s²/m_b, K), t' the noncentral t distribution's quantile and z the normal one's (Hahn and Meeker, Statistical Intervals, 1991;
    with two spreads Mee and Owen, J. Am. Stat. Assoc. 78, 1983, whose degrees of freedom hold too seldom with so few starts: here f is that
    of all crowds' m_b, and where m_b ≤ m_w / K, so that starts show no shift, that of both). It is at least the quantile of the values
    themselves. Where nothing was started twice it is that of one start, f that of m_w.

    Simulated with three crowds of two kinds, three starts and five values, it holds in 98 % of cases and more where starts shift each kind
    by itself and by less than values vary, in 95 % and more where they shift all alike by as little. Where they shift by three times as much
    it holds in 97 % if each kind is shifted by itself, in 95 % if a crowd's kinds are shifted alike, and in 78 % if all crowds are, so that
    three starts are all there is (74 % at ten times as much).

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
    each = len(starts) / math.fsum(1 / len(x) for x in starts)
    free = len(values) - len(starts)
    m_w = math.fsum(float(((x - x.mean()) ** 2).sum()) for x in starts) / max(free, 1)
    shifts = [_shifts(crowd) for crowd in (own, *others)]
    again = sum(n for _, n in shifts)
    m_b = max(_mean(shifts[:1]), _mean(shifts))
    if quantile >= 1 or m_b == m_w == 0:
        return seen
    count, square, degrees = each, m_w, free
    if again:
        square = max(m_b + (1 - 1 / each) * m_w, m_w)
        degrees = again + (free if m_b <= m_w / each else 0)
        count = max(len(kind) for kind in own) * (min(square / m_b, each) if m_b else each)
    root = math.sqrt(2 / math.pi * count)
    return max(seen, float(nct.ppf(CONFIDENCE, degrees, float(norm.ppf(quantile)) * root)) / root * math.sqrt(square))


def shift_spread(crowds: Sequence[Sequence[Kind]]) -> float | None:
    """The standard deviation of starts' means about their kind's, of all crowds together; None when nothing was started twice."""
    shifts = [_shifts(crowd) for crowd in crowds]
    return math.sqrt(_mean(shifts)) if any(n for _, n in shifts) else None


def _mean(shifts: Sequence[tuple[float, int]]) -> float:
    return math.fsum(total for total, _ in shifts) / max(sum(n for _, n in shifts), 1)


def _shifts(crowd: Sequence[Kind]) -> tuple[float, int]:
    """Squares of starts' means about their kind's: their sum and its degrees of freedom."""
    means = [np.array([x.mean() for x in kind]) for kind in crowd]
    return math.fsum(float(((x - x.mean()) ** 2).sum()) for x in means), sum(len(x) - 1 for x in means)
