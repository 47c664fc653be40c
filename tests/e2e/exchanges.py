"""Exchanges with providers, made up after the shapes of recorded ones, in the form of recordings.

Each shows one way in which a provider reports usage, or does not. The bodies are spaced as each provider spaces them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tests.recordings import Recording

CHAT = "/v1/chat/completions"
JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"

QUESTION = [{"role": "user", "content": "Which birds stand on one leg? Antworte kurz, 日本語でも。"}]
WITH_USAGE = {"include_usage": True}


def _exchange(
    name: str,
    *,
    request: dict[str, Any],
    reply: str,
    usage: dict[str, Any] | None,
    vendor: str = "openai",
    path: str = CHAT,
    **others: Any,
) -> Recording:
    is_stream = "data:" in reply
    return {
        "id": name.replace(" ", "-"),
        "vendor": vendor,
        "wire": "anthropic-messages" if vendor == "anthropic" else "openai-chat",
        "path": path,
        "query": "",
        "request_body": msgspec.json.encode({"messages": QUESTION, **request}).decode(),
        "status": 200,
        "response_headers": {"Content-Type": SSE if is_stream else JSON},
        "response_body": reply,
        "framing": "sse" if is_stream else "json",
        "expected_usage": usage,
        "shape_notes": [],
        **others,
    }


def _openai_usage(model: str, input_tokens: int, output_tokens: int, **others: int) -> dict[str, Any]:
    return {"model": model, "input_tokens": input_tokens, "output_tokens": output_tokens, **others}


def _chunk(model: str, delta: str, *, finish: str = "null", more: str = "") -> str:
    choices = f'[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]'
    return f'data: {{"object":"chat.completion.chunk","model":"{model}","choices":{choices}{more}}}\n\n'


def _text(model: str, *pieces: str, more: str = "") -> str:
    return "".join(_chunk(model, f'{{"content":"{piece}"}}', more=more) for piece in pieces)


def _anthropic_event(kind: str, members: str) -> str:
    return f'event: {kind}\ndata: {{"type":"{kind}",{members}}}\n\n'


_USAGE_CHUNK = (
    'data: {"object":"chat.completion.chunk","model":"gpt-4o-mini-2024-07-18","choices":[],'
    '"usage":{"prompt_tokens":31,"completion_tokens":9,"total_tokens":40}}\n\n'
)
_DONE = "data: [DONE]\n\n"
_BIRDS = ("Störche", ", Flamingos", " und", " 鶴", " 🦩", ".")

_OPENAI_STREAM = (
    _chunk("gpt-4o-mini-2024-07-18", '{"role":"assistant","content":""}')
    + _text("gpt-4o-mini-2024-07-18", *_BIRDS)
    + _chunk("gpt-4o-mini-2024-07-18", "{}", finish='"stop"')
)

_ANTHROPIC_USAGE = {
    "input_tokens": 100,
    "cache_read_input_tokens": 2000,
    "cache_creation_input_tokens": 700,
    "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 200},
    "output_tokens": 40,
    "service_tier": "standard",
}
_ANTHROPIC_START = {"input_tokens": 25, "output_tokens": 1}
_ANTHROPIC_DELTA = {"input_tokens": 410, "cache_read_input_tokens": 0, "output_tokens": 33}

EXCHANGES: tuple[Recording, ...] = (
    _exchange(
        "openai document",
        request={"model": "gpt-4o-mini", "max_tokens": 200, "user": "somebody"},
        reply="""{
  "id": "chatcmpl-1",
  "object": "chat.completion",
  "model": "gpt-4o-mini-2024-07-18",
  "choices": [
    {
      "index": 0,
      "message": {"role": "assistant", "content": "Störche, Flamingos und 鶴 🦩.", "refusal": null},
      "finish_reason": "stop"
    }
  ],
  "usage": {
    "prompt_tokens": 1000,
    "completion_tokens": 100,
    "total_tokens": 1100,
    "prompt_tokens_details": {"cached_tokens": 400, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 60, "audio_tokens": 0}
  },
  "service_tier": "default"
}
""",
        usage=_openai_usage("gpt-4o-mini-2024-07-18", 1000, 100, cached_input_tokens=400, reasoning_tokens=60),
    ),
    _exchange(
        "openai stream that is asked for usage",
        request={"model": "gpt-4o-mini", "stream": True, "stream_options": WITH_USAGE},
        reply=_OPENAI_STREAM + _USAGE_CHUNK + _DONE,
        usage=_openai_usage("gpt-4o-mini-2024-07-18", 31, 9, total_tokens=40),
    ),
    _exchange(
        "openai stream that policyd asks for usage",
        request={"model": "gpt-4o-mini", "stream": True},
        reply=_OPENAI_STREAM + _USAGE_CHUNK + _DONE,
        usage=_openai_usage("gpt-4o-mini-2024-07-18", 31, 9, total_tokens=40),
    ),
    _exchange(
        "openai stream that has no usage all the same",
        request={"model": "gpt-4o-mini", "stream": True, "stream_options": {"include_usage": False}},
        reply=_OPENAI_STREAM + _DONE,
        usage=None,
    ),
    _exchange(
        "stream labelled as json",
        request={"model": "gpt-4o-mini", "stream": True, "stream_options": WITH_USAGE},
        response_headers={"Content-Type": JSON},
        reply=_OPENAI_STREAM + _USAGE_CHUNK + _DONE,
        usage=_openai_usage("gpt-4o-mini-2024-07-18", 31, 9, total_tokens=40),
    ),
    _exchange(
        "groq stream with usage in a member of its own",
        vendor="groq",
        path="/openai/v1/chat/completions",
        request={"model": "llama-3.3-70b-versatile", "stream": True, "stream_options": WITH_USAGE},
        reply=_text("llama-3.3-70b-versatile", *_BIRDS)
        + _chunk(
            "llama-3.3-70b-versatile",
            "{}",
            finish='"stop"',
            more=',"x_groq":{"id":"req_1","usage":{"prompt_tokens":52,"completion_tokens":8,"total_tokens":60}}',
        )
        + _DONE,
        usage=_openai_usage("llama-3.3-70b-versatile", 52, 8, total_tokens=60),
    ),
    _exchange(
        "mistral stream with usage in its last chunk unasked",
        vendor="mistral",
        request={"model": "mistral-small-latest", "stream": True},
        reply=_text("mistral-small-2506", *_BIRDS)
        + _chunk(
            "mistral-small-2506",
            '{"content":""}',
            finish='"stop"',
            more=',"usage":{"prompt_tokens":28,"completion_tokens":11,"total_tokens":39}',
        )
        + _DONE,
        usage=_openai_usage("mistral-small-2506", 28, 11, total_tokens=39),
    ),
    _exchange(
        "openrouter stream with comments",
        vendor="openrouter",
        path="/api/v1/chat/completions",
        request={"model": "openai/gpt-4o-mini", "stream": True},
        reply=": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n"
        + _text("openai/gpt-4o-mini", *_BIRDS)
        + _chunk(
            "openai/gpt-4o-mini",
            '{"content":""}',
            more=',"usage":{"prompt_tokens":30,"completion_tokens":12,"total_tokens":42,"cost":0.0000117}',
        ).replace('"finish_reason":null', '"finish_reason":"stop"')
        + _DONE,
        usage=_openai_usage("openai/gpt-4o-mini", 30, 12, total_tokens=42),
    ),
    _exchange(
        "perplexity stream of running totals with CRLF and no last line end",
        vendor="perplexity",
        path="/chat/completions",
        request={"model": "sonar", "stream": True, "max_tokens": 50},
        reply="".join(
            _chunk(
                "sonar",
                f'{{"content":"{bird}"}}',
                finish='"stop"' if bird == _BIRDS[-1] else "null",
                more=f',"usage":{{"prompt_tokens":7,"completion_tokens":{number},"total_tokens":{7 + number}}}',
            )
            for number, bird in enumerate(_BIRDS, start=1)
        )
        .replace("\n", "\r\n")
        .removesuffix("\r\n\r\n"),
        usage=_openai_usage("sonar", 7, 6, total_tokens=13),
    ),
    _exchange(
        "deepseek document",
        vendor="deepseek",
        path="/chat/completions",
        request={"model": "deepseek-chat"},
        reply='{"model":"deepseek-chat","choices":[{"index":0,"message":{"role":"assistant","content":"Störche."},'
        '"finish_reason":"stop"}],"usage":{"prompt_tokens":320,"completion_tokens":4,"total_tokens":324,'
        '"prompt_cache_hit_tokens":256,"prompt_cache_miss_tokens":64}}',
        usage=_openai_usage("deepseek-chat", 320, 4, cached_input_tokens=256),
    ),
    _exchange(
        "xai document with reasoning beside its output",
        vendor="xai",
        request={"model": "grok-3-mini", "max_completion_tokens": 400},
        reply='{"model":"grok-3-mini","choices":[{"index":0,"message":{"role":"assistant","content":"Störche.",'
        '"reasoning_content":"Birds, then."},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,'
        '"completion_tokens":2,"total_tokens":334,"completion_tokens_details":{"reasoning_tokens":320}}}',
        usage=_openai_usage("grok-3-mini", 12, 2, reasoning_tokens=320, total_tokens=334),
    ),
    _exchange(
        "vendor of the operator without usage",
        vendor="our-own-models",
        request={"model": "birds-1"},
        reply='{"choices":[{"index":0,"message":{"role":"assistant","content":"Störche, Flamingos und 鶴."}}]}',
        usage=None,
    ),
    _exchange(
        "document that says nothing",
        vendor="our-own-models",
        request={"model": "birds-1", "max_tokens": 30},
        reply='{"status":"done"}',
        usage=None,
    ),
    _exchange("empty reply", request={"model": "gpt-4o-mini"}, reply="", usage=None),
    _exchange(
        "refused by a filter under status 200",
        vendor="azure",
        path="/openai/v1/chat/completions",
        request={"model": "gpt-4o-mini"},
        reply='{ "error": { "message": "It was filtered.", "param": "prompt", "code": "content_filter" } }',
        usage=None,
    ),
    _exchange(
        "openai error",
        request={"model": "gpt-4o-mini", "temperature": 100},
        reply='{\n  "error": {\n    "message": "Too warm.",\n    "type": "invalid_request_error"\n  }\n}',
        status=400,
        usage=None,
    ),
    _exchange(
        "anthropic document with caches",
        vendor="anthropic",
        path="/v1/messages",
        request={"model": "claude-sonnet-4-5", "max_tokens": 100},
        reply='{"model":"claude-sonnet-4-5-20250929","id":"msg_1","type":"message","role":"assistant",'
        '"content":[{"type":"text","text":"Störche, Flamingos und 鶴."}],"stop_reason":"end_turn",'
        f'"usage":{msgspec.json.encode(_ANTHROPIC_USAGE).decode()}}}',
        usage={
            "model": "claude-sonnet-4-5-20250929",
            "input_tokens": 100,
            "output_tokens": 40,
            "cached_input_tokens": 2000,
            "cache_write_tokens": 700,
            "cache_write_5m": 500,
            "cache_write_1h": 200,
        },
        usage_raw=_ANTHROPIC_USAGE,
    ),
    _exchange(
        "anthropic stream whose last event overrides its first",
        vendor="anthropic",
        path="/v1/messages",
        request={"model": "claude-haiku-4-5", "max_tokens": 100, "stream": True},
        reply=_anthropic_event(
            "message_start",
            '"message":{"type":"message","model":"claude-haiku-4-5-20251001","content":[],'
            f'"usage":{msgspec.json.encode(_ANTHROPIC_START).decode()}}}',
        )
        + _anthropic_event("content_block_start", '"index":0,"content_block":{"type":"text","text":""}')
        + _anthropic_event("ping", '"comment":"nothing yet"')
        + "".join(
            _anthropic_event("content_block_delta", f'"index":0,"delta":{{"type":"text_delta","text":"{bird}"}}')
            for bird in _BIRDS
        )
        + _anthropic_event("content_block_stop", '"index":0')
        + _anthropic_event(
            "message_delta",
            f'"delta":{{"stop_reason":"end_turn"}},"usage":{msgspec.json.encode(_ANTHROPIC_DELTA).decode()}',
        )
        + 'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        usage={"model": "claude-haiku-4-5-20251001", "input_tokens": 410, "output_tokens": 33},
        usage_raw={"message_start": _ANTHROPIC_START, "message_delta": _ANTHROPIC_DELTA},
    ),
    _exchange(
        "anthropic error in answer to a request for a stream",
        vendor="anthropic",
        path="/v1/messages",
        request={"model": "claude-haiku-4-5", "max_tokens": 100, "stream": True},
        reply='{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}',
        status=529,
        usage=None,
    ),
)

COSTS_NANOS = {
    # 600 x 0.15 + 400 x 0.075 + 100 x 0.60 USD a million
    "openai-document": 180_000,
    # 31 x 0.15 + 9 x 0.60
    "openai-stream-that-policyd-asks-for-usage": 10_050,
    # 100 x 3 + 2000 x 0.30 + 500 x 3.75 + 200 x 6 + 40 x 15
    "anthropic-document-with-caches": 4_575_000,
    # 410 x 1 + 33 x 5
    "anthropic-stream-whose-last-event-overrides-its-first": 575_000,
    "anthropic-error-in-answer-to-a-request-for-a-stream": 0,
}
"""What some of them cost by the providers' published prices, worked out by hand."""
