"""Where a request goes: what `policyd.providers.registry` finds for one."""

from __future__ import annotations

from dataclasses import dataclass

from policyd.providers.base import Vendor, WireFormat
from policyd.providers.leaves import LeafFormat
from policyd.providers.realtime import RealtimeFormat


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a request goes. `wire` is `None` for an endpoint that costs nothing (a list of models, a token count)."""

    vendor: Vendor
    name: str
    """`chat.completions`, `messages`, `models`, ...: the `endpoint` attribute."""
    path: str
    """The path at the vendor: without the query, and without a first segment that only named the vendor."""
    wire: WireFormat | None
    error_wire: WireFormat
    """Who words a refusal on this endpoint."""
    leaf: LeafFormat | None = None
    """`wire`, where single members of its replies tell all that they cost."""
    realtime: RealtimeFormat | None = None
    """How the sessions of an endpoint that takes WebSockets are read; it takes nothing else."""


@dataclass(frozen=True, slots=True)
class UnknownEndpoint:
    """A request to a known vendor for which no wire format is known: what it would cost cannot be told."""

    vendor: Vendor
    error_wire: WireFormat
    """Who words its refusal."""
