"""The tools of OpenAI Responses that run at the provider's and are charged by the call: what a request allows, and what
a reply says of them.

OpenAI charges searches by the call and the code interpreter by the container, xAI both by the call. Tools of an MCP
server cost nothing beside their tokens; the image tool's images are counted in tokens.
"""

from __future__ import annotations

from policyd.core.usage import Usage
from policyd.providers.reply_values import Json, first_count, mapping, objects, term, text
from policyd.providers.request_body import optional_integer

CALLS_MAX = 10
"""The most calls of one tool that are held for where the request sets no `max_tool_calls`: a recorded one made four."""

_KIND_BY_TOOL = {
    "web_search": "web_searches",
    "web_search_preview": "web_searches",
    "x_search": "social_searches",
    "file_search": "file_searches",
    "collections_search": "file_searches",
    "attachment_search": "attachment_searches",
    "code_interpreter": "code_sessions",
    "code_execution": "code_sessions",
}

_KIND_BY_COUNT = {
    "web_search_calls": "web_searches",
    "x_search_calls": "social_searches",
    "file_search_calls": "file_searches",
    "document_search_calls": "attachment_searches",
    "code_interpreter_calls": "code_sessions",
    "image_generation_calls": "images_generated",
}
"""xAI's names of its counts."""


def tool_calls_max(document: Json, tools: list[Json]) -> Usage:
    """The most that the tools of a request can be charged for. Raises `BodyUnreadable`."""
    calls = optional_integer(document, "max_tool_calls", minimum=0, maximum=1_000_000)
    calls = CALLS_MAX if calls is None else calls
    most: dict[str, int] = {}
    for tool in tools:
        if (kind := _kind(tool)) is not None:
            # All the runs for one request share a container.
            most[kind] = min(calls, 1) if tool.get("container") is not None else calls
    return Usage(**most)


def container_terms(tools: list[Json]) -> dict[str, str]:
    """How large a container the request has made for its code: the price depends on it."""
    sizes = (mapping(tool.get("container")).get("memory_limit") for tool in tools if _kind(tool) == "code_sessions")
    return term("container_memory", next((size for size in sizes if size is not None), None))


def tool_calls(response: Json, reported: Json) -> Usage:
    """What a response object says that its tools did; `reported` is its usage object."""
    counts = mapping(reported.get("server_side_tool_usage_details"))
    if counts:
        return Usage(**{kind: first_count(counts.get(name)) for name, kind in _KIND_BY_COUNT.items()})
    calls = objects(response.get("output"))
    told = mapping(mapping(response.get("tool_usage")).get("web_search")).get("num_requests")
    containers = {text(call.get("container_id")) for call in calls if call.get("type") == "code_interpreter_call"}
    return Usage(
        web_searches=first_count(told, _web_searches(calls)),
        file_searches=sum(call.get("type") == "file_search_call" for call in calls),
        code_sessions=len(containers),
    )


def _kind(tool: Json) -> str | None:
    kind = text(tool.get("type"))
    # With the date of a version: `web_search_2025_08_26`.
    return _KIND_BY_TOOL.get(kind) or ("web_searches" if kind.startswith("web_search") else None)


def _web_searches(calls: list[Json]) -> int:
    """Opening a page that was found is no search."""
    found = [call for call in calls if call.get("type") == "web_search_call"]
    return sum(mapping(call.get("action")).get("type", "search") == "search" for call in found)
