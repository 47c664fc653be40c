"""What goes to the scripts and comes back: holds, balances, and the row of a reservation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from msgspec import Struct
from msgspec.json import Decoder, Encoder

from policyd.core.ledger import Account, Amounts, Balance, Entry
from policyd.core.policy import Metric
from policyd.core.reservation import State
from policyd.stores import codec
from policyd.stores.base import Reservation
from policyd.stores.redis.connection import Reply
from policyd.stores.redis.shards import Shard, Shards

EXACT_MAX = 2**53 - 1
"""The largest integer that Redis's Lua counts exactly with."""

KnownBalance = tuple[int, int, int]

_encode = Encoder().encode
_decode_known = Decoder(list[KnownBalance | None]).decode


class Hold(Struct, frozen=True, omit_defaults=True):
    """An entry, as the scripts see it."""

    account: str
    """Its key."""
    limit: str
    scope: str
    starts_at_ms: int
    metric: str
    amount: int
    cap: int
    enforce: bool
    on_expiry: int | None = None
    carry: str | None = None
    weight: int = 0
    ends_at_ms: int | None = None
    keep_until_ms: int | None = None


def encode_entries(entries: Sequence[Entry]) -> bytes:
    """The holds of `entries`. Raises `OverflowError` for an amount that Redis could not count with."""
    return _encode([_hold(entry) for entry in entries])


def encode_amounts(amounts: Amounts) -> bytes:
    """Raises `OverflowError` for an amount that Redis could not count with."""
    return _encode({metric: _exact(amount) for metric, amount in amounts.items()})


def _hold(entry: Entry) -> Hold:
    account, carry = entry.account, entry.carry
    return Hold(
        account=account.key,
        limit=account.limit,
        scope=account.scope,
        starts_at_ms=account.starts_at_ms,
        metric=entry.metric,
        amount=_exact(entry.amount),
        cap=_exact(entry.cap),
        enforce=entry.enforce,
        on_expiry=None if entry.on_expiry is None else _exact(entry.on_expiry),
        carry=carry.account_key if carry else None,
        weight=carry.weight if carry else 0,
        ends_at_ms=account.ends_at_ms,
        keep_until_ms=account.keep_until_ms,
    )


def _exact(amount: int) -> int:
    if not 0 <= amount <= EXACT_MAX:
        raise OverflowError(f"an amount of {amount} cannot be kept in Redis: the largest is 2^53 - 1")
    return amount


def decode_balances(numbers: Sequence[int]) -> tuple[Balance, ...]:
    """Of three integers each."""
    return tuple(Balance(*numbers[index : index + 3]) for index in range(0, len(numbers), 3))


def encode_known(balances: Sequence[Balance | None]) -> bytes:
    """The balances that are known already when the home is asked; `None` for the home's own."""
    return _encode([balance and (balance.spent, balance.reserved, balance.carried) for balance in balances])


def decode_account(row: Sequence[bytes | None]) -> tuple[Account, Balance]:
    """Of an account's fields, in the order of accounts.lua."""
    limit, scope, *numbers = row
    starts_at_ms, ends_at_ms, keep_until_ms, spent, reserved = (None if each is None else int(each) for each in numbers)
    account = Account((limit or b"").decode(), (scope or b"").decode(), starts_at_ms or 0, ends_at_ms, keep_until_ms)
    return account, Balance(spent or 0, reserved or 0)


@dataclass(frozen=True, slots=True)
class Row:
    """A reservation as its home keeps it."""

    reservation: Reservation
    parts: tuple[int, ...]
    """The numbers of the other shards that hold parts of it."""
    extensions: bytes
    """How often it was extended, for comparison only."""


def decode_row(reservation_id: str, reply: Reply) -> Row:
    """Of the names and values that HGETALL answers."""
    fields: Mapping[bytes, bytes] = dict(zip(reply[::2], reply[1::2], strict=True))
    numbers = [int(number) for number in fields[b"balances"].split()]
    own = iter(decode_balances(numbers))
    known = _decode_known(fields[b"known"])
    added = {metric: int(fields.get(f"added:{metric}".encode(), 0)) for metric in Metric}
    entries = codec.decode_entries(fields[b"entries"])
    reservation = Reservation(
        id=reservation_id,
        state=State(fields[b"state"].decode()),
        fingerprint=fields[b"fingerprint"].decode(),
        entries=tuple(replace(entry, amount=entry.amount + added[entry.metric]) for entry in entries),
        balances=tuple(next(own) if each is None else Balance(*each) for each in known),
        record=codec.decode_record(fields[b"record"]),
        expires_at_ms=int(fields[b"expires_at_ms"]),
    )
    return Row(reservation, decode_parts(fields[b"parts"]), fields[b"extensions"])


def encode_parts(shards: Sequence[Shard]) -> str:
    return " ".join(str(shard.number) for shard in shards)


def decode_parts(text: bytes) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split())


@dataclass(frozen=True, slots=True)
class Part:
    """What one shard holds of a reservation."""

    shard: Shard
    entries: tuple[Entry, ...]
    places: tuple[int, ...]
    """Where among all the entries these stand."""


def parts_of(shards: Shards, entries: Sequence[Entry]) -> list[Part]:
    """The parts that the shards have of `entries`, in the order of the shards."""
    places: dict[int, list[int]] = {}
    for place, entry in enumerate(entries):
        places.setdefault(shards.of_scope(entry.account.scope).number, []).append(place)
    return [
        Part(shards.all[number], tuple(entries[place] for place in chosen), tuple(chosen))
        for number, chosen in sorted(places.items())
    ]
