"""The checks before serving: are the arguments what they should be, and is what both workers made of the example what the model makes?"""

from __future__ import annotations

from collections.abc import Mapping

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.plan import SplitPlan, Wire
from splitplan.data.profile import Profile
from splitplan.data.split_table import SplitTable
from splitplan.data.system import System
from splitplan.errors import ExecutorError, FingerprintError, HandshakeError, raise_all
from splitplan.executor.roles import CHECK_TOLERANCE
from splitplan.formulations.slot import SlotControl
from splitplan.formulations.solution import Solution
from splitplan.models.trace import Traced
from splitplan.policies.base import Policy
from splitplan.policies.slot import DecidesSlots


def check_given(traced: object, plan: object, system: object, profile: object, hosts: object) -> None:
    """Raise on arguments of `deploy` that are something else, with the likeliest cure; and on a profile of another model."""
    problems = []
    if not isinstance(traced, Traced):
        problems.append(
            f"the model is a {type(traced).__name__}; give what splitplan.trace(model, example) or splitplan.load_traced(path) returns"
        )
    if isinstance(plan, Solution):
        problems.append("the plan is a Solution; give the plan in it: solution.plan")
    elif isinstance(plan, SplitTable):
        problems.append(
            "the plan is a SplitTable; give a policy over it, splitplan.AdaptivePolicy(table), or one of its plans, table.plan(i)"
        )
    elif isinstance(plan, type):
        problems.append(
            f"the plan is the class {plan.__name__}; give an object of it, as splitplan.AdaptivePolicy(table)"
        )
    elif isinstance(plan, SlotControl):
        problems.append("the plan is a SlotControl; give a policy of it, splitplan.SlotPolicy(slot)")
    elif not isinstance(plan, (SplitPlan, PipelinePlan, Policy, DecidesSlots)):
        lacks = [n for n in ("name", "plans", "decide", "observe", "restart") if not hasattr(plan, n)]
        problems.append(
            f"the plan is a {type(plan).__name__}; give a SplitPlan, as solution.plan or SplitPlan.read(path), or a policy, as "
            "splitplan.AdaptivePolicy(table), splitplan.SlotPolicy(slot)"
            + (f" (as a policy it lacks {', '.join(lacks)})" if len(lacks) < 5 else "")
        )
    if not isinstance(system, System):
        problems.append(f"the system is a {type(system).__name__}; give a System, as the plan was solved for")
    if profile is not None and not isinstance(profile, Profile):
        problems.append(f"the profile is a {type(profile).__name__}; give a Profile, or leave it out")
    if hosts is not None and not isinstance(hosts, Mapping):
        problems.append(f'hosts is a {type(hosts).__name__}; give a mapping, as {{"server": "tcp://host:5555"}}')
    raise_all(problems, "deploy")
    if isinstance(profile, Profile) and isinstance(traced, Traced) and profile.graph.fingerprint != traced.fingerprint:
        raise FingerprintError(
            f"the profile is of {profile.graph.name!r}, fingerprint {profile.graph.fingerprint[:12] or '(none)'}, the model is "
            f"{traced.name!r}, {traced.fingerprint[:12]}: the structure, the weights, or which inputs are given by position and which "
            "by keyword differ. Give the profile that the plan was solved for, or leave it out"
        )


def judge(
    alone: str, compared: Mapping[str, float], wire: Wire, threads: int, whose: str = "the device worker's"
) -> tuple[dict[str, float], str]:
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
    threads : int
        Of the worker that computed the whole model too.
    whose : str
        That worker's name.

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
        return (
            counts,
            f"the example's split result is bit-equal to the whole model's, at {whose} {threads} thread(s)",
        )
    return counts, (
        f"the example's split result differs from the whole model's by {compared['whole_absolute']:.3g} "
        f"({compared['whole_relative']:.2g} of the largest output; wire {wire})"
    )


def agreed(told: list[str]) -> list[str]:
    """What was said of each cut, once where it is the same."""
    if len(set(told)) == 1:
        return [told[0] + (f" (each of {len(told)} cuts)" if len(told) > 1 else "")]
    return [f"cut {cut}: {text}" for cut, text in enumerate(told)]
