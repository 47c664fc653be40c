"""The run-time state as a process knows it: pieces to and from the items of a store, and a snapshot that is kept up to
date."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from msgspec import DecodeError
from msgspec.json import Decoder, Encoder

from policyd.core.errors import StoreError, StoreUnavailable
from policyd.core.runtime import ApiKey, Block, Blocked, DigestKey, Kind, Override, Piece, Reset, RuntimeState, in_force
from policyd.stores.base import Stale, StateChanges, StateItem

_decoders: dict[Kind, Decoder[Override] | Decoder[Reset] | Decoder[Block] | Decoder[ApiKey] | Decoder[DigestKey]] = {
    Kind.OVERRIDE: Decoder(Override),
    Kind.TEMPORARY_OVERRIDE: Decoder(Override),
    Kind.RESET: Decoder(Reset),
    Kind.BLOCK: Decoder(Block),
    Kind.FREEZE: Decoder(Block),
    Kind.KEY: Decoder(ApiKey),
    Kind.DIGEST_KEY: Decoder(DigestKey),
}
_encoder = Encoder()

T = TypeVar("T")

ENDED_KEPT_MS = 60_000
"""How long a process keeps what has ended: a request counts when it came, also if it is decided a little later."""

ATTEMPTS_MAX = 5
"""How often a request is decided before the state is taken to change too fast."""


def item_of(piece: Piece) -> StateItem:
    """What sets `piece` in a store."""
    return StateItem(piece.kind, piece.key, _encoder.encode(piece).decode(), piece.expires_at_ms)


def deletion_of(piece: Piece) -> StateItem:
    """What takes `piece` away again."""
    return replace(item_of(piece), value="")


def with_changes(state: RuntimeState, changes: StateChanges, *, ended_by_ms: int) -> RuntimeState:
    """The snapshot after `changes`, without what had ended by `ended_by_ms`. Items of other kinds are left out.

    Raises `StoreError` for an item that cannot be read: to go on without it could let through what it blocks.
    """
    pieces = {
        kind: {key: piece for key, piece in by_key.items() if in_force(piece, ended_by_ms)}
        for kind, by_key in state.pieces.items()
    }
    for item in changes.items:
        if item.kind not in _decoders:
            continue
        by_key = pieces[Kind(item.kind)]
        if item.value and (item.expires_at_ms is None or ended_by_ms < item.expires_at_ms):
            by_key[item.key] = _piece(item)
        else:
            by_key.pop(item.key, None)
    return RuntimeState(changes.revision, pieces)


def _piece(item: StateItem) -> Piece:
    try:
        return _decoders[Kind(item.kind)].decode(item.value)
    except (DecodeError, ValueError) as error:
        raise StoreError(f"the {item.kind} of {item.key!r} in the store cannot be read: {error}") from error


class FollowedState:
    """The latest snapshot that this process has read, and what is decided by it."""

    def __init__(
        self,
        read: Callable[[int], Awaitable[StateChanges]],
        *,
        now_ms: Callable[[], int],
        remembered_ms: Callable[[], int],
    ) -> None:
        """`read` is asked for what was set after a revision; what ended is told for `remembered_ms` afterwards."""
        self._read = read
        self._now_ms = now_ms
        self._remembered_ms = remembered_ms
        self._reading = asyncio.Lock()
        self._read_at_ms: int | None = None
        self.current = RuntimeState()

    async def refresh(self) -> None:
        """Reads what was set since the last time. Raises `StoreError`s."""
        async with self._reading:
            await self._refresh()

    async def unblocked(self, attributes: Mapping[str, str]) -> RuntimeState:
        """The snapshot to decide a request by. Raises `Blocked`.

        A block is looked up in the store before it refuses anybody: it may just have been lifted. Where the store is
        away, the block that was known last stands.
        """
        if self.current.block(attributes, now_ms=self._now_ms()) is not None:
            with suppress(StoreError):
                await self.refresh()
            block = self.current.block(attributes, now_ms=self._now_ms())
            if block is not None:
                raise Blocked(block)
        return self.current

    async def key(self, digest: str, *, fresh: bool) -> ApiKey:
        """The API key with this digest. Raises `KeyInvalid`, and `StoreError`s.

        A key that is not known is looked up in the store before it is refused: it may just have been created. `fresh`:
        the store is asked in any case, for a request that no reservation will find out to be decided by an old state.
        """
        if fresh or self.current.key(digest, now_ms=self._now_ms()) is None:
            await self.refresh()
        return self.current.require_key(digest, now_ms=self._now_ms())

    async def decide(self, attempt: Callable[[], Awaitable[T | Stale]]) -> T:
        """The outcome of `attempt`, which goes by `current`; it is made again where that has changed meanwhile.

        Raises `StoreUnavailable` if it changes again and again.
        """
        for _ in range(ATTEMPTS_MAX):
            outcome = await attempt()
            if not isinstance(outcome, Stale):
                return outcome
            await self._catch_up(outcome.revision)
        raise StoreUnavailable("the run-time state kept changing while the request was decided")

    async def _catch_up(self, revision: int) -> None:
        async with self._reading:
            if self.current.revision != revision:  # else another request has seen to it
                await self._refresh()

    async def _refresh(self) -> None:
        now_ms = self._now_ms()
        known = self.current
        if self._read_at_ms is None or now_ms - self._read_at_ms >= self._remembered_ms():
            known = RuntimeState()  # what ended in the meantime may not be told any more
        changes = await self._read(known.revision)
        if changes.revision < known.revision:  # the store is another one, or has lost something
            known = RuntimeState()
            changes = await self._read(known.revision)
        if changes.revision != self.current.revision or known is not self.current:
            self.current = with_changes(known, changes, ended_by_ms=now_ms - ENDED_KEPT_MS)
        self._read_at_ms = now_ms
