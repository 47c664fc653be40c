"""Recorded traffic through the whole chain: `policyd up`, a real Envoy, and a provider that replies as it once did.

Every exchange is priced, held, metered and settled, and neither side notices that policyd is there. A few exchanges of
our own go the same way always; 300 recorded ones where the file of them is at hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from enum import Enum, auto
from fractions import Fraction
from math import ceil
from typing import Any

import msgspec
import pytest

from policyd.core.money import NANOS_PER_USD, parse_usd
from policyd.core.own_prices import Tariff
from policyd.core.pricing import Price
from policyd.core.usage import Usage
from policyd.providers.vendors import vendor_named
from tests import recordings
from tests.accuracy.reported import disagreements
from tests.builders import COUNTER, published_prices
from tests.e2e.exchanges import COSTS_NANOS, EXCHANGES
from tests.e2e.mesh import Balance
from tests.e2e.replaying import (
    PROJECT,
    Exchange,
    Replay,
    choose,
    content_type,
    gives_length,
    provider_name,
    replay,
    request_of,
    target_at_provider,
    usage_is_added,
)
from tests.providers.replay import read_document, read_stream, some_facts
from tests.recordings import WIRES, Recording, has_readable_request

RECORDED = 300


@pytest.fixture(scope="module", params=["own", pytest.param("recorded", marks=recordings.AT_HAND)])
def replayed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Replay:
    chosen = list(EXCHANGES)
    if request.param == "recorded":
        chosen = choose(filter(has_readable_request, recordings.recordings()), RECORDED)
    return replay(chosen, folder=tmp_path_factory.mktemp("replay"))


class Charge(Enum):
    """What an exchange has to be charged, going by its reply."""

    REPORTED = auto()
    """What the provider says was used."""
    COUNTED = auto()
    """The input, and the output as it can be seen."""
    HOLD = auto()
    """All that was held: the reply does not say what it costs."""
    NOTHING = auto()
    """An error."""


SOURCES = {
    Charge.REPORTED: "reported",
    Charge.COUNTED: "counted",
    Charge.HOLD: "none",
    Charge.NOTHING: "none",
}


def charge_of(recording: Recording) -> Charge:
    body = recording["response_body"]
    if recording["expected_usage"] is not None:
        return Charge.REPORTED
    if recording["status"] < 400 and (not body or '"choices"' in body):
        return Charge.COUNTED
    return Charge.NOTHING if has_error(recording) else Charge.HOLD


def has_error(recording: Recording) -> bool:
    """By its status, or inside a reply of status 200: a document, or an event of a stream."""
    inside = re.search(r'^(data: )?{\s*"error"', recording["response_body"], re.MULTILINE)
    return recording["status"] >= 400 or inside is not None


def charged(replayed: Replay, charge: Charge) -> list[Exchange]:
    exchanges = [each for each in replayed.exchanges if charge_of(each.recording) is charge]
    assert exchanges
    return exchanges


# --- what both sides see ---


def test_the_provider_gets_the_request_as_it_was(replayed: Replay) -> None:
    for exchange in replayed.exchanges:
        recording, arrival = exchange.recording, exchange.arrival
        assert arrival.target == target_at_provider(recording), recording["id"]
        assert PROJECT not in arrival.headers
        body = recording["request_body"].encode()
        if usage_is_added(recording):
            assert_usage_is_asked_for(arrival.body, body)
        else:
            assert arrival.body == body, recording["id"]


def assert_usage_is_asked_for(sent: bytes, original: bytes) -> None:
    """One piece was spliced in, or put in the place of a value; all around it is as it was."""
    wanted = msgspec.json.decode(original)
    wanted["stream_options"] = {**(wanted.get("stream_options") or {}), "include_usage": True}
    assert msgspec.json.decode(sent) == wanted
    same = next(at for at, (one, other) in enumerate(zip(sent, original, strict=False)) if one != other)
    rest = original[same:].removeprefix(b"false")
    assert sent.endswith(rest)
    assert len(sent) - same - len(rest) <= len(b',"stream_options":{"include_usage":true}')


def test_the_client_gets_the_reply_as_it_was(replayed: Replay) -> None:
    for exchange in replayed.exchanges:
        recording, reply = exchange.recording, exchange.reply
        assert reply.status_code == recording["status"], recording["id"]
        assert reply.headers["content-type"] == content_type(recording)
        body = recording["response_body"].encode()
        expected = without_usage_chunk(body) if usage_is_added(recording) else body
        assert reply.content == expected, recording["id"]


def test_usage_that_the_client_did_not_ask_for_is_withheld(replayed: Replay) -> None:
    withheld = [
        exchange
        for exchange in replayed.exchanges
        if exchange.reply.content != exchange.recording["response_body"].encode()
    ]
    assert withheld
    for exchange in withheld:
        assert b'"usage":{' not in exchange.reply.content
        assert exchange.line["usage_source"] == "reported"


def without_usage_chunk(stream: bytes) -> bytes:
    return b"".join(event for event in re.split(rb"(?<=\n\n)", stream) if not is_usage_chunk(event))


def is_usage_chunk(event: bytes) -> bool:
    try:
        chunk = msgspec.json.decode(event.removeprefix(b"data:"))
    except msgspec.DecodeError:
        return False
    return isinstance(chunk, dict) and chunk.get("choices") == [] and bool(chunk.get("usage"))


# --- what is logged ---


def test_every_exchange_has_its_line(replayed: Replay) -> None:
    for exchange in replayed.exchanges:
        recording, line = exchange.recording, exchange.line
        request = request_of(recording)
        assert line["provider"] == provider_name(recording)
        assert line["model"] == request["model"]
        assert line["endpoint"] in ("chat.completions", "messages")
        assert line["attributes"] == {"project": recording["id"]}
        assert line["status"] == recording["status"]
        assert line["decision"] == "allow"
        assert line["denied_by"] == line["shadow_denied_by"] == []
        assert line["outcome"] == ("provider_error" if has_error(recording) else "served"), recording["id"]
        assert (line["error"] is not None) == has_error(recording)


def test_usage_comes_from_where_it_should(replayed: Replay) -> None:
    for exchange in replayed.exchanges:
        recording = exchange.recording
        assert exchange.line["usage_source"] == SOURCES[charge_of(recording)], recording["id"]


def test_reported_usage_is_the_recorded_one(replayed: Replay) -> None:
    for exchange in charged(replayed, Charge.REPORTED):
        assert exchange.usage is not None
        assert not disagreements(exchange.usage, exchange.recording), exchange.recording["id"]
        assert exchange.line["response_model"] == exchange.recording["expected_usage"]["model"]


def test_counted_usage_is_the_input_and_the_output_that_is_there(replayed: Replay) -> None:
    for exchange in charged(replayed, Charge.COUNTED):
        usage, recording = exchange.usage, exchange.recording
        assert usage is not None
        assert 0 < usage.input <= int(exchange.reply.headers["x-policyd-estimated-input-tokens"])
        whole = COUNTER.count_text(
            text_of(recording), provider=provider_name(recording), model=request_of(recording)["model"]
        )
        # The last piece of a stream is counted apart from what came before: a word that it divides counts more.
        assert whole <= usage.output <= whole + 2, recording["id"]
        assert usage == Usage(input=usage.input, output=usage.output)


def text_of(recording: Recording) -> str:
    """The output that is in the reply."""
    reader, body = (
        WIRES[recording["wire"]].reply_reader(some_facts(), usage_added=False),
        recording["response_body"].encode(),
    )
    if recording["framing"] == "sse":
        read_stream(reader, [body])
    elif body:
        read_document(reader, body)
    return reader.take_text()


def test_a_reply_that_does_not_say_what_it_costs_is_charged_its_hold(replayed: Replay) -> None:
    for exchange in charged(replayed, Charge.HOLD):
        usage, headers = exchange.usage, exchange.reply.headers
        assert usage is not None
        assert usage.input_tokens == int(headers["x-policyd-estimated-input-tokens"])
        assert usage.output_tokens == int(headers["x-policyd-estimated-output-tokens"])
        assert cost_nanos(exchange) == held_nanos(exchange) > 0


def test_an_error_costs_nothing(replayed: Replay) -> None:
    for exchange in charged(replayed, Charge.NOTHING):
        assert exchange.usage is None
        assert cost_nanos(exchange) == 0


# --- the money ---


def test_the_cost_is_the_price_of_the_usage(replayed: Replay) -> None:
    for exchange in replayed.exchanges:
        usage = exchange.usage or Usage()
        price = price_of(exchange)
        rates = {kind: price.rate(kind, input_tokens=usage.input_tokens) for kind in usage.by_kind()}
        exact = sum(units * Fraction(rates[kind].nanos, rates[kind].per) for kind, units in usage.by_kind().items())
        assert cost_nanos(exchange) == ceil(exact), exchange.recording["id"]


def price_of(exchange: Exchange) -> Price:
    """The price of the model that the reply names, else of the one that was asked for, else of its maker's, else of
    gpt-4o."""
    book, line = published_prices(), exchange.line
    at_ms = int(datetime.fromisoformat(line["timestamp"]).timestamp() * 1000)
    terms = dict(re.findall(r'"(service_tier|speed)": ?"(\w+)"', exchange.recording["response_body"]))
    for model in (line["response_model"], line["model"]):
        if model and (found := book.find(provider=line["provider"], model=model, at_ms=at_ms, terms=terms)):
            return found.price
    maker, _, name = line["model"].partition("/")
    if vendor_named(line["provider"]).resells and (
        made := book.find(provider=vendor_named(maker).id, model=name, at_ms=at_ms)
    ):
        return made.price
    guess = Tariff(book).find_anywhere(model="gpt-4o", at_ms=at_ms)
    assert guess is not None
    return guess.price


@pytest.mark.parametrize("replayed", ["own"], indirect=True)
def test_the_price_is_the_published_one(replayed: Replay) -> None:
    costs = {exchange.recording["id"]: cost_nanos(exchange) for exchange in replayed.exchanges}
    assert {name: costs[name] for name in COSTS_NANOS} == COSTS_NANOS


def test_the_estimate_is_held_until_the_provider_has_answered(replayed: Replay) -> None:
    for exchange in replayed.exchanges:
        assert exchange.arrival.held == Balance(spent=0, reserved=held_nanos(exchange)), exchange.recording["id"]
        assert held_nanos(exchange) == nanos(exchange.line["estimated_cost_usd"]) > 0
        assert exchange.line["confidence"] == exchange.reply.headers["x-policyd-confidence"]


def test_a_document_of_known_length_carries_its_cost(replayed: Replay) -> None:
    for exchange in replayed.exchanges:
        recording, headers = exchange.recording, exchange.reply.headers
        document = recording["framing"] != "sse" and not request_of(recording).get("stream")
        carries = document and gives_length(recording) and recording["response_body"] and exchange.usage is not None
        assert ("x-policyd-cost-usd" in headers) == bool(carries), recording["id"]
        if carries:
            assert parse_usd(headers["x-policyd-cost-usd"]) == cost_nanos(exchange)


def test_the_ledger_is_the_sum_of_all_exchanges(replayed: Replay) -> None:
    used = [exchange.usage for exchange in replayed.exchanges if exchange.usage is not None]
    spent = {
        "cost": sum(map(cost_nanos, replayed.exchanges)),
        "tokens": sum(usage.tokens for usage in used),
        "input": sum(usage.input_tokens for usage in used),
        "output": sum(usage.output_tokens for usage in used),
        "requests": len(used),
        "concurrent": 0,
    }
    assert replayed.balances == {name: Balance(spent=amount, reserved=0) for name, amount in spent.items()}


def test_the_usage_records_say_what_the_log_lines_say(replayed: Replay) -> None:
    records = {record.request_id: record for record in replayed.usage_records}
    assert len(records) == len(replayed.usage_records) == len(replayed.exchanges)
    for exchange in replayed.exchanges:
        record = records[exchange.line["request_id"]]
        assert record.attributes["project"] == exchange.recording["id"]
        assert record.actual_cost.units * NANOS_PER_USD + record.actual_cost.nanos == cost_nanos(exchange)
        assert record.HasField("usage") == (exchange.usage is not None)
        if exchange.usage is not None:
            fields = {field.name: value for field, value in record.usage.ListFields()}
            assert fields == exchange.usage.by_kind()


def cost_nanos(exchange: Exchange) -> int:
    return nanos(exchange.line["actual_cost_usd"])


def held_nanos(exchange: Exchange) -> int:
    return parse_usd(exchange.reply.headers["x-policyd-estimated-cost-usd"])


def nanos(usd: float) -> int:
    """A log line's number of dollars: a float holds as many digits as it was written with."""
    return parse_usd(str(usd))


# --- what was replayed ---


def test_there_is_something_of_everything(replayed: Replay) -> None:
    seen: set[Any] = set()
    for exchange in replayed.exchanges:
        recording = exchange.recording
        framing = "stream" if recording["framing"] == "sse" else "document"
        seen.update((charge_of(recording), (recording["wire"], framing), (framing, gives_length(recording))))
    assert seen >= {
        *Charge,
        *((wire, framing) for wire in WIRES for framing in ("stream", "document")),
        *((framing, length) for framing in ("stream", "document") for length in (True, False)),
    }


@pytest.mark.parametrize("replayed", [pytest.param("recorded", marks=recordings.AT_HAND)], indirect=True)
def test_every_vendor_was_replayed(replayed: Replay) -> None:
    chosen = [exchange.recording for exchange in replayed.exchanges]
    assert len(chosen) == RECORDED
    assert vendors(chosen) == vendors(filter(has_readable_request, recordings.recordings()))


def vendors(chosen: Iterable[Recording]) -> set[str]:
    return {recording["vendor"] for recording in chosen}
