"""Writes the log without holding up what is logged."""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

LINES_WAITING_MAX = 100_000
CLOSE_SECONDS_MAX = 5.0
LINES_COLLECTED_SECONDS = 0.02
"""How long lines are collected after one was written: to wake the writer for each costs more than the line itself."""

log = logging.getLogger(__name__)


class LineWriter:
    """Writes lines from a thread of its own: a reader of the log that stalls must not stall decisions.

    `lines_waiting_max` lines can wait; what comes beyond is dropped and counted, and the count is logged.
    """

    def __init__(
        self,
        stream: BinaryIO = sys.stdout.buffer,
        *,
        lines_waiting_max: int = LINES_WAITING_MAX,
        close_seconds_max: float = CLOSE_SECONDS_MAX,
    ) -> None:
        self._stream = stream
        self._close_seconds_max = close_seconds_max
        self._lines_waiting_max = lines_waiting_max
        # Without a bound of its own, for which a lock of Python's would be taken with every line.
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._dropped = 0
        self._dropped_told = 0
        self._losing = False
        """Whether the latest lines could not be written; said once."""
        self._gone = False
        """Whether the reader has gone, so that nothing can be written any more."""
        self._thread = threading.Thread(target=self._run, name="policyd-log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        if self._gone:
            return
        if self._lines.qsize() < self._lines_waiting_max:
            self._lines.put(line)
        else:
            self._dropped += 1

    def close(self) -> None:
        """Writes what waits and stops; a reader that takes nothing for `close_seconds_max` is not waited for."""
        if not self._gone:
            self._lines.put(None)
        self._thread.join(self._close_seconds_max)

    def _run(self) -> None:
        for batch in iter(self._take, []):
            try:
                self._stream.write(b"".join(batch))
                self._stream.flush()
            except (BrokenPipeError, ValueError) as error:  # nobody reads any more, or the stream is closed
                self._gone = True
                log.error("exchanges are no longer logged, the log cannot be written: %s", error)  # noqa: TRY400 - a trace says no more
                return
            except OSError as error:  # a disk that is full may not stay so
                self._lose(batch, error)
            else:
                self._losing = False
            time.sleep(LINES_COLLECTED_SECONDS)

    def _lose(self, batch: list[bytes], error: OSError) -> None:
        if not self._losing:
            log.error("log lines are being lost, the log cannot be written: %s", error)
        self._losing = True
        self._dropped += len(batch)

    def _take(self) -> list[bytes]:
        """All lines that wait, at least one; nothing once the writer is closed."""
        batch = list(self._waiting())
        dropped = self._dropped - self._dropped_told
        if batch and dropped:
            batch.append(b'{"event":"log_lines_dropped","count":%d}\n' % dropped)
            self._dropped_told += dropped
        return batch

    def _waiting(self) -> Iterator[bytes]:
        line = self._lines.get()
        while line is not None:
            yield line + b"\n"
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                return
        # For the next call, which finds nothing else.
        self._lines.put(None)
