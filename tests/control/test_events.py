"""`policyd events`: what rules and anomalies have told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from policyd.cli import app
from policyd.core.errors import ConfigError
from policyd.core.events import LimitUse, OperatorEvent
from policyd.core.policy import Metric
from policyd.core.rules import RuleAction
from policyd.stores.url import open_store
from tests.builders import NOW_MS


def event(user: str, *, at_ms: int = NOW_MS) -> OperatorEvent:
    return OperatorEvent(
        source="rule:nearly",
        action=RuleAction.NOTIFY,
        scope=f"user={user}",
        period_starts_at_ms=1,
        at_ms=at_ms,
        request_id="r1",
        attributes={"user": user},
        estimated_cost_nanos=1_500_000_000,
        limits=(LimitUse("daily", Metric.COST, 8_000_000_000, 10_000_000_000), LimitUse("pace", Metric.REQUESTS, 3, 5)),
    )


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The URL of one with three events."""
    url = f"sqlite:///{tmp_path}/policyd.db"

    async def fill() -> None:
        opened = open_store(url)
        for late, user in enumerate(("ann", "bob", "cid")):
            await opened.emit(event(user, at_ms=NOW_MS + late * 1000))
        await opened.close()

    asyncio.run(fill())
    return url


def run(store: str, *arguments: str) -> str:
    ran = CliRunner().invoke(app, ["events", *arguments, "--store", store], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def listed(store: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(store, "list", "--json"))
    return found


def test_are_listed_oldest_first(store: str) -> None:
    lines = run(store, "list").splitlines()
    assert lines[0].split() == ["ID", "TIME", "SOURCE", "ACTION", "SCOPE", "REQUEST", "USED"]
    assert [line.split()[4] for line in lines[1:]] == ["user=ann", "user=bob", "user=cid"]
    assert "daily 8.00 of 10.00, pace 3 of 5" in lines[1]


def test_as_json_money_is_exact(store: str) -> None:
    assert listed(store)[0] == {
        "id": "rule:nearly/user=ann/1",
        "time": "2026-05-15T12:00:45.000Z",
        "source": "rule:nearly",
        "action": "notify",
        "scope": "user=ann",
        "request_id": "r1",
        "attributes": {"user": "ann"},
        "estimated_cost_usd": 1.5,
        "limits": [
            {"name": "daily", "metric": "cost_usd", "used": 8.0, "limit": 10.0},
            {"name": "pace", "metric": "requests", "used": 3, "limit": 5},
        ],
    }


def test_acknowledged_ones_leave_the_list(store: str) -> None:
    assert run(store, "ack", "rule:nearly/user=ann/1", "rule:nearly/user=cid/1") == "2 acknowledged\n"
    assert [each["scope"] for each in listed(store)] == ["user=bob"]
    assert run(store, "ack", "--all") == "1 acknowledged\n"
    assert run(store, "list") == "there are no events\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected the ids of events, or --all"),
        (("rule:nearly/user=ann/1", "--all"), "expected the ids of events, or --all"),
        (
            ("rule:nearly/user=an/1",),
            'ID: there is no event "rule:nearly/user=an/1" on the list; did you mean "rule:nearly/user=ann/1"?',
        ),
    ],
)
def test_mistakes(store: str, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        run(store, "ack", *arguments)
    assert str(raised.value) == message
    assert len(listed(store)) == 3
