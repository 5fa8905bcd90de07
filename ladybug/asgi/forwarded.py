"""X-Forwarded-For and X-Forwarded-Proto from trusted proxies, with uvicorn's meaning.

A proxy appends the address it heard from, so the list is read from its end: the first address that is not itself a
trusted proxy is the client. A value that is no address stops the search there; nothing to its left can be believed. It
is the client all the same, some proxies name clients otherwise; but what could not stand in a log is percent-encoded.
"""

import ipaddress
import re
from typing import Any, Final, final
from urllib.parse import quote_from_bytes

from mypy_extensions import mypyc_attr

MOST_REMEMBERED: Final = 4096
LONGEST_ADDRESS: Final = 45  # an IPv4-mapped IPv6 address, written out
LONGEST_NAME: Final = 255
# Addresses (IPv6 with its zone), names, and the identifiers that RFC 7239 section 6 has in their place.
NAME: Final = re.compile(r"[0-9A-Za-z.:_%\-]{1,255}")


@mypyc_attr(native_class=True)
@final
class Trust:
    """Which peers are trusted proxies.

    Args:
        hosts: addresses, networks (CIDR) and literals such as unix peers' "", separated by commas; "*" trusts everybody.
    """

    def __init__(self, hosts: str) -> None:
        self.everybody = False
        self.literals: set[str] = set()
        self.networks: list[Any] = []
        self.remembered: dict[str, bool] = {}
        for host in hosts.split(","):
            self._add(host.strip())

    def _add(self, host: str) -> None:
        if host == "*":
            self.everybody = True
        elif host:
            try:
                self.networks.append(ipaddress.ip_network(host))
            except ValueError:
                self.literals.add(host)

    def trusts(self, host: str) -> bool:
        if self.everybody:
            return True
        known = self.remembered.get(host)
        if known is None:
            known = self._decide(host)
            if len(self.remembered) < MOST_REMEMBERED and len(host) <= LONGEST_ADDRESS:
                self.remembered[host] = known
        return known

    def _decide(self, host: str) -> bool:
        if host in self.literals:
            return True
        try:
            address: Any = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self.networks)

    def apply(self, scope: dict[str, Any]) -> None:
        """Set scope["scheme"] and scope["client"] from the request's fields, if its peer is trusted."""
        client = scope["client"]
        peer: str = client[0] if client is not None else ""
        # A unix socket's peer has no address; whoever can open it is on this machine, and "*" speaks of everybody.
        if not self.trusts(peer):
            return
        forwarded: list[str] = []
        for name, value in scope["headers"]:
            if name == b"x-forwarded-proto":
                proto: str = value.decode("latin-1").strip()
                # Some proxies name the scheme of a WebSocket by its own name.
                if proto == "https" or proto == "wss":
                    scope["scheme"] = "https"
                elif proto == "http" or proto == "ws":
                    scope["scheme"] = "http"
            elif name == b"x-forwarded-for":
                text: str = value.decode("latin-1")
                # RFC 9110 section 5.6.1.2: "A recipient MUST parse and ignore a reasonable number of empty list elements"
                forwarded += [part.strip() for part in text.split(",") if part.strip()]
        host, port = split_port(self._client(forwarded))
        if host:
            scope["client"] = (host if NAME.fullmatch(host) else encoded(host), port)

    def _client(self, forwarded: list[str]) -> str:
        if self.everybody:
            return forwarded[0] if forwarded else ""
        for host in reversed(forwarded):
            if not self.trusts(split_port(host)[0]):
                return host
        return forwarded[0] if forwarded else ""


def split_port(host: str) -> tuple[str, int]:
    """ "1.2.3.4:567", "[::1]:567" and bare addresses as (address, port); port 0 where there is none."""
    if host.startswith("["):
        end = host.find("]")
        if end > 0:
            port = host[end + 2 :] if host[end + 1 : end + 2] == ":" else ""
            return host[1:end], to_port(port)
    if host.count(":") == 1:
        address, _, port = host.partition(":")
        return address, to_port(port)
    return host, 0


def to_port(text: str) -> int:
    port = int(text) if len(text) <= 5 and text.isascii() and text.isdecimal() else 0
    return port if port <= 65535 else 0


def encoded(name: str) -> str:
    """A client's name as it may stand in a log: its first 255 octets, percent-encoded where they are no letters."""
    return quote_from_bytes(name.encode("latin-1")[:LONGEST_NAME], safe=":")
