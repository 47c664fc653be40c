"""python -m tests.simulation [--seed SEED] [--store KIND] [--histories N] [--first SEED] [--seconds N]"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import time

from tests.simulation.history import Told
from tests.simulation.hosts import HOSTS
from tests.simulation.running import Tally, run_many, run_seed
from tests.simulation.shrinking import shrunk

HISTORIES = {"sqlite": 300, "redis": 200, "memory": 10_000}
"""How many are played on each store. The memory store is the fastest; what the others show beside is that they keep
what they answered."""

SECONDS_MAX = 900
"""No history begins after so long, in all."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make simulate", description="Tries to break policyd's promises.")
    parser.add_argument("--seed", type=int, help="one history, told in full")
    parser.add_argument("--store", choices=HOSTS, help="the shared store (default: all; for a seed: memory)")
    parser.add_argument("--histories", type=int, help="how many on each store (default: 300, 200, 10000)")
    parser.add_argument("--first", type=int, help="the first one's seed (default: a random one)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS_MAX, help=f"none begins later (default: {SECONDS_MAX})"
    )
    options = parser.parse_args()
    logging.disable()
    if options.seed is not None:
        sys.exit(_replay(options.seed, store=options.store or "memory"))
    first = options.first if options.first is not None else random.randrange(10**9)
    ends_at = time.monotonic() + options.seconds
    for store in (options.store,) if options.store else HOSTS:
        histories = options.histories or HISTORIES[store]
        _play(range(first, first + histories), store=store, ends_at=ends_at)


def _play(seeds: range, *, store: str, ends_at: float) -> None:
    began = time.monotonic()
    tally = run_many(seeds, store=store, processes=os.cpu_count() or 1, ends_at=ends_at)
    print(_table(tally, seeds=seeds, store=store, seconds=time.monotonic() - began))
    if tally.broken_seeds:
        sys.exit(_replay(tally.broken_seeds[0], store=store))


def _replay(seed: int, *, store: str) -> int:
    """Tells one history; of a broken one the smallest that breaks alike. Returns the exit status."""
    told = run_seed(seed, store=store)
    if told.broken is None:
        print(_story(told))
        print(f"seed {seed}: every promise held")
        return 0
    smallest = shrunk(told, store=store)
    print(_story(smallest))
    print(f"seed {seed} breaks: {told.broken}")
    options = "" if store == "memory" else f" ARGS='--store {store}'"
    print(f"Above is the smallest part of it that breaks alike. Replay: make simulate SEED={seed}{options}")
    return 1


def _story(told: Told) -> str:
    plan = told.plan
    head = [
        f"seed {plan.seed}, clocks off by {', '.join(map(str, plan.skews_ms))} ms, {plan.weather}",
        *(f"limit     {limit}" for limit in plan.policy.limits),
        f"holds     {plan.policy.reservations}",
        *(f"script    {script}" for script in plan.scripts),
        *(f"incident  {incident}" for incident in plan.incidents),
    ]
    return "\n".join([*head, "", " seconds  who        what", *told.lines])


def _table(tally: Tally, *, seeds: range, store: str, seconds: float) -> str:
    width = max((len(name) for name in tally.seen), default=0)
    lines = [f"  {name:<{width}} {times:>9,}" for name, times in sorted(tally.seen.items())]
    summary = (
        f"{store}: {tally.histories:,} of {len(seeds):,} histories from seed {seeds.start} in {seconds:.0f} s, of them "
        f"{tally.calm:,} without a fault and {tally.jumping:,} with clocks that jump: {len(tally.broken_seeds)} broken"
    )
    return "\n".join([*lines, summary])


if __name__ == "__main__":
    main()
