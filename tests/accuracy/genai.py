"""What genai-prices itself calculates for a usage, beside what we do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import localcontext

from genai_prices.data import providers as genai_providers
from genai_prices.types import ModelInfo, ModelPrice
from genai_prices.types import Provider as GenaiProvider

from policyd.core.estimate import cost_nanos
from policyd.core.pricing import Price
from policyd.core.usage import PIECE_KINDS, Usage
from policyd.estimator import with_request_fee
from policyd.prices.compile import KIND_BY_PRICE_KEY
from tests.prices.test_price_agreement import AUDIO_TOKENS, cost_of, is_priced


def price_disagreement(
    price: Price | None, usage: Usage, *, provider: str, models: tuple[str, ...], at_ms: int, terms: Mapping[str, str]
) -> str | None:
    """How the costs differ by more than a nano-USD, empty where they agree; `None` where it prices none of `models`."""
    theirs = _GENAI.get(provider)
    known = next((found for name in models if (found := _genai_model(theirs, name))), None)
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    if theirs is None or known is None or not is_priced(known.get_prices(at, terms)):
        return None
    usage = with_request_fee(_priced_by_genai(usage, known.get_prices(at, terms)), price)
    with localcontext() as context:
        context.prec = 80
        expected = cost_of(known, theirs, usage, at, terms)
    ours = cost_nanos(price, usage)
    return f"{ours} nano-USD, not {expected}" if abs(ours - expected) > 1 else ""


_GENAI = {provider.id: provider for provider in genai_providers}


def _genai_model(provider: GenaiProvider | None, name: str) -> ModelInfo | None:
    return provider.find_model(name, all_providers=genai_providers) if provider is not None and name else None


def _priced_by_genai(usage: Usage, prices: ModelPrice) -> Usage:
    """`usage` without what genai-prices has no price for: fees that it leaves out, audio that is sold by the time."""
    priced = {KIND_BY_PRICE_KEY[key] for key, price in vars(prices).items() if price is not None}
    left_out = {*PIECE_KINDS} - priced
    if prices.audio_hours is not None:
        left_out |= {*AUDIO_TOKENS}
    return usage._replace(**dict.fromkeys(left_out, 0))
