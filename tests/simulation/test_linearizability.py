import itertools
import math
import random
from typing import NamedTuple

import pytest

from simulation.linearizability import Call, CompareAndSet, ReadOf, Register, Write, check, check_by_key

UNKNOWN = None


def verdict(*calls, model=None, **options):
    return check([Call(*call) for call in calls], model or Register(), **options).linearizable


# ---- by hand -----------------------------------------------------------------------------------------------------------


def test_an_empty_history_is_linearizable():
    result = check([], Register())
    assert result.linearizable is True
    assert result.order == result.unplaced == result.unused == ()
    assert result.states == (None,)


def test_one_after_the_other():
    assert verdict(("a", 0, 1, ReadOf(None)), ("a", 2, 3, Write(1)), ("b", 4, 5, ReadOf(1)))
    assert verdict(("a", 0, 1, Write(1)), ("a", 2, 3, Write(None)), ("b", 4, 5, ReadOf(None))), "deleted"
    assert verdict(("a", 0, 1, ReadOf(7)), model=Register(7))


def test_what_is_concurrent_may_be_in_any_order():
    writes = ("a", 0, 10, Write(1)), ("b", 0, 10, Write(2))
    for value in (1, 2):
        assert verdict(*writes, ("c", 11, 12, ReadOf(value)))
    for value in (None, 1, 2):
        assert verdict(*writes, ("c", 1, 2, ReadOf(value)))
    assert verdict(*writes, ("c", 1, 2, ReadOf(2)), ("c", 3, 4, ReadOf(1)), ("c", 11, 12, ReadOf(1)))


def test_the_examples_of_porcupine():
    put, get = ("a", 0, 100, Write(100)), ("b", 25, 75, ReadOf(100))
    assert verdict(put, get, ("c", 30, 60, ReadOf(0)), model=Register(0))
    assert not verdict(
        ("a", 0, 100, Write(200)), ("b", 10, 30, ReadOf(200)), ("c", 40, 90, ReadOf(0)), model=Register(0)
    )


def test_a_stale_read():
    assert verdict(("a", 0, 1, Write(1)), ("a", 2, 3, Write(2)), ("b", 4, 5, ReadOf(1))) is False
    assert verdict(("a", 0, 1, Write(1)), ("b", 2, 3, ReadOf(None))) is False
    assert verdict(("a", 0, 1, Write(1)), ("a", 2, 3, Write(2)), ("b", 1.5, 5, ReadOf(1))) is True, "it began before"


def test_a_lost_update():
    swap = CompareAndSet(0, 1, succeeded=True)
    assert verdict(("a", 0, 9, swap), ("b", 0, 9, swap), model=Register(0)) is False
    assert verdict(("a", 0, 9, swap), ("b", 0, 9, CompareAndSet(0, 1, succeeded=False)), model=Register(0)) is True
    writes = ("a", 0, 1, Write(1)), ("b", 2, 3, Write(2)), ("c", 4, 5, Write(3))
    assert verdict(*writes, ("a", 6, 7, ReadOf(2))) is False


def test_a_value_that_was_never_written():
    assert verdict(("a", 0, 9, Write(1)), ("b", 0, UNKNOWN, Write(2)), ("c", 0, 9, ReadOf(3))) is False


def test_new_then_old():
    write = ("a", 0, 1, Write(1)), ("a", 2, 10, Write(2))
    assert verdict(*write, ("b", 3, 4, ReadOf(2)), ("c", 5, 6, ReadOf(1))) is False
    assert verdict(*write, ("b", 3, 4, ReadOf(1)), ("c", 5, 6, ReadOf(2))) is True
    assert verdict(*write, ("b", 3, 6, ReadOf(2)), ("c", 5, 6, ReadOf(1))) is True, "the reads are concurrent"


def test_independent_reads_of_independent_writes_must_agree():
    writes = ("a", 0, 20, Write(1)), ("b", 0, 20, Write(2))
    one = ("c", 1, 2, ReadOf(1)), ("c", 5, 6, ReadOf(2))
    other = ("d", 3, 4, ReadOf(2)), ("d", 7, 8, ReadOf(1))
    assert verdict(*writes, *one) is True
    assert verdict(*writes, *other) is True
    assert verdict(*writes, *one, *other) is False


