"""OpenAI Realtime over WebSocket, and the vendors who adopted it (Azure OpenAI, xAI).

The model is in the handshake's query; of a session that only transcribes it comes with `session.update`. Each response
tells its usage in `response.done` (xAI beside the response, the others in it). What the client sends is not reported
until then, so it is counted: audio at ten tokens a second, what the model speaks at twenty (OpenAI, "Managing costs").
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import msgspec

from policyd.core.errors import BodyUnreadable
from policyd.core.usage import Usage
from policyd.providers.base import ErrorInfo, RawRequest
from policyd.providers.openai.errors import error_code, error_fields
from policyd.providers.openai.responses_usage import is_complete, read_usage
from policyd.providers.realtime import (
    NOTHING_RECEIVED,
    NOTHING_SENT,
    Received,
    ResponseEnd,
    Sent,
    Transcription,
    base64_bytes,
    texts_of,
)
from policyd.providers.reply_values import Json, count, decode, mapping, text
from policyd.providers.request_body import decode_request

OUTPUT_TOKENS_MAX = 4096
"""What bounds a response that sets no maximum ("inf"): the API's own largest number for one."""

IMAGE_TOKENS = 1_600
"""What an image of the client's is taken for: stated, not measured."""

_INPUT_TOKENS_PER_SECOND = 10
_OUTPUT_TOKENS_PER_SECOND = 20
_PCM_BYTES_PER_SECOND = 48_000
_G711_BYTES_PER_SECOND = 8_000

_MEDIA = ("audio", "image_url")
_AUDIO_DELTAS = ("response.audio.delta", "response.output_audio.delta")
_QUERY_PARAMETERS_MAX = 100


class OpenAIRealtime:
    """The `RealtimeFormat` of OpenAI Realtime."""

    name = "openai-realtime"

    def reader(self, request: RawRequest) -> OpenAIRealtimeReader:
        try:
            query = dict(reversed(parse_qsl(request.query, max_num_fields=_QUERY_PARAMETERS_MAX)))
        except ValueError:
            raise BodyUnreadable("the query has too many parameters") from None
        if "call_id" in query:
            raise BodyUnreadable("the query's call_id: expected none, because the call itself does not pass here")
        return OpenAIRealtimeReader(model=query.get("model") or query.get("deployment") or "")

    def error_message(self, error: ErrorInfo) -> bytes:
        return msgspec.json.encode({"type": "error", "event_id": "event_policyd", "error": error_fields(error)})


