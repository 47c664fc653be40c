"""What the recordings say was used, against what was read: each provider's numbers in its own meaning of each field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from policyd.core.usage import Usage
from tests.recordings import Recording

Numbers = dict[str, int]

_UNCOVERED_ITERATIONS = ("compaction", "advisor_message")
"""Runs of Anthropic's that are charged and stand outside the message's own totals."""


def disagreements(usage: Usage | None, recording: Recording) -> list[str]:
    """Each field that was read otherwise than it was recorded, as `name read/recorded`."""
    wanted, got = _recorded(recording), _read(usage or Usage(), recording)
    comparable = {name: value for name, value in wanted.items() if name in got}
    if usage is None:
        return [f"{name} none/{value}" for name, value in comparable.items()]
    return [f"{name} {got[name]}/{value}" for name, value in comparable.items() if got[name] != value]


def has_truth(recording: Recording) -> bool:
    """Whether the provider told any number that a kind of usage stands for."""
    return bool(_recorded(recording).keys() & _read(Usage(), recording).keys())


def reported_input_tokens(recording: Recording) -> int:
    """All input that the provider counted: cached parts included, wherever it reports them; 0 if it did not say."""
    fields = recording["expected_usage"] or {}
    if "billed_input_tokens" in fields:
        return int(fields["billed_input_tokens"] or 0)
    given, cached, written = (fields.get(name) or 0 for name in ("input_tokens", *_CACHED))
    if recording["wire"].startswith(("anthropic", "bedrock")):
        return int(given + cached + written)
    return int(max(given, cached))


_CACHED = ("cached_input_tokens", "cache_write_tokens")


def _recorded(recording: Recording) -> Numbers:
    """The recorded numbers, where they do not contradict themselves."""
    numbers = _recorded_pieces(recording)
    numbers |= {name: value for name, value in (recording["expected_usage"] or {}).items() if isinstance(value, int)}
    wire: str = recording["wire"]
    if wire == "openai-chat" and "input_tokens" in numbers:
        # A part that is larger than its whole is cut to it.
        cached = min(numbers.get("cached_input_tokens", 0), numbers["input_tokens"])
        numbers["cached_input_tokens"] = cached
        if "image_input_tokens" in numbers:
            numbers["image_input_tokens"] = min(numbers["image_input_tokens"], numbers["input_tokens"] - cached)
        if numbers.get("reasoning_tokens") and not _beside(recording):
            numbers["reasoning_tokens"] = min(numbers["reasoning_tokens"], numbers.get("output_tokens", 0))
    if _is_left_out(recording):
        numbers.pop("total_tokens", None)
    if numbers.get("cache_write_5m") == numbers.get("cache_write_1h") == 0 and numbers.get("cache_write_tokens"):
        # Something was written, and into no cache of either kind: only the sum says something.
        del numbers["cache_write_5m"], numbers["cache_write_1h"]
    return numbers


def _recorded_pieces(recording: Recording) -> Numbers:
    """What was sold by the piece, which a provider's usage object tells and the numbers taken from it do not."""
    raw = _raw(recording)
    billed = raw.get("billed_units") or {}
    pieces = {
        "pages": raw.get("pages_processed"),
        "audio_input_ms": raw["seconds"] * 1000 if "seconds" in raw else None,
        "images_read": billed.get("images"),
        "search_units": billed.get("search_units"),
    }
    return {name: int(value) for name, value in pieces.items() if value is not None}


def _raw(recording: Recording) -> Mapping[str, Any]:
    """The provider's own usage object; empty where there are several, those of a session's responses."""
    raw = recording.get("usage_raw")
    return raw if isinstance(raw, Mapping) else {}


def _read(usage: Usage, recording: Recording) -> Numbers:
    """What was read, by the names of what is recorded."""
    pieces = {
        "pages": usage.pages + usage.annotated_pages,
        "audio_input_ms": usage.audio_input_ms,
        "images_read": usage.images_read,
        "search_units": usage.search_units,
    }
    return pieces | _reading(recording)(usage, recording)


def _beside(recording: Recording) -> str:
    """Which part stands beside input and output, by the total: `reasoning_tokens`, `audio_input_tokens` or none."""
    fields: Mapping[str, int] = recording["expected_usage"] or {}
    rest = (fields.get("total_tokens") or 0) - (fields.get("input_tokens") or 0) - (fields.get("output_tokens") or 0)
    if _is_left_out(recording):
        return "reasoning_tokens"
    parts = ("reasoning_tokens", "audio_input_tokens")
    return next((name for name in parts if rest > 0 and fields.get(name) == rest), "")


