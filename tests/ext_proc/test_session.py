"""A realtime session: what it holds, when it charges, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policyd.core.policy import FailureMode, Metric, OnDisconnect
from policyd.core.pricing import Price
from policyd.core.record import Outcome, UsageSource
from policyd.core.usage import Usage
from policyd.ext_proc import messages as m
from policyd.ext_proc import session
from policyd.ext_proc.session import TABLE
from policyd.ext_proc.states import SessionState as State
from policyd.providers.framing.websocket import Kind, encode_close, encode_text
from tests.builders import USD, World, limit, policy, price_of
from tests.ext_proc.session_rig import (
    CREATE,
    CREATED,
    LIVE_PATH,
    OPENAI_PATH,
    USAGE,
    SessionRig,
    audio,
    done,
)
from tests.ext_proc.trying_stores import failing
from tests.providers.frames import frame
from tests.stores.outage.rig import AWAY, Rig

SETUP: dict[str, Any] = {"setup": {"model": "models/gemini-live-2.5-flash"}}

REALTIME: Price = price_of("gpt-realtime")
COST = REALTIME.cost_nanos(USAGE)


async def test_each_response_is_charged_when_it_ends_and_the_next_one_held_for() -> None:
    world = World()
    rig = SessionRig(world)
    await rig.open()
    first = (await world.books()).reserved["budget"]
    for times in (1, 2, 3):
        await rig.say(CREATE)
        await rig.answer(CREATED, audio(100), done(USAGE))
        books = await world.books()
        assert books.spent["budget"] == times * COST
        # The next response reads what this one did, and what it said.
        assert books.reserved["budget"] > first
    await rig.send(encode_close(1000, "", from_client=True))
    await rig.close()
    assert await world.books() == (await World(store=world.store).books())
    books = await world.books()
    assert (books.spent["budget"], books.reserved["budget"], books.open_reservations) == (3 * COST, 0, 0)
    served = [record for record in world.seen.records if record.usage == USAGE]
    assert [record.request_id for record in served] == ["pd-1-1", "pd-1-2", "pd-1-3"]
    assert {record.usage_source for record in served} == {UsageSource.REPORTED}
    assert [(r.request_id, r.outcome) for r in world.seen.records[3:]] == [
        ("pd-1-4", Outcome.RELEASED),
        ("pd-1", Outcome.SERVED),
    ]


async def test_what_passes_is_what_came() -> None:
    rig = SessionRig(World())
    await rig.open()
    said = frame(b'{"type":', first=1, masked=True) + frame(b'"x"}', first=0x80, masked=True)
    answered = encode_text(json.dumps(CREATED).encode(), from_client=False) + frame(b"?", opcode=9)
    for index in range(len(said)):
        await rig.send(said[index : index + 1])
    await rig.tell(m.ResponseBody(answered, end_of_stream=False))
    assert (rig.provider.raw, rig.client.raw) == (said, answered)


async def test_the_handshake_goes_on_without_compression_and_without_identity() -> None:
    rig = SessionRig(World(), f"{OPENAI_PATH}&project_id=blue", **{"x-policyd-user": "ann"})
    await rig.open()
    assert rig.upstream is not None
    assert rig.reply is not None
    assert rig.upstream.set_headers == {":path": OPENAI_PATH}
    assert set(rig.upstream.remove_headers) == {"x-policyd-user", "sec-websocket-extensions"}
    assert rig.upstream.mode is not None
    assert rig.upstream.mode.request_body is rig.upstream.mode.response_body is m.BodyMode.FULL_DUPLEX_STREAMED
    assert rig.reply.set_headers["x-policyd-request-id"] == "pd-1"
    await rig.close()
    assert {r.attributes["user"] for r in rig.world.seen.records} == {"ann"}
    assert {r.attributes["project"] for r in rig.world.seen.records} == {"blue"}


@pytest.mark.parametrize(("minor", "pieces"), [(None, 0), (36, 1), (39, 1), (40, 0)])
async def test_older_envoys_get_a_piece_of_body_with_the_handshake(minor: int | None, pieces: int) -> None:
    rig = SessionRig(World())
    event = m.RequestHeaders(rig.handshake.headers, end_of_stream=False, envoy_minor=minor)
    replies: list[m.Reply] = []

    async def send(reply: m.Reply) -> None:
        replies.append(reply)

    await rig.driver.handle(event, send)
    await rig.driver.handle(m.ResponseHeaders({":status": "101"}, end_of_stream=False), send)
    found = [reply for reply in replies if isinstance(reply, m.StreamedBody)]
    assert [(piece.response, piece.body, piece.end_of_stream) for piece in found] == [
        (False, b"", False),
        (True, b"", False),
    ][: 2 * pieces]
    await rig.close()


# --- refused ---


async def test_a_handshake_that_does_not_fit_is_refused() -> None:
    world = World(policy(limit(amount=1)))
    rig = SessionRig(world)
    await rig.open()
    assert rig.refusal is not None
    assert rig.refusal.status == 402
    assert json.loads(rig.refusal.body)["error"]["code"] == "budget_exceeded"
    books = await world.books()
    assert (books.spent["budget"], books.open_reservations) == (0, 0)


async def test_a_session_is_one_of_concurrent_requests() -> None:
    one = limit(Metric.CONCURRENT_REQUESTS, 1, name="open")
    world = World(policy(one, limit()))
    first, second, third = (SessionRig(world) for _ in range(3))
    first.session.request_id, second.session.request_id = "pd-a", "pd-b"
    await first.open()
    await first.answer(CREATED, done(USAGE))
    await second.open()
    assert second.refusal is not None
    await first.close()
    await third.open()
    assert third.refusal is None
    await third.close()


async def test_a_session_is_one_request() -> None:
    world = World(policy(limit(Metric.REQUESTS, 5, name="requests"), limit()))
    rig = SessionRig(world)
    await rig.open()
    for _ in range(3):
        await rig.answer(CREATED, done(USAGE))
    await rig.close()
    assert await world.spent("requests") == 1


async def test_what_the_provider_refuses_costs_nothing() -> None:
    world = World(policy(limit(Metric.REQUESTS, 5, name="requests"), limit()))
    rig = SessionRig(world)
    await rig.open(status=401)
    await rig.tell(m.ResponseBody(b'{"error": {}}', end_of_stream=True))
    assert rig.client.raw == b'{"error": {}}'
    assert rig.client.ended
    await rig.close()
    assert await world.spent("requests") == await world.spent() == 0
    assert {(r.outcome, r.status) for r in world.seen.records} == {(Outcome.PROVIDER_ERROR, 401)}


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/v1/realtime?call_id=rtc_1", {}), (OPENAI_PATH, {"x-policyd-project": "x" * 1_000})],
)
async def test_a_handshake_that_cannot_be_metered_is_refused(path: str, headers: dict[str, str]) -> None:
    rig = SessionRig(World(), path, **headers)
    await rig.open()
    assert rig.refusal is not None
    assert rig.refusal.status == 400
    assert rig.world.record.outcome is Outcome.REJECTED


@pytest.mark.parametrize("mode", FailureMode)
async def test_a_handshake_that_meets_a_failure_is_refused(mode: FailureMode) -> None:
    """Whatever the mode: nobody knows what a session will cost."""
    world = World(policy(failure_mode=mode), wrap=failing("reserve"))
    rig = SessionRig(world)
    await rig.tell(rig.handshake)
    assert rig.session.state is State.ENDED
    assert rig.refusal is not None
    assert rig.refusal.status == 503


# --- cut ---


async def test_a_session_is_cut_when_there_is_no_room_for_another_response() -> None:
    world = World(policy(limit(amount=USD * 45 // 100)))
    rig = SessionRig(world)
    await rig.open()
    await rig.answer(CREATED, audio(1_500), done(Usage(input=100, audio_output=2_000)), {"type": "too late"})
    assert [each["type"] for each in rig.client.messages][-2:] == ["response.done", "error"]
    assert rig.client.messages[-1]["error"]["policyd"]["limits"][0]["name"] == "budget"
    assert (rig.client.close_code, rig.client.ended, rig.provider.close_code) == (1008, True, 1001)
    await rig.say(CREATE)
    assert rig.provider.messages == []
    await rig.close()
    assert await world.spent() == REALTIME.cost_nanos(Usage(input=100, audio_output=2_000))
    assert [r.outcome for r in world.seen.records] == [Outcome.SERVED, Outcome.CUT, Outcome.DENIED]


async def test_a_response_that_outgrows_its_hold_is_topped_up_and_cut_at_the_last_cent() -> None:
    world = World(policy(limit(Metric.OUTPUT_TOKENS, 5_000, name="tokens")))
    rig = SessionRig(world)
    await rig.open()
    await rig.answer(CREATED)
    passed = 0
    while not rig.client.ended:
        await rig.answer(audio(300))
        passed += not rig.client.ended
        assert passed < 100
    # What is held is for as much again as came last.
    assert passed == 5_000 // 300 - 1
    assert rig.client.close_code == 1008
    await rig.close()
    assert (await world.books()).reserved["tokens"] == 0
    cut = world.seen.records[0]
    assert (cut.outcome, cut.usage_source, cut.usage and cut.usage.audio_output) == (
        Outcome.CUT,
        UsageSource.COUNTED,
        300 * (passed + 1),
    )


async def test_what_the_client_sends_is_held_for_before_it_passes() -> None:
    world = World(policy(limit(Metric.INPUT_TOKENS, 12_000, name="tokens")))
    rig = SessionRig(world)
    await rig.open()
    await rig.answer({"type": "session.created"})
    held = (await world.books()).reserved["tokens"]
    item = {"type": "conversation.item.create", "item": {"content": [{"type": "input_text", "text": "word " * 6_000}]}}
    await rig.say(item)
    assert len(rig.provider.messages) == 1
    assert (await world.books()).reserved["tokens"] >= held + 1_900
    await rig.say(item, item)
    assert rig.client.close_code == 1008
    assert len(rig.provider.messages) < 3
    await rig.close()


async def test_responses_at_once_are_held_for_each() -> None:
    world = World()
    rig = SessionRig(world)
    await rig.open()
    one = (await world.books()).reserved["budget"]
    output = REALTIME.cost_nanos(Usage(audio_output=4_096))
    await rig.say(CREATE, CREATE, CREATE)
    assert (await world.books()).reserved["budget"] >= one + 2 * output
    await rig.answer(CREATED, CREATED, CREATED, done(USAGE))
    assert (await world.books()).reserved["budget"] >= one + output
    await rig.answer(done(USAGE), done(USAGE))
    await rig.close()
    assert await world.spent() == 3 * COST


async def test_a_failing_store_cuts_a_session() -> None:
    world = World(wrap=failing("settle"))
    rig = SessionRig(world)
    await rig.open()
    await rig.answer(CREATED, done(USAGE))
    assert rig.client.close_code == 1011
    assert rig.client.messages[-1]["error"]["code"] == "policy_unavailable"
    # Nothing is lost: the hold expires and is charged.
    assert (await world.books()).reserved["budget"] > 0


# --- the end ---


@pytest.mark.parametrize(
    ("on_disconnect", "output"),
    [(OnDisconnect.OBSERVED, 100), (OnDisconnect.EXPECTED, 3_072), (OnDisconnect.MAXIMUM, 4_096)],
)
async def test_a_hang_up_in_a_response_is_charged_what_was_seen(on_disconnect: OnDisconnect, output: int) -> None:
    world = World(policy(limit(Metric.OUTPUT_TOKENS, 50_000, name="tokens"), on_disconnect=on_disconnect))
    rig = SessionRig(world)
    await rig.open()
    await rig.answer(CREATED, audio(100))
    await rig.close()
    assert await world.spent("tokens") == output
    assert [r.outcome for r in world.seen.records] == [Outcome.DISCONNECTED, Outcome.DISCONNECTED]


async def test_a_hang_up_after_a_response_was_asked_for_is_charged_its_input() -> None:
    world = World(policy(limit(Metric.INPUT_TOKENS, 50_000, name="tokens")))
    rig = SessionRig(world)
    await rig.open()
    await rig.say({"type": "conversation.item.create", "item": {"text": "word " * 100}}, CREATE)
    await rig.close()
    assert await world.spent("tokens") > 100


async def test_a_hang_up_while_nothing_is_answered_costs_nothing() -> None:
    world = World()
    rig = SessionRig(world)
    await rig.open()
    await rig.close()
    assert await world.spent() == 0


async def test_a_failed_response_costs_nothing() -> None:
    world = World()
    rig = SessionRig(world)
    await rig.open()
    await rig.answer(CREATED, done(None, status="failed"))
    await rig.close()
    assert await world.spent() == 0
    assert world.seen.records[0].outcome is Outcome.PROVIDER_ERROR


async def test_a_transcription_is_charged_to_its_own_model() -> None:
    world = World()
    rig = SessionRig(world)
    await rig.open()
    transcribe = {"audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}}
    await rig.say({"type": "session.update", "session": transcribe})
    usage = {"type": "tokens", "input_tokens": 60, "output_tokens": 9, "input_token_details": {"audio_tokens": 60}}
    await rig.answer({"type": "conversation.item.input_audio_transcription.completed", "usage": usage})
    charged = price_of("gpt-4o-transcribe").cost_nanos(Usage(audio_input=60, output=9))
    assert (await world.books()).spent["budget"] == charged
    assert world.record.model == "gpt-4o-transcribe"
    await rig.close()


@pytest.mark.parametrize("mode", FailureMode)
async def test_a_transcription_is_charged_once_the_store_is_back(tmp_path: Path, mode: FailureMode) -> None:
    """It has taken place, whatever the mode says of what is new."""
    rig = Rig(tmp_path, policy=policy(failure_mode=mode))
    store = rig.process()
    session = SessionRig(World(rig.policy, store=rig.store.inner, wrap=lambda _: store))
    await session.open()
    rig.store.error = AWAY
    usage = {"type": "tokens", "input_tokens": 60, "output_tokens": 9, "input_token_details": {"audio_tokens": 60}}
    await session.answer({"type": "conversation.item.input_audio_transcription.completed", "usage": usage})
    await session.close()
    rig.store.error = None
    await store.mend()
    assert await session.world.spent() == REALTIME.cost_nanos(Usage(audio_input=60, output=9))


async def test_a_session_that_only_transcribes_is_decided_once_it_names_its_model() -> None:
    world = World()
    rig = SessionRig(world, "/v1/realtime?intent=transcription")
    await rig.open()
    assert (await world.books()).open_reservations == 0
    transcription = {"model": "gpt-4o-transcribe"}
    await rig.say({"type": "session.update", "session": {"input_audio_transcription": transcription}})
    usage = {"type": "tokens", "input_tokens": 60, "output_tokens": 9, "input_token_details": {"audio_tokens": 60}}
    await rig.answer({"type": "conversation.item.input_audio_transcription.completed", "usage": usage})
    await rig.close()
    assert await world.spent() == price_of("gpt-4o-transcribe").cost_nanos(Usage(audio_input=60, output=9))


# --- Gemini Live ---


async def test_gemini_is_decided_by_its_first_message_and_charged_by_the_turn() -> None:
    world = World()
    rig = SessionRig(world, LIVE_PATH)
    await rig.open()
    assert (await world.books()).open_reservations == 0
    await rig.say(SETUP)
    assert rig.provider.messages == [SETUP]
    spoken = [{"modality": "AUDIO", "tokenCount": 30}]
    usage = {"promptTokenCount": 12, "responseTokenCount": 30, "responseTokensDetails": spoken}
    for _ in range(2):
        await rig.answer(
            {"serverContent": {"outputTranscription": {"text": "Hello"}}},
            {"serverContent": {"turnComplete": True}, "usageMetadata": usage},
        )
    await rig.close()
    price = price_of("gemini-live-2.5-flash", "google")
    assert await world.spent() == 2 * price.cost_nanos(Usage(input=12, audio_output=30))


async def test_gemini_is_turned_away_with_a_close_frame() -> None:
    rig = SessionRig(World(policy(limit(amount=1))), LIVE_PATH)
    await rig.open()
    await rig.say(SETUP)
    # Envoy takes nothing for the client before the provider has answered.
    assert [unit.kind for unit in rig.provider.units] == [Kind.CONTROL]
    assert rig.client.raw == b""
    await rig.tell(m.ResponseBody(frame(b"", opcode=10), end_of_stream=False))
    assert (rig.client.messages, rig.client.close_code, rig.client.ended) == ([], 1008, True)
    assert (rig.provider.messages, rig.provider.close_code) == ([], 1001)


@pytest.mark.parametrize("first", [{"realtimeInput": {"text": "Hello"}}, {}])
async def test_gemini_has_to_name_its_model_first(first: dict[str, Any]) -> None:
    rig = SessionRig(World(), LIVE_PATH)
    await rig.open()
    await rig.say(first)
    await rig.answer({})
    assert (rig.provider.messages, rig.client.close_code) == ([], 1007)


async def test_gemini_keeps_its_model() -> None:
    rig = SessionRig(World(), LIVE_PATH)
    await rig.open()
    await rig.say(SETUP, {"setup": {"model": "models/gemini-3.1-flash-live-preview"}})
    await rig.answer({"setupComplete": {}})
    assert (rig.provider.messages, rig.client.close_code) == ([SETUP], 1007)


# --- hostile ---


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(b"{}"), 1002),
        (frame(b"{}", first=0xC1, masked=True), 1002),
        (frame(b"\xff", masked=True), 1007),
        (frame(b"no JSON", masked=True), 1007),
        (frame(b"\x00\x01", opcode=2, masked=True), 1007),
        (frame(b'{"type": "a", "type": "b"}', masked=True), 1007),
        (frame(b"[" * 100_000, masked=True), 1007),
        (b"\x81\xff" + (1 << 40).to_bytes(8), 1009),
    ],
)
async def test_a_client_that_cannot_be_read_is_cut(sent: bytes, code: int) -> None:
    world = World()
    rig = SessionRig(world)
    await rig.open()
    await rig.answer({"type": "session.created"})
    await rig.send(sent)
    assert (rig.client.close_code, rig.client.ended) == (code, True)
    assert rig.provider.messages == []
    assert rig.client.messages[-1]["type"] == "error"
    await rig.close()
    assert (await world.books()).open_reservations == 0


async def test_a_provider_that_cannot_be_read_is_cut_and_what_it_said_is_charged() -> None:
    world = World(policy(limit(Metric.OUTPUT_TOKENS, 50_000, name="tokens")))
    rig = SessionRig(world)
    await rig.open()
    await rig.answer(CREATED, audio(100))
    await rig.tell(m.ResponseBody(frame(b"{}", masked=True), end_of_stream=False))
    assert rig.client.close_code == 1011
    await rig.close()
    assert await world.spent("tokens") == 100
    assert world.seen.records[-1].outcome is Outcome.PROVIDER_ERROR


async def test_data_after_a_close_does_not_pass() -> None:
    rig = SessionRig(World())
    await rig.open()
    close = encode_close(1000, "", from_client=True)
    await rig.send(close + encode_text(json.dumps(CREATE).encode(), from_client=True))
    await rig.say(CREATE)
    assert rig.provider.raw == close
    await rig.close()


async def test_what_a_provider_says_after_the_close_is_charged() -> None:
    world = World()
    rig = SessionRig(world)
    await rig.open()
    await rig.say(CREATE, CREATE)
    await rig.answer(CREATED, CREATED)
    await rig.send(encode_close(1000, "", from_client=True))
    await rig.answer(done(USAGE), done(USAGE))
    await rig.close()
    assert await world.spent() == 2 * COST


# --- the table ---


@pytest.mark.parametrize("state", State)
def test_envoy_can_close_and_policyd_can_fail_in_every_state(state: State) -> None:
    assert (state, m.Closed) in TABLE
    assert (state, m.Failed) in TABLE


def test_the_picture_names_every_state() -> None:
    assert session.__doc__ is not None
    for state in State:
        assert f"    {state.upper()} " in session.__doc__
