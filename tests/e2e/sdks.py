"""The official SDKs behind one face, so that one test can drive all of them.

`ask` and `stream` send the same conversation through a mesh. What an SDK raises before a reply began comes out as it
is; what it raises in the middle of a stream stands in `Reply.error`, beside the text that came before it.
"""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import anthropic
import openai
from anthropic.types import Message, RawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from policyd.core.usage import Usage
from tests.e2e.mesh import Mesh

API_KEY = "sk-made-up"

REPLY_SECONDS_MAX = 20

CERTIFICATES = ssl.create_default_context()
"""No connection here needs any, but reading them takes an SDK longer than the rest of a test."""

QUESTION = "Why did our language model bill double last month?"


@dataclass(slots=True)
class Reply:
    """What an SDK made of a reply."""

    headers: Mapping[str, str]
    sent: bytes
    """The body of the request."""
    text: str = ""
    usage: Usage | None = None
    """As the client was told it."""
    error: Exception | None = None
    """What ended a stream early."""

    @property
    def request_id(self) -> str:
        return self.headers["x-policyd-request-id"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of an SDK."""

    url: str
    headers: Mapping[str, str]
    retries: int
    members: Mapping[str, Any]
    """Of the request's body."""


@dataclass(frozen=True)
class Sdk(ABC):
    """One official SDK."""

    is_async: bool = field(default=False)

    provider: ClassVar[str]
    model: ClassVar[str]
    path: ClassVar[str]
    status_errors: ClassVar[Mapping[int, type[Exception]]]
    """What it raises for an HTTP status."""
    stream_error: ClassVar[type[Exception]]
    """What it raises for an error event."""

    def __str__(self) -> str:
        return f"{self.provider}-{'async' if self.is_async else 'sync'}"

    def ask(self, mesh: Mesh, *, project: str, **options: Any) -> Reply:
        """Asks for a JSON reply. `options` are those of `call`."""
        call = self.call(mesh, project=project, **options)
        return asyncio.run(self.ask_async(call)) if self.is_async else self.ask_sync(call)

    def stream(self, mesh: Mesh, *, project: str, **options: Any) -> Reply:
        """Asks for a stream, and reads it to its end. `options` are those of `call`."""
        call = self.call(mesh, project=project, stream=True, **options)
        return asyncio.run(self.stream_async(call)) if self.is_async else self.stream_sync(call)

    def hang_up(self, mesh: Mesh, *, project: str, after_events: int, **options: Any) -> None:
        """Asks for a stream, and hangs up after so many of its events."""
        call = self.call(mesh, project=project, stream=True, **options)
        if self.is_async:
            asyncio.run(self.hang_up_async(call, after_events))
        else:
            self.hang_up_sync(call, after_events)

    def call(
        self,
        mesh: Mesh,
        *,
        project: str,
        max_tokens: int | None = 100,
        retries: int = 0,
        script: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> Call:
        """`script` is for the provider (`x-sim-*`), `members` go into the body."""
        scripted = {f"x-sim-{name}": str(value) for name, value in (script or {}).items()}
        bound = {} if max_tokens is None else {"max_tokens": max_tokens}
        return Call(
            url=mesh.url,
            headers={"x-policyd-project": project, **scripted, **(headers or {})},
            retries=retries,
            members={"model": self.model, "messages": [{"role": "user", "content": QUESTION}], **bound, **members},
        )

    @abstractmethod
    def ask_sync(self, call: Call) -> Reply: ...

    @abstractmethod
    async def ask_async(self, call: Call) -> Reply: ...

    @abstractmethod
    def stream_sync(self, call: Call) -> Reply: ...

    @abstractmethod
    async def stream_async(self, call: Call) -> Reply: ...

    @abstractmethod
    def hang_up_sync(self, call: Call, after_events: int) -> None: ...

    @abstractmethod
    async def hang_up_async(self, call: Call, after_events: int) -> None: ...


class OpenAI(Sdk):
    provider = "openai"
    model = "gpt-4o"
    path = "/v1/chat/completions"
    status_errors: ClassVar[Mapping[int, type[Exception]]] = {
        400: openai.BadRequestError,
        402: openai.APIStatusError,
        403: openai.PermissionDeniedError,
        404: openai.NotFoundError,
        413: openai.APIStatusError,
        429: openai.RateLimitError,
        500: openai.InternalServerError,
        503: openai.InternalServerError,
        529: openai.InternalServerError,
    }
    stream_error = openai.APIError

    def ask_sync(self, call: Call) -> Reply:
        with self.client(call) as client:
            raw = client.chat.completions.with_raw_response.create(**call.members)
            return _completed(Reply(raw.headers, raw.http_request.content), raw.parse())

    async def ask_async(self, call: Call) -> Reply:
        async with self.async_client(call) as client:
            return await self.ask_by(client, call)

    @staticmethod
    async def ask_by(client: openai.AsyncOpenAI, call: Call) -> Reply:
        """Asks by a client that is shared."""
        raw = await client.chat.completions.with_raw_response.create(**call.members, extra_headers=call.headers)
        return _completed(Reply(raw.headers, raw.http_request.content), raw.parse())

    def stream_sync(self, call: Call) -> Reply:
        with self.client(call) as client:
            raw = client.chat.completions.with_raw_response.create(**call.members)
            reply = Reply(raw.headers, raw.http_request.content)
            try:
                for chunk in raw.parse():
                    _add_chunk(reply, chunk)
            except openai.APIError as error:
                reply.error = error
            return reply

    async def stream_async(self, call: Call) -> Reply:
        async with self.async_client(call) as client:
            return await self.stream_by(client, call)

    @staticmethod
    async def stream_by(client: openai.AsyncOpenAI, call: Call) -> Reply:
        """Streams by a client that is shared."""
        raw = await client.chat.completions.with_raw_response.create(**call.members, extra_headers=call.headers)
        reply = Reply(raw.headers, raw.http_request.content)
        try:
            async for chunk in raw.parse():
                _add_chunk(reply, chunk)
        except openai.APIError as error:
            reply.error = error
        return reply

    def hang_up_sync(self, call: Call, after_events: int) -> None:
        with self.client(call) as client, client.chat.completions.create(**call.members) as stream:
            for _ in range(after_events):
                next(stream)

    async def hang_up_async(self, call: Call, after_events: int) -> None:
        async with self.async_client(call) as client, await client.chat.completions.create(**call.members) as stream:
            for _ in range(after_events):
                await anext(stream)

    @staticmethod
    def client(call: Call) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{call.url}/v1",
            api_key=API_KEY,
            http_client=openai.DefaultHttpxClient(verify=CERTIFICATES),
            timeout=REPLY_SECONDS_MAX,
            max_retries=call.retries,
            default_headers=call.headers,
        )

    @staticmethod
    def async_client(call: Call) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{call.url}/v1",
            api_key=API_KEY,
            http_client=openai.DefaultAsyncHttpxClient(verify=CERTIFICATES),
            timeout=REPLY_SECONDS_MAX,
            max_retries=call.retries,
            default_headers=call.headers,
        )


