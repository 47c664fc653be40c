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
    context: ssl.SSLContext
    """Holds policyd's own certificate, its key, and the authorities of clients."""
    for_grpcio: grpc.ServerCertificateConfiguration
    """The same for grpcio."""


class Tls:
    """How to serve with whichever certificates are `current`."""

    def __init__(self, current: Callable[[], Certificates], *, asks_clients: bool) -> None:
        """`asks_clients`: gRPC clients must show a certificate; HTTP clients may, since probes have none."""
        self._current = current
        self.asks_clients = asks_clients

    def h2_context(self) -> ssl.SSLContext:
        """For gRPC served by h2rpc."""
        return self._context("h2", ssl.CERT_REQUIRED if self.asks_clients else ssl.CERT_NONE)

    def http_context(self) -> ssl.SSLContext:
        """For metrics and health."""
        return self._context("http/1.1", ssl.CERT_OPTIONAL if self.asks_clients else ssl.CERT_NONE)

    def grpcio_credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(
            self._current().for_grpcio,
            lambda: self._current().for_grpcio,
            require_client_authentication=self.asks_clients,
        )

    def _context(self, protocol: str, clients: ssl.VerifyMode) -> ssl.SSLContext:
        """Says how to shake hands; with which certificates, each connection learns when its handshake begins."""

        def hand_over(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = self._current().context

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols([protocol])
        context.verify_mode = clients
        # A resumed session would skip the client's certificate, which may not be good any more.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.sni_callback = hand_over
        return context


def load_certificates(files: TlsFiles) -> Certificates:
    """Raises `ConfigError`, which names the flag and the file."""
    chain = _read("--tls-cert", files.cert)
    key = _read("--tls-key", files.key)
    authorities = _read("--tls-client-ca", files.client_ca) if files.client_ca is not None else None
    own, *_ = _certificates("--tls-cert", files.cert, chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password from us, OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(files.cert, files.key, password="")
    except ssl.SSLError as error:
        raise ConfigError(
            f"--tls-key: {files.key}: expected the private key of the certificate in {files.cert}, not encrypted"
        ) from error
    if files.client_ca is not None and authorities is not None:
        _certificates("--tls-client-ca", files.client_ca, authorities)
        context.load_verify_locations(cadata=authorities.decode("ascii", "replace"))
    return Certificates(
        revision=hashlib.sha256(b"\0".join((chain, key, authorities or b""))).hexdigest(),
        expires_at_seconds=int(own.not_valid_after_utc.timestamp()),
        context=context,
        for_grpcio=grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=authorities),
    )


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
