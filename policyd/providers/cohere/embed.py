"""Cohere's endpoints that read and write no text: embeddings and reranking, each in both versions."""

from __future__ import annotations

from collections.abc import Sequence

from policyd.core.errors import BodyUnreadable
from policyd.core.usage import Usage
from policyd.providers.base import Prompt, RawRequest, RequestFacts, Vendor
from policyd.providers.cohere.format import CohereFormat
from policyd.providers.cohere.prompt import embed_prompt, rerank_prompt
from policyd.providers.cohere.reply import CohereReply
from policyd.providers.ranking import rerank_pieces
from policyd.providers.request_body import Json, decode_request, fields_at, optional_text

EMBED_MODEL = "embed-english-v2.0"
"""What v1 embeds with where a request names no model; v2 asks for one."""
RERANK_MODEL = "rerank-english-v2.0"
"""What v1 ranks with where a request names no model; v2 asks for one."""


class CohereEmbed(CohereFormat):
    """The `WireFormat` of embeddings."""

    name = "cohere-embed"

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=("model", "texts", "images", "inputs"))
        try:
            prompt = embed_prompt(document)
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None
        images = Usage(images_read=len(prompt.images))
        return _facts(document, prompt, model=EMBED_MODEL, pieces=(images, images), identity=identity_fields)

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> CohereReply:
        return CohereReply()


class CohereRerank(CohereFormat):
    """The `WireFormat` of reranking."""

    name = "cohere-rerank"

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=("model", "query", "documents"))
        try:
            prompt = rerank_prompt(document)
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None
        pieces = rerank_pieces(prompt.texts)
        return _facts(document, prompt, model=RERANK_MODEL, pieces=pieces, identity=identity_fields)

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> CohereReply:
        return CohereReply()


def _facts(
    document: Json, prompt: Prompt, *, model: str, pieces: tuple[Usage, Usage], identity: Sequence[str]
) -> RequestFacts:
    """`model` is what runs where the request names none; `pieces` are those expected, and the most."""
    return RequestFacts(
        model=optional_text(document, "model") or model,
        streamed=False,
        prompt=prompt,
        max_output_tokens=0,
        input_kinds=("input", "image_input"),
        pieces=pieces[0],
        pieces_max=pieces[1],
        fields=fields_at(document, identity),
    )
