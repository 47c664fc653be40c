"""The operator's own prices: which one counts, when, and what the price book still says."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from itertools import permutations
from typing import Any

import pytest

from policyd.core.own_prices import OwnPrice, OwnPrices, Tariff
from policyd.core.price_book import (
    DatedRates,
    ModelPrices,
    PriceBook,
    PricedModel,
    ProviderPrices,
    RateVariant,
    Validity,
)
from policyd.core.pricing import Rate, RateTier
from policyd.core.usage import Usage

DAY_MS = 86_400_000
PRIORITY = {"service_tier": "priority"}


def per_million(usd: int) -> Rate:
    return Rate(usd * 10**9, 10**6)


def own(model: str = "*", usd: int = 1, **said: Any) -> OwnPrice:
    """Input at `usd` for a million tokens, output at ten times as much."""
    tiers = (RateTier(0, {"input": per_million(usd), "output": per_million(10 * usd)}),)
    return OwnPrice(**{"model": model, "tiers": tiers, **said})


LISTED = ModelPrices(
    id="m",
    names=("m", "m-mini"),
    dated=(
        DatedRates(
            Validity(),
            (
                RateTier(
                    0,
                    {
                        "input": per_million(100),
                        "cached_input": per_million(50),
                        "output": per_million(1000),
                        "web_searches": Rate(7, 1),
                    },
                ),
            ),
        ),
    ),
    variants=(RateVariant(PRIORITY, DatedRates(Validity(), (RateTier(0, {"input": per_million(200)}),))),),
    context_tokens_max=1000,
)
BOOK = PriceBook(
    [
        ProviderPrices("reseller", (), fallbacks=("acme",)),
        ProviderPrices("acme", (LISTED, ModelPrices("unpriced", ("unpriced",), (DatedRates(Validity(), ()),)))),
    ],
    version="test",
)


def find(
    *entries: OwnPrice, model: str = "m", provider: str = "acme", at_ms: int = 0, terms: Mapping[str, str] | None = None
) -> PricedModel | None:
    return Tariff(BOOK, OwnPrices(entries)).find(provider=provider, model=model, at_ms=at_ms, terms=terms or {})


def cost_of(found: PricedModel | None, **usage: int) -> int | None:
    return None if found is None else found.price.cost_nanos(Usage(**usage))


def cost_of_a_token(*entries: OwnPrice, **asked: Any) -> int | None:
    """In thousandths of a nano-USD: dollars for a million tokens, as the entries say them."""
    cost = cost_of(find(*entries, **asked), input=1)
    return None if cost is None else cost // 1000


# Which models a price is for


@pytest.mark.parametrize(
    ("pattern", "model", "fits"),
    [
        ("m", "m", True),
        ("m", "M", True),
        ("m", "m-mini", False),
        ("m*", "m-mini", True),
        ("m-?ini", "m-mini", True),
        ("[a-m]-mini", "m-mini", True),
        ("m.*", "m-mini", False),
        ("*", "x" * 512, True),
        ("*", "x" * 513, False),
        ("*", "a/b\nc", True),
    ],
)
def test_a_pattern_is_for_whole_names_whatever_their_case(pattern: str, model: str, fits: bool) -> None:
    assert (cost_of_a_token(own(pattern), provider="unlisted", model=model) == 1) is fits


def test_a_price_is_for_its_provider_or_for_all() -> None:
    assert cost_of_a_token(own(provider="acme")) == 1
    assert cost_of_a_token(own(provider="acme"), provider="reseller") == 100
    assert cost_of_a_token(own(provider="unlisted"), provider="unlisted") == 1
    assert cost_of_a_token(own(), provider="unlisted") == 1
    assert cost_of_a_token(provider="unlisted") is None


def test_a_price_says_that_it_is_the_operators() -> None:
    found = find(own("m*"))
    assert found is not None
    assert (found.own, found.price.provider, found.price.model) == (True, "policy", "m*")
    listed = find()
    assert listed is not None
    assert not listed.own


def test_zero_is_free() -> None:
    assert cost_of(find(own(usd=0), model="any"), input=10**9, output=10**9, web_searches=10**9) == 0


# Which price counts


def test_the_last_one_that_fits_counts() -> None:
    assert cost_of_a_token(own("*", 1), own("m*", 2)) == 2
    assert cost_of_a_token(own("m*", 2), own("*", 1)) == 1
    assert cost_of_a_token(own("*", 1), own("m*", 2), model="other") == 1
    assert cost_of_a_token(own("*", 1), own("*", 2, provider="else")) == 1


def test_a_price_comes_into_effect_at_its_instant() -> None:
    later = own(starts_at_ms=DAY_MS)
    assert cost_of_a_token(later, at_ms=DAY_MS - 1) == 100
    assert cost_of_a_token(later, at_ms=DAY_MS) == 1


def test_of_prices_for_the_same_models_the_latest_in_effect_counts_in_any_order() -> None:
    prices = (own(usd=1), own(usd=2, starts_at_ms=-DAY_MS), own(usd=3, starts_at_ms=DAY_MS))
    for entries in permutations(prices):
        assert cost_of_a_token(*entries, at_ms=-DAY_MS - 1) == 1
        assert cost_of_a_token(*entries, at_ms=0) == 2
        assert cost_of_a_token(*entries, at_ms=DAY_MS) == 3


def test_an_earlier_date_does_not_bring_a_price_before_a_later_entry() -> None:
    dated = own("m*", 2, starts_at_ms=DAY_MS)
    assert cost_of_a_token(dated, own("*", 1), at_ms=DAY_MS) == 1


def test_a_price_for_terms_is_for_requests_on_them() -> None:
    entries = (own("x", 1), own("x", 3, terms=PRIORITY))
    assert cost_of_a_token(*entries, model="x") == 1
    assert cost_of_a_token(*entries, model="x", terms={"service_tier": "flex"}) == 1
    assert cost_of_a_token(*entries, model="x", terms=PRIORITY | {"region": "eu"}) == 3


# What the book still says


def test_rates_on_terms_that_the_book_sells_apart_stay() -> None:
    assert cost_of_a_token(own(), terms=PRIORITY) == 200
    assert cost_of_a_token(own(), terms={"service_tier": "default"}) == 1
    for entries in permutations((own(), own(usd=3, terms=PRIORITY))):
        assert cost_of_a_token(*entries, terms=PRIORITY) == 3
    # A reseller sells at standard prices on all terms, which are replaced on all terms.
    assert cost_of_a_token(own(), provider="reseller", terms=PRIORITY) == 1


def test_fees_that_a_price_does_not_name_stay() -> None:
    assert cost_of(find(own()), web_searches=3) == 21
    said = own(tiers=(RateTier(0, {"input": per_million(1), "output": per_million(1), "web_searches": Rate(0, 1)}),))
    assert cost_of(find(said), web_searches=3) == 0


def test_a_part_of_a_kind_that_has_a_price_is_charged_as_that() -> None:
    assert cost_of(find(own()), cached_input=1, reasoning=1) == 1_000 + 10_000


def test_a_price_for_fees_alone_leaves_the_tokens_as_they_are() -> None:
    fees = own(tiers=(RateTier(0, {"web_searches": Rate(1, 1)}),))
    assert cost_of(find(fees), input=1, cached_input=1, output=1, web_searches=1) == 100_000 + 50_000 + 1_000_000 + 1
    assert cost_of(find(fees, model="other"), input=1, web_searches=1) == 1


def test_the_context_window_stays_unless_it_is_said() -> None:
    def window(**asked: Any) -> int | None:
        found = find(own("m", **asked))
        return None if found is None else found.context_tokens_max

    assert window() == 1000
    assert window(context_tokens_max=50) == 50


def test_what_the_book_lists_without_a_price_gets_one() -> None:
    assert cost_of_a_token(model="unpriced") is None
    assert cost_of_a_token(own(), model="unpriced") == 1


def test_tiers_apply_above_their_tokens() -> None:
    tiers = (
        RateTier(0, {"input": per_million(1), "output": per_million(2)}),
        RateTier(10, {"input": per_million(3)}),
    )
    found = find(own(tiers=tiers))
    assert cost_of(found, input=10, output=1) == 12_000
    assert cost_of(found, input=11, output=1, web_searches=1) == 35_007


# Finding a price at whichever provider


def test_find_anywhere_asks_the_makers_first_and_passes_over_what_has_no_price() -> None:
    def listed(name: str, usd: int | None) -> ModelPrices:
        rates = {} if usd is None else {"input": per_million(usd)}
        return ModelPrices(name, (name,), (DatedRates(Validity(), (RateTier(0, rates),)),))

    book = PriceBook(
        [
            ProviderPrices("reseller", (listed("gpt-4o", 9), listed("rare", 8))),
            ProviderPrices("openai", (listed("gpt-4o", 2), listed("rare", None))),
        ],
        version="test",
    )

    def owner(name: str) -> str | None:
        found = Tariff(book).find_anywhere(model=name, at_ms=0)
        return found.price.provider if found else None

    assert owner("gpt-4o") == "openai"
    assert owner("rare") == "reseller"
    assert owner("unknown") is None


def test_find_anywhere_finds_own_prices_of_any_provider_and_of_an_unlisted_one() -> None:
    tariff = Tariff(BOOK, OwnPrices((own("mine", 3, provider="unlisted"), own("ours", 4))))

    def cost(name: str) -> int | None:
        return cost_of(tariff.find_anywhere(model=name, at_ms=0), input=1)

    assert (cost("m"), cost("mine"), cost("ours"), cost("theirs")) == (100_000, 3_000, 4_000, None)


def test_a_flood_of_names_does_not_fill_the_memory() -> None:
    prices = Tariff(BOOK, OwnPrices((own("m*"),)))
    tracemalloc.start()
    try:
        for number in range(12_000):
            prices.find(provider="acme", model=f"{number:0500}", at_ms=0)
        for number in range(100):
            prices.find(provider="acme", model=f"{number:0100000}", at_ms=0)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 6_000_000
    assert prices.find(provider="acme", model="m", at_ms=0) is not None


def test_equal_prices_are_equal() -> None:
    asked = OwnPrices((own("m*"),))
    asked.fitting(provider="acme", model="m")
    assert asked == OwnPrices((own("m*"),))
    assert asked != OwnPrices((own("m"),))


# A model that stands for another


def tariff_of(*entries: OwnPrice) -> Tariff:
    return Tariff(
        PriceBook([ProviderPrices("acme", (LISTED,)), ProviderPrices("shop", ())], version=""), OwnPrices(entries)
    )


def input_rate(tariff: Tariff, model: str, *, provider: str = "acme", **terms: str) -> int | None:
    found = tariff.find(provider=provider, model=model, at_ms=0, terms=terms)
    return found.price.rate("input").nanos // found.price.rate("input").per if found is not None else None


def test_a_model_costs_what_the_one_costs_that_it_stands_for() -> None:
    tariff = tariff_of(OwnPrice(model="my-*", price_as="m"), OwnPrice(model="odd", price_as="nobody"))
    assert input_rate(tariff, "my-deployment") == 100_000
    assert input_rate(tariff, "my-deployment", **PRIORITY) == 200_000
    assert input_rate(tariff, "my-deployment", provider="shop") == 100_000, "of the maker's, where it is not sold by it"
    assert input_rate(tariff, "odd") is None
    assert tariff.model_meant(provider="acme", model="my-deployment", at_ms=0) == "m"
    assert tariff.model_meant(provider="acme", model="m", at_ms=0) == "m"


def test_what_it_stands_for_can_have_an_own_price_and_is_not_followed_further() -> None:
    tariff = tariff_of(own("base", 3), OwnPrice(model="a", price_as="base"), OwnPrice(model="b", price_as="a"))
    assert input_rate(tariff, "a") == 3_000
    assert input_rate(tariff, "b") is None


def test_it_gives_way_to_the_price_of_the_model_that_served() -> None:
    tariff = tariff_of(OwnPrice(model="m-mini", price_as="m"), own("mine"))
    found = [tariff.find(provider="acme", model=model, at_ms=0) for model in ("m-mini", "mine")]
    assert [priced.own for priced in found if priced is not None] == [False, True]
