"""Exchanges of our own, after the shapes of recorded ones and in their form: one or more for each wire format.

Where the recordings are not at hand, these stand in for them.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec

from policyd.providers.framing.event_stream import encode_message
from tests.e2e.exchanges import EXCHANGES
from tests.recordings import Recording

ASKED = "How many herons are in the reeds?"
ASKED_TOKENS = 9
OLDER_ASKED_TOKENS = 10
"""The same by the vocabulary of OpenAI's older models and its embeddings."""

INVENTED_INPUT = ("openai-document", "anthropic-document-with-caches")
"""Exchanges that report more input than their prompts have: no hold could cover them."""

_FORM: Recording = {
    "method": "POST",
    "host": "",
    "query": "",
    "request_headers": {},
    "request_body_encoding": "utf8",
    "request_model": None,
    "response_headers": {},
    "response_body_encoding": "utf8",
    "framing": "json",
    "status": 200,
    "streamed": False,
    "expected_usage": None,
    "usage_raw": None,
    "notes": [],
    "count_check": None,
}
"""What a recording has where nothing is said of it."""


def _own(wire: str, vendor: str, path: str, *, request: Any, reply: Any, usage: dict[str, int], **others: Any) -> Any:
    """One exchange; `reply` is a document, or the text of a stream."""
    return {
        **_FORM,
        "id": f"own-{wire}-{others.get('framing', 'json')}",
        "wire": wire,
        "vendor": vendor,
        "path": path,
        "request_body": msgspec.json.encode(request).decode(),
        "response_body": reply if isinstance(reply, str) else msgspec.json.encode(reply).decode(),
        "expected_usage": usage,
        "usage_raw": reply.get("usageMetadata") if isinstance(reply, dict) else None,
        **others,
    }


def _counted(tokens: int, kind: str = "text-plain") -> dict[str, Any]:
    return {"class": kind, "encoding": "o200k_base", "flags": [], "provider_count": tokens}


def _sse(*events: dict[str, Any]) -> str:
    return "".join(f"event: {each['type']}\ndata: {msgspec.json.encode(each).decode()}\n\n" for each in events)


def _lines(*values: Any) -> str:
    return "".join(msgspec.json.encode(value).decode() + "\n" for value in values)


def _aws(*events: tuple[str, Any]) -> str:
    messages = (
        encode_message(
            {":event-type": name, ":message-type": "event", ":content-type": "application/json"},
            msgspec.json.encode(value),
        )
        for name, value in events
    )
    return b64encode(b"".join(messages)).decode()


_SPOKEN = {
    "input_tokens": 30,
    "output_tokens": 24,
    "total_tokens": 54,
    "input_token_details": {"text_tokens": 18, "audio_tokens": 12, "cached_tokens": 8},
    "output_token_details": {"text_tokens": 4, "audio_tokens": 20},
}
_CLAUDE = {"input_tokens": 17, "output_tokens": 5}
_GEMINI = {
    "promptTokenCount": 9,
    "candidatesTokenCount": 3,
    "thoughtsTokenCount": 20,
    "totalTokenCount": 32,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 9}],
}
_GEMINI_USAGE = {"input_tokens": 9, "output_tokens": 3, "reasoning_tokens": 20, "total_tokens": 32}
_GEMINI_ASKED = {
    "contents": [{"role": "user", "parts": [{"text": ASKED}]}],
    "generationConfig": {"maxOutputTokens": 50},
}
_CONVERSE_ASKED = {
    "messages": [{"role": "user", "content": [{"text": ASKED}]}],
    "inferenceConfig": {"maxTokens": 60},
}
_CHAT = [{"role": "user", "content": ASKED}]
_RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_770_000_000,
    "status": "completed",
    "model": "gpt-4o-2024-08-06",
    "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Two."}]}],
    "usage": {
        "input_tokens": ASKED_TOKENS + 7,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": ASKED_TOKENS + 10,
    },
}
_RESPONSE_USAGE = {"input_tokens": ASKED_TOKENS + 7, "output_tokens": 3, "total_tokens": ASKED_TOKENS + 10}

