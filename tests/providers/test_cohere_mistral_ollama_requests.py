"""Reading and editing requests to Cohere, Mistral and Ollama, and finding where they go."""

from __future__ import annotations

import json
from base64 import b64encode
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import (
    OUTPUT_TOKENS_MAX,
    Detail,
    Image,
    Prompt,
    RawRequest,
    RequestEdits,
    RequestFacts,
    WireFormat,
)
from policyd.providers.endpoint import Endpoint, UnknownEndpoint
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
    resolve,
)
from policyd.providers.vendors import vendor_named
from tests.providers.garbling import UNHURRIED, garbled, with_other_values

VENDOR = vendor_named("cohere")
HI = [{"role": "user", "content": "Hi"}]
PIXEL = b"\x89PNG\r\n\x1a\n" + b"\0" * 16
PNG = "data:image/png;base64," + b64encode(PIXEL).decode()
TOOL = {
    "type": "function",
    "function": {"name": "ponds", "description": "Finds ponds", "parameters": {"type": "object"}},
}
TOOL_JSON = '{"name":"ponds","description":"Finds ponds","parameters":{"type":"object"}}'

BODIES: dict[WireFormat, dict[str, Any]] = {
    COHERE_CHAT: {"model": "command-a-03-2025", "messages": HI, "tools": [TOOL], "documents": ["x"], "max_tokens": 9},
    COHERE_CHAT_V1: {"message": "Hi", "chat_history": [{"role": "USER", "message": "Hm"}], "stream": True},
    COHERE_GENERATE: {"prompt": "Hi", "num_generations": 2, "max_tokens": 9},
    COHERE_EMBED: {"model": "embed-v4.0", "inputs": [{"content": [{"type": "text", "text": "Hi"}]}]},
    COHERE_RERANK: {"model": "rerank-v3.5", "query": "Hi", "documents": ["a", {"text": "b"}]},
    MISTRAL_CHAT: {"model": "mistral-small-latest", "messages": HI, "tools": [TOOL], "n": 2, "max_tokens": 9},
    MISTRAL_FIM: {"model": "codestral-2508", "prompt": "def f(", "suffix": "return x", "max_tokens": 9},
    MISTRAL_OCR: {"model": "mistral-ocr-latest", "document": {"type": "image_url", "image_url": PNG}},
    OLLAMA_CHAT: {"model": "qwen3:4b", "messages": HI, "tools": [TOOL], "options": {"num_predict": 9}},
    OLLAMA_GENERATE: {"model": "llama3", "prompt": "Hi", "context": [1, 2, 3], "options": {}},
    OLLAMA_EMBED: {"model": "nomic-embed-text", "input": ["a", "b"]},
}
EVERY = pytest.mark.parametrize("wire", BODIES, ids=lambda wire: wire.name)


def read(wire: WireFormat, body: bytes, *, fields: tuple[str, ...] = ()) -> RequestFacts:
    return wire.read_request(RawRequest(body), vendor=VENDOR, identity_fields=fields)


def read_with(wire: WireFormat, **members: Any) -> RequestFacts:
    """The facts of the usual body with other members."""
    return read(wire, json.dumps({**BODIES[wire], **members}).encode())


def only(wire: WireFormat, **members: Any) -> Prompt:
    """The prompt of a body of these members and a model."""
    return read(wire, json.dumps({"model": "m", **members}).encode()).prompt


# What all of them have in common.


@EVERY
def test_identity_fields(wire: WireFormat) -> None:
    body = json.dumps({**BODIES[wire], "metadata": {"user": "ada", "level": 3}}).encode()
    fields = ("metadata.user", "metadata.level", "user")
    assert read(wire, body, fields=fields).fields == {"metadata.user": "ada", "metadata.level": "3"}


@EVERY
def test_identity_fields_are_stripped_and_nothing_else_is_touched(wire: WireFormat) -> None:
    body = json.dumps({**BODIES[wire], "metadata": {"user": "ada"}}, indent=1).encode()
    assert wire.edit_request(body, RequestEdits(), vendor=VENDOR) == body
    edited = wire.edit_request(body, RequestEdits(strip_fields=("metadata.user",)), vendor=VENDOR)
    assert edited == body.replace(b'"user": "ada"', b"")
    assert json.loads(edited) == {**BODIES[wire], "metadata": {}}


