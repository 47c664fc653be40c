"""Conditions in CEL: what they see, that money compares exactly, that their cost is bounded, and what they need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policyd.config import expressions, parse_policy
from policyd.config.expressions import ExpressionWrong, Vocabulary, compile_expression
from policyd.core.errors import ConfigError
from policyd.core.money import NANOS_PER_USD, format_usd
from policyd.core.policy import Metric
from policyd.core.rules import ConditionFailed, Expression, Fill, Situation

VOCABULARY = Vocabulary(("user", "team", "model"), {"daily-spend": Metric.COST, "pace": Metric.REQUESTS})
EXACT_NANOS_MAX = 2**23 * NANOS_PER_USD


def compiled(text: str) -> Expression:
    return compile_expression(text, VOCABULARY)


def situation(
    attributes: Mapping[str, str] | None = None, *, cost_nanos: int = 0, fills: Mapping[str, Fill] | None = None
) -> Situation:
    estimated = dict.fromkeys(Metric, 7) | {Metric.COST: cost_nanos}
    return Situation(attributes or {}, estimated, fills or {})


@pytest.mark.parametrize(
    "text",
    [
        'attributes.team == "ml"',
        'attributes.user == ""',
        "request.estimated_cost_usd == 1.5 && request.estimated_tokens == 7 && request.estimated_images == 7",
        "request.estimated_input_tokens + request.estimated_output_tokens == 14",
        'usage_percent["daily-spend"] == 33 && usage_percent.pace == 0',
        'usage_usd["daily-spend"] == 0.000000001',
        'usage_units["pace"] == 0',
        'attributes.team in ["ml", "web"] ? true : false',
        '{"a": attributes.team}["a"].matches("^m.$")',
        "has(usage_units.pace)",
    ],
)
def test_sees(text: str) -> None:
    assert compiled(text).holds(situation({"team": "ml"}, cost_nanos=1_500_000_000, fills={"daily-spend": Fill(1, 3)}))


def test_a_limit_of_nothing_is_as_full_as_any_condition_can_ask_for() -> None:
    assert compiled('usage_percent["pace"] >= 1000').holds(situation(fills={"pace": Fill(0, 0)}))


def test_names_the_limits_that_it_looks_at_once_each() -> None:
    text = 'usage_percent["pace"] > 1 || usage_usd["daily-spend"] > 1.0 || usage_units.pace > 1'
    assert compiled(text).limits_read == ("pace", "daily-spend")


@given(amount=st.integers(0, EXACT_NANOS_MAX - 1), difference=st.integers(-2, 2) | st.integers(-(10**12), 10**12))
@example(amount=EXACT_NANOS_MAX - 1, difference=-1)
def test_an_amount_compares_with_a_number_as_the_exact_amounts_do(amount: int, difference: int) -> None:
    other = min(max(0, amount + difference), EXACT_NANOS_MAX - 1)
    number = format_usd(other)
    found = situation(cost_nanos=amount)
    assert compiled(f"request.estimated_cost_usd > {number}").holds(found) == (amount > other)
    assert compiled(f"request.estimated_cost_usd == {number}").holds(found) == (amount == other)


@pytest.mark.parametrize("text", ["1 / (request.estimated_tokens - 7) == 1", "int(attributes.team) == 1"])
def test_what_cannot_be_evaluated_fails(text: str) -> None:
    with pytest.raises(ConditionFailed):
        compiled(text).holds(situation({"team": "ml"}))


def test_what_need_not_be_evaluated_does_not_fail() -> None:
    assert compiled("int(attributes.team) == 1 || true").holds(situation())


def test_a_failure_does_not_tell_values() -> None:
    with pytest.raises(ConditionFailed) as raised:
        compiled("int(attributes.team) == 1").holds(situation({"team": "secret"}))
    assert "secret" not in str(raised.value)


# Each would take from a tenth of a second to longer than anybody waits.
HOSTILE = (
    "[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, a > 0)))",
    "[[1].map(x, x)].map(y, y).size() == 1",
    'attributes.user.matches("' + "(x{0,900})" * 50 + '")',
    "attributes.user.matches(attributes.team)",
    "matches(attributes.user, attributes.team)",
    "(" * 200 + "true" + ")" * 200,
    "+".join(["attributes.user"] * 60) + ' == ""',
    "[" * 200 + "]" * 200 + " == []",
    '"' + "x" * 1000 + '" == ""',
)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_costly_expression_is_refused_before_it_is_evaluated(text: str) -> None:
    with pytest.raises(ExpressionWrong):
        compiled(text)


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["attributes.user", '"', "(", ")", "[", "&&", "1", ".", "=="])).map("".join)
)
def test_any_text_compiles_or_is_told_wrong(text: str) -> None:
    with suppress(ExpressionWrong):
        compiled(text)


RULE = "version: 1\nlimits: []\nrules: [{name: r, when: {cel: 'true'}, action: deny}]"


def test_without_the_library_the_file_is_told_and_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cel_expr_python", None)
    expressions._environment.cache_clear()
    with pytest.raises(ConfigError) as raised:
        parse_policy(RULE, source="policyd.yaml")
    (problem,) = raised.value.problems
    assert problem.startswith("policyd.yaml:3: rules[0].when.cel: ")
    assert 'pip install "policyd[cel]"' in problem


@pytest.mark.parametrize(("policy", "loaded"), [("version: 1\nlimits: []", "False"), (RULE, "True")])
def test_the_library_is_loaded_for_a_policy_that_needs_it_alone(policy: str, loaded: str) -> None:
    script = (
        "import sys; from policyd.config import parse_policy; parse_policy(sys.argv[1], source='p'); "
        "import policyd.server; print('cel_expr_python' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", script, policy], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == loaded


def test_the_revision_of_a_policy_is_that_of_its_expressions() -> None:
    revisions = {parse_policy(RULE.replace("true", text), source="p").revision for text in ("true", "true", "false")}
    assert len(revisions) == 2
