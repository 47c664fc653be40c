"""Listing usage records and accounts: every shard has its own in order; a page is merged from all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from heapq import nlargest, nsmallest

from policyd.core.ledger import Account, Balance
from policyd.core.record import Record
from policyd.stores import codec
from policyd.stores.base import AccountsPage, UsageFilter, UsagePage
from policyd.stores.redis.rows import decode_account
from policyd.stores.redis.runner import Runner
from policyd.stores.redis.shards import Shard, Shards

READ_ROWS_MAX = 200
"""How many records one step reads, wanted or not, so that neither Redis nor the event loop is held up for long."""


async def list_usage(runner: Runner, shards: Shards, wanted: UsageFilter, *, limit: int, cursor: str) -> UsagePage:
    """Raises `ValueError` for a cursor that no page gave."""
    highest = "+" if wanted.until_ms is None else f"({_padded(wanted.until_ms)}"
    if cursor:
        at_ms, request_id = codec.parse_cursor(cursor)
        below = f"({_padded(at_ms)}{request_id}"
        highest = below if highest == "+" else min(below, highest)
    lowest = "-" if wanted.from_ms is None else f"[{_padded(wanted.from_ms)}"

    async def newest(shard: Shard) -> list[Record]:
        found = []
        async for record in _records(runner, shard, highest, lowest):
            if wanted.attributes.items() <= record.attributes.items():
                found.append(record)
                if len(found) > limit:
                    break
        return found

    found = await asyncio.gather(*(newest(shard) for shard in shards.all))
    page = nlargest(limit + 1, (record for records in found for record in records), key=_age_order)
    has_more = len(page) > limit
    return UsagePage(tuple(page[:limit]), next_cursor=codec.cursor_after(page[limit - 1]) if has_more else "")


async def _records(runner: Runner, shard: Shard, highest: str, lowest: str) -> AsyncIterator[Record]:
    """The records of one shard, the newest first."""
    full = True
    while full:
        texts = await runner.run("usage", shard, highest, lowest, READ_ROWS_MAX)
        for text in texts:
            record = codec.decode_record(text)
            yield record
            highest = f"({_padded(record.at_ms)}{record.request_id}"
        full = len(texts) == READ_ROWS_MAX


def _padded(at_ms: int) -> str:
    """Sorts as the numbers do, like `padded` in ledger.lua. No record is older than 1970."""
    return f"{max(0, at_ms):016}"


def _age_order(record: Record) -> tuple[int, str]:
    return record.at_ms, record.request_id


@dataclass(frozen=True, slots=True)
class AccountFilter:
    """Which accounts to list; see `policyd.stores.base.Store.accounts`."""

    limit_name: str | None
    scope: str | None
    ends_after_ms: int | None

    def fits(self, account: Account) -> bool:
        return (
            self.limit_name in (None, account.limit)
            and self.scope in (None, account.scope)
            and (self.ends_after_ms is None or not account.has_ended(self.ends_after_ms))
        )


async def list_accounts(
    runner: Runner, shards: Shards, wanted: AccountFilter, *, page: int, cursor: str
) -> AccountsPage:
    """Raises `ValueError` for a cursor that no page gave."""
    after = codec.parse_account_cursor(cursor) if cursor else ""

    async def first(shard: Shard) -> list[tuple[Account, Balance]]:
        found = []
        async for row in _accounts(runner, shard, after, wanted.limit_name):
            if wanted.fits(row[0]):
                found.append(row)
                if len(found) > page:
                    break
        return found

    chosen = shards.all if wanted.scope is None else (shards.of_scope(wanted.scope),)
    found = await asyncio.gather(*(first(shard) for shard in chosen))
    rows = nsmallest(page + 1, (row for rows in found for row in rows), key=lambda row: row[0].key)
    has_more = len(rows) > page
    next_cursor = codec.cursor_after_account(rows[page - 1][0].key) if has_more else ""
    return AccountsPage(tuple(rows[:page]), next_cursor=next_cursor)


async def _accounts(
    runner: Runner, shard: Shard, after: str, limit_name: str | None
) -> AsyncIterator[tuple[Account, Balance]]:
    """The accounts of one shard by key, from the one behind `after` on, as far as keys begin with the limit's name."""
    lowest, highest = f"({after}" if after else "-", "+"
    if limit_name is not None:
        highest = f"({limit_name}}}"  # what comes after all that begin with the name and a bar
        if after < limit_name:
            lowest = f"[{limit_name}|"
    full = True
    while full:
        rows = await runner.run("accounts", shard, lowest, highest, READ_ROWS_MAX)
        for name, row in rows:
            yield decode_account(row)
            lowest = f"({name.decode()}"
        full = len(rows) == READ_ROWS_MAX
