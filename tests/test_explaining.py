"""`policyd explain`: every step of a decision, as an operator reads it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from policyd.cli import app
from policyd.config import load_policy
from policyd.core.errors import ConfigError, RequestError
from policyd.core.runtime import Block, Kind
from policyd.core.usage import Usage
from policyd.enforcer.runtime_state import item_of
from policyd.estimator import Ask
from policyd.providers.base import Prompt, RequestFacts
from policyd.stores.url import open_store
from tests.builders import SetClock, World

AT = "2026-05-15T12:00:00Z"
AT_MS = int(datetime(2026, 5, 15, 12, tzinfo=UTC).timestamp()) * 1000

POLICY = """
version: 1
identity: {user: [{header: x-user}], tier: [{header: x-tier}]}
prices: [{model: tenth, usd_per_million: {input: 1000, output: 1000}}]
limits:
  - {name: daily, per: [user], cost_usd: 1.00, window: day}
  - {name: free, match: {tier: free}, requests: 5, window: day}
  - {name: mini, match: {model: "*-mini"}, requests: 5, window: day}
rules:
  - {name: tried, mode: shadow, action: deny}
  - {name: nearly, when: {usage_percent: {daily: 50}}, action: clamp, max_output_tokens: 30}
  - {name: no-bob, when: {match: {user: bob}}, action: deny}
  - {name: told, action: add_headers, headers: {x-seen: "1"}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policyd.yaml").write_text(POLICY)
    store = open_store(url(tmp_path))
    asyncio.run(store.close())
    return tmp_path


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/policyd.db"


def run(folder: Path, *options: str, user: str = "ann", **request: Any) -> str:
    said = {
        "path": "/v1/chat/completions",
        "headers": {"X-User": user},
        "body": {"model": "tenth", "max_tokens": 40, "messages": [{"role": "user", "content": "Hi."}]},
    }
    (folder / "request.json").write_text(json.dumps({**said, **request}))
    arguments = ["explain", "--request", str(folder / "request.json"), "--config", str(folder / "policyd.yaml")]
    result = CliRunner().invoke(app, [*arguments, "--at", AT, *options], catch_exceptions=False)
    if result.exception is not None:
        raise result.exception
    assert result.exit_code == 0
    return result.stdout


def explained(folder: Path, *options: str, **request: Any) -> Any:
    return json.loads(run(folder, "--json", *options, **request))


def spend(folder: Path, tokens: int) -> None:
    """Ann has used so many tokens, a tenth of a cent each, by a server that is gone."""

    async def spent() -> None:
        policy = load_policy(folder / "policyd.yaml")
        world = World(policy, store=open_store(url(folder)), clock=SetClock(AT_MS))
        facts = RequestFacts(model="tenth", streamed=False, max_output_tokens=1, choices=1, prompt=Prompt(texts=()))
        ask = Ask("r1", "openai", "chat.completions", facts, {"user": "ann"}, policy, input_tokens=0)
        await world.enforcer.record_usage(ask, Usage(input=tokens), fingerprint="r1")
        await world.store.close()

    asyncio.run(spent())


def block(folder: Path) -> None:
    async def blocked() -> None:
        store = open_store(url(folder))
        await store.set_state([item_of(Block(Kind.BLOCK, "user=ann", "left us", AT_MS))], now_ms=AT_MS)
        await store.close()

    asyncio.run(blocked())


def test_every_step_of_a_request_that_passes(folder: Path) -> None:
    told = explained(folder)
    assert told["decision"] == "allow"
    assert told["because"] == []
    assert told["attributes"] == {
        "user": "ann",
        "provider": "openai",
        "model": "tenth",
        "endpoint": "chat.completions",
    }
    assert told["estimate"]["output_tokens"].endswith("(at most 40)")
    assert told["rules"] == {
        "tried": "would fire, and is a shadow: deny",
        "nearly": "its conditions do not hold",
        "no-bob": "its conditions do not hold",
        "told": "fires: add_headers",
    }
    assert told["limits"]["daily"].startswith("fits (deny): 0.")
    assert told["limits"]["daily"].endswith("of 1.00 left of 1.00 for user=ann, resets 2026-05-16T00:00:00.000Z")
    assert told["limits"]["free"] == "does not apply: tier is missing, and it is for free"
    assert told["limits"]["mini"] == "does not apply: model is tenth, and it is for *-mini"


def test_what_was_spent_counts(folder: Path) -> None:
    spend(folder, 990)
    told = explained(folder, "--store", url(folder))
    assert told["decision"] == "deny"
    assert told["because"] == ["refused by daily", "it may fit after 43200 s"]
    assert told["rules"]["nearly"] == "fires: clamp"
    assert told["limits"]["daily"].startswith("does not fit (deny)")


def test_what_is_changed(folder: Path) -> None:
    spend(folder, 500)
    assert explained(folder, "--store", url(folder))["because"] == ["has at most 30 tokens of output: rule:nearly"]


def test_a_rule_that_denies(folder: Path) -> None:
    told = explained(folder, user="bob")
    assert (told["decision"], told["because"]) == ("deny", ["refused by rule:no-bob"])
    assert told["rules"]["told"] == "not looked at: an earlier rule decided"


def test_a_block_goes_before_all(folder: Path) -> None:
    block(folder)
    told = explained(folder, "--store", url(folder))
    assert (told["decision"], told["because"]) == ("deny", ["block:user=ann: left us"])
    # What would be decided without it is told too.
    assert told["rules"]["told"] == "fires: add_headers"
    assert told["limits"]["daily"].startswith("fits (deny)")


def test_nothing_is_held(folder: Path) -> None:
    first = run(folder, "--store", url(folder))
    assert run(folder, "--store", url(folder)) == first


def test_as_text(folder: Path) -> None:
    text = run(folder, user="bob")
    assert [line for line in text.splitlines() if line and line[0] != " "] == [
        "attributes",
        "estimate",
        "rules",
        "limits",
        "decision: deny",
    ]
    assert text.endswith("decision: deny\n  refused by rule:no-bob\n")


def test_a_request_without_a_price(folder: Path) -> None:
    with pytest.raises(RequestError, match="GET /v1/models"):
        run(folder, method="GET", path="/v1/models")


def test_a_file_that_is_no_request(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"request\.json: .*unknown field `url`.*, expected a request such as"):
        run(folder, url="/v1/chat/completions")
