"""A sequence chart of messages, in text: a column a process, a row a message, the time at the left.

::

     9.7012  o------>|       |       |       put a1=c1.14 w=2
     9.7023  |       o------>|       |       write a1=c1.14@9.701 [run 1]
     9.7031  |       |<------o       |       a1 kept [run 1]
     9.8100  == node n2: power =====

A message stands where it was *sent*; the trace does not say when it arrived, so an answer says how long after its
request it came, if that was long. One that was lost ends in ``x`` half-way; a request that nobody answered says so. A
lifeline is ``|`` while its process runs, ``:`` while it is frozen and blank while there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from simulation.excerpt import Gap, excerpt
from simulation.message_text import Interpreter, Topic, short

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from raykv.sim.trace import Event
    from simulation.run import Outcome

WIDTH = 160
_TIME = 10
_COLUMN = 8
_LATE_S = 0.1
_CUT = ("held by a cut", "lost in a cut")
_ENDED = ("fault: kill", "fault: power", "fault: wipe", "fault: roll back", "gives up: ", "dies in front of")


class World(NamedTuple):
    """Something that is no message: a fault, its end, a death, a start."""

    at_s: float
    words: str


class _Row(NamedTuple):
    at_s: float
    source: str
    target: str
    """Empty: something that the source alone does."""
    head: str
    """What stands at the end of the arrow."""
    words: str
    lives: Mapping[str, str]


def world_of(event: Event) -> World | None:
    """Return what happened in the world; None if the event is a message's."""
    what, who, whom = event.what, event.source, event.target
    if event.number:
        return None
    words = " ".join(what.split())
    if who == "nemesis":
        words = f"FAULT {short(whom)}: {words.removeprefix('fault: ').removesuffix(' 0')}" if "fault: " in what else (
            f"{short(whom)}: {words}"
        )  # fmt: skip
    elif who:
        words = f"{short(who)} {words}"
    return World(event.at_s, words)


def chart(
    outcome: Outcome,
    at_s: float,
    *,
    key: str | None = None,
    topics: Iterable[Topic] = ("data", "state", "life"),
    moments: Sequence[float] = (),
    limit: int = 70,
) -> str:
    """Return the messages around a moment, and around others that matter: those on ``key``, or all of ``topics``.

    ``outcome`` must have been kept with its trace.
    """
    drawing = _Drawing(outcome.trace, key, frozenset(topics))
    chosen = excerpt(drawing.rows(), [at_s, *moments], limit)
    lines = draw([row for row in chosen if not isinstance(row, Gap)], chosen)
    if outcome.events > len(outcome.trace):
        lines.insert(1, f"(the first {outcome.events - len(outcome.trace)} events of the run were not kept)")
    return "\n".join(lines)


def chart_of(
    events: Sequence[Event], *, topics: Iterable[Topic], without: tuple[str, ...] = (), width: int = WIDTH
) -> list[str]:
    """Return the lines of a chart of all messages of ``topics`` among ``events``, and of what happened in the world.

    ``without``: how the words of messages begin that are left out.
    """
    rows = [row for row in _Drawing(events, None, frozenset(topics)).rows() if not row.words.startswith(without)]
    return draw(rows, rows, width)


