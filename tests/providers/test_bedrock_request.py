"""Requests to Bedrock: the endpoint and the model in the path, the prompt and its bounds in the body."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.errors import BodyUnreadable
from policyd.core.usage import Usage
from policyd.providers.base import CacheWrite, Image, RawRequest, RequestEdits, RequestFacts
from policyd.providers.endpoint import Endpoint, UnknownEndpoint
from policyd.providers.registry import BEDROCK_CONVERSE, BEDROCK_INVOKE, BEDROCK_INVOKE_LLAMA, resolve
from policyd.providers.vendors import vendor_named
from tests.providers.garbling import JSON, UNHURRIED, with_other_values

AWS = vendor_named("aws")
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
HOST = "bedrock-runtime.eu-central-1.amazonaws.com"
HELLO = [{"role": "user", "content": [{"text": "Hi"}]}]


def endpoint(path: str, *, host: str = HOST, method: str = "POST") -> tuple[str, str | None] | None:
    """The endpoint's name and its wire format; `None` for one that is unknown."""
    found = resolve(provider=None, host=host, method=method, path=path)
    if isinstance(found, Endpoint):
        assert found.vendor is AWS
        return found.name, found.wire.name if found.wire else None
    assert found is None or isinstance(found, UnknownEndpoint)
    return None


def converse(*, model: str = CLAUDE, verb: str = "converse", **members: Any) -> RequestFacts:
    body = msgspec.json.encode({"messages": HELLO, **members})
    return BEDROCK_CONVERSE.read_request(RawRequest(body, path=f"/model/{model}/{verb}"), vendor=AWS)


def invoke(body: Any, *, model: str = "meta.llama3-8b-instruct-v1:0", verb: str = "invoke") -> RequestFacts:
    encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return BEDROCK_INVOKE.read_request(RawRequest(encoded, path=f"/model/{model}/{verb}"), vendor=AWS)


# --- where ---


@pytest.mark.parametrize(
    "host",
    [
        "bedrock-runtime.us-east-1.amazonaws.com",
        "bedrock-runtime.us-east-1.amazonaws.com:443",
        "bedrock-runtime-fips.us-gov-west-1.amazonaws.com",
        "bedrock-runtime.cn-north-1.amazonaws.com.cn",
        "vpce-0a1b-2c3d.bedrock-runtime.us-east-1.vpce.amazonaws.com",
    ],
)
def test_hosts_of_every_region(host: str) -> None:
    assert endpoint(f"/model/{CLAUDE}/converse", host=host) == ("converse", "bedrock-converse")


@pytest.mark.parametrize(
    "host",
    [
        "bedrock-runtime.us-east-1.amazonaws.com.evil.example",
        "bedrock.us-east-1.amazonaws.com",
        "bedrock-runtime.amazonaws.com",
        "bedrock-runtime.us.east.amazonaws.com",
        "s3.us-east-1.amazonaws.com",
    ],
)
def test_other_hosts_are_not_bedrock(host: str) -> None:
    assert endpoint(f"/model/{CLAUDE}/converse", host=host) is None


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", f"/model/{CLAUDE}/converse", ("converse", "bedrock-converse")),
        ("POST", f"/model/{CLAUDE}/converse-stream", ("converse", "bedrock-converse")),
        ("POST", f"/model/{CLAUDE}/invoke", ("invoke", "bedrock-invoke")),
        ("POST", f"/model/{CLAUDE}/invoke-with-response-stream", ("invoke", "bedrock-invoke")),
        ("POST", f"/model/{CLAUDE}/count-tokens", ("count-tokens", None)),
        ("POST", f"/model/{CLAUDE}/invoke-with-bidirectional-stream", None),
        ("GET", f"/model/{CLAUDE}/converse", None),
        ("POST", "/async-invoke", None),
        ("POST", "/guardrail/g/version/1/apply", None),
    ],
)
def test_endpoints(method: str, path: str, expected: tuple[str, str | None] | None) -> None:
    assert endpoint(path, method=method) == expected


def test_the_vendor_s_name_before_the_path() -> None:
    found = resolve(provider=None, host="gateway", method="POST", path="/aws/model/amazon.nova-lite-v1%3A0/converse")
    assert isinstance(found, Endpoint)
    assert found.vendor is AWS
    assert found.path == "/model/amazon.nova-lite-v1%3A0/converse"


