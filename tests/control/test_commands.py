"""`policyd budget`, `block`, `freeze`, `blocks` and `sessions` as an operator runs them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from typer.testing import CliRunner

from policyd.cli import app
from policyd.clock import SystemClock
from policyd.config import load_policy
from policyd.core.errors import ConfigError
from policyd.core.policy import Policy
from policyd.core.record import Outcome, UsageSource
from policyd.core.runtime import Block, Kind
from policyd.core.usage import Usage
from policyd.enforcer import Ending
from policyd.enforcer.runtime_state import item_of
from policyd.estimator import Ask
from policyd.providers.base import Prompt, RequestFacts
from policyd.stores.url import open_store
from tests.builders import SetClock, World

T = TypeVar("T")

POLICY = """
version: 1
identity:
  project: [{header: x-project}]
  user: [{header: x-user}]
  session: [{header: x-session}]
limits:
  - {name: project-spend, per: [project], cost_usd: 10.00, window: lifetime}
  - {name: pair-calls, per: [project, user], requests: 5, window: month}
  - {name: session-calls, per: [session], requests: 3, window: {sliding: 60s}}
  - {name: first-use, per: [user], tokens: 1000, window: {days: 30}}
  - {name: everything, requests: 100, window: lifetime}
  - {name: open-now, concurrent_requests: 4}
