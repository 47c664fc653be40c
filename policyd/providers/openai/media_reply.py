"""Reading the replies of OpenAI's image, speech and transcription endpoints.

Each is a JSON document with one usage object, or a stream of typed events whose last one has it. What is no JSON (raw
audio, a transcript as plain text) has no usage. A transcript by a model that is sold by the time has it instead of
tokens: `usage.seconds` (OpenAI), or `duration` (others, and OpenAI's verbose form).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policyd.core.usage import NO_USAGE, Usage
from policyd.providers.framing.frame import Frame
from policyd.providers.openai.errors import error_code
from policyd.providers.openai.responses_usage import is_complete, read_usage
from policyd.providers.reply_reading import ReplyReading
from policyd.providers.reply_values import Json, decode, mapping, milliseconds, text

_FINAL_SUFFIXES = (".completed", ".done")
"""`image_generation.completed`, `image_edit.completed`, `speech.audio.done`, `transcript.text.done`."""


class OpenAIMediaReply(ReplyReading):
    """A `ReplyReader` for them. `output_kind` is what the output is where the usage does not take it apart,
    `pieces_min` what is charged by the piece in any case.

    A stream of several images ends with as many last events, each with the usage of its own image.
    """

    document_members = ("model", "usage", "duration", "error")

    __slots__ = ("_are_complete", "_ended", "_expected", "_output_kind", "_pieces_min")

    def __init__(self, *, output_kind: str, pieces_min: Usage = NO_USAGE, streamed_results: int = 1) -> None:
        super().__init__()
        self._output_kind = output_kind
        self._pieces_min = pieces_min
        self._expected = streamed_results
        self._ended = 0
        self._are_complete = True

    @property
    def usage_complete(self) -> bool:
        return self._usage is not None and self._are_complete and self._ended >= self._expected

    def read_document(self, document: Mapping[str, Any], *, partial: bool = False) -> None:
        self._ended = self._expected
        self._read_result(document)
        if not partial:
            self._texts.append(text(document.get("text")))

    def read_frame(self, frame: Frame) -> bool:
        event = mapping(decode(frame.data)) if frame.data else {}
        kind = text(event.get("type")) or frame.event
        if kind.endswith(_FINAL_SUFFIXES):
            self._ended += 1
        self._read_result(event)
        if kind == "error" and self._error is None:
            self._error = error_code(event)
        elif kind == "transcript.text.delta":
            self._texts.append(text(event.get("delta")))
        return True

    def _read_result(self, result: Json) -> None:
        self._model = text(result.get("model")) or self._model
        if result.get("error") is not None:
            self._error = error_code(result["error"])
        reported = mapping(result.get("usage"))
        heard_ms = milliseconds(reported.get("seconds", result.get("duration")))
        usage = read_usage(reported)
        if usage is None and heard_ms is None:
            return
        self._are_complete = self._are_complete and (usage is None or is_complete(reported))
        usage = (usage or NO_USAGE)._replace(audio_input_ms=heard_ms or 0)
        if usage.output == usage.output_tokens:
            usage = usage._replace(**{"output": 0, self._output_kind: usage.output})
        self._usage = (self._usage or NO_USAGE) + usage
        self._usage = self._usage.with_pieces_of(self._pieces_min)
