"""How a request ended, and what becomes of its reservation: settled or released, once."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from policyd.core.pricing import NO_TERMS
from policyd.core.record import Outcome, Record, UsageSource
from policyd.core.reservation import State
from policyd.core.usage import Usage


class Ending(Struct, frozen=True):
    """How an exchange ended and what is charged for it. `usage` `None`: nothing is charged, the hold is returned."""

    outcome: Outcome
    usage: Usage | None
    source: UsageSource
    status: int | None = None
    response_model: str | None = None
    terms: Mapping[str, str] = NO_TERMS
    streamed: bool = False
    error: str | None = None


def reported_ending(
    usage: Usage, *, status: int | None = None, response_model: str | None = None, terms: Mapping[str, str] = NO_TERMS
) -> Ending:
    """The ending of a request whose caller reports its usage."""
    failed = status is not None and status >= 400
    return Ending(
        outcome=Outcome.PROVIDER_ERROR if failed else Outcome.SERVED,
        usage=usage,
        source=UsageSource.REPORTED,
        status=status,
        response_model=response_model,
        terms=terms,
        error=f"http_{status}" if failed else None,
    )


RELEASED = Ending(outcome=Outcome.RELEASED, usage=None, source=UsageSource.NONE)
"""The ending of a request that its caller never made, or that cost nothing."""


class Ended(Struct, frozen=True):
    """What became of a reservation that was to end."""

    found: State
    """The state that it was in."""
    record: Record
    """The final record: of the call that ended it first."""

    @property
    def repeated(self) -> bool:
        """Whether it had ended in the same way before, so that nothing was changed."""
        return self.found in {State.SETTLED, State.RELEASED}
