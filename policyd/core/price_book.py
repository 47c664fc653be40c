"""The price book: which price a model has at a moment, by the names that it goes by and the terms it is sold on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from policyd.core.model_names import MODEL_NAME_CHARS_MAX, model_names
from policyd.core.pricing import NO_TERMS, Price, Rate, RateTier, replace_rates
from policyd.core.usage import TOKEN_KINDS


@dataclass(frozen=True, slots=True)
class Validity:
    """When a price applies: from an instant on, or in a daily interval of UTC time that may pass midnight."""

    starts_at_ms: int | None = None
    daily_ms: tuple[int, int] | None = None

    def covers(self, at_ms: int) -> bool:
        if self.starts_at_ms is not None:
            return at_ms >= self.starts_at_ms
        if self.daily_ms is not None:
            start, end = self.daily_ms
            time_of_day = at_ms % 86_400_000
            return start <= time_of_day < end if start <= end else (time_of_day >= start or time_of_day < end)
        return True


@dataclass(frozen=True, slots=True)
class DatedRates:
    """A model's rates while `validity` holds."""

    validity: Validity
    tiers: tuple[RateTier, ...]
    """From 0 upwards; none if no price is known."""


@dataclass(frozen=True, slots=True)
class RateVariant:
    """Rates that replace the standard ones when the request is sold on other `terms` (`service_tier: priority`)."""

    terms: Mapping[str, str]
    rates: DatedRates


@dataclass(frozen=True, slots=True)
class Premium:
    """A factor on all rates for tokens, for requests on some `terms` (`inference_geo: us`)."""

    terms: Mapping[str, str]
    percent: int
    """Of the rates that are charged otherwise: 110 for a tenth more."""


@dataclass(frozen=True, slots=True)
class Fees:
    """Rates that go with a model which is sold by tokens, where its own prices have none for the kind of usage."""

    rates: Mapping[str, Rate]
    terms: Mapping[str, str]
    """The terms that they are for; none: any."""


