"""Simulated gossip: news spread in about log N rounds, the dead are noticed, the living are not accused."""

from __future__ import annotations

import math
from statistics import median

import pytest

from raykv.errors import InvalidOption
from simulation.gossip import EVERY_S, Gossip, calm, cost, deaths, spread


@pytest.mark.parametrize("nodes", [2, 3, 10, 50, 150])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_heartbeat_is_everywhere_within_log_n_rounds(nodes, seed):
    known = spread(nodes, seed)
    assert known[0] == 1
    assert known[-1] == nodes
    assert known == sorted(known)
    assert len(known) - 1 <= math.ceil(math.log2(nodes))


def test_ten_times_the_nodes_take_a_few_rounds_more():
    rounds = [len(spread(nodes, 1, fanout=1)) - 1 for nodes in (10, 100)]
    assert rounds[0] < rounds[1] <= rounds[0] + 5


def test_the_seed_decides():
    assert calm(8, loss=0.3, seed=1, virtual_s=60) == calm(8, loss=0.3, seed=1, virtual_s=60)
    assert calm(8, loss=0.3, seed=1, virtual_s=60) != calm(8, loss=0.3, seed=2, virtual_s=60)


@pytest.mark.parametrize("nodes", [3, 5, 10])
def test_two_notice_a_death_in_about_three_seconds(nodes):
    died = deaths(nodes, loss=0.01, seed=1, times=10)
    assert died.missed == 0
    assert len(died.two_s) == len(died.all_s) == 10
    assert 1.5 < median(died.two_s) < 3
    assert max(died.two_s) < 4
    assert all(two_s <= all_s + EVERY_S for two_s, all_s in zip(died.two_s, died.all_s, strict=True))
    assert max(died.all_s) < 5


@pytest.mark.parametrize(("nodes", "virtual_s"), [(3, 600), (10, 300), (40, 40)])
def test_the_living_are_not_accused_while_a_tenth_of_the_messages_is_lost(nodes, virtual_s):
    quiet = calm(nodes, loss=0.1, seed=1, virtual_s=virtual_s)
    assert (quiet.false_suspicions, quiet.false_verdicts) == (0, 0)
    asked = nodes * min(2, nodes - 1) * virtual_s / EVERY_S
    assert 1.8 * asked < quiet.messages < 2 * asked


def test_if_most_messages_are_lost_the_living_are_accused():
    quiet = calm(10, loss=0.9, seed=1, virtual_s=60)
    assert quiet.false_suspicions > quiet.false_verdicts > 0


def test_a_cut_that_heals():
    gossip = Gossip(5, seed=1)
    gossip.run(30)
    majority, minority = gossip.node_ids[:3], gossip.node_ids[3:]
    gossip.cut(majority, minority)
    gossip.run(40)
    assert gossip.down() == dict.fromkeys(minority, majority)
    assert gossip.suspected_by(majority[0]) == minority
    assert gossip.false_suspicions == 2 * 3 * 2, "each of the pairs once in each direction"
    assert gossip.false_verdicts >= 2
    gossip.cut()
    gossip.run(43)
    assert gossip.down() == {}
    assert all(gossip.suspected_by(node_id) == [] for node_id in gossip.node_ids)


def test_a_node_that_is_cut_off_alone_finds_back():
    gossip = Gossip(5, seed=1)
    gossip.run(30)
    gossip.cut(gossip.node_ids[:1])
    gossip.run(40)
    assert list(gossip.down()) == gossip.node_ids[:1]
    assert gossip.suspected_by(gossip.node_ids[4]) == gossip.node_ids[:1]
    gossip.cut()
    gossip.run(42)
    assert gossip.down() == {}


def test_a_link_that_is_cut_is_gone_round():
    """All but one pair can talk; no cut of groups says that, so both talk to the third only."""
    gossip = Gossip(3, seed=1)
    send = gossip._send
    pair = set(gossip.node_ids[:2])

    def without_the_link(what, sender, node_id, table):
        if {sender, node_id} != pair:
            send(what, sender, node_id, table)

    gossip._send = without_the_link
    gossip.run(120)
    assert gossip.false_suspicions == 0


def test_a_dead_node_comes_back_in_its_next_incarnation():
    gossip = Gossip(4, seed=1)
    gossip.run(30)
    first = gossip.node_ids[0]
    gossip.kill(first)
    gossip.run(36)
    assert gossip.down() == {first: gossip.node_ids[1:]}
    gossip.revive(first)
    assert gossip.down() == {}
    gossip.run(40)
    assert gossip.down() == {}
    assert gossip.detectors[gossip.node_ids[1]].table()[first][0] == 1
    assert gossip.false_verdicts == 0


def test_the_dead_do_nothing():
    gossip = Gossip(4, seed=1)
    gossip.run(30)
    first, second, *living = gossip.node_ids
    gossip.kill(first)
    before = gossip.detectors[first].table()
    gossip.run(40)
    assert gossip.detectors[first].table() == before
    assert gossip.suspected_by(first) == [second, *living]
    gossip.kill(second)
    assert gossip.suspected_by(first) == living
    gossip.run(50)
    assert gossip.suspected_by(second) == living
    assert (gossip.false_suspicions, gossip.false_verdicts) == (0, 0)
    assert sorted(gossip.two_after_s) == [first, second]


def test_a_node_that_comes_back_at_once_does_not_tick_twice():
    gossip = Gossip(3, seed=1)
    gossip.run(30)
    first = gossip.node_ids[0]
    gossip.kill(first)
    gossip.revive(first)
    gossip.run(40)
    assert 18 <= gossip.detectors[first].table()[first][1] <= 20


def test_what_it_costs():
    few, many = cost(3), cost(500)
    assert (few.gossip_messages_per_s, few.all_to_all_messages_per_s) == (8, 4)
    assert (many.gossip_messages_per_s, many.all_to_all_messages_per_s) == (8, 998)
    assert 10 < (many.gossip_bytes_per_s - few.gossip_bytes_per_s) / 8 / 497 < 20, "bytes of an entry"
    assert many.gossip_bytes_per_s < many.all_to_all_bytes_per_s < 2 * many.gossip_bytes_per_s
    assert cost(2).gossip_messages_per_s == 4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Gossip(1, seed=1),
        lambda: Gossip(3, seed=1, loss=1.0),
        lambda: Gossip(3, seed=1, loss=-0.1),
        lambda: cost(0),
        lambda: deaths(2, loss=0.0, seed=1, times=1),
    ],
)
def test_bad_sizes_are_refused(wrong):
    with pytest.raises(InvalidOption):
        wrong()
