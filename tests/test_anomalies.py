"""Anomalies: what they go by, that all replicas see it, and that no text is kept for it."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.anomalies import Anomaly, Detector, Repetition, RequestRate, SpendingVelocity
from policyd.core.events import LimitUse
from policyd.core.ledger import Balance
from policyd.core.policy import Metric
from policyd.core.rules import RuleAction
from policyd.core.runtime import Blocked
from policyd.core.usage import Usage
from policyd.enforcer import reported_ending
from policyd.estimator import Ask
from policyd.providers.base import Prompt, RequestFacts
from policyd.stores.base import Store
from policyd.stores.memory import MemoryStore
from policyd.stores.url import open_store
from tests.builders import USD, SetClock, World, policy, price_of

TWICE = Repetition(times=2, within_seconds=600)
FAST = SpendingVelocity(nanos_per_minute=USD // 100)


def anomaly(detector: Detector, action: RuleAction = RuleAction.DENY, **others: Any) -> Anomaly:
    return replace(Anomaly("odd", detector, action, event_every_seconds=3600, per=("user",)), **others)


def world(*anomalies: Anomaly, store: Store | None = None, **others: Any) -> World:
    return World(policy(anomalies=anomalies), store=store or MemoryStore(), **others)


def ask(world: World, request_id: str, *, content: bytes = b"{}", user: str = "ann", model: str = "gpt-4o") -> Ask:
    facts = RequestFacts(model, streamed=False, prompt=Prompt(()), max_output_tokens=1)
    identity = {"user": user}
    return Ask(request_id, "openai", "chat.completions", facts, identity, world.policy, input_tokens=1, content=content)


async def passes(world: World, request_id: str, **said: Any) -> bool:
    return (await world.enforcer.reserve(ask(world, request_id, **said))).decision.allowed


# --- the same request ---


async def test_replicas_know_each_others_requests() -> None:
    store = MemoryStore()
    first, second = world(anomaly(TWICE), store=store), world(anomaly(TWICE), store=store)
    assert await passes(first, "r1")
    assert not await passes(second, "r2")
    assert [item.kind for item in (await store.state()).items] == ["digest_key"]


@pytest.mark.parametrize("other", [{"content": b"[]"}, {"user": "bob"}, {"model": "gpt-4o-mini"}])
async def test_another_request_is_no_repetition(other: dict[str, Any]) -> None:
    watched = world(anomaly(TWICE))
    assert await passes(watched, "r1")
    assert await passes(watched, "r2", **other)


async def test_asking_does_not_count() -> None:
    watched = world(anomaly(TWICE))
    for _ in range(3):
        assert (await watched.enforcer.check(ask(watched, "r0"))).allowed
    assert (await watched.store.state()).items == ()
    assert await passes(watched, "r1")
    assert not (await watched.enforcer.check(ask(watched, "r2"))).allowed


async def test_what_was_not_seen_is_never_the_same() -> None:
    watched = world(anomaly(TWICE))
    assert await passes(watched, "r1", content=b"")
    assert await passes(watched, "r2", content=b"")
    assert (await watched.store.state()).items == ()


async def test_no_text_is_kept_and_the_hash_needs_the_key(tmp_path: Path) -> None:
    for name in ("one", "two"):
        store = open_store(f"sqlite:///{tmp_path}/{name}.db")
        watched = world(anomaly(TWICE), store=store)
        await passes(watched, "r1", content=b"the secret question")
        await store.close()
    kept = [tmp_path.joinpath(file).read_bytes() for file in os.listdir(tmp_path)]
    assert kept
    assert not any(b"secret question" in each for each in kept)
    # Another store has another key: what one tells of a text, another does not know again.
    digests = [_digest(tmp_path / f"{name}.db") for name in ("one", "two")]
    assert digests[0] != digests[1]


def _digest(path: Path) -> str:
    connection = sqlite3.connect(path)
    (digest,) = connection.execute("SELECT digest FROM runs").fetchone()
    connection.close()
    assert len(digest) == 64
    return str(digest)


# --- money in the last minute ---

GPT_4O = price_of("gpt-4o")
SPENT = Usage(input=10_000)


async def test_what_another_replica_has_charged_counts() -> None:
    assert GPT_4O.cost_nanos(SPENT) >= FAST.nanos_per_minute
    store = MemoryStore()
    first, second = world(anomaly(FAST), store=store), world(anomaly(FAST), store=store)
    verdict = await first.enforcer.reserve(ask(first, "r1"))
    assert await passes(second, "r2")
    await first.enforcer.end(verdict.record, verdict.decision.estimate, reported_ending(SPENT))
    assert not await passes(second, "r3")
    assert await passes(second, "r4", user="bob")


async def test_usage_that_was_only_reported_counts() -> None:
    watched = world(anomaly(FAST))
    await watched.enforcer.record_usage(ask(watched, "r1"), SPENT, fingerprint="f")
    assert not await passes(watched, "r2")
    watched.clock.ms += 120_000
    assert await passes(watched, "r3")


async def test_an_event_tells_what_the_anomaly_goes_by() -> None:
    watched = world(anomaly(FAST), anomaly(TWICE, RuleAction.NOTIFY, name="twice"))
    await watched.enforcer.record_usage(ask(watched, "r1"), SPENT, fingerprint="f")
    await watched.enforcer.check(ask(watched, "r2"))
    assert not await passes(watched, "r3")
    (event,) = (await watched.store.events(page=9)).events
    spent = GPT_4O.cost_nanos(SPENT)
    assert event.limits == (LimitUse("anomaly:odd", Metric.COST, spent, FAST.nanos_per_minute),)


async def test_what_is_watched_is_no_limit() -> None:
    watched = world(anomaly(FAST, RuleAction.NOTIFY), anomaly(RequestRate(6, 20, 15), name="burst"))
    verdict = await watched.enforcer.reserve(ask(watched, "r1"))
    assert [report.limit.name for report in verdict.decision.reports] == ["budget"]
    reports = await watched.enforcer.budget(watched.policy, {"user": "ann"})
    assert [report.limit.name for report in reports] == ["budget"]
    await watched.enforcer.end(verdict.record, verdict.decision.estimate, reported_ending(SPENT))
    again = await watched.enforcer.reserve(ask(watched, "r2"))
    assert again.decision.allowed
    assert (again.record.rules, again.record.shadow_denied_by) == (("anomaly:odd",), ())


async def test_a_freeze_holds_on_every_replica_until_it_is_over() -> None:
    store = MemoryStore()
    frozen = anomaly(TWICE, RuleAction.FREEZE, freeze_seconds=60)
    first, second = world(frozen, store=store), world(frozen, store=store)
    assert await passes(first, "r1")
    verdict = await first.enforcer.reserve(ask(first, "r2"))
    assert (verdict.record.denied_by, verdict.decision.retry_after_seconds) == (("anomaly:odd",), 60)
    with pytest.raises(Blocked, match="anomaly:odd has fired"):
        await second.enforcer.reserve(ask(second, "r3", content=b"[]"))
    second.clock.ms += 60_000
    assert await passes(second, "r4", content=b"something else")


# --- a rate and its past ---


@given(
    now=st.integers(0, 10_000),
    past=st.lists(st.integers(0, 10_000), min_size=1, max_size=60),
    sigmas=st.integers(1, 100),
    at_least=st.integers(1, 100),
)
def test_a_rate_shows_above_the_upper_limit_of_a_c_chart(now: int, past: list[int], sigmas: int, at_least: int) -> None:
    with localcontext(prec=60):
        mean = Decimal(sum(past)) / len(past)
        upper = mean + sigmas * mean.sqrt()
        expected = now + 1 >= at_least and Decimal(now + 1) > upper
    balances = [Balance(used, 0) for used in (now, *past)]
    found = RequestRate(sigmas, at_least, len(past)).reading(balances)
    assert (found.used >= found.amount) == expected


async def test_a_rate_is_counted_by_all_replicas() -> None:
    store = MemoryStore()
    burst = anomaly(RequestRate(sigmas=1, requests_min=3, past_minutes=5))
    first, second = world(burst, store=store), world(burst, store=store, clock=SetClock())
    assert await passes(first, "r1")
    assert await passes(second, "r2")
    assert not await passes(first, "r3")
