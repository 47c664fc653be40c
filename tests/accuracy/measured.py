"""What was found of one exchange: which numbers are right, and which are not and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Number(StrEnum):
    """What is measured of an exchange."""

    USAGE = "usage"
    PRICE = "price"
    COUNT = "count"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Miss:
    """A number that was wrong, and why. `excuse` names the class of misses that no reader could get right."""

    number: Number
    reason: str
    excuse: str = ""


@dataclass(slots=True)
class Measured:
    """What became of one recorded exchange."""

    id: str
    wire: str
    is_synthetic: bool = False
    """Whether the record says of itself that it was made by hand."""
    unmetered: str = ""
    """Why nothing was measured, if so."""
    request_unread: str = ""
    """Why there is no request to go by, so that the reply's usage alone was measured."""
    right: set[Number] = field(default_factory=set)
    misses: list[Miss] = field(default_factory=list)
    input_error: float | None = None
    """By how much the estimated input is off, as a share of what was reported."""

    def judge(self, number: Number, wrong: str, excuse: str = "") -> None:
        """Notes `number` as right, or as missed for the reason in `wrong`."""
        if wrong:
            self.misses.append(Miss(number, wrong, Excuse.SYNTHETIC if self.is_synthetic else excuse))
        else:
            self.right.add(number)


class Excuse(StrEnum):
    """The classes of misses that are named and not held against the figures."""

    LONGER_REPLY = "the reply is longer than the maximum that was asked for"
    HIDDEN_INPUT = (
        "input that the wire does not show (server-side tools, files by id, earlier responses, stored prompts)"
    )
    SYNTHETIC = "made by hand, not recorded"
    FIRST_WEEKS = "the first weeks of the Responses API (until April 2025), which counted 18 tokens more"
    COUNTED_AS_NOTHING = "the reply reports no tokens at all for a prompt that is not empty"
    NORMALISED = "the recorder put other characters in place of some that were sent"
