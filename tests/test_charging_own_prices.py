"""The operator's own prices, from the policy file to the ledger: estimated, held and settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from policyd.config import parse_policy
from policyd.core.errors import ConfigError, ModelUnpriced
from policyd.core.policy import Action, Policy
from policyd.core.price_book import PriceBook
from policyd.core.record import Outcome, UsageSource
from policyd.core.usage import Usage
from policyd.enforcer import Ending, Verdict, reported_ending
from policyd.estimator import Ask
from policyd.price_finding import check_models
from policyd.prices.table import Model, Prices, Provider, Table, price_book
from policyd.providers.base import Prompt, RequestFacts
from tests.builders import NOW_MS, World, price_of, published_prices

DAY_MS = 86_400_000
AUTUMN_MS = NOW_MS + 180 * DAY_MS
"""When OpenAI's priority prices are in the table."""
PUBLISHED = price_of("gpt-4o")
USED = Usage(input=1000, output=100)
OWN_NANOS = 1000 * 2_000 + 100 * 8_000
"""What `USED` costs at 2 USD for a million input tokens and 8 USD for a million output tokens."""


PRIORITY = {"service_tier": "priority"}


def policy(prices: str, *, unknown_model: str = "deny") -> Policy:
    return parse_policy(
        f"version: 1\nunknown_model: {unknown_model}\nprices: {prices}\n"
        "limits: [{name: budget, cost_usd: 10.00, window: lifetime}]",
        source="policyd.yaml",
    )


TWO_AND_EIGHT = '[{model: "gpt-4o*", usd_per_million: {input: 2.00, output: 8.00}}]'
ONLY_GPT_4O = "[{model: gpt-4o, usd_per_million: {input: 2.00, output: 8.00}}]"


def ask(
    world: World, *, model: str = "gpt-4o", provider: str = "openai", terms: Mapping[str, str] | None = None
) -> Ask:
    facts = RequestFacts(model, streamed=False, prompt=Prompt(()), max_output_tokens=100, terms=terms or {})
    return Ask("r1", provider, "chat.completions", facts, identity={}, policy=world.policy, input_tokens=1000)


async def reserved(world: World, **asked: Any) -> Verdict:
    verdict = await world.enforcer.reserve(ask(world, **asked), fingerprint="f")
    assert verdict.decision.allowed
    return verdict


async def charged(world: World, verdict: Verdict, *, served: str | None = None, **ending: Any) -> int:
    """What the exchange of `verdict` is charged for `USED`, of the model `served`."""
    made = Ending(Outcome.SERVED, USED, UsageSource.REPORTED, status=200, response_model=served, **ending)
    await world.enforcer.end(verdict.record, verdict.decision.estimate, made)
    return await world.spent()


async def test_what_is_held_and_charged() -> None:
    world = World(policy(TWO_AND_EIGHT))
    verdict = await reserved(world)
    assert verdict.record.estimated_cost_nanos == OWN_NANOS
    assert await charged(world, verdict) == OWN_NANOS


async def test_a_model_of_a_provider_that_nobody_knows() -> None:
    world = World(policy('[{provider: mine, model: "my-*", usd_per_million: {input: 2.00, output: 8.00}}]'))
    assert await charged(world, await reserved(world, provider="mine", model="my-llama")) == OWN_NANOS
    with pytest.raises(ModelUnpriced):
        await world.enforcer.estimate(ask(world, provider="theirs", model="my-llama"))


async def test_zero_is_free() -> None:
    world = World(policy("[{model: my-llama, usd_per_million: {input: 0, output: 0}}]"))
    verdict = await reserved(world, provider="mine", model="my-llama")
    assert verdict.record.estimated_cost_nanos == 0
    assert await charged(world, verdict) == 0


async def test_the_price_of_the_requests_moment_counts() -> None:
    prices = "[{model: gpt-4o, from: 2026-05-16, usd_per_million: {input: 2.00, output: 8.00}}]"
    world = World(policy(prices))
    verdict = await reserved(world)
    world.clock.ms += DAY_MS
    assert await charged(world, verdict) == PUBLISHED.cost_nanos(USED)
    world = World(policy(prices))
    world.clock.ms += DAY_MS
    assert await charged(world, await reserved(world)) == OWN_NANOS


# Which price counts once the reply is there


async def test_the_name_in_the_reply_may_have_an_own_price() -> None:
    world = World(policy("[{model: gpt-4o-2024-08-06, usd_per_million: {input: 2.00, output: 8.00}}]"))
    verdict = await reserved(world)
    assert verdict.record.estimated_cost_nanos == PUBLISHED.cost_nanos(USED)
    assert await charged(world, verdict, served="gpt-4o-2024-08-06") == OWN_NANOS


async def test_an_own_price_of_the_asked_name_stays_where_the_reply_names_a_published_model() -> None:
    world = World(policy(ONLY_GPT_4O))
    assert await charged(world, await reserved(world), served="gpt-4o-2024-08-06") == OWN_NANOS
    # A deployment, whose own name says nothing of the model behind it.
    world = World(policy("[{provider: azure, model: deployed, usd_per_million: {input: 2.00, output: 8.00}}]"))
    verdict = await reserved(world, provider="azure", model="deployed")
    assert await charged(world, verdict, served="gpt-4o-2024-08-06") == OWN_NANOS


async def test_an_own_price_of_the_served_name_goes_before_that_of_the_asked_one() -> None:
    served = "{model: gpt-4o-mini, usd_per_million: {input: 0.10, output: 0.40}}"
    world = World(policy(f"[{ONLY_GPT_4O[1:-1]}, {served}]"))
    assert await charged(world, await reserved(world), served="gpt-4o-mini") == OWN_NANOS // 20


