"""What exchanges teach the estimates, shared with all replicas through the store."""

from __future__ import annotations

from policyd.clock import Clock
from policyd.core.errors import StoreUnavailable
from policyd.core.estimate import Estimate
from policyd.core.money import divide_up
from policyd.core.record import Outcome, Record, UsageSource
from policyd.enforcer.observer import Observer, timed
from policyd.estimator import Estimator
from policyd.learning import PREFIX, Lessons, corrections, keep_until_ms
from policyd.stores.base import Store


class SharedLessons:
    def __init__(self, store: Store, *, estimator: Estimator, clock: Clock, observer: Observer) -> None:
        self._store = store
        self._estimator = estimator
        self._clock = clock
        self._observer = observer
        self._lessons = Lessons()

    def note(self, record: Record, estimate: Estimate) -> None:
        """Learns from an exchange that was served whole and whose provider reported its usage."""
        usage = record.usage
        if usage is None or record.outcome is not Outcome.SERVED or record.usage_source is not UsageSource.REPORTED:
            return
        who, now_ms = {"provider": record.provider, "model": record.model}, self._clock.now_ms()
        if estimate.counted_input_tokens is not None:
            counted = estimate.counted_input_tokens
            self._lessons.input(**who, counted_tokens=counted, reported_tokens=usage.input_tokens, now_ms=now_ms)
        tokens = divide_up(usage.output_tokens, estimate.choices)
        self._lessons.output(**who, endpoint=record.endpoint, tokens=tokens, now_ms=now_ms)

    async def share(self) -> None:
        """Shares what exchanges have taught since the last time, and takes in what all replicas were taught."""
        now_ms = self._clock.now_ms()
        lessons = self._lessons.take()
        if lessons:
            try:
                counting = self._store.count(lessons, now_ms=now_ms, keep_until_ms=keep_until_ms(now_ms))
                await timed(self._observer, "count", counting)
            except StoreUnavailable:
                self._lessons.give_back(lessons)
                raise
        counters = await timed(self._observer, "counters", self._store.counters(PREFIX, now_ms=now_ms))
        learned = corrections(counters, now_ms=now_ms)
        self._estimator.use_corrections(learned)
        self._observer.learned(learned)
