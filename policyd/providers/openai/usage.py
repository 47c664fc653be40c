"""OpenAI's usage object, as OpenAI and the many vendors who adopted its form fill it, taken apart into disjoint kinds.

By the maker's definition cached, written and audio tokens are inside `prompt_tokens`, and reasoning and audio tokens
are inside `completion_tokens`. Some vendors put a part beside the whole instead (xAI its reasoning, Mistral its audio);
their `total_tokens` gives them away, because it then is more than the prompt and the completion together. Perplexity's
leaves out its reasoning and the citations that it counts; that of Vercel's gateway, which tells a `market_cost`, leaves
out Gemini's reasoning, and charges it: so it is in the cost of each of ten recorded replies. Where a part that should
be inside is larger than the whole (cached tokens of Grok on Azure), it is cut to it.
"""

from __future__ import annotations

from policyd.core.usage import Usage
from policyd.providers.reply_values import Json, count, first_count, mapping, milliseconds


def read_usage(reported: Json) -> Usage | None:
    """The usage in an OpenAI-shaped usage object; `None` for one that counts neither input nor output."""
    prompt = count(reported.get("prompt_tokens"))
    completion = count(reported.get("completion_tokens"))
    if prompt is None and completion is None:
        return None
    total = count(reported.get("total_tokens"))
    if completion is None and total is not None:
        # A legacy completion that generated nothing leaves it out.
        completion = max(0, total - (prompt or 0))
    prompt, completion = prompt or 0, completion or 0
    prompt_details = mapping(reported.get("prompt_tokens_details"))
    completion_details = mapping(reported.get("completion_tokens_details"))
    audio = first_count(prompt_details.get("audio_tokens"))
    reasoning = first_count(completion_details.get("reasoning_tokens"), reported.get("reasoning_tokens"))

    beside = total - prompt - completion if total is not None else 0
    is_beside = total is None or any(reported.get(name) is not None for name in _REASONING_LEFT_OUT_BY)
    if reasoning and (beside == reasoning or (is_beside and reasoning > completion)):
        completion += reasoning
    elif audio and beside == audio:
        prompt += audio

    inside = Whole(prompt)
    cached = inside.take(_cached(reported, prompt_details))
    written = inside.take(_written(reported, prompt_details))
    written_1h = min(written, first_count(mapping(reported.get("cache_creation")).get("ephemeral_1h_input_tokens")))
    audio_input = inside.take(audio)
    image_input = inside.take(first_count(prompt_details.get("image_tokens")))
    video_input = inside.take(first_count(prompt_details.get("video_tokens")))

    generated = Whole(completion)
    searches = mapping(reported.get("server_tool_use_details")).get("web_search_requests")
    return Usage(
        cached_input=cached,
        cache_write_5m=written - written_1h,
        cache_write_1h=written_1h,
        audio_input=audio_input,
        image_input=image_input,
        video_input=video_input,
        input=inside.rest,
        reasoning=generated.take(reasoning),
        audio_output=generated.take(first_count(completion_details.get("audio_tokens"))),
        image_output=generated.take(first_count(completion_details.get("image_tokens"))),
        output=generated.rest,
        citation=first_count(reported.get("citation_tokens")),
        web_searches=first_count(searches, reported.get("num_search_queries")),
        audio_input_ms=milliseconds(reported.get("prompt_audio_seconds")) or 0,
    )


_REASONING_LEFT_OUT_BY = ("citation_tokens", "market_cost")
"""What tells Perplexity's and Vercel's usage, whose totals can leave out the reasoning."""

USAGE_LEAVES = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details.audio_tokens",
    "prompt_tokens_details.image_tokens",
    "prompt_tokens_details.video_tokens",
    "prompt_tokens_details.cached_tokens",
    "prompt_tokens_details.cache_write_tokens",
    "prompt_tokens_details.cache_creation_tokens",
    "completion_tokens_details.reasoning_tokens",
    "completion_tokens_details.audio_tokens",
    "completion_tokens_details.image_tokens",
    "reasoning_tokens",
    "prompt_cache_hit_tokens",
    "cached_tokens",
    "num_cached_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation.ephemeral_1h_input_tokens",
    "server_tool_use_details.web_search_requests",
    "num_search_queries",
    "prompt_audio_seconds",
    *_REASONING_LEFT_OUT_BY,
)
"""Every member of a usage object that `read_usage` and `is_complete` look at, as dotted paths."""


def is_complete(reported: Json) -> bool:
    """Whether a usage object counts both the input and the output, or one of them and their total."""
    counts = [count(reported.get(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    return counts.count(None) < 2


class Whole:
    """A number of tokens that parts are taken out of, never more than there are."""

    __slots__ = ("rest",)

    def __init__(self, tokens: int) -> None:
        self.rest = tokens

    def take(self, tokens: int) -> int:
        taken = min(tokens, self.rest)
        self.rest -= taken
        return taken


def _cached(reported: Json, details: Json) -> int:
    return first_count(
        details.get("cached_tokens"),
        reported.get("prompt_cache_hit_tokens"),  # DeepSeek
        reported.get("cached_tokens"),  # Together, Moonshot
        reported.get("num_cached_tokens"),  # Mistral
        reported.get("cache_read_input_tokens"),  # vendors of Anthropic's models
    )


def _written(reported: Json, details: Json) -> int:
    return first_count(
        details.get("cache_write_tokens"),
        details.get("cache_creation_tokens"),
        reported.get("cache_creation_input_tokens"),
    )
