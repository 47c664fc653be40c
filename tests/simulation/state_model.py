"""The truth about run-time state: what operators set in the store, and which windows have begun."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policyd.core.errors import StaleState
from policyd.core.policy import Limit
from policyd.stores.base import StateItem
from tests.simulation.promises import check


@dataclass
class Block:
    """From when until when a scope was blocked, in the world's time."""

    attributes: Mapping[str, str]
    from_ms: int
    until_ms: int | None = None

    def fits(self, identity: Mapping[str, str]) -> bool:
        return self.attributes.items() <= identity.items()


@dataclass
class StateModel:
    revision: int = 0
    blocks: list[Block] = field(default_factory=list)
    _values: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    _begun: dict[str, list[int]] = field(default_factory=dict)

    def set(self, items: Sequence[StateItem], *, expected_revision: int | None, answer: object, world_ms: int) -> str:
        if expected_revision not in (None, self.revision):
            check(isinstance(answer, StaleState), "state changes by the latest revision alone", answer)
            return "stale"
        self.revision += 1
        check(answer == self.revision, "every change of the state has a revision", answer)
        for item in items:
            key = (item.kind, item.key)
            for block in self.blocks:
                if item.kind == "block" and block.attributes == _attributes(item.key) and block.until_ms is None:
                    block.until_ms = world_ms
            if not item.value:
                self._values.pop(key, None)
                continue
            self._values[key] = json.loads(item.value)
            if item.kind == "block":
                self.blocks.append(Block(_attributes(item.key), world_ms))
        return ", ".join(f"{item.kind} of {item.key} {'set' if item.value else 'deleted'}" for item in items)

    def amount(self, limit: Limit, scope: str) -> int:
        """What a limit allows a scope."""
        override = self._values.get(("override", f"{limit.name}|{scope}"))
        return limit.amount if override is None else int(override["amount"])

    def reset_at_ms(self, limit: Limit, scope: str) -> int | None:
        """When a limit was last made to count a scope from 0 again."""
        reset = self._values.get(("reset", f"{limit.name}|{scope}"))
        return None if reset is None else int(reset["set_at_ms"])

    def is_blocked(self, identity: Mapping[str, str]) -> bool:
        return any(block.until_ms is None and block.fits(identity) for block in self.blocks)

    def was_blocked(self, identity: Mapping[str, str], *, since_ms: int) -> bool:
        """Whether a block was in force at any time since."""
        return any(
            (block.until_ms is None or block.until_ms >= since_ms) and block.fits(identity) for block in self.blocks
        )

    # --- windows that start at first use ---

    def began(self, key: str, *, now_ms: int, length_ms: int, begin: bool, answer: object) -> str:
        """Takes in an answer of `begin_window`."""
        begun = self._begun.setdefault(key, [])
        if begun and now_ms < begun[-1] + length_ms:
            check(answer == begun[-1], "a window under way keeps its beginning", (key, answer))
            return "under way"
        check(answer == (now_ms if begin else None), "a window begins with its first use", (key, answer))
        if begin:
            begun.append(now_ms)
        return "begins"

    def has_begun(self, limit: Limit, scope: str, starts_at_ms: int) -> bool:
        return starts_at_ms in self._begun.get(f"{limit.name}|{scope}|{limit.window}", ())


def _attributes(scope: str) -> dict[str, str]:
    return dict(part.split("=") for part in scope.split(",") if part)