@EVERY
@pytest.mark.parametrize("body", [b"nope", b"[]", b'{"model":"\xff"}', b"[" * 100_000, b'{"model":"a","model":"b"}'])
def test_bodies_that_are_refused(wire: WireFormat, body: bytes) -> None:
    with pytest.raises(BodyUnreadable):
        read(wire, body)


@EVERY
def test_deep_nesting_is_refused_or_read_and_nothing_else(wire: WireFormat) -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    for name in BODIES[wire]:
        body = json.dumps({**BODIES[wire], name: "@"}).encode().replace(b'"@"', json.dumps(deep).encode())
        try:
            read(wire, body)
        except BodyUnreadable:
            continue


@UNHURRIED
@given(seed=st.integers(0, 2**32), index=st.integers(0, len(BODIES) - 1))
def test_garbled_bodies_raise_one_error_only(seed: int, index: int) -> None:
    wire, document = list(BODIES.items())[index]
    try:
        read(wire, garbled(json.dumps(document).encode(), Random(seed)))
    except BodyUnreadable:
        return


@UNHURRIED
@given(data=st.data(), index=st.integers(0, len(BODIES) - 1))
def test_other_values_raise_one_error_only(data: st.DataObject, index: int) -> None:
    wire, document = list(BODIES.items())[index]
    try:
        facts = read(wire, json.dumps(with_other_values(data, document)).encode())
    except BodyUnreadable:
        return
    assert isinstance(facts.model, str)
    assert facts.choices >= 1
    assert facts.max_output_tokens is None or 0 <= facts.max_output_tokens <= OUTPUT_TOKENS_MAX


@pytest.mark.parametrize("wire", [COHERE_CHAT, COHERE_CHAT_V1, COHERE_GENERATE, MISTRAL_CHAT, MISTRAL_FIM])
@pytest.mark.parametrize(("value", "maximum"), [(1, 1), (None, None), (OUTPUT_TOKENS_MAX, OUTPUT_TOKENS_MAX)])
def test_the_maximum_of_the_output(wire: WireFormat, value: int | None, maximum: int | None) -> None:
    assert read_with(wire, max_tokens=value).max_output_tokens == maximum
    edited = wire.edit_request(json.dumps(BODIES[wire]).encode(), RequestEdits(max_output_tokens=5), vendor=VENDOR)
    assert json.loads(edited) == {**BODIES[wire], "max_tokens": 5}


@pytest.mark.parametrize("wire", [COHERE_EMBED, COHERE_RERANK, OLLAMA_EMBED, MISTRAL_OCR])
def test_what_writes_no_text_has_no_output(wire: WireFormat) -> None:
    facts = read_with(wire)
    assert facts.max_output_tokens == 0
    assert not facts.streamed


