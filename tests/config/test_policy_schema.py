"""The policy file's JSON Schema: it takes every policy that policyd takes, and refuses what it can see is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from policyd.config import parse_policy
from policyd.config.policy_file import policy_schema
from policyd.config.prices_section import UNITS
from policyd.config.problems import Mistake
from policyd.config.yaml_tree import Kind, ListTree, Scalar, Tree, parse_yaml

_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BAD = sorted((HERE / "bad").glob("*.yaml"))
PAGES = (ROOT / "README.md", ROOT / "policyd/config/README.md")
FILES = (
    *sorted((HERE / "good").glob("*.yaml")),
    *sorted((ROOT / "envoy/policies").glob("*.yaml")),
    ROOT / "policyd/demo/policy.yaml",
)

# What a schema that looks at one value at a time cannot see. Everything else in bad/ it has to refuse.
ELSEWHERE = "it is wrong because of what another part of the file says, or does not say"
OUTSIDE = "what may stand there is reckoned or looked up: time zones, instants, durations, expressions of all kinds"
TEXT_ONLY = "only the text shows it, or how an older YAML would read it"
UNSEEN: Mapping[str, str] = {
    stem: reason
    for reason, stems in {
        ELSEWHERE: """
            anomaly_match_unknown anomaly_name_duplicate anomaly_per_unknown default_tier_misspelt
            default_tier_without_tiers identity_api_key_while_off identity_default_not_last limit_name_duplicate
            match_unknown model_group_covered model_group_unknown model_group_without_groups per_unknown
            per_unknown_to_own_identity pool_named_like_a_limit pool_of_different_metrics pool_of_different_scopes
            price_above_falling price_above_unordered price_duplicate rule_after_one_for_all rule_freeze_per_unknown
            rule_name_duplicate rule_shadowed rule_shadowed_by_a_freeze rule_shadowed_by_all rule_shadowed_by_either
            rule_shadowed_by_pattern rule_shadowed_by_threshold tier_that_can_never_match tier_unlimited_for_all
            tier_unlimited_where_it_matches tiers_amount_missing tiers_amount_of_a_fixed_limit tiers_amount_of_no_limit
            tiers_from_the_body tiers_missing tiers_without_source when_attribute_unknown when_percent_of_unknown
            when_percent_without_limits when_tier_unknown windows_by_tier_without_tiers windows_twice
        """,
        OUTSIDE: """
            cel_attribute_unknown cel_function_unknown cel_limit_not_by_name cel_limit_of_another_unit cel_limit_unknown
            cel_loop cel_nested_too_deep cel_no_condition cel_pattern_counts cel_pattern_of_the_request
            cel_several_lines cel_syntax cel_types cel_variable_unknown cel_whole_number_of_money
            anomaly_every_too_long anomaly_rate_past_seconds anomaly_rate_past_too_long anomaly_velocity_of_nothing
            rule_notify_every_too_long
            identity_header_credential identity_pattern identity_pattern_ambiguous identity_pattern_repeats_a_group
            price_from_text price_from_without_offset reservations_ended_kept_too_long reservations_lean_ttl_zero
            reservations_ttl_zero
            reservations_usage_kept_hours rule_header_of_http timezone_number timezone_of_this_machine timezone_unknown
            window_sliding_zero
        """,
        TEXT_ONLY: "cost_too_fine count_octal identity_default_boolean key_duplicate key_is_a_boolean",
    }.items()
    for stem in stems.split()
}


def from_yaml(content: bytes | str) -> Any:
    """What an editor makes of a file: YAML 1.2, in which `no` is text and a date too. Raises `Mistake`."""
    tree = parse_yaml(content)
    return None if tree is None else plain(tree)


def plain(tree: Tree) -> Any:
    if isinstance(tree, ListTree):
        return [plain(item) for item in tree.items]
    if not isinstance(tree, Scalar):
        return {key.text: plain(value) for key, value in tree.entries}
    if tree.kind is Kind.NOTHING:
        return None
    if tree.kind is Kind.BOOLEAN and tree.text in {"true", "false"}:
        return tree.text == "true"
    return number(tree.text) if tree.kind is Kind.NUMBER else tree.text


def number(text: str) -> float | str:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text.replace(".inf", "inf"))
    except ValueError:
        return text


def policies() -> Iterator[tuple[str, str]]:
    for file in FILES:
        yield file.name, file.read_text("utf-8")
    for page in PAGES:
        for index, block in enumerate(_BLOCK.findall(page.read_text("utf-8"))):
            version = "" if block.startswith("version:") else "version: 1\n"
            limits = "" if re.search(r"^limits:", block, re.MULTILINE) else "limits: []\n"
            yield f"{page.parent.name}-{index}", f"{version}{block}{limits}"


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json.loads(json.dumps(policy_schema()))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_file_for_editors_is_what_policyd_says() -> None:
    written = json.loads((ROOT / "policyd/config/policy.schema.json").read_text("utf-8"))
    assert written == json.loads(json.dumps(policy_schema()))


@pytest.mark.parametrize(("name", "content"), [pytest.param(*each, id=each[0]) for each in policies()])
def test_what_policyd_takes_the_schema_takes(name: str, content: str, validator: Draft202012Validator) -> None:
    parse_policy(content, source=name)
    assert [error.message for error in validator.iter_errors(from_yaml(content))] == []


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_what_the_schema_can_see_it_refuses(path: Path, validator: Draft202012Validator) -> None:
    try:
        value = from_yaml(path.read_bytes())
    except Mistake:
        assert path.stem not in UNSEEN
        return
    assert validator.is_valid(value) == (path.stem in UNSEEN)


def test_what_is_unseen_is_there() -> None:
    assert UNSEEN.keys() <= {path.stem for path in BAD}


def mappings(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping with fixed keys that the schema describes."""
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("type") == "object":
            yield schema
        for part in schema.values():
            yield from mappings(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from mappings(part)


def test_every_key_says_what_it_is_for() -> None:
    described = list(mappings(json.loads(json.dumps(policy_schema()))))
    assert len(described) > 10
    for mapping in described:
        assert mapping["additionalProperties"] is False
        assert all(value["description"].endswith(".") for value in mapping["properties"].values())


_PATH = re.compile(r"^# policyd\.yaml:\d+: ([a-z_0-9.\[\]]+): ", re.MULTILINE)
_MISTAKEN = {
    part
    for path in BAD
    for place in _PATH.findall(path.read_text("utf-8", errors="replace"))
    for part in re.split(r"[.\[]", place)
}
# Kinds of usage are read alike: mistakes in the prices of some stand for all.
_ALIKE = {kind for unit in UNITS for kind in unit.kinds}


def test_every_key_has_a_mistake_in_a_file_of_its_own() -> None:
    described = mappings(json.loads(json.dumps(policy_schema())))
    keys = {key for mapping in described for key in mapping["properties"]}
    assert keys - _MISTAKEN - _ALIKE == set()
