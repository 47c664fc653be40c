"""What Envoy does with policyd's replies, as far as it was measured: enough of its filter to see what both sides get.

It holds policyd to the protocol as Envoy does. In every mode but full duplex each message is answered once and in kind;
in full duplex headers come before the body, and nothing comes after its end. A body that changed needs another length.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from policyd.ext_proc import messages as m
from policyd.ext_proc.driver import Driver
from policyd.ext_proc.exchange import Exchange
from policyd.ext_proc.settings import ExchangeSettings
from tests.builders import World

BUFFER_BYTES_MAX = 1024 * 1024

R = TypeVar("R", m.HeadersReply, m.BodyReply, m.TrailersReply)


@dataclass
class Side:
    """What upstream or the client got."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    """In an orderly way."""
    reset: bool = False

    @property
    def status(self) -> int:
        return int(self.headers[":status"])

    def end(self) -> None:
        length = self.headers.get("content-length")
        assert length is None or int(length) == len(self.body), f"{len(self.body)} bytes under content-length {length}"
        self.ended = True


class Envoy:
    """One exchange as Envoy sees it. `await request(...)`, then `await response(...)`, then `await close()`."""

    def __init__(
        self,
        world: World,
        *,
        request_mode: m.BodyMode = m.BodyMode.BUFFERED,
        response_mode: m.BodyMode = m.BodyMode.STREAMED,
        allow_mode_override: bool = True,
        settings: ExchangeSettings | None = None,
        provider: str | None = None,
        request_id: str = "pd-1",
    ) -> None:
        self.client, self.upstream = Side(), Side()
        self.replies: list[m.Reply] = []
        """All of them, in order."""
        self._configured = (request_mode, response_mode)
        self._request_mode, self._response_mode = request_mode, response_mode
        self._allow_mode_override = allow_mode_override
        self._shows_response = True
        self._shows_response_trailers = response_mode is m.BodyMode.FULL_DUPLEX_STREAMED
        self._provider = provider
        self._closed = False
        counter = world.counter
        self.exchange = Exchange(
            request_id=request_id,
            began_ms=world.clock.now_ms(),
            policy=world.policy,
            settings=settings or ExchangeSettings(),
            count_text=lambda text, provider, model: counter.count_text(text, provider=provider, model=model),
        )
        self.driver = Driver(self.exchange, world.enforcer)

    @property
    def answered(self) -> bool:
        """Whether the client has its whole answer, or lost its connection."""
        return self.client.ended or self.client.reset

    async def close(self) -> None:
        """Envoy closes the gRPC stream: as it does at an exchange's end, or because the client hung up."""
        if not self._closed:
            self._closed = True
            await self.driver.handle(m.Closed(), _nowhere)

    # --- the request ---

    async def request(
        self, headers: Mapping[str, str], chunks: Sequence[bytes] = (), *, trailers: bool = False
    ) -> None:
        """The client's request. It has a body if there are `chunks`."""
        event = m.RequestHeaders(
            headers=dict(headers),
            end_of_stream=not chunks,
            request_body_mode=self._configured[0],
            response_body_mode=self._configured[1],
            provider=self._provider,
        )
        if self._configured[0] is m.BodyMode.FULL_DUPLEX_STREAMED:
            await self._request_in_full_duplex(event, chunks, trailers=trailers)
            return
        reply = await self._ask(event, m.HeadersReply)
        if reply is None:
            return
        self.upstream.headers = _changed(headers, reply)
        self._follow(reply)
        if chunks and not await self._request_body(chunks, trailers=trailers):
            return
        self.upstream.end()

    async def _request_body(self, chunks: Sequence[bytes], *, trailers: bool) -> bool:
        match self._request_mode:
            case m.BodyMode.NONE:
                self.upstream.body = b"".join(chunks)
                return True
            case m.BodyMode.STREAMED:
                for chunk, last in _with_last(chunks):
                    if not await self._request_piece(chunk, end_of_stream=last and not trailers):
                        return False
            case _:
                body = b"".join(chunks)
                over = body[BUFFER_BYTES_MAX:]
                if over and self._request_mode is m.BodyMode.BUFFERED:
                    await self.response({":status": "413", "content-type": "text/plain"}, [b"Payload Too Large"])
                    return False
                shown = body[:BUFFER_BYTES_MAX]
                if not await self._request_piece(shown, end_of_stream=not over and not trailers):
                    return False
                self.upstream.body += over
        return not trailers or await self._ask(m.RequestTrailers(), m.TrailersReply) is not None

    async def _request_piece(self, chunk: bytes, *, end_of_stream: bool) -> bool:
        reply = await self._ask(m.RequestBody(chunk, end_of_stream), m.BodyReply)
        if reply is None:
            return False
        if self._request_mode is not m.BodyMode.STREAMED:
            self.upstream.headers |= reply.set_headers
        self.upstream.body += chunk if reply.body is None else reply.body
        return True

    async def _request_in_full_duplex(
        self, event: m.RequestHeaders, chunks: Sequence[bytes], *, trailers: bool
    ) -> None:
        events: list[m.Event] = [event]
        events += [m.RequestBody(chunk, last and not trailers) for chunk, last in _with_last(chunks)]
        events += [m.RequestTrailers()] if trailers else []
        for each in events:
            for reply in await self._tell(each):
                match reply:
                    case m.HeadersReply(response=False):
                        assert not self.upstream.headers, "the headers were answered already"
                        self.upstream.headers = _changed(event.headers, reply)
                        self.upstream.headers.pop("content-length", None)
                        self._follow(reply)
                        self.upstream.ended = not chunks
                    case m.StreamedBody(response=False):
                        assert self.upstream.headers, "the body goes before its headers"
                        assert not self.upstream.ended, "the body has ended already"
                        self.upstream.body += reply.body
                        self.upstream.ended = reply.end_of_stream
                    case m.TrailersReply(response=False):
                        self.upstream.ended = True
                    case m.ImmediateReply():
                        self._answer(reply)
                    case _:
                        raise AssertionError(reply)
            if self.answered:
                return
        assert self.upstream.ended, "the request hangs"

    # --- the reply ---

    async def response(
        self, headers: Mapping[str, str], chunks: Sequence[bytes] = (), *, trailers: bool = False
    ) -> None:
        """The provider's reply, or one of Envoy's own. It has a body if there are `chunks`."""
        if not self._shows_response:
            self.client = Side(dict(headers), b"".join(chunks))
            self.client.end()
            return
        event = m.ResponseHeaders(
            headers=dict(headers),
            end_of_stream=not chunks,
            body_mode=self._configured[1],
            mode_fixed=m.BodyMode.FULL_DUPLEX_STREAMED in self._configured,
        )
        reply = await self._ask(event, m.HeadersReply)
        if reply is None:
            return
        self.client.headers = _changed(headers, reply)
        self._follow(reply)
        if chunks and not await self._response_body(chunks, trailers=trailers):
            return
        self.client.end()

    async def _response_body(self, chunks: Sequence[bytes], *, trailers: bool) -> bool:
        match self._response_mode:
            case m.BodyMode.NONE:
                self.client.body = b"".join(chunks)
                return True
            case m.BodyMode.FULL_DUPLEX_STREAMED:
                assert self._shows_response_trailers, "the end of the reply may never be shown"
                return await self._response_in_full_duplex(chunks, trailers=trailers)
            case m.BodyMode.STREAMED:
                for chunk, last in _with_last(chunks):
                    if not await self._response_piece(chunk, end_of_stream=last and not trailers):
                        return False
            case _:
                body = b"".join(chunks)
                over = body[BUFFER_BYTES_MAX:]
                assert not over or self._response_mode is m.BodyMode.BUFFERED_PARTIAL, "the reply hangs in the buffer"
                shown = body[:BUFFER_BYTES_MAX]
                if not await self._response_piece(shown, end_of_stream=not over and not trailers):
                    return False
                self.client.body += over
        trailers = trailers and self._shows_response_trailers
        return not trailers or await self._ask(m.ResponseTrailers(), m.TrailersReply) is not None

    async def _response_piece(self, chunk: bytes, *, end_of_stream: bool) -> bool:
        reply = await self._ask(m.ResponseBody(chunk, end_of_stream), m.BodyReply)
        if reply is None:
            return False
        if self._response_mode is m.BodyMode.BUFFERED:
            self.client.headers |= reply.set_headers
        self.client.body += chunk if reply.body is None else reply.body
        return True

    async def _response_in_full_duplex(self, chunks: Sequence[bytes], *, trailers: bool) -> bool:
        """False after a cut: the client got an orderly end, and the provider was cancelled."""
        events: list[m.Event] = [m.ResponseBody(chunk, last and not trailers) for chunk, last in _with_last(chunks)]
        events += [m.ResponseTrailers()] if trailers else []
        for event in events:
            for reply in await self._tell(event):
                match reply:
                    case m.StreamedBody(response=True):
                        assert not self.client.ended, "the body has ended already"
                        self.client.body += reply.body
                        if reply.end_of_stream:
                            self.client.end()
                    case m.TrailersReply(response=True):
                        assert event is events[-1]
                        self.client.end()
                    case _:
                        raise AssertionError(reply)
            if self.answered and event is not events[-1]:
                self.upstream.reset = True
                return False
        assert self.answered, "the reply hangs"
        return True

    # --- parts ---

    async def _tell(self, event: m.Event) -> list[m.Reply]:
        """Shows policyd an event; returns its replies."""
        assert not self._closed
        replies: list[m.Reply] = []

        async def send(reply: m.Reply) -> None:
            replies.append(reply)

        await self.driver.handle(event, send)
        self.replies += replies
        if self.driver.aborted is not None:
            await self.close()
            self._lose_client()
        return replies

    async def _ask(self, event: m.Event, kind: type[R]) -> R | None:
        """The one reply to an event; `None` if the exchange ends with it."""
        replies = await self._tell(event)
        if self.driver.aborted is not None:
            return None
        (reply,) = replies
        if isinstance(reply, m.ImmediateReply):
            self._answer(reply)
            return None
        assert isinstance(reply, kind), reply
        assert reply.response is isinstance(event, m.ResponseHeaders | m.ResponseBody | m.ResponseTrailers)
        return reply

    def _answer(self, reply: m.ImmediateReply) -> None:
        if self.client.headers:
            # Too late for another answer.
            self._lose_client()
            return
        self.client = Side({":status": str(reply.status), **reply.headers}, reply.body)
        self.client.end()

    def _lose_client(self) -> None:
        self.upstream.reset = True
        if not self.client.headers:
            self.client.headers = {":status": "500"}
        self.client.reset = not self.client.ended

    def _follow(self, reply: m.HeadersReply) -> None:
        """Takes over a mode override, where Envoy does."""
        mode = reply.mode
        if mode is None or not self._allow_mode_override:
            return
        if m.BodyMode.FULL_DUPLEX_STREAMED in self._configured:
            return
        if not reply.response:
            self._request_mode = mode.request_body
            self._shows_response = mode.response_headers
        self._response_mode = mode.response_body
        self._shows_response_trailers = mode.response_trailers


async def _nowhere(_: m.Reply) -> None: ...


def _changed(headers: Mapping[str, str], reply: m.HeadersReply) -> dict[str, str]:
    changed = {**headers, **reply.set_headers}
    for name in reply.remove_headers:
        changed.pop(name, None)
    return changed


def _with_last(chunks: Sequence[bytes]) -> Iterable[tuple[bytes, bool]]:
    return ((chunk, index == len(chunks) - 1) for index, chunk in enumerate(chunks))
