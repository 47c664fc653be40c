from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from policyd.core.errors import ConfigError
from policyd.stores.memory import MemoryStore
from policyd.stores.redis.options import Address, Arrangement, RedisOptions
from policyd.stores.sqlite.store import SqliteStore
from policyd.stores.url import open_store


async def test_memory() -> None:
    assert isinstance(open_store("memory://"), MemoryStore)


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///{folder}/x.db", "x.db"),
        ("sqlite:///{folder}/x.db?synchronous=normal", "x.db"),
        ("sqlite:///{folder}/x.db?synchronous=full", "x.db"),
        ("sqlite:///{folder}/a%20file%3F.db", "a file?.db"),
    ],
)
async def test_sqlite_with_an_absolute_path(tmp_path: Path, url: str, file: str) -> None:
    store = open_store(url.format(folder=tmp_path))
    assert isinstance(store, SqliteStore)
    assert (tmp_path / file).exists()
    await store.close()


async def test_sqlite_with_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    store = open_store("sqlite:///folder/x.db")
    assert (tmp_path / "folder" / "x.db").exists()
    await store.close()


async def test_synchronous_reaches_the_file(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/x.db?synchronous=full")
    assert isinstance(store, SqliteStore)
    assert await store._writer.run(lambda db: db.execute("PRAGMA synchronous").fetchone()) == (2,)
    await store.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host", RedisOptions(arrangement=Arrangement.STANDALONE, addresses=(Address("host", 6379),))),
        (
            "redis://ann:p%40ss@[::1]:7000/3?timeout=2s&connect_timeout=50ms&prefix=x.",
            RedisOptions(
                arrangement=Arrangement.STANDALONE,
                addresses=(Address("::1", 7000),),
                database=3,
                user="ann",
                password="p@ss",
                timeout_seconds=2,
                connect_timeout_seconds=0.05,
                prefix="x.",
            ),
        ),
        (
            "redis+sentinel://:pass@one,two:7000/the%20master/2?sentinel_password=word",
            RedisOptions(
                arrangement=Arrangement.SENTINEL,
                addresses=(Address("one", 26379), Address("two", 7000)),
                master="the master",
                database=2,
                password="pass",
                sentinel_password="word",
            ),
        ),
        (
            "redis+cluster://one:7000,two:7001/0?partition=org",
            RedisOptions(
                arrangement=Arrangement.CLUSTER,
                addresses=(Address("one", 7000), Address("two", 7001)),
                partition="org",
            ),
        ),
    ],
)
def test_redis_options(url: str, expected: RedisOptions) -> None:
    assert RedisOptions.from_url(urlsplit(url)) == expected


@pytest.mark.parametrize("scheme", ["rediss", "rediss+sentinel", "rediss+cluster"])
def test_redis_with_tls(scheme: str) -> None:
    options = RedisOptions.from_url(
        urlsplit(f"{scheme}://host/master/0" if "sentinel" in scheme else f"{scheme}://host")
    )
    assert options.tls is not None
    assert options.tls.check_hostname


def test_redis_passwords_are_not_shown() -> None:
    options = RedisOptions.from_url(urlsplit("redis+sentinel://ann:secret@host/master?sentinel_password=secret"))
    assert "secret" not in repr(options)


def _says(*parts: str) -> Callable[[str], bool]:
    return lambda message: all(part in message for part in parts)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgres://ann:secret@db/x", _says("'postgres'", "memory://", "sqlite:///")),
        ("/var/lib/x.db", _says("''", "memory://", "sqlite:///")),
        ("", _says("memory://", "sqlite:///")),
        ("memory://x", _says("memory://")),
        ("memory:///x", _says("memory://")),
        ("sqlite://", _says("names no file")),
        ("sqlite:///", _says("names no file")),
        ("sqlite:///:memory:", _says("names no file", "memory://")),
        ("sqlite://var/x.db", _says("'var'", "three slashes")),
        ("sqlite:///x.db?mode=ro", _says("'mode'", "synchronous")),
        ("sqlite:///x.db?synchronous=off", _says("synchronous=off", "normal, full")),
        ("sqlite:///x.db?synchronous", _says("normal, full")),
        ("sqlite:////no/such/folder/x.db", _says("/no/such/folder", "does not exist")),
        ("redis://ann:secret@host:port/0", _says("wrong one", "redis://host:port/db")),
        ("redis://ann:secret@host:0/0", _says("wrong one")),
        ("redis://ann:secret@/0", _says("names no host")),
        ("redis://ann:sec@ret@host:secret", _says("wrong one")),
        ("redis://ann:secret@one,two/0", _says("several servers", "redis+cluster")),
        ("redis://ann:secret@host/zero", _says("'zero'", "number")),
        ("redis+cluster://ann:secret@host/1", _says("'1'", "only 0")),
        ("redis+sentinel://ann:secret@host", _says("master")),
        ("redis+sentinel://ann:secret@host/master/x", _says("'x'")),
        ("redis://ann:secret@host?mode=fast", _says("'mode'", "timeout", "prefix")),
        ("redis://ann:secret@host?timeout=5", _says("timeout=5", "500ms")),
        ("redis://ann:secret@host?timeout=0s", _says("timeout=0s")),
        ("redis://ann:secret@host?prefix=a%20b", _says("prefix=a b")),
        ("redis://ann:secret@host?partition=Org", _says("partition=Org", "attribute")),
        ("redis://ann:secret@host?tls_ca=/x.pem", _says("tls_ca", "rediss")),
        ("rediss://ann:secret@host?tls_ca=/no/such.pem", _says("/no/such.pem")),
    ],
)
def test_a_url_that_is_wrong(url: str, says: Callable[[str], bool]) -> None:
    with pytest.raises(ConfigError) as raised:
        open_store(url)
    assert says(str(raised.value)), str(raised.value)
    assert "secret" not in str(raised.value)
