"""Events of a stream that pass without being read: what is known in the end is what reading each of them would tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd.core.estimate import Confidence, Estimate
from policyd.core.own_prices import Tariff
from policyd.core.usage import Usage
from policyd.ext_proc.meter import UNDECODED_BYTES_MAX, Framing, ReplyMeter
from policyd.providers.anthropic.reply import AnthropicReply
from policyd.providers.base import Prompt, ReplyReader, RequestFacts
from policyd.providers.framing.frame import Frame
from policyd.providers.openai.reply import OpenAIChatReply
from policyd.providers.openai.responses_reply import OpenAIResponsesReply
from tests.builders import price_of, published_prices
from tests.ext_proc import wire

FACTS = RequestFacts("gpt-4o", True, Prompt(()), None)
HELD = Usage(input=20, output=4096)
ESTIMATE = Estimate(
    price=price_of("gpt-4o"),
    tariff=Tariff(published_prices()),
    expected=HELD,
    maximum=HELD,
    confidence=Confidence.HIGH,
    bounded=False,
)


class ChatReply(OpenAIChatReply):
    def __init__(self) -> None:
        super().__init__(FACTS, usage_added=False)


class Kind(NamedTuple):
    """A wire format's reader, and what its streams are made of."""

    reader: Callable[[], ReplyReader]
    first: bytes
    text: Callable[[str], bytes]
    others: tuple[bytes, ...]
    """What else may come, in any order: the end, usage, errors."""


def responses_event(kind: str, **members: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **members}).encode())


_RESPONSE_USAGE = {"input_tokens": 9, "output_tokens": 12, "total_tokens": 21}

KINDS = {
    "openai-chat": Kind(
        ChatReply,
        wire.chat_chunk({"role": "assistant", "content": ""}),
        lambda text: wire.chat_chunk({"content": text}),
        (
            wire.chat_chunk({}, finish="stop"),
            wire.usage_chunk(),
            wire.DONE,
            b'data: {"error": {"type": "server_error"}}\n\n',
            b": a comment\n\n",
        ),
    ),
    "anthropic": Kind(
        AnthropicReply,
        wire.message_start(),
        wire.text_delta,
        (
            wire.event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 6}),
            wire.event("message_stop"),
            wire.event("error", error={"type": "overloaded_error"}),
            wire.event("ping"),
        ),
    ),
    "openai-responses": Kind(
        OpenAIResponsesReply,
        responses_event("response.created", response={"model": "gpt-4o", "status": "in_progress"}),
        lambda text: responses_event("response.output_text.delta", delta=text),
        (
            responses_event("response.completed", response={"status": "completed", "usage": _RESPONSE_USAGE}),
            responses_event("response.failed", response={"status": "failed", "error": {"code": "server_error"}}),
            responses_event("error", code="server_error"),
        ),
    ),
}


def fed(meter: ReplyMeter, chunk: bytes) -> bytes:
    """What the client may have once `chunk` has come."""
    return chunk if meter.passes_unread(chunk) else meter.feed(chunk)


def meter_of(reader: ReplyReader) -> ReplyMeter:
    return ReplyMeter(reader=reader, framing=Framing.EVENTS, decoder=None, estimate=ESTIMATE, held=HELD, count_text=len)


def reading_all(kind: Kind) -> ReplyReader:
    """A reader of the same kind that is given each event as it comes."""
    made = type(kind.reader())
    eager = type("Eager", (made,), {"telling": None, "__slots__": ()})
    reader: ReplyReader = eager()
    return reader


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_nothing_is_known_otherwise(kind: Kind, data: st.DataObject) -> None:
    texts = st.text(st.characters(codec="utf-8"), max_size=12).map(kind.text)
    events = [kind.first, *data.draw(st.lists(texts | st.sampled_from(kind.others), max_size=30))]
    stream = b"".join(events)
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=4))
    ends = [sum(map(len, events[: index + 1])) for index in range(len(events))]
    chunks = wire.cut_at(stream, sorted({*places, *data.draw(st.lists(st.sampled_from(ends), max_size=30))}))
    lazy, eager = meter_of(kind.reader()), meter_of(reading_all(kind))

    for chunk in chunks:
        assert fed(lazy, chunk) == fed(eager, chunk)
        assert bool(lazy.shortfall_tokens()) == bool(eager.shortfall_tokens())
    assert lazy.finish() == eager.finish()

    assert lazy.observed() == eager.observed()
    for fact in ("usage", "usage_complete", "model", "error", "terms"):
        assert getattr(lazy.reader, fact) == getattr(eager.reader, fact)


class Counting(ChatReply):
    __slots__ = ("read",)

    def __init__(self) -> None:
        super().__init__()
        self.read = 0

    def read_frame(self, frame: Frame) -> bool:
        self.read += 1
        return super().read_frame(frame)


WORD = wire.chat_chunk({"content": " x"})


def played(events: list[bytes]) -> Counting:
    reader = Counting()
    meter = meter_of(reader)
    for event in events:
        assert fed(meter, event) == event
    meter.finish()
    meter.observed()
    return reader


def test_text_is_not_read_where_the_provider_reports_usage() -> None:
    first, *others = KINDS["openai-chat"].first, *[WORD] * 15
    assert played([first, *others, wire.usage_chunk(), wire.DONE]).read == 3


def test_text_is_read_where_it_does_not() -> None:
    assert played([KINDS["openai-chat"].first, *[WORD] * 15, wire.DONE]).read == 17


def test_no_more_is_kept_than_is_allowed() -> None:
    meter = meter_of(Counting())
    meter.grant(10**9)
    for event in [KINDS["openai-chat"].first, *[WORD] * (3 * UNDECODED_BYTES_MAX // len(WORD))]:
        fed(meter, event)
        assert len(meter._undecoded) <= UNDECODED_BYTES_MAX
