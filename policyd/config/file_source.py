"""The content of a file that is in force, and how it changes while policyd runs.

Content is replaced as a whole, by one assignment: an exchange that began with the old one keeps it to its end. A file
with mistakes is reported and changes nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from policyd.core.errors import ConfigError


class Revised(Protocol):
    @property
    def revision(self) -> str:
        """Identifies what the content says."""
        ...


POLL_SECONDS: Final = 1.0
"""How often it is looked whether a file has changed."""

Content = TypeVar("Content", bound=Revised)


class _Version(NamedTuple):
    """What tells two versions of a file apart without reading them.

    Of the file that the path leads to: Kubernetes updates a mounted ConfigMap by swapping a symbolic link on the way.
    """

    device: int
    inode: int
    bytes: int
    modified_ns: int


class FileSource(Generic[Content]):
    """Holds what `load` makes of the file at `path`, or of `None` where there is no file and nothing ever changes.

    Both `load` and `check` raise `ConfigError`: the one for content that is wrong by itself, the other for new content
    that does not go with all else that is in force. `on_change` is called with each new content, `on_problem` with the
    error of each reload that failed. Raises `ConfigError` if the file is wrong to begin with.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        load: Callable[[Path | None], Content],
        on_change: Callable[[Content], None],
        on_problem: Callable[[ConfigError], None],
        check: Callable[[Content], None] = lambda _: None,
        beside: Sequence[Path] = (),
    ) -> None:
        """`beside`: other files that `load` reads as well, and that may change without the one at `path`."""
        self._path = path
        self._files = () if path is None else (path, *beside)
        self._load = load
        self._check = check
        self._on_change = on_change
        self._on_problem = on_problem
        self._versions = self._versions_now()
        self._current = load(path)

    @property
    def current(self) -> Content:
        """What is in force. Whoever decides something takes it once and keeps to it."""
        return self._current

    def reload(self) -> bool:
        """Reads the file again; returns whether other content is in force now.

        A file that cannot be read or has mistakes goes to `on_problem`, and the old content stays. Blocks while it
        loads.
        """
        if self._path is None:
            return False
        # Looked at before it is read: a change in between is then seen by the next poll.
        self._versions = self._versions_now()
        return self._put_in_force(self._attempt())

    async def poll(self) -> bool:
        """Reloads the file, off the event loop, if it is another version than the one last read."""
        if (versions := self._versions_now()) == self._versions:
            return False
        self._versions = versions
        return self._put_in_force(await asyncio.to_thread(self._attempt))

    async def watch(self, *, interval_seconds: float = POLL_SECONDS) -> None:
        """Polls for ever."""
        while True:
            await asyncio.sleep(interval_seconds)
            await self.poll()

    def _versions_now(self) -> list[_Version | None]:
        return [_version(file) for file in self._files]

    def _attempt(self) -> Content | ConfigError:
        try:
            return self._load(self._path)
        except ConfigError as error:
            return error

    def _put_in_force(self, loaded: Content | ConfigError) -> bool:
        if isinstance(loaded, ConfigError):
            self._on_problem(loaded)
            return False
        if loaded.revision == self._current.revision:
            return False
        try:
            self._check(loaded)
        except ConfigError as error:
            self._on_problem(error)
            return False
        self._current = loaded
        self._on_change(loaded)
        return True


def _version(path: Path) -> _Version | None:
    """`None` where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _Version(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
