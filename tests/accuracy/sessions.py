"""A recorded realtime session through the real framing and the real reader: what each of its responses used.

The recordings keep a session as messages, one a line. Here they are framed again, as each side would, and cut anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from typing import Any

import msgspec

from policyd.core.usage import NO_USAGE, Usage
from policyd.providers.base import RawRequest
from policyd.providers.framing.websocket import WebSocketFramer, encode_text
from policyd.providers.realtime import RealtimeFormat, RealtimeReader, ResponseEnd
from policyd.providers.registry import GEMINI_LIVE, OPENAI_REALTIME
from tests.accuracy.reported import disagreements
from tests.recordings import Recording

FORMATS: Mapping[str, RealtimeFormat] = {"openai-realtime": OPENAI_REALTIME, "gemini-live": GEMINI_LIVE}

Cut = Callable[[bytes], Iterable[bytes]]


def read_session(recording: Recording, cut: Cut) -> tuple[RealtimeReader, list[ResponseEnd]]:
    """The reader that has read it all, and the ends of the responses. Raises `ValueError` for frames out of order."""
    reader = FORMATS[recording["wire"]].reader(RawRequest(b"", query="model=gpt-realtime"))
    for message in _messages(recording["request_body"], cut, from_client=True):
        reader.read_sent(message)
    received = [
        reader.read_received(message) for message in _messages(recording["response_body"], cut, from_client=False)
    ]
    ends = [each.ended for each in received if each.ended is not None]
    if sum(each.began for each in received) != len(ends):
        raise ValueError("a response began that did not end")
    return reader, ends


def session_disagreements(ends: list[ResponseEnd], recording: Recording) -> list[str]:
    """What was read otherwise than the messages themselves tell it, response by response and in all."""
    told = [usage for usage in _told(recording) if usage]
    wanted = [_totals(usage) for usage in told]
    got = [(end.usage.input_tokens, end.usage.output_tokens) for end in ends if end.usage is not None]
    wrong = [] if got == wanted else [f"responses {got}/{wanted}"]
    return wrong + disagreements(total_usage(ends), recording)


def total_usage(ends: list[ResponseEnd]) -> Usage:
    return reduce(Usage.__add__, (end.usage for end in ends if end.usage is not None), NO_USAGE)


def _messages(lines: str, cut: Cut, *, from_client: bool) -> Iterator[bytes]:
    """The messages in `lines`, having been on the wire."""
    stream = b"".join(encode_text(line.encode(), from_client=from_client) for line in lines.splitlines())
    framer = WebSocketFramer(from_client=from_client)
    for chunk in cut(stream):
        for unit in framer.feed(chunk):
            yield unit.data
    if framer.violation is not None:
        raise ValueError(f"the frames are taken for a violation: {framer.violation}")


def _told(recording: Recording) -> Iterator[dict[str, Any]]:
    """The usage in the messages themselves: xAI's is beside the response, where a plain reader looks not."""
    for line in recording["response_body"].splitlines():
        event = msgspec.json.decode(line)
        if event.get("type", "response.done") == "response.done":
            yield event.get("usageMetadata") or event.get("response", {}).get("usage") or event.get("usage")


def _totals(usage: dict[str, Any]) -> tuple[int, int]:
    if "totalTokenCount" in usage:
        output = usage.get("responseTokenCount", usage.get("candidatesTokenCount", 0))
        return usage["promptTokenCount"], output + usage.get("thoughtsTokenCount", 0)
    return usage["input_tokens"], usage["output_tokens"]