class OpenAIRealtimeReader:
    """A `RealtimeReader`."""

    def __init__(self, *, model: str) -> None:
        self.model = model
        self.response_model: str | None = None
        self.max_output_tokens: int | None = OUTPUT_TOKENS_MAX
        self._only_transcribes = not model
        self._transcription_model = ""
        self._input_bytes_per_second = _PCM_BYTES_PER_SECOND
        self._output_bytes_per_second = _PCM_BYTES_PER_SECOND

    # --- from the client ---

    def read_sent(self, message: bytes) -> Sent:
        event = decode_request(message, decisive=("type", "session", "response", "item", "audio"))
        match event.get("type"):
            case "session.update" | "transcription_session.update":
                return self._configure(mapping(event.get("session")))
            case "input_audio_buffer.append":
                return Sent(tokens=self._input_audio_tokens(event.get("audio")))
            case "conversation.item.create":
                return self._content(event)
            case "response.create":
                self._raise_maximum(mapping(event.get("response")))
                content = self._content(event)
                return Sent(text=content.text, tokens=content.tokens, responses=1)
            case _:
                return NOTHING_SENT

    def _configure(self, session: Json) -> Sent:
        transcription = _transcription(session)
        self._transcription_model = text(transcription.get("model")) or self._transcription_model
        if self._only_transcribes:
            self.model = self._transcription_model
        maximum = _maximum(session)
        if maximum is not None:
            self.max_output_tokens = maximum
        self._read_formats(session)
        return Sent(text=texts_of(session, media=_MEDIA))

    def _raise_maximum(self, response: Json) -> None:
        """A response may set a maximum of its own."""
        maximum = _maximum(response)
        if maximum is not None and self.max_output_tokens is not None:
            self.max_output_tokens = max(maximum, self.max_output_tokens)

    def _content(self, event: Json) -> Sent:
        tokens = 0
        waiting: list[Any] = [event]
        while waiting:
            one = waiting.pop()
            if isinstance(one, list):
                waiting += one
            elif isinstance(one, dict):
                waiting += one.values()
                if isinstance(one.get("audio"), str):
                    tokens += self._input_audio_tokens(one["audio"])
                if one.get("image_url") is not None:
                    tokens += IMAGE_TOKENS
        return Sent(text=texts_of(event, media=_MEDIA), tokens=tokens)

    def _input_audio_tokens(self, audio: Any) -> int:
        return -(-base64_bytes(audio) * _INPUT_TOKENS_PER_SECOND // self._input_bytes_per_second)

    # --- from the provider ---

    def read_received(self, message: bytes) -> Received:
        event = mapping(decode(message))
        kind = text(event.get("type"))
        match kind:
            case "session.created" | "session.updated":
                session = mapping(event.get("session"))
                self.response_model = text(session.get("model")) or self.response_model
                self._read_formats(session)
                return NOTHING_RECEIVED
            case "response.created":
                return Received(began=True)
            case "input_audio_buffer.committed":
                return Received(began=self._only_transcribes)
            case "response.done":
                return Received(ended=_end(event))
            case "conversation.item.input_audio_transcription.completed":
                return self._transcribed(event)
            case _:
                return self._delta(kind, event) if kind.endswith(".delta") else Received(refused=kind == "error")

    def _delta(self, kind: str, event: Json) -> Received:
        if kind in _AUDIO_DELTAS:
            spoken = base64_bytes(event.get("delta"))
            return Received(audio_tokens=-(-spoken * _OUTPUT_TOKENS_PER_SECOND // self._output_bytes_per_second))
        # The others are of what the client said.
        return Received(text=text(event.get("delta"))) if kind.startswith("response.") else NOTHING_RECEIVED

    def _transcribed(self, event: Json) -> Received:
        """Whether or not its usage is told, a session that only transcribes is charged by it."""
        if event.get("status", "completed") != "completed":
            return NOTHING_RECEIVED  # xAI sends it while the speech goes on, too.
        usage = _transcription_usage(mapping(event.get("usage")))
        if self._only_transcribes:
            ended = ResponseEnd(usage, is_remembered=False)
            return Received(text=text(event.get("transcript")), ended=ended)
        if usage is None:
            return NOTHING_RECEIVED
        return Received(transcription=Transcription(self._transcription_model, usage))

    def _read_formats(self, session: Json) -> None:
        audio = mapping(session.get("audio"))
        spoken = session.get("input_audio_format") or mapping(audio.get("input")).get("format")
        self._input_bytes_per_second = _bytes_per_second(spoken) or self._input_bytes_per_second
        heard = session.get("output_audio_format") or mapping(audio.get("output")).get("format")
        self._output_bytes_per_second = _bytes_per_second(heard) or self._output_bytes_per_second


def _end(event: Json) -> ResponseEnd:
    response = mapping(event.get("response"))
    reported = mapping(response.get("usage")) or mapping(event.get("usage"))
    failed = response.get("status") == "failed"
    return ResponseEnd(
        usage=read_usage(reported),
        complete=is_complete(reported),
        error=error_code(mapping(response.get("status_details")).get("error")) if failed else None,
    )


def _transcription(session: Json) -> Json:
    """What is set about transcribing the client's speech: the newer form nests it."""
    nested = mapping(mapping(session.get("audio")).get("input")).get("transcription")
    return mapping(nested or session.get("input_audio_transcription"))


def _transcription_usage(reported: Json) -> Usage | None:
    """By tokens; of a model that is charged by the second, the tokens that so much audio has."""
    seconds = reported.get("seconds")
    if reported.get("type") == "duration" and isinstance(seconds, int | float) and count(int(seconds)) is not None:
        return Usage(audio_input=(int(seconds) + (seconds % 1 > 0)) * _INPUT_TOKENS_PER_SECOND)
    return read_usage(reported)


def _maximum(settings: Json) -> int | None:
    """The maximum that is set for a response's output; `None` where none is."""
    value = settings.get("max_output_tokens", settings.get("max_response_output_tokens"))
    return OUTPUT_TOKENS_MAX if value == "inf" else count(value) or None


def _bytes_per_second(audio_format: Any) -> int | None:
    """What a second of audio takes in a format, in its older form (`pcm16`) or its newer one; `None` if not told."""
    name = text(audio_format) or text(mapping(audio_format).get("type"))
    match name:
        case "":
            return None
        case "pcm16" | "audio/pcm":
            return _PCM_BYTES_PER_SECOND
        case _:
            return _G711_BYTES_PER_SECOND
