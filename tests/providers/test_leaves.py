"""A reply of which only single members are known, as Envoy picks them out, tells what the whole reply tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import pytest

from policyd.core.usage import Usage
from policyd.providers.base import ReplyReader
from policyd.providers.framing.sse import SseFramer
from policyd.providers.leaves import LeafFormat, ReplyLeaves, read_leaves
from policyd.providers.registry import (
    ANTHROPIC_MESSAGES,
    GEMINI_GENERATE,
    MISTRAL_CHAT,
    OPENAI_CHAT,
    OPENAI_COMPLETIONS,
    OPENAI_EMBEDDINGS,
    OPENAI_RERANK,
    OPENAI_RESPONSES,
    every_leaf,
    leaf_format,
    leaf_tails,
)
from tests import recordings
from tests.e2e.exchanges import EXCHANGES
from tests.providers.replay import read_document, read_stream, some_facts
from tests.recordings import WIRES, Recording

FORMS: Mapping[str, LeafFormat] = {"openai-chat": OPENAI_CHAT, "anthropic-messages": ANTHROPIC_MESSAGES}


def at(document: Any, path: str) -> Any:
    for name in path.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


def picked_from_document(leaves: ReplyLeaves, document: Any) -> dict[str, Any]:
    """As Envoy's json_to_metadata does: numbers become floats, and what is no single value is not there."""
    found = {path: at(document, path) for path in leaves.document}
    return {path: as_float(value) for path, value in found.items() if isinstance(value, str | int | float)}


def picked_from_stream(leaves: ReplyLeaves, body: bytes) -> dict[str, Any]:
    """As Envoy's sse_to_metadata does: the last value counts, and an object is its text."""
    found: dict[str, Any] = {}
    for frame in SseFramer().feed(body):
        event = as_json(frame.data)
        for path in leaves.events:
            value = at(event, path)
            if isinstance(value, dict):
                found[path] = msgspec.json.encode(value).decode()
            elif isinstance(value, str | int | float):
                found[path] = as_float(value)
    return found


def as_json(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return None


def as_float(value: str | float) -> str | float:
    return value if isinstance(value, str | bool) else float(value)


def read_whole(form: LeafFormat, body: bytes, *, streamed: bool) -> ReplyReader:
    reader = form.reply_reader(some_facts(), usage_added=False)
    if streamed:
        read_stream(reader, [body])
    else:
        read_document(reader, body)
    return reader


def read_picked(form: LeafFormat, body: bytes, *, streamed: bool) -> ReplyReader:
    reader = form.reply_reader(some_facts(), usage_added=False)
    leaves = form.reply_leaves
    picked = picked_from_stream(leaves, body) if streamed else picked_from_document(leaves, as_json(body))
    read_leaves(form, reader, picked, streamed=streamed, ended=True)
    return reader


def told(reader: ReplyReader) -> tuple[Usage | None, str | None, Mapping[str, str]]:
    return reader.usage, reader.model, reader.terms


def comparable(records: Iterable[Recording]) -> list[Recording]:
    """Those whose usage stands where it can be picked out."""
    return [
        record
        for record in records
        if record["wire"] in FORMS
        and record["expected_usage"] is not None
        and record["framing"] in ("sse", "json")
        # Envoy reads events of the type alone that they have.
        and not ("data:" in record["response_body"] and "json" in str(record["response_headers"]).lower())
        and '"iterations"' not in record["response_body"]
        # Nor does it read a last event without the line that ends it.
        and "no-last-line-end" not in record["id"]
    ]


def assert_alike(record: Recording) -> None:
    form, body = FORMS[record["wire"]], record["response_body"].encode()
    streamed = record["framing"] == "sse"
    picked = read_picked(form, body, streamed=streamed)
    assert told(picked) == told(read_whole(form, body, streamed=streamed)), record["id"]
    assert picked.usage_complete, record["id"]


@pytest.mark.parametrize("record", comparable(EXCHANGES), ids=lambda record: str(record["id"]))
def test_what_is_picked_tells_what_the_reply_tells(record: Recording) -> None:
    assert_alike(record)


@recordings.AT_HAND
def test_what_is_picked_from_recorded_replies_tells_what_they_tell() -> None:
    records = comparable(recordings.recordings())
    assert len(records) > 1000
    for record in records:
        assert_alike(record)


def test_the_forms_here_are_those_that_were_recorded() -> None:
    assert {name: form for name, form in WIRES.items() if isinstance(form, LeafFormat)} == FORMS


def test_iterations_stand_in_the_events_of_a_stream() -> None:
    usage = {"input_tokens": 10, "output_tokens": 5}
    iterations = [{"type": "compaction", "input_tokens": 100, "output_tokens": 20}]
    start = {"type": "message_start", "message": {"model": "claude", "usage": usage}}
    delta = {"type": "message_delta", "usage": {**usage, "iterations": iterations}}
    body = b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in (start, delta))
    assert read_picked(ANTHROPIC_MESSAGES, body, streamed=True).usage == Usage(input=110, output=25)


