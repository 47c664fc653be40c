"""The estimate: what a request is expected to cost, and the most that it can."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from policyd.core.ledger import Amounts
from policyd.core.money import divide_up
from policyd.core.own_prices import Tariff
from policyd.core.policy import Hold, Metric
from policyd.core.pricing import Price
from policyd.core.usage import OUTPUT_TOKEN_KINDS, Usage


class Confidence(StrEnum):
    HIGH = "high"
    """The input was counted exactly and the client gave a maximum for the output."""
    MEDIUM = "medium"
    """The input was counted exactly, the output has no maximum of the client's."""
    LOW = "low"
    """The input could not be counted exactly."""


def amounts(usage: Usage, *, cost_nanos: int) -> Amounts:
    """What `usage` counts for in every metric. One exchange is one request."""
    input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
    return {
        Metric.COST: cost_nanos,
        Metric.TOKENS: input_tokens + output_tokens,
        Metric.INPUT_TOKENS: input_tokens,
        Metric.OUTPUT_TOKENS: output_tokens,
        Metric.REQUESTS: 1,
        Metric.CONCURRENT_REQUESTS: 1,
        Metric.IMAGES: usage.images_generated,
        Metric.AUDIO_SECONDS: divide_up(usage.audio_input_ms + usage.audio_ms, 1000),
    }


@dataclass(frozen=True, slots=True)
class Estimate:
    """A request's usage and cost before it runs. `price` is `None` for a model that the policy makes free."""

    price: Price | None
    tariff: Tariff
    """Where `price` was found: what the exchange is settled by too."""
    expected: Usage
    maximum: Usage
    confidence: Confidence
    bounded: bool
    """Whether the output cannot pass `maximum`: the client gave a maximum, or policyd sets one."""
    counted_input_tokens: int | None = None
    """The input as it was counted, before anything learned was applied; `None` where the provider's number would teach
    nothing: the count is exact, or the request does not show all of its input."""
    choices: int = 1
    """How many replies the output is for."""
    expected_cost_nanos: int = field(init=False)
    maximum_cost_nanos: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "expected_cost_nanos", cost_nanos(self.price, self.expected))
        object.__setattr__(self, "maximum_cost_nanos", cost_nanos(self.price, self.maximum))

    def bounded_to(self, output_tokens: int) -> Estimate:
        """The estimate of the same request with `output_tokens` as its maximum, over all choices."""
        expected, maximum = _at_most(self.expected, output_tokens), _at_most(self.maximum, output_tokens)
        return replace(self, expected=expected, maximum=maximum, bounded=True)

    def amounts(self, hold: Hold) -> Amounts:
        """What is held of every metric."""
        if hold is Hold.MAXIMUM:
            return amounts(self.maximum, cost_nanos=self.maximum_cost_nanos)
        return amounts(self.expected, cost_nanos=self.expected_cost_nanos)


def _at_most(usage: Usage, output_tokens: int) -> Usage:
    left = output_tokens
    kept: dict[str, int] = {}
    for kind in OUTPUT_TOKEN_KINDS:
        kept[kind] = min(left, getattr(usage, kind))
        left -= kept[kind]
    return usage._replace(**kept)


def cost_nanos(price: Price | None, usage: Usage) -> int:
    """Nano-USD of `usage`; nothing for a model that the policy makes free."""
    return price.cost_nanos(usage) if price is not None else 0
