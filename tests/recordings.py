"""Recorded traffic with real providers, where a file of it is at hand.

`POLICYD_RECORDINGS` names the file; else it is looked for in `shared/recordings` beside the repository. Each line is
one exchange; `expected_usage` is what the provider reported, in its own meaning of each field. The product's tests
pass without the file: what the records taught is in their own fixtures too.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from policyd.providers.base import WireFormat
from policyd.providers.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT

Recording = Mapping[str, Any]
"""One recorded exchange, as decoded from its line."""

PATH = Path(
    os.environ.get("POLICYD_RECORDINGS")
    or Path(__file__).parents[1].parent / "shared" / "recordings" / "recordings.jsonl.gz"
)
AT_HAND = pytest.mark.skipif(not PATH.exists(), reason=f"no recordings at {PATH} (POLICYD_RECORDINGS names the file)")
"""Leaves out a test that needs the file where there is none."""

WIRES: Mapping[str, WireFormat] = {"openai-chat": OPENAI_CHAT, "anthropic-messages": ANTHROPIC_MESSAGES}

REFUSED = {
    "5ca72e537e94": "the model is null: Azure names it in the path",
    "1348b390aef4": "the request is no JSON: its recorder kept a line break inside a text",
}
"""Recorded requests that are refused, and why."""

MODEL_IN_PATH = ("vertex",)
"""Vendors whose requests name the model in the path: their endpoints are not metered, their replies are Anthropic's."""


@cache
def every_recording() -> tuple[Recording, ...]:
    """Every recorded exchange, in any wire format."""
    with gzip.open(PATH) as lines:
        return tuple(msgspec.json.decode(line) for line in lines)


@cache
def recordings() -> tuple[Recording, ...]:
    """Every recorded exchange in one of `WIRES`."""
    return tuple(recording for recording in every_recording() if recording["wire"] in WIRES)


def has_readable_request(recording: Recording) -> bool:
    """Whether a request was recorded, and is one that is not refused."""
    refused = recording["id"] in REFUSED or recording["vendor"] in MODEL_IN_PATH
    return bool(recording["request_body"]) and not refused
