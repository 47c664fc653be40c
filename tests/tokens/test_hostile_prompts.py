"""Hostile prompts, from a request's body to its count: bounded cost, always a count, for every family of models."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import Prompt, RawRequest, WireFormat
from policyd.providers.registry import ANTHROPIC_MESSAGES, GEMINI_GENERATE, OPENAI_CHAT, OPENAI_RESPONSES
from policyd.providers.vendors import vendor_named
from policyd.tokens import TokenCounter
from tests.tokens.test_token_vocabulary import HOSTILE

COUNTER = TokenCounter()

CHARACTERS = 200_000
SECONDS_MAX = 10.0
"""Far above what it takes (well under one), and far below what anything takes that grows faster than its input."""


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "gpt-4o"), ("openai", "gpt-4"), ("google", "gemini-2.5-flash"), ("anthropic", "claude-sonnet-4-5")],
)
def test_hostile_text_is_counted_in_bounded_time(hostile: Callable[[int], str], provider: str, model: str) -> None:
    prompt = Prompt((hostile(CHARACTERS),))
    started = time.process_time()
    count = COUNTER.count_prompt(prompt, provider=provider, model=model)
    assert time.process_time() - started < SECONDS_MAX
    bound = COUNTER.bound_prompt(prompt, provider=provider, model=model)
    assert 0 < count.tokens <= count.upper_bound <= bound.upper_bound


DEEP = 900
SCHEMAS = {
    "nested objects": b'{"type":"object","properties":{"a":' * DEEP + b"{}" + b"}}" * DEEP,
    "nested arrays": b'{"type":"array","items":' * DEEP + b"{}" + b"}" * DEEP,
    "nested choices": b'{"anyOf":[' * DEEP + b"{}" + b"]}" * DEEP,
    "many kinds": b'{"type":[' + b",".join([b'"object"'] * 50_000) + b'],"properties":{"a":{}}}',
    "many properties": b'{"type":"object","properties":{' + b",".join(b'"p%d":{}' % at for at in range(20_000)) + b"}}",
    "many values": b'{"enum":[' + b",".join(b"%d" % at for at in range(50_000)) + b"]}",
    "huge numbers": b'{"default":' + b"9" * 4000 + b',"enum":[1e999,-1e999,' + b"1" * 4000 + b"]}",
    "small numbers": b'{"default":1e-999999999}',
}

TOOLS: dict[str, tuple[WireFormat, str, bytes]] = {
    "openai": (
        OPENAI_CHAT,
        "/v1/chat/completions",
        (
            b'{"model":"gpt-4o","messages":[],"tools":[{"type":"function","function":{"name":"f","parameters":%b}}],'
            b'"response_format":{"type":"json_schema","json_schema":{"name":"f","schema":%b}}}'
        ),
    ),
    "openai responses": (
        OPENAI_RESPONSES,
        "/v1/responses",
        (
            b'{"model":"gpt-4o","input":"a","tools":[{"type":"function","name":"f","parameters":%b}],'
            b'"text":{"format":{"type":"json_schema","name":"f","schema":%b}}}'
        ),
    ),
    "anthropic": (
        ANTHROPIC_MESSAGES,
        "/v1/messages",
        (
            b'{"model":"claude-sonnet-4-5","max_tokens":9,"messages":[],"tools":[{"name":"f","input_schema":%b},'
            b'{"name":"g","input_schema":%b}]}'
        ),
    ),
    "google": (
        GEMINI_GENERATE,
        "/v1beta/models/gemini-2.5-flash:generateContent",
        b'{"contents":[],"tools":[{"functionDeclarations":[{"name":"f","parameters":%b},{"name":"g","parameters":%b}]}]}',
    ),
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
@pytest.mark.parametrize("provider", TOOLS)
def test_hostile_schemas_are_counted_or_refused_in_bounded_time(provider: str, schema: bytes) -> None:
    wire, path, body = TOOLS[provider]
    provider = provider.partition(" ")[0]
    started = time.process_time()
    try:
        facts = wire.read_request(RawRequest(body % (schema, schema), path=path), vendor=vendor_named(provider))
    except BodyUnreadable:
        facts = None
    if facts is not None:
        count = COUNTER.count_prompt(facts.prompt, provider=provider, model=facts.model)
        assert 0 < count.tokens <= count.upper_bound
        assert not count.exact
    assert time.process_time() - started < SECONDS_MAX
