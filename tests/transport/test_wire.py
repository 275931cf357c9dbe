"""The bytes of a stream: handshake and frames, without a socket."""

from __future__ import annotations

import itertools

import pytest

from raykv.config import MAX_FRAME_BYTES
from raykv.transport import wire

SECRET = b"s" * 32
FRAMES = [(1, wire.REQUEST, b"abc"), (2**40, wire.ANSWER, b""), (7, wire.FAILED, bytes(300))]


def encoded(frames: list[tuple[int, int, bytes]]) -> bytes:
    return b"".join(wire.head(number, kind, frame) + frame for number, kind, frame in frames)


def shaking(client_secret: bytes = SECRET, server_secret: bytes = SECRET):
    return wire.ClientHandshake(client_secret, b"c" * 32), wire.ServerHandshake(server_secret, b"n" * 32)


def test_frames_come_out_as_they_went_in_wherever_they_are_cut() -> None:
    data = encoded(FRAMES)
    for first, second in itertools.combinations(range(0, len(data) + 1, 1), 2):
        reader = wire.Reader()
        parts = data[:first], data[first:second], data[second:]
        assert [frame for part in parts for frame in reader.feed(part)] == FRAMES


def test_frames_come_out_of_single_bytes() -> None:
    reader = wire.Reader()
    assert [frame for byte in encoded(FRAMES * 2) for frame in reader.feed(bytes([byte]))] == FRAMES * 2


def test_a_large_frame_in_many_parts_is_put_together_once() -> None:
    body = bytes(range(256)) * 4096 * 8
    data = encoded([(1, wire.REQUEST, body), (2, wire.REQUEST, b"next")])
    reader = wire.Reader()
    found = [frame for at in range(0, len(data), 65536) for frame in reader.feed(data[at : at + 65536])]
    assert found == [(1, wire.REQUEST, body), (2, wire.REQUEST, b"next")]


def test_a_frame_above_the_bound_is_refused_when_it_announces_itself() -> None:
    reader = wire.Reader()
    announced = (MAX_FRAME_BYTES + 1).to_bytes(4, "little") + bytes(9)
    assert reader.feed(announced[:-1]) == []
    with pytest.raises(wire.WireError, match="exceeds the bound"):
        reader.feed(announced[-1:])
    assert wire.Reader().feed(MAX_FRAME_BYTES.to_bytes(4, "little") + bytes(9)) == []


def test_both_sides_shake_hands_whatever_the_cuts() -> None:
    for step in (1, 7, 38, 100):
        client, server = shaking()
        to_server, to_client = client.hello(), b""
        while not (client.done and server.done):
            for at in range(0, len(to_server), step):
                to_client += server.feed(to_server[at : at + step])
            to_server = b""
            for at in range(0, len(to_client), step):
                to_server += client.feed(to_client[at : at + step])
            to_client = b""


def test_what_comes_right_behind_the_proof_is_kept() -> None:
    client, server = shaking()
    mine = client.feed(server.feed(client.hello()))
    assert server.feed(mine + b"and more") == b""
    assert server.done
    assert server.rest == b"and more"


def test_a_client_without_the_secret_is_refused() -> None:
    client, server = shaking(client_secret=b"x" * 32)
    reply = server.feed(client.hello())
    with pytest.raises(wire.WireError, match="server does not know"):
        client.feed(reply)
    assert not client.done
    with pytest.raises(wire.WireError, match="client does not know"):
        server.feed(wire.proof(b"x" * 32, b"client", b"c" * 32, b"n" * 32))
    assert not server.done


def test_a_proof_cannot_be_sent_back_to_its_maker() -> None:
    client, server = shaking()
    reply = server.feed(client.hello())
    with pytest.raises(wire.WireError, match="client does not know"):
        server.feed(reply[-32:])  # the server's own
    # A server that knows no secret gives the client its own nonce, and then its own proof, back.
    client, _ = shaking()
    _, other = shaking()
    stolen = wire.ClientHandshake(SECRET, b"c" * 32).feed(other.feed(client.hello()))
    with pytest.raises(wire.WireError, match="server does not know"):
        client.feed(client.hello() + stolen)


def test_a_proof_is_of_no_use_a_second_time() -> None:
    client, server = shaking()
    mine = client.feed(server.feed(client.hello()))
    again = wire.ServerHandshake(SECRET, b"m" * 32)  # another connection: another nonce
    again.feed(client.hello())
    with pytest.raises(wire.WireError, match="client does not know"):
        again.feed(mine)


def test_another_version_gets_a_refusal_that_says_so() -> None:
    client, server = shaking()
    newer = b"raykv" + bytes([wire.VERSION + 1])
    with pytest.raises(wire.WireError, match="version 2") as refused:
        server.feed(newer + bytes(500))
    with pytest.raises(wire.WireError, match="version 2"):
        client.feed(newer)
    assert refused.value.reply == b"raykv" + bytes([wire.VERSION])


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n", b"r\0", b"\x16\x03\x01"])
def test_another_protocol_is_noticed_at_its_first_wrong_byte(said: bytes) -> None:
    for side in shaking():
        with pytest.raises(wire.WireError, match="does not speak"):
            side.feed(said)


def test_nobody_says_more_than_is_due_before_the_proof() -> None:
    client, server = shaking()
    with pytest.raises(wire.WireError, match="more than it may"):
        server.feed(client.hello() + b"x")
    _, server = shaking()
    with pytest.raises(wire.WireError, match="more than it may"):
        client.feed(server.feed(client.hello()) + b"x")


def test_all_that_is_due_in_one_turn_is_one_write() -> None:
    soon, written = [], []
    outbox = wire.Outbox(soon.append, written.append)
    for number, kind, frame in FRAMES:
        outbox.put(number, kind, frame)
    assert len(soon) == 1
    assert written == []
    assert outbox.waiting_bytes == 303
    soon.pop()()
    assert [wire.Reader().feed(b"".join(parts)) for parts in written] == [FRAMES]
    outbox.put(*FRAMES[0])
    assert len(soon) == 1


def test_a_frame_that_comes_byte_by_byte_costs_no_object_a_byte() -> None:
    reader = wire.Reader()
    body = bytes(range(256)) * 8
    frame = wire.head(3, wire.REQUEST, body) + body
    heard = []
    for byte in frame + frame:
        heard += reader.feed(bytes([byte]))
        assert len(reader._parts) <= wire.MANY_PARTS + 1
    assert heard == [(3, wire.REQUEST, body)] * 2
    assert reader.held_bytes == 0
