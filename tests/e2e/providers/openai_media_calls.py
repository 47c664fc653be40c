"""OpenAI's endpoints of images and of sound, by OpenAI's SDK: JSON, forms with files, and raw audio."""

from __future__ import annotations

from typing import Any

from policyd.core.usage import Usage
from tests.e2e.providers.case import ANSWER, QUESTION, Answer, Caller, Charge, document
from tests.e2e.providers.openai_calls import OPENAI, openai_case

IMAGE = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x01\x00\x00\x00\x01\x00\x08\x06\x00\x00\x00"
SOUND = b"RIFF\x24\x00\x00\x00WAVEfmt "

MEDIA_USAGE = {
    "input_tokens": 50,
    "input_tokens_details": {"text_tokens": 14, "image_tokens": 36},
    "output_tokens": 272,
    "total_tokens": 322,
}
PICTURE = {"created": 1, "data": [{"b64_json": "aGVyb24="}], "usage": MEDIA_USAGE}


def edit_image(caller: Caller) -> Any:
    picture = ("heron.png", IMAGE, "image/png")
    return _first(OPENAI(caller).images.edit(model="gpt-image-1", image=picture, prompt=QUESTION).data)


def transcribe(caller: Caller) -> Any:
    file = ("heron.wav", SOUND, "audio/wav")
    return OPENAI(caller).audio.transcriptions.create(model="gpt-4o-transcribe", file=file).text


def _first(images: Any) -> Any:
    return images[0].b64_json


CASES = (
    openai_case(
        "images-generation",
        model="gpt-image-1",
        target="/v1/images/generations",
        ask=lambda caller: _first(OPENAI(caller).images.generate(model="gpt-image-1", prompt=QUESTION).data),
        answer=document(PICTURE),
        heard="aGVyb24=",
        charged=Usage(input=14, image_input=36, image_output=272, images_generated=1),
    ),
    openai_case(
        "images-edit",
        model="gpt-image-1",
        target="/v1/images/edits",
        ask=edit_image,
        answer=document(PICTURE),
        heard="aGVyb24=",
        charged=Usage(input=14, image_input=36, image_output=272, images_generated=1),
    ),
    openai_case(
        "speech",
        model="gpt-4o-mini-tts",
        target="/v1/audio/speech",
        ask=lambda caller: (
            OPENAI(caller).audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input=QUESTION).content
        ),
        answer=Answer((b"\xff\xfb\x90", b"\x64\x00"), "audio/mpeg"),
        heard=b"\xff\xfb\x90\x64\x00",
        charged=Charge.HOLD,
    ),
    openai_case(
        "transcription",
        model="gpt-4o-transcribe",
        target="/v1/audio/transcriptions",
        ask=transcribe,
        answer=document(
            {
                "text": ANSWER,
                "usage": {
                    "type": "tokens",
                    "input_tokens": 14,
                    "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
                    "output_tokens": 9,
                    "total_tokens": 23,
                },
            }
        ),
        charged=Usage(input=4, audio_input=10, output=9),
    ),
)
