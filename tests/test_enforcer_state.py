"""What operators set in the store while an enforcer runs: it holds for the next request, on every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from policyd.core.errors import ReservationMismatch, StoreUnavailable
from policyd.core.limit_index import LimitIndex
from policyd.core.policy import Action, Metric
from policyd.core.record import Outcome, UsageSource
from policyd.core.reservation import State
from policyd.core.runtime import Block, Blocked, Kind, Override, Piece, Reset
from policyd.core.usage import Usage
from policyd.core.windows import CalendarUnit, CalendarWindow
from policyd.enforcer import Ending
from policyd.enforcer.runtime_state import ENDED_KEPT_MS, FollowedState, deletion_of, item_of
from policyd.estimator import Ask
from policyd.providers.base import Prompt, RequestFacts
from policyd.stores.base import Store
from policyd.stores.url import open_store
from tests.builders import NOW_MS, World, limit, policy
from tests.ext_proc.trying_stores import failing

CALLS = limit(Metric.REQUESTS, 1, name="calls", per=("user",))
SERVED = Ending(Outcome.SERVED, Usage(input=1, output=1), UsageSource.REPORTED, status=200)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened = open_store("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/store.db")
    yield opened
    await opened.close()


@pytest.fixture
def world(store: Store) -> World:
    """One call for each user, for ever."""
    return World(policy(CALLS), store=store)


def ask(world: World, request_id: str = "r1", *, user: str = "ann", model: str = "gpt-4o") -> Ask:
    return Ask(
        request_id=request_id,
        provider="openai",
        endpoint="chat.completions",
        facts=RequestFacts(model, streamed=False, prompt=Prompt(()), max_output_tokens=1),
        identity={"user": user},
        policy=world.policy,
        input_tokens=1,
    )


async def put(world: World, *pieces: Piece) -> None:
    """What another process does."""
    await world.store.set_state([item_of(piece) for piece in pieces], now_ms=world.clock.ms)


async def delete(world: World, piece: Piece) -> None:
    await world.store.set_state([deletion_of(piece)], now_ms=world.clock.ms)


async def passes(world: World, request_id: str, **others: str) -> bool:
    """Whether a request is granted."""
    return (await world.enforcer.reserve(ask(world, request_id, **others))).decision.allowed


def block(scope: str = "user=ann", *, until_ms: int | None = None, kind: Kind = Kind.BLOCK) -> Block:
    return Block(kind, scope, "why", NOW_MS, until_ms)


def override(amount: int, *, until_ms: int | None = None) -> Override:
    return Override("calls", "user=ann", amount, NOW_MS, until_ms)


class TestBlocks:
    async def test_hold_from_the_next_request_on(self, world: World) -> None:
        await world.enforcer.refresh_state()
        await put(world, block())
        with pytest.raises(Blocked) as raised:
            await world.enforcer.reserve(ask(world))
        assert raised.value.block == block()
        with pytest.raises(Blocked):
            await world.enforcer.check(ask(world))
        assert (await world.books()).open_reservations == 0
        assert await passes(world, "r2", user="bob")

    async def test_are_lifted_at_once(self, world: World) -> None:
        await put(world, block())
        await world.enforcer.refresh_state()
        await delete(world, block())
        assert await passes(world, "r1")

    async def test_end_by_themselves(self, world: World) -> None:
        await put(world, block(until_ms=NOW_MS + 5))
        with pytest.raises(Blocked):
            await world.enforcer.reserve(ask(world))
        world.clock.ms += 5
        assert await passes(world, "r1")

    async def test_a_freeze_refuses_too(self, world: World) -> None:
        await put(world, block(kind=Kind.FREEZE, scope=""))
        with pytest.raises(Blocked, match="frozen"):
            await world.enforcer.reserve(ask(world))

    async def test_of_a_model_hold_for_what_is_asked_for(self, world: World) -> None:
        await put(world, block("model=gpt-4o*,user=ann"))
        with pytest.raises(Blocked):
            await world.enforcer.reserve(ask(world, model="gpt-4o-mini"))
        assert await passes(world, "r2", model="gpt-4.1")

    async def test_what_runs_already_goes_on_and_is_charged(self, world: World) -> None:
        verdict = await world.enforcer.reserve(ask(world))
        await put(world, block())
        await world.enforcer.end(verdict.record, verdict.decision.estimate, SERVED)
        (report,) = await world.enforcer.budget(world.policy, {"user": "ann"})
        assert (report.spent, report.reserved) == (1, 0)

    async def test_what_was_granted_by_id_is_answered_again(self, world: World) -> None:
        await world.enforcer.reserve(ask(world), fingerprint="f")
        await put(world, block())
        again = await world.enforcer.reserve(ask(world), fingerprint="f")
        assert again.earlier is State.RESERVED
        with pytest.raises(ReservationMismatch):
            await world.enforcer.reserve(ask(world), fingerprint="g")
        with pytest.raises(Blocked):
            await world.enforcer.reserve(ask(world, "r2"), fingerprint="f")

    async def test_usage_that_happened_is_charged(self, world: World) -> None:
        await put(world, block())
        await world.enforcer.record_usage(ask(world), Usage(input=1), fingerprint="f")
        (report,) = await world.enforcer.budget(world.policy, {"user": "ann"})
        assert report.spent == 1

    async def test_their_record_names_them(self, world: World) -> None:
        await world.enforcer.end_blocked(ask(world), block())
        assert (world.record.outcome, world.record.decision) == (Outcome.DENIED, "deny")
        assert world.record.denied_by == ("block:user=ann",)


class TestOverrides:
    async def test_raise_and_lower_a_limit_at_once(self, world: World) -> None:
        assert await passes(world, "r1")
        await put(world, override(2))
        assert await passes(world, "r2")
        await put(world, override(1))
        assert not await passes(world, "r3")
        await put(world, override(3))
        assert await passes(world, "r4")
        await delete(world, override(3))
        assert not await passes(world, "r5")

    async def test_a_temporary_one_ends_by_itself(self, world: World) -> None:
        await put(world, override(3, until_ms=NOW_MS + 5))
        assert await passes(world, "r1")
        assert await passes(world, "r2")
        world.clock.ms += 5
        assert not await passes(world, "r3")

    async def test_are_reported_with_the_limit(self, world: World) -> None:
        await put(world, override(7))
        (report,) = await world.enforcer.budget(world.policy, {"user": "ann"})
        assert (report.limit.amount, report.remaining) == (7, 7)
        assert (await world.enforcer.check(ask(world))).reports[0].limit.amount == 7

    async def test_hold_in_every_process(self, world: World) -> None:
        other = World(world.policy, store=world.store)
        await other.enforcer.refresh_state()
        await put(world, override(2))
        assert [await passes(each, name) for each, name in ((world, "r1"), (other, "r2"), (world, "r3"))] == [
            True,
            True,
            False,
        ]


class TestResets:
    async def test_count_from_0_and_keep_the_history(self, world: World) -> None:
        assert await passes(world, "r1")
        world.clock.ms += 5
        await put(world, Reset("calls", "user=ann", world.clock.ms, None))
        assert await passes(world, "r2")
        assert not await passes(world, "r3")
        page = await world.store.accounts(limit_name="calls", scope="user=ann", page=9)
        assert sorted((each.starts_at_ms, balance.used) for each, balance in page.rows) == [(0, 1), (NOW_MS + 5, 1)]

    async def test_late_charges_go_to_the_account_of_the_hold(self, world: World) -> None:
        verdict = await world.enforcer.reserve(ask(world))
        world.clock.ms += 5
        await put(world, Reset("calls", "user=ann", world.clock.ms, None))
        await world.enforcer.end(verdict.record, verdict.decision.estimate, SERVED)
        (report,) = await world.enforcer.budget(world.policy, {"user": "ann"})
        assert (report.spent, report.reserved) == (0, 0)
        ((_, before),) = (await world.store.accounts(page=9)).rows
        assert (before.spent, before.reserved) == (1, 0)

    async def test_usage_without_a_hold_is_charged_to_the_fresh_account(self, world: World) -> None:
        await world.enforcer.refresh_state()
        await put(world, Reset("calls", "user=ann", NOW_MS, None))
        await world.enforcer.record_usage(ask(world), Usage(input=1), fingerprint="f")
        ((account, _),) = (await world.store.accounts(page=9)).rows
        assert account.starts_at_ms == NOW_MS


async def test_a_store_that_cannot_be_read_refuses_as_unavailable(store: Store) -> None:
    world = World(policy(CALLS), store=store, wrap=failing("state"))
    await put(world, block("user=bob"))
    with pytest.raises(StoreUnavailable):
        await world.enforcer.reserve(ask(world))
    assert ("state", True) in world.seen.store_calls


async def test_a_model_that_is_blocked_is_not_switched_to(store: Store) -> None:
    # Room for one call of the cheap model, none for the dear one.
    cost = limit(Metric.COST, 1_000, action=Action.SWITCH_MODEL, switch_to="gpt-4o-mini")
    world = World(policy(cost), store=store)
    facts = ask(world).facts
    dear = replace(ask(world), reread=lambda edits: replace(facts, model=edits.model or facts.model))
    await put(world, block("model=gpt-4o-mini"))
    verdict = await world.enforcer.reserve(dear)
    assert [report.limit.name for report in verdict.decision.denials] == ["budget"]
    await delete(world, block("model=gpt-4o-mini"))
    assert (await world.enforcer.reserve(dear)).decision.changes.model == "gpt-4o-mini"


async def test_a_reset_counts_for_what_came_before_its_window_ended(store: Store) -> None:
    """Decided a moment after the window's end, with a state that is read only then: it was reset all the same."""
    per_minute = limit(Metric.REQUESTS, 1, name="calls", per=("user",), window=CalendarWindow(CalendarUnit.MINUTE))
    world = World(policy(per_minute), store=store)
    ends_at_ms = NOW_MS // 60_000 * 60_000 + 60_000
    world.clock.ms = ends_at_ms - 5
    await put(world, Reset("calls", "user=ann", ends_at_ms - 10, ends_at_ms))
    came_at_ms = world.clock.ms
    world.clock.ms = ends_at_ms + 500
    followed = FollowedState(
        lambda since: store.state(since=since), now_ms=lambda: world.clock.ms, remembered_ms=lambda: 60_000
    )
    await followed.refresh()

    (applied,) = LimitIndex(world.policy).applied({"user": "ann"}, now_ms=came_at_ms, state=followed.current)
    assert applied.account.starts_at_ms == ends_at_ms - 10
    (applied,) = LimitIndex(world.policy).applied({"user": "ann"}, now_ms=world.clock.ms, state=followed.current)
    assert applied.account.starts_at_ms == ends_at_ms

    world.clock.ms += ENDED_KEPT_MS
    await put(world, Override("calls", "user=bob", 5, world.clock.ms, None))
    await followed.refresh()
    assert followed.current.reset_at_ms("calls", "user=ann") is None
