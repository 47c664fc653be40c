"""What OpenAI's models are given for a Responses request: which texts, and the tokens around them.

The models are given the same chat as for a chat completion, measured on recorded requests: `instructions` is a system
message before all others, a text as `input` is a user's message, and the items that are no messages take what the
corresponding parts of a chat take. What the request only refers to, or what a tool of the provider's reads while it
runs, is not on the wire: for each such thing an allowance is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policyd.providers.base import Prompt
from policyd.providers.openai.prompt import (
    AUDIO,
    CLASSIC,
    GPT_5,
    HIDDEN_TOKENS,
    MESSAGE_TOKENS,
    O_SERIES,
    TOOL_CALL_TOKENS,
    TOOL_CHOICE_TOKENS,
    ChatFamily,
    add_schema,
    chat_family,
    render_functions,
    with_texts_joined,
)
from policyd.providers.prompt_builder import PromptBuilder
from policyd.providers.request_body import Json

_COMPACTION_TOKENS = 93
"""The instructions to compact a conversation, in each of four recorded requests."""

_TOOLS_TOKENS: Mapping[ChatFamily, int] = {CLASSIC: 3, AUDIO: 3, O_SERIES: 6, GPT_5: 9}
"""What the definitions of tools are wrapped in: less than in a chat completion."""

_SCHEMA_TOKENS: Mapping[ChatFamily, int] = {CLASSIC: 7, AUDIO: 7, O_SERIES: 6, GPT_5: 6}
"""What an answer schema is wrapped in."""

_ADDED_TOOLS_TOKENS = 110
"""The instructions that come with tools which are added on the way: 80 to 126 in each of eight recorded requests."""

_CLIENT_TOOLS = (
    "function",
    "custom",
    "namespace",
    "local_shell",
    "apply_patch",
    "computer",
    "computer_use_preview",
)
"""The tools that the client runs: what they return is in a later request. Any other tool may run at the provider's."""


def read_prompt(document: Json, *, model: str, exact: bool, compacts: bool = False) -> Prompt:
    """The prompt of a request to create a response, or to compact a conversation. `exact`: the vendor's models are
    given it as OpenAI's are."""
    return _ResponsesPrompt(document, family=chat_family(model), exact=exact, compacts=compacts).prompt()


class _ResponsesPrompt:
    __slots__ = ("_builder", "_family")

    def __init__(self, document: Json, *, family: ChatFamily, exact: bool, compacts: bool) -> None:
        self._family = family
        self._builder = PromptBuilder(exact=exact and not compacts)
        self._builder.overhead_tokens = family.reply + (_COMPACTION_TOKENS if compacts else 0)
        if document.get("instructions"):
            self._add_message("system", document["instructions"])
        self._add_input(document.get("input"))
        self._add_tools(document)
        self._add_options(document)

    def prompt(self) -> Prompt:
        return self._builder.prompt()

    def _add_input(self, given: Any) -> None:
        if not isinstance(given, list):
            self._add_message("user", given)
            return
        for item in given:
            if isinstance(item, dict):
                self._add_item(item)
            else:
                self._builder.text(item)

    def _add_message(self, role: Any, content: Any) -> None:
        self._builder.overhead_tokens += MESSAGE_TOKENS
        if role == "assistant":
            self._builder.overhead_tokens += self._family.earlier_reply
        self._builder.text(role)
        self._add_content(content)

    def _add_item(self, item: Json) -> None:
        match item.get("type"):
            case None | "message":
                self._add_message(item.get("role"), item.get("content"))
            case "function_call" | "custom_tool_call":
                self._add_call(item)
            case "function_call_output" | "custom_tool_call_output":
                self._builder.exact = False
                self._add_message("tool", item.get("output"))
            case "reasoning" | "compaction":
                self._builder.unread_base64(item.get("encrypted_content"))
                self._add_content(item.get("content"))
            case "item_reference":
                self._builder.hidden(HIDDEN_TOKENS)
            case "tool_search_output" | "additional_tools" as kind:
                self._builder.overhead_tokens += MESSAGE_TOKENS
                if kind == "additional_tools":
                    self._builder.overhead_tokens += _ADDED_TOOLS_TOKENS
                self._add_definitions(item.get("tools"))
            case "computer_call_output":
                self._add_content([item.get("output")])
            case _:
                self._builder.unread(item)

    def _add_call(self, call: Json) -> None:
        """A call that an earlier reply asked for: a message of its own."""
        self._builder.exact = False
        self._builder.overhead_tokens += MESSAGE_TOKENS + TOOL_CALL_TOKENS + self._family.earlier_reply
        self._builder.text(call.get("name"))
        self._builder.text(call.get("arguments"))
        self._builder.text(call.get("input"))

    def _add_content(self, content: Any) -> None:
        if not isinstance(content, list):
            self._builder.text(content)
            return
        for part in with_texts_joined(content):
            if isinstance(part, dict):
                self._add_part(part)
            else:
                self._builder.text(part)

    def _add_part(self, part: Json) -> None:
        match part.get("type"):
            case "input_text" | "output_text" | "summary_text" | "reasoning_text" | "text":
                self._builder.text(part.get("text"))
            case "refusal":
                self._builder.text(part.get("refusal"))
            case "input_image" | "computer_screenshot":
                self._builder.image_url(part.get("image_url"), part.get("detail"))
            case "input_file" if isinstance(part.get("file_data"), str):
                self._builder.text(part.get("filename"))
                self._builder.unread_base64(part["file_data"])
            case "input_file":
                self._builder.hidden(HIDDEN_TOKENS)
            case _:
                self._builder.unread(part)

    def _add_tools(self, document: Json) -> None:
        self._add_definitions(document.get("tools"))
        choice = document.get("tool_choice")
        if isinstance(choice, dict):
            self._builder.exact = False
            self._builder.overhead_tokens += TOOL_CHOICE_TOKENS
            self._builder.text(choice.get("name"))

    def _add_definitions(self, tools: Any) -> None:
        if not tools or not isinstance(tools, list):
            return
        self._builder.exact = False
        self._builder.has_tools = True
        self._builder.overhead_tokens += _TOOLS_TOKENS[self._family]
        functions = []
        for tool in tools:
            kind = tool.get("type") if isinstance(tool, dict) else None
            if kind == "function":
                functions.append(tool)
                continue
            self._builder.json(tool)
            if kind not in _CLIENT_TOOLS:
                self._builder.hidden(HIDDEN_TOKENS)
        self._builder.text(render_functions(functions))

    def _add_options(self, document: Json) -> None:
        text = document.get("text")
        answer = text.get("format") if isinstance(text, dict) else None
        if isinstance(answer, dict) and answer.get("schema") is not None:
            self._builder.overhead_tokens += _SCHEMA_TOKENS[self._family]
            add_schema(self._builder, answer)
        for stored in ("previous_response_id", "conversation", "prompt"):
            if document.get(stored) is not None:
                self._builder.hidden(HIDDEN_TOKENS)
        reasoning = document.get("reasoning")
        if isinstance(reasoning, dict) and reasoning.get("mode") is not None:
            # Modes beyond the standard one add instructions of the provider's: up to 2,000 tokens were seen.
            self._builder.hidden(HIDDEN_TOKENS)
