"""Everything about the price of one model: the entry that its name means, every rate, and every other price of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from policyd.columns import aligned
from policyd.config.problems import did_you_mean, one_of
from policyd.core.errors import ConfigError
from policyd.core.model_names import model_names
from policyd.core.own_prices import OwnPrice
from policyd.core.price_book import DatedRates, ModelPrices, PricedModel, Validity
from policyd.core.pricing import Rate, RateTier
from policyd.core.times import iso_time
from policyd.pricelist.price_list import PriceList
from policyd.pricelist.rates import ShownTier, rates_text, shown_rate, shown_tiers
from policyd.pricelist.sellers import check_sells, has_price, sellers
from policyd.prices.table import Model

IN_FORCE = "in force"
TO_COME = "to come"
PAST = "past"
REPLACED = "replaced"

TABLE = "table"

_STANDARD_TIERS = ("auto", "default", "standard")


@dataclass(frozen=True, slots=True)
class OnePrice:
    """One of the prices that are known of a model."""

    source: str
    """`table`, what published it where that is not the table's source, or the place in the policy file."""
    applies: str
    """When: `always`, `since ...`, or a time of day."""
    terms: Mapping[str, str]
    rates: str
    state: str
    """At the moment that was asked about: in force, to come, past, replaced by the operator; or none of these."""


@dataclass(frozen=True, slots=True)
class Explanation:
    model: str
    """As it was asked for."""
    provider: str
    at: str
    terms: Mapping[str, str]
    entry: str
    """What the name means: a provider and its model in the table, or a place in the policy file."""
    matched_by: str
    sources: tuple[str, ...]
    """The files that the price comes from."""
    urls: tuple[str, ...]
    """Where the provider publishes its prices."""
    context_tokens_max: int | None
    tiers: tuple[ShownTier, ...]
    """What is charged; nothing if the model has no price."""
    prices: tuple[OnePrice, ...]
    """Every price of the model: the table's, then the operator's own."""
    also_at: tuple[str, ...]
    """Other providers that have a price for a model of this name."""


def explain(
    prices: PriceList, model: str, *, provider: str | None, at_ms: int, service_tier: str | None
) -> Explanation:
    """The price of `model` at `provider`; if that is `None`, at its maker or whoever sells it.

    Raises `ModelUnpriced` if nothing is known of the model, and `ConfigError` for a tier that it is not sold on.
    """
    others: tuple[str, ...] = ()
    if provider is None:
        provider, *rest = sellers(prices, model, at_ms=at_ms)
        others = tuple(each for each in rest if has_price(prices, each, model, at_ms=at_ms))
    else:
        check_sells(prices, provider, model)
    listed = prices.tariff.book.listed(provider=provider, model=model)
    terms = _terms(prices, listed, provider=provider, model=model, service_tier=service_tier)
    priced = prices.tariff.find(provider=provider, model=model, at_ms=at_ms, terms=terms)
    own = prices.tariff.find_own(provider=provider, model=model, at_ms=at_ms, terms=terms)
    return Explanation(
        model=model,
        provider=provider,
        at=iso_time(at_ms),
        terms=terms,
        entry=_entry(prices, listed, own),
        matched_by=_matched_by(prices, model, listed, own),
        sources=tuple(_sources(prices, listed, own)),
        urls=prices.providers[listed[0]].urls if listed is not None else (),
        context_tokens_max=_context_tokens_max(priced, listed),
        tiers=shown_tiers(priced.price.tiers) if priced is not None else (),
        prices=(
            *(
                _listed_prices(prices, listed, provider, at_ms=at_ms, terms=terms, own=own)
                if listed is not None
                else ()
            ),
            *_own_prices(prices, model, provider, at_ms=at_ms, in_force=own),
        ),
        also_at=others,
    )


Found = tuple[str, ModelPrices]
"""The provider whose table has a model, and what it says."""


