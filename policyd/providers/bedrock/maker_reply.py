"""Reading the replies of models that Bedrock invokes in a form of their maker's which no API outside of it shares.

Titan, Llama, Mistral, Cohere and AI21 each name the generated text, the end of it and its tokens in their own way, in
documents and in the events of streams alike; some name no tokens at all. Counts in a stream are running totals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from policyd.core.usage import Usage
from policyd.providers.reply_values import Json, count, first_count, json_text, mapping, objects, text

_TEXTS = ("generation", "outputText", "completion", "text")
_LISTS = ("results", "generations", "outputs", "choices", "completions")
_ENDS = ("completionReason", "stop_reason", "finish_reason", "finishReason", "totalOutputTextTokenCount")
_INPUT_COUNTS = ("inputTextTokenCount", "prompt_token_count")
_OUTPUT_COUNTS = ("totalOutputTextTokenCount", "generation_token_count")


class MakerReply:
    """What such replies say, whoever made the model. They name no model, and errors come in Bedrock's own form."""

    document_members = (*_INPUT_COUNTS, *_OUTPUT_COUNTS, "results")
    telling = None
    model: str | None = None
    error: str | None = None

    __slots__ = ("_ended", "_input_tokens", "_output_tokens", "_texts")

    def __init__(self, *, output_tokens_max: int | None) -> None:
        """`output_tokens_max`: 0 for a reply without any, such as an embedding."""
        self._input_tokens: int | None = None
        self._output_tokens: int | None = 0 if output_tokens_max == 0 else None
        self._ended = False
        self._texts: list[str] = []

    @property
    def usage(self) -> Usage | None:
        if self._input_tokens is None and not self._output_tokens:
            return None
        return Usage(input=self._input_tokens or 0, output=self._output_tokens or 0)

    @property
    def usage_complete(self) -> bool:
        return self._ended and self._input_tokens is not None and self._output_tokens is not None

    def take_text(self) -> str:
        taken = "".join(self._texts)
        self._texts.clear()
        return taken

    def read_document(self, document: Mapping[str, Any], *, partial: bool = False) -> None:
        self.read_event(document)
        self._ended = True

    def read_event(self, event: Json) -> None:
        self._input_tokens = _latest(event, _INPUT_COUNTS, self._input_tokens)
        self._output_tokens = _latest(event, _OUTPUT_COUNTS, self._output_tokens)
        results = objects(event.get("results"))
        if any("tokenCount" in result for result in results):
            self._output_tokens = sum(first_count(result.get("tokenCount")) for result in results)
        for part in _parts(event):
            self._ended = self._ended or any(part.get(name) is not None for name in _ENDS)
            self._texts += [text(part.get(name)) for name in _TEXTS]
            for call in objects(part.get("tool_calls")):
                self._texts += [text(call.get("name")), json_text(call.get("parameters"))]


def _parts(event: Json) -> Iterator[Json]:
    """The objects that may hold text: the event, what it lists, and what is inside those."""
    yield event
    for name in _LISTS:
        for part in objects(event.get(name)):
            yield part
            yield mapping(part.get("data"))
            yield _as_text(mapping(part.get("message")))


def _as_text(message: Json) -> Json:
    """A chat message as the text that it is."""
    return {"text": message.get("content"), "tool_calls": message.get("tool_calls")}


def _latest(event: Json, names: tuple[str, ...], otherwise: int | None) -> int | None:
    return next((number for name in names if (number := count(event.get(name))) is not None), otherwise)
