"""Where accounts and reservations are kept: the shards.

A shard is what one script can work on in one step: keys whose names begin alike and, in a cluster, lie in one hash
slot. A single server (also one that sentinels watch) is one shard, so everything is one step there. A cluster is cut
into `CLUSTER_SHARDS`, spread evenly over its slots:

- an account goes by its *scope*, so that all limits of a scope, and both buckets of a sliding window, are together;
  with `partition` by that attribute's value where the scope has it, so that `org=acme` and `org=acme,user=ann` are
- a reservation goes by its id, which is all that its later calls know: its shard is its *home*

The number of shards, `partition` and the prefix decide where everything is found: they cannot change while there are
reservations.
"""

from __future__ import annotations

from binascii import crc_hqx
from dataclasses import dataclass
from itertools import count

SLOTS = 16_384
"""Of every Redis cluster."""

CLUSTER_SHARDS = 32
"""Enough to share the load among as many nodes; few enough for a sweep to visit them all."""


@dataclass(frozen=True, slots=True)
class Shard:
    number: int
    base: str
    """What the names of its keys begin with."""
    slot: int


class Shards:
    """The shards of one store, and what goes where."""

    def __init__(self, prefix: str, *, cluster: bool, partition: str = "") -> None:
        tags = [f"{{{_tag(number)}}}:" for number in range(CLUSTER_SHARDS)] if cluster else [""]
        self.all = tuple(
            Shard(number, f"{prefix}{tag}", slot_of(tag[1:-2]) if cluster else 0) for number, tag in enumerate(tags)
        )
        self._partition = partition

    def home(self, name: str) -> Shard:
        """The shard of whatever is known by its name alone: a reservation and its usage record, a window, a run."""
        return self._of(name)

    def of_scope(self, scope: str) -> Shard:
        """The shard of all accounts of the scope."""
        return self._of(self._place(scope))

    def _of(self, place: str) -> Shard:
        return self.all[slot_of(place) % len(self.all)]

    def _place(self, scope: str) -> str:
        if self._partition:
            for part in scope.split(","):
                if part.startswith(f"{self._partition}="):
                    return part
        return scope


def slot_of(text: str) -> int:
    """The slot of a key, or of a tag, by the cluster specification: CRC16 (XMODEM) modulo 16384."""
    return crc_hqx(text.encode(), 0) % SLOTS


def _tag(number: int) -> str:
    """The first `number.N` whose slot is in that part of all slots, so that the shards are spread evenly."""
    return next(tag for n in count() if slot_of(tag := f"{number}.{n}") * CLUSTER_SHARDS // SLOTS == number)
