"""What an explained operation has in common with the usual ones of its coordinator."""

from __future__ import annotations

from world import BUCKET, Cluster, run

from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.record import pack_body


def test_an_explained_write_is_followed_by_a_usual_one_though_the_clock_goes_back() -> None:
    """Both have one hybrid clock: else the later write has the earlier stamp, and is sent twice."""

    async def story() -> None:
        peer = Cluster(3, versioning="lww").start().coordinator()
        peer.clock.skew_ms = 2_000
        write = f.WriteMany(BUCKET, [(encode_key("k"), pack_body(peer.operation(), b"explained"), None)], 2, 5.0)
        explained = await peer.front.carry_out(f.ExplainOperation(f.coordinator_requests.encode(write), 5.0))
        assert isinstance(explained, f.OperationExplained)
        peer.clock.skew_ms = 0
        await peer.put("k", "usual")
        assert await peer.get("k", r=3) == "usual"
        assert not peer.metrics["restamps"]

    run(story())
