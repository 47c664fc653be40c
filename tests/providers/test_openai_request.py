"""Reading and editing OpenAI chat completion requests."""

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
from policyd.providers.base import (
    OUTPUT_TOKENS_MAX,
    CacheWrite,
    Detail,
    Image,
    Prompt,
    RawRequest,
    RequestEdits,
    RequestFacts,
    Vendor,
)
from policyd.providers.openai.prompt import HIDDEN_TOKENS, render_functions
from policyd.providers.prompt_builder import IMAGE_HEAD_BYTES_MAX
from policyd.providers.registry import OPENAI_CHAT
from policyd.providers.vendors import OPENAI, VENDORS
from tests.providers.garbling import UNHURRIED, garbled, with_other_values

MESSAGES = [{"role": "user", "content": "Hi"}]
GROQ, MISTRAL = VENDORS["groq"], VENDORS["mistral"]


def read(body: bytes, *, vendor: Vendor = OPENAI, fields: tuple[str, ...] = ()) -> RequestFacts:
    return OPENAI_CHAT.read_request(RawRequest(body), vendor=vendor, identity_fields=fields)


def read_with(*, vendor: Vendor = OPENAI, **members: Any) -> RequestFacts:
    return read(json.dumps({"model": "gpt-4o", "messages": MESSAGES, **members}).encode(), vendor=vendor)


def prompt_of(*messages: dict[str, Any], **members: Any) -> Prompt:
    return read_with(messages=list(messages), **members).prompt


def test_the_plain_case() -> None:
    assert read_with() == RequestFacts(
        model="gpt-4o",
        streamed=False,
        prompt=Prompt(texts=("user", "Hi"), overhead_tokens=6, exact=True),
        max_output_tokens=None,
        choices=1,
        usage_requested=True,
        cache_write=CacheWrite.SHORT,
    )


@pytest.mark.parametrize(
    ("members", "maximum"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": None, "max_completion_tokens": 7}, 7),
        # Nobody knows which one a vendor heeds.
        ({"max_tokens": 9, "max_completion_tokens": 7}, 9),
        ({"max_tokens": OUTPUT_TOKENS_MAX}, OUTPUT_TOKENS_MAX),
    ],
)
def test_the_maximum_of_the_output(members: dict[str, Any], maximum: int | None) -> None:
    assert read_with(**members).max_output_tokens == maximum


def test_null_counts_as_absent() -> None:
    nulls: dict[str, Any] = dict.fromkeys(
        ("max_tokens", "max_completion_tokens", "n", "stream", "stream_options", "service_tier", "web_search_options")
    )
    assert read_with(**nulls) == read_with()


@pytest.mark.parametrize(
    ("vendor", "members", "requested"),
    [
        (OPENAI, {}, True),
        (OPENAI, {"stream": False}, True),
        (OPENAI, {"stream": True}, False),
        (OPENAI, {"stream": True, "stream_options": None}, False),
        (OPENAI, {"stream": True, "stream_options": {}}, False),
        (OPENAI, {"stream": True, "stream_options": {"include_usage": None}}, False),
        (OPENAI, {"stream": True, "stream_options": {"include_usage": False}}, False),
        (OPENAI, {"stream": True, "stream_options": {"include_usage": True}}, True),
        (GROQ, {"stream": True}, False),
        (MISTRAL, {"stream": True}, True),
    ],
)
def test_whether_the_reply_will_carry_usage(vendor: Vendor, members: dict[str, Any], requested: bool) -> None:
    facts = read_with(vendor=vendor, **members)
    assert facts.usage_requested == requested
    assert facts.streamed == bool(members.get("stream"))


@pytest.mark.parametrize(
    ("members", "terms"),
    [
        ({}, {}),
        ({"service_tier": "auto"}, {}),
        ({"service_tier": "flex"}, {"service_tier": "flex"}),
        ({"service_tier": "priority"}, {"service_tier": "priority"}),
        ({"web_search_options": {"search_context_size": "high"}}, {"search_context_size": "high"}),
        ({"web_search_options": {"search_context_size": "of any size"}}, {}),
    ],
)
def test_terms(members: dict[str, Any], terms: dict[str, str]) -> None:
    assert read_with(**members).terms == terms


