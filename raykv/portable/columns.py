"""Values of records as typed columns: which Arrow type fits them all, and whose value does not fit.

A record whose value is a dict of names has a column for each name; any other value is one column, "value". The key stands in
a column of its own. A name that a record lacks is null in its row.

Types are inferred strictly. A column has one kind of values, apart from None: an ``int`` may stand among floats if a float
holds it exactly, and nothing else is converted, nor within a value (``holding``). What does not fit is told with its key
(``InvalidOption``), since Arrow's own error says neither whose value it was nor what to do.

Who compares what comes back with what went in needs less: ``guessed`` and ``converted`` let Arrow convert within values.

pyarrow is imported when the first column is made: who only passes through here needs none.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from raykv.config import shown
from raykv.errors import InvalidOption
from raykv.portable.holding import NUMBERS_AND_TEXTS, first_unheld, kind_of, kinds_of
from raykv.portable.tagged import is_utf8

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from raykv.records.keys import Key

VALUE = "value"
"""The column of values that are no dicts."""


def inferred(name: str, keys: Sequence[Key], values: Sequence[Any]) -> pa.DataType:
    """Return the type of a column with these values; null if all are None. Raises ``InvalidOption``, which names a key."""
    kind = guessed(name, keys, values)
    at = first_unheld(kind, values)
    if at is None:
        return kind
    if isinstance(values[at], dt.datetime):
        _check_zones(name, keys, values)
    raise _misfit(name, kind, keys[at], values[at], " by its values")


def guessed(name: str, keys: Sequence[Key], values: Sequence[Any]) -> pa.DataType:
    """As ``inferred``, though a value may not come back as it was."""
    import pyarrow as pa

    kinds = kinds_of(values)
    several = set(kinds.values())
    if not several:
        return pa.null()
    if several == {int, float}:
        _check_exact(name, keys, values)
        return pa.float64()
    if len(several) > 1:
        raise mixed(name, keys, values)
    (kind,) = several
    simple = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string(), bytes: pa.binary()}
    if kind in simple and all(given is kind for given in kinds):
        return simple[kind]
    try:
        return pa.array(values).type
    except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
        at = _first_failing(values)
        raise InvalidOption(
            f"column {name!r} cannot be typed: the values before key {shown(keys[at])} fit one Arrow type, and its own, "
            f"{shown(values[at])}, does not ({_line(error)}); give schema=",
            key=keys[at],
        ) from None


def mixed(name: str, keys: Sequence[Key], values: Sequence[Any]) -> InvalidOption:
    """Return the error about a column with values of several kinds: it names a key of each of two."""
    first: dict[type, Key] = {}
    for key, value in zip(keys, values, strict=True):
        if value is not None:
            first.setdefault(kind_of(type(value)), key)
    (one, its), (other, others), *_ = first.items()
    return InvalidOption(
        f"column {name!r} has values of several types: key {shown(its)} has {_a(one)}, key {shown(others)} {_a(other)}; "
        "read such records apart (prefix=), leave the column out (columns=), or write them alike",
        key=others,
    )


def array_of(
    name: str, kind: pa.DataType, keys: Sequence[Key], values: Sequence[Any], *, learned: str = ""
) -> pa.Array:
    """Return the values as a column of this type. Raises ``InvalidOption``, which names the key whose value does not fit.

    ``learned``: how the type came about, for the error.
    """
    at = first_unheld(kind, values)
    if at is not None:
        raise _misfit(name, kind, keys[at], values[at], learned)
    return _made(name, kind, keys, values, learned)


def converted(name: str, kind: pa.DataType, keys: Sequence[Key], values: Sequence[Any]) -> pa.Array:
    """As ``array_of``, though a value may not come back as it was."""
    import pyarrow as pa

    takes = (dict,) if pa.types.is_struct(kind) else NUMBERS_AND_TEXTS.get(str(kind))
    kinds = kinds_of(values)
    if takes is not None and not set(takes).issuperset(kinds.values()):
        at = next(at for at, value in enumerate(values) if value is not None and kind_of(type(value)) not in takes)
        raise _misfit(name, kind, keys[at], values[at], "")
    if takes is not None and float in takes and int in kinds.values():
        _check_exact(name, keys, values)
    return _made(name, kind, keys, values, "")


def _made(name: str, kind: pa.DataType, keys: Sequence[Key], values: Sequence[Any], learned: str) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        at = _first_failing(values, kind)
        raise _misfit(name, kind, keys[at], values[at], learned) from None


def _misfit(name: str, kind: pa.DataType, key: Key, value: Any, learned: str) -> InvalidOption:
    return InvalidOption(
        f"column {name!r} is of type {kind}{learned}, and key {shown(key)} has {_described(kind, value)}, {shown(value)}, "
        "which it does not hold as it is; give a schema= that fits all records, or leave the column out (columns=)",
        key=key,
    )


def _described(kind: pa.DataType, value: Any) -> str:
    """Return what a value is, for an error, and what of it does not fit where that is easily overlooked."""
    import pyarrow as pa

    its = _a(kind_of(type(value)))
    if isinstance(value, dt.datetime | dt.time):
        return f"{its} with{'out' if value.tzinfo is None else ''} a time zone"
    if isinstance(value, dict) and pa.types.is_struct(kind):
        extra = [*value.keys() - {field.name for field in kind}]
        return f"{its} with a field {shown(extra[0])} that the type has not" if len(extra) == 1 else its
    return its


def _check_zones(name: str, keys: Sequence[Key], values: Sequence[Any]) -> None:
    """Raise ``InvalidOption``, which names a key of each, if there are datetimes with a time zone and without."""
    first: dict[bool, Key] = {}
    for key, value in zip(keys, values, strict=True):
        if isinstance(value, dt.datetime):
            first.setdefault(value.tzinfo is None, key)
    if len(first) > 1:
        raise InvalidOption(
            f"column {name!r} has datetimes of two sorts: key {shown(first[False])} has one with a time zone, key "
            f"{shown(first[True])} one without; read such records apart (prefix=), leave the column out (columns=), or "
            "write them alike",
            key=[*first.values()][1],
        )


def _check_exact(name: str, keys: Sequence[Key], values: Sequence[Any]) -> None:
    import pyarrow as pa

    at = first_unheld(pa.float64(), values)
    if at is not None:
        raise InvalidOption(
            f"column {name!r} has floats, and key {shown(keys[at])} an int that no float holds exactly: "
            f"{shown(values[at])}; read such records apart (prefix=), or leave the column out (columns=)",
            key=keys[at],
        )


def _first_failing(values: Sequence[Any], kind: pa.DataType | None = None) -> int:
    """Return the place of the first value with which those before it do not fit the type, or any."""
    import pyarrow as pa

    low, high = 0, len(values)  # the first ``low`` fit, the first ``high`` do not
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pa.array(values[:middle], kind)
            low = middle
        except (pa.ArrowException, OverflowError, ValueError, TypeError):
            high = middle
    return high - 1


def _a(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'aeiou' else 'a'} {kind.__name__}"


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def python_values(name: str, column: pa.ChunkedArray) -> list[Any]:
    """Return a column as Python's values. Raises ``InvalidOption`` for one that they do not hold.

    Times in nanoseconds become Python's, which have microseconds: Arrow makes pandas' of them, or cuts them off.
    """
    import pyarrow as pa

    try:
        wanted = _in_microseconds(column.type)
        cast = column if wanted == column.type else column.cast(wanted)
        return [value for chunk in cast.chunks for value in plain_values(chunk)]
    except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
        raise InvalidOption(
            f"column {name!r} is of type {column.type}, and has a value that Python's types do not hold ({_line(error)}); "
            "cast the column, or leave it out"
        ) from None


def _in_microseconds(kind: pa.DataType) -> pa.DataType:
    """Return the type with microseconds where it, or one within it, has nanoseconds."""
    import pyarrow as pa

    def field(inner: pa.Field) -> pa.Field:
        return inner.with_type(_in_microseconds(inner.type))

    types = pa.types
    if types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if types.is_list(kind):
        return pa.list_(field(kind.value_field))
    if types.is_large_list(kind):
        return pa.large_list(field(kind.value_field))
    if types.is_fixed_size_list(kind):
        return pa.list_(field(kind.value_field), kind.list_size)
    if types.is_struct(kind):
        return pa.struct([field(inner) for inner in kind])
    if types.is_map(kind):
        return pa.map_(field(kind.key_field), field(kind.item_field))
    return kind


def plain_values(array: pa.Array) -> list[Any]:
    """Return what ``array.to_pylist()`` does, ten times as fast for lists."""
    import pyarrow as pa

    if pa.types.is_list(array.type) and not array.null_count:
        items, ends = plain_values(array.flatten()), (array.offsets.to_numpy() - array.offsets[0].as_py()).tolist()
        return [items[low:high] for low, high in itertools.pairwise(ends)]
    values: list[Any] = array.to_pylist()
    return values


Arrays: TypeAlias = Callable[..., Any]
"""``arrays(name, type, keys, values, learned=)``: makes a column, as ``array_of`` does."""


class Layout(NamedTuple):
    """The columns of a table of records: what its rows are made of."""

    key: str
    """The name of the column of keys."""
    key_type: pa.DataType
    fields: dict[str, pa.DataType]
    """The columns of values: a name of the dicts each, or ``VALUE`` alone."""
    whole: bool
    """Whether the values are no dicts: then the one field holds them."""
    closed: bool
    """Whether a name that has no column is an error; otherwise it is left out."""
    with_key: bool = True
    learned: str = ""
    """How the types came about, for errors."""

    @property
    def schema(self) -> pa.Schema:
        """The schema of its tables."""
        import pyarrow as pa

        own = {self.key: self.key_type} if self.with_key else {}
        return pa.schema([*(own | self.fields).items()])

    def table(self, keys: Sequence[Key], values: Sequence[Any], arrays: Arrays = array_of) -> pa.Table:
        """Return these records as a table. ``arrays``: how a column is made. Raises ``InvalidOption``, which names a key."""
        import pyarrow as pa

        made = []
        if self.with_key:
            made.append(arrays(self.key, self.key_type, keys, keys, learned=self.learned))
        for name, column in self.split(keys, values).items():
            made.append(arrays(name, self.fields[name], keys, column, learned=self.learned))
        return pa.Table.from_arrays(made, names=[*([self.key] if self.with_key else []), *self.fields])

    def split(self, keys: Sequence[Key], values: Sequence[Any]) -> dict[str, Sequence[Any]]:
        """Return the values by column. Raises ``InvalidOption``, which names a key."""
        if self.whole:
            return dict.fromkeys(self.fields, values)
        if not {dict}.issuperset(map(type, values)):
            check_all_dicts(keys, values)
        if self.closed and not self.fields.keys() >= set().union(*values):
            wrong = next(at for at, value in enumerate(values) if not value.keys() <= self.fields.keys())
            unknown = next(name for name in values[wrong] if name not in self.fields)
            raise InvalidOption(
                f"key {shown(keys[wrong])} has a field {shown(unknown)}, which is no column{self.learned}; give a "
                "schema= that has it, or name the columns wanted (columns=)",
                key=keys[wrong],
            )
        return {name: [value.get(name) for value in values] for name in self.fields}


def check_all_dicts(keys: Sequence[Key], values: Sequence[Any]) -> None:
    """Raise ``InvalidOption``, which names a key, unless all values are dicts."""
    for key, value in zip(keys, values, strict=True):
        if not isinstance(value, dict):
            raise InvalidOption(
                f"key {shown(key)} has {_a(kind_of(type(value)))}, {shown(value)}, where other records have dicts; "
                "read such records apart (prefix=)",
                key=key,
            )


def laid_out(
    keys: Sequence[Key],
    values: Sequence[Any],
    *,
    key: str | None = "key",
    columns: Sequence[str] | None = None,
    schema: pa.Schema | None = None,
    learned: str = "",
    infer: Callable[[str, Sequence[Key], Sequence[Any]], pa.DataType] = inferred,
) -> Layout:
    """Return the layout of records like these: by the ``schema``, else by their own types.

    ``key``: the name of the column of keys; None: there is to be none.
    ``columns``: those wanted, of the keys' and the values'; None: all. Raises ``InvalidOption``.
    """
    import pyarrow as pa

    key_type = infer(key, keys, keys) if keys and key is not None else pa.string()
    own = [] if key is None else [key]
    whole = bool(values) and not isinstance(values[0], dict)
    types: dict[str, pa.DataType] = {}
    if schema is not None:
        types = dict(zip(schema.names, schema.types, strict=True))
        if key is not None:
            key_type = types.pop(key, key_type)
        if not values:
            whole = [*types] == [VALUE]
        if whole and set(types) - {VALUE}:
            raise InvalidOption(
                f"the values are no dicts: the schema may have the columns {', '.join([*own, VALUE])} alone"
            )
    there = [*types] if schema is not None else [VALUE] if whole else _names(keys, values)
    wanted = there if columns is None else [name for name in columns if name != key]
    if values and (lacking := [name for name in wanted if name not in there]):
        raise InvalidOption(f"there is no column {lacking[0]!r}{learned}; there are {', '.join([*own, *there])}")
    if key in wanted:
        raise InvalidOption(
            f"the values have a field {key!r}, as the column of keys is called; name that otherwise: key="
        )
    for name in wanted:
        if name not in types:
            column = values if whole else [value.get(name) for value in values]
            types[name] = infer(name, keys, column) if values else pa.null()
    with_key = key is not None and (columns is None or key in columns)
    fields = {name: types[name] for name in wanted}
    return Layout(key or "", key_type, fields, whole, columns is None and not whole, with_key, learned)


def _names(keys: Sequence[Key], values: Sequence[Mapping[Any, Any]]) -> list[str]:
    """Return the names that dicts have. Raises ``InvalidOption``, which names a key, for what is no column's name."""
    check_all_dicts(keys, values)
    names: dict[Any, Key] = {}
    for its, value in zip(keys, values, strict=True):
        for name in value:
            names.setdefault(name, its)
    for name, its in names.items():
        if not isinstance(name, str) or not is_utf8(name):
            raise InvalidOption(
                f"key {shown(its)} has a field {shown(name)}: a column's name is a str that UTF-8 can say", key=its
            )
    return [*names]
