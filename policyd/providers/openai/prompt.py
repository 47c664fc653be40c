"""What OpenAI's models are given for a chat completion request: which texts, and the tokens around them.

The chat format is the one of OpenAI's cookbook ("How to count tokens with tiktoken"): three tokens around every
message, one for a name, three that open the reply; the role is a text of its own. What the cookbook leaves out was
measured on recorded requests whose input count OpenAI reported: how tool definitions, tool calls and answer schemas are
written out, and how the reasoning models differ. Where the measurements scatter, the upper end stands here, because too
low a count would let a budget be overspent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import msgspec

from policyd.providers.base import Prompt
from policyd.providers.prompt_builder import PromptBuilder
from policyd.providers.request_body import Json

MESSAGE_TOKENS = 3
_NAME_TOKENS = 1
TOOL_CALL_TOKENS = 8
_PARALLEL_CALLS_TOKENS = 12
_PARALLEL_CALL_TOKENS = 12
TOOL_CHOICE_TOKENS = 7


@dataclass(frozen=True, slots=True)
class ChatFamily:
    """How a family of models is given a chat, in tokens."""

    reply: int
    """What opens the reply."""
    earlier_reply: int
    """What an earlier reply costs beyond any other message: the channel that it was given in."""
    tools: int
    """What the definitions of tools are wrapped in."""
    schema: int
    """What an answer schema is wrapped in."""


HIDDEN_TOKENS = 32_768
"""The allowance for one thing that the request does not show: a stored conversation or prompt, a file that is named by
id or address, a tool that the provider runs. A recorded search of the web reads up to 17,500 tokens, four of them
21,000."""

CLASSIC = ChatFamily(reply=3, earlier_reply=0, tools=9, schema=12)
AUDIO = ChatFamily(reply=2, earlier_reply=0, tools=9, schema=12)
O_SERIES = ChatFamily(reply=2, earlier_reply=0, tools=11, schema=9)
GPT_5 = ChatFamily(reply=2, earlier_reply=2, tools=93, schema=9)

_FAMILIES = (
    (re.compile(r"o\d"), O_SERIES),
    (re.compile(r"gpt-(?:[5-9]|\d\d)"), GPT_5),
    (re.compile(r"gpt-4o(?:-mini)?-audio"), AUDIO),
)

_FAMILY_NAME_CHARS_MAX = len("gpt-4o-mini-audio")
"""No more of a name than this tells its family."""

_SEARCHING_MODEL = re.compile(r":online$|^(?:.*/)?compound\b")
"""Models of OpenRouter's and Groq's that read what they find before they answer, asked to or not."""

_CLIENT_TOOLS = (None, "function", "custom")
"""The types of tools that the client runs. Any other may run at the vendor's."""


def read_prompt(document: Json, messages: list[Json], *, model: str, exact: bool) -> Prompt:
    """The prompt of a chat completion request. `exact`: the vendor's models are given it as OpenAI's are."""
    family = chat_family(model)
    builder = PromptBuilder(exact=exact)
    builder.overhead_tokens = family.reply
    for message in messages:
        _add_message(builder, message, family)
    _add_tools(builder, document, family)
    _add_options(builder, document, family)
    if _SEARCHING_MODEL.search(model):
        builder.hidden(HIDDEN_TOKENS)
    return builder.prompt()


def chat_family(model: str) -> ChatFamily:
    """How `model` is given a chat; a `vendor/` before its name does not matter."""
    # Its beginning says it all; the rest may be of any length, and is not kept.
    return _family(model.rpartition("/")[2][:_FAMILY_NAME_CHARS_MAX])


@lru_cache(maxsize=256)
def _family(name: str) -> ChatFamily:
    return next((family for pattern, family in _FAMILIES if pattern.match(name)), CLASSIC)


