"""What a model is given for a Converse request: which texts, and the tokens around them. Nova's own requests are alike.

Whose model it is decides how, and no maker publishes it, so no prompt is exact. The numbers of tokens around the texts
were measured on recorded requests whose input count Bedrock reported. Where models differ, the upper end stands here,
because too low a count would let a budget be overspent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from policyd.providers.base import CacheWrite, Prompt
from policyd.providers.bedrock.model import names_model
from policyd.providers.prompt_builder import PromptBuilder
from policyd.providers.request_body import Json, dearest_cache_write

_TOOL_TOKENS = 25
_CITATIONS_TOKENS = 850
"""The instructions that come with any document or search result that is to be cited."""


@dataclass(frozen=True, slots=True)
class _Family:
    """How a family of models is given a request, in tokens."""

    request: int
    message: int
    tools: int
    """The instructions that come with any tools."""
    schema: int
    """The instructions that come with an answer schema, beside the schema itself."""


_CLAUDE = _Family(request=4, message=3, tools=500, schema=100)
_NOVA = _Family(request=0, message=1, tools=350, schema=0)
_NOVA_2 = _Family(request=40, message=20, tools=800, schema=0)
_OTHER = _Family(request=4, message=3, tools=60, schema=0)

_FAMILIES = (("claude", _CLAUDE), ("nova-2", _NOVA_2), ("nova", _NOVA), ("", _OTHER))
"""By what is in the model's name; the first row that fits counts."""

SYSTEM_TOOL_TOKENS_MAX = 8192
"""What a tool that runs at AWS may add to the input: what it found or computed."""

HIDDEN_CONTENT_TOKENS_MAX = 65_536
"""What a file or a prompt that a request only names may come to."""


class ConversePrompt:
    """Collects the prompt of a request, and with it which cache writes it asks for."""

    __slots__ = ("_builder", "_cache_writes", "_family", "_is_cited")

    def __init__(self, document: Json, *, messages: list[Json], tool_config: Json, model: str) -> None:
        self._builder = PromptBuilder(exact=False)
        self._cache_writes: set[CacheWrite] = set()
        self._family = _family(model)
        self._is_cited = False
        self._add_content(document.get("system"))
        for message in messages:
            self._add_content(message.get("content"))
        if not messages:
            # The model is a stored prompt.
            self._builder.hidden(HIDDEN_CONTENT_TOKENS_MAX)
        self._builder.overhead_tokens += self._family.request + self._family.message * len(messages)
        self._add_tools(tool_config)
        self._add_options(document)

    @property
    def prompt(self) -> Prompt:
        return self._builder.prompt()

    @property
    def cache_write(self) -> CacheWrite:
        """The dearest cache write that is asked for anywhere."""
        return dearest_cache_write(self._cache_writes)

    def _add_content(self, content: Any) -> None:
        for block in content if isinstance(content, list) else [content]:
            if isinstance(block, dict):
                for kind, value in block.items():
                    self._add_part(kind, value)
            else:
                self._builder.text(block)

    def _add_part(self, kind: str, value: Any) -> None:
        if isinstance(value, dict) and isinstance(value.get("citations"), dict):
            self._is_cited = True
        match kind, value:
            case "text" | "reasoningText", {"text": text}:
                self._builder.text(text)
                self._builder.unread_base64(value.get("signature"))
            case "text", _:
                self._builder.text(value)
            case "json", _:
                self._builder.json(value)
            case "cachePoint", _:
                long = isinstance(value, dict) and value.get("ttl") == "1h"
                self._cache_writes.add(CacheWrite.LONG if long else CacheWrite.SHORT)
            case "image", {"source": {"bytes": encoded}}:
                self._builder.image_base64(encoded)
            case "image", {"source": {}}:
                self._builder.image_base64(None)
            case "document" | "video" | "audio", {"source": source}:
                self._builder.text(value.get("name"))
                self._builder.text(value.get("context"))
                self._add_file(source)
            case "toolUse", {"name": name, "input": arguments}:
                self._builder.text(name)
                self._builder.json(arguments)
            case "toolResult" | "searchResult" | "citationsContent", {"content": content}:
                self._builder.text(value.get("source"))
                self._builder.text(value.get("title"))
                self._add_content(content)
            case "guardContent" | "reasoningContent", {}:
                self._add_content(value)
            case _:
                self._builder.unread(value)

    def _add_file(self, source: Any) -> None:
        match source:
            case {"text": text}:
                self._builder.text(text)
            case {"content": content}:
                self._add_content(content)
            case {"bytes": encoded}:
                self._builder.unread_base64(encoded)
            case _:
                self._builder.hidden(HIDDEN_CONTENT_TOKENS_MAX)

    def _add_tools(self, config: Json) -> None:
        tools = config.get("tools")
        if not isinstance(tools, list) or not tools:
            return
        self._builder.overhead_tokens += self._family.tools
        for tool in tools:
            match tool:
                case {"toolSpec": {"name": name, "inputSchema": schema, **others}}:
                    self._builder.overhead_tokens += _TOOL_TOKENS
                    self._builder.text(name)
                    self._builder.text(others.get("description"))
                    self._builder.json(schema)
                case {"systemTool": _}:
                    self._builder.hidden(SYSTEM_TOOL_TOKENS_MAX)
                case _:
                    self._add_content(tool)

    def _add_options(self, document: Json) -> None:
        for name in ("promptVariables", "additionalModelRequestFields", "outputConfig"):
            if document.get(name):
                self._builder.json(document[name])
        if document.get("outputConfig"):
            self._builder.overhead_tokens += self._family.schema
        if self._is_cited:
            self._builder.overhead_tokens += _CITATIONS_TOKENS


def _family(model: str) -> _Family:
    """The dearest one where the model's name says nothing."""
    return next(family for part, family in _FAMILIES if part in model) if names_model(model) else _NOVA_2
