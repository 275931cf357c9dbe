"""Decoders against bytes that nobody wrote: few inputs here, as many as wanted with scripts/fuzz."""

from __future__ import annotations

import logging

import pytest

from raykv.client import codecs
from raykv.storage import replay, sstable
from simulation.decoder_fuzzer import DECODERS, fuzz_decoder, seeds


@pytest.fixture(autouse=True)
def silence(caplog):
    """It reports each damage."""
    caplog.set_level(logging.CRITICAL, "raykv.storage")


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_holds(name, long):
    assert fuzz_decoder(name, seed=4, inputs=20_000 if long else 1_500) is None
    for given in (b"", *seeds()[name]):
        DECODERS[name](given)


@pytest.mark.parametrize(
    ("name", "module", "attribute", "broken"),
    [
        ("table", sstable, "UNREADABLE", (OverflowError,)),
        ("log", replay, "UNREADABLE", (KeyError,)),
        ("value", codecs, "_undecodable", lambda error: error),
    ],
)
def test_a_decoder_that_lets_something_through_is_found(monkeypatch, name, module, attribute, broken):
    monkeypatch.setattr(module, attribute, broken)
    assert fuzz_decoder(name, seed=4, inputs=5_000) is not None
