"""Reading OpenAI chat and legacy completion replies: a JSON document, or a stream of chunks that `[DONE]` ends.

Where usage stands in a stream differs: in a last chunk without choices (OpenAI), in the last chunk with one, in every
chunk as a running total, or in `x_groq.usage`. It is taken wherever it is seen, and the last one counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from policyd.core.usage import Usage
from policyd.providers.base import RequestFacts
from policyd.providers.framing.frame import Frame
from policyd.providers.leaves import ReplyLeaves, beneath, json_event
from policyd.providers.openai.errors import error_code
from policyd.providers.openai.usage import USAGE_LEAVES, is_complete, read_usage
from policyd.providers.reply_values import Json, decode, first_count, json_text, mapping, objects, term, text


class OpenAIChatReply:
    """A `ReplyReader` for chat completions and for legacy ones.

    `usage_complete` waits for the end of the output where usage comes in many chunks: for every choice's finish reason,
    a usage chunk without choices, or `[DONE]`.
    """

    document_members = ("model", "usage", "service_tier", "error")
    # Without the quotation marks before the names, of which every event is full.
    telling = re.compile(rb'usage"\s*:\s*\{|error"|x_groq"|finish_reason"\s*:\s*"|\[DONE\]|event:')

    __slots__ = (
        "_counts_all",
        "_ended",
        "_error",
        "_facts",
        "_finished",
        "_model",
        "_terms",
        "_texts",
        "_usage",
        "_usage_added",
    )

    def __init__(self, facts: RequestFacts, *, usage_added: bool) -> None:
        self._facts = facts
        self._usage_added = usage_added
        self._usage: Usage | None = None
        self._counts_all = False
        """Whether `usage` counts both input and output."""
        self._model: str | None = None
        self._terms: dict[str, str] = {}
        self._error: str | None = None
        self._texts: list[str] = []
        self._finished: set[int] = set()
        """The choices whose finish reason was seen."""
        self._ended = False

    @property
    def usage(self) -> Usage | None:
        return self._usage

    @property
    def usage_complete(self) -> bool:
        return self._counts_all and (self._ended or len(self._finished) >= self._facts.choices)

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
        self._ended = True
        self._read_common(document)
        if not partial:
            self._read_choices(document, "message")
            self._read_bare_error(document)

    def read_frame(self, frame: Frame) -> bool:
        if not frame.data:
            return True
        if frame.data.strip() == b"[DONE]":
            self._ended = True
            return True
        chunk = mapping(decode(frame.data))
        self._read_common(chunk)
        self._read_choices(chunk, "delta")
        if frame.event == "error" and self._error is None:
            self._error = "error"
        usage_only = chunk.get("choices") == [] and mapping(chunk.get("usage")) != {}
        if usage_only:
            self._ended = True
        return not (usage_only and self._usage_added)

    def take_text(self) -> str:
        taken = "".join(self._texts)
        self._texts.clear()
        return taken

    def _read_common(self, document: Json) -> None:
        """What documents and chunks have in common."""
        self._model = text(document.get("model")) or self._model
        if "service_tier" in document:
            self._terms.update(term("service_tier", document["service_tier"]))
        if "x_groq" in document:
            self._read_usage(mapping(mapping(document["x_groq"]).get("usage")))
        if "usage" in document:
            self._read_usage(mapping(document["usage"]))
        if document.get("error") is not None:
            self._error = error_code(document["error"])

    def _read_usage(self, reported: Json) -> None:
        usage = read_usage(reported)
        if usage is None:
            return
        self._counts_all = is_complete(reported)
        # A search model searches for every request, and reports the search nowhere.
        self._usage = usage.with_pieces_of(self._facts.pieces_min)
        for name in _TERMS:
            if name in reported:
                self._terms.update(term(name, reported[name]))

    def _read_choices(self, document: Json, part: str) -> None:
        for choice in objects(document.get("choices")):
            if choice.get("finish_reason") is not None and len(self._finished) < self._facts.choices:
                self._finished.add(first_count(choice.get("index")))
            # A legacy completion has its text in the choice itself.
            self._add(choice.get("text"))
            message = mapping(choice.get(part))
            self._add(message.get("content"))
            self._add(message.get("refusal"))
            self._add(message.get("reasoning_content") or message.get("reasoning"))
            self._add(mapping(message.get("audio")).get("transcript"))
            self._add_call(message.get("function_call"))
            for call in objects(message.get("tool_calls")):
                self._add_call(call.get("function"))
                self._add_call(call.get("custom"))

    def _add_call(self, call: Any) -> None:
        call = mapping(call)
        self._add(call.get("name"))
        self._add(call.get("arguments"))
        self._add(call.get("input"))

    def _add(self, value: Any) -> None:
        """Adds output text: plain, in parts (Mistral), or as the object that it stands for (Cloudflare)."""
        if isinstance(value, str):
            self._texts.append(value)
        elif isinstance(value, list):
            for part in objects(value):
                # A part is text itself, or thinking in parts of its own.
                self._texts += [text(piece.get("text")) for piece in (part, *objects(part.get("thinking")))]
        elif value is not None:
            self._texts.append(json_text(value))

    def _read_bare_error(self, document: Json) -> None:
        """Mistral's errors are not wrapped: the document is the error."""
        if document.get("object") == "error" and self._error is None:
            self._error = error_code(document)


_COMMON_LEAVES = ("model", "service_tier", "error.type", "error.code")
_TERMS = ("service_tier", "search_context_size")


class OpenAIChatReplies:
    """The part of a `WireFormat` whose replies are these, which makes it a `LeafFormat`."""

    reply_leaves = ReplyLeaves(
        document=(*_COMMON_LEAVES, "object", *beneath("usage", (*USAGE_LEAVES, *_TERMS))),
        events=(*_COMMON_LEAVES, "usage", "x_groq.usage"),
    )

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> OpenAIChatReply:
        return OpenAIChatReply(facts, usage_added=usage_added)

    def leaf_events(self, found: Json, *, ended: bool) -> Iterator[Frame]:
        yield json_event(found)
        if ended:
            yield _DONE


_DONE = Frame(raw=b"", event="", data=b"[DONE]")
