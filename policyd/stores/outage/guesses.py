"""Windows of first use of which the store could not be asked since when they are under way.

A request counts in one as if it began with that request. The store is not told so: it would take the account of that
guess for a fresh one. It is told by the journal, which first finds out when the window really began.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from policyd.core.ledger import Entry
from policyd.stores.outage.events import Begun

GUESSES_MAX: Final = 4_096
"""How many are remembered, the latest ones: a guess is used within moments."""


class Guesses:
    def __init__(self) -> None:
        self._begun: dict[tuple[str, int, int], Begun] = {}
        """By limit and scope, when it counts as begun, and length."""

    def note(self, begun: Begun) -> None:
        """This one counts as begun."""
        while len(self._begun) >= GUESSES_MAX:
            del self._begun[next(iter(self._begun))]
        self._begun[begun.limit_and_scope, begun.now_ms, begun.length_ms] = begun

    def confirm(self, begun: Begun) -> None:
        """This one really began then."""
        self._begun.pop((begun.limit_and_scope, begun.now_ms, begun.length_ms), None)

    def of(self, entries: Sequence[Entry]) -> Sequence[Begun]:
        """Those that the entries' accounts are in."""
        if not self._begun:
            return ()
        found = []
        for account in (entry.account for entry in entries):
            if account.ends_at_ms is not None:
                length_ms = account.ends_at_ms - account.starts_at_ms
                begun = self._begun.get((f"{account.limit}|{account.scope}", account.starts_at_ms, length_ms))
                if begun is not None:
                    found.append(begun)
        return found
