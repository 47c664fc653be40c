"""The rules of one policy, prepared for requests: which of them can fire for each.

What conditions on attributes make of a request is worked out once for each combination of the values that they test,
and kept; the rules that are left are judged by `policyd.core.rules.judge` as if they were all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain

from policyd.core.rules import Rule

COMBINATIONS_KEPT_MAX = 4096
"""For how many combinations of tested attributes it is kept which rules can fire."""


class RuleIndex:
    """Immutable but for its bounded memory."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple(rules)
        self._tested = tuple(dict.fromkeys(chain.from_iterable(rule.when.attributes_read for rule in rules)))
        self._candidates = lru_cache(COMBINATIONS_KEPT_MAX)(self._find)

    def candidates(self, attributes: Mapping[str, str]) -> tuple[Rule, ...]:
        """The rules that may fire for a request with these attributes, or fail, in the order of the policy."""
        return self._candidates(tuple(map(attributes.get, self._tested)))

    def _find(self, values: tuple[str | None, ...]) -> tuple[Rule, ...]:
        given = {name: value for name, value in zip(self._tested, values, strict=True) if value is not None}
        return tuple(rule for rule in self._rules if rule.when.known(given) is not False)