def test_hosts_in_the_form_of_openai_and_anthropic() -> None:
    mantle = "bedrock-mantle.us-east-1.api.aws"
    for path in ("/v1/chat/completions", "/openai/v1/chat/completions"):
        assert endpoint(path, host=mantle) == ("chat.completions", "openai-chat")
    assert endpoint("/anthropic/v1/messages", host=mantle) == ("messages", "anthropic-messages")


# --- the model ---

ARN = "arn:aws:bedrock:us-east-1:012345678901:"


@pytest.mark.parametrize(
    ("identifier", "model"),
    [
        ("anthropic.claude-v2", "anthropic.claude-v2"),
        ("anthropic.claude-v2:1", "anthropic.claude-v2:1"),
        ("anthropic.claude-v2%3A1", "anthropic.claude-v2:1"),
        ("anthropic.claude-v2%3a1", "anthropic.claude-v2:1"),
        ("us.anthropic.claude-3-haiku-20240307-v1%3A0", "us.anthropic.claude-3-haiku-20240307-v1:0"),
        ("global.anthropic.claude-opus-5", "global.anthropic.claude-opus-5"),
        ("apac.amazon.nova-lite-v1:0", "apac.amazon.nova-lite-v1:0"),
        (f"{ARN}inference-profile%2Feu.amazon.nova-lite-v1:0", "eu.amazon.nova-lite-v1:0"),
        (f"{ARN}inference-profile/eu.amazon.nova-lite-v1:0", None),
        ("arn%3Aaws%3Abedrock%3Aus-east-1%3A%3Afoundation-model%2Famazon.titan-tg1-large", "amazon.titan-tg1-large"),
        ("arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model%2Fa.b:0", "a.b:0"),
        (f"{ARN}application-inference-profile%2Fabc123", f"{ARN}application-inference-profile/abc123"),
        (f"{ARN}provisioned-model%2Fabc123", f"{ARN}provisioned-model/abc123"),
        (f"{ARN}custom-model%2Famazon.nova-lite-v1:0%2Fabc", f"{ARN}custom-model/amazon.nova-lite-v1:0/abc"),
        (
            "arn:aws:sagemaker:us-east-1:012345678901:endpoint%2Fmine",
            "arn:aws:sagemaker:us-east-1:012345678901:endpoint/mine",
        ),
        ("a%2F..%2Fb", None),
        ("a%2F%2Fb", None),
        ("..", None),
        (".a", None),
        ("a%2e", None),
        ("a%20b", None),
        ("a%253A0", None),
        ("a%3A", None),
        (":a", None),
        ("a;b", None),
        ("", None),
    ],
)
def test_model_names(identifier: str, model: str | None) -> None:
    path = f"/model/{identifier}/converse"
    if model is None:
        assert endpoint(path) is None
    else:
        assert endpoint(path) == ("converse", "bedrock-converse")
        assert converse(model=identifier).model == model


# --- Converse ---


def test_what_a_converse_request_says() -> None:
    facts = converse(inferenceConfig={"maxTokens": 100, "temperature": 0.5}, serviceTier={"type": "flex"})
    assert facts.prompt.texts == ("Hi",)
    assert not facts.prompt.exact
    assert facts.max_output_tokens == 100
    assert facts.usage_requested
    assert facts.terms == {"service_tier": "flex"}
    assert not facts.streamed
    assert converse(verb="converse-stream").streamed
    assert converse().max_output_tokens is None


def test_every_part_of_a_converse_prompt() -> None:
    data = bytes(range(90))
    encoded = b64encode(data).decode()
    content = [
        {"text": "a"},
        {"image": {"format": "png", "source": {"bytes": encoded}}},
        {"image": {"format": "png", "source": {"s3Location": {"uri": "s3://b/k"}}}},
        {"document": {"name": "n", "context": "c", "format": "txt", "source": {"text": "plain"}}},
        {"document": {"name": "m", "format": "txt", "source": {"content": [{"text": "inner"}]}}},
        {"document": {"name": "o", "format": "pdf", "source": {"bytes": encoded}}},
        {"toolUse": {"toolUseId": "t", "name": "look", "input": {"at": "é"}}},
        {"toolResult": {"toolUseId": "t", "content": [{"json": {"k": 1}}, {"text": "found"}]}},
        {"guardContent": {"text": {"text": "guarded", "qualifiers": ["query"]}}},
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": encoded}}},
        {"citationsContent": {"content": [{"text": "cited"}], "citations": []}},
        {"cachePoint": {"type": "default"}},
    ]
    facts = converse(system=[{"text": "s"}], messages=[{"role": "user", "content": content}])
    assert facts.prompt.texts == (
        *("s", "a", "n", "c", "plain", "m", "inner", "o"),
        *("look", '{"at":"é"}', '{"k":1}', "found", "guarded", "hm", "cited"),
    )
    assert facts.prompt.images == (Image(data), Image(b""))
    assert facts.prompt.unread_bytes == 2 * 90
    assert facts.cache_write is CacheWrite.SHORT


