"""What is particular to a cluster: accounts of one request on several nodes, nodes that fail, slots that move."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import count

import pytest

from policyd.core.errors import ReservationNotFound, StoreError, StoreUnavailable
from policyd.core.ledger import ZERO_BALANCE, Account, Balance
from policyd.core.policy import Metric
from policyd.core.reservation import State
from policyd.stores import codec
from policyd.stores.base import Exists, Granted, Refused, Stale, StateItem, UsageFilter
from policyd.stores.redis.rows import encode_entries, encode_known, encode_parts
from policyd.stores.redis.shards import CLUSTER_SHARDS, SLOTS, Shard, Shards, slot_of
from policyd.stores.redis.store import RedisStore
from tests.stores.building import NOW_MS, TTL_MS, account, entry, record
from tests.stores.redis_calls import EXPIRED_MS, balance, balances, opened, reserve, settle, sweep
from tests.stores.redis_server import RedisServer, running_cluster

NODES = 3

prefixes = (f"p{number}:" for number in count())


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[RedisServer]]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), nodes=NODES) as servers:
        yield servers


@pytest.fixture
def url(servers: Sequence[RedisServer]) -> str:
    return f"redis+cluster://{servers[0].address}?prefix={next(prefixes)}&timeout=1s&connect_timeout=1s"


@pytest.fixture
async def store(url: str) -> AsyncIterator[RedisStore]:
    async with opened(url) as store:
        yield store


def node_of(shard: Shard) -> int:
    return shard.slot * NODES // SLOTS


def name_at(store: RedisStore, node: int) -> str:
    """A reservation's id, or a scope, that the node keeps."""
    names = (f"n{number}" for number in count())
    return next(name for name in names if node_of(store._shards.home(name)) == node)


def account_at(store: RedisStore, node: int) -> Account:
    return account(scope=name_at(store, node))


