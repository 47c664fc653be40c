"""Which recorded counts a count of ours is held against, and the classes of those that nothing could match.

A class goes by what a record itself shows, so that it means the same for records that nobody has looked at.
"""

from __future__ import annotations

import re

from tests.accuracy.measured import Excuse
from tests.recordings import Recording

EXACT_CLASSES = ("text-plain", "raw-prompt", "embedding-text")
"""The requests whose count OpenAI's published vocabulary and chat format give: of text alone."""

FIRST_WEEKS_UNTIL_MS = 1_744_000_000_000
FIRST_WEEKS_TOKENS = 18

NORMALISED = "smart-quotes-and-NFKC-normalised-by-recorder"
"""The note of recordings whose texts are not, letter for letter, what was sent."""

_REPLY_ID = re.compile(r'"id": ?"((?:resp_|chatcmpl-|cmpl-)[^"]*)"')
_OPENAI_ID = re.compile(r"resp_[0-9a-f]{32,64}|(?:chatcmpl|cmpl)-[0-9A-Za-z]{29}|[a-z]+.REDACTED_[0-9]+")


def is_invented(recording: Recording) -> bool:
    """Whether a reply in OpenAI's form has an id that OpenAI would not give: it was written by hand."""
    named = _REPLY_ID.search(recording["response_body"])
    return recording["vendor"] == "openai" and named is not None and _OPENAI_ID.fullmatch(named[1]) is None


def count_excuse(recording: Recording, *, ours: int, at_ms: int, hides_input: bool) -> str:
    """The class that a count of `ours` falls into where it is wrong; empty where nothing excuses it."""
    theirs = recording["count_check"]["provider_count"]
    if hides_input:
        return Excuse.HIDDEN_INPUT
    if is_invented(recording):
        return Excuse.SYNTHETIC
    if not theirs:
        return Excuse.COUNTED_AS_NOTHING
    if NORMALISED in recording["notes"]:
        return Excuse.NORMALISED
    in_first_weeks = recording["wire"] == "openai-responses" and at_ms < FIRST_WEEKS_UNTIL_MS
    return Excuse.FIRST_WEEKS if in_first_weeks and theirs - ours == FIRST_WEEKS_TOKENS else ""
