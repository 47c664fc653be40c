"""What is particular to Redis: pipelining, scripts, exactness, the usage stream, durability and outages."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd.core.errors import StoreError, StoreUnavailable
from policyd.core.ledger import Balance, carried
from policyd.core.policy import Metric
from policyd.core.record import Record
from policyd.core.reservation import State
from policyd.core.windows import WEIGHT_UNIT
from policyd.stores import codec
from policyd.stores.base import Exists, Granted, Refused
from policyd.stores.redis.link import PAUSE_SECONDS_MAX
from policyd.stores.redis.scripts import script
from policyd.stores.redis.store import RedisStore
from tests.stores.building import NOW_MS, account, entry, record
from tests.stores.redis_calls import EXPIRED_MS, balance, opened, reserve, settle, sweep
from tests.stores.redis_server import RedisServer, running
from tests.stores.tap import Tap

LARGEST = 2**53 - 1


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that no test harms."""
    with running(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture
async def store(shared_server: RedisServer) -> AsyncIterator[RedisStore]:
    shared_server.client.flushall()
    async with opened(f"redis://{shared_server.address}/0?timeout=20s") as store:
        yield store


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server to harm. What it has acknowledged is on the disk."""
    with running(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


class TestCoalescing:
    async def test_calls_of_one_turn_go_out_together(self, shared_server: RedisServer) -> None:
        tap = Tap(shared_server.port)
        async with tap.listening() as port, opened(f"redis://127.0.0.1:{port}/0?prefix=tap:&timeout=20s") as store:
            await reserve(store, "first")  # connected, and the script is known
            before = tap.reads
            results = await asyncio.gather(*(reserve(store, f"r{number}") for number in range(200)))
            assert all(isinstance(result, Granted) for result in results)
            # Some 150 kB: as often as the kernel hands over a part of them, and not 200 times.
            assert tap.reads - before <= 20

    async def test_a_call_that_fails_spoils_no_other(self, store: RedisStore) -> None:
        await reserve(store, "r1", entry(LARGEST, cap=LARGEST))
        calls = [settle(store, "r1", LARGEST), *(reserve(store, f"s{n}", entry(1, cap=1)) for n in range(20))]
        await reserve(store, "r2", entry(1, cap=1, on=account("other")))
        found, *others = await asyncio.gather(*calls)
        assert found is State.RESERVED
        assert all(isinstance(other, Refused) for other in others)

    async def test_a_caller_that_gave_up_is_not_missed(self, store: RedisStore) -> None:
        await store.ping()
        given_up, waiting = (asyncio.ensure_future(reserve(store, name)) for name in ("r1", "r2"))
        await asyncio.sleep(0)
        given_up.cancel()
        assert isinstance(await waiting, Granted)
        assert given_up.cancelled()
        await store.ping()


class TestScripts:
    async def test_are_sent_again_where_redis_has_lost_them(
        self, store: RedisStore, shared_server: RedisServer
    ) -> None:
        await reserve(store, "r1")
        shared_server.client.script_flush()
        assert await settle(store, "r1", 1) is State.RESERVED
        results = await asyncio.gather(*(reserve(store, f"s{number}") for number in range(20)))
        assert all(isinstance(result, Granted) for result in results)

    async def test_every_key_has_the_prefix_and_nothing_expires_by_itself(self, shared_server: RedisServer) -> None:
        shared_server.client.flushall()
        async with opened(f"redis://{shared_server.address}/0?prefix=mine:") as store:
            await reserve(store, "r1", entry(5, on=account(keep_until_ms=NOW_MS)))
            await settle(store, "r1", 5)
            await store.count({"a": 1}, now_ms=NOW_MS, keep_until_ms=NOW_MS + 1)
            await store.begin_window("w", now_ms=NOW_MS, length_ms=1)
            await store.repeated("s", "d", now_ms=NOW_MS, forget_after_ms=1)
        keys = list(shared_server.client.scan_iter())
        assert keys
        assert all(key.startswith(b"mine:") for key in keys)
        assert {shared_server.client.ttl(key) for key in keys} == {-1}

    async def test_a_sweep_leaves_nothing_of_what_is_over(self, store: RedisStore, shared_server: RedisServer) -> None:
        await reserve(store, "r1", entry(5, on=account(keep_until_ms=NOW_MS)))
        await settle(store, "r1", 5)
        await reserve(store, "r2", entry(5, on=account(keep_until_ms=NOW_MS)))
        await store.count({"a": 1}, now_ms=NOW_MS, keep_until_ms=NOW_MS + 1)
        await store.begin_window("w", now_ms=NOW_MS, length_ms=1)
        await store.repeated("s", "d", now_ms=NOW_MS, forget_after_ms=1)
        late_ms = EXPIRED_MS + 1
        await store.sweep(now_ms=EXPIRED_MS, ended_before_ms=0, usage_before_ms=0)
        await store.sweep(now_ms=late_ms, ended_before_ms=late_ms, usage_before_ms=late_ms)
        left = list(shared_server.client.scan_iter())
        assert left in ([], [b"policyd:usage"])  # an empty stream
        assert shared_server.client.xlen("policyd:usage") == 0


class TestExactness:
    """Redis's Lua counts in doubles: the results are those of Python's integers, up to 2^53 - 1."""

    @settings(max_examples=200)
    @given(total=st.integers(0, LARGEST), weight=st.integers(0, WEIGHT_UNIT))
    def test_what_a_window_carries(self, shared_server: RedisServer, total: int, weight: int) -> None:
        assert _in_lua(shared_server, "carried(tonumber(ARGV[1]), tonumber(ARGV[2]))", total, weight) == carried(
            total, weight
        )

    @settings(max_examples=200)
    @given(number=st.integers(0, LARGEST), divisor=st.integers(1, 10**6) | st.integers(1, LARGEST))
    def test_a_quotient_is_rounded_down(self, shared_server: RedisServer, number: int, divisor: int) -> None:
        found = _in_lua(shared_server, "whole_quotient(tonumber(ARGV[1]), tonumber(ARGV[2]))", number, divisor)
        assert found == number // divisor

    async def test_an_amount_that_is_too_large_is_never_sent(self, store: RedisStore) -> None:
        with pytest.raises(OverflowError):
            await reserve(store, "r1", entry(2**53, cap=LARGEST))
        await reserve(store, "r2")
        with pytest.raises(OverflowError):
            await settle(store, "r2", 2**53)
        assert await balance(store) == Balance(0, 1)

    async def test_an_account_that_would_pass_the_largest_is_not_changed(self, store: RedisStore) -> None:
        await reserve(store, "r1", entry(LARGEST, cap=LARGEST, enforce=False))
        with pytest.raises(StoreUnavailable, match="no effect"):
            await reserve(store, "r2", entry(1, cap=LARGEST, enforce=False))
        await settle(store, "r1", LARGEST)
        await reserve(store, "r3", entry(1, cap=LARGEST, enforce=False))
        with pytest.raises(StoreUnavailable, match="no effect"):
            await settle(store, "r3", 1)
        assert (await store.get("r3")).state is State.RESERVED
        assert await balance(store) == Balance(LARGEST, 1)


def _in_lua(server: RedisServer, expression: str, *arguments: int) -> int:
    """Of the functions that stand before every script."""
    ledger = script("get").text.partition("-- ARGV: id.")[0]
    found = server.command("EVAL", f"{ledger}\nreturn text({expression})", 1, "k", *arguments)
    return int(found)


class TestExpiry:
    async def test_a_reservation_that_grew_meanwhile_is_looked_at_again(self, store: RedisStore) -> None:
        """The record says what expiry charges, so it may not be of before an extension."""
        await reserve(store, "r1", amount=100)
        await store.extend("r1", unit_amounts={Metric.COST: 1}, wanted_units=50, at_least_units=1, now_ms=NOW_MS)
        (shard,) = store._shards.all
        stale = ("r1", EXPIRED_MS, "0", 0, codec.encode_record(record()), "r1", NOW_MS)
        assert await store._runner.run("expire", shard, *stale) == 0
        assert (await store.get("r1")).state is State.RESERVED
        assert [each.actual_cost_nanos for each in (await sweep(store)).expired] == [150]


class TestUsageStream:
    async def test_a_consumer_can_drain_it(self, store: RedisStore, shared_server: RedisServer) -> None:
        await reserve(store, "r1")
        await settle(store, "r1", 1)
        await store.append(record("r2"))
        client = shared_server.client
        client.xgroup_create("policyd:usage", "warehouse", id="0")
        ((_, entries),) = shared_server.command(
            "XREADGROUP", "GROUP", "warehouse", "worker", "STREAMS", "policyd:usage", ">"
        )
        assert [codec.decode_record(fields[b"record"]) for _, fields in entries] == [
            record("r1", actual_cost_nanos=1),
            record("r2"),
        ]
        assert json.loads(entries[0][1][b"record"])["actual_cost_nanos"] == 1

    async def test_a_correction_comes_again_in_place_of_the_first(
        self, store: RedisStore, shared_server: RedisServer
    ) -> None:
        await reserve(store, "r1", amount=100)
        await sweep(store)
        await settle(store, "r1", 30)
        ((_, fields),) = shared_server.command("XRANGE", "policyd:usage", "-", "+")
        corrected: Record = codec.decode_record(fields[b"record"])
        assert corrected.actual_cost_nanos == 30


class TestClocks:
    async def test_a_replica_whose_clock_is_ahead_by_the_grace_expires_nothing_early(self, store: RedisStore) -> None:
        """Sweeps are called with a `now_ms` that is the grace behind the clock: so far clocks may differ."""
        grace_ms = 5_000
        await reserve(store, "r1")
        clock_ahead_ms = EXPIRED_MS - 1 + grace_ms
        assert (await sweep(store, now_ms=clock_ahead_ms - grace_ms)).expired == ()
        assert len((await sweep(store, now_ms=clock_ahead_ms - grace_ms + 1)).expired) == 1


class TestOutage:
    async def test_a_call_without_an_answer_is_of_unknown_outcome_and_is_not_held_twice(
        self, server: RedisServer
    ) -> None:
        async with opened(f"redis://{server.address}/0?timeout=200ms&connect_timeout=200ms") as store:
            await reserve(store, "before")
            server.hang()
            with pytest.raises(StoreError) as raised:
                await reserve(store, "r1", amount=10)
            assert not isinstance(raised.value, StoreUnavailable)
            server.go_on()
            await _until_it_answers(store)
            # What was sent before may have come through.
            assert isinstance(await reserve(store, "r1", amount=10), Granted | Exists)
            assert await balance(store) == Balance(0, 11)

    async def test_a_hung_server_costs_few_calls_their_time(self, server: RedisServer) -> None:
        timeout_seconds = 1
        async with opened(f"redis://{server.address}/0?timeout=1s&connect_timeout=1s") as store:
            await store.ping()
            server.hang()
            took: list[float] = []
            errors: list[type[BaseException]] = []

            async def client(name: int) -> None:
                for number in range(100):
                    began = time.monotonic()
                    with pytest.raises(StoreError) as raised:
                        await reserve(store, f"{name}-{number}")
                    took.append(time.monotonic() - began)
                    errors.append(raised.type)

            await asyncio.gather(*(client(name) for name in range(10)))
            # Those that were under way when it hung; none was sent after.
            assert errors.count(StoreError) == 10
            assert errors.count(StoreUnavailable) == 990
            assert sorted(took)[int(len(took) * 0.98)] < timeout_seconds
            server.go_on()
            await _until_it_answers(store)

    def test_a_process_that_was_held_up_does_not_take_its_own_silence_for_that_of_redis(
        self, server: RedisServer
    ) -> None:
        timeout_seconds = 1.0
        command = [sys.executable, "-m", "tests.stores.held_up", f"redis://{server.address}/0?timeout=1s"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stdout.readline() == "connected\n"
            server.hang()
            child.stdin.write("go on\n")
            child.stdin.flush()
            assert child.stdout.readline() == "sent\n"
            child.send_signal(signal.SIGSTOP)
            server.go_on()
            server.client.ping()
            time.sleep(timeout_seconds)
            child.send_signal(signal.SIGCONT)
            assert child.stdout.readline() == "Granted\n"

    async def test_calls_never_pile_up(self, server: RedisServer) -> None:
        async with opened(f"redis://{server.address}/0?timeout=2s&connect_timeout=2s") as store:
            await store.ping()
            server.hang()
            calls = [asyncio.ensure_future(reserve(store, f"r{number}")) for number in range(4_200)]
            done, waiting = await asyncio.wait(calls, timeout=0.5)
            assert {type(call.exception()) for call in done} == {StoreUnavailable}
            assert len(done) == 4_200 - 4_096
            answers = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(answer) for answer in answers} == {StoreError}
            server.go_on()

    async def test_a_server_that_was_never_there_is_unavailable(self, server: RedisServer) -> None:
        server.kill()
        async with opened(f"redis://{server.address}/0") as store:
            answers = await asyncio.gather(*(store.ping() for _ in range(10)), return_exceptions=True)
            assert {type(answer) for answer in answers} == {StoreUnavailable}
            server.start()
            await _until_it_answers(store)
            assert isinstance(await reserve(store, "r1"), Granted)

    async def test_what_was_acknowledged_survives_a_killed_server(self, server: RedisServer) -> None:
        acknowledged: set[str] = set()
        async with opened(f"redis://{server.address}/0?timeout=5s") as store:

            async def client(name: int) -> None:
                for number in range(1_000):
                    try:
                        await reserve(store, f"{name}-{number}", entry(1, cap=10**9))
                    except StoreError:
                        return
                    acknowledged.add(f"{name}-{number}")
                    if len(acknowledged) == 500:
                        server.kill()

            await asyncio.gather(*(client(name) for name in range(8)))
            assert 500 <= len(acknowledged) < 8_000
            server.start()
            await _until_it_answers(store)
            for name in acknowledged:
                assert (await store.get(name)).state is State.RESERVED
            held = (await balance(store)).reserved
            assert len(acknowledged) <= held <= len(acknowledged) + 8
            # The scripts are lost with the server; the calls go on.
            assert await settle(store, min(acknowledged), 1) is State.RESERVED

    async def test_a_server_out_of_memory_has_no_effect_and_keeps_what_it_has(self, server: RedisServer) -> None:
        async with opened(f"redis://{server.address}/0") as store:
            await reserve(store, "r1", amount=10)
            server.command("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(StoreUnavailable, match="OOM"):
                await reserve(store, "r2")
            assert await balance(store) == Balance(0, 10)
            server.command("CONFIG", "SET", "maxmemory", "0")
            assert isinstance(await reserve(store, "r2"), Granted)

    async def test_a_replica_is_not_written_to(self, server: RedisServer, shared_server: RedisServer) -> None:
        async with opened(f"redis://{server.address}/0") as store:
            await reserve(store, "r1")
            server.command("REPLICAOF", "127.0.0.1", shared_server.port)
            with pytest.raises(StoreUnavailable, match="READONLY"):
                await reserve(store, "r2")


async def _until_it_answers(store: RedisStore) -> None:
    """Asks until the pause is over."""
    deadline = time.monotonic() + 10 * PAUSE_SECONDS_MAX
    while True:
        try:
            await store.ping()
            return
        except StoreError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)
