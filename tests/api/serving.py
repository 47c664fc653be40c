"""PolicyService on a real gRPC server, over a real enforcer and store, called through the generated stub."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from policyd.api.access import AccessInterceptor
from policyd.api.calls import Calls
from policyd.api.service import SERVICE_NAME, HealthServicer, add_policy_service, add_standard_services
from policyd.core.attributes import Identity, Place, Source
from policyd.core.estimate import Estimate
from policyd.core.events import OperatorEvent
from policyd.core.money import NANOS_PER_USD
from policyd.core.policy import Limit, Metric, Policy
from policyd.core.record import Record
from policyd.core.windows import Lifetime
from policyd.enforcer import Enforcer
from policyd.learning import Corrections
from policyd.stores.base import Store, Swept
from policyd.tokens import TokenCounter
from policyd.v1 import policy_service_pb2 as service
from policyd.v1.policy_service_pb2_grpc import PolicyServiceStub
from tests.api.messages import ACME, nanos
from tests.api.prices import price_book

if TYPE_CHECKING:
    from policyd.v1.policy_service_pb2_grpc import PolicyServiceAsyncStub

TURNED_AWAY = "Bearer not-one-that-is-known"
"""What a call shows that may not be made."""

NOW_MS = 1_800_000_000_000

Trouble = Callable[[], Awaitable[None]]
"""What happens before a call gets to the store."""


def limit(metric: Metric = Metric.COST, amount: int = NANOS_PER_USD, *, name: str = "budget", **others: Any) -> Limit:
    """A limit for each project, for ever, of 1 USD unless said otherwise."""
    return replace(Limit(name, metric, amount, Lifetime(), per=("project",)), **others)


def policy(*limits: Limit) -> Policy:
    identity = Identity({"project": (Source(Place.DEFAULT, "default"),), "user": (Source(Place.BODY, "user"),)})
    return Policy(identity=identity, limits=limits)


class SetClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.ms = NOW_MS

    def now_ms(self) -> int:
        return self.ms


@dataclass
class Seen:
    """What the enforcer's observer was told."""

    records: list[Record] = field(default_factory=list)

    def ended(self, record: Record, estimate: Estimate | None) -> None:
        self.records.append(record)

    def store_call(self, operation: str, seconds: float, *, failed: bool) -> None: ...

    def swept(self, swept: Swept) -> None: ...

    def learned(self, corrections: Corrections) -> None: ...

    def emitted(self, event: OperatorEvent) -> None: ...


class TroubledStore:
    """A real store, but for the methods that a test puts something before."""

    def __init__(self, store: Store, troubles: Mapping[str, Trouble]) -> None:
        self._store = store
        self._troubles = troubles

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if (trouble := self._troubles.get(name)) is None:
            return method

        async def troubled(*arguments: Any, **named: Any) -> Any:
            await trouble()
            return await method(*arguments, **named)

        return troubled


def raising(error: Exception) -> Trouble:
    async def fail() -> None:
        raise error

    return fail


@dataclass
class Api:
    """The running service, and what a test looks at and turns."""

    store: Store
    policy: Policy
    clock: SetClock = field(default_factory=SetClock)
    seen: Seen = field(default_factory=Seen)
    troubles: dict[str, Trouble] = field(default_factory=dict)
    """What comes before the store's methods, by their names."""
    enforcer: Enforcer = field(init=False)
    calls: Calls = field(init=False)
    health: HealthServicer = field(init=False)
    channel: grpc.aio.Channel = field(init=False)
    stub: PolicyServiceAsyncStub = field(init=False)

    def __post_init__(self) -> None:
        self.enforcer = Enforcer(
            store=cast(Store, TroubledStore(self.store, self.troubles)),
            prices=price_book(),
            counter=TokenCounter(),
            clock=self.clock,
            policy=lambda: self.policy,
            observer=self.seen,
        )

    async def expire(self) -> None:
        """Lets every open reservation expire."""
        self.clock.ms += 7_200_000
        await self.enforcer.sweep()


@asynccontextmanager
async def serving(store: Store, *limits: Limit) -> AsyncIterator[Api]:
    """Serves on a free port of the loopback address. The store stays its opener's to close."""
    api = Api(store, policy(*limits))
    server = grpc.aio.server(interceptors=[AccessInterceptor(lambda authorization: authorization != TURNED_AWAY)])
    api.calls = add_policy_service(server, api.enforcer)
    api.health = add_standard_services(server)
    await api.health.set(SERVICE_NAME, health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as api.channel:
            api.stub = PolicyServiceStub(api.channel)
            yield api
    finally:
        await server.stop(grace=None)
        await api.calls.finish()


async def balance(api: Api) -> tuple[int, int]:
    """What is spent and reserved of acme's first limit, in nano-USD."""
    answer = await api.stub.GetBudget(service.GetBudgetRequest(attributes=ACME))
    return nanos(answer.limits[0].spent), nanos(answer.limits[0].reserved)


def raw_call(api: Api, method: str, request: bytes) -> Awaitable[bytes]:
    """A call of bytes that no stub would send."""
    path = f"/policyd.v1.PolicyService/{method}"
    call: Awaitable[bytes] = api.channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)(
        request
    )
    return call


@dataclass(frozen=True)
class Failure:
    """What a failed call told its caller."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]


async def failure(call: Awaitable[object]) -> Failure:
    """How `call` fails. Holds every error to the contract: one `ErrorInfo`, of our domain."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    error = raised.value
    status = rpc_status.from_call(cast(grpc.Call, error))
    assert status is not None, f"no details: {error.code()} {error.details()}"
    (detail,) = status.details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    assert info.domain == "policyd"
    assert status.message == error.details()
    return Failure(error.code(), error.details() or "", info.reason, dict(info.metadata))
