"""What a leader in a new term asks of a key's owners, and when it has heard enough (L5)."""

from __future__ import annotations

from typing import Any

from led_nodes import Leaders, run

from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.linear_record import pack_term
from raykv.replica.looking import Looking
from raykv.replica.tenure import Place, Tenure

TERM, LATER = pack_term(4, 7), pack_term(5, 7)


class Look:
    """A look at two keys of one partition and one of another, with the answers in a test's hands."""

    def __init__(self, *, bound: bool = True) -> None:
        cluster = Leaders()
        keys = [encode_key(f"k{number}") for number in range(99)]
        at = {
            partition: [key for key in keys if cluster.state.ring.partition_of(key) == partition]
            for partition in range(8)
        }
        one, two = [partition for partition in range(8) if len(at[partition]) > 1][:2]
        self.places: tuple[Place, Place] = ((one, 3), (two, 3))
        self.keys = {self.places[0]: at[one][:2], self.places[1]: at[two][:1]}
        sets = {place: cluster.state.write_sets(*place) if bound else () for place in self.places}
        self.tenures = {place: Tenure(place, TERM, sets[place]) for place in self.places}
        self.ended: list[tuple[Tenure, bytes, str]] = []
        self.looking = Looking(
            1, self.keys, self.tenures, cluster.state,
            is_present=self._is_present, lose=lambda *lost: self.ended.append(lost),
        )  # fmt: skip

    def _is_present(self, tenure: Tenure) -> bool:
        return all(tenure is not ended for ended, _, _ in self.ended)

    def answer(self, node_id: str, *groups: Any) -> None:
        self.looking.take(node_id, f.Looked([*groups]))


def shown(*records: bytes | None) -> tuple[bytes, str, list[bytes | None]]:
    return b"", "", [*records]


def test_all_owners_are_asked_at_once_for_all_keys_under_their_terms() -> None:
    async def story() -> None:
        look = Look()
        bodies = look.looking.bodies("n1")
        assert bodies.keys() == {"n1", "n2", "n3"}
        groups = [(place[0], TERM, look.keys[place]) for place in look.places]
        assert {node_id: (body.bucket_id, body.n, body.leader, body.groups) for node_id, body in bodies.items()} == (
            dict.fromkeys(("n1", "n2", "n3"), (1, 3, "n1", groups))
        )

    run(story())


def test_it_is_enough_when_f_owners_have_shown_theirs_and_never_the_own_copy_alone() -> None:
    async def story() -> None:
        look = Look()
        one, two = look.places
        look.answer("n1", shown(b"a", None), shown(b"b"))
        assert not look.looking.enough()
        assert look.looking.found(one) is None
        look.answer("n3", shown(b"c", b"d"), shown(None))
        assert look.looking.enough()
        assert look.looking.found(one) == [[b"a", b"c"], [None, b"d"]]
        assert look.looking.found(two) == [[b"b", None]]

    run(story())


def test_a_later_term_ends_its_partition_and_no_other() -> None:
    async def story() -> None:
        look = Look()
        one, two = look.places
        look.answer("n1", shown(b"a", None), shown(b"b"))
        look.answer("n2", (LATER, "n2", []), shown(b"b"))
        assert look.ended == [(look.tenures[one], LATER, "n2")]
        assert look.looking.enough(), "of the other all is known"
        assert look.looking.found(one) is None
        assert look.looking.found(two) == [[b"b", b"b"]]

    run(story())


def test_what_does_not_fit_is_no_answer() -> None:
    async def story() -> None:
        look = Look()
        for wrong in (
            f.Incomplete("not whole"),
            f.Looked([shown(b"a", None)]),
            f.Looked([shown(b"a", None, b"x"), shown(b"b", b"x")]),
        ):
            for node_id in ("n1", "n2", "n3"):
                look.looking.take(node_id, wrong)
        assert not look.looking.enough()

    run(story())


def test_fewer_records_than_keys_are_those_of_the_first() -> None:
    async def story() -> None:
        look = Look()
        one, two = look.places
        look.answer("n1", shown(b"a"), shown())
        look.answer("n2", shown(b"a", b"d"), shown(b"b"))
        assert look.looking.enough()
        assert look.looking.found(one) == [[b"a", b"a"]], "of the second too few have told"
        assert look.looking.found(two) == []
        look.answer("n3", shown(b"a", b"d"), shown(b"b"))
        assert look.looking.found(one) == [[b"a", b"a", b"a"], [b"d", b"d"]]
        assert look.looking.found(two) == [[b"b", b"b"]]

    run(story())


def test_a_partition_whose_owners_have_not_promised_the_term_is_not_asked_about() -> None:
    """*Schedule without (L9): a look raises the promise of owners that voted for nobody.*"""

    async def story() -> None:
        look = Look(bound=False)
        assert look.looking.bodies("n1") == {}
        assert not look.looking.enough()

    run(story())
