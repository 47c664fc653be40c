"""What is particular to SQLite: durability, several processes, failures of the disk, the file itself."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from threading import Thread, get_ident

import pytest

from policyd.core.errors import ConfigError, ReservationNotFound, StoreError, StoreUnavailable
from policyd.core.ledger import Account, Balance
from policyd.core.policy import Metric
from policyd.core.reservation import State
from policyd.stores.base import Granted, Refused, ReserveResult, Stale, StateItem, Store, UsageFilter
from policyd.stores.sqlite import checkpoints, ledger, on_loop, runtime, usage_records
from policyd.stores.sqlite.file import SCHEMA_VERSION, Synchronous
from policyd.stores.sqlite.store import SqliteStore
from policyd.stores.sqlite.transactions import Call
from tests.stores import child
from tests.stores.building import NOW_MS, TTL_MS, account, entry, record

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(file: Path) -> AsyncIterator[SqliteStore]:
    async with opened(file) as store:
        yield store


@asynccontextmanager
async def opened(file: Path, *, busy_timeout_ms: int = 5_000) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(file, busy_timeout_ms=busy_timeout_ms)
    yield store
    await store.close()


def reserve(
    store: Store, reservation_id: str, amount: int = 1, *, cap: int = 1_000
) -> Coroutine[None, None, ReserveResult]:
    return store.reserve(
        reservation_id,
        entries=[entry(amount, cap=cap)],
        record=record(reservation_id),
        now_ms=NOW_MS,
        expires_at_ms=NOW_MS + TTL_MS,
    )


async def settle(store: Store, reservation_id: str, cost: int) -> State:
    return await store.settle(reservation_id, amounts={Metric.COST: cost}, record=record(reservation_id), now_ms=NOW_MS)


async def balance(store: Store) -> Balance:
    return (await store.balances([(account(), None)]))[0]


async def is_known(store: Store, reservation_id: str) -> bool:
    try:
        await store.get(reservation_id)
    except ReservationNotFound:
        return False
    return True


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Another program writes to the file meanwhile, and so holds up every batch."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def _strace(calls: Path) -> Sequence[str]:
    """What to run a program under so that each call that waits for the disk is a line of `calls`, its thread first."""
    tracing = ("strace", "-f", "-e", "trace=fsync,fdatasync", "-o", str(calls))
    if shutil.which("strace") is None:
        pytest.skip("no strace, which sees who waits for the disk")
    if subprocess.run((*tracing, "true"), capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")
    return tracing


async def start_child(command: str, file: Path, *, under: Sequence[str] = ()) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *under,
        sys.executable,
        "-m",
        "tests.stores.child",
        command,
        str(file),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def lines_of(process: asyncio.subprocess.Process) -> AsyncIterator[list[str]]:
    assert process.stdout is not None
    async for line in process.stdout:
        yield line.decode().split()


class TestDurability:
    async def test_what_was_stored_is_there_after_reopening(self, file: Path) -> None:
        async with opened(file) as store:
            await reserve(store, "open", 10)
            await reserve(store, "settled", 20)
            await settle(store, "settled", 15)
            expected = [await store.get("open"), await store.get("settled")]
        async with opened(file) as store:
            assert [await store.get("open"), await store.get("settled")] == expected
            assert await balance(store) == Balance(15, 10)
            assert await settle(store, "open", 10) is State.RESERVED

    async def test_kill_9_in_the_middle_of_a_storm_loses_nothing_acknowledged(self, file: Path) -> None:
        process = await start_child("storm", file)
        acknowledged: dict[str, set[str]] = {"reserved": set(), "settled": set()}
        async for word, reservation_id in lines_of(process):
            acknowledged[word].add(reservation_id)
            if len(acknowledged["settled"]) == 1_000 and process.returncode is None:
                process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
        assert _log_bytes(file) > 0  # there is something to recover

        async with opened(file) as store:
            for reservation_id in acknowledged["settled"]:
                found = await store.get(reservation_id)
                assert (found.state, found.record.actual_cost_nanos) == (State.SETTLED, _storm_cost(reservation_id))
            for reservation_id in acknowledged["reserved"]:
                assert await is_known(store, reservation_id)
            # Whatever else was under way was stored whole or not at all.
            known = [each for each in _begun(acknowledged["reserved"]) if await is_known(store, each)]
            states = {each: (await store.get(each)).state for each in known}
            assert await balance(store) == Balance(
                spent=sum(_storm_cost(each) for each, state in states.items() if state is State.SETTLED),
                reserved=sum(child.STORM_HOLD for state in states.values() if state is State.RESERVED),
            )
            page = await store.usage(UsageFilter(), limit=len(states))
            assert {each.request_id for each in page.records} == {
                each for each, state in states.items() if state is State.SETTLED
            }

    @pytest.mark.parametrize(("synchronous", "pragma"), [(Synchronous.NORMAL, 1), (Synchronous.FULL, 2)])
    async def test_waits_for_the_disk_as_told(self, file: Path, synchronous: Synchronous, pragma: int) -> None:
        store = SqliteStore(file, synchronous=synchronous)
        for run in (store._writer.run, store._loop.write):
            assert await run(lambda db: db.execute("PRAGMA synchronous").fetchone()) == (pragma,)
        threads = {await run(lambda db: get_ident()) for run in (store._writer.run, store._loop.write)}
        await store.close()
        assert (get_ident() in threads) == (synchronous is Synchronous.NORMAL)


def _bytes(file: Path) -> int:
    return file.stat().st_size


def _log_bytes(file: Path) -> int:
    return _bytes(Path(f"{file}-wal"))


def _storm_cost(reservation_id: str) -> int:
    return int(reservation_id.partition("-")[2])


def _begun(acknowledged: set[str]) -> set[str]:
    """Every reservation that the storm can have begun: each worker is at most one ahead of what it has said."""
    ahead = {f"{name}-{number + 1}" for name, number in (map(int, each.split("-")) for each in acknowledged)}
    return acknowledged | ahead | {f"{name}-0" for name in range(child.STORM_WORKERS)}


class TestSharing:
    async def test_two_processes_never_pass_one_cap(self, file: Path) -> None:
        processes = [await start_child("compete", file) for _ in range(2)]
        said = [lines_of(process) for process in processes]
        for words in said:
            assert await anext(words) == ["ready"]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
        granted = [int((await anext(words))[0]) for words in said]
        assert [await process.wait() for process in processes] == [0, 0]
        assert sum(granted) == child.COMPETE_CAP
        assert min(granted) >= child.COMPETE_CAP - child.COMPETE_RESERVES
        async with opened(file) as store:
            assert await balance(store) == Balance(0, child.COMPETE_CAP)

    async def test_two_stores_see_each_others_writes(self, file: Path, store: SqliteStore) -> None:
        async with opened(file) as other:
            await reserve(store, "r1", 600)
            assert isinstance(await reserve(other, "r2", 600), Refused)
            assert await settle(other, "r1", 100) is State.RESERVED
            assert await settle(store, "r1", 100) is State.SETTLED

    async def test_what_one_sets_the_next_reservation_of_another_knows(self, file: Path, store: SqliteStore) -> None:
        async with opened(file) as other:
            await other.set_state([StateItem("block", "a", "1")], now_ms=NOW_MS)
            result = await store.reserve(
                "r1", entries=[], record=record(), now_ms=NOW_MS, expires_at_ms=NOW_MS + TTL_MS, state_revision=0
            )
            assert result == Stale(1)
            assert await store.state() == await other.state()

    def test_several_may_create_the_file_at_once(self, tmp_path: Path) -> None:
        def create(file: Path) -> SqliteStore:
            return SqliteStore(file)

        with ThreadPoolExecutor(4) as threads:
            for number in range(20):
                stores = list(threads.map(create, [tmp_path / f"{number}.db"] * 4))
                asyncio.run(_close(stores))

    async def test_a_lock_that_another_holds_too_long_is_unavailable(self, file: Path) -> None:
        async with opened(file, busy_timeout_ms=1) as store:
            with locked(file):
                with pytest.raises(StoreUnavailable):
                    await reserve(store, "r1")
                with pytest.raises(StoreUnavailable):
                    await store.ping()
                assert await balance(store) == Balance(0, 0)
            assert isinstance(await reserve(store, "r1"), Granted)

    async def test_callers_may_be_on_several_event_loops(self, store: SqliteStore) -> None:
        granted: list[int] = []

        async def reserve_many(name: int) -> None:
            results = await asyncio.gather(*(reserve(store, f"{name}-{number}", cap=150) for number in range(100)))
            granted.append(sum(isinstance(result, Granted) for result in results))

        threads = [Thread(target=asyncio.run, args=(reserve_many(name),)) for name in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert sum(granted) == 150


async def _close(stores: list[SqliteStore]) -> None:
    for store in stores:
        await store.close()


class TestGroupCommit:
    async def test_calls_that_wait_together_share_a_commit(self, file: Path, store: SqliteStore) -> None:
        statements: list[str] = []
        await store._writer.run(lambda db: db.set_trace_callback(statements.append))
        with locked(file):
            calls = [asyncio.ensure_future(reserve(store, f"r{number}")) for number in range(100)]
            await asyncio.sleep(0)  # every call is made
        assert all(isinstance(result, Granted) for result in await asyncio.gather(*calls))
        # The rest of the first batch, which the lock held up, and the others.
        assert statements.count("COMMIT") <= 1 + 2

    async def test_the_event_loop_runs_while_a_commit_waits(self, file: Path, store: SqliteStore) -> None:
        with locked(file):
            call = asyncio.ensure_future(reserve(store, "r1"))
            for _ in range(100):
                await asyncio.sleep(0)
            assert not call.done()
        assert isinstance(await call, Granted)

    async def test_a_reservation_is_not_acknowledged_before_its_commit(self, file: Path, store: SqliteStore) -> None:
        for number in range(50):
            await reserve(store, f"r{number}")
            with closing(sqlite3.connect(file)) as other:
                assert other.execute("SELECT reserved FROM accounts").fetchone() == (number + 1,)

    async def test_a_call_that_fails_spoils_no_other_of_its_batch(self, file: Path, store: SqliteStore) -> None:
        _make_fail(file, "ABORT")
        with locked(file):
            calls = [asyncio.ensure_future(store.append(record(name))) for name in ("a", "poison", "b", "c")]
            await asyncio.sleep(0)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [type(None), StoreUnavailable, type(None), type(None)]
        assert await _usage_ids(store) == ["c", "b", "a"]

    async def test_a_step_that_fails_half_way_is_undone(self, file: Path, store: SqliteStore) -> None:
        _make_fail(file, "ABORT")
        await reserve(store, "poison", 10)
        with pytest.raises(StoreUnavailable):
            await settle(store, "poison", 5)  # fails at the usage record, its last write
        assert await balance(store) == Balance(0, 10)
        assert (await store.get("poison")).state is State.RESERVED

    async def test_a_lost_transaction_acknowledges_nothing(self, file: Path, store: SqliteStore) -> None:
        _make_fail(file, "ROLLBACK")
        names = [*(f"a{number}" for number in range(20)), "poison", *(f"b{number}" for number in range(20))]
        with locked(file):
            calls = {name: asyncio.ensure_future(store.append(record(name))) for name in names}
            await asyncio.sleep(0)
        await asyncio.gather(*calls.values(), return_exceptions=True)
        failed = {name for name, call in calls.items() if isinstance(call.exception(), StoreUnavailable)}
        # A batch that holds "poison" holds all that come before it, or all that come after.
        assert len(failed) > 20
        assert "poison" in failed
        assert set(await _usage_ids(store)) == set(names) - failed
        await store.append(record("afterwards"))
        assert "afterwards" in await _usage_ids(store)

    async def test_a_caller_that_gave_up_is_not_missed(self, file: Path, store: SqliteStore) -> None:
        with locked(file):
            given_up, waiting = (asyncio.ensure_future(reserve(store, name)) for name in ("r1", "r2"))
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.sleep(0)
        assert isinstance(await waiting, Granted)
        assert given_up.cancelled()
        await store.ping()

    async def test_an_event_loop_that_is_gone_is_not_missed(self, file: Path, store: SqliteStore) -> None:
        async def give_up() -> None:
            call = asyncio.ensure_future(reserve(store, "r1"))
            for _ in range(3):  # until it waits for the lock
                await asyncio.sleep(0)
            call.cancel()

        with locked(file):
            await asyncio.to_thread(asyncio.run, give_up())
        await store._writer.run(lambda db: None)  # behind it
        assert await is_known(store, "r1")

    async def test_a_defect_reaches_its_caller_and_nobody_else(self, store: SqliteStore) -> None:
        unstorable = reserve(store, "r1", 2**63, cap=2**63)
        results = await asyncio.gather(unstorable, reserve(store, "r2"), return_exceptions=True)
        assert isinstance(results[0], OverflowError)
        assert isinstance(results[1], Granted)
        assert not await is_known(store, "r1")


class TestOnLoop:
    async def test_calls_of_one_tick_share_a_commit(self, store: SqliteStore) -> None:
        statements: list[str] = []
        await store._loop.read(lambda db: db.set_trace_callback(statements.append))
        await asyncio.gather(*(reserve(store, f"r{number}") for number in range(100)))
        assert statements.count("COMMIT") == 1 + 1  # of the read too

    async def test_what_would_wait_is_left_to_the_thread_and_not_overtaken(
        self, file: Path, store: SqliteStore
    ) -> None:
        statements: list[str] = []
        await store._loop.read(lambda db: db.set_trace_callback(statements.append))
        with locked(file):
            first = asyncio.ensure_future(reserve(store, "r1", cap=1))
            for _ in range(3):  # until it is found that the file is locked
                await asyncio.sleep(0)
        second = asyncio.ensure_future(reserve(store, "r2", cap=1))
        assert isinstance(await first, Granted)
        assert not any("INSERT" in statement for statement in statements)
        assert isinstance(await second, Refused)

    async def test_calls_that_always_overlap_leave_the_thread_after_one_batch(
        self, file: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken_over: list[int] = []
        take_over = store._writer.take_over

        def note(calls: Sequence[Call]) -> None:
            taken_over.append(len(calls))
            take_over(calls)

        monkeypatch.setattr(store._writer, "take_over", note)

        async def call_again_and_again(name: str) -> None:
            for number in range(20):
                await reserve(store, f"{name}.{number}")

        with locked(file):
            callers = [asyncio.ensure_future(call_again_and_again(f"a{number}")) for number in range(2)]
            for _ in range(3):  # until it is found that the file is locked
                await asyncio.sleep(0)
            callers += [asyncio.ensure_future(call_again_and_again(f"b{number}")) for number in range(2)]
            await asyncio.sleep(0)
        await asyncio.gather(*callers)
        assert taken_over == [2]
        assert await balance(store) == Balance(0, 80)

    async def test_no_commit_of_the_loop_waits_for_the_disk(self, file: Path) -> None:
        calls = file.with_name("calls")
        process = await start_child("sync", file, under=_strace(calls))
        ((loop_thread, rows),) = [words async for words in lines_of(process)]
        assert await process.wait() == 0
        threads = [line.split()[0] for line in calls.read_text().splitlines() if "sync(" in line]
        assert int(rows) > child.SYNC_ROWS_MAX * 2  # the loop made commits, in between checkpoints
        assert len(threads) > 3 * 2  # and there were such
        assert loop_thread not in threads

    async def test_the_loop_makes_no_commit_until_a_checkpoint_has_begun_the_log(self, store: SqliteStore) -> None:
        statements: list[str] = []
        await store._loop.read(lambda db: db.set_trace_callback(statements.append))
        statements.clear()
        store._checkpoints._latest = under_way = Future[None]()
        assert isinstance(await reserve(store, "r1"), Granted)
        assert statements == []
        under_way.set_result(None)
        assert isinstance(await reserve(store, "r2"), Granted)
        assert statements[-1] == "COMMIT"

    async def test_a_read_that_fails_is_left_to_the_thread(self, store: SqliteStore) -> None:
        await reserve(store, "r1")
        store._loop._connection.set_progress_handler(lambda: 1, 1)  # it gives up at the first operation
        assert await is_known(store, "r1")

    async def test_a_slow_disk_holds_up_the_loop_once(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(on_loop, "SLOW_SECONDS", -1.0)  # every disk is slow
        monkeypatch.setattr(on_loop, "SLOW_FOR_SECONDS", 0.2)
        await reserve(store, "r1")
        assert "the store's disk is slow" in caplog.text
        statements: list[str] = []
        store._loop._connection.set_trace_callback(statements.append)
        await reserve(store, "r2")
        assert await is_known(store, "r2")
        assert statements == []
        await asyncio.sleep(0.2)
        assert await is_known(store, "r2")
        assert statements != []

    async def test_what_waits_for_the_end_of_the_tick_is_finished_at_the_close(self, file: Path) -> None:
        store = SqliteStore(file)
        call = asyncio.ensure_future(reserve(store, "r1"))
        await asyncio.sleep(0)
        store._loop.close()
        await store.close()
        assert isinstance(await call, Granted)
        with pytest.raises(StoreUnavailable):
            await store.ping()

    async def test_the_log_is_moved_into_the_file_and_does_not_grow_for_ever(
        self, file: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checkpoints, "ROWS_MAX", 20)
        monkeypatch.setattr(checkpoints, "LOG_PAGES_MAX", 100)
        for number in range(1_000):
            await reserve(store, f"r{number}")
            await asyncio.sleep(0.0001)
        assert _bytes(file) > 100 * 4096
        assert _log_bytes(file) < 400 * 4096

    @pytest.mark.parametrize(
        ("changed", "held_up"),
        [
            ({}, True),
            ({"LOG_PAGES_MAX": 10**6}, False),
            ({"QUICK_SECONDS": -1.0}, False),  # every disk is slow
            ({"LEFT_PAGES_MAX": -1}, False),  # however little is left
            ({"QUICK_SECONDS": -1.0, "LOG_PAGES_BOUND": 0}, True),
        ],
        ids=str,
    )
    async def test_writers_are_held_up_for_a_long_log_where_it_takes_a_moment(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, *, changed: dict[str, float], held_up: bool
    ) -> None:
        for name, value in ({"ROWS_MAX": 1, "LOG_PAGES_MAX": 0, "QUICK_SECONDS": 60.0} | changed).items():
            monkeypatch.setattr(checkpoints, name, value)
        statements: list[str] = []
        store._checkpoints._connection.set_trace_callback(statements.append)
        await reserve(store, "r1")
        latest = store._checkpoints._latest
        assert latest is not None
        await asyncio.wrap_future(latest)
        assert statements[0] == "PRAGMA wal_checkpoint(PASSIVE)"
        assert ("PRAGMA wal_checkpoint(RESTART)" in statements) is held_up
        slow = changed.get("QUICK_SECONDS") == -1.0
        assert (statements[-1] == "COMMIT") is not slow  # which begins the log anew

    async def test_on_a_slow_disk_the_writer_begins_the_log(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checkpoints, "QUICK_SECONDS", -1.0)  # every disk is slow
        statements: list[str] = []
        await store._loop.read(lambda db: db.set_trace_callback(statements.append))
        store._checkpoints.note(checkpoints.ROWS_MAX)
        latest = store._checkpoints._latest
        assert latest is not None
        await asyncio.wrap_future(latest)
        statements.clear()
        await store.ping()  # writes nothing
        await reserve(store, "r1")
        assert statements == []
        await reserve(store, "r2")
        assert statements[-1] == "COMMIT"


def _make_fail(file: Path, kind: str) -> None:
    """From now on SQLite itself fails when the usage record "poison" is stored."""
    with closing(sqlite3.connect(file)) as other:
        other.execute(
            "CREATE TRIGGER fail BEFORE INSERT ON usage WHEN NEW.request_id = 'poison' "
            f"BEGIN SELECT RAISE({kind}, 'made to fail'); END"
        )


async def _usage_ids(store: Store) -> list[str]:
    return [each.request_id for each in (await store.usage(UsageFilter(), limit=1_000)).records]


class TestDiskFull:
    async def test_a_commit_that_cannot_be_written_is_not_acknowledged(self, file: Path) -> None:
        """No file of the process may grow for a while: SQLite's log cannot be written."""
        process = await start_child("full", file)
        said = [words async for words in lines_of(process)]
        assert await process.wait() == 0
        failed = [words[1] for words in said if words[0] == "failed"]
        assert {words[2] for words in said if words[0] == "failed"} == {"StoreError"}
        assert len(failed) > 0
        acknowledged = [words[1] for words in said if words[0] in ("reserved", "recovered")]
        assert sorted(acknowledged) == sorted(f"r{number}" for number in range(child.FULL_RESERVES))
        async with opened(file) as store:
            assert await balance(store) == Balance(0, child.FULL_RESERVES)

    async def test_a_full_database_fails_calls_and_recovers(self, store: SqliteStore) -> None:
        names = [f"r{number}" for number in range(300)]
        await store._loop.write(lambda db: db.execute("PRAGMA max_page_count = 1"))  # as many as there are
        answers = await asyncio.gather(*(reserve(store, name) for name in names), return_exceptions=True)
        granted = [name for name, answer in zip(names, answers, strict=True) if isinstance(answer, Granted)]
        failed = [name for name, answer in zip(names, answers, strict=True) if isinstance(answer, StoreError)]
        assert len(granted) + len(failed) == 300
        assert failed
        assert await balance(store) == Balance(0, len(granted))
        await store._loop.write(lambda db: db.execute("PRAGMA max_page_count = 1000000"))
        for name in failed:
            assert isinstance(await reserve(store, name), Granted)
        assert await balance(store) == Balance(0, 300)


