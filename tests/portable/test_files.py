"""Exports and imports of a simulated store: exact, whole or not there, and gone on with where they were interrupted."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import os
import sys
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv import sim
from raykv.errors import InvalidKey, InvalidOption, StoreUnavailable
from raykv.portable import Exported, Imported, export_file, exporting, import_file, importing, lasting, lines, parquet
from raykv.portable.parquet import rows_of, schema_for, table_of
from raykv.portable.tagged import encode_record, tagged

FORMATS = ["jsonl", "parquet"]
AWARE = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)
EAST, WEST = (dt.timezone(dt.timedelta(hours=hours)) for hours in (5, -5))
NASTY = {
    "none": None, "bool": True, "int": 5, "big": 2**100, "float": 1.5, "nan": float("nan"), "str": "zwölf\n",
    "half": "\ud800",
    "bytes": b"\x00\xff", b"bytes key": b"x", "list": [1, [2.5, None]], "tuple": (1, (2,)), "set": {1, 2},
    "dict": {"a": {"b": [1]}},
    "int names": {1: "a", None: "b"}, "dollar": {"$bytes": "AA=="}, "absent": {"n": 1}, "present": {"n": None, "m": "x"},
    "other": {"n": "text", "m": 5}, "keys": {"key": 1, "_raykv": 2, "value": 3},
    "int in float": {"x": 1}, "float here": {"x": 1.5},
    "when": {"at": dt.datetime(2026, 11, 29, 12, 0, 1, 5, tzinfo=dt.UTC), "day": dt.date(2026, 1, 1)},
    "naive": dt.datetime(2026, 1, 1, tzinfo=dt.UTC).replace(tzinfo=None),
    "time": dt.time(12, 30), "took": dt.timedelta(1, 2, 3), "uuid": uuid.UUID(int=7),
    "decimal": decimal.Decimal("1.10"), "order": {"m": 1, "n": 2}, "\u2028": "line", "empty": {}, "true": {"n": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def world():
    with sim.start(seed=7, nodes=3, partitions=32) as world:
        world.store.bucket("nasty").put_many(NASTY)
        many = world.store.bucket("many")
        many.put_many({f"k{number:05d}": {"n": number, "s": "é" * (number % 7)} for number in range(2000)})
        yield world


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(exporting, "CHUNK_ROWS", 250)
    monkeypatch.setattr(importing, "BATCH_ROWS", 200)


def exact(pairs):
    return {key: json.dumps(tagged(value), sort_keys=False) for key, value in pairs.items()}


@pytest.mark.parametrize("form", FORMATS)
def test_what_comes_back_is_what_went_out(world, tmp_path, form):
    for name in ("nasty", "many", "empty"):
        bucket, path = world.store.bucket(name), tmp_path / f"{name}.{form}"
        pairs = dict(bucket.scan())
        exported = export_file(bucket, path)
        assert exported == Exported(len(pairs), 0, path.stat().st_size)
        again = world.store.bucket(f"{name} from {form}")
        assert import_file(again, path) == Imported(len(pairs), 0, 0)
        assert exact(dict(again.scan())) == exact(pairs)
        assert os.listdir(tmp_path) == [path.name]
        path.unlink()


@pytest.mark.parametrize("form", FORMATS)
def test_an_interrupted_export_goes_on(world, tmp_path, form):
    many, path = world.store.bucket("many"), tmp_path / f"many.{form}"
    pairs = dict(many.scan())

    class Stop(Exception):
        pass

    def stop(done, every):
        assert every == 2000
        assert not path.exists()
        if done >= stop.at:
            raise Stop

    for stop.at in (250, 750, 1750):
        with pytest.raises(Stop):
            export_file(many, path, progress=stop)
    partial = tmp_path / f"many.{form}.partial"
    for part in partial.iterdir():  # written, and not noted when it was interrupted
        if part.name == "whole":
            part.write_bytes(part.read_bytes() + b'{"key": "half')
    (partial / "00000007.parquet").write_bytes(b"half")
    with pytest.raises(InvalidOption, match=r"of another export.*prefix"):
        export_file(many, path, prefix="k0")
    exported = export_file(many, path)
    assert (exported.records, exported.resumed) == (2000, 1750)
    assert not partial.exists()
    again = world.store.bucket(f"resumed {form}")
    assert import_file(again, path).records == 2000
    assert dict(again.scan()) == pairs


def test_parts_that_have_become_less_are_not_gone_on_with(world, tmp_path):
    def stop(done, every):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_file(world.store.bucket("many"), tmp_path / "many.jsonl", progress=stop)
    os.truncate(tmp_path / "many.jsonl.partial" / "whole", 10)
    with pytest.raises(InvalidOption, match="less than was noted"):
        export_file(world.store.bucket("many"), tmp_path / "many.jsonl")


@pytest.mark.parametrize("form", FORMATS)
def test_an_interrupted_import_goes_on(world, tmp_path, form):
    path, target = tmp_path / f"many.{form}", world.store.bucket(f"halves {form}")
    export_file(world.store.bucket("many"), path)

    class Stop(Exception):
        pass

    def stop(done, every):
        assert 0 < done <= every
        stop.left -= 1
        if stop.left == 0:
            raise Stop

    stop.left = 3
    with pytest.raises(Stop):
        import_file(target, path, progress=stop)
    there = target.count()
    assert 0 < there < 2000
    assert [name for name in os.listdir(tmp_path) if name.endswith(".import")]
    assert import_file(target, path) == Imported(2000, 0, there)
    assert dict(target.scan()) == dict(world.store.bucket("many").scan())
    assert os.listdir(tmp_path) == [path.name]


def test_a_file_that_changed_is_not_gone_on_with(world, tmp_path):
    path, target = tmp_path / "two.jsonl", world.store.bucket("changed")
    path.write_text('{"key":"a","value":1}\n{"key":"b","value":')
    importing.BATCH_ROWS = 1
    with pytest.raises(InvalidOption, match=r"line 2: this is no JSON.*the lines before it are imported"):
        import_file(target, path)
    assert dict(target.scan()) == {"a": 1}
    path.write_text('{"key":"a","value":1}\n{"key":"b","value":2}\n')
    with pytest.raises(InvalidOption, match=r"another import.*size"):
        import_file(target, path)
    next(tmp_path.glob("*.import")).unlink()
    assert import_file(target, path) == Imported(2, 0, 0)


@pytest.mark.parametrize(
    "line",
    ["5", "[]", "{}", '{"key":"a"}', '{"key":5,"value":1}', '{"key":"a","value":{"$none":1}}', '{"key":"a","value":1,"x":1}',
     '{"key":"\\ud800', '{"key":"' + "x" * 100],
)  # fmt: skip
def test_a_line_that_is_no_record_is_told(world, tmp_path, line, monkeypatch):
    path = tmp_path / "wrong.jsonl"
    path.write_text(f'{{"key":"ok","value":1}}\n\n{line}\n')
    monkeypatch.setattr("raykv.portable.lines.MAX_LINE_BYTES", 90)
    target = world.store.bucket(f"wrong {line[:20]!r}")
    with pytest.raises(InvalidOption, match=r"wrong\.jsonl, line 3: .*; the lines before it are imported"):
        import_file(target, path)
    assert dict(target.scan()) == {"ok": 1}


def test_files_of_other_programs(world, tmp_path):
    target = world.store.bucket("foreign")
    pq.write_table(pa.table({"key": ["a", "b"], "n": [1, None], "s": ["x", "y"]}), tmp_path / "rows.parquet")
    assert import_file(target, tmp_path / "rows.parquet").records == 2
    assert dict(target.scan()) == {"a": {"n": 1, "s": "x"}, "b": {"n": None, "s": "y"}}
    pq.write_table(pa.table({"key": [b"a"], "value": [[1, 2]]}), tmp_path / "values.parquet")
    import_file(target, tmp_path / "values.parquet")
    assert target[b"a"] == [1, 2]
    pq.write_table(pa.table({"id": [b"a"]}), tmp_path / "none.parquet")
    with pytest.raises(InvalidOption, match="no column 'key'"):
        import_file(target, tmp_path / "none.parquet")
    pq.write_table(pa.table({"key": [1]}), tmp_path / "ints.parquet")
    with pytest.raises(InvalidOption, match="row 1: the key is 1"):
        import_file(target, tmp_path / "ints.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(InvalidOption, match="no Parquet file"):
        import_file(target, tmp_path / "text.parquet")


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (pa.table([["a"], [1], [2]], names=["key", "n", "n"]), "two columns 'n'"),
        (pa.table({"key": ["a"], "_raykv": [5]}), "'_raykv' is not raykv's"),
        (pa.table({"key": ["a"], "_raykv": ['{"key":5,"value":1}']}), "row 1: the key is 5"),
        (pa.table({"key": ["a"], "_raykv": pa.array([b"\xff"]).view(pa.string())}), "row 1: 'utf-8' codec"),
        (pa.table({"key": ["a"], "n": pa.array([b"\xff"]).view(pa.string())}), "'n' is of type string.*'utf-8' codec"),
        (pa.table({"key": ["a", "b"], "at": pa.array([0, 1], pa.timestamp("ns"))}), "'at' is of type.*would lose data"),
        (pa.table({"key": ["a"], "at": pa.array([2**62], pa.timestamp("ms"))}), "'at' is of type.*do not hold"),
    ],
    ids=repr,
)
def test_a_table_that_is_not_of_records_is_told(world, tmp_path, table, told):
    target = world.store.bucket("not of records")
    pq.write_table(table, tmp_path / "wrong.parquet")
    with pytest.raises(InvalidOption, match=told):
        import_file(target, tmp_path / "wrong.parquet")
    assert target.count() == 0


def test_times_in_nanoseconds_are_python_s_not_pandas(world, tmp_path):
    when, target = dt.datetime(2026, 11, 30, 1, 2, 3, 4, tzinfo=dt.UTC), world.store.bucket("times")
    for kind in (pa.timestamp("ns", "UTC"), pa.list_(pa.timestamp("ns", "UTC"))):
        value = when if pa.types.is_timestamp(kind) else [when]
        pq.write_table(pa.table({"key": ["a"], "value": pa.array([value], kind)}), tmp_path / "times.parquet")
        import_file(target, tmp_path / "times.parquet")
        found = target["a"] if pa.types.is_timestamp(kind) else target["a"][0]
        assert type(found) is dt.datetime
        assert found == when


def test_a_file_damaged_in_the_middle_is_told_with_what_was_imported(world, tmp_path):
    path, target = tmp_path / "many.parquet", world.store.bucket("damaged")
    export_file(world.store.bucket("many"), path)
    where = pq.ParquetFile(path).metadata.row_group(4).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[where : where + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(InvalidOption, match=r"damaged behind row 1,000; the rows before it are imported"):
        import_file(target, path)
    assert target.count() == 1000


def test_a_changed_byte_is_no_changed_value(world, tmp_path):
    path = tmp_path / "many.parquet"
    export_file(world.store.bucket("many"), path)
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    end = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size
    whole = path.read_bytes()
    for at in range(end - 40, end):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        source = parquet.ParquetIn(str(path), {})
        with pytest.raises(InvalidOption, match="damaged behind row 0"):
            next(source.chunks(100))
        source.close()


def nested(levels, make):
    value = 1
    for _ in range(levels):
        value = make(value)
    return value


@pytest.mark.parametrize(
    "value",
    [{"a": {}}, {"a": [{"b": {}}]}, {"\ud800": 1}, {"a": nested(90, lambda inner: [inner])},
     {"a": nested(90, lambda inner: {"a": inner})}, {"a": [None, None]}],
    ids=["no field", "no field within", "no name", "many lists", "many dicts", "nothing but None"],
)  # fmt: skip
def test_what_arrow_has_and_parquet_has_not_comes_back(world, tmp_path, value):
    bucket = world.store.bucket("not in parquet")
    bucket.put("k", {"n": 1, **value})
    export_file(bucket, tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").column("n").to_pylist() == [1]
    again = world.store.bucket("not in parquet, again")
    import_file(again, tmp_path / "a.parquet")
    assert again["k"] == bucket["k"]


@pytest.mark.parametrize(
    "within", [lambda time: time, lambda time: [time], lambda time: {"t": [time]}], ids=["", "list", "dict"]
)
@pytest.mark.parametrize("odd", [dt.datetime.max.replace(tzinfo=WEST), dt.datetime.min.replace(tzinfo=EAST)], ids=str)
def test_a_time_that_has_no_year_in_the_column_s_zone_costs_its_own_row_alone(world, tmp_path, odd, within):
    bucket = world.store.bucket("odd times")
    times = {f"k{number}": AWARE + dt.timedelta(number) for number in range(4)} | {"k2": odd}
    bucket.put_many({key: {"when": within(time), "n": 1} for key, time in times.items()})
    export_file(bucket, tmp_path / "times.parquet", overwrite=True)
    table = pq.read_table(tmp_path / "times.parquet")
    assert table.column("_raykv").to_pylist()[2] is not None
    assert [each is None for each in table.column("when").to_pylist()] == [False, False, True, False]
    again = world.store.bucket("odd times, again")
    assert import_file(again, tmp_path / "times.parquet").records == 4
    assert dict(again.scan()) == dict(bucket.scan())
    assert repr(again["k2"]) == repr(bucket["k2"])


def test_values_that_a_column_converts_are_beside_it_as_they_are(world, tmp_path):
    bucket = world.store.bucket("converted")
    naive = AWARE.replace(tzinfo=None)
    bucket.put_many({"a": {"d": naive.date(), "s": {"x": 1}}, "b": {"d": naive, "s": {"x": 1, "y": 2}}})
    schema = schema_for(["a"], [bucket["a"]])
    table = table_of(
        schema, ["a", "b"], [bucket["a"], bucket["b"]], [encode_record(key, tagged(bucket[key])) for key in "ab"]
    )
    assert table.column("s").to_pylist() == [{"x": 1}, {"x": 1}]
    assert [each is None for each in table.column("_raykv").to_pylist()] == [True, False]


def test_columns_are_typed_for_other_programs(world, tmp_path):
    export_file(world.store.bucket("many"), tmp_path / "many.parquet")
    table = pq.read_table(tmp_path / "many.parquet")
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("key", "string"), ("n", "int64"), ("s", "string"), ("_raykv", "string"),
    ]  # fmt: skip
    assert table.column("_raykv").null_count == 2000
    assert table.column("n").to_pylist() == [*range(2000)]


def test_a_file_that_is_there_stays_unless_it_is_to_be_replaced(world, tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_text("mine")
    with pytest.raises(InvalidOption, match="overwrite"):
        export_file(world.store.bucket("many"), path)
    assert (path.read_text(), os.listdir(tmp_path)) == ("mine", ["many.jsonl"])
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    assert export_file(world.store.bucket("many"), link, prefix="k0000", overwrite=True).records == 10
    assert link.is_symlink()
    assert len(path.read_text().splitlines()) == 10


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_killed_at_its_very_end_leaves_nothing_to_go_on_with(world, tmp_path, monkeypatch, form):
    bucket, path = world.store.bucket(f"ends {form}"), tmp_path / f"ends.{form}"
    bucket.put("k", "old")
    with monkeypatch.context() as patched:
        patched.setattr(exporting, "_clear", lambda directory: None)
        export_file(bucket, path)
    bucket.put("k", "new")
    assert export_file(bucket, path, overwrite=True) == Exported(1, 0, path.stat().st_size)
    again = world.store.bucket(f"ends {form} again")
    import_file(again, path)
    assert again["k"] == "new"


def test_an_export_that_cannot_be_renamed_is_not_lost(world, tmp_path, monkeypatch):
    path, replace = tmp_path / "many.jsonl", os.replace

    def full(source, target):
        if target == str(path):
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(exporting.os, "replace", full)
        with pytest.raises(
            OSError, match=r"No space left on device; the same export goes on where it was.*many\.jsonl"
        ):
            export_file(world.store.bucket("many"), path)
    assert export_file(world.store.bucket("many"), path)[:2] == (2000, 2000)


def test_a_file_that_comes_up_meanwhile_stays(world, tmp_path):
    path = tmp_path / "many.jsonl"
    with pytest.raises(InvalidOption, match="come up meanwhile"):
        export_file(world.store.bucket("many"), path, progress=lambda done, every: path.write_text("mine"))
    assert path.read_text() == "mine"
    path.unlink()
    assert export_file(world.store.bucket("many"), path)[:2] == (2000, 2000)


def test_where_no_export_can_be(world, tmp_path):
    many = world.store.bucket("many")
    (tmp_path / "directory.jsonl").mkdir()
    with pytest.raises(InvalidOption, match="no regular file"):
        export_file(many, tmp_path / "directory.jsonl", overwrite=True)
    with pytest.raises(FileNotFoundError):
        export_file(many, tmp_path / "misspelt" / "many.jsonl")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "many.jsonl.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidOption, match="no directory of this user's"):
        export_file(many, tmp_path / "many.jsonl")
    assert [*(tmp_path / "elsewhere").iterdir()] == []
    assert not (tmp_path / "misspelt").exists()


def test_what_is_not_of_an_export_stays(world, tmp_path):
    mine = tmp_path / "many.jsonl.partial" / "mine"
    mine.parent.mkdir()
    mine.write_text("mine")
    export_file(world.store.bucket("many"), tmp_path / "many.jsonl")
    assert [*mine.parent.iterdir()] == [mine]


def test_what_is_no_regular_file_is_not_waited_for(world, tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for form in FORMATS:
        with pytest.raises(InvalidOption, match="no regular file"):
            import_file(world.store.bucket("many"), tmp_path / "pipe.jsonl", format=form)


@pytest.mark.parametrize("state", [5, [1], {"records": "x"}, {"records": -1}, {"at": {"bytes": -5}}], ids=repr)
def test_a_damaged_note_is_told(world, tmp_path, state):
    path, note, target = tmp_path / "one.jsonl", tmp_path / "note", world.store.bucket("noted")
    path.write_text('{"key":"a","value":1}\n{"key":"b","value":\n')
    importing.BATCH_ROWS = 1
    with pytest.raises(InvalidOption, match="line 2"):
        import_file(target, path, note=note)
    note.write_text(json.dumps(json.loads(note.read_text()) | {"state": state}))
    with pytest.raises(InvalidOption, match=r"is not a note of an import.*remove it"):
        import_file(target, path, note=note)
    with pytest.raises(InvalidOption, match="name another file"):
        import_file(target, path, note=tmp_path / "misspelt" / "note")


def test_two_imports_at_once_do_not_share_a_note(world, tmp_path):
    """The slower one would end after the other, and put the file's values over what users wrote since."""
    path, target, refused = tmp_path / "many.jsonl", world.store.bucket("twice"), []
    export_file(world.store.bucket("many"), path)

    def again(done, size):
        with pytest.raises(InvalidOption, match=r"imports .*many\.jsonl by .* right now") as caught:
            import_file(target, path)
        refused.append(caught.value)

    assert import_file(target, path, progress=again) == Imported(2000, 0, 0)
    assert refused
    assert [*tmp_path.iterdir()] == [path], "neither note nor lock stays"


