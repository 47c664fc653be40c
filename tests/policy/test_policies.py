"""Every scenario of this folder, on every store, that of its README as well."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from policyd.stores.base import Store
from policyd.stores.url import open_store
from tests.policy.language import parse_scenario, play

HERE = Path(__file__).parent
SCENARIOS = {path.stem: path.read_text() for path in sorted(HERE.glob("*.yaml"))}
README = (HERE / "README.md").read_text()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened = open_store("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/store.db")
    yield opened
    await opened.close()


@pytest.mark.parametrize("name", SCENARIOS)
async def test_scenario(name: str, store: Store) -> None:
    await play(parse_scenario(SCENARIOS[name]), store)


async def test_the_scenario_of_the_readme(store: Store) -> None:
    (_, written, _) = README.split("```")
    await play(parse_scenario(written.removeprefix("yaml")), store)


@pytest.mark.parametrize(
    "wrong",
    [
        "{request: {}, expect: deny}",
        "{request: {}, expect: allow, denied_by: [daily]}",
        "{request: {}, expect: allow, warned_by: [daily]}",
        "{request: {output: 7}, expect: allow, output: 8}",
        "{request: {}, expect: allow, model: dime}",
        "{request: {input: 1, output: 0}, expect: allow, state: {daily: {reserved: 0.02}}}",
        "{request: {}, expect: allow, state: {daily: {resets: 2026-05-17}}}",
        "{request: {}, expect: allow, state: {monthly: {spent: 0}}}",
        "{request: {}, expect: tier_unknown}",
    ],
)
async def test_a_scenario_that_is_wrong_fails(wrong: str, store: Store) -> None:
    policy = "prices: [{model: cent, usd_per_million: {input: 10000, output: 10000}}]"
    limits = "limits: [{name: daily, cost_usd: 100.00, window: day}]"
    scenario = parse_scenario(f"policy: '{{version: 1, {policy}, {limits}}}'\nsteps: [{wrong}]")
    with pytest.raises(AssertionError, match=r"^step 1: "):
        await play(scenario, store)
