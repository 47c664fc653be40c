"""The limits of one policy, prepared for requests: which apply to each, on which accounts.

What is worked out for one request is kept for those like it, in two steps, both bounded:

    the values of all attributes that any limit tests    which limits apply
    a limit, and the values of those it is `per`         its scope, and the account there as long as that stays the same

An account stays the same until its window ends or the run-time state changes. What a sliding window takes over from the
bucket before fades by the millisecond, so this much is worked out for each request.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain

from policyd.core.errors import AttributeMissing
from policyd.core.grouping import MODEL_GROUP, TIER
from policyd.core.ledger import Account, Carry
from policyd.core.limits import NONE_BEGUN, AppliedLimit, FirstUse, apply_limit, first_use
from policyd.core.policy import Limit, Policy
from policyd.core.runtime import NOTHING_SET, RuntimeState
from policyd.core.scopes import scope_name
from policyd.core.windows import FirstUseWindow, SlidingWindow, bounds, overlap_weight

COMBINATIONS_KEPT_MAX = 4096
"""For how many combinations of tested attributes it is kept which limits apply."""

SCOPES_KEPT_MAX = 16_384
"""For how many scopes, of all limits together, their account is kept: some 10 MB."""

_MADE = (TIER, MODEL_GROUP)
"""What a policy makes of the other attributes."""

_EVER = 2**63


class LimitIndex:
    """Immutable but for its bounded memory."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        tested = dict.fromkeys(chain.from_iterable(limit.match.patterns for limit in policy.limits))
        made_of = (TIER, "model") if policy.grouping.models.groups else (TIER,)
        self._tested = tuple(dict.fromkeys((*made_of, *(name for name in tested if name not in _MADE))))
        self._per_made = any(name in _MADE for limit in policy.limits for name in limit.per)
        self._has_pools = any(limit.pool is not None for limit in policy.limits)
        self._has_first_use = any(isinstance(limit.window, FirstUseWindow) for limit in policy.limits)
        self._matching = lru_cache(COMBINATIONS_KEPT_MAX)(self._match)
        self._scoped = lru_cache(SCOPES_KEPT_MAX)(self._scope)

    def applied(
        self,
        attributes: Mapping[str, str],
        *,
        now_ms: int,
        begun: Mapping[str, int] = NONE_BEGUN,
        state: RuntimeState = NOTHING_SET,
    ) -> tuple[AppliedLimit, ...]:
        """The limits whose match fits, in the policy's order; no two of them have the same account.

        They have the amounts that `state` gives them. `begun` says when windows that start at first use began, by
        `FirstUse.key`; one that is not there begins now.
        Raises `TierUnknown`, and `AttributeMissing` if the policy is strict and a limit that applies is `per` an
        attribute that is not there.
        """
        scoped = self._of(attributes)
        if self._policy.strict:
            _check_complete(scoped)
        applied = [each.applied(now_ms=now_ms, begun=begun, state=state) for each in scoped]
        return tuple(_least_of_pools(applied)) if self._has_pools else tuple(applied)

    def named(
        self,
        names: Collection[str],
        attributes: Mapping[str, str],
        *,
        now_ms: int,
        begun: Mapping[str, int] = NONE_BEGUN,
        state: RuntimeState = NOTHING_SET,
    ) -> tuple[AppliedLimit, ...]:
        """Those of the limits `names` whose match fits, to look at: several of one pool have the same account.

        Raises `TierUnknown`.
        """
        return tuple(
            each.applied(now_ms=now_ms, begun=begun, state=state)
            for each in self._of(attributes)
            if each.limit.name in names
        )

    def first_use_windows(self, attributes: Mapping[str, str]) -> tuple[FirstUse, ...]:
        """The windows that start at first use, of the limits that apply. Raises `TierUnknown`."""
        if not self._has_first_use:
            return ()
        return tuple(each.first_use for each in self._of(attributes) if each.first_use is not None)

    def _of(self, attributes: Mapping[str, str]) -> list[_Scoped]:
        """The limits that apply, each with its scope. Raises `TierUnknown`."""
        positions, made = self._matching(tuple(map(attributes.get, self._tested)))
        if self._per_made:
            attributes = {name: value for name, value in attributes.items() if name not in _MADE} | made
        limits = self._policy.limits
        return [self._scoped(each, tuple(map(attributes.get, limits[each].per))) for each in positions]

    def _match(self, values: tuple[str | None, ...]) -> tuple[tuple[int, ...], dict[str, str]]:
        """The places of the limits that apply, and what the policy makes of the attributes."""
        given = {name: value for name, value in zip(self._tested, values, strict=True) if value is not None}
        complete = self._policy.grouping.complete(given)
        positions = tuple(place for place, limit in enumerate(self._policy.limits) if limit.match.fits(complete))
        return positions, {name: complete[name] for name in _MADE if name in complete}

    def _scope(self, position: int, values: tuple[str | None, ...]) -> _Scoped:
        return _Scoped(self._policy.limits[position], values)


