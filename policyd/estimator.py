"""Estimates: from a request's facts to what it is expected to cost and the most that it can.

Joins the token counter and the price book under the policy's rules for models without a price and replies without a
bound. It knows of no limits and holds nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from policyd.core.attributes import REQUEST_ATTRIBUTES
from policyd.core.errors import OutputUnbounded
from policyd.core.estimate import Confidence, Estimate
from policyd.core.ledger import Amounts
from policyd.core.money import divide_up
from policyd.core.own_prices import Tariff
from policyd.core.policy import Metric, Policy, Unbounded, UnknownModel, UnknownModelAction
from policyd.core.price_book import PriceBook, PricedModel
from policyd.core.pricing import Price
from policyd.core.record import Record
from policyd.core.usage import INPUT_TOKEN_KINDS, NO_USAGE, OUTPUT_TOKEN_KINDS, Usage
from policyd.learning import Corrections
from policyd.price_finding import find_price
from policyd.providers.base import CacheWrite, RequestEdits, RequestFacts
from policyd.providers.vendors import vendor_named
from policyd.tokens import TokenCount, TokenCounter

EXPECTED_OUTPUT_PERCENT_BOUNDED = 75
"""Share of the client's own maximum that a reply is expected to fill."""

EXPECTED_OUTPUT_PERCENT_UNBOUNDED = 50
"""Share of `default_max_output_tokens` that a reply without a maximum is expected to fill."""

COUNT_INLINE_CHARACTERS_MAX = 32_768
"""Longest prompt that is counted on the event loop (a few milliseconds); longer ones are counted in a thread."""

BOUND_FIRST_CHARACTERS_MIN = 262_144
"""From this length on a prompt is not counted at all if the bound on its tokens fits every limit."""

