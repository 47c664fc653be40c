"""Reading and editing OpenAI Responses requests."""

from __future__ import annotations

import json
from base64 import b64encode
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.errors import BodyUnreadable
from policyd.core.usage import NO_USAGE, Usage
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
from policyd.providers.openai.prompt import HIDDEN_TOKENS
from policyd.providers.openai.responses_tools import CALLS_MAX
from policyd.providers.registry import OPENAI_RESPONSES, OPENAI_RESPONSES_COMPACT
from policyd.providers.vendors import OPENAI, VENDORS
from policyd.tokens import TokenCounter
from tests.providers.garbling import UNHURRIED, garbled, with_other_values

FUNCTION = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
PNG = b64encode(b"\x89PNG\r\n\x1a\n").decode()


def read(body: bytes, *, vendor: Vendor = OPENAI, path: str = "", fields: tuple[str, ...] = ()) -> RequestFacts:
    return OPENAI_RESPONSES.read_request(RawRequest(body, path=path), vendor=vendor, identity_fields=fields)


def read_with(*, vendor: Vendor = OPENAI, **members: Any) -> RequestFacts:
    return read(json.dumps({"model": "gpt-4o", "input": "Hi", **members}).encode(), vendor=vendor)


def prompt_of(**members: Any) -> Prompt:
    return read_with(**members).prompt


def test_the_plain_case() -> None:
    assert read_with() == RequestFacts(
        model="gpt-4o",
        streamed=False,
        prompt=Prompt(texts=("user", "Hi"), overhead_tokens=6, exact=True),
        max_output_tokens=None,
        cache_write=CacheWrite.SHORT,
    )


def test_all_that_decides_is_read() -> None:
    facts = read_with(stream=True, max_output_tokens=50, service_tier="flex", background=True)
    assert (facts.streamed, facts.max_output_tokens, facts.usage_requested) == (True, 50, True)
    assert facts.terms == {"service_tier": "flex"}
    assert facts.outlives_client


def test_null_counts_as_absent() -> None:
    names = ("stream", "max_output_tokens", "tools", "text", "reasoning", "service_tier", "background", "instructions")
    nulls: dict[str, Any] = dict.fromkeys((*names, "previous_response_id", "conversation", "prompt"))
    assert read_with(**nulls) == read_with()


def test_instructions_are_a_message_of_the_system() -> None:
    assert prompt_of(instructions="Be brief.") == Prompt(
        texts=("system", "Be brief.", "user", "Hi"), overhead_tokens=9, exact=True
    )


def test_messages_are_those_of_a_chat() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Ho"}]},
    ]
    assert prompt_of(input=messages) == Prompt(
        texts=("developer", "Be brief.", "user", "Hi", "assistant", "Ho"), overhead_tokens=12, exact=True
    )
    # Today's models are given earlier replies with the channel that they were given in.
    assert prompt_of(input=messages, model="gpt-5").overhead_tokens == 3 * 3 + 2 + 2


def test_texts_that_follow_one_another_are_one_text() -> None:
    parts = [{"type": "input_text", "text": text} for text in ("What is in this file?", "<file>reeds</file>")]
    assert prompt_of(input=[{"role": "user", "content": parts}]).texts == (
        "user",
        "What is in this file?<file>reeds</file>",
    )


@pytest.mark.parametrize(
    "item",
    [
        {"type": "function_call", "name": "look", "arguments": '{"at":1}', "call_id": "c"},
        {"type": "custom_tool_call", "name": "look", "input": '{"at":1}', "call_id": "c"},
    ],
)
def test_calls_are_counted_and_not_exactly(item: dict[str, Any]) -> None:
    prompt = prompt_of(input=[item])
    assert prompt.texts == ("look", '{"at":1}')
    assert not prompt.exact


def test_what_a_tool_returned_is_a_message() -> None:
    output = [{"type": "input_text", "text": "sunny"}]
    assert prompt_of(input=[{"type": "function_call_output", "call_id": "c", "output": output}]).texts == (
        "tool",
        "sunny",
    )


def test_images_are_seen_wherever_they_stand() -> None:
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "low"}
    screenshot = {"type": "computer_screenshot", "image_url": "https://example.org/a.png"}
    prompt = prompt_of(
        input=[
            {"role": "user", "content": [image]},
            {"type": "computer_call_output", "output": screenshot},
        ]
    )
    assert prompt.images == (Image(b"\x89PNG\r\n\x1a\n", Detail.LOW), Image(b""))


def test_the_definitions_of_functions_are_rendered() -> None:
    prompt = prompt_of(tools=[FUNCTION], tool_choice={"type": "function", "name": "look"})
    assert any("type look = () => any;" in text for text in prompt.texts)
    assert prompt.overhead_tokens == 6 + 3 + 7
    assert not prompt.exact
    assert prompt.unread_bytes == 0, "nothing is hidden"


