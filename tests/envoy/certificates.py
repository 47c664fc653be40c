"""Certificates and signed tokens, made for one test."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

CLIENT_URI = "spiffe://mesh.example/team/research"


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files: an authority, and what it has signed for a server and for a client, each with its key."""

    authority: Path
    server: Path
    client: Path


def make_certificates(folder: Path, *, lasting: datetime.timedelta = datetime.timedelta(hours=1)) -> Certificates:
    """A server at 127.0.0.1, and a client with a URI, a DNS name and a subject, `lasting` from now on."""
    authority = Certificates(folder / "ca.pem", folder / "server.pem", folder / "client.pem")
    key = ec.generate_private_key(ec.SECP256R1())
    own = _builder("authority", key, lasting).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    signed = own.issuer_name(_name("authority")).sign(key, SHA256())
    authority.authority.write_bytes(signed.public_bytes(Encoding.PEM))
    names: dict[Path, list[x509.GeneralName]] = {
        authority.server: [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))],
        authority.client: [x509.UniformResourceIdentifier(CLIENT_URI), x509.DNSName("research.mesh.example")],
    }
    for file, alternatives in names.items():
        its_key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(file.stem, its_key, lasting).issuer_name(_name("authority"))
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        private = its_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(builder.sign(key, SHA256()).public_bytes(Encoding.PEM) + private)
    return authority


def _builder(name: str, key: ec.EllipticCurvePrivateKey, lasting: datetime.timedelta) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + lasting)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


class Issuer:
    """Signs JSON Web Tokens with ES256 (RFC 7518)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def jwks(self) -> str:
        """Its key, as Envoy's jwt_authn takes it."""
        numbers = self._key.public_key().public_numbers()
        x, y = (_base64(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        return json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "1", "x": x, "y": y}]})

    def token(self, **claims: Any) -> str:
        head = _base64(json.dumps({"alg": "ES256", "kid": "1", "typ": "JWT"}).encode())
        signed = f"{head}.{_base64(json.dumps({'iss': self.name, **claims}).encode())}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(SHA256())))
        return f"{signed}.{_base64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
