"""Bodies that two parsers could read two ways, and numbers that are none: the table of each attack and its outcome.

What is refused, the provider never sees. What passes is priced as the provider will read it.
"""

from __future__ import annotations

import json

import pytest

from policyd.core.record import Outcome
from tests.builders import World
from tests.ext_proc import wire
from tests.ext_proc.envoy_model import Envoy
from tests.ext_proc.wire import decision_fields, request_headers

MESSAGES = b'"messages":[{"role":"user","content":"Hi"}]'


def chat_with(members: bytes) -> bytes:
    return b'{"model":"gpt-4o",' + MESSAGES + b"," + members + b"}"


def chat_of(model: bytes) -> bytes:
    return b'{"model":' + model + b"," + MESSAGES + b"}"


REFUSED = {
    "NaN": (chat_with(b'"temperature":NaN'), "the body is not JSON"),
    "Infinity": (chat_with(b'"temperature":-Infinity'), "the body is not JSON"),
    "1e999": (chat_with(b'"temperature":1e999'), "the body is not JSON"),
    "maximum 1e999": (chat_with(b'"max_tokens":1e999'), "the body is not JSON"),
    "maximum of 5,000 digits": (chat_with(b'"max_tokens":' + b"9" * 5000), "the body is not JSON"),
    "maximum as a fraction": (chat_with(b'"max_tokens":1e2'), "max_tokens: expected an integer"),
    "maximum as text": (chat_with(b'"max_tokens":"100"'), "max_tokens: expected an integer"),
    "maximum as a boolean": (chat_with(b'"max_tokens":true'), "max_tokens: expected an integer"),
    "negative maximum": (chat_with(b'"max_tokens":-1'), "max_tokens: expected an integer from 1"),
    "no output": (chat_with(b'"max_tokens":0'), "max_tokens: expected an integer from 1"),
    "huge maximum": (chat_with(b'"max_tokens":1000000000000'), "max_tokens: expected an integer from 1"),
    "choices as text": (chat_with(b'"n":"3"'), "n: expected an integer"),
    "a million choices": (chat_with(b'"n":1000000'), "n: expected an integer from 1 to 128"),
    "stream 1": (chat_with(b'"stream":1'), "stream: expected true or false"),
    "stream as text": (chat_with(b'"stream":"true"'), "stream: expected true or false"),
    "two models": (b'{"model":"gpt-4o-mini",' + MESSAGES + b',"model":"o1-pro"}', "model: given twice"),
    "two models, one escaped": (b'{"model":"gpt-4o-mini",' + MESSAGES + b',"mod\\u0065l":"o1-pro"}', "model: given"),
    "two models, one in capitals": (b'{"model":"gpt-4o-mini",' + MESSAGES + b',"MODEL":"o1-pro"}', "model: spelt"),
    "two maxima": (chat_with(b'"max_tokens":1,"max_tokens":9999'), "max_tokens: given twice"),
    "two maxima, one folded": (chat_with('"max_tokens":1,"max_to\u212aens":9'.encode()), "max_tokens: spelt"),
    "two streams": (chat_with(b'"stream":false,"stream":true'), "stream: given twice"),
    "model as a number": (chat_of(b"4"), "model: expected a text"),
    "model as a list": (chat_of(b'["gpt-4o"]'), "model: expected a text"),
    "model with a NUL": (chat_of(b'"gpt-4o\\u0000"'), "model holds control characters"),
    "model of half a character": (chat_of(b'"gpt-\\ud800"'), "the body is not JSON"),
    "model without end": (chat_of(b'"' + b"m" * 100_000 + b'"'), "model is longer than 256"),
    "no model": (b"{" + MESSAGES + b"}", "model: expected a text"),
    "invalid UTF-8": (chat_with(b'"user":"\xff\xfe"'), "the body is not UTF-8"),
    "UTF-16": (chat_with(b'"n":1').decode().encode("utf-16"), "the body is not JSON"),
    "byte order mark": (b"\xef\xbb\xbf" + chat_with(b'"n":1'), "the body is not JSON"),
    "nested without end": (chat_with(b'"x":' + b"[" * 100_000 + b"]" * 100_000), "nested too deeply"),
    "something after it": (chat_with(b'"n":1') + b"{}", "the body is not JSON"),
    "a NUL after it": (chat_with(b'"n":1') + b"\0", "the body is not JSON"),
    "comments": (chat_with(b'/* "n":9 */"n":1'), "the body is not JSON"),
    "an array of requests": (b"[" + chat_with(b'"n":1') + b"]", "has to be a JSON object"),
    "nothing but a blank": (b" ", "the body is not JSON"),
}


@pytest.mark.parametrize(("body", "message"), REFUSED.values(), ids=REFUSED)
async def test_refused(world: World, body: bytes, message: str) -> None:
    envoy = Envoy(world)
    await envoy.request(request_headers(body), [body])
    await envoy.close()

    assert not envoy.upstream.ended
    assert envoy.client.status == 400
    assert decision_fields(envoy.client.body)["reason"] in ("body_unreadable", "attribute_invalid")
    assert message in json.loads(envoy.client.body)["error"]["message"]
    assert world.record.outcome is Outcome.REJECTED
    assert await world.spent() == 0


READ = {
    "null as what is absent": chat_with(b'"max_tokens":null,"stream":null,"n":null'),
    "the same model twice": b'{"model":"gpt-4o",' + MESSAGES + b',"model":"gpt-4o"}',
    "50,000 members that nobody knows": chat_with(b",".join(b'"k%d":1' % number for number in range(50_000))),
    "a long number": chat_with(b'"seed":' + b"1" * 300),
    "capitals in what is not priced": chat_with(b'"Metadata":{}'),
}


@pytest.mark.parametrize("body", READ.values(), ids=READ)
async def test_priced_as_the_provider_reads_it(world: World, body: bytes) -> None:
    envoy = Envoy(world)
    await envoy.request(request_headers(body), [body])
    await envoy.response(wire.reply_headers(length=len(wire.chat_reply())), [wire.chat_reply()])
    await envoy.close()

    assert envoy.upstream.body == body
    assert world.record.model == "gpt-4o"
    assert await world.spent() == world.record.actual_cost_nanos


HEADERS = {
    "query of 1,001 parameters": ({":path": wire.CHAT_PATH + "?" + "&".join(["a=1"] * 1001)}, 400),
    "compressed body": ({"content-encoding": "br"}, 400),
    "upgrade on a plain route": ({"upgrade": "websocket", "connection": "upgrade"}, 400),
    "announced beyond the maximum": ({"content-length": "104857600"}, 413),
    "another method": ({":method": "PATCH"}, 404),
}


@pytest.mark.parametrize(("headers", "status"), HEADERS.values(), ids=HEADERS)
async def test_headers_that_are_refused(world: World, headers: dict[str, str], status: int) -> None:
    body = wire.chat()
    envoy = Envoy(world)
    await envoy.request(request_headers(body) | headers, [body])
    await envoy.close()

    assert not envoy.upstream.ended
    assert envoy.client.status == status
    assert await world.spent() == 0
