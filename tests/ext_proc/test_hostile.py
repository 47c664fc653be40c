"""Whatever clients, providers and Envoy send: only documented outcomes, balanced books, and no hold left behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd.core.policy import FailureMode, Metric, OnDisconnect, Policy, Unbounded
from policyd.core.record import Outcome
from policyd.ext_proc import messages as m
from policyd.ext_proc.driver import Driver
from policyd.ext_proc.exchange import Exchange
from policyd.ext_proc.messages import BodyMode
from policyd.ext_proc.settings import ExchangeSettings
from policyd.ext_proc.states import State
from tests.builders import USD, World, limit, policy
from tests.ext_proc import wire
from tests.ext_proc.envoy_model import Envoy
from tests.ext_proc.wire import chat, chat_reply, chat_stream, message_reply, message_stream, messages, request_headers

PROVIDERS = {wire.CHAT_PATH: "error", wire.MESSAGES_PATH: "type"}
"""Each path, and the member that its provider's error body has first."""

READABLE = [mode for mode in BodyMode if mode is not BodyMode.NONE]

MANY = settings(max_examples=150)


def hostile_policy(
    failure_mode: FailureMode = FailureMode.CLOSED,
    budget: int = 10 * USD,
    tokens: int = 10,
    unbounded: Unbounded = Unbounded.ALLOW,
    on_disconnect: OnDisconnect = OnDisconnect.OBSERVED,
) -> Policy:
    return policy(
        limit(amount=budget),
        limit(Metric.TOKENS, 100_000, name="tokens"),
        limit(Metric.CONCURRENT_REQUESTS, 1, name="at once"),
        limit(Metric.COST, USD, name="by user", per=("user", "model")),
        failure_mode=failure_mode,
        default_max_output_tokens=tokens,
        unbounded=unbounded,
        on_disconnect=on_disconnect,
    )


policies = st.builds(
    hostile_policy,
    failure_mode=st.sampled_from(FailureMode),
    budget=st.sampled_from([1, 200_000, 10 * USD]),
    tokens=st.sampled_from([1, 20, 4096]),
    unbounded=st.sampled_from([Unbounded.ALLOW, Unbounded.SET_MAXIMUM]),
    on_disconnect=st.sampled_from(OnDisconnect),
)

bodies = st.one_of(
    st.builds(chat, st.text(max_size=40), stream=st.booleans(), max_tokens=st.integers(1, 300)),
    st.builds(chat, stream=st.just(True)),
    st.builds(messages, st.text(max_size=40), stream=st.booleans()),
)


@st.composite
def garbled(draw: st.DrawFn, good: st.SearchStrategy[bytes]) -> bytes:
    """Good bytes with some cut off, taken out, repeated, overwritten or put in."""
    body = draw(good)
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 20)))
        junk = draw(
            st.one_of(st.binary(max_size=8), st.sampled_from([b"", b'"', b"{", b"}", b"[", b"null", b"-1", b"\n\n"]))
        )
        body = draw(st.sampled_from([body[:start], body[:start] + junk + body[end:], body + body[start:end]]))
    return body


@st.composite
def chunked(draw: st.DrawFn, body: st.SearchStrategy[bytes]) -> list[bytes]:
    return wire.cut_at(draw(body), draw(st.lists(st.integers(0, 5000), max_size=8)))


WORDS = """
role content type text image_url url name tools function arguments input source data index error code message delta
choices usage prompt_tokens completion_tokens input_tokens output_tokens prompt_tokens_details cached_tokens x_groq
tool_calls cache_control finish_reason object
"""

MEMBERS = """
model messages max_tokens max_completion_tokens n stream stream_options tools system user tier response_format functions
web_search_options service_tier speed
"""

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 10**30),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(
            ["user", "text", "image_url", "data:image/png;base64,AAAA", "gpt-4o", "claude-sonnet-4-5", "auto"]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(WORDS.split()), inner, max_size=5)
    ),
    max_leaves=15,
)
"""JSON of the right words in the wrong places."""

wrong_bodies = st.dictionaries(st.sampled_from(MEMBERS.split()), values, max_size=6).map(
    lambda members: json.dumps(json.loads(chat()) | members).encode()
)

replies = st.one_of(
    st.just(chat_reply()),
    st.just(b"".join(chat_stream())),
    st.just(b"".join(chat_stream(usage=None))),
    st.just(message_reply()),
    st.just(b"".join(message_stream())),
    values.map(lambda value: json.dumps(value).encode()),
    st.lists(values, max_size=6).map(
        lambda events: b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    ),
    st.binary(max_size=200),
)


