"""Reading and editing requests to Gemini: `generateContent`, interactions, embeddings, and Claude at Vertex AI."""

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
from policyd.core.usage import OUTPUT_TOKEN_KINDS
from policyd.providers.base import (
    OUTPUT_TOKENS_MAX,
    CacheWrite,
    Detail,
    Image,
    Prompt,
    RawRequest,
    RequestEdits,
    RequestFacts,
    WireFormat,
)
from policyd.providers.registry import GEMINI_EMBEDDINGS, GEMINI_GENERATE, GEMINI_INTERACTIONS, VERTEX_ANTHROPIC
from policyd.providers.vendors import GOOGLE
from tests.providers.garbling import UNHURRIED, garbled, with_other_values

PATH = "/v1beta/models/gemini-2.5-flash:generateContent"
INTERACTIONS = "/v1beta/interactions"
CONTENTS = [{"role": "user", "parts": [{"text": "Hi"}]}]
EVERY_INPUT = ("input", "audio_input", "image_input", "video_input")


def read(
    body: bytes,
    *,
    wire: WireFormat = GEMINI_GENERATE,
    path: str = PATH,
    query: str = "",
    fields: tuple[str, ...] = (),
) -> RequestFacts:
    return wire.read_request(RawRequest(body, path=path, query=query), vendor=GOOGLE, identity_fields=fields)


def read_with(*, path: str = PATH, query: str = "", **members: Any) -> RequestFacts:
    return read(json.dumps({"contents": CONTENTS, **members}).encode(), path=path, query=query)


def prompt_of(*parts: Any, **members: Any) -> Prompt:
    return read_with(contents=[{"parts": list(parts)}], **members).prompt


def test_the_plain_case() -> None:
    assert read_with() == RequestFacts(
        model="gemini-2.5-flash",
        streamed=False,
        prompt=Prompt(texts=("Hi",), exact=False),
        max_output_tokens=None,
        output_kinds=OUTPUT_TOKEN_KINDS,
    )


@pytest.mark.parametrize(
    ("path", "model", "streamed"),
    [
        ("/v1beta/models/gemini-2.5-pro:generateContent", "gemini-2.5-pro", False),
        ("/v1/models/gemini-2.5-pro:streamGenerateContent", "gemini-2.5-pro", True),
        (
            "/v1/projects/p/locations/l/publishers/google/models/gemini-pro@001:streamGenerateContent",
            "gemini-pro@001",
            True,
        ),
        ("/v1beta/tunedModels/birds-7f:generateContent", "birds-7f", False),
    ],
)
def test_the_path_names_the_model_and_whether_it_streams(path: str, model: str, streamed: bool) -> None:
    facts = read_with(path=path, model="models/another")
    assert (facts.model, facts.streamed, facts.usage_requested) == (model, streamed, True)


@pytest.mark.parametrize(
    "query", ["", "key=k", "alt=sse&key=k", "alt=json", "%24alt=json%3Benum-encoding%3Dint", "x=1;y"]
)
def test_queries(query: str) -> None:
    assert read_with(query=query) == read_with()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("alt=proto", "the query's alt: expected json or sse"),
        ("%24alt=proto", "the query's $alt: expected json or sse"),
        ("alt=sse&a%6Ct=media", "the query's alt: expected json or sse"),
        ("fields=candidates", "the query's fields: expected nothing, because a partial reply hides its usage"),
        ("$fields=", "the query's $fields: expected nothing, because a partial reply hides its usage"),
        ("&".join(["a=1"] * 101), "the query has too many parameters"),
    ],
)
@pytest.mark.parametrize("wire", [GEMINI_GENERATE, GEMINI_EMBEDDINGS, GEMINI_INTERACTIONS, VERTEX_ANTHROPIC])
def test_queries_that_would_hide_the_usage(wire: WireFormat, query: str, message: str) -> None:
    with pytest.raises(BodyUnreadable) as refused:
        read(b"{}", wire=wire, query=query)
    assert str(refused.value) == message


