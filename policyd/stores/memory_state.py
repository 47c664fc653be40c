"""What the memory store keeps beside its ledger: run-time state, windows, runs of repetitions, counters, events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from policyd.core.errors import StaleState
from policyd.core.events import OperatorEvent
from policyd.stores.base import EventsPage, StateChanges, StateItem
from policyd.stores.codec import cursor_after_event, parse_event_cursor


@dataclass(slots=True)
class _Window:
    starts_at_ms: int
    ends_at_ms: int


@dataclass(frozen=True, slots=True)
class _Run:
    """One digest, so many times in a row."""

    digest: str
    times: int
    forget_at_ms: int


@dataclass(frozen=True, slots=True)
class _Counter:
    value: int
    keep_until_ms: int


@dataclass(slots=True)
class MemoryState:
    """Each method is what `policyd.stores.base.Store` says of the one with its name."""

    revision: int = 0
    _items: dict[tuple[str, str], StateItem] = field(default_factory=dict)
    """Oldest first."""
    _windows: dict[str, _Window] = field(default_factory=dict)
    _runs: dict[str, _Run] = field(default_factory=dict)
    _counters: dict[str, _Counter] = field(default_factory=dict)
    _events: dict[str, OperatorEvent] = field(default_factory=dict)
    _acknowledged: set[str] = field(default_factory=set)
    """The ids of those among the events."""

    def set_state(self, items: Sequence[StateItem], *, expected_revision: int | None) -> int:
        if expected_revision not in (None, self.revision):
            raise StaleState(self.revision)
        self.revision += 1
        for item in items:
            self._items.pop((item.kind, item.key), None)  # so that it becomes the youngest
            self._items[item.kind, item.key] = replace(item, revision=self.revision)
        return self.revision

    def state(self, *, since: int) -> StateChanges:
        return StateChanges(self.revision, tuple(item for item in self._items.values() if item.revision > since))

    def begin_window(self, key: str, *, now_ms: int, length_ms: int, begin: bool) -> int | None:
        window = self._windows.get(key)
        if window is None or now_ms >= window.starts_at_ms + length_ms:
            if not begin:
                return None
            window = self._windows[key] = _Window(now_ms, now_ms + length_ms)
        elif begin:
            window.ends_at_ms = max(window.ends_at_ms, window.starts_at_ms + length_ms)
        return window.starts_at_ms

    def repeated(self, scope: str, digest: str, *, now_ms: int, forget_after_ms: int, counted: bool) -> int:
        run = self._runs.get(scope)
        if run is None or run.digest != digest or run.forget_at_ms <= now_ms:
            run = _Run(digest, 0, now_ms)
        if counted:
            self._runs[scope] = _Run(digest, run.times + 1, now_ms + forget_after_ms)
        return run.times + 1

    def count(self, deltas: Mapping[str, int], *, now_ms: int, keep_until_ms: int) -> None:
        for name, delta in deltas.items():
            counter = self._counters.get(name, _Counter(0, keep_until_ms))
            value = counter.value if counter.keep_until_ms > now_ms else 0
            self._counters[name] = _Counter(value + delta, max(counter.keep_until_ms, keep_until_ms))

    def counters(self, prefix: str, *, now_ms: int) -> Mapping[str, int]:
        return {
            name: counter.value
            for name, counter in self._counters.items()
            if name.startswith(prefix) and counter.keep_until_ms > now_ms
        }

    def emit(self, event: OperatorEvent) -> bool:
        if event.id in self._events:
            return False
        self._events[event.id] = event
        return True

    def events(self, *, page: int, cursor: str) -> EventsPage:
        after = parse_event_cursor(cursor) if cursor else (-1, "")
        pending = (event for event in self._events.values() if event.id not in self._acknowledged)
        found = sorted((event.at_ms, event.id) for event in pending if (event.at_ms, event.id) > after)
        events = tuple(self._events[event_id] for _, event_id in found[:page])
        return EventsPage(events, next_cursor=cursor_after_event(events[-1]) if len(found) > page else "")

    def acknowledge(self, event_ids: Sequence[str]) -> int:
        pending = (self._events.keys() & set(event_ids)) - self._acknowledged
        self._acknowledged |= pending
        return len(pending)

    def sweep(self, *, now_ms: int, ended_before_ms: int) -> None:
        self._items = {
            each: item
            for each, item in self._items.items()
            if item.expires_at_ms is None or item.expires_at_ms >= ended_before_ms
        }
        self._windows = {key: window for key, window in self._windows.items() if window.ends_at_ms > now_ms}
        self._runs = {scope: run for scope, run in self._runs.items() if run.forget_at_ms > now_ms}
        self._counters = {name: each for name, each in self._counters.items() if each.keep_until_ms > now_ms}
        self._events = {each: event for each, event in self._events.items() if event.keep_until_ms > now_ms}
        self._acknowledged &= self._events.keys()
