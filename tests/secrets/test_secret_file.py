"""The secret file: what is in it can be opened by its key alone, as it was sealed, and read by its owner alone."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from policyd.core.errors import ConfigError
from policyd.core.provider_secrets import Name
from policyd.secrets import MasterKey, SecretFile, read_master_key

KEY, OTHER_KEY = MasterKey(b"k" * 32), MasterKey(b"o" * 32)
VALUES: dict[Name, str] = {("openai", None): "sk-everybody", ("openai", "acme"): "sk-acme", ("google", None): "AIza"}


@pytest.fixture
def file(tmp_path: Path) -> SecretFile:
    made = SecretFile(tmp_path / "secrets", KEY)
    made.change(lambda _: VALUES)
    return made


def test_a_projects_own_key_goes_before_the_providers(file: SecretFile) -> None:
    secrets = file.load()
    assert secrets.of("openai", project="acme") == "sk-acme"
    assert secrets.of("openai", project="other") == "sk-everybody"
    assert secrets.of("openai", project=None) == "sk-everybody"
    assert secrets.of("anthropic", project="acme") is None


def test_nothing_of_it_can_be_read(file: SecretFile) -> None:
    content, shown = file.path.read_bytes(), f"{file!r} {file.load()!r}".encode()
    for secret in (*(value.encode() for value in VALUES.values()), KEY.secret):
        for form in (secret, b64encode(secret).rstrip(b"="), secret.hex().encode()):
            assert form not in content + shown


def test_every_seal_has_a_nonce_of_its_own(file: SecretFile) -> None:
    before = file.path.read_text()
    file.change(lambda values: values)
    nonces = [each["nonce"] for text in (before, file.path.read_text()) for each in json.loads(text)["secrets"]]
    assert len(set(nonces)) == 2 * len(VALUES)


def test_another_key_opens_nothing(file: SecretFile) -> None:
    wrong = SecretFile(file.path, OTHER_KEY)
    with pytest.raises(ConfigError, match="the master key is another one"):
        wrong.load()
    # Nor does it add what the right key could not open.
    before = file.path.read_bytes()
    with pytest.raises(ConfigError, match="the master key is another one"):
        wrong.change(lambda values: {**values, ("openai", "mine"): "sk-mine"})
    assert file.path.read_bytes() == before


@pytest.mark.parametrize("change", [{"project": "other"}, {"provider": "anthropic"}, {"nonce": "A" * 16}])
def test_an_entry_that_was_changed_or_moved_is_not_opened(change: dict[str, str], file: SecretFile) -> None:
    document = json.loads(file.path.read_text())
    document["secrets"][0] |= change
    file.path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="the file was changed by hand"):
        file.load()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"version": 1, "secrets": [{}]}', '{"version": 1, "secrets": null}']
)
def test_what_is_no_secret_file(content: str, file: SecretFile) -> None:
    file.path.write_text(content)
    with pytest.raises(ConfigError, match="it is no secret file"):
        file.load()


def test_a_later_version_is_not_guessed_at(file: SecretFile) -> None:
    file.path.write_text('{"version": 2, "secrets": []}')
    with pytest.raises(ConfigError, match="found version 2, expected 1"):
        file.load()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        SecretFile(tmp_path / "none", KEY).load()


def test_it_is_its_owners_alone(file: SecretFile) -> None:
    assert file.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610])
def test_a_file_that_others_can_touch_is_refused(mode: int, file: SecretFile) -> None:
    file.path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*expected mode 0600"):
        file.load()


def test_changes_at_once_are_all_kept(file: SecretFile) -> None:
    def add(number: int) -> None:
        SecretFile(file.path, KEY).change(lambda values: {**values, ("openai", f"project-{number}"): "sk"})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert len(file.load().values) == len(VALUES) + 40
    assert list(file.path.parent.iterdir()) == [file.path]


def test_a_change_that_fails_changes_nothing(file: SecretFile) -> None:
    def fail(values: object) -> dict[Name, str]:
        raise ZeroDivisionError

    before = file.path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        file.change(fail)
    assert file.path.read_bytes() == before


def test_a_symbolic_link_goes_on_leading_to_the_file(file: SecretFile) -> None:
    link = file.path.with_name("link")
    link.symlink_to(file.path)
    SecretFile(link, KEY).change(lambda _: {})
    assert link.is_symlink()
    assert file.load().values == {}


def test_a_new_master_key(file: SecretFile) -> None:
    before = file.load()
    file.seal_anew(OTHER_KEY)
    with pytest.raises(ConfigError):
        file.load()
    after = SecretFile(file.path, OTHER_KEY).load()
    assert after.values == VALUES
    assert after.revision != before.revision


@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
def test_a_master_key_from_a_file(encode: object, tmp_path: Path) -> None:
    assert callable(encode)
    path = tmp_path / "key"
    path.write_bytes(encode(bytes([255] * 32)) + b"\n")
    path.chmod(0o400)
    assert read_master_key(given=None, file=path) == MasterKey(bytes([255] * 32))
    path.chmod(0o440)
    with pytest.raises(ConfigError, match="others can read"):
        read_master_key(given=None, file=path)


@pytest.mark.parametrize("content", ["", "short", "A" * 44, "not base64 at all, and much longer than it is", "\xff"])
def test_a_bad_master_key_is_not_quoted(content: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="expected 32 random bytes in base64") as caught:
        read_master_key(given=None, file=path)
    assert not content or content not in str(caught.value)


def test_there_is_exactly_one_master_key(tmp_path: Path) -> None:
    for given, path in ((None, None), (KEY, tmp_path / "key")):
        with pytest.raises(ConfigError, match="in one"):
            read_master_key(given=given, file=path)