@pytest.mark.parametrize(
    ("members", "searches", "most"),
    [
        ({}, 0, 0),
        ({"web_search_options": {}}, 1, 1),
        ({"web_search_options": {"search_context_size": "low"}}, 1, 1),
        ({"model": "gpt-4o-mini-search-preview-2025-03-11"}, 1, 1),
        ({"model": "gpt-5-search-api"}, 1, 1),
        ({"model": "openai/gpt-4o:online"}, 1, 1),
        ({"plugins": [{"id": "web", "max_results": 3}]}, 1, 1),
        ({"plugins": [{"id": "file-parser"}]}, 0, 0),
        ({"tools": [{"type": "openrouter:web_search"}]}, 0, 10),
        ({"model": "research-preview"}, 0, 0),
    ],
)
def test_web_searches(members: dict[str, Any], searches: int, most: int) -> None:
    """Those that are made in any case, and the most that there can be."""
    facts = read_with(**members)
    assert (facts.pieces_min.web_searches, facts.pieces_max.web_searches) == (searches, most)


def test_cache_writes_are_short_unless_an_hour_is_asked_for() -> None:
    def cached(control: object) -> CacheWrite:
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": control}]
        return read_with(messages=[{"role": "user", "content": parts}]).cache_write

    assert cached({"type": "ephemeral"}) is CacheWrite.SHORT
    assert cached({"type": "ephemeral", "ttl": "1h"}) is CacheWrite.LONG
    assert cached("1h") is CacheWrite.SHORT