def _terms(
    prices: PriceList, listed: Found | None, *, provider: str, model: str, service_tier: str | None
) -> Mapping[str, str]:
    """The terms that people mean by a service tier: providers call them by several names."""
    if service_tier is None or service_tier in _STANDARD_TIERS:
        return {}
    sold: list[Mapping[str, str]] = []
    if listed is not None and listed[0] == provider:
        known = listed[1]
        sold = [
            *(variant.terms for variant in known.variants),
            *(premium.terms for premium in known.premiums),
            *(fees.terms for fees in known.fees),
        ]
    sold += [entry.terms for entry in prices.own.fitting(provider=provider, model=model)]
    values = tuple(dict.fromkeys(value for terms in sold for value in terms.values()))
    if service_tier not in values:
        others = f"expected {one_of(values)}" if values else "expected none: this model has one price on all terms"
        hint = did_you_mean(service_tier, values)
        raise ConfigError(f'--service-tier: found "{service_tier}", {others}{hint}')
    return {name: value for terms in sold for name, value in terms.items() if value == service_tier}


def _entry(prices: PriceList, listed: Found | None, own: OwnPrice | None) -> str:
    if own is not None:
        return _place(prices, own)
    return f"{listed[0]} {listed[1].id}" if listed is not None else ""


def _matched_by(prices: PriceList, model: str, listed: Found | None, own: OwnPrice | None) -> str:
    if own is not None:
        return f"the pattern {own.model}"
    if listed is None:
        return ""
    entry = prices.entry(listed[0], listed[1].id)
    names = model_names(model, provider=listed[0])
    return next((reason for name in names if (reason := _reason(entry, name))), "another form of its name")


def _reason(entry: Model, name: str) -> str:
    """By what an entry of the table takes a name for its own; empty if it does not."""
    if name in entry.names:
        return f"the name {name}"
    pattern = next((pattern for pattern in entry.patterns if pattern.matches(name)), None)
    return f"the pattern {msgspec.json.encode(pattern).decode()}" if pattern is not None else ""


def _sources(prices: PriceList, listed: Found | None, own: OwnPrice | None) -> Iterator[str]:
    if own is not None:
        yield prices.policy_name
    if listed is not None:
        yield f"{prices.entry(listed[0], listed[1].id).source or prices.table.source}, {prices.table_name}"


def _place(prices: PriceList, own: OwnPrice) -> str:
    index = next(index for index, entry in enumerate(prices.own.entries) if entry is own)
    return f"prices[{index}]"


def _context_tokens_max(priced: PricedModel | None, listed: Found | None) -> int | None:
    if priced is not None:
        return priced.context_tokens_max
    return listed[1].context_tokens_max if listed is not None else None


# --- every price of the model ---


def _listed_prices(
    prices: PriceList, listed: Found, provider: str, *, at_ms: int, terms: Mapping[str, str], own: OwnPrice | None
) -> Iterator[OnePrice]:
    owner, known = listed
    entry, of = prices.entry(owner, known.id), prices.providers[owner]
    # A reseller takes over the maker's standard prices alone.
    own_terms = terms if owner == provider else {}
    selection = known.select(at_ms, own_terms)
    chosen = IN_FORCE if own is None else REPLACED
    for index, dated in enumerate(known.dated):
        state = chosen if index == selection.dated else _dated_state(known.dated[index:], at_ms=at_ms)
        yield OnePrice(entry.source or TABLE, _applies(dated.validity), {}, _text(dated.tiers), state)
    if owner == provider:
        for index, (variant, sold) in enumerate(zip(known.variants, entry.variants, strict=True)):
            rates = variant.rates
            state = chosen if index in selection.variants else _dated_state((rates,), at_ms=at_ms)
            source = sold.source or entry.source or TABLE
            yield OnePrice(source, _applies(rates.validity), variant.terms, _text(rates.tiers), state)
    for premium in (each for each in of.premiums if each.is_for(entry)):
        state = chosen if premium.terms.items() <= own_terms.items() else ""
        rates_told = f"{premium.percent} % of the rates for tokens"
        yield OnePrice(premium.source, _ALWAYS, premium.terms, rates_told, state)
    for fees in (each for each in of.fees if each.is_for(entry)):
        state = chosen if fees.terms.items() <= own_terms.items() else ""
        shown = (shown_rate(kind, Rate(*rate)) for kind, rate in fees.rates.items())
        rates_told = ", ".join(f"{rate.kind} {rate.text}" for rate in shown)
        yield OnePrice(fees.source, _ALWAYS, fees.terms, rates_told, state)


