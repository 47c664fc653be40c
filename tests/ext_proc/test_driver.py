"""The driver: cancelled at any await, with a store that fails at any call, with a defect anywhere.

Whatever happens, the exchange ends, nothing stays held by this process, nothing is charged twice and nothing is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from policyd.core.errors import StoreError, StoreUnavailable
from policyd.core.policy import FailureMode
from policyd.core.record import Outcome, UsageSource
from policyd.core.usage import Usage
from policyd.ext_proc import messages as m
from policyd.ext_proc.driver import Driver
from policyd.ext_proc.exchange import Exchange
from policyd.ext_proc.settings import ExchangeSettings
from policyd.ext_proc.states import State
from tests.builders import World, limit, policy, price_of
from tests.ext_proc import wire
from tests.ext_proc.envoy_model import Envoy
from tests.ext_proc.trying_stores import Turnstile, failing, slow
from tests.ext_proc.wire import SSE, chat, chat_chunk, chat_stream, effect_names, request_headers

PRICE = price_of("gpt-4o")


CHAT = chat(stream=True)
TEXT_EVENT = chat_chunk({"content": "more than one token of text"})

WHOLE_EXCHANGE: list[m.Event] = [
    m.RequestHeaders(request_headers(CHAT), end_of_stream=False),
    m.RequestBody(CHAT, end_of_stream=True),
    m.ResponseHeaders(SSE, end_of_stream=False),
    m.ResponseBody(TEXT_EVENT, end_of_stream=False),
    m.ResponseBody(TEXT_EVENT * 2, end_of_stream=False),
    m.ResponseBody(wire.usage_chunk() + wire.DONE, end_of_stream=True),
]
"""A stream under a hold of one token: it is reserved, topped up, and settled."""

BUFFERED_EXCHANGE: list[m.Event] = [
    m.RequestHeaders(request_headers(chat()), end_of_stream=False),
    m.RequestBody(chat(), end_of_stream=True),
    m.ResponseHeaders(wire.reply_headers(length=len(wire.chat_reply())), end_of_stream=False),
    m.ResponseBody(wire.chat_reply(), end_of_stream=True),
]

REFUSED_EXCHANGE: list[m.Event] = [
    m.RequestHeaders(request_headers(b"no JSON"), end_of_stream=False),
    m.RequestBody(b"no JSON", end_of_stream=True),
]

FREE_EXCHANGE: list[m.Event] = [
    m.RequestHeaders(request_headers(path="/v1/models", method="GET"), end_of_stream=True),
    m.ResponseHeaders(wire.reply_headers(), end_of_stream=False),
]

EXCHANGES = {
    "stream": WHOLE_EXCHANGE,
    "document": BUFFERED_EXCHANGE,
    "refused": REFUSED_EXCHANGE,
    "free": FREE_EXCHANGE,
}


def driver_of(world: World) -> tuple[Exchange, Driver]:
    exchange = Exchange(
        request_id="pd-1",
        began_ms=world.clock.now_ms(),
        policy=world.policy,
        settings=ExchangeSettings(),
        count_text=lambda text, provider, model: world.counter.count_text(text, provider=provider, model=model),
    )
    return exchange, Driver(exchange, world.enforcer)


@dataclass
class Run:
    """Plays an exchange, cancels it at its `cancel_at`-th wait, and then closes it as the servicer does."""

    world: World
    turnstile: Turnstile
    events: list[m.Event]
    cancel_at: int
    sent: list[m.Reply] = field(default_factory=list)

    async def play(self) -> bool:
        """Whether it was cancelled: false if there were fewer waits."""
        self.exchange, self.driver = driver_of(self.world)
        playing = asyncio.ensure_future(self._play_all())
        cancelled = await self._guard(playing)
        closing = asyncio.ensure_future(self.driver.handle(m.Closed(), self._nowhere))
        await self._release_until_done(closing)
        closing.result()
        return cancelled

    async def _play_all(self) -> None:
        for event in self.events:
            await self.driver.handle(event, self._send)

    async def _send(self, reply: m.Reply) -> None:
        await self.turnstile.pass_through()
        self.sent.append(reply)

    async def _nowhere(self, reply: m.Reply) -> None: ...

    async def _guard(self, playing: asyncio.Future[None]) -> bool:
        while await self._arrives(playing):
            if self.turnstile.passed == self.cancel_at:
                playing.cancel()
                with suppress(asyncio.CancelledError):
                    await playing
                return True
            self.turnstile.open()
        playing.result()
        return False

    async def _release_until_done(self, task: asyncio.Future[None]) -> None:
        self.turnstile.open()
        while await self._arrives(task):
            self.turnstile.open()

    async def _arrives(self, task: asyncio.Future[None]) -> bool:
        """Whether something stands at the turnstile before `task` is done."""
        arrival = asyncio.ensure_future(self.turnstile.arrival())
        await asyncio.wait([arrival, task], return_when=asyncio.FIRST_COMPLETED)
        if arrival.done():
            return True
        arrival.cancel()
        return False


async def runs(events: list[m.Event], *, waits_before: bool) -> AsyncIterator[Run]:
    """The exchange cancelled at its first wait, at its second, and so on to the one that is not cancelled any more."""
    cancel_at = 0
    cancelled = True
    while cancelled:
        cancel_at += 1
        turnstile = Turnstile()
        world = World(policy(default_max_output_tokens=1), wrap=slow(turnstile, waits_before=waits_before))
        run = Run(world, turnstile, events, cancel_at)
        cancelled = await run.play()
        yield run


class TestCancelled:
    @pytest.mark.parametrize("waits_before", [True, False], ids=["before its effect", "after its effect"])
    @pytest.mark.parametrize("events", EXCHANGES.values(), ids=EXCHANGES)
    async def test_at_every_wait(self, events: list[m.Event], waits_before: bool) -> None:
        metered = events in (WHOLE_EXCHANGE, BUFFERED_EXCHANGE)
        count = 0
        async for run in runs(events, waits_before=waits_before):
            count += 1
            world = run.world
            assert run.exchange.state is State.ENDED
            assert run.driver.aborted is None
            spent = await world.spent()
            records = world.seen.records
            assert len(records) <= 1
            # Charged as recorded, once.
            assert spent == sum(record.actual_cost_nanos or 0 for record in records)
            if records and records[0].usage_source is UsageSource.REPORTED:
                assert spent == PRICE.cost_nanos(wire.CHAT_USED)
            calls = [operation for operation, _ in world.seen.store_calls]
            ends = [operation for operation in calls if operation in ("settle", "release")]
            assert len(ends) == (1 if "reserve" in calls else 0)
            if metered and "reserve" in calls:
                assert len(records) == 1
        # The last run was not cancelled.
        assert world.record.outcome in (Outcome.SERVED, Outcome.REJECTED, Outcome.UNMETERED)
        # As many waits as replies and store calls.
        assert count - 1 == len(run.sent) + sum(
            operation not in ("balances", "sweep") for operation, _ in world.seen.store_calls
        )

    @pytest.mark.parametrize("waits_before", [True, False])
    async def test_while_it_decides_the_hold_is_returned(self, waits_before: bool) -> None:
        """The provider has seen nothing yet. The first wait is a reply's, the second the reservation's."""
        turnstile = Turnstile()
        world = World(wrap=slow(turnstile, waits_before=waits_before))
        run = Run(world, turnstile, WHOLE_EXCHANGE, cancel_at=2)
        assert await run.play()
        assert effect_names(run.sent) == ["HeadersReply"]
        assert (world.record.outcome, world.record.usage) == (Outcome.DISCONNECTED, None)
        assert [operation for operation, _ in world.seen.store_calls] == ["reserve", "release"]
        assert await world.spent() == 0

    async def test_twice(self) -> None:
        """The close is cancelled too, as by a server that stops the hard way; a third try settles all the same."""
        turnstile = Turnstile()
        world = World(wrap=slow(turnstile, waits_before=True))
        exchange, driver = driver_of(world)
        sent: list[m.Reply] = []

        async def send(reply: m.Reply) -> None:
            sent.append(reply)

        async def cancel_at_the_store(event: m.Event) -> None:
            task = asyncio.ensure_future(driver.handle(event, send))
            await turnstile.arrival()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        await driver.handle(WHOLE_EXCHANGE[0], send)
        await cancel_at_the_store(WHOLE_EXCHANGE[1])
        closing = asyncio.ensure_future(driver.handle(m.Closed(), send))
        await asyncio.sleep(0)
        closing.cancel()
        with suppress(asyncio.CancelledError):
            await closing
        assert exchange.state is State.ABANDONED
        turnstile.open()
        closing = asyncio.ensure_future(driver.handle(m.Closed(), send))
        await turnstile.arrival()
        turnstile.open()
        await closing
        world = World(world.policy, store=world.store, seen=world.seen)
        assert (await world.books()).open_reservations == 0
        assert await world.spent() == 0


async def play(world: World, events: list[m.Event]) -> Envoy:
    """The exchange as Envoy sees it."""
    envoy = Envoy(world)
    headers, *others = events
    assert isinstance(headers, m.RequestHeaders)
    bodies = [event.chunk for event in others if isinstance(event, m.RequestBody)]
    await envoy.request(headers.headers, bodies)
    if not envoy.answered:
        replies = [event for event in others if isinstance(event, m.ResponseHeaders)]
        await envoy.response(replies[0].headers, [event.chunk for event in others if isinstance(event, m.ResponseBody)])
    await envoy.close()
    return envoy


ERRORS = [StoreUnavailable("the disk is full"), StoreError("who knows"), RuntimeError("what somebody asked")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("failure_mode", FailureMode)
class TestAFailingStore:
    def world(self, failure_mode: FailureMode, operation: str, error: Exception, *, after: bool = False) -> World:
        return World(
            policy(default_max_output_tokens=1, failure_mode=failure_mode),
            wrap=failing(operation, after=after, error=error),
        )

    async def test_at_reserve(self, failure_mode: FailureMode, error: Exception) -> None:
        world = self.world(failure_mode, "reserve", error)
        envoy = await play(world, WHOLE_EXCHANGE)
        name = "RuntimeError" if isinstance(error, RuntimeError) else str(error)
        assert world.record.error == name
        # Whatever the mode: nothing keeps the charge.
        assert envoy.client.status == 503
        assert world.record.outcome is Outcome.FAILED
        assert await world.spent() == 0

    async def test_at_reserve_after_its_effect(self, failure_mode: FailureMode, error: Exception) -> None:
        """Nothing is known of the hold; it expires as one whose exchange crashed."""
        world = self.world(failure_mode, "reserve", error, after=True)
        await play(world, WHOLE_EXCHANGE)
        assert world.enforcer.open_reservations == 0
        assert (await world.books()).open_reservations == 1
        world.clock.ms += 126_000
        await world.enforcer.sweep()
        assert await world.spent() == PRICE.cost_nanos(Usage(input=10, output=1))

    @pytest.mark.parametrize("after", [True, False])
    async def test_at_extend(self, failure_mode: FailureMode, error: Exception, after: bool) -> None:
        """What was seen is charged, and the gRPC stream ends with an error: the policy cannot be checked any more."""
        world = self.world(failure_mode, "extend", error, after=after)
        envoy = await play(world, WHOLE_EXCHANGE)
        assert envoy.driver.aborted == ("RuntimeError" if isinstance(error, RuntimeError) else str(error))
        assert envoy.client.reset
        assert TEXT_EVENT not in envoy.client.body
        assert world.record.outcome is Outcome.FAILED
        assert world.record.usage is not None
        assert world.record.usage.output > 1
        assert await world.spent() == world.record.actual_cost_nanos

    @pytest.mark.parametrize("events", [WHOLE_EXCHANGE, BUFFERED_EXCHANGE])
    async def test_at_settle(self, failure_mode: FailureMode, error: Exception, events: list[m.Event]) -> None:
        """The reply goes out; the hold expires and is charged, once."""
        world = self.world(failure_mode, "settle", error)
        envoy = await play(world, events)
        assert envoy.client.ended
        assert envoy.driver.aborted is None
        assert world.enforcer.open_reservations == 0
        assert not world.seen.records
        books = await world.books()
        assert books.open_reservations == 1
        world.clock.ms += 126_000
        await world.enforcer.sweep()
        assert world.record.outcome is Outcome.EXPIRED
        assert await world.spent() == books.reserved["budget"]

    async def test_at_settle_after_its_effect(self, failure_mode: FailureMode, error: Exception) -> None:
        world = self.world(failure_mode, "settle", error, after=True)
        envoy = await play(world, BUFFERED_EXCHANGE)
        assert envoy.client.body == wire.chat_reply()
        assert await world.spent() == PRICE.cost_nanos(wire.CHAT_USED)

    async def test_at_release(self, failure_mode: FailureMode, error: Exception) -> None:
        world = self.world(failure_mode, "release", error)
        error_reply = [
            *BUFFERED_EXCHANGE[:2],
            m.ResponseHeaders({":status": "500"}, end_of_stream=False),
            m.ResponseBody(b"oh", end_of_stream=True),
        ]
        envoy = await play(world, error_reply)
        assert (envoy.client.status, envoy.client.body) == (500, b"oh")
        assert world.enforcer.open_reservations == 0
        assert (await world.books()).open_reservations == 1

    @pytest.mark.parametrize("events", [REFUSED_EXCHANGE, FREE_EXCHANGE])
    async def test_at_append(self, failure_mode: FailureMode, error: Exception, events: list[m.Event]) -> None:
        """A record that is not stored stands in nobody's way; it is counted and logged all the same."""
        world = self.world(failure_mode, "append", error)
        envoy = await play(world, events)
        assert envoy.client.ended
        assert envoy.client.status == (400 if events is REFUSED_EXCHANGE else 200)
        assert envoy.driver.aborted is None
        assert len(world.seen.records) == 1