def test_an_unknown_write_surfaces_late_or_never():
    before = ("a", 0, UNKNOWN, Write(1)), ("b", 1, 2, Write(2))
    assert verdict(*before, ("c", 3, 4, ReadOf(2)))
    assert verdict(*before, ("c", 3, 4, ReadOf(2)), ("c", 5, 6, ReadOf(1)), ("c", 100, 101, ReadOf(1)))
    assert verdict(*before, ("c", 3, 4, ReadOf(1)), ("c", 5, 6, ReadOf(2))) is False, "it took effect once"
    assert verdict(("c", 0, 1, ReadOf(1)), ("a", 2, UNKNOWN, Write(1))) is False, "not before it was invoked"
    result = check([Call(*call) for call in before], Register())
    assert [call.operation for call in result.unused] == [Write(1)]
    twice = ("a", 0, UNKNOWN, Write(1)), ("b", 0, UNKNOWN, Write(1)), ("c", 1, 2, Write(2))
    reads = [("d", 3 + 2 * i, 4 + 2 * i, ReadOf(i % 2)) for i in range(1, 4)]
    assert verdict(*twice, ("e", 3, 4, ReadOf(1)), ("e", 5, 6, Write(3)), ("e", 7, 8, ReadOf(1))) is True
    assert verdict(*twice, *reads) is False


def test_compare_and_set():
    done, refused, unknown = (CompareAndSet(1, 2, succeeded=succeeded) for succeeded in (True, False, None))
    for start, operation, end in [(1, done, 2), (0, refused, 0), (1, unknown, 2), (0, unknown, 0)]:
        assert verdict(("a", 0, 1, operation), ("a", 2, 3, ReadOf(end)), model=Register(start)), operation
        assert not verdict(("a", 0, 1, operation), ("a", 2, 3, ReadOf(9)), model=Register(start)), operation
    assert not verdict(("a", 0, 1, done), model=Register(0))
    assert not verdict(("a", 0, 1, refused), model=Register(1))
    # It changes nothing where it is first possible, but something later.
    assert verdict(("a", 0, 10, unknown), ("b", 1, 9, Write(1)), ("c", 11, 12, ReadOf(2)), model=Register(0))
    # An unknown write serves to let another fail, then an unknown one builds on it.
    history = ("a", 0, UNKNOWN, Write(5)), ("b", 1, 2, CompareAndSet(0, 9, succeeded=False)), ("c", 3, 4, ReadOf(6))
    assert not verdict(*history, model=Register(0))
    assert verdict(*history, ("d", 0, UNKNOWN, CompareAndSet(5, 6, succeeded=None)), model=Register(0))


def test_equal_times_are_concurrent_but_for_one_process():
    assert verdict(("a", 0, 5, Write(1)), ("b", 5, 6, ReadOf(None)))
    assert not verdict(("a", 0, 5, Write(1)), ("a", 5, 6, ReadOf(None)))
    assert not verdict(("a", 5, 6, ReadOf(None)), ("a", 0, 5, Write(1))), "however it is listed"
    assert verdict(("a", 5, 5, Write(1)), ("b", 5, 5, ReadOf(None)))
    assert not verdict(("a", 5, 5, Write(1)), ("a", 5, 5, ReadOf(None)))
    assert verdict(("a", 5, 5, ReadOf(None)), ("a", 5, 5, Write(1))), "as listed"
    assert not verdict(
        ("a", 5, 5, Write(1)), ("a", 5, UNKNOWN, Write(1)), ("a", 5, 5, Write(2)), ("a", 5, 5, ReadOf(3))
    )
    crossed = ("a", 5, 5, Write(1)), ("b", 5, 5, Write(2)), ("a", 5, 5, ReadOf(2)), ("b", 5, 5, ReadOf(1))
    assert not verdict(*crossed), "one of the writes is the last before both reads"
    assert verdict(("a", 0, 5, Write(1)), ("a", 1, 4, ReadOf(None))), "calls of one process that overlap"
    waits, free = ("a", 5, UNKNOWN, Write(1)), ("b", 5, UNKNOWN, Write(1))
    for unknown in [(waits, free), (free, waits)]:
        assert verdict(("a", 0, 5, ReadOf(1)), *unknown), "equal operations, but only one may come before the read"


