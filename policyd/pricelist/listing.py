"""One line a model: what it costs now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from policyd.columns import aligned
from policyd.config.problems import did_you_mean
from policyd.core.errors import ConfigError
from policyd.core.own_prices import OWN, OwnPrice
from policyd.core.price_book import ModelPrices, PricedModel
from policyd.core.pricing import NO_TERMS, Price
from policyd.core.times import iso_time
from policyd.pricelist.price_list import PriceList
from policyd.pricelist.rates import ShownTier, shown_tiers
from policyd.pricelist.sellers import ANY_PROVIDER
from policyd.prices.table import Model, Provider, model_prices

_HEADINGS = ("PROVIDER", "MODEL", "INPUT", "CACHED", "OUTPUT", "CONTEXT", "NOTES")
_NUMBERS = (2, 3, 4, 5)


@dataclass(frozen=True, slots=True)
class Listed:
    """A model, or the pattern of an own price, and its standard price at the moment of the listing."""

    provider: str
    model: str
    source: str
    """`table` or `policy`."""
    tiers: tuple[ShownTier, ...]
    """None if it has no price."""
    context_tokens_max: int | None
    notes: tuple[str, ...]
    """What else there is to know of its price."""


def listing(prices: PriceList, *, at_ms: int, provider: str | None, search: str | None) -> tuple[Listed, ...]:
    """The own prices, then the models of the table, in order; those of `provider`, and with `search` in a name.

    Raises `ConfigError` for a provider that has no price.
    """
    known = {*prices.providers, *(entry.provider for entry in prices.own.entries if entry.provider is not None)}
    if provider is not None and provider not in known:
        raise ConfigError(f'--provider: no prices are known of "{provider}"' + did_you_mean(provider, sorted(known)))
    wanted = (search or "").lower()
    return (
        *(
            _own(entry, at_ms=at_ms)
            for entry in prices.own.entries
            if provider in {None, entry.provider} and wanted in entry.model
        ),
        *(
            _listed(prices, each, model, at_ms=at_ms)
            for each in prices.table.providers
            if provider in {None, each.id}
            for model in each.models
            if any(wanted in name for name in (model.id.lower(), *model.names))
        ),
    )


def _own(entry: OwnPrice, *, at_ms: int) -> Listed:
    notes = [f"from {iso_time(entry.starts_at_ms)}"] if entry.starts_at_ms is not None else []
    if not entry.in_effect(at_ms):
        notes.append("to come")
    notes += [f"{name}={value}" for name, value in entry.terms.items()]
    if entry.price_as:
        notes.append(f"as {entry.price_as}")
    return Listed(
        provider=entry.provider or ANY_PROVIDER,
        model=entry.model,
        source=OWN,
        tiers=shown_tiers(entry.tiers),
        context_tokens_max=entry.context_tokens_max,
        notes=(OWN, *notes, *_price_notes(entry.priced)),
    )


def _listed(prices: PriceList, provider: Provider, model: Model, *, at_ms: int) -> Listed:
    known = model_prices(model, provider=provider)
    priced = _standard(provider.id, known, at_ms=at_ms)
    own = prices.tariff.find_own(provider=provider.id, model=model.id, at_ms=at_ms)
    if own is not None:
        priced = prices.tariff.find(provider=provider.id, model=model.id, at_ms=at_ms)
    return Listed(
        provider=provider.id,
        model=model.id,
        source="table" if own is None else OWN,
        tiers=shown_tiers(priced.price.tiers) if priced is not None else (),
        context_tokens_max=priced.context_tokens_max if priced is not None else model.context_tokens_max,
        notes=(
            *([OWN] if own is not None else ()),
            *(_price_notes(priced) if priced is not None else ["no price"]),
            *(["changes over time"] if len(known.dated) > 1 else ()),
            *dict.fromkeys(value for variant in known.variants for value in variant.terms.values()),
        ),
    )


def _standard(provider: str, known: ModelPrices, *, at_ms: int) -> PricedModel | None:
    tiers = known.tiers(known.select(at_ms, NO_TERMS))
    if not tiers:
        return None
    return PricedModel(Price(provider=provider, model=known.id, tiers=tiers), known.context_tokens_max)


def _price_notes(priced: PricedModel) -> Iterator[str]:
    """What of the price has no column."""
    if priced.price.tiers and not priced.price.is_by_tokens:
        (base,) = shown_tiers(priced.price.tiers[:1])
        yield from (f"{rate.kind} {rate.text} {rate.unit}" for rate in base.rates)
    for tier in priced.price.tiers[1:]:
        yield f"dearer above {tier.above_input_tokens}"


def listing_text(models: Sequence[Listed]) -> str:
    """USD for a million tokens, a line a model; what else is charged for stands in the notes."""
    if not models:
        return "no model has such a name"
    rows = [_HEADINGS, *map(_row, models)]
    return "\n".join((*aligned(rows, right=_NUMBERS), "", f"{len(models)} models, USD for a million tokens"))


def _row(model: Listed) -> tuple[str, ...]:
    base = {rate.kind: rate.text for rate in model.tiers[0].rates} if model.tiers else {}
    return (
        model.provider,
        model.model,
        base.get("input", "-"),
        base.get("cached_input", "-"),
        base.get("output", "-"),
        str(model.context_tokens_max or "-"),
        ", ".join(model.notes),
    )
