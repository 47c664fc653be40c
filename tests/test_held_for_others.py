"""Reservations of other services: ended by the process that made them, or by any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyd.core.errors import ReservationEnded, StoreUnavailable
from policyd.core.policy import Action, FailureMode, Metric
from policyd.core.record import Record
from policyd.core.reservation import State
from policyd.core.usage import Usage
from policyd.core.windows import FirstUseWindow
from policyd.enforcer import RELEASED, Ending, reported_ending
from policyd.estimator import Ask
from policyd.providers.base import Prompt, RequestFacts
from policyd.stores.base import Store
from policyd.stores.memory import MemoryStore
from tests.builders import NOW_MS, World, limit, policy
from tests.stores.outage.rig import AWAY, Rig

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


class TestWhatWasSpentWhileTheStoreIsAway:
    """Nothing was held for it, and nobody but this process knows of it."""

    @pytest.fixture
    def rig(self, tmp_path: Path) -> Rig:
        trial = limit(Metric.REQUESTS, 5, name="trial", window=FirstUseWindow(1))
        return Rig(tmp_path, policy=policy(trial, failure_mode=FailureMode.CLOSED), now_ms=NOW_MS)

    def ask(self, where: World, request_id: str) -> Ask:
        return Ask(request_id, "openai", "chat.completions", FACTS, {"project": "acme"}, where.policy, input_tokens=1)

    async def spend(self, where: World, request_id: str) -> None:
        usage = Usage(input=900, output=50)
        await where.enforcer.record_usage(self.ask(where, request_id), usage, fingerprint="")

    async def test_it_is_charged_in_a_window_that_was_not_known(self, rig: Rig) -> None:
        before = World(rig.policy, store=rig.store.inner)
        await self.spend(before, "earlier")
        process = rig.process()
        where = World(rig.policy, store=rig.store.inner, wrap=lambda _: process)
        where.clock.ms += 3_600_000
        rig.store.error = AWAY
        await self.spend(where, "meanwhile")
        with pytest.raises(StoreUnavailable):
            await where.enforcer.reserve(self.ask(where, "new"))
        rig.store.error = None
        await process.mend()
        assert await where.spent("trial") == 2

    @pytest.mark.parametrize("away", [True, False])
    async def test_it_is_charged_where_the_state_has_changed_too(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch, away: bool
    ) -> None:
        """And cannot be read, whether the store is away or not."""
        process = rig.process()
        where = World(rig.policy, store=rig.store.inner, wrap=lambda _: process)
        await rig.store.inner.set_state([], now_ms=NOW_MS)

        async def fail(**_: object) -> None:
            if away:
                rig.store.error = AWAY
            raise AWAY

        monkeypatch.setattr(process, "state", fail)
        await self.spend(where, "r1")
        rig.store.error = None
        await process.mend()
        assert await where.spent("trial") == 1