class Selection(NamedTuple):
    """Indices into a model's `dated` rates, its `variants`, its `premiums` and its `fees`."""

    dated: int
    variants: tuple[int, ...]
    premiums: tuple[int, ...]
    fees: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelPrices:
    """Everything the book knows of one model."""

    id: str
    names: tuple[str, ...]
    """Names that mean this model, in lower case."""
    dated: tuple[DatedRates, ...]
    """At least one. The last one whose validity covers the moment applies; if none does, the first."""
    variants: tuple[RateVariant, ...] = ()
    premiums: tuple[Premium, ...] = ()
    fees: tuple[Fees, ...] = ()
    matches: Callable[[str], bool] | None = None
    """Whether a name in lower case that is not one of `names` means this model too."""
    context_tokens_max: int | None = None
    _standard: tuple[Selection, ...] = field(init=False, repr=False, compare=False)
    """What is selected where there are no terms, for each of `dated`."""

    def __post_init__(self) -> None:
        standard = tuple(Selection(dated, (), *self._additions(NO_TERMS)) for dated in range(len(self.dated)))
        object.__setattr__(self, "_standard", standard)

    def select(self, at_ms: int, terms: Mapping[str, str]) -> Selection:
        """Which rates apply at a moment and on given terms: the same selection always means the same price."""
        dated = self._dated_index(at_ms) if len(self.dated) > 1 else 0
        if not terms:
            return self._standard[dated]
        variants = tuple(
            index
            for index, variant in enumerate(self.variants)
            if variant.rates.validity.covers(at_ms) and variant.terms.items() <= terms.items()
        )
        return Selection(dated, variants, *self._additions(terms))

    def _dated_index(self, at_ms: int) -> int:
        covering = (index for index in reversed(range(len(self.dated))) if self.dated[index].validity.covers(at_ms))
        return next(covering, 0)

    def _additions(self, terms: Mapping[str, str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The premiums and the fees that go with `terms`."""
        return (
            tuple(index for index, premium in enumerate(self.premiums) if premium.terms.items() <= terms.items()),
            tuple(index for index, fees in enumerate(self.fees) if fees.terms.items() <= terms.items()),
        )

    def tiers(self, selection: Selection) -> tuple[RateTier, ...]:
        """The rates of a selection; none if the model has no price of its own.

        Where several variants, or several fees, have a rate for one kind, the first one counts.
        """
        overrides: dict[str, tuple[RateTier, ...]] = {}
        for index in selection.variants:
            variant = self.variants[index].rates.tiers
            for kind in {kind for tier in variant for kind in tier.rates}:
                overrides.setdefault(kind, variant)
        tiers = replace_rates(self.dated[selection.dated].tiers, overrides)
        for index in selection.premiums:
            tiers = tuple(_at_percent(tier, self.premiums[index].percent) for tier in tiers)
        if not any(tier.rates for tier in tiers):
            return ()
        base, *above = tiers
        if base.rates.keys().isdisjoint(TOKEN_KINDS):
            return tiers
        fees = {kind: rate for index in reversed(selection.fees) for kind, rate in self.fees[index].rates.items()}
        return RateTier(base.above_input_tokens, {**fees, **base.rates}), *above


def _at_percent(tier: RateTier, percent: int) -> RateTier:
    """The tier with `percent` per cent of every rate for tokens."""
    rates = {
        kind: Rate(rate.nanos * percent, rate.per * 100) if kind in TOKEN_KINDS else rate
        for kind, rate in tier.rates.items()
    }
    return RateTier(tier.above_input_tokens, rates)


@dataclass(frozen=True, slots=True)
class ProviderPrices:
    """One provider's models, and the providers whose models it sells at their standard prices."""

    id: str
    models: tuple[ModelPrices, ...]
    """In order of precedence: a name means the first model that it fits."""
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PricedModel:
    """A model that the book has a price for, at one moment and on given terms."""

    price: Price
    context_tokens_max: int | None
    """The most tokens that input and output can have together; `None` where it is not published."""
    own: bool = False
    """Whether the operator said so, and not the book."""


_REMEMBERED_NAMES_MAX = 4096


class PriceBook:
    """Finds prices. Immutable but for a bounded memory of what was looked up."""

    def __init__(self, providers: Iterable[ProviderPrices], *, version: str, revision: str = "") -> None:
        self.version = version
        """Where the prices come from and when, for people."""
        self.revision = revision
        """Identifies the content: equal tables have equal revisions on every replica."""
        self._catalogues = {provider.id: _Catalogue(provider) for provider in providers}
        self._models: dict[tuple[str, str], tuple[str, ModelPrices] | None] = {}
        # As many as the book has prices: a selection depends on the terms only by the variants that they choose.
        self._priced: dict[tuple[str, str, Selection], PricedModel | None] = {}

    @property
    def providers(self) -> Iterable[str]:
        """The ids of the providers that the book lists."""
        return self._catalogues.keys()

    def find(self, *, provider: str, model: str, at_ms: int, terms: Mapping[str, str] = NO_TERMS) -> PricedModel | None:
        """The price of `model` at `provider` (a genai-prices id) at a moment, on given terms; `None` if none is known.

        A provider that the book does not list (an OpenAI-compatible vendor of the operator's own) has no prices: its
        model names say nothing about what it charges. Nor has a model that the book lists without a rate for any kind
        of usage: it may be free, but as well be part of a subscription or sold by the page.
        """
        found = self.listed(provider=provider, model=model)
        if found is None:
            return None
        owner, prices = found
        # A reseller takes over the maker's standard prices, but not its service tiers.
        selection = prices.select(at_ms, terms if owner == provider else NO_TERMS)
        key = (owner, prices.id, selection)
        if key not in self._priced:
            self._priced[key] = _price(owner, prices, selection)
        return self._priced[key]

    def listed(self, *, provider: str, model: str) -> tuple[str, ModelPrices] | None:
        """What the book has on `model` at `provider`, and the provider in whose table it stands."""
        # Model names come from clients: neither a name nor the number of names may grow the memory without bound.
        if provider not in self._catalogues or len(model) > MODEL_NAME_CHARS_MAX:
            return None
        key = (provider, model)
        if key not in self._models:
            if len(self._models) >= _REMEMBERED_NAMES_MAX:
                self._models.clear()
            self._models[key] = self._search(provider, model)
        return self._models[key]

    def _search(self, provider: str, model: str) -> tuple[str, ModelPrices] | None:
        owners = (provider, *self._catalogues[provider].fallbacks)
        for name in model_names(model, provider=provider):
            for owner in owners:
                if (catalogue := self._catalogues.get(owner)) and (prices := catalogue.find(name)):
                    return owner, prices
        return None


class _Catalogue:
    """Finds what a name means among one provider's models, as if each were asked in turn."""

    __slots__ = ("_matchers", "_models", "_positions", "fallbacks")

    def __init__(self, provider: ProviderPrices) -> None:
        self.fallbacks = provider.fallbacks
        self._models = provider.models
        self._positions: dict[str, int] = {}
        for position, model in enumerate(provider.models):
            for name in model.names:
                self._positions.setdefault(name, position)
        self._matchers = tuple(
            (position, model.matches) for position, model in enumerate(provider.models) if model.matches is not None
        )

    def find(self, name: str) -> ModelPrices | None:
        named = self._positions.get(name, len(self._models))
        for position, matches in self._matchers:
            if position >= named:
                break
            if matches(name):
                return self._models[position]
        return self._models[named] if named < len(self._models) else None


def _price(owner: str, prices: ModelPrices, selection: Selection) -> PricedModel | None:
    tiers = prices.tiers(selection)
    if not tiers:
        return None
    return PricedModel(Price(provider=owner, model=prices.id, tiers=tiers), prices.context_tokens_max)
