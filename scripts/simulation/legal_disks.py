"""Every disk that a crash may leave, by number.

``SimDisk.crash`` draws one disk. Here all of them have a number, a *choice*, so that few are walked through and any
one can be had again. Choice 0 is the death of the process alone: all is there, and what was not synced is still owed by
the kernel. Every other choice is a power cut, after which all that is there is safe. It is made of

* the changes of names that were not synced: any subset of them, in order, each as one;
* for every file with an unsynced end, a *fate* of that end: a prefix of it (none of it and all of it among them); a
  prefix and zeros, or a prefix and noise, in its full length; all of it but a hole of zeros.

In the words of Pillai et al. ("All File Systems Are Not Created Equal", OSDI 2014) this is an abstract persistence model,
and a weak one: no order between operations is kept but by a sync, so a name may be safe before the bytes under it, and
a later change before an earlier one. A given file system does better; the port ``FileSystem`` promises no more.

Two choices may leave the same disk (a file whose name is lost; a hole where zeros were); ``all`` leaves out the first
kind. Omitted: sectors written in half outside of a file's end (files only grow), bytes of other files in the noise.
"""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from xxhash import xxh3_64

from raykv.sim.disk import SimDisk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from raykv.sim.disk import Change, Inode

PROCESS_DEATH = 0
"""The choice in which the kernel lives on."""
_HOLES_BYTES = (1, 16, 512, 4096)


def seeded(*parts: object) -> random.Random:
    """Return a generator that ``parts`` decide."""
    return random.Random("/".join(map(str, parts)))


class _Fates:
    """The fates of an unsynced end, numbered from 0 (nothing is left); ``whole`` is the number of all of it."""

    __slots__ = ("_begins", "_holes", "_noise", "count", "tail", "whole")

    def __init__(self, tail: bytes, noise: bytes) -> None:
        length = len(tail)
        assert len(noise) == length > 0
        self.tail = tail
        self.whole = length
        self._noise = noise
        self._holes = [hole for hole in _HOLES_BYTES if hole < length]  # one that reaches the end is "zeros"
        sizes = [length + 1, length, length, *(length - hole for hole in self._holes)]
        self._begins = [0, *itertools.accumulate(sizes[:-1])]
        self.count = sum(sizes)

    def _taken_apart(self, fate: int) -> tuple[int, int]:
        """Return the kind (prefix, zeros, noise, holes ...) and the byte where it begins."""
        kind = bisect_right(self._begins, fate) - 1
        return kind, fate - self._begins[kind]

    def left(self, fate: int) -> bytes:
        """Return what is there after the crash."""
        kind, cut = self._taken_apart(fate)
        if kind == 0:
            return self.tail[:cut]
        if kind == 1:
            return self.tail[:cut] + bytes(self.whole - cut)
        if kind == 2:
            return self.tail[:cut] + self._noise[cut:]
        hole = self._holes[kind - 3]
        return self.tail[:cut] + bytes(hole) + self.tail[cut + hole :]

    def words(self, fate: int) -> str:
        """Say what happened."""
        kind, cut = self._taken_apart(fate)
        what = f"{cut} of the {self.whole} unsynced bytes"
        if kind > 2:
            return f"all {self.whole} unsynced bytes but {self._holes[kind - 3]} zeros from byte {cut} of them"
        return what + ("", ", then zeros", ", then noise")[kind]

    def draw(self, rng: random.Random) -> int:
        """Draw a fate, every kind alike."""
        kind = rng.choice(("none", "whole", "prefix", "zeros", "noise", "hole"))
        if kind in {"none", "whole"}:
            return 0 if kind == "none" else self.whole
        at = {"prefix": 0, "zeros": 1, "noise": 2}.get(kind)
        if at is None:
            at = 3 + rng.randrange(len(self._holes)) if self._holes else 1
        end = self._begins[at + 1] if at + 1 < len(self._begins) else self.count
        return rng.randrange(self._begins[at], end)


class _File(NamedTuple):
    inode: Inode
    path: str
    fates: _Fates


