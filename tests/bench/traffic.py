"""The bytes that go back and forth: one chat completion as an application sends it, and what the provider answers.

Prompt and reply are of a common size (136 tokens in, 80 out), and a stream is one of `STREAM_CHUNKS` events. The
headers are those of the official OpenAI client.
"""

from __future__ import annotations

import json
import random
from typing import Any, Final

from policyd.config import HostPort

MODEL: Final = "gpt-4o-mini"

ATTRIBUTES: Final = {"project": "bench", "user": "ann"}

INPUT_TOKENS: Final = 136
OUTPUT_TOKENS: Final = 80
MAX_OUTPUT_TOKENS: Final = 256

STREAM_CHUNKS: Final = 200
"""How many pieces the reply to a stream comes in, each an event of its own."""

STREAM_MARK: Final = b'"stream": true'
"""What a request body holds that asks for a stream."""

_SEED = 6

_SYSTEM = (
    "You are the assistant of a company that runs railways. Answer in the language of the question, in at most five "
    "sentences, and say so when you do not know. Timetables change often: refer to the stations for today's trains. "
    "Never give the personal data of passengers or staff, and do not promise a refund; name the form for it instead."
)
_QUESTION = (
    "My train from Basel to Hamburg was 70 minutes late yesterday, and I missed the ferry that I had booked. Which "
    "part of the fare do I get back, until when can I ask for it, and do you pay for the ferry ticket as well?"
)
_ANSWER = (
    "For a delay of 60 minutes or more at your destination a quarter of the fare is returned, and half of it from 120 "
    "minutes on. Yours was 70 minutes, so a quarter can be claimed, within three months, with the passenger rights "
    "form or in the app. A ferry that was booked apart is not part of the contract with us; a travel insurance may "
    "cover it."
)

_ABOUT_REPLY = {"id": "chatcmpl-bench", "created": 1_760_000_000, "model": MODEL}
_USAGE = {
    "prompt_tokens": INPUT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
}


CHUNK_MS_HEADER: Final = "x-bench-chunk-ms"
"""Tells the provider how long to wait from one chunk of a stream to the next."""


def request_headers() -> dict[str, str]:
    """Every header but those of HTTP itself."""
    return {
        "accept": "application/json",
        "authorization": "Bearer sk-bench",
        "content-type": "application/json",
        "user-agent": "OpenAI/Python 1.99.0",
        "x-stainless-arch": "x64",
        "x-stainless-async": "false",
        "x-stainless-lang": "python",
        "x-stainless-os": "Linux",
        "x-stainless-package-version": "1.99.0",
        "x-stainless-retry-count": "0",
        "x-stainless-runtime": "CPython",
        "x-stainless-runtime-version": "3.11.7",
        **{f"x-policyd-{name}": value for name, value in ATTRIBUTES.items()},
    }


def request_body(*, stream: bool = False, prompt_bytes: int = 0) -> bytes:
    """With a question of `prompt_bytes` in place of the usual one, if that is asked for."""
    question = _long_question(prompt_bytes) if prompt_bytes else _QUESTION
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": question}]
    asked: dict[str, Any] = {"model": MODEL, "max_tokens": MAX_OUTPUT_TOKENS, "messages": messages}
    if stream:
        # Asked for by the client, so that policyd forwards the same bytes as the servers that it is compared with.
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(asked).encode()


def _long_question(prompt_bytes: int) -> str:
    """As varied as text is: the words of the short one, shuffled again and again."""
    chance, words, pieces = random.Random(_SEED), _QUESTION.split(), list[str]()
    while sum(map(len, pieces)) < prompt_bytes:
        chance.shuffle(words)
        pieces.append(" ".join(words) + "\n")
    return "".join(pieces)[:prompt_bytes]


REQUEST_PATH: Final = "/v1/chat/completions"


def http_request(address: HostPort, *, stream: bool = False, prompt_bytes: int = 0, **headers: str) -> bytes:
    """The whole request, as it goes to `address`; `headers` are added to the usual ones, `_` for `-`."""
    body = request_body(stream=stream, prompt_bytes=prompt_bytes)
    added = {name.replace("_", "-"): value for name, value in headers.items()}
    headers = {"host": str(address), **request_headers(), **added, "content-length": str(len(body))}
    return _message(f"POST {REQUEST_PATH} HTTP/1.1", headers) + body


def http_reply() -> bytes:
    """The provider's whole reply, as JSON."""
    choice = {"index": 0, "message": {"role": "assistant", "content": _ANSWER}, "finish_reason": "stop"}
    reply = {**_ABOUT_REPLY, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    body = json.dumps(reply).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    return _message("HTTP/1.1 200 OK", headers) + body


STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
STREAM_END: Final = b"0\r\n\r\n"
STREAM_LAST: Final = b"data: [DONE]\n\n"
"""The last event: a stream that lacks it was cut."""


def stream_chunks() -> list[bytes]:
    """The provider's reply as `STREAM_CHUNKS` events, each as a chunk of HTTP."""
    words = _ANSWER.split()
    deltas = [{"content": f" {words[number % len(words)]}"} for number in range(STREAM_CHUNKS - 3)]
    events = [
        *(_stream_event(choices=[{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas),
        _stream_event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        _stream_event(choices=[], usage=_USAGE),
        STREAM_LAST,
    ]
    return [b"%x\r\n%b\r\n" % (len(event), event) for event in events]


def _stream_event(**members: object) -> bytes:
    return b"data: %b\n\n" % json.dumps({**_ABOUT_REPLY, "object": "chat.completion.chunk", **members}).encode()


def _message(first_line: str, headers: dict[str, str]) -> bytes:
    lines = [first_line, *(f"{name}: {value}" for name, value in headers.items())]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()
