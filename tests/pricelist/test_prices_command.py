"""`policyd prices` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from policyd.cli import app
from policyd.core.errors import PolicydError
from policyd.prices.table import TABLE_PATH


def told(*arguments: str) -> str:
    ran = CliRunner().invoke(app, ["prices", *arguments], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policyd.yaml"
    path.write_text(
        "version: 1\nlimits: []\n"
        "prices: [{provider: openai, model: gpt-4o, usd_per_million: {input: 1.75, output: 7}}]\n"
    )
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The package's own table with another price of gpt-4o."""
    path = tmp_path / "prices.json"
    old = '{"id":"gpt-4o","names":'
    lines = TABLE_PATH.read_text(encoding="utf-8").splitlines()
    (index,) = [index for index, line in enumerate(lines) if line.startswith(old) and '"input":[2500000000,' in line]
    lines[index] = lines[index].replace('"input":[2500000000,', '"input":[2600000000,', 1)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_list(policy: Path) -> None:
    listed = told("list", "--provider", "openai", "--search", "GPT-4o", "--config", str(policy)).splitlines()
    assert listed[0].split() == ["PROVIDER", "MODEL", "INPUT", "CACHED", "OUTPUT", "CONTEXT", "NOTES"]
    assert listed[1].split() == ["openai", "gpt-4o", "1.75", "-", "7.00", "-", "policy"]
    assert any(line.split()[:3] == ["openai", "gpt-4o-mini", "0.15"] for line in listed)


def test_list_in_json() -> None:
    models = json.loads(told("list", "--provider", "openai", "--json"))
    (gpt_4o,) = [model for model in models if model["model"] == "gpt-4o"]
    assert gpt_4o["tiers"][0]["rates"][0] == {"kind": "input", "usd": 2.5, "per": 1_000_000}


def test_show(policy: Path) -> None:
    published = told("show", "gpt-4o", "--at", "2026-05-15")
    assert "\nentry         openai gpt-4o, by the name gpt-4o\n" in published
    assert "\ninput           2.50  a million\n" in published
    assert "\ninput           1.75  a million\n" in told(
        "show", "gpt-4o", "--config", str(policy), "--at", "2026-05-15"
    )


def test_show_in_json(table: Path) -> None:
    arguments = ("--provider", "openai", "--service-tier", "batch", "--at", "2026-11-21T00:00:00Z", "--json")
    explained = json.loads(told("show", "gpt-4o", *arguments))
    assert (explained["terms"], explained["tiers"][0]["rates"][0]["usd"]) == ({"processing": "batch"}, 1.25)
    assert json.loads(told("show", "gpt-4o", "--json", "--prices", str(table)))["tiers"][0]["rates"][0]["usd"] == 2.6


def test_diff(table: Path) -> None:
    lines = told("diff", str(TABLE_PATH), str(table)).splitlines()
    assert lines[0].endswith(": 0 added, 0 removed, 1 changed")
    assert lines[-1].split() == ["openai", "gpt-4o", "input", "2.50", "->", "2.60"]
    (changed,) = json.loads(told("diff", str(TABLE_PATH), str(table), "--json"))["changed"]
    assert changed["changes"] == [{"what": "input", "old": "2.50", "new": "2.60"}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "--provider", "opnai"), '--provider: no prices are known of "opnai"; did you mean "openai"?'),
        (("show", "gpt-4oo"), 'no price is known of the model "gpt-4oo"; did you mean "gpt-4o"?'),
        (
            ("show", "gpt-4o", "--at", "noon"),
            '--at: found "noon", expected a date or an RFC 3339 instant with its offset',
        ),
        (("show", "gpt-4o", "--service-tier", "flexx"), '--service-tier: found "flexx", expected one of '),
        (("list", "--config", "none.yaml"), "none.yaml: cannot be read: No such file or directory"),
        (("list", "--prices", "none.json"), "none.json: cannot be read: No such file or directory"),
        (("diff", str(TABLE_PATH), "none.json"), "none.json: cannot be read: No such file or directory"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(PolicydError) as caught:
        told(*arguments)
    assert str(caught.value).startswith(message)


def test_a_mistake_is_a_message() -> None:
    command = [sys.executable, "-m", "policyd", "prices", "show", "gpt-4oo"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == 'policyd: no price is known of the model "gpt-4oo"; did you mean "gpt-4o"?\n'
