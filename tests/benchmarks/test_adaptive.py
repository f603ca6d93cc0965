"""What the adaptive benchmark says of its table; its smoke run has two policies, no end among them."""

from __future__ import annotations

import pandas as pd

from benchmarks.adaptive import against

RATIOS = ("x median_ms", "x mean_ms", "x p95_ms", "x frames_per_s")


def contest(*rows: tuple[str, str, float]) -> pd.DataFrame:
    """Channel, policy and its median's ratio; the mean's, the p95's and the frames' are so much more by a half each."""
    made = [("m", channel, policy, *(x + 0.5 * k for k in range(4))) for channel, policy, x in rows]
    return pd.DataFrame(made, columns=["model", "channel", "policy", *RATIOS])


FIXED = [("slow", "best fixed cut", 1.25), ("quick", "best fixed cut", 1.5), ("slow", "adaptive", 1.0)]


def test_the_ends_are_told_of_by_the_better_of_each_channel() -> None:
    ends = [
        ("slow", "device only", 2.0),
        ("slow", "server only", 7.0),
        ("quick", "device only", 9.0),
        ("quick", "server only", 3.0),
    ]
    assert against(contest(*FIXED, *ends)) == (
        "Against the best fixed cut, which knows the channel beforehand: median latency 1.25x to 1.50x, mean 1.75x to 2.00x, "
        "p95 2.25x to 2.50x, frames a second 2.75x to 3.00x; against the better end: median latency 2.00x to 3.00x, "
        "mean 2.50x to 3.50x, p95 3.00x to 4.00x, frames a second 3.50x to 4.50x (above 1: adaptive is better)."
    )


def test_ends_that_were_not_run_are_not_told_of() -> None:
    said = against(contest(*FIXED))
    assert "end" not in said and "nan" not in said and "1.25x to 1.50x" in said
