"""Usage as Bedrock reports it, taken apart into disjoint kinds: cached tokens stand beside the input.

The same numbers come in three spellings: in the `usage` of a Converse reply, which Nova's own replies share, in the
headers of a reply to InvokeModel, and in what Bedrock adds to the last event of such a stream. The other two are read
as if they were Converse's. Reasoning is inside the output and not told apart.
"""

from __future__ import annotations

from collections.abc import Mapping

from policyd.core.usage import Usage
from policyd.providers.reply_values import Json, count, first_count, objects

METRICS = "amazon-bedrock-invocationMetrics"
"""The member of a stream's last event that has Bedrock's own numbers."""

_METRICS = {
    "inputTokens": "inputTokenCount",
    "outputTokens": "outputTokenCount",
    "cacheReadInputTokens": "cacheReadInputTokenCount",
    "cacheWriteInputTokens": "cacheWriteInputTokenCount",
}

_HEADERS = {
    "inputTokens": "x-amzn-bedrock-input-token-count",
    "outputTokens": "x-amzn-bedrock-output-token-count",
    "cacheReadInputTokens": "x-amzn-bedrock-cache-read-input-token-count",
    "cacheWriteInputTokens": "x-amzn-bedrock-cache-write-input-token-count",
}

_HEADER_DIGITS_MAX = 15


def read_usage(reported: Json) -> Usage | None:
    """The usage in a Converse reply's usage object; `None` for one that counts neither input nor output."""
    if count(reported.get("inputTokens")) is None and count(reported.get("outputTokens")) is None:
        return None
    # Nova calls what is cached by other names where it is invoked by itself.
    written = first_count(reported.get("cacheWriteInputTokens"), reported.get("cacheWriteInputTokenCount"))
    details = objects(reported.get("cacheDetails"))
    written_1h = sum(first_count(detail.get("inputTokens")) for detail in details if detail.get("ttl") == "1h")
    written_1h = min(written, written_1h)
    return Usage(
        input=first_count(reported.get("inputTokens")),
        cached_input=first_count(reported.get("cacheReadInputTokens"), reported.get("cacheReadInputTokenCount")),
        cache_write_5m=written - written_1h,
        cache_write_1h=written_1h,
        output=first_count(reported.get("outputTokens")),
    )


def is_complete(reported: Json) -> bool:
    """Whether a Converse usage object counts both input and output."""
    return count(reported.get("inputTokens")) is not None and count(reported.get("outputTokens")) is not None


def metrics_as_usage(metrics: Json) -> Json:
    """A stream's invocation metrics as a Converse usage object."""
    return {name: metrics.get(spelling) for name, spelling in _METRICS.items()}


def headers_as_usage(headers: Mapping[str, str]) -> Json:
    """A reply's headers, whose names are in lower case, as a Converse usage object."""
    return {name: _number(headers.get(spelling, "")) for name, spelling in _HEADERS.items()}


def _number(header: str) -> int | None:
    plain = header.isascii() and header.isdigit() and len(header) <= _HEADER_DIGITS_MAX
    return int(header) if plain else None
