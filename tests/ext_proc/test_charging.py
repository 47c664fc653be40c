"""What an exchange is charged, rule by rule."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from policyd.core.estimate import Confidence, Estimate
from policyd.core.own_prices import Tariff
from policyd.core.policy import OnDisconnect
from policyd.core.record import Outcome, UsageSource
from policyd.core.usage import Usage
from policyd.enforcer import Ending
from policyd.ext_proc import messages as m
from policyd.ext_proc.charging import disconnected, ended
from policyd.ext_proc.meter import Framing, ReplyMeter
from policyd.ext_proc.reply import NO_REPLY, ReplyHead
from policyd.providers.base import Prompt, RequestFacts
from policyd.providers.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT
from tests.builders import price_of, published_prices
from tests.ext_proc import wire

COUNTED, REPORTED, NONE = UsageSource.COUNTED, UsageSource.REPORTED, UsageSource.NONE
SERVED, FAILED = Outcome.SERVED, Outcome.PROVIDER_ERROR

ESTIMATE = Estimate(
    price=price_of("gpt-4o"),
    tariff=Tariff(published_prices()),
    expected=Usage(input=40, output=30),
    maximum=Usage(input=50, output=100),
    confidence=Confidence.HIGH,
    bounded=True,
)
FACTS = RequestFacts(model="gpt-4o", streamed=True, prompt=Prompt(()), max_output_tokens=100)


def head(status: int = 200, *, has_body: bool = True) -> ReplyHead:
    return ReplyHead.of(m.ResponseHeaders({":status": str(status)}, end_of_stream=not has_body))


def meter(framing: Framing, body: bytes, *, anthropic: bool = False) -> ReplyMeter:
    """A meter that has read `body`. Every character of text is a token."""
    wire_format = ANTHROPIC_MESSAGES if anthropic else OPENAI_CHAT
    it = ReplyMeter(
        reader=wire_format.reply_reader(FACTS, usage_added=True),
        framing=framing,
        decoder=None,
        estimate=ESTIMATE,
        held=ESTIMATE.maximum,
        count_text=len,
    )
    it.feed(body)
    it.finish()
    return it


def events(*raw: bytes) -> ReplyMeter:
    return meter(Framing.EVENTS, b"".join(raw))


def document(raw: bytes) -> ReplyMeter:
    return meter(Framing.DOCUMENT, raw)


TEXT = wire.chat_chunk({"content": "twelve bytes"})
USAGE = wire.usage_chunk({"prompt_tokens": 44, "completion_tokens": 55})
OUTPUT_ALONE = wire.usage_chunk({"completion_tokens": 55})
ERROR = b'data: {"error": {"code": "overloaded"}}\n\n'
REFUSED = wire.chat_reply(usage={"prompt_tokens": 9, "completion_tokens": 0}, choices=[])
HELD, INPUT = ESTIMATE.maximum, Usage(input=40)
TOLD = Usage(input=44, output=55)


class Rule(NamedTuple):
    name: str
    head: ReplyHead
    meter: ReplyMeter | None
    outcome: Outcome
    usage: Usage | None
    source: UsageSource
    error: str | None = None


RULES = [
    Rule("usage reported", head(), events(TEXT, USAGE), SERVED, TOLD, REPORTED),
    Rule("usage reported in a document", head(), document(wire.chat_reply()), SERVED, wire.CHAT_USED, REPORTED),
    Rule("no usage", head(), events(TEXT, wire.DONE), SERVED, Usage(input=40, output=12), COUNTED),
    Rule("no usage, text past the bound", head(), events(TEXT * 9), SERVED, Usage(input=40, output=100), COUNTED),
    Rule("usage without the input", head(), events(TEXT, OUTPUT_ALONE), SERVED, Usage(input=40, output=55), COUNTED),
    Rule("nothing but comments", head(), events(b": ping\n\n"), SERVED, INPUT, COUNTED),
    Rule("no body", head(has_body=False), None, SERVED, INPUT, COUNTED),
    Rule("an empty body", head(), document(b""), SERVED, INPUT, COUNTED),
    Rule("a body that cannot be decoded", head(), None, SERVED, HELD, NONE),
    Rule("a document that is none", head(), document(b"<html>"), SERVED, HELD, NONE),
    Rule("a document that broke off", head(), document(wire.chat_reply()[:100]), SERVED, HELD, NONE),
    Rule("status 500", head(500), document(b"oh"), FAILED, None, NONE, "http_500"),
    Rule("status 500 without a body", head(500, has_body=False), None, FAILED, None, NONE, "http_500"),
    Rule("status 500 that cannot be decoded", head(500), None, FAILED, None, NONE, "http_500"),
    Rule("status 400 with a code", head(400), document(b'{"error":{"code":"bad"}}'), FAILED, None, NONE, "bad"),
    Rule("status 400 with usage", head(400), document(wire.chat_reply()), FAILED, wire.CHAT_USED, REPORTED, "http_400"),
    Rule("status 400 with input used", head(400), document(REFUSED), FAILED, Usage(input=9), REPORTED, "http_400"),
    Rule("an error in a stream", head(), events(ERROR), FAILED, None, NONE, "overloaded"),
    Rule("an error after text", head(), events(TEXT, ERROR), FAILED, Usage(input=40, output=12), COUNTED, "overloaded"),
    Rule("an error after usage", head(), events(TEXT, USAGE, ERROR), FAILED, TOLD, REPORTED, "overloaded"),
    Rule("a document that is an error", head(), document(b'{"error":{"code":"bad"}}'), FAILED, None, NONE, "bad"),
    Rule("headers without a status", head(0), events(TEXT, USAGE), SERVED, TOLD, REPORTED),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_a_reply_that_ended(rule: Rule) -> None:
    ending = ended(rule.head, rule.meter, ESTIMATE)
    assert (ending.outcome, ending.usage, ending.source) == (rule.outcome, rule.usage, rule.source)
    assert ending.status == (rule.head.status or None)
    assert ending.error == rule.error


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_a_reply_that_broke_off_there(rule: Rule) -> None:
    """Observed: the same, under another name, unless the reply had told of an error or a stream was whole before."""
    meter = rule.meter
    over = meter is not None and (meter.reader.error is not None or (meter.is_stream and meter.reader.usage_complete))
    outcome = rule.outcome if over else Outcome.DISCONNECTED
    ending = disconnected(rule.head, rule.meter, ESTIMATE, on_disconnect=OnDisconnect.OBSERVED)
    assert (ending.outcome, ending.usage, ending.source) == (outcome, rule.usage, rule.source)
    assert ending.error == rule.error


def settings(head: ReplyHead, meter: ReplyMeter | None) -> list[Usage | None]:
    """What each setting of `on_disconnect` charges: observed, expected, maximum."""
    return [disconnected(head, meter, ESTIMATE, on_disconnect=setting).usage for setting in OnDisconnect]


def test_what_the_settings_charge_where_no_usage_was_told() -> None:
    assert settings(NO_REPLY, None) == [INPUT, ESTIMATE.expected, HELD]
    assert settings(head(), events()) == [INPUT, ESTIMATE.expected, HELD]
    assert settings(head(), events(TEXT)) == [Usage(input=40, output=12), ESTIMATE.expected, HELD]
    assert settings(head(), events(TEXT * 3)) == [Usage(input=40, output=36), Usage(input=40, output=36), HELD]


def test_what_the_settings_charge_where_it_does_not_matter() -> None:
    assert settings(head(), events(TEXT, USAGE)) == [TOLD] * 3
    assert settings(head(500), events()) == [None] * 3
    assert settings(head(), document(b"<html>")) == [HELD] * 3


def test_an_input_that_was_told_is_charged_as_told() -> None:
    usage = {"input_tokens": 5, "cache_read_input_tokens": 900, "output_tokens": 1}
    start = wire.event("message_start", message={"model": "claude", "usage": usage})
    told = Usage(input=5, cached_input=900)
    read = meter(Framing.EVENTS, start, anthropic=True)
    assert settings(head(), read) == [
        Usage(input=5, cached_input=900, output=1),
        Usage(input=5, cached_input=900, output=30),
        Usage(input=told.input, cached_input=told.cached_input, output=100),
    ]


def test_what_the_record_says_beside_the_usage() -> None:
    served = ended(
        head(), events(wire.chat_chunk({}), USAGE.replace(b'"choices"', b'"service_tier":"flex","choices"')), ESTIMATE
    )
    assert served == Ending(
        outcome=SERVED,
        usage=TOLD,
        source=REPORTED,
        status=200,
        response_model="gpt-4o-2024-08-06",
        terms={"service_tier": "flex"},
        streamed=True,
    )
    assert not ended(head(), document(wire.chat_reply()), ESTIMATE).streamed