def test_tools_and_schemas_are_shown_to_the_model() -> None:
    tool = {"toolSpec": {"name": "look", "description": "Looks.", "inputSchema": {"json": {"type": "object"}}}}
    schema = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": "{}", "name": "x"}}}}
    facts = converse(toolConfig={"tools": [tool]}, outputConfig=schema, additionalModelRequestFields={"top_k": 5})
    assert facts.prompt.texts[1:4] == ("look", "Looks.", '{"json":{"type":"object"}}')
    assert '{"top_k":5}' in facts.prompt.texts
    assert any('"schema":"{}"' in text for text in facts.prompt.texts)
    assert facts.prompt.overhead_tokens == 4 + 3 + 500 + 25 + 100


@pytest.mark.parametrize(
    ("model", "overhead"),
    [(CLAUDE, 532), ("us.amazon.nova-2-lite-v1:0", 885), ("amazon.nova-lite-v1:0", 376), ("mistral.pixtral", 92)],
)
def test_what_stands_around_a_prompt_depends_on_the_model(model: str, overhead: int) -> None:
    tool = {"toolSpec": {"name": "look", "inputSchema": {"json": {}}}}
    assert converse(model=model, toolConfig={"tools": [tool]}).prompt.overhead_tokens == overhead


def test_a_model_behind_a_profile_is_given_the_most_that_any_is() -> None:
    profile = f"{ARN}application-inference-profile%2Fnova-or-so"
    assert converse(model=profile).prompt == converse(model="us.amazon.nova-2-lite-v1:0").prompt


def test_input_that_the_request_does_not_show_is_allowed_for() -> None:
    remote = {"document": {"name": "n", "format": "pdf", "source": {"s3Location": {"uri": "s3://b/k"}}}}
    video = {"video": {"format": "mp4", "source": {"s3Location": {"uri": "s3://b/k"}}}}
    for part in (remote, video):
        facts = converse(messages=[{"role": "user", "content": [part]}])
        assert facts.prompt.unread_bytes == 65_536
    assert converse(messages=None, promptVariables={"a": {"text": "b"}}).prompt.unread_bytes == 65_536
    assert converse(toolConfig={"tools": [{"systemTool": {"name": "nova_grounding"}}]}).prompt.unread_bytes == 8_192


