"""The policy in force: when it changes, when it stays, and how a changed file is noticed."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from policyd.config import PolicySource, parse_policy
from policyd.core.errors import ConfigError
from policyd.core.policy import Policy, default_policy

LOOSE = "version: 1\nlimits: []\nstrict: false\n"
STRICT = "version: 1\nlimits: []\nstrict: true \n"  # as long as LOOSE
BAD = "version: 1\nlimits: []\nstrict: perhaps\n"


class Source:
    """A policy source with a record of what it told."""

    def __init__(self, path: Path | None) -> None:
        self.changes: list[Policy] = []
        self.problems: list[str] = []
        self.told = asyncio.Event()
        self.source = PolicySource(path, on_change=self._on_change, on_problem=self._on_problem)

    def _on_change(self, policy: Policy) -> None:
        assert self.source.current is policy
        self.changes.append(policy)
        self.told.set()

    def _on_problem(self, error: ConfigError) -> None:
        self.problems.append(str(error))
        self.told.set()

    @property
    def strict(self) -> bool:
        return self.source.current.strict


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "policyd.yaml"
    path.write_text(LOOSE)
    return path


def test_a_file_that_is_wrong_to_begin_with(path: Path) -> None:
    path.write_text(BAD)
    with pytest.raises(ConfigError, match="strict: found"):
        Source(path)


def test_without_a_file_the_default_policy_applies() -> None:
    source = Source(None)
    assert source.source.current == default_policy()
    assert not source.source.reload()
    assert not source.changes


def test_reloading_a_changed_file(path: Path) -> None:
    source = Source(path)
    path.write_text(STRICT)
    assert source.source.reload()
    assert source.strict
    assert source.changes == [parse_policy(STRICT, source="")]


def test_reloading_a_file_that_says_the_same(path: Path) -> None:
    source = Source(path)
    before = source.source.current
    path.write_text("# The same.\n" + LOOSE)
    assert not source.source.reload()
    assert source.source.current is before
    assert not source.changes


def test_a_bad_file_leaves_the_old_policy_in_force(path: Path) -> None:
    source = Source(path)
    before = source.source.current
    path.write_text(BAD)
    assert not source.source.reload()
    assert source.source.current is before
    assert source.problems == [f'{path}:3: strict: found "perhaps", expected true or false']


def test_a_deleted_file_leaves_the_old_policy_in_force(path: Path) -> None:
    source = Source(path)
    path.unlink()
    assert not source.source.reload()
    assert source.problems == [f"{path}: cannot be read: No such file or directory"]


def write(path: Path, content: str) -> None:
    """Replaces the file as a whole, as editors save."""
    new = path.with_suffix(".new")
    new.write_text(content)
    new.rename(path)


def change_inode_alone(path: Path) -> None:
    before = path.stat()
    write(path, STRICT)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_size_alone(path: Path) -> None:
    before = path.stat()
    path.write_text(STRICT + "# Longer.\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_time_alone(path: Path) -> None:
    before = path.stat()
    path.write_text(STRICT)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


@pytest.mark.parametrize("change", [change_inode_alone, change_size_alone, change_time_alone])
async def test_polling_notices_a_change(path: Path, change: Callable[[Path], None]) -> None:
    source = Source(path)
    assert not await source.source.poll()
    change(path)
    assert await source.source.poll()
    assert source.strict
    assert not await source.source.poll()


def mount_config_map(mount: Path) -> Path:
    """As Kubernetes does: policyd.yaml -> ..data/policyd.yaml, ..data -> ..1, and ..2 is what comes next."""
    for name, content in (("..1", LOOSE), ("..2", STRICT)):
        (mount / name).mkdir()
        (mount / name / "policyd.yaml").write_text(content)
        os.utime(mount / name / "policyd.yaml", ns=(0, 0))
    (mount / "..data").symlink_to("..1")
    (mount / "policyd.yaml").symlink_to("..data/policyd.yaml")
    return mount / "policyd.yaml"


def update_config_map(mount: Path) -> None:
    (mount / "..data_tmp").symlink_to("..2")
    (mount / "..data_tmp").rename(mount / "..data")


async def test_polling_notices_a_swapped_config_map(tmp_path: Path) -> None:
    source = Source(mount_config_map(tmp_path))
    update_config_map(tmp_path)
    assert await source.source.poll()
    assert source.strict


async def test_polling_reports_a_bad_file_once(path: Path) -> None:
    source = Source(path)
    write(path, BAD)
    for _ in range(3):
        assert not await source.source.poll()
    assert len(source.problems) == 1
    remove(path)
    for _ in range(3):
        assert not await source.source.poll()
    assert len(source.problems) == 2
    write(path, STRICT)
    assert await source.source.poll()


def remove(path: Path) -> None:
    path.unlink()


async def test_polling_leaves_alone_what_was_reloaded(path: Path) -> None:
    source = Source(path)
    write(path, BAD)
    source.source.reload()
    assert not await source.source.poll()
    assert len(source.problems) == 1


async def test_polling_without_a_file() -> None:
    assert not await Source(None).source.poll()


async def test_watching(path: Path) -> None:
    source = Source(path)
    watching = asyncio.create_task(source.source.watch(interval_seconds=0.001))
    async with asyncio.timeout(10):
        for content, strict in ((STRICT, True), (BAD, True), (LOOSE, False)):
            write(path, content)
            await source.told.wait()
            source.told.clear()
            assert source.strict is strict
    assert len(source.changes) == 2
    assert len(source.problems) == 1
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


def refuse(policy: Policy) -> None:
    raise ConfigError("it does not go with the rest")


async def test_a_policy_that_does_not_go_with_the_rest_changes_nothing(path: Path) -> None:
    problems: list[str] = []
    changes: list[Policy] = []
    source = PolicySource(
        path, on_change=changes.append, on_problem=lambda error: problems.append(str(error)), check=refuse
    )
    before = source.current
    write(path, LOOSE + "# The same.\n")
    assert not await source.poll()
    assert not problems, "what is in force already is not checked again"
    write(path, STRICT)
    assert not await source.poll()
    assert not source.reload()
    assert source.current is before
    assert not changes
    assert problems == ["it does not go with the rest"] * 2
