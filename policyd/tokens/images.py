"""What an image of the prompt costs in tokens, from the dimensions in its first bytes.

Sources: OpenAI, "Images and vision", sections "Model sizing behavior" and "Calculating costs"; Anthropic, "Vision";
Google, "Image understanding", section "Token calculation", and "Media resolution".
Where replies of the providers show other figures than the documents, the count follows the replies and the bound both.

An image whose dimensions are not known (given by address, or with a header that cannot be read) counts as the largest
that its model looks at.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from math import ceil, isqrt
from typing import NamedTuple, Protocol

import imagesize

from policyd.providers.base import Detail
from policyd.tokens.count import Ratio, TokenCount
from policyd.tokens.models import ClaudeVersion, bare_model_name, claude_version


class Size(NamedTuple):
    """Pixels, both positive."""

    width: int
    height: int


# What the providers accept. Nothing else is parsed: the library also reads formats whose parsing is costly.
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"GIF87a", b"GIF89a", b"RIFF")


def image_size(head: bytes) -> Size | None:
    """The dimensions of a PNG, JPEG, GIF or WebP image from its first bytes; `None` if they do not say."""
    if not head.startswith(_SIGNATURES):
        return None
    size = Size(*imagesize.get(BytesIO(head)))
    return size if min(size) > 0 else None


class ImageRule(Protocol):
    """How one family of models counts images."""

    def count(self, size: Size | None, detail: Detail) -> TokenCount:
        """Tokens of one image; `size` is `None` if unknown."""
        ...


def _exactly(tokens: int) -> TokenCount:
    return TokenCount(tokens, exact=True, upper_bound=tokens)


def _at_most(tokens: int) -> TokenCount:
    return TokenCount(tokens, exact=False, upper_bound=tokens)


@dataclass(frozen=True, slots=True)
class Tiles:
    """OpenAI's older rule: a base, and `tile_tokens` for every 512 pixel square of the image once it is shrunk to fit
    2048 by 2048 pixels and to 768 pixels on its short side. `detail: low` costs the base alone.

    Agrees with every recorded reply that has an image of known size.
    """

    base_tokens: int
    tile_tokens: int

    _LARGEST = Size(2048, 768)
    _TILE_SIDE = 512

    def count(self, size: Size | None, detail: Detail) -> TokenCount:
        if detail is Detail.LOW:
            return _exactly(self.base_tokens)
        if size is None:
            return _at_most(self._tokens(self._LARGEST))
        return _exactly(self._tokens(size))

    def _tokens(self, size: Size) -> int:
        scale = min(Fraction(1), Fraction(self._LARGEST.width, max(size)), Fraction(self._LARGEST.height, min(size)))
        across, down = (ceil(side * scale / self._TILE_SIDE) for side in size)
        return self.base_tokens + self.tile_tokens * across * down


class Budget(NamedTuple):
    """The most of an image that a model looks at; what is larger is shrunk."""

    patches: int
    side_pixels: int


_LOW = Budget(256, 512)
_STANDARD = Budget(1536, 2048)
_LARGE = Budget(2500, 2048)
_ORIGINAL = Budget(10_000, 6000)
_UNLIMITED = Budget(2**62, 2**31)


def _patches(size: Size, *, patch_side: int, budget: Budget) -> tuple[int, int]:
    """How many square patches cover an image that is shrunk to `budget`: the fewest and the most it can come to.

    It is shrunk until one side is a whole number of patches, and providers differ in the side. Taking the side that has
    to shrink more always stays within the budget.
    """
    scale = min(Fraction(1), Fraction(budget.side_pixels, max(size)))
    across, down = (side * scale / patch_side for side in size)
    patches = ceil(across) * ceil(down)
    if patches <= budget.patches:
        return patches, patches
    columns = isqrt(int(budget.patches * across / down))
    rows = isqrt(int(budget.patches * down / across))
    grids = (columns * ceil(columns * down / across), rows * ceil(rows * across / down))
    return min(grids), max(grid for grid in grids if grid <= budget.patches)


@dataclass(frozen=True, slots=True)
class Patches:
    """OpenAI's newer rule: the 32 pixel squares that cover the image, shrunk to a budget, times the model's factor.

    `auto` is the budget where the request leaves the detail open, `original` where it asks for the image as it is: a
    model that does not know that detail is taken to do what it does by itself. An image of unknown size that would be
    looked at in full counts as `_ORIGINAL`: no maximum is published.

    Within two tokens of every recorded reply that has an image of known size. Where those show another factor than the
    document does, `factor_published` bounds.
    """

    factor: Ratio
    factor_published: Ratio | None = None
    high: Budget = _STANDARD
    auto: Budget = _STANDARD
    original: Budget | None = None

    _PATCH_SIDE = 32
    _ERROR_TOKENS = 2

    def count(self, size: Size | None, detail: Detail) -> TokenCount:
        budget = self._budget(detail)
        if size is None:
            patches = min(budget.patches, _ORIGINAL.patches)
        else:
            patches, _ = _patches(size, patch_side=self._PATCH_SIDE, budget=budget)
        tokens = self.factor.of(patches)
        bound = max(tokens, self.factor_published.of(patches)) if self.factor_published else tokens
        return TokenCount(tokens, exact=False, upper_bound=bound + self._ERROR_TOKENS)

    def _budget(self, detail: Detail) -> Budget:
        match detail:
            case Detail.LOW:
                return _LOW
            case Detail.HIGH:
                return self.high
            case Detail.ORIGINAL:
                return self.original or self.auto
            case Detail.AUTO:
                return self.auto


@dataclass(frozen=True, slots=True)
class ClaudePatches:
    """Anthropic's rule: the 28 pixel squares that cover the image, shrunk to a budget, and three tokens around them.

    The document gives the squares, recorded replies the three; they agree with every recorded image of known size.
    """

    budget: Budget

    _PATCH_SIDE = 28
    _AROUND_TOKENS = 3
    _ERROR_TOKENS = 2

    def count(self, size: Size | None, detail: Detail) -> TokenCount:
        if size is None:
            return _at_most(self.budget.patches + self._AROUND_TOKENS)
        _, patches = _patches(size, patch_side=self._PATCH_SIDE, budget=self.budget)
        tokens = patches + self._AROUND_TOKENS
        return TokenCount(tokens, exact=False, upper_bound=tokens + self._ERROR_TOKENS)


@dataclass(frozen=True, slots=True)
class GeminiTiles:
    """Google's older rule: 258 tokens for a small image, and for each tile of a larger one. A tile is two thirds of the
    image's short side wide, within bounds.

    Agrees with every recorded image of known size, all of them small. One of unknown size counts as the shape that
    takes the most tiles.
    """

    _TILE_TOKENS = 258
    _SMALL_SIDE = 384
    _SIDE_MAX = 3072
    _TILE_SIDE_MIN = 256
    _TILE_SIDE_MAX = 768
    _TILES_MAX = 24

    def count(self, size: Size | None, detail: Detail) -> TokenCount:
        return _at_most(self._TILE_TOKENS * (self._TILES_MAX if size is None else self._tiles(size)))

    def _tiles(self, size: Size) -> int:
        if max(size) <= self._SMALL_SIDE:
            return 1
        scale = min(Fraction(1), Fraction(self._SIDE_MAX, max(size)))
        width, height = (max(1, int(side * scale)) for side in size)
        tile_side = min(self._TILE_SIDE_MAX, max(self._TILE_SIDE_MIN, min(width, height) * 2 // 3))
        return -(-width // tile_side) * -(-height // tile_side)


@dataclass(frozen=True, slots=True)
class GeminiBudget:
    """Google's newer rule: an image takes nearly all of a budget, whatever its size; the finest detail doubles it.

    Recorded images take 1,081 to 1,102 tokens of it.
    """

    _TOKENS = 1120
    _FINEST_TOKENS = 2240

    def count(self, size: Size | None, detail: Detail) -> TokenCount:
        return _at_most(self._FINEST_TOKENS if detail is Detail.HIGH else self._TOKENS)


@dataclass(frozen=True, slots=True)
class Unpublished:
    """For models whose rule is not known here: a guess, and the most that a vendor is known to charge for one image
    (Together, "Vision": four tiles of 1,601 tokens)."""

    _GUESS_TOKENS = 1024
    _TOKENS_MAX = 6404

    def count(self, size: Size | None, detail: Detail) -> TokenCount:
        return TokenCount(self._GUESS_TOKENS, exact=False, upper_bound=self._TOKENS_MAX)


_GEMINI_TILES = GeminiTiles()
_GEMINI_BUDGET = GeminiBudget()
_GPT_MINI = Patches(Ratio(162, 100))
_GPT_5_NANO = Patches(Ratio(3, 2), factor_published=Ratio(246, 100))
_GPT_5_4_FACTOR = Ratio(6, 5)  # not published; recorded replies of gpt-5.4 show it

# By the beginning of the model's name; the first row that fits counts.
_BY_PREFIX: tuple[tuple[str, ImageRule], ...] = (
    ("gpt-4o-mini", Tiles(2833, 5667)),
    ("gpt-4.1-mini", _GPT_MINI),
    ("gpt-4.1-nano", Patches(Ratio(246, 100))),
    ("gpt-4", Tiles(85, 170)),
    ("chatgpt-4o", Tiles(85, 170)),
    ("gpt-5-mini", _GPT_MINI),
    ("gpt-5-nano", _GPT_5_NANO),
    ("gpt-5-codex-mini", _GPT_MINI),
    ("gpt-5.1-codex-mini", _GPT_MINI),
    ("gpt-5.2", Patches(_GPT_5_4_FACTOR)),
    ("gpt-5.3", Patches(_GPT_5_4_FACTOR)),
    ("gpt-5.4-mini", _GPT_MINI),
    ("gpt-5.4-nano", _GPT_5_NANO),
    ("gpt-5.4", Patches(_GPT_5_4_FACTOR, high=_LARGE, auto=_LARGE, original=_ORIGINAL)),
    ("gpt-5.5", Patches(_GPT_5_4_FACTOR, high=_LARGE, auto=_ORIGINAL)),
    ("gpt-5.6", Patches(_GPT_5_4_FACTOR, high=_LARGE, auto=_UNLIMITED)),
    ("gpt-5", Tiles(70, 140)),
    ("o4-mini", Patches(Ratio(172, 100))),
    ("o1", Tiles(75, 150)),
    ("o3", Tiles(75, 150)),
    ("computer-use-preview", Tiles(65, 129)),
    ("gemini-1", _GEMINI_TILES),
    ("gemini-2", _GEMINI_TILES),
    ("gemini-embedding", _GEMINI_TILES),
    ("gemini", _GEMINI_BUDGET),
)
_CLAUDE = ClaudePatches(Budget(1568, 1568))
_CLAUDE_HIGH_RESOLUTION = ClaudePatches(Budget(4784, 2576))
_CLAUDE_HIGH_RESOLUTION_SINCE = ClaudeVersion(4, 7)
_UNPUBLISHED = Unpublished()


def image_rule(model: str) -> ImageRule:
    """How `model` counts images."""
    name = bare_model_name(model)
    claude = claude_version(name)
    if claude is not None:
        return _CLAUDE_HIGH_RESOLUTION if claude >= _CLAUDE_HIGH_RESOLUTION_SINCE else _CLAUDE
    return next((rule for prefix, rule in _BY_PREFIX if name.startswith(prefix)), _UNPUBLISHED)
