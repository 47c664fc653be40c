"""Envoy's admin interface, as far as it is used here."""

import asyncio
import http.client
import json
from typing import Final

from policyd.config import HostPort

ADMIN_SECONDS_MAX: Final = 5
"""How long Envoy may take to answer."""


class Admin:
    """Asks Envoy's admin interface. Every method raises `OSError` where it does not answer."""

    def __init__(self, address: HostPort) -> None:
        self.address = address

    async def is_live(self) -> bool:
        """Whether Envoy has taken up its work."""
        return (await self._ask("GET", "/ready")).strip() == "LIVE"

    async def listen_address(self) -> HostPort:
        """Where the first listener really listens."""
        listeners = json.loads(await self._ask("GET", "/listeners?format=json"))["listener_statuses"]
        bound = listeners[0]["local_address"]["socket_address"]
        return HostPort(bound["address"], bound["port_value"])

    async def stop_listening(self) -> None:
        """Takes no new connections, and closes each one that is open after its next reply."""
        await self._ask("POST", "/healthcheck/fail")  # with it, replies carry `connection: close`
        await self._ask("POST", "/drain_listeners")

    async def open_requests(self, stat_prefix: str) -> int:
        """How many requests are under way in the HTTP connection manager of that name."""
        name = f"http.{stat_prefix}.downstream_rq_active"
        stats = json.loads(await self._ask("GET", f"/stats?format=json&filter=^{name}$"))["stats"]
        return sum(stat["value"] for stat in stats if stat.get("name") == name)

    async def _ask(self, method: str, path: str) -> str:
        return await asyncio.to_thread(self._ask_blocking, method, path)

    def _ask_blocking(self, method: str, path: str) -> str:
        connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=ADMIN_SECONDS_MAX)
        try:
            connection.request(method, path)
            return connection.getresponse().read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(f"Envoy's admin interface at {self.address}: {error!r}") from error
        finally:
            connection.close()
