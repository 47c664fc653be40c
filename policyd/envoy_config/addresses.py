"""Addresses as Envoy takes them."""

from ipaddress import ip_address

from policyd.config import Address, HostPort, UnixSocket, parse_host_port
from policyd.core.errors import ConfigError
from policyd.envoy_config.typed import Json


def parse_listening(text: str, *, origin: str) -> HostPort:
    """Where Envoy listens: on an IP address, or on localhost. Raises `ConfigError`, which names `origin`."""
    mistake = ConfigError(f'{origin}: found "{text}", expected IP:PORT such as 127.0.0.1:10000 or [::1]:10000')
    try:
        address = parse_host_port(text)
    except ValueError as error:
        raise mistake from error
    if address.host == "localhost":
        return HostPort("127.0.0.1", address.port)
    if not is_ip(address.host):
        raise mistake
    return address


def on_this_machine(address: Address) -> Address:
    """What to connect to, from the same machine, where `address` may stand for all interfaces."""
    if isinstance(address, UnixSocket):
        return address
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (replaced, not bound)
    return HostPort(loopback.get(address.host, address.host), address.port)


def socket_address(address: HostPort) -> Json:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
