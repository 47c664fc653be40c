"""Prices: exact costs, the right rates at every moment, and a lookup that says no rather than guess."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import product
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.model_names import model_names
from policyd.core.price_book import (
    DatedRates,
    Fees,
    ModelPrices,
    Premium,
    PriceBook,
    ProviderPrices,
    RateVariant,
    Validity,
)
from policyd.core.pricing import Price, Rate, RateTier, exact_rate
from policyd.core.usage import KINDS, Usage

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
ALWAYS = Validity()
NOON_MS = 12 * HOUR_MS

PART_OF = {
    "cached_input": ["input"],
    "cached_audio_input": ["cached_input", "audio_input", "input"],
    "cached_image_input": ["cached_input", "image_input", "input"],
    "cache_write_5m": ["input"],
    "cache_write_1h": ["cache_write_5m", "input"],
    "audio_input": ["input"],
    "image_input": ["input"],
    "video_input": ["input"],
    "reasoning": ["output"],
    "audio_output": ["output"],
    "image_output": ["output"],
    "video_output": ["output"],
    "citation": ["output"],
    "annotated_pages": ["pages"],
    "audio_input_ms": ["audio_ms"],
}
"""What a kind without a rate of its own is charged as: the first of these that has one."""

AUDIO_TOKENS = ("audio_input", "cached_audio_input", "audio_output")


def per_million(usd: int) -> Rate:
    return Rate(usd * 10**9, 10**6)


def flat(rates: Mapping[str, Rate]) -> Price:
    return Price(provider="acme", model="m", tiers=[RateTier(0, rates)])


rates = st.builds(Rate, st.integers(0, 10**12), st.sampled_from([1, 3, 1_000, 10**6, 10**15]))
rates_by_kind = st.dictionaries(st.sampled_from(KINDS), rates)
usages = st.builds(Usage, **{kind: st.integers(0, 10**7) for kind in KINDS})


@st.composite
def rising_tiers(draw: st.DrawFn) -> list[RateTier]:
    """A base and up to three tiers, each no cheaper than the one before."""
    tiers = [RateTier(0, draw(rates_by_kind))]
    for above in sorted(draw(st.sets(st.integers(1, 2 * 10**7), max_size=3))):
        last = {kind: rate for tier in tiers for kind, rate in tier.rates.items()}
        dearer = {kind: Rate(rate.nanos + draw(st.integers(0, 10**12)), rate.per) for kind, rate in last.items()}
        tiers.append(RateTier(above, {kind: rate for kind, rate in dearer.items() if draw(st.booleans())}))
    return tiers


def charged_as(kind: str, rates: Mapping[str, Rate]) -> tuple[str, ...]:
    """Under which rates a kind is charged: audio by its tokens only where it is not sold by the time."""
    if kind in AUDIO_TOKENS and {"audio_input_ms", "audio_ms"} & rates.keys():
        return (kind,)
    return (kind, *PART_OF.get(kind, ()))


def exact_cost(tiers: list[RateTier], usage: Usage) -> Fraction:
    """The cost by definition: the last tier that the input passes, kind by kind, in fractions."""
    current: dict[str, Rate] = {}
    for tier in tiers:
        if tier.above_input_tokens == 0 or usage.input_tokens > tier.above_input_tokens:
            current |= tier.rates
    total = Fraction(0)
    for kind, units in usage.by_kind().items():
        charged = next((name for name in charged_as(kind, current) if name in current), None)
        if charged is not None:
            total += Fraction(units * current[charged].nanos, current[charged].per)
    return total


# What a usage costs


@given(rising_tiers(), usages)
def test_a_cost_is_the_exact_sum_rounded_up_once(tiers: list[RateTier], usage: Usage) -> None:
    price = Price(provider="acme", model="m", tiers=tiers)
    assert price.cost_nanos(usage) == ceil(exact_cost(tiers, usage))


@given(rising_tiers())
def test_no_usage_costs_nothing(tiers: list[RateTier]) -> None:
    assert Price(provider="acme", model="m", tiers=tiers).cost_nanos(Usage()) == 0


@given(rates_by_kind, usages, usages)
def test_costs_add_up_to_within_their_rounding(rates: dict[str, Rate], one: Usage, other: Usage) -> None:
    price = flat(rates)
    both = Usage(**{kind: getattr(one, kind) + getattr(other, kind) for kind in KINDS})
    apart = price.cost_nanos(one) + price.cost_nanos(other)
    assert apart - price.cost_nanos(both) in {0, 1}


@given(rising_tiers(), usages, st.sampled_from(KINDS), st.integers(1, 10**7))
def test_more_of_any_kind_never_costs_less(tiers: list[RateTier], usage: Usage, kind: str, more: int) -> None:
    price = Price(provider="acme", model="m", tiers=tiers)
    assert price.cost_nanos(usage._replace(**{kind: getattr(usage, kind) + more})) >= price.cost_nanos(usage)


def test_the_smallest_fraction_of_a_nano_is_charged() -> None:
    assert flat({"input": Rate(1, 10**15)}).cost_nanos(Usage(input=1)) == 1


def test_a_tier_applies_to_every_token_once_the_input_has_passed_it() -> None:
    price = Price(
        provider="acme",
        model="m",
        tiers=[
            RateTier(0, {"input": per_million(1), "cached_input": Rate(10**8, 10**6), "output": per_million(10)}),
            RateTier(200_000, {"input": per_million(2), "output": per_million(15)}),
            RateTier(500_000, {"input": per_million(4)}),
        ],
    )
    assert price.cost_nanos(Usage(input=150_000, cached_input=50_000, output=100)) == 156_000_000
    assert price.cost_nanos(Usage(input=150_001, cached_input=50_000, output=100)) == 306_502_000
    assert price.cost_nanos(Usage(input=500_001, output=100)) == 2_001_504_000
    assert price.cost_nanos(Usage(output=1_000_000)) == 10_000_000_000


def test_rate_is_the_tiers_rate_or_what_the_kind_is_charged_as() -> None:
    price = Price(
        provider="acme",
        model="m",
        tiers=[
            RateTier(0, {"input": per_million(3), "output": per_million(15), "web_searches": Rate(10**10, 1_000)}),
            RateTier(200_000, {"input": per_million(6)}),
        ],
    )
    found = {
        (kind, tokens): price.rate(kind, input_tokens=tokens)
        for kind, tokens in product(("cached_input", "reasoning", "web_searches"), (200_000, 200_001))
    }
    assert {key: Fraction(rate.nanos, rate.per) for key, rate in found.items()} == {
        ("cached_input", 200_000): 3_000,
        ("cached_input", 200_001): 6_000,
        ("reasoning", 200_000): 15_000,
        ("reasoning", 200_001): 15_000,
        ("web_searches", 200_000): 10_000_000,
        ("web_searches", 200_001): 10_000_000,
    }
    assert price.rate("input") == price.rate("input", input_tokens=200_000)


def test_a_price_covers_what_it_has_a_rate_for_and_its_parts() -> None:
    price = flat({"input": per_million(1), "reasoning": per_million(2)})
    covered = {kind for kind in KINDS if price.covers(kind)}
    assert covered == {"input", "reasoning"} | {kind for kind, wholes in PART_OF.items() if "input" in wholes}


@given(rising_tiers(), rising_tiers(), usages)
def test_a_completed_price_charges_what_it_lacks_by_the_other(
    tiers: list[RateTier], others: list[RateTier], usage: Usage
) -> None:
    price = Price(provider="acme", model="m", tiers=tiers)
    other = Price(provider="far", model="n", tiers=others)
    missing = {kind for tier in others for kind in tier.rates if not price.covers(kind)}
    completed = price.completed_by(other)
    assert (completed.provider, completed.model) == ("acme", "m")
    for kind in KINDS:
        charged_by = other if kind in missing else price
        # Cached audio is a part of two kinds, and goes by cached input as soon as that has a rate; audio by the time.
        went_over = not missing.isdisjoint((*PART_OF.get(kind, ()), "audio_ms", "audio_input_ms"))
        if kind in missing or (price.covers(kind) and not went_over):
            assert rate_of(completed, kind, usage) == rate_of(charged_by, kind, usage)


def rate_of(price: Price, kind: str, usage: Usage) -> Fraction:
    rate = price.rate(kind, input_tokens=usage.input_tokens)
    return Fraction(rate.nanos, rate.per)


def test_a_price_that_lacks_nothing_stays_as_it_is() -> None:
    price = flat({"input": per_million(1), "output": per_million(2)})
    assert price.completed_by(flat({"cached_input": per_million(9)})) is price


@given(st.decimals(min_value=0, max_value=10**6, places=18), st.sampled_from([1_000, 1_000_000]))
def test_an_exact_rate_is_exact(usd: Decimal, per: int) -> None:
    rate = exact_rate(usd, per=per)
    assert Fraction(rate.nanos, rate.per) == Fraction(usd) * 10**9 / per


def test_an_hour_of_cache_is_charged_as_five_minutes_before_it_is_charged_as_input() -> None:
    price = flat({"input": per_million(4), "cache_write_5m": per_million(5)})
    assert price.cost_nanos(Usage(cache_write_1h=1_000)) == 5_000_000


def test_cached_audio_is_charged_as_cached_before_it_is_charged_as_audio() -> None:
    rates = {"input": per_million(1), "audio_input": per_million(8)}
    cached = Usage(cached_audio_input=1_000)
    assert flat(rates | {"cached_input": per_million(2)}).cost_nanos(cached) == 2_000_000
    assert flat(rates).cost_nanos(cached) == 8_000_000


@given(rising_tiers(), st.lists(st.sampled_from(KINDS), min_size=1), st.integers(0, 3 * 10**7))
def test_no_other_kind_costs_more_than_the_dearest(tiers: list[RateTier], kinds: list[str], tokens: int) -> None:
    price = Price(provider="acme", model="m", tiers=tiers)
    dearest = price.dearest(kinds, input_tokens=tokens)
    rates = [price.rate(kind, input_tokens=tokens).nanos for kind in kinds]
    assert kinds.index(dearest) == rates.index(max(rates))


def test_the_dearest_kind_depends_on_the_tier() -> None:
    price = Price(
        provider="acme",
        model="m",
        tiers=[
            RateTier(0, {"output": per_million(2), "reasoning": per_million(1)}),
            RateTier(100, {"reasoning": per_million(3)}),
        ],
    )
    assert price.dearest(("output", "reasoning"), input_tokens=100) == "output"
    assert price.dearest(("output", "reasoning"), input_tokens=101) == "reasoning"


# Which rates apply


@pytest.mark.parametrize(
    ("validity", "at_ms", "covered"),
    [
        (Validity(), 0, True),
        (Validity(starts_at_ms=DAY_MS), DAY_MS - 1, False),
        (Validity(starts_at_ms=DAY_MS), DAY_MS, True),
        (Validity(daily_ms=(HOUR_MS, 2 * HOUR_MS)), DAY_MS + HOUR_MS - 1, False),
        (Validity(daily_ms=(HOUR_MS, 2 * HOUR_MS)), DAY_MS + HOUR_MS, True),
        (Validity(daily_ms=(HOUR_MS, 2 * HOUR_MS)), DAY_MS + 2 * HOUR_MS - 1, True),
        (Validity(daily_ms=(HOUR_MS, 2 * HOUR_MS)), DAY_MS + 2 * HOUR_MS, False),
        (Validity(daily_ms=(23 * HOUR_MS, HOUR_MS)), 23 * HOUR_MS - 1, False),
        (Validity(daily_ms=(23 * HOUR_MS, HOUR_MS)), 23 * HOUR_MS, True),
        (Validity(daily_ms=(23 * HOUR_MS, HOUR_MS)), DAY_MS, True),
        (Validity(daily_ms=(23 * HOUR_MS, HOUR_MS)), DAY_MS + HOUR_MS - 1, True),
        (Validity(daily_ms=(23 * HOUR_MS, HOUR_MS)), DAY_MS + HOUR_MS, False),
        (Validity(daily_ms=(HOUR_MS, HOUR_MS)), HOUR_MS, False),
    ],
)
def test_validity_includes_its_start_and_not_its_end(validity: Validity, at_ms: int, covered: bool) -> None:
    assert validity.covers(at_ms) is covered


def dated(usd_per_million: int, validity: Validity = ALWAYS, *, kind: str = "input") -> DatedRates:
    return DatedRates(validity, (RateTier(0, {kind: per_million(usd_per_million)}),))


def model(name: str, *prices: DatedRates, variants: tuple[RateVariant, ...] = ()) -> ModelPrices:
    return ModelPrices(id=name, names=(name,), dated=prices or (dated(1),), variants=variants)


def book(*models: ModelPrices) -> PriceBook:
    return PriceBook([ProviderPrices("acme", models)], version="test")


def cost_of_a_token(book: PriceBook, *, at_ms: int = NOON_MS, terms: Mapping[str, str] | None = None) -> int | None:
    found = book.find(provider="acme", model="m", at_ms=at_ms, terms=terms or {})
    return found.price.cost_nanos(Usage(input=1)) if found else None


def test_the_last_price_that_applies_counts() -> None:
    prices = book(model("m", dated(1), dated(2, Validity(starts_at_ms=DAY_MS)), dated(3, Validity(daily_ms=(0, 1)))))
    assert cost_of_a_token(prices, at_ms=DAY_MS - 1) == 1_000
    assert cost_of_a_token(prices, at_ms=DAY_MS) == 3_000
    assert cost_of_a_token(prices, at_ms=DAY_MS + 1) == 2_000


def test_the_first_price_counts_where_none_applies() -> None:
    later = Validity(starts_at_ms=DAY_MS)
    assert cost_of_a_token(book(model("m", dated(1, later), dated(2, later))), at_ms=0) == 1_000


def test_the_first_variant_with_a_rate_for_a_kind_counts_for_it() -> None:
    fast, fast_output = {"speed": "fast"}, {"speed": "fast", "region": "eu"}
    variants = (
        RateVariant(fast_output, dated(7, kind="output")),
        RateVariant(fast, DatedRates(ALWAYS, (RateTier(0, {"input": per_million(5), "output": per_million(6)}),))),
    )
    standard = DatedRates(ALWAYS, (RateTier(0, {"input": per_million(1), "output": per_million(2)}),))
    prices = book(model("m", standard, variants=variants))

    def costs(terms: Mapping[str, str]) -> tuple[int, int]:
        found = prices.find(provider="acme", model="m", at_ms=0, terms=terms)
        assert found is not None
        return found.price.cost_nanos(Usage(input=1)), found.price.cost_nanos(Usage(output=1))

    assert costs({}) == (1_000, 2_000)
    assert costs({"speed": "slow"}) == (1_000, 2_000)
    assert costs({"region": "eu"}) == (1_000, 2_000)
    assert costs({"speed": "fast"}) == (5_000, 6_000)
    assert costs({"speed": "fast", "region": "us"}) == (5_000, 6_000)
    assert costs({"speed": "fast", "region": "eu", "other": "x"}) == (5_000, 7_000)


def test_a_variant_applies_from_its_own_date_on() -> None:
    batch = RateVariant({"processing": "batch"}, dated(5, Validity(starts_at_ms=DAY_MS)))
    prices = book(model("m", dated(9), variants=(batch,)))
    assert cost_of_a_token(prices, at_ms=DAY_MS - 1, terms=batch.terms) == 9_000
    assert cost_of_a_token(prices, at_ms=DAY_MS, terms=batch.terms) == 5_000


def test_a_variants_rate_replaces_the_kinds_rate_in_every_tier() -> None:
    base = {"input": per_million(1), "output": per_million(2)}
    above = {"input": per_million(3), "output": per_million(4)}
    standard = DatedRates(ALWAYS, (RateTier(0, base), RateTier(100, above)))
    flat_input = RateVariant({"sold": "flat"}, dated(7))
    tiered_output = RateVariant(
        {"sold": "tiered"},
        DatedRates(ALWAYS, (RateTier(0, {"output": per_million(8)}), RateTier(50, {"output": per_million(9)}))),
    )
    prices = book(model("m", standard, variants=(flat_input, tiered_output)))

    def cost(sold: str, usage: Usage) -> int:
        found = prices.find(provider="acme", model="m", at_ms=0, terms={"sold": sold})
        assert found is not None
        return found.price.cost_nanos(usage)

    assert cost("flat", Usage(input=101)) == 707_000
    assert cost("flat", Usage(input=101, output=1)) == 711_000
    assert cost("tiered", Usage(input=50, output=1)) == 58_000
    assert cost("tiered", Usage(input=51, output=1)) == 60_000
    assert cost("tiered", Usage(input=101, output=1)) == 312_000


# Which model a name means


def test_the_book_tells_whom_it_lists_and_what_it_has_on_a_model() -> None:
    prices = PriceBook([ProviderPrices("acme", (model("m"),)), ProviderPrices("shop", (), ("acme",))], version="test")
    assert list(prices.providers) == ["acme", "shop"]
    assert prices.listed(provider="shop", model="M") == ("acme", model("m"))
    assert prices.listed(provider="shop", model="n") is None
    assert prices.listed(provider="unlisted", model="m") is None


def test_what_is_not_listed_has_no_price() -> None:
    prices = book(model("m"))
    assert prices.find(provider="acme", model="other", at_ms=0) is None
    assert prices.find(provider="acme", model="", at_ms=0) is None
    assert prices.find(provider="unlisted", model="m", at_ms=0) is None


def test_a_model_without_any_rate_has_no_price_and_a_rate_of_zero_is_free() -> None:
    assert cost_of_a_token(book(model("m", DatedRates(ALWAYS, ())))) is None
    assert cost_of_a_token(book(model("m", dated(0)))) == 0


def test_a_model_may_be_without_a_price_for_a_time() -> None:
    prices = book(model("m", DatedRates(ALWAYS, ()), dated(2, Validity(starts_at_ms=DAY_MS))))
    assert cost_of_a_token(prices, at_ms=0) is None
    assert cost_of_a_token(prices, at_ms=DAY_MS) == 2_000


def test_names_are_found_whatever_their_case() -> None:
    found = book(model("gpt-4o")).find(provider="acme", model="GPT-4o", at_ms=0)
    assert found is not None
    assert (found.price.provider, found.price.model) == ("acme", "gpt-4o")


@pytest.mark.parametrize(
    ("sent", "names"),
    [
        ("GPT-5.2", ("gpt-5.2",)),
        ("gpt-5.2-20251211", ("gpt-5.2-20251211", "gpt-5.2-2025-12-11")),
        ("far/gpt-20251211:free", ("far/gpt-20251211:free", "far/gpt-2025-12-11:free")),
        ("gpt-20240229-x", ("gpt-20240229-x", "gpt-2024-02-29-x")),
        ("gpt-20230229", ("gpt-20230229",)),
        ("gpt-20251311", ("gpt-20251311",)),
        ("gpt-19991231", ("gpt-19991231",)),
        ("gpt-202512110", ("gpt-202512110",)),
        ("gpt@20251211", ("gpt@20251211",)),
    ],
)
def test_a_compact_date_is_also_tried_with_dashes(sent: str, names: tuple[str, ...]) -> None:
    assert model_names(sent, provider="acme") == names


def test_the_name_as_sent_goes_before_the_one_with_a_dashed_date() -> None:
    prices = book(model("m-2025-12-11"), model("m-20251211"))
    found = prices.find(provider="acme", model="m-20251211", at_ms=0)
    assert found is not None
    assert found.price.model == "m-20251211"


SHORT_NAMES = ["".join(letters) for length in (1, 2, 3) for letters in product("ab", repeat=length)]


def starts_with(prefix: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(prefix)


@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from(SHORT_NAMES), max_size=2), st.none() | st.sampled_from(SHORT_NAMES)),
        max_size=6,
    )
)
def test_a_name_means_the_first_model_that_it_fits(listed: list[tuple[list[str], str | None]]) -> None:
    models = tuple(
        ModelPrices(
            id=str(position),
            names=tuple(names),
            matches=starts_with(prefix) if prefix is not None else None,
            dated=(dated(1),),
        )
        for position, (names, prefix) in enumerate(listed)
    )
    prices = book(*models)
    for name in SHORT_NAMES:
        fitting = [each.id for each in models if name in each.names or (each.matches and each.matches(name))]
        found = prices.find(provider="acme", model=name, at_ms=0)
        assert [found.price.model] == fitting[:1] if found else not fitting


def test_a_reseller_sells_what_it_does_not_list_at_the_makers_standard_prices() -> None:
    fast = RateVariant({"speed": "fast"}, dated(9))
    prices = PriceBook(
        [
            ProviderPrices("reseller", (model("own"), model("unpriced", DatedRates(ALWAYS, ()))), ("acme", "gone")),
            ProviderPrices("acme", (model("m", dated(2), variants=(fast,)), model("own"), model("unpriced")), ("far",)),
            ProviderPrices("far", (model("distant"),)),
        ],
        version="test",
    )

    def owner(name: str) -> str | None:
        found = prices.find(provider="reseller", model=name, at_ms=0)
        return found.price.provider if found else None

    assert owner("own") == "reseller"
    assert owner("m") == "acme"
    assert owner("unpriced") is None, "what the reseller lists without a price is not sold at the maker's"
    assert owner("distant") is None, "one step only"
    resold = prices.find(provider="reseller", model="m", at_ms=0, terms=fast.terms)
    assert resold is not None
    assert resold.price.cost_nanos(Usage(input=1)) == 2_000


def test_a_flood_of_names_does_not_fill_the_memory() -> None:
    prices = book(model("m"), replace(model("any"), matches=starts_with("any-")))
    tracemalloc.start()
    try:
        for number in range(12_000):
            prices.find(provider="acme", model=f"any-{number:0500}", at_ms=0)
        for number in range(100):
            prices.find(provider="acme", model=f"any-{number:0100000}", at_ms=0)
        for number in range(12_000):
            prices.find(provider=f"unlisted-{number:0500}", model="m", at_ms=0, terms={"tier": f"{number:0500}"})
            prices.find(provider="acme", model="m", at_ms=number, terms={"tier": f"{number:0500}"})
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 4_000_000
    assert prices.find(provider="acme", model="m", at_ms=0) is not None


# Premiums and fees


def with_surcharges(*, premiums: tuple[Premium, ...] = (), fees: tuple[Fees, ...] = ()) -> PriceBook:
    tiers = (RateTier(0, {"input": per_million(10), "pages": Rate(7, 1)}), RateTier(100, {"input": per_million(20)}))
    prices = ModelPrices("m", ("m",), (DatedRates(ALWAYS, tiers),), premiums=premiums, fees=fees)
    return PriceBook([ProviderPrices("acme", (prices,)), ProviderPrices("shop", (), ("acme",))], version="")


def charged(book: PriceBook, usage: Usage, *, provider: str = "acme", **terms: str) -> int:
    found = book.find(provider=provider, model="m", at_ms=0, terms=terms)
    assert found is not None
    return found.price.cost_nanos(usage)


def test_a_premium_is_on_the_tokens_of_requests_on_its_terms() -> None:
    book = with_surcharges(premiums=(Premium({"geo": "us"}, 110),))
    used = Usage(input=10, pages=1)
    assert charged(book, used) == charged(book, used, geo="global") == 100_000 + 7
    assert charged(book, used, geo="us") == charged(book, used, geo="us", speed="fast") == 110_000 + 7
    assert charged(book, Usage(input=101), geo="us") == 101 * 22_000
    assert charged(book, used, provider="shop", geo="us") == 100_000 + 7, "a reseller has terms of its own"


def test_fees_go_with_what_is_sold_by_tokens_and_names_no_rate_of_its_own() -> None:
    small, any_size = Fees({"code_sessions": Rate(2, 1)}, {"size": "s"}), Fees({"code_sessions": Rate(5, 1)}, {})
    book = with_surcharges(fees=(small, any_size, Fees({"pages": Rate(99, 1)}, {})))
    assert charged(book, Usage(code_sessions=3)) == charged(book, Usage(code_sessions=3), size="l") == 15
    assert charged(book, Usage(code_sessions=3), size="s") == 6
    assert charged(book, Usage(pages=1)) == 7
    by_the_page = ModelPrices(
        "m", ("m",), (DatedRates(ALWAYS, (RateTier(0, {"pages": Rate(7, 1)}),)),), fees=(any_size,)
    )
    assert charged(PriceBook([ProviderPrices("acme", (by_the_page,))], version=""), Usage(code_sessions=3)) == 0


def test_audio_that_is_sold_by_the_time_is_not_sold_by_tokens_too() -> None:
    rates = {"input": per_million(1), "output": per_million(2), "audio_ms": Rate(3, 1)}
    heard = Usage(audio_input=1_000, cached_audio_input=500, audio_output=1_000)
    assert flat(rates).cost_nanos(heard) == 0
    assert flat(rates).cost_nanos(heard._replace(input=1_000, audio_input_ms=5)) == 1_000_000 + 15
    assert flat(rates | {"audio_input": per_million(4)}).cost_nanos(heard) == 4_000_000


@pytest.mark.parametrize(
    ("provider", "sent", "also"),
    [
        ("google", "models/gemini-2.5-flash", "gemini-2.5-flash"),
        ("google", "publishers/google/models/gemini-2.5-flash", "gemini-2.5-flash"),
        ("google", "projects/p/locations/l/publishers/google/models/gemini-2.5-flash", "gemini-2.5-flash"),
        ("openai", "openai/gpt-4o", "gpt-4o"),
        ("groq", "openai/gpt-4o", None),
        ("openrouter", "openai/gpt-4o:online", "openai/gpt-4o"),
        ("aws", "openai.gpt-oss-120b", "openai.gpt-oss-120b-1:0"),
        ("openai", "openai.gpt-oss-120b", None),
    ],
)
def test_other_forms_of_a_name(provider: str, sent: str, also: str | None) -> None:
    names = model_names(sent, provider=provider)
    assert names[0] == sent
    assert also in names if also is not None else names == (sent,)
