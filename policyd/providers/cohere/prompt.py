"""What Cohere bills as input: which texts of a request, and nothing around them.

Cohere publishes no vocabulary, so no prompt is exact. The template around the texts is not billed: on recorded requests
of text alone the texts' count in OpenAI's vocabulary is within two tokens of the billed input, or within a tenth of it,
for Command, Command R and Command A alike. Tools and documents are billed for a little less than their JSON.
"""

from __future__ import annotations

from typing import Any

from policyd.providers.base import Prompt
from policyd.providers.prompt_builder import PromptBuilder
from policyd.providers.request_body import Json, optional_objects, optional_text

_CONVERSATION_TOKENS_MAX = 16_384
"""Allowed for the earlier turns of a conversation that Cohere keeps."""


def read_prompt(document: Json, messages: list[Json]) -> Prompt:
    """The prompt of a v2 chat request."""
    builder = PromptBuilder(exact=False)
    for message in messages:
        _add_content(builder, message.get("content"))
        builder.text(message.get("tool_plan"))
        for call in _objects(message.get("tool_calls")):
            function = call.get("function")
            _add_texts(builder, function if isinstance(function, dict) else {}, "name", "arguments")
    for tool in _items(document.get("tools")):
        builder.json(tool.get("function", tool) if isinstance(tool, dict) else tool)
    _add_documents(builder, document.get("documents"))
    _add_schema(builder, document.get("response_format"))
    return builder.prompt()


def read_prompt_v1(document: Json) -> Prompt:
    """The prompt of a v1 chat request."""
    builder = PromptBuilder(exact=False)
    _add_texts(builder, document, "preamble", "message")
    for message in _objects(document.get("chat_history")):
        builder.text(message.get("message"))
        _add_all(builder, message.get("tool_calls"))
        _add_all(builder, message.get("tool_results"))
    for name in ("tools", "tool_results"):
        _add_all(builder, document.get(name))
    _add_documents(builder, document.get("documents"))
    _add_schema(builder, document.get("response_format"))
    if document.get("conversation_id") is not None:
        builder.hidden(_CONVERSATION_TOKENS_MAX)
    return builder.prompt()


def embed_prompt(document: Json) -> Prompt:
    """What an embeddings request gives to embed: `texts`, `images`, or `inputs` of both. Raises `BodyUnreadable`."""
    builder = PromptBuilder(exact=False)
    for text in _items(document.get("texts")):
        builder.text(text)
    for image in _items(document.get("images")):
        builder.image_url(image)
    for one in optional_objects(document, "inputs"):
        _add_content(builder, one.get("content"))
    return builder.prompt()


def rerank_prompt(document: Json) -> Prompt:
    """What a rerank request gives to compare: the query with each document anew. Raises `BodyUnreadable`."""
    builder = PromptBuilder(exact=False)
    query = optional_text(document, "query") or ""
    documents = _items(document.get("documents"))
    builder.text(query)
    for one in documents:
        _add_document(builder, one)
    if len(documents) > 1:
        builder.allow(len(query.encode("utf-8", "surrogatepass")) * (len(documents) - 1))
    return builder.prompt()


def _add_content(builder: PromptBuilder, content: Any) -> None:
    for part in _items(content):
        _add_part(builder, part)


def _add_part(builder: PromptBuilder, part: Any) -> None:
    match part:
        case {"type": "text" | "thinking" as kind}:
            builder.text(part.get(kind))
        case {"type": "image_url", "image_url": {"url": url, **options}}:
            builder.image_url(url, options.get("detail"))
        case {"type": "image_url", "image_url": url}:
            builder.image_url(url)
        case {"type": "document", "document": document}:
            _add_document(builder, document)
        case _:
            builder.text(part)


def _add_documents(builder: PromptBuilder, documents: Any) -> None:
    for document in _items(documents):
        _add_document(builder, document)


def _add_document(builder: PromptBuilder, document: Any) -> None:
    """A text, or an object whose `data` (v2) or whole (v1) the model is shown."""
    if isinstance(document, dict):
        builder.json(document.get("data", document))
    else:
        builder.text(document)


def _add_schema(builder: PromptBuilder, response_format: Any) -> None:
    if isinstance(response_format, dict):
        builder.json(response_format.get("json_schema", response_format.get("schema")))


def _add_all(builder: PromptBuilder, values: Any) -> None:
    for value in _items(values):
        builder.json(value)


def _add_texts(builder: PromptBuilder, values: Json, *names: str) -> None:
    for name in names:
        builder.text(values.get(name))


def _items(value: Any) -> list[Any]:
    """The items of an array; what is none counts as its own single item."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _objects(value: Any) -> list[Json]:
    return [item for item in _items(value) if isinstance(item, dict)]
