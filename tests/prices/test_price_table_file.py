"""A price table that an operator gives: taken as it is, or refused with the place and what was expected there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd.core.errors import ConfigError
from policyd.core.usage import KINDS, Usage
from policyd.prices.table import TABLE_PATH, Table, load_price_book, price_book, read_table
from policyd.prices.table_file import FILE_BYTES_MAX, load_table, open_price_book

GOOD = '{"source":"ours 1","providers":[{"id":"acme","models":[{"id":"m","names":["m"],"prices":[%s]}]}]}'
FREE = '{"tiers":[[0,{"input":[0,1]}]]}'


def problems(path: Path, content: str | bytes) -> tuple[str, ...]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        load_table(path)
    return tuple(problem.removeprefix(f"{path}: ") for problem in caught.value.problems)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "prices.json"


def test_without_a_file_it_is_the_packages_own() -> None:
    assert load_table(None) == read_table()
    assert open_price_book(None).revision == load_price_book().revision


def test_the_packages_own_has_no_mistakes() -> None:
    assert load_table(TABLE_PATH) == read_table()


def test_a_file_is_used_instead(path: Path) -> None:
    path.write_text(GOOD % '{"tiers":[[0,{"input":[3,1]}]]}')
    book = open_price_book(path)
    found = book.find(provider="acme", model="m", at_ms=0)
    assert found is not None
    assert found.price.cost_nanos(Usage(input=2)) == 6
    assert book.version == "ours 1"
    assert book.find(provider="openai", model="gpt-4o", at_ms=0) is None


def test_the_revision_is_of_what_a_table_says() -> None:
    table = msgspec.json.decode(GOOD % FREE, type=Table)
    spaced = msgspec.json.decode(msgspec.json.format(GOOD % FREE), type=Table)
    other = msgspec.json.decode(GOOD % FREE.replace("0,1", "1,1"), type=Table)
    assert price_book(table).revision == price_book(spaced).revision
    assert price_book(table).revision != price_book(other).revision
    assert len(price_book(table).revision) == 16


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "not JSON: Input data was truncated"),
        ("[1", "not JSON: Input data was truncated"),
        ("[" * 5000, "not JSON: maximum recursion depth exceeded"),
        ("prices: 1", "not JSON: JSON is malformed: invalid character (byte 0)"),
        (b'{"source":"\xff"}', "not JSON: 'utf-8' codec can't decode byte 0xff in position 0"),
        ("[]", "Expected `object`, got `array`"),
        ("{}", "Object missing required field `source`"),
        ('{"source":"","providers":[]}', "providers: Expected `array` of length >= 1"),
        ('{"source":"","providers":[7]}', "providers[0] (?): Expected `object`, got `int`"),
        ('{"source":"","providers":[{"id":"acme"}]}', "providers[0] (acme): Object missing required field `models`"),
        (GOOD % "", "providers[0].models[0].prices (acme m): Expected `array` of length >= 1"),
        (
            GOOD % '{"tier":[]}',
            "providers[0].models[0].prices[0] (acme m): Object contains unknown field `tier`",
        ),
        (
            GOOD % '{"tiers":[[0,{"input":[-1,1]}]]}',
            "providers[0].models[0].prices[0].tiers[0][1][...][0] (acme m): Expected `int` >= 0",
        ),
        (
            GOOD % '{"tiers":[[0,{"input":[1,0]}]]}',
            "providers[0].models[0].prices[0].tiers[0][1][...][1] (acme m): Expected `int` >= 1",
        ),
        (
            GOOD % '{"tiers":[[0,{"input":[0.5,1]}]]}',
            "providers[0].models[0].prices[0].tiers[0][1][...][0] (acme m): Expected `int`, got `float`",
        ),
        (
            GOOD % '{"daily":["08:00:00+08:00","09:00:00"]}',
            "providers[0].models[0].prices[0].daily[0] (acme m): Expected `time` with no timezone component",
        ),
        (
            GOOD % '{"since":"tomorrow"}',
            "providers[0].models[0].prices[0].since (acme m): Invalid RFC3339 encoded date",
        ),
        (
            GOOD % '{"tiers":[[0,{"inptu":[1,1]}]]}',
            f'acme m: found a rate for "inptu", expected one of {", ".join(KINDS)}',
        ),
        (GOOD % '{"tiers":[[9,{"input":[1,1]}]]}', "acme m: found tiers above 9 tokens, expected them from 0 upwards"),
        (
            GOOD % '{"tiers":[[0,{}],[9,{}],[8,{}]]}',
            "acme m: found tiers above 0, 9, 8 tokens, expected them from 0 upwards",
        ),
    ],
)
def test_a_bad_file_is_refused_with_the_place(path: Path, content: str | bytes, problem: str) -> None:
    (found,) = problems(path, content)
    assert found.startswith(problem)


def with_model(**said: Any) -> str:
    model = {"id": "m", "prices": [msgspec.json.decode(FREE)], **said}
    return msgspec.json.encode({"source": "", "providers": [{"id": "acme", "models": [model]}]}).decode()


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"names": ["GPT"]}, 'acme m: found the name "GPT", expected it in lower case'),
        ({"patterns": [["contains", "GPT"]]}, 'acme m: found the pattern "GPT", expected it in lower case'),
        (
            {"patterns": [["all_of", [["starts_with", "a"], ["ends_with", "B"]]]]},
            'acme m: found the pattern "B", expected it in lower case',
        ),
        (
            {"patterns": [["regex", "["]]},
            'acme m: found "[", expected a regular expression: unterminated character set at position 0',
        ),
        (
            {"variants": [{"terms": {"speed": "fast"}, "tiers": [[5, {"input": [1, 1]}]]}]},
            "acme m: found tiers above 5 tokens, expected them from 0 upwards",
        ),
    ],
)
def test_a_model_that_would_not_be_found_or_charged_is_refused(path: Path, said: Any, problem: str) -> None:
    assert problems(path, with_model(**said)) == (problem,)


def test_every_mistake_is_told_up_to_a_number(path: Path) -> None:
    found = problems(path, with_model(names=["A"] * 23))
    assert len(found) == 21
    assert found[20] == "and 3 more"


def test_a_provider_that_comes_twice_is_refused(path: Path) -> None:
    provider = '{"id":"acme","models":[]}'
    assert problems(path, f'{{"source":"","providers":[{provider},{provider}]}}') == (
        "acme: found this provider twice, expected each once",
    )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, problem in ((tmp_path / "none.json", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            load_table(path)
        assert str(caught.value) == f"{path}: cannot be read: {problem}"


def test_a_file_that_is_too_large(path: Path) -> None:
    assert problems(path, b" " * (FILE_BYTES_MAX + 1)) == (f"the file is larger than {FILE_BYTES_MAX} bytes",)


@settings(max_examples=150)
@given(st.data())
def test_garbled_files_raise_nothing_but_config_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = (GOOD % FREE).encode()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        dropped = data.draw(st.integers(0, 20))
        piece = data.draw(st.sampled_from((b"null", b"[]", b"{}", b'"', b"1e9", b"[" * 2000, b"\xff", b",", b"-1")))
        content = content[:start] + piece + content[start + dropped :]
    path = tmp_path_factory.getbasetemp() / "garbled.json"
    path.write_bytes(content)
    assert all(problem.startswith(f"{path}: ") for problem in problems_if_any(path))


def problems_if_any(path: Path) -> tuple[str, ...]:
    try:
        load_table(path)
    except ConfigError as error:
        return error.problems
    return ()
