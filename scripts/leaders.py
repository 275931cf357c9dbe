"""Who leads the partitions of linearizable buckets: asked of the storage nodes themselves, by what they have promised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ray

from raykv.actors.naming import find_actor
from raykv.cluster.peers import node_address
from raykv.errors import RaykvError
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.ring import partition_of_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import raykv

ASK_TIMEOUT_S = 3.0
COPIES = 3


def promised(store: str, node_id: str, partitions: Iterable[int]) -> dict[int, tuple[bytes, str]]:
    """Return the term that a node has promised for each partition, and its leader; nothing if it does not answer."""
    found: dict[int, tuple[bytes, str]] = {}
    try:
        actor = find_actor(store, node_address(node_id))
        asked = {at: f.node_requests.encode(f.NodeRequest(0, f.ReadPromises(at))) for at in partitions}
        answers = ray.get([actor.serve.remote(frame) for frame in asked.values()], timeout=ASK_TIMEOUT_S)
        for at, answer in zip(asked, answers, strict=True):
            body = f.node_answers.decode(answer).body
            if isinstance(body, f.PromisesRead):
                for n, term, leader in body.items:
                    if n == COPIES:
                        found[at] = term, leader
    except (ray.exceptions.RayError, ValueError, RaykvError):
        return found
    return found


def leaders(store: raykv.Store, keys: Iterable[str]) -> dict[str, str]:
    """Return the node that leads each key: that of the latest term promised. Keys that nobody leads are left out.

    Raises ``RaykvError`` if there is no status.
    """
    status = store.status(timeout=ASK_TIMEOUT_S)
    partitions = status["config"]["partitions"]
    places = {key: partition_of_key(encode_key(key), partitions) for key in keys}
    latest: dict[int, tuple[bytes, str]] = {}
    for node in status["nodes"]:
        if node["state"] == "up":
            for at, term in promised(status["config"]["name"], node["node_id"], set(places.values())).items():
                latest[at] = max(term, latest.get(at, (b"", "")))
    return {key: latest[at][1] for key, at in places.items() if at in latest}


def pids(store: raykv.Store) -> Mapping[str, int]:
    """Return the process of each storage node that is up. Raises ``RaykvError``."""
    return {node["node_id"]: int(node["pid"]) for node in store.status(timeout=3)["nodes"] if node["state"] == "up"}
