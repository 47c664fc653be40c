"""A recorded exchange as policyd would meet it: where it goes, what it asks for, and the bytes of its reply."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

import msgspec

from policyd.ext_proc.reply import ReplyHead
from policyd.providers.base import RawRequest
from policyd.providers.endpoint import Endpoint
from policyd.providers.framing.event_stream import encode_message
from policyd.providers.registry import resolve
from policyd.providers.vendors import vendor_at
from tests.recordings import Recording

VENDOR_IDS = {
    "bedrock": "aws",
    "copilot": "github-copilot",
    "gemini": "google",
    "vertex": "google",
    "voyage": "voyageai",
    "xai": "x-ai",
}
"""The recordings' names of vendors, where they are others than ours."""

_MAKERS = {"openai": "openai", "anthropic": "anthropic", "gemini": "google", "cohere": "cohere", "ollama": "ollama"}
"""Whose API a wire format is, by the first word of the recordings' name of it."""

_USUAL_PATHS = {"openai-chat": "/v1/chat/completions"}
"""Where a wire format is found whose recorded path is a vendor's own."""

_CONTENT_TYPES = {
    "json": "application/json",
    "json-array": "application/json",
    "sse": "text/event-stream",
    "ndjson": "application/x-ndjson",
    "eventstream": "application/vnd.amazon.eventstream",
}
"""The content type that a framing comes with, for recordings that kept no headers."""

_LEFT_OUT = re.compile("<[^>]*>")
"""What a recorder put in the place of a name that it left out."""


def vendor_id(recording: Recording) -> str:
    """The vendor's name in our table, where it has a row there."""
    vendor: str = recording["vendor"]
    return VENDOR_IDS.get(vendor, vendor)


def endpoint_of(recording: Recording) -> Endpoint | None:
    """Where the request goes, found as in production: by a known host, else by the provider that a route names.

    A gateway in front of the vendor is taken for a route too: it serves the vendor's paths below a base of its own.
    """
    host = _LEFT_OUT.sub("x", recording["host"])
    path = _LEFT_OUT.sub("x", recording["path"])
    known = vendor_at(host.partition(":")[0].lower()) is not None
    method = recording["method"] or "POST"
    found = resolve(provider=None if known else vendor_id(recording), host=host, method=method, path=path)
    if isinstance(found, Endpoint):
        return found
    wire: str = recording["wire"]
    maker = _MAKERS.get(wire.partition("-")[0], "")
    segments = path.strip("/").split("/")
    paths = ["/" + "/".join(segments[start:]) for start in range(len(segments))] + [_USUAL_PATHS.get(wire, "")]
    for provider in dict.fromkeys((vendor_id(recording), maker)) if maker else ():
        for below in paths:
            found = resolve(provider=provider, host="", method=method, path=below)
            if isinstance(found, Endpoint):
                return found
    return None


def request_of(recording: Recording, endpoint: Endpoint) -> RawRequest:
    body = recording["request_body"].encode()
    return RawRequest(
        b64decode(body) if recording["request_body_encoding"] == "base64" else body,
        path=endpoint.path,
        query=recording["query"] or "",
        content_type=headers(recording["request_headers"]).get("content-type", "application/json"),
    )


def reply_head(recording: Recording) -> ReplyHead:
    """The reply's headers, with the content type that its framing comes with where none was recorded."""
    return ReplyHead(
        status=recording["status"],
        content_type=_content_type(recording),
        content_encoding="",
        content_length=-1,
        has_body=bool(recording["response_body"]),
    )


def reply_body(recording: Recording) -> bytes:
    """The reply as it came. Where a recorder unwrapped the messages of an AWS event stream they are wrapped again."""
    body: str = recording["response_body"]
    if recording["response_body_encoding"] == "base64":
        return b64decode(body)
    if _is_unwrapped(recording):
        return b"".join(map(_message, body.splitlines()))
    return body.encode()


def headers(recorded: Mapping[str, str] | None) -> dict[str, str]:
    return {name.lower(): value for name, value in (recorded or {}).items()}


def _content_type(recording: Recording) -> str:
    framing: str = recording["framing"]
    if _is_unwrapped(recording):
        framing = "eventstream"
    recorded = headers(recording["response_headers"]).get("content-type", "").partition(";")[0].strip().lower()
    if "/" not in recorded or _is_unwrapped(recording):
        return _CONTENT_TYPES.get(framing, "")
    return recorded


def _is_unwrapped(recording: Recording) -> bool:
    wire: str = recording["wire"]
    return wire.startswith("bedrock") and recording["framing"] == "ndjson"


def _message(line: str) -> bytes:
    ((name, value),) = msgspec.json.decode(line, type=dict[str, Any]).items()
    return encode_message({":event-type": name, ":message-type": "event"}, msgspec.json.encode(value))
