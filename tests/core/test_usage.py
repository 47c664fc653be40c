"""Usage: the kinds are disjoint, and the sums are sums of kinds."""

from __future__ import annotations

from policyd.core.usage import INPUT_TOKEN_KINDS, KINDS, OUTPUT_TOKEN_KINDS, PIECE_KINDS, Usage

ONE_OF_EACH = Usage(**{kind: 10**place for place, kind in enumerate(KINDS)})
"""Every kind with a digit of its own, so that a sum shows what is in it."""


def sum_of(kinds: tuple[str, ...]) -> int:
    return sum(10 ** KINDS.index(kind) for kind in kinds)


def test_each_kind_is_input_or_output_or_a_piece() -> None:
    assert sorted((*INPUT_TOKEN_KINDS, *OUTPUT_TOKEN_KINDS, *PIECE_KINDS)) == sorted(KINDS)
    assert ONE_OF_EACH.pieces == Usage(**{kind: getattr(ONE_OF_EACH, kind) for kind in PIECE_KINDS})
    assert ONE_OF_EACH.pieces.tokens == 0


def test_pieces_are_filled_up_and_tokens_are_not() -> None:
    one = Usage(input=1, pages=5, characters=2)
    assert one.with_pieces_of(Usage(input=9, pages=3, characters=4, web_searches=1)) == Usage(
        input=1, pages=5, characters=4, web_searches=1
    )


def test_input_tokens_are_all_input_kinds() -> None:
    assert ONE_OF_EACH.input_tokens == sum_of(INPUT_TOKEN_KINDS)


def test_output_tokens_are_all_output_kinds_with_reasoning() -> None:
    assert ONE_OF_EACH.output_tokens == sum_of(OUTPUT_TOKEN_KINDS)
    assert "reasoning" in OUTPUT_TOKEN_KINDS


def test_tokens_are_input_and_output_without_fees() -> None:
    assert ONE_OF_EACH.tokens == sum_of(INPUT_TOKEN_KINDS) + sum_of(OUTPUT_TOKEN_KINDS)


def test_usages_are_added_kind_by_kind() -> None:
    twice = ONE_OF_EACH + ONE_OF_EACH
    assert twice == Usage(**{kind: 2 * units for kind, units in ONE_OF_EACH.by_kind().items()})
    assert ONE_OF_EACH + Usage() == ONE_OF_EACH


def test_nothing_was_used_by_default() -> None:
    assert Usage().tokens == 0
    assert Usage().by_kind() == {}


def test_by_kind_names_what_is_not_zero_in_order() -> None:
    assert list(Usage(output=3, input=2).by_kind().items()) == [("input", 2), ("output", 3)]
    assert Usage(**ONE_OF_EACH.by_kind()) == ONE_OF_EACH
