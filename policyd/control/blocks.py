"""Who is refused whatever the budgets: blocks, and freezes, which are blocks of what looks wrong."""

from __future__ import annotations

from collections.abc import Sequence

from policyd.config.problems import did_you_mean
from policyd.control import reading
from policyd.control.desk import Desk
from policyd.core.errors import ConfigError
from policyd.core.runtime import Block, Kind, RuntimeState
from policyd.core.scopes import shown
from policyd.enforcer.runtime_state import deletion_of, item_of
from policyd.stores.base import StateItem

REASON_LENGTH_MAX = 500


async def block(desk: Desk, kind: Kind, scope: str, *, reason: str, ends_at_ms: int | None) -> Block:
    """Refuses the requests of a scope from now on; takes the place of a block of that kind and scope."""
    if not reason.strip() or not reason.isprintable() or len(reason) > REASON_LENGTH_MAX:
        raise ConfigError(f"--reason: expected a line of text, {REASON_LENGTH_MAX} characters at most")
    made = Block(kind, reading.pattern_scope(desk.policy, scope), reason, desk.now_ms, ends_at_ms)
    await desk.change(lambda _: [item_of(made)])
    return made


async def unblock(desk: Desk, kind: Kind, scope: str) -> Block:
    """Lifts a block. A scope has to be written with the same values and patterns, in any order."""
    name = reading.blocked_scope(scope)
    lifted: list[Block] = []

    def deletions(state: RuntimeState) -> list[StateItem]:
        lifted[:] = [each for each in _of_kind(state, kind) if each.scope == name]
        if not lifted:
            known = [shown(each.scope) for each in _of_kind(state, kind)]
            raise ConfigError(f"SCOPE: there is no {kind} of {shown(name)}{did_you_mean(shown(name), known)}")
        return [deletion_of(lifted[0])]

    await desk.change(deletions)
    return lifted[0]


async def blocks(desk: Desk) -> Sequence[Block]:
    """Every block and freeze in force, the latest first."""
    state = await desk.state()
    found = [*_of_kind(state, Kind.BLOCK), *_of_kind(state, Kind.FREEZE)]
    return sorted(found, key=lambda each: each.set_at_ms, reverse=True)


def _of_kind(state: RuntimeState, kind: Kind) -> list[Block]:
    return [piece for piece in state.pieces[kind].values() if isinstance(piece, Block)]
