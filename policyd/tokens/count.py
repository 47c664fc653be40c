"""What counting yields."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct


class TokenCount(Struct, frozen=True):
    """A count of input tokens and how far it can be trusted."""

    tokens: int
    """The best count."""
    exact: bool
    """Whether the provider will report exactly `tokens`."""
    upper_bound: int
    """What the provider's own count should not pass; `tokens` itself for an exact count."""

    def __add__(self, other: TokenCount) -> TokenCount:
        return TokenCount(
            tokens=self.tokens + other.tokens,
            exact=self.exact and other.exact,
            upper_bound=self.upper_bound + other.upper_bound,
        )


@dataclass(frozen=True, slots=True)
class Ratio:
    """A factor as an exact fraction."""

    numerator: int
    denominator: int = 1

    def of(self, count: int) -> int:
        """`count` times this factor, rounded up."""
        return -(-count * self.numerator // self.denominator)
