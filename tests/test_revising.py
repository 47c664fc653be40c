"""What limits change in a request that does not fit, and what becomes of it when others take the room meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from policyd.core.decision import Changes
from policyd.core.errors import BodyUnreadable
from policyd.core.policy import Action, Match, Metric, Unbounded
from policyd.core.reservation import State
from policyd.core.usage import Usage
from policyd.enforcer import Verdict, reported_ending
from policyd.enforcer.revising import REVISIONS_MAX
from policyd.estimator import BOUND_FIRST_CHARACTERS_MIN, Ask
from policyd.providers.base import Prompt, RequestEdits, RequestFacts
from policyd.stores.base import ReserveResult
from policyd.stores.memory import MemoryStore
from tests.builders import World, limit, policy, price_of

INPUT, OUTPUT = 100, 1000
WRITTEN = limit(Metric.OUTPUT_TOKENS, 600, name="written", action=Action.CLAMP, min_output_tokens=50)


def ask(world: World, request_id: str = "r1", **facts: Any) -> Ask:
    plain = RequestFacts("gpt-4o", streamed=False, prompt=Prompt(()), max_output_tokens=OUTPUT)
    asked = replace(plain, **facts)

    def reread(edits: RequestEdits) -> RequestFacts:
        maximum = edits.max_output_tokens if edits.max_output_tokens is not None else asked.max_output_tokens
        return replace(asked, model=edits.model or asked.model, max_output_tokens=maximum)

    return Ask(request_id, "openai", "chat", asked, {}, world.policy, input_tokens=INPUT, reread=reread)


@dataclass
class Rival(MemoryStore):
    """A store in which another request takes some room before every attempt but the first."""

    tokens: int = 0
    attempts: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    async def reserve(self, reservation_id: str, **said: Any) -> ReserveResult:
        if self.attempts:
            entries = tuple(replace(entry, amount=self.tokens, enforce=False) for entry in said["entries"])
            await super().reserve(f"rival-{self.attempts}", **{**said, "entries": entries})
        self.attempts += 1
        return await super().reserve(reservation_id, **said)


class TestClamp:
    async def test_to_what_is_left(self) -> None:
        world = World(policy(WRITTEN))
        verdict = await world.enforcer.reserve(ask(world))
        assert verdict.decision.changes == Changes(max_output_tokens=600, clamped_by=("written",))
        assert (verdict.max_output_tokens, verdict.facts.max_output_tokens) == (600, 600)
        assert (verdict.record.clamped_by, verdict.record.denied_by) == (("written",), ())
        assert verdict.decision.estimate.bounded
        assert (await world.books()).reserved == {"written": 600}

    async def test_what_fits_is_left_alone(self) -> None:
        world = World(policy(WRITTEN))
        verdict = await world.enforcer.reserve(ask(world, max_output_tokens=600))
        assert (verdict.decision.changes, verdict.max_output_tokens) == (Changes(), None)

    async def test_to_the_last_nano_usd(self) -> None:
        price = price_of("gpt-4o")
        amount = price.cost_nanos(Usage(input=INPUT, output=321)) + 1
        world = World(policy(limit(amount=amount, action=Action.CLAMP)))
        verdict = await world.enforcer.reserve(ask(world))
        assert verdict.max_output_tokens == 321
        assert price.cost_nanos(Usage(input=INPUT, output=322)) > amount

    @pytest.mark.parametrize(("least", "allowed"), [(600, True), (601, False)])
    async def test_never_below_the_least_that_is_of_use(self, least: int, allowed: bool) -> None:
        world = World(policy(replace(WRITTEN, min_output_tokens=least)))
        assert (await world.enforcer.reserve(ask(world))).decision.allowed is allowed

    async def test_the_input_alone_can_be_too_much(self) -> None:
        world = World(policy(limit(Metric.TOKENS, INPUT, action=Action.CLAMP)))
        verdict = await world.enforcer.reserve(ask(world))
        assert verdict.record.denied_by == ("budget",)

    async def test_a_request_without_a_maximum_is_given_one(self) -> None:
        world = World(policy(WRITTEN))
        verdict = await world.enforcer.reserve(ask(world, max_output_tokens=None))
        assert verdict.max_output_tokens == 600
        assert verdict.decision.estimate.bounded

    async def test_of_a_maximum_that_policyd_sets_itself(self) -> None:
        world = World(policy(WRITTEN, unbounded=Unbounded.SET_MAXIMUM, default_max_output_tokens=700))
        assert (await world.enforcer.reserve(ask(world, max_output_tokens=None))).max_output_tokens == 600

    async def test_a_long_prompt_is_counted_before_it_is_clamped(self) -> None:
        words = BOUND_FIRST_CHARACTERS_MIN // len(" hello") + 1
        room = limit(Metric.TOKENS, words + OUTPUT, action=Action.CLAMP)
        world = World(policy(room))
        long = replace(ask(world, prompt=Prompt((" hello" * words,))), input_tokens=None)
        assert long.is_long
        assert (await world.enforcer.reserve(long)).decision.changes == Changes()

    async def test_a_request_that_takes_no_maximum_is_refused(self) -> None:
        def fixed(edits: RequestEdits) -> RequestFacts:
            raise BodyUnreadable("it takes none")

        world = World(policy(WRITTEN))
        for reread in (fixed, None):
            verdict = await world.enforcer.reserve(replace(ask(world), reread=reread))
            assert verdict.record.denied_by == ("written",)
            assert verdict.decision.changes == Changes()

    async def test_again_where_others_took_the_room(self) -> None:
        store = Rival(tokens=100)
        world = World(policy(WRITTEN), store=store)
        verdict = await world.enforcer.reserve(ask(world))
        # 600 were left at first, then 500, 400 and 300: the last of these was tried before it was gone.
        assert store.attempts == 1 + REVISIONS_MAX
        assert verdict.record.denied_by == ("written",)
        assert verdict.decision.denials[0].requested == OUTPUT

    async def test_where_others_took_some_once(self) -> None:
        store = Rival(tokens=100)
        world = World(policy(WRITTEN), store=store)
        await world.enforcer.reserve(ask(world))
        store.tokens = 0
        verdict = await world.enforcer.reserve(ask(world, "r2"))
        assert verdict.max_output_tokens == 300

    async def test_a_check_says_the_same_and_holds_nothing(self) -> None:
        world = World(policy(WRITTEN))
        decision = await world.enforcer.check(ask(world))
        assert decision.changes.max_output_tokens == 600
        assert (await world.books()).open_reservations == 0

    async def test_a_repetition_is_told_the_same(self) -> None:
        world = World(policy(WRITTEN))
        first = await world.enforcer.reserve(ask(world, choices=2), fingerprint="one")
        again = await world.enforcer.reserve(ask(world, choices=2), fingerprint="one")
        assert again.earlier is State.RESERVED
        assert (again.max_output_tokens, again.facts.model) == (first.max_output_tokens, "gpt-4o")
        assert again.max_output_tokens == 300
        assert again.decision.changes == first.decision.changes
        assert again.decision.estimate.maximum == first.decision.estimate.maximum


async def test_a_maximum_below_the_vendors_floor_is_none() -> None:
    for amount, allowed in ((1023, False), (1024, True)):
        world = World(policy(replace(WRITTEN, amount=amount)))
        asked = replace(ask(world, model="grok-4.3", max_output_tokens=5000), provider="x-ai")
        assert (await world.enforcer.reserve(asked)).decision.allowed is allowed


DEAR = limit(amount=1, name="dear", match=Match({"model": ("gpt-4o",)}), action=Action.SWITCH_MODEL)
DEAR = replace(DEAR, switch_to="gpt-4o-mini")


class TestSwitch:
    async def test_is_priced_held_and_charged_as_the_other_model(self) -> None:
        world = World(policy(DEAR, limit()))
        verdict = await world.enforcer.reserve(ask(world), fingerprint="one")
        record, price = verdict.record, price_of("gpt-4o-mini")
        assert (record.model, record.requested_model, record.switched_by) == ("gpt-4o-mini", "gpt-4o", ("dear",))
        assert (verdict.facts.model, verdict.decision.changes.model) == ("gpt-4o-mini", "gpt-4o-mini")
        held = price.cost_nanos(Usage(input=INPUT, output=OUTPUT))
        assert (await world.books()).reserved["budget"] == held
        ended = await world.enforcer.end_held("r1", reported_ending(Usage(input=INPUT, output=10)))
        assert ended.record.actual_cost_nanos == price.cost_nanos(Usage(input=INPUT, output=10))
        assert ended.record.requested_model == "gpt-4o"

    async def test_the_terms_go_with_it(self) -> None:
        world = World(policy(DEAR, limit()))
        verdict = await world.enforcer.reserve(ask(world, terms={"service_tier": "priority"}))
        assert verdict.record.terms == {"service_tier": "priority"}

    @pytest.mark.parametrize("model", ["gpt-4o-2024-05-13", "gpt-4", "claude-sonnet-4-5", "of-tomorrow"])
    async def test_only_to_a_cheaper_model_of_the_same_provider(self, model: str) -> None:
        world = World(policy(replace(DEAR, switch_to=model), limit()))
        verdict = await world.enforcer.reserve(ask(world))
        assert verdict.record.denied_by == ("dear",)
        assert (verdict.record.model, verdict.record.requested_model) == ("gpt-4o", None)

    async def test_once(self) -> None:
        to_nano = replace(DEAR, name="dear-too", match=Match({"model": ("gpt-4o-mini",)}), switch_to="gpt-4.1-nano")
        world = World(policy(DEAR, to_nano))
        assert (await world.enforcer.reserve(ask(world))).record.denied_by == ("dear",)

    async def test_is_refused_as_it_came_where_the_other_model_does_not_fit_either(self) -> None:
        world = World(policy(DEAR, limit(amount=2)))
        verdict = await world.enforcer.reserve(ask(world))
        assert verdict.record.denied_by == ("dear", "budget")
        assert verdict.decision.estimate.maximum_cost_nanos == price_of("gpt-4o").cost_nanos(
            Usage(input=INPUT, output=OUTPUT)
        )

    async def test_a_repetition_is_told_the_same(self) -> None:
        world = World(policy(DEAR, limit()))
        first = await world.enforcer.reserve(ask(world), fingerprint="one")
        again = await world.enforcer.reserve(ask(world), fingerprint="one")
        assert again.earlier is State.RESERVED
        assert again.facts.model == "gpt-4o-mini"
        assert again.decision.changes == first.decision.changes
        assert again.record.requested_model == "gpt-4o"


@pytest.mark.parametrize("order", [lambda limits: limits, lambda limits: tuple(reversed(limits))])
async def test_a_clamp_makes_room_on_limits_that_deny_too(order: Callable[[Any], Any]) -> None:
    denying = limit(Metric.OUTPUT_TOKENS, 400, name="denying")
    world = World(policy(*order((WRITTEN, denying))))
    verdict: Verdict = await world.enforcer.reserve(ask(world))
    assert (verdict.max_output_tokens, verdict.decision.changes.clamped_by) == (400, ("written",))


async def test_a_limit_that_denies_is_not_made_room_on_where_no_other_refuses() -> None:
    denying = limit(Metric.OUTPUT_TOKENS, 400, name="denying")
    world = World(policy(WRITTEN, denying))
    verdict = await world.enforcer.reserve(ask(world, max_output_tokens=500))
    assert verdict.record.denied_by == ("denying",)