def _add_message(builder: PromptBuilder, message: Json, family: ChatFamily) -> None:
    role = message.get("role")
    builder.overhead_tokens += MESSAGE_TOKENS + (family.earlier_reply if role == "assistant" else 0)
    builder.text(role)
    name = message.get("name")
    if name is not None:
        # Measured: a name that only repeats the role costs no separator.
        builder.overhead_tokens += _NAME_TOKENS if name != role else 0
        builder.text(name)
    _add_content(builder, message.get("content"))
    builder.text(message.get("refusal"))
    _add_tool_calls(builder, message)
    if role in ("tool", "function") or message.get("audio") is not None:
        builder.exact = False


def _add_content(builder: PromptBuilder, content: Any) -> None:
    if not isinstance(content, list):
        builder.text(content)
        return
    for part in with_texts_joined(content):
        if isinstance(part, dict):
            _add_part(builder, part)
        else:
            builder.text(part)


_TEXT_PARTS = ("text", "input_text", "output_text")


def with_texts_joined(parts: list[Any]) -> Iterator[Any]:
    """`parts` with each run of texts as one text: measured, a token can reach from the end of one to the next."""
    for is_text, run in groupby(parts, key=_is_text):
        if is_text:
            yield "".join(part if isinstance(part, str) else part["text"] for part in run)
        else:
            yield from run


def _is_text(part: Any) -> bool:
    if isinstance(part, dict):
        return part.get("type") in _TEXT_PARTS and isinstance(part.get("text"), str)
    return isinstance(part, str)


def _add_part(builder: PromptBuilder, part: Json) -> None:
    match part.get("type"):
        case "text" | "refusal" as kind:
            builder.text(part.get(kind))
        case "image_url":
            image = part.get("image_url")
            if isinstance(image, dict):
                builder.image_url(image.get("url"), image.get("detail"))
            else:
                builder.image_url(image)
        case "input_audio" | "file" as kind:
            media = part.get(kind)
            encoded = media.get("data") or media.get("file_data") if isinstance(media, dict) else None
            if encoded is None:
                builder.hidden(HIDDEN_TOKENS)
            else:
                builder.unread_base64(encoded)
        case _:
            builder.unread(part)


def _add_tool_calls(builder: PromptBuilder, message: Json) -> None:
    """The calls of an earlier reply; `function_call` is the older form of a single one."""
    calls = message.get("tool_calls")
    named = [message.get("function_call")]
    if isinstance(calls, list):
        named += [call.get("function") or call.get("custom") for call in calls if isinstance(call, dict)]
    called = [call for call in named if isinstance(call, dict)]
    if not called:
        return
    builder.exact = False
    for call in called:
        builder.text(call.get("name"))
        builder.text(call.get("arguments"))
        builder.text(call.get("input"))
    if len(called) == 1:
        builder.overhead_tokens += TOOL_CALL_TOKENS
    else:
        builder.overhead_tokens += _PARALLEL_CALLS_TOKENS + _PARALLEL_CALL_TOKENS * len(called)


def _add_tools(builder: PromptBuilder, document: Json, family: ChatFamily) -> None:
    tools = document.get("tools")
    functions = document.get("functions")
    if not tools and not functions:
        return
    builder.exact = False
    builder.has_tools = True
    builder.overhead_tokens += family.tools
    declared = list(functions) if isinstance(functions, list) else []
    for tool in tools if isinstance(tools, list) else []:
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict):
            declared.append(tool["function"])
        else:
            builder.json(tool)
            if not isinstance(tool, dict) or tool.get("type") not in _CLIENT_TOOLS:
                builder.hidden(HIDDEN_TOKENS)
    builder.text(render_functions([function for function in declared if isinstance(function, dict)]))
    choice = document.get("tool_choice") or document.get("function_call")
    if isinstance(choice, dict):
        chosen = choice.get("function", choice)
        builder.overhead_tokens += TOOL_CHOICE_TOKENS
        builder.text(chosen.get("name") if isinstance(chosen, dict) else chosen)


def _add_options(builder: PromptBuilder, document: Json, family: ChatFamily) -> None:
    response_format = document.get("response_format")
    answer = response_format.get("json_schema") if isinstance(response_format, dict) else None
    if answer is not None:
        builder.overhead_tokens += family.schema
        add_schema(builder, answer)
        # The name is given again where the reply begins.
        builder.text(answer.get("name") if isinstance(answer, dict) else None)
    if any(document.get(option) is not None for option in _INEXACT_OPTIONS):
        builder.exact = False
    if _reads_the_web(document):
        builder.hidden(HIDDEN_TOKENS)


