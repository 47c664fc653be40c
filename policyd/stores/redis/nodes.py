"""Which node answers for a shard: one server, the master that sentinels name, or the nodes of a cluster.

A cluster's map of slots is read from whichever node answers, when it is first needed, when a node says that a slot has
moved, and after a node could not be reached, for its replica may have taken over. While a slot is *being* moved, its
shard is refused (`StoreUnavailable`): a script could see only a part of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import hiredis

from policyd.core.errors import StoreError, StoreUnavailable
from policyd.stores.redis.connection import Argument, Connection, Reply
from policyd.stores.redis.link import Link
from policyd.stores.redis.options import Address, Arrangement, RedisOptions
from policyd.stores.redis.shards import SLOTS, Shard

log = logging.getLogger(__name__)

REDIRECTS_MAX = 3

_NO_SLOTS: Sequence[Address] = ()


class Nodes(Protocol):
    """The way to every shard. Belongs to one event loop."""

    async def call(self, shard: Shard, *arguments: Argument) -> Reply:
        """The reply of the node that has the shard. Raises as `Link.call`, without `MOVED`."""
        ...

    async def close(self) -> None: ...


def open_nodes(options: RedisOptions) -> Nodes:
    """Connects to nothing yet."""
    match options.arrangement:
        case Arrangement.STANDALONE:
            address = options.addresses[0]
            return OneNode(Link(f"Redis at {address}", lambda: connect(address, options)))
        case Arrangement.SENTINEL:
            return OneNode(Link(f"the Redis master {options.master}", lambda: connect_to_master(options)))
        case Arrangement.CLUSTER:
            return Cluster(options)


class OneNode:
    """One node has everything."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def call(self, shard: Shard, *arguments: Argument) -> Reply:
        return await self._link.call(*arguments)

    async def close(self) -> None:
        await self._link.close()


class Cluster:
    """See the module's text."""

    def __init__(self, options: RedisOptions) -> None:
        self._options = options
        self._links: dict[Address, Link] = {}
        self._owners: Sequence[Address] = _NO_SLOTS
        """By slot."""
        self._reading: asyncio.Task[None] | None = None

    async def call(self, shard: Shard, *arguments: Argument) -> Reply:
        for _ in range(REDIRECTS_MAX):
            try:
                return await (await self._link_of(shard.slot)).call(*arguments)
            except hiredis.ReplyError as reply:
                if not str(reply).startswith("MOVED"):
                    raise
                self._owners = _NO_SLOTS
            except StoreUnavailable:
                self._read_again()  # calls to the other nodes need not wait for it
                raise
        raise StoreUnavailable("the Redis cluster is being rearranged; the call had no effect")

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        for link in self._links.values():
            await link.close()

    async def _link_of(self, slot: int) -> Link:
        if not self._owners:
            await asyncio.shield(self._read_again())
        if not self._owners:
            raise StoreUnavailable("no node of the Redis cluster can be reached; the call had no effect")
        return self._link(self._owners[slot])

    def _read_again(self) -> asyncio.Task[None]:
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_owners())
        return self._reading

    def _link(self, address: Address) -> Link:
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(f"Redis at {address}", lambda: connect(address, self._options))
        return link

    async def _read_owners(self) -> None:
        """Asks one node after the other: those that were known to answer before those of the URL."""
        try:
            for address in dict.fromkeys((*self._links, *self._options.addresses)):
                try:
                    ranges = await self._link(address).call("CLUSTER", "SLOTS")
                except (StoreError, hiredis.ReplyError) as error:
                    log.warning("the cluster's map could not be read from %s: %s", address, error)
                    continue
                self._owners = _owners(ranges, address)
                return
        finally:
            self._reading = None


def _owners(ranges: Iterable[Sequence[Reply]], asked: Address) -> Sequence[Address]:
    """Who has which slot, of the answer to CLUSTER SLOTS: ranges of first slot, last slot, master, replicas.

    A slot that nobody has is asked of the node that said so, which refuses it. A node whose name is not known is the
    one that was asked.
    """
    owners = [asked] * SLOTS
    for first, last, (host, port, *_), *_ in ranges:
        owner = Address(host.decode() if host else asked.host, port)
        owners[first : last + 1] = [owner] * (last + 1 - first)
    return owners


async def connect(address: Address, options: RedisOptions) -> Connection:
    """A connection that is logged in and answers, within the connect timeout. Raises `StoreUnavailable`."""
    async with _connecting(f"Redis at {address}", options):
        connection = await _open(address, options)
        async with _closed_on_error(connection):
            if options.user or options.password:
                await connection.call("AUTH", options.user or "default", options.password)
            if options.database:
                await connection.call("SELECT", options.database)
            await connection.call("PING")
        return connection


async def connect_to_master(options: RedisOptions) -> Connection:
    """A connection to the master that a sentinel names, the first one that leads there. Raises `StoreUnavailable`.

    Each sentinel has the connect timeout to answer.
    """
    for sentinel in options.addresses:
        try:
            connection = await connect(await _master(sentinel, options), options)
        except StoreUnavailable as error:
            log.warning("the sentinel at %s led to no master: %s", sentinel, error)
            continue
        async with _connecting(f"the Redis master {options.master}", options), _closed_on_error(connection):
            role, *_ = await connection.call("ROLE")
            if role == b"master":
                return connection
            raise ConnectionRefusedError("the server that the sentinels name is not the master any more")
    raise StoreUnavailable(f"no sentinel leads to the Redis master {options.master!r}; the call had no effect")


async def _master(sentinel: Address, options: RedisOptions) -> Address:
    async with _connecting(f"the sentinel at {sentinel}", options):
        connection = await _open(sentinel, options)
        try:
            if options.sentinel_password:
                await connection.call("AUTH", "default", options.sentinel_password)
            named = await connection.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", options.master)
        finally:
            await connection.close()
        if named is None:
            raise ConnectionRefusedError(f"it knows no master {options.master!r}")
        host, port = named
        return Address(host.decode(), int(port))


async def _open(address: Address, options: RedisOptions) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(f"Redis at {address}", timeout_seconds=options.timeout_seconds),
        address.host,
        address.port,
        ssl=options.tls,
    )
    return connection


@asynccontextmanager
async def _connecting(name: str, options: RedisOptions) -> AsyncIterator[None]:
    """Bounds the time, and turns what may go wrong into `StoreUnavailable`: no call was sent yet."""
    try:
        async with asyncio.timeout(options.connect_timeout_seconds):
            yield
    except (OSError, StoreError, hiredis.ReplyError) as error:
        reason = str(error) or "it did not answer in time"
        log.warning("%s cannot be used: %s", name, reason)
        raise StoreUnavailable(f"{name} cannot be used: {reason}") from error


@asynccontextmanager
async def _closed_on_error(connection: Connection) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        await connection.close()
        raise