class TestShards:
    SHARDS = Shards("policyd:", cluster=True)

    def test_are_spread_evenly_over_the_slots(self) -> None:
        assert [shard.slot * CLUSTER_SHARDS // SLOTS for shard in self.SHARDS.all] == list(range(CLUSTER_SHARDS))

    def test_have_their_slot_by_what_stands_in_braces(self, servers: Sequence[RedisServer]) -> None:
        for shard in self.SHARDS.all:
            assert servers[0].command("CLUSTER", "KEYSLOT", f"{shard.base}account:x") == shard.slot
        assert servers[0].command("CLUSTER", "KEYSLOT", "ünïcode") == slot_of("ünïcode")

    def test_share_the_scopes(self) -> None:
        found = Counter(self.SHARDS.of_scope(f"project=p{number}").number for number in range(3_200))
        assert len(found) == CLUSTER_SHARDS
        assert max(found.values()) < 200

    def test_a_partition_keeps_a_tenant_together(self) -> None:
        shards = Shards("policyd:", cluster=True, partition="org")
        scopes = ["org=acme", "org=acme,user=ann", "project=p,org=acme", "tier=free,org=acme,model=m"]
        assert len({shards.of_scope(scope) for scope in scopes}) == 1
        assert len({shards.of_scope(f"org={number}") for number in range(100)}) > CLUSTER_SHARDS // 2
        # A scope without the attribute goes by itself.
        assert shards.of_scope("project=p") == self.SHARDS.of_scope("project=p")

    def test_a_server_alone_is_one(self) -> None:
        (only,) = Shards("policyd:", cluster=False).all
        assert only.base == "policyd:"


class TestSeveralNodes:
    async def test_all_is_held_or_nothing(self, store: RedisStore) -> None:
        accounts = [account_at(store, node) for node in range(NODES)]
        assert isinstance(await reserve(store, "r1", *(entry(600, on=on) for on in accounts)), Granted)
        for tight in range(NODES):
            entries = [entry(500 if node == tight else 1, on=on) for node, on in enumerate(accounts)]
            assert await reserve(store, "r2", *entries) == Refused((Balance(0, 600),) * NODES)
            assert await balances(store, accounts) == (Balance(0, 600),) * NODES
        with pytest.raises(ReservationNotFound):
            await store.get("r2")

    async def test_concurrent_requests_never_pass_a_cap_and_leak_nothing(self, store: RedisStore) -> None:
        """Ninety want two of three accounts, each of which has room for ten."""
        accounts = [account_at(store, node) for node in range(NODES)]

        async def exchange(number: int) -> bool:
            pair = accounts[number % 3], accounts[(number + 1) % 3]
            held = await reserve(store, f"r{number}", *(entry(10, on=on, cap=100) for on in pair))
            return isinstance(held, Granted)

        granted = [number for number, held in enumerate(await asyncio.gather(*map(exchange, range(90)))) if held]
        expected = Counter(on for number in granted for on in (number % 3, (number + 1) % 3))
        assert await balances(store, accounts) == tuple(Balance(0, 10 * expected[node]) for node in range(NODES))
        assert max(expected.values()) <= 10
        for number in granted:
            await settle(store, f"r{number}", 3)
        assert await balances(store, accounts) == tuple(Balance(3 * expected[node], 0) for node in range(NODES))

    async def test_an_extension_is_the_same_on_all(self, store: RedisStore) -> None:
        accounts = [account_at(store, node) for node in range(NODES)]
        caps = [1_000, 60, 40]
        await reserve(store, "r1", *(entry(10, on=on, cap=cap) for on, cap in zip(accounts, caps, strict=True)))
        unit = {Metric.COST: 1}
        granted = await store.extend("r1", unit_amounts=unit, wanted_units=200, at_least_units=1, now_ms=NOW_MS)
        assert granted == 30
        assert await balances(store, accounts) == (Balance(0, 40),) * NODES
        assert [each.amount for each in (await store.get("r1")).entries] == [40] * NODES

    async def test_a_part_whose_reservation_was_never_granted_is_charged_nothing(self, store: RedisStore) -> None:
        """As if the process had died between two shards."""
        home, on = name_at(store, 0), account_at(store, 1)
        shard = store._shards.of_scope(on.scope)
        number = store._shards.home(home).number
        await store._runner.run("hold", shard, home, number, EXPIRED_MS, encode_entries([entry(100, on=on)]))
        assert await balance(store, on) == Balance(0, 100)
        await sweep(store, now_ms=EXPIRED_MS - 1)
        assert await balance(store, on) == Balance(0, 100)
        assert (await sweep(store)).expired == ()
        assert await balance(store, on) == ZERO_BALANCE

    async def test_a_repetition_goes_on_from_where_the_first_attempt_died(self, store: RedisStore) -> None:
        home, on = name_at(store, 0), account_at(store, 1)
        shard = store._shards.of_scope(on.scope)
        number = store._shards.home(home).number
        await store._runner.run("hold", shard, home, number, EXPIRED_MS, encode_entries([entry(100, on=on)]))
        assert await reserve(store, home, entry(100, on=on)) == Granted((ZERO_BALANCE,))
        assert await balance(store, on) == Balance(0, 100)
        await settle(store, home, 30)
        assert await balance(store, on) == Balance(30, 0)

    async def test_a_repetition_after_the_first_attempt_expired_holds_again(self, store: RedisStore) -> None:
        home, on = name_at(store, 0), account_at(store, 1)
        shard = store._shards.of_scope(on.scope)
        number = store._shards.home(home).number
        await store._runner.run("hold", shard, home, number, EXPIRED_MS, encode_entries([entry(100, on=on)]))
        await sweep(store)
        assert await reserve(store, home, entry(100, on=on)) == Granted((ZERO_BALANCE,))
        assert await balance(store, on) == Balance(0, 100)
        # Forgetting the first attempt, which expired, would take the second one along.
        await store.sweep(now_ms=NOW_MS, ended_before_ms=EXPIRED_MS + 1, usage_before_ms=0)
        await settle(store, home, 30)
        assert await balance(store, on) == Balance(30, 0)

    async def test_of_two_attempts_neither_takes_back_what_the_other_counts_on(self, store: RedisStore) -> None:
        home, on, full = name_at(store, 0), account_at(store, 1), account_at(store, 2)
        shard = store._shards.of_scope(on.scope)
        number = store._shards.home(home).number
        await store._runner.run("hold", shard, home, number, EXPIRED_MS, encode_entries([entry(100, on=on)]))
        entries = entry(100, on=on), entry(100, on=full, cap=1)
        assert isinstance(await reserve(store, home, *entries), Refused)
        # The first attempt may still go on to its home; and if it gives up, another one may.
        assert await balance(store, on) == Balance(0, 100)
        await store._runner.run("withdraw", shard, home)
        assert await balance(store, on) == Balance(0, 100)
        await sweep(store)
        assert await balance(store, on) == ZERO_BALANCE

    async def test_a_part_that_expired_before_its_home_was_asked_is_charged_what_was_used(
        self, store: RedisStore
    ) -> None:
        name, on = name_at(store, 0), account_at(store, 1)
        home, shard = store._shards.home(name), store._shards.of_scope(on.scope)
        entries = [entry(100, on=on)]
        await store._runner.run("hold", shard, name, home.number, EXPIRED_MS, encode_entries(entries))
        await sweep(store)
        known, parts = encode_known([ZERO_BALANCE]), encode_parts([shard])
        arguments = (b"[]", codec.encode(entries), known, parts, codec.encode_record(record(name)), "")
        await store._runner.run("reserve", home, name, "", EXPIRED_MS + TTL_MS, *arguments)
        await settle(store, name, 30)
        assert await balance(store, on) == Balance(30, 0)


class TestNodeThatHangs:
    async def test_a_reserve_that_it_stops_leaves_nothing(
        self, store: RedisStore, servers: Sequence[RedisServer]
    ) -> None:
        accounts = [account_at(store, node) for node in range(NODES)]
        name = name_at(store, 0)
        await reserve(store, "warm", *(entry(1, on=on) for on in accounts))
        servers[2].hang()
        try:
            with pytest.raises(StoreError):
                await reserve(store, name, *(entry(100, on=on) for on in accounts))
            assert await balances(store, accounts[:2]) == (Balance(0, 1),) * 2
            # The others go on as if nothing was.
            assert isinstance(await reserve(store, name, entry(1, on=accounts[1])), Granted)
        finally:
            servers[2].go_on()
        await _until_all_answer(store)
        await sweep(store)
        # What the hung node did take up was of no reservation.
        assert (await balance(store, accounts[2])).reserved == 0
        assert (await balance(store, accounts[2])).spent == 1

    async def test_a_reserve_that_it_may_have_granted_stays_held(
        self, store: RedisStore, servers: Sequence[RedisServer]
    ) -> None:
        name, on = name_at(store, 2), account_at(store, 0)
        await reserve(store, f"{name}-warm", entry(1, on=on))
        await store.ping()
        servers[2].hang()
        try:
            with pytest.raises(StoreError) as raised:
                await reserve(store, name, entry(100, on=on))
            assert not isinstance(raised.value, StoreUnavailable)
            assert await balance(store, on) == Balance(0, 101)
        finally:
            servers[2].go_on()
        await _until_all_answer(store)
        assert isinstance(await reserve(store, name, entry(100, on=on)), Granted | Exists)
        assert await balance(store, on) == Balance(0, 101)

    async def test_a_charge_that_it_missed_is_decided_and_follows(
        self, store: RedisStore, servers: Sequence[RedisServer]
    ) -> None:
        name, on = name_at(store, 0), account_at(store, 2)
        await reserve(store, name, entry(100, on=on))
        servers[2].hang()
        try:
            assert await settle(store, name, 30) is State.RESERVED  # decided, and durable
        finally:
            servers[2].go_on()
        await _until_all_answer(store)
        assert (await store.get(name)).state is State.SETTLED
        assert await settle(store, name, 99) is State.SETTLED
        assert await balance(store, on) == Balance(30, 0)

    async def test_a_charge_that_nobody_repeats_follows_too(
        self, store: RedisStore, servers: Sequence[RedisServer]
    ) -> None:
        name, on = name_at(store, 0), account_at(store, 2)
        home, shard = store._shards.home(name), store._shards.of_scope(on.scope)
        await reserve(store, name, entry(100, on=on))
        # As if the process had died between the reservation's own shard and the other one.
        arguments = (name, NOW_MS, b'{"reserved": "settled"}', b'{"cost_usd": 30}', b"{}", name, NOW_MS)
        await store._runner.run("finish", home, *arguments)
        assert await balance(store, on) == Balance(0, 100)
        assert (await sweep(store)).expired == ()
        assert await balance(store, on) == Balance(30, 0)
        assert shard is not home

    async def test_a_renewal_that_a_part_missed_is_made_up(self, store: RedisStore) -> None:
        name, on = name_at(store, 0), account_at(store, 2)
        await reserve(store, name, entry(100, on=on))
        await store._runner.run("renew", store._shards.home(name), EXPIRED_MS + TTL_MS, name)
        assert (await sweep(store)).expired == ()
        assert await balance(store, on) == Balance(0, 100)
        assert len((await sweep(store, now_ms=EXPIRED_MS + TTL_MS)).expired) == 1
        assert await balance(store, on) == Balance(100, 0)

    async def test_state_that_it_missed_is_told_by_the_next_reservation(
        self, store: RedisStore, servers: Sequence[RedisServer]
    ) -> None:
        name = name_at(store, 2)
        await reserve(store, "warm", entry(1, on=account_at(store, 2)))
        servers[2].hang()
        try:
            with pytest.raises(StoreError):
                await store.set_state([StateItem("block", "a", "1")], now_ms=NOW_MS)
        finally:
            servers[2].go_on()
        await _until_all_answer(store)
        assert (await store.state()).revision == 1

        async def reserve_at(revision: int) -> object:
            return await store.reserve(
                name,
                entries=[entry(1)],
                record=record(name),
                now_ms=NOW_MS,
                expires_at_ms=EXPIRED_MS,
                state_revision=revision,
            )

        assert await reserve_at(2) == Stale(1)
        assert isinstance(await reserve_at(1), Granted)

    async def test_listing_needs_every_node(self, store: RedisStore, servers: Sequence[RedisServer]) -> None:
        servers[1].hang()
        try:
            with pytest.raises(StoreError):
                await store.usage(UsageFilter(), limit=5)
        finally:
            servers[1].go_on()
        await _until_all_answer(store)


class TestSlotsThatMove:
    async def test_is_refused_without_effect_meanwhile_and_found_again_after(
        self, store: RedisStore, servers: Sequence[RedisServer]
    ) -> None:
        on = account_at(store, 0)
        shard = store._shards.of_scope(on.scope)
        name = next(f"m{n}" for n in count() if store._shards.home(f"m{n}") is shard)
        await reserve(store, name, entry(100, on=on))
        source, target = servers[:2]
        begin_move(shard.slot, source, target)
        # The account is where it was; the index of what is due, written last, has moved already.
        migrate(source, target, f"{shard.base}due")
        for call in (settle(store, name, 30), reserve(store, f"{name}-other", entry(1, on=on))):
            with pytest.raises(StoreUnavailable):
                await call
        assert source.command("HMGET", f"{shard.base}account:{on.key}", "spent", "reserved") == [b"0", b"100"]
        finish_move(shard.slot, source, target, servers)
        assert await settle(store, name, 30) is State.RESERVED
        assert await balance(store, on) == Balance(30, 0)
        begin_move(shard.slot, target, source)
        finish_move(shard.slot, target, source, servers)
        assert await balance(store, on) == Balance(30, 0)


def begin_move(slot: int, source: RedisServer, target: RedisServer) -> None:
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", _id(source))
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", _id(target))


def finish_move(slot: int, source: RedisServer, target: RedisServer, servers: Sequence[RedisServer]) -> None:
    while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
        migrate(source, target, *keys)
    for server in (target, source, *servers):
        server.command("CLUSTER", "SETSLOT", slot, "NODE", _id(target))


def migrate(source: RedisServer, target: RedisServer, *keys: str) -> None:
    source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *keys)


def _id(server: RedisServer) -> str:
    found = server.command("CLUSTER", "MYID")
    return found.decode() if isinstance(found, bytes) else str(found)


async def _until_all_answer(store: RedisStore) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            await store.usage(UsageFilter(), limit=1)  # asks every node
            return
        except StoreError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)
