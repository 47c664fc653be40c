"""What is particular to Gemini's replies: streams that are one array, replies that leave something out."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from policyd.core.usage import Usage
from policyd.providers.framing.json_array import JsonArrayFramer
from policyd.providers.registry import GEMINI_EMBEDDINGS, GEMINI_GENERATE
from tests.providers.replay import random_chunks, read_document, read_members, some_facts

CASES = json.loads((Path(__file__).parent / "fixtures" / "gemini_generate_replies.json").read_text("utf-8"))
STREAMS = [pytest.param(case, id=case["name"]) for case in CASES if "events" in case]


@pytest.mark.parametrize("case", STREAMS)
def test_a_stream_that_is_one_array_says_the_same_as_one_of_events(case: dict[str, Any]) -> None:
    reader = GEMINI_GENERATE.reply_reader(some_facts(choices=case.get("choices", 1)), usage_added=False)
    framer = JsonArrayFramer()
    complete = []
    for chunk in random_chunks(json.dumps(case["events"], indent=1).encode(), Random(case["name"])):
        for frame in framer.feed(chunk):
            assert reader.read_frame(frame)
            complete += [reader.usage_complete] if frame.data else []
    assert reader.usage == Usage(**case["usage"])
    assert reader.error == case.get("error")
    assert reader.take_text() == case["text"]
    assert complete == [index >= case.get("completes_at", len(complete)) for index in range(len(complete))]


def test_searches_that_were_not_kept_are_taken_for_the_most_there_can_be() -> None:
    facts = some_facts(pieces_max=Usage(web_searches=10))
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 6}
    candidates = [{"content": {"parts": [{"text": "x" * 100_000}]}, "groundingMetadata": {"webSearchQueries": ["a"]}}]
    document = {"candidates": candidates, "usageMetadata": usage, "modelVersion": "gemini-3-flash-preview"}
    body = json.dumps(document).encode()
    partial = GEMINI_GENERATE.reply_reader(facts, usage_added=False)
    read_members(partial, [body])
    assert partial.usage == Usage(input=5, output=6, web_searches=10)
    whole = GEMINI_GENERATE.reply_reader(facts, usage_added=False)
    read_document(whole, body)
    assert whole.usage == Usage(input=5, output=6, web_searches=1)


@pytest.mark.parametrize("name", ["embedding", "embeddings", "predictions"])
def test_embeddings_without_usage_have_no_output_and_leave_their_input_to_be_counted(name: str) -> None:
    reader = GEMINI_EMBEDDINGS.reply_reader(some_facts(), usage_added=False)
    reader.read_document({name: [{"values": [0.1]}]})
    assert reader.usage == Usage()
    assert not reader.usage_complete


def test_a_reply_without_embeddings_says_nothing() -> None:
    reader = GEMINI_EMBEDDINGS.reply_reader(some_facts(), usage_added=False)
    reader.read_document({}, partial=True)
    assert reader.usage is None
