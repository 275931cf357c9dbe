"""Ray's pickler for values: one class is one class, and no ObjectRef is kept."""

from __future__ import annotations

import dataclasses
import enum
import functools
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import cloudpickle
import numpy as np
import patience
import pytest
import ray
from ray import cloudpickle as rays

import raykv
from raykv.actors.pickling import pickled
from raykv.client.codecs import decode_value, encode_value
from raykv.errors import CorruptData, InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def script() -> dict[str, Any]:
    """Return the classes that a script may define in ``__main__``, which are pickled with their code."""

    class Colour(enum.Enum):
        RED = "red"

    class Level(enum.IntEnum):
        LOW = 1

    class Flags(enum.Flag):
        A = enum.auto()
        B = enum.auto()

    @dataclasses.dataclass(frozen=True)
    class Point:
        x: int
        colour: Any = Colour.RED

    class Pair(NamedTuple):
        a: int

    class Plain:
        class Inner:
            pass

    class Lost(LookupError):
        pass

    class Rows(dict[str, int]):
        pass

    made = {cls.__name__: cls for cls in (Colour, Level, Flags, Point, Pair, Plain, Plain.Inner, Lost, Rows)}
    for cls in made.values():
        cls.__module__ = "__main__"
    return made


def values_of(made: dict[str, Any]) -> list[Any]:
    """Return a value of each of these classes."""
    return [
        made["Colour"].RED, made["Level"].LOW, made["Flags"].A | made["Flags"].B, made["Point"](3), made["Pair"](3),
        made["Plain"](), made["Inner"](), made["Lost"]("x"), made["Rows"](a=1), {"deep": (made["Colour"].RED,)},
        made["Point"],
    ]  # fmt: skip


def check_same(made: dict[str, Any], values: list[Any]) -> None:
    """See that these are what ``values_of`` returned, of these very classes."""
    expected = values_of(made)
    assert [type(value) for value in values] == [type(value) for value in expected]
    assert values[0] is made["Colour"].RED
    assert values[1] is made["Level"].LOW
    assert values[2] == made["Flags"].A | made["Flags"].B
    assert values[3] == made["Point"](3)
    assert values[3].colour is made["Colour"].RED
    assert values[9]["deep"][0] is made["Colour"].RED
    assert values[10] is made["Point"]


# ---- ObjectRefs ----


def nested(ref: Any) -> Iterator[Any]:
    class Holder:
        pass

    holder = Holder()
    holder.ref = ref  # type: ignore[attr-defined]
    yield from (ref, [ref], {"a": [{"b": (ref,)}]}, {ref}, holder, lambda: ref, functools.partial(print, ref))
    yield np.array([ref, None], dtype=object)
    yield {"deep": [np.array([{"a": ref}], dtype=object)]}
    structured = np.zeros(1, [("a", "O"), ("b", "i4")])
    structured["a"] = ref
    yield structured
    yield np.ma.masked_array(np.array([ref], dtype=object), [True])  # what a mask hides is pickled too
    yield type("Classy", (), {"ref": ref, "__module__": "__main__"})
    yield ValueError("with", ref)


def test_an_object_ref_is_refused_however_deep_it_lies() -> None:
    for value in nested(ray.ObjectRef.nil()):
        with pytest.raises(InvalidOption, match="must not hold an ObjectRef") as caught:
            encode_value(value, "auto", pickled)
        assert "ray.get" in str(caught.value)
    with pytest.raises(InvalidOption):
        encode_value(ray.ObjectRef.nil(), "msgpack", pickled)


