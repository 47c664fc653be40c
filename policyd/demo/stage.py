"""What a scene has at hand: the proxy, the provider behind it, and what policyd tells about both.

A scene looks at policyd from outside, as its users do: HTTP through Envoy, gRPC, the metrics page. What it claims is
checked against the provider's own counts and against the price list.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from google.type.money_pb2 import Money

from policyd.core.errors import PolicydError
from policyd.core.estimate import cost_nanos
from policyd.core.money import NANOS_PER_USD
from policyd.core.price_book import PriceBook
from policyd.core.pricing import Price
from policyd.core.usage import Usage
from policyd.demo.apis import Api
from policyd.demo.http_client import HttpClient, Reply, Response
from policyd.demo.provider import SimulatedProvider
from policyd.demo.screen import Screen
from policyd.v1.policy_service_pb2 import GetBudgetRequest, ListUsageRequest
from policyd.v1.usage_pb2 import UsageRecord
from policyd.v1.verdict_pb2 import LimitReport

if TYPE_CHECKING:
    from policyd.v1.policy_service_pb2_grpc import PolicyServiceAsyncStub

SETTLED_SECONDS_MAX: Final = 5
_POLL_SECONDS: Final = 0.01
_RECORDS_PER_PAGE: Final = 1000


class ClaimFailed(PolicydError):
    """Something that the story claims does not hold."""


def nanos(money: Money) -> int:
    """Nano-USD of the money of a gRPC message."""
    return int(money.units) * NANOS_PER_USD + int(money.nanos)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    screen: Screen
    proxy: HttpClient
    """Envoy, where applications send their requests."""
    http: HttpClient
    """policyd's metrics."""
    policyd: "PolicyServiceAsyncStub"
    provider: SimulatedProvider
    prices: PriceBook

    def claim(self, holds: bool, sentence: str) -> None:
        """Shows `sentence`, which names the numbers that were found, or ends the story with it."""
        if not holds:
            raise ClaimFailed(f"this does not hold: {sentence}")
        self.screen.holds(sentence)

    # --- what an application does ---

    async def post(
        self,
        api: Api,
        *,
        identity: Mapping[str, str],
        max_tokens: int,
        reply_tokens: int,
        provider_ms: int = 0,
        refusal: int | None = None,
    ) -> Reply:
        """One request for a JSON reply of `reply_tokens`, for which the provider takes `provider_ms`.

        `refusal` is the status that it may get in place of 200. Raises `ClaimFailed` for any other.
        """
        script = {"x-sim-output-tokens": str(reply_tokens), "x-sim-delay-ms": str(provider_ms)}
        headers = {**_identity_headers(identity), **script}
        reply = await self.proxy.post(api.path, headers=headers, body=api.request(max_tokens=max_tokens))
        if reply.status not in {200, refusal}:
            raise ClaimFailed(f"{api.path} answered {reply.status}: {reply.body.decode(errors='replace')}")
        return reply

    @asynccontextmanager
    async def stream(
        self, api: Api, *, identity: Mapping[str, str], max_tokens: int | None, reply_tokens: int, token_ms: int
    ) -> AsyncIterator[Response]:
        """One request for a stream of `reply_tokens`, one every `token_ms`. Raises `ClaimFailed` if it is refused."""
        script = {"x-sim-output-tokens": str(reply_tokens), "x-sim-chunk-delay-ms": str(token_ms)}
        headers = {**_identity_headers(identity), **script}
        body = api.request(max_tokens=max_tokens, stream=True)
        async with self.proxy.stream(api.path, headers=headers, body=body) as response:
            if response.status != 200:
                raise ClaimFailed(f"{api.path} answered {response.status} to a stream")
            yield response

    # --- what is true ---

    def price(self, api: Api) -> Price:
        """The price list's answer, without policyd's enforcer in between."""
        found = self.prices.find(provider=api.provider, model=api.model, at_ms=time.time_ns() // 1_000_000)
        if found is None:
            raise ClaimFailed(f"the price list has no {api.model}")
        return found.price

    def cost(self, api: Api, usage: Usage) -> int:
        """What `usage` costs, in nano-USD."""
        return cost_nanos(self.price(api), usage)

    @property
    def provider_calls(self) -> int:
        """How many requests have reached the provider."""
        return sum(self.provider.served.requests_received.values())

    # --- what policyd says ---

    async def budget(self, limit: str, **attributes: str) -> LimitReport:
        """How a limit stands for these attributes."""
        answer = await self.policyd.GetBudget(GetBudgetRequest(attributes=attributes))
        return next(report for report in answer.limits if report.name == limit)

    async def records(self) -> list[UsageRecord]:
        """Every usage record, newest first."""
        records: list[UsageRecord] = []
        request = ListUsageRequest(page_size=_RECORDS_PER_PAGE)
        while True:
            page = await self.policyd.ListUsage(request)
            records += page.usage_records
            if not page.next_page_token:
                return records
            request.page_token = page.next_page_token

    async def record(self, response: Response) -> UsageRecord:
        """The usage record of a stream that has ended; its last byte may arrive before it is settled."""
        request_id = response.headers["x-policyd-request-id"]
        async with asyncio.timeout(SETTLED_SECONDS_MAX):
            while True:
                for record in await self.records():
                    if record.request_id == request_id:
                        return record
                await asyncio.sleep(_POLL_SECONDS)


def _identity_headers(identity: Mapping[str, str]) -> dict[str, str]:
    return {f"x-policyd-{name}": value for name, value in identity.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One part of the story."""

    title: str
    sentence: str
    """What is to be seen, in plain words."""
    play: Callable[[Stage], Awaitable[None]]
    """Shows it, and raises `ClaimFailed` where it is not so."""
