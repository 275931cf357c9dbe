"""A cluster whose coordinators batch, as those of Ray do (``raykv.actors.coordinator``)."""

from __future__ import annotations

from typing import Any

from raykv.sim.cluster import Cluster


class BatchingCluster(Cluster):
    """What clients begin together leaves its coordinators together."""

    def _start_coordinator(self, name: str) -> None:
        super()._start_coordinator(name)
        endpoint = self.network.endpoints[name]
        service: Any = endpoint.serve
        self.network.endpoints[name] = endpoint._replace(serve=service.__self__.serve_together)