def _text(tiers: tuple[RateTier, ...]) -> str:
    return rates_text(shown_tiers(tiers))


def _dated_state(dated: tuple[DatedRates, ...], *, at_ms: int) -> str:
    """The state of the first of `dated`, which is not in force, from those that come after it."""
    if (dated[0].validity.starts_at_ms or at_ms) > at_ms:
        return TO_COME
    later = (each.validity for each in dated[1:])
    return PAST if any(each.daily_ms is None and each.covers(at_ms) for each in later) else ""


def _own_prices(
    prices: PriceList, model: str, provider: str, *, at_ms: int, in_force: OwnPrice | None
) -> Iterator[OnePrice]:
    for entry in prices.own.fitting(provider=provider, model=model):
        if entry is in_force:
            state = IN_FORCE
        elif not entry.in_effect(at_ms):
            state = TO_COME
        elif in_force is not None and entry.subject == in_force.subject:
            state = PAST
        else:
            state = ""
        applies = _applies(Validity(starts_at_ms=entry.starts_at_ms))
        rates_told = f"as {entry.price_as}" if entry.price_as else _text(entry.tiers)
        yield OnePrice(_place(prices, entry), applies, entry.terms, rates_told, state)


_ALWAYS = "always"
_DAY_MS = 86_400_000


def _applies(validity: Validity) -> str:
    if validity.starts_at_ms is not None:
        instant = iso_time(validity.starts_at_ms)
        return f"since {instant if validity.starts_at_ms % _DAY_MS else instant[:10]}"
    if validity.daily_ms is not None:
        start, end = (iso_time(at_ms)[11:16] for at_ms in validity.daily_ms)
        return f"{start} to {end} UTC"
    return _ALWAYS


# --- text ---


def explanation_text(told: Explanation) -> str:
    facts = [
        ("model", told.model),
        ("provider", told.provider),
        ("at", told.at),
        ("on", _terms_text(told.terms) or "standard terms"),
        ("entry", f"{told.entry}, by {told.matched_by}" if told.entry else "none"),
        *(("source" if index == 0 else "", source) for index, source in enumerate(told.sources)),
        *(("published at", url) for url in told.urls[:1]),
        ("context", f"{told.context_tokens_max} tokens" if told.context_tokens_max else "not published"),
    ]
    if told.also_at:
        facts.append(("also at", ", ".join(told.also_at)))
    blocks = [aligned(facts), _charged(told)]
    if told.prices:
        rows = [(each.source, _terms_text(each.terms), each.applies, each.state, each.rates) for each in told.prices]
        blocks.append(["every price of it", *aligned(rows, indent="  ")])
    return "\n\n".join("\n".join(block) for block in blocks)


def _charged(told: Explanation) -> list[str]:
    if not told.tiers:
        return ["it has no price: what becomes of it says `unknown_model` in the policy"]
    heading = [
        "USD",
        *(f"above {tier.above_input_tokens}" if tier.above_input_tokens else "" for tier in told.tiers),
        "",
    ]
    rows: dict[str, list[str]] = {}
    for column, tier in enumerate(told.tiers, start=1):
        for rate in tier.rates:
            # A tier says only what changes: the rest is as below it.
            row = rows.setdefault(rate.kind, [rate.kind, *[""] * len(told.tiers), rate.unit])
            row[column:-1] = [rate.text] * (len(told.tiers) + 1 - column)
    return aligned([heading, *rows.values()], right=range(1, len(told.tiers) + 1))


def _terms_text(terms: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in terms.items())