async def balanced(world: World) -> None:
    """Nothing is held, what is spent is what was recorded, and there is one record an exchange at the most."""
    books = await world.books()
    assert books.open_reservations == 0
    assert not any(books.reserved.values())
    assert world.enforcer.open_reservations == 0
    records = world.seen.records
    assert len(records) == len({record.request_id for record in records}) <= 1
    assert books.spent["budget"] == sum(record.actual_cost_nanos or 0 for record in records)
    assert books.spent["tokens"] == sum(record.usage.tokens for record in records if record.usage is not None)
    assert books.spent["at once"] == 0
    assert books.spent["budget"] >= 0


def documented(envoy: Envoy, path: str) -> None:
    """The request was refused in its provider's shape, or went upstream."""
    if envoy.upstream.ended:
        return
    assert 400 <= envoy.client.status < 600
    document = json.loads(envoy.client.body)
    assert next(iter(document)) == PROVIDERS[path]
    assert document["error"]["policyd"]["request_id"] == "pd-1"
    assert document["error"]["message"]


class TestRequests:
    @given(
        chunks=chunked(st.one_of(garbled(bodies), wrong_bodies, st.binary(max_size=100))),
        path=st.sampled_from(sorted(PROVIDERS)),
        mode=st.sampled_from(READABLE),
        policy=policies,
        user=st.text(max_size=300),
    )
    @MANY
    async def test_any_body(self, chunks: list[bytes], path: str, mode: BodyMode, policy: Policy, user: str) -> None:
        world = World(policy)
        envoy = Envoy(world, request_mode=mode)
        headers = request_headers(b"".join(chunks), path=path, x_policyd_user=user)
        await envoy.request(headers, chunks)
        documented(envoy, path)
        await envoy.close()
        await balanced(world)
        # No body whatever makes policyd itself fail.
        assert [record for record in world.seen.records if record.outcome is Outcome.FAILED] == []
        assert [record for record in world.seen.records if record.outcome is Outcome.UNMETERED] == []

    @given(
        path=st.text(max_size=60).map(lambda rest: f"/v1/{rest}"),
        method=st.sampled_from(["GET", "POST", "PUT", "", "CONNECT", "post"]),
        host=st.sampled_from(["api.openai.com", "api.anthropic.com:443", "", "[::1]", "x" * 300]),
        headers=st.dictionaries(
            st.sampled_from(["upgrade", "content-encoding", "content-length", "x-policyd-user", "x-policyd-tier"]),
            st.text(max_size=20),
        ),
        provider=st.one_of(st.none(), st.text(max_size=10)),
        mode=st.sampled_from(READABLE),
    )
    @MANY
    async def test_any_headers(
        self, path: str, method: str, host: str, headers: dict[str, str], provider: str | None, mode: BodyMode
    ) -> None:
        world = World(hostile_policy())
        driver = driver_of(world)
        sent: list[m.Reply] = []

        async def send(reply: m.Reply) -> None:
            sent.append(reply)

        plain = request_headers(path=path, method=method, host=host) | headers
        await driver.handle(m.RequestHeaders(plain, False, request_body_mode=mode, provider=provider), send)
        await driver.handle(m.RequestBody(chat(), end_of_stream=True), send)
        await driver.handle(m.Closed(), send)
        assert driver.aborted is None
        await balanced(world)
        assert [record for record in world.seen.records if record.outcome is Outcome.FAILED] == []


class Reply(NamedTuple):
    """A provider's reply, and how Envoy shows it."""

    chunks: list[bytes]
    content_type: str
    encoding: str
    status: str
    knows_length: bool
    hangs_up: bool
    """The client goes after the last chunk, before the end."""
    trailers: bool
    modes: tuple[BodyMode, BodyMode]

    @property
    def headers(self) -> dict[str, str]:
        headers = {":status": self.status, "content-type": self.content_type, "content-encoding": self.encoding}
        length = {"content-length": str(sum(map(len, self.chunks)))}
        return headers | length if self.knows_length else headers


any_reply = st.builds(
    Reply,
    chunks=chunked(garbled(replies)),
    content_type=st.sampled_from(["application/json", "text/event-stream", "", "text/html; charset=x", "\x00"]),
    encoding=st.sampled_from(["", "", "", "gzip", "br", "zstd", "deflate", "weird"]),
    status=st.sampled_from(["200", "200", "200", "204", "301", "400", "429", "500", "", "9" * 20, "x"]),
    modes=st.sampled_from(
        [*((BodyMode.BUFFERED, mode) for mode in READABLE), (BodyMode.FULL_DUPLEX_STREAMED, BodyMode.STREAMED)]
    ),
)