class _Drawing:
    def __init__(self, events: Sequence[Event], key: str | None, topics: frozenset[Topic]) -> None:
        self._events = events
        self._topics = topics
        self._interpreter = Interpreter(key)
        self._answered = {event.number for event in events if event.what.startswith(("answers", "is absent"))}
        self._asked_s: dict[int, float] = {}
        self._shown: set[int] = set()

    def rows(self) -> list[_Row | World]:
        rows: list[_Row | World] = []
        lives: dict[str, str] = {}
        for event in self._events:
            lives = _lives_after(event, lives)
            world = world_of(event)
            row = world if world is not None else self._row(event, lives)
            if row is not None:
                rows.append(row)
        return rows

    def _row(self, event: Event, lives: Mapping[str, str]) -> _Row | None:
        source, target = short(event.source), short(event.target)
        if event.what == "gives up":
            if event.number not in self._shown:
                return None
            return _Row(event.at_s, source, "", "X", f"waits no longer for {target}", lives)
        if event.what in _CUT:
            return _Row(event.at_s, source, target, "x", event.what, lives) if event.number in self._shown else None
        lost = "x" if event.what.endswith("lost") else ""
        if event.what.startswith("is absent"):
            if event.number not in self._shown:
                return None
            return _Row(event.at_s, source, target, lost, "no such process runs", {**lives, source: " "})
        said = self._interpreter.said(event)
        if not said.concerns or said.topic not in self._topics:
            return None
        words = said.words
        if event.what.startswith("asks"):
            words = f"once more: {words}" if event.number in self._shown else words
            words += "" if event.number in self._answered else "   -- never answered"
            self._asked_s.setdefault(event.number, event.at_s)
        else:
            after_s = event.at_s - self._asked_s.get(event.number, event.at_s)
            words += f"   ({after_s:.2f} s after it was asked)" if after_s > _LATE_S else ""
        self._shown.add(event.number)
        return _Row(event.at_s, source, target, lost, words, lives)


def _lives_after(event: Event, lives: dict[str, str]) -> dict[str, str]:
    """Return each process's lifeline after an event. A sender is running."""
    who, sign = short(event.source), "|"
    if event.source == "nemesis":
        who = short(event.target)
        if event.what.startswith("fault: freeze"):
            sign = ":"
        elif not event.what.startswith("over: freeze"):
            sign = " " if event.what.startswith(_ENDED) else lives.get(who, "|")
    elif event.what.startswith(_ENDED):
        sign = " "
    elif event.what.startswith(("is ended", "is absent")):
        sign = lives.get(who, "|")
    return lives if lives.get(who, "|") == sign else lives | {who: sign}


def draw(rows: Sequence[_Row | World], shown: Sequence[_Row | World | Gap], width: int = WIDTH) -> list[str]:
    """Return the lines of a chart."""
    columns = _columns(rows)
    places = {name: _TIME + _COLUMN * index + _COLUMN // 2 for index, name in enumerate(columns)}
    text_at = _TIME + _COLUMN * len(columns) + 2
    title = [" "] * text_at
    for name, place in places.items():
        start = place - len(name) // 2
        title[start : start + len(name)] = name
    lines = ["".join(title).rstrip()]
    for row in shown:
        if isinstance(row, Gap):
            lines.append(f"{'':{_TIME}}{row.describe()}")
        elif isinstance(row, World):
            lines.append(f"{row.at_s:{_TIME - 1}.4f} == {row.words} "[: width - 4].ljust(max(text_at, 40), "="))
        else:
            drawn = "".join(_arrow(row, places, text_at))
            lines.append(_cut(f"{row.at_s:{_TIME - 1}.4f} {drawn[_TIME:]}{row.words}", width))
    return lines


def _arrow(row: _Row, places: Mapping[str, int], length: int) -> list[str]:
    line = [" "] * length
    for name, place in places.items():
        line[place] = row.lives.get(name, "|")
    start = places[row.source]
    if not row.target:
        line[start] = row.head
        return line
    end = places[row.target]
    step = 1 if end > start else -1
    line[start] = "o"
    for place in range(start + step, end, step):
        line[place] = "-" if line[place] == " " else "+"
    line[end - step] = ">" if step > 0 else "<"
    if row.head:
        half = (start + end) // 2
        line[half] = row.head
        for place in range(half + step, end, step):
            line[place] = " " if line[place] in "-<>" else row.lives.get(_at(places, place), "|")
    return line


def _at(places: Mapping[str, int], wanted: int) -> str:
    return next((name for name, place in places.items() if place == wanted), "")


def _columns(rows: Sequence[_Row | World]) -> list[str]:
    """Return the processes that take part: clients, coordinators, the supervisor, nodes."""
    taking_part = {name for row in rows if isinstance(row, _Row) for name in (row.source, row.target) if name}

    def place(name: str) -> tuple[int, str]:
        kinds = {"s": 2, "n": 3, "l": 0}
        return (1 if name.startswith("co") else kinds.get(name[0], 0)), name

    return sorted(taking_part, key=place)


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 2] + ".."