def test_identity_fields() -> None:
    body = {
        "model": "gpt-4o",
        "messages": MESSAGES,
        "user": "ada",
        "metadata": {"team": "é", "level": 3, "beta": True, "ratio": 1.5, "tags": ["x"], "gone": None, "": "e"},
    }
    wanted: tuple[str, ...] = (
        "user",
        "metadata.team",
        "metadata.level",
        "metadata.beta",
        "metadata.ratio",
        "metadata.tags",
    )
    wanted += ("metadata.gone", "metadata", "user.name", "missing", "metadata.", "model")
    assert read(json.dumps(body).encode(), fields=wanted).fields == {
        "user": "ada",
        "metadata.team": "é",
        "metadata.level": "3",
        "metadata.beta": "true",
        "metadata.ratio": "1.5",
        "metadata.": "e",
        "model": "gpt-4o",
    }


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"model": None}, "model: expected a text that is not empty, got nothing"),
        ({"model": ""}, "model: expected a text that is not empty, got an empty text"),
        ({"model": 4}, "model: expected a text that is not empty, got a number"),
        ({"messages": None}, "messages: expected an array of objects, got nothing"),
        ({"messages": {}}, "messages: expected an array of objects, got an object"),
        ({"messages": ["Hi"]}, "messages[0]: expected an object, got a text"),
        ({"messages": [{}, []]}, "messages[1]: expected an object, got an array"),
        ({"max_tokens": "5"}, "max_tokens: expected an integer, got a text"),
        ({"max_tokens": 5.0}, "max_tokens: expected an integer, got a number"),
        ({"max_tokens": True}, "max_tokens: expected an integer, got a boolean"),
        ({"max_tokens": 0}, "max_tokens: expected an integer from 1 to 100000000"),
        ({"max_tokens": -1}, "max_tokens: expected an integer from 1 to 100000000"),
        ({"max_completion_tokens": 10**30}, "max_completion_tokens: expected an integer from 1 to 100000000"),
        ({"max_tokens": 5, "max_completion_tokens": []}, "max_completion_tokens: expected an integer, got an array"),
        ({"n": 0}, "n: expected an integer from 1 to 128"),
        ({"n": 129}, "n: expected an integer from 1 to 128"),
        ({"stream": "true"}, "stream: expected true or false, got a text"),
        ({"stream": 1}, "stream: expected true or false, got a number"),
        ({"stream_options": True}, "stream_options: expected an object, got a boolean"),
        (
            {"stream_options": {"include_usage": 1}},
            "stream_options.include_usage: expected true or false, got a number",
        ),
        ({"service_tier": 1}, "service_tier: expected a text, got a number"),
        ({"web_search_options": "low"}, "web_search_options: expected an object, got a text"),
    ],
)
def test_what_is_refused(members: dict[str, Any], message: str) -> None:
    with pytest.raises(BodyUnreadable) as refused:
        read_with(**members)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"model=gpt-4o", "not JSON"),
        (b'{"model":"gpt-4o"', "not JSON"),
        (b'{"model":"gpt-4o"}{}', "not JSON"),
        (b'\xef\xbb\xbf{"model":"gpt-4o"}', "not JSON"),
        (b'{"model":"\xff"}', "not UTF-8"),
        (b'{"model":"\\ud800"}', "not JSON"),
        (b'{"max_tokens":NaN}', "not JSON"),
        (b'{"max_tokens":1e999}', "not JSON"),
        (b'{"max_tokens":' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested too deeply"),
        (b"[]", "has to be a JSON object"),
        (b"null", "has to be a JSON object"),
        (b'"gpt-4o"', "has to be a JSON object"),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(BodyUnreadable, match=message):
        read(body)


PLAIN = b'"model":"a","messages":[],"max_tokens":1'


@pytest.mark.parametrize(
    "again",
    [
        b'"model":"b"',
        b'"model":null',
        b'"\\u006dodel":"b"',
        b'"mode\\u006C":"b"',
        b'"max_tokens":2',
        b'"max_tokens":1.0',
        b'"max_tokens":true',
        b'"max\\u005ftokens":2',
        b'"messages":[{"role":"user","content":"long"}]',
        b'"stream":true,"stream":false',
        b'"stream_options":{},"stream_options":{"include_usage":true}',
        b'"n":1,"n":2',
    ],
)
def test_a_member_with_two_values_is_refused(again: bytes) -> None:
    """Of two equal names most parsers take the last, some the first: the provider could serve what was not priced."""
    for body in (b"{" + PLAIN + b"," + again + b"}", b"{" + again + b"," + PLAIN + b"}"):
        with pytest.raises(BodyUnreadable, match="given twice"):
            read(body)


@pytest.mark.parametrize(
    "again",
    [
        b'"model" : "a"',
        b'"mode\\u006c":"a"',
        b'"max_tokens":1',
        b'"temperature":0,"temperature":1',
        b'"metadata":{"model":"b","max_tokens":9}',
        b'"tools":[{"type":"function","function":{"name":"model","parameters":{"model":1,"model":2}}}]',
    ],
)
def test_a_member_repeated_or_nested_without_harm_is_not_refused(again: bytes) -> None:
    facts = read(b"{" + PLAIN + b"," + again + b"}")
    assert (facts.model, facts.max_output_tokens) == ("a", 1)


def test_deep_nesting_that_json_allows_never_ends_in_another_error() -> None:
    for depth in range(20, 1000, 20):
        schema = b'{"type":"object","properties":{"a":' * depth + b"{}" + b"}}" * depth
        tool = b'{"type":"function","function":{"name":"f","parameters":' + schema + b"}}"
        try:
            read(b'{"model":"m","messages":[],"tools":[' + tool + b"]}")
        except BodyUnreadable as refused:
            assert "nested too deeply" in str(refused)  # noqa: PT017 - shallow ones are read


RICH = (Path(__file__).parent / "fixtures" / "openai_chat_request.json").read_bytes()


def test_the_rich_case() -> None:
    facts = read(RICH, fields=("user",))
    assert (facts.model, facts.streamed, facts.max_output_tokens, facts.choices) == ("gpt-5-mini", True, 50, 2)
    assert facts.terms == {"service_tier": "flex"}
    assert facts.fields == {"user": "ada"}
    assert facts.usage_requested
    assert len(facts.prompt.images) == 1
    assert facts.prompt.unread_bytes == 12


@UNHURRIED
@given(st.integers(0, 2**32))
def test_garbage_raises_only_what_is_documented(seed: int) -> None:
    try:
        facts = read(garbled(RICH, Random(seed)), fields=("user", "messages.0"))
    except BodyUnreadable:
        return
    assert facts.model


@UNHURRIED
@given(st.data())
def test_other_values_anywhere_raise_only_what_is_documented(data: st.DataObject) -> None:
    document = {**with_other_values(data, json.loads(RICH)), "model": "m"}
    try:
        facts = read(json.dumps(document).encode("utf-8", "surrogatepass"))
    except BodyUnreadable:
        return
    assert all(facts.prompt.texts)
    assert facts.prompt.overhead_tokens > 0
    assert facts.max_output_tokens is None or 1 <= facts.max_output_tokens <= OUTPUT_TOKENS_MAX


# The prompt.


def test_each_message_is_its_role_and_content_and_three_tokens_more() -> None:
    prompt = prompt_of(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c", "refusal": "d"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "e"}]},
    )
    assert prompt.texts == ("system", "Be brief.", "user", "b", "assistant", "c", "d", "assistant", "e")
    assert prompt.overhead_tokens == 3 * 4 + 3
    assert prompt.exact


def test_texts_that_follow_one_another_are_one_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/heron.png"}}
    texts = [{"type": "text", "text": text} for text in ("What is in this file?", "<file>reeds</file>", "c")]
    assert prompt_of({"role": "user", "content": texts[:2]}).texts == (
        "user",
        "What is in this file?<file>reeds</file>",
    )
    assert prompt_of({"role": "user", "content": texts}).texts[1:] == ("What is in this file?<file>reeds</file>c",)
    divided = prompt_of({"role": "user", "content": [texts[0], image, *texts[1:]]})
    assert divided.texts == ("user", "What is in this file?", "<file>reeds</file>c")
    odd = [texts[2], {"type": "text", "text": None}, {"type": "text"}, {"type": ["text"]}, "d", texts[2]]
    assert prompt_of({"role": "user", "content": odd}).texts == ("user", "c", "dc")


@pytest.mark.parametrize(
    ("model", "opening", "earlier_reply"),
    [
        ("gpt-3.5-turbo", 3, 0),
        ("gpt-4o-2024-08-06", 3, 0),
        ("gpt-4.1-mini", 3, 0),
        ("o4-mini", 2, 0),
        ("gpt-4o-audio-preview", 2, 0),
        ("gpt-5-nano", 2, 2),
        ("openai/gpt-5.4", 2, 2),
        ("gpt-oss-120b", 3, 0),
    ],
)
def test_reasoning_models_are_given_chats_otherwise(model: str, opening: int, earlier_reply: int) -> None:
    assert prompt_of({"role": "user", "content": "a"}, model=model).overhead_tokens == opening + 3
    two = prompt_of({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, model=model)
    assert two.overhead_tokens == opening + 3 + 3 + earlier_reply


def test_a_name_is_a_text_and_one_token() -> None:
    prompt = prompt_of({"role": "user", "name": "ada", "content": "a"})
    assert prompt.texts == ("user", "ada", "a")
    assert prompt.overhead_tokens == 3 + 3 + 1
    assert prompt.exact


def test_a_name_that_repeats_the_role_is_a_text_alone() -> None:
    prompt = prompt_of({"role": "user", "name": "user", "content": "a"})
    assert prompt.texts == ("user", "user", "a")
    assert prompt.overhead_tokens == 3 + 3


def test_prompts_of_other_vendors_are_not_exact() -> None:
    assert not read_with(vendor=GROQ).prompt.exact
    assert not read_with(vendor=Vendor("house-llm")).prompt.exact


def data_url(image: bytes) -> str:
    return "data:image/png;base64," + b64encode(image).decode()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({"url": "https://example.com/a.png"}, Image(b"")),
        ({"url": "https://example.com/a.png", "detail": "high"}, Image(b"", Detail.HIGH)),
        ({"url": data_url(b"\x89PNG"), "detail": "low"}, Image(b"\x89PNG", Detail.LOW)),
        ({"url": data_url(b"\x89PNG\r\n"), "detail": "auto"}, Image(b"\x89PNG\r\n")),
        ({"url": "data:image/png;base64,****"}, Image(b"")),
        ({"url": "data:image/png"}, Image(b"")),
        ({"url": 5, "detail": 5}, Image(b"")),
        ("https://example.com/a.png", Image(b"")),
        (None, Image(b"")),
    ],
)
def test_images(image: Any, expected: Image) -> None:
    prompt = prompt_of({"role": "user", "content": [{"type": "image_url", "image_url": image}]})
    assert prompt.images == (expected,)
    assert prompt.texts == ("user",)
    assert not prompt.exact
    assert not prompt.hides_input


