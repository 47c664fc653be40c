"""Events and freezes by rules: in the store before the decision, once, and never lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from policyd.core.errors import StoreUnavailable
from policyd.core.policy import Metric, Policy
from policyd.core.rules import ALWAYS, Rule, RuleAction, UsagePercent
from policyd.core.runtime import Block, Blocked, Kind
from policyd.enforcer.runtime_state import item_of
from policyd.estimator import Ask
from policyd.providers.base import Prompt, RequestFacts
from policyd.stores.base import Store
from policyd.stores.memory import MemoryStore
from tests.builders import NOW_MS, USD, SetClock, World, limit, policy
from tests.ext_proc.trying_stores import failing

TELL = Rule("tell", ALWAYS, RuleAction.NOTIFY, per=("user",), event_every_seconds=3600)
FREEZE = Rule(
    "loops", UsagePercent({"budget": 0}), RuleAction.FREEZE, per=("user",), freeze_seconds=60, event_every_seconds=60
)


def ask(world: World, request_id: str = "r1", user: str = "ann") -> Ask:
    facts = RequestFacts("gpt-4o", streamed=False, prompt=Prompt(()), max_output_tokens=1)
    return Ask(request_id, "openai", "chat.completions", facts, {"user": user}, world.policy, input_tokens=1)


def world(*rules: Rule, store: Store | None = None, **others: Any) -> World:
    return World(policy(rules=rules), store=store or MemoryStore(), **others)


async def events(store: Store) -> list[str]:
    return [f"{each.source} {each.scope} {each.request_id}" for each in (await store.events(page=100)).events]


async def freezes(store: Store) -> list[tuple[str, int | None]]:
    return [(item.key, item.expires_at_ms) for item in (await store.state()).items if item.kind == Kind.FREEZE]


async def test_an_event_says_what_fired_and_how_full_the_limits_are() -> None:
    told = world(replace(TELL, when=UsagePercent({"budget": 0})))
    await told.enforcer.reserve(ask(told))
    (event,) = (await told.store.events(page=2)).events
    assert event.attributes["user"] == "ann"
    assert event.attributes["model"] == "gpt-4o"
    assert [(use.name, use.metric, use.used, use.amount) for use in event.limits] == [
        ("budget", Metric.COST, 0, 10 * USD)
    ]
    assert event.estimated_cost_nanos > 0
    assert event.keep_until_ms == NOW_MS + 30 * 86_400_000


async def test_operators_are_told_once_in_a_period_and_the_metric_counts_it_once() -> None:
    told = world(TELL)
    for number in range(5):
        await told.enforcer.reserve(ask(told, f"r{number}"))
    told.clock.ms += 3_600_000
    await told.enforcer.reserve(ask(told, "later"))
    assert await events(told.store) == ["rule:tell user=ann r0", "rule:tell user=ann later"]
    assert len(told.seen.events) == 2
    assert told.seen.store_calls.count(("emit", False)) == 2


async def test_of_several_replicas_one_tells() -> None:
    store = MemoryStore()
    replicas = [world(TELL, store=store) for _ in range(3)]
    await asyncio.gather(*(each.enforcer.reserve(ask(each, f"r{number}")) for number, each in enumerate(replicas)))
    assert len(await events(store)) == 1
    assert sum(len(each.seen.events) for each in replicas) == 1


async def test_no_request_passes_before_its_event_is_kept() -> None:
    told = world(TELL, wrap=failing("emit"))
    with pytest.raises(StoreUnavailable):
        await told.enforcer.reserve(ask(told))
    assert (await told.books()).open_reservations == 0


async def test_an_event_that_failed_is_told_with_the_next_request() -> None:
    store = MemoryStore()
    broken = world(TELL, store=store, wrap=failing("emit"))
    with pytest.raises(StoreUnavailable):
        await broken.enforcer.reserve(ask(broken))
    mended = world(TELL, store=store)
    await mended.enforcer.reserve(ask(mended, "r2"))
    assert await events(store) == ["rule:tell user=ann r2"]


async def test_asking_tells_nobody_and_freezes_nothing() -> None:
    asked = world(TELL, FREEZE)
    assert not (await asked.enforcer.check(ask(asked))).allowed
    assert await events(asked.store) == []
    assert await freezes(asked.store) == []


async def test_a_freeze_refuses_by_its_rule_and_then_by_itself_on_every_replica() -> None:
    store = MemoryStore()
    first, second = world(FREEZE, store=store), world(store=store)
    verdict = await first.enforcer.reserve(ask(first))
    assert verdict.record.denied_by == ("rule:loops",)
    assert verdict.record.rules == ("loops",)
    assert verdict.decision.retry_after_seconds == 60
    for each in (first, second):
        with pytest.raises(Blocked, match="Requests of user=ann are frozen: rule:loops has fired"):
            await each.enforcer.reserve(ask(each, "r2"))
    assert (await second.enforcer.reserve(ask(second, "r3", user="bob"))).decision.allowed
    second.clock.ms += 60_000
    assert (await second.enforcer.reserve(ask(second, "r4"))).decision.allowed


async def test_a_scope_that_was_frozen_meanwhile_keeps_its_end() -> None:
    store = MemoryStore()
    late = world(FREEZE, store=store)
    # A longer freeze, which this replica has not heard of when it judges the request.
    await late.enforcer.refresh_state()
    by_hand = Block(Kind.FREEZE, "user=ann", "by hand", NOW_MS, NOW_MS + 3_600_000)
    await store.set_state([item_of(by_hand)], now_ms=NOW_MS)
    await late.enforcer.reserve(ask(late))
    assert await freezes(store) == [("user=ann", NOW_MS + 3_600_000)]


async def test_many_requests_at_once_freeze_once() -> None:
    store = MemoryStore()
    replicas = [world(FREEZE, store=store, clock=SetClock(NOW_MS + number)) for number in range(4)]
    calls = [each.enforcer.reserve(ask(each, f"r{number}")) for number, each in enumerate(replicas)]
    assert all(not verdict.decision.allowed for verdict in await asyncio.gather(*calls))
    assert (await store.state()).revision == 1


@pytest.mark.parametrize("operation", ["emit", "set_state"])
async def test_a_freeze_that_cannot_be_kept_lets_nothing_pass(operation: str) -> None:
    frozen = world(FREEZE, wrap=failing(operation))
    with pytest.raises(StoreUnavailable):
        await frozen.enforcer.reserve(ask(frozen))


async def test_a_shadow_rule_tells_nobody_and_freezes_nothing() -> None:
    shadow = world(replace(TELL, shadow=True), replace(FREEZE, shadow=True))
    verdict = await shadow.enforcer.reserve(ask(shadow))
    assert verdict.decision.allowed
    assert verdict.record.shadow_rules == ("tell", "loops")
    assert await events(shadow.store) == []
    assert await freezes(shadow.store) == []


async def test_a_policy_without_rules_calls_the_store_once() -> None:
    plain = World(Policy(identity=policy().identity, limits=(limit(),)))
    await plain.enforcer.reserve(ask(plain))
    assert plain.seen.store_calls == [("reserve", False)]
