"""TLS for what policyd serves: certificates from files, which may be replaced while it runs.

Every new connection gets what is in force then, so a renewed certificate or another authority needs no restart; a
connection that is open keeps what it began with.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509

from policyd.config import TlsFiles
from policyd.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Certificates:
    """What the files said when they were read."""

    revision: str
    expires_at_seconds: int
    """When policyd's own certificate ends, in seconds since the epoch."""
    for_h2: ssl.SSLContext
    """For gRPC: a client must show a certificate, where there are authorities to check it by."""
    for_http: ssl.SSLContext
    """For metrics and health: a client may show one. Probes have none."""
    for_grpcio: grpc.ServerCertificateConfiguration


class Tls:
    """How to serve with whichever certificates are `current`."""

    def __init__(self, current: Callable[[], Certificates], *, asks_clients: bool) -> None:
        """`asks_clients`: whether there are authorities to check clients by."""
        self._current = current
        self.asks_clients = asks_clients

    def h2_context(self) -> ssl.SSLContext:
        return _handing_over(lambda: self._current().for_h2)

    def http_context(self) -> ssl.SSLContext:
        return _handing_over(lambda: self._current().for_http)

    def grpcio_credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(
            self._current().for_grpcio,
            lambda: self._current().for_grpcio,
            require_client_authentication=self.asks_clients,
        )


def load_certificates(files: TlsFiles) -> Certificates:
    """Raises `ConfigError`, which names the flag and the file."""
    chain = _read("--tls-cert", files.cert)
    key = _read("--tls-key", files.key)
    own, *_ = _certificates("--tls-cert", files.cert, chain)
    authorities = None
    if files.client_ca is not None:
        authorities = _read("--tls-client-ca", files.client_ca)
        _certificates("--tls-client-ca", files.client_ca, authorities)
    for_h2 = _context("h2", ssl.CERT_REQUIRED if authorities else ssl.CERT_NONE)
    for_http = _context("http/1.1", ssl.CERT_OPTIONAL if authorities else ssl.CERT_NONE)
    for context in (for_h2, for_http):
        try:
            # Without a password from us, OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(files.cert, files.key, password="")
        except ssl.SSLError as error:
            raise ConfigError(
                f"--tls-key: {files.key}: expected the private key of the certificate in {files.cert}, not encrypted"
            ) from error
        if authorities is not None:
            context.load_verify_locations(cadata=authorities.decode("ascii", "replace"))
    return Certificates(
        revision=hashlib.sha256(b"\0".join((chain, key, authorities or b""))).hexdigest(),
        expires_at_seconds=int(own.not_valid_after_utc.timestamp()),
        for_h2=for_h2,
        for_http=for_http,
        for_grpcio=grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=authorities),
    )


def _handing_over(current: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """A context that leaves each connection to the one that is in force when its handshake begins.

    It decides itself what is settled before that: which versions there are, and what is asked of clients.
    """

    def hand_over(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = current()

    context = _context(None, current().verify_mode)
    context.sni_callback = hand_over
    return context


def _context(protocol: str | None, clients: ssl.VerifyMode) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = clients
    if protocol is not None:
        context.set_alpn_protocols([protocol])
    # A resumed session would skip the client's certificate, which may not be good any more.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def _read(flag: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{flag}: {path}: {error.strerror}") from error


def _certificates(flag: str, path: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise ConfigError(f"{flag}: {path}: found no certificate, expected PEM") from error
