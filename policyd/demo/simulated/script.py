"""What one request asks the simulated provider to do, by `x-sim-*` request headers.

Headers, because the official SDKs pass them unchanged (`extra_headers`), and a proxy in between forwards them.
`Script` is the table of them: the header of a field is `x-sim-` and the field's name with dashes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self, TypeVar

from policyd.demo.simulated.encoding import ENCODINGS
from policyd.demo.simulated.reply import BadRequestError

PREFIX = "x-sim-"

Value = TypeVar("Value")


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


def _positive(text: str) -> int:
    if (number := _natural(text)) == 0:
        raise ValueError(text)
    return number


def _error_status(text: str) -> int:
    if not 400 <= (status := _natural(text)) <= 599:
        raise ValueError(text)
    return status


def _flag(text: str) -> bool:
    return {"0": False, "1": True}[text]


def _encoding(text: str) -> str:
    if text not in ENCODINGS:
        raise ValueError(text)
    return text


def _header(default: Value, parse: Callable[[str], Value], doc: str) -> Value:
    return field(default=default, metadata={"parse": parse, "doc": doc})


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One field a header. A *chunk* is one write: an SSE event, a piece of a JSON body, or `chunk_bytes` of either."""

    output_tokens: int = _header(40, _natural, "N: tokens that the model would write, 40 unless told")
    model: str | None = _header(None, str, "NAME: the model named in the reply, instead of the one asked for")
    no_usage: bool = _header(False, _flag, "1: the reply reports no usage")
    pad_bytes: int = _header(0, _natural, "N: a JSON reply has about N bytes more text; its usage stays")

    status: int | None = _header(None, _error_status, "400 to 599: an error with this status in the provider's shape")
    error_after_chunks: int | None = _header(None, _natural, "N: a stream ends in an error event after N SSE events")
    reset_after_chunks: int | None = _header(
        None, _natural, "N: the connection dies after N chunks of the body, always before the last"
    )

    delay_ms: int = _header(0, _natural, "N: milliseconds before the reply begins")
    chunk_delay_ms: int = _header(0, _natural, "N: milliseconds between two chunks")
    chunk_bytes: int | None = _header(None, _positive, "N: the body is cut into chunks of N bytes, at any byte")
    crlf: bool = _header(False, _flag, "1: the lines of an SSE stream end in CRLF")
    encoding: str | None = _header(
        None, _encoding, f"{' | '.join(ENCODINGS)}: compresses the body, flushed at each event, whatever was accepted"
    )
    unknown_length: bool = _header(False, _flag, "1: a JSON reply goes without content-length")

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> Self:
        """Reads the `x-sim-*` headers (lower-case names); an unknown one or a bad value raises BadRequestError."""
        return cls(
            **{_field_name(name): _parsed(name, text) for name, text in headers.items() if name.startswith(PREFIX)}
        )


_FIELDS: Mapping[str, Mapping[str, Any]] = {item.name: item.metadata for item in fields(Script)}


def _field_name(header: str) -> str:
    name = header.removeprefix(PREFIX).replace("-", "_")
    if name not in _FIELDS:
        known = ", ".join(PREFIX + field_name.replace("_", "-") for field_name in _FIELDS)
        raise BadRequestError(f"{header} is not a header of the simulated provider; it knows {known}")
    return name


def _parsed(header: str, text: str) -> Any:
    metadata = _FIELDS[_field_name(header)]
    try:
        return metadata["parse"](text)
    except (KeyError, ValueError) as error:
        raise BadRequestError(f"{header}: {text!r} does not fit; it takes {metadata['doc']}") from error
