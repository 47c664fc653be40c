"""A stream that outgrows its hold: topped up while the budget lasts, cut cleanly at its last event when it does not."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd.core.estimate import Confidence, Estimate
from policyd.core.own_prices import Tariff
from policyd.core.policy import Action, Hold, Metric, Policy, Unbounded
from policyd.core.record import Outcome, UsageSource
from policyd.core.usage import Usage
from policyd.ext_proc import messages as m
from policyd.ext_proc.meter import TOP_UP_TOKENS_MIN, Framing, ReplyMeter
from policyd.ext_proc.states import State
from policyd.providers.base import Prompt, RequestFacts
from policyd.providers.registry import OPENAI_CHAT
from tests.builders import COUNTER, World, limit, policy, price_of, published_prices
from tests.ext_proc import wire
from tests.ext_proc.by_hand import ByHand, at_once
from tests.ext_proc.envoy_model import Envoy
from tests.ext_proc.wire import DONE, SSE, chat, chat_chunk, chat_stream, messages, request_headers, usage_chunk

PRICE = price_of("gpt-4o")
TOKEN_NANOS = PRICE.cost_nanos(Usage(output=1))
INPUT = 10
"""Input tokens of `chat()`."""

WORD = " hello"
"""One token of gpt-4o, wherever it stands."""


def cost(output_tokens: int, *, input_tokens: int = INPUT) -> int:
    return PRICE.cost_nanos(Usage(input=input_tokens, output=output_tokens))


def word_event() -> bytes:
    return chat_chunk({"content": WORD})


def test_a_word_is_a_token() -> None:
    assert COUNTER.count_text(WORD, provider="openai", model="gpt-4o") == 1
    assert COUNTER.count_text(WORD * 50, provider="openai", model="gpt-4o") == 50


async def streamed(
    world: World, chunks: list[bytes], *, body: bytes | None = None, path: str = wire.CHAT_PATH
) -> Envoy:
    envoy = Envoy(world)
    body = chat(stream=True) if body is None else body
    await envoy.request(request_headers(body, path=path), [body])
    assert envoy.upstream.ended, envoy.client
    await envoy.response(SSE, chunks)
    await envoy.close()
    return envoy


def words_seen(envoy: Envoy) -> int:
    return envoy.client.body.count(word_event())


def extensions(world: World) -> int:
    return sum(operation == "extend" for operation, _ in world.seen.store_calls)


def small_hold(*limits: object, tokens: int = 10, **others: object) -> Policy:
    """A policy under which a request without a maximum holds `tokens` of output."""
    return policy(*limits, default_max_output_tokens=tokens, **others)  # type: ignore[arg-type]


class TestToppingUp:
    async def test_a_stream_within_its_hold_asks_for_nothing(self, world: World) -> None:
        await streamed(world, chat_stream([WORD] * 500))
        assert extensions(world) == 0

    async def test_a_stream_that_outgrows_its_hold(self) -> None:
        world = World(small_hold())
        events = [word_event()] * 5000
        envoy = await streamed(world, [*events, DONE])
        assert envoy.client.body == b"".join([*events, DONE])
        assert world.record.outcome is Outcome.SERVED
        assert world.record.usage == Usage(input=INPUT, output=5000)
        assert await world.spent() == cost(5000)

    async def test_top_ups_grow_geometrically(self) -> None:
        world = World(small_hold(limit(amount=10**12)))
        it = ByHand(world).bring_to(State.METERING)
        held, wanted = 10, []
        for _ in range(40_000):
            effects = it.receive(m.ResponseBody(word_event(), end_of_stream=False))
            if it.state is State.TOPPING_UP:
                (top_up,) = effects
                assert isinstance(top_up, m.TopUp)
                # The one event that comes next is all that is needed.
                assert top_up.at_least_tokens == 1
                assert top_up.wanted_tokens == max(TOP_UP_TOKENS_MIN, held)
                held += top_up.wanted_tokens
                wanted.append(top_up.wanted_tokens)
                assert it.receive(m.Extended(top_up.wanted_tokens)) == [m.StreamedBody(True, word_event(), False)]
        assert wanted == [256, 266, 532, 1064, 2128, 4256, 8512, 17_024, 34_048]
        assert held >= 40_000

    async def test_what_is_held_is_always_more_than_what_has_passed(self) -> None:
        world = World(small_hold())
        envoy = Envoy(world)
        body = chat(stream=True)
        await envoy.request(request_headers(body), [body])
        held: list[int] = []

        async def send(reply: m.Reply) -> None:
            if isinstance(reply, m.StreamedBody) and reply.body:
                held.append((await world.books()).reserved["budget"])

        await envoy.driver.handle(m.ResponseHeaders(SSE, end_of_stream=False), send)
        for _ in range(1000):
            await envoy.driver.handle(m.ResponseBody(word_event(), end_of_stream=False), send)
        assert all(nanos >= cost(passed) for passed, nanos in enumerate(held, 1))
        await envoy.close()

    @pytest.mark.parametrize("metric", [Metric.TOKENS, Metric.OUTPUT_TOKENS])
    async def test_tokens_are_topped_up_too(self, metric: Metric) -> None:
        tokens = 100 + (INPUT if metric is Metric.TOKENS else 0)
        world = World(small_hold(limit(metric, tokens)))
        envoy = await streamed(world, [word_event()] * 150)
        assert words_seen(envoy) == 100
        assert await world.spent() == tokens

    async def test_a_burst_waits_for_the_top_up_and_no_longer(self) -> None:
        it = ByHand(World(small_hold())).bring_to(State.METERING)
        (top_up,) = it.receive(m.ResponseBody(word_event() * 50, end_of_stream=False))
        assert isinstance(top_up, m.TopUp)
        assert it.receive(m.Extended(100)) == [m.StreamedBody(True, word_event() * 50, False)]

    async def test_a_shadow_limit_is_in_nobodys_way(self) -> None:
        world = World(small_hold(limit(amount=1, action=Action.SHADOW)))
        envoy = await streamed(world, [word_event()] * 500)
        assert words_seen(envoy) == 500
        assert await world.spent() == cost(500)

    async def test_an_expected_hold_is_topped_up_as_far_as_the_clients_maximum(self) -> None:
        world = World(policy(limit(hold=Hold.EXPECTED)))
        envoy = await streamed(world, [word_event()] * 400, body=chat(stream=True, max_tokens=400))
        assert words_seen(envoy) == 400
        assert extensions(world) == 1

    def test_no_more_is_asked_for_than_a_bounded_reply_can_come_to(self) -> None:
        it = ByHand(World(policy(limit(hold=Hold.EXPECTED))))
        it.receive(it.headers(), m.RequestBody(chat(stream=True, max_tokens=400), end_of_stream=True))
        it.receive(it.decided(), m.ResponseHeaders(SSE, end_of_stream=False))
        it.receive(m.ResponseBody(word_event() * 300, end_of_stream=False))
        (top_up,) = it.effects
        assert isinstance(top_up, m.TopUp)
        assert (top_up.at_least_tokens, top_up.wanted_tokens) == (1, 100)

    async def test_an_expected_hold_with_no_room_for_more_is_cut(self) -> None:
        world = World(policy(limit(amount=cost(300), hold=Hold.EXPECTED)))
        envoy = await streamed(world, [word_event()] * 400, body=chat(stream=True, max_tokens=400))
        assert world.record.outcome is Outcome.CUT
        assert words_seen(envoy) == 300
        assert await world.spent() == cost(300)


class TestCutting:
    @pytest.mark.parametrize("affordable", [10, 11, 12, 265, 266, 267, 700])
    async def test_at_the_last_affordable_event(self, affordable: int) -> None:
        world = World(small_hold(limit(amount=cost(affordable))))
        envoy = await streamed(world, [word_event()] * 1000)
        assert words_seen(envoy) == affordable
        assert envoy.client.ended
        assert not envoy.client.reset
        assert envoy.upstream.reset
        assert world.record.outcome is Outcome.CUT
        assert (world.record.status, world.record.error) == (200, "budget_exceeded")
        assert world.record.usage == Usage(input=INPUT, output=affordable)
        assert world.record.usage_source is UsageSource.COUNTED
        assert await world.spent() == cost(affordable)

    async def test_with_a_last_event_in_the_providers_format(self) -> None:
        world = World(small_hold(limit(amount=cost(10))))
        envoy = await streamed(world, [word_event()] * 20)
        *_, error_event, done = envoy.client.body.removesuffix(b"\n\n").split(b"\n\n")
        assert done == b"data: [DONE]"
        error = json.loads(error_event.removeprefix(b"data: "))["error"]
        assert error["type"] == "insufficient_quota"
        assert error["message"] == "The budget was used up during this reply; it ends here."
        assert error["policyd"] == {"reason": "budget_exceeded", "request_id": "pd-1"}

    async def test_with_a_last_event_in_anthropics_format(self) -> None:
        world = World(policy(limit(Metric.OUTPUT_TOKENS, 60, hold=Hold.EXPECTED)))
        events = [wire.message_start(), *[wire.text_delta(WORD)] * 90]
        # Expected are 60 of 80.
        body = messages(stream=True, max_tokens=80)
        envoy = await streamed(world, events, body=body, path=wire.MESSAGES_PATH)
        head, _, data = envoy.client.body.removesuffix(b"\n\n").rpartition(b"\n\n")[2].partition(b"\n")
        assert head == b"event: error"
        document = json.loads(data.removeprefix(b"data: "))
        assert (document["type"], document["error"]["type"]) == ("error", "billing_error")
        assert document["error"]["policyd"]["reason"] == "budget_exceeded"
        assert world.record.outcome is Outcome.CUT
        assert await world.spent() <= 60

    async def test_where_envoy_streams_the_reply_the_next_piece_cancels_the_provider(self) -> None:
        world = World(small_hold(limit(amount=cost(10))))
        envoy = Envoy(world, request_mode=m.BodyMode.FULL_DUPLEX_STREAMED)
        body = chat(stream=True)
        await envoy.request(request_headers(body), [body])
        await envoy.response(SSE, [word_event()] * 20)
        await envoy.close()
        assert words_seen(envoy) == 10
        assert envoy.client.body.endswith(DONE)
        assert envoy.upstream.reset
        assert isinstance(envoy.replies[-1], m.ImmediateReply)
        assert await world.spent() == cost(10)

    async def test_an_event_that_does_not_fit_is_not_shown(self) -> None:
        world = World(small_hold(limit(amount=cost(10))))
        envoy = await streamed(world, [word_event(), chat_chunk({"content": WORD * 50}), word_event()])
        assert words_seen(envoy) == 1
        assert WORD * 2 not in envoy.client.body.decode()
        # It was generated all the same.
        assert world.record.usage == Usage(input=INPUT, output=51)

    async def test_not_once_the_reply_has_ended(self) -> None:
        """The same: what came with the end passes, whatever it costs."""
        world = World(small_hold(limit(amount=cost(10))))
        last = chat_chunk({"content": WORD * 50}) + word_event() + DONE
        envoy = await streamed(world, [word_event() * 8, last])
        assert envoy.client.body == word_event() * 8 + last
        assert world.record.outcome is Outcome.SERVED
        assert await world.spent() == cost(59)

    async def test_not_after_usage_has_told_the_end(self) -> None:
        """All of it is generated and charged: an error in place of the end would save nothing."""
        world = World(small_hold(limit(amount=cost(10))))
        usage = {"prompt_tokens": INPUT, "completion_tokens": 500}
        envoy = await streamed(world, [word_event(), usage_chunk(usage), DONE])
        assert envoy.client.body == word_event() + DONE
        assert world.record.outcome is Outcome.SERVED
        assert await world.spent() == cost(500)

    @given(
        sizes=st.lists(st.integers(1, 4), min_size=1, max_size=12),
        affordable=st.integers(10, 30),
    )
    @settings(max_examples=60)
    async def test_never_past_the_limit_by_more_than_growth_that_could_not_be_foreseen(
        self, sizes: list[int], affordable: int
    ) -> None:
        """Events as long as the one before, or shorter, never pass the limit; a longer one by its growth at most."""
        world = World(small_hold(limit(amount=cost(affordable))))
        tokens = [sizes[index % len(sizes)] for index in range(40)]
        envoy = await streamed(world, [chat_chunk({"content": WORD * each}) for each in tokens])
        growth = max([0, *(later - earlier for earlier, later in pairwise(tokens))])
        spent = await world.spent()
        assert spent <= cost(affordable + growth)
        if sum(tokens) > affordable:
            assert world.record.outcome is Outcome.CUT
            assert envoy.client.body.count(WORD.encode()) <= affordable

    @given(
        coalesced=st.lists(st.integers(1, 5), min_size=1, max_size=10),
        affordable=st.integers(1, 40),
    )
    @settings(max_examples=60)
    async def test_several_events_in_a_chunk(self, coalesced: list[int], affordable: int) -> None:
        world = World(small_hold(limit(amount=cost(affordable)), tokens=1))
        envoy = await streamed(world, [*[word_event() * events for events in coalesced], DONE])
        assert words_seen(envoy) == min(affordable, sum(coalesced))
        assert await world.spent() == cost(words_seen(envoy))


class TestBounded:
    """A request with a maximum holds all that its reply can cost: it is neither topped up nor cut."""

    async def test_a_reply_that_fills_its_maximum(self) -> None:
        world = World(policy(limit(amount=cost(100))))
        events = chat_stream([WORD] * 100, usage={"prompt_tokens": INPUT, "completion_tokens": 100})
        envoy = await streamed(world, events, body=chat(stream=True, max_tokens=100))
        assert world.record.outcome is Outcome.SERVED
        assert envoy.client.body.endswith(DONE)
        assert extensions(world) == 0
        assert await world.spent() == cost(100)

    async def test_a_count_that_is_too_high(self) -> None:
        """Text of other models is counted with a factor: the count of a full reply passes its maximum."""
        amount = 100
        held = Usage(output=amount)
        price = price_of("claude-sonnet-4-5", "anthropic")
        body = messages("Hi", stream=True, max_tokens=amount)
        free = World()
        prompt = await reserve(free, body)
        world = World(policy(limit(amount=price.cost_nanos(prompt._replace(output=amount)))))
        texts = [WORD] * amount
        assert COUNTER.count_text(WORD * amount, provider="anthropic", model="claude-sonnet-4-5") > amount
        envoy = await streamed(world, [*map(wire.text_delta, texts)], body=body, path=wire.MESSAGES_PATH)
        assert envoy.client.body.count(WORD.encode()) == amount
        assert world.record.outcome is Outcome.SERVED
        assert world.record.usage is not None
        assert world.record.usage.output_tokens == held.output_tokens

    async def test_a_maximum_that_policyd_sets(self) -> None:
        world = World(policy(limit(amount=cost(50)), unbounded=Unbounded.SET_MAXIMUM, default_max_output_tokens=50))
        envoy = await streamed(world, [word_event()] * 50)
        assert json.loads(envoy.upstream.body)["max_completion_tokens"] == 50
        assert words_seen(envoy) == 50
        assert world.record.outcome is Outcome.SERVED

    async def test_a_provider_that_does_not_keep_to_it_is_charged_for(self) -> None:
        world = World(policy(limit(amount=cost(50))))
        events = chat_stream([WORD] * 60, usage={"prompt_tokens": INPUT, "completion_tokens": 60})
        await streamed(world, events, body=chat(stream=True, max_tokens=50))
        assert await world.spent() == cost(60)


class TestUnbounded:
    async def test_allow_holds_the_default_and_leaves_the_request(self) -> None:
        world = World(small_hold(tokens=50))
        envoy = await streamed(world, chat_stream(), body=chat(stream=True, stream_options={"include_usage": True}))
        assert envoy.upstream.body == chat(stream=True, stream_options={"include_usage": True})
        assert world.record.maximum == Usage(input=INPUT, output=50)

    async def test_set_maximum_holds_it_and_sets_it(self) -> None:
        world = World(small_hold(tokens=50, unbounded=Unbounded.SET_MAXIMUM))
        envoy = await streamed(world, chat_stream())
        assert json.loads(envoy.upstream.body)["max_completion_tokens"] == 50
        assert world.record.maximum == Usage(input=INPUT, output=50)

    async def test_set_maximum_is_for_each_choice(self) -> None:
        world = World(small_hold(tokens=50, unbounded=Unbounded.SET_MAXIMUM))
        envoy = await streamed(world, chat_stream(), body=chat(stream=True, n=3))
        assert json.loads(envoy.upstream.body)["max_completion_tokens"] == 50
        assert world.record.maximum == Usage(input=INPUT, output=150)

    async def test_deny_asks_for_a_maximum(self) -> None:
        world = World(small_hold(unbounded=Unbounded.DENY))
        envoy = Envoy(world)
        body = chat(stream=True)
        await envoy.request(request_headers(body), [body])
        assert envoy.client.status == 400
        assert wire.decision_fields(envoy.client.body)["reason"] == "output_unbounded"

    async def test_a_document_may_pass_its_hold(self) -> None:
        world = World(small_hold(limit(amount=cost(10))))
        envoy = Envoy(world)
        body = chat()
        await envoy.request(request_headers(body), [body])
        reply = wire.chat_reply(usage={"prompt_tokens": INPUT, "completion_tokens": 500})
        await envoy.response(wire.reply_headers(length=len(reply)), [reply])
        await envoy.close()
        assert envoy.client.body == reply
        assert await world.spent() == cost(500)


def test_a_bounded_reply_lacks_no_more_than_it_can_come_to() -> None:
    """After 385 of 400 tokens, where 398 are held: another event as long cannot come."""
    estimate = Estimate(
        price=PRICE,
        tariff=Tariff(published_prices()),
        expected=Usage(output=300),
        maximum=Usage(output=400),
        confidence=Confidence.HIGH,
        bounded=True,
    )
    meter = ReplyMeter(
        reader=OPENAI_CHAT.reply_reader(RequestFacts("gpt-4o", True, Prompt(()), 400), usage_added=True),
        framing=Framing.EVENTS,
        decoder=None,
        estimate=estimate,
        held=estimate.expected,
        count_text=len,
    )
    meter.grant(98)
    event = chat_chunk({"content": "x" * 385})
    assert meter.feed(event) == event
    assert meter.shortfall_tokens() == meter.top_up_tokens(2) == 2


async def reserve(world: World, body: bytes, *, path: str = wire.MESSAGES_PATH) -> Usage:
    """What a request is held at: by sending it and hanging up."""
    envoy = Envoy(world)
    await envoy.request(request_headers(body, path=path), [body])
    await envoy.close()
    assert world.record.maximum is not None
    return world.record.maximum


class TestInputThatTheProviderCountsHigher:
    """`message_start` says what the input really was; it may be more than was estimated."""

    PRICE = price_of("claude-sonnet-4-5", "anthropic")
    BODY = messages("Hi", stream=True, max_tokens=100)

    async def held(self) -> Usage:
        return await reserve(World(), self.BODY)

    async def test_the_difference_is_topped_up(self) -> None:
        world = World(policy(limit()))
        held = await self.held()
        events = wire.message_stream([WORD] * 3, input_tokens=held.input_tokens + 1000, output_tokens=3)
        await streamed(world, events, body=self.BODY, path=wire.MESSAGES_PATH)
        assert 1 <= extensions(world) <= 2
        assert world.record.outcome is Outcome.SERVED
        assert await world.spent() == self.PRICE.cost_nanos(Usage(input=held.input_tokens + 1000, output=3))

    async def test_without_room_for_it_the_stream_is_cut_before_its_output(self) -> None:
        held = await self.held()
        world = World(policy(limit(amount=self.PRICE.cost_nanos(held))))
        events = wire.message_stream([WORD] * 3, input_tokens=held.input_tokens + 1000, output_tokens=3)
        envoy = await streamed(world, events, body=self.BODY, path=wire.MESSAGES_PATH)
        assert world.record.outcome is Outcome.CUT
        assert WORD.encode() not in envoy.client.body
        # The input was used all the same.
        assert world.record.usage is not None
        assert world.record.usage.input_tokens == held.input_tokens + 1000

    async def test_tokens_that_cost_little_count_as_tokens(self) -> None:
        """Read from the provider's cache, the input costs a tenth; a limit of tokens has no more room for that."""
        held = await self.held()
        world = World(policy(limit(Metric.TOKENS, held.tokens)))
        usage = {"input_tokens": 0, "cache_read_input_tokens": held.input_tokens + 50, "output_tokens": 1}
        start = wire.event("message_start", message={"model": "claude-sonnet-4-5", "usage": usage})
        await streamed(world, [start, *[wire.text_delta(WORD)] * 90], body=self.BODY, path=wire.MESSAGES_PATH)
        assert world.record.outcome is Outcome.CUT
        assert await world.spent() <= held.tokens

    async def test_a_little_more_fits_beside_a_short_reply(self) -> None:
        held = await self.held()
        world = World(policy(limit(amount=self.PRICE.cost_nanos(held))))
        events = wire.message_stream([WORD] * 3, input_tokens=held.input_tokens + 20, output_tokens=3)
        await streamed(world, events, body=self.BODY, path=wire.MESSAGES_PATH)
        assert world.record.outcome is Outcome.SERVED
        assert extensions(world) == 0