def _completed(reply: Reply, completion: ChatCompletion) -> Reply:
    reply.text = completion.choices[0].message.content or ""
    if completion.usage is not None:
        reply.usage = Usage(input=completion.usage.prompt_tokens, output=completion.usage.completion_tokens)
    return reply


def _add_chunk(reply: Reply, chunk: ChatCompletionChunk) -> None:
    for choice in chunk.choices:
        reply.text += choice.delta.content or ""
    if chunk.usage is not None:
        reply.usage = Usage(input=chunk.usage.prompt_tokens, output=chunk.usage.completion_tokens)


class Anthropic(Sdk):
    provider = "anthropic"
    model = "claude-haiku-4-5"
    path = "/v1/messages"
    status_errors: ClassVar[Mapping[int, type[Exception]]] = {
        400: anthropic.BadRequestError,
        402: anthropic.PaymentRequiredError,
        403: anthropic.PermissionDeniedError,
        404: anthropic.NotFoundError,
        413: anthropic.ContentTooLargeError,
        429: anthropic.RateLimitError,
        500: anthropic.InternalServerError,
        503: anthropic.ServiceUnavailableError,
        529: anthropic.OverloadedError,
    }
    stream_error = anthropic.APIStatusError

    def ask_sync(self, call: Call) -> Reply:
        with self.client(call) as client:
            raw = client.messages.with_raw_response.create(**call.members)
            return _messaged(Reply(raw.headers, raw.http_request.content), raw.parse())

    async def ask_async(self, call: Call) -> Reply:
        async with self.async_client(call) as client:
            return await self.ask_by(client, call)

    @staticmethod
    async def ask_by(client: anthropic.AsyncAnthropic, call: Call) -> Reply:
        """Asks by a client that is shared."""
        raw = await client.messages.with_raw_response.create(**call.members, extra_headers=call.headers)
        return _messaged(Reply(raw.headers, raw.http_request.content), await raw.parse())

    def stream_sync(self, call: Call) -> Reply:
        with self.client(call) as client:
            raw = client.messages.with_raw_response.create(**call.members)
            reply = Reply(raw.headers, raw.http_request.content)
            try:
                for event in raw.parse():
                    _add_event(reply, event)
            except anthropic.APIError as error:
                reply.error = error
            return reply

    async def stream_async(self, call: Call) -> Reply:
        async with self.async_client(call) as client:
            return await self.stream_by(client, call)

    @staticmethod
    async def stream_by(client: anthropic.AsyncAnthropic, call: Call) -> Reply:
        """Streams by a client that is shared."""
        raw = await client.messages.with_raw_response.create(**call.members, extra_headers=call.headers)
        reply = Reply(raw.headers, raw.http_request.content)
        try:
            async for event in await raw.parse():
                _add_event(reply, event)
        except anthropic.APIError as error:
            reply.error = error
        return reply

    def hang_up_sync(self, call: Call, after_events: int) -> None:
        with self.client(call) as client, client.messages.create(**call.members) as stream:
            for _ in range(after_events):
                next(stream)

    async def hang_up_async(self, call: Call, after_events: int) -> None:
        async with self.async_client(call) as client, await client.messages.create(**call.members) as stream:
            for _ in range(after_events):
                await anext(stream)

    @staticmethod
    def client(call: Call) -> anthropic.Anthropic:
        return anthropic.Anthropic(
            base_url=call.url,
            api_key=API_KEY,
            http_client=anthropic.DefaultHttpxClient(verify=CERTIFICATES),
            timeout=REPLY_SECONDS_MAX,
            max_retries=call.retries,
            default_headers=call.headers,
        )

    @staticmethod
    def async_client(call: Call) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(
            base_url=call.url,
            api_key=API_KEY,
            http_client=anthropic.DefaultAsyncHttpxClient(verify=CERTIFICATES),
            timeout=REPLY_SECONDS_MAX,
            max_retries=call.retries,
            default_headers=call.headers,
        )


def _messaged(reply: Reply, message: Message) -> Reply:
    reply.text = "".join(block.text for block in message.content if block.type == "text")
    reply.usage = Usage(input=message.usage.input_tokens, output=message.usage.output_tokens)
    return reply


def _add_event(reply: Reply, event: RawMessageStreamEvent) -> None:
    match event.type:
        case "message_start":
            reply.usage = Usage(input=event.message.usage.input_tokens, output=event.message.usage.output_tokens)
        case "content_block_delta" if event.delta.type == "text_delta":
            reply.text += event.delta.text
        case "message_delta" if reply.usage is not None:
            reply.usage = Usage(input=reply.usage.input, output=event.usage.output_tokens)


SDKS: tuple[Sdk, ...] = (OpenAI(), OpenAI(is_async=True), Anthropic(), Anthropic(is_async=True))


def policyd_object(error: Exception) -> dict[str, Any]:
    """What policyd says in a refusal, as an application finds it in the SDK's exception."""
    assert isinstance(error, openai.APIError | anthropic.APIError)
    body: Any = error.body
    # OpenAI's SDK hands out the error object, Anthropic's the document around it.
    found: dict[str, Any] = (body["error"] if isinstance(error, anthropic.APIError) else body)["policyd"]
    return found