HIDING = [
    {"previous_response_id": "resp_1"},
    {"conversation": "conv_1"},
    {"prompt": {"id": "pmpt_1"}},
    {"tools": [{"type": "web_search"}]},
    {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
    {"tools": [{"type": "mcp", "server_url": "https://example.org"}]},
    {"tools": [{"type": "tool_search"}, FUNCTION]},
    {"tools": [{"type": "some_tool_of_tomorrow"}]},
    {"reasoning": {"mode": "pro"}},
    {"input": [{"type": "item_reference", "id": "msg_1"}]},
    {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]},
    {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://example.org/a.pdf"}]}]},
]


@pytest.mark.parametrize("members", HIDING, ids=str)
def test_what_the_request_does_not_show_gets_an_allowance(members: dict[str, Any]) -> None:
    prompt = prompt_of(**members)
    assert prompt.unread_bytes == HIDDEN_TOKENS
    assert not prompt.exact
    assert TokenCounter().count_prompt(prompt, provider="openai", model="gpt-4o").upper_bound > HIDDEN_TOKENS


@pytest.mark.parametrize("kind", ["custom", "local_shell", "apply_patch", "computer_use_preview"])
def test_a_tool_that_the_client_runs_hides_nothing(kind: str) -> None:
    assert prompt_of(tools=[{"type": kind, "name": "a"}]).unread_bytes == 0


def test_a_file_in_the_request_is_bounded_by_its_size() -> None:
    data = b64encode(bytes(3_000)).decode()
    part = {"type": "input_file", "filename": "a.pdf", "file_data": data}
    assert prompt_of(input=[{"role": "user", "content": [part]}]).unread_bytes == 3_000


def test_reasoning_that_comes_back_is_bounded_by_its_size() -> None:
    item = {"type": "reasoning", "summary": [], "encrypted_content": b64encode(bytes(300)).decode()}
    assert prompt_of(input=[item]).unread_bytes == 300


def test_tools_that_are_added_on_the_way_come_with_instructions() -> None:
    added, found = (
        prompt_of(input=[{"type": kind, "tools": [{"type": "function", "name": "a"}]}])
        for kind in ("additional_tools", "tool_search_output")
    )
    assert added.texts == found.texts
    assert added.overhead_tokens == found.overhead_tokens + 110


@pytest.mark.parametrize(("model", "around"), [("gpt-4o", 7), ("gpt-5", 6)])
def test_an_answer_schema_is_counted(model: str, around: int) -> None:
    schema = {"type": "json_schema", "name": "answer", "schema": {"type": "object", "required": []}}
    prompt = prompt_of(model=model, text={"format": schema})
    assert prompt.texts[-2:] == ("answer", '{"type":"object"}')
    assert prompt.overhead_tokens == prompt_of(model=model).overhead_tokens + around
    assert not prompt.exact
    assert prompt_of(text={"format": {"type": "text"}}).exact


@pytest.mark.parametrize(
    ("members", "most"),
    [
        ({}, NO_USAGE),
        ({"tools": [FUNCTION, {"type": "mcp"}, {"type": "image_generation"}]}, NO_USAGE),
        ({"tools": [{"type": "web_search"}]}, Usage(web_searches=CALLS_MAX)),
        ({"tools": [{"type": "web_search_preview_2025_03_11"}], "max_tool_calls": 3}, Usage(web_searches=3)),
        ({"tools": [{"type": "file_search"}, {"type": "x_search"}]}, Usage(file_searches=10, social_searches=10)),
        ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, Usage(code_sessions=1)),
        ({"tools": [{"type": "code_interpreter"}]}, Usage(code_sessions=CALLS_MAX)),
        ({"max_tool_calls": 3}, NO_USAGE),
    ],
)
def test_calls_of_tools(members: dict[str, Any], most: Usage) -> None:
    assert read_with(**members).pieces_max == most


@pytest.mark.parametrize(("size", "terms"), [("4g", {"container_memory": "4g"}), (None, {}), (4, {}), ("a b", {})])
def test_the_size_of_a_container_is_a_term_of_the_price(size: Any, terms: dict[str, str]) -> None:
    container = {"type": "auto", "memory_limit": size}
    assert read_with(tools=[{"type": "code_interpreter", "container": container}]).terms == terms


def test_a_compaction_has_instructions_of_the_provider() -> None:
    body = json.dumps({"model": "gpt-4o", "input": "Hi"}).encode()
    facts = OPENAI_RESPONSES_COMPACT.read_request(RawRequest(body), vendor=OPENAI)
    assert facts.prompt == Prompt(texts=("user", "Hi"), overhead_tokens=6 + 93, exact=False)


def test_the_deployment_in_the_path_outweighs_the_body() -> None:
    body = json.dumps({"model": "gpt-4o-mini", "input": "Hi"}).encode()
    assert read(body, path="/openai/deployments/big-one/responses").model == "big-one"
    assert read(body, path="/openai/v1/responses").model == "gpt-4o-mini"