def test_bad_times_are_refused():
    for invoked, returned in [(2, 1), (math.nan, 1), (1, math.nan), (math.nan, None)]:
        with pytest.raises(ValueError, match="before it was invoked"):
            verdict(("a", invoked, returned, Write(1)))


class Double(NamedTuple):
    factor: int


class Add(NamedTuple):
    amount: int


class Number:
    """One that is doubled, added to and (an int) seen."""

    initial = 0

    def __init__(self):
        self.steps = 0

    def step(self, state, operation):
        self.steps += 1
        if isinstance(operation, Double):
            return True, state * 2**operation.factor
        return (True, state + operation.amount) if isinstance(operation, Add) else (operation == state, state)


def test_equal_operations_of_different_kinds_are_distinguished():
    double, add = ("a", 0, UNKNOWN, Double(1)), ("b", 1, UNKNOWN, Add(1))
    assert Double(1) == Add(1)
    assert verdict(double, add, ("c", 2, 3, 1), ("c", 4, 5, 2), model=Number())
    assert len({Write(1), ReadOf(1), CompareAndSet(1, 1, succeeded=None)}) == 3


class Queue:
    """Of Herlihy and Wing: first in, first out."""

    initial = ()

    def step(self, state, operation):
        kind, value = operation
        return (True, (*state, value)) if kind == "E" else (state[:1] == (value,), state[1:])


def test_the_queues_of_herlihy_and_wing():
    good = ("A", 0, 3, "Ex"), ("B", 1, 2, "Ey"), ("B", 4, 6, "Dx"), ("A", 5, 7, "Dy"), ("A", 8, 9, "Ez")
    not_first = ("A", 0, 1, "Ex"), ("B", 2, 3, "Ey"), ("A", 4, 5, "Dy")
    open_enqueue = ("A", 0, UNKNOWN, "Ex"), ("B", 1, 2, "Dx")
    twice = ("A", 0, 3, "Ex"), ("B", 1, 2, "Ey"), ("A", 4, 6, "Dy"), ("B", 5, 7, "Dy")
    assert [verdict(*h, model=Queue()) for h in (good, not_first, open_enqueue, twice)] == [True, False, True, False]


def test_by_key():
    calls = {"x": [Call(1, 0, 1, Write(1))], "y": [Call(1, 2, 3, ReadOf(1))], "z": iter([Call(2, 0, 5, ReadOf(None))])}
    results = check_by_key(calls, Register())
    assert {key: result.linearizable for key, result in results.items()} == {"x": True, "y": False, "z": True}


# ---- for people --------------------------------------------------------------------------------------------------------


def test_the_text_of_a_violation():
    calls = [
        Call("d", 0.5, None, Write(7)),
        Call("a", 0, 1, Write(1)),
        Call("a", 2, 10, Write(2)),
        Call("b", 3, 4, ReadOf(2)),
        Call("e", 4.5, 8, ReadOf(1)),
        Call("c", 5, 6, ReadOf(1)),
        Call("c", 7, 7.5, Write(9)),
    ]
    result = check(calls, Register())
    assert result.linearizable is False
    assert [call.operation for call in result.order] == [Write(1), Write(2), ReadOf(2)]
    assert [call.process for call in result.unplaced] == ["c", "e"]
    assert result.unused == (calls[0],)
    assert set(result.states) == {2, 7}
    assert result.explain() == (
        "not linearizable: no order was found for the call marked no and all that returned before it.\n"
        "Without that call there is one; the state at its end can be: "
        + ", ".join(map(repr, result.states))
        + """.
order   process  operation        invoked  returned  times, not to scale
1       a        Write(value=1)   0        1         |---|
2       a        Write(value=2)   2        10              |-------------|
3       b        ReadOf(value=2)  3        4                 |-|
no      c        ReadOf(value=1)  5        6                       |-|
open    e        ReadOf(value=1)  4.5      8                     |-----|
unused  d        Write(value=7)   0.5      unknown     |-------------------?"""
    )


