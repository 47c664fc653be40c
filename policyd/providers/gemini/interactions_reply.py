"""Reading the replies to interactions: a JSON document, or a stream of typed events of which the last has the usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policyd.core.usage import Usage
from policyd.providers.base import RequestFacts
from policyd.providers.framing.frame import Frame
from policyd.providers.gemini.reply import charges_by_prompt, error_code
from policyd.providers.gemini.usage import Counts, modalities
from policyd.providers.reply_reading import ReplyReading
from policyd.providers.reply_values import (
    Json,
    count,
    decode,
    first_count,
    json_text,
    mapping,
    objects,
    term,
    text,
)


class InteractionReply(ReplyReading):
    """A `ReplyReader` for interactions. `usage_complete` waits for usage of an interaction that is over."""

    document_members = ("model", "agent", "status", "service_tier", "usage", "error")

    __slots__ = ("_facts", "_is_complete")

    def __init__(self, facts: RequestFacts) -> None:
        super().__init__()
        self._facts = facts
        self._is_complete = False

    @property
    def usage_complete(self) -> bool:
        return self._is_complete

    def read_document(self, document: Mapping[str, Any], *, partial: bool = False) -> None:
        self._read_interaction(document)
        self._read_error(document)
        for step in objects(document.get("steps")):
            self._add(step)

    def read_frame(self, frame: Frame) -> bool:
        event = mapping(decode(frame.data)) if frame.data else mapping(None)
        self._read_interaction(mapping(event.get("interaction")))
        self._read_error(event)
        self._add(mapping(event.get("step")))
        self._add(mapping(event.get("delta")))
        return True

    def _read_interaction(self, interaction: Json) -> None:
        self._model = text(interaction.get("model")) or text(interaction.get("agent")) or self._model
        self._terms.update(term("service_tier", text(interaction.get("service_tier")).lower()))
        reported = mapping(interaction.get("usage"))
        counts = _read_counts(reported)
        if counts is not None:
            self._usage = counts.usage(pieces=self._pieces(reported))
            wholes = (reported.get("total_input_tokens"), reported.get("total_output_tokens"))
            is_over = interaction.get("status") != "in_progress"
            self._is_complete = is_over and all(count(whole) is not None for whole in wholes)

    def _pieces(self, reported: Json) -> Usage:
        called = {"google_search": 0, "google_maps": 0}
        for tool in objects(reported.get("grounding_tool_count")):
            if (kind := text(tool.get("type"))) in called:
                called[kind] += first_count(tool.get("count"))
        searches = called["google_search"]
        return Usage(
            web_searches=min(1, searches) if charges_by_prompt(self._model or self._facts.model) else searches,
            map_searches=min(1, called["google_maps"]),
        )

    def _read_error(self, event: Json) -> None:
        if event.get("error") is not None:
            self._error = error_code(event["error"])

    def _add(self, item: Json) -> None:
        """Adds what the model wrote, in a whole step or in a piece of one; a tool's result is input."""
        if text(item.get("type")).endswith("_result"):
            return
        self._texts += [text(item.get("text")), text(item.get("name"))]
        arguments = item.get("arguments")
        self._texts.append(arguments if isinstance(arguments, str) else json_text(arguments) if arguments else "")
        content = item.get("content")
        for part in (*objects(content), *objects(item.get("summary")), mapping(content)):
            self._texts.append(text(part.get("text")))


def _read_counts(reported: Json) -> Counts | None:
    """The counts in an interaction's usage; `None` for one without any."""
    if count(reported.get("total_input_tokens")) is None and count(reported.get("total_output_tokens")) is None:
        return None
    return Counts(
        prompt=first_count(reported.get("total_input_tokens")),
        tool_use=first_count(reported.get("total_tool_use_tokens")),
        cached=first_count(reported.get("total_cached_tokens")),
        output=first_count(reported.get("total_output_tokens")),
        thoughts=first_count(reported.get("total_thought_tokens")),
        input_kinds=modalities(
            reported.get("input_tokens_by_modality"), reported.get("tool_use_tokens_by_modality"), amount="tokens"
        ),
        cached_kinds=modalities(reported.get("cached_tokens_by_modality"), amount="tokens"),
        output_kinds=modalities(reported.get("output_tokens_by_modality"), amount="tokens"),
    )
