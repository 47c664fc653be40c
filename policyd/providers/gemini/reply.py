"""Reading Gemini's replies: a JSON document, or a stream of chunks of its form, as server-sent events or as the
elements of one array.

Every chunk of a stream carries usage as a running total, and the chunk that ends the reply the final one. Where Google
runs tools, the chunks between count the round that they are of, and only the last one counts them all: until it has
come, the largest of each count is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from policyd.core.usage import Usage
from policyd.providers.base import RequestFacts
from policyd.providers.framing.frame import Frame
from policyd.providers.gemini.usage import COUNT_NAMES, Counts, read_metadata
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
    word,
)

_SEARCHES_BY_PROMPT = re.compile(r"gemini-(?:live-)?[12]\.")
"""Models whose searches are charged once a prompt, however many queries it takes. Later ones charge each query that is
not empty, once. (Google, "Grounding with Google Search".)"""

_TRAFFIC_TIERS = {"ON_DEMAND_FLEX": "flex", "ON_DEMAND_PRIORITY": "priority"}
"""How Vertex AI says which service tier it was."""


class GeminiReply(ReplyReading):
    """A `ReplyReader` for `generateContent` and `streamGenerateContent`.

    `usage_complete` waits for usage that comes with or after every candidate's finish reason.
    """

    document_members = ("modelVersion", "usageMetadata", "promptFeedback", "candidates", "error")

    __slots__ = ("_counts", "_facts", "_final", "_finished", "_mapped", "_queries", "_reported", "_unseen_searches")

    def __init__(self, facts: RequestFacts) -> None:
        super().__init__()
        self._facts = facts
        self._reported: dict[str, Any] = {}
        self._counts: Counts | None = None
        self._final = False
        self._finished: set[int] = set()
        """The candidates whose finish reason was seen."""
        self._queries: set[str] = set()
        self._mapped: set[int] = set()
        """The candidates that were grounded on maps."""
        self._unseen_searches = 0
        """How many searches a reply may have had of which only some members were kept."""

    @property
    def usage_complete(self) -> bool:
        return self._final and count(self._reported.get("promptTokenCount")) is not None

    def read_document(self, document: Mapping[str, Any], *, partial: bool = False) -> None:
        self._finished.update(range(self._facts.choices))
        if partial and "candidates" not in document:
            self._unseen_searches = self._facts.pieces_max.web_searches
        self._read(document)

    def read_frame(self, frame: Frame) -> bool:
        if frame.data:
            self._read(mapping(decode(frame.data)))
        return True

    def _read(self, chunk: Json) -> None:
        self._model = text(chunk.get("modelVersion")) or self._model
        self._read_refusal(chunk)
        for candidate in objects(chunk.get("candidates")):
            self._read_candidate(candidate)
        self._read_usage(mapping(chunk.get("usageMetadata")))
        if self._counts is not None:
            pieces = Usage(web_searches=self._searches(), map_searches=len(self._mapped))
            self._usage = self._counts.usage(pieces=pieces)

    def _read_refusal(self, chunk: Json) -> None:
        if chunk.get("error") is not None:
            self._error = error_code(chunk["error"])
        blocked = mapping(chunk.get("promptFeedback")).get("blockReason")
        if blocked:
            self._error = word(blocked) or "blocked"
            self._finished.update(range(self._facts.choices))

    def _read_candidate(self, candidate: Json) -> None:
        if candidate.get("finishReason") and len(self._finished) < self._facts.choices:
            self._finished.add(first_count(candidate.get("index")))
        grounding = mapping(candidate.get("groundingMetadata"))
        for name in ("webSearchQueries", "imageSearchQueries"):
            queries = grounding.get(name)
            self._queries.update(filter(None, map(text, queries if isinstance(queries, list) else ())))
        if any("maps" in chunk for chunk in objects(grounding.get("groundingChunks"))):
            self._mapped.add(first_count(candidate.get("index")))
        for part in objects(mapping(candidate.get("content")).get("parts")):
            self._add_part(part)

    def _add_part(self, part: Json) -> None:
        """Adds what the model wrote; results of tools that ran at Google's are input."""
        call = mapping(part.get("functionCall") or part.get("toolCall"))
        self._texts += [text(part.get("text")), text(call.get("name"))]
        self._texts.append(text(mapping(part.get("executableCode")).get("code")))
        if mapping(call.get("args")):
            self._texts.append(json_text(call["args"]))
        # Arguments that come in pieces.
        self._texts += [text(piece.get("stringValue")) for piece in objects(call.get("partialArgs"))]

    def _read_usage(self, reported: Json) -> None:
        self._terms.update(term("service_tier", text(reported.get("serviceTier")).lower()))
        self._terms.update(term("service_tier", _TRAFFIC_TIERS.get(text(reported.get("trafficType")))))
        finished = len(self._finished) >= self._facts.choices
        merged = {**reported} if finished else {**self._reported, **reported, **self._largest_counts(reported)}
        counts = read_metadata(merged) if reported else None
        if counts is not None:
            self._reported = merged
            self._counts = counts
            self._final = finished

    def _largest_counts(self, reported: Json) -> dict[str, int]:
        return {
            name: max(first_count(self._reported[name]), first_count(reported.get(name)))
            for name in COUNT_NAMES
            if name in self._reported
        }

    def _searches(self) -> int:
        searches = max(len(self._queries), self._unseen_searches)
        return min(1, searches) if charges_by_prompt(self._model or self._facts.model) else searches


def charges_by_prompt(model: str) -> bool:
    """Whether the searches for one prompt to `model` are charged as one."""
    return _SEARCHES_BY_PROMPT.search(model) is not None


def error_code(error: Any) -> str:
    """An error's status (`RESOURCE_EXHAUSTED`), or its number."""
    fields = mapping(error)
    code = fields.get("code")
    return word(fields.get("status")) or word(str(code) if isinstance(code, int) else code) or "error"
