"""OpenAI's audio endpoints: speech from a text, and a transcript or a translation of speech.

Some of their models are sold by tokens, and raw audio never says how many it took: such a reply is charged the maximum
that was held for it. Others are sold by the characters that are spoken, which the request tells, or by the time that is
listened to, which the reply tells; one that does not is charged for as long as the file can be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from policyd.core.usage import Usage
from policyd.providers.audio import HIDDEN_AUDIO_MS, audio_ms_max
from policyd.providers.base import RawRequest, RequestFacts, Vendor
from policyd.providers.openai.form import read_form_request
from policyd.providers.openai.media_reply import OpenAIMediaReply
from policyd.providers.openai.model import requested_model
from policyd.providers.openai.wire import OpenAIWire
from policyd.providers.prompt_builder import PromptBuilder
from policyd.providers.request_body import decode_request, fields_at, optional_text, required_text

LETTER_TOKENS = 2
"""The most audio tokens that a letter is spoken in: 20 a second, at ten letters a second. Measured are 1.3."""

SIGN_TOKENS = 10
"""The same of any other character: a digit, a sign or an ideogram is a word."""

SILENCE_TOKENS = 128
"""An allowance for the silence around what is spoken."""

AUDIO_TOKENS_MAX = 16_000
"""The most tokens of audio that are read for a transcript: the context window of the models that are sold by tokens."""

TRANSCRIPT_TOKENS_MAX = 2_000
"""The most tokens that these models write."""

_SIGNS = re.compile(r"[^A-Za-z\s.,;:!?'\"()-]+")


class OpenAISpeech(OpenAIWire):
    """The `WireFormat` of speech from a text."""

    name = "openai-audio-speech"

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=("model", "input", "instructions"))
        spoken = required_text(document, "input")
        builder = PromptBuilder(exact=False)
        builder.text(spoken)
        builder.text(optional_text(document, "instructions"))
        characters = Usage(characters=len(spoken))
        return RequestFacts(
            model=requested_model(document, request),
            # Not even where it asks for events: raw audio must not be taken for them.
            streamed=False,
            prompt=builder.prompt(),
            max_output_tokens=_speech_tokens_max(spoken),
            output_kinds=("output", "audio_output"),
            pieces_min=characters,
            outlives_client=True,
            fields=fields_at(document, identity_fields),
        )

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> OpenAIMediaReply:
        return OpenAIMediaReply(output_kind="audio_output", pieces_min=facts.pieces_min)


class OpenAITranscription(OpenAIWire):
    """The `WireFormat` of transcripts and of translations."""

    def __init__(self, name: str) -> None:
        self.name = name

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        form = read_form_request(request, decisive=("model", "prompt", "file", "file_url", "file_id"))
        builder = PromptBuilder(exact=False)
        builder.text(optional_text(form.document, "prompt"))
        shown = sum(map(sum, form.file_bytes.values()))
        heard = Usage(audio_input_ms=audio_ms_max(shown) if form.file_bytes else HIDDEN_AUDIO_MS)
        # Audio that is only named, or stands in JSON, may be of any length.
        builder.allow(min(shown, AUDIO_TOKENS_MAX) if form.file_bytes else AUDIO_TOKENS_MAX)
        return RequestFacts(
            model=requested_model(form.document, request),
            # Not even where it asks for events: a transcript as plain text must not be taken for them.
            streamed=False,
            prompt=builder.prompt(),
            max_output_tokens=TRANSCRIPT_TOKENS_MAX,
            input_kinds=("input", "audio_input"),
            pieces_min=Usage(audio_input_ms=vendor.transcript_ms_min),
            pieces=heard,
            fields=fields_at(form.document, identity_fields),
        )

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> OpenAIMediaReply:
        return OpenAIMediaReply(output_kind="output", pieces_min=facts.pieces_min)


def _speech_tokens_max(spoken: str) -> int:
    letters = len(_SIGNS.sub("", spoken))
    return letters * LETTER_TOKENS + (len(spoken) - letters) * SIGN_TOKENS + SILENCE_TOKENS
