"""The policy file: what each key becomes, and what each mistake is told.

`bad/` has one file a mistake. Its first lines are comments: the messages that it has to give, in order. To see what a
changed file gives, run this test and read the difference.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd.config import load_policy, parse_policy
from policyd.core.attributes import Identity, Place, Source
from policyd.core.errors import ConfigError
from policyd.core.grouping import Grouping, ModelGroup, ModelGroups, Tiers
from policyd.core.money import ACCOUNT_NANOS_MAX
from policyd.core.own_prices import OwnPrice, OwnPrices
from policyd.core.policy import (
    Action,
    ApiKeys,
    FailureMode,
    Hold,
    Limit,
    Match,
    Metric,
    OnDisconnect,
    OnExpiry,
    Policy,
    Refusal,
    Reservations,
    Unbounded,
    UnknownEndpoint,
    UnknownModel,
    UnknownModelAction,
    default_policy,
)
from policyd.core.pricing import Rate, RateTier
from policyd.core.windows import CalendarUnit, CalendarWindow, FirstUseWindow, Lifetime, SlidingWindow

DECEMBER_MS = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp()) * 1000

HERE = Path(__file__).parent
GOOD = sorted((HERE / "good").glob("*.yaml"))
BAD = sorted((HERE / "bad").glob("*.yaml"))


def parse(content: str | bytes) -> Policy:
    return parse_policy(content, source="policyd.yaml")


def problems(content: str | bytes) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(content)
    return caught.value.problems


def test_the_documented_sample() -> None:
    policy = load_policy(HERE / "good/sample.yaml")
    assert policy == Policy(
        identity=Identity(
            {
                "project": (
                    Source(Place.HEADER, "x-policyd-project", strip=True),
                    Source(Place.QUERY, "project_id", strip=True),
                    Source(Place.DEFAULT, "default"),
                ),
                "user": (Source(Place.HEADER, "x-policyd-user", strip=True), Source(Place.BODY, "user")),
                "session": (
                    Source(Place.HEADER, "x-policyd-session", strip=True),
                    Source(Place.QUERY, "session_id", strip=True),
                ),
                "tier": (Source(Place.HEADER, "x-policyd-tier", strip=True),),
            }
        ),
        strict=False,
        unknown_model=UnknownModel(UnknownModelAction.PRICE_AS, "gpt-4o"),
        unbounded=Unbounded.ALLOW,
        default_max_output_tokens=4096,
        failure_mode=FailureMode.CLOSED,
        on_disconnect=OnDisconnect.OBSERVED,
        limits=(
            Limit(
                name="project-monthly-spend",
                per=("project",),
                metric=Metric.COST,
                amount=10_000_000_000,
                window=CalendarWindow(CalendarUnit.MONTH, "Europe/Berlin"),
                hold=Hold.MAXIMUM,
                status=402,
                refusal=Refusal("...", {"upgrade_url": "https://..."}),
            ),
            Limit(
                name="free-tier-rate",
                match=Match({"tier": ("free",), "model": ("gpt-4o*",)}),
                per=("user",),
                metric=Metric.REQUESTS,
                amount=20,
                window=SlidingWindow(60),
                status=429,
            ),
        ),
        revision=policy.revision,
    )


def test_every_key() -> None:
    policy = load_policy(HERE / "good/every_key.yaml")
    assert policy == Policy(
        identity=Identity(
            {
                "org": (
                    Source(Place.HEADER, "x-org", strip=False),
                    Source(Place.QUERY, "org", strip=False),
                    Source(Place.DEFAULT, "acme"),
                ),
                "project": (Source(Place.BODY, "metadata.project_id", strip=True),),
                "cost_center": (Source(Place.HEADER, "x-cost-center", strip=True, pattern="[0-9]{4}", max_length=4),),
                "session": (Source(Place.COOKIE, "sid", strip=True), Source(Place.COOKIE, "kept", strip=False)),
                "team": (
                    Source(Place.CLAIM, "realm.team"),
                    Source(Place.PEER, "connection.uri_san_peer_certificate"),
                    Source(Place.PEER, "connection.dns_san_peer_certificate"),
                    Source(Place.PEER, "connection.subject_peer_certificate"),
                    Source(Place.PEER, "connection.sha256_peer_certificate_digest"),
                    Source(Place.ROUTE, "xds.route_metadata.filter_metadata['policyd']['team']"),
                    Source(Place.ADDRESS, "source.address"),
                ),
                "tier": (Source(Place.API_KEY, "tier"), Source(Place.API_KEY, "name")),
            }
        ),
        strict=True,
        api_keys=ApiKeys.REQUIRED,
        prices=OwnPrices(
            (
                OwnPrice(
                    provider="openai",
                    model="gpt-4o*",
                    starts_at_ms=DECEMBER_MS,
                    terms={"service_tier": "priority"},
                    tiers=(
                        RateTier(
                            0,
                            {
                                "input": Rate(2 * 10**9, 10**6),
                                "cached_input": Rate(1 * 10**9, 10**6),
                                "output": Rate(8 * 10**9, 10**6),
                                "reasoning": Rate(10 * 10**9, 10**6),
                                # Half a nano-USD for a thousand.
                                "web_searches": Rate(1, 2_000),
                            },
                        ),
                        RateTier(200_000, {"input": Rate(4 * 10**9, 10**6)}),
                        RateTier(500_000, {"input": Rate(4 * 10**9, 10**6), "output": Rate(9_999_999_999_999, 10**9)}),
                    ),
                    context_tokens_max=128_000,
                ),
                OwnPrice(
                    model="my-llama*",
                    starts_at_ms=DECEMBER_MS + 500,
                    tiers=(RateTier(0, {"input": Rate(0, 10**6), "output": Rate(0, 10**6)}),),
                ),
                OwnPrice(model="rerank", tiers=(RateTier(0, {"web_searches": Rate(2 * 10**9, 1_000)}),)),
                OwnPrice(
                    model="my-tts",
                    tiers=(
                        RateTier(
                            0, {"characters": Rate(15 * 10**9, 10**6), "audio_input_ms": Rate(36 * 10**7, 3_600_000)}
                        ),
                    ),
                ),
                OwnPrice(provider="azure", model="my-deployment", price_as="gpt-4o"),
            )
        ),
        unknown_model=UnknownModel(UnknownModelAction.DENY, None),
        unknown_endpoint=UnknownEndpoint.PASS,
        unbounded=Unbounded.SET_MAXIMUM,
        default_max_output_tokens=1000,
        failure_mode=FailureMode.DEGRADED,
        lease_percent=5,
        on_disconnect=OnDisconnect.MAXIMUM,
        reservations=Reservations(
            ttl_seconds=300,
            lean_ttl_seconds=1200,
            grace_seconds=0,
            on_expiry=OnExpiry.EXPECTED,
            ended_kept_seconds=7200,
            usage_kept_days=30,
        ),
        limits=(
            Limit(
                name="spend.2024_a-b",
                metric=Metric.COST,
                amount=250_000_000,
                window=Lifetime(),
                per=("org", "cost_center", "model"),
                match=Match({"model": ("gpt-4o*", "o1"), "endpoint": ("chat_completions",), "org": ("no",)}),
                hold=Hold.EXPECTED,
                action=Action.SHADOW,
                status=403,
                refusal=Refusal(
                    "This is too much. Please ask for more.\n", {"deep_link": "https://example.com/budget"}
                ),
            ),
            Limit("blocked", Metric.COST, 0, CalendarWindow(CalendarUnit.DAY, "Asia/Kolkata")),
            Limit("a", Metric.TOKENS, 1, CalendarWindow(CalendarUnit.MINUTE), status=429),
            Limit("b", Metric.INPUT_TOKENS, 2, CalendarWindow(CalendarUnit.HOUR), status=429),
            Limit("c", Metric.OUTPUT_TOKENS, 3, CalendarWindow(CalendarUnit.WEEK), status=429),
            Limit("d", Metric.REQUESTS, 4, SlidingWindow(90), status=429),
            Limit("e", Metric.CONCURRENT_REQUESTS, 5, None, status=429),
        ),
        revision=policy.revision,
    )


def test_limits_of_tiers_windows_and_pools() -> None:
    policy = load_policy(HERE / "good/limits.yaml")
    assert policy.grouping == Grouping(
        ModelGroups((ModelGroup("small", ("*-mini", "claude-haiku-4-5")), ModelGroup("frontier", ("gpt-5*",)))),
        Tiers(("free", "pro"), default="free"),
    )
    minute, sliding = CalendarWindow(CalendarUnit.MINUTE, "Asia/Kolkata"), SlidingWindow(60)
    free, pro = Match({"tier": ("free",)}), Match({"tier": ("pro",)})
    dear = Limit("daily", Metric.COST, 10**9, CalendarWindow(CalendarUnit.DAY), per=("user",))
    pooled = Limit("red", Metric.COST, 10**9, FirstUseWindow(30), action=Action.WARN, pool="shared")
    short = Limit("short", Metric.COST, 10**9, CalendarWindow(CalendarUnit.DAY))
    assert policy.limits == (
        replace(dear, match=Match({"model_group": ("frontier",), "tier": ("free",)})),
        replace(dear, amount=20 * 10**9, match=Match({"model_group": ("frontier",), "tier": ("pro",)})),
        Limit("paced/minute", Metric.REQUESTS, 10, minute, match=free, status=429),
        Limit("paced/minute", Metric.REQUESTS, 100, minute, match=pro, status=429),
        Limit("paced/60s", Metric.REQUESTS, 2, sliding, match=free, status=429),
        Limit("paced/60s", Metric.REQUESTS, 20, sliding, match=pro, status=429),
        Limit("paced/7d", Metric.TOKENS, 1000, FirstUseWindow(7), status=429),
        Limit("tried", Metric.REQUESTS, 5, Lifetime(), match=free, status=429),
        replace(pooled, match=Match({"team": ("red",)})),
        replace(pooled, name="blue", amount=2 * 10**9, match=Match({"team": ("blue",)})),
        replace(short, action=Action.CLAMP, min_output_tokens=100),
        replace(short, name="cheap", action=Action.SWITCH_MODEL, switch_to="gpt-4o-mini"),
    )


def test_the_order_of_model_groups_is_part_of_the_revision() -> None:
    one, other = ("{small: [a], large: [b]}", "{large: [b], small: [a]}")
    written = "version: 1\nlimits: []\nmodel_groups: "
    assert parse(written + one).revision != parse(written + other).revision


def test_what_is_left_out_is_as_without_a_file() -> None:
    policy = parse("version: 1\nlimits: []")
    assert policy == replace(default_policy(), limits=(), revision=policy.revision)


def test_an_identity_replaces_the_default_one_as_a_whole() -> None:
    policy = parse("version: 1\nlimits: []\nidentity: {team: [{header: x-team}]}")
    assert policy.identity.sources == {"team": (Source(Place.HEADER, "x-team", strip=True),)}
    assert parse("version: 1\nlimits: []\nidentity: {}").identity.sources == {}


@pytest.mark.parametrize(
    ("written", "nanos"),
    [
        ("10", 10_000_000_000),
        ("10.00", 10_000_000_000),
        ('"10.00"', 10_000_000_000),
        ("0", 0),
        ("0.000000001", 1),
        ("1e-3", 1_000_000),
        # As a float this is 9007199.254740992, which is more than an account can hold.
        ("9007199.254740991", ACCOUNT_NANOS_MAX),
        # As a float this is 1024.1199999999999.
        ("1024.12", 1_024_120_000_000),
    ],
)
def test_money_is_read_from_its_text(written: str, nanos: int) -> None:
    policy = parse(f"version: 1\nlimits: [{{name: a, cost_usd: {written}, window: day}}]")
    assert policy.limits[0].amount == nanos


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("60s", 60),
        ("5m", 300),
        ("1h", 3600),
        ("90d", 7_776_000),
        ("45", 45),
        ('"45"', 45),
        ("1s", 1),
        ("3650d", 315_360_000),
    ],
)
def test_durations(written: str, seconds: int) -> None:
    policy = parse(f"version: 1\nlimits: []\nreservations: {{ended_kept: {written}}}")
    assert policy.reservations.ended_kept_seconds == seconds


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("requests", "9007199254740991"),
        ("requests", "0"),
        ("status", "400"),
        ("status", "499"),
        ("name", "a" * 64),
        ("name", "0"),
    ],
)
def test_the_last_value_that_is_taken(key: str, value: str) -> None:
    written = {"name": "a", "requests": "1", "window": "day"} | {key: value if key != "name" else f'"{value}"'}
    limit = ", ".join(f"{key}: {value}" for key, value in written.items())
    parsed = parse(f"version: 1\nlimits: [{{{limit}}}]").limits[0]
    assert str({"name": parsed.name, "status": parsed.status, "requests": parsed.amount}[key]) == value


def test_a_usage_record_is_kept_a_day_at_least() -> None:
    assert parse("version: 1\nlimits: []\nreservations: {usage_kept: 24h}").reservations.usage_kept_days == 1


def test_free_models_have_no_price_to_go_by() -> None:
    assert parse("version: 1\nlimits: []\nunknown_model: free").unknown_model == UnknownModel(
        UnknownModelAction.FREE, None
    )


def test_there_may_be_no_prices() -> None:
    assert parse("version: 1\nlimits: []\nprices: []").prices == OwnPrices()


def priced(**said: str) -> str:
    written = {"model": "m", "usd_per_million": "{input: 1, output: 2}"} | said
    entry = ", ".join(f"{key}: {value}" for key, value in written.items())
    return f"version: 1\nlimits: []\nprices: [{{{entry}}}]"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {"model": '"M"'}),
        ({}, {"usd_per_million": "{output: 2.000, input: 1e0}"}),
        ({}, {"terms": "{}"}),
        ({"from": "2026-12-01"}, {"from": "2026-12-01T01:00:00+01:00"}),
    ],
)
def test_the_revision_does_not_depend_on_how_a_price_is_written(old: dict[str, str], new: dict[str, str]) -> None:
    assert parse(priced(**old)).revision == parse(priced(**new)).revision


@pytest.mark.parametrize(
    "new",
    [
        {"model": "n"},
        {"usd_per_million": "{input: 1, output: 2.0000000001}"},
        {"usd_per_million": "{input: 1, output: 2, reasoning: 2}"},
        {"usd_per_thousand": "{web_searches: 0}"},
        {"provider": "openai"},
        {"from": "2026-12-01"},
        {"terms": "{service_tier: flex}"},
        {"above": "[{input_tokens: 1, usd_per_million: {input: 1}}]"},
        {"context_tokens": "1"},
    ],
)
def test_the_revision_depends_on_what_a_price_says(new: dict[str, str]) -> None:
    assert parse(priced(**new)).revision != parse(priced()).revision


def test_anchors_and_aliases() -> None:
    policy = parse(
        "version: 1\nlimits:\n"
        "- {name: a, requests: 1, window: &window day, per: &scope [user]}\n"
        "- {name: b, requests: 2, window: *window, per: *scope}\n"
    )
    assert [(limit.window, limit.per) for limit in policy.limits] == [(CalendarWindow(CalendarUnit.DAY), ("user",))] * 2


def test_a_byte_order_mark_and_windows_line_ends() -> None:
    assert parse("\ufeffversion: 1\r\nlimits: []\r\n".encode()).limits == ()


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_mistake(path: Path) -> None:
    content = path.read_bytes()
    assert problems(content) == tuple(expected_messages(content))


def expected_messages(content: bytes) -> Iterator[str]:
    for line in content.split(b"\n"):
        message = line.removeprefix(b"# policyd.yaml:")
        if message == line:
            return
        yield f"policyd.yaml:{message.decode()}"


def test_an_empty_file() -> None:
    assert problems(b"") == ('policyd.yaml:1: the file is empty, expected "version: 1" and "limits: ..."',)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "policyd.yaml"
    path.write_bytes(b"version: 1\nlimits: []\n#".ljust(1024 * 1024 + 1, b"-"))
    with pytest.raises(ConfigError) as caught:
        load_policy(path)
    assert str(caught.value) == f"{path}:1: the file is larger than 1048576 bytes"


def test_a_file_as_large_as_it_may_be() -> None:
    assert parse(b"version: 1\nlimits: []\n#".ljust(1024 * 1024, b"-")).limits == ()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_policy(tmp_path / "policyd.yaml")
    assert str(caught.value) == f"{tmp_path / 'policyd.yaml'}: cannot be read: No such file or directory"


def test_a_directory_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_policy(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"


REVISED = (HERE / "good/sample.yaml").read_text()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version: 1", "# A comment.\nversion: 1"),
        ("cost_usd: 10.00", "cost_usd: 1e1"),
        ("{sliding: 60s}", "{sliding: 1m}"),
        ('{tier: free, model: "gpt-4o*"}', "{model: 'gpt-4o*', tier: free}"),
        ("strict: false ", "#"),
    ],
)
def test_the_revision_does_not_depend_on_how_a_policy_is_written(old: str, new: str) -> None:
    assert old in REVISED
    assert parse(REVISED.replace(old, new)).revision == parse(REVISED).revision


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cost_usd: 10.00", "cost_usd: 10.01"),
        ("cost_usd: 10.00", "tokens: 10000000000"),
        ("window: {sliding: 60s}", "window: minute"),
        ("tier: free", "tier: gratis"),
        ("header: x-policyd-tier", "query: x-policyd-tier"),
        ("strict: false", "strict: true"),
        ("upgrade_url:", "deep_link:"),
    ],
)
def test_the_revision_depends_on_what_a_policy_says(old: str, new: str) -> None:
    assert old in REVISED
    assert parse(REVISED.replace(old, new)).revision != parse(REVISED).revision


def test_the_revision_is_sixteen_hexadecimal_digits() -> None:
    revision = parse(REVISED).revision
    assert len(revision) == 16
    assert int(revision, 16)


FRAGMENTS = rb"""- ~: ~? ~[~{~&a ~*a~!x ~|~>-9~<<: *a~"\U99999999~%YAML 1.~null~yes~1e999~---""".split(b"~")
BYTES = (b"\t", b"\n", b" ", b"\x00", b"\xff", b"\xe2\x80\xa8")


@st.composite
def garbled_files(draw: st.DrawFn) -> bytes:
    content = draw(st.sampled_from(GOOD)).read_bytes()
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        dropped = draw(st.integers(0, 30))
        content = content[:start] + draw(st.sampled_from((*FRAGMENTS, *BYTES))) + content[start + dropped :]
    return content


@settings(max_examples=150)
@given(garbled_files() | st.binary(max_size=60) | st.text(max_size=60))
def test_garbled_files_raise_nothing_but_config_errors(content: str | bytes) -> None:
    assert all(message.startswith("policyd.yaml:") for message in problems_if_any(content))


def problems_if_any(content: str | bytes) -> tuple[str, ...]:
    try:
        parse(content)
    except ConfigError as error:
        return error.problems
    return ()
