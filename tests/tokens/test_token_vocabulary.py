"""The vocabularies: they count as published, look nowhere but in the package, and no text stalls or breaks them."""

import gzip
import os
import subprocess
import sys
import time
import unicodedata
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha1
from importlib.resources import files
from pathlib import Path
from random import Random

import pytest
import tiktoken
from hypothesis import example, given
from hypothesis import strategies as st

import policyd
from policyd.tokens.counter import FORCED_CUT_ERROR_TOKENS
from policyd.tokens.segments import SEGMENT_CHARS_MAX, segments
from policyd.tokens.vocabulary import CL100K_BASE, O200K_BASE, Counted, Vocabulary

EACH_VOCABULARY = pytest.mark.parametrize("vocabulary", [O200K_BASE, CL100K_BASE], ids=lambda each: each.name)


# --- What they count ---


@pytest.mark.parametrize(
    ("text", "cl100k_tokens", "o200k_tokens"),
    [
        # The examples of OpenAI's cookbook, "How to count tokens with tiktoken".
        ("tiktoken is great!", 6, 6),
        ("antidisestablishmentarianism", 6, 6),
        ("2 + 2 = 4", 7, 7),
        ("お誕生日おめでとう", 9, 8),
        ("", 0, 0),
    ],
)
def test_known_counts(text: str, cl100k_tokens: int, o200k_tokens: int) -> None:
    assert CL100K_BASE.count(text) == Counted(cl100k_tokens, forced_cuts=0)
    assert O200K_BASE.count(text) == Counted(o200k_tokens, forced_cuts=0)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tiktoken.Encoding]:
    """tiktoken's own encodings, by name. It finds them in its cache, and so does not download them."""
    cache = tmp_path_factory.mktemp("tiktoken")
    for vocabulary in (O200K_BASE, CL100K_BASE):
        url = f"https://openaipublic.blob.core.windows.net/encodings/{vocabulary.name}.tiktoken"
        packed = files("policyd.tokens") / "data" / f"{vocabulary.name}.tiktoken.gz"
        (cache / sha1(url.encode()).hexdigest()).write_bytes(gzip.decompress(packed.read_bytes()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
        return {vocabulary.name: tiktoken.get_encoding(vocabulary.name) for vocabulary in (O200K_BASE, CL100K_BASE)}


# Characters that the patterns treat each in a way of its own, and so the combinations that could go wrong.
ALPHABET = "abSTel'\u2019 \n\r\t019_-.,:/(\"\u00a0\u1680\u001c\u0085\u200b\u0301é²½ⅷǅʰ\u0661的。\uff0c\uff01ก😀\ud800"
texts = st.text(st.one_of(st.sampled_from(ALPHABET), st.characters()), max_size=200)


@EACH_VOCABULARY
@given(text=texts)
def test_counts_agree_with_tiktoken(published: dict[str, tiktoken.Encoding], vocabulary: Vocabulary, text: str) -> None:
    expected = len(published[vocabulary.name].encode_ordinary(text))
    assert vocabulary.count(text) == Counted(expected, forced_cuts=0)


@EACH_VOCABULARY
def test_special_tokens_are_text(vocabulary: Vocabulary) -> None:
    assert vocabulary.count("<|endoftext|>").tokens > 1
    assert vocabulary.count("<|im_start|>system").tokens > 2


@EACH_VOCABULARY
def test_a_lone_surrogate_counts_as_the_replacement_character(vocabulary: Vocabulary) -> None:
    assert vocabulary.count("a\ud800b").tokens == vocabulary.count("a\ufffdb").tokens


# --- Segments ---


@given(text=texts, chars_max=st.integers(3, 40))
def test_segments_are_the_text_in_bounded_parts(text: str, chars_max: int) -> None:
    parts = list(segments(text, chars_max=chars_max))
    assert "".join(part.text for part in parts) == text
    assert all(1 <= len(part.text) <= chars_max for part in parts)
    assert not parts or parts[-1].clean


TRICKY = "I don't think it's what they'LL've said\n\n  \n 12345 a\u0301b a_b x² =\n/\n\u00a0 \u1680x"


@EACH_VOCABULARY
@given(text=texts | st.text(st.sampled_from(TRICKY), max_size=60), chars_max=st.integers(3, 40))
@example(text=TRICKY, chars_max=6)
@example(text=TRICKY, chars_max=7)
@example(text=TRICKY, chars_max=8)
@example(text=TRICKY, chars_max=9)
def test_clean_cuts_do_not_change_the_count(vocabulary: Vocabulary, text: str, chars_max: int) -> None:
    whole = ""
    # Everything between two forced cuts is one text, which clean cuts may divide but not change.
    parts_tokens = 0
    for segment in segments(text, chars_max=chars_max):
        whole += segment.text
        parts_tokens += vocabulary.count(segment.text).tokens
        if not segment.clean:
            assert parts_tokens == vocabulary.count(whole).tokens
            whole, parts_tokens = "", 0
    assert parts_tokens == vocabulary.count(whole).tokens


def test_what_python_calls_a_letter_or_digit_the_patterns_do_too() -> None:
    letters_and_digits = (chr(code) for code in range(sys.maxunicode + 1) if chr(code).isalnum())
    assert {unicodedata.category(each)[0] for each in letters_and_digits} == {"L", "N"}


def test_prose_json_code_and_base64_have_clean_cuts_everywhere() -> None:
    random = Random(1)
    base64 = "".join(random.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", k=1000))
    hexadecimal = "".join(random.choices("0123456789abcdef", k=1000))
    for text in [
        "The quick brown fox jumps over the lazy dog. " * 10,
        '{"name":"x","values":[1,2,3],"nested":{"key":null}}' * 10,
        "def f(x):\n\treturn x+1\n" * 20,
        "敏捷的棕色狐狸跳过了懒狗。" * 30,
        base64,
        hexadecimal,
    ]:
        assert all(segment.clean for segment in segments(text, chars_max=64))


# --- Hostile text ---


def run_of(pattern: str) -> Callable[[int], str]:
    return lambda chars: (pattern * (chars // len(pattern) + 1))[:chars]


def any_of(characters: str) -> Callable[[int], str]:
    return lambda chars: "".join(Random(7).choices(characters, k=chars))


HOSTILE: dict[str, Callable[[int], str]] = {
    "one letter": run_of("a"),
    "one capital": run_of("A"),
    "spaces": run_of(" "),
    "spaces and a letter": lambda chars: " " * (chars - 1) + "x",
    "tabs": run_of("\t"),
    "line feeds": run_of("\n"),
    "spaces and line feeds": run_of(" \n"),
    "no-break spaces": run_of("\u00a0"),
    "long gaps": run_of("x" + " " * 9_999),
    "equals signs": run_of("="),
    "slashes": run_of("/"),
    "apostrophes": run_of("'"),
    "digits": run_of("1"),
    "emoji": run_of("😀"),
    "joined emoji": run_of("👩\u200d👩\u200d👧"),
    "combining marks": run_of("\u0301"),
    "NUL": run_of("\0"),
    "lone surrogates": run_of("\ud800"),
    "special tokens": run_of("<|endoftext|>"),
    "random letters": any_of("abcdefghijklmnopqrstuvwxyz"),
    "random ideographs": any_of("".join(map(chr, range(0x4E00, 0x9FFF)))),
    "random foreign digits": any_of("".join(map(chr, range(0x660, 0x66A)))),
    "random punctuation": any_of("!@#$%^&*()-=_+[]{}|;:,.<>?"),
    "random control characters": any_of("".join(map(chr, range(32)))),
}
EACH_HOSTILE_TEXT = pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)


def seconds_to_count(vocabulary: Vocabulary, text: str) -> float:
    started = time.process_time()
    vocabulary.count(text)
    return time.process_time() - started


@EACH_VOCABULARY
@EACH_HOSTILE_TEXT
def test_hostile_text_costs_no_more_than_in_proportion_to_its_length(
    vocabulary: Vocabulary, hostile: Callable[[int], str]
) -> None:
    short_seconds, long_seconds = (
        min(seconds_to_count(vocabulary, hostile(chars)) for _ in range(2)) for chars in (20_000, 80_000)
    )
    # Four times the text. Quadratic cost would be sixteen times as much; the constant absorbs the clock's grain.
    assert long_seconds < 8 * short_seconds + 0.05


@EACH_VOCABULARY
@pytest.mark.parametrize("kind", ["spaces and a letter", "lone surrogates"])
def test_a_hostile_megabyte_is_counted(vocabulary: Vocabulary, kind: str) -> None:
    text = HOSTILE[kind](1_000_000)
    assert 0 < vocabulary.count(text).tokens <= len(text.encode("utf-8", "surrogatepass"))


@EACH_VOCABULARY
@EACH_HOSTILE_TEXT
def test_forced_cuts_err_by_no_more_than_stated(vocabulary: Vocabulary, hostile: Callable[[int], str]) -> None:
    text = hostile(4 * SEGMENT_CHARS_MAX + 1000)
    counted = vocabulary.count(text)
    whole = len(vocabulary.load().encode_ordinary(text))  # short enough for tiktoken to survive
    assert abs(whole - counted.tokens) <= FORCED_CUT_ERROR_TOKENS * counted.forced_cuts


@pytest.mark.parametrize("run", ["a", " ", "="])
def test_a_run_of_one_character_counts_the_same_in_segments(run: str) -> None:
    text = run * (3 * SEGMENT_CHARS_MAX)
    counted = O200K_BASE.count(text)
    assert counted.forced_cuts == 2
    assert counted.tokens == len(O200K_BASE.load().encode_ordinary(text))


@EACH_VOCABULARY
@pytest.mark.parametrize("before", ["", "é", "éé", "½"])
@pytest.mark.parametrize("zero", ["0", "\u0660", "\u0966"], ids=["ASCII", "Arabic", "Devanagari"])
def test_an_endless_number_counts_the_same_in_segments(vocabulary: Vocabulary, zero: str, before: str) -> None:
    digits = [chr(ord(zero) + digit) for digit in range(10)]
    text = before + "".join(Random(3).choices(digits, k=3 * SEGMENT_CHARS_MAX))
    assert vocabulary.count(text).tokens == len(vocabulary.load().encode_ordinary(text))


# --- Loading ---


def test_loading_is_done_once_whoever_comes_first() -> None:
    fresh = Vocabulary("cl100k_base", split_pattern=CL100K_BASE._split_pattern, sha256=CL100K_BASE._sha256)
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: fresh.load(), range(8)))
    assert len({id(encoding) for encoding in loaded}) == 1


def test_a_file_that_is_not_the_published_one_is_refused() -> None:
    with pytest.raises(ValueError, match="cl100k_base as published"):
        Vocabulary("cl100k_base", split_pattern=".", sha256="0" * 64).load()


COUNT_IN_A_NEW_PROCESS = """
import sys
import policyd
from policyd.tokens import TokenCounter

forbidden = ["socket."]

def forbid(event, arguments):
    if event.startswith(tuple(forbidden)):
        raise AssertionError(f"{event} {arguments}")

sys.addaudithook(forbid)
counter = TokenCounter()
counter.preload()
forbidden.append("open")
counts = [counter.count_text("tiktoken is great!", provider="openai", model=model) for model in ("gpt-4o", "gpt-4")]
print(policyd.__file__, *counts)
"""


def count_in_a_new_process(**environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-P", "-c", COUNT_IN_A_NEW_PROCESS],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


def test_there_is_no_network_and_once_preloaded_nothing_is_read() -> None:
    assert count_in_a_new_process(TIKTOKEN_CACHE_DIR="/nonexistent").endswith(" 6 6\n")


def test_the_vocabularies_load_from_a_zipped_package(tmp_path: Path) -> None:
    package = Path(policyd.__file__).parent
    archive = tmp_path / "policyd.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in package.rglob("*"):
            if path.suffix in {".py", ".gz"}:
                zipped.write(path, path.relative_to(package.parent))
    assert count_in_a_new_process(PYTHONPATH=str(archive)) == f"{archive}/policyd/__init__.py 6 6\n"
