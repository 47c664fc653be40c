"""OpenAI's error shape, which all its wire formats share: wording refusals, and reading errors in replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from policyd.providers.base import ErrorInfo
from policyd.providers.reply_values import mapping, word


def error_body(error: ErrorInfo) -> bytes:
    """The JSON body of a refusal."""
    return msgspec.json.encode({"error": error_fields(error)})


def error_fields(error: ErrorInfo) -> Mapping[str, Any]:
    """The error object, JSON-ready."""
    kind, code = _type_and_code(error)
    return {"message": error.message, "type": kind, "param": None, "code": code, "policyd": error.policyd}


def chunk_error_event(error: ErrorInfo) -> bytes:
    """Events that end a stream of chunks (chat, legacy completions)."""
    # The SDKs raise at the error; [DONE] is for clients that only look for the end.
    return b"data: " + error_body(error) + b"\n\ndata: [DONE]\n\n"


def typed_error_event(error: ErrorInfo) -> bytes:
    """An event that ends a stream of typed events (responses, images, speech, transcripts).

    The SDKs raise at any event whose data has an `error`; that is where the API itself puts it in such streams.
    """
    return b"event: error\ndata: " + msgspec.json.encode({"type": "error", "error": error_fields(error)}) + b"\n\n"


def error_code(error: Any) -> str:
    """The code of an error in a reply, or its type; some vendors send a bare message, which is not repeated."""
    fields = mapping(error)
    code = fields.get("code")
    if isinstance(code, int) and not isinstance(code, bool):
        code = str(code)
    return word(code) or word(fields.get("type")) or "error"


def _type_and_code(error: ErrorInfo) -> tuple[str, str]:
    match error.status:
        case 402:
            return "insufficient_quota", "budget_exceeded"
        case 429:
            return "rate_limit_exceeded", "rate_limit_exceeded"
        case status if status >= 500:
            return "server_error", error.reason
        case _:
            return "invalid_request_error", error.reason
