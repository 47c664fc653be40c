"""Ending reservations: settle and release at once, expiry by the sweep, and the parts of both.

The home decides how a reservation ended; its parts follow, each once. Where a part could not follow (its node was down,
the process died) the part stays held until it is due. The sweep then asks the home and does the same to it:

    the home says          the part is
    settled, released      ended with the same charges
    expired                expired
    reserved, renewed      renewed (that failed for this part)
    nothing                expired without a charge: the reservation was never granted
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Mapping

from msgspec.json import Encoder

from policyd.core.errors import ReservationEnded, ReservationNotFound, StoreError
from policyd.core.record import Record
from policyd.core.reservation import TRANSITIONS, Event, State
from policyd.stores import codec, postings
from policyd.stores.base import Swept
from policyd.stores.redis.connection import Argument, Reply
from policyd.stores.redis.rows import decode_parts, decode_row
from policyd.stores.redis.runner import Runner
from policyd.stores.redis.runtime import Runtime
from policyd.stores.redis.shards import Shard, Shards

log = logging.getLogger(__name__)

SWEEP_ROWS_MAX = 100
"""How many rows one step of a sweep touches, so that Redis, which does one thing at a time, is not held up for long."""

_NO_CHARGES = b"{}"
_WAIVED, _CHARGED = "1", "0"


def _following(event: Event) -> bytes:
    """The column of `event` in the table of a reservation's life."""
    return Encoder().encode({state: following for (state, each), following in TRANSITIONS.items() if each is event})


_FOLLOWING: Mapping[Event, bytes] = {event: _following(event) for event in (Event.SETTLE, Event.RELEASE)}
_EVENTS: Mapping[bytes, Event] = {b"settled": Event.SETTLE, b"released": Event.RELEASE}


async def end(
    runner: Runner, shards: Shards, reservation_id: str, event: Event, *, charges: bytes, record: Record, now_ms: int
) -> State:
    """Settles or releases. `charges` is JSON by metric.

    Raises `ReservationNotFound`, `ReservationEnded`, `StoreError`s.
    """
    outcome, *rest = await runner.run(
        "finish", shards.home(reservation_id), reservation_id, now_ms, _FOLLOWING[event], charges, *_usage(record)
    )
    if outcome == b"unknown":
        raise ReservationNotFound(reservation_id)
    found = State(rest[0].decode())
    if outcome == b"ended":
        raise ReservationEnded(reservation_id, state=found, event=event)
    _, parts, first_charges = rest
    # Also where it is repeated: the first time may not have come so far.
    await _all_done(
        runner.run("finish", shards.all[number], reservation_id, now_ms, _FOLLOWING[event], first_charges)
        for number in decode_parts(parts)
    )
    return found


async def _all_done(steps: Iterable[Awaitable[object]]) -> None:
    """Lets the parts follow their home. What fails now is done by a sweep, so the call itself has not failed."""
    for failure in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(failure, StoreError):
            log.warning("a part of a reservation will end with the next sweep after it is due: %s", failure)
        elif isinstance(failure, BaseException):
            raise failure


def _usage(record: Record) -> tuple[Argument, ...]:
    return codec.encode_record(record), record.request_id, record.at_ms


class Sweep:
    """One sweep over all shards. Every step of it is atomic, so several replicas may sweep at once."""

    def __init__(self, runner: Runner, shards: Shards, *, now_ms: int) -> None:
        self._runner = runner
        self._shards = shards
        self._now_ms = now_ms
        self._expired: list[Record] = []

    async def run(self, *, ended_before_ms: int, usage_before_ms: int) -> Swept:
        shards = self._shards.all
        runtime = Runtime(self._runner, self._shards)
        await runtime.tell(await runtime.revision())
        await asyncio.gather(*(self._expire_reservations(shard) for shard in shards))
        # Only now: most parts that are due have followed their homes.
        await asyncio.gather(*(self._expire_parts(shard) for shard in shards))
        await asyncio.gather(*(self._forget_state(shard, ended_before_ms) for shard in shards))
        open_reservations = await asyncio.gather(
            *(self._forget(shard, ended_before_ms, usage_before_ms) for shard in shards)
        )
        return Swept(tuple(self._expired), open_reservations=sum(open_reservations))

    async def _expire_reservations(self, shard: Shard) -> None:
        while due := await self._runner.run("due", shard, self._now_ms, SWEEP_ROWS_MAX):
            await asyncio.gather(*(self._expire(shard, name.decode(), row) for name, row in due))

    async def _expire(self, shard: Shard, reservation_id: str, reply: Reply) -> None:
        row = decode_row(reservation_id, reply)
        reservation = row.reservation
        charged_nanos = postings.expiry_cost_nanos(reservation.entries)
        record = reservation.record.expired(charged_nanos=charged_nanos)
        if await self._runner.run(
            "expire", shard, reservation_id, self._now_ms, _CHARGED, row.extensions, *_usage(record)
        ):
            self._expired.append(record)
            await _all_done(
                self._runner.run("expire", self._shards.all[number], reservation_id, self._now_ms, _CHARGED)
                for number in row.parts
            )

    async def _expire_parts(self, shard: Shard) -> None:
        """The parts that did not follow their homes, a bounded number: the rest is the next sweep's."""
        due = await self._runner.run("parts_due", shard, self._now_ms, SWEEP_ROWS_MAX)
        await asyncio.gather(*(self._follow(shard, name.decode(), int(home)) for name, home in due))

    async def _follow(self, shard: Shard, reservation_id: str, home: int) -> None:
        outcome = await self._runner.run("outcome", self._shards.all[home], reservation_id)
        state, expires_at_ms, charges, parts = outcome
        if shard.number not in decode_parts(parts or b""):
            state = None  # held by an earlier attempt, for other accounts
        match state:
            case b"settled" | b"released":
                following = _FOLLOWING[_EVENTS[state]]
                await self._runner.run("finish", shard, reservation_id, self._now_ms, following, charges)
            case b"reserved":
                await self._runner.run("renew", shard, expires_at_ms, reservation_id)
            case _:
                charged = _CHARGED if state == b"expired" else _WAIVED
                await self._runner.run("expire", shard, reservation_id, self._now_ms, charged)

    async def _forget(self, shard: Shard, ended_before_ms: int, usage_before_ms: int) -> int:
        """Answers how many reservations are open."""
        passed, has_more = 0, True
        while has_more:
            has_more, passed, open_reservations = await self._runner.run(
                "forget", shard, ended_before_ms, usage_before_ms, self._now_ms, SWEEP_ROWS_MAX, passed
            )
        return int(open_reservations)

    async def _forget_state(self, shard: Shard, ended_before_ms: int) -> None:
        while await self._runner.run("forget_state", shard, self._now_ms, ended_before_ms, SWEEP_ROWS_MAX):
            pass