@pytest.mark.parametrize("form", [OPENAI_EMBEDDINGS, OPENAI_RERANK])
def test_a_format_without_streams(form: LeafFormat) -> None:
    body = b'{"model":"m","data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":7,"total_tokens":7}}'
    assert told(read_picked(form, body, streamed=False)) == (Usage(input=7), "m", {})
    assert not form.reply_leaves.events


def test_what_cannot_be_read_is_not_there() -> None:
    odd: dict[str, Any] = {
        "usage.prompt_tokens": -1.0,
        "usage.completion_tokens": 1e300,
        "usage.total_tokens": "many",
        "usage": "{",
        "model": 7.5,
        "model.name": "m",
        "": "",
        "..": 1.0,
    }
    for form in FORMS.values():
        for streamed in (False, True):
            reader = form.reply_reader(some_facts(), usage_added=False)
            read_leaves(form, reader, odd, streamed=streamed, ended=True)
            assert reader.usage is None


def test_an_object_too_deep_to_be_read() -> None:
    reader = OPENAI_CHAT.reply_reader(some_facts(), usage_added=False)
    deep = '{"a":' * 10_000 + "1" + "}" * 10_000
    read_leaves(OPENAI_CHAT, reader, {"usage": deep}, streamed=True, ended=True)
    assert reader.usage is None


@pytest.mark.parametrize("form", [OPENAI_RESPONSES, GEMINI_GENERATE])
def test_a_format_that_lists_what_replies_cost_is_no_leaf_format(form: object) -> None:
    assert not isinstance(form, LeafFormat)


@pytest.mark.parametrize(
    ("provider", "endpoint", "form"),
    [
        ("openai", "chat.completions", OPENAI_CHAT),
        ("openai", "completions", OPENAI_COMPLETIONS),
        ("openai", "responses", None),
        ("openai", "models", None),
        ("anthropic", "messages", ANTHROPIC_MESSAGES),
        ("anthropic", "messages.batches", None),
        ("mistral", "chat.completions", MISTRAL_CHAT),
        ("our-own-models", "chat.completions", OPENAI_CHAT),
        ("aws", "converse", None),
        ("google", "generateContent", None),
    ],
)
def test_which_endpoints_have_one(provider: str, endpoint: str, form: object) -> None:
    assert leaf_format(provider=provider, endpoint=endpoint) is form


def test_how_their_paths_end() -> None:
    assert "/chat/completions" in leaf_tails("openai")
    assert leaf_tails("anthropic") == ("/messages",)
    assert leaf_tails("aws") == leaf_tails("google") == ()


def test_every_leaf_is_there_once() -> None:
    leaves = every_leaf()
    assert len(set(leaves.document)) == len(leaves.document)
    assert {"usage.prompt_tokens", "usage.input_tokens"} <= set(leaves.document)
    assert {"usage", "message.usage"} <= set(leaves.events)