def test_a_stored_prompt_may_name_the_model() -> None:
    assert read(b'{"prompt": {"id": "pmpt_1"}}').model == ""


def test_other_vendors_prompts_are_not_exact() -> None:
    assert not read_with(vendor=VENDORS["x-ai"]).prompt.exact


def test_identity_fields() -> None:
    body = b'{"model": "m", "input": "Hi", "user": "ann", "metadata": {"team": "red"}}'
    assert read(body, fields=("user", "metadata.team", "tier")).fields == {"user": "ann", "metadata.team": "red"}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"model": None}, "model: expected a text"),
        ({"model": 4}, "model: expected a text"),
        ({"stream": "yes"}, "stream: expected true or false"),
        ({"background": 1}, "background: expected true or false"),
        ({"max_output_tokens": 0}, "max_output_tokens: expected an integer from 1"),
        ({"max_output_tokens": 1.5}, "max_output_tokens: expected an integer"),
        ({"max_output_tokens": OUTPUT_TOKENS_MAX + 1}, "max_output_tokens: expected an integer from 1"),
        ({"tools": {}}, "tools: expected an array of objects"),
        ({"tools": ["web_search"]}, r"tools\[0\]: expected an object"),
        ({"tools": [{"type": "web_search"}], "max_tool_calls": -1}, "max_tool_calls: expected an integer from 0"),
        ({"text": []}, "text: expected an object"),
        ({"reasoning": "high"}, "reasoning: expected an object"),
        ({"service_tier": 1}, "service_tier: expected a text"),
    ],
)
def test_what_decides_has_to_be_what_it_should(members: dict[str, Any], message: str) -> None:
    with pytest.raises(BodyUnreadable, match=message):
        read_with(**members)


def test_a_member_with_two_values_is_refused() -> None:
    with pytest.raises(BodyUnreadable, match="model: given twice"):
        read(b'{"model": "gpt-4o-mini", "input": "Hi", "model": "gpt-4o"}')
    with pytest.raises(BodyUnreadable, match="max_output_tokens: given twice"):
        read(b'{"model": "m", "input": "Hi", "max_output_tokens": 1, "max_output_tokens": 100000}')


def edited(body: bytes, **edits: Any) -> bytes:
    return OPENAI_RESPONSES.edit_request(body, RequestEdits(**edits), vendor=OPENAI)


def test_edits_change_nothing_else() -> None:
    body = b'{"model": "m",  "input": "H\\u00e9", "tier": "x", "max_output_tokens": null}'
    assert edited(body) == body
    assert edited(body, strip_fields=("tier",)) == b'{"model": "m",  "input": "H\\u00e9", "max_output_tokens": null}'
    assert edited(body, max_output_tokens=9) == body.replace(b"null", b"9")
    assert edited(b"{}", max_output_tokens=9) == b'{"max_output_tokens":9}'


def test_a_compaction_is_given_no_maximum() -> None:
    edits = RequestEdits(max_output_tokens=9)
    assert OPENAI_RESPONSES_COMPACT.edit_request(b"{}", edits, vendor=OPENAI) == b"{}"


WHOLE = {
    "model": "gpt-5",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}, {"type": "input_image", "image_url": "u"}]},
        {"type": "function_call", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "output": [{"type": "input_file", "file_id": "f"}]},
        {"type": "reasoning", "encrypted_content": "AAAA", "content": [{"type": "reasoning_text", "text": "Hm"}]},
        {"type": "tool_search_output", "tools": [FUNCTION]},
        {"type": "mcp_list_tools", "tools": [{}]},
    ],
    "tools": [FUNCTION, {"type": "web_search"}],
    "tool_choice": {"type": "function", "name": "look"},
    "text": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    "max_output_tokens": 9,
    "stream": True,
}


@UNHURRIED
@given(data=st.data())
def test_no_other_value_raises_anything_else(data: st.DataObject) -> None:
    read_or_refuse(json.dumps(with_other_values(data, WHOLE)).encode())


@UNHURRIED
@given(seed=st.integers(0, 2**32))
def test_no_garbled_body_raises_anything_else(seed: int) -> None:
    read_or_refuse(garbled(json.dumps(WHOLE).encode(), Random(seed)))


def read_or_refuse(body: bytes) -> None:
    try:
        facts = read(body, fields=("user",))
    except BodyUnreadable:
        return
    assert isinstance(facts.model, str)
    assert all(isinstance(text, str) for text in facts.prompt.texts)


@pytest.mark.parametrize("inside", ["input", "tools", "text"])
def test_deeply_nested_bodies_are_read_or_refused(inside: str) -> None:
    deep = b'{"a":' * 900 + b"1" + b"}" * 900
    read_or_refuse(b'{"model":"m","input":"Hi","%b":[%b]}' % (inside.encode(), deep))
