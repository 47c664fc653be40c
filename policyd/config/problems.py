"""Mistakes: how one is told apart from a defect, and how all mistakes of one file are reported at once."""

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple, TypeVar

from policyd.core.errors import ConfigError

Node = TypeVar("Node")
Value = TypeVar("Value")
Default = TypeVar("Default")


class Position(NamedTuple):
    """Where something stands in a file. Both count from 1."""

    line: int
    column: int


class Mistake(Exception):
    """One thing that is wrong with a file.

    Raised by what reads a value, collected by `Problems`; users see a `ConfigError`.
    """

    def __init__(self, at: Position, message: str) -> None:
        super().__init__(message)
        self.at = at
        self.message = message


class Problems:
    """Collects the mistakes of one file, so that one run shows them all.

    A message reads `policyd.yaml:14: limits[0].window: found "fortnight", expected ...`: file and line for the editor,
    the path for the eye.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._found: list[tuple[Position, str]] = []

    def __bool__(self) -> bool:
        """Whether any mistake was found yet."""
        return bool(self._found)

    def add(self, at: Position, path: str, message: str) -> None:
        """Reports what is wrong `at` a position; an empty `path` stands for the whole file."""
        place = f"{path}: " if path else ""
        self._found.append((at, f"{self._source}:{at.line}: {place}{message}"))

    def attempt(self, path: str, parse: Callable[[Node], Value], node: Node, default: Default) -> Value | Default:
        """`parse(node)`; on a mistake `default`, which lets the rest of the file be checked and is never put to use."""
        try:
            return parse(node)
        except Mistake as mistake:
            self.add(mistake.at, path, mistake.message)
            return default

    def raise_if_any(self) -> None:
        """Raises `ConfigError` with every mistake, in the file's order."""
        if self._found:
            raise ConfigError(*(message for _, message in sorted(self._found, key=lambda found: found[0])))


def one_of(words: Sequence[str]) -> str:
    """`a`, `a or b`, `one of a, b or c`."""
    if len(words) == 1:
        return words[0]
    alternatives = f"{', '.join(words[:-1])} or {words[-1]}"
    return f"one of {alternatives}" if len(words) > 2 else alternatives


def closest(word: str, candidates: Iterable[str]) -> str | None:
    """Which candidate `word` is probably a misspelling of."""
    by_folded = {candidate.lower(): candidate for candidate in candidates}
    matches = get_close_matches(word.lower(), by_folded, n=1)
    return by_folded[matches[0]] if matches else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """What to add to a message about `word`: a question, or nothing."""
    meant = closest(word, candidates)
    return f'; did you mean "{meant}"?' if meant else ""