@pytest.mark.parametrize(
    "members",
    [
        {"tools": [{"type": "openrouter:web_search"}]},
        {"plugins": [{"id": "web"}]},
        {"venice_parameters": {"enable_web_search": "on"}},
        {"model": "anthropic/claude-sonnet-4:online"},
        {"model": "compound-beta"},
        {"model": "groq/compound"},
    ],
)
def test_what_the_request_does_not_show_has_an_allowance(members: dict[str, Any]) -> None:
    prompt = prompt_of({"role": "user", "content": "a"}, **members)
    assert prompt.hides_input
    assert prompt.unread_bytes == HIDDEN_TOKENS


def test_a_file_by_its_id_has_an_allowance() -> None:
    prompt = prompt_of({"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]})
    assert prompt.hides_input
    assert prompt.unread_bytes == HIDDEN_TOKENS


@pytest.mark.parametrize(
    "members",
    [
        {"tools": [{"type": "custom", "custom": {"name": "a"}}]},
        {"venice_parameters": {"enable_web_search": "off"}},
        {"web_search_options": {}},
        {"model": "compounding-1"},
    ],
)
def test_other_requests_show_all_of_their_input(members: dict[str, Any]) -> None:
    prompt = prompt_of({"role": "user", "content": "a"}, **members)
    assert not prompt.hides_input
    assert prompt.unread_bytes == 0


def test_only_the_head_of_an_image_is_kept() -> None:
    image = bytes(range(256)) * 4096
    [kept] = prompt_of(
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_url(image)}}]}
    ).images
    assert IMAGE_HEAD_BYTES_MAX - 3 <= len(kept.head) <= IMAGE_HEAD_BYTES_MAX + 3
    assert image.startswith(kept.head)


