"""Watching for anomalies: what the store knows of a request's scopes, and whether it looks wrong.

Requests are told apart by a keyed hash of what their client sent. The key is random, made once and kept in the store's
run-time state, so that all replicas get the same hashes and nobody gets a text out of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from hmac import new as new_hmac
from secrets import token_bytes

from policyd.core.anomalies import Anomaly, Repetition, looked_at
from policyd.core.errors import StaleState, StoreUnavailable
from policyd.core.rules import Fill
from policyd.core.runtime import DigestKey
from policyd.enforcer.observer import Observer, timed
from policyd.enforcer.runtime_state import ATTEMPTS_MAX, FollowedState, item_of
from policyd.enforcer.standing import Standing
from policyd.estimator import Ask
from policyd.stores.base import Store

KEY_BYTES = 32


class Watching:
    def __init__(self, store: Store, *, state: FollowedState, standing: Standing, observer: Observer) -> None:
        self._store = store
        self._state = state
        self._standing = standing
        self._observer = observer

    async def shown(
        self, ask: Ask, attributes: Mapping[str, str], *, now_ms: int, counting: bool
    ) -> Mapping[str, Fill]:
        """What the anomalies that the request shows go by, by their labels. Raises `StoreError`s.

        `counting`: whether it counts as a repetition; else it is told what it would be.
        """
        shown: dict[str, Fill] = {}
        for anomaly in ask.policy.anomalies:
            if anomaly.match.fits(attributes):
                found = await self._reading(anomaly, ask, attributes, now_ms=now_ms, counting=counting)
                if found is not None and found.used >= found.amount:
                    shown[anomaly.label] = found
        return shown

    async def _reading(
        self, anomaly: Anomaly, ask: Ask, attributes: Mapping[str, str], *, now_ms: int, counting: bool
    ) -> Fill | None:
        """What the anomaly's detector reads; `None` where the request is none that it is about."""
        detector = anomaly.detector
        if isinstance(detector, Repetition):
            return await self._repetitions(anomaly, detector, ask, attributes, now_ms=now_ms, counting=counting)
        if anomaly.counted is None or detector.metric not in ask.metrics:
            return None
        accounts = looked_at(anomaly.counted, attributes, past_minutes=detector.past_minutes, now_ms=now_ms)
        return detector.reading(await self._standing.balances(accounts))

    async def _repetitions(
        self,
        anomaly: Anomaly,
        detector: Repetition,
        ask: Ask,
        attributes: Mapping[str, str],
        *,
        now_ms: int,
        counting: bool,
    ) -> Fill | None:
        if not ask.content:
            return None
        if not counting and self._state.current.digest_key is None:
            return Fill(used=1, amount=detector.times)  # nothing was ever counted, and asking sets nothing
        call = self._store.repeated(
            f"{anomaly.label}|{anomaly.scope(attributes)}",
            await self._digest(ask, now_ms=now_ms),
            now_ms=now_ms,
            forget_after_ms=detector.within_seconds * 1000,
            counted=counting,
        )
        return Fill(used=await timed(self._observer, "repeated", call), amount=detector.times)

    async def _digest(self, ask: Ask, *, now_ms: int) -> str:
        key = await self._key(now_ms=now_ms)
        digest = new_hmac(bytes.fromhex(key.secret), digestmod=sha256)
        for part in (ask.provider, ask.endpoint, ask.facts.model):
            digest.update(f"{part}\n".encode())
        digest.update(ask.content)
        return digest.hexdigest()

    async def _key(self, *, now_ms: int) -> DigestKey:
        """The key of all replicas; the first one to need it makes it."""
        for _ in range(ATTEMPTS_MAX):
            if (known := self._state.current.digest_key) is not None:
                return known
            made = DigestKey(token_bytes(KEY_BYTES).hex())
            revision = self._state.current.revision
            setting = self._store.set_state([item_of(made)], now_ms=now_ms, expected_revision=revision)
            with suppress(StaleState):  # somebody else has set something, maybe the key
                await timed(self._observer, "set_state", setting)
            await self._state.refresh()
        raise StoreUnavailable("the run-time state kept changing while the key of digests was made")
