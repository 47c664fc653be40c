"""Which bearer tokens are good, and what a file of them may hold."""

from pathlib import Path

import pytest

from policyd.core.errors import ConfigError
from policyd.guards.access import AccessTokens, load_access_tokens

OLD, NEW = "0123456789abcdef0123", "fedcba9876543210+/=="


def loaded(folder: Path, text: str) -> AccessTokens:
    file = folder / "tokens"
    file.write_text(text)
    return load_access_tokens(file)


def test_every_token_of_the_file_is_good(tmp_path: Path) -> None:
    tokens = loaded(tmp_path, f"# since March\n{OLD}\n\n  {NEW}  \r\n")
    assert tokens.admit(f"Bearer {OLD}")
    assert tokens.admit(f"bearer  {NEW}")


@pytest.mark.parametrize(
    "shown",
    [None, "", "Bearer", "Bearer ", OLD, f"Basic {OLD}", f"Bearer {OLD}x", f"Bearer {OLD[:-1]}", "Bearer \udcff"],
)
def test_nothing_else_is(tmp_path: Path, shown: str | None) -> None:
    assert not loaded(tmp_path, OLD).admit(shown)


def test_no_token_is_kept_as_it_is(tmp_path: Path) -> None:
    tokens = loaded(tmp_path, OLD)
    assert OLD not in repr(tokens)
    assert all(OLD.encode() not in known for known in tokens.hashes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "found no token, expected one a line"),
        ("# nothing\n\n", "found no token, expected one a line"),
        (f"{OLD}\nshort", ":2: expected a token of at least 16"),
        (f"{OLD} {NEW}", ":1: expected a token of at least 16"),
    ],
)
def test_a_mistake_names_its_line_and_shows_no_token(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, text)
    assert words in str(raised.value)
    assert "short" not in str(raised.value)
    assert OLD not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--access-tokens: .*nowhere: No such file"):
        load_access_tokens(tmp_path / "nowhere")
