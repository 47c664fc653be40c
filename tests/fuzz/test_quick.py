"""A quick slice of `make fuzz`, for which atheris is not needed: the seeds, and random mutations of them."""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from random import Random

import pytest

from policyd.core.errors import BodyUnreadable
from policyd.providers import registry
from policyd.providers.base import RawRequest
from tests.builders import COUNTER, published_prices
from tests.fuzz import seeds
from tests.fuzz.targets import CONTENT_TYPES, ENDPOINTS, TARGETS, endpoint
from tests.providers.garbling import garbled

MUTATIONS = 150


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    COUNTER.preload()
    published_prices()


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    for seed in TARGETS[name].seeds():
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_mutations(name: str) -> None:
    random = Random(name)
    begun_with = list(TARGETS[name].seeds())
    for _ in range(MUTATIONS):
        data = garbled(random.choice(begun_with), random)
        try:
            TARGETS[name].run(data)
        except BaseException as error:
            raise AssertionError(f"{name} of {data!r}") from error


def test_every_wire_format_is_fuzzed() -> None:
    known = {
        member.name for member in vars(registry).values() if hasattr(member, "read_request") and hasattr(member, "name")
    }
    fuzzed = (endpoint(index).wire for index in range(len(ENDPOINTS)))
    assert known == {wire.name for wire in fuzzed if wire is not None}


@pytest.mark.parametrize("index", range(len(ENDPOINTS)), ids=map("".join, ENDPOINTS))
def test_every_wire_format_reads_some_seed(index: int) -> None:
    """Else the fuzzer would begin before a closed door."""
    asked = endpoint(index)
    assert asked.wire is not None
    read = 0
    for body, content_type in product(seeds.requests(), CONTENT_TYPES):
        with suppress(BodyUnreadable):
            asked.wire.read_request(RawRequest(body, path=asked.path, content_type=content_type), vendor=asked.vendor)
            read += 1
    assert read