@pytest.mark.parametrize("outer", ["generationConfig", "generation_config"])
@pytest.mark.parametrize("inner", ["maxOutputTokens", "max_output_tokens"])
@pytest.mark.parametrize(
    ("value", "maximum"),
    [(1, 1), (0, None), (None, None), ("50", 50), (50.0, 50), (OUTPUT_TOKENS_MAX, OUTPUT_TOKENS_MAX)],
)
def test_the_maximum_of_the_output(outer: str, inner: str, value: Any, maximum: int | None) -> None:
    body = json.dumps({"contents": CONTENTS, outer: {inner: value}}).encode()
    assert read(body).max_output_tokens == maximum


def test_candidates() -> None:
    assert read_with(generationConfig={"candidateCount": 3}).choices == 3
    assert read_with(generation_config={"candidate_count": "8"}).choices == 8
    assert read_with(generationConfig={"candidateCount": 0}).choices == 1


@pytest.mark.parametrize(
    ("member", "terms"),
    [
        ({"serviceTier": "FLEX"}, {"service_tier": "flex"}),
        ({"service_tier": "priority"}, {"service_tier": "priority"}),
        ({"serviceTier": "SERVICE_TIER_PRIORITY"}, {"service_tier": "priority"}),
        ({"serviceTier": "STANDARD"}, {}),
        ({"serviceTier": None}, {}),
    ],
)
def test_terms(member: dict[str, Any], terms: dict[str, str]) -> None:
    assert read_with(**member).terms == terms


def test_identity_fields() -> None:
    body = json.dumps({"contents": [], "labels": {"user": "ada"}}).encode()
    assert read(body, fields=("labels.user", "user")).fields == {"labels.user": "ada"}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"contents": [1]}, "contents[0]: expected an object"),
        ({"tools": ["googleSearch"]}, "tools[0]: expected an object"),
        ({"generationConfig": []}, "generationConfig: expected an object"),
        (
            {"generationConfig": {"maxOutputTokens": "many"}},
            "generationConfig.maxOutputTokens: expected an integer from 0 to 100000000",
        ),
        (
            {"generationConfig": {"maxOutputTokens": True}},
            "generationConfig.maxOutputTokens: expected an integer from 0 to 100000000",
        ),
        (
            {"generationConfig": {"max_output_tokens": -1}},
            "generationConfig.maxOutputTokens: expected an integer from 0 to 100000000",
        ),
        (
            {"generationConfig": {"candidateCount": 9}},
            "generationConfig.candidateCount: expected an integer from 0 to 8",
        ),
        (
            {"generationConfig": {"maxOutputTokens": 1, "max_output_tokens": 9}},
            "generationConfig.max_output_tokens: given twice, as maxOutputTokens too",
        ),
        ({"generationConfig": {}, "generation_config": {}}, "generation_config: given twice, as generationConfig too"),
        ({"serviceTier": 1}, "serviceTier: expected a text"),
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
        b"[" * 100_000,
        b'{"contents":[],"contents":[{}]}',
        b'{"contents":[],"generationConfig":{"maxOutputTokens":1},"generationConfig":{"maxOutputTokens":2}}',
        b'{"contents":[],"generationConfig":{"maxOutputTokens":1,"maxOutputTokens":2}}',
        b'{"generation_config":{"max_output_tokens":1,"max\\u005foutput_tokens":2}}',
        b'{"generationConfig":{"candidateCount":1,"x":{},"candidateCount":8}}',
    ],
)
def test_other_bodies_that_are_refused(body: bytes) -> None:
    with pytest.raises(BodyUnreadable):
        read(body)


def test_what_is_given_twice_alike_or_elsewhere_is_read() -> None:
    body = b'{"x":{"maxOutputTokens":9},"generationConfig":{"maxOutputTokens":1,"maxOutputTokens":1}}'
    assert read(body).max_output_tokens == 1


def test_a_path_without_a_model_is_refused() -> None:
    with pytest.raises(BodyUnreadable, match="the path names no model"):
        read(b"{}", path="/v1beta/models")


# The prompt.


def test_contents_in_any_form() -> None:
    assert read_with(contents={"parts": {"text": "a"}}).prompt.texts == ("a",)
    assert read_with(contents=[{"parts": [{"text": "a"}, "b"]}, {"parts": []}]).prompt.texts == ("a", "b")
    for system in ({"parts": {"text": "s"}}, {"parts": [{"text": "s"}]}, "s"):
        assert read_with(systemInstruction=system).prompt.texts == ("s", "Hi")
        assert read_with(system_instruction=system).prompt.texts == ("s", "Hi")


