"""What is held for requests on OpenAI's other endpoints covers what they can cost, at the published prices."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policyd.core.estimate import Estimate
from policyd.core.usage import Usage
from policyd.estimator import Ask, Estimator
from policyd.providers.base import RawRequest, WireFormat
from policyd.providers.openai.image_tokens import TEXT_TOKENS
from policyd.providers.registry import (
    OPENAI_EMBEDDINGS,
    OPENAI_IMAGES_GENERATIONS,
    OPENAI_SPEECH,
    OPENAI_TRANSCRIPTIONS,
)
from policyd.providers.vendors import OPENAI
from tests import recordings
from tests.builders import COUNTER, NOW_MS, policy, published_prices
from tests.providers import test_recordings_openai as recorded

ESTIMATOR = Estimator(prices=published_prices(), counter=COUNTER)


async def estimate(wire: WireFormat, **members: Any) -> Estimate:
    facts = wire.read_request(RawRequest(json.dumps(members).encode()), vendor=OPENAI)
    ask = Ask("r", "openai", "e", facts, {}, policy())
    return await ESTIMATOR.estimate(ask, now_ms=NOW_MS)


async def test_an_image_is_held_at_the_price_of_images() -> None:
    asked = await estimate(
        OPENAI_IMAGES_GENERATIONS, model="gpt-image-1.5", prompt="a heron", size="1024x1024", quality="low", n=2
    )
    assert asked.bounded
    assert asked.maximum.image_output == 2 * (272 + TEXT_TOKENS)
    assert asked.maximum.image_input > 0
    assert asked.price is not None
    drawn = Usage(input=14, image_output=2 * 272, output=2 * TEXT_TOKENS)
    assert asked.maximum_cost_nanos > asked.price.cost_nanos(drawn) > 0


async def test_audio_is_held_at_the_price_of_audio() -> None:
    asked = await estimate(OPENAI_TRANSCRIPTIONS, model="gpt-4o-transcribe", file_url="https://example.org/a.wav")
    assert asked.bounded
    assert asked.price is not None
    longest = Usage(audio_input=15_000, input=500, output=2_000)
    assert asked.maximum_cost_nanos > asked.price.cost_nanos(longest)


async def test_speech_is_bounded() -> None:
    asked = await estimate(OPENAI_SPEECH, model="gpt-4o-mini-tts", voice="alloy", input="Good day to you. " * 50)
    assert asked.bounded
    assert asked.price is not None
    # As long as a minute.
    assert asked.maximum_cost_nanos > asked.price.cost_nanos(Usage(input=250, audio_output=1_250))


async def test_an_embedding_has_no_output() -> None:
    asked = await estimate(OPENAI_EMBEDDINGS, model="text-embedding-3-small", input=["Hi", "Ho"])
    assert asked.bounded
    assert asked.maximum == Usage(input=2)


@pytest.mark.skipif(not recordings.PATH.exists(), reason="no recordings at hand")
async def test_the_maximum_covers_every_recorded_reply_that_is_bounded() -> None:
    covered = 0
    for record in recorded.records():
        facts = recorded.facts_of(record) if record["expected_usage"] else None
        if facts is None or facts.max_output_tokens is None:
            continue
        vendor = recorded.vendor_of(record)
        if published_prices().find(provider=vendor.id, model=facts.model, at_ms=NOW_MS) is None:
            continue
        asked = await ESTIMATOR.estimate(Ask("r", vendor.id, "e", facts, {}, policy()), now_ms=NOW_MS)
        reader = recorded.reader_for(record)
        recorded.feed(reader, record, lambda body: [body])
        assert reader.usage is not None
        assert asked.price is not None
        assert asked.maximum_cost_nanos >= asked.price.cost_nanos(reader.usage), record["id"]
        covered += 1
    assert covered > 150