class _Scoped:
    """A limit for one scope, and how it applied the last time."""

    __slots__ = ("_from_ms", "_latest", "_state", "_until_ms", "first_use", "lacks", "limit", "scope")

    def __init__(self, limit: Limit, values: Sequence[str | None]) -> None:
        self.limit = limit
        self.lacks = next((name for name, value in zip(limit.per, values, strict=True) if value is None), None)
        """An attribute that the limit is `per` and that is not there."""
        self.scope = scope_name({name: value or "" for name, value in zip(limit.per, values, strict=True)})
        window = limit.window
        self.first_use = first_use(limit, self.scope, window) if isinstance(window, FirstUseWindow) else None
        self._latest: AppliedLimit | None = None
        self._state: RuntimeState | None = None
        self._from_ms = self._until_ms = 0

    def applied(self, *, now_ms: int, begun: Mapping[str, int], state: RuntimeState) -> AppliedLimit:
        latest = self._latest
        if latest is None or state is not self._state or not self._from_ms <= now_ms < self._until_ms:
            return self._apply(now_ms=now_ms, begun=begun, state=state)
        window, carry = self.limit.window, latest.carry
        if carry is None or not isinstance(window, SlidingWindow):
            return latest
        return AppliedLimit(latest.limit, latest.account, Carry(carry.account_key, overlap_weight(window, now_ms)))

    def _apply(self, *, now_ms: int, begun: Mapping[str, int], state: RuntimeState) -> AppliedLimit:
        applied = apply_limit(self.limit, self.scope, now_ms=now_ms, begun=begun, state=state)
        if self.first_use is None:
            self._latest, self._state = applied, state
            # Not from before now: a clock that is put back may find an amount again that has ended by now.
            self._from_ms = now_ms
            self._until_ms = _until_ms(self.limit, self.scope, now_ms=now_ms, state=state)
        return applied


def _until_ms(limit: Limit, scope: str, *, now_ms: int, state: RuntimeState) -> int:
    """Until when the limit applies to its scope as it does at `now_ms`."""
    until_ms = _EVER
    window = limit.window
    if window is not None and not isinstance(window, FirstUseWindow):
        until_ms = bounds(window, now_ms).ends_at_ms or _EVER
    override = state.override(limit.name, scope, now_ms=now_ms)
    if override is not None:
        until_ms = min(until_ms, override.expires_at_ms or _EVER)
    return until_ms


def _check_complete(scoped: Sequence[_Scoped]) -> None:
    for each in scoped:
        if each.lacks is not None:
            limit = each.limit.name
            raise AttributeMissing(f"the request has no {each.lacks}, and the limit {limit!r} counts per {each.lacks}")


def _least_of_pools(applied: Sequence[AppliedLimit]) -> Iterator[AppliedLimit]:
    least: dict[Account, AppliedLimit] = {}
    for item in applied:
        if item.limit.pool is not None:
            least[item.account] = min(least.get(item.account, item), item, key=lambda each: each.limit.amount)
    return (item for item in applied if item.limit.pool is None or least[item.account] is item)