def test_a_refused_key_is_told_with_where_it_is(world, tmp_path):
    (tmp_path / "keys.jsonl").write_text("".join(f'{{"key":"{key}","value":1}}\n' for key in ("a", "b", "c", "")))
    importing.BATCH_ROWS = 2
    with pytest.raises(InvalidKey, match="one of the file's records 3 to 4; those before are imported"):
        import_file(world.store.bucket("refused"), tmp_path / "keys.jsonl")


def test_a_batch_of_lines_is_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "BATCH_BYTES", 60)
    path = tmp_path / "lines.jsonl"
    path.write_text('{"key":"a","value":1}\n' * 7 + "\n" * 200 + '{"key":"b","value":1}\n')
    source = lines.LinesIn(str(path), {})
    assert [len(pairs) for pairs, _, _ in source.chunks(100)] == [3, 3, 1, 1]
    source.close()


def test_a_value_that_cannot_be_kept_is_refused_with_its_key(world, tmp_path):
    bucket = world.store.bucket("odd")
    bucket.put_many({"fine": 1, "odd": range(3)})
    for form in FORMATS:
        with pytest.raises(InvalidOption, match=r"'odd'.*builtins\.range"):
            export_file(bucket, tmp_path / f"odd.{form}")
        assert not (tmp_path / f"odd.{form}").exists()
    with pytest.raises(InvalidOption, match=r"'odd' is a pickle"):
        export_file(bucket, tmp_path / "safe.jsonl", unpickle=False)
    assert os.listdir(tmp_path) == []