def test_what_cannot_be_counted_is_measured() -> None:
    audio = {"type": "input_audio", "input_audio": {"data": b64encode(bytes(3000)).decode(), "format": "wav"}}
    file = {"type": "file", "file": {"file_data": b64encode(bytes(600)).decode()}}
    unknown = {"type": "hologram", "data": "x" * 50}
    prompt = prompt_of({"role": "user", "content": [audio, file, unknown]})
    assert prompt.unread_bytes == 3000 + 600 + len(json.dumps(unknown, separators=(",", ":")))
    assert prompt.texts == ("user",)
    assert not prompt.exact


def test_calls_of_tools_are_counted() -> None:
    one = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
    two = {"id": "d", "type": "custom", "custom": {"name": "write", "input": "abc"}}
    single = prompt_of({"role": "assistant", "content": None, "tool_calls": [one]}, {"role": "tool", "content": "r"})
    assert single.texts == ("assistant", "look", '{"a":1}', "tool", "r")
    assert single.overhead_tokens == 3 + 3 + 3 + 8
    parallel = prompt_of({"role": "assistant", "content": None, "tool_calls": [one, two]})
    assert parallel.texts == ("assistant", "look", '{"a":1}', "write", "abc")
    assert parallel.overhead_tokens == 3 + 3 + 12 + 2 * 12
    old = prompt_of({"role": "assistant", "function_call": {"name": "look", "arguments": "{}"}})
    assert old.texts == ("assistant", "look", "{}")
    assert not single.exact
    assert not parallel.exact
    assert not old.exact


