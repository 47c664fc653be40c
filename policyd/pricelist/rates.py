"""Rates as people read them: exact dollars for a million tokens, for an hour, for a thousand calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext

import msgspec

from policyd.core.money import NANOS_PER_USD
from policyd.core.pricing import Rate, RateTier, units_priced
from policyd.core.usage import KINDS

_DIGITS = 60
"""More than any published price has; only an endless fraction is rounded."""

_UNIT_NAMES: Mapping[int, str] = {1_000_000: "a million", 3_600_000: "an hour", 1_000: "a thousand"}
_json = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True, slots=True)
class ShownRate:
    """`usd` dollars for `per` units of a kind of usage."""

    kind: str
    usd: Decimal
    per: int

    @property
    def text(self) -> str:
        return f"{self.usd:f}"

    @property
    def unit(self) -> str:
        return _UNIT_NAMES[self.per]


@dataclass(frozen=True, slots=True)
class ShownTier:
    """The rates that change once the input has more than `above_input_tokens` tokens."""

    above_input_tokens: int
    rates: tuple[ShownRate, ...]


def shown_rate(kind: str, rate: Rate) -> ShownRate:
    per = units_priced(kind)
    with localcontext(prec=_DIGITS):
        exact = Decimal(rate.nanos * per) / Decimal(rate.per * NANOS_PER_USD)
    whole, _, fraction = f"{exact:f}".partition(".")
    return ShownRate(kind, Decimal(f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"), per)


def shown_tiers(tiers: Iterable[RateTier]) -> tuple[ShownTier, ...]:
    """The tiers, each with its rates in the order of `KINDS`."""
    return tuple(
        ShownTier(
            tier.above_input_tokens, tuple(shown_rate(kind, tier.rates[kind]) for kind in KINDS if kind in tier.rates)
        )
        for tier in tiers
    )


def rates_text(tiers: Iterable[ShownTier]) -> str:
    """All rates on one line: `input 2.50, output 10.00; above 200000 input 5.00`."""
    parts = []
    for tier in tiers:
        rates = ", ".join(f"{rate.kind} {rate.text}" for rate in tier.rates)
        parts.append(f"above {tier.above_input_tokens} {rates}" if tier.above_input_tokens else rates)
    return "; ".join(parts) or "no price"


def to_json(report: object) -> str:
    """A report in JSON, with money as numbers that are exact in their text."""
    return msgspec.json.format(_json.encode(report)).decode()