SECRET = "what somebody asked"


def broken(*_: Any, **__: Any) -> Any:
    raise ValueError(SECRET)


READER = "policyd.providers.openai.reply.OpenAIChatReply"


class TestADefect:
    @pytest.mark.parametrize("method", ["read_frame", "take_text"])
    async def test_in_a_reader_ends_the_stream_with_an_error(
        self, monkeypatch: pytest.MonkeyPatch, method: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        world = World()
        envoy = Envoy(world)
        await envoy.request(request_headers(CHAT), [CHAT])
        monkeypatch.setattr(f"{READER}.{method}", broken)
        await envoy.response(SSE, chat_stream())
        assert envoy.driver.aborted == "ValueError"
        assert envoy.exchange.state is State.ENDED
        assert envoy.client.reset
        assert world.record.outcome is Outcome.FAILED
        assert world.record.error == "ValueError"
        assert await world.spent() == world.record.actual_cost_nanos
        (logged,) = caplog.messages
        assert logged.startswith("an exchange failed while metering: ValueError\n")
        assert "in broken" in logged
        assert SECRET not in caplog.text

    @pytest.mark.parametrize("length", [True, False])
    async def test_in_a_reader_of_documents(self, monkeypatch: pytest.MonkeyPatch, length: bool) -> None:
        world = World()
        envoy = Envoy(world)
        monkeypatch.setattr(f"{READER}.read_document", broken)
        body = chat(max_tokens=100)
        await envoy.request(request_headers(body), [body])
        await envoy.response(wire.reply_headers(length=9 if length else None), [b'{"a": 1 }'])
        assert envoy.driver.aborted == "ValueError"
        assert envoy.client.reset
        assert (world.record.outcome, world.record.usage) == (Outcome.FAILED, Usage(input=10, output=100))
        assert await world.spent() == world.record.actual_cost_nanos

    async def test_while_a_failure_is_dealt_with(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The hold expires, and is not kept alive."""
        world = World()
        envoy = Envoy(world)
        monkeypatch.setattr("policyd.ext_proc.meter.ReplyMeter.observed", broken)
        await envoy.request(request_headers(CHAT), [CHAT])
        await envoy.response(SSE, chat_stream())
        assert envoy.driver.aborted == "ValueError"
        assert envoy.client.reset
        assert envoy.exchange.state is State.ENDED
        assert world.enforcer.open_reservations == 0
        world.clock.ms += 126_000
        await world.enforcer.sweep()
        assert world.record.outcome is Outcome.EXPIRED

    async def test_at_the_replys_headers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World()
        envoy = Envoy(world)
        await envoy.request(request_headers(CHAT), [CHAT])
        monkeypatch.setattr("policyd.ext_proc.exchange.ReplySide", broken)
        await envoy.response(SSE, chat_stream())
        assert envoy.driver.aborted == "ValueError"
        assert envoy.client.status == 500
        assert (world.record.outcome, world.record.usage) == (Outcome.FAILED, Usage(input=10))
        assert await world.spent() == world.record.actual_cost_nanos

    @pytest.mark.parametrize("failure_mode", FailureMode)
    @pytest.mark.parametrize("what", ["policyd.ext_proc.admission.resolve", "policyd.ext_proc.request.RequestSide.ask"])
    async def test_before_the_decision(
        self, monkeypatch: pytest.MonkeyPatch, what: str, failure_mode: FailureMode
    ) -> None:
        world = World(policy(failure_mode=failure_mode))
        envoy = Envoy(world)
        monkeypatch.setattr(what, broken)
        await envoy.request(request_headers(CHAT), [CHAT])
        await envoy.close()
        # Whatever the mode: nobody knows what it would cost.
        assert envoy.client.status == 503
        assert SECRET.encode() not in envoy.client.body
        assert world.record.error == "ValueError"

    async def test_a_message_out_of_its_place(self, world: World) -> None:
        envoy = Envoy(world)
        await envoy.request(request_headers(CHAT), [CHAT])
        sent: list[m.Reply] = []

        async def send(reply: m.Reply) -> None:
            sent.append(reply)

        await envoy.driver.handle(m.ResponseBody(b"", end_of_stream=False), send)
        assert sent == []
        assert envoy.driver.aborted == "ResponseBody cannot come while forwarded"
        assert world.record.outcome is Outcome.FAILED
        assert await world.spent() == world.record.actual_cost_nanos

    async def test_a_reply_that_cannot_be_sent(self, world: World) -> None:
        """The gRPC stream broke between two messages: what is left to do is done at the close."""
        _, driver = driver_of(world)
        sent: list[m.Reply] = []

        async def send(reply: m.Reply) -> None:
            sent.append(reply)

        async def break_off(_: m.Reply) -> None:
            raise OSError("broken pipe")

        for event in WHOLE_EXCHANGE[:-1]:
            await driver.handle(event, send)
        with pytest.raises(OSError, match="broken pipe"):
            await driver.handle(WHOLE_EXCHANGE[-1], break_off)
        assert not world.seen.records
        await driver.handle(m.Closed(), send)
        assert world.record.outcome is Outcome.SERVED
        assert await world.spent() == PRICE.cost_nanos(wire.CHAT_USED)


async def test_a_hold_is_kept_alive_while_its_exchange_lives(world: World) -> None:
    envoy = Envoy(world)
    await envoy.request(request_headers(CHAT), [CHAT])
    assert world.enforcer.open_reservations == 1
    for _ in range(10):
        world.clock.ms += 100_000
        await world.enforcer.renew_open()
        await world.enforcer.sweep()
    assert (await world.books()).open_reservations == 1
    await envoy.response(SSE, chat_stream())
    await envoy.close()
    assert world.record.duration_ms == 1_000_000
    assert await world.spent() == PRICE.cost_nanos(wire.CHAT_USED)


async def test_a_hold_that_expired_meanwhile_is_corrected(world: World) -> None:
    """Its process was stopped for longer than a hold lives."""
    envoy = Envoy(world)
    await envoy.request(request_headers(CHAT), [CHAT])
    world.clock.ms += 126_000
    await world.enforcer.sweep()
    assert (await world.books()).spent["budget"] == PRICE.cost_nanos(Usage(input=10, output=4096))
    await envoy.response(SSE, chat_stream())
    await envoy.close()
    assert [record.outcome for record in world.seen.records] == [Outcome.EXPIRED, Outcome.SERVED]
    assert await world.spent() == PRICE.cost_nanos(wire.CHAT_USED)


async def test_a_refusal_is_reported_once_and_holds_nothing() -> None:
    world = World(policy(limit(amount=1)))
    envoy = await play(world, WHOLE_EXCHANGE)
    assert envoy.client.status == 402
    assert [operation for operation, _ in world.seen.store_calls] == ["reserve", "append"]
    assert world.record.outcome is Outcome.DENIED
