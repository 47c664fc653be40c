"""Many histories, one after the other or in several processes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from tests.simulation.drawing import draw
from tests.simulation.history import Told, tell
from tests.simulation.hosts import HOSTS, Host
from tests.simulation.plan import Plan

_CHUNK = 20
"""How many histories a process is given at once."""


@dataclass
class Tally:
    """What many histories came to."""

    histories: int = 0
    calm: int = 0
    jumping: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    broken_seeds: list[int] = field(default_factory=list)

    def count(self, told: Told) -> None:
        self.histories += 1
        self.calm += told.plan.calm
        self.jumping += told.plan.jumps
        self.seen.update(told.seen)
        if told.broken is not None:
            self.broken_seeds.append(told.plan.seed)

    def add(self, other: Tally) -> None:
        self.histories += other.histories
        self.calm += other.calm
        self.jumping += other.jumping
        self.seen.update(other.seen)
        self.broken_seeds += other.broken_seeds


def run_seed(seed: int, *, store: str) -> Told:
    with HOSTS[store]() as new_host:
        return run_plan(draw(seed), new_host)


def run_plan(plan: Plan, new_host: Callable[[], Host]) -> Told:
    with closing(new_host()) as host:
        return tell(plan, host)


def run_seeds(seeds: Iterable[int], *, store: str) -> Tally:
    """Stops at the first history that breaks."""
    tally = Tally()
    with HOSTS[store]() as new_host:
        for seed in seeds:
            tally.count(run_plan(draw(seed), new_host))
            if tally.broken_seeds:
                break
    return tally


def run_many(seeds: Sequence[int], *, store: str, processes: int, ends_at: float) -> Tally:
    """As many as there is time for by the monotonic clock, in several processes; none begins after one has broken."""
    tally = Tally()
    chunks = [seeds[start : start + _CHUNK] for start in range(0, len(seeds), _CHUNK)]
    with ProcessPoolExecutor(processes, initializer=logging.disable) as pool:
        for done in pool.map(partial(run_seeds, store=store), chunks):
            tally.add(done)
            if tally.broken_seeds or time.monotonic() > ends_at:
                pool.shutdown(cancel_futures=True)
                break
    return tally
