"""How much output fits into what is held for a reply, beside its input as it is known by now."""

from __future__ import annotations

from policyd.core.estimate import Estimate, cost_nanos
from policyd.core.policy import Metric
from policyd.core.usage import OUTPUT_TOKEN_KINDS, Usage
from policyd.estimator import output_token_amounts

_NO_OUTPUT = dict.fromkeys(OUTPUT_TOKEN_KINDS, 0)


class Room:
    """Reckoned when it is first asked for: a reply that comes in one piece never asks."""

    def __init__(self, estimate: Estimate, held: Usage) -> None:
        self._estimate = estimate
        self._held = held
        self._granted_tokens = 0
        self._beside: Usage | None = None
        self._left_tokens = 0

    @property
    def all_tokens(self) -> int:
        """All output that is held for."""
        return self._held.output_tokens + self._granted_tokens

    def grant(self, tokens: int) -> None:
        """`tokens` more output tokens are held."""
        self._granted_tokens += tokens

    def tokens_beside(self, reported: Usage | None) -> int:
        """How many output tokens fit in beside the input of `reported`; `None`: beside that which is expected."""
        beside = reported or self._estimate.expected
        if beside is not self._beside:
            self._beside = beside
            self._left_tokens = self._reckon(beside)
        return self._left_tokens + self._granted_tokens

    def _reckon(self, usage: Usage) -> int:
        estimate, held = self._estimate, self._held
        unanswered = usage._replace(**_NO_OUTPUT)
        tokens = min(held.output_tokens, held.tokens - unanswered.tokens)
        token_cost_nanos = output_token_amounts(estimate)[Metric.COST]
        if token_cost_nanos:
            left_nanos = cost_nanos(estimate.price, held) - cost_nanos(estimate.price, unanswered)
            tokens = min(tokens, left_nanos // token_cost_nanos)
        return tokens
