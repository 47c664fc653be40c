"""`policyd secrets`, as an operator runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SECRET = "sk-canary-of-the-provider"
KEYS = {name: (name * 32).encode().hex()[:42] + "A=" for name in "ab"}
COMMAND_SECONDS_MAX = 30


class Shell:
    """Runs commands with a secret file, and its master key in the environment."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "secrets"
        self.key = KEYS["a"]

    def run(self, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "policyd", "secrets", *arguments],
            env={**os.environ, "POLICYD_SECRETS": str(self.path), "POLICYD_SECRETS_KEY": self.key},
            input=typed,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )

    def says(self, *arguments: str, typed: str = "") -> str:
        ran = self.run(*arguments, typed=typed)
        assert ran.returncode == 0, ran.stderr
        assert SECRET not in ran.stdout + ran.stderr
        return ran.stdout.strip()

    def refuses(self, *arguments: str, typed: str = "") -> str:
        ran = self.run(*arguments, typed=typed)
        assert ran.returncode == 1
        assert not typed.strip() or typed.strip() not in ran.stdout + ran.stderr
        return ran.stderr.strip()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_from_the_first_to_the_last(shell: Shell, tmp_path: Path) -> None:
    assert shell.says("set", "openai", typed=f"{SECRET}\n") == "the key for openai is set"
    assert shell.says("set", "gemini", "--project", "acme", typed=SECRET) == "the key for google, project acme is set"
    assert shell.says("list") == "google, project acme\nopenai"
    new = tmp_path / "new-key"
    new.write_text(KEYS["b"])
    new.chmod(0o600)
    shell.says("rotate-key", "--new-key-file", str(new))
    assert "the master key is another one" in shell.refuses("list")
    shell.key = KEYS["b"]
    assert json.loads(shell.says("list", "--json")) == [
        {"provider": "google", "project": "acme"},
        {"provider": "openai", "project": None},
    ]
    shell.says("delete", "google", "--project", "acme")
    shell.says("delete", "openai")
    assert shell.says("list") == "no keys are set"


def test_a_key_is_never_an_argument(shell: Shell) -> None:
    assert shell.run("set", "openai", SECRET).returncode == 2
    assert not shell.path.exists()


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("", "one line without spaces"),
        ("two words", "one line without spaces"),
        ("two\nlines", "one line without spaces"),
        ("caf\u00e9", "one line without spaces"),
        ("pd_" + "A" * 43, "a key of policyd's own"),
    ],
)
def test_what_is_no_key(typed: str, told: str, shell: Shell) -> None:
    assert told in shell.refuses("set", "openai", typed=typed)
    assert not shell.path.exists()


def test_what_is_not_there_cannot_be_deleted(shell: Shell) -> None:
    shell.says("set", "openai", typed=SECRET)
    assert shell.refuses("delete", "openai", "--project", "acme") == "policyd: there is no key for openai, project acme"


def test_an_unknown_provider_is_pointed_out(shell: Shell) -> None:
    ran = shell.run("set", "opnai", typed=SECRET)
    assert ran.returncode == 0
    assert "policyd does not know opnai" in ran.stderr
    assert 'found "Open AI"' in shell.refuses("set", "Open AI", typed=SECRET)


def test_a_bad_master_key_is_not_shown(shell: Shell) -> None:
    shell.key = "mistyped-master-key"
    told = shell.refuses("list")
    assert "POLICYD_SECRETS_KEY: expected 32 random bytes in base64" in told
    assert shell.key not in told
