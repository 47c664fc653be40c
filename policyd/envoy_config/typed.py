"""Envoy's extensions, by name and by type."""

from typing import Any, Final

Json = dict[str, Any]

EXT_PROC: Final = "envoy.filters.http.ext_proc"


def typed(message: str, **fields: Any) -> Json:
    """The configuration of an extension, marked with the protobuf message that it is."""
    return {"@type": f"type.googleapis.com/{message}", **fields}
