"""Recorded realtime sessions: framed and cut at random places, they are read as their providers reported them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
import pytest

from policyd.core.usage import Usage
from policyd.providers.base import RawRequest
from policyd.providers.framing.websocket import WebSocketFramer, encode_text
from policyd.providers.realtime import RealtimeFormat, RealtimeReader, ResponseEnd
from policyd.providers.registry import GEMINI_LIVE, OPENAI_REALTIME
from tests import recordings
from tests.providers.replay import random_chunks, single_bytes
from tests.recordings import Recording

pytestmark = recordings.AT_HAND

FORMATS: dict[str, RealtimeFormat] = {"openai-realtime": OPENAI_REALTIME, "gemini-live": GEMINI_LIVE}

UNREPORTED = {"153395374ad6": "the turn has a transcript, and its usage no count of the output"}
"""Turns whose output has to be counted, and why."""


def sessions() -> list[Recording]:
    if not recordings.PATH.exists():
        return []
    return [record for record in recordings.every_recording() if record["wire"] in FORMATS]


def reader_of(record: Recording) -> RealtimeReader:
    return FORMATS[record["wire"]].reader(RawRequest(b"", query="model=gpt-realtime"))


def messages(body: str, *, from_client: bool, seed: str) -> Iterator[bytes]:
    """The messages in `body`, one a line, having been on the wire."""
    stream = b"".join(encode_text(line.encode(), from_client=from_client) for line in body.splitlines())
    cut = single_bytes(stream) if len(stream) < 2_000 else random_chunks(stream, Random(seed))
    framer = WebSocketFramer(from_client=from_client)
    for chunk in cut:
        for unit in framer.feed(chunk):
            yield unit.data
    assert framer.violation is None


def ends(record: Recording) -> list[ResponseEnd]:
    reader = reader_of(record)
    for message in messages(record["request_body"], from_client=True, seed=record["id"]):
        reader.read_sent(message)
    received = [
        reader.read_received(message)
        for message in messages(record["response_body"], from_client=False, seed=record["id"])
    ]
    found = [each.ended for each in received if each.ended is not None]
    assert sum(each.began for each in received) == len(found)
    return found


@pytest.mark.parametrize("record", sessions(), ids=lambda record: record["id"])
def test_every_response_is_found_with_its_usage(record: Recording) -> None:
    reported = [usage for usage in _reported(record) if usage]
    found = ends(record)
    assert [_in_all(end.usage) for end in found] == [_totals(usage) for usage in reported]
    assert [end.complete for end in found] == [record["id"] not in UNREPORTED] * len(found)


@pytest.mark.parametrize("record", sessions(), ids=lambda record: record["id"])
def test_every_session_names_its_model(record: Recording) -> None:
    reader = reader_of(record)
    for line in record["request_body"].splitlines():
        reader.read_sent(line.encode())
    assert reader.model


def _reported(record: Recording) -> Iterator[dict[str, Any]]:
    """The usage objects in the messages themselves: xAI's are beside the response, where a plain reader looks not."""
    for line in record["response_body"].splitlines():
        event = msgspec.json.decode(line)
        if event.get("type", "response.done") == "response.done":
            yield event.get("usageMetadata") or event.get("response", {}).get("usage") or event.get("usage")


def _totals(usage: dict[str, Any]) -> tuple[int, int]:
    if "totalTokenCount" in usage:
        output = usage.get("responseTokenCount", usage.get("candidatesTokenCount", 0))
        return usage["promptTokenCount"], output + usage.get("thoughtsTokenCount", 0)
    return usage["input_tokens"], usage["output_tokens"]


def _in_all(usage: Usage | None) -> tuple[int, int]:
    assert usage is not None
    return usage.input_tokens, usage.output_tokens
