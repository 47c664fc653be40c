"""Reading and editing Anthropic messages requests."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import OUTPUT_TOKENS_MAX, CacheWrite, Image, Prompt, RawRequest, RequestEdits, RequestFacts
from policyd.providers.registry import ANTHROPIC_MESSAGES
from policyd.providers.vendors import ANTHROPIC
from tests.providers.garbling import UNHURRIED, garbled, with_other_values

MESSAGES = [{"role": "user", "content": "Hi"}]
SHORT = {"type": "ephemeral"}
LONG = {"type": "ephemeral", "ttl": "1h"}


def read(body: bytes, *, fields: tuple[str, ...] = ()) -> RequestFacts:
    return ANTHROPIC_MESSAGES.read_request(RawRequest(body), vendor=ANTHROPIC, identity_fields=fields)


def read_with(**members: Any) -> RequestFacts:
    document = {"model": "claude-sonnet-4-6", "max_tokens": 100, "messages": MESSAGES, **members}
    return read(json.dumps(document).encode())


def prompt_of(*blocks: Any, **members: Any) -> Prompt:
    return read_with(messages=[{"role": "user", "content": list(blocks)}], **members).prompt


def test_the_plain_case() -> None:
    assert read_with() == RequestFacts(
        model="claude-sonnet-4-6",
        streamed=False,
        prompt=Prompt(texts=("Hi",), overhead_tokens=7, exact=False),
        max_output_tokens=100,
    )


def test_streams_always_carry_usage() -> None:
    facts = read_with(stream=True)
    assert facts.streamed
    assert facts.usage_requested


@pytest.mark.parametrize(("value", "maximum"), [(1, 1), (0, 0), (None, None), (OUTPUT_TOKENS_MAX, OUTPUT_TOKENS_MAX)])
def test_the_maximum_of_the_output(value: int | None, maximum: int | None) -> None:
    assert read_with(max_tokens=value).max_output_tokens == maximum


def test_terms() -> None:
    assert read_with(speed="fast").terms == {"speed": "fast"}
    assert read_with(speed=None, service_tier="auto").terms == {}


def test_identity_fields() -> None:
    body = {"model": "m", "messages": [], "metadata": {"user_id": "ada"}}
    assert read(json.dumps(body).encode(), fields=("metadata.user_id", "user")).fields == {"metadata.user_id": "ada"}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"model": None}, "model: expected a text that is not empty, got nothing"),
        ({"messages": None}, "messages: expected an array of objects, got nothing"),
        ({"messages": [1]}, "messages[0]: expected an object, got a number"),
        ({"max_tokens": "5"}, "max_tokens: expected an integer, got a text"),
        ({"max_tokens": -1}, "max_tokens: expected an integer from 0 to 100000000"),
        ({"stream": "no"}, "stream: expected true or false, got a text"),
        ({"tools": {}}, "tools: expected an array of objects, got an object"),
        ({"tools": [{}, "x"]}, "tools[1]: expected an object, got a text"),
        (
            {"tools": [{"type": "web_search_20250305", "max_uses": "2"}]},
            "tools[0].max_uses: expected an integer, got a text",
        ),
        ({"speed": 1}, "speed: expected a text, got a number"),
    ],
)
def test_what_is_refused(members: dict[str, Any], message: str) -> None:
    with pytest.raises(BodyUnreadable) as refused:
        read_with(**members)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "body",
    [
        b"nope",
        b"[]",
        b'{"model":"\xff"}',
        b"[" * 100_000,
        b'{"model":"a","model":"b","messages":[]}',
        b'{"model":"a","messages":[],"max_tokens":1,"max\\u005ftokens":2}',
        b'{"model":"a","messages":[],"system":"x","system":"y"}',
    ],
)
def test_other_bodies_that_are_refused(body: bytes) -> None:
    with pytest.raises(BodyUnreadable):
        read(body)


# The prompt.


def test_system_and_messages() -> None:
    facts = read_with(
        system=[{"type": "text", "text": "Be brief."}],
        messages=[
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "b"}, {"type": "text", "text": "c"}]},
            {"role": "user", "content": [{"type": "text", "text": "d"}, "e"]},
        ],
    )
    assert facts.prompt.texts == ("Be brief.", "a", "b", "c", "d", "e")
    assert facts.prompt.overhead_tokens == 4 + 3 * 3
    assert read_with(system="Be brief.").prompt.texts == ("Be brief.", "Hi")


def test_calls_and_results_of_tools() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "u"}}
    prompt = prompt_of(
        {"type": "tool_use", "id": "t", "name": "look", "input": {"at": "é"}},
        {"type": "tool_result", "tool_use_id": "t", "content": "found"},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "more"}, image]},
        {"type": "tool_result", "tool_use_id": "t"},
    )
    assert prompt.texts == ("look", '{"at":"é"}', "found", "more")
    assert prompt.images == (Image(b""),)


def test_images_and_documents() -> None:
    data = b64encode(bytes(range(90))).decode()
    prompt = prompt_of(
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": data}, "title": "T"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}, "context": "C"},
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "inner"}]}},
    )
    assert prompt.images == (Image(bytes(range(90))),)
    assert prompt.unread_bytes == 90
    assert prompt.texts == ("T", "C", "plain", "inner")


def test_what_has_no_known_shape_is_measured() -> None:
    block = {"type": "redacted_thinking", "data": "x" * 40}
    source = {"type": "unheard-of", "at": "f"}
    prompt = prompt_of(block, {"type": "document", "source": source}, 5)
    lengths = [len(json.dumps(value, separators=(",", ":"))) for value in (block, source, 5)]
    assert prompt.unread_bytes == sum(lengths)
    assert prompt.texts == ()


@pytest.mark.parametrize(
    ("members", "least"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, 20_000),
        ({"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}, 16_000),
        ({"mcp_servers": [{"type": "url", "url": "https://a.example"}]}, 8_000),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "file"}}]}]}, 32_000),
        ({"messages": [{"role": "user", "content": [{"type": "container_upload", "file_id": "f"}]}]}, 32_000),
    ],
)
def test_input_that_the_request_does_not_show_is_allowed_for(members: dict[str, object], least: int) -> None:
    assert read_with(**members).prompt.unread_bytes >= least


def test_citing_documents_takes_instructions() -> None:
    document = {"type": "document", "source": {"type": "text", "data": "plain"}}
    plain = prompt_of(document, document).overhead_tokens
    cited = prompt_of({**document, "citations": {"enabled": True}}, document).overhead_tokens
    assert cited == plain + 850


def test_tools() -> None:
    tool = {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}
    prompt = read_with(tools=[tool]).prompt
    assert prompt.texts == ("Hi", "look", "Looks.", '{"type":"object"}')
    assert prompt.overhead_tokens == 7 + 500 + 25
    for forced in ({"type": "any"}, {"type": "tool", "name": "look"}):
        assert read_with(tools=[tool], tool_choice=forced).prompt.overhead_tokens == 7 + 500 + 25 + 100
    assert read_with(tools=[tool], tool_choice={"type": "auto"}).prompt == prompt
    own = read_with(tools=[{"type": "bash_20250124", "name": "bash"}]).prompt
    assert own.overhead_tokens == 7 + 500 + 700


def test_thinking_and_answer_schemas() -> None:
    assert read_with(thinking={"type": "enabled", "budget_tokens": 9}).prompt.overhead_tokens == 7 + 30
    assert read_with(thinking={"type": "disabled"}).prompt.overhead_tokens == 7
    schema = {"type": "json_schema", "schema": {}}
    for members in ({"output_format": schema}, {"output_config": {"format": schema}}):
        prompt = read_with(**members).prompt
        assert prompt.overhead_tokens == 7 + 200
        assert prompt.texts[-1] == '{"type":"json_schema","schema":{}}'
    assert read_with(output_config={"effort": "low"}).prompt.overhead_tokens == 7


def marked(control: object) -> dict[str, object]:
    return {"type": "text", "text": "a", "cache_control": control}


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, CacheWrite.NONE),
        ({"cache_control": SHORT}, CacheWrite.SHORT),
        ({"cache_control": {"type": "ephemeral", "ttl": "5m"}}, CacheWrite.SHORT),
        ({"cache_control": LONG}, CacheWrite.LONG),
        ({"system": [{"type": "text", "text": "s", "cache_control": SHORT}]}, CacheWrite.SHORT),
        ({"tools": [{"name": "t", "input_schema": {}, "cache_control": LONG}]}, CacheWrite.LONG),
        ({"messages": [{"role": "user", "content": [marked(LONG)]}], "cache_control": SHORT}, CacheWrite.LONG),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [marked(SHORT)]}]}]},
            CacheWrite.SHORT,
        ),
        ({"metadata": {"cache_control": LONG}}, CacheWrite.NONE),
        ({"cache_control": None}, CacheWrite.NONE),
    ],
)
def test_cache_writes(members: dict[str, Any], expected: CacheWrite) -> None:
    assert read_with(**members).cache_write is expected


@pytest.mark.parametrize(
    ("tools", "searches"),
    [
        ([], 0),
        ([{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}], 3),
        ([{"type": "web_search_20260209", "name": "web_search"}], 10),
        ([{"type": "web_search_20250305", "max_uses": 3}, {"type": "web_search_20260209", "max_uses": 4}], 7),
        ([{"type": "web_fetch_20250910", "max_uses": 3}, {"name": "web_search", "input_schema": {}}], 0),
    ],
)
def test_web_searches(tools: list[Any], searches: int) -> None:
    assert read_with(tools=tools).pieces_max.web_searches == searches


RICH = (Path(__file__).parent / "fixtures" / "anthropic_messages_request.json").read_bytes()


def test_the_rich_case() -> None:
    facts = read(RICH)
    assert (facts.model, facts.streamed, facts.max_output_tokens) == ("claude-sonnet-4-6", True, 50)
    assert facts.terms == {"speed": "fast"}
    assert facts.cache_write is CacheWrite.SHORT
    assert facts.pieces_max.web_searches == 2
    assert len(facts.prompt.images) == 1
    assert "a heron" in facts.prompt.texts


@UNHURRIED
@given(st.integers(0, 2**32))
def test_garbage_raises_only_what_is_documented(seed: int) -> None:
    try:
        facts = read(garbled(RICH, Random(seed)))
    except BodyUnreadable:
        return
    assert facts.model


@UNHURRIED
@given(st.data())
def test_other_values_anywhere_raise_only_what_is_documented(data: st.DataObject) -> None:
    document = with_other_values(data, json.loads(RICH))
    try:
        facts = read(json.dumps(document).encode("utf-8", "surrogatepass"))
    except BodyUnreadable:
        return
    assert all(facts.prompt.texts)
    assert facts.pieces_max.web_searches >= 0


def test_deep_nesting_that_json_allows_never_ends_in_another_error() -> None:
    for depth in range(20, 1000, 20):
        blocks = b'[{"type":"tool_result","content":' * depth + b'"x"' + b"}]" * depth
        try:
            read(b'{"model":"m","messages":[{"role":"user","content":' + blocks + b"}]}")
        except BodyUnreadable as refused:
            assert "nested too deeply" in str(refused)  # noqa: PT017 - shallow ones are read


# Edits.


@pytest.mark.parametrize(
    ("body", "edits", "expected"),
    [
        (b'{"a": 1}', RequestEdits(), b'{"a": 1}'),
        (b'{"a": 1}', RequestEdits(max_output_tokens=9), b'{"max_tokens":9,"a": 1}'),
        (b'{"max_tokens" : 100}', RequestEdits(max_output_tokens=9), b'{"max_tokens" : 9}'),
        (b'{"tier":"x","metadata":{"u":1}}', RequestEdits(strip_fields=("tier",)), b'{"metadata":{"u":1}}'),
        (b'{"a": 1}', RequestEdits(request_usage=True), b'{"a": 1}'),
    ],
)
def test_edits(body: bytes, edits: RequestEdits, expected: bytes) -> None:
    assert ANTHROPIC_MESSAGES.edit_request(body, edits, vendor=ANTHROPIC) == expected
