"""Reading Cohere's replies: a JSON document, or the events of a stream (SSE for v2, JSON lines for v1).

Usage comes once, with the end: in `usage` of a v2 chat and in `meta` of everything else. No reply names its model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policyd.providers.cohere.usage import read_usage
from policyd.providers.framing.frame import Frame
from policyd.providers.reply_reading import ReplyReading
from policyd.providers.reply_values import NOTHING, Json, decode, json_text, mapping, objects, text, word

_FAILURES = ("ERROR", "TIMEOUT")
"""How the reasons begin that say that a reply ended in failure (`ERROR`, `ERROR_LIMIT`, `ERROR_TOXIC`, `TIMEOUT`)."""


class CohereReply(ReplyReading):
    """A `ReplyReader` for replies that are documents without text: embeddings, rankings."""

    document_members = ("usage", "meta", "finish_reason")

    __slots__ = ()

    @property
    def usage_complete(self) -> bool:
        return self._usage is not None

    def read_document(self, document: Mapping[str, Any], *, partial: bool = False) -> None:
        self._read_end(document)
        if not partial:
            self._read_error(document)
            self._read_text(document)

    def read_frame(self, frame: Frame) -> bool:
        event = mapping(decode(frame.data)) if frame.data else NOTHING
        self._read_error(event)
        self._read_event(event)
        return True

    def _read_end(self, end: Json) -> None:
        """What comes with the end of a reply: in a document, and in the last event of a stream."""
        self._usage = read_usage(mapping(end.get("usage"))) or read_usage(mapping(end.get("meta"))) or self._usage
        reason = text(end.get("finish_reason"))
        if reason.startswith(_FAILURES) or end.get("error") is not None:
            self._error = word(reason) or "error"

    def _read_error(self, document: Json) -> None:
        """An error is a document of its own, in a stream too, that has a message and no code."""
        if isinstance(document.get("message"), str) and not document.keys() & {"meta", "usage"}:
            self._error = self._error or "error"

    def _read_text(self, document: Json) -> None:
        """Adds the output of a document."""

    def _read_event(self, event: Json) -> None:
        """Reads one event of a stream."""

    def _add(self, part: Json, *names: str) -> None:
        self._texts += [text(part.get(name)) for name in names]


class CohereChatReply(CohereReply):
    """A `ReplyReader` for v2 chat."""

    __slots__ = ()

    def _read_text(self, document: Json) -> None:
        message = mapping(document.get("message"))
        self._add(message, "tool_plan")
        for part in objects(message.get("content")):
            self._add(part, "text", "thinking")
        for call in objects(message.get("tool_calls")):
            self._add(mapping(call.get("function")), "name", "arguments")

    def _read_event(self, event: Json) -> None:
        delta = mapping(event.get("delta"))
        if event.get("type") == "message-end":
            self._read_end(delta)
            return
        message = mapping(delta.get("message"))
        self._add(message, "tool_plan")
        self._add(mapping(message.get("content")), "text", "thinking")
        self._add(mapping(mapping(message.get("tool_calls")).get("function")), "name", "arguments")


class CohereChatV1Reply(CohereReply):
    """A `ReplyReader` for v1 chat and for generate, whose streams have the same form."""

    __slots__ = ("_calls_seen",)

    def __init__(self) -> None:
        super().__init__()
        self._calls_seen = False
        """Whether calls of tools came piece by piece: they come again in one piece then."""

    def _read_text(self, document: Json) -> None:
        self._add(document, "text")
        for generation in objects(document.get("generations")):
            self._add(generation, "text")
        self._add_calls(document)

    def _read_event(self, event: Json) -> None:
        match event.get("event_type"):
            case "text-generation":
                self._add(event, "text")
            case "tool-calls-chunk":
                self._calls_seen = True
                self._add(event, "text")
                self._add(mapping(event.get("tool_call_delta")), "name", "parameters")
            case "tool-calls-generation" if not self._calls_seen:
                self._add(event, "text")
                self._add_calls(event)
            case "stream-end":
                self._read_end(event)
                self._read_end(mapping(event.get("response")))
            case "stream-error":
                self._error = word(event.get("finish_reason")) or "error"
            case _:
                pass

    def _add_calls(self, document: Json) -> None:
        for call in objects(document.get("tool_calls")):
            self._add(call, "name")
            self._texts.append(json_text(call.get("parameters")))
