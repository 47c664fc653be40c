"""OpenAI's images: generated from a text, edited, and varied.

A reply of today's models has their tokens. One without is charged the maximum that was held for it: for images that are
sold by the piece that is exact, since the request says how many, how large and how fine.
"""

from __future__ import annotations

from collections.abc import Sequence

from policyd.core.errors import BodyUnreadable
from policyd.core.usage import Usage
from policyd.providers.base import Prompt, RawRequest, RequestFacts, Vendor
from policyd.providers.openai.form import FormRequest, read_form_request
from policyd.providers.openai.image_tokens import (
    INPUT_IMAGE_TOKENS,
    PARTIAL_IMAGE_TOKENS,
    TEXT_TOKENS,
    image_tokens_max,
)
from policyd.providers.openai.media_reply import OpenAIMediaReply
from policyd.providers.openai.model import requested_model
from policyd.providers.openai.wire import OpenAIWire
from policyd.providers.prompt_builder import PromptBuilder
from policyd.providers.reply_values import word
from policyd.providers.request_body import Json, fields_at, optional_boolean, optional_integer, optional_text

IMAGES_MAX = 16
"""More images than OpenAI generates for one request, and as many as it takes in one."""

PARTIAL_IMAGES_MAX = 3

_PRICED_BY = ("size", "quality")
"""What the price of an image that is sold by the piece depends on."""

_INTEGERS = ("n", "partial_images", "output_compression")
_BOOLEANS = ("stream",)
_DECISIVE = ("model", "prompt", "image", "images", "mask", "size", "quality", *_INTEGERS, *_BOOLEANS)


class OpenAIImages(OpenAIWire):
    """The `WireFormat` of one of the images endpoints. `default_model` is what it takes where a request names none."""

    def __init__(self, name: str, *, default_model: str | None = None) -> None:
        self.name = name
        self._default_model = default_model

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        form = read_form_request(request, decisive=_DECISIVE, integers=_INTEGERS, booleans=_BOOLEANS)
        document = form.document
        model = requested_model(document, request, default=self._default_model)
        images = Usage(images_generated=optional_integer(document, "n", minimum=1, maximum=IMAGES_MAX) or 1)
        return RequestFacts(
            model=model,
            streamed=optional_boolean(document, "stream") or False,
            prompt=_prompt(form),
            max_output_tokens=_image_tokens_max(document, model),
            choices=images.images_generated,
            input_kinds=("input", "image_input"),
            output_kinds=("output", "image_output"),
            pieces_min=images,
            # An image that is being drawn is charged, whoever still waits for it.
            outlives_client=True,
            terms={name: text for name in _PRICED_BY if (text := word(optional_text(document, name)))},
            fields=fields_at(document, identity_fields),
        )

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> OpenAIMediaReply:
        return OpenAIMediaReply(output_kind="image_output", pieces_min=facts.pieces_min, streamed_results=facts.choices)


def _prompt(form: FormRequest) -> Prompt:
    builder = PromptBuilder(exact=False)
    builder.text(optional_text(form.document, "prompt"))
    named = form.document.get("images") or form.document.get("image")
    images = len(named) if isinstance(named, list) else int(named is not None)
    images += int(form.document.get("mask") is not None) + sum(map(len, form.file_bytes.values()))
    if images > IMAGES_MAX + 1:
        raise BodyUnreadable(f"images: expected at most {IMAGES_MAX} and a mask")
    builder.allow(INPUT_IMAGE_TOKENS * images)
    return builder.prompt()


def _image_tokens_max(document: Json, model: str) -> int:
    """The output tokens of one image, with the partial images that come before it and what the model writes."""
    size, quality = optional_text(document, "size"), optional_text(document, "quality")
    partial_images = optional_integer(document, "partial_images", minimum=0, maximum=PARTIAL_IMAGES_MAX) or 0
    image_tokens = image_tokens_max(model, size=size, quality=quality)
    return image_tokens + partial_images * PARTIAL_IMAGE_TOKENS + TEXT_TOKENS
