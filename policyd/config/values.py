"""The small things that settings are made of: words, amounts, durations, names.

Each parser takes a tree and returns a value, or raises `Mistake` with what was found and what was expected. Parsers are
strict where YAML is generous: `no` is not a word, `010` is not eight, `1:30` is not ninety.
"""

import json
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import TypeVar
from zoneinfo import available_timezones

from policyd.config.problems import Mistake, did_you_mean, one_of
from policyd.config.yaml_tree import Kind, ListTree, MappingTree, Scalar, Tree
from policyd.core.money import ACCOUNT_NANOS_MAX, format_usd, parse_usd

Words = TypeVar("Words", bound=StrEnum)

COUNT_MAX = 2**53 - 1
"""The largest whole number, exact in every store."""

DURATION_SECONDS_MAX = 3650 * 86_400
DURATION_EXPECTED = "a duration such as 60s, 5m, 1h or 90d, at most 3650d"

_SECONDS_BY_UNIT = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
DURATION = re.compile(r"(\d{1,10})([smhd]?)", re.ASCII)
# No leading zero, which YAML takes for octal.
_WHOLE_NUMBER = re.compile(r"0|[1-9]\d*", re.ASCII)
GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
STABLE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_NUMBER_TEXT_MAX = 40
_FOUND_TEXT_MAX = 60


def found(tree: Tree) -> str:
    """How a message shows what stands in the file."""
    match tree:
        case ListTree():
            return "a list"
        case MappingTree():
            return "a mapping"
        case Scalar(kind=Kind.NOTHING):
            return "nothing"
        case Scalar(text=text, kind=kind):
            shown = text if len(text) <= _FOUND_TEXT_MAX else f"{text[:_FOUND_TEXT_MAX]}..."
            return json.dumps(shown, ensure_ascii=False) if kind is Kind.TEXT else shown


def expected(tree: Tree, expectation: str) -> Mistake:
    """The mistake of finding `tree` in the place of what `expectation` describes."""
    return Mistake(tree.at, f"found {found(tree)}, expected {expectation}")


def mapping(example: str) -> Callable[[Tree], MappingTree]:
    """A parser for a mapping."""

    def parse(tree: Tree) -> MappingTree:
        if not isinstance(tree, MappingTree):
            raise expected(tree, f"a mapping such as {example}")
        return tree

    return parse


def items(example: str) -> Callable[[Tree], tuple[Tree, ...]]:
    """A parser for a list with at least one item."""

    def parse(tree: Tree) -> tuple[Tree, ...]:
        if not isinstance(tree, ListTree):
            raise expected(tree, f"a list such as {example}")
        if not tree.items:
            raise Mistake(tree.at, f"found an empty list, expected a list such as {example}")
        return tree.items

    return parse


def text(tree: Tree) -> str:
    """Any text but the empty one."""
    if not isinstance(tree, Scalar) or tree.kind is Kind.NOTHING or not tree.text:
        raise expected(tree, "text")
    if tree.kind is not Kind.TEXT:
        raise Mistake(tree.at, f"found {found(tree)}, which YAML reads as {tree.kind}; put it in quotes")
    return tree.text


def printable(tree: Tree) -> str:
    """Text without control characters."""
    value = text(tree)
    if not value.isprintable():
        raise expected(tree, "text without control characters")
    return value


def group_name(tree: Tree) -> str:
    """The name of a tier or of a group: it can stand in a pattern as itself."""
    name = text(tree)
    if not GROUP_NAME.fullmatch(name):
        raise expected(tree, "a name of letters, digits, dots, dashes and _, 64 at most")
    return name


def stable_name(tree: Tree) -> str:
    """The name of a limit, a pool or a rule: it can be part of a key."""
    name = text(tree)
    if not STABLE_NAME.fullmatch(name):
        raise expected(tree, "a name of lower-case letters, digits, dots, dashes and _, 64 at most")
    return name


