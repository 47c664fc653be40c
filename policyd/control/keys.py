"""API keys of policyd's own: created, listed, rotated, revoked. The key itself is told once, and kept nowhere."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from policyd.config.problems import did_you_mean
from policyd.control import reading
from policyd.control.desk import Desk
from policyd.core.api_keys import SECRET_BYTES, digest_of, format_key
from policyd.core.errors import ConfigError
from policyd.core.runtime import KEY_NAME, ApiKey, Kind, RuntimeState
from policyd.enforcer.runtime_state import deletion_of, item_of
from policyd.stores.base import StateItem

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Issued:
    """A key, to be shown to its owner, and what is kept of it."""

    key: str
    kept: ApiKey


async def create(
    desk: Desk,
    name: str,
    scope: str,
    *,
    models: Sequence[str] = (),
    endpoints: Sequence[str] = (),
    ends_at_ms: int | None = None,
) -> Issued:
    """Creates a key that stands for the attributes in `scope`. Its name must be free."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f'NAME: found "{name}", expected letters, digits, dots, dashes and _, 64 at most')
    attributes = reading.attributes(scope)
    if KEY_NAME in attributes:
        raise ConfigError(f"SCOPE: {KEY_NAME} is the key's own name")
    for option, patterns in (("--model", models), ("--endpoint", endpoints)):
        if not all(pattern and pattern.isprintable() for pattern in patterns):
            raise ConfigError(f"{option}: expected a name or a pattern such as gpt-4o*")
    issued = _issue(ApiKey("", name, attributes, desk.now_ms, ends_at_ms, tuple(models), tuple(endpoints)))

    def items(state: RuntimeState) -> list[StateItem]:
        if _named(state, name):
            raise ConfigError(f'NAME: there is a key "{name}" already; rotate it, revoke it, or choose another name')
        return [item_of(issued.kept)]

    await desk.change(items)
    return issued


async def rotate(desk: Desk, name: str, *, overlap_ms: int) -> Issued:
    """Creates the successor of a key. What went by the name before holds for `overlap_ms` more, and no longer."""
    issued: list[Issued] = []

    def items(state: RuntimeState) -> list[StateItem]:
        before = _existing(state, name)
        latest = max(before, key=lambda each: each.set_at_ms)
        issued[:] = [_issue(replace(latest, set_at_ms=desk.now_ms))]
        ends_at_ms = desk.now_ms + overlap_ms
        shortened = [each for each in before if each.expires_at_ms is None or each.expires_at_ms > ends_at_ms]
        ended = (replace(each, expires_at_ms=ends_at_ms) for each in shortened)
        return [item_of(issued[0].kept), *(item_of(each) if overlap_ms else deletion_of(each) for each in ended)]

    await desk.change(items)
    return issued[0]


async def revoke(desk: Desk, name: str) -> Sequence[ApiKey]:
    """Ends every key that goes by the name, at once."""
    revoked: list[ApiKey] = []

    def items(state: RuntimeState) -> list[StateItem]:
        revoked[:] = _existing(state, name)
        return [deletion_of(each) for each in revoked]

    await desk.change(items)
    return revoked


async def keys(desk: Desk) -> Sequence[ApiKey]:
    """Every key that holds, by name, the latest first."""
    return sorted(_keys(await desk.state()), key=lambda each: (each.name, -each.set_at_ms))


def _issue(kept: ApiKey) -> Issued:
    key = format_key(secrets.token_bytes(SECRET_BYTES))
    return Issued(key, replace(kept, digest=digest_of(key)))


def _existing(state: RuntimeState, name: str) -> list[ApiKey]:
    found = _named(state, name)
    if not found:
        known = [each.name for each in _keys(state)]
        raise ConfigError(f'NAME: there is no key "{name}"{did_you_mean(name, known)}')
    return found


def _named(state: RuntimeState, name: str) -> list[ApiKey]:
    return [each for each in _keys(state) if each.name == name]


def _keys(state: RuntimeState) -> list[ApiKey]:
    return [piece for piece in state.pieces[Kind.KEY].values() if isinstance(piece, ApiKey)]
