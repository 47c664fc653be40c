"""The rules that are left for a request say of it what all rules say, whatever they are and whichever of them fails."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policyd.core.policy import Match, Metric
from policyd.core.rule_index import RuleIndex
from policyd.core.rules import (
    AllOf,
    AnyOf,
    Condition,
    ConditionFailed,
    EstimateReaches,
    Expression,
    Matches,
    Not,
    Rule,
    RuleAction,
    Situation,
    judge,
)


def _fails(_: Situation) -> bool:
    raise ConditionFailed("it divides by nothing")


LEAVES: tuple[Condition, ...] = (
    Matches(Match({"team": ("red",)})),
    Matches(Match({"team": ("r*", "blue"), "user": ("ann",)})),
    Matches(Match({})),
    EstimateReaches({Metric.COST: 1}),
    EstimateReaches({Metric.COST: 3}),
    Expression("true", test=lambda _: True),
    Expression("1 / 0", test=_fails),
)

conditions: st.SearchStrategy[Condition] = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda each: AllOf(tuple(each))),
        st.lists(inner, max_size=3).map(lambda each: AnyOf(tuple(each))),
        inner.map(Not),
    ),
    max_leaves=6,
)
rules = st.lists(
    st.tuples(conditions, st.sampled_from([RuleAction.ALLOW, RuleAction.DENY, RuleAction.NOTIFY]), st.booleans()),
    max_size=5,
).map(lambda drawn: [Rule(f"rule-{n}", when, action, shadow=shadow) for n, (when, action, shadow) in enumerate(drawn)])
attributes = st.dictionaries(st.sampled_from(["team", "user"]), st.sampled_from(["red", "rose", "blue", "ann"]))


@given(rules=rules, attributes=attributes, cost=st.integers(0, 3))
def test_the_rules_that_are_left_say_what_all_of_them_say(
    rules: list[Rule], attributes: dict[str, str], cost: int
) -> None:
    situation = Situation(attributes=attributes, estimated={Metric.COST: cost}, fills={}, shown={})
    index = RuleIndex(rules)
    for _ in range(2):  # the second time from memory
        assert judge(index.candidates(attributes), situation) == judge(rules, situation)


def test_rules_that_the_attributes_rule_out_are_not_left() -> None:
    red = Rule("red", Matches(Match({"team": ("red",)})), RuleAction.DENY)
    dear = Rule("dear", AllOf((red.when, EstimateReaches({Metric.COST: 1}))), RuleAction.DENY)
    others = Rule("others", Not(red.when), RuleAction.DENY)
    index = RuleIndex([red, dear, others])
    assert index.candidates({"team": "red"}) == (red, dear)
    assert index.candidates({"team": "blue"}) == index.candidates({}) == (others,)
