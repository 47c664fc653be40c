"""Model names, as far as counting needs them: the name under its prefixes, and which Claude it is.

Providers, gateways and clouds write one model's name in many ways; the names below all appear in real traffic:
`openai/gpt-4o`, `ft:gpt-4o-mini-2024-07-18:org::id`, `us.anthropic.claude-3-7-sonnet-20250219-v1:0`,
`claude-sonnet-4@20250514`, `anthropic/claude-4.6-sonnet-20260217`, `gpt-35-turbo`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_NAME_CHARS_MAX = 256


def bare_model_name(model: str) -> str:
    """`model` in lower case, without path and `ft:` prefixes: what the tables of this package are keyed by."""
    name = model[-_NAME_CHARS_MAX:].lower().rpartition("/")[2]
    return name.removeprefix("ft:")


class ClaudeVersion(NamedTuple):
    major: int
    minor: int


CLAUDE_NEWEST = ClaudeVersion(99, 0)
"""What a Claude without a version in its name is taken for."""

# "claude-3-5-haiku-...", "claude-opus-4-6", "claude-4.6-sonnet-...", "claude-v2:1". A date is no minor version.
_CLAUDE = re.compile(r"claude(?:-(?:[a-z]+-)?v?([0-9]{1,2})(?![0-9])(?:[-.]([0-9]{1,2})(?![0-9]))?)?")


def claude_version(bare_name: str) -> ClaudeVersion | None:
    """Which Claude `bare_name` names; `None` if it names none."""
    match = _CLAUDE.search(bare_name)
    if match is None:
        return None
    major, minor = match.groups()
    return ClaudeVersion(int(major), int(minor or 0)) if major else CLAUDE_NEWEST
