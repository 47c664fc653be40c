"""Reading replies to Converse: a JSON document, or an event stream whose last event carries the usage.

Nova answers in the same form where it is invoked by itself, but for the names of events, which are inside them there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policyd.core.usage import Usage
from policyd.providers.bedrock.errors import error_in_document, error_in_event, error_in_headers
from policyd.providers.bedrock.model import model_named
from policyd.providers.bedrock.usage import is_complete, read_usage
from policyd.providers.framing.frame import Frame
from policyd.providers.reply_values import NOTHING, Json, decode, json_text, mapping, objects, term, text

CONVERSE_EVENTS = frozenset(
    {"messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata"}
)
"""The events of a stream."""


class ConverseReply:
    """A `ReplyReader` for Converse. It names a model only where a prompt router chose one."""

    document_members = ("usage", "serviceTier", "trace", "message", "__type")
    telling = None

    __slots__ = ("_error", "_model", "_reported", "_terms", "_texts", "_usage")

    def __init__(self) -> None:
        self._reported: Json = NOTHING
        self._usage: Usage | None = None
        self._model: str | None = None
        self._terms: dict[str, str] = {}
        self._error: str | None = None
        self._texts: list[str] = []

    @property
    def usage(self) -> Usage | None:
        return self._usage

    @property
    def usage_complete(self) -> bool:
        return is_complete(self._reported)

    @property
    def model(self) -> str | None:
        return self._model

    @property
    def terms(self) -> Mapping[str, str]:
        return self._terms

    @property
    def error(self) -> str | None:
        return self._error

    def read_headers(self, headers: Mapping[str, str]) -> None:
        self._error = error_in_headers(headers)

    def read_document(self, document: Mapping[str, Any], *, partial: bool = False) -> None:
        self._read_metadata(document)
        self._error = self._error or error_in_document(document)
        if not partial:
            for block in objects(mapping(mapping(document.get("output")).get("message")).get("content")):
                self._add_block(block)

    def read_frame(self, frame: Frame) -> bool:
        self.read_event(frame.event, mapping(decode(frame.data)) if frame.data else NOTHING)
        return True

    def read_event(self, name: str, event: Json) -> None:
        """Takes one event of a stream."""
        match name:
            case "contentBlockStart":
                self._add_block(mapping(event.get("start")))
            case "contentBlockDelta":
                self._add_block(mapping(event.get("delta")))
            case "metadata":
                self._read_metadata(event)
            case _:
                self._error = error_in_event(name) or self._error

    def take_text(self) -> str:
        taken = "".join(self._texts)
        self._texts.clear()
        return taken

    def _read_metadata(self, metadata: Json) -> None:
        reported = mapping(metadata.get("usage"))
        if reported:
            self._reported = reported
            self._usage = read_usage(reported)
        self._terms.update(term("service_tier", mapping(metadata.get("serviceTier")).get("type")))
        chosen = mapping(mapping(metadata.get("trace")).get("promptRouter")).get("invokedModelId")
        self._model = model_named(text(chosen)) or self._model

    def _add_block(self, block: Json) -> None:
        """Adds what the model wrote, whole or a piece; results of tools that ran at AWS are input."""
        thought = mapping(block.get("reasoningContent"))
        call = mapping(block.get("toolUse"))
        self._texts += [text(block.get("text")), text(thought.get("text")), text(call.get("name"))]
        self._texts.append(text(mapping(thought.get("reasoningText")).get("text")))
        self._texts += [
            text(cited.get("text")) for cited in objects(mapping(block.get("citationsContent")).get("content"))
        ]
        arguments = call.get("input")
        if arguments:
            self._texts.append(arguments if isinstance(arguments, str) else json_text(arguments))
