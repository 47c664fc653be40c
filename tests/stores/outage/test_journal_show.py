"""`policyd journal show`: what waits for the store, read while somebody writes it."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner

from policyd.cli import app
from policyd.core.ledger import Entry
from policyd.core.policy import FailureMode
from policyd.core.times import iso_time
from policyd.stores.outage.store import JournalledStore
from tests.builders import policy
from tests.stores.building import NOW_MS, TTL_MS, entry, record
from tests.stores.outage.rig import AWAY, Rig

NOTHING = {"charges": 0, "charged_usd": 0, "open": 0, "held_usd": 0}


def shown(rig: Rig, *options: str) -> str:
    ran = CliRunner().invoke(app, ["journal", "show", "--journal", str(rig.folder), *options], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def listed(rig: Rig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shown(rig, "--json"))
    return found


async def let_through(rig: Rig, process: JournalledStore, name: str, *entries: Entry, project: str) -> None:
    """A request that may cost 2 USD."""
    await process.reserve(
        name,
        entries=entries or (entry(2),),
        record=record(name, at_ms=rig.now_ms, attributes={"project": project})._replace(
            estimated_cost_nanos=2_000_000_000
        ),
        now_ms=rig.now_ms,
        expires_at_ms=rig.now_ms + TTL_MS,
    )


async def ended(rig: Rig, process: JournalledStore, name: str, *, project: str, cost_nanos: int) -> None:
    final = record(name, at_ms=rig.now_ms, attributes={"project": project}, actual_cost_nanos=cost_nanos)
    await process.settle(name, amounts={}, record=final, now_ms=rig.now_ms)


async def test_what_waits_is_told_by_project(rig: Rig) -> None:
    assert shown(rig) == "nothing waits\n"
    rig.store.error = AWAY
    one, other = rig.process(), rig.process()
    for name, project, process in (("r1", "acme", one), ("r2", "acme", other), ("r3", "umbrella", other)):
        await let_through(rig, process, name, project=project)
        rig.now_ms += 1_000
    await ended(rig, one, "r1", project="acme", cost_nanos=1_250_000_000)
    await ended(rig, other, "r3", project="umbrella", cost_nanos=1)
    await rig.reserve(one, "returned")
    await rig.release(one, "returned")
    assert listed(rig) == {
        "charges": 2,
        "charged_usd": 1.250000001,
        "open": 1,
        "held_usd": 2,
        "oldest": iso_time(NOW_MS + 1_000),
        "projects": [
            {"project": "acme", "charges": 1, "charged_usd": 1.25, "open": 1, "held_usd": 2},
            {"project": "umbrella", "charges": 1, "charged_usd": 1e-9, "open": 0, "held_usd": 0},
        ],
        "leases": 0,
        "unapplied": 0,
        "damaged": 0,
        "stores": ["the store"],
        "files": 2,
        "bytes": sum(path.stat().st_size for path in rig.journals),
    }
    heading, acme, *_, total, oldest = shown(rig).splitlines()
    assert heading.split() == ["PROJECT", "CHARGES", "USD", "OPEN", "HELD", "USD"]
    assert acme.split()[:2] == ["acme", "1"]
    assert total.split()[:2] == ["all", "2"]
    assert oldest.endswith(iso_time(NOW_MS + 1_000))
    # Nobody was kept from bringing it into the store.
    rig.store.error = None
    await one.mend()
    await other.mend()
    assert listed(rig)["files"] == 0


async def test_what_is_in_the_store_is_not_told_although_leases_are(rig: Rig) -> None:
    rig.policy = policy(failure_mode=FailureMode.DEGRADED, lease_percent=10)
    process = rig.process()
    await rig.reserve(process, "warm", amount=1)
    await rig.release(process, "warm")
    await process.mend()
    assert listed(rig) | NOTHING == listed(rig)
    assert listed(rig)["leases"] == 1
    assert shown(rig) == "nothing waits\nleases: 1\n"
    rig.store.error = AWAY
    await let_through(rig, process, "r1", project="acme")
    assert listed(rig)["open"] == 1
    await ended(rig, process, "r1", project="acme", cost_nanos=1)
    assert (listed(rig)["open"], listed(rig)["charges"]) == (0, 1)
    rig.store.error = None
    await process.mend()
    await process.mend()
    assert listed(rig) | NOTHING == listed(rig)
    assert listed(rig)["leases"] == 1


async def test_what_cannot_be_charged_is_told(rig: Rig) -> None:
    process = rig.process()
    rig.store.error = AWAY
    await let_through(rig, process, "r1", project="acme")
    with rig.journals[0].open("ab") as file:
        file.write(b"not a line\n00000010")  # the last one was cut short
    (rig.folder / "unapplied").write_bytes(b"nor this\n")
    assert (listed(rig)["damaged"], listed(rig)["unapplied"]) == (1, 1)
    assert shown(rig).splitlines()[-1] == "lines that cannot be charged: 1 put aside, 1 damaged"
