"""Anthropic's usage object, taken apart into disjoint kinds.

`input_tokens` leaves out what was read from or written to a cache; thinking is inside `output_tokens`. Where one
request ran the model several times, `iterations` lists the runs: the top-level numbers cover the runs that answer, and
leave out those beside them (compaction of the context, an advisor), which are charged all the same.
"""

from __future__ import annotations

from policyd.core.usage import Usage
from policyd.providers.reply_values import Json, count, first_count, mapping, objects

_COVERED_ITERATIONS = ("message", "fallback_message")
"""The types of iterations that the top-level numbers cover."""


def read_usage(reported: Json) -> Usage | None:
    """The usage in a message's usage object; `None` for one that counts neither input nor output.

    An advisor's tokens are counted with the model's own, for want of a place for a second model.
    """
    if count(reported.get("input_tokens")) is None and count(reported.get("output_tokens")) is None:
        return None
    usage = _read_run(reported)
    for iteration in objects(reported.get("iterations")):
        if iteration.get("type") not in _COVERED_ITERATIONS:
            usage += _read_run(iteration)
    return usage


def _read_run(reported: Json) -> Usage:
    split = mapping(reported.get("cache_creation"))
    written_5m = first_count(split.get("ephemeral_5m_input_tokens"))
    written_1h = first_count(split.get("ephemeral_1h_input_tokens"))
    written = first_count(reported.get("cache_creation_input_tokens"), written_5m + written_1h)
    # A stream's later events update the sum and not the split: what is new is of the kind that the split shows alone.
    written_1h = written if written_1h and not written_5m else min(written, written_1h)
    output = first_count(reported.get("output_tokens"))
    thinking = min(output, first_count(mapping(reported.get("output_tokens_details")).get("thinking_tokens")))
    return Usage(
        input=first_count(reported.get("input_tokens")),
        cached_input=first_count(reported.get("cache_read_input_tokens")),
        cache_write_5m=written - written_1h,
        cache_write_1h=written_1h,
        output=output - thinking,
        reasoning=thinking,
        web_searches=first_count(mapping(reported.get("server_tool_use")).get("web_search_requests")),
    )


USAGE_LEAVES = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation.ephemeral_5m_input_tokens",
    "cache_creation.ephemeral_1h_input_tokens",
    "output_tokens_details.thinking_tokens",
    "server_tool_use.web_search_requests",
)
"""Every member of a usage object that `read_usage` looks at, as dotted paths, but `iterations`, which is an array."""
