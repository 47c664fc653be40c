"""Bedrock's error shape, in a reply and in an event stream: wording refusals, and reading errors.

An error's name is in the header `x-amzn-errortype`, or in the body's `__type`, where every AWS SDK looks for it too.
Within a stream only the names of the stream's own model are raised as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from policyd.providers.base import ErrorInfo
from policyd.providers.framing.event_stream import encode_message
from policyd.providers.reply_values import Json, word

_ERROR_HEADER = "x-amzn-errortype"

_FAILURES = ("Exception", "Error", "Failure")
"""How the names of events that tell of a failure end."""


def error_body(error: ErrorInfo) -> bytes:
    """The JSON body of a refusal."""
    name = _NAMES.get(error.status) or ("InternalServerException" if error.status >= 500 else "ValidationException")
    return msgspec.json.encode({"__type": name, **_fields(error)})


def error_event(error: ErrorInfo) -> bytes:
    """A message that ends an event stream with the error."""
    name = _STREAM_NAMES.get(error.status) or (
        "internalServerException" if error.status >= 500 else "validationException"
    )
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return encode_message(headers, msgspec.json.encode(_fields(error)))


def error_in_headers(headers: Mapping[str, str]) -> str | None:
    """The name of the error that a reply's headers tell of; an address may follow it."""
    return _bare_name(headers.get(_ERROR_HEADER, ""))


def error_in_document(document: Json) -> str | None:
    """The name of the error that a JSON reply is, or "error" where it has none. No other reply is a bare message."""
    if isinstance(document.get("message"), str) or "__type" in document:
        return _bare_name(document.get("__type")) or "error"
    return None


def error_in_event(name: str) -> str | None:
    """The name of the failure that an event of a stream tells of by its own name."""
    return word(name) if name.endswith(_FAILURES) else None


def _bare_name(name: Any) -> str | None:
    """A name without the namespace before it and the address after it."""
    return word(name.partition(":")[0].rpartition("#")[2]) if isinstance(name, str) else None


def _fields(error: ErrorInfo) -> dict[str, Any]:
    return {"message": error.message, "policyd": error.policyd}


_NAMES = {
    401: "AccessDeniedException",
    402: "ServiceQuotaExceededException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}

_STREAM_NAMES = {
    402: "throttlingException",
    429: "throttlingException",
    502: "modelStreamErrorException",
    503: "serviceUnavailableException",
}