class TestReplies:
    @given(reply=any_reply, body=bodies, policy=policies)
    @settings(max_examples=300)
    async def test_any_reply(self, reply: Reply, body: bytes, policy: Policy) -> None:
        world = World(policy)
        path = wire.MESSAGES_PATH if b"claude" in body else wire.CHAT_PATH
        envoy = Envoy(world, request_mode=reply.modes[0], response_mode=reply.modes[1])
        await envoy.request(request_headers(body, path=path), [body])
        documented(envoy, path)
        if envoy.upstream.ended:
            if reply.hangs_up:
                await hang_up_amid(envoy, reply.headers, reply.chunks)
            else:
                await envoy.response(reply.headers, reply.chunks, trailers=reply.trailers)
                assert envoy.answered
            await envoy.close()
            assert world.record.outcome is not Outcome.FAILED
        assert envoy.driver.aborted is None
        await balanced(world)


async def hang_up_amid(envoy: Envoy, headers: dict[str, str], chunks: Sequence[bytes]) -> None:
    """All of the reply comes but its end."""

    async def nowhere(_: m.Reply) -> None: ...

    await envoy.driver.handle(m.ResponseHeaders(headers, end_of_stream=False), nowhere)
    for chunk in chunks:
        if envoy.exchange.state in (State.METERING, State.FORWARDED):
            await envoy.driver.handle(m.ResponseBody(chunk, end_of_stream=False), nowhere)


def driver_of(world: World) -> Driver:
    return Driver(
        Exchange(
            request_id="pd-1",
            began_ms=world.clock.now_ms(),
            policy=world.policy,
            settings=ExchangeSettings(),
            count_text=lambda text, provider, model: world.counter.count_text(text, provider=provider, model=model),
        ),
        world.enforcer,
    )


stream_events = st.one_of(
    st.sampled_from(
        [
            m.RequestHeaders(request_headers(chat(stream=True)), end_of_stream=False),
            m.RequestHeaders(request_headers(path="/v1/models", method="GET"), end_of_stream=True),
            m.RequestHeaders(
                request_headers(chat()), end_of_stream=False, request_body_mode=BodyMode.FULL_DUPLEX_STREAMED
            ),
            m.RequestBody(chat(stream=True), end_of_stream=True),
            m.RequestBody(b"", end_of_stream=False),
            m.RequestTrailers(),
            m.ResponseHeaders(wire.SSE, end_of_stream=False),
            m.ResponseHeaders(wire.reply_headers(length=5), end_of_stream=False),
            m.ResponseHeaders({":status": "500"}, end_of_stream=True),
            m.ResponseTrailers(),
            m.ResponseBody(b"".join(chat_stream()), end_of_stream=True),
            m.Failed("a message of an unknown kind"),
        ]
    ),
    st.builds(m.ResponseBody, st.sampled_from(chat_stream(["some more text"] * 5)), st.booleans()),
)


class TestOrder:
    """Envoy's messages in any order. A message out of its place fails the exchange, and never the process."""

    @given(events=st.lists(stream_events, max_size=12), policy=policies)
    @settings(max_examples=400)
    async def test_any_order(self, events: list[m.Event], policy: Policy) -> None:
        world = World(policy)
        driver = driver_of(world)

        async def nowhere(_: m.Reply) -> None: ...

        for event in events:
            await driver.handle(event, nowhere)
            if driver.aborted is not None:
                break
        await driver.handle(m.Closed(), nowhere)
        await balanced(world)

    @given(events=st.lists(stream_events, max_size=8), policy=policies)
    @MANY
    async def test_any_order_within_a_metered_exchange(self, events: list[m.Event], policy: Policy) -> None:
        world = World(policy)
        driver = driver_of(world)

        async def nowhere(_: m.Reply) -> None: ...

        body = chat(stream=True)
        for event in (
            m.RequestHeaders(request_headers(body), end_of_stream=False),
            m.RequestBody(body, end_of_stream=True),
            *events,
        ):
            await driver.handle(event, nowhere)
            if driver.aborted is not None:
                break
        await driver.handle(m.Closed(), nowhere)
        assert len(world.seen.records) == 1
        await balanced(world)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 50_000, b'{"messages":' + b"[{" * 30_000])
@pytest.mark.parametrize("path", PROVIDERS)
async def test_nesting_without_end(world: World, body: bytes, path: str) -> None:
    envoy = Envoy(world)
    await envoy.request(request_headers(body, path=path), [body])
    documented(envoy, path)
    assert envoy.client.status == 400


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("reply", [b"[" * 100_000, b'{"a":' * 50_000, b"data: " + b"[" * 100_000 + b"\n\n"])
async def test_nesting_without_end_in_a_reply(world: World, reply: bytes, content_type: str) -> None:
    envoy = Envoy(world)
    await envoy.request(request_headers(chat(stream=True)), [chat(stream=True)])
    await envoy.response(wire.reply_headers(content_type), [reply])
    await envoy.close()
    assert envoy.client.body == reply
    assert world.record.outcome is Outcome.SERVED
