"""Images: the providers' published examples, and figures that their replies reported."""

import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policyd.providers.base import Detail
from policyd.tokens.count import TokenCount
from policyd.tokens.images import Size, image_rule, image_size


def png(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def jpeg(width: int, height: int) -> bytes:
    application_data = b"\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0\1\1\0\0\1\0\1\0\0"
    return b"\xff\xd8" + application_data + b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(3)


def webp(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + bytes(34)


@pytest.mark.parametrize("encode", [png, jpeg, gif, webp])
def test_dimensions_come_from_the_first_bytes(encode: Callable[[int, int], bytes]) -> None:
    assert image_size(encode(640, 480)) == Size(640, 480)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"not an image",
        png(640, 480)[:20],
        jpeg(640, 480)[:22],
        png(0, 480),
        b'<svg width="640" height="480">',
        b"P6 640 480 255 ",
    ],
)
def test_a_header_that_does_not_say_gives_no_dimensions(head: bytes) -> None:
    assert image_size(head) is None


@given(
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 ", jpeg(9, 9)]),
    rest=st.binary(max_size=100),
)
def test_garbage_never_raises(start: bytes, rest: bytes) -> None:
    size = image_size(start + rest)
    assert size is None or min(size) > 0


def count(model: str, width: int, height: int, detail: Detail = Detail.AUTO) -> TokenCount:
    return image_rule(model).count(Size(width, height), detail)


@pytest.mark.parametrize(
    ("model", "width", "height", "expected"),
    [
        # OpenAI's examples.
        ("gpt-4o", 1024, 1024, 765),
        ("gpt-4o", 2048, 4096, 1105),
        # Reported by OpenAI for images of these sizes.
        ("gpt-4o", 100, 100, 255),
        ("gpt-4-1106-vision-preview", 800, 400, 425),
        ("gpt-4o-mini", 1, 1, 8500),
        ("openai/gpt-4o-mini", 100, 100, 8500),
        ("gpt-5", 50, 50, 210),
    ],
)
def test_tiles(model: str, width: int, height: int, expected: int) -> None:
    assert count(model, width, height) == TokenCount(expected, exact=True, upper_bound=expected)


def test_low_detail_costs_the_base_whatever_the_image() -> None:
    base = TokenCount(85, exact=True, upper_bound=85)
    assert count("gpt-4o", 4096, 8192, Detail.LOW) == base
    assert image_rule("gpt-4o").count(None, Detail.LOW) == base


@pytest.mark.parametrize(
    ("model", "width", "height", "expected"),
    [
        # OpenAI's examples: 1024 and 1452 patches, times the model's factor.
        ("gpt-4.1-mini", 1024, 1024, 1659),
        ("gpt-4.1-mini", 1800, 2400, 2353),
        ("gpt-4.1-nano", 1800, 2400, 3572),
        ("o4-mini", 1800, 2400, 2498),
        # Reported by OpenAI: 503, 179, 24, 88 and 4.
        ("gpt-4.1-nano", 540, 360, 502),
        ("gpt-4.1-mini", 300, 346, 179),
        ("gpt-5-nano", 128, 128, 24),
        ("gpt-5.4", 240, 278, 87),
        ("gpt-5.4", 60, 30, 3),
        # A side of more than 2048 pixels shrinks the image too: to 64 patches by one.
        ("gpt-5-mini", 100_000, 20, 104),
    ],
)
def test_patches(model: str, width: int, height: int, expected: int) -> None:
    assert count(model, width, height).tokens == expected


@pytest.mark.parametrize(
    ("model", "width", "height", "expected"),
    [
        # Anthropic's examples, and the three tokens around an image.
        ("claude-sonnet-4-5", 1920, 1080, 1560 + 3),
        ("claude-opus-4-7", 1920, 1080, 2691 + 3),
        ("claude-opus-4-7", 3840, 2160, 4784 + 3),
        # Reported by Anthropic for images of these sizes.
        ("claude-sonnet-4-5-20250929", 166, 282, 69),
        ("claude-haiku-4-5-20251001", 128, 128, 28),
        ("claude-haiku-4-5-20251001", 100, 100, 19),
    ],
)
def test_claude(model: str, width: int, height: int, expected: int) -> None:
    assert count(model, width, height).tokens == expected


@pytest.mark.parametrize(
    ("model", "most"),
    [
        ("gpt-4o", 85 + 8 * 170),
        ("gpt-4o-mini", 2833 + 8 * 5667),
        ("gpt-4.1-mini", 2489),
        ("gpt-5-nano", 2304),
        ("gpt-5.6", 12_000),
        ("claude-haiku-4-5", 1571),
        ("claude-sonnet-5", 4787),
        ("llama-4-scout", 1024),
    ],
)
def test_an_image_of_unknown_size_counts_as_the_largest(model: str, most: int) -> None:
    largest = image_rule(model).count(None, Detail.AUTO)
    assert largest.tokens == most
    assert not largest.exact


def test_gpt_5_6_looks_at_the_whole_image_unless_told_otherwise() -> None:
    assert count("gpt-5.6", 32_000, 32_000).tokens == 1_200_000
    assert count("gpt-5.6", 32_000, 32_000, Detail.HIGH).tokens == 3000


@pytest.mark.parametrize(
    ("model", "high", "original"),
    [
        ("gpt-5.4", 3000, 12_000),
        ("gpt-5.5", 3000, 12_000),
        ("gpt-5.6", 3000, 1_200_000),
        ("gpt-4.1-mini", 2465, 2465),
        ("gpt-4o", 765, 765),
    ],
)
def test_an_image_can_be_asked_for_as_it_is(model: str, high: int, original: int) -> None:
    assert count(model, 32_000, 32_000, Detail.HIGH).tokens == high
    assert count(model, 32_000, 32_000, Detail.ORIGINAL).tokens == original


MODELS = ["gpt-4o", "gpt-4o-mini", "gpt-4.1-mini", "gpt-5", "gpt-5.4", "gpt-5.5", "o4-mini", "claude-opus-4-6", "other"]
sides = st.integers(1, 2**32 - 1) | st.integers(1, 3000)


@given(model=st.sampled_from(MODELS), width=sides, height=sides, detail=st.sampled_from(Detail))
@example(model="claude-opus-4-6", width=1000, height=1209, detail=Detail.AUTO)  # one way to shrink it is not enough
def test_no_known_size_costs_more_than_an_unknown_one(model: str, width: int, height: int, detail: Detail) -> None:
    rule = image_rule(model)
    known, unknown = rule.count(Size(width, height), detail), rule.count(None, detail)
    assert 0 < known.tokens <= known.upper_bound
    assert known.tokens <= unknown.tokens
    assert known.upper_bound <= unknown.upper_bound + 2


@given(model=st.sampled_from(MODELS), width=sides, height=sides)
def test_turning_an_image_changes_nothing(model: str, width: int, height: int) -> None:
    rule = image_rule(model)
    assert rule.count(Size(width, height), Detail.AUTO) == rule.count(Size(height, width), Detail.AUTO)
