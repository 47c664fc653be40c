"""What Mistral's models are given for a chat completion request: which texts, and the tokens around them.

The format of the request is OpenAI's; what the models see of it is not. Tools are written out as JSON (a space after
every colon and comma), answer schemas not at all, and a message has two tokens around it. For most models that is
within two tokens of what recorded requests of text alone were counted at; `mistral-small` counts twelve more.
"""

from __future__ import annotations

import json
from typing import Any

from policyd.providers.audio import HIDDEN_AUDIO_MS, audio_ms_max
from policyd.providers.base import Prompt
from policyd.providers.prompt_builder import PromptBuilder
from policyd.providers.request_body import Json

_REQUEST_TOKENS = 2
_MESSAGE_TOKENS = 2
_TOOL_CALLS_TOKENS = 10
_TOOLS_TOKENS = 4
_SYSTEM_PROMPT_TOKENS = 200
"""Allowed for a system prompt of Mistral's own, where the request asks for one."""
_DOCUMENT_TOKENS_MAX = 32_768
"""Allowed for a document by address or by file id."""
_SCHEME_LENGTH_MAX = 16
"""Where the scheme of an address ends at the latest."""


def read_prompt(document: Json, messages: list[Json]) -> Prompt:
    """The prompt of a chat completion request."""
    builder = PromptBuilder(exact=False)
    builder.overhead_tokens = _REQUEST_TOKENS
    for message in messages:
        builder.overhead_tokens += _MESSAGE_TOKENS
        _add_content(builder, message.get("content"))
        builder.text(message.get("name"))
        if message.get("tool_calls"):
            builder.overhead_tokens += _TOOL_CALLS_TOKENS
            _add_calls(builder, message["tool_calls"])
    if document.get("tools") and document.get("tool_choice") != "none":
        builder.overhead_tokens += _TOOLS_TOKENS
        builder.text(json.dumps(document["tools"], ensure_ascii=False))
    if document.get("safe_prompt") or document.get("prompt_mode"):
        builder.overhead_tokens += _SYSTEM_PROMPT_TOKENS
    builder.json(document.get("prediction"))
    return builder.prompt()


def heard_ms_max(messages: list[Json]) -> int:
    """The most milliseconds of audio in the messages, by which some models are sold."""
    return sum(
        _audio_ms_max(part.get("input_audio"))
        for message in messages
        for part in (message["content"] if isinstance(message.get("content"), list) else ())
        if isinstance(part, dict) and part.get("type") == "input_audio"
    )


def _audio_ms_max(audio: Any) -> int:
    data = audio.get("data") if isinstance(audio, dict) else audio
    if not isinstance(data, str) or "://" in data[:_SCHEME_LENGTH_MAX]:
        return HIDDEN_AUDIO_MS
    return audio_ms_max(len(data) * 3 // 4)


def ocr_prompt(document: Json) -> Prompt:
    """The document of an OCR request."""
    builder = PromptBuilder(exact=False)
    _add_content(builder, [document.get("document")])
    builder.text(document.get("document_annotation_prompt"))
    return builder.prompt()


def _add_calls(builder: PromptBuilder, calls: Any) -> None:
    """Adds what of earlier calls the model is shown: the functions and what they were called with."""
    for call in calls if isinstance(calls, list) else [calls]:
        builder.json(call.get("function", call) if isinstance(call, dict) else call)


def _add_content(builder: PromptBuilder, content: Any) -> None:
    if not isinstance(content, list):
        builder.text(content)
        return
    for part in content:
        if isinstance(part, dict):
            _add_part(builder, part)
        else:
            builder.text(part)


def _add_part(builder: PromptBuilder, part: Json) -> None:
    match part.get("type"):
        case "text":
            builder.text(part.get("text"))
        case "thinking":
            _add_content(builder, part.get("thinking"))
        case "image_url":
            image = part.get("image_url")
            if isinstance(image, dict):
                builder.image_url(image.get("url"), image.get("detail"))
            else:
                builder.image_url(image)
        case "document_url":
            builder.text(part.get("document_name"))
            _add_file(builder, part.get("document_url"))
        case "input_audio":
            audio = part.get("input_audio")
            _add_file(builder, audio.get("data") if isinstance(audio, dict) else audio)
        case "file":
            builder.hidden(_DOCUMENT_TOKENS_MAX)
        case _:
            builder.unread(part)


def _add_file(builder: PromptBuilder, value: Any) -> None:
    """A file in base64, plain or in a `data:` address; one by another address is not seen."""
    if not isinstance(value, str):
        builder.unread(value)
    elif "://" in value[:_SCHEME_LENGTH_MAX]:
        builder.hidden(_DOCUMENT_TOKENS_MAX)
    else:
        builder.unread_base64(value)