def test_citing_takes_instructions() -> None:
    document = {"name": "n", "format": "txt", "source": {"text": "plain"}}
    plain = converse(messages=[{"role": "user", "content": [{"document": document}]}])
    cited = {**document, "citations": {"enabled": True}}
    assert (
        converse(messages=[{"role": "user", "content": [{"document": cited}]}]).prompt.overhead_tokens
        == plain.prompt.overhead_tokens + 850
    )


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, CacheWrite.NONE),
        ({"system": [{"text": "s"}, {"cachePoint": {"type": "default"}}]}, CacheWrite.SHORT),
        ({"system": [{"cachePoint": {"type": "default", "ttl": "1h"}}]}, CacheWrite.LONG),
        ({"toolConfig": {"tools": [{"cachePoint": {"type": "default", "ttl": "5m"}}]}}, CacheWrite.SHORT),
    ],
)
def test_cache_writes(members: dict[str, Any], expected: CacheWrite) -> None:
    assert converse(**members).cache_write is expected


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"messages": "Hi"}, "messages: expected an array of objects"),
        ({"inferenceConfig": []}, "inferenceConfig: expected an object"),
        ({"inferenceConfig": {"maxTokens": "9"}}, "inferenceConfig.maxTokens: expected an integer"),
        ({"inferenceConfig": {"maxTokens": 0}}, "inferenceConfig.maxTokens: expected an integer from 1"),
        ({"inferenceConfig": {"maxTokens": 10**12}}, "inferenceConfig.maxTokens: expected an integer from 1"),
        ({"toolConfig": 5}, "toolConfig: expected an object"),
        ({"serviceTier": "flex"}, "serviceTier: expected an object"),
    ],
)
def test_converse_requests_that_are_refused(members: dict[str, Any], message: str) -> None:
    with pytest.raises(BodyUnreadable, match=message):
        converse(**members)


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":[],"inferenceConfig":{"maxTokens":1,"maxTokens":9}}',
        b'{"messages":[],"inferenceConfig":{"maxTokens":1},"inferenceConfig":{"maxTokens":9}}',
        b'{"messages":[],"messages":[{"role":"user","content":[]}]}',
    ],
)
def test_a_request_that_contradicts_itself_is_refused(body: bytes) -> None:
    with pytest.raises(BodyUnreadable, match="given twice"):
        BEDROCK_CONVERSE.read_request(RawRequest(body, path="/model/m/converse"), vendor=AWS)
    with pytest.raises(BodyUnreadable, match="given twice"):
        invoke(body)


def test_a_maximum_is_set_in_a_converse_request() -> None:
    edits = RequestEdits(max_output_tokens=7, strip_fields=("requestMetadata.project",))
    body = b'{ "messages" :[] , "requestMetadata":{"project":"p", "a":"b"},"inferenceConfig": {"temperature": 0.10} }'
    edited = BEDROCK_CONVERSE.edit_request(body, edits, vendor=AWS)
    assert edited == (
        b'{ "messages" :[] , "requestMetadata":{ "a":"b"},"inferenceConfig": {"maxTokens":7,"temperature": 0.10} }'
    )
    assert b'"inferenceConfig":{"maxTokens":7}' in BEDROCK_CONVERSE.edit_request(
        b"{}", RequestEdits(max_output_tokens=7), vendor=AWS
    )
    assert BEDROCK_CONVERSE.edit_request(body, RequestEdits(), vendor=AWS) is body


# --- InvokeModel ---


@pytest.mark.parametrize(
    ("model", "body", "texts", "maximum"),
    [
        (
            CLAUDE,
            {
                "anthropic_version": "bedrock-2023-05-31",
                "max_tokens": 9,
                "messages": [{"role": "user", "content": "Hi"}],
            },
            ("Hi",),
            9,
        ),
        ("anthropic.claude-v2", {"prompt": "\n\nHuman: Hi", "max_tokens_to_sample": 9}, ("\n\nHuman: Hi",), 9),
        ("amazon.titan-text-lite-v1", {"inputText": "Hi", "textGenerationConfig": {"maxTokenCount": 9}}, ("Hi",), 9),
        ("amazon.titan-text-lite-v1", {"inputText": "Hi"}, ("Hi",), None),
        ("amazon.nova-lite-v1:0", {"messages": HELLO, "inferenceConfig": {"maxTokens": 9}}, ("Hi",), 9),
        ("amazon.nova-lite-v1:0", {"messages": HELLO, "inferenceConfig": {"max_new_tokens": 9}}, ("Hi",), 9),
        ("meta.llama3-8b-instruct-v1:0", {"prompt": "Hi", "max_gen_len": 9}, ("Hi",), 9),
        ("mistral.mistral-small-2402-v1:0", {"prompt": "Hi", "max_tokens": 9, "stop": ["x"]}, ("Hi",), 9),
        ("mistral.pixtral-large-2502-v1:0", {"messages": [{"role": "user", "content": "Hi"}]}, ("user", "Hi"), None),
        (
            "cohere.command-r-v1:0",
            {"message": "Hi", "chat_history": [{"message": "Yo"}], "max_tokens": 9},
            ("Hi", "Yo"),
            9,
        ),
        ("ai21.j2-ultra-v1", {"prompt": "Hi", "maxTokens": 9}, ("Hi",), 9),
        (
            "ai21.jamba-1-5-mini-v1:0",
            {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9},
            ("user", "Hi"),
            9,
        ),
        ("amazon.titan-embed-text-v2:0", {"inputText": "Hi", "dimensions": 256}, ("Hi",), 0),
        ("cohere.embed-english-v3", {"texts": ["Hi", "Yo"], "input_type": "search_query"}, ("Hi", "Yo"), 0),
        (
            "amazon.nova-2-multimodal-embeddings-v1:0",
            {
                "taskType": "SINGLE_EMBEDDING",
                "singleEmbeddingParams": {"text": {"value": "Hi", "truncationMode": "END"}},
            },
            ("Hi",),
            0,
        ),
    ],
)
def test_bodies_of_every_maker(model: str, body: Any, texts: tuple[str, ...], maximum: int | None) -> None:
    for verb, streamed in (("invoke", False), ("invoke-with-response-stream", True)):
        facts = invoke(body, model=model, verb=verb)
        assert facts.model == model
        assert facts.streamed is streamed
        assert facts.prompt.texts == texts
        assert facts.max_output_tokens == maximum
        assert facts.choices == 1


