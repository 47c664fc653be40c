"""The store as the enforcer sees it, with the journal behind it for what the store does not get."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec import structs

from policyd.core.errors import ReservationNotFound, StoreDefect, StoreError, StoreUnavailable, Unjournalled
from policyd.core.events import OperatorEvent
from policyd.core.ledger import ZERO_BALANCE, Amounts, Entry
from policyd.core.policy import FailureMode, Policy
from policyd.core.record import Record
from policyd.core.reservation import State
from policyd.stores.base import Granted, Refused, ReserveResult, Store
from policyd.stores.outage.events import Begun, Ended, Held, Opened, Took
from policyd.stores.outage.guard import Guard, GuardedStore
from policyd.stores.outage.guesses import Guesses
from policyd.stores.outage.journal import Journal, JournalFile, Written
from policyd.stores.outage.keeping import LeaseKeeper
from policyd.stores.outage.leases import Leases, charges_of, may_be_leased
from policyd.stores.outage.replay import Replay
from policyd.stores.postings import all_fit

HELD_KEPT_MAX = 100_000
"""Of how many open reservations is remembered what they hold; exchanges end, and only a defect leaves one here."""

FILE_BYTES_MAX = 2**20
"""A file that is larger, and tells of leases alone, is begun anew: of those that have ended too."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OutageStatus:
    """What operators watch."""

    is_away: bool
    """Whether the store is not asked."""
    journalled: int
    """Events that were written since the start."""
    drained: int
    """Events that were brought into the store since the start."""
    unapplied: int
    """Events that never can be, and damaged lines."""
    waiting_bytes: int
    oldest_ms: int | None
    """When the oldest event that waits happened."""


