"""A session over a real store, without Envoy: a client and a provider that speak in frames, and what each got."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from policyd.core.usage import Usage
from policyd.ext_proc import messages as m
from policyd.ext_proc.driver import Driver
from policyd.ext_proc.session import Session, session_wanted
from policyd.ext_proc.settings import ExchangeSettings
from policyd.providers.framing.websocket import Kind, Unit, WebSocketFramer, encode_text
from tests.builders import World

OPENAI_PATH = "/v1/realtime?model=gpt-realtime"
LIVE_PATH = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"

AUDIO_TOKEN_BYTES = 2_400
"""PCM of one token of OpenAI's output."""

Json = dict[str, Any]


@dataclass
class Heard:
    """What one side got."""

    framer: WebSocketFramer
    raw: bytes = b""
    units: list[Unit] = field(default_factory=list)
    ended: bool = False

    @property
    def messages(self) -> list[Json]:
        return [json.loads(unit.data) for unit in self.units if unit.kind is Kind.MESSAGE]

    @property
    def close_code(self) -> int | None:
        close = next((unit.raw for unit in self.units if unit.kind is Kind.CLOSE), None)
        if close is None:
            return None
        masked = close[1] & 0x80
        code = bytes(a ^ b for a, b in zip(close[2:4], close[6:8], strict=True)) if masked else close[2:4]
        return int.from_bytes(code)

    def hear(self, piece: m.StreamedBody) -> None:
        assert not self.ended, "the body has ended already"
        self.raw += piece.body
        self.units += self.framer.feed(piece.body)
        self.ended = piece.end_of_stream


class SessionRig:
    """`await open()`, then `await say(...)` and `await answer(...)`, then `await close()`."""

    def __init__(self, world: World, path: str = OPENAI_PATH, **headers: str) -> None:
        self.world = world
        self.client = Heard(WebSocketFramer(from_client=False))
        self.provider = Heard(WebSocketFramer(from_client=True))
        self.refusal: m.ImmediateReply | None = None
        self.upstream: m.HeadersReply | None = None
        """How the handshake went upstream."""
        self.reply: m.HeadersReply | None = None
        self.handshake = m.RequestHeaders(
            {
                ":method": "GET",
                ":path": path,
                ":authority": "gateway",
                "upgrade": "websocket",
                "connection": "Upgrade",
                "sec-websocket-extensions": "permessage-deflate",
                **headers,
            },
            end_of_stream=False,
        )
        wanted = session_wanted(self.handshake)
        assert wanted is not None
        counter = world.counter
        self.session = Session(
            *wanted,
            request_id="pd-1",
            began_ms=world.clock.now_ms(),
            policy=world.policy,
            settings=ExchangeSettings(),
            count_text=lambda text, provider, model: counter.count_text(text, provider=provider, model=model),
        )
        self.driver = Driver(self.session, world.enforcer)

    async def open(self, status: int = 101) -> None:
        await self.tell(self.handshake)
        if self.refusal is None:
            await self.tell(m.ResponseHeaders({":status": str(status)}, end_of_stream=False))

    async def say(self, *messages: Json) -> None:
        """The client says something."""
        await self.send(b"".join(encode_text(json.dumps(each).encode(), from_client=True) for each in messages))

    async def answer(self, *messages: Json) -> None:
        """The provider says something."""
        raw = b"".join(encode_text(json.dumps(each).encode(), from_client=False) for each in messages)
        await self.tell(m.ResponseBody(raw, end_of_stream=False))

    async def send(self, raw: bytes) -> None:
        await self.tell(m.RequestBody(raw, end_of_stream=False))

    async def close(self) -> None:
        """Envoy closes the stream: it is over, or the client has hung up."""
        await self.tell(m.Closed())

    async def tell(self, event: m.Event) -> None:
        await self.driver.handle(event, self._take)

    async def _take(self, reply: m.Reply) -> None:
        match reply:
            case m.StreamedBody():
                (self.client if reply.response else self.provider).hear(reply)
            case m.HeadersReply(response=True):
                self.reply = reply
            case m.HeadersReply():
                self.upstream = reply
            case m.ImmediateReply():
                self.refusal = reply
            case _:
                raise AssertionError(reply)


def audio(tokens: int) -> Json:
    """A piece of speech."""
    return {"type": "response.output_audio.delta", "delta": "A" * (tokens * AUDIO_TOKEN_BYTES * 4 // 3)}


def done(usage: Usage | None, *, status: str = "completed") -> Json:
    """A response of OpenAI's has ended."""
    reported = None
    if usage is not None:
        reported = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "input_token_details": {
                "text_tokens": usage.input + usage.cached_input,
                "audio_tokens": usage.audio_input + usage.cached_audio_input,
                "cached_tokens": usage.cached_input + usage.cached_audio_input,
                "cached_tokens_details": {
                    "text_tokens": usage.cached_input,
                    "audio_tokens": usage.cached_audio_input,
                },
            },
            "output_token_details": {"text_tokens": usage.output, "audio_tokens": usage.audio_output},
        }
    return {"type": "response.done", "response": {"status": status, "usage": reported}}


CREATE: Json = {"type": "response.create"}
CREATED: Json = {"type": "response.created", "response": {}}
USAGE = Usage(input=50, cached_input=30, audio_input=20, cached_audio_input=10, output=15, audio_output=120)
