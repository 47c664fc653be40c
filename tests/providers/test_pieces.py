"""Bounds of what is charged by the piece: rankings, audio, pages, searches of Google's tools."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from policyd.core.usage import Usage
from policyd.providers.audio import HIDDEN_AUDIO_MS, audio_ms_max
from policyd.providers.base import RawRequest, RequestFacts, WireFormat
from policyd.providers.mistral.ocr import HIDDEN_PAGES, PAGES_MAX
from policyd.providers.ranking import rerank_pieces
from policyd.providers.registry import GEMINI_GENERATE, GEMINI_INTERACTIONS, MISTRAL_CHAT, MISTRAL_OCR
from policyd.providers.vendors import OPENAI


def read(wire: WireFormat, document: Any, *, path: str = "") -> RequestFacts:
    return wire.read_request(RawRequest(json.dumps(document).encode(), path=path), vendor=OPENAI)


@pytest.mark.parametrize(
    ("documents", "length", "expected", "most"),
    [(1, 10, 1, 1), (100, 10, 1, 1), (101, 10, 2, 2), (100, 400, 1, 2), (1, 40_000, 1, 2), (0, 0, 1, 1)],
)
def test_a_ranking(documents: int, length: int, expected: int, most: int) -> None:
    pieces = rerank_pieces(["query", *["x" * length] * documents])
    assert pieces == (Usage(search_units=expected), Usage(search_units=most))


def test_a_ranking_of_nothing() -> None:
    assert rerank_pieces([]) == (Usage(search_units=1), Usage(search_units=1))


@pytest.mark.parametrize(("file_bytes", "longest_ms"), [(0, 0), (1, 2), (3, 4), (750, 1_000), (25_000_000, 33_333_334)])
def test_audio_is_no_longer_than_its_bytes_allow(file_bytes: int, longest_ms: int) -> None:
    assert audio_ms_max(file_bytes) == longest_ms


@pytest.mark.parametrize(
    ("audio", "longest_ms"),
    [
        (b64encode(bytes(900)).decode(), 1_200),
        ({"data": b64encode(bytes(900)).decode(), "format": "wav"}, 1_200),
        ("https://example.org/a.mp3", HIDDEN_AUDIO_MS),
        (None, HIDDEN_AUDIO_MS),
    ],
)
def test_audio_in_a_chat(audio: Any, longest_ms: int) -> None:
    content = [{"type": "text", "text": "What is said?"}, {"type": "input_audio", "input_audio": audio}]
    facts = read(MISTRAL_CHAT, {"model": "voxtral-small", "messages": [{"role": "user", "content": content}, {}]})
    assert facts.pieces == Usage(audio_input_ms=longest_ms)


def document(file_bytes: int) -> dict[str, Any]:
    return {"type": "document_url", "document_url": "data:x/y;base64," + "A" * (file_bytes * 4 // 3)}


@pytest.mark.parametrize(
    ("members", "expected", "most"),
    [
        ({"document": {"type": "image_url", "image_url": "https://example.org/a.png"}}, 1, 1),
        ({"document": {"type": "document_url", "document_url": "https://example.org/a"}}, HIDDEN_PAGES, PAGES_MAX),
        ({"document": {"type": "file", "file_id": "f"}}, HIDDEN_PAGES, PAGES_MAX),
        ({"document": document(300)}, 1, 2),
        ({"document": document(102_400)}, 5, 401),
        ({"document": document(3_000_000)}, 150, PAGES_MAX),
        ({"document": document(100_000), "pages": [0, 4]}, 2, 2),
        ({"document": document(300), "pages": []}, 1, 2),
        ({"document": document(300), "pages": "0-3"}, 1, 2),
    ],
)
def test_pages(members: dict[str, Any], expected: int, most: int) -> None:
    facts = read(MISTRAL_OCR, members)
    assert (facts.pieces, facts.pieces_max) == (Usage(pages=expected), Usage(pages=most))
    annotated = read(MISTRAL_OCR, {**members, "document_annotation_format": {"type": "json_schema"}})
    assert (annotated.pieces.annotated_pages, annotated.pieces_max.annotated_pages) == (expected, most)


@pytest.mark.parametrize("name", ["googleMaps", "google_maps"])
def test_maps(name: str) -> None:
    body = {"contents": [], "tools": [{name: {}}], "generationConfig": {"candidateCount": 2}}
    facts = read(GEMINI_GENERATE, body, path="/v1beta/models/gemini-2.5-flash:generateContent")
    assert facts.pieces_max == Usage(map_searches=2)
    interaction = {"model": "gemini-2.5-flash", "input": "Hi", "tools": [{"type": "google_maps"}]}
    assert read(GEMINI_INTERACTIONS, interaction).pieces_max == Usage(map_searches=1)