OWN: tuple[Recording, ...] = (
    *({**_FORM, **exchange} for exchange in EXCHANGES if exchange["id"] not in INVENTED_INPUT),
    _own(
        "openai-chat",
        "openai",
        "/v1/chat/completions",
        request={"model": "gpt-4o", "max_tokens": 20, "messages": _CHAT},
        reply={
            "object": "chat.completion",
            "model": "gpt-4o-2024-08-06",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Two."}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": ASKED_TOKENS + 7, "completion_tokens": 3, "total_tokens": ASKED_TOKENS + 10},
        },
        usage=_RESPONSE_USAGE,
        count_check=_counted(ASKED_TOKENS + 7),
    ),
    _own(
        "openai-chat",
        "xai",
        "/v1/chat/completions",
        host="api.x.ai",
        request={"model": "grok-3-mini", "max_tokens": 20, "messages": _CHAT},
        reply={
            "object": "chat.completion",
            "model": "grok-4.3",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Two."}, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": 190,
                "completion_tokens": 3,
                "total_tokens": 313,
                "completion_tokens_details": {"reasoning_tokens": 120},
            },
        },
        usage={"input_tokens": 190, "output_tokens": 3, "reasoning_tokens": 120, "total_tokens": 313},
        id="own-served-by-another-model-that-thinks-beside-its-maximum",
    ),
    _own(
        "openai-responses",
        "openai",
        "/v1/responses",
        host="api.openai.com",
        request={"model": "gpt-4o", "max_output_tokens": 20, "input": ASKED},
        reply=_RESPONSE,
        usage=_RESPONSE_USAGE,
        count_check=_counted(ASKED_TOKENS + 7),
    ),
    _own(
        "openai-responses",
        "openai",
        "/v1/responses",
        request={"model": "gpt-4o", "max_output_tokens": 20, "stream": True, "input": ASKED},
        reply=_sse(
            {"type": "response.created", "response": {**_RESPONSE, "status": "in_progress", "usage": None}},
            {"type": "response.output_text.delta", "delta": "Two."},
            {"type": "response.completed", "response": _RESPONSE},
        ),
        usage=_RESPONSE_USAGE,
        framing="sse",
        streamed=True,
    ),
    _own(
        "openai-completions",
        "openai",
        "/v1/completions",
        request={"model": "gpt-3.5-turbo-instruct", "max_tokens": 20, "prompt": [ASKED, ASKED], "best_of": 2},
        reply={
            "object": "text_completion",
            "model": "gpt-3.5-turbo-instruct",
            "choices": [{"text": "Two.", "index": 0}, {"text": "Three herons.", "index": 1}],
            "usage": {
                "prompt_tokens": 2 * OLDER_ASKED_TOKENS,
                "completion_tokens": 14,
                "total_tokens": 2 * OLDER_ASKED_TOKENS + 14,
            },
        },
        usage={
            "input_tokens": 2 * OLDER_ASKED_TOKENS,
            "output_tokens": 14,
            "total_tokens": 2 * OLDER_ASKED_TOKENS + 14,
        },
        count_check=_counted(2 * OLDER_ASKED_TOKENS, "raw-prompt"),
    ),
    _own(
        "openai-embeddings",
        "openai",
        "/v1/embeddings",
        request={"model": "text-embedding-3-small", "input": [ASKED]},
        reply={
            "object": "list",
            "model": "text-embedding-3-small",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
            "usage": {"prompt_tokens": OLDER_ASKED_TOKENS, "total_tokens": OLDER_ASKED_TOKENS},
        },
        usage={"input_tokens": OLDER_ASKED_TOKENS, "total_tokens": OLDER_ASKED_TOKENS},
        count_check=_counted(OLDER_ASKED_TOKENS, "embedding-text"),
    ),
    _own(
        "gemini-generateContent",
        "gemini",
        "/v1beta/models/gemini-2.5-flash:generateContent",
        host="generativelanguage.googleapis.com",
        request=_GEMINI_ASKED,
        reply={
            "candidates": [{"content": {"role": "model", "parts": [{"text": "Two."}]}, "finishReason": "STOP"}],
            "modelVersion": "gemini-2.5-flash",
            "usageMetadata": _GEMINI,
        },
        usage=_GEMINI_USAGE,
    ),
    _own(
        "gemini-streamGenerateContent",
        "vertex",
        "/v1/projects/<PROJECT>/locations/global/publishers/google/models/gemini-2.5-flash:streamGenerateContent",
        host="aiplatform.googleapis.com",
        request=_GEMINI_ASKED,
        reply=msgspec.json.encode(
            [
                {"candidates": [{"content": {"parts": [{"text": "Tw"}]}}], "modelVersion": "gemini-2.5-flash"},
                {"candidates": [{"content": {"parts": [{"text": "o."}]}}], "usageMetadata": _GEMINI},
            ]
        ).decode(),
        usage=_GEMINI_USAGE,
        usage_raw=_GEMINI,
        framing="json-array",
        streamed=True,
    ),
    _own(
        "bedrock-converse",
        "bedrock",
        "/model/us.anthropic.claude-sonnet-4-20250514-v1%3A0/converse",
        host="bedrock-runtime.<AWS_REGION>.amazonaws.com",
        request=_CONVERSE_ASKED,
        reply={
            "output": {"message": {"role": "assistant", "content": [{"text": "Two."}]}},
            "stopReason": "end_turn",
            "usage": {"inputTokens": 17, "outputTokens": 5, "totalTokens": 22, "cacheReadInputTokens": 0},
        },
        usage={**_CLAUDE, "total_tokens": 22, "cached_input_tokens": 0},
    ),
    _own(
        "bedrock-converse-stream",
        "bedrock",
        "/model/us.amazon.nova-lite-v1:0/converse-stream",
        host="bedrock-runtime.us-east-1.amazonaws.com",
        request=_CONVERSE_ASKED,
        reply=_aws(
            ("messageStart", {"role": "assistant"}),
            ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Two."}}),
            ("messageStop", {"stopReason": "end_turn"}),
            ("metadata", {"usage": {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}}),
        ),
        usage={"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
        response_body_encoding="base64",
        framing="eventstream",
        streamed=True,
    ),
    _own(
        "bedrock-invoke",
        "bedrock",
        "/model/anthropic.claude-3-haiku-20240307-v1:0/invoke",
        host="bedrock-runtime.us-east-1.amazonaws.com",
        request={"anthropic_version": "bedrock-2023-05-31", "max_tokens": 60, "messages": _CHAT},
        reply={
            "type": "message",
            "role": "assistant",
            "model": "claude-3-haiku-20240307",
            "content": [{"type": "text", "text": "Two."}],
            "usage": _CLAUDE,
        },
        usage=_CLAUDE,
    ),
    _own(
        "cohere-chat-v2",
        "cohere",
        "/v2/chat",
        host="api.cohere.com",
        request={"model": "command-r-08-2024", "max_tokens": 60, "messages": _CHAT},
        reply={
            "id": "c",
            "message": {"role": "assistant", "content": [{"type": "text", "text": "Two."}]},
            "usage": {
                "billed_units": {"input_tokens": 9, "output_tokens": 3},
                "tokens": {"input_tokens": 210, "output_tokens": 5},
            },
        },
        usage={"billed_input_tokens": 9, "billed_output_tokens": 3},
    ),
    _own(
        "ollama-chat",
        "ollama",
        "/api/chat",
        request={"model": "llama3.2", "messages": _CHAT, "options": {"num_predict": 60}},
        reply=_lines(
            {"model": "llama3.2", "message": {"role": "assistant", "content": "Two."}, "done": False},
            {"model": "llama3.2", "done": True, "prompt_eval_count": 34, "eval_count": 3},
        ),
        usage={"input_tokens": 34, "output_tokens": 3},
        framing="ndjson",
        streamed=True,
    ),
    _own(
        "openai-realtime",
        "openai",
        "(websocket)",
        request={"type": "response.create"},
        reply=_lines(
            {"type": "response.created", "response": {"id": "r"}},
            {"type": "response.output_audio_transcript.delta", "delta": "Two."},
            {"type": "response.done", "response": {"id": "r", "status": "completed", "usage": _SPOKEN}},
        ),
        usage={"input_tokens": 30, "output_tokens": 24, "cached_input_tokens": 8, "total_tokens": 54},
        framing="websocket-messages-one-per-line",
    ),
    _own(
        "gemini-live",
        "gemini",
        "(websocket)",
        request={"setup": {"model": "models/gemini-live-2.5-flash-preview"}},
        reply=_lines(
            {"serverContent": {"modelTurn": {"parts": [{"text": "Two."}]}}},
            {
                "serverContent": {"turnComplete": True},
                "usageMetadata": {"promptTokenCount": 12, "responseTokenCount": 3, "totalTokenCount": 15},
            },
        ),
        usage={"input_tokens": 12, "output_tokens": 3, "total_tokens": 15},
        framing="websocket-messages-one-per-line",
    ),
)
