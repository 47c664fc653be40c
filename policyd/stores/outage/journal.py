"""The journal: one file of each process, in a folder that processes share.

    file that is locked     of a process that runs
    file that is not        left by one that has died: whoever locks it drains it
    no file                 nothing waits

A file is removed once all of it is in the store; the next event begins another.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from policyd.core.errors import ConfigError, Unjournalled
from policyd.stores.outage.events import Event, Leased, Line, Opened, decode, encode
from policyd.stores.outage.frames import framed, frames

SUFFIX = ".journal"
UNAPPLIED = "unapplied"
"""The file of what could not be charged."""

READ_BYTES_MAX = 4 * 2**20
"""How much of a file is read at once; no line comes near it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Written:
    """One line of a file. `line` is `None` where it is damaged or not known."""

    line: Line | None
    raw: bytes
    end: int
    """Where in the file the next one begins."""


class JournalFile:
    """One file, locked by this process."""

    def __init__(self, path: Path, descriptor: int, *, size: int) -> None:
        self.path = path
        self.size = size
        self.drained = 0
        """How far it is in the store."""
        self.has_requests = False
        """Whether anything was appended that is not of a lease alone."""
        self.oldest_ms: int | None = None
        """Of what waits in it, as far as that is known."""
        self._descriptor = descriptor
        self._is_flushed = True

    @classmethod
    def create(cls, folder: Path, store: str) -> JournalFile:
        """A new file of this process. Raises `OSError`."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{uuid.uuid4().hex}{SUFFIX}"
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        file = cls(path, descriptor, size=0)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.append(Opened(store))
        except OSError:
            file.remove()
            raise
        return file

    @classmethod
    def adopt(cls, path: Path) -> JournalFile | None:
        """The file of a process that has died; `None` if that lives, or another one was faster."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(descriptor)
        except OSError:
            os.close(descriptor)
            return None
        if not status.st_nlink:  # drained and removed meanwhile
            os.close(descriptor)
            return None
        return cls(path, descriptor, size=status.st_size)

    @property
    def is_drained(self) -> bool:
        return self.drained == self.size

    def append(self, line: Line) -> None:
        """Raises `OSError`; nothing of the line is left then."""
        data = framed(encode(line))
        written = 0
        try:
            while written < len(data):  # a disk that is almost full takes a part of it
                written += os.write(self._descriptor, data[written:])
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(data)
        self._is_flushed = False
        self.has_requests = self.has_requests or not isinstance(line, Opened | Leased)
        if self.oldest_ms is None and not isinstance(line, Opened):
            self.oldest_ms = line.now_ms

    def waiting(self) -> Iterator[Written]:
        """What is not drained yet: a part of it, in order. Nothing: all that is left is a line that was cut short."""
        start = self.drained
        for frame in frames(os.pread(self._descriptor, READ_BYTES_MAX, start)):
            line = decode(frame.payload) if frame.payload is not None else None
            yield Written(line, frame.raw, start + frame.end)

    def drained_to(self, written: Written) -> None:
        """All up to `written` is in the store."""
        self.drained = written.end
        if self.is_drained:
            self.oldest_ms = None
        elif written.line is not None and not isinstance(written.line, Opened):
            self.oldest_ms = written.line.now_ms

    def flush(self) -> Callable[[], None] | None:
        """What brings all that was appended to the disk, from whichever thread it is called; `None`: all of it is."""
        if self._is_flushed:
            return None
        self._is_flushed = True
        descriptor = os.dup(self._descriptor)  # the file may be removed meanwhile

        def flush() -> None:
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)

        return flush

    def close(self) -> None:
        """Lets another process have it."""
        os.close(self._descriptor)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


class Journal:
    """The files of this process. Belongs to one event loop."""

    def __init__(self, folder: Path, *, store: str, bytes_max: int) -> None:
        """`store` names the store that it is for, without a password. Nothing is written yet."""
        self._folder = folder
        self._store = store
        self._bytes_max = bytes_max
        self._own: JournalFile | None = None
        self._adopted: list[JournalFile] = []
        self._others: set[Path] = set()
        """Files of other stores."""
        self.journalled = 0
        """Events that were written."""

    @property
    def files(self) -> Sequence[JournalFile]:
        """Those with something in them, the older ones first."""
        return (*self._adopted, self._own) if self._own is not None else self._adopted

    @property
    def waiting_bytes(self) -> int:
        return sum(file.size - file.drained for file in self.files)

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest event that waits happened."""
        return min((file.oldest_ms for file in self.files if file.oldest_ms is not None), default=None)

    def check(self) -> None:
        """Raises `ConfigError` if nothing can be written in the folder."""
        try:
            JournalFile.create(self._folder, self._store).remove()
        except OSError as error:
            raise ConfigError(f"--journal: nothing can be written in {self._folder}: {error.strerror}") from error

    def append(self, event: Event, *, past_maximum: bool = False) -> None:
        """Raises `Unjournalled` where it cannot be written, or would be `past_maximum`."""
        try:
            if self._own is None:
                self._own = JournalFile.create(self._folder, self._store)
            if self._own.size >= self._bytes_max and not past_maximum:
                raise Unjournalled("the store is away, and the journal is full")
            self._own.append(event)
        except OSError as error:
            raise Unjournalled(f"the store is away, and the journal cannot be written: {error.strerror}") from error
        self.journalled += 1

    def adopt(self) -> None:
        """Takes over the files of processes that have died."""
        held = {file.path for file in self.files}
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            if path in held or path in self._others or (file := JournalFile.adopt(path)) is None:
                continue
            first = next(file.waiting(), None)
            if first is not None and first.line != Opened(self._store):
                log.error("%s is the journal of another store, or damaged at its beginning; it is left alone", path)
                self._others.add(path)
                file.close()
                continue
            log.warning("%s was left by a process that has ended; what is in it is charged", path)
            self._adopted.append(file)

    def is_own(self, file: JournalFile) -> bool:
        """Whether it is the one that this process writes."""
        return file is self._own

    def begin_anew(self, events: Iterable[Event]) -> None:
        """Writes on in another file, which begins with `events`, and removes the one before."""
        before, self._own = self._own, None
        for event in events:
            self.append(event, past_maximum=True)
        if before is not None:
            before.remove()

    def done(self, file: JournalFile) -> None:
        """Removes a file that is in the store."""
        if file is self._own:
            self._own = None
        else:
            self._adopted.remove(file)
        file.remove()

    def keep_unapplied(self, raw: bytes) -> None:
        """Puts aside a line that cannot be charged. Raises `OSError`."""
        with (self._folder / UNAPPLIED).open("ab") as aside:
            aside.write(raw if raw.endswith(b"\n") else raw + b"\n")

    async def flush(self) -> None:
        """Brings what was written to the disk."""
        for file in self.files:
            if (flush := file.flush()) is not None:
                try:
                    await asyncio.to_thread(flush)
                except OSError:
                    log.exception("the journal cannot be brought to the disk")

    def close(self) -> None:
        """What waits is for whoever comes next."""
        for file in self.files:
            file.close()
        self._own = None
        self._adopted.clear()
