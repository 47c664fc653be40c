"""What a model behind Ollama is given: the texts of a request, and the tokens that its template writes around them.

Templates and vocabularies are the models' own, so no prompt is exact. The numbers of tokens around the texts are
upper ends of what was measured on recorded requests to Qwen 3, Llama 3 and Gemma 3.
"""

from __future__ import annotations

from typing import Any

from policyd.providers.base import Prompt
from policyd.providers.prompt_builder import PromptBuilder
from policyd.providers.request_body import Json, optional_objects

_MESSAGE_TOKENS = 5
_REPLY_TOKENS = 4
_TOOLS_TOKENS = 225
"""The instructions that come with any tools."""
_EMBEDDED_TEXT_TOKENS = 2
"""What opens and closes a text that is embedded."""
_THOUGHTS_TOKENS_MAX = 4096
"""Allowed where a model thinks before it answers in a given form: it is run twice, and reads its thoughts again."""


def chat_prompt(document: Json) -> Prompt:
    """Raises `BodyUnreadable` where the messages are none."""
    builder = PromptBuilder(exact=False)
    builder.overhead_tokens = _REPLY_TOKENS
    for message in optional_objects(document, "messages"):
        builder.overhead_tokens += _MESSAGE_TOKENS
        for name in ("content", "thinking", "tool_name"):
            builder.text(message.get(name))
        _add_images(builder, message.get("images"))
        builder.json(message.get("tool_calls"))
    if document.get("tools"):
        builder.overhead_tokens += _TOOLS_TOKENS
        builder.json(document["tools"])
    _add_thoughts(builder, document)
    return builder.prompt()


def generate_prompt(document: Json) -> Prompt:
    builder = PromptBuilder(exact=False)
    builder.overhead_tokens = _REPLY_TOKENS + 2 * _MESSAGE_TOKENS
    for name in ("system", "prompt", "suffix", "template"):
        builder.text(document.get(name))
    _add_images(builder, document.get("images"))
    context = document.get("context")
    if isinstance(context, list):
        # What an earlier reply gave to go on from: its tokens.
        builder.overhead_tokens += len(context)
    else:
        builder.text(context)
    _add_thoughts(builder, document)
    return builder.prompt()


def embed_prompt(document: Json) -> Prompt:
    """The texts to embed: `input` for the endpoint of today, `prompt` for the older one."""
    builder = PromptBuilder(exact=False)
    builder.text(document.get("prompt"))
    texts = document.get("input")
    for text in texts if isinstance(texts, list) else [texts]:
        builder.overhead_tokens += _EMBEDDED_TEXT_TOKENS
        builder.text(text)
    return builder.prompt()


def _add_thoughts(builder: PromptBuilder, document: Json) -> None:
    if document.get("format") and document.get("think") is not False:
        builder.hidden(_THOUGHTS_TOKENS_MAX)


def _add_images(builder: PromptBuilder, images: Any) -> None:
    for image in images if isinstance(images, list) else [images]:
        if image is not None:
            builder.image_base64(image)
