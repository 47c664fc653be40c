"""What Gemini is given for a request: which texts, and the tokens around them.

Google publishes neither its chat format nor how it writes tools out, so no prompt is exact. The numbers of tokens
around the texts were measured on recorded requests whose input count Google reported. An answer schema costs nothing.
The signature that comes with a call brings the thought before it back as input, on some requests and not on others: it
is part of the bound alone.
"""

from __future__ import annotations

from typing import Any

import msgspec

from policyd.providers.base import Prompt
from policyd.providers.gemini.request import field
from policyd.providers.prompt_builder import PromptBuilder
from policyd.providers.request_body import Json

_FUNCTION_TOKENS = 5
_CALL_TOKENS = 6
_RESULT_TOKENS = 6
_SIGNATURE_CHARS_PER_TOKEN = 4

_PROVIDER_TOOL_TOKENS_MAX = 8192
"""What a tool that runs at Google's may add to the input, by what it found or read: the stated allowance. The most that
was recorded is 4,610 tokens, for a page."""

_HIDDEN_TOKENS_MAX = 32_768
"""What a file, a cached content or an earlier interaction that a request only names may come to: the stated allowance.
The most that was recorded is 17,697 tokens, for a minute of video."""


class GeminiPrompt:
    """Collects the prompt of a request, in whatever form its parts are given."""

    __slots__ = ("_builder", "_input_kinds")

    def __init__(self) -> None:
        self._builder = PromptBuilder(exact=False)
        self._input_kinds = {"input"}

    @property
    def prompt(self) -> Prompt:
        return self._builder.prompt()

    @property
    def input_kinds(self) -> tuple[str, ...]:
        """The kinds of usage that the input can be charged as."""
        return tuple(kind for kind in _INPUT_KINDS if kind in self._input_kinds)

    def add_text(self, text: Any) -> None:
        self._builder.text(text)

    def add_content(self, content: Any) -> None:
        """A message: an object with parts, of which a single one may stand by itself, or a text."""
        parts = content.get("parts") if isinstance(content, dict) else content
        for part in parts if isinstance(parts, list) else [parts]:
            if isinstance(part, dict):
                self._add_part(part)
            else:
                self._builder.text(part)

    def add_media(self, mime_type: Any, *, data: Any, address: Any, resolution: Any = None) -> None:
        """A file: whole in base64 as `data`, or named by its address."""
        kind = str(mime_type).partition("/")[0]
        self._input_kinds.update(_KINDS_OF_MEDIA.get(kind, _INPUT_KINDS))
        if kind == "image":
            self._builder.image_base64(data, _image_detail(resolution))
        elif data is not None:
            self._builder.unread_base64(data)
        elif address is not None:
            self._builder.hidden(_HIDDEN_TOKENS_MAX)

    def add_call(self, name: Any, arguments: Any) -> None:
        """A call of a function, by an earlier reply."""
        self._builder.overhead_tokens += _CALL_TOKENS
        self._builder.text(name)
        self._builder.json(arguments)

    def add_result(self, name: Any, result: Any) -> None:
        self._builder.overhead_tokens += _RESULT_TOKENS
        self._builder.text(name)
        self._builder.json(result)

    def add_signature(self, signature: Any) -> None:
        if isinstance(signature, str):
            self._builder.possible_tokens += len(signature) // _SIGNATURE_CHARS_PER_TOKEN

    def add_function(self, declaration: Any) -> None:
        self._builder.overhead_tokens += _FUNCTION_TOKENS
        self._builder.json(declaration)
        if b'"$ref"' in msgspec.json.encode(declaration):
            # What is referred to is written out in each place.
            self._builder.unread(declaration)

    def add_provider_tool(self) -> None:
        """A tool that runs at Google's."""
        self._builder.hidden(_PROVIDER_TOOL_TOKENS_MAX)

    def add_hidden(self) -> None:
        """Content of any kind that the request only names."""
        self._input_kinds.update(_INPUT_KINDS)
        self._builder.hidden(_HIDDEN_TOKENS_MAX)

    def add_unknown(self, value: Any) -> None:
        self._builder.unread(value)

    def _add_part(self, part: Json) -> None:
        self._builder.text(part.get("text"))
        if "functionCall" in part or "function_call" in part:
            self.add_signature(field(part, "thoughtSignature"))
        for name in part:
            if name not in _PART_ASIDES:
                self._add_data(name, part[name], resolution=_resolution(part))

    def _add_data(self, name: str, value: Any, *, resolution: Any) -> None:
        if not isinstance(value, dict):
            self._builder.text(value)
            return
        match name:
            case "inlineData" | "inline_data" | "fileData" | "file_data":
                address = field(value, "fileUri")
                self.add_media(field(value, "mimeType"), data=value.get("data"), address=address, resolution=resolution)
            case "functionCall" | "function_call":
                self.add_call(value.get("name"), value.get("args"))
            case "functionResponse" | "function_response":
                self.add_result(value.get("name"), value.get("response"))
                self.add_content(value)
            case "executableCode" | "executable_code":
                self._builder.text(value.get("code"))
            case "codeExecutionResult" | "code_execution_result":
                self._builder.text(value.get("output"))
            case _:
                self._builder.unread(value)


def add_tools(prompt: GeminiPrompt, tools: list[Json]) -> None:
    """The tools of a `generateContent` request: function declarations, and Google's own tools by name."""
    for tool in tools:
        for name, value in tool.items():
            if name in ("functionDeclarations", "function_declarations"):
                for declaration in value if isinstance(value, list) else [value]:
                    prompt.add_function(declaration)
            elif value is not None:
                prompt.add_provider_tool()


def _resolution(part: Json) -> Any:
    resolution = field(part, "mediaResolution")
    return resolution.get("level") if isinstance(resolution, dict) else None


def _image_detail(resolution: Any) -> str:
    """How finely an image is looked at: a part can ask for more than any request as a whole can."""
    return "high" if isinstance(resolution, str) and "ULTRA_HIGH" in resolution.upper() else "auto"


_INPUT_KINDS = ("input", "audio_input", "image_input", "video_input")
_KINDS_OF_MEDIA = {
    "text": ("input",),
    "image": ("image_input",),
    "audio": ("audio_input",),
    "application": ("image_input",),
}
"""By the first half of a media type. A document counts as images, and a video may count as any."""

_PART_ASIDES = (
    "text",
    "thought",
    "thoughtSignature",
    "thought_signature",
    "videoMetadata",
    "video_metadata",
    "mediaResolution",
    "media_resolution",
    "partMetadata",
    "part_metadata",
)
"""What a part has beside its data, its text aside."""
