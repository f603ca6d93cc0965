"""Starting a plan or a policy: the arguments looked at, the workers started, the example checked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar, overload

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.plan import SplitPlan
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.errors import DataError, raise_all
from splitplan.executor.app import App
from splitplan.executor.check import check_given
from splitplan.executor.conditions import not_emulated, pipeline_not_emulated
from splitplan.executor.crew import Settings
from splitplan.executor.pipeline_app import PipelineApp
from splitplan.executor.pipeline_settings import PipelineSettings
from splitplan.executor.slots import SlotDriver
from splitplan.executor.wire import MAX_PLANS
from splitplan.models.trace import Traced
from splitplan.policies.base import Fixed, Policy
from splitplan.policies.replan import Replan, Replans
from splitplan.policies.slot import DecidesSlots

DEPTH, SLOTTED_DEPTH = 8, 512
MAX_RESTARTS = 10

AnyApp = TypeVar("AnyApp", App, PipelineApp)


@overload
def deploy(
    traced: Traced,
    plan: SplitPlan | Policy | DecidesSlots,
    system: System,
    *,
    profile: Profile | None = None,
    hosts: Mapping[str, str] | None = None,
    keys: str | Path | None = None,
    emulate: bool | None = None,
    depth: int | None = None,
    check: bool = True,
    heartbeat_s: float = 1.0,
    frame_timeout_s: float | None = None,
    start_timeout_s: float = 120.0,
    max_restarts: int | None = None,
    governor: str | None = None,
    meter: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> App: ...


@overload
def deploy(
    traced: Traced,
    plan: PipelinePlan,
    system: System,
    *,
    profile: Profile | None = None,
    hosts: Mapping[str, str] | None = None,
    keys: str | Path | None = None,
    emulate: bool | None = None,
    depth: int | None = None,
    check: bool = True,
    heartbeat_s: float = 1.0,
    frame_timeout_s: float | None = None,
    start_timeout_s: float = 120.0,
    replan: Replans | None = None,
    progress: Callable[[str], None] | None = None,
) -> PipelineApp: ...


def deploy(
    traced: Traced,
    plan: SplitPlan | Policy | DecidesSlots | PipelinePlan,
    system: System,
    *,
    profile: Profile | None = None,
    hosts: Mapping[str, str] | None = None,
    keys: str | Path | None = None,
    emulate: bool | None = None,
    depth: int | None = None,
    check: bool = True,
    heartbeat_s: float = 1.0,
    frame_timeout_s: float | None = None,
    start_timeout_s: float = 120.0,
    max_restarts: int | None = None,
    governor: str | None = None,
    meter: str | None = None,
    replan: Replans | None = None,
    progress: Callable[[str], None] | None = None,
) -> App | PipelineApp:
    """Start running a plan, or a policy that chooses one of its plans for each frame, or clock and rate too, slot by slot.

    A pipeline's plan runs on one worker a place. A place that is lost is not started again: another plan is made for those that are
    left, and what was accepted is computed by that.

    The device worker holds the whole model, to finish frames when the server is away: a limit on device memory that the
    plan was made under holds for the head alone, not for that worker.

    Parameters
    ----------
    traced : Traced
    plan : SplitPlan, Policy, SlotPolicy or PipelinePlan
        For this model; a plan's ``predicted`` is what the report compares with. Of a policy all plans are kept ready at both ends.
        A slotted policy turns the device's clock and the sender's rate as well.
    system : System
        Two places, ``device`` and ``server``, and the link between them; of a pipeline, all places that may be used.
    profile : Profile, optional
        For the report: it names the profile, and says where the system has another number of threads. Of a pipeline also what the
        plan on the places that are left is made from.
    hosts : mapping of str to str, optional
        Addresses of workers that run already, as ``{"server": "tcp://host:5555"}``; a place without one gets a local worker.
        With hosts nothing is emulated unless ``emulate`` says so: the real link is measured and beside it stands the
        prediction for the system's.
    keys : path, optional
        Directory of keys (`splitplan.executor.keys`): encrypts what goes over TCP. Needed for hosts beyond this machine.
    emulate : bool, optional
        Whether the link is shaped to the system's and local workers are slowed to the system's devices. By default True
        without ``hosts`` and False with them; a warning says then what of the system is left out. Workers elsewhere are
        slowed by their own ``--slowdown`` only.
    depth : int, optional
        Frames under way at once; `App.submit` waits while there are so many. 8; of a slotted policy, whose queues are its own, 512; of
        a pipeline as many as keep all its stages and ways busy.
    check : bool
        Run the example split and whole, compare, and refuse to serve when they differ by more than rounding.
    heartbeat_s : float
        A peer not heard of for three of these is gone.
    frame_timeout_s : float, optional
        A frame that the server has not answered by then is finished on the device. By default 30 s and what ``depth``
        frames take on the link. Time in which a slotted policy let nothing be sent does not count while a frame waits for it.
        A pipeline that has not answered a frame by then is arranged anew, without whoever does not answer.
    start_timeout_s : float
        For each worker to get ready, and for the check.
    max_restarts : int, optional
        How often each local worker is started again: 10. Of a pipeline none is.
    governor : str, optional
        Of a slotted policy: what sets the clock of a local device worker: ``"emulated"`` (a duty cycle), ``"devfreq"``, ``"cpufreq"``,
        ``"nvml:0"`` (see `splitplan.executor.governor`). Emulated by default where the system is emulated; a worker elsewhere has
        its own, by ``splitplan worker --governor``.
    meter : str, optional
        What measures the local device worker's energy: ``"rapl"``, ``"nvml:0"`` (see `splitplan.executor.meter`).
    replan : callable, optional
        Of a pipeline: given the `System` that is left when a place or a link is lost, gives a `PipelinePlan` for it. By default
        `splitplan.policies.replan.Replan`: of least period when there is a ``profile``, else all layers at one place.
    progress : callable, optional
        Told, while it starts, what is being waited for.

    Raises
    ------
    DataError, FingerprintError
        The plan or the profile is not for this model or system, or an argument is something else.
    HandshakeError
        The workers do not fit together: version, weights, keys; or the split does not compute what the model does.
    ExecutorError
        A worker cannot be started or reached.

    Warns
    -----
    UserWarning
        ``hosts`` are given, ``emulate`` is not, and the system has a slowed device or a link that is not loopback.
    """
    check_given(traced, plan, system, profile, hosts)
    if isinstance(plan, PipelinePlan):
        named = {"max_restarts": max_restarts, "governor": governor, "meter": meter}
        raise_all(
            [f"{k}={v!r} is not for a pipeline; leave it out" for k, v in named.items() if v is not None], "deploy"
        )
        pipeline = PipelineSettings(
            dict(hosts or {}), keys, emulate, depth, heartbeat_s, frame_timeout_s, start_timeout_s
        )
        made = _make_pipeline(traced, plan, system, profile, pipeline, replan, progress)
        left_out = pipeline_not_emulated(plan, system, pipeline.hosts) if hosts and emulate is None else []
        return _started(made, left_out, check)
    if replan is not None:
        raise DataError(
            "replan is for a PipelinePlan; a device finishes alone what its server does not answer", "deploy"
        )
    policy: Policy = (
        plan if isinstance(plan, Policy) else SlotDriver(plan) if isinstance(plan, DecidesSlots) else Fixed(plan)
    )
    if depth is None:
        depth = SLOTTED_DEPTH if isinstance(policy, SlotDriver) else DEPTH
    settings = Settings(
        dict(hosts or {}),
        keys,
        emulate,
        depth,
        heartbeat_s,
        frame_timeout_s,
        start_timeout_s,
        MAX_RESTARTS if max_restarts is None else max_restarts,
        governor,
        meter,
    )
    raise_all(governor_problems(settings, isinstance(policy, SlotDriver)), "deploy")
    raise_all(number_problems(policy), f"policy {policy.name!r}")
    app = App(traced, policy, system, profile=profile, settings=settings, progress=progress)
    left_out = [t for p in app.plans for t in not_emulated(p, system, hosts)] if hosts and emulate is None else []
    return _started(app, left_out, check)


def _started(app: AnyApp, left_out: list[str], check: bool) -> AnyApp:
    """The app, running, once its user has been told what of the system is left out."""
    for text in dict.fromkeys(left_out):
        warnings.warn(text, stacklevel=3)
    try:
        app._start(check)
    except BaseException:
        app.close(wait=False)
        raise
    return app


def _make_pipeline(
    traced: Traced,
    plan: PipelinePlan,
    system: System,
    profile: Profile | None,
    settings: PipelineSettings,
    replan: Replans | None,
    progress: Callable[[str], None] | None,
) -> PipelineApp:
    if replan is not None and not callable(replan):
        raise DataError(
            f"replan is a {type(replan).__name__}; give a callable that takes a System and gives a PipelinePlan",
            "deploy",
        )
    settings.check(system)
    return PipelineApp(
        traced,
        plan,
        system,
        profile=profile,
        settings=settings,
        replan=replan or Replan(plan, profile),
        progress=progress,
    )


def number_problems(policy: Policy) -> list[str]:
    """Whether a policy has more plans than both ends keep ready."""
    if (count := len(tuple(policy.plans))) <= MAX_PLANS:
        return []
    fewer = "take some: SlotPolicy(control, cuts=[…])" if isinstance(policy, SlotDriver) else "leave out some"
    return [f"has {count:,} plans; both ends keep the parts of up to {MAX_PLANS:,} ready: {fewer}"]


def governor_problems(settings: Settings, slotted: bool) -> list[str]:
    """What is wrong with a governor or a meter that was named."""
    problems = []
    for name, value in (("governor", settings.governor), ("meter", settings.meter)):
        if value is not None and not slotted:
            problems.append(f"{name}={value!r} is for a slotted policy; a plan or a policy of cuts sets no clock")
        elif value not in (None, "emulated") and "device" in settings.hosts:
            problems.append(f"{name}={value!r}: the device worker runs elsewhere; start it there with --{name} {value}")
    if settings.meter == "emulated":
        problems.append("meter='emulated': energy is always modelled; a meter measures, 'rapl' or 'nvml:0'")
    return problems
