"""Reading replies to InvokeModel: in the form of the model's maker, with Bedrock's own numbers beside it.

A stream wraps each of the maker's events in base64 into an event `chunk`, and adds Bedrock's numbers to the last one; a
document has them in the reply's headers. The maker's own count wins where there is one: it is the finer one, and the
one that counts all output (Bedrock leaves out what opens a call of a tool).
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from typing import Any

from policyd.core.usage import Usage
from policyd.providers.anthropic.reply import AnthropicReply
from policyd.providers.base import RequestFacts
from policyd.providers.bedrock.converse_reply import CONVERSE_EVENTS, ConverseReply
from policyd.providers.bedrock.errors import error_in_document, error_in_event, error_in_headers
from policyd.providers.bedrock.maker_reply import MakerReply
from policyd.providers.bedrock.model import names_model
from policyd.providers.bedrock.usage import METRICS, headers_as_usage, is_complete, metrics_as_usage, read_usage
from policyd.providers.framing.frame import Frame
from policyd.providers.openai.reply import OpenAIChatReply
from policyd.providers.reply_values import NOTHING, Json, decode, mapping, objects, term, text

_TIER_HEADER = "x-amzn-bedrock-service-tier"

_Reader = AnthropicReply | ConverseReply | MakerReply | OpenAIChatReply


class InvokeReply:
    """A `ReplyReader` for whatever a model answers with. Its first part tells whose form it has."""

    document_members = ("type", "model", "usage", "error", "message", "__type", *MakerReply.document_members)
    telling = None

    __slots__ = ("_error", "_facts", "_measured", "_reader", "_terms")

    def __init__(self, facts: RequestFacts) -> None:
        self._facts = facts
        self._reader: _Reader = MakerReply(output_tokens_max=facts.max_output_tokens)
        self._measured: Json = NOTHING
        """What Bedrock itself counted, as a Converse usage object."""
        self._terms: dict[str, str] = {}
        self._error: str | None = None

    @property
    def usage(self) -> Usage | None:
        if self._reader.usage_complete:
            return self._reader.usage
        return read_usage(self._measured) or self._reader.usage

    @property
    def usage_complete(self) -> bool:
        return self._reader.usage_complete or is_complete(self._measured)

    @property
    def model(self) -> str | None:
        """The maker's name for it, where the request gave none: it is not Bedrock's, by which the price is found."""
        return None if names_model(self._facts.model) else self._reader.model

    @property
    def terms(self) -> Mapping[str, str]:
        return self._terms

    @property
    def error(self) -> str | None:
        return self._error or self._reader.error

    def read_headers(self, headers: Mapping[str, str]) -> None:
        self._error = error_in_headers(headers)
        self._terms.update(term("service_tier", headers.get(_TIER_HEADER)))
        self._measure(headers_as_usage(headers))

    def read_document(self, document: Mapping[str, Any], *, partial: bool = False) -> None:
        self._error = self._error or error_in_document(document)
        self._reader = _reader_of(document, self._facts) or self._reader
        self._reader.read_document(document, partial=partial)

    def read_frame(self, frame: Frame) -> bool:
        if frame.event == "chunk":
            self._read_chunk(_unwrap(frame.data))
        else:
            self._error = error_in_event(frame.event) or self._error
        return True

    def take_text(self) -> str:
        return self._reader.take_text()

    def _read_chunk(self, data: bytes) -> None:
        event = mapping(decode(data))
        if isinstance(self._reader, MakerReply):
            self._reader = _reader_of(event, self._facts) or self._reader
        match self._reader:
            case AnthropicReply():
                self._reader.read_frame(Frame(b"", "", data))
            case OpenAIChatReply() if _is_delta(event):
                self._reader.read_frame(Frame(b"", "", data))
            case OpenAIChatReply():
                # Mistral's models send a piece as if it were a whole reply.
                self._reader.read_document(event)
            case ConverseReply():
                for name, value in event.items():
                    self._reader.read_event(name, mapping(value))
            case MakerReply():
                self._reader.read_event(event)
        if METRICS in event:
            self._measure(metrics_as_usage(mapping(event[METRICS])))

    def _measure(self, reported: Json) -> None:
        if self._facts.max_output_tokens == 0 and reported.get("inputTokens") is not None:
            reported = {**reported, "outputTokens": 0}
        self._measured = reported


def _reader_of(part: Json, facts: RequestFacts) -> _Reader | None:
    """A reader for replies of the form of `part`; `None` for a form that no API outside of Bedrock has."""
    usage = mapping(part.get("usage"))
    if "choices" in part or "prompt_tokens" in usage:
        return OpenAIChatReply(facts, usage_added=False)
    if "type" in part or "input_tokens" in usage:
        return AnthropicReply()
    if "output" in part or "inputTokens" in usage or not CONVERSE_EVENTS.isdisjoint(part):
        return ConverseReply()
    return None


def _is_delta(chunk: Json) -> bool:
    choices = objects(chunk.get("choices"))
    return not choices or "delta" in choices[0]


def _unwrap(chunk: bytes) -> bytes:
    """The maker's event inside of an event `chunk`; nothing for what is none."""
    try:
        return b64decode(text(mapping(decode(chunk)).get("bytes")))
    except (Base64Error, ValueError):
        return b""