def test_a_refused_pickle_is_unpickled_by_the_next_export_which_goes_on(world, tmp_path, monkeypatch):
    bucket, path = world.store.bucket("late pickle"), tmp_path / "late.jsonl"
    bucket.put_many({"a": 1, "b": 2, "c": (3,)})
    monkeypatch.setattr(exporting, "CHUNK_ROWS", 1)
    with pytest.raises(InvalidOption, match=r"'c' is a pickle"):
        export_file(bucket, path, unpickle=False)
    assert export_file(bucket, path, unpickle=True)[:2] == (3, 2)


def test_a_record_that_no_import_would_take_is_refused(world, tmp_path, monkeypatch):
    bucket = world.store.bucket("shared parts")
    bucket.put("k", ("x" * 100,) * 100)  # a pickle has the text once
    monkeypatch.setattr(exporting, "MAX_LINE_BYTES", 10_000)
    with pytest.raises(InvalidOption, match=r"'k' has 10,\d+ bytes as JSON"):
        export_file(bucket, tmp_path / "shared.jsonl")


def test_an_array_is_refused_with_its_key_whether_or_not_it_would_be_read(world, tmp_path):
    bucket = world.store.bucket("arrays")
    bucket.put("grid", np.zeros(3))
    with pytest.raises(InvalidOption, match=r"'grid'.*numpy\.ndarray"):
        export_file(bucket, tmp_path / "read.jsonl")
    with pytest.raises(InvalidOption, match=r"'grid' is of numpy"):
        export_file(bucket, tmp_path / "unread.jsonl", unpickle=False)