def _reads_the_web(document: Json) -> bool:
    """Whether the vendor is asked to read what it finds: by OpenRouter's plugins or Venice's parameters.

    What OpenAI finds for `web_search_options` is not counted as input.
    """
    venice = document.get("venice_parameters")
    searches = isinstance(venice, dict) and venice.get("enable_web_search") not in (None, False, "off")
    return searches or bool(document.get("plugins"))


_INEXACT_OPTIONS = ("web_search_options", "prediction", "audio")


def add_schema(builder: PromptBuilder, answer: Any) -> None:
    """The schema that an answer has to follow: its name, its description, and as much of it as the model is shown."""
    if not isinstance(answer, dict):
        builder.json(answer)
        return
    builder.text(answer.get("name"))
    if answer.get("description") is not None:
        builder.overhead_tokens += _DESCRIPTION_TOKENS
        builder.text(answer["description"])
    builder.json(_shown(answer.get("schema")))


_UNSHOWN = ("additionalProperties", "required")
_DESCRIPTION_TOKENS = 2


def _shown(schema: Any) -> Any:
    """A schema without what the model is not shown of it."""
    if isinstance(schema, list):
        return [_shown(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    shown = {}
    for name, value in schema.items():
        if name in ("properties", "$defs", "definitions") and isinstance(value, dict):
            # Its names are the client's own.
            shown[name] = {own: _shown(each) for own, each in value.items()}
        elif name not in _UNSHOWN:
            shown[name] = _shown(value)
    return shown


def render_functions(functions: list[Json]) -> str:
    """The TypeScript-like text in which OpenAI's models are told of functions; its form is known from experiment."""
    lines = ["namespace functions {", ""]
    for function in functions:
        lines += _comment(function.get("description"))
        parameters = function.get("parameters")
        properties = _properties(parameters) if isinstance(parameters, dict) else []
        if properties:
            lines += [f"type {function.get('name')} = (_: {{", *properties, "}) => any;", ""]
        else:
            lines += [f"type {function.get('name')} = () => any;", ""]
    lines.append("} // namespace functions")
    return "\n".join(lines)


def _comment(text: Any) -> list[str]:
    return [f"// {line}" for line in text.splitlines()] if isinstance(text, str) else []


def _properties(schema: Json) -> list[str]:
    properties = schema.get("properties")
    required = schema.get("required")
    lines = []
    for name, value in properties.items() if isinstance(properties, dict) else ():
        if isinstance(value, dict):
            lines += [*_comment(value.get("title")), *_comment(value.get("description"))]
            mark = "" if isinstance(required, list) and name in required else "?"
            default = f" // default: {_json(value['default'])}" if "default" in value else ""
            lines.append(f"{name}{mark}: {_type(value)},{default}")
    for shared in ("$defs", "definitions"):
        if shared in schema:
            lines.append(_json(schema[shared]))
    return lines


def _type(schema: Any) -> str:
    """The type that a JSON schema describes; one that no type is known for stands as it is."""
    match schema:
        case {"enum": list(values)}:
            return " | ".join(_json(value) for value in values)
        case {"anyOf": list(choices)} | {"oneOf": list(choices)}:
            return " | ".join(_type(choice) for choice in choices)
        case {"type": list(kinds)}:
            # Each kind once, so that no part of a schema is written out twice.
            return " | ".join(_type_of_kind(kind, schema) for kind in dict.fromkeys(map(str, kinds)))
        case {"type": str(kind)}:
            return _type_of_kind(kind, schema)
        case _:
            return _json(schema)


def _type_of_kind(kind: str, schema: Json) -> str:
    if kind == "array":
        return f"{_type(schema['items'])}[]" if "items" in schema else "any[]"
    if kind == "object" and schema.get("properties"):
        return "\n".join(["{", *_properties(schema), "}"])
    return "number" if kind == "integer" else kind


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
