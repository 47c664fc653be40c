"""Reservations of other services: ended by the process that made them, or by any other."""

from __future__ import annotations

import pytest

from policyd.core.errors import ReservationEnded
from policyd.core.policy import Action
from policyd.core.record import Record
from policyd.core.reservation import State
from policyd.core.usage import Usage
from policyd.enforcer import RELEASED, Ending, reported_ending
from policyd.estimator import Ask
from policyd.providers.base import Prompt, RequestFacts
from policyd.stores.base import Store
from policyd.stores.memory import MemoryStore
from tests.builders import World, limit, policy

USED = reported_ending(Usage(input=900, output=50))
FACTS = RequestFacts("gpt-4o", streamed=False, prompt=Prompt(()), max_output_tokens=200)


def world(store: Store | None = None) -> World:
    watched = limit(amount=1, name="watched", action=Action.SHADOW)
    return World(policy(limit(), watched), store=store or MemoryStore())


async def reserve(where: World) -> None:
    ask = Ask(
        request_id="r1",
        provider="openai",
        endpoint="chat.completions",
        facts=FACTS,
        identity={"project": "acme"},
        policy=where.policy,
        input_tokens=1000,
    )
    await where.enforcer.reserve(ask, fingerprint="f")


def told(record: Record) -> Record:
    """`record` without how long it took, which only the process that decided knows."""
    return record._replace(policy_us=0)


async def test_the_process_that_made_one_needs_not_ask_for_it() -> None:
    here = world()
    await reserve(here)
    assert (await here.enforcer.end_held("r1", USED)).found is State.RESERVED
    assert [operation for operation, _ in here.seen.store_calls] == ["reserve", "settle"]


@pytest.mark.parametrize("ending", [USED, RELEASED])
async def test_another_process_ends_one_with_the_same_record(ending: Ending) -> None:
    here, there = world(), world()
    await reserve(here)
    await reserve(there)
    other = world(there.store)
    ended = await here.enforcer.end_held("r1", ending), await other.enforcer.end_held("r1", ending)
    assert told(ended[0].record) == told(ended[1].record)
    assert here.record.shadow_denied_by == ("watched",)


async def test_one_that_another_process_ended_is_found_ended() -> None:
    here = world()
    await reserve(here)
    other = world(here.store)
    first = await other.enforcer.end_held("r1", USED)
    again = await here.enforcer.end_held("r1", USED)
    assert (again.found, again.record) == (State.SETTLED, first.record)
    assert here.seen.records == []
    with pytest.raises(ReservationEnded):
        await here.enforcer.end_held("r1", RELEASED)


async def test_one_that_was_extended_is_asked_for() -> None:
    here = world()
    await reserve(here)
    await here.enforcer.extend_held("r1", wanted_tokens=10, at_least_tokens=10)
    here.seen.store_calls.clear()
    await here.enforcer.end_held("r1", USED)
    assert [operation for operation, _ in here.seen.store_calls] == ["get", "settle"]
