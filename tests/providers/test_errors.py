"""Refusals in the providers' own error shapes: the official SDKs raise their natural exceptions, our numbers in them.

The SDKs talk to a server on the loopback that answers with what a wire format words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import anthropic
import msgspec
import openai
import pytest

from policyd.providers.base import ErrorInfo
from policyd.providers.framing.sse import SseFramer
from policyd.providers.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT
from tests.providers.replay import event_stream

# More digits than a float holds: numbers of money go out as they are written.
EXACT = "12345678901234567.000000001"


def error(status: int, reason: str = "limit_exceeded") -> ErrorInfo:
    numbers = {"reason": reason, "remaining_usd": msgspec.Raw(EXACT.encode()), "limits": [{"name": "a"}]}
    return ErrorInfo(status, reason, "The budget is spent: 1.00 of 1.00 USD.", numbers)


@contextmanager
def answering(status: int, body: bytes, *, content_type: str = "application/json") -> Iterator[str]:
    """The address of a server that gives every request the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def openai_client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="k", max_retries=0)


def ask_openai(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], **options)


def anthropic_client(address: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=address, api_key="k", max_retries=0)


def ask_anthropic(client: anthropic.Anthropic, **options: Any) -> Any:
    return client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}], **options)


OPENAI_ERRORS = [
    (400, openai.BadRequestError, "invalid_request_error", "limit_exceeded"),
    (402, openai.APIStatusError, "insufficient_quota", "budget_exceeded"),
    (403, openai.PermissionDeniedError, "invalid_request_error", "limit_exceeded"),
    (404, openai.NotFoundError, "invalid_request_error", "limit_exceeded"),
    (413, openai.APIStatusError, "invalid_request_error", "limit_exceeded"),
    (429, openai.RateLimitError, "rate_limit_exceeded", "rate_limit_exceeded"),
    (500, openai.InternalServerError, "server_error", "limit_exceeded"),
    (503, openai.InternalServerError, "server_error", "limit_exceeded"),
]


@pytest.mark.parametrize(("status", "raised", "kind", "code"), OPENAI_ERRORS)
def test_openai_raises_its_natural_exception(
    status: int, raised: type[openai.APIStatusError], kind: str, code: str
) -> None:
    with (
        answering(status, OPENAI_CHAT.error_body(error(status))) as address,
        openai_client(address) as client,
        pytest.raises(raised) as caught,
    ):
        ask_openai(client)
    assert caught.value.status_code == status
    assert caught.value.type == kind
    assert caught.value.code == code
    assert "The budget is spent" in str(caught.value)
    body = caught.value.body
    assert isinstance(body, dict)
    assert body["policyd"] == {"reason": "limit_exceeded", "remaining_usd": float(EXACT), "limits": [{"name": "a"}]}
    assert body["param"] is None


ANTHROPIC_ERRORS = [
    (400, anthropic.BadRequestError, "invalid_request_error"),
    (402, anthropic.APIStatusError, "billing_error"),
    (403, anthropic.PermissionDeniedError, "permission_error"),
    (404, anthropic.NotFoundError, "not_found_error"),
    (413, anthropic.APIStatusError, "request_too_large"),
    (429, anthropic.RateLimitError, "rate_limit_error"),
    (500, anthropic.InternalServerError, "api_error"),
    (503, anthropic.APIStatusError, "overloaded_error"),
]


@pytest.mark.parametrize(("status", "raised", "kind"), ANTHROPIC_ERRORS)
def test_anthropic_raises_its_natural_exception(status: int, raised: type[anthropic.APIStatusError], kind: str) -> None:
    with (
        answering(status, ANTHROPIC_MESSAGES.error_body(error(status))) as address,
        anthropic_client(address) as client,
        pytest.raises(raised) as caught,
    ):
        ask_anthropic(client)
    assert caught.value.status_code == status
    body = caught.value.body
    assert isinstance(body, dict)
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert body["error"]["message"].startswith("The budget is spent")
    assert body["error"]["policyd"]["limits"] == [{"name": "a"}]


@pytest.mark.parametrize("wire", [OPENAI_CHAT, ANTHROPIC_MESSAGES], ids=lambda wire: wire.name)
def test_money_is_printed_to_the_last_digit(wire: Any) -> None:
    for written in (wire.error_body(error(402)), wire.error_event(error(402))):
        assert f'"remaining_usd":{EXACT}'.encode() in written


def test_openai_raises_in_a_stream_that_ends_with_an_error() -> None:
    choice = {"index": 0, "delta": {"content": "Hé"}, "finish_reason": None}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    body = event_stream(chunk) + OPENAI_CHAT.error_event(error(402))
    # The client has to stay open while its stream is read.
    with answering(200, body, content_type="text/event-stream") as address, openai_client(address) as client:
        stream = iter(ask_openai(client, stream=True))
        assert next(stream).choices[0].delta.content == "Hé"
        with pytest.raises(openai.APIError, match="The budget is spent") as caught:
            next(stream)
    assert caught.value.type == "insufficient_quota"
    assert caught.value.code == "budget_exceeded"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["policyd"]["limits"] == [{"name": "a"}]


def test_anthropic_raises_in_a_stream_that_ends_with_an_error() -> None:
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    start = ("message_start", {"type": "message_start", "message": message})
    body = event_stream(start) + ANTHROPIC_MESSAGES.error_event(error(402))
    with answering(200, body, content_type="text/event-stream") as address, anthropic_client(address) as client:
        stream = iter(ask_anthropic(client, stream=True))
        assert next(stream).type == "message_start"
        with pytest.raises(anthropic.APIStatusError) as caught:
            next(stream)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "billing_error"
    assert caught.value.body["error"]["policyd"]["limits"] == [{"name": "a"}]


@pytest.mark.parametrize(
    ("wire", "events"),
    [(OPENAI_CHAT, ["", ""]), (ANTHROPIC_MESSAGES, ["error"])],
    ids=lambda value: getattr(value, "name", ""),
)
def test_error_events_are_whole_events_of_one_line_each(wire: Any, events: list[str]) -> None:
    lines = ErrorInfo(402, "r", "two\nlines\r\n\r\nand more", {"note": "a\n\nb"})
    frames = SseFramer().feed(wire.error_event(lines))
    assert [frame.event for frame in frames] == events
    shown = json.loads(frames[0].data)["error"]
    assert shown["message"] == "two\nlines\r\n\r\nand more"
    assert shown["policyd"] == {"note": "a\n\nb"}
