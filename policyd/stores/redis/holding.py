"""Reserving and extending over several shards, where it is not one step.

    reserve     part, part, ..., home       the home last: the reservation exists from then on, and all of it is held
    extend      home, part, part, ...       each is asked for what the one before granted, who takes the rest back

If a shard refuses, or cannot be reached, what this attempt held on the shards before it is given back at once. If that
fails too, or the process dies, the part expires: no home knows it, so it is charged nothing. So an account never holds
too little. For a moment it may hold too much, and refuse another request that would have fitted in the end.

A repeated `reserve` finds the parts of the first one held. From then on neither of the two gives them back: the other
one may go on to grant the reservation.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence

from policyd.core.errors import ReservationEnded, ReservationMismatch, ReservationNotFound, StoreError, StoreUnavailable
from policyd.core.ledger import Account, Amounts, Balance, Carry, Entry
from policyd.core.policy import Metric
from policyd.core.record import Record
from policyd.core.reservation import Event
from policyd.stores import codec
from policyd.stores.base import Exists, Granted, Refused, ReserveResult, Stale
from policyd.stores.redis.connection import Reply
from policyd.stores.redis.rows import (
    Part,
    decode_balances,
    decode_parts,
    decode_row,
    encode_amounts,
    encode_entries,
    encode_known,
    encode_parts,
    parts_of,
)
from policyd.stores.redis.runner import Runner
from policyd.stores.redis.runtime import Runtime
from policyd.stores.redis.shards import Shard, Shards

log = logging.getLogger(__name__)

RENEWALS_MAX = 200
"""How many reservations one step renews, so that Redis, which does one thing at a time, is not held up for long."""


class Reserving:
    """One attempt to reserve."""

    def __init__(
        self,
        runner: Runner,
        shards: Shards,
        reservation_id: str,
        *,
        entries: Sequence[Entry],
        record: Record,
        expires_at_ms: int,
        fingerprint: str,
        state_revision: int | None,
    ) -> None:
        self._runner = runner
        self._runtime = Runtime(runner, shards)
        self._id = reservation_id
        self._entries = tuple(entries)
        self._record = record
        self._expires_at_ms = expires_at_ms
        self._fingerprint = fingerprint
        self._state_revision = state_revision
        parts = parts_of(shards, self._entries)
        self._home = shards.home(reservation_id)
        self._own = next((part for part in parts if part.shard is self._home), Part(self._home, (), ()))
        self._others = [part for part in parts if part.shard is not self._home]
        self._balances: list[Balance | None] = [None] * len(self._entries)
        self._held: list[Shard] = []
        """The other shards on which this attempt holds, or may hold, a part."""
        self._home_asked = False

    async def run(self) -> ReserveResult:
        """Raises `ReservationMismatch`, `StoreError`s, and `OverflowError` for an amount that Redis cannot count."""
        try:
            result = await self._attempt()
        except StoreError as error:
            has_no_effect = isinstance(error, StoreUnavailable)
            if self._home_asked and not has_no_effect:
                raise  # it may be granted: all of it has to stay held
            if not await self._withdraw() and has_no_effect:
                raise StoreError("Redis failed between two shards; what is held so far will expire") from error
            raise
        if not isinstance(result, Granted):
            await self._withdraw()
        if isinstance(result, Exists) and result.reservation.fingerprint != self._fingerprint:
            raise ReservationMismatch(self._id)
        return result

    async def _attempt(self) -> ReserveResult:
        for part in self._others:
            outcome = await self._hold(part)
            if outcome != b"held":
                return await self._not_held(outcome)
        outcome, reply = await self._hold_at_home()
        if outcome == b"stale":
            if (revision := await self._newest_revision(reply)) != self._state_revision:
                return Stale(revision)
            outcome, reply = await self._hold_at_home()
            if outcome == b"stale":
                return Stale(reply)
        if outcome == b"exists":
            return Exists(decode_row(self._id, reply).reservation)
        self._learn(self._own, reply)
        return Granted(self._known_balances()) if outcome == b"granted" else Refused(self._known_balances())

    async def _hold(self, part: Part) -> bytes:
        try:
            outcome, is_new, numbers = await self._runner.run(
                "hold", part.shard, self._id, self._home.number, self._expires_at_ms, encode_entries(part.entries)
            )
        except StoreUnavailable:
            raise
        except StoreError:
            self._held.append(part.shard)  # perhaps
            raise
        if is_new:
            self._held.append(part.shard)
        if outcome != b"ended":
            self._learn(part, numbers)
        return bytes(outcome)

    async def _hold_at_home(self) -> tuple[bytes, Reply]:
        self._home_asked = True
        outcome, reply = await self._runner.run(
            "reserve",
            self._home,
            self._id,
            self._fingerprint,
            self._expires_at_ms,
            encode_entries(self._own.entries),
            codec.encode(self._entries),
            encode_known(self._balances),
            encode_parts([part.shard for part in self._others]),
            codec.encode_record(self._record),
            "" if self._state_revision is None else self._state_revision,
        )
        return outcome, reply

    async def _newest_revision(self, revision: int) -> int:
        """The revision of the run-time state, where the home knows `revision` and the caller another one.

        If it is the caller's, it is the home that is behind, and learns of it.
        """
        if self._state_revision is not None and self._state_revision > revision:
            revision = await self._runtime.revision()
            if revision == self._state_revision:
                await self._runner.run("advance", self._home, revision)
        return revision

    async def _not_held(self, outcome: bytes) -> ReserveResult:
        """What to answer where a part had no room: a known id asks for none, nor one whose caller knows too little."""
        row, revision = await self._runner.run("get", self._home, self._id)
        if row:
            return Exists(decode_row(self._id, row).reservation)
        if outcome == b"ended":
            raise StoreUnavailable("a reservation with this id is being forgotten just now; nothing was held")
        if self._state_revision is not None and self._state_revision != revision:
            revision = await self._newest_revision(revision)
            if self._state_revision != revision:
                return Stale(revision)
        for part in (*self._others, self._own):
            if all(self._balances[place] for place in part.places):
                continue
            self._learn(part, await self._runner.run("balances", part.shard, encode_entries(part.entries)))
        return Refused(self._known_balances())

    def _learn(self, part: Part, numbers: Sequence[int]) -> None:
        for place, balance in zip(part.places, decode_balances(numbers), strict=True):
            self._balances[place] = balance

    def _known_balances(self) -> tuple[Balance, ...]:
        return tuple(balance for balance in self._balances if balance is not None)

    async def _withdraw(self) -> bool:
        """Gives back what this attempt holds; answers whether that is certain."""
        failures = await asyncio.gather(
            *(self._runner.run("withdraw", shard, self._id) for shard in self._held), return_exceptions=True
        )
        for failure in failures:
            if isinstance(failure, StoreError):
                log.warning("a part of a refused hold could not be given back and will expire: %s", failure)
            elif isinstance(failure, BaseException):
                raise failure
        return not any(failures)


async def extend(
    runner: Runner,
    shards: Shards,
    reservation_id: str,
    *,
    unit_amounts: Amounts,
    wanted_units: int,
    at_least_units: int,
) -> int:
    """Raises `ReservationNotFound`, `ReservationEnded`, `StoreError`s."""
    amounts = encode_amounts(unit_amounts)
    granted: list[tuple[Shard, int]] = []

    async def ask(shard: Shard, units: int) -> bytes:
        """Answers the other shards that have to be asked."""
        outcome, *rest = await runner.run("extend", shard, reservation_id, amounts, units, at_least_units)
        if outcome == b"unknown":
            raise ReservationNotFound(reservation_id)
        if outcome == b"ended":
            raise ReservationEnded(reservation_id, state=rest[0].decode(), event=Event.EXTEND)
        units_granted, parts = rest
        granted.append((shard, units_granted))
        return bytes(parts)

    async def take_back(keep_units: int) -> None:
        for shard, units in granted:
            if units > keep_units:
                await runner.run("shrink", shard, reservation_id, amounts, units - keep_units)

    parts = await ask(shards.home(reservation_id), wanted_units)
    try:
        for number in decode_parts(parts):
            await ask(shards.all[number], granted[-1][1])
    except (ReservationEnded, ReservationNotFound):
        await take_back(0)
        raise
    units = granted[-1][1]
    await take_back(units)
    return units


async def renew(runner: Runner, shards: Shards, reservation_ids: Sequence[str], *, expires_at_ms: int) -> None:
    """Sets a later expiry on reservations and then on their parts. Raises `StoreError`s."""
    by_home = defaultdict(list)
    for reservation_id in reservation_ids:
        by_home[shards.home(reservation_id)].append(reservation_id)
    by_part = defaultdict(list)

    async def renew_at(shard: Shard, ids: Sequence[str]) -> None:
        parts = await runner.run("renew", shard, expires_at_ms, *ids)
        for reservation_id, numbers in zip(ids, parts, strict=True):
            for number in decode_parts(numbers):
                by_part[shards.all[number]].append(reservation_id)

    await asyncio.gather(*(renew_at(shard, ids) for shard, batch in by_home.items() for ids in _batches(batch)))
    await asyncio.gather(
        *(
            runner.run("renew", shard, expires_at_ms, *ids)
            for shard, batch in by_part.items()
            for ids in _batches(batch)
        )
    )


def _batches(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[index : index + RENEWALS_MAX] for index in range(0, len(ids), RENEWALS_MAX)]


async def balances(
    runner: Runner, shards: Shards, accounts: Sequence[tuple[Account, Carry | None]]
) -> tuple[Balance, ...]:
    """In one view where one shard has them all; else each shard's at its own moment."""
    nothing = [Entry(account, Metric.COST, amount=0, cap=0, carry=carry) for account, carry in accounts]
    parts = parts_of(shards, nothing)
    replies = await asyncio.gather(
        *(runner.run("balances", part.shard, encode_entries(part.entries)) for part in parts)
    )
    found = {
        place: balance
        for part, numbers in zip(parts, replies, strict=True)
        for place, balance in zip(part.places, decode_balances(numbers), strict=True)
    }
    return tuple(found[place] for place in range(len(accounts)))
