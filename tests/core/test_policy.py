"""The policy types: what a match fits, and what applies without a policy file."""

import pytest

from policyd.core.attributes import Strip
from policyd.core.policy import (
    FailureMode,
    Hold,
    Match,
    Metric,
    OnDisconnect,
    OnExpiry,
    Policy,
    Reservations,
    Unbounded,
    UnknownEndpoint,
    UnknownModel,
    UnknownModelAction,
    default_policy,
)
from policyd.core.windows import CalendarUnit, CalendarWindow


@pytest.mark.parametrize(
    ("patterns", "attributes", "fits"),
    [
        ({}, {}, True),
        ({}, {"model": "gpt-4o"}, True),
        ({"model": ("gpt-4o",)}, {"model": "gpt-4o"}, True),
        ({"model": ("gpt-4o",)}, {"model": "gpt-4o-mini"}, False),
        ({"model": ("gpt-4o",)}, {"model": "my-gpt-4o"}, False),
        ({"model": ("gpt-4o*",)}, {"model": "gpt-4o"}, True),
        ({"model": ("gpt-4o*",)}, {"model": "gpt-4o-mini"}, True),
        ({"model": ("gpt-?o",)}, {"model": "gpt-4o"}, True),
        ({"model": ("gpt-[45]o",)}, {"model": "gpt-5o"}, True),
        ({"model": ("gpt-[!45]o",)}, {"model": "gpt-5o"}, False),
        # Dots and brackets of regular expressions have no meaning.
        ({"model": ("gpt-4.1",)}, {"model": "gpt-4x1"}, False),
        ({"model": ("(a|b)+",)}, {"model": "a"}, False),
        ({"model": ("gpt*",)}, {"model": "GPT-4o"}, False),
        # Any of an attribute's patterns, but every attribute.
        ({"model": ("o1", "gpt*")}, {"model": "gpt-4o"}, True),
        ({"model": ("gpt*",), "tier": ("free",)}, {"model": "gpt-4o", "tier": "free"}, True),
        ({"model": ("gpt*",), "tier": ("free",)}, {"model": "gpt-4o", "tier": "paid"}, False),
        # What the request lacks fits nothing, not even "*".
        ({"tier": ("*",)}, {"model": "gpt-4o"}, False),
        ({"tier": ("*",)}, {"tier": "free"}, True),
        ({"route": ("/a/*",)}, {"route": "/a/b\nc"}, True),
    ],
)
def test_match(patterns: dict[str, tuple[str, ...]], attributes: dict[str, str], fits: bool) -> None:
    assert Match(patterns).fits(attributes) is fits


def test_equal_matches_are_equal() -> None:
    assert Match({"model": ("gpt*",)}) == Match({"model": ("gpt*",)})
    assert Match({"model": ("gpt*",)}) != Match({"model": ("o1*",)})


def test_the_default_policy_is_ten_dollars_a_project_and_month() -> None:
    (limit,) = default_policy().limits
    assert (limit.metric, limit.amount) == (Metric.COST, 10_000_000_000)
    assert limit.window == CalendarWindow(CalendarUnit.MONTH, "UTC")
    assert limit.per == ("project",)
    assert limit.match.fits({})
    assert (limit.hold, limit.status) == (Hold.MAXIMUM, 402)


def test_the_documented_defaults() -> None:
    policy = default_policy()
    assert policy == Policy(
        identity=policy.identity,
        limits=policy.limits,
        strict=False,
        unknown_model=UnknownModel(UnknownModelAction.PRICE_AS, "gpt-4o"),
        unknown_endpoint=UnknownEndpoint.DENY,
        unbounded=Unbounded.ALLOW,
        default_max_output_tokens=4096,
        failure_mode=FailureMode.CLOSED,
        on_disconnect=OnDisconnect.OBSERVED,
        reservations=Reservations(
            ttl_seconds=120, grace_seconds=5, on_expiry=OnExpiry.HOLD, ended_kept_seconds=3600, usage_kept_days=90
        ),
    )


def test_the_default_identity_is_stripped_but_for_the_providers_own_field() -> None:
    assert default_policy().identity.strip == Strip(
        headers=("x-policyd-project", "x-policyd-user", "x-policyd-session", "x-policyd-tier"),
        query=("project_id", "session_id"),
        body=(),
    )


def test_the_default_identity_has_a_project_for_every_request() -> None:
    assert default_policy().identity.attributes(headers={}, query={}, body={}) == {"project": "default"}
