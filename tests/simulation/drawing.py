"""From a seed to a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from random import Random

from policyd.core.own_prices import OwnPrice, OwnPrices
from policyd.core.policy import Action, FailureMode, Hold, Limit, Metric, OnExpiry, Policy, Reservations
from policyd.core.pricing import Rate, RateTier
from policyd.core.windows import CalendarUnit, CalendarWindow, FirstUseWindow, Lifetime, SlidingWindow, Window
from tests.builders import policy
from tests.simulation.plan import (
    CALM,
    INPUT_NANOS,
    MODEL,
    OUTPUT_NANOS,
    Boundary,
    ClockJump,
    Command,
    Crash,
    Finish,
    Incident,
    Partition,
    Plan,
    Script,
    StoreRestart,
    Way,
    Weather,
)
from tests.simulation.plan import (
    Action as Operation,
)

GRACE_SECONDS = 5
SKEW_MS_MAX = 2_400
"""Of each clock, either way: two of them differ by less than the grace."""
JUMP_SECONDS_MAX = 1_200
"""Two of them take less than ended reservations are remembered, and far less than accounts are kept."""

_DAYS_SECONDS = 250_000
"""Of a long history, in which windows of a day from first use end, and accounts are forgotten."""

_BOUNDARIES_OF_TIME = (
    datetime(2026, 10, 25, 1, 0, tzinfo=UTC),  # the clocks of Berlin go back; a new half hour in Kolkata
    datetime(2026, 10, 31, 23, 0, tzinfo=UTC),  # November begins in Berlin
    datetime(2027, 1, 1, 0, 0, tzinfo=UTC),
    datetime(2026, 6, 14, 18, 30, tzinfo=UTC),  # Monday begins in Kolkata
    datetime(2026, 5, 15, 12, 0, tzinfo=UTC),
)
_ZONES = ("UTC", "UTC", "Europe/Berlin", "Asia/Kolkata")
_PER: tuple[tuple[str, ...], ...] = ((), ("org",), ("org", "project"), ("user",))

_CRASHING = (
    *("reserve", "reserve", "settle", "settle", "extend", "release", "renew", "sweep", "get", "append"),
    *("begin_window", "state", "set_state"),
)
"""The calls of the store that replicas die in."""

_CRASHING_WITH_LEASES = (*("reserve", "settle", "release", "renew", "balances"), *("ping",) * 5)

_LEASES_EVERY = 5
"""One of so many histories has leases."""

_TYPICAL = {
    Metric.COST: 400 * INPUT_NANOS + 200 * OUTPUT_NANOS,
    Metric.TOKENS: 600,
    Metric.INPUT_TOKENS: 400,
    Metric.OUTPUT_TOKENS: 200,
    Metric.REQUESTS: 1,
    Metric.CONCURRENT_REQUESTS: 1,
}
"""What a request takes of each metric, roughly: amounts are some of these, so that requests compete."""

_PRICES = OwnPrices(
    (OwnPrice(MODEL, (RateTier(0, {"input": Rate(INPUT_NANOS, 1), "output": Rate(OUTPUT_NANOS, 1)}),)),)
)


def draw(seed: int) -> Plan:
    """The plan of a seed, always the same."""
    plan, chance = _draw(seed), Random(f"{seed} leases")
    return _with_leases(plan, chance) if chance.randrange(_LEASES_EVERY) == 0 else plan


def _with_leases(plan: Plan, chance: Random) -> Plan:
    """The plan with replicas that lease shares of budgets, and a store that is often away.

    Without what leases do not bear on: other services' calls (they are told of the outage and decide themselves),
    operators' commands. Messages to the store are not doubled: one that says that it had no effect had none.
    """
    replicas, lasts = len(plan.skews_ms), 300
    limits = tuple(
        replace(
            each,
            amount=each.amount * chance.choice([1, 4, 10]),
            window=Lifetime() if isinstance(each.window, FirstUseWindow) else each.window,
        )
        for each in plan.policy.limits
    )
    scripts = tuple(
        replace(_script(chance, f"r{n}", replicas, lasts), way=Way.EXCHANGE) for n in range(1, chance.randint(10, 50))
    )
    incidents: list[Incident] = []
    if not plan.calm:
        incidents += [
            StoreRestart(chance.uniform(0, lasts), chance.uniform(5, 100)) for _ in range(chance.randint(1, 3))
        ]
        incidents += [_partition(chance, replicas, lasts) for _ in range(chance.randint(0, 2))]
        incidents += [_crash(chance, replicas, _CRASHING_WITH_LEASES, nth_max=20) for _ in range(chance.randint(0, 4))]
    return replace(
        plan,
        policy=replace(
            plan.policy,
            limits=limits,
            failure_mode=FailureMode.DEGRADED,
            lease_percent=chance.choice([5, 20, 50]),
            reservations=replace(plan.policy.reservations, ttl_seconds=chance.choice([20, 40, 120])),
        ),
        sweep_seconds=chance.choice([5, 15, 30]),
        weather=replace(plan.weather, doubled=0),
        scripts=scripts,
        incidents=tuple(incidents),
        commands=(),
    )


def _draw(seed: int) -> Plan:
    chance = Random(seed)
    replicas = chance.randint(1, 4)
    jumping = chance.randrange(8) == 0
    calm = chance.randrange(7) == 0 and not jumping
    is_long = chance.randrange(40) == 0
    lasts = _DAYS_SECONDS if is_long else chance.choice([60, 180, 400])
    boundary = chance.choice(_BOUNDARIES_OF_TIME)
    scripts = tuple(_script(chance, f"r{n}", replicas, lasts) for n in range(1, chance.randint(4, 20)))
    drawn = _policy(chance, is_long=is_long)
    return Plan(
        seed=seed,
        starts_at_ms=int(boundary.timestamp()) * 1000 - chance.randrange(lasts * 1000),
        policy=drawn,
        skews_ms=tuple(chance.randint(-SKEW_MS_MAX, SKEW_MS_MAX) for _ in range(replicas)),
        sweep_seconds=3_600 if is_long else chance.choice([5, 15, 30]),
        weather=CALM if calm else Weather(*chance.choice([(0, 0, 20), (3, 3, 5), (10, 10, 20), (0, 30, 10)])),
        scripts=scripts,
        incidents=() if calm else tuple(_incidents(chance, replicas, lasts, jumping=jumping)),
        commands=tuple(_commands(chance, scripts, replicas, lasts, limits=drawn.limits)),
    )


def _policy(chance: Random, *, is_long: bool) -> Policy:
    limits = [_limit(chance, f"limit-{n}") for n in range(1, chance.randint(2, 6))]
    return policy(
        *limits,
        prices=_PRICES,
        default_max_output_tokens=chance.choice([50, 200]),
        reservations=Reservations(
            ttl_seconds=3_600 if is_long else chance.choice([20, 40, 120]),
            grace_seconds=GRACE_SECONDS,
            on_expiry=chance.choice([OnExpiry.HOLD] * 4 + [OnExpiry.EXPECTED, OnExpiry.NOTHING]),
        ),
    )


def _limit(chance: Random, name: str) -> Limit:
    metric = chance.choice([Metric.COST, Metric.COST, *_TYPICAL])
    return Limit(
        name=name,
        metric=metric,
        amount=chance.randint(1, 8) * _TYPICAL[metric],
        window=None if metric is Metric.CONCURRENT_REQUESTS else _window(chance),
        per=chance.choice(_PER),
        hold=chance.choice([Hold.MAXIMUM] * 4 + [Hold.EXPECTED]),
        action=chance.choice([Action.DENY] * 5 + [Action.CLAMP, Action.CLAMP, Action.SHADOW, Action.WARN]),
    )


def _window(chance: Random) -> Window:
    match chance.randrange(5):
        case 0:
            return Lifetime()
        case 1:
            return SlidingWindow(chance.choice([10, 60, 3600]))
        case 2:
            return FirstUseWindow(chance.choice([1, 2]))
        case _:
            return CalendarWindow(chance.choice(list(CalendarUnit)), chance.choice(_ZONES))


def _script(chance: Random, name: str, replicas: int, lasts: int) -> Script:
    way = chance.choice([Way.GRPC, Way.GRPC, Way.EXCHANGE, Way.EXCHANGE, Way.EXCHANGE, Way.REPORT])
    maximum = None if chance.randrange(4) == 0 else chance.randint(1, 400)
    takes = chance.choice([0.5, 5.0, 30.0, 150.0])
    return Script(
        name=name,
        way=way,
        starts_at=chance.randrange(lasts * 1000) / 1000,
        replicas=tuple(chance.randrange(replicas) for _ in range(3)),
        attributes=(
            ("org", chance.choice(["o1", "o2"])),
            ("project", chance.choice(["p1", "p2"])),
            ("user", chance.choice(["u1", "u2", "u3"])),
        ),
        input_tokens=chance.randint(0, 800),
        max_output_tokens=maximum,
        output_tokens=chance.randint(0, maximum if maximum is not None else 600),
        lasts=takes * chance.randint(50, 150) / 100,
        finish=chance.choice([Finish.SETTLE] * 5 + [Finish.RELEASE, Finish.VANISH]),
        attempts=chance.choice([1, 3, 6]),
        repeats=chance.randrange(4) == 0,
    )


def _incidents(chance: Random, replicas: int, lasts: int, *, jumping: bool) -> list[Incident]:
    found: list[Incident] = [_crash(chance, replicas, _CRASHING, nth_max=3) for _ in range(chance.randint(0, 4))]
    found += [_partition(chance, replicas, lasts) for _ in range(chance.randint(0, 1))]
    found += [StoreRestart(chance.uniform(0, lasts), chance.uniform(0, 20)) for _ in range(chance.randint(0, 2))]
    if jumping:
        found += [
            ClockJump(
                chance.randrange(replicas), chance.uniform(0, lasts), chance.choice([-60, 20, 200, JUMP_SECONDS_MAX])
            )
            for _ in range(chance.randint(1, 2))
        ]
    return found


def _commands(
    chance: Random, scripts: tuple[Script, ...], replicas: int, lasts: int, *, limits: tuple[Limit, ...]
) -> list[Command]:
    if chance.randrange(3):
        return []
    found = []
    for _ in range(chance.randint(1, 6)):
        number = chance.randrange(len(limits))
        found.append(
            Command(
                at=chance.uniform(0, lasts),
                replica=chance.randrange(replicas),
                action=chance.choice(list(Operation)),
                limit=number,
                attributes=chance.choice(scripts).attributes,
                amount=chance.randint(0, 12) * _TYPICAL[limits[number].metric],
            )
        )
    return found


def _crash(chance: Random, replicas: int, operations: Sequence[str], *, nth_max: int) -> Crash:
    return Crash(
        replica=chance.randrange(replicas),
        operation=chance.choice(operations),
        nth=chance.randint(1, nth_max),
        boundary=chance.choice(list(Boundary)),
        down_seconds=chance.uniform(0.1, 60),
    )


def _partition(chance: Random, replicas: int, lasts: int) -> Partition:
    return Partition(chance.randrange(replicas), chance.uniform(0, lasts), chance.uniform(1, 100))