ALL_METRICS = tuple(Metric)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request that wants to run: what it is, and what it is attributed to."""

    request_id: str
    provider: str
    endpoint: str
    facts: RequestFacts
    identity: Mapping[str, str]
    policy: Policy
    """The snapshot that the exchange began with."""
    input_tokens: int | None = None
    """As the caller counted them; `None`: the prompt in `facts` has to be counted."""
    metrics: Collection[Metric] = ALL_METRICS
    """What it is held for: a session and its responses share out the metrics among them."""
    by_bound: bool = False
    """Whether a bound on the input is enough, so that nothing has to be counted."""
    content: bytes = field(default=b"", repr=False, compare=False)
    """What its client sent, byte by byte, by which a repeated request is known; empty where it was not seen."""
    key_digest: str | None = None
    """Of the API key that the request came with."""
    reread: Callable[[RequestEdits], RequestFacts] | None = field(default=None, repr=False, compare=False)
    """What the request says once it is edited, raising `BodyUnreadable` where it cannot be; `None`: it never can."""
    attributes: Mapping[str, str] = field(init=False, repr=False, compare=False)
    """Identity and what the request itself says."""

    def __post_init__(self) -> None:
        provider, model, endpoint = REQUEST_ATTRIBUTES
        itself = {provider: self.provider, model: self.facts.model, endpoint: self.endpoint}
        object.__setattr__(self, "attributes", {**self.identity, **itself})

    @property
    def is_long(self) -> bool:
        """Whether counting the prompt takes so long that the bound is tried first."""
        return self.input_tokens is None and _characters(self.facts) >= BOUND_FIRST_CHARACTERS_MIN


class Estimator:
    def __init__(self, *, prices: PriceBook, counter: TokenCounter) -> None:
        self.prices = prices
        self.counter = counter
        self._corrections = Corrections()
        self._tariff = Tariff(prices)

    def use_corrections(self, corrections: Corrections) -> None:
        """Estimates from now on by what exchanges have taught."""
        self._corrections = corrections

    def use_prices(self, prices: PriceBook) -> None:
        """Prices what is estimated from now on by another book."""
        self.prices = prices

    def tariff(self, policy: Policy) -> Tariff:
        """The prices of now under a policy."""
        if self._tariff.own is not policy.prices or self._tariff.book is not self.prices:
            self._tariff = Tariff(self.prices, policy.prices)
        return self._tariff

    async def estimate(self, ask: Ask, *, now_ms: int) -> Estimate:
        """What the request is expected to cost and the most that it can, at the prices of `now_ms`.

        Raises `ModelUnpriced` or `OutputUnbounded` where the policy refuses such requests.
        """
        policy, facts = ask.policy, ask.facts
        if facts.max_output_tokens is None and policy.unbounded is Unbounded.DENY:
            raise OutputUnbounded("the request gives no maximum for its output, and the policy asks for one")
        tariff = self.tariff(policy)
        priced = _priced(ask, tariff, now_ms=now_ms)
        price = priced.price if priced is not None else None
        meant = tariff.model_meant(provider=ask.provider, model=facts.model, at_ms=now_ms)
        counted = await self._count(ask, meant)
        count = self._corrections.corrected(counted, provider=ask.provider, model=facts.model)
        learned_output = self._corrections.output_tokens(
            provider=ask.provider, model=facts.model, endpoint=ask.endpoint
        )
        if facts.max_output_tokens is not None:
            bound = max(facts.max_output_tokens, vendor_named(ask.provider).output_floor)
            expected_output = facts.max_output_tokens * EXPECTED_OUTPUT_PERCENT_BOUNDED // 100
            confidence = Confidence.HIGH
        else:
            bound = _default_output_bound(policy, priced, input_tokens=count.tokens)
            expected_output = min(bound, policy.default_max_output_tokens * EXPECTED_OUTPUT_PERCENT_UNBOUNDED // 100)
            confidence = Confidence.MEDIUM
        if learned_output is not None:
            expected_output = min(bound, learned_output)
        teaches_input = not (counted.exact or ask.by_bound or facts.prompt.hides_input)
        return Estimate(
            price=price,
            tariff=tariff,
            expected=_expected(price, facts, input_tokens=count.tokens, output_tokens=expected_output * facts.choices),
            maximum=_maximum(price, facts, input_tokens=count.upper_bound, output_tokens=bound * facts.choices),
            confidence=confidence if count.exact else Confidence.LOW,
            bounded=facts.max_output_tokens is not None or policy.unbounded is Unbounded.SET_MAXIMUM,
            counted_input_tokens=counted.tokens if teaches_input else None,
            choices=facts.choices,
        )

    def estimate_again(self, record: Record, policy: Policy) -> Estimate:
        """The estimate that a reservation was made with, at the price of its moment.

        A model that the policy has come to refuse since is charged at the careful guess, so that it can be settled.
        """
        unknown = policy.unknown_model
        if unknown.action is UnknownModelAction.DENY:
            unknown = UnknownModel()
        tariff = self.tariff(policy)
        priced = find_price(
            tariff,
            provider=record.provider,
            model=record.model,
            terms=record.terms,
            at_ms=record.at_ms,
            unknown=unknown,
        )
        return Estimate(
            price=priced.price if priced is not None else None,
            tariff=tariff,
            expected=record.expected or Usage(),
            maximum=record.maximum or Usage(),
            confidence=Confidence(record.confidence or Confidence.LOW),
            bounded=False,
        )

    def is_priced(self, model: str, *, ask: Ask, now_ms: int) -> bool:
        """Whether the provider of `ask` has `model`, as far as prices tell."""
        tariff = self.tariff(ask.policy)
        found = tariff.find(provider=ask.provider, model=model, at_ms=now_ms, terms=ask.facts.terms)
        return found is not None

    async def _count(self, ask: Ask, model: str) -> TokenCount:
        """The input, as `model` counts it: the one that the name in the request stands for."""
        if ask.input_tokens is not None:
            return TokenCount(tokens=ask.input_tokens, upper_bound=ask.input_tokens, exact=True)
        prompt, provider = ask.facts.prompt, ask.provider
        if ask.by_bound:
            return self.counter.bound_prompt(prompt, provider=provider, model=model)
        if _characters(ask.facts) <= COUNT_INLINE_CHARACTERS_MAX:
            return self.counter.count_prompt(prompt, provider=provider, model=model)
        return await asyncio.to_thread(self.counter.count_prompt, prompt, provider=provider, model=model)


def _characters(facts: RequestFacts) -> int:
    return sum(map(len, facts.prompt.texts))


def price_asked(ask: Ask, tariff: Tariff, *, now_ms: int) -> Price | None:
    """The price of the model that is asked for; `None` for one that the policy makes free. Raises `ModelUnpriced`."""
    priced = _priced(ask, tariff, now_ms=now_ms)
    return priced.price if priced is not None else None


def _priced(ask: Ask, tariff: Tariff, *, now_ms: int) -> PricedModel | None:
    return find_price(
        tariff,
        provider=ask.provider,
        model=ask.facts.model,
        terms=ask.facts.terms,
        at_ms=now_ms,
        unknown=ask.policy.unknown_model,
    )


def output_token_amounts(estimate: Estimate) -> Amounts:
    """What one more output token holds in every metric. Nano-USD are rounded up, so that a hold never falls short."""
    spoken = tuple(kind for kind in OUTPUT_TOKEN_KINDS if getattr(estimate.maximum, kind))
    cost = _token_cost_nanos(estimate, ("output", "reasoning", *spoken))
    return {Metric.COST: cost, Metric.TOKENS: 1, Metric.OUTPUT_TOKENS: 1}


def input_token_amounts(estimate: Estimate) -> Amounts:
    """What one more input token holds, of the dearest kind that the estimate has found the input can be."""
    kinds = tuple(kind for kind in INPUT_TOKEN_KINDS if getattr(estimate.maximum, kind))
    return {Metric.COST: _token_cost_nanos(estimate, ("input", *kinds)), Metric.TOKENS: 1, Metric.INPUT_TOKENS: 1}


def _token_cost_nanos(estimate: Estimate, kinds: tuple[str, ...]) -> int:
    if estimate.price is None:
        return 0
    input_tokens = estimate.maximum.input_tokens
    rate = estimate.price.rate(estimate.price.dearest(kinds, input_tokens=input_tokens), input_tokens=input_tokens)
    return divide_up(rate.nanos, rate.per)


def _default_output_bound(policy: Policy, priced: PricedModel | None, *, input_tokens: int) -> int:
    """What is held for the output of a request without a maximum: the model's own maximum, as far as its context window
    tells it, or `default_max_output_tokens` where that is less."""
    bound = policy.default_max_output_tokens
    if priced is not None and priced.context_tokens_max is not None:
        bound = min(bound, max(1, priced.context_tokens_max - input_tokens))
    return bound


def _expected(price: Price | None, facts: RequestFacts, *, input_tokens: int, output_tokens: int) -> Usage:
    tokens = Usage(input=input_tokens, output=output_tokens)
    return with_request_fee(_sold(price, tokens) + facts.pieces.with_pieces_of(facts.pieces_min), price)


def _maximum(price: Price | None, facts: RequestFacts, *, input_tokens: int, output_tokens: int) -> Usage:
    """The dearest usage that the request can lead to: all input as the dearest kind it can be, the output likewise."""
    input_kind, output_kind = facts.input_kinds[0], facts.output_kinds[0]
    if price is not None:
        writes = () if facts.cache_write is CacheWrite.NONE else (facts.cache_write.value,)
        input_kind = price.dearest((*facts.input_kinds, *writes), input_tokens=input_tokens)
        output_kind = price.dearest(facts.output_kinds, input_tokens=input_tokens)
    tokens = Usage(**{input_kind: input_tokens, output_kind: output_tokens})
    pieces = facts.pieces_max.with_pieces_of(facts.pieces).with_pieces_of(facts.pieces_min)
    return with_request_fee(_sold(price, tokens) + pieces, price)


def _sold(price: Price | None, tokens: Usage) -> Usage:
    """`tokens`, unless the model is not sold by tokens: then it reports none."""
    return tokens if price is None or price.is_by_tokens else NO_USAGE


def with_request_fee(usage: Usage, price: Price | None) -> Usage:
    """`usage` with the one request that it is of, where that has a fee of its own."""
    if price is None or usage.requests or not price.has_request_fee:
        return usage
    return usage._replace(requests=1)