LOOK = {
    "name": "look",
    "description": "Look\nup.",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
}


def test_tools_are_one_text_in_the_form_that_the_models_are_given() -> None:
    prompt = prompt_of({"role": "user", "content": "a"}, tools=[{"type": "function", "function": LOOK}])
    assert prompt.texts == ("user", "a", render_functions([LOOK]))
    assert prompt.overhead_tokens == 6 + 9
    assert not prompt.exact
    assert prompt_of({"role": "user", "content": "a"}, functions=[LOOK]) == prompt
    assert prompt_of({"role": "user", "content": "a"}, tools=[]).exact


def test_a_tool_that_has_to_be_used_is_named_once_more() -> None:
    tools = [{"type": "function", "function": LOOK}]
    free = prompt_of({"role": "user", "content": "a"}, tools=tools, tool_choice="required")
    forced = prompt_of(
        {"role": "user", "content": "a"}, tools=tools, tool_choice={"type": "function", "function": {"name": "look"}}
    )
    assert forced.texts == (*free.texts, "look")
    assert forced.overhead_tokens == free.overhead_tokens + 7


def test_tools_that_are_no_functions_are_counted_as_json() -> None:
    tool = {"type": "custom", "custom": {"name": "write"}}
    prompt = prompt_of({"role": "user", "content": "a"}, tools=[tool])
    assert '{"type":"custom","custom":{"name":"write"}}' in prompt.texts


@pytest.mark.parametrize(("model", "around"), [("gpt-4o", 12), ("o4-mini", 9), ("gpt-5", 9)])
def test_an_answer_schema_is_shown_without_what_binds_the_sampler(model: str, around: int) -> None:
    schema = {
        "type": "object",
        "properties": {"required": {"type": "string", "title": "t"}, "a": {"items": [{"required": []}]}},
        "required": ["required"],
        "additionalProperties": False,
        "$defs": {"additionalProperties": {"type": "object", "additionalProperties": False}},
    }
    plain = prompt_of({"role": "user", "content": "a"}, model=model)
    prompt = prompt_of(
        {"role": "user", "content": "a"},
        model=model,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "r", "strict": True, "description": "d", "schema": schema},
        },
    )
    assert prompt.texts[2:] == (
        "r",
        "d",
        (
            '{"type":"object","properties":{"required":{"type":"string","title":"t"},"a":{"items":[{}]}},'
            '"$defs":{"additionalProperties":{"type":"object"}}}'
        ),
        "r",
    )
    assert prompt.overhead_tokens == plain.overhead_tokens + around + 2
    assert not prompt.exact


def test_an_answer_in_json_of_any_form_is_exact() -> None:
    assert prompt_of({"role": "user", "content": "a"}, response_format={"type": "json_object"}).exact


@pytest.mark.parametrize("option", ["prediction", "web_search_options", "audio"])
def test_options_that_change_what_is_counted_make_a_prompt_inexact(option: str) -> None:
    assert not prompt_of({"role": "user", "content": "a"}, **{option: {}}).exact


