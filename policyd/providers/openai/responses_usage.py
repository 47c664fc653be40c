"""The usage object of OpenAI's newer endpoints (responses, images, speech, transcripts), taken apart into kinds.

Cached, written, audio and image tokens are inside `input_tokens`, reasoning, audio and image tokens inside
`output_tokens`. Some endpoints name the parts `input_tokens_details`, some `input_token_details`.
"""

from __future__ import annotations

from typing import Any

from policyd.core.usage import Usage
from policyd.providers.openai.usage import Whole
from policyd.providers.reply_values import Json, count, first_count, mapping


def read_usage(reported: Json) -> Usage | None:
    """The usage in such an object; `None` for one that counts no tokens (but seconds of audio, for instance)."""
    given, generated = count(reported.get("input_tokens")), count(reported.get("output_tokens"))
    if given is None and generated is None:
        return None
    details = _details(reported, "input")
    cached_details = mapping(details.get("cached_tokens_details"))

    whole = Whole(given or 0)
    cached = Whole(whole.take(first_count(details.get("cached_tokens"))))
    written = whole.take(first_count(details.get("cache_write_tokens")))
    cached_audio = cached.take(first_count(cached_details.get("audio_tokens")))
    cached_image = cached.take(first_count(cached_details.get("image_tokens")))
    # Those that were cached are among the audio and the image tokens again.
    audio = whole.take(max(0, first_count(details.get("audio_tokens")) - cached_audio))
    image = whole.take(max(0, first_count(details.get("image_tokens")) - cached_image))

    output = Whole(generated or 0)
    details = _details(reported, "output")
    return Usage(
        cached_input=cached.rest,
        cached_audio_input=cached_audio,
        cached_image_input=cached_image,
        cache_write_5m=written,
        audio_input=audio,
        image_input=image,
        input=whole.rest,
        reasoning=output.take(first_count(details.get("reasoning_tokens"))),
        audio_output=output.take(first_count(details.get("audio_tokens"))),
        image_output=output.take(first_count(details.get("image_tokens"))),
        output=output.rest,
    )


def is_complete(reported: Json) -> bool:
    """Whether a usage object counts both the input and the output."""
    return count(reported.get("input_tokens")) is not None and count(reported.get("output_tokens")) is not None


def _details(reported: Json, side: str) -> Any:
    return mapping(reported.get(f"{side}_tokens_details") or reported.get(f"{side}_token_details"))
