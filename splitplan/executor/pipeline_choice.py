"""Which plan is arranged when a pipeline broke: the one that stood where it still can, else the policy's, else all at one place.

The policy is the user's: it may raise, give what is no plan, or think for long; frames that were accepted wait meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.system import System
from splitplan.errors import DataError, ExecutorError, raise_all
from splitplan.policies.replan import Replans, all_at_one

_LOOK_S = 0.05


class Abandoned(Exception):
    """The app is being closed: nobody waits for a plan any more."""


def ask(replan: Replans, left: System, closed: threading.Event) -> object:
    """What the policy gives for the system that is left; it thinks in a thread of its own, which is left alone at a close.

    Raises
    ------
    Abandoned
        ``closed`` was set before it answered.
    Exception
        Whatever the policy raises.
    """
    answer: Future[object] = Future()

    def think() -> None:
        try:
            answer.set_result(replan(left))
        except BaseException as e:  # noqa: BLE001  raised where it is waited for
            answer.set_exception(e if isinstance(e, Exception) else ExecutorError(f"{type(e).__name__}: {e}"))

    threading.Thread(target=think, name="splitplan policy", daemon=True).start()
    while not wait([answer], _LOOK_S).done:
        if closed.is_set():
            raise Abandoned
    return answer.result()


def choose(
    plan: PipelinePlan,
    left: System,
    replan: Replans,
    problems: Callable[[PipelinePlan, System], list[str]],
    note: Callable[[str], None],
    closed: threading.Event,
) -> PipelinePlan:
    """The plan to arrange on who is left.

    Parameters
    ----------
    plan : PipelinePlan
        That stood.
    left : System
    replan : callable
    problems : callable
        Why a plan cannot be run on a system by those who are there; raises a `DataError` where the system does not carry it.
    note : callable
        Given what the report should say.
    closed : threading.Event
        Set when the app is being closed.

    Raises
    ------
    Abandoned
        It is being closed.
    """
    with contextlib.suppress(DataError):  # names what is missing: then another plan is needed
        problems(plan, left)
        return plan
    try:
        found = ask(replan, left, closed)
        if not isinstance(found, PipelinePlan):
            raise DataError(f"gave a {type(found).__name__}; it must give a splitplan.PipelinePlan", "replan")
        raise_all(problems(found, left), "replan")
    except Abandoned:
        raise
    except Exception as e:  # noqa: BLE001  the policy is the user's, and accepted frames must be answered
        found = all_at_one(plan, left)
        places = ", ".join(left.places)
        note(f"the policy found no plan for {places} ({type(e).__name__}: {e}); one place computed all")
    note(f"re-planned on {', '.join(left.places)}: {found.describe()}")
    return found