class JournalledStore(GuardedStore):
    """`inner` as the package's text says. Belongs to one event loop; `mend` has to be called again and again."""

    def __init__(
        self,
        inner: Store,
        journal: Journal,
        *,
        policy: Callable[[], Policy],
        now_ms: Callable[[], int],
        timeout_seconds: float,
    ) -> None:
        guard = Guard(timeout_seconds=timeout_seconds)
        super().__init__(inner, guard)
        self._guarded = GuardedStore(inner, guard)
        self._journal = journal
        self._policy = policy
        self._now_ms = now_ms
        self._held: dict[str, tuple[Entry, ...]] = {}
        """What open reservations of this process hold, by id."""
        self._unheld: set[str] = set()
        """The ids of those whose hold waits in the journal."""
        self._guesses = Guesses()
        self._leases = Leases()
        self._keeper = LeaseKeeper(self._leases, self._guarded, journal, replay=self._replay, now_ms=self._now_ms)
        self._replays: dict[JournalFile, Replay] = {}
        self._drained = 0
        self._unapplied = 0

    @property
    def status(self) -> OutageStatus:
        return OutageStatus(
            is_away=self._guard.is_open,
            journalled=self._journal.journalled,
            drained=self._drained,
            unapplied=self._unapplied,
            waiting_bytes=self._journal.waiting_bytes,
            oldest_ms=self._journal.oldest_ms,
        )

    # --- calls ---

    async def reserve(
        self,
        reservation_id: str,
        *,
        entries: Sequence[Entry],
        record: Record,
        now_ms: int,
        expires_at_ms: int,
        fingerprint: str = "",
        state_revision: int | None = None,
    ) -> ReserveResult:
        try:
            if self._guesses.of(entries):
                raise StoreUnavailable("the store did not tell since when a window of first use is under way")
            result = await super().reserve(
                reservation_id,
                entries=entries,
                record=record,
                now_ms=now_ms,
                expires_at_ms=expires_at_ms,
                fingerprint=fingerprint,
                state_revision=state_revision,
            )
        except StoreError as error:
            # A service that reserves for itself, or reports, is told, and decides for itself.
            if fingerprint:
                raise
            return self._decide_alone(Held(tuple(entries), record, now_ms, expires_at_ms), error)
        if not fingerprint and isinstance(result, Granted):
            self._remember(reservation_id, tuple(entries))
            if self._mode is FailureMode.DEGRADED:
                self._leases.note(entries, now_ms=now_ms)
        return result

    async def extend(
        self, reservation_id: str, *, unit_amounts: Amounts, wanted_units: int, at_least_units: int, now_ms: int
    ) -> int:
        if reservation_id in self._leases:
            return self._take_more(reservation_id, unit_amounts, wanted_units, at_least_units, now_ms)
        if reservation_id in self._unheld:
            return wanted_units
        try:
            return await super().extend(
                reservation_id,
                unit_amounts=unit_amounts,
                wanted_units=wanted_units,
                at_least_units=at_least_units,
                now_ms=now_ms,
            )
        except StoreError:
            if reservation_id not in self._held or self._mode is not FailureMode.OPEN:
                raise
            return wanted_units

    async def settle(self, reservation_id: str, *, amounts: Amounts, record: Record, now_ms: int) -> State:
        if reservation_id in self._unheld or reservation_id in self._leases:
            return self._end_later(amounts, record, now_ms)
        try:
            found = await super().settle(reservation_id, amounts=amounts, record=record, now_ms=now_ms)
        except StoreError:
            return self._end_later(amounts, record, now_ms)
        except ReservationNotFound:
            if reservation_id not in self._held:
                raise
            found = await self._end_lost(amounts, record, now_ms)
        self._held.pop(reservation_id, None)
        return found

    async def release(self, reservation_id: str, *, record: Record, now_ms: int) -> State:
        if reservation_id in self._unheld or reservation_id in self._leases:
            return self._end_later(None, record, now_ms)
        try:
            found = await super().release(reservation_id, record=record, now_ms=now_ms)
        except StoreError:
            return self._end_later(None, record, now_ms)
        self._held.pop(reservation_id, None)
        return found

    async def renew(self, reservation_ids: Sequence[str], *, expires_at_ms: int) -> None:
        self._leases.keep_alive(reservation_ids, now_ms=self._now_ms())
        await super().renew(reservation_ids, expires_at_ms=expires_at_ms)

    async def begin_window(self, key: str, *, now_ms: int, length_ms: int, begin: bool = True) -> int | None:
        """Without the store `None` also with `begin`: it begins now, as far as is known yet. `reserve` decides what
        that lets pass."""
        try:
            begun_ms = await super().begin_window(key, now_ms=now_ms, length_ms=length_ms, begin=begin)
        except StoreError:
            if not begin:
                raise
            self._guesses.note(Begun(key, now_ms, length_ms))
            return None
        if begun_ms is not None:
            self._guesses.confirm(Begun(key, begun_ms, length_ms))
        return begun_ms

    async def repeated(
        self, scope: str, digest: str, *, now_ms: int, forget_after_ms: int, counted: bool = True
    ) -> int:
        """Without the store, and where the mode is open, every digest is a new one."""
        try:
            return await super().repeated(
                scope, digest, now_ms=now_ms, forget_after_ms=forget_after_ms, counted=counted
            )
        except StoreError:
            if self._mode is FailureMode.CLOSED:
                raise
            return 1

    async def emit(self, event: OperatorEvent) -> bool:
        """Without the store, and where the mode is open, nothing comes of it: what still holds afterwards is emitted
        then."""
        try:
            return await super().emit(event)
        except StoreError:
            if self._mode is FailureMode.CLOSED:
                raise
            return False

    async def close(self) -> None:
        try:
            await self.mend()
            if not self._guard.is_open:
                await self._keeper.end_all()
                for file in tuple(self._journal.files):
                    await self._drain(file)
        finally:
            self._journal.close()
            await super().close()

    # --- in the meantime ---

    async def mend(self) -> None:
        """Flushes the journal, finds out whether the store is back, and drains if it is."""
        await self._journal.flush()
        if self._guard.is_open:
            try:
                await self.ping()
            except StoreError:
                return
        self._journal.adopt()
        for file in tuple(self._journal.files):
            await self._drain(file)
        await self._give_back_for_others()
        await self._keeper.keep(self._policy())

    async def _give_back_for_others(self) -> None:
        """Ends requests that have taken of leases here, and have ended elsewhere: an access log tells any process."""
        now_ms = self._now_ms()
        since_ms = now_ms - self._policy().reservations.ttl_seconds * 1000
        for request_id in self._leases.unattended(since_ms=since_ms):
            if request_id in self._unheld:
                continue
            try:
                found = await self._guarded.get(request_id)
            except (StoreError, ReservationNotFound):
                continue
            if request_id not in self._leases:
                continue
            record = found.record
            match found.state:
                case State.RESERVED:
                    self._leases.keep_alive((request_id,), now_ms=now_ms)
                case State.EXPIRED:
                    end = self._leases.expired(request_id, found.entries, record, now_ms=now_ms)
                    self._end_later(end.amounts, end.record, now_ms)
                case State.SETTLED:
                    self._end_later(charges_of(record), record, now_ms)
                case State.RELEASED:
                    self._end_later(None, record, now_ms)

    async def _drain(self, file: JournalFile) -> None:
        replay = self._replays.setdefault(file, self._replay())
        while not file.is_drained:
            before = file.drained
            for written in file.waiting():
                if not await self._apply(replay, written):
                    return
                file.drained_to(written)
            if file.drained == before:
                log.warning("%s ends in a line that was cut short; what it was for was never let through", file.path)
                break
        if not self._journal.is_own(file):
            try:
                if not await replay.end_leases(
                    now_ms=self._now_ms(), ttl_ms=self._policy().reservations.ttl_seconds * 1000
                ):
                    return
            except StoreError:
                return
        elif self._leases:
            del self._replays[file]
            if (file.has_requests or file.size > FILE_BYTES_MAX) and self._leases.are_clean:
                self._journal.begin_anew(lease.told for lease in self._leases)
            return
        del self._replays[file]
        self._journal.done(file)

    def _replay(self) -> Replay:
        settings = self._policy().reservations
        return Replay(self._guarded, ended_kept_ms=(settings.ended_kept_seconds - settings.grace_seconds) * 1000)

    async def _apply(self, replay: Replay, written: Written) -> bool:
        """Whether it is dealt with. If not, the store has gone away again."""
        event = written.line
        if event is None:
            log.error("a line of the journal is damaged")
            return self._put_aside(written)
        if isinstance(event, Opened):
            return True
        try:
            await replay.apply(event, now_ms=self._now_ms())
        except StoreError as error:
            if not isinstance(error, StoreDefect):
                return False
            return self._put_aside(written)
        except Exception:  # whatever it is, it must not hold up the charges behind it
            log.exception("an event of the journal cannot be charged")
            return self._put_aside(written)
        self._drained += 1
        if isinstance(event, Held) and event.record.request_id in self._unheld:
            self._unheld.discard(event.record.request_id)
            self._remember(event.record.request_id, event.entries)
        return True

    def _put_aside(self, written: Written) -> bool:
        try:
            self._journal.keep_unapplied(written.raw)
        except OSError:
            log.exception("it cannot be put aside")
            return False
        self._unapplied += 1
        return True

    # --- without the store ---

    @property
    def _mode(self) -> FailureMode:
        return self._policy().failure_mode

    def _decide_alone(self, held: Held, error: StoreError) -> ReserveResult:
        """Raises `error` where the mode, or what is leased, does not let it pass."""
        if held.record.is_of_the_past:
            return self._hold_later(held, past_maximum=True)
        match self._mode:
            case FailureMode.CLOSED:
                raise error
            case FailureMode.OPEN:
                balances = (ZERO_BALANCE,) * len(held.entries)
            case FailureMode.DEGRADED:
                # One that may be held in the store would be charged there, and by its leases too.
                if not isinstance(error, StoreUnavailable) or not self._leases.has_room(held.entries):
                    raise error
                balances = self._leases.balances(held.entries)
        if not all_fit(held.entries, balances):  # not even an empty account has room for it
            return Refused(balances)
        if self._mode is FailureMode.DEGRADED:
            self._take(held)
            self._unheld.add(held.record.request_id)
            return Granted(balances)
        return self._hold_later(held)

    def _hold_later(self, held: Held, *, past_maximum: bool = False) -> Granted:
        self._write_held(held, past_maximum=past_maximum)
        self._unheld.add(held.record.request_id)
        return Granted((ZERO_BALANCE,) * len(held.entries))

    def _write_held(self, held: Held, *, past_maximum: bool = False) -> None:
        for begun in self._guesses.of(held.entries):
            self._journal.append(begun, past_maximum=past_maximum)
        self._journal.append(held, past_maximum=past_maximum)

    def _take(self, held: Held) -> None:
        """Takes of the leases, and has the rest held by itself."""
        request_id = held.record.request_id
        self._leases.take(request_id, held.entries, now_ms=held.now_ms)
        try:
            self._journal.append(Took(request_id, self._leases.taken(request_id), held.now_ms))
            rest = tuple(entry for entry in held.entries if not may_be_leased(entry))
            self._write_held(structs.replace(held, entries=rest))
        except Unjournalled:
            self._leases.give_back(request_id, None)
            raise

    def _take_more(
        self, request_id: str, unit_amounts: Amounts, wanted_units: int, at_least_units: int, now_ms: int
    ) -> int:
        units = self._leases.take_more(
            request_id, unit_amounts=unit_amounts, wanted_units=wanted_units, at_least_units=at_least_units
        )
        if units:
            self._journal.append(Took(request_id, self._leases.taken(request_id), now_ms), past_maximum=True)
        return units

    def _end_later(self, amounts: Amounts | None, record: Record, now_ms: int) -> State:
        self._journal.append(self._ended(amounts, record, now_ms), past_maximum=True)
        self._held.pop(record.request_id, None)
        self._unheld.discard(record.request_id)
        if record.request_id in self._leases:
            self._leases.give_back(record.request_id, amounts)
        return State.RESERVED

    async def _end_lost(self, amounts: Amounts, record: Record, now_ms: int) -> State:
        """Charges what the store does not know any more."""
        log.warning("the store has lost a reservation that it acknowledged; it is charged all the same")
        try:
            return await self._replay().end(self._ended(amounts, record, now_ms), now_ms=now_ms)
        except StoreError:
            return self._end_later(amounts, record, now_ms)

    def _ended(self, amounts: Amounts | None, record: Record, now_ms: int) -> Ended:
        return Ended(amounts, record, self._held.get(record.request_id, ()), now_ms)

    def _remember(self, reservation_id: str, entries: tuple[Entry, ...]) -> None:
        while len(self._held) >= HELD_KEPT_MAX:
            del self._held[next(iter(self._held))]
        self._held[reservation_id] = entries
