"""Mistral's embeddings: OpenAI's in everything but the errors."""

from __future__ import annotations

from policyd.providers.base import ErrorInfo
from policyd.providers.mistral.errors import error_body, error_event
from policyd.providers.openai.embeddings import OpenAIEmbeddings


class MistralEmbeddings(OpenAIEmbeddings):
    """The `WireFormat` of embeddings."""

    name = "mistral-embeddings"

    def error_body(self, error: ErrorInfo) -> bytes:
        return error_body(error)

    def error_event(self, error: ErrorInfo) -> bytes:
        return error_event(error)
