"""An explained operation: as text, as a picture of what went to and fro over time, and as both for a notebook.

``explanation``: an ``Explanation``, or anything with ``operation``, ``key``, ``error``, ``took_ms`` and ``requests``.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from raykv.viz.paper import COLOURS, FAULT, INK, head, rule, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_LEFT, _TOP, _LANE, _ROW, _RIGHT = 110, 34, 130, 22, 420
_MAX_DRAWN = 60
"""Lines of a ladder; more are counted only."""
_WIDE = 46


class _Explained(Protocol):
    @property
    def operation(self) -> str: ...
    @property
    def key(self) -> Any: ...
    @property
    def error(self) -> Exception | None: ...
    @property
    def took_ms(self) -> float: ...
    @property
    def requests(self) -> list[dict[str, Any]]: ...


# ---- text ----


def ladder_text(explanation: _Explained) -> str:
    """Return an explained operation as lines of text, in the order in which things happened."""
    lines = []
    for number, request in enumerate(explanation.requests, 1):
        if len(explanation.requests) > 1:
            lines.append(
                f"{number}. after {sum(each['took_ms'] for each in explanation.requests[: number - 1]):.2f} ms"
            )
        lines += _head(explanation, request)
        lines += [f"{at_ms:10.3f} ms  {said}" for at_ms, said in _events(request)]
        lines.append(f"{request['took_ms']:10.3f} ms  {request['outcome']}")
    if explanation.error is not None:
        lines.append(f"{type(explanation.error).__name__}: {explanation.error}")
    return "\n".join(_printable(line) for line in lines)


def _head(explanation: _Explained, request: Mapping[str, Any]) -> Iterator[str]:
    levels = {"get": "r", "scan": "r", "write": "w"}
    level = f", {levels[request['operation']]}={request['level']}" if request["operation"] in levels else ""
    yield (
        f"{explanation.operation} {_short(repr(explanation.key), _WIDE)} in bucket {request['bucket']!r} "
        f"(n={request['n']}{level}, {request['versioning']}): {request['took_ms']:.2f} ms"
    )
    if request["token"]:
        yield (
            f"    token {request['token']}, partition {request['partition']} of {request['partitions']}, "
            f"owners {', '.join(request['owners'])}; epoch {request['epoch']}"
            + (f"; leader {request['leader']}" if request["leader"] else "")
        )
    if request["moving"]:
        before, after = request["moving"]
        yield f"    its partition moves from {', '.join(before)} to {', '.join(after)}"


def _events(request: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Return what happened: (when in ms, in words), in order."""
    events: list[tuple[float, int, str]] = []
    first: dict[str, str] = {}
    for sent in sorted(request["requests"], key=lambda sent: sent["answered_ms"] or 0.0):
        if sent["digest"]:
            first.setdefault(sent["digest"], sent["node_id"])
    for number, sent in enumerate(request["requests"]):
        why = f" ({sent['why']})" if sent["why"] else ""
        events.append((sent["sent_ms"], 2 * number, f"-> {sent['node_id']}  {sent['kind']}{why}"))
        at_ms = sent["answered_ms"]
        if at_ms is None:
            events.append((max(request["took_ms"], sent["sent_ms"]), 10_000, f"   {sent['node_id']}  {sent['answer']}"))
            continue
        said = sent["answer"]
        if sent["digest"]:
            same = first[sent["digest"]]
            said += f", the same as {same}" if same != sent["node_id"] else f", record {sent['digest']}"
        events.append((at_ms, 2 * number + 1, f"<- {sent['node_id']}  {said}{_in_node(sent['node'])}"))
    return [(at_ms, said) for at_ms, _, said in sorted(events, key=lambda event: event[:2])]


def _in_node(node: Mapping[str, Any]) -> str:
    """Return in words what a node did for its answer."""
    if not node:
        return ""
    looks = "; ".join(_looks(each) for each in node["looks"] if each)
    waited = f", then waited {node['waited_us'] / 1000:.2f} ms" if node["waited_us"] >= 1 else ""
    took = f"{node['looked_us'] + node['handled_us']:.0f} us in the node{waited}"
    return f"  [{took}{': ' + looks if looks else ''}]"


def _looks(looks: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(_look(look) for look in looks)


def _look(look: Mapping[str, Any]) -> str:
    said = look["source"]
    if look["filter"]:
        said += f" filter {look['filter']}"
    if look["block"]:
        said += f" block {look['block']}"
    if look["found"]:
        return f"{said} found ({look['us']:.0f} us)"
    if look["filter"] == "maybe":
        return f"{said} false positive ({look['us']:.0f} us)"
    return said if look["filter"] == "no" else f"{said} no"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in line)


