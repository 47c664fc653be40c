"""Every price of the table gives the cost that genai-prices itself calculates, to the nano-USD.

For every model: at every moment at which its prices change, on the terms of every variant, with random usages and with
inputs that just reach and just pass every tier.
"""

from __future__ import annotations

import decimal
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from math import ceil
from random import Random

import msgspec
import pytest
from genai_prices import types as genai
from genai_prices.data import providers as genai_providers

from policyd.core.usage import KINDS, Usage
from policyd.prices.compile import KIND_BY_PRICE_KEY
from policyd.prices.published import PUBLISHED
from policyd.prices.table import Model, Provider, Table, price_book, read_table

OUR_PROVIDERS = {provider.id: provider for provider in read_table().providers}
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
RANDOM_USAGES = 4
TIMES = ("audio_input_ms", "audio_ms")
AUDIO_TOKENS = ("audio_input", "cached_audio_input", "audio_output")


def test_every_provider_and_model_is_there_in_order() -> None:
    published = {id_: [model.id for model in each.models] for id_, each in PUBLISHED.items()}
    assert {id_: [model.id for model in provider.models] for id_, provider in OUR_PROVIDERS.items()} == {
        provider.id: [*(model.id for model in provider.models), *published.get(provider.id, ())]
        for provider in genai_providers
    }


@pytest.mark.parametrize("provider", genai_providers, ids=lambda provider: provider.id)
def test_costs_agree(provider: genai.Provider) -> None:
    ours = OUR_PROVIDERS[provider.id].models
    with decimal.localcontext(prec=80):  # so that genai-prices is exact too
        disagreements = [
            disagreement
            for our_model, their_model in zip(ours[: len(provider.models)], provider.models, strict=True)
            for disagreement in compare(provider, our_model, their_model)
        ]
    assert not disagreements


def compare(provider: genai.Provider, ours: Model, theirs: genai.ModelInfo) -> Iterator[str]:
    """What differs between the two prices of one model."""
    named = msgspec.structs.replace(ours, names=("it",))
    book = price_book(Table(source="", providers=(Provider(id=provider.id, models=(named,)),)))
    random = Random(f"{provider.id} {theirs.id}")
    for at in moments(theirs):
        for terms in contexts(theirs):
            found = book.find(provider=provider.id, model="it", at_ms=milliseconds_since_epoch(at), terms=terms)
            prices = theirs.get_prices(at, terms)
            if not is_priced(prices):
                if found is not None:
                    yield f"{theirs.id} at {at} on {terms} has no price, and got one"
                continue
            for usage in usages(prices, random):
                cost = found.price.cost_nanos(usage) if found else None
                expected = cost_of(theirs, provider, usage, at, terms)
                if cost != expected:
                    yield f"{theirs.id} at {at} on {terms}: {usage} costs {expected}, not {cost}"


def is_priced(prices: genai.ModelPrice) -> bool:
    return any(value is not None and key in KIND_BY_PRICE_KEY for key, value in vars(prices).items())


def moments(model: genai.ModelInfo) -> list[datetime]:
    """Now, and the last moment before and the first one after each change of the model's prices."""
    prices = model.prices if isinstance(model.prices, list) else []
    changes: set[datetime] = set()
    times: set[time] = set()
    for constraint in (each.constraint for each in (*prices, *(model.price_variants or ()))):
        if isinstance(constraint, genai.StartDateConstraint):
            changes.add(datetime.combine(constraint.start_date, time(), UTC))
        elif isinstance(constraint, genai.TimeOfDateConstraint):
            times |= {constraint.start_time, constraint.end_time}
    days = {NOON.date(), date(2020, 1, 1), date(2040, 1, 1), *(change.date() for change in changes)}
    changes |= {datetime.combine(day, at).replace(tzinfo=UTC) for day in days for at in times}
    return [NOON, *(change - MILLISECOND for change in changes), *changes]


def milliseconds_since_epoch(at: datetime) -> int:
    return (at - datetime.fromtimestamp(0, UTC)) // MILLISECOND


def contexts(model: genai.ModelInfo) -> list[dict[str, str]]:
    """Standard terms, those of each variant, those of all variants at once, and some that no variant is for."""
    terms = [variant.when for variant in model.price_variants or ()]
    together = {key: value for each in terms for key, value in each.items()}
    distinct = [dict(items) for items in dict.fromkeys(tuple(each.items()) for each in (*terms, together))]
    return [{}, {"service_tier": "unheard-of"}, *distinct] if terms else [{}]


def usages(prices: genai.ModelPrice, random: Random) -> Iterator[Usage]:
    for _ in range(RANDOM_USAGES):
        drawn = {kind: random.choice((0, random.randrange(10 ** random.randint(1, 6)))) for kind in KINDS}
        for kind in TIMES:
            # genai-prices counts seconds, and takes ten at least where that is charged: so does who reads the reply.
            drawn[kind] *= 10_000
        if prices.audio_hours is not None:
            # Where audio is sold by the time, its tokens are not sold again.
            drawn |= dict.fromkeys(AUDIO_TOKENS, 0)
        yield Usage(**drawn | {"requests": int(prices.requests_kcount is not None)})
    starts = {
        tier.start for price in vars(prices).values() if isinstance(price, genai.TieredPrices) for tier in price.tiers
    }
    for start in starts:
        for input_tokens in (start, start + 1):
            rest = input_tokens
            cached = random.randrange(rest)
            written = random.randrange(rest - cached)
            yield Usage(
                input=rest - cached - written,
                cached_input=cached,
                cache_write_5m=written,
                output=random.randrange(9_999),
                requests=int(prices.requests_kcount is not None),
            )


def cost_of(
    model: genai.ModelInfo, provider: genai.Provider, usage: Usage, at: datetime, terms: Mapping[str, str]
) -> int:
    """Nano-USD that genai-prices calculates, rounded up."""
    calculated = model.calc_price(their_usage(usage), provider, genai_request_timestamp=at, price_context=terms)
    return ceil(calculated.total_price * 10**9)


def their_usage(usage: Usage) -> genai.Usage:
    """`usage` as genai-prices counts: totals, and what they include of each kind."""
    return genai.Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_input + usage.cached_audio_input + usage.cached_image_input,
        cache_audio_read_tokens=usage.cached_audio_input,
        cache_image_read_tokens=usage.cached_image_input,
        cache_write_tokens=usage.cache_write_5m + usage.cache_write_1h,
        cache_write_5m_tokens=usage.cache_write_5m,
        cache_write_1h_tokens=usage.cache_write_1h,
        input_audio_tokens=usage.audio_input + usage.cached_audio_input,
        input_image_tokens=usage.image_input + usage.cached_image_input,
        output_tokens=usage.output_tokens,
        output_reasoning_tokens=usage.reasoning,
        output_audio_tokens=usage.audio_output,
        input_video_tokens=usage.video_input,
        output_image_tokens=usage.image_output,
        output_video_tokens=usage.video_output,
        output_citation_tokens=usage.citation,
        web_searches=usage.web_searches,
        social_searches=usage.social_searches,
        storage_searches=usage.file_searches,
        code_executions=usage.code_sessions,
        rerank_searches=usage.search_units,
        input_document_pages=usage.pages + usage.annotated_pages,
        input_annotated_document_pages=usage.annotated_pages,
        audio_seconds=(usage.audio_input_ms + usage.audio_ms) // 1_000,
        input_audio_seconds=usage.audio_input_ms // 1_000,
        input_characters=usage.characters,
        input_text_messages=usage.text_messages,
    )
