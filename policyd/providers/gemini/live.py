"""Gemini Live over WebSocket, of the Gemini API and of Vertex.

The client's first message, `setup`, names the model; nothing before it is answered. A turn's usage comes in the message
that ends the turn (in every recorded session), calls of tools included: the prompt is all that the session holds by
then, so each turn is charged for it anew. Text messages and binary ones hold the same JSON.

Audio is counted where nothing is reported: what the client sends as 32 tokens a second, what the model says as 25, each
frame of video and each image as 258 (Google, "Understand and count tokens").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import OUTPUT_TOKENS_MAX, ErrorInfo, RawRequest
from policyd.providers.gemini.request import field, object_field, spellings, whole_number_field
from policyd.providers.gemini.usage import read_metadata
from policyd.providers.realtime import Received, ResponseEnd, Sent, base64_bytes, texts_of
from policyd.providers.reply_values import Json, count, decode, json_text, mapping, objects, text
from policyd.providers.request_body import decode_request

IMAGE_TOKENS = 258
"""An image, and a frame of video."""

_INPUT_TOKENS_PER_SECOND = 32
_OUTPUT_TOKENS_PER_SECOND = 25
_INPUT_HERTZ = 16_000
_OUTPUT_HERTZ = 24_000
_SAMPLE_BYTES = 2
_RATE = re.compile(r"rate=([0-9]{4,6})")

_MESSAGES = ("setup", "clientContent", "realtimeInput", "toolResponse")


class GeminiLive:
    """The `RealtimeFormat` of Gemini Live."""

    name = "gemini-live"

    def reader(self, request: RawRequest) -> GeminiLiveReader:
        return GeminiLiveReader()

    def error_message(self, error: ErrorInfo) -> bytes:
        """Nothing: the API tells an error by the code and the reason of its close frame, and the SDK raises those."""
        return b""


class GeminiLiveReader:
    """A `RealtimeReader`."""

    def __init__(self) -> None:
        self.model = ""
        self.response_model: str | None = None
        self.max_output_tokens: int | None = None
        self._in_turn = False

    # --- from the client ---

    def read_sent(self, message: bytes) -> Sent:
        event = decode_request(message, decisive=spellings(_MESSAGES))
        setup = object_field(event, "setup")
        if setup:
            self._set_up(setup)
        blobs = list(_blobs(event))
        return Sent(text=texts_of(event, media=("data",)), tokens=sum(map(_input_tokens, blobs)))

    def _set_up(self, setup: Json) -> None:
        model = text(field(setup, "model")).rpartition("/")[2]
        if not model:
            raise BodyUnreadable("setup.model: expected the name of a model")
        if self.model not in ("", model):
            raise BodyUnreadable("setup.model: expected the model that the session began with")
        self.model = model
        config = object_field(setup, "generationConfig")
        self.max_output_tokens = whole_number_field(
            config, "maxOutputTokens", minimum=1, maximum=OUTPUT_TOKENS_MAX, inside="setup.generationConfig."
        )

    # --- from the provider ---

    def read_received(self, message: bytes) -> Received:
        event = mapping(decode(message))
        content = mapping(event.get("serverContent"))
        said = list(_said(event, content))
        spoken = sum(map(_output_tokens, _blobs(content)))
        began = not self._in_turn and bool(spoken or any(said))
        self._in_turn = self._in_turn or began
        reported = _as_candidates(mapping(event.get("usageMetadata")))
        counts = read_metadata(reported) if reported else None
        if counts is None:
            return Received(began=began, text="".join(said), audio_tokens=spoken)
        self._in_turn = False
        # A count of nothing is left out; that of the output has been so, too, where there was some.
        complete = count(reported.get("candidatesTokenCount")) is not None
        return Received(
            began=began,
            text="".join(said),
            audio_tokens=spoken,
            ended=ResponseEnd(counts.usage(), complete=complete),
        )


def _said(event: Json, content: Json) -> Iterator[str]:
    for part in objects(mapping(content.get("modelTurn")).get("parts")):
        yield text(part.get("text"))
    yield text(mapping(content.get("outputTranscription")).get("text"))
    for call in objects(mapping(event.get("toolCall")).get("functionCalls")):
        yield text(call.get("name"))
        yield json_text(call.get("args"))


def _as_candidates(reported: Json) -> dict[str, Any]:
    """A usage in the names that the API's other endpoints have for it; Vertex uses them here too."""
    renamed = {"responseTokenCount": "candidatesTokenCount", "responseTokensDetails": "candidatesTokensDetails"}
    return {renamed.get(name, name): value for name, value in reported.items()}


def _blobs(value: Any) -> Iterator[Json]:
    """The objects inside `value` that hold media."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            waiting += one.values()
            if isinstance(one.get("data"), str):
                yield one


def _input_tokens(blob: Json) -> int:
    if not _type(blob).startswith("audio/"):
        return IMAGE_TOKENS
    return _audio_tokens(blob, hertz=_INPUT_HERTZ, tokens_per_second=_INPUT_TOKENS_PER_SECOND)


def _output_tokens(blob: Json) -> int:
    return _audio_tokens(blob, hertz=_OUTPUT_HERTZ, tokens_per_second=_OUTPUT_TOKENS_PER_SECOND)


def _audio_tokens(blob: Json, *, hertz: int, tokens_per_second: int) -> int:
    told = _RATE.search(_type(blob))
    bytes_per_second = (int(told[1]) if told else hertz) * _SAMPLE_BYTES
    return -(-base64_bytes(blob["data"]) * tokens_per_second // bytes_per_second)


def _type(blob: Json) -> str:
    return text(blob.get("mimeType") or blob.get("mime_type")).lower()
