"""Under which names a price book looks a model up: as it was sent, then in the other forms that mean the same model.

claude-sonnet-4-20260131                      claude-sonnet-4-2026-01-31
models/gemini-2.5-flash                       gemini-2.5-flash
publishers/google/models/gemini-2.5-flash     gemini-2.5-flash
openai/gpt-4o, of openai                      gpt-4o
google/gemini-2.5-flash:online                google/gemini-2.5-flash
openai.gpt-oss-120b, of aws                   openai.gpt-oss-120b-1:0
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

MODEL_NAME_CHARS_MAX = 512
"""A longer name means no model."""

_COMPACT_DATE = re.compile(r"-(20[0-9]{2})([0-9]{2})([0-9]{2})(?=[-:]|$)")
_RESOURCE = re.compile(r"(?:.*/)?models/([^/]+)")
_ROUTING = re.compile(r"(.+):(?:online|nitro|floor|exacto)")
"""What OpenRouter puts behind a name to choose among those who serve the model."""
_BEDROCK_VERSIONS = ("-1:0", "-v1:0")
"""What Bedrock's endpoints in OpenAI's form leave out of a model's id."""


def model_names(model: str, *, provider: str) -> tuple[str, ...]:
    """The names to look a model of `provider` up by, in lower case and in turn."""
    return tuple(dict.fromkeys(_names(model.lower(), provider)))


def _names(name: str, provider: str) -> Iterator[str]:
    yield name
    yield _COMPACT_DATE.sub(_dashed_date, name)
    if resource := _RESOURCE.fullmatch(name):
        yield resource[1]
    if name.startswith(f"{provider}/"):
        yield name.removeprefix(f"{provider}/")
    if routed := _ROUTING.fullmatch(name):
        yield routed[1]
    if provider == "aws":
        yield from (f"{name}{version}" for version in _BEDROCK_VERSIONS)


def _dashed_date(compact: re.Match[str]) -> str:
    try:
        return f"-{date(*map(int, compact.groups())).isoformat()}"
    except ValueError:  # eight digits that are no date
        return compact[0]