def test_other_verdicts_have_a_text_too():
    calls = [Call("a", 0, 1, Write(1)), Call("b", 0, None, Write(2)), Call("c", 3, 4, ReadOf(1))]
    assert check(calls, Register()).explain() == "linearizable: 2 calls in order, 1 unknown ones without effect"
    undecided = check(calls, Register(), max_steps=1)
    assert undecided.linearizable is None
    assert undecided.explain().startswith("undecided after 1 steps: ")
    with pytest.raises(TypeError, match="undecided"):
        bool(undecided)


def test_a_crowded_history_is_shown_in_part():
    calls = [Call(i, i / 100, None if i % 2 else 9, Write(i)) for i in range(60)] + [Call("r", 1, 8, ReadOf(-1))]
    calls += [Call("late", 10, 11, ReadOf(3))]
    text = check(calls, Register(), max_steps=1000).explain()
    assert "\nno " in text
    assert text.endswith(" more")
    assert len(text.splitlines()) < 45


# ---- against brute force -----------------------------------------------------------------------------------------------


def precedes(one, other, calls):
    if one.returned is None or one.returned > other.invoked:
        return False
    if one.returned < other.invoked:
        return True
    tied = one.invoked == other.returned  # both begin and end at that time
    listed = [id(call) for call in calls]
    return one.process == other.process and not (tied and listed.index(id(other)) < listed.index(id(one)))


def is_order(order, calls, model):
    state = model.initial
    for place, call in enumerate(order):
        if any(precedes(later, call, calls) for later in order[place + 1 :]):
            return False
        fits, state = model.step(state, call.operation)
        if not fits:
            return False
    return True


def brute_force(calls, model):
    known = [call for call in calls if call.returned is not None]
    unknown = [call for call in calls if call.returned is None]
    subsets = (some for count in range(len(unknown) + 1) for some in itertools.combinations(unknown, count))
    return any(is_order(order, calls, model) for some in subsets for order in itertools.permutations([*known, *some]))


def random_operation(rng):
    if rng.random() < 0.3:
        return CompareAndSet(rng.randrange(3), rng.randrange(3), rng.choice((True, False, None)))
    return rng.choice((Write, ReadOf))(rng.choice((None, 0, 1, 2)))


def random_history(rng, *, ties):
    count = rng.randint(1, 5)
    times = [rng.randrange(6) for _ in range(2 * count)] if ties else rng.sample(range(100), 2 * count)
    calls = []
    for number in range(count):
        invoked, returned = sorted(times[2 * number : 2 * number + 2])
        process = rng.randrange(2) if ties else number
        calls.append(Call(process, invoked, None if rng.random() < 0.3 else returned, random_operation(rng)))
    return calls


@pytest.mark.parametrize("ties", [False, True])
def test_it_agrees_with_trying_all_orders(ties):
    rng = random.Random(4)
    model = Register()
    counts = {True: 0, False: 0}
    for _ in range(2000):
        calls = random_history(rng, ties=ties)
        result = check(calls, model)
        counts[result.linearizable] += 1
        assert result.linearizable is brute_force(calls, model), calls
        assert is_order(result.order, calls, model), (calls, result)
        if result.linearizable:
            assert len(result.order) + len(result.unused) == len(calls)
            assert all(call.returned is None for call in result.unused)
    assert min(counts.values()) > 400


def test_it_goes_wrong_where_it_says():
    """The history up to any return before that of the call shown is linearizable; with it, it is not."""
    rng = random.Random(5)
    model = Register()

    def until(calls, end):
        begun = [call for call in calls if call.invoked <= end]
        return [call if (call.returned or math.inf) <= end else call._replace(returned=None) for call in begun]

    tried = 0
    while tried < 300:
        calls = random_history(rng, ties=False)
        result = check(calls, model)
        if not result.linearizable:
            tried += 1
            end = result.unplaced[0].returned
            assert not brute_force(until(calls, end), model)
            assert brute_force(until(calls, end - 1), model)
            assert not any(model.step(state, result.unplaced[0].operation)[0] for state in result.states)
            state = None
            for call in result.order:
                _, state = model.step(state, call.operation)
            assert not any(model.step(state, call.operation)[0] for call in result.unplaced)


