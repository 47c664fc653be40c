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
    http_seconds: float
    """For each number of connections."""
    stream_seconds: float
    calls_seconds: float
    warm_up_seconds: float

    @property
    def in_whole_seconds(self) -> bool:
        """Whether wrk can do it, which measures nothing shorter than a second."""
        return self.http_seconds >= 1 and float(self.http_seconds).is_integer()


FULL: Final = Plan(rounds=5, http_seconds=2, stream_seconds=0.9, calls_seconds=1, warm_up_seconds=0.5)
"""Some three minutes."""

QUICK: Final = Plan(rounds=3, http_seconds=0.4, stream_seconds=0.4, calls_seconds=0.3, warm_up_seconds=0.3)
"""Half a minute: enough to see whether a change matters a lot."""

TINY: Final = Plan(rounds=1, http_seconds=0.05, stream_seconds=0.02, calls_seconds=0.02, warm_up_seconds=0.02)
"""A few seconds: enough to see that it all works."""
