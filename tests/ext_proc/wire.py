"""Requests and replies of OpenAI and Anthropic, as bytes."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import brotli
import zstandard

from policyd.core.usage import Usage
from policyd.ext_proc import messages as m

CHAT_PATH = "/v1/chat/completions"
MESSAGES_PATH = "/v1/messages"

CHAT_USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
CHAT_USED = Usage(input=9, output=12)

MESSAGE_USAGE = {"input_tokens": 11, "output_tokens": 6}
MESSAGE_USED = Usage(input=11, output=6)


def to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# --- requests ---


def chat(content: str = "Say hello.", **members: Any) -> bytes:
    return to_json({"model": "gpt-4o", "messages": [{"role": "user", "content": content}], **members})


def messages(content: str = "Say hello.", **members: Any) -> bytes:
    body = {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": content}]}
    return to_json(body | members)


def request_headers(
    body: bytes | None = None,
    *,
    path: str = CHAT_PATH,
    method: str = "POST",
    host: str = "gateway.internal",
    **others: str,
) -> dict[str, str]:
    """As Envoy shows them. Names in `others` with underscores for dashes."""
    headers = {":method": method, ":path": path, ":authority": host, ":scheme": "http"}
    if body is not None:
        headers |= {"content-type": "application/json", "content-length": str(len(body))}
    return headers | {name.replace("_", "-"): value for name, value in others.items()}


def reply_headers(
    content_type: str = "application/json", *, length: int | None = None, status: int = 200, **others: str
) -> dict[str, str]:
    headers = {":status": str(status), "content-type": content_type}
    if length is not None:
        headers["content-length"] = str(length)
    return headers | {name.replace("_", "-"): value for name, value in others.items()}


SSE = reply_headers("text/event-stream; charset=utf-8")

# --- replies ---


def chat_reply(content: str = "Hello there!", *, usage: Mapping[str, Any] | None = CHAT_USAGE, **members: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    reply = {"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o-2024-08-06", "choices": [choice]}
    return to_json(reply | ({"usage": usage} if usage is not None else {}) | members)


def chat_chunk(delta: Mapping[str, Any], *, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-4o-2024-08-06", "choices": [choice]}
    return b"data: " + to_json(chunk) + b"\n\n"


def usage_chunk(usage: Mapping[str, Any] = CHAT_USAGE) -> bytes:
    return (
        b"data: " + to_json({"id": "chatcmpl-1", "model": "gpt-4o-2024-08-06", "choices": [], "usage": usage}) + b"\n\n"
    )


DONE = b"data: [DONE]\n\n"


def chat_stream(
    texts: Sequence[str] = ("Hello", " there", "!"), *, usage: Mapping[str, Any] | None = CHAT_USAGE
) -> list[bytes]:
    """The events of a stream; its usage comes in a chunk of its own."""
    events = [chat_chunk({"role": "assistant", "content": ""})]
    events += [chat_chunk({"content": text}) for text in texts]
    events.append(chat_chunk({}, finish="stop"))
    return [*events, *([usage_chunk(usage)] if usage is not None else []), DONE]


def message_reply(text: str = "Hello there!", *, usage: Mapping[str, Any] = MESSAGE_USAGE) -> bytes:
    content = [{"type": "text", "text": text}]
    return to_json(
        {
            "type": "message",
            "model": "claude-sonnet-4-5-20250929",
            "role": "assistant",
            "content": content,
            "usage": usage,
        }
    )


def event(kind: str, **members: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + to_json({"type": kind, **members}) + b"\n\n"


def message_start(input_tokens: int = 11) -> bytes:
    message = {"type": "message", "model": "claude-sonnet-4-5-20250929", "role": "assistant", "content": []}
    return event("message_start", message={**message, "usage": {"input_tokens": input_tokens, "output_tokens": 1}})


def text_delta(text: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def message_stream(
    texts: Sequence[str] = ("Hello", " there", "!"), *, input_tokens: int = 11, output_tokens: int = 6
) -> list[bytes]:
    return [
        message_start(input_tokens),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *map(text_delta, texts),
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": output_tokens}),
        event("message_stop"),
    ]


# --- encodings ---

COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def flushed(encoding: str, parts: Sequence[bytes]) -> list[bytes]:
    """`parts` compressed as a server does that flushes after each of them."""
    match encoding:
        case "gzip" | "deflate":
            zlib_stream = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
            pieces = [zlib_stream.compress(part) + zlib_stream.flush(zlib.Z_SYNC_FLUSH) for part in parts]
            return [*pieces, zlib_stream.flush()]
        case "br":
            brotli_stream = brotli.Compressor()
            pieces = [brotli_stream.process(part) + brotli_stream.flush() for part in parts]
            return [*pieces, brotli_stream.finish()]
        case "zstd":
            zstd_stream = zstandard.ZstdCompressor().compressobj()
            pieces = [
                zstd_stream.compress(part) + zstd_stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for part in parts
            ]
            return [*pieces, zstd_stream.flush()]
        case _:
            raise AssertionError(encoding)


def cut_at(body: bytes, places: Sequence[int]) -> list[bytes]:
    """`body` in pieces, cut at `places`; possibly empty ones."""
    bounds = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(bounds)]


def decision_fields(body: bytes) -> Any:
    """The `policyd` object in a provider's error body."""
    return json.loads(body)["error"]["policyd"]


def effect_names(replies: Sequence[m.Effect]) -> list[str]:
    return [type(reply).__name__ for reply in replies]
