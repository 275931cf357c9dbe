import pytest

from raykv.storage.bloom import Bloom, BloomBuilder, probe


def build(keys, bits=10):
    builder = BloomBuilder()
    builder.add(keys)
    return builder.build(bits)


KEYS = [b"user:%d" % number for number in range(5000)]


def test_no_false_negatives():
    bloom = build(KEYS)
    assert all(bloom.might_contain(key) for key in KEYS)
    assert all(bloom.passes(probe(key)) for key in KEYS)


@pytest.mark.parametrize(("bits", "limit"), [(5, 0.16), (10, 0.016), (16, 0.003)])
def test_false_positives_stay_near_theory(bits, limit):
    bloom = build(KEYS, bits)
    wrong = sum(bloom.might_contain(b"other:%d" % number) for number in range(20_000))
    assert wrong / 20_000 < limit


def test_round_trip_and_size():
    bloom = build(KEYS)
    data = bloom.to_bytes()
    assert len(data) == -(-5000 * 10 // 512) * 64
    again = Bloom.from_bytes(data)
    assert again.to_bytes() == data
    assert all(again.might_contain(key) for key in KEYS)


def test_keys_added_in_parts_are_all_in():
    builder = BloomBuilder()
    builder.add(KEYS[:10])
    builder.add(KEYS[10:])
    assert builder.build(10).to_bytes() == build(KEYS).to_bytes()


def test_empty_filter_holds_nothing():
    assert not build([]).might_contain(b"x")


@pytest.mark.parametrize("data", [b"", b"x" * 63, b"x" * 65])
def test_refuses_what_is_no_filter(data):
    with pytest.raises(ValueError, match="whole blocks"):
        Bloom.from_bytes(data)
