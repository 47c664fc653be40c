"""Reading Ollama's replies: a JSON document, or the same document in lines, the last of which is `done`.

The counts stand at the top level. `prompt_eval_count` may be missing where Ollama still had the prompt from the last
time: that says nothing of how long the prompt was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policyd.core.usage import Usage
from policyd.providers.framing.frame import Frame
from policyd.providers.reply_reading import ReplyReading
from policyd.providers.reply_values import Json, count, decode, json_text, mapping, objects, text


class OllamaReply(ReplyReading):
    """A `ReplyReader` for chat and generate, in both forms."""

    document_members = ("model", "prompt_eval_count", "eval_count", "error")

    __slots__ = ("_complete",)

    def __init__(self) -> None:
        super().__init__()
        self._complete = False

    @property
    def usage_complete(self) -> bool:
        return self._complete

    def read_document(self, document: Mapping[str, Any], *, partial: bool = False) -> None:
        self._model = text(document.get("model")) or self._model
        if document.get("error") is not None:
            self._error = "error"
        self._read_counts(document)
        self._read_text(document)

    def read_frame(self, frame: Frame) -> bool:
        if frame.data:
            self.read_document(mapping(decode(frame.data)))
        return True

    def _read_counts(self, document: Json) -> None:
        prompt, output = count(document.get("prompt_eval_count")), count(document.get("eval_count"))
        if prompt is not None or output is not None:
            self._usage = Usage(input=prompt or 0, output=output or 0)
            self._complete = prompt is not None and output is not None

    def _read_text(self, document: Json) -> None:
        """Adds the output, which stands at the top in a reply of generate, and in a message in one of chat."""
        message = mapping(document.get("message"))
        for part in (document, message):
            self._texts += [text(part.get(name)) for name in ("response", "content", "thinking")]
        for call in objects(message.get("tool_calls")):
            function = mapping(call.get("function"))
            self._texts += [text(function.get("name")), json_text(function.get("arguments"))]


class OllamaEmbedReply(OllamaReply):
    """A `ReplyReader` for embeddings. The older endpoint counts nothing: its usage is never complete."""

    __slots__ = ()

    def _read_counts(self, document: Json) -> None:
        prompt = count(document.get("prompt_eval_count"))
        if prompt is not None or "embedding" in document:
            self._usage = Usage(input=prompt or 0)
            self._complete = prompt is not None

    def _read_text(self, document: Json) -> None:
        """Embeddings are no text."""