"""


@dataclass(frozen=True)
class Site:
    """A store and a policy that a server has, and commands that work on them."""

    folder: Path

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder}/policyd.db"

    @property
    def policy(self) -> Policy:
        return load_policy(self.folder / "policyd.yaml")

    def run(self, *arguments: str) -> str:
        options = ["--store", self.store, "--config", str(self.folder / "policyd.yaml")]
        ran = CliRunner().invoke(app, [*arguments, *options], catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        return ran.stdout

    def told(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def served(self, request_id: str, **identity: str) -> bool:
        """Whether a server lets a request of these attributes pass, now; it is served if it does."""
        return asyncio.run(self._served(request_id, identity))

    async def _served(self, request_id: str, identity: dict[str, str]) -> bool:
        store = open_store(self.store)
        world = World(self.policy, store=store, clock=SetClock(SystemClock().now_ms()))
        facts = RequestFacts("gpt-4o", streamed=False, prompt=Prompt(()), max_output_tokens=1)
        ask = Ask(
            request_id=request_id,
            provider="openai",
            endpoint="chat.completions",
            facts=facts,
            identity=identity,
            policy=world.policy,
            input_tokens=1,
        )
        try:
            verdict = await world.enforcer.reserve(ask)
            if verdict.decision.allowed:
                ending = Ending(Outcome.SERVED, Usage(input=1, output=1), UsageSource.REPORTED, status=200)
                await world.enforcer.end(verdict.record, verdict.decision.estimate, ending)
            return verdict.decision.allowed
        finally:
            await store.close()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "policyd.yaml").write_text(POLICY)
    made = Site(tmp_path)
    asyncio.run(open_store(made.store).close())
    return made


def row(text: str, *cells: str) -> list[str]:
    """The cells of the line that begins with these."""
    found = [line.split() for line in text.splitlines() if line.split()[: len(cells)] == list(cells)]
    assert len(found) == 1, text
    return found[0]


class TestBudgetSet:
    def test_an_amount_of_money(self, site: Site) -> None:
        assert site.run("budget", "set", "project=acme", "250", "--limit", "project-spend") == (
            "project-spend for project=acme: 250.00 USD\n"
        )
        (budget,) = (each for each in site.told("budget", "get", "project=acme") if each["limit"] == "project-spend")
        assert (budget["amount"], budget["overridden"], budget["override_expires_at"]) == (250.0, True, None)

    def test_an_amount_of_units_for_a_time(self, site: Site) -> None:
        said = site.run("budget", "set", "user=ann,project=acme", "7", "--limit", "pair-calls", "--until", "2999-01-01")
        assert said == "pair-calls for project=acme,user=ann: 7 requests until 2999-01-01T00:00:00.000Z\n"

    def test_in_json(self, site: Site) -> None:
        assert site.told("budget", "set", "all", "0", "--limit", "everything") == {
            "limit": "everything",
            "scope": "all",
            "metric": "requests",
            "amount": 0,
            "expires_at": None,
        }

    def test_holds_for_the_next_request(self, site: Site) -> None:
        site.run("budget", "set", "all", "0", "--limit", "everything")
        assert not site.served("r1", user="ann")
        site.run("budget", "set", "all", "1", "--limit", "everything", "--for", "1h")
        assert site.served("r2", user="ann")
        site.run("budget", "delete", "all", "--limit", "everything")
        assert site.served("r3", user="ann")

    def test_of_what_counts_open_requests(self, site: Site) -> None:
        site.run("budget", "set", "all", "0", "--limit", "open-now")
        assert not site.served("r1", user="ann")


class TestBudgetGet:
    def test_tells_every_limit_that_counts_the_scope(self, site: Site) -> None:
        site.served("r1", project="acme", user="ann")
        told = site.run("budget", "get", "project=acme,user=ann")
        assert [line.split()[0] for line in told.splitlines()[1:]] == [
            "project-spend",
            "pair-calls",
            "first-use",
            "everything",
            "open-now",
        ]
        # A token of input and one of output, at the published price.
        assert row(told, "project-spend", "project=acme")[2:6] == ["10.00", "0.0000125", "0.00", "9.9999875"]
        assert row(told, "pair-calls", "project=acme,user=ann")[2:7] == ["5", "1", "0", "4", "requests"]
        assert row(told, "first-use", "user=ann")[2:6] == ["1000", "2", "0", "998"]

    def test_of_one_limit(self, site: Site) -> None:
        (budget,) = site.told("budget", "get", "session=s1", "--limit", "session-calls")
        assert (budget["limit"], budget["remaining"], budget["window"]) == ("session-calls", 3, "sliding 60s")

    def test_nothing(self, site: Site) -> None:
        assert site.run("budget", "get", "session=s1", "--limit", "pair-calls") == "no limit counts session=s1\n"


class TestBudgetList:
    def test_what_is_counted_and_what_was_set(self, site: Site) -> None:
        site.served("r1", project="acme", user="ann")
        site.run("budget", "set", "project=zeta", "3", "--limit", "project-spend")
        told = site.run("budget", "list", "--limit", "project-spend")
        assert row(told, "project-spend", "project=acme")[2] == "10.00"
        assert row(told, "project-spend", "project=zeta")[2:] == [
            *("3.00", "0.00", "0.00", "3.00"),
            *("cost_usd", "-", "set", "by", "hand"),
        ]
        assert len(told.splitlines()) == 3

    def test_nothing(self, site: Site) -> None:
        assert site.run("budget", "list") == "nothing is counted yet\n"
        assert site.told("budget", "list") == []

    def test_an_amount_of_a_limit_that_is_gone(self, site: Site) -> None:
        site.run("budget", "set", "all", "3", "--limit", "everything")
        file = site.folder / "policyd.yaml"
        file.write_text(file.read_text().replace("name: everything", "name: renamed"))
        assert row(site.run("budget", "list"), "everything", "all")[-6:] == [
            "the",
            "policy",
            "has",
            "no",
            "such",
            "limit",
        ]
        site.run("budget", "delete", "all", "--limit", "everything")
        assert site.run("budget", "list") == "nothing is counted yet\n"


class TestBudgetReset:
    @pytest.mark.parametrize(
        ("limit", "scope"),
        [("project-spend", "project=acme"), ("pair-calls", "project=acme,user=ann"), ("first-use", "user=ann")],
    )
    def test_counts_from_0_and_keeps_the_history(self, site: Site, limit: str, scope: str) -> None:
        site.served("r1", project="acme", user="ann")
        (before,) = site.told("budget", "get", scope, "--limit", limit)
        assert before["spent"] > 0
        assert site.run("budget", "reset", scope, "--limit", limit) == f"{limit} for {scope} counts from 0 again\n"
        (after,) = site.told("budget", "get", scope, "--limit", limit)
        assert after == {**before, "spent": 0, "remaining": before["amount"]}
        assert site.served("r2", project="acme", user="ann")
        (charged,) = site.told("budget", "get", scope, "--limit", limit)
        assert charged["spent"] == before["spent"]
        assert len(asyncio.run(self._accounts(site, limit))) == 2

    async def _accounts(self, site: Site, limit: str) -> list[object]:
        store = open_store(site.store)
        try:
            return list((await store.accounts(limit_name=limit, page=9)).rows)
        finally:
            await store.close()

    def test_makes_room_in_a_sliding_window(self, site: Site) -> None:
        site.run("budget", "set", "session=s1", "1", "--limit", "session-calls")
        assert site.served("r1", session="s1")
        assert site.told("budget", "reset", "session=s1", "--limit", "session-calls")["scope"] == "session=s1"
        assert site.served("r2", session="s1")
        assert not site.served("r3", session="s1")

    def test_of_what_is_open_now_is_refused(self, site: Site) -> None:
        with pytest.raises(ConfigError, match="there is nothing to reset"):
            site.run("budget", "reset", "all", "--limit", "open-now")


class TestSessions:
    def test_tells_what_each_has_spent(self, site: Site) -> None:
        for request_id, session in (("r1", "s1"), ("r2", "s2"), ("r3", "s2")):
            site.served(request_id, session=session)
        told = {each["scope"]: each for each in site.told("sessions", "list")}
        assert {scope: each["spent"] for scope, each in told.items()} == {"session=s1": 1, "session=s2": 2}
        assert told["session=s2"]["remaining"] == 1

    def test_none(self, site: Site) -> None:
        assert site.run("sessions", "list") == "nothing is counted per session yet\n"


class TestBlocks:
    def test_set_list_and_lift(self, site: Site) -> None:
        assert site.run("block", "user=ann", "--reason", "call me") == "requests of user=ann are blocked: call me\n"
        said = site.run("freeze", "project=acme,model=gpt-4o*", "--reason", "a loop", "--until", "2999-01-01")
        assert said == ("requests of model=gpt-4o*,project=acme are frozen until 2999-01-01T00:00:00.000Z: a loop\n")
        listed = site.run("blocks", "list")
        assert row(listed, "freeze", "model=gpt-4o*,project=acme")[3:] == ["2999-01-01T00:00:00.000Z", "a", "loop"]
        assert row(listed, "block", "user=ann")[3:] == ["-", "call", "me"]
        assert site.run("unblock", "user=ann") == "requests of user=ann pass again\n"
        assert site.run("unfreeze", "model=gpt-4o*,project=acme") == (
            "requests of model=gpt-4o*,project=acme pass again\n"
        )
        assert site.run("blocks", "list") == "nothing is blocked or frozen\n"

    def test_in_json(self, site: Site) -> None:
        made = site.told("block", "all", "--reason", "closed", "--for", "1h")
        assert {name: made[name] for name in ("kind", "scope", "reason")} == {
            "kind": "block",
            "scope": "all",
            "reason": "closed",
        }
        assert site.told("blocks", "list") == [made]

    def test_a_second_one_takes_the_place_of_the_first(self, site: Site) -> None:
        for reason in ("one", "two"):
            site.run("block", "user=ann", "--reason", reason)
        assert [each["reason"] for each in site.told("blocks", "list")] == ["two"]

    def test_unblocking_is_not_unfreezing(self, site: Site) -> None:
        site.run("freeze", "user=ann", "--reason", "a loop")
        with pytest.raises(ConfigError, match="there is no block of user=ann"):
            site.run("unblock", "user=ann")


@pytest.mark.parametrize("scope", ["session=", "session=[*]", "gone=acme"])
def test_a_freeze_that_policyd_has_set_is_lifted_by_the_scope_that_is_listed(site: Site, scope: str) -> None:
    async def freeze() -> None:
        store = open_store(site.store)
        await store.set_state([item_of(Block(Kind.FREEZE, scope, "anomaly:loop has fired", 0))], now_ms=0)
        await store.close()

    asyncio.run(freeze())
    (listed,) = site.told("blocks", "list")
    assert site.run("unfreeze", listed["scope"]) == f"requests of {scope} pass again\n"
    assert site.told("blocks", "list") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("budget", "set", "project=acme", "5", "--limit", "projct-spend"),
            '--limit: the policy has no limit "projct-spend"; expected one of project-spend, pair-calls, ',
        ),
        (
            ("budget", "set", "projct=acme", "5", "--limit", "project-spend"),
            'SCOPE: found "projct=acme", and the limit project-spend counts per project=...; did you mean "project"?',
        ),
        (
            ("budget", "set", "project=acme", "5", "--limit", "pair-calls"),
            'SCOPE: found "project=acme", and the limit pair-calls counts per project=...,user=...',
        ),
        (
            ("budget", "set", "project=acme", "5", "--limit", "everything"),
            'SCOPE: found "project=acme", and the limit everything counts per all',
        ),
        (
            ("budget", "set", "project=a*", "5", "--limit", "project-spend"),
            'SCOPE: found "project=a*", expected one value for each attribute (%2A stands for *)',
        ),
        (
            ("budget", "set", "acme", "5", "--limit", "project-spend"),
            "SCOPE: found 'acme', expected all, or attributes",
        ),
        (
            ("budget", "set", "project=acme", "ten", "--limit", "project-spend"),
            "AMOUNT: 'ten' is not a number, expected an amount in USD such as 10.00",
        ),
        (
            ("budget", "set", "project=acme", "9007199.254740992", "--limit", "project-spend"),
            "AMOUNT: found 9007199.254740992, expected at most 9007199.254740991, the most that an account can hold",
        ),
        (
            ("budget", "set", "all", "1.5", "--limit", "everything"),
            "AMOUNT: found 1.5, expected a whole number from 0 to 9007199254740991",
        ),
        (
            ("budget", "set", "all", "1", "--limit", "everything", "--until", "2020-01-01"),
            '--until: found "2020-01-01", which is past',
        ),
        (
            ("budget", "set", "all", "1", "--limit", "everything", "--until", "noon"),
            '--until: found "noon", expected a date or an RFC 3339 instant with its offset',
        ),
        (
            ("budget", "set", "all", "1", "--limit", "everything", "--for", "soon"),
            '--for: found "soon", expected a duration such as 60s, 5m, 1h or 90d, at most 3650d',
        ),
        (
            ("budget", "set", "all", "1", "--limit", "everything", "--for", "0s"),
            '--for: found "0s", expected 1s or more',
        ),
        (
            ("budget", "set", "all", "1", "--limit", "everything", "--for", "1h", "--until", "2999-01-01"),
            "--until and --for: expected one of them",
        ),
        (("budget", "get", "projet=acme"), 'SCOPE: nothing sets the attribute "projet"; did you mean "project"?'),
        (("budget", "delete", "all", "--limit", "everything"), "the limit everything has no override for all"),
        (("budget", "delete", "all", "--limit", "every-thing"), '--limit: the policy has no limit "every-thing"'),
        (
            ("budget", "reset", "all", "--limit", "everythin"),
            '--limit: the policy has no limit "everythin"; expected one of project-spend, pair-calls, ',
        ),
        (("block", "usr=ann", "--reason", "x"), 'SCOPE: nothing sets the attribute "usr"; did you mean "user"?'),
        (("block", "user=", "--reason", "x"), "SCOPE: user has no value"),
        (("block", "user=ann", "--reason", " "), "--reason: expected a line of text, 500 characters at most"),
        (("unblock", "user=ann"), "SCOPE: there is no block of user=ann"),
    ],
)
def test_mistakes(site: Site, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        site.run(*arguments)
    assert str(raised.value).startswith(message)
    assert site.told("blocks", "list") == []
    assert not any(each["overridden"] for each in site.told("budget", "list"))


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("memory://", "--store: memory:// is inside its server's process, where no other can reach it"),
        ("sqlite:///none.db", "--store: there is no file none.db; give the URL that the server has"),
    ],
)
def test_a_store_that_no_server_shares(store: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        CliRunner().invoke(app, ["blocks", "list", "--store", store], catch_exceptions=False)
    assert str(raised.value) == message
