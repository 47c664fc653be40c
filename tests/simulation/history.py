"""One history: a plan carried out from its first message to the quiet after its last one."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from policyd.core.errors import PolicydError, StoreUnavailable
from policyd.core.record import Record
from policyd.core.reservation import State
from policyd.core.windows import SlidingWindow
from policyd.stores.base import Store, UsageFilter
from policyd.stores.outage import journal, leases
from policyd.stores.outage.events import Line
from policyd.stores.outage.replay import LOOKS_PER_TTL
from tests.simulation import audit
from tests.simulation.clients import Client
from tests.simulation.hosts import Host
from tests.simulation.leases import Life, NumberedIds
from tests.simulation.model import NOTHING_DUE, Call, Model
from tests.simulation.operators import operate
from tests.simulation.plan import ClockJump, Crash, Incident, Partition, Plan, StoreRestart
from tests.simulation.replica import MEND_SECONDS, Replica, Reported
from tests.simulation.virtual_time import VirtualLoop
from tests.simulation.wire import Wire

_ALL = 1_000
"""More accounts or records than a history makes."""

_CHANGING = {"reserve", "extend", "settle", "release", "sweep"}
"""The calls after which every account is compared. No other changes any, and what one changed wrongly the next of these
finds."""


_DIGITS = re.compile(r"-?[1-9][0-9]*")

_ROUTINE = {"state", "balances", "ping"}
"""The calls that are not worth a line."""

_COUNTED = {"reserve", "extend", "settle", "release"}
"""The calls whose outcomes are counted."""


@dataclass(frozen=True, slots=True)
class Told:
    """What happened in a history."""

    plan: Plan
    lines: Sequence[str]
    """Readable, in order."""
    seen: Counter[str]
    broken: Exception | None
    """What broke it: `Broken`, or whatever else escaped."""


def tell(plan: Plan, host: Host) -> Told:
    """Carries out `plan` on a store of its own."""
    with ExitStack() as stack:
        folder = stack.enter_context(_journals()) if plan.leases else Path()
        loop = VirtualLoop()
        history = _History(plan, host, loop, folder)
        broken: Exception | None = None
        try:
            loop.run_until_complete(history.run())
        except Exception as error:  # noqa: BLE001 - whatever escapes breaks the history
            broken = error
            history.tell("BROKEN", f"{type(error).__name__}: {error}")
        finally:
            loop.run_until_complete(history.close())
            loop.close()
    return Told(plan, history.lines, history.seen, broken)


@contextmanager
def _journals() -> Iterator[Path]:
    """A folder for journals, in which names are the same whenever a seed is told."""
    ids = NumberedIds()
    with (
        TemporaryDirectory() as folder,
        mock.patch.object(journal, "uuid", ids),
        mock.patch.object(leases, "uuid", ids),
    ):
        yield Path(folder)


class _History:
    def __init__(self, plan: Plan, host: Host, loop: asyncio.AbstractEventLoop, folder: Path) -> None:
        self.lines: list[str] = []
        self.seen: Counter[str] = Counter()
        self.model = Model(plan, self.seen)
        self.wire = Wire(plan, self.seen)
        self.replicas: list[Replica] = []
        self._plan = plan
        self._host = host
        self.folder = folder
        self._loop = loop
        self._store_is_up = True
        self._timers: list[asyncio.TimerHandle] = []
        self.reported = Reported()
        self._failure: asyncio.Future[None] = loop.create_future()

    def now_ms(self) -> int:
        return self._plan.starts_at_ms + round(self._loop.time() * 1000)

    def tell(self, who: str, what: str) -> None:
        self.lines.append(f"{self._loop.time():9.3f}  {who:<10} {what}")

    async def run(self) -> None:
        plan = self._plan
        self.replicas += [Replica(number, plan=plan, world=self) for number in range(len(plan.skews_ms))]
        for incident in plan.incidents:
            self._schedule(incident)
        await self._unless_broken(
            *(Client(self, script).run() for script in plan.scripts),
            *(operate(self, command) for command in plan.commands),
        )
        await self._unless_broken(self._quiet())
        self._check_end()

    async def close(self) -> None:
        """Ends whatever goes on."""
        for replica in self.replicas:
            replica.halt()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._failure.done():
            self._failure.exception()  # it was raised, or came second

    async def _unless_broken(self, *work: Coroutine[Any, Any, None]) -> None:
        """Does all of `work` at once. Raises what it raises, or what the model finds broken meanwhile."""
        pending: set[asyncio.Future[None]] = {self._failure, *map(asyncio.ensure_future, work)}
        while pending != {self._failure}:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()

    # --- the store's end of every link ---

    def execute(self, replica: Replica, operation: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Carries out a call, and has the model check what came of it."""
        if not self._store_is_up:
            raise StoreUnavailable("the store is down")
        try:
            answer = self._host.run(lambda store: getattr(store, operation)(*arguments, **keywords))
        except PolicydError as error:
            answer = error
        try:
            self._check(Call(operation, arguments, keywords, replica, answer), replica)
        except Exception as error:
            self.broke(error)
            raise
        if isinstance(answer, PolicydError):
            raise answer
        return answer

    def _check(self, call: Call, replica: Replica) -> None:
        word = self.model.took_effect(call)
        if word != NOTHING_DUE and call.operation not in _ROUTINE:
            self.tell("store", f"{call.operation} {_subject(call.arguments)}by {replica.name}: {word}")
        if call.operation in _COUNTED:
            self.seen[f"{call.operation}: {word}"] += 1
        if call.operation in _CHANGING:
            audit.check_accounts(self.model, self._host.run(lambda store: store.accounts(page=_ALL)).rows)

    def broke(self, error: Exception) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    def journalled(self, line: Line, life: Life) -> None:
        """A replica has written into its journal."""
        kind = type(line).__name__.lower()
        self.seen[f"journal: {kind}"] += 1
        self.tell(life.machine.name, f"writes down: {kind}")
        try:
            self.model.leasing.journalled(line, life)
        except Exception as error:
            self.broke(error)
            raise

    # --- what goes wrong ---

    def _schedule(self, incident: Incident) -> None:
        """Crashes wait for a call of the store: the replica sees to them."""
        later = self._loop.call_later
        match incident:
            case StoreRestart(at, down_seconds):
                self._timers += [later(at, self._stop_store), later(at + down_seconds, self._restart_store)]
            case Partition(number, at, lasts):
                self._timers += [later(at, self._cut_off, number), later(at + lasts, self._reconnect, number)]
            case ClockJump(number, at, by_seconds):
                self._timers.append(later(at, self._jump, number, by_seconds))
            case Crash():
                pass

    def _stop_store(self) -> None:
        self.incident("store", "STOPS")
        self._store_is_up = False

    def _restart_store(self) -> None:
        try:
            self._host.restart()
            self._store_is_up = True
            self.incident("store", "starts again")
            self._check_everything()
        except Exception as error:  # noqa: BLE001 - nothing awaits this
            self.broke(error)

    def _cut_off(self, number: int) -> None:
        self.replicas[number].is_cut_off = True
        self.incident(f"replica-{number}", "PARTITION from the store")

    def _reconnect(self, number: int) -> None:
        self.replicas[number].is_cut_off = False
        self.incident(f"replica-{number}", "partition over")

    def _jump(self, number: int, by_seconds: int) -> None:
        self.replicas[number].set_clock(by_seconds)
        self.incident(f"replica-{number}", f"CLOCK JUMPS by {by_seconds} s")

    def incident(self, who: str, what: str) -> None:
        self.tell(who, what)
        if what[0].isupper():  # the rest is how it ends
            self.seen[f"{who.partition('-')[0]}: {_DIGITS.sub('some', what)}"] += 1

    # --- the end ---

    async def _quiet(self) -> None:
        """Lets every message arrive, and every hold that nobody ended expire."""
        for timer in self._timers:
            timer.cancel()
        for replica in self.replicas:
            replica.retire()
        await self.wire.quiet()
        self.tell("all", "is quiet; what is still held expires")
        last = self.replicas[0]
        self._store_is_up, last.is_cut_off = True, False
        self.wire.calm_down()
        last.start()
        if self._plan.leases:
            await asyncio.sleep(2 * MEND_SECONDS)  # until the journals of all are in the store
        await asyncio.sleep(1)  # between two sweeps, so that nothing changes while budgets are asked for
        await self._check_budgets(last)
        grace_ms = self._plan.policy.reservations.grace_seconds * 1000
        expiries = [row.expires_at_ms for row in self.model.books.rows.values() if row.state is State.RESERVED]
        left_ms = max(expiries, default=0) + grace_ms - last.clock.now_ms()
        await asyncio.sleep(max(0, left_ms) / 1000 + 1)
        await last.enforcer.sweep()
        if self._plan.leases:  # until it is found out who expired that had taken of them
            await asyncio.sleep(self._plan.policy.reservations.ttl_seconds / LOOKS_PER_TTL + 2 * MEND_SECONDS)
        await self._check_budgets(last)

    async def _check_budgets(self, replica: Replica) -> None:
        """Whether `GetBudget` tells what the accounts hold."""
        policy = self._plan.policy
        for identity in {script.attributes: script.identity for script in self._plan.scripts}.values():
            for report in await replica.enforcer.budget(policy, identity):
                if not isinstance(report.limit.window, SlidingWindow):
                    audit.check_budget(self.model, report)

    def _check_end(self) -> None:
        self._check_everything()
        audit.check_end(self.model)
        audit.check_reports(self.reported.endings)
        audit.check_records(self.model, self._host.run(_records))

    def _check_everything(self) -> None:
        """Whether the store has every account and every reservation as it should."""
        audit.check_accounts(self.model, self._host.run(lambda store: store.accounts(page=_ALL)).rows)
        for name in self.model.books.rows:
            audit.check_reservation(self.model, self._host.run(methodcaller("get", name)))


def _subject(arguments: Sequence[Any]) -> str:
    return f"{arguments[0]} " if arguments and isinstance(arguments[0], str) else ""


async def _records(store: Store) -> Sequence[Record]:
    return (await store.usage(UsageFilter(), limit=_ALL)).records
