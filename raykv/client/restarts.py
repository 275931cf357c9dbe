"""A rolling restart: one node after the other, each complete again before the next.

The supervisor restarts a node once it can be spared (``raykv.supervision.restarting``); here is who asks for it, node by
node. The plan names the run of each node that is to end, so a request that has to be sent again restarts nothing twice. Who
stops asking leaves a store that is well: a restart that has begun comes to its end by itself, and no other begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raykv.client.exchange import Exchange, ask_info
from raykv.client.given import called
from raykv.config import VERSION, check_timeout, shown
from raykv.errors import InvalidOption, QuorumNotMet, StoreUnavailable, WriteOutcomeUnknown
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from raykv.client.exchange import Steps

RESTART_TIMEOUT_S = 300.0
"""How long one node may take."""
ASK_TIMEOUT_S = 10.0
LOOK_EVERY_S = 0.2
MAX_NODES_NAMED = 1000


def restart_nodes(
    nodes: Iterable[str] | None,
    *,
    force: Any,
    outdated: Any,
    progress: Callable[[int, int], object] | None,
    timeout: Any,
    monotonic_s: Callable[[], float],
    told: Callable[[str, str, str], object] = lambda *_: None,
) -> Steps[list[str]]:
    """Restart nodes, one after the other; return those that were restarted.

    ``told(node_id, phase, why)`` receives each phase of each. ``monotonic_s``: the link's clock. The rest:
    ``AsyncStore.restart_nodes``.
    """
    timeout_s = check_timeout(timeout)
    force, outdated = _flag("force", force), _flag("outdated", outdated)
    named = None if nodes is None else _names(nodes)
    status = yield from ask_info(f.GetInfo("status", ASK_TIMEOUT_S), ASK_TIMEOUT_S)
    plan = _plan(status, named, outdated=outdated)
    done: list[str] = []
    if progress is not None:
        called(progress, 0, len(plan))
    for node_id, incarnation in plan.items():
        until_s, before, answer, looked = monotonic_s() + timeout_s, ("", ""), _SILENT, False
        while True:
            answer = yield from _ask(f.RestartNode(node_id, incarnation, force, ASK_TIMEOUT_S))
            if answer["phase"] == "done":
                break
            if (answer["phase"], answer["why"]) != before:
                before = answer["phase"], answer["why"]
                called(told, node_id, *before)
            if answer["blocked"] and not done and answer["phase"] == "waiting" and not looked:
                raise StoreUnavailable(f"nothing was restarted: {answer['why']}", restarted=[], left=[*plan])
            yield Exchange([], LOOK_EVERY_S, repeatable=True, pause_s=LOOK_EVERY_S)
            looked = True
            if monotonic_s() >= until_s:
                raise _stopped(node_id, answer, done, [*plan], timeout_s)
        done.append(node_id)
        called(told, node_id, "done", "")
        if progress is not None:
            called(progress, len(done), len(plan))
    return done


_SILENT: dict[str, Any] = {"phase": "", "why": "the supervisor does not answer", "blocked": False}


def _ask(request: f.RestartNode) -> Steps[dict[str, Any]]:
    """Return how far a node is. The supervisor may be started anew meanwhile; the request may always be repeated."""
    try:
        answer: dict[str, Any] = yield from ask_info(request, ASK_TIMEOUT_S)
    except (QuorumNotMet, WriteOutcomeUnknown):
        return _SILENT
    except StoreUnavailable as error:
        return _SILENT | {"why": error.message}
    return answer


def _plan(status: Mapping[str, Any], named: list[str] | None, *, outdated: bool) -> dict[str, int]:
    """Return the nodes to restart, in order -> the run of each that is to end."""
    there = {node["node_id"]: node for node in status["nodes"]}
    if unknown := [node_id for node_id in named or () if node_id not in there]:
        raise InvalidOption(f"there is no node {', '.join(unknown)}; there are {', '.join(there)}")
    return {
        node_id: there[node_id]["incarnation"]
        for node_id in (there if named is None else dict.fromkeys(named))
        if not outdated or (there[node_id]["storage"] or {}).get("raykv") != VERSION
    }


def _stopped(
    node_id: str, answer: Mapping[str, Any], done: list[str], plan: list[str], timeout_s: float
) -> StoreUnavailable:
    left = plan[len(done) :]
    waits = f"is not complete again after {timeout_s:g} s" if answer["phase"] != "waiting" else "could not be restarted"
    why = f" ({answer['why']})" if answer["why"] else ""
    others = [each for each in left if each != node_id]
    return StoreUnavailable(
        f"the restart stops here: node {node_id} {waits}{why}. Restarted before it: {', '.join(done) or 'none'}; left as "
        f"they were: {', '.join(others) or 'none'}. Nothing is lost: the other copies serve, and the supervisor goes on "
        "bringing the node back. Once status() shows all nodes up, restart those that are left",
        restarted=done,
        left=left,
    )


def _flag(what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidOption(f"{what} must be True or False; got {shown(value)}")
    return value


def _names(nodes: Iterable[str]) -> list[str]:
    if isinstance(nodes, str) or not hasattr(nodes, "__iter__"):
        raise InvalidOption(f"nodes must be a list of node ids; got {shown(nodes)}")
    found = [*nodes] if hasattr(nodes, "__len__") else []
    if not found or len(found) > MAX_NODES_NAMED or not all(isinstance(node_id, str) for node_id in found):
        raise InvalidOption(f"nodes must be a list of node ids; got {shown(nodes)}")
    return found
