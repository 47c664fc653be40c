"""What a reader of replies keeps, and how it is asked for it: the part of a `ReplyReader` that is alike in all."""

from __future__ import annotations

import re
from collections.abc import Mapping

from policyd.core.usage import Usage


class ReplyReading:
    """Holds what was read so far. A reader sets the fields as it reads."""

    telling: re.Pattern[bytes] | None = None

    __slots__ = ("_error", "_model", "_terms", "_texts", "_usage")

    def __init__(self) -> None:
        self._usage: Usage | None = None
        self._model: str | None = None
        self._terms: dict[str, str] = {}
        self._error: str | None = None
        self._texts: list[str] = []

    @property
    def usage(self) -> Usage | None:
        return self._usage

    @property
    def model(self) -> str | None:
        return self._model

    @property
    def terms(self) -> Mapping[str, str]:
        return self._terms

    @property
    def error(self) -> str | None:
        return self._error

    def take_text(self) -> str:
        taken = "".join(self._texts)
        self._texts.clear()
        return taken
