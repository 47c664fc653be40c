"""A path as a server may read it that is less strict than the table of endpoints."""

from __future__ import annotations

from urllib.parse import unquote

_ESCAPES_DEPTH_MAX = 4
"""How many times over a path is decoded. Servers decode once; proxies before them may do it again."""


def read_loosely(path: str) -> str:
    """`path` (no query) with escapes decoded, parameters and empty segments taken out, and dot segments followed.

    /v1//chat/./completions/     /v1/chat/completions
    /v1/chat%2fcompletions;v=1   /v1/chat/completions
    /v1/models/..\\chat           /v1/chat
    """
    for _ in range(_ESCAPES_DEPTH_MAX):
        path = unquote(path)
    segments: list[str] = []
    for segment in path.partition("#")[0].partition("?")[0].replace("\\", "/").split("/"):
        name = segment.partition(";")[0].strip()
        if name == "..":
            del segments[-1:]
        elif name not in ("", "."):
            segments.append(name)
    return "/" + "/".join(segments)
