"""The README's table of consistency, row by row, in simulated worlds with two coordinators and a client on each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import raykv
import raykv.sim
from raykv.records.keys import encode_key
from raykv.ring import partition_of_key

if TYPE_CHECKING:
    from collections.abc import Iterator

README = Path(__file__).parent.parent / "README.md"
ROWS = {
    ("3, 2, 2 (default)", "strict", "vector"): "strong",
    ("3, 2, 2", "strict", "lww"): "strong",
    ("3, 1, 3", "strict", "both"): "strong, for reading",
    ("3, 3, 1", "strict", "vector"): "strong, for writing",
    ("3, 1, 1", "strict", "vector"): "weak, eventual",
    ("3, 1, 1", "strict", "lww"): "weak, eventual",
    ("3, 2, 2", "sloppy", "vector"): "always answering, eventual",
}


class Sides:
    """A world, and a client on each side of it: of two coordinators, or two that coordinate for themselves."""

    def __init__(self, world: raykv.sim.World, ways: tuple[str, str]) -> None:
        self.world = world
        self.near, self.far = (world.connect(way) for way in ways)

    def split(self, *nodes: str, for_s: float) -> None:
        """Cut the network in two: these nodes with the near client on one side."""
        self.world.split([*nodes, self.world.place_of(self.near)], for_s=for_s)


WAYS = (("coordinator", "coordinator2"), ("direct", "direct"))


@pytest.fixture(params=WAYS, ids=["coordinators", "direct"])
def sides(request: pytest.FixtureRequest) -> Iterator[Sides]:
    with raykv.sim.start(seed=5, coordinators=2) as world:
        yield Sides(world, request.param)


def both_sides(sides: Sides, versioning: str, r: int, w: int) -> tuple[raykv.Bucket, raykv.Bucket]:
    """Return one bucket, as the two clients hold it."""
    return sides.near.bucket("b", versioning=versioning, r=r, w=w), sides.far.bucket("b")


def test_the_table_in_the_readme_has_these_rows() -> None:
    lines = README.read_text().splitlines()
    start = lines.index("| N, R, W | quorum | versions | what is promised | name |")
    found = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        numbers, quorum, versions, _, name = (cell.strip() for cell in line.strip("|").split("|"))
        found[numbers, quorum, versions] = name
    assert found == ROWS


@pytest.mark.parametrize("versioning", ["vector", "lww"])
@pytest.mark.parametrize("victim", ["n1", "n2", "n3"])
def test_quorums_see_every_acknowledged_write_with_any_copy_away(sides: Sides, versioning: str, victim: str) -> None:
    here, there = both_sides(sides, versioning, 2, 2)
    here.put("k", 0)
    for turn in range(1, 9):
        sides.world.freeze(victim, for_s=3)
        writer, reader = (here, there) if turn % 2 else (there, here)
        writer.put("k", turn)
        assert reader.get("k") == turn
        assert writer.get("k") == turn
        sides.world.sleep(1)
        if turn % 3 == 0:
            reader.delete("k")
            assert writer.get("k") is None
            sides.world.sleep(5)


def concurrent_writes(sides: Sides, versioning: str, r: int, w: int) -> list[str]:
    here, there = both_sides(sides, versioning, r, w)
    here.put("k", "old")
    sides.world.sleep(1)
    seen_here, seen_there = here.get_versions("k").context, there.get_versions("k").context
    here.put("k", "one", context=seen_here)
    there.put("k", "other", context=seen_there)
    sides.world.sleep(1)
    return sorted(here.get_versions("k", r="all").values)


def test_with_vectors_no_write_that_carried_its_context_is_lost(sides: Sides) -> None:
    assert concurrent_writes(sides, "vector", 2, 2) == ["one", "other"]


def test_where_the_last_writer_wins_one_of_two_is_lost(sides: Sides) -> None:
    assert concurrent_writes(sides, "lww", 2, 2) == ["other"]


@pytest.mark.parametrize("versioning", ["vector", "lww"])
def test_the_smaller_side_of_a_cut_refuses_and_the_larger_goes_on(sides: Sides, versioning: str) -> None:
    small, large = both_sides(sides, versioning, 2, 2)
    small.put("k", "before")
    sides.split("n1", for_s=60)
    with pytest.raises(raykv.QuorumNotMet):
        small.get("k", timeout=2)
    with pytest.raises(raykv.RaykvError):
        small.put("k", "small", timeout=2)
    large.put("k", "large")
    assert large.get("k") == "large"
    sides.world.heal()
    sides.world.sleep(5)
    assert small.get("k") in ({"large"} if versioning == "vector" else {"large", "small"})


@pytest.mark.parametrize("versioning", ["vector", "lww"])
def test_what_all_acknowledged_one_can_tell(sides: Sides, versioning: str) -> None:
    here, there = both_sides(sides, versioning, 1, 3)
    here.put("k", 1)
    sides.world.freeze("n1", for_s=30)
    sides.world.freeze("n2", for_s=30)
    assert there.get("k", timeout=10) == 1
    with pytest.raises(raykv.RaykvError):
        here.put("k", 2, timeout=2)


def test_what_one_acknowledged_all_can_tell(sides: Sides) -> None:
    here, there = both_sides(sides, "vector", 3, 1)
    sides.split("n1", for_s=20)
    here.put("k", "one", timeout=10)
    there.put("k", "other", timeout=10)
    with pytest.raises(raykv.QuorumNotMet):
        there.get("k", timeout=2)
    sides.world.sleep(30)
    assert sorted(there.get_versions("k").values) == ["one", "other"], "two blind writes stand side by side"


@pytest.mark.parametrize("versioning", ["vector", "lww"])
def test_where_one_copy_is_enough_a_read_may_be_stale_and_in_the_end_all_are_equal(
    sides: Sides, versioning: str
) -> None:
    here, there = both_sides(sides, versioning, 1, 1)
    here.put("k", "old")
    sides.world.sleep(1)
    sides.split("n1", for_s=20)
    seen_here, seen_there = here.get_versions("k").context, there.get_versions("k").context
    here.put("k", "one", context=seen_here, timeout=10)
    assert there.get("k") == "old", "a write that was acknowledged is missed"
    there.put("k", "other", context=seen_there, timeout=10)
    sides.world.sleep(30)
    here.get("k", r="all")
    sides.world.sleep(1)
    copies = {tuple(sorted(bucket.get_versions("k", r=1).values)) for bucket in (here, there) for _ in range(5)}
    assert copies == ({("one", "other")} if versioning == "vector" else {("other",)})


@pytest.mark.parametrize("ways", WAYS, ids=["coordinators", "direct"])
def test_a_sloppy_bucket_answers_on_both_sides_of_a_cut_and_a_strict_one_on_the_larger(ways: tuple[str, str]) -> None:
    with raykv.sim.start(seed=5, nodes=5, coordinators=2) as world:
        two = Sides(world, ways)
        sloppy = {"n": 3, "r": 2, "w": 2, "sloppy": True}
        sides = [
            (store.bucket("sloppy", **sloppy), store.bucket("strict", n=3, r=2, w=2)) for store in (two.near, two.far)
        ]
        (here, strict_here), (there, strict_there) = sides
        ring = world.store.ring()
        key = next(f"k{number}" for number in range(100) if {*owners_of(ring, f"k{number}")} == {"n3", "n4", "n5"})
        here.put(key, "old")
        strict_here.put(key, "old")
        seen = here.get_versions(key).context, there.get_versions(key).context
        two.split("n1", "n2", for_s=30)
        here.put(key, "one", context=seen[0], timeout=10)
        there.put(key, "other", context=seen[1], timeout=10)
        assert (here.get(key, timeout=10), there.get(key, timeout=10)) == ("one", "other"), "both sides answer (AP)"
        with pytest.raises(raykv.RaykvError):
            strict_here.put(key, "one", timeout=2)
        with pytest.raises(raykv.QuorumNotMet):
            strict_here.get(key, timeout=2)
        strict_there.put(key, "other", timeout=10)
        world.sleep(60)
        for bucket in (here, there):
            assert sorted(bucket.get_versions(key).values) == ["one", "other"], "nothing acknowledged is lost"
        assert strict_here.get(key) == "other"


def owners_of(ring: Any, key: str) -> list[str]:
    """Return the nodes that are to hold a key."""
    return ring.owners(partition_of_key(encode_key(key), ring["partitions"]))
