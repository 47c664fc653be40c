"""Reading requests for images, speech and transcripts, as JSON and as forms."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import RawRequest, RequestEdits, RequestFacts, WireFormat
from policyd.providers.openai.audio import AUDIO_TOKENS_MAX, SILENCE_TOKENS, TRANSCRIPT_TOKENS_MAX
from policyd.providers.openai.image_tokens import (
    INPUT_IMAGE_TOKENS,
    PARTIAL_IMAGE_TOKENS,
    TEXT_TOKENS,
    image_tokens_max,
)
from policyd.providers.registry import (
    OPENAI_IMAGES_EDITS,
    OPENAI_IMAGES_GENERATIONS,
    OPENAI_IMAGES_VARIATIONS,
    OPENAI_SPEECH,
    OPENAI_TRANSCRIPTIONS,
)
from policyd.providers.vendors import OPENAI
from tests.providers.garbling import UNHURRIED, garbled, with_other_values

SMALL = {"size": "1024x1024", "quality": "low"}


def read(wire: WireFormat, members: dict[str, Any], *, fields: tuple[str, ...] = ()) -> RequestFacts:
    raw = RawRequest(json.dumps(members).encode())
    return wire.read_request(raw, vendor=OPENAI, identity_fields=fields)


def form(data: dict[str, Any], files: Any) -> RawRequest:
    request = httpx.Request("POST", "http://x", data=data, files=files)
    return RawRequest(request.read(), content_type=request.headers["content-type"])


def generate(**members: Any) -> RequestFacts:
    return read(OPENAI_IMAGES_GENERATIONS, {"model": "gpt-image-1", "prompt": "a heron", **members})


def speak(**members: Any) -> RequestFacts:
    return read(OPENAI_SPEECH, {"model": "gpt-4o-mini-tts", "voice": "alloy", **members})


class TestImageTokens:
    @pytest.mark.parametrize(
        ("model", "size", "quality", "tokens"),
        [
            # As published, and as reported in recorded replies.
            ("gpt-image-1", "1024x1024", "low", 272),
            ("gpt-image-1", "1024x1536", "low", 408),
            ("gpt-image-1", "1536x1024", "low", 400),
            ("gpt-image-1-mini", "1024x1024", "medium", 1_056),
            ("gpt-image-1.5", "1024x1536", "high", 6_240),
            ("openai/gpt-image-1", "1536x1024", "high", 6_208),
            ("gpt-image-2", "1024x1024", "high", 7_024),
            ("gpt-image-2", "1536x1024", "high", 5_488),
            ("gpt-image-2", "1024x1024", "medium", 1_756),
            ("gpt-image-2", "1024x1024", "low", 196),
        ],
    )
    def test_published_figures(self, model: str, size: str, quality: str, tokens: int) -> None:
        assert image_tokens_max(model, size=size, quality=quality) == tokens

    @pytest.mark.parametrize("model", ["gpt-image-1", "gpt-image-2", "dall-e-3"])
    @pytest.mark.parametrize("size", ["1024x1024", "1024x1536", "1536x1024"])
    @pytest.mark.parametrize("quality", ["low", "medium", "high", "hd", None])
    def test_what_is_left_open_is_the_dearest(self, model: str, size: str, quality: str | None) -> None:
        given = image_tokens_max(model, size=size, quality=quality)
        for open_size in (None, "auto", "huge"):
            assert image_tokens_max(model, size=open_size, quality=quality) >= given
        assert image_tokens_max(model, size=size, quality=None) >= given
        assert image_tokens_max(model, size=size, quality="auto") >= given


class TestGenerations:
    def test_the_plain_case(self) -> None:
        facts = generate(**SMALL, n=2)
        assert facts.model == "gpt-image-1"
        assert facts.prompt.texts == ("a heron",)
        assert facts.max_output_tokens == 272 + TEXT_TOKENS
        assert facts.choices == 2
        assert facts.input_kinds == ("input", "image_input")
        assert facts.output_kinds == ("output", "image_output")
        assert facts.outlives_client

    def test_partial_images_are_charged(self) -> None:
        facts = generate(**SMALL, stream=True, partial_images=3)
        assert facts.streamed
        assert facts.max_output_tokens == 272 + 3 * PARTIAL_IMAGE_TOKENS + TEXT_TOKENS

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            ({"model": None}, "model: expected a text"),
            ({"n": 0}, "n: expected an integer from 1"),
            ({"n": 1_000}, "n: expected an integer from 1"),
            ({"partial_images": 9}, "partial_images: expected an integer from 0"),
            ({"prompt": 1}, "prompt: expected a text"),
            ({"size": 1}, "size: expected a text"),
            ({"stream": "yes"}, "stream: expected true or false"),
        ],
    )
    def test_what_decides_has_to_be_what_it_should(self, members: dict[str, Any], message: str) -> None:
        with pytest.raises(BodyUnreadable, match=message):
            generate(**members)


class TestEditsAndVariations:
    def test_a_form(self) -> None:
        raw = form(
            {"model": "gpt-image-1", "prompt": "bluer", "n": "2", "stream": "true", **SMALL, "user": "ann"},
            [("image[]", ("a.png", b"1")), ("image[]", ("b.png", b"2")), ("mask", ("m.png", b"3"))],
        )
        facts = OPENAI_IMAGES_EDITS.read_request(raw, vendor=OPENAI, identity_fields=("user",))
        assert (facts.model, facts.choices, facts.streamed) == ("gpt-image-1", 2, True)
        assert facts.prompt.texts == ("bluer",)
        assert facts.prompt.unread_bytes == 3 * INPUT_IMAGE_TOKENS
        assert facts.fields == {"user": "ann"}

    def test_a_form_and_json_are_read_alike(self) -> None:
        data = {"model": "gpt-image-1", "prompt": "bluer", **SMALL}
        images = [{"image_url": "https://example.org/a.png"}, {"file_id": "file_1"}]
        by_json = read(OPENAI_IMAGES_EDITS, {**data, "images": images})
        raw = form(data, [("image", ("a.png", b"1")), ("image[]", ("b.png", b"2"))])
        assert OPENAI_IMAGES_EDITS.read_request(raw, vendor=OPENAI) == by_json

    def test_only_one_model_varies_images(self) -> None:
        raw = form({"n": "3"}, {"image": ("a.png", b"1")})
        facts = OPENAI_IMAGES_VARIATIONS.read_request(raw, vendor=OPENAI)
        assert (facts.model, facts.choices) == ("dall-e-2", 3)
        with pytest.raises(BodyUnreadable, match="model: expected a text"):
            OPENAI_IMAGES_EDITS.read_request(raw, vendor=OPENAI)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"n": "two"}, "n: expected an integer"),
            ({"n": "-1"}, "n: expected an integer"),
            ({"n": "9" * 40}, "n: expected an integer"),
            ({"stream": "perhaps"}, "stream: expected true or false"),
        ],
    )
    def test_numbers_of_a_form_have_to_be_numbers(self, data: dict[str, str], message: str) -> None:
        raw = form({"model": "gpt-image-1", **data}, {"image": ("a.png", b"1")})
        with pytest.raises(BodyUnreadable, match=message):
            OPENAI_IMAGES_EDITS.read_request(raw, vendor=OPENAI)

    def test_no_more_images_than_the_provider_takes(self) -> None:
        raw = form({"model": "gpt-image-1"}, [("image[]", ("a.png", b"1"))] * 18)
        with pytest.raises(BodyUnreadable, match="at most 16"):
            OPENAI_IMAGES_EDITS.read_request(raw, vendor=OPENAI)

    def test_fields_are_stripped_from_forms_and_from_json(self) -> None:
        raw = form({"model": "m", "tier": "x"}, {"image": ("a.png", b"1")})
        edits = RequestEdits(strip_fields=("tier",))
        body = OPENAI_IMAGES_EDITS.edit_request(raw.body, edits, vendor=OPENAI)
        assert b"tier" not in body
        left = OPENAI_IMAGES_EDITS.read_request(
            RawRequest(body, content_type=raw.content_type), vendor=OPENAI, identity_fields=("tier",)
        )
        assert (left.model, left.fields) == ("m", {})
        assert OPENAI_IMAGES_EDITS.edit_request(b'{"tier": "x"}', edits, vendor=OPENAI) == b"{}"


class TestSpeech:
    def test_the_plain_case(self) -> None:
        facts = speak(input="Good day", instructions="Slowly.", stream_format="sse")
        assert facts.model == "gpt-4o-mini-tts"
        assert facts.prompt.texts == ("Good day", "Slowly.")
        assert facts.max_output_tokens == 8 * 2 + SILENCE_TOKENS
        assert facts.output_kinds == ("output", "audio_output")
        assert facts.outlives_client
        assert not facts.streamed, "raw audio would be taken for events"

    def test_signs_take_longer_than_letters(self) -> None:
        assert speak(input="12 鹭").max_output_tokens == 3 * 10 + 2 + SILENCE_TOKENS

    @pytest.mark.parametrize("members", [{}, {"input": ""}, {"input": 1}, {"input": ["a"]}])
    def test_there_has_to_be_a_text(self, members: dict[str, Any]) -> None:
        with pytest.raises(BodyUnreadable, match="input: expected a text"):
            speak(**members)


class TestTranscriptions:
    def test_the_plain_case(self) -> None:
        raw = form({"model": "gpt-4o-transcribe", "prompt": "Herons.", "stream": "true"}, {"file": ("a", bytes(700))})
        facts = OPENAI_TRANSCRIPTIONS.read_request(raw, vendor=OPENAI)
        assert facts.model == "gpt-4o-transcribe"
        assert facts.prompt.texts == ("Herons.",)
        assert facts.prompt.unread_bytes == 700
        assert facts.max_output_tokens == TRANSCRIPT_TOKENS_MAX
        assert facts.input_kinds == ("input", "audio_input")
        assert not facts.streamed, "a transcript as plain text would be taken for events"

    def test_no_more_is_read_than_the_models_can(self) -> None:
        raw = form({"model": "m"}, {"file": ("a", bytes(100_000))})
        facts = OPENAI_TRANSCRIPTIONS.read_request(raw, vendor=OPENAI)
        assert facts.prompt.unread_bytes == AUDIO_TOKENS_MAX

    def test_audio_that_is_not_in_the_request_may_be_of_any_length(self) -> None:
        facts = read(OPENAI_TRANSCRIPTIONS, {"model": "m", "file_url": "https://example.org/a.wav"})
        assert facts.prompt.unread_bytes == AUDIO_TOKENS_MAX

    def test_a_model_has_to_be_named(self) -> None:
        with pytest.raises(BodyUnreadable, match="model: expected a text"):
            OPENAI_TRANSCRIPTIONS.read_request(form({}, {"file": ("a", b"1")}), vendor=OPENAI)


WHOLE: list[tuple[WireFormat, dict[str, Any]]] = [
    (OPENAI_IMAGES_GENERATIONS, {"model": "m", "prompt": "a", "n": 2, "size": "1x1", "quality": "low", "stream": True}),
    (OPENAI_IMAGES_EDITS, {"model": "m", "prompt": "a", "images": [{"image_url": "u"}], "mask": {"file_id": "f"}}),
    (OPENAI_SPEECH, {"model": "m", "input": "a", "instructions": "b"}),
    (OPENAI_TRANSCRIPTIONS, {"model": "m", "prompt": "a", "file_url": "u"}),
]


@UNHURRIED
@given(data=st.data(), index=st.integers(0, len(WHOLE) - 1))
def test_no_other_value_raises_anything_else(data: st.DataObject, index: int) -> None:
    wire, members = WHOLE[index]
    read_or_refuse(wire, RawRequest(json.dumps(with_other_values(data, members)).encode()))


@UNHURRIED
@given(seed=st.integers(0, 2**32), index=st.integers(0, len(WHOLE) - 1))
def test_no_garbled_body_raises_anything_else(seed: int, index: int) -> None:
    wire, members = WHOLE[index]
    read_or_refuse(wire, RawRequest(garbled(json.dumps(members).encode(), Random(seed))))


def read_or_refuse(wire: WireFormat, raw: RawRequest) -> None:
    try:
        facts = wire.read_request(raw, vendor=OPENAI)
    except BodyUnreadable:
        return
    assert facts.max_output_tokens, "the output is bounded, and by more than nothing"
