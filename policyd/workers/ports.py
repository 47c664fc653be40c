"""Ports that several processes listen on, and that nobody else gets while none of them does."""

from __future__ import annotations

import socket

from policyd.config import HostPort
from policyd.core.errors import ConfigError


def reserve_port(address: HostPort, *, flag: str) -> socket.socket:
    """Binds without listening: a process of the same user that sets SO_REUSEPORT may listen there, and no other.

    Raises `ConfigError`, which names `flag`, where somebody listens already.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.socket(family)
    try:
        # Once without sharing: another policyd of this user would be no obstacle to the second time.
        socket.create_server((address.host, address.port), family=family).close()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((address.host, address.port))
    except OSError as error:
        bound.close()
        raise ConfigError(f"{flag}: cannot listen on {address}: {error.strerror or error}") from error
    return bound


def real_address(address: HostPort, bound: socket.socket) -> HostPort:
    """`address` with the port that was found where it says 0."""
    return HostPort(address.host, bound.getsockname()[1])