@pytest.mark.parametrize(
    ("wire", "members", "message"),
    [
        (COHERE_CHAT, {"model": None}, "model: expected a text that is not empty, got nothing"),
        (COHERE_CHAT, {"messages": None}, "messages: expected an array of objects, got nothing"),
        (COHERE_CHAT, {"messages": ["Hi"]}, "messages[0]: expected an object, got a text"),
        (COHERE_CHAT, {"max_tokens": 1.5}, "max_tokens: expected an integer, got a number"),
        (COHERE_CHAT, {"stream": "yes"}, "stream: expected true or false, got a text"),
        (COHERE_CHAT_V1, {"model": 1}, "model: expected a text, got a number"),
        (COHERE_CHAT_V1, {"max_tokens": -1}, "max_tokens: expected an integer from 0 to 100000000"),
        (COHERE_GENERATE, {"num_generations": 6}, "num_generations: expected an integer from 1 to 5"),
        (COHERE_GENERATE, {"prompt": ["Hi"]}, "prompt: expected a text, got an array"),
        (COHERE_EMBED, {"inputs": "Hi"}, "inputs: expected an array of objects, got a text"),
        (COHERE_RERANK, {"query": 1}, "query: expected a text, got a number"),
        (MISTRAL_CHAT, {"n": 0}, "n: expected an integer from 1 to 128"),
        (MISTRAL_CHAT, {"max_tokens": 0}, "max_tokens: expected an integer from 1 to 100000000"),
        (MISTRAL_CHAT, {"service_tier": 1}, "service_tier: expected a text, got a number"),
        (MISTRAL_FIM, {"model": ""}, "model: expected a text that is not empty, got an empty text"),
        (MISTRAL_FIM, {"suffix": {}}, "suffix: expected a text, got an object"),
        (OLLAMA_CHAT, {"messages": "Hi"}, "messages: expected an array of objects, got a text"),
        (OLLAMA_CHAT, {"options": []}, "options: expected an object, got an array"),
        (OLLAMA_CHAT, {"options": {"num_predict": "9"}}, "options.num_predict: expected an integer, got a text"),
        (
            OLLAMA_CHAT,
            {"options": {"num_predict": -3}},
            "options.num_predict: expected an integer from -2 to 100000000",
        ),
        (OLLAMA_CHAT, {"stream": 0}, "stream: expected true or false, got a number"),
        (OLLAMA_CHAT, {"MODEL": "llama3:70b"}, "model: spelt in another case"),
        (OLLAMA_CHAT, {"me\u017f\u017fages": []}, "messages: spelt in another case"),
        (OLLAMA_EMBED, {"model": None}, "model: expected a text that is not empty, got nothing"),
    ],
)
def test_what_is_refused(wire: WireFormat, members: dict[str, Any], message: str) -> None:
    with pytest.raises(BodyUnreadable) as refused:
        read_with(wire, **members)
    assert str(refused.value) == message


# Cohere.


def test_a_chat() -> None:
    assert read_with(COHERE_CHAT, stream=True) == RequestFacts(
        model="command-a-03-2025",
        streamed=True,
        prompt=Prompt(texts=("Hi", TOOL_JSON, "x"), exact=False),
        max_output_tokens=9,
    )


def test_a_maximum_of_zero_is_none() -> None:
    assert read_with(COHERE_CHAT, max_tokens=0).max_output_tokens is None


def test_the_messages_of_a_chat() -> None:
    call = {"id": "t", "type": "function", "function": {"name": "ponds", "arguments": "{}"}}
    prompt = only(
        COHERE_CHAT,
        messages=[
            {"role": "system", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}, "c"]},
            {"role": "assistant", "tool_plan": "d", "tool_calls": [call], "content": None},
            {"role": "tool", "content": [{"type": "document", "document": {"data": {"out": "e"}}}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "f"}]},
        ],
        documents=[{"id": "1", "data": {"text": "g"}}, "h"],
        response_format={"type": "json_object", "json_schema": {"type": "object"}},
    )
    texts = ("a", "b", "c", "d", "ponds", "{}", '{"out":"e"}', "f", '{"text":"g"}', "h", '{"type":"object"}')
    assert prompt == Prompt(texts=texts, exact=False)


def test_the_images_of_a_chat() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
        {"type": "image_url", "image_url": PNG},
        {"type": "image_url", "image_url": {"url": "https://example.com/heron.png"}},
    ]
    prompt = only(COHERE_CHAT, messages=[{"role": "user", "content": parts}])
    assert prompt.images == (Image(PIXEL, Detail.LOW), Image(PIXEL), Image(b""))


def test_parts_of_unknown_shape_count_by_their_size() -> None:
    prompt = only(COHERE_CHAT, messages=[{"role": "user", "content": [{"type": "video", "video": "x" * 100}]}])
    assert prompt.unread_bytes > 100


