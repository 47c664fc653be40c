"""Recorded traffic with real providers, where a file of it is at hand.

`POLICYD_RECORDINGS` names the file; else it is looked for in `shared/recordings` beside the repository. Each line is
one exchange; `expected_usage` is what the provider reported, in its own meaning of each field. The product's tests
pass without the file: what the records taught is in their own fixtures too.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from policyd.core.usage import Usage
from policyd.providers.base import WireFormat
from policyd.providers.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT

Recording = Mapping[str, Any]
"""One recorded exchange, as decoded from its line."""

PATH = Path(
    os.environ.get("POLICYD_RECORDINGS")
    or Path(__file__).parents[1].parent / "shared" / "recordings" / "recordings.jsonl.gz"
)
AT_HAND = pytest.mark.skipif(not PATH.exists(), reason=f"no recordings at {PATH} (POLICYD_RECORDINGS names the file)")
"""Leaves out a test that needs the file where there is none."""

WIRES: Mapping[str, WireFormat] = {"openai-chat": OPENAI_CHAT, "anthropic-messages": ANTHROPIC_MESSAGES}

REFUSED = {
    "5ca72e537e94": "the model is null: Azure names it in the path",
    "1348b390aef4": "the request is no JSON: its recorder kept a line break inside a text",
}
"""Recorded requests that are refused, and why."""

MODEL_IN_PATH = ("vertex",)
"""Vendors whose requests name the model in the path: their endpoints are not metered, their replies are Anthropic's."""

_REASONING_BESIDE_OUTPUT = ("xai",)
_AUDIO_BESIDE_INPUT = ("mistral",)
_UNCOVERED_ITERATIONS = ("compaction", "advisor_message")


@cache
def every_recording() -> tuple[Recording, ...]:
    """Every recorded exchange, in any wire format."""
    with gzip.open(PATH) as lines:
        return tuple(msgspec.json.decode(line) for line in lines)


@cache
def recordings() -> tuple[Recording, ...]:
    """Every recorded exchange in one of `WIRES`."""
    return tuple(recording for recording in every_recording() if recording["wire"] in WIRES)


def has_readable_request(recording: Recording) -> bool:
    """Whether a request was recorded, and is one that is not refused."""
    refused = recording["id"] in REFUSED or recording["vendor"] in MODEL_IN_PATH
    return bool(recording["request_body"]) and not refused


def reported(usage: Usage, recording: Recording) -> dict[str, int]:
    """`usage` in the provider's own meaning of each field."""
    if recording["wire"] == "anthropic-messages":
        return _reported_by_anthropic(usage, recording)
    # A gateway without a name of its own serves the same models in the same way.
    grok = recording["vendor"] == "unknown" and str(recording["expected_usage"]["model"]).startswith("grok")
    beside_output = usage.reasoning if recording["vendor"] in _REASONING_BESIDE_OUTPUT or grok else 0
    beside_input = usage.audio_input if recording["vendor"] in _AUDIO_BESIDE_INPUT else 0
    return {
        "input_tokens": usage.input_tokens - beside_input,
        "output_tokens": usage.output_tokens - beside_output,
        "total_tokens": usage.tokens,
        "cached_input_tokens": usage.cached_input,
        "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "reasoning_tokens": usage.reasoning,
        "audio_input_tokens": usage.audio_input,
        "audio_output_tokens": usage.audio_output,
        "image_input_tokens": usage.image_input,
    }


def _reported_by_anthropic(usage: Usage, recording: Recording) -> dict[str, int]:
    raw = recording["usage_raw"]
    last = raw.get("message_delta", raw)
    beside = [run for run in last.get("iterations") or () if run["type"] in _UNCOVERED_ITERATIONS]
    return {
        "input_tokens": usage.input - sum(run["input_tokens"] for run in beside),
        "output_tokens": usage.output_tokens - sum(run["output_tokens"] for run in beside),
        "cached_input_tokens": usage.cached_input,
        "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_write_5m": usage.cache_write_5m,
        "cache_write_1h": usage.cache_write_1h,
        "reasoning_tokens": usage.reasoning,
        "web_search_requests": usage.web_searches,
    }


def expected(recording: Recording) -> dict[str, int]:
    """What the recording says was reported, where it does not contradict itself."""
    fields: dict[str, int] = {name: value for name, value in recording["expected_usage"].items() if value is not None}
    fields.pop("model", None)
    if recording["wire"] == "openai-chat":
        # A part that is larger than its whole is cut to it; image tokens that were cached are cached tokens.
        cached = min(fields.get("cached_input_tokens", 0), fields["input_tokens"])
        fields["cached_input_tokens"] = cached
        if "image_input_tokens" in fields:
            fields["image_input_tokens"] = min(fields["image_input_tokens"], fields["input_tokens"] - cached)
        if fields.get("total_tokens") == fields["input_tokens"] + fields["output_tokens"]:
            fields["reasoning_tokens"] = min(fields.get("reasoning_tokens", 0), fields["output_tokens"])
    elif fields.get("cache_write_5m") == fields.get("cache_write_1h") == 0 and fields["cache_write_tokens"]:
        # Something was written, and into no cache of either kind: only the sum says something.
        del fields["cache_write_5m"], fields["cache_write_1h"]
    return fields


def assert_reported(usage: Usage, recording: Recording) -> None:
    """`usage` is what the recording says was reported."""
    wanted, got = expected(recording), reported(usage, recording)
    assert {name: got[name] for name in wanted} == wanted, recording["id"]
