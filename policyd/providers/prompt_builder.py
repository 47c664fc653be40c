"""Putting a prompt together, piece by piece, from whatever a client sent.

Nothing here raises: what has no known shape is counted by its size and makes the prompt inexact.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from typing import Any

import msgspec

from policyd.providers.base import Detail, Image, Prompt

IMAGE_HEAD_BYTES_MAX = 64 * 1024
"""How much of an image is decoded: its dimensions stand near its beginning."""

_DETAILS = {detail.value: detail for detail in Detail}


class PromptBuilder:
    """Collects what has to be counted."""

    __slots__ = (
        "_hides_input",
        "_images",
        "_texts",
        "_unread_bytes",
        "exact",
        "has_tools",
        "overhead_tokens",
        "possible_tokens",
    )

    def __init__(self, *, exact: bool) -> None:
        self.exact = exact
        """Whether counting the pieces exactly gives what the provider will report; cleared by what makes it wrong."""
        self.has_tools = False
        self.overhead_tokens = 0
        self.possible_tokens = 0
        self._texts: list[str] = []
        self._images: list[Image] = []
        self._unread_bytes = 0
        self._hides_input = False

    def prompt(self) -> Prompt:
        return Prompt(
            texts=tuple(self._texts),
            overhead_tokens=self.overhead_tokens,
            possible_tokens=self.possible_tokens,
            images=tuple(self._images),
            unread_bytes=self._unread_bytes,
            exact=self.exact,
            has_tools=self.has_tools,
            hides_input=self._hides_input,
        )

    def text(self, value: Any) -> None:
        """A text; nothing where there is none; anything else by its size."""
        if isinstance(value, str):
            if value:
                self._texts.append(value)
        elif value is not None:
            self.unread(value)

    def json(self, value: Any) -> None:
        """A value that the model is shown as JSON text."""
        self.exact = False
        if value is not None:
            self._texts.append(msgspec.json.encode(value).decode())

    def image_url(self, url: Any, detail: Any = None) -> None:
        """An image by address, or whole in a `data:` address."""
        encoded = ""
        if isinstance(url, str) and url.startswith("data:"):
            encoded = url[:_DATA_HEAD_LENGTH_MAX].partition(",")[2]
        self.image_base64(encoded, detail)

    def image_base64(self, encoded: Any, detail: Any = None) -> None:
        self.exact = False
        head = _base64_head(encoded) if isinstance(encoded, str) else b""
        self._images.append(Image(head, _DETAILS.get(detail, Detail.AUTO) if isinstance(detail, str) else Detail.AUTO))

    def unread(self, value: Any) -> None:
        """A part that cannot be counted, only measured."""
        self.exact = False
        self._unread_bytes += len(msgspec.json.encode(value))

    def unread_base64(self, encoded: Any) -> None:
        """The same, for a file in base64."""
        self.exact = False
        if isinstance(encoded, str):
            self._unread_bytes += len(encoded) * 3 // 4

    def allow(self, tokens_max: int) -> None:
        """An allowance for what cannot be counted. It bounds as if it were so many bytes."""
        self.exact = False
        self._unread_bytes += tokens_max

    def hidden(self, tokens_max: int) -> None:
        """Input that the request does not show (earlier turns, what a tool of the provider's reads): an allowance."""
        self._hides_input = self._hides_input or tokens_max > 0
        self.allow(tokens_max)


_HEAD_LENGTH_MAX = IMAGE_HEAD_BYTES_MAX // 3 * 4
_DATA_HEAD_LENGTH_MAX = _HEAD_LENGTH_MAX + 256


def _base64_head(encoded: str) -> bytes:
    head = encoded[:_HEAD_LENGTH_MAX]
    try:
        return b64decode(head[: len(head) // 4 * 4])
    except (Base64Error, ValueError):
        return b""