def test_a_v1_chat() -> None:
    facts = read_with(
        COHERE_CHAT_V1,
        preamble="Be brief.",
        chat_history=[{"role": "CHATBOT", "message": "a", "tool_calls": [{"name": "b", "parameters": {"c": 1}}]}],
        documents=[{"title": "d"}],
        tools=[{"name": "e"}],
        tool_results=[{"outputs": [{"f": 1}]}],
    )
    assert facts.streamed
    assert facts.model == "command-r-plus-08-2024"
    assert facts.prompt.texts == (
        "Be brief.",
        "Hi",
        "a",
        '{"name":"b","parameters":{"c":1}}',
        '{"name":"e"}',
        '{"outputs":[{"f":1}]}',
        '{"title":"d"}',
    )
    assert read_with(COHERE_CHAT_V1, model="command-r").model == "command-r"


def test_what_cohere_keeps_is_allowed_for() -> None:
    assert read_with(COHERE_CHAT_V1).prompt.unread_bytes == 0
    assert read_with(COHERE_CHAT_V1, conversation_id="c").prompt.unread_bytes == 16_384
    assert read_with(COHERE_GENERATE, preset="p", prompt=None).prompt.unread_bytes == 4096


def test_generate() -> None:
    assert read_with(COHERE_GENERATE, model="") == RequestFacts(
        model="command", streamed=False, prompt=Prompt(texts=("Hi",), exact=False), max_output_tokens=9, choices=2
    )


def test_embeddings_of_texts_and_images() -> None:
    parts = [{"type": "text", "text": "c"}, {"type": "image_url", "image_url": {"url": PNG}}]
    prompt = only(COHERE_EMBED, texts=["a", "b"], images=[PNG], inputs=[{"content": parts}])
    assert prompt == Prompt(texts=("a", "b", "c"), images=(Image(PIXEL), Image(PIXEL)), exact=False)
    assert read_with(COHERE_EMBED, model=None).model == "embed-english-v2.0"


def test_a_ranking_reads_the_query_with_every_document() -> None:
    facts = read_with(COHERE_RERANK, query="Hé", documents=["a", {"text": "b"}, "c"])
    assert facts.prompt == Prompt(texts=("Hé", "a", '{"text":"b"}', "c"), unread_bytes=6, exact=False)


# Mistral.


def test_a_mistral_chat() -> None:
    assert read_with(MISTRAL_CHAT, service_tier="priority") == RequestFacts(
        model="mistral-small-latest",
        streamed=False,
        prompt=Prompt(texts=("Hi", json.dumps([TOOL])), overhead_tokens=8, exact=False),
        max_output_tokens=9,
        choices=2,
        terms={"service_tier": "priority"},
    )


def test_mistral_reports_usage_in_streams_unasked() -> None:
    assert read_with(MISTRAL_CHAT, stream=True).usage_requested


def test_tools_that_must_not_be_used_and_answer_schemas_are_not_shown() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "pond", "schema": {"type": "object"}}}
    assert read_with(MISTRAL_CHAT, tool_choice="none", response_format=schema).prompt.texts == ("Hi",)


@pytest.mark.parametrize("members", [{"safe_prompt": True}, {"prompt_mode": "reasoning"}])
def test_a_system_prompt_of_mistrals_own_is_allowed_for(members: dict[str, Any]) -> None:
    assert read_with(MISTRAL_CHAT, safe_prompt=False).prompt.overhead_tokens == 8
    assert read_with(MISTRAL_CHAT, **members).prompt.overhead_tokens == 208


def test_a_predicted_answer_is_read() -> None:
    prediction = {"type": "content", "content": "Two herons"}
    assert "Two herons" in read_with(MISTRAL_CHAT, prediction=prediction).prompt.texts[-1]


def test_the_messages_of_a_mistral_chat() -> None:
    call = {"id": "t", "type": "function", "function": {"name": "ponds", "arguments": "{}"}}
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "a"}]},
        {"type": "text", "text": "b"},
        "c",
        {"type": "image_url", "image_url": PNG},
        {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}},
    ]
    messages = [{"role": "assistant", "content": parts, "tool_calls": [call]}, {"role": "tool", "content": "d"}]
    prompt = only(MISTRAL_CHAT, messages=messages)
    assert prompt.texts == ("a", "b", "c", '{"name":"ponds","arguments":"{}"}', "d")
    assert prompt.images == (Image(PIXEL), Image(PIXEL, Detail.HIGH))


