"""Ollama's own endpoints: chat, generate and embeddings, answered by models that run locally or in Ollama's cloud."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import OUTPUT_TOKENS_MAX, ErrorInfo, Prompt, RawRequest, RequestEdits, RequestFacts, Vendor
from policyd.providers.framing.json_edit import remove_member, set_member
from policyd.providers.ollama.prompt import chat_prompt, embed_prompt, generate_prompt
from policyd.providers.ollama.reply import OllamaEmbedReply, OllamaReply
from policyd.providers.request_body import (
    Json,
    decode_request,
    fields_at,
    optional_boolean,
    optional_integer,
    optional_object,
    required_text,
)

_PREDICT_MIN = -2
"""-1 asks for no end and -2 for as much as the context holds; zero sets no maximum either."""


class _Ollama:
    """What the formats below have in common."""

    exact_vocabulary = False

    def __init__(self, name: str, *, read_prompt: Callable[[Json], Prompt], decisive: Sequence[str]) -> None:
        self.name = name
        self._read_prompt = read_prompt
        self._decisive = ("model", *decisive)

    def error_body(self, error: ErrorInfo) -> bytes:
        return msgspec.json.encode({"error": error.message, "policyd": error.policyd})

    def error_event(self, error: ErrorInfo) -> bytes:
        return self.error_body(error) + b"\n"

    def _read(self, body: bytes) -> tuple[Json, Prompt]:
        document = decode_request(body, decisive=self._decisive)
        try:
            return document, self._read_prompt(document)
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None


class OllamaText(_Ollama):
    """The `WireFormat` of chat and of generate, which differ in their prompts."""

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document, prompt = self._read(request.body)
        return RequestFacts(
            model=required_text(document, "model"),
            # A reply is a stream unless the request says otherwise.
            streamed=optional_boolean(document, "stream") is not False,
            prompt=prompt,
            max_output_tokens=_output_maximum(document),
            fields=fields_at(document, identity_fields),
        )

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        body = _strip(body, edits)
        if edits.max_output_tokens is not None:
            body = set_member(body, ("options", "num_predict"), b"%d" % edits.max_output_tokens)
        return body

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> OllamaReply:
        return OllamaReply()


class OllamaEmbed(_Ollama):
    """The `WireFormat` of embeddings, of the endpoint of today and the older one."""

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document, prompt = self._read(request.body)
        return RequestFacts(
            model=required_text(document, "model"),
            streamed=False,
            prompt=prompt,
            max_output_tokens=0,
            fields=fields_at(document, identity_fields),
        )

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        return _strip(body, edits)

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> OllamaEmbedReply:
        return OllamaEmbedReply()


def ollama_chat() -> OllamaText:
    return OllamaText("ollama-chat", read_prompt=chat_prompt, decisive=("messages", "tools", "stream", "options"))


def ollama_generate() -> OllamaText:
    decisive = ("prompt", "suffix", "system", "template", "context", "images", "stream", "options")
    return OllamaText("ollama-generate", read_prompt=generate_prompt, decisive=decisive)


def ollama_embed() -> OllamaEmbed:
    return OllamaEmbed("ollama-embed", read_prompt=embed_prompt, decisive=("input", "prompt"))


def _output_maximum(document: Json) -> int | None:
    options = optional_object(document, "options")
    maximum = optional_integer(
        options, "num_predict", minimum=_PREDICT_MIN, maximum=OUTPUT_TOKENS_MAX, inside="options."
    )
    return maximum if maximum is not None and maximum > 0 else None


def _strip(body: bytes, edits: RequestEdits) -> bytes:
    for path in edits.strip_fields:
        body = remove_member(body, path.split("."))
    return body
