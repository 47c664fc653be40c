"""Estimate, reserve, settle, over real stores, counter and prices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from policyd.core.errors import (
    AttributeMissing,
    ModelUnpriced,
    OutputUnbounded,
    ReservationEnded,
    ReservationMismatch,
    StoreUnavailable,
)
from policyd.core.estimate import Confidence, Estimate
from policyd.core.policy import (
    Action,
    Hold,
    Match,
    Metric,
    OnExpiry,
    Policy,
    Reservations,
    Unbounded,
    UnknownModel,
    UnknownModelAction,
)
from policyd.core.record import Outcome, UsageSource
from policyd.core.reservation import State
from policyd.core.usage import Usage
from policyd.core.windows import CalendarUnit, CalendarWindow
from policyd.enforcer import Ending, Verdict
from policyd.estimator import COUNT_INLINE_CHARACTERS_MAX, Ask, output_token_amounts
from policyd.providers.base import CacheWrite, Prompt, RequestFacts
from policyd.stores.base import Store, UsageFilter
from policyd.stores.url import open_store
from tests.builders import NOW_MS, World, limit, policy, price_of, published_prices

PRICE = price_of("gpt-4o")
INPUT, OUTPUT = 1000, 200
HELD = PRICE.cost_nanos(Usage(input=INPUT, output=OUTPUT))
"""What `ask()` holds."""
USED = Usage(input=900, output=50)

SERVED = Ending(Outcome.SERVED, USED, UsageSource.REPORTED, status=200)
RELEASED = Ending(Outcome.PROVIDER_ERROR, None, UsageSource.NONE, status=500, error="http_500")


def ask(
    world: World,
    request_id: str = "r1",
    *,
    model: str = "gpt-4o",
    provider: str = "openai",
    input_tokens: int | None = INPUT,
    identity: dict[str, str] | None = None,
    **facts: Any,
) -> Ask:
    """A request of 1000 input tokens and 200 output tokens at most."""
    plain = RequestFacts(model, streamed=False, prompt=Prompt(()), max_output_tokens=OUTPUT)
    return Ask(
        request_id=request_id,
        provider=provider,
        endpoint="chat.completions",
        facts=replace(plain, **facts),
        identity=identity or {},
        policy=world.policy,
        input_tokens=input_tokens,
    )


async def estimate(policy: Policy, **facts: Any) -> Estimate:
    world = World(policy)
    return await world.enforcer.estimate(ask(world, **facts))


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened = open_store("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/store.db")
    yield opened
    await opened.close()


class TestEstimate:
    async def test_bounded_by_the_client(self) -> None:
        found = await estimate(policy())
        assert found.maximum == Usage(input=INPUT, output=OUTPUT)
        assert found.expected == Usage(input=INPUT, output=OUTPUT * 75 // 100)
        assert (found.confidence, found.bounded) == (Confidence.HIGH, True)
        assert found.maximum_cost_nanos == HELD
        assert found.expected_cost_nanos == PRICE.cost_nanos(found.expected)

    async def test_a_clients_maximum_is_never_capped(self) -> None:
        found = await estimate(policy(default_max_output_tokens=10), max_output_tokens=50_000)
        assert found.maximum.output == 50_000

    async def test_a_maximum_of_nothing(self) -> None:
        found = await estimate(policy(), max_output_tokens=0)
        assert (found.maximum.output, found.expected.output, found.bounded) == (0, 0, True)

    async def test_unbounded(self) -> None:
        found = await estimate(policy(default_max_output_tokens=1000), max_output_tokens=None)
        assert (found.maximum.output, found.expected.output) == (1000, 500)
        assert (found.confidence, found.bounded) == (Confidence.MEDIUM, False)

    async def test_unbounded_near_the_end_of_the_context_window(self) -> None:
        priced = published_prices().find(provider="openai", model="gpt-4o", at_ms=NOW_MS)
        assert priced is not None
        assert priced.context_tokens_max is not None
        window = priced.context_tokens_max
        found = await estimate(policy(), input_tokens=window - 100, max_output_tokens=None)
        assert (found.maximum.output, found.expected.output) == (100, 100)
        beyond = await estimate(policy(), input_tokens=window + 1, max_output_tokens=None)
        assert beyond.maximum.output == 1

    async def test_a_maximum_that_policyd_sets_bounds(self) -> None:
        found = await estimate(policy(unbounded=Unbounded.SET_MAXIMUM), max_output_tokens=None)
        assert (found.maximum.output, found.bounded, found.confidence) == (4096, True, Confidence.MEDIUM)

    async def test_unbounded_denied(self) -> None:
        denies = policy(unbounded=Unbounded.DENY)
        with pytest.raises(OutputUnbounded):
            await estimate(denies, max_output_tokens=None)
        assert (await estimate(denies)).bounded

    async def test_choices_multiply_the_output_and_not_the_input(self) -> None:
        found = await estimate(policy(), choices=3)
        assert found.maximum == Usage(input=INPUT, output=3 * OUTPUT)
        assert found.expected == Usage(input=INPUT, output=3 * (OUTPUT * 75 // 100))

    async def test_the_prompt_is_counted_where_nobody_did(self) -> None:
        found = await estimate(policy(), input_tokens=None, prompt=Prompt((" hello" * 7,), overhead_tokens=3))
        assert found.maximum.input == 10
        assert found.confidence is Confidence.HIGH

    async def test_a_long_prompt_is_counted_in_a_thread_and_counts_the_same(self) -> None:
        words = COUNT_INLINE_CHARACTERS_MAX // len(" hello")
        for number in (words, words + 1):
            found = await estimate(policy(), input_tokens=None, prompt=Prompt((" hello" * number,)))
            assert found.maximum.input == number

    async def test_a_count_that_is_not_exact(self) -> None:
        found = await estimate(policy(), input_tokens=None, prompt=Prompt((" hello" * 100,), exact=False))
        assert found.confidence is Confidence.LOW
        assert found.maximum.input > found.expected.input == 100

    @pytest.mark.parametrize(
        ("cache_write", "kind"),
        [(CacheWrite.NONE, "input"), (CacheWrite.SHORT, "cache_write_5m"), (CacheWrite.LONG, "cache_write_1h")],
    )
    async def test_input_is_held_as_the_dearest_kind_that_it_can_be(self, cache_write: CacheWrite, kind: str) -> None:
        found = await estimate(policy(), provider="anthropic", model="claude-sonnet-4-5", cache_write=cache_write)
        assert found.maximum == Usage(output=OUTPUT)._replace(**{kind: INPUT})
        assert found.expected.input == INPUT

    async def test_searches_are_held_for(self) -> None:
        found = await estimate(
            policy(), provider="anthropic", model="claude-sonnet-4-5", pieces_max=Usage(web_searches=5)
        )
        assert found.maximum.web_searches == 5
        price = price_of("claude-sonnet-4-5", "anthropic")
        assert found.maximum_cost_nanos == price.cost_nanos(Usage(input=INPUT, output=OUTPUT, web_searches=5))
        assert found.maximum_cost_nanos > price.cost_nanos(Usage(input=INPUT, output=OUTPUT))

    async def test_an_output_token_is_held_at_no_less_than_it_costs(self) -> None:
        found = await estimate(policy(), model="gpt-4o-mini")
        amounts = output_token_amounts(found)
        assert amounts[Metric.TOKENS] == amounts[Metric.OUTPUT_TOKENS] == 1
        for tokens in (1, 7, 1000):
            assert tokens * amounts[Metric.COST] >= price_of("gpt-4o-mini").cost_nanos(Usage(output=tokens))


class TestUnknownModels:
    async def test_are_priced_as_another(self) -> None:
        found = await estimate(policy(), model="nobody-knows-me")
        assert found.maximum_cost_nanos == HELD
        mini = policy(unknown_model=UnknownModel(UnknownModelAction.PRICE_AS, "gpt-4o-mini"))
        assert (await estimate(mini, model="nobody-knows-me")).price == price_of("gpt-4o-mini")

    async def test_of_a_provider_without_prices(self) -> None:
        found = await estimate(policy(), provider="acme", model="claude-sonnet-4-5")
        assert found.price == PRICE

    async def test_as_one_that_has_no_price_either_are_refused(self) -> None:
        broken = policy(unknown_model=UnknownModel(UnknownModelAction.PRICE_AS, "nor me"))
        with pytest.raises(ModelUnpriced):
            await estimate(broken, model="nobody-knows-me")

    async def test_denied(self) -> None:
        with pytest.raises(ModelUnpriced, match="'nobody-knows-me' has no known price at openai"):
            await estimate(policy(unknown_model=UnknownModel(UnknownModelAction.DENY, None)), model="nobody-knows-me")

    async def test_free_is_free_of_cost_alone(self) -> None:
        free = policy(
            limit(amount=1),
            limit(Metric.TOKENS, INPUT + OUTPUT, name="tokens"),
            unknown_model=UnknownModel(UnknownModelAction.FREE, None),
        )
        world = World(free)
        asked = ask(world, model="nobody-knows-me")
        verdict = await world.enforcer.reserve(asked)
        assert verdict.decision.allowed
        assert (await world.enforcer.reserve(replace(asked, request_id="r2"))).record.denied_by == ("tokens",)
        record = await world.enforcer.end(verdict.record, verdict.decision.estimate, SERVED)
        assert record.actual_cost_nanos == 0
        assert await world.spent("tokens") == USED.tokens

    async def test_no_context_window_is_guessed(self) -> None:
        found = await estimate(policy(), model="nobody-knows-me", input_tokens=10**7, max_output_tokens=None)
        assert found.maximum.output == 4096


class TestReserve:
    async def test_holds_on_every_limit(self, store: Store) -> None:
        limits = (
            limit(),
            limit(Metric.TOKENS, 10_000, name="tokens"),
            limit(Metric.INPUT_TOKENS, 10_000, name="input"),
            limit(Metric.OUTPUT_TOKENS, 10_000, name="output", hold=Hold.EXPECTED),
            limit(Metric.REQUESTS, 10, name="requests"),
            limit(Metric.CONCURRENT_REQUESTS, 10, name="at once"),
        )
        world = World(policy(*limits), store=store)
        verdict = await world.enforcer.reserve(ask(world))
        assert verdict.decision.allowed
        assert (verdict.record.decision, verdict.record.outcome) == ("allow", Outcome.SERVED)
        assert verdict.record.estimated_cost_nanos == HELD
        assert (await world.books()).reserved == {
            "budget": HELD,
            "tokens": INPUT + OUTPUT,
            "input": INPUT,
            "output": OUTPUT * 75 // 100,
            "requests": 1,
            "at once": 1,
        }
        await world.enforcer.end(verdict.record, verdict.decision.estimate, SERVED)
        books = await world.books()
        assert not any(books.reserved.values())
        assert books.spent == {
            "budget": PRICE.cost_nanos(USED),
            "tokens": USED.tokens,
            "input": USED.input,
            "output": USED.output,
            "requests": 1,
            "at once": 0,
        }

    async def test_all_or_nothing(self, store: Store) -> None:
        world = World(policy(limit(), limit(Metric.TOKENS, 10, name="tokens", status=429)), store=store)
        verdict = await world.enforcer.reserve(ask(world))
        assert not verdict.decision.allowed
        assert (verdict.record.decision, verdict.record.outcome) == ("deny", Outcome.DENIED)
        assert verdict.record.denied_by == ("tokens",)
        assert verdict.expires_at_ms is None
        assert await world.spent() == 0

    async def test_counts_a_shadow_limit_and_lets_pass(self) -> None:
        world = World(policy(limit(amount=1, action=Action.SHADOW)))
        verdict = await world.enforcer.reserve(ask(world))
        assert verdict.decision.allowed
        assert verdict.record.shadow_denied_by == ("budget",)
        assert (await world.books()).reserved == {"budget": HELD}

    async def test_sets_a_maximum_for_each_choice(self) -> None:
        world = World(policy(unbounded=Unbounded.SET_MAXIMUM, default_max_output_tokens=70))
        assert (await world.enforcer.reserve(ask(world))).max_output_tokens is None
        verdict = await world.enforcer.reserve(ask(world, "r2", max_output_tokens=None, choices=3))
        assert verdict.max_output_tokens == 70
        assert verdict.decision.estimate.maximum.output == 210

    async def test_counts_apart_for_every_scope(self) -> None:
        per_user = limit(amount=HELD, per=("user", "model"))
        world = World(policy(per_user))
        for number, (user, model) in enumerate([("ann", "gpt-4o"), ("bob", "gpt-4o"), ("ann", "gpt-4o-mini")]):
            verdict = await world.enforcer.reserve(ask(world, f"r{number}", model=model, identity={"user": user}))
            assert verdict.decision.allowed
        verdict = await world.enforcer.reserve(ask(world, "again", identity={"user": "ann"}))
        assert verdict.record.denied_by == ("budget",)
        (report,) = verdict.decision.denials
        assert report.scope == "user=ann,model=gpt-4o"

    async def test_only_where_the_match_fits(self) -> None:
        world = World(policy(limit(amount=1, match=Match({"model": ("gpt-4o*",), "tier": ("free",)}))))
        assert (await world.enforcer.reserve(ask(world, "1", identity={"tier": "paid"}))).decision.allowed
        assert (await world.enforcer.reserve(ask(world, "2", model="o3", identity={"tier": "free"}))).decision.allowed
        assert not (await world.enforcer.reserve(ask(world, "3", identity={"tier": "free"}))).decision.allowed

    async def test_strict_asks_for_who_it_is(self) -> None:
        world = World(policy(limit(per=("user",)), strict=True))
        with pytest.raises(AttributeMissing):
            await world.enforcer.reserve(ask(world))
        assert (await world.enforcer.reserve(ask(world, identity={"user": "ann"}))).decision.allowed

    async def test_no_identity_source_can_pass_for_what_the_request_says(self) -> None:
        world = World(policy(limit(amount=1, match=Match({"model": ("gpt-4o",)}))))
        verdict = await world.enforcer.reserve(ask(world, identity={"model": "something-else"}))
        assert verdict.record.denied_by == ("budget",)

    async def test_keeps_the_policy_that_the_exchange_began_with(self) -> None:
        world = World(policy(limit(amount=1)))
        asked = ask(world)
        world.policy = policy()
        assert not (await world.enforcer.reserve(asked)).decision.allowed

    async def test_another_content_under_the_same_id(self, store: Store) -> None:
        world = World(store=store)
        await world.enforcer.reserve(ask(world), fingerprint="one")
        again = await world.enforcer.reserve(ask(world), fingerprint="one")
        assert again.earlier is State.RESERVED
        assert again.expires_at_ms == NOW_MS + 120_000
        with pytest.raises(ReservationMismatch):
            await world.enforcer.reserve(ask(world), fingerprint="two")
        assert (await world.books()).reserved == {"budget": HELD}

    async def test_check_holds_nothing(self, store: Store) -> None:
        world = World(policy(limit(amount=HELD)), store=store)
        assert (await world.enforcer.check(ask(world))).allowed
        assert (await world.enforcer.check(ask(world))).allowed
        await world.enforcer.reserve(ask(world))
        assert not (await world.enforcer.check(ask(world, "r2"))).allowed
        assert (await world.books()).open_reservations == 1


class TestEnd:
    async def reserved(self, world: World, **facts: Any) -> Verdict:
        verdict = await world.enforcer.reserve(ask(world, **facts))
        assert verdict.decision.allowed
        return verdict

    async def end(self, world: World, verdict: Verdict, ending: Ending) -> int:
        record = await world.enforcer.end(verdict.record, verdict.decision.estimate, ending)
        assert record.actual_cost_nanos is not None
        return record.actual_cost_nanos

    async def test_settling(self, store: Store) -> None:
        world = World(store=store)
        verdict = await self.reserved(world)
        world.enforcer.keep_alive("r1")
        world.clock.ms += 250
        assert await self.end(world, verdict, SERVED) == PRICE.cost_nanos(USED)
        assert await world.spent() == PRICE.cost_nanos(USED)
        assert (world.record.duration_ms, world.record.status) == (250, 200)
        assert (await store.usage(UsageFilter(), limit=10)).records == (world.record,)

    async def test_releasing(self, store: Store) -> None:
        world = World(store=store)
        verdict = await self.reserved(world)
        assert await self.end(world, verdict, RELEASED) == 0
        assert await world.spent() == 0
        assert (world.record.outcome, world.record.error) == (Outcome.PROVIDER_ERROR, "http_500")

    @pytest.mark.parametrize("ending", [SERVED, RELEASED])
    async def test_twice_is_once(self, store: Store, ending: Ending) -> None:
        world = World(store=store)
        verdict = await self.reserved(world)
        first = await self.end(world, verdict, ending)
        await self.end(world, verdict, ending)
        assert await world.spent() == first
        assert len(world.seen.records) == 1

    async def test_otherwise_than_before_is_refused(self, store: Store) -> None:
        world = World(store=store)
        verdict = await self.reserved(world)
        await self.end(world, verdict, SERVED)
        with pytest.raises(ReservationEnded):
            await self.end(world, verdict, RELEASED)
        assert await world.spent() == PRICE.cost_nanos(USED)

    async def test_more_than_was_held_is_charged_in_full(self, store: Store) -> None:
        world = World(policy(limit(amount=HELD)), store=store)
        verdict = await self.reserved(world)
        used = Usage(input=INPUT, output=10 * OUTPUT)
        await self.end(world, verdict, structs.replace(SERVED, usage=used))
        assert await world.spent() == PRICE.cost_nanos(used) > HELD

    async def test_the_model_that_served_decides_the_price(self) -> None:
        world = World()
        verdict = await self.reserved(world)
        cost = await self.end(world, verdict, structs.replace(SERVED, response_model="gpt-4o-mini"))
        assert cost == price_of("gpt-4o-mini").cost_nanos(USED)
        assert world.record.response_model == "gpt-4o-mini"

    async def test_a_served_model_without_a_price_costs_what_was_asked_for(self) -> None:
        world = World()
        verdict = await self.reserved(world)
        assert await self.end(
            world, verdict, structs.replace(SERVED, response_model="nobody-knows-me")
        ) == PRICE.cost_nanos(USED)

    async def test_the_terms_that_served_decide_the_price(self) -> None:
        claude = {"provider": "anthropic", "model": "claude-opus-4-8"}
        fast = published_prices().find(**claude, at_ms=NOW_MS, terms={"speed": "fast"})
        standard = price_of("claude-opus-4-8", "anthropic")
        assert fast is not None
        assert fast.price.cost_nanos(USED) > standard.cost_nanos(USED)
        asked = {**claude, "terms": {"speed": "fast"}}
        # A reply that names a snapshot and no terms was served on those that were asked for.
        world = World()
        snapshot = structs.replace(SERVED, response_model="claude-opus-4-8-20260115")
        assert await self.end(world, await self.reserved(world, **asked), snapshot) == fast.price.cost_nanos(USED)
        world = World()
        slow = structs.replace(SERVED, terms={"speed": "standard"})
        assert await self.end(world, await self.reserved(world, **asked), slow) == standard.cost_nanos(USED)

    async def test_a_model_that_the_policy_makes_free_stays_free(self) -> None:
        world = World(policy(unknown_model=UnknownModel(UnknownModelAction.FREE, None)))
        verdict = await self.reserved(world, model="nobody-knows-me")
        assert await self.end(world, verdict, structs.replace(SERVED, response_model="gpt-4o")) == 0

    async def test_the_window_of_the_reservation_is_charged(self) -> None:
        world = World(policy(limit(window=CalendarWindow(CalendarUnit.MINUTE))))
        verdict = await self.reserved(world)
        world.clock.ms += 60_000
        await self.end(world, verdict, SERVED)
        assert await world.spent() == 0
        world.clock.ms -= 60_000
        assert await world.spent() == PRICE.cost_nanos(USED)

    async def test_what_holds_nothing_is_stored_and_reported(self, store: Store) -> None:
        world = World(policy(limit(amount=1)), store=store)
        verdict = await world.enforcer.reserve(ask(world))
        world.clock.ms += 3
        await world.enforcer.end_unheld(verdict.record)
        assert (world.record.outcome, world.record.actual_cost_nanos, world.record.duration_ms) == (
            Outcome.DENIED,
            0,
            3,
        )
        assert (await store.usage(UsageFilter(), limit=10)).records == (world.record,)

    async def test_a_store_that_fails_is_counted(self) -> None:
        world = World()
        await world.store.close()
        with pytest.raises(StoreUnavailable):
            await world.enforcer.reserve(ask(world))
        assert world.seen.store_calls == [("reserve", True)]

    async def test_what_the_store_refuses_is_no_failure_of_it(self) -> None:
        world = World()
        verdict = await self.reserved(world)
        await self.end(world, verdict, SERVED)
        with pytest.raises(ReservationEnded):
            await self.end(world, verdict, RELEASED)
        assert world.seen.store_calls == [("reserve", False), ("settle", False), ("release", False)]


class TestExtend:
    async def test_holds_more_on_every_limit(self, store: Store) -> None:
        limits = (limit(), limit(Metric.OUTPUT_TOKENS, 1000, name="output"), limit(Metric.REQUESTS, 5, name="requests"))
        world = World(policy(*limits), store=store)
        verdict = await world.enforcer.reserve(ask(world))
        granted = await world.enforcer.extend("r1", verdict.decision.estimate, wanted_tokens=100, at_least_tokens=1)
        assert granted == 100
        books = await world.books()
        assert books.reserved == {
            "budget": PRICE.cost_nanos(Usage(input=INPUT, output=OUTPUT + 100)),
            "output": OUTPUT + 100,
            "requests": 1,
        }

    @pytest.mark.parametrize(("at_least", "granted"), [(1, 30), (30, 30), (31, 0)])
    async def test_as_far_as_there_is_room(self, store: Store, at_least: int, granted: int) -> None:
        room = PRICE.cost_nanos(Usage(input=INPUT, output=OUTPUT + 30))
        world = World(policy(limit(amount=room)), store=store)
        verdict = await world.enforcer.reserve(ask(world))
        estimate = verdict.decision.estimate
        assert await world.enforcer.extend("r1", estimate, wanted_tokens=100, at_least_tokens=at_least) == granted


class TestTime:
    async def reserved(self, world: World, request_id: str = "r1") -> Verdict:
        verdict = await world.enforcer.reserve(ask(world, request_id))
        assert verdict.decision.allowed
        return verdict

    async def test_only_what_is_kept_alive_is_renewed(self, store: Store) -> None:
        world = World(store=store)
        await self.reserved(world, "kept")
        await self.reserved(world, "left")
        await self.reserved(world, "let go")
        world.enforcer.keep_alive("kept")
        world.enforcer.keep_alive("let go")
        world.enforcer.let_go("let go")
        assert world.enforcer.open_reservations == 1
        for _ in range(3):
            world.clock.ms += 100_000
            await world.enforcer.renew_open()
            await world.enforcer.sweep()
        assert {record.request_id for record in world.seen.records} == {"left", "let go"}
        assert (await store.get("kept")).state is State.RESERVED

    async def test_nothing_is_asked_of_the_store_where_nothing_is_open(self) -> None:
        world = World()
        await world.enforcer.renew_open()
        assert world.seen.store_calls == []

    async def test_expiry_waits_for_the_grace(self, store: Store) -> None:
        world = World(policy(reservations=Reservations(ttl_seconds=120, grace_seconds=5)), store=store)
        await self.reserved(world)
        world.clock.ms += 124_999
        await world.enforcer.sweep()
        assert world.seen.records == []
        world.clock.ms += 1
        await world.enforcer.sweep()
        assert world.record.outcome is Outcome.EXPIRED

    @pytest.mark.parametrize(
        ("on_expiry", "charged"),
        [
            (OnExpiry.HOLD, HELD),
            (OnExpiry.EXPECTED, PRICE.cost_nanos(Usage(input=INPUT, output=OUTPUT * 75 // 100))),
            (OnExpiry.NOTHING, 0),
        ],
    )
    async def test_what_expiry_charges(self, store: Store, on_expiry: OnExpiry, charged: int) -> None:
        limits = (limit(), limit(Metric.CONCURRENT_REQUESTS, 1, name="at once"))
        world = World(policy(*limits, reservations=Reservations(on_expiry=on_expiry)), store=store)
        verdict = await self.reserved(world)
        world.clock.ms += 126_000
        await world.enforcer.sweep()
        assert world.record.actual_cost_nanos == charged
        assert await world.spent() == charged
        assert await world.spent("at once") == 0
        # A late settle corrects it.
        await world.enforcer.end(verdict.record, verdict.decision.estimate, SERVED)
        assert await world.spent() == PRICE.cost_nanos(USED)
        assert world.seen.records[-1].outcome is Outcome.SERVED

    async def test_sweeps_are_reported(self) -> None:
        world = World()
        await self.reserved(world, "r1")
        await world.enforcer.sweep()
        assert [(swept.expired, swept.open_reservations) for swept in world.seen.sweeps] == [((), 1)]

    async def test_what_is_old_is_forgotten(self, store: Store) -> None:
        world = World(policy(reservations=Reservations(ended_kept_seconds=3600, usage_kept_days=2)), store=store)
        verdict = await self.reserved(world)
        await world.enforcer.end(verdict.record, verdict.decision.estimate, SERVED)
        world.clock.ms += 2 * 86_400_000
        await world.enforcer.sweep()
        assert (await store.usage(UsageFilter(), limit=10)).records == (world.record,)
        assert (await self.reserved(world)).earlier is None
        world.clock.ms += 1
        await world.enforcer.sweep()
        assert (await store.usage(UsageFilter(), limit=10)).records == ()


class TestConcurrency:
    @pytest.mark.parametrize("affordable", [0, 1, 10, 199])
    async def test_200_at_once_never_overspend_a_budget(self, store: Store, affordable: int) -> None:
        world = World(policy(limit(amount=affordable * HELD + HELD - 1)), store=store)
        verdicts = await asyncio.gather(*(world.enforcer.reserve(ask(world, f"r{each}")) for each in range(200)))
        allowed = [verdict for verdict in verdicts if verdict.decision.allowed]
        assert len(allowed) == affordable
        assert (await world.books()).reserved == {"budget": affordable * HELD}
        await asyncio.gather(
            *(world.enforcer.end(verdict.record, verdict.decision.estimate, SERVED) for verdict in allowed)
        )
        assert await world.spent() == affordable * PRICE.cost_nanos(USED)

    async def test_200_at_once_that_reserve_grow_and_end(self, store: Store) -> None:
        budget = 20 * HELD
        world = World(policy(limit(amount=budget), limit(Metric.CONCURRENT_REQUESTS, 15, name="at once")), store=store)

        async def exchange(number: int) -> bool:
            verdict = await world.enforcer.reserve(ask(world, f"r{number}"))
            if not verdict.decision.allowed:
                return False
            estimate = verdict.decision.estimate
            granted = await world.enforcer.extend(f"r{number}", estimate, wanted_tokens=OUTPUT, at_least_tokens=1)
            books = await world.books()
            assert books.spent["budget"] + books.reserved["budget"] <= budget
            assert books.reserved["at once"] <= 15
            used = Usage(input=INPUT, output=OUTPUT + granted)
            await world.enforcer.end(verdict.record, estimate, structs.replace(SERVED, usage=used))
            return True

        served = await asyncio.gather(*(exchange(number) for number in range(200)))
        assert 0 < sum(served) <= 20
        assert 0 < await world.spent() <= budget
        assert len(world.seen.records) == sum(served)
