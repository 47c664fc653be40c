"""What `policyd estimate` tells: one request body, priced without being sent."""

from __future__ import annotations

import asyncio

from policyd.clock import SystemClock
from policyd.core.errors import EndpointUnknown
from policyd.core.money import format_usd
from policyd.core.policy import Policy
from policyd.core.pricing import PriceBook
from policyd.estimator import Ask, Estimator
from policyd.providers.base import Endpoint, RawRequest
from policyd.providers.registry import resolve
from policyd.tokens import TokenCounter

_USUAL_PATHS = {"anthropic": "/v1/messages"}
_OPENAI_PATH = "/v1/chat/completions"


def estimate_body(body: bytes, *, provider: str, path: str, policy: Policy, prices: PriceBook) -> dict[str, str]:
    """The estimate of a request body, as lines of name and value.

    `path` may be empty: the provider's usual one. Raises `RequestError`s.
    """
    path = path or _USUAL_PATHS.get(provider, _OPENAI_PATH)
    endpoint = resolve(provider=provider, host="", method="POST", path=path)
    if not isinstance(endpoint, Endpoint):
        raise EndpointUnknown(f"POST {path} of {provider} is not an endpoint that policyd can price")
    if endpoint.wire is None:
        return {"endpoint": endpoint.name, "cost_usd": "0.00 (free)"}
    facts = endpoint.wire.read_request(RawRequest(body, path=endpoint.path), vendor=endpoint.vendor)
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
        "expected_cost_usd": format_usd(made.expected_cost_nanos),
        "maximum_cost_usd": format_usd(made.maximum_cost_nanos),
        "confidence": made.confidence,
        "bounded": "yes" if made.bounded else "no: the reply may cost more than the maximum",
    }