@pytest.mark.parametrize("spelled", ["camel", "snake"])
def test_calls_results_and_code(spelled: str) -> None:
    parts = [
        {"functionCall": {"name": "count", "args": {"of": "é"}}, "thoughtSignature": "x" * 80},
        {"functionResponse": {"name": "count", "response": {"n": 2}, "parts": [{"text": "more"}]}},
        {"executableCode": {"code": "print(2)"}},
        {"codeExecutionResult": {"output": "2"}},
        {"text": "Hm.", "thought": True, "thoughtSignature": "x" * 80},
    ]
    if spelled == "snake":
        parts = json.loads(
            json.dumps(parts)
            .replace("functionCall", "function_call")
            .replace("functionResponse", "function_response")
            .replace("executableCode", "executable_code")
            .replace("codeExecutionResult", "code_execution_result")
            .replace("thoughtSignature", "thought_signature")
        )
    prompt = prompt_of(*parts)
    assert prompt.texts == ("count", '{"of":"é"}', "count", '{"n":2}', "more", "print(2)", "2", "Hm.")
    assert prompt.overhead_tokens == 6 + 6
    assert prompt.possible_tokens == 20, "the signature of a text costs nothing"
    assert prompt.unread_bytes == 0


def inline(mime_type: str, data: bytes) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime_type, "data": b64encode(data).decode()}}


@pytest.mark.parametrize(
    ("part", "unread_bytes", "kinds"),
    [
        (inline("audio/mpeg", bytes(90)), 90, ("input", "audio_input")),
        (inline("application/pdf", bytes(90)), 90, ("input", "image_input")),
        (inline("text/csv", bytes(90)), 90, ("input",)),
        (inline("video/mp4", bytes(90)), 90, EVERY_INPUT),
        ({"fileData": {"mimeType": "application/pdf", "fileUri": "gs://b/f.pdf"}}, 32768, ("input", "image_input")),
        ({"file_data": {"mime_type": "audio/wav", "file_uri": "gs://b/f"}}, 32768, ("input", "audio_input")),
        ({"fileData": {"fileUri": "https://example.org/watch"}}, 32768, EVERY_INPUT),
        ({"unheardOf": {"a": 1}}, len('{"a":1}'), ("input",)),
    ],
)
def test_files(part: dict[str, Any], unread_bytes: int, kinds: tuple[str, ...]) -> None:
    facts = read_with(contents=[{"parts": [part]}])
    assert facts.prompt.unread_bytes == unread_bytes
    assert not facts.prompt.texts
    assert not facts.prompt.images
    assert facts.input_kinds == kinds


def test_images() -> None:
    by_address = {"fileData": {"mimeType": "image/png", "fileUri": "https://example.org/a.png"}}
    finest = {**inline("image/png", bytes(90)), "mediaResolution": {"level": "MEDIA_RESOLUTION_ULTRA_HIGH"}}
    facts = read_with(contents=[{"parts": [inline("image/png", bytes(90)), by_address, finest]}])
    assert facts.prompt.images == (Image(bytes(90)), Image(b""), Image(bytes(90), Detail.HIGH))
    assert facts.prompt.unread_bytes == 0
    assert facts.input_kinds == ("input", "image_input")


def test_tools() -> None:
    function = {"name": "count", "parameters": {"type": "OBJECT"}}
    for name in ("functionDeclarations", "function_declarations"):
        prompt = read_with(tools=[{name: [function, function]}]).prompt
        assert prompt.texts == ("Hi", *[json.dumps(function, separators=(",", ":"))] * 2)
        assert prompt.overhead_tokens == 10
        assert prompt.unread_bytes == 0
    assert read_with(tools={"googleSearch": {}, "urlContext": {}}).prompt.unread_bytes == 2 * 8192


def test_a_schema_that_refers_to_its_parts_is_bounded_by_more_than_its_text() -> None:
    function = {"name": "count", "parameters": {"$defs": {"A": {}}, "items": {"$ref": "#/$defs/A"}}}
    prompt = read_with(tools=[{"functionDeclarations": [function]}]).prompt
    assert prompt.unread_bytes == len(json.dumps(function, separators=(",", ":")))


