"""The states of an exchange and of a session. What each means, and what leads where, stands beside their tables."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    IDLE = "idle"
    AUTHENTICATING = "authenticating"
    READING_REQUEST = "reading_request"
    DECIDING = "deciding"
    CHARGING = "charging"
    ABANDONED = "abandoned"
    FORWARDED = "forwarded"
    METERING = "metering"
    TOPPING_UP = "topping_up"
    SETTLING = "settling"
    PASSING = "passing"
    ENDED = "ended"


class SessionState(StrEnum):
    IDLE = "idle"
    AUTHENTICATING = "authenticating"
    ADMITTING = "admitting"
    HOLDING = "holding"
    OPEN = "open"
    TOPPING_UP = "topping_up"
    SETTLING = "settling"
    CHARGING = "charging"
    ANSWERED = "answered"
    ENDED = "ended"
