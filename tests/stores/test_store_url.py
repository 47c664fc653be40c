from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from policyd.core.errors import ConfigError
from policyd.stores.memory import MemoryStore
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
    ],
)
def test_a_url_that_is_wrong(url: str, says: Callable[[str], bool]) -> None:
    with pytest.raises(ConfigError) as raised:
        open_store(url)
    assert says(str(raised.value)), str(raised.value)
    assert "secret" not in str(raised.value)
