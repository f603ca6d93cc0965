"""Channels made up from what is known of one: mean, 5th percentile, coherence time. Seeded; nothing to download."""

from __future__ import annotations

import math

import numpy as np

from splitplan.data.channel import Channel
from splitplan.errors import DataError, raise_all
from splitplan.models.graph import number_problem

_Z5 = 1.6448536269514722
"""The standard normal is below −_Z5 for 5 % of the time."""


def markov_channel(
    mean_bps: float,
    p5_bps: float,
    coherence_s: float,
    *,
    duration_s: float = 600.0,
    step_s: float | None = None,
    states: int = 64,
    seed: int = 0,
) -> Channel:
    """A Markov-modulated channel with stated mean, 5th percentile and coherence time.

    Rates are log-normal, rate = exp(m + s z), with s from ln(mean / p5) = s²/2 + 1.645 s, put into ``states`` classes of equal
    probability that each hold their class's mean rate; so the long-run mean is exact, and the 5th percentile that of the classes. The class follows a
    first-order Markov chain: z is an autoregression z' = ρ z + √(1−ρ²) ε with ρ = exp(−step / coherence), observed through its class, and
    its autocorrelation falls to 1/e at the coherence time.

    Parameters
    ----------
    mean_bps, p5_bps : float
        0 < p5 < mean.
    coherence_s : float
    duration_s : float
    step_s : float, optional
        How long each rate holds; a tenth of the coherence time.
    states : int
        Classes; at least 2.
    seed : int

    Returns
    -------
    Channel
    """
    problems = [
        p
        for n, v in (
            ("mean_bps", mean_bps),
            ("p5_bps", p5_bps),
            ("coherence_s", coherence_s),
            ("duration_s", duration_s),
        )
        if (p := number_problem(n, v, positive=True))
    ]
    if step_s is not None:
        problems += [p for p in [number_problem("step_s", step_s, positive=True)] if p]
    if not problems and not p5_bps < mean_bps:
        problems.append(f"p5_bps is {p5_bps:g} and mean_bps {mean_bps:g}; give 0 < p5_bps < mean_bps")
    if isinstance(states, bool) or not isinstance(states, int) or states < 2:
        problems.append(f"states is {states!r}; give a whole number from 2")
    raise_all(problems, "markov_channel")
    step = step_s or coherence_s / 10
    count = max(1, math.ceil(duration_s / step * (1 - 1e-9)))
    if count > 10_000_000:
        raise DataError(f"{count} steps; give a longer step_s or a shorter duration_s", "markov_channel")
    spread = math.sqrt(_Z5**2 + 2 * math.log(mean_bps / p5_bps)) - _Z5
    from scipy.signal import lfilter
    from scipy.special import ndtr, ndtri

    rng, rho = np.random.default_rng(seed), math.exp(-step / coherence_s)
    start, noise = rng.standard_normal(), rng.standard_normal(count) * math.sqrt(1 - rho**2)
    noise[0] = start  # in its long run from the first step on
    z = lfilter([1.0], [1.0, -rho], noise)
    # Mean of a log-normal within a class of its normal quantiles: a difference of two normal distribution functions.
    edges = ndtri(np.linspace(0.0, 1.0, states + 1))
    rates = mean_bps * states * np.diff(ndtr(edges - spread))
    classes = np.clip(np.floor(ndtr(z) * states).astype(int), 0, states - 1)
    about = f"synthetic: log-normal in {states} classes, mean {mean_bps / 1e6:g} Mbit/s, p5 {p5_bps / 1e6:g}, coherence {coherence_s:g} s, seed {seed}"
    times = np.append(step * np.arange(count), duration_s)
    return Channel(times, rates[classes], f"markov {mean_bps / 1e6:g} Mbit/s", about)