def test_answer_schemas_are_free() -> None:
    assert read_with(generationConfig={"responseSchema": {"type": "OBJECT"}}) == read_with()


@pytest.mark.parametrize("name", ["cachedContent", "cached_content"])
def test_cached_content_is_hidden(name: str) -> None:
    facts = read_with(**{name: "cachedContents/c1"})
    assert facts.prompt.unread_bytes == 32768
    assert facts.input_kinds == EVERY_INPUT
    assert facts.cache_write is CacheWrite.NONE


@pytest.mark.parametrize(
    ("model", "tool", "searches"),
    [
        ("gemini-2.5-flash", {"googleSearch": {}}, 1),
        ("gemini-1.5-pro", {"google_search_retrieval": {}}, 1),
        ("gemini-3-flash-preview", {"google_search": {}}, 10),
        ("gemini-flash-latest", {"enterpriseWebSearch": {}}, 10),
        ("gemini-3-flash-preview", {"googleSearch": None}, 0),
        ("gemini-3-flash-preview", {"urlContext": {}}, 0),
        ("gemini-3-flash-preview", {"functionDeclarations": [{"name": "googleSearch"}]}, 0),
    ],
)
def test_searches(model: str, tool: dict[str, Any], searches: int) -> None:
    assert read_with(path=f"/v1beta/models/{model}:generateContent", tools=[tool]).pieces_max.web_searches == searches


RICH = (Path(__file__).parent / "fixtures" / "gemini_generate_request.json").read_bytes()


def test_the_rich_case() -> None:
    facts = read(RICH, fields=("labels.team",))
    assert (facts.max_output_tokens, facts.choices, facts.pieces_max.web_searches) == (50, 2, 1)
    assert facts.terms == {"service_tier": "flex"}
    assert facts.fields == {"labels.team": "birds"}
    assert facts.input_kinds == EVERY_INPUT
    assert facts.prompt.texts[:2] == ("Be brief.", "Count the herons of 1980.")
    assert facts.prompt.images == (Image(b"\x89PNG\r\n\x1a\n", Detail.HIGH),)
    assert facts.prompt.unread_bytes == 32768 + 8192


# Interactions.


def interaction(**members: Any) -> RequestFacts:
    body = json.dumps({"model": "gemini-3-flash-preview", "input": "Hi", **members}).encode()
    return read(body, wire=GEMINI_INTERACTIONS, path=INTERACTIONS)


def test_a_plain_interaction() -> None:
    facts = interaction(stream=True, system_instruction="Be brief.", service_tier="flex")
    assert (facts.model, facts.streamed, facts.max_output_tokens) == ("gemini-3-flash-preview", True, None)
    assert facts.prompt == Prompt(texts=("Be brief.", "Hi"), exact=False)
    assert facts.terms == {"service_tier": "flex"}
    assert not facts.outlives_client
    assert interaction(generation_config={"max_output_tokens": 9}).max_output_tokens == 9
    assert interaction(generation_config={"maxOutputTokens": 9}).max_output_tokens is None


def test_input_in_any_form() -> None:
    steps = [
        {"type": "user_input", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"type": "model_output", "content": [{"type": "text", "text": "c"}]},
        {"type": "thought", "signature": "x" * 40, "summary": [{"type": "text", "text": "d"}]},
        {"type": "function_call", "name": "count", "arguments": {"of": "e"}},
        {"type": "function_result", "call_id": "f", "name": "count", "result": {"n": 2}},
        {"type": "function_result", "call_id": "f", "name": "count", "result": [{"type": "text", "text": "g"}]},
        {"role": "user", "content": "h"},
    ]
    prompt = interaction(input=steps).prompt
    assert prompt.texts == ("a", "b", "c", "d", "count", '{"of":"e"}', "count", '{"n":2}', "count", "g", "h")
    assert (prompt.overhead_tokens, prompt.possible_tokens) == (6 + 6 + 6, 10)
    assert interaction(input={"type": "text", "text": "a"}).prompt.texts == ("a",)
    assert interaction(input=["a", {"type": "text", "text": "b"}]).prompt.texts == ("a", "b")


