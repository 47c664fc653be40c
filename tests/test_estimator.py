"""Estimates where vendors deviate, and where exchanges have taught."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from policyd.core.errors import StoreUnavailable
from policyd.core.policy import Metric
from policyd.core.pricing import NO_TERMS
from policyd.core.record import Outcome, UsageSource
from policyd.core.usage import Usage
from policyd.enforcer import Ending
from policyd.estimator import BOUND_FIRST_CHARACTERS_MIN, COUNT_INLINE_CHARACTERS_MAX, Ask
from policyd.learning import DAY_MS, DAYS, EXCHANGES_MIN
from policyd.price_finding import price_served
from policyd.providers.base import Prompt, RequestFacts
from policyd.stores.memory import MemoryStore
from policyd.stores.url import open_store
from policyd.tokens import TokenCount, TokenCounter
from tests.builders import World, limit, policy, price_of

TEXT = "The heron waits in the reeds and does not move. " * 40
WORDS = Prompt((TEXT,), exact=False)


def ask(
    world: World,
    request_id: str = "r",
    *,
    provider: str = "anthropic",
    model: str = "claude-sonnet-4-5",
    prompt: Prompt = WORDS,
    max_output_tokens: int | None = 1000,
    choices: int = 1,
) -> Ask:
    return Ask(
        request_id=request_id,
        provider=provider,
        endpoint="messages",
        facts=RequestFacts(model, streamed=False, prompt=prompt, max_output_tokens=max_output_tokens, choices=choices),
        identity={},
        policy=world.policy,
    )


# --- vendors that deviate ---


@pytest.mark.parametrize(
    ("provider", "model", "asked", "held"),
    [
        ("x-ai", "grok-4", 16, 1024),
        ("x-ai", "grok-4", 5000, 5000),
        ("openrouter", "openai/gpt-4.1-mini", 1, 16),
        ("openai", "gpt-4o", 1, 1),
    ],
)
async def test_a_vendor_that_exceeds_small_maxima_has_a_floor(provider: str, model: str, asked: int, held: int) -> None:
    world = World()
    found = await world.enforcer.estimate(ask(world, provider=provider, model=model, max_output_tokens=asked))
    assert found.maximum.output_tokens == held
    assert found.expected.output == asked * 75 // 100


async def test_a_retired_model_is_held_at_the_price_of_the_one_that_serves_it() -> None:
    world = World()
    found = await world.enforcer.estimate(ask(world, provider="x-ai", model="grok-3-mini"))
    assert found.price == price_of("grok-4.3", "x-ai")
    verdict = await world.enforcer.reserve(ask(world, provider="x-ai", model="grok-3-mini"))
    # Where the reply names itself, or a variant of its own, after all, it costs its own price.
    for named in ("grok-3-mini", "grok-3-mini-high"):
        itself = price_served(verdict.record, found.price, found.tariff, response_model=named, terms=NO_TERMS)
        assert itself == price_of("grok-3-mini", "x-ai")
    assert price_served(verdict.record, found.price, found.tariff, response_model=None, terms=NO_TERMS) is found.price


@pytest.mark.parametrize(
    ("provider", "model", "maker", "made"),
    [
        ("vercel-gateway", "anthropic/claude-sonnet-4", "anthropic", "claude-sonnet-4-0"),
        ("vercel-gateway", "xai/grok-4", "x-ai", "grok-4"),
        ("openrouter", "openai/text-embedding-3-small", "openai", "text-embedding-3-small"),
        ("openrouter", "OpenAI/Text-Embedding-3-Small", "openai", "text-embedding-3-small"),
        # What nobody has a price for, and vendors whose names of models only look alike, are a careful guess.
        ("openrouter", "nobody/gpt-4.1-nano", "openai", "gpt-4o"),
        ("openrouter", "text-embedding-3-small", "openai", "gpt-4o"),
        ("together", "anthropic/claude-sonnet-4", "openai", "gpt-4o"),
    ],
)
async def test_a_reseller_without_a_price_of_its_own_takes_the_makers(
    provider: str, model: str, maker: str, made: str
) -> None:
    world = World()
    found = await world.enforcer.estimate(ask(world, provider=provider, model=model))
    assert found.price == price_of(made, maker)
    verdict = await world.enforcer.reserve(ask(world, provider=provider, model=model))
    served = price_served(verdict.record, found.price, found.tariff, response_model=model, terms=NO_TERMS)
    assert served == found.price


# --- what exchanges teach ---


async def exchange(world: World, number: int, *, of_counted_percent: int, output: int = 40, choices: int = 1) -> None:
    """One exchange whose provider counts the input as so many percent of what is counted here."""
    verdict = await world.enforcer.reserve(ask(world, f"{id(world)}-{number}", choices=choices))
    estimate = verdict.decision.estimate
    assert estimate.counted_input_tokens is not None
    usage = Usage(input=estimate.counted_input_tokens * of_counted_percent // 100, output=output * choices)
    served = Ending(Outcome.SERVED, usage, UsageSource.REPORTED, status=200)
    await world.enforcer.end(verdict.record, estimate, served)


async def test_estimates_follow_what_was_reported() -> None:
    world = World(policy(limit(amount=10**15)))
    before = await world.enforcer.estimate(ask(world))
    for number in range(EXCHANGES_MIN):
        await exchange(world, number, of_counted_percent=120, choices=2)
        if number % 7 == 0:
            await world.enforcer.learn()
    await world.enforcer.learn()
    after = await world.enforcer.estimate(ask(world))
    assert after.expected.input == -(-before.expected.input * 120 // 100)
    assert after.maximum.input_tokens == -(-before.maximum.input_tokens * 120 // 100)
    assert after.counted_input_tokens == before.counted_input_tokens, "what was learned is not learned again"
    assert after.expected.output == 40
    assert before.expected.output == 750
    assert after.maximum.output_tokens == before.maximum.output_tokens
    short = await world.enforcer.estimate(ask(world, max_output_tokens=10))
    assert short.expected.output == 10


async def test_restarts_and_replicas_share_what_was_learned(tmp_path: Path) -> None:
    """On SQLite: two processes' stores on one file, and a third that is opened after both."""
    url = f"sqlite:///{tmp_path}/store.db"
    roomy = policy(limit(amount=10**15))
    replicas = [World(roomy, store=open_store(url)) for _ in range(2)]
    for world in replicas:
        for number in range(EXCHANGES_MIN // 2):
            await exchange(world, number, of_counted_percent=150)
    for world in (*replicas, *replicas):
        await world.enforcer.learn()
    for world in replicas:
        assert len(world.seen.corrections[-1].learned) == 2
        await world.store.close()
    restarted = World(roomy, store=open_store(url))
    before = await restarted.enforcer.estimate(ask(restarted))
    await restarted.enforcer.learn()
    after = await restarted.enforcer.estimate(ask(restarted))
    assert after.expected.input == -(-before.expected.input * 150 // 100)
    restarted.clock.ms += DAYS * DAY_MS
    await restarted.enforcer.learn()
    assert await restarted.enforcer.estimate(ask(restarted)) == replace(before, tariff=after.tariff)
    await restarted.store.close()


@pytest.mark.parametrize("reported", [0, 1, 2**62])
async def test_hostile_numbers_do_not_push_estimates_out_of_bounds(reported: int) -> None:
    world = World(policy(limit(Metric.REQUESTS, 10**9)))
    before = await world.enforcer.estimate(ask(world))
    for number in range(EXCHANGES_MIN):
        verdict = await world.enforcer.reserve(ask(world, str(number)))
        served = Ending(Outcome.SERVED, Usage(input=reported, output=reported), UsageSource.REPORTED, status=200)
        await world.enforcer.end(verdict.record, verdict.decision.estimate, served)
    await world.enforcer.learn()
    after = await world.enforcer.estimate(ask(world))
    assert before.expected.input // 2 <= after.expected.input <= before.expected.input * 2
    assert before.maximum.input_tokens <= after.maximum.input_tokens <= before.maximum.input_tokens * 2
    assert 0 < after.expected.output <= 1000


@pytest.mark.parametrize(
    "ending",
    [
        Ending(Outcome.SERVED, Usage(input=9999, output=5), UsageSource.COUNTED, status=200),
        Ending(Outcome.CUT, Usage(input=9999, output=5), UsageSource.REPORTED, status=200),
        Ending(Outcome.PROVIDER_ERROR, None, UsageSource.NONE, status=500),
    ],
)
async def test_only_replies_that_were_whole_and_reported_teach(ending: Ending) -> None:
    world = World(policy(limit(amount=10**15)))
    for number in range(EXCHANGES_MIN):
        verdict = await world.enforcer.reserve(ask(world, str(number)))
        await world.enforcer.end(verdict.record, verdict.decision.estimate, ending)
    await world.enforcer.learn()
    assert not world.seen.corrections[-1].learned


@pytest.mark.parametrize(
    "prompt", [Prompt((TEXT,), exact=False, hides_input=True), Prompt((TEXT,), exact=True)], ids=["hidden", "exact"]
)
async def test_hidden_input_and_exact_counts_teach_nothing_of_input(prompt: Prompt) -> None:
    world = World()
    model = "gpt-4o" if prompt.exact else "claude-sonnet-4-5"
    found = await world.enforcer.estimate(ask(world, provider="openai", model=model, prompt=prompt))
    assert found.counted_input_tokens is None


class OutOfReach(MemoryStore):
    """A store that cannot be reached while it is told to be."""

    gone = False

    async def count(self, deltas: Mapping[str, int], *, now_ms: int, keep_until_ms: int) -> None:
        if self.gone:
            raise StoreUnavailable("gone")
        await super().count(deltas, now_ms=now_ms, keep_until_ms=keep_until_ms)


async def test_lessons_outlast_a_store_that_cannot_be_reached() -> None:
    store = OutOfReach()
    world = World(policy(limit(amount=10**15)), store=store)
    for number in range(EXCHANGES_MIN):
        await exchange(world, number, of_counted_percent=120)
    store.gone = True
    with pytest.raises(StoreUnavailable):
        await world.enforcer.learn()
    store.gone = False
    await world.enforcer.learn()
    assert {found.exchanges for found in world.seen.corrections[-1].learned.values()} == {EXCHANGES_MIN}


# --- long prompts ---


def long_prompt() -> Prompt:
    return Prompt(("heron " * (BOUND_FIRST_CHARACTERS_MIN // 6 + 1),))


async def test_a_long_prompt_whose_bound_fits_is_not_counted() -> None:
    world = World(policy(limit(amount=10**12)))
    asked = ask(world, provider="openai", model="gpt-4o", prompt=long_prompt())
    assert asked.is_long
    verdict = await world.enforcer.reserve(asked)
    assert verdict.decision.allowed
    estimate = verdict.decision.estimate
    assert estimate.maximum.input_tokens == len(long_prompt().texts[0])
    assert estimate.counted_input_tokens is None


async def test_a_long_prompt_whose_bound_does_not_fit_is_counted() -> None:
    exact = World(policy(limit(amount=10**12)))
    asked = ask(exact, provider="openai", model="gpt-4o", prompt=long_prompt())
    counted = await exact.enforcer.estimate(asked)
    world = World(policy(limit(amount=counted.maximum_cost_nanos)))
    verdict = await world.enforcer.reserve(replace(asked, policy=world.policy))
    assert verdict.decision.allowed
    assert verdict.decision.estimate.maximum == counted.maximum
    tight = World(policy(limit(amount=counted.maximum_cost_nanos - 1)))
    refused = await tight.enforcer.reserve(replace(asked, policy=tight.policy))
    assert not refused.decision.allowed


class Gated(TokenCounter):
    """A counter that counts once it may, and gives up waiting after ten seconds."""

    def __init__(self) -> None:
        self.may_count = threading.Event()

    def count_prompt(self, prompt: Prompt, *, provider: str, model: str) -> TokenCount:
        assert self.may_count.wait(10), "the event loop waits for the count"
        return super().count_prompt(prompt, provider=provider, model=model)


async def test_counting_a_long_prompt_does_not_hold_up_the_event_loop() -> None:
    counter = Gated()
    world = World(policy(limit(amount=10**15)), counter=counter)
    counting = asyncio.create_task(
        world.enforcer.estimate(ask(world, provider="openai", model="gpt-4o", prompt=Prompt((TEXT * 20,))))
    )
    other = replace(ask(world, "other", provider="openai", model="gpt-4o"), input_tokens=5)
    for _ in range(3):
        await asyncio.sleep(0)
    assert (await world.enforcer.reserve(other)).decision.allowed
    assert not counting.done()
    counter.may_count.set()
    assert (await counting).expected.input > COUNT_INLINE_CHARACTERS_MAX // 10
