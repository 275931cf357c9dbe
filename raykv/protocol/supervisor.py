"""Requests to the supervisor, and their answers.

Coordinators request the cluster's state, and forward clients' requests about the store as a whole: buckets, members,
moves, scaling.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from raykv.protocol.codec import Failed, Message
from raykv.records import limits as lim


class GetClusterUpdate(Message, frozen=True):
    """A coordinator asks the supervisor for a cluster update. Answer: ``ClusterUpdate``.

    ``run``, ``counters``, ``histograms`` (see ``records.durations``): a coordinator reports what its process has counted
    since its start; 0: it does not.
    """

    run: lim.Number = 0
    counters: lim.Counters = {}
    histograms: lim.Histograms = {}


class OpenBucket(Message, frozen=True):
    """Find the bucket, or create it with ``options`` (fields of BucketConfig). Answer: ``BucketOpened``."""

    name: lim.Name
    options: lim.Settings
    timeout_s: float


class DropBucket(Message, frozen=True):
    """Drop the bucket and all in it. Answer: ``Info``."""

    name: lim.Name
    timeout_s: float


class GetInfo(Message, frozen=True):
    """Ask for plain data to show: "status", "ring", "buckets". Answer: ``Info``."""

    what: lim.Name
    timeout_s: float


class AddNode(Message, frozen=True):
    """Let one more storage node join. Answer: ``Info`` with its id.

    ``weight``: 0 for what its host can carry. ``host``, ``zone``: empty for where there is most room.
    """

    weight: float
    zone: lim.Name
    host: lim.Name
    timeout_s: float


class RemoveNode(Message, frozen=True):
    """Drain a node, then remove it. Answer: ``Info``."""

    node_id: lim.NodeId
    timeout_s: float


class ReplaceNode(Message, frozen=True):
    """Replace a lost node by a new one. Answer: ``Info`` with its id. ``host``: as in ``AddNode``."""

    node_id: lim.NodeId
    host: lim.Name
    timeout_s: float


class RestartNode(Message, frozen=True):
    """Restart a node whose run ``incarnation`` it is, once that is safe; asked again, say how far it is.

    ``force``: although buckets cannot be read or written meanwhile. Answer: ``Info``, see ``raykv.supervision.restarting``.
    """

    node_id: lim.NodeId
    incarnation: lim.Number
    force: bool
    timeout_s: float


class SetWeight(Message, frozen=True):
    """Change a node's weight. Answer: ``Info``."""

    node_id: lim.NodeId
    weight: float
    timeout_s: float


class Rebalance(Message, frozen=True):
    """Hold the moves of partitions ("pause"), continue them ("resume"), or cancel them ("abort"). Answer: ``Info``."""

    action: lim.Name
    timeout_s: float


class Autoscale(Message, frozen=True):
    """Return what the autoscaler sees and would do; with ``limits`` (fields of ScalingConfig) set those first.

    ``dry_run``: only try these limits. ``off``: stop autoscaling. Answer: ``Info``.
    """

    limits: lim.Settings | None
    dry_run: bool
    off: bool
    timeout_s: float


ElasticRequest: TypeAlias = AddNode | RemoveNode | ReplaceNode | RestartNode | SetWeight | Rebalance | Autoscale


SupervisorRequest: TypeAlias = GetClusterUpdate | OpenBucket | DropBucket | ElasticRequest | GetInfo


class ClusterUpdate(Message, frozen=True):
    """A cluster update: the cluster's state (encoded), who is down and why, who runs. Answer: ``Info``.

    ``sequence`` orders the updates of one generation; an older one is ignored.
    """

    sequence: lim.Number
    state: lim.State
    down: Annotated[dict[lim.NodeId, lim.Text], lim.NODES]
    incarnations: Annotated[dict[lim.NodeId, lim.Number], lim.NODES]


class BucketOpened(Message, frozen=True):
    """The bucket's id and its policy (fields of BucketConfig), and whose it is. ``run``, ``now_s``: the coordinator's."""

    bucket_id: lim.BucketId
    config: lim.Settings
    store_id: lim.Name = ""
    run: int = 0
    now_s: float = 0.0


class Info(Message, frozen=True):
    """Plain data."""

    data: Any


class Refused(Message, frozen=True):
    """The whole request failed, with nothing done."""

    failed: Failed


SupervisorAnswer: TypeAlias = ClusterUpdate | BucketOpened | Info | Refused