def _is_left_out(recording: Recording) -> bool:
    """Whether the reasoning is charged and is in no sum: Vercel's gateway tells a cost that shows it."""
    fields: Mapping[str, int] = recording["expected_usage"] or {}
    return "market_cost" in _raw(recording) and (fields.get("reasoning_tokens") or 0) > (
        fields.get("output_tokens") or 0
    )


def _by_openai(usage: Usage, recording: Recording) -> Numbers:
    beside = _beside(recording)
    reasoning = usage.reasoning if beside == "reasoning_tokens" else 0
    audio = usage.audio_input if beside == "audio_input_tokens" else 0
    return {
        "input_tokens": usage.input_tokens - audio,
        "output_tokens": usage.output_tokens - reasoning,
        "total_tokens": usage.tokens,
        "cached_input_tokens": _cached(usage),
        "cache_write_tokens": _written(usage),
        "reasoning_tokens": usage.reasoning,
        "audio_input_tokens": usage.audio_input + usage.cached_audio_input,
        "audio_output_tokens": usage.audio_output,
        "image_input_tokens": usage.image_input + usage.cached_image_input,
        "image_output_tokens": usage.image_output,
    }


def _by_anthropic(usage: Usage, recording: Recording) -> Numbers:
    raw = _raw(recording)
    last = raw.get("message_delta") or raw
    beside = [run for run in last.get("iterations") or () if run.get("type") in _UNCOVERED_ITERATIONS]
    return {
        "input_tokens": usage.input - sum(run["input_tokens"] for run in beside),
        "output_tokens": usage.output_tokens - sum(run["output_tokens"] for run in beside),
        "cached_input_tokens": usage.cached_input,
        "cache_write_tokens": _written(usage),
        "cache_write_5m": usage.cache_write_5m,
        "cache_write_1h": usage.cache_write_1h,
        "reasoning_tokens": usage.reasoning,
        "web_search_requests": usage.web_searches,
    }


def _by_google(usage: Usage, recording: Recording) -> Numbers:
    raw = _raw(recording)
    details = raw.get("promptTokensDetails") or ()
    # Documents and videos are charged as images, and have no number of their own among the recorded ones.
    media = sum(each.get("tokenCount", 0) for each in details if each.get("modality") in ("DOCUMENT", "VIDEO"))
    tool_use = raw.get("toolUsePromptTokenCount") or raw.get("total_tool_use_tokens") or 0
    return {
        "input_tokens": usage.input_tokens - tool_use,
        "tool_use_input_tokens": tool_use,
        "output_tokens": usage.output_tokens - usage.reasoning,
        "reasoning_tokens": usage.reasoning,
        "total_tokens": usage.tokens,
        "cached_input_tokens": _cached(usage),
        "audio_input_tokens": usage.audio_input + usage.cached_audio_input,
        "image_input_tokens": usage.image_input + usage.cached_image_input - media,
    }


def _by_bedrock(usage: Usage, recording: Recording) -> Numbers:
    return {
        "input_tokens": usage.input,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.tokens,
        "cached_input_tokens": usage.cached_input,
        "cache_write_tokens": _written(usage),
        "cache_write_5m": usage.cache_write_5m,
        "cache_write_1h": usage.cache_write_1h,
        "reasoning_tokens": usage.reasoning,
    }


def _by_cohere(usage: Usage, recording: Recording) -> Numbers:
    """What is billed, which is less than what is counted."""
    return {"billed_input_tokens": usage.input_tokens, "billed_output_tokens": usage.output_tokens}


def _by_ollama(usage: Usage, recording: Recording) -> Numbers:
    return {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}


def _cached(usage: Usage) -> int:
    return usage.cached_input + usage.cached_audio_input + usage.cached_image_input


def _written(usage: Usage) -> int:
    return usage.cache_write_5m + usage.cache_write_1h


_BY_WIRE: tuple[tuple[str, Callable[[Usage, Recording], Numbers]], ...] = (
    ("openai", _by_openai),
    ("anthropic", _by_anthropic),
    ("gemini", _by_google),
    ("bedrock", _by_bedrock),
    ("cohere", _by_cohere),
    ("ollama", _by_ollama),
)


def _reading(recording: Recording) -> Callable[[Usage, Recording], Numbers]:
    return next((read for start, read in _BY_WIRE if recording["wire"].startswith(start)), _by_openai)
