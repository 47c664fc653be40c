"""Reading what completions and embeddings take as their input: a text, tokens, or an array of either.

Embeddings of some vendors also take objects, with a text or an image each.
"""

from __future__ import annotations

from typing import Any

from policyd.core.errors import BodyUnreadable
from policyd.providers.prompt_builder import PromptBuilder
from policyd.providers.request_body import Json

INPUTS_MAX = 2_048
"""The most inputs in one request; OpenAI takes as many."""


def add_inputs(builder: PromptBuilder, value: Any, *, name: str) -> int:
    """Adds the inputs in the member `name`; returns how many there are. Raises `BodyUnreadable`."""
    inputs = value if isinstance(value, list) and not _are_tokens(value) else [value]
    if not inputs or len(inputs) > INPUTS_MAX:
        raise BodyUnreadable(f"{name}: expected from 1 to {INPUTS_MAX} inputs")
    for index, one in enumerate(inputs):
        if one == "":
            # Embedded as one token.
            builder.overhead_tokens += 1
        elif isinstance(one, str):
            builder.text(one)
        elif _are_tokens(one):
            builder.overhead_tokens += len(one)
        elif isinstance(one, dict):
            _add_object(builder, one)
        else:
            raise BodyUnreadable(f"{name}[{index}]: expected a text, an array of tokens or an object")
    return len(inputs)


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def _add_object(builder: PromptBuilder, one: Json) -> None:
    builder.exact = False
    content = one.get("content")
    for part in content if isinstance(content, list) else [one]:
        for name, value in part.items() if isinstance(part, dict) else [("text", part)]:
            if name in ("image", "image_url"):
                builder.image_url(value.get("url") if isinstance(value, dict) else value)
            elif name != "type":
                builder.text(value)
