"""What `policyd estimate` tells: one request body, priced without being sent."""

from __future__ import annotations

import asyncio

from policyd.clock import SystemClock
from policyd.core.errors import EndpointUnknown
from policyd.core.money import format_usd
from policyd.core.policy import Policy
from policyd.core.price_book import PriceBook
from policyd.core.usage import Usage
from policyd.estimator import Ask, Estimator
from policyd.providers.base import RawRequest
from policyd.providers.registry import request_endpoint
from policyd.tokens import TokenCounter


def estimate_body(
    body: bytes, *, provider: str, path: str, content_type: str, policy: Policy, prices: PriceBook
) -> dict[str, str]:
    """The estimate of a request body, as lines of name and value.

    `path` may be empty: where the provider takes chats. Raises `RequestError`s.
    """
    endpoint = request_endpoint(provider=provider, path=path)
    if endpoint is None:
        where = f"POST {path} of {provider}" if path else f"a body for {provider} without its path"
        raise EndpointUnknown(f"{where} is not a request that policyd can price")
    if endpoint.wire is None:
        return {"endpoint": endpoint.name, "cost_usd": "0.00 (free)"}
    raw = RawRequest(body, path=endpoint.path, query=path.partition("?")[2], content_type=content_type)
    facts = endpoint.wire.read_request(raw, vendor=endpoint.vendor)
    ask = Ask(
        request_id="",
        provider=endpoint.vendor.id,
        endpoint=endpoint.name,
        facts=facts,
        identity={},
        policy=policy,
    )
    estimator = Estimator(prices=prices, counter=TokenCounter())
    made = asyncio.run(estimator.estimate(ask, now_ms=SystemClock().now_ms()))
    price = f"{made.price.provider}/{made.price.model}" if made.price is not None else "free by policy"
    return {
        "model": facts.model,
        "priced_as": price,
        "input_tokens": f"{made.expected.input_tokens} (at most {made.maximum.input_tokens})",
        "output_tokens": f"{made.expected.output_tokens} (at most {made.maximum.output_tokens})",
        **_pieces(made.expected, made.maximum),
        "expected_cost_usd": format_usd(made.expected_cost_nanos),
        "maximum_cost_usd": format_usd(made.maximum_cost_nanos),
        "confidence": made.confidence,
        "bounded": "yes" if made.bounded else "no: the reply may cost more than the maximum",
    }


def _pieces(expected: Usage, maximum: Usage) -> dict[str, str]:
    """What is charged by the piece."""
    most = maximum.pieces.by_kind()
    return {kind: f"{getattr(expected, kind)} (at most {units})" for kind, units in most.items()}
