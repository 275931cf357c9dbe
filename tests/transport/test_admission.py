"""Admission under overload."""

from __future__ import annotations

from raykv.protocol import frames as f
from raykv.transport.admission import FEWEST, FIRST, LOOK_EVERY_S, TARGET_S, Admission, may_wait


class Watch:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def entered(admission: Admission, who: str, count: int) -> int:
    return sum(admission.enter(who) for _ in range(count))


def test_a_bounded_number_is_let_in_and_others_once_some_have_left() -> None:
    admission = Admission(Watch())
    assert entered(admission, "a", 2 * FIRST) == FIRST
    assert admission.refused == FIRST
    for _ in range(10):
        admission.leave("a")
    assert entered(admission, "a", 100) == 10


def test_a_caller_that_sends_too_much_leaves_room_for_the_others() -> None:
    admission = Admission(Watch())
    assert entered(admission, "quiet", 5) == 5
    greedy = entered(admission, "greedy", FIRST)
    assert greedy == FIRST // 2, "half is free for all; of the rest nobody has more than a share"
    assert entered(admission, "late", 50) == 50
    assert entered(admission, "quiet", 50) == 50
    assert not admission.enter("greedy")


def test_a_long_wait_lowers_the_bound_and_short_ones_raise_it_while_it_limits() -> None:
    watch = Watch()
    admission = Admission(watch)

    def wait(waited_s: float) -> None:
        watch.now_s += LOOK_EVERY_S
        admission.waited(waited_s)

    for _ in range(50):
        wait(2 * TARGET_S)
    assert admission.limit == FEWEST
    for _ in range(10):
        wait(TARGET_S / 2)
    assert admission.limit == FEWEST, "nobody was refused: it does not limit"
    for _ in range(10):
        entered(admission, "a", 2 * FEWEST)
        wait(TARGET_S / 2)
        while admission._total:
            admission.leave("a")
    assert admission.limit > FEWEST


def test_only_operations_of_clients_may_wait() -> None:
    def frame(body: f.NodeRequestBody) -> bytes:
        return f.node_requests.encode(f.NodeRequest(2**40, body, f.LogEnd(2**60, 2**30, 2**60), 2**20))

    assert may_wait(frame(f.Read(1, [b"k"])))
    assert may_wait(frame(f.ReserveDots(1, [b"k"], [b""])))
    assert may_wait(frame(f.Write(1, [(b"k", b"r")])))
    assert not may_wait(frame(f.Ping()))
    assert not may_wait(frame(f.Gossip("n1", {})))
    assert not may_wait(frame(f.DropUnowned()))
    assert not may_wait(frame(f.Hint(1, [(b"Read", b"Write", ["n1"])], 0)))