def boolean(tree: Tree) -> bool:
    if isinstance(tree, Scalar) and tree.kind is Kind.BOOLEAN and tree.text in {"true", "false"}:
        return tree.text == "true"
    raise expected(tree, "true or false")


def word(words: Sequence[str], *, others: Sequence[str] = ()) -> Callable[[Tree], str]:
    """A parser for one of `words`. `others` describe forms that the caller takes beside them."""

    def parse(tree: Tree) -> str:
        written = tree.text if isinstance(tree, Scalar) else ""
        if written in words:
            return written
        expectation = one_of((*words, *others))
        raise expected(tree, expectation + did_you_mean(written, words))

    return parse


def choice(words: type[Words]) -> Callable[[Tree], Words]:
    """A parser for one of an enumeration's words."""
    return lambda tree: words(word(tuple(words))(tree))


def whole_number(minimum: int, maximum: int = COUNT_MAX) -> Callable[[Tree], int]:
    """A parser for a whole number from `minimum` to `maximum`, unquoted."""

    def parse(tree: Tree) -> int:
        expectation = f"a whole number from {minimum} to {maximum}"
        if not isinstance(tree, Scalar) or len(tree.text) > _NUMBER_TEXT_MAX or not _WHOLE_NUMBER.fullmatch(tree.text):
            raise expected(tree, expectation)
        if tree.kind is Kind.TEXT:
            raise expected(tree, f"{expectation} without quotes")
        value = int(tree.text)
        if not minimum <= value <= maximum:
            raise expected(tree, expectation)
        return value

    return parse


def usd_nanos(tree: Tree) -> int:
    """Nano-USD of an amount in dollars, read from its text; quoted or not."""
    expectation = "an amount in USD such as 10.00"
    if not isinstance(tree, Scalar) or tree.kind is Kind.NOTHING:
        raise expected(tree, expectation)
    try:
        nanos = parse_usd(tree.text)
    except ValueError as error:
        raise Mistake(tree.at, f"{error}, expected {expectation}") from None
    if nanos < 0:
        raise expected(tree, f"{expectation}, not a negative one")
    if nanos > ACCOUNT_NANOS_MAX:
        raise expected(tree, f"at most {format_usd(ACCOUNT_NANOS_MAX)}, the most that an account can hold")
    return nanos


def parse_duration(written: str) -> int:
    """Seconds of `60s`, `5m`, `1h`, `90d`, or a whole number of seconds. Raises `ValueError`."""
    matched = DURATION.fullmatch(written)
    if matched is None:
        raise ValueError(f"{written!r} is not a duration")
    seconds = int(matched[1]) * _SECONDS_BY_UNIT[matched[2]]
    if seconds > DURATION_SECONDS_MAX:
        raise ValueError(f"{written!r} is longer than ten years")
    return seconds


def duration_seconds(*, minimum: int) -> Callable[[Tree], int]:
    """A parser for a duration of `minimum` seconds or more, at most ten years."""

    def parse(tree: Tree) -> int:
        if not isinstance(tree, Scalar):
            raise expected(tree, DURATION_EXPECTED)
        try:
            seconds = parse_duration(tree.text)
        except ValueError:
            raise expected(tree, DURATION_EXPECTED) from None
        if seconds < minimum:
            raise expected(tree, f"{minimum}s or more")
        return seconds

    return parse


def whole_days(tree: Tree) -> int:
    """Days of a duration that is a whole number of them, at least one."""
    days, rest = divmod(duration_seconds(minimum=86_400)(tree), 86_400)
    if rest:
        raise expected(tree, "whole days such as 90d")
    return days


def timezone(tree: Tree) -> str:
    """The name of an IANA time zone."""
    name = text(tree)
    if name not in _timezones():
        raise expected(tree, "an IANA time zone such as Europe/Berlin" + did_you_mean(name, _timezones()))
    return name


@lru_cache(maxsize=1)
def _timezones() -> frozenset[str]:
    # "localtime" is whatever one machine is set to, "Factory" says that it was never set: replicas could differ.
    return frozenset(available_timezones() - {"localtime", "Factory"})
