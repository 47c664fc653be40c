"""How a process keeps up with the run-time state in a store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from policyd.core.errors import StoreError, StoreUnavailable
from policyd.core.runtime import Block, Blocked, Kind, Override, Piece, Reset
from policyd.enforcer.runtime_state import ATTEMPTS_MAX, ENDED_KEPT_MS, FollowedState, deletion_of, item_of
from policyd.stores.base import Stale, StateChanges, StateItem, Store
from policyd.stores.memory import MemoryStore
from policyd.stores.url import open_store
from tests.builders import NOW_MS

REMEMBERED_MS = 1_000


def block(scope: str = "user=ann", *, until_ms: int | None = None, kind: Kind = Kind.BLOCK) -> Block:
    return Block(kind, scope, "why", NOW_MS, until_ms)


@dataclass
class Follower:
    """A process that follows a store, and what it asked it for."""

    store: Store
    now_ms: int = NOW_MS
    asked: list[int] = field(default_factory=list)
    state: FollowedState = field(init=False)

    def __post_init__(self) -> None:
        self.state = FollowedState(self.read, now_ms=lambda: self.now_ms, remembered_ms=lambda: REMEMBERED_MS)

    async def read(self, since: int) -> StateChanges:
        self.asked.append(since)
        return await self.store.state(since=since)

    async def put(self, *pieces: Piece) -> int:
        return await self.store.set_state([item_of(piece) for piece in pieces], now_ms=self.now_ms)

    async def delete(self, piece: Piece) -> None:
        await self.store.set_state([deletion_of(piece)], now_ms=self.now_ms)

    def known(self) -> list[Piece]:
        return [piece for by_key in self.state.current.pieces.values() for piece in by_key.values()]


@pytest.fixture(params=["memory", "sqlite"])
async def follower(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Follower]:
    store = open_store("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/store.db")
    yield Follower(store)
    await store.close()


PIECES: tuple[Piece, ...] = (
    Override("a", "user=ann", 2**53 - 1, NOW_MS),
    Override("a", "user=ann", 0, NOW_MS, NOW_MS + 1),
    Reset("a", "", NOW_MS, None),
    block(),
    block("model=gpt-4o*,user=ünïcode%2C", kind=Kind.FREEZE, until_ms=NOW_MS + 1),
)


class TestRefresh:
    async def test_takes_in_every_kind_of_piece(self, follower: Follower) -> None:
        revision = await follower.put(*PIECES)
        await follower.state.refresh()
        assert set(follower.known()) == set(PIECES)
        assert follower.state.current.revision == revision

    async def test_asks_for_changes_alone(self, follower: Follower) -> None:
        for scope in ("user=a", "user=b"):
            await follower.put(block(scope))
            await follower.state.refresh()
        await follower.delete(block("user=a"))
        await follower.state.refresh()
        assert follower.asked == [0, 1, 2]
        assert follower.known() == [block("user=b")]

    async def test_keeps_the_snapshot_where_nothing_changed(self, follower: Follower) -> None:
        await follower.put(block())
        await follower.state.refresh()
        before = follower.state.current
        await follower.state.refresh()
        assert follower.state.current is before

    async def test_drops_what_has_expired_a_while_ago(self, follower: Follower) -> None:
        await follower.put(block("user=a", until_ms=NOW_MS + 5), block("user=b"))
        await follower.state.refresh()
        follower.now_ms += 5 + ENDED_KEPT_MS
        await follower.put(block("user=c", until_ms=NOW_MS + 5), block("user=d", until_ms=NOW_MS + 6))
        await follower.state.refresh()
        assert follower.known() == [block("user=b"), block("user=d", until_ms=NOW_MS + 6)]

    async def test_asks_for_everything_where_the_store_may_have_forgotten_a_change(self, follower: Follower) -> None:
        await follower.put(block())
        await follower.state.refresh()
        # For an hour this process sleeps: the block gets an end, which comes, and is swept away.
        await follower.put(block(until_ms=NOW_MS + 5))
        await follower.store.sweep(now_ms=NOW_MS, ended_before_ms=NOW_MS + 6, usage_before_ms=0)
        follower.now_ms += REMEMBERED_MS
        await follower.state.refresh()
        assert follower.known() == []

    async def test_starts_again_with_a_store_that_has_lost_revisions(self, follower: Follower) -> None:
        await follower.put(block("user=a"))
        await follower.put(block("user=b"))
        await follower.state.refresh()
        follower.store = MemoryStore()
        await follower.put(block("user=c"))
        await follower.state.refresh()
        assert (follower.known(), follower.state.current.revision) == ([block("user=c")], 1)

    async def test_leaves_out_kinds_that_are_not_its_own(self, follower: Follower) -> None:
        await follower.store.set_state([StateItem("another", "k", "anything"), item_of(block())], now_ms=NOW_MS)
        await follower.state.refresh()
        assert follower.known() == [block()]

    @pytest.mark.parametrize("value", ["{", "{}", '{"kind":"block","scope":7}'])
    async def test_fails_over_an_item_that_cannot_be_read(self, follower: Follower, value: str) -> None:
        await follower.store.set_state([StateItem(Kind.BLOCK, "user=ann", value)], now_ms=NOW_MS)
        with pytest.raises(StoreError, match="the block of 'user=ann' in the store cannot be read"):
            await follower.state.refresh()


class TestUnblocked:
    async def test_refuses_whoever_is_blocked(self, follower: Follower) -> None:
        await follower.put(block())
        await follower.state.refresh()
        with pytest.raises(Blocked) as raised:
            await follower.state.unblocked({"user": "ann"})
        assert raised.value.block == block()
        assert (await follower.state.unblocked({"user": "bob"})).revision == 1

    async def test_asks_the_store_before_it_refuses(self, follower: Follower) -> None:
        await follower.put(block())
        await follower.state.refresh()
        await follower.delete(block())
        assert (await follower.state.unblocked({"user": "ann"})).revision == 2


class TestDecide:
    async def test_makes_the_attempt_again_where_the_state_has_changed(self, follower: Follower) -> None:
        await follower.put(block())
        seen: list[int] = []

        async def attempt() -> str | Stale:
            seen.append(follower.state.current.revision)
            return "held" if follower.state.current.revision == 1 else Stale(1)

        assert await follower.state.decide(attempt) == "held"
        assert seen == [0, 1]

    async def test_gives_up_where_it_changes_all_the_time(self, follower: Follower) -> None:
        seen: list[int] = []

        async def attempt() -> str | Stale:
            seen.append(await follower.put(block()))
            return Stale(seen[-1])

        with pytest.raises(StoreUnavailable):
            await follower.state.decide(attempt)
        assert len(seen) == ATTEMPTS_MAX
