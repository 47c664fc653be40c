"""The explanation of a price: which entry it is, what is charged, and every other price of the model."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest

from policyd.core.errors import ConfigError, ModelUnpriced
from policyd.pricelist import PriceList, differences, explain, explanation_text
from policyd.pricelist.explaining import IN_FORCE, Explanation
from policyd.prices.table import FeesOf, PremiumOn, StartsWith
from tests.pricelist.tables import NOW_MS, OWN, TABLE, price_list

DAY_MS = 86_400_000


def told(
    model: str,
    *,
    own: str = "",
    provider: str | None = None,
    at_ms: int = NOW_MS,
    service_tier: str | None = None,
) -> Explanation:
    return explain(price_list(own=own), model, provider=provider, at_ms=at_ms, service_tier=service_tier)


def rates(explained: Explanation) -> dict[tuple[int, str], Decimal]:
    return {(tier.above_input_tokens, rate.kind): rate.usd for tier in explained.tiers for rate in tier.rates}


def states(explained: Explanation) -> list[tuple[str, str, str]]:
    return [(" ".join((each.source, *each.terms.values())), each.applies, each.state) for each in explained.prices]


# Which entry it is


@pytest.mark.parametrize(
    ("model", "entry", "matched_by"),
    [
        ("large-2026", "acme large", "the name large-2026"),
        ("LARGE", "acme large", "the name large"),
        ("small-x", "acme small", 'the pattern ["starts_with","small-"]'),
        ("very-tiny", "acme small", 'the pattern ["contains","tiny"]'),
        ("small-tiny", "acme small", 'the pattern ["starts_with","small-"]'),
        ("small-20260101", "acme small", 'the pattern ["starts_with","small-"]'),
    ],
)
def test_what_a_name_means(model: str, entry: str, matched_by: str) -> None:
    explained = told(model)
    assert (explained.entry, explained.matched_by) == (entry, matched_by)


def test_who_lists_a_model_comes_before_who_resells_it() -> None:
    assert (told("large").provider, told("large").also_at) == ("acme", ("shop",))
    assert (told("large", provider="shop").entry, told("large", provider="shop").also_at) == ("acme large", ())


def test_where_it_comes_from() -> None:
    assert told("large").sources == ("test-prices 1, prices.json",)
    assert told("large").urls == ("https://acme.example/prices",)
    assert told("large", own=OWN).sources == ("policyd.yaml", "test-prices 1, prices.json")
    assert told("my-llama-3", own=OWN).sources == ("policyd.yaml",)


@pytest.mark.parametrize(
    ("model", "provider", "message"),
    [
        ("lrge", None, 'no price is known of the model "lrge"; did you mean "large"?'),
        ("lrge", "acme", 'no price is known of the model "lrge" at acme; did you mean "large"?'),
        ("large", "unlisted", 'no price is known of the model "large" at unlisted'),
        ("", None, 'no price is known of the model ""'),
    ],
)
def test_an_unknown_model(model: str, provider: str | None, message: str) -> None:
    with pytest.raises(ModelUnpriced) as caught:
        told(model, provider=provider)
    assert str(caught.value) == message


def test_a_model_that_is_listed_without_a_price() -> None:
    explained = told("whisper")
    assert explained.tiers == ()
    assert "it has no price: what becomes of it says `unknown_model` in the policy" in explanation_text(explained)


# What is charged, and when


def test_the_price_of_the_moment() -> None:
    def on(day: datetime) -> Decimal:
        return rates(told("large", at_ms=int(day.timestamp()) * 1000))[0, "input"]

    assert on(datetime(2025, 12, 31, tzinfo=UTC)) == Decimal("5.00")
    assert on(datetime(2026, 1, 1, tzinfo=UTC)) == Decimal("2.50")
    assert on(datetime(2026, 7, 1, tzinfo=UTC)) == Decimal("2.00")


def test_every_price_and_its_state() -> None:
    assert states(told("large")) == [
        ("table", "always", "past"),
        ("table", "since 2026-01-01", "in force"),
        ("table", "since 2026-07-01", "to come"),
        ("table batch", "always", ""),
        ("table priority", "since 2026-06-01", "to come"),
    ]
    assert states(told("small-x")) == [("table", "always", ""), ("table", "00:30 to 16:30 UTC", "in force")]
    assert states(told("small-x", at_ms=NOW_MS + DAY_MS // 3)) == [
        ("table", "always", "in force"),
        ("table", "00:30 to 16:30 UTC", ""),
    ]


@pytest.mark.parametrize(("tier", "usd"), [("batch", "1.25"), ("standard", "2.50"), ("default", "2.50")])
def test_service_tiers(tier: str, usd: str) -> None:
    assert rates(told("large", service_tier=tier))[0, "input"] == Decimal(usd)


def test_a_service_tier_that_is_sold_later() -> None:
    assert rates(told("large", service_tier="priority"))[0, "input"] == Decimal("2.50")
    assert rates(told("large", service_tier="priority", at_ms=NOW_MS + 30 * DAY_MS))[0, "input"] == Decimal("4.00")


@pytest.mark.parametrize(
    ("model", "provider", "expectation"),
    [
        ("large", "acme", 'batch or priority; did you mean "batch"?'),
        ("large", "shop", "none: this model has one price on all terms"),
        ("small-x", "acme", "none: this model has one price on all terms"),
        ("mine", "mine", "flex"),
    ],
)
def test_a_service_tier_that_is_not_sold(model: str, provider: str, expectation: str) -> None:
    with pytest.raises(ConfigError) as caught:
        told(model, own=OWN, provider=provider, service_tier="bach")
    assert str(caught.value) == f'--service-tier: found "bach", expected {expectation}'


# Own prices


def test_an_own_price_and_what_the_table_still_says() -> None:
    explained = told("large", own=OWN)
    assert (explained.entry, explained.matched_by) == ("prices[0]", "the pattern large*")
    assert rates(explained) == {
        (0, "input"): Decimal("1.00"),
        (0, "output"): Decimal("2.00"),
        (0, "web_searches"): Decimal("10.00"),
    }
    assert explained.context_tokens_max == 100_000
    assert states(explained) == [
        ("table", "always", "past"),
        ("table", "since 2026-01-01", "replaced"),
        ("table", "since 2026-07-01", "to come"),
        ("table batch", "always", ""),
        ("table priority", "since 2026-06-01", "to come"),
        ("prices[0]", "always", "in force"),
        ("prices[1]", "since 2026-12-01", "to come"),
    ]


def test_an_own_price_that_was_replaced_by_a_later_one() -> None:
    explained = told("large", own=OWN, at_ms=NOW_MS + 200 * DAY_MS)
    assert explained.entry == "prices[1]"
    assert states(explained)[-2:] == [("prices[0]", "always", "past"), ("prices[1]", "since 2026-12-01", "in force")]


def test_an_own_price_for_any_provider() -> None:
    explained = told("my-llama-3", own=OWN)
    assert (explained.provider, rates(explained)[0, "input"]) == ("*", Decimal(0))


def test_an_own_price_for_one_service_tier() -> None:
    explained = told("mine", own=OWN, service_tier="flex")
    assert (explained.terms, explained.entry) == ({"service_tier": "flex"}, "prices[3]")
    assert told("mine", own=OWN).tiers == ()


# The text

RATES_OF_2026 = "input 2.50, cached_input 1.25, output 10.00, web_searches 10.00; above 50000 input 5.00, output 20.00"


def test_the_text() -> None:
    assert explanation_text(told("large-2026")).splitlines() == [
        "model         large-2026",
        "provider      acme",
        "at            2026-05-15T12:00:00.000Z",
        "on            standard terms",
        "entry         acme large, by the name large-2026",
        "source        test-prices 1, prices.json",
        "published at  https://acme.example/prices",
        "context       100000 tokens",
        "also at       shop",
        "",
        "USD                  above 50000",
        "input          2.50         5.00  a million",
        "cached_input   1.25         1.25  a million",
        "output        10.00        20.00  a million",
        "web_searches  10.00        10.00  a thousand",
        "",
        "every price of it",
        "  table                         always            past      input 5.00, output 15.00",
        "  table                         since 2026-01-01  in force  " + RATES_OF_2026,
        "  table                         since 2026-07-01  to come   input 2.00, output 8.00",
        "  table  processing=batch       always                      input 1.25, output 5.00",
        "  table  service_tier=priority  since 2026-06-01  to come   input 4.00, output 16.00",
    ]


# What else a provider charges


def surcharged() -> PriceList:
    acme = msgspec.structs.replace(
        TABLE.providers[1],
        premiums=(PremiumOn(source="Acme, Regions", terms={"geo": "us"}, models=(StartsWith("large"),), percent=110),),
        fees=(FeesOf(source="Acme, Tools", rates={"file_searches": (2_500_000, 1)}),),
    )
    table = msgspec.structs.replace(TABLE, providers=(TABLE.providers[0], acme))
    return replace(price_list(), table=table)


def test_premiums_and_fees_are_told_with_their_sources() -> None:
    explained = explain(surcharged(), "large", provider="acme", at_ms=NOW_MS, service_tier="us")
    assert explained.terms == {"geo": "us"}
    assert rates(explained)[(0, "input")] == Decimal("2.75")
    assert rates(explained)[(0, "file_searches")] == Decimal("2.50")
    assert [(each.source, each.rates, each.state) for each in explained.prices[-2:]] == [
        ("Acme, Regions", "110 % of the rates for tokens", IN_FORCE),
        ("Acme, Tools", "file_searches 2.50", IN_FORCE),
    ]
    standard = explain(surcharged(), "large", provider="acme", at_ms=NOW_MS, service_tier=None)
    assert rates(standard)[(0, "input")] == Decimal("2.50")


def test_a_change_of_premiums_and_fees_is_a_difference() -> None:
    (changed,) = differences(TABLE, surcharged().table).changed
    assert [(each.what, each.old, each.new) for each in changed.changes] == [
        ('premium geo=us ["starts_with","large"]', "none", "110 %"),
        ("fee file_searches", "none", "2.50"),
    ]


def test_a_model_that_stands_for_another() -> None:
    explained = told("my-deployment", own='[{provider: acme, model: "my-*", price_as: large}]')
    assert rates(explained)[(0, "input")] == Decimal("2.50")
    (only,) = explained.prices
    assert (only.source, only.rates, only.state) == ("prices[0]", "as large", IN_FORCE)
