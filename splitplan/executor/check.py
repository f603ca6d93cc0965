"""The check before serving: is what both workers made of the example what the model makes of it?"""

from __future__ import annotations

from collections.abc import Mapping

from splitplan.data.plan import Wire
from splitplan.errors import ExecutorError, HandshakeError
from splitplan.executor.roles import CHECK_TOLERANCE


def judge(alone: str, compared: Mapping[str, float], wire: Wire) -> tuple[dict[str, float], str]:
    """What the report counts and says of the check.

    Parameters
    ----------
    alone : str
        Why the example was finished without the server; empty when it was not.
    compared : mapping of str to float
        How far the split result is from the same computed in one process (``crossing_…``), and from the whole model's
        (``whole_…``): absolute, relative to the largest output, and whether bit-equal.
    wire : str
        The plan's; a narrow one makes the result differ from the whole model's.

    Raises
    ------
    ExecutorError
        The example was not run split.
    HandshakeError
        The results differ by more than rounding.
    """
    if alone:
        raise ExecutorError(f"the example could not be run split: {alone}")
    if compared["crossing_relative"] > CHECK_TOLERANCE:
        raise HandshakeError(
            f"the example's result through both workers differs from the same computed in one by {compared['crossing_relative']:.2g} "
            f"of the largest output (allowed: {CHECK_TOLERANCE:g}); the workers compute differently: same torch on both?"
        )
    if wire == "fp32" and compared["whole_relative"] > CHECK_TOLERANCE:
        raise HandshakeError(
            f"the example's split result differs from the whole model's by {compared['whole_relative']:.2g} of the largest output "
            f"(allowed: {CHECK_TOLERANCE:g}); please report this model"
        )
    counts = {
        "largest_output_difference": compared["whole_absolute"],
        "largest_output_difference_relative": compared["whole_relative"],
    }
    if compared["whole_equal"]:
        return counts, "the example's split result is bit-equal to the whole model's"
    return counts, (
        f"the example's split result differs from the whole model's by {compared['whole_absolute']:.3g} "
        f"({compared['whole_relative']:.2g} of the largest output; wire {wire})"
    )