# ---- a picture ----


def ladder_svg(explanation: _Explained) -> str:
    """Draw an explained operation: a line for each node, time downwards, an arrow for each message.

    Not to scale: messages stand one below the other in order, with their times. Red: no answer, or a failure.
    """
    drawn = [*_messages(explanation)]
    left_out, drawn = max(0, len(drawn) - _MAX_DRAWN), drawn[:_MAX_DRAWN]
    nodes = [*dict.fromkeys(node_id for _, node_id, *_ in drawn)]
    lanes = {node_id: _LEFT + (at + 1) * _LANE for at, node_id in enumerate(nodes)}
    bottom = _TOP + (len(drawn) + 1) * _ROW + 14
    width = _LEFT + (len(nodes) + 1) * _LANE + _RIGHT - _LANE
    parts = [head(width, bottom + 26, f"{explanation.operation}, message by message", shrinks=False)]
    for name, x in (("coordinator", _LEFT), *lanes.items()):
        parts.append(words(x, 20, _short(name, 18), anchor="middle", extra=' font-weight="bold"'))
        parts.append(rule(x, _TOP - 6, x, bottom, "#BBBBBB"))
    for row, (at_ms, node_id, forth, said, failed, more) in enumerate(drawn, 1):
        y, x = _TOP + row * _ROW, lanes[node_id]
        colour = FAULT if failed else COLOURS[0] if forth else INK
        begin, end = (_LEFT, x) if forth else (x, _LEFT)
        if failed and not forth:
            parts.append(words(x, y + 4, "x", anchor="middle", extra=f' style="fill:{FAULT}" font-size="16"'))
        else:
            parts.append(_arrow(begin, end, y, colour))
        parts.append(words(_LEFT - 12, y + 4, f"{at_ms:.2f} ms", anchor="end", extra=' style="fill:#666666"'))
        parts.append(
            f"<g><title>{escape(more)}</title>"
            + words(max(lanes.values()) + 12, y + 4, _short(f"{node_id}: {said}", 56), extra=f' style="fill:{colour}"')
            + "</g>"
        )
    last = f"{explanation.took_ms:.2f} ms: " + (
        type(explanation.error).__name__
        if explanation.error is not None
        else "; ".join(dict.fromkeys(request["outcome"] for request in explanation.requests))
    )
    left = f" ({left_out} more messages)" if left_out else ""
    parts.append(words(_LEFT, bottom + 16, _short(last, 90) + left, extra=' font-weight="bold"'))
    return "".join([*parts, "</svg>"])


def _messages(explanation: _Explained) -> Iterator[tuple[float, str, bool, str, bool, str]]:
    """Yield (ms, node, whether to the node, what, whether it failed, more of it) in order, over all requests."""
    before_ms = 0.0
    for request in explanation.requests:
        events: list[tuple[float, int, str, bool, str, bool, str]] = []
        for number, sent in enumerate(request["requests"]):
            what = sent["kind"] + (f" ({sent['why']})" if sent["why"] else "")
            events.append((sent["sent_ms"], 2 * number, sent["node_id"], True, what, False, what))
            at_ms, failed = sent["answered_ms"], sent["answered_ms"] is None or sent["answer"].startswith("failed")
            at_ms = max(request["took_ms"], sent["sent_ms"]) if at_ms is None else at_ms
            more = sent["answer"] + _in_node(sent["node"])
            events.append((at_ms, 2 * number + 1, sent["node_id"], False, sent["answer"], failed, more))
        for at_ms, _, node_id, forth, said, failed, more in sorted(events, key=lambda event: event[:2]):
            yield before_ms + at_ms, node_id, forth, said, failed, more
        before_ms += request["took_ms"]


def _arrow(begin: float, end: float, y: float, colour: str) -> str:
    tip = -7 if end > begin else 7
    return rule(begin, y, end, y, colour) + (f'<path d="M{end:g} {y:g}l{tip} -4v8z" fill="{colour}"/>')


# ---- for a notebook ----


def ladder_html(explanation: _Explained) -> str:
    """Return the picture, and the text below it to unfold."""
    lines = "\n".join(_boxed(ladder_text(explanation).splitlines()))
    return (
        f'<div style="overflow-x:auto;background:#fff">{ladder_svg(explanation)}</div>'
        f'<details><summary>step by step</summary><pre style="font-size:12px">{escape(lines)}</pre></details>'
    )


def _boxed(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        if number >= 2 * _MAX_DRAWN:
            yield "..."
            return
        yield _short(line, 400)
