"""Users with few rights, passwords, and TLS; none of them is ever shown."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from policyd.core.errors import ConfigError, StoreUnavailable
from policyd.core.ledger import Balance
from policyd.stores import redis as documentation
from policyd.stores.base import Granted, UsageFilter
from policyd.stores.url import open_store
from tests.stores.building import NOW_MS, entry, record
from tests.stores.redis_calls import EXPIRED_MS, balance, opened, reserve, settle, sweep
from tests.stores.redis_server import RedisServer, running
from tests.stores.tap import Tap

SECRET = "p@ss/w:ord"
IN_URL = "p%40ss%2Fw%3Aord"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running(tmp_path_factory.mktemp("redis")) as server:
        (rule,) = [line for line in (documentation.__doc__ or "").splitlines() if "ACL SETUSER" in line]
        server.command(*rule.replace("PASSWORD", SECRET).split())
        yield server


class TestUser:
    async def test_with_the_documented_rights_can_do_everything(self, server: RedisServer) -> None:
        async with opened(f"redis://policyd:{IN_URL}@{server.address}/0") as store:
            assert isinstance(await reserve(store, "r1", entry(10)), Granted)
            await store.extend("r1", unit_amounts={}, wanted_units=1, at_least_units=1, now_ms=NOW_MS)
            await store.renew(["r1"], expires_at_ms=EXPIRED_MS + 1)
            await settle(store, "r1", 5)
            await store.append(record("r2"))
            assert len((await store.usage(UsageFilter(), limit=9)).records) == 2
            assert len((await store.accounts(page=9)).rows) == 1
            await store.set_state([], now_ms=NOW_MS)
            await store.state()
            await store.begin_window("w", now_ms=NOW_MS, length_ms=1)
            await store.repeated("s", "d", now_ms=NOW_MS, forget_after_ms=1)
            await store.count({"a": 1}, now_ms=NOW_MS, keep_until_ms=NOW_MS + 1)
            await store.counters("", now_ms=NOW_MS)
            await sweep(store)
            await store.ping()
            assert await balance(store) == Balance(5, 0)

    @pytest.mark.parametrize("login", ["policyd:wrong-secret", "nobody:wrong-secret"])
    async def test_that_redis_does_not_know_is_said_without_the_password(
        self, server: RedisServer, login: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            async with opened(f"redis://{login}@{server.address}/0") as store:
                with pytest.raises(StoreUnavailable, match="WRONGPASS") as raised:
                    await store.ping()
        assert "wrong-secret" not in f"{raised.value}{caplog.text}"
        assert server.address in str(raised.value)

    async def test_without_rights_to_the_keys_has_no_effect(self, server: RedisServer) -> None:
        async with opened(f"redis://policyd:{IN_URL}@{server.address}/0?prefix=other:") as store:
            with pytest.raises(StoreUnavailable, match="NOPERM"):
                await reserve(store, "r1")


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for the loopback that signs itself: as a file to trust, and as a server's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_file = folder / "key.pem"
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key_file)
    return file, context


class TestTls:
    async def test_with_the_authority_named(self, server: RedisServer, tmp_path: Path) -> None:
        file, context = certificate(tmp_path)
        tap = Tap(server.port)
        async with tap.listening(tls=context) as port:
            url = f"rediss://policyd:{IN_URL}@localhost:{port}/0?tls_ca={file}&connect_timeout=5s"
            async with opened(url) as store:
                assert isinstance(await reserve(store, "tls"), Granted)
        assert tap.reads

    async def test_a_certificate_that_nobody_vouches_for_is_refused(self, server: RedisServer, tmp_path: Path) -> None:
        _, context = certificate(tmp_path)
        tap = Tap(server.port)
        login = f"rediss://policyd:{IN_URL}@localhost"
        async with tap.listening(tls=context) as port, opened(f"{login}:{port}/0?connect_timeout=5s") as store:
            with pytest.raises(StoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                await store.ping()
        assert not tap.reads

    def test_an_authority_that_cannot_be_read_is_a_mistake(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="tls_ca"):
            open_store(f"rediss://localhost/0?tls_ca={tmp_path / 'missing.pem'}")
