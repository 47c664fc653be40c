"""What Claude is given for a messages request: which texts, and the tokens around them.

Anthropic publishes no vocabulary and no chat format, so no prompt is exact. The numbers of tokens around the texts were
measured on recorded requests whose input count Anthropic reported, over the models from Claude 3.5 to Claude Sonnet 5;
where models differ, the upper end stands here, because too low a count would let a budget be overspent.
"""

from __future__ import annotations

from typing import Any

from policyd.providers.base import CacheWrite, Prompt
from policyd.providers.prompt_builder import PromptBuilder
from policyd.providers.request_body import Json, cache_write_asked, dearest_cache_write

_REQUEST_TOKENS = 4
_MESSAGE_TOKENS = 3
_TOOLS_TOKENS = 500
"""The instructions that come with any tools."""
_FORCED_TOOL_TOKENS = 100
"""What they take more where a tool has to be used (`any` or `tool`)."""
_TOOL_TOKENS = 25
_BUILT_IN_TOOL_TOKENS = 700
"""The definition of a tool of Anthropic's own; its documentation gives 245 for bash and 700 for the text editor."""
_COMPUTER_TOKENS = 1300
_CITATIONS_TOKENS = 850
"""The instructions that come with any document that is to be cited."""
_THINKING_TOKENS = 30
_FORMAT_TOKENS = 200
"""The instructions that come with an answer schema, beside the schema itself."""

_TOOL_INPUT_TOKENS_MAX = {
    "web_search": 24_576,
    "web_fetch": 24_576,
    "code_execution": 16_384,
    "mcp": 8_192,
    "advisor": 4_096,
    "tool_search": 1_024,
}
"""What a tool that runs at Anthropic's may add to the input, by the beginning of its type: what it found, what the
model is told of it, what its own model reads. More than in any recorded request but one, which searched and fetched."""

_HIDDEN_FILE_TOKENS_MAX = 32_768
"""What a file that a request only names may come to."""


class AnthropicPrompt:
    """Reads the prompt of a messages request, and with it which cache writes it asks for."""

    __slots__ = ("_builder", "_cache_writes", "_is_cited")

    def __init__(self, document: Json, *, messages: list[Json], tools: list[Json]) -> None:
        self._builder = PromptBuilder(exact=False)
        self._builder.overhead_tokens = _REQUEST_TOKENS
        self._cache_writes = {cache_write_asked(document)}
        self._is_cited = False
        self._add_content(document.get("system"))
        for message in messages:
            self._builder.overhead_tokens += _MESSAGE_TOKENS
            self._add_content(message.get("content"))
        self._add_tools(tools, document.get("tool_choice"))
        self._add_options(document)

    @property
    def prompt(self) -> Prompt:
        return self._builder.prompt()

    @property
    def cache_write(self) -> CacheWrite:
        """The dearest cache write that is asked for anywhere."""
        return dearest_cache_write(self._cache_writes)

    def _add_content(self, content: Any) -> None:
        if not isinstance(content, list):
            self._builder.text(content)
            return
        for block in content:
            if isinstance(block, dict):
                self._cache_writes.add(cache_write_asked(block))
                self._add_block(block)
            else:
                self._builder.text(block)

    def _add_block(self, block: Json) -> None:
        self._is_cited = self._is_cited or isinstance(block.get("citations"), dict)
        match block.get("type"):
            case "text" | "thinking" as kind:
                self._builder.text(block.get(kind))
            case "image":
                source = block.get("source")
                self._builder.image_base64(source.get("data") if isinstance(source, dict) else None)
            case "container_upload":
                self._builder.hidden(_HIDDEN_FILE_TOKENS_MAX)
            case "document":
                self._add_document(block)
            case "tool_use" | "server_tool_use" | "mcp_tool_use":
                self._builder.text(block.get("name"))
                self._builder.json(block.get("input"))
            case "tool_result" | "mcp_tool_result":
                self._add_content(block.get("content"))
            case _:
                self._builder.unread(block)

    def _add_document(self, block: Json) -> None:
        self._builder.text(block.get("title"))
        self._builder.text(block.get("context"))
        match block.get("source"):
            case {"type": "text", "data": data}:
                self._builder.text(data)
            case {"type": "content", "content": content}:
                self._add_content(content)
            case {"type": "base64", "data": data}:
                self._builder.unread_base64(data)
            case {"type": "file" | "url"}:
                self._builder.hidden(_HIDDEN_FILE_TOKENS_MAX)
            case source:
                self._builder.unread(source)

    def _add_tools(self, tools: list[Json], choice: Any) -> None:
        if not tools:
            return
        forced = isinstance(choice, dict) and choice.get("type") in ("any", "tool")
        self._builder.overhead_tokens += _TOOLS_TOKENS + (_FORCED_TOOL_TOKENS if forced else 0)
        for tool in tools:
            self._cache_writes.add(cache_write_asked(tool))
            if "input_schema" in tool:
                self._builder.overhead_tokens += _TOOL_TOKENS
                self._builder.text(tool.get("name"))
                self._builder.text(tool.get("description"))
                self._builder.json(tool["input_schema"])
            else:
                self._add_built_in_tool(tool)

    def _add_built_in_tool(self, tool: Json) -> None:
        kind = str(tool.get("type"))
        self._builder.overhead_tokens += _COMPUTER_TOKENS if kind.startswith("computer") else _BUILT_IN_TOOL_TOKENS
        self._builder.json(tool)
        for beginning, tokens_max in _TOOL_INPUT_TOKENS_MAX.items():
            if kind.startswith(beginning):
                self._builder.hidden(tokens_max)

    def _add_options(self, document: Json) -> None:
        if self._is_cited:
            self._builder.overhead_tokens += _CITATIONS_TOKENS
        servers = document.get("mcp_servers")
        self._builder.hidden(_TOOL_INPUT_TOKENS_MAX["mcp"] * len(servers) if isinstance(servers, list) else 0)
        thinking = document.get("thinking")
        if isinstance(thinking, dict) and thinking.get("type") != "disabled":
            self._builder.overhead_tokens += _THINKING_TOKENS
        config = document.get("output_config")
        schema = document.get("output_format") or (config.get("format") if isinstance(config, dict) else None)
        if schema is not None:
            self._builder.overhead_tokens += _FORMAT_TOKENS
            self._builder.json(schema)