def test_two_exports_to_one_path(world, tmp_path):
    many, path = world.store.bucket("many"), tmp_path / "many.jsonl"

    def another(done, every):
        with pytest.raises(InvalidOption, match="another process exports"):
            export_file(many, path)

    assert export_file(many, path, progress=another).records == 2000


@pytest.mark.parametrize(
    ("options", "told"),
    [({"path": "a.csv"}, "neither .jsonl nor .parquet"), ({"path": "a.jsonl", "format": "csv"}, "got 'csv'")],
    ids=repr,
)
def test_bad_arguments_touch_nothing(world, tmp_path, monkeypatch, options, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidOption, match=told):
        export_file(world.store.bucket("many"), **options)
    with pytest.raises(InvalidOption, match="takes a store, or a bucket"):
        export_file(world.store.aio, "a.jsonl")
    with pytest.raises(InvalidOption, match="linearizable"):
        import_file(world.store.bucket("many"), "a.jsonl", if_absent=True)
    with pytest.raises(FileNotFoundError):
        import_file(world.store.bucket("many"), "a.jsonl")
    assert os.listdir(tmp_path) == []


def test_only_keys_without_a_value(world, tmp_path):
    claims = world.store.bucket("claims", versioning="linearizable")
    claims.put("b", "mine")
    (tmp_path / "claims.jsonl").write_text("".join(f'{{"key":"{key}","value":"theirs"}}\n' for key in "abc"))
    assert import_file(claims, tmp_path / "claims.jsonl", if_absent=True) == Imported(2, 1, 0)
    assert dict(claims.scan()) == {"a": "theirs", "b": "mine", "c": "theirs"}


