"""Reading OpenAI Responses replies: one response object, or a stream of typed events that ends with one.

A stream says what it used in its last event alone: `response.completed`, `response.incomplete` or `response.failed`.
The response object that a background request is answered with has no usage at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from policyd.core.usage import NO_USAGE, Usage
from policyd.providers.framing.frame import Frame
from policyd.providers.openai.errors import error_code
from policyd.providers.openai.responses_tools import tool_calls
from policyd.providers.openai.responses_usage import is_complete, read_usage
from policyd.providers.reply_reading import ReplyReading
from policyd.providers.reply_values import Json, decode, json_text, mapping, objects, term, text

_FINAL = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
_AUDIO = ("response.audio.delta", "response.output_audio.delta")
_CALLS_IN_DELTAS = ("apply_patch_call", "shell_call")
_WHOLE_CALLS = ("local_shell_call", "computer_call")


class OpenAIResponsesReply(ReplyReading):
    """A `ReplyReader` for responses and for compactions."""

    document_members = ("model", "usage", "service_tier", "status", "error", "tool_usage", "output")
    telling = re.compile(rb'"response"\s*:|"usage"|error')

    __slots__ = ("_ended", "_reported")

    def __init__(self) -> None:
        super().__init__()
        self._ended = False
        self._reported: Json = {}

    @property
    def usage_complete(self) -> bool:
        return self._ended and is_complete(self._reported)

    def read_document(self, document: Mapping[str, Any], *, partial: bool = False) -> None:
        self._ended = True
        self._read_response(document)
        if not partial:
            for item in objects(document.get("output")):
                self._add_item(item)

    def read_frame(self, frame: Frame) -> bool:
        event = mapping(decode(frame.data)) if frame.data else {}
        kind = text(event.get("type")) or frame.event
        self._ended = self._ended or kind in _FINAL
        self._read_response(mapping(event.get("response")))
        if kind == "error" or event.get("error") is not None:
            self._error = error_code(event.get("error") or event)
        if kind == "response.output_item.added":
            self._texts.append(text(mapping(event.get("item")).get("name")))
        elif kind == "response.output_item.done":
            self._add_whole_call(mapping(event.get("item")))
        elif kind.endswith(".delta") and kind not in _AUDIO:
            self._texts.append(text(event.get("delta")))
        return True

    def _read_response(self, response: Json) -> None:
        self._model = text(response.get("model")) or self._model
        if response.get("service_tier") != "auto":
            # Not decided yet.
            self._terms.update(term("service_tier", response.get("service_tier")))
        if response.get("error") is not None or response.get("status") == "failed":
            self._error = error_code(response.get("error"))
        reported = mapping(response.get("usage"))
        usage = read_usage(reported)
        if usage is not None:
            self._reported = reported
            self._usage = _with_tools(usage, reported, response)

    def _add_item(self, item: Json) -> None:
        """Adds the text that an item of the output was generated as."""
        self._texts += [text(item.get(name)) for name in ("name", "arguments", "input", "code")]
        for part in (*objects(item.get("content")), *objects(item.get("summary"))):
            self._texts += [text(part.get("text")), text(part.get("refusal"))]
        for call in ("operation", "action"):
            if item.get("type") in _CALLS_IN_DELTAS and isinstance(item.get(call), dict):
                self._texts.append(json_text(item[call]))
        self._add_whole_call(item)

    def _add_whole_call(self, item: Json) -> None:
        """Adds a call that no delta of a stream has: it comes whole, when it is done."""
        if isinstance(item.get("arguments"), dict):
            self._texts.append(json_text(item["arguments"]))
        if item.get("type") in _WHOLE_CALLS:
            self._texts.append(json_text(item.get("action")))


def _with_tools(usage: Usage, reported: Json, response: Json) -> Usage:
    """`usage` with what the provider's own tools used, which its token counts leave out.

    The image tool runs another model. Its tokens are charged at the rates of the one that was asked.
    """
    images = read_usage(mapping(mapping(response.get("tool_usage")).get("image_gen"))) or NO_USAGE
    return usage + images + tool_calls(response, reported)