class TestCountingIsLazy:
    def meter(self, tokens: int, texts: list[str]) -> ByHand:
        world = World(small_hold(tokens=tokens))
        it = ByHand(world).bring_to(State.METERING)
        for text in texts:
            it.receive(m.ResponseBody(chat_chunk({"content": text}), end_of_stream=False))
            if it.state is State.TOPPING_UP:
                it.receive(m.Extended(10**6))
        return it

    def test_nothing_is_counted_where_the_bytes_fit_into_the_hold(self) -> None:
        it = self.meter(4096, [WORD] * 600)
        assert it.counted == []

    def test_nothing_is_counted_where_the_provider_reports(self) -> None:
        it = self.meter(4096, [WORD] * 600)
        it.receive(m.ResponseBody(usage_chunk(), end_of_stream=False), m.ResponseBody(DONE, end_of_stream=True))
        assert it.counted == []

    def test_only_the_end_without_usage_is_counted(self) -> None:
        it = self.meter(4096, [WORD] * 600)
        it.receive(m.ResponseBody(DONE, end_of_stream=True))
        assert "".join(it.counted[::-1]) == WORD * 600
        assert len(it.counted) == 2

    def test_near_the_hold_text_is_counted_once(self) -> None:
        it = self.meter(300, [WORD] * 500)
        assert it.counted
        it.receive(m.ResponseBody(DONE, end_of_stream=True))
        assert sum(map(len, it.counted)) == len(WORD) * 500

    def test_a_long_hold_keeps_no_more_text_than_a_bound(self) -> None:
        it = self.meter(10**6, ["x" * 1000] * 200)
        # Counted in parts: what is kept is never more than 64 KiB and an event.
        assert all(len(text) <= 65_536 for text in it.counted)
        assert sum(map(len, it.counted)) >= 131_072

    def test_unknown_models_are_counted_as_what_they_are(self) -> None:
        world = World(small_hold())
        it = ByHand(world).bring_to(State.METERING)
        it.receive(m.ResponseBody(word_event(), end_of_stream=False), m.Closed())
        (finish,) = it.effects
        assert isinstance(finish, m.Finish)
        assert finish.ending.usage == Usage(input=INPUT, output=1)
        record = at_once(world.enforcer.end(finish.verdict.record, finish.verdict.decision.estimate, finish.ending))
        assert record.actual_cost_nanos == cost(1)
