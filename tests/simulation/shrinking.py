"""Makes the plan of a broken history smaller, as long as it breaks the same promise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from tests.simulation.history import Told
from tests.simulation.hosts import HOSTS
from tests.simulation.plan import CALM, Plan
from tests.simulation.running import run_plan

TRIES_MAX = 200
"""Some seconds."""


def shrunk(told: Told, *, store: str) -> Told:
    """The smallest history found that breaks like `told`."""
    tries_left = TRIES_MAX
    with HOSTS[store]() as new_host:
        while tries_left:
            for plan in islice(_smaller(told.plan), tries_left):
                tries_left -= 1
                tried = run_plan(plan, new_host)
                if _promise(tried) == _promise(told):
                    told = tried
                    break
            else:
                break
    return told


def _promise(told: Told) -> str | None:
    """What broke, without the numbers."""
    return None if told.broken is None else str(told.broken).partition(":")[0]


def _smaller(plan: Plan) -> Iterator[Plan]:
    """The plan with less in it, the most first."""
    half = len(plan.scripts) // 2
    if half > 1:
        yield replace(plan, scripts=plan.scripts[:half])
        yield replace(plan, scripts=plan.scripts[half:])
    if not plan.weather.calm:
        yield replace(plan, weather=CALM)
    for n in range(len(plan.scripts)):
        yield replace(plan, scripts=plan.scripts[:n] + plan.scripts[n + 1 :])
    for n in range(len(plan.incidents)):
        yield replace(plan, incidents=plan.incidents[:n] + plan.incidents[n + 1 :])
    for n in range(len(plan.commands)):
        yield replace(plan, commands=plan.commands[:n] + plan.commands[n + 1 :])
    if plan.commands:
        return  # they name limits by number
    limits = plan.policy.limits
    for n in range(len(limits) if len(limits) > 1 else 0):
        yield replace(plan, policy=replace(plan.policy, limits=limits[:n] + limits[n + 1 :]))