def test_an_object_ref_is_refused_in_a_data_frame() -> None:
    pd = pytest.importorskip("pandas", reason="pandas is not installed: its values are not tried")
    ref = ray.ObjectRef.nil()
    objects = np.array([None, ref], dtype=object)
    frame = pd.DataFrame({"a": [1, 2]})
    with_attribute = frame.copy()
    with_attribute.attrs["ref"] = ref
    for value in (
        pd.Series(objects), frame.assign(b=objects), frame.set_index(objects), pd.Series([1, 2], objects), with_attribute,
        pd.Series(pd.Categorical(["x", ref])), frame.rename(columns={"a": ref}), {"deep": [pd.Series(objects)]},
        pd.Series([[ref], 1]), pd.Series([1], name=ref),
    ):  # fmt: skip
        with pytest.raises(InvalidOption, match="must not hold an ObjectRef"):
            encode_value(value, "auto", pickled)


def test_what_is_registered_with_ray_for_a_type_holds_and_the_pickler_stays_as_it_was() -> None:
    class Odd:
        pass

    assert ray.ObjectRef not in rays.CloudPickler.dispatch_table or rays.CloudPickler.dispatch_table[ray.ObjectRef]
    before = dict(rays.CloudPickler.dispatch_table)
    pickled(Odd())
    assert dict(rays.CloudPickler.dispatch_table) == before
    ray.util.register_serializer(Odd, serializer=lambda _: 5, deserializer=lambda five: five + 1)
    try:
        assert decode_value(encode_value(Odd(), "auto", pickled), "auto") == 6
    finally:
        ray.util.deregister_serializer(Odd)


# ---- classes ----


def test_a_class_that_came_by_ray_is_the_class_of_a_value() -> None:
    made = script()
    check_same(made, decode_value(encode_value(values_of(made), "auto", pickled), "auto"))
    assert rays.dumps(made["Point"]) == pickled(made["Point"])


