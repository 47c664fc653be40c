"""What the README says can be done is done here: its policies checked, its calls made, its names looked up.

Names are looked up in every page for readers. A new kind of command in a code block fails until it is checked too.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import typer
from google.protobuf import json_format
from typer.core import TyperGroup

from policyd.cli import app
from policyd.config import Settings, parse_policy
from policyd.config.anomalies_section import ANOMALY_KEYS
from policyd.config.conditions import CONDITION_KEYS
from policyd.config.limits_section import LIMIT_KEYS
from policyd.config.policy_file import POLICY_KEYS
from policyd.config.rules_section import RULE_KEYS
from policyd.core.errors import ConfigError
from policyd.core.policy import Action, Metric, Policy
from policyd.core.rules import RuleAction
from policyd.core.windows import CalendarUnit
from policyd.envoy_config import EnvoySettings
from policyd.guards.guards import CERTIFICATE_METRIC
from policyd.price_finding import check_models
from policyd.telemetry import Telemetry
from policyd.v1 import policy_service_pb2 as service
from policyd.v1.policy_service_pb2_grpc import PolicyServiceStub
from policyd.v1.usage_pb2 import OUTCOME_SERVED
from policyd.v1.verdict_pb2 import DECISION_ALLOW
from tests.builders import NOW_MS, published_prices
from tests.e2e.mesh import ANSWER_SECONDS_MAX, ANY_PORT, Policyd, policyd_serve

ROOT = Path(__file__).parents[1]
POLICY_PAGE = "policyd/config/README.md"
CONTROL_PAGE = "policyd/control/README.md"
SECRETS_PAGE = "policyd/secrets/README.md"
PAGES = ("README.md", "CHANGELOG.md", "envoy/README.md", POLICY_PAGE, CONTROL_PAGE, SECRETS_PAGE)

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)#]+)")


def text(page: str = "README.md") -> str:
    return (ROOT / page).read_text("utf-8")


def blocks(language: str, page: str = "README.md") -> list[str]:
    """A page's code blocks in a language."""
    found = [content for name, content in _BLOCK.findall(text(page)) if name == language]
    assert found
    return found


def inline(page: str) -> list[str]:
    """What stands between backticks in a page's prose, each on one line."""
    return [" ".join(code.split()) for code in _INLINE.findall(_BLOCK.sub("", text(page)))]


def shell_commands() -> Iterator[list[str]]:
    """Every command in the pages' shell blocks, as the shell would split it."""
    for block in (*blocks("sh"), *blocks("sh", CONTROL_PAGE), *blocks("sh", SECRETS_PAGE)):
        # A quoted argument may span lines: a line ends where its quotes are closed.
        pending = ""
        for line in block.replace("\\\n", " ").splitlines():
            pending += line + "\n"
            try:
                words = shlex.split(pending, comments=True)
            except ValueError:
                continue
            pending = ""
            if words:
                yield words
        assert not pending


def makes() -> str:
    """What `make help` lists."""
    ran = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    return ran.stdout


def commands(group: TyperGroup, *, within: str = "") -> Iterator[tuple[str, set[str]]]:
    """Every command by its whole name, with its options."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, within=f"{within}{name} ")
        yield within + name, {option for each in command.params for option in (*each.opts, *each.secondary_opts)}


COMMANDS = dict(commands(typer.main.get_group(app)))
"""The options of each command."""


def run_policyd(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "policyd", *arguments], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.fixture(scope="module")
def policyd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policyd]:
    """A server under the README's first policy."""
    policy = tmp_path_factory.mktemp("readme") / "policyd.yaml"
    policy.write_text(blocks("yaml")[0])
    with policyd_serve(grpc=ANY_PORT, store="memory://", policy=policy) as running:
        yield running


# --- commands ---


@pytest.mark.parametrize("words", list(shell_commands()), ids=" ".join)
def test_shell_blocks(words: list[str], policyd: Policyd) -> None:
    match words:
        case ["make", *targets]:
            assert_made(targets)
        case [".venv/bin/policyd" | "policyd", *arguments]:
            assert_command(arguments)
        case ["export", *assignments]:
            for assignment in assignments:
                assert re.fullmatch(r"(OPENAI|ANTHROPIC)_(BASE_URL|API_KEY)=\S+", assignment)
        case ["grpcurl", "-plaintext", "-d", message, address, method]:
            assert address == str(Settings().grpc_address)
            assert_called(policyd, method, message)
        case _:
            pytest.fail(f"nothing is known of {words[0]}: check it here")


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_prose(page: str) -> None:
    for code in inline(page):
        match code.split():
            case ["make", *targets]:
                assert_made(targets)
            case ["policyd", *arguments] if arguments:
                assert_command(arguments)
            case [option, *_] if option.startswith("--"):
                assert any(option in options for options in COMMANDS.values()), code
            case _:
                pass  # no command


def assert_made(targets: list[str]) -> None:
    for target in targets:
        name, is_variable, _ = target.partition("=")
        assert name in ("ARGS", "STEPS", "PYTHON") if is_variable else f"  make {name} " in makes()


def assert_command(arguments: list[str]) -> None:
    command = max((name for name in COMMANDS if arguments[: len(name.split())] == name.split()), key=len, default=None)
    assert command is not None, arguments
    options = {word for word in arguments if word.startswith("--")}
    assert options <= COMMANDS[command], arguments


def assert_called(policyd: Policyd, method: str, message: str) -> None:
    """The call is made, and answered as one would expect of a budget that is whole."""
    service_name, _, name = method.partition("/")
    descriptor = service.DESCRIPTOR.services_by_name[service_name.removeprefix("policyd.v1.")].methods_by_name[name]
    request = json_format.Parse(message, getattr(service, descriptor.input_type.name)())
    with grpc.insecure_channel(policyd.grpc) as channel:
        answer = getattr(PolicyServiceStub(channel), name)(request, timeout=ANSWER_SECONDS_MAX)
    assert answer.verdict.decision == DECISION_ALLOW


