"""Who sells a model."""

from __future__ import annotations

from policyd.config.problems import did_you_mean
from policyd.core.errors import ModelUnpriced
from policyd.pricelist.price_list import PriceList

ANY_PROVIDER = "*"
"""Stands for whoever an own price without a provider is for."""


def sellers(prices: PriceList, model: str, *, at_ms: int) -> tuple[str, ...]:
    """Every provider that is known to sell a model of this name; the one whose price people mean comes first.

    Those who have a price come before those who do not, those who list the model before those who resell it, makers
    first. Raises `ModelUnpriced` if there are none.
    """
    listed = [each for each in prices.tariff.providers if prices.tariff.book.listed(provider=each, model=model)]
    listed.sort(key=lambda provider: _distance(prices, provider, model, at_ms=at_ms))
    own = ((entry, entry.provider or ANY_PROVIDER) for entry in prices.own.entries)
    found = (*listed, *(provider for entry, provider in own if entry.fits(provider=provider, name=model.lower())))
    if not found:
        names = {each.id for provider in prices.table.providers for each in provider.models}
        raise ModelUnpriced(f'no price is known of the model "{model}"{did_you_mean(model, sorted(names))}')
    return tuple(dict.fromkeys(found))


def _distance(prices: PriceList, provider: str, model: str, *, at_ms: int) -> tuple[bool, bool]:
    listed = prices.tariff.book.listed(provider=provider, model=model)
    return not has_price(prices, provider, model, at_ms=at_ms), listed is None or listed[0] != provider


def check_sells(prices: PriceList, provider: str, model: str) -> None:
    """Raises `ModelUnpriced` if nothing is known of a model at a provider."""
    if prices.tariff.book.listed(provider=provider, model=model) or prices.own.fitting(provider=provider, model=model):
        return
    listed = prices.providers.get(provider)
    names = {each.id for each in listed.models} if listed is not None else set()
    raise ModelUnpriced(f'no price is known of the model "{model}" at {provider}{did_you_mean(model, sorted(names))}')


def has_price(prices: PriceList, provider: str, model: str, *, at_ms: int) -> bool:
    return prices.tariff.find(provider=provider, model=model, at_ms=at_ms) is not None