class TestFile:
    def _refusal(self, file: Path) -> str:
        with pytest.raises(ConfigError) as raised:
            SqliteStore(file)
        assert str(file) in str(raised.value)
        return str(raised.value)

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        message = self._refusal(tmp_path / "missing" / "store.db")
        assert f"the folder {tmp_path / 'missing'} does not exist" in message

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        assert "unable to open" in self._refusal(tmp_path)

    def test_a_file_of_another_kind(self, file: Path) -> None:
        file.write_bytes(b"this is a text of more than a hundred bytes" * 100)
        assert "file is not a database" in self._refusal(file)

    def test_a_damaged_file(self, file: Path) -> None:
        asyncio.run(_close([SqliteStore(file)]))
        content = bytearray(file.read_bytes())
        content[100:4096] = b"\xff" * 3996  # the table of tables
        file.write_bytes(content)
        assert "malformed" in self._refusal(file)

    def test_a_newer_schema(self, file: Path) -> None:
        asyncio.run(_close([SqliteStore(file)]))
        with closing(sqlite3.connect(file)) as other:
            other.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 6}")
        message = self._refusal(file)
        assert f"version {SCHEMA_VERSION + 6}" in message
        assert f"up to {SCHEMA_VERSION}" in message

    async def test_a_file_of_the_first_schema_is_brought_up_to_date_without_loss(self, file: Path) -> None:
        with closing(sqlite3.connect(file)) as other:
            other.executescript((REPOSITORY / "tests/stores/schema_version_1.sql").read_text())
        async with opened(file) as store:
            on = Account("budget", "project=acme", 1, 2_000_000_000_000, 2_100_000_000_000)
            assert (await store.accounts(page=9)).rows == ((on, Balance(40, 30)),)
            assert (await store.get("settled")).state is State.SETTLED
            assert [each.request_id for each in (await store.usage(UsageFilter(), limit=9)).records] == ["settled"]
            assert await settle(store, "open", 25) is State.RESERVED
            assert await store.balances([(on, None)]) == (Balance(65, 0),)
            assert await store.set_state([StateItem("block", "a", "1")], now_ms=NOW_MS) == 1
        with closing(sqlite3.connect(file)) as other:
            assert other.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        async with opened(file) as store:
            assert (await store.state()).revision == 1

    @pytest.mark.parametrize("statement", ["CREATE TABLE notes (text)", "PRAGMA user_version = 1"])
    def test_the_database_of_another_program_is_left_alone(self, file: Path, statement: str) -> None:
        with closing(sqlite3.connect(file)) as other:
            other.execute(statement)
        before = file.read_bytes()
        assert "another program" in self._refusal(file)
        assert file.read_bytes() == before

    def test_only_the_file_is_left_after_closing(self, file: Path) -> None:
        asyncio.run(_close([SqliteStore(file)]))
        assert [each.name for each in file.parent.iterdir()] == [file.name]


STEPS = (ledger, usage_records, runtime)


def _statements() -> list[str]:
    """Every statement of the store that looks for something."""
    texts = [text for module in STEPS for text in vars(module).values() if isinstance(text, str)]
    searching = [text for text in texts if re.match(r"\s*(SELECT|UPDATE|DELETE)\b", text)]
    listing = usage_records._SELECT_USAGE + usage_records._WITH_ATTRIBUTE + usage_records._NEWEST_FIRST
    return [*searching, listing]


@pytest.mark.parametrize("statement", _statements(), ids=lambda statement: " ".join(statement.split())[:40])
async def test_every_search_has_its_index(store: SqliteStore, statement: str) -> None:
    """No statement reads a whole table, or sorts, however many rows there are."""
    values = [1] * statement.count("?")
    plan = await store._writer.run(lambda db: db.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall())
    for *_, detail in plan:
        assert "TEMP B-TREE" not in detail
        assert "SCAN" not in detail or "INDEX reservations_to_expire" in detail


async def test_the_statements_are_found() -> None:
    assert len(_statements()) >= 20
