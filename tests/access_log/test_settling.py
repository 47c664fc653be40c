"""The service on a real gRPC stream: each entry is settled once, whenever, wherever and however often it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest
from envoy.service.accesslog.v3 import als_pb2

from policyd.access_log import over_grpcio, over_h2rpc, settling
from policyd.access_log.settling import METHOD, AccessLogs
from policyd.config import Transport
from policyd.core.errors import ReservationNotFound, StoreUnavailable
from policyd.core.estimate import Estimate
from policyd.core.policy import FailureMode
from policyd.core.record import Outcome, Record
from policyd.core.reservation import State
from policyd.core.usage import Usage
from policyd.ext_proc.over_grpcio import GrpcioServer
from policyd.ext_proc.over_h2rpc import H2rpcServer
from policyd.ext_proc.servicer import ExternalProcessor, ExtProcServer
from policyd.ext_proc.settings import ExchangeSettings
from policyd.stores.base import Reservation, Store
from tests.access_log.entries import CHAT_PICKED, entry, message
from tests.builders import NOW_MS, Seen, World, policy, price_of
from tests.ext_proc.test_lean import granted
from tests.stores.outage.rig import AWAY, Rig

USED = Usage(input=20, output=7)
COST = price_of("gpt-4o").cost_nanos(USED)


@dataclass
class Serving:
    logs: AccessLogs
    server: ExtProcServer
    channel: grpc.aio.Channel

    def open_stream(self) -> Any:
        """A stream as Envoy opens it for its log."""
        stream: Any = self.channel.stream_unary(
            METHOD, request_serializer=bytes, response_deserializer=als_pb2.StreamAccessLogsResponse.FromString
        )
        return stream()

    async def send(self, *messages: bytes) -> None:
        """Sends messages, and waits until they are settled."""
        stream = self.open_stream()
        for each in messages:
            await stream.write(each)
        await stream.done_writing()
        assert await stream == als_pb2.StreamAccessLogsResponse()
        await self.logs.finish()


class Serve(Protocol):
    """Serves an enforcer until the end of the block."""

    def __call__(self, world: World) -> AbstractAsyncContextManager[Serving]: ...


@pytest.fixture(params=Transport, ids=str)
def serving(request: pytest.FixtureRequest) -> Serve:
    """On each transport in turn."""

    @asynccontextmanager
    async def serve(world: World) -> AsyncIterator[Serving]:
        logs = AccessLogs(world.enforcer)
        processor = ExternalProcessor(world.enforcer, ExchangeSettings())
        server: ExtProcServer
        if request.param is Transport.GRPCIO:
            server = GrpcioServer(processor, message_bytes_max=2**20, others=(over_grpcio.handler(logs),))
        else:
            server = H2rpcServer(processor, message_bytes_max=2**20, others=over_h2rpc.services(logs))
        port = await server.listen("127.0.0.1", 0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Serving(logs, server, channel)
            logs.stop()
        await server.stop(grace_seconds=5)
        await logs.finish()

    return serve


async def holds(world: World, *request_ids: str) -> None:
    for request_id in request_ids:
        await granted(world, request_id)


async def test_an_exchange_is_settled(world: World, serving: Serve) -> None:
    await holds(world, "pd-1")
    async with serving(world) as service:
        await service.send(message(entry("pd-1")))
    assert (world.record.outcome, world.record.usage, world.record.status) == (Outcome.SERVED, USED, 200)
    assert await world.spent() == COST


async def test_many_in_one_message_in_any_order(world: World, serving: Serve) -> None:
    names = [f"pd-{number}" for number in range(50)]
    await holds(world, *names)
    async with serving(world) as service:
        await service.send(message(*map(entry, reversed(names))))
    assert await world.spent() == 50 * COST
    assert len(world.seen.records) == 50


async def test_an_entry_that_comes_again_changes_nothing(world: World, serving: Serve) -> None:
    await holds(world, "pd-1")
    async with serving(world) as service:
        other = {**CHAT_PICKED, "usage.completion_tokens": 90}
        await service.send(message(entry("pd-1"), entry("pd-1")), message(entry("pd-1", other)))
        await service.send(message(entry("pd-1", {}, status=500)))
    assert len(world.seen.records) == 1
    assert await world.spent() == COST


async def test_another_process_settles_what_this_one_held(world: World, serving: Serve) -> None:
    await holds(world, "pd-1")
    other = World(policy=world.policy, store=world.store, clock=world.clock)
    async with serving(other) as service:
        await service.send(message(entry("pd-1")))
    assert other.record.usage == USED
    assert await world.spent() == COST


async def test_a_late_entry_corrects_what_expiry_charged(world: World, serving: Serve) -> None:
    await holds(world, "pd-1")
    world.clock.ms += (world.policy.reservations.lean_ttl_seconds + world.policy.reservations.grace_seconds) * 1000
    await world.enforcer.sweep()
    assert (await world.books()).spent["budget"] > COST
    async with serving(world) as service:
        await service.send(message(entry("pd-1")))
    assert await world.spent() == COST
    assert [record.outcome for record in world.seen.records] == [Outcome.EXPIRED, Outcome.SERVED]


async def test_a_hold_lives_as_long_as_the_policy_says(world: World) -> None:
    await holds(world, "pd-1")
    world.clock.ms += world.policy.reservations.lean_ttl_seconds * 1000 - 1
    await world.enforcer.renew_open()
    await world.enforcer.sweep()
    assert (await world.store.get("pd-1")).state is State.RESERVED


@pytest.mark.usefixtures("hurried")
async def test_holds_that_are_not_known_and_messages_that_are_none(
    world: World, serving: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    await holds(world, "pd-1")
    async with serving(world) as service:
        await service.send(b"\xff\xff", message(entry("pd-none"), entry("pd-1"), entry(None)))
    assert await world.spent() == COST
    assert "cannot be read" in caplog.text


@pytest.mark.usefixtures("hurried")
async def test_what_another_service_holds_is_left_alone(world: World, serving: Serve) -> None:
    await granted(world, "theirs", fingerprint="f")
    async with serving(world) as service:
        await service.send(message(entry("theirs")))
    assert (await world.store.get("theirs")).state is State.RESERVED


class Failing:
    """A store whose first calls of `get` fail, and whose next ones do not know the hold yet."""

    def __init__(self, inner: Store, failures: int, *, unknown: int = 0) -> None:
        self._inner = inner
        self.failures_left = failures
        self.unknown_left = unknown

    async def get(self, reservation_id: str) -> Reservation:
        if self.failures_left:
            self.failures_left -= 1
            raise StoreUnavailable("it is away")
        if self.unknown_left:
            self.unknown_left -= 1
            raise ReservationNotFound(reservation_id)
        return await self._inner.get(reservation_id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Sequence[float]:
    monkeypatch.setattr(settling, "RETRY_SECONDS", (0.0, 0.0))
    return settling.RETRY_SECONDS


@pytest.mark.parametrize(("failures", "is_settled"), [(1, True), (2, True), (3, False)])
async def test_a_store_that_is_away_for_a_while_is_waited_for(
    world: World, serving: Serve, hurried: Sequence[float], failures: int, is_settled: bool
) -> None:
    await holds(world, "pd-1", "pd-2")
    failing: Any = Failing(world.store, failures)
    away = World(policy=world.policy, store=failing, clock=world.clock)
    async with serving(away) as service:
        await service.send(message(entry("pd-1")))
        await service.send(message(entry("pd-2")))
    states = [(await world.store.get(name)).state for name in ("pd-1", "pd-2")]
    assert states == [State.SETTLED if is_settled else State.RESERVED, State.SETTLED]


@pytest.mark.parametrize(("failures", "unknown"), [(20, 1), (0, 20), (15, 15)])
async def test_a_hold_that_is_in_a_journal_is_waited_for_however_long_the_outage_was(
    world: World, serving: Serve, monkeypatch: pytest.MonkeyPatch, failures: int, unknown: int
) -> None:
    monkeypatch.setattr(settling, "RETRY_SECONDS", (0.0,) * len(settling.RETRY_SECONDS))
    await holds(world, "pd-1")
    failing: Any = Failing(world.store, failures, unknown=unknown)
    away = World(policy=world.policy, store=failing, clock=world.clock)
    async with serving(away) as service:
        await service.send(message(entry("pd-1")))
    assert await world.spent() == COST


class Told(Seen):
    """An observer that says when it was told of an exchange."""

    def __init__(self) -> None:
        super().__init__()
        self.reported = asyncio.Event()

    def ended(self, record: Record, estimate: Estimate | None) -> None:
        super().ended(record, estimate)
        self.reported.set()


async def test_a_stream_that_never_ends_does_not_keep_the_server(serving: Serve) -> None:
    world = World(seen=(told := Told()))
    await holds(world, "pd-1")
    async with serving(world) as service:
        stream = service.open_stream()
        await stream.write(message(entry("pd-1")))
        await told.reported.wait()
        service.logs.stop()
        assert await stream == als_pb2.StreamAccessLogsResponse()
        late = service.open_stream()
        assert await late == als_pb2.StreamAccessLogsResponse()
    assert await world.spent() == COST


async def test_a_stream_that_breaks_leaves_its_entries_settled(serving: Serve) -> None:
    world = World(seen=(told := Told()))
    await holds(world, "pd-1")
    async with serving(world) as service:
        stream = service.open_stream()
        await stream.write(message(entry("pd-1")))
        await told.reported.wait()
        stream.cancel()
    assert await world.spent() == COST


@pytest.mark.parametrize("failure_mode", [FailureMode.OPEN, FailureMode.DEGRADED])
async def test_an_entry_that_comes_before_the_journal_is_in_the_store(
    tmp_path: Path, serving: Serve, monkeypatch: pytest.MonkeyPatch, failure_mode: FailureMode
) -> None:
    """The request was let through while the store was away; its entry comes to this process, or to another one."""
    monkeypatch.setattr(settling, "RETRY_SECONDS", (0.05,) * 100)
    rig = Rig(tmp_path, policy=policy(failure_mode=failure_mode, lease_percent=50), now_ms=NOW_MS)
    leasing, beside = rig.process(), rig.process()
    one = World(rig.policy, store=rig.store.inner, wrap=lambda _: leasing)
    other = World(rig.policy, store=rig.store.inner, wrap=lambda _: beside)
    await granted(one, "before")
    await leasing.mend()
    rig.store.error = AWAY
    await granted(one, "pd-1")
    await granted(one, "pd-2")

    async def mended() -> None:
        await asyncio.sleep(0.1)
        rig.store.error = None
        await asyncio.sleep(0.1)
        await leasing.mend()

    mending = asyncio.ensure_future(mended())
    async with serving(one) as service:
        await service.send(message(entry("before"), entry("pd-1")))
    async with serving(other) as service:
        await service.send(message(entry("pd-2")))
    await mending
    rig.now_ms += rig.policy.reservations.ttl_seconds * 1000
    rig.use(FailureMode.CLOSED)  # nothing more is leased
    for _ in range(3):
        await leasing.mend()
    assert await one.spent() == 3 * COST
    assert not rig.journals
