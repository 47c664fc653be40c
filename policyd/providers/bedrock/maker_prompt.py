"""What a model is given for a request to InvokeModel, whose body has the form that the model's maker chose.

The form is told by the member that holds the prompt. A body of no known form, or of several at once, is counted whole:
then nothing that the model may be shown is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from policyd.providers.base import CacheWrite, Prompt
from policyd.providers.bedrock.prompt import HIDDEN_CONTENT_TOKENS_MAX, ConversePrompt
from policyd.providers.cohere.prompt import embed_prompt, read_prompt_v1
from policyd.providers.openai.prompt import read_prompt as read_openai_prompt
from policyd.providers.prompt_builder import PromptBuilder
from policyd.providers.request_body import Json, optional_integer, optional_object, required_objects

GENERATIONS_MAX = 128
"""More replies to one prompt than any model gives."""

_IMAGES = ("image", "images", "inputImage")


def read_maker_prompt(document: Json, *, model: str) -> tuple[Prompt, CacheWrite]:
    """The prompt, and the dearest cache write that is asked for. Raises `BodyUnreadable`."""
    forms = [read for name, read in _FORMS.items() if name in document]
    if forms == [_read_chat] and has_bare_parts(document):
        return _read_converse(document, model)
    read = forms[0] if len(forms) == 1 else _read_whole
    return read(document, model), CacheWrite.NONE


def has_bare_parts(document: Json) -> bool:
    """Whether the parts of the messages have no `type`, but are named for what they are, as Nova's are."""
    messages = document.get("messages")
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list) and any(isinstance(part, dict) and "type" not in part for part in content):
            return True
    return False


def _read_converse(document: Json, model: str) -> tuple[Prompt, CacheWrite]:
    messages, tool_config = required_objects(document, "messages"), optional_object(document, "toolConfig")
    read = ConversePrompt(document, messages=messages, tool_config=tool_config, model=model)
    return read.prompt, read.cache_write


def _read_chat(document: Json, model: str) -> Prompt:
    """Of OpenAI's form: Mistral's, AI21's newer ones, and most that have come since."""
    return read_openai_prompt(document, required_objects(document, "messages"), model=model, exact=False)


def _read_text(document: Json, _: str) -> Prompt:
    """Titan's (`inputText`), and that of Llama, of Mistral's, AI21's and Cohere's older models (`prompt`)."""
    builder = PromptBuilder(exact=False)
    # Cohere counts the prompt once for each reply to it.
    times = optional_integer(document, "num_generations", minimum=1, maximum=GENERATIONS_MAX) or 1
    for prompt in (document.get("prompt"), document.get("inputText")) * times:
        builder.text(prompt)
    for name in _IMAGES:
        images = document.get(name)
        for image in images if isinstance(images, list) else [images]:
            _add_image(builder, image)
    return builder.prompt()


def _read_embedding(document: Json, _: str) -> Prompt:
    """Nova's: a text, or media, whole or by their address."""
    builder = PromptBuilder(exact=False)
    for kind, value in optional_object(document, "singleEmbeddingParams").items():
        match kind, value:
            case "text", {"value": text}:
                builder.text(text)
            case _, {"source": {"bytes": encoded}}:
                builder.unread_base64(encoded)
            case _, {"source": _}:
                builder.hidden(HIDDEN_CONTENT_TOKENS_MAX)
            case _:
                # How it is to be embedded.
                pass
    return builder.prompt()


def _read_whole(document: Json, _: str) -> Prompt:
    builder = PromptBuilder(exact=False)
    builder.json(document)
    return builder.prompt()


def _add_image(builder: PromptBuilder, image: Any) -> None:
    if isinstance(image, str) and not image.startswith(("data:", "http")):
        builder.image_base64(image)
    elif image is not None:
        builder.image_url(image)


_FORMS: Mapping[str, Callable[[Json, str], Prompt]] = {
    "messages": _read_chat,
    "prompt": _read_text,
    "inputText": _read_text,
    "message": lambda document, _: read_prompt_v1(document),
    "texts": lambda document, _: embed_prompt(document),
    "inputs": lambda document, _: embed_prompt(document),
    "singleEmbeddingParams": _read_embedding,
}
"""The member that holds the prompt, and how it is read."""

MAKER_MEMBERS = (*_FORMS, "system", "toolConfig", "tools", "chat_history", "preamble", "documents", *_IMAGES)
"""The members that hold what a model is shown."""
