"""Run-time state: what operators and detectors set without a deploy, for all replicas at once.

    override             another amount of one limit for one scope
    temporary override   the same until an instant, before any lasting one, which applies again afterwards
    reset                one limit counts one scope from 0 again, from this instant to the end of the window
    block                requests of a scope are refused
    key                  an API key of policyd's own, by its hash
    freeze               the same, because something looked wrong; it stands beside a block of the same scope
    digest key           what the hashes of requests are keyed with, so that repeated ones are found

A snapshot knows the revision of the store that it was read at. Whatever has expired is ignored from that instant on, so
that nobody has to take it away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from hmac import compare_digest
from itertools import chain

from policyd.core.errors import KeyForbidden, KeyInvalid, RequestError
from policyd.core.money import divide_up
from policyd.core.policy import Match
from policyd.core.scopes import literal, parse_scope, shown


class Kind(StrEnum):
    """The kinds of run-time state that policies are applied with; the store may hold others."""

    OVERRIDE = "override"
    TEMPORARY_OVERRIDE = "temporary_override"
    RESET = "reset"
    BLOCK = "block"
    FREEZE = "freeze"
    KEY = "key"
    DIGEST_KEY = "digest_key"


@dataclass(frozen=True, slots=True)
class Override:
    """Another amount of a limit for one scope, in the unit of the limit's metric."""

    limit: str
    """The limit's name."""
    scope: str
    amount: int
    set_at_ms: int
    expires_at_ms: int | None = None
    """When it ends by itself; it is a temporary one if it does."""

    @property
    def kind(self) -> Kind:
        return Kind.OVERRIDE if self.expires_at_ms is None else Kind.TEMPORARY_OVERRIDE

    @property
    def key(self) -> str:
        return limit_key(self.limit, self.scope)


@dataclass(frozen=True, slots=True)
class Reset:
    """A limit's fresh start for one scope. The account from before is kept as it is."""

    limit: str
    """What the limit's accounts go by."""
    scope: str
    set_at_ms: int
    """When the fresh account starts."""
    expires_at_ms: int | None
    """When it has no effect any more, because its window is over; `None`: never."""

    @property
    def kind(self) -> Kind:
        return Kind.RESET

    @property
    def key(self) -> str:
        return limit_key(self.limit, self.scope)


@dataclass(frozen=True, slots=True)
class Block:
    """Requests of a scope are refused."""

    kind: Kind
    """`BLOCK` or `FREEZE`."""
    scope: str
    """By exact values or shell-style patterns (`project=acme,model=gpt-4o*`); the empty one is of every request."""
    reason: str
    """For people; whoever is refused is told."""
    set_at_ms: int
    expires_at_ms: int | None = None

    @property
    def key(self) -> str:
        return self.scope

    @property
    def name(self) -> str:
        """How records and metrics name it: `block:user=ann`."""
        return f"{self.kind}:{shown(self.scope)}"

    def seconds_left(self, now_ms: int) -> int | None:
        """How long it lasts yet; `None` where nobody has said."""
        return None if self.expires_at_ms is None else max(0, divide_up(self.expires_at_ms - now_ms, 1000))


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What an API key stands for. The key itself is nowhere but with its owner."""

    digest: str
    """Of `policyd.core.api_keys.digest_of`."""
    name: str
    """For people; the successor of a key has the same one."""
    attributes: Mapping[str, str]
    set_at_ms: int
    expires_at_ms: int | None = None
    models: tuple[str, ...] = ()
    """Shell-style patterns; none: every model."""
    endpoints: tuple[str, ...] = ()
    """The same, of endpoints (`chat.completions`)."""

    @property
    def kind(self) -> Kind:
        return Kind.KEY

    @property
    def key(self) -> str:
        return self.digest

    @property
    def facts(self) -> Mapping[str, str]:
        """What identity can be taken from it, by name."""
        return {**self.attributes, KEY_NAME: self.name}

    def check(self, *, endpoint: str, model: str) -> None:
        """Raises `KeyForbidden` for what the key is not for. `model` is empty for a request without one."""
        if self.endpoints and not fits_any(self.endpoints, endpoint):
            raise KeyForbidden(f"the API key {self.name} is not for {endpoint or 'this endpoint'}")
        if self.models and model and not fits_any(self.models, model):
            raise KeyForbidden(f"the API key {self.name} is not for the model {model}")


@dataclass(frozen=True, slots=True)
class DigestKey:
    """What the digests of requests are keyed with: random, and the same on all replicas."""

    secret: str = field(repr=False)
    """In hexadecimal."""
    expires_at_ms: None = None

    @property
    def kind(self) -> Kind:
        return Kind.DIGEST_KEY

    @property
    def key(self) -> str:
        return "requests"


KEY_NAME = "name"
"""What a key's name goes by among its attributes."""