@pytest.mark.parametrize(
    ("asked", "served", "nanos"),
    [
        ({}, {}, OWN_NANOS),
        ({"service_tier": "flex"}, {}, OWN_NANOS // 2),
        ({"service_tier": "flex"}, {"service_tier": "standard"}, OWN_NANOS),
        ({}, {"service_tier": "flex"}, OWN_NANOS // 2),
    ],
)
async def test_the_terms_that_served_decide(asked: dict[str, str], served: dict[str, str], nanos: int) -> None:
    standard = "{model: mine, usd_per_million: {input: 2.00, output: 8.00}}"
    flex = "{model: mine, terms: {service_tier: flex}, usd_per_million: {input: 1.00, output: 4.00}}"
    world = World(policy(f"[{standard}, {flex}]"))
    verdict = await reserved(world, provider="mine", model="mine", terms=asked)
    assert await charged(world, verdict, served="another-name", terms=served) == nanos


@pytest.mark.parametrize("asked", [PRIORITY, {}])
async def test_service_tiers_that_the_table_sells_apart_stay_as_they_are(asked: dict[str, str]) -> None:
    published = published_prices().find(provider="openai", model="gpt-5", at_ms=AUTUMN_MS, terms=PRIORITY)
    assert published is not None
    world = World(policy("[{model: gpt-5, usd_per_million: {input: 2.00, output: 8.00}}]"))
    world.clock.ms = AUTUMN_MS
    verdict = await reserved(world, model="gpt-5", terms=asked)
    assert await charged(world, verdict, terms=PRIORITY) == published.price.cost_nanos(USED)


async def test_a_service_tier_that_the_table_does_not_sell_apart_is_sold_at_the_own_price() -> None:
    world = World(policy("[{model: gpt-5, usd_per_million: {input: 2.00, output: 8.00}}]"))
    assert await charged(world, await reserved(world, model="gpt-5"), terms={"service_tier": "default"}) == OWN_NANOS


# What changes meanwhile


async def test_an_exchange_keeps_the_prices_it_began_with() -> None:
    world = World(policy(TWO_AND_EIGHT))
    verdict = await reserved(world)
    world.policy = policy('[{model: "gpt-4o*", usd_per_million: {input: 20.00, output: 80.00}}]')
    world.enforcer.use_prices(table_of(gpt_4o_mini=7))
    assert await charged(world, verdict, served="gpt-4o-2024-08-06") == OWN_NANOS


async def test_an_exchange_keeps_the_table_it_began_with() -> None:
    world = World(policy("[]"))
    verdict = await reserved(world)
    world.enforcer.use_prices(table_of(gpt_4o_mini=7))
    assert await charged(world, verdict, served="gpt-4o-mini") == price_of("gpt-4o-mini").cost_nanos(USED)


async def test_what_begins_after_a_new_table_goes_by_it() -> None:
    world = World(policy("[]"))
    world.enforcer.use_prices(table_of(gpt_4o=3))
    assert await charged(world, await reserved(world)) == USED.tokens * 3


def table_of(**nanos_by_model: int) -> PriceBook:
    """A table of OpenAI's in which every token of a model costs the same."""
    models = tuple(
        Model(
            id=name.replace("_", "-"),
            names=(name.replace("_", "-"),),
            prices=(Prices(tiers=((0, {"input": (nanos, 1), "output": (nanos, 1)}),)),),
        )
        for name, nanos in nanos_by_model.items()
    )
    return price_book(Table(source="ours", providers=(Provider(id="openai", models=models),)))


# What other services reserve and report


async def test_a_reservation_by_its_id_goes_by_the_policy_of_now() -> None:
    world = World(policy(TWO_AND_EIGHT))
    await reserved(world)
    world.policy = policy('[{model: "gpt-4o*", usd_per_million: {input: 20.00, output: 80.00}}]')
    await world.enforcer.end_held("r1", reported_ending(USED))
    assert await world.spent() == 10 * OWN_NANOS


async def test_a_usage_that_is_reported_afterwards() -> None:
    world = World(policy(TWO_AND_EIGHT))
    for _ in range(2):
        await world.enforcer.record_usage(ask(world), USED, fingerprint="f")
    assert await world.spent() == OWN_NANOS


# The guess


async def test_unknown_models_may_be_priced_as_one_with_an_own_price() -> None:
    prices = "[{provider: mine, model: dear, usd_per_million: {input: 2.00, output: 8.00}}]"
    guessing = policy(prices, unknown_model="{price_as: dear}")
    check_models(guessing, published_prices(), now_ms=NOW_MS)
    world = World(guessing)
    assert await charged(world, await reserved(world, provider="theirs", model="unheard-of")) == OWN_NANOS
    with pytest.raises(ConfigError, match='price_as: found "dear"'):
        check_models(replace(guessing, prices=policy("[]").prices), published_prices(), now_ms=NOW_MS)


def test_the_model_that_a_limit_switches_to_has_to_have_a_price() -> None:
    prices = "[{provider: mine, model: cheap, usd_per_million: {input: 2.00, output: 8.00}}]"
    (budget,) = policy(prices).limits
    switching = replace(policy(prices), limits=(replace(budget, action=Action.SWITCH_MODEL, switch_to="cheap"),))
    check_models(switching, published_prices(), now_ms=NOW_MS)
    with pytest.raises(ConfigError, match='switch_to of the limit budget: found "cheap"'):
        check_models(replace(switching, prices=policy("[]").prices), published_prices(), now_ms=NOW_MS)