def test_media_of_interactions() -> None:
    data = b64encode(bytes(90)).decode()
    facts = interaction(
        input=[
            {"type": "image", "data": data},
            {"type": "audio", "mime_type": "audio/wav", "data": data},
            {"type": "document", "uri": "https://example.org/a.pdf", "mime_type": "application/pdf"},
        ]
    )
    assert facts.prompt.images == (Image(bytes(90)),)
    assert facts.prompt.unread_bytes == 90 + 32768
    assert facts.input_kinds == ("input", "audio_input", "image_input")


@pytest.mark.parametrize(
    ("members", "unread_bytes"),
    [
        ({"previous_interaction_id": "v1_a"}, 32768),
        ({"cached_content": "cachedContents/c"}, 32768),
        ({"tools": [{"type": "google_search"}, {"type": "code_execution"}]}, 2 * 8192),
        ({"tools": [{"type": "function", "name": "count", "parameters": {}}]}, 0),
    ],
)
def test_hidden_input_of_interactions(members: dict[str, Any], unread_bytes: int) -> None:
    assert interaction(**members).prompt.unread_bytes == unread_bytes


def test_functions_and_searches_of_interactions() -> None:
    facts = interaction(tools=[{"type": "function", "name": "count"}, {"type": "google_search"}])
    assert facts.prompt.texts == ("Hi", '{"name":"count"}')
    assert facts.pieces_max.web_searches == 10


def test_an_agent_in_the_background() -> None:
    body = json.dumps({"agent": "deep-research", "input": "Herons", "background": True}).encode()
    facts = read(body, wire=GEMINI_INTERACTIONS, path=INTERACTIONS)
    assert facts.model == "deep-research"
    assert facts.outlives_client
    assert facts.prompt.unread_bytes == 32768


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"model": None}, "model: expected a text that is not empty, got nothing"),
        ({"agent": "a"}, "agent: given beside a model"),
        ({"stream": 1}, "stream: expected true or false, got a number"),
        ({"tools": [1]}, "tools[0]: expected an object, got a number"),
        (
            {"generation_config": {"max_output_tokens": "x"}},
            "generation_config.max_output_tokens: expected an integer from 0 to 100000000",
        ),
    ],
)
def test_interactions_that_are_refused(members: dict[str, Any], message: str) -> None:
    with pytest.raises(BodyUnreadable) as refused:
        interaction(**members)
    assert str(refused.value) == message


# Embeddings, and Claude.


def test_embeddings() -> None:
    content = {"parts": [{"text": "a"}, {"inlineData": {"mimeType": "image/png", "data": ""}}]}
    for body in ({"content": content, "title": "t"}, {"requests": [{"content": content, "title": "t"}]}):
        facts = read(json.dumps(body).encode(), wire=GEMINI_EMBEDDINGS, path="/v1beta/models/e:embedContent")
        assert facts.prompt.texts == ("a", "t")
        assert facts.prompt.images == (Image(b""),)
        assert (facts.model, facts.max_output_tokens, facts.streamed) == ("e", 0, False)
        assert facts.input_kinds == ("input", "image_input")


def test_predictions() -> None:
    body = b'{"instances":[{"content":"a","title":"t"},{"content":"b"}]}'
    facts = read(body, wire=GEMINI_EMBEDDINGS, path="/v1/publishers/google/models/text-embedding-005:predict")
    assert facts.prompt.texts == ("a", "t", "b")
    with pytest.raises(BodyUnreadable, match=r"instances\[0\]: expected an object"):
        read(b'{"instances":["a"]}', wire=GEMINI_EMBEDDINGS, path="/models/e:predict")


@pytest.mark.parametrize(
    ("verb", "stream", "streamed"),
    [("rawPredict", None, False), ("rawPredict", True, True), ("streamRawPredict", None, True)],
)
def test_claude_at_vertex(verb: str, stream: bool | None, streamed: bool) -> None:
    body = {"anthropic_version": "vertex-2023-10-16", "max_tokens": 9, "messages": [], "stream": stream}
    path = f"/v1/projects/p/locations/l/publishers/anthropic/models/claude-sonnet-4@20250514:{verb}"
    facts = read(json.dumps(body).encode(), wire=VERTEX_ANTHROPIC, path=path)
    assert (facts.model, facts.streamed, facts.max_output_tokens) == ("claude-sonnet-4@20250514", streamed, 9)


