"""Which framing a reply is in, by its content type."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from policyd.providers.framing.event_stream import EventStreamFramer
from policyd.providers.framing.frame import Framer
from policyd.providers.framing.ndjson import NdjsonFramer
from policyd.providers.framing.sse import SseFramer

_FRAMERS: Mapping[str, Callable[[], Framer]] = {
    "text/event-stream": SseFramer,
    "application/vnd.amazon.eventstream": EventStreamFramer,
    "application/x-ndjson": NdjsonFramer,
    "application/ndjson": NdjsonFramer,
    "application/jsonl": NdjsonFramer,
    "application/stream+json": NdjsonFramer,  # Cohere v1
}


def framer_for(content_type: str) -> Framer | None:
    """A framer for a reply of that type, parameters and case aside; `None` for a reply that is one document."""
    make = _FRAMERS.get(content_type.partition(";")[0].strip().lower())
    return make() if make is not None else None