def test_several_replies_to_one_prompt() -> None:
    assert invoke({"messages": [{"role": "user", "content": "Hi"}], "n": 3}).choices == 3
    facts = invoke({"prompt": "Hi", "num_generations": 3, "max_tokens": 9})
    assert facts.choices == 3
    assert facts.prompt.texts == ("Hi", "Hi", "Hi")


@pytest.mark.parametrize(
    ("body", "maximum"),
    [
        ({"prompt": "Hi", "max_gen_len": 5, "max_tokens": 500}, 500),
        ({"prompt": "Hi", "max_tokens": 5, "textGenerationConfig": {"maxTokenCount": 500}}, 500),
        ({"messages": HELLO, "inferenceConfig": {"maxTokens": 500, "max_new_tokens": 5}}, 500),
    ],
)
def test_the_largest_maximum_counts(body: Any, maximum: int) -> None:
    assert invoke(body).max_output_tokens == maximum


@pytest.mark.parametrize(
    "body", [{"weird": "Hi there"}, {"prompt": "a", "inputs": "b"}, {"message": "a", "prompt": "b"}]
)
def test_a_body_of_no_known_form_is_counted_whole(body: Any) -> None:
    assert invoke(body).prompt.texts == (msgspec.json.encode(body).decode(),)


def test_a_name_of_the_operator_s_does_not_make_a_reply_free() -> None:
    facts = invoke({"prompt": "Hi"}, model="arn:aws:sagemaker:us-east-1:012345678901:endpoint%2Fembed")
    assert facts.max_output_tokens is None


