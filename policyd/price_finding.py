"""Finding prices: of what a request asks for, and of what has served it.

Joins the tariff with what is known of providers: who resells whose models, and under which names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from policyd.core.errors import ConfigError, ModelUnpriced
from policyd.core.own_prices import Tariff
from policyd.core.policy import Policy, UnknownModel, UnknownModelAction
from policyd.core.price_book import PriceBook, PricedModel
from policyd.core.pricing import Price
from policyd.core.record import Record
from policyd.providers.vendors import vendor_named


def find_price(
    tariff: Tariff, *, provider: str, model: str, terms: Mapping[str, str], at_ms: int, unknown: UnknownModel
) -> PricedModel | None:
    """The price of a model by its name at `provider`, by that of its maker, or as the policy takes unknown models.

    `None` for a model that the policy makes free. Raises `ModelUnpriced`.
    """
    vendor = vendor_named(provider)
    found = tariff.find(provider=provider, model=model, at_ms=at_ms, terms=terms)
    if found is None and vendor.resells:
        maker, _, name = model.lower().partition("/")
        # The maker's service tiers and fees by its terms are not what a reseller sells.
        found = tariff.find(provider=vendor_named(maker).id, model=name, at_ms=at_ms, terms={})
    served_as = vendor.served_as.get(model.lower())
    if served_as is not None and (found is None or not found.own):
        found = tariff.find(provider=provider, model=served_as, at_ms=at_ms, terms=terms) or found
    if found is not None:
        return found
    if unknown.action is UnknownModelAction.FREE:
        return None
    if unknown.action is UnknownModelAction.PRICE_AS and unknown.model is not None:
        # The guess's context window says nothing about the model's own.
        guess = tariff.find_anywhere(model=unknown.model, at_ms=at_ms)
        if guess is not None:
            return replace(guess, context_tokens_max=None)
    raise ModelUnpriced(f"the model {model!r} has no known price at {provider}")


def price_served(
    record: Record, asked: Price | None, tariff: Tariff, *, response_model: str | None, terms: Mapping[str, str]
) -> Price | None:
    """The price of the model and the terms that served; of those that were asked for where the reply names none.

    It is the price of the request's moment, whenever the reply came. A price that the operator set for the name that
    was asked for gives way only to one that they set for the name in the reply: who prices a deployment or an alias
    means it, whichever of the provider's models is behind it.
    """
    if asked is None or (response_model is None and not terms):
        return asked
    all_terms = {**record.terms, **terms}
    meant = tariff.find(provider=record.provider, model=record.model, at_ms=record.at_ms, terms=all_terms)
    named = meant
    if response_model and response_model != record.model:
        named = tariff.find(provider=record.provider, model=response_model, at_ms=record.at_ms, terms=all_terms)
    if named is None or (not named.own and meant is not None and meant.own):
        named = meant
    return named.price if named is not None else asked


def check_models(policy: Policy, prices: PriceBook, *, now_ms: int) -> None:
    """Raises `ConfigError` for models that stand in for others and have no price themselves."""
    tariff = Tariff(prices, policy.prices)
    named = [("unknown_model.price_as", policy.unknown_model.model)]
    named += [(f"prices[{index}].price_as", own.price_as) for index, own in enumerate(policy.prices.entries)]
    named += [(f"switch_to of the limit {limit.name}", limit.switch_to) for limit in policy.limits]
    named += [(f"switch_to of the rule {rule.name}", rule.switch_to) for rule in policy.rules]
    mistakes = [
        f'{where}: found "{model}", expected a model with a known price'
        for where, model in dict.fromkeys(named)
        if model and tariff.find_anywhere(model=model, at_ms=now_ms) is None
    ]
    if mistakes:
        raise ConfigError(*mistakes)
