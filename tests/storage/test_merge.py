import random

from raykv.storage.merge import merge


def batches(pairs, size, reverse):
    parts = [pairs[at : at + size] for at in range(0, len(pairs), size)]
    for part in reversed(parts) if reverse else parts:
        yield [key for key, _ in part], [value for _, value in part]
        yield [], []  # an empty batch means nothing


def test_against_a_dict():
    rng = random.Random(3)
    for _ in range(300):
        sources, model = [], {}
        for number in range(rng.randrange(6)):
            keys = sorted({b"%03d" % rng.randrange(200) for _ in range(rng.randrange(60))})
            sources.append([(key, number) for key in keys])
        for source in reversed(sources):  # the first is the newest
            model.update(source)
        for reverse in (False, True):
            got = []
            for keys, values in merge([batches(s, rng.randrange(1, 9), reverse) for s in sources], reverse=reverse):
                assert keys
                assert keys == sorted(set(keys))
                part = list(zip(keys, values, strict=True))
                got += part[::-1] if reverse else part
            assert got == sorted(model.items(), reverse=reverse)


def test_is_lazy():
    pulled = []

    def source():
        for number in range(1000):
            pulled.append(number)
            yield [b"%04d" % number], [number]

    merged = merge([source(), iter([([b"9"], [0])])])
    next(merged)
    assert len(pulled) < 5