def test_functions_are_rendered_as_typescript() -> None:
    described = {
        "name": "plan",
        "description": "Plan a trip.\nSlowly.",
        "parameters": {
            "type": "object",
            "required": ["to", "days"],
            "properties": {
                "to": {"type": "string", "title": "To", "description": "Where to"},
                "days": {"type": "integer", "default": 3},
                "mode": {"enum": ["rail", "foot"], "type": "string"},
                "stops": {"type": "array", "items": {"type": "object", "properties": {"at": {"type": "number"}}}},
                "budget": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                "notes": {"type": ["string", "null"]},
                "extra": {"type": "object"},
                "any": {"type": "array"},
                "home": {"$ref": "#/$defs/Home"},
            },
            "$defs": {"Home": {"type": "string"}},
        },
    }
    assert render_functions([described, {"name": "stop"}]) == "\n".join(
        [
            "namespace functions {",
            "",
            "// Plan a trip.",
            "// Slowly.",
            "type plan = (_: {",
            "// To",
            "// Where to",
            "to: string,",
            "days: number, // default: 3",
            'mode?: "rail" | "foot",',
            "stops?: {",
            "at?: number,",
            "}[],",
            "budget?: number | null,",
            "notes?: string | null,",
            "extra?: object,",
            "any?: any[],",
            'home?: {"$ref":"#/$defs/Home"},',
            '{"Home":{"type":"string"}}',
            "}) => any;",
            "",
            "type stop = () => any;",
            "",
            "} // namespace functions",
        ]
    )


def test_a_hostile_schema_is_rendered_in_proportion_to_its_size() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        schema = {"type": ["array", "object"] * 5, "items": schema, "properties": {"a": schema["type"]}}
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"a": schema}}}
    assert len(render_functions([tool])) < 100_000


# Edits.

STREAMED = b'{"model": "gpt-4o", "messages": [], "stream": true}'


def edit(body: bytes, *, vendor: Vendor = OPENAI, **edits: Any) -> bytes:
    return OPENAI_CHAT.edit_request(body, RequestEdits(**edits), vendor=vendor)


def test_no_edits_leave_the_body_as_it_is() -> None:
    assert edit(STREAMED) == STREAMED


def test_usage_is_asked_for() -> None:
    inserted = b'{"stream_options":{"include_usage":true},"model": "gpt-4o", "messages": [], "stream": true}'
    assert edit(STREAMED, request_usage=True) == inserted
    assert read(inserted).usage_requested
    refused = b'{"model":"m","messages":[],"stream_options":{"include_usage":false,"x":1},"stream":true}'
    assert edit(refused, request_usage=True) == refused.replace(b"false", b"true")


@pytest.mark.parametrize(
    ("vendor", "body", "expected"),
    [
        (OPENAI, b'{"a":1}', b'{"max_completion_tokens":64,"a":1}'),
        (GROQ, b'{"a":1}', b'{"max_tokens":64,"a":1}'),
        (OPENAI, b'{"max_tokens":9,"a":1}', b'{"max_tokens":64,"a":1}'),
        (OPENAI, b'{"max_tokens":null}', b'{"max_completion_tokens":64,"max_tokens":null}'),
        (GROQ, b'{"max_completion_tokens":9}', b'{"max_completion_tokens":64}'),
        (OPENAI, b'{"max_tokens":9,"max_completion_tokens":8}', b'{"max_tokens":64,"max_completion_tokens":64}'),
    ],
)
def test_a_maximum_is_set_where_the_vendor_looks_for_it(vendor: Vendor, body: bytes, expected: bytes) -> None:
    assert edit(body, vendor=vendor, max_output_tokens=64) == expected


def test_identity_is_taken_out() -> None:
    body = b'{"tier":"free","model":"m","metadata":{"team":"t","x":1},"messages":[]}'
    assert (
        edit(body, strip_fields=("tier", "metadata.team", "missing"))
        == b'{"model":"m","metadata":{"x":1},"messages":[]}'
    )


def test_all_edits_together() -> None:
    edited = edit(STREAMED[:-1] + b',"tier":"x"}', request_usage=True, max_output_tokens=5, strip_fields=("tier",))
    assert json.loads(edited) == {
        **json.loads(STREAMED),
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 5,
    }