def test_images_in_bodies() -> None:
    data = bytes(range(90))
    encoded = b64encode(data).decode()
    assert invoke({"prompt": "Hi", "images": [encoded, encoded]}).prompt.images == (Image(data), Image(data))
    assert invoke({"inputText": "Hi", "inputImage": encoded}).prompt.images == (Image(data),)
    assert invoke({"prompt": "Hi", "images": f"data:image/png;base64,{encoded}"}).prompt.images == (Image(data),)
    media = {"image": {"format": "png", "source": {"bytes": encoded}}}
    assert invoke({"singleEmbeddingParams": media}).prompt.unread_bytes == 90
    remote = {"video": {"source": {"s3Location": {"uri": "s3://b/k"}}}}
    assert invoke({"singleEmbeddingParams": remote}).prompt.unread_bytes == 65_536


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "JSON object"),
        ({"prompt": "Hi", "max_tokens": -1}, "max_tokens: expected an integer from 0"),
        ({"prompt": "Hi", "max_gen_len": "9"}, "max_gen_len: expected an integer"),
        ({"inputText": "Hi", "textGenerationConfig": {"maxTokenCount": 1.5}}, "textGenerationConfig.maxTokenCount"),
        ({"prompt": "Hi", "num_generations": 10**9}, "num_generations: expected an integer"),
        ({"prompt": "Hi", "n": 0}, "n: expected an integer"),
        ({"messages": "Hi"}, "messages: expected an array"),
        ({"anthropic_version": "v", "messages": None}, "messages: expected an array"),
        (b'{"prompt":"a","max_tokens":1,"max_tokens":9}', "given twice"),
        (b'{"inputText":"a","textGenerationConfig":{"maxTokenCount":1,"maxTokenCount":9}}', "given twice"),
        (b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_invoke_requests_that_are_refused(body: Any, message: str) -> None:
    with pytest.raises(BodyUnreadable, match=message):
        invoke(body)


@pytest.mark.parametrize(
    ("body", "edited"),
    [
        (
            b'{"anthropic_version":"v","messages":[],"max_tokens":90}',
            b'{"anthropic_version":"v","messages":[],"max_tokens":7}',
        ),
        (b'{"prompt":"a","max_gen_len":90}', b'{"prompt":"a","max_gen_len":7}'),
        (b'{"prompt":"a","max_gen_len":90,"max_tokens":8}', b'{"prompt":"a","max_gen_len":7,"max_tokens":7}'),
        (b'{"inputText":"a"}', b'{"textGenerationConfig":{"maxTokenCount":7},"inputText":"a"}'),
        (
            b'{"inputText":"a","textGenerationConfig":{"topP":1}}',
            b'{"inputText":"a","textGenerationConfig":{"maxTokenCount":7,"topP":1}}',
        ),
        (
            b'{"messages":[{"content":[{"text":"a"}]}]}',
            b'{"inferenceConfig":{"maxTokens":7},"messages":[{"content":[{"text":"a"}]}]}',
        ),
        (b'{"messages":[{"content":"a"}]}', b'{"max_tokens":7,"messages":[{"content":"a"}]}'),
        (b'{"prompt":"a"}', b'{"max_tokens":7,"prompt":"a"}'),
    ],
)
def test_a_maximum_is_set_where_the_maker_has_it(body: bytes, edited: bytes) -> None:
    assert BEDROCK_INVOKE.edit_request(body, RequestEdits(max_output_tokens=7), vendor=AWS) == edited


def test_llama_has_a_maximum_of_its_own() -> None:
    for model in ("meta.llama3-8b-instruct-v1%3A0", f"{ARN}inference-profile%2Fus.meta.llama4-maverick:0"):
        found = resolve(provider=None, host=HOST, method="POST", path=f"/model/{model}/invoke")
        assert isinstance(found, Endpoint)
        assert found.wire is BEDROCK_INVOKE_LLAMA
    edited = BEDROCK_INVOKE_LLAMA.edit_request(b'{"prompt":"a"}', RequestEdits(max_output_tokens=7), vendor=AWS)
    assert edited == b'{"max_gen_len":7,"prompt":"a"}'


# --- anything else ---

BODIES = (
    {"messages": HELLO, "system": [{"text": "s"}], "inferenceConfig": {"maxTokens": 9}, "toolConfig": {"tools": []}},
    {"anthropic_version": "v", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9},
    {"inputText": "Hi", "textGenerationConfig": {"maxTokenCount": 9}},
    {"message": "Hi", "chat_history": [{"role": "USER", "message": "Yo"}], "max_tokens": 9},
    {"texts": ["Hi"], "images": ["data:image/png;base64,AAAA"]},
    {"singleEmbeddingParams": {"text": {"value": "Hi"}, "image": {"source": {"bytes": "AAAA"}}}},
)


@UNHURRIED
@given(st.data())
def test_any_json_is_read_or_refused(data: st.DataObject) -> None:
    value = data.draw(st.one_of(JSON, st.sampled_from(BODIES).map(lambda body: with_other_values(data, body))))
    body = msgspec.json.encode(value)
    for wire, verb in ((BEDROCK_CONVERSE, "converse"), (BEDROCK_INVOKE, "invoke")):
        try:
            facts = wire.read_request(RawRequest(body, path=f"/model/m/{verb}"), vendor=AWS, identity_fields=("a.b",))
        except BodyUnreadable:
            continue
        edited = wire.edit_request(body, RequestEdits(max_output_tokens=3), vendor=AWS)
        assert wire.read_request(RawRequest(edited, path=f"/model/m/{verb}"), vendor=AWS).max_output_tokens == 3
        assert facts.model == "m"


def test_a_ranking_is_held_by_its_documents() -> None:
    body = json.dumps({"query": "q", "documents": ["a"] * 150, "api_version": 2}).encode()
    request = RawRequest(body, path="/model/cohere.rerank-v3-5%3A0/invoke")
    facts = BEDROCK_INVOKE.read_request(request, vendor=AWS)
    assert facts.pieces == facts.pieces_max == Usage(search_units=2)
