"""Reading Anthropic's replies: a JSON document, or a stream of typed events.

In a stream of messages `message_start` carries the input and a first guess of the output; each `message_delta` brings
running totals that override what they name. The older completions report no usage at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from policyd.core.usage import Usage
from policyd.providers.anthropic.usage import USAGE_LEAVES, read_usage
from policyd.providers.framing.frame import Frame
from policyd.providers.leaves import ReplyLeaves, beneath, json_event
from policyd.providers.reply_values import Json, count, decode, json_text, mapping, objects, term, text, word


class AnthropicReply:
    """A `ReplyReader` for messages, completions and whatever else Anthropic answers with.

    `usage_complete` waits for a `message_delta`: before it the output is a guess.
    """

    document_members = ("type", "model", "usage", "error")
    telling = re.compile(rb'message_|completion|"usage"|error')

    __slots__ = ("_error", "_final", "_model", "_reported", "_terms", "_texts", "_usage")

    def __init__(self) -> None:
        self._reported: dict[str, Any] = {}
        """Every field of usage that was reported, the last value of each."""
        self._final = False
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
        return self._final and all(count(self._reported.get(name)) is not None for name in _REQUIRED)

    @property
    def model(self) -> str | None:
        return self._model

    @property
    def terms(self) -> Mapping[str, str]:
        return self._terms

    @property
    def error(self) -> str | None:
        return self._error

    def read_document(self, document: Mapping[str, Any], *, partial: bool = False) -> None:
        self._read_message(document)
        self._final = True
        self._read_error(document)
        if not partial:
            self._texts.append(text(document.get("completion")))
            for block in objects(document.get("content")):
                self._add_block(block)

    def read_frame(self, frame: Frame) -> bool:
        event = mapping(decode(frame.data)) if frame.data else mapping(None)
        match event.get("type") or frame.event:
            case "message_start":
                self._read_message(mapping(event.get("message")))
                self._final = False
            case "message_delta":
                self._read_usage(mapping(event.get("usage")))
                self._final = True
            case "content_block_start":
                self._add_block(mapping(event.get("content_block")))
            case "content_block_delta":
                delta = mapping(event.get("delta"))
                self._texts += [text(delta.get(name)) for name in ("text", "thinking", "partial_json")]
            case "completion":
                self._model = text(event.get("model")) or self._model
                self._texts.append(text(event.get("completion")))
            case _:
                self._read_error(event)
        return True

    def take_text(self) -> str:
        taken = "".join(self._texts)
        self._texts.clear()
        return taken

    def _read_message(self, message: Json) -> None:
        self._model = text(message.get("model")) or self._model
        self._read_usage(mapping(message.get("usage")))

    def _read_usage(self, reported: Json) -> None:
        self._reported.update({name: value for name, value in reported.items() if value is not None})
        self._usage = read_usage(self._reported)
        for name in _TERMS:
            self._terms.update(term(name, reported.get(name)))

    def _read_error(self, event: Json) -> None:
        if event.get("error") is not None:
            self._error = word(mapping(event["error"]).get("type")) or "error"

    def _add_block(self, block: Json) -> None:
        """Adds what the model wrote; results of tools that ran at the provider's are input."""
        self._texts += [text(block.get(name)) for name in ("text", "thinking", "name")]
        if mapping(block.get("input")):
            self._texts.append(json_text(block["input"]))


_REQUIRED = ("input_tokens", "output_tokens")

_TERMS = ("service_tier", "speed", "inference_geo")

REPLY_LEAVES = ReplyLeaves(
    document=("type", "model", "error.type", *beneath("usage", (*USAGE_LEAVES, *_TERMS))),
    events=("message.model", "message.usage", "usage", "error.type"),
)
"""Of messages. A document does not show `iterations` so, which come with beta features alone."""


def leaf_events(found: Json) -> Iterator[Frame]:
    """The events of a stream of messages that say what `found` says."""
    for kind, member in (("message_start", "message"), ("message_delta", "usage"), ("error", "error")):
        if member in found:
            yield json_event({"type": kind, member: found[member]})
