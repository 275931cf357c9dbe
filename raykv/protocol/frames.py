"""The conversations: which messages travel as frames between whom.

Every message can be named from here, as nearly all of the core names some (``from raykv.protocol import frames as f``,
``f.Read``): where a message is declared concerns its readers only.
"""

from __future__ import annotations

from raykv.protocol.changes import *  # noqa: F403
from raykv.protocol.clients import *  # noqa: F403
from raykv.protocol.clients import CoordinatorAnswer, CoordinatorRequest, Handed
from raykv.protocol.codec import *  # noqa: F403
from raykv.protocol.codec import FrameType, kind_of_message
from raykv.protocol.nodes import *  # noqa: F403
from raykv.protocol.nodes import NodeAnswer, NodeRequest, kind_of_request
from raykv.protocol.requests import COORDINATOR, NODE, SUPERVISOR, frame_bytes_of
from raykv.protocol.supervisor import *  # noqa: F403
from raykv.protocol.supervisor import SupervisorAnswer, SupervisorRequest

coordinator_requests: FrameType[CoordinatorRequest] = FrameType(
    CoordinatorRequest, "coordinator request", kind_of_message, frame_bytes_of(COORDINATOR)
)
coordinator_answers: FrameType[CoordinatorAnswer] = FrameType(CoordinatorAnswer, "coordinator answer")
supervisor_requests: FrameType[SupervisorRequest] = FrameType(
    SupervisorRequest, "supervisor request", kind_of_message, frame_bytes_of(SUPERVISOR)
)
supervisor_answers: FrameType[SupervisorAnswer] = FrameType(SupervisorAnswer, "supervisor answer")
handed_answers: FrameType[Handed] = FrameType(Handed, "coordinator's answer")
node_requests: FrameType[NodeRequest] = FrameType(NodeRequest, "node request", kind_of_request, frame_bytes_of(NODE))
node_answers: FrameType[NodeAnswer] = FrameType(NodeAnswer, "node answer")