# Whatever comes.

SAMPLES = {
    GEMINI_GENERATE: RICH,
    GEMINI_INTERACTIONS: json.dumps(
        {
            "model": "m",
            "input": [{"type": "user_input", "content": [{"type": "image", "data": "eA=="}]}],
            "tools": [{"type": "function", "name": "f"}],
            "generation_config": {"max_output_tokens": 5},
        }
    ).encode(),
    GEMINI_EMBEDDINGS: b'{"requests":[{"content":{"parts":[{"text":"a"}]}}],"instances":[{"content":"b"}]}',
}


@UNHURRIED
@given(st.integers(0, 2**32), st.sampled_from(list(SAMPLES)))
def test_garbage_raises_only_what_is_documented(seed: int, wire: WireFormat) -> None:
    try:
        facts = read(garbled(SAMPLES[wire], Random(seed)), wire=wire)
    except BodyUnreadable:
        return
    assert facts.model


@UNHURRIED
@given(st.data(), st.sampled_from(list(SAMPLES)))
def test_other_values_anywhere_raise_only_what_is_documented(data: st.DataObject, wire: WireFormat) -> None:
    document = with_other_values(data, json.loads(SAMPLES[wire]))
    try:
        facts = read(json.dumps(document).encode("utf-8", "surrogatepass"), wire=wire)
    except BodyUnreadable:
        return
    assert all(facts.prompt.texts)
    assert facts.prompt.overhead_tokens >= 0
    wire.edit_request(
        json.dumps(document).encode("utf-8", "surrogatepass"), RequestEdits(max_output_tokens=5), vendor=GOOGLE
    )


@pytest.mark.parametrize("name", ["functionResponse", "functionCall", "unheardOf"])
def test_deep_nesting_that_json_allows_never_ends_in_another_error(name: str) -> None:
    for depth in range(20, 1000, 20):
        inner = b'{"parts":[{"%b":{"response":' % name.encode() * depth + b'"x"' + b"}}]}" * depth
        try:
            read(b'{"contents":[' + inner + b"]}")
        except BodyUnreadable as refused:
            assert "nested too deeply" in str(refused)  # noqa: PT017 - shallow ones are read


# Edits.


@pytest.mark.parametrize(
    ("body", "edits", "expected"),
    [
        (b'{"a": 1}', RequestEdits(), b'{"a": 1}'),
        (b'{"a": 1}', RequestEdits(request_usage=True), b'{"a": 1}'),
        (b'{"a": 1}', RequestEdits(max_output_tokens=9), b'{"generationConfig":{"maxOutputTokens":9},"a": 1}'),
        (
            b'{"generationConfig": {"topK" : 1}}',
            RequestEdits(max_output_tokens=9),
            b'{"generationConfig": {"maxOutputTokens":9,"topK" : 1}}',
        ),
        (
            b'{"generationConfig": null}',
            RequestEdits(max_output_tokens=9),
            b'{"generationConfig": {"maxOutputTokens":9}}',
        ),
        (
            b'{"generation_config": {"max_output_tokens" : 99}}',
            RequestEdits(max_output_tokens=9),
            b'{"generation_config": {"max_output_tokens" : 9}}',
        ),
        (b'{"tier":"x","labels":{"u":1}}', RequestEdits(strip_fields=("tier", "labels.u")), b'{"labels":{}}'),
    ],
)
def test_edits(body: bytes, edits: RequestEdits, expected: bytes) -> None:
    assert GEMINI_GENERATE.edit_request(body, edits, vendor=GOOGLE) == expected


def test_edits_of_the_others() -> None:
    edits = RequestEdits(max_output_tokens=9, strip_fields=("tier",))
    edited = GEMINI_INTERACTIONS.edit_request(b'{"tier":"x","model":"m"}', edits, vendor=GOOGLE)
    assert edited == b'{"generation_config":{"max_output_tokens":9},"model":"m"}'
    assert GEMINI_EMBEDDINGS.edit_request(b'{"tier":"x","content":{}}', edits, vendor=GOOGLE) == b'{"content":{}}'
