"""Refusals by Cohere's, Mistral's and Ollama's shapes: worded exactly, and read as the errors that they are."""

from __future__ import annotations

import json

import msgspec
import pytest

from policyd.providers.base import ErrorInfo, WireFormat
from policyd.providers.framing.ndjson import NdjsonFramer
from policyd.providers.framing.sse import SseFramer
from policyd.providers.registry import (
    COHERE_CHAT,
    COHERE_CHAT_V1,
    COHERE_EMBED,
    COHERE_GENERATE,
    COHERE_RERANK,
    MISTRAL_CHAT,
    MISTRAL_FIM,
    MISTRAL_OCR,
    OLLAMA_CHAT,
    OLLAMA_EMBED,
    OLLAMA_GENERATE,
)
from tests.providers.replay import read_document, read_stream, some_facts
from tests.providers.test_errors import EXACT, error

COHERE_WIRES = (COHERE_CHAT, COHERE_CHAT_V1, COHERE_GENERATE, COHERE_EMBED, COHERE_RERANK)
MISTRAL_WIRES = (MISTRAL_CHAT, MISTRAL_FIM, MISTRAL_OCR)
OLLAMA_WIRES = (OLLAMA_CHAT, OLLAMA_GENERATE, OLLAMA_EMBED)
EVERY = pytest.mark.parametrize("wire", [*COHERE_WIRES, *MISTRAL_WIRES, *OLLAMA_WIRES], ids=lambda wire: wire.name)


@EVERY
def test_refusals_are_read_as_errors(wire: WireFormat) -> None:
    reader = wire.reply_reader(some_facts(), usage_added=False)
    read_document(reader, wire.error_body(error(402)))
    assert reader.error
    assert reader.usage is None


@EVERY
def test_money_is_printed_to_the_last_digit(wire: WireFormat) -> None:
    for written in (wire.error_body(error(402)), wire.error_event(error(402))):
        assert f'"remaining_usd":{EXACT}'.encode() in written


@pytest.mark.parametrize(
    ("wire", "data"),
    [
        (COHERE_CHAT, 2),
        (COHERE_CHAT_V1, 1),
        (COHERE_GENERATE, 1),
        (MISTRAL_CHAT, 2),
        (OLLAMA_CHAT, 1),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_error_events_are_whole_events_that_are_read_as_errors(wire: WireFormat, data: int) -> None:
    event = wire.error_event(ErrorInfo(402, "r", "two\nlines\r\n\r\nand more", {"note": "a\n\nb"}))
    in_lines = event.startswith(b"{")
    frames = (NdjsonFramer() if in_lines else SseFramer()).feed(event)
    assert len(frames) == data
    reader = wire.reply_reader(some_facts(), usage_added=False)
    read_stream(reader, [event], framer=NdjsonFramer() if in_lines else None)
    assert reader.error
    assert "two\\nlines\\r\\n\\r\\nand more" in json.dumps(msgspec.json.decode(frames[0].data))
