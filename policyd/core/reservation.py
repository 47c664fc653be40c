"""The life of a reservation, as one table.

    RESERVED --settle--> SETTLED        the real usage is charged, the rest of the hold returned
        |-----release--> RELEASED       nothing is charged (the provider served nothing)
        |-----expire---> EXPIRED        the exchange is gone; the hold is charged as `on_expiry` says
    EXPIRED ---settle--> SETTLED        a late settle corrects what expiry charged, once
        |-----release--> RELEASED

A hold is *extended* (more is needed) and *renewed* (its exchange lives) while RESERVED only. Repeating the event that
ended a reservation changes nothing and succeeds; any other pair that the table lacks is `ReservationEnded`. Every store
follows this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from policyd.core.errors import ReservationEnded


class State(StrEnum):
    RESERVED = "reserved"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


class Event(StrEnum):
    SETTLE = "settle"
    RELEASE = "release"
    EXPIRE = "expire"
    EXTEND = "extend"
    RENEW = "renew"


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.RESERVED, Event.EXTEND): State.RESERVED,
    (State.RESERVED, Event.RENEW): State.RESERVED,
    (State.RESERVED, Event.SETTLE): State.SETTLED,
    (State.RESERVED, Event.RELEASE): State.RELEASED,
    (State.RESERVED, Event.EXPIRE): State.EXPIRED,
    (State.EXPIRED, Event.SETTLE): State.SETTLED,
    (State.EXPIRED, Event.RELEASE): State.RELEASED,
    # Repetitions: the answer to the first one may have been lost.
    (State.SETTLED, Event.SETTLE): State.SETTLED,
    (State.RELEASED, Event.RELEASE): State.RELEASED,
    (State.EXPIRED, Event.EXPIRE): State.EXPIRED,
}


def next_state(state: State, event: Event, *, reservation_id: str) -> State:
    """The state after `event`. Raises `ReservationEnded` where the table has no row."""
    following = TRANSITIONS.get((state, event))
    if following is None:
        raise ReservationEnded(reservation_id, state=state, event=event)
    return following


def is_repetition(state: State, event: Event) -> bool:
    """Whether `event` only repeats what ended the reservation, so that no account may change."""
    return state is not State.RESERVED and TRANSITIONS.get((state, event)) is state
