"""How often nodes repair in a simulated run, and how soon they may forget: so that both happen in it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from raykv.sim.cluster import ClusterSpec

REPAIR_EVERY_S = (86_400.0, 5.0, 15.0)
HEALED_WITHIN_S = 100.0
"""Until then after the faults all is read and written once more: contexts must not have shrunk by then."""
FORGETFUL = 0.2
"""This share of the runs ends with a purge."""


def with_upkeep(cluster: ClusterSpec, seed: int, duration_s: float, *, clocks_far_off: bool) -> ClusterSpec:
    """Return the cluster with settings for repair and grace; nothing is forgotten before the clients are done.

    With clocks that are far off everything may be dead for long, or nothing ever.
    """
    rng = random.Random(f"upkeep {seed}")
    config = msgspec.structs.replace(cluster.config, repair_every_s=rng.choice(REPAIR_EVERY_S))
    store = cluster.store
    if rng.random() < FORGETFUL and not clocks_far_off:
        store = msgspec.structs.replace(store, grace_s=round(duration_s) + HEALED_WITHIN_S)
        config = msgspec.structs.replace(config, max_hint_age_s=store.grace_s / 2)
    return msgspec.structs.replace(cluster, store=store, config=config)
