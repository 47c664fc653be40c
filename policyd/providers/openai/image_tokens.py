"""The most tokens that an image of OpenAI's image models takes, from the size and the quality that were asked for.

Source: OpenAI, "Image generation", sections "Cost and latency" and "Calculating costs". The first models cover an image
with squares of a side that the quality gives, and add a token a row: 272, 1,056 and 4,160 tokens for 1024 by 1024
pixels. The later ones lay a grid over it, whose longer side the quality gives, and charge more for each cell of a
larger image: 196, 1,756 and 7,024.
"""

from __future__ import annotations

import re

PARTIAL_IMAGE_TOKENS = 100
"""What each partial image of a stream adds."""

TEXT_TOKENS = 512
"""An allowance for what the later models write about the prompt before they draw; what it can come to is not
published."""

INPUT_IMAGE_TOKENS = 8_192
"""An allowance for an image in the input: 65 to 1,100 tokens, and up to 6,240 more where its details are kept."""

_SIZE = re.compile(r"([1-9]\d{1,3})x([1-9]\d{1,3})")
_FIRST_MODELS = ("gpt-image-1", "chatgpt-image")
_FIRST_SIZES = ((1024, 1024), (1024, 1536), (1536, 1024))
_LARGEST_SIZE = (2880, 2880)
"""The later models take any size up to 8,294,400 pixels, and a square is the dearest of these."""
_SQUARE_SIDES = {"low": 64, "medium": 32}
_HIGH_SQUARE_SIDE = 16
_GRID_SIDES = {"low": 16, "medium": 48}
_HIGH_GRID_SIDE = 96


def image_tokens_max(model: str, *, size: str | None, quality: str | None) -> int:
    """The tokens of one image. A size or a quality that is left to the model is taken for the dearest that it has."""
    given = _SIZE.fullmatch(size or "")
    asked = ((int(given[1]), int(given[2])),) if given else None
    if model.rpartition("/")[2].startswith(_FIRST_MODELS):
        square = _SQUARE_SIDES.get(quality or "", _HIGH_SQUARE_SIDE)
        return max(_square_tokens(*sides, square=square) for sides in asked or _FIRST_SIZES)
    grid = _GRID_SIDES.get(quality or "", _HIGH_GRID_SIDE)
    return max(_grid_tokens(*sides, grid=grid) for sides in asked or (_LARGEST_SIZE,))


def _square_tokens(width: int, height: int, *, square: int) -> int:
    columns, rows = -(-width // square), -(-height // square)
    return columns * rows + rows


def _grid_tokens(width: int, height: int, *, grid: int) -> int:
    longer, shorter = max(width, height), min(width, height)
    cells = grid * ((2 * grid * shorter + longer) // (2 * longer))
    return -(-cells * (2_000_000 + width * height) // 4_000_000)
