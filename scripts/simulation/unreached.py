"""Lines of the coordination core that no seed reaches, each with the reason: ``core_coverage`` leaves them out.

A place is a file of ``raykv``, a function in it and the beginning of a line there; without the last, the whole function.
With a line goes all of the statement or handler that begins there; an ``if`` stands for its branch. A place that is not
there is an error (``Stale``): the code has changed, and the reason may not hold any more.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


class Stale(Exception):
    """A place is named that the code does not have."""


class Place(NamedTuple):
    """A line, or several, in a function of the core; function ``EVERY``: all functions of the file."""

    file: str
    function: str
    text: str = ""

    def __str__(self) -> str:
        return f"{self.file}, {self.function}{f': {self.text}' if self.text else ''}"


EVERY = "*"
ABANDONED = "coordinator/abandoned.py"
BATCHER, DRIVER, SERVICE = "coordinator/batcher.py", "coordinator/driver.py", "coordinator/service.py"
COORDINATOR, ROUTING, PEERS = "coordinator/coordinator.py", "coordinator/routing.py", "cluster/peers.py"
JUDGEMENTS, WRITES, HINTS = "coordinator/judgements.py", "coordinator/writes.py", "coordinator/hint_sender.py"

UNREACHED: Mapping[str, tuple[Place, ...]] = {
    "defaults for callers without a coordinator; each coordinator gives its own": (
        Place("cluster/health.py", "Health.<lambda>", "self, clock: Clock"),
        Place(PEERS, "Peers.<lambda>", "state: Callable"),
        Place(PEERS, "Peers.<lambda>", "moved: Callable"),
        Place(BATCHER, "Batcher.<lambda>"),
    ),
    "the end of an embedded coordinator, and of its loop; a simulated client's process just ends": (
        Place(BATCHER, "Batcher.busy"),
        Place(DRIVER, "Driver.busy"),
        Place(DRIVER, "Driver.tasks"),
        Place(DRIVER, "Driver.end"),
        Place(DRIVER, "Driver._hear", "if self._over:"),
        Place(SERVICE, "CoordinatorService.busy"),
        Place(SERVICE, "CoordinatorService.tasks"),
        Place(SERVICE, "CoordinatorService.end"),
    ),
    "a fork, which no simulated process can do": (Place(ROUTING, "Routing.known_state"),),
    "a caller that gives up; the operations of a simulated client are not cancelled": (
        Place(DRIVER, "_future.done", "if future.done():"),
        Place(ABANDONED, "Abandoned.add"),
        Place(ABANDONED, "Abandoned.before"),
        Place(ABANDONED, "Abandoned._over"),
        Place(ABANDONED, "written"),
        Place(BATCHER, "_Waiter.cancel"),
        Place(BATCHER, "_Group.give_up"),
        Place(BATCHER, "Batcher._settle", "end()"),
        Place(BATCHER, "Batcher._leave_together", "if not members:"),
        Place(SERVICE, "CoordinatorService._answer_after"),
        Place(SERVICE, "CoordinatorService._kept.look", "over = self.abandoned.add("),
    ),
    "sockets: for which answer a blocking connection waits first": (Place("coordinator/steps.py", "Round.of_all"),),
    "limits that a simulated load is far from": (
        Place(COORDINATOR, "Coordinator._check_room", "raise Overloaded"),
        Place(HINTS, "HintSender.take", "if len(self._waiting) >= MAX_WAITING:"),
        Place(PEERS, "Peers.call", 'raise PeerRefused("overloaded"'),
        Place("coordinator/reads.py", "_note_read", "asks.setdefault(node_id, [])"),
        Place(WRITES, "_write_error", "return PairTooLarge("),
    ),
    "what the client has checked before": (
        Place(JUDGEMENTS, "check_items", "raise InvalidOption"),
        Place(JUDGEMENTS, "check_most_keys", "raise InvalidOption"),
        Place(JUDGEMENTS, "check_replicas", "raise InvalidOption"),
        Place(SERVICE, "CoordinatorService._info", "case _:"),
    ),
    "bytes that are no answer, or not one to this request; the simulated network damages none": (
        Place(PEERS, "Peers.believe", 'raise PeerRefused("corrupt"'),
        Place(SERVICE, "CoordinatorService._ask_supervisor", "if isinstance(answer, f.ClusterUpdate):"),
        Place(SERVICE, "CoordinatorService._framed", "return f.coordinator_answers.encode(_refused(error))"),
        Place(BATCHER, "_parts", "wrong = CorruptData("),
        Place(BATCHER, "_parts", "return [f.Refused(f.Failed.of(wrong))]"),
    ),
    "bugs, whose cause goes to the caller that waits": (
        Place(BATCHER, "Batcher._leave_together", "except Exception as error:"),
        Place(BATCHER, "Batcher._settle", "if not group.under_way:"),
        Place(BATCHER, "Batcher._settle", "for waiter in group.members:"),
        Place(DRIVER, "posting.call", "except Exception as error:"),
        Place(DRIVER, "Driver._nobody_waits", "self._report("),
        Place(DRIVER, "Driver._call", "outcome = PeerUnreachable(repr(error))"),
    ),
    "a process of Ray that is there and not open: it says so; a simulated one raises, as if it were not reachable": (
        Place(PEERS, "Peers.believe", "if not answer.incarnation"),
        Place(ROUTING, "Routing.fetch_update", "if isinstance(answer, f.Refused):"),
        Place(SERVICE, "CoordinatorService._info", "if not isinstance(answer, f.Info):"),
    ),
    "an operation's epoch is that of a state which its coordinator knows": (
        Place(PEERS, "Peers._state_frame", "if known is None"),
    ),
    "2W > N: as many owners as can acknowledge a write can show what it supersedes": (
        Place("coordinator/fast_path.py", "FastPath._reserve", "if len(order[nodes]) < needed:"),
    ),
    "P2: each run of a node names its dots anew": (Place(WRITES, "Writes.stamped", "if contains(seen, dot):"),),
    "a driver that brings several outcomes at once; this one brings each by itself": (
        Place("cluster/fanout.py", "Fanout.leave", "late(self._arrived.popleft())"),
        Place(DRIVER, "Driver._wait", "if fan.has_outcomes:"),
    ),
    "backups and restores, which the workloads do not make: tests/coordinator/test_snapshots_under_faults.py does": (
        Place("coordinator/snapshots.py", EVERY),
        Place("coordinator/loading.py", EVERY),
        Place(SERVICE, "CoordinatorService._take_snapshot"),
        Place(SERVICE, "CoordinatorService._load"),
    ),
    "explanations, which the workloads do not ask for: tests/client/test_explaining.py does": (
        Place("coordinator/explaining.py", EVERY),
        Place(COORDINATOR, "Coordinator.beside"),
        Place(COORDINATOR, "Coordinator.leader_of"),
        Place(ROUTING, "Routing.beside"),
        Place(WRITES, "Writes.beside"),
        Place("coordinator/changes.py", "Changes.beside"),
        Place("coordinator/changes.py", "Changes.leader_of"),
        Place("cluster/health.py", "Health.share_health_of"),
    ),
    "nobody in raykv asks for it": (
        Place(DRIVER, "Driver._learn", "if what.bucket_id is None:"),
        Place("coordinator/rounds.py", "WriteRound.restamps"),
        Place(WRITES, "Writes.peers"),
    ),
}


def lines_of(place: Place, functions: Mapping[int, str], source: str) -> set[int]:
    """Return the lines of a place; ``functions``: the lines of its file that can be reached, with their functions.

    Raises ``Stale`` if there are none.
    """
    text = source.splitlines()
    begins = [
        line
        for line, function in functions.items()
        if place.function in {EVERY, function} and text[line - 1].lstrip().startswith(place.text)
    ]
    spans = _spans_of(source) if place.text else {}
    lines = {line for begin in begins for line in spans.get(begin, range(begin, begin + 1)) if line in functions}
    if not lines:
        raise Stale(f"{place} is not there")
    return lines


def named(files: Iterable[tuple[Path, str, Mapping[int, str]]]) -> dict[str, dict[int, str]]:
    """Return the named lines of each file, each with the reason. ``files``: path, name under ``raykv``, lines.

    Raises ``Stale``.
    """
    found: dict[str, dict[int, str]] = {}
    by_name = {name: (path, functions) for path, name, functions in files}
    for reason, places in UNREACHED.items():
        for place in places:
            if place.file not in by_name:
                raise Stale(f"{place} is not in a file of the core")
            path, functions = by_name[place.file]
            lines = lines_of(place, functions, path.read_text())
            found.setdefault(str(path), {}).update(dict.fromkeys(sorted(lines), reason))
    return found


def _spans_of(source: str) -> dict[int, range]:
    """Return the lines of what begins at a line: a statement, a handler, a case; of an ``if``, its branch."""
    spans: dict[int, range] = {}
    for node in ast.walk(ast.parse(source)):  # breadth first: what is outside comes first, and stays
        match node:
            case ast.If():
                begin, first, end = node.lineno, node.body[0].lineno, node.body[-1].end_lineno
            case ast.match_case():
                begin = first = node.pattern.lineno
                end = node.body[-1].end_lineno
            case ast.stmt() | ast.ExceptHandler():
                begin, first, end = node.lineno, node.lineno, node.end_lineno
            case _:
                continue
        spans.setdefault(begin, range(first, (end or first) + 1))
    return spans
