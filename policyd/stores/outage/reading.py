"""What waits in the journals of a folder, read from beside: nothing is locked or changed, whoever writes there.

The journal of a process that runs may hold what it is bringing into the store right now.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from policyd.core.record import Record
from policyd.stores.outage.events import Ended, Held, Leased, Line, Opened, decode
from policyd.stores.outage.frames import frames
from policyd.stores.outage.journal import READ_BYTES_MAX, SUFFIX, UNAPPLIED


@dataclass(slots=True)
class Waiting:
    """Of one project, or of all. Money in nano-USD."""

    charges: int = 0
    """Requests that have ended."""
    charged_nanos: int = 0
    open: int = 0
    """Requests that were let through without the store, of whose end nothing is known."""
    held_nanos: int = 0


@dataclass(slots=True)
class Journalled:
    """What the journals of a folder tell of."""

    stores: set[str] = field(default_factory=set)
    """The names of the stores that they are for, without passwords."""
    files: int = 0
    bytes: int = 0
    by_project: dict[str, Waiting] = field(default_factory=dict)
    """By the attribute `project`; empty where a request has none."""
    oldest_ms: int | None = None
    """When the oldest request that waits began."""
    leases: int = 0
    """Shares of budgets that stand in the store, and that whoever reads the journal would end."""
    damaged: int = 0
    unapplied: int = 0
    """Lines that were put aside, for they cannot be charged."""

    @property
    def total(self) -> Waiting:
        found = self.by_project.values()
        return Waiting(
            sum(each.charges for each in found),
            sum(each.charged_nanos for each in found),
            sum(each.open for each in found),
            sum(each.held_nanos for each in found),
        )

    def of(self, record: Record) -> Waiting:
        """Where a request that waits is counted."""
        if self.oldest_ms is None or record.at_ms < self.oldest_ms:
            self.oldest_ms = record.at_ms
        return self.by_project.setdefault(record.attributes.get("project", ""), Waiting())


def read_journals(folder: Path) -> Journalled:
    """Raises `OSError` where a file that is there cannot be read."""
    found = Journalled()
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            _read(path, found)
        except FileNotFoundError:
            continue  # it is in the store by now
    aside = folder / UNAPPLIED
    if aside.exists():
        found.unapplied = sum(1 for _ in _lines(aside))
    return found


def _read(path: Path, found: Journalled) -> None:
    found.bytes += path.stat().st_size
    found.files += 1
    held: dict[str, Record] = {}
    ended: set[str] = set()
    for line in _lines(path):
        match line:
            case Opened(store):
                found.stores.add(store)
            case Held(_, record):
                held[record.request_id] = record
            case Ended(amounts, record):
                held.pop(record.request_id, None)
                if amounts is not None and record.request_id not in ended:
                    ended.add(record.request_id)
                    waiting = found.of(record)
                    waiting.charges += 1
                    waiting.charged_nanos += record.actual_cost_nanos or 0
            case Leased():
                found.leases += 1
            case None:
                found.damaged += 1
            case _:
                pass
    for record in held.values():
        waiting = found.of(record)
        waiting.open += 1
        waiting.held_nanos += record.estimated_cost_nanos


def _lines(path: Path) -> Iterator[Line | None]:
    """`None` for one that is damaged. A last one that was cut short, or is being written, is left out."""
    with path.open("rb") as file:
        start = 0
        while data := file.read(READ_BYTES_MAX):
            end = 0
            for frame in frames(data):
                yield decode(frame.payload) if frame.payload is not None else None
                end = frame.end
            if not end:
                return
            start += end
            file.seek(start)
