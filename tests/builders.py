"""policyd without its edges: an enforcer over a real store, counter and price book, to look at and to turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

from policyd.core.attributes import Identity, Place, Source
from policyd.core.estimate import Estimate
from policyd.core.events import OperatorEvent
from policyd.core.money import NANOS_PER_USD
from policyd.core.policy import Limit, Metric, Policy
from policyd.core.price_book import PriceBook
from policyd.core.pricing import Price
from policyd.core.record import Record
from policyd.core.windows import Lifetime
from policyd.enforcer import Enforcer
from policyd.learning import Corrections
from policyd.prices.table import load_price_book
from policyd.stores.base import Store, Swept
from policyd.stores.memory import MemoryStore
from policyd.tokens import TokenCounter

NOW_MS = int(datetime(2026, 5, 15, 12, 0, 45, tzinfo=UTC).timestamp()) * 1000

USD = NANOS_PER_USD

COUNTER = TokenCounter()


@cache
def published_prices() -> PriceBook:
    return load_price_book()


def price_of(model: str, provider: str = "openai") -> Price:
    """What `model` costs, by the published prices."""
    found = published_prices().find(provider=provider, model=model, at_ms=NOW_MS)
    assert found is not None
    return found.price


IDENTITY = Identity(
    {
        "project": (
            Source(Place.HEADER, "x-policyd-project", strip=True),
            Source(Place.QUERY, "project_id", strip=True),
            Source(Place.DEFAULT, "default"),
        ),
        "user": (Source(Place.HEADER, "x-policyd-user", strip=True), Source(Place.BODY, "user")),
        "tier": (Source(Place.BODY, "tier", strip=True),),
    }
)


def limit(metric: Metric = Metric.COST, amount: int = 10 * USD, *, name: str = "budget", **others: Any) -> Limit:
    """A limit for everybody together, for ever, of 10 USD unless said otherwise."""
    window = None if metric is Metric.CONCURRENT_REQUESTS else Lifetime()
    return replace(Limit(name, metric, amount, window), **others)


def policy(*limits: Limit, **others: Any) -> Policy:
    """A policy of these limits, or of `limit()`."""
    return replace(Policy(identity=IDENTITY, limits=limits or (limit(),)), **others)


@dataclass
class SetClock:
    """A clock that a test sets."""

    ms: int = NOW_MS

    def now_ms(self) -> int:
        return self.ms


@dataclass
class Seen:
    """What the enforcer's observer was told."""

    records: list[Record] = field(default_factory=list)
    store_calls: list[tuple[str, bool]] = field(default_factory=list)
    """Each call's operation, and whether it failed."""
    sweeps: list[Swept] = field(default_factory=list)
    corrections: list[Corrections] = field(default_factory=list)
    events: list[OperatorEvent] = field(default_factory=list)

    def ended(self, record: Record, estimate: Estimate | None) -> None:
        self.records.append(record)

    def store_call(self, operation: str, seconds: float, *, failed: bool) -> None:
        self.store_calls.append((operation, failed))

    def swept(self, swept: Swept) -> None:
        self.sweeps.append(swept)

    def learned(self, corrections: Corrections) -> None:
        self.corrections.append(corrections)

    def emitted(self, event: OperatorEvent) -> None:
        self.events.append(event)


@dataclass
class Books:
    """What a store holds in all."""

    spent: dict[str, int]
    """By limit, of the account of no scope."""
    reserved: dict[str, int]
    open_reservations: int


@dataclass
class World:
    """An enforcer and what stands around it."""

    policy: Policy = field(default_factory=policy)
    store: Store = field(default_factory=MemoryStore)
    prices: PriceBook = field(default_factory=published_prices)
    counter: TokenCounter = COUNTER
    clock: SetClock = field(default_factory=SetClock)
    seen: Seen = field(default_factory=Seen)
    wrap: Callable[[Store], Store] | None = None
    """Puts a store between the enforcer and `store`."""
    enforcer: Enforcer = field(init=False)

    def __post_init__(self) -> None:
        self.enforcer = Enforcer(
            store=self.wrap(self.store) if self.wrap is not None else self.store,
            prices=self.prices,
            counter=self.counter,
            clock=self.clock,
            policy=lambda: self.policy,
            observer=self.seen,
        )

    @property
    def record(self) -> Record:
        """The only record that was reported."""
        (only,) = self.seen.records
        return only

    async def books(self) -> Books:
        """What is spent and reserved on the limits that are not `per` anything."""
        limits = tuple(limit for limit in self.policy.limits if not limit.per)
        books = World(policy=replace(self.policy, limits=limits), store=self.store, clock=self.clock)
        reports = await books.enforcer.budget(books.policy, {})
        # At the beginning of time nothing is due and nothing is old.
        swept = await self.store.sweep(now_ms=0, ended_before_ms=0, usage_before_ms=0)
        return Books(
            spent={report.limit.name: report.spent for report in reports},
            reserved={report.limit.name: report.reserved for report in reports},
            open_reservations=swept.open_reservations,
        )

    async def spent(self, name: str = "budget") -> int:
        """What is spent on a limit, once everything has ended."""
        books = await self.books()
        assert books.open_reservations == 0
        assert not any(books.reserved.values())
        assert self.enforcer.open_reservations == 0
        return books.spent[name]
