"""What certificate files may hold, and the message for each mistake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from policyd.config import TlsFiles
from policyd.core.errors import ConfigError
from policyd.guards.tls import load_certificates
from tests.envoy.certificates import make_certificates


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    made = make_certificates(tmp_path)
    return TlsFiles(made.server, made.server, made.authority)


def test_the_revision_is_of_all_files(files: TlsFiles, tmp_path: Path) -> None:
    first = load_certificates(files)
    assert load_certificates(files).revision == first.revision
    assert load_certificates(replace(files, client_ca=None)).revision != first.revision
    (tmp_path / "other").mkdir()
    other = make_certificates(tmp_path / "other")
    assert load_certificates(replace(files, client_ca=other.authority)).revision != first.revision


def _broken(folder: Path) -> Path:
    file = folder / "broken.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    return file


def _encrypted(folder: Path) -> Path:
    file = folder / "encrypted.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    return file


def test_each_mistake_names_its_flag_and_file(files: TlsFiles, tmp_path: Path) -> None:
    broken, encrypted, nowhere = _broken(tmp_path), _encrypted(tmp_path), tmp_path / "nowhere.pem"
    client = tmp_path / "client.pem"
    for mistaken, words in (
        (replace(files, cert=nowhere), f"--tls-cert: {nowhere}: No such file"),
        (replace(files, key=nowhere), f"--tls-key: {nowhere}: No such file"),
        (replace(files, client_ca=nowhere), f"--tls-client-ca: {nowhere}: No such file"),
        (replace(files, cert=broken), f"--tls-cert: {broken}: found no certificate, expected PEM"),
        (replace(files, client_ca=broken), f"--tls-client-ca: {broken}: found no certificate, expected PEM"),
        (
            replace(files, key=client),
            f"--tls-key: {client}: expected the private key of the certificate in {files.cert}",
        ),
        (replace(files, key=encrypted), f"--tls-key: {encrypted}: expected the private key"),
        (replace(files, key=files.client_ca or broken), "--tls-key: "),
    ):
        with pytest.raises(ConfigError) as raised:
            load_certificates(mistaken)
        assert str(raised.value).startswith(words)
