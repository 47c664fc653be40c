"""The policy in force, and how it changes while policyd runs.

A policy is replaced as a whole, by one assignment: an exchange that began with the old one keeps it to its end. A file
with mistakes is reported and changes nothing.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from policyd.config.policy_file import load_policy
from policyd.core.errors import ConfigError
from policyd.core.policy import Policy, default_policy


class _Version(NamedTuple):
    """What tells two versions of a file apart without reading them.

    Of the file that the path leads to: Kubernetes updates a mounted ConfigMap by swapping a symbolic link on the way.
    """

    device: int
    inode: int
    bytes: int
    modified_ns: int


class PolicySource:
    """Holds the policy of the file at `path`, or the default policy where there is no file.

    `on_change` is called with each new policy, `on_problem` with the error of each reload that failed. Raises
    `ConfigError` if the file is wrong to begin with.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        on_change: Callable[[Policy], None],
        on_problem: Callable[[ConfigError], None],
    ) -> None:
        self._path = path
        self._on_change = on_change
        self._on_problem = on_problem
        self._version = _version(path)
        self._current = default_policy() if path is None else load_policy(path)

    @property
    def current(self) -> Policy:
        """The policy in force. Whoever decides something takes it once and keeps to it."""
        return self._current

    def reload(self) -> bool:
        """Reads the file again; returns whether another policy is in force now.

        A file that cannot be read or has mistakes goes to `on_problem`, and the old policy stays. Blocks while it
        parses: milliseconds for a file of usual size, seconds for the largest.
        """
        if self._path is None:
            return False
        # Looked at before it is read: a change in between is then seen by the next poll.
        self._version = _version(self._path)
        return self._put_in_force(_load(self._path))

    async def poll(self) -> bool:
        """Reloads the file, off the event loop, if it is another version than the one last read."""
        if self._path is None or (version := _version(self._path)) == self._version:
            return False
        self._version = version
        return self._put_in_force(await asyncio.to_thread(_load, self._path))

    async def watch(self, *, interval_seconds: float) -> None:
        """Polls for ever."""
        while True:
            await asyncio.sleep(interval_seconds)
            await self.poll()

    def _put_in_force(self, loaded: Policy | ConfigError) -> bool:
        if isinstance(loaded, ConfigError):
            self._on_problem(loaded)
            return False
        if loaded.revision == self._current.revision:
            return False
        self._current = loaded
        self._on_change(loaded)
        return True


def _load(path: Path) -> Policy | ConfigError:
    try:
        return load_policy(path)
    except ConfigError as error:
        return error


def _version(path: Path | None) -> _Version | None:
    """`None` where there is no file."""
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return _Version(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
