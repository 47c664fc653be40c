"""A lifecycle as a table: what an event does in a state, and where it may lead. The missing row is the error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from policyd.core.errors import ProtocolError
from policyd.ext_proc import messages as m

L = TypeVar("L")
S = TypeVar("S", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Row(Generic[L, S]):
    """What an event does to a life `L`, and the states `S` that it may lead to."""

    handle: Callable[[L, Any], tuple[S, list[m.Effect]]]
    following: frozenset[S]


Table = Mapping[tuple[S, type[m.Event]], Row[L, S]]


def row(handle: Callable[[L, Any], tuple[S, list[m.Effect]]], *following: S) -> Row[L, S]:
    return Row(handle, frozenset(following))


def step(table: Table[S, L], life: L, state: S, event: m.Event) -> tuple[S, list[m.Effect]]:
    """The state that `event` leads to, and its effects. Raises `ProtocolError` for what the table does not have."""
    found = table.get((state, type(event)))
    if found is None:
        raise ProtocolError(f"{type(event).__name__} cannot come while {state}")
    following, effects = found.handle(life, event)
    if following not in found.following:
        raise ProtocolError(f"{type(event).__name__} cannot lead from {state} to {following}")
    return following, effects