def test_another_process_reads_it_with_a_class_of_its_own() -> None:
    made = script()
    payload = encode_value([made["Colour"].RED, made["Point"](3)], "auto", pickled)
    code = (
        "import sys; from raykv.client.codecs import decode_value\n"
        f"colour, point = decode_value(bytes.fromhex({payload.hex()!r}), 'auto')\n"
        "assert colour is type(colour).RED is point.colour and point.x == 3 and point == type(point)(3, colour)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


PLAIN = (
    "8005950d010000000000005d948c17636c6f75647069636b6c652e636c6f75647069636b6c65948c145f6d616b655f736b65"
    "6c65746f6e5f636c617373949394288c086275696c74696e73948c04747970659493948c05506f696e749468048c066f626a"
    "65637494939485947d948c0a5f5f6d6f64756c655f5f948c085f5f6d61696e5f5f94738c2036646666366638353036373234"
    "34373662643239326664626666353361326238944e7494529468018c0f5f636c6173735f736574737461746594939468107d"
    "94288c075f5f646f635f5f944e8c0a5f5f6d6f64756c655f5f94680d8c0d5f5f736c6f746e616d65735f5f945d948c04756e"
    "6974948c016d94757d9486948652302981947d948c0178944b037362612e"
)
"""Of ``[point]``, as cloudpickle proper wrote it, and so raykv until it took Ray's."""
RAYS = (
    "80059511010000000000005d948c1b7261792e636c6f75647069636b6c652e636c6f75647069636b6c65948c145f6d616b65"
    "5f736b656c65746f6e5f636c617373949394288c086275696c74696e73948c04747970659493948c05506f696e749468048c"
    "066f626a65637494939485947d948c0a5f5f6d6f64756c655f5f948c085f5f6d61696e5f5f94738c20653134333438363466"
    "6466663437653561623831333461326232323734346331944e7494529468018c0f5f636c6173735f73657473746174659493"
    "9468107d94288c075f5f646f635f5f944e8c0a5f5f6d6f64756c655f5f94680d8c0d5f5f736c6f746e616d65735f5f945d94"
    "8c04756e6974948c016d94757d9486948652302981947d948c0178944b037362612e"
)


@pytest.mark.parametrize("golden", [PLAIN, RAYS])
def test_what_was_pickled_before_is_read(golden: str) -> None:
    (point,) = decode_value(b"\x03" + bytes.fromhex(golden), "auto")
    assert (type(point).__name__, type(point).__module__, point.unit, point.x) == ("Point", "__main__", "m", 3)


def test_the_pickle_of_a_class_that_is_imported_is_any_pickle() -> None:
    value = (1, {2}, dataclasses.field)
    assert pickle.loads(pickled(value)) == value
    assert pickled((1, {2})) == cloudpickle.dumps((1, {2}))


# ---- on Ray ----


@pytest.mark.ray
def test_one_class_is_one_class_in_driver_task_and_actor(shared_store: raykv.Store) -> None:
    made, store = script(), shared_store
    bucket = store.bucket("classes")
    same = check_same, values_of

    @ray.remote
    def task(store: raykv.Store, bucket: Any, made: Any, key: str, same: Any) -> Any:
        patience.be_patient()
        check, values = same
        check(made, store.get(key))
        bucket.put(f"{key}, back", values(made))
        with_enum = raykv.connect(store.store_name)
        check(made, with_enum.get_many([key])[key])
        return bucket.get(f"{key}, back")

    @ray.remote
    class Actor:
        def read(self, store: raykv.Store, made: Any, key: str, same: Any) -> Any:
            patience.be_patient()
            check, values = same
            check(made, store.get(key))
            check(made, next(value for name, value in store.scan(prefix=key)))
            store.put(key, values(made))
            return made["Colour"].RED

    store.put("by driver", values_of(made))
    check_same(made, ray.get(task.remote(store, bucket, made, "by driver", same)))
    check_same(made, bucket.get("by driver, back"))
    store.put("by driver, back", bucket.get("by driver, back"))
    ray.get(task.remote(store, bucket, made, "by driver, back", same))  # what a task has written, in another task
    actor = Actor.remote()
    assert ray.get(actor.read.remote(store, made, "by driver", same)) is made["Colour"].RED
    check_same(made, store.get("by driver"))
    handle = raykv.coordinator(store.store_name)
    store.decode(ray.get(handle.put.remote("by handle", values_of(made))))
    check_same(made, store.get("by handle"))
    check_same(made, store.decode(ray.get(handle.get.remote("by handle"))))


@pytest.mark.ray
def test_an_object_ref_is_refused_and_nothing_is_written(shared_store: raykv.Store) -> None:
    bucket = shared_store.bucket("refs")
    ref = ray.put("something")
    actor_side = raykv.coordinator(shared_store.store_name)
    calls: list[Callable[[], Any]] = [
        lambda: bucket.put("a", ref), lambda: bucket.put("a", {"deep": [ref]}), lambda: bucket.put_many({"b": 1, "a": ref}),
        lambda: bucket.modify("a", lambda _: {ref}), lambda: bucket.__setitem__("a", (ref,)),
        lambda: shared_store.decode(ray.get(actor_side.put.remote("a", [ref], bucket="refs"))),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(InvalidOption, match="must not hold an ObjectRef"):
            call()
    assert list(bucket.keys()) == []
    kept = ray.remote(num_cpus=0)(type("Kept", (), {"say": lambda self: "here"})).remote()
    bucket.put("actor", kept)
    assert ray.get(bucket.get("actor").say.remote()) == "here"


@pytest.mark.ray
def test_a_value_whose_module_is_missing_holds_up_nobody(shared_store: raykv.Store) -> None:
    bucket = shared_store.bucket("missing")

    class Gone:
        def __reduce__(self) -> Any:
            return __import__, ("no_such_module_of_raykv",)

    bucket.put_many({"a": 1, "b": Gone(), "c": 3})
    assert "b" in bucket
    assert (bucket.count(), list(bucket.keys())) == (3, ["a", "b", "c"])
    scan = bucket.scan()
    assert next(scan) == ("a", 1)
    with pytest.raises(CorruptData, match="no_such_module_of_raykv") as caught:
        next(scan)
    assert list(bucket.scan(after=caught.value.key)) == [("c", 3)]
    del bucket["b"]
    assert list(bucket.values()) == [1, 3]
