"""Short ways to write the messages of `policyd.v1`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from policyd.core.money import NANOS_PER_USD
from policyd.v1 import model_request_pb2 as requests
from policyd.v1 import policy_service_pb2 as service
from policyd.v1 import usage_pb2, verdict_pb2
from tests.api.prices import INPUT_NANOS, OUTPUT_NANOS

ACME: Mapping[str, str] = {"project": "acme"}

HELD_NANOS = 1_000 * INPUT_NANOS + 250 * OUTPUT_NANOS
"""What `counted()` holds."""

USED_NANOS = 1_000 * INPUT_NANOS + 100 * OUTPUT_NANOS
"""What `settle()` and `record()` charge."""


def counted(
    input_tokens: int = 1_000,
    max_output_tokens: int | None = 250,
    *,
    model: str = "gpt-4o",
    attributes: Mapping[str, str] = ACME,
    **others: Any,
) -> requests.ModelRequest:
    """A request by its numbers, of `HELD_NANOS` at most unless said otherwise."""
    return requests.ModelRequest(
        attributes=attributes,
        provider="openai",
        endpoint="chat.completions",
        counts=requests.TokenCounts(
            model=model, input_tokens=input_tokens, max_output_tokens=max_output_tokens, **others
        ),
    )


def chat(content: str = "Hello", *, attributes: Mapping[str, str] = ACME, **members: Any) -> requests.ModelRequest:
    """A request by the body that OpenAI would get."""
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": content}], **members}
    return with_body(json.dumps(body).encode(), attributes=attributes)


def with_body(content: bytes, *, attributes: Mapping[str, str] = ACME) -> requests.ModelRequest:
    return requests.ModelRequest(
        attributes=attributes,
        provider="openai",
        endpoint="chat.completions",
        body=requests.RequestBody(content=content),
    )


def check(request: requests.ModelRequest) -> service.CheckBudgetRequest:
    return service.CheckBudgetRequest(model_request=request)


def reserve(
    request_id: str = "r1", request: requests.ModelRequest | None = None, *, ttl_seconds: float | None = None
) -> service.ReserveRequest:
    return service.ReserveRequest(
        request_id=request_id,
        model_request=request or counted(),
        ttl=seconds(ttl_seconds) if ttl_seconds is not None else None,
    )


def settle(reservation_id: str = "r1", **members: Any) -> service.SettleRequest:
    """Settles `USED_NANOS` unless said otherwise."""
    members.setdefault("usage", usage_pb2.Usage(input=1_000, output=100))
    return service.SettleRequest(reservation_id=reservation_id, **members)


def release(reservation_id: str = "r1") -> service.ReleaseRequest:
    return service.ReleaseRequest(reservation_id=reservation_id)


def extend(reservation_id: str = "r1", wanted: int = 100, **members: Any) -> service.ExtendRequest:
    return service.ExtendRequest(reservation_id=reservation_id, wanted_output_tokens=wanted, **members)


def record(
    request_id: str = "u1", *, attributes: Mapping[str, str] = ACME, **members: Any
) -> service.RecordUsageRequest:
    """Records `USED_NANOS` unless said otherwise."""
    members.setdefault("usage", usage_pb2.Usage(input=1_000, output=100))
    members.setdefault("model", "gpt-4o")
    return service.RecordUsageRequest(
        request_id=request_id, attributes=attributes, provider="openai", endpoint="chat.completions", **members
    )


def seconds(length: float) -> Duration:
    whole, rest = divmod(round(length * 1_000_000_000), 1_000_000_000)
    return Duration(seconds=whole, nanos=rest)


def time(at_ms: int, *, nanos: int = 0) -> Timestamp:
    whole, rest_ms = divmod(at_ms, 1000)
    return Timestamp(seconds=whole, nanos=rest_ms * 1_000_000 + nanos)


def at_ms(time_: Timestamp) -> int:
    return time_.seconds * 1000 + time_.nanos // 1_000_000


def nanos(amount: Money | verdict_pb2.Amount) -> int:
    """Nano-USD, exactly as sent."""
    money = amount.money if isinstance(amount, verdict_pb2.Amount) else amount
    assert money.currency_code == "USD"
    assert 0 <= money.nanos < NANOS_PER_USD
    return int(money.units) * NANOS_PER_USD + int(money.nanos)
