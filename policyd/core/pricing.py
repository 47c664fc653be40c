"""Prices: what a usage costs at one model's rates.

A published price is an exact fraction, integer nano-USD for an integer number of units (a million tokens, a thousand
searches). A `Price` brings all its rates over one common denominator when it is built, so that a cost is one sum of
integers, divided and rounded up once.

Long-context tiers are cliffs, as all providers here sell them: once the input passes a tier's threshold, the tier's
rates apply to every token of the exchange.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import gcd, lcm
from operator import mul

from policyd.core.money import NANOS_PER_USD, divide_up
from policyd.core.usage import KINDS, TOKEN_KINDS, Usage

NO_TERMS: Mapping[str, str] = {}

_RATE_FALLBACKS: Mapping[str, tuple[str, ...]] = {
    # A kind without a rate of its own is charged as the more general kind that it is a part of.
    "input": (),
    "cached_input": ("input",),
    "cached_audio_input": ("cached_input", "audio_input", "input"),
    "cached_image_input": ("cached_input", "image_input", "input"),
    "cache_write_5m": ("input",),
    "cache_write_1h": ("cache_write_5m", "input"),
    "audio_input": ("input",),
    "image_input": ("input",),
    "video_input": ("input",),
    "output": (),
    "reasoning": ("output",),
    "audio_output": ("output",),
    "image_output": ("output",),
    "video_output": ("output",),
    "citation": ("output",),
    "annotated_pages": ("pages",),
    "audio_input_ms": ("audio_ms",),
}

_INDEX: Mapping[str, int] = {kind: index for index, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True)
class Rate:
    """`nanos` nano-USD for `per` units."""

    nanos: int
    per: int


def exact_rate(usd: Decimal, *, per: int) -> Rate:
    """`usd` dollars for `per` units. A price finer than a billionth of a dollar is stated for as many more units as
    make it whole."""
    numerator, denominator = usd.as_integer_ratio()
    nanos = numerator * NANOS_PER_USD
    divisor = gcd(nanos, denominator)
    return Rate(nanos // divisor, per * (denominator // divisor))


def units_priced(kind: str) -> int:
    """For how many units of a kind prices are published: a million tokens or characters, an hour, a thousand pieces."""
    if kind in TOKEN_KINDS or kind == "characters":
        return 1_000_000
    return 3_600_000 if kind.endswith("_ms") else 1_000


@dataclass(frozen=True, slots=True)
class RateTier:
    """The rates by kind of usage that apply once the input has more than `above_input_tokens` tokens."""

    above_input_tokens: int
    rates: Mapping[str, Rate]


class Price:
    """What one model charges, as one vector of integer rates a tier over a common denominator.

    `tiers` go from the base (`above_input_tokens` 0, always there) upwards; a tier only needs the rates that it
    changes. A kind that has no rate, nor anything that it is a part of, costs nothing: the output of an embedding.
    """

    __slots__ = (
        "_denominator",
        "_tiers_above",
        "_vector_at_base",
        "has_request_fee",
        "is_by_tokens",
        "model",
        "provider",
        "tiers",
    )

    def __init__(self, *, provider: str, model: str, tiers: Sequence[RateTier]) -> None:
        self.provider = provider
        """The provider whose table the price was found in; `policy` for a price of the operator's own."""
        self.model = model
        """The price book's name of the model, or the pattern of the operator's own price."""
        self.tiers = tuple(tiers)
        self._denominator = lcm(*(rate.per for tier in tiers for rate in tier.rates.values()))
        merged: dict[str, Rate] = {}
        vectors = []
        for tier in tiers:
            merged.update(tier.rates)
            vectors.append(tuple(self._numerator(kind, merged) for kind in KINDS))
        base, *above = vectors or [(0,) * len(KINDS)]
        self._vector_at_base = base
        thresholds = (tier.above_input_tokens for tier in self.tiers[1:])
        self._tiers_above = tuple(reversed([*zip(thresholds, above, strict=True)]))
        self.is_by_tokens = self._has_any_rate(TOKEN_KINDS)
        """Whether any kind of token has a rate; else the model is sold by the piece alone, or by the time."""
        self.has_request_fee = self._has_any_rate(("requests",))

    def _numerator(self, kind: str, rates: Mapping[str, Rate]) -> int:
        for name in _rate_names(kind, rates):
            if (rate := rates.get(name)) is not None:
                return rate.nanos * (self._denominator // rate.per)
        return 0

    def cost_nanos(self, usage: Usage) -> int:
        """Nano-USD of `usage`, summed exactly and rounded up once."""
        vector = self._vector(usage.input_tokens) if self._tiers_above else self._vector_at_base
        return divide_up(sum(map(mul, usage, vector)), self._denominator)

    def rate(self, kind: str, *, input_tokens: int = 0) -> Rate:
        """The rate of one kind at an input of `input_tokens`, over the price's common denominator."""
        return Rate(self._vector(input_tokens)[_INDEX[kind]], self._denominator)

    def dearest(self, kinds: Iterable[str], *, input_tokens: int) -> str:
        """Which of `kinds` costs most by the unit: what an upper bound has to assume. The first one of equals."""
        vector = self._vector(input_tokens)
        dearest, most = "", -1
        for kind in kinds:
            if (cost := vector[_INDEX[kind]]) > most:
                dearest, most = kind, cost
        return dearest

    def covers(self, kind: str) -> bool:
        """Whether `kind` has a rate, or is a part of a kind that has one."""
        return any(name in self.tiers[0].rates for name in _rate_names(kind, self.tiers[0].rates))

    def completed_by(self, other: Price) -> Price:
        """This price, and that of `other` for the kinds that it does not cover."""
        missing = {kind: other.tiers for tier in other.tiers for kind in tier.rates if not self.covers(kind)}
        if not missing:
            return self
        return Price(provider=self.provider, model=self.model, tiers=replace_rates(self.tiers, missing))

    def _vector(self, input_tokens: int) -> tuple[int, ...]:
        for threshold, vector in self._tiers_above:
            if input_tokens > threshold:
                return vector
        return self._vector_at_base

    def _has_any_rate(self, kinds: Iterable[str]) -> bool:
        return bool(self.tiers) and any(kind in self.tiers[0].rates for kind in kinds)


def _rate_names(kind: str, rates: Mapping[str, Rate]) -> tuple[str, ...]:
    """Under which names among `rates` the rate of a kind is looked for, in turn."""
    if kind in _AUDIO_TOKENS and not _AUDIO_TIMES.isdisjoint(rates):
        # Where audio is sold by the time, its tokens are not sold again as if they were text.
        return (kind,)
    return kind, *_RATE_FALLBACKS.get(kind, ())


_AUDIO_TOKENS = ("audio_input", "cached_audio_input", "audio_output")
_AUDIO_TIMES = frozenset(("audio_input_ms", "audio_ms"))


def replace_rates(
    standard: tuple[RateTier, ...], overrides: Mapping[str, tuple[RateTier, ...]]
) -> tuple[RateTier, ...]:
    """`standard` with each overridden kind's rates, in every tier, taken from the override instead."""
    tiers: dict[int, dict[str, Rate]] = {}
    for tier in standard:
        kept = {kind: rate for kind, rate in tier.rates.items() if kind not in overrides}
        tiers.setdefault(tier.above_input_tokens, {}).update(kept)
    for kind, replacement in overrides.items():
        for tier in replacement:
            if kind in tier.rates:
                tiers.setdefault(tier.above_input_tokens, {})[kind] = tier.rates[kind]
    return tuple(RateTier(above, tiers[above]) for above in sorted(tiers))