# --- policies ---


@pytest.mark.parametrize("policy", blocks("yaml"))
def test_policies_are_good(policy: str, tmp_path: Path) -> None:
    file = tmp_path / "policyd.yaml"
    file.write_text(policy)
    checked = run_policyd("check-config", str(file))
    assert checked.returncode == 0, checked.stderr
    assert ": ok" in checked.stdout


@pytest.mark.parametrize("part", blocks("yaml", POLICY_PAGE))
def test_parts_of_policies_are_good(part: str) -> None:
    limits = "" if re.search(r"^limits:", part, re.MULTILINE) else "limits: []\n"
    policy = parse_policy(f"version: 1\n{part}{limits}", source=POLICY_PAGE)
    check_models(policy, published_prices(), now_ms=NOW_MS)


WORDS = (*POLICY_KEYS, *LIMIT_KEYS, *RULE_KEYS, *CONDITION_KEYS, *ANOMALY_KEYS)


@pytest.mark.parametrize("key", sorted({*WORDS, *Metric, *CalendarUnit, *Action, *RuleAction, "lifetime"}))
def test_the_policy_page_has_every_word(key: str) -> None:
    assert re.search(rf"\b{key}\b", text(POLICY_PAGE))


def defaults() -> list[tuple[str, bool]]:
    """The settings in the README's table, each with whether it is a limit's."""
    found = re.findall(r"^\| `([a-z_]+: [^`]+)`( \(a limit's\))? \|", text(), re.MULTILINE)
    assert found
    return [(setting, bool(of_limit)) for setting, of_limit in found]


@pytest.mark.parametrize(("setting", "of_limit"), defaults())
def test_defaults_are_the_defaults(setting: str, of_limit: bool) -> None:
    assert policy_with(setting, of_limit=of_limit) == policy_with("", of_limit=of_limit)


def policy_with(setting: str, *, of_limit: bool) -> Policy:
    top, within = ("", f", {setting}") if of_limit and setting else (setting, "")
    limit = f"{{name: a, cost_usd: 1, window: day{within}}}"
    return parse_policy(f"version: 1\n{top}\nlimits: [{limit}]\n", source="README.md")


@pytest.mark.parametrize("word", [*Metric, *CalendarUnit, "lifetime"])
def test_everything_that_can_be_limited_is_named(word: str) -> None:
    assert f"`{word}`" in text()


# --- Python ---


@pytest.mark.parametrize("program", blocks("python"))
def test_python_blocks(program: str, policyd: Policyd) -> None:
    assert f'"{Settings().grpc_address}"' in program
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "POLICYD_GRPC": policyd.grpc},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert 'currency_code: "USD"' in ran.stdout
    with grpc.insecure_channel(policyd.grpc) as channel:
        listed = PolicyServiceStub(channel).ListUsage(service.ListUsageRequest(), timeout=ANSWER_SECONDS_MAX)
    (record,) = listed.usage_records
    assert record.outcome == OUTCOME_SERVED
    assert record.actual_cost.nanos > 0


# --- names ---


@pytest.mark.parametrize("page", PAGES)
def test_environment_variables(page: str) -> None:
    for name in set(re.findall(r"\bPOLICYD_[A-Z_]+\b", text(page))):
        assert is_read(name), name


def is_read(variable: str) -> bool:
    """Whether a value of the variable's changes the settings, or is refused."""
    environ = {variable: "?"}
    try:
        settings = Settings.from_environment(environ)
        envoy = EnvoySettings.from_environment(environ, {}, server=settings)
    except ConfigError:
        return True
    return settings != Settings() or envoy != EnvoySettings()


def test_every_flag_of_the_server_has_its_variable() -> None:
    for option in COMMANDS["serve"] - {"--help"}:
        assert is_read(f"POLICYD_{option.removeprefix('--').replace('-', '_').upper()}"), option


@pytest.mark.parametrize("page", PAGES)
def test_files(page: str) -> None:
    folder = (ROOT / page).parent
    for target in _LINK.findall(text(page)):
        assert "://" in target or (folder / target).exists(), target
    for code in inline(page):
        first, slash, _ = code.partition("/")
        if first and slash and " " not in code and (ROOT / first).is_dir():
            assert (ROOT / code).exists(), code


@pytest.mark.parametrize("page", PAGES)
def test_metrics(page: str) -> None:
    telemetry = Telemetry(version="", write_line=lambda _: None)
    families = {family.name for family in telemetry.registry.collect()} | {CERTIFICATE_METRIC}
    for name in set(re.findall(r"\bpolicyd_[a-z_]+\b", text(page))):
        assert re.sub(r"_(total|bucket|count|sum|info)$", "", name) in families, name


def test_pages_that_the_server_serves(policyd: Policyd) -> None:
    pages = [code for code in inline("README.md") if code in ("/metrics", "/healthz", "/readyz")]
    assert pages
    for page in pages:
        status, _ = policyd.get(page)
        assert status == 200, page


@pytest.mark.parametrize("page", PAGES)
def test_addresses_are_the_defaults(page: str) -> None:
    settings, envoy = Settings(), EnvoySettings()
    defaults = (
        settings.grpc_address,
        settings.ext_proc_address,
        settings.http_address,
        envoy.listen_address,
        envoy.admin_address,
    )
    assert set(re.findall(r"127\.0\.0\.1:\d+", text(page))) <= set(map(str, defaults))
