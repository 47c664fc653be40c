"""Google's counts of tokens, taken apart into disjoint kinds.

What was read from a cache is inside the prompt; what tools brought in stands beside it, and thoughts stand beside the
candidates. Counts by modality say how much of each whole is audio, image, video or document. A document is pages, and
counts as images, as genai-prices has it; a video that was read from a cache counts as text from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policyd.core.usage import NO_USAGE, Usage
from policyd.providers.openai.usage import Whole
from policyd.providers.reply_values import Json, count, first_count, objects


@dataclass(frozen=True, slots=True)
class Modalities:
    """Tokens of a whole that are not text."""

    audio: int = 0
    image: int = 0
    video: int = 0


NO_MODALITIES = Modalities()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What Google reports, in its own meaning of each number."""

    prompt: int
    tool_use: int
    """What tools brought into the input; not inside `prompt`."""
    cached: int
    """What was read from a cache; inside `prompt`."""
    output: int
    thoughts: int
    """Not inside `output`."""
    input_kinds: Modalities = NO_MODALITIES
    """Of `prompt` and `tool_use` together."""
    cached_kinds: Modalities = NO_MODALITIES
    output_kinds: Modalities = NO_MODALITIES

    def usage(self, *, pieces: Usage = NO_USAGE) -> Usage:
        """The same in disjoint kinds, with what is charged by the piece. A part that is larger than its whole is cut to
        it."""
        read = Whole(self.prompt + self.tool_use)
        cached = Whole(read.take(self.cached))
        cached_audio = cached.take(self.cached_kinds.audio)
        cached_image = cached.take(self.cached_kinds.image)
        audio = read.take(max(0, self.input_kinds.audio - cached_audio))
        image = read.take(max(0, self.input_kinds.image - cached_image))
        video = read.take(max(0, self.input_kinds.video - self.cached_kinds.video))
        generated = Whole(self.output)
        return pieces + Usage(
            cached_audio_input=cached_audio,
            cached_image_input=cached_image,
            cached_input=cached.rest,
            audio_input=audio,
            image_input=image,
            video_input=video,
            input=read.rest,
            reasoning=self.thoughts,
            audio_output=generated.take(self.output_kinds.audio),
            image_output=generated.take(self.output_kinds.image),
            video_output=generated.take(self.output_kinds.video),
            output=generated.rest,
        )


def read_metadata(reported: Json) -> Counts | None:
    """The counts in a `usageMetadata`; `None` for one without any. A count that is left out is zero, as in protobuf."""
    if all(count(reported.get(name)) is None for name in COUNT_NAMES):
        return None
    return Counts(
        prompt=first_count(reported.get("promptTokenCount")),
        tool_use=first_count(reported.get("toolUsePromptTokenCount")),
        cached=first_count(reported.get("cachedContentTokenCount")),
        output=first_count(reported.get("candidatesTokenCount")),
        thoughts=first_count(reported.get("thoughtsTokenCount")),
        input_kinds=modalities(
            reported.get("promptTokensDetails"),
            # Embeddings have it in the singular.
            reported.get("promptTokenDetails"),
            reported.get("toolUsePromptTokensDetails"),
            amount="tokenCount",
        ),
        cached_kinds=modalities(reported.get("cacheTokensDetails"), amount="tokenCount"),
        output_kinds=modalities(reported.get("candidatesTokensDetails"), amount="tokenCount"),
    )


COUNT_NAMES = (
    "promptTokenCount",
    "toolUsePromptTokenCount",
    "cachedContentTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
)


def modalities(*details: Any, amount: str) -> Modalities:
    """The tokens by modality in arrays of objects, each with its number of tokens under the name `amount`."""
    tokens = {"audio": 0, "image": 0, "video": 0}
    for item in (item for one in details for item in objects(one)):
        kind = _kind(item.get("modality"))
        if kind is not None:
            tokens[kind] += first_count(item.get(amount))
    return Modalities(**tokens)


def _kind(modality: Any) -> str | None:
    name = modality.upper() if isinstance(modality, str) else modality
    return _KINDS.get(name) if isinstance(name, str | int) else None


_KINDS: Mapping[str | int, str] = {
    "IMAGE": "image",
    "VIDEO": "video",
    "AUDIO": "audio",
    "DOCUMENT": "image",
    # The same as numbers, for a client who asked for them (`$alt=json;enum-encoding=int`).
    2: "image",
    3: "video",
    4: "audio",
    5: "image",
}
