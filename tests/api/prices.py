"""A small price book at round prices."""

from __future__ import annotations

from policyd.core.price_book import DatedRates, ModelPrices, PriceBook, ProviderPrices, RateVariant, Validity
from policyd.core.pricing import Rate, RateTier

INPUT_NANOS = 1_000
"""What an input token of gpt-4o costs."""

OUTPUT_NANOS = 4_000

RISE_MS = 1_800_003_600_000
"""When gpt-4o-rising gets dearer."""

LONG_INPUT_TOKENS = 100_000
"""Input above which gpt-4o costs double."""


def price_book() -> PriceBook:
    """gpt-4o, half as dear in a batch, and others by what sets them apart from it.

    gpt-4o-mini costs a tenth, gpt-4o-rising double from `RISE_MS` on, gpt-4o-caching a quarter more for a cache write.
    """
    gpt_4o = ModelPrices(
        id="gpt-4o",
        names=("gpt-4o",),
        dated=(_dated(_rates(1), _rates(2, above=LONG_INPUT_TOKENS)),),
        variants=(RateVariant({"processing": "batch"}, _dated(_rates(1, 2))),),
    )
    mini = ModelPrices("gpt-4o-mini", ("gpt-4o-mini",), (_dated(_rates(1, 10)),))
    before, after = DatedRates(Validity(), (_rates(1),)), DatedRates(Validity(starts_at_ms=RISE_MS), (_rates(2),))
    rising = ModelPrices("gpt-4o-rising", ("gpt-4o-rising",), (before, after))
    writing = {"input": Rate(INPUT_NANOS, 1), "cache_write_5m": Rate(INPUT_NANOS * 5, 4)}
    caching = ModelPrices("gpt-4o-caching", ("gpt-4o-caching",), (_dated(RateTier(0, writing)),))
    return PriceBook([ProviderPrices("openai", (gpt_4o, mini, rising, caching))], version="made up")


def _rates(numerator: int, denominator: int = 1, *, above: int = 0) -> RateTier:
    per_token = {"input": INPUT_NANOS, "cached_input": INPUT_NANOS // 2, "output": OUTPUT_NANOS}
    return RateTier(above, {kind: Rate(nanos * numerator, denominator) for kind, nanos in per_token.items()})


def _dated(*tiers: RateTier) -> DatedRates:
    return DatedRates(Validity(), tiers)
