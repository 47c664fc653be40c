"""Files that nobody but their owner may read or change."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from policyd.core.errors import ConfigError

MODE = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_private(file: Path, *, bytes_max: int) -> bytes:
    """What is in the file. Raises `ConfigError` if it cannot be read, is too large or is not private."""
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{file}: expected a plain file")
            if status.st_mode & _OTHERS:
                mode = stat.S_IMODE(status.st_mode)
                raise ConfigError(f"{file}: others can read or change it (mode {mode:04o}), expected mode {MODE:04o}")
            content = opened.read(bytes_max + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    if len(content) > bytes_max:
        raise ConfigError(f"{file}: it is larger than {bytes_max} bytes")
    return content


def replace_private(file: Path, content: bytes) -> None:
    """Puts a file with this content in its place, in one step that a crash leaves done or not done."""
    # What a symbolic link leads to is replaced, and not the link.
    file = file.resolve()
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
        try:
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            temporary.replace(file)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(file.parent)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error


@contextmanager
def changing(file: Path) -> Iterator[None]:
    """Nobody else who asks the same changes the file until the block ends."""
    try:
        folder = os.open(file.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