def test_of_several_with_one_key(world):
    pairs = [("k", "first"), ("other", 1), ("k", "last")]
    plain, claims = world.store.bucket("several"), world.store.bucket("several claims", versioning="linearizable")
    assert lasting.put_all(plain, pairs) == lasting.Put(3)
    assert lasting.put_all(claims, pairs, if_absent=True) == lasting.Put(2, skipped=1)
    assert (plain["k"], claims["k"]) == ("last", "first")


def test_json_lines_need_no_pyarrow_and_parquet_says_so(world, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert export_file(world.store.bucket("many"), tmp_path / "many.jsonl").records == 2000
    with pytest.raises(InvalidOption, match=r"raykv\[data\]"):
        export_file(world.store.bucket("many"), tmp_path / "many.parquet")


def test_a_store_that_is_away_for_a_while_is_waited_for(world, monkeypatch):
    many, target = world.store.bucket("many"), world.store.bucket("put")
    monkeypatch.setattr(lasting.time, "sleep", world.sleep)
    for node_id in world.nodes:
        world.kill(node_id)
    assert len(dict(lasting.pairs_of(lambda after: many.scan(after=after)))) == 2000
    for node_id in world.nodes:
        world.kill(node_id)
    put = lasting.put_all(target, [(f"k{number}", number) for number in range(200)])
    assert put.pairs == 200
    world.kill(world.nodes[0])
    assert lasting.values_of(many, ["k00001", "none"]) == {"k00001": {"n": 1, "s": "é"}}


def test_patience_ends(monkeypatch):
    monkeypatch.setattr(lasting, "PATIENCE_S", 0.2)

    def away(after):
        raise StoreUnavailable("away")
        yield

    with pytest.raises(StoreUnavailable, match="away"):
        [*lasting.pairs_of(away)]


def test_the_time_that_the_reader_takes_is_no_failure(monkeypatch):
    now_s = 0.0

    class Clock:
        monotonic = staticmethod(lambda: now_s)
        sleep = staticmethod(lambda seconds: None)

    def scan(after):
        yield from [] if after else [("a", 1)]
        if after is None:
            raise StoreUnavailable("away")
        yield ("b", 2)

    monkeypatch.setattr(lasting, "time", Clock)
    found = []
    for pair in lasting.pairs_of(scan):
        found.append(pair)
        now_s += 2 * lasting.PATIENCE_S
    assert found == [("a", 1), ("b", 2)]


names = st.sampled_from(["a", "b", "key", "_raykv"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats()
    | st.text(max_size=2)
    | st.binary(max_size=2)
    | st.dates()
)
keys_of_both = st.text(min_size=1, max_size=2) | st.binary(min_size=1, max_size=2)
parts = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=1), inner, max_size=2),
    max_leaves=4,
)
records = st.dictionaries(names | st.text(max_size=1), parts, max_size=3) | parts


@given(
    st.lists(st.tuples(keys_of_both, records), max_size=8),
    st.integers(0, 8),
)
@settings(max_examples=100)
def test_any_records_pass_through_the_columns(pairs, first):
    keys, values = [key for key, _ in pairs], [value for _, value in pairs]
    schema = schema_for(keys[:first], values[:first])
    lines = [encode_record(key, tagged(value)) for key, value in pairs]
    table = table_of(schema, keys, values, lines)
    assert table.schema == schema
    assert table.num_rows == len(pairs)
    stored = pa.BufferOutputStream()
    pq.write_table(table, stored)
    table = pq.read_table(pa.BufferReader(stored.getvalue()))
    kept = table.filter(pa.compute.is_null(table.column("_raykv")))
    about = json.loads(schema.metadata[b"raykv"])
    rebuilt = [encode_record(key, tagged(value)) for key, value in rows_of(kept, about)]
    wanted = [
        line for line, correction in zip(lines, table.column("_raykv").to_pylist(), strict=True) if correction is None
    ]
    assert rebuilt == wanted