class LegalDisks:
    """The disks that a crash of ``disk`` may leave, as it is now; use it before the disk changes.

    ``seed`` decides the bytes of the noise. Cost: a copy of the unsynced ends, and of each file when first needed.
    """

    def __init__(self, disk: SimDisk, seed: object = 0) -> None:
        self._disk = disk
        self._seed = seed
        self._directories, self._safe_names, self._changes = disk.at_risk()
        self._contents: dict[Inode, bytes] = {}
        self._torn = self._find_torn()
        self.count = 1 + 2 ** len(self._changes) * math.prod(file.fates.count for file in self._torn)
        """Choices are below this."""
        self.nothing = 1
        """The choice in which nothing unsynced is left."""
        self.everything = self._number(2 ** len(self._changes) - 1, [file.fates.whole for file in self._torn])
        """The choice in which all is left, and safe."""

    def all(self) -> Iterator[int]:
        """Yield a choice for every legal disk. There may be very many."""
        yield PROCESS_DEATH
        seen = set()
        for kept in range(2 ** len(self._changes)):
            names = self._names(kept)
            same = frozenset(names.items())
            if same in seen:
                continue
            seen.add(same)
            there = set(names.values())
            ranges = [range(file.fates.count if file.inode in there else 1) for file in self._torn]
            for fates in itertools.product(*ranges):
                yield self._number(kept, fates)

    def some(self, rng: random.Random, in_full: int, at_most: int) -> list[int]:
        """Return all choices if there are no more than ``in_full``, else the three extremes and up to ``at_most`` drawn."""
        if self.count <= in_full:
            return list(self.all())
        drawn = [PROCESS_DEATH, self.nothing, self.everything]
        drawn += [self._draw_power_cut(rng) for _ in range(at_most)]
        return list(dict.fromkeys(drawn))

    def draw(self, rng: random.Random) -> int:
        """Draw a choice: each of the extremes one time in eight."""
        dice = rng.randrange(8)
        extremes = (PROCESS_DEATH, self.nothing, self.everything)
        return extremes[dice] if dice < len(extremes) else self._draw_power_cut(rng)

    def disk(self, choice: int) -> SimDisk:
        """Return the disk that the next process finds."""
        if choice == PROCESS_DEATH:
            return self._disk.crash(seeded(), "keep")
        return SimDisk.holding(self.files(choice), self._directories)

    def files(self, choice: int) -> dict[str, bytes]:
        """Return path and content of every file after the power cut ``choice``."""
        kept, fates = self._taken_apart(choice)
        torn = {file.inode: file.fates.left(fate) for file, fate in zip(self._torn, fates, strict=True)}
        return {path: self._safe(inode) + torn.get(inode, b"") for path, inode in self._names(kept).items()}

    def fingerprint(self, choice: int) -> int:
        """Return a 64-bit number that two power cuts share only if they leave the same files."""
        digest = xxh3_64()
        for path, data in sorted(self.files(choice).items()):
            digest.update(f"{path}\0{len(data)}\0".encode())
            digest.update(data)
        return digest.intdigest()

    def words(self, choice: int) -> str:
        """Say what the crash left and what it took."""
        if choice == PROCESS_DEATH:
            return "the process died alone: all is there, unsynced as it was"
        kept, fates = self._taken_apart(choice)
        there = set(self._names(kept).values())
        said = [
            f"{'kept' if kept >> at & 1 else 'lost'}: {_change_in_words(change)}"
            for at, change in enumerate(self._changes)
        ]
        said += [
            f"{file.path}: {file.inode.synced} safe bytes and {file.fates.words(fate)}"
            for file, fate in zip(self._torn, fates, strict=True)
            if file.inode in there
        ]
        return "a power cut; " + ("; ".join(said) or "all was safe")

    def _find_torn(self) -> list[_File]:
        """Return the files that may be there and have an unsynced end, each under the first name that it had."""
        named = itertools.chain(self._safe_names.items(), *(change.items() for change in self._changes))
        found: dict[Inode, _File] = {}
        for path, inode in named:
            if inode is not None and inode.synced < len(inode.data) and inode not in found:
                tail = bytes(inode.data[inode.synced :])
                noise = seeded(self._seed, path).randbytes(len(tail))
                found[inode] = _File(inode, path, _Fates(tail, noise))
        return list(found.values())

    def _names(self, kept: int) -> dict[str, Inode]:
        names = dict(self._safe_names)
        for at, change in enumerate(self._changes):
            if kept >> at & 1:
                for path, inode in change.items():
                    if inode is None:
                        names.pop(path, None)
                    else:
                        names[path] = inode
        return names

    def _safe(self, inode: Inode) -> bytes:
        data = self._contents.get(inode)
        if data is None:
            data = self._contents[inode] = bytes(inode.data[: inode.synced])
        return data

    def _draw_power_cut(self, rng: random.Random) -> int:
        """Draw which changes are kept and what is left of each file; what cannot be seen is not drawn."""
        none, every = 0, 2 ** len(self._changes) - 1
        kept = rng.choice((none, every, rng.randint(none, every), rng.randint(none, every)))
        there = set(self._names(kept).values())
        return self._number(kept, [file.fates.draw(rng) if file.inode in there else 0 for file in self._torn])

    def _number(self, kept: int, fates: tuple[int, ...] | list[int]) -> int:
        """Put a choice together: mixed radix, the subset of changes in the lowest digit."""
        number = 0
        for file, fate in zip(reversed(self._torn), reversed(fates), strict=True):
            number = number * file.fates.count + fate
        return 1 + (number << len(self._changes) | kept)

    def _taken_apart(self, choice: int) -> tuple[int, list[int]]:
        if not 0 < choice < self.count:
            raise ValueError(f"power cuts here are choices 1 to {self.count - 1}; not {choice}")
        number = choice - 1
        kept = number & 2 ** len(self._changes) - 1
        number >>= len(self._changes)
        fates = []
        for file in self._torn:
            number, fate = divmod(number, file.fates.count)
            fates.append(fate)
        return kept, fates


def _change_in_words(change: Mapping[str, Inode | None] | Change) -> str:
    names = {inode is None: path for path, inode in change.items()}
    if len(names) == 2:
        return f"{names[True]} renamed to {names[False]}"
    return f"{names[True]} removed" if True in names else f"{names[False]} created"
