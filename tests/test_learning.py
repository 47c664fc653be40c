"""What exchanges teach, as arithmetic: medians, bounds, forgetting, and numbers that make no sense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.learning import (
    COUNTED_TOKENS_MIN,
    DAY_MS,
    DAYS,
    EXCHANGES_MIN,
    PREFIX,
    SUBJECTS_MAX,
    Corrections,
    Lessons,
    Subject,
    corrections,
    keep_until_ms,
)
from policyd.tokens.count import TokenCount

NOW_MS = 20_000 * DAY_MS + 12_345
COUNTED = TokenCount(tokens=1000, exact=False, upper_bound=1500)
WHO = {"provider": "anthropic", "model": "claude"}


def taught(*ratios_permille: int, counted_tokens: int = 1000) -> Corrections:
    lessons = Lessons()
    for permille in ratios_permille:
        reported = counted_tokens * permille // 1000
        lessons.input(**WHO, counted_tokens=counted_tokens, reported_tokens=reported, now_ms=NOW_MS)
    return corrections(lessons.take(), now_ms=NOW_MS)


def told(*lengths: int) -> int | None:
    lessons = Lessons()
    for tokens in lengths:
        lessons.output(**WHO, endpoint="messages", tokens=tokens, now_ms=NOW_MS)
    return corrections(lessons.take(), now_ms=NOW_MS).output_tokens(**WHO, endpoint="messages")


# --- input ---


@pytest.mark.parametrize(
    ("permille", "expected", "bound"),
    [
        (1200, 1200, 1800),
        (800, 800, 1500),  # a bound never shrinks
        (1000, 1000, 1500),
        (1_000_000_000, 2000, 3000),
        (1, 500, 1500),
    ],
)
def test_counts_are_corrected_within_bounds(permille: int, expected: int, bound: int) -> None:
    learned = taught(*[permille] * EXCHANGES_MIN)
    corrected = learned.corrected(COUNTED, **WHO)
    assert corrected == TokenCount(tokens=expected, exact=False, upper_bound=bound)


def test_nothing_is_said_before_there_is_data() -> None:
    assert taught(*[1200] * (EXCHANGES_MIN - 1)).corrected(COUNTED, **WHO) == COUNTED


def test_one_odd_exchange_moves_nothing() -> None:
    learned = taught(*[1100] * EXCHANGES_MIN, 10**15)
    assert learned.corrected(COUNTED, **WHO).tokens == 1100


def test_exact_counts_and_other_models_are_left_alone() -> None:
    learned = taught(*[1200] * EXCHANGES_MIN)
    exact = TokenCount(tokens=1000, exact=True, upper_bound=1000)
    assert learned.corrected(exact, **WHO) == exact
    assert learned.corrected(COUNTED, provider="anthropic", model="claude-2") == COUNTED
    assert learned.corrected(COUNTED, provider="aws", model="claude") == COUNTED


def test_short_prompts_teach_nothing() -> None:
    assert not taught(*[1200] * EXCHANGES_MIN, counted_tokens=COUNTED_TOKENS_MIN - 1).learned


# --- output ---


def test_the_length_that_three_of_four_replies_do_not_pass() -> None:
    assert told(*[100] * 15, *[400] * 5) == 112, "the end of the bucket that 100 is in"
    assert told(*[100] * 14, *[400] * 6) == 448
    assert told(*[7] * EXCHANGES_MIN) == 7
    assert told(*[100] * (EXCHANGES_MIN - 1)) is None
    assert told(*[0] * EXCHANGES_MIN) is None
    endless = told(*[10**30] * EXCHANGES_MIN)
    assert endless is not None
    assert endless < 2**28


# --- days, names, and what is in the store ---


def test_days_that_are_older_count_no_more() -> None:
    lessons = Lessons()
    for _ in range(EXCHANGES_MIN):
        lessons.input(**WHO, counted_tokens=1000, reported_tokens=1300, now_ms=NOW_MS)
    counters = lessons.take()
    last_ms = keep_until_ms(NOW_MS) - 1
    assert last_ms // DAY_MS == NOW_MS // DAY_MS + DAYS - 1
    assert corrections(counters, now_ms=last_ms).learned
    assert not corrections(counters, now_ms=last_ms + 1).learned
    assert not corrections(counters, now_ms=NOW_MS - DAY_MS).learned, "from the future"


def test_several_days_and_replicas_add_up() -> None:
    counters: dict[str, int] = {}
    for day in range(2):
        lessons = Lessons()
        for _ in range(EXCHANGES_MIN // 2):
            lessons.input(**WHO, counted_tokens=1000, reported_tokens=1300, now_ms=NOW_MS - day * DAY_MS)
        counters |= lessons.take()
    assert len(counters) == 2
    (learned,) = corrections(counters, now_ms=NOW_MS).learned.items()
    assert learned == (Subject("input", "anthropic", "", "claude"), (1300, EXCHANGES_MIN))


def test_what_could_not_be_stored_is_given_back() -> None:
    lessons = Lessons()
    lessons.output(**WHO, endpoint="messages", tokens=5, now_ms=NOW_MS)
    taken = lessons.take()
    assert not lessons.take()
    lessons.output(**WHO, endpoint="messages", tokens=5, now_ms=NOW_MS)
    lessons.give_back(taken)
    assert list(lessons.take().values()) == [2]


@pytest.mark.parametrize("model", ["m|o|d|e|l", "", "é", "a/b:c", "x" * 256])
def test_every_printable_name_comes_back(model: str) -> None:
    lessons = Lessons()
    for _ in range(EXCHANGES_MIN):
        lessons.output(provider="p", model=model, endpoint="e", tokens=9, now_ms=NOW_MS)
    assert corrections(lessons.take(), now_ms=NOW_MS).output_tokens(provider="p", model=model, endpoint="e") == 10


@pytest.mark.parametrize("model", ["a\nb", "a\x00", "x" * 257])
def test_other_names_teach_nothing(model: str) -> None:
    lessons = Lessons()
    lessons.output(provider="p", model=model, endpoint="e", tokens=9, now_ms=NOW_MS)
    assert not lessons.take()


def test_the_number_of_names_is_bounded() -> None:
    lessons = Lessons()
    for number in range(SUBJECTS_MAX + 10):
        lessons.output(provider="p", model=str(number), endpoint="e", tokens=9, now_ms=NOW_MS)
    assert len(lessons.take()) == SUBJECTS_MAX


garbage = st.text(max_size=20) | st.lists(
    st.sampled_from(["", "20000", "input", "output", "1200", "99999999999", "-5", "p", "²"]), min_size=5, max_size=7
).map("|".join)


@given(st.dictionaries(garbage.map(PREFIX.__add__) | garbage, st.integers(-(2**63), 2**63 - 1)))
def test_nothing_in_the_store_pushes_a_correction_out_of_bounds(counters: dict[str, int]) -> None:
    learned = corrections(counters, now_ms=NOW_MS)
    for subject, found in learned.learned.items():
        assert 500 <= found.value <= 2000 if subject.kind == "input" else 0 < found.value < 2**28
        corrected = learned.corrected(COUNTED, provider=subject.provider, model=subject.model)
        assert 500 <= corrected.tokens <= 2000
        assert 1500 <= corrected.upper_bound <= 3000
