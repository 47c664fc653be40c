"""A simulated process of policyd: the real enforcer and the real gRPC service, on a clock and a link of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from policyd.api.service import PolicyServicer
from policyd.control.desk import Desk
from policyd.core.errors import StoreError, StoreUnavailable
from policyd.core.estimate import Estimate
from policyd.core.events import OperatorEvent
from policyd.core.price_book import PriceBook
from policyd.core.record import Outcome, Record
from policyd.enforcer import Enforcer
from policyd.learning import Corrections
from policyd.stores.base import Store, Swept
from policyd.stores.outage.events import Event, Line
from policyd.stores.outage.journal import Journal
from policyd.stores.outage.store import JournalledStore
from tests.builders import COUNTER
from tests.simulation.leases import Life
from tests.simulation.plan import STORE_TIMEOUT_SECONDS, Boundary, Crash, Plan
from tests.simulation.wire import NoAnswer, Wire

T = TypeVar("T")

_GUARD_SECONDS = 1.5 * STORE_TIMEOUT_SECONDS
"""The bound of the circuit breaker. The link gives up before; half of it counts as slow."""
MEND_SECONDS = 2

_NO_PRICES = PriceBook((), version="none")


class Unreachable(Exception):
    """The replica is down, or went down before it answered."""


class Surroundings(Protocol):
    """What is around replicas: the store's end of every link, the time, and who looks on."""

    @property
    def wire(self) -> Wire: ...
    @property
    def reported(self) -> Reported: ...
    @property
    def folder(self) -> Path:
        """Where all replicas have their journals."""
        ...

    def now_ms(self) -> int:
        """What time it really is."""
        ...

    def execute(self, replica: Replica, operation: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Carries out a call that arrived, in one step. Raises what the store raises."""
        ...

    def journalled(self, line: Line, life: Life) -> None:
        """A replica has written into its journal."""
        ...

    def incident(self, who: str, what: str) -> None: ...

    def broke(self, error: Exception) -> None:
        """A replica fails where it never may."""
        ...


@dataclass
class SkewedClock:
    """A machine's clock that is off, read as `SystemClock` does: it never steps back within one process."""

    world_ms: Callable[[], int]
    skew_ms: int
    latest_ms: int = 0

    def now_ms(self) -> int:
        self.latest_ms = max(self.latest_ms, self.world_ms() + self.skew_ms)
        return self.latest_ms


@dataclass
class Reported:
    """What the replicas' observers were told, of all replicas together."""

    endings: Counter[tuple[str, Outcome]] = field(default_factory=Counter)

    def ended(self, record: Record, estimate: Estimate | None) -> None:
        self.endings[record.request_id, record.outcome] += 1

    def store_call(self, operation: str, seconds: float, *, failed: bool) -> None:
        pass

    def swept(self, swept: Swept) -> None:
        pass

    def learned(self, corrections: Corrections) -> None:
        pass

    def emitted(self, event: OperatorEvent) -> None:
        pass


class Replica:
    """Up from `start` to `crash`, any number of times."""

    def __init__(self, number: int, *, plan: Plan, world: Surroundings) -> None:
        self.name = f"replica-{number}"
        self.skew_ms = plan.skews_ms[number]
        self.is_up = False
        self.is_cut_off = False
        """Whether a partition stands between it and the store."""
        self._number = number
        self._plan = plan
        self._world = world
        self._crashes = [each for each in plan.incidents if isinstance(each, Crash) and each.replica == number]
        self._calls: Counter[str] = Counter()
        self._tasks: dict[asyncio.Task[Any], None] = {}  # a set would end them in any order
        self._life = 0
        self._is_retired = False
        self._at_end: Callable[[], None] = _nothing
        self.start()

    # --- its life ---

    def start(self) -> None:
        self.is_up = True
        self._life += 1
        self.clock = SkewedClock(self._world.now_ms, self.skew_ms)
        self.store = cast("Store", _Link(self, self._life))
        if self._plan.leases:
            self.store = self._leasing(self.store)
        self.enforcer = Enforcer(
            store=self.store,
            prices=_NO_PRICES,
            counter=COUNTER,
            clock=self.clock,
            policy=lambda: self._plan.policy,
            observer=self._world.reported,
        )
        self.servicer = PolicyServicer(self.enforcer)
        self._start(self._repeat(self.enforcer.renew_open, self._plan.policy.reservations.ttl_seconds / 3))
        self._start(self._repeat(self.enforcer.refresh_state, 2 * self._plan.sweep_seconds))
        self._start(self._repeat(self.enforcer.sweep, self._plan.sweep_seconds))

    def _leasing(self, store: Store) -> JournalledStore:
        """The store with a journal before it, and what looks after both."""
        life = Life(self)
        journal = _ToldJournal(self._world.folder, store="simulated", bytes_max=2**20)
        journal.told = lambda line: self._world.journalled(line, life)
        leasing = JournalledStore(
            store,
            journal,
            policy=lambda: self._plan.policy,
            now_ms=self.clock.now_ms,
            timeout_seconds=_GUARD_SECONDS,
        )

        def end() -> None:
            life.is_over = True
            journal.close()

        self._at_end = end
        self._start(self._repeat(leasing.mend, MEND_SECONDS))
        return leasing

    def crash(self, why: str) -> None:
        """Ends every coroutine where it stands; whatever they do on their way out reaches nobody."""
        self._world.incident(self.name, f"CRASH {why}")
        self.halt()

    def halt(self) -> None:
        """Ends it without a word."""
        self.is_up = False
        self._life += 1
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        self._at_end()
        self._at_end = _nothing

    def retire(self) -> None:
        """Ends it for good, unless somebody starts it again: no incident does."""
        self._is_retired = True
        self._crashes.clear()
        self.halt()

    def set_clock(self, by_seconds: int) -> None:
        """Sets the machine's clock forward, or back."""
        self.skew_ms += by_seconds * 1000
        self.clock.skew_ms = self.skew_ms

    def desk(self) -> Desk:
        """Where an operator's commands are carried out on this machine."""
        return Desk(self.enforcer.store, self._plan.policy, self.raw_now_ms())

    def world_ms(self) -> int:
        """What time it really is."""
        return self._world.now_ms()

    def raw_now_ms(self) -> int:
        """What time it is by this machine."""
        return self._world.now_ms() + self.skew_ms

    def serve(self, work: Callable[[Replica], Coroutine[Any, Any, T]]) -> asyncio.Future[T]:
        """Does `work` inside the replica. Ends in `Unreachable` if it is down or goes down meanwhile."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if not self.is_up:
            answer.set_exception(Unreachable(self.name))
            return answer

        def pass_on(task: asyncio.Task[T]) -> None:
            if answer.done():  # whoever asked was ended first
                return
            if task.cancelled():
                answer.set_exception(Unreachable(self.name))
            elif (error := task.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(task.result())

        self._start(work(self)).add_done_callback(pass_on)
        return answer

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._tasks[task] = None
        task.add_done_callback(lambda task: self._tasks.pop(task, None))
        return task

    async def _repeat(self, chore: Callable[[], Awaitable[None]], seconds: float) -> None:
        while True:
            try:
                await chore()
            except StoreError:
                self._world.incident(self.name, "a chore failed")
            except Exception as error:
                self._world.broke(error)
                raise
            await asyncio.sleep(seconds)

    # --- its link to the store ---

    async def call_store(self, life: int, operation: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if life != self._life:
            raise StoreUnavailable("a dead process calls nobody")
        self._calls[operation] += 1
        crash = self._take_crash(operation, self._calls[operation])
        self._crash_at(Boundary.BEFORE, crash, operation)
        if not self.is_up:
            await asyncio.get_running_loop().create_future()  # until it is cancelled

        loop = asyncio.get_running_loop()

        def effect() -> asyncio.Future[Any]:
            done = loop.create_future()
            try:
                done.set_result(self._world.execute(self, operation, arguments, keywords))
            except Exception as error:  # noqa: BLE001 - it is the caller's
                done.set_exception(error)
            if life == self._life:
                self._crash_at(Boundary.DONE, crash, operation)
            return done

        if crash is not None:
            loop.call_soon(self._crash_at, Boundary.SENT, crash, operation)
        name = f"{self.name} {operation} {arguments[0] if arguments and isinstance(arguments[0], str) else ''}"
        try:
            return await self._world.wire.call(
                name, effect, timeout_seconds=STORE_TIMEOUT_SECONDS, is_cut=lambda: self.is_cut_off
            )
        except NoAnswer:
            raise StoreError("the store did not answer") from None

    def _take_crash(self, operation: str, nth: int) -> Crash | None:
        found = next((each for each in self._crashes if (each.operation, each.nth) == (operation, nth)), None)
        if found is not None:
            self._crashes.remove(found)
        return found

    def _crash_at(self, boundary: Boundary, crash: Crash | None, operation: str) -> None:
        if crash is None or crash.boundary is not boundary or not self.is_up:
            return
        self.crash(f"in its {operation}, {boundary.value}")
        asyncio.get_running_loop().call_later(crash.down_seconds, self._start_again)

    def _start_again(self) -> None:
        if not self._is_retired:
            self._world.incident(self.name, "starts again")
            self.start()


def _nothing() -> None:
    pass


class _ToldJournal(Journal):
    """A journal that tells what is written into it. Bringing it to the disk is left out: only power cuts need it."""

    told: Callable[[Line], None]

    def append(self, event: Event, *, past_maximum: bool = False) -> None:
        super().append(event, past_maximum=past_maximum)
        self.told(event)

    async def flush(self) -> None:
        pass


@dataclass(frozen=True)
class _Link:
    """The store as one life of a replica sees it."""

    replica: Replica
    life: int

    def __getattr__(self, operation: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        def call(*arguments: Any, **keywords: Any) -> Coroutine[Any, Any, Any]:
            return self.replica.call_store(self.life, operation, arguments, keywords)

        return call
