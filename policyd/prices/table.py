"""The form of the price table, and its reader.

The table is JSON with one model a line, so that a change of prices reads well in a diff:

    {"source":"genai-prices 1.2.3","providers":[
    {"id":"acme","fallbacks":["openai"],"models":[
    {"id":"large","names":["large","large-latest"],"prices":[{"tiers":[[0,{"input":[3000000000,1000000]}]]}]},
    {"id":"small","patterns":[["starts_with","small-"]],"prices":[{"tiers":[[0,{"input":[500000000,1000000]}]]}]}
    ]}
    ]}

A rate is `[nanos, per]`: integer nano-USD for an integer number of units, so that every published price is exact. A
tier is `[above_input_tokens, rates]`. A provider can have `premiums` on the rates of its models, and `fees` that go
with them. The types below are the whole form, and reading holds the table against them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, time, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

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
from policyd.core.pricing import Rate, RateTier

TABLE_PATH = Path(__file__).with_name("data") / "prices.json"


class StartsWith(msgspec.Struct, frozen=True, array_like=True, tag="starts_with"):
    text: str

    def matches(self, name: str) -> bool:
        return name.startswith(self.text)


class EndsWith(msgspec.Struct, frozen=True, array_like=True, tag="ends_with"):
    text: str

    def matches(self, name: str) -> bool:
        return name.endswith(self.text)


class Contains(msgspec.Struct, frozen=True, array_like=True, tag="contains"):
    text: str

    def matches(self, name: str) -> bool:
        return self.text in name


class Regex(msgspec.Struct, frozen=True, array_like=True, tag="regex"):
    """A regular expression to be found in the name. `re` compiles it on first use and remembers it."""

    regex: str

    def matches(self, name: str) -> bool:
        return re.search(self.regex, name) is not None


class AllOf(msgspec.Struct, frozen=True, array_like=True, tag="all_of"):
    patterns: tuple[Pattern, ...]

    def matches(self, name: str) -> bool:
        return all(pattern.matches(name) for pattern in self.patterns)


Pattern = StartsWith | EndsWith | Contains | Regex | AllOf
"""A condition on a model's name in lower case."""

Rates = dict[str, tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(gt=0)]]]
"""Rates by kind of usage."""

Tier = tuple[Annotated[int, Meta(ge=0)], Rates]
"""Above how many input tokens, and the rates from there on."""

TimeOfDay = Annotated[time, Meta(tz=False)]


class Prices(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Rates, and since which UTC day or between which UTC times of day they apply; always if neither is given."""

    since: date | None = None
    daily: tuple[TimeOfDay, TimeOfDay] | None = None
    tiers: tuple[Tier, ...] = ()
    """From 0 upwards; none if there is no rate for any kind of usage."""


class Variant(Prices, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Rates for requests on other terms than the standard ones."""

    source: str = ""
    """What published them, and when, if it is not what the table's `source` names."""
    terms: Annotated[dict[str, str], Meta(min_length=1)]


class Model(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One model, meant by any of `names` and by every name that one of `patterns` matches, all in lower case."""

    id: str
    source: str = ""
    """What published its prices, and when, if it is not what the table's `source` names."""
    names: tuple[str, ...] = ()
    patterns: tuple[Pattern, ...] = ()
    context_tokens_max: Annotated[int, Meta(gt=0)] | None = None
    prices: Annotated[tuple[Prices, ...], Meta(min_length=1)]
    """The last one that applies counts; if none does, the first."""
    variants: tuple[Variant, ...] = ()
    """For each kind of usage the first one counts that applies and has a rate for it."""


class ForModels(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Something that a provider charges for several of its models, on any terms unless it names some."""

    source: str
    """What published it, and when."""
    models: tuple[Pattern, ...] = ()
    """By their ids; none: all of the provider's."""
    terms: dict[str, str] = {}

    def is_for(self, model: Model) -> bool:
        return not self.models or any(pattern.matches(model.id.lower()) for pattern in self.models)


class PremiumOn(ForModels, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A factor on all rates for tokens."""

    percent: Annotated[int, Meta(gt=0)]


class FeesOf(ForModels, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Rates of models that are sold by tokens, for what their own prices do not name; of several for one kind of usage
    the first one counts."""

    rates: Rates


class Provider(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One provider; the order of its models is their precedence."""

    id: str
    urls: tuple[str, ...] = ()
    """Where it publishes its prices."""
    fallbacks: tuple[str, ...] = ()
    premiums: tuple[PremiumOn, ...] = ()
    fees: tuple[FeesOf, ...] = ()
    models: tuple[Model, ...]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All prices. `source` names the package that they come from and its version."""

    source: str
    providers: Annotated[tuple[Provider, ...], Meta(min_length=1)]


def load_price_book() -> PriceBook:
    """The published prices. Takes some tens of milliseconds: once a process is enough."""
    return price_book(read_table())


def read_table() -> Table:
    """The table that ships with the package."""
    return msgspec.json.decode(TABLE_PATH.read_bytes(), type=Table)


def price_book(table: Table) -> PriceBook:
    """The price book that a table describes."""
    revision = sha256(msgspec.json.encode(table)).hexdigest()[:16]
    return PriceBook(map(_provider, table.providers), version=table.source, revision=revision)


def _provider(provider: Provider) -> ProviderPrices:
    models = tuple(model_prices(model, provider=provider) for model in provider.models)
    return ProviderPrices(provider.id, models, provider.fallbacks)


def model_prices(model: Model, *, provider: Provider) -> ModelPrices:
    """What the table says of one model, as the price book takes it."""
    return ModelPrices(
        id=model.id,
        names=model.names,
        matches=_any_of(model.patterns),
        context_tokens_max=model.context_tokens_max,
        dated=tuple(map(dated_rates, model.prices)),
        variants=tuple(RateVariant(variant.terms, dated_rates(variant)) for variant in model.variants),
        premiums=tuple(Premium(each.terms, each.percent) for each in provider.premiums if each.is_for(model)),
        fees=tuple(Fees(_rates(each.rates), each.terms) for each in provider.fees if each.is_for(model)),
    )


def _any_of(patterns: tuple[Pattern, ...]) -> Callable[[str], bool] | None:
    match patterns:
        case ():
            return None
        case (pattern,):
            return pattern.matches
        case _:
            return lambda name: any(pattern.matches(name) for pattern in patterns)


def dated_rates(prices: Prices) -> DatedRates:
    """Rates of the table, as the price book takes them."""
    return DatedRates(_validity(prices), tuple(RateTier(above, _rates(rates)) for above, rates in prices.tiers))


def _rates(rates: Rates) -> dict[str, Rate]:
    return {kind: Rate(nanos, per) for kind, (nanos, per) in rates.items()}


def _validity(prices: Prices) -> Validity:
    starts_at_ms = None if prices.since is None else _milliseconds(prices.since - _EPOCH)
    daily_ms = None if prices.daily is None else (_time_of_day_ms(prices.daily[0]), _time_of_day_ms(prices.daily[1]))
    return Validity(starts_at_ms, daily_ms)


_EPOCH = date(1970, 1, 1)


def _time_of_day_ms(at: time) -> int:
    return _milliseconds(timedelta(hours=at.hour, minutes=at.minute, seconds=at.second, microseconds=at.microsecond))


def _milliseconds(length: timedelta) -> int:
    return length // timedelta(milliseconds=1)
