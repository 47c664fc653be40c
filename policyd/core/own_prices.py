"""The operator's own prices: of models that the price book does not know, and in place of what it says.

An own price is charged instead of a model's standard price. What it leaves unsaid, the book says: the fees and the
kinds of usage that it has no rate for, the context window, and the rates on other terms (`service_tier: priority`)
that the book lists apart and the operator has no price for. In place of rates it can name the model that is meant, as
that of a deployment or of an alias: then the book says all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from re import Pattern
from re import compile as compile_pattern

from policyd.core.model_names import MODEL_NAME_CHARS_MAX
from policyd.core.price_book import PriceBook, PricedModel
from policyd.core.pricing import NO_TERMS, Price, RateTier

OWN = "policy"
"""What stands for the provider in whose table an own price was found."""

_MAKERS = ("openai", "anthropic", "google")
_REMEMBERED_MAX = 4096


@dataclass(frozen=True, slots=True)
class OwnPrice:
    """What the operator says that some models cost."""

    model: str
    """A shell-style pattern, in lower case, for the names that requests and replies give."""
    tiers: tuple[RateTier, ...] = ()
    """From 0 upwards; none where it is priced as another."""
    price_as: str = ""
    """The model that it is, or that it costs as much as: a deployment's, a profile's, an alias's."""
    provider: str | None = None
    """Whose models are meant; `None`: any provider's."""
    terms: Mapping[str, str] = field(default_factory=dict)
    """The terms that a request has to be sold on."""
    starts_at_ms: int | None = None
    """When the price comes into effect; `None`: it always was."""
    context_tokens_max: int | None = None
    priced: PricedModel = field(init=False, repr=False, compare=False)
    """The price by itself; empty where it is that of another model."""
    _pattern: Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        price = Price(provider=OWN, model=self.model, tiers=self.tiers)
        object.__setattr__(self, "priced", PricedModel(price, self.context_tokens_max, own=True))
        object.__setattr__(self, "_pattern", compile_pattern(translate(self.model)))

    @property
    def subject(self) -> tuple[str | None, str, frozenset[tuple[str, str]]]:
        """What the price is for: of several prices for one subject, the latest one in effect counts."""
        return self.provider, self.model, frozenset(self.terms.items())

    def fits(self, *, provider: str, name: str) -> bool:
        """Whether the price is for the model that `provider` calls `name`, in lower case."""
        return self.provider in {None, provider} and self._pattern.match(name) is not None

    def in_effect(self, at_ms: int) -> bool:
        return self.starts_at_ms is None or at_ms >= self.starts_at_ms

    def before(self, listed: PricedModel | None) -> PricedModel:
        """The price with `listed` behind it, which has its say where this one has none."""
        if listed is None:
            return self.priced
        price = _completed(self.priced.price, listed.price)
        return PricedModel(price, self.context_tokens_max or listed.context_tokens_max, own=True)


@lru_cache(maxsize=_REMEMBERED_MAX)
def _completed(own: Price, listed: Price) -> Price:
    return own.completed_by(listed)


@dataclass(frozen=True, slots=True)
class OwnPrices:
    """All own prices of a policy. Immutable but for a bounded memory of what was looked up."""

    entries: tuple[OwnPrice, ...] = ()
    """In the file's order."""
    _remembered: dict[tuple[str, str], tuple[OwnPrice, ...]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def find(
        self, *, provider: str, model: str, at_ms: int, terms: Mapping[str, str], sold_apart: bool
    ) -> OwnPrice | None:
        """The last entry that is for the model and in effect; of several for one subject, the one that came into effect
        last. Where `terms` are sold apart, only entries for these terms count."""
        applying = [
            entry
            for entry in self.fitting(provider=provider, model=model)
            if entry.in_effect(at_ms)
            and entry.terms.items() <= terms.items()
            and (entry.terms or entry.price_as or not sold_apart)
        ]
        if not applying:
            return None
        subject = applying[-1].subject
        return max(
            (entry for entry in applying if entry.subject == subject),
            key=lambda entry: (entry.starts_at_ms is not None, entry.starts_at_ms or 0),
        )

    def fitting(self, *, provider: str, model: str) -> tuple[OwnPrice, ...]:
        """The entries for a model, whenever and on whichever terms they apply."""
        # Model names come from clients: neither a name nor the number of names may grow the memory without bound.
        if len(model) > MODEL_NAME_CHARS_MAX:
            return ()
        key = (provider, model.lower())
        if key not in self._remembered:
            if len(self._remembered) >= _REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[key] = tuple(entry for entry in self.entries if entry.fits(provider=provider, name=key[1]))
        return self._remembered[key]


@dataclass(frozen=True, slots=True)
class Tariff:
    """The prices that one exchange is charged at, from its estimate to its settlement: a policy's own prices, and a
    price book behind them."""

    book: PriceBook
    own: OwnPrices = field(default_factory=OwnPrices)

    @property
    def providers(self) -> Iterable[str]:
        """Everyone whose prices are known, makers before resellers."""
        own = (entry.provider for entry in self.own.entries if entry.provider is not None)
        return dict.fromkeys((*_MAKERS, *self.book.providers, *own))

    def find(self, *, provider: str, model: str, at_ms: int, terms: Mapping[str, str] = NO_TERMS) -> PricedModel | None:
        """The price of `model` at `provider` at a moment, on given terms; `None` if none is known.

        A model that the operator says stands for another has that one's price, at the same provider or at its maker.
        """
        listed = self.book.find(provider=provider, model=model, at_ms=at_ms, terms=terms)
        own = self.find_own(provider=provider, model=model, at_ms=at_ms, terms=terms)
        if own is None:
            return listed
        if own.price_as:
            return self._find_meant(provider=provider, model=own.price_as, at_ms=at_ms, terms=terms) or listed
        return own.before(listed)

    def _find_meant(self, *, provider: str, model: str, at_ms: int, terms: Mapping[str, str]) -> PricedModel | None:
        """The price of a model by its own name: one that stands for a third is not followed any further."""
        for each in dict.fromkeys((provider, *self.providers)):
            listed = self.book.find(provider=each, model=model, at_ms=at_ms, terms=terms)
            own = self.find_own(provider=each, model=model, at_ms=at_ms, terms=terms)
            if own is not None and not own.price_as:
                return own.before(listed)
            if listed is not None:
                return listed
        return None

    def model_meant(self, *, provider: str, model: str, at_ms: int) -> str:
        """The model that a name stands for: another where the operator says so, else itself."""
        own = self.find_own(provider=provider, model=model, at_ms=at_ms)
        return own.price_as if own is not None and own.price_as else model

    def find_own(
        self, *, provider: str, model: str, at_ms: int, terms: Mapping[str, str] = NO_TERMS
    ) -> OwnPrice | None:
        """The own price that `find` goes by; `None` if the book alone has the say."""
        if not self.own.entries:
            return None
        sold_apart = False
        if terms:
            standard, listed = (
                self.book.find(provider=provider, model=model, at_ms=at_ms, terms=each) for each in (NO_TERMS, terms)
            )
            # The book gives the same object for the same rates.
            sold_apart = listed is not standard
        return self.own.find(provider=provider, model=model, at_ms=at_ms, terms=terms, sold_apart=sold_apart)

    def find_anywhere(self, *, model: str, at_ms: int) -> PricedModel | None:
        """The price of `model` at the first provider that has one, makers before resellers: for `price_as`."""
        for provider in self.providers:
            if (found := self.find(provider=provider, model=model, at_ms=at_ms)) is not None:
                return found
        return None
