"""The ext_proc service on grpc.aio: a thin edge that drives one `Exchange` a stream.

Three rules stand behind the code. A stream never ends with OK before its exchange has: Envoy would let the request
through unmetered. What the enforcer was asked is finished even if Envoy closes the stream meanwhile, so that no hold is
left behind. And any exception whatever ends in the exchange's own failure row.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from policyd.core.errors import PolicydError, RequestError
from policyd.enforcer import Enforcer
from policyd.ext_proc import messages as m
from policyd.ext_proc.codec import Decoder, encode
from policyd.ext_proc.exchange import Exchange, ExchangeSettings, State
from policyd.ext_proc.session import Session, session_wanted

PROVIDER_METADATA = "x-policyd-provider"
"""gRPC metadata by which a route names its provider (`ExtProcPerRoute.overrides.grpc_initial_metadata`)."""

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[pb.ProcessingRequest, pb.ProcessingResponse]
_END: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in grpc-stubs

Send = Callable[[m.Reply], Awaitable[None]]
L = TypeVar("L", Exchange, Session)

_NOT_FAILURES = (asyncio.CancelledError, KeyboardInterrupt, SystemExit)
"""What ends a task or the process. Any other exception is a failure: a panic in a library of Rust is no `Exception`."""


class ExternalProcessor:
    """Serves `envoy.service.ext_proc.v3.ExternalProcessor/Process`."""

    def __init__(self, enforcer: Enforcer, settings: ExchangeSettings) -> None:
        self._enforcer = enforcer
        self._settings = settings
        self._open: set[Exchange | Session] = set()
        self._endings: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        """Set by each exchange that has ended."""

    @property
    def open_exchanges(self) -> int:
        return len(self._open)

    async def process(self, _: AsyncIterator[pb.ProcessingRequest], context: Context) -> None:
        """One gRPC stream, one exchange."""
        provider = next((v for k, v in context.invocation_metadata() or () if k == PROVIDER_METADATA), None)
        decoder = Decoder(provider=provider if isinstance(provider, str) else None)
        body_due = asyncio.get_running_loop().time() + self._settings.request_body_seconds_max
        event = await _next_event(context, decoder, due=None)
        exchange = self._new_life(event)
        driver = Driver(exchange, self._enforcer)
        self._open.add(exchange)

        async def send(reply: m.Reply) -> None:
            await context.write(encode(reply))

        try:
            while event is not None:
                await driver.handle(event, send)
                if driver.aborted is not None or isinstance(event, m.RequestTimedOut):
                    break
                reads_body = exchange.state is State.READING_REQUEST
                event = await _next_event(context, decoder, due=body_due if reads_body else None)
        finally:
            # Runs on cancellation too (Envoy reset the stream, or the server stops), when nothing can be awaited here.
            ending = asyncio.ensure_future(self._end(exchange, driver))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
        if driver.aborted is not None:
            await context.abort(grpc.StatusCode.INTERNAL, driver.aborted)

    async def finish_endings(self) -> None:
        """Waits until every exchange is settled. To be called once the gRPC server has stopped.

        It has cancelled its streams then, but their handlers may not have seen it yet.
        """
        while self._open:
            self._ended.clear()
            await self._ended.wait()

    async def _end(self, exchange: Exchange | Session, driver: Driver) -> None:
        try:
            await driver.handle(m.Closed(), _nowhere)
        finally:
            self._open.discard(exchange)
            self._ended.set()

    def _new_life(self, first: m.Event | None) -> Exchange | Session:
        """What a stream that begins with this event carries."""
        enforcer = self._enforcer

        def begun(life: Callable[..., L]) -> L:
            return life(
                request_id=f"pd-{uuid.uuid4().hex}",
                began_ms=enforcer.now_ms(),
                policy=enforcer.policy,
                settings=self._settings,
                count_text=lambda text, provider, model: enforcer.counter.count_text(
                    text, provider=provider, model=model
                ),
            )

        wanted = session_wanted(first) if isinstance(first, m.RequestHeaders) else None
        return begun(Exchange) if wanted is None else begun(partial(Session, *wanted))


class Driver:
    """Carries out an exchange's effects, one after the other, and feeds the answers back.

    `handle` can be cancelled at any await: what is left to do stays here, and the next call goes on with it.
    """

    def __init__(self, exchange: Exchange | Session, enforcer: Enforcer) -> None:
        self._exchange = exchange
        self._enforcer = enforcer
        self._effects: deque[m.Effect] = deque()
        self._asked: asyncio.Task[m.Event | None] | None = None
        self.aborted: str | None = None
        """Why the gRPC stream has to end with an error."""

    async def handle(self, event: m.Event, send: Send) -> None:
        """Feeds `event` and everything that follows from it.

        An answer that a cancelled call was waiting for is fed after `event`: the exchange knows then that it is closed.
        """
        self._effects.extend(self._receive(event))
        await self._take_answer()
        while self._effects:
            effect = self._effects.popleft()
            if isinstance(effect, m.Abort):
                self.aborted = effect.message
            elif isinstance(effect, m.Decide | m.TopUp | m.Finish | m.Charge | m.Report):
                self._asked = asyncio.ensure_future(self._ask(effect))
                await self._take_answer()
            else:
                await send(effect)

    async def _take_answer(self) -> None:
        if self._asked is None:
            return
        answer = await asyncio.shield(self._asked)
        self._asked = None
        if answer is not None:
            self._effects.extendleft(reversed(self._receive(answer)))

    async def _ask(self, request: m.Request) -> m.Event | None:
        try:
            return await self._answer(request)
        except RequestError as error:
            return m.Rejected(error)
        except _NOT_FAILURES:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, the exchange's failure row decides what follows
            _log_failure(f"{type(request).__name__} failed", error)
            return m.Failed(_name(error))

    async def _answer(self, request: m.Request) -> m.Event | None:
        enforcer = self._enforcer
        match request:
            case m.Decide(ask):
                verdict = await enforcer.reserve(ask)
                if verdict.decision.allowed:
                    enforcer.keep_alive(ask.request_id)
                return m.Decided(verdict)
            case m.TopUp(verdict, wanted_tokens, at_least_tokens, of_input):
                tokens = await enforcer.extend(
                    verdict.record.request_id,
                    verdict.decision.estimate,
                    wanted_tokens=wanted_tokens,
                    at_least_tokens=at_least_tokens,
                    of_input=of_input,
                )
                return m.Extended(tokens)
            case m.Finish(verdict, ending):
                enforcer.let_go(verdict.record.request_id)
                return m.Ended(await enforcer.end(verdict.record, verdict.decision.estimate, ending))
            case m.Charge(ask, usage):
                return m.Ended((await enforcer.record_usage(ask, usage, fingerprint="")).record)
            case m.Report(record):
                await enforcer.end_unheld(record)
                return None

    def _receive(self, event: m.Event) -> list[m.Effect]:
        try:
            return self._exchange.receive(event)
        except _NOT_FAILURES:
            raise
        except BaseException as error:  # noqa: BLE001 - the same
            _log_failure(f"an exchange failed while {self._exchange.state}", error)
            return self._fail(_name(error))

    def _fail(self, name: str) -> list[m.Effect]:
        try:
            return self._exchange.receive(m.Failed(name))
        except _NOT_FAILURES:
            raise
        except BaseException as error:  # noqa: BLE001 - the same
            # The failure row itself failed: what is held expires and is charged, and the stream must not end with OK.
            _log_failure(f"an exchange could not be ended while {self._exchange.state}", error)
            self._enforcer.let_go(self._exchange.request_id)
            self._exchange.give_up()
            return [m.Abort(name)]


async def _next_event(context: Context, decoder: Decoder, *, due: float | None) -> m.Event | None:
    """What Envoy says next; `None` once it has closed the stream. `due`: when the request has to be whole."""
    try:
        async with asyncio.timeout_at(due):
            message = await context.read()
    except TimeoutError:
        return m.RequestTimedOut()
    if message is _END:
        return None
    try:
        return decoder.event(message)
    except PolicydError as error:
        return m.Failed(str(error))


async def _nowhere(_: m.Reply) -> None:
    """Replies to a stream that is closed go nowhere."""


def _name(error: BaseException) -> str:
    """An error's name for the log and the record, without content that could be a client's."""
    return str(error) if isinstance(error, PolicydError) else type(error).__name__


def _log_failure(what: str, error: BaseException) -> None:
    """Logs where an error came from. Not what it says: the message of an unforeseen one could quote a prompt."""
    log.error("%s: %s\n%s", what, _name(error), "".join(traceback.format_tb(error.__traceback__)))


def add_external_processor(server: grpc.aio.Server, processor: ExternalProcessor) -> None:
    """Registers the service. By hand: the generated base class is untyped and would hide the method's types."""
    method = grpc.stream_stream_rpc_method_handler(
        processor.process,
        request_deserializer=pb.ProcessingRequest.FromString,
        response_serializer=pb.ProcessingResponse.SerializeToString,
    )
    service = "envoy.service.ext_proc.v3.ExternalProcessor"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Process": method}),))