@pytest.mark.parametrize(
    ("part", "unread_bytes"),
    [
        ({"type": "input_audio", "input_audio": "QUFB" * 10}, 30),
        ({"type": "input_audio", "input_audio": {"data": "QUFB", "format": "wav"}}, 3),
        ({"type": "document_url", "document_url": "data:application/pdf;base64," + "QUFB" * 10}, 51),
        ({"type": "document_url", "document_url": "https://example.com/a.pdf"}, 32_768),
        ({"type": "input_audio", "input_audio": "https://example.com/a.mp3"}, 32_768),
        ({"type": "document_url", "document_url": "s3://pond/a.pdf"}, 32_768),
        ({"type": "file", "file_id": "f"}, 32_768),
        ({"type": "reference", "reference_ids": [1]}, 40),
    ],
)
def test_audio_and_documents_are_bounded_by_their_size(part: Any, unread_bytes: int) -> None:
    assert only(MISTRAL_CHAT, messages=[{"role": "user", "content": [part]}]).unread_bytes == unread_bytes
    if "document_url" in part:
        assert only(MISTRAL_OCR, document=part).unread_bytes == unread_bytes


def test_fim() -> None:
    facts = read_with(MISTRAL_FIM)
    assert facts.prompt == Prompt(texts=("def f(", "return x"), overhead_tokens=4, exact=False)
    assert facts.max_output_tokens == 9


# Ollama.


@pytest.mark.parametrize("wire", [OLLAMA_CHAT, OLLAMA_GENERATE])
@pytest.mark.parametrize(("stream", "streamed"), [(None, True), (True, True), (False, False)])
def test_ollama_streams_unless_told_not_to(wire: WireFormat, stream: bool | None, streamed: bool) -> None:
    assert read_with(wire, stream=stream).streamed == streamed


@pytest.mark.parametrize(
    ("options", "maximum"),
    [({"num_predict": 7}, 7), ({"num_predict": -1}, None), ({"num_predict": -2}, None), ({"num_predict": 0}, None)],
)
def test_the_maximum_of_ollamas_output(options: dict[str, int], maximum: int | None) -> None:
    assert read_with(OLLAMA_CHAT, options=options).max_output_tokens == maximum


@pytest.mark.parametrize("options", [None, {}, {"num_predict": -1, "seed": 1}])
def test_setting_the_maximum_of_ollamas_output(options: dict[str, int] | None) -> None:
    body = json.dumps({**BODIES[OLLAMA_CHAT], "options": options}).encode()
    edited = OLLAMA_CHAT.edit_request(body, RequestEdits(max_output_tokens=5), vendor=VENDOR)
    assert json.loads(edited)["options"] == {**(options or {}), "num_predict": 5}
    assert read(OLLAMA_CHAT, edited).max_output_tokens == 5


def test_an_ollama_chat() -> None:
    call = {"function": {"name": "ponds", "arguments": {}}}
    image = b64encode(PIXEL).decode()
    messages = [
        {"role": "user", "content": "a", "images": [image]},
        {"role": "assistant", "thinking": "b", "tool_calls": [call]},
        {"role": "tool", "tool_name": "c", "content": "d"},
    ]
    prompt = only(OLLAMA_CHAT, messages=messages, tools=[TOOL])
    calls, tools = (json.dumps(value, separators=(",", ":")) for value in ([call], [TOOL]))
    assert prompt.texts == ("a", "b", calls, "d", "c", tools)
    assert prompt.images == (Image(PIXEL),)
    assert prompt.overhead_tokens == 4 + 3 * 5 + 225


def test_ollama_generate() -> None:
    prompt = only(OLLAMA_GENERATE, prompt="a", system="b", suffix="c", template="d", context=[1, 2, 3], images=[])
    assert prompt == Prompt(texts=("b", "a", "c", "d"), overhead_tokens=14 + 3, exact=False)


