"""Attributes that the policy makes of others: the group of a model, the tier that a request counts as."""

import pytest

from policyd.core.errors import TierUnknown
from policyd.core.grouping import Grouping, ModelGroup, ModelGroups, Tiers

GROUPS = ModelGroups((ModelGroup("small", ("*-mini", "haiku")), ModelGroup("frontier", ("gpt-5*", "opus"))))
TIERS = Tiers(("free", "pro"))


@pytest.mark.parametrize(
    ("model", "group"),
    [
        ("gpt-5", "frontier"),
        ("opus", "frontier"),
        ("haiku", "small"),
        # It fits both.
        ("gpt-5-mini", "small"),
        ("opus-2", None),
        ("", None),
    ],
)
def test_a_model_is_in_the_first_group_that_it_fits(model: str, group: str | None) -> None:
    assert GROUPS.group_of(model) == group


def test_groups_are_matched_by_the_whole_name() -> None:
    assert ModelGroups((ModelGroup("a", ("b", "c")),)).group_of("bc") is None


def test_a_request_cannot_choose_its_group() -> None:
    grouping = Grouping(GROUPS)
    assert grouping.complete({"model": "opus", "model_group": "small"}) == {"model": "opus", "model_group": "frontier"}
    assert grouping.complete({"model": "other", "model_group": "small"}) == {"model": "other"}


@pytest.mark.parametrize("attributes", [{}, {"tier": "gold"}, {"tier": "FREE"}, {"tier": ""}], ids=repr)
def test_a_tier_that_is_none(attributes: dict[str, str]) -> None:
    with pytest.raises(TierUnknown):
        Grouping(tiers=TIERS).complete(attributes)
    default = Grouping(tiers=Tiers(TIERS.names, default="free"))
    assert default.complete(attributes) == {"tier": "free"}


def test_a_tier_that_is_one() -> None:
    assert Grouping(tiers=Tiers(TIERS.names, default="free")).complete({"tier": "pro"}) == {"tier": "pro"}


def test_without_tiers_any_will_do() -> None:
    assert Grouping().complete({"tier": "gold"}) == {"tier": "gold"}
    assert Grouping().complete({}) == {}
