"""What of a reply says what it cost, for a reader that does not see the reply: Envoy, which picks single members out.

Of a document Envoy can pick leaves, values that are neither an object nor an array; out of the events of a stream whole
objects too. A wire format whose usage stands there altogether is a `LeafFormat`: it says where, and makes a reply of
what was picked, which its own reader then reads like any other. Formats that tell what a reply cost in arrays, or in
what is no JSON at all, are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import msgspec

from policyd.providers.base import ReplyReader, WireFormat
from policyd.providers.framing.frame import Frame
from policyd.providers.reply_values import Json, decode

FACTS_BYTES_MAX = 65_536
"""No object that was picked out is larger: Envoy takes no larger event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyLeaves:
    """Where in its replies a format says what they cost, as dotted paths."""

    document: tuple[str, ...]
    """Values of a document, none of them an object or an array."""
    events: tuple[str, ...] = ()
    """Values of a stream's events, objects included; the latest event that has one counts. None: it has no streams."""


@runtime_checkable
class LeafFormat(WireFormat, Protocol):
    """A `WireFormat` where all that its replies cost stands in leaves."""

    reply_leaves: ReplyLeaves

    def leaf_events(self, found: Json, *, ended: bool) -> Iterator[Frame]:
        """Events that say what `found` says, which was picked out of a stream. `ended`: whether that was whole."""
        ...


def beneath(parent: str, names: Iterable[str]) -> tuple[str, ...]:
    """The dotted paths of `names` in the object `parent`."""
    return tuple(f"{parent}.{name}" for name in names)


def read_leaves(
    form: LeafFormat, reader: ReplyReader, picked: Mapping[str, Any], *, streamed: bool, ended: bool
) -> None:
    """Has `reader` read the reply that these values, by dotted path, were picked out of.

    An object that was picked is its JSON text. `ended`: whether the reply was whole.
    """
    found = _nested({path: _value(value) for path, value in picked.items()})
    if not streamed:
        if found:
            reader.read_document(found, partial=True)
        return
    for frame in form.leaf_events(found, ended=ended):
        reader.read_frame(frame)


def json_event(data: Json, *, kind: str = "") -> Frame:
    """An event with `data` as its content."""
    return Frame(raw=b"", event=kind, data=msgspec.json.encode(data))


def _value(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("{") and len(value) <= FACTS_BYTES_MAX:
        return decode(value.encode()) or value
    return value


def _nested(picked: Mapping[str, Any]) -> dict[str, Any]:
    """The object in which each path leads to its value. A value has nothing beneath it."""
    found: dict[str, Any] = {}
    for path, value in sorted(picked.items()):
        *parents, name = path.split(".")
        inside: Any = found
        for parent in parents:
            inside = inside.setdefault(parent, {}) if isinstance(inside, dict) else None
        if isinstance(inside, dict):
            inside[name] = value
    return found