def test_thoughts_that_are_read_again_are_allowed_for() -> None:
    for wire in (OLLAMA_CHAT, OLLAMA_GENERATE):
        assert read_with(wire, format="").prompt.unread_bytes == 0
        assert read_with(wire, format="json", think=False).prompt.unread_bytes == 0
        assert read_with(wire, format={"type": "object"}).prompt.unread_bytes == 4096


def test_ollama_embeddings() -> None:
    assert only(OLLAMA_EMBED, input=["a", "b"]) == Prompt(texts=("a", "b"), overhead_tokens=4, exact=False)
    assert only(OLLAMA_EMBED, input="a") == Prompt(texts=("a",), overhead_tokens=2, exact=False)
    assert only(OLLAMA_EMBED, prompt="a").texts == ("a",)


# Where they go.


@pytest.mark.parametrize(
    ("vendor", "method", "path", "name", "wire"),
    [
        ("cohere", "POST", "/v2/chat", "chat", COHERE_CHAT),
        ("cohere", "POST", "/v1/chat", "chat", COHERE_CHAT_V1),
        ("cohere", "POST", "/v1/generate", "generate", COHERE_GENERATE),
        ("cohere", "POST", "/v1/embed", "embed", COHERE_EMBED),
        ("cohere", "POST", "/v2/embed", "embed", COHERE_EMBED),
        ("cohere", "POST", "/v1/rerank", "rerank", COHERE_RERANK),
        ("cohere", "POST", "/v2/rerank", "rerank", COHERE_RERANK),
        ("cohere", "POST", "/v1/tokenize", "tokenize", None),
        ("cohere", "POST", "/v1/detokenize", "detokenize", None),
        ("cohere", "POST", "/v1/check-api-key", "check-api-key", None),
        ("cohere", "GET", "/v1/models", "models", None),
        ("cohere", "GET", "/v1/models/command-a-03-2025", "models", None),
        ("mistral", "POST", "/v1/chat/completions", "chat.completions", MISTRAL_CHAT),
        ("mistral", "POST", "/v1/fim/completions", "fim.completions", MISTRAL_FIM),
        ("mistral", "POST", "/v1/ocr", "ocr", MISTRAL_OCR),
        ("mistral", "GET", "/v1/models", "models", None),
        ("ollama", "POST", "/api/chat", "chat", OLLAMA_CHAT),
        ("ollama", "POST", "/api/generate", "generate", OLLAMA_GENERATE),
        ("ollama", "POST", "/api/embed", "embed", OLLAMA_EMBED),
        ("ollama", "POST", "/api/embeddings", "embed", OLLAMA_EMBED),
        ("ollama", "GET", "/api/tags", "models", None),
        ("ollama", "GET", "/api/ps", "models", None),
        ("ollama", "GET", "/api/version", "models", None),
        ("ollama", "POST", "/api/show", "models", None),
    ],
)
def test_endpoints(vendor: str, method: str, path: str, name: str, wire: WireFormat | None) -> None:
    for provider, asked in ((vendor, path), (None, f"/{vendor}{path}")):
        found = resolve(provider=provider, host="gateway", method=method, path=asked)
        assert isinstance(found, Endpoint)
        assert (found.vendor.id, found.name, found.path) == (vendor, name, path)
        assert found.wire is wire


@pytest.mark.parametrize(
    ("vendor", "method", "path"),
    [
        ("cohere", "POST", "/v1/classify"),
        ("cohere", "POST", "/v2/generate"),
        ("cohere", "GET", "/v2/chat"),
        ("mistral", "POST", "/v1/conversations"),
        ("mistral", "POST", "/v1/agents/completions"),
        ("ollama", "POST", "/api/pull"),
        ("ollama", "DELETE", "/api/delete"),
    ],
)
def test_what_no_wire_format_knows_is_unknown(vendor: str, method: str, path: str) -> None:
    assert isinstance(resolve(provider=vendor, host="gateway", method=method, path=path), UnknownEndpoint)