def fits_any(patterns: Sequence[str], value: str) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)


class Blocked(RequestError):
    """The request falls under `block`, whose reason its client is told."""

    status = 403

    def __init__(self, block: Block) -> None:
        self.reason = "frozen" if block.kind is Kind.FREEZE else "blocked"
        super().__init__(f"Requests of {shown(block.scope)} are {self.reason}: {block.reason}")
        self.block = block


Piece = Override | Reset | Block | ApiKey | DigestKey


def limit_key(limit: str, scope: str) -> str:
    """The key of what concerns one limit and one scope."""
    return f"{limit}|{scope}"


def in_force(piece: Piece, now_ms: int) -> bool:
    return piece.expires_at_ms is None or now_ms < piece.expires_at_ms


class _Blocks:
    """Finds the blocks that a request falls under.

    Scopes of exact values are looked up, once for each set of attributes that any of them names; those with patterns
    are tried one after the other.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._exact: dict[tuple[str, ...], dict[tuple[str, ...], list[Block]]] = {}
        self._patterns: list[tuple[Match, Block]] = []
        for block in blocks:
            patterns = parse_scope(block.scope)
            values = tuple(value for pattern in patterns.values() if (value := literal(pattern)) is not None)
            if len(values) < len(patterns):
                self._patterns.append((Match({name: (pattern,) for name, pattern in patterns.items()}), block))
            else:
                self._exact.setdefault(tuple(patterns), {}).setdefault(values, []).append(block)

    def of(self, attributes: Mapping[str, str]) -> list[Block]:
        found = [block for match, block in self._patterns if match.fits(attributes)]
        for names, by_values in self._exact.items():
            found += by_values.get(tuple(attributes.get(name, "") for name in names), ())
        return found


@dataclass(frozen=True, slots=True)
class RuntimeState:
    """One snapshot: the pieces by kind and key."""

    revision: int = 0
    """The store's revision that it was read at."""
    pieces: Mapping[Kind, Mapping[str, Piece]] = field(default_factory=lambda: {kind: {} for kind in Kind})
    has_blocks: bool = field(init=False, repr=False, compare=False)
    """Whether anybody at all is blocked or frozen. Kept: it is asked several times a request."""
    _blocks: _Blocks = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_blocks", bool(self.pieces[Kind.BLOCK] or self.pieces[Kind.FREEZE]))
        blocks = chain(self.pieces[Kind.BLOCK].values(), self.pieces[Kind.FREEZE].values())
        object.__setattr__(self, "_blocks", _Blocks([piece for piece in blocks if isinstance(piece, Block)]))

    def override(self, limit: str, scope: str, *, now_ms: int) -> Override | None:
        """What the limit's amount is overridden by; a temporary override goes before a lasting one."""
        for kind in (Kind.TEMPORARY_OVERRIDE, Kind.OVERRIDE):
            if by_key := self.pieces[kind]:
                found = by_key.get(limit_key(limit, scope))
                if isinstance(found, Override) and in_force(found, now_ms):
                    return found
        return None

    def reset_at_ms(self, account_name: str, scope: str) -> int | None:
        """When the accounts of this name were last reset for the scope."""
        by_key = self.pieces[Kind.RESET]
        found = by_key.get(limit_key(account_name, scope)) if by_key else None
        return found.set_at_ms if isinstance(found, Reset) else None

    def key(self, digest: str, *, now_ms: int) -> ApiKey | None:
        """The API key with this digest, if it holds still."""
        found = self.pieces[Kind.KEY].get(digest)
        if isinstance(found, ApiKey) and compare_digest(found.digest, digest) and in_force(found, now_ms):
            return found
        return None

    def require_key(self, digest: str, *, now_ms: int) -> ApiKey:
        """The same; raises `KeyInvalid` where it does not hold."""
        found = self.key(digest, now_ms=now_ms)
        if found is None:
            raise KeyInvalid("the API key is not known: it has expired, was revoked, or never was one")
        return found

    @property
    def digest_key(self) -> DigestKey | None:
        found = next(iter(self.pieces[Kind.DIGEST_KEY].values()), None)
        return found if isinstance(found, DigestKey) else None

    def block(self, attributes: Mapping[str, str], *, now_ms: int) -> Block | None:
        """What stands in a request's way; of several the one that does so longest."""
        standing = (block for block in self._blocks.of(attributes) if in_force(block, now_ms))
        return max(standing, key=_lasts_until_ms, default=None)


def _lasts_until_ms(block: Block) -> float:
    return float("inf") if block.expires_at_ms is None else block.expires_at_ms


NOTHING_SET = RuntimeState()
