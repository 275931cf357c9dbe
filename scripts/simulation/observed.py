"""What happened in a run, counted from its trace and its history, beside what the core counts itself.

The names: ``op: put ok`` (answers to clients), ``event: ...`` (what happened in the world), ``network: ...``,
``answer: ...`` (what nodes and coordinators said). Numbers and paths are taken out of the words, so that the same thing
has the same name in every run.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from raykv.protocol import frames as f
from simulation.message_text import body_of
from simulation.sequence_chart import world_of

if TYPE_CHECKING:
    from raykv.sim.trace import Event
    from simulation.run import Outcome

_PATH = re.compile(r"/\S+")
_NUMBER = re.compile(r"\b\w*\d\S*")
_WORDS = 60


def observed(outcome: Outcome) -> Counter[str]:
    """Count. ``outcome`` must have been kept with trace and history."""
    counts: Counter[str] = Counter()
    if outcome.history is not None:
        counts.update(f"op: {op.kind} {op.outcome}" for op in outcome.history.ops)
        counts.update(f"change: {op.kind} {op.outcome}" for op in outcome.history.changes)
        counts.update(f"lock: {'lost' if held.lost else 'held'}" for held in outcome.history.holdings)
        counts["op: scan to its end"] += len(outcome.history.scans)
        counts["op: bucket opened"] += len(outcome.history.buckets)
    for event in outcome.trace:
        if event.what.startswith("answers"):
            _count_answer(counts, event)
        if world_of(event) is None:
            if event.what not in {"asks", "answers"}:
                counts[f"network: {event.what}"] += 1
        elif event.what.startswith("serves generation") and not event.what.endswith(" 1"):
            counts["event: a supervisor takes over"] += 1
        elif not event.what.startswith("fault: "):  # those are counted as they are done
            counts[f"event: {_plain(event.what)}"] += 1
    return counts


def _plain(words: str) -> str:
    return " ".join(_NUMBER.sub("..", _PATH.sub("..", words)).split())[:_WORDS]


def _count_answer(counts: Counter[str], event: Event) -> None:
    match body := body_of(event):
        case None:
            counts["answer: raised"] += 1
        case f.NodeRefused():
            counts[f"answer: refused {body.reason}"] += 1
        case f.Incomplete():
            counts["answer: incomplete"] += 1
        case f.NotOwner():
            counts["answer: moved"] += 1
        case f.WriteDone() if any(body.newer):
            counts["answer: newer held"] += 1
        case f.ReadDone() if body.unreadable:
            counts["answer: unreadable"] += 1
        case f.AcceptorAnswer():
            counts[f"answer: register {'granted' if body.granted else 'not granted'}"] += 1
            counts["answer: register without a vote"] += not body.voter
        case f.Refused():
            counts[f"answer: {body.failed.name}"] += 1
        case f.GotMany() | f.WroteMany():
            counts.update(f"answer: {item.name}" for item in body.items if isinstance(item, f.Failed))
