"""Changes of a store's nodes: the client's requests, and its wait until the partitions have moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, cast

from raykv.client.exchange import Exchange, ask_info
from raykv.client.given import called
from raykv.client.views import ScalingView
from raykv.config import ScalingConfig, check_choice, check_timeout, real_number, shown, whole_number
from raykv.errors import InvalidOption, Overloaded, QuorumNotMet, StoreUnavailable
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.client.exchange import Steps


T = TypeVar("T")


class ScalingLimits(TypedDict, total=False):
    """The autoscaler's limits: see ``Store.autoscale``."""

    ops_per_s: float
    node_bytes: int
    p99_ms: float
    least: int
    most: int
    low: float
    high: float
    cool_down: float


RebalanceAction = Literal["pause", "resume", "abort"]

REBALANCE_TIMEOUT_S = 600.0
"""How long a call waits until the partitions have moved. The moves go on without it."""
ASK_TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.25
MAX_WEIGHT = 1e6


def add_node(
    weight: float | Literal["auto"], zone: str | None, host: str | None, timeout: float = ASK_TIMEOUT_S
) -> Steps[str]:
    """Add a node; return its id. The call may wait until Ray has started a machine."""
    carries = 0.0 if isinstance(weight, str) and weight == "auto" else _weight(weight)
    request = f.AddNode(carries, _name("zone", zone), _name("host", host), check_timeout(timeout))
    return str((yield from ask_info(request, request.timeout_s, repeatable=False)))


def replace_node(node_id: str, host: str | None, timeout: float = ASK_TIMEOUT_S) -> Steps[str]:
    """Replace a lost node by a new one; return its id."""
    request = f.ReplaceNode(_name("node_id", node_id), _name("host", host), check_timeout(timeout))
    return str((yield from ask_info(request, request.timeout_s, repeatable=False)))


def remove_node(node_id: str) -> Steps[None]:
    """Move a node's partitions to the others, and remove it."""
    yield from ask_info(f.RemoveNode(_name("node_id", node_id), ASK_TIMEOUT_S), ASK_TIMEOUT_S, repeatable=False)


def set_weight(node_id: str, weight: float) -> Steps[None]:
    """Change a node's share of the partitions."""
    request = f.SetWeight(_name("node_id", node_id), _weight(weight), ASK_TIMEOUT_S)
    yield from ask_info(request, ASK_TIMEOUT_S)


def rebalance(action: RebalanceAction) -> Steps[None]:
    """Pause the moves, resume them, or abort those that can be."""
    action = cast("RebalanceAction", check_choice("action", action, ("pause", "resume", "abort")))
    yield from ask_info(f.Rebalance(action, ASK_TIMEOUT_S), ASK_TIMEOUT_S)


def autoscale(limits: ScalingLimits, *, dry_run: bool, off: bool) -> Steps[ScalingView]:
    """Return the autoscaler's measurements and plan; start it with ``limits``, or only try them (``dry_run``).

    Raises ``InvalidOption`` for options that exclude each other.
    """
    given = {"cool_down_s" if name == "cool_down" else name: _number(name, value) for name, value in limits.items()}
    if unknown := sorted(given.keys() - {*ScalingConfig.__struct_fields__}):
        raise InvalidOption(f"autoscale() has no option {', '.join(unknown)}")
    if off and (given or dry_run):
        raise InvalidOption("autoscale(off=True) takes no other option")
    if given and "ops_per_s" not in given:
        raise InvalidOption("autoscale() needs ops_per_s: the operations per second that a node of weight 1 can carry")
    request = f.Autoscale(given or None, bool(dry_run), bool(off), ASK_TIMEOUT_S)
    return ScalingView((yield from ask_info(request, ASK_TIMEOUT_S)))


def balanced(
    change: Steps[T],
    wait: bool,
    progress: Callable[[int, int], object] | None,
    timeout: Any,
    monotonic_s: Callable[[], float],
) -> Steps[T]:
    """Change the nodes; with ``wait``, until the partitions have moved. Returns the change's result."""
    timeout_s = check_timeout(timeout)
    result = yield from change
    if wait:
        yield from until_balanced(progress, timeout_s, monotonic_s, new=result if isinstance(result, str) else "")
    return result


def until_balanced(
    progress: Callable[[int, int], object] | None, timeout: Any, monotonic_s: Callable[[], float], *, new: str = ""
) -> Steps[None]:
    """Wait until no partition is left to move. ``progress(moved, all)`` receives numbers of partitions.

    A supervisor that does not answer is started anew, and moves on from there: it is asked again. ``monotonic_s``: the
    link's clock. ``new``: the id of the node that partitions move to, which an error must not lose.

    Raises ``StoreUnavailable`` on a time-out; the moves continue.
    """
    timeout_s = check_timeout(timeout)
    until_s = monotonic_s() + timeout_s
    most, why = 0, ""
    while (left_s := until_s - monotonic_s()) > 0:
        ask_timeout_s = min(ASK_TIMEOUT_S, left_s)
        try:
            status = yield from ask_info(f.GetInfo("status", ask_timeout_s), ask_timeout_s)
        except (StoreUnavailable, QuorumNotMet, Overloaded) as error:
            why = error.message
        else:
            rebalancing = status["rebalancing"]
            left = 0 if rebalancing is None else rebalancing["partitions_left"]
            most = max(most, left)
            if progress is not None and most:
                called(progress, most - left, most)
            if rebalancing is None:
                return
            why = rebalancing["waits_for"]
        yield Exchange([], LOOK_EVERY_S, repeatable=True, pause_s=LOOK_EVERY_S)
    said = f"node {new} was added, and " if new else ""
    raise StoreUnavailable(
        f"{said}partitions are still moving after {timeout_s:g} s{f' ({why})' if why else ''}; the moves continue, and "
        "status() shows how many are left",
        **({"node_id": new} if new else {}),
    )


def _number(what: str, value: object) -> int | float:
    """Return the number in a form that a frame can carry. The supervisor, which knows the store, checks its bounds."""
    whole = whole_number(value)
    number = real_number(value) if whole is None else whole
    if number is None:
        raise InvalidOption(f"{what} must be a number; got {shown(value)}")
    return number


def _weight(value: object) -> float:
    number = real_number(value)
    if number is None or not 0 < number <= MAX_WEIGHT:
        raise InvalidOption(
            f'weight must be a number above 0 and at most {MAX_WEIGHT:g}, or "auto"; got {shown(value)}'
        )
    return number


def _name(what: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not value or len(value) > 200:
        raise InvalidOption(f"{what} must be a name of 1 to 200 characters; got {shown(value)}")
    return str.__str__(value)
