"""API keys as text, what is kept of them, and what they are for."""

from hashlib import sha256

import pytest

from policyd.core.api_keys import SECRET_BYTES, digest_of, format_key, is_well_formed, key_in
from policyd.core.errors import KeyForbidden, KeyInvalid
from policyd.core.runtime import ApiKey, Kind, RuntimeState

KEY = format_key(bytes(range(SECRET_BYTES)))


def test_a_key_tells_every_single_typing_mistake() -> None:
    assert is_well_formed(KEY)
    for at in range(len(KEY)):
        for other in "aZ0_-":
            mistyped = KEY[:at] + other + KEY[at + 1 :]
            assert is_well_formed(mistyped) is (mistyped == KEY)
    assert not is_well_formed(KEY[:-1])
    assert not is_well_formed(f"{KEY}\n")


def test_of_a_key_its_hash_is_kept() -> None:
    assert digest_of(KEY) == sha256(KEY.encode()).hexdigest()


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (KEY, KEY),
        (f"Bearer {KEY}", KEY),
        (f"bearer  {KEY} ", KEY),
        (f"Basic {KEY}", None),
        ("Bearer sk-of-the-client", None),
        ("", None),
    ],
)
def test_a_key_stands_bare_or_as_a_bearer_token(value: str, key: str | None) -> None:
    assert key_in(value) == key


def test_a_key_holds_until_it_ends() -> None:
    kept = ApiKey("digest", "bot", {"org": "acme"}, set_at_ms=0, expires_at_ms=10)
    pieces = {kind: {"digest": kept} if kind is Kind.KEY else {} for kind in Kind}
    state = RuntimeState(1, pieces)
    assert state.require_key("digest", now_ms=9) is kept
    assert kept.facts == {"org": "acme", "name": "bot"}
    for digest, now_ms in (("digest", 10), ("another", 9)):
        with pytest.raises(KeyInvalid):
            state.require_key(digest, now_ms=now_ms)


@pytest.mark.parametrize(
    ("endpoint", "model", "allowed"),
    [
        ("chat.completions", "gpt-4o-mini", True),
        ("chat.completions", "", True),
        ("chat.completions", "o1", False),
        ("embeddings", "gpt-4o", False),
        ("", "", False),
    ],
)
def test_what_a_key_is_for(endpoint: str, model: str, allowed: bool) -> None:
    kept = ApiKey("digest", "bot", {}, 0, models=("gpt-4o*",), endpoints=("chat.*",))
    if allowed:
        kept.check(endpoint=endpoint, model=model)
    else:
        with pytest.raises(KeyForbidden):
            kept.check(endpoint=endpoint, model=model)
    ApiKey("digest", "bot", {}, 0).check(endpoint=endpoint, model=model)