# ---- long and bad ones -------------------------------------------------------------------------------------------------


def atomic_history(rng, count, processes, unknown=0.0):
    """Return callers' views of a register that gives each call a random moment between invocation and return."""
    moments = []
    for process in range(processes):
        now = 0.0
        for _ in range(count // processes):
            invoked = now + rng.expovariate(1)
            now = invoked + rng.expovariate(1)
            if rng.random() >= unknown:
                moments.append((rng.uniform(invoked, now), invoked, now, process))
            elif rng.random() < 0.5:
                moments.append((invoked + rng.expovariate(0.05), invoked, None, process))
            else:
                moments.append((math.inf, invoked, None, process))
    model, state, calls = Register(), None, []
    for value, (moment, invoked, returned, process) in enumerate(sorted(moments, key=lambda times: times[0])):
        kind = rng.random()
        if kind < 0.4 or (kind < 0.8 and returned is None):
            operation = Write(value)
        elif kind < 0.8:
            operation = ReadOf(state)
        else:
            expected = rng.choice((state, value))
            operation = CompareAndSet(expected, value, None if returned is None else expected == state)
        if moment < math.inf:
            fits, state = model.step(state, operation)
            assert fits
        calls.append(Call(process, invoked, returned, operation))
    return calls


@pytest.mark.parametrize("seed", range(5))
def test_a_thousand_calls_of_five_processes(seed):
    calls = atomic_history(random.Random(seed), 1000, 5)
    result = check(calls, Register())
    assert result.linearizable is True
    assert result.steps < 10_000
    first = next(call.operation.value for call in calls if isinstance(call.operation, Write))
    stale = max(place for place, call in enumerate(calls) if isinstance(call.operation, ReadOf))
    calls[stale] = calls[stale]._replace(operation=ReadOf(first))
    result = check(calls, Register())
    assert result.linearizable is False
    assert result.unplaced[0] == calls[stale]
    assert result.steps < 50_000


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_calls_of_which_a_tenth_is_unknown(seed):
    calls = atomic_history(random.Random(seed), 1000, 5, unknown=0.1)
    result = check(calls, Register())
    assert result.linearizable is True
    assert result.steps < 400_000


def test_a_long_history_needs_no_deep_stack():
    assert check(atomic_history(random.Random(1), 10_000, 5), Register()).linearizable is True


def test_many_unknown_writes_are_decided_soon():
    unknown = [Call(f"u{i}", i / 1000, None, Write(i)) for i in range(200)]
    assert check([*unknown, Call("r", 1, 2, ReadOf(-1))], Register(), max_steps=100_000).linearizable is False
    equal = [Call(f"u{i}", i / 1000, None, Write(i % 2)) for i in range(60)]
    reads = [Call("r", i, i + 0.5, ReadOf(i % 2)) for i in range(1, 62)]
    assert check([*equal, *reads[:60]], Register(), max_steps=10_000).linearizable is True
    assert check([*equal, *reads], Register(), max_steps=10_000).linearizable is False


def test_the_pathological_ends_undecided():
    unknown = [Call(i, 0, None, Add(2**i)) for i in range(40)]
    model = Number()
    result = check([*unknown, Call("r", 1, 2, -1)], model, max_steps=20_000)
    assert result.linearizable is None
    assert model.steps <= 20_000 + len(unknown) <= result.steps + len(unknown) < 21_000
    swaps = itertools.permutations(range(12), 2)
    tangle = [Call(i, 0, None, CompareAndSet(*swap, None)) for i, swap in enumerate(swaps)]
    result = check([*tangle, Call("r", 1, 2, ReadOf(-1))], Register(0), max_steps=20_000)
    assert result.linearizable is None
    assert result.steps < 25_000
    known = [Call(i, 0, 1, Write(i)) for i in range(30)]
    result = check([*known, Call("r", 2, 3, ReadOf(-1))], Register(), max_steps=20_000)
    assert result.linearizable is None
    assert result.unplaced[0].operation == ReadOf(-1)
