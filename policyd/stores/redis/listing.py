"""Listing usage: every shard has the records of its own exchanges, by age; a page is merged from all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from heapq import nlargest

from policyd.core.record import Record
from policyd.stores import codec
from policyd.stores.base import UsageFilter, UsagePage
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
