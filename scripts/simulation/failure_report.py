"""What a failing run shows to a person: which promise was broken, how to see it again, what led to it.

The *history* of a key has every operation on it, with the stamps that its writes were given, and the faults in between.
The *chart* has the messages (``sequence_chart``). Both are cut down to what lies near the moments that the violation
names, and say what they leave out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from simulation.excerpt import Gap, excerpt
from simulation.message_text import dot_in_words, history_in_words, moment, of_mark
from simulation.sequence_chart import chart, world_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.sim.faults import Fault
    from simulation.history import Op, Stamps, Violation
    from simulation.message_text import Topic
    from simulation.rig_faults import RigFault
    from simulation.run import Outcome
    from simulation.scenario import Scenario

HISTORY_LINES = 50
CHART_ROWS = 70
_MORE_VIOLATIONS = 5
_FAULTS = 40
_TEXT = 2000
_TIME_IN_TEXT = re.compile(r"\b(\d+\.\d{4}) s\b")
_STATE_RULES = ("two states", "handed out too early", "bucket forgotten", "bucket id given twice")

__all__ = ["chart", "history_of", "report"]


class _Line(NamedTuple):
    at_s: float
    text: str


def history_of(outcome: Outcome, key: str, *, moments: Sequence[float] = (), limit: int = HISTORY_LINES) -> str:
    """Return the history of a key, as far as it lies near ``moments`` (if none is given: near the end).

    Operations that end at one of the moments are marked. ``outcome`` must have been kept with its history.
    """
    if outcome.history is None:
        return "(the history was not kept)"
    ops = outcome.history.by_key().get(key, [])
    lines = [_Line(op.invoked_s, _described(op, outcome.history.stamps, moments)) for op in ops]
    lines += [_Line(op.invoked_s, f"  {_short_error(op.told())}") for op in outcome.history.changes if op.key == key]
    worlds = [world for event in outcome.trace if (world := world_of(event)) is not None]
    lines += [_Line(world.at_s, f"  {world.at_s:10.4f}  == {world.words}") for world in worlds]
    lines.sort(key=lambda line: line.at_s)
    chosen = excerpt(lines, moments, limit)
    return "\n".join(f"  {line.describe()}" if isinstance(line, Gap) else line.text for line in chosen)


def _described(op: Op, stamps: Stamps, moments: Sequence[float]) -> str:
    marked = any(abs(op.returned_s - at_s) < 1e-4 for at_s in moments)
    if op.kind in {"put", "delete"}:
        given = _stamps_of(op.operation_id, stamps)
        note = f"   stamped {given}" if given else ""
    else:
        given = _stamps_of(stamps.operation_of_value.get(str(op.value), ""), stamps)
        note = f"   which has {given}" if given else ""
        note += f"   seen {history_in_words(op.seen)}" if op.seen is not None else ""
    return f"{'>>' if marked else '  '}{_short_error(op.describe())}{note}"


def _stamps_of(operation_id: str, stamps: Stamps) -> str:
    """Return the stamps of a write; of one with a dot, its time, its dot, and what it supersedes."""
    sent = stamps.writes.get(operation_id)
    if sent is not None:
        return f"{moment(sent.time)} {dot_in_words(sent.dot)} over {history_in_words(sent.seen)}"
    return ", ".join(of_mark(mark) for _, mark in stamps.of_operation.get(operation_id, ()))


def _short_error(text: str) -> str:
    return text if len(text) <= 150 else text[:147] + "..)"


def moments_of(violation: Violation) -> list[float]:
    """Return when it was, and the times that its text names."""
    return [violation.at_s, *(float(found) for found in _TIME_IN_TEXT.findall(violation.text))]


def report(outcome: Outcome, command: str = "") -> str:
    """Return all that a person needs who has to find out why this run failed. ``command`` runs it again."""
    if not outcome.violations:
        return f"seed {outcome.seed}: nothing is wrong"
    first = outcome.violations[0]
    parts = [_heading(outcome, first), f"again:     {command or f'scripts/simulate --seed {outcome.seed}'}"]
    if outcome.scenario is not None:
        parts += make_of(outcome.scenario)
    if outcome.history is not None and outcome.trace:
        parts += _evidence(outcome, first)
    return "\n".join(parts)


def _heading(outcome: Outcome, first: Violation) -> str:
    about = f", {first.key}" if first.key else ""
    lines = [f"seed {outcome.seed}: {first.rule}{about}, at {first.at_s:.4f} s", _indented(first.text)]
    others = outcome.violations[1:]
    lines += [f"  and {more.rule}: {more.text.splitlines()[0]:.120}" for more in others[:_MORE_VIOLATIONS]]
    if len(others) > _MORE_VIOLATIONS:
        lines.append(f"  and {len(others) - _MORE_VIOLATIONS} more")
    return "\n".join(lines)


def _indented(text: str) -> str:
    text = text if len(text) <= _TEXT else f"...{text[-_TEXT:]}"
    return "\n".join(f"  {line}" for line in text.splitlines())


def _evidence(outcome: Outcome, first: Violation) -> list[str]:
    assert outcome.history is not None
    moments = moments_of(first)
    parts = []
    known = {op.key for op in outcome.history.ops} | {op.key for op in outcome.history.changes}
    key = first.key if first.key in known else None
    if key is not None:
        parts += ["", f"the history of {key}  (>> named above; @ the stamp, in seconds since the run began)"]
        parts.append(history_of(outcome, key, moments=moments))
    topics: tuple[Topic, ...] = ("data", "state", "life")
    what = "all messages"
    if key is not None:
        topics, what = ("data",), f"the messages about {key}"
    elif first.rule in _STATE_RULES:
        topics, what = ("state",), "the messages about the cluster's state"
    parts += ["", f"{what}  (at the time when they were sent; x: lost on the way)"]
    parts.append(chart(outcome, first.at_s, key=key, topics=topics, moments=moments[1:], limit=CHART_ROWS))
    return parts


def make_of(scenario: Scenario) -> list[str]:
    """Return what a scenario is made of, in a few lines."""
    store, config, odds = scenario.cluster.store, scenario.cluster.config, scenario.odds
    promised = "within its promises" if scenario.within else "beyond its promises"
    low_s, high_s = odds.delay_s
    network = [f"delays of {low_s * 1000:g} to {high_s * 1000:g} ms"]
    network += [f"{odds.late:.1%} late by up to {odds.late_s:g} s"] if odds.late else []
    network += [f"{odds.lost:.1%} lost"] if odds.lost else []
    network += [f"{odds.repeated:.1%} sent twice"] if odds.repeated else []
    skewed = any(scenario.skews_ms.values()) or any(drift != 1.0 for drift in scenario.drifts.values())
    clocks = f"off by up to {scenario.skew_ms:.0f} ms" if skewed else "right"
    faults: list[Fault | RigFault] = [*scenario.faults, *scenario.rig_faults]
    faults.sort(key=lambda fault: fault.at_s)
    clients = [f"{program.client} ({len(program.steps)} steps, {program.coordinator})" for program in scenario.programs]
    lines = [
        f"cluster:   {scenario.cluster.nodes} nodes, {scenario.cluster.coordinators} coordinators, "
        f"{store.copies} copies, r={scenario.r}, w={scenario.w}, durability {store.durability}, "
        f"{store.partitions} partitions; {scenario.duration_s:.1f} s, {promised}",
        f"nodes:     memtable {config.memtable_bytes}, block {config.block_bytes}, cache {config.block_cache_bytes}, "
        f"table {config.table_bytes} bytes, {config.runs_per_level} runs a level",
        f"network:   {', '.join(network)}; clocks {clocks}",
        f"clients:   {', '.join(clients) or 'none'}",
        f"faults:    {'' if faults else 'none'}".rstrip(),
        *(f"  {fault.describe()}" for fault in faults[:_FAULTS]),
    ]
    if len(faults) > _FAULTS:
        lines.append(f"  ... and {len(faults) - _FAULTS} more")
    return lines
