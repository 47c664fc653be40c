"""python -m tests.simulation [--histories N] [--first SEED] [--seconds N] [--store KIND]
python -m tests.simulation --seed SEED [--store KIND]"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time

from tests.simulation.history import Told
from tests.simulation.hosts import HOSTS
from tests.simulation.running import Tally, run_many, run_seed
from tests.simulation.shrinking import shrunk


def main() -> None:
    parser = argparse.ArgumentParser(prog="make simulate", description="Tries to break policyd's promises.")
    parser.add_argument("--seed", type=int, help="one history, told in full")
    parser.add_argument("--histories", type=int, default=10_000, help="how many (default: 10000)")
    parser.add_argument("--first", type=int, help="the first one's seed (default: a random one)")
    parser.add_argument("--seconds", type=float, default=900, help="none begins after so long (default: 900)")
    parser.add_argument("--store", choices=HOSTS, default="memory", help="the shared store (default: memory)")
    options = parser.parse_args()
    if options.seed is not None:
        sys.exit(_replay(options.seed, store=options.store))
    first = options.first if options.first is not None else random.randrange(10**9)
    began = time.monotonic()
    tally = run_many(
        range(first, first + options.histories),
        store=options.store,
        processes=os.cpu_count() or 1,
        seconds_max=options.seconds,
    )
    print(_table(tally, first=first, store=options.store, seconds=time.monotonic() - began))
    if tally.broken_seeds:
        sys.exit(_replay(tally.broken_seeds[0], store=options.store))


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
    print(f"Above is the smallest part of it that breaks alike. Replay: make simulate SEED={seed}")
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


def _table(tally: Tally, *, first: int, store: str, seconds: float) -> str:
    width = max((len(name) for name in tally.seen), default=0)
    lines = [f"  {name:<{width}} {times:>9,}" for name, times in sorted(tally.seen.items())]
    summary = (
        f"{tally.histories:,} histories from seed {first} on the {store} store in {seconds:.0f} s, {tally.calm:,} without "
        f"a fault, {tally.jumping:,} with clocks that jump: {len(tally.broken_seeds)} broken"
    )
    return "\n".join([*lines, summary])


if __name__ == "__main__":
    main()
