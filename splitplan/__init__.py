"""splitplan: where to cut a neural network between a device and a server, how good that is, and running it.

The public names, and nothing else. Each is loaded when it is first used, so that ``import splitplan`` is quick and loads
neither torch nor cvxpy, matplotlib or pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from splitplan import errors
    from splitplan.data.catalog import device, device_names, link, link_names
    from splitplan.data.channel import Channel
    from splitplan.data.channel_files import channel
    from splitplan.data.cut_set import CutSet
    from splitplan.data.device import Device
    from splitplan.data.import_dnn_partitioning import read_dnn_partitioning
    from splitplan.data.import_pipedream import read_pipedream
    from splitplan.data.import_pipeedge import read_pipeedge
    from splitplan.data.link import Link, Radio
    from splitplan.data.operators import Operator, OperatorGraph, OperatorPlan, OperatorSchedule
    from splitplan.data.pipeline_plan import PipelinePlan, RowBlock, Stage
    from splitplan.data.plan import SplitPlan
    from splitplan.data.profile import Origin, Profile
    from splitplan.data.read_graph import read_graph
    from splitplan.data.relay_plan import RelayPlan
    from splitplan.data.relay_table import RelayTable
    from splitplan.data.scenario import Arrivals, Scenario, bursty, periodic, poisson, recorded
    from splitplan.data.slot import SlotPlan, SlotState, Thermal
    from splitplan.data.split_table import SplitTable
    from splitplan.data.synthetic import markov_channel
    from splitplan.data.system import System
    from splitplan.data.training_plan import TrainingPlan, TrainingStage
    from splitplan.data.training_profile import TrainingProfile
    from splitplan.data.users import AllocationPlan, User
    from splitplan.data.way import Way
    from splitplan.executor.app import App
    from splitplan.executor.deploy import deploy
    from splitplan.executor.pipeline_app import PipelineApp
    from splitplan.executor.pipeline_report import PipelineReport
    from splitplan.executor.profiler import profile
    from splitplan.executor.report import Report
    from splitplan.executor.training import Trainer, train
    from splitplan.executor.training_compare import TrainingComparison, compare_training
    from splitplan.executor.training_profiler import profile_training
    from splitplan.executor.training_report import TrainingReport
    from splitplan.formulations.allocation import RateAllocation
    from splitplan.formulations.operator_latency import OperatorLatency
    from splitplan.formulations.pipeline import PipelinePlacement
    from splitplan.formulations.placement import OperatorPlacement
    from splitplan.formulations.relay import RelaySplit
    from splitplan.formulations.slot import SlotControl
    from splitplan.formulations.slot_continuous import SlotContinuous
    from splitplan.formulations.slot_horizon import SlotHorizon
    from splitplan.formulations.solution import Solution, Status, Termination
    from splitplan.formulations.split import SplitPoint
    from splitplan.formulations.stationary import StationaryBound
    from splitplan.formulations.training import HybridTraining
    from splitplan.formulations.training_estimate import TrainingEstimate
    from splitplan.models.graph import Layer, LayerGraph, Tensor
    from splitplan.models.trace import Traced, load_traced, trace
    from splitplan.models.zoo import zoo, zoo_example, zoo_names
    from splitplan.policies.adaptive import AdaptivePolicy, RateEstimator
    from splitplan.policies.base import Fixed, Moment, Policy, Seen
    from splitplan.policies.baselines import DADS, QDMP, DeviceOnly, Neurosurgeon, Scan, ServerOnly, at_rate
    from splitplan.policies.compare import compare
    from splitplan.policies.pipeline_result import PipelineResult, beside
    from splitplan.policies.replan import Replan
    from splitplan.policies.slot import DecidesSlots, SlotPolicy
    from splitplan.policies.slot_horizon import Horizon
    from splitplan.simulator.many import simulate_many
    from splitplan.simulator.pipeline import simulate_pipeline
    from splitplan.simulator.simulate import simulate
    from splitplan.simulator.sweep import sweep
    from splitplan.simulator.training import simulate_training
    from splitplan.solvers.convex import Convex
    from splitplan.solvers.envelope import split_table
    from splitplan.solvers.highs import Highs, HighsLP
    from splitplan.solvers.hull import cut_set
    from splitplan.solvers.ideals import Ideals
    from splitplan.solvers.ishikawa import Ishikawa
    from splitplan.solvers.kkt import KKT
    from splitplan.solvers.latency_list import LatencyList
    from splitplan.solvers.latency_milp import LatencyMilp
    from splitplan.solvers.mincut import MinCut
    from splitplan.solvers.pipeline_dp import PipelineDP
    from splitplan.solvers.pipeline_highs import PipelineMILP
    from splitplan.solvers.pipeline_keys import RandomKeys
    from splitplan.solvers.pipeline_swarm import ParticleSwarm
    from splitplan.solvers.placement import Placement
    from splitplan.solvers.placement_dp import PlacementDP
    from splitplan.solvers.placement_milp import PlacementMilp
    from splitplan.solvers.relay_table import relay_table
    from splitplan.solvers.training_dp import TrainingDP
    from splitplan.solvers.training_milp import TrainingMILP

_WHERE = {
    "splitplan.data.catalog": ("device", "device_names", "link", "link_names"),
    "splitplan.data.channel": ("Channel",),
    "splitplan.data.channel_files": ("channel",),
    "splitplan.data.cut_set": ("CutSet",),
    "splitplan.data.device": ("Device",),
    "splitplan.data.import_dnn_partitioning": ("read_dnn_partitioning",),
    "splitplan.data.import_pipedream": ("read_pipedream",),
    "splitplan.data.import_pipeedge": ("read_pipeedge",),
    "splitplan.data.link": ("Link", "Radio"),
    "splitplan.data.operators": ("Operator", "OperatorGraph", "OperatorPlan", "OperatorSchedule"),
    "splitplan.data.pipeline_plan": ("PipelinePlan", "RowBlock", "Stage"),
    "splitplan.data.plan": ("SplitPlan",),
    "splitplan.data.profile": ("Origin", "Profile"),
    "splitplan.data.read_graph": ("read_graph",),
    "splitplan.data.relay_plan": ("RelayPlan",),
    "splitplan.data.relay_table": ("RelayTable",),
    "splitplan.data.scenario": ("bursty", "Arrivals", "Scenario", "periodic", "poisson", "recorded"),
    "splitplan.data.slot": ("SlotPlan", "SlotState", "Thermal"),
    "splitplan.data.split_table": ("SplitTable",),
    "splitplan.data.synthetic": ("markov_channel",),
    "splitplan.data.system": ("System",),
    "splitplan.data.training_plan": ("TrainingPlan", "TrainingStage"),
    "splitplan.data.training_profile": ("TrainingProfile",),
    "splitplan.data.users": ("AllocationPlan", "User"),
    "splitplan.data.way": ("Way",),
    "splitplan.executor.app": ("App",),
    "splitplan.executor.deploy": ("deploy",),
    "splitplan.executor.pipeline_app": ("PipelineApp",),
    "splitplan.executor.pipeline_report": ("PipelineReport",),
    "splitplan.executor.profiler": ("profile",),
    "splitplan.executor.report": ("Report",),
    "splitplan.executor.training": ("Trainer", "train"),
    "splitplan.executor.training_compare": ("TrainingComparison", "compare_training"),
    "splitplan.executor.training_profiler": ("profile_training",),
    "splitplan.executor.training_report": ("TrainingReport",),
    "splitplan.formulations.allocation": ("RateAllocation",),
    "splitplan.formulations.operator_latency": ("OperatorLatency",),
    "splitplan.formulations.pipeline": ("PipelinePlacement",),
    "splitplan.formulations.placement": ("OperatorPlacement",),
    "splitplan.formulations.relay": ("RelaySplit",),
    "splitplan.formulations.slot": ("SlotControl",),
    "splitplan.formulations.slot_continuous": ("SlotContinuous",),
    "splitplan.formulations.slot_horizon": ("SlotHorizon",),
    "splitplan.formulations.solution": ("Solution", "Status", "Termination"),
    "splitplan.formulations.split": ("SplitPoint",),
    "splitplan.formulations.stationary": ("StationaryBound",),
    "splitplan.formulations.training": ("HybridTraining",),
    "splitplan.formulations.training_estimate": ("TrainingEstimate",),
    "splitplan.models.graph": ("Layer", "LayerGraph", "Tensor"),
    "splitplan.models.trace": ("Traced", "load_traced", "trace"),
    "splitplan.models.zoo": ("zoo", "zoo_example", "zoo_names"),
    "splitplan.policies.adaptive": ("AdaptivePolicy", "RateEstimator"),
    "splitplan.policies.base": ("Fixed", "Moment", "Policy", "Seen"),
    "splitplan.policies.baselines": ("DADS", "QDMP", "DeviceOnly", "Neurosurgeon", "Scan", "at_rate", "ServerOnly"),
    "splitplan.policies.compare": ("compare",),
    "splitplan.policies.pipeline_result": ("PipelineResult", "beside"),
    "splitplan.policies.replan": ("Replan",),
    "splitplan.policies.slot": ("DecidesSlots", "SlotPolicy"),
    "splitplan.policies.slot_horizon": ("Horizon",),
    "splitplan.simulator.many": ("simulate_many",),
    "splitplan.simulator.pipeline": ("simulate_pipeline",),
    "splitplan.simulator.simulate": ("simulate",),
    "splitplan.simulator.sweep": ("sweep",),
    "splitplan.simulator.training": ("simulate_training",),
    "splitplan.solvers.convex": ("Convex",),
    "splitplan.solvers.envelope": ("split_table",),
    "splitplan.solvers.highs": ("Highs", "HighsLP"),
    "splitplan.solvers.hull": ("cut_set",),
    "splitplan.solvers.ideals": ("Ideals",),
    "splitplan.solvers.ishikawa": ("Ishikawa",),
    "splitplan.solvers.kkt": ("KKT",),
    "splitplan.solvers.latency_list": ("LatencyList",),
    "splitplan.solvers.latency_milp": ("LatencyMilp",),
    "splitplan.solvers.mincut": ("MinCut",),
    "splitplan.solvers.pipeline_dp": ("PipelineDP",),
    "splitplan.solvers.pipeline_highs": ("PipelineMILP",),
    "splitplan.solvers.pipeline_keys": ("RandomKeys",),
    "splitplan.solvers.pipeline_swarm": ("ParticleSwarm",),
    "splitplan.solvers.placement": ("Placement",),
    "splitplan.solvers.placement_dp": ("PlacementDP",),
    "splitplan.solvers.placement_milp": ("PlacementMilp",),
    "splitplan.solvers.relay_table": ("relay_table",),
    "splitplan.solvers.training_dp": ("TrainingDP",),
    "splitplan.solvers.training_milp": ("TrainingMILP",),
}
_HOME = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "DADS",
    "KKT",
    "QDMP",
    "AdaptivePolicy",
    "AllocationPlan",
    "App",
    "Arrivals",
    "Channel",
    "Convex",
    "CutSet",
    "DecidesSlots",
    "Device",
    "DeviceOnly",
    "Fixed",
    "Highs",
    "HighsLP",
    "Horizon",
    "HybridTraining",
    "Ideals",
    "Ishikawa",
    "LatencyList",
    "LatencyMilp",
    "Layer",
    "LayerGraph",
    "Link",
    "MinCut",
    "Moment",
    "Neurosurgeon",
    "Operator",
    "OperatorGraph",
    "OperatorLatency",
    "OperatorPlacement",
    "OperatorPlan",
    "OperatorSchedule",
    "Origin",
    "ParticleSwarm",
    "PipelineApp",
    "PipelineDP",
    "PipelineMILP",
    "PipelinePlacement",
    "PipelinePlan",
    "PipelineReport",
    "PipelineResult",
    "Placement",
    "PlacementDP",
    "PlacementMilp",
    "Policy",
    "Profile",
    "Radio",
    "RandomKeys",
    "RateAllocation",
    "RateEstimator",
    "RelayPlan",
    "RelaySplit",
    "RelayTable",
    "Replan",
    "Report",
    "RowBlock",
    "Scan",
    "Scenario",
    "Seen",
    "ServerOnly",
    "SlotContinuous",
    "SlotControl",
    "SlotHorizon",
    "SlotPlan",
    "SlotPolicy",
    "SlotState",
    "Solution",
    "SplitPlan",
    "SplitPoint",
    "SplitTable",
    "Stage",
    "StationaryBound",
    "Status",
    "System",
    "Tensor",
    "Termination",
    "Thermal",
    "Traced",
    "Trainer",
    "TrainingComparison",
    "TrainingDP",
    "TrainingEstimate",
    "TrainingMILP",
    "TrainingPlan",
    "TrainingProfile",
    "TrainingReport",
    "TrainingStage",
    "User",
    "Way",
    "__version__",
    "at_rate",
    "beside",
    "bursty",
    "channel",
    "compare",
    "compare_training",
    "cut_set",
    "deploy",
    "device",
    "device_names",
    "errors",
    "link",
    "link_names",
    "load_traced",
    "markov_channel",
    "periodic",
    "poisson",
    "profile",
    "profile_training",
    "read_dnn_partitioning",
    "read_graph",
    "read_pipedream",
    "read_pipeedge",
    "recorded",
    "relay_table",
    "simulate",
    "simulate_many",
    "simulate_pipeline",
    "simulate_training",
    "split_table",
    "sweep",
    "trace",
    "train",
    "zoo",
    "zoo_example",
    "zoo_names",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("splitplan.errors")
    if name not in _HOME:
        raise AttributeError(f"splitplan has no {name!r}; its public names: {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
