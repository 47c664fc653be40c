"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CONNECTIONS: Final = (1, 16, 64)
"""How many clients there are at a time, each with one request under way."""

COMPARED_AT: Final = 16
"""The number of connections at which latency, CPU time and ratios are shown."""

STREAMS_AT_ONCE: Final = 8
"""Few enough for nearly every chunk to come by itself: on a machine that falls behind, Envoy reads several as one."""

CALLS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """In each round everything is measured once; what is compared takes turns, in another order each time."""

    rounds: int
    slice_seconds: float
    """How long each thing is measured in a round."""
    warm_up_seconds: float
    starts: int
    """Rounds of what takes fresh processes each time."""
    open_streams: int
    accounts: tuple[int, ...]
    """In the stores whose growth is looked at, from the smallest on."""
    skipped: frozenset[str] = frozenset()
    """Rows that are left out."""

    @property
    def in_whole_seconds(self) -> bool:
        """Whether wrk can do it, which measures nothing shorter than a second."""
        return self.slice_seconds >= 1 and float(self.slice_seconds).is_integer()


FULL: Final = Plan(
    rounds=5,
    slice_seconds=1,
    warm_up_seconds=0.5,
    starts=3,
    open_streams=500,
    accounts=(1_000, 100_000, 1_000_000),
)

QUICK: Final = Plan(
    rounds=3,
    slice_seconds=0.4,
    warm_up_seconds=0.3,
    starts=2,
    open_streams=500,
    accounts=(1_000, 100_000),
)
"""Enough to see whether a change matters a lot."""
