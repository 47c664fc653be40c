"""The measure itself: exchanges of our own are right in every number, and one that is not is found."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from policyd.core.price_book import DatedRates, ModelPrices, PriceBook, ProviderPrices, Validity
from policyd.core.pricing import Rate, RateTier
from tests.accuracy.counts import NORMALISED
from tests.accuracy.measured import Excuse, Measured, Number
from tests.accuracy.measuring import Measurer
from tests.accuracy.own import OWN
from tests.accuracy.table import failures, misses, table
from tests.recordings import Recording

MEASURER = Measurer(seed=1)

CHAT = next(recording for recording in OWN if recording["id"] == "own-openai-chat-json")
CONVERSE = next(recording for recording in OWN if recording["wire"] == "bedrock-converse")


def measure(recording: Recording, **others: Any) -> Measured:
    return MEASURER.measure({**recording, **others})


@pytest.mark.parametrize("recording", OWN, ids=[f"{each['wire']}-{each['id']}" for each in OWN])
def test_every_number_of_our_own_exchanges_is_right(recording: Recording) -> None:
    measured = measure(recording)
    assert not measured.misses
    assert not measured.unmetered
    assert not measured.request_unread
    assert (Number.USAGE in measured.right) == (recording["expected_usage"] is not None)
    assert (Number.COUNT in measured.right) == (recording["count_check"] is not None)


def test_our_own_exchanges_have_each_number() -> None:
    measured = [measure(recording) for recording in OWN]
    for number in Number:
        assert sum(number in each.right for each in measured) >= 4, number
    assert not failures(measured)
    wires = {recording["wire"] for recording in OWN}
    assert all(wire in table(measured, markdown=False) for wire in wires)
    assert f"| {len(wires)} others | {len(OWN)} |" in table(measured, markdown=True)


# --- what is wrong is found ---


def only_miss(measured: Measured) -> tuple[Number, str]:
    (miss,) = measured.misses
    assert failures([measured]) == ([] if miss.excuse else failures([measured]))
    assert measured.id in misses([measured])
    return miss.number, miss.excuse


def test_usage_that_is_read_otherwise_is_a_miss() -> None:
    measured = measure(CHAT, expected_usage={**CHAT["expected_usage"], "output_tokens": 4})
    assert only_miss(measured) == (Number.USAGE, "")
    assert failures([measured])


def test_usage_that_is_not_read_at_all_is_a_miss() -> None:
    measured = measure(CHAT, response_body='{"choices":[]}')
    assert (Number.USAGE, "") in [(miss.number, miss.excuse) for miss in measured.misses]


def test_a_count_that_is_off_by_one_is_a_miss() -> None:
    check = CHAT["count_check"]
    measured = measure(CHAT, count_check={**check, "provider_count": check["provider_count"] + 1})
    assert only_miss(measured) == (Number.COUNT, "")


def test_a_response_of_a_session_that_is_read_otherwise_is_a_miss() -> None:
    session = next(recording for recording in OWN if recording["wire"] == "openai-realtime")
    measured = measure(session, expected_usage={**session["expected_usage"], "cached_input_tokens": 9})
    assert only_miss(measured) == (Number.USAGE, "")
    assert only_miss(measure(session, response_body=session["response_body"][:-200])) == (Number.USAGE, "")


@pytest.mark.parametrize(
    ("wire", "others", "off_by", "excuse"),
    [
        ("openai-responses", {"notes": [NORMALISED], "response_body": "{}"}, 1, Excuse.NORMALISED),
        ("openai-responses", {"response_body": '{"id": "resp_by_hand"}'}, 1, Excuse.SYNTHETIC),
        ("openai-responses", {"response_body": '{"id": "resp_REDACTED_1"}'}, 1, ""),
        ("openai-responses", {"response_body": '{"created_at": 1742000000}'}, 18, Excuse.FIRST_WEEKS),
        ("openai-responses", {"response_body": '{"created_at": 1742000000}'}, 17, ""),
        ("openai-responses", {"response_body": '{"created_at": 1752000000}'}, 18, ""),
        ("openai-chat", {"response_body": '{"created": 1742000000}'}, 18, ""),
    ],
)
def test_wrong_counts_are_excused_by_what_the_record_shows(
    wire: str, others: dict[str, Any], off_by: int, excuse: str
) -> None:
    recording = next(each for each in OWN if each["wire"] == wire and each["count_check"])
    check = {**recording["count_check"], "provider_count": recording["count_check"]["provider_count"] + off_by}
    measured = measure(recording, count_check=check, expected_usage=None, **others)
    assert only_miss(measured) == (Number.COUNT, excuse)


def test_a_hold_that_does_not_cover_the_cost_is_a_miss() -> None:
    body = CONVERSE["response_body"].replace('"inputTokens":17', '"inputTokens":5000')
    usage = {"input_tokens": 5000, "output_tokens": 5}
    assert only_miss(measure(CONVERSE, response_body=body, expected_usage=usage)) == (Number.HOLD, "")


def test_replies_that_are_longer_than_asked_for_are_a_class_of_their_own() -> None:
    body = CONVERSE["response_body"].replace('"outputTokens":5', '"outputTokens":900')
    usage = {"input_tokens": 17, "output_tokens": 900}
    measured = measure(CONVERSE, response_body=body, expected_usage=usage)
    assert only_miss(measured) == (Number.HOLD, Excuse.LONGER_REPLY)
    assert not failures([measured])


def test_what_was_made_by_hand_is_told_apart() -> None:
    measured = measure(CHAT, expected_usage={"output_tokens": 4}, notes=["suspect-synthetic"])
    assert only_miss(measured) == (Number.USAGE, Excuse.SYNTHETIC)


def test_a_price_that_differs_is_a_miss() -> None:
    rates = DatedRates(Validity(), (RateTier(0, {"input": Rate(1, 1), "output": Rate(1, 1)}),))
    models = (ModelPrices("gpt-4o", names=("gpt-4o", "gpt-4o-2024-08-06"), dated=(rates,)),)
    wrong = PriceBook([ProviderPrices("openai", models)], version="wrong")
    assert only_miss(Measurer(seed=1, prices=wrong).measure(CHAT)) == (Number.PRICE, "")


# --- unseen shapes ---

ODD = ("", "x", "[]", "{}", "data: {}\n\n", "\x00\ufffd", '{"usage":{"input_tokens":[]}}')


@pytest.mark.parametrize("recording", OWN, ids=lambda recording: recording["id"])
def test_replies_and_requests_of_any_content_are_measured(recording: Recording) -> None:
    random = Random(recording["id"])
    for text in ODD:
        for name in ("response_body", "request_body", "path", "host", "vendor", "wire", "framing"):
            if name != "response_body" or recording["response_body_encoding"] == "utf8":
                measure(recording, **{name: text})
    body = bytearray(recording["response_body"].encode())
    for _ in range(20 if body else 0):
        body[random.randrange(len(body))] = random.randrange(32, 127)
        measured = measure(recording, response_body=body.decode("utf-8", "replace"))
        assert not any("cut" in miss.reason for miss in measured.misses), "the numbers hang on where it is cut"
